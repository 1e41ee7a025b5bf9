/* Derivative rules, one an operation. Pointwise rules stand in ops.def; here are the longer of
 * their expressions and the transposes of linear operations. Rules record operations, so
 * derivatives can be differentiated again. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>
#include <string.h>

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }
static ad_var operand(ad_var y, int i)
{
    AD_ASSERT(i >= 0 && i < node_of(y)->nin);
    return ad_var_at(y.tape, node_of(y)->in[i]);
}
static ad_var number(ad_var like, double value) { return ad_scalar(like.tape, value); }

/* x where what it is multiplied by is not yet 0: an infinite x would make that NaN. */
static ad_var bounded(ad_var x) { return ad_clamp(x, number(x, -800), number(x, 800)); }

/* d silu = s + x ds, s = sigmoid(x). */
static ad_var push_silu(ad_var x, ad_var v)
{
    ad_var code = ad_sigmoid_code(x), slope = ad_scale(ad_mul(v, ad_slope_of_code(code)), 0.25);
    return ad_add(ad_mul(v, ad_sigmoid_of_code(code)), ad_mul(bounded(x), slope));
}

/* d gelu = Phi(x) + x phi(x) (Hendrycks & Gimpel 2016, arXiv:1606.08415). */
static ad_var push_gelu(ad_var x, ad_var v)
{
    ad_var pdf = ad_scale(ad_exp_minus_half_square(x), 0.39894228040143267794);
    return ad_mul(v, ad_add(ad_normal_cdf(x), ad_mul(bounded(x), pdf)));
}

/* d a^b / da = b a^(b-1); for b = 0 it is 0 also where a^(b-1) is not finite. A constant b = 0
 * selects that 0 whatever a and v are; where b varies, b a^(b-1) has the derivative 1/a by b there.
 */
static ad_var push_pow_base(ad_var a, ad_var b, ad_var v)
{
    ad_var zero = number(a, 0), one = number(a, 1), is_zero = ad_eq(b, zero);
    if (node_of(b)->level == AD_LEVEL_CONSTANT) {
        ad_var power = ad_pow(a, ad_select(is_zero, one, ad_shift(b, -1)));
        return ad_select(is_zero, zero, ad_mul(v, ad_mul(b, power)));
    }
    is_zero = ad_mul(is_zero, ad_le(ad_abs(a), number(a, 1e-38)));
    ad_var power = ad_pow(ad_select(is_zero, one, a), ad_shift(b, -1));
    return ad_select(is_zero, zero, ad_mul(v, ad_mul(b, power)));
}

/* d a^b / db = a^b log a; at a = 0 it is 0, and the logarithm there is never taken. */
static ad_var push_pow_exponent(ad_var a, ad_var y, ad_var v)
{
    ad_var zero = number(a, 0), a_is_zero = ad_eq(a, zero);
    return ad_select(a_is_zero, zero,
                     ad_mul(v, ad_mul(y, ad_log(ad_select(a_is_zero, number(a, 1), a)))));
}

/* v where a < b, half of it where they are equal. */
static ad_var push_smaller(ad_var a, ad_var b, ad_var v)
{
    return ad_select(ad_lt(a, b), v, ad_select(ad_eq(a, b), ad_scale(v, 0.5), number(v, 0)));
}

static ad_var push_inside(ad_var x, ad_var lo, ad_var hi, ad_var v)
{
    return ad_select(ad_mul(ad_ge(x, lo), ad_le(x, hi)), v, number(v, 0));
}
static ad_var push_below(ad_var x, ad_var lo, ad_var v)
{
    return ad_select(ad_lt(x, lo), v, number(v, 0));
}
static ad_var push_above(ad_var x, ad_var lo, ad_var hi, ad_var v)
{
    return ad_select(ad_mul(ad_gt(x, hi), ad_ge(x, lo)), v, number(v, 0));
}

#define ABSENT ad_none(y.tape)
#define AD_UNARY(name, traits, kernel, push, ...)                                                  \
    static ad_var push_unary_##name(ad_var x, ad_var y, ad_var v)                                  \
    {                                                                                              \
        (void)x, (void)y, (void)v;                                                                 \
        return push;                                                                               \
    }
#define AD_BINARY(name, traits, kernel, push_a, push_b, ...)                                       \
    static ad_var push_binary_##name(int i, ad_var a, ad_var b, ad_var y, ad_var v)                \
    {                                                                                              \
        (void)a, (void)b, (void)y, (void)v;                                                        \
        return i == 0 ? push_a : push_b;                                                           \
    }
#define AD_TERNARY(name, traits, kernel, push_a, push_b, push_c, ...)                              \
    static ad_var push_ternary_##name(int i, ad_var a, ad_var b, ad_var c, ad_var y, ad_var v)     \
    {                                                                                              \
        (void)a, (void)b, (void)c, (void)y, (void)v;                                               \
        return i == 0 ? push_a : i == 1 ? push_b : push_c;                                         \
    }
#include "autodiff/ops.def"

#define CASE(name, value)                                                                          \
    case AD_OP_##name: return value;
ad_var ad_push(ad_var y, int i, ad_var v)
{
    if (!ad_valid(y) || !ad_valid(v)) return ABSENT;
    switch (node_of(y)->op) {
#define AD_UNARY(name, ...) CASE(name, push_unary_##name(operand(y, 0), y, v))
#define AD_BINARY(name, ...) CASE(name, push_binary_##name(i, operand(y, 0), operand(y, 1), y, v))
#define AD_TERNARY(name, ...)                                                                      \
    CASE(name, push_ternary_##name(i, operand(y, 0), operand(y, 1), operand(y, 2), y, v))
#include "autodiff/ops.def"
    default: return ABSENT;
    }
}

/* Whether a pointwise rule is ABSENT, told from the table without recording anything. */
static bool push_is_absent(ad_op op, int i)
{
#define STRING(...) #__VA_ARGS__
#define IS_ABSENT(rule) (STRING(rule)[0] == 'A') /* no other rule begins with a capital */
    switch (op) {
#undef ABSENT
#define AD_UNARY(name, traits, kernel, push, ...) CASE(name, IS_ABSENT(push))
#define AD_BINARY(name, traits, kernel, push_a, push_b, ...)                                       \
    CASE(name, i == 0 ? IS_ABSENT(push_a) : IS_ABSENT(push_b))
#define AD_TERNARY(name, traits, kernel, push_a, push_b, push_c, ...)                              \
    CASE(name, i == 0 ? IS_ABSENT(push_a) : i == 1 ? IS_ABSENT(push_b) : IS_ABSENT(push_c))
#include "autodiff/ops.def"
    default: return false;
    }
}

bool ad_differentiable(const ad_node *n, int i)
{
    switch (ad_ops[n->op].kind) {
    case AD_POINTWISE: return !push_is_absent(n->op, i);
    case AD_LINEAR: return i != 1 || !ad_has_trait(n->op, AD_INDEX_1);
    case AD_CONTRACT:
    case AD_CONVOLUTION:
    case AD_NONLINEAR:
    case AD_RESULT: return true;
    case AD_OPAQUE: return !n->class_->flat;
    case AD_FLAT:
    case AD_SOURCE: break;
    }
    return false;
}

/* ---- transposes of linear operations: the cotangent of operand i, given that of y ------------ */

static ad_var transpose_sum(ad_var y, int i, ad_var v)
{
    return ad_broadcast(v, ad_shape_of(operand(y, i)));
}
static ad_var transpose_reshape(ad_var y, int i, ad_var v)
{
    return ad_reshape(v, ad_shape_of(operand(y, i)));
}
static ad_var transpose_broadcast(ad_var y, int i, ad_var v)
{
    return ad_sum_to(v, ad_shape_of(operand(y, i)));
}

static ad_var transpose_transpose(ad_var y, int i, ad_var v)
{
    const ad_node *n = node_of(y);
    int inverse[AD_MAX_RANK];
    for (int k = 0; k < n->nattr; k++) inverse[n->attr[k]] = k;
    (void)i;
    return ad_transpose(v, inverse);
}

static ad_var transpose_slice(ad_var y, int i, ad_var v)
{
    return ad_assemble(y.tape, 1, &v, node_of(y)->attr, ad_shape_of(operand(y, i)));
}

static ad_var transpose_assemble(ad_var y, int i, ad_var v)
{
    const ad_node *n = node_of(y);
    ad_shape s = ad_shape_of(operand(y, i));
    for (int a = 0; a < s.rank; a++) {
        if (s.dim[a] == AD_ROWS) continue;
        int64_t start = n->attr[i * s.rank + a];
        v = ad_slice(v, a, start, start + s.dim[a]);
    }
    return v;
}

static ad_var transpose_flip(ad_var y, int i, ad_var v)
{
    (void)i;
    for (int a = 0; a < node_of(y)->shape.rank; a++)
        if (node_of(y)->attr[0] >> a & 1) v = ad_flip(v, a);
    return v;
}

static ad_var transpose_gather(ad_var y, int i, ad_var v)
{
    const ad_node *n = node_of(y);
    return ad_scatter_add(v, (int)n->attr[0], ad_shape_of(operand(y, i)).dim[n->attr[0]],
                          n->attr + 1);
}

static ad_var transpose_scatter_add(ad_var y, int i, ad_var v)
{
    const ad_node *n = node_of(y);
    (void)i;
    return ad_gather(v, (int)n->attr[0], n->nattr - 1, n->attr + 1);
}

static ad_var transpose_cumsum(ad_var y, int i, ad_var v)
{
    (void)i;
    return ad_cumsum(v, (int)node_of(y)->attr[0], !node_of(y)->attr[1]);
}

static ad_var transpose_take(ad_var y, int i, ad_var v)
{
    return ad_put_add(v, operand(y, 1), ad_shape_of(operand(y, i)));
}

/* take gives one row per index, put_add has added values that may have had one row for all. */
static ad_var transpose_put_add(ad_var y, int i, ad_var v)
{
    return ad_sum_to(ad_take(v, operand(y, 1)), ad_shape_of(operand(y, i)));
}

ad_var ad_transpose_rule(ad_var y, int i, ad_var v)
{
    switch (node_of(y)->op) {
#define RULE_LINEAR(name)                                                                          \
    case AD_OP_##name:                                                                             \
        return transpose_##name(y, i, v);
#define RULE_CONTRACT(name)
#define RULE_CONVOLUTION(name)
#define RULE_NONLINEAR(name)
#define RULE_FLAT(name)
#define RULE_SOURCE(name)
#define RULE_OPAQUE(name)
#define RULE_RESULT(name)
#define AD_STRUCTURAL(name, kind, ...) RULE_##kind(name)
#include "autodiff/ops.def"
    default: return ad_none(y.tape);
    }
}

ad_var ad_conv_face(ad_var y, int i, ad_var v)
{
    static const ad_op by_face[3] = { AD_OP_conv_transpose, AD_OP_conv_weight, AD_OP_conv };
    const ad_node *n = node_of(y);
    int32_t of[3] = { 0 };
    of[ad_face_of(n->op)] = v.node;
    of[ad_face_operand(n->op, 1 - i)] = n->in[1 - i];
    const ad_op op = by_face[ad_face_operand(n->op, i)];
    int32_t in[2] = { of[ad_face_operand(op, 0)], of[ad_face_operand(op, 1)] };
    return ad_record(y.tape, op, 2, in, n->nattr, n->attr, ad_shape_of(operand(y, i)));
}

ad_var ad_fit(ad_var v, ad_shape shape)
{
    v = ad_sum_to(v, shape);
    return ad_same_shape(ad_shape_of(v), shape) ? v : ad_broadcast(v, shape);
}

ad_var ad_push_linear(ad_tape *t, const ad_node *n, const ad_var *dot)
{
    if (n->op != AD_OP_assemble) {
        AD_ASSERT(n->nin == 1 || (n->nin == 2 && ad_has_trait(n->op, AD_INDEX_1)));
        int32_t in[2] = { dot[n->in[0]].node, n->nin > 1 ? n->in[1] : 0 };
        return ad_record(t, n->op, n->nin, in, n->nattr, n->attr, n->shape);
    }
    int rank = n->shape.rank, count = 0;
    ad_var *x = malloc((size_t)n->nin * sizeof *x), y = ad_none(t);
    int64_t *start = malloc((size_t)(n->nattr + 1) * sizeof *start);
    if (!x || !start) ad_fail(t, "ad_jvp: out of memory");
    for (int i = 0; i < n->nin && x && start; i++) {
        if (dot[n->in[i]].node < 0) continue;
        x[count] = dot[n->in[i]];
        memcpy(start + count++ * rank, n->attr + i * rank, (size_t)rank * sizeof *start);
    }
    if (count) y = ad_assemble(t, count, x, start, n->shape);
    free(x);
    free(start);
    return y;
}

/* ---- operations with rules of their own, of one operand -------------------------------------- */

/* Where x attains the maximum y: 1 or 0. */
static ad_var attains(ad_var y) { return ad_eq(operand(y, 0), y); }
static ad_var sum_as(ad_var y, ad_var v) { return ad_sum_mask(v, (uint32_t)node_of(y)->attr[0]); }

/* d max: the places that attain the maximum share it equally. */
static ad_var pull_reduce_max(ad_var y, ad_var v)
{
    ad_var hit = attains(y);
    ad_var zero = number(y, 0);
    return ad_select(hit, ad_div(v, sum_as(y, hit)), zero);
}

static ad_var push_reduce_max(ad_var y, ad_var v)
{
    ad_var hit = attains(y);
    ad_var sum = sum_as(y, ad_select(hit, v, number(y, 0)));
    return ad_div(sum, sum_as(y, hit));
}

static ad_var live_back_reduce_max(ad_var y, ad_var mask) { return ad_mul(attains(y), mask); }

static ad_var live_on_reduce_max(ad_var y, ad_var mask)
{
    return sum_as(y, ad_mul(attains(y), mask));
}

#define OWN_LINEAR(name)
#define OWN_CONTRACT(name)
#define OWN_CONVOLUTION(name)
#define OWN_FLAT(name)
#define OWN_SOURCE(name)
#define OWN_OPAQUE(name)
#define OWN_RESULT(name)
#define OWN_NONLINEAR(name)                                                                        \
    [AD_OP_##name] = { pull_##name, push_##name, live_back_##name, live_on_##name },
static const ad_own_rules own_rules[AD_OP_COUNT] = {
#define AD_STRUCTURAL(name, kind, ...) OWN_##kind(name)
#include "autodiff/ops.def"
};

const ad_own_rules *ad_own_rules_of(ad_op op)
{
    AD_ASSERT(ad_ops[op].kind == AD_NONLINEAR);
    return &own_rules[op];
}

ad_var ad_checked_result(ad_tape *t, const ad_node *n, const char *rule, ad_var v, ad_shape shape)
{
    ad_shape s = ad_shape_of(v), common;
    if (v.node < 0 || ad_tape_error(t)) return ad_none(t);
    if (v.tape == t && s.rank >= 0 && ad_broadcast_shapes(s, shape, &common)) {
        if (ad_same_shape(common, shape)) return ad_broadcast(v, shape);
        if (rule[0] == 'v' && ad_same_shape(common, s)) return ad_sum_to(v, shape);
    }
    char got[128], want[128];
    ad_format_shape(s, got, sizeof got);
    ad_format_shape(shape, want, sizeof want);
    ad_fail(t, "%s: its rule %s gave a variable %s where %s is due", ad_node_name(n), rule,
            v.tape == t ? got : "of another tape", want);
    return ad_none(t);
}
