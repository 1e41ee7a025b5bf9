/* What a^T f drifts by on the way back (conserved.h).
 *
 * It costs two evaluations of the field between two outputs, where at least a few steps are. Within
 * a few steps of an output the cotangent has parts of modes that decay fast; there a^T f is mostly
 * the state's error times their rate. Past these steps such modes have left it.
 *
 * A part of the drift counts if it is beyond the error that the tolerances allow the states: where
 * it is suspicious, a^T f is looked at beside them, too. So a solution that has come to rest, and a
 * gradient that has decayed, are not held against anything. */
#include "ode/adjoints/conserved.h"
#include "ode/march/watch.h"
#include <string.h>

/* Steps before an output in which fast modes leave its cotangent, at least, and as one part in so
 * many (where steps are at the limit of stability, they leave it slowly); the fewest steps before
 * these that are worth two evaluations. */
enum { SETTLING_STEPS = 2, SETTLING_PART = 50, FEWEST_STEPS = 4 };
/* A drift counts if it is so many times what a^T f changes by beside the states. */
static const double above_error = 4;

/* Numbers of each row: a^T f at the later end, here, and beside the states; how much it changes
 * beside them; its size; what it has drifted by, the most of that, and until when. */
enum { R_LATER, R_HERE, R_BESIDE, R_CHANGE, R_SIZE, R_DRIFT, R_MOST, R_WHEN, R_NUMBERS };
enum { CONSERVED_ARRAYS = 4 };

static int list_arrays(ode_conserved *c, const ode_system *s, int64_t nrows, ode_buffer_part *list)
{
    const size_t slot = (size_t)(nrows * s->width) * ode_bytes(s->dtype);
    list[0] = (ode_buffer_part){ &c->f, slot };
    list[1] = (ode_buffer_part){ &c->bar, slot };
    list[2] = (ode_buffer_part){ &c->moved, slot };
    list[3] = (ode_buffer_part){ &c->rows, R_NUMBERS * (size_t)nrows * sizeof(double) };
    return CONSERVED_ARRAYS;
}

/* Given steps are as the user wants them. */
static bool applies(const ode_problem *p)
{
    const ode_system *s = p->system;
    return p->settings.adaptive && p->settings.costate_drift < INFINITY && p->units.field &&
           s->trace && !s->reads_time && !s->ngiven && s->nclocks == 1;
}

void ode_conserved_account(const ode_adjoint_plan *d, ad_opaque_account *a)
{
    ode_conserved none = { 0 };
    ode_buffer_part list[CONSERVED_ARRAYS];
    if (applies(d->problem))
        ode_account_buffers(a, list_arrays(&none, d->problem->system, a->rows, list), list);
}

int ode_conserved_open(ode_conserved *c, ode_adjoint_run *run)
{
    const ode_problem *p = run->plan->problem;
    const int64_t nrows = run->call->rows;
    ode_march *m = &run->forward->march;
    c->run = NULL;
    if (run->searching || run->call->refine || !applies(p) || !run->out.n) return 0;
    ode_buffer_part list[CONSERVED_ARRAYS];
    if (!ode_buffers_need(list_arrays(c, p->system, nrows, list), list))
        return ode_call_fail(run->call, "out of memory");
    memset(c->rows.data, 0, R_NUMBERS * (size_t)nrows * sizeof(double));
    c->run = run;
    c->march = m;
    c->open = false;
    c->settled = 0;
    const void *row[ODE_MAX_ROWS] = { NULL };
    ode_row_arguments(p->system, run->c.args, row);
    ode_runner_arguments(&m->field, row, (const void *const *)run->forward->values);
    ode_march_answers_to(m, run->call);
    return 0;
}

/* Rows that depend on each other are one system, whose a^T f is that of all of them. */
static int64_t systems(const ode_conserved *c)
{
    return c->march->system->rows == AD_ROWS_COUPLED ? 1 : c->march->rows;
}

static double *numbers(const ode_conserved *c, int which)
{
    return (double *)c->rows.data + which * c->march->rows;
}

/* Of the numbers of a step, relative: of an implicit one those to which it finds its stages. */
static double rounding(const ode_march *m)
{
    double exact = 8 * (m->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON);
    bool implicit = ode_method_has(m->method, ODE_METHOD_IMPLICIT);
    return implicit ? fmax(exact, m->settings->newton.tolerance) : exact;
}

/* a^T f at state y, by system, into sum. Its size is that of its parts at the first end and the
 * last, as a is large where a solution is unstable; in between they can be large for a moment and
 * cancel, and its own counts. If it counts, it raises R_SIZE, and R_CHANGE to what rounding in the
 * largest element of a can come to, in the units of the state or of the tolerances at both ends, or
 * underflow. */
static int evaluate(const ode_conserved *c, int64_t k, const void *y, const void *bar, double *sum,
                    bool counts)
{
    ode_march *m = c->march;
    const ode_system *s = m->system;
    double *size = numbers(c, R_SIZE), *change = numbers(c, R_CHANGE);
    const double least = s->dtype == AD_F32 ? FLT_MIN : DBL_MIN;
    const double t = ode_trajectory_boundary(&c->run->forward->trajectory, k)->t;
    int failed = ode_march_field(m, t, 0, y, c->f.data, NULL, NULL);
    if (failed) return failed;
    c->run->stats->backward_evaluations++;
    const void *last = ode_trajectory_state(&c->run->forward->trajectory, c->later);
    const int64_t rows = m->rows / systems(c); /* of each system */
    for (int64_t r = 0; r < systems(c); r++) {
        int64_t first = 0;
        double total = 0, all = 0, largest[2] = { 0 }, fast[2] = { 0 };
        for (int j = 0; j < s->nstate; first += m->rows * s->size[j++])
            for (int64_t i = first + r * s->size[j], e = i + rows * s->size[j]; i < e; i++) {
                double a = ode_load(s->dtype, bar, i), f = ode_load(s->dtype, c->f.data, i);
                total += a * f;
                all += fabs(a * f);
                double unit = fmax(ode_tolerance(m, i, ode_load(s->dtype, y, i)),
                                   ode_tolerance(m, i, ode_load(s->dtype, last, i)));
                largest[0] = fmax(largest[0], fabs(a));
                largest[1] = fmax(largest[1], fabs(a) * unit);
                fast[0] += fabs(f);
                fast[1] += unit > 0 ? fabs(f) / unit : INFINITY;
            }
        sum[r] = total;
        if (!counts) continue;
        size[r] = fmax(size[r], k == 0 || size[r] == 0 ? all : fabs(total));
        double rounded = fmin(largest[0] * fast[0], largest[1] * fast[1]);
        change[r] = fmax(change[r], rounding(m) * rounded + least * fast[0]);
    }
    return 0;
}

/* The state y of boundary k moved by what the tolerances allow, in a random direction, the same in
 * every row. The first state is given: only rounding moves it. */
static void move(const ode_conserved *c, int64_t k, const void *y, int side)
{
    const ode_march *m = c->march;
    const ode_system *s = m->system;
    int64_t cell = 0;
    for (int j = 0; j < s->nstate; j++)
        for (int64_t i = 0; i < m->rows * s->size[j]; i++, cell++) {
            double value = ode_load(s->dtype, y, cell), by = rounding(m) * fabs(value);
            if (k > 0) by = fmax(by, ode_tolerance(m, cell, value));
            ode_store(s->dtype, c->moved.data, cell, value + side * state_weight(s, j, i) * by);
        }
}

/* Raises R_CHANGE to how much a^T f at boundary k, which is `at`, changes beside the state; where
 * the field is not finite there, anything is possible. */
static int look_beside(const ode_conserved *c, int64_t k, const void *bar, const double *at)
{
    const void *y = ode_trajectory_state(&c->run->forward->trajectory, k);
    const ode_status status = c->march->status;
    double *beside = numbers(c, R_BESIDE), *change = numbers(c, R_CHANGE);
    for (int side = -1; side <= 1; side += 2) {
        move(c, k, y, side);
        const int failed = evaluate(c, k, c->moved.data, bar, beside, false);
        if (failed < 0) return -1;
        for (int64_t r = 0; r < systems(c); r++) {
            double by = failed ? INFINITY : fabs(beside[r] - at[r]);
            if (!(by <= change[r])) change[r] = by;
        }
    }
    c->march->status = status;
    return 0;
}

int ode_conserved_pass(ode_conserved *c, int64_t k, const void *bar)
{
    if (!c->run || c->open || k < FEWEST_STEPS) return 0;
    ode_trajectory *tr = &c->run->forward->trajectory;
    if (++c->settled < SETTLING_STEPS + tr->count / c->run->out.n / SETTLING_PART) return 0;
    c->open = true;
    c->later = k;
    memset(numbers(c, R_CHANGE), 0, (size_t)c->march->rows * sizeof(double));
    memcpy(c->bar.data, bar, (size_t)c->march->cells * ode_bytes(c->march->system->dtype));
    return evaluate(c, k, ode_trajectory_state(tr, k), bar, numbers(c, R_LATER), true);
}

int ode_conserved_end(ode_conserved *c, int64_t k, const void *bar)
{
    if (!c->run) return 0;
    c->settled = 0;
    if (!c->open) return 0;
    c->open = false;
    ode_trajectory *tr = &c->run->forward->trajectory;
    const double share = c->run->plan->problem->settings.costate_drift / (2 * c->run->out.n);
    const double *later = numbers(c, R_LATER), *here = numbers(c, R_HERE),
                 *size = numbers(c, R_SIZE), *change = numbers(c, R_CHANGE);
    double *drift = numbers(c, R_DRIFT), *most = numbers(c, R_MOST);
    if (evaluate(c, k, ode_trajectory_state(tr, k), bar, numbers(c, R_HERE), true)) return -1;
    bool suspicious = false;
    for (int64_t r = 0; r < systems(c); r++)
        suspicious = suspicious || fabs(here[r] - later[r]) > share * size[r];
    if (suspicious &&
        (look_beside(c, c->later, c->bar.data, later) || look_beside(c, k, bar, here)))
        return -1;
    for (int64_t r = 0; r < systems(c); r++) {
        double by = here[r] - later[r];
        if (fabs(by) > share * size[r] && !(fabs(by) > above_error * change[r])) continue;
        drift[r] += by;
        if (!(fabs(drift[r]) > most[r])) continue;
        most[r] = fabs(drift[r]);
        numbers(c, R_WHEN)[r] = ode_trajectory_boundary(tr, k)->t;
    }
    return 0;
}

int ode_conserved_finish(ode_conserved *c)
{
    if (!c->run) return 0;
    const ad_opaque_call *call = c->run->call;
    const ode_settings *set = &c->run->plan->problem->settings;
    const double *most = numbers(c, R_MOST), *size = numbers(c, R_SIZE);
    int64_t row = 0;
    double worst = 0;
    for (int64_t r = 0; r < systems(c); r++) {
        if (!(most[r] > worst * size[r])) continue;
        worst = most[r] / size[r];
        row = r;
    }
    c->run->stats->costate_drift = worst;
    if (!(worst > set->costate_drift)) return 0;
    return ode_call_doubt(
        call,
        "the gradient is not that of the solution: a^T f, which does not change along a "
        "solution (a: gradient by the state, f: field), has changed by %.2g of its size "
        "on the way back to t = %.15g in row %lld%s. The steps are small enough for the state, "
        "not for its derivatives, which are wrong by about as much: tighten the tolerances "
        "(rtol is %.3g), or give max_step. options.costate_drift (%.3g) is the limit; with a "
        "larger one ad_check_gradient compares this gradient with that of halved steps",
        worst, numbers(c, R_WHEN)[row], (long long)row,
        c->march->system->rows == AD_ROWS_COUPLED ? " and all others, which depend on each other"
                                                  : "",
        set->rtol, set->costate_drift);
}

void ode_conserved_close(ode_conserved *c)
{
    ode_buffer *all[] = { &c->f, &c->bar, &c->moved, &c->rows };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}
