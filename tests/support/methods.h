/* Loops over all methods, also those that are still to come. */
#ifndef COSTATE_TESTS_METHODS_H
#define COSTATE_TESTS_METHODS_H
#include "ode/step/step.h"
#include <math.h>

static inline int method_count(void)
{
    int n = 0;
    while (ode_methods()[n]) n++;
    return n;
}

/* Solves by an implicit method: stages are found by iteration, and their evaluations are not kept.
 */
static inline bool method_implicit(const ode_method *m)
{
    return ode_method_has(m, ODE_METHOD_IMPLICIT);
}

/* Whether a stage lies beyond the end of the step: at a jump it takes place at the end. */
static inline bool method_looks_ahead(const ode_method *m)
{
    double last = 0;
    for (int i = 0; i < m->times; i++) last = fmax(last, m->c[i]);
    return last > 1;
}

/* How many times farther off than other methods an adaptive solve may be at the same tolerance. The
 * estimate of trbdf2 is the error of the result that is taken, not of a cruder one, so the errors
 * of all steps add up; that of kvaerno5 is a small one. */
static inline double method_slack(const ode_method *m)
{
    return m == &ode_trbdf2 ? 40 : m == &ode_kvaerno5 ? 3 : 1;
}

#endif
