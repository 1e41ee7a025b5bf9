/* Hidden stiff modes (watch.c): the field beside the state, in a direction that it has turned. */
#include "ode/march/watch.h"
#include <string.h>

/* Evaluations of the field from one look to the next. */
static const int64_t looks_apart = 60, looks_share = 40;
/* So many steps from one look to the next while a mode limits the steps. */
static const int64_t limited_apart = 8;
/* Parts of the limit to h |lambda|: what may lie beyond it for a while; where, within the margin,
 * to look closely. */
static const double beyond = 1.15, close = 0.77;
/* A mode that is no more than so much steeper than what the step itself shows is looked for half as
 * often: the guard sees it grow. */
static const double hidden = 1.1;
/* Power iterations in one look, how many of the last are averaged where they do not converge, and
 * the relative change that ends them. */
enum { MOST_ITERATIONS = 16, MEAN_OF = 8, FIRST_ITERATIONS = 3 };
static const double converged = 0.05, exact = 0.02;
/* The square of the sine of an angle by which a mode without an oscillation is turned. */
static const double straight = 1e-3;
/* A mode is damped if the field turns its direction nearly round. */
static const double damped_along = -0.9;
/* A damped mode need not be accurate if it decays by more than e^-50 before the first output. */
static const double spent = 50;

/* The tangents' own tolerances: of an element that is zero and has none, a hundredth of rtol of the
 * largest one (of one, if all are zero).
 */
static void set_tolerances(ode_march *m, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    double largest = 0;
    for (int64_t i = 0; i < m->cells; i++) largest = fmax(largest, fabs(ode_load(s->dtype, y, i)));
    w->size = largest;
    w->least = 0.01 * m->rtol * (largest > 0 ? largest : 1);
    for (int64_t i = 0; m->each && i < s->width; i++)
        ode_store(s->dtype, w->each.data, i, fmax(m->each[i], w->least));
    ode_store(s->dtype, w->number, 0, fmax(m->atol, w->least));
}

void ode_watch_prepare(ode_march *m, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    if (w->prepared) return;
    set_tolerances(m, y);
    memset(w->largest.data, 0, (size_t)m->cells * ode_bytes(s->dtype));
    for (int j = 0; j < s->nstate; j++)
        for (int64_t i = 0; i < m->rows * s->size[j]; i++)
            ode_store(s->dtype, ode_part(s, m->rows, w->direction.data, j), i,
                      state_weight(s, j, i));
    w->prepared = true;
}

/* What an iteration finds in a row: squares of the direction before and after, and its products with
 * the latter of the direction itself and of the one before it. */
typedef struct {
    double before, after, along, around;
} sums;

/* By how much an iteration multiplied the direction (0: there was none), and the cosine of the angle
 * by which it turned it. */
typedef struct {
    double growth, cosine;
} turn;

/* One power iteration in each row, which turns the direction. false: the field is not finite there.
 */
static bool iterate(ode_march *m, const ode_boundary *a, int direction, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    ad_dtype dtype = s->dtype;
    for (int64_t i = 0; i < m->cells; i++) {
        double x = ode_load(dtype, y, i), most = fmax(fabs(x), ode_load(dtype, w->largest.data, i));
        ode_store(dtype, w->largest.data, i, most);
        ode_store(dtype, w->moved.data, i,
                  x + scale_of(m, i, most) * ode_load(dtype, w->direction.data, i));
    }
    int64_t evaluations = m->evaluations;
    bool fine = !ode_march_field(m, a->t, a->jump ? direction : 0, w->moved.data, w->slope.data,
                                 NULL, NULL);
    w->evaluations += m->evaluations - evaluations;
    if (!fine) return false;
    sums *of = w->rows.data;
    memset(of, 0, (size_t)m->rows * sizeof *of);
    for (int pass = 0; pass < 2; pass++) {
        int64_t at = 0;
        for (int j = 0; j < s->nstate; j++)
            for (int64_t r = 0; r < m->rows; r++)
                for (int64_t i = 0; i < s->size[j]; i++, at++) {
                    double scale = scale_of(m, at, ode_load(dtype, w->largest.data, at));
                    if (!(scale > 0)) continue;
                    double moved = ode_load(dtype, w->moved.data, at) - ode_load(dtype, y, at);
                    double turned =
                        ode_load(dtype, w->slope.data, at) - ode_load(dtype, m->slope[0].data, at);
                    moved /= scale;
                    turned /= direction * scale;
                    if (!pass) {
                        of[r].before += moved * moved;
                        of[r].after += turned * turned;
                        of[r].along += moved * turned;
                        of[r].around += ode_load(dtype, w->earlier.data, at) * turned;
                    } else if (of[r].after > 0 && isfinite(of[r].after)) {
                        double width = (double)s->width;
                        ode_store(dtype, w->earlier.data, at, moved * sqrt(width / of[r].before));
                        ode_store(dtype, w->direction.data, at,
                                  turned * sqrt(width / of[r].after));
                    }
                }
    }
    return true;
}

/* The mode that shows in two iterations: e_0, e_1 = J e_0 / g_1 and e_2 = J e_1 / g_2, unit vectors,
 * span the plane of a pair of complex modes, where J^2 e_0 = 2 Re lambda J e_0 - |lambda|^2 e_0. What
 * the field does to an oscillation in one iteration depends on the units of its components, x' = v,
 * v' = -w^2 x. *left: the part of e_2 that is outside the plane. */
static double complex mode_of(const turn *one, const turn *two, double around, double *left)
{
    double c = one->cosine, outside = 1 - c * c, pair = sqrt(one->growth * two->growth);
    *left = 1;
    if (!(pair > 0)) return two->growth * two->cosine;
    if (outside < straight) return c * two->cosine < 0 ? I * pair : copysign(pair, two->cosine);
    double along = (two->cosine - c * around) / outside,
           across = (around - c * two->cosine) / outside;
    *left = sqrt(fmax(0, 1 - along * two->cosine - across * around));
    double real = along * two->growth / 2,
           square = real * real + across * one->growth * two->growth;
    double complex mode = square < 0 ? real + I * sqrt(-square) : real + copysign(sqrt(square), real);
    if (cabs(mode) < 1.2 * fmax(two->growth, pair)) return mode;
    *left = 1;
    return copysign(two->growth, two->cosine);
}

/* What an iteration has found in all rows: the largest growth, of that and of the one before, and
 * the mode that strains the steps most. */
typedef struct {
    double growth, pair, left;
    double complex mode;
} finding;

static finding note(ode_march *m, double h)
{
    ode_watch *w = &m->watch;
    const sums *of = w->rows.data;
    turn *turns = w->turns.data;
    finding f = { 0 };
    double most = -1, width = (double)m->system->width;
    for (int64_t r = 0; r < m->rows; r++) {
        turn before = turns[r], now = { 0 };
        if (of[r].before > 0 && isfinite(of[r].after) && of[r].after > 0)
            now = (turn){ sqrt(of[r].after / of[r].before),
                          of[r].along / sqrt(of[r].before * of[r].after) };
        turns[r] = now;
        f.growth = fmax(f.growth, now.growth);
        f.pair = fmax(f.pair, sqrt(now.growth * before.growth));
        if (!(now.growth > 0)) continue;
        double left;
        double complex mode = mode_of(&before, &now, of[r].around / sqrt(width * of[r].after), &left);
        double strain = m->rows == 1 ? 0 : ode_strain(m, mode, fmin(h, m->watch.horizon));
        if (strain <= most) continue;
        most = strain;
        f.mode = mode;
        f.left = left;
    }
    return f;
}

static int most_iterations(const ode_march *m, const ode_boundary *a, double h)
{
    double t1 = m->stops.times[m->stops.ntimes - 1];
    double left = (double)m->evaluations + fabs(t1 - a->t) / h * m->method->times;
    return (int)fmin(MOST_ITERATIONS, FIRST_ITERATIONS + 1 + left / 40);
}

bool ode_find_steepest(ode_march *m, const ode_boundary *a, int direction, const void *y, double h,
                       double complex *found)
{
    ode_watch *w = &m->watch;
    double complex before = w->mode[0] + I * w->mode[1];
    double product = 0, left = 1, pair = 0;
    bool doubt = false;
    int most = most_iterations(m, a, h), mean_of = most < 2 * MEAN_OF ? most / 4 * 2 : MEAN_OF;
    ode_watch_prepare(m, y);
    w->iterations = 0;
    *found = 0;
    for (int i = 0; i < most; i++) {
        if (!iterate(m, a, direction, y)) return false;
        w->iterations++;
        w->turned++;
        finding f = note(m, h);
        /* The worst that it can be: an iteration alone may be one of units. */
        *found = I * fmax(f.pair, i < 2 ? f.growth : pair);
        pair = f.pair;
        bool early = w->turned < FIRST_ITERATIONS;
        double strain = ode_strain(m, *found, h / close);
        if (!doubt && strain <= (early || (w->lambda > 0 && i < 2) ? 0.5 : 1) && !(w->lambda > 0 && i == 0)) return false;
        if (i > 1 && strain > 1.3) doubt = true;
        if ((!early && i > 0 && f.left <= exact) || cabs(f.mode - before) <= converged * cabs(f.mode)) {
            *found = f.mode;
            return ode_strain(m, *found, h / close) > 1;
        }
        before = f.mode;
        left = f.left;
        if (i >= most - mean_of) product += log(f.growth);
    }
    *found = (left <= 0.3 ? before / cabs(before) : I) * exp(product / mean_of);
    return ode_strain(m, *found, h / close) > 1;
}

void ode_limit_steps(ode_march *m, const ode_boundary *a, int direction, double complex found)
{
    ode_watch *w = &m->watch;
    double before = w->most, stable = m->guard.limit / (m->guard.margin * cabs(found));
    w->most = ode_largest_step(m, found);
    w->accurate = w->most < stable;
    w->tolerated = beyond * (w->accurate ? w->most : m->guard.margin * stable);
    w->lambda = cabs(found);
    w->mode[0] = creal(found);
    w->mode[1] = cimag(found);
    w->damped =
        creal(found) < damped_along * w->lambda && w->lambda * w->first_output > spent;
    w->reach = INFINITY;
    bool shown = hidden * w->seen >= w->lambda;
    w->due = m->evaluations + (shown ? 2 : 1) * limited_apart * m->method->times;
    if (direction * (a->t - w->until) < 0) w->most = fmin(w->most, before);
}

void ode_watch_rewind(ode_march *m)
{
    m->watch.probe_due = m->watch.probed = m->steps;
    m->watch.pause = 1;
    m->watch.again = true;
}

int64_t ode_watch_look(ode_march *m, const ode_boundary *a, int direction, const void *y, double h)
{
    ode_watch *w = &m->watch;
    const double *sizes = w->sizes.data;
    if (!w->on || (m->evaluations < w->due && h <= w->reach)) return -1;
    int64_t from = w->since[w->certain], back = -1;
    w->probes++;
    double complex found;
    double earlier = w->earlier_lambda;
    double largest = h;
    for (int64_t k = 0; w->since[1] == 0 && k < m->steps; k++) largest = fmax(largest, sizes[k]);
    w->certain = ode_find_steepest(m, a, direction, y, largest, &found);
    if (w->certain) {
        ode_limit_steps(m, a, direction, found);
    } else {
        w->lambda = 0;
        if (direction * (a->t - w->until) >= 0) w->most = INFINITY;
        double strain = ode_strain(m, found, h / close);
        w->reach = strain > 0 ? fmax(2 * h, h / strain) : INFINITY;
        w->due = m->evaluations + (looks_apart > looks_share * w->iterations ? looks_apart : looks_share * w->iterations);
    }
    w->since[0] = w->since[1];
    w->since[1] = m->steps;
    double shown = w->shown;
    w->shown = 0;
    w->earlier_lambda = cabs(found);
    if (!w->certain) return -1;
    double off = 0, change = 1;
    if (w->accurate && 2 * shown > cabs(found) && earlier > 0 && earlier < cabs(found)) change = sqrt(earlier / cabs(found));
    if (w->accurate && change == 1) from = w->since[0];
    for (int64_t k = from; k < m->steps; k++) {
        if (sizes[k] * change > w->tolerated && back < 0) back = k;
        off += ode_strays(m, found * change, sizes[k]);
    }
    if (back >= 0 && w->accurate && off < ode_allowed(m)) back = -1;
    if (back < 0) return -1;
    w->since[0] = w->since[1] = back;
    w->until = a->t;
    return back;
}
