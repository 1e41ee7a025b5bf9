/* Native code: which steps become machine code, for one row of small arrays (native/); several.c
 * has several rows.
 *
 * The steps of a range that follow each other and can be native are a piece, one function. The
 * others are pieces that the interpreter runs, as it runs everything for more rows. Values go from
 * piece to piece by their planned places in memory; what only its own piece reads is never there.
 */
#include "autodiff/plan/pieces.h"
#include <stdlib.h>

void ad_add_piece(ad_piece_list *list, int32_t begin, int32_t end, int code)
{
    ad_piece *before = list->n ? &list->piece[list->n - 1] : NULL;
    if (before && before->code < 0 && code < 0 && before->end == begin && !before->behind)
        before->end = end;
    else list->piece[list->n++] = (ad_piece){ .begin = begin, .end = end, .code = code };
    list->native += code >= 0;
}

static void end_piece(const ad_piece_maker *m, ad_piece_list *list, int32_t begin, int32_t end)
{
    if (begin == end) return;
    for (int32_t s = begin; s < end; s++) {
        const int32_t value = m->program->step[s].value;
        if (m->program->slot[value].place == AD_PLACE_LANES) continue; /* sums stay there */
        if (m->last[value] >= end) ad_native_keep(m->pieces->native, value);
    }
    ad_add_piece(list, begin, end, ad_native_end(m->pieces->native));
}

bool ad_step_can_be_native(const ad_step *s)
{
    return (s->kind == AD_STEP_KERNEL || s->kind == AD_STEP_FILL) && s->paired == 0;
}

static bool make_pieces(const ad_piece_maker *m, const int32_t *range, ad_piece_list *list)
{
    const ad_program *p = m->program;
    const size_t most = (size_t)(range[1] - range[0]) + 1;
    list->piece = ad_pool_alloc(&m->pieces->pool, most * sizeof *list->piece);
    if (!list->piece) return false;
    int32_t begin = range[0];
    for (int32_t s = begin; s < range[1];) {
        const ad_step *step = &p->step[s];
        if (ad_step_can_be_native(step) &&
            ad_native_append(m->pieces->native, step->value, &step->kernel)) {
            s++;
            continue;
        }
        const bool again = begin < s && ad_step_can_be_native(step); /* in a piece of its own */
        end_piece(m, list, begin, s);
        begin = s;
        if (again && ad_native_append(m->pieces->native, step->value, &step->kernel)) {
            s++;
            continue;
        }
        s += 1 + step->paired;
        ad_add_piece(list, begin, s, -1);
        begin = s;
    }
    end_piece(m, list, begin, range[1]);
    return true;
}

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
    return make_pieces(m, phase->parameter_steps, &section[AD_SECTION_PARAMETER]) &&
           make_pieces(m, phase->call_steps, &section[AD_SECTION_CALL]) &&
           make_pieces(m, phase->body_steps, &section[AD_SECTION_BODY]);
}

static bool make_all(const ad_program *p, ad_pieces *pieces, ad_pool *pool, bool several)
{
    const size_t values = (size_t)p->ir.n + 1;
    const ad_piece_maker m = { .program = p,
                               .pieces = pieces,
                               .last = find_last_readers(p, pool),
                               .made = ad_pool_alloc(pool, values * sizeof *m.made),
                               .wanted = ad_pool_alloc(pool, values * sizeof *m.wanted) };
    const ad_native_place *place = list_places(p, pool, several);
    pieces->phase = ad_pool_alloc(&pieces->pool, (size_t)p->nphase * sizeof *pieces->phase);
    const size_t handed = several ? AD_MOST_HANDED / AD_ALIGN + 1 : 1;
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
