/* Hidden stiff modes (watch.c): the field beside the state, in a direction that it has turned. */
#include "ode/march/watch.h"
#include <string.h>

/* Evaluations of the field from one look to the next. */
static const int64_t looks_apart = 60;
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
enum { MOST_ITERATIONS = 16, MEAN_OF = 8 };
static const double converged = 0.05;
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

/* One power iteration in each row: the mode as it shows in the direction, which is turned. false:
 * the field is not finite there. */
static bool iterate(ode_march *m, const ode_boundary *a, int direction, const void *y,
                    ode_mode *found)
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
    double *before = w->rows.data, *after = before + m->rows, *product = after + m->rows;
    memset(before, 0, 3 * (size_t)m->rows * sizeof *before);
    for (int pass = 0; pass < 2; pass++) {
        int64_t at = 0;
        for (int j = 0; j < s->nstate; j++)
            for (int64_t r = 0; r < m->rows; r++)
                for (int64_t i = 0; i < s->size[j]; i++, at++) {
                    double scale = scale_of(m, at, ode_load(dtype, w->largest.data, at));
                    double moved = ode_load(dtype, w->moved.data, at) - ode_load(dtype, y, at);
                    double turned =
                        ode_load(dtype, w->slope.data, at) - ode_load(dtype, m->slope[0].data, at);
                    if (!(scale > 0)) continue;
                    if (!pass) {
                        before[r] += pow(moved / scale, 2);
                        after[r] += pow(turned / scale, 2);
                        product[r] += moved / scale * turned / scale;
                    } else if (after[r] > 0 && isfinite(after[r])) {
                        ode_store(dtype, w->direction.data, at,
                                  turned / scale / sqrt(after[r] / (double)s->width));
                    }
                }
    }
    *found = (ode_mode){ 0 };
    for (int64_t r = 0; r < m->rows; r++) {
        double lambda = before[r] > 0 && isfinite(after[r]) ? sqrt(after[r] / before[r]) : 0;
        if (lambda <= found->lambda) continue;
        found->lambda = lambda;
        found->along = (direction > 0 ? 1 : -1) * product[r] / sqrt(before[r] * after[r]);
    }
    return true;
}

/* Notes an iteration. The field turns the direction of an oscillation to and fro, and multiplies it
 * by what depends on the units of the components, x' = v, v' = -w^2 x by 1 and by w^2 in turn: two
 * iterations tell the mode. A mode that decays is turned round in both. */
static void note(ode_watch *w, ode_mode *found)
{
    w->growth[1] = w->growth[0];
    w->along[1] = w->along[0];
    w->growth[0] = found->lambda;
    w->along[0] = found->along;
    found->along = fmax(w->along[0], w->along[1]);
}

bool ode_find_steepest(ode_march *m, const ode_boundary *a, int direction, const void *y,
                       double least, ode_mode *found)
{
    ode_watch *w = &m->watch;
    double before = w->lambda, product = 0;
    *found = (ode_mode){ 0 };
    ode_watch_prepare(m, y);
    for (int i = 0; i < MOST_ITERATIONS; i++) {
        if (!iterate(m, a, direction, y, found)) return false;
        double growth = found->lambda, pair = sqrt(growth * w->growth[0]), earlier = w->growth[1];
        note(w, found);
        found->lambda = fmax(growth, pair);
        if (!(found->lambda > least)) return false;
        found->lambda = growth;
        if (fabs(growth - before) <= converged * growth) return true;
        if (fabs(growth - earlier) <= converged * growth) {
            found->lambda = pair;
            return pair > least;
        }
        before = growth;
        if (i >= MOST_ITERATIONS - MEAN_OF) product += log(growth);
    }
    found->lambda =
        exp(product / MEAN_OF); /* a pair of complex ones goes round: the mean of the last */
    return found->lambda > least;
}

void ode_limit_steps(ode_march *m, const ode_boundary *a, int direction, const ode_mode *found)
{
    ode_watch *w = &m->watch;
    double before = w->most;
    w->most = m->guard.limit / (m->guard.margin * found->lambda);
    w->damped = found->along < damped_along && found->lambda * w->first_output > spent;
    w->reach = INFINITY;
    w->lambda = found->lambda;
    bool shown = hidden * w->seen >= found->lambda;
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
    ode_mode found;
    w->certain =
        ode_find_steepest(m, a, direction, y, close * m->guard.limit / m->guard.margin / h, &found);
    if (w->certain) {
        ode_limit_steps(m, a, direction, &found);
    } else {
        w->lambda = 0;
        if (direction * (a->t - w->until) >= 0) w->most = INFINITY;
        w->reach = found.lambda > 0
                       ? fmax(2 * h, close * m->guard.limit / m->guard.margin / found.lambda)
                       : INFINITY;
        w->due = m->evaluations + looks_apart;
    }
    w->since[0] = w->since[1];
    w->since[1] = m->steps;
    for (int64_t k = from; w->certain && k < m->steps && back < 0; k++)
        if (sizes[k] * found.lambda > beyond * m->guard.limit) back = k;
    if (back < 0) return -1;
    w->since[0] = w->since[1] = back;
    w->until = a->t;
    return back;
}
