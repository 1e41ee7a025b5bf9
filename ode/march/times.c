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
