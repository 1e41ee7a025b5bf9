/* Activations against PyTorch (tests/reference/activations.py), far from 0, and misuse; spectral
 * bounds against singular values. */
#include "tests/nn/layer_cases.h"
#include "tests/reference/activations.h"

/* ---- activations ----------------------------------------------------------------------------- */

static ad_var elu_of(ad_var x) { return nn_elu_of(x, 0.7); }
static ad_var leaky_relu_of(ad_var x) { return nn_leaky_relu_of(x, 0.3); }

/* name, function of x, values at -inf, -1e4, 1e4 and inf */
#define ACTIVATIONS(ROW)                                                                           \
    ROW(elu, nn_elu, -1, -1, 1e4, INFINITY)                                                        \
    ROW(selu, nn_selu, -1.7580993408473766, -1.7580993408473766, 10507.009873554805, INFINITY)     \
    ROW(gelu_tanh, nn_gelu_tanh, 0, 0, 1e4, INFINITY)                                              \
    ROW(mish, nn_mish, 0, 0, 1e4, INFINITY)                                                        \
    ROW(leaky_relu, nn_leaky_relu, -INFINITY, -100, 1e4, INFINITY)                                 \
    ROW(relu6, nn_relu6, 0, 0, 6, 6)                                                               \
    ROW(hardtanh, nn_hardtanh, -1, -1, 1, 1)                                                       \
    ROW(hardsigmoid, nn_hardsigmoid, 0, 0, 1, 1)                                                   \
    ROW(hardswish, nn_hardswish, 0, 0, 1e4, INFINITY)                                              \
    ROW(softsign, nn_softsign, NAN, -0.99990000999900010, 0.99990000999900010, NAN)                \
    ROW(logsigmoid, nn_logsigmoid, -INFINITY, -1e4, 0, 0)                                          \
    ROW(elu_of, elu_of, -0.7, -0.7, 1e4, INFINITY)                                                 \
    ROW(leaky_relu_of, leaky_relu_of, -INFINITY, -3000, 1e4, INFINITY)

static void make_nothing(nn_model *m) { nn_model_add(m, "other", AD_SHAPE(1), nn_init_ones, 1, 1); }

#define APPLY(name, function, ...)                                                                 \
    static ad_var apply_##name(ad_var theta, const ad_var *x)                                      \
    {                                                                                              \
        (void)theta;                                                                               \
        return function(ad_scale(x[0], 4));                                                        \
    }
ACTIVATIONS(APPLY)
APPLY(softmax, nn_softmax)
APPLY(log_softmax, nn_log_softmax)
APPLY(glu, nn_glu)

static nn_prelu prelu_layer;
static nn_linear linear;
static int64_t kernel;
static void make_prelu(nn_model *m) { prelu_layer = nn_prelu_new(m, "p", 4); }
static void make_shared(nn_model *m) { prelu_layer = nn_prelu_new(m, "p", 1); }
static ad_var apply_prelu(ad_var theta, const ad_var *x)
{
    return nn_prelu_apply(&prelu_layer, theta, x[0]);
}
static void make_linear(nn_model *m) { linear = nn_linear_new(m, "l", 5, 3, NULL); }
static ad_var apply_spectral(ad_var theta, const ad_var *x)
{
    return nn_linear_spectral_apply(&linear, theta, 0, x[0]);
}
static void make_kernel(nn_model *m)
{
    kernel = nn_model_add(m, "k", AD_SHAPE(2, 2, 5), nn_init_normal, 1, 1);
}
static ad_var apply_kernel(ad_var theta, const ad_var *x)
{
    (void)x;
    ad_var w = ad_reshape(ad_slice(theta, 0, kernel, kernel + 20), AD_SHAPE(2, 2, 5));
    return nn_spectral_normalised(w, 3);
}

#define POINTWISE(n, ...)                                                                          \
    { .name = #n,                                                                                  \
      .want = activation_##n,                                                                      \
      .ninput = 1,                                                                                 \
      .input = { { 2, { AD_ROWS, 8 } } },                                                          \
      .make = make_nothing,                                                                        \
      .apply = apply_##n },
static const layer_case cases[] = {
    ACTIVATIONS(POINTWISE) POINTWISE(softmax) POINTWISE(log_softmax)
        POINTWISE(glu){ .name = "prelu",
                        .want = prelu,
                        .ninput = 1,
                        .input = { { 3, { AD_ROWS, 2, 4 } } },
                        .make = make_prelu,
                        .apply = apply_prelu,
                        .parameter = { "p.weight" } },
    { .name = "prelu of one weight",
      .want = prelu_shared,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 2, 4 } } },
      .make = make_shared,
      .apply = apply_prelu,
      .parameter = { "p.weight" } },
    { .name = "spectral",
      .want = spectral,
      .ninput = 1,
      .input = { { 2, { AD_ROWS, 5 } } },
      .make = make_linear,
      .apply = apply_spectral,
      .parameter = { "l.weight", "l.bias" } },
    { .name = "spectral kernel",
      .want = spectral_kernel,
      .make = make_kernel,
      .apply = apply_kernel,
      .parameter = { "k" } },
};
CASE_TESTS(cases)

/* Far from 0 values are limits, and first and second derivatives finite. */
static const struct {
    const char *name;
    nn_activation function;
    double want[4];
} limits[] = {
#define LIMIT(n, function, ...) { #n, function, { __VA_ARGS__ } },
    ACTIVATIONS(LIMIT)
};

START_TEST(far_from_zero)
{
    static const double x[4] = { -INFINITY, -1e4, 1e4, INFINITY };
    double y[4], g[4], h[4];
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in = ad_input(t, AD_SHAPE(4), x), value = limits[_i].function(in), first, second;
    ad_grad(ad_sum_all(value), 1, &in, &first);
    ad_grad(ad_sum_all(first), 1, &in, &second);
    ad_get(value, y);
    ad_get(first, g);
    ad_get(second, h);
    for (int i = 0; i < 4; i++) {
        const double want = limits[_i].want[i];
        if (isnan(want)) continue;
        ck_assert_msg(y[i] == want || fabs(y[i] - want) < 1e-12 * fabs(want),
                      "%s(%g) is %.17g, not %.17g", limits[_i].name, x[i], y[i], want);
        ck_assert_msg(isinf(x[i]) || (isfinite(g[i]) && isfinite(h[i])), "%s at %g: %g, %g",
                      limits[_i].name, x[i], g[i], h[i]);
    }
    ad_var nan = limits[_i].function(ad_input(t, AD_SHAPE(1), (double[]){ NAN }));
    ck_assert_msg(isnan(ad_item(nan)), "%s(NaN) is %g", limits[_i].name, ad_item(nan));
    ck_assert(!ad_valid(limits[_i].function(ad_none(t))));
    ck_assert_ptr_nonnull(ad_tape_error(t));
    ad_tape_free(t);
}
END_TEST

/* Softmax of (0, -gap, -gap - 1): how the dominant term changes is a sum of small terms, which does
 * not cancel, in either mode; nor where the largest elements are equal. */
START_TEST(dominant_term)
{
    const ad_dtype dtype = _i ? AD_F64 : AD_F32;
    const double within = _i ? 1e-14 : 3e-6;
    for (double gap = 0; gap < (_i ? 600 : 80); gap = 1.1 * gap + 0.25) {
        const float narrow = (float)gap;
        const double g = _i ? gap : (double)narrow, e = exp(-g), f = exp(-g - 1), sum = 1 + e + f;
        const double by_first = (e + f) / (sum * sum), by_second = -e / (sum * sum);
        double got[3];
        ad_tape *t = ad_tape_new(dtype);
        ad_var x = ad_input(t, AD_SHAPE(3), ((double[]){ 0, -g, -g - 1 })), reverse, forward,
               first = ad_input(t, AD_SHAPE(3), ((double[]){ 1, 0, 0 })),
               y = ad_slice(nn_softmax(x), 0, 0, 1);
        ad_grad(ad_sum_all(y), 1, &x, &reverse);
        ad_jvp(1, &x, &first, 1, &y, &forward);
        ck_assert_msg(!ad_get(reverse, got), "%s", ad_tape_error(t));
        ck_assert_msg(fabs(got[0] / by_first - 1) < within && fabs(got[1] / by_second - 1) < within,
                      "gap %g: %g %g, not %g %g", g, got[0], got[1], by_first, by_second);
        ck_assert_double_eq_tol(ad_item(forward) / by_first, 1, within);
        ad_tape_free(t);
    }
}
END_TEST

START_TEST(initial_slope)
{
    nn_model *m = nn_model_new();
    make_prelu(m);
    nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
    for (int i = 0; i < 4; i++) ck_assert_double_eq(nn_theta_f64(theta, "p.weight")[i], 0.25);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- spectral bounds ------------------------------------------------------------------------- */

/* Of a diagonal matrix with 3, 1, ..., 1, at any scale; and of one with equal singular values,
 * where the bound is as bad as it can be. */
START_TEST(known_singular_values)
{
    enum { N = 6 };
    static const double scales[] = { 1, 1e-12, 1e12 };
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++)
        for (int s = 0; s < 3; s++)
            for (int squarings = 1; squarings <= 12; squarings++) {
                double w[N * N] = { 0 };
                for (int i = 0; i < N; i++) w[i * N + i] = (_i || i ? 1 : 3) * scales[s];
                ad_tape *t = ad_tape_new((ad_dtype)dtype);
                ad_var v = ad_param(t, AD_SHAPE(N, N), w), bound = nn_spectral_bound(v, squarings);
                const double p2 = pow(2, squarings + 1);
                const double want = scales[s] * pow(_i ? N : pow(3, p2) + N - 1, 1 / p2);
                const double within = dtype == AD_F32 ? 1e-5 : 1e-13;
                if (isfinite(want)) ck_assert_double_eq_tol(ad_item(bound) / want, 1, within);
                ck_assert(ad_item(bound) >= (_i ? 1 : 3) * scales[s] * (1 - within));
                ad_tape_free(t);
            }
}
END_TEST

START_TEST(zero_matrix)
{
    double y[6], g[6];
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var w = ad_param(t, AD_SHAPE(2, 3), ((double[6]){ 0 })), by_w;
    ad_var n = nn_spectral_normalised(w, 0);
    ad_grad(ad_sum_all(n), 1, &w, &by_w);
    ck_assert_int_eq(ad_get(n, y), 0);
    ck_assert_int_eq(ad_get(by_w, g), 0);
    for (int i = 0; i < 6; i++) ck_assert(y[i] == 0 && isfinite(g[i]));
    ad_tape_free(t);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

START_TEST(misuse_is_refused)
{
    nn_model *m = nn_model_new();
    nn_prelu_new(m, "p", 0);
    case_unmade(m, "p.weight");
    m = nn_model_new();
    make_prelu(m);
    make_linear(m);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 0.1);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 3), 0, (double *)NULL);
    case_refused(nn_prelu_apply(&prelu_layer, theta, x), "but the layer takes [...,4]");
    case_refused(nn_prelu_apply(NULL, theta, x), "could not be made");
    case_refused(nn_glu(x), "ad_split");
    case_refused(nn_softmax(ad_scalar(t, 1)), "ad_reduce_max");
    case_refused(nn_spectral_bound(x, 0), "w is [rows,3], and 0 squarings are asked for");
    case_refused(nn_spectral_bound(ad_fill(t, AD_SHAPE(3), 1), 0), "w must be [...,in,out]");
    case_refused(nn_spectral_bound(ad_fill(t, AD_SHAPE(3, 3), 1), 31), "the squarings 0 to 30");
    case_refused(nn_spectral_normalised(ad_fill(t, AD_SHAPE(3, 3), 1), -1), "-1 squarings");
    case_refused(nn_spectral_bound(ad_none(t), 0), "w is not a valid variable");
    case_refused(nn_linear_spectral_apply(&linear, theta, 0, x), "but the layer takes [...,5]");
    case_refused(nn_linear_spectral_apply(NULL, theta, 0, x), "could not be made");
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("activations", "activations");
    add_case_tests(tests);
    tcase_add_loop_test(tests, far_from_zero, 0, (int)(sizeof limits / sizeof *limits));
    tcase_add_loop_test(tests, dominant_term, 0, 2);
    tcase_add_test(tests, initial_slope);
    tcase_add_loop_test(tests, known_singular_values, 0, 2);
    tcase_add_test(tests, zero_matrix);
    tcase_add_test(tests, misuse_is_refused);
    return suite_run();
}
