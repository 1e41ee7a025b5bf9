/* Costates marched back in time: a' = -(df/dx)^T a from output to output, at each of which the loss
 * adds its derivative, with the arguments' cotangents as quadratures q' = -(df/dargs)^T a
 * (Pontryagin's adjoint). Where the state x comes from is for the adjoint to say: it is a part of
 * what is marched, or given at every evaluation. */
#include "ode/adjoints/costate.h"
#include "ode/trajectory/interpolant.h"
#include <math.h>
#include <string.h>

/* Of the march back. Of a stochastic solve it is by Heun's method on the driven field, whose
 * augmented system is the adjoint equation in the sense of Stratonovich (Li et al. 2020,
 * arXiv:2001.01328), along the steps of the solve and on its path. Heun's stages are at both ends
 * of a step, where the solution is stored. */
static ode_settings settings_back(const ode_problem *p)
{
    ode_settings set = p->settings;
    if (!ode_method_stochastic(set.method)) return set;
    set.method = &sde_heun;
    set.adaptive = false;
    set.replay = NULL;
    set.step = 0;
    set.steps = 1;
    return set;
}

bool ode_costate_plan_make(ode_costate_plan *plan, const ode_adjoint_plan *d, ode_system *system,
                           ad_tape *tape)
{
    const ode_problem *p = d->problem;
    const ode_settings back = settings_back(p), *set = &back;
    if (!system) {
        ad_fail(tape, "%s: out of memory", set->caller);
        return false;
    }
    if (d->need_times && ode_method_stochastic(set->method)) {
        ad_fail(tape,
                "%s: the %s adjoint gives no gradient by the times of a stochastic equation, as "
                "its path is not smooth in time; use ode_discrete, whose steps keep their "
                "standardised numbers",
                set->caller, set->adjoint->name);
        return false;
    }
    plan->system = system;
    int quadrature = system->nquad ? ODE_QUADRATURE : 0;
    if (quadrature && set->adaptive && !set->seminorm) quadrature |= ODE_QUADRATURE_NORM;
    ode_march_compile(&plan->march, system, set, set->adaptive, false, quadrature, NULL, tape);
    ode_unit_key field = { .kind = ODE_UNIT_FIELD };
    if (d->need_times) plan->field = ode_unit_make(p->system, field, tape, set->caller);
    return !ad_tape_error(tape);
}

void ode_costate_close(ode_costate *b)
{
    ode_march_close(&b->march);
    ode_march_close(&b->field);
    ode_pile_free(&b->states);
    ode_refinement_free(&b->refinement);
    ode_buffer *all[] = { &b->f, &b->x, &b->g };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}

/* ---- opening ---- */

static void set_march(ode_costate *b, ode_march *m, ode_system *s)
{
    const ode_settings *set = &b->settings;
    m->system = s;
    m->settings = set;
    m->method = set->method;
    m->rtol = set->adjoint_rtol;
    m->atol = set->adjoint_atol;
    m->each = set->atol_each;
    ode_march_answers_to(m, b->run->call);
}

static int open_field(ode_costate *b)
{
    const ode_system *s = b->problem->system;
    const ad_opaque_call *call = b->run->call;
    const void *row[ODE_MAX_ARGS];
    ode_runner *f = &b->field.field;
    set_march(b, &b->field, b->problem->system);
    b->field.evaluations = 0;
    if (!b->plan->field) return 0;
    if (ode_runner_open(f, b->plan->field, call->threads, call->error, call->error_size)) return -1;
    b->field.rows = call->rows;
    b->field.cells = call->rows * s->width;
    ode_row_arguments(s, b->run->c.args, row);
    ode_runner_arguments(f, row, (const void *const *)b->run->forward->values);
    return 0;
}

int ode_costate_open(ode_costate *b, ode_adjoint_run *run, const ode_costate_plan *plan)
{
    const ode_problem *p = run->plan->problem;
    const ad_opaque_call *call = run->call;
    ode_system *s = plan->system;
    const double *t = run->forward->times.data;
    b->run = run;
    b->plan = plan;
    b->problem = p;
    b->settings = settings_back(p);
    b->first = t[0];
    b->direction = t[p->ntimes - 1] > t[0] ? 1 : -1;
    size_t bytes = (size_t)call->rows * ode_bytes(s->dtype);
    b->whole = bytes * (size_t)s->width;
    b->slot = bytes * (size_t)p->system->width;
    set_march(b, &b->march, s);
    b->march.adaptive = b->settings.adaptive;
    b->march.path = &run->forward->path;
    b->march.quadrature = s->nquad > 0;
    b->march.norm = b->march.quadrature && b->march.adaptive && !b->settings.seminorm;
    ode_pile_reset(&b->states, b->whole);
    bool memory = ode_pile_slot(&b->states, 1) && ode_buffer_need(&b->f, b->slot) &&
                  ode_buffer_need(&b->x, b->slot) && ode_buffer_need(&b->g, b->slot);
    if (!memory) return ode_call_fail(call, "out of memory");
    if (ode_march_open(&b->march, &plan->march, call->rows, call->threads, run->c.args,
                       run->forward->values) ||
        open_field(b))
        return -1;
    b->end = ode_pile_slot(&b->states, 0);
    memset(b->end, 0, b->whole);
    return 0;
}

void ode_costate_account(const ode_costate_plan *plan, const ode_adjoint_plan *d,
                         ad_opaque_account *a)
{
    const ode_problem *p = d->problem;
    const ode_settings set = settings_back(p);
    const ode_system *s = plan->system;
    const size_t bytes = (size_t)a->rows * ode_bytes(s->dtype);
    ode_march m = { .system = plan->system,
                    .settings = &set,
                    .method = set.method,
                    .each = set.atol_each,
                    .adaptive = set.adaptive,
                    .quadrature = s->nquad > 0 };
    m.norm = m.quadrature && set.adaptive && !set.seminorm;
    ode_march_account(&m, &plan->march, a);
    ode_runner_account(plan->field, a);
    ode_account(a, ode_pile_bytes(bytes * (size_t)s->width, 2), 1);
    ode_account(a, 3, ode_buffer_bytes(bytes * (size_t)p->system->width));
}

/* ---- steps ---- */

int ode_costate_times(const ode_costate *b, double from, double to, ode_buffer *times)
{
    const ode_trajectory *tr = &b->run->forward->trajectory;
    bool given = !b->march.adaptive;
    int64_t last = given ? ode_trajectory_find(tr, from) : 0,
            first = given ? ode_trajectory_find(tr, to) : 0;
    double *t = ode_buffer_need(times, (2 + (size_t)(last - first + 2)) * sizeof *t);
    if (!t) return 0;
    int n = 0;
    t[n++] = from;
    for (int64_t k = last; k > first; k--) {
        double boundary = ode_trajectory_boundary(tr, k)->t;
        if (boundary != from && boundary != to) t[n++] = boundary;
    }
    t[n++] = to;
    return n;
}

static void *slot_of(void *context, int64_t k)
{
    return ode_pile_slot(&((ode_costate *)context)->states, (k + 1) % 2);
}

/* Adds the increments of the quadratures of an accepted step. */
static int accepted(void *context, const ode_march *m, int64_t k, const ode_boundary *from,
                    const ode_boundary *to, const void *y, const void *next)
{
    ode_costate *b = context;
    const ode_system *s = b->plan->system;
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
        &b->march, ODE_NOT_FINITE,
        "the gradient %s, is not finite from step %lld on (going back; t = %.15g to %.15g); the "
        "field has no finite derivative "
        "there (a root or a power at 0?), or the gradient grows beyond the range of the type",
        what, (long long)k, to->t, from->t);
}

int ode_costate_march(ode_costate *b, int n, const double *times, int refine)
{
    void *y = ode_pile_slot(&b->states, 0);
    if (b->end != y) memmove(y, b->end, b->whole);
    b->end = y;
    if (times[0] == times[n - 1]) return 0;
    ode_sink sink = { .context = b, .slot = slot_of, .accepted = accepted };
    b->march.steps = b->march.rejected = 0;
    int failed = ode_march_run_refined(&b->march, n, times, y, &sink, refine, &b->refinement);
    b->run->stats->backward_steps += b->march.steps;
    b->run->stats->backward_rejected += b->march.rejected;
    return failed;
}

/* ---- outputs ---- */

void ode_costate_solution(const ode_costate *b, int i, void *slot)
{
    const ode_system *s = b->problem->system;
    const ode_adjoint_outputs *out = &b->run->out;
    int64_t rows = b->run->call->rows;
    bool start = i < 0 || out->place[i] < 0 || (i == 0 && !b->run->plan->asked.n);
    for (int k = 0; k < s->nstate; k++) {
        void *part = ode_part(s, rows, slot, k);
        size_t bytes = (size_t)(rows * s->size[k]) * ode_bytes(s->dtype);
        memset(part, 0, bytes);
        if (start) memcpy(part, b->run->c.y0[k], bytes);
        else ode_output_add(s, rows, b->run->c.y[k], k, out->places, out->place[i], part);
    }
}

/* Cotangents times f at t, where the solution is x. */
static int rate_of_loss(ode_costate *b, double t, const void *x, const void *bar, double *rate)
{
    int side = 0;
    if (ode_stops_jump(&b->march.stops, t)) side = t == b->first ? b->direction : -b->direction;
    *rate = 0;
    if (ode_march_field(&b->field, t, side, x, b->f.data, NULL, NULL)) return -1;
    *rate = ode_dot(b->field.system->dtype, b->field.cells, b->f.data, bar);
    return 0;
}

int ode_costate_output(ode_costate *b, int i)
{
    const ode_system *s = b->problem->system;
    double rate, t = b->run->out.t[i];
    ode_costate_solution(b, i, b->x.data);
    memset(b->g.data, 0, b->slot);
    ode_adjoint_add_output(b->run, i, b->g.data);
    if (b->run->plan->need_times) {
        if (rate_of_loss(b, t, b->x.data, b->g.data, &rate)) return -1;
        b->run->out.bar[i] += rate;
    }
    ode_add(s->dtype, b->run->call->rows * s->width, b->g.data, b->end);
    return 0;
}

int ode_costate_finish(ode_costate *b)
{
    ode_adjoint_run *run = b->run;
    const ode_system *s = b->problem->system;
    int64_t rows = run->call->rows;
    char *a = b->end;
    double rate;
    if (run->c.timesbar[0]) {
        ode_costate_solution(b, -1, b->x.data);
        if (rate_of_loss(b, b->first, b->x.data, a, &rate)) return -1;
        run->times_bar[0] -= rate;
    }
    /* The first time of a solve that is no asking: its solution is y0 itself. */
    if (!run->plan->asked.n) ode_adjoint_add_output(run, 0, a);
    for (int i = 0; i < s->nstate; i++)
        if (run->c.y0bar[i])
            memcpy(run->c.y0bar[i], ode_part(s, rows, a, i),
                   (size_t)(rows * s->size[i]) * ode_bytes(s->dtype));
    run->stats->vjps = b->march.evaluations;
    run->stats->backward_evaluations = b->march.evaluations + b->field.evaluations;
    return 0;
}
