/* Levenberg and Marquardt's method: least squares by steps p that minimise |r + J p|^2 + mu |D
 * p|^2. J is factored once, J = Q R, for each place; for each mu a small problem is left. D holds
 * the largest norms that the columns of J have had. Madsen, Nielsen & Tingleff 2004, "Methods for
 * non-linear least squares problems", is where the formulas are. */
#include "nn/train/fit.h"
#include <stdlib.h>
#include <string.h>

extern void dgeqrf_(const int *m, const int *n, double *a, const int *lda, double *tau,
                    double *work, const int *lwork, int *info);
extern void dormqr_(const char *side, const char *trans, const int *m, const int *n, const int *k,
                    const double *a, const int *lda, const double *tau, double *c, const int *ldc,
                    double *work, const int *lwork, int *info);
extern void dgels_(const char *trans, const int *m, const int *n, const int *nrhs, double *a,
                   const int *lda, double *b, const int *ldb, double *work, const int *lwork,
                   int *info);
extern void dtrtri_(const char *uplo, const char *diag, const int *n, double *a, const int *lda,
                    int *info);

enum { BLOCK = 64 }; /* LAPACK's block size, for the size of its work arrays */

typedef struct {
    nn_fit *f;
    int64_t n, m, height;   /* height: rows of J, m or, filled with zeros, n if that is more */
    double *r, *next_r;     /* [height] residuals */
    double *jacobian;       /* [n][height], columns; then R */
    double *turned;         /* [height] Q^T r */
    double *scale;          /* [n] D */
    double *norm;           /* [n] of the columns of J */
    bool *still;            /* [n] at a bound, with the descent across it */
    double *stacked, *side; /* the damped problem: [n][2n], [2n] */
    double *p, *next_x;
    double *tau, *work;
    int lwork;
    double loss, next_loss, mu, growth;
} state;

static double squares(int64_t n, const double *x)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* ---- Jacobian -------------------------------------------------------------------------------- */

/* J at x, its columns' norms, and what the residuals' cosine with a column is at most. */
static int find_jacobian(state *q)
{
    nn_fit *f = q->f;
    double length = sqrt(squares(q->m, q->r));
    f->report->gradient = 0;
    for (int64_t k = 0; k < q->n; k++) {
        double *column = q->jacobian + k * q->height;
        if (!nn_fit_evaluate(f, f->x, k, q->next_r, column))
            return FIT_FAIL(f, "the derivative by element %lld of theta: %s",
                            (long long)f->place[k], f->message);
        for (int64_t i = q->m; i < q->height; i++) column[i] = 0;
        double along = 0;
        for (int64_t i = 0; i < q->m; i++) along += column[i] * q->r[i];
        q->norm[k] = sqrt(squares(q->m, column));
        q->scale[k] = fmax(q->scale[k], q->norm[k]);
        q->still[k] = nn_fit_blocked(f, f->x, k, -along);
        if (q->still[k]) memset(column, 0, (size_t)q->height * sizeof *column);
        else if (q->norm[k] > 0 && length > 0)
            f->report->gradient = fmax(f->report->gradient, fabs(along) / q->norm[k] / length);
    }
    return 0;
}

static int factor(state *q)
{
    int height = (int)q->height, n = (int)q->n, one = 1, info = 0;
    memcpy(q->turned, q->r, (size_t)q->m * sizeof *q->r);
    for (int64_t i = q->m; i < q->height; i++) q->turned[i] = 0;
    dgeqrf_(&height, &n, q->jacobian, &height, q->tau, q->work, &q->lwork, &info);
    if (info == 0)
        dormqr_("L", "T", &height, &one, &n, q->jacobian, &height, q->tau, q->turned, &height,
                q->work, &q->lwork, &info);
    return info == 0 ? 0 : FIT_FAIL(q->f, "LAPACK's factors of the Jacobian: info %d", info);
}

static double upper(const state *q, int64_t i, int64_t k) { return q->jacobian[k * q->height + i]; }

/* ---- steps ----------------------------------------------------------------------------------- */

/* p minimises |R p + Q^T r|^2 + mu |D p|^2. */
static bool solve_damped(state *q)
{
    int n = (int)q->n, both = 2 * n, one = 1, info = 0;
    double root = sqrt(q->mu);
    for (int64_t k = 0; k < q->n; k++) {
        double *column = q->stacked + k * 2 * q->n;
        for (int64_t i = 0; i < q->n; i++) {
            column[i] = i <= k ? upper(q, i, k) : 0;
            column[q->n + i] = i == k ? root * (q->scale[k] > 0 ? q->scale[k] : 1) : 0;
        }
        q->side[k] = -q->turned[k];
        q->side[q->n + k] = 0;
    }
    dgels_("N", &both, &n, &one, q->stacked, &both, q->side, &both, q->work, &q->lwork, &info);
    memcpy(q->p, q->side, (size_t)q->n * sizeof *q->p);
    return info == 0;
}

/* The fall of the loss that the linear model predicts for p: -(g p) - |R p|^2 / 2. */
static double predicted(const state *q)
{
    double fall = 0;
    for (int64_t i = 0; i < q->n; i++) {
        double image = 0;
        for (int64_t k = i; k < q->n; k++) image += upper(q, i, k) * q->p[k];
        fall -= image * (q->turned[i] + image / 2);
    }
    return fall;
}

/* p within the bounds; its size relative to theta, both scaled. */
static double bounded(state *q)
{
    const nn_fit *f = q->f;
    double step = 0, size = 0;
    for (int64_t i = 0; i < q->n; i++) {
        double x = q->still[i] ? f->x[i] : f->x[i] + q->p[i];
        q->next_x[i] = fmin(fmax(x, f->lower[i]), f->upper[i]);
        q->p[i] = q->next_x[i] - f->x[i];
        step += q->scale[i] * q->scale[i] * q->p[i] * q->p[i];
        size += q->scale[i] * q->scale[i] * f->x[i] * f->x[i];
    }
    return size > 0 ? sqrt(step / size) : sqrt(step);
}

static void take(state *q)
{
    nn_fit_accept(q->f, q->next_x);
    memcpy(q->r, q->next_r, (size_t)q->m * sizeof *q->r);
    q->loss = q->next_loss;
}

typedef enum { TAKEN, SMALL_STEP, SMALL_FALL } outcome;

/* Longer damping until a step makes the loss smaller (Nielsen 1999). The loss counts as falling no
 * more when both it and the model say so. */
static outcome find_step(state *q)
{
    nn_fit *f = q->f;
    for (;;) {
        bool solved = solve_damped(q);
        double moved = solved ? bounded(q) : INFINITY, fall = solved ? predicted(q) : 0;
        if (moved <= f->options.step_tolerance) return SMALL_STEP;
        bool fine = solved && nn_fit_evaluate(f, q->next_x, -1, q->next_r, NULL);
        if (fine) q->next_loss = squares(q->m, q->next_r) / 2;
        double actual = fine ? q->loss - q->next_loss : -INFINITY;
        double gain = fall > 0 ? actual / fall : -1, least = f->options.loss_tolerance * q->loss;
        if (fine && fabs(actual) <= least && fall <= least) {
            if (actual > 0) take(q);
            return SMALL_FALL;
        }
        if (gain > 0) {
            double bend = 2 * gain - 1;
            q->mu *= fmax(1.0 / 3, 1 - bend * bend * bend);
            q->growth = 2;
            take(q);
            return TAKEN;
        }
        q->mu *= q->growth;
        q->growth *= 2;
        if (!isfinite(q->mu) || !isfinite(q->growth)) return SMALL_STEP;
    }
}

static int minimise(state *q)
{
    nn_fit *f = q->f;
    if (!nn_fit_evaluate(f, f->x, -1, q->r, NULL))
        return FIT_FAIL(f, "at the start: %s", f->message);
    q->loss = squares(q->m, q->r) / 2;
    f->report->first_loss = f->report->last_loss = q->loss;
    for (;;) {
        if (find_jacobian(q) || factor(q)) return -1;
        if (f->report->end != NN_FIT_FAILED) return 0;
        if (q->loss == 0 || f->report->gradient <= f->options.gradient_tolerance)
            return nn_fit_end_with(f, NN_FIT_GRADIENT);
        double before = q->loss;
        outcome found = find_step(q);
        if (found == SMALL_STEP) return nn_fit_end_with(f, NN_FIT_STEP);
        if (found == SMALL_FALL) {
            f->report->last_loss = q->loss;
            nn_fit_end_with(f, NN_FIT_LOSS);
            if (q->loss == before) return 0; /* theta is where the Jacobian is */
            continue;
        }
        nn_fit_iterated(f, q->loss); /* an end waits for the Jacobian at the last theta */
    }
}

/* ---- standard errors ------------------------------------------------------------------------- */

/* From R at the end: the rows of its inverse are as long as the roots of the diagonal of
 * (J^T J)^-1. Numbers at a bound do not vary. */
static void find_deviations(state *q)
{
    const nn_fit *f = q->f;
    int n = (int)q->n, info = 0;
    int64_t moving = q->n;
    for (int64_t k = 0; k < q->n; k++) {
        for (int64_t i = 0; i < q->n; i++) q->stacked[k * q->n + i] = i <= k ? upper(q, i, k) : 0;
        if (!q->still[k]) continue;
        moving--;
        for (int64_t i = 0; i < q->n; i++) {
            q->stacked[k * q->n + i] = i == k ? 1 : 0;
            q->stacked[i * q->n + k] = i == k ? 1 : 0;
        }
    }
    double smallest = INFINITY;
    for (int64_t k = 0; k < q->n; k++)
        if (!q->still[k] && q->norm[k] > 0)
            smallest = fmin(smallest, fabs(q->stacked[k * q->n + k]) / q->norm[k]);
        else if (!q->still[k]) smallest = 0;
    bool full = smallest > 0x1p-50 && q->m > moving;
    if (full) dtrtri_("U", "N", &n, q->stacked, &n, &info);
    double deviation = full ? sqrt(2 * q->loss / (double)(q->m - moving)) : NAN;
    for (int64_t i = 0; i < q->n; i++) {
        double sum = 0;
        for (int64_t k = i; full && info == 0 && k < q->n; k++) {
            double element = q->stacked[k * q->n + i];
            sum += element * element;
        }
        double value = q->still[i] ? 0 : full && info == 0 ? deviation * sqrt(sum) : NAN;
        nn_put(f->theta->dtype, f->options.deviations->data, f->place[i], value);
    }
}

/* ---- one call -------------------------------------------------------------------------------- */

static int allocate(state *q)
{
    size_t n = (size_t)q->n, height = (size_t)q->height;
    if (height > (size_t)INT32_MAX || n > 20000)
        return FIT_FAIL(q->f, "%lld residuals and %lld parameters are too many for a Jacobian",
                        (long long)q->m, (long long)q->n);
    q->lwork = (int)(3 * n + 1) * BLOCK;
    q->r = calloc(height, sizeof *q->r);
    q->next_r = calloc(height, sizeof *q->next_r);
    q->jacobian = calloc(n * height, sizeof *q->jacobian);
    q->turned = calloc(height, sizeof *q->turned);
    q->scale = calloc(n, sizeof *q->scale);
    q->norm = calloc(n, sizeof *q->norm);
    q->still = calloc(n, sizeof *q->still);
    q->stacked = calloc(2 * n * n, sizeof *q->stacked);
    q->side = calloc(2 * n, sizeof *q->side);
    q->p = calloc(n, sizeof *q->p);
    q->next_x = calloc(n, sizeof *q->next_x);
    q->tau = calloc(n, sizeof *q->tau);
    q->work = calloc((size_t)q->lwork, sizeof *q->work);
    if (q->r && q->next_r && q->jacobian && q->turned && q->scale && q->norm && q->still &&
        q->stacked && q->side && q->p && q->next_x && q->tau && q->work)
        return 0;
    return FIT_FAIL(q->f, "%s", "out of memory");
}

static void release(state *q)
{
    free(q->r);
    free(q->next_r);
    free(q->jacobian);
    free(q->turned);
    free(q->scale);
    free(q->norm);
    free(q->still);
    free(q->stacked);
    free(q->side);
    free(q->p);
    free(q->next_x);
    free(q->tau);
    free(q->work);
}

int nn_levenberg_marquardt(nn_theta *theta, const nn_fit_options *options, nn_fit_report *report,
                           char *error, size_t error_size)
{
    nn_fit_report own = { 0 };
    nn_fit f = { .what = "nn_levenberg_marquardt",
                 .theta = theta,
                 .report = &own,
                 .error = error,
                 .error_size = error_size };
    if (options) f.options = *options;
    state q = { .f = &f, .mu = 1e-3, .growth = 2 }; /* mu relative to D */
    int result = nn_fit_new(&f, true);
    q.n = f.n;
    q.m = f.m;
    q.height = f.m > f.n ? f.m : f.n;
    if (result == 0) result = allocate(&q);
    if (result == 0) result = minimise(&q);
    if (result == 0) result = nn_fit_compare(&f);
    if (result == 0 && f.options.deviations) find_deviations(&q);
    if (result) own.end = NN_FIT_FAILED;
    release(&q);
    nn_fit_clear(&f);
    if (report) *report = own;
    return result;
}
