/* What recorders of steps share. */
#include "ode/step/step.h"
#include <math.h>
#include <string.h>

const ad_var *ode_step_row(const ode_step *s, int i, ad_var *memory)
{
    int given = s->system->ngiven, others = s->system->nrow - given;
    if (!given) return s->row;
    if (others) memcpy(memory, s->row, (size_t)others * sizeof *memory);
    memcpy(memory + others, s->given + i * given, (size_t)given * sizeof *memory);
    return memory;
}

void ode_record_field(const ode_step *s, const ode_step_results *r, int i, const ad_var *y,
                      ad_var *dy, ad_var *rate)
{
    ad_var memory[ODE_MAX_ROWS];
    const ad_var *row = ode_step_row(s, i, memory);
    if (s->residuals)
        ode_system_record_kept(s->system, s->tape, s->t[i], y, row, s->shared, dy, NULL,
                               s->residuals, r->kept + i * s->residuals->n);
    else ode_system_record(s->system, s->tape, s->t[i], y, row, s->shared, dy, rate);
}

/* ---- stochastic systems ---- */

void ode_record_drift_diffusion(const ode_step *s, const ode_step_results *r, int i,
                                const ad_var *y, ad_var *f, ad_var *g)
{
    ad_var memory[ODE_MAX_ROWS], *kept = s->residuals ? r->kept + i * s->residuals->n : NULL;
    const ad_var *row = ode_step_row(s, i, memory);
    ode_system_record_kept(s->system, s->tape, s->t[i], y, row, s->shared, f, g, s->residuals,
                           kept);
}

void ode_record_noise(const ode_step *s, const ad_var *g, ad_var x, ad_var *dy)
{
    ode_diffusion_apply(s->system, s->tape, g, x, dy);
}

ad_var ode_record_increment(const ode_step *s) { return ad_mul(s->root_h, s->noise[0]); }
ad_var ode_record_area(const ode_step *s)
{
    return ad_mul(s->root_h, ad_scale(s->noise[1], sqrt(1.0 / 12)));
}
ad_var ode_record_second_area(const ode_step *s)
{
    return ad_mul(s->root_h, ad_scale(s->noise[2], sqrt(1.0 / 720)));
}

void ode_record_driven(const ode_step *s, const ode_step_results *r, int i, const ad_var *y,
                       ad_var w, ad_var *dy, ad_var *quad)
{
    ad_var memory[ODE_MAX_ROWS], *kept = s->residuals ? r->kept + i * s->residuals->n : NULL;
    ode_driving by = { s->h, w };
    ode_system_record_driven(s->system, s->tape, s->t[i], y, ode_step_row(s, i, memory), s->shared,
                             &by, dy, quad, s->residuals, kept);
}

/* ---- sums and norms ---- */

ad_var ode_record_weighted(int n, const double *c, const ad_var *x, int stride)
{
    ad_var sum = { 0 };
    int terms = 0;
    for (int i = 0; i < n; i++) {
        if (c[i] == 0) continue;
        ad_var term = c[i] == 1 ? x[i * stride] : ad_scale(x[i * stride], c[i]);
        sum = terms++ ? ad_add(sum, term) : term;
    }
    return sum;
}

ad_var ode_record_sum(ad_var y, ad_var weight, int n, const double *c, const ad_var *k, int nstate)
{
    ad_var sum = ode_record_weighted(n, c, k, nstate);
    return sum.tape ? ad_add(y, ad_mul(weight, sum)) : y;
}

ad_var ode_record_largest(int n, const ad_var *x, const ad_var *y)
{
    ad_var all = ad_none(x[0].tape);
    for (int j = 0; j < n; j++) {
        ad_var size = y ? ad_max(ad_abs(x[j]), ad_abs(y[j])) : ad_abs(x[j]);
        ad_var one = ad_reduce_max(size, 0, NULL, 0);
        all = j ? ad_max(all, one) : one;
    }
    return all;
}

ad_var ode_record_tolerance(const ode_step *s, const ad_var *next, int j)
{
    const ode_step_norm *norm = &s->norm;
    ad_var relative = ad_mul(norm->rtol, ad_max(ad_abs(s->y[j]), ad_abs(next[j])));
    return ad_add(norm->each ? norm->each[j] : norm->atol, relative);
}

ad_var ode_record_weight(const ode_step *s, const ad_var *next, int j)
{
    return ad_div(ad_scalar(s->tape, 1), ode_record_tolerance(s, next, j));
}

ad_var ode_record_row_squares(ad_var x)
{
    int axes[AD_MAX_RANK], rank = ad_shape_of(x).rank;
    for (int i = 1; i < rank; i++) axes[i - 1] = i;
    ad_var square = ad_square(x);
    return rank > 1 ? ad_sum(square, rank - 1, axes, 0) : square;
}
