/* Pointwise operations of one number: what the rows of ops.def say, in instructions. */
#include "autodiff/native/atoms.h"

static int32_t one(ad_atoms *a) { return ad_atom_number(a, 1); }
static int32_t zero(ad_atoms *a) { return ad_atom_number(a, 0); }
static int32_t two(ad_atoms *a, int what, int32_t x, int32_t y)
{
    return ad_atom_add(a, what, x, y, -1);
}
static int32_t only(ad_atoms *a, int what, int32_t x) { return ad_atom_add(a, what, x, x, -1); }

/* mask ? yes : no */
static int32_t chosen(ad_atoms *a, int32_t mask, int32_t yes, int32_t no)
{
    return ad_atom_add(a, AD_DO_BLEND, no, yes, mask);
}

/* a != a || a < b ? a : b, or the same with >. */
static int32_t smaller(ad_atoms *a, int what, int32_t x, int32_t y)
{
    return chosen(a, only(a, AD_DO_UNORDERED, x), x, two(a, what, x, y));
}

static int32_t condition(ad_atoms *a, int what, int32_t x, int32_t y)
{
    return two(a, AD_DO_AND, two(a, what, x, y), one(a));
}

static int32_t sign(ad_atoms *a, int32_t x)
{
    const int32_t negative = two(a, AD_DO_LESS, x, zero(a)),
                  positive = two(a, AD_DO_LESS, zero(a), x);
    return chosen(a, positive, one(a), chosen(a, negative, ad_atom_number(a, -1), x));
}

static int32_t unary(ad_atoms *a, ad_op op, int32_t x)
{
    const int32_t minus_zero = ad_atom_number(a, -0.0);
    switch (op) {
    case AD_OP_neg: return two(a, AD_DO_XOR, x, minus_zero);
    case AD_OP_reciprocal: return two(a, AD_DO_DIV, one(a), x);
    case AD_OP_square: return two(a, AD_DO_MUL, x, x);
    case AD_OP_sqrt: return only(a, AD_DO_SQRT, x);
    case AD_OP_rsqrt: return two(a, AD_DO_DIV, one(a), only(a, AD_DO_SQRT, x));
    case AD_OP_relu: return two(a, AD_DO_AND_NOT, two(a, AD_DO_LESS, x, zero(a)), x);
    case AD_OP_abs: return two(a, AD_DO_AND_NOT, minus_zero, x);
    case AD_OP_sign: return sign(a, x);
    case AD_OP_floor: return only(a, AD_DO_FLOOR, x);
    case AD_OP_stop_gradient: return x;
    default: return -1;
    }
}

static int32_t binary(ad_atoms *a, ad_op op, int32_t x, int32_t y)
{
    switch (op) {
    case AD_OP_add: return two(a, AD_DO_ADD, x, y);
    case AD_OP_sub: return two(a, AD_DO_SUB, x, y);
    case AD_OP_mul: return two(a, AD_DO_MUL, x, y);
    case AD_OP_div: return two(a, AD_DO_DIV, x, y);
    case AD_OP_min: return smaller(a, AD_DO_MIN, x, y);
    case AD_OP_max: return smaller(a, AD_DO_MAX, x, y);
    case AD_OP_lt: return condition(a, AD_DO_LESS, x, y);
    case AD_OP_le: return condition(a, AD_DO_LESS_EQUAL, x, y);
    case AD_OP_gt: return condition(a, AD_DO_LESS, y, x);
    case AD_OP_ge: return condition(a, AD_DO_LESS_EQUAL, y, x);
    case AD_OP_eq: return condition(a, AD_DO_EQUAL, x, y);
    case AD_OP_ne: return condition(a, AD_DO_NOT_EQUAL, x, y);
    default: return -1;
    }
}

static int32_t ternary(ad_atoms *a, ad_op op, int32_t x, int32_t y, int32_t z)
{
    switch (op) {
    case AD_OP_select: return chosen(a, two(a, AD_DO_NOT_EQUAL, x, zero(a)), y, z);
    case AD_OP_clamp:
        return chosen(a, two(a, AD_DO_LESS, x, y), y, chosen(a, two(a, AD_DO_LESS, z, x), z, x));
    default: return -1;
    }
}

/* With one operand more than it has, an operation is a composite (kernels/kernel.h). */
int32_t ad_atom_pointwise(ad_atoms *a, ad_op op, int n, const int32_t *x)
{
    const int arity = ad_ops[op].arity;
    if (arity == 1 && n == 1) return unary(a, op, x[0]);
    if (arity == 1 && n == 2) return unary(a, op, two(a, AD_DO_ADD, x[0], x[1]));
    if (arity == 2 && n == 2) return binary(a, op, x[0], x[1]);
    if (arity == 2 && n == 3) {
        const int32_t product = two(a, AD_DO_MUL, x[1], x[2]);
        return op == AD_OP_mul ? two(a, AD_DO_MUL, product, x[0]) : binary(a, op, x[0], product);
    }
    return arity == 3 && n == 3 ? ternary(a, op, x[0], x[1], x[2]) : -1;
}
