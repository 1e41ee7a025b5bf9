/* Random numbers, the layout of theta, layers, losses. */
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

/* ---- random numbers -------------------------------------------------------------------------- */

/* Random123's known answers for philox4x32-10 start with counter 0, key 0: 6627e8d5 e169c58d ...;
 * the others come from an independent implementation that gives all three of its known answers. */
START_TEST(philox)
{
    ad_rng zero = ad_rng_seed(0), rng = ad_rng_seed(0x0123456789abcdef);
    ck_assert_uint_eq(ad_rng_next(&zero), 0xe169c58d6627e8d5);
    ck_assert_uint_eq(ad_rng_next(&rng), 0xc58cb04bb850222e);
    ck_assert_uint_eq(ad_rng_next(&rng), 0x523e0d85adca1466);
    rng.counter = 3;
    ck_assert_uint_eq(ad_rng_split(&rng).key, 0x88d7e3d6d20f49ea);
    ck_assert_uint_eq(rng.counter, 4);
    rng.counter = (1ull << 40) + 5;
    ck_assert_uint_eq(ad_rng_next(&rng), 0x97844de3de902808);
}
END_TEST

START_TEST(random_moments)
{
    enum { N = 200000 };
    ad_rng rng = ad_rng_seed(1);
    double u1 = 0, u2 = 0, n1 = 0, n2 = 0, n3 = 0, n4 = 0, inside = 0;
    for (int i = 0; i < N; i++) {
        double u = ad_rng_uniform(&rng), x = ad_rng_normal(&rng);
        ck_assert(u > 0 && u < 1);
        u1 += u / N;
        u2 += u * u / N;
        n1 += x / N;
        n2 += x * x / N;
        n3 += x * x * x / N;
        n4 += x * x * x * x / N;
        inside += (fabs(x) < 1) / (double)N;
    }
    /* Five standard errors each. */
    ck_assert_double_eq_tol(u1, 0.5, 5 * sqrt(1.0 / 12 / N));
    ck_assert_double_eq_tol(u2, 1.0 / 3, 5 * sqrt(4.0 / 45 / N));
    ck_assert_double_eq_tol(n1, 0, 5 * sqrt(1.0 / N));
    ck_assert_double_eq_tol(n2, 1, 5 * sqrt(2.0 / N));
    ck_assert_double_eq_tol(n3, 0, 5 * sqrt(15.0 / N));
    ck_assert_double_eq_tol(n4, 3, 5 * sqrt(96.0 / N));
    ck_assert_double_eq_tol(inside, 0.6826894921370859, 5 * sqrt(0.217 / N));
}
END_TEST

START_TEST(random_below)
{
    ad_rng rng = ad_rng_seed(2);
    int count[7] = { 0 };
    for (int i = 0; i < 70000; i++) count[ad_rng_below(&rng, 7)]++;
    double chi2 = 0;
    for (int k = 0; k < 7; k++) chi2 += (count[k] - 1e4) * (count[k] - 1e4) / 1e4;
    ck_assert_double_lt(chi2, 27.9); /* 6 degrees of freedom, p = 1e-4 */
    ck_assert_uint_eq(ad_rng_below(&rng, 1), 0);
    ck_assert_uint_eq(ad_rng_below(&rng, 0), 0);
    for (int i = 0; i < 100; i++)
        ck_assert_uint_lt(ad_rng_below(&rng, (1ull << 63) + 1), (1ull << 63) + 1);
}
END_TEST

/* Parent and children are uncorrelated and do not repeat each other. */
START_TEST(random_split)
{
    enum { N = 20000 };
    ad_rng parent = ad_rng_seed(3), a = ad_rng_split(&parent), b = ad_rng_split(&parent);
    ck_assert(a.key != b.key && a.key != parent.key);
    double ab = 0, pa = 0;
    for (int i = 0; i < N; i++) {
        double x = ad_rng_normal(&parent), y = ad_rng_normal(&a), z = ad_rng_normal(&b);
        ab += y * z / N;
        pa += x * y / N;
    }
    ck_assert_double_eq_tol(ab, 0, 5 / sqrt(N));
    ck_assert_double_eq_tol(pa, 0, 5 / sqrt(N));
}
END_TEST

/* The same seed gives the same numbers on every machine: these bits are part of the interface. */
START_TEST(random_normal_bits)
{
    ad_rng rng = ad_rng_seed(42);
    static const double expected[] = { -0x1.763ffa9d1bf8dp-2, 0x1.307d499ccfe68p+0,
                                       0x1.a40598ac0a685p-1,  0x1.835c921269364p+0,
                                       -0x1.01f549629c80bp+0, 0x1.e86115fa54f4ap+0 };
    for (int i = 0; i < COUNT(expected); i++) ck_assert_double_eq(ad_rng_normal(&rng), expected[i]);
}
END_TEST

/* ---- theta ----------------------------------------------------------------------------------- */

START_TEST(layout)
{
    nn_model *m = nn_model_new();
    ck_assert_int_eq(nn_model_add(m, "a", AD_SHAPE(3, 7), nn_init_ones, 3, 7), 0);
    ck_assert_int_eq(nn_model_add(m, "b", AD_SCALAR, nn_init_ones, 1, 1), 32);
    ck_assert_int_eq(nn_model_add(m, "c", AD_SHAPE(16), nn_init_lecun_normal, 4, 1), 48);
    ck_assert_int_eq(nn_model_size(m), 64);
    ck_assert_int_eq(nn_model_parameters(m), 38);
    ad_shape shape;
    ck_assert_int_eq(nn_model_find(m, "b", &shape), 32);
    ck_assert_int_eq(shape.rank, 0);
    ck_assert_int_eq(nn_model_find(m, "d", NULL), -1);
    ad_rng rng = ad_rng_seed(5), same = rng;
    nn_theta *t64 = nn_theta_new(m, AD_F64, &rng), *t32 = nn_theta_new(m, AD_F32, &same);
    ck_assert_ptr_null(nn_theta_error(t64));
    ck_assert_int_eq(nn_theta_size(t64), 64);
    const double *f64 = nn_theta_f64(t64, NULL);
    const float *f32 = nn_theta_f32(t32, NULL);
    for (int i = 0; i < 64; i++) {
        if (i < 21 || i == 32) ck_assert_double_eq(f64[i], 1);
        else if (i < 48) ck_assert_double_eq(f64[i], 0);
        else ck_assert_double_ne(f64[i], 0);
        ck_assert_float_eq(f32[i], (float)f64[i]);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var theta = nn_theta_param(tape, t64), c = nn_model_get(m, theta, "c");
    double got[16];
    ck_assert_int_eq(ad_get(c, got), 0);
    ck_assert_mem_eq(got, f64 + 48, sizeof got);
    nn_model_get(m, theta, "d");
    ck_assert_str_eq(ad_tape_error(tape), "nn_model_get: the model has no parameter 'd'");
    ad_tape_clear_error(tape);
    nn_model_get(m, ad_param(tape, AD_SHAPE(63), NULL), "a");
    ck_assert_str_eq(ad_tape_error(tape), "nn_model_get: theta is [63]; the model needs [64]");
    nn_theta_free(t64);
    nn_theta_free(t32);
    ad_tape_free(tape);
    nn_model_free(m);
    nn_model_free(NULL);
}
END_TEST

/* Two arrays of one model have no number in common. */
START_TEST(arrays_differ)
{
    nn_model *m = nn_model_new();
    ad_rng rng = ad_rng_seed(0);
    nn_model_add(m, "a", AD_SHAPE(16), nn_init_he_uniform, 1, 1);
    nn_model_add(m, "b", AD_SHAPE(16), nn_init_he_uniform, 1, 1);
    nn_theta *t = nn_theta_new(m, AD_F64, &rng);
    const double *theta = nn_theta_f64(t, NULL);
    for (int i = 0; i < 16; i++)
        for (int k = 16; k < 32; k++) ck_assert_double_ne(theta[i], theta[k]);
    nn_theta_free(t);
    nn_model_free(m);
}
END_TEST

START_TEST(layout_errors)
{
    static const struct {
        const char *name, *message;
        int64_t size, fan;
        nn_init init;
    } cases[] = {
        { "a", "nn_model_add: parameter 'a': the model has one of this name already", 1, 1,
          nn_init_ones },
        { "", "nn_model_add: parameter '': it needs a name", 1, 1, nn_init_ones },
        { NULL, "nn_model_add: parameter '': it needs a name", 1, 1, nn_init_ones },
        { "__metadata__",
          "nn_model_add: parameter '__metadata__': the name is reserved by the safetensors format",
          1, 1, nn_init_ones },
        { "b",
          "nn_model_add: parameter 'b': every size must be at least 1, and theta fit into memory, "
          "but the shape is [0]",
          0, 1, nn_init_ones },
        { "b",
          "nn_model_add: parameter 'b': every size must be at least 1, and theta fit into memory, "
          "but the shape is [9223372036854775807]",
          INT64_MAX, 1, nn_init_ones },
        { "b",
          "nn_model_add: parameter 'b': every size must be at least 1, and theta fit into memory, "
          "but the shape is [-1]",
          -1, 1, nn_init_ones },
        { "b", "nn_model_add: parameter 'b': it needs an initialiser, e.g. nn_init_zeros", 1, 1,
          NULL },
        { "b",
          "nn_model_add: parameter 'b': fan_in and fan_out must be at least 1, but are 0 and 0", 1,
          0, nn_init_ones },
    };
    for (int i = 0; i < COUNT(cases); i++) {
        nn_model *m = nn_model_new();
        ad_rng rng = ad_rng_seed(0);
        nn_model_add(m, "a", AD_SHAPE(1), nn_init_ones, 1, 1);
        ck_assert_int_eq(nn_model_add(m, cases[i].name, AD_SHAPE(cases[i].size), cases[i].init,
                                      cases[i].fan, cases[i].fan),
                         -1);
        ck_assert_str_eq(nn_model_error(m), cases[i].message);
        ck_assert_int_eq(nn_model_add(m, "c", AD_SHAPE(1), nn_init_ones, 1, 1), -1); /* sticky */
        ck_assert_str_eq(nn_model_error(m), cases[i].message);
        nn_theta *theta = nn_theta_new(m, AD_F64, &rng);
        ck_assert(strncmp(nn_theta_error(theta), "nn_theta_new: nn_model_add: parameter", 37) == 0);
        ck_assert(!nn_theta_f64(theta, NULL) && nn_theta_size(theta) == 0);
        nn_theta_free(theta);
        nn_model_free(m);
    }
    ck_assert_ptr_nonnull(nn_model_error(NULL));
}
END_TEST

/* ---- layers ---------------------------------------------------------------------------------- */

/* A model and theta with numbers in it, a tape with x [rows,in] and t, and a network on it. */
typedef struct {
    nn_model *model;
    nn_theta *numbers;
    double *theta; /* of numbers */
    ad_tape *tape;
    ad_var theta_var, x_var, y_var;
    double x[15], *y;
} bench;

enum { ROWS = 5, IN = 3, OUT = 2, HIDDEN = 4 };

static void start(bench *b)
{
    ad_rng rng = ad_rng_seed(11);
    b->numbers = nn_theta_new(b->model, AD_F64, &rng);
    ck_assert_ptr_null(nn_theta_error(b->numbers));
    b->theta = nn_theta_f64(b->numbers, NULL);
    for (int i = 0; i < ROWS * IN; i++) b->x[i] = ad_rng_normal(&rng);
    b->tape = ad_tape_new(AD_F64);
    b->theta_var = nn_theta_param(b->tape, b->numbers);
    b->x_var = ad_input_rows(b->tape, AD_SHAPE(AD_ROWS, IN), ROWS, b->x);
}

static void stop(bench *b)
{
    ad_tape_free(b->tape);
    nn_model_free(b->model);
    nn_theta_free(b->numbers);
}

/* y = x W + b of one row, in plain C; W at weight, b at bias (or -1). */
static void naive_linear(const double *theta, int64_t weight, int64_t bias, int in, int out,
                         const double *x, double *y)
{
    for (int j = 0; j < out; j++) {
        y[j] = bias < 0 ? 0 : theta[bias + j];
        for (int i = 0; i < in; i++) y[j] += x[i] * theta[weight + i * out + j];
    }
}

static void compare(bench *b, ad_var y, const double *expected, int n)
{
    double got[64];
    ck_assert_msg(ad_get(y, got) == 0, "%s", ad_tape_error(b->tape));
    ck_assert_int_eq(ad_size(y), n);
    for (int i = 0; i < n; i++) ck_assert_double_eq_tol(got[i], expected[i], 1e-14);
}

/* The gradient of sum(y^2) by theta against central differences of the plain function. */
static void compare_gradient(bench *b, ad_var y, void (*plain)(const bench *b, double *y), int n)
{
    int64_t size = nn_model_size(b->model);
    double *gradient = calloc((size_t)size, sizeof *gradient), value[64];
    ad_var g;
    ad_grad(ad_sum_all(ad_square(y)), 1, &b->theta_var, &g);
    ck_assert_msg(ad_get(g, gradient) == 0, "%s", ad_tape_error(b->tape));
    for (int64_t k = 0; k < size; k++) {
        double kept = b->theta[k], sum[2] = { 0, 0 };
        const double h = 1e-5;
        for (int side = 0; side < 2; side++) {
            b->theta[k] = kept + (side ? h : -h);
            plain(b, value);
            for (int i = 0; i < n; i++) sum[side] += value[i] * value[i];
        }
        b->theta[k] = kept;
        ck_assert_double_eq_tol(gradient[k], (sum[1] - sum[0]) / (2 * h), 1e-8);
    }
    free(gradient);
}

static nn_linear linear;
static void plain_linear(const bench *b, double *y)
{
    for (int r = 0; r < ROWS; r++)
        naive_linear(b->theta, linear.weight, linear.bias, IN, OUT, b->x + r * IN, y + r * OUT);
}

START_TEST(linear_layer)
{
    bench b = { .model = nn_model_new() };
    double y[ROWS * OUT];
    linear = _i ? nn_linear_new(b.model, "l", IN, OUT, nn_init_he_normal)
                : nn_linear_new_unbiased(b.model, "l", IN, OUT, NULL);
    ck_assert_int_eq(nn_model_parameters(b.model), IN * OUT + (_i ? OUT : 0));
    start(&b);
    if (_i) {
        ck_assert_double_eq(b.theta[linear.bias], 0); /* with an initialiser of one's own */
        b.theta[linear.bias] = 0.5;
        ck_assert_int_eq(ad_set(b.theta_var, 0, b.theta), 0);
    }
    plain_linear(&b, y);
    ad_var out = nn_linear_apply(&linear, b.theta_var, b.x_var);
    compare(&b, out, y, ROWS * OUT);
    compare_gradient(&b, out, plain_linear, ROWS * OUT);
    /* One vector, and two leading axes. */
    ad_var row = nn_linear_apply(&linear, b.theta_var, ad_input(b.tape, AD_SHAPE(IN), b.x));
    ck_assert_int_eq(ad_shape_of(row).rank, 1);
    compare(&b, row, y, OUT);
    compare(&b, nn_linear_apply(&linear, b.theta_var, ad_input(b.tape, AD_SHAPE(2, 2, IN), b.x)), y,
            4 * OUT);
    stop(&b);
}
END_TEST

static nn_mlp mlp;
static void plain_mlp(const bench *b, double *y)
{
    for (int r = 0; r < ROWS; r++) {
        double h[HIDDEN];
        naive_linear(b->theta, mlp.layer[0].weight, mlp.layer[0].bias, IN, HIDDEN, b->x + r * IN,
                     h);
        for (int i = 0; i < HIDDEN; i++) h[i] = tanh(h[i]);
        naive_linear(b->theta, mlp.layer[1].weight, mlp.layer[1].bias, HIDDEN, OUT, h, y + r * OUT);
    }
}

START_TEST(mlp_network)
{
    bench b = { .model = nn_model_new() };
    double y[ROWS * OUT];
    mlp = nn_mlp_new(b.model, "net", 3, (int64_t[]){ IN, HIDDEN, OUT }, ad_tanh, NULL);
    ck_assert_int_ge(nn_model_find(b.model, "net.1.weight", NULL), 0);
    start(&b);
    ck_assert_double_ne(b.theta[mlp.layer[0].bias], 0); /* PyTorch's default */
    plain_mlp(&b, y);
    ad_var out = nn_mlp_apply(&mlp, b.theta_var, b.x_var);
    compare(&b, out, y, ROWS * OUT);
    compare_gradient(&b, out, plain_mlp, ROWS * OUT);
    stop(&b);
}
END_TEST

static nn_time_mlp time_mlp;
static double times[ROWS];

static void plain_time_layer(const double *theta, const nn_time_linear *l, int in, int out,
                             double t, const double *x, double *y)
{
    if (l->kind == NN_CONCAT) {
        double extended[HIDDEN + 1];
        memcpy(extended, x, (size_t)in * sizeof *x);
        extended[in] = t;
        naive_linear(theta, l->linear.weight, l->linear.bias, in + 1, out, extended, y);
        return;
    }
    naive_linear(theta, l->linear.weight, l->linear.bias, in, out, x, y);
    if (l->kind == NN_HYPER) {
        double slope[HIDDEN];
        naive_linear(theta, l->shift.weight, l->shift.bias, in, out, x, slope);
        for (int j = 0; j < out; j++) y[j] += t * slope[j];
        return;
    }
    for (int j = 0; j < out; j++) {
        double gate = t * theta[l->gate.weight + j] + theta[l->gate.bias + j];
        y[j] = y[j] / (1 + exp(-gate)) + t * theta[l->shift.weight + j];
    }
}

static void plain_time_mlp(const bench *b, double *y)
{
    for (int r = 0; r < ROWS; r++) {
        double h[HIDDEN];
        plain_time_layer(b->theta, &time_mlp.layer[0], IN, HIDDEN, times[r], b->x + r * IN, h);
        for (int i = 0; i < HIDDEN; i++) h[i] = h[i] / (1 + exp(-h[i]));
        plain_time_layer(b->theta, &time_mlp.layer[1], HIDDEN, OUT, times[r], h, y + r * OUT);
    }
}

/* All kinds; t as [1,1], as a scalar, and one for each row. */
START_TEST(time_network)
{
    bench b = { .model = nn_model_new() };
    double y[ROWS * OUT];
    static const nn_time_kind kinds[] = { NN_CONCAT, NN_CONCAT_SQUASH, NN_HYPER };
    nn_time_kind kind = kinds[_i / 3];
    time_mlp =
        nn_time_mlp_new(b.model, "net", kind, 3, (int64_t[]){ IN, HIDDEN, OUT }, ad_silu, NULL);
    start(&b);
    for (int r = 0; r < ROWS; r++) times[r] = _i % 3 == 2 ? 0.3 * r - 0.2 : 0.7;
    ad_var t = _i % 3 == 0   ? ad_input(b.tape, AD_SHAPE(1, 1), times)
               : _i % 3 == 1 ? ad_input(b.tape, AD_SCALAR, times)
                             : ad_input_rows(b.tape, AD_SHAPE(AD_ROWS, 1), ROWS, times);
    plain_time_mlp(&b, y);
    ad_var out = nn_time_mlp_apply(&time_mlp, b.theta_var, t, b.x_var);
    compare(&b, out, y, ROWS * OUT);
    compare_gradient(&b, out, plain_time_mlp, ROWS * OUT);
    stop(&b);
}
END_TEST

static void expect_error(ad_tape *tape, ad_var y, const char *message)
{
    ck_assert(!ad_valid(y));
    ck_assert_ptr_nonnull(ad_tape_error(tape));
    ck_assert_str_eq(ad_tape_error(tape), message);
    ad_tape_clear_error(tape);
}

START_TEST(layer_errors)
{
    nn_model *m = nn_model_new();
    ad_tape *tape = ad_tape_new(AD_F32);
    nn_linear l = nn_linear_new(m, "l", IN, OUT, NULL);
    nn_time_linear tl = nn_time_linear_new(m, "t", NN_CONCAT_SQUASH, IN, OUT, NULL);
    ad_var theta = ad_param(tape, AD_SHAPE(nn_model_size(m)), NULL),
           x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, IN), 0, NULL), none = { 0 };
    expect_error(tape,
                 nn_linear_apply(&l, theta, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 4), 0, NULL)),
                 "nn_linear_apply: x is [rows,4], but the layer takes [...,3]");
    expect_error(tape, nn_linear_apply(&l, ad_slice(theta, 0, 0, 5), x),
                 "nn_linear_apply: theta is [5]; the model needs [112]");
    expect_error(tape, nn_linear_apply(&l, ad_param(tape, AD_SHAPE(65), NULL), x),
                 "nn_linear_apply: theta is [65]; the model needs [112]");
    expect_error(tape, nn_linear_apply(&l, theta, none),
                 "nn_linear_apply: x is not a valid variable");
    expect_error(tape, nn_linear_apply(&l, none, x),
                 "nn_linear_apply: theta is not a valid variable");
    ck_assert(!ad_valid(nn_linear_apply(&l, none, none)));
    expect_error(tape, nn_time_linear_apply(&tl, theta, x, x),
                 "nn_time_linear_apply: t is [rows,3]; it must have sizes 1, or [rows,1]");
    expect_error(tape, nn_time_linear_apply(&tl, theta, none, x),
                 "nn_time_linear_apply: t is not a valid variable");

    nn_linear twice = nn_linear_new(m, "l", IN, OUT, NULL);
    ck_assert_str_eq(nn_model_error(m),
                     "nn_model_add: parameter 'l.weight': the model has one of this name already");
    expect_error(tape, nn_linear_apply(&twice, theta, x),
                 "nn_linear_apply: the layer could not be made; nn_model_error says why");
    nn_mlp late = nn_mlp_new(m, "net", 3, (int64_t[]){ IN, 4, OUT }, NULL, NULL);
    expect_error(tape, nn_mlp_apply(&late, theta, x),
                 "nn_linear_apply: the layer could not be made; nn_model_error says why");
    nn_model_free(m);

    m = nn_model_new();
    nn_mlp short_one = nn_mlp_new(m, "net", 1, (int64_t[]){ IN }, NULL, NULL);
    ck_assert_str_eq(nn_model_error(m),
                     "nn: 'net' needs 2 to 17 sizes, from input to output, but got 1");
    expect_error(tape, nn_mlp_apply(&short_one, theta, x),
                 "nn_mlp_apply: the network could not be made; nn_model_error says why");
    nn_model_free(m);
    m = nn_model_new();
    nn_time_mlp wide =
        nn_time_mlp_new(m, "net", NN_CONCAT_SQUASH, 2, (int64_t[]){ 0, 3 }, NULL, NULL);
    ck_assert_ptr_nonnull(
        strstr(nn_model_error(m), "parameter 'net.0.weight': every size must be at least 1"));
    expect_error(tape, nn_time_mlp_apply(&wide, theta, none, x),
                 "nn_time_linear_apply: the layer could not be made; nn_model_error says why");
    nn_model_free(m);
    ad_tape_free(tape);
}
END_TEST

/* ---- losses ---------------------------------------------------------------------------------- */

static ad_var rows(ad_tape *tape, int64_t n, int64_t columns, const double *data)
{
    return ad_input_rows(tape, AD_SHAPE(AD_ROWS, columns), n, data);
}

START_TEST(losses)
{
    const double a[] = { 1, 2, 3, 4 }, b[] = { 0, 4, 3, 1 }, log_sd[] = { 0.5, -0.25 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = rows(tape, 2, 2, a), y = rows(tape, 2, 2, b),
           s = ad_input(tape, AD_SHAPE(1, 2), log_sd), g;
    double gradient[4];
    ck_assert_double_eq_tol(ad_item(nn_mse(x, y)), (1 + 4 + 0 + 9) / 4.0, 1e-15);
    ck_assert_double_eq_tol(ad_item(nn_mae(x, y)), (1 + 2 + 0 + 3) / 4.0, 1e-15);
    ad_grad(nn_mse(x, y), 1, &x, &g);
    ck_assert_int_eq(ad_get(g, gradient), 0);
    for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(gradient[i], (a[i] - b[i]) / 2, 1e-15);
    ad_grad(nn_mae(x, y), 1, &x, &g);
    ck_assert_int_eq(ad_get(g, gradient), 0);
    ck_assert(gradient[0] == 0.25 && gradient[1] == -0.25 && gradient[2] == 0 &&
              gradient[3] == 0.25);
    double expected = 0;
    for (int i = 0; i < 4; i++) {
        double sd = exp(log_sd[i % 2]), z = (a[i] - b[i]) / sd;
        expected += (0.5 * z * z + log_sd[i % 2] + 0.5 * log(2 * acos(-1))) / 4;
    }
    ck_assert_double_eq_tol(ad_item(nn_gaussian_nll(x, y, s)), expected, 1e-14);
    expect_error(
        tape, nn_mse(x, ad_slice(y, 1, 0, 1)),
        "nn_mse: the prediction is [rows,2], the target is [rows,1]; they must be the same");
    expect_error(tape, nn_gaussian_nll(ad_slice(x, 1, 0, 1), y, s),
                 "nn_gaussian_nll: x is [rows,1], x with mean and log_sd is [rows,2]; mean and "
                 "log_sd must broadcast to x");
    ad_tape_free(tape);
}
END_TEST

/* Value and gradient are errors that name row and label, not numbers. */
static void expect_class_error(ad_var logits, ad_var classes, const char *message)
{
    ad_tape *tape = logits.tape;
    ad_var loss = nn_cross_entropy(logits, classes), g;
    ad_grad(loss, 1, &logits, &g);
    for (int i = 0; i < 2; i++) {
        ck_assert_ptr_null(ad_value(i ? g : loss));
        ck_assert_ptr_nonnull(ad_tape_error(tape));
        ck_assert_msg(strstr(ad_tape_error(tape), message), "%s", ad_tape_error(tape));
        ad_tape_clear_error(tape);
    }
}

/* Values of torch.nn.functional.cross_entropy (PyTorch 2.5.1, float64); logits of +-100 would
 * overflow a naive softmax in f32. */
START_TEST(cross_entropy)
{
    const double logits[] = { 1, 2, 0.5, 100, -50, 0, -1, -1, 3 }, classes[] = { 2, 0, 1 },
                 outside[] = { 2, 3, 1 }, half[] = { 2, 0.5, 1 };
    const double soft[] = { .2, .3, .5, 0, 1, 0, .25, .25, .5 };
    const double gradient[] = { 0.07707463254071634,   0.20951057307058746,
                                -0.28658520561130385,  0,
                                2.39169865772147e-66,  1.2400253253402787e-44,
                                0.0058894740046826835, -0.3274438593286506,
                                0.3215543853239679 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var z = rows(tape, 3, 3, logits), loss = nn_cross_entropy(z, rows(tape, 3, 1, classes)), g;
    double got[9];
    ck_assert_double_eq_tol(ad_item(loss), 2.0001150279520461, 1e-14);
    ad_grad(loss, 1, &z, &g);
    ck_assert_int_eq(ad_get(g, got), 0);
    for (int i = 0; i < 9; i++) ck_assert_double_eq_tol(got[i], gradient[i], 1e-15);
    ck_assert_double_eq_tol(ad_item(nn_cross_entropy(z, rows(tape, 3, 3, soft))),
                            51.150115027952047, 1e-13);
    expect_class_error(z, rows(tape, 3, 1, outside),
                       "nn_cross_entropy: the class of row 1 (from 0) is 3, but must be a whole "
                       "number from 0 to 2");
    expect_class_error(z, rows(tape, 3, 1, half),
                       "nn_cross_entropy: the class of row 1 (from 0) is 0.5, but must be a whole "
                       "number from 0 to 2");
    expect_class_error(z, rows(tape, 3, 1, (double[]){ 0, 1, -1 }),
                       "nn_cross_entropy: the class of row 2 (from 0) is -1, but must be a whole "
                       "number from 0 to 2");
    expect_class_error(z, rows(tape, 3, 1, (double[]){ 0, 1, -NAN }),
                       "nn_cross_entropy: the class of row 2 (from 0) is nan, but must be a whole "
                       "number from 0 to 2");
    expect_error(tape, nn_cross_entropy(z, rows(tape, 3, 2, logits)),
                 "nn_cross_entropy: logits is [rows,3], classes is [rows,2]; classes must be "
                 "[rows,1], or probabilities [rows,C]");
    expect_error(tape, nn_cross_entropy(rows(tape, 3, 1, classes), rows(tape, 3, 1, classes)),
                 "nn_cross_entropy: logits is [rows,1], classes is [rows,1]; logits must be "
                 "[rows,C] with C >= 2 classes");
    ad_tape_free(tape);
    tape = ad_tape_new(AD_F32);
    const float big[] = { 100, -100, 0 }, first[] = { 0 };
    z = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, big);
    ck_assert_double_eq_tol(
        ad_item(nn_cross_entropy(z, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, first))), 0,
        1e-30);
    ad_tape_free(tape);
}
END_TEST

/* Two classes, logits (0, -40): the gradient is (-p, p), p = 1 / (1 + exp(40)), and the Hessian p
 * (1 - p) times (1, -1; -1, 1). Likewise where the class is given by probabilities. */
START_TEST(cross_entropy_of_the_sure)
{
    const double logits[] = { 0, -40 }, zero[] = { 0 }, one[] = { 1 }, p = 4.248354255291589e-18;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var z = rows(tape, 1, 2, logits), g;
    double got[2];
    for (int i = 0; i < 4; i++) {
        const int class_ = i % 2;
        const double probabilities[] = { !class_, class_ };
        ad_var given =
                   i < 2 ? rows(tape, 1, 1, class_ ? one : zero) : rows(tape, 1, 2, probabilities),
               loss = nn_cross_entropy(z, given);
        ad_grad(loss, 1, &z, &g);
        ck_assert_int_eq(ad_get(g, got), 0);
        ck_assert_double_eq_tol(got[0] / (class_ ? 1 : -p), 1, 1e-14);
        ck_assert_double_eq_tol(got[1] / (class_ ? -1 : p), 1, 1e-14);
        for (int k = 0; k < 2; k++) {
            const double v[] = { k == 0, k == 1 };
            ck_assert_int_eq(ad_get(ad_hvp(loss, z, rows(tape, 1, 2, v)), got), 0);
            ck_assert_double_eq_tol(got[0] / (k ? -p : p), 1, 1e-14);
            ck_assert_double_eq_tol(got[1] / (k ? p : -p), 1, 1e-14);
        }
    }
    ad_tape_free(tape);
}
END_TEST

/* The gradient by a logit is (softmax - probability) / rows, by a probability the distance of the
 * logit from their logsumexp; also where probabilities are equal, do not add up to 1, or where a
 * row is sure. */
START_TEST(cross_entropy_of_probabilities)
{
    enum { ROWS = 5, C = 3, N = ROWS * C };
    const double logits[N] = { 1, 2, 0.5, 100, -50, 0, -1, -1, 3, 30, -7, 0, 0.25, 1, 2 };
    const double probability[N] = { .2, .3, .5, 0, 1, 0, .25, .25, .25, .5, .5, 0, 0, 0, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x[] = { rows(tape, ROWS, C, logits), rows(tape, ROWS, C, probability) }, g[2],
           loss = nn_cross_entropy(x[0], x[1]);
    double by_logit[N], by_probability[N], value = 0;
    ad_grad(loss, 2, x, g);
    ck_assert_int_eq(ad_get(g[0], by_logit), 0);
    ck_assert_int_eq(ad_get(g[1], by_probability), 0);
    for (int r = 0; r < ROWS; r++) {
        const double *z = logits + r * C, *p = probability + r * C,
                     largest = fmax(z[0], fmax(z[1], z[2]));
        double sum = 0, all = p[0] + p[1] + p[2];
        for (int k = 0; k < C; k++) sum += exp(z[k] - largest);
        for (int k = 0; k < C; k++) {
            const double softmax = exp(z[k] - largest) / sum, surprise = log(sum) + largest - z[k];
            value += p[k] * surprise / ROWS;
            ck_assert_double_eq_tol(by_logit[r * C + k], (all * softmax - p[k]) / ROWS, 1e-16);
            ck_assert_double_eq_tol(by_probability[r * C + k], surprise / ROWS, 2e-14);
        }
    }
    ck_assert_double_eq_tol(ad_item(loss), value, 1e-14);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *random = suite_case("nn", "random"), *layers = suite_case("nn", "layers");
    tcase_add_test(random, philox);
    tcase_add_test(random, random_moments);
    tcase_add_test(random, random_below);
    tcase_add_test(random, random_split);
    tcase_add_test(random, random_normal_bits);
    tcase_add_test(layers, layout);
    tcase_add_test(layers, arrays_differ);
    tcase_add_test(layers, layout_errors);
    tcase_add_loop_test(layers, linear_layer, 0, 2);
    tcase_add_test(layers, mlp_network);
    tcase_add_loop_test(layers, time_network, 0, 9);
    tcase_add_test(layers, layer_errors);
    tcase_add_test(layers, losses);
    tcase_add_test(layers, cross_entropy);
    tcase_add_test(layers, cross_entropy_of_the_sure);
    tcase_add_test(layers, cross_entropy_of_probabilities);
    return suite_run();
}
