/* Solves that end before their last time and are no errors (options.partial): what they reached,
 * and its gradient. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

/* y' = p y^2: y = y0 / (1 - p y0 t), which ends at t = 1 / (p y0). */
static ad_var explosion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], ad_square(y));
}

enum { TIMES = 5 };
static const double times[TIMES] = { 0, 0.3, 0.6, 1.5, 2 };

/* The solution at 0.6, 1 / (1 - 0.6) from 1 with p = 1; what is selected by a mask. */
static ad_var selected(ad_var y)
{
    ad_var mask = ad_constant(y.tape, AD_SHAPE(1, TIMES, 1), (double[]){ 0, 0, 1, 0, 0 });
    return ad_sum_all(ad_select(mask, y, ad_zeros_like(y)));
}

static ode_options options_of(const ode_adjoint *adjoint, bool fixed)
{
    ode_options o = { .adjoint = adjoint, .partial = true };
    if (fixed) {
        o.method = &ode_rk4;
        o.step = 0.01;
    } else o.rtol = o.atol = 1e-9;
    return o;
}

START_TEST(what_was_reached)
{
    const ode_adjoint *adjoint = ode_adjoints()[_i / 2];
    if (!ode_adjoint_takes(adjoint, &ode_dopri5)) return;
    ode_options o = options_of(adjoint, _i % 2);
    ad_tape *tape = ad_tape_new(AD_F64);
    double start = 1, p0 = 1, y[TIMES], g[2];
    ode_stats stats = { 0 };
    o.stats = &stats;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SCALAR, &p0), bar[3];
    ad_var t = ad_param(tape, AD_SHAPE(TIMES), times);
    ad_var all = ode_solve(explosion, NULL, y0, 1, &p, t, &o);
    get(all, y);
    for (int i = 0; i < 3; i++) ck_assert_double_eq_tol(y[i], 1 / (1 - times[i]), 1e-6);
    for (int i = 3; i < TIMES; i++) ck_assert(isnan(y[i]));
    ck_assert_int_eq(stats.status, _i % 2 ? ODE_NOT_FINITE : ODE_STEP_TOO_SMALL);
    ck_assert(stats.reached > 0.99 && stats.reached < 1.1);
    ck_assert_double_eq(ode_steps_times(stats.steps_taken)[ode_steps_count(stats.steps_taken)],
                        stats.reached);
    ad_grad(selected(all), 3, (ad_var[]){ y0, p, t }, bar);
    get(bar[0], g);
    get(bar[1], g + 1);
    ck_assert_double_eq_tol(g[0], 1 / (0.4 * 0.4), 1e-5);
    ck_assert_double_eq_tol(g[1], 0.6 / (0.4 * 0.4), 1e-5);
    get(bar[2], y);
    ck_assert_double_eq_tol(y[2], 1 / (0.4 * 0.4), 1e-4);
    /* What was not reached has no derivative. */
    ad_grad(ad_sum_all(all), 1, &p, bar);
    ck_assert_ptr_null(ad_value(bar[0]));
    ck_assert_msg(strstr(ad_tape_error(tape), "depends on the solution at t = 2 in row 0") != NULL,
                  "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

/* The last time alone: nothing was reached; a loss that leaves it out has the gradient 0. */
START_TEST(the_end_is_not_there)
{
    const ode_adjoint *adjoint = ode_adjoints()[_i];
    if (!ode_adjoint_takes(adjoint, &ode_dopri5)) return;
    ode_options o = options_of(adjoint, false);
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 0.1 }, p0 = 1, y[2], g;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 2, start),
           p = ad_param(tape, AD_SCALAR, &p0), bar;
    ad_var end = ode_solve_final(explosion, NULL, y0, 1, &p, ode_interval(tape, 0, 2), &o);
    get(end, y);
    ck_assert(isnan(y[0]) && isnan(y[1]));
    ad_var known = ad_eq(end, end);
    ad_grad(ad_sum_all(ad_select(known, end, ad_zeros_like(end))), 1, &p, &bar);
    get(bar, &g);
    ck_assert(g == 0);
    ad_tape_free(tape);
}
END_TEST

/* Asked later: within what was reached, and beyond it. */
START_TEST(asked_later)
{
    ode_options o = options_of(_i ? &ode_interpolating : &ode_discrete, false);
    ad_tape *tape = ad_tape_new(AD_F64);
    double start = 1, p0 = 1, y[3], g;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SCALAR, &p0), bar;
    ode_dense dense;
    ode_solve_dense(&dense, explosion, NULL, y0, 1, &p, ode_interval(tape, 0, 2), &o);
    ad_var all = ode_dense_at(&dense, ad_constant(tape, AD_SHAPE(3), (double[]){ 1.8, 0.5, 0 }));
    get(all, y);
    ck_assert(isnan(y[0]));
    ck_assert_double_eq_tol(y[1], 2, 1e-7);
    ck_assert_double_eq_tol(y[2], 1, 1e-15);
    ad_grad(ad_sum_all(ad_slice(all, 1, 1, 3)), 1, &p, &bar);
    get(bar, &g);
    ck_assert_double_eq_tol(g, 0.5 / 0.25, 1e-6);
    ad_tape_free(tape);
}
END_TEST

static bool until_two_thirds(const ode_accepted_step *step, void *user)
{
    ++*(int *)user;
    return step->t < 2.0 / 3;
}

/* Stopped by a callback; also where the gradient has to solve again, as nothing was stored. */
START_TEST(stopped)
{
    const ode_adjoint *adjoint = ode_adjoints()[_i / 2];
    if (!ode_adjoint_takes(adjoint, &ode_dopri5)) return;
    ode_options o = options_of(adjoint, false);
    int calls = 0;
    ode_stats stats = { 0 };
    o.on_step = until_two_thirds;
    o.on_step_user = &calls;
    o.stats = &stats;
    if (_i % 2) o.keep_bytes = 40;
    ad_tape *tape = ad_tape_new(AD_F64);
    double start = 1, p0 = 1, y[TIMES], g;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SCALAR, &p0), bar;
    ad_var all =
        ode_solve(explosion, NULL, y0, 1, &p, ad_constant(tape, AD_SHAPE(TIMES), times), &o);
    get(all, y);
    ck_assert_double_eq_tol(y[2], 2.5, 1e-7);
    ck_assert(isnan(y[3]) && isnan(y[4]));
    ck_assert_int_eq(stats.status, ODE_STOPPED);
    ck_assert(stats.reached >= 2.0 / 3 && stats.reached < 0.8);
    int before = calls;
    ad_grad(selected(all), 1, &p, &bar);
    get(bar, &g);
    ck_assert_double_eq_tol(g, 0.6 / 0.16, 1e-5);
    ck_assert_int_eq(calls, before);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

/* Where the gradient has to solve again, what is said of the solve stays as it was. */
START_TEST(solved_again)
{
    ode_options o = options_of(NULL, false);
    ode_stats stats = { 0 };
    o.stats = &stats;
    o.keep_bytes = 40;
    ad_tape *tape = ad_tape_new(AD_F64);
    double start = 1, p0 = 1, y[TIMES], g;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SCALAR, &p0), bar;
    ad_var t = ad_constant(tape, AD_SHAPE(TIMES), times);
    ad_var all = ode_solve(explosion, NULL, y0, 1, &p, t, &o);
    get(all, y);
    ck_assert_int_eq(stats.status, ODE_STEP_TOO_SMALL);
    ode_stats before = stats;
    ad_grad(selected(all), 1, &p, &bar);
    get(bar, &g);
    ck_assert_double_eq_tol(g, 0.6 / 0.16, 1e-5);
    ck_assert_int_eq(stats.status, before.status);
    ck_assert_double_eq(stats.reached, before.reached);
    ck_assert_int_eq(stats.steps, ode_steps_count(stats.steps_taken));
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

/* Without the option it is the error that it was; a y0 that is no number is one with it too. */
START_TEST(errors_remain)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start = _i ? NAN : 1, p0 = 1;
    ode_options o = options_of(NULL, false);
    if (!_i) o.partial = false;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SCALAR, &p0);
    ad_var end = ode_solve_final(explosion, NULL, y0, 1, &p, ode_interval(tape, 0, 2), &o);
    ck_assert_ptr_null(ad_value(end));
    ck_assert_msg(strstr(ad_tape_error(tape), _i ? "y0 is nan" : "step") != NULL, "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* x'' = -30 x - x' / 2; not a number in a millionth around t = hole. */
static ad_var holed(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    const double hole = *(const double *)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    ad_var near = ad_sqrt(ad_shift(ad_square(ad_shift(t, -hole)), -1e-12));
    ad_var dv = ad_sub(ad_scale(x, -30), ad_scale(v, 0.5));
    return ad_concatenate(2, (ad_var[]){ ad_add(v, ad_mul(ad_scale(near, 0), x)), dv }, 1);
}

static double seen[1000];
static int nseen;
static bool see(const ode_accepted_step *step, void *user)
{
    (void)user;
    seen[nseen++] = step->t;
    return true;
}

/* A gradient that is compared with that of halved steps where these end early, and the solve does
 * not: it stands, and so does the solve for another loss. */
START_TEST(halved_steps_may_end_early)
{
    double hole = 100, start[] = { 1, 0 }, g[2][2][2];
    for (int k = 0; k < 2; k++) {
        ode_stats stats = { 0 };
        ode_options o = {
            .stats = &stats, .partial = true, .rtol = 1e-4, .atol = 1e-6, .on_step = see
        };
        nseen = 0;
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start), bar[2];
        ad_var y = ode_solve(holed, &hole, y0, 0, NULL, ode_linspace(tape, 0, 4, 3), &o);
        ad_grad(ad_sum_all(ad_slice(y, 1, 0, 2)), 1, &y0, &bar[0]);
        ad_grad(ad_sum_all(ad_square(y)), 1, &y0, &bar[1]);
        ck_assert_ptr_nonnull(ad_value(y));
        const int64_t steps = stats.steps;
        for (int i = 0; i < 2; i++) {
            ck_assert_msg(!ad_get(bar[i], g[k][i]), "%s", ad_tape_error(tape));
            ck_assert_int_eq(stats.steps, steps);
            ck_assert_double_eq(stats.reached, 4);
        }
        if (k == 0) {
            ck_assert_int_gt(stats.backward_evaluations, stats.evaluations); /* it is compared */
            hole = (seen[nseen - 4] + seen[nseen - 3]) / 2;
        }
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_mem_eq(g[0], g[1], sizeof g[0]);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("partial", "partial");
    int n = 0;
    while (ode_adjoints()[n]) n++;
    tcase_add_loop_test(c, what_was_reached, 0, 2 * n);
    tcase_add_loop_test(c, the_end_is_not_there, 0, n);
    tcase_add_loop_test(c, asked_later, 0, 2);
    tcase_add_loop_test(c, stopped, 0, 2 * n);
    tcase_add_test(c, solved_again);
    tcase_add_loop_test(c, errors_remain, 0, 2);
    tcase_add_test(c, halved_steps_may_end_early);
    return suite_run();
}
