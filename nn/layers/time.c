/* Linear layers that depend on the time, and stacks of them. */
#include "nn/layers/layer.h"
#include "autodiff/extension.h"

static const char called[] = "nn_time_linear_apply";

/* ---- time ------------------------------------------------------------------------------------ */

nn_time_linear nn_time_linear_new(nn_model *model, const char *name, nn_time_kind kind, int64_t in,
                                  int64_t out, nn_init init)
{
    const nn_linear none = { NULL, 0, 0, -1, -1 };
    nn_time_linear layer = { kind, none, none, none };
    char gate[NN_LAYER_NAME], shift[NN_LAYER_NAME];
    if (kind == NN_CONCAT) {
        int64_t with_time = in < INT64_MAX ? in + 1 : in; /* that many is refused */
        layer.linear = nn_linear_new(model, name, with_time, out, init);
        return layer;
    }
    layer.linear = nn_linear_new(model, name, in, out, init);
    const char *shift_name = nn_layer_name(shift, name, "shift");
    if (kind == NN_HYPER) {
        layer.shift = nn_linear_new(model, shift_name, in, out, init);
    } else {
        layer.gate = nn_linear_new(model, nn_layer_name(gate, name, "gate"), 1, out, init);
        layer.shift = nn_linear_new_unbiased(model, shift_name, 1, out, init);
    }
    if (layer.shift.weight < 0) layer.linear.weight = -1;
    return layer;
}

/* t times the layer's single row of weights: [out], [1,out] or [rows,out], as t has it. */
static ad_var times_row(ad_var theta, ad_var t, int64_t offset, int64_t out)
{
    return ad_mul(t, nn_layer_array(theta, offset, AD_SHAPE(out)));
}

/* A field's time: sizes 1 (a scalar too), or a row axis and sizes 1. */
static bool check_time(ad_var t, ad_var x)
{
    if (!nn_layer_valid(called, "t", t, x.tape)) return false;
    ad_shape shape = ad_shape_of(t);
    bool good = shape.rank <= ad_shape_of(x).rank;
    for (int i = 0; i < shape.rank; i++)
        good = good && (shape.dim[i] == 1 || (i == 0 && shape.dim[i] == AD_ROWS && shape.rank > 1));
    if (good) return true;
    char text[128];
    ad_format_shape(shape, text, sizeof text);
    ad_fail(x.tape, "%s: t is %s; it must have sizes 1, or [rows,1]", called, text);
    return false;
}

/* x (W + t V) + b + t c. Of a t without rows, weights are added up once a call; otherwise x goes
 * through both layers. */
static ad_var hyper(const nn_time_linear *layer, ad_var theta, ad_var t, ad_var x)
{
    const nn_linear *base = &layer->linear, *slope = &layer->shift;
    if (ad_has_rows(ad_shape_of(t))) {
        return ad_add(nn_linear_rows(base, theta, x, base->in),
                      ad_mul(t, nn_linear_rows(slope, theta, x, slope->in)));
    }
    const int64_t in = base->in, out = base->out;
    const bool vector = ad_shape_of(x).rank == 1;
    ad_var one = ad_reshape(t, AD_SHAPE(1)),
           weight = ad_add(nn_layer_array(theta, base->weight, AD_SHAPE(in, out)),
                           ad_mul(one, nn_layer_array(theta, slope->weight, AD_SHAPE(in, out)))),
           bias = ad_add(nn_layer_array(theta, base->bias, AD_SHAPE(out)),
                         ad_mul(one, nn_layer_array(theta, slope->bias, AD_SHAPE(out)))),
           y = ad_matmul(vector ? ad_reshape(x, AD_SHAPE(1, in)) : x, weight);
    return ad_add(vector ? ad_reshape(y, AD_SHAPE(out)) : y, bias);
}

ad_var nn_time_linear_apply(const nn_time_linear *layer, ad_var theta, ad_var t, ad_var x)
{
    const nn_linear *linear = layer ? &layer->linear : NULL;
    const int64_t in = linear ? linear->in - (layer->kind == NN_CONCAT) : 0;
    if (!nn_layer_check(called, linear ? linear->model : NULL, linear ? linear->weight : -1, theta,
                        x) ||
        !nn_layer_width(called, x, in) || !check_time(t, x))
        return nn_layer_none(x);
    if (layer->kind == NN_HYPER) return hyper(layer, theta, t, x);
    const int64_t out = linear->out;
    ad_var y = nn_linear_rows(linear, theta, x, in);
    /* The last row of the weights is that of t. Adding t w instead of concatenating keeps t out of
     * the product over rows. */
    if (layer->kind == NN_CONCAT)
        return ad_add(y, times_row(theta, t, linear->weight + in * out, out));
    ad_var gate = ad_add(times_row(theta, t, layer->gate.weight, out),
                         nn_layer_array(theta, layer->gate.bias, AD_SHAPE(out)));
    return ad_add(ad_mul(y, ad_sigmoid(gate)), times_row(theta, t, layer->shift.weight, out));
}

nn_time_mlp nn_time_mlp_new(nn_model *model, const char *name, nn_time_kind kind, int nsize,
                            const int64_t *sizes, nn_activation activation, nn_init init)
{
    nn_time_mlp mlp = {
        nn_count_layers(model, name, nsize, sizes),
        { { kind, { NULL, 0, 0, -1, -1 }, { NULL, 0, 0, -1, -1 }, { NULL, 0, 0, -1, -1 } } },
        activation
    };
    char text[NN_LAYER_NAME];
    for (int i = 0; i < mlp.nlayer; i++) {
        mlp.layer[i] = nn_time_linear_new(model, nn_layer_number(text, name, i), kind, sizes[i],
                                          sizes[i + 1], init);
    }
    return mlp;
}

ad_var nn_time_mlp_apply(const nn_time_mlp *mlp, ad_var theta, ad_var t, ad_var x)
{
    if (!mlp || mlp->nlayer < 1)
        return nn_layer_fail(x, "nn_time_mlp_apply",
                             "the network could not be made; nn_model_error says why");
    for (int i = 0; i < mlp->nlayer; i++) {
        if (i > 0 && mlp->activation) x = mlp->activation(x);
        x = nn_time_linear_apply(&mlp->layer[i], theta, t, x);
    }
    return x;
}
