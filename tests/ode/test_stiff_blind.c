/* Gradients of methods without a limit of stability where the state says nothing of them: what
 * decays fast is damped and sets no steps, what lasts is seen. Right values are analytic; those of
 * Robertson's problem are of kvaerno5 at a tighter tolerance. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>

static const ode_method *const methods[] = { &ode_trbdf2, &ode_kvaerno3, &ode_kvaerno4,
                                             &ode_kvaerno5 };
enum { METHODS = sizeof methods / sizeof methods[0] };

/* y' = -1000 (y - p) */
static ad_var stiff_rest(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    return ad_scale(ad_sub(y, args[0]), -1000);
}

/* y' = -y + p sin t */
static ad_var forced(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ad_mul(args[0], ad_sin(t)), y);
}

/* y' = p y */
static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    return ad_mul(args[0], y);
}

typedef struct {
    ode_field field;
    double y0, p, end, by_p, by_y0; /* NaN: as good as zero, not compared */
    int64_t most_steps;
} problem;

static const problem problems[] = {
    { stiff_rest, 1, 1, 100, 1, NAN, 1000 },
    { forced, 0, 0, 10, 0.14754825646330585, 4.5399929762484854e-5, 1000 },
    { decay, 0, -1, 10, NAN, 4.5399929762484854e-5, 100 },
};
enum { PROBLEMS = sizeof problems / sizeof problems[0] };

static void within_a_tenth(const char *what, double value, double right)
{
    if (isnan(right)) return;
    ck_assert_msg(fabs(value - right) <= 0.1 * fabs(right), "%s: %g, right is %g", what, value,
                  right);
}

START_TEST(at_rest)
{
    const ode_method *method = methods[_i / PROBLEMS];
    const problem *p = &problems[_i % PROBLEMS];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &p->y0);
    ad_var in[] = { y0, ad_param(tape, AD_SHAPE(1), &p->p) }, bar[2];
    ode_stats stats = { 0 };
    ode_options options = { .method = method, .stats = &stats };
    ad_var times = ode_interval(tape, 0, p->end);
    ad_var y = ode_solve_final(p->field, NULL, y0, 1, &in[1], times, &options);
    ad_grad(ad_sum_all(y), 2, in, bar);
    double by_y0 = ad_item(bar[0]), by_p = ad_item(bar[1]);
    ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
    within_a_tenth("by p", by_p, p->by_p);
    within_a_tenth("by y0", by_y0, p->by_y0);
    ck_assert_int_lt(stats.steps, p->most_steps);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* Robertson's problem with its rates as arguments. */
static ad_var robertson(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    ad_var a = ad_slice(y, 1, 0, 1), b = ad_slice(y, 1, 1, 2), c = ad_slice(y, 1, 2, 3);
    ad_var first = ad_mul(a, ad_slice(args[0], 0, 0, 1));
    ad_var second = ad_mul(ad_mul(b, c), ad_slice(args[0], 0, 1, 2));
    ad_var third = ad_mul(ad_square(b), ad_slice(args[0], 0, 2, 3));
    ad_var rate = ad_sub(second, first);
    return ad_concatenate(3, (ad_var[]){ rate, ad_neg(ad_add(rate, third)), third }, 1);
}

/* The fast component begins close to its quasi-steady value, so the first errors are tiny. */
START_TEST(beside_what_moves)
{
    const double rates[] = { 0.04, 1e4, 3e7 }, start[] = { 1, 1e-5, 0.1 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, start);
    ad_var k = ad_param(tape, AD_SHAPE(3), rates), bar;
    ode_stats stats = { 0 };
    ode_options options = { .method = methods[_i], .rtol = 1e-5, .atol = 1e-9, .stats = &stats };
    ad_var y = ode_solve_final(robertson, NULL, y0, 1, &k, ode_interval(tape, 0, 40), &options);
    ad_grad(ad_sum_all(ad_slice(y, 1, 0, 1)), 1, &k, &bar);
    double by_rates[3];
    ck_assert_msg(!ad_get(bar, by_rates), "%s", ad_tape_error(tape));
    within_a_tenth("by the first rate", by_rates[0], -4.37874);
    within_a_tenth("by the second rate", by_rates[1], 1.49367e-5);
    within_a_tenth("by the third rate", by_rates[2], -2.48934e-9);
    ck_assert_int_lt(stats.steps, 200);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* A mode whose steps are a tiny part of a long solve: in single precision the concentration that
 * is almost nothing seems to oscillate in a look at t = 0.1. */
START_TEST(steps_are_no_matter_of_the_horizon)
{
    const double rates[] = { 0.04, 1e4, 3e7 }, start[] = { 1, 0, 0 };
    double by_rates[2][3];
    for (int f32 = 0; f32 < 2; f32++) {
        ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, start);
        ad_var k = ad_param(tape, AD_SHAPE(3), rates), bar;
        ode_stats stats = { 0 };
        ode_options options = { .method = methods[_i], .stats = &stats };
        ad_var y =
            ode_solve_final(robertson, NULL, y0, 1, &k, ode_interval(tape, 0, 1e4), &options);
        ad_grad(ad_sum_all(ad_slice(y, 1, 0, 1)), 1, &k, &bar);
        ck_assert_msg(!ad_get(bar, by_rates[f32]), "%s", ad_tape_error(tape));
        ck_assert_int_lt(stats.steps, 500);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    within_a_tenth("by the first rate", by_rates[1][0], by_rates[0][0]);
    within_a_tenth("by the second rate", by_rates[1][1], by_rates[0][1]);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("stiff_blind", "stiff_blind");
    tcase_add_loop_test(tests, at_rest, 0, METHODS * PROBLEMS);
    tcase_add_loop_test(tests, beside_what_moves, 0, METHODS);
    tcase_add_loop_test(tests, steps_are_no_matter_of_the_horizon, 0, METHODS);
    return suite_run();
}
