/* Internal: a recorded solve, which the forward operation and its adjoints share. */
#ifndef ODE_PROBLEM_H
#define ODE_PROBLEM_H
#include "ode/march/march.h"

typedef struct ode_problem ode_problem;
struct ode_problem {
    atomic_int references;
    ode_settings settings;
    ode_system *system;
    int ntimes;
    double *times; /* constant times in double; NULL: as the last operand has them */
    bool final_only, dense;
    ode_march_units units;
    const ode_unit *prologue; /* NULL: nothing depends on shared arguments alone, or they are the
                                 shared values */
    /* What an adjoint of the solve wants to be kept (NULL: nothing, or there is none), and the
     * units that deliver it. */
    atomic_bool differentiated; /* an adjoint that needs the states has been recorded */
    _Atomic(const ode_residuals *) residuals;
    ode_march_units keeping;
};
void ode_problem_retain(void *problem);
void ode_problem_release(void *problem);

#endif
