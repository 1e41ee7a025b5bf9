/* Convolutions, windows and pooling against PyTorch (tests/reference/convolution.py): values, first
 * and second derivatives; against plain loops; bit for bit over rows and threads; misuse. */
#include "nn/nn.h"
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    bool transposed;
    int axes;
    int64_t size[2], cin, cout, taps[2], stride[2], pad[2], dilation[2], groups, extra[2];
    int64_t elements; /* of an image of the result */
    double want[10];
} conv_case;
#include "tests/reference/convolution.h"
enum { CASES = sizeof conv_cases / sizeof *conv_cases, MOST = 10240 };

static void fill(double *x, int64_t n, double a, double b)
{
    for (int64_t i = 0; i < n; i++) x[i] = sin(a * (double)i + b);
}

/* A constant of x's shape, which has 2 rows or none. */
static ad_var weights_like(ad_var x, double a, double b)
{
    double v[MOST];
    ad_shape s = ad_shape_of(x);
    int64_t n = ad_count(s, 2);
    ck_assert_int_le(n, MOST);
    fill(v, n, a, b);
    return ad_has_rows(s) ? ad_input_rows(x.tape, s, 2, v) : ad_constant(x.tape, s, v);
}

static void check_digest(const char *what, int number, ad_var x, const double *want)
{
    double v[MOST], sum = 0, product = 0, scale = 1;
    int64_t n = ad_size(x);
    ck_assert_msg(n > 0 && n <= MOST, "%s %d: %s", what, number, ad_tape_error(x.tape));
    ck_assert_int_eq(ad_get(x, v), 0);
    for (int64_t i = 0; i < n; i++) {
        sum += v[i];
        product += v[i] * cos(0.7 * (double)i + 0.2);
        scale += fabs(v[i]);
    }
    ck_assert_msg(fabs(sum - want[0]) < 1e-13 * scale && fabs(product - want[1]) < 1e-13 * scale,
                  "%s of case %d: %.15g %.15g, PyTorch has %.15g %.15g", what, number, sum, product,
                  want[0], want[1]);
}

static nn_conv layer_of(nn_model *model, const conv_case *c)
{
    nn_conv_options o = { .sweep = { .groups = c->groups } };
    for (int a = 0; a < c->axes; a++) {
        o.sweep.stride[a] = c->stride[a];
        o.sweep.before[a] = o.sweep.after[a] = c->pad[a];
        o.sweep.dilation[a] = c->dilation[a];
        o.sweep.extra[a] = c->extra[a];
    }
    if (c->axes == 1 && c->transposed)
        return nn_conv1d_transpose_new(model, "c", c->cin, c->cout, c->taps[0], &o);
    if (c->axes == 1) return nn_conv1d_new(model, "c", c->cin, c->cout, c->taps[0], &o);
    if (c->transposed)
        return nn_conv2d_transpose_new(model, "c", c->cin, c->cout, c->taps[0], c->taps[1], &o);
    return nn_conv2d_new(model, "c", c->cin, c->cout, c->taps[0], c->taps[1], &o);
}

static ad_shape input_shape(const conv_case *c)
{
    if (c->axes == 1) return AD_SHAPE(AD_ROWS, c->size[0], c->cin);
    return AD_SHAPE(AD_ROWS, c->size[0], c->size[1], c->cin);
}

START_TEST(pytorch_agrees)
{
    const conv_case *c = &conv_cases[_i];
    nn_model *model = nn_model_new();
    nn_conv layer = layer_of(model, c);
    ck_assert_msg(!nn_model_error(model), "%s", nn_model_error(model));
    double theta[MOST] = { 0 }, x[MOST];
    ad_shape w;
    nn_model_find(model, "c.weight", &w);
    int64_t n = ad_count(w, 1);
    fill(theta + layer.weight, n, 0.9, 0.1);
    fill(theta + layer.bias, c->cout, 1.1, 0.3);
    fill(x, MOST, 1.3, 0.4);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var p = ad_param(t, AD_SHAPE(nn_model_size(model)), theta);
    ad_var in = ad_input_rows(t, input_shape(c), 2, x), y = nn_conv_apply(&layer, p, in);
    ck_assert_msg(ad_valid(y), "%s", ad_tape_error(t));
    ck_assert_int_eq(ad_row_size(ad_shape_of(y)), c->elements);
    ad_var of[2] = { in, p }, g[2], h[2];
    ad_grad(ad_sum_all(ad_mul(weights_like(y, 0.8, 0.6), ad_square(y))), 2, of, g);
    ad_var gw = ad_slice(g[1], 0, layer.weight, layer.weight + n);
    ad_grad(ad_add(ad_sum_all(ad_square(g[0])), ad_sum_all(ad_square(gw))), 2, of, h);
    check_digest("value", _i, y, c->want);
    check_digest("gradient by x", _i, g[0], c->want + 2);
    check_digest("gradient by w", _i, gw, c->want + 4);
    check_digest("second derivative by x", _i, h[0], c->want + 6);
    check_digest("second derivative by w", _i, ad_slice(h[1], 0, layer.weight, layer.weight + n),
                 c->want + 8);
    ad_tape_free(t);
    nn_model_free(model);
}
END_TEST

/* ---- plain loops ----------------------------------------------------------------------------- */

START_TEST(loops_agree)
{
    enum { H = 5, W = 6, I = 14, O = 15 };
    const int64_t oh = 3, ow = 6;
    static double x[3 * H * W * I], w[3 * 2 * I * O];
    fill(x, 3 * H * W * I, 1.7, 0.2);
    fill(w, 3 * 2 * I * O, 0.3, 0.9);
    ad_tape *t = ad_tape_new(_i ? AD_F32 : AD_F64);
    /* any leading axes, no rows */
    ad_var a = ad_input(t, AD_SHAPE(3, 1, H, W, I), x), k = ad_param(t, AD_SHAPE(3, 2, I, O), w);
    ad_var y = ad_conv(
        a, k,
        &(ad_conv_options){
            .stride = { 2, 1 }, .before = { 1, 0 }, .after = { 1, 2 }, .dilation = { 1, 2 } });
    static double v[3 * 3 * 6 * O];
    ck_assert_int_eq(ad_size(y), 3 * oh * ow * O);
    ck_assert_int_eq(ad_get(y, v), 0);
    for (int64_t e = 0; e < 3 * oh * ow * O; e++) {
        int64_t d = e % O, q = e / O % ow, p = e / O / ow % oh, b = e / O / ow / oh;
        double sum = 0;
        for (int64_t i = 0; i < 3; i++)
            for (int64_t j = 0; j < 2; j++) {
                int64_t r = 2 * p - 1 + i, s = q + 2 * j;
                for (int64_t c = 0; c < I && r >= 0 && r < H && s < W; c++)
                    sum += x[((b * H + r) * W + s) * I + c] * w[((i * 2 + j) * I + c) * O + d];
            }
        ck_assert_double_lt(fabs(v[e] - sum), _i ? 1e-4 : 1e-12);
    }
    ad_tape_free(t);
}
END_TEST

/* Where taps are convolved by tiles (kernels/winograd.c), single precision keeps its digits:
 * against double, of images without rows. */
START_TEST(tiles_in_single_precision)
{
    enum { N = 3, H = 7, W = 8, C = 32, OH = 9, OW = 8, FACES = 3 };
    static double x[N * H * W * C], w[9 * C * C], v[FACES][2][9 * C * C];
    fill(x, N * H * W * C, 1.7, 0.2);
    fill(w, 9 * C * C, 0.3, 0.9);
    for (int k = 0; k < 2; k++) {
        ad_tape *t = ad_tape_new(k ? AD_F32 : AD_F64);
        ad_var in[2] = { ad_input(t, AD_SHAPE(N, 1, H, W, C), x),
                         ad_param(t, AD_SHAPE(3, 3, C, C), w) },
               g[2];
        ad_var y =
            ad_conv(in[0], in[1], &(ad_conv_options){ .before = { 2, 1 }, .after = { 2, 1 } });
        ad_grad(ad_sum_all(ad_square(y)), 2, in, g);
        const ad_var out[FACES] = { y, g[0], g[1] };
        for (int f = 0; f < FACES; f++) {
            ck_assert_int_le(ad_size(out[f]), 9 * C * C);
            ck_assert_int_eq(ad_get(out[f], v[f][k]), 0);
        }
        ad_tape_free(t);
    }
    for (int f = 0; f < FACES; f++) {
        double most = 0, error = 0;
        for (int i = 0; i < 9 * C * C; i++) {
            most = fmax(most, fabs(v[f][0][i]));
            error = fmax(error, fabs(v[f][1][i] - v[f][0][i]));
        }
        ck_assert_msg(error < 2e-6 * most, "face %d: %g of %g", f, error, most);
    }
}
END_TEST

START_TEST(windows_are_transposes)
{
    const ad_window w = { .size = 3, .stride = 2, .dilation = 2, .before = 2, .after = 1 };
    double x[2 * 7 * 2], v[2 * 3 * 3 * 2], u[2 * 7 * 2], g[2 * 7 * 2];
    fill(x, 28, 1, 0.5);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var a = ad_input_rows(t, AD_SHAPE(AD_ROWS, 7, 2), 2, x), y = ad_unfold(a, 1, &w), b;
    ck_assert(ad_same_shape(ad_shape_of(y), AD_SHAPE(AD_ROWS, 3, 3, 2)));
    ad_get(y, v);
    for (int i = 0; i < 36; i++) {
        int at = i / 6 % 3 * 2 - 2 + i / 2 % 3 * 2;
        double want = at >= 0 && at < 7 ? x[i / 18 * 14 + at * 2 + i % 2] : 0;
        ck_assert_double_eq(v[i], want);
    }
    ad_var z = ad_sin(y);
    ad_vjp(1, &y, &z, 1, &a, &b);
    ad_get(b, g);
    ad_get(ad_fold(z, 1, 7, &w), u);
    for (int i = 0; i < 28; i++) ck_assert_double_eq_tol(g[i], u[i], 1e-15);
    ck_assert(!ad_valid(ad_fold(z, 1, 9, &w)));
    ad_tape_clear_error(t);
    ck_assert(!ad_valid(ad_unfold(a, 1, &(ad_window){ .size = 8 })));
    ad_tape_clear_error(t);
    ck_assert(!ad_valid(ad_unfold(a, 1, &(ad_window){ .size = 0 })));
    ad_tape_free(t);
}
END_TEST

/* ---- pooling --------------------------------------------------------------------------------- */

static const nn_pool_options pool = { 2, { 3, 2 }, { 2, 1 }, { 1, 1 }, { 1, 1 } };
static ad_var pool_max(ad_var x) { return nn_max_pool(x, &pool); }
static ad_var pool_average(ad_var x) { return nn_average_pool(x, &pool); }
static ad_var pool_adaptive_max(ad_var x)
{
    return nn_adaptive_max_pool(x, 2, (int64_t[]){ 3, 4 });
}
static ad_var pool_adaptive(ad_var x)
{
    return nn_adaptive_average_pool(x, 2, (int64_t[]){ 3, 4 });
}
static ad_var pool_global(ad_var x) { return nn_adaptive_average_pool(x, 2, (int64_t[]){ 1, 1 }); }
static const struct {
    ad_var (*pool)(ad_var x);
    const double *want;
} pools[] = { { pool_max, max_pooled },
              { pool_average, average_pooled },
              { pool_adaptive_max, adaptive_max },
              { pool_adaptive, adaptive_average },
              { pool_global, global_average } };

START_TEST(pooling_agrees)
{
    double x[2 * 7 * 6 * 3];
    fill(x, 252, 1.3, 0.4);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var a = ad_input_rows(t, AD_SHAPE(AD_ROWS, 7, 6, 3), 2, x), y = pools[_i].pool(a), g;
    ck_assert_msg(ad_valid(y), "%s", ad_tape_error(t));
    ad_grad(ad_sum_all(ad_mul(weights_like(y, 0.8, 0.6), ad_square(y))), 1, &a, &g);
    check_digest("pooled", _i, y, pools[_i].want);
    check_digest("gradient of pooled", _i, g, pools[_i].want + 2);
    ad_tape_free(t);
}
END_TEST

/* ---- rows and threads ------------------------------------------------------------------------ */

START_TEST(rows_and_threads_do_not_change_bits)
{
    enum { H = 6, MOST_CHANNELS = 32, ROWS = 150, KERNEL = 9 * MOST_CHANNELS * MOST_CHANNELS };
    static const int sizes[][2] = { { 1, 16 }, { 16, 16 }, { 32, 32 } }; /* packed, taps, tiles */
    const int channels = sizes[_i][0], C = sizes[_i][1], IMAGE = H * H * C;
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, H, H, channels), 0, (float *)NULL);
    ad_var w = ad_param(t, AD_SHAPE(3, 3, channels, C), (float *)NULL), of[2] = { x, w }, g[2];
    ad_var y = ad_conv(x, w, &(ad_conv_options){ .before = { 1, 1 }, .after = { 1, 1 } });
    ad_grad(ad_sum_all(ad_square(y)), 2, of, g);
    ad_program *p = ad_compile(2, of, 3, (ad_var[]){ y, g[0], g[1] });
    ck_assert_msg(p, "%s", ad_tape_error(t));
    const size_t bytes = sizeof(float) * (size_t)(ROWS * IMAGE);
    float *in = malloc(bytes), kernel[KERNEL], *out[2][3];
    for (int i = 0; i < ROWS * IMAGE; i++) in[i] = sinf((float)i);
    for (int i = 0; i < KERNEL; i++) kernel[i] = cosf((float)i);
    for (int k = 0; k < 2; k++) {
        for (int j = 0; j < 3; j++) out[k][j] = calloc(1, bytes);
        ad_workspace *work = ad_workspace_new(p, k ? 3 : 1);
        ck_assert_int_eq(ad_run_f32(p, work, ROWS, (const float *[]){ in, kernel }, out[k]), 0);
        ad_workspace_free(work);
    }
    for (int j = 0; j < 3; j++) ck_assert(!memcmp(out[0][j], out[1][j], bytes));
    ad_workspace *work = ad_workspace_new(p, 1);
    int64_t one = H * H * channels;
    ad_run_f32(p, work, 1, (const float *[]){ in + 77 * one, kernel }, out[1]);
    ck_assert(!memcmp(out[0][0] + 77 * IMAGE, out[1][0], sizeof(float) * (size_t)IMAGE));
    ck_assert(!memcmp(out[0][1] + 77 * one, out[1][1], sizeof(float) * (size_t)one));
    ad_workspace_free(work);
    for (int k = 0; k < 6; k++) free(out[k / 3][k % 3]);
    free(in);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* The exact trace of a field with a convolution, against single directions. */
START_TEST(trace_of_a_field)
{
    double x[8], w[3 * 2 * 2], trace[1], j[64], sum = 0;
    fill(x, 8, 1, 0.3);
    fill(w, 12, 0.7, 0.1);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var a = ad_input_rows(t, AD_SHAPE(AD_ROWS, 8), 1, x);
    ad_var k = ad_param(t, AD_SHAPE(3, 2, 2), w), image = ad_reshape(a, AD_SHAPE(AD_ROWS, 4, 2));
    ad_var y = ad_conv(ad_tanh(image), k, &(ad_conv_options){ .before = { 1 }, .after = { 1 } });
    y = ad_reshape(y, AD_SHAPE(AD_ROWS, 8));
    ad_get(ad_jacobian_trace(y, a), trace);
    ad_get(ad_jacobian(y, a), j);
    for (int i = 0; i < 8; i++) sum += (1 - pow(tanh(x[i]), 2)) * w[4 + i % 2 * 3];
    ck_assert_msg(fabs(trace[0] - sum) < 1e-14, "%.17g, not %.17g", trace[0], sum);
    for (int i = 0; i < 8; i++) sum -= j[9 * i];
    ck_assert_double_lt(fabs(sum), 1e-14);
    ad_tape_free(t);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

static void check_refused(ad_var y, const char *words)
{
    const char *error = ad_tape_error(y.tape);
    ck_assert(!ad_valid(y));
    ck_assert_msg(error && strstr(error, words), "\"%s\" without \"%s\"", error, words);
    ad_tape_clear_error(y.tape);
}

START_TEST(misuse_is_refused)
{
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 5, 5, 4), 0, (float *)NULL);
    ad_var w = ad_param(t, AD_SHAPE(3, 3, 4, 6), (float *)NULL);
    ad_var flat = ad_input_rows(t, AD_SHAPE(AD_ROWS, 5), 0, (float *)NULL);
    check_refused(ad_conv(x, w, &(ad_conv_options){ .groups = 4 }), "not divisible");
    check_refused(ad_conv(x, w, &(ad_conv_options){ .groups = 2 }), "want 8 channels");
    check_refused(ad_conv(x, w, &(ad_conv_options){ .groups = -1 }), "groups is -1");
    check_refused(ad_conv(x, w, &(ad_conv_options){ .stride = { 1, -1 } }),
                  "stride of spatial axis 1");
    check_refused(ad_conv(x, w, &(ad_conv_options){ .dilation = { 3 } }), "larger than the padded");
    check_refused(ad_conv(x, w, &(ad_conv_options){ .extra = { 1 } }), "ad_conv_transpose alone");
    check_refused(ad_conv(flat, w, NULL), "[...,H,W,channels]");
    check_refused(ad_conv(x, x, NULL), "no rows");
    check_refused(ad_conv(x, ad_fill(t, AD_SHAPE(4, 4), 1), NULL), "w must be");
    check_refused(ad_conv_transpose(x, w, NULL), "want 6 channels");
    ad_var y = ad_conv(x, w, NULL);
    check_refused(ad_conv_transpose(y, w, &(ad_conv_options){ .extra = { 1 } }), "smaller than");
    check_refused(ad_conv_transpose(y, w, &(ad_conv_options){ .before = { 5 } }), "would be empty");
    check_refused(nn_max_pool(x, NULL), "NULL");
    check_refused(nn_max_pool(x, &(nn_pool_options){ 2, { 6, 2 }, { 0 }, { 0 }, { 0 } }), "size 6");
    check_refused(nn_average_pool(flat, &(nn_pool_options){ .axes = 2, .size = { 1, 1 } }), "x is");
    check_refused(nn_adaptive_max_pool(x, 2, (int64_t[]){ 3, 9 }), "asked for are 9");
    nn_model *model = nn_model_new();
    nn_conv c =
        nn_conv2d_new(model, "c", 4, 6, 3, 3, &(nn_conv_options){ .sweep = { .groups = 4 } });
    ck_assert_ptr_nonnull(strstr(nn_model_error(model), "divisible"));
    check_refused(nn_conv_apply(&c, ad_fill(t, AD_SHAPE(16), 0), x), "could not be made");
    nn_model_free(model);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("convolution", "convolution");
    tcase_add_loop_test(tests, pytorch_agrees, 0, CASES);
    tcase_add_loop_test(tests, loops_agree, 0, 2);
    tcase_add_test(tests, tiles_in_single_precision);
    tcase_add_test(tests, windows_are_transposes);
    tcase_add_loop_test(tests, pooling_agrees, 0, (int)(sizeof pools / sizeof *pools));
    tcase_add_loop_test(tests, rows_and_threads_do_not_change_bits, 0, 3);
    tcase_add_test(tests, trace_of_a_field);
    tcase_add_test(tests, misuse_is_refused);
    return suite_run();
}
