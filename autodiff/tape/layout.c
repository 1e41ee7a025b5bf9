/* Recording operations that put elements in other places. */
#include "autodiff/tape/axes.h"
#include <stdlib.h>

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }
/* Whether x is made by op, and nobody asks for derivatives by it. */
static bool is_inner(ad_var x, ad_op op) { return node_of(x)->op == op && ad_is_inner(x); }

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
    if (is_inner(x, AD_OP_fill)) return ad_fill(t, shape, n->data[0]);
    int32_t from = is_inner(x, AD_OP_reshape) ? n->in[0] : x.node;
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
    if (is_inner(x, AD_OP_eye)) return ad_eye(t, out.dim[0], out.dim[1], -node_of(x)->attr[0]);
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
    if (is_inner(x, AD_OP_fill)) return ad_fill(t, shape, node_of(x)->data[0]);
    for (int i = 0; i < shape.rank; i++)
        lifted.dim[i] = i < shape.rank - s.rank ? 1 : s.dim[i - (shape.rank - s.rank)];
    ad_var y = ad_reshape(x, lifted);
    return ad_same_shape(lifted, shape) ? y
                                        : ad_record(t, AD_OP_broadcast, 1, &y.node, 0, NULL, shape);
}

ad_var ad_slice(ad_var x, int axis, int64_t start, int64_t stop)
{
    ad_tape *t = ad_common_tape("slice", 1, &x);
    int a = t ? ad_axis_within_rows("slice", x, axis) : -1;
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
    if (is_inner(x, AD_OP_fill)) return ad_fill(t, out, node_of(x)->data[0]);
    int64_t attr[AD_MAX_RANK] = { 0 };
    attr[a] = start;
    if (is_inner(x, AD_OP_eye))
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

ad_var ad_pad(ad_var x, int axis, int64_t before, int64_t after)
{
    ad_tape *t = ad_common_tape("pad", 1, &x);
    int a = t ? ad_axis_within_rows("pad", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    if (before < 0 || after < 0)
        return ad_fail_shapes(t, "pad", "the padding is negative (ad_slice cuts)", 1, &x);
    if (!before && !after) return x;
    ad_shape s = ad_shape_of(x);
    int64_t start[AD_MAX_RANK] = { 0 };
    start[a] = before;
    s.dim[a] = ad_saturated_sum(s.dim[a], ad_saturated_sum(before, after));
    if (!ad_check_shape(t, "pad", s)) return ad_none(t);
    return ad_assemble(t, 1, &x, start, s);
}

ad_var ad_concatenate(int n, const ad_var *x, int axis)
{
    if (n < 1 || !x) return ad_none(NULL);
    ad_tape *t = ad_common_tape("concatenate", n, x);
    int a = t ? ad_axis_of("concatenate", x[0], axis) : -1;
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
        out.dim[a] = ad_saturated_sum(out.dim[a], s.dim[a]);
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
    int a = t ? ad_axis_within_rows("flip", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    return ad_record(t, AD_OP_flip, 1, &x.node, 1, (int64_t[]){ 1 << a }, ad_shape_of(x));
}

void ad_split(ad_var x, int axis, int n, const int64_t *sizes, ad_var *out)
{
    ad_clear_results(x.tape, n, NULL, out);
    ad_tape *t = ad_common_tape("split", 1, &x);
    if (!out) ad_fail_null(t, "split", "the list of parts");
    int a = t && out ? ad_axis_within_rows("split", x, axis) : -1;
    if (a < 0) return;
    int64_t whole = ad_shape_of(x).dim[a], sum = 0;
    if (n < 1 || (!sizes && whole % n)) {
        ad_fail_shapes(t, "split",
                       "the axis does not fall into so many equal parts (give their sizes)", 1, &x);
        return;
    }
    for (int i = 0; i < n; i++) {
        int64_t size = sizes ? sizes[i] : whole / n;
        sum = size < 1 ? INT64_MAX : ad_saturated_sum(sum, size);
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
