/* Recurrent layers against PyTorch (tests/reference/recurrent.py): whole sequences, reversed, with
 * lengths, with masks; GRU-D against its paper's equations; misuse. */
#include "tests/nn/layer_cases.h"
#include "tests/reference/recurrent.h"

enum { T = 4, IN = 2, WIDTH = 3 };

/* ---- layers ---------------------------------------------------------------------------------- */

static nn_recurrent layer;
static nn_gru_d missing;
static void make_gru(nn_model *m) { layer = nn_gru_new(m, "r", IN, WIDTH); }
static void make_lstm(nn_model *m) { layer = nn_lstm_new(m, "r", IN, WIDTH); }
static void make_gru_d(nn_model *m) { missing = nn_gru_d_new(m, "r", IN, WIDTH); }

/* The states after every step, then those after the last one. */
static ad_var joined(int n, const ad_var *last, ad_var all)
{
    ad_var parts[3] = { all };
    for (int i = 0; i < n; i++) parts[1 + i] = ad_reshape(last[i], AD_SHAPE(AD_ROWS, 1, WIDTH));
    return ad_concatenate(1 + n, parts, 1);
}

static ad_var apply(ad_var theta, ad_var x, const ad_var *first, const nn_sequence *o)
{
    ad_var last[2], all;
    nn_recurrent_apply(&layer, theta, x, first, o, last, &all);
    return ad_valid(all) ? joined(nn_recurrent_states(&layer), last, all) : all;
}

static ad_var plain(ad_var theta, const ad_var *x) { return apply(theta, x[0], NULL, NULL); }
static ad_var reverse(ad_var theta, const ad_var *x)
{
    return apply(theta, x[0], NULL, &(nn_sequence){ .reverse = true });
}
static ad_var lengths(ad_var theta, const ad_var *x)
{
    return apply(theta, x[0], NULL, &(nn_sequence){ .lengths = x[1] });
}
static ad_var both(ad_var theta, const ad_var *x)
{
    return apply(theta, x[0], NULL, &(nn_sequence){ .reverse = true, .lengths = x[1] });
}
static ad_var masked(ad_var theta, const ad_var *x)
{
    return apply(theta, x[0], NULL, &(nn_sequence){ .mask = x[1] });
}
static ad_var first(ad_var theta, const ad_var *x) { return apply(theta, x[0], &x[1], NULL); }

static ad_var apply_missing(ad_var theta, const ad_var *x, const nn_sequence *o)
{
    ad_var last, all;
    nn_gru_d_apply(&missing, theta, x[0], x[1], x[2], NULL, o, &last, &all);
    return ad_valid(all) ? joined(1, &last, all) : all;
}
static ad_var plain_missing(ad_var theta, const ad_var *x) { return apply_missing(theta, x, NULL); }
static ad_var both_missing(ad_var theta, const ad_var *x)
{
    return apply_missing(theta, x, &(nn_sequence){ .reverse = true, .lengths = x[3] });
}

/* ---- cases ----------------------------------------------------------------------------------- */

static double length(int k, int64_t i)
{
    static const double of_row[3] = { 1, 4, 2 };
    (void)k;
    return of_row[i % 3];
}
static double mask(int k, int64_t i)
{
    static const double of_step[12] = { 1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0 };
    (void)k;
    return of_step[i % 12];
}
/* observed, times, lengths */
static double about(int k, int64_t i)
{
    if (k == 2) return length(k, i);
    return k == 0 ? i * i % 3 != 1 : 0.3 * (double)i + 0.05 * (double)(i % 3);
}

#define SEQUENCE                                                                                   \
    {                                                                                              \
        3, { AD_ROWS, T, IN }                                                                      \
    }
#define ONE                                                                                        \
    {                                                                                              \
        2, { AD_ROWS, 1 }                                                                          \
    }
#define STATE                                                                                      \
    {                                                                                              \
        2, { AD_ROWS, WIDTH }                                                                      \
    }
#define STEPS                                                                                      \
    {                                                                                              \
        3, { AD_ROWS, T, 1 }                                                                       \
    }
#define CASE(kind, how, n, ng, g, ...)                                                             \
    {                                                                                              \
        .name = #kind " " #how, .want = kind##_##how, .ninput = n, .ngiven = ng, .given = g,       \
        .input = { SEQUENCE, __VA_ARGS__ }, .make = make_##kind, .apply = how, .parameter = {      \
            "r.input.weight",                                                                      \
            "r.input.bias",                                                                        \
            "r.hidden.weight",                                                                     \
            "r.hidden.bias"                                                                        \
        }                                                                                          \
    }
#define DECAYS                                                                                     \
    {                                                                                              \
        "r.input.weight", "r.input.bias", "r.hidden.weight", "r.decay.weight", "r.decay.bias",     \
            "r.value_decay.weight", "r.value_decay.bias"                                           \
    }
static const layer_case cases[] = {
    CASE(gru, plain, 1, 0, NULL, ),
    CASE(gru, reverse, 1, 0, NULL, ),
    CASE(gru, lengths, 1, 1, length, ONE),
    CASE(gru, both, 1, 1, length, ONE),
    CASE(gru, masked, 1, 1, mask, STEPS),
    CASE(gru, first, 2, 0, NULL, STATE),
    CASE(lstm, plain, 1, 0, NULL, ),
    CASE(lstm, reverse, 1, 0, NULL, ),
    CASE(lstm, lengths, 1, 1, length, ONE),
    CASE(lstm, both, 1, 1, length, ONE),
    CASE(lstm, masked, 1, 1, mask, STEPS),
    CASE(lstm, first, 3, 0, NULL, STATE, STATE),
    { .name = "GRU-D",
      .want = gru_d_plain,
      .ninput = 1,
      .ngiven = 2,
      .given = about,
      .input = { SEQUENCE, SEQUENCE, STEPS },
      .make = make_gru_d,
      .apply = plain_missing,
      .parameter = DECAYS,
      .fixed = { "r.mean" } },
    { .name = "GRU-D, reversed, with lengths",
      .want = gru_d_both,
      .ninput = 1,
      .ngiven = 3,
      .given = about,
      .input = { SEQUENCE, SEQUENCE, STEPS, ONE },
      .make = make_gru_d,
      .apply = both_missing,
      .parameter = DECAYS,
      .fixed = { "r.mean" } },
};
CASE_TESTS(cases)

/* ---- what was not observed ------------------------------------------------------------------- */

enum { ROWS = 3 };

/* Finite, and the same numbers as `want`, with all derivatives. */
static void same(ad_var y, int n, const ad_var *by, double *want, bool compare)
{
    double got[4][256];
    ad_var g[3];
    ad_grad(ad_sum_all(ad_square(y)), n, by, g);
    ck_assert_msg(!ad_get(y, got[0]), "%s", ad_tape_error(y.tape));
    for (int k = 0; k < n; k++) ck_assert_int_eq(ad_get(g[k], got[1 + k]), 0);
    int64_t place = 0;
    for (int k = 0; k <= n; k++) {
        const int64_t size = ad_size(k ? g[k - 1] : y);
        ck_assert_int_le(size, 256);
        for (int64_t i = 0; i < size; i++, place++) {
            ck_assert(isfinite(got[k][i]));
            if (compare) ck_assert_double_eq(got[k][i], want[place]);
            want[place] = got[k][i];
        }
    }
}

/* NaN where nothing is observed changes no bit of values and gradients. */
START_TEST(missing_values_may_be_nan)
{
    double x[ROWS * T * IN], want[512], theta[256];
    nn_model *m = nn_model_new();
    (_i == 0 ? make_gru : _i == 1 ? make_lstm : make_gru_d)(m);
    ck_assert_int_le(nn_model_size(m), 256);
    case_fill(theta, nn_model_size(m), 0.9, 0.1);
    for (int k = 0; k < 2; k++) {
        ad_tape *t = ad_tape_new(AD_F64);
        double given[2][ROWS * T * IN];
        case_fill(x, ROWS * T * IN, 1.3, 0.4);
        for (int i = 0; i < ROWS * T * IN; i++) {
            given[0][i] = _i < 2 ? mask(0, i) : about(0, i);
            given[1][i] = about(1, i);
            if (k && !(_i < 2 ? mask(0, i / IN) : given[0][i])) x[i] = NAN;
        }
        ad_var in[3] = {
            ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), ROWS, x),
            ad_input_rows(t, AD_SHAPE(AD_ROWS, T, _i < 2 ? 1 : IN), ROWS, given[0]),
            ad_input_rows(t, AD_SHAPE(AD_ROWS, T, 1), ROWS, given[1]),
        };
        ad_var by[2] = { in[0], ad_param(t, AD_SHAPE(nn_model_size(m)), theta) };
        same(_i < 2 ? masked(by[1], in) : plain_missing(by[1], in), 2, by, want, k);
        ad_tape_free(t);
    }
    nn_model_free(m);
}
END_TEST

/* A GRU-D whose steps are masked is one that does not have them. */
START_TEST(masked_steps_of_gru_d)
{
    double x[T * IN], observed[T * IN], times[T], y[2 * WIDTH], z[WIDTH];
    nn_model *m = nn_model_new();
    make_gru_d(m);
    nn_theta *theta = nn_theta_new(m, AD_F64, &(ad_rng){ 1, 0 });
    case_fill(x, T * IN, 1.3, 0.4);
    for (int i = 0; i < T * IN; i++) observed[i] = 1;
    for (int i = 0; i < T; i++) times[i] = i * i;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var p = nn_theta_param(t, theta), last[2], all;
    ad_var in[3] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), 1, x),
                     ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), 1, observed),
                     ad_input_rows(t, AD_SHAPE(AD_ROWS, T, 1), 1, times) };
    ad_var counts = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, 1), 1, ((double[]){ 1, 0, 0, 1 }));
    nn_gru_d_apply(&missing, p, in[0], in[1], in[2], NULL, &(nn_sequence){ .mask = counts },
                   &last[0], &all);
    for (int k = 0; k < 3; k++) {
        ad_var ends[2] = { ad_slice(in[k], 1, 0, 1), ad_slice(in[k], 1, T - 1, T) };
        in[k] = ad_concatenate(2, ends, 1);
    }
    nn_gru_d_apply(&missing, p, in[0], in[1], in[2], NULL, NULL, &last[1], &all);
    ck_assert_int_eq(ad_get(last[0], y), 0);
    ck_assert_int_eq(ad_get(last[1], z), 0);
    for (int i = 0; i < WIDTH; i++) ck_assert_double_eq_tol(y[i], z[i], 1e-15);
    ad_tape_free(t);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

static ad_var applied(const nn_recurrent *r, ad_var theta, ad_var x, const nn_sequence *o)
{
    ad_var last[2], all;
    ck_assert_int_eq(nn_recurrent_apply(r, theta, x, NULL, o, last, &all), -1);
    if (r) ck_assert(!ad_valid(last[0]));
    return all;
}

static ad_var filled(const nn_gru_d *r, ad_var theta, ad_var x, ad_var observed, ad_var times)
{
    ad_var last, all;
    ck_assert_int_eq(nn_gru_d_apply(r, theta, x, observed, times, NULL, NULL, &last, &all), -1);
    ck_assert(!ad_valid(last));
    return all;
}

START_TEST(misuse_is_refused)
{
    nn_model *m = nn_model_new();
    nn_gru_new(m, "r", 0, 3);
    case_unmade(m, "r.input.weight");
    nn_lstm_new(m = nn_model_new(), NULL, 2, 3);
    case_unmade(m, "it needs a name");
    nn_gru_d_new(m = nn_model_new(), "r", 2, 0);
    case_unmade(m, "r.input.weight");
    m = nn_model_new();
    make_gru(m);
    missing = nn_gru_d_new(m, "d", IN, WIDTH);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 0.1), none = ad_none(t);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), 0, (double *)NULL);
    ad_var flat = ad_input_rows(t, AD_SHAPE(AD_ROWS, IN), 0, (double *)NULL);
    ad_var times = ad_slice(x, 2, 0, 1),
           wide = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, 5), 0, (double *)NULL);
    const nn_recurrent unmade = { .input = { .weight = -1 } };
    const nn_sequence bad = { .mask = x }, gone = { .mask = none }, all = { .lengths = flat };
    case_refused(applied(&layer, theta, flat, NULL), "x is [rows,2], but must be [rows,T,in]");
    case_refused(applied(&layer, theta, wide, NULL), "but the layer takes [...,2]");
    case_refused(applied(&layer, theta, x, &bad), "the mask is [rows,4,2], but must be [rows,4,1]");
    case_refused(applied(&layer, theta, x, &gone), "the mask is not a valid variable");
    case_refused(applied(&layer, theta, x, &all), "lengths");
    case_refused(applied(&layer, theta, none, NULL), "x is not a valid variable");
    case_refused(applied(&unmade, theta, x, NULL), "could not be made");
    case_refused(applied(NULL, theta, x, NULL), "could not be made");
    case_refused(filled(&missing, theta, wide, x, times), "but the layer takes [...,2]");
    case_refused(filled(&missing, theta, x, times, times), "observed is [rows,4,1], but must be");
    case_refused(filled(&missing, theta, x, x, x), "times is [rows,4,2], but must be [rows,4,1]");
    case_refused(filled(&missing, theta, x, none, times), "observed is not a valid variable");
    case_refused(filled(NULL, theta, x, x, times), "could not be made");
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

/* A row may have no step at all; a sequence without steps cannot be recorded. */
START_TEST(layers_that_cannot_be)
{
    const int64_t widths[] = { INT64_MAX, INT64_MIN, INT64_MAX / 2, 0 };
    for (int i = 0; i < 12; i++) {
        nn_model *m = nn_model_new();
        if (i / 4 == 0) nn_gru_new(m, "r", 2, widths[i % 4]);
        else if (i / 4 == 1) nn_lstm_new(m, "r", 2, widths[i % 4]);
        else nn_gru_d_new(m, "r", i % 2 ? 2 : widths[i % 4], i % 2 ? widths[i % 4] : 2);
        case_unmade(m, "'r.input.weight'");
    }
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, (double *)NULL), next[2];
    ck_assert_int_eq(nn_recurrent_states(NULL), 1);
    nn_recurrent_cell(NULL, x, x, &x, next);
    case_refused(next[0], "nn_linear_apply");
    ad_tape_free(t);
}
END_TEST

START_TEST(sequences_of_length_zero)
{
    double x[2 * T * IN], y[2 * WIDTH];
    nn_model *m = nn_model_new();
    make_gru(m);
    case_fill(x, 2 * T * IN, 1.3, 0.4);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = ad_fill(t, AD_SHAPE(nn_model_size(m)), 0.1), last, every;
    ad_var in = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), 2, x);
    ad_var n = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 2, ((double[]){ 0, 2 }));
    nn_recurrent_apply(&layer, theta, in, NULL, &(nn_sequence){ .lengths = n }, &last, &every);
    ck_assert_msg(!ad_get(last, y), "%s", ad_tape_error(t));
    for (int i = 0; i < WIDTH; i++) ck_assert(y[i] == 0 && y[WIDTH + i] != 0);
    ad_set(n, 2, ((double[]){ 0, 5 }));
    case_fails(last, "row 1");
    ad_var empty = ad_input_rows(t, AD_SHAPE(AD_ROWS, 0, IN), 2, x);
    ck_assert(!ad_valid(empty));
    ck_assert_msg(strstr(ad_tape_error(t), "[rows,0,2]"), "%s", ad_tape_error(t));
    ad_tape_free(t);
    nn_model_free(m);
}
END_TEST

/* The last state is the same whether the others are asked for or not. */
START_TEST(last_state_alone)
{
    nn_model *m = nn_model_new();
    make_gru(m);
    ad_rng rng = ad_rng_seed(1);
    nn_theta *numbers = nn_theta_new(m, AD_F64, &rng);
    double data[2 * T * IN], alone[2 * WIDTH], both[2 * WIDTH], of_all[2 * WIDTH];
    for (int i = 0; i < 2 * T * IN; i++) data[i] = cos(i);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var theta = nn_theta_param(t, numbers), last, last_too, all;
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), 2, data);
    ck_assert(!nn_recurrent_apply(&layer, theta, x, NULL, NULL, &last, NULL));
    ck_assert(!nn_recurrent_apply(&layer, theta, x, NULL, NULL, &last_too, &all));
    ck_assert(!ad_get(last, alone) && !ad_get(last_too, both));
    ck_assert(!ad_get(ad_slice(all, 1, T - 1, T), of_all));
    for (int i = 0; i < 2 * WIDTH; i++) {
        ck_assert(alone[i] == both[i]);
        ck_assert(alone[i] == of_all[i]);
    }
    ad_tape_free(t);
    nn_theta_free(numbers);
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("recurrent", "recurrent");
    tcase_add_test(tests, last_state_alone);
    add_case_tests(tests);
    tcase_add_loop_test(tests, missing_values_may_be_nan, 0, 3);
    tcase_add_test(tests, masked_steps_of_gru_d);
    tcase_add_test(tests, misuse_is_refused);
    tcase_add_test(tests, layers_that_cannot_be);
    tcase_add_test(tests, sequences_of_length_zero);
    return suite_run();
}
