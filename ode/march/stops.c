/* Stops: times at which a step must end. One queue holds them all, in the order in which the march
 * comes to them.
 *
 * Output times move with the gradient by times. The others are constants: times where the field, or
 * a derivative of it, jumps (options.jump_times, and the knots of inputs that the field
 * interpolates).
 *
 * The field sees time in the tape's type, so two times that round to the same number are the same
 * time: in f32 a jump at 0.6 lies at an output time 0.6f. */
#include "ode/march/march.h"
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = ((const ode_stop *)a)->t, y = ((const ode_stop *)b)->t;
    return (x > y) - (x < y);
}

bool ode_stops_gather(ode_stops *s, const ode_settings *set, const ode_system *system,
                      const void *const *args)
{
    const ode_system *traced = system->base ? system->base : system;
    int64_t most = set->njump;
    for (int i = 0; i < traced->nknots; i++) most += traced->knots[i].n;
    s->n = 0;
    s->dtype = system->dtype;
    s->at = ode_buffer_need(&s->memory, (size_t)most * sizeof *s->at);
    if (!s->at) return false;
    for (int i = 0; i < set->njump; i++)
        s->at[s->n++] = (ode_stop){ .t = set->jump[i], .output = -1, .jump = true };
    for (int i = 0; i < traced->nknots; i++) {
        const ode_knots *k = &traced->knots[i];
        for (int64_t j = 0; j < k->n; j++)
            s->at[s->n++] =
                (ode_stop){ .t = k->knot ? k->knot[j] : ode_load(s->dtype, args[k->arg], j),
                            .output = -1,
                            .jump = k->jump };
    }
    bool sorted = true;
    for (int64_t i = 1; i < s->n; i++) sorted = sorted && s->at[i - 1].t <= s->at[i].t;
    if (!sorted) qsort(s->at, (size_t)s->n, sizeof *s->at, compare);
    return true;
}

void ode_stops_free(ode_stops *s) { ode_buffer_free(&s->memory); }

/* How many stops lie before t (with t: or round to it). */
static int64_t count_before(const ode_stops *s, double t, bool with)
{
    int64_t low = 0, high = s->n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        double at = ode_round_time(s->dtype, s->at[middle].t);
        if (at < t || (with && at == t)) low = middle + 1;
        else high = middle;
    }
    return low;
}

bool ode_stops_jump(const ode_stops *s, double t)
{
    double rounded = ode_round_time(s->dtype, t);
    for (int64_t i = count_before(s, rounded, false);
         i < s->n && ode_round_time(s->dtype, s->at[i].t) == rounded; i++)
        if (s->at[i].jump) return true;
    return false;
}

void ode_stops_begin(ode_stops *s, int n, const double *times, bool all)
{
    s->times = times;
    s->ntimes = n;
    s->all = all;
}

/* The first output time at t or beyond it (beyond: without t). */
static int output_from(const ode_stops *s, double t, bool beyond)
{
    double direction = s->times[s->ntimes - 1] > s->times[0] ? 1 : -1;
    int low = 0, high = s->ntimes;
    while (low < high) {
        int middle = low + (high - low) / 2;
        double ahead = direction * (s->times[middle] - t);
        if (ahead > 0 || (!beyond && ahead == 0)) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* The first constant stop strictly between a and b, going from a to b; NULL: there is none. */
static const ode_stop *constant_between(const ode_stops *s, double a, double b)
{
    double from = ode_round_time(s->dtype, a), to = ode_round_time(s->dtype, b);
    int64_t i = b > a ? count_before(s, from, true) : count_before(s, from, false) - 1;
    if (i < 0 || i >= s->n) return NULL;
    double at = ode_round_time(s->dtype, s->at[i].t);
    return (b > a ? at < to : at > to) ? &s->at[i] : NULL;
}

bool ode_stops_between(const ode_stops *s, double a, double b)
{
    if (a == b || !s->n) return false;
    double at = ode_round_time(s->dtype, a);
    return count_before(s, at, false) < count_before(s, at, true) || constant_between(s, a, b);
}

ode_stop ode_stops_next(const ode_stops *s, double t)
{
    int output = s->all ? output_from(s, t, true) : s->ntimes - 1;
    const ode_stop *constant = constant_between(s, t, s->times[output]);
    ode_stop stop = { .t = s->times[output], .output = output };
    if (constant) stop = *constant;
    stop.jump = ode_stops_jump(s, stop.t);
    return stop;
}

ode_stop ode_stops_at(const ode_stops *s, double t)
{
    int output = output_from(s, t, false);
    bool is_one = output < s->ntimes && s->times[output] == t;
    return (ode_stop){ .t = t, .output = is_one ? output : -1, .jump = ode_stops_jump(s, t) };
}
