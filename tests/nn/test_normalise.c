/* Normalisation against PyTorch (tests/reference/normalise.py); running statistics; misuse. */
#include "tests/nn/layer_cases.h"
#include "tests/reference/normalise.h"

/* ---- layers ---------------------------------------------------------------------------------- */

static nn_norm norm;
static nn_batch_norm batch;

static void make_layer(nn_model *m) { norm = nn_layer_norm_new(m, "n", AD_SHAPE(4), NULL); }
static void make_two_axes(nn_model *m)
{
    norm = nn_layer_norm_new(m, "n", AD_SHAPE(2, 3),
                             &(nn_norm_options){ .epsilon = 1e-3, .unbiased = true });
}
static void make_group(nn_model *m) { norm = nn_group_norm_new(m, "n", 4, 2, NULL); }
static void make_group_flat(nn_model *m) { norm = nn_group_norm_new(m, "n", 6, 3, NULL); }
static void make_instance(nn_model *m)
{
    norm = nn_instance_norm_new(m, "n", 2, &(nn_norm_options){ .unscaled = true });
    nn_model_add(m, "other", AD_SHAPE(1), nn_init_zeros, 1, 1);
}
static ad_var apply_norm(ad_var theta, const ad_var *x)
{
    return nn_norm_apply(&norm, theta, x[0]);
}

static const nn_norm_options quick = { .momentum = 0.3 };
static void make_batch(nn_model *m) { batch = nn_batch_norm_new(m, "n", 2, &quick); }
static void make_batch_flat(nn_model *m) { batch = nn_batch_norm_new(m, "n", 4, NULL); }
static ad_var train_batch(ad_var theta, const ad_var *x)
{
    return nn_batch_norm_train(&batch, theta, x[0]);
}
static ad_var apply_batch(ad_var theta, const ad_var *x)
{
    return nn_batch_norm_apply(&batch, theta, x[0]);
}

#define R(...) AD_SHAPE(AD_ROWS, __VA_ARGS__)
#define BOTH                                                                                       \
    {                                                                                              \
        "n.weight", "n.bias"                                                                       \
    }
#define RUNNING                                                                                    \
    {                                                                                              \
        "n.running_mean", "n.running_var"                                                          \
    }
static const layer_case cases[] = {
    { .name = "layer",
      .want = layer_norm,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 5, 4 } } },
      .make = make_layer,
      .apply = apply_norm,
      .parameter = BOTH },
    { .name = "layer over two axes",
      .want = layer_norm_two_axes,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 2, 3 } } },
      .make = make_two_axes,
      .apply = apply_norm,
      .parameter = { "n.weight" } },
    { .name = "group",
      .want = group_norm,
      .ninput = 1,
      .input = { { 4, { AD_ROWS, 2, 3, 4 } } },
      .make = make_group,
      .apply = apply_norm,
      .parameter = BOTH },
    { .name = "group without positions",
      .want = group_norm_flat,
      .ninput = 1,
      .input = { { 2, { AD_ROWS, 6 } } },
      .make = make_group_flat,
      .apply = apply_norm,
      .parameter = BOTH },
    { .name = "instance",
      .want = instance_norm,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 5, 2 } } },
      .make = make_instance,
      .apply = apply_norm },
    { .name = "batch",
      .want = batch_norm,
      .ninput = 1,
      .input = { { 4, { AD_ROWS, 2, 3, 2 } } },
      .make = make_batch,
      .apply = train_batch,
      .parameter = BOTH,
      .mixes_rows = true },
    { .name = "batch without positions",
      .want = batch_norm_flat,
      .ninput = 1,
      .input = { { 2, { AD_ROWS, 4 } } },
      .make = make_batch_flat,
      .apply = train_batch,
      .parameter = BOTH,
      .mixes_rows = true },
    { .name = "batch, evaluated",
      .want = batch_norm_fixed,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 5, 2 } } },
      .make = make_batch,
      .apply = apply_batch,
      .parameter = BOTH,
      .fixed = RUNNING },
};
CASE_TESTS(cases)

/* Without rows x is one sample: the same numbers as of a batch of one. */
START_TEST(without_rows)
{
    double x[24], one[24], batch_of_one[24];
    case_fill(x, 24, 1.3, 0.4);
    for (int k = 0; k < 2; k++) {
        nn_model *m = nn_model_new();
        (k ? make_group : make_layer)(m);
        nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
        ad_tape *t = ad_tape_new(AD_F64);
        ad_var p = nn_theta_param(t, theta);
        ad_get(nn_norm_apply(&norm, p, ad_input(t, AD_SHAPE(2, 3, 4), x)), one);
        ad_get(nn_norm_apply(&norm, p, ad_input_rows(t, R(2, 3, 4), 1, x)), batch_of_one);
        ck_assert_ptr_null(ad_tape_error(t));
        for (int i = 0; i < 24; i++) ck_assert_double_eq_tol(one[i], batch_of_one[i], 1e-14);
        ad_tape_free(t);
        nn_theta_free(theta);
        nn_model_free(m);
    }
}
END_TEST

/* ---- running statistics ---------------------------------------------------------------------- */

/* As PyTorch moves them in training, and put into theta of either type. */
START_TEST(running_statistics)
{
    double numbers[4], x[30];
    nn_model *m = nn_model_new();
    make_batch(m);
    nn_theta *theta = nn_theta_new(m, _i ? AD_F32 : AD_F64, &(ad_rng){ 1, 0 });
    for (int k = 0; k < 2; k++) {
        case_fill(numbers, 2, 0.9, 0.1 + k);
        for (int i = 0; i < 2; i++) numbers[i] = numbers[i] * numbers[i] + 0.5;
        nn_theta_set(theta, k ? "n.running_var" : "n.running_mean", 2, numbers);
    }
    case_fill(x, 30, 1.3, 0.4);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var p = nn_theta_param(t, theta), in = ad_input_rows(t, R(5, 2), 3, x), g;
    ad_var statistics = nn_batch_norm_measure(&batch, p, in);
    ck_assert_int_eq(ad_get(statistics, numbers), 0);
    const double within = _i ? 1e-6 : 1e-14;
    for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(numbers[i], batch_norm_running[i], within);
    ad_grad(ad_sum_all(statistics), 1, &in, &g);
    ck_assert_double_eq(ad_item(ad_sum_all(ad_abs(g))), 0);
    ck_assert_int_eq(nn_batch_norm_set(&batch, theta, numbers), 0);
    for (int k = 0; k < 2; k++) {
        double got[2];
        nn_theta_get(theta, k ? "n.running_var" : "n.running_mean", 2, got);
        for (int i = 0; i < 2; i++) ck_assert_double_eq_tol(got[i], numbers[2 * k + i], within);
    }
    ck_assert_int_eq(nn_model_parameters(m), 4);
    ad_tape_free(t);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

START_TEST(layers_that_cannot_be)
{
    nn_model *m = nn_model_new();
    nn_group_norm_new(m, "g", 6, 4, NULL);
    case_unmade(m, "'g': 6 channels cannot be divided into 4 groups");
    nn_group_norm_new(m = nn_model_new(), "g", 6, 0, NULL);
    case_unmade(m, "into 0 groups");
    nn_layer_norm_new(m = nn_model_new(), "l", AD_SHAPE(4, 0), NULL);
    case_unmade(m, "'l': the shape of a layer norm");
    nn_layer_norm_new(m = nn_model_new(), "l", AD_SHAPE(4), &(nn_norm_options){ .epsilon = -1 });
    case_unmade(m, "epsilon must not be negative, but is -1");
    nn_batch_norm_new(m = nn_model_new(), "b", 4, &(nn_norm_options){ .momentum = 1.5 });
    case_unmade(m, "momentum must be in (0,1], but is 1.5");
    nn_batch_norm_new(m = nn_model_new(), "b", 0, NULL);
    case_unmade(m, "b.weight");
    nn_batch_norm_new(m = nn_model_new(), NULL, 4, NULL);
    case_unmade(m, "needs a name");
}
END_TEST

START_TEST(misuse_is_refused)
{
    nn_model *m = nn_model_new();
    make_batch(m);
    nn_norm layer = nn_layer_norm_new(m, "l", AD_SHAPE(3, 4), NULL);
    nn_norm group = nn_group_norm_new(m, "g", 4, 4, NULL), unmade = { .made = false };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 1);
    ad_var x = ad_input_rows(t, R(4), 0, (double *)NULL);
    case_refused(nn_norm_apply(&layer, theta, x), "x is [rows,4], but its last axes must be [3,4]");
    case_refused(nn_norm_apply(&layer, theta, ad_fill(t, AD_SHAPE(4, 3), 0)), "must be [3,4]");
    case_refused(nn_norm_apply(&group, theta, x), "each mean would be of one value alone");
    case_refused(nn_norm_apply(&group, theta, ad_input_rows(t, R(6), 0, (double *)NULL)), "x is");
    case_refused(nn_norm_apply(&unmade, theta, x), "could not be made");
    case_refused(nn_norm_apply(NULL, theta, x), "could not be made");
    case_refused(nn_norm_apply(&group, ad_none(t), x), "theta is not a valid variable");
    case_refused(nn_norm_apply(&layer, ad_fill(t, AD_SHAPE(3), 1), x), "the model needs");
    case_refused(nn_batch_norm_train(&batch, theta, x), "but the layer takes [...,2]");
    case_refused(nn_batch_norm_train(NULL, theta, x), "could not be made");
    case_refused(nn_batch_norm_apply(&batch, theta, x), "but the layer takes [...,2]");
    case_refused(nn_batch_norm_train(&batch, theta, ad_fill(t, AD_SHAPE(2), 0)), "one value alone");
    case_refused(nn_batch_norm_measure(&batch, theta, x), "nn_batch_norm_measure: x is [rows,4]");
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

/* Two rows are enough, and so are two positions of one row. */
START_TEST(batches_of_one)
{
    static const char words[] =
        "nn_batch_norm_train: the number of values of each channel is 1, but must be at least 2";
    nn_model *m = nn_model_new();
    make_batch(m);
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        ad_tape *t = ad_tape_new((ad_dtype)dtype);
        ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 1);
        double numbers[4] = { 1, 2, 3, 5 };
        ad_var x = ad_input_rows(t, R(2), 1, numbers), y = nn_batch_norm_train(&batch, theta, x);
        case_fails(y, words);
        case_fails(nn_batch_norm_measure(&batch, theta, x), "nn_batch_norm_measure: the number");
        ck_assert_int_eq(ad_set(x, 2, numbers), 0);
        ck_assert_ptr_nonnull(ad_value(y));
        ad_tape_free(t);
        t = ad_tape_new((ad_dtype)dtype);
        x = ad_input_rows(t, R(2, 2), 1, numbers);
        theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 1);
        ck_assert_ptr_nonnull(ad_value(nn_batch_norm_train(&batch, theta, x)));
        ad_tape_free(t);
    }
    nn_model_free(m);
}
END_TEST

START_TEST(statistics_that_cannot_be)
{
    static const struct {
        double value[4];
        const char *words;
    } wrong[] = { { { 0, NAN, 1, 1 }, "the mean of channel 1 (from 0) would be nan" },
                  { { 0, 0, -1, 1 }, "the variance of channel 0 (from 0) would be -1" },
                  { { 0, 0, 1, 1e300 }, "the variance of channel 1 (from 0) would be 1e+300" } };
    nn_model *m = nn_model_new(), *other = nn_model_new();
    make_batch(m);
    nn_model_add(other, "a", AD_SHAPE(3), nn_init_ones, 1, 1);
    for (int k = 0; k < 3; k++) {
        nn_theta *theta = nn_theta_new(m, AD_F32, &(ad_rng){ 1, 0 });
        ck_assert_int_eq(nn_batch_norm_set(&batch, theta, wrong[k].value), -1);
        ck_assert_msg(strstr(nn_theta_error(theta), wrong[k].words), "%s", nn_theta_error(theta));
        nn_theta_free(theta);
    }
    nn_theta *theta = nn_theta_new(m, AD_F64, NULL), *foreign = nn_theta_new(other, AD_F64, NULL);
    ck_assert_int_eq(nn_batch_norm_set(&batch, theta, NULL), -1);
    ck_assert_ptr_nonnull(strstr(nn_theta_error(theta), "is NULL"));
    ck_assert_int_eq(nn_batch_norm_set(&batch, foreign, wrong[0].value), -1);
    ck_assert_ptr_nonnull(strstr(nn_theta_error(foreign), "not one of theta's model"));
    ck_assert_int_eq(nn_batch_norm_set(&batch, NULL, wrong[0].value), -1);
    nn_theta_free(theta);
    nn_theta_free(foreign);
    nn_model_free(m);
    nn_model_free(other);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("normalise", "normalise");
    add_case_tests(tests);
    tcase_add_test(tests, without_rows);
    tcase_add_loop_test(tests, running_statistics, 0, 2);
    tcase_add_test(tests, layers_that_cannot_be);
    tcase_add_test(tests, misuse_is_refused);
    tcase_add_test(tests, batches_of_one);
    tcase_add_test(tests, statistics_that_cannot_be);
    return suite_run();
}
