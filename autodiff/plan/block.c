/* Block memory: how long the values of a body live in it, how many rows a block has, and where each
 * value lies. */
#include "autodiff/plan/program.h"

static bool in_block(const ad_program *p, int32_t root)
{
    return p->slot[root].place == AD_PLACE_BLOCK || p->slot[root].place == AD_PLACE_OUTPUT;
}

/* First and last steps of the body's values, and the largest sum of live bytes of a row. A group's
 * steps go through the block together. */
static bool find_lifetimes(ad_program *p, const ad_phase *phase)
{
    int32_t from = phase->body_steps[0], n = phase->body_steps[1] - from;
    int64_t *change = ad_pool_alloc(&p->pool, ((size_t)n + 2) * sizeof *change), live = 0, sum = 0;
    if (!change) return false;
    for (int i = 0; i < phase->nblock && sum >= 0; i++)
        sum = ad_size_add(sum, p->slot[phase->block[i]].bytes);
    if (sum < 0) {
        p->refused = -1;
        return false;
    }
    for (int32_t s = 0; s < n; s++) {
        const ad_step *step = &p->step[from + s];
        p->slot[step->value].first = p->slot[step->value].last = s;
        for (int k = 0; k < p->ir.inst[step->value].nin; k++)
            if (in_block(p, step->operand[k].root) ||
                p->slot[step->operand[k].root].place == AD_PLACE_CHUNK)
                p->slot[step->operand[k].root].last = s;
    }
    for (int i = 0; i < phase->nblock; i++) {
        const ad_slot *slot = &p->slot[phase->block[i]];
        change[p->step[from + slot->first].begin - from] += slot->bytes;
        change[p->step[from + slot->last].end - from] -= slot->bytes;
    }
    for (int32_t s = 0; s < n; s++) {
        live += change[s];
        if (live > p->block_row_bytes) p->block_row_bytes = live;
    }
    return true;
}

/* Weights that do not stay in a level 2 cache go by once for every block: so many rows that they do
 * not take longer than the arithmetic. */
static int64_t least_rows(const ad_program *p)
{
    enum { LEAVING_BYTES = 512 * 1024, FAR_BYTES = 8 * 1024 * 1024, LINES = 64 };
    const int64_t size_of = (int64_t)ad_dtype_size(p->ir.dtype), leaving = LEAVING_BYTES / size_of;
    int64_t least = AD_MIN_BLOCK_ROWS;
    for (int32_t i = 0; i < p->ir.n; i++) {
        const ad_inst *x = &p->ir.inst[i];
        if (x->op != AD_OP_contract || !ad_has_rows(x->shape)) continue;
        const ad_shape weights = p->ir.inst[x->in[1]].shape;
        const double size = (double)ad_row_size(weights);
        if (ad_has_rows(weights) || ad_row_size(weights) < leaving) continue;
        const double lines = ad_product_flop(&p->ir, x) / (2 * size);
        const int wanted = ad_row_size(weights) < FAR_BYTES / size_of ? LINES : 2 * LINES;
        while ((double)least * lines < wanted && least < AD_MAX_BLOCK_ROWS) least *= 2;
    }
    return least;
}

/* So many rows that a block's intermediates stay in about half of a level 2 cache, and few enough
 * for several blocks in an ordinary batch; a power of two, so that ordinary batches are shared out
 * evenly. */
static int64_t choose_block_rows(int64_t least, int64_t row_bytes)
{
    int64_t rows = AD_MAX_BLOCK_ROWS;
    while (rows > least && row_bytes > AD_BLOCK_BYTES / rows) rows /= 2;
    return rows;
}

/* ---- free memory ---- */

/* The free gaps of a block, in a search tree by position that chance keeps balanced (a treap:
 * Seidel & Aragon 1996, doi:10.1007/BF01940876). Each node knows the largest gap below it, so the
 * first one that is large enough is found, taken and given back in logarithmic time: a program may
 * have 100,000 values. The last gap has no end. */
typedef struct {
    int64_t at, size, most; /* most: the largest size among the node and what is below it */
    uint32_t priority;      /* not below that of any node below */
    int32_t left, right;    /* 0: none */
} gap;

typedef struct {
    gap *node; /* from 1; 0 stands for none, and its `most` is 0 */
    int32_t root, n, unused;
    uint32_t random;
} space;

/* Every value that is given back adds one gap at most. */
static bool space_open(space *s, ad_pool *pool, int32_t values)
{
    *s = (space){ .node = ad_pool_alloc(pool, ((size_t)values + 2) * sizeof *s->node),
                  .root = 1,
                  .n = 1,
                  .random = 1 };
    if (s->node) s->node[1] = (gap){ .size = INT64_MAX, .most = INT64_MAX };
    return s->node != NULL;
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

/* Gives back `size` bytes at `at`; what is free beside them becomes one gap with them. */
static void give(space *s, int64_t at, int64_t size)
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

/* ---- places ---- */

/* A value in the block, by the step that makes it. */
typedef struct {
    int32_t next; /* another whose last use is in the same group, as a step + 1; 0: none */
    /* of the first step of a group: the first of those last used in the group before, as a step + 1
     */
    int32_t ended;
    bool dead;  /* is or was in the list of the dead */
    bool taken; /* its memory belongs to another value now */
} resident;

typedef struct {
    ad_program *program;
    const ad_phase *phase;
    space free;
    resident *resident; /* by step of the body */
    int32_t *dead;      /* values of the group at hand that no further step reads */
    int32_t ndead;
} block;

static int64_t bytes_of(const ad_program *p, int32_t v)
{
    return ad_size_align(ad_size_mul(p->slot[v].bytes, p->block_rows));
}

static void free_ended(block *b, int32_t s)
{
    const ad_program *p = b->program;
    for (int32_t k = b->resident[s].ended; k > 0; k = b->resident[k - 1].next) {
        int32_t v = p->step[b->phase->body_steps[0] + k - 1].value;
        if (!b->resident[k - 1].taken) give(&b->free, p->slot[v].position, bytes_of(p, v));
    }
}

static bool place_result(block *b, int32_t v, bool pointwise)
{
    ad_program *p = b->program;
    if (pointwise && b->ndead) {
        int32_t old = b->dead[--b->ndead];
        p->slot[v].position = p->slot[old].position;
        b->resident[p->slot[old].first].taken = true;
        return true;
    }
    int64_t need = bytes_of(p, v);
    int64_t at = need < 0 ? -1 : take(&b->free, &b->free.root, need);
    if (at < 0) {
        p->refused = -1;
        return false;
    }
    p->slot[v].position = at;
    if (at + need > p->block_bytes) p->block_bytes = at + need;
    return true;
}

/* Values as large as the results of the group (all have one size) whose last use is at step s:
 * chunk by chunk, the result of this step or a later one of the group may take over their memory.
 * Being as large as the result they have its extent, whatever their shape is. */
static void note_dead(block *b, int32_t s, int32_t root, int64_t bytes)
{
    const ad_slot *slot = &b->program->slot[root];
    if (!in_block(b->program, root) || slot->last != s || slot->bytes != bytes ||
        b->resident[slot->first].dead)
        return;
    b->resident[slot->first].dead = true;
    b->dead[b->ndead++] = root;
}

static bool place_step(block *b, int32_t s)
{
    ad_program *p = b->program;
    const ad_step *step = &p->step[b->phase->body_steps[0] + s];
    int32_t v = step->value;
    bool pointwise = ad_ops[p->ir.inst[v].op].kind == AD_POINTWISE;
    if (step->begin - b->phase->body_steps[0] == s) {
        b->ndead = 0;
        free_ended(b, s);
    }
    for (int k = 0; k < p->ir.inst[v].nin && pointwise; k++)
        note_dead(b, s, step->operand[k].root, p->slot[v].bytes);
    if (!in_block(p, v)) return true;
    if (!place_result(b, v, pointwise)) return false;
    note_dead(b, s, v, p->slot[v].bytes);
    int32_t end = p->step[b->phase->body_steps[0] + p->slot[v].last].end - b->phase->body_steps[0];
    b->resident[s].next = b->resident[end].ended;
    b->resident[end].ended = s + 1;
    return true;
}

static bool plan_block(ad_program *p, const ad_phase *phase)
{
    int32_t n = phase->body_steps[1] - phase->body_steps[0];
    block b = { .program = p, .phase = phase };
    b.resident = ad_pool_alloc(&p->pool, ((size_t)n + 1) * sizeof *b.resident);
    b.dead = ad_pool_alloc(&p->pool, ((size_t)phase->nblock + 1) * sizeof *b.dead);
    if (!b.resident || !b.dead || !space_open(&b.free, &p->pool, phase->nblock)) return false;
    for (int32_t s = 0; s < n; s++)
        if (!place_step(&b, s)) return false;
    return true;
}

static bool plan_all(ad_program *p, int64_t rows)
{
    p->block_rows = rows;
    p->block_bytes = 0;
    for (int f = 0; f < p->nphase; f++)
        if (!plan_block(p, &p->phase[f])) return false;
    return true;
}

/* Results of pointwise steps take over memory of their operands, so how large a row is shows only
 * when all values have their places. */
bool ad_plan_blocks(ad_program *p)
{
    for (int f = 0; f < p->nphase; f++)
        if (!find_lifetimes(p, &p->phase[f])) return false;
    if (p->block_rows) return plan_all(p, p->block_rows);
    if (!plan_all(p, AD_MAX_BLOCK_ROWS)) return false;
    int64_t rows = choose_block_rows(least_rows(p), p->block_bytes / AD_MAX_BLOCK_ROWS);
    return rows == p->block_rows || plan_all(p, rows);
}
