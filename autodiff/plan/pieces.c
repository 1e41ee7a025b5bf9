/* Native code: which steps become machine code, for one row of small arrays (native/).
 *
 * The steps of a range that follow each other and can be native are a piece, one function. The
 * others are pieces that the interpreter runs, as it runs everything for more rows. Values go from
 * piece to piece by their planned places in memory; what only its own piece reads is never there.
 */
#include "autodiff/plan/program.h"

typedef struct {
    ad_program *program;
    ad_native *native;
    const int32_t *last; /* of every root: the last step that reads it; outputs: their number */
} maker;

/* code: the piece's in native, or -1. What is interpreted joins what is. */
static void add_piece(ad_pieces *list, int32_t begin, int32_t end, int code)
{
    ad_piece *before = list->n ? &list->piece[list->n - 1] : NULL;
    if (before && before->code < 0 && code < 0) before->end = end;
    else list->piece[list->n++] = (ad_piece){ .begin = begin, .end = end, .code = code };
    list->native += code >= 0;
}

static void end_piece(const maker *m, ad_pieces *list, int32_t begin, int32_t end)
{
    if (begin == end) return;
    for (int32_t s = begin; s < end; s++) {
        const int32_t value = m->program->step[s].value;
        if (m->last[value] >= end) ad_native_keep(m->native, value);
    }
    add_piece(list, begin, end, ad_native_end(m->native));
}

/* Steps that one pass of a kernel makes are left to it. */
static bool can_be_native(const ad_step *s)
{
    return (s->kind == AD_STEP_KERNEL || s->kind == AD_STEP_FILL) && s->paired == 0;
}

static bool make_pieces(const maker *m, const int32_t *range, ad_pieces *list)
{
    ad_program *p = m->program;
    list->piece =
        ad_pool_alloc(&p->pool, ((size_t)(range[1] - range[0]) + 1) * sizeof *list->piece);
    if (!list->piece) return false;
    int32_t begin = range[0];
    for (int32_t s = begin; s < range[1];) {
        const ad_step *step = &p->step[s];
        if (can_be_native(step) && ad_native_append(m->native, step->value)) {
            s++;
            continue;
        }
        const bool again = begin < s && can_be_native(step); /* in a piece of its own */
        end_piece(m, list, begin, s);
        begin = s;
        if (again && ad_native_append(m->native, step->value)) {
            s++;
            continue;
        }
        s += 1 + step->paired;
        add_piece(list, begin, s, -1);
        begin = s;
    }
    end_piece(m, list, begin, range[1]);
    return true;
}

static int32_t *find_last_readers(ad_program *p)
{
    int32_t *last = ad_pool_alloc(&p->pool, ((size_t)p->ir.n + 1) * sizeof *last);
    if (!last) return NULL;
    for (int32_t i = 0; i < p->ir.n; i++) last[i] = -1;
    for (int32_t s = 0; s < p->nstep; s++)
        for (int k = 0; k < p->ir.inst[p->step[s].value].nin; k++)
            last[p->step[s].operand[k].root] = s;
    for (int j = 0; j < p->ir.noutput; j++) last[p->slot[p->ir.output[j]].root] = p->nstep;
    return last;
}

static ad_native_place *list_places(ad_program *p)
{
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    ad_native_place *place = ad_pool_alloc(&p->pool, ((size_t)p->ir.n + 1) * sizeof *place);
    for (int32_t i = 0; place && i < p->ir.n; i++) {
        const ad_slot *s = &p->slot[i];
        place[i] = (ad_native_place){ .root = s->root,
                                      .offset = s->offset / size,
                                      .apart = s->place == AD_PLACE_UNIFORM ||
                                               s->place == AD_PLACE_COMPLETE };
    }
    return place;
}

static void use_pieces(ad_program *p, ad_pieces *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        ad_piece *piece = &list->piece[i];
        if (piece->code < 0) continue;
        piece->run = ad_native_piece(p->native, piece->code, &piece->instructions);
    }
}

static ad_pieces *list_of(ad_phase *phase, int part)
{
    ad_pieces *lists[] = { &phase->parameter_pieces, &phase->call_pieces, &phase->body_pieces };
    return lists[part];
}

bool ad_plan_pieces(ad_program *p)
{
    if (p->interpreted || !ad_native_wanted()) return true;
    const int32_t *last = find_last_readers(p);
    const ad_native_place *place = list_places(p);
    p->native = last && place ? ad_native_new(&p->ir, place) : NULL;
    if (!p->native) return false;
    const maker m = { .program = p, .native = p->native, .last = last };
    for (int f = 0; f < p->nphase; f++) {
        ad_phase *phase = &p->phase[f];
        if (!make_pieces(&m, phase->parameter_steps, &phase->parameter_pieces) ||
            !make_pieces(&m, phase->call_steps, &phase->call_pieces) ||
            !make_pieces(&m, phase->body_steps, &phase->body_pieces))
            return false;
    }
    const bool sealed = ad_native_seal(p->native);
    for (int f = 0; f < p->nphase; f++)
        for (int part = 0; part < 3; part++) {
            ad_pieces *list = list_of(&p->phase[f], part);
            if (sealed && list->native) use_pieces(p, list);
            else *list = (ad_pieces){ .n = 0 };
        }
    const int64_t frame = ad_native_frame(p->native);
    if (frame > p->uniform_scratch) p->uniform_scratch = frame;
    if (frame > p->block_scratch) p->block_scratch = frame;
    return true;
}
