/* Exogenous inputs: values and gradients of interpolation, alone and inside a field. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

enum { K = 6, D = 2 };
static const double knots[K] = { 0, 0.3, 1, 1.2, 2, 3.5 };

static double polynomial(int degree, int d, double t)
{
    double c[] = { 0.4 + d, -1.1 + 0.3 * d, 0.7 - d, 0.25 };
    double sum = 0;
    for (int i = degree; i >= 0; i--) sum = sum * t + c[i];
    return sum;
}

static ad_var sampled(ad_tape *tape, int degree)
{
    double u[K * D];
    for (int k = 0; k < K; k++)
        for (int d = 0; d < D; d++) u[k * D + d] = polynomial(degree, d, knots[k]);
    return ad_param(tape, AD_SHAPE(K, D), u);
}

/* Linear pieces reproduce straight lines, the cubic's three-point slopes parabolas, at the knots,
 * between and outside them. */
START_TEST(reproduces_polynomials)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_interpolation kind = _i ? ODE_CUBIC : ODE_LINEAR;
    int degree = _i ? 2 : 1;
    ad_var u = sampled(tape, degree), k = ad_constant(tape, AD_SHAPE(K), knots);
    for (double at = -1; at < 5; at += 0.0625) {
        ad_var t = ad_input(tape, AD_SHAPE(1, 1), &at), y = ode_interpolate(kind, t, k, u), g;
        double v[D], slope, expected = 0;
        ck_assert_int_eq(ad_shape_of(y).rank, 2);
        ck_assert_int_eq(ad_shape_of(y).dim[0], 1);
        get(y, v);
        for (int d = 0; d < D; d++) ck_assert_double_eq_tol(v[d], polynomial(degree, d, at), 1e-12);
        ad_grad(ad_sum_all(y), 1, &t, &g);
        get(g, &slope);
        for (int d = 0; d < D; d++)
            expected +=
                (polynomial(degree, d, at + 1e-4) - polynomial(degree, d, at - 1e-4)) / 2e-4;
        ck_assert_double_eq_tol(slope, expected, 1e-8);
    }
    ad_tape_free(tape);
}
END_TEST

/* Smooth at the knots, and passing through any samples. */
START_TEST(passes_through_samples)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double u[K * D], left[D], right[D];
    for (int i = 0; i < K * D; i++) u[i] = sin(2.7 * i);
    ad_var samples = ad_param(tape, AD_SHAPE(K, D), u), k = ad_constant(tape, AD_SHAPE(K), knots);
    ode_interpolation kind = _i ? ODE_CUBIC : ODE_LINEAR;
    for (int n = 0; n < K; n++) {
        double v[D];
        get(ode_interpolate(kind, ad_constant(tape, AD_SHAPE(1, 1), &knots[n]), k, samples), v);
        for (int d = 0; d < D; d++) ck_assert_double_eq_tol(v[d], u[n * D + d], 1e-14);
        if (!_i || n == 0 || n == K - 1) continue;
        double h = 1e-6;
        get(ode_interpolate(kind, ad_scalar(tape, knots[n] - h), k, samples), left);
        get(ode_interpolate(kind, ad_scalar(tape, knots[n] + h), k, samples), right);
        for (int d = 0; d < D; d++) ck_assert_double_eq_tol(right[d] - v[d], v[d] - left[d], 1e-10);
    }
    ad_tape_free(tape);
}
END_TEST

/* Samples and times per row. */
START_TEST(rows)
{
    enum { B = 3 };
    ad_tape *tape = ad_tape_new(AD_F64);
    double u[B * K * D], t[B] = { 0.1, 1.1, 2.9 }, both[B * D], one[D], g[B * K * D];
    for (int i = 0; i < B * K * D; i++) u[i] = sin(2.7 * i);
    ad_var samples = ad_input_rows(tape, AD_SHAPE(AD_ROWS, K, D), B, u),
           time = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), B, t);
    ad_var k = ad_constant(tape, AD_SHAPE(K), knots), grad;
    ode_interpolation kind = _i ? ODE_CUBIC : ODE_LINEAR;
    ad_var y = ode_interpolate(kind, time, k, samples);
    get(y, both);
    for (int r = 0; r < B; r++) {
        ad_var alone = ad_constant(tape, AD_SHAPE(K, D), u + r * K * D);
        get(ode_interpolate(kind, ad_constant(tape, AD_SHAPE(1, 1), t + r), k, alone), one);
        for (int d = 0; d < D; d++) ck_assert_double_eq_tol(both[r * D + d], one[d], 1e-14);
        get(ode_interpolate(kind, time, k, alone), g);
        for (int d = 0; d < D; d++) ck_assert_double_eq_tol(g[r * D + d], one[d], 1e-14);
    }
    /* The weights of the samples sum to one for each row and component. */
    ad_grad(ad_sum_all(y), 1, &samples, &grad);
    get(grad, g);
    for (int r = 0; r < B; r++)
        for (int d = 0; d < D; d++) {
            double sum = 0;
            for (int n = 0; n < K; n++) sum += g[(r * K + n) * D + d];
            ck_assert_double_eq_tol(sum, 1, 1e-13);
        }
    ad_tape_free(tape);
}
END_TEST

/* y' = -y + u(t), u a parabola given by samples: the cubic is exact, y = c1 + c2 t + c3 t^2 + c
 * exp(-t). Gradient in a sample by differences. */
static ad_var driven(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ode_interpolate(ODE_CUBIC, t, ad_constant(t.tape, AD_SHAPE(K), knots), args[0]),
                  y);
}

static double end_sum(const double *u, double *gradient, const ode_adjoint *adjoint)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double zero[2 * D] = { 0, 0, 1, -1 };
    ad_var samples = ad_param(tape, AD_SHAPE(K, D), u),
           y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), 2, zero), g;
    ode_options o = {
        .rtol = 1e-10, .atol = 1e-10, .adjoint = adjoint, .jump_times = knots, .njump = K
    };
    ad_var y = ode_solve_final(driven, NULL, y0, 1, &samples, ode_interval(tape, 0, 3), &o),
           loss = ad_sum_all(ad_square(y));
    double value = ad_item(loss);
    ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
    if (gradient) {
        ad_grad(loss, 1, &samples, &g);
        get(g, gradient);
    }
    ad_tape_free(tape);
    return value;
}

START_TEST(inside_a_field)
{
    double u[K * D], g[K * D];
    for (int i = 0; i < K * D; i++) u[i] = cos(1.3 * i);
    end_sum(u, g, _i ? &ode_backsolve : &ode_discrete);
    for (int i = 0; i < K * D; i++) {
        double up[K * D], down[K * D], h = 1e-4;
        memcpy(up, u, sizeof u);
        memcpy(down, u, sizeof u);
        up[i] += h;
        down[i] -= h;
        ck_assert_double_eq_tol(
            g[i], (end_sum(up, NULL, NULL) - end_sum(down, NULL, NULL)) / (2 * h), 1e-6);
    }
}
END_TEST

START_TEST(bad_input)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var u = sampled(tape, 1), k = ad_constant(tape, AD_SHAPE(K), knots),
           t = ad_scalar(tape, 0.5);
    struct {
        ad_var t, knots, samples;
        const char *message;
    } bad[] = {
        { ad_constant(tape, AD_SHAPE(2), knots), k, u, "ode_interpolate: t has shape [2]" },
        { t, ad_constant(tape, AD_SHAPE(1), knots), u, "ode_interpolate: knots have shape [1]" },
        { t, ad_constant(tape, AD_SHAPE(3), knots), u,
          "ode_interpolate: samples have shape [6,2] for knots of shape [3]" },
        { t, k, k, "ode_interpolate: samples have shape [6]" },
        { t, ad_constant(tape, AD_SHAPE(K), (double[]){ 0, 1, 1, 2, 3, 4 }), u,
          "knots must be finite and strictly increasing: knots[1] = 1, knots[2] = 1" },
        { t, ad_constant(tape, AD_SHAPE(K), (double[]){ 0, 1, NAN, 2, 3, 4 }), u,
          "knots must be finite" },
        { t, ad_fill(tape, AD_SHAPE(K), 1), u, "knots must be strictly increasing; all are 1" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ode_interpolate(ODE_CUBIC, bad[i].t, bad[i].knots, bad[i].samples);
        const char *error = ad_tape_error(tape);
        ck_assert_msg(error && strstr(error, bad[i].message), "\"%s\", not \"%s\"",
                      error ? error : "no error", bad[i].message);
        ad_tape_clear_error(tape);
    }
    ode_interpolate((ode_interpolation)7, t, k, u);
    ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "kind 7"));
    ad_tape_free(tape);
}
END_TEST

/* Times of a clock, which floats cannot tell apart: of pieces between them nothing is left. What is
 * held needs no width. */
START_TEST(knots_that_round_together)
{
    static const double clock[] = { 1.7e9, 1.7e9 + 2, 1.7e9 + 200 };
    for (int kind = ODE_LINEAR; kind <= ODE_HOLD; kind++) {
        ad_tape *tape = ad_tape_new(_i ? AD_F64 : AD_F32);
        ad_var k = ad_constant(tape, AD_SHAPE(3), clock),
               u = ad_input(tape, AD_SHAPE(3, 1), ((double[]){ 1, 2, 3 })),
               y = ode_interpolate((ode_interpolation)kind, ad_scalar(tape, 1.7e9), k, u);
        const char *error = ad_tape_error(tape);
        if (_i || kind == ODE_HOLD) ck_assert_msg(isfinite(ad_item(y)), "%s", error);
        else
            ck_assert_msg(error && strstr(error, "knots[0] = 1700000000 and knots[1] = 1700000002 "
                                                 "are one number of float32"),
                          "%s", error ? error : "no error");
        ad_tape_free(tape);
    }
}
END_TEST

int main(void)
{
    TCase *c = suite_case("interpolate", "interpolate");
    tcase_add_loop_test(c, reproduces_polynomials, 0, 2);
    tcase_add_loop_test(c, passes_through_samples, 0, 2);
    tcase_add_loop_test(c, rows, 0, 2);
    tcase_add_loop_test(c, inside_a_field, 0, 2);
    tcase_add_test(c, bad_input);
    tcase_add_loop_test(c, knots_that_round_together, 0, 2);
    return suite_run();
}
