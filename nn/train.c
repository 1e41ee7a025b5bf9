/* Training: loss and gradient are compiled once into one program; a step is one run of it and one update of theta. */
#include "internal.h"
#include "../autodiff/extension.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const nn_model *model;
    ad_dtype dtype;
    void *theta, *user;
    int narray;
    const nn_array *arrays;
    int64_t examples, batch; /* batch: rows of a full one; examples where options ask for more */
    const nn_train_options *options;
    char *error;
    size_t error_size;

    ad_program *program;
    ad_workspace *workspace;
    nn_optimizer_state *optimizer;
    nn_progress *progress;
    void *gradient;
    void **buffer;       /* [narray] rows of the batch; NULL where every batch is all of the data */
    const void **inputs; /* [1 + narray] theta, arrays */
    int64_t *order;      /* [examples] this epoch's */
    int64_t next;        /* place in order */
    nn_rng rng;
} trainer;

#define FAIL(t, ...) nn_error((t)->error, (t)->error_size, "nn_train: " __VA_ARGS__)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- arguments ---------------------------------------------------------------------------------------------------------------------- */

/* Elements of one row, or -1 for a shape that is none. */
static int64_t row_size(ad_shape shape)
{
    int64_t n = 1;
    if (shape.rank < 1 || shape.rank > AD_MAX_RANK || shape.dim[0] != AD_ROWS) return -1;
    for (int i = 1; i < shape.rank; i++) {
        if (shape.dim[i] < 1 || n > (INT64_MAX >> 8) / shape.dim[i]) return -1;
        n *= shape.dim[i];
    }
    return n;
}

static int check_array(trainer *t, int i)
{
    int64_t n = row_size(t->arrays[i].shape);
    if (n < 0) {
        char text[128];
        ad_format_shape(t->arrays[i].shape, text, sizeof text);
        return FAIL(t, "array %d: the shape must be [AD_ROWS, ...] with sizes >= 1, but is %s", i, text);
    }
    if (n > (INT64_MAX >> 8) / t->batch || n > (INT64_MAX >> 8) / (t->examples + 1)) return FAIL(t, "array %d does not fit into memory", i);
    if (t->options->draw) return 0;
    if (!t->arrays[i].data) return FAIL(t, "array %d has no data", i);
    int64_t bad = nn_find_nonfinite(t->dtype, t->arrays[i].data, n * t->examples);
    if (bad < 0) return 0;
    return FAIL(t, "array %d: element %lld of example %lld (from 0) is %g", i, (long long)(bad % n), (long long)(bad / n),
                nn_element(t->dtype, t->arrays[i].data, bad));
}

static int check_arguments(trainer *t, nn_loss loss)
{
    const nn_train_options *o = t->options;
    if (nn_model_error(t->model)) return FAIL(t, "%s", nn_model_error(t->model));
    if (nn_model_size(t->model) < 1) return FAIL(t, "the model has no parameters");
    if (t->dtype != AD_F32 && t->dtype != AD_F64) return FAIL(t, "dtype is neither AD_F32 nor AD_F64");
    if (!t->theta || !loss || !o) return FAIL(t, "%s is NULL", !t->theta ? "theta" : !loss ? "the loss" : "options");
    if (o->steps < 1) return FAIL(t, "options.steps must be at least 1, but is %lld", (long long)o->steps);
    if (o->batch < 0 || o->threads < 0) return FAIL(t, "options.batch and options.threads must not be negative");
    if (t->narray < 0 || (t->narray > 0 && !t->arrays)) return FAIL(t, "arrays are missing");
    if (o->draw && (o->batch < 1 || t->narray < 1)) return FAIL(t, "options.draw needs options.batch and arrays (their shapes)");
    if (t->narray > 0 && !o->draw && t->examples < 1) return FAIL(t, "there are no examples (%lld)", (long long)t->examples);
    int64_t bad = nn_find_nonfinite(t->dtype, t->theta, t->model->size);
    if (bad >= 0) return FAIL(t, "element %lld of theta is %g before the first step", (long long)bad, nn_element(t->dtype, t->theta, bad));
    if (o->draw) t->examples = 0;
    if (t->narray == 0) t->batch = t->examples = 1;
    else t->batch = o->draw || (o->batch > 0 && o->batch < t->examples) ? o->batch : t->examples;
    for (int i = 0; i < t->narray; i++)
        if (check_array(t, i)) return -1;
    return 0;
}

/* ---- the program -------------------------------------------------------------------------------------------------------------------- */

/* Records loss and gradient with symbolic inputs. vars[0] is theta; outputs are loss and gradient. */
static int record(trainer *t, ad_tape *tape, nn_loss loss, ad_var *vars, ad_var outputs[2])
{
    vars[0] = ad_param(tape, AD_SHAPE(t->model->size), NULL);
    for (int i = 0; i < t->narray; i++) vars[1 + i] = ad_input_rows(tape, t->arrays[i].shape, 0, NULL);
    outputs[0] = loss(tape, vars[0], vars + 1, t->user);
    if (ad_tape_error(tape)) return FAIL(t, "recording the loss: %s", ad_tape_error(tape));
    if (!ad_valid(outputs[0]) || outputs[0].tape != tape) return FAIL(t, "the loss function did not return a variable of its tape");
    ad_shape shape = ad_shape_of(outputs[0]);
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] == 1) continue;
        char text[128];
        ad_format_shape(shape, text, sizeof text);
        return FAIL(t, "the loss must be a scalar, but is %s; take its mean (ad_mean_all)", text);
    }
    if (!ad_depends(outputs[0], vars[0])) return FAIL(t, "the loss does not depend on theta");
    outputs[0] = ad_reshape(outputs[0], AD_SCALAR);
    ad_grad(outputs[0], 1, vars, &outputs[1]);
    return ad_tape_error(tape) ? FAIL(t, "recording the gradient: %s", ad_tape_error(tape)) : 0;
}

static int compile(trainer *t, nn_loss loss)
{
    ad_tape *tape = ad_tape_new(t->dtype);
    ad_var *vars = calloc((size_t)t->narray + 1, sizeof *vars), outputs[2];
    int result = tape && vars ? record(t, tape, loss, vars, outputs) : FAIL(t, "out of memory");
    if (result == 0) {
        t->program = ad_compile(1 + t->narray, vars, 2, outputs);
        if (!t->program) result = FAIL(t, "compiling: %s", ad_tape_error(tape) ? ad_tape_error(tape) : "out of memory");
    }
    free(vars);
    ad_tape_free(tape);
    return result;
}

/* ---- batches ------------------------------------------------------------------------------------------------------------------------ */

static int make_buffers(trainer *t)
{
    bool drawn = t->options->draw != NULL, parts = t->batch < t->examples;
    t->gradient = calloc((size_t)t->model->size, nn_bytes(t->dtype));
    t->inputs = calloc((size_t)t->narray + 1, sizeof *t->inputs);
    t->buffer = calloc((size_t)t->narray + 1, sizeof *t->buffer);
    t->order = calloc((size_t)t->examples + 1, sizeof *t->order);
    if (!t->gradient || !t->inputs || !t->buffer || !t->order) return FAIL(t, "out of memory");
    t->inputs[0] = t->theta;
    for (int i = 0; i < t->narray; i++) {
        if (drawn || parts) {
            t->buffer[i] = calloc((size_t)(t->batch * row_size(t->arrays[i].shape)), nn_bytes(t->dtype));
            if (!t->buffer[i]) return FAIL(t, "out of memory for a batch of %lld rows", (long long)t->batch);
        }
        t->inputs[1 + i] = drawn || parts ? t->buffer[i] : t->arrays[i].data;
    }
    for (int64_t i = 0; i < t->examples; i++) t->order[i] = i;
    t->next = t->examples; /* the first batch starts an epoch */
    t->rng = nn_rng_seed(t->options->seed);
    return 0;
}

/* Fisher and Yates, as Durstenfeld 1964 (doi:10.1145/364520.364540) wrote it. */
static void shuffle(trainer *t)
{
    for (int64_t i = t->examples - 1; i > 0; i--) {
        int64_t k = (int64_t)nn_rng_below(&t->rng, (uint64_t)i + 1), kept = t->order[i];
        t->order[i] = t->order[k];
        t->order[k] = kept;
    }
    t->next = 0;
}

/* Puts the next batch into the inputs; returns its number of rows. */
static int64_t next_batch(trainer *t)
{
    if (t->options->draw) {
        t->options->draw(t->batch, t->buffer, t->user);
        return t->batch;
    }
    if (t->batch >= t->examples) return t->batch;
    if (t->next >= t->examples) shuffle(t);
    int64_t rows = t->examples - t->next < t->batch ? t->examples - t->next : t->batch;
    for (int i = 0; i < t->narray; i++) {
        size_t bytes = (size_t)row_size(t->arrays[i].shape) * nn_bytes(t->dtype);
        for (int64_t r = 0; r < rows; r++) {
            const char *row = (const char *)t->arrays[i].data + (size_t)t->order[t->next + r] * bytes;
            memcpy((char *)t->buffer[i] + (size_t)r * bytes, row, bytes);
        }
    }
    t->next += rows;
    return rows;
}

/* ---- steps -------------------------------------------------------------------------------------------------------------------------- */

static int update_failed(trainer *t, int64_t step)
{
    int64_t bad = nn_find_nonfinite(t->dtype, t->gradient, t->model->size);
    const nn_parameter *p = bad >= 0 ? nn_parameter_at(t->model, bad) : NULL;
    return FAIL(t, "step %lld of %lld: %s%s%s%s; theta is as after step %lld", (long long)step, (long long)t->options->steps,
                nn_optimizer_error(t->optimizer), p ? " (in '" : "", p ? p->name : "", p ? "')" : "", (long long)step - 1);
}

/* One update. *loss is that before it. */
static int make_step(trainer *t, int64_t step, double *loss)
{
    union {
        float f32;
        double f64;
    } value = { .f64 = 0 };
    int64_t rows = next_batch(t);
    if (ad_run(t->program, t->workspace, rows, t->inputs, (void *const[]){ &value, t->gradient })) {
        return FAIL(t, "step %lld of %lld: %s; theta is as after step %lld", (long long)step, (long long)t->options->steps,
                    ad_workspace_error(t->workspace), (long long)step - 1);
    }
    *loss = nn_element(t->dtype, &value, 0);
    if (!isfinite(*loss)) {
        return FAIL(t, "the loss is %g at step %lld of %lld; theta is as after step %lld; try a smaller rate, or clip_norm", *loss,
                    (long long)step, (long long)t->options->steps, (long long)step - 1);
    }
    return nn_optimizer_step(t->optimizer, t->theta, t->gradient) ? update_failed(t, step) : 0;
}

static int run(trainer *t, nn_train_report *report)
{
    const nn_train_options *o = t->options;
    for (int64_t step = 1; step <= o->steps; step++) {
        double loss = NAN;
        if (make_step(t, step, &loss)) return -1;
        if (step == 1) report->first_loss = loss;
        report->last_loss = loss;
        report->steps = step;
        nn_progress_update(t->progress, step, "loss %.5g", loss);
        if (o->on_step && o->on_step(step, loss, t->theta, t->user)) return 0;
    }
    return 0;
}

static int prepare(trainer *t, nn_loss loss)
{
    if (check_arguments(t, loss)) return -1;
    t->optimizer = nn_optimizer_new(&t->options->optimizer, t->dtype, t->model->size, t->options->steps);
    if (nn_optimizer_error(t->optimizer)) return FAIL(t, "%s", nn_optimizer_error(t->optimizer));
    if (compile(t, loss) || make_buffers(t)) return -1;
    t->workspace = ad_workspace_new(t->program, t->options->threads);
    if (!t->workspace) return FAIL(t, "out of memory");
    if (t->options->label) t->progress = nn_progress_new(t->options->label, t->options->steps);
    return 0;
}

static void clear(trainer *t)
{
    nn_progress_free(t->progress);
    ad_workspace_free(t->workspace);
    ad_program_free(t->program);
    nn_optimizer_free(t->optimizer);
    for (int i = 0; t->buffer && i < t->narray; i++) free(t->buffer[i]);
    free(t->buffer);
    free(t->inputs);
    free(t->order);
    free(t->gradient);
}

int nn_train(const nn_model *model, ad_dtype dtype, void *theta, nn_loss loss, void *user, int narray, const nn_array *arrays,
             int64_t examples, const nn_train_options *options, nn_train_report *report, char *error, size_t error_size)
{
    trainer t = { .model = model,
                  .dtype = dtype,
                  .theta = theta,
                  .user = user,
                  .narray = narray,
                  .arrays = arrays,
                  .examples = examples,
                  .options = options,
                  .error = error,
                  .error_size = error_size };
    nn_train_report own = { 0, NAN, NAN, 0 };
    double start = now();
    int result = prepare(&t, loss);
    if (result == 0) result = run(&t, &own);
    own.seconds = now() - start;
    if (report) *report = own;
    clear(&t);
    return result;
}
