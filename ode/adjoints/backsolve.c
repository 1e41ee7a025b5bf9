/* The continuous adjoint by solving backwards (Chen et al. 2018, arXiv:1806.07366): state x,
 * costate a = dL/dx and the arguments' quadratures together, from output time to output time; at
 * each the state is reset to the stored solution, after its drift has been measured. */
#include "ode/adjoints/adjoint.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ode_system *augmented;
    ode_march_units march;
    const ode_unit *field; /* the system's own right-hand side, for the times' cotangents */
} backsolve_plan;

/* The memory of a run. */
typedef struct {
    ode_march march, field; /* as in the plan */
    ode_shared shared;
    ode_pile states;
    ode_buffer f, g, times;
    ode_refinement refinement;
    /* of the run in progress */
    ode_adjoint_run *run;
    const backsolve_plan *plan;
    const ode_problem *problem;
    void *end; /* the latest accepted state */
} backward;

static void close_memory(void *memory)
{
    backward *b = memory;
    ode_march_close(&b->march);
    ode_march_close(&b->field);
    ode_shared_close(&b->shared);
    ode_pile_free(&b->states);
    ode_refinement_free(&b->refinement);
    ode_buffer *all[] = { &b->f, &b->g, &b->times };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}

/* ---- steps ---- */

static void *slot_of(void *context, int64_t k)
{
    return ode_pile_slot(&((backward *)context)->states, (k + 1) % 2);
}

/* Adds the increments of the quadratures of an accepted step. */
static int accepted(void *context, const ode_march *m, int64_t k, const ode_boundary *from,
                    const ode_boundary *to, const void *y, const void *next)
{
    backward *b = context;
    const ode_system *s = b->plan->augmented;
    const char *increment = m->increment.data;
    (void)y;
    for (int q = 0; q < s->nquad; q++) {
        int64_t n = ad_count(s->quad[q], b->run->call->rows);
        void *sum = q < s->nquad_row ? b->run->c.argbar[s->row[s->quad_of[q]]]
                                     : b->run->shared_bar[s->quad_of[q]];
        if (sum) ode_add(s->dtype, n, increment, sum);
        increment += (size_t)n * ode_bytes(s->dtype);
    }
    b->end = (void *)next;
    char what[160];
    if (!b->run->searching || !ode_name_nonfinite(b->run, NULL, false, what, sizeof what)) return 0;
    return ode_fail(
        &b->march,
        "the gradient %s, is not finite from step %lld on (going back; t = %.15g to %.15g); the "
        "field has no finite derivative "
        "there (a root or a power at 0?), or the gradient grows beyond the range of the type",
        what, (long long)k, to->t, from->t);
}

/* ---- pieces between output times ---- */

/* Reads the solution at output time j (its only one for final_only; time 0 is y0) into a slot of
 * the system. */
static void read_solution(const backward *b, int j, void *slot)
{
    const ode_problem *p = b->problem;
    const ode_system *s = p->system;
    int64_t rows = b->run->call->rows;
    for (int i = 0; i < s->nstate; i++) {
        void *part = ode_part(s, rows, slot, i);
        size_t bytes = (size_t)(rows * s->size[i]) * ode_bytes(s->dtype);
        memset(part, 0, bytes);
        if (j == 0) memcpy(part, b->run->c.y0[i], bytes);
        else
            ode_output_add(s, rows, b->run->c.y[i], i, b->run->out.places, b->run->out.place[j],
                           part);
    }
}

/* Sum of cotangents times f at output time j. */
static int rate_of_loss(backward *b, int j, const void *x, const void *bar, double *rate)
{
    const double *t = b->times.data;
    int last = b->problem->ntimes - 1, direction = t[last] > t[0] ? 1 : -1, side = 0;
    if (ode_stops_jump(&b->march.stops, t[j])) side = j ? -direction : direction;
    *rate = 0;
    if (ode_march_field(&b->field, t[j], side, x, b->f.data, NULL, NULL)) return -1;
    *rate = ode_dot(b->field.system->dtype, b->field.cells, b->f.data, bar);
    return 0;
}

/* The backward solve did not arrive: reverse time is unreliable for chaotic and dissipative
 * problems, and the statistics say so too. */
static int went_astray(const backward *b)
{
    if (b->run->searching) return -1;
    char *error = b->run->call->error;
    size_t used = strlen(error);
    if (used < b->run->call->error_size)
        snprintf(error + used, b->run->call->error_size - used,
                 " (while backsolve recomputed the state in reverse time, which chaotic and "
                 "dissipative problems do not allow: use "
                 "ode_discrete there)");
    b->run->stats->backward_drift = INFINITY;
    return -1;
}

/* The recomputed state in b->end against the stored one in b->g: where they have nothing to do with
 * each other, neither has the gradient with the right one, so that is an error and not a number.
 * Each element is measured by its largest magnitude over the forward solve, so that none hides
 * behind a larger one, and none is blamed for being near zero at this time. */
static int came_back(backward *b, int64_t cells, double t)
{
    const ode_problem *p = b->problem;
    const ode_settings *set = &p->settings;
    const ode_forward *forward = b->run->forward;
    ad_dtype dtype = p->system->dtype;
    double most = set->adaptive ? 0.1 : 0.5; /* given steps may be coarse on purpose */
    double worst = 1;
    int64_t where = -1;
    for (int64_t i = 0; i < cells; i++) {
        double size = ode_load(dtype, forward->trajectory.largest.data, i);
        double off = fabs(ode_load(dtype, b->end, i) - ode_load(dtype, b->g.data, i));
        if (off == 0) continue;
        off /= most * size + 10 * fmax(ode_tolerance(&forward->march, i, size),
                                       ode_tolerance(&b->march, i, size));
        if (off <= worst) continue;
        where = i;
        worst = off;
        if (!(off > 0)) break; /* not a number */
    }
    if (where < 0) return 0;
    char place[96];
    ode_where(p->system, b->run->call->rows, where, place, sizeof place);
    double stored = ode_load(dtype, b->g.data, where), found = ode_load(dtype, b->end, where);
    snprintf(b->run->call->error, b->run->call->error_size,
             "at t = %g the recomputed state is off by %.2g in %s: %.6g, where the solution is "
             "%.6g (and never larger than %.3g)",
             t, fabs(found - stored), place, ode_shown(found), ode_shown(stored),
             ode_load(dtype, forward->trajectory.largest.data, where));
    return went_astray(b);
}

/* From output time j to output time i < j. The state and costate are in b->end. */
static int piece(backward *b, int j, int i)
{
    const ode_problem *p = b->problem;
    const ode_system *s = p->system;
    int64_t rows = b->run->call->rows, cells = rows * s->width;
    size_t half = (size_t)cells * ode_bytes(s->dtype);
    const double *t = b->times.data;
    double *times_bar = b->run->times_bar, rate;
    char *z = ode_pile_slot(&b->states, 0);
    if (b->end != z) memmove(z, b->end, 2 * half);
    read_solution(b, j, z);
    memset(b->g.data, 0, half);
    ode_adjoint_add_output(b->run, j, b->g.data);
    if (b->run->c.timesbar) {
        if (rate_of_loss(b, j, z, b->g.data, &rate)) return -1;
        times_bar[j] += rate;
    }
    ode_add(s->dtype, cells, b->g.data, z + half);
    b->end = z;
    if (t[i] == t[j]) return 0;
    ode_sink sink = { .context = b, .slot = slot_of, .accepted = accepted };
    b->march.steps = b->march.rejected = 0;
    const double *back = t + 2 * p->ntimes - 1; /* back[-k] is t[k] */
    if (ode_march_run_refined(&b->march, j - i + 1, back - j, z, &sink, b->run->call->refine,
                              &b->refinement))
        return went_astray(b);
    ode_stats *stats = b->run->stats;
    stats->backward_steps += b->march.steps;
    stats->backward_rejected += b->march.rejected;
    read_solution(b, i, b->g.data);
    double drift = ode_march_distance(&b->march, cells, b->end, b->g.data);
    stats->backward_drift = fmax(stats->backward_drift, drift);
    return came_back(b, cells, t[i]);
}

/* ---- the operation ---- */

static int prepare(backward *b)
{
    const ode_problem *p = b->problem;
    const ode_system *s = p->system;
    const ad_opaque_call *call = b->run->call;
    size_t half = (size_t)(call->rows * s->width) * ode_bytes(s->dtype);
    double *t = ode_buffer_need(&b->times,
                                2 * (size_t)p->ntimes * sizeof *t); /* forwards, then backwards */
    const void *row[ODE_MAX_ARGS];
    ode_row_arguments(s, b->run->c.args, row);
    ode_pile_reset(&b->states, 2 * half);
    void **values = ode_shared_compute(&b->shared, p, call, b->run->c.args);
    if (!values) return -1;
    if (!t || !ode_pile_slot(&b->states, 1) || !ode_buffer_need(&b->g, half) ||
        !ode_buffer_need(&b->f, half))
        return ode_call_fail(b->run->call, "out of memory");
    if (ode_march_open(&b->march, &b->plan->march, call->rows, call->threads, b->run->c.args,
                       values))
        return -1;
    for (int i = 0; i < p->ntimes; i++)
        t[i] = t[2 * p->ntimes - 1 - i] =
            p->times ? p->times[i] : ode_load(call->dtype, b->run->c.times, i);
    ode_runner *f = &b->field.field;
    if (!b->run->c.timesbar) return 0;
    if (ode_runner_open(f, b->plan->field, call->threads, call->error, call->error_size)) return -1;
    b->field.rows = call->rows;
    b->field.cells = call->rows * s->width;
    ode_runner_arguments(f, row, (const void *const *)values);
    return 0;
}

static void set_march(backward *b, ode_march *m, ode_system *s)
{
    const ode_settings *set = &b->problem->settings;
    m->system = s;
    m->settings = set;
    m->method = set->method;
    m->rtol = set->adjoint_rtol;
    m->atol = set->adjoint_atol;
    m->each = set->atol_each;
    m->error = b->run->call->error;
    m->error_size = b->run->call->error_size;
}

/* From the last time to the first. */
static int go_back(ode_adjoint_run *run)
{
    backward *b = run->memory;
    const ad_opaque_call *call = run->call;
    b->run = run;
    b->plan = run->plan->own;
    b->problem = run->plan->problem;
    b->field.evaluations = 0;
    const ode_problem *p = b->problem;
    const ode_system *s = p->system;
    set_march(b, &b->march, b->plan->augmented);
    set_march(b, &b->field, p->system);
    b->march.adaptive = p->settings.adaptive;
    b->march.quadrature = b->plan->augmented->nquad > 0;
    b->march.norm = b->march.quadrature && b->march.adaptive && !p->settings.seminorm;
    if (prepare(b)) return -1;
    size_t half = (size_t)(call->rows * s->width) * ode_bytes(s->dtype);
    b->end = ode_pile_slot(&b->states, 0);
    memset(b->end, 0, 2 * half);
    for (int j = p->ntimes - 1; j > 0; j = p->final_only ? 0 : j - 1)
        if (piece(b, j, p->final_only ? 0 : j - 1)) return -1;
    char *a = (char *)b->end + half;
    double rate;
    if (run->c.timesbar) {
        read_solution(b, 0, b->g.data);
        if (rate_of_loss(b, 0, b->g.data, a, &rate)) return -1;
        run->times_bar[0] -= rate;
    }
    ode_adjoint_add_output(run, 0, a);
    for (int i = 0; i < s->nstate; i++) {
        void *part = ode_part(s, call->rows, a, i);
        if (run->c.y0bar[i])
            memcpy(run->c.y0bar[i], part, (size_t)(call->rows * s->size[i]) * ode_bytes(s->dtype));
    }
    run->stats->vjps = b->march.evaluations;
    run->stats->backward_evaluations = b->march.evaluations + b->field.evaluations;
    return 0;
}

static bool plan(ode_adjoint_plan *d, ad_tape *tape)
{
    const ode_problem *p = d->problem;
    const ode_settings *set = &p->settings;
    backsolve_plan *own = d->own;
    own->augmented = ode_system_augmented(p->system, d->need);
    if (!own->augmented) {
        ad_fail(tape, "%s: out of memory", set->caller);
        return false;
    }
    int quadrature = 0;
    if (own->augmented->nquad) quadrature = ODE_QUADRATURE;
    if (quadrature && set->adaptive && !set->seminorm) quadrature |= ODE_QUADRATURE_NORM;
    ode_march_compile(&own->march, own->augmented, set, set->adaptive, false, quadrature, NULL,
                      tape);
    ode_unit_key field = { .kind = ODE_UNIT_FIELD };
    if (d->need_times) own->field = ode_unit_make(p->system, field, tape, set->caller);
    return !ad_tape_error(tape);
}

const ode_adjoint ode_backsolve = {
    .name = "backsolve",
    .about = "the gradient of the continuous problem: state, adjoint and quadratures integrated "
             "backwards together (Chen et al. 2018)",
    .magnitudes = true,
    .own = sizeof(backsolve_plan),
    .memory = sizeof(backward),
    .plan = plan,
    .run = go_back,
    .close = close_memory
};
