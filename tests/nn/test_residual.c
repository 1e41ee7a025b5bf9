/* Residual blocks against PyTorch (tests/reference/residual.py); misuse. */
#include "tests/nn/layer_cases.h"
#include "tests/reference/residual.h"

static nn_residual block;
static nn_conv_residual conv;

static void make_block(nn_model *m) { block = nn_residual_new(m, "r", 4, 6, ad_silu, NULL); }
static ad_var apply_block(ad_var theta, const ad_var *x)
{
    return nn_residual_apply(&block, theta, x[0]);
}
static void make_conv(nn_model *m)
{
    conv = nn_conv_residual_new(
        m, "r",
        &(nn_conv_residual_options){ .in = 2, .out = 2, .groups = 1, .activation = ad_silu });
}
static void make_strided(nn_model *m)
{
    conv = nn_conv_residual_new(
        m, "r",
        &(nn_conv_residual_options){
            .in = 2, .out = 4, .stride = 2, .groups = 2, .axes = 1, .activation = ad_softplus });
}
static ad_var apply_conv(ad_var theta, const ad_var *x)
{
    return nn_conv_residual_apply(&conv, theta, x[0]);
}

#define CONVOLUTIONS                                                                               \
    "r.norm1.weight", "r.norm1.bias", "r.conv1.weight", "r.norm2.weight", "r.norm2.bias",          \
        "r.conv2.weight"
static const layer_case cases[] = {
    { .name = "dense",
      .want = residual,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 2, 4 } } },
      .make = make_block,
      .apply = apply_block,
      .parameter = { "r.norm.weight", "r.norm.bias", "r.0.weight", "r.0.bias", "r.1.weight",
                     "r.1.bias" } },
    { .name = "convolutions",
      .want = conv_residual,
      .ninput = 1,
      .input = { { 4, { AD_ROWS, 3, 4, 2 } } },
      .make = make_conv,
      .apply = apply_conv,
      .parameter = { CONVOLUTIONS } },
    { .name = "convolutions with a shortcut",
      .want = conv_residual_strided,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 5, 2 } } },
      .make = make_strided,
      .apply = apply_conv,
      .parameter = { CONVOLUTIONS, "r.shortcut.weight" } },
};
CASE_TESTS(cases)

/* The block of 64 channels that Chen et al. compare with: 2 (9 64^2) + 4 64 parameters. */
START_TEST(parameters_of_a_block)
{
    nn_model *m = nn_model_new();
    nn_conv_residual b =
        nn_conv_residual_new(m, "r", &(nn_conv_residual_options){ .in = 64, .out = 64 });
    ck_assert_int_eq(nn_model_parameters(m), 2 * 9 * 64 * 64 + 4 * 64);
    ck_assert(b.norm1.groups == 32 && !b.reshapes);
    nn_model_free(m);
}
END_TEST

START_TEST(misuse_is_refused)
{
    nn_model *m = nn_model_new();
    nn_conv_residual_new(m, "r", NULL);
    case_unmade(m, "'r': the options of a residual block are NULL");
    nn_conv_residual_new(m = nn_model_new(), "r",
                         &(nn_conv_residual_options){ .in = 4, .out = 6, .groups = 4 });
    case_unmade(m, "'r.norm2': 6 channels cannot be divided into 4 groups");
    nn_conv_residual_new(m = nn_model_new(), "r", &(nn_conv_residual_options){ .in = 4 });
    case_unmade(m, "r.conv1.weight");
    nn_residual_new(m = nn_model_new(), "r", 4, 0, ad_tanh, NULL);
    case_unmade(m, "r.0.weight");
    m = nn_model_new();
    make_conv(m);
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 1);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 3, 3, 4), 0, (float *)NULL);
    const nn_conv_residual unmade = { .reshapes = false };
    case_refused(nn_conv_residual_apply(&conv, theta, x), "but the layer takes [...,2]");
    case_refused(nn_conv_residual_apply(&unmade, theta, x), "could not be made");
    case_refused(nn_conv_residual_apply(NULL, theta, x), "could not be made");
    case_refused(nn_residual_apply(NULL, theta, x), "the block is NULL");
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("residual", "residual");
    add_case_tests(tests);
    tcase_add_test(tests, parameters_of_a_block);
    tcase_add_test(tests, misuse_is_refused);
    return suite_run();
}
