/* Internal: a gradient beside the one with all steps halved, where its own way back made it
 * doubtful. It costs three to four solves and a way back: only doubtful gradients are looked at,
 * and where they come again and again fewer and fewer of them. */
#ifndef ODE_HALVED_H
#define ODE_HALVED_H
#include "ode/adjoints/adjoint.h"

typedef struct {
    ode_buffer results;
    void *out[ODE_MAX_OPERANDS]; /* in it, as the call's */
    /* Once a gradient was doubtful: the system (a reference), and its pause, which is taken; NULL:
     * there is none left */
    ode_system *system;
    ode_pause *pause;
} ode_halved;

/* What is to be done about the gradient of the run, which is finite; ODE_DOUBT_COMPARED: it is to
 * be compared. */
ode_doubt ode_halved_due(ode_halved *halved, const ode_adjoint_run *run);
/* The run's call, for the same gradient with all steps halved and results of its own. 0, or -1 with
 * the call's error written. */
int ode_halved_call(ode_halved *halved, const ode_adjoint_run *run, ad_opaque_call *finer);
/* Compares their results: 0, or -1 with the call's error written: the gradient is wrong, and the
 * next doubtful one will be compared. */
int ode_halved_compare(ode_halved *halved, const ode_adjoint_run *run);
void ode_halved_clear(ode_halved *halved); /* frees the results */
void ode_halved_close(ode_halved *halved); /* and gives the pause back */

#endif
