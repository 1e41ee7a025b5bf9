/* costate: solving stochastic differential equations
 *
 *     dy = f(t, y; args) dt + g(t, y; args) dW
 *
 * as differentiable operations. Drift f and diffusion g are C functions that record operations, as
 * the field of an ordinary equation is (ode.h), and all that is said there of shapes, errors,
 * memory and threads holds here too: a solve is an operation on the caller's tape, and its
 * derivatives by initial states, arguments (those of the drift and of the diffusion) and times
 * exist in every order.
 *
 * The Brownian path W is a function of numbers that the caller chooses (sde_path), so a solve is
 * reproducible to the bit, on any machine, with any number of threads and in any batch. Derivatives
 * are those of the discretisation on this path: the accepted steps are frozen, and so are the
 * standardised numbers of each step, W(b) - W(a) = sqrt|b - a| w. Of a derivative by times this is
 * the derivative of the law: a gradient of an expected loss has no bias.
 *
 * The continuous adjoints, ode_backsolve and ode_interpolating, solve the adjoint equation
 * backwards on the same path, in the sense of Stratonovich (Li et al. 2020, arXiv:2001.01328): by
 * Heun's method along the steps of the solve, whatever its method and calculus. Their gradients
 * differ from the discrete one by the error of the steps; there is none by times. ode_backsolve
 * recomputes the state backwards, so its memory does not grow with the steps but for their times;
 * ode_interpolating takes the stored states, and is nearer to the gradient where the equation
 * forgets its past. */
#ifndef COSTATE_SDE_H
#define COSTATE_SDE_H
#include "ode.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- noise ----------------------------------------------------------------------------------- */

/* What a diffusion returns for a state [rows, D...] says what noise drives the state:
 *
 *   - the shape of the state, or what broadcasts to it: diagonal noise; each element of each row
 *     has a Brownian motion of its own, dy_i = f_i dt + g_i dW_i. Element i of g is to depend on
 *     element i of y alone where a method's strong order 1 and more is to be had;
 *   - one axis more, [rows, D..., m] (or [1, D..., m]: the same for all rows): general noise; each
 *     row has m Brownian motions, dy_i = f_i dt + sum_j g_ij dW_j. With m = 1 it is scalar noise.
 *
 * Noise is additive where g does not depend on y. Of several states all have diagonal noise, each
 * its own, or all have general noise by the same m Brownian motions; a state for which the
 * diffusion leaves an empty variable, (ad_var){0}, has none. Drift and diffusion are called once
 * (with options.ode.rerecord at every step, and before that once with ones for all numbers, to see
 * the noise), with the same `user`, on the same tape: what both compute is computed once. */

/* What the equation means. Methods converge to solutions in one of the two senses, or in both;
 * where that is not the one that the options name, the drift gets the correction
 * -+ 1/2 sum_j (dg_j/dy) g_j, which is recorded from the tape, so that every method solves the
 * equation that was meant. Where noise is additive there is no difference. */
typedef enum { SDE_ITO, SDE_STRATONOVICH } sde_calculus;

/* Which Brownian path: W is a function of seed, draw, row, component, and of the interval and the
 * cells of the path, and of nothing else. Zeros are the defaults. */
typedef struct {
    uint64_t seed; /* default 0: equal options give equal paths */
    /* {0}: none; else a scalar [], or [rows,1] for each row its own: whole numbers from 0 on (below
     * 2^53, in f32 below 2^24), read at every run. Each number has a path of its own, so that a
     * training step that counts gets new paths without anything being compiled. Its derivative is
     * zero. It counts as one of the arguments, of which there may be 64. */
    ad_var draw;
    /* Interval of the path; both 0: that of the solve. Solves over parts of one interval, with
     * equal cells, have parts of one path. */
    double t0, t1;
    /* > 0: so many equal cells of the interval, between which increments are found in order, at the
     * cost of a draw a cell; inside a cell by bisection. Default 0: of fixed steps over the solve's
     * own interval, the steps; else one cell. Replayed steps have the cells of the solve that took
     * them, so that the path is the same. Steps that were chosen by their errors are replayed on
     * their own path alone: another seed, interval, antithetic or common is an error of the run. */
    int64_t cells;
    /* instead: cells + 1 boundaries of the interval, increasing or decreasing (copied) */
    const double *grid;
    bool antithetic; /* row 2 i + 1 has minus the path of row 2 i */
    bool common;     /* all rows have the path of row 0 */
} sde_path;

/* The path itself, of m Brownian motions a row (of diagonal noise: one an element), from s to t,
 * which may lie before s: w [rows,m] gets W(t) - W(s); h, where it is not NULL, the mean H over the
 * interval of what W differs from its chord by, so that the integral of W(r) - W(s) dr is
 * (t - s) (w / 2 + h); k, where it and h are not NULL, K, the mean of the same times
 * 1/2 - (r - s) / (t - s) (Foster, Lyons & Oberhauser 2020, arXiv:1904.06998). The path must have
 * an interval (t0 and t1, or a grid), and the cells that its solve has: for fixed steps, unless the
 * solve's options say otherwise, the steps. Each dtype has paths of its own. draw, if any, must
 * have a value. 0, or -1 with a message. From any thread that may use draw's tape. */
int sde_path_increments(const sde_path *path, ad_dtype dtype, int64_t rows, int64_t m, double s,
                        double t, void *w, void *h, void *k, char *error, size_t error_size);

/* Zero means the default. `ode` has the options of ordinary solves, with other defaults: method
 * sde_euler_maruyama, controller ode_control_pi, rtol 1e-3 and atol 1e-6, and a first step of a
 * hundredth of the time to the first output. All steps end at output times, chosen ones too.
 * Chosen steps are neither watched nor held within a limit of stability. */
typedef struct {
    ode_options ode;
    sde_calculus calculus;
    sde_path path;
    /* General noise commutes: sum_i (dg_k/dy_i) g_il = sum_i (dg_l/dy_i) g_ik for all k, l. Methods
     * that need this take it on trust. */
    bool commutative;
} sde_options;

/* ---- methods --------------------------------------------------------------------------------- */

/* Methods are constant objects of the same type as those for ordinary equations, but neither kind
 * solves the other kind of equation. ode_method_name, ode_method_about (which says what noise a
 * method takes, and where it comes from) and ode_method_adaptive are for both. */
extern const ode_method sde_euler_maruyama, sde_heun, sde_midpoint, sde_euler_heun,
    sde_reversible_heun;
/* Of higher strong order where the noise commutes (diagonal, scalar; general noise with
 * options.commutative): milstein 1, slow_rk 1.5; sri1 and sri2, of diagonal and scalar noise, 1.5.
 */
extern const ode_method sde_milstein, sde_sri1, sde_sri2, sde_slow_rk;
/* Of all noise, with smaller errors than Heun's method: by the space-time area of the path (spark,
 * shark_general), by an approximated Levy area (log_ode). */
extern const ode_method sde_spark, sde_shark_general, sde_log_ode;
/* Of additive noise: sea of strong order 1, the others of 1.5. */
extern const ode_method sde_sea, sde_sra1, sde_sra2, sde_sra3, sde_shark;
/* For stiff drifts: the drift is that at the end of the step, found by Newton's method. */
extern const ode_method sde_implicit_euler, sde_implicit_milstein;
/* Of the underdamped Langevin equation alone (sde_langevin). */
extern const ode_method sde_align, sde_sort, sde_quicsort;
const ode_method *const *sde_methods(void);          /* all, NULL-terminated */
const ode_method *sde_method_find(const char *name); /* "euler_maruyama"; NULL when there is none */
/* Strong order for the most general noise that a method takes: the root mean square error at the
 * end goes down with h^order on each path. Weak order: that of expectations. 0: no method of
 * stochastic equations. */
double sde_method_strong_order(const ode_method *method);
double sde_method_weak_order(const ode_method *method);

/* ---- solving --------------------------------------------------------------------------------- */

/* As ode_solve and its kin: all times, [rows, T, D...]; the last time, [rows, D...]; several
 * states. `options` may be NULL, but fixed steps need options.ode.step or steps. */
ad_var sde_solve(ode_field drift, ode_field diffusion, void *user, ad_var y0, int nargs,
                 const ad_var *args, ad_var times, const sde_options *options);
ad_var sde_solve_final(ode_field drift, ode_field diffusion, void *user, ad_var y0, int nargs,
                       const ad_var *args, ad_var times, const sde_options *options);
int sde_solve_states(ode_fields drift, ode_fields diffusion, void *user, int nstate,
                     const ad_var *y0, int nargs, const ad_var *args, ad_var times,
                     const sde_options *options, ad_var *y);
int sde_solve_states_final(ode_fields drift, ode_fields diffusion, void *user, int nstate,
                           const ad_var *y0, int nargs, const ad_var *args, ad_var times,
                           const sde_options *options, ad_var *y);
/* A cost integrated along the path: q' = cost(t, y; args) [rows,1], q(t0) = 0. Drift, diffusion and
 * cost get the same `user`. Returns y as sde_solve does and *q [rows, T, 1]. */
ad_var sde_solve_cost(ode_field drift, ode_field diffusion, ode_field cost, void *user, ad_var y0,
                      int nargs, const ad_var *args, ad_var times, const sde_options *options,
                      ad_var *q);

/* ---- the underdamped Langevin equation ------------------------------------------------------- */

/* Position x and velocity v in a potential U,
 *
 *     dx = v dt,   dv = -gamma v dt - u grad U(t, x; args) dt + sqrt(2 gamma u) dW,
 *
 * whose law tends to exp(-U(x) - |v|^2 / (2 u)): a sampler of exp(-U), for which U may be known up
 * to a constant, or by its gradient alone (a score model). x and v have one shape [rows, D...]. */
typedef struct {
    /* of U at x, of x's shape: ad_grad of the sum of U over the rows, say */
    ode_field gradient;
    void *user;
    ad_var friction;     /* gamma >= 0, of a shape that broadcasts to x's */
    ad_var inverse_mass; /* u > 0, likewise; {0}: 1 */
} sde_langevin;

/* y[0]: x, and y[1]: v, at all times [rows, T, D...], or at the last one [rows, D...]. The default
 * method is sde_align; those for additive noise work too. Gradients flow to x0, v0, args, friction,
 * inverse mass and times; friction and inverse mass count as arguments. 0, or -1 with the tape's
 * error set. */
int sde_langevin_solve(const sde_langevin *equation, ad_var x0, ad_var v0, int nargs,
                       const ad_var *args, ad_var times, const sde_options *options, ad_var *y);
int sde_langevin_solve_final(const sde_langevin *equation, ad_var x0, ad_var v0, int nargs,
                             const ad_var *args, ad_var times, const sde_options *options,
                             ad_var *y);

/* ---- two equations with one diffusion -------------------------------------------------------- */

/* The divergence of a posterior, dy = posterior(t, y) dt + g dW, from a prior, dy = prior(t, y) dt
 * + g dW, that start alike (Li et al. 2020, arXiv:2001.01328; Girsanov's theorem). Over the paths
 * of the posterior up to time t,
 *
 *     KL(posterior || prior) = E kl,  kl' = |u|^2 / 2,  g u = posterior - prior.
 *
 * Returns the posterior's paths as sde_solve does, and *kl [rows,T,1], of which the mean over rows
 * estimates the divergence; that of two starts is the caller's to add. Both drifts are meant in the
 * calculus of the options; u is the same in either. All three functions get the same `user` and
 * arguments. Noise is diagonal, or general by at least as many Brownian motions as the state has
 * elements, of which u is the smallest one. Where g is singular (an element or a row of it is 0, or
 * rows depend on each other) the divergence is infinite: an error of the run. */
ad_var sde_solve_kl(ode_field posterior, ode_field prior, ode_field diffusion, void *user,
                    ad_var y0, int nargs, const ad_var *args, ad_var times,
                    const sde_options *options, ad_var *kl);

#ifdef __cplusplus
}
#endif
#endif
