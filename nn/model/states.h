/* Internal to nn/: what fixed arrays become by a training step, as a loss has recorded it. */
#ifndef COSTATE_NN_STATES_H
#define COSTATE_NN_STATES_H
#include "nn/model/model.h"

typedef struct {
    const nn_model *model;
    ad_var theta;
    int64_t offset, size;
    ad_var value; /* [size], without a derivative */
} nn_state;

/* The states that a tape notes. */
typedef struct nn_states nn_states;
/* Has the tape note states from now on; the tape's. NULL when memory is short. */
const nn_states *nn_states_open(ad_tape *tape);
/* Those noted, one a theta and offset; returns how many, or -1 where the tape has lost them, as it
 * keeps only so many objects. */
int64_t nn_states_list(ad_tape *tape, const nn_states *opened, const nn_state **states);
/* Whether the tape notes states: else there is no need to record them. */
bool nn_states_wanted(ad_tape *tape);
/* Notes what a fixed array becomes; a later note takes the place of an earlier one. */
void nn_states_note(const nn_model *model, ad_var theta, int64_t offset, ad_var value);
/* What the array is after the notes so far: where a layer is applied twice, the second time moves
 * on from the first. */
ad_var nn_states_latest(ad_var theta, int64_t offset, ad_shape shape);

#endif
