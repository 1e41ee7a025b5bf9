/* Bodies of one row. There is one block and one lane, so the workspace's own pointers serve: they
 * are set when memory is reserved, and only those to the caller's arrays change from run to run. */
#include "autodiff/run/body.h"

/* Sums begin empty, unless they wait for this run. Machine code that is all of the body reads zeros
 * elsewhere: memory that has just been written would make it wait. */
void ad_run_begin_sums(const ad_workspace *w, const ad_phase *phase, bool whole)
{
    static const double zeros[AD_NATIVE_ELEMENTS];
    const ad_program *p = w->program;
    for (int i = 0; i < phase->nsum; i++) {
        const ad_row_sum *sum = &phase->sum[i];
        char **before = &w->base[sum->before];
        *before = w->base[sum->root];
        if (w->waiting_rows && w->waiting[sum->root]) continue;
        if (whole && !sum->max) *before = (char *)(uintptr_t)zeros;
        else
            ad_kernel_identity(&p->step[sum->step].kernel, *before,
                               ad_row_size(p->ir.inst[sum->root].shape));
    }
}

static void run_pieces(ad_workspace *w, const ad_phase *phase, const ad_piece_list *list)
{
    const ad_program *p = w->program;
    if (phase->nrepeat && (!list || list->native < list->n)) ad_run_repeat(phase, &w->row, 1);
    if (!list) ad_run_steps(p, &w->row, phase->body_steps[0], phase->body_steps[1], 1);
    for (int32_t i = 0; list && i < list->n; i++) {
        const ad_piece *piece = &list->piece[i];
        if (piece->code >= 0) piece->call.one(w->base, w->frame);
        else ad_run_steps(p, &w->row, piece->begin, piece->end, 1);
    }
}

void ad_run_row(ad_workspace *w, const ad_phase *phase)
{
    const ad_piece_list *list = ad_pieces_of(w, w->pieces, phase, AD_SECTION_BODY);
    const bool whole = list && list->whole;
    if (phase->nsum) ad_run_begin_sums(w, phase, whole);
    if (whole) list->piece->call.one(w->base, w->frame);
    else run_pieces(w, phase, list);
    if (phase->sum_steps[0] < phase->sum_steps[1]) ad_run_sums(w, phase, 0, 1);
}
