/* Normalisation. Each kind chooses the axes of its statistics; the rest is the same. */
#include "nn/layers/checks.h"
#include "nn/layers/layer.h"
#include "nn/model/states.h"
#include "autodiff/extension.h"

enum { MOST_AXES = AD_MAX_RANK };

typedef struct {
    int n;
    int axis[MOST_AXES];
} axis_list;

/* ---- what all kinds share -------------------------------------------------------------------- */

static const nn_norm_options no_options;

static double epsilon_of(nn_model *model, const char *name, const nn_norm_options *o)
{
    if (!(o->epsilon >= 0))
        nn_model_fail(model, "nn: '%.60s': epsilon must not be negative, but is %g",
                      name ? name : "", nn_shown(o->epsilon));
    return o->epsilon > 0 ? o->epsilon : 1e-5;
}

/* Scale and offset where they are asked for. Whether that worked. */
static bool add_scale(nn_model *model, const char *name, ad_shape shape, const nn_norm_options *o,
                      int64_t *weight, int64_t *bias)
{
    *weight = *bias = -1;
    if (o->unscaled) return model && !nn_model_error(model);
    *weight = nn_layer_add(model, name, "weight", shape, nn_init_ones, 1, 1);
    if (o->unbiased) return *weight >= 0;
    *bias = nn_layer_add(model, name, "bias", shape, nn_init_zeros, 1, 1);
    return *bias >= 0;
}

static ad_var scaled(ad_var theta, ad_var x, ad_shape shape, int64_t weight, int64_t bias)
{
    if (weight >= 0) x = ad_mul(x, nn_layer_array(theta, weight, shape));
    if (bias >= 0) x = ad_add(x, nn_layer_array(theta, bias, shape));
    return x;
}

/* Twice over x: the mean of squares less the square of the mean would cancel. */
static ad_var standardised(ad_var x, const axis_list *over, double epsilon)
{
    ad_var centred = ad_sub(x, ad_mean(x, over->n, over->axis, true));
    ad_var variance = ad_mean(ad_square(centred), over->n, over->axis, true);
    return ad_mul(centred, ad_rsqrt(ad_shift(variance, epsilon)));
}

static ad_var single_value(const char *what, ad_var x)
{
    char text[128];
    ad_format_shape(ad_shape_of(x), text, sizeof text);
    ad_fail(x.tape, "%s: x is %s, so that each mean would be of one value alone", what, text);
    return ad_none(x.tape);
}

/* ---- each row by itself ---------------------------------------------------------------------- */

nn_norm nn_layer_norm_new(nn_model *model, const char *name, ad_shape shape,
                          const nn_norm_options *options)
{
    const nn_norm_options *o = options ? options : &no_options;
    nn_norm layer = { .model = model, .shape = shape, .epsilon = epsilon_of(model, name, o) };
    int64_t size = 1;
    for (int i = 0; i < shape.rank && size > 0; i++) size = shape.dim[i] < 1 ? 0 : shape.dim[i];
    if (shape.rank < 1 || shape.rank > MOST_AXES || size < 1)
        nn_model_fail(model, "nn: '%.60s': the shape of a layer norm needs sizes of at least 1",
                      name ? name : "");
    layer.made = add_scale(model, name, shape, o, &layer.weight, &layer.bias);
    return layer;
}

nn_norm nn_group_norm_new(nn_model *model, const char *name, int64_t channels, int64_t groups,
                          const nn_norm_options *options)
{
    const nn_norm_options *o = options ? options : &no_options;
    nn_norm layer = { .model = model,
                      .shape = AD_SHAPE(channels),
                      .groups = groups,
                      .epsilon = epsilon_of(model, name, o) };
    if (channels < 1 || groups < 1 || channels % groups)
        nn_model_fail(model, "nn: '%.60s': %lld channels cannot be divided into %lld groups",
                      name ? name : "", (long long)channels, (long long)groups);
    layer.made = add_scale(model, name, layer.shape, o, &layer.weight, &layer.bias);
    return layer;
}

nn_norm nn_instance_norm_new(nn_model *model, const char *name, int64_t channels,
                             const nn_norm_options *options)
{
    return nn_group_norm_new(model, name, channels, channels, options);
}

static ad_var layer_norm(const char *what, const nn_norm *layer, ad_var x)
{
    ad_shape s = ad_shape_of(x), shape = layer->shape;
    axis_list over = { .n = shape.rank };
    bool fits = s.rank - ad_has_rows(s) >= shape.rank;
    for (int i = 0; i < shape.rank && fits; i++) {
        over.axis[i] = s.rank - shape.rank + i;
        fits = s.dim[over.axis[i]] == shape.dim[i];
    }
    if (!fits) {
        char text[128], last[128];
        ad_format_shape(s, text, sizeof text);
        ad_format_shape(shape, last, sizeof last);
        ad_fail(x.tape, "%s: x is %s, but its last axes must be %s", what, text, last);
        return ad_none(x.tape);
    }
    if (ad_count(shape, 1) == 1) return single_value(what, x);
    return standardised(x, &over, layer->epsilon);
}

/* The mean over positions and over the channels of each group, for each channel: x
 * [rows,positions,channels], or without rows, -> [rows,1,channels]. */
static ad_var group_mean(const nn_norm *layer, ad_var x)
{
    const int64_t channels = layer->shape.dim[0], each = channels / layer->groups;
    const bool rows = ad_has_rows(ad_shape_of(x));
    ad_var mean = ad_mean(x, 1, (int[]){ rows }, true);
    if (each == 1) return mean;
    const ad_shape split = rows ? AD_SHAPE(AD_ROWS, 1, layer->groups, each)
                                : AD_SHAPE(1, layer->groups, each),
                   whole = ad_shape_of(mean);
    mean = ad_mean(ad_reshape(mean, split), 1, (int[]){ rows + 2 }, true);
    return ad_reshape(ad_broadcast(mean, split), whole);
}

/* Means and scales stand for each channel, so that everything that is as large as x goes along the
 * channels, and the learned scale is multiplied into what has no positions. */
static ad_var group_norm(const char *what, const nn_norm *layer, ad_var theta, ad_var x)
{
    ad_shape s = ad_shape_of(x);
    const int64_t channels = layer->shape.dim[0], each = channels / layer->groups;
    const int64_t positions = ad_row_size(s) / channels;
    if (positions * each == 1) return single_value(what, x);
    x = ad_reshape(x, ad_has_rows(s) ? AD_SHAPE(AD_ROWS, positions, channels)
                                     : AD_SHAPE(positions, channels));
    ad_var centred = ad_sub(x, group_mean(layer, x));
    ad_var scale = ad_rsqrt(ad_shift(group_mean(layer, ad_square(centred)), layer->epsilon));
    if (layer->weight >= 0)
        scale = ad_mul(scale, nn_layer_array(theta, layer->weight, layer->shape));
    ad_var y = ad_mul(centred, scale);
    if (layer->bias >= 0) y = ad_add(y, nn_layer_array(theta, layer->bias, layer->shape));
    return ad_reshape(y, s);
}

ad_var nn_norm_apply(const nn_norm *layer, ad_var theta, ad_var x)
{
    static const char what[] = "nn_norm_apply";
    bool made = layer && layer->made;
    if (!nn_layer_check(what, made ? layer->model : NULL, made ? 0 : -1, theta, x) ||
        (layer->groups && !nn_layer_width(what, x, layer->shape.dim[0])))
        return nn_layer_none(x);
    if (layer->groups) return group_norm(what, layer, theta, x);
    return scaled(theta, layer_norm(what, layer, x), layer->shape, layer->weight, layer->bias);
}

/* ---- over the batch -------------------------------------------------------------------------- */

nn_batch_norm nn_batch_norm_new(nn_model *model, const char *name, int64_t channels,
                                const nn_norm_options *options)
{
    const nn_norm_options *o = options ? options : &no_options;
    nn_batch_norm layer = { .model = model,
                            .channels = channels,
                            .epsilon = epsilon_of(model, name, o),
                            .momentum = o->momentum == 0 ? 0.1 : o->momentum };
    if (!(layer.momentum > 0 && layer.momentum <= 1))
        nn_model_fail(model, "nn: '%.60s': the momentum must be in (0,1], but is %g",
                      name ? name : "", nn_shown(o->momentum));
    bool made = add_scale(model, name, AD_SHAPE(channels), o, &layer.weight, &layer.bias);
    layer.mean = nn_layer_add_fixed(model, name, "running_mean", AD_SHAPE(channels), nn_init_zeros);
    layer.variance =
        nn_layer_add_fixed(model, name, "running_var", AD_SHAPE(channels), nn_init_ones);
    if (!made || layer.variance < 0) layer.mean = -1;
    return layer;
}

/* Whether x fits the layer. */
static bool check_batch(const char *what, const nn_batch_norm *layer, ad_var theta, ad_var x)
{
    return nn_layer_check(what, layer ? layer->model : NULL, layer ? layer->mean : -1, theta, x) &&
           nn_layer_width(what, x, layer->channels);
}

/* How many values each channel has, checked to be more than one; the axes are all but the last. */
static ad_var count_values(const char *what, ad_var x, axis_list *over)
{
    ad_shape s = ad_shape_of(x);
    over->n = s.rank - 1;
    for (int i = 0; i < over->n; i++) over->axis[i] = i;
    const bool rows = ad_has_rows(s) && s.rank > 1;
    const int64_t positions = ad_row_size(s) / s.dim[s.rank - 1];
    if (!rows && positions == 1) return single_value(what, x);
    if (!rows) return ad_scalar(x.tape, (double)positions);
    ad_var count = ad_scale(ad_row_count(x.tape), (double)positions);
    return positions > 1
               ? count
               : nn_check_whole(
                     count, &(nn_whole){ what, "number of values of each channel", 2, INT64_MAX },
                     false);
}

ad_var nn_batch_norm_apply(const nn_batch_norm *layer, ad_var theta, ad_var x)
{
    if (!check_batch("nn_batch_norm_apply", layer, theta, x)) return nn_layer_none(x);
    const ad_shape shape = AD_SHAPE(layer->channels);
    ad_var mean = nn_layer_fixed(theta, layer->mean, shape);
    ad_var variance = nn_layer_fixed(theta, layer->variance, shape);
    ad_var y = ad_mul(ad_sub(x, mean), ad_rsqrt(ad_shift(variance, layer->epsilon)));
    return scaled(theta, y, shape, layer->weight, layer->bias);
}

/* (1 - momentum) running + momentum new, as [channels]; running: as it is, or after what the loss
 * has done so far. */
static ad_var moved(const nn_batch_norm *layer, ad_var theta, int64_t offset, ad_var new)
{
    ad_var running = nn_states_latest(theta, offset, AD_SHAPE(layer->channels));
    new = ad_reshape(ad_stop_gradient(new), AD_SHAPE(layer->channels));
    return ad_add(ad_scale(running, 1 - layer->momentum), ad_scale(new, layer->momentum));
}

/* Statistics of each channel of a batch. mean and squares: [1,..,1,channels]; count: one number. */
typedef struct {
    ad_var count, mean;
    ad_var centred; /* x less its mean */
    ad_var squares; /* sum of the squares of `centred` */
} batch_statistics;

/* false: the tape, or theta, says what is wrong. */
static bool take_statistics(const char *what, const nn_batch_norm *layer, ad_var theta, ad_var x,
                            batch_statistics *s)
{
    axis_list over;
    if (!check_batch(what, layer, theta, x)) return false;
    s->count = count_values(what, x, &over);
    if (!ad_valid(s->count)) return false;
    s->mean = ad_div(ad_sum(x, over.n, over.axis, true), s->count);
    s->centred = ad_sub(x, s->mean);
    s->squares = ad_sum(ad_square(s->centred), over.n, over.axis, true);
    return true;
}

/* What the running mean and variance become, each [channels]. */
static void move_statistics(const nn_batch_norm *layer, ad_var theta, const batch_statistics *s,
                            ad_var *mean, ad_var *variance)
{
    /* the variance of numbers of which these are a sample */
    ad_var unbiased = ad_div(s->squares, ad_shift(s->count, -1));
    *mean = moved(layer, theta, layer->mean, s->mean);
    *variance = moved(layer, theta, layer->variance, unbiased);
}

ad_var nn_batch_norm_train(const nn_batch_norm *layer, ad_var theta, ad_var x)
{
    batch_statistics s;
    if (!take_statistics("nn_batch_norm_train", layer, theta, x, &s)) return nn_layer_none(x);
    if (nn_states_wanted(theta.tape)) {
        ad_var mean, variance;
        move_statistics(layer, theta, &s, &mean, &variance);
        nn_states_note(layer->model, theta, layer->mean, mean);
        nn_states_note(layer->model, theta, layer->variance, variance);
    }
    ad_var variance = ad_div(s.squares, s.count);
    ad_var y = ad_mul(s.centred, ad_rsqrt(ad_shift(variance, layer->epsilon)));
    return scaled(theta, y, AD_SHAPE(layer->channels), layer->weight, layer->bias);
}

ad_var nn_batch_norm_measure(const nn_batch_norm *layer, ad_var theta, ad_var x)
{
    batch_statistics s;
    if (!take_statistics("nn_batch_norm_measure", layer, theta, x, &s)) return nn_layer_none(x);
    ad_var both[2];
    move_statistics(layer, theta, &s, &both[0], &both[1]);
    for (int i = 0; i < 2; i++) both[i] = ad_reshape(both[i], AD_SHAPE(1, layer->channels));
    return ad_concatenate(2, both, 0);
}

int nn_batch_norm_set(const nn_batch_norm *layer, nn_theta *theta, const double *statistics)
{
    static const char what[] = "nn_batch_norm_set";
    if (!theta || nn_theta_error(theta)) return -1;
    if (!layer || layer->mean < 0 || layer->model != theta->model)
        return nn_theta_fail(theta, "%s: the layer is not one of theta's model", what);
    if (!statistics) return nn_theta_fail(theta, "%s: the array of numbers is NULL", what);
    const int64_t n = layer->channels;
    int64_t bad = nn_find_unfit(AD_F64, statistics, 2 * n, theta->dtype);
    for (int64_t i = n; bad < 0 && i < 2 * n; i++)
        if (statistics[i] < 0) bad = i;
    if (bad >= 0)
        return nn_theta_fail(theta, "%s: the %s of channel %lld (from 0) would be %g", what,
                             bad < n ? "mean" : "variance", (long long)(bad % n),
                             nn_shown(statistics[bad]));
    for (int64_t i = 0; i < n; i++) {
        nn_put(theta->dtype, theta->data, layer->mean + i, statistics[i]);
        nn_put(theta->dtype, theta->data, layer->variance + i, statistics[n + i]);
    }
    return 0;
}
