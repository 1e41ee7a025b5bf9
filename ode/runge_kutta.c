/* One recorder for all explicit Runge-Kutta tableaux. */
#include "internal.h"

ad_var ode_record_sum(ad_var y, ad_var weight, int n, const double *c, const ad_var *k, int nstate)
{
    ad_var sum = ad_none(y.tape);
    int terms = 0;
    for (int i = 0; i < n; i++) {
        if (c[i] == 0) continue;
        ad_var term = c[i] == 1 ? k[i * nstate] : ad_scale(k[i * nstate], c[i]);
        sum = terms++ ? ad_add(sum, term) : term;
    }
    return terms ? ad_add(y, ad_mul(weight, sum)) : y;
}

ad_var ode_record_largest(int n, const ad_var *x)
{
    ad_var all = ad_none(x[0].tape);
    for (int j = 0; j < n; j++) {
        ad_var one = ad_reduce_max(ad_abs(x[j]), 0, NULL, 0);
        all = j ? ad_max(all, one) : one;
    }
    return all;
}

/* Sum of squares of (h sum_i e_i k_i) / (atol + rtol max(|y|, |next|)) over all states, rows and components. */
static ad_var scaled_squares(const ode_step *s, int nstage, const double *e)
{
    int n = s->system->nstate;
    ad_var total = ad_none(s->tape);
    for (int j = 0; j < n; j++) {
        ad_var error = ad_none(s->tape);
        int terms = 0;
        for (int i = 0; i < nstage; i++) {
            if (e[i] == 0) continue;
            ad_var term = ad_scale(s->k[i * n + j], e[i]);
            error = terms++ ? ad_add(error, term) : term;
        }
        ad_var scale = ad_add(s->atol, ad_mul(s->rtol, ad_max(ad_abs(s->y[j]), ad_abs(s->next[j]))));
        ad_var sum = ad_sum_all(ad_square(ad_div(ad_mul(s->h, error), scale)));
        total = j ? ad_add(total, sum) : sum;
    }
    return total;
}

/* Adds the quadratures' rates at a stage, weighted by b_i. */
static void add_quadratures(ode_step *s, double b, bool first, const ad_var *rate)
{
    for (int q = 0; q < s->system->nquad; q++) {
        ad_var term = b == 1 ? rate[q] : ad_scale(rate[q], b);
        s->quad[q] = first ? term : ad_add(s->quad[q], term);
    }
}

void ode_runge_kutta_step(const ode_method *m, ode_step *s)
{
    const ode_tableau *t = m->tableau;
    int n = s->system->nstate, last = t->stages;
    int count = s->dense ? last + 1 + t->extra : s->estimate ? last + 1 : last;
    const double *b = ode_tableau_row(t, last);
    ad_var *y = s->next, *rate = s->carry_quad_next, before[ODE_MAX_JOINT] = { 0 };
    int twin = ode_stage_before_last(t);
    bool any = false;
    for (int i = 0; i < (count > last ? count : last + 1); i++) {
        ad_var stage[ODE_MAX_JOINT];
        for (int j = 0; j < n; j++) stage[j] = i ? ode_record_sum(s->y[j], s->h, i, ode_tableau_row(t, i), s->k + j, n) : s->y[j];
        if (i == last)
            for (int j = 0; j < n; j++) y[j] = stage[j];
        if (i && i == twin)
            for (int j = 0; j < n; j++) before[j] = stage[j];
        if (i >= count) break;
        bool rates = s->quadrature && (i == last ? s->estimate : i < last && b[i] != 0);
        if (i == 0 && s->carry)
            for (int j = 0; j < n; j++) s->k[j] = s->carry[j];
        else if (s->residuals)
            ode_system_record_kept(s->system, s->tape, s->t[i], stage, s->row, s->shared, s->k + i * n, s->residuals,
                                   s->kept + i * s->residuals->n);
        else ode_system_record(s->system, s->tape, s->t[i], stage, s->row, s->shared, s->k + i * n, rates ? rate : NULL);
        if (rates && i < last) {
            add_quadratures(s, b[i], !any, i == 0 && s->carry ? s->carry_quad : rate);
            any = true;
        }
    }
    for (int q = 0; s->quadrature && q < s->system->nquad; q++) s->quad[q] = ad_mul(s->h, s->quad[q]);
    s->finite = ode_record_largest(s->system->nstate, s->next);
    if (!s->estimate) return;
    for (int j = 0; j < n; j++) s->carry_next[j] = s->k[last * n + j];
    s->finite = ad_max(s->finite, ode_record_largest(n, s->carry_next));
    s->error = scaled_squares(s, last + 1, t->e);
    s->error3 = t->e3 ? scaled_squares(s, last + 1, t->e3) : ad_zeros_like(s->error);
    ode_record_stiffness(m, s, before);
}
