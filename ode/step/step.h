/* Internal: what a step is recorded from and into, and what a method is. */
#ifndef ODE_STEP_H
#define ODE_STEP_H
#include "ode/field/system.h"

/* An explicit Runge-Kutta tableau, laid out as methods.def says: `stages` make y_next, one more is
 * f(t + h, y_next), `extra` serve dense output. */
typedef struct {
    int stages, extra, dense;
    const double *c, *a, *e, *e3, *d; /* a: rows of 1, 2, ..., stages + extra coefficients */
} ode_tableau;
/* Coefficients of stage i >= 1 (i of them); row `stages` is b. */
static inline const double *ode_tableau_row(const ode_tableau *t, int i)
{
    return t->a + i * (i - 1) / 2;
}
/* Weights w, and their derivatives, of y(t + theta h) = y + h sum_i w_i k_i; stages + 1 + extra of
 * each. */
void ode_dense_weights(const ode_tableau *t, double theta, double *w, double *slope);

typedef struct {
    double tolerance;
    int iterations;
} ode_newton;

/* What a step is recorded from and into. Arrays of states have system->nstate variables. */
typedef struct {
    ad_tape *tape;
    ode_system *system;
    const ad_var *row, *shared; /* per-row arguments and shared values of the system */
    ode_newton newton;
    ad_var h;
    const ad_var *t;          /* stage times, with the rank a field expects */
    const ad_var *y, *carry;  /* carry: the method's, or the first stage k_1 of a Runge-Kutta step
                                 (NULL: to be evaluated) */
    const ad_var *carry_quad; /* its quadrature part */
    const ad_var *size; /* quadratures in the error norm: the sum of their increments' magnitudes so
                           far (NULL: they are not in it) */
    bool estimate, dense, quadrature;
    ad_var rtol, atol, rounding; /* rounding: ode_guard_rounding */
    const ad_var
        *each; /* NULL, or absolute tolerances of each state's elements [1,D...], instead of atol */
    const ode_residuals *residuals; /* NULL, or what of every evaluation is wanted, of stage i from
                                       kept[i * residuals->n] */
    ad_var *kept;
    /* Results. */
    ad_var *next, *carry_next, *carry_quad_next;
    ad_var *ringing; /* of each state, if the method rings: elements above 1 where it does */
    ad_var *quad;    /* increments of the quadratures */
    ad_var *rates;   /* memory for the quadratures' rates at the stages, [stage][quadrature] */
    ad_var *size_next, quad_error; /* the largest mean square of a quadrature's scaled errors */
    ad_var *k;                     /* stages, [stage][state] */
    ad_var error, error3, finite, counts; /* sums of squares of scaled errors; a number that is
                                             finite when the step is; Newton's counts */
    ad_var stiffness;                     /* |lambda|^2, the largest of all rows */
} ode_step;

struct ode_method {
    const char *name, *about;
    int order, error_order, dense_order;
    const ode_tableau *tableau; /* explicit Runge-Kutta methods, else NULL */
    int times, begin_times;     /* stage times t + c_i h of a step and of the bootstrap */
    const double *c, *begin_c;
    bool implicit;
    bool rings; /* a part of the state that decays fast may alternate instead: steps say so
                   (ode_step.ringing) */
    void (*step)(const ode_method *method, ode_step *s);
    void (*begin)(const ode_method *method,
                  ode_step *s); /* makes carry_next from y; NULL: nothing is carried */
};

/* ---- what recorders share (record.c) ---- */

/* Stage times that a program of the method reads (dense: with those of the dense stages). */
int ode_method_times(const ode_method *method, bool last, bool dense);
/* Sum of c_i x_i over n of them that lie stride apart (terms with c_i = 0 are left out); invalid
 * when there is none. */
ad_var ode_record_weighted(int n, const double *c, const ad_var *x, int stride);
/* y + weight * sum of c_i k_i[state] over n stages that lie nstate apart, by recorded operations
 * (terms with c_i = 0 are left out). */
ad_var ode_record_sum(ad_var y, ad_var weight, int n, const double *c, const ad_var *k, int nstate);

/* The error that a step may make in state j: atol + rtol max(|y|, |next|). */
ad_var ode_record_tolerance(const ode_step *s, int j);
ad_var ode_record_weight(const ode_step *s,
                         int j); /* its reciprocal, which all norms of a step share */
/* The largest absolute value of n arrays x and of as many y of their shapes (NULL: none): finite if
 * and only if all elements are. */
ad_var ode_record_largest(int n, const ad_var *x, const ad_var *y);
ad_var ode_record_row_squares(ad_var x); /* sums of squares by row, [rows] */

#endif
