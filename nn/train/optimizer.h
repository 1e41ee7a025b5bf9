/* Internal to nn/: what training asks an optimiser. */
#ifndef COSTATE_NN_OPTIMIZER_H
#define COSTATE_NN_OPTIMIZER_H
#include "nn/nn.h"

/* Whether any of the options is not zero. */
bool nn_optimizer_given(const nn_optimizer_options *options);
/* For how many updates the state was made. */
int64_t nn_optimizer_planned(const nn_optimizer_state *state);

#endif
