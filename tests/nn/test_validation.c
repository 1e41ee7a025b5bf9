/* Validation: parts of the examples, metrics against plain loops and known answers, weights of the
 * best validation, and the end of patience. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EXAMPLES = 53 };

static char error[1000];

typedef struct {
    nn_model *model;
    nn_theta *theta;
    double x[EXAMPLES], label[EXAMPLES];
    int seen[3][EXAMPLES]; /* how often draws were for it */
    const double *script;  /* theta after each step */
    double value;          /* drawn for each validation */
} problem;

static problem *make_problem(ad_dtype dtype)
{
    problem *p = calloc(1, sizeof *p);
    ad_rng rng = ad_rng_seed(1);
    for (int i = 0; i < EXAMPLES; i++) {
        p->x[i] = ad_rng_normal(&rng);
        p->label[i] = ad_rng_uniform(&rng) < 0.4;
    }
    p->model = nn_model_new();
    nn_model_add(p->model, "w", AD_SCALAR, nn_init_ones, 1, 1);
    p->theta = nn_theta_new(p->model, dtype, &rng);
    return p;
}

static void free_problem(problem *p)
{
    nn_theta_free(p->theta);
    nn_model_free(p->model);
    free(p);
}

/* The mean of (w x - label)^2. */
static ad_var score_of(ad_var theta, const ad_var *batch)
{
    return ad_mul(batch[0], ad_slice(theta, 0, 0, 1));
}
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    return ad_mean_all(ad_square(ad_sub(score_of(theta, batch), batch[1])));
}

static const nn_metric metrics[] = { { "error", NN_MEAN, false },
                                     { "rmse", NN_ROOT, false },
                                     { "ones", NN_RATIO, false },
                                     { "auc", NN_AUC, false } };
static void record(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out, void *user)
{
    ad_var score = score_of(theta, batch);
    out[0] = ad_mean_all(ad_abs(ad_sub(score, batch[1])));
    out[1] = loss(tape, theta, batch, user);
    /* the sum of x over that of the labels: not a mean of means */
    ad_var sums[] = { ad_reshape(ad_sum_all(ad_mul(batch[0], batch[1])), AD_SHAPE(1)),
                      ad_reshape(ad_sum_all(batch[1]), AD_SHAPE(1)) };
    out[2] = ad_concatenate(2, sums, 0);
    ad_var pair[] = { score, batch[1] };
    out[3] = ad_concatenate(2, pair, 1);
}

static nn_train_options options_of(problem *p, nn_array arrays[2])
{
    arrays[0] = nn_array_of(AD_SHAPE(AD_ROWS, 1), p->x);
    arrays[1] = nn_array_of(AD_SHAPE(AD_ROWS, 1), p->label);
    return (nn_train_options){
        .loss = loss,
        .user = p,
        .narray = 2,
        .arrays = arrays,
        .examples = EXAMPLES,
        .batch = 7,
        .steps = 12,
        .threads = 1,
        .optimizer = { .algorithm = &nn_sgd, .rate = 0.1 },
        .validation = { .nmetric = 4, .metrics = metrics, .record = record, .batch = 8 }
    };
}

/* Against plain loops over the part: the area as the share of pairs that are in order. */
START_TEST(metrics_of_parts)
{
    for (int type = 0; type < 2; type++) {
        problem *p = make_problem(type ? AD_F64 : AD_F32);
        nn_array arrays[2];
        nn_train_options o = options_of(p, arrays);
        unsigned char part[EXAMPLES];
        for (int i = 0; i < EXAMPLES; i++) part[i] = (unsigned char)(i % 5 == 0 ? 2 : i % 3 == 0);
        o.split.part = part;
        nn_trainer *t = nn_trainer_new(p->theta, &o);
        while (nn_trainer_step(t) > 0) continue;
        ck_assert_msg(!nn_trainer_error(t), "%s", nn_trainer_error(t));
        double w, tolerance = type ? 1e-13 : 1e-5;
        ck_assert_int_eq(nn_theta_get(p->theta, "w", 1, &w), 0);
        for (int which = 0; which < 3; which++) {
            double n = 0, size = 0, square = 0, above = 0, ones = 0, pairs = 0, ordered = 0;
            for (int i = 0; i < EXAMPLES; i++) {
                if (part[i] != which) continue;
                double d = w * p->x[i] - p->label[i];
                n++;
                size += fabs(d);
                square += d * d;
                above += p->x[i] * p->label[i];
                ones += p->label[i];
                for (int k = 0; k < EXAMPLES; k++) {
                    if (part[k] != which || p->label[i] != 1 || p->label[k] != 0) continue;
                    double a = w * p->x[i], b = w * p->x[k];
                    pairs++;
                    ordered += a > b ? 1 : a == b ? 0.5 : 0;
                }
            }
            nn_scores s;
            ck_assert_msg(nn_trainer_evaluate(t, (nn_part)which, &s) == 0, "%s",
                          nn_trainer_error(t));
            ck_assert_double_eq_tol(s.loss, square / n, tolerance);
            ck_assert_double_eq_tol(s.metrics[0], size / n, tolerance);
            ck_assert_double_eq_tol(s.metrics[1], sqrt(square / n), tolerance);
            ck_assert_double_eq_tol(s.metrics[2], above / ones, tolerance);
            ck_assert_double_eq_tol(s.metrics[3], ordered / pairs, tolerance);
        }
        nn_trainer_free(t);
        free_problem(p);
    }
}
END_TEST

/* Of four scores, two of each label (scikit-learn's example, 0.75), and of ties by hand. */
START_TEST(areas)
{
    static const struct {
        double score[4], area;
    } cases[] = { { { 0.1, 0.4, 0.35, 0.8 }, 0.75 },
                  { { 1, 2, 2, 3 }, 0.875 },
                  { { 5, 5, 5, 5 }, 0.5 },
                  { { 3, 4, 1, 2 }, 0 },
                  { { 1, 2, 3, 4 }, 1 },
                  { { 1, 1, 1, 0 }, 0.25 } };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        problem *p = make_problem(AD_F64);
        nn_array arrays[2];
        nn_train_options o = options_of(p, arrays);
        nn_scores s;
        unsigned char part[5] = { 1, 1, 1, 1, 0 };
        o.examples = 5;
        o.split.part = part;
        o.validation.batch = 3;
        for (int i = 0; i < 4; i++) p->x[i] = cases[k].score[i];
        for (int i = 0; i < 4; i++) p->label[i] = i > 1;
        nn_trainer *t = nn_trainer_new(p->theta, &o);
        ck_assert_msg(nn_trainer_evaluate(t, NN_VALIDATION, &s) == 0, "%s", nn_trainer_error(t));
        ck_assert_double_eq(s.metrics[3], cases[k].area);
        ck_assert_int_eq(nn_trainer_evaluate(t, NN_TEST, &s), -1);
        ck_assert_msg(strstr(nn_trainer_error(t), "there are no examples in part 2"), "%s",
                      nn_trainer_error(t));
        nn_trainer_free(t);
        for (int i = 0; i < 4; i++) p->label[i] = 1;
        ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
        ck_assert_msg(strstr(error, "the metric 'auc': all 4 labels are the same"), "%s", error);
        free_problem(p);
    }
}
END_TEST

/* ---- parts by shares ------------------------------------------------------------------------- */

static int note(const nn_step *step, double *const *out, void *user)
{
    problem *p = user;
    for (int64_t r = 0; r < step->rows; r++) p->seen[step->part][step->examples[r]]++;
    out[2][0] = 0;
    return 0;
}

START_TEST(shares)
{
    int first[EXAMPLES];
    for (int run = 0; run < 3; run++) {
        problem *p = make_problem(AD_F64);
        nn_array arrays[3];
        nn_train_options o = options_of(p, arrays);
        arrays[2] = nn_array_drawn(AD_SCALAR);
        o.narray = 3;
        o.draw = note;
        o.seed = run == 2;
        o.split = (nn_split){ .validation = 0.2, .test = 0.1 };
        o.steps = 18; /* 37 examples by 7: three epochs */
        o.validation.every = 6;
        ck_assert_msg(nn_train(p->theta, &o, NULL, error, sizeof error) == 0, "%s", error);
        int count[3] = { 0 }, same = 0;
        for (int i = 0; i < EXAMPLES; i++) {
            int parts = 0;
            for (int which = 0; which < 3; which++) {
                parts += p->seen[which][i] > 0;
                count[which] += p->seen[which][i] > 0;
                if (p->seen[which][i]) ck_assert_int_eq(p->seen[which][i], which == 2 ? 1 : 3);
                if (p->seen[which][i] && run == 0) first[i] = which;
                same += p->seen[which][i] && first[i] == which;
            }
            ck_assert_int_eq(parts, 1);
        }
        ck_assert_int_eq(count[0], 37);
        ck_assert_int_eq(count[1], 11);
        ck_assert_int_eq(count[2], 5);
        if (run < 2) ck_assert_int_eq(same, EXAMPLES);
        else ck_assert_int_lt(same, EXAMPLES);
        free_problem(p);
    }
}
END_TEST

/* ---- the best weights ------------------------------------------------------------------------ */

/* The validation loss is w^2, and w goes as it is written. */
static ad_var square(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    ad_var w = ad_slice(theta, 0, 0, 1);
    return ad_add(ad_mean_all(ad_square(w)), ad_mean_all(ad_scale(batch[0], 0)));
}

static int follow(int64_t step, double value, nn_theta *theta, void *user)
{
    const problem *p = user;
    (void)value;
    nn_theta_f64(theta, NULL)[0] = p->script[step - 1];
    return 0;
}

START_TEST(best_weights)
{
    static const double script[10] = { 5, 4, 3, 2, 2.5, 1.99, 3, 4, 1, 6 };
    static const struct {
        int64_t patience, steps, best;
        double min_delta;
        bool last, early;
        double theta;
    } cases[] = {
        { 0, 10, 9, 0, false, false, 1 }, /* all of it */
        { 0, 10, 9, 0, true, false, 6 },  /* the last ones */
        { 3, 10, 9, 0, false, false, 1 }, { 2, 8, 6, 0, false, true, 1.99 },
        { 2, 6, 4, 0.5, false, true, 2 }, /* 4 - 1.99^2 is no gain */
        { 1, 5, 4, 0, true, true, 2.5 },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        problem *p = make_problem(AD_F64);
        nn_array arrays[2];
        nn_train_options o = options_of(p, arrays);
        nn_train_report report;
        p->script = script;
        o.loss = square;
        o.on_step = follow;
        o.steps = 10;
        o.split.validation = 0.5;
        o.validation = (nn_validation){ .every = 1,
                                        .patience = cases[k].patience,
                                        .min_delta = cases[k].min_delta,
                                        .keep_last = cases[k].last };
        ck_assert_msg(nn_train(p->theta, &o, &report, error, sizeof error) == 0, "%s", error);
        ck_assert_int_eq(report.steps, cases[k].steps);
        ck_assert_int_eq(report.validations, cases[k].steps);
        ck_assert_int_eq(report.best_step, cases[k].best);
        ck_assert_int_eq(report.stopped_early, cases[k].early);
        ck_assert_double_eq(nn_theta_f64(p->theta, NULL)[0], cases[k].theta);
        ck_assert_double_eq_tol(report.best.loss, pow(script[cases[k].best - 1], 2), 1e-14);
        free_problem(p);
    }
}
END_TEST

START_TEST(refused)
{
    problem *p = make_problem(AD_F64);
    nn_array arrays[2];
    nn_train_options good = options_of(p, arrays), o;
    o = good;
    o.validation.patience = 3;
    ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: options.validation is given, but options.split leaves no "
                            "examples for it");
    good.split.validation = 0.3;
    o = good;
    o.validation.watch = "accuracy";
    ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: validation.watch: there is no metric 'accuracy'");
    o = good;
    o.validation.metrics =
        (nn_metric[]){ { "a", NN_AUC, 0 }, { "b", 0, 0 }, { "c", 0, 0 }, { "a", 0, 0 } };
    ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: the metric's name 'a' is taken");
    ((nn_metric *)(void *)o.validation.metrics)[3].name = "d";
    ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error,
                     "nn_train: the metric 'a' must be [rows,2], scores and labels, but is []");
    o = good;
    o.split.test = 0.7;
    ck_assert_int_eq(nn_train(p->theta, &o, NULL, error, sizeof error), -1);
    ck_assert_msg(strstr(error, "leave some for training, but are 0.3 and 0.7"), "%s", error);
    free_problem(p);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("validation", "validation");
    tcase_add_test(c, metrics_of_parts);
    tcase_add_test(c, areas);
    tcase_add_test(c, shares);
    tcase_add_test(c, best_weights);
    tcase_add_test(c, refused);
    return suite_run();
}
