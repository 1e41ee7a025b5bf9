/* Internal: a quantity that the gradient of a solve conserves, as a check of it.
 *
 * Where the field f does not read the time, a^T f is constant along a solution, a the derivative of
 * the loss by the state there: both change as the flow has it, a' = -a^T J and f' = J f, J the
 * field's Jacobian. It is the derivative of the loss by a shift of the time. Discrete adjoints do
 * not conserve it: how far it drifts says how wrong they are in the direction of the solution,
 * where the errors of a gradient gather in oscillations, and do so in silence, since the error of
 * the state in that direction is a small delay. */
#ifndef ODE_CONSERVED_H
#define ODE_CONSERVED_H
#include "ode/adjoints/adjoint.h"

/* Between two outputs a^T f is looked at from a little before the later one back to the earlier
 * one. */
typedef struct {
    ode_adjoint_run *run; /* NULL: not looked at */
    ode_march *march;     /* the solve's, for its field */
    bool open;            /* a later end has been looked at */
    int settled;          /* steps since an output */
    int64_t later;        /* that end's boundary */
    ode_buffer f, bar, moved, rows;
} ode_conserved;

/* For the run, if its solve and what it asks of its gradient are such. 0, or -1 with the call's
 * error written, as below. */
int ode_conserved_open(ode_conserved *conserved, ode_adjoint_run *run);
/* The way back has come to boundary k, where the state's cotangent is bar: after a step without an
 * output in it; before an output at it or in the step that ends there, or at the first time. */
int ode_conserved_pass(ode_conserved *conserved, int64_t k, const void *bar);
int ode_conserved_end(ode_conserved *conserved, int64_t k, const void *bar);
/* At the first time: an error where it has drifted too far. */
int ode_conserved_finish(ode_conserved *conserved);
void ode_conserved_close(ode_conserved *conserved);
/* Adds what it holds to the account of a run. */
void ode_conserved_account(const ode_adjoint_plan *plan, ad_opaque_account *account);

#endif
