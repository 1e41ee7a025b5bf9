/* Times as numbers of a type: how far apart they are, and what a field is given within a step. */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>

double ode_round_time(ad_dtype dtype, double t) { return dtype == AD_F32 ? (double)(float)t : t; }

/* The float or double after t (direction > 0) or before it. */
double ode_next_time(ad_dtype dtype, double t, double direction)
{
    double end = direction > 0 ? INFINITY : -INFINITY;
    return dtype == AD_F64 ? nextafter(t, end) : (double)nextafterf((float)t, (float)end);
}

double ode_time_beside(ad_dtype dtype, double t, int side)
{
    return side ? ode_next_time(dtype, t, side) : ode_round_time(dtype, t);
}

double ode_spacing(double t)
{
    t = fabs(t);
    return fmax(nextafter(t, INFINITY) - t, DBL_MIN);
}

double ode_type_spacing(ad_dtype dtype, double t)
{
    if (dtype == AD_F64) return ode_spacing(t);
    float at = fabsf((float)t);
    return (double)nextafterf(at, INFINITY) - (double)at;
}

double ode_stage_part(double c, const ode_boundary *b) { return b->closed && c > 1 ? 1 : c; }

double ode_stage_time(ad_dtype dtype, double t, const ode_boundary *a, const ode_boundary *b)
{
    double direction = b->t > a->t ? 1 : -1, rounded = ode_round_time(dtype, t);
    if (a->jump && direction * (rounded - ode_round_time(dtype, a->t)) <= 0)
        return ode_next_time(dtype, a->t, direction);
    if (b->jump && direction * (rounded - ode_round_time(dtype, b->t)) >= 0)
        return ode_next_time(dtype, b->t, -direction);
    return rounded;
}

double ode_boundary_on(const ode_boundary *b, const double *clock)
{
    double low = b->lo >= 0 ? (1 - b->weight) * clock[b->lo] : 0;
    return low + (b->hi >= 0 ? b->weight * clock[b->hi] : 0);
}

void ode_step_times(const ode_system *s, const double *const *clock, int n, const double *c,
                    const ode_boundary *a, const ode_boundary *b, double *size, double *t)
{
    double h = b->t - a->t;
    int clocks = s->nclocks;
    const bool ignored = s->trace && !s->reads_time; /* then any time does */
    size[0] = h;
    for (int i = 0; i < n && ignored; i++) t[i * clocks] = a->t;
    for (int i = 0; i < n && !ignored; i++) {
        double part = ode_stage_part(c[i], b);
        t[i * clocks] = ode_stage_time(s->dtype, part == 1 ? b->t : a->t + part * h, a, b);
    }
    for (int k = 1; k < clocks; k++) {
        double from = ode_boundary_on(a, clock[k]);
        size[k] = ode_boundary_on(b, clock[k]) - from;
        for (int i = 0; i < n; i++) t[i * clocks + k] = from + ode_stage_part(c[i], b) * size[k];
    }
}
