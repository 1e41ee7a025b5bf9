/* Attention and features of times against PyTorch (tests/reference/attention.py); misuse. */
#include "tests/nn/layer_cases.h"
#include "tests/reference/attention.h"

/* ---- layers ---------------------------------------------------------------------------------- */

static nn_attention layer;
static nn_fourier waves;

static void make_two(nn_model *m) { layer = nn_attention_new(m, "a", 4, 2, NULL); }
static void make_four(nn_model *m) { layer = nn_attention_new(m, "a", 4, 4, NULL); }
static void make_cross(nn_model *m)
{
    layer = nn_attention_new(
        m, "a", 4, 2,
        &(nn_attention_options){ .key_width = 3, .value_width = 2, .unbiased = true });
}
static ad_var apply_self(ad_var theta, const ad_var *x)
{
    return nn_attention_apply(&layer, theta, x[0], x[0], x[0], NULL);
}
static ad_var apply_causal(ad_var theta, const ad_var *x)
{
    return nn_attention_apply(&layer, theta, x[0], x[0], x[0],
                              &(nn_attention_mask){ .causal = true });
}
static ad_var apply_lengths(ad_var theta, const ad_var *x)
{
    return nn_attention_apply(&layer, theta, x[0], x[0], x[0],
                              &(nn_attention_mask){ .lengths = x[1] });
}
static ad_var apply_cross(ad_var theta, const ad_var *x)
{
    return nn_attention_apply(&layer, theta, x[0], x[1], x[2], NULL);
}
static ad_var apply_shared(ad_var theta, const ad_var *x)
{
    return nn_attention_apply(&layer, theta, x[0], x[1], x[1], NULL);
}
static double length(int k, int64_t i)
{
    (void)k;
    return (double)(1 + 4 * i % 6);
}

static void make_nothing(nn_model *m) { nn_model_add(m, "other", AD_SHAPE(1), nn_init_ones, 1, 1); }
static ad_var apply_sinusoidal(ad_var theta, const ad_var *x)
{
    (void)theta;
    return nn_sinusoidal(x[0], 6, 100);
}
static void make_fourier(nn_model *m) { waves = nn_fourier_new(m, "f", 2, 3, 0.7); }
static ad_var apply_fourier(ad_var theta, const ad_var *x)
{
    return nn_fourier_apply(&waves, theta, x[0]);
}

#define PARTS                                                                                      \
    {                                                                                              \
        "a.query.weight", "a.query.bias", "a.key.weight", "a.key.bias", "a.value.weight",          \
            "a.value.bias", "a.out.weight", "a.out.bias"                                           \
    }
#define SEQUENCE                                                                                   \
    {                                                                                              \
        3, { AD_ROWS, 5, 4 }                                                                       \
    }
static const layer_case cases[] = {
    { .name = "self",
      .want = self_attention,
      .ninput = 1,
      .input = { SEQUENCE },
      .make = make_two,
      .apply = apply_self,
      .parameter = PARTS },
    { .name = "causal",
      .want = causal_attention,
      .ninput = 1,
      .input = { SEQUENCE },
      .make = make_two,
      .apply = apply_causal,
      .parameter = PARTS },
    { .name = "lengths",
      .want = masked_attention,
      .ninput = 1,
      .ngiven = 1,
      .input = { SEQUENCE, { 2, { AD_ROWS, 1 } } },
      .given = length,
      .make = make_four,
      .apply = apply_lengths,
      .parameter = PARTS },
    { .name = "cross",
      .want = cross_attention,
      .ninput = 3,
      .input = { { 3, { AD_ROWS, 2, 4 } }, { 3, { AD_ROWS, 5, 3 } }, { 3, { AD_ROWS, 5, 2 } } },
      .make = make_cross,
      .apply = apply_cross,
      .parameter = { "a.query.weight", "a.key.weight", "a.value.weight", "a.out.weight" } },
    { .name = "shared queries",
      .want = shared_queries,
      .ninput = 2,
      .input = { { 2, { 2, 4 } }, SEQUENCE },
      .make = make_two,
      .apply = apply_shared,
      .parameter = PARTS },
    { .name = "sinusoidal",
      .want = sinusoidal,
      .ninput = 1,
      .input = { { 3, { AD_ROWS, 2, 1 } } },
      .make = make_nothing,
      .apply = apply_sinusoidal },
    { .name = "fourier",
      .want = fourier,
      .ninput = 1,
      .input = { { 2, { AD_ROWS, 2 } } },
      .make = make_fourier,
      .apply = apply_fourier,
      .fixed = { "f.frequencies" } },
};
CASE_TESTS(cases)

/* ---- what is not seen ------------------------------------------------------------------------ */

/* Neither the result nor its gradient depends on keys that are masked. */
START_TEST(what_is_not_seen_does_not_matter)
{
    double x[20], y[2][20], g[20];
    case_fill(x, 20, 1.3, 0.4);
    nn_model *m = nn_model_new();
    make_two(m);
    nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(t, AD_SHAPE(AD_ROWS, 5, 4), 1, x), p = nn_theta_param(t, theta), gx;
    ad_var lengths = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 3 });
    ad_var out = nn_attention_apply(&layer, p, in, in, in,
                                    &(nn_attention_mask){ .lengths = lengths, .causal = _i });
    ad_var seen = ad_slice(out, 1, 0, 2);
    ad_grad(ad_sum_all(seen), 1, &in, &gx);
    for (int k = 0; k < 2; k++) {
        for (int i = 12; i < 20 && k; i++) x[i] = 1e6;
        ad_set(in, 1, x);
        ck_assert_msg(!ad_get(seen, y[k]), "%s", ad_tape_error(t));
    }
    ck_assert(!memcmp(y[0], y[1], 8 * sizeof(double)));
    ad_get(gx, g);
    for (int i = _i ? 8 : 12; i < 20; i++) ck_assert_double_eq(g[i], 0);
    ck_assert(g[0] != 0 && (_i || g[8] != 0));
    ad_tape_free(t);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- features -------------------------------------------------------------------------------- */

START_TEST(places_of_a_sequence)
{
    double y[3 * 4];
    ad_tape *t = ad_tape_new(AD_F64);
    ck_assert_int_eq(ad_get(nn_sinusoidal(nn_positions(t, 3), 4, 0), y), 0);
    for (int i = 0; i < 12; i++) {
        const int place = i / 4;
        const double angle = place / (i % 4 < 2 ? 1 : 100.0);
        ck_assert_double_eq_tol(y[i], i % 2 ? cos(angle) : sin(angle), 1e-15);
    }
    ad_tape_free(t);
}
END_TEST

/* Frequencies are drawn, and not trained. */
START_TEST(frequencies)
{
    nn_model *m = nn_model_new();
    make_fourier(m);
    nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
    ck_assert_int_eq(nn_model_parameters(m), 0);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var p = nn_theta_param(t, theta), x = ad_input(t, AD_SHAPE(2), ((double[]){ 0.1, 0.2 })), g;
    ad_var y = nn_fourier_apply(&waves, p, x);
    ck_assert(ad_same_shape(ad_shape_of(y), AD_SHAPE(6)));
    double b[6], got[6];
    nn_theta_get(theta, "f.frequencies", 6, b);
    ad_get(y, got);
    for (int i = 0; i < 6; i++) {
        const double angle = 2 * acos(-1.0) * 0.7 * (0.1 * b[i % 3] + 0.2 * b[3 + i % 3]);
        ck_assert(b[i] != 0);
        ck_assert_double_eq_tol(got[i], i < 3 ? cos(angle) : sin(angle), 1e-14);
    }
    ad_grad(ad_sum_all(y), 1, &p, &g);
    ck_assert_double_eq(ad_item(ad_sum_all(ad_abs(g))), 0);
    ad_tape_free(t);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

START_TEST(layers_that_cannot_be)
{
    nn_model *m = nn_model_new();
    nn_attention_new(m, "a", 6, 4, NULL);
    case_unmade(m, "'a': a width of 6 cannot be divided among 4 heads");
    nn_attention_new(m = nn_model_new(), "a", 6, 0, NULL);
    case_unmade(m, "among 0 heads");
    nn_attention_new(m = nn_model_new(), "a", 4, 2, &(nn_attention_options){ .key_width = -1 });
    case_unmade(m, "a.key.weight");
    nn_fourier_new(m = nn_model_new(), "f", 2, 3, 0);
    case_unmade(m, "the sd of frequencies must be positive, but is 0");
    nn_fourier_new(m = nn_model_new(), "f", 2, 0, 1);
    case_unmade(m, "f.frequencies");
}
END_TEST

START_TEST(misuse_is_refused)
{
    nn_model *m = nn_model_new();
    make_two(m);
    make_fourier(m);
    nn_attention unmade = { .query = { .weight = -1 } };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 0.1);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 5, 4), 0, (double *)NULL);
    ad_var short_ = ad_slice(x, 1, 0, 3),
           flat = ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 0, (double *)NULL);
    ad_var shared = ad_fill(t, AD_SHAPE(5, 4), 1), none = ad_none(t);
    const nn_attention_mask bad = { .lengths = flat };
    case_refused(nn_attention_apply(&layer, theta, flat, x, x, NULL),
                 "query is [rows,4], but must");
    case_refused(nn_attention_apply(&layer, theta, x, ad_slice(x, 2, 0, 3), x, NULL),
                 "key is [rows,5,3], but must be [rows,T,4]");
    case_refused(nn_attention_apply(&layer, theta, x, short_, x, NULL), "each key has a value");
    case_refused(nn_attention_apply(&layer, theta, x, shared, x, NULL),
                 "keys are [5,4] and values");
    case_refused(nn_attention_apply(&layer, theta, x, x, x, &bad),
                 "lengths are [rows,4], but must");
    case_refused(nn_attention_apply(&layer, theta, x, none, x, NULL),
                 "key is not a valid variable");
    case_refused(nn_attention_apply(&unmade, theta, x, x, x, NULL), "could not be made");
    case_refused(nn_attention_apply(NULL, theta, x, x, x, NULL), "could not be made");
    case_refused(nn_sinusoidal(flat, 4, 0), "nn_sinusoidal: x is [rows,4]");
    case_refused(nn_sinusoidal(ad_scalar(t, 1), 4, 0), "nn_sinusoidal: x is []");
    case_refused(nn_sinusoidal(ad_slice(flat, 1, 0, 1), 3, 0), "the width must be even");
    case_refused(nn_sinusoidal(ad_slice(flat, 1, 0, 1), 4, -1), "the period positive, but are");
    case_refused(nn_positions(t, 0), "a sequence of 0 places");
    case_refused(nn_fourier_apply(&waves, theta, x), "but the layer takes [...,2]");
    case_refused(nn_fourier_apply(NULL, theta, x), "could not be made");
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

/* A row without a key to see has no mean of values. */
START_TEST(lengths_that_are_none)
{
    const double bad[] = { 0, 6, 2.5, -1, NAN };
    double x[40];
    case_fill(x, 40, 1.3, 0.4);
    nn_model *m = nn_model_new();
    make_two(m);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 0.1);
    ad_var in = ad_input_rows(t, AD_SHAPE(AD_ROWS, 5, 4), 2, x);
    ad_var n = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 2, ((double[]){ 1, 5 }));
    ad_var y = nn_attention_apply(&layer, theta, in, in, in, &(nn_attention_mask){ .lengths = n });
    ck_assert_ptr_nonnull(ad_value(y));
    for (int i = 0; i < 5; i++) {
        ad_set(n, 2, ((double[]){ 2, bad[i] }));
        case_fails(y, "nn_attention_apply: the length of row 1 (from 0) is ");
    }
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("attention", "attention");
    add_case_tests(tests);
    tcase_add_loop_test(tests, what_is_not_seen_does_not_matter, 0, 2);
    tcase_add_test(tests, places_of_a_sequence);
    tcase_add_test(tests, frequencies);
    tcase_add_test(tests, layers_that_cannot_be);
    tcase_add_test(tests, misuse_is_refused);
    tcase_add_test(tests, lengths_that_are_none);
    return suite_run();
}
