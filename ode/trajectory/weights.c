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

typedef double jet[ODE_MAX_PARTS];

static void make_constant(int parts, double x, double *z)
{
    memset(z, 0, (size_t)parts * sizeof *z);
    z[0] = x;
}

/* z = x y; z is neither. */
static void multiply(int parts, const double *x, const double *y, double *z)
{
    for (int p = 0; p < parts; p++) {
        z[p] = 0;
        for (int q = 0; q <= p; q++)
            if ((q & p) == q) z[p] += x[q] * y[p ^ q];
    }
}

/* z = 1 / h, from z h = 1: the part of z of the largest set is what the others leave. */
static void invert(int parts, const double *h, double *z)
{
    z[0] = 1 / h[0];
    for (int p = 1; p < parts; p++) {
        double sum = 0;
        for (int q = 1; q <= p; q++)
            if ((q & p) == q) sum += h[q] * z[p ^ q];
        z[p] = -sum / h[0];
    }
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
static void newton(int parts, const double *difference, const double *x, double value, double *z)
{
    jet factor, sum;
    memcpy(factor, x, (size_t)parts * sizeof *x);
    make_constant(parts, difference[NODES - 1], sum);
    for (int i = NODES - 2; i >= 0; i--) {
        factor[0] = x[0] - node(i);
        multiply(parts, sum, factor, z);
        z[0] += difference[i];
        memcpy(sum, z, (size_t)parts * sizeof *z);
    }
    z[0] = value;
}

/* b(theta) where the slope is known: part p contains some direction d, and along it b changes by
 * slope times theta. */
static void integrate(int parts, const double *slope, const double *theta, double value, double *b)
{
    make_constant(parts, value, b);
    for (int p = 1; p < parts; p++) {
        int others = p & (p - 1); /* without one direction */
        for (int q = 0; q <= others; q++)
            if ((q & others) == q) b[p] += slope[q] * theta[p ^ q];
    }
}

/* ---- weights ---- */

/* The parts of w, b and slope besides the first, where times move. */
static void add_tangents(ode_weights *w, const ode_method *m, const ode_system *s,
                         const ode_boundary *a, const ode_boundary *e, const double *const *clock,
                         const double *t, int stride)
{
    double b[ODE_MAX_STAGES], slope[ODE_MAX_STAGES], at_nodes[ODE_MAX_STAGES][NODES];
    double theta = w->theta[0];
    int n = w->parts;
    jet h, after, reciprocal, b_jet, slope_jet, w_jet;
    make_constant(n, e->t - a->t, h);
    make_constant(n, t[0] - a->t, after);
    for (int k = 1; k < s->nclocks; k++) {
        double from = ode_boundary_on(a, clock[k]);
        h[s->clock[k]] = ode_boundary_on(e, clock[k]) - from;
        after[s->clock[k]] = t[k * stride] - from;
    }
    invert(n, h, reciprocal);
    multiply(n, after, reciprocal, w->theta);
    w->theta[0] = theta;
    for (int k = 0; k < NODES; k++) {
        m->dense(m, node(k), b, slope);
        for (int i = 0; i < w->stages; i++) at_nodes[i][k] = slope[i];
    }
    for (int i = 0; i < w->stages; i++) {
        divide(at_nodes[i]);
        newton(n, at_nodes[i], w->theta, w->of[0].slope[i], slope_jet);
        integrate(n, slope_jet, w->theta, w->of[0].b[i], b_jet);
        multiply(n, h, b_jet, w_jet);
        for (int p = 1; p < n; p++) {
            w->of[p].slope[i] = slope_jet[p];
            w->of[p].b[i] = b_jet[p];
            w->of[p].w[i] = w_jet[p];
        }
    }
}

void ode_weights_at(ode_weights *w, const ode_method *m, const ode_system *s, int64_t rows,
                    const ode_boundary *a, const ode_boundary *e, const double *const *clock,
                    const double *t, int stride)
{
    double h = e->t - a->t;
    w->parts = s->nclocks > 1 ? 1 << s->order : 1;
    w->stages = m->dense_stages;
    w->cells = rows * s->width / w->parts;
    w->theta[0] = (t[0] - a->t) / h;
    m->dense(m, w->theta[0], w->of[0].b, w->of[0].slope);
    for (int i = 0; i < w->stages; i++) w->of[0].w[i] = h * w->of[0].b[i];
    if (w->parts > 1) add_tangents(w, m, s, a, e, clock, t, stride);
}

static char *part_of(const ode_weights *w, ad_dtype dtype, const void *slot, int p)
{
    return (char *)slot + (size_t)(p * w->cells) * ode_bytes(dtype);
}

/* The part p > 0 of the solution. */
static void apply_part(const ode_weights *w, ad_dtype dtype, int p, const void *y, const void *k,
                       size_t slot, void *out)
{
    double weight[ODE_MAX_STAGES * ODE_MAX_PARTS];
    const void *term[ODE_MAX_STAGES * ODE_MAX_PARTS];
    int n = 0;
    for (int q = 0; q <= p; q++) {
        if ((q & p) != q) continue;
        for (int i = 0; i < w->stages; i++) {
            if (q && w->of[q].w[i] == 0) continue;
            weight[n] = w->of[q].w[i];
            term[n++] = part_of(w, dtype, (const char *)k + (size_t)i * slot, p ^ q);
        }
    }
    ode_combine(dtype, w->cells, part_of(w, dtype, y, p), n, weight, term,
                part_of(w, dtype, out, p));
}

void ode_weights_apply(const ode_weights *w, ad_dtype dtype, const void *y, const void *k,
                       size_t slot, void *out)
{
    const void *stage[ODE_MAX_STAGES];
    for (int i = 0; i < w->stages; i++) stage[i] = (const char *)k + (size_t)i * slot;
    ode_combine(dtype, w->cells, y, w->stages, w->of[0].w, stage, out);
    for (int p = 1; p < w->parts; p++) apply_part(w, dtype, p, y, k, slot, out);
}

void ode_weights_spread(const ode_weights *w, ad_dtype dtype, const void *bar, void *k_bar,
                        size_t slot)
{
    for (int p = 0; p < w->parts; p++)
        for (int q = 0; q <= p; q++) {
            if ((q & p) != q) continue;
            for (int i = 0; i < w->stages; i++)
                if (w->of[q].w[i] != 0)
                    ode_add_scaled(dtype, w->cells, w->of[q].w[i], part_of(w, dtype, bar, p),
                                   part_of(w, dtype, (char *)k_bar + (size_t)i * slot, p ^ q));
        }
}

/* Of a stage, the cotangents of its weight, by part. */
static void weight_bar(const ode_weights *w, ad_dtype dtype, const void *bar, const void *k,
                       double *sum)
{
    memset(sum, 0, (size_t)w->parts * sizeof *sum);
    for (int p = 0; p < w->parts; p++)
        for (int q = 0; q <= p; q++)
            if ((q & p) == q)
                sum[q] += ode_dot(dtype, w->cells, part_of(w, dtype, k, p ^ q),
                                  part_of(w, dtype, bar, p));
}

/* By clock g, from the cotangents of a jet and its derivative by time: part q of the jet changes
 * with the clock by part q - g of the derivative. */
static double by_clock(int parts, int g, const double *bar, const double *derivative)
{
    double sum = 0;
    for (int q = g; q < parts; q++)
        if ((q & g) == g) sum += bar[q] * derivative[q ^ g];
    return sum;
}

/* w = (e - a) b((t - a) / (e - a)): its derivatives by t, e and a are b', b - theta b' and
 * -b + (theta - 1) b'. */
void ode_weights_move(const ode_weights *w, const ode_system *s, const void *bar, const void *k,
                      size_t slot, ode_movement *movement)
{
    jet sum, slope, turned, by_e, by_a;
    memset(movement, 0, (size_t)s->nclocks * sizeof *movement);
    for (int i = 0; i < w->stages; i++) {
        weight_bar(w, s->dtype, bar, (const char *)k + (size_t)i * slot, sum);
        for (int p = 0; p < w->parts; p++) slope[p] = w->of[p].slope[i];
        multiply(w->parts, w->theta, slope, turned);
        for (int p = 0; p < w->parts; p++) {
            by_e[p] = w->of[p].b[i] - turned[p];
            by_a[p] = by_e[p] + slope[p];
        }
        for (int c = 0; c < s->nclocks; c++) {
            int g = s->clock[c];
            movement[c].t += by_clock(w->parts, g, sum, slope);
            movement[c].e += by_clock(w->parts, g, sum, by_e);
            movement[c].a -= by_clock(w->parts, g, sum, by_a);
        }
    }
}
