/* Reverse mode derives from equal nodes once: a gradient has the size of the recording without its
 * repetitions, and is by each variable what it is without that. */
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { MOST = 7 };

/* ---- determinants by minors: 7! products, of which 448 are different ---- */

/* Of the rows from `row` on and the columns of the mask. */
static ad_var minor(int n, const ad_var *a, int row, unsigned columns)
{
    ad_var sum = ad_none(a[0].tape);
    int k = 0;
    for (int c = 0; c < n; c++) {
        if (!(columns >> c & 1)) continue;
        ad_var term = a[row * n + c];
        if (row < n - 1) term = ad_mul(term, minor(n, a, row + 1, columns & ~(1u << c)));
        sum = k == 0 ? term : k % 2 ? ad_sub(sum, term) : ad_add(sum, term);
        k++;
    }
    return sum;
}

/* det A and A^-1 [n,n] by Gauss and Jordan's elimination. */
static double inverse(int n, const double *a, double *inv)
{
    double w[MOST][2 * MOST] = { { 0 } }, det = 1;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            w[i][j] = a[i * n + j];
            w[i][n + j] = i == j;
        }
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k; i < n; i++)
            if (fabs(w[i][k]) > fabs(w[best][k])) best = i;
        for (int j = 0; j < 2 * n && best != k; j++) {
            const double swap = w[k][j];
            w[k][j] = w[best][j];
            w[best][j] = swap;
        }
        const double pivot = w[k][k];
        det *= best == k ? pivot : -pivot;
        for (int j = 0; j < 2 * n; j++) w[k][j] /= pivot;
        for (int i = 0; i < n; i++) {
            const double factor = w[i][k];
            for (int j = 0; j < 2 * n && i != k; j++) w[i][j] -= factor * w[k][j];
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) inv[i * n + j] = w[i][n + j];
    return det;
}

START_TEST(determinants)
{
    const int n = _i;
    double a[MOST * MOST], inv[MOST * MOST], got[MOST * MOST];
    for (int i = 0; i < n * n; i++) a[i] = sin(1.7 * i * i + 0.3) + (i % (n + 1) == 0);
    const double det = inverse(n, a, inv);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(n * n), a), element[MOST * MOST], gradient;
    for (int i = 0; i < n * n; i++) element[i] = ad_slice(x, -1, i, i + 1);
    ad_var y = ad_sum_all(minor(n, element, 0, (1u << n) - 1));
    const int32_t before = ad_tape_mark(t);
    ad_grad(y, 1, &x, &gradient);
    const int32_t recorded = ad_tape_mark(t) - before;
    /* A product for each row and set of columns has two cotangents, and each is negated or added at
     * most once. */
    ck_assert_int_le(recorded, 4 * n * (1 << (n - 1)) + 4 * n);
    ck_assert_msg(fabs(ad_item(y) - det) < 1e-13, "determinant %.17g, should be %.17g", ad_item(y),
                  det);
    ck_assert_msg(ad_get(gradient, got) == 0, "%s", ad_tape_error(t));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const double want = det * inv[j * n + i];
            ck_assert_msg(fabs(got[i * n + j] - want) < 1e-12, "element %d,%d: %.17g, not %.17g", i,
                          j, got[i * n + j], want);
        }
    ad_tape_free(t);
}
END_TEST

/* ---- what stays apart ---- */

static double derivative(ad_var y, ad_var x)
{
    ad_var g;
    ad_grad(y, 1, &x, &g);
    const double value = ad_item(g);
    ck_assert_msg(!ad_tape_error(x.tape), "%s", ad_tape_error(x.tape));
    return value;
}

/* u and v are equal, and each has its own derivative; so do variables that are computed from them.
 */
START_TEST(variables)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var a = ad_input(t, AD_SCALAR, ((double[]){ 0.7 }));
    ad_var u = ad_sin(a), v = ad_sin(a), y = ad_mul(ad_square(u), v);
    ad_var z = ad_add(ad_scale(ad_exp(u), 3), ad_scale(ad_exp(v), 5)), xs[3] = { a, u, v };
    ad_var g[3];
    const double s = sin(0.7), c = cos(0.7);
    ck_assert_double_eq_tol(derivative(y, u), 2 * s * s, 1e-15);
    ck_assert_double_eq_tol(derivative(y, v), s * s, 1e-15);
    ck_assert_double_eq_tol(derivative(y, a), 3 * s * s * c, 1e-15);
    ck_assert_double_eq_tol(derivative(z, u), 3 * exp(s), 1e-14);
    ck_assert_double_eq_tol(derivative(z, v), 5 * exp(s), 1e-14);
    ck_assert_double_eq_tol(derivative(z, a), 8 * exp(s) * c, 1e-14);
    ad_grad(z, 3, xs, g);
    ck_assert_double_eq_tol(ad_item(g[0]), 8 * exp(s) * c, 1e-14);
    ck_assert_double_eq_tol(ad_item(g[1]), 3 * exp(s), 1e-14);
    ck_assert_double_eq_tol(ad_item(g[2]), 5 * exp(s), 1e-14);
    ad_tape_free(t);
}
END_TEST

/* Equal intermediate values that do not depend on x stay apart: derivatives of a gradient by each
 * are its own. */
START_TEST(coefficients)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, ((double[]){ 2 }));
    ad_var a = ad_input(t, AD_SCALAR, ((double[]){ 0.7 }));
    ad_var u = ad_sin(a), v = ad_sin(a), g;
    ad_var y = ad_add(ad_mul(x, u), ad_scale(ad_mul(x, v), 2));
    ad_grad(y, 1, &x, &g);
    ck_assert_double_eq(derivative(g, u), 1);
    ck_assert_double_eq(derivative(g, v), 2);
    ck_assert_double_eq_tol(derivative(g, a), 3 * cos(0.7), 1e-15);
    ad_tape_free(t);
}
END_TEST

/* x / c within -5 and 5. */
static ad_var clamped(ad_var x, double c)
{
    ad_tape *t = x.tape;
    return ad_clamp(ad_div(x, ad_scalar(t, c)), ad_scalar(t, -5), ad_scalar(t, 5));
}

/* Constants are equal by their bits: x / -0 is not x / 0. */
START_TEST(zeros)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, ((double[]){ 3 }));
    ad_var plus = ad_mul(x, clamped(x, 0)), minus = ad_mul(x, clamped(x, -0.0));
    ck_assert_double_eq(ad_item(plus), 15);
    ck_assert_double_eq(ad_item(minus), -15);
    ck_assert_double_eq(derivative(ad_add(plus, ad_scale(minus, 2)), x), -5);
    ad_tape_free(t);
}
END_TEST

/* ---- second derivatives, and poles that a selection leaves out ---- */

static double left_out(double at)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, &at), zero = ad_scalar(t, 0);
    ad_var y = ad_add(ad_select(ad_gt(x, zero), ad_log(x), zero),
                      ad_select(ad_gt(x, ad_scalar(t, 0.5)), ad_log(x), zero));
    const double d = derivative(y, x);
    ad_tape_free(t);
    return d;
}

START_TEST(selections)
{
    ck_assert_double_eq(left_out(0), 0);
    ck_assert_double_eq(left_out(0.25), 4);
    ck_assert_double_eq(left_out(2), 1);
}
END_TEST

START_TEST(second)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, ((double[]){ 0.4 })), g;
    ad_var y = ad_mul(ad_exp(ad_sin(x)), ad_exp(ad_sin(x))); /* exp(2 sin x) */
    ad_grad(y, 1, &x, &g);
    const double s = sin(0.4), c = cos(0.4), e = exp(2 * s);
    ck_assert_double_eq_tol(ad_item(g), 2 * c * e, 1e-14);
    ck_assert_double_eq_tol(derivative(g, x), (4 * c * c - 2 * s) * e, 1e-13);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("equal", "equal");
    tcase_add_loop_test(tests, determinants, 1, MOST + 1);
    tcase_add_test(tests, variables);
    tcase_add_test(tests, coefficients);
    tcase_add_test(tests, zeros);
    tcase_add_test(tests, selections);
    tcase_add_test(tests, second);
    return suite_run();
}
