/* The forward solve as an opaque operation: operands y0 [n], arguments, times; results the
 * solutions. */
#include "ode/solve/solution.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- slots ---- */

void ode_pile_reset(ode_pile *p, size_t slot)
{
    if (slot > p->bytes) {
        for (int64_t i = 0; i < p->count; i++) free(p->chunk[i]);
        p->count = 0;
        p->bytes = slot < (size_t)1 << 17 ? 8 * slot : slot;
    }
    p->slot = slot;
    p->per_chunk = (int64_t)(p->bytes / slot);
}

void *ode_pile_slot(ode_pile *p, int64_t k)
{
    while (k / p->per_chunk >= p->count) {
        if (p->count == p->capacity) {
            int64_t capacity = p->capacity ? 2 * p->capacity : 16;
            char **more = realloc(p->chunk, (size_t)capacity * sizeof *more);
            if (!more) return NULL;
            p->chunk = more;
            p->capacity = capacity;
        }
        p->chunk[p->count] = malloc(p->bytes);
        if (!p->chunk[p->count]) return NULL;
        p->count++;
    }
    return p->chunk[k / p->per_chunk] + (size_t)(k % p->per_chunk) * p->slot;
}

void ode_pile_trim(ode_pile *p, int64_t slots)
{
    int64_t chunks = p->per_chunk ? (slots + p->per_chunk - 1) / p->per_chunk : 0;
    while (p->count > chunks) free(p->chunk[--p->count]);
}

void ode_pile_free(ode_pile *p)
{
    for (int64_t i = 0; i < p->count; i++) free(p->chunk[i]);
    free(p->chunk);
    *p = (ode_pile){ 0 };
}

/* ---- problems ---- */

void ode_problem_retain(void *problem)
{
    atomic_fetch_add(&((ode_problem *)problem)->references, 1);
}

void ode_problem_release(void *problem)
{
    ode_problem *p = problem;
    if (!p || atomic_fetch_sub(&p->references, 1) != 1) return;
    ode_settings_clear(&p->settings);
    ode_system_release(p->system);
    free(p->times);
    free(p);
}

/* ---- shared values ---- */

void **ode_shared_compute(ode_shared *sh, const ode_problem *p, const ad_opaque_call *call,
                          const void *const *args)
{
    const ode_system *s = p->system;
    size_t bytes = 0;
    for (int i = 0; i < s->nshared; i++) bytes += ode_array_bytes(s->dtype, s->shared[i], 1);
    void **at = ode_buffer_need(&sh->pointers, (size_t)s->nshared * sizeof *at);
    char *memory = p->prologue ? ode_buffer_need(&sh->memory, bytes) : NULL;
    if (!at || (p->prologue && !memory)) {
        snprintf(call->error, call->error_size, "out of memory");
        return NULL;
    }
    if (p->prologue &&
        ode_runner_open(&sh->prologue, p->prologue, call->threads, call->error, call->error_size))
        return NULL;
    for (int i = 0, n = 0; i < s->nargs; i++) {
        if (ad_has_rows(s->arg[i])) continue;
        if (p->prologue) sh->prologue.in[n++] = args[i];
        else if (s->rerecord) at[n++] = (void *)args[i];
    }
    if (!p->prologue) return at;
    for (int i = 0; i < s->nshared; i++) {
        sh->prologue.out[i] = at[i] = memory;
        memory += ode_array_bytes(s->dtype, s->shared[i], 1);
    }
    sh->prologue.primed = false;
    sh->prologue.refine = call->refine;
    char error[ODE_ERROR_SIZE];
    if (!ode_runner_run(&sh->prologue, call->rows, error, sizeof error)) return at;
    snprintf(call->error, call->error_size, "%s", error);
    return NULL;
}

void ode_shared_close(ode_shared *sh)
{
    ode_runner_close(&sh->prologue);
    ode_buffer_free(&sh->memory);
    ode_buffer_free(&sh->pointers);
}

/* ---- outputs ---- */

void ode_output_put(const ode_problem *p, int64_t rows, const void *part, int state, int j,
                    void *to)
{
    size_t bytes = (size_t)p->system->size[state] * ode_bytes(p->system->dtype);
    size_t n = p->final_only ? 1 : (size_t)p->ntimes, at = p->final_only ? 0 : (size_t)j;
    if (n == 1) {
        memcpy(to, part, (size_t)rows * bytes);
        return;
    }
    for (size_t r = 0; r < (size_t)rows; r++)
        memcpy((char *)to + (r * n + at) * bytes, (const char *)part + r * bytes, bytes);
}

void ode_output_add(const ode_problem *p, int64_t rows, const void *from, int state, int j,
                    void *part)
{
    int64_t size = p->system->size[state];
    ad_dtype dtype = p->system->dtype;
    size_t bytes = (size_t)size * ode_bytes(dtype), n = p->final_only ? 1 : (size_t)p->ntimes,
           at = p->final_only ? 0 : (size_t)j;
    if (n == 1) {
        ode_add(dtype, rows * size, from, part);
        return;
    }
    for (size_t r = 0; r < (size_t)rows; r++)
        ode_add(dtype, size, (const char *)from + (r * n + at) * bytes, (char *)part + r * bytes);
}

int ode_output_weights(const ode_method *m, const ode_boundary *a, const ode_boundary *b, double t,
                       double *w, double *slope)
{
    double h = b->t - a->t;
    int n = m->tableau->stages + 1 + m->tableau->extra;
    ode_dense_weights(m->tableau, (t - a->t) / h, w, slope);
    for (int i = 0; i < n; i++) w[i] *= h;
    return n;
}

static void put_slot(ode_solution *s, int j, const void *slot)
{
    ode_problem *p = s->problem;
    for (int i = 0; i < p->system->nstate; i++)
        if (s->call->out[i])
            ode_output_put(p, s->call->rows, ode_part(p->system, s->call->rows, slot, i), i, j,
                           s->call->out[i]);
}

/* The solution inside the step from a to b, from its stages. */
static void put_interpolated(ode_solution *s, const ode_march *m, int j, double t,
                             const ode_boundary *a, const ode_boundary *b, const void *y)
{
    double w[ODE_MAX_STAGES], slope[ODE_MAX_STAGES];
    const void *k[ODE_MAX_STAGES];
    int n = ode_output_weights(m->method, a, b, t, w, slope);
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype);
    for (int i = 0; i < n; i++) k[i] = (char *)m->k.data + (size_t)i * slot;
    ode_combine(m->system->dtype, m->cells, y, n, w, k, s->scratch.data);
    put_slot(s, j, s->scratch.data);
}

static int put_outputs(ode_solution *s, ode_march *m, const ode_boundary *a, const ode_boundary *b,
                       const void *y, const void *next)
{
    const ode_problem *p = s->problem;
    const double *t = s->times.data;
    int last = p->ntimes - 1;
    double direction = t[last] > t[0] ? 1 : -1;
    if (b->t == t[last]) put_slot(s, last, next);
    if (p->final_only) return 0;
    for (; s->next_output < last && direction * (t[s->next_output] - b->t) <= 0; s->next_output++) {
        int j = s->next_output;
        if (p->dense) put_interpolated(s, m, j, t[j], a, b, y);
        else if (t[j] == b->t) put_slot(s, j, next);
        else
            return ode_fail(m,
                            "time %d (%.15g) lies inside the replayed step from %.15g to %.15g, "
                            "and %s has no dense output; replay steps "
                            "that end there",
                            j, t[j], a->t, b->t, m->method->name);
    }
    return 0;
}

/* ---- steps as they come ---- */

static void *slot_of(void *context, int64_t k)
{
    ode_solution *s = context;
    return ode_pile_slot(&s->states, s->stores ? k + 1 : (k + 1) % 2);
}

/* Stages of a step whose residuals lie in its slot: not the one after the last. */
static int kept_stages(const ode_problem *p)
{
    const ode_tableau *t = p->settings.method->tableau;
    return t->stages + (p->dense ? t->extra : 0);
}

void *ode_solution_kept(ode_solution *s, int64_t k, int i)
{
    const ode_problem *p = s->problem;
    int last = p->settings.method->tableau->stages;
    if (i == last) k++, i = 0;
    else if (i > last) i--;
    if (k >= s->kept_limit) return NULL;
    char *slot = ode_pile_slot(&s->kept, k);
    if (slot) return slot + (size_t)i * (s->kept.slot / (size_t)kept_stages(p));
    s->kept_limit = k; /* no memory: from here on nothing is kept */
    return NULL;
}

static void *rewind_to(void *context, int64_t k, ode_boundary *a)
{
    ode_solution *s = context;
    const double *t = s->times.data;
    double direction = t[s->problem->ntimes - 1] > t[0] ? 1 : -1;
    *a = ((const ode_boundary *)s->bounds.data)[k];
    while (s->next_output > 1 && direction * (t[s->next_output - 1] - a->t) > 0) s->next_output--;
    return ode_pile_slot(&s->states, k);
}

static void *keep(void *context, int64_t k, int i) { return ode_solution_kept(context, k, i); }

static void prepare_keeping(ode_solution *s)
{
    ode_problem *p = s->problem;
    s->residuals = s->stores ? atomic_load(&p->residuals) : NULL;
    s->kept_limit = 0;
    if (!s->residuals) return;
    size_t slot =
        (size_t)kept_stages(p) * ode_residuals_bytes(p->system, s->residuals, s->call->rows);
    s->kept_limit = p->settings.keep_bytes / (int64_t)slot;
    if (s->kept_limit) ode_pile_reset(&s->kept, slot);
}

static int store_step(ode_solution *s, ode_march *m, int64_t k, const ode_boundary *b)
{
    ode_boundary *all = ode_buffer_need(&s->bounds, (size_t)(k + 2) * sizeof *all);
    if (!all) return ode_fail(m, "out of memory for step %lld", (long long)k);
    all[k + 1] = *b;
    s->count = k + 1;
    if (!m->method->begin) return 0;
    void *carry = ode_pile_slot(&s->carries, k);
    if (!carry) return ode_fail(m, "out of memory for step %lld", (long long)k);
    memcpy(carry, m->carry[0].data, (size_t)m->cells * ode_bytes(m->system->dtype));
    return 0;
}

/* A lazy evaluation cannot know whether a gradient will be asked for. Until one has been recorded,
 * steps are stored within keep_bytes; a longer solve stores none, and is solved again if its
 * gradient is asked for after all. */
static bool worth_storing(const ode_solution *s, int64_t k)
{
    const ode_problem *p = s->problem;
    if (s->again || atomic_load(&p->differentiated)) return true;
    double states = p->settings.method->begin ? 2 : 1;
    return states * (double)(k + 2) * (double)s->states.slot <= (double)p->settings.keep_bytes;
}

static int note_step(ode_stats *stats, ode_march *m, int64_t k, double t)
{
    double *times = ode_buffer_need(&stats->steps_taken->times, (size_t)(k + 2) * sizeof *times);
    if (!times) return ode_fail(m, "out of memory for the times of the steps");
    times[k + 1] = t;
    stats->steps_taken->count = k + 1;
    return 0;
}

static int accepted(void *context, const ode_march *march, int64_t k, const ode_boundary *a,
                    const ode_boundary *b, const void *y, const void *next)
{
    ode_solution *s = context;
    ode_march *m = &s->march;
    (void)march;
    const ode_settings *set = &s->problem->settings;
    if (s->stores && !worth_storing(s, k))
        s->stores = m->watch.on = false; /* a watched march goes back to stored states */
    if (s->stores && store_step(s, m, k, b)) return -1;
    if (s->measures) ode_grow(m->system->dtype, m->cells, next, s->largest.data);
    if (set->stats && note_step(set->stats, m, k, b->t)) return -1;
    return put_outputs(s, m, a, b, y, next);
}

/* ---- the operation ---- */

static void *solution_new(void *data)
{
    ode_solution *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->problem = data;
    ode_problem_retain(data);
    return s;
}

static void solution_free(void *state)
{
    ode_solution *s = state;
    if (!s) return;
    ode_march_close(&s->march);
    ode_shared_close(&s->shared);
    ode_pile_free(&s->states);
    ode_pile_free(&s->carries);
    ode_pile_free(&s->kept);
    ode_buffer_free(&s->times);
    ode_buffer_free(&s->bounds);
    ode_buffer_free(&s->largest);
    ode_buffer_free(&s->scratch);
    ode_refinement_free(&s->refinement);
    ode_problem_release(s->problem);
    free(s);
}

static bool begin_stats(ode_stats *stats, double t0)
{
    if (!stats->steps_taken) stats->steps_taken = calloc(1, sizeof *stats->steps_taken);
    double *times =
        stats->steps_taken ? ode_buffer_need(&stats->steps_taken->times, sizeof *times) : NULL;
    if (!times) return false;
    times[0] = t0;
    stats->steps_taken->count = 0;
    return true;
}

static void fill_stats(const ode_solution *s, ode_stats *stats)
{
    const ode_march *m = &s->march;
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype);
    stats->steps = m->steps;
    stats->rejected = m->rejected;
    stats->stability_limited = m->guard.limited;
    stats->stability = m->guard.most;
    stats->probes = m->watch.on ? m->watch.probes : 0;
    stats->probe_evaluations = m->watch.on ? m->watch.evaluations : 0;
    stats->evaluations = m->evaluations;
    stats->jacobians = m->counts[0];
    stats->factorisations = m->counts[1];
    stats->newton_iterations = m->counts[2];
    stats->stored_bytes = 0;
    if (!s->stores) return;
    int64_t kept = s->count + 1 < s->kept_limit ? s->count + 1 : s->kept_limit;
    stats->stored_bytes = (size_t)(s->count + 1) * (slot + sizeof(ode_boundary)) +
                          (m->method->begin ? (size_t)s->count * slot : 0) +
                          (size_t)kept * s->kept.slot;
}

/* Times as doubles, checked. */
static const double *read_times(ode_solution *s, const ad_opaque_call *call)
{
    const ode_problem *p = s->problem;
    double *t = ode_buffer_need(&s->times, (size_t)p->ntimes * sizeof *t);
    if (!t) {
        snprintf(call->error, call->error_size, "out of memory");
        return NULL;
    }
    for (int i = 0; i < p->ntimes; i++)
        t[i] = p->times ? p->times[i]
                        : ode_load(call->dtype, call->in[p->system->nstate + p->system->nargs], i);
    char text[256];
    const char *error = ode_check_times(p->ntimes, t, text, sizeof text);
    if (!error) return t;
    snprintf(call->error, call->error_size, "%s", error);
    return NULL;
}

/* y0 as the first slot, checked. */
static void *read_initial(ode_solution *s, const ad_opaque_call *call)
{
    const ode_system *sys = s->problem->system;
    ode_march *m = &s->march;
    size_t slot = (size_t)(call->rows * sys->width) * ode_bytes(call->dtype);
    ode_pile_reset(&s->states, slot);
    if (s->problem->settings.method->begin) ode_pile_reset(&s->carries, slot);
    char *y = ode_pile_slot(&s->states, 0);
    ode_boundary *bounds = ode_buffer_need(&s->bounds, 2 * sizeof *bounds);
    if (!y || !bounds || !ode_pile_slot(&s->states, 1) || !ode_buffer_need(&s->scratch, slot)) {
        ode_fail(m, "out of memory");
        return NULL;
    }
    for (int i = 0; i < sys->nstate; i++) {
        int64_t n = call->rows * sys->size[i],
                bad = ode_first_nonfinite(call->dtype, n, call->in[i]);
        if (bad >= 0) {
            ode_fail(m, "y0 is %g in row %lld, component %lld%s; initial states must be finite",
                     ode_shown(ode_load(call->dtype, call->in[i], bad)),
                     (long long)(bad / sys->size[i]), (long long)(bad % sys->size[i]),
                     i ? " (of a later state)" : "");
            return NULL;
        }
        memcpy(ode_part(sys, call->rows, y, i), call->in[i], (size_t)n * ode_bytes(call->dtype));
    }
    if (!s->measures) return y;
    if (!ode_buffer_need(&s->largest, slot)) {
        ode_fail(m, "out of memory");
        return NULL;
    }
    memset(s->largest.data, 0, slot);
    ode_grow(call->dtype, call->rows * sys->width, y, s->largest.data);
    return y;
}

/* A solve over no time at all: one step of size zero, for the adjoint to differentiate. */
static int solve_identity(ode_solution *s, ode_march *m, const void *y)
{
    const double *t = s->times.data;
    ode_boundary end = { .t = t[0], .lo = s->problem->ntimes - 1, .hi = s->problem->ntimes - 1 };
    size_t slot = (size_t)m->cells * ode_bytes(m->system->dtype);
    memcpy(ode_pile_slot(&s->states, 1), y, slot);
    s->kept_limit = 0;
    put_slot(s, 1, y);
    if (m->method->begin) memcpy(m->carry[0].data, y, slot);
    return s->stores ? store_step(s, m, 0, &end) : 0;
}

static int solve(void *data, void *state, const ad_opaque_call *call)
{
    ode_problem *p = data;
    ode_solution *s = state;
    ode_march *m = &s->march;
    const ode_settings *set = &p->settings;
    const double *t = read_times(s, call);
    if (!t) return -1;
    m->system = p->system;
    m->settings = set;
    m->method = set->method;
    m->adaptive = set->adaptive;
    m->dense = p->dense;
    m->rtol = set->rtol, m->atol = set->atol;
    m->each = set->atol_each;
    m->error = call->error, m->error_size = call->error_size;
    s->call = call;
    s->stores = set->adjoint->stores && call->state_used;
    s->measures = set->adjoint->measures && call->state_used;
    s->count = 0;
    s->next_output = 1;
    if (call->rows < 1) return ode_fail(m, "the batch is empty (no rows)");
    void *y = read_initial(s, call);
    if (!y) return -1;
    const void *const *args = call->in + p->system->nstate;
    s->values = ode_shared_compute(&s->shared, p, call, args);
    if (!s->values) return -1;
    prepare_keeping(s);
    const ode_march_units *units = s->residuals ? &p->keeping : &p->units;
    if (ode_march_open(m, units, call->rows, call->threads, args, s->values)) return -1;
    *(ode_boundary *)s->bounds.data =
        (ode_boundary){ .t = t[0], .jump = ode_stops_jump(&m->stops, t[0]), .restart = true };
    if (set->stats && !begin_stats(set->stats, t[0])) return ode_fail(m, "out of memory");
    if (!p->final_only) put_slot(s, 0, y);
    double horizon = fabs(t[p->ntimes - 1] - t[0]),
           first_output = p->final_only ? horizon : fabs(t[1] - t[0]);
    if (s->stores && m->adaptive && ode_watch_open(m, units, horizon, first_output)) return -1;
    ode_sink sink = { .context = s,
                      .slot = slot_of,
                      .accepted = accepted,
                      .rewind = rewind_to,
                      .keep = s->residuals ? keep : NULL };
    int failed = t[0] == t[p->ntimes - 1] ? solve_identity(s, m, y)
                                          : ode_march_run_refined(m, p->ntimes, t, y, &sink,
                                                                  call->refine, &s->refinement);
    if (set->adjoint->stores && !s->stores) {
        ode_pile_trim(&s->states, 2);
        ode_pile_trim(&s->carries, 0);
        ode_pile_trim(&s->kept, 0);
    }
    if (set->stats) fill_stats(s, set->stats);
    if (!failed && m->blurred && m->blurred == m->steps)
        return ode_fail_blurred(m, t[0], t[p->ntimes - 1]);
    return failed;
}

int ode_solution_again(ode_solution *s, const ad_opaque_call *call)
{
    void *const nowhere[ODE_MAX_STATES] = { NULL };
    ad_opaque_call again = *call;
    again.in = call->in + 1;
    again.in_state = call->in_state + 1;
    again.out = nowhere;
    again.state_used = true;
    s->again = true;
    int failed = solve(s->problem, s, &again);
    s->again = false;
    return failed;
}

static void solve_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                      const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    ode_problem *p = data;
    (void)nout;
    (p->settings.adjoint->stores ? ode_discrete_vjp : ode_backsolve_vjp)(p, token, nin, in, out,
                                                                         ybar, need, xbar);
}

static void solve_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                      int nout, const ad_var *out, ad_var *ydot)
{
    const ode_problem *p = data;
    (void)nin, (void)in, (void)xdot, (void)nout, (void)out, (void)ydot;
    ad_fail(token.tape,
            "%s: a solve has no forward derivative (ad_jvp, ad_jacobian, ad_jacobian_trace, "
            "ad_hvp): take ad_grad or ad_vjp, for a Jacobian "
            "one ad_vjp with a unit cotangent for each component of the result; or solve for the "
            "derivative in a direction v of args as "
            "another state, s' = (dF/dy) s + (dF/dargs) v by ad_jvp inside the field "
            "(ode_solve_states): ad_grad of a loss's derivative made "
            "from it is a Hessian times v",
            p->settings.caller);
}

static const char *called(const void *data) { return ((const ode_problem *)data)->settings.caller; }

const ad_opaque_class ode_solve_class = { .name = "ode_solve",
                                          .called = called,
                                          .forward = solve,
                                          .state_new = solution_new,
                                          .state_free = solution_free,
                                          .retain = ode_problem_retain,
                                          .release = ode_problem_release,
                                          .jvp = solve_jvp,
                                          .vjp = solve_vjp,
                                          .discretises = true };
