/* The forward solve: a march whose steps fill a trajectory and whose outputs fill the results.
 *
 * This is what the recorded operation does when it is evaluated. Times are read and checked, the
 * initial state becomes the trajectory's first, shared values are computed from the arguments, and
 * the march runs with this file as its sink: each accepted step is stored as the trajectory's
 * policy says, and the output times that it has passed are filled, from its end or by its
 * interpolant. An adjoint that finds nothing stored has the solve done again (ode_forward_again).
 */
#include "ode/trajectory/forward.h"
#include "ode/trajectory/outputs.h"
#include "ode/trajectory/weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of time: 1, -1. */
static double direction_of(const ode_forward *s)
{
    const double *t = s->times.data;
    return t[s->problem->ntimes - 1] < t[0] ? -1 : 1;
}

/* ---- outputs ---- */

static void put_slot(ode_forward *s, int j, const void *slot)
{
    const ode_problem *p = s->problem;
    int64_t rows = s->call->rows;
    int n = p->final_only ? 1 : p->ntimes, at = p->final_only ? 0 : j;
    for (int i = 0; i < p->system->nstate; i++)
        if (s->call->out[i])
            ode_output_put(p->system, rows, ode_part(p->system, rows, slot, i), i, n, at,
                           s->call->out[i]);
}

/* The solution inside the step from a to b, from its stages. */
static void put_interpolated(ode_forward *s, const ode_march *m, int j, const ode_boundary *a,
                             const ode_boundary *b, const void *y)
{
    ode_weights w;
    ode_weights_at(&w, m->method, m->system, m->rows, a, b, m->clock,
                   (const double *)s->times.data + j, s->problem->ntimes);
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype);
    ode_weights_apply(&w, m->system->dtype, y, m->k.data, slot, s->scratch.data);
    put_slot(s, j, s->scratch.data);
}

/* Given steps end at all output times; where others are to be looked for between, p->dense is set.
 */
static void put_outputs(ode_forward *s, ode_march *m, const ode_boundary *a, const ode_boundary *b,
                        const void *y, const void *next)
{
    const ode_problem *p = s->problem;
    const double *t = s->times.data;
    int last = p->ntimes - 1;
    double direction = direction_of(s);
    if (b->t == t[last]) put_slot(s, last, next);
    if (p->final_only) return;
    for (; s->next_output < last && direction * (t[s->next_output] - b->t) <= 0; s->next_output++) {
        int j = s->next_output;
        if (p->dense) put_interpolated(s, m, j, a, b, y);
        else put_slot(s, j, next);
    }
}

/* A solve that did not reach its last time: results that there are not. */
static void put_unreached(ode_forward *s)
{
    const ode_problem *p = s->problem;
    ad_dtype dtype = p->system->dtype;
    for (int64_t i = 0; i < s->march.cells; i++) ode_store(dtype, s->scratch.data, i, NAN);
    int first = p->final_only ? p->ntimes - 1 : s->next_output;
    for (int j = first; j < p->ntimes; j++) put_slot(s, j, s->scratch.data);
}

bool ode_forward_reached(const ode_forward *s, double t)
{
    return !s->partial || direction_of(s) * (t - s->reached) <= 0;
}

/* Whether a march that failed has left a part of the solution. */
static bool is_partial(const ode_march *m)
{
    return m->status != ODE_DONE && m->status != ODE_OUT_OF_MEMORY && m->status != ODE_FAILED;
}

/* ---- steps as they come ---- */

static void *slot_of(void *context, int64_t k)
{
    return ode_trajectory_next(&((ode_forward *)context)->trajectory, k);
}

static void *state_of(void *context, int64_t k, ode_boundary *a)
{
    ode_trajectory *tr = &((ode_forward *)context)->trajectory;
    *a = *ode_trajectory_boundary(tr, k);
    return ode_trajectory_state(tr, k);
}

static void rewind_to(void *context, int64_t k)
{
    ode_forward *s = context;
    const double *t = s->times.data;
    double direction = direction_of(s), from = ode_trajectory_boundary(&s->trajectory, k)->t;
    ode_trajectory_rewind(&s->trajectory, k);
    if (s->problem->settings.stats) s->problem->settings.stats->steps_taken->count = k;
    while (s->next_output > 1 && direction * (t[s->next_output - 1] - from) > 0) s->next_output--;
}

static void *keep(void *context, int64_t k, int i)
{
    return ode_trajectory_kept(&((ode_forward *)context)->trajectory, k, i);
}

static void *numbers(void *context, int64_t k)
{
    return ode_trajectory_numbers(&((ode_forward *)context)->trajectory, k);
}

static int note_step(ode_stats *stats, ode_march *m, int64_t k, double t)
{
    double *times = ode_buffer_need(&stats->steps_taken->times, (size_t)(k + 2) * sizeof *times);
    if (!times) return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory for the times of the steps");
    times[k + 1] = t;
    stats->steps_taken->count = k + 1;
    return 0;
}

/* Step k, which ended at t, does not find room within the limit. */
static int fail_limit(ode_forward *s, int64_t k, double t)
{
    const ode_trajectory_policy *policy = &s->trajectory.policy;
    return ode_fail(&s->march, ODE_OUT_OF_MEMORY,
                    "out of memory: step %lld (at t = %.15g) is one too many for the limit, which "
                    "leaves %lld bytes to the steps; %s%s raise the limit "
                    "(ad_workspace_set_limit, ad_tape_set_memory, COSTATE_MEMORY)",
                    (long long)k, t, (long long)policy->most_bytes,
                    policy->residuals ? "keep less of each (options.keep_bytes), " : "",
                    "take fewer rows or a looser tolerance, use ode_backsolve, or");
}

static int accepted(void *context, const ode_march *march, int64_t k, const ode_boundary *a,
                    const ode_boundary *b, const void *y, const void *next)
{
    ode_forward *s = context;
    ode_march *m = &s->march;
    ode_stats *stats = s->problem->settings.stats;
    (void)march;
    const void *carried = m->carry[0].data;
    if (!ode_trajectory_fits(&s->trajectory, k + 1)) return fail_limit(s, k, b->t);
    if (!ode_trajectory_add(&s->trajectory, k, b, carried, next))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory for step %lld", (long long)k);
    if (!s->trajectory.stores) m->watch.on = false; /* a watched march goes back to stored states */
    if (stats && note_step(stats, m, k, b->t)) return -1;
    put_outputs(s, m, a, b, y, next);
    if (s->again && direction_of(s) * (b->t - s->until) >= 0)
        return ode_fail(m, ODE_STOPPED, "stopped where the first solve was");
    return 0;
}

/* ---- the solve ---- */

void *ode_forward_new(void *problem)
{
    ode_forward *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->problem = problem;
    ode_problem_retain(problem);
    return s;
}

void ode_forward_free(void *forward)
{
    ode_forward *s = forward;
    if (!s) return;
    ode_march_close(&s->march);
    ode_shared_close(&s->shared);
    ode_path_close(&s->path);
    ode_trajectory_close(&s->trajectory);
    ode_buffer_free(&s->times);
    ode_buffer_free(&s->scratch);
    ode_refinement_free(&s->refinement);
    ode_problem_release(s->problem);
    free(s);
}

static bool begin_stats(const ode_settings *set, double t0)
{
    ode_stats *stats = set->stats;
    if (!stats->steps_taken) stats->steps_taken = calloc(1, sizeof *stats->steps_taken);
    double *times =
        stats->steps_taken ? ode_buffer_need(&stats->steps_taken->times, sizeof *times) : NULL;
    if (!times) return false;
    times[0] = t0;
    stats->steps_taken->count = 0;
    stats->steps_taken->chosen = set->replay ? set->replay->chosen : set->adaptive;
    stats->steps_taken->path = set->replay ? set->replay->path : set->path;
    return true;
}

static void fill_stats(const ode_forward *s, ode_stats *stats)
{
    const ode_march *m = &s->march;
    stats->status = m->status;
    stats->reached = m->reached;
    stats->steps = m->steps;
    stats->rejected = m->rejected;
    stats->stability_limited = m->guard.limited;
    stats->stability = m->guard.most;
    stats->ringing = m->ringing;
    stats->probes = m->watch.on ? m->watch.probes : 0;
    stats->probe_evaluations = m->watch.on ? m->watch.evaluations : 0;
    stats->evaluations = m->evaluations;
    stats->jacobians = m->counts[0];
    stats->factorisations = m->counts[1];
    stats->newton_iterations = m->counts[2];
    stats->stored_bytes = ode_trajectory_bytes(&s->trajectory);
}

/* Times as doubles, checked, and then those of the other clocks. */
static const double *read_times(ode_forward *s, const ad_opaque_call *call)
{
    const ode_problem *p = s->problem;
    int clocks = p->system->nclocks, n = p->ntimes;
    double *t = ode_buffer_need(&s->times, (size_t)(clocks * n) * sizeof *t);
    if (!t) {
        snprintf(call->error, call->error_size, "out of memory");
        return NULL;
    }
    for (int k = 0; k < clocks; k++) {
        const void *operand = call->in[ode_first_clock(p) + k];
        const double *constant = k ? NULL : p->times;
        for (int i = 0; i < n; i++)
            t[k * n + i] = constant ? constant[i] : ode_load(call->dtype, operand, i);
        s->march.clock[k] = t + k * n;
    }
    char text[256];
    const char *error = ode_check_times(p->ntimes, t, text, sizeof text);
    if (!error) return t;
    snprintf(call->error, call->error_size, "%s", error);
    return NULL;
}

/* What the solve leaves, for an adjoint that has been recorded. A lazy evaluation cannot know
 * whether a gradient will be asked for. Until one has been recorded, states are stored within
 * keep_bytes; a longer solve stores none, and is solved again if its gradient is asked for after
 * all. */
static ode_trajectory_policy policy_of(const ode_problem *p, int64_t rows, bool wanted, bool again)
{
    const ode_adjoint *adjoint = p->settings.adjoint;
    bool certain = again || atomic_load(&p->differentiated);
    ode_trajectory_policy policy = {
        .states = wanted && (adjoint->states || certain),
        .boundaries = wanted && ode_method_stochastic(p->settings.method),
        .magnitudes = adjoint->magnitudes && wanted,
        .carried = ode_port_bytes(p->units.step, ODE_VALUE, ODE_PORT_CARRY, rows),
        .states_bytes = certain ? 0 : p->settings.keep_bytes,
        .residuals_bytes = p->settings.keep_bytes,
        .dense = p->dense
    };
    if (policy.states) policy.residuals = atomic_load(&p->residuals);
    if (ode_method_stochastic(p->settings.method))
        policy.numbers = ode_path_bytes(&p->settings, p->system, rows);
    return policy;
}

/* How the march of a solve goes. */
static void set_march(ode_march *m, const ode_problem *p)
{
    const ode_settings *set = &p->settings;
    m->system = p->system;
    m->settings = set;
    m->method = set->method;
    m->adaptive = set->adaptive;
    m->dense = p->dense;
    m->rtol = set->rtol;
    m->atol = set->atol;
    m->each = set->atol_each ? set->atol_each + set->natol : NULL;
}

/* Whether its steps are watched, where they are stored. */
static bool is_watched(const ode_settings *set)
{
    return set->adaptive && set->adjoint->frozen && !ode_method_stochastic(set->method);
}

/* ---- bytes ---- */

/* All but the trajectory. */
static void account_solving(const ode_problem *p, const ode_trajectory_policy *policy,
                            ad_opaque_account *a)
{
    const ode_system *s = p->system;
    const ode_march_units *units = policy->residuals ? &p->keeping : &p->units;
    ode_march m = { 0 };
    set_march(&m, p);
    ode_account(a, 1, sizeof(ode_forward));
    ode_account_buffer(a, (size_t)(s->nclocks * p->ntimes) * sizeof(double));
    ode_account_buffer(a, (size_t)(a->rows * s->width) * ode_bytes(s->dtype));
    ode_shared_account(p, a);
    ode_march_account(&m, units, a);
    if (policy->states && is_watched(&p->settings)) ode_watch_account(&m, units, a);
    if (policy->numbers) ode_account_buffer(a, policy->numbers);
}

void ode_forward_account(void *problem, ad_opaque_account *a)
{
    const ode_problem *p = problem;
    const ode_system *s = p->system;
    const ode_trajectory_policy policy = policy_of(p, a->rows, a->state_used, false);
    ode_march m = { 0 };
    set_march(&m, p);
    const int64_t count = ode_march_count(&m, p->ntimes, p->times);
    int64_t each, bytes = ode_trajectory_needs(s, p->settings.method, &policy, a->rows,
                                               count > 0 ? count : 0, &each);
    account_solving(p, &policy, a);
    ode_account(a, bytes, 1);
    if (count < 0) a->step_bytes += each;
    const char *what = policy.residuals ? "states and activations" : "states";
    if (!policy.states) snprintf(a->largest, sizeof a->largest, "the memory of a step");
    else if (count < 0)
        snprintf(a->largest, sizeof a->largest, "%s of a step, %lld bytes", what, (long long)each);
    else
        snprintf(a->largest, sizeof a->largest, "%s of %lld steps, %lld bytes", what,
                 (long long)count, (long long)bytes);
}

void ode_forward_keeps(const ode_problem *p, int64_t rows, bool *some, bool *all)
{
    const ode_trajectory_policy policy = policy_of(p, rows, true, false);
    ode_march m = { 0 };
    set_march(&m, p);
    const int64_t count = ode_march_count(&m, p->ntimes, p->times);
    const int64_t most = ode_trajectory_keeps(p->system, p->settings.method, &policy, rows);
    *some = most > 0;
    *all = *some && count >= 0 && count + p->dense <= most;
}

/* What the limit leaves to the trajectory, at least 1; 0: no limit. */
static int64_t bytes_for_steps(const ode_forward *s, const ode_trajectory_policy *policy)
{
    if (!s->most_bytes) return 0;
    ad_opaque_account a = { .rows = s->call->rows, .threads = s->call->threads };
    account_solving(s->problem, policy, &a);
    return a.bytes >= 0 && a.bytes < s->most_bytes ? s->most_bytes - a.bytes : 1;
}

/* ---- beginning ---- */

/* y0 as the first state of the trajectory, checked. */
static void *read_initial(ode_forward *s, const ad_opaque_call *call)
{
    const ode_system *sys = s->problem->system;
    ode_march *m = &s->march;
    size_t slot = (size_t)(call->rows * sys->width) * ode_bytes(call->dtype);
    ode_trajectory_policy policy = policy_of(s->problem, call->rows, call->state_used, s->again);
    policy.most_bytes = bytes_for_steps(s, &policy);
    char *y =
        ode_trajectory_begin(&s->trajectory, sys, s->problem->settings.method, &policy, call->rows);
    if (!y || !ode_buffer_need(&s->scratch, slot)) {
        ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
        return NULL;
    }
    for (int i = 0; i < sys->nstate; i++) {
        int64_t n = call->rows * sys->size[i],
                bad = ode_first_nonfinite(call->dtype, n, call->in[i]);
        if (bad >= 0) {
            const char *what = i && sys->primal ? "a tangent of y0" : "y0";
            ode_fail(m, ODE_NOT_FINITE,
                     "%s is %g in row %lld, component %lld%s; initial states must be finite", what,
                     ode_shown(ode_load(call->dtype, call->in[i], bad)),
                     (long long)(bad / sys->size[i]), (long long)(bad % sys->size[i]),
                     i && !sys->primal ? " (of a later state)" : "");
            return NULL;
        }
        memcpy(ode_part(sys, call->rows, y, i), call->in[i], (size_t)n * ode_bytes(call->dtype));
    }
    return y;
}

/* A solve over no time at all: one step of size zero, for the adjoint to differentiate. */
static int solve_identity(ode_forward *s, ode_march *m, const void *y)
{
    const double *t = s->times.data;
    ode_trajectory *tr = &s->trajectory;
    ode_boundary end = { .t = t[0], .lo = s->problem->ntimes - 1, .hi = s->problem->ntimes - 1 };
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype);
    void *next = ode_trajectory_next(tr, 0);
    memcpy(next, y, slot);
    tr->kept_limit = 0;
    put_slot(s, 1, y);
    if (tr->policy.carried) memset(m->carry[0].data, 0, tr->policy.carried);
    if (ode_trajectory_add(tr, 0, &end, m->carry[0].data, next)) return 0;
    return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
}

/* The solve that this one follows, of which it takes the steps; solved again if it has not stored
 * them. NULL: it finds its own, or (*failed) the call's error is written. */
static const ode_trajectory *followed(const ode_forward *s, const ad_opaque_call *call,
                                      bool *failed)
{
    const ode_problem *p = s->problem;
    int n = p->system->nstate, token = ode_first_token(p), k = 1;
    *failed = false;
    if (!p->system->order) return NULL;
    ode_forward *leader = call->in_state[token];
    if (leader->trajectory.stores) return &leader->trajectory;
    const ode_problem *q = leader->problem;
    const void *in[1 + ODE_MAX_OPERANDS] = { NULL };
    void *in_state[1 + ODE_MAX_OPERANDS] = { NULL };
    for (int i = 0; i < q->system->nstate; i++) in[k++] = call->in[i];
    for (int i = 0; i < q->system->nargs; i++) in[k++] = call->in[n + i];
    for (int i = 0; i < q->system->nclocks; i++) in[k++] = call->in[ode_first_clock(p) + i];
    for (int i = 0; i < q->system->order; i++) in_state[k++] = call->in_state[token + 1 + i];
    ad_opaque_call again = *call;
    again.in = in;
    again.in_state = in_state;
    *failed = ode_forward_again(leader, &again);
    return *failed ? NULL : &leader->trajectory;
}

/* Where the followed solve ended before its last time, so does this one. */
static void follow_end(ode_forward *s, const ad_opaque_call *call)
{
    const ode_forward *leader = call->in_state[ode_first_token(s->problem)];
    s->partial = leader->partial;
    s->reached = leader->reached;
    if (s->partial) put_unreached(s);
}

/* Steps that were chosen by their errors are those of one path. */
static int check_path(ode_march *m, const sde_path *steps, const sde_path *own)
{
    if (steps->seed != own->seed)
        return ode_fail(m, ODE_FAILED,
                        "the steps to replay were chosen by their errors on the path of "
                        "options.path.seed %llu, and this solve has seed %llu; give it their seed, "
                        "or steps that are known before (step or steps)",
                        (unsigned long long)steps->seed, (unsigned long long)own->seed);
    bool same = steps->antithetic == own->antithetic && steps->common == own->common &&
                steps->cells == own->cells && steps->t0 == own->t0 && steps->t1 == own->t1;
    if (same) return 0;
    return ode_fail(m, ODE_FAILED,
                    "the steps to replay were chosen by their errors on a path with other "
                    "options.path (antithetic, common, cells, t0 or t1); give this solve the same, "
                    "or steps that are known before (step or steps)");
}

/* The path of a stochastic solve. */
static int open_path(ode_forward *s, const ad_opaque_call *call)
{
    const ode_problem *p = s->problem;
    const ode_settings *set = &p->settings;
    ode_march *m = &s->march;
    const double *t = s->times.data;
    double t0 = t[0], t1 = t[p->ntimes - 1];
    if (p->system->order) {
        const ode_forward *leader = call->in_state[ode_first_token(p)];
        m->path = leader->march.path;
        return 0;
    }
    m->path = &s->path;
    int64_t count = 0;
    bool chosen = set->replay ? set->replay->chosen : set->adaptive, known = !chosen && t0 != t1;
    if (set->replay && chosen && check_path(m, &set->replay->path, &set->path)) return -1;
    if (known) count = ode_march_boundaries(m, p->ntimes, t, &s->path.grid);
    if (count < 0) return -1;
    char error[ODE_ERROR_SIZE];
    if (ode_path_open(&s->path, set, p->system, call->rows, call->threads,
                      call->in + p->system->nstate, t0, t1, count, known ? s->path.grid.data : NULL,
                      ad_program_fill_rows(m->step.program), error, sizeof error))
        return ode_fail(m, ODE_FAILED, "%s", error);
    return 0;
}

static int solve(ode_problem *p, ode_forward *s, const ad_opaque_call *call)
{
    ode_march *m = &s->march;
    ode_trajectory *tr = &s->trajectory;
    const ode_settings *set = &p->settings;
    bool lost;
    const ode_trajectory *steps = followed(s, call, &lost);
    const double *t = lost ? NULL : read_times(s, call);
    if (!t) return -1;
    m->reached = t[0];
    set_march(m, p);
    ode_march_answers_to(m, call);
    s->call = call;
    if (!s->again) s->most_bytes = call->most_bytes;
    s->next_output = 1;
    s->partial = false;
    if (call->rows < 1) return ode_fail(m, ODE_FAILED, "the batch is empty (no rows)");
    void *y = read_initial(s, call);
    if (!y) return -1;
    const void *const *args = call->in + p->system->nstate;
    s->values = ode_shared_compute(&s->shared, p, call, args);
    if (!s->values) return -1;
    const ode_residuals *residuals = tr->policy.residuals;
    const ode_march_units *units = residuals ? &p->keeping : &p->units;
    if (ode_march_open(m, units, call->rows, call->threads, args, s->values)) return -1;
    ode_boundary first = { .t = t[0], .jump = ode_stops_jump(&m->stops, t[0]), .restart = true };
    ode_trajectory_start(tr, steps ? ode_trajectory_boundary(steps, 0) : &first);
    if (set->stats && !begin_stats(set, t[0]))
        return ode_fail(m, ODE_OUT_OF_MEMORY, "out of memory");
    if (!p->final_only) put_slot(s, 0, y);
    if (ode_method_stochastic(m->method) && open_path(s, call)) return -1;
    double horizon = fabs(t[p->ntimes - 1] - t[0]),
           first_output = p->final_only ? horizon : fabs(t[1] - t[0]);
    bool watched = tr->stores && is_watched(set);
    if (watched && ode_watch_open(m, units, horizon, first_output)) return -1;
    ode_sink sink = { .context = s,
                      .slot = slot_of,
                      .accepted = accepted,
                      .state = state_of,
                      .rewind = rewind_to,
                      .keep = residuals ? keep : NULL,
                      .numbers = residuals ? numbers : NULL,
                      .reports = !s->again && !steps };
    int failed;
    if (steps) failed = ode_march_follow(m, steps->count, steps->bounds.data, y, &sink);
    else if (t[0] == t[p->ntimes - 1]) failed = solve_identity(s, m, y);
    else failed = ode_march_run_refined(m, p->ntimes, t, y, &sink, call->refine, &s->refinement);
    ode_trajectory_end(tr);
    if (!failed && steps) follow_end(s, call);
    if (failed && set->partial && is_partial(m)) {
        s->partial = true;
        if (s->again && m->status == ODE_STOPPED) { /* by its last step, as the first one was */
            m->status = s->ended;
            m->reached = s->until;
            m->steps++;
        }
        s->reached = m->reached;
        put_unreached(s);
        return 0;
    }
    if (!failed && m->blurred && m->blurred == m->steps)
        return ode_fail_blurred(m, t[0], t[p->ntimes - 1]);
    return failed;
}

int ode_forward_solve(void *problem, void *forward, const ad_opaque_call *call)
{
    ode_problem *p = problem;
    ode_forward *s = forward;
    ode_march *m = &s->march;
    ode_march_clear(m);
    m->reached = NAN;
    int failed = solve(p, s, call);
    /* What a look at the field found on the way is no failure of the solve. */
    if (!failed && !s->partial) m->status = ODE_DONE;
    else if (failed && m->status == ODE_DONE) m->status = ODE_FAILED;
    if (p->settings.stats) fill_stats(s, p->settings.stats);
    return failed;
}

int ode_forward_again(ode_forward *s, const ad_opaque_call *call)
{
    void *const nowhere[ODE_MAX_JOINT] = { NULL };
    ad_opaque_call again = *call;
    again.in = call->in + 1;
    again.in_state = call->in_state + 1;
    again.out = nowhere;
    again.state_used = true;
    s->again = true;
    s->until = s->partial ? s->reached : NAN;
    s->ended = s->march.status;
    int failed = ode_forward_solve(s->problem, s, &again);
    s->again = false;
    return failed;
}
