/* What the state does not show of its derivatives.
 *
 * The error of the state chooses the steps, and the gradient is that of these steps. It can be
 * wrong where the state is right: in a mode or a component that is at rest, in an argument that has
 * no effect at its present value. A march whose steps are for a gradient is therefore watched:
 *
 * - Hidden stiff modes. Now and then the field is evaluated beside the state, in a direction that
 * it has itself turned towards what it amplifies most: a nonlinear power iteration (Sommeijer,
 * Shampine, Verwer 1998, doi:10.1016/S0377-0427(97)00219-7), carried over from one look to the
 * next, for each row. If h |lambda| is close to the limit, it is iterated until it converges. Steps
 * that were beyond the limit since it was last known are taken again.
 * - Blind components. Where the state has no error to speak of, or some component's derivative does
 * not change over a step, the step's tangents by the state and by the arguments are taken, in one
 * random direction each: the error estimate's tangent must be small against the result's. As long
 * as nothing is found, this is done more and more rarely.
 * - Short looks, before that. A tangent of a step takes three times its evaluations; those of the
 * field at one point in the step take four, and are enough where the arguments do nothing to what
 * rests and its Jacobian is small: a clock, z of a plane orbit. If the whole state rests for ever,
 * as with a last layer of zeros, the arguments do what is constant, and the Jacobian alone decides.
 *
 * Directions are random by counting, the same in every row, so that results depend on nothing else.
 */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Evaluations of the field before the first look for stiff modes, and between two. */
static const int64_t first_look = 20, looks_apart = 60;
/* So many steps from one look to the next while a mode limits the steps. */
static const int64_t limited_apart = 8;
/* Parts of the limit to h |lambda|: what may lie beyond it for a while; where, within the margin,
 * to look closely. */
static const double beyond = 1.15, close = 0.77;
/* A mode that is no more than so much steeper than what the step itself shows is looked for half as
 * often: the guard sees it grow. */
static const double hidden = 1.1;
/* Power iterations in one look, how many of the last are averaged where they do not converge, and
 * the relative change that ends them. */
enum { MOST_ITERATIONS = 16, MEAN_OF = 8 };
static const double converged = 0.05;
/* A mode is damped if the field turns its direction nearly round. */
static const double damped_along = -0.9;
/* A damped mode need not be accurate if it decays by more than e^-50 before the first output. */
static const double spent = 50;
/* An error of the state that would let the next step grow by more than this says nothing of how
 * large a step may be, if it does so for several steps, if there is no error at all, or if the
 * step, not the first, is a large part of the solve. */
static const double blind_growth = 5, large_part = 0.2;
enum { BLIND_STEPS = 3 };
/* The first steps of a solve, which grow from almost nothing, are not probed while they are so
 * small a part of it. */
static const double small_part = 1e-3;
enum { GROWING_STEPS = 8 };
/* Relative errors of the tangents that are allowed: of a step, the most of it whatever the
 * tolerances, of the whole solve, and the least that is worth asking for. */
static const double step_error = 1e-3, most_error = 0.03, whole_error = 0.02, least_error = 1e-5;
/* An element that rests may be as inaccurate as the others are, up to so many times that. */
static const double others_error = 4;
static const double jump_part = 0.01;
/* Part of the solve that a step may take while the arguments do nothing at all: they may begin to.
 */
static const double unseen_part = 0.05;
/* Largest number of steps from one probe to the next: where the tangents would allow steps so many
 * times as large, where they would allow what the state does, and elsewhere; the latter two first
 * where only some elements rest, then in blind steps. */
static const double easy_growth = 5;
static const int64_t pause_easy = 256, pause_free[2] = { 64, 8 }, pause_close[2] = { 4, 1 };
/* Evaluations from one short look to the next: after the first one, and at most. Four times as many
 * each time. */
static const double short_apart = 50, most_short_apart = 500;

/* ---- memory ---- */

/* A number in [-1.5,-0.5] or [0.5,1.5] for each counter (SplitMix64's mixing; Steele, Lea, Flood
 * 2014, doi:10.1145/2660193.2660195). */
static double random_weight(uint64_t counter)
{
    uint64_t x = (counter + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    double size = 0.5 + (double)(x >> 12) * 0x1p-52;
    return x & 1 ? size : -size;
}

/* That of element i of state j, [rows,size]. */
static double state_weight(const ode_system *s, int j, int64_t i)
{
    return random_weight(((uint64_t)j << 32) + (uint64_t)(i % s->size[j]));
}

void ode_watch_close(ode_watch *w)
{
    ode_runner_close(&w->tangent);
    ode_runner_close(&w->field_tangent);
    ode_buffer *all[] = { &w->direction, &w->largest,   &w->moved, &w->slope, &w->sizes,
                          &w->rows,      &w->arguments, &w->each,  &w->chosen };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}

/* The direction of a tangent by an array of arguments: random, of each element's size beside that
 * of all, which counts as one where it is smaller: the tangents of arguments that are as good as
 * zero are to be told from rounding. */
static void argument_direction(ad_dtype dtype, ad_shape shape, int64_t rows, uint64_t seed,
                               const void *value, void *to)
{
    int64_t n = ad_count(shape, rows), period = ad_has_rows(shape) && rows > 0 ? n / rows : n;
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += fabs(ode_load(dtype, value, i)) / (double)n;
    if (!(mean > 1) || !isfinite(mean)) mean = 1;
    for (int64_t i = 0; i < n; i++) {
        double size = fabs(ode_load(dtype, value, i)) + mean;
        ode_store(dtype, to, i, random_weight(seed + (uint64_t)(i % period)) * size);
    }
}

/* What each tangent needs once a solve. false: out of memory. */
static bool point_arguments(ode_watch *w, const ode_march *m, ode_runner *r)
{
    const ode_system *s = m->system;
    size_t bytes = 0;
    for (int i = 0; i < s->nrow; i++)
        bytes += ode_array_bytes(s->dtype, s->arg[s->row[i]], m->rows);
    for (int i = 0; i < s->nshared; i++) bytes += ode_array_bytes(s->dtype, s->shared[i], 1);
    char *to = ode_buffer_need(&w->arguments, bytes);
    if (!to) return false;
    const void **row_values = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_ROW),
               **shared_values = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_SHARED);
    ode_runner_arguments(r, row_values, shared_values);
    for (int i = 0; i < s->nrow + s->nshared; i++) {
        bool row = i < s->nrow;
        int k = row ? i : i - s->nrow;
        ad_shape shape = row ? s->arg[s->row[k]] : s->shared[k];
        const void *value = row ? row_values[k] : shared_values[k];
        argument_direction(s->dtype, shape, m->rows, (uint64_t)(i + 1) << 40, value, to);
        ode_runner_in(r, ODE_VALUE, row ? ODE_PORT_ROW_DIRECTION : ODE_PORT_SHARED_DIRECTION)[k] =
            to;
        to += ode_array_bytes(s->dtype, shape, row ? m->rows : 1);
    }
    r->connected = true;
    return true;
}

/* The tangents' own tolerances: of an element that is zero and has none, a hundredth of rtol of the
 * largest one (of one, if all are zero).
 */
static void set_tolerances(ode_march *m, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    double largest = 0;
    for (int64_t i = 0; i < m->cells; i++) largest = fmax(largest, fabs(ode_load(s->dtype, y, i)));
    w->least = 0.01 * m->rtol * (largest > 0 ? largest : 1);
    for (int64_t i = 0; m->each && i < s->width; i++)
        ode_store(s->dtype, w->each.data, i, fmax(m->each[i], w->least));
    ode_store(s->dtype, w->number, 0, fmax(m->atol, w->least));
}

int ode_watch_open(ode_march *m, const ode_march_units *units, double horizon, double first_output)
{
    ode_watch *w = &m->watch;
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype),
           rows = (size_t)m->rows * sizeof(double);
    bool each = !m->each ||
                ode_buffer_need(&w->each, (size_t)m->system->width * ode_bytes(m->system->dtype));
    if (!each || !ode_buffer_need(&w->direction, slot) || !ode_buffer_need(&w->largest, slot) ||
        !ode_buffer_need(&w->moved, slot) || !ode_buffer_need(&w->slope, slot) ||
        !ode_buffer_need(&w->chosen, slot) || !ode_buffer_need(&w->rows, ODE_TANGENTS * rows))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    w->on = true;
    w->unit = units->tangent;
    w->field_unit = units->field_tangent;
    w->horizon = horizon;
    w->silent = pow(blind_growth, -m->method->order);
    w->first_output = first_output;
    w->prepared = w->tangent.connected = w->field_tangent.connected = w->certain = w->damped =
        w->again = false;
    w->short_looks = true;
    w->due = first_look;
    w->since[0] = w->since[1] = 0;
    w->reach = w->most = w->allowed = w->vetted = INFINITY;
    w->until = w->seen = w->lambda = 0;
    w->said_nothing = 0;
    w->short_apart = 0;
    w->asked = -1;
    w->evaluations = w->probes = w->probe_due = w->probed = 0;
    w->pause = 1;
    return 0;
}

/* What the first look or tangent of a solve begins with; many solves are over before. */
static void prepare(ode_march *m, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    if (w->prepared) return;
    set_tolerances(m, y);
    memset(w->largest.data, 0, (size_t)m->cells * ode_bytes(s->dtype));
    for (int j = 0; j < s->nstate; j++)
        for (int64_t i = 0; i < m->rows * s->size[j]; i++)
            ode_store(s->dtype, ode_part(s, m->rows, w->direction.data, j), i,
                      state_weight(s, j, i));
    w->prepared = true;
}

/* ---- hidden stiff modes ---- */

/* A disturbance of an element that is at most so large: of the size of its tolerance, and well
 * above rounding. */
static double scale_of(const ode_march *m, int64_t element, double largest)
{
    double rounding = m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON;
    return fmax(fmax(ode_tolerance(m, element, largest), m->watch.least), 3e4 * rounding * largest);
}

/* What a look finds in the row where it is largest. */
typedef struct {
    double lambda; /* |lambda| */
    double along;  /* cosine of the angle by which the field turns the direction: -1 where the mode
                      is damped */
} mode;

/* One power iteration in each row: the mode as it shows in the direction, which is turned. false:
 * the field is not finite there. */
static bool iterate(ode_march *m, const ode_boundary *a, int direction, const void *y, mode *found)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    ad_dtype dtype = s->dtype;
    for (int64_t i = 0; i < m->cells; i++) {
        double x = ode_load(dtype, y, i), most = fmax(fabs(x), ode_load(dtype, w->largest.data, i));
        ode_store(dtype, w->largest.data, i, most);
        ode_store(dtype, w->moved.data, i,
                  x + scale_of(m, i, most) * ode_load(dtype, w->direction.data, i));
    }
    int64_t evaluations = m->evaluations;
    bool fine = !ode_march_field(m, a->t, a->jump ? direction : 0, w->moved.data, w->slope.data,
                                 NULL, NULL);
    w->evaluations += m->evaluations - evaluations;
    if (!fine) return false;
    double *before = w->rows.data, *after = before + m->rows, *product = after + m->rows;
    memset(before, 0, 3 * (size_t)m->rows * sizeof *before);
    for (int pass = 0; pass < 2; pass++) {
        int64_t at = 0;
        for (int j = 0; j < s->nstate; j++)
            for (int64_t r = 0; r < m->rows; r++)
                for (int64_t i = 0; i < s->size[j]; i++, at++) {
                    double scale = scale_of(m, at, ode_load(dtype, w->largest.data, at));
                    double moved = ode_load(dtype, w->moved.data, at) - ode_load(dtype, y, at);
                    double turned =
                        ode_load(dtype, w->slope.data, at) - ode_load(dtype, m->slope[0].data, at);
                    if (!(scale > 0)) continue;
                    if (!pass) {
                        before[r] += pow(moved / scale, 2);
                        after[r] += pow(turned / scale, 2);
                        product[r] += moved / scale * turned / scale;
                    } else if (after[r] > 0 && isfinite(after[r])) {
                        ode_store(dtype, w->direction.data, at,
                                  turned / scale / sqrt(after[r] / (double)s->width));
                    }
                }
    }
    *found = (mode){ 0 };
    for (int64_t r = 0; r < m->rows; r++) {
        double lambda = before[r] > 0 && isfinite(after[r]) ? sqrt(after[r] / before[r]) : 0;
        if (lambda <= found->lambda) continue;
        found->lambda = lambda;
        found->along = (direction > 0 ? 1 : -1) * product[r] / sqrt(before[r] * after[r]);
    }
    return true;
}

/* The steepest mode. false: it is smaller than asked for, or nothing can be said. */
static bool find_steepest(ode_march *m, const ode_boundary *a, int direction, const void *y,
                          double least, mode *found)
{
    double before = m->watch.lambda, product = 0;
    *found = (mode){ 0 };
    prepare(m, y);
    for (int i = 0; i < MOST_ITERATIONS; i++) {
        if (!iterate(m, a, direction, y, found) || !(found->lambda > least)) return false;
        if (fabs(found->lambda - before) <= converged * found->lambda) return true;
        before = found->lambda;
        if (i >= MOST_ITERATIONS - MEAN_OF) product += log(found->lambda);
    }
    found->lambda =
        exp(product / MEAN_OF); /* a pair of complex ones goes round: the mean of the last */
    return found->lambda > least;
}

/* Holds the steps within the limit of a mode that is known for certain. */
static void limit_steps(ode_march *m, const ode_boundary *a, int direction, const mode *found)
{
    ode_watch *w = &m->watch;
    double before = w->most;
    w->most = m->guard.limit / (m->guard.margin * found->lambda);
    w->damped = found->along < damped_along && found->lambda * w->first_output > spent;
    w->reach = INFINITY;
    w->lambda = found->lambda;
    bool shown = hidden * w->seen >= found->lambda;
    w->due = m->evaluations + (shown ? 2 : 1) * limited_apart * m->method->times;
    if (direction * (a->t - w->until) < 0) w->most = fmin(w->most, before);
}

void ode_watch_rewind(ode_march *m)
{
    m->watch.probe_due = m->watch.probed = m->steps;
    m->watch.pause = 1;
    m->watch.again = true;
}

int64_t ode_watch_look(ode_march *m, const ode_boundary *a, int direction, const void *y, double h)
{
    ode_watch *w = &m->watch;
    const double *sizes = w->sizes.data;
    if (!w->on || (m->evaluations < w->due && h <= w->reach)) return -1;
    int64_t from = w->since[w->certain], back = -1;
    w->probes++;
    mode found;
    w->certain =
        find_steepest(m, a, direction, y, close * m->guard.limit / m->guard.margin / h, &found);
    if (w->certain) {
        limit_steps(m, a, direction, &found);
    } else {
        w->lambda = 0;
        if (direction * (a->t - w->until) >= 0) w->most = INFINITY;
        w->reach = found.lambda > 0
                       ? fmax(2 * h, close * m->guard.limit / m->guard.margin / found.lambda)
                       : INFINITY;
        w->due = m->evaluations + looks_apart;
    }
    w->since[0] = w->since[1];
    w->since[1] = m->steps;
    for (int64_t k = from; w->certain && k < m->steps && back < 0; k++)
        if (sizes[k] * found.lambda > beyond * m->guard.limit) back = k;
    if (back < 0) return -1;
    w->since[0] = w->since[1] = back;
    w->until = a->t;
    return back;
}

/* ---- blind components ---- */

/* Whether an element's derivative is the same at both ends of the step. */
static bool rests(const ode_march *m, int64_t i)
{
    ad_dtype dtype = m->system->dtype;
    return ode_load(dtype, m->slope[0].data, i) == ode_load(dtype, m->slope[1].data, i);
}

static bool some_element_rests(const ode_march *m)
{
    for (int64_t i = 0; i < m->cells; i++)
        if (rests(m, i)) return true;
    return false;
}

/* Whether one rests whose derivative is zero: others may do so by rounding, on the slow parts of a
 * stiff solution. */
static bool some_element_stands(const ode_march *m)
{
    for (int64_t i = 0; i < m->cells; i++)
        if (rests(m, i) && ode_load(m->system->dtype, m->slope[0].data, i) == 0) return true;
    return false;
}

/* Relative errors of the tangents by state and by arguments, from the sums of a row; NaN: nothing
 * can be said. */
static void relative_errors(const ode_march *m, const double *x, double size, double *by_state,
                            double *by_arguments, bool *unseen)
{
    /* A jump in time makes an error in proportion to the step: it may be small against what such a
     * rate does in a part of the solve. */
    double part = fmax(1, jump_part * m->watch.horizon / size),
           rounding = 64 * (m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    double whole = fmax(part * x[ODE_TANGENT_ARGUMENTS], x[ODE_TANGENT_ARGUMENTS_ERROR]);
    *by_state = x[ODE_TANGENT_STATE_ERROR] / fmax(x[ODE_TANGENT_STATE], x[ODE_TANGENT_STATE_START]);
    *by_arguments =
        whole * fmax(m->rtol, rounding) > rounding ? x[ODE_TANGENT_ARGUMENTS_ERROR] / whole : NAN;
    *unseen = !(whole > 0);
}

/* Runs a tangent of the step or of the field, whose errors are those of elements that rest, or of
 * all. 1; 0: the field has none; -1 with the march's error written. */
static int run_tangent(ode_march *m, ode_runner *r, const ode_unit *unit, const ode_boundary *a,
                       const void *y, bool all)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    char text[ODE_ERROR_SIZE];
    if (ode_runner_open(r, unit, m->threads, m->error, m->error_size)) return unit->absent ? 0 : -1;
    prepare(m, y);
    if (!r->connected && !point_arguments(w, m, r))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    int64_t cell = 0;
    for (int j = 0; j < s->nstate; j++)
        for (int64_t i = 0; i < m->rows * s->size[j]; i++, cell++)
            ode_store(s->dtype, w->moved.data, cell,
                      state_weight(s, j, i) * scale_of(m, cell, fabs(ode_load(s->dtype, y, cell))));
    /* The field's own tangents are taken inside the step. */
    bool of_field = unit->key.kind == ODE_UNIT_FIELD_TANGENT;
    const void **steps_times = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_TIMES);
    ode_place times = ode_unit_place(unit, ODE_VALUE, ODE_PORT_TIMES);
    for (int i = 0; i < times.count; i++) r->in[times.first + i] = steps_times[i + of_field];
    const ode_port numbers[] = { ODE_PORT_H, ODE_PORT_RTOL, ODE_PORT_ROUNDING };
    for (int i = of_field; i < 3; i++)
        *ode_runner_in(r, ODE_VALUE, numbers[i]) = *ode_runner_in(&m->step, ODE_VALUE, numbers[i]);
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_ATOL) = w->number;
    ode_runner_read(r, ODE_VALUE, ODE_PORT_ATOL_EACH, 1, w->each.data);
    for (int64_t i = 0; i < m->cells; i++)
        ode_store(s->dtype, w->chosen.data, i, all || rests(m, i));
    ode_runner_read(r, ODE_VALUE, ODE_PORT_CHOSEN, m->rows, w->chosen.data);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, m->rows, y);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_DIRECTION, m->rows, w->moved.data);
    char *out = w->rows.data;
    for (int i = 0; i < unit->layout.nout; i++)
        r->out[i] = out + (size_t)i * (size_t)m->rows * sizeof(double);
    if (ode_runner_run(r, m->rows, text, sizeof text))
        return unit->absent ? 0
                            : ode_fail(m, ODE_FAILED, "step %lld from t = %.15g: %s",
                                       (long long)m->steps, a->t, text);
    int arguments = s->nrow + s->nshared > 0;
    int64_t taken = of_field ? 3 + arguments : (2 + arguments) * m->method->times;
    m->evaluations += taken;
    w->evaluations += taken;
    w->probes++;
    return 1;
}

/* Relative errors of the step's tangents by state and by arguments, in units of what is allowed,
 * the largest of all rows: of all elements in a blind step, else of those that rest. These need not
 * be more accurate than the others, for which the state's error has chosen the step. 1; 0: the
 * field has no tangents; -1 with the march's error written. */
static int tangent_errors(ode_march *m, const ode_boundary *a, const void *y, double size,
                          bool blind, double most, double *error)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    ode_runner *r = &w->tangent;
    int there = run_tangent(m, r, w->unit, a, y, blind);
    if (there <= 0) return there;
    error[0] = error[1] = 0;
    w->unseen = false;
    for (int64_t i = 0; i < m->rows; i++) {
        double x[ODE_TANGENTS], inside[2], outside[2];
        bool unseen, unused;
        for (int k = 0; k < ODE_TANGENTS; k++)
            x[k] = sqrt(fmax(0, ode_load(s->dtype, r->out[k], i)));
        relative_errors(m, x, size, &inside[0], &inside[1], &unseen);
        relative_errors(m, x + ODE_TANGENT_SUMS, size, &outside[0], &outside[1], &unused);
        w->unseen = w->unseen || (blind && unseen && s->nrow + s->nshared > 0);
        for (int k = 0; k < 2; k++) {
            double allowed =
                isfinite(outside[k]) ? fmax(most, fmin(outside[k], others_error * most)) : most;
            if (isfinite(inside[k])) error[k] = fmax(error[k], inside[k] / allowed);
        }
    }
    return 1;
}

/* What the arguments must do to an element to be told from rounding, in units of the tolerance. */
static double least_force(const ode_march *m)
{
    double rounding = 64 * (m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    return rounding / fmax(m->rtol, rounding);
}

/* Whether nothing will ever move: the field does not read the time, and is zero. */
static bool is_at_rest(const ode_march *m)
{
    if (!m->system->trace || m->system->reads_time) return false;
    for (int64_t i = 0; i < m->cells; i++)
        if (ode_load(m->system->dtype, m->slope[0].data, i) != 0 || !rests(m, i)) return false;
    return true;
}

/* A short look: whether the field's tangents say that those of the step are accurate for the
 * elements that rest. The arguments do nothing to these (or what is constant for ever), and the
 * first term of exp(h |J|) that the method lacks is allowed; |J|^2 is what two products by the
 * Jacobian do to a random direction, which is right for oscillators, whatever their units.
 * *largest: the step for which this still holds. 1; 0: they do not say it; -1 with the march's
 * error written. */
static int look_shortly(ode_march *m, const ode_boundary *a, const void *y, double size,
                        double most, double *largest)
{
    ode_watch *w = &m->watch;
    bool still = is_at_rest(m);
    int there = run_tangent(m, &w->field_tangent, w->field_unit, a, y, still);
    if (there <= 0) return there;
    most = fmin(most, fmax(least_error, whole_error * size / w->horizon));
    double order = m->method->order + 1, part = fmax(size, jump_part * w->horizon), rate = 0;
    for (int64_t i = 0; i < m->rows; i++) {
        double x[ODE_FIELD_TANGENTS], chosen = 0;
        for (int k = 0; k < ODE_FIELD_TANGENTS; k++)
            x[k] = ode_load(m->system->dtype, w->field_tangent.out[k], i);
        if (!still && !(part * sqrt(x[ODE_TANGENT_FORCE]) <= least_force(m))) {
            w->short_looks = false; /* by chance they may do nothing at another point */
            return 0;
        }
        int64_t first = 0;
        for (int j = 0; j < m->system->nstate; first += m->rows * m->system->size[j++])
            for (int64_t c = i * m->system->size[j]; c < (i + 1) * m->system->size[j]; c++)
                chosen += ode_load(m->system->dtype, w->chosen.data, first + c);
        if (chosen > 0)
            rate =
                fmax(rate, sqrt(x[ODE_TANGENT_SECOND] / sqrt(x[ODE_TANGENT_DIRECTION] / chosen)));
        if (!isfinite(x[ODE_TANGENT_SECOND])) return 0;
    }
    *largest = pow(most * tgamma(order + 1), 1 / order) / rate;
    w->short_looks = size <= *largest || !still;
    return size <= *largest;
}

/* Whether a damped mode limits the steps, and this one is within its limit: it need not be accurate
 * for that mode. */
static bool damps(const ode_march *m, double size)
{
    return m->watch.damped && size <= m->watch.most * m->guard.margin;
}

/* How much a step may change for an error in units of what is allowed. */
static double change_for(const ode_march *m, double error)
{
    return error > 0 ? fmin(10, fmax(0.2, 0.9 * pow(error, -1.0 / m->method->order))) : 10;
}

/* Relative error of a tangent in a step of this size: errors add up over the horizon. */
static double allowed_error(const ode_march *m, double size)
{
    double most = fmin(most_error, fmax(step_error, m->rtol)),
           share = whole_error * size / m->watch.horizon;
    return fmin(most, fmax(share, fmax(least_error, 0.3 * m->rtol)));
}

int ode_watch_step(ode_march *m, const ode_boundary *a, const ode_boundary *b, const void *y,
                   double ratio, double *factor)
{
    ode_watch *w = &m->watch;
    if (!w->on || !w->unit) return 1;
    double taken = fabs(b->t - a->t), error[2], most = allowed_error(m, taken);
    int direction = b->t > a->t ? 1 : -1;
    bool says_nothing = ratio < w->silent && m->guard.z < 0.3 * m->guard.limit &&
                        !(damps(m, taken) && taken > w->most / 2);
    w->said_nothing = says_nothing ? w->said_nothing + 1 : 0;
    bool large = m->steps > 0 && taken > large_part * w->horizon;
    bool blind = says_nothing && (w->said_nothing >= BLIND_STEPS || ratio == 0 || large);
    if (m->steps < w->probe_due && taken <= 2 * w->vetted) return 1;
    if (m->steps < GROWING_STEPS && taken < small_part * w->horizon && !w->again) return 1;
    if (!blind && !some_element_rests(m)) {
        w->allowed = w->vetted = INFINITY;
        w->pause = 1;
        w->probed = m->steps + 1;
        return 1;
    }
    if (w->short_looks && (!blind || is_at_rest(m))) {
        double largest;
        int fine = look_shortly(m, a, y, taken, most, &largest);
        if (fine < 0) return -1;
        if (fine) {
            w->allowed = INFINITY;
            w->vetted = fmax(taken, largest / 2);
            w->short_apart =
                w->short_apart > 0 ? fmin(4 * w->short_apart, most_short_apart) : short_apart;
            w->probe_due = m->steps + 1 + (int64_t)w->short_apart / m->method->times;
            w->probed = m->steps + 1;
            return 1;
        }
    }
    int there = tangent_errors(m, a, y, taken, blind, most, error);
    if (there < 0) return -1;
    if (!there) {
        w->unit = NULL; /* there are no probes */
        return 1;
    }
    if (error[0] > 1 && !damps(m, taken) && w->asked != m->steps) {
        mode found;
        w->asked = m->steps;
        w->certain = find_steepest(m, a, direction, y, 0, &found);
        if (w->certain) limit_steps(m, a, direction, &found);
        if (w->damped && taken > w->most) {
            *factor = w->most / taken;
            return 0;
        }
    }
    /* A damped mode forgets its errors: those by the arguments do not add up over the solve. */
    bool adds_up = blind || !damps(m, taken) || some_element_stands(m);
    double by_arguments = adds_up ? error[1] : error[1] * most / whole_error;
    double change = change_for(m, damps(m, taken) ? by_arguments : fmax(error[0], error[1]));
    if (change < 0.9) {
        *factor = fmin(*factor, change);
        w->pause = 1;
        w->short_looks = false; /* the tangents set the steps */
        return 0;
    }
    w->allowed = fmax(change, 1) * taken;
    if (w->unseen) w->allowed = fmin(w->allowed, fmax(taken, unseen_part * w->horizon));
    w->vetted = blind ? taken : fmax(taken, w->allowed / 4);
    bool easy = change > easy_growth;
    int64_t longest = easy                            ? pause_easy
                      : w->allowed >= *factor * taken ? pause_free[blind]
                                                      : pause_close[blind];
    w->pause *= (easy ? 4 : 2) * (blind ? 1 : 2);
    if (w->pause > longest) w->pause = longest;
    if (is_at_rest(m)) w->pause = pause_easy; /* the same at each step to come */
    w->probe_due = m->steps + w->pause;
    w->probed = m->steps + 1;
    return 1;
}

int64_t ode_watch_doubtful(const ode_march *m)
{
    return m->watch.on && m->watch.probed < m->steps ? m->watch.probed : -1;
}

double ode_watch_limit(const ode_watch *w) { return w->on ? fmin(w->most, w->allowed) : INFINITY; }

int ode_watch_accept(ode_march *m, double size)
{
    ode_watch *w = &m->watch;
    if (!w->on) return 0;
    w->seen = m->guard.z / size;
    double *sizes = ode_buffer_need(&w->sizes, (size_t)(m->steps + 1) * sizeof *sizes);
    if (!sizes)
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory for step %lld", (long long)m->steps);
    sizes[m->steps] = size;
    if (isfinite(w->most))
        m->guard.z = fmax(m->guard.z, m->guard.limit * size / (m->guard.margin * w->most));
    return 0;
}
