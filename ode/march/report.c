/* What the user's callback gets to know of an accepted step. */
#include "ode/march/march.h"

int ode_march_report(ode_march *m, const ode_boundary *a, const ode_boundary *b, const void *next)
{
    const ode_settings *set = m->settings;
    const ode_system *s = m->system;
    if (!set->on_step) return 0;
    const void *y[ODE_MAX_JOINT];
    for (int i = 0; i < s->nstate; i++) y[i] = ode_part(s, m->rows, next, i);
    ode_accepted_step step = { .number = m->steps - 1,
                               .t = b->t,
                               .size = b->t - a->t,
                               .error = m->adaptive ? m->ratio : 0,
                               .dtype = s->dtype,
                               .rows = m->rows,
                               .nstate = s->nstate,
                               .shape = s->state,
                               .y = y };
    bool last = b->t == m->stops.times[m->stops.ntimes - 1];
    if (set->on_step(&step, set->on_step_user) || last) return 0;
    return ode_fail(m, ODE_STOPPED,
                    "options.on_step stopped the solve at t = %.15g, after step %lld", b->t,
                    (long long)step.number);
}
