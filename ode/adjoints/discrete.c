/* The discrete adjoint: the exact gradient of the discretisation with the accepted steps frozen, as
 * the VJP of each step's program, from the last step to the first. Times that the user gave stay
 * variables: the first and last boundary of an adaptive solve, all boundaries of a fixed one (they
 * are affine in the output times), and the times of interpolated outputs. */
#include "ode/adjoints/adjoint.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const ode_adjoint ode_discrete = { .name = "discrete", .stores = true };

typedef struct {
    ode_runner step[2][2], begin; /* as in ode_adjoint_data */
    ode_shared_bar shared;
    ode_buffer bar[2], carry[2], k_bar, k, g, rows, times;
    /* of the call in progress */
    ode_adjoint_data *d;
    ode_solution *solution;
    const ad_opaque_call *call;
    ode_adjoint_call c;
    void **shared_at;
    size_t slot;
    bool searching; /* the second run over a gradient that is not finite */
    double largest; /* in a search: cotangent of the state at the end of the step */
    int output;     /* the next output time to be passed, going back */
    int64_t vjps, evaluations;
    double number[2 * ODE_MAX_STAGES + 4];
} backward;

static void *backward_new(void *data)
{
    (void)data;
    return calloc(1, sizeof(backward));
}

static void backward_free(void *state)
{
    backward *b = state;
    if (!b) return;
    for (int i = 0; i < 4; i++) ode_runner_close(&b->step[i / 2][i % 2]);
    ode_runner_close(&b->begin);
    ode_shared_bar_close(&b->shared);
    ode_buffer *all[] = { &b->bar[0], &b->bar[1], &b->carry[0], &b->carry[1], &b->k_bar,
                          &b->k,      &b->g,      &b->rows,     &b->times };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
    free(b);
}

/* ---- running a VJP program ---- */

/* Connects what stays the same over the whole solve, when the runner is first used in it. */
static int connect(backward *b, ode_runner *r, const ode_unit *unit)
{
    const ode_system *s = b->d->problem->system;
    if (r->connected) return 0;
    if (ode_runner_open(r, unit, b->call->threads, b->call->error, b->call->error_size)) return -1;
    r->connected = true;
    r->refine = b->call->refine;
    const ode_places *at = &unit->at;
    for (int i = 0; i < s->nrow; i++) r->in[at->row + i] = b->c.args[s->row[i]];
    for (int i = 0; i < s->nshared; i++) r->in[at->shared + i] = b->solution->values[i];
    r->in[at->h] = &b->number[0];
    for (int i = 0; i < at->nt; i++) r->in[at->t + i] = &b->number[1 + i];
    char *rows = b->rows.data;
    for (int i = 0, o = at->row_out; i < s->nrow; i++) {
        if (!(b->d->need >> s->row[i] & 1)) continue;
        r->out[o++] = rows;
        rows += (size_t)ad_count(s->arg[s->row[i]], b->call->rows) * ode_bytes(s->dtype);
    }
    for (int i = 0, o = at->shared_out; i < s->nshared; i++) {
        if (!b->shared_at[i]) continue;
        r->accumulate[o] = true;
        r->out[o++] = b->shared_at[i];
    }
    if (unit->key.flags & ODE_TIMES) {
        for (int i = 0; i < at->nt; i++) r->out[at->t_out + i] = &b->number[2 + ODE_MAX_STAGES + i];
        r->out[at->h_out] = &b->number[1 + ODE_MAX_STAGES];
    }
    r->primed = false;
    return 0;
}

static void point(const backward *b, const void **list, int first, const void *slot)
{
    const ode_system *s = b->d->problem->system;
    for (int j = 0; j < s->nstate; j++) list[first + j] = ode_part(s, b->call->rows, slot, j);
}

static void point_out(const backward *b, void **list, int first, void *slot)
{
    const ode_system *s = b->d->problem->system;
    for (int j = 0; j < s->nstate; j++) list[first + j] = ode_part(s, b->call->rows, slot, j);
}

/* Adds a movement of a step's end to the times' cotangents. */
static void move_boundary(const backward *b, const ode_boundary *at, double bar)
{
    double *times = b->times.data;
    if (at->lo >= 0) times[at->lo] += (1 - at->weight) * bar;
    if (at->hi >= 0) times[at->hi] += at->weight * bar;
}

/* Runs it for the step from a to e: stage times t_a + c_i h. Per-row arguments' cotangents and the
 * movement of the times are added up. */
static int run_vjp(backward *b, ode_runner *r, const double *c, const ode_boundary *a,
                   const ode_boundary *e)
{
    const ode_system *s = b->d->problem->system;
    ad_dtype dtype = s->dtype;
    const ode_places *at = &r->unit->at;
    double h = e->t - a->t;
    ode_store(dtype, &b->number[0], 0, h);
    for (int i = 0; i < at->nt; i++)
        ode_store(dtype, &b->number[1 + i], 0,
                  ode_stage_time(dtype, c[i] == 1 ? e->t : a->t + c[i] * h, a, e));
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, b->call->rows, error, sizeof error)) return ode_call_fail(b->call, error);
    b->vjps += at->nt;
    if (!r->unit->key.residuals) b->evaluations += at->nt;
    for (int i = 0, o = at->row_out; i < s->nrow; i++) {
        if (!(b->d->need >> s->row[i] & 1)) continue;
        void *bar = b->c.argbar[s->row[i]];
        if (bar) ode_add(dtype, ad_count(s->arg[s->row[i]], b->call->rows), r->out[o], bar);
        o++;
    }
    if (!(r->unit->key.flags & ODE_TIMES)) return 0;
    double h_bar = ode_load(dtype, &b->number[1 + ODE_MAX_STAGES], 0), from = -h_bar, to = h_bar;
    for (int i = 0; i < at->nt; i++) {
        double bar = ode_load(dtype, &b->number[2 + ODE_MAX_STAGES + i], 0);
        from += (1 - c[i]) * bar;
        to += c[i] * bar;
    }
    move_boundary(b, a, from);
    move_boundary(b, e, to);
    return 0;
}

/* ---- outputs ---- */

/* Adds the cotangents of output time j to a slot. */
static void add_output(const backward *b, int j, void *slot)
{
    const ode_problem *p = b->d->problem;
    for (int i = 0; i < p->system->nstate; i++)
        if (b->c.ybar[i])
            ode_output_add(p, b->call->rows, b->c.ybar[i], i, j,
                           ode_part(p->system, b->call->rows, slot, i));
}

/* Cotangents of output j, inside the step from a to e, on its stages and on the state at a; g
 * collects the latter. */
static void spread_output(backward *b, int j, const ode_boundary *a, const ode_boundary *e)
{
    const ode_problem *p = b->d->problem;
    ad_dtype dtype = p->system->dtype;
    int64_t cells = b->call->rows * p->system->width;
    double w[ODE_MAX_STAGES], slope[ODE_MAX_STAGES];
    char *one = (char *)b->g.data + b->slot;
    memset(one, 0, b->slot);
    add_output(b, j, one);
    int n = ode_output_weights(p->settings.method, a, e,
                               ((const double *)b->solution->times.data)[j], w, slope);
    for (int i = 0; i < n; i++)
        if (w[i] != 0)
            ode_add_scaled(dtype, cells, w[i], one, (char *)b->k_bar.data + (size_t)i * b->slot);
    ode_add(dtype, cells, one, b->g.data);
}

/* The movement of the times by an interpolated output: y + h sum b_i(theta) k_i with theta = (t -
 * t_a) / (t_e - t_a). */
static void move_output(backward *b, int j, const ode_boundary *a, const ode_boundary *e)
{
    const ode_problem *p = b->d->problem;
    int64_t cells = b->call->rows * p->system->width;
    double w[ODE_MAX_STAGES], slope[ODE_MAX_STAGES],
        by_theta = 0, by_h = 0, h = e->t - a->t, t = ((const double *)b->solution->times.data)[j];
    char *one = (char *)b->g.data + b->slot;
    memset(one, 0, b->slot);
    add_output(b, j, one);
    int n = ode_output_weights(p->settings.method, a, e, t, w, slope);
    for (int i = 0; i < n; i++) {
        double dot = ode_dot(p->system->dtype, cells, (char *)b->k.data + (size_t)i * b->slot, one);
        by_theta += h * slope[i] * dot;
        by_h += w[i] / h * dot;
    }
    double theta = (t - a->t) / h;
    ((double *)b->times.data)[j] += by_theta / h;
    move_boundary(b, e, by_h - by_theta * theta / h);
    move_boundary(b, a, -by_h + by_theta * (theta - 1) / h);
}

/* ---- one step back ---- */

/* The cotangents of outputs at the end of the step, and inside it: returns how many of the latter
 * there are, from b->output + 1 on. */
static int gather_outputs(backward *b, int64_t k, const ode_boundary *a, const ode_boundary *e)
{
    const ode_problem *p = b->d->problem;
    const double *t = b->solution->times.data;
    int last = p->ntimes - 1, inside = 0;
    double direction = t[last] > t[0] ? 1 : -1;
    if (k == b->solution->count - 1) add_output(b, last, b->bar[0].data);
    if (p->final_only) return 0;
    for (; b->output > 0; b->output--) {
        int j = b->output;
        if (p->dense ? direction * (t[j] - a->t) <= 0 : t[j] != e->t) break;
        if (!p->dense) {
            add_output(b, j, b->bar[0].data);
            continue;
        }
        if (!inside++) {
            memset(b->k_bar.data, 0, (size_t)b->d->step[1][0]->at.nk * b->slot);
            memset(b->g.data, 0, b->slot);
        }
        spread_output(b, j, a, e);
    }
    return inside;
}

/* The program for step k: given the residuals that the forward solve kept, or evaluating the field
 * again. A jump at the end has the next step's first stage on its other side. NULL with the error
 * written. */
static ode_runner *choose(backward *b, int64_t k, bool dense)
{
    ode_solution *s = b->solution;
    const ode_residuals *residuals = b->d->residuals;
    const ode_boundary *e = (const ode_boundary *)s->bounds.data + k + 1;
    bool kept = residuals && k + dense < s->kept_limit && !(dense && e->jump);
    ode_runner *r = &b->step[dense][kept];
    if (connect(b, r, b->d->step[dense][kept])) return NULL;
    for (int i = 0; kept && i < r->unit->at.nkept; i++)
        ode_residuals_point(b->d->problem->system, residuals, b->call->rows,
                            ode_solution_kept(s, k, i), r->in + r->unit->at.kept + i * residuals->n,
                            NULL);
    return r;
}

static double largest_cotangent(const backward *b)
{
    const ode_system *s = b->d->problem->system;
    double most = 0;
    for (int64_t i = 0; i < b->call->rows * s->width; i++)
        most = fmax(most, fabs(ode_load(s->dtype, b->bar[0].data, i)));
    return most;
}

static int step_back(backward *b, int64_t k)
{
    const ode_problem *p = b->d->problem;
    const ode_system *s = p->system;
    const ode_method *m = p->settings.method;
    const ode_boundary *a = (const ode_boundary *)b->solution->bounds.data + k, *e = a + 1;
    int64_t cells = b->call->rows * s->width;
    int inside = gather_outputs(b, k, a, e);
    if (b->searching) b->largest = largest_cotangent(b);
    ode_runner *r = choose(b, k, inside);
    if (!r) return -1;
    const ode_places *at = &r->unit->at;
    const void *y = ode_pile_slot(&b->solution->states, k);
    point(b, r->in, at->y, y);
    point(b, r->in, at->ybar, b->bar[0].data);
    point_out(b, r->out, at->xbar, b->bar[1].data);
    if (m->begin) {
        point(b, r->in, at->carry, ode_pile_slot(&b->solution->carries, k));
        point(b, r->in, at->carry_bar, b->carry[0].data);
        point_out(b, r->out, at->carry_out, b->carry[1].data);
    }
    for (int i = 0; i < at->nk; i++) {
        point(b, r->in, at->k_bar + i * s->nstate, (char *)b->k_bar.data + (size_t)i * b->slot);
        if (b->d->need_times)
            point_out(b, r->out, at->k + i * s->nstate, (char *)b->k.data + (size_t)i * b->slot);
    }
    if (run_vjp(b, r, m->c, a, e)) return -1;
    ode_buffer_swap(b->bar);
    if (inside) ode_add(s->dtype, cells, b->g.data, b->bar[0].data);
    for (int j = b->output + 1; b->d->need_times && j <= b->output + inside; j++)
        move_output(b, j, a, e);
    if (!m->begin) return 0;
    ode_buffer_swap(b->carry);
    if (!a->restart) return 0;
    if (connect(b, &b->begin, b->d->begin)) return -1;
    point(b, b->begin.in, b->begin.unit->at.y, y);
    point(b, b->begin.in, b->begin.unit->at.carry_bar, b->carry[0].data);
    point_out(b, b->begin.out, b->begin.unit->at.xbar, b->bar[1].data);
    if (run_vjp(b, &b->begin, m->begin_c, a, e)) return -1;
    ode_add(s->dtype, cells, b->bar[1].data, b->bar[0].data);
    memset(b->carry[0].data, 0, b->slot);
    return 0;
}

/* ---- the operation ---- */

static bool need_memory(backward *b)
{
    const ode_problem *p = b->d->problem;
    const ode_system *s = p->system;
    size_t rows = 0, stages = b->d->step[1][0] ? (size_t)b->d->step[1][0]->at.nk : 0;
    for (int i = 0; i < s->nrow; i++)
        if (b->d->need >> s->row[i] & 1)
            rows += (size_t)ad_count(s->arg[s->row[i]], b->call->rows) * ode_bytes(s->dtype);
    for (int i = 0; i < 2; i++) {
        if (!ode_buffer_need(&b->bar[i], b->slot)) return false;
        if (p->settings.method->begin && !ode_buffer_need(&b->carry[i], b->slot)) return false;
    }
    if (p->settings.method->begin) memset(b->carry[0].data, 0, b->slot);
    if (!ode_buffer_need(&b->rows, rows) ||
        !ode_buffer_need(&b->times, (size_t)p->ntimes * sizeof(double)))
        return false;
    if (stages &&
        (!ode_buffer_need(&b->g, 2 * b->slot) || !ode_buffer_need(&b->k_bar, stages * b->slot)))
        return false;
    if (stages && b->d->need_times && !ode_buffer_need(&b->k, stages * b->slot)) return false;
    b->shared_at = ode_shared_bar_begin(&b->shared, b->d);
    for (int i = 0; i < 4; i++) b->step[i / 2][i % 2].connected = false;
    b->begin.connected = false;
    return b->shared_at;
}

/* In a search: whether the step to k has made something that is not finite. 0, or -1 with the error
 * written. */
static int look(const backward *b, int64_t k)
{
    const ode_boundary *a = (const ode_boundary *)b->solution->bounds.data + k, *e = a + 1;
    const double *times = b->d->need_times ? b->times.data : NULL;
    char what[160];
    if (!ode_name_nonfinite(b->d, b->call, &b->c, b->bar[0].data, b->shared_at, times, what,
                            sizeof what))
        return 0;
    snprintf(b->call->error, b->call->error_size,
             "the gradient %s, is not finite from step %lld on (going back; t = %.15g to %.15g; by "
             "the state at its end it is %.3g at most); "
             "the field has no finite derivative there (a root or a power at 0?), or the gradient "
             "grows beyond the range of the type",
             what, (long long)k, a->t, e->t, b->largest);
    return -1;
}

/* From the last step to the first, and on to the arguments. */
static int go_back(backward *b)
{
    const ad_opaque_call *call = b->call;
    const ode_problem *p = b->d->problem;
    const ode_system *s = p->system;
    b->slot = (size_t)(call->rows * s->width) * ode_bytes(s->dtype);
    b->output = p->ntimes - 2;
    b->vjps = b->evaluations = 0;
    if (!need_memory(b)) return ode_call_fail(b->call, "out of memory");
    memset(b->bar[0].data, 0, b->slot);
    memset(b->times.data, 0, (size_t)p->ntimes * sizeof(double));
    ode_clear_row_bars(b->d, call, &b->c);
    for (int64_t k = b->solution->count - 1; k >= 0; k--)
        if (step_back(b, k) || (b->searching && look(b, k))) return -1;
    if (!p->final_only) add_output(b, 0, b->bar[0].data);
    for (int i = 0; i < s->nstate; i++)
        if (b->c.y0bar[i])
            memcpy(b->c.y0bar[i], ode_part(s, call->rows, b->bar[0].data, i),
                   (size_t)(call->rows * s->size[i]) * ode_bytes(s->dtype));
    ode_write_times(p, s->dtype, b->times.data, b->c.timesbar);
    if (p->settings.stats) {
        p->settings.stats->backward_steps = b->solution->count;
        p->settings.stats->backward_rejected = 0;
        p->settings.stats->backward_drift = 0;
        p->settings.stats->backward_evaluations = b->evaluations;
        p->settings.stats->vjps = b->vjps;
    }
    return ode_shared_bar_finish(&b->shared, b->d, call, &b->c);
}

static int run(void *data, void *state, const ad_opaque_call *call)
{
    backward *b = state;
    b->d = data;
    b->call = call;
    b->solution = call->in_state[0];
    if (!b->solution->stores && ode_solution_again(b->solution, call)) return -1;
    b->c = ode_adjoint_parse(b->d, call);
    b->searching = false;
    if (go_back(b)) return -1;
    if (ode_results_finite(b->d, call, &b->c)) return 0;
    if (ode_blame_cotangents(b->d, call, &b->c, b->solution->times.data)) return -1;
    b->searching = true;
    return go_back(b) ? -1 : ode_blame_arguments(b->d, call, &b->c);
}

static const ad_opaque_class discrete_class = { .name = "ode_solve_adjoint",
                                                .called = ode_adjoint_called,
                                                .forward = run,
                                                .state_new = backward_new,
                                                .state_free = backward_free,
                                                .retain = ode_adjoint_retain,
                                                .release = ode_adjoint_release,
                                                .vjp = ode_adjoint_vjp,
                                                .jvp = ode_adjoint_jvp,
                                                .discretises = true };

/* Has the forward solve keep what the VJPs of its steps need (the first adjoint of a solve decides
 * what that is). Implicit steps keep nothing: their evaluations are inside the root-finding. */
static void plan_keeping(ode_problem *p, ode_adjoint_data *d, int flags, ad_tape *tape)
{
    const ode_settings *set = &p->settings;
    if (!set->method->tableau) return;
    const ode_residuals *r = ode_system_residuals(p->system, d->need, d->need_times, tape,
                                                  set->caller),
                        *first = atomic_load(&p->residuals);
    if (!r || !r->n || (first && first != r) ||
        (size_t)set->keep_bytes < ode_residuals_bytes(p->system, r, 1))
        return;
    ode_unit_key key = { .kind = ODE_UNIT_STEP_VJP,
                         .method = set->method,
                         .need = d->need,
                         .flags = flags,
                         .residuals = r };
    d->step[0][1] = ode_unit_make(p->system, key, tape, set->caller);
    key.flags |= ODE_DENSE;
    if (p->dense) d->step[1][1] = ode_unit_make(p->system, key, tape, set->caller);
    if (!first &&
        !ode_march_compile(&p->keeping, p->system, set, set->adaptive, p->dense, 0, r, tape))
        return;
    d->residuals = r;
    atomic_store(&p->residuals, r);
}

void ode_discrete_vjp(ode_problem *p, ad_var token, int nin, const ad_var *in, const ad_var *out,
                      const ad_var *ybar, const bool *need, ad_var *xbar)
{
    ad_tape *tape = token.tape;
    ode_adjoint_data *d = ode_adjoint_new(p, nin, ybar, need, tape);
    if (!d) return;
    atomic_store(&p->differentiated, true);
    int flags = d->need_times ? ODE_TIMES : 0;
    ode_unit_key key = { .kind = ODE_UNIT_STEP_VJP,
                         .method = p->settings.method,
                         .need = d->need,
                         .flags = flags,
                         .newton = p->settings.newton };
    plan_keeping(p, d, flags, tape);
    ode_unit *(*make)(ode_system *, ode_unit_key, ad_tape *, const char *) =
        d->residuals ? ode_unit_plan : ode_unit_make;
    d->step[0][0] = make(p->system, key, tape, p->settings.caller);
    key.flags |= ODE_DENSE;
    if (p->dense) d->step[1][0] = make(p->system, key, tape, p->settings.caller);
    key = (ode_unit_key){
        .kind = ODE_UNIT_BEGIN_VJP, .method = p->settings.method, .need = d->need, .flags = flags
    };
    if (p->settings.method->begin)
        d->begin = ode_unit_make(p->system, key, tape, p->settings.caller);
    if (ad_tape_error(tape)) {
        ode_adjoint_release(d);
        return;
    }
    ode_adjoint_record(d, &discrete_class, token, nin, in, out, ybar, need, xbar);
}
