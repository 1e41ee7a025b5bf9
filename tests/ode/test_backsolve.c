/* The adjoint that solves backwards: quadratures that only their own errors can resolve, and states
 * that are lost on the way back, by row and component. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static ad_var rows_of(ad_tape *tape, int64_t rows, int64_t d, const double *values)
{
    return ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), rows, values);
}

static ad_var zero(ad_tape *tape) { return ad_param(tape, AD_SCALAR, (double[]){ 0 }); }

/* ---- quadratures ---- */

static ad_var pulses(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)user;
    return ad_mul(args[0], ad_square(ad_sin(ad_scale(t, 20 * acos(-1.0)))));
}

static ad_var peak(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)user;
    return ad_div(args[0], ad_shift(ad_scale(ad_square(ad_shift(t, -0.5)), 400), 1));
}

static ad_var modulated(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(ad_mul(args[0], y), ad_cos(ad_scale(t, 30)));
}

/* At p = 0 state and costate stand still, and the gradient by p is an integral: [0,1] of sin^2(20
 * pi t) is 1/2, of 1 / (1 + 400 (t - 1/2)^2) is atan(10) / 10, of cos(30 t) is sin(30) / 30. */
static const struct {
    ode_field field;
    double y0, integral;
} still[] = { { pulses, 0, 0.5 },
              { peak, 0, 0.147112767430373 },
              { modulated, 1, -0.03293438747 } };

/* Gradient by p, shared or of the rows (all equal), of the sum over rows; the evaluations that it
 * took. */
static double integral(int which, ad_dtype dtype, const ode_options *given, int64_t rows,
                       bool per_row, bool reverse, int64_t *evaluations)
{
    ad_tape *tape = ad_tape_new(dtype);
    ode_stats stats = { 0 };
    ode_options o = *given;
    o.adjoint = &ode_backsolve;
    o.stats = &stats;
    double y0[64], v[64] = { 0 };
    for (int64_t i = 0; i < rows; i++) y0[i] = still[which].y0;
    ad_var p = per_row ? rows_of(tape, rows, 1, v) : zero(tape), g;
    ad_var y = ode_solve_final(still[which].field, NULL, rows_of(tape, rows, 1, y0), 1, &p,
                               reverse ? ode_interval(tape, 1, 0) : ode_interval(tape, 0, 1), &o);
    ad_grad(ad_sum_all(y), 1, &p, &g);
    get(g, v);
    for (int64_t i = 1; i < rows && per_row; i++)
        ck_assert_double_eq_tol(v[i], v[0], 1e-6 * fabs(v[0]));
    *evaluations = stats.backward_evaluations;
    ode_stats_clear(&stats);
    ad_tape_free(tape);
    return reverse ? -v[0] : v[0];
}

/* The middle one of three tolerances: one step in some hundred solves falls on equal phases of all
 * pulses that its error estimate looks at, with any method. */
START_TEST(quadratures_bound_the_steps)
{
    int which = _i % 3;
    for (const ode_method *const *m = ode_methods(); *m; m++)
        for (int i = 0; i < 16; i++) {
            ad_dtype dtype = i & 1 ? AD_F32 : AD_F64;
            bool per_row = i & 2, reverse = i & 4;
            int64_t rows = i & 8 ? 7 : 1, evaluations;
            if (!ode_method_adaptive(*m)) continue;
            double right = still[which].integral * (double)(per_row ? 1 : rows), g[3];
            for (int k = 0; k < 3; k++) {
                double rtol = (dtype == AD_F64 ? 1e-6 : 1e-4) * (1 + 0.1 * k);
                ode_options o = { .method = *m, .rtol = rtol, .atol = 0.01 * rtol };
                g[k] = integral(which, dtype, &o, rows, per_row, reverse, &evaluations);
            }
            double middle = fmax(fmin(g[0], g[1]), fmin(fmax(g[0], g[1]), g[2]));
            double most = (dtype == AD_F64 ? 3e-5 : 2e-3) * method_slack(*m);
            ck_assert_msg(fabs(middle - right) <= most * fmax(fabs(right), 0.1),
                          "%s, case %d: %.9g, right is %.9g (%lld evaluations)",
                          ode_method_name(*m), i, middle, right, (long long)evaluations);
        }
}
END_TEST

/* Without them nothing bounds the steps here: few evaluations, at any tolerance. */
START_TEST(seminorm)
{
    int64_t with, without;
    ode_options o = { .rtol = 1e-10, .atol = 1e-10 };
    integral(_i, AD_F64, &o, 1, false, false, &with);
    o.adjoint_seminorm = true;
    integral(_i, AD_F64, &o, 1, false, false, &without);
    ck_assert_int_lt(without, 80);
    ck_assert_int_gt(with, 5 * without);
}
END_TEST

/* A sum over rows whose terms cancel to nothing but rounding does not shorten the steps. */
static ad_var pulled(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_sub(ad_mul(ad_tanh(y), ad_shift(args[0], 1.3)), y);
}

START_TEST(rows_that_cancel)
{
    enum { ROWS = 64 };
    double y0[ROWS];
    int64_t evaluations[2];
    for (int i = 0; i < ROWS; i++) {
        int pair = i / 2;
        y0[i] = (i % 2 ? -1 : 1) * (1 + 0.37 * pair);
    }
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(_i ? AD_F32 : AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .adjoint = &ode_backsolve, .stats = &stats, .adjoint_seminorm = k };
        ad_var p = zero(tape), g;
        ad_grad(ad_sum_all(ode_solve_final(pulled, NULL, rows_of(tape, ROWS, 1, y0), 1, &p,
                                           ode_interval(tape, 0, 1), &o)),
                1, &p, &g);
        double v;
        get(g, &v);
        ck_assert_double_eq_tol(v, 0, _i ? 1e-4 : 1e-10);
        evaluations[k] = stats.backward_evaluations;
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_int_le(evaluations[0], evaluations[1] + 7);
}
END_TEST

/* ---- states that are lost ---- */

/* a' = -28 a (1 + a), b' = 28 a^2, c' = 0. b has the derivative a0 / (1 + a0) by a0 in the end; but
 * a has decayed to e^-28, and what the way back makes of that has nothing to do with where it came
 * from. */
static void forgetting_rates(ad_var a, ad_var *da, ad_var *db)
{
    *da = ad_scale(ad_mul(a, ad_shift(a, 1)), -28);
    *db = ad_scale(ad_square(a), 28);
}

static ad_var forgetting(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var d[3], a = ad_slice(y, 1, 0, 1);
    forgetting_rates(a, &d[0], &d[1]);
    d[2] = ad_zeros_like(a);
    return ad_concatenate(3, d, 1);
}

static void forgetting_states(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                              ad_var *dy)
{
    (void)t, (void)args, (void)user;
    forgetting_rates(y[nstate - 1], &dy[nstate - 1], &dy[1]);
    dy[0] = ad_zeros_like(y[0]);
}

/* It is refused: in the end, with the place, or on the way back when the state runs away. Whether
 * the former. */
static int expect_lost(ad_tape *tape, ad_var g, const char *where, const char *name)
{
    const void *value = ad_value(g);
    const char *error = ad_tape_error(tape);
    ck_assert_msg(!value && error && strstr(error, "use ode_discrete or ode_interpolating there"),
                  "%s: %s", name, error ? error : "no error");
    bool arrived = strstr(error, "the recomputed state is off by");
    ck_assert_msg(!arrived || strstr(error, where), "%s: %s", name, error);
    return arrived;
}

START_TEST(lost_component)
{
    int arrived = 0;
    const double single[] = { 1, 0, 100 }, rows[] = { 0, 0, 100, 1, 0, 100, 0, 0, 100 };
    for (const ode_method *const *m = ode_methods(); *m; m++) {
        if (!ode_method_adaptive(*m)) continue;
        for (int k = 0; k < 4; k++) {
            ad_tape *tape = ad_tape_new(_i ? AD_F32 : AD_F64);
            ode_options o = { .method = *m, .adjoint = &ode_backsolve };
            ad_var y0 = k ? rows_of(tape, 3, 3, rows) : rows_of(tape, 1, 3, single), g, y, parts[3],
                   ends[3];
            if (k == 3) { /* as states of their own, a the last */
                for (int i = 0; i < 3; i++) parts[i] = ad_slice(y0, 1, 2 - i, 3 - i);
                ad_var order[] = { parts[0], parts[1], parts[2] };
                ode_solve_states(forgetting_states, NULL, 3, order, 0, NULL,
                                 ode_interval(tape, 0, 1), &o, ends);
                y = ends[1];
            } else if (k == 2) {
                y = ode_solve(forgetting, NULL, y0, 0, NULL, ode_linspace(tape, 0, 1, 2), &o);
            } else {
                y = ode_solve_final(forgetting, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &o);
            }
            ad_grad(ad_sum_all(y), 1, &y0, &g);
            arrived += expect_lost(tape, g, k ? "row 1, component" : "row 0, component",
                                   ode_method_name(*m));
            ad_tape_free(tape);
        }
    }
    ck_assert_int_gt(arrived, 0);
}
END_TEST

static ad_var cosine(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_cos(t);
}

static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_concatenate(2, (ad_var[]){ ad_slice(y, 1, 1, 2), ad_neg(ad_slice(y, 1, 0, 1)) }, 1);
}

/* Starting or ending at zero is no loss: y' = cos t from 0, to where sin is something and to where
 * it is zero; an oscillator that is at zero in one component or the other, whose gradient is a
 * rotation. */
START_TEST(states_at_zero)
{
    const double pi = acos(-1.0), ends[] = { 10, pi, 2 * pi, pi / 2 };
    for (const ode_method *const *m = ode_methods(); *m; m++)
        for (int i = 0; i < 16; i++) {
            if (!ode_method_adaptive(*m)) continue;
            ad_tape *tape = ad_tape_new(i & 1 ? AD_F32 : AD_F64);
            ode_options o = { .method = *m, .adjoint = &ode_backsolve };
            double t = i & 2 ? -ends[i / 4] : ends[i / 4], v[6], most = i & 1 ? 3e-2 : 1e-3;
            ad_var y0 = rows_of(tape, 1, 1, (double[]){ 0 }), g;
            ad_var y = ode_solve_final(cosine, NULL, y0, 0, NULL, ode_interval(tape, 0, t), &o);
            ad_grad(ad_sum_all(y), 1, &y0, &g);
            get(g, v);
            ck_assert_double_eq_tol(v[0], 1, 1e-6);
            ad_tape_free(tape);
            tape = ad_tape_new(i & 1 ? AD_F32 : AD_F64);
            /* Three rows beside each other, one of them at rest. */
            ad_var z0 = rows_of(tape, 3, 2, (double[]){ 1, 0, 0, 0, 0, -1 });
            ad_var z = ode_solve_final(oscillator, NULL, z0, 0, NULL, ode_interval(tape, 0, t), &o);
            ad_grad(ad_sum_all(ad_slice(z, 1, 0, 1)), 1, &z0, &g);
            get(g, v);
            for (int r = 0; r < 3; r++) {
                ck_assert_double_eq_tol(v[2 * r], cos(t), most);
                ck_assert_double_eq_tol(v[2 * r + 1], sin(t), most);
            }
            ad_tape_free(tape);
        }
}
END_TEST

int main(void)
{
    TCase *c = suite_case("backsolve", "quadratures");
    tcase_add_loop_test(c, quadratures_bound_the_steps, 0, 3);
    tcase_add_loop_test(c, seminorm, 0, 3);
    tcase_add_loop_test(c, rows_that_cancel, 0, 2);
    c = suite_case("backsolve", "lost");
    tcase_add_loop_test(c, lost_component, 0, 2);
    tcase_add_test(c, states_at_zero);
    return suite_run();
}
