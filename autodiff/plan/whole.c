/* Values without rows: how long they are needed, and where they lie in the memory of a workspace.
 *
 * They give their memory to others once no further step reads them. Steps on whole arrays come one
 * after the other, and those of a body are between them. What outputs deliver is there to the end;
 * so is what parameters alone decide and others read, for runs with the same parameters leave out
 * the steps that make it. A state of an opaque operation may point at what the operation was given:
 * that is there as long as others take the state.
 *
 * What an assembled array is made of is there for some steps more, as long as that is: a loop of
 * native code makes it and what is made from it together.
 *
 * Small values of which there may be native code have memory of their own, which that can write
 * before it has read all that it reads; so have sums that wait for further runs. */
#include "autodiff/plan/places.h"

static bool is_whole(const ad_program *p, int32_t root)
{
    return p->slot[root].root == root && p->slot[root].place == AD_PLACE_UNIFORM;
}

static bool gives_back(const ad_program *p, int32_t root)
{
    const bool large = ad_row_size(p->ir.inst[root].shape) > AD_NATIVE_ELEMENTS;
    return is_whole(p, root) && (large || p->interpreted);
}

static void need_until(ad_program *p, int32_t root, int32_t step)
{
    if (!is_whole(p, root) && p->ir.inst[root].op != AD_OP_opaque) return;
    if (p->slot[root].last < step) p->slot[root].last = step;
}

/* Until when an operand of step s is needed, and what the operands of an assembled array are. */
static int32_t read_until(const ad_program *p, int32_t s)
{
    enum { MORE = 16 };
    const ad_step *step = &p->step[s];
    const ad_inst *x = &p->ir.inst[step->value];
    const int32_t last = p->slot[step->value].last;
    if (step->kind == AD_STEP_OPAQUE) return last;
    const bool looped = !p->interpreted && ad_row_size(x->shape) <= AD_NATIVE_LOOPED;
    if (!looped || x->op != AD_OP_assemble) return s;
    return last < s + MORE ? last : s + MORE;
}

/* From the last step to the first, so that it is known how long a state is used where its operation
 * reads its operands. */
static void find_lifetimes(ad_program *p)
{
    for (int j = 0; j < p->ir.noutput; j++) need_until(p, p->slot[p->ir.output[j]].root, p->nstep);
    for (int32_t s = p->nstep - 1; s >= 0; s--) {
        const ad_step *step = &p->step[s];
        const ad_inst *x = &p->ir.inst[step->value];
        const bool opaque = step->kind == AD_STEP_OPAQUE;
        need_until(p, step->value, s);
        const int32_t until = read_until(p, s);
        if (is_whole(p, step->value)) p->slot[step->value].first = s;
        for (int j = 0; opaque && j < x->nout; j++) {
            if (step->result[j] < 0 || !is_whole(p, step->result[j])) continue;
            p->slot[step->result[j]].first = s;
            need_until(p, step->result[j], until);
        }
        for (int k = 0; k < x->nin; k++) need_until(p, step->operand[k].root, until);
    }
    const int32_t parameter_end = p->phase[0].parameter_steps[1];
    for (int32_t i = 0; i < p->ir.n; i++)
        if (is_whole(p, i) && p->slot[i].first < parameter_end && p->slot[i].last >= parameter_end)
            p->slot[i].last = p->nstep;
}

static bool is_chunk(const ad_program *p, int32_t root)
{
    return p->slot[root].root == root && p->slot[root].place == AD_PLACE_CHUNK &&
           !ad_has_rows(p->ir.inst[root].shape);
}

/* How the arrays of a group's step go from chunk to chunk: what only the group reads has memory for
 * one chunk, on each thread. */
static void chunk_step(ad_program *p, ad_step *s)
{
    ad_slot *slot = &p->slot[s->value];
    s->own = !s->sums && slot->last < s->end;
    if (s->own) {
        s->row_bytes = 0;
        slot->place = AD_PLACE_CHUNK;
        slot->bytes = ad_chunk_bytes(p, s);
    }
    for (int k = 0; k < s->kernel.nin; k++) {
        ad_ref *r = &s->operand[k];
        r->own = is_chunk(p, r->root);
        if (r->own) r->row_bytes = 0;
        const bool given = p->slot[r->root].place == AD_PLACE_INPUT;
        r->far = !r->own && r->row_bytes && (given || p->slot[r->root].first < s->begin);
    }
    s->far = !s->own && !s->sums;
}

static bool place_reused(ad_program *p)
{
    const ad_region whole = { { 0, p->nstep }, 1, gives_back };
    const ad_region chunks = { { 0, p->nstep }, 1, is_chunk };
    ad_pool pool = { 0 };
    ad_placer *placer = ad_placer_new(p, &pool);
    const bool placed = placer && ad_place_values(placer, &whole, &p->uniform_bytes) &&
                        ad_place_values(placer, &chunks, &p->whole_chunk_bytes);
    ad_pool_clear(&pool);
    return placed;
}

static void place_rest(ad_program *p)
{
    for (int32_t i = 0; i < p->ir.n; i++) {
        ad_slot *s = &p->slot[i];
        const bool sum = s->root == i && s->place == AD_PLACE_SUM;
        if (!sum && (!is_whole(p, i) || gives_back(p, i))) continue;
        s->position = p->uniform_bytes;
        p->uniform_bytes = ad_size_add(s->position, ad_size_align(s->bytes));
    }
}

bool ad_plan_whole(ad_program *p)
{
    find_lifetimes(p);
    for (int32_t s = 0; s < p->nstep; s++)
        if (p->step[s].elements && is_whole(p, p->step[s].value)) chunk_step(p, &p->step[s]);
    for (int32_t i = 0; i < p->ir.n; i++) p->slot[i].place = p->slot[p->slot[i].root].place;
    if (!place_reused(p)) return false;
    place_rest(p);
    const int64_t fixed = ad_size_add(p->constant_bytes, p->uniform_bytes);
    if (fixed < 0) p->refused = -1;
    else if (fixed > ad_machine_bytes()) p->refused = fixed;
    return p->refused == 0;
}
