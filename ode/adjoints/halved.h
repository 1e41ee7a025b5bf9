/* Internal: a gradient beside the one with all steps halved, where its own way back made it
 * doubtful. It costs three to four solves and a way back: only doubtful gradients are looked at,
 * and in a program that runs again and again fewer and fewer of them. */
#ifndef ODE_HALVED_H
#define ODE_HALVED_H
#include "ode/adjoints/adjoint.h"

typedef struct {
    ode_buffer results;
    void *out[ODE_MAX_OPERANDS]; /* in it, as the call's */
    int skipped, pause; /* doubtful gradients since the last look, and between two of them */
} ode_halved;

/* Whether the gradient of the run, which is finite, is to be looked at. */
bool ode_halved_due(ode_halved *halved, const ode_adjoint_run *run);
/* The run's call, for the same gradient with all steps halved and results of its own. 0, or -1 with
 * the call's error written. */
int ode_halved_call(ode_halved *halved, const ode_adjoint_run *run, ad_opaque_call *finer);
/* Compares their results: 0, or -1 with the call's error written: the gradient is wrong. */
int ode_halved_compare(ode_halved *halved, const ode_adjoint_run *run);
void ode_halved_close(ode_halved *halved);

#endif
