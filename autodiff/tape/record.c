/* Recording: one function an operation, which checks shapes and appends a node. Compositions are at
 * the end. */
#include "autodiff/tape/tape.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }

/* ---- pointwise ---- */

/* The operand that the operation equals, where it has the result's shape (factors of one are found
 * often in derivatives, where seeds are ones). */
static ad_var identical(ad_op op, int n, const ad_var *x, ad_shape shape)
{
    ad_tape *t = x[0].tape;
    ad_operand operand[3];
    for (int i = 0; i < n; i++) {
        const ad_node *node = node_of(x[i]);
        operand[i] = (ad_operand){ .number = x[i].node,
                                   .op = node->op,
                                   .fill = node->op == AD_OP_fill ? node->data[0] : 0,
                                   .first = node->nin ? node->in[0] : -1 };
    }
    int32_t same = ad_identity(op, n, operand);
    if (same < 0 || !ad_same_shape(ad_node_at(t, same)->shape, shape)) return ad_none(t);
    return ad_var_at(t, same);
}

static ad_var pointwise(ad_op op, int n, const ad_var *x)
{
    const char *name = ad_ops[op].name;
    ad_tape *t = ad_common_tape(name, n, x);
    if (!t) return ad_none(x[0].tape);
    ad_shape shape = node_of(x[0])->shape;
    int32_t in[3];
    for (int i = 0; i < n; i++) {
        in[i] = x[i].node;
        if (i && !ad_broadcast_shapes(shape, node_of(x[i])->shape, &shape)) {
            bool rows = ad_has_rows(shape) || ad_has_rows(node_of(x[i])->shape);
            return ad_fail_shapes(
                t, name,
                rows ? "shapes do not broadcast (the row axis leads in operands of equal rank)"
                     : "shapes do not broadcast",
                n, x);
        }
    }
    ad_var same = identical(op, n, x, shape);
    if (same.node >= 0) return same;
    for (int k = 0; k < AD_CODED_OPS; k++) {
        if (op != ad_coded_ops[k].whole) continue;
        ad_var code = ad_record(t, ad_coded_ops[k].code, 1, in, 0, NULL, shape);
        return code.node < 0 ? code
                             : ad_record(t, ad_coded_ops[k].of_code, 1, &code.node, 0, NULL, shape);
    }
    return ad_record(t, op, n, in, 0, NULL, shape);
}

#define AD_UNARY(name, ...)                                                                        \
    ad_var ad_##name(ad_var x) { return pointwise(AD_OP_##name, 1, &x); }
#define AD_BINARY(name, ...)                                                                       \
    ad_var ad_##name(ad_var a, ad_var b) { return pointwise(AD_OP_##name, 2, (ad_var[]){ a, b }); }
#define AD_TERNARY(name, ...)                                                                      \
    ad_var ad_##name(ad_var a, ad_var b, ad_var c)                                                 \
    {                                                                                              \
        return pointwise(AD_OP_##name, 3, (ad_var[]){ a, b, c });                                  \
    }
#include "autodiff/ops.def"

ad_var ad_scale(ad_var x, double factor)
{
    return ad_common_tape("scale", 1, &x) ? ad_mul(x, ad_scalar(x.tape, factor)) : ad_none(x.tape);
}
ad_var ad_shift(ad_var x, double term)
{
    return ad_common_tape("shift", 1, &x) ? ad_add(x, ad_scalar(x.tape, term)) : ad_none(x.tape);
}
ad_var ad_zeros_like(ad_var x)
{
    return ad_common_tape("zeros_like", 1, &x) ? ad_fill(x.tape, ad_shape_of(x), 0)
                                               : ad_none(x.tape);
}
ad_var ad_ones_like(ad_var x)
{
    return ad_common_tape("ones_like", 1, &x) ? ad_fill(x.tape, ad_shape_of(x), 1)
                                              : ad_none(x.tape);
}

ad_var ad_pow_scalar(ad_var x, double p)
{
    if (!ad_common_tape("pow_scalar", 1, &x)) return ad_none(x.tape);
    if (p == 0) return ad_ones_like(x);
    if (p == 1) return x;
    if (p == 2) return ad_square(x);
    if (p == 3) return ad_mul(x, ad_square(x));
    if (p == 0.5) return ad_sqrt(x);
    if (p == -1) return ad_reciprocal(x);
    return ad_pow(x, ad_scalar(x.tape, p));
}

/* ---- axes ---- */

/* Axis number in 0..rank-1 from one that may count from the end; -1 after reporting. */
static int axis_of(const char *name, ad_var x, int axis)
{
    int rank = ad_shape_of(x).rank, a = axis < 0 ? axis + rank : axis;
    if (a >= 0 && a < rank) return a;
    char reason[96];
    snprintf(reason, sizeof reason, "axis %d is out of range for rank %d", axis, rank);
    ad_fail_shapes(x.tape, name, reason, 1, &x);
    return -1;
}

/* As axis_of, for operations that cannot act on the row axis. */
static int axis_within_rows(const char *name, ad_var x, int axis)
{
    int a = axis_of(name, x, axis);
    if (a != 0 || !ad_has_rows(ad_shape_of(x))) return a;
    ad_fail_shapes(x.tape, name,
                   "axis 0 is the row axis, whose length is known only when the program runs", 1,
                   &x);
    return -1;
}

static bool axes_mask(const char *name, ad_var x, int naxis, const int *axes, uint32_t *mask)
{
    int rank = ad_shape_of(x).rank;
    *mask = naxis ? 0 : (1u << rank) - 1;
    if (naxis < 0) ad_fail_shapes(x.tape, name, "the number of axes is negative", 1, &x);
    if (naxis > 0 && !axes) ad_fail_null(x.tape, name, "the list of axes");
    if (naxis > 0 && !axes) return false;
    for (int i = 0; i < naxis; i++) {
        int a = axis_of(name, x, axes[i]);
        if (a < 0) return false;
        *mask |= 1u << a;
    }
    return naxis >= 0;
}

static ad_var reduce(ad_op op, ad_var x, uint32_t mask)
{
    ad_shape s = ad_shape_of(x);
    bool any = false;
    for (int i = 0; i < s.rank; i++) {
        if (!(mask >> i & 1)) continue;
        if (s.dim[i] == 1) mask &= ~(1u << i);
        else any = true;
        s.dim[i] = 1;
    }
    return any ? ad_record(x.tape, op, 1, &x.node, 1, (int64_t[]){ mask }, s) : x;
}

static ad_var drop_axes(ad_var x, uint32_t mask)
{
    ad_shape s = ad_shape_of(x), out = { 0, { 0 } };
    for (int i = 0; i < s.rank; i++)
        if (!(mask >> i & 1)) out.dim[out.rank++] = s.dim[i];
    return s.rank < 0 ? x : ad_reshape(x, out);
}

ad_var ad_sum_mask(ad_var x, uint32_t mask)
{
    return ad_common_tape("sum", 1, &x) ? reduce(AD_OP_sum, x, mask) : ad_none(x.tape);
}

static ad_var reduce_axes(const char *name, ad_op op, ad_var x, int naxis, const int *axes,
                          bool keep)
{
    uint32_t mask;
    if (!ad_common_tape(name, 1, &x) || !axes_mask(name, x, naxis, axes, &mask))
        return ad_none(x.tape);
    ad_var y = reduce(op, x, mask);
    return keep ? y : drop_axes(y, mask);
}

ad_var ad_sum(ad_var x, int naxis, const int *axes, bool keep)
{
    return reduce_axes("sum", AD_OP_sum, x, naxis, axes, keep);
}
ad_var ad_reduce_max(ad_var x, int naxis, const int *axes, bool keep)
{
    return reduce_axes("reduce_max", AD_OP_reduce_max, x, naxis, axes, keep);
}
ad_var ad_sum_all(ad_var x) { return ad_sum(x, 0, NULL, false); }
ad_var ad_mean_all(ad_var x) { return ad_mean(x, 0, NULL, false); }
ad_var ad_sum_axis(ad_var x, int axis, bool keep) { return ad_sum(x, 1, &axis, keep); }

ad_var ad_mean(ad_var x, int naxis, const int *axes, bool keep)
{
    uint32_t mask;
    if (!ad_common_tape("mean", 1, &x) || !axes_mask("mean", x, naxis, axes, &mask))
        return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    double count = 1;
    for (int i = 0; i < s.rank; i++)
        if (mask >> i & 1 && s.dim[i] != AD_ROWS) count *= (double)s.dim[i];
    ad_var sum = ad_sum(x, naxis, axes, keep);
    if (ad_has_rows(s) && mask & 1) return ad_div(sum, ad_scale(ad_row_count(x.tape), count));
    return ad_div(sum, ad_scalar(x.tape, count));
}

/* m + log sum exp(x - m) with the maximum m, which takes part in the derivative although it
 * cancels: all derivatives of the sum are then in differences from that of the maximum, so that
 * those of the dominant term do not cancel. Where m is infinite, terms that attain it count 1 and
 * others nothing; where it is -inf, the derivative is zero. */
ad_var ad_logsumexp(ad_var x, int naxis, const int *axes, bool keep)
{
    uint32_t mask;
    if (!ad_common_tape("logsumexp", 1, &x) || !axes_mask("logsumexp", x, naxis, axes, &mask))
        return ad_none(x.tape);
    ad_var zero = ad_scalar(x.tape, 0), nothing = ad_scalar(x.tape, -INFINITY),
           m = reduce(AD_OP_reduce_max, x, mask);
    ad_var infinite = ad_eq(ad_abs(m), ad_scalar(x.tape, INFINITY));
    ad_var difference = ad_select(infinite, ad_select(ad_eq(x, m), zero, nothing), ad_sub(x, m));
    ad_var sum = reduce(AD_OP_sum, ad_exp(difference), mask);
    ad_var y = ad_add(ad_log(sum), ad_select(ad_eq(m, nothing), nothing, m));
    return keep ? y : drop_axes(y, mask);
}

/* ---- layout ---- */

ad_var ad_reshape(ad_var x, ad_shape shape)
{
    ad_tape *t = ad_common_tape("reshape", 1, &x);
    if (!t) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    if (!ad_check_shape(t, "reshape", shape)) return ad_none(t);
    if (ad_same_shape(s, shape)) return x;
    if (ad_has_rows(s) != ad_has_rows(shape) || ad_row_size(s) != ad_row_size(shape)) {
        char text[128], reason[192];
        ad_format_shape(shape, text, sizeof text);
        snprintf(reason, sizeof reason, "%s has another %s", text,
                 ad_has_rows(s) != ad_has_rows(shape) ? "row axis (it must stay first)"
                                                      : "number of elements");
        return ad_fail_shapes(t, "reshape", reason, 1, &x);
    }
    const ad_node *n = node_of(x);
    if (n->op == AD_OP_fill) return ad_fill(t, shape, n->data[0]);
    int32_t from = n->op == AD_OP_reshape ? n->in[0] : x.node;
    if (ad_same_shape(ad_node_at(t, from)->shape, shape)) return ad_var_at(t, from);
    return ad_record(t, AD_OP_reshape, 1, &from, 0, NULL, shape);
}

ad_var ad_transpose(ad_var x, const int *permutation)
{
    ad_tape *t = ad_common_tape("transpose", 1, &x);
    if (!t) return ad_none(x.tape);
    if (!permutation) ad_fail_null(t, "transpose", "the permutation");
    if (!permutation) return ad_none(t);
    ad_shape s = ad_shape_of(x), out = s;
    int64_t attr[AD_MAX_RANK];
    uint32_t seen = 0;
    bool identity = true;
    for (int i = 0; i < s.rank; i++) {
        int p = permutation[i];
        if (p < 0 || p >= s.rank || seen >> p & 1)
            return ad_fail_shapes(t, "transpose", "the permutation does not name each axis once", 1,
                                  &x);
        if (ad_has_rows(s) && (i == 0) != (p == 0))
            return ad_fail_shapes(t, "transpose", "the row axis must stay first", 1, &x);
        seen |= 1u << p;
        identity = identity && p == i;
        attr[i] = p;
        out.dim[i] = s.dim[p];
    }
    if (identity) return x;
    if (node_of(x)->op == AD_OP_eye) return ad_eye(t, out.dim[0], out.dim[1], -node_of(x)->attr[0]);
    return ad_record(t, AD_OP_transpose, 1, &x.node, s.rank, attr, out);
}

ad_var ad_broadcast(ad_var x, ad_shape shape)
{
    ad_tape *t = ad_common_tape("broadcast", 1, &x);
    if (!t) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x), out, lifted = { shape.rank, { 0 } };
    if (!ad_check_shape(t, "broadcast", shape)) return ad_none(t);
    if (shape.rank < s.rank || !ad_broadcast_shapes(s, shape, &out) || !ad_same_shape(out, shape)) {
        char text[128], reason[160];
        ad_format_shape(shape, text, sizeof text);
        snprintf(reason, sizeof reason, "does not broadcast to %s", text);
        return ad_fail_shapes(t, "broadcast", reason, 1, &x);
    }
    if (ad_same_shape(s, shape)) return x;
    if (node_of(x)->op == AD_OP_fill) return ad_fill(t, shape, node_of(x)->data[0]);
    for (int i = 0; i < shape.rank; i++)
        lifted.dim[i] = i < shape.rank - s.rank ? 1 : s.dim[i - (shape.rank - s.rank)];
    ad_var y = ad_reshape(x, lifted);
    return ad_same_shape(lifted, shape) ? y
                                        : ad_record(t, AD_OP_broadcast, 1, &y.node, 0, NULL, shape);
}

ad_var ad_sum_to(ad_var v, ad_shape shape)
{
    ad_shape s = ad_shape_of(v);
    if (s.rank < 0 || ad_same_shape(s, shape)) return v;
    uint32_t mask = 0;
    int lead = s.rank - shape.rank;
    for (int i = 0; i < s.rank; i++)
        if (i < lead || (shape.dim[i - lead] == 1 && s.dim[i] != 1)) mask |= 1u << i;
    return ad_reshape(ad_sum_mask(v, mask), shape);
}

ad_var ad_slice(ad_var x, int axis, int64_t start, int64_t stop)
{
    ad_tape *t = ad_common_tape("slice", 1, &x);
    int a = t ? axis_within_rows("slice", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x), out = s;
    if (start < 0 || stop > s.dim[a] || start >= stop) {
        char reason[128];
        snprintf(reason, sizeof reason, "%lld:%lld is not a range within axis %d", (long long)start,
                 (long long)stop, a);
        return ad_fail_shapes(t, "slice", reason, 1, &x);
    }
    if (start == 0 && stop == s.dim[a]) return x;
    out.dim[a] = stop - start;
    if (node_of(x)->op == AD_OP_fill) return ad_fill(t, out, node_of(x)->data[0]);
    int64_t attr[AD_MAX_RANK] = { 0 };
    attr[a] = start;
    if (node_of(x)->op == AD_OP_eye)
        return ad_eye(t, out.dim[0], out.dim[1], node_of(x)->attr[0] + attr[0] - attr[1]);
    return ad_record(t, AD_OP_slice, 1, &x.node, s.rank, attr, out);
}

ad_var ad_assemble(ad_tape *t, int n, const ad_var *x, const int64_t *start, ad_shape shape)
{
    int32_t *in = malloc((size_t)n * sizeof *in);
    if (!in) {
        ad_fail(t, "ad_assemble: out of memory");
        return ad_none(t);
    }
    for (int i = 0; i < n; i++) in[i] = x[i].node;
    ad_var y = ad_record(t, AD_OP_assemble, n, in, n * shape.rank, start, shape);
    free(in);
    return y;
}

/* Of sizes; a sum that overflows is refused as a shape. */
static int64_t saturated_sum(int64_t a, int64_t b) { return a > INT64_MAX - b ? INT64_MAX : a + b; }

ad_var ad_pad(ad_var x, int axis, int64_t before, int64_t after)
{
    ad_tape *t = ad_common_tape("pad", 1, &x);
    int a = t ? axis_within_rows("pad", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    if (before < 0 || after < 0)
        return ad_fail_shapes(t, "pad", "the padding is negative (ad_slice cuts)", 1, &x);
    if (!before && !after) return x;
    ad_shape s = ad_shape_of(x);
    int64_t start[AD_MAX_RANK] = { 0 };
    start[a] = before;
    s.dim[a] = saturated_sum(s.dim[a], saturated_sum(before, after));
    if (!ad_check_shape(t, "pad", s)) return ad_none(t);
    return ad_assemble(t, 1, &x, start, s);
}

ad_var ad_concatenate(int n, const ad_var *x, int axis)
{
    if (n < 1 || !x) return ad_none(NULL);
    ad_tape *t = ad_common_tape("concatenate", n, x);
    int a = t ? axis_of("concatenate", x[0], axis) : -1;
    if (a < 0) return ad_none(x[0].tape);
    ad_shape out = ad_shape_of(x[0]);
    int rank = out.rank;
    out.dim[a] = 0;
    bool rows = false;
    for (int i = 0; i < n; i++) rows = rows || ad_has_rows(ad_shape_of(x[i]));
    if (rows && a == 0)
        return ad_fail_shapes(
            t, "concatenate",
            "axis 0 is the row axis, whose length is known only when the program runs", n, x);
    ad_var *parts = malloc((size_t)n * sizeof *parts);
    int64_t *start = calloc((size_t)n * AD_MAX_RANK, sizeof *start);
    ad_var y = ad_none(t);
    if (!parts || !start) ad_fail(t, "ad_concatenate: out of memory");
    for (int i = 0; i < n && parts && start; i++) {
        ad_shape s = ad_shape_of(x[i]), want = out;
        if (rows) want.dim[0] = AD_ROWS;
        want.dim[a] = a < s.rank ? s.dim[a] : 0;
        /* What stands for all rows ([1,D], a time say) is repeated for each. */
        parts[i] = rows && s.rank == rank && s.dim[0] == 1 ? ad_broadcast(x[i], want) : x[i];
        if (!ad_same_shape(ad_shape_of(parts[i]), want)) {
            ad_fail_shapes(t, "concatenate", "shapes differ beside the axis", n, x);
            break;
        }
        start[i * rank + a] = out.dim[a];
        out.dim[a] = saturated_sum(out.dim[a], s.dim[a]);
    }
    if (rows) out.dim[0] = AD_ROWS;
    if (parts && start && !ad_tape_error(t) && ad_check_shape(t, "concatenate", out))
        y = n == 1 ? x[0] : ad_assemble(t, n, parts, start, out);
    free(parts);
    free(start);
    return y;
}

/* Whether a and b can be put side by side; what stands for all rows ([1,D]) can beside rows. */
static bool stackable(ad_shape a, ad_shape b)
{
    if (ad_has_rows(a) && b.rank > 0 && b.dim[0] == 1) b.dim[0] = AD_ROWS;
    if (ad_has_rows(b) && a.rank > 0 && a.dim[0] == 1) a.dim[0] = AD_ROWS;
    return ad_same_shape(a, b);
}

ad_var ad_stack(int n, const ad_var *x, int axis)
{
    if (n < 1 || !x) return ad_none(NULL);
    ad_tape *t = ad_common_tape("stack", n, x);
    if (!t) return ad_none(x[0].tape);
    ad_shape s = ad_shape_of(x[0]);
    int a = axis < 0 ? axis + s.rank + 1 : axis;
    bool rows = false;
    for (int i = 0; i < n; i++) {
        if (!stackable(s, ad_shape_of(x[i])))
            return ad_fail_shapes(t, "stack", "the shapes differ", n, x);
        rows |= ad_has_rows(ad_shape_of(x[i]));
    }
    if (a < 0 || a > s.rank || s.rank == AD_MAX_RANK || (a == 0 && rows))
        return ad_fail_shapes(t, "stack", "the new axis is out of range, or before the row axis", n,
                              x);
    ad_var *lifted = malloc((size_t)n * sizeof *lifted);
    if (!lifted) {
        ad_fail(t, "ad_stack: out of memory");
        return ad_none(t);
    }
    for (int i = 0; i < n; i++) {
        ad_shape p = ad_shape_of(x[i]), q = { p.rank + 1, { 0 } };
        for (int k = 0; k < q.rank; k++) q.dim[k] = k < a ? p.dim[k] : k == a ? 1 : p.dim[k - 1];
        lifted[i] = ad_reshape(x[i], q);
    }
    ad_var y = ad_concatenate(n, lifted, a);
    free(lifted);
    return y;
}

ad_var ad_flip(ad_var x, int axis)
{
    ad_tape *t = ad_common_tape("flip", 1, &x);
    int a = t ? axis_within_rows("flip", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    return ad_record(t, AD_OP_flip, 1, &x.node, 1, (int64_t[]){ 1 << a }, ad_shape_of(x));
}

/* Attributes of gather and scatter_add: the axis, then the indices, checked against `size`. NULL
 * after reporting. */
static int64_t *index_attributes(const char *name, ad_var x, int axis, int64_t n,
                                 const int64_t *indices, int64_t size)
{
    if (n < 1 || n > INT32_MAX - 1 || !indices) {
        ad_fail_shapes(x.tape, name,
                       indices ? "the list of indices is empty or too long"
                               : "the list of indices is NULL",
                       1, &x);
        return NULL;
    }
    int64_t *attr = malloc((size_t)(n + 1) * sizeof *attr);
    if (!attr) {
        ad_fail(x.tape, "ad_%s: out of memory", name);
        return NULL;
    }
    attr[0] = axis;
    for (int64_t i = 0; i < n; i++) {
        attr[i + 1] = indices[i];
        if (indices[i] >= 0 && indices[i] < size) continue;
        char reason[128];
        snprintf(reason, sizeof reason, "index %lld at place %lld is not in 0..%lld",
                 (long long)indices[i], (long long)i, (long long)size - 1);
        ad_fail_shapes(x.tape, name, reason, 1, &x);
        free(attr);
        return NULL;
    }
    return attr;
}

ad_var ad_gather(ad_var x, int axis, int64_t n, const int64_t *indices)
{
    ad_tape *t = ad_common_tape("gather", 1, &x);
    int a = t ? axis_within_rows("gather", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    int64_t *attr = index_attributes("gather", x, a, n, indices, s.dim[a]);
    s.dim[a] = n;
    ad_var y = attr ? ad_record(t, AD_OP_gather, 1, &x.node, (int)n + 1, attr, s) : ad_none(t);
    free(attr);
    return y;
}

ad_var ad_scatter_add(ad_var x, int axis, int64_t size, const int64_t *indices)
{
    ad_tape *t = ad_common_tape("scatter_add", 1, &x);
    int a = t ? axis_within_rows("scatter_add", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    if (size < 1)
        return ad_fail_shapes(t, "scatter_add", "the size of the result's axis is not positive", 1,
                              &x);
    ad_shape s = ad_shape_of(x);
    int64_t n = s.dim[a], *attr = index_attributes("scatter_add", x, a, n, indices, size);
    s.dim[a] = size;
    ad_var y = attr ? ad_record(t, AD_OP_scatter_add, 1, &x.node, (int)n + 1, attr, s) : ad_none(t);
    free(attr);
    return y;
}

ad_var ad_cumsum(ad_var x, int axis, bool reverse)
{
    ad_tape *t = ad_common_tape("cumsum", 1, &x);
    int a = t ? axis_within_rows("cumsum", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    return ad_record(t, AD_OP_cumsum, 1, &x.node, 2, (int64_t[]){ a, reverse }, ad_shape_of(x));
}

/* Shape of table[index]: [R, rest of the table's shape behind its K axis]. false: index or table do
 * not fit. */
static bool take_shape(ad_shape table, ad_shape index, ad_shape *out)
{
    int k = ad_has_rows(table) ? 1 : 0;
    if (table.rank <= k || index.rank < 1 || ad_row_size(index) != 1) return false;
    *out = (ad_shape){ table.rank - k, { ad_has_rows(table) || ad_has_rows(index) ? AD_ROWS : 1 } };
    for (int i = 1; i < out->rank; i++) out->dim[i] = table.dim[k + i];
    return true;
}

ad_var ad_take(ad_var table, ad_var index)
{
    ad_var x[] = { table, index };
    ad_tape *t = ad_common_tape("take", 2, x);
    ad_shape out;
    if (!t) return ad_none(table.tape);
    if (!take_shape(ad_shape_of(table), ad_shape_of(index), &out))
        return ad_fail_shapes(
            t, "take", "the table must be [K,...] or [rows,K,...] and the index [1] or [R,1]", 2,
            x);
    return ad_record(t, AD_OP_take, 2, (int32_t[]){ table.node, index.node }, 0, NULL, out);
}

ad_var ad_put_add(ad_var values, ad_var index, ad_shape table)
{
    ad_var x[] = { values, index };
    ad_tape *t = ad_common_tape("put_add", 2, x);
    if (!t) return ad_none(values.tape);
    return ad_record(t, AD_OP_put_add, 2, (int32_t[]){ values.node, index.node }, 0, NULL, table);
}

ad_var ad_locate(ad_var time, ad_var knots)
{
    ad_var x[] = { time, knots };
    ad_tape *t = ad_common_tape("locate", 2, x);
    if (!t) return ad_none(time.tape);
    ad_shape k = ad_shape_of(knots);
    if (k.rank != 1 || ad_has_rows(k) || k.dim[0] < 2)
        return ad_fail_shapes(t, "locate", "the knots must be [K], K >= 2", 2, x);
    return ad_record(t, AD_OP_locate, 2, (int32_t[]){ time.node, knots.node }, 0, NULL,
                     ad_shape_of(time));
}

void ad_split(ad_var x, int axis, int n, const int64_t *sizes, ad_var *out)
{
    for (int i = 0; out && i < n; i++) out[i] = ad_none(x.tape);
    ad_tape *t = ad_common_tape("split", 1, &x);
    if (!out) ad_fail_null(t, "split", "the list of parts");
    int a = t && out ? axis_within_rows("split", x, axis) : -1;
    if (a < 0) return;
    int64_t whole = ad_shape_of(x).dim[a], sum = 0;
    if (n < 1 || (!sizes && whole % n)) {
        ad_fail_shapes(t, "split",
                       "the axis does not fall into so many equal parts (give their sizes)", 1, &x);
        return;
    }
    for (int i = 0; i < n; i++) {
        int64_t size = sizes ? sizes[i] : whole / n;
        sum = size < 1 ? INT64_MAX : saturated_sum(sum, size);
    }
    if (sum != whole) {
        ad_fail_shapes(t, "split", "the sizes of the parts must be positive and add up to the axis",
                       1, &x);
        return;
    }
    int64_t start = 0;
    for (int i = 0; i < n; i++) {
        int64_t size = sizes ? sizes[i] : whole / n;
        out[i] = ad_slice(x, a, start, start + size);
        start += size;
    }
}

/* The smallest index among the elements that equal the maximum; where it is NaN, among those that
 * are NaN. Indices count downwards, so that their maximum is the first. */
static ad_var index_of_maximum(const char *name, ad_var x, ad_var compared, int axis, bool keep)
{
    ad_tape *t = ad_common_tape(name, 1, &x);
    int a = t ? axis_within_rows(name, x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    int64_t n = s.dim[a];
    if (ad_tape_dtype(t) == AD_F32 && n > (int64_t)1 << 24)
        return ad_fail_shapes(t, name, "indices beyond 2^24 are no whole numbers in f32", 1, &x);
    ad_shape line = { s.rank, { 0 } };
    for (int i = 0; i < s.rank; i++) line.dim[i] = i == a ? n : 1;
    double *from_end = malloc((size_t)n * sizeof *from_end);
    if (!from_end) {
        ad_fail(t, "ad_%s: out of memory", name);
        return ad_none(t);
    }
    for (int64_t i = 0; i < n; i++) from_end[i] = (double)(n - 1 - i);
    ad_var place = ad_constant(t, line, from_end), v = ad_stop_gradient(compared);
    free(from_end);
    ad_var chosen = ad_max(ad_eq(v, ad_reduce_max(v, 1, &a, true)), ad_ne(v, v));
    ad_var last = ad_reduce_max(ad_select(chosen, place, ad_scalar(t, -1)), 1, &a, keep);
    return ad_sub(ad_scalar(t, (double)(n - 1)), last);
}

ad_var ad_argmax(ad_var x, int axis, bool keep)
{
    return index_of_maximum("argmax", x, x, axis, keep);
}
ad_var ad_argmin(ad_var x, int axis, bool keep)
{
    return index_of_maximum("argmin", x, ad_neg(x), axis, keep);
}

/* ---- opaque ---- */

static bool opaque_shapes_fit(ad_tape *t, const char *name, int nout, const ad_shape *shapes)
{
    for (int i = 0; i < nout; i++)
        if (!ad_check_shape(t, name, shapes[i])) return false;
    return true;
}

static bool opaque_call_fits(ad_tape *t, const ad_opaque_class *class_, int nin, const ad_var *in,
                             int nout, const ad_shape *shapes, const ad_var *out)
{
    const char *name = class_ ? class_->name : "opaque";
    if (!class_) ad_fail_null(t, name, "the class");
    else if (nin < 0 || nout < 0) ad_fail(t, "ad_%s: %d operands, %d results", name, nin, nout);
    else if (nin && !in) ad_fail_null(t, name, "the list of operands");
    else if (nout && !shapes) ad_fail_null(t, name, "the list of shapes");
    else if (nout && !out) ad_fail_null(t, name, "the list of results");
    if (!t || ad_tape_error(t)) return false;
    if (nin && ad_common_tape_tokens(name, nin, in) != t) {
        ad_fail(t, "ad_%s: the operands are not on the tape of the operation", name);
        return false;
    }
    return opaque_shapes_fit(t, name, nout, shapes);
}

ad_var ad_opaque(ad_tape *t, const ad_opaque_class *class_, void *data, int nin, const ad_var *in,
                 int nout, const ad_shape *shapes, ad_var *out)
{
    for (int i = 0; out && i < nout; i++) out[i] = ad_none(t);
    if (!opaque_call_fits(t, class_, nin, in, nout, shapes, out)) {
        if (class_ && class_->release) class_->release(data);
        return ad_none(t);
    }
    int32_t *operands = nin ? malloc((size_t)nin * sizeof *operands) : NULL;
    bool fine = nin == 0 || operands;
    if (!fine) ad_fail(t, "%s: out of memory", class_->name);
    for (int i = 0; i < nin && fine; i++) operands[i] = in[i].node;
    ad_var token = fine ? ad_record(t, AD_OP_opaque, nin, operands, 1, (int64_t[]){ nout },
                                    (ad_shape){ -1, { 0 } })
                        : ad_none(t);
    free(operands);
    if (!ad_valid(token)) {
        if (class_->release) class_->release(data);
        return ad_none(t);
    }
    ad_node *n = ad_node_at(t, token.node);
    n->class_ = class_;
    n->opaque = data;
    for (int i = 0; i < nout; i++) {
        if (ad_has_rows(shapes[i])) n->level = AD_LEVEL_ROW;
        out[i] = ad_record(t, AD_OP_project, 1, &token.node, 1, (int64_t[]){ i }, shapes[i]);
    }
    if (ad_valid(token)) return token;
    /* Short of memory between the results: none of them, as the operation needs all. */
    ad_tape_rewind(t, token.node);
    for (int i = 0; i < nout; i++) out[i] = ad_none(t);
    return ad_none(t);
}
