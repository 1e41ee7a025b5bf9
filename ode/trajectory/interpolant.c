/* The solution between the boundaries of a stored trajectory: dense output, step by step. Stages
 * are not stored but computed again, one step for all times in it: a state takes the memory of one
 * array, its stages that of seven or more. */
#include "ode/trajectory/interpolant.h"
#include "ode/trajectory/weights.h"
#include <math.h>
#include <string.h>

bool ode_interpolant_compile(ode_march_units *units, const ode_problem *p, ad_tape *tape)
{
    /* Nobody asks for a stochastic solution between its boundaries. */
    bool dense = !ode_method_stochastic(p->settings.method);
    return ode_march_compile(units, p->system, &p->settings, false, dense, 0, NULL, tape);
}

static void set_march(ode_march *m, const ode_problem *p)
{
    m->system = p->system;
    m->settings = &p->settings;
    m->method = p->settings.method;
    m->dense = !ode_method_stochastic(m->method);
}

void ode_interpolant_account(const ode_problem *p, const ode_march_units *units,
                             ad_opaque_account *a)
{
    ode_march m = { 0 };
    set_march(&m, p);
    ode_march_account(&m, units, a);
    ode_account_buffer(a, (size_t)(a->rows * p->system->width) * ode_bytes(p->system->dtype));
}

int ode_interpolant_open(ode_interpolant *in, ode_forward *forward, const ode_march_units *units,
                         const ad_opaque_call *call, const void *const *args)
{
    const ode_problem *p = forward->problem;
    ode_march *m = &in->march;
    in->trajectory = &forward->trajectory;
    in->step = -1;
    set_march(m, p);
    memcpy(m->clock, forward->march.clock, sizeof m->clock);
    ode_march_answers_to(m, call);
    m->step.refine = m->begin.refine = call->refine;
    if (ode_march_open(m, units, call->rows, call->threads, args, forward->values)) return -1;
    size_t slot = (size_t)m->cells * ode_bytes(p->system->dtype);
    return ode_buffer_need(&in->next, slot) ? 0 : ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
}

void ode_interpolant_close(ode_interpolant *in)
{
    ode_march_close(&in->march);
    ode_buffer_free(&in->next);
}

int64_t ode_trajectory_find(const ode_trajectory *tr, double t)
{
    double first = ode_trajectory_boundary(tr, 0)->t,
           last = ode_trajectory_boundary(tr, tr->count)->t;
    double direction = last < first ? -1 : 1;
    int64_t low = 0, high = tr->count - 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (direction * (ode_trajectory_boundary(tr, middle + 1)->t - t) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void *slot_of(void *context, int64_t k)
{
    (void)k;
    return ((ode_interpolant *)context)->next.data;
}

static int accepted(void *context, const ode_march *march, int64_t k, const ode_boundary *a,
                    const ode_boundary *b, const void *y, const void *next)
{
    (void)context, (void)march, (void)k, (void)a, (void)b, (void)y, (void)next;
    return 0;
}

ode_boundary ode_interpolant_end(ad_dtype dtype, const ode_boundary *a, const ode_boundary *b)
{
    ode_boundary end = *b;
    if (end.t == a->t) end.t += ode_type_spacing(dtype, fmax(1, fabs(a->t)));
    return end;
}

/* Takes step k again. */
static int visit(ode_interpolant *in, int64_t k)
{
    ode_trajectory *tr = in->trajectory;
    ode_march *m = &in->march;
    ode_boundary a = *ode_trajectory_boundary(tr, k);
    ode_boundary b = ode_interpolant_end(m->system->dtype, &a, ode_trajectory_boundary(tr, k + 1));
    a.restart = b.output = false;
    void *y = ode_trajectory_state(tr, k);
    if (tr->policy.carried)
        memcpy(m->carry[0].data, ode_trajectory_carried(tr, k), tr->policy.carried);
    m->steps = k;
    m->blurred = 0;
    ode_sink sink = { .context = in, .slot = slot_of, .accepted = accepted };
    in->step = -1;
    if (ode_march_step(m, &sink, &a, &b, &y)) return -1;
    in->step = k;
    return 0;
}

int ode_interpolant_at(ode_interpolant *in, const double *t, int stride, void *y)
{
    const ode_trajectory *tr = in->trajectory;
    const ode_march *m = &in->march;
    int64_t k = ode_trajectory_find(tr, *t);
    const ode_boundary *a = ode_trajectory_boundary(tr, k), *b = ode_trajectory_boundary(tr, k + 1);
    const void *from = ode_trajectory_state(in->trajectory, k);
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype);
    bool begin = tr->count == 0 || *t == a->t;
    bool moving = tr->count > 0 && m->system->nclocks > 1; /* not with the boundary it is at */
    if (!moving && (begin || *t == b->t)) {
        memcpy(y, begin ? from : ode_trajectory_state(in->trajectory, k + 1), slot);
        return 0;
    }
    if (k != in->step && visit(in, k)) return -1;
    ode_weights w;
    ode_boundary end = ode_interpolant_end(m->system->dtype, a, b);
    ode_weights_at(&w, m->method, m->system, m->rows, a, &end, m->clock, t, stride);
    ode_weights_apply(&w, m->system->dtype, from, m->k.data, slot, y);
    return 0;
}
