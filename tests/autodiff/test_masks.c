/* Poles that a selection leaves out: the derivative there is that of what is selected, by every
 * route and in every order. */
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ad_tape *tape;

static ad_var number(double x) { return ad_scalar(tape, x); }
static ad_var f_log(ad_var x) { return ad_log(x); }
static ad_var f_sqrt(ad_var x) { return ad_sqrt(x); }
static ad_var f_rsqrt(ad_var x) { return ad_rsqrt(x); }
static ad_var f_reciprocal(ad_var x) { return ad_reciprocal(x); }
static ad_var f_div(ad_var x) { return ad_div(number(2), x); }
static ad_var f_quotient(ad_var x) { return ad_div(ad_shift(x, 1), x); }
static ad_var f_pow(ad_var x) { return ad_pow(x, number(0.3)); }
static ad_var f_power(ad_var x) { return ad_pow(x, ad_shift(x, -0.5)); }
static ad_var f_pow_above_1(ad_var x) { return ad_pow_scalar(x, 1.5); }
static ad_var f_log1p(ad_var x) { return ad_log1p(ad_shift(x, -1)); }
static ad_var f_entropy(ad_var x) { return ad_mul(x, ad_log(x)); }
static ad_var f_huge(ad_var x) { return ad_exp(ad_scale(ad_sub(number(0.5), x), 1e5)); }
static ad_var f_square_root(ad_var x) { return ad_sqrt(ad_square(x)); }
static ad_var f_rsqrt_square(ad_var x) { return ad_rsqrt(ad_mul(x, x)); }
static ad_var f_log_sum(ad_var x) { return ad_log(ad_add(ad_relu(x), ad_square(x))); }
static ad_var f_over_abs(ad_var x) { return ad_div(number(2), ad_abs(ad_scale(x, 0.5))); }
static ad_var f_over_max(ad_var x) { return ad_reciprocal(ad_max(x, ad_scale(x, 2))); }
static ad_var f_scaled(ad_var x) { return ad_mul(ad_square(ad_log(x)), ad_shift(x, 2)); }

static ad_var (*const functions[])(ad_var) = {
    f_log,    f_sqrt,        f_rsqrt,        f_reciprocal, f_div,      f_quotient,
    f_pow,    f_power,       f_pow_above_1,  f_log1p,      f_entropy,  f_huge,
    f_scaled, f_square_root, f_rsqrt_square, f_log_sum,    f_over_abs, f_over_max
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* Each mask gives f at 2 and leaves out f at 0; x = (0, 2). */
static ad_var item(ad_var x, int i) { return ad_slice(x, 0, i, i + 1); }
static ad_var m_select(ad_var x, ad_var y) { return ad_select(ad_gt(x, number(0)), y, number(0)); }
static ad_var m_select_else(ad_var x, ad_var y)
{
    return ad_select(ad_le(x, number(0)), number(3), y);
}
static ad_var m_slice(ad_var x, ad_var y) { return (void)x, item(y, 1); }
static ad_var m_gather(ad_var x, ad_var y)
{
    return (void)x, ad_gather(y, 0, 2, (int64_t[]){ 1, 1 });
}
static ad_var m_take(ad_var x, ad_var y)
{
    return (void)x, ad_take(y, ad_fill(tape, AD_SHAPE(1), 1));
}
static ad_var m_matrix(ad_var x, ad_var y)
{
    ad_var wide = ad_matmul(ad_reshape(y, AD_SHAPE(2, 1)), ad_fill(tape, AD_SHAPE(1, 3), 0.5));
    return ad_select(ad_reshape(ad_gt(x, number(0)), AD_SHAPE(2, 1)), wide, number(0));
}
static ad_var m_twice(ad_var x, ad_var y)
{
    return ad_add(ad_scale(m_select(x, y), 2), m_slice(x, ad_square(y)));
}

static ad_var (*const masks[])(ad_var, ad_var) = { m_select, m_select_else, m_slice, m_gather,
                                                   m_take,   m_matrix,      m_twice };
enum { MASKS = sizeof masks / sizeof *masks };

/* These give 2 at 2 and leave out -1, before f: there f has a pole, or is no number. */
static ad_var u_relu(ad_var x) { return ad_relu(x); }
static ad_var u_max(ad_var x) { return ad_max(number(0), x); }
static ad_var u_min(ad_var x) { return ad_neg(ad_min(ad_neg(x), number(0))); }
static ad_var u_clamp(ad_var x) { return ad_clamp(x, number(0), number(3)); }
static ad_var u_select(ad_var x) { return ad_select(ad_gt(x, number(0)), x, number(0)); }
static ad_var u_select_else(ad_var x) { return ad_select(ad_lt(x, number(0)), number(0), x); }
static ad_var u_pad(ad_var x) { return ad_pad(item(x, 1), 0, 1, 0); }
static ad_var u_scatter(ad_var x) { return ad_scatter_add(item(x, 1), 0, 2, (int64_t[]){ 1 }); }
static ad_var u_scaled(ad_var x)
{
    return ad_scale(ad_flip(ad_flip(ad_relu(ad_scale(x, 2)), 0), 0), 0.5);
}
static ad_var u_matrix(ad_var x)
{
    ad_var wide =
        ad_matmul(ad_reshape(ad_relu(x), AD_SHAPE(2, 1)), ad_fill(tape, AD_SHAPE(1, 3), 0.5));
    return ad_reshape(ad_slice(wide, 1, 0, 2), AD_SHAPE(4));
}

static ad_var (*const before[])(ad_var) = { u_relu,        u_max, u_min,     u_clamp,  u_select,
                                            u_select_else, u_pad, u_scatter, u_scaled, u_matrix };
enum { BEFORE = sizeof before / sizeof *before };

/* ---- routes to the gradient of the sum of y by x [2] ---- */

static ad_var by_reverse(ad_var y, ad_var x)
{
    ad_var g;
    ad_grad(ad_sum_all(y), 1, &x, &g);
    return g;
}

static ad_var by_forward(ad_var y, ad_var x)
{
    ad_var sum = ad_sum_all(y), dot[2];
    for (int i = 0; i < 2; i++) {
        ad_var unit = ad_constant(tape, AD_SHAPE(2), (double[]){ i == 0, i == 1 });
        ad_jvp(1, &x, &unit, 1, &sum, &dot[i]);
        dot[i] = ad_reshape(dot[i], AD_SHAPE(1));
    }
    return ad_concatenate(2, dot, 0);
}

static ad_var by_jacobian(ad_var y, ad_var x)
{
    return ad_sum_axis(ad_jacobian(ad_reshape(y, AD_SHAPE(ad_row_size(ad_shape_of(y)))), x), 0,
                       false);
}

static ad_var (*const routes[])(ad_var, ad_var) = { by_reverse, by_forward, by_jacobian };
enum { ROUTES = sizeof routes / sizeof *routes };

static void values(ad_var g, double *out)
{
    ck_assert_msg(!ad_get(g, out), "%s", ad_tape_error(tape));
}

/* A derivative g by x = (what is left out, 2) is (0, that by z = (2, 2) there). */
static void check_left_out(const char *what, ad_var g, const double *at_two)
{
    double out[2];
    values(g, out);
    ck_assert_msg(out[0] == 0, "%s: %g, not 0", what, out[0]);
    ck_assert_msg(fabs(out[1] - at_two[1]) <= 1e-12 * fabs(at_two[1]) + 1e-300,
                  "%s: %.17g, not %.17g", what, out[1], at_two[1]);
    ck_assert_msg(isfinite(at_two[1]), "%s: %g", what, at_two[1]);
}

enum { ORDERS = 3 };

/* The derivatives of w by z, where nothing is left out, by reverse mode: what all routes give. */
static void derivatives(ad_var w, ad_var z, double out[ORDERS][2])
{
    for (int n = 0; n < ORDERS; n++) {
        w = by_reverse(w, z);
        values(w, out[n]);
    }
}

/* All mixtures of routes, to the third derivative; w is y of z. */
static void check_routes(const char *what, ad_var y, ad_var x, ad_var w, ad_var z)
{
    char name[99];
    double at_two[ORDERS][2];
    derivatives(w, z, at_two);
    for (int i = 0; i < ROUTES; i++) {
        ad_var first = routes[i](y, x);
        snprintf(name, sizeof name, "%s, route %d", what, i);
        check_left_out(name, first, at_two[0]);
        for (int j = 0; j < ROUTES; j++) {
            ad_var second = routes[j](first, x);
            snprintf(name, sizeof name, "%s, route %d of %d", what, j, i);
            check_left_out(name, second, at_two[1]);
            for (int k = 0; k < ROUTES; k++) {
                snprintf(name, sizeof name, "%s, route %d of %d of %d", what, k, j, i);
                check_left_out(name, routes[k](second, x), at_two[2]);
            }
        }
    }
}

/* The trace of elementwise y and its gradient by every route. */
static void check_trace(const char *what, ad_var y, ad_var x, ad_var w, ad_var z)
{
    double trace, at_two[ORDERS][2];
    const double *g = at_two[0];
    ad_var t = ad_jacobian_trace(y, x);
    values(t, &trace);
    derivatives(w, z, at_two);
    ck_assert_msg(fabs(trace - g[1]) <= 1e-12 * fabs(g[1]) + 1e-300, "%s: trace %.17g, not %.17g",
                  what, trace, g[1]);
    for (int i = 0; i < ROUTES; i++) check_left_out(what, routes[i](t, x), at_two[1]);
}

static ad_var (*function)(ad_var);
static ad_var (*mask_after)(ad_var, ad_var);
static ad_var (*mask_before)(ad_var);
static ad_var after(ad_var x) { return mask_after(x, function(x)); }
static ad_var afterwards(ad_var x) { return function(mask_before(x)); }

static void check_masked(const char *what, ad_var (*masked)(ad_var), double bad, bool elementwise)
{
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(2), ((double[]){ bad, 2 })),
           z = ad_param(tape, AD_SHAPE(2), ((double[]){ 2, 2 }));
    ad_var y = masked(x), w = masked(z);
    check_routes(what, y, x, w, z);
    if (elementwise) check_trace(what, y, x, w, z);
    ad_tape_free(tape);
}

START_TEST(left_out)
{
    char what[64];
    function = functions[_i];
    for (int m = 0; m < MASKS; m++) {
        mask_after = masks[m];
        snprintf(what, sizeof what, "function %d, mask %d after it", _i, m);
        check_masked(what, after, 0, masks[m] == m_select || masks[m] == m_select_else);
    }
    for (int m = 0; m < BEFORE; m++) {
        mask_before = before[m];
        snprintf(what, sizeof what, "function %d, mask %d before it", _i, m);
        check_masked(what, afterwards, -1, before[m] != u_matrix);
    }
}
END_TEST

/* The operations that select by size, of logarithms at 0 and at 2. */
static ad_var s_relu(ad_var y) { return ad_relu(y); }
static ad_var s_max(ad_var y) { return ad_max(y, number(-1)); }
static ad_var s_min(ad_var y) { return ad_neg(ad_min(ad_neg(y), number(1))); }
static ad_var s_clamp(ad_var y) { return ad_clamp(y, number(-1), number(3)); }
static ad_var (*const by_size[])(ad_var) = { s_relu, s_max, s_min, s_clamp };
enum { BY_SIZE = sizeof by_size / sizeof *by_size };

static ad_var (*size)(ad_var);
static ad_var logarithm_by_size(ad_var x) { return size(ad_log(x)); }

START_TEST(selected_by_size)
{
    size = by_size[_i];
    check_masked("by size", logarithm_by_size, 0, true);
}
END_TEST

START_TEST(largest)
{
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(2), ((double[]){ 0, 2 }));
    double g[2];
    for (int i = 0; i < 2; i++) {
        ad_var first = routes[i](ad_reduce_max(ad_log(x), 0, NULL, false), x);
        values(first, g);
        ck_assert_msg(g[0] == 0 && g[1] == 0.5, "%d: %g %g", i, g[0], g[1]);
        for (int k = 0; k < 2; k++) {
            values(routes[k](first, x), g);
            ck_assert_msg(g[0] == 0 && g[1] == -0.25, "%d of %d: %g %g", k, i, g[0], g[1]);
        }
        /* What is left out before the maximum is taken: the derivative of the maximum there is that
         * of 0. */
        values(routes[i](ad_sqrt(ad_reduce_max(ad_relu(ad_neg(x)), 0, NULL, false)), x), g);
        ck_assert_msg(g[0] == 0 && g[1] == 0, "%d: %g %g", i, g[0], g[1]);
    }
    ad_tape_free(tape);
}
END_TEST

/* A contraction with what is infinite where the other operand is left out. */
START_TEST(contracted)
{
    tape = ad_tape_new(AD_F64);
    double g[2];
    ad_var x = ad_param(tape, AD_SHAPE(2), ((double[]){ 0, 2 })),
           one = ad_fill(tape, AD_SHAPE(2), 1);
    ad_var weight = ad_reciprocal(ad_mul(ad_stop_gradient(x), one));
    ad_var y =
        ad_matmul(ad_reshape(ad_relu(x), AD_SHAPE(1, 2)), ad_reshape(weight, AD_SHAPE(2, 1)));
    for (int i = 0; i < ROUTES; i++) {
        values(routes[i](y, x), g);
        ck_assert_msg(g[0] == 0 && g[1] == 0.5, "route %d: %g %g", i, g[0], g[1]);
    }
    ad_tape_free(tape);
}
END_TEST

/* Pieces of rows: a pole in a piece that a slice cuts off, or beside which another piece lies. x is
 * one row [rows,2] of (0, 2); Jacobian and trace are those of unit tangents. */
static ad_var piece(ad_var x, int i) { return ad_slice(x, 1, i, i + 1); }
static ad_var pair(ad_var a, ad_var b) { return ad_concatenate(2, (ad_var[]){ a, b }, 1); }
static ad_var w_cut(ad_var x) { return pair(piece(ad_log(x), 1), piece(x, 0)); }
static ad_var w_cut_twice(ad_var x) { return ad_slice(pair(ad_sqrt(x), ad_scale(x, 3)), 1, 1, 3); }
static ad_var w_cut_all(ad_var x) { return ad_slice(pair(ad_log(x), x), 1, 2, 4); }
static ad_var w_flipped(ad_var x)
{
    return pair(piece(ad_flip(ad_log(x), 1), 0), piece(ad_flip(x, 1), 1));
}
static ad_var w_beside(ad_var x) { return ad_slice(pair(ad_log(piece(x, 0)), ad_sin(x)), 1, 1, 3); }
static ad_var w_common(ad_var x)
{
    ad_var common =
        ad_mul(ad_log(piece(x, 0)), ad_constant(x.tape, AD_SHAPE(2), (double[]){ 1, 3 }));
    return ad_slice(pair(common, ad_square(x)), 1, 2, 4);
}
static ad_var (*const windows[])(ad_var) = { w_cut,     w_cut_twice, w_cut_all,
                                             w_flipped, w_beside,    w_common };

START_TEST(cut_off)
{
    double jacobian[4], column[2], trace;
    tape = ad_tape_new(_i & 1 ? AD_F32 : AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ 0, 2 })),
           y = windows[_i / 2](x);
    values(ad_jacobian(y, x), jacobian);
    values(ad_jacobian_trace(y, x), &trace);
    for (int j = 0; j < 2; j++) {
        ad_var unit = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ j == 0, j == 1 })),
               dot;
        ad_jvp(1, &x, &unit, 1, &y, &dot);
        values(dot, column);
        for (int i = 0; i < 2; i++)
            ck_assert_msg(isfinite(column[i]) && fabs(jacobian[2 * i + j] - column[i]) < 1e-6,
                          "element %d by %d: %g, not %g", i, j, jacobian[2 * i + j], column[i]);
    }
    ck_assert_msg(fabs(trace - jacobian[0] - jacobian[3]) < 1e-6, "trace %g", trace);
    ad_tape_free(tape);
}
END_TEST

/* What mixes the elements of a row before a mask leaves out the whole row: Jacobian and trace of y
 * and of its gradient. Of (left out, not left out) and of (not, not) the second row is equal. */
static void by_rows(double first, double out[4][8])
{
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, ((double[]){ first, 2, 2, 3 })), g;
    ad_var w = ad_param(tape, AD_SHAPE(2, 2), ((double[]){ 1, 2, -3, 0.5 }));
    ad_var y = ad_matmul(function(x), w);
    y = ad_select(ad_gt(ad_slice(x, 1, 0, 1), number(1)), ad_mul(y, y), number(1));
    ad_grad(ad_sum_all(y), 1, &x, &g);
    values(ad_jacobian(y, x), out[0]);
    values(ad_jacobian_trace(y, x), out[1]);
    values(ad_jacobian(g, x), out[2]);
    values(ad_jacobian_trace(g, x), out[3]);
}

START_TEST(rows_left_out)
{
    const int sizes[] = { 4, 1, 4, 1 };
    double masked[4][8], safe[4][8];
    tape = ad_tape_new(AD_F64);
    function = functions[_i];
    by_rows(0, masked);
    by_rows(2, safe);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < sizes[k]; i++) {
            const double got = masked[k][sizes[k] + i], right = safe[k][sizes[k] + i];
            ck_assert_msg(masked[k][i] == 0, "%d, element %d: %g, not 0", k, i, masked[k][i]);
            ck_assert_msg(fabs(got - right) <= 1e-12 * fabs(right), "%d, element %d: %g, not %g", k,
                          i, got, right);
        }
    ad_tape_free(tape);
}
END_TEST

/* The same where the mask leaves out the first element of y alone: its row of the Jacobian is 0. */
START_TEST(one_left_out)
{
    double jacobian[4];
    tape = ad_tape_new(AD_F64);
    function = functions[_i];
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ 0, 2 }));
    ad_var w = ad_param(tape, AD_SHAPE(2, 2), ((double[]){ 1, 2, -3, 0.5 }));
    ad_var taken = ad_constant(tape, AD_SHAPE(2), (double[]){ 0, 1 });
    values(ad_jacobian(ad_select(taken, ad_matmul(function(x), w), number(0)), x), jacobian);
    ck_assert_msg(jacobian[0] == 0 && jacobian[1] == 0, "%g %g", jacobian[0], jacobian[1]);
    ad_tape_free(tape);
}
END_TEST

/* Of two images (0, 1, 2) and (2, 3, 1) the first is left out, before or behind a convolution. */
static ad_var left_out_image(ad_var x, bool before, bool transposed)
{
    ad_var w = ad_constant(tape, AD_SHAPE(3, 1, 1), (double[]){ 1, 2, 0.5 });
    ad_var live = ad_constant(tape, AD_SHAPE(2, 1, 1), (double[]){ 0, 1 });
    const ad_conv_options options = { .before = { 1 }, .after = { 1 } };
    ad_var image = before ? ad_select(live, x, number(0)) : function(x);
    ad_var y = transposed ? ad_conv_transpose(image, w, &options) : ad_conv(image, w, &options);
    return before ? function(y) : ad_select(live, ad_mul(y, y), number(1));
}

START_TEST(image_left_out)
{
    const double direction[] = { 1, 2, 3, 3, 2, 1 };
    double got[6];
    function = _i & 4 ? f_sqrt : f_log;
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(2, 3, 1), ((double[]){ 0, 1, 2, 2, 3, 1 }));
    ad_var v = ad_constant(tape, AD_SHAPE(2, 3, 1), direction), loss, g, h, d, gradient[3];
    loss = ad_sum_all(left_out_image(x, _i & 1, _i & 2));
    /* The second image alone, where the first is not 0. */
    ad_var z = ad_param(tape, AD_SHAPE(2, 3, 1), ((double[]){ 2, 3, 1, 2, 3, 1 }));
    ad_var right = ad_sum_all(ad_slice(left_out_image(z, _i & 1, _i & 2), 0, 1, 2)), expected[3];
    ad_grad(loss, 1, &x, &g);
    gradient[0] = ad_sum_all(ad_mul(g, v));
    ad_jvp(1, &x, &v, 1, &loss, &gradient[1]);
    ad_jvp(1, &x, &v, 1, &g, &h);
    gradient[2] = ad_sum_all(ad_mul(h, v));
    values(g, got);
    for (int i = 0; i < 3; i++) ck_assert_msg(got[i] == 0, "%d: %g", i, got[i]);
    values(h, got);
    for (int i = 0; i < 3; i++) ck_assert_msg(got[i] == 0, "second, %d: %g", i, got[i]);
    ad_grad(right, 1, &z, &d);
    expected[0] = expected[1] = ad_sum_all(ad_mul(d, v));
    expected[2] = ad_sum_all(ad_mul(ad_hvp(right, z, v), v));
    for (int i = 0; i < 3; i++) {
        const double is = ad_item(gradient[i]), should = ad_item(expected[i]);
        ck_assert_msg(fabs(is - should) <= 1e-12 * fabs(should), "%d: %.17g, not %.17g", i, is,
                      should);
    }
    ad_tape_free(tape);
}
END_TEST

/* A row that is masked leaves the gradient of weights alone; a zero that is none of the mask's is
 * not taken for one. */
START_TEST(beside_the_mask)
{
    double g[2];
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, ((double[]){ 0, 1, 2, 4 }));
    ad_var w = ad_param(tape, AD_SHAPE(2, 1), ((double[]){ 3, 5 })), y = ad_matmul(ad_log(x), w);
    ad_var kept = ad_constant(tape, AD_SHAPE(1), (double[]){ 1 });
    ad_var first = ad_slice(x, 1, 0, 1),
           loss = ad_sum_all(ad_select(ad_gt(first, number(0)), ad_mul(y, kept), number(0)));
    values(by_reverse(loss, w), g);
    ck_assert_double_eq_tol(g[0], log(2), 1e-15);
    ck_assert_double_eq_tol(g[1], log(4), 1e-15);
    ad_var p = ad_param(tape, AD_SHAPE(2), ((double[]){ 0, 4 }));
    const ad_var roots[] = { ad_select(ad_ge(p, number(0)), ad_square(ad_sqrt(p)), number(0)),
                             ad_square(ad_sqrt(ad_max(p, number(-1)))) };
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < ROUTES; i++) {
            values(routes[i](roots[k], p), g);
            ck_assert(g[0] != 0); /* 1 is right; no number is what 0 times infinity gives */
            ck_assert(i != 0 || g[1] == 1);
        }
    ad_tape_free(tape);
}
END_TEST

/* A norm divides by what cannot be 0: nothing is recorded for relu before and after it. */
static ad_var normalised(ad_var x, double epsilon)
{
    ad_var centred = ad_sub(x, ad_mean(x, 1, (int[]){ 0 }, true));
    ad_var variance = ad_mean(ad_square(centred), 1, (int[]){ 0 }, true);
    return ad_mul(centred, ad_rsqrt(ad_shift(variance, epsilon)));
}

static int selections(double epsilon)
{
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(4), ((double[]){ 1, 2, 3, 5 })), g;
    ad_var y = ad_relu(normalised(ad_square(ad_relu(x)), epsilon));
    ad_grad(ad_sum_all(y), 1, &x, &g);
    ad_program *p = ad_compile(1, &x, 1, &g);
    char *text = ad_program_describe(p);
    int n = 0;
    for (const char *at = text; (at = strstr(at, "select(")); at++) n++;
    free(text);
    ad_program_free(p);
    ad_tape_free(tape);
    return n;
}

START_TEST(out_of_reach)
{
    ck_assert_int_eq(selections(1e-5), 2);
    ck_assert_int_gt(selections(0), 2);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("masks", "masks");
    tcase_add_loop_test(tests, left_out, 0, FUNCTIONS);
    tcase_add_loop_test(tests, selected_by_size, 0, BY_SIZE);
    tcase_add_test(tests, largest);
    tcase_add_test(tests, contracted);
    tcase_add_loop_test(tests, cut_off, 0, 2 * (int)(sizeof windows / sizeof *windows));
    tcase_add_loop_test(tests, rows_left_out, 0, FUNCTIONS);
    tcase_add_loop_test(tests, one_left_out, 0, FUNCTIONS);
    tcase_add_loop_test(tests, image_left_out, 0, 8);
    tcase_add_test(tests, beside_the_mask);
    tcase_add_test(tests, out_of_reach);
    return suite_run();
}
