#include "odenet.h"
#include "example.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Groups of two channels, as in the paper's program. */
static nn_norm norm_new(nn_model *model, const char *name, int64_t channels)
{
    return nn_group_norm_new(model, name, channels, channels / 2, NULL);
}

static nn_conv conv_new(nn_model *model, const char *name, int64_t in, int64_t out, bool unbiased)
{
    const nn_conv_options same = { .sweep = { .before = { 1, 1 }, .after = { 1, 1 } },
                                   .unbiased = unbiased };
    return nn_conv2d_new(model, name, in, out, 3, 3, &same);
}

static odenet_block block_new(nn_model *model, const char *name, int64_t channels, bool unbiased)
{
    char part[4][64];
    static const char *const parts[4] = { "norm1", "conv1", "norm2", "conv2" };
    for (int i = 0; i < 4; i++) snprintf(part[i], sizeof part[i], "%s.%s", name, parts[i]);
    return (odenet_block){ .first = norm_new(model, part[0], channels),
                           .one = conv_new(model, part[1], channels, channels, unbiased),
                           .second = norm_new(model, part[2], channels),
                           .two = conv_new(model, part[3], channels, channels, unbiased) };
}

void odenet_build(odenet *n)
{
    const nn_conv_options stride = { .sweep = { .stride = { 2, 2 } } };
    nn_model *m = n->model = nn_model_new();
    const int64_t c = n->channels;
    if (n->kind == ODENET_LINEAR) {
        n->linear = nn_linear_new(m, "linear", (int64_t)n->side * n->side, DIGITS, NULL);
        return;
    }
    n->down[0] = nn_conv2d_new(m, "down1", 1, c / 2, 4, 4, &stride);
    n->between = norm_new(m, "norm1", c / 2);
    n->down[1] = nn_conv2d_new(m, "down2", c / 2, c, 3, 3, &stride);
    for (int i = 0; n->kind == ODENET_RESIDUAL && i < ODENET_BLOCKS; i++) {
        char name[32];
        snprintf(name, sizeof name, "block%d", i);
        n->residual[i] = block_new(m, name, c, true);
    }
    if (n->kind == ODENET_ODE) {
        n->ode = block_new(m, "field", c, false);
        n->time[0] = conv_new(m, "field.time1", 1, c, true);
        n->time[1] = conv_new(m, "field.time2", 1, c, true);
        n->out = norm_new(m, "field.norm3", c);
    }
    n->last = norm_new(m, "norm2", c);
    n->linear = nn_linear_new(m, "linear", c, DIGITS, NULL);
}

/* t times what ones become: [1,s,s,channels]. */
static ad_var of_time(const nn_conv *c, ad_var theta, ad_var t, ad_shape state)
{
    ad_var ones = ad_fill(theta.tape, AD_SHAPE(state.dim[1], state.dim[2], 1), 1);
    return ad_mul(t, nn_conv_apply(c, theta, ones));
}

/* args[0] is theta. */
static ad_var field(ad_var t, ad_var h, const ad_var *args, void *user)
{
    const odenet *n = user;
    const odenet_block *b = &n->ode;
    ad_var theta = args[0];
    ad_var x = ad_relu(nn_norm_apply(&b->first, theta, h));
    x = ad_add(nn_conv_apply(&b->one, theta, x), of_time(&n->time[0], theta, t, ad_shape_of(h)));
    x = ad_relu(nn_norm_apply(&b->second, theta, x));
    x = ad_add(nn_conv_apply(&b->two, theta, x), of_time(&n->time[1], theta, t, ad_shape_of(h)));
    return nn_norm_apply(&n->out, theta, x);
}

static ad_var residual(const odenet_block *b, ad_var theta, ad_var h)
{
    ad_var x = nn_conv_apply(&b->one, theta, ad_relu(nn_norm_apply(&b->first, theta, h)));
    return ad_add(h, nn_conv_apply(&b->two, theta, ad_relu(nn_norm_apply(&b->second, theta, x))));
}

ad_var odenet_state(const odenet *n, ad_var theta, ad_var grey)
{
    const int side = n->side;
    ad_var x = ad_scale(grey, 1.0 / (n->levels - 1));
    x = nn_conv_apply(&n->down[0], theta, ad_reshape(x, AD_SHAPE(AD_ROWS, side, side, 1)));
    return nn_conv_apply(&n->down[1], theta, ad_relu(nn_norm_apply(&n->between, theta, x)));
}

ad_var odenet_solve(const odenet *n, ad_var theta, ad_var h, const ode_options *solver)
{
    return ode_solve_final(field, (void *)n, h, AD_VARS(theta), ode_interval(theta.tape, 0, 1),
                           solver);
}

ad_var odenet_logits(const odenet_use *u, ad_var theta, ad_var grey)
{
    const odenet *n = u->net;
    if (n->kind == ODENET_LINEAR)
        return nn_linear_apply(&n->linear, theta, ad_scale(grey, 1.0 / (n->levels - 1)));
    ad_var h = odenet_state(n, theta, grey);
    for (int i = 0; n->kind == ODENET_RESIDUAL && i < ODENET_BLOCKS; i++)
        h = residual(&n->residual[i], theta, h);
    if (n->kind == ODENET_ODE) h = odenet_solve(n, theta, h, &u->solver);
    h = ad_mean(ad_relu(nn_norm_apply(&n->last, theta, h)), 2, (int[]){ 1, 2 }, false);
    return nn_linear_apply(&n->linear, theta, h);
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: classes, greys. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const odenet_use *u = user;
    (void)tape;
    return nn_cross_entropy(odenet_logits(u, theta, batch[1]),
                            nn_smooth_classes(batch[0], DIGITS, u->smoothing));
}

/* The share of digits that are taken for another. */
static void record_error(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out, void *user)
{
    (void)tape;
    ad_var said = ad_argmax(odenet_logits(user, theta, batch[1]), 1, true);
    out[0] = ad_mean_all(ad_ne(said, batch[0]));
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const odenet_data *data = user;
    const int64_t n = data->all.pixels;
    for (int64_t i = 0; i < step->rows; i++) {
        const double *grey = data->all.grey + step->examples[i] * n;
        double *to = out[1] + i * n;
        if (step->part == NN_TRAINING) digits_bend(&data->all, step->rng, data->bend, grey, to);
        else memcpy(to, grey, (size_t)n * sizeof *grey);
    }
    return 0;
}

bool odenet_data_new(odenet_data *data, digit_set *train, digit_set *test)
{
    const size_t n = (size_t)train->n, m = (size_t)test->n, pixels = (size_t)train->pixels;
    if (test->pixels != train->pixels) return !example_failed("data", "the sets differ in size");
    digit_set *all = &data->all;
    *all = *train;
    *train = (digit_set){ 0 };
    double *grey = realloc(all->grey, (n + m) * pixels * sizeof *grey);
    if (grey) all->grey = grey;
    double *digit = realloc(all->digit, (n + m) * sizeof *digit);
    if (digit) all->digit = digit;
    data->part = malloc(n + m);
    if (!grey || !digit || !data->part) return !example_failed("memory", NULL);
    memcpy(grey + n * pixels, test->grey, m * pixels * sizeof *grey);
    memcpy(digit + n, test->digit, m * sizeof *digit);
    memset(data->part, NN_TRAINING, n);
    memset(data->part + n, NN_VALIDATION, m);
    all->n += test->n;
    digits_clear(test);
    data->ntrain = (int64_t)n;
    data->arrays[0] = nn_array_of(AD_SHAPE(AD_ROWS, 1), all->digit);
    data->arrays[1] = nn_array_drawn(AD_SHAPE(AD_ROWS, all->pixels));
    return true;
}

void odenet_data_clear(odenet_data *data)
{
    digits_clear(&data->all);
    free(data->part);
}

nn_train_options odenet_training(const odenet_settings *s, odenet_data *data, odenet_use *tested,
                                 int64_t every)
{
    static const nn_metric wrong = { "error", NN_MEAN, false };
    nn_train_options options = { .loss = loss,
                                 .user = data,
                                 .narray = 2,
                                 .arrays = data->arrays,
                                 .examples = data->ntrain,
                                 .draw = draw,
                                 .worker = true,
                                 .batch = s->batch,
                                 .seed = (uint64_t)s->seed,
                                 .threads = (int)s->threads };
    if (every) {
        options.examples = data->all.n;
        options.split.part = data->part;
        options.validation = (nn_validation){ .every = every,
                                              .batch = 500,
                                              .user = tested,
                                              .nmetric = 1,
                                              .metrics = &wrong,
                                              .record = record_error,
                                              .keep_last = true };
    }
    return options;
}

double odenet_processor_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }
