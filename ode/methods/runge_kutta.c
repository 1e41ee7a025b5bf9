/* One recorder for all explicit Runge-Kutta tableaux. */
#include "ode/methods/recorders.h"

/* Sum of squares of (h sum_i e_i k_i) / (atol + rtol max(|y|, |next|)) over all states, rows and
 * components. */
static ad_var scaled_squares(const ode_step *s, int nstage, const double *e)
{
    int n = s->system->nstate;
    ad_var total = ad_none(s->tape);
    for (int j = 0; j < n; j++) {
        ad_var error = ode_record_weighted(nstage, e, s->k + j, n);
        ad_var sum = ad_sum_all(ad_square(ad_mul(ad_mul(s->h, error), ode_record_weight(s, j))));
        total = j ? ad_add(total, sum) : sum;
    }
    return total;
}

/* Increments of the quadratures, and their errors. A quadrature is measured by itself: the mean
 * square over its elements of the error divided by atol + rtol times the sum of the increments'
 * magnitudes so far. What it has come to would be too strict a measure where it passes through
 * zero. A sum over the rows has independent errors in each, so atol counts sqrt(rows) times; this
 * also keeps the tolerance above the rounding of a sum whose terms cancel. */
static void finish_quadratures(const ode_tableau *t, ode_step *s)
{
    int nquad = s->system->nquad, n = t->stages + 1;
    for (int q = 0; q < nquad; q++) {
        s->quad[q] = ad_mul(s->h, ode_record_weighted(t->stages, ode_tableau_row(t, t->stages),
                                                      s->rates + q, nquad));
        if (s->estimate) s->carry_quad_next[q] = s->rates[t->stages * nquad + q];
        if (!s->size) continue;
        s->size_next[q] = ad_add(s->size[q], ad_abs(s->quad[q]));
        bool sum = !ad_has_rows(s->system->quad[q]);
        ad_var atol = sum ? ad_mul(s->atol, ad_sqrt(ad_row_count(s->tape))) : s->atol;
        ad_var scale = ad_add(atol, ad_mul(s->rtol, s->size_next[q]));
        ad_var error = ad_mean_all(ad_square(
            ad_div(ad_mul(s->h, ode_record_weighted(n, t->e, s->rates + q, nquad)), scale)));
        if (t->e3) { /* as the march combines the estimates of the state */
            ad_var error3 = ad_mean_all(ad_square(
                ad_div(ad_mul(s->h, ode_record_weighted(n, t->e3, s->rates + q, nquad)), scale)));
            ad_var both = ad_div(ad_square(error), ad_add(error, ad_scale(error3, 0.01)));
            error = ad_select(ad_eq(error, ad_scalar(s->tape, 0)), error, both);
        }
        s->quad_error = q ? ad_max(s->quad_error, error) : error;
    }
}

/* Whether the quadratures' rates at stage i are wanted: the last one begins the next step. */
static bool wants_rates(const ode_tableau *t, const ode_step *s, int i)
{
    if (!s->quadrature || i > t->stages) return false;
    if (i == t->stages) return s->estimate;
    return ode_tableau_row(t, t->stages)[i] != 0 ||
           (s->size && (t->e[i] != 0 || (t->e3 && t->e3[i] != 0)));
}

void ode_runge_kutta_step(const ode_method *m, ode_step *s)
{
    const ode_tableau *t = m->tableau;
    int n = s->system->nstate, last = t->stages;
    int count = s->dense ? last + 1 + t->extra : s->estimate ? last + 1 : last;
    int nquad = s->quadrature ? s->system->nquad : 0, twin = ode_stage_before_last(t);
    ad_var *y = s->next, before[ODE_MAX_JOINT] = { 0 };
    for (int i = 0; i < (count > last ? count : last + 1); i++) {
        ad_var stage[ODE_MAX_JOINT];
        for (int j = 0; j < n; j++)
            stage[j] =
                i ? ode_record_sum(s->y[j], s->h, i, ode_tableau_row(t, i), s->k + j, n) : s->y[j];
        if (i == last)
            for (int j = 0; j < n; j++) y[j] = stage[j];
        if (i && i == twin)
            for (int j = 0; j < n; j++) before[j] = stage[j];
        if (i >= count) break;
        ad_var *rate = wants_rates(t, s, i) ? s->rates + i * nquad : NULL;
        if (i == 0 && s->carry) {
            for (int j = 0; j < n; j++) s->k[j] = s->carry[j];
            for (int q = 0; q < nquad; q++) rate[q] = s->carry_quad[q];
        } else if (s->residuals)
            ode_system_record_kept(s->system, s->tape, s->t[i], stage, s->row, s->shared,
                                   s->k + i * n, s->residuals, s->kept + i * s->residuals->n);
        else
            ode_system_record(s->system, s->tape, s->t[i], stage, s->row, s->shared, s->k + i * n,
                              rate);
    }
    if (s->quadrature) finish_quadratures(t, s);
    s->finite = ode_record_largest(n, s->next, s->estimate ? s->k + last * n : NULL);
    if (!s->estimate) return;
    for (int j = 0; j < n; j++) s->carry_next[j] = s->k[last * n + j];
    s->error = scaled_squares(s, last + 1, t->e);
    s->error3 = t->e3 ? scaled_squares(s, last + 1, t->e3) : ad_zeros_like(s->error);
    ode_record_stiffness(m, s, before);
}
