/* Stiff problems: known solutions, stability at infinity, gradients against differences on frozen
 * steps, derivatives of the second order through implicit stages, what is kept from step to step.
 */
#include "ode/methods/recorders.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static const ode_method *const stiff_methods[] = { &ode_trbdf2, &ode_kvaerno3, &ode_kvaerno4,
                                                   &ode_kvaerno5 };
enum { METHODS = sizeof stiff_methods / sizeof *stiff_methods };

static ad_var part(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }

/* Robertson 1966: k = (0.04, 3e7, 1e4). */
static ad_var robertson(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    ad_var k[3];
    for (int i = 0; i < 3; i++) k[i] = ad_slice(args[0], 0, i, i + 1);
    ad_var slow = ad_mul(k[0], part(y, 0)), fast = ad_mul(k[1], ad_square(part(y, 1)));
    ad_var back = ad_mul(k[2], ad_mul(part(y, 1), part(y, 2)));
    ad_var middle = ad_sub(ad_sub(slow, back), fast);
    return ad_concatenate(3, (ad_var[]){ ad_sub(back, slow), middle, fast }, 1);
}

static const double rates[] = { 0.04, 3e7, 1e4 };

/* At t = 1e-4, 1e-2, 1, 100, 1e5 (SciPy's Radau at 1e-13). */
START_TEST(robertson_is_right)
{
    static const double times[] = { 0, 1e-4, 1e-2, 1, 100, 1e5 };
    static const double right[5][3] = {
        { 0.9999960000080129, 3.984068463793e-6, 1.5923523498e-8 },
        { 0.9996006826882929, 3.645047887844e-5, 3.628668328284e-4 },
        { 0.9664597373330014, 3.074626578579e-5, 3.350951640121e-2 },
        { 0.6172348823960679, 6.153591274639e-6, 0.3827589640127 },
        { 1.786592114211e-2, 7.274751468440e-8, 0.9821340061103823 },
    };
    const ode_method *m = stiff_methods[_i];
    /* The estimate of trbdf2 is that of the result, so the errors of all its steps add up. */
    double tolerance = m == &ode_trbdf2 ? 1e-11 : ode_method_order(m) == 3 ? 1e-9 : 1e-10;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, (double[]){ 1, 0, 0 });
    ad_var k = ad_param(tape, AD_SHAPE(3), rates);
    for (int i = 0; i < 5; i++) {
        ode_options o = {
            .method = m, .rtol = tolerance, .atol = 1e-6 * tolerance, .max_steps = 1000000
        };
        double y[3];
        ad_var end =
            ode_solve_final(robertson, NULL, y0, 1, &k, ode_interval(tape, 0, times[i + 1]), &o);
        ck_assert_msg(!ad_get(end, y), "%s: %s", ode_method_name(m), ad_tape_error(tape));
        for (int j = 0; j < 3; j++)
            ck_assert_msg(fabs(y[j] / right[i][j] - 1) < 1e-6, "%s, t = %g: %d: %.12g, not %.12g",
                          ode_method_name(m), times[i + 1], j, y[j], right[i][j]);
        ck_assert_double_eq_tol(y[0] + y[1] + y[2], 1, 1e-12);
    }
    ad_tape_free(tape);
}
END_TEST

/* Van der Pol, mu = 1000, and the Oregonator (Hairer & Wanner, Solving ODEs II, IV.10; reference
 * values of the Test Set for IVP Solvers, Mazzia and Magherini 2008). */
static ad_var van_der_pol(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    (void)user;
    ad_var x = part(y, 0), v = part(y, 1);
    ad_var damping = ad_shift(ad_neg(ad_square(x)), 1);
    return ad_concatenate(2, (ad_var[]){ v, ad_sub(ad_scale(ad_mul(damping, v), 1000), x) }, 1);
}

static ad_var oregonator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    (void)user;
    ad_var a = part(y, 0), b = part(y, 1), c = part(y, 2);
    ad_var inner = ad_sub(ad_shift(ad_scale(a, -8.375e-6), 1), b);
    ad_var da = ad_scale(ad_add(b, ad_mul(a, inner)), 77.27);
    ad_var db = ad_scale(ad_sub(c, ad_mul(ad_shift(a, 1), b)), 1 / 77.27);
    return ad_concatenate(3, (ad_var[]){ da, db, ad_scale(ad_sub(a, c), 0.161) }, 1);
}

START_TEST(standard_problems)
{
    static const struct {
        ode_field field;
        int n;
        double end, start[3], right[3];
    } known[] = {
        { van_der_pol, 2, 2000, { 2, 0 }, { 1.706167732170483, -8.928097010247975e-4 } },
        { oregonator,
          3,
          360,
          { 1, 2, 3 },
          { 1.000814870318523, 1228.178521549917, 132.0554942846706 } },
    };
    const ode_method *m = stiff_methods[_i % METHODS];
    int p = _i / METHODS;
    ad_tape *tape = ad_tape_new(AD_F64);
    double tolerance = m == &ode_trbdf2 ? 1e-11 : 1e-9;
    ode_options o = {
        .method = m, .rtol = tolerance, .atol = 1e-3 * tolerance, .max_steps = 1000000
    };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, known[p].n), 1, known[p].start);
    ad_var end =
        ode_solve_final(known[p].field, NULL, y0, 0, NULL, ode_interval(tape, 0, known[p].end), &o);
    double y[3];
    ck_assert_msg(!ad_get(end, y), "%s: %s", ode_method_name(m), ad_tape_error(tape));
    for (int j = 0; j < known[p].n; j++)
        ck_assert_msg(fabs(y[j] / known[p].right[j] - 1) < 2e-5, "%s, problem %d: %d: %.12g",
                      ode_method_name(m), p, j, y[j]);
    ad_tape_free(tape);
}
END_TEST

/* Prothero and Robinson: y' = -1e4 (y - cos t) - sin t. The stages are of order 2, and so at least
 * is the result, however stiff. */
static ad_var prothero_robinson(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    (void)user;
    return ad_sub(ad_scale(ad_sub(y, ad_cos(t)), -1e4), ad_sin(t));
}

START_TEST(no_lower_than_the_stages)
{
    const ode_method *m = stiff_methods[_i];
    double error[4];
    for (int k = 0; k < 4; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_options o = { .method = m, .steps = 10 << k };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
        double y = ad_item(
            ode_solve_final(prothero_robinson, NULL, y0, 0, NULL, ode_interval(tape, 0, 2), &o));
        error[k] = fabs(y - cos(2));
        ad_tape_free(tape);
    }
    ck_assert_double_lt(error[0], 1e-5);
    double order = log2(error[0] / error[3]) / 3;
    ck_assert_msg(order > 1.85, "%s: %g (%g to %g)", ode_method_name(m), order, error[0], error[3]);
}
END_TEST

static ad_var linear(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    return ad_mul(y, args[0]);
}

/* |R(z)| of the stability function, by one step of y' = z y. */
START_TEST(nothing_is_left_at_infinity)
{
    const ode_method *m = stiff_methods[_i];
    for (double z = -1; z > -1e12; z *= 10) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_options o = { .method = m, .steps = 1 };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
        ad_var rate = ad_fill(tape, AD_SHAPE(1), z);
        double y =
            ad_item(ode_solve_final(linear, NULL, y0, 1, &rate, ode_interval(tape, 0, 1), &o));
        ck_assert_msg(fabs(y) < fmin(1, 8 / -z) + 1e-13, "%s: R(%g) = %g", ode_method_name(m), z,
                      y);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- gradients ---- */

enum { UNKNOWNS = 7 };

/* A loss of Robertson's problem at unknowns y0, k in units of the rates, and the end. */
static double loss_at(const double *u, const ode_options *o, double *g)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, u),
           scale = ad_param(tape, AD_SHAPE(3), u + 3);
    ad_var k = ad_mul(scale, ad_constant(tape, AD_SHAPE(3), rates));
    ad_var times = o->replay ? ode_interval(tape, 0, u[6])
                             : ad_param(tape, AD_SHAPE(2), (double[]){ 0, u[6] });
    ad_var y = ode_solve_final(robertson, NULL, y0, 1, &k, times, o);
    ad_var weight = ad_constant(tape, AD_SHAPE(1, 3), (double[]){ 1, 2e4, 0.3 });
    ad_var loss = ad_sum_all(ad_mul(weight, ad_mul(y, ad_shift(y, 1))));
    if (g) {
        ad_var bar[3];
        ad_grad(loss, 3, (ad_var[]){ y0, scale, times }, bar);
        double end[2];
        ck_assert_msg(!ad_get(bar[0], g) && !ad_get(bar[1], g + 3) && !ad_get(bar[2], end), "%s",
                      ad_tape_error(tape));
        g[6] = end[1];
    }
    double value = ad_item(loss);
    ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    return value;
}

START_TEST(gradients_are_exact)
{
    const ode_method *m = stiff_methods[_i];
    double u[UNKNOWNS] = { 1, 0, 0, 1, 1, 1, 40 }, g[UNKNOWNS];
    ode_stats stats = { 0 };
    ode_options o = { .method = m, .rtol = 1e-5, .atol = 1e-10, .stats = &stats };
    loss_at(u, &o, g);
    ode_options replay = { .method = m, .replay = stats.steps_taken };
    static const double weight[] = { 45.0 / 60, -9.0 / 60, 1.0 / 60 };
    for (int i = 0; i < 6; i++) {
        double h = i == 1 ? 1e-7 : 1e-3, sum = 0;
        for (int k = 0; k < 3; k++) {
            double up[UNKNOWNS], down[UNKNOWNS];
            memcpy(up, u, sizeof u);
            memcpy(down, u, sizeof u);
            up[i] += (k + 1) * h;
            down[i] -= (k + 1) * h;
            sum += weight[k] * (loss_at(up, &replay, NULL) - loss_at(down, &replay, NULL));
        }
        ck_assert_msg(fabs(g[i] - sum / h) < 1e-7 * (1 + fabs(g[i])), "%s: %d: %.12g, not %.12g",
                      ode_method_name(m), i, g[i], sum / h);
    }
    ode_stats_clear(&stats);
}
END_TEST

/* ---- what is kept ---- */

/* A solve's result does not depend on what its workspace did before, nor on the batch. */
START_TEST(each_solve_begins_anew)
{
    const ode_method *m = _i < METHODS ? stiff_methods[_i] : &ode_implicit_euler;
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_options o = { .method = m, .steps = 60 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 0, NULL),
           k = ad_param(tape, AD_SHAPE(3), NULL);
    ad_var y = ode_solve_final(robertson, NULL, y0, 1, &k, ode_interval(tape, 0, 3), &o);
    ad_program *program = ad_compile(2, (ad_var[]){ y0, k }, 1, &y);
    ck_assert_msg(program, "%s", ad_tape_error(tape));
    ad_workspace *w = ad_workspace_new(program, 1);
    const double mild[] = { 0.4, 3e3, 1e2 }, other[] = { 0.5, 1e3, 30 };
    double start[12] = { 1, 0, 0, 0.4, 1e-5, 0.6, 0.9, 0, 0.1, 0.1, 1e-4, 0.9 }, first[12],
           again[12];
    ck_assert_msg(!ad_run(program, w, 4, (const void *[]){ start, mild }, (void *[]){ first }),
                  "%s", ad_workspace_error(w));
    ck_assert(!ad_run(program, w, 4, (const void *[]){ start, other }, (void *[]){ again }));
    ck_assert(!ad_run(program, w, 4, (const void *[]){ start, mild }, (void *[]){ again }));
    ck_assert_mem_eq(first, again, sizeof first);
    for (int r = 0; r < 4; r++) {
        ck_assert(
            !ad_run(program, w, 1, (const void *[]){ start + 3 * r, mild }, (void *[]){ again }));
        ck_assert_mem_eq(first + 3 * r, again, 3 * sizeof *first);
    }
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

/* Factors serve many steps, and Jacobians more. */
START_TEST(factors_are_kept)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats s = { 0 };
    ode_options o = { .method = &ode_kvaerno5, .rtol = 1e-6, .atol = 1e-12, .stats = &s };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, (double[]){ 1, 0, 0 });
    ad_var k = ad_param(tape, AD_SHAPE(3), rates);
    ad_var y = ode_solve_final(robertson, NULL, y0, 1, &k, ode_interval(tape, 0, 1e5), &o);
    ck_assert_ptr_nonnull(ad_value(y));
    ck_assert_int_lt(s.steps, 120);
    ck_assert_int_lt(s.jacobians, 2 * s.steps);
    ck_assert_int_lt(s.factorisations, 2 * s.steps);
    ck_assert_int_lt(s.newton_iterations, 30 * s.steps);
    ode_stats_clear(&s);
    ad_tape_free(tape);
}
END_TEST

/* Where no smaller step is allowed, a stage that is not found is what the message tells. */
START_TEST(stages_not_found)
{
    const ode_method *m = stiff_methods[_i];
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats s = { 0 };
    ode_options o = {
        .method = m, .min_step = 0.5, .first_step = 1, .newton_iterations = 1, .stats = &s
    };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 2, (double[]){ 0, 0, 0, 1, 0, 0 });
    ad_var k = ad_param(tape, AD_SHAPE(3), rates);
    ad_var y = ode_solve_final(robertson, NULL, y0, 1, &k, ode_interval(tape, 0, 10), &o);
    ck_assert_ptr_null(ad_value(y));
    const char *error = ad_tape_error(tape);
    ck_assert_msg(strstr(error, "Newton's method does not find") && strstr(error, "row 1"), "%s",
                  error);
    ck_assert_int_eq(s.status, ODE_NEWTON);
    ck_assert_int_gt(s.rejected, 0);
    ode_stats_clear(&s);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("stiff", "stiff");
    tcase_add_loop_test(c, robertson_is_right, 0, METHODS);
    tcase_add_loop_test(c, standard_problems, 0, 2 * METHODS);
    tcase_add_loop_test(c, no_lower_than_the_stages, 0, METHODS);
    tcase_add_loop_test(c, nothing_is_left_at_infinity, 0, METHODS);
    tcase_add_loop_test(c, gradients_are_exact, 0, METHODS);
    tcase_add_loop_test(c, each_solve_begins_anew, 0, METHODS + 1);
    tcase_add_test(c, factors_are_kept);
    tcase_add_loop_test(c, stages_not_found, 0, METHODS);
    return suite_run();
}
