/* Implicit Euler and the trapezoidal rule: z = base + g f(t + h, z) with base = y, g = h, or base = y + h/2 f(t, y), g = h/2. */
#include "internal.h"

void ode_implicit_step(const ode_method *m, ode_step *s)
{
    int n = s->system->nstate;
    bool trapezoidal = m->times == 2;
    ad_var base[ODE_MAX_JOINT], g = trapezoidal ? ad_scale(s->h, 0.5) : s->h;
    ad_var *rate = s->quadrature ? s->quad : NULL;
    for (int j = 0; j < n; j++) base[j] = s->y[j];
    if (trapezoidal) {
        ode_system_record(s->system, s->tape, s->t[0], s->y, s->row, s->shared, s->k, rate);
        for (int j = 0; j < n; j++) base[j] = ad_add(s->y[j], ad_mul(g, s->k[j]));
    }
    ode_record_root(s, s->t[m->times - 1], g, base, s->next, &s->counts);
    ad_var unused[ODE_MAX_JOINT];
    s->finite = ode_record_largest(n, s->next);
    if (!rate || !s->system->nquad) return;
    ad_var *end = s->carry_quad_next;
    ode_system_record(s->system, s->tape, s->t[m->times - 1], s->next, s->row, s->shared, unused, end);
    for (int q = 0; q < s->system->nquad; q++) s->quad[q] = ad_mul(g, trapezoidal ? ad_add(rate[q], end[q]) : end[q]);
}
