/* Initial values: the variances and limits of their laws, orthogonality, parameters of laws; and
 * arrays that are not trained. */
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

/* Of the standard normal law between -2 and 2 (SciPy 1.14: truncnorm(-2, 2).var()). */
#define TRUNCATED_VARIANCE 0.7737413035499232

typedef struct {
    nn_init init;
    double variance, limit; /* limit: of those that have one, else 0 */
} init_case;

START_TEST(initialisers)
{
    enum { IN = 30, OUT = 60, N = 100000 };
    static const init_case cases[] = {
        { nn_init_normal, 1, 0 },
        { nn_init_truncated_normal, TRUNCATED_VARIANCE, 2 },
        { nn_init_xavier_uniform, 2.0 / (IN + OUT), 0.2581988897471611 },
        { nn_init_xavier_normal, 2.0 / (IN + OUT), 0 },
        { nn_init_xavier_truncated, 2.0 / (IN + OUT), 0.33894235946848605 },
        { nn_init_he_uniform, 2.0 / IN, 0.4472135954999579 },
        { nn_init_he_normal, 2.0 / IN, 0 },
        { nn_init_he_truncated, 2.0 / IN, 0.5870653874366919 },
        { nn_init_he_out_uniform, 2.0 / OUT, 0.31622776601683794 },
        { nn_init_he_out_normal, 2.0 / OUT, 0 },
        { nn_init_he_out_truncated, 2.0 / OUT, 0.4151179164563927 },
        { nn_init_lecun_uniform, 1.0 / IN, 0.31622776601683794 },
        { nn_init_lecun_normal, 1.0 / IN, 0 },
        { nn_init_lecun_truncated, 1.0 / IN, 0.4151179164563927 },
        { nn_init_uniform_fan_in, 1.0 / IN / 3, 0.18257418583505536 },
    };
    static double x[N];
    for (int c = 0; c < COUNT(cases); c++) {
        ad_rng rng = ad_rng_seed((uint64_t)c);
        cases[c].init(&rng, IN, OUT, N, x);
        double mean = 0, variance = 0, largest = 0;
        for (int i = 0; i < N; i++) {
            mean += x[i] / N;
            variance += x[i] * x[i] / N;
            largest = fmax(largest, fabs(x[i]));
        }
        ck_assert_double_eq_tol(mean, 0, 5 * sqrt(cases[c].variance / N));
        ck_assert_double_eq_tol(variance / cases[c].variance, 1, 5 * sqrt(2.0 / N));
        if (cases[c].limit > 0)
            ck_assert(largest <= cases[c].limit && largest > 0.999 * cases[c].limit);
    }
    ad_rng rng = ad_rng_seed(0);
    nn_init_ones(&rng, 1, 1, 2, x);
    ck_assert(x[0] == 1 && x[1] == 1);
    nn_init_zeros(&rng, 1, 1, 2, x);
    ck_assert(x[0] == 0 && x[1] == 0 && rng.counter == 0);
}
END_TEST

/* U(0, 1) has mean 1/2 and variance 1/12. */
START_TEST(uniform_law)
{
    enum { N = 100000 };
    static double x[N];
    ad_rng rng = ad_rng_seed(3);
    nn_init_uniform(&rng, 1, 1, N, x);
    double mean = 0, square = 0;
    for (int i = 0; i < N; i++) {
        ck_assert(x[i] > 0 && x[i] < 1);
        mean += x[i] / N;
        square += x[i] * x[i] / N;
    }
    ck_assert_double_eq_tol(mean, 0.5, 5 * sqrt(1.0 / 12 / N));
    ck_assert_double_eq_tol(square, 1.0 / 3, 5 * sqrt(4.0 / 45 / N));
}
END_TEST

/* Tall, wide, square; the third is a kernel [2,3,4] of fan_in 6, the last an array without rows. */
START_TEST(orthogonal_matrices)
{
    static const struct {
        int fan_in, n, rows, columns;
    } cases[] = {
        { 9, 36, 9, 4 }, { 4, 36, 4, 9 }, { 6, 24, 6, 4 }, { 5, 25, 5, 5 }, { 3, 4, 1, 4 }
    };
    double w[36];
    for (int c = 0; c < COUNT(cases); c++) {
        const int rows = cases[c].rows, columns = cases[c].columns, tall = rows > columns;
        ad_rng rng = ad_rng_seed((uint64_t)c);
        nn_init_orthogonal(&rng, cases[c].fan_in, 7, cases[c].n, w);
        for (int a = 0; a < (tall ? columns : rows); a++) {
            for (int b = 0; b <= a; b++) {
                double sum = 0;
                for (int i = 0; i < (tall ? rows : columns); i++) {
                    sum += tall ? w[i * columns + a] * w[i * columns + b]
                                : w[a * columns + i] * w[b * columns + i];
                }
                ck_assert_double_eq_tol(sum, a == b, 4e-15);
            }
        }
    }
}
END_TEST

/* An element of a random orthogonal 3 x 3 matrix has variance 1/3, and its mean is 0 (a QR without
 * a rule for signs does not do that). */
START_TEST(orthogonal_law)
{
    enum { N = 20000 };
    double sum[9] = { 0 }, square[9] = { 0 }, w[9];
    ad_rng rng = ad_rng_seed(8);
    for (int k = 0; k < N; k++) {
        nn_init_orthogonal(&rng, 3, 3, 9, w);
        for (int i = 0; i < 9; i++) {
            sum[i] += w[i] / N;
            square[i] += w[i] * w[i] / N;
        }
    }
    for (int i = 0; i < 9; i++) {
        ck_assert_double_eq_tol(sum[i], 0, 5 / sqrt(3.0 * N));
        ck_assert_double_eq_tol(square[i], 1.0 / 3, 5 * sqrt(4.0 / 45 / N));
    }
}
END_TEST

START_TEST(identity_matrices)
{
    double w[6];
    nn_init_identity(NULL, 2, 3, 6, w);
    for (int i = 0; i < 6; i++) ck_assert_double_eq(w[i], i % 4 == 0);
    nn_init_identity(NULL, 3, 2, 6, w);
    for (int i = 0; i < 6; i++) ck_assert_double_eq(w[i], i == 0 || i == 3);
}
END_TEST

static const char *message_of(const nn_model *model, const char *name, nn_init init, ad_rng *rng)
{
    static char text[256];
    nn_theta *theta = nn_theta_new(model, AD_F64, NULL);
    ck_assert_int_eq(nn_theta_init(theta, name, init, 1, 0, rng), -1);
    snprintf(text, sizeof text, "%s", nn_theta_error(theta));
    nn_theta_free(theta);
    return text;
}

START_TEST(parameters_of_laws)
{
    enum { N = 4096 };
    nn_model *model = nn_model_new();
    ad_rng rng = ad_rng_seed(4), again = rng;
    nn_model_add(model, "a", AD_SHAPE(N), nn_init_zeros, N, 1);
    nn_model_add(model, "b", AD_SHAPE(3), nn_init_zeros, 3, 1);
    nn_theta *theta = nn_theta_new(model, AD_F64, NULL);
    const double *x = nn_theta_f64(theta, NULL);
    ck_assert_int_eq(nn_theta_init(theta, "a", nn_init_normal, 0.02, 3, &rng), 0);
    double mean = 0, variance = 0;
    for (int i = 0; i < N; i++) mean += x[i] / N;
    for (int i = 0; i < N; i++) variance += (x[i] - 3) * (x[i] - 3) / N;
    ck_assert_double_eq_tol(mean, 3, 5 * 0.02 / sqrt(N));
    ck_assert_double_eq_tol(variance, 4e-4, 5 * 4e-4 * sqrt(2.0 / N));
    ck_assert_double_eq(x[N], 0); /* b is as it was */
    const double first = x[0];
    ck_assert_int_eq(nn_theta_init(theta, "a", nn_init_normal, 0.02, 3, &rng), 0);
    ck_assert_double_ne(x[0], first);
    ck_assert_int_eq(nn_theta_init(theta, "a", nn_init_normal, 0.02, 3, &again), 0);
    ck_assert_double_eq(x[0], first);
    ck_assert_int_eq(nn_theta_init(theta, "b", nn_init_zeros, 1, -2, &rng), 0);
    ck_assert_double_eq(x[N + 2], -2);

    ck_assert_str_eq(message_of(model, "c", nn_init_ones, &rng),
                     "nn_theta_init: the model has no parameter 'c'");
    ck_assert_str_eq(message_of(model, NULL, nn_init_ones, &rng),
                     "nn_theta_init: it needs the name of a parameter array");
    ck_assert_str_eq(message_of(model, "b", NULL, &rng), "nn_theta_init: 'b' needs an initialiser");
    ck_assert_str_eq(message_of(model, "b", nn_init_ones, NULL),
                     "nn_theta_init: 'b' needs a generator");
    ck_assert_int_eq(nn_theta_init(NULL, "b", nn_init_ones, 1, 0, &rng), -1);
    nn_theta_free(theta);
    nn_model_free(model);
}
END_TEST

/* A fixed array has no gradient, and no update changes it, by weight decay of any kind either. */
START_TEST(fixed_arrays)
{
    static const nn_optimizer *const algorithms[] = { &nn_sgd, &nn_adam, &nn_adamw, &nn_rmsprop };
    nn_model *model = nn_model_new();
    nn_model_add(model, "trained", AD_SHAPE(2, 2), nn_init_ones, 2, 2);
    nn_model_add_fixed(model, "fixed", AD_SHAPE(2, 2), nn_init_ones, 2, 2);
    ck_assert_int_eq(nn_model_parameters(model), 4);
    ck_assert(nn_model_is_fixed(model, "fixed") && !nn_model_is_fixed(model, "trained"));
    ck_assert(!nn_model_is_fixed(model, "other") && !nn_model_is_fixed(NULL, "fixed"));
    for (int a = 0; a < COUNT(algorithms); a++) {
        ad_rng rng = ad_rng_seed(1);
        nn_theta *theta = nn_theta_new(model, AD_F64, &rng),
                 *gradient = nn_theta_new(model, AD_F64, NULL);
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var x = nn_theta_param(tape, theta), g,
               loss = ad_sum_all(ad_square(
                   ad_mul(nn_model_get(model, x, "trained"), nn_model_get(model, x, "fixed"))));
        ad_grad(loss, 1, &x, &g);
        ck_assert_int_eq(ad_get(g, nn_theta_f64(gradient, NULL)), 0);
        ck_assert_double_eq(nn_theta_f64(gradient, "trained")[0], 2);
        const nn_optimizer_options options = {
            .algorithm = algorithms[a], .rate = 0.1, .weight_decay = 0.5, .decays = nn_decay_all
        };
        nn_optimizer_state *state = nn_optimizer_new(&options, theta, 1);
        ck_assert_int_eq(nn_optimizer_step(state, theta, gradient), 0);
        for (int i = 0; i < 4; i++) {
            ck_assert_double_eq(nn_theta_f64(gradient, "fixed")[i], 0);
            ck_assert_double_eq(nn_theta_f64(theta, "fixed")[i], 1);
            ck_assert_double_lt(nn_theta_f64(theta, "trained")[i], 1);
        }
        nn_optimizer_free(state);
        nn_theta_free(theta);
        nn_theta_free(gradient);
        ad_tape_free(tape);
    }
    nn_model_free(model);
}
END_TEST

int main(void)
{
    TCase *laws = suite_case("init", "laws");
    tcase_add_test(laws, initialisers);
    tcase_add_test(laws, uniform_law);
    tcase_add_test(laws, orthogonal_matrices);
    tcase_add_test(laws, orthogonal_law);
    tcase_add_test(laws, identity_matrices);
    TCase *arrays = suite_case("init", "arrays");
    tcase_add_test(arrays, parameters_of_laws);
    tcase_add_test(arrays, fixed_arrays);
    return suite_run();
}
