/* The reversible Heun method (Kidger, Foster, Li, Lyons 2021, arXiv:2105.13493): beside y it takes
 * a second solution z, drift f and diffusion g there, along from step to step,
 *
 *     z' = 2 y - z + h f + g W,   y' = y + h (f + f') / 2 + (g + g') W / 2,   f', g' at t + h, z',
 *
 * so that a step has one evaluation, and can be taken back exactly. */
#include "ode/methods/recorders.h"
#include <string.h>

/* What is carried lies state by state: z, f, and g of the states that have noise. */
typedef struct {
    ad_var z[ODE_MAX_STATES], f[ODE_MAX_STATES], g[ODE_MAX_STATES];
} carried;

static void unpack(const ode_system *system, const ad_var *carry, carried *c)
{
    int n = system->nstate;
    memcpy(c->z, carry, (size_t)n * sizeof *carry);
    memcpy(c->f, carry + n, (size_t)n * sizeof *carry);
    carry += 2 * n;
    for (int j = 0; j < n; j++)
        c->g[j] = system->noise.states >> j & 1 ? *carry++ : ad_none(carry->tape);
}

static void pack(const ode_system *system, const carried *c, ad_var *carry)
{
    int n = system->nstate;
    memcpy(carry, c->z, (size_t)n * sizeof *carry);
    memcpy(carry + n, c->f, (size_t)n * sizeof *carry);
    carry += 2 * n;
    for (int j = 0; j < n; j++)
        if (system->noise.states >> j & 1)
            *carry++ = ad_broadcast(c->g[j], ode_diffusion_shape(system, j));
}

static void reversible_heun_begin(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    carried c;
    memcpy(c.z, s->y, (size_t)s->system->nstate * sizeof *c.z);
    ode_record_drift_diffusion(s, r, 0, s->y, c.f, c.g);
    pack(s->system, &c, r->carry);
}

/* h f + g W. */
static void record_move(const ode_step *s, const carried *c, ad_var *move)
{
    ode_record_noise(s, c->g, ode_record_increment(s), move);
    for (int j = 0; j < s->system->nstate; j++) {
        ad_var drift = ad_mul(s->h, c->f[j]);
        move[j] = move[j].node < 0 ? drift : ad_add(drift, move[j]);
    }
}

static void reversible_heun_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    int n = s->system->nstate;
    carried before, after;
    ad_var first[ODE_MAX_STATES], last[ODE_MAX_STATES];
    unpack(s->system, s->carry, &before);
    record_move(s, &before, first);
    for (int j = 0; j < n; j++) {
        ad_var mirrored = ad_sub(ad_scale(s->y[j], 2), before.z[j]);
        after.z[j] = ad_add(mirrored, first[j]);
    }
    ode_record_drift_diffusion(s, r, 0, after.z, after.f, after.g);
    record_move(s, &after, last);
    for (int j = 0; j < n; j++) {
        r->next[j] = ad_add(s->y[j], ad_scale(ad_add(first[j], last[j]), 0.5));
        if (s->estimate) r->error[j] = ad_scale(ad_sub(last[j], first[j]), 0.5);
    }
    pack(s->system, &after, r->carry);
}

static const double at_start[] = { 0 }, at_end[] = { 1 };
static const ode_shapes carry[] = { ODE_SHAPE_STATE, ODE_SHAPE_STATE, ODE_SHAPE_DIFFUSION };
const ode_method sde_reversible_heun = {
    .name = "reversible_heun",
    .about =
        "Kidger, Foster, Li, Lyons 2021 (arXiv:2105.13493; Stratonovich; all noise): strong "
        "order 0.5, and 1 where the noise is additive; one evaluation a step, reversible; with "
        "Euler's step as its estimate",
    .flags = ODE_METHOD_ADAPTIVE | ODE_METHOD_REVERSIBLE,
    .order = 1,
    .times = 1,
    .times_estimate = 1,
    .times_dense = 1,
    .c = at_end,
    .begin_times = 1,
    .begin_c = at_start,
    .ncarry = 3,
    .carry = carry,
    .noise = 1,
    .takes = ODE_TAKES_ALL,
    .calculi = ODE_IN_STRATONOVICH,
    .strong_order = 0.5,
    .weak_order = 1,
    .begin = reversible_heun_begin,
    .step = reversible_heun_step
};
