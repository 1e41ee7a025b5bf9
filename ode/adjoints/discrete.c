/* The discrete adjoint: the exact gradient of the discretisation with the accepted steps frozen, as
 * the VJP of each step's program, from the last step to the first. Times that the user gave stay
 * variables: the first and last boundary of an adaptive solve, all boundaries of a fixed one (they
 * are affine in the output times), and the times of interpolated outputs. */
#include "ode/adjoints/conserved.h"
#include "ode/adjoints/turning.h"
#include "ode/adjoints/undo.h"
#include "ode/trajectory/interpolant.h"
#include "ode/trajectory/weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* VJPs of a step, by [dense][kept] (dense: with interpolated outputs in it; kept: given the
 * residuals), and of the bootstrap. */
typedef struct {
    const ode_unit *step[2][2], *begin;
    const ode_residuals *residuals; /* NULL: none are kept */
    bool undoes;                    /* states come from steps taken back, by these units */
    ode_march_units back;
} discrete_plan;

/* Places of numbers in the call's type, each in a slot of 8 bytes: by each clock the size of the
 * step, and the times of each evaluation; and the cotangents. */
enum { N_H, N_TIMES = ODE_MAX_CLOCKS, N_BAR = (1 + ODE_MAX_STAGES) * ODE_MAX_CLOCKS };

/* The memory of a run. */
typedef struct {
    ode_runner step[2][2], begin; /* as in the plan */
    ode_buffer bar[2], carry[2], k_bar, k, g, rows;
    /* of the run in progress */
    ode_adjoint_run *run;
    const discrete_plan *plan;
    const ode_problem *problem;
    const ode_system *system;
    ode_trajectory *trajectory;
    ode_undo undo; /* of a plan that undoes steps */
    ode_conserved conserved;
    ode_turning turning;
    bool interpolates; /* outputs lie inside steps */
    bool lands;        /* the last output is at the end of the last step */
    int64_t nrows, cells;
    size_t slot;
    double largest; /* in a search: cotangent of the state at the end of the step */
    int output;     /* the next output time to be passed, going back */
    double number[2 * N_BAR];
} backward;

static void close_memory(void *memory)
{
    backward *b = memory;
    for (int i = 0; i < 4; i++) ode_runner_close(&b->step[i / 2][i % 2]);
    ode_runner_close(&b->begin);
    ode_undo_close(&b->undo);
    ode_conserved_close(&b->conserved);
    ode_turning_close(&b->turning);
    ode_buffer *all[] = { &b->bar[0], &b->bar[1], &b->carry[0], &b->carry[1],
                          &b->k_bar,  &b->k,      &b->g,        &b->rows };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}

/* ---- running a VJP program ---- */

/* Connects what stays the same over the whole solve, when the runner is first used in it. */
static int connect(backward *b, ode_runner *r, const ode_unit *unit)
{
    const ode_system *s = b->system;
    if (r->connected) return 0;
    if (ode_runner_open(r, unit, b->run->call->threads, b->run->call->error,
                        b->run->call->error_size))
        return -1;
    r->connected = true;
    r->refine = b->run->call->refine;
    ode_runner_answers_to(r, b->run->call);
    r->defer = !b->run->searching; /* a search looks at the sums after each step */
    const void *row[ODE_MAX_ARGS];
    ode_row_arguments(s, b->run->c.args, row);
    ode_runner_arguments(r, row, (const void *const *)b->run->forward->values);
    ode_place times = ode_unit_place(unit, ODE_VALUE, ODE_PORT_TIMES),
              times_bar = ode_unit_place(unit, ODE_BAR, ODE_PORT_TIMES),
              shared_bar = ode_unit_place(unit, ODE_BAR, ODE_PORT_SHARED);
    for (int i = 0; i < s->nclocks; i++) {
        ode_runner_in(r, ODE_VALUE, ODE_PORT_H)[i] = &b->number[N_H + i];
        if (times_bar.count)
            ode_runner_out(r, ODE_BAR, ODE_PORT_H)[i] = &b->number[N_BAR + N_H + i];
    }
    for (int i = 0; i < times.count; i++) r->in[times.first + i] = &b->number[N_TIMES + i];
    for (int i = 0; i < times_bar.count; i++)
        r->out[times_bar.first + i] = &b->number[N_BAR + N_TIMES + i];
    ode_runner_write(r, ODE_BAR, ODE_PORT_ROW, b->nrows, b->rows.data);
    for (int i = 0, o = shared_bar.first; i < s->nshared; i++) {
        if (!b->run->shared_bar[i]) continue;
        r->accumulate[o] = r->accumulates = true;
        r->out[o++] = b->run->shared_bar[i];
    }
    return 0;
}

/* Adds a movement of a step's end, by a clock, to the times' cotangents. */
static void move_boundary(const backward *b, int clock, const ode_boundary *at, double bar)
{
    double *times = b->run->times_bar + clock * b->problem->ntimes;
    if (at->lo >= 0) times[at->lo] += (1 - at->weight) * bar;
    if (at->hi >= 0) times[at->hi] += at->weight * bar;
}

/* The path's numbers of the step from a to e: those that were kept, or found again. */
static int give_numbers(backward *b, ode_runner *r, int64_t k, const ode_boundary *a,
                        const ode_boundary *e)
{
    char error[ODE_ERROR_SIZE];
    ode_path *path = b->run->forward->march.path;
    if (!ode_unit_place(r->unit, ODE_VALUE, ODE_PORT_NOISE).count) return 0;
    if (r->unit->key.residuals) {
        ode_path_point(path, r, ode_trajectory_numbers(b->trajectory, k));
        return 0;
    }
    if (ode_path_step(path, r, a->t, e->t, NULL, error, sizeof error))
        return ode_call_fail(b->run->call, error);
    return 0;
}

/* Runs it for the step from a to e: stage times t_a + c_i h. Per-row arguments' cotangents and the
 * movement of the times are added up. */
static int run_vjp(backward *b, ode_runner *r, const double *c, const ode_boundary *a,
                   const ode_boundary *e)
{
    const ode_system *s = b->system;
    ad_dtype dtype = s->dtype;
    int clocks = s->nclocks, n = ode_unit_place(r->unit, ODE_VALUE, ODE_PORT_TIMES).count / clocks;
    ode_place row_bar = ode_unit_place(r->unit, ODE_BAR, ODE_PORT_ROW);
    double size[ODE_MAX_CLOCKS], at[ODE_MAX_STAGES * ODE_MAX_CLOCKS];
    ode_step_times(s, b->run->forward->march.clock, n, c, a, e, size, at);
    for (int i = 0; i < clocks; i++) ode_store(dtype, &b->number[N_H + i], 0, size[i]);
    for (int i = 0; i < n * clocks; i++) ode_store(dtype, &b->number[N_TIMES + i], 0, at[i]);
    char error[ODE_ERROR_SIZE];
    if (ode_runner_run(r, b->nrows, error, sizeof error)) return ode_call_fail(b->run->call, error);
    b->run->stats->vjps += n;
    if (!r->unit->key.residuals) b->run->stats->backward_evaluations += n;
    for (int i = 0, o = row_bar.first; i < s->nrow; i++) {
        if (!(b->run->plan->need >> s->row[i] & 1)) continue;
        void *bar = b->run->c.argbar[s->row[i]];
        if (bar) ode_add(dtype, ad_count(s->arg[s->row[i]], b->nrows), r->out[o], bar);
        o++;
    }
    if (!(r->unit->key.flags & ODE_TIMES)) return 0;
    for (int k = 0; k < clocks; k++) {
        double to = ode_load(dtype, &b->number[N_BAR + N_H + k], 0), from = -to;
        for (int i = 0; i < n; i++) {
            double bar = ode_load(dtype, &b->number[N_BAR + N_TIMES + i * clocks + k], 0);
            double part = ode_stage_part(c[i], e);
            from += (1 - part) * bar;
            to += part * bar;
        }
        move_boundary(b, k, a, from);
        move_boundary(b, k, e, to);
    }
    return 0;
}

/* ---- outputs ---- */

static void weights_of(const backward *b, int j, const ode_boundary *a, const ode_boundary *e,
                       ode_weights *w)
{
    const ode_adjoint_outputs *out = &b->run->out;
    ode_weights_at(w, b->problem->settings.method, b->system, b->nrows, a, e,
                   b->run->forward->march.clock, out->t + j, out->all);
}

/* Cotangents of output j, inside the step from a to e, on its stages and on the state at a; g
 * collects the latter. */
static void spread_output(backward *b, int j, const ode_boundary *a, const ode_boundary *e)
{
    ad_dtype dtype = b->system->dtype;
    ode_weights w;
    char *one = (char *)b->g.data + b->slot;
    memset(one, 0, b->slot);
    ode_adjoint_add_output(b->run, j, one);
    weights_of(b, j, a, e, &w);
    ode_weights_spread(&w, dtype, one, b->k_bar.data, b->slot);
    ode_add(dtype, b->cells, one, b->g.data);
}

/* The movement of the times by an interpolated output. */
static void move_output(backward *b, int j, const ode_boundary *a, const ode_boundary *e)
{
    ode_weights w;
    ode_movement by[ODE_MAX_CLOCKS];
    char *one = (char *)b->g.data + b->slot;
    memset(one, 0, b->slot);
    ode_adjoint_add_output(b->run, j, one);
    weights_of(b, j, a, e, &w);
    ode_weights_move(&w, b->system, one, b->k.data, b->slot, by);
    for (int k = 0; k < b->system->nclocks; k++) {
        b->run->out.bar[k * b->run->out.all + j] += by[k].t;
        move_boundary(b, k, e, by[k].e);
        move_boundary(b, k, a, by[k].a);
    }
}

/* ---- one step back ---- */

/* Whether the next output, going back, is at the end of the step or inside it. The first time of a
 * solve is no output of a step; where a solve is asked for its state there, it is one of the first
 * step. */
static bool has_output(const backward *b, int64_t k, const ode_boundary *a, const ode_boundary *e)
{
    const ode_trajectory *tr = b->trajectory;
    bool asked = b->run->plan->asked.n;
    if ((!asked && b->problem->final_only) || b->output < !asked) return false;
    if (asked && k == 0) return true;
    double t = b->run->out.t[b->output];
    if (!b->interpolates) return t == e->t;
    bool rises = ode_trajectory_boundary(tr, tr->count)->t > ode_trajectory_boundary(tr, 0)->t;
    return rises ? t > a->t : t < a->t;
}

/* The cotangents of those outputs: returns how many of them are inside the step, from b->output + 1
 * on. */
static int gather_outputs(backward *b, int64_t k, const ode_boundary *a, const ode_boundary *e)
{
    const ode_problem *p = b->problem;
    int inside = 0;
    if (b->lands && k == b->trajectory->count - 1)
        ode_adjoint_add_output(b->run, b->run->out.n - 1, b->bar[0].data);
    for (; has_output(b, k, a, e); b->output--) {
        int j = b->output;
        if (!b->interpolates) {
            ode_adjoint_add_output(b->run, j, b->bar[0].data);
            continue;
        }
        if (!inside++) {
            memset(b->k_bar.data, 0, (size_t)p->settings.method->dense_stages * b->slot);
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
    ode_trajectory *tr = b->trajectory;
    const ode_residuals *residuals = b->plan->residuals;
    const ode_boundary *e = ode_trajectory_boundary(tr, k + 1);
    bool kept =
        residuals && b->plan->step[dense][1] && k + dense < tr->kept_limit && !(dense && e->jump);
    ode_runner *r = &b->step[dense][kept];
    if (connect(b, r, b->plan->step[dense][kept])) return NULL;
    int evaluations = ode_unit_place(r->unit, ODE_VALUE, ODE_PORT_TIMES).count / b->system->nclocks;
    const void **in = ode_runner_in(r, ODE_VALUE, ODE_PORT_KEPT);
    for (int i = 0; kept && i < evaluations; i++)
        ode_residuals_read(b->system, residuals, b->nrows, ode_trajectory_kept(tr, k, i),
                           ode_at_boundary(tr->method, i) ? ode_trajectory_state(tr, k + (i > 0))
                                                          : NULL,
                           in + i * residuals->n);
    return r;
}

static double largest_cotangent(const backward *b)
{
    const ode_system *s = b->system;
    double most = 0;
    for (int64_t i = 0; i < b->cells; i++)
        most = fmax(most, fabs(ode_load(s->dtype, b->bar[0].data, i)));
    return most;
}

static int step_back(backward *b, int64_t k)
{
    const ode_problem *p = b->problem;
    const ode_system *s = p->system;
    const ode_method *m = p->settings.method;
    const ode_boundary *a = ode_trajectory_boundary(b->trajectory, k);
    ode_boundary end = *ode_trajectory_boundary(b->trajectory, k + 1), *e = &end;
    int64_t cells = b->cells;
    if (b->run->plan->asked.n) end = ode_interpolant_end(s->dtype, a, e);
    if (has_output(b, k, a, e) && ode_conserved_end(&b->conserved, k + 1, b->bar[0].data))
        return -1;
    int inside = gather_outputs(b, k, a, e);
    if (b->run->searching) b->largest = largest_cotangent(b);
    ode_runner *r = choose(b, k, inside);
    if (!r) return -1;
    if (b->plan->undoes && ode_undo_step(&b->undo, b->run)) return -1;
    const void *y = b->plan->undoes ? b->undo.y : ode_trajectory_state(b->trajectory, k);
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, b->nrows, y);
    ode_runner_read(r, ODE_BAR, ODE_PORT_NEXT, b->nrows, b->bar[0].data);
    ode_runner_write(r, ODE_BAR, ODE_PORT_STATE, b->nrows, b->bar[1].data);
    if (m->ncarry)
        ode_runner_read(r, ODE_VALUE, ODE_PORT_CARRY, b->nrows,
                        b->plan->undoes ? b->undo.march.carry[0].data
                                        : ode_trajectory_carried(b->trajectory, k));
    ode_runner_read(r, ODE_BAR, ODE_PORT_CARRY_NEXT, b->nrows, b->carry[0].data);
    ode_runner_write(r, ODE_BAR, ODE_PORT_CARRY, b->nrows, b->carry[1].data);
    ode_runner_read(r, ODE_BAR, ODE_PORT_STAGES, b->nrows, b->k_bar.data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_STAGES, b->nrows, b->k.data);
    if (give_numbers(b, r, k, a, e) || run_vjp(b, r, m->c, a, e)) return -1;
    ode_buffer_swap(b->bar);
    if (inside) ode_add(s->dtype, cells, b->g.data, b->bar[0].data);
    ode_turning_pass(&b->turning, b->nrows, a->t, e->t, b->bar[1].data, inside ? b->g.data : NULL,
                     b->bar[0].data);
    for (int j = b->output + 1; b->run->plan->need_times && j <= b->output + inside; j++)
        move_output(b, j, a, e);
    if (!inside && ode_conserved_pass(&b->conserved, k, b->bar[0].data)) return -1;
    if (!m->ncarry) return 0;
    ode_buffer_swap(b->carry);
    if (!a->restart) return 0;
    if (connect(b, &b->begin, b->plan->begin)) return -1;
    ode_runner_read(&b->begin, ODE_VALUE, ODE_PORT_STATE, b->nrows, y);
    ode_runner_read(&b->begin, ODE_BAR, ODE_PORT_CARRY_NEXT, b->nrows, b->carry[0].data);
    ode_runner_write(&b->begin, ODE_BAR, ODE_PORT_STATE, b->nrows, b->bar[1].data);
    if (run_vjp(b, &b->begin, m->begin_c, a, e)) return -1;
    ode_add(s->dtype, cells, b->bar[1].data, b->bar[0].data);
    memset(b->carry[0].data, 0, b->trajectory->policy.carried);
    return 0;
}

/* ---- the operation ---- */

enum { BACKWARD_ARRAYS = 8 };

/* What a backward pass holds of so many rows; dense: it goes through interpolated outputs. */
static int list_arrays(backward *b, const ode_adjoint_plan *d, int64_t nrows, bool dense,
                       ode_buffer_part *list)
{
    const discrete_plan *own = d->own;
    const ode_system *s = d->problem->system;
    const size_t slot = (size_t)(nrows * s->width) * ode_bytes(s->dtype),
                 carried = ode_port_bytes(own->step[0][0], ODE_VALUE, ODE_PORT_CARRY, nrows),
                 rows = ode_port_bytes(own->step[0][0], ODE_BAR, ODE_PORT_ROW, nrows),
                 stages = (size_t)d->problem->settings.method->dense_stages * slot;
    int n = 0;
    for (int i = 0; i < 2; i++) {
        list[n++] = (ode_buffer_part){ &b->bar[i], slot };
        if (carried) list[n++] = (ode_buffer_part){ &b->carry[i], carried };
    }
    list[n++] = (ode_buffer_part){ &b->rows, rows };
    if (!dense) return n;
    list[n++] = (ode_buffer_part){ &b->g, 2 * slot };
    list[n++] = (ode_buffer_part){ &b->k_bar, stages };
    if (d->need_times) list[n++] = (ode_buffer_part){ &b->k, stages };
    return n;
}

static bool need_memory(backward *b)
{
    const size_t carried = b->trajectory->policy.carried;
    ode_buffer_part list[BACKWARD_ARRAYS];
    const int n = list_arrays(b, b->run->plan, b->nrows, b->interpolates, list);
    if (!ode_buffers_need(n, list)) return false;
    if (carried) memset(b->carry[0].data, 0, carried);
    for (int i = 0; i < 4; i++) b->step[i / 2][i % 2].connected = false;
    b->begin.connected = false;
    return true;
}

/* Which programs run is known before where the steps are given: if all steps find room for
 * residuals, or none does, those for the others never run. */
static void account(const ode_adjoint_plan *d, ad_opaque_account *a)
{
    const discrete_plan *own = d->own;
    const ode_problem *p = d->problem;
    bool some = false, all = false;
    if (own->residuals) ode_forward_keeps(p, a->rows, &some, &all);
    for (int dense = 0; dense < 2; dense++) {
        if (some) ode_runner_account(own->step[dense][1], a);
        if (!all || !own->step[dense][1]) ode_runner_account(own->step[dense][0], a);
    }
    ode_runner_account(own->begin, a);
    backward none = { 0 };
    ode_buffer_part list[BACKWARD_ARRAYS];
    ode_account_buffers(a, list_arrays(&none, d, a->rows, p->dense || d->asked.n, list), list);
    if (own->undoes) ode_undo_account(d, &own->back, a);
    ode_conserved_account(d, a);
    ode_turning_account(d, a);
}

/* In a search: whether the step to k has made something that is not finite. 0, or -1 with the error
 * written. */
static int look(const backward *b, int64_t k)
{
    const ode_boundary *a = ode_trajectory_boundary(b->trajectory, k);
    const ode_boundary *e = ode_trajectory_boundary(b->trajectory, k + 1);
    char what[160];
    if (!ode_name_nonfinite(b->run, b->bar[0].data, b->run->plan->need_times, what, sizeof what))
        return 0;
    snprintf(b->run->call->error, b->run->call->error_size,
             "the gradient %s, is not finite from step %lld on (going back; t = %.15g to %.15g; by "
             "the state at its end it is %.3g at most); "
             "the field has no finite derivative there (a root or a power at 0?), or the gradient "
             "grows beyond the range of the type",
             what, (long long)k, a->t, e->t, b->largest);
    return -1;
}

static int walk_back(ode_adjoint_run *run)
{
    backward *b = run->memory;
    const ad_opaque_call *call = run->call;
    b->run = run;
    b->plan = run->plan->own;
    b->problem = run->plan->problem;
    b->system = b->problem->system;
    b->trajectory = &run->forward->trajectory;
    bool asked = run->plan->asked.n;
    b->interpolates = asked || b->problem->dense;
    b->nrows = call->rows;
    b->cells = call->rows * b->system->width;
    b->slot = (size_t)b->cells * ode_bytes(b->system->dtype);
    b->lands = !asked && !run->forward->partial;
    b->output = run->out.n - 1 - b->lands;
    if (!need_memory(b)) return ode_call_fail(call, "out of memory");
    if (b->plan->undoes && ode_undo_open(&b->undo, run, &b->plan->back)) return -1;
    if (ode_conserved_open(&b->conserved, run)) return -1;
    if (ode_turning_open(&b->turning, run)) return -1;
    memset(b->bar[0].data, 0, b->slot);
    int64_t last = b->trajectory->count - 1;
    if (asked && run->out.n && last >= 0)
        last = ode_trajectory_find(b->trajectory, run->out.t[run->out.n - 1]);
    run->stats->backward_steps = last + 1;
    for (int64_t k = last; k >= 0; k--)
        if (step_back(b, k) || (run->searching && look(b, k))) return -1;
    if (b->plan->undoes && ode_undo_finish(&b->undo, run)) return -1;
    if (ode_conserved_end(&b->conserved, 0, b->bar[0].data) || ode_conserved_finish(&b->conserved))
        return -1;
    run->doubt = ode_turning_error(&b->turning, &run->envelope, &run->apart);
    int start = asked ? b->output : 0; /* outputs at the first time, where no step was taken */
    for (int i = start; i >= 0; i--) ode_adjoint_add_output(run, i, b->bar[0].data);
    const ode_system *s = b->system;
    for (int i = 0; i < s->nstate; i++)
        if (run->c.y0bar[i])
            memcpy(run->c.y0bar[i], ode_part(s, call->rows, b->bar[0].data, i),
                   (size_t)(call->rows * s->size[i]) * ode_bytes(s->dtype));
    return 0;
}

/* From the last step to the first. */
static int go_back(ode_adjoint_run *run)
{
    backward *b = run->memory;
    int result = walk_back(run);
    for (int i = 0; i < 4; i++) ode_runner_deliver(&b->step[i / 2][i % 2]);
    ode_runner_deliver(&b->begin);
    return result;
}

/* ---- the plan ---- */

/* Has the forward solve keep what the VJPs of its steps need (the first adjoint of a solve decides
 * what that is). Implicit steps keep nothing: their evaluations are inside the root-finding. */
static void plan_keeping(ode_adjoint_plan *d, int flags, ad_tape *tape)
{
    ode_problem *p = d->problem;
    discrete_plan *own = d->own;
    const ode_settings *set = &p->settings;
    if (!ode_method_has(set->method, ODE_METHOD_KEEPS)) return;
    const ode_residuals *r = ode_system_residuals(p->system, d->need, d->need_times, tape,
                                                  set->caller),
                        *first = atomic_load(&p->residuals);
    if (!r || !r->n || (first && first != r) ||
        (size_t)set->keep_bytes < ode_residuals_bytes(p->system, r, 1, true))
        return;
    ode_unit_key key = { .kind = ODE_UNIT_STEP,
                         .derivative = ODE_VJP,
                         .method = set->method,
                         .need = d->need,
                         .flags = flags,
                         .residuals = r };
    own->step[0][1] = ode_unit_make(p->system, key, tape, set->caller);
    key.flags |= ODE_DENSE;
    if (d->need_times) key.values = ode_port_bit(ODE_PORT_STAGES);
    /* Of steps that were taken without dense output, the stages for it have left no residuals;
     * those of many methods are the stages of the step and the first one of the next. */
    const ode_method *m = set->method;
    bool same = set->adaptive && m->times_dense == m->times_estimate;
    bool kept = p->dense || (d->asked.n && same);
    if (kept) own->step[1][1] = ode_unit_make(p->system, key, tape, set->caller);
    if (!first &&
        !ode_march_compile(&p->keeping, p->system, set, set->adaptive, p->dense, 0, r, tape))
        return;
    own->residuals = r;
    atomic_store(&p->residuals, r);
}

static bool plan(ode_adjoint_plan *d, ad_tape *tape)
{
    const ode_problem *p = d->problem;
    discrete_plan *own = d->own;
    int flags = d->need_times ? ODE_TIMES : 0;
    ode_unit_key key = { .kind = ODE_UNIT_STEP,
                         .derivative = ODE_VJP,
                         .method = p->settings.method,
                         .need = d->need,
                         .flags = flags,
                         .newton = p->settings.newton };
    plan_keeping(d, flags, tape);
    ode_unit *(*make)(ode_system *, ode_unit_key, ad_tape *, const char *) =
        own->residuals ? ode_unit_plan : ode_unit_make;
    own->step[0][0] = make(p->system, key, tape, p->settings.caller);
    key.flags |= ODE_DENSE;
    if (d->need_times) key.values = ode_port_bit(ODE_PORT_STAGES);
    if (p->dense || d->asked.n) own->step[1][0] = make(p->system, key, tape, p->settings.caller);
    key = (ode_unit_key){ .kind = ODE_UNIT_BEGIN,
                          .derivative = ODE_VJP,
                          .method = p->settings.method,
                          .need = d->need,
                          .flags = flags };
    if (p->settings.method->begin)
        own->begin = ode_unit_make(p->system, key, tape, p->settings.caller);
    return !ad_tape_error(tape);
}

static bool plan_reversible(ode_adjoint_plan *d, ad_tape *tape)
{
    const ode_problem *p = d->problem;
    const ode_settings *set = &p->settings;
    discrete_plan *own = d->own;
    own->undoes = true;
    if (!ode_adjoint_takes(&ode_reversible, set->method)) {
        ad_fail(tape,
                "%s: options.adjoint is reversible, which takes steps back, and those of %s cannot "
                "be; use sde_reversible_heun, or ode_discrete",
                set->caller, set->method->name);
        return false;
    }
    return ode_march_compile(&own->back, p->system, set, false, false, 0, NULL, tape) &&
           plan(d, tape);
}

const ode_adjoint ode_reversible = {
    .name = "reversible",
    .about = "the exact gradient of the discretisation without stored states: steps are taken back "
             "(Kidger, Foster, Li, Lyons 2021)",
    .frozen = true,
    .wants = ODE_METHOD_REVERSIBLE,
    .replays = true,
    .own = sizeof(discrete_plan),
    .memory = sizeof(backward),
    .plan = plan_reversible,
    .run = go_back,
    .close = close_memory,
    .account = account
};

const ode_adjoint ode_discrete = {
    .name = "discrete",
    .about = "the exact gradient of the discretisation: VJPs of the accepted steps, which are "
             "frozen, from the last to the first",
    .states = true,
    .frozen = true,
    .asked = true,
    .replays = true,
    .own = sizeof(discrete_plan),
    .memory = sizeof(backward),
    .plan = plan,
    .run = go_back,
    .close = close_memory,
    .account = account
};
