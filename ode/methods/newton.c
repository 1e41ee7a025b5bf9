/* Newton's method for the stages of implicit steps: k = f(t, z), z = base + g k, for each row.
 *
 * The unknown is the slope k, not the state z: a slope that is found directly has its own digits
 * also where g k is small beside base, and base + g k is as accurate as a state can be.
 *
 * Simplified Newton (Hairer & Wanner, Solving ODEs II, IV.8). One matrix I - g J serves many
 * iterations, the stages of a step, and the steps after it:
 *
 *     (I - g J) dk = f(t, base + g k) - k,    k += dk,    dz = g dk.
 *
 * The rate theta = |dz_i| / |dz_{i-1}| says how good the matrix is, and what error is left:
 * eta |dz| with eta = theta / (1 - theta). The iteration ends when that is within what is allowed.
 * Before there is a rate, eta is 1: the rate of an earlier solve says nothing of a Jacobian that
 * may have changed since.
 *
 * What is allowed. Two kinds of steps ask for different things:
 *
 * - Where the error chooses the steps (`controlled`), the iteration's error is to be small against
 *   the step's: each element of z has a weight, a part (ODE_NEWTON_PART) of its tolerance. If the
 *   rate predicts that this will not be reached within the allowed number of iterations, the
 *   iteration stops at once: it begins again with a Jacobian of this stage if it had an older one,
 *   and otherwise gives the row up. Its slope is NaN, the step is not finite, and the march tries a
 *   smaller one.
 * - Given steps, and the steps that a gradient is taken of, are functions of their data that shall
 *   be as smooth as rounding allows: differences of them must not see where the iteration stopped.
 *   Each element of z is found to a relative error of limits.tolerance, near rounding. There is no
 *   smaller step to try, so a slow iteration takes a new Jacobian at each step of its own, as
 *   Newton's method proper does, and only the number of iterations ends it.
 *
 * Rows are independent. The field is evaluated for all rows at once, but each row has its own
 * matrix, its own rate and its own end, so that its bits do not depend on the others. A row that is
 * done is not touched again.
 *
 * Rounding. The field's own rounding bounds what an iteration can reach. A few units of the row's
 * largest element are added to what is allowed, and an iteration that stops getting better at that
 * level has converged. */
#include "ode/methods/newton.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* Rates: beyond the first the next step begins with a new Jacobian, beyond the second given steps
 * take one at once, beyond the third an iteration does not get better any more. */
static const double keep_rate = 0.003, renew_rate = 0.1, flat_rate = 0.5, diverging_rate = 0.99;
/* A matrix serves while g is within this part of its own. */
static const double g_change = 0.1;
/* What is allowed in units of the rounding of the row's largest element, and where an iteration
 * that is flat has reached the rounding. */
static const double rounding_part = 4;
/* Most iterations of a controlled step, and new Jacobians on its way. */
enum { MOST_CONTROLLED = 10, MOST_RENEWALS = 2 };

typedef enum { WANT_NOTHING, WANT_FACTORS, WANT_JACOBIAN } want;

/* A row: its matrix, and the solve in progress. */
typedef struct {
    double g;     /* of the factors */
    double theta; /* the largest rate since the step began */
    bool has_jacobian, has_factors;
    want want;
    bool active;
    bool fresh, here;      /* the Jacobian belongs to this stage, and to the present z */
    double eta;            /* the part of the latest update that is still to come */
    int updates, renewals; /* since the start; new Jacobians on the way */
    int iterations;
    double norm; /* of the latest update, in units of what is allowed */
    double size; /* of the row's largest element */
} newton_row;

void ode_newton_close(ode_newton_work *w)
{
    ode_runner_close(&w->field);
    ode_runner_close(&w->jacobian);
    ode_buffer *all[] = { &w->z, &w->f,     &w->jacobians, &w->kept,   &w->factors, &w->pivots,
                          &w->k, &w->guess, &w->base,      &w->update, &w->state };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
    w->rows = 0;
}

/* ---- memory and programs ---- */

static int fail(const ad_opaque_call *call, const char *text)
{
    snprintf(call->error, call->error_size, "%s", text);
    return -1;
}

enum { ARRAYS = 11 };

static void list_arrays(ode_newton_work *w, const ode_system *s, int64_t rows,
                        ode_buffer_part *list)
{
    size_t cells = (size_t)(rows * s->width), bytes = ode_bytes(s->dtype);
    size_t squares = cells * (size_t)s->width, wide = cells * sizeof(double);
    const ode_buffer_part all[ARRAYS] = { { &w->z, cells * bytes },
                                          { &w->f, cells * bytes },
                                          { &w->jacobians, squares * bytes },
                                          { &w->kept, squares * bytes },
                                          { &w->factors, squares * sizeof(double) },
                                          { &w->pivots, cells * sizeof(int) },
                                          { &w->k, wide },
                                          { &w->guess, wide },
                                          { &w->base, wide },
                                          { &w->update, wide },
                                          { &w->state, (size_t)rows * sizeof(newton_row) } };
    memcpy(list, all, sizeof all);
}

static bool need_memory(ode_newton_work *w, const ode_system *s, int64_t rows)
{
    ode_buffer_part list[ARRAYS];
    list_arrays(w, s, rows, list);
    return ode_buffers_need(ARRAYS, list);
}

void ode_newton_account(const ode_newton_problem *p, ad_opaque_account *a)
{
    ode_newton_work none = { 0 };
    ode_buffer_part list[ARRAYS];
    list_arrays(&none, p->system, a->rows, list);
    ode_account(a, 1, sizeof none);
    ode_account_buffers(a, ARRAYS, list);
    ode_runner_account(p->field, a);
    ode_runner_account(p->jacobian, a);
    const int64_t squares = a->rows * p->system->width * p->system->width;
    snprintf(a->largest, sizeof a->largest, "Jacobians and factors of each row, %lld numbers each",
             (long long)squares);
}

/* Both programs have the same inputs; the field's results are theirs both, too. */
static void connect(ode_newton_work *w, ode_runner *r, int64_t rows, const void *t,
                    const void *const *row, const void *const *shared)
{
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_TIMES) = t;
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, rows, w->z.data);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_DERIVATIVE, rows, w->f.data);
    ode_runner_arguments(r, row, shared);
}

int ode_newton_open(ode_newton_work *w, const ode_newton_problem *p, const ad_opaque_call *call,
                    const void *t, const void *const *row, const void *const *shared)
{
    const ode_system *s = p->system;
    if (ode_runner_open(&w->field, p->field, call->threads, call->error, call->error_size) ||
        ode_runner_open(&w->jacobian, p->jacobian, call->threads, call->error, call->error_size))
        return -1;
    if (!need_memory(w, s, call->rows)) return fail(call, "out of memory");
    bool forget = w->rows != call->rows || (p->first && !p->reuse);
    if (forget) memset(w->state.data, 0, (size_t)call->rows * sizeof(newton_row));
    w->rows = call->rows;
    connect(w, &w->field, call->rows, t, row, shared);
    connect(w, &w->jacobian, call->rows, t, row, shared);
    w->field.refine = w->jacobian.refine = call->refine;
    ode_runner_answers_to(&w->field, call);
    ode_runner_answers_to(&w->jacobian, call);
    *ode_runner_out(&w->jacobian, ODE_VALUE, ODE_PORT_ROOT_JACOBIAN) = w->jacobians.data;
    return 0;
}

static double *row_of(const ode_buffer *b, const ode_system *s, int64_t r)
{
    return (double *)b->data + r * s->width;
}

static double *matrix_of(const ode_newton_work *w, const ode_system *s, int64_t r)
{
    return (double *)w->factors.data + r * s->width * s->width;
}

static int *pivots_of(const ode_newton_work *w, const ode_system *s, int64_t r)
{
    return (int *)w->pivots.data + r * s->width;
}

static char *jacobian_of(const ode_buffer *b, const ode_system *s, int64_t r)
{
    return (char *)b->data + (size_t)(r * s->width * s->width) * ode_bytes(s->dtype);
}

/* Where element i of row r lies in a slot. */
static int64_t place_of(const ode_system *s, int64_t rows, int64_t r, int64_t i)
{
    int64_t first = 0;
    int j = 0;
    for (; i >= s->size[j]; first += rows * s->size[j++]) i -= s->size[j];
    return first + r * s->size[j] + i;
}

/* ---- one row ---- */

/* z = base + g k, where the field will be evaluated. */
static void place_state(const ode_newton_work *w, const ode_newton_problem *p, int64_t r)
{
    const ode_system *s = p->system;
    const double *k = row_of(&w->k, s, r), *base = row_of(&w->base, s, r);
    int64_t first = 0, wide = 0;
    for (int j = 0; j < s->nstate; j++) {
        for (int64_t i = 0; i < s->size[j]; i++, wide++)
            ode_store(s->dtype, w->z.data, first + r * s->size[j] + i, base[wide] + p->g * k[wide]);
        first += w->rows * s->size[j];
    }
}

static void restart(const ode_newton_work *w, const ode_newton_problem *p, newton_row *row,
                    int64_t r, want wanted)
{
    const ode_system *s = p->system;
    memcpy(row_of(&w->k, s, r), row_of(&w->guess, s, r), (size_t)s->width * sizeof(double));
    row->updates = row->renewals = 0;
    row->eta = 1; /* nothing is known before there is a rate */
    row->want = wanted;
    place_state(w, p, r);
}

static void begin_row(const ode_newton_work *w, const ode_newton_problem *p, newton_row *row,
                      int64_t r, ode_newton_counts *counts)
{
    const ode_system *s = p->system;
    const double *k = row_of(&w->k, s, r), *base = row_of(&w->base, s, r);
    double size = 0, sum = 0;
    for (int64_t i = 0; i < s->width; i++) {
        size = fmax(size, fmax(fabs(base[i]), fabs(base[i] + p->g * k[i])));
        sum += base[i] + k[i];
    }
    row->size = size;
    row->fresh = row->here = false;
    row->iterations = 0;
    row->active = isfinite(sum) || !p->controlled;
    if (!row->active) {
        if (counts->failed < 0) counts->end = ODE_NEWTON_BEFORE;
        return;
    }
    memcpy(row_of(&w->guess, s, r), k, (size_t)s->width * sizeof(double));
    want wanted = WANT_NOTHING;
    if (!row->has_jacobian || (p->first && row->theta > keep_rate)) wanted = WANT_JACOBIAN;
    else if (!row->has_factors || !(fabs(p->g - row->g) <= g_change * fabs(p->g)))
        wanted = WANT_FACTORS;
    if (p->first) row->theta = 0;
    restart(w, p, row, r, wanted);
}

/* Makes the matrix that the row wants. false: it is singular. */
static bool make_matrix(const ode_newton_work *w, const ode_newton_problem *p, newton_row *row,
                        int64_t r, ode_newton_counts *counts)
{
    const ode_system *s = p->system;
    void *kept = jacobian_of(&w->kept, s, r);
    if (row->want == WANT_JACOBIAN) {
        size_t bytes = (size_t)(s->width * s->width) * ode_bytes(s->dtype);
        memcpy(kept, jacobian_of(&w->jacobians, s, r), bytes);
        row->has_jacobian = row->fresh = row->here = true;
    }
    row->want = WANT_NOTHING;
    row->g = p->g;
    counts->factorisations++;
    row->has_factors =
        ode_matrix_factor(s->dtype, s->width, p->g, kept, matrix_of(w, s, r), pivots_of(w, s, r));
    return row->has_factors;
}

/* The update dk of a row. */
static ode_newton_end find_update(const ode_newton_work *w, const ode_newton_problem *p, int64_t r)
{
    const ode_system *s = p->system;
    const double *k = row_of(&w->k, s, r);
    double *x = row_of(&w->update, s, r), sum = 0;
    int64_t first = 0, wide = 0;
    for (int j = 0; j < s->nstate; j++) {
        for (int64_t i = 0; i < s->size[j]; i++, wide++) {
            x[wide] = ode_load(s->dtype, w->f.data, first + r * s->size[j] + i) - k[wide];
            sum += x[wide];
        }
        first += w->rows * s->size[j];
    }
    if (!isfinite(sum)) return ODE_NEWTON_FIELD;
    bool solved = ode_matrix_solve(s->width, matrix_of(w, s, r), pivots_of(w, s, r), false, x);
    return solved ? ODE_NEWTON_FINE : ODE_NEWTON_SINGULAR;
}

/* The largest update of z in units of what is allowed, and its largest element (*raw). */
static double update_norm(const ode_newton_work *w, const ode_newton_problem *p,
                          const newton_row *row, int64_t r, double *raw)
{
    const ode_system *s = p->system;
    const double *x = row_of(&w->update, s, r), *k = row_of(&w->k, s, r);
    const double *base = row_of(&w->base, s, r);
    double epsilon = s->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON;
    double least = rounding_part * epsilon * row->size + DBL_MIN, norm = 0;
    *raw = 0;
    for (int64_t i = 0; i < s->width; i++) {
        double dz = fabs(p->g * x[i]), z = fabs(base[i] + p->g * (k[i] + x[i]));
        double allowed = p->limits.tolerance * fmax(z, fabs(base[i]));
        norm = fmax(norm, dz / (allowed + least));
        *raw = fmax(*raw, dz);
    }
    return norm;
}

/* Whether a row whose iteration is flat has come down to the rounding. */
static bool is_rounding(const ode_newton_problem *p, const newton_row *row, double raw)
{
    double epsilon = p->system->dtype == AD_F32 ? FLT_EPSILON : DBL_EPSILON;
    return raw <= fmax(10 * p->limits.tolerance, 8 * epsilon) * row->size;
}

typedef enum { GO_ON, CONVERGED, TOO_SLOW, RENEW } verdict;

/* What the size of an update says. Sets the row's rate and eta, and what it wants next. */
static verdict judge(const ode_newton_problem *p, newton_row *row, double norm, double raw)
{
    if (row->updates > 0) {
        double theta = row->norm > 0 ? norm / row->norm : 0;
        row->theta = fmax(row->theta, theta);
        row->eta = theta < 1 ? theta / (1 - theta) : INFINITY;
        if (theta > flat_rate && is_rounding(p, row, raw)) {
            row->want = WANT_NOTHING;
            return CONVERGED;
        }
        int most = p->limits.iterations < MOST_CONTROLLED ? p->limits.iterations : MOST_CONTROLLED;
        double left = most - 1 - row->updates;
        bool slow = theta > diverging_rate || row->eta * norm * pow(theta, left) > 1;
        /* An old matrix may lead far astray from a good first guess. */
        if (!p->controlled && !row->fresh && theta > flat_rate) return TOO_SLOW;
        if (p->controlled && slow) {
            if (!row->fresh || theta > flat_rate || row->renewals == MOST_RENEWALS) return TOO_SLOW;
            row->renewals++;
        }
        if (p->controlled ? slow : theta > renew_rate) {
            /* An update by another point's matrix is not taken: it may lead to another root. */
            if (!row->here) return RENEW;
            row->want = WANT_JACOBIAN;
        }
    }
    row->norm = norm;
    if (row->eta * norm > 1) return GO_ON;
    row->want = WANT_NOTHING;
    return CONVERGED;
}

/* Whether a row failed for what is not finite in component i of all states: the field, its
 * Jacobian, or what came from an earlier stage. */
static bool is_to_blame(const ode_newton_work *w, const ode_system *s, int64_t r, int64_t i,
                        ode_newton_end end)
{
    if (end == ODE_NEWTON_BEFORE)
        return !isfinite(row_of(&w->base, s, r)[i] + row_of(&w->k, s, r)[i]);
    if (end == ODE_NEWTON_FIELD)
        return !isfinite(ode_load(s->dtype, w->f.data, place_of(s, w->rows, r, i)));
    const char *row = jacobian_of(&w->kept, s, r) + (size_t)(i * s->width) * ode_bytes(s->dtype);
    return end == ODE_NEWTON_DERIVATIVE && ode_first_nonfinite(s->dtype, s->width, row) >= 0;
}

/* The first component that is, or -1. */
static int64_t first_to_blame(const ode_newton_work *w, const ode_system *s, int64_t r,
                              ode_newton_end end)
{
    for (int64_t i = 0; i < s->width; i++)
        if (is_to_blame(w, s, r, i, end)) return i;
    return -1;
}

/* Why there are no factors. */
static ode_newton_end why_singular(const ode_newton_work *w, const ode_system *s, int64_t r)
{
    static const ode_newton_end ends[] = { ODE_NEWTON_FIELD, ODE_NEWTON_DERIVATIVE };
    for (int i = 0; i < 2; i++)
        if (first_to_blame(w, s, r, ends[i]) >= 0) return ends[i];
    return ODE_NEWTON_SINGULAR;
}

/* One iteration of a row, which becomes inactive when it converges or fails. */
static ode_newton_end iterate(const ode_newton_work *w, const ode_newton_problem *p, int64_t r,
                              ode_newton_counts *counts, double *raw)
{
    newton_row *row = (newton_row *)w->state.data + r;
    *raw = NAN;
    ode_newton_end end = ODE_NEWTON_FINE;
    if (row->want && !make_matrix(w, p, row, r, counts)) end = why_singular(w, p->system, r);
    if (end == ODE_NEWTON_FINE) end = find_update(w, p, r);
    verdict v = TOO_SLOW;
    if (end == ODE_NEWTON_FINE) {
        const double norm = update_norm(w, p, row, r, raw);
        v = judge(p, row, norm, *raw);
        if (v == TOO_SLOW) end = ODE_NEWTON_SLOW;
    }
    row->iterations++;
    if (v == TOO_SLOW) {
        if (row->fresh) return end;
        restart(w, p, row, r, WANT_JACOBIAN);
        return ODE_NEWTON_FINE;
    }
    if (!p->controlled && v != CONVERGED && row->iterations >= p->limits.iterations)
        return ODE_NEWTON_SLOW;
    if (v == RENEW) {
        row->want = WANT_JACOBIAN;
        return ODE_NEWTON_FINE;
    }
    double *k = row_of(&w->k, p->system, r);
    const double *x = row_of(&w->update, p->system, r);
    for (int64_t i = 0; i < p->system->width; i++) k[i] += x[i];
    row->updates++;
    row->here = false;
    row->active = v == GO_ON;
    if (v == CONVERGED) return ODE_NEWTON_FINE;
    place_state(w, p, r);
    return ODE_NEWTON_FINE;
}

/* ---- all rows ---- */

/* What a step of given size says of a row that failed. */
static int fail_row(const ode_newton_work *w, const ode_newton_problem *p,
                    const ad_opaque_call *call, int64_t r, ode_newton_end end, double raw)
{
    const ode_system *s = p->system;
    const newton_row *row = (newton_row *)w->state.data + r;
    if (end == ODE_NEWTON_FIELD || end == ODE_NEWTON_DERIVATIVE) {
        int64_t bad = first_to_blame(w, s, r, end);
        if (bad < 0) bad = 0; /* finite, but not their sum */
        int state = 0;
        while (bad >= s->size[state]) bad -= s->size[state++];
        snprintf(call->error, call->error_size,
                 "iteration %d: the %s not finite in row %lld, component %lld of state %d; "
                 "take a smaller step, or check the field there%s",
                 row->iterations - 1,
                 end == ODE_NEWTON_FIELD ? "field is" : "derivative of the field is", (long long)r,
                 (long long)bad, state,
                 end == ODE_NEWTON_FIELD ? "" : " (a root or a power at 0?)");
    } else if (end == ODE_NEWTON_SINGULAR) {
        snprintf(call->error, call->error_size,
                 "row %lld, iteration %d: the matrix I - %g J is singular or not finite; take a "
                 "smaller step",
                 (long long)r, row->iterations - 1, ode_shown(p->g));
    } else {
        int64_t slow = 0;
        for (int64_t i = 0; i < w->rows; i++) slow += row[i - r].active;
        snprintf(call->error, call->error_size,
                 "%lld rows, row %lld among them, do not converge in %d iterations (latest update "
                 "%.3g, tolerance %g); take a smaller step, or raise newton_iterations or "
                 "newton_tolerance",
                 (long long)slow, (long long)r, p->limits.iterations, ode_shown(raw),
                 p->limits.tolerance);
    }
    return -1;
}

/* The slope becomes NaN where the fault is, if that is known, so that the march can name it. */
static void give_up(const ode_newton_work *w, const ode_newton_problem *p, int64_t r,
                    ode_newton_end end)
{
    const ode_system *s = p->system;
    bool known = first_to_blame(w, s, r, end) >= 0;
    newton_row *row = (newton_row *)w->state.data + r;
    double *k = row_of(&w->k, s, r);
    for (int64_t i = 0; i < s->width; i++)
        if (!known || is_to_blame(w, s, r, i, end)) k[i] = NAN;
    row->active = false;
    row->has_jacobian = false; /* the next attempt begins with a new one */
    row->want = WANT_NOTHING;
}

int ode_newton_find(ode_newton_work *w, const ode_newton_problem *p, const ad_opaque_call *call,
                    ode_newton_counts *counts)
{
    newton_row *all = w->state.data;
    int64_t left = 0;
    *counts = (ode_newton_counts){ .failed = -1 };
    for (int64_t r = 0; r < w->rows; r++) {
        begin_row(w, p, &all[r], r, counts);
        left += all[r].active;
        if (!all[r].active) give_up(w, p, r, ODE_NEWTON_BEFORE);
    }
    while (left > 0) {
        bool jacobian = false;
        for (int64_t r = 0; r < w->rows; r++)
            jacobian = jacobian || (all[r].active && all[r].want == WANT_JACOBIAN);
        ode_runner *runner = jacobian ? &w->jacobian : &w->field;
        if (ode_runner_run(runner, w->rows, call->error, call->error_size)) return -1;
        counts->jacobians += jacobian;
        counts->iterations++;
        for (int64_t r = 0; r < w->rows; r++) {
            if (!all[r].active) continue;
            double raw;
            ode_newton_end end = iterate(w, p, r, counts, &raw);
            if (end != ODE_NEWTON_FINE) {
                if (!p->controlled) return fail_row(w, p, call, r, end, raw);
                if (counts->failed < 0) {
                    counts->failed = r;
                    counts->end = end;
                }
                give_up(w, p, r, end);
            }
            left -= !all[r].active;
        }
    }
    return 0;
}

int ode_newton_solve(ode_newton_work *w, const ode_newton_problem *p, const ad_opaque_call *call,
                     bool transposed, double *x)
{
    const ode_system *s = p->system;
    if (ode_runner_run(&w->jacobian, w->rows, call->error, call->error_size)) return -1;
    for (int64_t r = 0; r < w->rows; r++) {
        double *matrix = matrix_of(w, s, 0);
        int *pivots = pivots_of(w, s, 0);
        if (ode_matrix_factor(s->dtype, s->width, p->g, jacobian_of(&w->jacobians, s, r), matrix,
                              pivots) &&
            ode_matrix_solve(s->width, matrix, pivots, transposed, x + r * s->width))
            continue;
        if (p->controlled) {
            for (int64_t i = 0; i < s->width; i++) x[r * s->width + i] = NAN;
            continue;
        }
        snprintf(call->error, call->error_size,
                 "row %lld: the matrix I - %g J is singular or not finite, or what it is applied "
                 "to is not finite",
                 (long long)r, ode_shown(p->g));
        return -1;
    }
    return 0;
}

void ode_newton_solve_kept(const ode_newton_work *w, const ode_system *s, double *x)
{
    const newton_row *all = w->state.data;
    for (int64_t r = 0; r < w->rows; r++) {
        double *row = x + r * s->width;
        bool fine = all[r].has_factors &&
                    ode_matrix_solve(s->width, matrix_of(w, s, r), pivots_of(w, s, r), false, row);
        for (int64_t i = 0; !fine && i < s->width; i++) row[i] = NAN;
    }
}
