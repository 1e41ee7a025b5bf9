/* Steps whose drift is that at their end: z = base + h f(t + h, z) (Kloeden, Platen 1992, section
 * 12.2), with base = y + g W, or that of Milstein's method. What the drift damps fast is damped in
 * steps of any size. The diffusion is that at the beginning, as in the explicit methods: an
 * implicit one would divide by numbers that the path can make zero. */
#include "ode/methods/recorders.h"

static void record(const ode_step *s, ode_step_results *r, bool milstein)
{
    int n = s->system->nstate;
    ad_var g[ODE_MAX_STATES], base[ODE_MAX_STATES], guess[ODE_MAX_STATES], unused[ODE_MAX_STATES];
    ode_record_drift_diffusion(s, r, 0, s->y, NULL, g);
    for (int j = 0; j < n; j++) {
        base[j] = s->y[j];
        guess[j] = ad_zeros_like(s->y[j]);
    }
    sde_add_noise(s, g, milstein, base);
    ode_stages stages = ode_stages_begin(s);
    ode_record_stage(&stages, 1, s->h, base, guess, unused, r->next);
    ode_stages_end(&stages, r);
}

static void implicit_euler_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    record(s, r, false);
}

static void implicit_milstein_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    record(s, r, true);
}

static const double at_both_ends[] = { 0, 1 };
const ode_method sde_implicit_euler = {
    .name = "implicit_euler",
    .about = "Euler and Maruyama with the drift at the end of the step (Ito; all noise): for stiff "
             "drifts; strong order 0.5, and 1 where the noise is additive",
    .flags = ODE_METHOD_IMPLICIT,
    .order = 1,
    .times = 2,
    .times_estimate = 2,
    .times_dense = 2,
    .c = at_both_ends,
    .noise = 1,
    .takes = ODE_TAKES_ALL,
    .calculi = ODE_IN_ITO,
    .strong_order = 0.5,
    .weak_order = 1,
    .step = implicit_euler_step
};
const ode_method sde_implicit_milstein = {
    .name = "implicit_milstein",
    .about = "Milstein with the drift at the end of the step (Stratonovich; noise that commutes): "
             "for stiff drifts; strong order 1",
    .flags = ODE_METHOD_IMPLICIT,
    .order = 1,
    .times = 2,
    .times_estimate = 2,
    .times_dense = 2,
    .c = at_both_ends,
    .noise = 1,
    .takes = ODE_TAKES_COMMUTING,
    .calculi = ODE_IN_STRATONOVICH,
    .strong_order = 1,
    .weak_order = 1,
    .step = implicit_milstein_step
};
