/* The adjoint of the continuous problem against the stored solution: the costate a = dL/dx and the
 * arguments' quadratures are integrated backwards, and the state x(t) that they need comes from the
 * forward solve's dense output (Hindmarsh et al. 2005, doi:10.1145/1089014.1089020, CVODES; SciML's
 * InterpolatingAdjoint). States of accepted steps are stored; the stages of the steps are computed
 * again, once each. Nothing is solved in reverse time but the costate, whose equation is as stable
 * backwards as the problem is forwards: so dissipative problems are no difficulty.
 *
 * Adaptive steps of the march back are chosen by the costate's own error, and by the quadratures';
 * where steps were given, they are the forward ones. */
#include "ode/adjoints/costate.h"
#include "ode/trajectory/interpolant.h"
#include <string.h>

typedef struct {
    ode_costate_plan costate; /* first: the system is given the states */
    ode_march_units interpolant;
} interpolating_plan;

/* The memory of a run. */
typedef struct {
    ode_costate back;
    ode_interpolant interpolant;
    ode_buffer times;
} backward;

static void close_memory(void *memory)
{
    backward *b = memory;
    ode_costate_close(&b->back);
    ode_interpolant_close(&b->interpolant);
    ode_buffer_free(&b->times);
}

static int state_at(void *context, double t, void *x)
{
    return ode_interpolant_at(&((backward *)context)->interpolant, &t, 0, x);
}

static int march_back(backward *b, double from, double to)
{
    int n = ode_costate_times(&b->back, from, to, &b->times);
    if (!n) return ode_call_fail(b->back.run->call, "out of memory");
    int refine = b->back.march.adaptive ? b->back.run->call->refine : 0;
    return ode_costate_march(&b->back, n, b->times.data, refine);
}

/* From the last time to the first. */
static int go_back(ode_adjoint_run *run)
{
    backward *b = run->memory;
    const interpolating_plan *own = run->plan->own;
    ode_costate *back = &b->back;
    const ode_adjoint_outputs *out = &run->out;
    int first = !run->plan->asked.n; /* the first time of a solve is no output of a step */
    if (ode_interpolant_open(&b->interpolant, run->forward, &own->interpolant, run->call,
                             run->c.args) ||
        ode_costate_open(back, run, &own->costate))
        return -1;
    back->march.given = (ode_given){ .context = b, .at = state_at };
    ode_settings *set = &back->settings;
    if (!back->march.adaptive) {
        set->replay = NULL;
        set->step = 0;
        set->steps = 1; /* between the times of the march */
    }
    double passed = out->n ? out->t[out->n - 1] : back->first;
    for (int i = out->n - 1; i >= first; i--) {
        if (out->place[i] < 0) continue;
        if (march_back(b, passed, out->t[i]) || ode_costate_output(back, i)) return -1;
        passed = out->t[i];
    }
    if (march_back(b, passed, back->first)) return -1;
    int failed = ode_costate_finish(back);
    run->stats->backward_evaluations += b->interpolant.march.evaluations;
    return failed;
}

static void account(const ode_adjoint_plan *d, ad_opaque_account *a)
{
    const interpolating_plan *own = d->own;
    ode_costate_account(&own->costate, d, a);
    ode_interpolant_account(d->problem, &own->interpolant, a);
    ode_account_buffer(a, 2 * sizeof(double));
}

static bool plan(ode_adjoint_plan *d, ad_tape *tape)
{
    const ode_problem *p = d->problem;
    interpolating_plan *own = d->own;
    if (!ode_adjoint_takes(&ode_interpolating, p->settings.method)) {
        ad_fail(tape,
                "%s: options.adjoint is interpolating, which marches back by the solve's method, "
                "and %s is a multistep method; use another method, or ode_discrete",
                p->settings.caller, p->settings.method->name);
        return false;
    }
    ode_system *costate = ode_system_augmented(p->system, d->need, true);
    return ode_costate_plan_make(&own->costate, d, costate, tape) &&
           ode_interpolant_compile(&own->interpolant, p, tape);
}

const ode_adjoint ode_interpolating = {
    .name = "interpolating",
    .about = "the gradient of the continuous problem: adjoint and quadratures integrated backwards "
             "against the stored solution",
    .states = true,
    .asked = true,
    .replays = true,
    .refuses = ODE_METHOD_MULTISTEP,
    .own = sizeof(interpolating_plan),
    .memory = sizeof(backward),
    .plan = plan,
    .run = go_back,
    .close = close_memory,
    .account = account
};
