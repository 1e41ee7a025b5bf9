/* Sums of products of factors: adding, aligning, multiplying out. */
#include "autodiff/derive/terms.h"
#include <stdlib.h>
#include <string.h>

enum {
    MAX_TERMS = 12,
    ROOM = 4 /* factors one operation may add */
};

static const ad_node *node_of(ad_var x) { return ad_node_at(x.tape, x.node); }

bool ad_factor_has(const ad_factor *f, int label)
{
    for (int k = 0; k < node_of(f->x)->shape.rank; k++)
        if (f->label[k] == label) return true;
    return false;
}

bool ad_term_carries(const ad_term *t, int label)
{
    for (int i = 0; i < t->n; i++)
        if (ad_factor_has(&t->f[i], label)) return true;
    return false;
}

ad_term *ad_term_add(ad_walk *w, ad_tangent *g)
{
    ad_term *more = realloc(g->t, ((size_t)g->n + 1) * sizeof *more);
    if (!more) {
        ad_fail(w->tape, "ad_jacobian: out of memory");
        return NULL;
    }
    g->t = more;
    return &g->t[g->n++];
}

ad_term *ad_term_copy(ad_walk *w, ad_tangent *g, const ad_term *t)
{
    ad_term copy = *t, *to = ad_term_add(w, g);
    if (to) *to = copy;
    return to;
}

void ad_term_append(ad_term *t, ad_var x, ad_shape node)
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

ad_var ad_factor_over(const ad_term *t, const ad_factor *f, ad_shape node)
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

void ad_term_align(ad_term *t, ad_shape from, ad_shape to)
{
    int8_t axis[AD_MAX_RANK];
    int lead = to.rank - from.rank;
    for (int k = 0; k < to.rank; k++) {
        bool same = k >= lead && from.dim[k - lead] == to.dim[k];
        axis[k] = to.dim[k] == AD_ROWS ? AD_LABEL_ROW
                  : same               ? t->axis[k - lead]
                                       : (int8_t)t->labels++;
    }
    memcpy(t->axis, axis, sizeof axis);
}

/* ---- multiplying out ---- */

ad_var ad_term_contract(ad_walk *w, const ad_term *t, int n, const int8_t *out)
{
    ad_var x = ad_contract_factors(w->tape, t->n, t->f, n, out);
    w->single = w->single || !ad_valid(x);
    return x;
}

ad_var ad_terms_multiply_out(ad_walk *w, const ad_tangent *g, int nout, const int *axis,
                             ad_shape shape)
{
    ad_var sum = ad_none(w->tape);
    for (int i = 0; i < g->n && !ad_tape_error(w->tape); i++) {
        const ad_term *t = &g->t[i];
        int8_t out[AD_MAX_RANK];
        int n = 0;
        ad_shape partial = { nout, { 0 } };
        for (int k = 0; k < nout; k++) {
            int label = axis[k] < 0 ? AD_LABEL_DIRECTION : t->axis[axis[k]];
            partial.dim[k] = ad_term_carries(t, label) ? shape.dim[k] : 1;
            if (ad_term_carries(t, label)) out[n++] = (int8_t)label;
        }
        ad_var x = ad_term_contract(w, t, n, out);
        if (!ad_valid(x)) return x;
        x = ad_reshape(x, partial);
        sum = sum.node < 0 ? x : ad_add(sum, x);
    }
    return sum;
}

ad_term ad_term_of_array(ad_var x, ad_shape node)
{
    const ad_shape s = ad_shape_of(x);
    const int first = ad_has_rows(node), front = ad_has_rows(s);
    ad_term t = { .n = 1, .labels = AD_FIRST_LABEL };
    t.f[0].x = x;
    if (first) t.axis[0] = AD_LABEL_ROW;
    for (int k = 0; k < s.rank; k++) {
        const int a = k - front - 1 + first;
        const int label = k < front ? AD_LABEL_ROW : k == front ? AD_LABEL_DIRECTION : t.labels++;
        t.f[0].label[k] = (int8_t)label;
        if (a >= first) t.axis[a] = (int8_t)label;
    }
    return t;
}

void ad_terms_multiply(ad_walk *w, int32_t node)
{
    ad_tangent *g = ad_tangent_at(w, node);
    ad_shape s = ad_node_at(w->tape, node)->shape, shape = { 0, { 0 } };
    int axis[AD_MAX_RANK + 1], n = 0;
    if (s.rank == AD_MAX_RANK) {
        w->single = true;
        return;
    }
    bool rows = false;
    for (int i = 0; i < g->n; i++) rows = rows || ad_term_carries(&g->t[i], AD_LABEL_ROW);
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
    ad_var sum = ad_terms_multiply_out(w, g, n, axis, shape),
           x = ad_valid(sum) ? ad_broadcast(sum, shape) : sum;
    if (!ad_valid(x)) return;
    g->n = 1;
    g->t[0] = ad_term_of_array(x, s);
}

void ad_terms_limit(ad_walk *w, int32_t node)
{
    ad_tangent *g = ad_tangent_at(w, node);
    bool large = g->n > MAX_TERMS;
    for (int i = 0; i < g->n; i++)
        large = large || g->t[i].n > AD_MAX_FACTORS - ROOM ||
                g->t[i].labels > AD_MAX_LABELS - 2 * AD_MAX_RANK;
    if (large) ad_terms_multiply(w, node);
}
