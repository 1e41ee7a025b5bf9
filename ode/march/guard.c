/* Holds the steps of a march within the stability limit (methods/stability.c says why). */
#include "ode/march/march.h"
#include <float.h>
#include <math.h>

double ode_guard_margin(double rtol)
{
    return fmin(1.5, fmax(1.15, 1.15 + 0.175 * log10(rtol / 1e-6)));
}

/* The largest h |lambda| up to `most` at which rounding leaves a derivative of half the tolerance
 * right within a tenth: two standard deviations, where a rounding's is epsilon / sqrt 12. A
 * tolerance below the default asks for no smaller steps: ordinary problems would pay for them. */
static double least_rounded(const ode_method *method, ad_dtype dtype, double rtol, double most)
{
    double rounding = (dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON) / sqrt(12);
    double tolerance = fmax(rtol, ode_usual_rtol(dtype)), error = 0.1 * tolerance / 2;
    double allowed = error / (2 * rounding);
    if (method->rounding(method, most) <= allowed) return most;
    double least = 0;
    for (int i = 0; i < 20; i++) {
        double middle = (least + most) / 2;
        if (method->rounding(method, middle) <= allowed) least = middle;
        else most = middle;
    }
    return least;
}

ode_guard ode_guard_begin(const ode_settings *settings, ad_dtype dtype, double rtol)
{
    double limit = settings->stability, margin = ode_guard_margin(rtol);
    if (isfinite(limit)) {
        double stable = limit / margin,
               rounded = least_rounded(settings->method, dtype, rtol, stable);
        if (rounded < stable) limit = margin * rounded;
    }
    return (ode_guard){ .limit = limit, .margin = margin };
}

double ode_guard_rounding(const ode_system *s, double rtol)
{
    double unit = 16 * (s->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    double floor = unit / fmax(rtol, 100 * unit);
    return floor * floor * (double)s->width;
}

bool ode_guard_allows(ode_guard *g, double h, double stiffness)
{
    g->lambda = isfinite(stiffness) ? sqrt(stiffness) : 0;
    g->z = fabs(h) * g->lambda;
    if (g->z <= g->limit) return true;
    g->refused++;
    return false;
}

/* |lambda| told by this many attempts in a row is relied on in so many more, of sizes up to a
 * multiple of the last that told it, while h |lambda| is below a part of the limit: within that it
 * may double unseen. */
enum { FIRST_TOLD = 4, UNTOLD = 3 };
static const double most_growth = 1.5, calm = 0.4;

bool ode_guard_asks(const ode_guard *g, double h)
{
    if (g->in_a_row < FIRST_TOLD || g->since >= UNTOLD || !(g->lambda > 0)) return true;
    return fabs(h) > most_growth * g->told || fabs(h) * g->lambda > calm * g->limit;
}

void ode_guard_note(ode_guard *g, double h, bool told)
{
    g->since = told ? 0 : g->since + 1;
    if (!told) return;
    g->told = fabs(h);
    g->in_a_row++;
}

void ode_guard_forget(ode_guard *g) { g->in_a_row = 0; }

double ode_guard_factor(const ode_guard *g)
{
    return g->z > 0 ? g->limit / (g->margin * g->z) : INFINITY;
}

void ode_guard_accept(ode_guard *g)
{
    g->most = fmax(g->most, g->z);
    g->limited += g->z >= g->limit / (1.1 * g->margin);
}
