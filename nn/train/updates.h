/* Internal to nn/: the loops of optimisers over elements, built once per instruction set
 * (nn/meson.build), of which one is chosen at run time. All builds give the same bits: nothing is
 * reordered or fused. */
#ifndef COSTATE_NN_UPDATES_H
#define COSTATE_NN_UPDATES_H
#include "nn/base/support.h"

typedef enum {
#define OPTIMIZER(name, ...) NN_ALGORITHM_##name,
#include "nn/train/optimizers.def"
#undef OPTIMIZER
    NN_ALGORITHMS
} nn_algorithm;

/* What is the same for all elements of one stretch in one update. */
typedef struct {
    double rate, momentum, beta1, beta2, epsilon, decay;
    double rest1, rest2;            /* 1 - beta1, 1 - beta2 */
    double scale, limit;            /* of the gradient, by clipping: a factor, the largest size */
    double correct1, root_correct2; /* 1 - beta1^t, sqrt(1 - beta2^t) */
    double rectify;                 /* radam: the variance's factor; 0: not yet to be relied on */
    bool nesterov;
} nn_update;

/* Arrays of the dtype, all of so many elements. first and second: the state's, zero at first. */
typedef struct {
    int64_t n;
    void *theta;
    const void *gradient;
    void *first, *second;
} nn_elements;

/* Those of one dtype. */
typedef struct {
    /* Sum of squares, in double; 32 partial sums, added in a fixed order. */
    double (*squares)(int64_t n, const void *x);
    /* Whether all numbers, and all factors, are of a moderate size: no update with such factors
     * takes such numbers out of the range, and moments stay moderate. */
    bool (*moderate)(int64_t n, const void *theta, const void *gradient);
    bool (*moderate_moments)(int64_t n, const void *first, const void *second);
    bool (*moderate_factors)(const nn_update *u);
    /* Updates all elements. Those of `update` are moderate; others, of any size, are for `extreme`.
     * Whether all numbers are finite afterwards. */
    bool (*update[NN_ALGORITHMS])(const nn_update *u, const nn_elements *e);
    bool (*extreme[NN_ALGORITHMS])(const nn_update *u, const nn_elements *e);
} nn_loops;

/* Those of the instruction set in use. */
const nn_loops *nn_loops_chosen(ad_dtype dtype);

extern const nn_loops nn_loops_generic[];
#ifdef __x86_64__
extern const nn_loops nn_loops_v2[], nn_loops_v3[], nn_loops_v4[];
#endif

#endif
