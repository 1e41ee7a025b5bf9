/* Fusion: consecutive pointwise steps of a body (or one alone) form a group, which runs through a
 * block chunk by chunk. A chunk is so many rows, or elements of wide ones, that its values stay in
 * a level 1 cache; values that only their group reads are kept for one chunk at a time and need no
 * block memory. */
#include "autodiff/plan/program.h"
#include <string.h>

/* Of a value, while a body's steps are sorted: the first pointwise step that reads it, the step
 * that makes it and the one that makes its slope alone, numbers + 1; and whether a step other than
 * a sum reads it. */
typedef struct {
    int32_t reader, made, slope;
    bool kept;
} use;

/* Memory of the pass. */
typedef struct {
    use *uses;
    int32_t *last;    /* of every value: the last step that reads it */
    int32_t *unused;  /* pieces of chunk memory that are free at the step at hand */
    int32_t *repeats; /* heads of lists of the phase's repeats, as numbers + 1, by their hash */
} scratch;

static bool fusable(const ad_program *p, const ad_step *s)
{
    const ad_inst *x = &p->ir.inst[s->value];
    return ad_ops[x->op].kind == AD_POINTWISE && ad_has_rows(x->shape);
}

/* Rows of a chunk: all pieces but the last are whole multiples of AD_ALIGN bytes where rows are
 * that short. */
static int64_t chunk_rows(int64_t row_bytes)
{
    int64_t rows = row_bytes > 0 ? AD_CHUNK_BYTES / row_bytes : AD_MAX_BLOCK_ROWS;
    if (rows >= AD_MAX_BLOCK_ROWS) return AD_MAX_BLOCK_ROWS;
    if (rows >= AD_MIN_BLOCK_ROWS) return rows / AD_MIN_BLOCK_ROWS * AD_MIN_BLOCK_ROWS;
    return rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}

/* Memory for the values that live in the group: as many pieces of equal size as are in use at a
 * time. A piece is free for the result of the step that reads it last. Those that are free are a
 * stack: the one used last is nearest in the caches. */
static bool place_values(ad_program *p, const scratch *m, int32_t begin, int32_t end)
{
    int64_t size = ad_size_align(ad_chunk_bytes(p, &p->step[begin]));
    int32_t pieces = 0;
    int32_t nunused = 0;
    for (int32_t s = begin; s < end; s++) {
        int32_t v = p->step[s].value;
        ad_slot *slot = &p->slot[v];
        for (int k = 0; k < p->ir.inst[v].nin; k++) {
            int32_t root = p->step[s].operand[k].root;
            if (m->last[root] != s || p->slot[root].place != AD_PLACE_CHUNK) continue;
            m->last[root] = end; /* an operand may be listed twice */
            m->unused[nunused++] = (int32_t)(p->slot[root].position / size);
        }
        if (slot->place != AD_PLACE_BLOCK || m->last[v] >= end) continue;
        int32_t piece = nunused ? m->unused[--nunused] : pieces++;
        slot->place = AD_PLACE_CHUNK;
        slot->position = ad_size_mul(size, piece);
        int64_t need = ad_size_add(slot->position, size);
        if (need < 0) return false;
        if (need > p->chunk_bytes) p->chunk_bytes = need;
    }
    return true;
}

/* Where the list begins of the repeats that may be of this operand. */
static int32_t *repeats_of(const ad_program *p, const scratch *m, int32_t root, int64_t offset)
{
    uint64_t h = ((uint64_t)root * 0x9e3779b97f4a7c15u) ^ (uint64_t)offset;
    h = (h ^ h >> 29) * 0xd6e8feb86659fd93u;
    return &m->repeats[(h >> 32) % ((uint64_t)p->nstep + 1)];
}

/* The number of the pointer to copies of an operand without rows, one for each row of a chunk; -1
 * when memory is short. */
static int32_t repeated(ad_program *p, ad_phase *phase, const scratch *m, const ad_ref *r,
                        int64_t row_bytes, int64_t rows)
{
    int32_t *first = repeats_of(p, m, r->root, r->offset);
    for (int32_t i = *first; i > 0; i = phase->repeat[i - 1].next) {
        const ad_repeat *known = &phase->repeat[i - 1];
        if (known->root == r->root && known->offset == r->offset && known->row_bytes == row_bytes)
            return known->pointer;
    }
    int64_t end = ad_size_add(p->repeat_bytes, ad_size_align(ad_size_mul(row_bytes, rows)));
    if (end < 0) return -1;
    phase->repeat[phase->nrepeat] = (ad_repeat){ .root = r->root,
                                                 .pointer = p->ir.n + p->nrepeat++,
                                                 .next = *first,
                                                 .offset = r->offset,
                                                 .row_bytes = row_bytes,
                                                 .rows = rows,
                                                 .position = p->repeat_bytes };
    *first = ++phase->nrepeat;
    p->repeat_bytes = end;
    return phase->repeat[phase->nrepeat - 1].pointer;
}

/* How the operands of a group's step go from chunk to chunk. */
static bool place_operands(ad_program *p, ad_phase *phase, const scratch *m, ad_step *s)
{
    const ad_inst *x = &p->ir.inst[s->value];
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    for (int k = 0; k < x->nin; k++) {
        ad_ref *r = &s->operand[k];
        const ad_inst *in = &p->ir.inst[x->in[k]];
        if (ad_has_rows(in->shape)) {
            const int64_t row_bytes = s->elements ? size : p->slot[r->root].bytes;
            r->row_bytes = p->slot[r->root].place == AD_PLACE_CHUNK ? 0 : row_bytes;
            r->far = p->slot[r->root].place == AD_PLACE_INPUT;
        } else if (ad_row_size(in->shape) > 1 && ad_row_size(in->shape) == ad_row_size(x->shape)) {
            r->pointer = repeated(p, phase, m, r, p->slot[s->value].bytes, s->chunk_rows);
            if (r->pointer < 0) return false;
            r->offset = 0;
            s->shapes[k] = x->shape;
        }
    }
    const ad_place place = p->slot[s->value].place;
    s->row_bytes = place == AD_PLACE_CHUNK ? 0 : s->elements ? size : p->slot[s->value].bytes;
    s->far = place == AD_PLACE_OUTPUT || place == AD_PLACE_COMPLETE;
    return true;
}

/* Elements of a row that is cut into chunks: a wide one, where arrays are as large as the results,
 * or one number. 0: chunks have whole rows. */
static int64_t wide_elements(const ad_program *p, int32_t begin, int32_t end)
{
    const int64_t elements = ad_row_size(p->ir.inst[p->step[begin].value].shape);
    if (!ad_makes_chunks(p, elements, 1)) return 0;
    for (int32_t s = begin; s < end; s++) {
        const ad_inst *x = &p->ir.inst[p->step[s].value];
        for (int k = 0; k < x->nin; k++) {
            const ad_shape in = p->ir.inst[x->in[k]].shape;
            if (ad_row_size(in) != (ad_has_rows(in) ? elements : 1)) return 0;
        }
    }
    return elements;
}

static bool make_group(ad_program *p, ad_phase *phase, const scratch *m, int32_t begin, int32_t end)
{
    const int64_t row_bytes = p->slot[p->step[begin].value].bytes;
    const int64_t elements = wide_elements(p, begin, end);
    for (int32_t s = begin; s < end; s++) {
        p->step[s].begin = begin;
        p->step[s].end = end;
        p->step[s].elements = elements;
        p->step[s].chunk_rows = elements ? ad_chunk_elements(p) : chunk_rows(row_bytes);
    }
    if (!place_values(p, m, begin, end)) return false;
    for (int32_t s = begin; s < end; s++) {
        if (!place_operands(p, phase, m, &p->step[s])) return false;
        if (p->step[s].elements) ad_see_elements(p, &p->step[s]);
    }
    return true;
}

/* Sums as large as a block may be stay where they are: adding to them would sweep the block's
 * values out of the caches halfway. */
static bool hastened(const ad_program *p, const ad_step *s)
{
    return p->slot[s->value].place == AD_PLACE_LANES &&
           p->slot[p->slot[s->value].root].bytes <= AD_BLOCK_BYTES;
}

static void note_uses(const ad_program *p, const ad_step *step, int32_t n, use *uses)
{
    for (int32_t s = 0; s < n; s++) {
        bool sums = hastened(p, &step[s]), pointwise = fusable(p, &step[s]);
        uses[step[s].value].made = s + 1;
        for (int k = 0; k < p->ir.inst[step[s].value].nin; k++) {
            use *u = &uses[step[s].operand[k].root];
            if (pointwise && !u->reader) u->reader = s + 1;
            if (pointwise && step[s].kernel.op == AD_OP_slope_of_code && step[s].kernel.nin == 1)
                u->slope = s + 1;
            if (!sums) u->kept = true;
        }
    }
}

static void forget_uses(const ad_program *p, const ad_step *step, int32_t n, use *uses)
{
    for (int32_t s = 0; s < n; s++) {
        uses[step[s].value] = (use){ 0 };
        for (int k = 0; k < p->ir.inst[step[s].value].nin; k++)
            uses[step[s].operand[k].root] = (use){ 0 };
    }
}

/* The number + 1 of an earlier pointwise step that reads an operand of step s too, and behind which
 * s has all it needs; 0: there is none, or others than sums read the result of s, which would be
 * kept for longer. */
static int32_t companion(const ad_program *p, const ad_step *step, int32_t s, const use *uses)
{
    int32_t v = step[s].value;
    int32_t found = 0;
    const ad_place place = p->slot[v].place;
    if (!fusable(p, &step[s]) || uses[v].kept) return 0;
    if (place != AD_PLACE_BLOCK && place != AD_PLACE_STRETCH) return 0;
    for (int k = 0; k < p->ir.inst[v].nin; k++) {
        int32_t root = step[s].operand[k].root;
        int32_t reader = uses[root].reader;
        if (ad_has_rows(p->ir.inst[root].shape) && reader <= s && reader > found) found = reader;
    }
    for (int k = 0; k < p->ir.inst[v].nin; k++)
        if (uses[step[s].operand[k].root].made > found) return 0;
    return found && p->slot[step[found - 1].value].bytes == p->slot[v].bytes ? found : 0;
}

/* The steps of a body while they are sorted: a list by their numbers + 1; 0 is its head. */
typedef struct {
    int32_t *next, *before;
} order;

static bool make_order(ad_pool *pool, order *o, int32_t n)
{
    o->next = ad_pool_alloc(pool, ((size_t)n + 1) * sizeof *o->next);
    o->before = ad_pool_alloc(pool, ((size_t)n + 2) * sizeof *o->before);
    if (!o->next || !o->before) return false;
    for (int32_t s = 0; s <= n; s++) {
        o->next[s] = s < n ? s + 1 : 0;
        o->before[s] = s - 1;
    }
    return true;
}

static void move_behind(order *o, int32_t s, int32_t other)
{
    o->next[o->before[s]] = o->next[s];
    o->before[o->next[s]] = o->before[s];
    o->next[s] = o->next[other];
    o->before[s] = other;
    o->before[o->next[other]] = s;
    o->next[other] = s;
}

/* A pointwise step that only sums read goes to where another one reads the same array: they share
 * what is in the caches, and the sums are early. */
static bool join_readers(ad_program *p, const ad_step *step, int32_t n, const use *uses, order *o)
{
    bool *moved = ad_pool_alloc(&p->pool, (size_t)n + 1);
    if (!moved) return false;
    for (int32_t s = 1; s <= n; s++) {
        int32_t other = companion(p, step, s - 1, uses);
        if (!other || moved[other] || o->before[s] == other)
            continue; /* where the other went, not all that s reads may be there */
        moved[s] = true;
        move_behind(o, s, other);
    }
    return true;
}

/* What is one pass (ad_pair_kernel): a code that the body makes and what decodes it, and its slope
 * where these two are all that is made of it; of a code that the body is given, the slope and what
 * decodes the code first. */
static void join_pairs(const ad_program *p, const ad_step *step, int32_t n, const use *uses,
                       order *o)
{
    for (int32_t s = 1; s <= n; s++) {
        const ad_step *second = &step[s - 1];
        const ad_inst *x = &p->ir.inst[second->value];
        const use *code = x->nin == 1 ? &uses[second->operand[0].root] : NULL;
        if (!code || !fusable(p, second)) continue;
        if (code->made) {
            const ad_inst *maker = &p->ir.inst[step[code->made - 1].value];
            if (!ad_pair_kernel(maker->op, x->op, p->ir.dtype, maker->nin) ||
                !ad_same_shape(maker->shape, x->shape))
                continue;
            if (code->slope && maker->uses == 2) move_behind(o, code->slope, code->made);
            move_behind(o, s, code->made);
            continue;
        }
        if (x->op != AD_OP_slope_of_code || !code->reader || code->reader >= s) continue;
        const ad_step *first = &step[code->reader - 1];
        if (first->operand[0].offset != second->operand[0].offset) continue;
        if (ad_pair_kernel(x->op, p->ir.inst[first->value].op, p->ir.dtype, 1))
            move_behind(o, s, o->before[code->reader]);
    }
}

static bool sort_body(ad_program *p, const ad_phase *phase, use *uses)
{
    int32_t from = phase->body_steps[0];
    int32_t n = phase->body_steps[1] - from;
    ad_step *step = p->step + from;
    ad_step *old = ad_pool_alloc(&p->pool, ((size_t)n + 1) * sizeof *old);
    order o;
    if (!old || !make_order(&p->pool, &o, n)) return false;
    note_uses(p, step, n, uses);
    if (!join_readers(p, step, n, uses, &o)) return false;
    join_pairs(p, step, n, uses, &o);
    forget_uses(p, step, n, uses);
    memcpy(old, step, (size_t)n * sizeof *old);
    for (int32_t s = o.next[0], count = 0; s > 0; s = o.next[s]) step[count++] = old[s - 1];
    return true;
}

/* Steps that sum over the rows come as soon as what they read is there, so that block memory can be
 * used again; but they do not tear runs of pointwise steps. */
static bool hasten_reductions(ad_program *p, const ad_phase *phase, int32_t *made)
{
    int32_t from = phase->body_steps[0], n = phase->body_steps[1] - from, flushed = 0, count = 0;
    ad_step *old = ad_pool_alloc(&p->pool, ((size_t)n + 1) * sizeof *old), *step = p->step + from;
    int32_t *first = ad_pool_alloc(&p->pool, ((size_t)n + 1) * sizeof *first),
            *next = ad_pool_alloc(&p->pool, ((size_t)n + 1) * sizeof *next);
    if (!old || !first || !next) return false;
    for (int32_t s = 0; s < n; s++) {
        old[s] = step[s];
        made[old[s].value] = s;
    }
    for (int32_t s = n - 1; s >= 0;
         s--) { /* first, next: the reductions that can follow a step; numbers + 1 */
        if (!hastened(p, &old[s])) continue;
        int32_t after = 0;
        for (int k = 0; k < p->ir.inst[old[s].value].nin; k++) {
            int32_t root = old[s].operand[k].root;
            if (made[root] < n && old[made[root]].value == root && made[root] > after)
                after = made[root];
        }
        next[s] = first[after];
        first[after] = s + 1;
    }
    for (int32_t s = 0; s <= n; s++) {
        bool run = s > 0 && s < n && fusable(p, &old[s]) && fusable(p, &old[s - 1]);
        for (; flushed < s && !run; flushed++)
            for (int32_t r = first[flushed]; r > 0; r = next[r - 1]) step[count++] = old[r - 1];
        if (s < n && !hastened(p, &old[s])) step[count++] = old[s];
    }
    return true;
}

static bool fuse_body(ad_program *p, ad_phase *phase, const scratch *m)
{
    int32_t from = phase->body_steps[0], to = phase->body_steps[1], operands = 0;
    for (int32_t s = from; s < to; s++) operands += p->ir.inst[p->step[s].value].nin;
    phase->repeat = ad_pool_alloc(&p->pool, ((size_t)operands + 1) * sizeof *phase->repeat);
    if (!phase->repeat) return false;
    for (int32_t begin = from, end; begin < to; begin = end) {
        end = begin + 1;
        if (!fusable(p, &p->step[begin])) continue;
        while (end < to && fusable(p, &p->step[end]) &&
               p->slot[p->step[end].value].bytes == p->slot[p->step[begin].value].bytes)
            end++;
        if (!make_group(p, phase, m, begin, end)) return false;
    }
    for (int i = 0; i < phase->nrepeat; i++)
        *repeats_of(p, m, phase->repeat[i].root, phase->repeat[i].offset) = 0;
    return true;
}

bool ad_fuse(ad_program *p)
{
    scratch m = { .uses = ad_pool_alloc(&p->pool, ((size_t)p->ir.n + 1) * sizeof *m.uses),
                  .last = ad_pool_alloc(&p->pool, ((size_t)p->ir.n + 1) * sizeof *m.last),
                  .unused = ad_pool_alloc(&p->pool, ((size_t)p->nstep + 1) * sizeof *m.unused),
                  .repeats = ad_pool_alloc(&p->pool, ((size_t)p->nstep + 1) * sizeof *m.repeats) };
    if (!m.uses || !m.last || !m.unused || !m.repeats) return false;
    for (int f = 0; f < p->nphase; f++)
        if (!sort_body(p, &p->phase[f], m.uses) || !hasten_reductions(p, &p->phase[f], m.last))
            return false;
    memset(m.last, 0, (size_t)p->ir.n * sizeof *m.last);
    for (int32_t s = 0; s < p->nstep; s++) {
        if (!p->step[s].elements) {
            p->step[s].begin = s;
            p->step[s].end = s + 1;
        }
        for (int k = 0; k < p->ir.inst[p->step[s].value].nin; k++)
            m.last[p->step[s].operand[k].root] = s;
    }
    for (int f = 0; f < p->nphase; f++)
        if (!fuse_body(p, &p->phase[f], &m)) return false;
    for (int32_t i = 0; i < p->ir.n; i++) p->slot[i].place = p->slot[p->slot[i].root].place;
    return true;
}
