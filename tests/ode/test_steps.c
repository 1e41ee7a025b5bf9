/* The steps that solves take, against what the test works out by itself: sizes from the error
 * estimates of every tableau, sizes after a landing, iterations of Newton's method. */
#include "ode/methods/recorders.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>

/* ---- sizes of steps ---- */

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}

/* The error of a step of size h of y' = -y from y = 1, in units of atol = rtol = 1. */
static double error_of_step(const ode_tableau *t, double h)
{
    double k[ODE_MAX_STAGES], y[ODE_MAX_STAGES + 1], e = 0, e3 = 0;
    for (int i = 0; i <= t->stages; i++) {
        double own = i ? t->diagonal * h : 0;
        y[i] = 1;
        for (int j = 0; j < i; j++) y[i] += h * ode_tableau_row(t, i)[j] * k[j];
        y[i] /= 1 + own;
        k[i] = -y[i];
        e += t->e[i] * k[i];
        if (t->e3) e3 += t->e3[i] * k[i];
    }
    double scale = 1 + fmax(1, fabs(y[t->stages]));
    e = fabs(h * e) / scale;
    if (t->filtered) e /= 1 + t->diagonal * h;
    e3 = fabs(h * e3) / scale;
    return t->e3 ? e * e / sqrt(e * e + 0.01 * e3 * e3) : e;
}

/* The second step is 0.9 ratio^(-1/order) times the first, where order is that of the estimate and
 * ratio the first's error in
 * units of the tolerance: here such that the step grows by a twentieth. */
START_TEST(sizes_by_the_estimate)
{
    const ode_method *m = ode_methods()[_i];
    if (!m->tableau || !ode_method_adaptive(m)) return;
    const double h = 0.5, growth = 1.05, order = m->order + (m->error_order > m->order),
                 tolerance = error_of_step(m->tableau, h) / pow(0.9 / growth, order);
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = { .method = m,
                      .adjoint = &ode_interpolating, /* steps for the state alone */
                      .rtol = tolerance,
                      .atol = tolerance,
                      .first_step = h,
                      .stats = &stats };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    ck_assert(
        isfinite(ad_item(ode_solve_final(decay, NULL, y0, 0, NULL, ode_interval(tape, 0, 3), &o))));
    const double *t = ode_steps_times(stats.steps_taken);
    ck_assert_double_eq_tol(t[1], h, 1e-15);
    double want = growth * h, got = t[2] - t[1];
    ck_assert_msg(fabs(got - want) < 1e-5 * want, "%s: the second step is %.12g, not %.12g",
                  m->name, got, want);
    ck_assert_int_eq(m == &ode_dopri8, m->tableau->e3 != NULL);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* All steps but the last, which lands, are within the limits: also the first, which would be
 * smaller by itself. */
START_TEST(sizes_within_limits)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = {
        .rtol = 1e-3, .atol = 1e-3, .min_step = 0.2, .max_step = 0.25, .stats = &stats
    };
    if (_i) o.first_step = _i == 1 ? 0.01 : 2;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    ck_assert(
        isfinite(ad_item(ode_solve_final(decay, NULL, y0, 0, NULL, ode_interval(tape, 0, 3), &o))));
    const double *t = ode_steps_times(stats.steps_taken);
    for (int64_t k = 0; k + 1 < stats.steps; k++)
        ck_assert(t[k + 1] - t[k] > 0.2 - 1e-12 && t[k + 1] - t[k] < 0.25 + 1e-12);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

static ode_stats steps_with_jump(double jump, int njump)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = {
        .rtol = 1e-9, .atol = 1e-3, .jump_times = &jump, .njump = njump, .stats = &stats
    };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    ck_assert(isfinite(
        ad_item(ode_solve_final(decay, NULL, y0, 0, NULL, ode_interval(tape, 0, 12), &o))));
    ck_assert_int_eq(stats.rejected, 0);
    ad_tape_free(tape);
    return stats;
}

/* The step after one that has landed `part` of a step after t. */
static double after_landing(const double *t, int k, double part)
{
    double jump = t[k] + part * (t[k + 1] - t[k]);
    ode_stats stats = steps_with_jump(jump, 1);
    const double *u = ode_steps_times(stats.steps_taken);
    ck_assert_double_eq(u[k], t[k]);
    ck_assert_double_eq(u[k + 1], jump);
    double h = u[k + 2] - u[k + 1];
    ode_stats_clear(&stats);
    return h;
}

/* A step that is short because it lands says nothing about the next one, which is as long as the
 * landing step would have been; one that is nearly as long as it would have been says what that
 * would have said. */
START_TEST(sizes_after_a_landing)
{
    ode_stats whole = steps_with_jump(0, 0);
    const double *t = ode_steps_times(whole.steps_taken);
    ck_assert_int_gt(whole.steps, 7);
    for (int k = 2; k < 5; k++) {
        double h = t[k + 1] - t[k], next = t[k + 2] - t[k + 1];
        ck_assert_double_gt(next, 1.1 * h);
        ck_assert_double_eq_tol(after_landing(t, k, 0.04), h, 1e-12);
        ck_assert_double_eq_tol(after_landing(t, k, 0.9), next, 0.05 * next);
    }
    ode_stats_clear(&whole);
}
END_TEST

/* ---- iterations of Newton's method ---- */

/* y' = -k y^3, every row with a k of its own. */
static ad_var cubic(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_neg(ad_mul(args[0], ad_mul(ad_square(y), y)));
}

/* The root of z = 1 - k z^3, by bisection. */
static double root(double k)
{
    double low = 0, high = 1;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (middle < 1 - k * middle * middle * middle) low = middle;
        else high = middle;
    }
    return low;
}

/* A step of implicit Euler of size 1, at the tolerance that is documented and at a loose one: roots
 * within it, and fewer iterations for the latter. */
START_TEST(newton_tolerance)
{
    enum { ROWS = 200 };
    ad_dtype dtype = _i ? AD_F32 : AD_F64;
    double tolerance = _i ? 1e-6 : 1e-13, wide[ROWS], ones[ROWS], y[ROWS];
    int64_t iterations[2];
    for (int i = 0; i < ROWS; i++) {
        wide[i] = pow(1.05, i - 120);
        ones[i] = 1;
    }
    for (int loose = 0; loose < 2; loose++) {
        ad_tape *tape = ad_tape_new(dtype);
        ad_shape shape = AD_SHAPE(AD_ROWS, 1);
        ad_var y0 = ad_input_rows(tape, shape, ROWS, ones);
        ad_var k = ad_input_rows(tape, shape, ROWS, wide);
        ode_stats stats = { 0 };
        ode_options o = { .method = &ode_implicit_euler, .steps = 1, .stats = &stats };
        if (loose) o.newton_tolerance = 1e-3;
        ck_assert(
            !ad_get(ode_solve_final(cubic, NULL, y0, 1, &k, ode_interval(tape, 0, 1), &o), y));
        double most = 5 * (loose ? 1e-3 : tolerance), worst = 0;
        for (int i = 0; i < ROWS; i++) worst = fmax(worst, fabs(y[i] / root(wide[i]) - 1));
        ck_assert_msg(worst < most, "%g at %g", worst, most);
        if (loose) ck_assert_double_gt(worst, 10 * tolerance);
        iterations[loose] = stats.newton_iterations;
        ck_assert_int_ge(stats.factorisations, ROWS);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_int_lt(iterations[1], iterations[0]);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("steps", "steps");
    tcase_add_loop_test(c, sizes_by_the_estimate, 0, method_count());
    tcase_add_loop_test(c, sizes_within_limits, 0, 3);
    tcase_add_test(c, sizes_after_a_landing);
    tcase_add_loop_test(c, newton_tolerance, 0, 2);
    return suite_run();
}
