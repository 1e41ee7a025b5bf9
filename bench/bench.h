/* What the parts of bench_cases share: measuring beside samples of the machine's peak, the problems
 * and their exact answers. */
#ifndef BENCH_H
#define BENCH_H
#include "costate.h"
#include <stdbool.h>

typedef struct {
    int dtype;        /* AD_F32, AD_F64, or -1: each case in the one it is judged in */
    int threads;      /* >= 1 */
    int repeats;      /* samples of which the median is taken */
    double tolerance; /* > 0: instead of the cases' own */
    bool json, answers;
} bench_options;

/* One result. What is zero does not apply. */
typedef struct {
    const char *name, *note; /* note: more, in words, or NULL */
    ad_dtype dtype;
    int threads;
    double ms, first_ms; /* the median; the first in this process where that differs in kind */
    /* the arithmetic floor at that peak, shared out evenly to the threads; the largest ratio
     * allowed */
    double peak, floor_ms, must;
    double over_field,
        must_over_field;       /* trace: time over that of the field alone, and what is allowed */
    double limit_ms;           /* the longest time allowed */
    int64_t evaluations, vjps; /* of the field, done */
    int64_t floor_evaluations, floor_vjps; /* and those of the floor */
    double error,
        bound; /* against the exact answer, and how much of it is right; bound 0: not compared */
} bench_line;
void bench_print(const bench_options *options, const bench_line *line);

/* ---- measuring (measure.c) ---- */

/* FMA rate of one thread in GFLOP/s, from a burst of about 0.3 ms. */
double bench_peak_sample(ad_dtype dtype);
double bench_now(void); /* seconds */
/* From now on bench_now counts the processor's time of all threads. */
void bench_use_processor_time(void);
typedef struct {
    void (*run)(void *user);
    void *user;
    double ms; /* the result: the median */
    long runs; /* in one sample, so that it lasts 2 ms or more */
} bench_job;
/* Takes `repeats` samples of each job in turn, each after a sample of the peak, the best of which
 * is *peak. false when memory is short. */
bool bench_measure(int repeats, ad_dtype dtype, int njob, bench_job *jobs, double *peak);
/* The floor: multiplications and additions at the peak, hyperbolic tangents at a fixed number of
 * clock cycles. In ms. */
double bench_floor(double flops, double tanhs, ad_dtype dtype, double peak);
/* ns a normally distributed number in single precision, by a plain loop at full vector width; the
 * best of samples that take 0.5 ms together (normals.c). */
double bench_normal_sample(void);

/* ---- problems (problems.c) ---- */

enum { BENCH_MAX_LAYERS = 5 };
/* A network y = tanh(.. tanh(x W0 + b0) ..) Wn + bn with given weights, as one flat theta. */
typedef struct {
    nn_model *model;
    nn_mlp mlp;
    int64_t size; /* of theta */
    nn_theta *numbers;
    void *theta; /* those of numbers, of dtype */
    ad_dtype dtype;
    bool cube; /* of y^3 instead of y */
} bench_network;
/* W_l[i][j] = scale sin(1.7 i + 0.9 j + 0.37 i j + l), scale 0: 1/sqrt(fan in); biases 0. false
 * when memory is short. */
bool bench_network_make(bench_network *network, int nsize, const int64_t *sizes, double scale,
                        ad_dtype dtype);
void bench_network_free(bench_network *network);
/* The network as a vector field; user is the network, args[0] its theta. */
ad_var bench_field(ad_var t, ad_var y, const ad_var *args, void *user);
/* Multiplications and additions, and hyperbolic tangents, of one evaluation for one row. */
double bench_field_flops(const bench_network *network);
double bench_field_tanhs(const bench_network *network);
/* Norms of the gradients of W0, b0, W1, b1, ... in gradient [size]; returns how many. */
int bench_norms(const bench_network *network, const void *gradient, double *norms);

void *bench_alloc(int64_t n, ad_dtype dtype); /* zeros, aligned to 64 bytes */
double bench_get(const void *data, ad_dtype dtype, int64_t i);
void bench_put(void *data, ad_dtype dtype, int64_t i, double value);
/* x[b][i] = sin(0.37 b + 1.3 i) */
void *bench_inputs(int64_t rows, int64_t d, ad_dtype dtype);
/* Starts [20,2] and targets [20,10,2] of case a. */
bool bench_spiral(ad_dtype dtype, void *start, void *target);

/* ---- the cases ---- */

/* Each runs what of its group is wanted, by group, by name, or by the name up to a dot; false after
 * an error, which it explains. */
bool bench_wanted(const char *wanted, const char *group, const char *name);
bool bench_solves(const bench_options *options, const char *wanted, int *count);
bool bench_traces(const bench_options *options, const char *wanted, int *count);
bool bench_programs(const bench_options *options, const char *wanted, int *count);
bool bench_stochastic(const bench_options *options, const char *wanted, int *count);
bool bench_layers(const bench_options *options, const char *wanted, int *count);
bool bench_small(const bench_options *options, const char *wanted, int *count);
bool bench_wide(const bench_options *options, const char *wanted, int *count);
bool bench_paths(const bench_options *options, const char *wanted, int *count);
bool bench_failed(const char *name, const char *message); /* prints it and returns false */
#endif
