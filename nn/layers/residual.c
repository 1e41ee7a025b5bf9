/* Residual blocks. */
#include "autodiff/extension.h"
#include "nn/layers/layer.h"

nn_residual nn_residual_new(nn_model *model, const char *name, int64_t width, int64_t hidden,
                            nn_activation activation, nn_init init)
{
    char text[NN_LAYER_NAME];
    nn_residual block;
    block.norm = nn_layer_norm_new(model, nn_layer_name(text, name, "norm"), AD_SHAPE(width), NULL);
    block.net = nn_mlp_new(model, name, 3, (int64_t[]){ width, hidden, width }, activation, init);
    return block;
}

ad_var nn_residual_apply(const nn_residual *block, ad_var theta, ad_var x)
{
    if (!block) return nn_layer_fail(x, "nn_residual_apply", "the block is NULL");
    return ad_add(x, nn_mlp_apply(&block->net, theta, nn_norm_apply(&block->norm, theta, x)));
}

/* ---- of convolutions ------------------------------------------------------------------------- */

static nn_conv new_conv(nn_model *model, const char *name, const char *part,
                        const nn_conv_residual_options *o, int64_t in, int64_t kernel,
                        int64_t stride)
{
    char text[NN_LAYER_NAME];
    const int64_t pad = kernel / 2;
    const nn_conv_options options = {
        .sweep = { .stride = { stride, stride }, .before = { pad, pad }, .after = { pad, pad } },
        .unbiased = true,
        .init = o->init
    };
    const char *full = nn_layer_name(text, name, part);
    if (o->axes == 1) {
        nn_conv_options line = options;
        line.sweep.stride[1] = line.sweep.before[1] = line.sweep.after[1] = 0;
        return nn_conv1d_new(model, full, in, o->out, kernel, &line);
    }
    return nn_conv2d_new(model, full, in, o->out, kernel, kernel, &options);
}

static nn_norm new_norm(nn_model *model, const char *name, const char *part, int64_t channels,
                        int64_t groups)
{
    char text[NN_LAYER_NAME];
    const int64_t usual = channels < 32 ? channels : 32;
    return nn_group_norm_new(model, nn_layer_name(text, name, part), channels,
                             groups ? groups : usual, NULL);
}

nn_conv_residual nn_conv_residual_new(nn_model *model, const char *name,
                                      const nn_conv_residual_options *o)
{
    nn_conv_residual b = { .norm1 = { .made = false } };
    if (!o) {
        nn_model_fail(model, "nn: '%.60s': the options of a residual block are NULL",
                      name ? name : "");
        return b;
    }
    const int64_t stride = o->stride ? o->stride : 1;
    b.activation = o->activation ? o->activation : ad_relu;
    b.reshapes = o->in != o->out || stride != 1;
    b.norm1 = new_norm(model, name, "norm1", o->in, o->groups);
    b.conv1 = new_conv(model, name, "conv1", o, o->in, 3, stride);
    b.norm2 = new_norm(model, name, "norm2", o->out, o->groups);
    b.conv2 = new_conv(model, name, "conv2", o, o->out, 3, 1);
    if (b.reshapes) b.shortcut = new_conv(model, name, "shortcut", o, o->in, 1, stride);
    return b;
}

ad_var nn_conv_residual_apply(const nn_conv_residual *b, ad_var theta, ad_var x)
{
    if (!b || !b->activation)
        return nn_layer_fail(x, "nn_conv_residual_apply",
                             "the block could not be made; nn_model_error says why");
    ad_var a = b->activation(nn_norm_apply(&b->norm1, theta, x));
    ad_var y = nn_conv_apply(&b->conv1, theta, a);
    y = b->activation(nn_norm_apply(&b->norm2, theta, y));
    y = nn_conv_apply(&b->conv2, theta, y);
    return ad_add(b->reshapes ? nn_conv_apply(&b->shortcut, theta, a) : x, y);
}
