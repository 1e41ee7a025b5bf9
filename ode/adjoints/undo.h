/* Internal: steps taken back. A step of a reversible method from b to a undoes the one from a to b,
 * so that of a whole solve the last state is enough, with what the method carries there. */
#ifndef ODE_UNDO_H
#define ODE_UNDO_H
#include "ode/adjoints/adjoint.h"

typedef struct {
    ode_march march; /* its carry[0]: what the method carried into the step taken back last */
    ode_buffer state[2];
    void *y; /* the state where that step began */
    int64_t k;
} ode_undo;
/* At the end of the run's solve. 0, or -1 with the call's error written, as below. */
int ode_undo_open(ode_undo *undo, const ode_adjoint_run *run, const ode_march_units *units);
/* Takes the step before back. */
int ode_undo_step(ode_undo *undo, const ode_adjoint_run *run);
/* At the first time: how far from y0 it has come, which is an error where the two have little to do
 * with each other. */
int ode_undo_finish(const ode_undo *undo, const ode_adjoint_run *run);
void ode_undo_close(ode_undo *undo);
/* Adds what it holds once it is open to the account of a run. */
void ode_undo_account(const ode_adjoint_plan *plan, const ode_march_units *units,
                      ad_opaque_account *account);

#endif
