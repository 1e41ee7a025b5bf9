/* The probability flow and the reverse-time equation of data whose score is known. */
#include "diffusion_problems.h"
#include "ode/step/step.h"
#include <stdlib.h>
#include <string.h>

static const double two_pi = 6.28318530717958647692;
static const ode_options tight = { .method = &ode_dopri8, .rtol = 1e-10, .atol = 1e-10 };

/* Decoding is the closed form, encoding its inverse, and the log-density that of the flow, for all
 * processes and predictions. */
START_TEST(gaussian_data)
{
    gaussian g = { ode_processes()[_i / ODE_PREDICTIONS], _i % ODE_PREDICTIONS, 0.7, 0.6, 0.4 };
    ode_diffusion model = gaussian_model(&g);
    /* A closed form for the network divides by alpha; straight paths have none at t = 1. */
    bool straight = g.process == &ode_optimal_transport;
    double first = g.process->t_min, last = straight ? 0.99 : g.process->t_max;
    if (first < 1e-3) first = 1e-3;
    model.t_min = first;
    model.t_max = last;
    enum { N = 5 };
    double z[2 * N], x[2 * N], back[2 * N], log_p[N], alpha, sigma;
    normals(7, 2 * N, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var decoded = ode_diffusion_decode(&model, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), N, z),
                                          0, NULL, &tight);
    get(decoded, x);
    get(ode_diffusion_encode(&model, decoded, 0, NULL, &tight), back);
    get(ode_diffusion_log_density(&model, decoded, 0, NULL, &tight), log_p);
    kernel_at(g.process, last, &alpha, &sigma);
    double logdet = 0;
    for (int k = 0; k < 2; k++)
        logdet += log(gaussian_deviation(&g, last, k) / gaussian_deviation(&g, first, k));
    for (int r = 0; r < N; r++) {
        double start[2] = { sigma * z[2 * r], sigma * z[2 * r + 1] }, want[2], square = 0;
        gaussian_flow(&g, last, first, start, want);
        for (int k = 0; k < 2; k++) {
            ck_assert_msg(fabs(x[2 * r + k] - want[k]) < 1e-6, "%s, prediction %d: %.9g, not %.9g",
                          g.process->name, (int)g.prediction, x[2 * r + k], want[k]);
            ck_assert_double_eq_tol(back[2 * r + k], z[2 * r + k], 1e-6);
            square += z[2 * r + k] * z[2 * r + k];
        }
        double exact = -0.5 * square - log(two_pi) - 2 * log(sigma) + logdet;
        ck_assert_msg(fabs(log_p[r] - exact) < 1e-6, "%s, prediction %d: %.9g, not %.9g",
                      g.process->name, (int)g.prediction, log_p[r], exact);
    }
    ad_tape_free(tape);
}
END_TEST

/* ---- a mixture ---- */

enum { CENTRES = 8 };
static const double radius = 2.83, width = 0.35;

static void centres(double *c)
{
    for (int k = 0; k < CENTRES; k++) {
        c[2 * k] = radius * cos(k * two_pi / CENTRES);
        c[2 * k + 1] = radius * sin(k * two_pi / CENTRES);
    }
}

/* log p_t of the mixture, [rows,1]. */
static ad_var mixture_log_density(ad_var t, ad_var x)
{
    double c[2 * CENTRES];
    centres(c);
    ad_var alpha, sigma;
    ode_vp.kernel(t, ode_vp.parameter, &alpha, &sigma);
    ad_var v = ad_shift(ad_sub(ad_ones_like(t), ad_scale(ad_square(alpha), 1 - width * width)), 0);
    ad_var centre = ad_mul(ad_reshape(alpha, AD_SHAPE(1, 1, 1)),
                           ad_constant(x.tape, AD_SHAPE(1, CENTRES, 2), c));
    ad_var away = ad_sub(ad_reshape(x, AD_SHAPE(AD_ROWS, 1, 2)), centre);
    ad_var exponent = ad_div(ad_scale(ad_sum_axis(ad_square(away), 2, false), -0.5), v);
    ad_var sum = ad_logsumexp(exponent, 1, (int[]){ 1 }, true);
    return ad_sub(ad_shift(sum, -log(CENTRES * two_pi)), ad_log(v));
}

/* The score, from the tape. */
static ad_var mixture_network(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var log_p = mixture_log_density(t, x), score;
    ad_vjp(1, &log_p, (ad_var[]){ ad_ones_like(log_p) }, 1, &x, &score);
    return score;
}

/* The likelihood of the flow is that of the mixture, but for what is left of it at t_max: its
 * variance there is 1 + alpha^2 (4 - 1). */
START_TEST(mixture_data)
{
    enum { N = 40 };
    ode_diffusion model = { .prediction = ODE_SCORE, .network = mixture_network };
    double x[2 * N], got[N], want[N], c[2 * CENTRES];
    centres(c);
    normals(9, 2 * N, x);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 2; k++) x[2 * i + k] = width * x[2 * i + k] + c[2 * (i % CENTRES) + k];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), N, x);
    get(ode_diffusion_log_density(&model, in, 0, NULL, &tight), got);
    ad_var t = ad_reshape(ad_scalar(tape, ode_vp.t_min), AD_SHAPE(1, 1));
    get(mixture_log_density(t, in), want);
    for (int i = 0; i < N; i++) ck_assert_double_eq_tol(got[i], want[i], 2e-3);
    ad_tape_free(tape);
}
END_TEST

/* ---- the reverse-time equation ---- */

/* Samples have the law of the data, by every method that takes fixed steps. */
START_TEST(reverse_time)
{
    enum { N = 6000 };
    const ode_method *method = sde_methods()[_i];
    if (!(method->takes & ODE_TAKES_ADDITIVE)) return;
    gaussian g = { &ode_vp, ODE_NOISE, 0.5, 0.6, 0.6 };
    ode_diffusion model = gaussian_model(&g);
    double *z = malloc(N * 2 * sizeof *z), *x = malloc(N * 2 * sizeof *x), m[5];
    normals(13, N * 2, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    sde_options o = { .ode = { .method = method, .steps = 300 }, .path = { .seed = 5 } };
    get(ode_diffusion_by_sde(&model, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), N, z), 0, NULL, &o),
        x);
    moments(N, x, m);
    double v = g.s * g.s, error = 4.5 / sqrt(N), bias = 0.02;
    for (int k = 0; k < 2; k++) {
        ck_assert_msg(fabs(m[k] - g.m) < error * g.s + bias, "%s: mean %g, not %g",
                      ode_method_name(method), m[k], g.m);
        ck_assert_msg(fabs(m[2 + k] - v) < error * v * sqrt(2) + bias, "%s: variance %g, not %g",
                      ode_method_name(method), m[2 + k], v);
    }
    ck_assert_double_eq_tol(m[4], v * g.rho, error * v * 1.2 + bias);
    ad_tape_free(tape);
    free(z);
    free(x);
}
END_TEST

/* ---- discrete data ---- */

/* Points between -1 and 1; uniform numbers have log2(levels) bits. */
START_TEST(numbers)
{
    const double x[4] = { 0, 3, 7, 1 }, u[4] = { 0.5, 0.25, 0.75, 0.5 }, log_p[2] = { 0, -2 };
    double y[4], bits[2];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, x),
           noise = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, u);
    get(ode_dequantise(in, noise, 8), y);
    for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(y[i], (x[i] + u[i]) / 4 - 1, 1e-15);
    ad_var l = ad_shift(ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 2, log_p), -2 * log(2));
    get(ode_bits_per_dimension(l, 2, 8), bits);
    ck_assert_double_eq_tol(bits[0], 3, 1e-14);
    ck_assert_double_eq_tol(bits[1], 3 + 1 / log(2), 1e-14);
    ck_assert(!ad_valid(ode_dequantise(in, noise, 1)));
    ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "1 levels"));
    ad_tape_clear_error(tape);
    ck_assert(!ad_valid(ode_bits_per_dimension(l, 0, 8)));
    ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "0 dimensions"));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("diffusion_flows", "flows");
    int methods = 0;
    while (sde_methods()[methods]) methods++;
    tcase_add_loop_test(c, gaussian_data, 0, 5 * ODE_PREDICTIONS);
    tcase_add_test(c, mixture_data);
    tcase_add_loop_test(c, reverse_time, 0, methods);
    tcase_add_test(c, numbers);
    return suite_run();
}
