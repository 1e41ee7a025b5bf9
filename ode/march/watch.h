/* Internal: what the parts of the watch share (watch.c says what it is). */
#ifndef ODE_WATCH_H
#define ODE_WATCH_H
#include "ode/march/march.h"
#include <complex.h>
#include <float.h>
#include <math.h>

/* Relative errors of the tangents that are allowed: of the whole solve, and the least that is worth
 * asking for. */
static const double whole_error = 0.02, least_error = 1e-5;

/* A number in [-1.5,-0.5] or [0.5,1.5] for each counter (SplitMix64's mixing; Steele, Lea, Flood
 * 2014, doi:10.1145/2660193.2660195). */
static inline double random_weight(uint64_t counter)
{
    uint64_t x = (counter + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    double size = 0.5 + (double)(x >> 12) * 0x1p-52;
    return x & 1 ? size : -size;
}

/* That of element i of state j, [rows,size]: the same in each row, unless rows are coupled. */
static inline double state_weight(const ode_system *s, int j, int64_t i)
{
    const int64_t at = s->rows == AD_ROWS_COUPLED ? i : i % s->size[j];
    return random_weight(((uint64_t)j << 32) + (uint64_t)at);
}

/* What disturbances are chosen by, apart from an element's own tolerance. */
typedef struct {
    double rtol, least, size, rounding;
} ode_scales;
static inline ode_scales ode_scales_of(const ode_march *m)
{
    const double unit = m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON;
    return (ode_scales){ m->rtol, m->watch.least, m->watch.size, 3e4 * unit };
}

/* A disturbance of an element that is at most so large: of the size of its tolerance, well above
 * rounding, and no large part of the state, whatever the tolerance. Loops over elements are to
 * become vectors: so no fmax, which is a call. */
static inline double ode_scale(ode_scales q, double atol, double largest)
{
    const double size = largest > q.size ? largest : q.size, part = 0.01 * q.size,
                 floor = q.rounding * (largest > part ? largest : part);
    double tolerance = atol + q.rtol * largest;
    tolerance = tolerance > q.least ? tolerance : q.least;
    if (size > 0) tolerance = tolerance < 0.1 * size ? tolerance : 0.1 * size;
    return tolerance > floor ? tolerance : floor;
}
static inline double scale_of(const ode_march *m, int64_t element, double largest)
{
    return ode_scale(ode_scales_of(m), ode_tolerance(m, element, 0), largest);
}

/* Of so many rows, those that explicit steps are looked at in more than once (modes.c). */
int64_t ode_most_picked(const ode_system *system, int64_t rows);

/* The n elements of state j in the k-th row that is picked: where they begin among those of all
 * rows, and among those of the picked ones; `column`: among those of a row. For all such runs: for
 * (ode_run c = ode_first_run(m); c.j < nstate; ode_next_run(m, &c)) */
typedef struct {
    int j;
    int64_t k, n, first, at, part, column;
} ode_run;
static inline void ode_place_run(const ode_march *m, ode_run *c)
{
    if (c->j == m->system->nstate) return;
    c->n = m->system->size[c->j];
    c->at = c->first + ((const int64_t *)m->watch.picks.data)[c->k] * c->n;
}
static inline ode_run ode_first_run(const ode_march *m)
{
    ode_run c = { 0 };
    ode_place_run(m, &c);
    return c;
}
static inline void ode_next_run(const ode_march *m, ode_run *c)
{
    c->part += c->n;
    if (++c->k == m->watch.picked) {
        c->k = 0;
        c->first += m->rows * c->n;
        c->column += c->n;
        c->j++;
    }
    ode_place_run(m, c);
}

/* Whether a mode has decayed to less than half the tolerance at the first output. */
bool ode_is_spent(const ode_march *m, double complex lambda);

/* How far steps of size h strain a mode: above 1 they are beyond the limit of stability, with the
 * margin, or the derivative along the mode is wrong at an output (propagate.c). About in proportion
 * to h. */
double ode_strain(const ode_march *m, double complex lambda, double h);
/* The same by the horizon at most, and beyond 1 the step over the largest one that does not: of two
 * modes beyond their limits the less stable one may need the larger steps. */
double ode_excess(const ode_march *m, double complex lambda, double h);
/* By how much one step puts a mode wrong: |log(R(z) / e^z)|, z = h lambda, at most 2; and that in
 * units of what is allowed at an output. */
double ode_deviation(const ode_march *m, double complex z);
double ode_stray(const ode_march *m, double complex lambda, double h);
/* The largest step that does not. */
double ode_largest_step(const ode_march *m, double complex lambda);

/* What the first look or tangent of a solve begins with; many solves are over before (modes.c). */
void ode_watch_prepare(ode_march *m, const void *y);

/* The mode that steps of this size strain most. 1; 0: not that they are close to its limit, or
 * nothing can be said, then it may be another one; -1 with the march's error written (modes.c). */
int ode_find_steepest(ode_march *m, const ode_boundary *a, int direction, const void *y, double h,
                      double complex *found);
/* Of all modes in the rows that are picked, the one that steps of this size strain most;
 * watch.steepest: the largest |lambda|. 1; 0: they are not looked for, or cannot be told; -1 with
 * the march's error written (spectrum.c). */
int ode_find_in_spectrum(ode_march *m, const ode_boundary *a, int direction, const void *y,
                         double h, double complex *found);
/* Of the same, what their Jacobians do to a few directions, into watch.jacobians, [picked,n,n]; the
 * field at y is in slope[0]. As that (krylov.c). */
int ode_project_jacobians(ode_march *m, const ode_boundary *a, int direction, const void *y);
/* Holds the steps within the limit of a mode that is known for certain. */
void ode_limit_steps(ode_march *m, const ode_boundary *a, int direction, double complex found);

/* Tangents of steps and of the field (tangents.c). */
bool ode_some_element_rests(const ode_march *m);
/* Whether nothing will ever move: the field does not read the time, and is zero. */
bool ode_is_at_rest(const ode_march *m);
/* Whether one rests whose derivative is zero: others may do so by rounding, on the slow parts of a
 * stiff solution. */
bool ode_some_element_stands(const ode_march *m);
/* Relative errors of the step's tangents by state and by arguments, in units of what is allowed,
 * the largest of all rows: of all elements in a blind step, else of those that rest. These need not
 * be more accurate than the others, for which the state's error has chosen the step. 1; 0: the
 * field has no tangents; -1 with the march's error written. */
int ode_tangent_errors(ode_march *m, const ode_boundary *a, const void *y, double size, bool blind,
                       double most, double *error);
/* A short look: whether the field's tangents say that those of the step are accurate for the
 * elements that rest. The arguments do nothing to these (or what is constant for ever), and the
 * first term of exp(h |J|) that the method lacks is allowed; |J|^2 is what two products by the
 * Jacobian do to a random direction, which is right for oscillators, whatever their units.
 * *largest: the step for which this still holds. 1; 0: they do not say it; -1 with the march's
 * error written. */
int ode_look_shortly(ode_march *m, const ode_boundary *a, const void *y, double size, double most,
                     double *largest);
/* By what part the arguments' effect on the field at the end of the step, state next, changes where
 * the state changes by its tolerance along the steepest mode. An effect on that mode of half the
 * tolerance is the least that counts. 1; 0: the field has no tangents; -1 with the march's error
 * written. */
int ode_force_by_state(ode_march *m, const ode_boundary *a, const void *next, double *change);

#endif
