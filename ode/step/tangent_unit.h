/* Internal: units of tangent systems. */
#ifndef ODE_TANGENT_UNIT_H
#define ODE_TANGENT_UNIT_H
#include "ode/step/unit.h"

/* The recording of one: the primal's unit, whose outputs are to be recorded between the two calls.
 */
typedef struct {
    ode_unit primal;
    ad_var *in, *out;  /* of the primal's unit; owned */
    ad_var *direction; /* by input of it: invalid where it has no tangent */
} ode_tangent_unit;

/* Takes its inputs, and their tangents, from those of unit u. false with the tape's error set. */
bool ode_tangent_unit_open(ode_tangent_unit *t, const ode_unit *u, ad_tape *tape, const ad_var *in);
/* Records the tangents, and puts its outputs and those into the outputs of u. */
void ode_tangent_unit_close(ode_tangent_unit *t, const ode_unit *u, ad_tape *tape, ad_var *out);

#endif
