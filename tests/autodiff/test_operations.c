/* Every operation of ops.def, in both types. The table below is generated from ops.def: a row
 * without a case here does not compile. For each: values against libm (pointwise), gradients and
 * second derivatives against central differences, JVP against VJP by the dot-product identity,
 * forward-over-reverse against reverse-over-reverse, lazy values against replayed programs, f32
 * against f64. */
#include "autodiff/tape/tape.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IN = 3, ROWS = 3, MAX_ELEMENTS = 512 };

typedef struct {
    const char *name;
    ad_var (*build)(ad_tape *t, const ad_var *x);
    int nin;
    ad_shape shape[MAX_IN];
    double lo[MAX_IN], hi[MAX_IN];
    double (*reference)(double a, double b, double c); /* pointwise */
    bool flat;                                         /* derivative is zero by definition */
} op_case;

/* ---- cases of the pointwise rows ---- */

#define AD_UNARY(name, traits, kernel, push, ref, lo, hi)                                          \
    static ad_var build_##name(ad_tape *t, const ad_var *x)                                        \
    {                                                                                              \
        (void)t;                                                                                   \
        return ad_##name(x[0]);                                                                    \
    }                                                                                              \
    static double reference_##name(double x, double b, double c)                                   \
    {                                                                                              \
        (void)b, (void)c;                                                                          \
        return ref;                                                                                \
    }
#define AD_BINARY(name, traits, kernel, pa, pb, ref, ...)                                          \
    static ad_var build_##name(ad_tape *t, const ad_var *x)                                        \
    {                                                                                              \
        (void)t;                                                                                   \
        return ad_##name(x[0], x[1]);                                                              \
    }                                                                                              \
    static double reference_##name(double a, double b, double c)                                   \
    {                                                                                              \
        (void)c;                                                                                   \
        return ref;                                                                                \
    }
#define AD_TERNARY(name, traits, kernel, pa, pb, pc, ref)                                          \
    static ad_var build_##name(ad_tape *t, const ad_var *x)                                        \
    {                                                                                              \
        (void)t;                                                                                   \
        return ad_##name(x[0], x[1], x[2]);                                                        \
    }                                                                                              \
    static double reference_##name(double a, double b, double c) { return ref; }
#define AD_CODED(...)
#include "autodiff/ops.def"

/* ---- cases of the structural rows: the operation acts on the square of the operand where that
 * makes second derivatives visible ---- */

static const int64_t indices[] = { 2, 0, 2, 1, 2 };
static const int permutation[] = { 0, 2, 1 };

static ad_var curved(ad_var x) { return ad_mul(x, ad_square(x)); }
static ad_var case_input(ad_tape *t, const ad_var *x)
{
    (void)t;
    return curved(x[0]);
}
static ad_var case_constant(ad_tape *t, const ad_var *x)
{
    return ad_mul(curved(x[0]), ad_constant(t, AD_SHAPE(4), (double[]){ 1, -2, 3, 0.5 }));
}
static ad_var case_fill(ad_tape *t, const ad_var *x)
{
    return ad_mul(curved(x[0]), ad_fill(t, AD_SHAPE(1, 4), 2.5));
}
static ad_var case_eye(ad_tape *t, const ad_var *x)
{
    return ad_add(ad_matmul(curved(x[0]), ad_eye(t, 4, 5, 1)),
                  ad_slice(ad_add(x[0], ad_eye(t, 1, 4, 2)), 1, 0, 1));
}
static ad_var case_row_count(ad_tape *t, const ad_var *x)
{
    return ad_div(curved(x[0]), ad_row_count(t));
}
static ad_var case_sum(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_add(ad_sum_axis(curved(x[0]), 1, true), ad_sum(curved(x[0]), 0, NULL, false));
}
static ad_var case_reshape(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_reshape(curved(x[0]), AD_SHAPE(AD_ROWS, 3, 2));
}
static ad_var case_transpose(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_transpose(curved(x[0]), permutation);
}
static ad_var case_broadcast(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_broadcast(curved(x[0]), AD_SHAPE(AD_ROWS, 3, 4));
}
static ad_var case_slice(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_add(ad_slice(curved(x[0]), 1, 0, 2), ad_slice(curved(x[0]), 1, 1, 3));
}
static ad_var case_assemble(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_add(ad_concatenate(2, (ad_var[]){ curved(x[0]), ad_pad(x[1], 1, 0, 2) }, 1),
                  ad_pad(curved(x[0]), 1, 3, 1));
}
static ad_var case_flip(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_flip(curved(x[0]), 1);
}
static ad_var case_gather(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_gather(curved(x[0]), 1, 5, indices);
}
static ad_var case_scatter_add(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_scatter_add(curved(x[0]), -1, 3, indices);
}
static ad_var case_cumsum(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_add(ad_cumsum(curved(x[0]), 1, false), ad_cumsum(x[0], 1, true));
}
/* One place a row, one for all, and three of each row. */
static ad_var case_take(ad_tape *t, const ad_var *x)
{
    ad_var some = ad_constant(t, AD_SHAPE(3), (double[]){ 0, 2, 2 });
    ad_var three = ad_take(curved(x[0]), ad_mul(ad_floor(x[1]), some));
    return ad_add(ad_mul(ad_take(curved(x[0]), ad_floor(x[1])),
                         ad_take(x[0], ad_constant(t, AD_SHAPE(1), (double[]){ 1 }))),
                  ad_sum_axis(ad_square(three), 1, false));
}
static ad_var case_put_add(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_put_add(curved(x[0]), ad_floor(x[1]), AD_SHAPE(4, 2));
}
static ad_var case_locate(ad_tape *t, const ad_var *x)
{
    return ad_locate(x[0], ad_constant(t, AD_SHAPE(4), (double[]){ -1, 0, 0.5, 2 }));
}
static ad_var case_reduce_max(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_add(ad_reduce_max(curved(x[0]), 1, (int[]){ 1 }, true),
                  ad_reduce_max(curved(x[0]), 1, (int[]){ 0 }, true));
}
static ad_var case_contract(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_matmul(ad_tanh(ad_matmul(x[0], x[1])), x[2]);
}
static const ad_conv_options strided = { .stride = { 2 }, .before = { 2 }, .dilation = { 2 } };
static ad_var case_conv(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_conv(curved(x[0]), curved(x[1]), &strided);
}
static ad_var case_conv_transpose(ad_tape *t, const ad_var *x)
{
    (void)t;
    return ad_conv_transpose(curved(x[0]), curved(x[1]), &strided);
}
static ad_var case_conv_weight(ad_tape *t, const ad_var *x)
{
    ad_var w = ad_fill(t, AD_SHAPE(3, 2, 3), 1), y = ad_conv(curved(x[0]), w, &strided), g;
    ad_var ybar = curved(x[1]);
    ad_vjp(1, &y, &ybar, 1, &w, &g);
    return g;
}
static ad_var case_opaque(ad_tape *t, const ad_var *x);
#define case_project case_opaque

/* A user's opaque operation, y = x^3 and s = sum over rows of x, whose rules record (the first
 * again opaque-free). */
static int cube_forward(void *data, void *state, const ad_opaque_call *call)
{
    (void)data, (void)state;
    int64_t n = call->rows * 4;
    for (int64_t i = 0; i < n; i++) {
        if (call->dtype == AD_F32) {
            float v = ((const float *)call->in[0])[i];
            if (call->out[0]) ((float *)call->out[0])[i] = v * v * v;
        } else {
            double v = ((const double *)call->in[0])[i];
            if (call->out[0]) ((double *)call->out[0])[i] = v * v * v;
        }
    }
    for (int k = 0; k < 4 && call->out[1]; k++) {
        double s = 0;
        for (int64_t b = 0; b < call->rows; b++)
            s += call->dtype == AD_F32 ? ((const float *)call->in[0])[b * 4 + k]
                                       : ((const double *)call->in[0])[b * 4 + k];
        if (call->dtype == AD_F32) ((float *)call->out[1])[k] = (float)s;
        else ((double *)call->out[1])[k] = s;
    }
    return 0;
}
static void cube_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                     const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)data, (void)token, (void)nin, (void)nout, (void)out, (void)need;
    ad_var a =
        ybar[0].node >= 0 ? ad_mul(ybar[0], ad_scale(ad_square(in[0]), 3)) : ad_zeros_like(in[0]);
    xbar[0] = ybar[1].node >= 0 ? ad_add(a, ybar[1]) : a;
}
static void cube_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                     int nout, const ad_var *out, ad_var *ydot)
{
    (void)data, (void)token, (void)nin, (void)nout, (void)out;
    ydot[0] = ad_mul(xdot[0], ad_scale(ad_square(in[0]), 3));
    ydot[1] = ad_sum_axis(xdot[0], 0, true);
}
static const ad_opaque_class cube = {
    .name = "cube", .forward = cube_forward, .vjp = cube_vjp, .jvp = cube_jvp
};
static ad_var case_opaque(ad_tape *t, const ad_var *x)
{
    ad_var out[2];
    ad_opaque(t, &cube, NULL, 1, x, 2, (ad_shape[]){ AD_SHAPE(AD_ROWS, 4), AD_SHAPE(1, 4) }, out);
    return ad_mul(out[0], out[1]);
}

typedef struct {
    int nin;
    ad_shape shape[MAX_IN];
    double lo[MAX_IN], hi[MAX_IN];
    bool flat;
} domain;
#define R(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((int64_t[]){ AD_ROWS, __VA_ARGS__ }) / 8), { AD_ROWS, __VA_ARGS__ }           \
    }
#define S(...)                                                                                     \
    {                                                                                              \
        (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / 8), { __VA_ARGS__ }                             \
    }
#define ONE(shape)                                                                                 \
    {                                                                                              \
        1, { shape }, { -1.5 }, { 1.5 }, false                                                     \
    }
static const domain
    domain_input = ONE(R(4)),
    domain_constant = ONE(R(4)), domain_fill = ONE(R(4)), domain_eye = ONE(R(4)),
    domain_row_count = ONE(R(4)), domain_sum = ONE(R(4, 2)), domain_reshape = ONE(R(6)),
    domain_transpose = ONE(R(2, 3)), domain_broadcast = ONE(S(3, 1)), domain_slice = ONE(R(3)),
    domain_flip = ONE(R(4)), domain_gather = ONE(R(3)), domain_scatter_add = ONE(R(5)),
    domain_cumsum = ONE(R(5, 2)), domain_reduce_max = ONE(R(5)), domain_opaque = ONE(R(4)),
    domain_project = ONE(R(4)), domain_locate = { 1, { R(1) }, { -1.5 }, { 2.5 }, true },
    domain_assemble = { 2, { R(3), R(2) }, { -1.5, -1.5 }, { 1.5, 1.5 }, false },
    domain_take = { 2, { S(4, 2), R(1) }, { -1, 0.01 }, { 1, 3.99 }, false },
    domain_put_add = { 2, { R(2), R(1) }, { -1, 0.01 }, { 1, 3.99 }, false },
    domain_conv = { 2, { R(5, 2), S(3, 2, 3) }, { -1, -1 }, { 1, 1 }, false },
    domain_conv_transpose = { 2, { R(3, 3), S(3, 2, 3) }, { -1, -1 }, { 1, 1 }, false },
    domain_conv_weight = { 2, { R(5, 2), R(2, 3) }, { -1, -1 }, { 1, 1 }, false },
    domain_contract = { 3, { R(3), S(3, 5), S(5, 2) }, { -1, -1, -1 }, { 1, 1, 1 }, false };

static const op_case cases[] = {
#define AD_UNARY(name, traits, kernel, push, ref, lo, hi)                                          \
    { #name, build_##name, 1, { R(4) }, { lo }, { hi }, reference_##name, #push[0] == 'A' },
#define AD_BINARY(name, traits, kernel, pa, pb, ref, la, ha, lb, hb)                               \
    { #name,        build_##name, 2, { R(4), R(4) }, { la, lb }, { ha, hb }, reference_##name,     \
      #pa[0] == 'A' },
#define AD_TERNARY(name, traits, kernel, pa, pb, pc, ref)                                          \
    { #name,          build_##name,     3,    { R(4), R(4), R(4) }, { -2, -3, 0.5 },               \
      { 2, -0.1, 3 }, reference_##name, false },
#define AD_STRUCTURAL(name, ...)                                                                   \
    { #name, case_##name, 0, { { 0, { 0 } } }, { 0 }, { 0 }, NULL, false },
#define AD_CODED(...)
#include "autodiff/ops.def"
};
static const domain *const domains[] = {
#define AD_STRUCTURAL(name, ...) &domain_##name,
#define AD_CODED(...)
#include "autodiff/ops.def"
};
enum {
    NCASE = (int)(sizeof cases / sizeof *cases),
    NDOMAIN = (int)(sizeof domains / sizeof *domains),
    FIRST_STRUCTURAL = NCASE - NDOMAIN
};

static op_case case_at(int i)
{
    op_case c = cases[i];
    if (i < FIRST_STRUCTURAL) return c;
    const domain *d = domains[i - FIRST_STRUCTURAL];
    c.nin = d->nin;
    memcpy(c.shape, d->shape, sizeof c.shape);
    memcpy(c.lo, d->lo, sizeof c.lo);
    memcpy(c.hi, d->hi, sizeof c.hi);
    c.flat = d->flat;
    return c;
}

/* ---- the checks ---- */

static uint64_t random_state;
static double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) / 9007199254740992.0;
}

typedef struct {
    op_case c;
    ad_dtype dtype;
    ad_tape *t;
    ad_var x[MAX_IN], u[MAX_IN], y, w, loss, g[MAX_IN], s, h[MAX_IN];
    double value[MAX_IN][MAX_ELEMENTS], direction[MAX_IN][MAX_ELEMENTS];
} trial;

static int64_t elements(ad_shape s) { return ad_count(s, ROWS); }

static ad_var give(ad_tape *t, ad_shape s, const double *v)
{
    return ad_has_rows(s) ? ad_input_rows(t, s, ROWS, v) : ad_param(t, s, v);
}

/* loss = <w, y>; g its gradient; s = <g, u>; h the gradient of s: the Hessian times u. */
static void record(trial *r, const op_case *c, ad_dtype dtype)
{
    r->c = *c;
    r->dtype = dtype;
    r->t = ad_tape_new(dtype);
    for (int i = 0; i < c->nin; i++) {
        r->x[i] = give(r->t, c->shape[i], r->value[i]);
        r->u[i] = give(r->t, c->shape[i], r->direction[i]);
    }
    r->y = c->build(r->t, r->x);
    double w[MAX_ELEMENTS];
    for (int k = 0; k < MAX_ELEMENTS; k++) w[k] = cos(1.7 * k + 0.3);
    ck_assert_msg(ad_valid(r->y), "%s: %s", c->name, ad_tape_error(r->t));
    r->w = give(r->t, ad_shape_of(r->y), w);
    r->loss = ad_sum_all(ad_mul(r->y, r->w));
    ad_grad(r->loss, c->nin, r->x, r->g);
    for (int i = 0; i < c->nin; i++) {
        ad_var part = ad_sum_all(ad_mul(r->g[i], r->u[i]));
        r->s = i ? ad_add(r->s, part) : part;
    }
    ad_grad(r->s, c->nin, r->x, r->h);
    ck_assert_msg(!ad_tape_error(r->t), "%s: %s", c->name, ad_tape_error(r->t));
}

static void draw(trial *r, const op_case *c, uint64_t seed)
{
    random_state = seed * 7919 + 17;
    for (int i = 0; i < c->nin; i++)
        for (int64_t k = 0; k < elements(c->shape[i]); k++) {
            r->value[i][k] = c->lo[i] + (c->hi[i] - c->lo[i]) * uniform();
            r->direction[i][k] = 2 * uniform() - 1;
        }
}

static void close_to(const op_case *c, const char *what, double got, double want, double scale,
                     double tolerance)
{
    if (got == want) return;
    ck_assert_msg(fabs(got - want) <= tolerance * (1 + fabs(scale)),
                  "%s: %s: got %.17g, want %.17g", c->name, what, got, want);
}

static void values_of(ad_var x, double *out)
{
    ck_assert_msg(ad_get(x, out) == 0, "%s", ad_tape_error(x.tape));
}

static void check_values(const trial *r)
{
    double y[MAX_ELEMENTS];
    values_of(r->y, y);
    for (int64_t k = 0; r->c.reference && k < elements(ad_shape_of(r->y)); k++)
        close_to(&r->c, "value", y[k],
                 r->c.reference(r->value[0][k], r->value[1][k], r->value[2][k]), y[k],
                 r->dtype == AD_F32 ? 2e-6 : 2e-15);
}

/* Sets x[i][k] and reads the loss and s again. */
static void perturb(trial *r, int i, int64_t k, double v, double *loss, double *s)
{
    double copy[MAX_ELEMENTS];
    memcpy(copy, r->value[i], sizeof copy);
    copy[k] = v;
    ck_assert_int_eq(ad_set(r->x[i], ROWS, copy), 0);
    *loss = ad_item(r->loss);
    *s = ad_item(r->s);
    ck_assert_int_eq(ad_set(r->x[i], ROWS, r->value[i]), 0);
}

static void check_differences(trial *r)
{
    const double e = 1e-5;
    for (int i = 0; i < r->c.nin; i++) {
        double g[MAX_ELEMENTS], h[MAX_ELEMENTS];
        values_of(r->g[i], g);
        values_of(r->h[i], h);
        for (int64_t k = 0; k < elements(r->c.shape[i]); k++) {
            double lp, lm, sp, sm;
            perturb(r, i, k, r->value[i][k] + e, &lp, &sp);
            perturb(r, i, k, r->value[i][k] - e, &lm, &sm);
            if (!strcmp(r->c.name, "stop_gradient"))
                lp = lm = sp = sm = 0; /* zero by definition, not by its values */
            close_to(&r->c, "gradient against differences", g[k], (lp - lm) / (2 * e), g[k], 2e-8);
            close_to(&r->c, "second derivative against differences", h[k], (sp - sm) / (2 * e),
                     h[k], 4e-7);
            if (r->c.flat) ck_assert_msg(g[k] == 0, "%s: derivative should be zero", r->c.name);
        }
    }
}

/* <w, J u> = <J^T w, u>; and the Hessian times u by forward over reverse. */
static void check_forward(trial *r)
{
    ad_var ydot, h[MAX_IN];
    ad_jvp(r->c.nin, r->x, r->u, 1, &r->y, &ydot);
    double forward = ad_item(ad_sum_all(ad_mul(ydot, r->w))), reverse = ad_item(r->s),
           tolerance = r->dtype == AD_F32 ? 3e-5 : 1e-13;
    ck_assert_msg(!ad_tape_error(r->t), "%s: %s", r->c.name, ad_tape_error(r->t));
    close_to(&r->c, "JVP against VJP", forward, reverse, reverse * 10, tolerance);
    ad_jvp(r->c.nin, r->x, r->u, r->c.nin, r->g, h);
    for (int i = 0; i < r->c.nin; i++) {
        double a[MAX_ELEMENTS], b[MAX_ELEMENTS];
        values_of(h[i], a);
        values_of(r->h[i], b);
        for (int64_t k = 0; k < elements(r->c.shape[i]); k++)
            close_to(&r->c, "forward over reverse", a[k], b[k], b[k] * 10, tolerance);
    }
}

static void check_replay(trial *r)
{
    ad_var in[2 * MAX_IN + 1], out[2 + 2 * MAX_IN];
    static char data[2 * MAX_IN + 1][MAX_ELEMENTS * 8], got[2 + 2 * MAX_IN][MAX_ELEMENTS * 8];
    const void *inputs[2 * MAX_IN + 1];
    void *outputs[2 + 2 * MAX_IN];
    int ni = 0, no = 0;
    for (int i = 0; i < r->c.nin; i++) {
        in[ni++] = r->x[i];
        in[ni++] = r->u[i];
    }
    in[ni++] = r->w;
    out[no++] = r->y;
    out[no++] = r->s;
    for (int i = 0; i < r->c.nin; i++) {
        out[no++] = r->g[i];
        out[no++] = r->h[i];
    }
    for (int i = 0; i < ni; i++) {
        memcpy(data[i], ad_value(in[i]),
               (size_t)elements(ad_shape_of(in[i])) * ad_dtype_size(r->dtype));
        inputs[i] = data[i];
    }
    for (int i = 0; i < no; i++) outputs[i] = got[i];
    ad_program *p = ad_compile(ni, in, no, out);
    ck_assert_msg(p != NULL, "%s: %s", r->c.name, ad_tape_error(r->t));
    ad_workspace *ws = ad_workspace_new(p, 1);
    ck_assert_msg(ad_run(p, ws, ROWS, inputs, outputs) == 0, "%s: %s", r->c.name,
                  ad_workspace_error(ws));
    for (int i = 0; i < no; i++) {
        double want[MAX_ELEMENTS];
        values_of(out[i], want);
        for (int64_t k = 0; k < elements(ad_shape_of(out[i])); k++) {
            double v = r->dtype == AD_F32 ? ((float *)got[i])[k] : ((double *)got[i])[k];
            close_to(&r->c, "replayed against lazy", v, want[k], want[k] * 10,
                     r->dtype == AD_F32 ? 3e-6 : 1e-14);
        }
    }
    ad_workspace_free(ws);
    ad_program_free(p);
}

static void check_f32(const op_case *c, const trial *wide)
{
    static trial narrow;
    narrow = *wide;
    for (int i = 0; i < c->nin; i++) /* the same numbers in both types */
        for (int64_t k = 0; k < elements(c->shape[i]); k++) {
            narrow.value[i][k] = (float)wide->value[i][k];
            narrow.direction[i][k] = (float)wide->direction[i][k];
        }
    record(&narrow, c, AD_F32);
    for (int i = 0; i < c->nin; i++) {
        double a[MAX_ELEMENTS], b[MAX_ELEMENTS];
        values_of(narrow.g[i], a);
        values_of(wide->g[i], b);
        for (int64_t k = 0; k < elements(c->shape[i]); k++)
            close_to(c, "f32 gradient against f64", a[k], b[k], b[k], 1e-4);
        values_of(narrow.h[i], a);
        values_of(wide->h[i], b);
        for (int64_t k = 0; k < elements(c->shape[i]); k++)
            close_to(c, "f32 second derivative against f64", a[k], b[k], b[k], 5e-4);
    }
    check_values(&narrow);
    check_forward(&narrow);
    check_replay(&narrow);
    ad_tape_free(narrow.t);
}

START_TEST(operation)
{
    op_case c = case_at(_i);
    static trial r;
    draw(&r, &c, (uint64_t)_i + 1);
    record(&r, &c, AD_F64);
    check_values(&r);
    check_forward(&r);
    check_replay(&r);
    check_differences(&r);
    check_f32(&c, &r);
    ad_tape_free(r.t);
}
END_TEST

/* Every pair of broadcasting operand shapes of every binary operation. */
START_TEST(broadcasting)
{
    op_case c = case_at(_i);
    if (!c.reference || c.nin < 2) return;
    static const ad_shape shapes[] = { R(4), S(4), S(1, 4), R(1), S(1), S(1, 1), { 0, { 0 } } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            static trial r;
            c.shape[0] = shapes[i];
            c.shape[1] = shapes[k];
            if (c.nin == 3) c.shape[2] = shapes[(i + k) % 7];
            draw(&r, &c, (uint64_t)(100 * _i) + 10 * i + k);
            record(&r, &c, AD_F64);
            ad_shape out = shapes[0];
            for (int j = 0; j < c.nin; j++)
                ck_assert(j ? ad_broadcast_shapes(out, c.shape[j], &out)
                            : (out = c.shape[0], true));
            ck_assert(ad_same_shape(out, ad_shape_of(r.y)));
            double y[MAX_ELEMENTS];
            values_of(r.y, y);
            for (int64_t n = 0; n < elements(out); n++) {
                double v[MAX_IN] = { 0 };
                for (int j = 0; j < c.nin;
                     j++) { /* out is [R?,C?]; operand axes of size 1 repeat */
                    int64_t columns = out.rank ? out.dim[out.rank - 1] : 1, row = n / columns,
                            column = n % columns;
                    ad_shape s = c.shape[j];
                    int64_t mine = s.rank ? s.dim[s.rank - 1] : 1;
                    if (out.rank == 1 && ad_has_rows(out)) mine = 1;
                    v[j] = r.value[j][(ad_has_rows(s) ? row : 0) * (mine < 0 ? 1 : mine) +
                                      (mine > 1 ? column : 0)];
                }
                close_to(&c, "broadcast value", y[n], c.reference(v[0], v[1], v[2]), y[n], 2e-15);
            }
            check_forward(&r);
            check_replay(&r);
            check_differences(&r);
            ad_tape_free(r.t);
        }
}
END_TEST

/* Operands that are no variables of the tape: nothing is recorded and nothing crashes. */
START_TEST(refuses_what_is_no_operand)
{
    op_case c = case_at(_i);
    if (!c.nin) return;
    for (int which = 0; which < 3; which++) {
        ad_tape *t = ad_tape_new(AD_F64), *other = ad_tape_new(AD_F64);
        int32_t mark = ad_tape_mark(t);
        ad_var x[MAX_IN];
        for (int i = 0; i < c.nin; i++) x[i] = ad_fill(t, AD_SCALAR, 1);
        if (which == 0) ad_tape_rewind(t, mark); /* stale */
        for (int i = 0; i < c.nin && which == 1; i++) x[i] = ad_none(t);
        if (which == 2) x[0] = ad_fill(other, AD_SHAPE(0, -1), 1);
        ad_var y = c.build(t, x);
        ck_assert_msg(!ad_valid(y), "%s", c.name);
        ck_assert_msg(ad_tape_error(t) || ad_tape_error(other), "%s", c.name);
        ad_tape_free(t);
        ad_tape_free(other);
    }
}
END_TEST

/* An operation with a number of operands for which there is no kernel. */
START_TEST(no_kernel)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(2), ((double[]){ 1, 2 }));
    ad_var y =
        ad_record(t, AD_OP_max, 3, (int32_t[]){ x.node, x.node, x.node }, 0, NULL, AD_SHAPE(2));
    ck_assert(ad_valid(y));
    ck_assert(!ad_value(y));
    ck_assert_str_eq(ad_tape_error(t), "ad_value: no kernel for ad_max");
    ad_tape_clear_error(t);
    ck_assert(!ad_compile(1, &x, 1, &y));
    ck_assert_str_eq(ad_tape_error(t), "ad_compile: no kernel for ad_max");
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *t = suite_case("operations", "table");
    tcase_add_loop_test(t, operation, 0, NCASE);
    tcase_add_loop_test(t, broadcasting, 0, FIRST_STRUCTURAL);
    tcase_add_loop_test(t, refuses_what_is_no_operand, 0, NCASE);
    tcase_add_test(t, no_kernel);
    return suite_run();
}
