/* Losses beside PyTorch's: values, gradients and second derivatives, of numbers made by
 * tests/reference/losses.py; means without an observation; what is refused. */
#include "nn/nn.h"
#include "tests/reference/losses.h"
#include "tests/support.h"
#include <math.h>

enum { HUBER, BINARY, POISSON, SMOOTH, MSE, NLL, CLASSES, KL, STANDARD, LOSSES };
static const double *const expected[LOSSES] = {
    loss_huber,        loss_binary,           loss_poisson, loss_smooth,     loss_weighted_mse,
    loss_weighted_nll, loss_weighted_classes, loss_kl,      loss_standard_kl
};

static ad_var table(ad_tape *tape, const double *x) { return ad_constant(tape, AD_SHAPE(2, 3), x); }

static ad_var loss_of(int which, ad_var x)
{
    double t[6], w[6], v[6], l[6], p[6], n[6];
    for (int i = 0; i < 6; i++) {
        t[i] = cos(3 * i);
        w[i] = i % 2 ? 0 : 1 + i / 4.0;
        v[i] = cos(i);
        l[i] = 0.3 * sin(i);
        p[i] = (t[i] + 1) / 2;
        n[i] = i;
    }
    ad_tape *tape = x.tape;
    ad_var target = table(tape, t), log_sd = table(tape, l), weights = table(tape, w);
    ad_var classes = ad_constant(tape, AD_SHAPE(2, 1), ((double[]){ 2, 0 }));
    ad_var row_weights = ad_constant(tape, AD_SHAPE(2, 1), ((double[]){ 0.5, 2 }));
    switch (which) {
    case HUBER: return nn_huber(x, target, 0.7);
    case BINARY: return nn_binary_cross_entropy(x, table(tape, p));
    case POISSON: return nn_poisson_nll(x, table(tape, n));
    case SMOOTH: return nn_cross_entropy(x, nn_smooth_classes(classes, 3, 0.1));
    case MSE: return nn_weighted_mse(x, target, weights);
    case NLL: return nn_weighted_gaussian_nll(target, x, log_sd, weights);
    case CLASSES: return nn_weighted_cross_entropy(x, classes, row_weights);
    case KL: return nn_gaussian_kl(target, x, table(tape, v), log_sd);
    default: return nn_standard_kl(target, x);
    }
}

START_TEST(as_pytorch)
{
    double x[6], v[6], got[13];
    for (int i = 0; i < 6; i++) {
        x[i] = 2 * sin(2 * i + 1);
        v[i] = cos(i);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var at = ad_input(tape, AD_SHAPE(2, 3), x), loss = loss_of(_i, at), gradient;
    ad_grad(loss, 1, &at, &gradient);
    got[0] = ad_item(loss);
    ck_assert_msg(ad_get(gradient, got + 1) == 0, "%s", ad_tape_error(tape));
    ck_assert_int_eq(ad_get(ad_hvp(loss, at, table(tape, v)), got + 7), 0);
    for (int i = 0; i < 13; i++) ck_assert_double_eq_tol(got[i], expected[_i][i], 1e-13);
    ad_tape_free(tape);
}
END_TEST

/* What is not observed may be anything, predictions and targets; without any observation the loss
 * and its gradient are 0. */
START_TEST(nothing_observed)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    for (int k = 0; k < 4; k++) {
        double g[2], mask[] = { 0, k % 2 };
        ad_var x = ad_input(tape, AD_SHAPE(2), ((double[]){ k < 2 ? 7 : NAN, 3 })), gradient;
        ad_var target = ad_input(tape, AD_SHAPE(2), ((double[]){ k < 2 ? NAN : 2, 1 }));
        ad_var loss = nn_weighted_mse(x, target, ad_constant(tape, AD_SHAPE(2), mask));
        ad_grad(loss, 1, &x, &gradient);
        ck_assert_double_eq(ad_item(loss), k % 2 ? 4 : 0);
        ck_assert_int_eq(ad_get(gradient, g), 0);
        ck_assert_double_eq(g[0], 0);
        ck_assert_double_eq(g[1], k % 2 ? 4 : 0);
    }
    ad_tape_free(tape);
}
END_TEST

/* Distributions whose numbers are NaN where there is no weight: loss and gradients are those of the
 * rest alone. A scale for all is NaN nowhere else. */
START_TEST(unobserved_distributions)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    static double x[] = { 1, 2 }, mean[] = { NAN, 1 }, log_sd[] = { INFINITY, 0.5 },
                  mask[] = { 0, 2 };
    ad_var v[2] = { ad_input(tape, AD_SHAPE(2, 1), mean), ad_input(tape, AD_SHAPE(2, 1), log_sd) };
    ad_var data = ad_constant(tape, AD_SHAPE(2, 1), x);
    ad_var weights = ad_constant(tape, AD_SHAPE(2, 1), mask), g[2];
    ad_var loss = nn_weighted_gaussian_nll(data, v[0], v[1], weights);
    double got[2][2], z2 = exp(-1);
    ad_grad(loss, 2, v, g);
    ck_assert_double_eq_tol(ad_item(loss), z2 / 2 + 0.5 + log(2 * acos(-1)) / 2, 1e-15);
    for (int i = 0; i < 2; i++) ck_assert_int_eq(ad_get(g[i], got[i]), 0);
    ck_assert_double_eq(got[0][0], 0);
    ck_assert_double_eq(got[1][0], 0);
    ck_assert_double_eq_tol(got[0][1], -z2, 1e-15);
    ck_assert_double_eq_tol(got[1][1], 1 - z2, 1e-15);
    /* One row of logits counts; by the two it has, the gradient is p - (1, 0). */
    static double logits[] = { NAN, INFINITY, 1, 3 }, classes[] = { 0, 0 };
    ad_var l = ad_input(tape, AD_SHAPE(2, 2), logits);
    ad_var entropy =
        nn_weighted_cross_entropy(l, ad_constant(tape, AD_SHAPE(2, 1), classes), weights);
    double each[4], p = 1 / (1 + exp(2));
    ad_grad(entropy, 1, &l, g);
    ck_assert_double_eq_tol(ad_item(entropy), -log(p), 1e-14);
    ck_assert_int_eq(ad_get(g[0], each), 0);
    for (int i = 0; i < 4; i++)
        ck_assert_double_eq_tol(each[i], i < 2 ? 0 : i == 2 ? p - 1 : 1 - p, 1e-15);
    ad_tape_free(tape);
}
END_TEST

START_TEST(refused)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var a = ad_fill(tape, AD_SHAPE(2, 3), 0), b = ad_fill(tape, AD_SHAPE(2, 1), 0);
    ad_var wide = ad_fill(tape, AD_SHAPE(4, 2, 3), 1);
    for (int k = 0; k < 7; k++) {
        static const char *const messages[] = {
            "nn_huber: the prediction is [2,3], the target is [2,1]; they must be the same",
            "nn_huber: delta must be positive, but is 0",
            "nn_binary_cross_entropy: the prediction is [2,3], the target is [2,1]; they must be "
            "the same",
            "nn_poisson_nll: the prediction is [2,3], the target is [2,1]; they must be the same",
            "nn_weighted_mean: x is [2,3], the weights is [4,2,3]; they must broadcast to x",
            "nn_weighted_mse: the prediction is [2,3], the target is [2,1]; they must be the same",
            "nn_smooth_classes: classes must be [rows,1], but are [2,3]; there must be at least 2 "
            "classes (3), and the smoothing must be in [0,1) (0.1)",
        };
        const ad_var results[] = { k == 0   ? nn_huber(a, b, 1)
                                   : k == 1 ? nn_huber(a, a, 0)
                                   : k == 2 ? nn_binary_cross_entropy(a, b)
                                   : k == 3 ? nn_poisson_nll(a, b)
                                   : k == 4 ? nn_weighted_mean(a, wide)
                                   : k == 5 ? nn_weighted_mse(a, b, a)
                                            : nn_smooth_classes(a, 3, 0.1) };
        ck_assert(!ad_valid(results[0]));
        ck_assert_str_eq(ad_tape_error(tape), messages[k]);
        ad_tape_clear_error(tape);
    }
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("losses", "losses");
    tcase_add_loop_test(tests, as_pytorch, 0, LOSSES);
    tcase_add_test(tests, nothing_observed);
    tcase_add_test(tests, unobserved_distributions);
    tcase_add_test(tests, refused);
    return suite_run();
}
