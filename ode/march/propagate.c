/* What steps of one size make of a mode of the derivative, y' = lambda y.
 *
 * The gradient multiplies a mode by R(h lambda) in each step where the solution's derivative is
 * multiplied by e^(h lambda). The limit of stability holds |R| within 1 for modes that decay. An
 * oscillation needs more: dopri5 multiplies one by up to 1.3 within that limit, where it should not
 * grow at all, and turns it by a wrong angle well before. Error control sees neither where the
 * oscillation is no part of the solution. Here the n steps from the beginning to an output are
 * compared: R^n with e^(n h lambda).
 *
 * Implicit methods damp what an oscillation keeps. Their steps are held for modes that are still
 * there at the first output, and not for those that have decayed: to damp these in large steps is
 * what such a method is chosen for. */
#include "ode/march/watch.h"

/* Relative error that is allowed at an output. */
static const double allowed_at_output = 0.05;

/* Part of |lambda| to which its real part is known. */
static const double uncertain = 0.02;

/* Of the largest step, the part to which it is found. */
static const double resolution = 1e-4;

/* log(R(z) / e^z). Asked of every row of a batch: functions and products of complex numbers that
 * look for infinities take several times as long. */
static double complex deviation(const ode_march *m, double complex z)
{
    const ode_settings *set = m->settings;
    const double x = creal(z), y = cimag(z);
    double real = 0, imaginary = 0;
    for (int k = set->degree; k >= 0; k--) {
        const double last = real;
        real = set->growth[k] + x * last - y * imaginary;
        imaginary = x * imaginary + y * last;
    }
    if (set->diagonal != 0) {
        const double complex r = (real + I * imaginary) / cpow(1 - set->diagonal * z, set->degree);
        real = creal(r);
        imaginary = cimag(r);
    }
    if (real == 0 && imaginary == 0) return -INFINITY;
    const double turn = atan2(imaginary, real) - y;
    return log(real * real + imaginary * imaginary) / 2 - x +
           I * (turn - 2 * M_PI * nearbyint(turn / (2 * M_PI)));
}

double ode_deviation(const ode_march *m, double complex z)
{
    return fmin(2, cabs(deviation(m, z)));
}

double ode_stray(const ode_march *m, double complex lambda, double h)
{
    return ode_deviation(m, h * lambda) / allowed_at_output;
}

/* What the tolerances are of the state's largest element. */
static double relative_tolerance(const ode_march *m)
{
    double size = m->watch.size;
    return size > 0 ? fmin(0.1, m->rtol + m->atol / size) : m->rtol;
}

bool ode_is_spent(const ode_march *m, double complex lambda)
{
    double rate = creal(lambda) + uncertain * cabs(lambda);
    return rate * m->watch.first_output < log(relative_tolerance(m) / 2);
}

/* The error at the output where it is largest, in units of what is allowed: relative to the mode,
 * or to half the tolerance where the mode is smaller: such a derivative is not asked for. */
static double error_of_mode(const ode_march *m, double complex lambda, double h)
{
    const ode_watch *w = &m->watch;
    /* A mode that grows is seen once it has grown by the inverse of that. */
    double tolerance = relative_tolerance(m), least = log(tolerance / 2);
    double rate = creal(lambda);
    if (rate < 0) rate = fmin(0, rate + uncertain * cabs(lambda));
    if (!isfinite(m->guard.limit) && ode_is_spent(m, lambda)) return 0;
    double t = fmin(w->horizon, -least / fabs(rate));
    if (rate < 0) t = fmax(w->first_output, t);
    double n = fmax(1, t / h), left = fmin(0, rate * n * h - least);
    double complex off = n * deviation(m, h * lambda);
    double relative = fmin(2, cabs(off)) * exp(fmin(700, fmax(0, creal(off)) + left));
    return relative / allowed_at_output;
}

double ode_strain(const ode_march *m, double complex lambda, double h)
{
    double z = h * cabs(lambda) * m->guard.margin / m->guard.limit;
    if (!(z <= 1) || m->settings->degree == 0) return z;
    double error = error_of_mode(m, lambda, h);
    return fmax(z, error > 0 ? pow(error, 1.0 / m->method->order) : 0);
}

double ode_largest_step(const ode_march *m, double complex lambda)
{
    double stable = m->guard.limit / (m->guard.margin * cabs(lambda)), least = 0,
           most = fmin(stable, m->watch.horizon);
    if (ode_strain(m, lambda, most) <= 1) return stable;
    /* It can be any small part of the horizon, but not nothing. */
    while (most - least > resolution * most && most > DBL_MIN) {
        double middle = (least + most) / 2;
        if (ode_strain(m, lambda, middle) <= 1) least = middle;
        else most = middle;
    }
    return least;
}

double ode_excess(const ode_march *m, double complex lambda, double h)
{
    double size = fmin(h, m->watch.horizon), strain = ode_strain(m, lambda, size);
    return strain > 1 ? size / ode_largest_step(m, lambda) : strain;
}
