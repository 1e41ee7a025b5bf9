/* Checks of the representation between passes, for debug builds and tests. */
#include "autodiff/compile/ir.h"

static const char *verify_contract(const ad_ir *ir, const ad_inst *x)
{
    if (x->nattr != 3 + x->attr[0] + x->attr[1] + x->attr[2])
        return "contraction: wrong number of labels";
    const ad_contraction c = ad_inst_contraction(x);
    const int *n = c.rank;
    const int64_t *const *label = c.label;
    const ad_shape *shape[3] = { &ir->inst[x->in[0]].shape, &ir->inst[x->in[1]].shape, &x->shape };
    for (int k = 0; k < 3; k++) {
        if (n[k] != shape[k]->rank) return "contraction: labels do not fit the rank";
        for (int i = 0; i < n[k]; i++)
            for (int j = 0; j < 3; j++)
                for (int m = 0; m < n[j]; m++)
                    if (label[k][i] == label[j][m] && shape[k]->dim[i] != shape[j]->dim[m])
                        return "contraction: a label has two sizes";
    }
    return NULL;
}

static const char *verify_view(const ad_ir *ir, const ad_inst *x)
{
    ad_shape a = x->nin ? ir->inst[x->in[0]].shape : x->shape;
    switch (x->op) {
    case AD_OP_reshape:
        return ad_has_rows(a) != ad_has_rows(x->shape) || ad_row_size(a) != ad_row_size(x->shape)
                   ? "reshape: element counts differ"
                   : NULL;
    case AD_OP_transpose:
        for (int i = 0; i < x->shape.rank; i++)
            if (x->shape.dim[i] != a.dim[x->attr[i]])
                return "transpose: shape does not fit the permutation";
        return NULL;
    case AD_OP_slice:
        for (int i = 0; i < x->shape.rank; i++)
            if (a.dim[i] != AD_ROWS && (x->attr[i] < 0 || x->attr[i] + x->shape.dim[i] > a.dim[i]))
                return "slice: out of range";
        return NULL;
    case AD_OP_assemble:
        for (int k = 0; k < x->nin; k++)
            for (int i = 0; i < x->shape.rank; i++) {
                int64_t at = x->attr[k * x->shape.rank + i], size = ir->inst[x->in[k]].shape.dim[i];
                if (x->shape.dim[i] == AD_ROWS ? size != AD_ROWS
                                               : at < 0 || at + size > x->shape.dim[i])
                    return "assemble: a piece is out of range";
            }
        return NULL;
    case AD_OP_contract: return verify_contract(ir, x);
    default: return NULL;
    }
}

static const char *verify_pointwise(const ad_ir *ir, const ad_inst *x)
{
    ad_shape span = x->shape;
    for (int k = 0; k < x->nin; k++)
        if (!ad_broadcast_shapes(span, ir->inst[x->in[k]].shape, &span) ||
            !ad_same_shape(span, x->shape))
            return "operand does not broadcast to the result";
    return NULL;
}

const char *ad_verify_ir(const ad_ir *ir, int32_t *where)
{
    for (int32_t i = 0; i < ir->n; i++) {
        const ad_inst *x = &ir->inst[i];
        *where = i;
        if ((i < ir->ninput) != (x->op == AD_OP_input)) return "inputs must stand first";
        for (int k = 0; k < x->nin; k++) {
            if (x->in[k] < 0 || x->in[k] >= i) return "operand does not come before its use";
            if (x->level < ir->inst[x->in[k]].level) return "level is below an operand's";
        }
        if (ad_has_rows(x->shape) && x->level != AD_LEVEL_ROW)
            return "value with rows is not on the row level";
        const char *wrong =
            ad_ops[x->op].kind == AD_POINTWISE ? verify_pointwise(ir, x) : verify_view(ir, x);
        if (wrong) return wrong;
    }
    for (int j = 0; j < ir->noutput; j++)
        if (ir->output[j] < 0 || ir->output[j] >= ir->n) return "output is no value";
    return NULL;
}
