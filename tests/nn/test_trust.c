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
    nn_loss other;  /* NULL: loss */
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
    nn_train_options options = { .loss = p->other ? p->other : loss,
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

/* ---- what a solve doubts by itself ----------------------------------------------------------- */

/* The relaxation oscillator of van der Pol, whose gradient is not that of its solution at the
 * tolerances of single precision. */
static ad_var relaxation(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), one = ad_ones_like(x);
    ad_var mu = ad_shift(args[0], 30);
    ad_var dv = ad_sub(ad_mul(ad_mul(mu, ad_sub(one, ad_square(x))), v), x);
    return ad_concatenate(2, (ad_var[]){ v, dv }, 1);
}

static ad_var relaxed(ad_var y, ad_var by)
{
    return ode_solve_final(relaxation, NULL, y, 1, &by, ode_interval(y.tape, 0, 100), NULL);
}

static ad_var begin_at_two(ad_var x)
{
    return ad_concatenate(2, (ad_var[]){ ad_shift(x, 2), ad_zeros_like(x) }, 1);
}

static ad_var drifting(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    (void)tape;
    ad_var by = nn_model_get(p->model, theta, "height");
    return nn_mse(ad_slice(relaxed(begin_at_two(batch[0]), by), 1, 0, 1), batch[1]);
}

static void one_solve(const ad_scan_step *at, void *user)
{
    (void)user;
    at->next[0] = relaxed(at->carry[0], at->arg[0]);
}

static ad_var drifting_in_scan(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    (void)tape;
    ad_var by = nn_model_get(p->model, theta, "height"), y = begin_at_two(batch[0]), last;
    ad_recurrence r = {
        .step = one_solve, .steps = 1, .ncarry = 1, .narg = 1, .carry = &y, .arg = &by
    };
    ad_scan(&r, &last, NULL);
    return nn_mse(ad_slice(last, 1, 0, 1), batch[1]);
}

/* A solve whose field has another one inside. */
static ad_var with_a_solve(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_slice(relaxed(begin_at_two(y), args[0]), 1, 0, 1);
}

static ad_var drift_inside(const problem *p, ad_var theta, const ad_var *batch,
                           const ode_adjoint *adjoint)
{
    ad_var by = nn_model_get(p->model, theta, "height");
    ode_options o = { .method = &ode_euler, .steps = 1, .adjoint = adjoint };
    return nn_mse(
        ode_solve_final(with_a_solve, NULL, batch[0], 1, &by, ode_interval(theta.tape, 0, 1), &o),
        batch[1]);
}
static ad_var drifting_inside(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return drift_inside(user, theta, batch, &ode_discrete);
}
static ad_var drifting_inside_interpolating(ad_tape *tape, ad_var theta, const ad_var *batch,
                                            void *user)
{
    (void)tape;
    return drift_inside(user, theta, batch, &ode_interpolating);
}

/* An oscillation at rest beside a steep mode, among so many components that not all modes are
 * looked at: only the comparison with halved steps tells. */
enum { MANY = 129 };
static ad_var oscillation(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), z = ad_slice(y, 1, 2, 3);
    const ad_var dy[] = { ad_scale(v, 25), ad_scale(x, -25), ad_scale(z, -45),
                          ad_zeros_like(ad_slice(y, 1, 3, MANY)) };
    return ad_concatenate(4, dy, 1);
}

static ad_var at_rest(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    double ones[MANY];
    for (int i = 0; i < MANY; i++) ones[i] = 1;
    ad_var by = nn_model_get(p->model, theta, "height");
    ad_var row = ad_mul(ad_constant(tape, AD_SHAPE(1, MANY), ones), ad_reshape(by, AD_SHAPE(1, 1)));
    ad_var y = ad_add(ad_scale(ad_slice(batch[0], 1, 0, 1), 0), row);
    ad_var end = ode_solve_final(oscillation, NULL, y, 0, NULL, ode_interval(tape, 0, 10), NULL);
    return nn_mse(ad_slice(end, 1, 0, 1), batch[1]);
}

START_TEST(test_doubts)
{
    static const struct {
        nn_loss loss;
        const char *why;
    } cases[] = { { drifting, "is not that of the solution: a^T f" },
                  { drifting_in_scan, "in step 0 of 1 (from 0): " },
                  { drifting_in_scan, "is not that of the solution: a^T f" },
                  { drifting_inside, "is not that of the solution: a^T f" },
                  { drifting_inside_interpolating, "is not that of the solution: a^T f" },
                  { at_rest, "when every step is halved" } };
    problem p = { .other = cases[_i].loss };
    double height;
    nn_train_report report = train(&p, _i < 5 ? AD_F32 : AD_F64, 2, -1, &height);
    ck_assert_msg(strstr(report.warning, "step 1 of 2: warning: ode_solve_final's adjoint") ||
                      strstr(report.warning, "step 1 of 2: warning: ad_scan"),
                  "'%s'", report.warning);
    ck_assert_msg(strstr(report.warning, cases[_i].why) != NULL, "'%s'", report.warning);
    ck_assert(isfinite(height) && height != 0);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("trust", "training");
    tcase_add_test(tests, test_warns);
    tcase_add_test(tests, test_trusts);
    tcase_add_test(tests, test_rarely);
    tcase_add_loop_test(tests, test_doubts, 0, 6);
    return suite_run();
}
