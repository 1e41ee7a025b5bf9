/* What the state does not show of its derivatives.
 *
 * The error of the state chooses the steps, and the gradient is that of these steps. It can be
 * wrong where the state is right: in a mode or a component that is at rest, in an argument that has
 * no effect at its present value. A march whose steps are for a gradient is therefore watched:
 *
 * - Hidden stiff modes. Now and then the field is evaluated beside the state, in a direction that
 * it has itself turned towards what it amplifies most: a nonlinear power iteration (Sommeijer,
 * Shampine, Verwer 1998, doi:10.1016/S0377-0427(97)00219-7), carried over from one look to the
 * next, for each row. If a step is close to the limit of the mode, of stability or of accuracy
 * (propagate.c), it is iterated until it converges. Steps that were beyond the limit since it was
 * last known are taken again. Of many rows those that two iterations show to be the fastest are
 * looked at further: the others only cost time.
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
 * Here the decisions are taken; modes.c looks for modes, tangents.c takes tangents.
 */
#include "ode/march/watch.h"
#include <stdlib.h>
#include <string.h>

/* Evaluations of the field before the first look for stiff modes; of methods without a limit of
 * stability the first look is before the first step, which may be all. */
static const int64_t first_look = 20;
/* An error of the state that would let the next step grow by more than this says nothing of how
 * large a step may be, if it does so for several steps, if there is no error at all, or if the
 * step, not the first, is a large part of the solve, over which what has not shown yet may begin:
 * a function of the time, or of a component that moves as time does. */
static const double blind_growth = 5, large_part = 0.2;
enum { BLIND_STEPS = 3 };
/* Elements of the state that are no larger than so many atol: an error that is allowed is a large
 * part of them, and of what depends on them. */
static const double unresolved = 10;
/* Part of the solve that is a large step of a method without a limit of stability. */
static const double large_step = 0.1;
/* h |lambda| above which a step damps what decays; and by how much the error of a step to an output
 * may change the arguments' effect on that. */
static const double stiff = 10, force_error = 0.02;
/* The first steps of a solve, which grow from almost nothing, are not probed while they are so
 * small a part of it. */
static const double small_part = 1e-3;
enum { GROWING_STEPS = 8 };
/* Relative errors of the tangents that are allowed in a step: the least of what is allowed at most,
 * and the most of it whatever the tolerances. */
static const double step_error = 1e-3, most_error = 0.03;
/* Part of the solve that a step may take while the arguments do nothing at all: they may begin to.
 */
static const double unseen_part = 0.05;
/* Largest number of steps from one probe to the next: where the tangents would allow steps so many
 * times as large; where they would allow what the state does, or the state is unresolved, or they
 * are within `same` what they were; and elsewhere; the latter two first where only some elements
 * rest, then in blind steps. */
static const double easy_growth = 5, same = 0.1;
static const int64_t pause_easy = 256, pause_free[2] = { 64, 8 }, pause_close[2] = { 4, 1 };
/* Evaluations from one short look to the next: after the first one, and at most. Four times as many
 * each time. */
static const double short_apart = 50, most_short_apart = 500;

/* ---- memory ---- */

void ode_watch_close(ode_watch *w)
{
    ode_runner_close(&w->tangent);
    ode_runner_close(&w->field_tangent);
    ode_runner_close(&w->jacobian);
    ode_buffer *all[] = { &w->direction, &w->largest,   &w->moved, &w->slope,  &w->sizes,
                          &w->rows,      &w->arguments, &w->each,  &w->chosen, &w->earlier,
                          &w->turns,     &w->jacobians, &w->basis, &w->picks,  &w->gathered };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}

enum { WATCH_ARRAYS = 13 };

static int list_arrays(ode_watch *w, const ode_march *m, const ode_march_units *units,
                       int64_t nrows, ode_buffer_part *list)
{
    const ode_system *s = m->system;
    const size_t element = ode_bytes(s->dtype), rows = (size_t)nrows * sizeof(double),
                 slot = (size_t)(nrows * s->width) * element;
    const int64_t n = ode_krylov_size(s), picked = ode_most_picked(s, nrows),
                  most = ode_method_has(m->method, ODE_METHOD_IMPLICIT) ? nrows : picked;
    w->most_picked = most;
    size_t gathered = 0;
    for (int i = 0; i < s->nrow && picked < nrows; i++)
        gathered += ode_array_bytes(s->dtype, s->arg[s->row[i]], picked);
    const ode_buffer_part all[WATCH_ARRAYS] = {
        { &w->jacobians, units->spectrum ? (size_t)(most * n * n) * element : 0 },
        { &w->basis,
          units->spectrum == ODE_DIRECTIONS ? (size_t)((n + 1) * most * s->width) * element : 0 },
        { &w->direction, slot },
        { &w->largest, slot },
        { &w->moved, slot },
        { &w->slope, slot },
        { &w->chosen, slot },
        { &w->earlier, slot },
        { &w->turns, ODE_TURN * rows },
        { &w->rows, ODE_TANGENTS * rows },
        { &w->picks, rows },
        { &w->gathered, gathered },
        { &w->each, (size_t)s->width * element },
    };
    memcpy(list, all, sizeof all);
    return m->each ? WATCH_ARRAYS : WATCH_ARRAYS - 1;
}

void ode_watch_account(const ode_march *m, const ode_march_units *units, ad_opaque_account *a)
{
    ode_watch none = { 0 };
    ode_buffer_part list[WATCH_ARRAYS];
    ode_account_buffers(a, list_arrays(&none, m, units, a->rows, list), list);
    ode_runner_account(units->tangent, a);
    ode_runner_account(units->field_tangent, a);
    if (units->jacobian) ode_runner_account(units->jacobian, a);
}

int ode_watch_open(ode_march *m, const ode_march_units *units, double horizon, double first_output)
{
    ode_watch *w = &m->watch;
    ode_buffer_part list[WATCH_ARRAYS];
    if (!ode_buffers_need(list_arrays(w, m, units, m->rows, list), list))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    w->on = m->rtol < 1; /* else nobody asks for any accuracy */
    w->unit = units->tangent;
    w->field_unit = units->field_tangent;
    w->spectrum = units->spectrum;
    w->jacobian_unit = units->jacobian;
    w->horizon = horizon;
    w->silent = pow(blind_growth, -m->method->order);
    w->first_output = first_output;
    w->accurate = w->prepared = w->tangent.connected = w->field_tangent.connected = w->certain =
        w->damped = w->again = w->resolved = w->looked = false;
    w->short_looks = true;
    w->due = isfinite(m->guard.limit) ? first_look : 0;
    w->since[0] = w->since[1] = w->all_since = 0;
    w->reach = w->most = w->tolerated = w->allowed = w->vetted = INFINITY;
    w->until = w->seen = w->lambda = w->mode[0] = w->mode[1] = 0;
    memset(w->turns.data, 0, ODE_TURN * (size_t)m->rows * sizeof(double));
    w->said_nothing = w->turned = 0;
    w->found = w->shown = w->told = w->steepest = 0;
    w->short_apart = 0;
    w->asked = -1;
    w->picked = w->part = 0;
    w->evaluations = w->probes = w->probe_due = w->probed = 0;
    w->pause = 1;
    return 0;
}

/* ---- steps ---- */

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

/* A step of a method without a limit of stability that ended at state next, at an output. The
 * arguments act on what decays fast, and that derivative is local: in proportion to y - e where y
 * decays towards e fast, it is as inaccurate as this difference, which can be as small as the
 * error of the last step. As ode_watch_step. */
static int end_at_output(ode_march *m, const ode_boundary *a, const void *next, double h,
                         double ratio, double *factor)
{
    ode_watch *w = &m->watch;
    double change;
    if (!(h * w->found > stiff)) return 1;
    int there = ode_force_by_state(m, a, next, &change);
    if (there <= 0) return there < 0 ? -1 : 1;
    if (ratio * change <= force_error) return 1;
    *factor = fmin(*factor, change_for(m, ratio * change / force_error));
    w->probed = m->steps; /* the steps before will do */
    return 0;
}

/* Whether atol has been large against the whole state since the solve began. Its error then says
 * nothing of the tangents, which are as large as ever. Those of a state that has become so small
 * have mostly done so with it. */
static bool is_unresolved(ode_march *m, const void *y, const void *next)
{
    ad_dtype dtype = m->system->dtype;
    for (int64_t i = 0; i < m->cells && !m->watch.resolved; i++) {
        double size = fmax(fabs(ode_load(dtype, y, i)), fabs(ode_load(dtype, next, i)));
        m->watch.resolved = size > unresolved * ode_tolerance(m, i, 0);
    }
    return !m->watch.resolved;
}

int ode_watch_step(ode_march *m, const ode_boundary *a, const ode_boundary *b, const void *y,
                   const void *next, double ratio, double *factor)
{
    ode_watch *w = &m->watch;
    if (!w->on || !w->unit) return 1;
    double taken = fabs(b->t - a->t), error[2], most = allowed_error(m, taken);
    int direction = b->t > a->t ? 1 : -1;
    bool small = is_unresolved(m, y, next);
    /* Where no limit of stability keeps steps small, an error that says nothing of this step may
     * say enough of the large ones that it leads to. */
    bool unlimited = !isfinite(m->guard.limit);
    if (unlimited && b->hi >= 0) {
        int fine = end_at_output(m, a, next, taken, ratio, factor);
        if (fine <= 0) return fine;
    }
    if (unlimited) ratio *= pow(fmax(1, large_step * w->horizon / taken), m->method->order);
    bool says_nothing = ratio < w->silent && m->guard.z < 0.3 * m->guard.limit &&
                        !(damps(m, taken) && taken > w->most / 2);
    w->said_nothing = says_nothing ? w->said_nothing + 1 : 0;
    bool large = m->steps > 0 && taken > large_part * w->horizon &&
                 (m->system->reads_time || !m->system->trace || ode_some_element_rests(m));
    bool silent = says_nothing && (w->said_nothing >= BLIND_STEPS || ratio == 0 || large),
         blind = silent || small;
    if (m->steps < w->probe_due && taken <= 2 * w->vetted) return 1;
    if (m->steps < GROWING_STEPS && taken < small_part * w->horizon && !w->again) return 1;
    /* Beside components that move, one that rests with such a method is mostly what decays fast. */
    if (!blind && (unlimited || !ode_some_element_rests(m))) {
        w->allowed = w->vetted = INFINITY;
        w->pause = 1;
        w->probed = m->steps + 1;
        return 1;
    }
    if (w->short_looks && (!blind || ode_is_at_rest(m))) {
        double largest;
        int fine = ode_look_shortly(m, a, y, taken, most, &largest);
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
    int there = ode_tangent_errors(m, a, y, taken, blind, most, error);
    if (there < 0) return -1;
    if (!there) {
        w->unit = NULL; /* there are no probes */
        return 1;
    }
    if (error[0] > 1 && !damps(m, taken) && w->asked != m->steps) {
        double complex found;
        w->asked = m->steps;
        int steep = ode_find_steepest(m, a, direction, y, INFINITY, &found);
        if (steep < 0) return -1;
        w->certain = steep;
        if (w->certain) ode_limit_steps(m, a, direction, found);
        if (w->damped && taken > w->most) {
            *factor = w->most / taken;
            return 0;
        }
    }
    /* A damped mode forgets its errors: those by the arguments do not add up over the solve. */
    bool adds_up = blind || !damps(m, taken) || ode_some_element_stands(m);
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
    double told = fmax(error[0], error[1]) / taken;
    bool steady = fabs(told - w->told) <= same * told;
    w->told = told;
    bool free = w->allowed >= *factor * taken || (small && !silent) || steady;
    int64_t longest = easy ? pause_easy : free ? pause_free[blind] : pause_close[blind];
    w->pause *= (easy ? 4 : 2) * (blind ? 1 : 2);
    if (w->pause > longest) w->pause = longest;
    if (ode_is_at_rest(m)) w->pause = pause_easy; /* the same at each step to come */
    w->probe_due = m->steps + w->pause;
    w->probed = m->steps + 1;
    return 1;
}

int64_t ode_watch_doubtful(const ode_march *m)
{
    return m->watch.on && m->watch.probed < m->steps ? m->watch.probed : -1;
}

bool ode_watch_end(ode_watch *w)
{
    if (!w->on || w->looked) return false;
    w->due = 0;
    return true;
}

double ode_watch_limit(const ode_watch *w) { return w->on ? fmin(w->most, w->allowed) : INFINITY; }

int ode_watch_accept(ode_march *m, double size)
{
    ode_watch *w = &m->watch;
    if (!w->on) return 0;
    w->seen = m->guard.z / size;
    w->shown = fmax(w->shown, w->seen);
    double *sizes = ode_buffer_need(&w->sizes, (size_t)(m->steps + 1) * sizeof *sizes);
    if (!sizes)
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory for step %lld", (long long)m->steps);
    sizes[m->steps] = size;
    m->guard.z = fmax(m->guard.z, size * w->lambda);
    return 0;
}
