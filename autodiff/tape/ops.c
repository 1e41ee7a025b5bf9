/* The table of operations as data, and the identities of algebra. */
#include "autodiff/tape/ops.h"
#include <string.h>

enum {
    CHEAP = AD_CHEAP,
    POLE = AD_POLE,
    SELECTS = AD_SELECTS,
    SIGNS = AD_SIGNS,
    OMITS = AD_OMITS,
    FILLS = AD_FILLS,
    REDUCES = AD_REDUCES,
    MAXIMUM = AD_MAXIMUM,
    BATCHED = AD_BATCHED,
    VIEW = AD_VIEW,
    CONSTANT = AD_CONSTANT,
    INDEX_1 = AD_INDEX_1,
    AT_ZERO = AD_AT_ZERO,
    NOT_NEGATIVE = AD_NOT_NEGATIVE
};

const ad_op_info ad_ops[AD_OP_COUNT] = {
#define AD_UNARY(name, traits, ...) { #name, AD_POINTWISE, 1, AD_ATTR_NONE, traits },
#define AD_BINARY(name, traits, ...) { #name, AD_POINTWISE, 2, AD_ATTR_NONE, traits },
#define AD_TERNARY(name, traits, ...) { #name, AD_POINTWISE, 3, AD_ATTR_NONE, traits },
#define AD_STRUCTURAL(name, kind, attributes, traits, ...)                                         \
    { #name, AD_##kind, -1, AD_ATTR_##attributes, traits },
#include "autodiff/ops.def"
};

const ad_coded ad_coded_ops[AD_CODED_OPS] = {
#define AD_BY_CODE(name) { AD_OP_##name, AD_OP_##name##_code, AD_OP_##name##_of_code },
#include "autodiff/ops.def"
};

/* Compared by bits: x + 0 is not x where x is -0, x + (-0) is. */
static bool is_fill(const ad_operand *x, double value)
{
    return x->op == AD_OP_fill && memcmp(&x->fill, &value, sizeof value) == 0;
}

int32_t ad_identity(ad_op op, int n, const ad_operand *x)
{
    const ad_operand *a = &x[0];
    const ad_operand *b = &x[n > 1 ? 1 : 0];
    switch (op) {
    case AD_OP_neg: return a->op == AD_OP_neg ? a->first : -1;
    case AD_OP_mul: return is_fill(b, 1) ? a->number : is_fill(a, 1) ? b->number : -1;
    case AD_OP_div: return is_fill(b, 1) ? a->number : -1;
    case AD_OP_sub: return is_fill(b, 0) ? a->number : -1;
    case AD_OP_add: return is_fill(b, -0.0) ? a->number : is_fill(a, -0.0) ? b->number : -1;
    default: return -1;
    }
}
