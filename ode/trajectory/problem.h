/* Internal: a recorded solve, which the forward operation and its adjoints share. */
#ifndef ODE_PROBLEM_H
#define ODE_PROBLEM_H
#include "ode/march/march.h"

typedef struct ode_problem ode_problem;
struct ode_problem {
    atomic_int references;
    ode_settings settings;
    ode_system *system;
    /* How it is recorded. Operands: y0, arguments, times (and tangents of them: the clocks of the
     * system), and, of a solve that follows another one, which it is the tangents of, the token of
     * that one and then the token operands of that one. */
    const ad_opaque_class *operation;
    const ode_adjoint *exact; /* the adjoint of its tangents */
    int ntimes;
    double *times; /* constant times in double; NULL: as the operand has them */
    bool final_only, dense;
    ode_march_units units;
    /* NULL: nothing depends on shared arguments alone, or they are the shared values */
    const ode_unit *prologue;
    /* What an adjoint of the solve wants to be kept (NULL: nothing, or there is none), and the
     * units that deliver it. */
    /* an adjoint that needs the states, or a tangent that needs the steps, has been recorded */
    atomic_bool differentiated;
    _Atomic(const ode_residuals *) residuals;
    ode_march_units keeping;
};
/* Operands of its operation: where clocks and tokens begin, and how many there are (at most, with
 * the times of an asking). */
enum { ODE_MAX_OPERANDS = ODE_MAX_JOINT + ODE_MAX_ARGS + 3 * ODE_MAX_CLOCKS };
static inline int ode_first_clock(const ode_problem *p)
{
    return p->system->nstate + p->system->nargs;
}
static inline int ode_first_token(const ode_problem *p)
{
    return ode_first_clock(p) + p->system->nclocks;
}
static inline int ode_operands(const ode_problem *p)
{
    return ode_first_token(p) + p->system->order;
}
void ode_problem_retain(void *problem);
void ode_problem_release(void *problem);

#endif
