/* Internal: models of diffusion, checked and with their defaults. */
#ifndef ODE_DIFFUSION_MODEL_H
#define ODE_DIFFUSION_MODEL_H
#include "autodiff/extension.h"
#include "ode/diffusion.h"

/* The model with its defaults filled in. false with the tape's error set: it makes no sense. */
bool ode_model_complete(const ode_diffusion *model, const char *caller, ad_tape *tape,
                        ode_diffusion *complete);
/* Whether points have shape [rows,d]; an error of the tape that calls them `what` if not. tape
 * NULL: that of x. */
bool ode_model_points(const char *caller, const char *what, ad_tape *tape, ad_var x);
/* Whether times (or what they are made from) are a scalar, [1,1] or [rows,1]; likewise. */
bool ode_model_column(const char *caller, const char *what, ad_tape *tape, ad_var t);
/* Whether times are such a column, and, of constants, within the model's. */
bool ode_model_times(const ode_diffusion *model, const char *caller, ad_tape *tape, ad_var t);
/* Evaluates the kernel at n times in double precision; NULL: not wanted. -1: out of memory. */
int ode_model_numbers(const ode_process *process, int64_t n, const double *t, double *alpha,
                      double *sigma);

/* Everything of a process at t: values and derivatives by t. */
typedef struct {
    ad_var alpha, sigma, alpha_dot, sigma_dot;
} ode_kernel;
ode_kernel ode_kernel_at(const ode_process *process, ad_var t);
ad_var ode_log_snr(const ode_process *process, ad_var t);
/* The target in the form that is asked for, of data and noise. */
ad_var ode_from_pair(ode_prediction what, const ode_kernel *k, ad_var data, ad_var noise);
/* The noise and the data that a model predicts of x. */
typedef struct {
    ode_kernel kernel;
    ad_var noise, data;
} ode_pair;
ode_pair ode_model_pair(const ode_diffusion *model, ad_var t, ad_var x, const ad_var *args);

#endif
