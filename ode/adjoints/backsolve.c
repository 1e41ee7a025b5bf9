/* The adjoint of the continuous problem by solving backwards (Chen et al. 2018, arXiv:1806.07366):
 * state x, costate a = dL/dx and the arguments' quadratures together, from output time to output
 * time; at each the state is reset to the stored solution, after its drift has been measured. */
#include "ode/adjoints/costate.h"
#include <math.h>
#include <string.h>

/* The memory of a run. */
typedef struct {
    ode_costate back; /* slots are the costate and the state */
    ode_buffer times; /* backwards */
} backward;

static void close_memory(void *memory)
{
    backward *b = memory;
    ode_costate_close(&b->back);
    ode_buffer_free(&b->times);
}

/* The backward solve did not arrive: reverse time is unreliable for chaotic and dissipative
 * problems, and the statistics say so too. */
static int went_astray(const ode_adjoint_run *run)
{
    if (run->searching) return -1;
    char *error = run->call->error;
    size_t used = strlen(error);
    if (used < run->call->error_size)
        snprintf(error + used, run->call->error_size - used,
                 " (while backsolve recomputed the state in reverse time, which chaotic and "
                 "dissipative problems do not allow: use ode_discrete or ode_interpolating there)");
    run->stats->backward_drift = INFINITY;
    return -1;
}

/* Whether the march back may have failed because of the state that it recomputes: not before its
 * first step, and not where a program failed. */
static bool is_astray(const ode_march *m)
{
    if (m->status == ODE_FAILED || m->status == ODE_OUT_OF_MEMORY) return false;
    return m->status != ODE_NOT_FINITE || m->steps > 0;
}

/* The recomputed state against the stored one, x: where they have nothing to do with each other,
 * neither has the gradient with the right one, so that is an error and not a number. Each element
 * is measured by its largest magnitude over the forward solve, so that none hides behind a larger
 * one, and none is blamed for being near zero at this time. */
static int came_back(const ode_costate *b, double t)
{
    const ode_problem *p = b->problem;
    const ode_forward *forward = b->run->forward;
    const void *largest = forward->trajectory.largest.data;
    ad_dtype dtype = p->system->dtype;
    const void *recomputed = b->end + b->slot;
    int64_t cells = b->run->call->rows * p->system->width;
    double most = p->settings.adaptive ? 0.1 : 0.5; /* given steps may be coarse on purpose */
    double worst = 1;
    int64_t where = -1;
    for (int64_t i = 0; i < cells; i++) {
        double size = ode_load(dtype, largest, i);
        double off = fabs(ode_load(dtype, recomputed, i) - ode_load(dtype, b->x.data, i));
        if (off <= most * size) continue; /* most elements, without a division */
        off /= most * size + 10 * fmax(ode_tolerance(&forward->march, i, size),
                                       ode_tolerance(&b->march, cells + i, size));
        if (off <= worst) continue;
        where = i;
        worst = off;
        if (!(off > 0)) break; /* not a number */
    }
    if (where < 0) return 0;
    char place[96];
    ode_where(p->system, b->run->call->rows, where, place, sizeof place);
    double stored = ode_load(dtype, b->x.data, where), found = ode_load(dtype, recomputed, where);
    snprintf(b->run->call->error, b->run->call->error_size,
             "at t = %g the recomputed state is off by %.2g in %s: %.6g, where the solution is "
             "%.6g (and never larger than %.3g)",
             t, fabs(found - stored), place, ode_shown(found), ode_shown(stored),
             ode_load(dtype, largest, where));
    return went_astray(b->run);
}

static bool is_stochastic(const ode_costate *b)
{
    return ode_method_stochastic(b->settings.method);
}

/* Times of the march from output j to output i: of a stochastic solve, all of its boundaries, as
 * its path is met again only there. How many; 0: out of memory. */
static int times_between(backward *b, int j, int i)
{
    const double *t = b->back.run->out.t;
    if (is_stochastic(&b->back)) return ode_costate_times(&b->back, t[j], t[i], &b->times);
    double *back = ode_buffer_need(&b->times, (size_t)(j - i + 1) * sizeof *back);
    for (int k = j; back && k >= i; k--) back[j - k] = t[k];
    return back ? j - i + 1 : 0;
}

/* From output j to output i < j. */
static int piece(backward *b, int j, int i)
{
    ode_costate *back = &b->back;
    const ode_adjoint_run *run = back->run;
    const double *t = run->out.t;
    if (ode_costate_output(back, j)) return -1;
    memcpy(back->end + back->slot, back->x.data, back->slot);
    if (t[i] == t[j]) return ode_costate_march(back, 1, t + j, 0);
    int n = times_between(b, j, i), refine = is_stochastic(back) ? 0 : run->call->refine;
    if (!n) return ode_call_fail(run->call, "out of memory");
    if (ode_costate_march(back, n, b->times.data, refine))
        return is_astray(&back->march) ? went_astray(run) : -1;
    ode_costate_solution(back, i, back->x.data);
    int64_t cells = run->call->rows * back->problem->system->width;
    double drift =
        ode_march_distance(&back->march, cells, cells, back->end + back->slot, back->x.data);
    run->stats->backward_drift = fmax(run->stats->backward_drift, drift);
    return came_back(back, t[i]);
}

/* From the last time to the first. */
static int go_back(ode_adjoint_run *run)
{
    backward *b = run->memory;
    const ode_problem *p = run->plan->problem;
    int n = run->out.n;
    if (ode_costate_open(&b->back, run, run->plan->own)) return -1;
    for (int j = n - 1; j > 0; j = p->final_only ? 0 : j - 1)
        if (run->out.place[j] >= 0 && piece(b, j, p->final_only ? 0 : j - 1)) return -1;
    return ode_costate_finish(&b->back);
}

static void account(const ode_adjoint_plan *d, ad_opaque_account *a)
{
    ode_costate_account(d->own, d, a);
    ode_account_buffer(a, (size_t)d->problem->ntimes * sizeof(double));
}

static bool plan(ode_adjoint_plan *d, ad_tape *tape)
{
    ode_system *augmented = ode_system_augmented(d->problem->system, d->need, false);
    return ode_costate_plan_make(d->own, d, augmented, tape);
}

const ode_adjoint ode_backsolve = {
    .name = "backsolve",
    .about = "the gradient of the continuous problem: state, adjoint and quadratures integrated "
             "backwards together (Chen et al. 2018)",
    .magnitudes = true,
    .own = sizeof(ode_costate_plan),
    .memory = sizeof(backward),
    .plan = plan,
    .run = go_back,
    .close = close_memory,
    .account = account
};
