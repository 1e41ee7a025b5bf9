/* The loops of optimisers: the same bits with every instruction set and any number of threads, and
 * right updates where an element is beyond the range in which its neighbours are computed. */
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

static const nn_optimizer *const algorithms[] = { &nn_sgd,    &nn_adam,    &nn_adamw, &nn_radam,
                                                  &nn_adamax, &nn_rmsprop, &nn_lion,  &nn_muon };

enum { LONG = 20001 };

/* Eight updates of a long and a square array by gradients of very different sizes. */
static nn_theta *train(const nn_model *model, ad_dtype dtype, const nn_optimizer *algorithm,
                       int threads)
{
    ad_rng rng = ad_rng_seed(3);
    nn_theta *theta = nn_theta_new(model, dtype, &rng);
    nn_theta *gradient = nn_theta_new(model, dtype, NULL);
    nn_optimizer_options o = {
        .algorithm = algorithm, .weight_decay = 0.01, .clip_norm = 3, .threads = threads
    };
    nn_optimizer_state *s = nn_optimizer_new(&o, theta, 0);
    double *g = malloc(LONG * sizeof *g);
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < LONG; i++) g[i] = ad_rng_normal(&rng) * pow(10, i % 9 - 4);
        ck_assert_int_eq(nn_theta_set(gradient, "long", LONG, g), 0);
        ck_assert_int_eq(nn_theta_set(gradient, "square", 36, g), 0);
        ck_assert_msg(nn_optimizer_step(s, theta, gradient) == 0, "%s", nn_optimizer_error(s));
    }
    free(g);
    nn_optimizer_free(s);
    nn_theta_free(gradient);
    return theta;
}

START_TEST(same_bits)
{
    static const char *const sets[] = { "generic", "x86-64-v2", "x86-64-v3", "x86-64-v4" };
    nn_model *model = nn_model_new();
    nn_model_add(model, "long", AD_SHAPE(LONG), nn_init_xavier_normal, 1, 1);
    nn_model_add(model, "square", AD_SHAPE(6, 6), nn_init_xavier_normal, 6, 6);
    const nn_optimizer *algorithm = algorithms[_i / 2];
    ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    nn_theta *first = train(model, dtype, algorithm, 1);
    size_t bytes = (size_t)nn_theta_size(first) * (_i % 2 ? sizeof(double) : sizeof(float));
    nn_theta *shared = train(model, dtype, algorithm, 3);
    ck_assert_mem_eq(nn_theta_data(shared), nn_theta_data(first), bytes);
    nn_theta_free(shared);
    /* Muon's matrices are multiplied by kernels that fuse, where the processor does. */
    for (int k = 0; algorithm != &nn_muon && k < COUNT(sets); k++) {
        setenv("COSTATE_ISA", sets[k], 1);
        nn_theta *other = train(model, dtype, algorithm, 1);
        unsetenv("COSTATE_ISA");
        ck_assert_msg(memcmp(nn_theta_data(other), nn_theta_data(first), bytes) == 0,
                      "%s with %s differs", nn_optimizer_name(algorithm), sets[k]);
        nn_theta_free(other);
    }
    nn_theta_free(first);
    nn_model_free(model);
}
END_TEST

/* The first steps of Adam are the rate, each with the sign of its gradient, where epsilon is
 * nothing beside it; of RMSprop the rate over sqrt(1 - alpha). */
START_TEST(large_beside_small)
{
    static const double sizes[] = { 1, -1e-3, 1e30, 2, -1e25 };
    enum { N = COUNT(sizes) };
    for (int k = 0; k < 4; k++) {
        bool adam = k % 2;
        ad_dtype dtype = k < 2 ? AD_F32 : AD_F64;
        double power = dtype == AD_F32 ? 1 : 9; /* 1e270 */
        double x[N] = { 0 }, g[N], expected = adam ? 0.1 : 0.1 / sqrt(1 - 0.99);
        nn_model *model = nn_model_new();
        nn_model_add(model, "x", AD_SHAPE(N), nn_init_zeros, 1, 1);
        nn_theta *theta = nn_theta_new(model, dtype, NULL);
        nn_theta *gradient = nn_theta_new(model, dtype, NULL);
        nn_optimizer_options o = { .algorithm = adam ? &nn_adam : &nn_rmsprop, .rate = 0.1 };
        nn_optimizer_state *s = nn_optimizer_new(&o, theta, 0);
        for (int i = 0; i < N; i++) {
            double size = fabs(sizes[i]);
            g[i] = copysign(size > 1e9 ? pow(size, power) : size, sizes[i]);
        }
        nn_theta_set(gradient, "x", N, g);
        ck_assert_msg(nn_optimizer_step(s, theta, gradient) == 0, "%s", nn_optimizer_error(s));
        ck_assert_int_eq(nn_theta_get(theta, "x", N, x), 0);
        for (int i = 0; i < N; i++)
            ck_assert_double_eq_tol(x[i], -copysign(expected, g[i]), 2e-4 * expected);
        nn_optimizer_free(s);
        nn_theta_free(gradient);
        nn_theta_free(theta);
        nn_model_free(model);
    }
}
END_TEST

/* Numbers, moments and factors around the sizes up to which updates are made in single precision:
 * the same update in double precision is close, the state goes on, and what overflows is noticed.
 */
START_TEST(around_the_bounds)
{
    static const double sizes[] = { 0x1p29, 0x1p31, 0x1p55, 0x1p100, 1e-30, 1 };
    static const struct {
        double rate, momentum, beta1, epsilon;
    } factors[] = { { 1e-3, 0, 0, 0 },         { 200, 0, 0, 0 },      { 1e6, 0, 0, 0 },
                    { 1e-3, 0.9999999, 0, 0 }, { 1e-3, 0, 0, 1e-30 }, { 1e-3, 0, 1 - 1e-9, 0 } };
    enum { N = COUNT(sizes), F = COUNT(factors) };
    for (int k = 0; k < F * COUNT(algorithms); k++) {
        const nn_optimizer *algorithm = algorithms[k / F];
        nn_optimizer_options o = { .algorithm = algorithm, .rate = factors[k % F].rate };
        bool sgd = algorithm == &nn_sgd;
        if (sgd || algorithm == &nn_rmsprop) o.momentum = factors[k % F].momentum;
        if (!sgd && algorithm != &nn_rmsprop) o.beta1 = factors[k % F].beta1;
        if (!sgd && algorithm != &nn_lion) o.epsilon = factors[k % F].epsilon;
        double x[2][N];
        for (int dtype = 0; dtype < 2; dtype++) {
            nn_model *model = nn_model_new();
            nn_model_add(model, "x", AD_SHAPE(N), nn_init_zeros, 1, 1);
            nn_theta *theta = nn_theta_new(model, dtype ? AD_F64 : AD_F32, NULL);
            nn_theta *gradient = nn_theta_new(model, dtype ? AD_F64 : AD_F32, NULL);
            nn_optimizer_state *s = nn_optimizer_new(&o, theta, 0);
            for (int step = 0; step < 4; step++) {
                double g[N];
                for (int i = 0; i < N; i++) g[i] = (i % 2 ? -1 : 1) * sizes[(i + step) % N];
                nn_theta_set(gradient, "x", N, g);
                ck_assert_msg(nn_optimizer_step(s, theta, gradient) == 0, "%s",
                              nn_optimizer_error(s));
            }
            nn_theta_get(theta, "x", N, x[dtype]);
            nn_optimizer_free(s);
            nn_theta_free(gradient);
            nn_theta_free(theta);
            nn_model_free(model);
        }
        for (int i = 0; i < N; i++)
            ck_assert_msg(fabs(x[0][i] - x[1][i]) <= 1e-4 * fabs(x[1][i]) + 1e-5 * o.rate,
                          "%s, factors %d, element %d: %g, in double precision %g",
                          nn_optimizer_name(algorithm), k % F, i, x[0][i], x[1][i]);
    }
}
END_TEST

/* An average of numbers whose difference is too large for the type. */
START_TEST(average_of_far_numbers)
{
    nn_model *model = nn_model_new();
    nn_model_add(model, "x", AD_SHAPE(2), nn_init_zeros, 1, 1);
    nn_theta *a = nn_theta_new(model, AD_F32, NULL), *b = nn_theta_new(model, AD_F32, NULL);
    nn_theta_set(a, "x", 2, (double[]){ 0x1p127, 1 });
    nn_theta_set(b, "x", 2, (double[]){ -0x1p127, 2 });
    ck_assert_int_eq(nn_theta_average(a, b, 0.25), 0);
    double x[2];
    ck_assert_int_eq(nn_theta_get(a, "x", 2, x), 0);
    ck_assert_double_eq(x[0], 0x1p126);
    ck_assert_double_eq(x[1], 1.25);
    nn_theta_free(a);
    nn_theta_free(b);
    nn_model_free(model);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("updates", "updates");
    tcase_add_loop_test(tests, same_bits, 0, 2 * COUNT(algorithms));
    tcase_add_test(tests, large_beside_small);
    tcase_add_test(tests, around_the_bounds);
    tcase_add_test(tests, average_of_far_numbers);
    return suite_run();
}
