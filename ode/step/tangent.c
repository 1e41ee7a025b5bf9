/* The tangents of a step: how its result and its error estimate change with the state, and with the
 * arguments. Those of the field alone are the cheap look before. */
#include "ode/step/unit.h"
#include <stdlib.h>

/* Sums of squares of x in units of the tolerance, by row: of the elements that are chosen (1, else
 * 0) into out[0], of the others into out[ODE_TANGENT_SUMS]. */
static void scaled(const ode_step *s, const ad_var *next, const ad_var *chosen, const ad_var *x,
                   ad_var *out)
{
    ad_var total[2];
    for (int j = 0; j < s->system->nstate; j++) {
        ad_var ratio = ad_div(x[j], ode_record_tolerance(s, next, j)),
               inside = ad_mul(ratio, chosen[j]);
        ad_var part[2] = { inside, ad_sub(ratio, inside) };
        for (int i = 0; i < 2; i++) {
            ad_var squares = ode_record_row_squares(part[i]);
            total[i] = j ? ad_add(total[i], squares) : squares;
        }
    }
    out[0] = total[0];
    out[ODE_TANGENT_SUMS] = total[1];
}

/* The per-row arguments and then the shared values of a system, and their directions. */
static void arguments(const ode_unit *u, const ad_var *in, ad_var *x, ad_var *direction)
{
    const ode_port ports[2][2] = { { ODE_PORT_ROW, ODE_PORT_ROW_DIRECTION },
                                   { ODE_PORT_SHARED, ODE_PORT_SHARED_DIRECTION } };
    int n = 0;
    for (int k = 0; k < 2; k++) {
        ode_place value = ode_unit_place(u, ODE_VALUE, ports[k][0]),
                  along = ode_unit_place(u, ODE_VALUE, ports[k][1]);
        for (int i = 0; i < value.count; i++) {
            x[n] = in[value.first + i];
            direction[n++] = in[along.first + i];
        }
    }
}

/* Changes of x [n] with the arguments. */
static void change_with_arguments(const ode_unit *u, const ad_var *in, int n, const ad_var *x,
                                  ad_var *change)
{
    const ode_system *sys = u->system;
    int narguments = sys->nrow + sys->nshared;
    ad_var *argument = malloc((2 * (size_t)narguments + 1) * sizeof *argument);
    for (int j = 0; j < n; j++) change[j] = ad_zeros_like(x[j]);
    if (!argument) ad_fail(x[0].tape, "out of memory");
    else if (narguments) {
        arguments(u, in, argument, argument + narguments);
        ad_jvp(narguments, argument, argument + narguments, n, x, change);
    }
    free(argument);
}

/* Of methods without a limit of stability. A tangent that begins in a step, in any direction or at
 * nothing, begins beside what decays fast, and sees a transient that earlier steps have damped. So
 * it begins where two longer steps have brought it, which leave what lasts: directions of the
 * states, from `along` and from nothing as the arguments change. */
static void settle(const ode_unit *u, ad_tape *tape, const ad_var *in, const ad_var *along,
                   ad_var *from, ad_var *forced)
{
    int n = u->system->nstate;
    ode_step s;
    ode_step_results r;
    ode_step_memory memory;
    ad_var once[ODE_MAX_JOINT], more[ODE_MAX_JOINT];
    ode_step_connect(u, tape, in, &s, &r, &memory);
    s.h = in[ode_unit_place(u, ODE_VALUE, ODE_PORT_SETTLING).first];
    u->key.method->step(u->key.method, &s, &r);
    ad_jvp(n, s.y, along, n, r.next, once);
    ad_jvp(n, s.y, once, n, r.next, from);
    change_with_arguments(u, in, n, r.next, once);
    ad_jvp(n, s.y, once, n, r.next, more);
    for (int j = 0; j < n; j++) forced[j] = ad_add(once[j], more[j]);
}

void ode_tangent_record(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    int n = u->system->nstate;
    ode_step s;
    ode_step_results r;
    ode_step_memory memory;
    ode_step_connect(u, tape, in, &s, &r, &memory);
    s.estimate = true;
    u->key.method->step(u->key.method, &s, &r);
    ad_var result[2 * ODE_MAX_JOINT], change[2 * ODE_MAX_JOINT];
    for (int j = 0; j < n; j++) {
        result[j] = r.next[j];
        result[n + j] = r.error[j];
    }
    const ad_var *chosen = in + ode_unit_place(u, ODE_VALUE, ODE_PORT_CHOSEN).first;
    const ad_var *along = in + ode_unit_place(u, ODE_VALUE, ODE_PORT_DIRECTION).first;
    ad_var from[ODE_MAX_JOINT], forced[ODE_MAX_JOINT], lasting[2 * ODE_MAX_JOINT];
    bool settled = ode_unit_place(u, ODE_VALUE, ODE_PORT_SETTLING).count;
    if (settled) settle(u, tape, in, along, from, forced);
    ad_jvp(n, s.y, along, 2 * n, result, change);
    if (settled) ad_jvp(n, s.y, from, 2 * n, result, lasting);
    scaled(&s, r.next, chosen, change, out + ODE_TANGENT_STATE);
    scaled(&s, r.next, chosen, settled ? lasting + n : change + n, out + ODE_TANGENT_STATE_ERROR);
    scaled(&s, r.next, chosen, along, out + ODE_TANGENT_STATE_START);
    change_with_arguments(u, in, 2 * n, result, change);
    scaled(&s, r.next, chosen, change, out + ODE_TANGENT_ARGUMENTS);
    if (settled) ad_jvp(n, s.y, forced, 2 * n, result, lasting);
    for (int j = n; settled && j < 2 * n; j++) change[j] = ad_add(change[j], lasting[j]);
    scaled(&s, r.next, chosen, change + n, out + ODE_TANGENT_ARGUMENTS_ERROR);
}

void ode_field_tangent_record(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    int n = u->system->nstate, axes[AD_MAX_RANK];
    ode_step s;
    ode_step_results r;
    ode_step_memory memory;
    ode_step_connect(u, tape, in, &s, &r, &memory);
    ad_var slope[ODE_MAX_JOINT], once[ODE_MAX_JOINT], change[ODE_MAX_JOINT],
        sums[2 * ODE_TANGENT_SUMS];
    const ad_var *chosen = in + ode_unit_place(u, ODE_VALUE, ODE_PORT_CHOSEN).first;
    const ad_var *along = in + ode_unit_place(u, ODE_VALUE, ODE_PORT_DIRECTION).first;
    ode_record_field(&s, &r, 0, s.y, slope, NULL);
    ad_jvp(n, s.y, along, n, slope, once);
    ad_jvp(n, s.y, once, n, slope, change);
    for (int j = 0; j < n; j++) {
        int rank = ad_shape_of(change[j]).rank;
        for (int i = 1; i < rank; i++) axes[i - 1] = i;
        ad_var size =
            ad_abs(ad_mul(ad_div(change[j], ode_record_tolerance(&s, s.y, j)), chosen[j]));
        if (rank > 1) size = ad_reduce_max(size, rank - 1, axes, 0);
        out[ODE_TANGENT_SECOND] = j ? ad_max(out[ODE_TANGENT_SECOND], size) : size;
    }
    scaled(&s, s.y, chosen, along, sums);
    out[ODE_TANGENT_DIRECTION] = sums[0];
    change_with_arguments(u, in, n, slope, change);
    scaled(&s, s.y, chosen, change, sums);
    out[ODE_TANGENT_FORCE] = sums[0];
    if (!(u->key.flags & ODE_FORCE_CHANGE)) return;
    ad_jvp(n, s.y, along, n, change, once);
    scaled(&s, s.y, chosen, once, sums);
    out[ODE_TANGENT_FORCE_CHANGE] = sums[0];
}
