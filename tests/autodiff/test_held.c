/* Variables that callers hold stay on the path from their operands to what is computed from them:
 * for every pair of operations, the derivatives of f(g(y)) by x = g(y) are those of f at an input
 * that has x's values, and agree with differences. So no operation may be simplified away with its
 * operand when it is recorded. */
#include "autodiff/tape/tape.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { ROWS = 2, MOST = 512 };

typedef struct {
    const char *name;
    ad_var (*record)(ad_var x); /* of any shape; invalid without an error: not for this one */
    bool kinks;                 /* no derivative at some numbers: differences are not asked */
} operation;

#define AD_UNARY(name, ...)                                                                        \
    static ad_var op_##name(ad_var x) { return ad_##name(x); }
#define AD_CODED(...)
#include "autodiff/ops.def"

static int last_of(ad_var x) { return ad_shape_of(x).rank - 1; }
static int64_t row_size(ad_var x) { return ad_row_size(ad_shape_of(x)); }
static ad_shape row_shape(ad_var x, int rank, int64_t a, int64_t b)
{
    if (ad_has_rows(ad_shape_of(x))) return (ad_shape){ rank + 1, { AD_ROWS, a, b } };
    return (ad_shape){ rank, { a, b } };
}
static bool is_matrix(ad_var x)
{
    return ad_shape_of(x).rank == (ad_has_rows(ad_shape_of(x)) ? 3 : 2);
}
static ad_var ones(ad_var x) { return ad_ones_like(x); }
static ad_var zeros(ad_var x) { return ad_zeros_like(x); }
static ad_var eye(ad_var x) { return ad_eye(x.tape, 2, 2, 0); }
static ad_var same_scale(ad_var x) { return ad_scale(x, 1); }
static ad_var minus_scale(ad_var x) { return ad_scale(x, -1); }
static ad_var half(ad_var x) { return ad_scale(x, 0.5); }
static ad_var doubled(ad_var x) { return ad_scale(x, 2); }
static ad_var shifted(ad_var x) { return ad_shift(x, 0.25); }
static ad_var unshifted(ad_var x) { return ad_shift(x, -0.0); }
static ad_var from_zero(ad_var x) { return ad_sub(ad_scalar(x.tape, 0), x); }
static ad_var minus_zero(ad_var x) { return ad_sub(x, ad_scalar(x.tape, 0)); }
static ad_var over_one(ad_var x) { return ad_div(x, ad_scalar(x.tape, 1)); }
static ad_var times_itself(ad_var x) { return ad_mul(x, x); }
static ad_var plus_itself(ad_var x) { return ad_add(x, x); }
static ad_var smaller(ad_var x) { return ad_min(x, ad_scalar(x.tape, 0.6)); }
static ad_var larger(ad_var x) { return ad_max(x, ad_scalar(x.tape, 0.4)); }
static ad_var clamped(ad_var x)
{
    return ad_clamp(x, ad_scalar(x.tape, 0.4), ad_scalar(x.tape, 0.6));
}
static ad_var selected(ad_var x)
{
    return ad_select(ad_gt(x, ad_scalar(x.tape, 0.5)), x, ad_scalar(x.tape, 0.1));
}
static ad_var squared(ad_var x) { return ad_pow_scalar(x, 2); }
static ad_var to_first(ad_var x) { return ad_pow_scalar(x, 1); }
static ad_var flat(ad_var x) { return ad_reshape(x, row_shape(x, 1, row_size(x), 0)); }
static ad_var pairs(ad_var x)
{
    return row_size(x) % 2 ? ad_none(x.tape) : ad_reshape(x, row_shape(x, 2, row_size(x) / 2, 2));
}
static ad_var columns(ad_var x) { return ad_reshape(x, row_shape(x, 2, row_size(x), 1)); }
static ad_var transposed(ad_var x)
{
    if (!is_matrix(x)) return ad_none(x.tape);
    int k = last_of(x);
    int permutation[3] = { 0, 1, 2 };
    permutation[k] = k - 1;
    permutation[k - 1] = k;
    return ad_transpose(x, permutation);
}
static ad_var widened(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    if (s.rank < 1 || s.dim[s.rank - 1] != 1) return ad_none(x.tape);
    s.dim[s.rank - 1] = 3;
    return ad_broadcast(x, s);
}
static bool has_axis(ad_var x)
{
    return ad_shape_of(x).rank > (ad_has_rows(ad_shape_of(x)) ? 1 : 0);
}
static ad_var head(ad_var x) { return has_axis(x) ? ad_slice(x, -1, 0, 1) : ad_none(x.tape); }
static ad_var tail(ad_var x)
{
    int64_t n = has_axis(x) ? ad_shape_of(x).dim[last_of(x)] : 0;
    return n > 1 ? ad_slice(x, -1, 1, n) : ad_none(x.tape);
}
static ad_var padded(ad_var x) { return has_axis(x) ? ad_pad(x, -1, 1, 0) : ad_none(x.tape); }
static ad_var twice(ad_var x)
{
    return has_axis(x) ? ad_concatenate(2, (ad_var[]){ x, x }, -1) : ad_none(x.tape);
}
static ad_var stacked(ad_var x)
{
    return is_matrix(x) ? ad_none(x.tape) : ad_stack(2, (ad_var[]){ x, x }, -1);
}
static ad_var flipped(ad_var x) { return has_axis(x) ? ad_flip(x, -1) : ad_none(x.tape); }
static ad_var gathered(ad_var x)
{
    return has_axis(x) ? ad_gather(x, -1, 3, (int64_t[]){ 0, 0, 0 }) : ad_none(x.tape);
}
static ad_var scattered(ad_var x)
{
    static const int64_t zero[MOST] = { 0 };
    return has_axis(x) ? ad_scatter_add(x, -1, 2, zero) : ad_none(x.tape);
}
static ad_var running(ad_var x) { return has_axis(x) ? ad_cumsum(x, -1, false) : ad_none(x.tape); }
static ad_var backwards(ad_var x) { return has_axis(x) ? ad_cumsum(x, -1, true) : ad_none(x.tape); }
static ad_var total(ad_var x) { return ad_sum_all(x); }
static ad_var sum_kept(ad_var x)
{
    return has_axis(x) ? ad_sum_axis(x, -1, true) : ad_none(x.tape);
}
static ad_var averaged(ad_var x) { return ad_mean_all(x); }
static ad_var greatest(ad_var x)
{
    return has_axis(x) ? ad_reduce_max(x, 1, (int[]){ -1 }, true) : ad_none(x.tape);
}
static ad_var log_sum(ad_var x)
{
    return has_axis(x) ? ad_logsumexp(x, 1, (int[]){ -1 }, true) : ad_none(x.tape);
}
static ad_var by_eye(ad_var x)
{
    int64_t n = has_axis(x) ? ad_shape_of(x).dim[last_of(x)] : 0;
    return n ? ad_matmul(x, ad_eye(x.tape, n, n, 0)) : ad_none(x.tape);
}
static ad_var by_matrix(ad_var x)
{
    int64_t n = has_axis(x) ? ad_shape_of(x).dim[last_of(x)] : 0;
    static const double m[8] = { 1, 0.5, -0.25, 2, 0.75, -1, 1.5, 0.125 };
    return n == 2 || n == 4 ? ad_matmul(x, ad_constant(x.tape, AD_SHAPE(n, 2), m))
                            : ad_none(x.tape);
}
static ad_var diagonal(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    if (!is_matrix(x) || s.dim[s.rank - 1] != s.dim[s.rank - 2]) return ad_none(x.tape);
    return ad_contract(ad_has_rows(s) ? "bii->bi" : "ii->i", 1, &x);
}
static ad_var with_itself(ad_var x) { return ad_shape_of(x).rank ? ad_dot(x, x) : ad_none(x.tape); }
static ad_var slope(ad_var x)
{
    ad_var g, loss = ad_sum_all(ad_sin(x));
    ad_grad(loss, 1, &x, &g);
    return g;
}

#define OP(name)                                                                                   \
    {                                                                                              \
#name, name, false                                                                         \
    }
#define KINKED(name)                                                                               \
    {                                                                                              \
#name, name, true                                                                          \
    }
static const operation operations[] = {
#define AD_UNARY(name, traits, ...)                                                                \
    { #name, op_##name,                                                                            \
      AD_OP_##name == AD_OP_relu || AD_OP_##name == AD_OP_abs || AD_OP_##name == AD_OP_sign ||     \
          AD_OP_##name == AD_OP_floor || AD_OP_##name == AD_OP_stop_gradient },
#define AD_CODED(...)
#include "autodiff/ops.def"
    OP(ones),       OP(zeros),       OP(eye),          OP(same_scale),   OP(minus_scale),
    OP(half),       OP(doubled),     OP(shifted),      OP(unshifted),    OP(from_zero),
    OP(minus_zero), OP(over_one),    OP(times_itself), OP(plus_itself),  KINKED(smaller),
    KINKED(larger), KINKED(clamped), KINKED(selected), OP(squared),      OP(to_first),
    OP(flat),       OP(pairs),       OP(columns),      OP(transposed),   OP(widened),
    OP(head),       OP(tail),        OP(padded),       OP(twice),        OP(stacked),
    OP(flipped),    OP(gathered),    OP(scattered),    OP(running),      OP(backwards),
    OP(total),      OP(sum_kept),    OP(averaged),     KINKED(greatest), OP(log_sum),
    OP(by_eye),     OP(by_matrix),   OP(diagonal),     OP(with_itself),  OP(slope),
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

/* What is compared: f at x, and derivatives by x in several ways. */
typedef struct {
    ad_var loss, gradient, cut, tangent, trace;
    bool depends;
} results;

static bool record(const operation *f, ad_var x, results *r)
{
    ad_var z = f->record(x);
    if (!ad_valid(z)) return false;
    double w[MOST];
    ad_shape s = ad_shape_of(z);
    for (int64_t k = 0; k < ad_row_size(s); k++) w[k] = cos(1.7 * (double)k + 0.3);
    ad_shape weights = s;
    if (ad_has_rows(s)) weights.dim[0] = 1;
    r->loss = ad_sum_all(ad_mul(ad_sin(z), ad_constant(x.tape, weights, w)));
    ad_var one = ad_scalar(x.tape, 1), u = ad_fill(x.tape, ad_shape_of(x), 1);
    ad_grad(r->loss, 1, &x, &r->gradient);
    ad_vjp_cut(1, &r->loss, &one, 1, &x, &r->cut);
    ad_jvp(1, &x, &u, 1, &r->loss, &r->tangent);
    bool square = ad_same_shape(s, ad_shape_of(x)) && s.rank == (ad_has_rows(s) ? 2 : 1);
    r->trace = square ? ad_sum_all(ad_jacobian_trace(z, x)) : ad_scalar(x.tape, 0);
    r->depends = ad_depends(z, x);
    return true;
}

static int64_t read(ad_var x, double *out)
{
    ck_assert_msg(ad_get(x, out) == 0, "%s", ad_tape_error(x.tape));
    return ad_size(x);
}

static void compare(const char *f, const char *g, const char *what, ad_var got, ad_var want)
{
    double a[MOST], b[MOST];
    int64_t n = read(got, a);
    ck_assert_int_eq(n, read(want, b));
    for (int64_t k = 0; k < n; k++)
        ck_assert_msg(a[k] == b[k] || (isnan(a[k]) && isnan(b[k])) ||
                          fabs(a[k] - b[k]) <= 1e-12 * (1 + fabs(b[k])),
                      "%s of %s, %s by the operand: %.17g, should be %.17g", f, g, what, a[k],
                      b[k]);
}

/* alone: f at an input with the values of x. */
static void differences(const char *f, const char *g, ad_var gradient, ad_var alone, ad_var loss)
{
    double got[MOST], values[MOST], moved[MOST];
    int64_t n = read(alone, values);
    const double e = 1e-5; /* differences of fourth order */
    read(gradient, got);
    for (int64_t k = 0; k < n; k++) {
        double at[5];
        for (int j = -2; j <= 2; j++) {
            memcpy(moved, values, sizeof moved);
            moved[k] += j * e;
            ck_assert_int_eq(ad_set(alone, ROWS, moved), 0);
            at[j + 2] = ad_item(loss);
        }
        double want = (8 * (at[3] - at[1]) - (at[4] - at[0])) / (12 * e);
        double second_order = (at[3] - at[1]) / (2 * e);
        if (!(fabs(second_order - want) < 1e-4 * (1 + fabs(want)))) continue; /* near a pole */
        bool far = fabs(got[k] - want) > 1e-6 * (1 + fabs(want));
        ck_assert_msg(!far, "%s of %s, gradient by the operand: %.9g, differences say %.9g", f, g,
                      got[k], want);
    }
}

static void check_pair(const operation *f, const operation *g, ad_shape shape)
{
    double y0[8], values[MOST];
    for (int k = 0; k < 8; k++) y0[k] = 0.31 + 0.05 * k + 0.005 * k * k;
    ad_tape *t = ad_tape_new(AD_F64), *other = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(t, shape, ROWS, y0), x = g->record(y);
    results held, alone;
    bool finite = ad_valid(x);
    int64_t n = finite ? read(x, values) : 0;
    for (int64_t k = 0; k < n; k++) finite = finite && isfinite(values[k]);
    if (finite && record(f, x, &held)) {
        ad_shape s = ad_shape_of(x);
        ad_var in =
            ad_has_rows(s) ? ad_input_rows(other, s, ROWS, values) : ad_input(other, s, values);
        ck_assert(record(f, in, &alone));
        ck_assert_msg(held.depends == alone.depends, "%s of %s, dependence", f->name, g->name);
        compare(f->name, g->name, "value", held.loss, alone.loss);
        compare(f->name, g->name, "gradient", held.gradient, alone.gradient);
        compare(f->name, g->name, "gradient of one step", held.cut, alone.cut);
        compare(f->name, g->name, "tangent", held.tangent, alone.tangent);
        compare(f->name, g->name, "trace", held.trace, alone.trace);
        if (!f->kinks && isfinite(ad_item(alone.loss)))
            differences(f->name, g->name, held.gradient, in, alone.loss);
    }
    ck_assert_msg(!ad_tape_error(t), "%s of %s: %s", f->name, g->name, ad_tape_error(t));
    ck_assert_msg(!ad_tape_error(other), "%s: %s", f->name, ad_tape_error(other));
    ad_tape_free(t);
    ad_tape_free(other);
}

START_TEST(every_pair)
{
    for (int k = 0; k < OPERATIONS; k++) {
        check_pair(&operations[_i], &operations[k], AD_SHAPE(AD_ROWS, 4));
        check_pair(&operations[_i], &operations[k], AD_SHAPE(AD_ROWS, 2, 2));
    }
}
END_TEST

/* The derivative by a constant that is held, where the operation does nothing at its value. */
static void check_constant(const char *what, ad_var c, ad_var z, double want)
{
    ad_var g;
    ad_grad(ad_sum_all(z), 1, &c, &g);
    ck_assert_msg(!ad_tape_error(c.tape), "%s", ad_tape_error(c.tape));
    ck_assert_msg(fabs(ad_item(g) - want) < 1e-15, "%s: derivative by the constant is %g", what,
                  ad_item(g));
}

START_TEST(constants)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(2), ((double[]){ 2, 3 }));
    ad_var one = ad_scalar(t, 1), zero = ad_scalar(t, 0), minus_zero = ad_scalar(t, -0.0);
    check_constant("x * 1", one, ad_mul(x, one), 5);
    check_constant("1 * x", one, ad_mul(one, x), 5);
    check_constant("x / 1", one, ad_div(x, one), -5);
    check_constant("x - 0", zero, ad_sub(x, zero), -2);
    check_constant("x + -0", minus_zero, ad_add(x, minus_zero), 2);
    check_constant("1 * 1", one, ad_mul(one, one), 2);
    ad_tape_free(t);
}
END_TEST

/* J u as the derivative of u^T J by its cotangent u, which is ones. */
START_TEST(cotangents)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(2), ((double[]){ 2, 3 })), y = ad_square(x);
    ad_var u = ad_ones_like(y), v = ad_constant(t, AD_SHAPE(2), ((double[]){ 0.5, -1 })), g, jv;
    ad_vjp(1, &y, &u, 1, &x, &g);
    ad_vjp(1, &g, &v, 1, &u, &jv);
    double got[2];
    read(jv, got);
    ck_assert_double_eq(got[0], 2);
    ck_assert_double_eq(got[1], -6);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("held", "held");
    tcase_add_loop_test(tests, every_pair, 0, OPERATIONS);
    tcase_add_test(tests, constants);
    tcase_add_test(tests, cotangents);
    return suite_run();
}
