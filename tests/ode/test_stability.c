/* Gradients of problems whose solution does not say how large the steps may be: stiff ones, where
 * only feedback from the error keeps the state right, and ones at rest. The right values are
 * analytic, or those of a solve with very many small steps. */
#include "ode/march/march.h"
#include "ode/methods/recorders.h"
#include "tests/support.h"
#include <math.h>

enum { MOST = 4 };

typedef struct {
    ode_field field;
    int n, np;
    double y0[MOST], p[MOST], horizon;
} problem;

typedef struct {
    double loss, gradient[2 * MOST]; /* of the first component at the end, by y0, then by p */
    ode_stats stats;
} answer;

static double get(ad_dtype dtype, const void *x, int i)
{
    return dtype == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

static answer solve(const problem *q, ad_dtype dtype, ode_options o)
{
    answer a = { 0 };
    o.stats = &a.stats;
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, q->n), 1, q->y0);
    ad_var p = ad_param(tape, AD_SHAPE(1, q->np), q->p), bar[2];
    ad_var y = ode_solve_final(q->field, NULL, y0, 1, &p, ode_interval(tape, 0, q->horizon), &o);
    ad_var loss = ad_sum_all(ad_slice(y, 1, 0, 1));
    ad_grad(loss, 2, (ad_var[]){ y0, p }, bar);
    const void *by_y0 = ad_value(bar[0]), *by_p = ad_value(bar[1]), *value = ad_value(loss);
    ck_assert_msg(by_y0 && by_p && value, "%s", ad_tape_error(tape));
    a.loss = get(dtype, value, 0);
    for (int i = 0; i < q->n; i++) a.gradient[i] = get(dtype, by_y0, i);
    for (int i = 0; i < q->np; i++) a.gradient[q->n + i] = get(dtype, by_p, i);
    ode_steps_free(a.stats.steps_taken);
    a.stats.steps_taken = NULL;
    ad_tape_free(tape);
    return a;
}

static void check_close(const char *what, double got, double want, double tolerance)
{
    ck_assert_msg(fabs(got - want) <= tolerance * fabs(want), "%s: %.9g, right is %.9g", what, got,
                  want);
}

/* ---- stiff problems within the stability limit ---- */

/* y' = p (cos t - y) (Prothero and Robinson 1974, doi:10.1090/S0025-5718-1974-0331793-2), y(0) = 1.
 */
static ad_var towards_cosine(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(args[0], ad_sub(ad_cos(t), y));
}

/* dy/dp at T, without the transient, which is spent. */
static double towards_cosine_by_p(double p, double t)
{
    double q = 1 + p * p;
    return (2 * p * cos(t) + sin(t)) / q - (p * p * cos(t) + p * sin(t)) * 2 * p / q / q;
}

/* y' = p y */
static ad_var grows(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    return ad_mul(args[0], y);
}

static const ode_method *const accurate[] = { &ode_dopri5, &ode_tsit5, &ode_dopri8 };

static const struct {
    const ode_method *method;
    ad_dtype dtype;
} swept[] = {
    { &ode_dopri5, AD_F64 },   { &ode_tsit5, AD_F64 },    { &ode_dopri8, AD_F64 },
    { &ode_bosh3, AD_F64 },    { &ode_heun, AD_F64 },     { &ode_ralston, AD_F64 },
    { &ode_dopri5, AD_F32 },   { &ode_tsit5, AD_F32 },    { &ode_dopri8, AD_F32 },
    { &ode_bosh3, AD_F32 },    { &ode_trbdf2, AD_F64 },   { &ode_kvaerno3, AD_F64 },
    { &ode_kvaerno4, AD_F64 }, { &ode_kvaerno5, AD_F64 }, { &ode_trbdf2, AD_F32 },
    { &ode_kvaerno3, AD_F32 }, { &ode_kvaerno4, AD_F32 }, { &ode_kvaerno5, AD_F32 },
};
enum { SWEPT = sizeof swept / sizeof *swept };

/* p dy/dp goes down to 4e-5, below the single-precision default tolerance of the state. */
START_TEST(stiffness_sweep)
{
    for (int i = 0; i < 23; i++) {
        double p = 10 * pow(1.3, i);
        problem q = { towards_cosine, 1, 1, { 1 }, { p }, 3 };
        answer a = solve(&q, swept[_i].dtype, (ode_options){ .method = swept[_i].method });
        check_close("dy/dp", a.gradient[1], towards_cosine_by_p(p, 3),
                    swept[_i].dtype == AD_F32 ? 0.1 : 0.06);
    }
}
END_TEST

/* The stages multiply the rounding of the state, and those of dopri8 by hundreds where its steps
 * are as long as stability allows: then gradients of half the tolerance are off by up to a half. */
START_TEST(rounding_is_not_multiplied)
{
    const struct {
        const ode_method *method;
        const ode_adjoint *adjoint;
    } by[] = { { &ode_dopri8, &ode_discrete },
               { &ode_dopri8, &ode_interpolating },
               { &ode_tsit5, &ode_discrete } };
    for (int i = 0; i < 60; i++) {
        double p = 1000 * pow(1.02, i);
        problem q = { towards_cosine, 1, 1, { 1 }, { p }, 3 };
        answer a =
            solve(&q, AD_F32, (ode_options){ .method = by[_i].method, .adjoint = by[_i].adjoint });
        check_close("dy/dp", a.gradient[1], towards_cosine_by_p(p, 3), 0.1);
    }
}
END_TEST

/* What they multiply by: Euler's step of x by x, Heun's in closed form, dopri8's by NumPy's inverse
 * of I - z A: |z b (I - z A)^-2|. */
START_TEST(rounding_of_stages)
{
    for (double x = 0.5; x < 3; x += 0.5) {
        check_close("euler", ode_runge_kutta_rounding(&ode_euler, x), x, 1e-12);
        check_close("heun", ode_runge_kutta_rounding(&ode_heun, x), x * hypot(0.5 - x, 0.5), 1e-12);
    }
    check_close("dopri8", ode_runge_kutta_rounding(&ode_dopri8, 3), 155.014, 1e-5);
    check_close("dopri8", ode_runge_kutta_rounding(&ode_dopri8, 4), 535.148, 1e-5);
}
END_TEST

/* Only the steps of dopri8 in single precision are held smaller for that. */
START_TEST(limits_of_rounding)
{
    for (int k = 0; ode_methods()[k]; k++) {
        const ode_method *method = ode_methods()[k];
        if (!ode_method_adaptive(method) || !method->stability) continue;
        ode_settings settings = { .method = method, .stability = method->stability(method) };
        for (int d = 0; d < 2; d++) {
            ad_dtype dtype = d ? AD_F64 : AD_F32;
            for (double rtol = 1e-8; rtol < 0.05; rtol *= 10) {
                ode_guard guard = ode_guard_begin(&settings, dtype, rtol);
                bool held = method == &ode_dopri8 && dtype == AD_F32 && rtol < 5e-4;
                ck_assert_msg((guard.limit < 0.9 * settings.stability) == held &&
                                  guard.limit <= settings.stability,
                              "%s, %d: %g at %g", method->name, d, guard.limit, rtol);
                double gain = ode_runge_kutta_rounding(method, guard.limit / guard.margin);
                if (held) ck_assert(gain > 60 && gain < 80);
            }
        }
    }
}
END_TEST

/* Van der Pol's oscillator x'' = p (1 - x^2) x' - x. */
static ad_var van_der_pol(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    ad_var damping = ad_mul(args[0], ad_sub(ad_ones_like(x), ad_square(x)));
    return ad_concatenate(2, (ad_var[]){ v, ad_sub(ad_mul(damping, v), x) }, 1);
}

START_TEST(van_der_pol_is_right)
{
    problem q = { van_der_pol, 2, 1, { 2, 0 }, { 30 }, 20 };
    answer a = solve(&q, AD_F64, (ode_options){ .method = accurate[_i] });
    check_close("x", a.loss, 1.39646312, 1e-7);
    check_close("dx/dx0", a.gradient[0], 2.196163, 1e-4);
    check_close("dx/dmu", a.gradient[2], 0.0324498, 1e-4);
    /* It is stiff, and the statistics say so. */
    ck_assert_int_gt(a.stats.stability_limited, a.stats.steps / 4);
    double limit = ode_runge_kutta_stability(accurate[_i]);
    ck_assert_msg(a.stats.stability > 0.8 * limit && a.stats.stability <= limit, "h |lambda| = %g",
                  a.stats.stability);
}
END_TEST

START_TEST(ordinary_problems_are_not_limited)
{
    problem q = { van_der_pol, 2, 1, { 2, 0 }, { 1 }, 20 };
    answer a = solve(&q, AD_F64, (ode_options){ .method = accurate[_i] });
    ck_assert_int_eq(a.stats.stability_limited, 0);
    ck_assert(a.stats.stability > 0.3);
}
END_TEST

/* A network, by whose second component the first one and the third are moved fast while one of them
 * passes zero. Its largest |lambda| is 12. */
static ad_var network(ad_var t, ad_var y, const ad_var *args, void *user)
{
    static const double in[] = { -0.9, -0.4, -2.2, -2.2, 2.8, -0.5, 2, -2.1, 0.4 },
                        out[] = { 1.9, 2, -2.9, 0.3, 0.3, 2.3, 3, 1.8, 2.7 };
    (void)t, (void)user;
    const ad_shape square = AD_SHAPE(3, 3);
    ad_var units = ad_tanh(ad_matmul(y, ad_constant(y.tape, square, in)));
    return ad_matmul(units, ad_mul(args[0], ad_constant(y.tape, square, out)));
}

/* What a component that passes zero does in units of its tolerance is no stiffness: steps were less
 * than half as large for it. */
START_TEST(passing_zero_is_not_stiff)
{
    problem q = { network, 3, 1, { 1, -0.5, 0.2 }, { 1 }, 5 };
    const double near = 1e-5;
    double loss[2];
    ode_options o = { .method = accurate[_i] };
    answer a = solve(&q, AD_F64, o);
    ck_assert_msg(a.stats.steps + a.stats.rejected <= 80, "%lld steps, %lld rejected",
                  (long long)a.stats.steps, (long long)a.stats.rejected);
    for (int side = 0; side < 2; side++) {
        q.p[0] = 1 + (side ? near : -near);
        loss[side] = solve(&q, AD_F64, (ode_options){ .rtol = 1e-11, .atol = 1e-13 }).loss;
    }
    check_close("by p", a.gradient[3], (loss[1] - loss[0]) / (2 * near), 1e-3);
}
END_TEST

/* Where decay stays decay: of dopri5 3.3 (Hairer & Wanner, Solving ODEs II, IV.2), of DOP853 6.1,
 * of orders 2 to 4 with as many stages 2, 2.51, 2.79 (the same, table 2.1's polynomials). */
START_TEST(stability_limits)
{
    const struct {
        const ode_method *method;
        double limit;
    } known[] = { { &ode_euler, 2 },      { &ode_midpoint, 2 }, { &ode_heun, 2 },
                  { &ode_bosh3, 2.5127 }, { &ode_rk4, 2.7853 }, { &ode_dopri5, 3.3066 },
                  { &ode_dopri8, 6.1 } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        check_close(known[i].method->name, ode_runge_kutta_stability(known[i].method),
                    known[i].limit, i == 6 ? 0.05 : 1e-4);
}
END_TEST

/* Taylor's to the method's order, and what Hairer & Wanner, IV.2, have beyond: z^6/600 of dopri5.
 */
START_TEST(growth_of_modes)
{
    static const struct {
        const ode_method *method;
        int degree;
        double beyond;
    } known[] = {
        { &ode_heun, 2, 0 }, { &ode_bosh3, 3, 0 }, { &ode_rk4, 4, 0 }, { &ode_dopri5, 6, 1.0 / 600 }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        double coefficient[ODE_MAX_STAGES + 1], taylor = 1;
        int order = ode_method_order(known[i].method);
        ck_assert_int_eq(ode_runge_kutta_growth(known[i].method, coefficient), known[i].degree);
        for (int k = 0; k <= order; taylor /= ++k)
            check_close(known[i].method->name, coefficient[k], taylor, 1e-12);
        if (order < known[i].degree)
            check_close(known[i].method->name, coefficient[order + 1], known[i].beyond, 1e-12);
    }
}
END_TEST

/* R(z) is what a step makes of y' = z y. */
START_TEST(growth_is_that_of_a_step)
{
    static const double z[] = { -40, -3, -0.5, 0.4, 1.5 };
    for (const ode_method *const *m = ode_methods(); *m; m++) {
        if (!(*m)->growth) continue;
        double coefficient[ODE_MAX_STAGES + 1];
        int degree = (*m)->growth(*m, coefficient);
        for (int i = 0; i < 5; i++) {
            double r = 0;
            for (int k = degree; k >= 0; k--) r = coefficient[k] + z[i] * r;
            r /= pow(1 - (*m)->tableau->diagonal * z[i], degree);
            problem q = { grows, 1, 1, { 1 }, { z[i] }, 1 };
            check_close((*m)->name,
                        solve(&q, AD_F64, (ode_options){ .method = *m, .steps = 1 }).loss, r, 1e-9);
        }
    }
}
END_TEST

/* |lambda| is asked for again and again, of larger steps, and near the limit. */
START_TEST(guard_asks)
{
    ode_guard guard = { .limit = 3, .margin = 1.2 };
    const double lambda = 10, h = 0.01;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            ck_assert(ode_guard_asks(&guard, -h));
            ck_assert(ode_guard_allows(&guard, -h, lambda * lambda));
            ode_guard_note(&guard, -h, true);
        }
        for (int i = 0; i < 3; i++) {
            ck_assert(!ode_guard_asks(&guard, h));
            ck_assert(!ode_guard_asks(&guard, 1.4 * h));
            ck_assert(ode_guard_asks(&guard, 1.6 * h));
            ode_guard_note(&guard, h, false);
        }
        ck_assert(ode_guard_asks(&guard, h));
        ode_guard_note(&guard, h, true);
        ck_assert(!ode_guard_asks(&guard, h));
        ck_assert(ode_guard_allows(&guard, h, 100 * lambda * lambda));
        ck_assert_double_eq_tol(guard.z, 1, 1e-12);
        ck_assert(!ode_guard_asks(&guard, h));
        ck_assert(ode_guard_asks(&guard, 1.3 * h));
        ode_guard_forget(&guard);
    }
    ode_guard_note(&guard, h, true);
    ck_assert(ode_guard_asks(&guard, h));
}
END_TEST

int main(void)
{
    TCase *stiff = suite_case("stability", "stiff");
    tcase_add_loop_test(stiff, stiffness_sweep, 0, SWEPT);
    tcase_add_loop_test(stiff, van_der_pol_is_right, 0, 3);
    tcase_add_loop_test(stiff, ordinary_problems_are_not_limited, 0, 3);
    tcase_add_loop_test(stiff, passing_zero_is_not_stiff, 0, 2);
    tcase_add_loop_test(stiff, rounding_is_not_multiplied, 0, 3);
    tcase_add_test(stiff, rounding_of_stages);
    tcase_add_test(stiff, growth_of_modes);
    tcase_add_test(stiff, growth_is_that_of_a_step);
    tcase_add_test(stiff, limits_of_rounding);
    tcase_add_test(stiff, stability_limits);
    tcase_add_test(stiff, guard_asks);
    return suite_run();
}
