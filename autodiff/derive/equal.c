/* Equal nodes of a sweep: the same operation with the same attributes on equal operands. Reverse
 * mode adds their cotangents and goes on from the first of them, so that a gradient has the size of
 * the recording without repetitions. Once it is recorded this can no longer be had: each repetition
 * would have a cotangent of its own.
 *
 * What derivatives are asked by stays what it is: x is equal to nothing else, and operands that do
 * not depend on x are equal if they are one node or equal constants. Operations of the user are
 * never equal, since they may have a state. */
#include "autodiff/derive/derive.h"
#include <stdlib.h>
#include <string.h>

/* Longer constants are compared as nodes only: looking at their elements would take longer than
 * their cotangents. */
enum { MOST_DATA = 16 };

typedef struct {
    int32_t number; /* of the node, + 1; 0: the entry is empty */
    uint32_t hash;
} entry;

typedef struct {
    const ad_tape *tape;
    int32_t *same;
    entry *table;
    uint32_t mask;
} search;

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static uint32_t hash(const search *s, const ad_node *n)
{
    uint64_t h = mix((uint64_t)n->op, (uint64_t)n->nin);
    for (int i = 0; i < n->nin; i++) h = mix(h, (uint64_t)s->same[n->in[i]]);
    for (int i = 0; i < n->nattr; i++) h = mix(h, (uint64_t)n->attr[i]);
    for (int i = 0; i < n->shape.rank; i++) h = mix(h, (uint64_t)n->shape.dim[i]);
    for (int64_t i = 0; i < n->ndata; i++) h = mix(h, bits(n->data[i]));
    return (uint32_t)(h >> 32);
}

static bool equal(const search *s, const ad_node *a, const ad_node *b)
{
    if (a->op != b->op || a->nin != b->nin || a->nattr != b->nattr || a->ndata != b->ndata ||
        !ad_same_shape(a->shape, b->shape))
        return false;
    for (int i = 0; i < a->nin; i++)
        if (s->same[a->in[i]] != s->same[b->in[i]]) return false;
    for (int i = 0; i < a->nattr; i++)
        if (a->attr[i] != b->attr[i]) return false;
    for (int64_t i = 0; i < a->ndata; i++) /* -0 is not 0 */
        if (bits(a->data[i]) != bits(b->data[i])) return false;
    return true;
}

/* The first node that is equal to this one, which may be itself. */
static int32_t first_equal(search *s, int32_t node)
{
    const ad_node *n = ad_node_at(s->tape, node);
    const uint32_t own = hash(s, n);
    uint32_t at = own & s->mask;
    for (; s->table[at].number; at = (at + 1) & s->mask) {
        const int32_t other = s->table[at].number - 1;
        if (s->table[at].hash == own && equal(s, ad_node_at(s->tape, other), n)) return other;
    }
    s->table[at] = (entry){ node + 1, own };
    return node;
}

static bool is_short_constant(const ad_node *n)
{
    return ad_has_trait(n->op, AD_CONSTANT) && n->ndata <= MOST_DATA;
}

/* Nodes whose cotangents go on to their operands, and how many entries they and these need. */
static int64_t clear_entries(search *s, const ad_activity *a)
{
    int64_t count = 0;
    for (int32_t j = 0; j < a->reach.n; j++) {
        const int32_t k = a->reach.node[j];
        if (!(a->active[k] & AD_THROUGH)) continue;
        const ad_node *n = ad_node_at(s->tape, k);
        for (int i = 0; i < n->nin; i++) s->same[n->in[i]] = -1;
        count += 1 + n->nin;
    }
    return count;
}

static void find(search *s, const ad_activity *a)
{
    for (int32_t j = 0; j < a->reach.n; j++) {
        const int32_t k = a->reach.node[j];
        if (!(a->active[k] & AD_THROUGH)) continue;
        const ad_node *n = ad_node_at(s->tape, k);
        for (int i = 0; i < n->nin; i++) {
            const int32_t in = n->in[i];
            if (s->same[in] >= 0) continue;
            s->same[in] = is_short_constant(ad_node_at(s->tape, in)) ? first_equal(s, in) : in;
        }
        const ad_kind kind = ad_ops[n->op].kind;
        const bool alone = a->active[k] & AD_SEED || kind == AD_OPAQUE || kind == AD_RESULT;
        s->same[k] = alone ? k : first_equal(s, k);
    }
}

bool ad_equal_find(ad_activity *a, ad_tape *t, int nx, const ad_var *x)
{
    search s = { .tape = t };
    s.same = a->same = malloc(((size_t)a->end + 1) * sizeof *s.same);
    if (a->same) {
        const int64_t count = clear_entries(&s, a);
        uint32_t size = 16;
        while (size < 2 * count) size *= 2;
        s.mask = size - 1;
        s.table = calloc(size, sizeof *s.table);
    }
    if (!s.table) {
        ad_fail(t, "out of memory (%d nodes to differentiate)", (int)a->end);
        return false;
    }
    for (int i = 0; i < nx; i++)
        if (x[i].node < a->end) s.same[x[i].node] = x[i].node;
    find(&s, a);
    free(s.table);
    return true;
}
