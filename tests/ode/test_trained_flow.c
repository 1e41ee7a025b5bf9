/* A continuous normalizing flow after training: its density is one (it integrates to 1), it is
 * better than before training and than the best Gaussian, its samples have the moments of the data,
 * and decoding undoes encoding. ode/ and nn/ together, through the public headers only. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>

enum { WIDTH = 24, GRID = 181, SAMPLES = 4000 };

static nn_time_mlp network;
static ad_rng rng;

static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)user;
    return nn_time_mlp_apply(&network, args[0], t, x);
}

static ode_cnf flow(double tolerance)
{
    return (
        ode_cnf){ field, NULL, 1, { .method = &ode_dopri5, .rtol = tolerance, .atol = tolerance } };
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    ode_cnf f = flow(1e-4);
    return ad_neg(ad_mean_all(ode_cnf_log_density(&f, batch[0], 1, &theta)));
}

/* Two Gaussians of deviation 0.4 at (-1.5, 0) and (1.5, 0.5); the entropy is that of one plus log
 * 2, nearly. */
static void draw_points(int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i++) {
        int right = ad_rng_uniform(&rng) < 0.5;
        x[2 * i] = (right ? 1.5 : -1.5) + 0.4 * ad_rng_normal(&rng);
        x[2 * i + 1] = (right ? 0.5 : 0) + 0.4 * ad_rng_normal(&rng);
    }
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    draw_points(step->rows, out[0]);
    return 0;
}

static void evaluate(const nn_theta *theta, int64_t n, const double *x, double *log_p)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ode_cnf f = flow(1e-7);
    ad_var w = nn_theta_param(t, theta), in = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), n, x);
    ck_assert_msg(ad_get(ode_cnf_log_density(&f, in, 1, &w), log_p) == 0, "%s", ad_tape_error(t));
    ad_tape_free(t);
}

static double nll(const nn_theta *theta, int64_t n, const double *x)
{
    double *log_p = malloc((size_t)n * sizeof *log_p), s = 0;
    evaluate(theta, n, x, log_p);
    for (int64_t i = 0; i < n; i++) s -= log_p[i] / (double)n;
    free(log_p);
    return s;
}

START_TEST(density_of_a_trained_flow)
{
    nn_model *model = nn_model_new();
    network =
        nn_time_mlp_new(model, "field", NN_CONCAT, 3, (int64_t[]){ 2, WIDTH, 2 }, ad_tanh, NULL);
    rng = ad_rng_seed(3);
    nn_theta *theta = nn_theta_new(model, AD_F64, &rng);
    double *test = malloc(2 * SAMPLES * sizeof *test);
    char error[512];
    draw_points(SAMPLES, test);
    double before = nll(theta, SAMPLES, test);
    nn_array points = nn_array_drawn(AD_SHAPE(AD_ROWS, 2));
    nn_train_options options = { .loss = loss,
                                 .narray = 1,
                                 .arrays = &points,
                                 .draw = draw,
                                 .batch = 128,
                                 .steps = 150,
                                 .optimizer = { .rate = 2e-2, .schedule = nn_schedule_cosine } };
    ck_assert_msg(nn_train(theta, &options, NULL, error, sizeof error) == 0, "%s", error);
    double after = nll(theta, SAMPLES, test),
           gaussian =
               log(2 * M_PI * M_E) + 0.5 * log((2.25 + 0.16) * (0.0625 + 0.16) - 0.375 * 0.375);
    ck_assert_msg(after < before - 0.5 && after < gaussian - 0.2,
                  "nll %g before, %g after, Gaussian %g", before, after, gaussian);

    /* Trapezoidal sums of a smooth density that has decayed at the edges are as exact as its
     * values. */
    static double x[2 * GRID * GRID], log_p[GRID * GRID];
    const double radius = 9, h = 2 * radius / (GRID - 1);
    for (int row = 0; row < GRID; row++)
        for (int column = 0; column < GRID; column++) {
            double *point = &x[2 * (row * GRID + column)];
            point[0] = -radius + h * column;
            point[1] = -radius + h * row;
        }
    evaluate(theta, GRID * GRID, x, log_p);
    double integral = 0;
    for (int i = 0; i < GRID * GRID; i++) integral += exp(log_p[i]) * h * h;
    ck_assert_msg(fabs(integral - 1) < 1e-4, "the density integrates to %.8f", integral);

    /* Samples, and the way there and back. */
    ad_tape *t = ad_tape_new(AD_F64);
    double *z = malloc(2 * SAMPLES * sizeof *z), *s = malloc(2 * SAMPLES * sizeof *s),
           mean[2] = { 0 }, second[2] = { 0 };
    for (int i = 0; i < 2 * SAMPLES; i++) z[i] = ad_rng_normal(&rng);
    ode_cnf f = flow(1e-7);
    ad_var w = nn_theta_param(t, theta),
           data = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), SAMPLES, test);
    ad_var back = ode_cnf_sample(&f, ode_cnf_encode(&f, data, 1, &w), 1, &w);
    double worst = ad_item(ad_reduce_max(ad_abs(ad_sub(back, data)), 0, NULL, false));
    ck_assert_msg(worst < 1e-5, "decoding misses by %g: %s", worst,
                  ad_tape_error(t) ? ad_tape_error(t) : "");
    ck_assert(ad_get(ode_cnf_sample(&f, ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), SAMPLES, z), 1, &w),
                     s) == 0);
    for (int i = 0; i < 2 * SAMPLES; i++) {
        mean[i % 2] += s[i] / SAMPLES;
        second[i % 2] += s[i] * s[i] / SAMPLES;
    }
    ck_assert_msg(fabs(mean[0]) < 0.25 && fabs(mean[1] - 0.25) < 0.1 &&
                      fabs(second[0] - 2.41) < 0.5,
                  "moments %g %g %g", mean[0], mean[1], second[0]);
    ad_tape_free(t);
    free(z);
    free(s);
    free(test);
    nn_theta_free(theta);
    nn_model_free(model);
}
END_TEST

int main(void)
{
    TCase *t = suite_case("trained flow", "trained flow");
    tcase_add_test(t, density_of_a_trained_flow);
    return suite_run();
}
