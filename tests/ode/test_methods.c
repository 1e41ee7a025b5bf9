/* Methods: order conditions of every tableau by rooted trees (Butcher; Hairer, Norsett, Wanner,
 * Solving ODEs I, II.2), and measured orders.
 */
#include "ode/methods/recorders.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_ORDER = 8, MAX_TREES = 256 };

/* A rooted tree is the multiset of its root's subtrees (numbers of smaller trees). */
typedef struct {
    int order, nchild, child[MAX_ORDER];
    double gamma; /* density */
} tree;

typedef struct {
    int count;
    tree tree[MAX_TREES];
} forest;

static void grow(forest *f, tree *partial, int left, int largest)
{
    if (!left) {
        ck_assert_int_lt(f->count, MAX_TREES);
        partial->gamma = partial->order;
        for (int i = 0; i < partial->nchild; i++)
            partial->gamma *= f->tree[partial->child[i]].gamma;
        f->tree[f->count++] = *partial;
        return;
    }
    for (int k = 0; k <= largest; k++) {
        if (f->tree[k].order > left) continue;
        partial->child[partial->nchild++] = k;
        grow(f, partial, left - f->tree[k].order, k);
        partial->nchild--;
    }
}

static forest all_trees(void)
{
    forest f = { .count = 0 };
    for (int order = 1; order <= MAX_ORDER; order++) {
        tree t = { .order = order };
        grow(&f, &t, order - 1, f.count - 1);
    }
    return f;
}

/* a_ij; the row of the last stage is b. */
static double coefficient(const ode_tableau *t, int i, int j)
{
    if (j < i) return ode_tableau_row(t, i)[j];
    return i > 0 && j == i && i <= t->stages ? t->diagonal : 0;
}

/* u[tree][stage] = product over the root's subtrees of (A u_subtree)[stage]. */
static void elementary_weights(const forest *f, const ode_tableau *t,
                               double u[MAX_TREES][ODE_MAX_STAGES])
{
    int n = t->stages + 1 + t->extra;
    for (int k = 0; k < f->count; k++)
        for (int i = 0; i < n; i++) {
            double product = 1;
            for (int c = 0; c < f->tree[k].nchild; c++) {
                double sum = 0;
                for (int j = 0; j <= i; j++)
                    sum += coefficient(t, i, j) * u[f->tree[k].child[c]][j];
                product *= sum;
            }
            u[k][i] = product;
        }
}

static double worst_residual(const forest *f, double u[MAX_TREES][ODE_MAX_STAGES], int n,
                             const double *w, int order, double theta)
{
    double worst = 0;
    for (int k = 0; k < f->count; k++) {
        if (f->tree[k].order > order) continue;
        double sum = 0;
        for (int i = 0; i < n; i++) sum += w[i] * u[k][i];
        worst = fmax(worst, fabs(sum - pow(theta, f->tree[k].order) / f->tree[k].gamma));
    }
    return worst;
}

START_TEST(number_of_trees)
{
    static const int known[] = { 0, 1, 1, 2, 4, 9, 20, 48, 115 };
    forest f = all_trees();
    int count[MAX_ORDER + 1] = { 0 };
    for (int k = 0; k < f.count; k++) count[f.tree[k].order]++;
    for (int order = 1; order <= MAX_ORDER; order++) ck_assert_int_eq(count[order], known[order]);
}
END_TEST

START_TEST(order_conditions)
{
    const ode_method *m = ode_methods()[_i];
    const ode_tableau *t = m->tableau;
    if (!t) return;
    static double u[MAX_TREES][ODE_MAX_STAGES];
    forest f = all_trees();
    elementary_weights(&f, t, u);
    int s = t->stages, n = s + 1 + t->extra;
    for (int i = 1; i < n; i++) {
        double sum = 0;
        for (int j = 0; j <= i; j++) sum += coefficient(t, i, j);
        ck_assert_msg(fabs(sum - t->c[i]) < 1e-14, "%s: node %d is %g, its row sums to %g", m->name,
                      i, t->c[i], sum);
    }
    double b[ODE_MAX_STAGES];
    for (int i = 0; i <= s; i++) b[i] = coefficient(t, s, i);
    double r = worst_residual(&f, u, s + 1, b, m->order, 1);
    ck_assert_msg(r < (m == &ode_tsit5
                           ? 2e-14
                           : 4e-15), /* Tsitouras's coefficients are published with 16 digits */
                  "%s: order %d: %g", m->name, m->order, r);
    if (m->order < MAX_ORDER)
        ck_assert_msg(worst_residual(&f, u, s + 1, b, m->order + 1, 1) > 1e-6,
                      "%s is of a higher order than %d", m->name, m->order);
    double w[ODE_MAX_STAGES];
    if (t->e) {
        for (int i = 0; i <= s; i++) w[i] = b[i] - t->e[i];
        r = worst_residual(&f, u, s + 1, w, m->error_order, 1);
        ck_assert_msg(r < 1e-14, "%s: embedded order %d: %g", m->name, m->error_order, r);
        ck_assert_msg(worst_residual(&f, u, s + 1, w, m->error_order + 1, 1) > 1e-6,
                      "%s: the estimate is of a higher order", m->name);
    }
    if (t->e3) {
        for (int i = 0; i <= s; i++) w[i] = b[i] - t->e3[i];
        r = worst_residual(&f, u, s + 1, w, 3, 1);
        ck_assert_msg(r < 1e-14, "%s: second estimate: %g", m->name, r);
    }
}
END_TEST

START_TEST(dense_order_conditions)
{
    const ode_method *m = ode_methods()[_i];
    const ode_tableau *t = m->tableau;
    if (!t) return;
    static double u[MAX_TREES][ODE_MAX_STAGES];
    forest f = all_trees();
    elementary_weights(&f, t, u);
    double w[ODE_MAX_STAGES], slope[ODE_MAX_STAGES], above[ODE_MAX_STAGES], below[ODE_MAX_STAGES],
        unused[ODE_MAX_STAGES];
    int n = t->stages + 1 + t->extra;
    for (double theta = 0; theta <= 1.01; theta += 0.125) {
        m->dense(m, theta, w, slope);
        double r = worst_residual(&f, u, n, w, m->dense_order, theta);
        ck_assert_msg(r < 2e-13, "%s: dense order %d at %g: %g", m->name, m->dense_order, theta, r);
        m->dense(m, theta + 1e-5, above, unused);
        m->dense(m, theta - 1e-5, below, unused);
        for (int i = 0; i < n; i++)
            ck_assert_double_eq_tol(slope[i], (above[i] - below[i]) / 2e-5, 1e-6);
    }
    m->dense(m, 1, w, slope);
    for (int i = 0; i < n; i++) {
        ck_assert_double_eq_tol(w[i], i <= t->stages ? coefficient(t, t->stages, i) : 0, 1e-15);
        ck_assert_double_eq_tol(slope[i], i == t->stages, 1e-12);
    }
}
END_TEST

/* y1' = y1^2 cos t, y2' = -2 t y2^2, and a rotation: 1 / (1.5 - sin t), 1 / (1 + t^2), r cos 3t, r
 * sin 3t. A large radius brings the asymptotic steps of accurate methods into the range of errors
 * that is looked at. */
static ad_var smooth(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var c[4];
    for (int i = 0; i < 4; i++) c[i] = ad_slice(y, 1, i, i + 1);
    return ad_concatenate(4,
                          (ad_var[]){ ad_mul(ad_square(c[0]), ad_cos(t)),
                                      ad_mul(ad_scale(t, -2), ad_square(c[1])), ad_scale(c[3], -3),
                                      ad_scale(c[2], 3) },
                          1);
}

static void solution(double t, double radius, double *y)
{
    y[0] = 1 / (1.5 - sin(t));
    y[1] = 1 / (1 + t * t);
    y[2] = radius * cos(3 * t);
    y[3] = radius * sin(3 * t);
}

static double error_with_steps(const ode_method *m, int64_t steps, double from, double to)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double y0[4], y[4], exact[4], sum = 0, radius = m->order > 3 ? 300 : 1;
    solution(from, radius, y0);
    solution(to, radius, exact);
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 4), 1, y0);
    ode_options o = { .method = m, .steps = steps };
    ad_var end = ode_solve_final(smooth, NULL, start, 0, NULL, ode_interval(tape, from, to), &o);
    ck_assert_msg(!ad_get(end, y), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    for (int i = 0; i < 4; i++) sum += (y[i] - exact[i]) * (y[i] - exact[i]);
    return sqrt(sum);
}

/* The slope of log error over log steps by least squares over the last points of at least three
 * halvings with errors in 1e-11..1e-3. */
static double fitted_slope(const ode_method *m, double from, double to)
{
    enum { POINTS = 4 };
    double x[POINTS], e[POINTS];
    int n = 0;
    /* Implicit equations of very large steps may have no solution. */
    int64_t first = ode_method_has(m, ODE_METHOD_IMPLICIT) ? 16 : 2;
    for (int64_t steps = m->order > 2 ? first : 32; steps <= 32768; steps *= 2) {
        double error = error_with_steps(m, steps, from, to);
        if (error > 1e-3) continue;
        if (error < 1e-11) break;
        if (n == POINTS)
            for (int i = 1; i < POINTS; i++) {
                x[i - 1] = x[i];
                e[i - 1] = e[i];
            }
        else n++;
        x[n - 1] = log2((double)steps);
        e[n - 1] = log2(error);
        if (n == POINTS && steps >= 1024) break;
    }
    ck_assert_msg(n == POINTS, "%s: only %d errors in the range", m->name, n);
    double mx = 0, me = 0, xx = 0, xe = 0;
    for (int i = 0; i < n; i++) {
        mx += x[i] / n;
        me += e[i] / n;
    }
    for (int i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        xe += (x[i] - mx) * (e[i] - me);
    }
    return -xe / xx;
}

START_TEST(measured_order)
{
    const ode_method *m = ode_methods()[_i];
    double end = m->order == 1 ? 0.4 : 3; /* sooner, where many steps are needed */
    double forwards = fitted_slope(m, 0, end), backwards = fitted_slope(m, end, 0);
    ck_assert_msg(fabs(forwards - m->order) < 0.15, "%s: measured order %g", m->name, forwards);
    ck_assert_msg(fabs(backwards - m->order) < 0.15, "%s: measured order backwards %g", m->name,
                  backwards);
}
END_TEST

/* The two-step method bootstraps such that its first step is the midpoint rule's. */
START_TEST(two_step_start)
{
    double two_step = error_with_steps(&ode_nystroem2, 1, 0, 0.5),
           midpoint = error_with_steps(&ode_midpoint, 1, 0, 0.5);
    ck_assert_double_eq_tol(two_step, midpoint, 1e-14);
}
END_TEST

START_TEST(listing)
{
    int n = 0;
    for (const ode_method *const *m = ode_methods(); *m; m++, n++) {
        ck_assert_ptr_eq(ode_method_find(ode_method_name(*m)), *m);
        ck_assert_int_gt(ode_method_order(*m), 0);
        ck_assert_ptr_nonnull(ode_method_about(*m));
        ck_assert_int_eq(ode_method_adaptive(*m), (*m)->error_order > 0);
    }
    ck_assert_int_ge(n, 13); /* those of ode.h */
    ck_assert_ptr_null(ode_method_find("no such method"));
    ck_assert_ptr_null(ode_method_find(NULL));
}
END_TEST

int main(void)
{
    TCase *c = suite_case("methods", "methods");
    tcase_add_test(c, listing);
    tcase_add_test(c, two_step_start);
    tcase_add_test(c, number_of_trees);
    tcase_add_loop_test(c, order_conditions, 0, method_count());
    tcase_add_loop_test(c, dense_order_conditions, 0, method_count());
    tcase_add_loop_test(c, measured_order, 0, method_count());
    return suite_run();
}
