/* Internal: which nodes lie between x and y, and which elements of their derivatives are live. */
#ifndef COSTATE_DERIVE_H
#define COSTATE_DERIVE_H
#include "autodiff/tape/tape.h"

/* Derivative rules (rules.c). push: the action of the partial derivative of pointwise node y by its
 * operand i on v; invalid (ad_none) when zero. transpose: the cotangent of operand i of a linear
 * node. */
ad_var ad_push(ad_var y, int i, ad_var v);
ad_var ad_transpose_rule(ad_var y, int i, ad_var ybar);
/* The cotangent of operand i of convolution y: another face of its form. */
ad_var ad_conv_face(ad_var y, int i, ad_var ybar);
/* Rules of an operation of one operand that is neither pointwise nor linear (kind AD_NONLINEAR),
 * for its result y. pull: the operand's cotangent, given v, that of y. push: the tangent of y,
 * given v, that of the operand. live_back, live_on: the same for masks of what is live (live.c). */
typedef struct {
    ad_var (*pull)(ad_var y, ad_var v);
    ad_var (*push)(ad_var y, ad_var v);
    ad_var (*live_back)(ad_var y, ad_var mask);
    ad_var (*live_on)(ad_var y, ad_var mask);
} ad_own_rules;
const ad_own_rules *ad_own_rules_of(ad_op op);
/* Whether node's result depends differentiably on its operand i. */
bool ad_differentiable(const ad_node *node, int i);
/* What rule `rule` (vjp, jvp) of opaque node n gave for a variable of this shape: of that shape,
 * after broadcasting or (cotangents) summing what was broadcast; anything else is the rule's error.
 */
ad_var ad_checked_result(ad_tape *tape, const ad_node *n, const char *rule, ad_var v,
                         ad_shape shape);

/* Whether n, or its derivative, may be infinite at operands that are finite (bounds.c). */
bool ad_has_pole(const ad_tape *tape, const ad_node *n);

enum { AD_SEED = 1, AD_THROUGH = 2, AD_NEEDED = 4 /* while finding */ };
typedef struct {
    /* By node: AD_SEED for x, AD_THROUGH for what depends differentiably on x and y on it. Only
     * what y needs, its operands, x and y have an entry: others are not written, so that a long
     * tape costs nothing. */
    char *active;
    ad_reach reach;     /* what y needs, from the first x on: nodes to visit */
    int32_t begin, end; /* no node before or from here on is active */
    int32_t *same;      /* by active node: the first one that is equal (ad_equal_find), or NULL */
} ad_activity;
/* cut: x that depend on other x count as independent. */
bool ad_activity_find(ad_activity *activity, ad_tape *tape, int ny, const ad_var *y, int nx,
                      const ad_var *x, bool cut);
/* Finds which active nodes are equal (equal.c). false with the tape's error set: memory is short.
 */
bool ad_equal_find(ad_activity *activity, ad_tape *tape, int nx, const ad_var *x);
void ad_activity_clear(ad_activity *activity);
bool ad_reads_rows(const ad_tape *tape, const ad_node *node); /* whether an operand has them */

/* Which elements of cotangents (reverse mode) or tangents (forward mode) are live: others are left
 * out by a selection (live.c). A mask is an array that is 0 where they are left out; an invalid one
 * stands for ones everywhere. */
typedef struct {
    ad_tape *tape;
    const ad_activity *act;
    ad_var *mask; /* by node, of those that are visited and their operands */
    char *danger; /* likewise: what lies upstream or downstream */
} ad_live;
bool ad_live_find(ad_live *live, ad_tape *tape, const ad_activity *act, bool forward);
void ad_live_clear(ad_live *live);
/* Whether the derivative of pointwise node n has to select by what is live. */
bool ad_live_guards(const ad_live *live, const ad_node *n);
/* Whether the node, or its derivative, may be infinite. */
bool ad_live_wild(const ad_live *live, int32_t node);
/* x where it is live, otherwise 0. */
ad_var ad_live_select(ad_var mask, ad_var x);
/* ad_push, 0 where v is not live. */
ad_var ad_push_live(const ad_live *live, ad_var y, const ad_node *n, int i, ad_var v, ad_var mask);
/* Operand i of contraction n, 0 where it only multiplies what is not live: mask is that of its part
 * `from` (0, 1: operands, 2: result). */
ad_var ad_live_other(ad_live *live, const ad_node *n, int from, int i, ad_var mask);

/* Reverse mode. The mask of a node's cotangent; of the contribution of node y's cotangent, which
 * has this mask, to that of its operand i.
 */
ad_var ad_live_at(const ad_live *live, int32_t node);
ad_var ad_live_pull(ad_live *live, ad_var y, const ad_node *n, int i, ad_var mask);
/* To be called before a contribution with this mask is added to the node's cotangent, which may be
 * the first. */
void ad_live_add(ad_live *live, int32_t node, bool first, ad_var mask);

/* Forward mode. The mask of a node's tangent; ad_live_push is called for each node in order, and
 * finds it. */
ad_var ad_live_before(const ad_live *live, int32_t node);
void ad_live_push(ad_live *live, int32_t node, const ad_node *n);

/* The Jacobian [rows?, axes of y, n] and the trace [rows?, 1] of y by x [rows?, n], as products of
 * factors (products.c). Invalid with *single set: only single directions will do; otherwise the
 * tape has an error. A trace of nothing is the number 0. */
ad_var ad_products_jacobian(ad_var y, ad_var x, bool *single);
ad_var ad_products_trace(ad_var y, ad_var x, bool *single);

/* v summed and broadcast to the shape. */
ad_var ad_fit(ad_var v, ad_shape shape);
/* Linear node n applied to other operands, by node; invalid ones count as zero (the first of an
 * operation that is no assembly is not). */
ad_var ad_push_linear(ad_tape *tape, const ad_node *n, const ad_var *dot);

#endif
