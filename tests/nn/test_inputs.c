/* What comes into a loss beside theta: data of both types, draws, values of a step; and what must
 * not come in: values that change in C, labels that are none, numbers that are none. Each is
 * checked against the same training in plain C, or against the message. */
#define TESTS_COUNT_ALLOCATIONS
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

static char error[1000];

/* A model with one parameter array "w" [n], and its theta. */
typedef struct {
    nn_model *model;
    nn_theta *theta;
} weights;

static weights make_weights(ad_dtype dtype, int64_t n, const double *values)
{
    weights w = { .model = nn_model_new() };
    nn_model_add(w.model, "w", AD_SHAPE(n), nn_init_zeros, 1, 1);
    w.theta = nn_theta_new(w.model, dtype, NULL);
    if (values) ck_assert_int_eq(nn_theta_set(w.theta, "w", n, values), 0);
    ck_assert_ptr_null(nn_theta_error(w.theta));
    return w;
}

static void free_weights(weights *w)
{
    nn_theta_free(w->theta);
    nn_model_free(w->model);
}

static double weight(const weights *w)
{
    double values[16];
    ck_assert_int_eq(nn_theta_get(w->theta, NULL, 16, values), 0);
    return values[0];
}

static ad_var first_of(ad_var theta) { return ad_slice(theta, 0, 0, 1); }

/* ---- four kinds of arrays -------------------------------------------------------------------- */

enum { EXAMPLES = 7, BATCH = 3, STEPS = 11 };

static const double data[EXAMPLES] = { 1, 2, 3, 4, 5, 6, 7 };
static const float offset_f32[2] = { 0.25f, 0.5f };

/* Mean over rows of (w - x - noise)^2 times a factor, plus w times the sum of the offsets. */
static ad_var four_kinds(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    ad_var w = first_of(theta);
    ad_var distance = ad_square(ad_sub(w, ad_add(batch[0], batch[1])));
    return ad_add(ad_mul(ad_mean_all(distance), batch[3]),
                  ad_mul(ad_sum_all(w), ad_sum_all(batch[2])));
}

/* The same training in plain C goes along in draw: it sees the examples of each batch. */
typedef struct {
    double w, rate, noise[STEPS];
    int64_t seen[2 * EXAMPLES], nseen;
    bool single;
} plain;

static int draw_four(const nn_step *step, double *const *out, void *user)
{
    plain *p = user;
    ck_assert(!out[0] && out[1] && !out[2] && out[3]);
    ck_assert_int_eq(step->steps, STEPS);
    ck_assert_int_eq(step->rows, step->step % 3 == 0 ? 1 : 3); /* seven examples by three */
    double factor = (double)step->step / (double)step->steps, slope = 0.75;
    p->noise[step->step - 1] = 0;
    for (int64_t r = 0; r < step->rows; r++) {
        double noise = 0.1 * ad_rng_normal(step->rng);
        if (p->single) noise = (float)noise;
        out[1][r] = noise;
        p->noise[step->step - 1] += noise;
        int64_t example = step->examples[r];
        if (p->nseen < 2 * EXAMPLES) p->seen[p->nseen++] = example;
        slope += 2 * (p->w - data[example] - noise) * factor / (double)step->rows;
    }
    out[3][0] = factor;
    p->w -= p->rate * slope;
    return 0;
}

static plain train_four(ad_dtype dtype)
{
    static const float narrow[EXAMPLES] = { 1, 2, 3, 4, 5, 6, 7 };
    plain p = { .rate = 0.1, .single = dtype == AD_F32 };
    weights w = make_weights(dtype, 1, NULL);
    nn_array rows = dtype == AD_F64 ? nn_array_of(AD_SHAPE(AD_ROWS, 1), narrow)
                                    : nn_array_of(AD_SHAPE(AD_ROWS, 1), data);
    nn_array arrays[] = { rows, nn_array_drawn(AD_SHAPE(AD_ROWS, 1)),
                          nn_array_of(AD_SHAPE(2), offset_f32), nn_array_drawn(AD_SCALAR) };
    nn_train_options o = { .loss = four_kinds,
                           .user = &p,
                           .narray = 4,
                           .arrays = arrays,
                           .examples = EXAMPLES,
                           .draw = draw_four,
                           .batch = BATCH,
                           .steps = STEPS,
                           .seed = 4,
                           .optimizer = { .algorithm = &nn_sgd, .rate = 0.1 } };
    ck_assert_msg(nn_train(w.theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    ck_assert_double_eq_tol(weight(&w), p.w, dtype == AD_F32 ? 1e-6 : 1e-13);
    free_weights(&w);
    return p;
}

/* Data of the other type are converted, constants and drawn values arrive where they belong, noise
 * lies beside its examples, and the step is seen. A second training draws the same. */
START_TEST(kinds_of_arrays)
{
    for (int type = 0; type < 2; type++) {
        plain a = train_four(type ? AD_F64 : AD_F32), b = train_four(type ? AD_F64 : AD_F32);
        ck_assert_mem_eq(&a, &b, sizeof a);
        int count[EXAMPLES] = { 0 };
        for (int i = 0; i < 2 * EXAMPLES; i++) count[a.seen[i]]++;
        for (int i = 0; i < EXAMPLES; i++) ck_assert_int_eq(count[i], 2); /* two epochs */
        for (int i = 1; i < STEPS; i++) ck_assert_double_ne(a.noise[i], a.noise[0]);
    }
}
END_TEST

/* ---- losses that stand still ----------------------------------------------------------------- */

static ad_rng noise_rng;
static double annealed, horizon;
static int counted;

static ad_var noisy(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)batch, (void)user;
    return ad_sum_all(
        ad_square(ad_sub(first_of(theta), ad_scalar(tape, ad_rng_normal(&noise_rng)))));
}

static ad_var annealing(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)batch, (void)user;
    return ad_sum_all(ad_scale(ad_square(ad_shift(first_of(theta), -1)), annealed));
}

static ad_var decaying(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(y, ad_neg(args[0]));
}

/* exp(-w T) from 1, against 1/2. */
static ad_var solved(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)batch, (void)user;
    ad_var rate = first_of(theta), y0 = ad_broadcast(ad_scalar(tape, 1), AD_SHAPE(AD_ROWS, 1));
    ode_options o = { .rtol = 1e-6, .atol = 1e-8 };
    ad_var y = ode_solve_final(decaying, NULL, y0, 1, &rate, ode_interval(tape, 0, horizon), &o);
    return ad_mean_all(ad_square(ad_shift(y, -0.5)));
}

static int anneal(int64_t step, double loss, nn_theta *theta, void *user)
{
    (void)step, (void)loss, (void)theta, (void)user;
    annealed *= 0.9;
    return 0;
}

static int anneal_late(int64_t step, double loss, nn_theta *theta, void *user)
{
    (void)loss, (void)theta, (void)user;
    if (step == 5) annealed = 0.5;
    return 0;
}

static int lengthen(int64_t step, double loss, nn_theta *theta, void *user)
{
    (void)step, (void)loss, (void)theta, (void)user;
    horizon += 0.1;
    return 0;
}

static int count(int64_t step, double loss, nn_theta *theta, void *user)
{
    (void)step, (void)loss, (void)theta, (void)user;
    counted++;
    return 0;
}

static int train_alone(nn_loss loss, int (*on_step)(int64_t, double, nn_theta *, void *),
                       ad_dtype dtype, int64_t steps)
{
    weights w = make_weights(dtype, 1, (double[]){ 0.5 });
    nn_train_options o = {
        .loss = loss, .on_step = on_step, .steps = steps, .optimizer = { .rate = 0.01 }
    };
    noise_rng = ad_rng_seed(1);
    annealed = horizon = 1;
    int result = nn_train(w.theta, &o, NULL, error, sizeof error);
    free_weights(&w);
    return result;
}

START_TEST(frozen_values)
{
    static const struct {
        nn_loss loss;
        int (*on_step)(int64_t, double, nn_theta *, void *);
        int64_t steps;
        const char *found; /* after which step; NULL: nothing changes */
    } cases[] = {
        { noisy, NULL, 10, "after step 1 " },
        { noisy, NULL, 1, "after step 1 " },
        { annealing, anneal, 10, "after step 1 " },
        { annealing, anneal_late, 10, "after step 10 " },
        { solved, lengthen, 10, "after step 1 " },
        { annealing, count, 10, NULL },
        { solved, count, 10, NULL },
        { solved, NULL, 1, NULL },
    };
    for (int i = 0; i < COUNT(cases); i++) {
        for (int type = 0; type < 2; type++) {
            error[0] = 0;
            int result = train_alone(cases[i].loss, cases[i].on_step, type ? AD_F64 : AD_F32,
                                     cases[i].steps);
            ck_assert_msg(result == (cases[i].found ? -1 : 0), "case %d: %s", i, error);
            if (!cases[i].found) continue;
            ck_assert_msg(strstr(error, cases[i].found), "case %d: %s", i, error);
            ck_assert_msg(strstr(error, "it reads a value that changes"), "%s", error);
            ck_assert_msg(
                strstr(
                    error,
                    "Bring it in as an array without data, which options.draw fills for each step"),
                "%s", error);
        }
    }
    ck_assert_int_eq(counted, 2 * 20);
}
END_TEST

/* A loss that looks at its own value is told where to look. */
static ad_var looking(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)batch, (void)user;
    ad_var loss = ad_sum_all(ad_square(theta));
    if (!(ad_item(loss) > 3)) return loss;
    return ad_fill(tape, AD_SCALAR, 0);
}

static ad_var stopped(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)batch, (void)user;
    return ad_sum_all(ad_square(ad_stop_gradient(theta)));
}

static ad_var compared(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)batch, (void)user;
    return ad_mean_all(ad_gt(theta, ad_scalar(tape, 0.25)));
}

START_TEST(losses_without_use)
{
    ck_assert_int_eq(train_alone(looking, NULL, AD_F64, 10), -1);
    ck_assert_msg(strstr(error, "nn_train's loss is recorded once and replayed; look at values"),
                  "%s", error);
    static const nn_loss flat[] = { stopped, compared };
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(train_alone(flat[i], NULL, AD_F32, 10), -1);
        ck_assert_msg(
            strstr(
                error,
                "nn_train: the loss depends on theta only through operations without a derivative"),
            "%s", error);
    }
}
END_TEST

/* ---- labels ---------------------------------------------------------------------------------- */

enum { PEOPLE = 40, CLASSES = 3 };

static ad_var classify(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    ad_var w = ad_reshape(ad_slice(theta, 0, 0, CLASSES), AD_SHAPE(1, CLASSES));
    return nn_cross_entropy(ad_mul(batch[0], w), batch[1]);
}

static int updates;
static int count_updates(int64_t step, double loss, nn_theta *theta, void *user)
{
    (void)loss, (void)theta, (void)user;
    updates = (int)step;
    return 0;
}

static int draw_labels(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t r = 0; r < step->rows; r++)
        out[1][r] = step->step == 3 && r == 4 ? CLASSES : (double)(r % CLASSES);
    return 0;
}

/* A label that is no class is found before the first update, wherever it lies; of drawn ones, when
 * it comes. */
START_TEST(labels)
{
    static const double bad[] = { CLASSES, -1, 0.5, 255 };
    double x[PEOPLE], label[PEOPLE];
    float narrow[PEOPLE];
    for (int i = 0; i < PEOPLE; i++) {
        x[i] = sin(i);
        label[i] = i % CLASSES;
    }
    for (int batch = 0; batch <= PEOPLE; batch += 16) {
        for (int k = 0; k < 2 * COUNT(bad) + 1; k++) {
            bool fine = k == 2 * COUNT(bad);
            label[37] = fine ? 1 : bad[k / 2];
            for (int i = 0; i < PEOPLE; i++) narrow[i] = (float)label[i];
            nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), x),
                                  nn_array_of(AD_SHAPE(AD_ROWS, 1), narrow) };
            weights w = make_weights(k % 2 ? AD_F64 : AD_F32, CLASSES, (double[]){ 1, 2, -1 });
            nn_train_options o = { .loss = classify,
                                   .narray = 2,
                                   .arrays = arrays,
                                   .examples = PEOPLE,
                                   .batch = batch,
                                   .steps = 1,
                                   .on_step = count_updates };
            updates = 0;
            ck_assert_msg(nn_train(w.theta, &o, NULL, error, sizeof error) == (fine ? 0 : -1), "%s",
                          error);
            ck_assert_int_eq(updates, fine);
            char expected[200];
            snprintf(expected, sizeof expected,
                     "nn_cross_entropy: the class is %g, but must be a whole number from 0 to 2",
                     label[37]);
            if (!fine)
                ck_assert_msg(strstr(error, "nn_train: example 37 (from 0): ") &&
                                  strstr(error, expected),
                              "%s", error);
            free_weights(&w);
        }
    }
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), x),
                          nn_array_drawn(AD_SHAPE(AD_ROWS, 1)) };
    weights w = make_weights(AD_F64, CLASSES, (double[]){ 1, 2, -1 });
    nn_train_options o = { .loss = classify,
                           .narray = 2,
                           .arrays = arrays,
                           .examples = PEOPLE,
                           .draw = draw_labels,
                           .steps = 5,
                           .on_step = count_updates };
    ck_assert_int_eq(nn_train(w.theta, &o, NULL, error, sizeof error), -1);
    ck_assert_int_eq(updates, 2);
    ck_assert_msg(strstr(error, "step 3 of 5: ") &&
                      strstr(error, "nn_cross_entropy: the class of row 4 (from 0) is 3, but must"),
                  "%s", error);
    ck_assert_msg(
        strstr(error,
               "; 1 of 40 examples do so alone, the first is 4 (from 0); theta is as after step 2"),
        "%s", error);
    free_weights(&w);
}
END_TEST

/* ---- numbers that are none ------------------------------------------------------------------- */

static ad_var log_likelihood(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    return ad_mean_all(
        ad_square(ad_sub(ad_log(ad_add(batch[0], first_of(theta))), ad_scale(batch[0], 2))));
}

/* One example of forty gives NaN: it is named, and the rate is not blamed. */
START_TEST(an_example_that_fails)
{
    for (int batch = 0; batch <= PEOPLE; batch += 16) {
        double x[PEOPLE];
        for (int i = 0; i < PEOPLE; i++) x[i] = i == 23 ? -30 : 1 + i;
        nn_array array = nn_array_of(AD_SHAPE(AD_ROWS, 1), x);
        weights w = make_weights(AD_F64, 1, NULL);
        nn_train_options o = { .loss = log_likelihood,
                               .narray = 1,
                               .arrays = &array,
                               .examples = PEOPLE,
                               .batch = batch,
                               .steps = 10,
                               .optimizer = { .rate = 1e-3 } };
        ck_assert_int_eq(nn_train(w.theta, &o, NULL, error, sizeof error), -1);
        ck_assert_msg(strstr(error, "the loss is nan; 1 of "), "%s", error);
        ck_assert_msg(strstr(error, " examples do so alone, the first is 23 (from 0)"), "%s",
                      error);
        ck_assert_ptr_null(strstr(error, "smaller rate"));
        free_weights(&w);
    }
}
END_TEST

/* y' = -w^2 y is stiff for a large w, so a rate that is far too large ends in the solver; what is
 * said is that training blew up. */
static ad_var squared_rate(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_neg(ad_mul(y, ad_square(args[0])));
}

static ad_var stiffening(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)batch, (void)user;
    ad_var w = first_of(theta), y0 = ad_broadcast(ad_scalar(tape, 1), AD_SHAPE(AD_ROWS, 1));
    ode_options o = { .rtol = 1e-6, .atol = 1e-8, .max_steps = 300 };
    ad_var y = ode_solve_final(squared_rate, NULL, y0, 1, &w, ode_interval(tape, 0, 1), &o);
    return ad_mean_all(y);
}

START_TEST(blown_up)
{
    weights w = make_weights(AD_F64, 1, (double[]){ 1 });
    nn_train_report report;
    nn_train_options o = { .loss = stiffening,
                           .steps = 50,
                           .optimizer = { .algorithm = &nn_sgd, .rate = 1000 } };
    ck_assert_int_eq(nn_train(w.theta, &o, &report, error, sizeof error), -1);
    ck_assert_int_eq(report.steps, 1);
    const char *cause = "nn_train: step 2 of 50: the training has blown up: the loss went from "
                        "0.368 to 0.368, the largest |theta| from 1 to 737; try a smaller rate, or "
                        "clip_norm. What failed then: ",
               *end = "; theta is as after step 1";
    ck_assert_msg(strstr(error, cause) == error && strstr(error, end), "%s", error);
    free_weights(&w);
}
END_TEST

/* ---- stages -----------------------------------------------------------------------------------
 */

/* Noise beside the examples, and a factor that grows over all updates planned. */
static int draw_going_on(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t r = 0; r < step->rows; r++) out[1][r] = ad_rng_normal(step->rng);
    out[3][0] = (double)step->step / (double)step->steps;
    return 0;
}

/* Makes the updates in stages of the same loss, and returns w. */
static double train_in_stages(ad_dtype dtype, int64_t batch, int nstage, const int64_t *steps)
{
    weights w = make_weights(dtype, 1, NULL);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), data),
                          nn_array_drawn(AD_SHAPE(AD_ROWS, 1)),
                          nn_array_of(AD_SHAPE(2), offset_f32), nn_array_drawn(AD_SCALAR) };
    nn_stage stages[3] = { { 0 } };
    for (int i = 0; i < nstage; i++) stages[i].steps = steps[i];
    nn_train_options o = {
        .loss = four_kinds,
        .narray = 4,
        .arrays = arrays,
        .examples = EXAMPLES,
        .batch = batch,
        .seed = 9,
        .draw = draw_going_on,
        .nstage = nstage,
        .stages = stages,
        .optimizer = { .rate = 0.05, .schedule = nn_schedule_cosine },
    };
    ck_assert_msg(nn_train(w.theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    double result = weight(&w);
    free_weights(&w);
    return result;
}

/* With one batch a stage is no more than a mark: moments, schedule, draws go on. (With more, each
 * stage begins an epoch of its own.) */
START_TEST(stages_go_on)
{
    static const int64_t parts[][3] = { { 3, 6, 11 }, { 1, 1, 18 }, { 7, 12, 1 } };
    for (int type = 0; type < 2; type++) {
        ad_dtype dtype = type ? AD_F64 : AD_F32;
        double whole = train_in_stages(dtype, 0, 1, (int64_t[]){ 20 });
        for (int i = 0; i < COUNT(parts); i++)
            ck_assert_double_eq(train_in_stages(dtype, 0, 3, parts[i]), whole);
        ck_assert_double_ne(train_in_stages(dtype, 3, 3, parts[0]), whole);
    }
}
END_TEST

/* ---- at the ends of the number range --------------------------------------------------------- */

/* The loss at theta after the last update is infinite, of a solution that is not. It has not
 * changed. */
static ad_var growing(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)batch, (void)user;
    ad_var rate = ad_neg(first_of(theta)),
           y0 = ad_broadcast(ad_scalar(tape, 1), AD_SHAPE(AD_ROWS, 1));
    ode_options o = { .method = &ode_euler, .steps = 1 };
    ad_var y = ode_solve_final(decaying, NULL, y0, 1, &rate, ode_interval(tape, 0, 1), &o);
    return ad_neg(ad_mean_all(ad_square(y)));
}

START_TEST(last_loss_too_large)
{
    weights w = make_weights(AD_F64, 1, (double[]){ 0.5 });
    nn_train_options o = { .loss = growing,
                           .steps = 1,
                           .check_gradient = -1,
                           .optimizer = { .algorithm = &nn_sgd, .rate = 1e200 } };
    ck_assert_msg(nn_train(w.theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    ck_assert_double_gt(weight(&w), 1e199);
    free_weights(&w);
}
END_TEST

static int draw_nothing(const nn_step *step, double *const *out, void *user)
{
    (void)step, (void)out, (void)user;
    return 0;
}

static ad_var distance(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    return ad_mean_all(ad_square(ad_sub(batch[0], first_of(theta))));
}

START_TEST(sizes_beyond_memory)
{
    weights w = make_weights(AD_F64, 1, NULL);
    nn_array drawn = nn_array_drawn(AD_SHAPE(AD_ROWS, 1)),
             rows = nn_array_of(AD_SHAPE(AD_ROWS, 1), data);
    nn_train_options o = { .loss = distance,
                           .narray = 1,
                           .arrays = &drawn,
                           .draw = draw_nothing,
                           .batch = INT64_MAX,
                           .steps = 1 };
    ck_assert_int_eq(nn_train(w.theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: array 0 does not fit into memory");
    o = (nn_train_options){
        .loss = distance, .narray = 1, .arrays = &rows, .examples = INT64_MAX, .steps = 1
    };
    ck_assert_int_eq(nn_train(w.theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: array 0 does not fit into memory");
    free_weights(&w);
}
END_TEST

/* ---- memory ---------------------------------------------------------------------------------- */

#ifndef ALLOCATIONS_NOT_COUNTED
/* Wherever memory ends in a training, that is what is said; theta is as it was or as after a step.
 */
START_TEST(without_memory)
{
    double x[PEOPLE] = { 0 }, label[PEOPLE] = { 0 };
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), label) };
    weights w = make_weights(AD_F32, CLASSES, (double[]){ 1, 2, -1 });
    nn_train_options o = { .loss = classify,
                           .narray = 2,
                           .arrays = arrays,
                           .examples = PEOPLE,
                           .batch = 16,
                           .steps = 2,
                           .threads = 1 };
    ck_assert_msg(nn_train(w.theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    int result = -1;
    long k = 0;
    for (; result && k < 5000; k++) {
        long live = allocations_live();
        allocations_fail_at(k);
        result = nn_train(w.theta, &o, NULL, error, sizeof error);
        allocations_fail_at(-1);
        ck_assert_int_eq(allocations_live(), live);
        if (result)
            ck_assert_msg(strstr(error, "out of memory") || strstr(error, "memory is short"),
                          "%ld: %s", k, error);
        ck_assert(isfinite(weight(&w)));
    }
    ck_assert_int_eq(result, 0);
    ck_assert_int_gt(k, 50);
    free_weights(&w);
}
END_TEST
#endif

int main(void)
{
    TCase *c = suite_case("inputs", "inputs");
    tcase_add_test(c, kinds_of_arrays);
    tcase_add_test(c, frozen_values);
    tcase_add_test(c, losses_without_use);
    tcase_add_test(c, labels);
    tcase_add_test(c, an_example_that_fails);
    tcase_add_test(c, blown_up);
    tcase_add_test(c, stages_go_on);
    tcase_add_test(c, last_loss_too_large);
    tcase_add_test(c, sizes_beyond_memory);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_test(c, without_memory);
#endif
    return suite_run();
}
