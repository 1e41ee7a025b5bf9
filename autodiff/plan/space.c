/* The free gaps are in a search tree by position that chance keeps balanced (a treap: Seidel &
 * Aragon 1996, doi:10.1007/BF01940876). Each node knows the largest gap below it, so the first one
 * that is large enough is found, taken and given back in logarithmic time: a program may have
 * 100,000 values. The last gap has no end. */
#include "autodiff/plan/space.h"

struct ad_space_gap {
    int64_t at, size, most; /* most: the largest size among the node and what is below it */
    uint32_t priority;      /* not below that of any node below */
    int32_t left, right;    /* 0: none */
};
typedef ad_space space;
typedef ad_space_gap gap;

bool ad_space_open(space *s, ad_pool *pool, int32_t values)
{
    /* every value that is given back adds one gap at most */
    s->node = ad_pool_alloc(pool, ((size_t)values + 2) * sizeof *s->node);
    if (s->node) ad_space_empty(s);
    return s->node != NULL;
}

void ad_space_empty(space *s)
{
    *s = (space){ .node = s->node, .root = 1, .n = 1, .random = 1 };
    s->node[1] = (gap){ .size = INT64_MAX, .most = INT64_MAX };
}

static void update(space *s, int32_t i)
{
    gap *g = &s->node[i];
    int64_t left = s->node[g->left].most;
    int64_t right = s->node[g->right].most;
    g->most = g->size;
    if (left > g->most) g->most = left;
    if (right > g->most) g->most = right;
}

/* Both as one tree; all of a lies before all of b. */
static int32_t join(space *s, int32_t a, int32_t b)
{
    if (!a || !b) return a ? a : b;
    if (s->node[a].priority >= s->node[b].priority) {
        s->node[a].right = join(s, s->node[a].right, b);
        update(s, a);
        return a;
    }
    s->node[b].left = join(s, a, s->node[b].left);
    update(s, b);
    return b;
}

/* Parts tree i into what lies before `at` and the rest. */
static void part(space *s, int32_t i, int64_t at, int32_t *before, int32_t *rest)
{
    if (!i) {
        *before = *rest = 0;
    } else if (s->node[i].at < at) {
        part(s, s->node[i].right, at, &s->node[i].right, rest);
        *before = i;
        update(s, i);
    } else {
        part(s, s->node[i].left, at, before, &s->node[i].left);
        *rest = i;
        update(s, i);
    }
}

/* Removes the top of a tree. */
static void drop(space *s, int32_t *tree)
{
    int32_t i = *tree;
    *tree = join(s, s->node[i].left, s->node[i].right);
    s->node[i].left = s->unused;
    s->unused = i;
}

/* Takes the beginning of the first gap that is large enough. Its position; -1 where the end could
 * not be addressed. */
static int64_t take(space *s, int32_t *tree, int64_t need)
{
    gap *g = &s->node[*tree];
    int64_t at = g->at;
    if (s->node[g->left].most >= need) {
        at = take(s, &g->left, need);
    } else if (g->size < need) {
        at = take(s, &g->right, need);
    } else if (g->size == need) {
        drop(s, tree);
        return at;
    } else {
        if (ad_size_add(at, need) < 0) return -1;
        g->at += need;
        if (g->size < INT64_MAX) g->size -= need;
    }
    update(s, *tree);
    return at;
}

/* Removes the gap that ends (last) or begins (not last) at `at`, at that end of the tree, and
 * returns its size; 0: there is none. */
static int64_t take_neighbour(space *s, int32_t *tree, bool last, int64_t at)
{
    if (!*tree) return 0;
    gap *g = &s->node[*tree];
    int32_t *next = last ? &g->right : &g->left;
    int64_t size = g->size;
    if (*next) {
        size = take_neighbour(s, next, last, at);
        update(s, *tree);
    } else if (at == (last ? g->at + size : g->at)) {
        drop(s, tree);
    } else {
        size = 0;
    }
    return size;
}

int64_t ad_space_take(space *s, int64_t bytes) { return take(s, &s->root, bytes); }

/* What is free beside becomes one gap with what is given back. */
void ad_space_give(space *s, int64_t at, int64_t size)
{
    int32_t before;
    int32_t rest;
    part(s, s->root, at, &before, &rest);
    int64_t behind = take_neighbour(s, &rest, false, at + size);
    int64_t ahead = take_neighbour(s, &before, true, at);
    int32_t i = s->unused;
    if (i) s->unused = s->node[i].left;
    else i = ++s->n;
    s->random = s->random * 1664525 + 1013904223;
    s->node[i] = (gap){ .at = at - ahead,
                        .size = behind < INT64_MAX ? ahead + size + behind : behind,
                        .priority = s->random };
    update(s, i);
    s->root = join(s, join(s, before, i), rest);
}
