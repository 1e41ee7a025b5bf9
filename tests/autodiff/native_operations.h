/* The pointwise operations that native code has. */
#ifndef TESTS_NATIVE_OPERATIONS_H
#define TESTS_NATIVE_OPERATIONS_H
#include "autodiff/autodiff.h"

typedef struct {
    const char *name;
    ad_var (*one)(ad_var);
    ad_var (*two)(ad_var, ad_var);
    ad_var (*three)(ad_var, ad_var, ad_var);
} operation;

static const operation operations[] = {
    { "neg", .one = ad_neg },       { "reciprocal", .one = ad_reciprocal },
    { "square", .one = ad_square }, { "sqrt", .one = ad_sqrt },
    { "rsqrt", .one = ad_rsqrt },   { "relu", .one = ad_relu },
    { "abs", .one = ad_abs },       { "sign", .one = ad_sign },
    { "floor", .one = ad_floor },   { "add", .two = ad_add },
    { "sub", .two = ad_sub },       { "mul", .two = ad_mul },
    { "div", .two = ad_div },       { "min", .two = ad_min },
    { "max", .two = ad_max },       { "lt", .two = ad_lt },
    { "le", .two = ad_le },         { "gt", .two = ad_gt },
    { "ge", .two = ad_ge },         { "eq", .two = ad_eq },
    { "ne", .two = ad_ne },         { "select", .three = ad_select },
    { "clamp", .three = ad_clamp },
};
enum { OPERATIONS = sizeof operations / sizeof *operations };

#endif
