/* Steps on large arrays without rows, chunk by chunk. Pointwise steps on arrays of equal size, and
 * sums of all of such an array, form a group, as pointwise steps of a body do (fuse.c): it goes
 * through the arrays by chunks that stay in a level 1 cache, and what only the group reads has the
 * memory of one chunk.
 *
 * Steps come in the order of recording, where others stand between those of a group. What does not
 * depend on the group goes before it, what does comes after it. Sums keep their order, as a chunk
 * holds whole leaves of their trees (kernel.h). */
#include "autodiff/plan/program.h"
#include <string.h>

enum { LEAST_CHUNKS = 4 }; /* arrays of fewer are not worth a group */
enum { PASSED = 32 };      /* so many steps in a row that do not join a group end it */

/* Memory of the pass. */
typedef struct {
    ad_program *program;
    /* of every root: 2 * the number of the group that makes it, or one more where it waits for that
     */
    int32_t *mark;
    int32_t number; /* of the group at hand */
    bool waits;     /* some step that has been passed waits for it */
    int64_t elements;
    ad_step *old;           /* the steps in the order of recording */
    bool *done;             /* of these: has its place */
    int32_t *join, *before; /* of the group at hand: its steps, and those that go before it */
    int32_t njoin, nbefore;
} grouping;

int64_t ad_chunk_elements(const ad_program *p)
{
    return p->chunks ? AD_SUM_LEAF : AD_CHUNK_BYTES / (int64_t)ad_dtype_size(p->ir.dtype);
}

bool ad_makes_chunks(const ad_program *p, int64_t elements, int chunks)
{
    const int64_t few = p->interpreted ? 1 : AD_NATIVE_ELEMENTS;
    return elements > (p->chunks ? few : chunks * ad_chunk_elements(p));
}

static int64_t size_of(const ad_program *p, int32_t value)
{
    return ad_row_size(p->ir.inst[value].shape);
}

/* Elements of the arrays that the step would be gone through by; 0: it cannot be. */
static int64_t elements_of(const ad_program *p, const ad_step *s)
{
    const ad_inst *x = &p->ir.inst[s->value];
    const bool sums = s->kind == AD_STEP_KERNEL && ad_kernel_sums_all(&s->kernel);
    if (s->kind != AD_STEP_KERNEL || (!sums && ad_ops[x->op].kind != AD_POINTWISE)) return 0;
    const int64_t n = size_of(p, sums ? x->in[0] : s->value);
    for (int k = 0; k < x->nin; k++)
        if (size_of(p, x->in[k]) != n && (sums || size_of(p, x->in[k]) != 1)) return 0;
    return ad_makes_chunks(p, n, LEAST_CHUNKS) ? n : 0;
}

typedef enum { JOINS, GOES_BEFORE, WAITS } relation;

/* Large arrays are not made before their time, but where a group makes what they are made of. */
static relation relate(const grouping *g, const ad_step *s)
{
    const ad_program *p = g->program;
    const ad_inst *x = &p->ir.inst[s->value];
    bool reads = false, part = false;
    for (int k = 0; k < x->nin; k++) {
        const int32_t mark = g->mark[s->operand[k].root];
        if (mark == 2 * g->number + 1) return WAITS;
        if (mark != 2 * g->number) continue;
        reads = true;
        part |= size_of(p, x->in[k]) != g->elements;
    }
    if (!part && (reads || !g->waits) && elements_of(p, s) == g->elements) return JOINS;
    return reads || size_of(p, s->value) > AD_NATIVE_ELEMENTS ? WAITS : GOES_BEFORE;
}

/* Finds the steps that join step `first` in a group, and those that have to go before it. */
static void collect(grouping *g, int32_t first, int32_t to)
{
    int32_t before = 0, passed = 0;
    g->number++;
    g->elements = elements_of(g->program, &g->old[first]);
    g->njoin = g->nbefore = 0;
    g->waits = false;
    for (int32_t s = first; s < to && passed < PASSED; s++) {
        if (g->done[s]) continue;
        const ad_step *step = &g->old[s];
        if (step->kind == AD_STEP_OPAQUE) break;
        const relation r = relate(g, step);
        passed = r == JOINS ? 0 : passed + 1;
        g->waits |= r == WAITS;
        g->mark[step->value] = r == GOES_BEFORE ? 0 : 2 * g->number + (r == WAITS);
        if (r == GOES_BEFORE) g->before[before++] = s;
        if (r != JOINS) continue;
        g->join[g->njoin++] = s;
        g->nbefore = before; /* what comes later may stay where it is */
    }
}

void ad_see_elements(const ad_program *p, ad_step *s)
{
    const ad_inst *x = &p->ir.inst[s->value];
    for (int k = 0; k < x->nin; k++)
        s->shapes[k] = size_of(p, x->in[k]) > 1 ? AD_SHAPE(AD_ROWS) : AD_SCALAR;
    s->kernel.out = AD_SHAPE(AD_ROWS);
}

/* A group of steps, which go through whole arrays element by element. */
static void make_group(ad_program *p, int32_t begin, int32_t end, int64_t elements)
{
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    int64_t leaves = 0;
    for (int32_t s = begin; s < end; s++) {
        ad_step *step = &p->step[s];
        const ad_inst *x = &p->ir.inst[step->value];
        step->begin = begin;
        step->end = end;
        step->elements = elements;
        step->chunk_rows = ad_chunk_elements(p);
        step->sums = ad_kernel_sums_all(&step->kernel);
        for (int k = 0; k < x->nin; k++)
            if (size_of(p, x->in[k]) > 1) step->operand[k].row_bytes = size;
        step->row_bytes = size;
        if (!step->sums) {
            ad_see_elements(p, step);
            continue;
        }
        step->leaves = leaves;
        leaves += ad_size_align(ad_kernel_leaves(elements) * size);
    }
    if (leaves > p->uniform_scratch) p->uniform_scratch = leaves;
}

static void place(grouping *g, int32_t *at, int32_t step)
{
    ad_step *s = &g->program->step[(*at)++];
    *s = g->old[step];
    g->done[step] = true;
    s->begin = (int32_t)(s - g->program->step);
    s->end = s->begin + 1;
}

static void group_range(grouping *g, const int32_t *range)
{
    ad_program *p = g->program;
    int32_t at = range[0];
    for (int32_t s = range[0]; s < range[1]; s++) {
        if (g->done[s]) continue;
        if (elements_of(p, &g->old[s])) collect(g, s, range[1]);
        else g->njoin = 0;
        if (g->njoin < 2) {
            place(g, &at, s);
            continue;
        }
        for (int32_t k = 0; k < g->nbefore; k++) place(g, &at, g->before[k]);
        const int32_t begin = at;
        for (int32_t k = 0; k < g->njoin; k++) place(g, &at, g->join[k]);
        make_group(p, begin, at, g->elements);
    }
}

bool ad_group_whole(ad_program *p)
{
    ad_pool pool = { 0 };
    const size_t steps = (size_t)p->nstep + 1;
    grouping g = { .program = p,
                   .mark = ad_pool_alloc(&pool, ((size_t)p->ir.n + 1) * sizeof *g.mark),
                   .old = ad_pool_alloc(&pool, steps * sizeof *g.old),
                   .done = ad_pool_alloc(&pool, steps * sizeof *g.done),
                   .join = ad_pool_alloc(&pool, steps * sizeof *g.join),
                   .before = ad_pool_alloc(&pool, steps * sizeof *g.before) };
    const bool memory = g.mark && g.old && g.done && g.join && g.before;
    if (memory) memcpy(g.old, p->step, (size_t)p->nstep * sizeof *g.old);
    for (int f = 0; f < p->nphase && memory; f++) {
        group_range(&g, p->phase[f].parameter_steps);
        group_range(&g, p->phase[f].call_steps);
    }
    ad_pool_clear(&pool);
    return memory;
}
