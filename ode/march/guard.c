/* Holds the steps of a march within the stability limit (methods/stability.c says why). */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>

double ode_guard_margin(double rtol)
{
    return fmin(1.5, fmax(1.15, 1.15 + 0.175 * log10(rtol / 1e-6)));
}

double ode_guard_rounding(const ode_system *s, double rtol)
{
    double unit = 16 * (s->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    double floor = unit / fmax(rtol, 100 * unit);
    return floor * floor * (double)s->width;
}

bool ode_guard_allows(ode_guard *g, double h, double stiffness)
{
    g->z = isfinite(stiffness) ? fabs(h) * sqrt(stiffness) : 0;
    if (g->z <= g->limit) return true;
    g->refused++;
    return false;
}

double ode_guard_factor(const ode_guard *g)
{
    return g->z > 0 ? g->limit / (g->margin * g->z) : INFINITY;
}

void ode_guard_accept(ode_guard *g)
{
    g->most = fmax(g->most, g->z);
    g->limited += g->z >= g->limit / (1.1 * g->margin);
}
