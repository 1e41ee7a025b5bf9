/* Jacobians and exact traces: against central differences, against each other, through what people
 * write in vector fields; the trace's own derivatives; and what its program holds. */
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = 3, MAX_D = 8 };
typedef struct {
    ad_tape *t;
    ad_var x, time, w[8];
    int64_t d;
} net;

static double entry(int64_t i, int k)
{
    return sin(1.3 * (double)i + 0.7 * k * (double)i + k + 0.2);
}

static ad_var weight(net *n, int k, int64_t in, int64_t out)
{
    double *v = malloc((size_t)(in * out) * sizeof *v);
    for (int64_t i = 0; i < in * out; i++) v[i] = entry(i, k) / sqrt((double)in);
    n->w[k] = ad_param(n->t, AD_SHAPE(in, out), v);
    free(v);
    return n->w[k];
}
static ad_var bias(net *n, int k, int64_t out)
{
    double v[64];
    for (int i = 0; i < 64; i++) v[i] = entry(i, k + 7);
    n->w[k] = ad_param(n->t, AD_SHAPE(out), v);
    return n->w[k];
}

static ad_var mlp(net *n, ad_var x, int layers, ad_var (*act)(ad_var))
{
    int64_t width = ad_shape_of(x).dim[1];
    for (int k = 0; k < layers; k++) {
        x = act(ad_add(ad_matmul(x, weight(n, 2 * k, width, 5 + k)), bias(n, 2 * k + 1, 5 + k)));
        width = 5 + k;
    }
    return ad_matmul(x, weight(n, 7, width, n->d));
}

static ad_var f_one(net *n) { return mlp(n, n->x, 1, ad_tanh); }
static ad_var f_two(net *n) { return mlp(n, n->x, 2, ad_softplus); }
static ad_var f_three(net *n) { return mlp(n, n->x, 3, ad_silu); }
static ad_var f_residual(net *n) { return ad_add(n->x, ad_scale(mlp(n, n->x, 2, ad_tanh), 0.5)); }
static ad_var f_time_input(net *n)
{
    return mlp(n, ad_concatenate(2, (ad_var[]){ n->time, n->x }, 1), 2, ad_tanh);
}
static ad_var f_time_last(net *n)
{
    return mlp(n, ad_concatenate(3, (ad_var[]){ n->x, n->time, ad_square(n->x) }, 1), 1, ad_gelu);
}
static ad_var f_squash(net *n)
{
    ad_var gate = ad_sigmoid(ad_add(ad_matmul(n->time, weight(n, 2, 1, 5)), bias(n, 3, 5)));
    ad_var h =
        ad_tanh(ad_add(ad_mul(ad_add(ad_matmul(n->x, weight(n, 0, n->d, 5)), bias(n, 1, 5)), gate),
                       ad_matmul(n->time, weight(n, 4, 1, 5))));
    return ad_mul(ad_matmul(h, weight(n, 5, 5, n->d)),
                  ad_sigmoid(ad_matmul(n->time, weight(n, 6, 1, n->d))));
}
static ad_var f_sum_of_networks(net *n)
{
    ad_var scale = bias(n, 6, n->d), a = mlp(n, n->x, 1, ad_tanh),
           b = mlp(n, ad_sin(n->x), 2, ad_softplus);
    return ad_add(ad_mul(a, scale), ad_mul(b, n->x));
}
static ad_var f_slice_of_wider(net *n)
{
    ad_var left = ad_slice(n->x, 1, 0, 1), right = ad_slice(n->x, 1, 1, n->d);
    return ad_concatenate(2,
                          (ad_var[]){ ad_mul(ad_square(left), ad_sum_axis(right, 1, true)),
                                      ad_mul(right, ad_exp(left)) },
                          1);
}
static ad_var f_pointwise(net *n)
{
    return ad_sub(ad_pow_scalar(n->x, 3), ad_div(n->x, ad_shift(ad_square(n->x), 2)));
}
static ad_var f_norm(net *n)
{
    ad_var c = ad_sub(n->x, ad_mean(n->x, 1, (int[]){ 1 }, true));
    return ad_div(c, ad_sqrt(ad_shift(ad_mean(ad_square(c), 1, (int[]){ 1 }, true), 0.1)));
}
static ad_var f_softmax(net *n)
{
    return ad_exp(ad_sub(n->x, ad_logsumexp(n->x, 1, (int[]){ 1 }, true)));
}
static ad_var f_gather(net *n)
{
    int64_t order[MAX_D];
    for (int64_t i = 0; i < n->d; i++) order[i] = (i * 2 + 1) % n->d;
    return ad_add(ad_mul(ad_gather(n->x, 1, n->d, order), n->x),
                  ad_cumsum(ad_flip(ad_tanh(n->x), 1), 1, false));
}
static ad_var f_reshaped(net *n)
{
    ad_var m = ad_reshape(n->x, AD_SHAPE(AD_ROWS, n->d / 2, 2));
    return ad_reshape(ad_matmul(ad_transpose(ad_tanh(m), (int[]){ 0, 2, 1 }), m),
                      AD_SHAPE(AD_ROWS, 4));
}
static ad_var f_max(net *n) { return ad_mul(n->x, ad_reduce_max(n->x, 1, (int[]){ 1 }, true)); }
/* A part, across its seams, of what is put together. */
static ad_var f_window(net *n)
{
    ad_var all = ad_concatenate(3, (ad_var[]){ ad_square(n->x), n->x, ad_sin(n->x) }, 1);
    return ad_tanh(ad_slice(all, 1, n->d - 1, 2 * n->d - 1));
}
/* A sum along an axis along which one term is the same. */
static ad_var f_repeated(net *n)
{
    return ad_mul(n->x, ad_sum_axis(ad_add(n->x, ad_slice(n->x, 1, 0, 1)), 1, true));
}
static ad_var f_linear(net *n) { return ad_matmul(n->x, weight(n, 0, n->d, n->d)); }
static ad_var f_constant(net *n) { return ad_broadcast(bias(n, 0, n->d), ad_shape_of(n->x)); }
static ad_var f_identity(net *n) { return n->x; }
static ad_var f_deep_residual(net *n)
{
    ad_var x = n->x;
    for (int k = 0; k < 5; k++)
        x = ad_add(x, ad_scale(ad_tanh(ad_matmul(x, weight(n, k, n->d, n->d))), 0.3));
    return x;
}
/* What is not selected is no number at half of the points. */
static ad_var f_guarded(net *n)
{
    ad_var zero = ad_scalar(n->t, 0),
           safe = ad_select(ad_gt(n->x, zero), ad_mul(n->x, ad_log(n->x)), ad_scale(n->x, 2));
    return ad_add(safe, ad_matmul(ad_tanh(n->x), weight(n, 0, n->d, n->d)));
}
static ad_var f_bilinear(net *n)
{
    ad_var p = ad_contract(
        "bi,bj,ijk->bk", 3,
        (ad_var[]){ n->x, ad_tanh(n->x),
                    ad_reshape(weight(n, 0, n->d * n->d, n->d), AD_SHAPE(n->d, n->d, n->d)) });
    return ad_add(p, ad_mul(n->x, ad_reshape(ad_dot(n->x, n->x), AD_SHAPE(AD_ROWS, 1))));
}

static const struct {
    const char *name;
    ad_var (*f)(net *);
    int64_t d;
} fields[] = { { "one hidden layer", f_one, 3 },
               { "two hidden layers", f_two, 4 },
               { "three hidden layers", f_three, 3 },
               { "residual", f_residual, 3 },
               { "time as input", f_time_input, 3 },
               { "time and squares as inputs", f_time_last, 2 },
               { "concat-squash", f_squash, 3 },
               { "sum of networks", f_sum_of_networks, 3 },
               { "slices", f_slice_of_wider, 4 },
               { "pointwise", f_pointwise, 5 },
               { "layer norm", f_norm, 4 },
               { "softmax", f_softmax, 4 },
               { "gather, cumsum, flip", f_gather, 5 },
               { "reshaped", f_reshaped, 4 },
               { "maximum", f_max, 4 },
               { "sum of what is repeated", f_repeated, 4 },
               { "window", f_window, 3 },
               { "linear", f_linear, 6 },
               { "constant", f_constant, 3 },
               { "identity", f_identity, 5 },
               { "deep residual", f_deep_residual, 4 },
               { "bilinear", f_bilinear, 3 },
               { "guarded", f_guarded, 4 },
               { "one dimension", f_one, 1 },
               { "two hidden layers, one dimension", f_two, 1 } };
enum { NFIELD = (int)(sizeof fields / sizeof *fields) };

static void make(net *n, int i, double *x)
{
    *n = (net){ .t = ad_tape_new(AD_F64), .d = fields[i].d };
    for (int k = 0; k < B * n->d; k++) x[k] = entry(k, i + 3);
    n->x = ad_input_rows(n->t, AD_SHAPE(AD_ROWS, n->d), B, x);
    n->time = ad_input(n->t, AD_SHAPE(1, 1), (double[]){ 0.4 });
}

static void get(ad_var v, double *out)
{
    ck_assert_msg(ad_get(v, out) == 0, "%s", ad_tape_error(v.tape));
}

START_TEST(against_differences)
{
    net n;
    double x[B * MAX_D], j[B * MAX_D * MAX_D], trace[B], up[B * MAX_D], down[B * MAX_D];
    make(&n, _i, x);
    int64_t d = n.d;
    ad_var y = fields[_i].f(&n);
    ad_var jacobian = ad_jacobian(y, n.x), tr = ad_jacobian_trace(y, n.x);
    ck_assert_msg(!ad_tape_error(n.t), "%s: %s", fields[_i].name, ad_tape_error(n.t));
    ck_assert(ad_same_shape(ad_shape_of(tr), AD_SHAPE(AD_ROWS, 1)) &&
              ad_same_shape(ad_shape_of(jacobian), AD_SHAPE(AD_ROWS, d, d)));
    get(jacobian, j);
    get(tr, trace);
    for (int64_t k = 0; k < d; k++) { /* column k of every row's Jacobian */
        const double e = 1e-6;
        for (int b = 0; b < B; b++) x[b * d + k] += e;
        ad_set(n.x, B, x);
        get(y, up);
        for (int b = 0; b < B; b++) x[b * d + k] -= 2 * e;
        ad_set(n.x, B, x);
        get(y, down);
        for (int b = 0; b < B; b++) x[b * d + k] += e;
        for (int b = 0; b < B; b++)
            for (int64_t i = 0; i < d; i++) {
                double want = (up[b * d + i] - down[b * d + i]) / (2 * e);
                ck_assert_msg(fabs(j[(b * d + i) * d + k] - want) < 1e-7 * (1 + fabs(want)),
                              "%s: J[%d,%d,%d] = %.12g, differences %.12g", fields[_i].name, b,
                              (int)i, (int)k, j[(b * d + i) * d + k], want);
            }
    }
    for (int b = 0; b < B; b++) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < d; i++) {
            sum += j[(b * d + i) * d + i];
            size += fabs(j[(b * d + i) * d + i]);
        }
        ck_assert_msg(fabs(trace[b] - sum) <= 1e-13 * (1 + size), "%s: trace %.17g, diagonal %.17g",
                      fields[_i].name, trace[b], sum);
    }
    ad_tape_free(n.t);
}
END_TEST

/* The gradient and a Hessian-vector product of the trace against differences of the trace. */
START_TEST(derivatives_of_the_trace)
{
    net n;
    double x[B * MAX_D], g[B * MAX_D], h[B * MAX_D], up[B * MAX_D], down[B * MAX_D], v[B * MAX_D];
    make(&n, _i, x);
    int64_t size = B * n.d;
    for (int64_t k = 0; k < size; k++) v[k] = entry(k, 5);
    ad_var y = fields[_i].f(&n), loss = ad_sum_all(ad_jacobian_trace(y, n.x)), grad,
           direction = ad_input_rows(n.t, AD_SHAPE(AD_ROWS, n.d), B, v);
    ad_grad(loss, 1, &n.x, &grad);
    ad_var hvp = ad_hvp(loss, n.x, direction);
    get(grad, g);
    get(hvp, h);
    const double e = 1e-6;
    for (int64_t k = 0; k < size; k++) {
        double at = x[k];
        x[k] = at + e;
        ad_set(n.x, B, x);
        double lp = ad_item(loss);
        x[k] = at - e;
        ad_set(n.x, B, x);
        double want = (lp - ad_item(loss)) / (2 * e);
        x[k] = at;
        ck_assert_msg(fabs(g[k] - want) < 2e-7 * (1 + fabs(want)),
                      "%s: gradient %.12g, differences %.12g", fields[_i].name, g[k], want);
    }
    for (int64_t k = 0; k < size; k++) x[k] += e * v[k];
    ad_set(n.x, B, x);
    get(grad, up);
    for (int64_t k = 0; k < size; k++) x[k] -= 2 * e * v[k];
    ad_set(n.x, B, x);
    get(grad, down);
    for (int64_t k = 0; k < size; k++) {
        double want = (up[k] - down[k]) / (2 * e);
        ck_assert_msg(fabs(h[k] - want) < 5e-7 * (1 + fabs(want)),
                      "%s: Hessian %.12g, differences %.12g", fields[_i].name, h[k], want);
    }
    ad_tape_free(n.t);
}
END_TEST

/* Without a row axis, and with states of several axes. */
START_TEST(other_shapes)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var a = ad_param(t, AD_SHAPE(2, 2), (double[]){ 1, 2, 3, 4 }),
           x = ad_input(t, AD_SHAPE(2), (double[]){ 0.5, -1 });
    ad_var y = ad_mul(ad_contract("i,ij->j", 2, (ad_var[]){ x, a }), x);
    double j[4], tr;
    get(ad_jacobian(y, x), j); /* y_j = x_j sum_i x_i a_ij */
    get(ad_jacobian_trace(y, x), &tr);
    double want[4] = { 2 * 0.5 - 3, 1.5, -2, 1 - 8 };
    for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(j[i], want[i], 1e-14);
    ck_assert_double_eq_tol(tr, want[0] + want[3], 1e-14);
    ad_var later =
        ad_input(t, AD_SHAPE(2), (double[]){ 1, 2 }); /* than y, which cannot depend on it */
    get(ad_jacobian(y, later), j);
    get(ad_jacobian_trace(y, later), &tr);
    for (int i = 0; i < 4; i++) ck_assert_double_eq(j[i], 0);
    ck_assert_double_eq(tr, 0);
    ad_var m = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2, 2), 1, (double[]){ 1, 2, 3, 4 });
    ad_var q = ad_matmul(m, m);
    double full[16];
    ad_var jm = ad_jacobian(q, m);
    ck_assert(ad_same_shape(ad_shape_of(jm), AD_SHAPE(AD_ROWS, 2, 2, 2, 2)));
    get(jm, full); /* d(M^2) = dM M + M dM */
    double M[4] = { 1, 2, 3, 4 };
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++)
            for (int p = 0; p < 2; p++)
                for (int s = 0; s < 2; s++)
                    ck_assert_double_eq_tol(full[((i * 2 + k) * 2 + p) * 2 + s],
                                            (i == p) * M[s * 2 + k] + (k == s) * M[i * 2 + p],
                                            1e-14);
    ad_tape_free(t);
}
END_TEST

/* Products that are too long for the best order and whose factors have many axes: single directions
 * where no order is found. */
START_TEST(many_axes)
{
    enum { AXES = 6, N = 64, LAYERS = 2 };
    ad_tape *t = ad_tape_new(AD_F64);
    double start[N], j[N * N], tr, sum = 0;
    for (int i = 0; i < N; i++) start[i] = entry(i, 2);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, N), 1, start),
           m = ad_reshape(x, AD_SHAPE(AD_ROWS, 2, 2, 2, 2, 2, 2));
    ad_var w = ad_param(t, AD_SHAPE(2, 2), (double[]){ 0.3, -0.7, 0.5, 0.9 });
    for (int k = 0; k < LAYERS * AXES; k++) {
        char spec[] = "nabcdef,?z->nabcdef";
        spec[8] = (char)('a' + k % AXES);
        spec[13 + k % AXES] = 'z';
        m = ad_contract(spec, 2, (ad_var[]){ m, w });
        if (k % 2) m = ad_tanh(m);
    }
    ad_var y = ad_reshape(m, AD_SHAPE(AD_ROWS, N)), jacobian = ad_jacobian(y, x);
    get(ad_jacobian_trace(y, x), &tr);
    get(jacobian, j);
    for (int i = 0; i < N; i++) sum += j[i * (N + 1)];
    ck_assert_double_eq_tol(tr, sum, 1e-14);
    const double e = 1e-6;
    for (int k = 0; k < N; k += 21) {
        double up[N], down[N], at = start[k];
        start[k] = at + e;
        ad_set(x, 1, start);
        get(y, up);
        start[k] = at - e;
        ad_set(x, 1, start);
        get(y, down);
        start[k] = at;
        for (int i = 0; i < N; i++)
            ck_assert_double_eq_tol(j[i * N + k], (up[i] - down[i]) / (2 * e), 1e-9);
    }
    ad_tape_free(t);
}
END_TEST

/* Where something else is selected, a derivative that is not finite does not matter: the trace is
 * what forward mode gives. */
START_TEST(what_is_not_selected)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 3), 1, (double[]){ -1, 0, 4 }),
           root = ad_sqrt(ad_relu(x)), low = ad_scalar(t, 0.3);
    ad_var y[] = { ad_max(root, low), ad_neg(ad_min(ad_neg(root), ad_neg(low))),
                   ad_clamp(root, low, ad_scalar(t, 5)), ad_relu(ad_sub(root, low)),
                   ad_select(ad_gt(x, low), ad_scale(root, 1), ad_exp(ad_neg(x))) };
    const double want[] = { 0.25, 0.25, 0.25, 0.25, 0.25 - exp(1) - 1 };
    for (int i = 0; i < 5; i++)
        ck_assert_double_eq_tol(ad_item(ad_jacobian_trace(y[i], x)), want[i], 1e-14);
    ad_tape_free(t);
}
END_TEST

static char *describe_trace(int layers, int64_t d)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in[6] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, d), 0, NULL) }, h = in[0];
    for (int k = 0; k <= layers; k++) {
        in[k + 1] = ad_param(t, AD_SHAPE(k ? 64 : d, k < layers ? 64 : d), NULL);
        h = ad_matmul(h, in[k + 1]);
        if (k < layers) h = ad_tanh(h);
    }
    ad_var out[2] = { h, ad_jacobian_trace(h, in[0]) };
    ad_program *p = ad_compile(layers + 2, in, 2, out);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    char *text = ad_program_describe(p);
    ad_program_free(p);
    ad_tape_free(t);
    return text;
}

/* Of all contractions that are done for every row. */
static int64_t flops_a_row(const char *text)
{
    int64_t sum = 0;
    for (const char *at = text; (at = strstr(at, " flop a row")) != NULL; at++) {
        const char *number = at;
        while (number[-1] >= '0' && number[-1] <= '9') number--;
        sum += atoll(number);
    }
    return sum;
}

/* The cheap trace: no value [rows,d,.] whatever d, and beside the field's a product with the hidden
 * units, or with the products of two layers of them, whatever d. */
START_TEST(trace_stays_cheap)
{
    static const int64_t dims[] = { 8, 96, 200 };
    for (int layers = 1; layers <= 2; layers++) {
        for (int k = 0; k < 3; k++) {
            char *each = describe_trace(layers, dims[k]);
            int64_t field = 2 * (2 * dims[k] * 64 + (layers - 1) * 64 * 64),
                    trace = layers == 1 ? 2 * 64 : 2 * 64 * 64;
            ck_assert_msg(flops_a_row(each) <= field + trace + 2 * 64, "%d layers, %d: %s", layers,
                          (int)dims[k], each);
            free(each);
        }
        char *text = describe_trace(layers, 96); /* 96: no other size of this network is 96 */
        ck_assert_msg(!strstr(text, "[rows,96,") && !strstr(text, ",96,"), "%d layers:\n%s", layers,
                      text);
        ck_assert(strstr(text, "[rows,96]"));
        ck_assert(strstr(text, "[rows,64]"));
        ck_assert_msg(!strstr(text, "[rows,64,"), "%d layers:\n%s", layers, text);
        free(text);
        text = describe_trace(layers, 64);
        ck_assert_msg(!strstr(text, "[rows,64,"), "%d layers:\n%s", layers, text);
        free(text);
    }
}
END_TEST

static int64_t flop_a_row(const char *text)
{
    int64_t sum = 0;
    for (const char *at = text; (at = strstr(at, " flop a row")); at++) {
        const char *number = at;
        while (number[-1] >= '0' && number[-1] <= '9') number--;
        sum += strtoll(number, NULL, 10);
    }
    return sum;
}

/* Inputs of every layer beside the one before: the trace is that of the layers alone, nothing is
 * stretched to the width of the inputs. */
START_TEST(trace_through_concatenations)
{
    enum { X = 24, H = 40, EXTRA = 16 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in[5] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, X), 0, NULL),
                     ad_input_rows(t, AD_SHAPE(AD_ROWS, EXTRA), 0, NULL) };
    const int64_t width[] = { X, H, H, X };
    ad_var h = in[0];
    for (int k = 0; k < 3; k++) {
        in[2 + k] = ad_param(t, AD_SHAPE(width[k] + EXTRA, width[k + 1]), NULL);
        h = ad_matmul(ad_concatenate(2, (ad_var[]){ in[1], h }, 1), in[2 + k]);
        if (k < 2) h = ad_tanh(h);
    }
    ad_var trace = ad_jacobian_trace(h, in[0]);
    ad_program *p = ad_compile(5, in, 1, &trace);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    char *text = ad_program_describe(p);
    int64_t layers = 2 * (X + EXTRA) * H + 2 * (H + EXTRA) * H,
            most = layers + 2 * H * H + 2 * H; /* and s1 Q s2 */
    ck_assert_msg(flop_a_row(text) <= most, "%lld flop a row, not %lld:\n%s",
                  (long long)flop_a_row(text), (long long)most, text);
    free(text);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

START_TEST(errors)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 3), 2, (double[6]){ 0 });
    int32_t mark = ad_tape_mark(t);
    static const char *const expected[] = { "row by row", "[rows,d]",
                                            "both variables need the row axis" };
    for (int i = 0; i < 3; i++) {
        ad_var y = i == 0   ? ad_mul(x, ad_sum_axis(x, 0, true))
                   : i == 1 ? ad_slice(x, 1, 0, 2)
                            : ad_sum_axis(x, 0, false);
        ad_var tr = ad_jacobian_trace(y, x);
        ck_assert(!ad_valid(tr));
        ck_assert_msg(ad_tape_error(t) && strstr(ad_tape_error(t), expected[i]), "%s",
                      ad_tape_error(t) ? ad_tape_error(t) : "no error");
        ad_tape_clear_error(t);
        ad_tape_rewind(t, mark);
    }
    ad_tape_free(t);
}
END_TEST

/* Trace and its VJP of a network of hidden layers, all of size h. */
static ad_program *deep_trace(int layers, int64_t d, int64_t h, int64_t *parameters)
{
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var in[7] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, d), 0, NULL) }, bar[7], y = in[0];
    *parameters = 0;
    for (int k = 0; k <= layers; k++) {
        const int64_t from = k ? h : d, to = k < layers ? h : d;
        in[k + 1] = ad_param(t, AD_SHAPE(from, to), NULL);
        y = ad_matmul(k ? ad_tanh(y) : y, in[k + 1]);
        *parameters += from * to;
    }
    ad_var trace = ad_jacobian_trace(y, in[0]);
    in[layers + 2] = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_vjp(1, &trace, &in[layers + 2], layers + 2, in, bar);
    ad_program *p = ad_compile(layers + 3, in, layers + 2, bar);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    return p;
}

/* Of three and four hidden layers weights could be multiplied out to [d,h,h]. */
START_TEST(parameters_stay_small)
{
    static const int64_t sizes[][2] = { { 11, 128 }, { 16, 256 }, { 200, 128 }, { 63, 860 } };
    enum { CACHED = 1024 * 1024 / 4, GROWTH = 4 };
    for (int k = 0; k < 8; k++) {
        const int layers = 3 + k / 4;
        int64_t parameters, most = CACHED;
        ad_program *p = deep_trace(layers, sizes[k % 4][0], sizes[k % 4][1], &parameters);
        if (GROWTH * parameters > most) most = GROWTH * parameters;
        for (int32_t i = 0; i < p->ir.n; i++)
            ck_assert_msg(ad_has_rows(p->ir.inst[i].shape) ||
                              ad_row_size(p->ir.inst[i].shape) <= most,
                          "%d layers, %d, %d: %s of %lld elements", layers, (int)sizes[k % 4][0],
                          (int)sizes[k % 4][1], ad_ops[p->ir.inst[i].op].name,
                          (long long)ad_row_size(p->ir.inst[i].shape));
        ad_program_free(p);
    }
}
END_TEST

int main(void)
{
    TCase *t = suite_case("jacobian", "jacobian");
    tcase_add_loop_test(t, against_differences, 0, NFIELD);
    tcase_add_loop_test(t, derivatives_of_the_trace, 0, NFIELD);
    tcase_add_test(t, other_shapes);
    tcase_add_test(t, many_axes);
    tcase_add_test(t, what_is_not_selected);
    tcase_add_test(t, trace_stays_cheap);
    tcase_add_test(t, parameters_stay_small);
    tcase_add_test(t, trace_through_concatenations);
    tcase_add_test(t, errors);
    return suite_run();
}
