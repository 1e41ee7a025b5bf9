/* Linear layers and stacks of them. */
#include "nn/model/model.h"
#include "autodiff/extension.h"

/* "<name>.<suffix>" as a parameter of the model. */
static int64_t add_parameter(nn_model *model, const char *name, const char *suffix, ad_shape shape,
                             nn_init init, int64_t in, int64_t out)
{
    char full[256];
    int n = snprintf(full, sizeof full, "%s.%s", name ? name : "", suffix);
    if (name && *name && n < (int)sizeof full)
        return nn_model_add(model, full, shape, init, in, out);
    return nn_model_add(model, NULL, shape, init, in, out); /* says what is wrong with the name */
}

static nn_linear new_linear(nn_model *model, const char *name, int64_t in, int64_t out,
                            nn_init init, bool biased)
{
    nn_linear layer = { model, in, out, -1, -1 };
    layer.weight = add_parameter(model, name, "weight", AD_SHAPE(in, out),
                                 init ? init : nn_init_uniform_fan_in, in, out);
    if (biased)
        layer.bias = add_parameter(model, name, "bias", AD_SHAPE(out),
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

static ad_var none(ad_var x) { return x.tape ? ad_none(x.tape) : x; }

/* The error goes to the tape of x; there is nowhere to put it when x has none. */
static ad_var fail(ad_var x, const char *message)
{
    if (x.tape) ad_fail(x.tape, "%s", message);
    return none(x);
}

/* Whether theta and x can go into the layer; else the tape has the error. */
static bool check(const nn_linear *layer, ad_var theta, ad_var x, int64_t in, const char *what)
{
    if (!ad_valid(theta) || !ad_valid(x)) {
        ad_tape *tape = theta.tape ? theta.tape : x.tape;
        if (tape)
            ad_fail(tape, "%s: %s is not a valid variable", what, ad_valid(theta) ? "x" : "theta");
        return false;
    }
    if (!layer || layer->weight < 0) {
        ad_fail(x.tape, "%s: the layer could not be made; nn_model_error says why", what);
        return false;
    }
    if (!nn_theta_fits(what, layer->model, theta)) return false;
    ad_shape shape = ad_shape_of(x);
    if (shape.rank < 1 || shape.dim[shape.rank - 1] != in) {
        char text[128];
        ad_format_shape(shape, text, sizeof text);
        ad_fail(x.tape, "%s: x is %s, but the layer takes [...,%lld]", what, text, (long long)in);
        return false;
    }
    return true;
}

/* n rows of a matrix that starts at an offset of theta. */
static ad_var matrix(ad_var theta, int64_t offset, int64_t n, int64_t columns)
{
    return ad_reshape(ad_slice(theta, 0, offset, offset + n * columns), AD_SHAPE(n, columns));
}

/* x W + b with the first n rows of W; x may be a single vector [n]. */
static ad_var affine(const nn_linear *layer, ad_var theta, ad_var x, int64_t n)
{
    bool vector = ad_shape_of(x).rank == 1;
    ad_var y = ad_matmul(vector ? ad_reshape(x, AD_SHAPE(1, n)) : x,
                         matrix(theta, layer->weight, n, layer->out));
    if (vector) y = ad_reshape(y, AD_SHAPE(layer->out));
    return layer->bias < 0 ? y
                           : ad_add(y, ad_slice(theta, 0, layer->bias, layer->bias + layer->out));
}

ad_var nn_linear_apply(const nn_linear *layer, ad_var theta, ad_var x)
{
    if (!check(layer, theta, x, layer ? layer->in : 0, "nn_linear_apply")) return none(x);
    return affine(layer, theta, x, layer->in);
}

/* ---- stacks ---------------------------------------------------------------------------------- */

/* Number of layers, or 0 with the model's error set: a stack of no layers has no offsets to mark it
 * as failed. */
static int count_layers(nn_model *model, const char *name, int nsize, const int64_t *sizes)
{
    if (nsize >= 2 && nsize <= NN_MAX_LAYERS + 1 && sizes) return nsize - 1;
    if (model && !model->error[0]) {
        snprintf(model->error, sizeof model->error,
                 "nn: '%.60s' needs 2 to %d sizes, from input to output, but got %d",
                 name ? name : "", NN_MAX_LAYERS + 1, sizes ? nsize : 0);
    }
    return 0;
}

static const char *layer_name(char *text, size_t size, const char *name, int i)
{
    return name && *name && snprintf(text, size, "%s.%d", name, i) < (int)size ? text : NULL;
}

nn_mlp nn_mlp_new(nn_model *model, const char *name, int nsize, const int64_t *sizes,
                  nn_activation activation, nn_init init)
{
    nn_mlp mlp = { count_layers(model, name, nsize, sizes),
                   { { NULL, 0, 0, -1, -1 } },
                   activation };
    char text[240];
    for (int i = 0; i < mlp.nlayer; i++) {
        mlp.layer[i] = nn_linear_new(model, layer_name(text, sizeof text, name, i), sizes[i],
                                     sizes[i + 1], init);
    }
    return mlp;
}

ad_var nn_mlp_apply(const nn_mlp *mlp, ad_var theta, ad_var x)
{
    if (!mlp || mlp->nlayer < 1)
        return fail(x, "nn_mlp_apply: the network could not be made; nn_model_error says why");
    for (int i = 0; i < mlp->nlayer; i++) {
        if (i > 0 && mlp->activation) x = mlp->activation(x);
        x = nn_linear_apply(&mlp->layer[i], theta, x);
    }
    return x;
}

/* ---- time ------------------------------------------------------------------------------------ */

nn_time_linear nn_time_linear_new(nn_model *model, const char *name, nn_time_kind kind, int64_t in,
                                  int64_t out, nn_init init)
{
    nn_linear none = { NULL, 0, 0, -1, -1 };
    if (kind == NN_CONCAT) {
        int64_t with_time = in < INT64_MAX ? in + 1 : in; /* that many is refused */
        return (nn_time_linear){ kind, nn_linear_new(model, name, with_time, out, init), none,
                                 none };
    }
    char gate[240], shift[240];
    bool fits = name && *name && snprintf(gate, sizeof gate, "%s.gate", name) < (int)sizeof gate &&
                snprintf(shift, sizeof shift, "%s.shift", name) < (int)sizeof shift;
    nn_time_linear layer = { kind, nn_linear_new(model, fits ? name : NULL, in, out, init), none,
                             none };
    layer.gate = nn_linear_new(model, fits ? gate : NULL, 1, out, init);
    layer.shift = nn_linear_new_unbiased(model, fits ? shift : NULL, 1, out, init);
    if (layer.shift.weight < 0) layer.linear.weight = -1;
    return layer;
}

/* t times the layer's single row of weights: [out], [1,out] or [rows,out], as t has it. */
static ad_var times_row(ad_var theta, ad_var t, int64_t offset, int64_t out)
{
    return ad_mul(t, ad_slice(theta, 0, offset, offset + out));
}

/* A field's time: sizes 1 (a scalar too), or a row axis and sizes 1. */
static bool check_time(ad_var t, ad_var x)
{
    if (!ad_valid(t)) {
        ad_fail(x.tape, "nn_time_linear_apply: t is not a valid variable");
        return false;
    }
    ad_shape shape = ad_shape_of(t);
    bool good = shape.rank <= ad_shape_of(x).rank;
    for (int i = 0; i < shape.rank; i++)
        good = good && (shape.dim[i] == 1 || (i == 0 && shape.dim[i] == AD_ROWS && shape.rank > 1));
    if (good) return true;
    char text[128];
    ad_format_shape(shape, text, sizeof text);
    ad_fail(x.tape, "nn_time_linear_apply: t is %s; it must have sizes 1, or [rows,1]", text);
    return false;
}

ad_var nn_time_linear_apply(const nn_time_linear *layer, ad_var theta, ad_var t, ad_var x)
{
    const nn_linear *linear = layer ? &layer->linear : NULL;
    int64_t in = linear ? linear->in - (layer->kind == NN_CONCAT) : 0;
    if (!check(linear, theta, x, in, "nn_time_linear_apply") || !check_time(t, x)) return none(x);
    int64_t out = linear->out;
    ad_var y = affine(linear, theta, x, in);
    /* The last row of the weights is that of t. Adding t w instead of concatenating keeps t out of
     * the product over rows. */
    if (layer->kind == NN_CONCAT)
        return ad_add(y, times_row(theta, t, linear->weight + in * out, out));
    ad_var gate = ad_add(times_row(theta, t, layer->gate.weight, out),
                         ad_slice(theta, 0, layer->gate.bias, layer->gate.bias + out));
    return ad_add(ad_mul(y, ad_sigmoid(gate)), times_row(theta, t, layer->shift.weight, out));
}

nn_time_mlp nn_time_mlp_new(nn_model *model, const char *name, nn_time_kind kind, int nsize,
                            const int64_t *sizes, nn_activation activation, nn_init init)
{
    nn_time_mlp mlp = {
        count_layers(model, name, nsize, sizes),
        { { kind, { NULL, 0, 0, -1, -1 }, { NULL, 0, 0, -1, -1 }, { NULL, 0, 0, -1, -1 } } },
        activation
    };
    char text[240];
    for (int i = 0; i < mlp.nlayer; i++) {
        mlp.layer[i] = nn_time_linear_new(model, layer_name(text, sizeof text, name, i), kind,
                                          sizes[i], sizes[i + 1], init);
    }
    return mlp;
}

ad_var nn_time_mlp_apply(const nn_time_mlp *mlp, ad_var theta, ad_var t, ad_var x)
{
    if (!mlp || mlp->nlayer < 1)
        return fail(x, "nn_time_mlp_apply: the network could not be made; nn_model_error says why");
    for (int i = 0; i < mlp->nlayer; i++) {
        if (i > 0 && mlp->activation) x = mlp->activation(x);
        x = nn_time_linear_apply(&mlp->layer[i], theta, t, x);
    }
    return x;
}
