/* Internal: shared values of a system during a solve. */
#ifndef ODE_SHARED_H
#define ODE_SHARED_H
#include "ode/trajectory/problem.h"

typedef struct {
    ode_runner prologue;
    ode_buffer memory, pointers;
} ode_shared;
/* Computes them from the arguments args[nargs]: pointers, or NULL with the error written. */
void **ode_shared_compute(ode_shared *shared, const ode_problem *p, const ad_opaque_call *call,
                          const void *const *args);
void ode_shared_close(ode_shared *shared);
/* Adds what it holds to the account of a solve. */
void ode_shared_account(const ode_problem *p, ad_opaque_account *account);

#endif
