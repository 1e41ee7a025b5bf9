/* Internal to nn/: optimisers, in these files.
 *   optimizers.def     the table of algorithms
 *   optimizers.c       the same as constants
 *   updates.c          loops over elements; updates_loops.h: what one update does to one
 *   muon.c             the algorithm that updates whole matrices
 *   optimizer_state.c  options, groups of parameter arrays, memory, arrays for checkpoints
 *   optimizer_step.c   an update: norm, clipping, schedule, the algorithm on each stretch
 *   schedules.c        factors on the rate
 * A stretch is a part of theta whose parameter arrays are treated alike. */
#ifndef COSTATE_NN_OPTIMIZER_H
#define COSTATE_NN_OPTIMIZER_H
#include "nn/model/model.h"
#include "nn/train/updates.h"

typedef struct nn_matrix nn_matrix; /* muon's programs */

typedef struct {
    int64_t start, stop;
    double rate;             /* factor */
    double decay;            /* weight decay */
    const nn_matrix *matrix; /* updated as one matrix; NULL: element by element */
} nn_stretch;

/* A piece of a stretch, for one thread at a time. */
typedef struct {
    const nn_stretch *stretch;
    int64_t start, stop;
    double squares; /* of its gradient, where these are needed */
    bool moments;   /* they are of a moderate size */
    bool moderate;  /* so are theta and the gradient, in this update */
    bool fine;      /* all of it is finite after the update */
} nn_piece;

struct nn_optimizer {
    const char *name;
    nn_algorithm number;
    double rate, momentum, beta1, beta2, epsilon, decay; /* defaults */
    bool takes_momentum, takes_betas, takes_epsilon;
    bool matrices; /* arrays of rank 2 and more are updated as matrices, by muon.c */
};

/* What a state has come to, beside its arrays: whole numbers and finite numbers only. */
typedef struct {
    double taken; /* updates */
    /* plateau: values so far, the best, how many since then, the factor on the rate less 1 */
    double metrics, best, waiting, lowered;
} nn_progress_made;

struct nn_optimizer_state {
    nn_optimizer_options options; /* defaults filled in; groups are in the stretches */
    const nn_model *model;        /* to be compared with only */
    ad_dtype dtype;
    int64_t size, steps;
    nn_progress_made made;
    int64_t nstretch, nmatrix;
    nn_stretch *stretches; /* without those that are frozen */
    int64_t npiece;
    nn_piece *pieces; /* of all stretches */
    const nn_loops *loops;
    nn_matrix **matrices; /* one a shape */
    void *first, *second; /* [size] of dtype */
    void *saved;          /* [size] of dtype: theta before an update that may overflow */
    bool unusable;
    char error[400];
};

/* ---- for training ---------------------------------------------------------------------------- */

const nn_optimizer *nn_optimizer_algorithm(const nn_optimizer_state *state);

/* All that a state has come to, as arrays with names, for checkpoints. They are the state's own
 * memory. A checkpoint writes them as they are; to go on from one, make a state with the same
 * options and model, fill its arrays, and have them checked. */
typedef struct {
    const char *name; /* "first", "second", "made" */
    ad_dtype dtype;
    int64_t size;
    void *data;
} nn_state_array;
enum { NN_STATE_ARRAYS = 3 };
/* A state without an error. */
void nn_optimizer_arrays(nn_optimizer_state *state, nn_state_array arrays[NN_STATE_ARRAYS]);
/* Whether what was filled in can be a state's: 0, or -1 with the message, and the state is of no
 * more use. */
int nn_optimizer_restored(nn_optimizer_state *state, char *error, size_t error_size);

/* ---- between the files ----------------------------------------------------------------------- */

/* The factor on the rate of the next update; NaN or negative where the user's schedule is wrong. */
double nn_optimizer_factor(const nn_optimizer_state *state);

/* Updates of all matrices [rows,columns] of a dtype; NULL with the message in error. */
nn_matrix *nn_matrix_new(ad_dtype dtype, int64_t rows, int64_t columns, char *error, size_t size);
void nn_matrix_free(nn_matrix *matrix);
bool nn_matrix_fits(const nn_matrix *matrix, int64_t rows, int64_t columns);
/* The update of one, at theta and gradient, whose momentum is kept in first; whether it is finite.
 */
bool nn_matrix_update(const nn_matrix *matrix, const nn_update *u, void *theta,
                      const void *gradient, void *first);

#endif
