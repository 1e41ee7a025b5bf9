/* Fields whose rows depend on each other: particles that feel their mean. Explicit methods solve
 * them, with the gradients of the whole; what works row by row says that it cannot. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { ROWS = 40 };

/* y' = -y - c m, m the mean over the rows: m' = -(1 + c) m. The other components follow the first
 * one: z' = y - z. */
static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    const int width = *(const int *)user;
    ad_var first = ad_slice(y, 1, 0, 1);
    ad_var rate = ad_neg(ad_add(first, ad_mul(args[0], ad_mean_all(first))));
    if (width == 1) return rate;
    ad_var others = ad_slice(y, 1, 1, width);
    return ad_concatenate(2, (ad_var[]){ rate, ad_sub(first, others) }, 1);
}

static const ode_method *const methods[] = { &ode_dopri5, &ode_tsit5, &ode_dopri8, &ode_bosh3 };
enum { METHODS = sizeof methods / sizeof methods[0] };

/* The first row after time 1, and its gradient, are known. c = 300: the mean is a stiff mode, which
 * the state does not show at all where the mean is zero. */
START_TEST(gradients_are_of_all_rows)
{
    static const double strengths[] = { 3, 300 };
    const ode_method *method = methods[_i / 4];
    const ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    const double error = dtype == AD_F64 ? 1e-4 : 1e-2;
    int width = _i / 2 % 2 ? 3 : 1;
    for (int s = 0; s < 2; s++) {
        const double c = strengths[s];
        double y0[3 * ROWS] = { 0 }, end[3 * ROWS], bar[3 * ROWS], mean = 0;
        for (int r = 0; r < ROWS; r++) {
            y0[r * width] = s ? r % 2 * 2 - 1 : r;
            mean += y0[r * width] / ROWS;
        }
        ad_tape *tape = ad_tape_new(dtype);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, width), ROWS, y0),
               arg = ad_param(tape, AD_SHAPE(1, 1), &c), by_y0;
        ode_options o = { .method = method };
        ad_var x = ode_solve_final(field, &width, y, 1, &arg, ode_interval(tape, 0, 1), &o);
        double only[ROWS] = { 1 };
        ad_var weight = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, only);
        ad_grad(ad_sum_all(ad_mul(ad_slice(x, 1, 0, 1), weight)), 1, &y, &by_y0);
        ck_assert_msg(!ad_get(x, end), "%s", ad_tape_error(tape));
        ck_assert_msg(!ad_get(by_y0, bar), "%s", ad_tape_error(tape));
        const double alone = exp(-1), all = exp(-1 - c);
        ck_assert_double_eq_tol(end[0], (y0[0] - mean) * alone + mean * all, error * ROWS);
        for (int r = 0; r < ROWS; r++)
            ck_assert_double_eq_tol(bar[r * width], (r == 0 ? alone : 0) + (all - alone) / ROWS,
                                    error);
        ad_tape_free(tape);
    }
}
END_TEST

/* A field with a solve inside, which gives all rows the same steps: x' = 30 v, v' = -30 x - 0.1 v
 * at rest, and u' is the solution of q' = u - q, q(0) = 0, at time 1. Of these rows, too, all are
 * looked at. */
static ad_var towards(ad_var t, ad_var q, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_sub(args[0], q);
}

static ad_var with_a_solve(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), u = ad_slice(y, 1, 2, 3);
    ad_var inner =
        ode_solve_final(towards, NULL, ad_zeros_like(u), 1, &u, ode_interval(t.tape, 0, 1),
                        &(ode_options){ .method = &ode_rk4, .steps = 2 });
    return ad_concatenate(
        3, (ad_var[]){ ad_scale(v, 30), ad_neg(ad_add(ad_scale(x, 30), ad_scale(v, 0.1))), inner },
        1);
}

START_TEST(solves_inside_fields)
{
    double y0[3 * ROWS] = { 0 }, bar[3 * ROWS];
    const double c = 0.05, w = sqrt(900 - c * c), T = 3;
    const double want = exp(-c * T) * (cos(w * T) + c / w * sin(w * T));
    for (int r = 0; r < ROWS; r++) y0[3 * r + 2] = 1 + 0.01 * r;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), ROWS, y0), by_y0;
    ode_options o = { .method = methods[_i] };
    ad_var end = ode_solve_final(with_a_solve, NULL, y, 0, NULL, ode_interval(tape, 0, T), &o);
    ad_grad(ad_sum_all(ad_slice(end, 1, 0, 1)), 1, &y, &by_y0);
    ck_assert_msg(!ad_get(by_y0, bar), "%s", ad_tape_error(tape));
    for (int r = 0; r < ROWS; r++) ck_assert_double_eq_tol(bar[3 * r], want, 0.1);
    ad_tape_free(tape);
}
END_TEST

/* y' = cos t - y - c (y - m), all rows equal: differences between rows are a stiff mode that no
 * state shows. */
static ad_var consensus(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var apart = ad_sub(y, ad_mean_all(y));
    return ad_sub(ad_sub(ad_cos(t), y), ad_mul(args[0], apart));
}

START_TEST(rows_that_are_equal)
{
    double y0[ROWS], bar[ROWS];
    const double c = 12;
    for (int r = 0; r < ROWS; r++) y0[r] = 0.5;
    for (int T = 1; T <= 2; T++)
        for (int n = 2; n <= ROWS; n += ROWS - 2) {
            ad_tape *tape = ad_tape_new(_i % 2 ? AD_F64 : AD_F32);
            ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), n, y0),
                   arg = ad_param(tape, AD_SHAPE(1, 1), &c), by_y0;
            ode_options o = { .method = methods[_i / 2] };
            double only[ROWS] = { 1 };
            ad_var x = ode_solve_final(consensus, NULL, y, 1, &arg, ode_interval(tape, 0, T), &o),
                   weight = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), n, only);
            ad_grad(ad_sum_all(ad_mul(x, weight)), 1, &y, &by_y0);
            ck_assert_msg(!ad_get(by_y0, bar), "%s", ad_tape_error(tape));
            const double together = exp(-T) / n, apart = exp(-(1 + c) * T);
            ck_assert_double_eq_tol(bar[0], together + apart * (1 - 1.0 / n), 0.1 * together);
            ad_tape_free(tape);
        }
}
END_TEST

/* A field that reads how many rows there are: x' = w v, v' = -w x, w = n / 100 of its argument. */
static ad_var counted(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), u = ad_slice(y, 1, 2, 3);
    ad_var w = ad_scale(ad_mul(args[0], ad_row_count(t.tape)), 0.01);
    return ad_concatenate(3, (ad_var[]){ ad_mul(w, v), ad_neg(ad_mul(w, x)), ad_sub(ad_cos(t), u) },
                          1);
}

START_TEST(fields_that_count_their_rows)
{
    enum { MANY = 200 };
    static double y0[3 * MANY], w[MANY], bar[3 * MANY];
    const double T = 10;
    for (int r = 0; r < MANY; r++) {
        y0[3 * r + 2] = 0.5;
        w[r] = 8 + 0.001 * r;
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), MANY, y0),
           arg = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), MANY, w), by_y0;
    ode_options o = { .method = methods[_i] };
    ad_var end = ode_solve_final(counted, NULL, y, 1, &arg, ode_interval(tape, 0, T), &o);
    ad_grad(ad_sum_all(ad_slice(end, 1, 0, 1)), 1, &y, &by_y0);
    ck_assert_msg(!ad_get(by_y0, bar), "%s", ad_tape_error(tape));
    for (int r = 0; r < MANY; r++)
        ck_assert_double_eq_tol(bar[3 * r], cos(w[r] * MANY * 0.01 * T), 0.1);
    ad_tape_free(tape);
}
END_TEST

START_TEST(what_goes_row_by_row_says_so)
{
    double y0[ROWS] = { 1 }, c = 3;
    int width = 1;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, y0),
           arg = ad_param(tape, AD_SHAPE(1, 1), &c);
    ode_options o = { .method = &ode_kvaerno3 };
    ad_value(ode_solve_final(field, &width, y, 1, &arg, ode_interval(tape, 0, 1), &o));
    ck_assert_ptr_nonnull(ad_tape_error(tape));
    ck_assert_msg(strstr(ad_tape_error(tape), "row by row"), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("coupled_rows", "coupled_rows");
    tcase_add_loop_test(tests, gradients_are_of_all_rows, 0, 4 * METHODS);
    tcase_add_loop_test(tests, solves_inside_fields, 0, METHODS);
    tcase_add_loop_test(tests, rows_that_are_equal, 0, 2 * METHODS);
    tcase_add_loop_test(tests, fields_that_count_their_rows, 0, METHODS);
    tcase_add_test(tests, what_goes_row_by_row_says_so);
    return suite_run();
}
