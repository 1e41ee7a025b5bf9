/* The trainer as an object: single steps, stages, batches prepared ahead, rows that are fetched,
 * gradients in pieces, batches that are left out, averaged weights. Each is held against the same
 * training done another way. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

enum { EXAMPLES = 101, IN = 2, STEPS = 37, NUMBERS = 16 };

typedef struct {
    nn_model *model;
    nn_linear layer;
    nn_theta *theta;
    ad_dtype dtype;
    double x[EXAMPLES * IN], y[EXAMPLES];
    float narrow[EXAMPLES * IN];
    int64_t fetches, fails_at;
    double sum; /* what on_step has seen */
} problem;

static char error[1000];

static problem *make_problem(ad_dtype dtype)
{
    problem *p = calloc(1, sizeof *p);
    ad_rng rng = ad_rng_seed(3);
    for (int i = 0; i < EXAMPLES; i++) {
        for (int k = 0; k < IN; k++) p->narrow[IN * i + k] = (float)ad_rng_normal(&rng);
        for (int k = 0; k < IN; k++) p->x[IN * i + k] = p->narrow[IN * i + k];
        p->y[i] = (float)(p->x[IN * i] - 2 * p->x[IN * i + 1] + 0.3 * ad_rng_normal(&rng));
    }
    p->model = nn_model_new();
    p->layer = nn_linear_new(p->model, "l", IN, 1, nn_init_xavier_normal);
    p->dtype = dtype;
    p->theta = nn_theta_new(p->model, dtype, &rng);
    return p;
}

static void free_problem(problem *p)
{
    nn_theta_free(p->theta);
    nn_model_free(p->model);
    free(p);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    return nn_mse(nn_linear_apply(&p->layer, theta, batch[0]), ad_add(batch[1], batch[2]));
}

static int noise(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t i = 0; i < step->rows; i++) out[2][i] = 0.1 * ad_rng_normal(step->rng);
    return 0;
}

static int fetch(void *source, int64_t n, const int64_t *examples, void *out, char *text,
                 size_t size)
{
    problem *p = source;
    if (++p->fetches == p->fails_at) {
        snprintf(text, size, "the disk is gone");
        return -1;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy((float *)out + IN * i, p->narrow + IN * examples[i], IN * sizeof(float));
    return 0;
}

static const nn_array *arrays_of(problem *p, bool fetched)
{
    static nn_array arrays[3];
    arrays[0] = fetched ? nn_array_fetched(AD_SHAPE(AD_ROWS, IN), AD_F32, fetch, p)
                        : nn_array_of(AD_SHAPE(AD_ROWS, IN), p->x);
    arrays[1] = nn_array_of(AD_SHAPE(AD_ROWS, 1), p->y);
    arrays[2] = nn_array_drawn(AD_SHAPE(AD_ROWS, 1));
    return arrays;
}

static nn_train_options options_of(problem *p)
{
    return (nn_train_options){ .loss = loss,
                               .user = p,
                               .narray = 3,
                               .arrays = arrays_of(p, false),
                               .examples = EXAMPLES,
                               .draw = noise,
                               .batch = 16,
                               .steps = STEPS,
                               .seed = 5,
                               .threads = 1,
                               .optimizer = { .rate = 0.05 } };
}

/* Trains a fresh problem and writes its numbers. */
static void train(ad_dtype dtype, void (*change)(problem *p, nn_train_options *o), double *numbers)
{
    problem *p = make_problem(dtype);
    nn_train_options o = options_of(p);
    if (change) change(p, &o);
    ck_assert_msg(nn_train(p->theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(nn_theta_size(p->theta), 2 * NUMBERS);
    ck_assert_int_eq(nn_theta_get(p->theta, NULL, 2 * NUMBERS, numbers), 0);
    free_problem(p);
}

static void whole(problem *p, nn_train_options *o) { (void)p, o->batch = 0; }
static void with_worker(problem *p, nn_train_options *o) { (void)p, o->worker = true; }
static void with_threads(problem *p, nn_train_options *o) { (void)p, o->threads = 2; }
static void with_fetch(problem *p, nn_train_options *o) { o->arrays = arrays_of(p, true); }
static void all_of_it(problem *p, nn_train_options *o)
{
    o->arrays = arrays_of(p, true);
    o->worker = true;
    o->threads = 2;
}
static void whole_all(problem *p, nn_train_options *o)
{
    all_of_it(p, o);
    o->batch = 0;
}

/* Who prepares batches, and where rows come from, changes no bit. */
START_TEST(same_bits)
{
    void (*const ways[])(problem *, nn_train_options *) = { with_worker, with_threads, with_fetch,
                                                            all_of_it };
    for (int type = 0; type < 2; type++) {
        ad_dtype dtype = type ? AD_F64 : AD_F32;
        double expected[2 * NUMBERS], numbers[2 * NUMBERS];
        train(dtype, NULL, expected);
        for (int i = 0; i < COUNT(ways); i++) {
            train(dtype, ways[i], numbers);
            ck_assert_mem_eq(numbers, expected, sizeof numbers);
        }
        train(dtype, whole, expected);
        train(dtype, whole_all, numbers);
        ck_assert_mem_eq(numbers, expected, sizeof numbers);
    }
}
END_TEST

/* Steps by hand are those of nn_train, and the report goes along. */
START_TEST(single_steps)
{
    double expected[2 * NUMBERS], numbers[2 * NUMBERS];
    train(AD_F64, NULL, expected);
    problem *p = make_problem(AD_F64);
    nn_train_options o = options_of(p);
    nn_trainer *t = nn_trainer_new(p->theta, &o);
    memset(&o, 0, sizeof o); /* it is copied */
    ck_assert_ptr_null(nn_trainer_error(t));
    ck_assert_int_eq(nn_trainer_report(t)->steps, 0);
    for (int i = 1; i <= STEPS; i++) {
        ck_assert_int_eq(nn_trainer_step(t), 1);
        ck_assert_int_eq(nn_trainer_report(t)->steps, i);
        ck_assert(isfinite(nn_trainer_report(t)->last_loss));
    }
    for (int i = 0; i < 3; i++) ck_assert_int_eq(nn_trainer_step(t), 0);
    ck_assert_int_eq(nn_trainer_report(t)->steps, STEPS);
    nn_trainer_free(t);
    ck_assert_int_eq(nn_theta_get(p->theta, NULL, 2 * NUMBERS, numbers), 0);
    ck_assert_mem_eq(numbers, expected, sizeof numbers);
    free_problem(p);
    nn_trainer_free(NULL);
    ck_assert_int_eq(nn_trainer_step(NULL), -1);
    ck_assert_ptr_null(nn_trainer_report(NULL));
    ck_assert_int_eq(nn_trainer_evaluate(NULL, NN_TEST, NULL), -1);
}
END_TEST

static void in_threes(problem *p, nn_train_options *o) { (void)p, o->micro_batch = 3; }
static void in_more(problem *p, nn_train_options *o) { (void)p, o->micro_batch = 1000; }

/* A batch of 16 (of 5, the last) in pieces of 3 gives its gradient, to rounding. */
START_TEST(pieces)
{
    double expected[2 * NUMBERS], numbers[2 * NUMBERS];
    train(AD_F64, NULL, expected);
    train(AD_F64, in_more, numbers);
    ck_assert_mem_eq(numbers, expected, sizeof numbers);
    train(AD_F64, in_threes, numbers);
    ck_assert_int_ne(memcmp(numbers, expected, sizeof numbers), 0);
    for (int i = 0; i < 2 * NUMBERS; i++) ck_assert_double_eq_tol(numbers[i], expected[i], 1e-12);
}
END_TEST

/* ---- stages ---------------------------------------------------------------------------------- */

static ad_var to_constant(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)batch;
    return ad_sum_all(ad_square(ad_shift(ad_slice(theta, 0, 0, 1), -*(double *)user)));
}

/* Adam by hand (Kingma & Ba 2015) towards 3, then towards -1: the moments go on. */
START_TEST(stages)
{
    double goals[] = { 3, -1 }, w = 0.5, m = 0, v = 0;
    for (int k = 1; k <= 50; k++) {
        double g = 2 * (w - goals[k > 20]);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        w -= 0.05 * (m / (1 - pow(0.9, k))) / (sqrt(v / (1 - pow(0.999, k))) + 1e-8);
    }
    nn_model *model = nn_model_new();
    nn_model_add(model, "w", AD_SCALAR, nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(model, AD_F64, NULL);
    nn_theta_f64(theta, NULL)[0] = 0.5;
    nn_stage list[] = { { .steps = 20, .user = &goals[0] }, { .steps = 30, .user = &goals[1] } };
    nn_train_options o = {
        .loss = to_constant, .nstage = 2, .stages = list, .optimizer = { .rate = 0.05 }
    };
    nn_train_report report;
    ck_assert_msg(nn_train(theta, &o, &report, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(report.steps, 50);
    ck_assert_double_eq_tol(nn_theta_f64(theta, NULL)[0], w, 1e-12);
    o.steps = 49;
    ck_assert_int_eq(nn_train(theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: options.steps is 49, but the stages have 50; leave it zero");
    nn_theta_free(theta);
    nn_model_free(model);
}
END_TEST

/* ---- averages, batches left out -------------------------------------------------------------- */

/* The average by hand, from what on_step sees. */
static double averaged[2 * NUMBERS];
static int average(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)user;
    double share = fmax(1 - 0.9, 9 / ((double)step + 10));
    for (int i = 0; i < 2 * NUMBERS; i++)
        averaged[i] += share * (nn_theta_f64(theta, NULL)[i] - averaged[i]);
    return 0;
}

START_TEST(averages)
{
    problem *p = make_problem(AD_F64);
    nn_train_options o = options_of(p);
    ck_assert_int_eq(nn_theta_get(p->theta, NULL, 2 * NUMBERS, averaged), 0);
    o.average = 0.9;
    o.on_step = average;
    ck_assert_msg(nn_train(p->theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    for (int i = 0; i < 2 * NUMBERS; i++)
        ck_assert_double_eq(nn_theta_f64(p->theta, NULL)[i], averaged[i]);
    free_problem(p);
}
END_TEST

/* A root of a negative number at example 40 alone. */
static ad_var root_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    return ad_add(loss(tape, theta, batch, user), ad_mean_all(ad_sqrt(batch[1])));
}

START_TEST(left_out)
{
    problem *p = make_problem(AD_F64);
    for (int i = 0; i < EXAMPLES; i++) p->y[i] = i == 40 ? -1 : 1 + p->y[i] * p->y[i];
    nn_train_options o = options_of(p);
    nn_train_report report;
    o.loss = root_loss;
    o.steps = 28; /* four epochs of seven batches */
    o.skip = 4;
    ck_assert_msg(nn_train(p->theta, &o, &report, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(report.skipped, 4);
    ck_assert_int_eq(report.steps, 28);
    o.skip = 2;
    ck_assert_int_eq(nn_train(p->theta, &o, &report, error, sizeof error), -1);
    ck_assert_int_eq(report.skipped, 2);
    ck_assert_msg(strstr(error, "the first is 40 (from 0); 2 batches have been left out before"),
                  "%s", error);
    free_problem(p);
}
END_TEST

/* ---- what goes wrong ------------------------------------------------------------------------- */

START_TEST(fetches_that_fail)
{
    for (int worker = 0; worker < 2; worker++) {
        problem *p = make_problem(AD_F64);
        nn_train_options o = options_of(p);
        o.arrays = arrays_of(p, true);
        o.worker = worker;
        p->fails_at = 10;
        nn_trainer *t = nn_trainer_new(p->theta, &o);
        for (int i = 1; i < 10; i++) ck_assert_int_eq(nn_trainer_step(t), 1);
        ck_assert_int_eq(nn_trainer_step(t), -1);
        ck_assert_str_eq(nn_trainer_error(t),
                         "nn_train: array 0: fetching its rows: the disk is gone at step 10 of 37; "
                         "theta is as after step 9");
        ck_assert_int_eq(nn_trainer_step(t), -1);
        nn_trainer_free(t);
        p->narrow[IN * 77 + 1] = INFINITY;
        ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
        ck_assert_msg(
            strstr(error, "array 0: element 1 of example 77 (from 0) is inf, as it was fetched"),
            "%s", error);
        free_problem(p);
    }
}
END_TEST

/* A trainer that is given up in the middle, with a batch under way. */
START_TEST(given_up)
{
    for (int steps = 0; steps < 4; steps++) {
        problem *p = make_problem(AD_F32);
        nn_train_options o = options_of(p);
        o.worker = true;
        nn_trainer *t = nn_trainer_new(p->theta, &o);
        for (int i = 0; i < steps; i++) ck_assert_int_eq(nn_trainer_step(t), 1);
        nn_trainer_free(t);
        free_problem(p);
    }
}
END_TEST

int main(void)
{
    TCase *c = suite_case("trainer", "trainer");
    tcase_add_test(c, same_bits);
    tcase_add_test(c, single_steps);
    tcase_add_test(c, pieces);
    tcase_add_test(c, stages);
    tcase_add_test(c, averages);
    tcase_add_test(c, left_out);
    tcase_add_test(c, fetches_that_fail);
    tcase_add_test(c, given_up);
    return suite_run();
}
