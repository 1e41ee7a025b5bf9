/* Internal: forward solves, which fill trajectories. */
#ifndef ODE_FORWARD_H
#define ODE_FORWARD_H
#include "ode/trajectory/shared.h"
#include "ode/trajectory/trajectory.h"

/* The state of a forward operation, where its adjoint finds what the latest solve has left. */
typedef struct {
    ode_problem *problem;
    ode_march march;
    ode_shared shared;
    ode_trajectory trajectory;
    ode_path path;  /* of stochastic systems; tangents have that of the solve which they follow */
    void **values;  /* shared values of the latest solve */
    bool partial;   /* the latest solve ended before its last time, and that is no error */
    double reached; /* then: the time of its latest state */
    double until; /* of a solve in progress that is `again`: where it has to end; NaN: at the end */
    ode_status ended; /* then: how the first solve ended there */
    bool again;       /* the solve in progress is for an adjoint that found nothing stored */
    ode_buffer times;
    ode_buffer scratch;
    ode_refinement refinement;
    const ad_opaque_call *call; /* in progress */
    int64_t most_bytes;         /* of the latest call that was the solve's own */
    int next_output;
} ode_forward;
void *ode_forward_new(void *problem);
void ode_forward_free(void *forward);

/* Solves; operands y0 [n], arguments, times; results the solutions. 0, or -1 with the call's error
 * written. */
int ode_forward_solve(void *problem, void *forward, const ad_opaque_call *call);
/* What it will hold in memory (ad_opaque_class.account). */
void ode_forward_account(void *problem, ad_opaque_account *account);
/* Whether steps of solves with so many rows keep residuals, some of them and, as far as that is
 * known before, all. */
void ode_forward_keeps(const ode_problem *problem, int64_t rows, bool *some, bool *all);
/* Whether the latest solve reached a time of its interval. */
bool ode_forward_reached(const ode_forward *forward, double t);
/* Solves again and stores the steps, for an adjoint that finds none: `call` is the adjoint's, which
 * has the solve's operands after the token. 0, or -1 with the call's error written. */
int ode_forward_again(ode_forward *forward, const ad_opaque_call *call);

#endif
