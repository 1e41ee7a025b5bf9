/* costate: solving ordinary differential equations whose vector field is written in autodiff
 * operations, as differentiable operations.
 *
 * A field dx/dt = F(x, t; args) is a C function that records operations (it is called once to trace
 * it; the trace is compiled and replayed). A solve is itself an operation on the caller's tape: its
 * results compose with anything else, and ad_vjp / ad_grad give gradients with respect to initial
 * states, arguments and times by the adjoint method chosen in the options.
 *
 * Shapes: states have a row axis, [rows, D...]; arguments either have none (shared by all rows:
 * parameters) or one (given per row). Rows may depend on each other (particles that feel their
 * mean): explicit methods solve such fields; implicit ones, traces and densities go row by row, and
 * an error says so. Errors: recording errors stick to the tape (ad_tape_error);
 * errors while solving too, or to the workspace of the program that runs the solve
 * (ad_workspace_error), with what failed: time, step, sample, component and advice.
 *
 * Memory: a recorded solve keeps its memory between evaluations; a second one of the same size
 * allocates nothing. ad_program_bytes tells it before anything runs. Compiled programs stay with
 * the tape, also when it is rewound: recording an equal solve again compiles nothing. The 128 used
 * last are kept. Threads: recording belongs to the tape's thread; programs that hold a solve may be
 * run by many threads (without ode_stats). Limits: up to 8 states and 64 arguments.
 *
 * Derivatives of a solve exist in every order and every mixture of modes (ad_vjp, ad_grad, ad_jvp,
 * ad_jacobian, ad_hvp), by initial states, arguments and times. Those of the solution are
 * derivatives of the discretisation: the accepted steps are frozen. Tangents (ad_jvp) run forwards
 * along the stored steps, with the JVP of each; derivatives of a gradient are tangents and their
 * adjoint, so that a Hessian times a vector costs a few gradients. The adjoint that the options
 * name gives first derivatives in reverse mode; higher ones are by ode_discrete whatever it is, as
 * to the derivatives of a gradient a continuous adjoint would add a tolerance of its own. Each
 * derivative doubles the arrays of states, of arguments and, where times have tangents, of times:
 * at most 32, 64 and 8 (an error says so). */
#ifndef COSTATE_ODE_H
#define COSTATE_ODE_H
#include "../autodiff/autodiff.h"
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- vector fields --------------------------------------------------------------------------- */

/* The everyday form: one state y [rows, D...]; returns dy/dt of y's shape (it may broadcast to it).
 * t has y's rank (of several states: the smallest rank) with all sizes 1; t.tape is the tape that
 * the field records on, for constants that it makes: ad_scalar(t.tape, 9.81). args as given to the
 * solve; a variable from outside must come through them (using one is an error). `user` is read
 * while the solve is recorded only; with options.rerecord at every evaluation. t is computed in
 * double and rounded to the tape's dtype: in f32 a field that depends on time wants times of
 * moderate size. */
typedef ad_var (*ode_field)(ad_var t, ad_var y, const ad_var *args, void *user);
/* Several states: dy[i] has the shape of y[i]. */
typedef void (*ode_fields)(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                           ad_var *dy);

/* ---- methods --------------------------------------------------------------------------------- */

/* Algorithms are constant objects (of none, NULL: "no method", order 0); ode_methods() lists them,
 * ode_method_about says where each comes from. All of this may be called from any thread. */
typedef struct ode_method ode_method;
extern const ode_method ode_euler, ode_midpoint, ode_heun, ode_ralston, ode_rk4, ode_rk4_38,
    ode_bosh3, ode_dopri5, ode_tsit5, ode_dopri8;
/* For stiff problems: adaptive, and L-stable: a part of the state that decays fast is gone after
 * one step, however long. Orders 2 to 5 (TR-BDF2; Kvaerno 2004). Each step solves several equations
 * for each row by Newton's method, whose matrices [D,D] (D: elements of a row) are dense. kvaerno4
 * and kvaerno5 evaluate the field up to 1.15 h and 1.23 h from a step's start, so beyond its end
 * and the last time, but not beyond a time where it jumps. */
extern const ode_method ode_trbdf2, ode_kvaerno3, ode_kvaerno4, ode_kvaerno5;
/* Fixed steps. Implicit steps solve for each row by Newton's method. The two-step method starts
 * afresh at each output time and jump. ode_implicit_midpoint is symplectic: over long times the
 * energy of a Hamiltonian system stays near where it was, for steps that are not too large (Hairer,
 * Lubich, Wanner, Geometric Numerical Integration, VI.4 and IX). ode_implicit_euler is L-stable,
 * ode_trapezoidal and ode_implicit_midpoint are A-stable only: where |h lambda| is large (lambda an
 * eigenvalue of the Jacobian dF/dx), a part that decays fast changes its sign from step to step and
 * hardly decays. Where a result (at an output time) comes from a step that does so by a tenth of an
 * element's size, it is an error; but on its way a nonlinear problem may have been led astray
 * before: ode_stats.ringing counts those steps. So it is for problems without fast decay:
 * oscillations, waves.
 */
extern const ode_method ode_implicit_euler, ode_trapezoidal, ode_implicit_midpoint, ode_nystroem2;
const ode_method *const *ode_methods(void);             /* all, NULL-terminated */
const char *ode_method_name(const ode_method *method);  /* "dopri5" */
const char *ode_method_about(const ode_method *method); /* one line: what it is and the source */
int ode_method_order(const ode_method *method);         /* of ordinary equations */
bool ode_method_adaptive(const ode_method *method);     /* has an error estimate */
const ode_method *ode_method_find(const char *name);    /* NULL when there is none */

/* ---- controllers of step sizes --------------------------------------------------------------- */

/* How an adaptive solve chooses the size of the next step from the errors of the latest ones, with
 * k = ode_method_order and r_n the error of step n in units of the tolerance:
 *
 *   h_(n+1) = h_n prod_i (e / r_(n-i))^(beta[i] / k) prod_i (h_(n-i) / h_(n-i-1))^(-alpha[i]),
 *
 * e = safety^k (Soederlind 2003, doi:10.1145/641876.641877; Soederlind, Wang 2006,
 * doi:10.1016/j.cam.2005.03.008). A rejected attempt (r > 1) is followed by the elementary choice,
 * h safety r^(-1/k), and forgotten; so it is until as many steps as the formula needs have been
 * accepted, and after a step that was cut short to end at a given time. The stability limit and
 * options.max_step bound the size besides. */
enum { ODE_CONTROL_PAST = 3 };
typedef struct {
    int order; /* k */
    /* entries that are known below, at least 1: the latest attempt, then accepted steps, backwards.
     * Earlier errors below 1e-4 are 1e-4 */
    int steps;
    int rejections;                 /* attempts of this step that were rejected before this one */
    double ratio[ODE_CONTROL_PAST]; /* r; above 1: the attempt is rejected */
    double size[ODE_CONTROL_PAST];  /* |h| */
} ode_control_history;

/* Zeros mean the defaults; one's own controllers are objects like those below. */
typedef struct {
    const char *name, *about;
    double beta[3], alpha[2]; /* the formula's; the sum of beta must be positive */
    double safety;            /* default 0.9, at most 1 */
    double most, least;       /* limits to h_(n+1) / h_n: default 10, 0.2 */
    double least_accepted; /* instead of least, after an accepted step: default least, at most 1 */
    /* instead of most, where an attempt of the step was rejected: default most; 1 is advised
     * (Hairer, Norsett, Wanner, Solving ODEs I, II.4) */
    double most_again;
    /* Instead of beta and alpha: h_(n+1) / h_n, which the limits then bound. Called by the thread
     * that runs the solve, for accepted and rejected attempts whose error is finite and not zero;
     * after a rejected one, at most `safety` is taken. A result that is not finite is an error. */
    double (*factor)(const ode_control_history *past, void *user);
    void *user; /* borrowed: must outlive the tape and programs */
} ode_controller;

/* i: integral, the default; steps do not shrink after accepted steps. pi: PI.4.7 of Gustafsson
 * 1991. h211b (b = 4), pid (H312PID): digital filters of Soederlind 2003, table III. The longer the
 * memory, the smoother the sizes: fewer rejections where the error of a step depends on the one
 * before (at the limit of stability), smoother results as functions of the tolerance; and a slower
 * answer to changes. */
extern const ode_controller ode_control_i, ode_control_pi, ode_control_h211b, ode_control_pid;
const ode_controller *const *ode_controllers(void); /* all, NULL-terminated */
/* h_(n+1) / h_n as the controller chooses it, within its limits; NaN: its factor is not finite, or
 * an argument is NULL. */
double ode_controller_factor(const ode_controller *controller, const ode_control_history *past);

/* ---- error norms ----------------------------------------------------------------------------- */

/* What the errors of a step, in units of the tolerance, come to: a step is accepted if that is not
 * larger than one. scaled[i] is the error of state i divided by atol + rtol max(|y0|, |y1|), of its
 * shape [rows, D...]; the result is a scalar, not negative. Called once to trace it, as a field is
 * (variables from outside are an error), with options.rerecord at every step. It is taken of
 * the costates of the continuous adjoints too; of backsolve, which marches both, the larger counts.
 */
typedef struct {
    const char *name;
    ad_var (*record)(ad_tape *tape, int nstate, const ad_var *scaled, void *user);
    void *user; /* read while the solve is recorded only; with rerecord at every step */
} ode_error_norm;
/* rms: the root mean square over all states, rows and components, the default. max: the largest
 * error of all; no row and no component is less accurate than asked for because others are more. */
extern const ode_error_norm ode_norm_rms, ode_norm_max;

/* ---- adjoints -------------------------------------------------------------------------------- */

/* Constant objects as methods are: ode_adjoints() lists them (of none, NULL: "no adjoint"). All of
 * this may be called from any thread. */
typedef struct ode_adjoint ode_adjoint;
const ode_adjoint *const *ode_adjoints(void);              /* all, NULL-terminated */
const char *ode_adjoint_name(const ode_adjoint *adjoint);  /* "discrete" */
const char *ode_adjoint_about(const ode_adjoint *adjoint); /* one line: what it is */
const ode_adjoint *ode_adjoint_find(const char *name);     /* NULL when there is none */
/* Whether it gives gradients of solves by this method. */
bool ode_adjoint_takes(const ode_adjoint *adjoint, const ode_method *method);
/* The exact gradient of the discretisation with the accepted steps frozen (default). Steps that
 * suit the solution need not suit it: docs/gradients.md says when, and what is done about it;
 * ad_check_gradient checks it in one call. States of accepted steps are stored, and what the
 * field's evaluations leave for their derivatives (activations) while options.keep_bytes suffice;
 * the rest is computed again. An evaluation by ad_value of a solve whose gradient has not been
 * recorded keeps states within options.keep_bytes, else none; if the gradient is asked for later,
 * such a solve is solved again. */
extern const ode_adjoint ode_discrete;
/* Of the continuous problem, against the stored solution: adjoint and parameter quadratures are
 * integrated backwards, and x(t) comes from the forward solve's dense output (CVODES, Hindmarsh et
 * al. 2005, doi:10.1145/1089014.1089020). States of accepted steps are stored. Adaptive steps back
 * have tolerances of their own (options.adjoint_rtol, adjoint_atol), which bound the quadratures'
 * errors as in ode_backsolve; what the gradient owes to the error of x(t) is bounded by rtol and
 * atol. Given and replayed steps are taken back again. The adjoint is as stable backwards as the
 * problem is forwards, so dissipative problems are no difficulty. Not with multistep methods. */
extern const ode_adjoint ode_interpolating;
/* Of the continuous problem: state, adjoint and parameter quadratures integrated backwards together
 * (Chen et al. 2018, arXiv:1806.07366); memory does not grow with the number of steps. Adaptive
 * steps bound the errors of the quadratures too, each by itself: the mean square over its elements
 * of error / (atol + rtol s), with s the sum of its increments' magnitudes so far, and atol
 * sqrt(rows) times where it is a sum over the rows (options.adjoint_seminorm leaves them out). The
 * drift of the recomputed state is measured at output times and reported in ode_stats. Where any
 * component of any row is lost, the gradient is an error that names it, not a number: off by more
 * than a tenth (half with given steps) of the largest magnitude that it had over the forward solve,
 * and ten times the tolerance at that; chaotic and dissipative problems lose it. */
extern const ode_adjoint ode_backsolve;
/* The gradient of ode_discrete, but for rounding, in memory that does not grow with the steps but
 * for their times: each step is taken back, by the method itself, before its VJP (Kidger, Foster,
 * Li, Lyons 2021, arXiv:2105.13493). For sde_reversible_heun (sde.h); not where the field jumps.
 * Where rounding grows on the way back beyond a thousandth of the state, it is an error; the drift
 * of the recomputed y0 is in ode_stats. */
extern const ode_adjoint ode_reversible;

/* ---- options: zero means the default --------------------------------------------------------- */

/* The accepted steps of a solve, an object that can be replayed. NULL: no steps. */
typedef struct ode_steps ode_steps;
void ode_steps_free(
    ode_steps *steps); /* of steps that were taken out of an ode_stats, with NULL left there */
int64_t ode_steps_count(const ode_steps *steps);
/* Boundaries t_0, t_1, ..., t_n of the accepted steps (n + 1 numbers, owned by steps). */
const double *ode_steps_times(const ode_steps *steps);

/* How a solve ended. */
typedef enum {
    ODE_DONE,            /* at the last time */
    ODE_STOPPED,         /* by options.on_step */
    ODE_STEP_TOO_SMALL,  /* no step that time allows is exact enough */
    ODE_TOO_MANY_STEPS,  /* options.max_steps */
    ODE_NOT_FINITE,      /* y0, the field, or a state */
    ODE_OUTSIDE_DOMAIN,  /* an operation of the field is, however small the step */
    ODE_NEWTON,          /* Newton's method failed in an implicit step */
    ODE_RINGING,         /* the result of a method that is not L-stable alternates */
    ODE_TIME_TOO_COARSE, /* the field reads times that rounding has made equal */
    ODE_OUT_OF_MEMORY,
    ODE_FAILED, /* anything else: the error says what */
    ODE_STATUSES
} ode_status;
const char *ode_status_name(ode_status status); /* "step too small" */

/* What was done about a gradient by the discrete adjoint that is doubtful, since the steps may be
 * too large for it (options.costate_drift). */
typedef enum {
    ODE_NO_DOUBT,          /* or it is not looked at */
    ODE_DOUBT_COMPARED,    /* with that of halved steps: they agree, or it is an error */
    ODE_DOUBT_PASSED_OVER, /* earlier ones were compared, and this one was not */
    ODE_DOUBT_NO_ROOM,     /* not compared: a limit of memory leaves no room for halved steps */
    /* nor here: the solve, or the one by halved steps, ends early, or the latter's gradient is not
     * finite */
    ODE_DOUBT_NOT_COMPARABLE
} ode_doubt;

/* An accepted step, as options.on_step sees it. All is borrowed, for the time of the call. */
typedef struct {
    int64_t number; /* from 0 */
    double t, size; /* where it ended, and its size, negative where time runs backwards */
    double error;   /* in units of the tolerance; 0 where the steps are given */
    ad_dtype dtype; /* of y */
    int64_t rows;
    int nstate;
    const ad_shape *shape; /* of each state, with AD_ROWS for its rows */
    const void *const *y;  /* each state at t: [rows, D...] */
} ode_accepted_step;

/* What a solve did: filled at every evaluation of the solve that has it in its options (and by its
 * adjoint: the backward_ part). */
typedef struct {
    ode_status status; /* of the latest forward solve */
    /* the time up to which it was solved: the last one if it is done; NaN: the times were not valid
     */
    double reached;
    int64_t steps, rejected; /* accepted and rejected steps */
    /* accepted steps whose size was set by the method's stability limit and not by the error: many
     * of them, and the problem is stiff for this method */
    int64_t stability_limited;
    /* largest h |lambda| of the accepted steps, as far as they show it (lambda: the field's
     * steepest eigenvalue) */
    double stability;
    /* accepted steps of a method that is not L-stable in which an element of the state alternates
     * instead of decaying, by a tenth of its size or more; on the way to a result this is no error.
     * A linear problem comes back from there; a nonlinear one may have been led astray, and where
     * there are any, look at the result of an L-stable method */
    int64_t ringing;
    int64_t evaluations; /* of the field, over the whole batch */
    /* looks for what the state does not show of its derivatives, in solves that have a gradient,
     * and the evaluations among the above that they took: those of some rows alone count as parts
     * of one */
    int64_t probes, probe_evaluations;
    /* implicit methods: for the whole batch, of single rows, for the whole batch */
    int64_t jacobians, factorisations, newton_iterations;
    int64_t backward_steps, backward_rejected, backward_evaluations, vjps;
    /* backsolve: largest |x recomputed - x stored| / (atol + rtol |x|) at output times; else 0 */
    double backward_drift;
    /* discrete, adaptive steps, a field that does not read the time: how much a^T f, which should
     * be constant, has changed on the way back, relative to its size, in the worst row (a: gradient
     * by the state, f: field); else 0. options.costate_drift is the limit */
    double costate_drift;
    ode_doubt doubt;     /* of the latest gradient */
    size_t stored_bytes; /* kept from the forward solve for the gradient: states and activations */
    /* the accepted steps of the latest forward solve: owned by the caller's ode_stats
     * (ode_stats_clear) */
    ode_steps *steps_taken;
} ode_stats;
/* frees the steps and makes all of it zero, as it must be before the first solve */
void ode_stats_clear(ode_stats *stats);

typedef struct {
    const ode_method *method;   /* default ode_dopri5 */
    const ode_adjoint *adjoint; /* default ode_discrete */
    /* Adaptive methods: the error of a step, a root mean square over all states, rows and
     * components (or options.norm), is held below atol + rtol max(|y0|, |y1|). Both zero: 1e-6,
     * 1e-8 (f64); 1e-4, 1e-6 (f32). Where one is given, a zero of the other is a zero: with rtol
     * alone the error is relative however small the state is, with atol alone absolute however
     * large. States that begin at zero or pass through it (costs, log-determinants) cost fewer
     * steps with an atol. An rtol other than zero may not be below the rounding of the tape's type
     * (6e-8, 1.1e-16), whatever atol is: no step is so exact, and an atol that is meant to hold
     * alone is given with an rtol of zero. */
    double rtol, atol;
    /* An atol of its own for each element of a row, all states in order (their shapes [rows, D...]
     * without the rows, one after the other; of a flow: x, logdet; of a solve with a cost: y, q),
     * instead of atol. natol: how many; it must be the number of elements. Zeros are allowed where
     * rtol is not zero. Borrowed until the solve is recorded. */
    const double *atol_each;
    int natol;
    /* > 0: fixed steps of at most this size but for rounding, dividing each interval between times
     * and stops (jump_times, knots of ode_interpolate) evenly */
    double step;
    /* > 0: so many equal steps in each interval between times (excludes step); stops divide it into
     * pieces with steps of at most this size */
    int64_t steps;
    const ode_error_norm *norm;       /* adaptive: default ode_norm_rms. Copied */
    const ode_controller *controller; /* adaptive: default ode_control_i. Copied */
    /* adaptive: size of the first step; default: chosen from two evaluations of the field, after
     * Hairer, Norsett, Wanner, Solving ODEs I, II.4, but free of time's unit. Do not give a large
     * one: the error estimates of bosh3 and dopri8 vanish where h lambda is -1 and -5.65 */
    double first_step;
    /* adaptive: limits. Where a step of min_step is still too inaccurate, the solve is an error;
     * default: 16 spacings of the numbers at t, the least that the rounding of time allows. Only a
     * step that lands (at the last time, at a jump) may be shorter. No step is longer than
     * max_step; default: none is too long. */
    double min_step, max_step;
    int64_t max_steps; /* attempts in one solve, default 100000 */
    /* discrete: for activations of a solve that has a gradient, default 256 MiB (1: keep none). Of
     * explicit methods' steps, the first ones; those that found no room are evaluated again on the
     * way back, with equal gradients but for rounding: a row's gradient is bitwise independent of
     * how many rows there are as long as all steps find room, or none does */
    int64_t keep_bytes;
    /* of the continuous adjoints; both zero: as forward (costates of a solve with atol_each: the
     * usual atol); the recomputed state keeps atol_each */
    double adjoint_rtol, adjoint_atol;
    /* continuous adjoints: only state and costate bound the steps, not the parameters' quadratures
     * (Kidger, Chen, Lyons 2021, arXiv:2009.09457): fewer steps where nothing else needs them, and
     * gradients by parameters that nobody watches. Default: each quadrature's error is bounded as a
     * state's */
    bool adjoint_seminorm;
    /* discrete, adaptive steps: about how wrong a gradient may be; default 0.1. It is an error
     * where ode_stats.costate_drift is larger; and where it turns or grows so much in single steps
     * that it is doubtful, it is compared with that of halved steps, and is an error where they
     * differ by more than 1.2 times this, at loose tolerances by more than 100 rtol and at most 0.8
     * (docs/gradients.md). backward_evaluations and vjps count what that takes, and ode_stats.doubt
     * says where it was left out. In nn_train these are no errors but a warning, and the training
     * goes on. INFINITY: gradients are not looked at */
    double costate_drift;
    /* Implicit methods: each element of a stage is found to this relative error; default: near
     * rounding (1e-13 f64, 1e-6 f32), so that the gradient, replayed steps and differences of them
     * agree. A looser one saves a fifth of the iterations or so, and shows in gradients as errors
     * of its size. newton_iterations: default 50; where the error chooses the steps at most 10, and
     * a step whose stages are not found is tried again with a smaller size. */
    double newton_tolerance;
    int newton_iterations;
    /* take exactly these steps, without error control (borrowed: must outlive the tape and
     * programs); not with ode_backsolve */
    const ode_steps *replay;
    /* a solve that cannot go on, or that is stopped, is no error but returns the part that was
     * solved: results at times that it did not reach are NaN. ode_stats says how far it came and
     * why it ended there. Gradients are those of what was reached; a loss that depends on the rest
     * is an error of the gradient */
    bool partial;
    /* call the field anew at every step with values at hand: ad_value works inside it; slow, for
     * debugging and data-dependent fields. What is computed from such numbers is constant to the
     * gradient; an argument that comes in by its numbers only is an error when its gradient is
     * asked for */
    bool rerecord;
    const double
        *jump_times; /* times at which the field is not smooth: steps end there, and the field is
                        evaluated at the next number of the tape's type on the step's own side. They
                        need not be numbers of that type: what the field sees is what they round to
                        (borrowed until the solve is recorded) */
    int njump;
    /* Called after every accepted step of a forward solve, by the thread that runs it: true to go
     * on, false to stop there (ode_stats.status ODE_STOPPED, an error of the run that says where
     * unless options.partial; after the last step it makes no difference). A step may come again: a
     * solve for a gradient may go back and take steps again that have proved too large, with
     * numbers counted from there.
     */
    bool (*on_step)(const ode_accepted_step *step, void *user);
    void *on_step_user; /* borrowed: must outlive the tape and programs */
    /* filled when the solve is evaluated (borrowed: must outlive the tape and programs) */
    ode_stats *stats;
} ode_options;

/* ---- solving --------------------------------------------------------------------------------- */

/* Solution at all of `times` [T] (T >= 2, strictly monotonic, increasing or decreasing; a variable
 * made by ad_constant keeps its double precision): [rows, T, D...], with y0 at times[0].
 * Zero-length solves ({t0, t0} exactly equal, T == 2) return y0. `options` may be NULL. Adaptive
 * steps land on the last time and interpolate the others (dense output); fixed steps land on all.
 * y0 needs the row axis. There is a gradient with respect to times too, whatever made them. */
ad_var ode_solve(ode_field field, void *user, ad_var y0, int nargs, const ad_var *args,
                 ad_var times, const ode_options *options);
/* The last time only: [rows, D...]. An invalid variable, here and below, with the tape's error set
 * on failure. */
ad_var ode_solve_final(ode_field field, void *user, ad_var y0, int nargs, const ad_var *args,
                       ad_var times, const ode_options *options);
/* Several states: y[i] [rows, T, D_i...]. 0, or -1 with the tape's error set. */
int ode_solve_states(ode_fields field, void *user, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, ad_var *y);
/* The last time only: y[i] [rows, D_i...]. */
int ode_solve_states_final(ode_fields field, void *user, int nstate, const ad_var *y0, int nargs,
                           const ad_var *args, ad_var times, const ode_options *options, ad_var *y);
/* times as a constant: [2] {t0, t1}, and [n] equally spaced times from t0 to t1, n >= 2. */
ad_var ode_interval(ad_tape *tape, double t0, double t1);
ad_var ode_linspace(ad_tape *tape, double t0, double t1, int n);

/* Rows that start at times of their own, t0 [rows,1]: solve over [0, T] with t0 among the args, and
 * let the field take ad_add(t, args[k]) for its time ([rows,1]). Rows that also last T_r each:
 * solve over [0, 1], with T_r among the args too, the time t0 + T_r t and the field times T_r.
 * Gradients by t0 and T_r are those by an argument. */

/* ---- dense output ---------------------------------------------------------------------------- */

/* A solve that can be asked for its state at times that are given later. A value: there is nothing
 * to free; it lives as long as the variables of its tape. Its fields are the library's. */
typedef struct {
    ad_var solve, operand[8 + 64 + 1];
    int nstate, nargs;
    void *problem;
} ode_dense;
/* Solves from times[0] to times[last] (the others: as ode_solve has them for its steps). The states
 * of accepted steps are stored; the discrete and the interpolating adjoint work. 0, or -1 with the
 * tape's error set. */
int ode_solve_dense(ode_dense *dense, ode_field field, void *user, ad_var y0, int nargs,
                    const ad_var *args, ad_var times, const ode_options *options);
int ode_solve_dense_states(ode_dense *dense, ode_fields fields, void *user, int nstate,
                           const ad_var *y0, int nargs, const ad_var *args, ad_var times,
                           const ode_options *options);
/* The state at `times` [T], in any order, each within the interval of the solve (past an end by
 * no more than rounding: the end): [rows, T, D...], by the method's dense output (methods without
 * one: the cubic Hermite interpolant). times may be an input, which changes from run to run. A
 * solve may be asked as often as one likes: it is solved once. Gradients flow to these times, and
 * through the solve to y0, arguments and the solve's times; each asking has an adjoint of its own,
 * which goes back over the steps from its last time. Derivatives by these times of second order are
 * as good as the interpolant's curvature: of methods of order 1 it means nothing. An invalid
 * variable, or -1, with the tape's error set. */
ad_var ode_dense_at(const ode_dense *dense, ad_var times);
int ode_dense_states_at(const ode_dense *dense, ad_var times, ad_var *y); /* of all states */

/* A cost integrated beside the state: q' = cost(t, y; args) [rows,1], q(t0) = 0. Field and cost get
 * the same `user`. Returns y as ode_solve does and *q [rows, T, 1]. */
ad_var ode_solve_cost(ode_field field, ode_field cost, void *user, ad_var y0, int nargs,
                      const ad_var *args, ad_var times, const ode_options *options, ad_var *q);

/* ---- flows and densities --------------------------------------------------------------------- */

/* The flow x0 [rows,d] -> x(T) and the log-determinant of its Jacobian, d logdet/dt = tr(dF/dx),
 * exact, solved jointly. Returns x(times[last]) [rows,d]; *logdet [rows,1] (Chen et al. 2018,
 * arXiv:1806.07366, theorem 1). */
ad_var ode_flow(ode_field field, void *user, ad_var x0, int nargs, const ad_var *args, ad_var times,
                const ode_options *options, ad_var *logdet);

/* With a cost along the way, for regularisers such as the squared speed (Finlay et al. 2020,
 * arXiv:2002.02798): q' = cost(t, x; args) [rows,1], *q [rows,1] at the end. A cost that needs the
 * field calls it: equal values are computed once. */
ad_var ode_flow_cost(ode_field field, ode_field cost, void *user, ad_var x0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, ad_var *logdet,
                     ad_var *q);

/* Continuous normalizing flow (Chen et al. 2018; Grathwohl et al. 2019, arXiv:1810.01367). The
 * field carries data at time 0 to the standard normal base at time T = `horizon` (> 0).
 * log_density: log p(x) [rows,1] of data x [rows,d]. sample: data from base draws z [rows,d]
 * (solves T -> 0). encode: data to base, which sample reverses up to the tolerance. An
 * options.norm of one's own sees x alone in sample and encode, x and log-determinant (and cost) in
 * densities. */
typedef struct {
    ode_field field;
    void *user;
    double horizon;
    ode_options options;
} ode_cnf;
ad_var ode_cnf_log_density(const ode_cnf *flow, ad_var x, int nargs, const ad_var *args);
/* With a cost as ode_flow_cost has it (its user is the flow's), from the data to the base: *q
 * [rows,1]. */
ad_var ode_cnf_log_density_cost(const ode_cnf *flow, ode_field cost, ad_var x, int nargs,
                                const ad_var *args, ad_var *q);
ad_var ode_cnf_sample(const ode_cnf *flow, ad_var z, int nargs, const ad_var *args);
ad_var ode_cnf_encode(const ode_cnf *flow, ad_var x, int nargs, const ad_var *args);
/* Row-wise log density of the standard normal: [rows,d] -> [rows,1]. */
ad_var ode_normal_log_density(ad_var z);

/* ---- exogenous inputs ------------------------------------------------------------------------ */

/* u(t) from samples u_k at times `knots` [K] (strictly increasing; linear and cubic: in the tape's
 * type too): samples [K,D] shared, or [rows,K,D] per row; t with sizes 1 (or [rows,1]) as a field
 * gets it. Result [1,D] or [rows,D].
 * Differentiable in samples and t. linear and cubic continue their end pieces outside the knots;
 * cubic: Hermite pieces whose slopes at the knots are those of the parabolas through three
 * neighbouring samples. hold: the latest sample (zero-order hold, right-continuous: u(t) = u_k from
 * knots[k] to just before the next), the first one before the first knot.
 *
 * Knots are stops: inside a field, with the field's own t, steps end at every knot that lies in the
 * solve's interval, and where a hold jumps the field is evaluated on the step's own side, as at
 * options.jump_times. This is so for knots made by ad_constant and for those that are an argument
 * of the solve as it was given (read anew at every run). Other knots (computed, sliced; t shifted
 * or scaled; options.rerecord) are not known to the solve: give their times in options.jump_times.
 */
typedef enum { ODE_LINEAR, ODE_CUBIC, ODE_HOLD } ode_interpolation;
ad_var ode_interpolate(ode_interpolation kind, ad_var t, ad_var knots, ad_var samples);

#ifdef __cplusplus
}
#endif
#endif
