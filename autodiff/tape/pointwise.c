/* Recording pointwise operations: one function for every pointwise row of ops.def, and what is
 * composed of them and of a number. */
#include "autodiff/tape/tape.h"

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }

/* The value that the operation equals, where it has the result's shape (factors of one are found
 * often in derivatives, where seeds are ones), and no operand beside it is held by a caller, who
 * may ask for the derivative by it. */
static ad_var identical(ad_op op, int n, const ad_var *x, ad_shape shape)
{
    ad_tape *t = x[0].tape;
    ad_operand operand[3];
    for (int i = 0; i < n; i++) {
        const ad_node *node = node_of(x[i]);
        operand[i] = (ad_operand){ .number = x[i].node,
                                   .op = node->op,
                                   .fill = node->op == AD_OP_fill ? node->data[0] : 0,
                                   .first = node->nin ? node->in[0] : -1 };
    }
    int32_t same = ad_identity(op, n, operand);
    if (same < 0 || !ad_same_shape(ad_node_at(t, same)->shape, shape)) return ad_none(t);
    bool found = false;
    for (int i = 0; i < n; i++) {
        bool is_result = !found && x[i].node == same;
        found = found || is_result;
        if (!is_result && !ad_is_inner(x[i])) return ad_none(t);
    }
    return ad_var_at(t, same);
}

static ad_var pointwise(ad_op op, int n, const ad_var *x)
{
    AD_ASSERT(ad_ops[op].kind == AD_POINTWISE && n == ad_ops[op].arity);
    const char *name = ad_ops[op].name;
    ad_tape *t = ad_common_tape(name, n, x);
    if (!t) return ad_none(x[0].tape);
    ad_shape shape = node_of(x[0])->shape;
    int32_t in[3];
    for (int i = 0; i < n; i++) {
        in[i] = x[i].node;
        if (i && !ad_broadcast_shapes(shape, node_of(x[i])->shape, &shape)) {
            bool rows = ad_has_rows(shape) || ad_has_rows(node_of(x[i])->shape);
            return ad_fail_shapes(
                t, name,
                rows ? "shapes do not broadcast (the row axis leads in operands of equal rank)"
                     : "shapes do not broadcast",
                n, x);
        }
    }
    ad_var same = identical(op, n, x, shape);
    if (same.node >= 0) return same;
    for (int k = 0; k < AD_CODED_OPS; k++) {
        if (op != ad_coded_ops[k].whole) continue;
        ad_var code = ad_record(t, ad_coded_ops[k].code, 1, in, 0, NULL, shape);
        return code.node < 0 ? code
                             : ad_record(t, ad_coded_ops[k].of_code, 1, &code.node, 0, NULL, shape);
    }
    return ad_record(t, op, n, in, 0, NULL, shape);
}

#define AD_UNARY(name, ...)                                                                        \
    ad_var ad_##name(ad_var x) { return pointwise(AD_OP_##name, 1, &x); }
#define AD_BINARY(name, ...)                                                                       \
    ad_var ad_##name(ad_var a, ad_var b) { return pointwise(AD_OP_##name, 2, (ad_var[]){ a, b }); }
#define AD_TERNARY(name, ...)                                                                      \
    ad_var ad_##name(ad_var a, ad_var b, ad_var c)                                                 \
    {                                                                                              \
        return pointwise(AD_OP_##name, 3, (ad_var[]){ a, b, c });                                  \
    }
#include "autodiff/ops.def"

static ad_var with_number(const char *name, ad_op op, ad_var x, double number)
{
    ad_tape *t = ad_common_tape(name, 1, &x);
    if (!t) return ad_none(x.tape);
    int32_t inner = ad_inner_begin(t);
    ad_var y = pointwise(op, 2, (ad_var[]){ x, ad_scalar(t, number) });
    ad_inner_end(t, inner);
    return y;
}

ad_var ad_scale(ad_var x, double factor) { return with_number("scale", AD_OP_mul, x, factor); }
ad_var ad_shift(ad_var x, double term) { return with_number("shift", AD_OP_add, x, term); }
ad_var ad_zeros_like(ad_var x)
{
    return ad_common_tape("zeros_like", 1, &x) ? ad_fill(x.tape, ad_shape_of(x), 0)
                                               : ad_none(x.tape);
}
ad_var ad_ones_like(ad_var x)
{
    return ad_common_tape("ones_like", 1, &x) ? ad_fill(x.tape, ad_shape_of(x), 1)
                                              : ad_none(x.tape);
}

ad_var ad_pow_scalar(ad_var x, double p)
{
    if (!ad_common_tape("pow_scalar", 1, &x)) return ad_none(x.tape);
    if (p == 0) return ad_ones_like(x);
    if (p == 1) return x;
    if (p == 2) return ad_square(x);
    if (p == 3) return ad_mul(x, ad_square(x));
    if (p == 0.5) return ad_sqrt(x);
    if (p == -1) return ad_reciprocal(x);
    return ad_pow(x, ad_scalar(x.tape, p));
}
