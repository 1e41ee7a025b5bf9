/* Activations, composed of operations. */
#include "nn/activations.h"
#include "autodiff/extension.h"
#include "nn/layers/layer.h"

/* x where it is positive, else y */
static ad_var positive_or(ad_var x, ad_var y)
{
    if (!ad_valid(x)) return y;
    return ad_select(ad_gt(x, ad_scalar(x.tape, 0)), x, y);
}

/* x, where it is far below zero a number that is not infinite: there the other factor is 0. */
static ad_var bounded(ad_var x, double lowest)
{
    return ad_valid(x) ? ad_max(x, ad_scalar(x.tape, lowest)) : ad_neg(x);
}

static ad_var within(ad_var x, double lo, double hi)
{
    if (!ad_valid(x)) return ad_neg(x); /* says why */
    return ad_clamp(x, ad_scalar(x.tape, lo), ad_scalar(x.tape, hi));
}

ad_var nn_elu_of(ad_var x, double alpha) { return positive_or(x, ad_scale(ad_expm1(x), alpha)); }
ad_var nn_elu(ad_var x) { return nn_elu_of(x, 1); }

ad_var nn_selu(ad_var x)
{
    return ad_scale(nn_elu_of(x, 1.6732632423543772848), 1.0507009873554804934);
}

/* (1 + tanh z) / 2 is sigmoid(2 z), which does not cancel. */
ad_var nn_gelu_tanh(ad_var x)
{
    const double slope = 1.5957691216057307117; /* 2 sqrt(2 / pi) */
    ad_var y = bounded(x, -40);
    ad_var z = ad_mul(y, ad_shift(ad_scale(ad_square(y), 0.044715 * slope), slope));
    return ad_mul(y, ad_sigmoid(z));
}

ad_var nn_mish(ad_var x)
{
    ad_var y = bounded(x, -800);
    return ad_mul(y, ad_tanh(ad_softplus(y)));
}

ad_var nn_leaky_relu_of(ad_var x, double slope) { return positive_or(x, ad_scale(x, slope)); }
ad_var nn_leaky_relu(ad_var x) { return nn_leaky_relu_of(x, 0.01); }
ad_var nn_relu6(ad_var x) { return within(x, 0, 6); }
ad_var nn_hardtanh(ad_var x) { return within(x, -1, 1); }
ad_var nn_hardsigmoid(ad_var x) { return ad_scale(within(ad_shift(x, 3), 0, 6), 1.0 / 6); }
ad_var nn_hardswish(ad_var x) { return ad_mul(bounded(x, -4), nn_hardsigmoid(x)); }
ad_var nn_softsign(ad_var x) { return ad_div(x, ad_shift(ad_abs(x), 1)); }
ad_var nn_logsigmoid(ad_var x) { return ad_neg(ad_softplus(ad_neg(x))); }

/* ---- along the last axis --------------------------------------------------------------------- */

/* The largest element takes part in the derivatives although it cancels: they are then in
 * differences from its own, so that those of the dominant term do not cancel. */
ad_var nn_softmax(ad_var x)
{
    ad_var e = ad_exp(ad_sub(x, ad_reduce_max(x, 1, (int[]){ -1 }, true)));
    return ad_div(e, ad_sum_axis(e, -1, true));
}

ad_var nn_log_softmax(ad_var x) { return ad_sub(x, ad_logsumexp(x, 1, (int[]){ -1 }, true)); }

ad_var nn_glu(ad_var x)
{
    ad_var half[2];
    ad_split(x, -1, 2, NULL, half);
    return ad_mul(half[0], ad_sigmoid(half[1]));
}

/* ---- with a parameter ------------------------------------------------------------------------ */

static void quarter(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out)
{
    (void)rng, (void)fan_in, (void)fan_out;
    for (int64_t i = 0; i < n; i++) out[i] = 0.25;
}

nn_prelu nn_prelu_new(nn_model *model, const char *name, int64_t channels)
{
    nn_prelu layer = { model, channels, -1 };
    layer.weight = nn_layer_add(model, name, "weight", AD_SHAPE(channels), quarter, 1, 1);
    return layer;
}

ad_var nn_prelu_apply(const nn_prelu *layer, ad_var theta, ad_var x)
{
    static const char what[] = "nn_prelu_apply";
    if (!nn_layer_check(what, layer ? layer->model : NULL, layer ? layer->weight : -1, theta, x) ||
        (layer->channels > 1 && !nn_layer_width(what, x, layer->channels)))
        return nn_layer_none(x);
    ad_var slope = nn_layer_array(theta, layer->weight, AD_SHAPE(layer->channels));
    return positive_or(x, ad_mul(x, ad_shape_of(x).rank ? slope : ad_reshape(slope, AD_SCALAR)));
}
