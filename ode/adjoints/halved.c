/* Doubtful gradients beside those with all steps halved (halved.h). */
#include "ode/adjoints/halved.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A gradient is doubtful where a sign says that it is this wrong. Signs of steps too large for it
 * come from a few angles, and say the order of magnitude. */
static const double least_doubt = 0.05;
/* An oscillation is a measure of what is left of it, if the two cotangents differ by no more than
 * so many limits where it was largest: they may have been garbage. By no more than one where halved
 * steps are that doubtful, too. */
static const double most_apart = 2, most_doubt = 0.5;
/* A gradient that stands for so many tolerances of the largest change of the loss, or for this part
 * of it, is as good as zero: mostly a sum over the solve whose parts cancel, and their errors do
 * not. */
static const double cancelled = 100, smallest_part = 0.02;
/* A difference must be so many times the limit: what passes all looks at the steps by a little is
 * not to fail here by a little. */
static const double beyond = 1.2;
/* Who asks for so little of the state, expects no more of the gradient than so many times rtol; but
 * one that has nothing to do with that of halved steps is refused at any. */
static const double loose = 100, unrelated = 0.8;
/* Doubtful gradients that are passed over at most after one that was compared. Pauses of a system
 * at most, as all of them are looked through: where more are taken, each gradient is compared. */
enum { LONGEST_PAUSE = 63, MOST_PAUSES = 64 };

/* ---- which gradients are compared ---- */

static bool is_like(const ode_pause *a, const ode_pause *b)
{
    return a->method == b->method && a->need == b->need && a->rtol == b->rtol &&
           a->atol == b->atol && a->limit == b->limit && a->from == b->from && a->to == b->to;
}

/* The first of the system's pauses for such a solve that is not taken, or a new one. Where a loss
 * with several such solves is recorded anew, each gets what it had, since pauses have an order.
 * NULL: all are taken, or memory is short. */
static ode_pause *take(ode_system *s, const ode_pause *like)
{
    ode_pause **end = &s->pauses, *found = NULL, *other = NULL;
    int n = 0;
    for (; *end && !found; end = &(*end)->next, n++) {
        if ((*end)->taken) continue;
        if (is_like(*end, like)) found = *end;
        else if (!other) other = *end;
    }
    if (!found && n < MOST_PAUSES) {
        found = *end = calloc(1, sizeof *found);
        if (found) *found = *like;
    } else if (!found && other) {
        ode_pause *next = other->next;
        found = other;
        *found = *like;
        found->next = next;
    }
    if (found) found->taken = true;
    return found;
}

static void take_pause(ode_halved *h, const ode_adjoint_run *run)
{
    const ode_problem *p = run->plan->problem;
    const ode_settings *set = &p->settings;
    const ode_pause like = { .method = set->method,
                             .need = run->plan->need,
                             .rtol = set->rtol,
                             .atol = set->atol,
                             .limit = set->costate_drift,
                             .from = p->times ? p->times[0] : 0,
                             .to = p->times ? p->times[p->ntimes - 1] : 0 };
    h->system = ode_system_retain(p->system);
    ode_system_lock(h->system);
    h->pause = take(h->system, &like);
    ode_system_unlock(h->system);
}

/* Whether a limit of memory has room for the states of the steps, as they are kept to find them
 * again, and for those of halved ones beside. */
static bool has_room(const ode_trajectory *tr)
{
    const double most = (double)tr->policy.most_bytes;
    return most == 0 || (1 + 2 * 2) * (double)ode_trajectory_bytes(tr) <= most;
}

ode_doubt ode_halved_due(ode_halved *h, const ode_adjoint_run *run)
{
    const ode_forward *solve = run->forward;
    if (!(run->doubt > least_doubt)) return ODE_NO_DOUBT;
    if (solve->partial) return ODE_DOUBT_NOT_COMPARABLE;
    if (!has_room(&solve->trajectory)) return ODE_DOUBT_NO_ROOM;
    if (!h->system) take_pause(h, run);
    ode_pause *p = h->pause;
    if (!p) return ODE_DOUBT_COMPARED;
    if (p->passed++ < p->length) return ODE_DOUBT_PASSED_OVER;
    p->passed = 0;
    p->length = p->length < LONGEST_PAUSE ? 2 * p->length + 1 : LONGEST_PAUSE;
    return ODE_DOUBT_COMPARED;
}

/* ---- the comparison ---- */

int ode_halved_call(ode_halved *h, const ode_adjoint_run *run, ad_opaque_call *finer)
{
    const ad_opaque_call *call = run->call;
    const int n = run->plan->nresults;
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += (size_t)ode_result_size(call, i) * ode_bytes(call->dtype);
    char *to = ode_buffer_need(&h->results, bytes);
    if (!to) return ode_call_fail(call, "out of memory");
    for (int i = 0; i < n; i++) {
        h->out[i] = call->out[i] ? to : NULL;
        to += (size_t)ode_result_size(call, i) * ode_bytes(call->dtype);
    }
    *finer = *call;
    finer->refine = 1;
    finer->out = h->out;
    return 0;
}

/* What result i is a gradient by, for people. */
static void name(const ode_adjoint_run *run, int i, char *text, size_t size)
{
    const ode_adjoint_plan *d = run->plan;
    const int operand = d->result[i], n = d->problem->system->nstate;
    if (operand >= ode_first_clock(d->problem)) snprintf(text, size, "times");
    else if (operand >= n) snprintf(text, size, "argument %d", operand - n);
    else snprintf(text, size, n > 1 ? "the initial state %d" : "the initial state", operand);
}

/* What result i is a gradient by: its size, to turn a gradient into a change of the loss, which has
 * no units. Times have no zero, so no size either. */
static double size_of_variable(const ode_adjoint_run *run, int i)
{
    const ode_adjoint_plan *d = run->plan;
    const ad_opaque_call *call = run->call;
    if (d->result[i] >= ode_first_clock(d->problem)) return 1;
    const double size =
        ad_array_norm(call->dtype, ode_result_size(call, i), call->in[1 + d->result[i]]);
    return size > 0 && isfinite(size) ? size : 1;
}

/* The largest change of the loss that a gradient stands for, of results and of solutions; by_state:
 * the largest gradient by solutions. */
static double largest_change(const ode_adjoint_run *run, double *by_state)
{
    const ode_system *s = run->plan->problem->system;
    const ad_opaque_call *call = run->call;
    double most = 0;
    *by_state = 0;
    for (int i = 0; i < run->plan->nresults; i++) {
        if (!call->out[i]) continue;
        const double norm = ad_array_norm(call->dtype, ode_result_size(call, i), call->out[i]);
        most = fmax(most, norm * size_of_variable(run, i));
    }
    for (int j = 0; j < s->nstate; j++) {
        if (!run->c.ybar[j]) continue;
        const int64_t n = call->rows * s->size[j] * run->out.places;
        const double bar = ad_array_norm(call->dtype, n, run->c.ybar[j]);
        *by_state = fmax(*by_state, bar);
        most = fmax(most, bar * ad_array_norm(call->dtype, n, run->c.y[j]));
    }
    return fmin(most, DBL_MAX); /* infinite, it would excuse every difference */
}

int ode_halved_compare(ode_halved *h, const ode_adjoint_run *run)
{
    const ad_opaque_call *call = run->call;
    const ode_settings *set = &run->plan->problem->settings;
    double worst = 0, by_state;
    const double change = largest_change(run, &by_state),
                 part = fmin(cancelled * set->rtol, smallest_part),
                 allowed = fmax(beyond * set->costate_drift, fmin(unrelated, loose * set->rtol)),
                 largest_apart = run->doubt < most_doubt ? most_apart * allowed : allowed,
                 envelope = run->apart <= largest_apart ? run->envelope : 0;
    int which = 0;
    for (int i = 0; i < run->plan->nresults; i++) {
        if (!call->out[i]) continue;
        const bool state = run->plan->result[i] < run->plan->problem->system->nstate;
        const double nothing = part * fmax(change / size_of_variable(run, i), state ? by_state : 0);
        const ad_gradient_difference d =
            ad_compare_gradients(call->dtype, ode_result_size(call, i), call->out[i], h->out[i],
                                 nothing, state ? envelope : 0);
        if (!(d.difference > worst)) continue;
        worst = d.difference;
        which = i;
    }
    if (!(worst > allowed)) return 0;
    if (h->pause && !call->warning) h->pause->length = 0;
    char by[64];
    name(run, which, by, sizeof by);
    return ode_call_doubt(
        call,
        "the gradient is not that of the solution: by %s it changes by %.2g of its size when "
        "every step is halved. The steps are small enough for the state, not for what the "
        "gradient does in them: give max_step or smaller tolerances (rtol is %.3g), or use "
        "ode_interpolating. options.costate_drift (%.3g) is for such errors; with INFINITY "
        "nothing is looked at",
        by, worst, set->rtol, set->costate_drift);
}

void ode_halved_clear(ode_halved *h) { ode_buffer_free(&h->results); }

void ode_halved_close(ode_halved *h)
{
    ode_halved_clear(h);
    if (!h->system) return;
    ode_system_lock(h->system);
    if (h->pause) h->pause->taken = false;
    ode_system_unlock(h->system);
    ode_system_release(h->system);
}
