/* Jacobians and their traces by products of factors.
 *
 * The tangent of each node along all unit vectors of x at once is kept as a sum of products of
 * factors (a tensor network), beginning with an identity that is never stored. A product is
 * multiplied out only when the trace is closed, in the order of least cost. So the trace of a
 * network with one or two hidden layers costs about one more layer whatever its dimension: for two,
 *   tr = sum_gh s1[b,h] Q[h,g] s2[b,g],  Q = W2 o (W1 W3)^T,
 * where Q depends on parameters only. What a product cannot express (a reshape that merges axes, a
 * gather, ...) makes it an array with one more axis, of directions; an opaque operation, a sum over
 * rows or a ninth axis falls back to one forward derivative for each direction. */
#include "autodiff/derive/terms.h"
#include <stdlib.h>
#include <string.h>

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }

/* ---- operations on products ---- */

/* Factor f, which has more labels than the node's axes, 0 where the mask over the node is. */
static void select_within(const ad_term *t, ad_factor *f, ad_shape node, ad_var mask)
{
    ad_shape s = node_of(f->x)->shape, m = ad_shape_of(mask), over = { s.rank, { 0 } },
             kept = { 0, { 0 } };
    int permutation[AD_MAX_RANK], n = 0, place[AD_MAX_LABELS];
    for (int k = 0; k < m.rank; k++)
        if (m.dim[k] != 1) {
            place[t->axis[node.rank - m.rank + k]] = kept.rank;
            kept.dim[kept.rank++] = m.dim[k];
        }
    for (int a = 0; a < s.rank; a++) {
        over.dim[a] = 1;
        for (int k = 0; k < m.rank; k++)
            if (m.dim[k] != 1 && f->label[a] == t->axis[node.rank - m.rank + k]) {
                over.dim[a] = s.dim[a];
                permutation[n++] = place[(int)f->label[a]];
            }
    }
    if (n == kept.rank)
        f->x = ad_live_select(ad_reshape(ad_transpose(ad_reshape(mask, kept), permutation), over),
                              f->x);
}

/* Selects by the node's partial derivative by its operand i in one factor that has all its axes,
 * instead of multiplying with it. Returns whether there is any. wild: factors may be infinite, so
 * all of them are selected. */
static bool select_factors(ad_term *t, ad_var y, int i, ad_shape node, ad_var partial, bool wild)
{
    const ad_term old = *t;
    bool any = false;
    t->n = 0;
    for (int k = 0; k < old.n; k++) {
        ad_factor f = old.f[k];
        ad_var v = any && !wild ? ad_none(y.tape) : ad_factor_over(&old, &f, node);
        if (ad_valid(v)) {
            ad_var selected = any ? ad_live_select(partial, v) : ad_push(y, i, v);
            if (ad_valid(selected) &&
                (wild || ad_same_shape(ad_shape_of(selected), ad_shape_of(v)))) {
                ad_term_append(t, selected, node);
                any = true;
                continue;
            }
        }
        if (wild && node_of(f.x)->op != AD_OP_eye) select_within(&old, &f, node, partial);
        t->f[t->n++] = f;
    }
    return any;
}

/* Whether select_factors leaves no factor of t that may be infinite where the mask is 0: a factor
 * takes the mask if it has all of the mask's axes. Those of an input are finite. */
static bool takes_mask(const ad_term *t, ad_shape node, ad_var mask)
{
    const ad_shape m = ad_shape_of(mask);
    for (int i = 0; i < t->n; i++) {
        const int op = node_of(t->f[i].x)->op;
        if (op == AD_OP_eye || op == AD_OP_input || op == AD_OP_constant || op == AD_OP_fill)
            continue;
        if (ad_valid(ad_factor_over(t, &t->f[i], node))) continue;
        for (int k = 0; k < m.rank; k++)
            if (m.dim[k] != 1 && !ad_factor_has(&t->f[i], t->axis[node.rank - m.rank + k]))
                return false;
    }
    return true;
}

/* x with one axis more, of size 1, for directions, and as many axes as y [rows?, axes...] then has.
 */
static ad_var with_directions(ad_var x, ad_shape y)
{
    const ad_shape s = ad_shape_of(x);
    const int rows = ad_has_rows(y), lead = y.rank - s.rank;
    ad_shape out = { y.rank + 1, { 0 } };
    for (int k = 0; k < out.rank; k++) {
        const int a = k == rows ? -1 : (k < rows ? k : k - 1) - lead;
        out.dim[k] = a < 0 ? 1 : s.dim[a];
    }
    return ad_reshape(x, out);
}

/* The ad_tangent of operand i by directions, times the partial derivative, selected by it. */
static void select_array(ad_walk *w, int32_t node, const ad_node *n, int i, ad_var partial)
{
    w->single = w->single || n->shape.rank == AD_MAX_RANK;
    if (!w->single) ad_terms_multiply(w, n->in[i]);
    if (w->single || ad_tape_error(w->tape)) return;
    ad_var x = ad_tangent_at(w, n->in[i])->t[0].f[0].x;
    const ad_shape s = ad_node_at(w->tape, n->in[i])->shape;
    const int first = ad_has_rows(n->shape), lead = n->shape.rank - s.rank;
    const bool rows = ad_has_rows(ad_shape_of(x));
    ad_shape from = { n->shape.rank + 1, { 0 } }, to = from;
    for (int k = 0; k < from.rank; k++) {
        const int a = k > first ? k - 1 : k, of_operand = a - lead;
        from.dim[k] = k == first ? w->ndir : of_operand < 0 ? 1 : s.dim[of_operand];
        to.dim[k] = k == first ? w->ndir : n->shape.dim[a];
    }
    if (first && !rows) from.dim[0] = 1;
    const ad_var factor = with_directions(partial, n->shape);
    x = ad_broadcast(ad_live_select(factor, ad_mul(ad_reshape(x, from), factor)), to);
    ad_term *t = ad_valid(x) ? ad_term_add(w, ad_tangent_at(w, node)) : NULL;
    if (t) *t = ad_term_of_array(x, n->shape);
}

static void through_pointwise(ad_walk *w, int32_t node, const ad_node *n)
{
    ad_tangent *g = ad_tangent_at(w, node);
    for (int i = 0; i < n->nin; i++) {
        if (!w->act.active[n->in[i]] || !ad_differentiable(n, i)) continue;
        const ad_tangent *from = ad_tangent_at(w, n->in[i]);
        ad_var partial = ad_push(ad_var_at(w->tape, node), i, ad_scalar(w->tape, 1));
        if (ad_live_guards(&w->live, n))
            partial = ad_live_select(ad_live_before(&w->live, n->in[i]), partial);
        const ad_shape s = ad_node_at(w->tape, n->in[i])->shape;
        const bool selects = ad_has_trait(n->op, AD_SELECTS);
        const bool wild = ad_live_wild(&w->live, n->in[i]);
        bool fits = true;
        for (int k = 0; k < from->n && selects && wild; k++) {
            ad_term t = from->t[k];
            ad_term_align(&t, s, n->shape);
            fits = fits && takes_mask(&t, n->shape, partial);
        }
        if (!fits) {
            select_array(w, node, n, i, partial);
            if (w->single) return;
            continue;
        }
        for (int k = 0; k < from->n && !ad_tape_error(w->tape); k++) {
            ad_term *t = ad_term_copy(w, g, &from->t[k]);
            if (!t) return;
            ad_term_align(t, s, n->shape);
            if (selects && select_factors(t, ad_var_at(w->tape, node), i, n->shape, partial, wild))
                continue;
            ad_term_append(t, partial, n->shape);
        }
    }
}

static void through_contract(ad_walk *w, int32_t node, const ad_node *n)
{
    ad_tangent *g = ad_tangent_at(w, node);
    const ad_contraction c = ad_node_contraction(n);
    for (int i = 0; i < 2; i++) {
        if (!w->act.active[n->in[i]]) continue;
        const ad_tangent *from = ad_tangent_at(w, n->in[i]);
        const ad_var other =
            ad_live_other(&w->live, n, i, 1 - i, ad_live_before(&w->live, n->in[i]));
        for (int k = 0; k < from->n && ad_valid(other); k++) {
            ad_term *t = ad_term_copy(w, g, &from->t[k]);
            if (!t) return;
            int8_t name[AD_MAX_LABELS];
            memset(name, -1, sizeof name);
            for (int a = 0; a < c.rank[i]; a++) name[c.label[i][a]] = t->axis[a];
            ad_factor *f = &t->f[t->n++];
            f->x = other;
            for (int a = 0; a < c.rank[1 - i]; a++) {
                int8_t *l = &name[c.label[1 - i][a]];
                if (*l < 0)
                    *l = ad_shape_of(f->x).dim[a] == AD_ROWS ? AD_LABEL_ROW : (int8_t)t->labels++;
                f->label[a] = *l;
            }
            for (int a = 0; a < c.rank[2]; a++) t->axis[a] = name[c.label[2][a]];
        }
    }
}

/* A linear operation on arrays with the axis of directions behind the rows. */
static void through_array(ad_walk *w, int32_t node, const ad_node *n)
{
    w->single = n->shape.rank == AD_MAX_RANK || !ad_has_trait(n->op, AD_BATCHED);
    if (!w->single) ad_terms_multiply(w, n->in[0]);
    if (w->single || ad_tape_error(w->tape)) return;
    const ad_term *from = &ad_tangent_at(w, n->in[0])->t[0];
    ad_shape in = ad_node_at(w->tape, n->in[0])->shape, have = ad_shape_of(from->f[0].x);
    bool lacks_rows = ad_has_rows(in) && !ad_has_rows(have);
    int shift = lacks_rows ? 0 : 1, front = ad_has_rows(have) ? 1 : 0;
    int64_t *attr = malloc((size_t)(n->nattr + AD_MAX_RANK) * sizeof *attr);
    if (!attr) {
        ad_fail(w->tape, "ad_jacobian: out of memory");
        return;
    }
    for (int k = 0; k < n->nattr; k++) attr[k] = n->attr[k];
    int nattr = n->nattr;
    ad_shape out = { 0, { 0 } };
    if (front) out.dim[out.rank++] = AD_ROWS;
    out.dim[out.rank++] = w->ndir;
    for (int k = ad_has_rows(n->shape) ? 1 : 0; k < n->shape.rank; k++)
        out.dim[out.rank++] = n->shape.dim[k];
    if (ad_ops[n->op].attributes == AD_ATTR_AXES) attr[0] = n->attr[0] << shift;
    else if (ad_ops[n->op].attributes == AD_ATTR_AXIS) attr[0] += shift;
    ad_var x = ad_record(w->tape, n->op, 1, &from->f[0].x.node, nattr, attr, out);
    free(attr);
    ad_term *t = ad_valid(x) ? ad_term_add(w, ad_tangent_at(w, node)) : NULL;
    if (t) *t = ad_term_of_array(x, n->shape);
}

static void through_linear(ad_walk *w, int32_t node, const ad_node *n)
{
    if (ad_ops[n->op].attributes == AD_ATTR_WINDOWS) {
        ad_terms_through_windows(w, node, n);
        return;
    }
    ad_tangent *g = ad_tangent_at(w, node);
    const ad_tangent *from = ad_tangent_at(w, n->in[0]);
    bool fine = true;
    for (int k = 0; k < from->n && fine; k++) {
        ad_term *t = ad_term_copy(w, g, &from->t[k]);
        fine = t && ad_term_relabel(w, t, n);
    }
    if (fine) return;
    g->n = 0;
    through_array(w, node, n);
}

/* ---- the walk ---- */

static void walk_free(ad_walk *w)
{
    if (w->of)
        for (int32_t j = 0; j < w->act.reach.n; j++)
            free(ad_tangent_at(w, w->act.reach.node[j])->t);
    free(w->of);
    ad_live_clear(&w->live);
    ad_activity_clear(&w->act);
}

static bool expressible(const ad_node *n)
{
    const ad_kind kind = ad_ops[n->op].kind;
    return kind == AD_POINTWISE || kind == AD_CONTRACT || kind == AD_SOURCE ||
           (kind == AD_LINEAR && !ad_has_trait(n->op, AD_INDEX_1));
}

/* Whether products of factors can express the node's tangent. Sums over rows they cannot: the rows
 * have one label. */
static bool needs_single_directions(const ad_walk *w, const ad_node *n)
{
    return (!ad_has_rows(n->shape) && ad_reads_rows(w->tape, n)) || !expressible(n);
}

/* Tangents of all nodes between x and y along the unit vectors of x [rows?, n]. false: failed, or
 * only single directions will do. */
static bool walk_from(ad_walk *w, ad_var y, ad_var x)
{
    w->tape = y.tape;
    if (!ad_activity_find(&w->act, y.tape, 1, &y, 1, &x, false)) return false;
    w->of = malloc(((size_t)(w->act.end - w->act.begin) + 1) * sizeof *w->of);
    if (!w->of) {
        ad_fail(w->tape, "ad_jacobian: out of memory");
        return false;
    }
    ad_shape s = ad_shape_of(x);
    int last = s.rank - 1;
    w->ndir = s.dim[last];
    for (int32_t j = 0; j < w->act.reach.n; j++)
        *ad_tangent_at(w, w->act.reach.node[j]) = (ad_tangent){ 0 };
    for (int32_t j = 0; j < w->act.reach.n; j++) {
        int32_t k = w->act.reach.node[j];
        const ad_node *n = ad_node_at(w->tape, k);
        if (!(w->act.active[k] & AD_THROUGH)) continue;
        if (ad_has_rows(s) && n->op != AD_OP_opaque && !ad_has_rows(n->shape)) {
            ad_fail(w->tape,
                    "ad_jacobian: y does not depend on x row by row (ad_%s reduces over rows)",
                    ad_ops[n->op].name);
            return false;
        }
        w->single = w->single || needs_single_directions(w, n);
    }
    if (w->single || !ad_live_find(&w->live, w->tape, &w->act, true)) return false;
    bool reached = w->act.reach.n && w->act.reach.node[0] == x.node;
    ad_term *seed = reached ? ad_term_add(w, ad_tangent_at(w, x.node)) : NULL;
    if (seed) {
        *seed = (ad_term){ .n = 1, .labels = AD_FIRST_LABEL + 1 };
        seed->axis[0] = AD_LABEL_ROW;
        seed->axis[last] = AD_FIRST_LABEL;
        seed->f[0] = (ad_factor){ ad_eye(w->tape, w->ndir, w->ndir, 0),
                                  { AD_LABEL_DIRECTION, AD_FIRST_LABEL } };
    }
    for (int32_t j = 0; j < w->act.reach.n && !ad_tape_error(w->tape) && !w->single; j++) {
        int32_t k = w->act.reach.node[j];
        const ad_node *n = ad_node_at(w->tape, k);
        if (!(w->act.active[k] & AD_THROUGH)) continue;
        if (ad_ops[n->op].kind == AD_POINTWISE) through_pointwise(w, k, n);
        else if (ad_ops[n->op].kind == AD_CONTRACT) through_contract(w, k, n);
        else through_linear(w, k, n);
        ad_live_push(&w->live, k, n);
        if (!ad_tape_error(w->tape) && !w->single) ad_terms_limit(w, k);
    }
    return !ad_tape_error(w->tape) && !w->single;
}

static ad_var jacobian_by_products(ad_walk *w, ad_var y)
{
    ad_shape s = ad_shape_of(y), shape = s;
    int axis[AD_MAX_RANK + 1], n = 0;
    for (; n < s.rank; n++) axis[n] = n;
    shape.dim[n] = w->ndir;
    axis[n++] = -1;
    shape.rank = n;
    ad_tangent *g = ad_tangent_at(w, y.node);
    if (!g->n) return ad_fill(w->tape, shape, 0);
    ad_var sum = ad_terms_multiply_out(w, g, n, axis, shape);
    return ad_valid(sum) ? ad_broadcast(sum, shape) : sum;
}

/* Each product is closed by making its last axis and the direction one index. */
static ad_var trace_of_products(ad_walk *w, ad_var y)
{
    ad_tangent *g = ad_tangent_at(w, y.node);
    int last = ad_shape_of(y).rank - 1;
    ad_var sum = ad_none(w->tape);
    for (int i = 0; i < g->n && !ad_tape_error(w->tape); i++) {
        ad_term *t = &g->t[i];
        bool rows = ad_term_carries(t, AD_LABEL_ROW);
        for (int f = 0; f < t->n; f++)
            for (int k = 0; k < node_of(t->f[f].x)->shape.rank; k++)
                if (t->f[f].label[k] == t->axis[last]) t->f[f].label[k] = AD_LABEL_DIRECTION;
        ad_var x = ad_term_contract(w, t, rows, (int8_t[]){ AD_LABEL_ROW });
        if (!ad_valid(x)) return x;
        x = ad_reshape(x, rows ? AD_SHAPE(AD_ROWS, 1) : AD_SHAPE(1));
        sum = sum.node < 0 ? x : ad_add(sum, x);
    }
    return sum;
}

ad_var ad_products_jacobian(ad_var y, ad_var x, bool *single)
{
    ad_walk w = { 0 };
    ad_var j = ad_none(y.tape);
    if (walk_from(&w, y, x)) j = jacobian_by_products(&w, y);
    *single = w.single;
    walk_free(&w);
    return j;
}

ad_var ad_products_trace(ad_var y, ad_var x, bool *single)
{
    ad_walk w = { 0 };
    ad_var sum = ad_none(y.tape);
    if (walk_from(&w, y, x)) {
        sum = trace_of_products(&w, y);
        if (sum.node < 0 && !w.single) sum = ad_scalar(y.tape, 0);
    }
    *single = w.single;
    walk_free(&w);
    return sum;
}
