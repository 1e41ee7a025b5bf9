/* GRU and LSTM against PyTorch (tests/reference/recurrent.py). */
#include "autodiff/extension.h"
#include "nn/nn.h"
#include "tests/reference/recurrent.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { ROWS = 2, T = 3, IN = 2, WIDTH = 2, N = ROWS * T * IN };

static void same(ad_var x, const double *want, const char *what)
{
    const double *got = ad_value_f64(x);
    ck_assert_msg(got != NULL, "%s: %s", what, ad_tape_error(x.tape));
    for (int i = 0; i < N; i++)
        ck_assert_msg(fabs(got[i] - want[i]) <= 1e-10, "%s %d: %.15g, not %.15g", what, i, got[i],
                      want[i]);
}

START_TEST(test_torch)
{
    const double *const want[2][3] = { { gru_value, gru_gradient, gru_second },
                                       { lstm_value, lstm_gradient, lstm_second } };
    nn_model *model = nn_model_new();
    nn_recurrent layer =
        _i ? nn_lstm_new(model, "r", IN, WIDTH) : nn_gru_new(model, "r", IN, WIDTH);
    int64_t gates = layer.hidden.out, n = 0, size = nn_model_size(model);
    double theta[256] = { 0 }, data[N];
    ck_assert(size <= 256);
    const int64_t at[4] = { layer.input.weight, layer.input.bias, layer.hidden.weight,
                            layer.hidden.bias };
    const int64_t count[4] = { IN * gates, gates, WIDTH * gates, gates };
    for (int k = 0; k < 4; k++)
        for (int64_t i = 0; i < count[k]; i++) theta[at[k] + i] = sin((double)n++);
    for (int i = 0; i < N; i++) data[i] = cos(i);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var weights = ad_param(t, AD_SHAPE(size), theta), y, g, h;
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), ROWS, data);
    ck_assert_msg(!nn_recurrent_apply(&layer, weights, x, NULL, NULL, NULL, &y), "%s",
                  ad_tape_error(t));
    ad_grad(ad_sum_all(ad_square(y)), 1, &x, &g);
    ad_grad(ad_sum_all(ad_square(g)), 1, &x, &h);
    same(y, want[_i][0], "value");
    same(g, want[_i][1], "gradient");
    same(h, want[_i][2], "second derivative");
    ad_tape_free(t);
    nn_model_free(model);
}
END_TEST

/* The last state is that of the outputs, whichever of the two is asked for. */
START_TEST(test_last)
{
    nn_model *model = nn_model_new();
    nn_recurrent layer = nn_gru_new(model, "r", IN, WIDTH);
    ad_rng rng = ad_rng_seed(1);
    nn_theta *theta = nn_theta_new(model, AD_F64, &rng);
    double data[N], alone[ROWS * WIDTH], both[ROWS * WIDTH], of_all[ROWS * WIDTH];
    for (int i = 0; i < N; i++) data[i] = cos(i);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var weights = nn_theta_param(t, theta), last, last_too, all;
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), ROWS, data);
    ck_assert(!nn_recurrent_apply(&layer, weights, x, NULL, NULL, &last, NULL));
    ck_assert(!nn_recurrent_apply(&layer, weights, x, NULL, NULL, &last_too, &all));
    ck_assert(!ad_get(last, alone) && !ad_get(last_too, both));
    ck_assert(!ad_get(ad_slice(all, 1, T - 1, T), of_all));
    for (int i = 0; i < ROWS * WIDTH; i++) {
        ck_assert(alone[i] == both[i]);
        ck_assert(alone[i] == of_all[i]);
    }
    ad_tape_free(t);
    nn_theta_free(theta);
    nn_model_free(model);
}
END_TEST

/* A layer that is not there, and widths that have no multiples, are errors. */
START_TEST(test_refused)
{
    const int64_t widths[] = { INT64_MAX, INT64_MIN, INT64_MAX / 2, 0 };
    for (int i = 0; i < 4; i++) {
        nn_model *model = nn_model_new();
        if (i % 2) nn_gru_new(model, "r", IN, widths[i]);
        else nn_lstm_new(model, "r", IN, widths[i]);
        ck_assert_ptr_nonnull(strstr(nn_model_error(model), "'r.input.weight'"));
        nn_model_free(model);
    }
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, T, IN), ROWS, NULL), last, next[2];
    ck_assert_int_eq(nn_recurrent_states(NULL), 1);
    ck_assert_int_eq(nn_recurrent_apply(NULL, x, x, NULL, NULL, &last, NULL), -1);
    ck_assert_ptr_nonnull(strstr(ad_tape_error(t), "nn_linear_apply"));
    nn_recurrent_cell(NULL, x, x, &x, next);
    ck_assert(!ad_valid(next[0]));
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("recurrent", "recurrent");
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, test_last);
    tcase_add_loop_test(tests, test_torch, 0, 2);
    return suite_run();
}
