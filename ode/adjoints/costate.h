/* Internal: costates marched back in time, which the adjoints of the continuous problem share. */
#ifndef ODE_COSTATE_H
#define ODE_COSTATE_H
#include "ode/adjoints/adjoint.h"

typedef struct {
    /* what is marched: its states begin with the costates, its quadratures are the cotangents of
     * arguments */
    ode_system *system;
    ode_march_units march;
    const ode_unit *field; /* the solve's own right-hand side, for the times' cotangents */
} ode_costate_plan;
/* Compiles it for a system (NULL: there was no memory for it). false with the tape's error set. */
bool ode_costate_plan_make(ode_costate_plan *plan, const ode_adjoint_plan *d, ode_system *system,
                           ad_tape *tape);

typedef struct {
    ode_march march, field; /* as in the plan */
    ode_pile states;
    ode_buffer f, x, g; /* slots of the solve's system: slope, solution, cotangents at an output */
    ode_refinement refinement;
    /* of the run in progress */
    ode_adjoint_run *run;
    const ode_costate_plan *plan;
    const ode_problem *problem;
    ode_settings settings; /* of the march: those of the solve, but where the adjoint's differ */
    double first;          /* time of the solve */
    int direction;         /* of the solve: 1, -1 */
    size_t slot, whole;    /* bytes of the solve's system, and of the marched one */
    char *end;             /* the latest accepted state: costates, and what comes after */
} ode_costate;
/* Zero costates at the end of the run's solve. 0, or -1 with the call's error written, as below. */
int ode_costate_open(ode_costate *b, ode_adjoint_run *run, const ode_costate_plan *plan);
void ode_costate_close(ode_costate *b);
/* Adds what it holds once it is open to the account of a run. */
void ode_costate_account(const ode_costate_plan *plan, const ode_adjoint_plan *d,
                         ad_opaque_account *account);
/* The solution at output i of the run into a slot; i < 0: at the solve's first time. */
void ode_costate_solution(const ode_costate *b, int i, void *slot);
/* The march passes output i, going back: its cotangents are added to the costate, and what they say
 * of its time to that. The solution there is in b->x. */
int ode_costate_output(ode_costate *b, int i);
/* The times of a march back from one time of the solve to an earlier one: where its steps are
 * given, those of the forward steps between. How many, in `times`; 0: out of memory. */
int ode_costate_times(const ode_costate *b, double from, double to, ode_buffer *times);
/* From times[0] back to times[n - 1], from the state in b->end. */
int ode_costate_march(ode_costate *b, int n, const double *times, int refine);
/* At the first time: what the costate says of it, and of y0; statistics. */
int ode_costate_finish(ode_costate *b);

#endif
