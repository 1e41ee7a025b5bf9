/* Checks of plans, for debug builds and tests. */
#include "autodiff/plan/program.h"
#include <stdlib.h>

/* The first step of the group of a body's step, counted as in slots. */
static int32_t group_begin(const ad_program *p, const ad_phase *phase, int32_t step)
{
    return p->step[phase->body_steps[0] + step].begin - phase->body_steps[0];
}

/* How far apart the values are with which value i of a list is compared: with all before it, or of
 * very many with a sample. */
static int verify_stride(int i)
{
    enum { COMPARED = 256 };
    return i / COMPARED + 1;
}

/* Values of so many rows that are in one memory at the same time must not overlap, but for a
 * pointwise result that takes over what dies in its group. A group's steps are at the same time;
 * lifetimes count from step `from`. */
static const char *verify_places(const ad_program *p, const int32_t *list, int n, int32_t from,
                                 int64_t rows, int64_t bytes, int32_t *where)
{
    for (int i = 0; i < n; i++) {
        const ad_slot *a = &p->slot[list[i]];
        *where = list[i];
        if (a->position < 0 || a->position % AD_ALIGN || a->position + a->bytes * rows > bytes)
            return "memory: out of range";
        for (int k = i - 1; k >= 0; k -= verify_stride(i)) {
            const ad_slot *b = &p->slot[list[k]];
            bool apart = a->position + a->bytes * rows <= b->position ||
                         b->position + b->bytes * rows <= a->position;
            bool takes_over = a->position == b->position && a->bytes == b->bytes &&
                              (b->last <= a->first || a->last <= b->first);
            if (!apart && !takes_over && p->step[from + a->first].begin <= from + b->last &&
                p->step[from + b->first].begin <= from + a->last)
                return "memory: live values overlap";
        }
    }
    return NULL;
}

/* Of values without rows: those that have memory as a whole, or for chunks. */
static const char *verify_whole(const ad_program *p, ad_place place, int64_t bytes, int32_t *where)
{
    int32_t *list = calloc((size_t)p->ir.n + 1, sizeof *list);
    const char *wrong = list ? NULL : "out of memory";
    int n = 0;
    for (int32_t i = 0; i < p->ir.n && !wrong; i++) {
        const ad_slot *slot = &p->slot[i];
        if (slot->root != i || slot->place != place || ad_has_rows(p->ir.inst[i].shape)) continue;
        list[n++] = *where = i;
        if (place == AD_PLACE_CHUNK && slot->last >= p->step[slot->first].end)
            wrong = "memory: a chunk is used outside of its group";
    }
    if (!wrong) wrong = verify_places(p, list, n, 0, 1, bytes, where);
    free(list);
    return wrong;
}

/* Values in chunk memory belong to one group, and do not share memory while they are in use. */
static const char *verify_chunks(const ad_program *p, const ad_phase *phase, int32_t *where)
{
    for (int i = 0; i < phase->nchunk; i++) {
        const ad_slot *a = &p->slot[phase->chunk[i]];
        int64_t begin = group_begin(p, phase, a->first),
                bytes = ad_chunk_bytes(p, &p->step[phase->body_steps[0] + a->first]);
        *where = phase->chunk[i];
        if (a->position < 0 || a->position % AD_ALIGN || a->position + bytes > p->chunk_bytes)
            return "chunk: out of range";
        if (group_begin(p, phase, a->last) != begin) return "chunk: used outside of the group";
        for (int k = i - 1; k >= 0; k -= verify_stride(i)) {
            const ad_slot *b = &p->slot[phase->chunk[k]];
            const bool apart =
                a->position + bytes <= b->position || b->position + bytes <= a->position;
            if (!apart && group_begin(p, phase, b->first) == begin && b->last > a->first)
                return "chunk: live values overlap";
        }
    }
    return NULL;
}

/* Checks value i, which is in lanes, and counts the reductions that it is the sum of: parts[i]. */
static const char *verify_lanes(const ad_program *p, int32_t i, int32_t *parts)
{
    const ad_inst *x = &p->ir.inst[i];
    int32_t root = p->slot[i].root;
    if (ad_inst_reduces(&p->ir, x)) {
        const ad_inst *r = &p->ir.inst[root];
        parts[i] = 1;
        if (root == i) return NULL;
        if (p->slot[root].root != root || !ad_inst_reduces(&p->ir, r))
            return "lanes: no reduction's";
        if (ad_has_trait(x->op, AD_MAXIMUM) || ad_has_trait(r->op, AD_MAXIMUM))
            return "lanes: a maximum is no sum";
        if (p->slot[i].phase != p->slot[root].phase ||
            ad_row_size(x->shape) != ad_row_size(r->shape))
            return "lanes: shared by reductions of different phases or sizes";
        return NULL;
    }
    for (int k = 0; k < x->nin; k++) {
        if (p->slot[x->in[k]].root != root) return "lanes: hold a sum, but not all of its parts";
        parts[i] += parts[x->in[k]];
    }
    return (x->op == AD_OP_add && x->nin == 2) || x->nin == 1 ? NULL
                                                              : "lanes: neither a sum nor a view";
}

/* Whether a value may be read by another one, or by the caller (-1): lanes that are shared hold the
 * sum of all that is accumulated in them, so that a part of it is there for nobody but, once, for
 * the sum. */
static bool readable(const ad_program *p, int32_t i, int32_t reader, const int32_t *parts,
                     const int32_t *total)
{
    int32_t root = p->slot[i].root;
    if (parts[i] == total[root]) return true;
    return reader >= 0 && p->slot[reader].root == root && p->ir.inst[i].uses == 1;
}

static const char *verify_sums(const ad_program *p, int32_t *where, int32_t *parts, int32_t *total)
{
    for (int32_t i = 0; i < p->ir.n; i++) {
        int32_t root = p->slot[i].root;
        if (!ad_inst_reduces(&p->ir, &p->ir.inst[i]) && !ad_inst_reduces(&p->ir, &p->ir.inst[root]))
            continue;
        const char *wrong = verify_lanes(p, *where = i, parts);
        if (wrong) return wrong;
        total[root] += ad_inst_reduces(&p->ir, &p->ir.inst[i]);
    }
    for (int32_t i = 0; i < p->ir.n; i++)
        for (int k = 0; k < p->ir.inst[i].nin; k++)
            if (!readable(p, *where = p->ir.inst[i].in[k], i, parts, total))
                return "lanes: a part of a sum is read";
    for (int j = 0; j < p->ir.noutput; j++)
        if (!readable(p, *where = p->ir.output[j], -1, parts, total))
            return "lanes: a part of a sum is read";
    return NULL;
}

static const char *verify_step(const ad_program *p, int phase, bool body, const ad_step *s)
{
    const ad_inst *x = &p->ir.inst[s->value];
    for (int k = 0; k < x->nin; k++) {
        int32_t in = x->in[k], root = p->slot[in].root;
        const ad_slot *r = &p->slot[root];
        bool rows = ad_has_rows(p->ir.inst[in].shape),
             reduced = ad_inst_reduces(&p->ir, &p->ir.inst[root]);
        if (p->slot[in].phase > phase) return "operand is computed in a later phase";
        if (reduced && p->slot[root].phase >= phase)
            return "reduction is used before it is finished";
        if (rows && !body && r->place != AD_PLACE_INPUT && r->place != AD_PLACE_COMPLETE)
            return "whole-array operation reads an operand that is not complete";
        if (rows && body && r->phase != phase && r->place != AD_PLACE_INPUT &&
            r->place != AD_PLACE_COMPLETE)
            return "body reads another body's block memory";
    }
    return NULL;
}

static bool outlasts_block(const ad_program *p, int32_t root)
{
    const ad_place place = p->slot[root].place;
    return place == AD_PLACE_INPUT || place == AD_PLACE_COMPLETE || place == AD_PLACE_STRETCH;
}

const char *ad_verify_plan(const ad_program *p, int32_t *where)
{
    int32_t *parts = calloc(2 * (size_t)p->ir.n + 1, sizeof *parts);
    const char *early = parts ? verify_sums(p, where, parts, parts + p->ir.n) : "out of memory";
    free(parts);
    if (!early) early = verify_whole(p, AD_PLACE_UNIFORM, p->uniform_bytes, where);
    if (!early) early = verify_whole(p, AD_PLACE_CHUNK, p->whole_chunk_bytes, where);
    if (early) return early;
    for (int f = 0; f < p->nphase; f++) {
        const ad_phase *phase = &p->phase[f];
        const char *wrong = verify_places(p, phase->block, phase->nblock, phase->body_steps[0],
                                          p->block_rows, p->block_bytes, where);
        if (!wrong) wrong = verify_chunks(p, phase, where);
        if (wrong) return wrong;
        const int32_t *ranges[4] = { phase->parameter_steps, phase->call_steps, phase->body_steps,
                                     phase->sum_steps };
        for (int r = 0; r < 4; r++)
            for (int32_t i = ranges[r][0]; i < ranges[r][1]; i++) {
                *where = p->step[i].value;
                wrong = verify_step(p, f, r >= 2, &p->step[i]);
                for (int k = 0; r == 3 && k < 2 && !wrong; k++)
                    if (!outlasts_block(p, p->step[i].operand[k].root))
                        wrong = "sum of a stretch reads block memory";
                if (wrong) return wrong;
            }
    }
    return NULL;
}
