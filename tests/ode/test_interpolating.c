/* The adjoint against the stored solution: gradients of the continuous problem, also where time
 * cannot be reversed. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static void near(const char *what, double value, double right, double tolerance)
{
    ck_assert_msg(fabs(value - right) < tolerance * (1 + fabs(right)), "%s: %.12g, not %.12g", what,
                  value, right);
}

static ad_var column(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }

/* ---- dissipative problems ---- */

/* y' = -p (y - cos t): y = c e^(-p t) + p (p cos t + sin t) / (p^2 + 1), c = y0 - p^2 / (p^2 + 1).
 */
static ad_var relaxation(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(args[0], ad_sub(ad_cos(t), y));
}

static double relaxed(double y0, double p, double t)
{
    double s = p * p + 1;
    return (y0 - p * p / s) * exp(-p * t) + p * (p * cos(t) + sin(t)) / s;
}

/* By y0 and p, of the sum of y at two times, one within the transient; each method, both types. */
START_TEST(relaxation_is_right)
{
    const ode_method *m = ode_methods()[_i / 2];
    bool f32 = _i % 2, adaptive = ode_method_adaptive(m);
    if (m == &ode_nystroem2) return;
    ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
    double start = 0.3, p0 = 50, times[] = { 0, 0.02, 2 }, g[3], e = 1e-5;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SCALAR, &p0);
    ode_stats stats = { 0 };
    ode_options o = { .method = m, .adjoint = &ode_interpolating, .stats = &stats };
    int order = ode_method_order(m);
    if (adaptive) o.rtol = o.atol = f32 || order < 3 ? 1e-5 : 1e-7;
    else o.step = order == 1 ? 2e-4 : 1e-3;
    ad_var y = ode_solve(relaxation, NULL, y0, 1, &p, ad_constant(tape, AD_SHAPE(3), times), &o);
    ad_var loss = ad_sum_all(ad_slice(y, 1, 1, 3)), bar[2];
    ad_grad(loss, 2, (ad_var[]){ y0, p }, bar);
    get(bar[0], g);
    get(bar[1], g + 1);
    double by_y0 = exp(-p0 * 0.02) + exp(-p0 * 2), by_p = 0;
    for (int k = 1; k < 3; k++)
        by_p += (relaxed(start, p0 + e, times[k]) - relaxed(start, p0 - e, times[k])) / (2 * e);
    double tolerance = order == 1 ? 1e-2 : f32 || order == 2 ? 1e-3 : 1e-5;
    ck_assert_msg(fabs(g[0] - by_y0) < tolerance, "%s: %g, not %g", ode_method_name(m), g[0],
                  by_y0);
    ck_assert_msg(fabs(g[1] - by_p) < tolerance * 0.02, "%s: %g, not %g", ode_method_name(m), g[1],
                  by_p);
    ck_assert(stats.backward_drift == 0);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

/* u_t = p u_xx between zeros, by differences on N points: sines are eigenvectors, with eigenvalues
 * -p (2 / d sin(k pi d / 2))^2. In reverse time it is not solvable. */
enum { N = 24 };

static ad_var heat(ad_var t, ad_var u, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var zero = ad_zeros_like(column(u, 0)), inner = ad_slice(u, 1, 1, N),
           outer = ad_slice(u, 1, 0, N - 1);
    ad_var right = ad_concatenate(2, (ad_var[]){ inner, zero }, 1);
    ad_var left = ad_concatenate(2, (ad_var[]){ zero, outer }, 1);
    ad_var curvature = ad_scale(ad_sub(ad_add(left, right), ad_scale(u, 2)), (N + 1.0) * (N + 1.0));
    return ad_mul(args[0], curvature);
}

static ad_var heat_loss(ad_tape *tape, const ode_options *o, ad_var *p)
{
    double u0[N], w[N], rate = 0.1, d = 1.0 / (N + 1), pi = acos(-1.0);
    for (int i = 0; i < N; i++) {
        double x = (i + 1) * d;
        u0[i] = sin(pi * x) + 0.5 * sin(5 * pi * x) + 0.2 * sin(23 * pi * x);
        w[i] = 2 * d * (sin(pi * x) + sin(5 * pi * x) + sin(23 * pi * x));
    }
    ad_var u = ad_input_rows(tape, AD_SHAPE(AD_ROWS, N), 1, u0);
    *p = ad_param(tape, AD_SCALAR, &rate);
    ad_var end = ode_solve_final(heat, NULL, u, 1, p, ode_interval(tape, 0, 0.5), o);
    return ad_sum_all(ad_mul(end, ad_input_rows(tape, AD_SHAPE(AD_ROWS, N), 1, w)));
}

START_TEST(heat_equation)
{
    const ode_method *const methods[] = { &ode_dopri5, &ode_bosh3, &ode_dopri8, &ode_trapezoidal };
    const double amount[] = { 1, 0.5, 0.2 }, mode[] = { 1, 5, 23 };
    double right = 0, pi = acos(-1.0), g;
    for (int k = 0; k < 3; k++) {
        double root = 2 * (N + 1) * sin(mode[k] * pi / (2 * (N + 1))), lambda = root * root;
        right -= amount[k] * 0.5 * lambda * exp(-0.1 * lambda * 0.5);
    }
    for (int k = 0; k < 4; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_options o = { .method = methods[k], .adjoint = &ode_interpolating };
        if (k < 3) o.rtol = o.atol = 1e-8;
        else o.steps = 2000;
        ad_var p, bar, loss = heat_loss(tape, &o, &p);
        ad_grad(loss, 1, &p, &bar);
        get(bar, &g);
        near(ode_method_name(methods[k]), g, right, 2e-6);
        ad_tape_free(tape);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var p, bar, loss = heat_loss(tape, &(ode_options){ .adjoint = &ode_backsolve }, &p);
    ad_grad(loss, 1, &p, &bar);
    ck_assert_ptr_null(ad_value(bar));
    ck_assert_msg(strstr(ad_tape_error(tape), "ode_interpolating") != NULL, "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* ---- convergence ---- */

/* y' = [[-a, -w], [w, -a]] y with a shared and w of the rows: from (1, 0) the spiral
 * e^(-a t) (cos w t, sin w t). */
static ad_var spiral(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = column(y, 0), z = column(y, 1), a = args[0], w = args[1];
    ad_var dx = ad_neg(ad_add(ad_mul(a, x), ad_mul(w, z)));
    ad_var dz = ad_sub(ad_mul(w, x), ad_mul(a, z));
    return ad_concatenate(2, (ad_var[]){ dx, dz }, 1);
}

/* The largest error of the gradient of sum over rows and two times of the first component. */
static double spiral_error(const ode_options *o, ode_stats *stats)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 0, 1, 0 }, a0 = 0.4, w0[] = { 2, 3.5 }, g[5], right[5] = { 0 };
    const double times[] = { 0, 1.3, 3 };
    ode_options options = *o;
    options.stats = stats;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, start);
    ad_var args[] = { ad_param(tape, AD_SCALAR, &a0),
                      ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 2, w0) };
    ad_var t = ad_param(tape, AD_SHAPE(3), times), bar[3];
    ad_var y = ode_solve(spiral, NULL, y0, 2, args, t, &options);
    ad_grad(ad_sum_all(ad_slice(ad_slice(y, 2, 0, 1), 1, 1, 3)), 3,
            (ad_var[]){ args[0], args[1], t }, bar);
    get(bar[0], g);
    get(bar[1], g + 1);
    double by_time[3], worst = 0;
    get(bar[2], by_time);
    g[3] = by_time[0];
    g[4] = by_time[2];
    for (int r = 0; r < 2; r++)
        for (int k = 1; k < 3; k++) {
            double s = times[k], e = exp(-a0 * s), c = cos(w0[r] * s), i = sin(w0[r] * s);
            double rate = -a0 * e * c - w0[r] * e * i;
            right[0] -= s * e * c;
            right[1 + r] -= s * e * i;
            right[3] -= rate;
            if (k == 2) right[4] += rate;
        }
    for (int i = 0; i < 5; i++) worst = fmax(worst, fabs(g[i] - right[i]));
    ad_tape_free(tape);
    return worst;
}

/* The error falls with the tolerance. */
START_TEST(error_follows_the_tolerance)
{
    const ode_method *const methods[] = { &ode_bosh3, &ode_dopri5, &ode_tsit5, &ode_dopri8 };
    double before = 1;
    for (int k = 4; k <= 10; k += 2) {
        double tolerance = pow(10, -k);
        ode_options o = { .method = methods[_i],
                          .adjoint = &ode_interpolating,
                          .rtol = tolerance,
                          .atol = tolerance };
        double error = spiral_error(&o, NULL);
        ck_assert_msg(error < 200 * tolerance && error < before / 8, "%s at %g: %g, before %g",
                      ode_method_name(methods[_i]), tolerance, error, before);
        before = error;
    }
}
END_TEST

/* Given steps have the order of the method, or of its interpolant where that is less by two. */
START_TEST(order_in_given_steps)
{
    const struct {
        const ode_method *method;
        double order;
    } cases[] = { { &ode_euler, 1 }, { &ode_heun, 2 },        { &ode_implicit_euler, 1 },
                  { &ode_bosh3, 3 }, { &ode_trapezoidal, 2 }, { &ode_rk4, 4 },
                  { &ode_dopri5, 5 } };
    ode_options o = { .method = cases[_i].method, .adjoint = &ode_interpolating, .steps = 20 };
    double coarse = spiral_error(&o, NULL);
    o.steps = 40;
    double fine = spiral_error(&o, NULL), order = log2(coarse / fine);
    ck_assert_msg(order > cases[_i].order - 0.35, "%s: %g and %g: order %.2f",
                  ode_method_name(o.method), coarse, fine, order);
}
END_TEST

/* The march back has a tolerance of its own, and steps of its own. */
START_TEST(tolerances_of_its_own)
{
    ode_stats stats[3] = { { 0 } };
    ode_options o = { .adjoint = &ode_interpolating, .rtol = 1e-10, .atol = 1e-10 };
    double fine = spiral_error(&o, &stats[0]);
    o.adjoint_rtol = o.adjoint_atol = 1e-4;
    double coarse = spiral_error(&o, &stats[1]);
    ck_assert_int_eq(stats[0].steps, stats[1].steps);
    ck_assert_int_lt(3 * stats[1].backward_steps, stats[0].backward_steps);
    ck_assert(coarse < 1e-2 && coarse > 1e2 * fine);
    o.adjoint_seminorm = true;
    ck_assert(spiral_error(&o, &stats[2]) < 1e-2);
    ck_assert_int_le(stats[2].backward_steps, stats[1].backward_steps);
    for (int k = 0; k < 3; k++) ode_stats_clear(&stats[k]);
}
END_TEST

/* Steps that are replayed are taken back one by one. */
START_TEST(replayed_steps)
{
    ode_stats first = { 0 }, again = { 0 };
    ode_options o = { .rtol = 1e-7, .atol = 1e-7 };
    (void)spiral_error(&o, &first);
    o = (ode_options){ .adjoint = &ode_interpolating, .replay = first.steps_taken };
    ck_assert_double_lt(spiral_error(&o, &again), 1e-5);
    ck_assert_int_ge(again.backward_steps, first.steps);
    ck_assert_int_le(again.backward_steps, first.steps + 1); /* one more: an output inside a step */
    ode_stats_clear(&first);
    ode_stats_clear(&again);
}
END_TEST

/* ---- Lotka-Volterra ---- */

static ad_var lotka(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = column(y, 0), z = column(y, 1), xz = ad_mul(x, z), p[4];
    for (int i = 0; i < 4; i++) p[i] = ad_slice(args[0], 0, i, i + 1);
    ad_var dx = ad_sub(ad_mul(p[0], x), ad_mul(p[1], xz));
    ad_var dz = ad_sub(ad_mul(p[3], xz), ad_mul(p[2], z));
    return ad_concatenate(2, (ad_var[]){ dx, dz }, 1);
}

/* Of the sum of |y - 2|^2 / 2 at t = 2.5, 5, 7.5 and 10, by y0 and p: by SciPy's DOP853 at 1e-13
 * from the sensitivity equations. By all that can ask for it. */
static const double lotka_gradient[] = { 3.122682009521,   -5.308231112751, 44.364854576470,
                                         -13.332360798288, 21.303645319768, -22.076649147138 };

START_TEST(lotka_volterra)
{
    double start[] = { 1, 1 }, p0[] = { 1.5, 1, 3, 1 }, g[6];
    const double times[] = { 0, 2.5, 5, 7.5, 10 };
    for (int asked = 0; asked < 2; asked++)
        for (int k = 0; k < 2; k++) {
            ad_tape *tape = ad_tape_new(AD_F64);
            ode_options o = { .adjoint = k ? &ode_interpolating : &ode_discrete,
                              .rtol = 1e-10,
                              .atol = 1e-10 };
            ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
            ad_var p = ad_param(tape, AD_SHAPE(4), p0), y, bar[2];
            ad_var later = ad_constant(tape, AD_SHAPE(4), (double[]){ 7.5, 2.5, 10, 5 });
            if (asked) {
                ode_dense dense;
                ode_solve_dense(&dense, lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 10), &o);
                y = ode_dense_at(&dense, later);
            } else {
                y = ode_solve(lotka, NULL, y0, 1, &p, ad_constant(tape, AD_SHAPE(5), times), &o);
                y = ad_slice(y, 1, 1, 5);
            }
            ad_var loss = ad_scale(ad_sum_all(ad_square(ad_shift(y, -2))), 0.5);
            ad_grad(loss, 2, (ad_var[]){ y0, p }, bar);
            get(bar[0], g);
            get(bar[1], g + 2);
            for (int i = 0; i < 6; i++)
                near(k ? "interpolating" : "discrete", g[i], lotka_gradient[i], 1e-7);
            ad_tape_free(tape);
        }
}
END_TEST

/* Halved steps agree, so that ad_check_gradient can be asked; what is stored are states alone. */
START_TEST(checked_and_accounted)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 1 }, p0[] = { 1.5, 1, 3, 1 };
    ode_stats stats = { 0 };
    ode_options o = { .adjoint = &ode_interpolating, .rtol = 1e-8, .atol = 1e-8, .stats = &stats };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start),
           p = ad_param(tape, AD_SHAPE(4), p0), bar;
    ad_var y = ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 5), &o);
    ad_grad(ad_sum_all(ad_square(y)), 1, &p, &bar);
    ck_assert_ptr_nonnull(ad_value(bar));
    size_t states = (size_t)(stats.steps + 1) * 2 * sizeof(double);
    ck_assert_uint_ge(stats.stored_bytes, states);
    ck_assert_uint_le(stats.stored_bytes, 5 * states);
    ck_assert_int_eq(stats.probes, 0);
    ck_assert_int_gt(stats.vjps, stats.backward_steps);
    ck_assert_int_gt(stats.backward_evaluations, stats.vjps);
    ad_gradient_difference difference;
    ad_var loss = ad_sum_all(ad_square(y));
    ck_assert_int_eq(ad_check_gradient(loss, 1, &p, 0, NULL, &difference), 0);
    ck_assert(difference.difference > 0 && difference.difference < 1e-5);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

START_TEST(not_with_multistep_methods)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 1 }, p0[] = { 1.5, 1, 3, 1 };
    ode_options o = { .method = &ode_nystroem2, .adjoint = &ode_interpolating, .steps = 100 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start),
           p = ad_param(tape, AD_SHAPE(4), p0), bar;
    ad_var y = ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 5), &o);
    ck_assert_ptr_nonnull(ad_value(y));
    ad_grad(ad_sum_all(y), 1, &p, &bar);
    ck_assert_msg(strstr(ad_tape_error(tape), "nystroem2 is a multistep method") != NULL, "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("interpolating", "dissipative");
    tcase_add_loop_test(c, relaxation_is_right, 0, 2 * method_count());
    tcase_add_test(c, heat_equation);
    c = suite_case("interpolating", "convergence");
    tcase_add_loop_test(c, error_follows_the_tolerance, 0, 4);
    tcase_add_loop_test(c, order_in_given_steps, 0, 7);
    tcase_add_test(c, tolerances_of_its_own);
    tcase_add_test(c, replayed_steps);
    c = suite_case("interpolating", "others");
    tcase_add_test(c, lotka_volterra);
    tcase_add_test(c, checked_and_accounted);
    tcase_add_test(c, not_with_multistep_methods);
    return suite_run();
}
