/* Part of nn.h: convolutions and pooling of signals [...,L,channels] and images [...,H,W,channels],
 * channels last, with any leading axes (rows). */
#ifndef COSTATE_CONVOLUTION_H
#define COSTATE_CONVOLUTION_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- convolutions ---------------------------------------------------------------------------- */

typedef struct {
    ad_conv_options sweep; /* stride, padding, dilation, groups; transposed: extra too */
    bool unbiased;
    nn_init init; /* as for nn_linear_new */
} nn_conv_options;
/* Weight [kernel...,in/groups,out], or transposed [kernel...,out/groups,in]; bias [out]. */
typedef struct {
    const nn_model *model; /* borrowed: whose theta the layer takes */
    bool transposed;
    int axes;                      /* spatial: 1 or 2 */
    int64_t kernel[2];             /* by spatial axis */
    int64_t in, out, weight, bias; /* channels; offsets in theta; bias -1: none */
    ad_conv_options sweep;
} nn_conv;
/* Parameters "<name>.weight" and "<name>.bias". options NULL: all defaults. On failure the model
 * has the error, and applying the layer is an error on the tape. PyTorch's Conv1d, Conv2d,
 * ConvTranspose1d and ConvTranspose2d, whose output_padding is sweep.extra. */
nn_conv nn_conv1d_new(nn_model *model, const char *name, int64_t in, int64_t out, int64_t kernel,
                      const nn_conv_options *options);
nn_conv nn_conv2d_new(nn_model *model, const char *name, int64_t in, int64_t out, int64_t height,
                      int64_t width, const nn_conv_options *options);
nn_conv nn_conv1d_transpose_new(nn_model *model, const char *name, int64_t in, int64_t out,
                                int64_t kernel, const nn_conv_options *options);
nn_conv nn_conv2d_transpose_new(nn_model *model, const char *name, int64_t in, int64_t out,
                                int64_t height, int64_t width, const nn_conv_options *options);
/* x [...,L,in] -> [...,L',out], or [...,H,W,in] -> [...,H',W',out]; sizes as of ad_conv and
 * ad_conv_transpose. */
ad_var nn_conv_apply(const nn_conv *layer, ad_var theta, ad_var x);

/* ---- pooling --------------------------------------------------------------------------------- */

typedef struct {
    int axes;                    /* spatial: 1, or 2 */
    int64_t size[2], stride[2];  /* stride 0: the size */
    int64_t before[2], after[2]; /* padding; at most half the size */
} nn_pool_options;
/* The largest element of each window, of those that are not padding; equal ones share the
 * derivative. Result sizes (L + before + after - size) / stride + 1, rounded down. */
ad_var nn_max_pool(ad_var x, const nn_pool_options *options);
/* The mean of each window; padding counts as zeros. */
ad_var nn_average_pool(ad_var x, const nn_pool_options *options);
/* To given sizes of 1 or 2 spatial axes, by windows from i n / m (rounded down) to (i + 1) n / m
 * (rounded up), as in PyTorch. Sizes of 1: global pooling. */
ad_var nn_adaptive_max_pool(ad_var x, int axes, const int64_t *sizes);
ad_var nn_adaptive_average_pool(ad_var x, int axes, const int64_t *sizes);

#ifdef __cplusplus
}
#endif
#endif
