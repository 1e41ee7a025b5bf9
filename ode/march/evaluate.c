/* The field itself, outside steps: at the start of a march, after a jump, where the watch looks. */
#include "ode/march/march.h"
#include <math.h>
#include <string.h>

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

void ode_point_at_picked(ode_march *m, ode_runner *r)
{
    const ode_system *s = m->system;
    const ode_watch *w = &m->watch;
    const int64_t *rows = w->picks.data;
    const void **row = ode_runner_in(r, ODE_VALUE, ODE_PORT_ROW);
    char *to = w->gathered.data;
    for (int i = 0; i < s->nrow; i++) {
        const ad_shape shape = s->arg[s->row[i]];
        const size_t bytes = (size_t)ad_count(shape, 1) * ode_bytes(s->dtype);
        for (int64_t k = 0; k < w->picked; k++)
            memcpy(to + (size_t)k * bytes, (const char *)row[i] + (size_t)rows[k] * bytes, bytes);
        row[i] = to;
        to += ode_array_bytes(s->dtype, shape, w->picked);
    }
}

/* At those of all rows; given ones are pointed at anew at each run. */
static void point_at_all(ode_march *m)
{
    const ode_system *s = m->system;
    const void **row = ode_runner_in(&m->field, ODE_VALUE, ODE_PORT_ROW),
               **all = ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_ROW);
    for (int i = 0; i < s->nrow - s->ngiven; i++) row[i] = all[i];
}

void ode_count_picked(ode_march *m, int64_t evaluations)
{
    ode_watch *w = &m->watch;
    w->part += (double)(evaluations * w->picked) / (double)m->rows;
    const int64_t whole = (int64_t)w->part;
    w->part -= (double)whole;
    m->evaluations += whole;
    w->evaluations += whole;
}

/* The field of all rows, or of those that are picked. 0, or -1. */
static int run(ode_march *m, double t, int side, bool picked, const void *y, void *dy, void *rate,
               void *kept)
{
    const ode_system *s = m->system;
    const int64_t rows = picked ? m->watch.picked : m->rows;
    ode_runner *r = &m->field;
    double number = 0;
    ode_store(s->dtype, &number, 0, ode_time_beside(s->dtype, t, side));
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_TIMES) = &number;
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, rows, y);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_DERIVATIVE, rows, dy);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_QUADRATURE, rows, rate);
    if (r->unit->key.residuals)
        ode_residuals_write(s, r->unit->key.residuals, rows, kept, true,
                            ode_runner_out(r, ODE_VALUE, ODE_PORT_KEPT));
    if (give_to_field(m, t)) return -1;
    if (picked) ode_point_at_picked(m, &m->field);
    char error[ODE_ERROR_SIZE];
    const int failed = ode_runner_run(r, rows, error, sizeof error);
    if (picked) point_at_all(m);
    return failed ? ode_fail(m, ODE_FAILED, "at t = %.15g: %s", t, error) : 0;
}

int ode_march_field(ode_march *m, double t, int side, const void *y, void *dy, void *rate,
                    void *kept)
{
    const ode_system *s = m->system;
    if (run(m, t, side, false, y, dy, rate, kept)) return -1;
    m->evaluations++;
    int64_t bad = ode_first_nonfinite(s->dtype, m->cells, dy);
    if (bad < 0) return 0;
    char where[96];
    ode_where(s, m->rows, bad, where, sizeof where);
    const char *outside = ad_workspace_outside(m->field.workspace);
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

int ode_march_field_of_picked(ode_march *m, double t, int side, const void *y, void *dy)
{
    const ode_watch *w = &m->watch;
    if (run(m, t, side, w->picked < m->rows, y, dy, NULL, NULL)) return -1;
    ode_count_picked(m, 1);
    return ode_first_nonfinite(m->system->dtype, w->picked * m->system->width, dy) >= 0;
}
