/* Bodies of one row. There is one block and one lane, so the workspace's own pointers serve: they
 * are set when memory is reserved, and only those to the caller's arrays change from run to run. */
#include "autodiff/run/body.h"

/* Sums begin empty, unless they wait for this run. */
static void begin_sums(const ad_workspace *w, const ad_phase *phase)
{
    const ad_program *p = w->program;
    const int64_t size = (int64_t)ad_dtype_size(p->ir.dtype);
    for (int i = 0; i < phase->nreduction; i++) {
        const ad_step *s = &p->step[phase->reduction[i]];
        const ad_slot *slot = &p->slot[s->value];
        if (slot->root == s->value && !(w->waiting_rows && w->waiting[slot->root]))
            ad_kernel_identity(&s->kernel, w->base[s->value], slot->bytes / size);
    }
}

void ad_run_row(ad_workspace *w, const ad_phase *phase)
{
    const ad_program *p = w->program;
    const ad_piece_list *list = ad_pieces_of(w, phase, AD_SECTION_BODY);
    begin_sums(w, phase);
    if (phase->nrepeat && (!list || list->native < list->n)) ad_run_repeat(phase, &w->row, 1);
    if (!list) ad_run_steps(p, &w->row, phase->body_steps[0], phase->body_steps[1], 1);
    for (int32_t i = 0; list && i < list->n; i++) {
        const ad_piece *piece = &list->piece[i];
        if (piece->run) piece->run(w->base, w->frame);
        else ad_run_steps(p, &w->row, piece->begin, piece->end, 1);
    }
}
