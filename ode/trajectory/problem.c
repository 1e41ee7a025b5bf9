/* Recorded solves: shared by references among the operations that stand on tapes. */
#include "ode/trajectory/problem.h"
#include <stdlib.h>

void ode_problem_retain(void *problem)
{
    atomic_fetch_add(&((ode_problem *)problem)->references, 1);
}

void ode_problem_release(void *problem)
{
    ode_problem *p = problem;
    if (!p || atomic_fetch_sub(&p->references, 1) != 1) return;
    ode_settings_clear(&p->settings);
    ode_system_release(p->system);
    free(p->times);
    free(p);
}
