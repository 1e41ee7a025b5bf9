/* Where values lie in a memory that others have before and behind them. The steps of a group are at
 * the same time: they go through their values together, chunk by chunk. */
#include "autodiff/plan/places.h"
#include "autodiff/plan/space.h"

typedef struct {
    int32_t next;   /* another whose last use is in the same group, as a value + 1; 0: none */
    bool dead;      /* is or was in the list of the dead */
    bool taken;     /* its memory belongs to another value now */
    int32_t parted; /* a group that reads a part of it, by its first step + 1 */
} resident;

struct ad_placer {
    ad_program *program;
    const ad_region *region;
    ad_space free;
    resident *resident; /* by value */
    /* by step that begins a group: the first of those last used in the group before, as a value + 1
     */
    int32_t *ended;
    int32_t *dead; /* values of the group at hand that no further step reads */
    int32_t ndead;
    int64_t bytes;
};

ad_placer *ad_placer_new(ad_program *p, ad_pool *pool)
{
    ad_placer *b = ad_pool_alloc(pool, sizeof *b);
    if (!b) return NULL;
    b->program = p;
    b->resident = ad_pool_alloc(pool, ((size_t)p->ir.n + 1) * sizeof *b->resident);
    b->ended = ad_pool_alloc(pool, ((size_t)p->nstep + 1) * sizeof *b->ended);
    b->dead = ad_pool_alloc(pool, ((size_t)p->ir.n + 1) * sizeof *b->dead);
    if (!b->resident || !b->ended || !b->dead) return NULL;
    return ad_space_open(&b->free, pool, p->ir.n) ? b : NULL;
}

static int64_t bytes_of(const ad_placer *b, int32_t v)
{
    return ad_size_align(ad_size_mul(b->program->slot[v].bytes, b->region->rows));
}

static void free_ended(ad_placer *b, int32_t s)
{
    for (int32_t v = b->ended[s] - 1; v >= 0; v = b->resident[v].next - 1)
        if (!b->resident[v].taken)
            ad_space_give(&b->free, b->program->slot[v].position, bytes_of(b, v));
}

static bool take_place(ad_placer *b, int32_t v, bool pointwise)
{
    ad_program *p = b->program;
    if (pointwise && b->ndead) {
        int32_t old = b->dead[--b->ndead];
        p->slot[v].position = p->slot[old].position;
        b->resident[old].taken = true;
        return true;
    }
    int64_t need = bytes_of(b, v);
    int64_t at = need < 0 ? -1 : ad_space_take(&b->free, need);
    if (at < 0) {
        p->refused = -1;
        return false;
    }
    p->slot[v].position = at;
    if (at + need > b->bytes) b->bytes = at + need;
    return true;
}

static bool place_value(ad_placer *b, int32_t v, bool pointwise)
{
    const ad_program *p = b->program;
    const int32_t from = b->region->steps[0];
    if (!b->region->holds(p, v)) return true;
    b->resident[v] = (resident){ 0 };
    if (!take_place(b, v, pointwise)) return false;
    if (from + p->slot[v].last >= b->region->steps[1]) return true;
    const int32_t end = p->step[from + p->slot[v].last].end;
    b->resident[v].next = b->ended[end];
    b->ended[end] = v + 1;
    return true;
}

/* Values as large as the results of the group (all have one size) whose last use is at step s:
 * chunk by chunk, the result of this step or a later one of the group may take over their memory.
 * Being as large as the result they have its extent, whatever their shape is; but not where the
 * group reads a part of them by itself. */
static void note_dead(ad_placer *b, int32_t s, int32_t root, int64_t size)
{
    const ad_program *p = b->program;
    if (!b->region->holds(p, root) || p->slot[root].last != s - b->region->steps[0] ||
        ad_row_size(p->ir.inst[root].shape) != size || b->resident[root].dead ||
        b->resident[root].parted == p->step[s].begin + 1)
        return;
    b->resident[root].dead = true;
    b->dead[b->ndead++] = root;
}

static void note_parts(ad_placer *b, int32_t s)
{
    const ad_program *p = b->program;
    const ad_inst *x = &p->ir.inst[p->step[s].value];
    for (int k = 0; k < x->nin; k++) {
        const int32_t root = p->step[s].operand[k].root;
        if (ad_row_size(p->ir.inst[x->in[k]].shape) != ad_row_size(p->ir.inst[root].shape))
            b->resident[root].parted = p->step[s].begin + 1;
    }
}

static bool place_step(ad_placer *b, int32_t s)
{
    const ad_program *p = b->program;
    const ad_step *step = &p->step[s];
    const int32_t v = step->value;
    const int64_t size = ad_row_size(p->ir.inst[v].shape);
    const bool pointwise = ad_ops[p->ir.inst[v].op].kind == AD_POINTWISE;
    if (step->begin == s) {
        b->ndead = 0;
        free_ended(b, s);
    }
    for (int j = 0; step->kind == AD_STEP_OPAQUE && j < p->ir.inst[v].nout; j++)
        if (step->result[j] >= 0 && !place_value(b, step->result[j], false)) return false;
    if (!pointwise) return place_value(b, v, false);
    note_parts(b, s);
    for (int k = 0; k < p->ir.inst[v].nin; k++) note_dead(b, s, step->operand[k].root, size);
    if (!place_value(b, v, true)) return false;
    note_dead(b, s, v, size);
    return true;
}

bool ad_place_values(ad_placer *b, const ad_region *region, int64_t *bytes)
{
    ad_space_empty(&b->free);
    b->region = region;
    b->bytes = *bytes;
    for (int32_t s = region->steps[0]; s <= region->steps[1]; s++) b->ended[s] = 0;
    for (int32_t s = region->steps[0]; s < region->steps[1]; s++)
        if (!place_step(b, s)) return false;
    *bytes = b->bytes;
    return true;
}
