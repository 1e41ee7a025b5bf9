/* Internal to run/: the bodies of programs, block by block (body.c) or of one row (row.c). */
#ifndef COSTATE_BODY_H
#define COSTATE_BODY_H
#include "autodiff/run/workspace.h"

/* Runs a body for so many rows, whose inputs are filled block by block where filled is not NULL.
 * Its reductions are finished then, but for those that wait. */
void ad_run_body(ad_workspace *workspace, const ad_phase *phase, int64_t rows,
                 const ad_run_args *filled);
/* The same for one row. */
void ad_run_row(ad_workspace *workspace, const ad_phase *phase);
/* Where native code for one row has what its sums begin with. whole: it is all of the body. */
void ad_run_begin_sums(const ad_workspace *workspace, const ad_phase *phase, bool whole);
/* Adds to the sums that are made in pieces what the rows from `first` on have to add: those of the
 * stretch whose blocks are done. */
void ad_run_sums(ad_workspace *workspace, const ad_phase *phase, int64_t first, int64_t rows);
/* Adds up the lanes of the body's reductions, of those that wait or of the others. */
void ad_run_finish_sums(ad_workspace *workspace, const ad_phase *phase, int64_t rows, bool waiting);

/* Runs a group of steps chunk by chunk, from row to row as its kernels see them: `from` begins a
 * chunk. */
void ad_run_group(const ad_step *begin, const ad_step *end, ad_thread_memory *thread, int64_t from,
                  int64_t to);
/* Runs steps of a body for the block that the thread's pointers point to. */
void ad_run_steps(const ad_program *program, ad_thread_memory *thread, int32_t begin, int32_t end,
                  int64_t rows);
/* Writes the arrays without rows that groups see as large as their results. */
void ad_run_repeat(const ad_phase *phase, ad_thread_memory *thread, int64_t rows);

/* The pieces of a phase's part; NULL: all of it is interpreted. */
static inline const ad_piece_list *ad_pieces_of(const ad_workspace *w, const ad_pieces *pieces,
                                                const ad_phase *phase, ad_section section)
{
    if (!pieces || !pieces->phase) return NULL;
    const ad_piece_list *list = &pieces->phase[phase - w->program->phase][section];
    return list->n ? list : NULL;
}

#endif
