/* Signs and small powers of two in products: rules of derivatives leave many (2 x, -v), each a pass
 * of its own over an array. They move, exactly, to the smallest factor of the product, or into a
 * number that stands there already. */
#include "autodiff/compile/ir.h"
#include <math.h>

enum {
    /* of the products that are looked into: a chain of thousands must not be walked for each of its
       factors */
    DEPTH = 8
};

/* How value i is `rest` times a sign or power of two that may move: the factor (1: it is not), when
 * nobody else needs i. */
static double movable(const ad_ir *ir, int32_t i, int32_t *rest)
{
    const ad_inst *x = &ir->inst[i];
    *rest = i;
    if (x->uses > 1 || (x->op != AD_OP_neg && x->op != AD_OP_mul)) return 1;
    double c = -1;
    if (x->op == AD_OP_mul) {
        const ad_inst *number = &ir->inst[x->in[1]];
        int exponent;
        if (number->op != AD_OP_fill) return 1;
        c = number->data[0];
        if (fabs(frexp(c, &exponent)) != 0.5 || fabs(c) < 0.25 || fabs(c) > 4) return 1;
    }
    *rest = x->in[0];
    return c;
}

static double cells(const ad_inst *x)
{
    return (double)ad_row_size(x->shape) * (ad_has_rows(x->shape) ? 1 << 20 : 1);
}

/* The fewest elements among the factors of value i, as deep as they are looked for: where
 * multiplying costs least. */
static double least(const ad_ir *ir, int32_t i, int depth)
{
    const ad_inst *x = &ir->inst[i];
    if (x->op == AD_OP_fill) return 0;
    if (x->op != AD_OP_mul || x->uses > 1 || depth == 0) return cells(x);
    double a = least(ir, x->in[0], depth - 1), b = least(ir, x->in[1], depth - 1);
    return a < b ? a : b;
}

static int32_t product(ad_ir *ir, ad_shape shape, int32_t a, int32_t b)
{
    ad_inst y = {
        .op = AD_OP_mul, .shape = shape, .nin = 2, .in = ad_ir_ints(ir, 2, (int32_t[]){ a, b })
    };
    return ir->failed ? 0 : ad_ir_add(ir, &y);
}

/* Value i times c, which goes to the factor that `least` finds. */
static int32_t times(ad_ir *ir, int32_t i, double c, int depth)
{
    ad_inst x = ir->inst[i];
    if (c == 1 || ir->failed) return i;
    if (x.op == AD_OP_fill && !x.shape.rank) return ad_make_fill(ir, AD_SCALAR, x.data[0] * c);
    if (x.op == AD_OP_mul && x.uses <= 1 && depth > 0) {
        bool first = least(ir, x.in[0], depth - 1) < least(ir, x.in[1], depth - 1);
        int32_t a = first ? times(ir, x.in[0], c, depth - 1) : x.in[0],
                b = first ? x.in[1] : times(ir, x.in[1], c, depth - 1);
        return product(ir, x.shape, a, b);
    }
    if (c != -1) return product(ir, x.shape, i, ad_make_fill(ir, AD_SCALAR, c));
    ad_inst y = { .op = AD_OP_neg, .shape = x.shape, .nin = 1, .in = ad_ir_ints(ir, 1, &i) };
    return ir->failed ? 0 : ad_ir_add(ir, &y);
}

int32_t ad_move_scales(ad_ir *ir, const ad_inst *x)
{
    if (x->op == AD_OP_neg) {
        bool takes = least(ir, x->in[0], DEPTH) == 0 && ir->inst[x->in[0]].uses <= 1;
        return takes ? times(ir, x->in[0], -1, DEPTH) : -1;
    }
    if (x->op != AD_OP_mul) return -1;
    int32_t rest[2];
    double a = movable(ir, x->in[0], &rest[0]), b = movable(ir, x->in[1], &rest[1]);
    if (a == 1 && b == 1) return -1;
    bool first = least(ir, rest[0], DEPTH) < least(ir, rest[1], DEPTH);
    const ad_inst *target = &ir->inst[rest[!first]];
    bool stays = (first ? b : a) == 1 && (target->op != AD_OP_mul || target->uses > 1) &&
                 target->op != AD_OP_fill;
    if (stays) return -1;
    int32_t to = times(ir, rest[!first], a * b, DEPTH);
    return first ? product(ir, x->shape, to, rest[1]) : product(ir, x->shape, rest[0], to);
}
