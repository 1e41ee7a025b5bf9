/* Fixed arrays that training steps change: the running statistics of batch norm against their
 * formula, a state of the user's, what is not to be changed, and going on from a checkpoint. */
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 12, CHANNELS = 2 };

static const double momentum = 0.3;
static char error[1000];

/* A model of a batch norm "n", and "count" [1] and "scale" [1], which are not trained, and data. */
typedef struct {
    nn_model *model;
    nn_batch_norm norm;
    nn_theta *theta;
    double x[ROWS * CHANNELS];
    bool twice;            /* the layer is applied to 2 x as well */
    const double *teacher; /* another theta of the model, whose statistics are not trained */
    double fail;           /* the second step's new count is this, where it is not 0 */
} problem;

static void make(problem *p, ad_dtype dtype)
{
    *p = (problem){ .model = nn_model_new() };
    p->norm =
        nn_batch_norm_new(p->model, "n", CHANNELS, &(nn_norm_options){ .momentum = momentum });
    nn_model_add_fixed(p->model, "count", AD_SHAPE(1), nn_init_zeros, 1, 1);
    nn_model_add_fixed(p->model, "scale", AD_SHAPE(1), nn_init_ones, 1, 1);
    p->theta = nn_theta_new(p->model, dtype, &(ad_rng){ 1, 0 });
    for (int i = 0; i < ROWS * CHANNELS; i++) p->x[i] = sin(1 + 1.7 * i * i) + i % CHANNELS;
}

static void end(problem *p)
{
    nn_theta_free(p->theta);
    nn_model_free(p->model);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    ad_var y = nn_batch_norm_train(&p->norm, theta, batch[0]);
    if (p->twice) y = ad_add(y, nn_batch_norm_train(&p->norm, theta, ad_scale(batch[0], 2)));
    if (p->teacher) {
        ad_var other = ad_constant(tape, AD_SHAPE(nn_model_size(p->model)), p->teacher);
        y = ad_sub(y, nn_batch_norm_train(&p->norm, other, batch[0]));
    }
    ad_var count = ad_shift(nn_model_get(p->model, theta, "count"), 1);
    nn_model_update(p->model, theta, "count", count);
    if (p->fail != 0)
        nn_model_update(p->model, theta, "count", ad_div(count, ad_shift(count, -p->fail)));
    return ad_mean_all(ad_square(ad_shift(y, -0.5)));
}

static nn_train_options options_of(problem *p, nn_array *array, int64_t steps)
{
    *array = nn_array_of(AD_SHAPE(AD_ROWS, CHANNELS), p->x);
    return (nn_train_options){ .loss = loss,
                               .user = p,
                               .narray = 1,
                               .arrays = array,
                               .examples = ROWS,
                               .steps = steps,
                               .optimizer = { .rate = 0.01 },
                               .threads = 1 };
}

static void train(problem *p, int64_t steps, int64_t micro)
{
    nn_array array;
    nn_train_options o = options_of(p, &array, steps);
    o.micro_batch = micro;
    ck_assert_msg(nn_train(p->theta, &o, NULL, error, sizeof error) == 0, "%s", error);
}

static double get(const problem *p, const char *name, int i)
{
    double values[CHANNELS];
    int64_t n = strncmp(name, "n.", 2) == 0 ? CHANNELS : 1;
    ck_assert_int_eq(nn_theta_get(p->theta, name, n, values), 0);
    return values[i];
}

/* Mean, and variance divided by the number less one, of rows [first, first + n) of a channel. */
static void statistics(const problem *p, int channel, int first, int n, double *mean, double *var)
{
    *mean = *var = 0;
    for (int i = first; i < first + n; i++) *mean += p->x[i * CHANNELS + channel] / n;
    for (int i = first; i < first + n; i++)
        *var += pow(p->x[i * CHANNELS + channel] - *mean, 2) / (n - 1);
}

/* All rows in each step: after k of them running = (1 - r^k) of the data + r^k of the start, r = 1
 * - momentum. Of a batch in pieces the statistics are the means of those of the pieces. */
START_TEST(running_statistics)
{
    enum { STEPS = 5 };
    const double within = _i % 2 ? 1e-6 : 1e-14, kept = pow(1 - momentum, STEPS);
    const bool pieces = _i >= 2;
    problem p;
    make(&p, _i % 2 ? AD_F32 : AD_F64);
    train(&p, STEPS, pieces ? 8 : 0);
    for (int c = 0; c < CHANNELS; c++) {
        double mean, var, mean2, var2;
        statistics(&p, c, 0, pieces ? 8 : ROWS, &mean, &var);
        statistics(&p, c, 8, 4, &mean2, &var2);
        if (pieces) {
            mean = (8 * mean + 4 * mean2) / 12;
            var = (8 * var + 4 * var2) / 12;
        }
        ck_assert_double_eq_tol(get(&p, "n.running_mean", c), (1 - kept) * mean, within);
        ck_assert_double_eq_tol(get(&p, "n.running_var", c), (1 - kept) * var + kept, within);
    }
    ck_assert_double_eq(get(&p, "count", 0), STEPS);
    ck_assert_double_eq(get(&p, "scale", 0), 1);
    ck_assert(get(&p, "n.weight", 0) != 1); /* has been trained */
    end(&p);
}
END_TEST

/* The second application of a layer moves on from the first. */
START_TEST(applied_twice)
{
    problem p;
    make(&p, AD_F64);
    p.twice = true;
    train(&p, 1, 0);
    for (int c = 0; c < CHANNELS; c++) {
        double mean, var, keep = 1 - momentum;
        statistics(&p, c, 0, ROWS, &mean, &var);
        ck_assert_double_eq_tol(get(&p, "n.running_mean", c), momentum * (keep * mean + 2 * mean),
                                1e-14);
        ck_assert_double_eq_tol(get(&p, "n.running_var", c),
                                keep * keep + momentum * (keep * var + 4 * var), 1e-13);
    }
    end(&p);
}
END_TEST

/* States do not change the gradient: weights are those of a training without momentum. */
START_TEST(of_the_trained_theta_alone)
{
    problem p, q;
    make(&p, AD_F64);
    make(&q, AD_F64);
    double *teacher = calloc((size_t)nn_model_size(q.model), sizeof *teacher);
    for (int64_t i = 0; i < nn_model_size(q.model); i++) teacher[i] = 0.25;
    q.teacher = teacher;
    train(&p, 3, 0);
    train(&q, 3, 0);
    for (int c = 0; c < CHANNELS; c++) {
        ck_assert_double_eq(get(&q, "n.running_mean", c), get(&p, "n.running_mean", c));
        ck_assert_double_eq(get(&q, "n.running_var", c), get(&p, "n.running_var", c));
        ck_assert(get(&q, "n.weight", c) != get(&p, "n.weight", c));
    }
    free(teacher);
    end(&p);
    end(&q);
}
END_TEST

static int stop(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)theta, (void)user;
    return step == 7;
}

/* The same bits as without an end between; so are files of weights. */
START_TEST(checkpoints)
{
    char path[] = "/tmp/test_states_XXXXXX";
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    close(file);
    unlink(path);
    problem p[2];
    for (int k = 0; k < 2; k++) {
        nn_array array;
        make(&p[k], AD_F32);
        nn_train_options o = options_of(&p[k], &array, 20);
        o.batch = 5;
        if (k == 1) {
            o.checkpoint = (nn_checkpoint){ .path = path, .every = 100 };
            o.on_step = stop;
            ck_assert_msg(nn_train(p[k].theta, &o, NULL, error, sizeof error) == 0, "%s", error);
            ck_assert_double_eq(get(&p[k], "count", 0), 7);
            end(&p[k]);
            make(&p[k], AD_F32);
            o.user = &p[k];
            o.on_step = NULL;
        }
        ck_assert_msg(nn_train(p[k].theta, &o, NULL, error, sizeof error) == 0, "%s", error);
        ck_assert_double_eq(get(&p[k], "count", 0), 20);
    }
    size_t bytes = (size_t)nn_theta_size(p[0].theta) * sizeof(float);
    ck_assert_mem_eq(nn_theta_data(p[0].theta), nn_theta_data(p[1].theta), bytes);
    ck_assert_msg(nn_save(path, p[0].theta, error, sizeof error) == 0, "%s", error);
    nn_theta *loaded = nn_theta_new(p[0].model, AD_F32, NULL);
    ck_assert_msg(nn_load(path, loaded, error, sizeof error) == 0, "%s", error);
    ck_assert_mem_eq(nn_theta_data(p[0].theta), nn_theta_data(loaded), bytes);
    nn_theta_free(loaded);
    unlink(path);
    end(&p[0]);
    end(&p[1]);
}
END_TEST

/* A new value that is not finite fails the step, or leaves the batch out; nothing is changed. */
START_TEST(not_finite)
{
    for (int skipped = 0; skipped < 2; skipped++) {
        problem p;
        nn_array array;
        nn_train_report report;
        make(&p, AD_F64);
        p.fail = 1;
        nn_train_options o = options_of(&p, &array, 2);
        o.skip = 2 * skipped;
        ck_assert_int_eq(nn_train(p.theta, &o, &report, error, sizeof error), skipped - 1);
        ck_assert_double_eq(get(&p, "count", 0), 0);
        ck_assert_double_eq(get(&p, "n.running_var", 0), 1);
        ck_assert_double_eq(get(&p, "n.weight", 0), 1);
        if (skipped) ck_assert_int_eq(report.skipped, 2);
        else
            ck_assert_msg(strstr(error, "step 1 of 2: the new value of 'count' is not finite"),
                          "%s", error);
        end(&p);
    }
}
END_TEST

static void refused(ad_tape *tape, const char *text)
{
    ck_assert_ptr_nonnull(ad_tape_error(tape));
    ck_assert_msg(strstr(ad_tape_error(tape), text), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
}

START_TEST(misuse)
{
    problem p;
    make(&p, AD_F64);
    ad_tape *t = ad_tape_new(AD_F64), *other = ad_tape_new(AD_F64);
    nn_model_update(p.model, nn_theta_param(t, p.theta), "n.weight", ad_fill(t, AD_SHAPE(2), 1));
    refused(t, "nn_model_update: the model has no fixed array 'n.weight'");
    t = ad_tape_new(AD_F64);
    nn_model_update(p.model, nn_theta_param(t, p.theta), NULL, ad_fill(t, AD_SHAPE(2), 1));
    refused(t, "no fixed array '(NULL)'");
    t = ad_tape_new(AD_F64);
    nn_model_update(p.model, nn_theta_param(t, p.theta), "count", ad_fill(t, AD_SHAPE(2), 1));
    refused(t, "nn_model_update: 'count' is [1], but its new value is [2]");
    t = ad_tape_new(AD_F64);
    nn_model_update(p.model, nn_theta_param(t, p.theta), "count", ad_fill(other, AD_SHAPE(1), 1));
    refused(t, "on another tape");
    t = ad_tape_new(AD_F64);
    nn_model_update(p.model, ad_fill(t, AD_SHAPE(3), 1), "count", ad_fill(t, AD_SHAPE(1), 1));
    refused(t, "nn_model_update: theta is [3]");
    t = ad_tape_new(AD_F64);
    nn_model_update(p.model, nn_theta_param(t, p.theta), "count", (ad_var){ .tape = t });
    refused(t, "not a valid variable");
    /* where nothing is trained, nothing happens */
    t = ad_tape_new(AD_F64);
    nn_model_update(p.model, nn_theta_param(t, p.theta), "count", ad_fill(t, AD_SHAPE(1), 1));
    ck_assert_ptr_null(ad_tape_error(t));
    ck_assert_double_eq(get(&p, "count", 0), 0);
    ad_tape_free(t);
    ad_tape_free(other);
    end(&p);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("states", "states");
    tcase_add_loop_test(tests, running_statistics, 0, 4);
    tcase_add_test(tests, applied_twice);
    tcase_add_test(tests, of_the_trained_theta_alone);
    tcase_add_test(tests, checkpoints);
    tcase_add_test(tests, not_finite);
    tcase_add_test(tests, misuse);
    return suite_run();
}
