/* Part of nn.h: residual blocks (He et al. 2016, arXiv:1512.03385 and 1603.05027), which add what
 * they compute of the normalised input to the input. Layers are plain values, as in layers.h. */
#ifndef COSTATE_RESIDUAL_H
#define COSTATE_RESIDUAL_H
#include "convolution.h"
#include "layers.h"
#include "normalisation.h"
#ifdef __cplusplus
extern "C" {
#endif

/* x + W2 activation(W1 norm(x) + b1) + b2 with layer norm. Learned: "<name>.norm.weight" and
 * "<name>.norm.bias" [width], and those of an MLP of sizes width, hidden, width of the name
 * "<name>". init as for nn_mlp_new. On failure the model has the error, and applying the block is
 * an error on the tape. */
typedef struct {
    nn_norm norm;
    nn_mlp net;
} nn_residual;
nn_residual nn_residual_new(nn_model *model, const char *name, int64_t width, int64_t hidden,
                            nn_activation activation, nn_init init);
ad_var nn_residual_apply(const nn_residual *block, ad_var theta, ad_var x); /* [...,width] */

/* a = activation(norm1(x)); x' + conv2(activation(norm2(conv1(a)))), with group norm and
 * convolutions of kernel 3 without biases, padded so that sizes stay; x' is x, or, where stride or
 * channels change, a convolution of a with kernel 1 and the stride. Learned: "<name>.norm1",
 * "<name>.norm2", each with ".weight" and ".bias", "<name>.conv1.weight", "<name>.conv2.weight",
 * and "<name>.shortcut.weight" where there is one. This is the block of the networks that Chen et
 * al. 2018 (arXiv:1806.07366) compare with. */
typedef struct {
    int64_t in, out;          /* channels */
    int64_t stride;           /* of conv1; 0: 1 */
    int64_t groups;           /* of the norms; 0: 32, or as many as there are channels */
    int axes;                 /* 1: signals [rows,L,in]; 0 or 2: images [rows,H,W,in] */
    nn_activation activation; /* NULL: ad_relu */
    nn_init init;             /* of the convolutions */
} nn_conv_residual_options;
typedef struct {
    nn_norm norm1, norm2;
    nn_conv conv1, conv2, shortcut;
    bool reshapes; /* there is a shortcut */
    nn_activation activation;
} nn_conv_residual;
nn_conv_residual nn_conv_residual_new(nn_model *model, const char *name,
                                      const nn_conv_residual_options *options);
/* x [rows,...,in] -> [rows,...,out], sizes divided by the stride and rounded up */
ad_var nn_conv_residual_apply(const nn_conv_residual *block, ad_var theta, ad_var x);

#ifdef __cplusplus
}
#endif
#endif
