/* Internal: what a method is, and what a step is recorded from and into.
 *
 * A method is a constant: what it can do (flags, orders), which times it evaluates the field at,
 * what it carries from step to step, and recorders. A recorder writes one step as operations on a
 * tape: it reads an ode_step and fills an ode_step_results. What all methods have in common (error
 * norms, whether the step is finite, derivatives, dense output without stages) is made around it.
 */
#ifndef ODE_STEP_H
#define ODE_STEP_H
#include "ode/field/system.h"

/* Kinds of arrays in ports (ports.def); how many of them there are is the system's. */
typedef enum {
    ODE_SHAPE_SCALAR,          /* [], one for the call */
    ODE_SHAPE_SIZE,            /* [] for each clock: the size of the step by it */
    ODE_SHAPE_TIME,            /* as a field gets t, sizes 1, for each clock */
    ODE_SHAPE_ROW_NUMBER,      /* [rows] */
    ODE_SHAPE_STATE,           /* each state [rows,D...] */
    ODE_SHAPE_STATE_ELEMENT,   /* each state's elements [1,D...] */
    ODE_SHAPE_WIDE,            /* [rows,width]: all states side by side */
    ODE_SHAPE_JACOBIAN,        /* [rows,width,width] */
    ODE_SHAPE_QUADRATURE,      /* each quadrature */
    ODE_SHAPE_ROW_ARGUMENT,    /* each per-row argument; of a step those that are not given */
    ODE_SHAPE_GIVEN,           /* each given argument */
    ODE_SHAPE_SHARED,          /* each shared value */
    ODE_SHAPE_SHARED_ARGUMENT, /* each argument without rows */
    ODE_SHAPE_RESIDUAL,        /* each residual of an evaluation */
    ODE_SHAPE_DIFFUSION,       /* each diffusion of a state that has noise */
    ODE_SHAPE_NOISE,           /* [rows,m]: each Brownian motion */
    ODE_SHAPE_NOISE_PAIRS,     /* [rows,m(m-1)/2] of general noise with m > 1: each pair of them */
    ODE_SHAPE_COUNTS,          /* [3] */
    ODE_SHAPE_CARRIED          /* each kind in ode_method.carry */
} ode_shapes;

/* An explicit Runge-Kutta tableau, laid out as methods.def says: `stages` make y_next, one more is
 * f(t + h, y_next), `extra` serve dense output. Or that of an ESDIRK method (esdirk.def), in which
 * all stages after the first, f(t + h, y_next) too, have the coefficient `diagonal` of their own
 * slope. */
typedef struct {
    int stages, extra, dense;
    double diagonal;
    bool filtered;                    /* ESDIRK: the estimate goes through the stages' matrix */
    const double *c, *a, *e, *e3, *d; /* a: rows of 1, 2, ..., stages + extra coefficients */
} ode_tableau;
/* Coefficients of stage i >= 1 (i of them); row `stages` is b. */
static inline const double *ode_tableau_row(const ode_tableau *t, int i)
{
    return t->a + i * (i - 1) / 2;
}

/* A stochastic Runge-Kutta tableau, as srk.def says. Numbers of the path, of the size of sqrt|h|,
 * that multiply diffusions: W, H, sqrt|h|, and the integrals (W^2 - h) / (2 sqrt|h|) and (W^3 - 3 h
 * W) / (6 h). */
enum { SDE_W, SDE_H, SDE_ROOT, SDE_SECOND, SDE_THIRD, SDE_NUMBERS };
typedef struct {
    int stages;
    const double *c, *a, *b, *e; /* of the drift; a: rows of 1, 2, ... coefficients */
    /* Of the diffusions by each number (NULL: none): rows as in a, and weights. */
    const double *stage[SDE_NUMBERS], *result[SDE_NUMBERS], *error[SDE_NUMBERS];
} sde_tableau;

typedef struct {
    double tolerance;
    int iterations;
} ode_newton;

/* ---- what a step is recorded from ---- */

/* Quadratures: integrals along the solution that do not act on it. */
typedef struct {
    bool wanted;
    const ad_var *rate; /* at the beginning, where a slope is given; else NULL */
    const ad_var *size; /* sums of the increments' magnitudes so far; NULL: not in the error norm */
} ode_step_quadratures;

/* The error that a step may make. */
typedef struct {
    ad_var rtol, atol;
    ad_var rounding;    /* ode_guard_rounding */
    const ad_var *each; /* NULL, or instead of atol: of each state's elements [1,D...] */
} ode_step_norm;

/* Arrays of states have system->nstate variables. */
typedef struct {
    ad_tape *tape;
    ode_system *system;
    const ad_var *row, *shared; /* per-row arguments and shared values of the system */
    const ad_var *given;        /* given arguments, [evaluation][argument] */
    ad_var h;
    const ad_var *t; /* times of the evaluations (ode_method.c), with the rank a field expects */
    const ad_var *y; /* state at the beginning */
    const ad_var *slope; /* the field there; NULL: to be evaluated */
    const ad_var *carry; /* what the method carries, its arrays one after the other */
    bool estimate;       /* the error is wanted */
    bool stability;      /* estimate: |lambda| too, of a method with a limit of stability */
    bool dense;          /* the stages are wanted, ode_method.dense_stages of them */
    ode_step_quadratures quadrature;
    ode_step_norm norm;
    ode_newton newton;
    /* ODE_METHOD_IMPLICIT: 1, what the step before left of its factors may be used; 0: not;
     * invalid: not */
    ad_var reuse;
    const ode_residuals *residuals; /* NULL, or what of every evaluation is to be kept */
    /* Of a stochastic system: standardised numbers of the step's Brownian path, ode_method.noise of
     * them, [rows,m]: w, W = sqrt|h| w the increment from the step's start to its end; z of the
     * space-time Levy area, H = sqrt(|h|/12) z; of the space-space-time area, K = sqrt(|h|/720) z
     * (Foster, Lyons, Oberhauser 2020). pairs: as many standardised numbers, independent of the
     * path, as it has pairs of components, of a method that approximates its Levy area; NULL: there
     * is no pair. */
    const ad_var *noise, *pairs;
    ad_var root_h; /* sqrt|h|; its derivative is 0 where h is */
} ode_step;

/* ---- what a recorder fills ---- */

typedef struct {
    ad_var *next;     /* state at the end */
    ad_var *slope;    /* estimate: the field there */
    ad_var *carry;    /* of methods that carry something */
    ad_var *k;        /* stages, [stage][state]; memory for ODE_MAX_STAGES of them */
    ad_var *error;    /* estimate: of each state, in its unit */
    ad_var *error3;   /* ODE_METHOD_TWO_ESTIMATES: the cruder one */
    ad_var stiffness; /* stability: |lambda|^2, the largest of all rows */
    ad_var counts;    /* ODE_METHOD_IMPLICIT: [3] Newton's Jacobians, factorisations, iterations */
    /* ODE_METHOD_IMPLICIT: number of the first row whose stages were not found, from 1 (0: none),
     * and why (ode_newton_end); with an estimate only, other steps fail. */
    ad_var failed_row, failed_how;
    ad_var *ringing; /* ODE_METHOD_RINGS: of each state, elements above 1 where it does */
    ad_var *kept;    /* residuals: of evaluation i from kept[i * residuals->n] */
    /* Quadratures: increments, errors of both kinds, rates at the end (where a slope is wanted);
     * memory for rates [stage][quadrature]. */
    ad_var *quad, *quad_error, *quad_error3, *rate, *rates;
} ode_step_results;

/* ---- methods ---- */

enum {
    ODE_METHOD_ADAPTIVE = 1, /* gives an error estimate */
    /* the field at the end of a step with an estimate is a stage: the next step's first */
    ODE_METHOD_FSAL = 2,
    ODE_METHOD_IMPLICIT = 4,         /* finds roots, and counts what that takes */
    ODE_METHOD_STIFFLY_ACCURATE = 8, /* the last stage is the result */
    ODE_METHOD_MULTISTEP = 16,       /* wants equal steps */
    /* a part of the state that decays fast may alternate instead: steps say so
       (ode_step_results.ringing) */
    ODE_METHOD_RINGS = 32,
    ODE_METHOD_TWO_ESTIMATES = 64, /* a second, cruder estimate damps the first */
    /* evaluations are recorded in the step itself, so that their residuals can be kept; the first
       one is that of the state at the beginning */
    ODE_METHOD_KEEPS = 128,
    ODE_METHOD_REVERSIBLE = 512, /* a step from its end to its beginning undoes it */
    ODE_METHOD_LEVY_AREA = 256   /* wants the numbers of pairs (ode_step.pairs) */
};
/* Calculi that a stochastic method converges in, a bit each. */
enum {
    ODE_IN_ITO = 1 << SDE_ITO,
    ODE_IN_STRATONOVICH = 1 << SDE_STRATONOVICH,
    ODE_IN_BOTH = ODE_IN_ITO | ODE_IN_STRATONOVICH
};

struct ode_method {
    const char *name, *about;
    int flags;
    int order, error_order, dense_order;
    /* Evaluations are at t + c_i h: the first `times` of a step, with an error estimate and with
     * dense output more of them; begin_times of the recorder `begin`. */
    int times, times_estimate, times_dense, begin_times;
    const double *c, *begin_c;
    int dense_stages; /* stages that dense output takes */
    int ncarry;
    const ode_shapes *carry;
    const ode_tableau *tableau; /* of Runge-Kutta methods: for their own recorders */
    /* Of stochastic methods: groups of numbers of the path that a step takes (of others 0), the
     * kinds of noise (ODE_TAKES_...) and the calculi that it is for; orders for the most general
     * noise of those. `order` is the power of h with which the error estimate goes down. */
    int noise;
    const sde_tableau *stochastic; /* of stochastic Runge-Kutta methods: for their own recorder */
    unsigned takes, calculi;
    double strong_order, weak_order;
    void (*step)(const ode_method *method, const ode_step *s, ode_step_results *r);
    /* Makes results->carry from y, where a solve begins and where steps do not go on as before;
     * NULL: nothing is carried. */
    void (*begin)(const ode_method *method, const ode_step *s, ode_step_results *r);
    /* Weights w of y(t + theta h) = y + h sum_i w_i k_i over the dense stages, and their
     * derivatives by theta. */
    void (*dense)(const ode_method *method, double theta, double *w, double *slope);
    /* The largest h |lambda| of steps whose gradient is to be trusted; NULL: there is no limit. */
    double (*stability)(const ode_method *method);
    /* By what a step multiplies a mode of y' = lambda y: R(z), z = h lambda, times
     * (1 - tableau->diagonal z)^degree a polynomial. Its degree; coefficients [degree + 1], at most
     * ODE_MAX_STAGES + 1. NULL: not known. */
    int (*growth)(const ode_method *method, double *coefficient);
    /* With a limit: standard deviation of the derivative, by log lambda, of a step of
     * y' = lambda y at h |lambda| = x, where the states that the field sees have independent
     * errors of standard deviation 1. Grows with x. */
    double (*rounding)(const ode_method *method, double x);
};

static inline bool ode_method_has(const ode_method *m, int flags)
{
    return (m->flags & flags) == flags;
}
static inline bool ode_method_stochastic(const ode_method *m) { return m->noise > 0; }
/* How many of method->c a step evaluates at. */
static inline int ode_method_times(const ode_method *m, bool estimate, bool dense)
{
    return dense ? m->times_dense : estimate ? m->times_estimate : m->times;
}

/* Of a method that keeps, whether the evaluation is that of the state at an end of the step: the
 * first one, and with dense output or an estimate the one after the last, the next step's first. */
static inline bool ode_at_boundary(const ode_method *m, int evaluation)
{
    return evaluation == 0 || evaluation == m->times;
}

/* Dense output of methods without their own (hermite.c): three dense stages, of which the
 * evaluations with dense output must include those at c = 0 and 1. */
enum { ODE_HERMITE_STAGES = 3 };
void ode_hermite_dense(const ode_method *method, double theta, double *w, double *slope);
void ode_hermite_record(const ode_method *method, const ode_step *s, ode_step_results *r);

/* ---- what recorders share (record.c) ---- */

/* The field at time t[i] of the step. dy: where the derivatives go; rate: the quadratures' (NULL:
 * not wanted). Residuals are kept as evaluation i where they are wanted. */
void ode_record_field(const ode_step *s, const ode_step_results *r, int i, const ad_var *y,
                      ad_var *dy, ad_var *rate);
/* Of a stochastic system, drift and diffusion at time t[i] together; f or g NULL: not wanted.
 * States without noise have an invalid g. Residuals of both are kept where they are wanted. */
void ode_record_drift_diffusion(const ode_step *s, const ode_step_results *r, int i,
                                const ad_var *y, ad_var *f, ad_var *g);
/* dy = g x, x [rows,m] one number for each Brownian motion; invalid for states without noise. */
void ode_record_noise(const ode_step *s, const ad_var *g, ad_var x, ad_var *dy);
/* The increment W of the step, [rows,m]; the areas H and K. */
ad_var ode_record_increment(const ode_step *s);
ad_var ode_record_area(const ode_step *s);
ad_var ode_record_second_area(const ode_step *s);
/* The driven field, dy/ds = f(t + s h, y) h + g(t + s h, y) w, s in [0,1], at time t[i]: whose
 * solution over a step is that of the equation in the sense of Stratonovich, where w = W is the
 * step's increment and the path between its ends is a line. quad: NULL, or the quadratures'
 * increments, of augmented systems. */
void ode_record_driven(const ode_step *s, const ode_step_results *r, int i, const ad_var *y,
                       ad_var w, ad_var *dy, ad_var *quad);
/* Per-row arguments of the system as evaluation i has them; memory: ODE_MAX_ROWS. */
const ad_var *ode_step_row(const ode_step *s, int i, ad_var *memory);
/* Sum of c_i x_i over n of them that lie stride apart (terms with c_i = 0 are left out); invalid
 * when there is none. */
ad_var ode_record_weighted(int n, const double *c, const ad_var *x, int stride);
/* y + weight * sum of c_i k_i[state] over n stages that lie nstate apart, by recorded operations
 * (terms with c_i = 0 are left out). */
ad_var ode_record_sum(ad_var y, ad_var weight, int n, const double *c, const ad_var *k, int nstate);

/* The error that a step may make in state j: atol + rtol max(|y|, |next|). */
ad_var ode_record_tolerance(const ode_step *s, const ad_var *next, int j);
/* Its reciprocal, which all norms of a step share. */
ad_var ode_record_weight(const ode_step *s, const ad_var *next, int j);
/* The largest absolute value of n arrays x and of as many y of their shapes (NULL: none): finite if
 * and only if all elements are. */
ad_var ode_record_largest(int n, const ad_var *x, const ad_var *y);
ad_var ode_record_row_squares(ad_var x); /* sums of squares by row, [rows] */

/* Numbers that all steps give, made from a recorder's results (measure.c). error, error3: sums of
 * squares of scaled errors, of steps with an estimate; quadratures: the largest mean square of a
 * quadrature's scaled errors. */
typedef struct {
    ad_var finite, error, error3, quadratures;
    ad_var *size; /* of the quadratures, after the step */
} ode_step_measures;
void ode_record_measures(const ode_method *method, const ode_step *s, const ode_step_results *r,
                         ode_step_measures *measures);

#endif
