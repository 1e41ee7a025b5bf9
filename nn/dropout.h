/* Part of nn.h: dropout (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html), by masks
 * that are numbered. */
#ifndef COSTATE_DROPOUT_H
#define COSTATE_DROPOUT_H
#include "../autodiff/autodiff.h"
#ifdef __cplusplus
extern "C" {
#endif

/* A mask of the shape, which may have rows: each element is 0 with probability p, else 1/(1-p), so
 * that its mean is 1; p in [0,1), rounded to a multiple of 2^-32. Multiply by it. With sizes of 1
 * it leaves out whole channels: [rows,1,C] for signals [rows,L,C].
 *
 * Which elements are 0 is a function of seed, draw, row and element, and of nothing else: the same
 * on every machine and on any number of threads. Layers of one network have seeds of their own.
 * draw: whole numbers from 0 on (below 2^53, in f32 below 2^24), read at every run, without a
 * derivative; another number makes another mask:
 *   [] or [1]   one number for all rows, the training step for instance
 *   [rows,1]    each row its own, of which alone its mask is a function, not of the row's place in
 *               the batch
 *   {0}         evaluation: the mask is 1
 * A number that is none of these is an error of the run.
 *
 * In a solve the mask must be the same for all evaluations: make it outside of the field and hand
 * it over as one of the solve's arguments. Random numbers are those of ad_random_words. */
ad_var nn_dropout_mask(ad_tape *tape, ad_shape shape, double p, uint64_t seed, ad_var draw);
/* x times a mask of its shape. */
ad_var nn_dropout(ad_var x, double p, uint64_t seed, ad_var draw);

#ifdef __cplusplus
}
#endif
#endif
