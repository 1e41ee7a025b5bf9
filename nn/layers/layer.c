/* What all layers do. */
#include "nn/layers/layer.h"
#include "autodiff/extension.h"

const char *nn_layer_name(char text[NN_LAYER_NAME], const char *name, const char *suffix)
{
    if (!name || !*name) return NULL;
    return snprintf(text, NN_LAYER_NAME, "%s.%s", name, suffix) < NN_LAYER_NAME ? text : NULL;
}

const char *nn_layer_number(char text[NN_LAYER_NAME], const char *name, int i)
{
    char number[16];
    snprintf(number, sizeof number, "%d", i);
    return nn_layer_name(text, name, number);
}

int64_t nn_layer_add(nn_model *model, const char *name, const char *suffix, ad_shape shape,
                     nn_init init, int64_t fan_in, int64_t fan_out)
{
    char text[NN_LAYER_NAME];
    return nn_model_add(model, nn_layer_name(text, name, suffix), shape, init, fan_in, fan_out);
}

int64_t nn_layer_add_fixed(nn_model *model, const char *name, const char *suffix, ad_shape shape,
                           nn_init init)
{
    char text[NN_LAYER_NAME];
    return nn_model_add_fixed(model, nn_layer_name(text, name, suffix), shape, init, 1, 1);
}

ad_var nn_layer_none(ad_var x) { return x.tape ? ad_none(x.tape) : x; }

/* There is nowhere to put the error when x has no tape. */
ad_var nn_layer_fail(ad_var x, const char *what, const char *message)
{
    if (x.tape) ad_fail(x.tape, "%s: %s", what, message);
    return nn_layer_none(x);
}

bool nn_layer_valid(const char *what, const char *name, ad_var x, ad_tape *tape)
{
    if (ad_valid(x)) return true;
    if (tape) ad_fail(tape, "%s: %s is not a valid variable", what, name);
    return false;
}

bool nn_layer_check(const char *what, const nn_model *model, int64_t offset, ad_var theta, ad_var x)
{
    ad_tape *tape = theta.tape ? theta.tape : x.tape;
    if (!nn_layer_valid(what, "theta", theta, tape) || !nn_layer_valid(what, "x", x, tape))
        return false;
    if (offset < 0) {
        ad_fail(tape, "%s: the layer could not be made; nn_model_error says why", what);
        return false;
    }
    return nn_theta_fits(what, model, theta);
}

bool nn_layer_width(const char *what, ad_var x, int64_t width)
{
    ad_shape shape = ad_shape_of(x);
    if (shape.rank >= 1 && shape.dim[shape.rank - 1] == width) return true;
    char text[128];
    ad_format_shape(shape, text, sizeof text);
    ad_fail(x.tape, "%s: x is %s, but the layer takes [...,%lld]", what, text, (long long)width);
    return false;
}

ad_var nn_layer_array(ad_var theta, int64_t offset, ad_shape shape)
{
    ad_var flat = ad_slice(theta, 0, offset, offset + ad_count(shape, 0));
    return shape.rank == 1 ? flat : ad_reshape(flat, shape);
}

ad_var nn_layer_fixed(ad_var theta, int64_t offset, ad_shape shape)
{
    return ad_stop_gradient(nn_layer_array(theta, offset, shape));
}

ad_var nn_layer_range(ad_tape *tape, int64_t n)
{
    return ad_shift(ad_cumsum(ad_fill(tape, AD_SHAPE(n), 1), 0, false), -1);
}
