/* Internal: cotangents of the shared values of a system. */
#ifndef ODE_SHARED_BAR_H
#define ODE_SHARED_BAR_H
#include "ode/adjoints/adjoint.h"

/* They are summed over the backward solve and pulled back to the shared arguments at its end. */
typedef struct {
    ode_runner prologue;
    ode_buffer memory, pointers;
} ode_shared_bar;
void **ode_shared_bar_begin(ode_shared_bar *bar,
                            const ode_adjoint_plan *plan); /* zeros; NULL: out of memory */
int ode_shared_bar_finish(ode_shared_bar *bar, const ode_adjoint_run *run);
void ode_shared_bar_close(ode_shared_bar *bar);
/* Adds what it holds to the account of a run. */
void ode_shared_bar_account(const ode_adjoint_plan *plan, ad_opaque_account *account);

#endif
