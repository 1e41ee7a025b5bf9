/* Every public function of nn/ called with nothing, and theta used as what it is not: an error that
 * says so, never a crash, never a write out of bounds (which the sanitizers would see). */
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static const ad_dtype both_types[] = { AD_F32, AD_F64 };

/* ---- nothing at all -------------------------------------------------------------------------- */

static void expect_error(ad_tape *tape, ad_var x, const char *part)
{
    ck_assert(!ad_valid(x));
    ck_assert_msg(ad_tape_error(tape) && strstr(ad_tape_error(tape), part), "'%s' is not in '%s'",
                  part, ad_tape_error(tape) ? ad_tape_error(tape) : "no error");
    ad_tape_clear_error(tape);
}

START_TEST(no_model)
{
    ad_rng rng = ad_rng_seed(1);
    ad_shape shape;
    nn_model_free(NULL);
    ck_assert_ptr_nonnull(nn_model_error(NULL));
    ck_assert(nn_model_size(NULL) == 0 && nn_model_parameters(NULL) == 0);
    ck_assert_int_eq(nn_model_add(NULL, "a", AD_SHAPE(1), nn_init_ones, 1, 1), -1);
    ck_assert_int_eq(nn_model_find(NULL, "a", &shape), -1);
    nn_theta *theta = nn_theta_new(NULL, AD_F32, &rng);
    ck_assert_str_eq(nn_theta_error(theta), "nn_theta_new: nn_model: the model is NULL");
    ck_assert(!nn_theta_data(theta) && !nn_theta_f32(theta, NULL) && !nn_theta_model(theta));
    ck_assert_int_eq(nn_theta_set(theta, NULL, 1, (double[]){ 1 }), -1);
    nn_theta_free(theta);

    nn_model *m = nn_model_new();
    nn_model_add(m, "a", AD_SHAPE(1), nn_init_ones, 1, 1);
    ck_assert_int_eq(nn_model_find(m, NULL, NULL), -1);
    theta = nn_theta_new(m, (ad_dtype)5, &rng);
    ck_assert_str_eq(nn_theta_error(theta), "nn_theta_new: dtype is neither AD_F32 nor AD_F64");
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

START_TEST(no_theta)
{
    char error[200];
    double x = 0;
    ad_tape *tape = ad_tape_new(AD_F64);
    nn_theta_free(NULL);
    ck_assert_ptr_nonnull(nn_theta_error(NULL));
    ck_assert(!nn_theta_model(NULL) && !nn_theta_data(NULL) && nn_theta_size(NULL) == 0);
    ck_assert(!nn_theta_f32(NULL, "a") && !nn_theta_f64(NULL, NULL));
    ck_assert_int_eq(nn_theta_get(NULL, "a", 1, &x), -1);
    ck_assert_int_eq(nn_theta_set(NULL, "a", 1, &x), -1);
    ck_assert_int_eq(nn_theta_average(NULL, NULL, 0.5), -1);
    expect_error(tape, nn_theta_param(tape, NULL), "nn_theta_param: theta is NULL");
    ck_assert(!ad_valid(nn_theta_param(NULL, NULL)));
    nn_theta *copy = nn_theta_copy(NULL);
    ck_assert_str_eq(nn_theta_error(copy), "nn_theta_copy: theta is NULL");
    nn_theta_free(copy);
    ck_assert_int_eq(nn_save("x", NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_save: theta is NULL");
    ck_assert_int_eq(nn_load("x", NULL, NULL, 0), -1);
    nn_optimizer_state *s = nn_optimizer_new(NULL, NULL, 0);
    ck_assert_ptr_nonnull(nn_optimizer_error(s));
    ck_assert_int_eq(nn_optimizer_step(s, NULL, NULL), -1);
    nn_optimizer_free(s);
    nn_optimizer_free(NULL);
    ck_assert_int_eq(nn_optimizer_step(NULL, NULL, NULL), -1);
    ck_assert_int_eq(nn_optimizer_steps(NULL), 0);
    ck_assert_ptr_nonnull(nn_optimizer_error(NULL));
    ck_assert_ptr_nonnull(nn_optimizer_name(NULL));
    ck_assert_int_eq(nn_train(NULL, NULL, NULL, NULL, 0), -1);
    ad_tape_free(tape);
}
END_TEST

START_TEST(no_generator)
{
    static const nn_init inits[] = { nn_init_zeros,          nn_init_ones,
                                     nn_init_xavier_uniform, nn_init_xavier_normal,
                                     nn_init_he_uniform,     nn_init_he_normal,
                                     nn_init_lecun_normal,   nn_init_uniform_fan_in };
    ad_rng rng = ad_rng_seed(1);
    for (size_t i = 0; i < sizeof inits / sizeof inits[0]; i++) {
        double x[2] = { 0, 0 };
        inits[i](NULL, 1, 1, 2, x);
        ck_assert(i < 2 ? isfinite(x[1]) : isnan(x[1]));
        inits[i](&rng, 1, 1, 2, NULL);
        inits[i](&rng, 1, 1, -1, x);
    }
}
END_TEST

START_TEST(no_layer)
{
    static const ad_var none = { 0 };
    ad_tape *tape = ad_tape_new(AD_F32), *other = ad_tape_new(AD_F32);
    nn_model *m = nn_model_new();
    nn_linear l = nn_linear_new(m, "l", 2, 3, NULL);
    ad_var theta = ad_param(tape, AD_SHAPE(nn_model_size(m)), NULL),
           x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 0, NULL);
    ad_var foreign = ad_param(other, AD_SHAPE(nn_model_size(m)), NULL);
    expect_error(tape, nn_linear_apply(NULL, theta, x), "the layer could not be made");
    expect_error(tape, nn_mlp_apply(NULL, theta, x), "the network could not be made");
    expect_error(tape, nn_time_linear_apply(NULL, theta, x, x), "the layer could not be made");
    expect_error(tape, nn_time_mlp_apply(NULL, theta, x, x), "the network could not be made");
    expect_error(tape, nn_model_get(NULL, theta, "l.weight"),
                 "the model has no parameter 'l.weight'");
    expect_error(tape, nn_model_get(m, theta, NULL), "the model has no parameter");
    expect_error(tape, nn_linear_apply(&l, foreign, x), "another tape");
    ck_assert(!ad_valid(nn_linear_apply(&l, none, none)) &&
              !ad_valid(nn_linear_apply(NULL, none, none)));
    ck_assert(!ad_valid(nn_mlp_apply(NULL, none, none)) &&
              !ad_valid(nn_time_mlp_apply(NULL, none, none, none)));
    ck_assert(!ad_valid(nn_time_linear_apply(NULL, none, none, none)) &&
              !ad_valid(nn_model_get(m, none, "l.weight")));
    ck_assert(!ad_valid(nn_mse(none, none)) && !ad_valid(nn_mae(none, none)) &&
              !ad_valid(nn_cross_entropy(none, none)));
    ck_assert(!ad_valid(nn_gaussian_nll(none, none, none)));
    ad_var three[] = { nn_mse(x, none), nn_cross_entropy(x, none), nn_gaussian_nll(x, none, x) };
    for (int i = 0; i < 3; i++) ck_assert(!ad_valid(three[i]));
    ck_assert_ptr_nonnull(ad_tape_error(tape));

    /* Layers without a model or a name, of impossible sizes. */
    const int64_t sizes[] = { 2, -1, INT64_MAX };
    ck_assert_int_eq(nn_linear_new(NULL, "l", 2, 3, NULL).weight, -1);
    ck_assert_int_eq(nn_mlp_new(NULL, NULL, 3, sizes, NULL, NULL).layer[0].weight, -1);
    ck_assert_int_eq(nn_mlp_new(m, "n", 3, NULL, NULL, NULL).nlayer, 0);
    nn_model_free(m);
    for (int kind = 0; kind < 2; kind++) {
        m = nn_model_new();
        nn_time_linear_new(m, "t", (nn_time_kind)kind, INT64_MAX, 3, NULL);
        ck_assert_ptr_nonnull(nn_model_error(m));
        nn_model_free(m);
        m = nn_model_new();
        nn_time_mlp_new(m, NULL, (nn_time_kind)kind, 3, sizes, NULL, NULL);
        ck_assert_ptr_nonnull(nn_model_error(m));
        nn_model_free(m);
    }
    ad_tape_free(tape);
    ad_tape_free(other);
}
END_TEST

START_TEST(no_table)
{
    nn_table t = { .rows = 0 };
    ck_assert_int_eq(nn_read_csv(NULL, NULL, &t, NULL, 0), -1);
    ck_assert_int_eq(nn_read_csv("x", NULL, NULL, NULL, 0), -1);
    ck_assert_int_eq(nn_write_csv(NULL, NULL, NULL, 0), -1);
    ck_assert_int_eq(nn_write_csv("x", &t, NULL, 0), -1);
    double cell = 1;
    t.rows = t.columns = 1;
    t.data = &cell;
    ck_assert_int_eq(nn_write_csv(NULL, &t, NULL, 0), -1);
    ck_assert_int_eq(nn_write_csv("", &t, NULL, 0), -1);
    ck_assert(nn_table_column(NULL, "a") == -1 && nn_table_column(&t, NULL) == -1 &&
              nn_table_column(&t, "a") == -1);
    nn_table_clear(NULL);
    nn_progress_update(NULL, 1, NULL);
    nn_progress_free(NULL);
    nn_progress *p = nn_progress_new(NULL, -3);
    nn_progress_update(p, INT64_MAX, NULL);
    nn_progress_update(p, INT64_MIN, NULL);
    nn_progress_free(p);
    nn_schedule_cosine(0, 0, NULL);
    nn_schedule_exponential(0, 0, NULL);
}
END_TEST

/* ---- theta as what it is not ----------------------------------------------------------------- */

START_TEST(types_of_theta)
{
    nn_model *m = nn_model_new();
    nn_model_add(m, "a", AD_SHAPE(3), nn_init_ones, 1, 1);
    nn_model_add(m, "b", AD_SCALAR, nn_init_zeros, 1, 1);
    ad_rng rng = ad_rng_seed(1);
    for (int type = 0; type < 2; type++) {
        nn_theta *theta = nn_theta_new(m, both_types[type], &rng), *copy = nn_theta_copy(theta);
        ck_assert(nn_theta_dtype(copy) == both_types[type] && nn_theta_size(copy) == 32 &&
                  nn_theta_model(copy) == m);
        ck_assert_int_eq(memcmp(nn_theta_data(copy), nn_theta_data(theta),
                                32 * (type ? sizeof(double) : sizeof(float))),
                         0);
        ck_assert(type ? nn_theta_f64(copy, "a")[2] == 1 : nn_theta_f32(copy, "a")[2] == 1);
        ck_assert(type ? !nn_theta_f32(copy, "a") : !nn_theta_f64(copy, "a"));
        ck_assert_str_eq(nn_theta_error(copy),
                         type ? "nn_theta_f32: theta is f64; nn_theta_f64 has its numbers, "
                                "nn_theta_get copies them as double"
                              : "nn_theta_f64: theta is f32; nn_theta_f32 has its numbers, "
                                "nn_theta_get copies them as double");
        char error[300];
        ck_assert_int_eq(nn_save("/nowhere/file", copy, error, sizeof error), -1); /* sticky */
        ck_assert_msg(strstr(error, "nn_save: nn_theta_f"), "%s", error);
        nn_theta_free(copy);
        nn_theta_free(theta);
    }
    nn_model_free(m);
}
END_TEST

START_TEST(sizes_of_theta)
{
    static const struct {
        const char *name;
        int64_t n;
        double value;
        const char *message;
    } cases[] = {
        { "a", 4, 1, "nn_theta_set: 'a' has 3 elements, not 4" },
        { NULL, 3, 1, "nn_theta_set: 'theta' has 16 elements, not 3" },
        { "c", 3, 1, "nn_theta_set: the model has no parameter 'c'" },
        { "a", 3, 1e300,
          "nn_theta_set: element 2 of 'a' would be 1e+300, which is no finite number in f32" },
        { "a", 3, -NAN,
          "nn_theta_set: element 2 of 'a' would be nan, which is no finite number in f32" },
    };
    nn_model *m = nn_model_new();
    nn_model_add(m, "a", AD_SHAPE(3), nn_init_ones, 1, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nn_theta *theta = nn_theta_new(m, AD_F32, NULL);
        double values[4] = { 1, 2, cases[i].value, 4 };
        ck_assert_int_eq(nn_theta_set(theta, cases[i].name, cases[i].n, values), -1);
        ck_assert_str_eq(nn_theta_error(theta), cases[i].message);
        ck_assert_int_eq(nn_theta_get(theta, "a", 3, values), -1); /* sticky */
        nn_theta_free(theta);
    }
    /* A model that grows leaves its thetas behind. */
    nn_theta *theta = nn_theta_new(m, AD_F64, NULL);
    nn_model_add(m, "b", AD_SHAPE(3), nn_init_ones, 1, 1);
    ck_assert_ptr_null(nn_theta_f64(theta, "b"));
    ck_assert_str_eq(nn_theta_error(theta), "nn_theta_f64: theta has 16 elements, but its model "
                                            "needs 32: parameters were added after nn_theta_new");
    nn_theta_free(theta);
    /* And a model that is freed stays for its thetas. */
    theta = nn_theta_new(m, AD_F64, NULL);
    nn_model_free(m);
    ck_assert_int_eq(nn_theta_set(theta, "b", 3, (double[]){ 1, 2, 3 }), 0);
    ck_assert_double_eq(nn_theta_f64(theta, NULL)[18], 3);
    nn_theta_free(theta);
}
END_TEST

/* The average of what was 0 and is x from then on is x (1 - (1 - share)^n) after n updates. */
START_TEST(averages)
{
    static const double x[] = { 1, -2, 3.5 };
    nn_model *m = nn_model_new(), *other = nn_model_new();
    nn_model_add(m, "a", AD_SHAPE(3), nn_init_ones, 1, 1);
    nn_model_add(other, "a", AD_SHAPE(3), nn_init_ones, 1, 1);
    for (int k = 0; k < 2; k++) {
        nn_theta *theta = nn_theta_new(m, both_types[k], NULL), *average = nn_theta_copy(theta);
        ck_assert_int_eq(nn_theta_set(theta, "a", 3, x), 0);
        for (int n = 0; n < 5; n++) ck_assert_int_eq(nn_theta_average(average, theta, 0.25), 0);
        double got[3];
        ck_assert_int_eq(nn_theta_get(average, "a", 3, got), 0);
        const double reached = 1 - pow(0.75, 5), tolerance = both_types[k] == AD_F32 ? 1e-6 : 1e-15;
        for (int i = 0; i < 3; i++) ck_assert_double_eq_tol(got[i], reached * x[i], tolerance);

        nn_theta *wrong[] = { nn_theta_new(m, both_types[1 - k], NULL),
                              nn_theta_new(other, both_types[k], NULL) };
        for (int i = 0; i < 2; i++) {
            nn_theta *copy = nn_theta_copy(average);
            ck_assert_int_eq(nn_theta_average(copy, wrong[i], 0.25), -1);
            ck_assert_ptr_nonnull(strstr(nn_theta_error(copy), "are not of one model and dtype"));
            nn_theta_free(copy);
            nn_theta_free(wrong[i]);
        }
        ck_assert_int_eq(nn_theta_average(average, theta, 1.5), -1);
        ck_assert_str_eq(nn_theta_error(average),
                         "nn_theta_average: the share is 1.5; it must be in 0 .. 1");
        ck_assert_int_eq(nn_theta_average(average, theta, 0.5), -1); /* sticky */
        nn_theta_free(theta);
        nn_theta_free(average);
    }
    nn_model_free(m);
    nn_model_free(other);
}
END_TEST

/* A theta goes to a tape of either type. */
START_TEST(theta_on_tapes)
{
    nn_model *m = nn_model_new();
    nn_model_add(m, "a", AD_SHAPE(3), nn_init_ones, 1, 1);
    for (int k = 0; k < 4; k++) {
        nn_theta *theta = nn_theta_new(m, both_types[k / 2], NULL);
        ck_assert_int_eq(nn_theta_set(theta, "a", 3, (double[]){ 1, 2, 3.5 }), 0);
        ad_tape *tape = ad_tape_new(both_types[k % 2]);
        double got[3];
        ck_assert_int_eq(ad_get(nn_model_get(m, nn_theta_param(tape, theta), "a"), got), 0);
        ck_assert(got[0] == 1 && got[1] == 2 && got[2] == 3.5);
        ad_tape_free(tape);
        nn_theta_free(theta);
    }
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *nothing = suite_case("misuse", "nothing"), *theta = suite_case("misuse", "theta");
    tcase_add_test(nothing, no_model);
    tcase_add_test(nothing, no_theta);
    tcase_add_test(nothing, no_generator);
    tcase_add_test(nothing, no_layer);
    tcase_add_test(nothing, no_table);
    tcase_add_test(theta, types_of_theta);
    tcase_add_test(theta, sizes_of_theta);
    tcase_add_test(theta, averages);
    tcase_add_test(theta, theta_on_tapes);
    return suite_run();
}
