/* Jacobians and their traces: by products of factors (products.c), which is one walk for all
 * directions, or where that cannot be, by one forward derivative for each direction. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>

/* The i-th unit vector, counted over the elements of a row, in x's shape. */
static ad_var unit_tangent(ad_var x, int64_t i)
{
    ad_shape s = ad_shape_of(x),
             flat = ad_has_rows(s) ? AD_SHAPE(1, ad_row_size(s)) : AD_SHAPE(ad_row_size(s));
    ad_var one = ad_pad(ad_fill(x.tape, ad_has_rows(s) ? AD_SHAPE(1, 1) : AD_SHAPE(1), 1), -1, i,
                        ad_row_size(s) - i - 1),
           v = one;
    if (ad_has_rows(s)) {
        flat.dim[0] = AD_ROWS;
        v = ad_broadcast(one, flat);
    }
    return ad_reshape(v, s);
}

static bool fits_row_by_row(const char *name, ad_var y, ad_var x)
{
    ad_tape *t = ad_common_tape(name, 2, (ad_var[]){ y, x });
    if (!t) return false;
    if (ad_has_rows(ad_shape_of(y)) == ad_has_rows(ad_shape_of(x))) return true;
    const char *why = ad_has_rows(ad_shape_of(x))
                          ? "both variables need the row axis, or neither"
                          : "both variables need the row axis, or neither; for rows by a parameter "
                            "take ad_vjp with "
                            "unit cotangents, or compute y from the parameter repeated for each "
                            "row (ad_broadcast)";
    ad_fail_shapes(t, name, why, 2, (ad_var[]){ y, x });
    return false;
}

/* Jacobian by single directions: [rows?, m, n]. */
static ad_var jacobian_by_directions(ad_var y, ad_var x)
{
    ad_shape sy = ad_shape_of(y), flat = { 1, { ad_row_size(sy) } };
    if (ad_has_rows(sy)) flat = (ad_shape){ 2, { AD_ROWS, ad_row_size(sy) } };
    int64_t n = ad_row_size(ad_shape_of(x));
    ad_var *column = malloc((size_t)n * sizeof *column), j = ad_none(y.tape);
    if (!column) {
        ad_fail(y.tape, "ad_jacobian: out of memory");
        return j;
    }
    for (int64_t i = 0; i < n; i++) {
        ad_var v = unit_tangent(x, i);
        ad_jvp(1, &x, &v, 1, &y, &column[i]);
        column[i] = ad_reshape(column[i], flat);
    }
    j = ad_stack((int)n, column, -1);
    free(column);
    return j;
}

ad_var ad_jacobian(ad_var y, ad_var x)
{
    if (!fits_row_by_row("jacobian", y, x)) return ad_none(y.tape);
    ad_shape sx = ad_shape_of(x), sy = ad_shape_of(y), out = sy;
    int first = ad_has_rows(sx) ? 1 : 0;
    if (sy.rank + sx.rank - first > AD_MAX_RANK)
        return ad_fail_shapes(y.tape, "jacobian", "the result would have too many axes", 2,
                              (ad_var[]){ y, x });
    for (int k = first; k < sx.rank; k++) out.dim[out.rank++] = sx.dim[k];
    if (y.node < x.node) return ad_fill(y.tape, out, 0);
    bool single = sx.rank - first != 1;
    int32_t inner = ad_inner_begin(y.tape);
    ad_var j = single ? ad_none(y.tape) : ad_products_jacobian(y, x, &single);
    if (single && !ad_tape_error(y.tape)) j = jacobian_by_directions(y, x);
    j = ad_reshape(j, out);
    ad_inner_end(y.tape, inner);
    return j;
}

static ad_var trace_by_directions(ad_var y, ad_var x)
{
    ad_var sum = ad_none(y.tape);
    int64_t d = ad_row_size(ad_shape_of(x));
    for (int64_t i = 0; i < d && !ad_tape_error(y.tape); i++) {
        ad_var v = unit_tangent(x, i), c;
        ad_jvp(1, &x, &v, 1, &y, &c);
        c = ad_slice(c, -1, i, i + 1);
        sum = sum.node < 0 ? c : ad_add(sum, c);
    }
    return sum;
}

ad_var ad_jacobian_trace(ad_var y, ad_var x)
{
    if (!fits_row_by_row("jacobian_trace", y, x)) return ad_none(y.tape);
    ad_shape s = ad_shape_of(x), out = s;
    int first = ad_has_rows(s) ? 1 : 0;
    if (s.rank != first + 1 || !ad_same_shape(s, ad_shape_of(y)))
        return ad_fail_shapes(y.tape, "jacobian_trace", "both must be [rows,d], or both [d]", 2,
                              (ad_var[]){ y, x });
    out.dim[first] = 1;
    if (y.node < x.node) return ad_fill(y.tape, out, 0);
    bool single = false;
    int32_t inner = ad_inner_begin(y.tape);
    ad_var sum = ad_products_trace(y, x, &single);
    if (single && !ad_tape_error(y.tape)) sum = trace_by_directions(y, x);
    sum = ad_broadcast(sum, out);
    ad_inner_end(y.tape, inner);
    return sum;
}
