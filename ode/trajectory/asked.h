/* Internal: times that a solve is asked for after it has been recorded. */
#ifndef ODE_ASKED_H
#define ODE_ASKED_H
#include "ode/trajectory/forward.h"

typedef struct {
    int n;
    double
        *times; /* constant ones in double, in the order in which they are asked; NULL: operands */
    const ad_opaque_class *operation; /* that asks */
} ode_asked;

/* The data of an operation that asks. Its operands: the solve's token and operands, the times by
 * each clock of the system. */
typedef struct {
    atomic_int references;
    ode_problem *problem; /* the solve's */
    ode_asked asked;
    ode_march_units units;
} ode_asking;
/* Records it: the solve's operands in[], times[nclocks]; results y [nstate]. The data, which are
 * the operation's; NULL with the tape's error set. */
const ode_asking *ode_asking_record(ode_problem *p, const ad_opaque_class *operation, ad_var token,
                                    const ad_var *in, const ad_var *times, ad_var *y);
void ode_asking_retain(void *asking);
void ode_asking_release(void *asking);

/* The times of a run in the order in which the solve passes them, by each clock. */
typedef struct {
    const double *t;  /* [n] by each clock */
    const int *place; /* of each as it was asked */
    ode_buffer entries, times, places;
} ode_asked_order;
/* `times`: the operands, by each clock. 0, or -1 with the call's error written: each time must be
 * in the interval of the solve. */
int ode_asked_read(ode_asked_order *order, const ode_asked *asked, const ode_forward *forward,
                   const void *const *times, const ad_opaque_call *call);
void ode_asked_close(ode_asked_order *order);

#endif
