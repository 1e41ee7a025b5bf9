/* Internal: times that a solve is asked for after it has been recorded. */
#ifndef ODE_ASKED_H
#define ODE_ASKED_H
#include "ode/trajectory/forward.h"

typedef struct {
    int n;
    double
        *times; /* constant ones in double, in the order in which they are asked; NULL: operands */
} ode_asked;

/* They, in a run, in the order in which the solve passes them. */
typedef struct {
    const double *t;
    const int *place; /* of each as it was asked */
    ode_buffer entries, times, places;
} ode_asked_order;
/* `times`: the operand. 0, or -1 with the call's error written: each must be in the interval of the
 * solve. */
int ode_asked_read(ode_asked_order *order, const ode_asked *asked, const ode_forward *forward,
                   const void *times, const ad_opaque_call *call);
void ode_asked_close(ode_asked_order *order);

#endif
