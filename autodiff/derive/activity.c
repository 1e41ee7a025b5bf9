/* The activity of a sweep: the nodes that depend differentiably on x and that y needs. No other
 * node is visited, however long the tape is. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>

/* Drops what y does not need: a node beside the way costs nothing and needs no rule. */
static void keep_needed(ad_activity *a, const ad_tape *t, int ny, const ad_var *y)
{
    for (int i = 0; i < ny; i++) a->active[y[i].node] |= AD_NEEDED;
    for (int32_t j = a->reach.n - 1; j >= 0; j--) {
        int32_t k = a->reach.node[j];
        if (!(a->active[k] & AD_THROUGH)) continue;
        if (!(a->active[k] & AD_NEEDED)) {
            a->active[k] &= (char)~AD_THROUGH;
            continue;
        }
        const ad_node *n = ad_node_at(t, k);
        for (int i = 0; i < n->nin; i++)
            if (a->active[n->in[i]] && ad_differentiable(n, i)) a->active[n->in[i]] |= AD_NEEDED;
    }
    for (int32_t j = 0; j < a->reach.n; j++) a->active[a->reach.node[j]] &= (char)~AD_NEEDED;
    for (int i = 0; i < ny; i++) a->active[y[i].node] &= (char)~AD_NEEDED;
}

/* Entries for all that is asked about: nothing is active yet. */
static void clear_entries(ad_activity *a, const ad_tape *t, int ny, const ad_var *y)
{
    for (int i = 0; i < ny; i++) a->active[y[i].node] = 0;
    for (int32_t j = 0; j < a->reach.n; j++) {
        int32_t k = a->reach.node[j];
        const ad_node *n = ad_node_at(t, k);
        a->active[k] = 0;
        for (int i = 0; i < n->nin; i++) a->active[n->in[i]] = 0;
        for (int i = 1; n->op == AD_OP_opaque && i <= n->attr[0] && k + i < a->end; i++)
            a->active[k + i] = 0;
    }
}

bool ad_activity_find(ad_activity *a, ad_tape *t, int ny, const ad_var *y, int nx, const ad_var *x,
                      bool cut)
{
    *a = (ad_activity){ 0 };
    for (int i = 0; i < ny; i++)
        if (y[i].node >= a->end) a->end = y[i].node + 1;
    a->begin = a->end;
    for (int i = 0; i < nx; i++)
        if (x[i].node < a->begin) a->begin = x[i].node;
    if (!ad_reach_find(&a->reach, t, ny, y, &(ad_reach_limits){ .first = a->begin })) return false;
    a->active = malloc((size_t)a->end + 1);
    if (!a->active) {
        ad_activity_clear(a);
        ad_fail(t, "out of memory (%d nodes to differentiate)", (int)a->end);
        return false;
    }
    clear_entries(a, t, ny, y);
    for (int i = 0; i < nx; i++)
        if (x[i].node < a->end) a->active[x[i].node] = AD_SEED;
    for (int32_t j = 0; j < a->reach.n; j++) {
        int32_t k = a->reach.node[j];
        if (a->active[k] && (cut || !ad_node_at(t, k)->nin)) continue;
        const ad_node *n = ad_node_at(t, k);
        for (int i = 0; i < n->nin; i++)
            if (a->active[n->in[i]] && ad_differentiable(n, i)) a->active[k] |= AD_THROUGH;
    }
    keep_needed(a, t, ny, y);
    return true;
}

void ad_activity_clear(ad_activity *a)
{
    ad_reach_clear(&a->reach);
    free(a->active);
    free(a->same);
    a->active = NULL;
    a->same = NULL;
}

bool ad_depends(ad_var y, ad_var x)
{
    if (!ad_valid(y) || !ad_valid(x) || y.tape != x.tape || y.node < x.node) return false;
    ad_reach needed;
    if (!ad_reach_find(&needed, y.tape, 1, &y, &(ad_reach_limits){ .first = x.node })) return false;
    bool depends = needed.node[0] == x.node;
    ad_reach_clear(&needed);
    return depends;
}

bool ad_reads_rows(const ad_tape *t, const ad_node *n)
{
    for (int i = 0; i < n->nin; i++)
        if (ad_has_rows(ad_node_at(t, n->in[i])->shape)) return true;
    return false;
}

ad_rows ad_rows_of(int ny, const ad_var *y)
{
    ad_reach needed;
    ad_rows rows = AD_ROWS_APART;
    for (int i = 0; i < ny; i++)
        if (!ad_valid(y[i]) || y[i].tape != y[0].tape) return rows;
    if (ny < 1 || !ad_reach_find(&needed, y[0].tape, ny, y, &(ad_reach_limits){ 0 })) return rows;
    const ad_tape *t = y[0].tape;
    for (int32_t j = 0; j < needed.n && rows != AD_ROWS_COUPLED; j++) {
        const ad_node *n = ad_node_at(t, needed.node[j]),
                      *first = n->nin ? ad_node_at(t, n->in[0]) : NULL;
        if (n->op == AD_OP_row_count) rows = AD_ROWS_OPAQUE;
        if (n->op == AD_OP_opaque) {
            if (ad_reads_rows(t, n)) rows = AD_ROWS_OPAQUE;
            continue;
        }
        const bool of_opaque = first && first->op == AD_OP_opaque;
        if (!ad_has_rows(n->shape) && ad_reads_rows(t, of_opaque ? first : n))
            rows = AD_ROWS_COUPLED;
    }
    ad_reach_clear(&needed);
    return rows;
}

bool ad_looked_at(ad_var x)
{
    if (!ad_valid(x)) return false;
    int32_t end = ad_tape_mark(x.tape);
    bool looked = false;
    for (int32_t k = x.node; k < end && !looked; k++)
        looked = ad_node_at(x.tape, k)->looked && ad_depends(ad_var_at(x.tape, k), x);
    return looked;
}
