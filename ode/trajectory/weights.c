/* Weights of dense output, with their tangents.
 *
 * A jet is a number with its tangents of all orders that a tangent system has: part p, a set of
 * directions, is the mixed derivative along those. Jets are multiplied as such derivatives are, by
 * sums over subsets. A method gives its weights b_i(theta) and their slopes as numbers. Slopes are
 * polynomials of a low degree, so that their values at a few nodes are all that is to be known;
 * first tangents of the weights come from the numbers alone. */
#include "ode/trajectory/weights.h"
#include <math.h>
#include <string.h>

/* ---- jets ---- */

static ode_jet constant(double x) { return (ode_jet){ { x } }; }

static ode_jet product(int parts, const ode_jet *x, const ode_jet *y)
{
    ode_jet z = { { 0 } };
    for (int p = 0; p < parts; p++)
        for (int q = 0; q < parts; q++)
            if ((q & p) == q) z.part[p] += x->part[q] * y->part[p ^ q];
    return z;
}

static ode_jet plus(int parts, const ode_jet *x, double weight, const ode_jet *y)
{
    ode_jet z = *x;
    for (int p = 0; p < parts; p++) z.part[p] += weight * y->part[p];
    return z;
}

/* From z h = 1: the part of z of the largest set is what the others leave. */
static ode_jet reciprocal(int parts, const ode_jet *h)
{
    ode_jet z = constant(1 / h->part[0]);
    for (int p = 1; p < parts; p++) {
        double sum = 0;
        for (int q = 1; q <= p; q++)
            if ((q & p) == q) sum += h->part[q] * z.part[p ^ q];
        z.part[p] = -sum / h->part[0];
    }
    return z;
}

/* ---- polynomials ---- */

/* More than the largest degree of slopes (dopri8: 6). */
enum { NODES = 8 };

/* Chebyshev's, on [0, 1], in an order in which Newton's form is stable: distant ones follow each
 * other. */
static double node(int i)
{
    const double pi = 3.14159265358979323846;
    return 0.5 - 0.5 * cos(pi * (2 * (i * 3 % NODES) + 1) / (2 * NODES));
}

/* Divided differences of the values at the nodes, in their place. */
static void divide(double *value)
{
    for (int k = 1; k < NODES; k++)
        for (int i = NODES - 1; i >= k; i--)
            value[i] = (value[i] - value[i - 1]) / (node(i) - node(i - k));
}

/* The polynomial with these divided differences; its value is known better. */
static ode_jet newton(int parts, const double *difference, const ode_jet *x, double value)
{
    ode_jet sum = constant(difference[NODES - 1]);
    for (int i = NODES - 2; i >= 0; i--) {
        ode_jet factor = *x;
        factor.part[0] -= node(i);
        sum = product(parts, &sum, &factor);
        sum.part[0] += difference[i];
    }
    sum.part[0] = value;
    return sum;
}

/* b(theta) where the slope is known: part p contains some direction d, and along it b changes by
 * slope times theta. */
static ode_jet integral(int parts, const ode_jet *slope, const ode_jet *theta, double value)
{
    ode_jet b = constant(value);
    for (int p = 1; p < parts; p++) {
        int others = p & (p - 1); /* without one direction */
        for (int q = 0; q <= others; q++)
            if ((q & others) == q) b.part[p] += slope->part[q] * theta->part[p ^ q];
    }
    return b;
}

static void evaluate(ode_weights *w, const ode_method *m)
{
    double b[ODE_MAX_STAGES], slope[ODE_MAX_STAGES], at_nodes[ODE_MAX_STAGES][NODES];
    for (int k = 0; w->parts > 1 && k < NODES; k++) {
        m->dense(m, node(k), b, slope);
        for (int i = 0; i < w->stages; i++) at_nodes[i][k] = slope[i];
    }
    m->dense(m, w->theta.part[0], b, slope);
    for (int i = 0; i < w->stages; i++) {
        if (w->parts == 1) {
            w->b[i].part[0] = b[i];
            w->slope[i].part[0] = slope[i];
            continue;
        }
        divide(at_nodes[i]);
        w->slope[i] = newton(w->parts, at_nodes[i], &w->theta, slope[i]);
        w->b[i] = integral(w->parts, &w->slope[i], &w->theta, b[i]);
    }
}

/* ---- weights ---- */

void ode_weights_at(ode_weights *w, const ode_method *m, const ode_system *s, int64_t rows,
                    const ode_boundary *a, const ode_boundary *e, const double *const *clock,
                    const double *t, int stride)
{
    w->parts = s->nclocks > 1 ? 1 << s->order : 1;
    w->stages = m->dense_stages;
    w->cells = rows * s->width / w->parts;
    double h0 = e->t - a->t;
    ode_jet h = constant(h0), after = constant(t[0] - a->t);
    for (int k = 1; k < s->nclocks; k++) {
        double from = ode_boundary_on(a, clock[k]);
        h.part[s->clock[k]] = ode_boundary_on(e, clock[k]) - from;
        after.part[s->clock[k]] = t[k * stride] - from;
    }
    if (w->parts == 1) {
        w->theta.part[0] = after.part[0] / h0;
    } else {
        ode_jet r = reciprocal(w->parts, &h);
        w->theta = product(w->parts, &after, &r);
        w->theta.part[0] = after.part[0] / h0;
    }
    evaluate(w, m);
    for (int i = 0; i < w->stages; i++) {
        if (w->parts > 1) w->w[i] = product(w->parts, &h, &w->b[i]);
        w->w[i].part[0] = h0 * w->b[i].part[0];
    }
}

static char *part_of(const ode_weights *w, ad_dtype dtype, const void *slot, int p)
{
    return (char *)slot + (size_t)(p * w->cells) * ode_bytes(dtype);
}

void ode_weights_apply(const ode_weights *w, ad_dtype dtype, const void *y, const void *k,
                       size_t slot, void *out)
{
    for (int p = 0; p < w->parts; p++) {
        double weight[ODE_MAX_STAGES * ODE_MAX_PARTS];
        const void *term[ODE_MAX_STAGES * ODE_MAX_PARTS];
        int n = 0;
        for (int q = 0; q < w->parts; q++) {
            if ((q & p) != q) continue;
            for (int i = 0; i < w->stages; i++) {
                if (q && w->w[i].part[q] == 0) continue;
                weight[n] = w->w[i].part[q];
                term[n++] = part_of(w, dtype, (const char *)k + (size_t)i * slot, p ^ q);
            }
        }
        ode_combine(dtype, w->cells, part_of(w, dtype, y, p), n, weight, term,
                    part_of(w, dtype, out, p));
    }
}

void ode_weights_spread(const ode_weights *w, ad_dtype dtype, const void *bar, void *k_bar,
                        size_t slot)
{
    for (int p = 0; p < w->parts; p++)
        for (int q = 0; q < w->parts; q++) {
            if ((q & p) != q) continue;
            for (int i = 0; i < w->stages; i++)
                if (w->w[i].part[q] != 0)
                    ode_add_scaled(dtype, w->cells, w->w[i].part[q], part_of(w, dtype, bar, p),
                                   part_of(w, dtype, (char *)k_bar + (size_t)i * slot, p ^ q));
        }
}

/* Of stage i, the cotangents of its weight. */
static ode_jet weight_bar(const ode_weights *w, ad_dtype dtype, const void *bar, const void *k)
{
    ode_jet sum = { { 0 } };
    for (int p = 0; p < w->parts; p++)
        for (int q = 0; q < w->parts; q++)
            if ((q & p) == q)
                sum.part[q] += ode_dot(dtype, w->cells, part_of(w, dtype, k, p ^ q),
                                       part_of(w, dtype, bar, p));
    return sum;
}

/* By clock g, from the cotangents of a jet and its derivative by time: part q of the jet changes
 * with the clock by part q - g of the derivative. */
static double by_clock(int parts, int g, const ode_jet *bar, const ode_jet *derivative)
{
    double sum = 0;
    for (int q = 0; q < parts; q++)
        if ((q & g) == g) sum += bar->part[q] * derivative->part[q ^ g];
    return sum;
}

/* w = (e - a) b((t - a) / (e - a)): its derivatives by t, e and a are b', b - theta b' and
 * -b + (theta - 1) b'. */
void ode_weights_move(const ode_weights *w, const ode_system *s, const void *bar, const void *k,
                      size_t slot, ode_movement *movement)
{
    memset(movement, 0, (size_t)s->nclocks * sizeof *movement);
    for (int i = 0; i < w->stages; i++) {
        ode_jet sum = weight_bar(w, s->dtype, bar, (const char *)k + (size_t)i * slot);
        ode_jet turned = product(w->parts, &w->theta, &w->slope[i]);
        ode_jet by_e = plus(w->parts, &w->b[i], -1, &turned);
        ode_jet by_a = plus(w->parts, &by_e, 1, &w->slope[i]);
        for (int c = 0; c < s->nclocks; c++) {
            int g = s->clock[c];
            movement[c].t += by_clock(w->parts, g, &sum, &w->slope[i]);
            movement[c].e += by_clock(w->parts, g, &sum, &by_e);
            movement[c].a -= by_clock(w->parts, g, &sum, &by_a);
        }
    }
}
