/* The explicit two-step Nystroem method, also called leapfrog: y_{n+1} = y_{n-1} + 2 h f(t_n, y_n)
 * (Nystroem 1925; Hairer, Norsett, Wanner, Solving ODEs I, III.1). y_{n-1} is carried. */
#include "ode/methods/recorders.h"

/* The carried state before the first step is such that the uniform formula makes the explicit
 * midpoint step: y_{-1} = midpoint - 2 h f(t_0, y_0). */
void ode_nystroem_begin(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    int n = s->system->nstate;
    ad_var k[ODE_MAX_JOINT], middle[ODE_MAX_JOINT], km[ODE_MAX_JOINT];
    ad_var half = ad_scale(s->h, 0.5), two = ad_scale(s->h, 2);
    ode_record_field(s, r, 0, s->y, k, NULL);
    for (int j = 0; j < n; j++) middle[j] = ad_add(s->y[j], ad_mul(half, k[j]));
    ode_record_field(s, r, 1, middle, km, NULL);
    for (int j = 0; j < n; j++)
        r->carry[j] = ad_sub(ad_add(s->y[j], ad_mul(s->h, km[j])), ad_mul(two, k[j]));
}

void ode_nystroem_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    int n = s->system->nstate;
    ad_var two = ad_scale(s->h, 2);
    ode_record_field(s, r, 0, s->y, r->k, NULL);
    for (int j = 0; j < n; j++) {
        r->next[j] = ad_add(s->carry[j], ad_mul(two, r->k[j]));
        r->carry[j] = s->y[j];
    }
    if (!s->quadrature.wanted || !s->system->nquad) return;
    /* Quadratures carry nothing: the midpoint rule at the mean of the ends, of the same order. */
    ad_var mean[ODE_MAX_JOINT], rate[ODE_MAX_JOINT];
    for (int j = 0; j < n; j++) mean[j] = ad_scale(ad_add(s->y[j], r->next[j]), 0.5);
    ad_var middle = ad_add(s->t[0], ad_scale(ad_reshape(s->h, ad_shape_of(s->t[0])), 0.5));
    ode_system_record(s->system, s->tape, middle, mean, s->row, s->shared, rate, r->quad);
    for (int q = 0; q < s->system->nquad; q++) r->quad[q] = ad_mul(s->h, r->quad[q]);
}
