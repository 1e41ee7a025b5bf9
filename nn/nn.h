/* costate: neural networks from autodiff operations: parameters in one flat vector, layers as
 * functions, losses, optimisers, data, training.
 *
 * A model is a list of parameter arrays: names, shapes, initialisers. Their numbers are one flat
 * array, theta, an object of its own that knows its model, its dtype and its size. A layer is a
 * name, a slice of theta (offset, sizes, aligned to 64 bytes) and a function from variables to
 * variables. Optimisers, checkpoints and clipping act on the one array. Layers are plain values:
 * copy them freely; they own nothing and borrow their model.
 *
 *     nn_model *model = nn_model_new();
 *     nn_mlp net = nn_mlp_new(model, "net", 3, (int64_t[]){ 2, 64, 1 }, ad_tanh, NULL);
 *     ad_rng rng = ad_rng_seed(1);
 *     nn_theta *theta = nn_theta_new(model, AD_F32, &rng);
 *     ... nn_train(theta, &options, &report, error, sizeof error) ...
 *     nn_theta_free(theta);
 *     nn_model_free(model);
 *
 * Errors of variables stick to their tape (ad_tape_error), as for all operations; models, thetas
 * and optimisers keep their first error likewise; other calls write a message. NULL where an object
 * is due is such an error, never a crash. Threads: a model that is built may be read by many;
 * everything else belongs to one thread at a time. */
#ifndef COSTATE_NN_H
#define COSTATE_NN_H
#include "activations.h"
#include "attention.h"
#include "convolution.h"
#include "data.h"
#include "dropout.h"
#include "files.h"
#include "fit.h"
#include "layers.h"
#include "losses.h"
#include "model.h"
#include "normalisation.h"
#include "optimizers.h"
#include "parallel.h"
#include "residual.h"
#include "train.h"
#endif
