/* The graphs that tests of compiled programs run: each records inputs, with data, and outputs.
 * Include it once per program. */
#ifndef COSTATE_TESTS_GRAPHS_H
#define COSTATE_TESTS_GRAPHS_H
#include "autodiff/extension.h"
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <check.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VARS = 16, MAX_ROWS = 640, D = 5, H = 16 };

/* A function under test: inputs with data, outputs. */
typedef struct {
    ad_tape *tape;
    ad_dtype dtype;
    int64_t rows;
    int ninput, noutput;
    ad_var input[MAX_VARS], output[MAX_VARS];
    void *data[MAX_VARS];
} function;

typedef struct {
    const char *name;
    void (*build)(function *f);
    bool row_wise; /* rows do not see each other */
    int phases;
} graph;

static size_t size_of(ad_dtype t) { return t == AD_F32 ? 4 : 8; }
static double get(ad_dtype t, const void *p, int64_t i)
{
    return t == AD_F32 ? ((const float *)p)[i] : ((const double *)p)[i];
}

static void put(ad_dtype t, void *p, int64_t i, double x)
{
    if (t == AD_F32) ((float *)p)[i] = (float)x;
    else ((double *)p)[i] = x;
}

static int64_t count(ad_shape s, int64_t rows)
{
    int64_t n = 1;
    for (int i = 0; i < s.rank; i++) n *= s.dim[i] == AD_ROWS ? rows : s.dim[i];
    return n;
}

static bool has_rows(ad_shape s) { return s.rank > 0 && s.dim[0] == AD_ROWS; }

/* ---- recording the graphs -------------------------------------------------------------------- */

typedef enum { PARAMETER, CALL, ROWS } source;

static ad_var in(function *f, source s, ad_shape shape)
{
    int k = f->ninput++;
    int64_t n = count(shape, MAX_ROWS);
    f->data[k] = malloc((size_t)n * size_of(f->dtype));
    for (int64_t i = 0; i < n; i++)
        put(f->dtype, f->data[k], i, sin(1.7 * (double)i + 0.9 * k + 0.37 * (double)(i % 7)) * 0.8);
    if (s == PARAMETER) f->input[k] = ad_param_data(f->tape, shape, f->dtype, f->data[k]);
    if (s == CALL) f->input[k] = ad_input_data(f->tape, shape, f->dtype, f->data[k]);
    if (s == ROWS) f->input[k] = ad_input_rows_data(f->tape, shape, f->rows, f->dtype, f->data[k]);
    return f->input[k];
}

static void out(function *f, ad_var x) { f->output[f->noutput++] = x; }
static ad_var slice_of(ad_var theta, int64_t from, ad_shape shape)
{
    return ad_reshape(ad_slice(theta, 0, from, from + count(shape, 0)), shape);
}

/* A perceptron whose weights are slices of one vector. */
static ad_var mlp(ad_var theta, ad_var x)
{
    ad_var w1 = slice_of(theta, 0, AD_SHAPE(D, H)), b1 = slice_of(theta, D * H, AD_SHAPE(1, H));
    ad_var w2 = slice_of(theta, D * H + H, AD_SHAPE(H, H)),
           b2 = slice_of(theta, D * H + H + H * H, AD_SHAPE(1, H));
    ad_var w3 = slice_of(theta, D * H + 2 * H + H * H, AD_SHAPE(H, D));
    ad_var h = ad_tanh(ad_add(ad_matmul(x, w1), b1));
    h = ad_tanh(ad_add(ad_matmul(h, w2), b2));
    return ad_matmul(h, w3);
}
enum { THETA = D * H + 2 * H + H * H + H * D };

static void build_mlp(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D));
    out(f, mlp(theta, x));
}

static void build_gradient(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)),
           target = in(f, ROWS, AD_SHAPE(AD_ROWS, D));
    ad_var loss = ad_mean_all(ad_square(ad_sub(mlp(theta, x), target))), bar[2],
           vars[] = { theta, x };
    ad_grad(loss, 2, vars, bar);
    out(f, loss);
    out(f, bar[0]);
    out(f, bar[1]);
}

static void build_vjp(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)),
           bar = in(f, ROWS, AD_SHAPE(AD_ROWS, D));
    ad_var y = mlp(theta, x), xbar;
    ad_vjp(1, &y, &bar, 1, &x, &xbar);
    out(f, y);
    out(f, xbar);
}

static void build_trace(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D));
    ad_var y = ad_add(mlp(theta, x), x);
    out(f, y);
    out(f, ad_jacobian_trace(y, x));
}

static void build_trace_gradient(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)), bar;
    ad_grad(ad_sum_all(ad_jacobian_trace(mlp(theta, x), x)), 1, &theta, &bar);
    out(f, bar);
}

static void build_jacobian(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D));
    out(f, ad_jacobian(mlp(theta, x), x));
}

static void build_hvp(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(THETA)), v = in(f, PARAMETER, AD_SHAPE(THETA)),
           x = in(f, ROWS, AD_SHAPE(AD_ROWS, D));
    out(f, ad_hvp(ad_mean_all(ad_square(mlp(theta, x))), theta, v));
}

/* Two reductions over rows, each used in rows again: three bodies, of which the later ones need
 * rows of the first. */
static void build_standardise(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)), y = ad_tanh(x);
    ad_var centred = ad_sub(y, ad_mean(y, 1, (int[]){ 0 }, true));
    ad_var variance = ad_mean(ad_square(centred), 1, (int[]){ 0 }, true);
    out(f, ad_mul(centred, ad_rsqrt(ad_shift(variance, 1e-3))));
    out(f, variance);
}

static void build_reductions(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, 3, 4)), p = in(f, PARAMETER, AD_SHAPE(3, 4));
    out(f, ad_sum_all(x));
    out(f, ad_reduce_max(x, 1, (int[]){ 0 }, false));
    out(f, ad_reduce_max(x, 2, (int[]){ 1, 2 }, true));
    out(f, ad_logsumexp(x, 1, (int[]){ -1 }, false));
    out(f, ad_logsumexp(x, 1, (int[]){ 0 }, true));
    out(f, ad_sum(ad_mul(x, p), 2, (int[]){ 0, 2 }, false));
    out(f, ad_contract("rij,rkj->ik", 2, (ad_var[]){ x, ad_exp(x) }));
    out(f, ad_mul(ad_row_count(f->tape), ad_sum_all(p)));
}

static void build_contractions(function *f)
{
    ad_var a = in(f, ROWS, AD_SHAPE(AD_ROWS, 3, 4)), b = in(f, ROWS, AD_SHAPE(AD_ROWS, 4, 5)),
           w = in(f, PARAMETER, AD_SHAPE(6, 4)), t = in(f, CALL, AD_SHAPE(5, 5));
    out(f, ad_matmul(a, b));
    out(f, ad_contract("rij,kj->rik", 2, (ad_var[]){ a, w }));
    out(f, ad_contract("kj,rji->rki", 2, (ad_var[]){ w, b }));
    out(f, ad_contract("rij,rjk,kl->ril", 3, (ad_var[]){ a, b, t }));
    out(f, ad_contract("rij,rij->r", 2, (ad_var[]){ a, a }));
    out(f, ad_matmul(ad_transpose(t, (int[]){ 1, 0 }), t));
    out(f, ad_matmul(ad_transpose(b, (int[]){ 0, 2, 1 }), ad_transpose(w, (int[]){ 1, 0 })));
}

static void build_layouts(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, 4, 6)), p = in(f, PARAMETER, AD_SHAPE(4, 6)),
           i = in(f, ROWS, AD_SHAPE(AD_ROWS, 1));
    ad_var left = ad_slice(x, 2, 0, 2), right = ad_slice(x, 2, 2, 6),
           both = ad_concatenate(2, (ad_var[]){ right, left }, 2);
    out(f, both);
    out(f, ad_slice(both, 2, 1, 3));
    out(f, ad_add(ad_pad(left, 2, 1, 3), ad_pad(right, 2, 2, 0)));
    out(f, ad_flip(ad_gather(x, 1, 3, (int64_t[]){ 2, 0, 2 }), 2));
    out(f, ad_scatter_add(x, 1, 3, (int64_t[]){ 2, 0, 2, 1 }));
    out(f, ad_cumsum(x, 2, true));
    out(f, ad_take(p, ad_scale(ad_abs(i), 4)));
    out(f, ad_transpose(ad_reshape(x, AD_SHAPE(AD_ROWS, 2, 12)), (int[]){ 0, 2, 1 }));
    out(f, ad_reshape(ad_slice(p, 0, 1, 3), AD_SHAPE(12)));
    out(f, ad_stack(2, (ad_var[]){ p, p }, 0));
}

/* Outputs that are inputs, constants, views, each other, or the same for all rows. */
static void build_outputs(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)), p = in(f, PARAMETER, AD_SHAPE(D)),
           t = in(f, CALL, AD_SCALAR);
    ad_var y = ad_exp(x);
    out(f, x);
    out(f, p);
    out(f, y);
    out(f, y);
    out(f, ad_reshape(y, AD_SHAPE(AD_ROWS, 1, D)));
    out(f, ad_constant(f->tape, AD_SHAPE(3), (double[]){ 1, 2, 3 }));
    out(f, ad_broadcast(ad_mul(p, t), AD_SHAPE(AD_ROWS, D)));
    out(f, ad_fill(f->tape, AD_SHAPE(AD_ROWS, 2), 3));
    out(f, ad_eye(f->tape, 3, 4, 1));
    out(f, ad_slice(p, 0, 1, 3));
    out(f, ad_tanh(y));
}

/* Values used many times, equal values written twice, algebra that simplifies away. */
static void build_algebra(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)), w = in(f, PARAMETER, AD_SHAPE(D, D)),
           t = in(f, CALL, AD_SCALAR);
    ad_var a = ad_mul(x, t), b = ad_mul(x, t), eye = ad_eye(f->tape, D, D, 0);
    ad_var c = ad_add(ad_neg(ad_neg(a)), ad_scale(b, 1));
    out(f, ad_sub(ad_mul(c, c), ad_neg(ad_stop_gradient(c))));
    out(f, ad_matmul(ad_matmul(x, eye), w));
    out(f, ad_matmul(x, ad_eye(f->tape, D, D + 2, 1)));
    out(f,
        ad_add(ad_matmul(eye, w), ad_transpose(ad_transpose(w, (int[]){ 1, 0 }), (int[]){ 1, 0 })));
    out(f, ad_mul(ad_scale(ad_ones_like(x), 2), ad_exp(ad_scalar(f->tape, 0.5))));
    out(f, ad_add(ad_shift(x, -0.0),
                  ad_mul(ad_broadcast(t, AD_SHAPE(AD_ROWS, D)), ad_broadcast(t, AD_SHAPE(1, D)))));
}

/* Rows that no reduction binds but a long chain, many buffers at once. */
static void build_chain(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, 7)), kept[6], y = x;
    for (int i = 0; i < 36; i++) {
        y = i % 3 == 0   ? ad_sin(y)
            : i % 3 == 1 ? ad_add(y, x)
                         : ad_mul(y, ad_slice(ad_concatenate(2, (ad_var[]){ x, y }, 1), 1, 3, 10));
        if (i % 6 == 0) kept[i / 6] = y;
    }
    for (int i = 0; i < 6; i++) y = ad_add(y, kept[i]);
    out(f, y);
}

/* An opaque operation: the running sum over the rows of its first operand times its second, and the
 * sum of all rows. Its state counts runs.
 */
static atomic_int live_states, live_data;
static void *state_new(void *data)
{
    (void)data;
    atomic_fetch_add(&live_states, 1);
    return calloc(1, sizeof(int));
}
static void state_free(void *state)
{
    atomic_fetch_sub(&live_states, 1);
    free(state);
}
static void retain(void *data) { atomic_fetch_add((atomic_int *)data, 1); }
static void release(void *data)
{
    if (atomic_fetch_sub((atomic_int *)data, 1) != 1) return;
    atomic_fetch_sub(&live_data, 1);
    free(data);
}

static int running_sum(void *data, void *state, const ad_opaque_call *call)
{
    (void)data;
    ++*(int *)state;
    double sum[D] = { 0 };
    if (get(call->dtype, call->in[1], 0) > 100) {
        snprintf(call->error, call->error_size, "the factor is above 100");
        return -1;
    }
    for (int64_t r = 0; r < call->rows; r++)
        for (int d = 0; d < D; d++) {
            sum[d] += get(call->dtype, call->in[0], r * D + d);
            if (call->out[0])
                put(call->dtype, call->out[0], r * D + d,
                    sum[d] * get(call->dtype, call->in[1], 0));
        }
    for (int d = 0; d < D && call->out[1]; d++) put(call->dtype, call->out[1], d, sum[d]);
    return 0;
}
static const ad_opaque_class running_sum_class = { .name = "running_sum",
                                                   .forward = running_sum,
                                                   .state_new = state_new,
                                                   .state_free = state_free,
                                                   .retain = retain,
                                                   .release = release };

/* Equal operands and data, but another class: another operation. */
static int doubled_sum(void *data, void *state, const ad_opaque_call *call)
{
    int code = running_sum(data, state, call);
    for (int d = 0; d < D && call->out[1]; d++)
        put(call->dtype, call->out[1], d, 2 * get(call->dtype, call->out[1], d));
    return code;
}
static const ad_opaque_class doubled_sum_class = {
    .name = "doubled_sum", .forward = doubled_sum, .state_new = state_new, .state_free = state_free
};

/* Reads the state of the operation whose token it gets: how often that ran. */
static int count_runs(void *data, void *state, const ad_opaque_call *call)
{
    (void)data, (void)state;
    put(call->dtype, call->out[0], 0, call->in[0] == NULL && *(int *)call->in_state[0] > 0);
    return 0;
}
static const ad_opaque_class count_runs_class = { .name = "count_runs", .forward = count_runs };

static ad_var record_running_sum(function *f, ad_var x, ad_var factor, ad_var result[2])
{
    atomic_int *data = malloc(sizeof *data);
    atomic_init(data, 1);
    atomic_fetch_add(&live_data, 1);
    return ad_opaque(f->tape, &running_sum_class, data, 2, (ad_var[]){ x, factor }, 2,
                     (ad_shape[]){ AD_SHAPE(AD_ROWS, D), AD_SHAPE(D) }, result);
}

static void build_opaque(function *f)
{
    ad_var x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)), t = in(f, CALL, AD_SCALAR), sum[2], runs,
           unused[2], twice[2];
    ad_var y = ad_tanh(x), token = record_running_sum(f, y, ad_exp(t), sum);
    ad_opaque(f->tape, &count_runs_class, NULL, 1, &token, 1, &(ad_shape){ 0, { 0 } }, &runs);
    record_running_sum(f, sum[0], t, unused);
    ad_opaque(f->tape, &doubled_sum_class, NULL, 2, (ad_var[]){ y, ad_exp(t) }, 2,
              (ad_shape[]){ AD_SHAPE(AD_ROWS, D), AD_SHAPE(D) }, twice);
    out(f, twice[1]);
    out(f, ad_add(ad_mul(sum[0], y), sum[1]));
    out(f, ad_sum_axis(sum[0], 0, false));
    out(f, runs);
    out(f, unused[0]);
}

static void build_uniform(function *f)
{
    ad_var w = in(f, PARAMETER, AD_SHAPE(4, 3)), t = in(f, CALL, AD_SHAPE(3));
    ad_var y = ad_matmul(w, ad_reshape(t, AD_SHAPE(3, 1)));
    out(f, ad_tanh(y));
    out(f, ad_logsumexp(ad_matmul(w, ad_transpose(w, (int[]){ 1, 0 })), 0, NULL, false));
    out(f, ad_sum_all(ad_square(t)));
}

/* Sums of reductions: what may share lanes (a parameter used several times, under several shapes),
 * and what looks like it. */
static void build_sums(function *f)
{
    ad_var w = in(f, PARAMETER, AD_SHAPE(D, D)), b = in(f, PARAMETER, AD_SHAPE(D)),
           x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)), y = x, bar[2];
    for (int k = 0; k < 3; k++) y = ad_tanh(ad_add(ad_matmul(y, w), b));
    ad_grad(ad_sum_all(y), 2, (ad_var[]){ w, b }, bar);
    out(f, bar[0]);
    out(f, ad_square(bar[1]));
    ad_var r[6];
    for (int k = 0; k < 6; k++) r[k] = ad_sum_axis(ad_shift(ad_square(y), 0.1 * k), 0, false);
    ad_var part = ad_add(r[0], r[1]);
    out(f, part);
    out(f, ad_add(ad_reshape(part, AD_SHAPE(1, D)),
                  ad_sum_axis(x, 0, true))); /* the sum's part is an output */
    out(f, ad_add(r[2], r[2]));
    out(f, ad_add(r[3], ad_sum_all(x))); /* broadcast */
    out(f,
        ad_add(ad_reduce_max(x, 1, (int[]){ 0 }, false), ad_reduce_max(y, 1, (int[]){ 0 }, false)));
    ad_var centred = ad_sub(x, ad_mean(x, 1, (int[]){ 0 }, true));
    out(f, ad_add(r[4], ad_sum_axis(ad_square(centred), 0, false))); /* made in different bodies */
    out(f, ad_mul(ad_add(ad_add(b, r[5]), ad_sum_axis(ad_mul(x, y), 0, false)), b));
}

/* Two stretches of one vector that begin at the same place, each added to every row of an array as
 * wide as itself. */
static void build_stretches(function *f)
{
    ad_var theta = in(f, PARAMETER, AD_SHAPE(2 * D)), x = in(f, ROWS, AD_SHAPE(AD_ROWS, D)),
           z = in(f, ROWS, AD_SHAPE(AD_ROWS, 2 * D));
    out(f, ad_tanh(ad_add(x, ad_slice(theta, 0, 0, D))));
    out(f, ad_tanh(ad_add(z, theta)));
}

static const graph graphs[] = {
    { "mlp", build_mlp, true, 1 },
    { "gradient", build_gradient, false, 1 },
    { "vjp", build_vjp, true, 1 },
    { "trace", build_trace, true, 1 },
    { "trace_gradient", build_trace_gradient, false, 1 },
    { "jacobian", build_jacobian, true, 1 },
    { "hvp", build_hvp, false, 1 },
    { "standardise", build_standardise, false, 3 },
    { "reductions", build_reductions, false, 2 },
    { "contractions", build_contractions, true, 1 },
    { "layouts", build_layouts, true, 1 },
    { "outputs", build_outputs, true, 1 },
    { "algebra", build_algebra, true, 1 },
    { "chain", build_chain, true, 1 },
    { "opaque", build_opaque, false, 2 },
    { "uniform", build_uniform, false, 0 },
    { "sums", build_sums, false, 2 },
    { "stretches", build_stretches, true, 1 },
};
enum { GRAPHS = sizeof graphs / sizeof *graphs };

static function record(const graph *g, ad_dtype dtype, int64_t rows)
{
    function f = { .tape = ad_tape_new(dtype), .dtype = dtype, .rows = rows };
    g->build(&f);
    ck_assert_msg(!ad_tape_error(f.tape), "%s: %s", g->name, ad_tape_error(f.tape));
    return f;
}

static void forget(function *f)
{
    ad_tape_free(f->tape);
    for (int i = 0; i < f->ninput; i++) free(f->data[i]);
}

static ad_program *compile(const function *f)
{
    ad_program *p = ad_compile(f->ninput, f->input, f->noutput, f->output);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(f->tape));
    share_always(p);
    return p;
}

#endif
