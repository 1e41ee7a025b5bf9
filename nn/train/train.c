/* Training: a step is one run of the program of loss and gradient, and one update of theta. */
#include "nn/train/train.h"
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double largest_of(const nn_theta *theta)
{
    double largest = 0;
    for (int64_t i = 0; i < theta->size; i++) {
        double size = fabs(nn_element(theta->dtype, theta->data, i));
        if (size > largest) largest = size;
    }
    return largest;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int check_arguments(trainer *t)
{
    const nn_train_options *o = t->options;
    if (nn_theta_check("nn_train", t->theta, t->error, t->error_size)) return -1;
    if (!o || !o->loss) return FAIL(t, "%s is NULL", o ? "options.loss" : "options");
    if (o->steps < 1)
        return FAIL(t, "options.steps must be at least 1, but is %lld", (long long)o->steps);
    if (o->batch < 0 || o->threads < 0)
        return FAIL(t, "options.batch and options.threads must not be negative");
    if (o->state && nn_optimizer_given(&o->optimizer)) {
        return FAIL(t, "options.state has its options already; leave options.optimizer zero");
    }
    int64_t bad = nn_find_nonfinite(t->theta->dtype, t->theta->data, t->theta->size);
    if (bad < 0) return nn_arrays_check(t);
    double value = nn_element(t->theta->dtype, t->theta->data, bad);
    return FAIL(t, "element %lld of theta is %g before the first step", (long long)bad,
                nn_shown(value));
}

static int prepare(trainer *t)
{
    if (check_arguments(t)) return -1;
    const nn_train_options *o = t->options;
    t->state = o->state;
    if (!t->state) t->state = t->own_state = nn_optimizer_new(&o->optimizer, t->theta, o->steps);
    if (nn_optimizer_error(t->state)) return FAIL(t, "%s", nn_optimizer_error(t->state));
    t->updates = nn_optimizer_steps(t->state);
    t->planned = t->updates + o->steps;
    if (t->planned < nn_optimizer_planned(t->state)) t->planned = nn_optimizer_planned(t->state);
    t->gradient = nn_theta_new(t->theta->model, t->theta->dtype, NULL);
    if (!t->gradient) return FAIL(t, "out of memory");
    t->start_size = largest_of(t->theta);
    if (nn_batches_new(t) || nn_loss_compile(t)) return -1;
    t->workspace = ad_workspace_new(t->program, o->threads);
    if (!t->workspace) return FAIL(t, "out of memory");
    if (nn_trust_new(t)) return -1;
    if (o->label) t->progress = nn_progress_new(o->label, o->steps);
    return 0;
}

/* ---- what is said when a step fails ---------------------------------------------------------- */

enum { EXAMINED = 1000 }; /* rows of a batch that failed, at most */

/* Whether a row by itself gives no finite loss. */
static bool row_fails(trainer *t, int64_t row)
{
    union {
        float f32;
        double f64;
    } loss = { .f64 = 0 };
    if (ad_run(t->program, t->workspace, 1, nn_batch_row(t, row), (void *const[]){ &loss, NULL }))
        return true;
    return !isfinite(nn_element(t->theta->dtype, &loss, 0));
}

/* Where a few rows of the batch fail alone, they are to blame, and the first is named: "; 2 of 64
 * examples do so alone, the first is 17". Else nothing: then it is theta, or the loss. */
static void name_rows(trainer *t, char *text, size_t size)
{
    int64_t rows = t->rows < EXAMINED ? t->rows : EXAMINED;
    int64_t failing = 0, first = -1;
    for (int64_t r = 0; r < rows; r++) {
        if (!row_fails(t, r)) continue;
        failing++;
        if (first < 0) first = r;
    }
    if (failing == 0 || 2 * failing > rows) return;
    int64_t example = nn_batch_example(t, first);
    snprintf(text, size, "; %lld of %lld %s alone, the first is %lld (from 0)", (long long)failing,
             (long long)rows, example < 0 ? "rows drawn do so" : "examples do so",
             (long long)(example < 0 ? first : example));
}

/* Where theta or the loss have run away since the first step, that is the cause, whatever failed in
 * the end. */
static bool name_growth(const trainer *t, int64_t step, char *text, size_t size)
{
    double theta = largest_of(t->theta), least = fmax(t->start_size, 1);
    bool grown =
        theta > 10 * least || t->last_loss - t->first_loss > 10 * fmax(fabs(t->first_loss), 1);
    if (step == 1) {
        snprintf(text, size,
                 "; this is before any update: it is the loss, the data or the initial theta");
    } else if (grown) {
        snprintf(text, size,
                 "; the training has blown up: the loss went from %.3g to %.3g, the largest "
                 "|theta| from %.3g to %.3g; try a smaller "
                 "rate, or clip_norm",
                 t->first_loss, t->last_loss, t->start_size, theta);
    }
    return grown;
}

static int step_failed(trainer *t, int64_t step, const char *why)
{
    char reason[400], rows[120] = "", growth[240] = "";
    snprintf(reason, sizeof reason, "%s", why); /* running single rows overwrites the workspace's */
    if (!name_growth(t, step, growth, sizeof growth)) name_rows(t, rows, sizeof rows);
    const char *advice = !growth[0] && !rows[0] ? "; try a smaller rate, or clip_norm" : "";
    return FAIL(t, "step %lld of %lld: %s%s%s%s; theta is as after step %lld", (long long)step,
                (long long)t->options->steps, reason, rows, growth, advice, (long long)step - 1);
}

static int update_failed(trainer *t, int64_t step)
{
    char reason[400];
    int64_t bad = nn_find_nonfinite(t->gradient->dtype, t->gradient->data, t->gradient->size);
    const nn_parameter *p = bad >= 0 ? nn_parameter_at(t->theta->model, bad) : NULL;
    const char *name = p ? p->name : "";
    if (!p && step == 1) { /* nothing has grown yet: it is the optimiser itself */
        return FAIL(t, "step 1 of %lld: %s; theta is as before it", (long long)t->options->steps,
                    nn_optimizer_error(t->state));
    }
    snprintf(reason, sizeof reason, "%s%s%.60s%s", nn_optimizer_error(t->state), p ? " (in '" : "",
             name, p ? "')" : "");
    return step_failed(t, step, reason);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int make_step(trainer *t, int64_t step)
{
    if (nn_batch_next(t, step)) return -1;
    bool checked = nn_trust_refine(t, step);
    if (nn_loss_run(t)) return step_failed(t, step, ad_workspace_error(t->workspace));
    if (!isfinite(t->loss)) {
        char reason[60];
        snprintf(reason, sizeof reason, "the loss is %g", nn_shown(t->loss));
        return step_failed(t, step, reason);
    }
    if (checked) nn_trust_compare(t, step);
    if (nn_optimizer_step(t->state, t->theta, t->gradient)) return update_failed(t, step);
    if (step == 1) t->first_loss = t->loss;
    t->last_loss = t->loss;
    return 0;
}

static int run(trainer *t, nn_train_report *report)
{
    const nn_train_options *o = t->options;
    bool stopped = false;
    for (int64_t step = 1; step <= o->steps && !stopped; step++) {
        if (make_step(t, step)) return -1;
        report->first_loss = t->first_loss;
        report->last_loss = t->last_loss;
        report->steps = step;
        nn_progress_update(t->progress, step, "loss %.5g", t->loss);
        stopped = o->on_step && o->on_step(step, t->loss, t->theta, o->user);
        if (step == 1 && nn_loss_compare(t, step)) return -1;
    }
    return report->steps > 1 ? nn_loss_compare(t, report->steps) : 0;
}

static void clear(trainer *t)
{
    nn_progress_free(t->progress);
    ad_workspace_free(t->workspace);
    ad_program_free(t->program);
    nn_optimizer_free(t->own_state);
    nn_theta_free(t->gradient);
    nn_theta_free(t->refined);
    nn_batches_free(t);
    free(t->key);
}

int nn_train(nn_theta *theta, const nn_train_options *options, nn_train_report *report, char *error,
             size_t error_size)
{
    trainer t = { .theta = theta, .options = options, .error = error, .error_size = error_size };
    nn_train_report own = { .first_loss = NAN, .last_loss = NAN };
    double start = now();
    t.report = &own;
    int result = prepare(&t);
    if (result == 0) result = run(&t, &own);
    own.seconds = now() - start;
    if (report) *report = own;
    clear(&t);
    return result;
}
