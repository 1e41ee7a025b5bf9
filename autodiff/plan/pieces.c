/* Native code: which steps of a program become machine code (native/), for one row of small arrays
 * (single.c) and for several rows (several.c). */
#include "autodiff/plan/pieces.h"
#include "autodiff/base/caches.h"
#include <stdlib.h>

static const int32_t *find_last_readers(const ad_program *p, ad_pool *pool)
{
    int32_t *last = ad_pool_alloc(pool, ((size_t)p->ir.n + 1) * sizeof *last);
    if (!last) return NULL;
    for (int32_t i = 0; i < p->ir.n; i++) last[i] = -1;
    for (int32_t s = 0; s < p->nstep; s++)
        for (int k = 0; k < p->ir.inst[p->step[s].value].nin; k++)
            last[p->step[s].operand[k].root] = s;
    for (int j = 0; j < p->ir.noutput; j++) last[p->slot[p->ir.output[j]].root] = p->nstep;
    return last;
}

/* Where one row of a root lies among others that come before and after it; nowhere: it has memory
 * of its own. */
static void find_memory(const ad_slot *s, ad_native_place *place)
{
    enum { UNIFORM = 1, BLOCK, CHUNK };
    const int64_t one = (int64_t)1 << 40; /* memories are not so large */
    const int64_t memory = s->place == AD_PLACE_UNIFORM                                ? UNIFORM
                           : s->place == AD_PLACE_BLOCK || s->place == AD_PLACE_OUTPUT ? BLOCK
                           : s->place == AD_PLACE_CHUNK                                ? CHUNK
                                                                                       : 0;
    if (!memory) return;
    place->begin = memory * one + s->position;
    place->end = place->begin + s->bytes;
}

/* several: of several rows nothing is written where a piece reads. */
static const ad_native_place *list_places(const ad_program *p, ad_pool *pool, bool several)
{
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    ad_native_place *place = ad_pool_alloc(pool, ((size_t)p->ir.n + 1) * sizeof *place);
    for (int32_t i = 0; place && i < p->ir.n; i++) {
        const ad_slot *s = &p->slot[i];
        place[i] = (ad_native_place){ .root = s->root,
                                      .offset = s->offset / size,
                                      .adds = true,
                                      .apart = several || s->place == AD_PLACE_UNIFORM ||
                                               s->place == AD_PLACE_COMPLETE };
        if (s->root == i) find_memory(s, &place[i]);
    }
    for (int f = 0; place && f < p->nphase; f++)
        for (int k = 0; k < p->phase[f].nsum; k++)
            place[p->phase[f].sum[k].root].before = p->phase[f].sum[k].before;
    /* A product that is added may have underflowed to -0. */
    for (int32_t i = 0; place && i < p->ir.n; i++)
        if (p->slot[i].place == AD_PLACE_LANES && p->ir.inst[i].op != AD_OP_sum &&
            ad_inst_reduces(&p->ir, &p->ir.inst[i]))
            place[p->slot[i].root].adds = false;
    return place;
}

static bool make_phase(const ad_piece_maker *m, const ad_phase *phase, ad_piece_list *section,
                       bool several)
{
    if (several) return ad_make_several(m, phase, &section[AD_SECTION_BODY]);
    return ad_make_single(m, phase->parameter_steps, &section[AD_SECTION_PARAMETER]) &&
           ad_make_single(m, phase->call_steps, &section[AD_SECTION_CALL]) &&
           ad_make_single(m, phase->body_steps, &section[AD_SECTION_BODY]);
}

/* The most bytes of a block that pieces for several rows hand on: the rest of a level 2 cache is
 * for the others. */
static int64_t most_handed(void)
{
    enum { LEAST = 64 * 1024, MOST = 1024 * 1024 };
    const int64_t part = ad_cache_bytes() / 4;
    return part < LEAST ? LEAST : part > MOST ? MOST : part;
}

static bool make_all(const ad_program *p, ad_pieces *pieces, ad_pool *pool, bool several)
{
    const size_t values = (size_t)p->ir.n + 1;
    const ad_piece_maker m = { .program = p,
                               .pieces = pieces,
                               .most_handed = several ? most_handed() : 0,
                               .last = find_last_readers(p, pool),
                               .made = ad_pool_alloc(pool, values * sizeof *m.made),
                               .wanted = ad_pool_alloc(pool, values * sizeof *m.wanted) };
    const ad_native_place *place = list_places(p, pool, several);
    pieces->phase = ad_pool_alloc(&pieces->pool, (size_t)p->nphase * sizeof *pieces->phase);
    const size_t handed = (size_t)(m.most_handed / AD_ALIGN + 1);
    pieces->handed = ad_pool_alloc(&pieces->pool, handed * sizeof *pieces->handed);
    pieces->native = place ? ad_native_new(&p->ir, place, several) : NULL;
    if (!m.last || !m.made || !m.wanted || !pieces->phase || !pieces->handed || !pieces->native)
        return false;
    for (int f = 0; f < p->nphase; f++)
        if (!make_phase(&m, &p->phase[f], pieces->phase[f], several)) return false;
    pieces->frame = ad_native_frame(pieces->native);
    pieces->lanes = ad_native_lanes(pieces->native);
    return ad_native_seal(pieces->native);
}

static void connect(ad_pieces *pieces, ad_piece_list *list)
{
    if (!list->native) *list = (ad_piece_list){ .n = 0 };
    list->whole = list->n == 1 && list->native == 1;
    for (int32_t i = 0; i < list->n; i++) {
        ad_piece *piece = &list->piece[i];
        if (piece->code >= 0) piece->call = ad_native_piece(pieces->native, piece->code);
    }
}

/* What runs of one row need to look at. */
static void sum_up(const ad_program *p, ad_pieces *pieces)
{
    int more = 0;
    ad_native_run only = NULL;
    pieces->whole = true;
    for (int f = 0; f < p->nphase; f++) {
        const ad_phase *phase = &p->phase[f];
        const int32_t *steps[AD_SECTIONS] = { [AD_SECTION_PARAMETER] = phase->parameter_steps,
                                              [AD_SECTION_CALL] = phase->call_steps,
                                              [AD_SECTION_BODY] = phase->body_steps };
        if (phase->sum_steps[0] < phase->sum_steps[1]) more++;
        for (int k = 0; k < AD_SECTIONS; k++) {
            const ad_piece_list *list = &pieces->phase[f][k];
            if (steps[k][0] == steps[k][1]) continue;
            if (k == AD_SECTION_PARAMETER || !list->whole || only) more++;
            else only = list->piece->call.one;
            if (k == AD_SECTION_BODY && !list->whole) pieces->whole = false;
        }
    }
    pieces->alone = more ? NULL : only;
}

static const ad_pieces none; /* stands for programs without native code */

static const ad_pieces *make(const ad_program *p, bool several)
{
    ad_pieces *pieces = p->interpreted ? NULL : calloc(1, sizeof *pieces);
    if (!pieces) return &none;
    ad_pool pool = { 0 };
    const bool made = make_all(p, pieces, &pool, several);
    ad_pool_clear(&pool);
    if (!made) {
        ad_pieces_free(pieces);
        return &none;
    }
    for (int f = 0; f < p->nphase; f++)
        for (int k = 0; k < AD_SECTIONS; k++) connect(pieces, &pieces->phase[f][k]);
    if (!several) sum_up(p, pieces);
    return pieces;
}

const ad_pieces *ad_program_pieces(const ad_program *program, bool several)
{
    ad_program *p = (ad_program *)program; /* what is made late is the program's all the same */
    const ad_pieces *known = atomic_load_explicit(&p->pieces[several], memory_order_acquire);
    if (known) return known;
    const ad_pieces *made = make(p, several);
    if (atomic_compare_exchange_strong(&p->pieces[several], &known, made)) return made;
    ad_pieces_free(made);
    return known;
}

void ad_pieces_free(const ad_pieces *pieces)
{
    if (!pieces || pieces == &none) return;
    ad_pieces *p = (ad_pieces *)pieces;
    ad_native_free(p->native);
    ad_pool_clear(&p->pool);
    free(p);
}
