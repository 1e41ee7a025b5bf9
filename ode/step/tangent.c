/* The tangents of a step: how its result and its error estimate change with the state, and with the
 * arguments. Those of the field alone are the cheap look before. */
#include "ode/step/unit.h"
#include <stdlib.h>
#include <string.h>

void ode_tangent_place(ode_unit *u)
{
    const ode_system *s = u->system;
    u->at.tolerance = u->nin;
    for (int i = 0; i < 3; i++) u->in[u->nin++] = AD_SCALAR;
    u->at.each = u->nin;
    for (int i = 0; u->key.flags & ODE_EACH && i < s->nstate; i++) {
        u->in[u->nin] = s->state[i];
        u->in[u->nin++].dim[0] = 1;
    }
    u->at.ybar = u->nin;
    for (int i = 0; i < s->nstate; i++) u->in[u->nin++] = s->state[i];
    u->at.chosen = u->nin;
    for (int i = 0; i < s->nstate; i++) u->in[u->nin++] = s->state[i];
    u->at.arguments_dot = u->nin;
    for (int i = 0; i < s->nrow; i++) u->in[u->nin++] = s->arg[s->row[i]];
    for (int i = 0; i < s->nshared; i++) {
        u->parameter[u->nin] = true;
        u->in[u->nin++] = s->shared[i];
    }
    u->nout = u->key.method ? ODE_TANGENTS : ODE_FIELD_TANGENTS;
}

/* Sums of squares of x in units of the tolerance, by row: of the elements that are chosen (1, else
 * 0) into out[0], of the others into out[ODE_TANGENT_SUMS]. */
static void scaled(const ode_step *s, const ad_var *chosen, const ad_var *x, ad_var *out)
{
    ad_var total[2];
    for (int j = 0; j < s->system->nstate; j++) {
        ad_var ratio = ad_div(x[j], ode_record_tolerance(s, j)), inside = ad_mul(ratio, chosen[j]);
        ad_var part[2] = { inside, ad_sub(ratio, inside) };
        for (int i = 0; i < 2; i++) {
            ad_var squares = ode_record_row_squares(part[i]);
            total[i] = j ? ad_add(total[i], squares) : squares;
        }
    }
    out[0] = total[0];
    out[ODE_TANGENT_SUMS] = total[1];
}

/* Tangents of the field at the state. */
static void record_field(const ode_unit *u, ode_step *s, const ad_var *in, ad_var *out)
{
    const ode_places *at = &u->at;
    const ode_system *sys = u->system;
    int narguments = sys->nrow + sys->nshared, axes[AD_MAX_RANK];
    ad_var slope[ODE_MAX_JOINT], once[ODE_MAX_JOINT], change[ODE_MAX_JOINT],
        sums[2 * ODE_TANGENT_SUMS];
    for (int j = 0; j < sys->nstate; j++) s->next[j] = s->y[j];
    ode_system_record(sys, s->tape, s->t[0], s->y, s->row, s->shared, slope, NULL);
    ad_jvp(sys->nstate, s->y, in + at->ybar, sys->nstate, slope, once);
    ad_jvp(sys->nstate, s->y, once, sys->nstate, slope, change);
    for (int j = 0; j < sys->nstate; j++) {
        int rank = ad_shape_of(change[j]).rank;
        for (int i = 1; i < rank; i++) axes[i - 1] = i;
        ad_var size =
            ad_abs(ad_mul(ad_div(change[j], ode_record_tolerance(s, j)), in[at->chosen + j]));
        if (rank > 1) size = ad_reduce_max(size, rank - 1, axes, 0);
        out[ODE_TANGENT_SECOND] = j ? ad_max(out[ODE_TANGENT_SECOND], size) : size;
    }
    scaled(s, in + at->chosen, in + at->ybar, sums);
    out[ODE_TANGENT_DIRECTION] = sums[0];
    if (narguments)
        ad_jvp(narguments, in + at->row, in + at->arguments_dot, sys->nstate, slope, change);
    for (int j = 0; !narguments && j < sys->nstate; j++) change[j] = ad_zeros_like(change[j]);
    scaled(s, in + at->chosen, change, sums);
    out[ODE_TANGENT_FORCE] = sums[0];
}

void ode_tangent_record(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    const ode_places *at = &u->at;
    const ode_method *m = u->key.method;
    const ode_system *sys = u->system;
    int n = sys->nstate, narguments = sys->nrow + sys->nshared;
    ad_var next[ODE_MAX_JOINT], carry_next[ODE_MAX_JOINT], k[ODE_MAX_STAGES * ODE_MAX_JOINT];
    ode_step s = { .tape = tape,
                   .system = u->system,
                   .row = in + at->row,
                   .shared = in + at->shared,
                   .newton = u->key.newton,
                   .h = m ? in[at->h] : ad_none(tape),
                   .t = in + at->t,
                   .y = in + at->y,
                   .estimate = true,
                   .rtol = in[at->tolerance],
                   .atol = in[at->tolerance + 1],
                   .rounding = in[at->tolerance + 2],
                   .each = u->key.flags & ODE_EACH ? in + at->each : NULL,
                   .next = next,
                   .carry_next = carry_next,
                   .k = k };
    if (!m) {
        record_field(u, &s, in, out);
        return;
    }
    m->step(m, &s);
    int last = m->tableau->stages;
    ad_var result[2 * ODE_MAX_JOINT], change[2 * ODE_MAX_JOINT];
    for (int j = 0; j < n; j++) {
        result[j] = next[j];
        result[n + j] =
            ode_record_sum(ad_zeros_like(next[j]), s.h, last + 1, m->tableau->e, k + j, n);
    }
    ad_jvp(n, in + at->y, in + at->ybar, 2 * n, result, change);
    const ad_var *chosen = in + at->chosen;
    scaled(&s, chosen, change, out + ODE_TANGENT_STATE);
    scaled(&s, chosen, change + n, out + ODE_TANGENT_STATE_ERROR);
    scaled(&s, chosen, in + at->ybar, out + ODE_TANGENT_STATE_START);
    if (narguments) ad_jvp(narguments, in + at->row, in + at->arguments_dot, 2 * n, result, change);
    for (int j = 0; !narguments && j < 2 * n; j++) change[j] = ad_zeros_like(change[j]);
    scaled(&s, chosen, change, out + ODE_TANGENT_ARGUMENTS);
    scaled(&s, chosen, change + n, out + ODE_TANGENT_ARGUMENTS_ERROR);
}
