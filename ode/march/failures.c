/* What is said when an adaptive solve cannot go on: where it is, what was seen there, and what
 * helps against that. */
#include "ode/march/march.h"
#include "ode/methods/newton.h"
#include <float.h>
#include <math.h>

int64_t ode_march_nonfinite(const ode_march *m, const void *next, bool *derivative)
{
    int64_t bad = ode_first_nonfinite(m->system->dtype, m->cells, next);
    *derivative = bad < 0;
    if (bad < 0 && m->slopes)
        bad = ode_first_nonfinite(m->system->dtype, m->cells, m->slope[1].data);
    return bad;
}

/* The first element of a row that is not finite, or else `element`. */
static int64_t nonfinite_of_row(const ode_march *m, const void *next, int64_t row, int64_t element)
{
    const ode_system *s = m->system;
    int64_t first = 0;
    for (int j = 0; j < s->nstate; first += m->rows * s->size[j++])
        for (int64_t i = first + row * s->size[j]; i < first + (row + 1) * s->size[j]; i++)
            if (!isfinite(ode_load(s->dtype, next, i))) return i;
    return element;
}

/* The element whose derivative changes most over the attempted step, in units of the tolerance. */
static int64_t worst_element(const ode_march *m, const void *y)
{
    const ode_system *s = m->system;
    int64_t worst = 0;
    double most = -1;
    for (int64_t i = 0; i < m->cells; i++) {
        double change =
            fabs(ode_load(s->dtype, m->slope[1].data, i) - ode_load(s->dtype, m->slope[0].data, i));
        if (change > 0) change /= ode_tolerance(m, i, ode_load(s->dtype, y, i));
        if (change <= most) continue;
        worst = i;
        if (!(change >= 0)) break;
        most = change;
    }
    return worst;
}

/* Steps are held small by the limit of stability, not by the error. */
static bool looks_stiff(const ode_march *m)
{
    const ode_guard *g = &m->guard;
    return g->z > 0.8 * g->limit || 5 * (g->limited + g->refused) > m->steps + m->rejected;
}

/* What to do about steps of size h at t, which are so small because of element `worst` of the
 * state, after what was seen. */
typedef struct {
    double t, h, state; /* state: the size of the element */
    int64_t worst;
} trouble;
static void advise(const ode_march *m, const trouble *of, char *text, size_t size)
{
    bool f32 = m->system->dtype == AD_F32;
    double h = of->h, state = of->state;
    double tolerance = ode_tolerance(m, of->worst, state);
    double rounding = (f32 ? FLT_EPSILON : DBL_EPSILON) * state, spacing = ode_spacing(of->t);
    if (tolerance < rounding)
        snprintf(
            text, size,
            "the tolerance there, %.2g, is below the rounding of %s (%.2g at %.3g): raise rtol%s",
            tolerance, f32 ? "float32" : "float64", rounding, state, f32 ? ", or use float64" : "");
    else if (h < 1e3 * spacing)
        snprintf(text, size,
                 "a step is %.3g spacings of the numbers at t (%.2g): it is limited by the "
                 "rounding of time; shift the origin of time "
                 "towards t, or look for a singularity there",
                 h / spacing, spacing);
    else if (looks_stiff(m))
        snprintf(text, size,
                 "%.0f %% of the attempts were at the limit of stability, the latest with |h "
                 "lambda| = %.2g of %.2g: the problem is stiff "
                 "there; use an L-stable method (ode_kvaerno5)",
                 100 * (double)(m->guard.limited + m->guard.refused) /
                     (double)(m->steps + m->rejected),
                 m->guard.z, m->guard.limit);
    else if (m->watch.on && m->watch.lambda > 0 && m->watch.accurate)
        snprintf(
            text, size,
            "the solution's derivatives ask for such steps, not the state, which does not show an "
            "oscillation of frequency %.3g: raise max_steps",
            m->watch.lambda);
    else if (m->watch.on && isfinite(m->watch.allowed))
        snprintf(text, size,
                 "the solution's derivatives ask for such steps, not the state, of which a "
                 "component or all is "
                 "at rest: raise max_steps, or loosen the "
                 "tolerances");
    else
        snprintf(text, size,
                 "it is accuracy that asks for such steps, not stability: raise max_steps, or "
                 "loosen the tolerances");
}

int ode_fail_small(ode_march *m, double t, double h, double ratio, const void *y, const void *next)
{
    char where[96], advice[400],
        error[80] = "makes too large an error in the solution's derivatives";
    bool derivative = false;
    int64_t bad = ode_march_nonfinite(m, next, &derivative);
    if (bad >= 0) {
        if (m->failed_row >= 0) bad = nonfinite_of_row(m, next, m->failed_row, bad);
        ode_where(m->system, m->rows, bad, where, sizeof where);
        if (m->failed_row >= 0 && m->failed_how == ODE_NEWTON_DERIVATIVE)
            return ode_fail(m, ODE_NOT_FINITE,
                            "step %lld near t = %.15g: " ODE_NO_DERIVATIVE
                            ", however small the step (%.3g)",
                            (long long)m->steps, t, where, h);
        if (m->failed_row >= 0 && m->failed_how != ODE_NEWTON_FIELD)
            return ode_fail(m, ODE_NEWTON,
                            "step %lld at t = %.15g: Newton's method does not find the stages of "
                            "a step of %.3g in row %lld (%s), and a smaller one is not allowed; "
                            "check the field there, raise newton_tolerance, or lower min_step",
                            (long long)m->steps, t, h, (long long)m->failed_row,
                            m->failed_how == ODE_NEWTON_SINGULAR ? "the matrix I - g J is singular"
                                                                 : "it does not converge");
        const char *outside = ad_workspace_outside(m->step.workspace);
        if (outside)
            return ode_fail(m, ODE_OUTSIDE_DOMAIN,
                            "step %lld near t = %.15g, however small the step (%.3g): %s; the "
                            "solution leaves the field's domain there",
                            (long long)m->steps, t, h, outside);
        if (derivative && ode_is_derivative(m->system, m->rows, bad))
            return ode_fail(m, ODE_NOT_FINITE,
                            "step %lld near t = %.15g: " ODE_NO_DERIVATIVE
                            ", however small the step (%.3g)",
                            (long long)m->steps, t, where, h);
        return ode_fail(m, ODE_NOT_FINITE,
                        "step %lld near t = %.15g: %s is not finite in %s, however small the step "
                        "(%.3g); check the field there: it may "
                        "have a singularity",
                        (long long)m->steps, t, derivative ? "the field" : "the state", where, h);
    }
    char what[160];
    if (m->quadrature &&
        ode_name_quadrature(m->system, m->rows, m->increment.data, what, sizeof what))
        return ode_fail(m, ODE_NOT_FINITE,
                        "step %lld near t = %.15g: the gradient %s, is not finite, however small "
                        "the step (%.3g); the field has no finite "
                        "derivative there (a root or a power at 0?)",
                        (long long)m->steps, t, what, h);
    if (ode_method_stochastic(m->method))
        return ode_fail(m, ODE_STEP_TOO_SMALL,
                        "step %lld at t = %.15g: a step of %.3g still has %.2g times the error "
                        "that is allowed; loosen the tolerances (rtol %g, atol %g)%s",
                        (long long)m->steps, t, h, ratio, m->rtol, m->atol,
                        m->settings->min_step >= h ? ", or lower min_step" : "");
    int64_t worst = worst_element(m, y);
    ode_where(m->system, m->rows, worst, where, sizeof where);
    if (m->guard.z > m->guard.limit)
        snprintf(error, sizeof error, "is beyond the limit of stability");
    if (ratio > 1) snprintf(error, sizeof error, "has %.2g times the error that is allowed", ratio);
    if (m->settings->min_step >= h) {
        bool stiff = m->guard.z > 0.8 * m->guard.limit;
        return ode_fail(
            m, ODE_STEP_TOO_SMALL,
            "step %lld at t = %.15g: a step of options.min_step = %g %s, worst in %s; lower "
            "min_step%s",
            (long long)m->steps, t, m->settings->min_step, error, where,
            stiff ? ", or use an L-stable method (ode_kvaerno5): the problem is stiff there"
                  : ", or loosen the tolerances");
    }
    trouble of = { t, h, fabs(ode_load(m->system->dtype, y, worst)), worst };
    advise(m, &of, advice, sizeof advice);
    return ode_fail(m, ODE_STEP_TOO_SMALL,
                    "step %lld at t = %.15g underflows: a step of %.3g still %s, worst in %s; %s",
                    (long long)m->steps, t, h, error, where, advice);
}

int ode_fail_many(ode_march *m, double t, double t1, double h, const void *y)
{
    char where[96], advice[400];
    int64_t all = m->steps + m->rejected;
    if (ode_method_stochastic(m->method))
        return ode_fail(m, ODE_TOO_MANY_STEPS,
                        "max_steps = %lld attempts are used up at t = %.15g of %.15g (step size "
                        "%.3g, %.0f %% of the attempts rejected); loosen the tolerances (rtol %g, "
                        "atol %g): a path is rough, and its error goes down slowly with the step",
                        (long long)m->settings->max_steps, t, t1, h,
                        all ? 100 * (double)m->rejected / (double)all : 0, m->rtol, m->atol);
    int64_t worst = worst_element(m, y);
    ode_where(m->system, m->rows, worst, where, sizeof where);
    trouble of = { t, h, fabs(ode_load(m->system->dtype, y, worst)), worst };
    advise(m, &of, advice, sizeof advice);
    return ode_fail(m, ODE_TOO_MANY_STEPS,
                    "max_steps = %lld attempts are used up at t = %.15g of %.15g (step size %.3g, "
                    "%.0f %% of the attempts rejected), worst "
                    "in %s; %s",
                    (long long)m->settings->max_steps, t, t1, h,
                    all ? 100 * (double)m->rejected / (double)all : 0, where, advice);
}

int ode_fail_blurred(ode_march *m, double from, double to)
{
    bool f32 = m->system->dtype == AD_F32;
    return ode_fail(m, ODE_TIME_TOO_COARSE,
                    "the field reads the time, and cannot tell it apart within a step: from t = "
                    "%.15g to %.15g the times of %s are multiples of "
                    "%.3g; count time from the start of the solve (let t run from 0 and add the "
                    "start to what depends on the clock before it "
                    "comes into the field)%s",
                    from, to, f32 ? "float32" : "float64", ode_type_spacing(m->system->dtype, to),
                    f32 ? ", or use float64" : "");
}

int ode_fail_memory(ode_march *m)
{
    return ode_fail(m, ODE_OUT_OF_MEMORY,
                    "out of memory for the state after step %lld (%.3g MB a state): states are "
                    "kept for the gradient; ode_backsolve keeps none, "
                    "nor does a compiled program (ad_compile) without a gradient; fewer rows, or "
                    "fewer steps, need less",
                    (long long)m->steps,
                    (double)m->cells * (double)ode_bytes(m->system->dtype) / 1e6);
}
