/* Steps taken back, for the adjoint that stores none (Kidger, Foster, Li, Lyons 2021,
 * arXiv:2105.13493, algorithm 2). The program of the step itself is run from its end to its
 * beginning, over a negative time and the increment of the path in that direction; what comes out
 * is the state where it began, but for rounding. */
#include "ode/adjoints/undo.h"
#include <math.h>
#include <string.h>

/* The largest part of the state that rounding may have come to. */
static const double most_drift = 1e-3;

static void *slot_of(void *context, int64_t k)
{
    (void)k;
    ode_undo *u = context;
    return u->y == u->state[0].data ? u->state[1].data : u->state[0].data;
}

static int accepted(void *context, const ode_march *march, int64_t k, const ode_boundary *a,
                    const ode_boundary *b, const void *y, const void *next)
{
    (void)context, (void)march, (void)k, (void)a, (void)b, (void)y, (void)next;
    return 0;
}

int ode_undo_open(ode_undo *u, const ode_adjoint_run *run, const ode_march_units *units)
{
    ode_forward *forward = run->forward;
    ode_trajectory *tr = &forward->trajectory;
    const ad_opaque_call *call = run->call;
    const ode_problem *p = forward->problem;
    ode_march *m = &u->march;
    m->system = p->system;
    m->settings = &p->settings;
    m->method = p->settings.method;
    m->rtol = p->settings.rtol;
    m->atol = p->settings.atol;
    m->each = forward->march.each;
    memcpy(m->clock, forward->march.clock, sizeof m->clock);
    m->path = &forward->path;
    ode_march_answers_to(m, call);
    m->step.refine = call->refine;
    if (ode_march_open(m, units, call->rows, call->threads, run->c.args, forward->values))
        return -1;
    size_t slot = (size_t)m->cells * ode_bytes(p->system->dtype);
    if (!ode_buffer_need(&u->state[0], slot) || !ode_buffer_need(&u->state[1], slot))
        return ode_call_fail(call, "out of memory");
    u->k = tr->count;
    u->y = u->state[0].data;
    memcpy(u->y, ode_trajectory_state(tr, tr->stores ? tr->count : tr->count % 2), slot);
    if (tr->policy.carried)
        memcpy(m->carry[0].data, forward->march.carry[0].data, tr->policy.carried);
    return 0;
}

void ode_undo_account(const ode_adjoint_plan *d, const ode_march_units *units, ad_opaque_account *a)
{
    const ode_problem *p = d->problem;
    ode_march m = { .system = p->system,
                    .settings = &p->settings,
                    .method = p->settings.method,
                    .each = p->settings.atol_each };
    ode_march_account(&m, units, a);
    ode_account(
        a, 2, ode_buffer_bytes((size_t)(a->rows * p->system->width) * ode_bytes(p->system->dtype)));
}

int ode_undo_step(ode_undo *u, const ode_adjoint_run *run)
{
    const ode_trajectory *tr = &run->forward->trajectory;
    ode_boundary a = *ode_trajectory_boundary(tr, u->k), b = *ode_trajectory_boundary(tr, u->k - 1);
    if (a.restart && u->k < tr->count) {
        snprintf(run->call->error, run->call->error_size,
                 "the steps begin anew at t = %.15g, a jump, and what was before cannot be found "
                 "from what comes after: use ode_discrete",
                 a.t);
        return -1;
    }
    a.restart = b.output = false;
    u->march.steps = --u->k;
    ode_sink sink = { .context = u, .slot = slot_of, .accepted = accepted };
    return ode_march_step(&u->march, &sink, &a, &b, &u->y);
}

int ode_undo_finish(const ode_undo *u, const ode_adjoint_run *run)
{
    const ode_system *s = u->march.system;
    int64_t rows = run->call->rows;
    double off = 0, size = 0, drift = 0;
    int64_t first = 0;
    for (int j = 0; j < s->nstate; j++) {
        int64_t n = rows * s->size[j];
        const void *x = ode_part(s, rows, u->y, j);
        for (int64_t i = 0; i < n; i++) {
            double was = ode_load(s->dtype, run->c.y0[j], i), is = ode_load(s->dtype, x, i);
            double apart = fabs(is - was);
            if (!(apart <= off)) off = apart;
            size = fmax(size, fabs(was));
            drift = fmax(drift, apart / ode_tolerance(&u->march, first + i, was));
        }
        first += n;
    }
    run->stats->backward_drift = drift;
    if (off <= most_drift * fmax(size, u->march.atol)) return 0;
    snprintf(run->call->error, run->call->error_size,
             "the state that steps taken back arrive at is off by %.2g from y0 (at most %.3g): "
             "rounding has grown, as it does where the equation forgets its past; use ode_discrete",
             off, size);
    return -1;
}

void ode_undo_close(ode_undo *u)
{
    ode_march_close(&u->march);
    ode_buffer_free(&u->state[0]);
    ode_buffer_free(&u->state[1]);
}
