/* Part of nn.h: training, and progress of long work. */
#ifndef COSTATE_TRAIN_H
#define COSTATE_TRAIN_H
#include "optimizers.h"
#ifdef __cplusplus
extern "C" {
#endif

/* One input of the loss beside theta. Four kinds, by shape and data:
 *   [AD_ROWS, ...], data      examples x row: each batch gets the rows of its examples
 *   [...], data               the same in every batch: times, knots, constants that may change
 * between runs [AD_ROWS, ...], no data   drawn for each batch by options.draw: fresh points, noise
 * beside data
 *   [...], no data            set for each step by options.draw: annealed weights, the step itself
 * Data are finite, borrowed, of either dtype (converted where theta has the other one). */
typedef struct {
    ad_shape shape;
    ad_dtype dtype;   /* of data */
    const void *data; /* NULL: drawn */
} nn_array;
nn_array nn_array_data(ad_shape shape, ad_dtype dtype, const void *data);
nn_array nn_array_drawn(ad_shape shape); /* without data: options.draw fills it */
/* nn_array_of(shape, data): nn_array_data with the dtype that the pointer has, as ad_input. A
 * pointer to anything but float or double does not compile. */
#define nn_array_of(shape, ...) nn_array_data(shape, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)

/* Records the loss (a scalar) of a batch: theta [size], batch[i] the i-th array: its rows of this
 * batch, or its values of this step. It is recorded once and then replayed, so whatever it reads
 * from C variables stays as it was: what changes from step to step comes in as an array. (It is
 * called again after the first and after the last update to see whether it would record something
 * else now, which is an error.) */
typedef ad_var (*nn_loss)(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);

/* What a draw is for. */
typedef struct {
    /* this update, from 1, of how many; those that options.state has made before count */
    int64_t step, steps;
    int64_t rows; /* of this batch */
    const int64_t *
        examples; /* [rows] which examples (from 0) they are; NULL when no array has rows of data */
    ad_rng
        *rng; /* of this step alone: made from seed and step, so that a step can be drawn again */
} nn_step;

typedef struct {
    nn_loss loss; /* required */
    void *user;   /* goes to loss, draw and on_step */
    int narray;
    const nn_array *arrays;
    int64_t examples; /* rows of the arrays' data */
    /* Fills out[i] for every array without data, in double, whatever theta's dtype: rows x row
     * size, or all elements of an array without rows. out[i] is NULL for the others. Called before
     * every step. Non-zero ends the training with an error. */
    int (*draw)(const nn_step *step, double *const *out, void *user);
    /* rows per update; default, and where it is larger: all examples. Without replacement,
     * reshuffled every epoch; the last batch of an epoch may be smaller. Required where rows are
     * drawn and there are no examples */
    int64_t batch;
    int64_t steps; /* updates to make (required) */
    nn_optimizer_options optimizer;
    /* Made by nn_optimizer_new for a theta like this one: moments, schedule, shuffling and draws go
     * on from the updates it has made, here and in later calls, so that 500 updates and 500 more
     * are the same as 1000. It brings its options; `optimizer` must be left zero. NULL: a fresh one
     */
    nn_optimizer_state *state;
    uint64_t seed;     /* of the shuffling and of draws */
    int threads;       /* 0: one for each processor; the result is the same for any number */
    const char *label; /* progress: "training"; NULL: no output */
    /* A loss with solves in it: when its gradient is compared with the one of halved steps
     * (ad_check_gradient). 0: at updates 1, 500, 1000, 2000, 4000 and so on, which takes at most 1
     * % of the time from 500 updates on; n > 0: at the first and every n-th; -1: never. The results
     * are the same. */
    int64_t check_gradient;
    /* Called after every update (step counts from 1) with the loss before it and theta, which it
     * may change; non-zero stops the training. */
    int (*on_step)(int64_t step, double loss, nn_theta *theta, void *user);
} nn_train_options;

typedef struct {
    int64_t steps;
    double first_loss, last_loss, seconds;
    int64_t gradient_checks; /* how often the gradient was compared with the one of halved steps */
    double gradient_difference; /* the largest relative difference found */
    /* "", or that they differ by more than a tenth, and what to do (once; also printed when there
     * is a label) */
    char warning[720];
} nn_train_report;

/* Compiles loss and gradient once, then makes options->steps updates of theta in place; a step
 * allocates nothing (the first two and what follows the last apart). report may be NULL. 0, also
 * when on_step stopped it (report->steps says when); -1 with the message in error: then theta is as
 * after the last good update. Class labels of nn_cross_entropy that come from data are checked
 * before the first update, for all examples. A loss that is not finite, and a run that fails, are
 * named with their step, with the example that does it alone, and, where theta or the loss have run
 * away, with how. */
int nn_train(nn_theta *theta, const nn_train_options *options, nn_train_report *report, char *error,
             size_t error_size);

/* Progress of long work on stderr: a bar with rate and time left on a terminal, a line for every
 * tenth elsewhere. nn_progress_new may return NULL (memory), which the others allow. format NULL:
 * nothing added. The label is copied. */
typedef struct nn_progress nn_progress;
nn_progress *nn_progress_new(const char *label, int64_t total);
void nn_progress_update(nn_progress *progress, int64_t done, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;
void nn_progress_free(nn_progress *progress);

#ifdef __cplusplus
}
#endif
#endif
