/* Part of nn.h: fits of few parameters to all of the data at once, by methods of second order. */
#ifndef COSTATE_FIT_H
#define COSTATE_FIT_H
#include "train.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Why a fit has ended. The first three are what one hopes for. */
typedef enum {
    NN_FIT_GRADIENT,   /* the gradient is small */
    NN_FIT_LOSS,       /* the loss hardly falls any more */
    NN_FIT_STEP,       /* theta hardly moves any more */
    NN_FIT_ITERATIONS, /* as many iterations as were asked for */
    NN_FIT_STUCK,      /* no smaller loss can be found: what is left is rounding */
    NN_FIT_STOPPED,    /* by on_iteration */
    NN_FIT_FAILED      /* an error */
} nn_fit_end;
const char *nn_fit_end_text(nn_fit_end end); /* "the gradient is small" */

/* What is fitted, and when a fit ends. Zero means the default. Data come as in nn_train, but whole
 * and for every evaluation; arrays without data are an error. The defaults of tolerances are for
 * f64; those in brackets for f32. */
typedef struct {
    /* nn_lbfgs: records the loss, a scalar. nn_levenberg_marquardt: records the residuals, of any
     * shape, with or without rows; the loss is half the sum of their squares. What it reads from C
     * variables stands still; the fit records it again in the end, and it is an error if that has
     * changed. */
    nn_loss loss;
    void *user; /* goes to loss and on_iteration */
    int narray;
    const nn_array *arrays;
    int64_t examples;   /* rows of the arrays' data */
    int64_t iterations; /* at most; 0: 200 */
    int memory;         /* nn_lbfgs: pairs of steps and gradients that are kept; 0: 10 */
    /* Ends: nn_lbfgs: the largest element of the gradient is at most this; 1e-8 [1e-4].
     * nn_levenberg_marquardt: the residuals' cosine with every column of the Jacobian is; 1e-10
     * [1e-5]. A bound's pressure does not count. */
    double gradient_tolerance;
    double loss_tolerance; /* ends: a relative change of the loss; 1e-14 [1e-7] */
    double step_tolerance; /* ends: a step, relative to theta; 1e-12 [1e-7] */
    /* Bounds of each number, laid out as theta and of its dtype; NULL: none. Infinite is none. */
    const nn_theta *lower, *upper;
    /* nn_levenberg_marquardt: NULL, or filled with the standard errors of the numbers, if the
     * residuals are independent and of one variance: the roots of the diagonal of
     * s^2 (J^T J)^-1, s^2 = sum of squares / (residuals - parameters). NaN where there are not
     * more residuals than parameters, or J lacks rank; 0 at a bound. */
    nn_theta *deviations;
    int threads;       /* as in nn_train */
    const char *label; /* progress, as nn_train shows it: "fit"; NULL: no output */
    /* Called after every iteration (from 1); non-zero ends the fit. theta is not to be changed. */
    int (*on_iteration)(int64_t iteration, double loss, const nn_theta *theta, void *user);
} nn_fit_options;

typedef struct {
    nn_fit_end end;
    int64_t iterations;
    int64_t evaluations; /* of the loss or of the residuals, with or without derivatives */
    int64_t derivatives; /* of the gradient; of directions of the Jacobian */
    double first_loss, last_loss;
    double gradient; /* what gradient_tolerance is compared with, at the end */
} nn_fit_report;

/* Minimises the loss over theta, in place, from where it is: L-BFGS (Liu & Nocedal 1989,
 * doi:10.1007/BF01589116) with the line search for the strong Wolfe conditions (Nocedal & Wright
 * 2006, algorithms 3.5, 3.6 and 7.5). Bounds: numbers at a bound whose descent leads across it
 * stand still, and a step ends at the first bound it meets (a projected method, as Bertsekas 1982,
 * doi:10.1137/0320018). Evaluations that fail, or are not finite, are steps that are too long, the
 * first apart. report may be NULL. 0, whichever way it ended; -1 with the message in error: theta
 * is then the best that was found. */
int nn_lbfgs(nn_theta *theta, const nn_fit_options *options, nn_fit_report *report, char *error,
             size_t error_size);
/* Minimises half the sum of squares of residuals: Levenberg & Marquardt's method, for up to some
 * hundred parameters, with the damping of Nielsen 1999 (IMM-REP-1999-05), scaled by the columns of
 * the Jacobian as Moré 1978 (doi:10.1007/BFb0067700) has it. The Jacobian is the engine's, a
 * direction at a time in forward mode. Bounds, failing evaluations and results as in nn_lbfgs. */
int nn_levenberg_marquardt(nn_theta *theta, const nn_fit_options *options, nn_fit_report *report,
                           char *error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
