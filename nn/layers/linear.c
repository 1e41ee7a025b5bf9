/* Linear layers and stacks of them. */
#include "nn/layers/layer.h"
#include "autodiff/extension.h"

static nn_linear new_linear(nn_model *model, const char *name, int64_t in, int64_t out,
                            nn_init init, bool biased)
{
    nn_linear layer = { model, in, out, -1, -1 };
    layer.weight = nn_layer_add(model, name, "weight", AD_SHAPE(in, out),
                                init ? init : nn_init_uniform_fan_in, in, out);
    if (biased)
        layer.bias = nn_layer_add(model, name, "bias", AD_SHAPE(out),
                                  init ? nn_init_zeros : nn_init_uniform_fan_in, in, out);
    if (biased && layer.bias < 0) layer.weight = -1;
    return layer;
}

nn_linear nn_linear_new(nn_model *model, const char *name, int64_t in, int64_t out, nn_init init)
{
    return new_linear(model, name, in, out, init, true);
}

nn_linear nn_linear_new_unbiased(nn_model *model, const char *name, int64_t in, int64_t out,
                                 nn_init init)
{
    return new_linear(model, name, in, out, init, false);
}

ad_var nn_linear_rows(const nn_linear *layer, ad_var theta, ad_var x, int64_t n)
{
    bool vector = ad_shape_of(x).rank == 1;
    ad_var y = ad_matmul(vector ? ad_reshape(x, AD_SHAPE(1, n)) : x,
                         nn_layer_array(theta, layer->weight, AD_SHAPE(n, layer->out)));
    if (vector) y = ad_reshape(y, AD_SHAPE(layer->out));
    return layer->bias < 0 ? y
                           : ad_add(y, nn_layer_array(theta, layer->bias, AD_SHAPE(layer->out)));
}

ad_var nn_linear_apply(const nn_linear *layer, ad_var theta, ad_var x)
{
    static const char what[] = "nn_linear_apply";
    if (!nn_layer_check(what, layer ? layer->model : NULL, layer ? layer->weight : -1, theta, x) ||
        !nn_layer_width(what, x, layer->in))
        return nn_layer_none(x);
    return nn_linear_rows(layer, theta, x, layer->in);
}

/* ---- stacks ---------------------------------------------------------------------------------- */

int nn_count_layers(nn_model *model, const char *name, int nsize, const int64_t *sizes)
{
    if (nsize >= 2 && nsize <= NN_MAX_LAYERS + 1 && sizes) return nsize - 1;
    nn_model_fail(model, "nn: '%.60s' needs 2 to %d sizes, from input to output, but got %d",
                  name ? name : "", NN_MAX_LAYERS + 1, sizes ? nsize : 0);
    return 0;
}

nn_mlp nn_mlp_new(nn_model *model, const char *name, int nsize, const int64_t *sizes,
                  nn_activation activation, nn_init init)
{
    nn_mlp mlp = { nn_count_layers(model, name, nsize, sizes),
                   { { NULL, 0, 0, -1, -1 } },
                   activation };
    char text[NN_LAYER_NAME];
    for (int i = 0; i < mlp.nlayer; i++) {
        mlp.layer[i] =
            nn_linear_new(model, nn_layer_number(text, name, i), sizes[i], sizes[i + 1], init);
    }
    return mlp;
}

ad_var nn_mlp_apply(const nn_mlp *mlp, ad_var theta, ad_var x)
{
    if (!mlp || mlp->nlayer < 1)
        return nn_layer_fail(x, "nn_mlp_apply",
                             "the network could not be made; nn_model_error says why");
    for (int i = 0; i < mlp->nlayer; i++) {
        if (i > 0 && mlp->activation) x = mlp->activation(x);
        x = nn_linear_apply(&mlp->layer[i], theta, x);
    }
    return x;
}
