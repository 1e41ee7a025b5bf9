/* Block memory: how long the values of a body live in it, and how many rows a block has. */
#include "autodiff/plan/places.h"

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

/* ---- places ---- */

static bool plan_all(ad_program *p, ad_placer *placer, int64_t rows)
{
    p->block_rows = rows;
    p->block_bytes = 0;
    for (int f = 0; f < p->nphase; f++) {
        const int32_t *steps = p->phase[f].body_steps;
        const ad_region region = { { steps[0], steps[1] }, rows, in_block };
        if (!ad_place_values(placer, &region, &p->block_bytes)) return false;
    }
    return true;
}

static bool plan_blocks(ad_program *p, ad_placer *placer)
{
    for (int f = 0; f < p->nphase; f++)
        if (!find_lifetimes(p, &p->phase[f])) return false;
    if (p->block_rows) return plan_all(p, placer, p->block_rows);
    if (!plan_all(p, placer, AD_MAX_BLOCK_ROWS)) return false;
    int64_t rows = choose_block_rows(least_rows(p), p->block_bytes / AD_MAX_BLOCK_ROWS);
    return rows == p->block_rows || plan_all(p, placer, rows);
}

/* Results of pointwise steps take over memory of their operands, so how large a row is shows only
 * when all values have their places. */
bool ad_plan_blocks(ad_program *p)
{
    ad_pool pool = { 0 };
    ad_placer *placer = ad_placer_new(p, &pool);
    const bool planned = placer && plan_blocks(p, placer);
    ad_pool_clear(&pool);
    return planned;
}
