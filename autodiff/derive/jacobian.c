/* Jacobians and their traces: by products of factors (products.c), which is one walk for all
 * directions, or where that cannot be, by one forward derivative for each direction. A Jacobian
 * with fewer rows than columns may also be one reverse derivative for each row: that is recorded
 * as well, and what is less work stays. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>

/* The i-th unit vector, counted over the elements of a row, in x's shape. */
static ad_var unit_vector(ad_var x, int64_t i)
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

/* Axes but that of the rows. */
static int axes_of(ad_shape s) { return s.rank - (ad_has_rows(s) ? 1 : 0); }

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
        ad_var v = unit_vector(x, i);
        ad_jvp(1, &x, &v, 1, &y, &column[i]);
        column[i] = ad_reshape(column[i], flat);
    }
    j = ad_stack((int)n, column, -1);
    free(column);
    return j;
}

/* The operand of assembly n that element e of a row belongs to, and its place there; -1: to none,
 * or to several. */
static int piece_with(const ad_tape *t, const ad_node *n, int64_t e, int64_t *place)
{
    const int rank = n->shape.rank, first = ad_has_rows(n->shape);
    int found = -1, count = 0;
    for (int i = 0; i < n->nin; i++) {
        const ad_shape s = ad_node_at(t, n->in[i])->shape;
        const int64_t *start = n->attr + i * rank;
        int64_t rest = e, at = 0, stride = 1;
        bool inside = ad_has_rows(s) == ad_has_rows(n->shape);
        for (int k = rank - 1; k >= first && inside; k--) {
            const int64_t index = rest % n->shape.dim[k] - start[k];
            rest /= n->shape.dim[k];
            inside = index >= 0 && index < s.dim[k];
            at += index * stride;
            stride *= s.dim[k];
        }
        if (!inside) continue;
        found = i;
        count++;
        *place = at;
    }
    return count == 1 ? found : -1;
}

/* Where element *e of a row of v was computed: what does not depend on x, or comes from another
 * piece, is not gone through for it. */
static ad_var origin(ad_var v, ad_var x, int64_t *e)
{
    while (v.node > x.node) {
        const ad_node *n = ad_node_at(v.tape, v.node);
        int i = -1;
        if (n->op == AD_OP_reshape) i = 0;
        if (n->op == AD_OP_assemble) i = piece_with(v.tape, n, *e, e);
        if (i < 0) break;
        v = ad_var_at(v.tape, n->in[i]);
    }
    return v;
}

/* Jacobian by the rows, each a reverse derivative: [rows?, m, n]. */
static ad_var jacobian_by_cotangents(ad_var y, ad_var x)
{
    const ad_shape sx = ad_shape_of(x);
    ad_shape flat = { 1, { ad_row_size(sx) } };
    if (ad_has_rows(sx)) flat = (ad_shape){ 2, { AD_ROWS, ad_row_size(sx) } };
    const int64_t m = ad_row_size(ad_shape_of(y));
    ad_var *row = malloc((size_t)m * sizeof *row), j = ad_none(y.tape);
    if (!row) {
        ad_fail(y.tape, "ad_jacobian: out of memory");
        return j;
    }
    for (int64_t i = 0; i < m; i++) {
        int64_t e = i;
        ad_var from = origin(y, x, &e), unit = unit_vector(from, e);
        ad_vjp(1, &from, &unit, 1, &x, &row[i]);
        row[i] = ad_reshape(row[i], flat);
    }
    j = ad_stack((int)m, row, ad_has_rows(sx) ? 1 : 0);
    free(row);
    return j;
}

/* Operations of the user need not have a reverse derivative. */
static bool may_reverse(ad_var y, ad_var x)
{
    ad_activity a;
    if (ad_row_size(ad_shape_of(y)) >= ad_row_size(ad_shape_of(x)) ||
        !ad_activity_find(&a, y.tape, 1, &y, 1, &x, false))
        return false;
    bool may = true;
    for (int32_t k = 0; k < a.reach.n; k++) {
        const int32_t node = a.reach.node[k];
        may = may && !(a.active[node] & AD_THROUGH && ad_node_at(y.tape, node)->op == AD_OP_opaque);
    }
    ad_activity_clear(&a);
    return may;
}

/* What operation n takes for a row, in elements that are written. */
static double work_of(const ad_tape *t, const ad_node *n)
{
    /* FLOP: multiplications that take as long as an element. CALL: elements that take as long as
     * the call of a kernel for a block of rows. ROWS: what has none is done once for so many. */
    enum { FLOP = 32, CALL = 1, ROWS = 256 };
    double most = (double)ad_row_size(n->shape), products = 1;
    bool rows = ad_has_rows(n->shape);
    int64_t seen[2 * AD_MAX_RANK];
    int nseen = 0;
    for (int i = 0; i < n->nin; i++) {
        const ad_shape s = ad_node_at(t, n->in[i])->shape;
        rows = rows || ad_has_rows(s);
        if (s.rank >= 0 && (double)ad_row_size(s) > most) most = (double)ad_row_size(s);
        if (ad_ops[n->op].kind != AD_CONTRACT) continue;
        const ad_contraction c = ad_node_contraction(n);
        for (int k = 0; k < c.rank[i]; k++) {
            if (ad_label_find(seen, nseen, c.label[i][k]) >= 0) continue;
            seen[nseen++] = c.label[i][k];
            if (s.dim[k] != AD_ROWS) products *= (double)s.dim[k];
        }
    }
    return (most + CALL + (nseen ? products / FLOP : 0)) / (rows ? 1 : ROWS);
}

/* Of what v needs, recorded since the mark. */
static double work_since(int32_t mark, ad_var v)
{
    ad_reach r;
    double work = 0;
    if (!ad_valid(v) || !ad_reach_find(&r, v.tape, 1, &v, &(ad_reach_limits){ .first = mark }))
        return work;
    for (int32_t k = 0; k < r.n; k++) work += work_of(v.tape, ad_node_at(v.tape, r.node[k]));
    ad_reach_clear(&r);
    return work;
}

static ad_var jacobian_of(ad_var y, ad_var x)
{
    const bool may = may_reverse(y, x);
    const int32_t begin = ad_tape_mark(y.tape);
    ad_var reverse = may ? jacobian_by_cotangents(y, x) : ad_none(y.tape);
    const int32_t middle = ad_tape_mark(y.tape);
    bool single = axes_of(ad_shape_of(x)) != 1;
    ad_var walk = single ? ad_none(y.tape) : ad_products_jacobian(y, x, &single);
    if (ad_tape_error(y.tape)) return ad_none(y.tape);
    if (!may) return single ? jacobian_by_directions(y, x) : walk;
    const bool better = single || work_since(begin, reverse) <= work_since(middle, walk);
    ad_tape_rewind(y.tape, better ? middle : begin);
    return better ? reverse : ad_products_jacobian(y, x, &single);
}

ad_var ad_jacobian(ad_var y, ad_var x)
{
    if (!fits_row_by_row("jacobian", y, x)) return ad_none(y.tape);
    ad_shape sx = ad_shape_of(x), sy = ad_shape_of(y), out = sy;
    if (sy.rank + axes_of(sx) > AD_MAX_RANK)
        return ad_fail_shapes(y.tape, "jacobian", "the result would have too many axes", 2,
                              (ad_var[]){ y, x });
    for (int k = sx.rank - axes_of(sx); k < sx.rank; k++) out.dim[out.rank++] = sx.dim[k];
    if (y.node < x.node) return ad_fill(y.tape, out, 0);
    int32_t inner = ad_inner_begin(y.tape);
    ad_var j = ad_reshape(jacobian_of(y, x), out);
    ad_inner_end(y.tape, inner);
    return j;
}

static ad_var trace_by_directions(ad_var y, ad_var x)
{
    ad_var sum = ad_none(y.tape);
    int64_t d = ad_row_size(ad_shape_of(x));
    for (int64_t i = 0; i < d && !ad_tape_error(y.tape); i++) {
        ad_var v = unit_vector(x, i), c;
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
