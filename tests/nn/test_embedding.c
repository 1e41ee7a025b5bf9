/* Embeddings against PyTorch (tests/reference/embedding.py); labels that are none. */
#include "tests/nn/layer_cases.h"
#include "tests/reference/embedding.h"

static nn_embedding layer;
static void make(nn_model *m) { layer = nn_embedding_new(m, "e", 5, 3, NULL); }
static ad_var apply(ad_var theta, const ad_var *x)
{
    return nn_embedding_apply(&layer, theta, x[0]);
}
static double label(int k, int64_t i)
{
    (void)k;
    return (double)(i * i % 5);
}

#define CASE(n, numbers, ...)                                                                      \
    {                                                                                              \
        .name = n, .want = numbers, .ngiven = 1, .input = { __VA_ARGS__ }, .given = label,         \
        .make = make, .apply = apply, .parameter = {                                               \
            "e.weight"                                                                             \
        }                                                                                          \
    }
static const layer_case cases[] = {
    CASE("sequences", embedded_sequences, { 2, { AD_ROWS, 4 } }),
    CASE("sequences of one", embedded_singles, { 2, { AD_ROWS, 1 } }),
    CASE("rows", embedded_rows, { 1, { AD_ROWS } }),
    CASE("images", embedded_images, { 3, { AD_ROWS, 2, 2 } }),
    CASE("the same for all rows", embedded_shared, { 1, { 6 } }),
};
CASE_TESTS(cases)

/* Every row of a long batch has the row of the table that its label names. */
START_TEST(rows_of_the_table)
{
    enum { ROWS = 1000, T = 3 };
    static double x[ROWS * T], y[ROWS * T * 3];
    for (int i = 0; i < ROWS * T; i++) x[i] = (i * 7 + i / 11) % 5;
    nn_model *m = nn_model_new();
    make(m);
    nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(t, AD_SHAPE(AD_ROWS, T), ROWS, x);
    ck_assert_int_eq(ad_get(nn_embedding_apply(&layer, nn_theta_param(t, theta), in), y), 0);
    const double *table = nn_theta_f64(theta, "e.weight");
    for (int i = 0; i < ROWS * T * 3; i++)
        ck_assert_double_eq(y[i], table[(int)x[i / 3] * 3 + i % 3]);
    ad_tape_free(t);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

START_TEST(labels_that_are_none)
{
    static const struct {
        double label;
        const char *words;
    } bad[] = { { 5, "the label of row 1 (from 0) is 5, but must be a whole number from 0 to 4" },
                { -1, "the label of row 1 (from 0) is -1" },
                { 0.5, "the label of row 1 (from 0) is 0.5" },
                { NAN, "the label of row 1 (from 0) is nan" } };
    nn_model *m = nn_model_new();
    make(m);
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        ad_tape *t = ad_tape_new((ad_dtype)dtype);
        ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 1);
        double labels[6] = { 0, 1, 2, 0, 3, 4 };
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 3, labels);
        ad_var y = nn_embedding_apply(&layer, theta, x);
        ck_assert_ptr_nonnull(ad_value(y));
        for (int i = 0; i < 4; i++) {
            labels[3] = bad[i].label;
            ad_set(x, 3, labels);
            case_fails(y, bad[i].words);
        }
        ad_tape_free(t);
    }
    nn_model_free(m);
}
END_TEST

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    return ad_mean_all(ad_square(nn_embedding_apply(&layer, theta, batch[0])));
}

/* Training looks at all labels before its first step. */
START_TEST(labels_of_a_training)
{
    double labels[50] = { 0 };
    labels[49] = 7;
    nn_model *m = nn_model_new();
    make(m);
    nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
    nn_array array = nn_array_of(AD_SHAPE(AD_ROWS, 1), labels);
    char error[300];
    nn_train_report report;
    nn_train_options o = { .loss = loss,
                           .narray = 1,
                           .arrays = &array,
                           .examples = 50,
                           .batch = 4,
                           .steps = 1,
                           .optimizer = { .rate = 1e-3 } };
    ck_assert_int_eq(nn_train(theta, &o, &report, error, sizeof error), -1);
    ck_assert_msg(strstr(error, "example 49 (from 0)") &&
                      strstr(error, "nn_embedding_apply: the label is 7"),
                  "%s", error);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

START_TEST(misuse_is_refused)
{
    nn_model *m = nn_model_new();
    nn_embedding_new(m, "e", 0, 3, NULL);
    case_unmade(m, "e.weight");
    m = nn_model_new();
    make(m);
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 1);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, (float *)NULL);
    case_refused(nn_embedding_apply(&layer, theta, ad_scalar(t, 1)), "labels are [], but must");
    case_refused(nn_embedding_apply(&layer, x, x), "theta is [rows,2]; the model needs");
    case_refused(nn_embedding_apply(NULL, theta, x), "could not be made");
    case_refused(nn_embedding_apply(&layer, theta, ad_none(t)), "x is not a valid variable");
    nn_model *large = nn_model_new();
    nn_embedding many = nn_embedding_new(large, "e", (1 << 24) + 1, 1, NULL);
    ad_var wide = ad_fill(t, AD_SHAPE(nn_model_size(large)), 1);
    case_refused(nn_embedding_apply(&many, wide, x), "16777217 labels; beyond 2^24");
    nn_model_free(large);
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("embedding", "embedding");
    add_case_tests(tests);
    tcase_add_test(tests, rows_of_the_table);
    tcase_add_test(tests, labels_that_are_none);
    tcase_add_test(tests, labels_of_a_training);
    tcase_add_test(tests, misuse_is_refused);
    return suite_run();
}
