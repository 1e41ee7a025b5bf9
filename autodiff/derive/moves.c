/* Operations that move elements, on products of factors: windows are identities that are shifted,
 * the others relabel axes. */
#include "autodiff/derive/terms.h"
#include <string.h>

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }

/* The node's axis a becomes a fresh index joined to the old one by a shifted identity: new = old +
 * shift. */
static void shift_axis(ad_walk *w, ad_term *t, int a, int64_t old_size, int64_t new_size,
                       int64_t shift)
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
static void cut_axis(ad_walk *w, ad_term *t, ad_shape node, int a, int64_t size, int64_t shift,
                     bool cuts)
{
    const int8_t label = t->axis[a];
    for (int i = 0; i < t->n && !cuts; i++)
        if (!ad_factor_has(&t->f[i], label) && node_of(t->f[i].x)->shape.rank < AD_MAX_RANK &&
            ad_valid(ad_factor_over(t, &t->f[i], node)))
            stretch(&t->f[i], label, node.dim[a]);
    if (!ad_term_carries(t, label))
        t->f[t->n++] = (ad_factor){ ad_fill(w->tape, AD_SHAPE(node.dim[a]), 1), { label } };
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < ad_shape_of(t->f[i].x).rank; k++)
            if (t->f[i].label[k] == label) t->f[i].x = window(t->f[i].x, k, size, shift, cuts);
}

void ad_terms_through_windows(ad_walk *w, int32_t node, const ad_node *n)
{
    ad_tangent *g = ad_tangent_at(w, node);
    for (int i = 0; i < n->nin; i++) {
        if (!w->act.active[n->in[i]]) continue;
        const ad_tangent *from = ad_tangent_at(w, n->in[i]);
        const bool wild = ad_live_wild(&w->live, n->in[i]), cuts = n->op == AD_OP_slice;
        ad_shape s = ad_node_at(w->tape, n->in[i])->shape;
        for (int k = 0; k < from->n; k++) {
            ad_term *t = ad_term_copy(w, g, &from->t[k]);
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

static void relabel_reshape(ad_term *t, ad_shape from, ad_shape to)
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

bool ad_term_relabel(ad_walk *w, ad_term *t, const ad_node *n)
{
    ad_shape from = ad_node_at(w->tape, n->in[0])->shape;
    int8_t old[AD_MAX_RANK];
    memcpy(old, t->axis, sizeof old);
    switch (n->op) {
    case AD_OP_sum:
        for (int a = 0; a < from.rank; a++) {
            if (!(n->attr[0] >> a & 1)) continue;
            if (from.dim[a] == AD_ROWS) return false;
            if (!ad_term_carries(t, old[a]))
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
    case AD_OP_broadcast: ad_term_align(t, from, n->shape); return true;
    default: return false;
    }
}
