/* Error norms: recorded functions of the errors of a step in units of the tolerance. They are
 * traced with the field, and are a part of the function that the system is. */
#include "ode/field/system.h"

/* The largest error of all. */
static ad_var largest(ad_tape *tape, int nstate, const ad_var *scaled, void *user)
{
    ad_var all = ad_none(tape);
    (void)user;
    for (int i = 0; i < nstate; i++) {
        ad_var one = ad_reduce_max(ad_abs(scaled[i]), 0, NULL, false);
        all = i ? ad_max(all, one) : one;
    }
    return all;
}

const ode_error_norm ode_norm_rms = { .name = "rms" };
const ode_error_norm ode_norm_max = { .name = "max", .record = largest };

/* What a user's norm returned, checked. */
static ad_var call_norm(const ode_system *s, ad_tape *tape, const ad_var *scaled)
{
    ad_var norm = s->norm.record(tape, s->nstate, scaled, s->norm.user);
    if (ad_tape_error(tape)) return ad_none(tape);
    char got[128] = "nothing valid";
    if (norm.tape == tape && ad_valid(norm)) {
        ad_shape shape = ad_shape_of(norm);
        if (shape.rank == 0) return norm;
        ad_format_shape(shape, got, sizeof got);
    }
    ad_fail(tape, "it returned %s; a norm is a scalar of the tape that it is given", got);
    return ad_none(tape);
}

void ode_norm_trace(ode_system *s)
{
    if (!s->norm.record) return;
    for (int i = 0; i < s->nstate; i++)
        s->scaled[i] = ad_input_rows(s->trace, s->state[i], 0, NULL);
    s->norm_value = call_norm(s, s->trace, s->scaled);
}

bool ode_has_norm(const ode_system *s) { return (s->base ? s->base : s)->norm.record != NULL; }

ad_var ode_norm_record(const ode_system *s, ad_tape *tape, const ad_var *scaled)
{
    if (s->base) {
        ad_var norm = ode_norm_record(s->base, tape, scaled);
        if (s->ngiven) return norm; /* the costates are all that is marched */
        return ad_max(norm, ode_norm_record(s->base, tape, scaled + s->base->nstate));
    }
    if (!s->trace) return call_norm(s, tape, scaled);
    ad_var norm = ad_none(tape);
    ad_inline(s->nstate, s->scaled, 1, &s->norm_value, tape, scaled, &norm);
    return norm;
}
