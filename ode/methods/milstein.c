/* Milstein's method (Milstein 1974, doi:10.1137/1119062), in the calculus of Stratonovich, where it
 * is
 *
 *     y + h f + g W + 1/2 sum_ij (dg_j/dy) g_i W_i W_j = y + h f + g W + 1/2 d(g W)/dy (g W),
 *
 * one derivative in one direction whatever the noise, if it commutes (Kloeden, Platen 1992, section
 * 10.3). With the drift that belongs to it, f - 1/2 sum_j (dg_j/dy) g_j, this is Ito's formula with
 * W_i W_j - h (i = j). */
#include "ode/methods/recorders.h"

void sde_add_noise(const ode_step *s, const ad_var *g, bool milstein, ad_var *sum)
{
    int n = s->system->nstate, count = 0, of[ODE_MAX_STATES];
    ad_var dy[ODE_MAX_STATES], along[ODE_MAX_STATES], noise[ODE_MAX_STATES], moved[ODE_MAX_STATES];
    ode_record_noise(s, g, ode_record_increment(s), dy);
    for (int j = 0; j < n; j++) {
        along[j] = dy[j].node < 0 ? ad_zeros_like(s->y[j]) : dy[j];
        if (dy[j].node < 0) continue;
        sum[j] = ad_add(sum[j], dy[j]);
        of[count] = j;
        noise[count++] = dy[j];
    }
    if (!milstein || s->system->noise.additive) return;
    ad_jvp_cut(n, s->y, along, count, noise, moved);
    for (int k = 0; k < count; k++) sum[of[k]] = ad_add(sum[of[k]], ad_scale(moved[k], 0.5));
}

static void milstein_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    ad_var f[ODE_MAX_STATES], g[ODE_MAX_STATES];
    ode_record_drift_diffusion(s, r, 0, s->y, f, g);
    for (int j = 0; j < s->system->nstate; j++) r->next[j] = ad_add(s->y[j], ad_mul(s->h, f[j]));
    sde_add_noise(s, g, true, r->next);
}

static const double at_start[] = { 0 };
const ode_method sde_milstein = {
    .name = "milstein",
    .about =
        "Milstein 1974 (doi:10.1137/1119062; Stratonovich; noise that commutes): strong order 1",
    .order = 1,
    .times = 1,
    .times_estimate = 1,
    .times_dense = 1,
    .c = at_start,
    .noise = 1,
    .takes = ODE_TAKES_COMMUTING,
    .calculi = ODE_IN_STRATONOVICH,
    .strong_order = 1,
    .weak_order = 1,
    .step = milstein_step
};
