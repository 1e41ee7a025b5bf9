/* The frame of an adjoint's run.
 *
 * A run goes from the last time to the first once. Where its results are not finite, it goes a
 * second time, in search of the step that spoilt them (finite.c). */
#include "ode/adjoints/halved.h"
#include "ode/adjoints/shared_bar.h"
#include <stdlib.h>
#include <string.h>

/* The state of the operation. */
typedef struct {
    ode_adjoint_run run;
    ode_shared_bar shared;
    ode_buffer times, places, asked_bar;
    ode_asked_order order;
    ode_halved halved;
    const ode_adjoint *adjoint;
} adjoint_state;

void *ode_adjoint_state_new(void *data)
{
    const ode_adjoint *adjoint = ((ode_adjoint_plan *)data)->problem->settings.adjoint;
    adjoint_state *state = calloc(1, sizeof *state);
    void *memory = calloc(1, adjoint->memory);
    if (!state || !memory) {
        free(state);
        free(memory);
        return NULL;
    }
    state->adjoint = adjoint;
    state->run.memory = memory;
    return state;
}

void ode_adjoint_state_free(void *state_)
{
    adjoint_state *state = state_;
    if (!state) return;
    state->adjoint->close(state->run.memory);
    free(state->run.memory);
    ode_shared_bar_close(&state->shared);
    ode_asked_close(&state->order);
    ode_halved_close(&state->halved);
    ode_buffer *all[] = { &state->times, &state->places, &state->asked_bar };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
    free(state);
}

void ode_adjoint_account(void *data, ad_opaque_account *a)
{
    const ode_adjoint_plan *d = data;
    const ode_problem *p = d->problem;
    const size_t clocks = (size_t)p->system->nclocks, n = (size_t)p->ntimes;
    ode_account(a, 1, sizeof(adjoint_state) + p->settings.adjoint->memory);
    ode_account_buffer(a, clocks * n * sizeof(double));
    ode_account_buffer(a, n * sizeof(int));
    ode_shared_bar_account(d, a);
    p->settings.adjoint->account(d, a);
    snprintf(a->largest, sizeof a->largest, "cotangents and the memory of a step back");
}

static ode_adjoint_call parse(const ode_adjoint_plan *d, const ad_opaque_call *call)
{
    const ode_problem *p = d->problem;
    const int n = p->system->nstate, nargs = p->system->nargs, clocks = p->system->nclocks,
              shared = ode_adjoint_operands(d);
    const void *const *in = call->in + 1 + shared;
    void *bar[ODE_MAX_OPERANDS] = { NULL };
    ode_adjoint_call c = { .y0 = call->in + 1,
                           .args = call->in + 1 + n,
                           .asked = call->in + 1 + ode_operands(p),
                           .y = in };
    in += n;
    for (int i = 0; i < n; i++)
        if (d->has[i]) c.ybar[i] = *in++;
    for (int i = 0; i < d->nresults; i++) bar[d->result[i]] = call->out[i];
    memcpy(c.y0bar, bar, (size_t)n * sizeof *bar);
    memcpy(c.argbar, bar + n, (size_t)nargs * sizeof *bar);
    memcpy(c.timesbar, bar + ode_first_clock(p), (size_t)clocks * sizeof *bar);
    if (d->asked.n) memcpy(c.askedbar, bar + ode_operands(p), (size_t)clocks * sizeof *bar);
    return c;
}

/* Zeros for the cotangents of per-row arguments, to which steps add theirs. */
static void clear_row_bars(const ode_adjoint_run *run)
{
    const ode_system *s = run->plan->problem->system;
    for (int i = 0; i < s->nrow; i++) {
        void *bar = run->c.argbar[s->row[i]];
        int64_t n = ad_count(s->arg[s->row[i]], run->call->rows);
        if (bar) memset(bar, 0, (size_t)n * ode_bytes(s->dtype));
    }
}

static void write_stats(ode_stats *to, const ode_stats *from)
{
    to->backward_steps = from->backward_steps;
    to->backward_rejected = from->backward_rejected;
    to->backward_evaluations = from->backward_evaluations;
    to->backward_drift = from->backward_drift;
    to->costate_drift = from->costate_drift;
    to->doubt = from->doubt;
    to->vjps = from->vjps;
}

static bool is_zero(ad_dtype dtype, int64_t n, const void *x)
{
    for (int64_t i = 0; i < n; i++)
        if (ode_load(dtype, x, i) != 0) return false;
    return true;
}

/* Leaves outputs out that the solve did not reach. What the loss makes of them has no derivative:
 * 0, or the error is written. */
static int leave_unreached(ode_adjoint_run *run)
{
    const ode_system *s = run->plan->problem->system;
    ode_adjoint_outputs *out = &run->out;
    const ode_forward *forward = run->forward;
    for (int i = out->n - 1; i >= 0 && !ode_forward_reached(forward, out->t[i]); i--) {
        out->n = i;
        for (int k = 0; k < s->nstate; k++) {
            if (out->place[i] < 0 || !run->c.ybar[k]) continue;
            const char *bar = run->c.ybar[k];
            size_t one = (size_t)s->size[k] * ode_bytes(s->dtype);
            for (int64_t r = 0; r < run->call->rows; r++) {
                const char *at = bar + (size_t)(r * out->places + out->place[i]) * one;
                if (is_zero(s->dtype, s->size[k], at)) continue;
                snprintf(run->call->error, run->call->error_size,
                         "the loss depends on the solution at t = %.15g in row %lld, but the solve "
                         "came to t = %.15g only (options.partial): let the loss select by "
                         "ode_stats.reached what it reads",
                         out->t[i], (long long)r, forward->reached);
                return -1;
            }
        }
    }
    return 0;
}

static int order_outputs(adjoint_state *state)
{
    ode_adjoint_run *run = &state->run;
    const ode_problem *p = run->plan->problem;
    ode_adjoint_outputs *out = &run->out;
    int n = run->plan->asked.n;
    int clocks = p->system->nclocks;
    size_t bytes = (size_t)(clocks * p->ntimes) * sizeof(double);
    run->times_bar = ode_buffer_need(&state->times, bytes);
    if (!run->times_bar) return ode_call_fail(run->call, "out of memory");
    if (n) {
        if (ode_asked_read(&state->order, &run->plan->asked, run->forward, run->c.asked, run->call))
            return -1;
        bytes = (size_t)(clocks * n) * sizeof(double);
        double *bar = ode_buffer_need(&state->asked_bar, bytes);
        if (!bar) return ode_call_fail(run->call, "out of memory");
        *out = (ode_adjoint_outputs){ n, n, state->order.t, state->order.place, n, bar };
        return leave_unreached(run);
    }
    n = p->ntimes;
    int *place = ode_buffer_need(&state->places, (size_t)n * sizeof *place);
    if (!place) return ode_call_fail(run->call, "out of memory");
    for (int j = 0; j < n; j++) place[j] = p->final_only ? -1 : j;
    if (p->final_only) place[n - 1] = 0;
    *out = (ode_adjoint_outputs){
        n, n, run->forward->times.data, place, p->final_only ? 1 : n, run->times_bar
    };
    return leave_unreached(run);
}

void ode_adjoint_add_output(const ode_adjoint_run *run, int i, void *slot)
{
    const ode_system *s = run->plan->problem->system;
    const ode_adjoint_outputs *out = &run->out;
    int64_t rows = run->call->rows;
    if (out->place[i] < 0) return;
    for (int k = 0; k < s->nstate; k++)
        if (run->c.ybar[k])
            ode_output_add(s, rows, run->c.ybar[k], k, out->places, out->place[i],
                           ode_part(s, rows, slot, k));
}

static void write_times(const ode_adjoint_run *run)
{
    const ode_problem *p = run->plan->problem;
    const ode_adjoint_outputs *out = &run->out;
    ad_dtype dtype = p->system->dtype;
    for (int k = 0; k < p->system->nclocks; k++) {
        void *times = run->c.timesbar[k], *asked = run->c.askedbar[k];
        for (int j = 0; times && j < p->ntimes; j++)
            ode_store(dtype, times, j, run->times_bar[k * p->ntimes + j]);
        for (int i = 0; asked && i < out->all; i++)
            ode_store(dtype, asked, out->place[i], out->bar[k * out->all + i]);
    }
}

static int go_back(adjoint_state *state, ode_stats *stats)
{
    ode_adjoint_run *run = &state->run;
    const ode_problem *p = run->plan->problem;
    *stats = (ode_stats){ 0 };
    run->stats = stats;
    run->doubt = run->envelope = run->apart = 0;
    int clocks = p->system->nclocks;
    run->shared_bar = ode_shared_bar_begin(&state->shared, run->plan);
    if (!run->shared_bar) return ode_call_fail(run->call, "out of memory");
    memset(run->times_bar, 0, (size_t)(clocks * p->ntimes) * sizeof(double));
    memset(run->out.bar, 0, (size_t)(clocks * run->out.all) * sizeof(double));
    clear_row_bars(run);
    int failed = state->adjoint->run(run);
    if (p->settings.stats) write_stats(p->settings.stats, stats);
    if (failed) return -1;
    write_times(run);
    return ode_shared_bar_finish(&state->shared, run);
}

/* For a call: the run, at the last time. */
static int begin(adjoint_state *state, const ad_opaque_call *call)
{
    ode_adjoint_run *run = &state->run;
    run->call = call;
    run->c = parse(run->plan, call);
    return order_outputs(state);
}

/* The solve as it was, which other gradients read, after one with halved steps: that one may have
 * ended early (options.partial), and this one has not. */
static int restore(adjoint_state *state, const ad_opaque_call *call)
{
    ode_forward *solve = state->run.forward;
    ode_refinement_free(&solve->refinement);
    solve->partial = false;
    return ode_forward_again(solve, call);
}

/* The solve and the way back with all steps halved, for a comparison. */
static int look_at_halved(adjoint_state *state, const ad_opaque_call *call, ode_stats *stats)
{
    ode_adjoint_run *run = &state->run;
    ode_forward *solve = run->forward;
    ode_stats finer_stats;
    ad_opaque_call finer;
    if (ode_halved_call(&state->halved, run, &finer)) return -1;
    int failed = ode_forward_again(solve, &finer);
    stats->backward_evaluations += solve->march.evaluations;
    /* Where these steps cannot be taken, or go beyond a limit of memory that has not reckoned with
     * so many, or their gradient is not finite, there is nothing to compare with. */
    const bool short_of_memory = failed && solve->march.status == ODE_OUT_OF_MEMORY;
    if (short_of_memory && !solve->most_bytes) return -1;
    const bool compares = !failed && !solve->partial;
    run->halved = true;
    if (compares && (begin(state, &finer) || go_back(state, &finer_stats))) return -1;
    const bool finite = compares && ode_results_finite(run);
    if (!finite) stats->doubt = short_of_memory ? ODE_DOUBT_NO_ROOM : ODE_DOUBT_NOT_COMPARABLE;
    if (restore(state, call)) return -1;
    stats->backward_evaluations += solve->march.evaluations;
    if (compares) {
        stats->vjps += finer_stats.vjps;
        stats->backward_evaluations += finer_stats.backward_evaluations;
        failed = begin(state, call) || (finite && ode_halved_compare(&state->halved, run));
    } else {
        failed = 0;
    }
    ode_halved_clear(&state->halved);
    return failed ? -1 : 0;
}

int ode_adjoint_run_back(void *data, void *state_, const ad_opaque_call *call)
{
    adjoint_state *state = state_;
    ode_adjoint_run *run = &state->run;
    ode_stats stats;
    run->plan = data;
    run->forward = call->in_state[0];
    run->searching = run->halved = false;
    if (state->adjoint->states && !run->forward->trajectory.stores &&
        ode_forward_again(run->forward, call))
        return -1;
    if (begin(state, call)) return -1;
    bool failed = go_back(state, &stats);
    if (!failed && ode_results_finite(run)) {
        stats.doubt = ode_halved_due(&state->halved, run);
        failed = stats.doubt == ODE_DOUBT_COMPARED && look_at_halved(state, call, &stats);
        if (run->plan->problem->settings.stats)
            write_stats(run->plan->problem->settings.stats, &stats);
        return failed ? -1 : 0;
    }
    if (ode_blame_cotangents(run) || failed) return -1;
    run->searching = true;
    return go_back(state, &stats) ? -1 : ode_blame_arguments(run);
}
