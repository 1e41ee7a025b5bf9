/* Masked poles. Where a selection or a slice leaves out an element, its derivative is 0, but 0
 * times an infinite derivative, that of a logarithm at 0 say, would be no number. An exact 0 is not
 * enough to tell: the cotangent of sqrt in sqrt(x)^2 is 0 at x = 0 as well, and the derivative
 * there is 1. So a sweep carries beside cotangents, or tangents, which of their elements are live,
 * and the rules of operations with poles select by it. The selection is recorded, so derivatives of
 * any order have it.
 *
 * In reverse mode what is left out lies downstream of the pole, in log(x) where select(x > 0,
 * log(x), 0) does not take it. In forward mode it lies upstream, in sqrt(relu(x)). Nothing is
 * recorded for nodes that do not lie between an operation that leaves out and a pole.
 *
 * Convolutions mix their neighbourhoods, so of an image what is left out downstream is hardly ever
 * left out upstream, and a mask would cost as much as a convolution. They leave out what no tap
 * touches, and images of which nothing is live. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>

enum {
    WILD = 1, /* may have infinite values */
    /* reverse: an operation that selects by what is live lies upstream, or here; forward:
       downstream */
    POLE = 2,
    DEAD = 4 /* forward: tangents may be left out */
};

bool ad_live_guards(const ad_live *l, const ad_node *n)
{
    if (ad_ops[n->op].kind != AD_POINTWISE) return false;
    if (ad_has_trait(n->op, AD_SELECTS | AD_SIGNS)) return false;
    bool wild = ad_has_pole(l->tape, n);
    for (int i = 0; i < n->nin; i++) wild = wild || l->danger[n->in[i]] & WILD;
    return wild;
}

bool ad_live_wild(const ad_live *l, int32_t node) { return l->danger[node] & WILD; }

/* Whether n's derivative multiplies with what may be infinite. */
static bool multiplies(const ad_live *l, const ad_node *n)
{
    if (ad_ops[n->op].kind != AD_CONTRACT) return ad_live_guards(l, n);
    return ad_live_wild(l, n->in[0]) || ad_live_wild(l, n->in[1]);
}

/* Whether n is an operation of the user, or its result. */
static bool is_opaque(const ad_node *n)
{
    return ad_ops[n->op].kind == AD_OPAQUE || ad_ops[n->op].kind == AD_RESULT;
}

static void find_wild(ad_live *l)
{
    for (int32_t j = 0; j < l->act->reach.n; j++) {
        const int32_t k = l->act->reach.node[j];
        const ad_node *n = ad_node_at(l->tape, k);
        if (is_opaque(n)) continue;
        char wild = ad_has_pole(l->tape, n) ? WILD : 0;
        for (int i = 0; i < n->nin; i++) wild |= l->danger[n->in[i]] & WILD;
        l->danger[k] |= wild;
    }
}

/* Gives the flag to the operations that it begins with, and to what depends on them. */
static void find_upstream(ad_live *l, char flag)
{
    for (int32_t j = 0; j < l->act->reach.n; j++) {
        const int32_t k = l->act->reach.node[j];
        const ad_node *n = ad_node_at(l->tape, k);
        if (is_opaque(n) || !(l->act->active[k] & AD_THROUGH)) continue;
        bool found = flag == POLE
                         ? multiplies(l, n)
                         : ad_has_trait(n->op, AD_SELECTS) || ad_has_trait(n->op, AD_FILLS);
        for (int i = 0; i < n->nin; i++)
            found = found || (l->act->active[n->in[i]] && l->danger[n->in[i]] & flag);
        if (found) l->danger[k] |= flag;
    }
}

/* Forward mode: a pole downstream makes the operands' masks needed. */
static void find_downstream(ad_live *l)
{
    for (int32_t j = l->act->reach.n - 1; j >= 0; j--) {
        const int32_t k = l->act->reach.node[j];
        const ad_node *n = ad_node_at(l->tape, k);
        if (is_opaque(n) || !(l->act->active[k] & AD_THROUGH)) continue;
        if (!(l->danger[k] & POLE) && !multiplies(l, n)) continue;
        for (int i = 0; i < n->nin; i++)
            if (l->act->active[n->in[i]]) l->danger[n->in[i]] |= POLE;
    }
}

static void clear_entries(ad_live *l)
{
    for (int32_t j = 0; j < l->act->reach.n; j++) {
        const int32_t k = l->act->reach.node[j];
        const ad_node *n = ad_node_at(l->tape, k);
        for (int i = 0; i < n->nin; i++) {
            l->danger[n->in[i]] = 0;
            l->mask[n->in[i]] = ad_none(l->tape);
        }
        l->danger[k] = 0;
        l->mask[k] = ad_none(l->tape);
    }
}

bool ad_live_find(ad_live *l, ad_tape *tape, const ad_activity *act, bool forward)
{
    *l = (ad_live){ .tape = tape, .act = act };
    l->mask = malloc(((size_t)act->end + 1) * sizeof *l->mask);
    l->danger = malloc((size_t)act->end + 1);
    if (!l->mask || !l->danger) {
        ad_live_clear(l);
        ad_fail(tape, "out of memory (%d nodes to differentiate)", (int)act->end);
        return false;
    }
    clear_entries(l);
    find_wild(l);
    find_upstream(l, forward ? DEAD : POLE);
    if (forward) find_downstream(l);
    return true;
}

void ad_live_clear(ad_live *l)
{
    free(l->mask);
    free(l->danger);
    *l = (ad_live){ 0 };
}

/* A mask of the part `from` of a contraction (0, 1: operands, 2: result) as one of its part `to`,
 * whose shape is given: live is what takes part in a product with anything that is live. Invalid:
 * everywhere. */
static ad_var through_contract(ad_live *l, const ad_node *n, int from, int to, ad_shape shape,
                               ad_var mask)
{
    const ad_contraction c = ad_node_contraction(n);
    const int have = c.rank[from], want = c.rank[to];
    const int64_t *of_mask = c.label[from], *wanted = c.label[to];
    int nout = 0;
    ad_factor f = { .x = mask };
    ad_shape part = shape;
    int8_t out[AD_MAX_RANK];
    for (int k = 0; k < have; k++) f.label[k] = (int8_t)of_mask[k];
    for (int k = 0; k < want; k++) {
        if (ad_label_find(of_mask, have, wanted[k]) >= 0) out[nout++] = (int8_t)wanted[k];
        else part.dim[k] = 1;
    }
    ad_var x = ad_contract_factors(l->tape, 1, &f, nout, out);
    return ad_valid(x) ? ad_broadcast(ad_reshape(x, part), shape) : ad_none(l->tape);
}

/* A mask of the part `from` of a convolution (0, 1: operands, 2: result) as one of its part `to`:
 * live is what taps touch of images that have anything live. Kernels have part in all images. */
static ad_var through_convolution(ad_live *l, ad_var y, const ad_node *n, int from, int to,
                                  ad_var mask)
{
    const ad_face a = from == 2 ? ad_face_of(n->op) : ad_face_operand(n->op, from);
    const ad_face b = to == 2 ? ad_face_of(n->op) : ad_face_operand(n->op, to);
    ad_var touched = ad_conv_touched(y, to);
    if (mask.node < 0 || a == AD_FACE_W || b == AD_FACE_W) return touched;
    int axis[AD_MAX_RANK];
    const int naxis = ad_sweep_of(n->attr, n->nattr).axes + 1;
    for (int k = 0; k < naxis; k++) axis[k] = -1 - k;
    const ad_shape shape = to == 2 ? n->shape : ad_node_at(l->tape, n->in[to])->shape;
    ad_var images = ad_broadcast(ad_sum(mask, naxis, axis, true), shape);
    return touched.node < 0 ? images : ad_mul(touched, images);
}

ad_var ad_live_select(ad_var mask, ad_var x)
{
    return mask.node >= 0 && ad_valid(x) ? ad_select(mask, x, ad_scalar(x.tape, 0)) : x;
}

ad_var ad_push_live(const ad_live *l, ad_var y, const ad_node *n, int i, ad_var v, ad_var mask)
{
    ad_var x = ad_push(y, i, v);
    return ad_live_guards(l, n) ? ad_live_select(mask, x) : x;
}

ad_var ad_live_other(ad_live *l, const ad_node *n, int from, int i, ad_var mask)
{
    ad_var other = ad_var_at(l->tape, n->in[i]);
    if (mask.node < 0 || !(l->danger[other.node] & WILD)) return other;
    return ad_live_select(through_contract(l, n, from, i, ad_shape_of(other), mask), other);
}

static ad_var truth(ad_var mask) { return ad_gt(mask, ad_scalar(mask.tape, 0)); }

/* ---- reverse mode ---- */

ad_var ad_live_at(const ad_live *l, int32_t node)
{
    return l->danger[node] & POLE ? l->mask[node] : ad_none(l->tape);
}

void ad_live_add(ad_live *l, int32_t node, bool first, ad_var mask)
{
    if (!l->act->active[node] || !(l->danger[node] & POLE)) return;
    if (mask.node >= 0) mask = truth(ad_fit(mask, ad_node_at(l->tape, node)->shape));
    if (first) l->mask[node] = mask;
    else if (l->mask[node].node >= 0)
        l->mask[node] = mask.node < 0 ? mask : ad_add(l->mask[node], mask);
}

ad_var ad_live_pull(ad_live *l, ad_var y, const ad_node *n, int i, ad_var mask)
{
    if (!(l->danger[n->in[i]] & POLE)) return ad_none(l->tape);
    const bool leaves_out = ad_has_trait(n->op, AD_SELECTS | AD_OMITS);
    if (mask.node < 0 && !leaves_out) return mask;
    if (mask.node < 0 && ad_ops[n->op].kind != AD_CONVOLUTION) mask = ad_fill(l->tape, n->shape, 1);
    switch (ad_ops[n->op].kind) {
    case AD_CONTRACT:
        return through_contract(l, n, 2, i, ad_node_at(l->tape, n->in[i])->shape, mask);
    case AD_CONVOLUTION: return through_convolution(l, y, n, 2, i, mask);
    case AD_NONLINEAR: return ad_own_rules_of(n->op)->live_back(y, mask);
    case AD_LINEAR: return ad_transpose_rule(y, i, mask);
    default: return ad_has_trait(n->op, AD_SELECTS) ? ad_push(y, i, mask) : mask;
    }
}

/* ---- forward mode ---- */

/* The mask of an operand, as an array. */
static ad_var array_of(ad_live *l, int32_t node)
{
    if (l->mask[node].node < 0)
        l->mask[node] = ad_fill(l->tape, ad_node_at(l->tape, node)->shape, 1);
    return l->mask[node];
}

ad_var ad_live_before(const ad_live *l, int32_t node)
{
    ad_var mask = l->mask[node];
    if (mask.node < 0) return mask;
    const ad_node *n = ad_node_at(l->tape, mask.node);
    return n->op == AD_OP_fill && n->data[0] == 1 ? ad_none(l->tape) : mask;
}

static ad_var push_linear(ad_live *l, const ad_node *n)
{
    for (int i = 0; i < n->nin; i++)
        if (l->act->active[n->in[i]] && ad_differentiable(n, i)) array_of(l, n->in[i]);
    return ad_push_linear(l->tape, n, l->mask);
}

/* The mask of a convolution's result: of the images of its operand, where the other is constant. */
static ad_var push_convolution(ad_live *l, ad_var y, const ad_node *n)
{
    const bool first = l->act->active[n->in[0]], second = l->act->active[n->in[1]];
    const int i = first ? 0 : 1;
    return through_convolution(l, y, n, i, 2,
                               first && second ? ad_none(l->tape) : l->mask[n->in[i]]);
}

/* Whether everything that comes to n is live, and n leaves out nothing. */
static bool all_live(const ad_live *l, const ad_node *n)
{
    bool any = false, all = true;
    for (int i = 0; i < n->nin; i++) {
        if (!l->act->active[n->in[i]] || !ad_differentiable(n, i)) continue;
        bool live = ad_live_before(l, n->in[i]).node < 0;
        any = any || live;
        all = all && live;
    }
    if (ad_has_trait(n->op, AD_SELECTS) || ad_has_trait(n->op, AD_FILLS)) return false;
    return ad_ops[n->op].kind == AD_LINEAR ? all : any;
}

void ad_live_push(ad_live *l, int32_t node, const ad_node *n)
{
    if (is_opaque(n) || l->act->active[node] & AD_SEED || !(l->danger[node] & DEAD) ||
        !(l->danger[node] & POLE) || all_live(l, n))
        return;
    ad_var y = ad_var_at(l->tape, node), sum = ad_none(l->tape);
    if (ad_ops[n->op].kind == AD_LINEAR) sum = push_linear(l, n);
    else if (ad_ops[n->op].kind == AD_CONVOLUTION) sum = push_convolution(l, y, n);
    else
        for (int i = 0; i < n->nin; i++) {
            if (!l->act->active[n->in[i]] || !ad_differentiable(n, i)) continue;
            ad_var x = array_of(l, n->in[i]);
            if (ad_ops[n->op].kind == AD_CONTRACT) x = through_contract(l, n, i, 2, n->shape, x);
            else if (ad_ops[n->op].kind == AD_NONLINEAR) x = ad_own_rules_of(n->op)->live_on(y, x);
            else x = ad_broadcast(x, n->shape);
            if (ad_has_trait(n->op, AD_SELECTS)) x = ad_push(y, i, x);
            if (!ad_valid(x)) return; /* no array for it: everywhere */
            sum = sum.node < 0 ? x : ad_add(sum, x);
        }
    if (ad_valid(sum)) l->mask[node] = truth(sum);
}
