/* Implicit Euler, the trapezoidal rule and the midpoint rule. The first two: z = base + g f(t + h,
 * z) with base = y, g = h, or base = y + h/2 f(t, y), g = h/2. The third: z = y + h/2 f(t + h/2,
 * z), from where the step goes on by as much again. Newton's method begins at the base: the slope
 * at the step's start is no guess where the problem is stiff. */
#include "ode/methods/recorders.h"

/* The largest |y| or |next| of each row: [rows]. */
static ad_var row_size(const ode_step *s, const ode_step_results *r)
{
    ad_var all = ad_none(s->tape);
    for (int j = 0; j < s->system->nstate; j++) {
        ad_var one = ad_max(ad_abs(s->y[j]), ad_abs(r->next[j]));
        int axes[AD_MAX_RANK], rank = s->system->state[j].rank;
        for (int i = 1; i < rank; i++) axes[i - 1] = i;
        if (rank > 1) one = ad_reduce_max(one, rank - 1, axes, 0);
        all = j ? ad_max(all, one) : one;
    }
    return all;
}

/* The trapezoidal and the midpoint rule multiply a part of the state that decays fast by nearly -1
 * in each step. Then the slope at the step's start asks for many times the change that the step
 * makes, and yet this change is not small. Where an element moves by more than a tenth of its size
 * while its slope asks for ten times its size, what is computed is not the solution, which would
 * have done the one or the other. What Newton's method leaves, which is relative to the row, is no
 * size. */
static void record_ringing(const ode_step *s, const ad_var *start, ode_step_results *r)
{
    ad_var row = row_size(s, r);
    for (int j = 0; j < s->system->nstate; j++) {
        ad_shape shape = { .rank = s->system->state[j].rank, .dim = { AD_ROWS } };
        for (int i = 1; i < shape.rank; i++) shape.dim[i] = 1;
        ad_var size = ad_max(ad_max(ad_abs(s->y[j]), ad_abs(r->next[j])),
                             ad_scale(ad_reshape(row, shape), 1e3 * s->newton.tolerance));
        ad_var change = ad_scale(ad_abs(ad_sub(r->next[j], s->y[j])), 10),
               slope = ad_scale(ad_abs(ad_mul(s->h, start[j])), 0.1);
        r->ringing[j] = ad_div(ad_min(change, slope), size);
    }
}

void ode_implicit_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    int n = s->system->nstate, nquad = s->quadrature.wanted ? s->system->nquad : 0,
        last = m->times - 1;
    bool trapezoidal = m->times == 2;
    ad_var base[ODE_MAX_JOINT], guess[ODE_MAX_JOINT], unused[ODE_MAX_JOINT];
    ad_var g = trapezoidal ? ad_scale(s->h, 0.5) : s->h;
    ad_var *begin = nquad ? r->rates : NULL, *end = r->rates + nquad;
    if (trapezoidal) ode_record_field(s, r, 0, s->y, r->k, begin);
    for (int j = 0; j < n; j++) {
        base[j] = trapezoidal ? ad_add(s->y[j], ad_mul(g, r->k[j])) : s->y[j];
        guess[j] = ad_zeros_like(s->y[j]);
    }
    ode_stages stages = ode_stages_begin(s);
    ode_record_stage(&stages, last, g, base, guess, unused, r->next);
    ode_stages_end(&stages, r);
    if (ode_method_has(m, ODE_METHOD_RINGS)) record_ringing(s, r->k, r);
    if (!nquad) return;
    ode_record_field(s, r, last, r->next, unused, end);
    for (int q = 0; q < nquad; q++)
        r->quad[q] = ad_mul(g, trapezoidal ? ad_add(begin[q], end[q]) : end[q]);
}

void ode_implicit_midpoint_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    int n = s->system->nstate, nquad = s->quadrature.wanted ? s->system->nquad : 0;
    ad_var guess[ODE_MAX_JOINT], k[ODE_MAX_JOINT], middle[ODE_MAX_JOINT], start[ODE_MAX_JOINT];
    ad_var half = ad_scale(s->h, 0.5);
    for (int j = 0; j < n; j++) guess[j] = ad_zeros_like(s->y[j]);
    ode_stages stages = ode_stages_begin(s);
    ode_record_stage(&stages, 0, half, s->y, guess, k, middle);
    ode_stages_end(&stages, r);
    for (int j = 0; j < n; j++) r->next[j] = ad_sub(ad_scale(middle[j], 2), s->y[j]);
    ode_record_field(s, r, 1, s->y, start, NULL);
    record_ringing(s, start, r);
    if (!nquad) return;
    ode_record_field(s, r, 0, middle, start, r->rates);
    for (int q = 0; q < nquad; q++) r->quad[q] = ad_mul(s->h, r->rates[q]);
}
