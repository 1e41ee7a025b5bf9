/* The error that a step may make, element by element: atol + rtol |y|, with an atol of its own for
 * each element of a row or one for all. A tolerance is zero where atol is and the state is too.
 * Nothing is known of such an element's size, so norms leave it out. */
#include "ode/march/march.h"
#include <math.h>

double ode_tolerance(const ode_march *m, int64_t element, double size)
{
    const ode_system *s = m->system;
    double atol = m->atol;
    if (m->each) {
        int64_t first = 0;
        int j = 0;
        for (; j + 1 < s->nstate && element >= m->rows * s->size[j]; first += s->size[j++])
            element -= m->rows * s->size[j];
        atol = m->each[first + element % s->size[j]];
    }
    return atol + m->rtol * fabs(size);
}

double ode_march_distance(const ode_march *m, int64_t first, int64_t n, const void *x,
                          const void *y)
{
    ad_dtype dtype = m->system->dtype;
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double at = ode_load(dtype, y, i), off = fabs(ode_load(dtype, x, i) - at);
        if (off == 0) continue;
        double tolerance = ode_tolerance(m, first + i, at);
        if (!(off <= worst * tolerance)) worst = off / tolerance;
    }
    return worst;
}

/* ---- the first step ---- */

/* Root mean square of x in units of the tolerance at y. An element whose tolerance is zero is
 * measured by what its derivative f would make of it over the whole solve. Where the plain sum of
 * squares is out of range, it is kept in units of its largest term. */
static double norm(const ode_march *m, const void *x, const void *y, const void *f, double length)
{
    ad_dtype dtype = m->system->dtype;
    double sum = m->each ? INFINITY : ode_scaled_squares(dtype, m->cells, x, y, m->rtol, m->atol),
           largest = 0;
    if (isfinite(sum) && sum > 1e-280) return sqrt(sum / (double)m->cells);
    sum = 0;
    for (int64_t i = 0; i < m->cells; i++) {
        double scale = ode_tolerance(m, i, ode_load(dtype, y, i));
        if (scale == 0) scale = m->rtol * length * fabs(ode_load(dtype, f, i));
        if (scale == 0) continue;
        double r = fabs(ode_load(dtype, x, i)) / scale;
        if (!isfinite(r)) return INFINITY;
        if (r > largest) {
            sum = sum * (largest / r) * (largest / r) + 1;
            largest = r;
        } else if (r > 0) {
            sum += (r / largest) * (r / largest);
        }
    }
    return largest * sqrt(sum / (double)m->cells);
}

/* The probe is no larger a part of the solve: a field that is symmetric about its middle, or
 * periodic, would look constant at the end. */
static const double most_probe = 0.37;

double ode_first_step(ode_march *m, double t0, double t1, const void *y)
{
    ad_dtype dtype = m->system->dtype;
    const void *f0 = m->slope[0].data;
    double length = fabs(t1 - t0), direction = t1 > t0 ? 1 : -1, order = m->method->order;
    double d0 = norm(m, y, y, f0, length), d1 = norm(m, f0, y, f0, length);
    if (!isfinite(d1)) return 0;
    /* The probe: a hundredth of the time in which the state changes by its own size. A state below
     * its tolerance has none: 1e4 tolerances then. Where nothing moves, the only time that is known
     * is the length of the solve. */
    double size = d0 >= 1 ? d0 : 1e4, h0 = d1 > 0 ? 0.01 * size / d1 : 1e-6 * length;
    h0 = fmin(h0, most_probe * length);
    char *y1 = m->work.data, *f1 = y1 + (size_t)m->cells * ode_bytes(dtype);
    ode_combine(dtype, m->cells, y, 1, (double[]){ direction * h0 }, (const void *[]){ f0 }, y1);
    int failed = ode_first_nonfinite(dtype, m->cells, y1) >= 0;
    if (!failed) failed = ode_march_field(m, t0 + direction * h0, 0, y1, f1, NULL, NULL);
    if (failed < 0) return -1;
    if (!failed) ode_add_scaled(dtype, m->cells, -1, f0, f1);
    double change = failed ? INFINITY : norm(m, f1, y, f0, length);
    if (!isfinite(change))
        return 1e-3 * h0; /* an unlucky probe is no failure: the error control finds the way */
    if (change == 0) return d1 > 0 ? fmin(100 * h0, length) : h0;
    /* tau = |y'| / |y''| has the unit of time, and |y'| tau has none, so neither has the choice:
     * where the term of the method's order of the series of exp(h / tau) is a hundredth of the
     * tolerance, but at least where y'' h^2 / 2 is. */
    double tau = d1 / change * h0, quadratic = sqrt(0.02 * h0 / change);
    double h1 = tau > 0 ? tau * pow(0.01 * tgamma(order + 1) / (d1 * tau), 1 / order) : 0;
    h1 = fmax(h1, quadratic);
    return fmin(fmin(100 * h0, h1), length);
}
