/* Internal to plan/: native code under construction. */
#ifndef COSTATE_PIECES_H
#define COSTATE_PIECES_H
#include "autodiff/plan/program.h"

typedef struct {
    const ad_program *program;
    ad_pieces *pieces;
    const int32_t *last; /* of every root: the last step that reads it; outputs: their number */
    /* For several rows, by value: the piece that makes it, + 1, 0: the interpreter; and the latest
     * piece behind which a sum of it comes, + 1. */
    int32_t *made, *wanted;
    int64_t most_handed; /* bytes of what such pieces may hand on */
} ad_piece_maker;

/* Steps from begin to end are a piece. code: its number in native, or -1. What is interpreted joins
 * what is. */
void ad_add_piece(ad_piece_list *list, int32_t begin, int32_t end, int code);
/* Steps that one pass of a kernel makes are left to it. */
bool ad_step_can_be_native(const ad_step *step);
/* The pieces of a range of steps for one row. false: memory is short. */
bool ad_make_single(const ad_piece_maker *maker, const int32_t *range, ad_piece_list *list);
/* The pieces of a body for several rows at a time. false: memory is short. */
bool ad_make_several(const ad_piece_maker *maker, const ad_phase *phase, ad_piece_list *list);

#endif
