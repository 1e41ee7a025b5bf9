/* What a step is recorded from: the fields of an ode_step by the names of ports. */
#include "ode/step/unit.h"

static ad_var number(const ode_unit *u, ad_tape *tape, const ad_var *in, ode_port port)
{
    const ad_var *x = ode_unit_input(u, in, port);
    return x ? *x : ad_none(tape);
}

void ode_step_connect(const ode_unit *u, ad_tape *tape, const ad_var *in, ode_step *s,
                      ode_step_results *r, ode_step_memory *memory)
{
    int flags = u->key.flags;
    *s = (ode_step){ .tape = tape,
                     .system = u->system,
                     .row = ode_unit_input(u, in, ODE_PORT_ROW),
                     .shared = ode_unit_input(u, in, ODE_PORT_SHARED),
                     .given = ode_unit_input(u, in, ODE_PORT_GIVEN),
                     .h = number(u, tape, in, ODE_PORT_H),
                     .t = ode_unit_input(u, in, ODE_PORT_TIMES),
                     .y = ode_unit_input(u, in, ODE_PORT_STATE),
                     .slope = ode_unit_input(u, in, ODE_PORT_SLOPE),
                     .carry = ode_unit_input(u, in, ODE_PORT_CARRY),
                     .estimate = flags & ODE_ESTIMATE,
                     .stability = flags & ODE_STABILITY,
                     .dense = flags & ODE_DENSE,
                     .quadrature = { .wanted = flags & ODE_QUADRATURE,
                                     .rate = ode_unit_input(u, in, ODE_PORT_RATE),
                                     .size = ode_unit_input(u, in, ODE_PORT_SIZE) },
                     .norm = { .rtol = number(u, tape, in, ODE_PORT_RTOL),
                               .atol = number(u, tape, in, ODE_PORT_ATOL),
                               .rounding = number(u, tape, in, ODE_PORT_ROUNDING),
                               .each = ode_unit_input(u, in, ODE_PORT_ATOL_EACH) },
                     .newton = u->key.newton,
                     .reuse = u->key.derivative == ODE_ITSELF ? number(u, tape, in, ODE_PORT_REUSE)
                                                              : ad_none(tape),
                     .residuals = u->key.residuals,
                     .noise = ode_unit_input(u, in, ODE_PORT_NOISE),
                     .pairs = ode_unit_input(u, in, ODE_PORT_PAIRS),
                     .root_h = ad_none(tape) };
    if (s->noise) {
        /* Over no time the increment is zero, and does not grow with the time. */
        ad_var zero = ad_scalar(tape, 0);
        s->root_h = ad_select(ad_eq(s->h, zero), zero, ad_sqrt(ad_abs(s->h)));
    }
    ad_var none = ad_none(tape);
    *r = (ode_step_results){ .next = memory->next,
                             .slope = memory->slope,
                             .k = memory->k,
                             .error = memory->error,
                             .error3 = memory->error3,
                             .ringing = memory->ringing,
                             .stiffness = none,
                             .counts = none,
                             .failed_row = none,
                             .failed_how = none };
}
