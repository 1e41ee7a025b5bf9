/* Internal: the solution between the boundaries of a stored trajectory. */
#ifndef ODE_INTERPOLANT_H
#define ODE_INTERPOLANT_H
#include "ode/trajectory/forward.h"

/* The method's dense output in one step at a time, whose stages are computed again from the state
 * where the step begins. */
typedef struct {
    ode_march march; /* its k: the stages of `step` */
    ode_buffer next;
    ode_trajectory *trajectory;
    int64_t step; /* -1: none yet */
} ode_interpolant;

/* Compiles what is run. false with the tape's error set. */
bool ode_interpolant_compile(ode_march_units *units, const ode_problem *problem, ad_tape *tape);
/* For the latest solve of `forward`, with the arguments args[nargs]. 0, or -1 with the call's error
 * written. */
int ode_interpolant_open(ode_interpolant *in, ode_forward *forward, const ode_march_units *units,
                         const ad_opaque_call *call, const void *const *args);
void ode_interpolant_close(ode_interpolant *in);
/* Adds what it holds once it is open to the account, which says for how many rows. */
void ode_interpolant_account(const ode_problem *problem, const ode_march_units *units,
                             ad_opaque_account *account);
/* The state at *t, in the interval of the solve, into y (a slot); t[k * stride]: the time by clock
 * k. 0, or -1 with the call's error written. */
int ode_interpolant_at(ode_interpolant *in, const double *t, int stride, void *y);

/* The step that t lies in: of two that meet there, the earlier one. */
int64_t ode_trajectory_find(const ode_trajectory *tr, double t);
/* The end of the step from a to b, as interpolants take it: a solve over no time is asked at the
 * beginning of a step, whatever its size. */
ode_boundary ode_interpolant_end(ad_dtype dtype, const ode_boundary *a, const ode_boundary *b);

#endif
