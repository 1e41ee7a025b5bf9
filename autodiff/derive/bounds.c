/* What values are at least, whatever the inputs are: a norm divides by the root of a mean of
 * squares and a positive number, which is no pole. */
#include "autodiff/derive/derive.h"
#include <math.h>

enum { LOOKS = 64 }; /* nodes looked at for one answer, at most */

static double bound(const ad_tape *t, int32_t node, int *looks);

static double of_operand(const ad_tape *t, const ad_node *n, int i, int *looks)
{
    return bound(t, n->in[i], looks);
}

static double of_product(const ad_tape *t, const ad_node *n, int *looks)
{
    if (n->in[0] == n->in[1]) return 0;
    const double a = of_operand(t, n, 0, looks);
    const double b = a >= 0 ? of_operand(t, n, 1, looks) : -INFINITY;
    return b >= 0 ? a * b : -INFINITY;
}

static double of_quotient(const ad_tape *t, const ad_node *n, int *looks)
{
    const ad_node *by = ad_node_at(t, n->in[1]);
    const double a = of_operand(t, n, 0, looks);
    if (!(a >= 0)) return -INFINITY;
    if (by->op == AD_OP_fill) return by->data[0] > 0 ? a / by->data[0] : -INFINITY;
    return of_operand(t, n, 1, looks) >= 0 ? 0 : -INFINITY;
}

static double of_sum(const ad_tape *t, const ad_node *n, int *looks)
{
    return of_operand(t, n, 0, looks) >= 0 ? 0 : -INFINITY;
}

static double bound(const ad_tape *t, int32_t node, int *looks)
{
    const ad_node *n = ad_node_at(t, node);
    if (--*looks < 0) return -INFINITY;
    switch (n->op) {
    case AD_OP_fill: return n->data[0];
    case AD_OP_row_count: return 0;
    case AD_OP_add: return of_operand(t, n, 0, looks) + of_operand(t, n, 1, looks);
    case AD_OP_mul: return of_product(t, n, looks);
    case AD_OP_div: return of_quotient(t, n, looks);
    case AD_OP_max: return fmax(of_operand(t, n, 0, looks), of_operand(t, n, 1, looks));
    case AD_OP_select: return fmin(of_operand(t, n, 1, looks), of_operand(t, n, 2, looks));
    case AD_OP_sum: return of_sum(t, n, looks);
    case AD_OP_reshape:
    case AD_OP_transpose:
    case AD_OP_broadcast:
    case AD_OP_slice:
    case AD_OP_stop_gradient: return of_operand(t, n, 0, looks);
    default: return ad_has_trait(n->op, AD_NOT_NEGATIVE) ? 0 : -INFINITY;
    }
}

bool ad_has_pole(const ad_tape *tape, const ad_node *n)
{
    /* Where the last operand is at least this, no derivative of any order that is of use leaves
     * single precision's range. */
    static const double apart = 0x1p-20;
    if (!ad_has_trait(n->op, AD_POLE)) return false;
    int looks = LOOKS;
    return !ad_has_trait(n->op, AD_AT_ZERO) || !(bound(tape, n->in[n->nin - 1], &looks) >= apart);
}
