/* Composites: two pointwise operations in one pass over memory, where a kernel for both together
 * exists. A value that only one operation reads becomes part of that: the bias of a layer is added
 * by its activation, sums of weighted terms take each in one step. A function recorded by way of a
 * code that nothing else reads becomes one operation. */
#include "autodiff/compile/ir.h"
#include "autodiff/kernels/kernel.h"

/* Whether x may compute its operand i, an operation `op`, by itself: it is used nowhere else and
 * has the same shape, and it is not known before x is. Sums without rows may be sums of reductions,
 * which must stay sums (lanes.c). */
static bool absorbable(const ad_ir *ir, const ad_inst *x, int32_t i, ad_op op)
{
    const ad_inst *a = &ir->inst[i];
    for (int k = 0; k < x->nin; k++)
        if (ir->inst[x->in[k]].level > a->level) return false;
    return a->op == op && a->nin == ad_ops[op].arity && a->uses == 1 &&
           ad_same_shape(a->shape, x->shape) && (op != AD_OP_add || ad_has_rows(x->shape));
}

/* Gives x one operand more, if there is a kernel for that. */
static int32_t composite(ad_ir *ir, ad_inst *x, int nin, const int32_t *in)
{
    if (ad_pointwise_kernel(x->op, ir->dtype, nin)) {
        x->nin = nin;
        x->in = ad_ir_ints(ir, nin, in);
    }
    return ad_ir_add(ir, x);
}

/* x with the product p for an operand becomes one operation; `other` is the other operand. In a sum
 * or difference, a factor with the other sign, which is not that of a sum, gives it to x, whoever
 * else reads it. */
static int32_t with_product(ad_ir *ir, ad_inst *x, int32_t other, const ad_inst *p)
{
    int32_t in[3] = { other, p->in[0], p->in[1] };
    for (int k = 1; k <= 2 && (x->op == AD_OP_add || x->op == AD_OP_sub); k++) {
        if (ir->inst[in[k]].op != AD_OP_neg || ir->inst[in[k]].nin != 1) continue;
        in[k] = ir->inst[in[k]].in[0];
        ir->inst[in[k]].uses++;
        x->op = x->op == AD_OP_add ? AD_OP_sub : AD_OP_add;
    }
    return composite(ir, x, 3, in);
}

/* Both steps of a coded function as one, when nobody else needs the code. */
static void decode(const ad_ir *ir, ad_inst *x)
{
    const ad_coded *coded = ad_decoded_by(x->op);
    if (!coded) return;
    const ad_inst *code = &ir->inst[x->in[0]];
    if (code->op != coded->code || code->uses != 1) return;
    x->op = coded->whole;
    x->nin = code->nin;
    x->in = code->in;
}

static int32_t combine(ad_ir *ir, ad_inst *x)
{
    decode(ir, x);
    int32_t a = x->nin > 0 ? x->in[0] : 0, b = x->nin > 1 ? x->in[1] : 0;
    if (ad_ops[x->op].kind != AD_POINTWISE) return ad_ir_add(ir, x);
    if (x->nin == 1 && absorbable(ir, x, a, AD_OP_add)) return composite(ir, x, 2, ir->inst[a].in);
    for (int k = 1; x->op == AD_OP_mul && x->nin == 2 && k >= 0; k--) {
        if (!absorbable(ir, x, x->in[k], AD_OP_slope_of_code)) continue;
        x->op = AD_OP_slope_of_code;
        return composite(ir, x, 2, (int32_t[]){ k ? a : b, ir->inst[x->in[k]].in[0] });
    }
    for (int k = 1; x->nin == 2 && k >= (x->op == AD_OP_sub); k--) {
        const ad_inst *p = &ir->inst[x->in[k]];
        if (absorbable(ir, x, x->in[k], AD_OP_mul)) return with_product(ir, x, k ? a : b, p);
        if (absorbable(ir, x, x->in[k], AD_OP_square))
            return composite(ir, x, 3, (int32_t[]){ k ? a : b, p->in[0], p->in[0] });
    }
    return ad_ir_add(ir, x);
}

bool ad_pass_combine(ad_ir *ir) { return ad_ir_rewrite(ir, combine); }
