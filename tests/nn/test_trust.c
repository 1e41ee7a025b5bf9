/* Training looks at its own gradient: the one of halved steps beside it, at the first update and
 * then rarely. A difference is a warning that says what to do, not an error; nothing else changes.
 */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { EXAMPLES = 4 };

typedef struct {
    nn_model *model;
    ode_options options;
    bool algebraic; /* no solve in the loss */
    ode_stats stats;
    int64_t steps, solved; /* updates, and solver steps seen after the first one */
} problem;

static ad_var wave(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ad_mul(args[0], ad_square(ad_sin(ad_scale(t, 60)))), ad_scale(y, 0.1));
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    ad_var height = nn_model_get(p->model, theta, "height"), y = ad_mul(batch[0], height);
    if (!p->algebraic)
        y = ode_solve_final(wave, NULL, batch[0], 1, &height, ode_interval(tape, 0, 1),
                            &p->options);
    return nn_mse(y, batch[1]);
}

static int note(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)value, (void)theta;
    p->steps = step;
    if (step == 1) p->solved = p->stats.steps;
    return 0;
}

static nn_train_report train(problem *p, ad_dtype dtype, int64_t steps, int64_t check,
                             double *height)
{
    double x[EXAMPLES], y[EXAMPLES];
    char error[512];
    for (int i = 0; i < EXAMPLES; i++) {
        x[i] = 0.1 * i;
        y[i] = 1 + 0.1 * i;
    }
    p->model = nn_model_new();
    nn_model_add(p->model, "height", AD_SHAPE(1), nn_init_zeros, 1, 1);
    p->options.stats = &p->stats;
    nn_theta *theta = nn_theta_new(p->model, dtype, NULL);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), y) };
    nn_train_options options = { .loss = loss,
                                 .user = p,
                                 .narray = 2,
                                 .arrays = arrays,
                                 .examples = EXAMPLES,
                                 .steps = steps,
                                 .batch = 3,
                                 .threads = 1,
                                 .on_step = note,
                                 .check_gradient = check };
    nn_train_report report;
    ck_assert_msg(nn_train(theta, &options, &report, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(report.steps, steps);
    ck_assert_int_eq(p->steps, steps);
    ck_assert_int_eq(nn_theta_get(theta, "height", 1, height), 0);
    nn_theta_free(theta);
    nn_model_free(p->model);
    ode_stats_clear(&p->stats);
    return report;
}

START_TEST(test_warns)
{
    for (int d = 0; d < 2; d++) {
        problem p = { .options = { .method = &ode_rk4, .steps = 3 } };
        double height;
        nn_train_report report = train(&p, d ? AD_F32 : AD_F64, 20, 2, &height);
        ck_assert_msg(strstr(report.warning,
                             "step 1 of 20: warning: the gradient of the loss changes by") != NULL,
                      "'%s'", report.warning);
        ck_assert_msg(strstr(report.warning, "most in 'height'") &&
                          strstr(report.warning, "max_step"),
                      "%s", report.warning);
        ck_assert_msg(strstr(report.warning, "ad_check_gradient") != NULL, "cut off: %s",
                      report.warning);
        ck_assert_double_gt(report.gradient_difference, 0.1);
        ck_assert_int_eq(report.gradient_checks, 1); /* it has been said */
        ck_assert_int_eq(p.solved, 3); /* what on_step sees of the solve is the training's own */
    }
}
END_TEST

START_TEST(test_trusts)
{
    for (int d = 0; d < 2; d++) {
        problem p = { .options = { .max_step = 0.02 } };
        double with, without;
        nn_train_report report = train(&p, d ? AD_F32 : AD_F64, 7, 3, &with);
        ck_assert_str_eq(report.warning, "");
        ck_assert_int_eq(report.gradient_checks, 3); /* 1, 3, 6 */
        if (!d) ck_assert_double_gt(report.gradient_difference, 0);
        ck_assert_double_lt(report.gradient_difference, 1e-2);
        report = train(&p, d ? AD_F32 : AD_F64, 7, -1, &without);
        ck_assert_int_eq(report.gradient_checks, 0);
        ck_assert_double_eq(report.gradient_difference, 0);
        ck_assert(with == without);
        train(&p, d ? AD_F32 : AD_F64, 7, 0, &without);
        ck_assert(with == without);
    }
}
END_TEST

START_TEST(test_rarely)
{
    problem p = { .options = { .method = &ode_rk4, .steps = 40 } };
    double height;
    ck_assert_int_eq(train(&p, AD_F64, 499, 0, &height).gradient_checks, 1);
    ck_assert_int_eq(train(&p, AD_F64, 2100, 0, &height).gradient_checks,
                     4); /* 1, 500, 1000, 2000 */
    p.algebraic = true;
    ck_assert_int_eq(train(&p, AD_F64, 10, 1, &height).gradient_checks, 0); /* nothing is solved */
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("trust", "training");
    tcase_add_test(tests, test_warns);
    tcase_add_test(tests, test_trusts);
    tcase_add_test(tests, test_rarely);
    return suite_run();
}
