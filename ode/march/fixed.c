/* Marches whose steps are given: equal ones between stops, and those of another solve. */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>
#include <string.h>

static int take_step(ode_march *m, const ode_sink *sink, const ode_boundary *a, ode_boundary *b,
                     void **y)
{
    if (m->steps < m->settings->max_steps) return ode_march_step(m, sink, a, b, y);
    return ode_fail(m, ODE_TOO_MANY_STEPS,
                    "more than %lld steps (at t = %.15g); take larger steps or raise max_steps",
                    (long long)m->settings->max_steps, a->t);
}

/* ---- equal steps ---- */

/* Equal steps from one stop to the next, within the interval between two output times. */
typedef struct {
    double from, to;
    int interval; /* from output time `interval` to the next */
    bool start;   /* begins at its first output time */
    ode_stop stop;
    int64_t count;
    bool multistep; /* the method wants equal steps, and begins anew in each piece */
} piece;

/* How many steps of at most this size: a whole number of them may come out a little longer by
 * rounding, of the times (in the type they were given in) and of the step. */
static double steps_between(const ode_march *m, double from, double to, double step)
{
    double length = fabs(to - from);
    bool floats =
        m->system->dtype == AD_F32 && (double)(float)from == from && (double)(float)to == to;
    double slack = 2 * (floats ? FLT_EPSILON : DBL_EPSILON) * fmax(fabs(from), fabs(to));
    slack = fmin(slack, 0.01 * step) + 8 * DBL_EPSILON * length;
    return fmax(1, ceil((length - slack) / step));
}

int64_t ode_march_count(const ode_march *m, int n, const double *times)
{
    const ode_settings *set = m->settings;
    const ode_system *traced = m->system->base ? m->system->base : m->system;
    if (set->replay) return ode_steps_count(set->replay);
    if (m->adaptive || (!set->steps && !times)) return -1;
    /* A stop between makes two pieces of one, with a step more at most. */
    double count = set->njump;
    for (int i = 0; i < traced->nknots; i++) count += (double)traced->knots[i].n;
    for (int i = 0; i + 1 < n; i++)
        count +=
            set->steps ? (double)set->steps : steps_between(m, times[i], times[i + 1], set->step);
    return (int64_t)fmin(count, (double)set->max_steps);
}

/* Counts the steps of a piece, which end at the stop. 0, or -1 with the march's error written. */
static int divide(ode_march *m, piece *p)
{
    const ode_settings *set = m->settings;
    const double *t = m->stops.times + p->interval;
    double size = set->steps ? fabs(t[1] - t[0]) / (double)set->steps : set->step;
    double wanted = steps_between(m, p->from, p->to, size), length = fabs(p->to - p->from);
    if (wanted > (double)set->max_steps)
        return ode_fail(m, ODE_TOO_MANY_STEPS,
                        "%.3g steps are asked for from t = %g to %g, more than max_steps = %lld; "
                        "take larger steps or raise max_steps",
                        wanted, p->from, p->to, (long long)set->max_steps);
    double spacing = ode_spacing(fmax(fabs(p->from), fabs(p->to)));
    if (ode_method_has(m->method, ODE_METHOD_MULTISTEP) && length < 1e3 * wanted * spacing)
        return ode_fail(m, ODE_FAILED,
                        "steps of %.3g from t = %.15g to %.15g are not equal, as %s needs them, "
                        "but rounded to the spacing of "
                        "numbers there (%.2g); take fewer steps, or shift the origin of time",
                        length / wanted, p->from, p->to, m->method->name, spacing);
    p->count = (int64_t)wanted;
    return 0;
}

/* The end of step i of a piece. Ends that are output times move with them; other stops are
 * constants, so pieces beside one are affine in one time only. */
static ode_boundary end_of_step(const piece *p, int64_t i)
{
    bool last = i == p->count, output = p->stop.output >= 0;
    double w = (double)i / (double)p->count;
    ode_boundary b = { .t = last ? p->to : p->from + w * (p->to - p->from),
                       .jump = last && p->stop.jump,
                       .restart = last && (p->multistep || p->stop.jump),
                       .output = last && output };
    b.lo = b.hi = -1;
    if (p->start && output) {
        b.weight = w;
        b.lo = p->interval;
        b.hi = p->interval + 1;
    } else if (p->start) {
        b.weight = w; /* a part (1 - weight) of the one end that moves */
        b.lo = p->interval;
    } else {
        b.weight = 1 - w;
        if (output) b.lo = p->interval + 1;
    }
    return b;
}

/* Where a march over equal steps is: step i of a piece, from a. */
typedef struct {
    piece p;
    int64_t i;
    ode_boundary a;
} place;

static place begin_steps(const ode_march *m)
{
    return (place){ .p = { .stop = ode_stops_at(&m->stops, m->stops.times[0]),
                           .multistep = ode_method_has(m->method, ODE_METHOD_MULTISTEP) } };
}

/* The end of the next step, from at->a to b. 1; 0: there is none; -1 with the march's error
 * written. */
static int next_step(ode_march *m, place *at, ode_boundary *b)
{
    const ode_stops *stops = &m->stops;
    piece *p = &at->p;
    if (at->i == p->count) {
        if (p->stop.output == stops->ntimes - 1) return 0;
        p->start = p->stop.output >= 0;
        if (p->start) {
            p->interval = p->stop.output;
            at->a = (ode_boundary){ .t = p->stop.t,
                                    .lo = p->interval,
                                    .hi = p->interval,
                                    .jump = p->stop.jump,
                                    .restart = p->multistep || p->stop.jump || p->interval == 0 };
        }
        p->from = at->a.t;
        p->stop = ode_stops_next(stops, at->a.t);
        p->to = p->stop.t;
        at->i = 0;
        if (divide(m, p)) return -1;
    }
    *b = end_of_step(p, ++at->i);
    return 1;
}

int ode_march_fixed(ode_march *m, void *y, const ode_sink *sink)
{
    place at = begin_steps(m);
    ode_boundary b;
    int more;
    while ((more = next_step(m, &at, &b)) > 0) {
        if (take_step(m, sink, &at.a, &b, &y)) return -1;
        at.a = b;
    }
    return more;
}

/* ---- replayed steps ---- */

/* Whether an output time lies strictly between two times. */
static bool passes_output(const ode_stops *s, double from, double to)
{
    for (int i = 1; i + 1 < s->ntimes; i++)
        if ((s->times[i] - from) * (s->times[i] - to) < 0) return true;
    return false;
}

int ode_march_replay(ode_march *m, void *y, const ode_sink *sink)
{
    const ode_steps *steps = m->settings->replay;
    const double *t = ode_steps_times(steps);
    const ode_stops *stops = &m->stops;
    int n = stops->ntimes;
    const double *times = stops->times;
    int64_t count = ode_steps_count(steps);
    if (count < 1 || t[0] != times[0] || t[count] != times[n - 1])
        return ode_fail(
            m, ODE_FAILED,
            "the steps to replay go from t = %.15g to %.15g, not from %.15g to %.15g as times do",
            count < 1 ? NAN : t[0], count < 1 ? NAN : t[count], times[0], times[n - 1]);
    ode_boundary a = {
        .t = t[0], .lo = 0, .hi = 0, .jump = ode_stops_jump(stops, t[0]), .restart = true
    };
    for (int64_t i = 1; i <= count; i++) {
        bool last = i == count;
        ode_stop stop = ode_stops_at(stops, t[i]);
        ode_boundary b = { .t = t[i], .jump = stop.jump, .output = stop.output >= 0 };
        b.lo = b.hi = last ? n - 1 : -1;
        if (ode_method_stochastic(m->method) && passes_output(stops, t[i - 1], t[i]))
            return ode_fail(m, ODE_FAILED,
                            "the step to replay from t = %.15g to %.15g passes an output time; "
                            "steps of stochastic equations end at them: replay the steps of a "
                            "solve with these output times",
                            t[i - 1], t[i]);
        double h = t[i] - t[i - 1], following = last ? h : t[i + 1] - t[i];
        bool equal = !b.output && fabs(following - h) <= 1e-9 * fabs(h);
        b.restart = b.jump || (ode_method_has(m->method, ODE_METHOD_MULTISTEP) && !equal);
        if (take_step(m, sink, &a, &b, &y)) return -1;
        a = b;
    }
    return 0;
}

/* ---- followed steps ---- */

/* Else the march's error is written. The states have been found finite. */
static bool tangents_finite(ode_march *m, const ode_boundary *a, const void *y)
{
    const ode_system *s = m->system;
    int64_t bad = ode_first_nonfinite(s->dtype, m->cells, y);
    if (bad < 0) return true;
    char where[96];
    ode_where(s, m->rows, bad, where, sizeof where);
    ode_fail(m, ODE_NOT_FINITE,
             "step %lld from t = %.15g: the derivative becomes %g in %s; the field has no finite "
             "derivative there (a root or a power at 0?), or it grows beyond the range of the type",
             (long long)m->steps - 1, a->t, ode_shown(ode_load(s->dtype, y, bad)), where);
    return false;
}

/* Whether a method rings has been asked when the steps were found. */
int ode_march_follow(ode_march *m, int64_t n, const ode_boundary *b, void *y, const ode_sink *sink)
{
    for (int64_t i = 0; i < n; i++) {
        ode_boundary end = b[i + 1];
        end.output = false;
        if (ode_march_step(m, sink, &b[i], &end, &y)) return -1;
        if (!tangents_finite(m, &b[i], y)) return -1;
    }
    return 0;
}

int64_t ode_march_boundaries(ode_march *m, int n, const double *times, ode_buffer *boundaries)
{
    const ode_steps *replay = m->settings->replay;
    int64_t count = replay ? ode_steps_count(replay) : 0;
    ode_stops_begin(&m->stops, n, times, true);
    double *t = ode_buffer_need(boundaries, (size_t)(count + 1) * sizeof *t);
    if (t && replay) memcpy(t, ode_steps_times(replay), (size_t)(count + 1) * sizeof *t);
    if (t && !replay) t[0] = times[0];
    place at = begin_steps(m);
    ode_boundary b;
    int more = 0;
    while (t && !replay && count <= m->settings->max_steps && (more = next_step(m, &at, &b)) > 0) {
        at.a = b;
        t = ode_buffer_need(boundaries, (size_t)(++count + 1) * sizeof *t);
        if (t) t[count] = b.t;
    }
    if (more < 0) return -1;
    return t ? count : ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
}

int ode_march_run(ode_march *m, int n, const double *times, void *y, const ode_sink *sink)
{
    bool given = m->settings->replay || !m->adaptive || ode_method_stochastic(m->method);
    ode_stops_begin(&m->stops, n, times, given);
    if (m->settings->replay) return ode_march_replay(m, y, sink);
    return m->adaptive ? ode_march_adaptive(m, y, sink) : ode_march_fixed(m, y, sink);
}
