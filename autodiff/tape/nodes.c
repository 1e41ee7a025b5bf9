/* Storage of a tape. Nodes lie in slabs, so that their addresses stay when more are recorded.
 * Their lists of operands, attributes and constants lie in an arena. Both only grow at their end
 * and are cut back by rewinding, which keeps the memory: marking and rewinding cost nothing, and a
 * loop that records and rewinds allocates nothing after its first turn.
 *
 * A variable is a node's number and the epoch in which it was recorded. Each rewind begins a new
 * epoch, so that a variable recorded since the mark is told from the node that has its number now.
 *
 * Computed nodes that hold a value are a list, so that forgetting all values takes time in
 * proportion to what was computed, not to the length of the tape. */
#include "autodiff/tape/store.h"
#include <stdlib.h>

enum { NODES_PER_SLAB = 512, ARENA_SLAB = 1 << 16 /* bytes */ };

static ad_node *node_in(const ad_tape *t, int32_t i)
{
    return &t->slabs[i / NODES_PER_SLAB][i % NODES_PER_SLAB];
}

ad_node *ad_node_at(const ad_tape *t, int32_t i)
{
    AD_ASSERT(i >= 0 && i < t->nnode);
    return node_in(t, i);
}

ad_var ad_var_at(ad_tape *t, int32_t i) { return (ad_var){ t, i, ad_node_at(t, i)->epoch }; }

int32_t ad_tape_size(const ad_tape *t) { return t->nnode; }

bool ad_valid(ad_var x)
{
    return x.tape && x.node >= 0 && x.node < x.tape->nnode &&
           ad_node_at(x.tape, x.node)->epoch == x.epoch && !x.tape->failed;
}

ad_var ad_none(ad_tape *t) { return (ad_var){ t, -1, 0 }; }

ad_shape ad_shape_of(ad_var x)
{
    if (!ad_valid(x)) return (ad_shape){ -1, { 0 } };
    return ad_node_at(x.tape, x.node)->shape;
}

void ad_tape_note_value(ad_tape *t, int32_t i)
{
    ad_node *n = ad_node_at(t, i);
    if (n->listed) return;
    n->listed = true;
    n->before = 0;
    n->after = t->valued;
    if (n->after) ad_node_at(t, n->after - 1)->before = i + 1;
    t->valued = i + 1;
}

static void leave_list(ad_tape *t, ad_node *n)
{
    if (!n->listed) return;
    n->listed = false;
    if (n->after) ad_node_at(t, n->after - 1)->before = n->before;
    if (n->before) ad_node_at(t, n->before - 1)->after = n->after;
    else t->valued = n->after;
}

void ad_tape_forget_values(ad_tape *t)
{
    while (t->valued) {
        ad_node *n = ad_node_at(t, t->valued - 1);
        leave_list(t, n);
        if (ad_has_rows(n->shape)) {
            free(n->value);
            n->value = NULL;
            t->computed -= n->bytes;
            n->bytes = 0;
        }
        n->known = false;
    }
}

static bool add_slab(ad_tape *t)
{
    if (t->slab_count == t->slab_capacity) {
        int32_t capacity = t->slab_capacity ? 2 * t->slab_capacity : 8;
        ad_node **more = realloc(t->slabs, (size_t)capacity * sizeof *more);
        if (!more) return false;
        t->slabs = more;
        t->slab_capacity = capacity;
    }
    ad_node *slab = malloc(NODES_PER_SLAB * sizeof *slab);
    if (!slab) return false;
    t->slabs[t->slab_count++] = slab;
    return true;
}

ad_node *ad_node_room(ad_tape *t)
{
    if (t->nnode == t->slab_count * NODES_PER_SLAB && !add_slab(t)) return NULL;
    return node_in(t, t->nnode);
}

void ad_tape_hold_value(ad_tape *t, ad_node *n, void *value, int64_t bytes)
{
    n->value = value;
    n->bytes = bytes;
    t->computed += bytes;
}

int64_t ad_tape_computed(const ad_tape *t) { return t->computed; }

void ad_node_forget(ad_tape *t, ad_node *n)
{
    free(n->value);
    t->computed -= n->bytes;
    if (n->op == AD_OP_opaque) {
        if (n->state && n->class_->state_free) n->class_->state_free(n->state);
        if (n->class_->release) n->class_->release(n->opaque);
    }
}

void ad_nodes_drop(ad_tape *t, int32_t first)
{
    AD_ASSERT(first >= 0 && first < t->nnode);
    for (int32_t i = t->nnode - 1; i >= first; i--) {
        leave_list(t, node_in(t, i));
        ad_node_forget(t, node_in(t, i));
    }
    t->arena_used = node_in(t, first)->arena_mark;
    while (t->arena_at > 0 && t->arena[t->arena_at].base > t->arena_used) t->arena_at--;
    t->nnode = first;
    t->epoch++;
}

void ad_nodes_free(ad_tape *t)
{
    for (int32_t i = t->nnode - 1; i >= 0; i--) ad_node_forget(t, node_in(t, i));
    for (int32_t i = 0; i < t->slab_count; i++) free(t->slabs[i]);
    free(t->slabs);
    for (int i = 0; i < t->arena_count; i++) free(t->arena[i].bytes);
    free(t->arena);
    free(t->marks);
}

char *ad_tape_marks(ad_tape *t)
{
    size_t need = (size_t)t->nnode + 1;
    if (need <= t->mark_count) return t->marks;
    free(t->marks);
    t->mark_count = 0;
    t->marks = calloc(2 * need, 1);
    if (t->marks) t->mark_count = 2 * need;
    return t->marks;
}

/* ---- arena ---- */

static bool arena_grow(ad_tape *t, size_t bytes)
{
    if (t->arena_count == t->arena_capacity) {
        int capacity = t->arena_capacity ? 2 * t->arena_capacity : 8;
        ad_arena_slab *more = realloc(t->arena, (size_t)capacity * sizeof *more);
        if (!more) return false;
        t->arena = more;
        t->arena_capacity = capacity;
    }
    ad_arena_slab *last = t->arena_count ? &t->arena[t->arena_count - 1] : NULL;
    ad_arena_slab *c = &t->arena[t->arena_count];
    c->size = bytes > ARENA_SLAB ? bytes : ARENA_SLAB;
    c->base = last ? last->base + last->size : 0;
    c->bytes = malloc(c->size);
    if (!c->bytes) return false;
    t->arena_count++;
    return true;
}

void *ad_arena_take(ad_tape *t, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    /* The slab that holds the end of what is used, or the first slab after it that is large
     * enough. */
    for (int k = t->arena_at; k < t->arena_count; k++) {
        ad_arena_slab *c = &t->arena[k];
        size_t at = t->arena_used > c->base ? t->arena_used : c->base;
        if (at + bytes > c->base + c->size) continue;
        t->arena_at = k;
        t->arena_used = at + bytes;
        return c->bytes + (at - c->base);
    }
    if (!arena_grow(t, bytes)) return NULL;
    t->arena_at = t->arena_count - 1;
    ad_arena_slab *c = &t->arena[t->arena_at];
    t->arena_used = c->base + bytes;
    return c->bytes;
}
