/* Part of nn.h: optimisers of a theta. */
#ifndef COSTATE_OPTIMIZERS_H
#define COSTATE_OPTIMIZERS_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_optimizer nn_optimizer; /* an algorithm, constant */
/* In PyTorch's forms, with its defaults except where options say otherwise.
 *   sgd      momentum, Nesterov
 *   adam     Kingma & Ba 2015 (arXiv:1412.6980), with bias correction
 *   adamw    decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)
 *   radam    Liu et al. 2020 (arXiv:1908.03265): no adaptive rate before its variance is finite
 *   adamax   Kingma & Ba 2015, section 7.1: the largest gradient in the place of the mean square
 *   rmsprop  Tieleman & Hinton 2012, not centred, epsilon outside the root
 *   lion     Chen et al. 2023 (arXiv:2302.06675): the sign of a momentum; decoupled decay. Rates
 *            are three to ten times smaller than Adam's
 *   muon     Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): parameter arrays of
 *            rank 2 and more (their last axis against all others) move along orthogonalised
 *            momenta, of Nesterov's kind; all others by adamw. The length of steps is matched to
 *            Adam's, so rates are Adam's (Liu et al. 2025, arXiv:2502.16982) */
extern const nn_optimizer nn_sgd, nn_adam, nn_adamw, nn_radam, nn_adamax, nn_rmsprop, nn_lion,
    nn_muon;
const char *nn_optimizer_name(const nn_optimizer *optimizer); /* "adam" */

/* Which parameter arrays weight decay acts on. nn_decay_matrices, the default: those of rank 2 and
 * more, the weights of layers; biases, scales, learnt initial states and other vectors are left
 * alone, as training recipes in the literature do. nn_decay_all: every array, as PyTorch does
 * without parameter groups. An own function gets each array's name once, in nn_optimizer_new. */
bool nn_decay_matrices(const char *name, ad_shape shape, void *user);
bool nn_decay_all(const char *name, ad_shape shape, void *user);

/* Parameter arrays that are treated in another way than the rest, by their names. An array belongs
 * to the first group whose pattern it matches; a group without an array is an error. */
typedef struct {
    const char *pattern; /* as the shell's for files: "encoder.*", "*.bias", "layer[0-3].weight" */
    double rate;         /* factor on the rate; 0: 1 */
    double weight_decay; /* > 0: theirs, whatever options.decays says */
    bool no_decay;       /* none, whatever options.decays says */
    bool frozen;         /* they stay as they are, and the norm of gradients leaves them out */
} nn_group;

/* The rate falls by a factor where a metric has stopped getting smaller (nn_optimizer_metric). */
typedef struct {
    double factor;    /* in (0,1), for example 0.1; 0: the rate does not fall */
    int64_t patience; /* metrics in a row without progress that are put up with; 0: 10 */
    double threshold; /* progress is a metric smaller than the best by this part of it; 0: 1e-4 */
    double least;     /* the product of the factors stays above it */
} nn_plateau;

/* Zero means the default; to switch something off that has another default, give a tiny number. */
typedef struct {
    const nn_optimizer *algorithm; /* default nn_adam */
    double rate;                   /* learning rate; default 1e-3; adamax 2e-3, lion 1e-4 */
    double momentum;               /* sgd, rmsprop; default 0; muon 0.95 */
    bool nesterov;                 /* sgd with momentum */
    /* 0.9, 0.999, 1e-8; rmsprop: beta2 = alpha 0.99, epsilon 1e-8; lion: 0.9, 0.99, no epsilon */
    double beta1, beta2, epsilon;
    /* adamw, lion, muon: theta *= 1 - rate decay, default 0.01, 0, 0.1; others: decay theta is
     * added to the gradient, default 0 */
    double weight_decay;
    bool (*decays)(const char *name, ad_shape shape, void *user); /* default nn_decay_matrices */
    int ngroup;
    const nn_group *groups; /* used by nn_optimizer_new only */
    double clip_norm;       /* > 0: gradients are scaled down to this global 2-norm */
    double clip_value;      /* > 0: elements of gradients are cut off at this size */
    /* The rate rises from rate / warmup to rate in as many updates; the schedule begins after
     * them, and steps count from there. */
    int64_t warmup;
    /* Factor on the rate at step k of n (0 <= k < n), e.g. nn_schedule_cosine; NULL: constant.
     * After n steps, that of the last. A factor that is negative or not finite is an error of the
     * step. */
    double (*schedule)(int64_t step, int64_t steps, void *user);
    nn_plateau plateau; /* beside the schedule, if any */
    void *user;         /* goes to schedule and decays; borrowed as long as the state lives */
    /* of an update: 0: one for each processor (in a training, as many as that has); the result is
     * the same for any number */
    int threads;
} nn_optimizer_options;

/* ---- schedules ------------------------------------------------------------------------------- */

double nn_schedule_cosine(int64_t step, int64_t steps,
                          void *user); /* 1 down to 0 along half a cosine */
double nn_schedule_exponential(int64_t step, int64_t steps, void *user); /* 1 down to 0.01 */
/* Times `factor` after every so many updates. user: NULL for the defaults, or this. */
typedef struct {
    int64_t every; /* 0: a third of the steps */
    double factor; /* 0: 0.1 */
} nn_steps_schedule;
double nn_schedule_step(int64_t step, int64_t steps, void *user);
/* Up to 1 and down again along half cosines (Smith & Topin 2017, arXiv:1708.07120; as PyTorch's
 * OneCycleLR without cycled momentum): options.rate is the highest. user: NULL for the defaults, or
 * this. */
typedef struct {
    double rise;       /* part of the steps that it takes up; 0: 0.3 */
    double start, end; /* the first factor, 0: 1/25; the last, 0: start / 10000 */
} nn_one_cycle_schedule;
double nn_schedule_one_cycle(int64_t step, int64_t steps, void *user);

/* ---- updates --------------------------------------------------------------------------------- */

/* The state of an optimiser over one theta: moments, number of updates. Arithmetic is of
 * theta's dtype, and of double where numbers are so large, or epsilon is so small, that squares
 * leave its range. Norms are in double. One thread at a time. */
typedef struct nn_optimizer_state nn_optimizer_state;
/* options may be NULL. theta (or another of the same model and dtype) is what will be updated; it
 * is not kept. steps: how many updates are planned, for the schedule. NULL when memory is short;
 * options that make no sense, or a theta with an error, are the state's error, and every step then
 * fails. */
nn_optimizer_state *nn_optimizer_new(const nn_optimizer_options *options, const nn_theta *theta,
                                     int64_t steps);
void nn_optimizer_free(nn_optimizer_state *state);
/* One update of theta in place; allocates nothing. gradient is laid out as theta (nn_theta_new with
 * rng NULL makes one). 0; -1 with nn_optimizer_error set: theta or gradient are not of the state's
 * model and dtype, or the gradient is not finite (theta and the state are untouched, and another
 * gradient may be tried), or the update would overflow (theta is untouched; the state is of no more
 * use). */
int nn_optimizer_step(nn_optimizer_state *state, nn_theta *theta, const nn_theta *gradient);
int64_t nn_optimizer_steps(const nn_optimizer_state *state); /* updates made so far */
/* The rate of the next update, without groups' factors; NaN for a state with an error. */
double nn_optimizer_rate(const nn_optimizer_state *state);
/* Tells options.plateau a metric that should get smaller: a validation loss, once an epoch. 0; -1
 * with nn_optimizer_error set: there is no plateau in the options, or the value is not finite. */
int nn_optimizer_metric(nn_optimizer_state *state, double value);
const char *nn_optimizer_error(
    const nn_optimizer_state *state); /* of the last step, or of the options; NULL: none */

#ifdef __cplusplus
}
#endif
#endif
