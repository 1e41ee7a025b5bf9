/* The field itself, outside steps: at the start of a march, after a jump, where the watch looks. */
#include "ode/march/march.h"
#include <math.h>

/* Given arguments at time t. */
static int give_to_field(ode_march *m, double t)
{
    const ode_system *s = m->system;
    if (!s->ngiven) return 0;
    const void **row = ode_runner_in(&m->field, ODE_VALUE, ODE_PORT_ROW);
    char *at = m->inputs.data;
    if (m->given.at(m->given.context, t, at)) return -1;
    for (int i = s->nrow - s->ngiven; i < s->nrow; i++) {
        row[i] = at;
        at += (size_t)ad_count(s->arg[s->row[i]], m->rows) * ode_bytes(s->dtype);
    }
    return 0;
}

int ode_march_field(ode_march *m, double t, int side, const void *y, void *dy, void *rate,
                    void *kept)
{
    ode_system *s = m->system;
    ode_runner *r = &m->field;
    double number = 0;
    ode_store(s->dtype, &number, 0, ode_time_beside(s->dtype, t, side));
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_TIMES) = &number;
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, m->rows, y);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_DERIVATIVE, m->rows, dy);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_QUADRATURE, m->rows, rate);
    if (r->unit->key.residuals)
        ode_residuals_write(s, r->unit->key.residuals, m->rows, kept, true,
                            ode_runner_out(r, ODE_VALUE, ODE_PORT_KEPT));
    if (give_to_field(m, t)) return -1;
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, m->rows, error, sizeof error))
        return ode_fail(m, ODE_FAILED, "at t = %.15g: %s", t, error);
    m->evaluations++;
    int64_t bad = ode_first_nonfinite(s->dtype, m->cells, dy);
    if (bad < 0) return 0;
    char where[96];
    ode_where(s, m->rows, bad, where, sizeof where);
    const char *outside = ad_workspace_outside(r->workspace);
    if (outside) {
        ode_fail(m, ODE_OUTSIDE_DOMAIN, "at t = %.15g: %s", t, outside);
        return 1;
    }
    if (ode_is_derivative(s, m->rows, bad))
        ode_fail(m, ODE_NOT_FINITE, "at t = %.15g: " ODE_NO_DERIVATIVE, t, where);
    else
        ode_fail(m, ODE_NOT_FINITE,
                 "the field is not finite (%g) at t = %.15g, %s; check the field there and its "
                 "arguments",
                 ode_shown(ode_load(s->dtype, dy, bad)), t, where);
    return 1;
}
