/* Part of nn.h: training, and progress of long work. */
#ifndef COSTATE_TRAIN_H
#define COSTATE_TRAIN_H
#include "files.h"
#include "optimizers.h"
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- data ------------------------------------------------------------------------------------ */

/* Writes the rows of n examples, one after the other, to out, of the array's dtype. Calls come one
 * at a time, but with options.worker from another thread than the caller's. Non-zero ends the
 * training with the text that it wrote to error. */
typedef int (*nn_fetch)(void *source, int64_t n, const int64_t *examples, void *out, char *error,
                        size_t error_size);

/* One input of the loss beside theta. Kinds, by shape and by where the numbers come from:
 *   [AD_ROWS, ...], data      examples x row: each batch gets the rows of its examples
 *   [AD_ROWS, ...], fetched   the same from a file or whatever else can be asked for rows
 *   [AD_ROWS, ...], drawn     by options.draw for each batch: fresh points, noise beside data,
 * whole batches of the caller's own
 *   [...], data               the same in every batch: times, knots, constants
 *   [...], drawn              set by options.draw for each batch: annealed weights, the step itself
 * Data are finite, borrowed, of either dtype (converted where theta has the other one). */
typedef struct {
    ad_shape shape;
    ad_dtype dtype;   /* of data, and of what is fetched */
    const void *data; /* NULL: fetched, or drawn */
    nn_fetch fetch;   /* NULL: there are data, or it is drawn */
    void *source;     /* goes to fetch */
} nn_array;
nn_array nn_array_data(ad_shape shape, ad_dtype dtype, const void *data);
nn_array nn_array_fetched(ad_shape shape, ad_dtype dtype, nn_fetch fetch, void *source);
nn_array nn_array_drawn(ad_shape shape);
nn_array nn_array_mapped(nn_mapped *mapped); /* fetched from a file of files.h; borrowed */
/* nn_array_of(shape, data): nn_array_data with the dtype that the pointer has, as ad_input. A
 * pointer to anything but float or double does not compile. */
#define nn_array_of(shape, ...) nn_array_data(shape, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)

typedef enum { NN_TRAINING, NN_VALIDATION, NN_TEST } nn_part;

/* How the examples are divided into the three parts. Zero: all of them are for training. */
typedef struct {
    double validation, test;   /* shares of the examples, which options.seed chooses */
    const unsigned char *part; /* [examples] instead of shares: the nn_part of each; borrowed */
} nn_split;

/* What a draw is for. */
typedef struct {
    nn_part part;
    int stage; /* from 0 */
    /* this step, from 1, of how many; of a validation: the batch, from 1, of how many */
    int64_t step, steps;
    int64_t rows; /* of this batch */
    /* [rows] which examples (from 0) they are; NULL when no array has rows of data */
    const int64_t *examples;
    /* of this step alone: made from seed and step, so that a step can be drawn again; every
     * validation draws the same */
    ad_rng *rng;
} nn_step;

/* ---- what is trained ------------------------------------------------------------------------- */

/* Records the loss (a scalar) of a batch: theta [size], batch[i] the i-th array: its rows of this
 * batch, or its values of this step. It is recorded once and then replayed, so whatever it reads
 * from C variables stays as it was: what changes from step to step comes in as an array. (It is
 * called again after the first and after the last update to see whether it would record something
 * else now, which is an error.) */
typedef ad_var (*nn_loss)(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);

/* A part of the training with a loss of its own, which goes on with theta and the optimiser's
 * moments: a longer horizon, another weight. What is zero is as in the options. */
typedef struct {
    int64_t steps; /* required */
    nn_loss loss;
    void *user;             /* of loss */
    int narray;             /* of arrays, which have as many examples as those of the options */
    const nn_array *arrays; /* NULL: those of the options */
    int64_t batch;
} nn_stage;

/* ---- validation ------------------------------------------------------------------------------ */

/* How a metric is made of what nn_validation.record gives for the batches of a part:
 *   NN_MEAN    a scalar, the mean over the rows of the batch: the mean over all rows
 *   NN_ROOT    the square root of that: the RMSE, of mean squares
 *   NN_RATIO   [2], sums over the batch: the first ones' sum over the second ones', as of errors
 * and of observed values where some are missing NN_AUC     [rows,2], scores and labels, 0 or 1: the
 * area under the ROC curve, which is the chance that a row of label 1 has the larger score, ties
 * counting half (Mann & Whitney 1947, doi:10.1214/aoms/1177730491) */
typedef enum { NN_MEAN, NN_ROOT, NN_RATIO, NN_AUC } nn_metric_kind;
typedef struct {
    const char *name; /* "accuracy"; not "step", "epoch", "loss", "validation" or "seconds" */
    nn_metric_kind kind;
    bool larger; /* is better; of NN_AUC it always is */
} nn_metric;
enum { NN_MAX_METRICS = 16 };

/* Zero: where the split has a validation part, its loss is looked at once an epoch, or, where
 * epochs are short, a hundred times in all; the weights with the smallest are kept, and are theta
 * in the end. */
typedef struct {
    int64_t every; /* steps */
    int64_t rows;  /* of a validation, where all rows are drawn and there are no examples */
    int64_t batch; /* rows of a run; default: options.batch */
    /* NULL: as the stage's. Another user is how a loss gets other tolerances than in training. */
    nn_loss loss;
    void *user; /* of loss and record */
    int nmetric;
    const nn_metric *metrics;
    /* Records the metrics of a batch: out[i] of metrics[i]. It gets what the loss gets. */
    void (*record)(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out, void *user);
    /* The name of the metric that says which weights are best; NULL: the loss. */
    const char *watch;
    double min_delta; /* an improvement is more than that */
    int64_t patience; /* > 0: the training ends after so many validations without an improvement */
    bool keep_last;   /* theta is not replaced by the best weights in the end */
} nn_validation;

typedef struct {
    double loss;
    double metrics[NN_MAX_METRICS];
} nn_scores;

/* ---- options --------------------------------------------------------------------------------- */

/* A file from which a training goes on to the bit as if it had not been ended: theta, the
 * optimiser's state, averages, best weights, and how far it has come. It is a safetensors file
 * (theta.NAME and so on), written whole or not at all. Where it is there already when the training
 * begins, the training goes on from it; the options have to be the same, or an error says what
 * differs. */
typedef struct {
    const char *path; /* NULL: none */
    /* steps from one to the next; default: a hundredth of them. One more is written in the end, and
     * where on_step stops the training. */
    int64_t every;
    int keep;   /* how many there are: path, and older ones in path.1 up to path.(keep - 1) */
    bool fresh; /* begin anew, and overwrite the file that is there */
} nn_checkpoint;

/* Numbers of the training for people and plotting, a line at a time: step, epoch, loss (the mean
 * since the line before), validation and metrics where there has been one, seconds. A name that
 * ends with .jsonl has JSON objects, any other comma-separated values. A training that goes on from
 * a checkpoint goes on behind the line that the file ended with then. */
typedef struct {
    const char *path; /* NULL: none */
    int64_t every;    /* steps; default: a thousandth of them; and after each validation */
} nn_log;

typedef struct {
    nn_loss loss; /* required, unless all stages have their own */
    void *user;   /* goes to loss, draw and on_step */
    int narray;
    const nn_array *arrays;
    int64_t examples; /* rows of the arrays' data */
    nn_split split;
    /* Fills out[i] for every array without data, in double, whatever theta's dtype: rows x row
     * size, or all elements of an array without rows. out[i] is NULL for the others. Called before
     * every step; with options.worker while the step before it runs, from another thread. Non-zero
     * ends the training with an error. */
    int (*draw)(const nn_step *step, double *const *out, void *user);
    bool worker; /* a thread prepares the next batch while a step runs; the results are the same */
    /* rows per update; default, and where it is larger: all examples. Without replacement,
     * reshuffled every epoch; the last batch of an epoch may be smaller. Required where rows are
     * drawn and there are no examples */
    int64_t batch;
    /* rows of a run, where the batch takes too much memory at once: the gradients of its parts are
     * averaged, weighted by their rows, as it is right for a loss that is a mean over rows. 0: all
     */
    int64_t micro_batch;
    int64_t steps; /* updates to make (required, unless there are stages) */
    int nstage;
    const nn_stage *stages; /* one after the other */
    nn_optimizer_options optimizer;
    uint64_t seed; /* of the split, the shuffling and of draws */
    int threads;   /* 0: one for each processor; the result is the same for any number */
    /* 0 < average < 1: an exponential moving average of theta with this decay (at step k at most
     * (k + 1) / (k + 10)) is what is validated, and what theta is in the end. */
    double average;
    /* How many batches may be left out because their loss or gradient is not finite. 0: the first
     * of them is an error. */
    int64_t skip;
    /* Every process of the group trains with the same options: it computes the gradient of its
     * share of each batch's rows, and all take the same step with the mean, as it is right for a
     * loss that is a mean over rows. Rank 0 alone writes checkpoints and the log, and shows
     * progress; all go on from a checkpoint, so each must be able to read it. Borrowed; NULL: this
     * process alone. */
    nn_processes *processes;
    nn_validation validation;
    nn_checkpoint checkpoint;
    nn_log log;
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
    int64_t steps; /* made, with those of skipped batches */
    double first_loss, last_loss, seconds;
    int64_t resumed;    /* after which step the checkpoint was written; 0: none was gone on from */
    int64_t skipped;    /* batches */
    bool stopped_early; /* patience was at an end */
    int64_t validations;
    nn_scores validation;    /* the latest */
    int64_t best_step;       /* 0: no validation, or none with a finite value */
    nn_scores best;          /* the validation after best_step */
    nn_scores test;          /* of nn_train: of the final theta, where the split has a test part */
    int64_t gradient_checks; /* how often the gradient was compared with the one of halved steps */
    double gradient_difference; /* the largest relative difference found */
    /* "", or that they differ by more than a tenth, or that a solve doubts its gradient, which
     * elsewhere is an error (options.costate_drift), and what to do (once; also printed when there
     * is a label) */
    char warning[720];
} nn_train_report;

/* ---- training -------------------------------------------------------------------------------- */

/* Compiles loss and gradient once for each stage, then makes all steps, which update theta in
 * place; a step allocates nothing (the first two of a stage and what follows the last apart).
 * report may be NULL. 0, also when on_step stopped it (report->steps says when); -1 with the
 * message in error: then theta is as after the last good update. Class labels of nn_cross_entropy
 * that come from data are checked before the first update, for all examples. A loss that is not
 * finite, and a run that fails, are named with their step, with the example that does it alone,
 * and, where theta or the loss have run away, with how. */
int nn_train(nn_theta *theta, const nn_train_options *options, nn_train_report *report, char *error,
             size_t error_size);

/* The same in single steps. */
typedef struct nn_trainer nn_trainer;
/* theta is borrowed and trained in place. options is copied; what it points to is borrowed. NULL
 * when memory is short; options that make no sense are the trainer's error. */
nn_trainer *nn_trainer_new(nn_theta *theta, const nn_train_options *options);
void nn_trainer_free(nn_trainer *trainer); /* NULL is allowed */
/* First error, or NULL. Sticky: every step then fails. */
const char *nn_trainer_error(const nn_trainer *trainer);
/* One step, with validation and what else is due after it. 1: done; 0: the training was at its end,
 * and theta is the average or the best weights where there are such; -1: the trainer has an error.
 */
int nn_trainer_step(nn_trainer *trainer);
/* What has been done so far; the trainer's. NULL for NULL. */
const nn_train_report *nn_trainer_report(const nn_trainer *trainer);
/* Loss and metrics of a part with theta as it is now. 0, or -1 with the trainer's error. */
int nn_trainer_evaluate(nn_trainer *trainer, nn_part part, nn_scores *scores);

/* ---- progress -------------------------------------------------------------------------------- */

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
