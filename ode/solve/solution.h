/* Internal: recorded solves, and what a forward solve leaves. */
#ifndef ODE_SOLUTION_H
#define ODE_SOLUTION_H
#include "ode/march/march.h"

/* A recorded solve: what the forward operation and its adjoint share. */
typedef struct {
    atomic_int references;
    ode_settings settings;
    ode_system *system;
    int ntimes;
    double *times; /* constant times in double; NULL: as the last operand has them */
    bool final_only, dense;
    ode_march_units units;
    const ode_unit *prologue; /* NULL: nothing depends on shared arguments alone, or they are the
                                 shared values */
    /* What a discrete adjoint of the solve wants to be kept (NULL: nothing, or there is none), and
     * the units that deliver it. */
    atomic_bool differentiated; /* a discrete adjoint of it has been recorded */
    _Atomic(const ode_residuals *) residuals;
    ode_march_units keeping;
} ode_problem;
void ode_problem_retain(void *problem);
void ode_problem_release(void *problem);

/* Shared values of a system during a solve. */
typedef struct {
    ode_runner prologue;
    ode_buffer memory, pointers;
} ode_shared;
/* Computes them from the arguments args[nargs]: pointers, or NULL with the error written. */
void **ode_shared_compute(ode_shared *shared, const ode_problem *p, const ad_opaque_call *call,
                          const void *const *args);
void ode_shared_close(ode_shared *shared);

/* What the forward solve leaves: kept as the operation's state, where the adjoint finds it. */
typedef struct {
    ode_problem *problem;
    ode_march march;
    ode_shared shared;
    void **values;         /* shared values of the latest solve */
    bool stores, measures; /* in the latest solve: for an adjoint that may want it */
    bool again;            /* the solve in progress is for an adjoint that found nothing stored */
    int64_t count;         /* steps stored */
    ode_buffer times;
    ode_buffer bounds; /* ode_boundary [count + 1] */
    ode_pile states, carries;
    const ode_residuals *residuals; /* of the latest solve, in `kept`: steps 0 .. kept_limit - 1;
                                       NULL: none wanted */
    ode_pile kept;
    int64_t kept_limit;
    ode_buffer largest; /* of each element of the state over the latest solve, for an adjoint that
                           measures; in the call's type */
    ode_buffer scratch;
    ode_refinement refinement;
    const ad_opaque_call *call; /* in progress */
    int next_output;
} ode_solution;

/* Output arrays are [rows, T, size] (final_only: [rows, size]). Copies a state's part of a slot to
 * output time j, and adds back. */
void ode_output_put(const ode_problem *p, int64_t rows, const void *part, int state, int j,
                    void *to);
void ode_output_add(const ode_problem *p, int64_t rows, const void *from, int state, int j,
                    void *part);
/* Weights of the dense output at t inside the step from a to b: h b_i(theta), and derivatives by
 * theta. Returns how many. */
int ode_output_weights(const ode_method *method, const ode_boundary *a, const ode_boundary *b,
                       double t, double *w, double *slope);

/* Solves again and stores the steps, for an adjoint that finds none: `call` is the adjoint's, which
 * has the solve's operands after the token. 0, or -1 with the call's error written. */
int ode_solution_again(ode_solution *s, const ad_opaque_call *call);

/* Residuals of stage i of step k as the latest solve kept them. The stage after the last is the
 * first of the next step. */
void *ode_solution_kept(ode_solution *s, int64_t k, int i);

extern const ad_opaque_class ode_solve_class;
typedef void (*ode_vjp_rule)(ode_problem *p, ad_var token, int nin, const ad_var *in,
                             const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar);
void ode_discrete_vjp(ode_problem *p, ad_var token, int nin, const ad_var *in, const ad_var *out,
                      const ad_var *ybar, const bool *need, ad_var *xbar);
void ode_backsolve_vjp(ode_problem *p, ad_var token, int nin, const ad_var *in, const ad_var *out,
                       const ad_var *ybar, const bool *need, ad_var *xbar);

/* Records a solve; results out[nstate]. 0, or -1 with the tape's error set. */
int ode_record_solve(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, bool final_only,
                     ad_var *out);

#endif
