/* The loss of a training: recorded once, compiled with its gradient, checked against what the user
 * may have meant. What a loss reads from C variables is frozen in the recording; that is found by
 * recording it again later and comparing. */
#include "nn/train/train.h"
#include "nn/layers/checks.h"
#include "autodiff/extension.h"
#include <stdlib.h>
#include <string.h>

/* One recording: a tape, its inputs (theta, arrays), loss and gradient. */
typedef struct {
    ad_tape *tape;
    ad_var *vars; /* [1 + narray] */
    ad_var loss;  /* as the user's function returned it */
    ad_var outputs[2];
} recording;

static void clear(recording *r)
{
    ad_tape_free(r->tape);
    free(r->vars);
}

/* ---- recording ------------------------------------------------------------------------------- */

/* Whether the gradient was recorded as a constant 0: theta is reached only through what has no
 * derivative. */
static bool is_zero(ad_var gradient)
{
    const double *data = ad_constant_elements(gradient);
    for (int64_t i = 0; data && i < ad_constant_size(gradient); i++)
        if (data[i] != 0) return false;
    return data != NULL;
}

static int check_scalar(trainer *t, ad_var loss)
{
    ad_shape shape = ad_shape_of(loss);
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dim[i] == 1) continue;
        char text[128];
        ad_format_shape(shape, text, sizeof text);
        return FAIL(t, "the loss must be a scalar, but is %s; take its mean (ad_mean_all)", text);
    }
    return 0;
}

static int record_loss(trainer *t, recording *r)
{
    const nn_train_options *o = t->options;
    r->tape = ad_tape_new(t->theta->dtype);
    r->vars = calloc((size_t)o->narray + 1, sizeof *r->vars);
    if (!r->tape || !r->vars) return FAIL(t, "out of memory");
    r->vars[0] = ad_param(r->tape, AD_SHAPE(t->theta->size), NULL);
    for (int i = 0; i < o->narray; i++) {
        ad_shape shape = o->arrays[i].shape;
        r->vars[1 + i] = ad_has_rows(shape) ? ad_input_rows(r->tape, shape, 0, NULL)
                                            : ad_input(r->tape, shape, NULL);
    }
    ad_tape_set_traced(r->tape, "of nn_train's loss, look at values in options.on_step, on a tape "
                                "of your own with nn_theta_param");
    r->loss = o->loss(r->tape, r->vars[0], r->vars + 1, o->user);
    if (ad_tape_error(r->tape)) return FAIL(t, "recording the loss: %s", ad_tape_error(r->tape));
    if (!ad_valid(r->loss) || r->loss.tape != r->tape) {
        return FAIL(t, "the loss function did not return a variable of its tape");
    }
    return check_scalar(t, r->loss);
}

static int record_gradient(trainer *t, recording *r)
{
    bool depends = ad_depends(r->loss, r->vars[0]);
    if (ad_tape_error(r->tape)) return FAIL(t, "recording the loss: %s", ad_tape_error(r->tape));
    if (!depends) return FAIL(t, "the loss does not depend on theta");
    r->outputs[0] = ad_reshape(r->loss, AD_SCALAR);
    ad_grad(r->outputs[0], 1, r->vars, &r->outputs[1]);
    if (ad_tape_error(r->tape))
        return FAIL(t, "recording the gradient: %s", ad_tape_error(r->tape));
    if (!is_zero(r->outputs[1])) return 0;
    return FAIL(t, "the loss depends on theta only through operations without a derivative "
                   "(comparisons, ad_stop_gradient, indices): "
                   "its gradient is 0, and nothing can be learnt");
}

static ad_program *compile(trainer *t, recording *r, int noutput, const ad_var *outputs)
{
    ad_program *program = ad_compile(1 + t->options->narray, r->vars, noutput, outputs);
    if (!program)
        FAIL(t, "compiling: %s", ad_tape_error(r->tape) ? ad_tape_error(r->tape) : "out of memory");
    return program;
}

/* ---- labels ---------------------------------------------------------------------------------- */

/* Runs the checks on the data: batch by batch, and, where one fails, row by row to find the
 * example. */
static int run_checks(trainer *t, const ad_program *program, ad_workspace *workspace)
{
    int64_t step = t->batch < t->examples ? t->batch : t->examples;
    void *nowhere[NN_MAX_CHECKS] = { NULL };
    for (int64_t start = 0; start < t->examples; start += step) {
        int64_t rows = t->examples - start < step ? t->examples - start : step;
        nn_batch_load(t, start, rows);
        if (ad_run(program, workspace, rows, t->inputs, nowhere) == 0) continue;
        for (int64_t r = 0; r < rows; r++) {
            if (ad_run(program, workspace, 1, nn_batch_row(t, r), nowhere) == 0) continue;
            return FAIL(t, "example %lld (from 0): %s", (long long)t->order[start + r],
                        ad_workspace_error(workspace));
        }
        return FAIL(t, "%s", ad_workspace_error(workspace));
    }
    return 0;
}

/* Labels that come straight from data are checked for all examples before the first update: a bad
 * one may lie in the last batch of an epoch. */
static int check_labels(trainer *t, recording *r)
{
    ad_var checks[NN_MAX_CHECKS];
    int n = 0, listed = nn_checks_list(r->tape, checks);
    for (int i = 0; i < listed; i++) {
        bool fixed = !ad_depends(checks[i], r->vars[0]);
        for (int k = 0; k < t->options->narray; k++) {
            if (!t->options->arrays[k].data)
                fixed = fixed && !ad_depends(checks[i], r->vars[1 + k]);
        }
        if (fixed) checks[n++] = checks[i];
    }
    if (n == 0 || t->examples == 0) return 0;
    ad_program *program = compile(t, r, n, checks);
    ad_workspace *workspace = program ? ad_workspace_new(program, 1) : NULL;
    int result = -1;
    if (workspace) result = run_checks(t, program, workspace);
    else if (program) FAIL(t, "out of memory");
    ad_workspace_free(workspace);
    ad_program_free(program);
    return result;
}

int nn_loss_compile(trainer *t)
{
    recording r = { 0 };
    int result = record_loss(t, &r) || record_gradient(t, &r) ? -1 : 0;
    if (result == 0) {
        t->key = ad_function_key(1 + t->options->narray, r.vars, 1, &r.loss, &t->key_length);
        t->program = t->key ? compile(t, &r, 2, r.outputs) : NULL;
        if (!t->key) FAIL(t, "recording the loss: %s", ad_tape_error(r.tape));
        result = t->program ? check_labels(t, &r) : -1;
    }
    clear(&r);
    return result;
}

/* ---- running --------------------------------------------------------------------------------- */

typedef union {
    float f32;
    double f64;
} scalar;

static double value_of(const trainer *t, const scalar *s)
{
    return t->theta->dtype == AD_F32 ? (double)s->f32 : s->f64;
}

int nn_loss_run(trainer *t)
{
    scalar loss = { .f64 = 0 };
    if (ad_run(t->program, t->workspace, t->rows, t->inputs,
               (void *const[]){ &loss, t->gradient->data }))
        return -1;
    t->loss = value_of(t, &loss);
    return 0;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* The loss that a program gives on the present inputs. false when the run fails, which the next
 * step will report. */
static bool loss_now(const trainer *t, const ad_program *program, ad_workspace *workspace,
                     double *loss)
{
    scalar value = { .f64 = 0 };
    if (ad_run(program, workspace, t->rows, t->inputs, (void *const[]){ &value, NULL }))
        return false;
    *loss = value_of(t, &value);
    return true;
}

/* Keys of losses with solves in them differ from recording to recording: then numbers decide. They
 * differ by rounding at most when the functions are the same. A loss that is not finite decides
 * nothing: that is for the next step to report. */
static int compare_runs(trainer *t, recording *r, bool *same)
{
    *same = true;
    ad_program *program = record_gradient(t, r) ? NULL : compile(t, r, 2, r->outputs);
    ad_workspace *workspace = program ? ad_workspace_new(program, t->options->threads) : NULL;
    if (program && !workspace) FAIL(t, "out of memory");
    double before = 0, after = 0, unit = t->theta->dtype == AD_F32 ? 0x1p-23 : 0x1p-52;
    if (workspace && loss_now(t, t->program, t->workspace, &before) &&
        loss_now(t, program, workspace, &after)) {
        *same = !isfinite(before) || fabs(after - before) <= 1000 * unit * fabs(before);
    }
    int result = workspace ? 0 : -1;
    ad_workspace_free(workspace);
    ad_program_free(program);
    return result;
}

int nn_loss_compare(trainer *t, int64_t step)
{
    recording r = { 0 };
    bool same = false;
    int result = record_loss(t, &r);
    if (result == 0) {
        size_t length = 0;
        void *key = ad_function_key(1 + t->options->narray, r.vars, 1, &r.loss, &length);
        if (!key) result = FAIL(t, "recording the loss: %s", ad_tape_error(r.tape));
        same = key && length == t->key_length && memcmp(key, t->key, length) == 0;
        free(key);
    }
    if (result == 0 && !same) result = compare_runs(t, &r, &same);
    clear(&r);
    if (result || same) return result;
    return FAIL(t,
                "after step %lld the loss function records another loss than at first: it reads a "
                "value that changes (noise drawn in "
                "it, an annealed weight, a counter), but it is recorded once and replayed, so that "
                "value stood still. Bring it in as "
                "an array without data, which options.draw fills for each step; theta is as after "
                "step %lld",
                (long long)step, (long long)step);
}
