/* Convolutions as layers. */
#include "nn/model/model.h"
#include "nn/convolution.h"
#include "autodiff/extension.h"

static int64_t product(int64_t a, int64_t b)
{
    return a > 0 && b > 0 && a <= INT64_MAX / b ? a * b : 0; /* 0 is refused by nn_model_add */
}

static void fail_model(nn_model *model, const char *name, const char *why, int64_t a, int64_t b)
{
    if (model && !model->error[0])
        snprintf(model->error, sizeof model->error, "nn: '%.60s': %s: %lld and %lld",
                 name ? name : "", why, (long long)a, (long long)b);
}

static nn_conv new_conv(nn_model *model, const char *name, bool transposed, int axes, int64_t in,
                        int64_t out, const int64_t *kernel, const nn_conv_options *options)
{
    const nn_conv_options none = { .unbiased = false };
    const nn_conv_options *o = options ? options : &none;
    nn_conv c = { .model = model,
                  .transposed = transposed,
                  .axes = axes,
                  .in = in,
                  .out = out,
                  .weight = -1,
                  .bias = -1,
                  .sweep = o->sweep };
    int64_t groups = o->sweep.groups ? o->sweep.groups : 1;
    if (groups < 1 || in % groups || out % groups) {
        fail_model(model, name, "channels must be divisible by the number of groups; channels are",
                   in, out);
        return c;
    }
    /* w is that of the convolution which the layer is, or transposes. */
    ad_shape w = { axes + 2, { 0 } };
    int64_t taps = 1;
    for (int a = 0; a < axes; a++) {
        c.kernel[a] = w.dim[a] = kernel[a];
        taps = product(taps, kernel[a]);
    }
    w.dim[axes] = (transposed ? out : in) / groups;
    w.dim[axes + 1] = transposed ? in : out;
    int64_t fan_in = product(taps, w.dim[axes]), fan_out = product(taps, w.dim[axes + 1] / groups);
    char full[256];
    bool fits = name && *name && snprintf(full, sizeof full, "%s.weight", name) < (int)sizeof full;
    c.weight = nn_model_add(model, fits ? full : NULL, w,
                            o->init ? o->init : nn_init_uniform_fan_in, fan_in, fan_out);
    if (o->unbiased || c.weight < 0) return c;
    fits = snprintf(full, sizeof full, "%s.bias", name) < (int)sizeof full;
    c.bias = nn_model_add(model, fits ? full : NULL, AD_SHAPE(out),
                          o->init ? nn_init_zeros : nn_init_uniform_fan_in, fan_in, fan_out);
    if (c.bias < 0) c.weight = -1;
    return c;
}

nn_conv nn_conv1d_new(nn_model *model, const char *name, int64_t in, int64_t out, int64_t kernel,
                      const nn_conv_options *options)
{
    return new_conv(model, name, false, 1, in, out, &kernel, options);
}

nn_conv nn_conv2d_new(nn_model *model, const char *name, int64_t in, int64_t out, int64_t height,
                      int64_t width, const nn_conv_options *options)
{
    return new_conv(model, name, false, 2, in, out, (int64_t[]){ height, width }, options);
}

nn_conv nn_conv1d_transpose_new(nn_model *model, const char *name, int64_t in, int64_t out,
                                int64_t kernel, const nn_conv_options *options)
{
    return new_conv(model, name, true, 1, in, out, &kernel, options);
}

nn_conv nn_conv2d_transpose_new(nn_model *model, const char *name, int64_t in, int64_t out,
                                int64_t height, int64_t width, const nn_conv_options *options)
{
    return new_conv(model, name, true, 2, in, out, (int64_t[]){ height, width }, options);
}

ad_var nn_conv_apply(const nn_conv *c, ad_var theta, ad_var x)
{
    ad_tape *tape = x.tape ? x.tape : theta.tape;
    if (!tape) return x;
    if (!ad_valid(theta) || !ad_valid(x)) {
        ad_fail(tape, "nn_conv_apply: %s is not a valid variable", ad_valid(theta) ? "x" : "theta");
        return ad_none(tape);
    }
    if (!c || c->weight < 0) {
        ad_fail(tape, "nn_conv_apply: the layer could not be made; nn_model_error says why");
        return ad_none(tape);
    }
    if (!nn_theta_fits("nn_conv_apply", c->model, theta)) return ad_none(tape);
    int64_t groups = c->sweep.groups ? c->sweep.groups : 1;
    ad_shape w = { c->axes + 2, { 0 } };
    for (int a = 0; a < c->axes; a++) w.dim[a] = c->kernel[a];
    w.dim[c->axes] = (c->transposed ? c->out : c->in) / groups;
    w.dim[c->axes + 1] = c->transposed ? c->in : c->out;
    ad_var weight = ad_reshape(ad_slice(theta, 0, c->weight, c->weight + ad_count(w, 1)), w);
    ad_var y =
        c->transposed ? ad_conv_transpose(x, weight, &c->sweep) : ad_conv(x, weight, &c->sweep);
    return c->bias < 0 ? y : ad_add(y, ad_slice(theta, 0, c->bias, c->bias + c->out));
}
