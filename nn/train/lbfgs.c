/* L-BFGS: a step along the direction that the latest changes of the gradient suggest, as long as
 * the strong Wolfe conditions ask for. Numbers of algorithms and equations are those of Nocedal &
 * Wright 2006. */
#include "nn/train/fit.h"
#include <stdlib.h>
#include <string.h>

static const double DECREASE = 1e-4, CURVATURE = 0.9; /* c1, c2 (section 3.1) */
enum { TRIALS = 40 };                                 /* evaluations of one search */

/* A point on the line: the step's length, the loss there and its slope along the line. */
typedef struct {
    double a, value, slope;
} point;

typedef struct {
    nn_fit *f;
    int64_t n, pairs; /* pairs: kept so far */
    double *d;        /* direction */
    double *g;        /* gradient at x */
    double *next_x, *next_g;
    double *s, *y; /* [memory][n], a ring */
    double *rho, *alpha;
    double loss, next_loss;
    double longest; /* step before a bound */
} search;

static double dot(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- direction ------------------------------------------------------------------------------- */

/* The largest element of the gradient, but for those that press against a bound. */
static double gradient_size(const search *q)
{
    double largest = 0;
    for (int64_t i = 0; i < q->n; i++)
        if (!nn_fit_blocked(q->f, q->f->x, i, -q->g[i])) largest = fmax(largest, fabs(q->g[i]));
    return largest;
}

static int64_t pairs_kept(const search *q)
{
    return q->pairs < q->f->options.memory ? q->pairs : q->f->options.memory;
}
static double *pair(const search *q, double *all, int64_t number)
{
    return all + number % q->f->options.memory * q->n;
}

/* Algorithm 7.4, two loops: d = -H g. */
static void two_loops(search *q)
{
    double *d = q->d;
    int64_t kept = pairs_kept(q), memory = q->f->options.memory;
    for (int64_t k = q->pairs - 1; k >= q->pairs - kept; k--) {
        const double *s = pair(q, q->s, k), *y = pair(q, q->y, k);
        double alpha = q->rho[k % memory] * dot(q->n, s, d);
        q->alpha[k % memory] = alpha;
        for (int64_t i = 0; i < q->n; i++) d[i] -= alpha * y[i];
    }
    if (kept > 0) { /* (7.20) */
        const double *y = pair(q, q->y, q->pairs - 1);
        double gamma = 1 / (q->rho[(q->pairs - 1) % memory] * dot(q->n, y, y));
        for (int64_t i = 0; i < q->n; i++) d[i] *= gamma;
    }
    for (int64_t k = q->pairs - kept; k < q->pairs; k++) {
        const double *s = pair(q, q->s, k), *y = pair(q, q->y, k);
        double beta = q->rho[k % memory] * dot(q->n, y, d);
        for (int64_t i = 0; i < q->n; i++) d[i] += s[i] * (q->alpha[k % memory] - beta);
    }
}

/* What the direction leads across a bound stands still; the rest meets the first bound at
 * `longest`. */
static void find_direction(search *q)
{
    const nn_fit *f = q->f;
    for (int64_t i = 0; i < q->n; i++)
        q->d[i] = nn_fit_blocked(f, f->x, i, -q->g[i]) ? 0 : -q->g[i];
    two_loops(q);
    q->longest = INFINITY;
    for (int64_t i = 0; i < q->n; i++) {
        if (nn_fit_blocked(f, f->x, i, -q->g[i]) || nn_fit_blocked(f, f->x, i, q->d[i]))
            q->d[i] = 0;
        if (q->d[i] == 0) continue;
        double room = (q->d[i] > 0 ? f->upper[i] : f->lower[i]) - f->x[i];
        q->longest = fmin(q->longest, room / q->d[i]);
    }
}

/* ---- line search ----------------------------------------------------------------------------- */

static bool evaluate(search *q, double a, point *p)
{
    nn_fit *f = q->f;
    for (int64_t i = 0; i < q->n; i++) {
        double x = a == 0 ? f->x[i] : f->x[i] + a * q->d[i];
        q->next_x[i] = fmin(fmax(x, f->lower[i]), f->upper[i]);
    }
    p->a = a;
    if (!nn_fit_evaluate(f, q->next_x, -1, &q->next_loss, q->next_g)) return false;
    p->value = q->next_loss;
    p->slope = dot(q->n, q->next_g, q->d);
    return true;
}

/* Losses that differ by less are equal: that is what rounding does to them. */
static double slack(const search *q)
{
    return (q->f->theta->dtype == AD_F64 ? 0x1p-51 : 0x1p-22) * fabs(q->loss);
}

static bool decreases(const search *q, const point *start, const point *p)
{
    return p->value <= start->value + DECREASE * p->a * start->slope + slack(q);
}
static bool flat_enough(const point *start, const point *p)
{
    return fabs(p->slope) <= -CURVATURE * start->slope;
}

/* The minimum of the cubic through two points, (3.59), kept away from the ends of the interval. */
static double between(const point *p, const point *q)
{
    double low = fmin(p->a, q->a), width = fabs(q->a - p->a);
    double d1 = p->slope + q->slope - 3 * (p->value - q->value) / (p->a - q->a);
    double square = d1 * d1 - p->slope * q->slope;
    double a = NAN;
    if (square >= 0) {
        double d2 = copysign(sqrt(square), q->a - p->a);
        a = q->a - (q->a - p->a) * (q->slope + d2 - d1) / (q->slope - p->slope + 2 * d2);
    }
    if (!(a > low && a < low + width)) return low + width / 2;
    return fmin(fmax(a, low + 0.1 * width), low + 0.9 * width);
}

/* Algorithm 3.6: low is the best point so far, and a good step lies between it and high. */
static bool zoom(search *q, const point *start, point low, point high, int trials)
{
    for (; trials > 0 && fabs(high.a - low.a) > 0x1p-50 * fmax(low.a, high.a); trials--) {
        point p;
        if (!evaluate(q, isfinite(high.value) ? between(&low, &high) : (low.a + high.a) / 2, &p)) {
            high = (point){ p.a, INFINITY, 0 };
            continue;
        }
        if (!decreases(q, start, &p) || p.value > low.value + slack(q)) {
            high = p;
            continue;
        }
        if (flat_enough(start, &p)) return true;
        if (p.slope * (high.a - low.a) >= 0) high = low;
        low = p;
    }
    return low.a > 0 && low.value < start->value && evaluate(q, low.a, &low);
}

/* Algorithm 3.5; the point is in next_x, next_g and next_loss. false: there is none. */
static bool line_search(search *q, double first)
{
    point start = { 0, q->loss, dot(q->n, q->g, q->d) }, last = start;
    double a = fmin(first, q->longest);
    if (!(start.slope < 0) || !(a > 0)) return false;
    for (int trial = 0; trial < TRIALS; trial++) {
        point p;
        if (!evaluate(q, a, &p))
            return zoom(q, &start, last, (point){ a, INFINITY, 0 }, TRIALS - trial);
        if (!decreases(q, &start, &p) || (trial > 0 && p.value > last.value + slack(q)))
            return zoom(q, &start, last, p, TRIALS - trial);
        if (flat_enough(&start, &p)) return true;
        if (p.slope >= 0) return zoom(q, &start, p, last, TRIALS - trial);
        if (a >= q->longest) return true; /* at a bound, and still going down */
        last = p;
        a = fmin(4 * a, q->longest);
    }
    return true; /* downhill as far as anybody looks */
}

/* ---- iterations ------------------------------------------------------------------------------ */

/* Keeps the step and the gradient's change, if they are those of a valley, and moves on. Returns
 * the step's size relative to theta. */
static double move(search *q)
{
    nn_fit *f = q->f;
    double *s = pair(q, q->s, q->pairs), *y = pair(q, q->y, q->pairs);
    double size = 0, largest = 0;
    for (int64_t i = 0; i < q->n; i++) {
        s[i] = q->next_x[i] - f->x[i];
        y[i] = q->next_g[i] - q->g[i];
        size = fmax(size, fabs(s[i]));
        largest = fmax(largest, fabs(q->next_x[i]));
    }
    double curvature = dot(q->n, s, y);
    if (curvature > 0x1p-52 * sqrt(dot(q->n, s, s) * dot(q->n, y, y))) {
        q->rho[q->pairs % f->options.memory] = 1 / curvature;
        q->pairs++;
    }
    nn_fit_accept(f, q->next_x);
    memcpy(q->g, q->next_g, (size_t)q->n * sizeof *q->g);
    q->loss = q->next_loss;
    return largest > 0 ? size / largest : 0;
}

/* A search that finds nothing begins once more from the gradient alone. */
static bool step(search *q)
{
    for (;;) {
        find_direction(q);
        double size = sqrt(dot(q->n, q->d, q->d));
        if (line_search(q, q->pairs ? 1 : fmin(1, 1 / size))) return true;
        if (q->pairs == 0) return false;
        q->pairs = 0;
    }
}

static int minimise(search *q)
{
    nn_fit *f = q->f;
    const nn_fit_options *o = &f->options;
    point start;
    if (!evaluate(q, 0, &start)) return FIT_FAIL(f, "at the start: %s", f->message);
    q->loss = q->next_loss;
    f->report->first_loss = f->report->last_loss = q->loss;
    memcpy(q->g, q->next_g, (size_t)q->n * sizeof *q->g);
    for (;;) {
        f->report->gradient = gradient_size(q);
        if (f->report->gradient <= o->gradient_tolerance)
            return nn_fit_end_with(f, NN_FIT_GRADIENT);
        double before = q->loss;
        if (!step(q)) return nn_fit_end_with(f, NN_FIT_STUCK);
        double moved = move(q), fall = before - q->loss;
        f->report->gradient = gradient_size(q);
        if (nn_fit_iterated(f, q->loss)) return 0;
        if (f->report->gradient <= o->gradient_tolerance) continue;
        if (fall <= o->loss_tolerance * fmax(fabs(before), fabs(q->loss)))
            return nn_fit_end_with(f, NN_FIT_LOSS);
        if (moved <= o->step_tolerance) return nn_fit_end_with(f, NN_FIT_STEP);
    }
}

static int allocate(search *q)
{
    size_t n = (size_t)q->n, memory = (size_t)q->f->options.memory;
    q->d = calloc(n, sizeof *q->d);
    q->g = calloc(n, sizeof *q->g);
    q->next_x = calloc(n, sizeof *q->next_x);
    q->next_g = calloc(n, sizeof *q->next_g);
    q->s = calloc(n * memory, sizeof *q->s);
    q->y = calloc(n * memory, sizeof *q->y);
    q->rho = calloc(memory, sizeof *q->rho);
    q->alpha = calloc(memory, sizeof *q->alpha);
    if (q->d && q->g && q->next_x && q->next_g && q->s && q->y && q->rho && q->alpha) return 0;
    return FIT_FAIL(q->f, "%s", "out of memory");
}

static void release(search *q)
{
    free(q->d);
    free(q->g);
    free(q->next_x);
    free(q->next_g);
    free(q->s);
    free(q->y);
    free(q->rho);
    free(q->alpha);
}

int nn_lbfgs(nn_theta *theta, const nn_fit_options *options, nn_fit_report *report, char *error,
             size_t error_size)
{
    nn_fit_report own = { 0 };
    nn_fit f = {
        .what = "nn_lbfgs", .theta = theta, .report = &own, .error = error, .error_size = error_size
    };
    if (options) f.options = *options;
    search q = { .f = &f };
    int result = nn_fit_new(&f, false);
    q.n = f.n;
    if (result == 0) result = allocate(&q);
    if (result == 0) result = minimise(&q);
    if (result == 0) result = nn_fit_compare(&f);
    if (result) own.end = NN_FIT_FAILED;
    release(&q);
    nn_fit_clear(&f);
    if (report) *report = own;
    return result;
}
