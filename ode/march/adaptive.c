/* The march whose steps are chosen by their errors.
 *
 * An attempt of a step is accepted where its error is within the tolerance, the guard finds it
 * within the limit of stability, and the watch has nothing against it. The controller proposes the
 * size of the next one; the guard and the watch bound it. Stops are landed on. The watch may find
 * that accepted steps will not do: then the march goes back to where they began. */
#include "ode/march/march.h"
#include <math.h>

/* A step that is to end at a stop is stretched by so much rather than leave a sliver; beyond
 * options.max_step only by what rounding makes of a whole number of steps. */
static const double stretch = 1.01, stretch_longest = 1 + 1e-6;

/* The first step of a stochastic solve, as a part of the time to its first stop. */
static const double first_part = 0.01;

/* A solve that was not looked at yet is before so many steps are left. Later, what is found would
 * have steps taken again. */
static const double last_steps = 2;

/* Where the march is: state y at boundary a, and the size of the next step. */
typedef struct {
    const ode_sink *sink;
    ode_boundary a;
    void *y;
    double h;
    ode_stop stop; /* the next one */
    double end;    /* the last time */
    bool begun;    /* what the method carries is there */
    int direction;
} place;

/* A step to be tried. */
typedef struct {
    ode_boundary b;
    void *next;
    double size, least; /* least: the smallest that is tried here */
    bool landing, cut;  /* cut: landing has made it shorter than was proposed */
} attempt;

/* The smallest step that is tried at t. */
static double least_step(const ode_march *m, double t)
{
    double least = fmax(m->settings->min_step, 16 * ode_spacing(t));
    return ode_method_stochastic(m->method) ? fmax(least, ode_path_shortest(m->path, t)) : least;
}

/* f(t, y) at the place, where no step has left it, if steps are given it. */
static int evaluate(ode_march *m, const place *p)
{
    if (!m->slopes) return 0;
    void *kept = ode_march_keep(m, p->sink, 0);
    return ode_march_field(m, p->a.t, p->a.jump ? p->direction : 0, p->y, m->slope[0].data,
                           m->rate[0].data, kept);
}

/* Goes back to where step k began. */
static int go_back(ode_march *m, place *p, int64_t k)
{
    p->y = p->sink->state(p->sink->context, k, &p->a);
    if (p->sink->rewind) p->sink->rewind(p->sink->context, k);
    m->steps = k;
    m->reached = p->a.t;
    ode_watch_rewind(m);
    ode_control_forget(&m->control);
    ode_guard_forget(&m->guard);
    p->stop = ode_stops_next(&m->stops, p->a.t);
    return evaluate(m, p);
}

/* Chooses where the next attempt ends. 0, or -1 with the march's error written. */
static int plan(ode_march *m, place *p, attempt *try)
{
    const ode_settings *set = m->settings;
    double left = fabs(p->stop.t - p->a.t);
    try->least = least_step(m, p->a.t);
    p->h = fmax(p->h, try->least);
    if (set->max_step > 0) p->h = fmin(p->h, set->max_step);
    double longest = stretch * p->h;
    if (set->max_step > 0) longest = fmin(longest, set->max_step * stretch_longest);
    try->landing = left <= longest;
    try->size = try->landing ? left : p->h;
    try->cut = try->size < p->h;
    if (try->size < try->least && !try->landing)
        return ode_fail(m, ODE_STEP_TOO_SMALL,
                        "options.max_step = %g is too small at t = %.15g, where the rounding of "
                        "time allows steps of %.3g at least; "
                        "raise it, or shift the origin of time towards t",
                        set->max_step, p->a.t, try->least);
    try->next = p->sink->slot(p->sink->context, m->steps);
    if (!try->next) return ode_fail_memory(m);
    try->b = (ode_boundary){ .t = try->landing ? p->stop.t : p->a.t + p->direction * p->h,
                             .lo = -1,
                             .hi = -1,
                             .jump = try->landing && p->stop.jump,
                             .restart = try->landing && p->stop.jump };
    if (try->landing && p->stop.output >= 0) try->b.lo = try->b.hi = p->stop.output;
    return 0;
}

/* Before the next step: what the watch allows, which may be to go back. */
static int look(ode_march *m, place *p)
{
    p->h = fmin(p->h, ode_watch_limit(&m->watch));
    double size_next = fmin(p->h, fabs(p->end - p->a.t));
    int64_t back;
    if (ode_watch_look(m, p->sink, &p->a, p->direction, p->y, size_next, &back)) return -1;
    if (back >= 0 && go_back(m, p, back)) return -1;
    p->h = fmin(p->h, ode_watch_limit(&m->watch));
    return 0;
}

/* Moves on to the end of an attempt that will do; its size may change by so much. */
static int move_on(ode_march *m, place *p, const attempt *try, double factor)
{
    if (ode_watch_accept(m, try->size)) return -1;
    ode_guard_accept(&m->guard);
    ode_control_accept(&m->control);
    if (ode_march_accept(m, p->sink, &p->a, &try->b, p->y, try->next)) return -1;
    double size = factor * try->size;
    /* A step that landed is short because of that: the size before it is still good. */
    if (try->landing && size < p->h) size = fmin(p->h, ode_guard_factor(&m->guard) * try->size);
    p->y = try->next;
    p->a = try->b;
    p->begun = !p->a.restart;
    p->h = size;
    if (p->a.t == p->end) return 0;
    p->stop = ode_stops_next(&m->stops, p->a.t);
    if (p->a.jump) {
        ode_control_forget(&m->control);
        ode_guard_forget(&m->guard);
        if (evaluate(m, p)) return -1;
    }
    return look(m, p);
}

/* One attempt from the place, which moves on when it is accepted. */
static int take(ode_march *m, place *p)
{
    attempt try;
    if (plan(m, p, &try)) return -1;
    if (fabs(p->end - p->a.t) <= last_steps * try.size && ode_watch_end(&m->watch) &&
        (look(m, p) || plan(m, p, &try)))
        return -1;
    if (!p->begun && m->method->begin && ode_march_begin(m, &p->a, &try.b, p->y)) return -1;
    p->begun = true;
    if (ode_march_attempt(m, p->sink, &p->a, &try.b, p->y, try.next)) return -1;
    double ratio = ode_march_error(m);
    m->ratio = ratio;
    if (ratio < 0)
        return ode_fail(m, ODE_FAILED,
                        "step %lld from t = %.15g, size %.3g: options.norm gave %g; a norm is not "
                        "negative",
                        (long long)m->steps, p->a.t, try.size, ratio);
    double factor = ode_control_factor(&m->control, try.size, ratio, try.cut);
    if (isnan(factor))
        return ode_fail(m, ODE_FAILED,
                        "step %lld from t = %.15g, size %.3g: the factor of options.controller "
                        "(%s) is not finite after an error of %.3g times the tolerance",
                        (long long)m->steps, p->a.t, try.size,
                        m->settings->controller.name ? m->settings->controller.name : "no name",
                        ratio);
    bool stable = ode_guard_allows(&m->guard, try.size, ode_march_stiffness(m));
    factor = fmin(factor, fmax(m->settings->controller.least, ode_guard_factor(&m->guard)));
    int fine =
        ratio <= 1 && stable ? ode_watch_step(m, &p->a, &try.b, p->y, try.next, ratio, &factor) : 0;
    if (fine < 0) return -1;
    if (fine) return move_on(m, p, &try, factor);
    m->rejected++;
    ode_control_reject(&m->control);
    ode_guard_forget(&m->guard);
    if (try.size <= try.least && ode_march_norm_is_nan(m))
        return ode_fail(m, ODE_FAILED,
                        "step %lld from t = %.15g, size %.3g: options.norm gave nan, and however "
                        "small the step; a norm of finite errors is a number",
                        (long long)m->steps, p->a.t, try.size);
    if (try.size <= try.least) return ode_fail_small(m, p->a.t, try.size, ratio, p->y, try.next);
    p->h = factor * try.size;
    int64_t doubtful = ratio <= 1 && stable ? ode_watch_doubtful(m) : -1;
    return doubtful >= 0 ? go_back(m, p, doubtful) : 0;
}

int ode_march_adaptive(ode_march *m, void *y, const ode_sink *sink)
{
    const ode_settings *set = m->settings;
    const ode_stops *stops = &m->stops;
    double t0 = stops->times[0], t1 = stops->times[stops->ntimes - 1];
    place p = { .sink = sink,
                .a = { .t = t0, .jump = ode_stops_jump(stops, t0), .restart = true },
                .y = y,
                .h = set->first_step,
                .stop = ode_stops_next(stops, t0),
                .end = t1,
                .direction = t1 > t0 ? 1 : -1 };
    /* An estimate of higher order than the method's is the error of the method itself. */
    bool own = m->method->error_order > m->method->order;
    ode_control_begin(&m->control, &set->controller, m->method->order + own);
    if (evaluate(m, &p)) return -1;
    if (p.h == 0) p.h = m->slopes ? ode_first_step(m, t0, t1, y) : first_part * fabs(p.stop.t - t0);
    if (p.h < 0 || look(m, &p)) return -1;
    for (int64_t attempts = 0; p.a.t != t1; attempts++) {
        if (attempts >= set->max_steps) return ode_fail_many(m, p.a.t, t1, p.h, p.y);
        if (take(m, &p)) return -1;
    }
    return 0;
}
