/* What the elements of a value are computed from, operation by operation, in the order of the
 * kernels. */
#include "autodiff/native/pieces.h"
#include <math.h>
#include <string.h>

enum { SHORT_LINE = 16 /* below that the kernels add the elements of a line one by one */ };

/* ---- shapes, of one row ---- */

static void dense(ad_shape s, int64_t *stride)
{
    int64_t n = 1;
    for (int i = s.rank - 1; i >= 0; i--) {
        stride[i] = n;
        n *= ad_native_extent(s, i);
    }
}

/* index[e] = the place of element e of an array, where it is read with these strides from `start`
 * on. */
static void walk(ad_shape s, const int64_t *stride, int64_t start, int64_t *index)
{
    const int64_t size = ad_row_size(s);
    int64_t at[AD_MAX_RANK] = { 0 };
    for (int64_t e = 0; e < size; e++) {
        index[e] = start;
        for (int i = s.rank - 1; i >= 0; i--) {
            start += stride[i];
            if (++at[i] < ad_native_extent(s, i)) break;
            start -= at[i] * stride[i];
            at[i] = 0;
        }
    }
}

/* That of an array which is broadcast to the shape. */
static void walk_broadcast(ad_shape s, ad_shape from, int64_t *index)
{
    int64_t own[AD_MAX_RANK], stride[AD_MAX_RANK];
    const int missing = s.rank - from.rank;
    dense(from, own);
    for (int i = 0; i < s.rank; i++)
        stride[i] = i < missing || ad_native_extent(from, i - missing) == 1 ? 0 : own[i - missing];
    walk(s, stride, 0, index);
}

/* ---- operations: out[e] gets the atoms of the value's elements; false: no native form ---- */

static bool add_fill(ad_native *n, const ad_inst *x, int32_t *out)
{
    const int64_t size = ad_row_size(x->shape);
    for (int64_t e = 0; e < size; e++) out[e] = ad_atom_number(&n->atoms, x->data[0]);
    return true;
}

static bool add_pointwise(ad_native *n, const ad_inst *x, int32_t *out)
{
    int64_t index[3][AD_NATIVE_ELEMENTS];
    const int64_t size = ad_row_size(x->shape);
    AD_ASSERT(x->nin <= 3);
    for (int k = 0; k < x->nin; k++)
        walk_broadcast(x->shape, n->ir->inst[x->in[k]].shape, index[k]);
    for (int64_t e = 0; e < size; e++) {
        int32_t operand[3];
        for (int k = 0; k < x->nin; k++) operand[k] = ad_native_element(n, x->in[k], index[k][e]);
        out[e] = ad_atom_pointwise(&n->atoms, x->op, x->nin, operand);
        if (out[e] < 0) return false;
    }
    return true;
}

/* Where every element of a value that only moves them comes from; false: it is another one. */
static bool find_sources(const ad_native *n, const ad_inst *x, int64_t *index)
{
    const ad_shape from = n->ir->inst[x->in[0]].shape;
    int64_t own[AD_MAX_RANK], stride[AD_MAX_RANK], start = 0;
    dense(from, own);
    switch (x->op) {
    case AD_OP_broadcast: walk_broadcast(x->shape, from, index); return true;
    case AD_OP_reshape: dense(x->shape, stride); break;
    case AD_OP_transpose:
        for (int i = 0; i < x->shape.rank; i++) stride[i] = own[x->attr[i]];
        break;
    case AD_OP_slice:
        for (int i = 0; i < x->shape.rank; i++) {
            stride[i] = own[i];
            start += x->attr[i] * own[i];
        }
        break;
    case AD_OP_flip:
        for (int i = 0; i < x->shape.rank; i++) {
            const bool flipped = x->attr[0] >> i & 1;
            stride[i] = flipped ? -own[i] : own[i];
            if (flipped) start += (ad_native_extent(from, i) - 1) * own[i];
        }
        break;
    default: return false;
    }
    walk(x->shape, stride, start, index);
    return true;
}

static bool add_moved(ad_native *n, const ad_inst *x, int32_t *out)
{
    int64_t index[AD_NATIVE_ELEMENTS];
    const int64_t size = ad_row_size(x->shape);
    if (!find_sources(n, x, index)) return false;
    for (int64_t e = 0; e < size; e++) out[e] = ad_native_element(n, x->in[0], index[e]);
    return true;
}

static bool add_gather(ad_native *n, const ad_inst *x, int32_t *out)
{
    const int axis = (int)x->attr[0];
    const int64_t whole = ad_native_extent(n->ir->inst[x->in[0]].shape, axis),
                  count = ad_native_extent(x->shape, axis), size = ad_row_size(x->shape);
    int64_t own[AD_MAX_RANK];
    dense(x->shape, own);
    for (int64_t e = 0; e < size; e++) {
        const int64_t inner = e % own[axis], j = e / own[axis] % count,
                      outer = e / own[axis] / count;
        out[e] =
            ad_native_element(n, x->in[0], (outer * whole + x->attr[1 + j]) * own[axis] + inner);
    }
    return true;
}

/* Operands that do not overlap are copied into zeros; else all are added to zeros. */
static bool add_assemble(ad_native *n, const ad_inst *x, int32_t *out)
{
    int64_t own[AD_MAX_RANK], index[AD_NATIVE_ELEMENTS] = { 0 };
    int taken[AD_NATIVE_ELEMENTS] = { 0 };
    bool overlap = false;
    const int64_t size = ad_row_size(x->shape);
    const int32_t zero = ad_atom_number(&n->atoms, 0);
    dense(x->shape, own);
    for (int64_t e = 0; e < size; e++) out[e] = zero;
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < x->nin; k++) {
            const ad_shape part = n->ir->inst[x->in[k]].shape;
            int64_t start = 0;
            if (ad_row_size(part) > AD_NATIVE_ELEMENTS) return false;
            for (int i = 0; i < x->shape.rank; i++)
                start += x->attr[(ptrdiff_t)k * x->shape.rank + i] * own[i];
            walk(part, own, start, index);
            for (int64_t e = 0; e < ad_row_size(part); e++) {
                int32_t *to = &out[index[e]];
                if (pass == 0) overlap |= taken[index[e]]++ > 0;
                else if (overlap)
                    *to = ad_atom_add(&n->atoms, AD_DO_ADD, *to, ad_native_element(n, x->in[k], e),
                                      -1);
                else *to = ad_native_element(n, x->in[k], e);
            }
        }
    return true;
}

/* The kernel adds many with what rounding loses. */
static bool add_scatter(ad_native *n, const ad_inst *x, int32_t *out)
{
    const int axis = (int)x->attr[0];
    const int64_t whole = ad_native_extent(x->shape, axis), size = ad_row_size(x->shape);
    const int64_t count = ad_native_extent(n->ir->inst[x->in[0]].shape, axis);
    const int32_t zero = ad_atom_number(&n->atoms, 0);
    int64_t own[AD_MAX_RANK];
    if (count > AD_CHAIN) return false;
    dense(x->shape, own);
    for (int64_t e = 0; e < size; e++) out[e] = zero;
    for (int64_t j = 0; j < count; j++)
        for (int64_t e = 0; e < size; e++) { /* those that the index points to */
            if (e / own[axis] % whole != x->attr[1 + j]) continue;
            const int64_t outer = e / own[axis] / whole, inner = e % own[axis],
                          from = (outer * count + j) * own[axis] + inner;
            out[e] =
                ad_atom_add(&n->atoms, AD_DO_ADD, out[e], ad_native_element(n, x->in[0], from), -1);
        }
    return true;
}

/* ---- sums ---- */

/* Sums and maxima over the axes of a mask: groups of adjacent axes, the innermost first, as the
 * kernels have them, of lines so short that they are reduced one by one. */
static bool add_reduction(ad_native *n, const ad_inst *x, const int32_t *there, int32_t *out)
{
    const ad_shape s = n->ir->inst[x->in[0]].shape;
    const bool max = ad_has_trait(x->op, AD_MAXIMUM);
    int32_t from[AD_NATIVE_ELEMENTS], to[AD_NATIVE_ELEMENTS];
    int64_t size = ad_row_size(s), inner = 1;
    if (size > AD_NATIVE_ELEMENTS) return false;
    for (int64_t e = 0; e < size; e++) from[e] = ad_native_element(n, x->in[0], e);
    const int32_t begin = ad_atom_number(&n->atoms, max ? -INFINITY : 0),
                  zero = ad_atom_number(&n->atoms, 0);
    bool none = true;
    for (int i = s.rank - 1; i >= 0;) {
        int64_t count = 1;
        if (!(x->attr[0] >> i & 1)) {
            inner *= ad_native_extent(s, i--);
            continue;
        }
        for (; i >= 0 && (x->attr[0] >> i & 1); i--) count *= ad_native_extent(s, i);
        if (count >= SHORT_LINE) return false;
        none = false;
        size /= count;
        for (int64_t e = 0; e < size; e++) {
            const int64_t outer = e / inner, column = e % inner;
            to[e] = begin;
            for (int64_t r = 0; r < count; r++) {
                const int32_t next = from[(outer * count + r) * inner + column];
                to[e] = max ? ad_atom_pointwise(&n->atoms, AD_OP_max, 2, (int32_t[]){ to[e], next })
                            : ad_atom_add(&n->atoms, AD_DO_ADD, to[e], next, -1);
            }
            if (max && inner == 1) to[e] = ad_atom_add(&n->atoms, AD_DO_ADD, to[e], zero, -1);
        }
        memcpy(from, to, (size_t)size * sizeof *from);
    }
    if (none) return false;
    for (int64_t e = 0; e < size; e++)
        out[e] = there ? ad_atom_pointwise(&n->atoms, max ? AD_OP_max : AD_OP_add, 2,
                                           (int32_t[]){ there[e], from[e] })
                       : from[e];
    return true;
}

bool ad_native_value(ad_native *n, const ad_inst *x, const ad_kernel *kernel, const int32_t *there,
                     int32_t *out)
{
    if (ad_ops[x->op].kind == AD_POINTWISE) return add_pointwise(n, x, out);
    switch (x->op) {
    case AD_OP_fill: return add_fill(n, x, out);
    case AD_OP_gather: return add_gather(n, x, out);
    case AD_OP_assemble: return add_assemble(n, x, out);
    case AD_OP_scatter_add: return add_scatter(n, x, out);
    case AD_OP_sum:
    case AD_OP_reduce_max: return add_reduction(n, x, there, out);
    case AD_OP_contract: return ad_native_contract(n, x, kernel, there, out);
    default: return x->nin == 1 && add_moved(n, x, out);
    }
}
