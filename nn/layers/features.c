/* Features of times: sines and cosines of given frequencies. */
#include "autodiff/extension.h"
#include "nn/layers/layer.h"
#include <stdlib.h>

ad_var nn_positions(ad_tape *tape, int64_t T)
{
    if (!tape) return (ad_var){ 0 };
    if (T < 1) {
        ad_fail(tape, "nn_positions: a sequence of %lld places", (long long)T);
        return ad_none(tape);
    }
    return ad_reshape(nn_layer_range(tape, T), AD_SHAPE(T, 1));
}

ad_var nn_sinusoidal(ad_var t, int64_t width, double period)
{
    static const char what[] = "nn_sinusoidal";
    if (!nn_layer_valid(what, "t", t, t.tape) || !nn_layer_width(what, t, 1))
        return nn_layer_none(t);
    const double longest = period == 0 ? 10000 : period;
    if (width < 2 || width % 2 || !(longest > 0)) {
        ad_fail(t.tape,
                "%s: the width must be even and positive, the period positive, but "
                "are %lld "
                "and %g",
                what, (long long)width, nn_shown(longest));
        return ad_none(t.tape);
    }
    double *frequency = malloc((size_t)width / 2 * sizeof *frequency);
    if (!frequency) return nn_layer_fail(t, what, "out of memory");
    for (int64_t i = 0; i < width / 2; i++)
        frequency[i] = pow(longest, -(double)(2 * i) / (double)width);
    ad_var angle = ad_mul(t, ad_constant(t.tape, AD_SHAPE(width / 2), frequency));
    free(frequency);
    ad_shape shape = ad_shape_of(t);
    ad_var turns = ad_stack(2, (ad_var[]){ ad_sin(angle), ad_cos(angle) }, shape.rank);
    shape.dim[shape.rank - 1] = width;
    return ad_reshape(turns, shape);
}

nn_fourier nn_fourier_new(nn_model *model, const char *name, int64_t in, int64_t count, double sd)
{
    nn_fourier layer = { model, in, count, -1, sd };
    if (!(sd > 0 && isfinite(sd)))
        nn_model_fail(model, "nn: '%.60s': the sd of frequencies must be positive, but is %g",
                      name ? name : "", nn_shown(sd));
    layer.frequencies =
        nn_layer_add_fixed(model, name, "frequencies", AD_SHAPE(in, count), nn_init_normal);
    return layer;
}

ad_var nn_fourier_apply(const nn_fourier *layer, ad_var theta, ad_var x)
{
    static const char what[] = "nn_fourier_apply";
    if (!nn_layer_check(what, layer ? layer->model : NULL, layer ? layer->frequencies : -1, theta,
                        x) ||
        !nn_layer_width(what, x, layer->in))
        return nn_layer_none(x);
    const double turn = 6.28318530717958647693 * layer->sd;
    const ad_shape shape = ad_shape_of(x);
    ad_var b = nn_layer_fixed(theta, layer->frequencies, AD_SHAPE(layer->in, layer->count));
    ad_var row = shape.rank == 1 ? ad_reshape(x, AD_SHAPE(1, layer->in)) : x;
    ad_var angle = ad_matmul(row, ad_scale(b, turn));
    ad_var both = ad_concatenate(2, (ad_var[]){ ad_cos(angle), ad_sin(angle) }, -1);
    return shape.rank == 1 ? ad_reshape(both, AD_SHAPE(2 * layer->count)) : both;
}
