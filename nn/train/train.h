/* Internal to training: one training, in four files.
 *   batches.c    arrays: what they must be; batches and draws into the inputs of a run
 *   recording.c  the loss: recorded, compiled, checked, and compared with itself later on
 *   trust.c      the gradient beside the one with halved steps of its solves
 *   train.c      steps, and what is said when one fails */
#ifndef COSTATE_NN_TRAIN_H
#define COSTATE_NN_TRAIN_H
#include "nn/model/model.h"
#include "nn/train/optimizer.h"

typedef struct {
    nn_theta *theta;
    const nn_train_options *options;
    int64_t batch;    /* rows of a full one */
    int64_t examples; /* rows of data; 0 where no array has rows of data */
    char *error;
    size_t error_size;

    ad_program *program;     /* loss and gradient */
    ad_workspace *workspace; /* of it */
    void *key;               /* of the loss as a function of its inputs */
    size_t key_length;
    nn_optimizer_state *state, *own_state;
    int64_t updates,
        planned; /* of the state, before this training; at its end, or as many as it was made for */
    nn_progress *progress;
    nn_theta *gradient;
    double loss; /* of the latest run */
    /* the gradient with halved steps of the solves; NULL: there are none, or nobody asks */
    nn_theta *refined;
    nn_train_report *report;
    /* Extremes, for what is said when training fails. */
    double first_loss, last_loss, start_size; /* start_size: the largest |theta| at first */

    const void **inputs;  /* [1 + narray] of a run: theta, arrays */
    const void **single;  /* [1 + narray] the same for one row */
    void **buffer;        /* [narray] of theta's dtype; NULL where the data are used as they are */
    double **drawn;       /* [narray] what draw fills; NULL for arrays with data */
    int64_t *order;       /* [examples] this epoch's */
    int64_t next, rows;   /* where the next batch begins in order; rows of the present one */
    ad_rng rng, draw_rng; /* of shuffling; of the generators that draws get */
} trainer;

#define FAIL(t, ...) nn_error((t)->error, (t)->error_size, "nn_train: " __VA_ARGS__)

/* ---- batches.c ---- */

/* Checks the arrays and finds the sizes of batches. */
int nn_arrays_check(trainer *t);
int nn_batches_new(trainer *t);
void nn_batches_free(trainer *t);
/* Puts so many examples from a place of the order on into the inputs. */
void nn_batch_load(trainer *t, int64_t place, int64_t rows);
/* The next batch and its draws into the inputs. */
int nn_batch_next(trainer *t, int64_t step);
/* The example that is row r of the present batch; -1 where there are no examples. */
int64_t nn_batch_example(const trainer *t, int64_t row);
/* The inputs of row r of the present batch alone. */
const void *const *nn_batch_row(trainer *t, int64_t row);

/* ---- recording.c ---- */

int nn_loss_compile(trainer *t);
/* Whether the loss still records what was compiled, by keys and, where these differ, by a run on
 * the present inputs. -1 with an error that says what to do when it does not. */
int nn_loss_compare(trainer *t, int64_t step);
/* Runs loss and gradient on the present inputs. */
int nn_loss_run(trainer *t);

/* ---- trust.c ---- */

int nn_trust_new(trainer *t);
/* Where this step is to be checked: the refined gradient on the present inputs, before the usual
 * one. Whether there is one to compare. */
bool nn_trust_refine(trainer *t, int64_t step);
/* The usual gradient beside it; warns. */
void nn_trust_compare(trainer *t, int64_t step);
/* A line of text among those of the progress. */
void nn_progress_line(nn_progress *progress, const char *text);

#endif
