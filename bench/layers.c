/* Layers, forward and backward, as a training step runs them: loss and its gradients by the input
 * and all weights. The loss is the sum of squares of the outputs, over twice the rows. */
#include "bench.h"
#include <math.h>
#include <stdlib.h>

enum { CHANNELS = 64, TAPS = 3, STEPS = 100, MAX_NUMBERS = 6 };

typedef struct {
    const char *name;
    int64_t side, rows; /* of the image; 0: a sequence */
    double must;        /* over the floor */
    int count;          /* of the answers */
    double answer[MAX_NUMBERS];
} layer_case;

/* Loss, norms of the gradients by x and by each parameter array. */
static const layer_case cases[] = {
#define LAYER(name, side, rows, must, count, ...)                                                  \
    { #name, side, rows, must, count, { __VA_ARGS__ } },
#include "layers.def"
#undef LAYER
};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct {
    const layer_case *c;
    nn_model *model;
    nn_conv conv;
    nn_recurrent gru;
    nn_theta *theta, *gradient;
    ad_dtype dtype;
    int64_t size; /* of a row */
    void *x, *dx;
    double loss[1];
    ad_program *program;
    ad_workspace *workspace;
    bool failed;
} layer;

static ad_shape input_shape(const layer_case *c)
{
    return c->side ? AD_SHAPE(AD_ROWS, c->side, c->side, CHANNELS)
                   : AD_SHAPE(AD_ROWS, STEPS, CHANNELS);
}

static ad_var apply(const layer *l, ad_var theta, ad_var x)
{
    if (l->c->side) return nn_conv_apply(&l->conv, theta, x);
    ad_var last, all;
    nn_recurrent_apply(&l->gru, theta, x, NULL, NULL, &last, &all);
    return all;
}

/* Number i of parameter array k is 0.08 sin(0.7 i + k); of the input sin(0.37 row + 1.3 i). */
static const char *const conv_names[] = { "l.weight" };
static const char *const gru_names[] = { "l.input.weight", "l.input.bias", "l.hidden.weight",
                                         "l.hidden.bias" };

static const char *const *names_of(const layer *l, int *count)
{
    *count = l->c->side ? 1 : 4;
    return l->c->side ? conv_names : gru_names;
}

static int64_t elements(ad_shape shape)
{
    int64_t n = 1;
    for (int i = 0; i < shape.rank; i++) n *= shape.dim[i];
    return n;
}

static int64_t count_of(const layer *l, const char *name)
{
    ad_shape shape;
    return nn_model_find(l->model, name, &shape) < 0 ? 0 : elements(shape);
}

static bool fill(layer *l)
{
    int count;
    const char *const *names = names_of(l, &count);
    for (int k = 0; k < count; k++) {
        int64_t n = count_of(l, names[k]);
        double *values = malloc((size_t)n * sizeof *values);
        for (int64_t i = 0; values && i < n; i++)
            values[i] = 0.08 * sin(0.7 * (double)i + (double)k);
        bool fine = values && nn_theta_set(l->theta, names[k], n, values) == 0;
        free(values);
        if (!fine) return false;
    }
    return true;
}

static bool prepare(layer *l, int threads)
{
    const layer_case *c = l->c;
    nn_conv_options same = { .sweep = { .before = { 1, 1 }, .after = { 1, 1 } }, .unbiased = true };
    l->model = nn_model_new();
    if (c->side) l->conv = nn_conv2d_new(l->model, "l", CHANNELS, CHANNELS, TAPS, TAPS, &same);
    else l->gru = nn_gru_new(l->model, "l", CHANNELS, CHANNELS);
    l->theta = nn_theta_new(l->model, l->dtype, NULL);
    l->gradient = nn_theta_new(l->model, l->dtype, NULL);
    l->size = c->side ? c->side * c->side * CHANNELS : STEPS * CHANNELS;
    l->x = bench_inputs(c->rows, l->size, l->dtype);
    l->dx = bench_alloc(c->rows * l->size, l->dtype);
    if (!l->x || !l->dx || !fill(l)) return bench_failed(c->name, "out of memory");
    ad_tape *tape = ad_tape_new(l->dtype);
    ad_var in[2] = { ad_param(tape, AD_SHAPE(nn_theta_size(l->theta)), NULL),
                     ad_input_rows(tape, input_shape(c), 0, NULL) },
           out[3];
    out[0] = ad_scale(ad_sum_all(ad_square(apply(l, in[0], in[1]))), 0.5 / (double)c->rows);
    ad_grad(out[0], 2, in, &out[1]);
    l->program = ad_compile(2, in, 3, out);
    bool fine = l->program || bench_failed(c->name, ad_tape_error(tape));
    ad_tape_free(tape);
    if (fine) l->workspace = ad_workspace_new(l->program, threads);
    return l->workspace != NULL;
}

static void release(layer *l)
{
    ad_workspace_free(l->workspace);
    ad_program_free(l->program);
    nn_theta_free(l->theta);
    nn_theta_free(l->gradient);
    nn_model_free(l->model);
    free(l->x);
    free(l->dx);
}

static void run(void *user)
{
    layer *l = user;
    const void *in[] = { nn_theta_data(l->theta), l->x };
    void *out[] = { l->loss, nn_theta_data(l->gradient), l->dx };
    if (ad_run(l->program, l->workspace, l->c->rows, in, out)) l->failed = true;
}

static double norm(ad_dtype dtype, const void *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += bench_get(x, dtype, i) * bench_get(x, dtype, i);
    return sqrt(sum);
}

/* Loss and norms; how many. */
static int numbers_of(const layer *l, double *numbers)
{
    int count, n = 0;
    const char *const *names = names_of(l, &count);
    numbers[n++] = bench_get(l->loss, l->dtype, 0);
    numbers[n++] = norm(l->dtype, l->dx, l->c->rows * l->size);
    for (int k = 0; k < count; k++) {
        const void *part = l->dtype == AD_F32 ? (void *)nn_theta_f32(l->gradient, names[k])
                                              : (void *)nn_theta_f64(l->gradient, names[k]);
        numbers[n++] = norm(l->dtype, part, count_of(l, names[k]));
    }
    return n;
}

/* Products with elements of x, none with the zeros around it; three for each one forward. */
static double floor_ms(const layer *l, double peak)
{
    double side = (double)l->c->side, inner = CHANNELS * CHANNELS, rows = (double)l->c->rows;
    double taps = TAPS * side - 2;
    double flops =
        l->c->side ? 3 * 2 * rows * taps * taps * inner : 3 * 2 * rows * STEPS * 2 * 3 * inner;
    double tanhs = l->c->side ? 0 : 3 * rows * STEPS * CHANNELS;
    return bench_floor(flops, tanhs, l->dtype, peak);
}

static bool time_layer(const bench_options *options, const layer_case *c)
{
    layer l = { .c = c, .dtype = options->dtype < 0 ? AD_F32 : (ad_dtype)options->dtype };
    bool fine = prepare(&l, options->threads);
    bench_line line = { .name = c->name,
                        .dtype = l.dtype,
                        .threads = options->threads,
                        .must = c->must,
                        .bound = l.dtype == AD_F32 ? 1e-4 : 1e-9 };
    bench_job job = { .run = run, .user = &l };
    if (fine) fine = bench_measure(options->repeats, l.dtype, 1, &job, &line.peak);
    if (fine && l.failed) fine = bench_failed(c->name, ad_workspace_error(l.workspace));
    if (fine) {
        double numbers[MAX_NUMBERS];
        int n = numbers_of(&l, numbers);
        for (int i = 0; i < n; i++)
            line.error = fmax(line.error, fabs(numbers[i] / c->answer[i] - 1));
        line.ms = job.ms;
        line.floor_ms = floor_ms(&l, line.peak) / options->threads;
        bench_print(options, &line);
    }
    release(&l);
    return fine;
}

bool bench_layers(const bench_options *options, const char *wanted, int *count)
{
    bool fine = true;
    for (int i = 0; i < CASES; i++) {
        if (!bench_wanted(wanted, "layers", cases[i].name)) continue;
        fine &= time_layer(options, &cases[i]);
        ++*count;
    }
    return fine;
}
