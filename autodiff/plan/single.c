/* Native code for one row of small arrays: which steps become machine code.
 *
 * The steps of a range that follow each other and can be native are a piece, one function. The
 * others are pieces that the interpreter runs, as it runs everything for more rows. Values go from
 * piece to piece by their planned places in memory; what only its own piece reads is never there.
 */
#include "autodiff/plan/pieces.h"

void ad_add_piece(ad_piece_list *list, int32_t begin, int32_t end, int code)
{
    ad_piece *before = list->n ? &list->piece[list->n - 1] : NULL;
    if (before && before->code < 0 && code < 0 && before->end == begin && !before->behind)
        before->end = end;
    else list->piece[list->n++] = (ad_piece){ .begin = begin, .end = end, .code = code };
    list->native += code >= 0;
}

bool ad_step_can_be_native(const ad_step *s)
{
    return (s->kind == AD_STEP_KERNEL || s->kind == AD_STEP_FILL) && s->paired == 0 &&
           s->elements == 0;
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

bool ad_make_single(const ad_piece_maker *m, const int32_t *range, ad_piece_list *list)
{
    const size_t most = (size_t)(range[1] - range[0]) + 1;
    list->piece = ad_pool_alloc(&m->pieces->pool, most * sizeof *list->piece);
    if (!list->piece) return false;
    int32_t begin = range[0];
    for (int32_t s = begin; s < range[1];) {
        const ad_step *step = &m->program->step[s];
        const bool can = ad_step_can_be_native(step);
        if (can && ad_native_append(m->pieces->native, step->value, &step->kernel)) {
            s++;
            continue;
        }
        const bool again = can && begin < s; /* in a piece of its own */
        end_piece(m, list, begin, s);
        begin = s;
        if (again) continue;
        s += 1 + step->paired;
        ad_add_piece(list, begin, s, -1);
        begin = s;
    }
    end_piece(m, list, begin, range[1]);
    return true;
}
