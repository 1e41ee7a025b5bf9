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
    const nn_states *noted; /* by the tape, of its states; NULL: they are not of interest */
    int64_t nstate;
    nn_state *states; /* those of theta */
    int ninput;
    ad_var *vars; /* [ninput] */
    ad_var loss;  /* as the user's function returned it */
    ad_var outputs[2];
} recording;

static void clear(recording *r)
{
    ad_tape_free(r->tape);
    free(r->vars);
    free(r->states);
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

static int check_scalar(nn_trainer *t, ad_var loss)
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

/* The tape and the inputs of a recording. */
static int begin(nn_trainer *t, recording *r)
{
    const nn_stage *stage = &t->stages[t->stage];
    r->tape = ad_tape_new(t->theta->dtype);
    r->vars = calloc((size_t)stage->narray + 1, sizeof *r->vars);
    if (!r->tape || !r->vars) return FAIL(t, "out of memory");
    r->ninput = 1 + stage->narray;
    r->vars[0] = ad_param(r->tape, AD_SHAPE(t->theta->size), NULL);
    for (int i = 0; i < stage->narray; i++) {
        ad_shape shape = stage->arrays[i].shape;
        r->vars[1 + i] = ad_has_rows(shape) ? ad_input_rows(r->tape, shape, 0, NULL)
                                            : ad_input(r->tape, shape, NULL);
    }
    ad_tape_set_traced(r->tape, "nn_train's loss is recorded once and replayed; look at values in "
                                "options.on_step, on a tape of your own with nn_theta_param");
    return 0;
}

static int call_loss(nn_trainer *t, recording *r, nn_loss loss, void *user)
{
    r->loss = loss(r->tape, r->vars[0], r->vars + 1, user);
    if (ad_tape_error(r->tape)) return FAIL(t, "recording the loss: %s", ad_tape_error(r->tape));
    if (!ad_valid(r->loss) || r->loss.tape != r->tape)
        return FAIL(t, "the loss function did not return a variable of its tape");
    return check_scalar(t, r->loss);
}

static int record_loss(nn_trainer *t, recording *r)
{
    const nn_stage *stage = &t->stages[t->stage];
    if (begin(t, r)) return -1;
    r->noted = nn_states_open(r->tape);
    if (!r->noted) return FAIL(t, "out of memory");
    return call_loss(t, r, stage->loss, stage->user);
}

/* The states of the theta that is trained. */
static int find_states(nn_trainer *t, recording *r)
{
    const nn_state *s;
    int64_t n = nn_states_list(r->tape, r->noted, &s);
    if (n < 0)
        return FAIL(t, "the loss records so much that its tape has lost what fixed arrays become");
    r->states = calloc((size_t)n + 1, sizeof *r->states);
    if (!r->states) return FAIL(t, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        bool ours = s[i].model == t->theta->model && ad_valid(s[i].theta) && ad_valid(s[i].value);
        if (ours && ad_depends(s[i].theta, r->vars[0])) r->states[r->nstate++] = s[i];
    }
    return 0;
}

/* The gradient; in the places of the states, where it is zero, it has their new values. They are
 * the gradient of a term that is linear in them, so that no pass over theta is needed for it. */
static ad_var gradient_and_states(recording *r, ad_var gradient)
{
    ad_var loss = r->outputs[0], both;
    if (r->nstate == 0) return gradient;
    for (int64_t i = 0; i < r->nstate; i++) {
        const nn_state *s = &r->states[i];
        ad_var place = ad_slice(r->vars[0], 0, s->offset, s->offset + s->size);
        loss = ad_add(loss, ad_sum_all(ad_mul(place, s->value)));
    }
    ad_grad(loss, 1, r->vars, &both);
    return both;
}

static int record_gradient(nn_trainer *t, recording *r)
{
    bool depends = ad_depends(r->loss, r->vars[0]);
    if (ad_tape_error(r->tape)) return FAIL(t, "recording the loss: %s", ad_tape_error(r->tape));
    if (!depends) return FAIL(t, "the loss does not depend on theta");
    r->outputs[0] = ad_reshape(r->loss, AD_SCALAR);
    if (find_states(t, r)) return -1;
    ad_var gradient;
    ad_grad(r->outputs[0], 1, r->vars, &gradient);
    r->outputs[1] = gradient_and_states(r, gradient);
    if (ad_tape_error(r->tape))
        return FAIL(t, "recording the gradient: %s", ad_tape_error(r->tape));
    if (!is_zero(gradient)) return 0;
    return FAIL(t, "the loss depends on theta only through operations without a derivative "
                   "(comparisons, ad_stop_gradient, indices): "
                   "its gradient is 0, and nothing can be learnt");
}

static ad_program *compile(nn_trainer *t, recording *r, int noutput, const ad_var *outputs)
{
    ad_program *program = ad_compile(r->ninput, r->vars, noutput, outputs);
    if (!program)
        FAIL(t, "compiling: %s", ad_tape_error(r->tape) ? ad_tape_error(r->tape) : "out of memory");
    return program;
}

/* ---- labels ---------------------------------------------------------------------------------- */

/* Runs the checks on the data: batch by batch, and, where one fails, row by row to find the
 * example. */
static int run_checks(nn_trainer *t, const nn_runner *runner, nn_feed *feed, nn_batch *batch)
{
    void *nowhere[NN_MAX_CHECKS] = { NULL };
    for (int64_t step = 1; step <= nn_feed_batches(feed); step++) {
        if (nn_batch_fill(feed, batch, step)) return FAIL(t, "%s", batch->error);
        if (ad_run(runner->program, runner->workspace, batch->rows, batch->inputs, nowhere) == 0)
            continue;
        for (int64_t r = 0; r < batch->rows; r++) {
            const void *const *row = nn_batch_from(feed, batch, r, t->single);
            if (ad_run(runner->program, runner->workspace, 1, row, nowhere) == 0) continue;
            return FAIL(t, "example %lld (from 0): %s", (long long)batch->examples[r],
                        ad_workspace_error(runner->workspace));
        }
        return FAIL(t, "%s", ad_workspace_error(runner->workspace));
    }
    return 0;
}

/* Labels that come straight from data are checked for all examples before the first update: a bad
 * one may lie in the last batch of an epoch, or in the validation part. */
static int check_labels(nn_trainer *t, recording *r)
{
    const nn_stage *stage = &t->stages[t->stage];
    ad_var checks[NN_MAX_CHECKS];
    int n = 0, listed = nn_checks_list(r->tape, checks);
    for (int i = 0; i < listed; i++) {
        bool fixed = !ad_depends(checks[i], r->vars[0]);
        for (int k = 0; k < stage->narray; k++)
            if (!stage->arrays[k].data) fixed = fixed && !ad_depends(checks[i], r->vars[1 + k]);
        if (fixed) checks[n++] = checks[i];
    }
    if (n == 0 || t->examples == 0) return 0;
    nn_runner runner = { 0 };
    nn_feed feed = { 0 };
    nn_batch batch = { 0 };
    int result = nn_runner_new(t, compile(t, r, n, checks), &runner) ||
                         nn_feed_open(t, &feed, stage, NN_TRAINING, stage->batch, true) ||
                         nn_batch_open(t, &batch, &feed, t->theta) ||
                         run_checks(t, &runner, &feed, &batch)
                     ? -1
                     : 0;
    nn_batch_close(&batch, feed.narray);
    nn_feed_close(&feed);
    nn_runner_free(&runner);
    return result;
}

int nn_loss_compile(nn_trainer *t)
{
    recording r = { 0 };
    int result = record_loss(t, &r) || record_gradient(t, &r) ? -1 : 0;
    if (result == 0) {
        t->key = ad_function_key(r.ninput, r.vars, 1, &r.loss, &t->key_length);
        if (!t->key) result = FAIL(t, "recording the loss: %s", ad_tape_error(r.tape));
    }
    if (result == 0) result = nn_runner_new(t, compile(t, &r, 2, r.outputs), &t->runner);
    t->nstate = r.nstate;
    t->states = r.states;
    r.states = NULL;
    if (result == 0) result = check_labels(t, &r);
    clear(&r);
    return result;
}

/* ---- metrics --------------------------------------------------------------------------------- */

static int check_metric(nn_trainer *t, const nn_metric *metric, ad_var out, ad_tape *tape)
{
    if (!ad_valid(out) || out.tape != tape)
        return FAIL(t, "validation.record did not set '%.60s' to a variable of its tape",
                    metric->name);
    ad_shape shape = ad_shape_of(out);
    bool fits;
    const char *due;
    switch (metric->kind) {
    case NN_RATIO:
        due = "[2], two sums";
        fits = shape.rank == 1 && shape.dim[0] == 2;
        break;
    case NN_AUC:
        due = "[rows,2], scores and labels";
        fits = ad_has_rows(shape) && shape.rank == 2 && shape.dim[1] == 2;
        break;
    default:
        due = "a scalar, a mean over rows (ad_mean_all)";
        fits = !ad_has_rows(shape) && ad_row_size(shape) == 1;
    }
    if (fits) return 0;
    char text[128];
    ad_format_shape(shape, text, sizeof text);
    return FAIL(t, "the metric '%.60s' must be %s, but is %s", metric->name, due, text);
}

int nn_metrics_compile(nn_trainer *t, nn_runner *runner)
{
    const nn_validation *v = &t->options.validation;
    const nn_stage *stage = &t->stages[t->stage];
    void *user = v->user ? v->user : stage->user;
    ad_var outputs[1 + NN_MAX_METRICS] = { { 0 } };
    recording r = { 0 };
    int result = begin(t, &r) ? -1 : call_loss(t, &r, v->loss ? v->loss : stage->loss, user);
    if (result == 0 && v->nmetric > 0) {
        v->record(r.tape, r.vars[0], r.vars + 1, outputs + 1, user);
        if (ad_tape_error(r.tape))
            result = FAIL(t, "recording the metrics: %s", ad_tape_error(r.tape));
    }
    for (int i = 0; result == 0 && i < v->nmetric; i++)
        result = check_metric(t, &v->metrics[i], outputs[1 + i], r.tape);
    outputs[0] = r.loss;
    if (result == 0) result = nn_runner_new(t, compile(t, &r, 1 + v->nmetric, outputs), runner);
    clear(&r);
    return result;
}

/* ---- running --------------------------------------------------------------------------------- */

int nn_runner_new(nn_trainer *t, ad_program *program, nn_runner *runner)
{
    *runner = (nn_runner){ .program = program };
    if (!program) return -1;
    runner->workspace = ad_workspace_new(program, t->options.threads);
    return runner->workspace ? 0 : FAIL(t, "out of memory");
}

void nn_runner_free(nn_runner *runner)
{
    ad_workspace_free(runner->workspace);
    ad_program_free(runner->program);
    *runner = (nn_runner){ 0 };
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* The loss that a program gives on the present inputs. false when the run fails, which the next
 * step will report. */
static bool loss_now(const nn_trainer *t, const nn_runner *runner, double *loss)
{
    union {
        float f32;
        double f64;
    } value = { .f64 = 0 };
    if (ad_run(runner->program, runner->workspace, t->batch->rows, t->batch->inputs,
               (void *const[]){ &value, NULL }))
        return false;
    *loss = nn_element(t->theta->dtype, &value, 0);
    return true;
}

/* Keys of losses with solves in them differ from recording to recording: then numbers decide. They
 * differ by rounding at most when the functions are the same. A loss that is not finite decides
 * nothing: that is for the next step to report. */
static int compare_runs(nn_trainer *t, recording *r, bool *same)
{
    *same = true;
    nn_runner runner = { 0 };
    int result =
        record_gradient(t, r) ? -1 : nn_runner_new(t, compile(t, r, 2, r->outputs), &runner);
    double before = 0, after = 0, unit = t->theta->dtype == AD_F32 ? 0x1p-23 : 0x1p-52;
    if (result == 0 && loss_now(t, &t->runner, &before) && loss_now(t, &runner, &after))
        *same = !isfinite(before) || fabs(after - before) <= 1000 * unit * fabs(before);
    nn_runner_free(&runner);
    return result;
}

int nn_loss_compare(nn_trainer *t)
{
    recording r = { 0 };
    bool same = false;
    int result = record_loss(t, &r);
    if (result == 0) {
        size_t length = 0;
        void *key = ad_function_key(r.ninput, r.vars, 1, &r.loss, &length);
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
                (long long)t->step, (long long)t->step);
}
