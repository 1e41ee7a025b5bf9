/* Part of nn.h: optimisers of a theta. */
#ifndef COSTATE_OPTIMIZERS_H
#define COSTATE_OPTIMIZERS_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_optimizer nn_optimizer; /* an algorithm, constant */
/* In PyTorch's forms. sgd: momentum, Nesterov. adam: Kingma & Ba 2015 (arXiv:1412.6980), with bias
 * correction. adamw: decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101). rmsprop:
 * Tieleman & Hinton 2012, not centred, epsilon outside the root. */
extern const nn_optimizer nn_sgd, nn_adam, nn_adamw, nn_rmsprop;
const char *nn_optimizer_name(const nn_optimizer *optimizer); /* "adam" */

/* Which parameter arrays weight decay acts on. nn_decay_matrices, the default: those of rank 2 and
 * more, the weights of layers; biases, scales, learnt initial states and other vectors are left
 * alone, as training recipes in the literature do. nn_decay_all: every array, as PyTorch does
 * without parameter groups. An own function gets each array's name once, in nn_optimizer_new. */
bool nn_decay_matrices(const char *name, ad_shape shape, void *user);
bool nn_decay_all(const char *name, ad_shape shape, void *user);

/* Zero means the default; to switch something off that has another default, give a tiny number. */
typedef struct {
    const nn_optimizer *algorithm; /* default nn_adam */
    double rate;                   /* learning rate; default 1e-3 */
    double momentum;               /* sgd, rmsprop; default 0 */
    bool nesterov;                 /* sgd with momentum */
    double beta1, beta2,
        epsilon; /* adam, adamw: 0.9, 0.999, 1e-8; rmsprop: beta2 = alpha 0.99, epsilon 1e-8 */
    /* adamw: theta *= 1 - rate decay, default 0.01; others: decay theta is added to the gradient,
     * default 0 */
    double weight_decay;
    bool (*decays)(const char *name, ad_shape shape, void *user); /* default nn_decay_matrices */
    double clip_norm; /* > 0: gradients are scaled down to this global 2-norm */
    /* Factor on the rate at step k of n (0 <= k < n), e.g. nn_schedule_cosine; NULL: constant.
     * After n steps, that of the last. A factor that is negative or not finite is an error of the
     * step. */
    double (*schedule)(int64_t step, int64_t steps, void *user);
    void *user; /* goes to schedule and decays */
} nn_optimizer_options;
double nn_schedule_cosine(int64_t step, int64_t steps,
                          void *user); /* 1 down to 0 along half a cosine */
double nn_schedule_exponential(int64_t step, int64_t steps, void *user); /* 1 down to 0.01 */

/* The state of an optimiser over one theta: moments, number of updates. Arithmetic is in double,
 * whatever the dtype. One thread at a time. */
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
const char *nn_optimizer_error(
    const nn_optimizer_state *state); /* of the last step, or of the options; NULL: none */

#ifdef __cplusplus
}
#endif
#endif
