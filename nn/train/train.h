/* Internal to training.
 *   arrays.c     what arrays must be; the parts that examples are divided into
 *   batches.c    feeds: from arrays and draws to the inputs of a run
 *   worker.c     a thread that fills batches ahead
 *   recording.c  the loss and the metrics: recorded, compiled, checked, and compared later on
 *   gradient.c   the gradient of a batch, in pieces where that is asked for; states
 *   trust.c      the gradient beside the one with halved steps of its solves
 *   validate.c   loss and metrics of a part; the best weights; when to stop
 *   checkpoint.c files to go on from
 *   log.c        lines of numbers
 *   failure.c    what is said when a step fails
 *   parallel.c   other processes that train the same model
 *   train.c      stages and steps
 * The batch of a step is a function of the options and of the step's number: nothing else of it has
 * to be kept when a training is taken up again. */
#ifndef COSTATE_NN_TRAIN_H
#define COSTATE_NN_TRAIN_H
#include "nn/model/states.h"
#include "nn/train/optimizer.h"

/* The examples of a part, and how they become batches. */
typedef struct {
    const nn_train_options *options;
    ad_dtype dtype; /* of theta */
    nn_part part;
    int stage;
    int64_t first;   /* steps before its stage */
    int64_t planned; /* what draws are told of as the number of steps */
    int narray;
    const nn_array *arrays;
    int64_t count;           /* examples; 0: no array has rows of data */
    const int64_t *examples; /* [count] their numbers, ascending; NULL: 0 .. count - 1 */
    int64_t rows;            /* of an epoch: examples, or rows that are drawn; 0: there are none */
    int64_t batch;           /* rows of a full batch */
    bool plain;              /* all examples in order, what is drawn or fetched left out */
    int64_t *order;          /* [count] of the present epoch */
    int64_t epoch;           /* -1: none yet */
    /* [narray] where all batches have the same numbers: those, in theta's dtype; else NULL */
    const void **same;
    void **owned; /* [narray] those of them that are copies */
} nn_feed;

/* The inputs of one step. */
typedef struct {
    int64_t step; /* 0: not filled */
    int64_t rows;
    const void **inputs;     /* [1 + narray] of a run: theta, arrays */
    void **buffer;           /* [narray] of theta's dtype; NULL where all batches have the same */
    void **fetched;          /* [narray] what is fetched in the other dtype */
    double **drawn;          /* [narray] what draw fills; NULL for the others */
    const int64_t *examples; /* [rows] */
    int64_t *kept;           /* [batch] those, where a worker may reorder the feed meanwhile */
    char error[600];
} nn_batch;

typedef struct nn_worker nn_worker;

/* A program with memory to run it. */
typedef struct {
    ad_program *program;
    ad_workspace *workspace;
} nn_runner;

/* Loss and metrics of a part. */
typedef struct {
    nn_feed feed;
    nn_batch batch;
    nn_runner runner;
    void *outputs[1 + NN_MAX_METRICS];
    double (*pairs[NN_MAX_METRICS])[2]; /* [rows] scores and labels, of those with an area */
} nn_evaluation;

struct nn_trainer {
    char error[1200];
    nn_theta *theta;          /* the caller's */
    nn_train_options options; /* a copy */
    nn_stage *stages;         /* at least one; what was zero is filled in */
    int nstage;
    int stage;     /* the present one */
    int64_t first; /* steps before it */
    int64_t steps; /* of all stages */
    int64_t step;  /* made */
    bool over;     /* theta is what it is in the end */
    bool stopped;  /* by on_step, or early */

    int64_t examples; /* rows of data; 0 where no array has rows of data */
    int64_t count[3]; /* examples of each part */
    int64_t *parts; /* [examples] the numbers of each, one part after the other; NULL: all train */

    nn_feed feed;
    nn_batch batches[2];
    nn_batch *batch; /* the present one */
    nn_worker *worker;
    int64_t asked;       /* for which step of the stage the worker was asked last */
    const void **single; /* [1 + narray] inputs of some of its rows */

    nn_runner runner; /* loss and gradient */
    /* Fixed arrays that a step changes: the gradient, which is zero there, brings their new values
     * along, through pieces and processes. */
    int64_t nstate;
    nn_state *states; /* offsets and sizes are of use */
    nn_theta *aside;  /* their values, while gradients are compared */
    void *key;        /* of the loss as a function of its inputs */
    size_t key_length;
    nn_reduction *reduction; /* NULL: no other processes */
    bool met;                /* the other processes have been told how this one begins */
    nn_optimizer_state *state;
    nn_progress *progress;
    nn_theta *gradient;
    nn_theta *piece;   /* gradient of a part of the batch; NULL: it is not divided */
    nn_theta *refined; /* with halved steps of the solves; NULL: there are none, or nobody asks */
    double loss;       /* of the latest run */
    double start_size; /* the largest |theta| at first */

    nn_theta *average, *best; /* NULL: not asked for */
    nn_evaluation validation; /* of the present stage, where there is one */
    int64_t waiting;          /* validations since the best */
    FILE *log;
    int64_t log_size; /* bytes of it */
    double loss_sum;  /* since its latest line, of so many steps */
    int64_t loss_count;
    nn_train_report report;
};

#define FAIL(t, ...) nn_error((t)->error, sizeof(t)->error, "nn_train: " __VA_ARGS__)

/* ---- arrays.c ---- */

/* Elements of one row, or of all of an array without rows; -1 for a shape that is none. */
int64_t nn_row_size(ad_shape shape);
bool nn_array_is_drawn(const nn_array *array);
/* Checks the arrays of a stage, and that they agree with those of the first. */
int nn_arrays_check(nn_trainer *t, const nn_stage *stage);
/* Rows of a full batch of so many examples. */
int64_t nn_batch_rows(int64_t asked, int64_t examples);
/* Divides the examples. */
int nn_parts_new(nn_trainer *t);
/* The examples of a part, as a feed takes them. */
const int64_t *nn_part_examples(const nn_trainer *t, nn_part part);

/* ---- batches.c ---- */

/* A feed of a part for a stage, with so many rows in a batch; plain: to look at the data alone. */
int nn_feed_open(nn_trainer *t, nn_feed *feed, const nn_stage *stage, nn_part part, int64_t batch,
                 bool plain);
void nn_feed_close(nn_feed *feed);
int64_t nn_feed_batches(const nn_feed *feed); /* of an epoch */
/* The pieces of a batch are allocated; theta is its first input. */
int nn_batch_open(nn_trainer *t, nn_batch *batch, const nn_feed *feed, const nn_theta *theta);
void nn_batch_close(nn_batch *batch, int narray);
/* Fills the batch of a step of the feed's stage, counted from 1. -1 with batch->error. Uses nothing
 * but the feed and the batch: from any thread. */
int nn_batch_fill(nn_feed *feed, nn_batch *batch, int64_t step);
/* The inputs of the batch's rows from one on, in out [1 + narray]. */
const void *const *nn_batch_from(const nn_feed *feed, const nn_batch *batch, int64_t row,
                                 const void **out);

/* ---- worker.c ---- */

nn_worker *nn_worker_new(nn_feed *feed); /* NULL when there can be none */
void nn_worker_free(nn_worker *worker);
/* Has a batch filled; the one asked for before must have been waited for. */
void nn_worker_ask(nn_worker *worker, nn_batch *batch, int64_t step);
/* Waits for it; 0, or -1 with batch->error. */
int nn_worker_wait(nn_worker *worker);

/* ---- recording.c ---- */

int nn_runner_new(nn_trainer *t, ad_program *program, nn_runner *runner);
void nn_runner_free(nn_runner *runner);
/* Compiles the present stage's loss and gradient. */
int nn_loss_compile(nn_trainer *t);
/* Whether the loss still records what was compiled, by keys and, where these differ, by a run on
 * the present inputs. -1 with an error that says what to do when it does not. */
int nn_loss_compare(nn_trainer *t);
/* Compiles loss and metrics for validation. */
int nn_metrics_compile(nn_trainer *t, nn_runner *runner);

/* ---- gradient.c ---- */

/* Whether this process writes files and shows progress. */
bool nn_leads(const nn_trainer *t);
/* The rows of the present batch that are this process's. */
int64_t nn_own_rows(const nn_trainer *t);
/* Loss and gradient of them; refine: with the steps of solves divided into 2^refine. -1: the run
 * failed, and the workspace has the error. */
int nn_gradient(nn_trainer *t, int refine, double *loss, nn_theta *gradient);
/* The name of a state whose new value is not finite, or NULL. */
const char *nn_bad_state(const nn_trainer *t);
/* The states' values, and they alone, from one theta to another. */
void nn_states_copy(const nn_trainer *t, const nn_theta *from, nn_theta *to);
/* Zeros in their places. */
void nn_states_clear(const nn_trainer *t, nn_theta *theta);

/* ---- parallel.c ---- */

/* nn_processes_agree; fault: why this process cannot take part, or NULL. */
int nn_processes_meet(nn_processes *processes, nn_theta *theta, const char *fault, char *error,
                      size_t error_size);

/* ---- trust.c ---- */

int nn_trust_new(nn_trainer *t);
/* Where this step is to be checked: the refined gradient on the present inputs, before the usual
 * one. Whether there is one to compare. */
bool nn_trust_refine(nn_trainer *t, int64_t step);
/* The usual gradient beside it; warns. */
void nn_trust_compare(nn_trainer *t, int64_t step);
/* A line of text among those of the progress. */
void nn_progress_line(nn_progress *progress, const char *text);

/* ---- validate.c ---- */

bool nn_validates(const nn_trainer *t);
int nn_validation_check(nn_trainer *t);
int nn_evaluation_open(nn_trainer *t, nn_evaluation *e, nn_part part);
void nn_evaluation_close(nn_evaluation *e);
/* Loss and metrics with such weights. */
int nn_evaluation_run(nn_trainer *t, nn_evaluation *e, const nn_theta *theta, nn_scores *scores);
bool nn_validation_is_due(const nn_trainer *t);
/* Validates, keeps the best weights, and stops where patience is at an end. */
int nn_validate(nn_trainer *t);
/* The area under the ROC curve of pairs of scores and labels, which it sorts; NaN where all labels
 * are the same. */
double nn_auc(int64_t n, double (*pairs)[2]);

/* ---- checkpoint.c ---- */

/* Goes on from the file, if it is there. */
int nn_checkpoint_resume(nn_trainer *t);
bool nn_checkpoint_is_due(const nn_trainer *t);
int nn_checkpoint_write(nn_trainer *t);

/* ---- log.c ---- */

int nn_log_open(nn_trainer *t);
/* Writes a line where one is due. */
int nn_log_step(nn_trainer *t, bool validated);
void nn_log_close(nn_trainer *t);

/* ---- warning.c ---- */

/* The report's warning, if it has none yet, also where progress is shown. */
void nn_warn(nn_trainer *t, int64_t step, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* ---- failure.c ---- */

double nn_largest(const nn_theta *theta); /* size of an element */
/* The error of a step that failed, always -1. */
int nn_step_failed(nn_trainer *t, const char *why);
int nn_update_failed(nn_trainer *t);

#endif
