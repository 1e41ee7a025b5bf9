/* Stops: times at which every step must end, because the field, or a derivative of it, jumps there:
 * options.jump_times, and the knots of inputs that the field interpolates. They are constants: they
 * do not move with the output times.
 *
 * The field sees time in the tape's type, so two times that round to the same number are the same
 * time: in f32 a jump at 0.6 lies at an output time 0.6f. */
#include "ode/march/march.h"
#include <stdlib.h>

double ode_round_time(ad_dtype dtype, double t) { return dtype == AD_F32 ? (double)(float)t : t; }

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
        s->at[s->n++] = (ode_stop){ .t = set->jump[i], .jump = true };
    for (int i = 0; i < traced->nknots; i++) {
        const ode_knots *k = &traced->knots[i];
        for (int64_t j = 0; j < k->n; j++)
            s->at[s->n++] =
                (ode_stop){ .t = k->knot ? k->knot[j] : ode_load(s->dtype, args[k->arg], j),
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

double ode_stops_next(const ode_stops *s, double a, double b)
{
    double from = ode_round_time(s->dtype, a), to = ode_round_time(s->dtype, b);
    if (b > a) {
        int64_t i = count_before(s, from, true);
        return i < s->n && ode_round_time(s->dtype, s->at[i].t) < to ? s->at[i].t : b;
    }
    int64_t i = count_before(s, from, false) - 1;
    return i >= 0 && ode_round_time(s->dtype, s->at[i].t) > to ? s->at[i].t : b;
}
