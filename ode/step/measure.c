/* What all steps tell of themselves: whether they are finite, and their errors in units of the
 * tolerance. */
#include "ode/step/step.h"

/* The norm of error / (atol + rtol max(|y|, |next|)); where the system has none of its own, the sum
 * of its squares over all states, rows and components. */
static ad_var measure_error(const ode_step *s, const ad_var *next, const ad_var *error)
{
    ad_var scaled[ODE_MAX_JOINT], total = ad_none(s->tape);
    for (int j = 0; j < s->system->nstate; j++)
        scaled[j] = ad_mul(error[j], ode_record_weight(s, next, j));
    if (ode_has_norm(s->system)) return ode_norm_record(s->system, s->tape, scaled);
    for (int j = 0; j < s->system->nstate; j++) {
        ad_var sum = ad_sum_all(ad_square(scaled[j]));
        total = j ? ad_add(total, sum) : sum;
    }
    return total;
}

/* A quadrature is measured by itself: the mean square over its elements of the error divided by
 * atol + rtol times the sum of the increments' magnitudes so far. What it has come to would be too
 * strict a measure where it passes through zero. A sum over the rows has independent errors in
 * each, so atol counts sqrt(rows) times; this also keeps the tolerance above the rounding of a sum
 * whose terms cancel. */
static void measure_quadratures(const ode_method *m, const ode_step *s, const ode_step_results *r,
                                ode_step_measures *out)
{
    for (int q = 0; q < s->system->nquad; q++) {
        out->size[q] = ad_add(s->quadrature.size[q], ad_abs(r->quad[q]));
        bool sum = !ad_has_rows(s->system->quad[q]);
        ad_var atol = sum ? ad_mul(s->norm.atol, ad_sqrt(ad_row_count(s->tape))) : s->norm.atol;
        ad_var scale = ad_add(atol, ad_mul(s->norm.rtol, out->size[q]));
        ad_var error = ad_mean_all(ad_square(ad_div(r->quad_error[q], scale)));
        if (ode_method_has(m, ODE_METHOD_TWO_ESTIMATES)) {
            /* As the march combines the estimates of the state. */
            ad_var error3 = ad_mean_all(ad_square(ad_div(r->quad_error3[q], scale)));
            ad_var both = ad_div(ad_square(error), ad_add(error, ad_scale(error3, 0.01)));
            error = ad_select(ad_eq(error, ad_scalar(s->tape, 0)), error, both);
        }
        out->quadratures = q ? ad_max(out->quadratures, error) : error;
    }
}

void ode_record_measures(const ode_method *m, const ode_step *s, const ode_step_results *r,
                         ode_step_measures *out)
{
    int n = s->system->nstate;
    bool slopes = s->estimate && ode_method_has(m, ODE_METHOD_FSAL);
    out->finite = ode_record_largest(n, r->next, slopes ? r->slope : NULL);
    if (s->quadrature.size) measure_quadratures(m, s, r, out);
    if (!s->estimate) return;
    out->error = measure_error(s, r->next, r->error);
    out->error3 = ode_method_has(m, ODE_METHOD_TWO_ESTIMATES) ? measure_error(s, r->next, r->error3)
                                                              : ad_zeros_like(out->error);
}
