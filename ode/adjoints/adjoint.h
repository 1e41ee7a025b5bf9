/* Internal: what the adjoints of solves share. */
#ifndef ODE_ADJOINT_H
#define ODE_ADJOINT_H
#include "ode/solve/solution.h"

/* A recorded adjoint of a solve. Its operands: token, y0 [n], arguments, times, solutions [n],
 * cotangents of those that have one. Its results: cotangents of what is needed, in the order y0,
 * arguments, times. */
typedef struct {
    atomic_int references;
    ode_problem *problem;
    char called[64]; /* "ode_solve_final's adjoint", for messages */
    bool has[ODE_MAX_STATES], need_y0[ODE_MAX_STATES], need_times;
    uint64_t need;            /* arguments */
    const ode_unit *prologue; /* its VJP */
    /* discrete: VJPs of a step (dense: with interpolated outputs in it; kept: given the residuals)
     * and of the bootstrap. */
    const ode_unit *step[2][2], *begin; /* [dense][kept] */
    const ode_residuals *residuals;     /* NULL: none are kept */
    /* backsolve */
    ode_system *augmented;
    ode_march_units march;
    const ode_unit *field;
} ode_adjoint_data;
const char *ode_adjoint_called(const void *data);
ode_adjoint_data *ode_adjoint_new(ode_problem *p, int nin, const ad_var *ybar, const bool *need,
                                  ad_tape *tape);
/* Records the operation; takes over the data. */
void ode_adjoint_record(ode_adjoint_data *d, const ad_opaque_class *class_, ad_var token, int nin,
                        const ad_var *in, const ad_var *out, const ad_var *ybar, const bool *need,
                        ad_var *xbar);
/* Derivative rules of an adjoint: errors that say what to do instead. */
void ode_adjoint_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                     const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar);
void ode_adjoint_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                     int nout, const ad_var *out, ad_var *ydot);
void ode_adjoint_retain(void *data);
void ode_adjoint_release(void *data);

/* A call of an adjoint, its operands and results by name. */
typedef struct {
    const void *const *y0, *const *args, *const *y;
    const void *times, *ybar[ODE_MAX_STATES];
    void *y0bar[ODE_MAX_STATES], *argbar[ODE_MAX_ARGS], *timesbar;
} ode_adjoint_call;
ode_adjoint_call ode_adjoint_parse(const ode_adjoint_data *d, const ad_opaque_call *call);

/* Cotangents of the shared values, summed over the backward solve and pulled back to the shared
 * arguments at its end. */
typedef struct {
    ode_runner prologue;
    ode_buffer memory, pointers;
} ode_shared_bar;
void **ode_shared_bar_begin(ode_shared_bar *bar,
                            const ode_adjoint_data *d); /* zeros; NULL: out of memory */
int ode_shared_bar_finish(ode_shared_bar *bar, const ode_adjoint_data *d,
                          const ad_opaque_call *call, const ode_adjoint_call *c);
void ode_shared_bar_close(ode_shared_bar *bar);
/* Zeros for the cotangents of per-row arguments, to which steps add theirs. */
void ode_clear_row_bars(const ode_adjoint_data *d, const ad_opaque_call *call,
                        const ode_adjoint_call *c);
int ode_call_fail(const ad_opaque_call *call, const char *reason); /* writes the call's error; -1 */
/* Writes times' cotangents in the call's type. */
void ode_write_times(const ode_problem *p, ad_dtype dtype, const double *bar, void *out);

/* Gradients that are not finite (finite.c). Whether all that the call delivers is finite. */
bool ode_results_finite(const ode_adjoint_data *d, const ad_opaque_call *call,
                        const ode_adjoint_call *c);
/* Whether a cotangent that came in is not finite: then the error is written. */
bool ode_blame_cotangents(const ode_adjoint_data *d, const ad_opaque_call *call,
                          const ode_adjoint_call *c, const double *times);
/* Whether something is not finite among the state's cotangents (NULL: not looked at), those of the
 * arguments and shared values, and times' (NULL): then text says what. */
bool ode_name_nonfinite(const ode_adjoint_data *d, const ad_opaque_call *call,
                        const ode_adjoint_call *c, const void *state, void *const *shared,
                        const double *times, char *text, size_t size);
/* What the last part of an adjoint, from the shared values to the arguments, has spoilt: writes the
 * error; -1. */
int ode_blame_arguments(const ode_adjoint_data *d, const ad_opaque_call *call,
                        const ode_adjoint_call *c);

#endif
