/* Recording operations along one axis: elements by index, running sums, the place of the largest.
 */
#include "autodiff/tape/axes.h"
#include <stdlib.h>

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
    int a = t ? ad_axis_within_rows("gather", x, axis) : -1;
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
    int a = t ? ad_axis_within_rows("scatter_add", x, axis) : -1;
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
    int a = t ? ad_axis_within_rows("cumsum", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    return ad_record(t, AD_OP_cumsum, 1, &x.node, 2, (int64_t[]){ a, reverse }, ad_shape_of(x));
}

/* Shape of table[index]: that of the index, then the rest of the table's shape behind its K axis. A
 * single place is not an axis of its own: [R, rest]. false: index or table do not fit. */
static bool take_shape(ad_shape table, ad_shape index, ad_shape *out)
{
    const int k = ad_has_rows(table) ? 1 : 0;
    const bool rows = ad_has_rows(table) || ad_has_rows(index), single = ad_row_size(index) == 1;
    if (table.rank <= k || index.rank < 1) return false;
    int64_t dim[2 * AD_MAX_RANK];
    int n = 0;
    if (rows || single) dim[n++] = rows ? AD_ROWS : 1;
    for (int i = ad_has_rows(index); i < index.rank && !single; i++) dim[n++] = index.dim[i];
    for (int i = k + 1; i < table.rank; i++) dim[n++] = table.dim[i];
    if (n > AD_MAX_RANK) return false;
    out->rank = n;
    for (int i = 0; i < n; i++) out->dim[i] = dim[i];
    return true;
}

ad_var ad_take(ad_var table, ad_var index)
{
    ad_var x[] = { table, index };
    ad_tape *t = ad_common_tape("take", 2, x);
    ad_shape out;
    if (!t) return ad_none(table.tape);
    if (!take_shape(ad_shape_of(table), ad_shape_of(index), &out))
        return ad_fail_shapes(t, "take",
                              "the table must be [K,...] or [rows,K,...] and the index [m] or "
                              "[rows,m], of 8 axes in all",
                              2, x);
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

/* The smallest index among the elements that equal the maximum; where it is NaN, among those that
 * are NaN. Indices count downwards, so that their maximum is the first. */
static ad_var index_of_maximum(const char *name, ad_var x, ad_var compared, int axis, bool keep)
{
    ad_tape *t = ad_common_tape(name, 1, &x);
    int a = t ? ad_axis_within_rows(name, x, axis) : -1;
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
