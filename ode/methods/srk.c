/* One recorder for all stochastic Runge-Kutta tableaux (srk.def). */
#include "ode/methods/recorders.h"
#include <string.h>

typedef struct {
    const sde_tableau *tableau;
    const ode_step *step;
    ode_step_results *results;
    ad_var number[SDE_NUMBERS]; /* [rows,m] each */
    ad_var f[ODE_MAX_STAGES * ODE_MAX_STATES], g[ODE_MAX_STAGES * ODE_MAX_STATES];
} stages;

/* Of a triangle of coefficients, row i >= 1. */
static const double *triangle_row(const double *triangle, int i)
{
    return triangle + i * (i - 1) / 2;
}

/* What multiplies the diffusion of stage j: numbers of the path, in stage i (stage `stages`: in the
 * result). false: nothing does. */
static bool noise_weights(const sde_tableau *t, int i, int j, double *weight)
{
    bool any = false;
    for (int k = 0; k < SDE_NUMBERS; k++) {
        const double *of = i < t->stages ? t->stage[k] : t->result[k];
        weight[k] = !of ? 0 : i < t->stages ? triangle_row(of, i)[j] : of[j];
        any = any || weight[k] != 0;
    }
    return any;
}

static bool error_weights(const sde_tableau *t, int j, double *weight)
{
    bool any = false;
    for (int k = 0; k < SDE_NUMBERS; k++) {
        weight[k] = t->error[k] ? t->error[k][j] : 0;
        any = any || weight[k] != 0;
    }
    return any;
}

/* Whether a later stage, the result or the estimate reads the drift at stage j, or the diffusion.
 */
static bool reads_drift(const sde_tableau *t, bool estimate, int j)
{
    if (t->b[j] != 0 || (estimate && t->e[j] != 0)) return true;
    for (int i = j + 1; i < t->stages; i++)
        if (triangle_row(t->a, i)[j] != 0) return true;
    return false;
}

static bool reads_diffusion(const sde_tableau *t, bool estimate, int j)
{
    double weight[SDE_NUMBERS];
    if (estimate && error_weights(t, j, weight)) return true;
    for (int i = j + 1; i <= t->stages; i++)
        if (noise_weights(t, i, j, weight)) return true;
    return false;
}

/* W, H, sqrt|h|, and the integrals (W^2 - h) / (2 sqrt|h|), (W^3 - 3 h W) / (6 h) of Ito. */
static void record_numbers(stages *all, int groups)
{
    const ode_step *s = all->step;
    ad_var w = s->noise[0], square = ad_square(w);
    all->number[SDE_W] = ode_record_increment(s);
    all->number[SDE_H] = groups > 1 ? ode_record_area(s) : ad_none(s->tape);
    all->number[SDE_ROOT] = ad_mul(s->root_h, ad_ones_like(w));
    all->number[SDE_SECOND] = ad_mul(s->root_h, ad_scale(ad_shift(square, -1), 0.5));
    all->number[SDE_THIRD] = ad_mul(s->root_h, ad_scale(ad_mul(w, ad_shift(square, -3)), 1.0 / 6));
}

/* Adds the diffusion of stage j times the weighted sum of the numbers. */
static void add_noise(const stages *all, int j, const double *weight, ad_var *sum)
{
    const ode_step *s = all->step;
    ad_var dy[ODE_MAX_STATES];
    ad_var x = ode_record_weighted(SDE_NUMBERS, weight, all->number, 1);
    ode_record_noise(s, all->g + j * s->system->nstate, x, dy);
    for (int q = 0; q < s->system->nstate; q++)
        if (dy[q].node >= 0) sum[q] = sum[q].node < 0 ? dy[q] : ad_add(sum[q], dy[q]);
}

/* y + h sum_j a_j f_j + the noise of stage i; stage `stages` is the result. */
static void record_state(const stages *all, int i, ad_var *y)
{
    const sde_tableau *t = all->tableau;
    const ode_step *s = all->step;
    int n = s->system->nstate;
    double weight[SDE_NUMBERS];
    const double *a = i == t->stages ? t->b : i ? triangle_row(t->a, i) : NULL;
    for (int q = 0; q < n; q++)
        y[q] = i ? ode_record_sum(s->y[q], s->h, i, a, all->f + q, n) : s->y[q];
    for (int j = 0; j < i; j++)
        if (noise_weights(t, i, j, weight)) add_noise(all, j, weight, y);
}

static void record_error(const stages *all, ad_var *error)
{
    const sde_tableau *t = all->tableau;
    const ode_step *s = all->step;
    int n = s->system->nstate;
    double weight[SDE_NUMBERS];
    for (int q = 0; q < n; q++) {
        error[q] = ode_record_weighted(t->stages, t->e, all->f + q, n);
        error[q] = error[q].tape ? ad_mul(s->h, error[q]) : ad_none(s->tape);
    }
    for (int j = 0; j < t->stages; j++)
        if (error_weights(t, j, weight)) add_noise(all, j, weight, error);
    for (int q = 0; q < n; q++)
        if (error[q].node < 0) error[q] = ad_zeros_like(s->y[q]);
}

static void srk_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    const sde_tableau *t = m->stochastic;
    int n = s->system->nstate;
    stages all = { .tableau = t, .step = s, .results = r };
    record_numbers(&all, m->noise);
    for (int i = 0; i < t->stages; i++) {
        bool drift = reads_drift(t, s->estimate, i), diffusion = reads_diffusion(t, s->estimate, i);
        ad_var y[ODE_MAX_STATES];
        record_state(&all, i, y);
        if (drift || diffusion)
            ode_record_drift_diffusion(s, r, i, y, drift ? all.f + i * n : NULL,
                                       diffusion ? all.g + i * n : NULL);
    }
    record_state(&all, t->stages, r->next);
    if (s->estimate) record_error(&all, r->error);
}

#define ROWS(...)                                                                                  \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define C ROWS
#define A ROWS
#define W ROWS
#define H ROWS
#define R ROWS
#define B ROWS
#define BW ROWS
#define BH ROWS
#define B2 ROWS
#define B3 ROWS
#define E ROWS
#define EW ROWS
#define EH ROWS
#define E3 ROWS
#define ROOT3 1.7320508075688772935
#define DIAGONAL_OR_SCALAR (ODE_TAKES_DIAGONAL | ODE_TAKES_SCALAR)
/* A triangle of coefficients, and weights; zeros are left away. */
#define TRIANGLE(name, stages, ...)                                                                \
    static const double name[(stages) * ((stages)-1) / 2] = __VA_ARGS__;
#define WEIGHTS(name, stages, ...) static const double name[stages] = __VA_ARGS__;
#define SDE_SRK(name_, about_, calculi_, takes_, strong_, weak_, order_, flags_, groups_, stages_, \
                c_, a_, w_, h_, r_, b_, bw_, bh_, b2_, b3_, e_, ew_, eh_, e3_)                     \
    WEIGHTS(name_##_c, stages_, c_)                                                                \
    TRIANGLE(name_##_a, stages_, a_)                                                               \
    TRIANGLE(name_##_w, stages_, w_)                                                               \
    TRIANGLE(name_##_h, stages_, h_)                                                               \
    TRIANGLE(name_##_r, stages_, r_)                                                               \
    WEIGHTS(name_##_b, stages_, b_)                                                                \
    WEIGHTS(name_##_bw, stages_, bw_)                                                              \
    WEIGHTS(name_##_bh, stages_, bh_)                                                              \
    WEIGHTS(name_##_b2, stages_, b2_)                                                              \
    WEIGHTS(name_##_b3, stages_, b3_)                                                              \
    WEIGHTS(name_##_e, stages_, e_)                                                                \
    WEIGHTS(name_##_ew, stages_, ew_)                                                              \
    WEIGHTS(name_##_eh, stages_, eh_)                                                              \
    WEIGHTS(name_##_e3, stages_, e3_)                                                              \
    _Static_assert((stages_) <= ODE_MAX_STAGES, #name_ " has too many stages");                    \
    static const sde_tableau name_##_tableau = {                                                   \
        .stages = stages_,                                                                         \
        .c = name_##_c,                                                                            \
        .a = name_##_a,                                                                            \
        .b = name_##_b,                                                                            \
        .e = name_##_e,                                                                            \
        .stage = { name_##_w, name_##_h, name_##_r, NULL, NULL },                                  \
        .result = { name_##_bw, name_##_bh, NULL, name_##_b2, name_##_b3 },                        \
        .error = { name_##_ew, name_##_eh, NULL, NULL, name_##_e3 }                                \
    };                                                                                             \
    const ode_method sde_##name_ = {                                                               \
        .name = #name_,                                                                            \
        .about = about_,                                                                           \
        .flags = (flags_) | (sizeof((double[])ew_) > sizeof(double) ? ODE_METHOD_ADAPTIVE : 0),    \
        .order = order_,                                                                           \
        .times = stages_,                                                                          \
        .times_estimate = stages_,                                                                 \
        .times_dense = stages_,                                                                    \
        .c = name_##_c,                                                                            \
        .noise = groups_,                                                                          \
        .stochastic = &name_##_tableau,                                                            \
        .takes = takes_,                                                                           \
        .calculi = calculi_,                                                                       \
        .strong_order = strong_,                                                                   \
        .weak_order = weak_,                                                                       \
        .step = srk_step                                                                           \
    };
#include "ode/methods/srk.def"
