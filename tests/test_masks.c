/* Poles that a selection leaves out: the derivative there is that of what is selected, by every route and in every order. */
#include "autodiff/autodiff.h"
#include "suite.h"
#include <math.h>

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
static ad_var f_scaled(ad_var x) { return ad_mul(ad_square(ad_log(x)), ad_shift(x, 2)); }

static ad_var (*const functions[])(ad_var) = { f_log,   f_sqrt,        f_rsqrt, f_reciprocal, f_div,  f_quotient, f_pow,
                                               f_power, f_pow_above_1, f_log1p, f_entropy,    f_huge, f_scaled };
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* Each mask gives f at 2 and leaves out f at 0; x = (0, 2). */
static ad_var item(ad_var x, int i) { return ad_slice(x, 0, i, i + 1); }
static ad_var m_select(ad_var x, ad_var y) { return ad_select(ad_gt(x, number(0)), y, number(0)); }
static ad_var m_select_else(ad_var x, ad_var y) { return ad_select(ad_le(x, number(0)), number(3), y); }
static ad_var m_slice(ad_var x, ad_var y) { return (void)x, item(y, 1); }
static ad_var m_gather(ad_var x, ad_var y) { return (void)x, ad_gather(y, 0, 2, (int64_t[]){ 1, 1 }); }
static ad_var m_take(ad_var x, ad_var y) { return (void)x, ad_take(y, ad_fill(tape, AD_SHAPE(1), 1)); }
static ad_var m_matrix(ad_var x, ad_var y)
{
    ad_var wide = ad_matmul(ad_reshape(y, AD_SHAPE(2, 1)), ad_fill(tape, AD_SHAPE(1, 3), 0.5));
    return ad_select(ad_reshape(ad_gt(x, number(0)), AD_SHAPE(2, 1)), wide, number(0));
}
static ad_var m_twice(ad_var x, ad_var y) { return ad_add(ad_scale(m_select(x, y), 2), m_slice(x, ad_square(y))); }

static ad_var (*const masks[])(ad_var, ad_var) = { m_select, m_select_else, m_slice, m_gather, m_take, m_matrix, m_twice };
enum { MASKS = sizeof masks / sizeof *masks };

static double gradient_of(ad_var y, ad_var x, double *g)
{
    ad_var bar;
    ad_grad(y, 1, &x, &bar);
    ck_assert_msg(!ad_get(bar, g), "%s", ad_tape_error(tape));
    return g[0];
}

/* The derivatives at (0, 2) are (0, as with 2 in both places, which needs no mask). */
START_TEST(left_out)
{
    for (int m = 0; m < MASKS; m++) {
        double g[2], alone[2], h[2], h_alone[2], third[2];
        tape = ad_tape_new(AD_F64);
        ad_var v = ad_constant(tape, AD_SHAPE(2), ((double[]){ 1, 1 })), bar;
        ad_var x = ad_param(tape, AD_SHAPE(2), ((double[]){ 0, 2 })), y = ad_sum_all(masks[m](x, functions[_i](x)));
        ad_var z = ad_param(tape, AD_SHAPE(2), ((double[]){ 2, 2 })), w = ad_sum_all(masks[m](z, functions[_i](z)));
        gradient_of(y, x, g);
        gradient_of(w, z, alone);
        ck_assert_msg(g[0] == 0, "function %d, mask %d: gradient %g", _i, m, g[0]);
        ck_assert_double_eq_tol(g[1], alone[1], 1e-12 * fabs(alone[1]) + 1e-300);
        ck_assert_int_eq(ad_get(ad_hvp(y, x, v), h), 0);
        ck_assert_int_eq(ad_get(ad_hvp(w, z, v), h_alone), 0);
        ck_assert_msg(h[0] == 0, "function %d, mask %d: Hessian %g", _i, m, h[0]);
        ck_assert_double_eq_tol(h[1], h_alone[1], 1e-12 * fabs(h_alone[1]) + 1e-300);
        ad_grad(y, 1, &x, &bar);
        ck_assert_msg(gradient_of(ad_sum_all(bar), x, g) == 0, "function %d, mask %d: twice in reverse", _i, m);
        ck_assert_double_eq_tol(g[1], h_alone[1], 1e-12 * fabs(h_alone[1]) + 1e-300);
        ad_var second;
        ad_grad(ad_sum_all(bar), 1, &x, &second);
        ck_assert_msg(gradient_of(ad_sum_all(second), x, third) == 0, "function %d, mask %d: thrice in reverse", _i, m);
        ck_assert(isfinite(third[1]));
        ad_tape_free(tape);
    }
}
END_TEST

/* The operations that select by size, of logarithms at 0 and at 2. */
START_TEST(by_size)
{
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(2), ((double[]){ 0, 2 })), y = ad_log(x);
    const ad_var all[] = { ad_relu(y), ad_max(y, number(-1)), ad_clamp(y, number(-1), number(3)), ad_neg(ad_min(ad_neg(y), number(1))),
                           ad_reduce_max(y, 0, NULL, 0) };
    for (int k = 0; k < 5; k++) {
        double g[2];
        gradient_of(ad_sum_all(all[k]), x, g);
        ck_assert_msg(g[0] == 0 && g[1] == 0.5, "%d: %g %g", k, g[0], g[1]);
        ck_assert_int_eq(ad_get(ad_hvp(ad_sum_all(all[k]), x, ad_ones_like(x)), g), 0);
        ck_assert_msg(g[0] == 0 && g[1] == -0.25, "%d: %g %g", k, g[0], g[1]);
    }
    ad_tape_free(tape);
}
END_TEST

/* A row that is masked leaves the gradient of weights alone; a zero that is none of the mask's is not taken for one. */
START_TEST(beside_the_mask)
{
    double g[2];
    tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, ((double[]){ 0, 1, 2, 4 }));
    ad_var w = ad_param(tape, AD_SHAPE(2, 1), ((double[]){ 3, 5 })), y = ad_matmul(ad_log(x), w);
    ad_var kept = ad_constant(tape, AD_SHAPE(1), (double[]){ 1 });
    ad_var first = ad_slice(x, 1, 0, 1);
    gradient_of(ad_sum_all(ad_select(ad_gt(first, number(0)), ad_mul(y, kept), number(0))), w, g);
    ck_assert_double_eq_tol(g[0], log(2), 1e-15);
    ck_assert_double_eq_tol(g[1], log(4), 1e-15);
    ad_var p = ad_param(tape, AD_SHAPE(2), ((double[]){ 0, 4 })), root = ad_square(ad_sqrt(p));
    gradient_of(ad_sum_all(ad_select(ad_ge(p, number(0)), root, number(0))), p, g);
    ck_assert(g[0] != 0 && g[1] == 1); /* 1 is right; no number is what 0 times infinity gives */
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("masks");
    TCase *tests = tcase_create("masks");
    tcase_add_loop_test(tests, left_out, 0, FUNCTIONS);
    tcase_add_test(tests, by_size);
    tcase_add_test(tests, beside_the_mask);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
