/* Part of nn.h: normalisation, channels last: arrays [rows,...,channels] of any rank. Layers are
 * plain values, as in layers.h; a model that is built may be read by many threads. */
#ifndef COSTATE_NORMALISATION_H
#define COSTATE_NORMALISATION_H
#include "layers.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double epsilon;  /* is added to variances; default 1e-5 */
    bool unscaled;   /* neither scale nor offset is learned */
    bool unbiased;   /* no offset is learned */
    double momentum; /* of running statistics, in (0,1]; default 0.1 */
} nn_norm_options;

/* ---- each row by itself ---------------------------------------------------------------------- */

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias, with mean and variance (divided by
 * their number) over certain axes of each row:
 * - Layer norm (Ba et al. 2016, arXiv:1607.06450): over the last axes, which have the sizes
 *   `shape`; weight and bias have this shape.
 * - Group norm (Wu & He 2018, arXiv:1803.08494): over all axes but rows and channels, and over the
 *   channels of one of so many groups, which divide the channels; weight and bias [channels].
 * - Instance norm (Ulyanov et al. 2016, arXiv:1607.08022): group norm with one channel a group.
 *   (PyTorch learns no scale and offset then: options.unscaled.)
 * An x without rows is one sample. Learned: "<name>.weight", from 1, and "<name>.bias", from 0. As
 * PyTorch's LayerNorm, GroupNorm and InstanceNorm. options NULL: all defaults. On failure the model
 * has the error, and applying the layer is an error on the tape; the same for all layers here. */
typedef struct {
    const nn_model *model; /* borrowed: whose theta the layer takes */
    bool made;
    ad_shape shape; /* of weight and bias */
    int64_t groups; /* 0: layer norm */
    double epsilon;
    int64_t weight, bias; /* offsets in theta; -1: none */
} nn_norm;
nn_norm nn_layer_norm_new(nn_model *model, const char *name, ad_shape shape,
                          const nn_norm_options *options);
nn_norm nn_group_norm_new(nn_model *model, const char *name, int64_t channels, int64_t groups,
                          const nn_norm_options *options);
nn_norm nn_instance_norm_new(nn_model *model, const char *name, int64_t channels,
                             const nn_norm_options *options);
/* x -> y of the same shape. Statistics of a single value, whose result would be 0 whatever x is,
 * are an error. */
ad_var nn_norm_apply(const nn_norm *layer, ad_var theta, ad_var x);

/* ---- over the batch -------------------------------------------------------------------------- */

/* Batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167): the same formula with mean and variance of
 * each channel over all rows and all other axes. In training they are those of the batch, so that a
 * row's result depends on the others'; afterwards they are running statistics, arrays of the model
 * that are not trained, but move along with each step of nn_train: "<name>.running_mean", from 0,
 * and "<name>.running_var", from 1, [channels]. Learned: "<name>.weight", from 1, and
 * "<name>.bias", from 0, [channels]. PyTorch's BatchNorm1d and BatchNorm2d. */
typedef struct {
    const nn_model *model; /* borrowed */
    int64_t channels;
    double epsilon, momentum;
    int64_t weight, bias;   /* offsets in theta; -1: none */
    int64_t mean, variance; /* offsets; mean -1: the layer could not be made */
} nn_batch_norm;
nn_batch_norm nn_batch_norm_new(nn_model *model, const char *name, int64_t channels,
                                const nn_norm_options *options);
/* For training: by the statistics of x [rows,...,channels]. A channel of one value alone is an
 * error, of the run where the number of rows decides. In a loss of nn_train the running statistics
 * become what nn_batch_norm_measure gives (by nn_model_update, with its limits). */
ad_var nn_batch_norm_train(const nn_batch_norm *layer, ad_var theta, ad_var x);
/* For evaluation: by the running statistics; each row by itself. */
ad_var nn_batch_norm_apply(const nn_batch_norm *layer, ad_var theta, ad_var x);
/* What the running statistics become after a batch, [2,channels], the means first: (1 - momentum)
 * running + momentum (of x), where the variance of x is divided by its number less one. For loops
 * of one's own, which hand the numbers to nn_batch_norm_set. With momentum 1 they are those of x
 * alone: of a large batch, once after the training, these are the better statistics (Wu & Johnson
 * 2021, arXiv:2105.07576). Without a derivative. */
ad_var nn_batch_norm_measure(const nn_batch_norm *layer, ad_var theta, ad_var x);
/* Puts the 2 * channels numbers into theta, whatever its dtype. 0, or -1 with theta's error set:
 * another model's theta, numbers that are not finite, a negative variance (nothing is changed
 * then). */
int nn_batch_norm_set(const nn_batch_norm *layer, nn_theta *theta, const double *statistics);

/* ---- of weights ------------------------------------------------------------------------------ */

/* An upper bound of the largest singular value of w [...,in,out], seen as a matrix with `out`
 * columns, as a scalar: the Schatten norm (sum of s^2p)^(1/2p) of the singular values s, with p =
 * 2^squarings. It is too large by a factor of at most n^(1/2p), n being the smaller side of the
 * matrix: 1.0081 for n = 64 and the default of 8 squarings (squarings 0), half as far from 1 with
 * each more. It is a smooth function of w without a state and without a power iteration's lag, so
 * derivatives of all orders are exact; it costs that many products of n by n matrices, once a call.
 * Of w = 0 it is 1e-18. */
ad_var nn_spectral_bound(ad_var w, int squarings);
/* w divided by its bound: x -> x w does not make distances larger (spectral normalisation, Miyato
 * et al. 2018, arXiv:1802.05957, who estimate the norm by a power iteration). */
ad_var nn_spectral_normalised(ad_var w, int squarings);
/* A linear layer with such weights: x [...,in] -> [...,out]. Nothing more is learned. */
ad_var nn_linear_spectral_apply(const nn_linear *layer, ad_var theta, int squarings, ad_var x);

#ifdef __cplusplus
}
#endif
#endif
