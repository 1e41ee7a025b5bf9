/* What a training step costs beyond its program of loss and gradient: epochs of four batches
 * through nn_trainer_step, runs of the program alone on as many batches of the same data in their
 * order, and updates by the optimiser alone, in turn. The last column is the time in which the
 * bytes that an update by Adam cannot avoid are copied: theta and two moments read and written, the
 * gradient read. The trainer's program and the one alone have memory of their own, and where it
 * lies decides on some per cent of their time: so all is made several times, and each column is the
 * median. */
#include "costate.h"
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EPOCH = 4, SIDE = 14, CLASSES = 10, TIMES = 7 };

typedef struct learner learner;

typedef struct {
    const char *name;
    void (*build)(learner *l);
    ad_var (*apply)(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);
    int64_t in, hidden, batch;
    int rounds;
} training_case;

struct learner {
    const training_case *c;
    nn_model *model;
    nn_mlp mlp;
    nn_conv conv[2];
    nn_linear last;
};

/* ---- models ---------------------------------------------------------------------------------- */

static void build_mlp(learner *l)
{
    int64_t sizes[] = { l->c->in, l->c->hidden, l->c->hidden, l->c->in };
    l->mlp = nn_mlp_new(l->model, "net", 4, sizes, ad_tanh, NULL);
}

static ad_var regression(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const learner *l = user;
    (void)tape;
    return nn_mse(nn_mlp_apply(&l->mlp, theta, batch[0]), batch[1]);
}

static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const learner *l = user;
    (void)t;
    return nn_mlp_apply(&l->mlp, args[0], x);
}

static ad_var flow(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    ode_options o = { .rtol = 1e-5, .atol = 1e-5 };
    ad_var logdet,
        y = ode_flow(field, user, batch[0], 1, &theta, ode_interval(tape, 1, 0), &o, &logdet);
    return ad_neg(ad_mean_all(ad_add(ode_normal_log_density(y), logdet)));
}

static void build_conv(learner *l)
{
    nn_conv_options same = { .sweep = { .before = { 1, 1 }, .after = { 1, 1 } } };
    int64_t channels = l->c->hidden;
    l->conv[0] = nn_conv2d_new(l->model, "first", 1, channels, 3, 3, &same);
    l->conv[1] = nn_conv2d_new(l->model, "second", channels, 2 * channels, 3, 3, &same);
    l->last = nn_linear_new(l->model, "last", 2 * channels, CLASSES, NULL);
}

static ad_var images(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const learner *l = user;
    const nn_pool_options half = { .axes = 2, .size = { 2, 2 } };
    (void)tape;
    ad_var x = ad_relu(nn_conv_apply(&l->conv[0], theta, batch[0]));
    x = ad_relu(nn_conv_apply(&l->conv[1], theta, nn_max_pool(x, &half)));
    x = nn_adaptive_average_pool(x, 2, (int64_t[]){ 1, 1 });
    x = ad_reshape(x, AD_SHAPE(AD_ROWS, 2 * l->c->hidden));
    return nn_mse(nn_linear_apply(&l->last, theta, x), batch[1]);
}

static const training_case cases[] = {
    { "mlp 2-64-64-2", build_mlp, regression, 2, 64, 512, 60 },
    { "mlp 64-256-256-64", build_mlp, regression, 64, 256, 512, 12 },
    { "flow 32-64-64-32", build_mlp, flow, 32, 64, 512, 8 },
    { "convolutions 16, 32", build_conv, images, SIDE *SIDE, 16, 128, 12 },
};
enum { CASES = sizeof cases / sizeof *cases };

/* ---- measuring ------------------------------------------------------------------------------- */

enum { STEP, PROGRAM, OPTIMISER, FLOOR, KINDS };

typedef struct {
    nn_trainer *trainer;
    ad_program *program;
    ad_workspace *workspace;
    nn_optimizer_state *optimizer;
    nn_theta *theta, *gradient;
    const float *data[2];
    int64_t row[2]; /* numbers */
    int64_t rows;
    char *arrays[7]; /* of the floor */
    size_t bytes;
} bench_run;

static bool run_once(bench_run *r, int kind, int batch)
{
    double value;
    const void *inputs[] = { nn_theta_data(r->theta), r->data[0] + batch * r->rows * r->row[0],
                             r->data[1] + batch * r->rows * r->row[1] };
    void *outputs[] = { &value, nn_theta_data(r->gradient) };
    switch (kind) {
    case STEP: return nn_trainer_step(r->trainer) == 1;
    case PROGRAM: return ad_run(r->program, r->workspace, r->rows, inputs, outputs) == 0;
    case OPTIMISER: return nn_optimizer_step(r->optimizer, r->theta, r->gradient) == 0;
    default:
        for (int i = 0; i < 6; i += 2) memcpy(r->arrays[i], r->arrays[i + 1], r->bytes);
        memcpy(r->arrays[6], r->arrays[6] + r->bytes / 2, r->bytes / 2);
        return true;
    }
}

/* Each batch of the epoch at its fastest, so that what else the machine does is left out. */
static bool measure_all(bench_run *r, int rounds, double *result)
{
    double least[KINDS][EPOCH];
    bool fine = true;
    for (int i = -2; fine && i < rounds; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            for (int k = 0; fine && k < EPOCH; k++) {
                double start = bench_now();
                fine = run_once(r, kind, k);
                double time = bench_now() - start;
                if (i <= 0 || time < least[kind][k]) least[kind][k] = time;
            }
        }
    }
    for (int kind = 0; kind < KINDS; kind++) {
        result[kind] = 0;
        for (int k = 0; fine && k < EPOCH; k++) result[kind] += 1e6 * least[kind][k] / EPOCH;
    }
    return fine;
}

static bool compile(bench_run *r, learner *l, const nn_array *arrays)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var v[3] = { ad_param(tape, AD_SHAPE(nn_theta_size(r->theta)), NULL),
                    ad_input_rows(tape, arrays[0].shape, 0, NULL),
                    ad_input_rows(tape, arrays[1].shape, 0, NULL) };
    ad_var out[2] = { l->c->apply(tape, v[0], v + 1, l) };
    ad_grad(out[0], 1, v, &out[1]);
    r->program = ad_compile(3, v, 2, out);
    if (!r->program) fprintf(stderr, "%s: %s\n", l->c->name, ad_tape_error(tape));
    ad_tape_free(tape);
    return r->program != NULL;
}

/* *parameters: of the model. */
static bool measure_once(const training_case *c, int threads, double *result, int64_t *parameters)
{
    learner l = { .c = c, .model = nn_model_new() };
    const ad_shape row = AD_SHAPE(AD_ROWS, c->in);
    bool conv = c->build == build_conv;
    ad_shape shapes[] = { conv ? AD_SHAPE(AD_ROWS, SIDE, SIDE, 1) : row,
                          conv ? AD_SHAPE(AD_ROWS, CLASSES) : row };
    int64_t examples = EPOCH * c->batch, n = examples * c->in;
    float *x = malloc(2 * (size_t)n * sizeof *x);
    ad_rng rng = ad_rng_seed(1);
    for (int64_t i = 0; x && i < 2 * n; i++) x[i] = (float)ad_rng_normal(&rng);
    c->build(&l);
    bench_run r = { .theta = nn_theta_new(l.model, AD_F32, &rng),
                    .gradient = nn_theta_new(l.model, AD_F32, NULL),
                    .data = { x, x + n },
                    .row = { c->in, conv ? CLASSES : c->in },
                    .rows = c->batch };
    r.bytes = (size_t)nn_theta_size(r.theta) * sizeof(float);
    nn_array arrays[] = { nn_array_of(shapes[0], r.data[0]), nn_array_of(shapes[1], r.data[1]) };
    nn_train_options options = { .loss = c->apply,
                                 .user = &l,
                                 .narray = 2,
                                 .arrays = arrays,
                                 .examples = examples,
                                 .batch = c->batch,
                                 .steps = EPOCH * (c->rounds + 2),
                                 .check_gradient = -1,
                                 .threads = threads };
    bool fine = x && compile(&r, &l, arrays);
    r.trainer = nn_trainer_new(r.theta, &options);
    r.workspace = fine ? ad_workspace_new(r.program, threads) : NULL;
    r.optimizer =
        nn_optimizer_new(&(nn_optimizer_options){ .rate = 1e-30, .threads = threads }, r.theta, 1);
    for (int i = 0; i < 7; i++) fine = (r.arrays[i] = calloc(r.bytes, 1)) && fine;
    fine = fine && r.workspace && measure_all(&r, c->rounds, result);
    if (!fine) fprintf(stderr, "%s: %s\n", c->name, nn_trainer_error(r.trainer));
    *parameters = nn_model_parameters(l.model);
    for (int i = 0; i < 7; i++) free(r.arrays[i]);
    nn_optimizer_free(r.optimizer);
    ad_workspace_free(r.workspace);
    ad_program_free(r.program);
    nn_trainer_free(r.trainer);
    nn_theta_free(r.gradient);
    nn_theta_free(r.theta);
    nn_model_free(l.model);
    free(x);
    return fine;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool measure(const training_case *c, int threads)
{
    enum { COLUMNS = 5 };
    double column[COLUMNS][TIMES], t[KINDS];
    int64_t parameters = 0;
    for (int k = 0; k < TIMES; k++) {
        if (!measure_once(c, threads, t, &parameters)) return false;
        column[0][k] = t[STEP];
        column[1][k] = t[PROGRAM];
        column[2][k] = 100 * (t[STEP] / t[PROGRAM] - 1);
        column[3][k] = 100 * t[OPTIMISER] / t[PROGRAM];
        column[4][k] = 100 * t[FLOOR] / t[PROGRAM];
    }
    for (int i = 0; i < COLUMNS; i++) qsort(column[i], TIMES, sizeof column[i][0], compare);
    printf("| %s | %lld | %lld | %d | %.1f | %.1f | %.1f %% | %.1f %% | %.1f %% |\n", c->name,
           (long long)parameters, (long long)c->batch, threads, column[0][TIMES / 2],
           column[1][TIMES / 2], column[2][TIMES / 2], column[3][TIMES / 2], column[4][TIMES / 2]);
    return true;
}

int main(void)
{
    bool fine = true;
    puts("| model | parameters | batch | threads | step, us | program, us | the rest | optimiser "
         "alone | its bytes, copied |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (int threads = 1; threads <= 2; threads++)
        for (int i = 0; i < CASES; i++) fine = measure(&cases[i], threads) && fine;
    return !fine;
}
