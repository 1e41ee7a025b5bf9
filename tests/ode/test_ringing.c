/* The trapezoidal and the midpoint rule on stiff problems: where they alternate instead of
 * decaying, the result is an error that says what to use; where it is right, nothing is said. Right
 * values are analytic. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static ad_var rows_of(ad_tape *tape, int64_t rows, int d, const double *wide)
{
    float narrow[64];
    for (int64_t i = 0; i < rows * d; i++) narrow[i] = (float)wide[i];
    ad_shape shape = AD_SHAPE(AD_ROWS, d);
    return ad_tape_dtype(tape) == AD_F32 ? ad_input_rows(tape, shape, rows, narrow)
                                         : ad_input_rows(tape, shape, rows, wide);
}

/* y' = rate (y - cos t), each row with a rate of its own: it follows cos t after a time of 1 /
 * rate. */
static ad_var to_the_cosine(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(args[0], ad_sub(y, ad_cos(t)));
}

enum { ROWS = 3 };
static const ode_method *const ringing[] = { &ode_trapezoidal, &ode_implicit_midpoint };

static int follow(ad_tape *tape, const double *rate, double end, const ode_options *o, double *y)
{
    ad_var y0 = rows_of(tape, ROWS, 1, (double[]){ 1, 2, 1 }), k = rows_of(tape, ROWS, 1, rate);
    return ad_get(ode_solve_final(to_the_cosine, NULL, y0, 1, &k, ode_interval(tape, 0, end), o),
                  y);
}

/* Every number of steps gives the right result or an error, in either type and direction, with
 * steps of its own or replayed. */
START_TEST(right_or_an_error)
{
    double direction = _i & 1 ? -1 : 1, y[ROWS];
    const double rate[ROWS] = { -direction, -1e6 * direction, -direction };
    int refused = 0;
    for (int n = 2; n <= 20000; n *= 3) {
        ad_tape *tape = ad_tape_new(_i & 2 ? AD_F32 : AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = ringing[_i / 4], .steps = n, .stats = &stats };
        int failed = follow(tape, rate, direction, &o, y);
        if (failed) {
            refused++;
            ck_assert_msg(strstr(ad_tape_error(tape), "row 1, component 0") &&
                              strstr(ad_tape_error(tape), "use ode_kvaerno5"),
                          "%s", ad_tape_error(tape));
        } else ck_assert_msg(fabs(y[1] - cos(1)) < 0.05, "%d steps: %g", n, y[1]);
        ad_tape_clear_error(tape);
        o = (ode_options){ .method = &ode_implicit_euler, .steps = n };
        ck_assert_msg(!follow(tape, rate, direction, &o, y) && fabs(y[1] - cos(1)) < 1e-5,
                      "implicit Euler, %d steps: %g", n, y[1]);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_int_ge(refused, 4);
}
END_TEST

START_TEST(replayed_steps)
{
    double y[ROWS];
    const double rate[ROWS] = { -1, -1e6, -1 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = { .method = &ode_implicit_euler, .steps = 10, .stats = &stats };
    ck_assert_int_eq(follow(tape, rate, 1, &o, y), 0);
    o = (ode_options){ .method = ringing[_i], .replay = stats.steps_taken };
    ck_assert_int_eq(follow(tape, rate, 1, &o, y), -1);
    ck_assert_msg(strstr(ad_tape_error(tape), "step 9 from t = 0.9"), "%s", ad_tape_error(tape));
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* Diffusion on a line: eigenvalues to -4 (n + 1)^2, but of the smooth start only the slowest part
 * is there. */
static ad_var diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_matmul(y, args[0]);
}

START_TEST(smooth_parts_of_stiff_problems)
{
    enum { N = 20 };
    double a[N * N] = { 0 }, y0[N], y[N], pi = acos(-1),
                 slowest = -4 * (N + 1) * (N + 1) * pow(sin(pi / 2 / (N + 1)), 2);
    for (int i = 0; i < N; i++) {
        y0[i] = sin(pi * (i + 1) / (N + 1));
        a[i * N + i] = -2 * (N + 1) * (N + 1);
        if (i) a[i * N + i - 1] = a[(i - 1) * N + i] = (N + 1) * (N + 1);
    }
    for (int n = 1; n <= 64; n *= 4) {
        ad_tape *tape = ad_tape_new(_i & 1 ? AD_F32 : AD_F64);
        ad_var matrix = ad_constant(tape, AD_SHAPE(N, N), a);
        ode_stats stats = { 0 };
        ode_options o = { .method = ringing[_i / 2], .steps = n, .stats = &stats };
        ad_var end = ode_solve_final(diffusion, NULL, rows_of(tape, 1, N, y0), 1, &matrix,
                                     ode_interval(tape, 0, 0.1), &o);
        ck_assert_msg(!ad_get(end, y), "%s", ad_tape_error(tape));
        for (int i = 0; i < N; i++)
            ck_assert_double_eq_tol(y[i], y0[i] * exp(0.1 * slowest), 0.05 / n / n + 1e-4);
        ck_assert_int_eq(stats.ringing, 0);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

/* An oscillator at the top, where its slope changes its sign within a step, and at zero. */
static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_concatenate(2, (ad_var[]){ ad_slice(y, 1, 1, 2), ad_neg(ad_slice(y, 1, 0, 1)) }, 1);
}

START_TEST(oscillations)
{
    for (int n = 8; n <= 128; n *= 2) {
        ad_tape *tape = ad_tape_new(AD_F64);
        double y[2 * 65];
        ode_options o = { .method = ringing[_i], .steps = n / 8 };
        ad_var times = ode_linspace(tape, 0, 8 * acos(-1), 65);
        ck_assert_msg(!ad_get(ode_solve(oscillator, NULL, rows_of(tape, 1, 2, (double[]){ 1, 0 }),
                                        0, NULL, times, &o),
                              y),
                      "%s", ad_tape_error(tape));
        ad_tape_free(tape);
    }
}
END_TEST

/* Robertson 1966: concentrations, of which the second is small and fast. On their way the rules
 * alternate; the trapezoidal rule then follows a solution of negative concentrations, on which it
 * alternates no more. */
static void robertson(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                      ad_var *dy)
{
    (void)t, (void)nstate, (void)args, (void)user;
    ad_var slow = ad_sub(ad_scale(ad_mul(y[1], y[2]), 1e4), ad_scale(y[0], 0.04));
    dy[2] = ad_scale(ad_square(y[1]), 3e7);
    dy[0] = slow;
    dy[1] = ad_neg(ad_add(slow, dy[2]));
}

START_TEST(led_astray)
{
    const double right = 0.0178659, one = 1, zero = 0;
    int astray = 0;
    for (int n = 10; n <= 10000; n *= 10) {
        ad_tape *tape = ad_tape_new(_i & 1 ? AD_F32 : AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = ringing[_i / 2], .steps = n, .stats = &stats };
        ad_var y0[3] = { rows_of(tape, 1, 1, &one), rows_of(tape, 1, 1, &zero),
                         rows_of(tape, 1, 1, &zero) },
               y[3];
        double end;
        ck_assert_int_eq(ode_solve_states_final(robertson, NULL, 3, y0, 0, NULL,
                                                ode_interval(tape, 0, 1e5), &o, y),
                         0);
        bool wrong = !ad_get(y[0], &end) && fabs(end - right) > 0.1 * right;
        ck_assert_msg(!wrong || stats.ringing > 0, "%d steps: %g", n, end);
        ck_assert_int_le(stats.ringing, stats.steps);
        astray += wrong;
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert(astray || ringing[_i / 2] != &ode_trapezoidal);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("ringing", "ringing");
    tcase_add_loop_test(c, right_or_an_error, 0, 8);
    tcase_add_loop_test(c, replayed_steps, 0, 2);
    tcase_add_loop_test(c, smooth_parts_of_stiff_problems, 0, 4);
    tcase_add_loop_test(c, oscillations, 0, 2);
    tcase_add_loop_test(c, led_astray, 0, 4);
    return suite_run();
}
