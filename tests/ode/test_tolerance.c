/* Tolerances: a zero beside a given one is a zero, absolute tolerances element by element, zeros
 * over zeros, tolerances that no step can meet. Right values are analytic. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ad_var rows_of(ad_tape *tape, int64_t rows, int d, const double *wide)
{
    float narrow[64];
    for (int64_t i = 0; i < rows * d; i++) narrow[i] = (float)wide[i];
    ad_shape shape = AD_SHAPE(AD_ROWS, d);
    return ad_tape_dtype(tape) == AD_F32 ? ad_input_rows(tape, shape, rows, narrow)
                                         : ad_input_rows(tape, shape, rows, wide);
}

static ad_var column(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }

static void has(const char *error, const char *part)
{
    ck_assert_msg(error && strstr(error, part), "'%s' is not in '%s'", part,
                  error ? error : "no error");
}

/* ---- zeros ---- */

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}

static ad_var growth(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return y;
}

/* With rtol alone the error is relative, however small the state: value and gradient of y(10) = y0
 * exp(-10), in two rows of very different sizes and one that stays zero. */
START_TEST(relative_alone)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    for (int k = 0; k < 8; k++) {
        bool f32 = k & 1, backwards = k & 2;
        ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
        ode_options o = { .method = m,
                          .rtol = ode_method_order(m) == 2 ? 1e-4 : 1e-5,
                          .adjoint = k & 4 ? &ode_backsolve : &ode_discrete };
        const double start[3] = { 1e-12, 1, 0 };
        double y[3], g[3];
        ad_var y0 = rows_of(tape, 3, 1, start), gradient;
        ad_var end = ode_solve_final(backwards ? growth : decay, NULL, y0, 0, NULL,
                                     ode_interval(tape, 0, backwards ? -10 : 10), &o);
        ad_grad(ad_sum_all(end), 1, &y0, &gradient);
        ck_assert_msg(!ad_get(end, y) && !ad_get(gradient, g), "%s: %s", ode_method_name(m),
                      ad_tape_error(tape));
        for (int i = 0; i < 3; i++) {
            double right = start[i] * exp(-10);
            ck_assert_msg(fabs(y[i] - right) <= 4e-3 * right * method_slack(m),
                          "%s, %d: row %d is %g, not %g", ode_method_name(m), k, i, y[i], right);
            ck_assert_msg(fabs(g[i] - exp(-10)) < 6e-3 * exp(-10) * method_slack(m),
                          "%s, %d: gradient %d is %g", ode_method_name(m), k, i, g[i]);
        }
        ad_tape_free(tape);
    }
}
END_TEST

/* With atol alone it is absolute, however large the state: the steps of y' = -y from 1e6 are those
 * of atol = 1e6 times as large from 1. */
START_TEST(absolute_alone)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    int64_t steps[2];
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = m, .atol = k ? 1e-5 : 1e-5 * 0x1p20, .stats = &stats };
        double start = k ? 1 : 0x1p20,
               y = ad_item(ode_solve_final(decay, NULL, rows_of(tape, 1, 1, &start), 0, NULL,
                                           ode_interval(tape, 0, 1), &o));
        ck_assert_double_eq_tol(y / start, exp(-1), 1e-3);
        steps[k] = stats.steps;
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_int_eq(steps[0], steps[1]);
}
END_TEST

static ad_var at_rest(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], y);
}

/* A state that is zero and stays so has an error of zero in units of zero, which is no error. */
START_TEST(zero_of_zero)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    for (int f32 = 0; f32 < 2; f32++) {
        ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = m, .adjoint = &ode_backsolve, .rtol = 1e-3, .stats = &stats };
        ad_var p = ad_fill(tape, AD_SHAPE(1, 1), -1);
        double y = ad_item(ode_solve_final(at_rest, NULL, rows_of(tape, 1, 1, (double[]){ 0 }), 1,
                                           &p, ode_interval(tape, 0, 5), &o));
        ck_assert_msg(y == 0, "%s: %g, %s", ode_method_name(m), y,
                      ad_tape_error(tape) ? ad_tape_error(tape) : "");
        ck_assert_int_lt(stats.steps, 20);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

static ad_var cosine(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_add(ad_cos(t), ad_scale(y, 0));
}

/* Purely relative control gets through zeros of the solution, at the start and later. */
START_TEST(through_zero)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m) || ode_method_order(m) == 2) return;
    for (int k = 0; k < 4; k++) {
        ad_tape *tape = ad_tape_new(k & 1 ? AD_F32 : AD_F64);
        ode_options o = { .method = m, .rtol = 1e-3 };
        double end = k & 2 ? -7.5 : 7.5;
        double y = ad_item(ode_solve_final(cosine, NULL, rows_of(tape, 1, 1, (double[]){ 0 }), 0,
                                           NULL, ode_interval(tape, 0, end), &o));
        ck_assert_msg(fabs(y - sin(end)) < 5e-3, "%s: %g, %s", ode_method_name(m), y,
                      ad_tape_error(tape) ? ad_tape_error(tape) : "");
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- element by element ---- */

/* An oscillator of size 1e-9 beside a slow decay of size 1e6. */
static ad_var small_beside_large(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_concatenate(
        3, (ad_var[]){ column(y, 1), ad_neg(column(y, 0)), ad_scale(column(y, 2), -1e-3) }, 1);
}

static void small_and_large(ad_var t, int n, const ad_var *y, const ad_var *args, void *user,
                            ad_var *dy)
{
    (void)t, (void)n, (void)args, (void)user;
    dy[0] = ad_scale(y[0], -1e-3);
    dy[1] = ad_concatenate(
        2, (ad_var[]){ ad_slice(y[1], 2, 1, 2), ad_neg(ad_slice(y[1], 2, 0, 1)) }, 2);
}

START_TEST(elements_of_a_state)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    bool low = ode_method_order(m) == 2;
    const double each[] = { low ? 1e-12 : 1e-14, low ? 1e-12 : 1e-14, 1 },
                 start[] = { 1e-9, 0, 1e6, 2e-9, 0, 1e6 };
    for (int k = 0; k < 8; k++) {
        ad_tape *tape = ad_tape_new(k & 1 ? AD_F32 : AD_F64);
        double end = k & 2 ? -20 : 20, y[6], g[6];
        ode_options o = { .method = m,
                          .rtol = 1e-6,
                          .atol_each = each,
                          .natol = 3,
                          .adjoint = k & 4 ? &ode_backsolve : &ode_discrete };
        if (k & 1) o.rtol = 1e-4;
        ad_var y0 = rows_of(tape, 2, 3, start), gradient;
        ad_var last =
            ode_solve_final(small_beside_large, NULL, y0, 0, NULL, ode_interval(tape, 0, end), &o);
        ad_grad(ad_sum_all(column(last, 0)), 1, &y0, &gradient);
        ck_assert_msg(!ad_get(last, y) && !ad_get(gradient, g), "%s: %s", ode_method_name(m),
                      ad_tape_error(tape));
        for (int r = 0; r < 2; r++) {
            ck_assert_msg(fabs(y[3 * r] / start[3 * r] - cos(20)) < 0.02 * method_slack(m),
                          "%s: %g", ode_method_name(m), y[3 * r] / start[3 * r]);
            ck_assert_msg(fabs(g[3 * r] - cos(20)) < 0.02 * method_slack(m), "%s: gradient %g",
                          ode_method_name(m), g[3 * r]);
            ck_assert_msg(fabs(y[3 * r + 2] / 1e6 - exp(-1e-3 * end)) < 1e-4, "%s: %g",
                          ode_method_name(m), y[3 * r + 2]);
        }
        ad_tape_free(tape);
    }
}
END_TEST

/* Several states, one of them a matrix: the order of the numbers is that of the states, then of
 * their elements. */
START_TEST(elements_of_states)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m) || ode_method_order(m) == 2) return;
    const double each[] = { 1, 1e-14, 1e-14 }, large = 1e6, small[] = { 1e-9, 0 };
    double y[2];
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_options o = { .method = m, .rtol = 1e-6, .atol_each = each, .natol = 3 };
    ad_var y0[2] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &large),
                     ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1, 2), 1, small) },
           end[2];
    ode_solve_states(small_and_large, NULL, 2, y0, 0, NULL, ode_interval(tape, 0, 20), &o, end);
    ck_assert_msg(!ad_get(ad_slice(end[1], 1, 1, 2), y), "%s",
                  ad_tape_error(tape) ? ad_tape_error(tape) : "");
    ck_assert_msg(fabs(y[0] / 1e-9 - cos(20)) < 0.01, "%s: %g", ode_method_name(m), y[0] / 1e-9);
    ad_tape_free(tape);
}
END_TEST

/* A list of equal numbers takes the steps of that number. */
START_TEST(elements_alike)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    const double each[] = { 1e-4, 1e-4, 1e-4 };
    ode_stats one = { 0 }, all = { 0 };
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_options o = { .method = m, .rtol = 1e-4, .first_step = 0.01, .stats = k ? &all : &one };
        if (k) {
            o.atol_each = each;
            o.natol = 3;
        } else o.atol = 1e-4;
        ad_var y0 = rows_of(tape, 1, 3, (double[]){ 1, 0, 2 });
        ck_assert_ptr_nonnull(ad_value(
            ode_solve_final(small_beside_large, NULL, y0, 0, NULL, ode_interval(tape, 0, 5), &o)));
        ad_tape_free(tape);
    }
    ck_assert_int_eq(one.steps, all.steps);
    const double *t = ode_steps_times(one.steps_taken), *u = ode_steps_times(all.steps_taken);
    for (int64_t i = 0; i <= one.steps; i++) ck_assert_double_eq(t[i], u[i]);
    ode_stats_clear(&one);
    ode_stats_clear(&all);
}
END_TEST

/* The tolerances of a flow's density serve its samples too, which have no log-determinant. */
START_TEST(elements_of_a_flow)
{
    const double each[] = { 1e-7, 1e-7, 1e-3 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_cnf flow = { .field = decay,
                     .horizon = 1,
                     .options = { .rtol = 1e-6, .atol_each = each, .natol = 3 } };
    ad_var x = rows_of(tape, 1, 2, (double[]){ 0.3, -0.2 });
    double z[2], back[2];
    ck_assert_double_eq_tol(ad_item(ode_cnf_log_density(&flow, x, 0, NULL)),
                            -log(2 * acos(-1)) - 0.065 * exp(-2) - 2, 1e-4);
    ck_assert_int_eq(ad_get(ode_cnf_encode(&flow, x, 0, NULL), z), 0);
    ck_assert_int_eq(ad_get(ode_cnf_sample(&flow, x, 0, NULL), back), 0);
    ck_assert_double_eq_tol(z[0], 0.3 * exp(-1), 1e-5);
    ck_assert_double_eq_tol(back[1], -0.2 * exp(1), 1e-5);
    ad_tape_free(tape);
}
END_TEST

/* ---- what is refused ---- */

static const double with_zero[] = { 0, 1, 1 }, with_nan[] = { 1, NAN, 1 },
                    with_negative[] = { 1, 1, -2 }, fine[] = { 1, 1, 1 };

typedef struct {
    bool f32;
    ode_options options;
    const char *message;
} refusal;

static const refusal refusals[] = {
    { false,
      { .rtol = 1e-3, .atol_each = fine, .natol = 2 },
      "options.atol_each has 2 numbers (natol); a row of all states has 3 elements" },
    { false, { .rtol = 1e-3, .atol_each = fine }, "options.natol is 0 with atol_each given" },
    { false, { .rtol = 1e-3, .natol = 3 }, "options.natol is 3 with atol_each NULL" },
    { false,
      { .atol = 1e-3, .atol_each = fine, .natol = 3 },
      "options.atol and options.atol_each are both given" },
    { false, { .atol_each = with_zero, .natol = 3 }, "options.atol_each[0] is 0" },
    { false, { .rtol = 1e-3, .atol_each = with_nan, .natol = 3 }, "options.atol_each[1] is nan" },
    { false,
      { .rtol = 1e-3, .atol_each = with_negative, .natol = 3 },
      "options.atol_each[2] is -2" },
    { false, { .rtol = 1e-300 }, "options.rtol is 1e-300: this is below the rounding of float64" },
    { true, { .rtol = 1e-12 }, "options.rtol is 1e-12: this is below the rounding of float32" },
    { true,
      { .rtol = 1e-12, .atol = 1e-12 },
      "options.rtol is 1e-12: this is below the rounding of float32" },
    { true,
      { .rtol = 1e-12, .atol_each = fine, .natol = 3 },
      "options.rtol is 1e-12: this is below the rounding of float32" },
    { true, { .adjoint_rtol = 1e-14 }, "options.adjoint_rtol is 1e-14: this is below" },
    { true, { .adjoint_rtol = 1e-14, .adjoint_atol = 1e-3 }, "options.adjoint_rtol is 1e-14: " },
};

START_TEST(refused)
{
    const refusal *r = &refusals[_i];
    ad_tape *tape = ad_tape_new(r->f32 ? AD_F32 : AD_F64);
    ad_var y0 = rows_of(tape, 1, 3, (double[]){ 1, 0, 2 });
    ck_assert(!ad_valid(ode_solve_final(small_beside_large, NULL, y0, 0, NULL,
                                        ode_interval(tape, 0, 5), &r->options)));
    has(ad_tape_error(tape), r->message);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("tolerance", "tolerance");
    tcase_add_loop_test(c, relative_alone, 0, method_count());
    tcase_add_loop_test(c, absolute_alone, 0, method_count());
    tcase_add_loop_test(c, zero_of_zero, 0, method_count());
    tcase_add_loop_test(c, through_zero, 0, method_count());
    tcase_add_loop_test(c, elements_of_a_state, 0, method_count());
    tcase_add_loop_test(c, elements_of_states, 0, method_count());
    tcase_add_loop_test(c, elements_alike, 0, method_count());
    tcase_add_test(c, elements_of_a_flow);
    tcase_add_loop_test(c, refused, 0, sizeof refusals / sizeof *refusals);
    return suite_run();
}
