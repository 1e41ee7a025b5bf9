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
#include "autodiff/derive/derive.h"
#include <stdlib.h>
#include <string.h>

enum {
    ROW = 0,
    DIRECTION = 1,
    FIRST_LABEL = 2,
    MAX_TERMS = 12,
    ROOM = 4 /* factors one operation may add */
};

/* One product. Axis k of the node carries axis[k]; a label that no factor has stands for ones along
 * that axis. */
typedef struct {
    int n, labels;
    ad_factor f[AD_MAX_FACTORS];
    int8_t axis[AD_MAX_RANK];
} term;

typedef struct {
    int n;
    term *t;
} tangent;

typedef struct {
    ad_tape *tape;
    ad_activity act;
    ad_live live;
    tangent *of;  /* by node, from act.begin, of those that are visited */
    int64_t ndir; /* number of directions */
    bool single;  /* products and arrays cannot express a node's tangent: use single directions */
} walk;

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }
static tangent *tangent_at(walk *w, int32_t node) { return &w->of[node - w->act.begin]; }

static bool has_label(const ad_factor *f, int label)
{
    for (int k = 0; k < node_of(f->x)->shape.rank; k++)
        if (f->label[k] == label) return true;
    return false;
}

static bool carried(const term *t, int label)
{
    for (int i = 0; i < t->n; i++)
        if (has_label(&t->f[i], label)) return true;
    return false;
}

static term *add_term(walk *w, tangent *g)
{
    term *more = realloc(g->t, ((size_t)g->n + 1) * sizeof *more);
    if (!more) {
        ad_fail(w->tape, "ad_jacobian: out of memory");
        return NULL;
    }
    g->t = more;
    return &g->t[g->n++];
}

/* ---- multiplying out ---- */

/* The product as an array over the labels out; invalid, so that single directions are what is left,
 * when it has too many axes on the way.
 */
static ad_var contracted(walk *w, const term *t, int n, const int8_t *out)
{
    ad_var x = ad_contract_factors(w->tape, t->n, t->f, n, out);
    w->single = w->single || !ad_valid(x);
    return x;
}

/* The sum of g's products as one array over the labels out (axes of the node, DIRECTION), whose
 * sizes are those of shape; invalid when there is no room. */
static ad_var multiply_out(walk *w, const tangent *g, int nout, const int *axis, ad_shape shape)
{
    ad_var sum = ad_none(w->tape);
    for (int i = 0; i < g->n && !ad_tape_error(w->tape); i++) {
        const term *t = &g->t[i];
        int8_t out[AD_MAX_RANK];
        int n = 0;
        ad_shape partial = { nout, { 0 } };
        for (int k = 0; k < nout; k++) {
            int label = axis[k] < 0 ? DIRECTION : t->axis[axis[k]];
            partial.dim[k] = carried(t, label) ? shape.dim[k] : 1;
            if (carried(t, label)) out[n++] = (int8_t)label;
        }
        ad_var x = contracted(w, t, n, out);
        if (!ad_valid(x)) return x;
        x = ad_reshape(x, partial);
        sum = sum.node < 0 ? x : ad_add(sum, x);
    }
    return sum;
}

/* Replaces a node's products by one array [rows?, directions, axes...]. */
static void multiply_node(walk *w, int32_t node)
{
    tangent *g = tangent_at(w, node);
    ad_shape s = ad_node_at(w->tape, node)->shape, shape = { 0, { 0 } };
    int axis[AD_MAX_RANK + 1], n = 0;
    if (s.rank == AD_MAX_RANK) {
        w->single = true;
        return;
    }
    bool rows = false;
    for (int i = 0; i < g->n; i++) rows = rows || carried(&g->t[i], ROW);
    int first = ad_has_rows(s) ? 1 : 0;
    if (rows) {
        shape.dim[n] = AD_ROWS;
        axis[n++] = 0;
    }
    shape.dim[n] = w->ndir;
    axis[n++] = -1;
    for (int k = first; k < s.rank; k++) {
        shape.dim[n] = s.dim[k];
        axis[n++] = k;
    }
    shape.rank = n;
    ad_var sum = multiply_out(w, g, n, axis, shape),
           x = ad_valid(sum) ? ad_broadcast(sum, shape) : sum;
    if (!ad_valid(x)) return;
    term t = { .n = 1, .labels = FIRST_LABEL };
    t.f[0].x = x;
    for (int k = 0; k < n; k++) {
        int label = axis[k] < 0 ? DIRECTION : axis[k] == 0 && first ? ROW : t.labels++;
        t.f[0].label[k] = (int8_t)label;
        if (axis[k] >= 0) t.axis[axis[k]] = (int8_t)label;
    }
    if (first) t.axis[0] = ROW;
    g->n = 1;
    g->t[0] = t;
}

/* Keeps products short: room for the factors and labels that the next operation adds. */
static void limit(walk *w, int32_t node)
{
    tangent *g = tangent_at(w, node);
    bool large = g->n > MAX_TERMS;
    for (int i = 0; i < g->n; i++)
        large = large || g->t[i].n > AD_MAX_FACTORS - ROOM ||
                g->t[i].labels > AD_MAX_LABELS - 2 * AD_MAX_RANK;
    if (large) multiply_node(w, node);
}

/* ---- operations on products ---- */

/* Appends a copy of t to g. */
static term *copy_term(walk *w, tangent *g, const term *t)
{
    term copy = *t, *to = add_term(w, g);
    if (to) *to = copy;
    return to;
}

/* The factor x over the node's axes, where x broadcasts against the node (its axes of size 1 are
 * dropped). */
static void append_partial(term *t, ad_var x, ad_shape node)
{
    ad_shape s = ad_shape_of(x), kept = { 0, { 0 } };
    if (s.rank < 0) return;
    const ad_node *n = node_of(x);
    if (n->op == AD_OP_fill && n->data[0] == 1 && ad_is_inner(x)) return;
    ad_factor *f = &t->f[t->n++];
    for (int k = 0; k < s.rank; k++) {
        if (s.dim[k] == 1) continue;
        f->label[kept.rank] = t->axis[node.rank - s.rank + k];
        kept.dim[kept.rank++] = s.dim[k];
    }
    f->x = ad_reshape(x, kept);
}

/* A factor as an array that broadcasts against the node; invalid when it has other labels than the
 * node's axes. */
static ad_var over_node(const term *t, const ad_factor *f, ad_shape node)
{
    ad_shape s = node_of(f->x)->shape, over = { node.rank, { 0 } };
    int permutation[AD_MAX_RANK], n = 0;
    for (int k = 0; k < node.rank; k++) {
        over.dim[k] = 1;
        for (int a = 0; a < s.rank; a++)
            if (f->label[a] == t->axis[k]) {
                permutation[n++] = a;
                over.dim[k] = s.dim[a];
            }
    }
    return n == s.rank ? ad_reshape(ad_transpose(f->x, permutation), over) : ad_none(f->x.tape);
}

/* Factor f, which has more labels than the node's axes, 0 where the mask over the node is. */
static void select_within(const term *t, ad_factor *f, ad_shape node, ad_var mask)
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
static bool select_factors(term *t, ad_var y, int i, ad_shape node, ad_var partial, bool wild)
{
    const term old = *t;
    bool any = false;
    t->n = 0;
    for (int k = 0; k < old.n; k++) {
        ad_factor f = old.f[k];
        ad_var v = any && !wild ? ad_none(y.tape) : over_node(&old, &f, node);
        if (ad_valid(v)) {
            ad_var selected = any ? ad_live_select(partial, v) : ad_push(y, i, v);
            if (ad_valid(selected) &&
                (wild || ad_same_shape(ad_shape_of(selected), ad_shape_of(v)))) {
                append_partial(t, selected, node);
                any = true;
                continue;
            }
        }
        if (wild && node_of(f.x)->op != AD_OP_eye) select_within(&old, &f, node, partial);
        t->f[t->n++] = f;
    }
    return any;
}

/* Axes of an operand [..] aligned at the right with those of the result; stretched ones get fresh
 * labels (ones). */
static void align_axes(term *t, ad_shape from, ad_shape to)
{
    int8_t axis[AD_MAX_RANK];
    int lead = to.rank - from.rank;
    for (int k = 0; k < to.rank; k++) {
        bool same = k >= lead && from.dim[k - lead] == to.dim[k];
        axis[k] = to.dim[k] == AD_ROWS ? ROW : same ? t->axis[k - lead] : (int8_t)t->labels++;
    }
    memcpy(t->axis, axis, sizeof axis);
}

static void through_pointwise(walk *w, int32_t node, const ad_node *n)
{
    tangent *g = tangent_at(w, node);
    for (int i = 0; i < n->nin; i++) {
        if (!w->act.active[n->in[i]] || !ad_differentiable(n, i)) continue;
        const tangent *from = tangent_at(w, n->in[i]);
        ad_var partial = ad_push(ad_var_at(w->tape, node), i, ad_scalar(w->tape, 1));
        if (ad_live_guards(&w->live, n))
            partial = ad_live_select(ad_live_before(&w->live, n->in[i]), partial);
        for (int k = 0; k < from->n && !ad_tape_error(w->tape); k++) {
            term *t = copy_term(w, g, &from->t[k]);
            if (!t) return;
            align_axes(t, ad_node_at(w->tape, n->in[i])->shape, n->shape);
            if (ad_has_trait(n->op, AD_SELECTS) &&
                select_factors(t, ad_var_at(w->tape, node), i, n->shape, partial,
                               ad_live_wild(&w->live, n->in[i])))
                continue;
            append_partial(t, partial, n->shape);
        }
    }
}

static void through_contract(walk *w, int32_t node, const ad_node *n)
{
    tangent *g = tangent_at(w, node);
    const ad_contraction c = ad_node_contraction(n);
    for (int i = 0; i < 2; i++) {
        if (!w->act.active[n->in[i]]) continue;
        const tangent *from = tangent_at(w, n->in[i]);
        const ad_var other =
            ad_live_other(&w->live, n, i, 1 - i, ad_live_before(&w->live, n->in[i]));
        for (int k = 0; k < from->n && ad_valid(other); k++) {
            term *t = copy_term(w, g, &from->t[k]);
            if (!t) return;
            int8_t name[AD_MAX_LABELS];
            memset(name, -1, sizeof name);
            for (int a = 0; a < c.rank[i]; a++) name[c.label[i][a]] = t->axis[a];
            ad_factor *f = &t->f[t->n++];
            f->x = other;
            for (int a = 0; a < c.rank[1 - i]; a++) {
                int8_t *l = &name[c.label[1 - i][a]];
                if (*l < 0) *l = ad_shape_of(f->x).dim[a] == AD_ROWS ? ROW : (int8_t)t->labels++;
                f->label[a] = *l;
            }
            for (int a = 0; a < c.rank[2]; a++) t->axis[a] = name[c.label[2][a]];
        }
    }
}

/* The node's axis a becomes a fresh index joined to the old one by a shifted identity: new = old +
 * shift. */
static void shift_axis(walk *w, term *t, int a, int64_t old_size, int64_t new_size, int64_t shift)
{
    int8_t old = t->axis[a], fresh = (int8_t)t->labels++;
    t->axis[a] = fresh;
    t->f[t->n++] = (ad_factor){ ad_eye(w->tape, new_size, old_size, -shift), { fresh, old } };
}

/* x along axis a: its elements from shift on, or x from there on, with zeros around it. */
static ad_var window(ad_var x, int a, int64_t size, int64_t shift, bool cuts)
{
    ad_shape s = ad_shape_of(x);
    if (cuts) return ad_slice(x, a, shift, shift + size);
    const ad_node *n = node_of(x);
    if (n->op != AD_OP_eye || !ad_is_inner(x)) return ad_pad(x, a, shift, size - s.dim[a] - shift);
    s.dim[a] = size;
    return ad_eye(x.tape, s.dim[0], s.dim[1], n->attr[0] + (a ? shift : -shift));
}

/* Factor f, which is the same along an axis of the node, with that axis: the label, of size n. */
static void stretch(ad_factor *f, int label, int64_t n)
{
    ad_shape s = ad_shape_of(f->x);
    f->label[s.rank] = (int8_t)label;
    s.dim[s.rank++] = 1;
    f->x = ad_reshape(f->x, s);
    s.dim[s.rank - 1] = n;
    f->x = ad_broadcast(f->x, s);
}

/* shift_axis without an identity, which multiplies by 0 what is left out: factors may be infinite
 * there. So around a piece that is put into zeros each factor over the node has zeros. */
static void cut_axis(walk *w, term *t, ad_shape node, int a, int64_t size, int64_t shift, bool cuts)
{
    const int8_t label = t->axis[a];
    for (int i = 0; i < t->n && !cuts; i++)
        if (!has_label(&t->f[i], label) && node_of(t->f[i].x)->shape.rank < AD_MAX_RANK &&
            ad_valid(over_node(t, &t->f[i], node)))
            stretch(&t->f[i], label, node.dim[a]);
    if (!carried(t, label))
        t->f[t->n++] = (ad_factor){ ad_fill(w->tape, AD_SHAPE(node.dim[a]), 1), { label } };
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < ad_shape_of(t->f[i].x).rank; k++)
            if (t->f[i].label[k] == label) t->f[i].x = window(t->f[i].x, k, size, shift, cuts);
}

static void through_windows(walk *w, int32_t node, const ad_node *n)
{
    tangent *g = tangent_at(w, node);
    for (int i = 0; i < n->nin; i++) {
        if (!w->act.active[n->in[i]]) continue;
        const tangent *from = tangent_at(w, n->in[i]);
        const bool wild = ad_live_wild(&w->live, n->in[i]), cuts = n->op == AD_OP_slice;
        ad_shape s = ad_node_at(w->tape, n->in[i])->shape;
        for (int k = 0; k < from->n; k++) {
            term *t = copy_term(w, g, &from->t[k]);
            if (!t) return;
            for (int a = 0; a < s.rank; a++) {
                if (s.dim[a] == n->shape.dim[a]) continue;
                int64_t start = n->attr[i * s.rank + a];
                if (wild) cut_axis(w, t, s, a, n->shape.dim[a], start, cuts);
                else shift_axis(w, t, a, s.dim[a], n->shape.dim[a], cuts ? -start : start);
            }
        }
    }
}

/* A reshape that only adds or drops axes of size 1; false: another one. */
static bool same_but_ones(ad_shape a, ad_shape b)
{
    int i = 0, k = 0;
    for (;;) {
        while (i < a.rank && a.dim[i] == 1) i++;
        while (k < b.rank && b.dim[k] == 1) k++;
        if (i == a.rank || k == b.rank) return i == a.rank && k == b.rank;
        if (a.dim[i++] != b.dim[k++]) return false;
    }
}

static void relabel_reshape(term *t, ad_shape from, ad_shape to)
{
    int8_t axis[AD_MAX_RANK];
    int i = 0;
    for (int k = 0; k < to.rank; k++) {
        if (to.dim[k] == 1) {
            axis[k] = (int8_t)t->labels++;
            continue;
        }
        while (from.dim[i] == 1) i++;
        axis[k] = t->axis[i++];
    }
    memcpy(t->axis, axis, sizeof axis);
}

/* sum, reshape, transpose, broadcast: relabelling. false: not expressible. */
static bool relabel(walk *w, term *t, const ad_node *n)
{
    ad_shape from = ad_node_at(w->tape, n->in[0])->shape;
    int8_t old[AD_MAX_RANK];
    memcpy(old, t->axis, sizeof old);
    switch (n->op) {
    case AD_OP_sum:
        for (int a = 0; a < from.rank; a++) {
            if (!(n->attr[0] >> a & 1)) continue;
            if (from.dim[a] == AD_ROWS) return false;
            if (!carried(t, old[a]))
                t->f[t->n++] = (ad_factor){ ad_scalar(w->tape, (double)from.dim[a]), { 0 } };
            if (t->n > AD_MAX_FACTORS - 1) return false;
            t->axis[a] = (int8_t)t->labels++;
        }
        return true;
    case AD_OP_reshape:
        if (!same_but_ones(from, n->shape)) return false;
        relabel_reshape(t, from, n->shape);
        return true;
    case AD_OP_transpose:
        for (int a = 0; a < n->shape.rank; a++) t->axis[a] = old[n->attr[a]];
        return true;
    case AD_OP_broadcast: align_axes(t, from, n->shape); return true;
    default: return false;
    }
}

/* A linear operation on arrays with the axis of directions behind the rows. */
static void through_array(walk *w, int32_t node, const ad_node *n)
{
    w->single = n->shape.rank == AD_MAX_RANK || !ad_has_trait(n->op, AD_BATCHED);
    if (!w->single) multiply_node(w, n->in[0]);
    if (w->single || ad_tape_error(w->tape)) return;
    const term *from = &tangent_at(w, n->in[0])->t[0];
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
    term *t = ad_valid(x) ? add_term(w, tangent_at(w, node)) : NULL;
    if (!t) return;
    *t = (term){ .n = 1, .labels = FIRST_LABEL };
    t->f[0].x = x;
    int first = ad_has_rows(n->shape) ? 1 : 0;
    if (first) t->axis[0] = ROW;
    for (int k = 0; k < out.rank; k++) {
        int a = k - front - 1 + first;
        int label = k < front ? ROW : k == front ? DIRECTION : t->labels++;
        t->f[0].label[k] = (int8_t)label;
        if (a >= first) t->axis[a] = (int8_t)label;
    }
}

static void through_linear(walk *w, int32_t node, const ad_node *n)
{
    if (ad_ops[n->op].attributes == AD_ATTR_WINDOWS) {
        through_windows(w, node, n);
        return;
    }
    tangent *g = tangent_at(w, node);
    const tangent *from = tangent_at(w, n->in[0]);
    bool fine = true;
    for (int k = 0; k < from->n && fine; k++) {
        term *t = copy_term(w, g, &from->t[k]);
        fine = t && relabel(w, t, n);
    }
    if (fine) return;
    g->n = 0;
    through_array(w, node, n);
}

/* ---- the walk ---- */

static void walk_free(walk *w)
{
    if (w->of)
        for (int32_t j = 0; j < w->act.reach.n; j++) free(tangent_at(w, w->act.reach.node[j])->t);
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
static bool needs_single_directions(const walk *w, const ad_node *n)
{
    for (int i = 0; i < n->nin; i++)
        if (!ad_has_rows(n->shape) && ad_has_rows(ad_node_at(w->tape, n->in[i])->shape))
            return true;
    return !expressible(n);
}

/* Tangents of all nodes between x and y along the unit vectors of x [rows?, n]. false: failed, or
 * only single directions will do. */
static bool walk_from(walk *w, ad_var y, ad_var x)
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
        *tangent_at(w, w->act.reach.node[j]) = (tangent){ 0 };
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
    term *seed = reached ? add_term(w, tangent_at(w, x.node)) : NULL;
    if (seed) {
        *seed = (term){ .n = 1, .labels = FIRST_LABEL + 1 };
        seed->axis[0] = ROW;
        seed->axis[last] = FIRST_LABEL;
        seed->f[0] =
            (ad_factor){ ad_eye(w->tape, w->ndir, w->ndir, 0), { DIRECTION, FIRST_LABEL } };
    }
    for (int32_t j = 0; j < w->act.reach.n && !ad_tape_error(w->tape) && !w->single; j++) {
        int32_t k = w->act.reach.node[j];
        const ad_node *n = ad_node_at(w->tape, k);
        if (!(w->act.active[k] & AD_THROUGH)) continue;
        if (ad_ops[n->op].kind == AD_POINTWISE) through_pointwise(w, k, n);
        else if (ad_ops[n->op].kind == AD_CONTRACT) through_contract(w, k, n);
        else through_linear(w, k, n);
        ad_live_push(&w->live, k, n);
        if (!ad_tape_error(w->tape) && !w->single) limit(w, k);
    }
    return !ad_tape_error(w->tape) && !w->single;
}

static ad_var jacobian_by_products(walk *w, ad_var y)
{
    ad_shape s = ad_shape_of(y), shape = s;
    int axis[AD_MAX_RANK + 1], n = 0;
    for (; n < s.rank; n++) axis[n] = n;
    shape.dim[n] = w->ndir;
    axis[n++] = -1;
    shape.rank = n;
    tangent *g = tangent_at(w, y.node);
    if (!g->n) return ad_fill(w->tape, shape, 0);
    ad_var sum = multiply_out(w, g, n, axis, shape);
    return ad_valid(sum) ? ad_broadcast(sum, shape) : sum;
}

/* Each product is closed by making its last axis and the direction one index. */
static ad_var trace_of_products(walk *w, ad_var y)
{
    tangent *g = tangent_at(w, y.node);
    int last = ad_shape_of(y).rank - 1;
    ad_var sum = ad_none(w->tape);
    for (int i = 0; i < g->n && !ad_tape_error(w->tape); i++) {
        term *t = &g->t[i];
        bool rows = carried(t, ROW);
        for (int f = 0; f < t->n; f++)
            for (int k = 0; k < node_of(t->f[f].x)->shape.rank; k++)
                if (t->f[f].label[k] == t->axis[last]) t->f[f].label[k] = DIRECTION;
        ad_var x = contracted(w, t, rows, (int8_t[]){ ROW });
        if (!ad_valid(x)) return x;
        x = ad_reshape(x, rows ? AD_SHAPE(AD_ROWS, 1) : AD_SHAPE(1));
        sum = sum.node < 0 ? x : ad_add(sum, x);
    }
    return sum;
}

ad_var ad_products_jacobian(ad_var y, ad_var x, bool *single)
{
    walk w = { 0 };
    ad_var j = ad_none(y.tape);
    if (walk_from(&w, y, x)) j = jacobian_by_products(&w, y);
    *single = w.single;
    walk_free(&w);
    return j;
}

ad_var ad_products_trace(ad_var y, ad_var x, bool *single)
{
    walk w = { 0 };
    ad_var sum = ad_none(y.tape);
    if (walk_from(&w, y, x)) {
        sum = trace_of_products(&w, y);
        if (sum.node < 0 && !w.single) sum = ad_scalar(y.tape, 0);
    }
    *single = w.single;
    walk_free(&w);
    return sum;
}
