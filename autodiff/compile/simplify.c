/* Simplifying rules of programs. A rule sees one value whose operands are simplified already, and
 * gives the number of an equal value, or NO_RULE. It may improve the value it sees. Rules are exact
 * but for signs of zeros that meet zeros in sums, the ends of the range of numbers, where powers of
 * two move, and the rounding of sums that are known (sum_of_shares). */
#include "autodiff/compile/ir.h"
#include "autodiff/kernels/kernel.h"
#include <string.h>

enum { NO_RULE = -1 };

static int32_t make(ad_ir *ir, ad_op op, ad_shape shape, int nin, const int32_t *in, int nattr,
                    const int64_t *attr)
{
    ad_inst x = { .op = op, .shape = shape, .nin = nin, .nattr = nattr };
    x.in = ad_ir_ints(ir, nin, in);
    x.attr = ad_ir_longs(ir, nattr, attr);
    return ir->failed ? 0 : ad_simplified(ir, &x);
}

static int32_t make_unary(ad_ir *ir, ad_op op, ad_shape shape, int32_t in)
{
    return make(ir, op, shape, 1, &in, 0, NULL);
}

static bool is_fill(const ad_ir *ir, int32_t i, double value)
{
    const ad_inst *x = &ir->inst[i];
    return x->op == AD_OP_fill && memcmp(x->data, &value, sizeof value) == 0;
}

/* ---- pointwise ---- */

/* Value i, perhaps of smaller rank, broadcast to the shape. */
static int32_t broadcast_to(ad_ir *ir, int32_t i, ad_shape shape)
{
    ad_shape s = ir->inst[i].shape;
    if (ad_same_shape(s, shape)) return i;
    if (s.rank < shape.rank) {
        ad_shape wide = { .rank = shape.rank };
        for (int d = 0; d < shape.rank; d++)
            wide.dim[d] = d < shape.rank - s.rank ? 1 : s.dim[d - (shape.rank - s.rank)];
        i = make_unary(ir, AD_OP_reshape, wide, i);
    }
    return make_unary(ir, AD_OP_broadcast, shape, i);
}

/* Kernels broadcast, so operands need not be broadcast; numbers are scalars. Returns the shape that
 * the operands then span. */
static ad_shape absorb_broadcasts(ad_ir *ir, ad_inst *x)
{
    int32_t in[3];
    ad_shape span = AD_SCALAR;
    for (int k = 0; k < x->nin; k++) {
        in[k] = x->in[k];
        if (ir->inst[in[k]].op == AD_OP_broadcast) in[k] = ir->inst[in[k]].in[0];
        if (ir->inst[in[k]].op == AD_OP_fill && ir->inst[in[k]].shape.rank)
            in[k] = ad_make_fill(ir, AD_SCALAR, ir->inst[in[k]].data[0]);
        ad_broadcast_shapes(span, ir->inst[in[k]].shape, &span);
    }
    x->in = ad_ir_ints(ir, x->nin, in);
    return span;
}

/* The operand that x equals by an exact identity of algebra, or NO_RULE. A program has no
 * derivatives any more, so there stop_gradient does nothing. */
static int32_t identity(const ad_ir *ir, const ad_inst *x)
{
    ad_operand operand[3];
    if (x->op == AD_OP_stop_gradient) return x->in[0];
    for (int k = 0; k < x->nin; k++) {
        const ad_inst *a = &ir->inst[x->in[k]];
        operand[k] = (ad_operand){ .number = x->in[k],
                                   .op = a->op,
                                   .fill = a->op == AD_OP_fill ? a->data[0] : 0,
                                   .first = a->nin ? a->in[0] : -1 };
    }
    return ad_identity(x->op, x->nin, operand);
}

static int32_t fold_numbers(ad_ir *ir, const ad_inst *x)
{
    union {
        float f;
        double d;
    } in[3], out;
    const void *pointer[3];
    int stride[3] = { 0, 0, 0 };
    for (int k = 0; k < x->nin; k++) {
        const ad_inst *a = &ir->inst[x->in[k]];
        if (a->op != AD_OP_fill) return NO_RULE;
        if (ir->dtype == AD_F32) in[k].f = (float)a->data[0];
        else in[k].d = a->data[0];
        pointer[k] = &in[k];
    }
    ad_pointwise_kernel(x->op, ir->dtype, x->nin)(1, pointer, stride, &out);
    return ad_make_fill(ir, x->shape, ir->dtype == AD_F32 ? (double)out.f : out.d);
}

enum { MOST_PIECES = 512 }; /* of an assemble that takes over those of others */

/* An assemble whose pieces another value may take over: its own whole is then not made. */
static bool is_inner_assemble(const ad_ir *ir, int32_t i)
{
    return ir->inst[i].op == AD_OP_assemble && ir->inst[i].uses <= 1;
}

/* a + b as one assemble, where at least one is an assemble used nowhere else: pieces are then added
 * into their places without making the whole for each (the gradient of a vector that many slices
 * are taken of). What is used elsewhere too is made anyhow, and is one piece: otherwise a sum that
 * grows from step to step would copy its pieces at every step. In a sum of thousands, not all
 * become one: every term would copy those before it. */
static int32_t merge_assembles(ad_ir *ir, const ad_inst *x)
{
    int32_t a = x->in[0], b = x->in[1];
    if (x->op != AD_OP_add || !ad_same_shape(ir->inst[a].shape, x->shape) ||
        !ad_same_shape(ir->inst[b].shape, x->shape))
        return NO_RULE;
    bool pa = is_inner_assemble(ir, a), pb = is_inner_assemble(ir, b);
    if (!pa && !pb) return NO_RULE;
    int rank = x->shape.rank, na = pa ? ir->inst[a].nin : 1, nb = pb ? ir->inst[b].nin : 1;
    if (na + nb > MOST_PIECES) return NO_RULE;
    int32_t *in = ad_ir_ints(ir, na + nb, NULL);
    int64_t *start = ad_ir_longs(ir, (na + nb) * rank, NULL);
    if (ir->failed) return 0;
    memcpy(in, pa ? ir->inst[a].in : &a, (size_t)na * sizeof *in);
    memcpy(in + na, pb ? ir->inst[b].in : &b, (size_t)nb * sizeof *in);
    if (pa) memcpy(start, ir->inst[a].attr, (size_t)(na * rank) * sizeof *start);
    if (pb) memcpy(start + na * rank, ir->inst[b].attr, (size_t)(nb * rank) * sizeof *start);
    ad_inst y = { .op = AD_OP_assemble,
                  .shape = x->shape,
                  .nin = na + nb,
                  .in = in,
                  .nattr = (na + nb) * rank,
                  .attr = start };
    return ad_ir_add(ir, &y);
}

/* a + (-b) = a - b, (-a) + b = b - a, a - (-b) = a + b. */
static int32_t absorb_signs(ad_ir *ir, const ad_inst *x)
{
    int32_t a = x->in[0], b = x->nin > 1 ? x->in[1] : 0;
    bool na = ir->inst[a].op == AD_OP_neg, nb = ir->inst[b].op == AD_OP_neg;
    if (x->op == AD_OP_add && nb)
        return make(ir, AD_OP_sub, x->shape, 2, (int32_t[]){ a, ir->inst[b].in[0] }, 0, NULL);
    if (x->op == AD_OP_add && na)
        return make(ir, AD_OP_sub, x->shape, 2, (int32_t[]){ b, ir->inst[a].in[0] }, 0, NULL);
    if (x->op == AD_OP_sub && nb)
        return make(ir, AD_OP_add, x->shape, 2, (int32_t[]){ a, ir->inst[b].in[0] }, 0, NULL);
    return NO_RULE;
}

static int32_t simplify_pointwise(ad_ir *ir, ad_inst *x)
{
    ad_shape shape = x->shape, span = absorb_broadcasts(ir, x);
    if (ir->failed) return 0;
    x->shape = span;
    int32_t y = identity(ir, x);
    if (y == NO_RULE) y = fold_numbers(ir, x);
    if (y == NO_RULE) y = absorb_signs(ir, x);
    if (y == NO_RULE) y = ad_move_scales(ir, x);
    if (y == NO_RULE) y = merge_assembles(ir, x);
    if (y == NO_RULE) y = ad_ir_add(ir, x);
    return broadcast_to(ir, y, shape);
}

/* ---- layout ---- */

static int32_t simplify_broadcast(ad_ir *ir, ad_inst *x)
{
    const ad_inst *a = &ir->inst[x->in[0]];
    if (ad_same_shape(a->shape, x->shape)) return x->in[0];
    if (a->op == AD_OP_fill) return ad_make_fill(ir, x->shape, a->data[0]);
    if (a->op == AD_OP_broadcast) return make_unary(ir, AD_OP_broadcast, x->shape, a->in[0]);
    return NO_RULE;
}

static int32_t simplify_reshape(ad_ir *ir, ad_inst *x)
{
    const ad_inst *a = &ir->inst[x->in[0]];
    if (ad_same_shape(a->shape, x->shape)) return x->in[0];
    if (a->op == AD_OP_fill) return ad_make_fill(ir, x->shape, a->data[0]);
    if (a->op == AD_OP_reshape) return make_unary(ir, AD_OP_reshape, x->shape, a->in[0]);
    if (a->op == AD_OP_constant) {
        ad_inst y = *a;
        y.shape = x->shape;
        return ad_ir_add(ir, &y);
    }
    return NO_RULE;
}

/* Whether the permutation leaves the order of the axes that are longer than 1. */
static bool keeps_order(ad_shape s, const int64_t *permutation)
{
    int64_t last = -1;
    for (int i = 0; i < s.rank; i++) {
        if (s.dim[permutation[i]] == 1) continue;
        if (permutation[i] < last) return false;
        last = permutation[i];
    }
    return true;
}

/* The contraction a with its result's axes permuted. */
static int32_t permute_contraction(ad_ir *ir, const ad_inst *x, const ad_inst *a)
{
    int64_t *attr = ad_ir_longs(ir, a->nattr, a->attr);
    if (!attr) return 0;
    const ad_contraction c = ad_inst_contraction(a);
    int64_t *result = attr + (c.label[2] - a->attr);
    for (int i = 0; i < x->shape.rank; i++) result[i] = c.label[2][x->attr[i]];
    return make(ir, AD_OP_contract, x->shape, 2, a->in, a->nattr, attr);
}

static int32_t simplify_transpose(ad_ir *ir, ad_inst *x)
{
    const ad_inst *a = &ir->inst[x->in[0]];
    int rank = x->shape.rank;
    if (a->op == AD_OP_fill) return ad_make_fill(ir, x->shape, a->data[0]);
    if (keeps_order(a->shape, x->attr)) return make_unary(ir, AD_OP_reshape, x->shape, x->in[0]);
    if (a->op == AD_OP_eye)
        return make(ir, AD_OP_eye, x->shape, 0, NULL, 1, (int64_t[]){ -a->attr[0] });
    if (a->op == AD_OP_contract && a->uses <= 1) return permute_contraction(ir, x, a);
    if (a->op == AD_OP_transpose) {
        int64_t permutation[AD_MAX_RANK];
        for (int i = 0; i < rank; i++) permutation[i] = a->attr[x->attr[i]];
        return make(ir, AD_OP_transpose, x->shape, 1, a->in, rank, permutation);
    }
    if (a->op == AD_OP_broadcast) {
        ad_shape from = ir->inst[a->in[0]].shape, s = from;
        for (int i = 0; i < rank; i++) s.dim[i] = from.dim[x->attr[i]];
        int32_t moved = make(ir, AD_OP_transpose, s, 1, a->in, rank, x->attr);
        return make_unary(ir, AD_OP_broadcast, x->shape, moved);
    }
    return NO_RULE;
}

/* Where the box of size `size` at start lies in relation to operand k of the assemble a. */
typedef enum { APART, WITHIN, ACROSS } overlap;
static overlap place_in_piece(const ad_ir *ir, const ad_inst *a, int k, const int64_t *start,
                              ad_shape size)
{
    ad_shape piece = ir->inst[a->in[k]].shape;
    const int64_t *at = a->attr + (ptrdiff_t)k * size.rank;
    overlap result = WITHIN;
    for (int i = 0; i < size.rank; i++) {
        if (size.dim[i] == AD_ROWS && piece.dim[i] == AD_ROWS) continue;
        if (size.dim[i] == AD_ROWS || piece.dim[i] == AD_ROWS) return ACROSS;
        if (start[i] + size.dim[i] <= at[i] || at[i] + piece.dim[i] <= start[i]) return APART;
        if (start[i] < at[i] || start[i] + size.dim[i] > at[i] + piece.dim[i]) result = ACROSS;
    }
    return result;
}

/* A slice of an assemble that touches one piece only is a slice of that piece. (Thousands are not
 * looked through for each of their slices.)
 */
static int32_t slice_assemble(ad_ir *ir, const ad_inst *x, const ad_inst *a)
{
    enum { PIECES = 1024 };
    int only = -1, rank = x->shape.rank;
    if (a->nin > PIECES) return NO_RULE;
    for (int k = 0; k < a->nin; k++) {
        overlap o = place_in_piece(ir, a, k, x->attr, x->shape);
        if (o == APART) continue;
        if (o == ACROSS || only >= 0) return NO_RULE;
        only = k;
    }
    if (only < 0) return ad_make_fill(ir, x->shape, 0);
    int64_t start[AD_MAX_RANK];
    for (int i = 0; i < rank; i++) start[i] = x->attr[i] - a->attr[only * rank + i];
    return make(ir, AD_OP_slice, x->shape, 1, &a->in[only], rank, start);
}

static int32_t simplify_slice(ad_ir *ir, ad_inst *x)
{
    const ad_inst *a = &ir->inst[x->in[0]];
    int rank = x->shape.rank;
    int64_t start[AD_MAX_RANK];
    if (ad_same_shape(a->shape, x->shape)) return x->in[0];
    if (a->op == AD_OP_fill) return ad_make_fill(ir, x->shape, a->data[0]);
    if (a->op == AD_OP_eye)
        return make(ir, AD_OP_eye, x->shape, 0, NULL, 1,
                    (int64_t[]){ a->attr[0] + x->attr[0] - x->attr[1] });
    if (a->op == AD_OP_assemble) return slice_assemble(ir, x, a);
    if (a->op == AD_OP_slice) {
        for (int i = 0; i < rank; i++) start[i] = x->attr[i] + a->attr[i];
        return make(ir, AD_OP_slice, x->shape, 1, a->in, rank, start);
    }
    if (a->op == AD_OP_broadcast) {
        ad_shape from = ir->inst[a->in[0]].shape, s = x->shape;
        for (int i = 0; i < rank; i++) {
            bool stretched = from.dim[i] == 1 && a->shape.dim[i] != 1;
            start[i] = stretched ? 0 : x->attr[i];
            if (stretched) s.dim[i] = 1;
        }
        int32_t part = make(ir, AD_OP_slice, s, 1, a->in, rank, start);
        return make_unary(ir, AD_OP_broadcast, x->shape, part);
    }
    return NO_RULE;
}

/* Pieces that are zeros add nothing, those of an assemble used nowhere else are pieces of the
 * whole; one piece that covers all is the whole. */
static int32_t simplify_assemble(ad_ir *ir, ad_inst *x)
{
    int rank = x->shape.rank, n = 0, most = x->nin;
    for (int k = 0; k < x->nin; k++)
        if (is_inner_assemble(ir, x->in[k])) most += ir->inst[x->in[k]].nin;
    bool flat = most <= MOST_PIECES;
    int32_t *in = ad_ir_ints(ir, most, NULL);
    int64_t *start = ad_ir_longs(ir, most * rank, NULL);
    if (ir->failed) return 0;
    for (int k = 0; k < x->nin; k++) {
        const ad_inst *a = &ir->inst[x->in[k]];
        const int64_t *at = x->attr + (ptrdiff_t)k * rank;
        bool inner = flat && is_inner_assemble(ir, x->in[k]);
        if (is_fill(ir, x->in[k], 0)) continue;
        for (int j = 0; j < (inner ? a->nin : 1); j++, n++) {
            in[n] = inner ? a->in[j] : x->in[k];
            for (int i = 0; i < rank; i++)
                start[n * rank + i] = at[i] + (inner ? a->attr[j * rank + i] : 0);
        }
    }
    if (n == 0) return ad_make_fill(ir, x->shape, 0);
    if (n == 1 && ad_same_shape(ir->inst[in[0]].shape, x->shape)) return in[0];
    x->nin = n;
    x->in = in;
    x->nattr = n * rank;
    x->attr = start;
    return NO_RULE;
}

/* Reducing axes of size 1 does nothing. */
static int32_t simplify_reduction(ad_ir *ir, ad_inst *x)
{
    ad_shape s = ir->inst[x->in[0]].shape;
    int64_t mask = x->attr[0];
    for (int i = 0; i < s.rank; i++)
        if (s.dim[i] == 1) mask &= ~((int64_t)1 << i);
    if (mask == 0) return x->in[0];
    if (mask != x->attr[0]) x->attr = ad_ir_longs(ir, 1, &mask);
    return ir->failed ? 0 : NO_RULE;
}

/* Whether value i, perhaps of smaller rank, is the same number along all axes that x reduces. */
static bool constant_along(const ad_ir *ir, int32_t i, const ad_inst *x)
{
    const ad_shape s = ir->inst[i].shape;
    for (int k = 0; k < s.rank; k++)
        if (x->attr[0] >> (k + x->shape.rank - s.rank) & 1 && s.dim[k] != 1) return false;
    return true;
}

/* The sum x of value i, where i is what a sum over these axes has divided: v * (c / sum(v)) adds up
 * to c / sum(v) * sum(v), also with its sign changed, or where a number selects zero instead. That
 * is what the derivative of a logarithm of a sum asks for, and spares it a way through all of v.
 * NO_RULE: it is something else. */
static int32_t sum_of_shares(ad_ir *ir, const ad_inst *x, int32_t i, int depth)
{
    const ad_inst a = ir->inst[i];
    if (depth == 0) return NO_RULE;
    if (a.op == AD_OP_neg) {
        const int32_t sum = sum_of_shares(ir, x, a.in[0], depth - 1);
        return sum < 0 ? NO_RULE : make_unary(ir, AD_OP_neg, x->shape, sum);
    }
    if (a.op == AD_OP_select && is_fill(ir, a.in[1], 0) && constant_along(ir, a.in[0], x) &&
        ad_same_shape(ir->inst[a.in[2]].shape, a.shape)) {
        const int32_t sum = sum_of_shares(ir, x, a.in[2], depth - 1);
        if (sum < 0) return NO_RULE;
        return make(ir, AD_OP_select, x->shape, 3, (int32_t[]){ a.in[0], a.in[1], sum }, 0, NULL);
    }
    for (int k = 0; a.op == AD_OP_mul && a.nin == 2 && k < 2; k++) {
        const ad_inst *share = &ir->inst[a.in[k]];
        const ad_inst *sum = share->op == AD_OP_div ? &ir->inst[share->in[1]] : NULL;
        if (sum && sum->op == AD_OP_sum && sum->in[0] == a.in[1 - k] &&
            sum->attr[0] == x->attr[0] && constant_along(ir, a.in[k], x))
            return make(ir, AD_OP_mul, x->shape, 2, (int32_t[]){ a.in[k], share->in[1] }, 0, NULL);
    }
    return NO_RULE;
}

static int32_t simplify_sum(ad_ir *ir, ad_inst *x)
{
    enum { DEPTH = 4 };
    const int32_t same = simplify_reduction(ir, x);
    return same != NO_RULE ? same : sum_of_shares(ir, x, x->in[0], DEPTH);
}

/* ---- contractions ---- */

typedef struct {
    int n[3]; /* a, b, result */
    int64_t label[3][AD_MAX_RANK];
} label_lists;

static label_lists labels_of(const ad_inst *x)
{
    const ad_contraction c = ad_inst_contraction(x);
    label_lists l;
    for (int k = 0; k < 3; k++) {
        l.n[k] = c.rank[k];
        for (int i = 0; i < c.rank[k]; i++) l.label[k][i] = c.label[k][i];
    }
    return l;
}

static int find(const label_lists *l, int k, int64_t label)
{
    return ad_label_find(l->label[k], l->n[k], label);
}

static int32_t contraction(ad_ir *ir, ad_shape shape, const label_lists *l, int32_t a, int32_t b)
{
    const ad_contraction c = { { l->n[0], l->n[1], l->n[2] },
                               { l->label[0], l->label[1], l->label[2] } };
    int64_t attr[AD_CONTRACTION_MOST];
    const int n = ad_contraction_write(&c, attr);
    return make(ir, AD_OP_contract, shape, 2, (int32_t[]){ a, b }, n, attr);
}

/* Value i, whose axes have the labels from[0..rank), with the axes in the order of to. */
static int32_t order_axes(ad_ir *ir, int32_t i, const int64_t *from, const int64_t *to)
{
    ad_shape s = ir->inst[i].shape, out = s;
    int64_t permutation[AD_MAX_RANK];
    for (int d = 0; d < s.rank; d++) {
        permutation[d] = 0;
        while (from[permutation[d]] != to[d]) permutation[d]++;
        out.dim[d] = s.dim[permutation[d]];
    }
    return make(ir, AD_OP_transpose, out, 1, &i, s.rank, permutation);
}

/* sum_c eye[d,c] X[..c..] = X[.. d + shift ..]: a slice, padded with zeros. `axis` is c's in X. */
static int32_t shift_axis(ad_ir *ir, int32_t x, int axis, int64_t size, int64_t shift)
{
    ad_shape s = ir->inst[x].shape, whole = s;
    int64_t low = shift < 0 ? -shift : 0,
            high = s.dim[axis] - shift < size ? s.dim[axis] - shift : size;
    whole.dim[axis] = size;
    if (high <= low) return ad_make_fill(ir, whole, 0);
    int64_t start[AD_MAX_RANK] = { 0 }, at[AD_MAX_RANK] = { 0 };
    start[axis] = low + shift;
    at[axis] = low;
    s.dim[axis] = high - low;
    int32_t part = make(ir, AD_OP_slice, s, 1, &x, s.rank, start);
    return make(ir, AD_OP_assemble, whole, 1, &part, s.rank, at);
}

/* Operand k is an eye, one axis of which is contracted with an axis of the other operand, and the
 * other axis of which is in the result. */
static int32_t contract_eye(ad_ir *ir, const ad_inst *x, const label_lists *l, int k)
{
    const ad_inst *eye = &ir->inst[x->in[k]];
    int32_t other = x->in[1 - k];
    if (eye->op != AD_OP_eye || l->n[2] != l->n[1 - k]) return NO_RULE;
    for (int side = 0; side < 2; side++) {
        int64_t contracted = l->label[k][side], kept = l->label[k][1 - side];
        int axis = find(l, 1 - k, contracted);
        if (axis < 0 || find(l, 2, contracted) >= 0 || find(l, 1 - k, kept) >= 0 ||
            find(l, 2, kept) < 0)
            continue;
        int64_t from[AD_MAX_RANK], size = eye->shape.dim[1 - side];
        int64_t shift = side == 1 ? eye->attr[0] : -eye->attr[0];
        memcpy(from, l->label[1 - k], sizeof from);
        from[axis] = kept;
        for (int i = 0; i < l->n[2]; i++)
            if (find(l, 1 - k, l->label[2][i]) < 0 && l->label[2][i] != kept) return NO_RULE;
        return order_axes(ir, shift_axis(ir, other, axis, size, shift), from, l->label[2]);
    }
    return NO_RULE;
}

/* Operands that are transposed are read with their axes in the other order. */
static bool absorb_transposes(const ad_ir *ir, label_lists *l, int32_t in[2])
{
    bool changed = false;
    for (int k = 0; k < 2; k++) {
        const ad_inst *a = &ir->inst[in[k]];
        if (a->op != AD_OP_transpose) continue;
        int64_t label[AD_MAX_RANK];
        for (int i = 0; i < l->n[k]; i++) label[a->attr[i]] = l->label[k][i];
        memcpy(l->label[k], label, (size_t)l->n[k] * sizeof *label);
        in[k] = a->in[0];
        changed = true;
    }
    return changed;
}

/* Labels are named in the order of their first appearance, so that equal contractions look equal;
 * an operand with rows stands first. */
static bool normalise(const ad_ir *ir, label_lists *l, int32_t in[2])
{
    int64_t name[3 * AD_MAX_RANK];
    int n = 0;
    bool changed = false;
    if (!ad_has_rows(ir->inst[in[0]].shape) && ad_has_rows(ir->inst[in[1]].shape)) {
        label_lists swapped = *l;
        swapped.n[0] = l->n[1];
        swapped.n[1] = l->n[0];
        memcpy(swapped.label[0], l->label[1], sizeof swapped.label[0]);
        memcpy(swapped.label[1], l->label[0], sizeof swapped.label[1]);
        *l = swapped;
        int32_t first = in[0];
        in[0] = in[1];
        in[1] = first;
        changed = true;
    }
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < l->n[k]; i++) {
            int j = 0;
            while (j < n && name[j] != l->label[k][i]) j++;
            if (j == n) name[n++] = l->label[k][i];
            changed = changed || l->label[k][i] != j;
            l->label[k][i] = j;
        }
    }
    return changed;
}

static int32_t simplify_contract(ad_ir *ir, ad_inst *x)
{
    label_lists l = labels_of(x);
    int32_t in[2] = { x->in[0], x->in[1] };
    if (absorb_transposes(ir, &l, in)) return contraction(ir, x->shape, &l, in[0], in[1]);
    for (int k = 0; k < 2; k++) {
        int32_t y = contract_eye(ir, x, &l, k);
        if (y != NO_RULE) return y;
    }
    if (normalise(ir, &l, in)) return contraction(ir, x->shape, &l, in[0], in[1]);
    return NO_RULE;
}

/* ---- the table ---- */

static const ad_rule rules[AD_OP_COUNT] = {
    [AD_OP_broadcast] = simplify_broadcast,  [AD_OP_reshape] = simplify_reshape,
    [AD_OP_transpose] = simplify_transpose,  [AD_OP_slice] = simplify_slice,
    [AD_OP_assemble] = simplify_assemble,    [AD_OP_sum] = simplify_sum,
    [AD_OP_reduce_max] = simplify_reduction, [AD_OP_contract] = simplify_contract,
};

int32_t ad_simplified(ad_ir *ir, ad_inst *x)
{
    if (ir->failed) return 0;
    ad_rule rule = ad_ops[x->op].kind == AD_POINTWISE ? simplify_pointwise : rules[x->op];
    int32_t y = rule ? rule(ir, x) : NO_RULE;
    return y != NO_RULE ? y : ad_ir_add(ir, x);
}

bool ad_pass_simplify(ad_ir *ir) { return ad_ir_rewrite(ir, ad_simplified); }
