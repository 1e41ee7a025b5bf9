/* Training: a step is one run of the program of loss and gradient, and one update of theta. */
#include "nn/train/train.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void copy_theta(nn_theta *to, const nn_theta *from)
{
    memcpy(to->data, from->data, (size_t)from->size * nn_bytes(from->dtype));
}

/* ---- options --------------------------------------------------------------------------------- */

/* The stages with what they take from the options filled in. */
static int make_stages(nn_trainer *t)
{
    const nn_train_options *o = &t->options;
    if (o->nstage < 0 || (o->nstage > 0 && !o->stages))
        return FAIL(t, "options.stages is NULL, options.nstage is %d", o->nstage);
    nn_stage all = { .steps = o->steps };
    t->nstage = o->nstage > 0 ? o->nstage : 1;
    t->stages = calloc((size_t)t->nstage, sizeof *t->stages);
    if (!t->stages) return FAIL(t, "out of memory");
    for (int i = 0; i < t->nstage; i++) {
        nn_stage *s = &t->stages[i];
        *s = o->nstage > 0 ? o->stages[i] : all;
        if (!s->loss) s->loss = o->loss;
        if (!s->user) s->user = o->user;
        if (!s->arrays) {
            s->arrays = o->arrays;
            s->narray = o->narray;
        }
        if (s->batch == 0) s->batch = o->batch;
        if (!s->loss) return FAIL(t, "options.loss is NULL");
        if (s->steps < 1 && o->nstage == 0)
            return FAIL(t, "options.steps must be at least 1, but is %lld", (long long)s->steps);
        if (s->steps < 1 || t->steps > INT64_MAX - s->steps)
            return FAIL(t, "stage %d: steps must be at least 1, but is %lld", i,
                        (long long)s->steps);
        if (s->batch < 0 || o->threads < 0)
            return FAIL(t, "options.batch and options.threads must not be negative");
        t->steps += s->steps;
    }
    if (o->nstage == 0 || o->steps == 0 || o->steps == t->steps) return 0;
    return FAIL(t, "options.steps is %lld, but the stages have %lld; leave it zero",
                (long long)o->steps, (long long)t->steps);
}

static int check_numbers(nn_trainer *t)
{
    const nn_train_options *o = &t->options;
    if (o->skip < 0 || o->micro_batch < 0)
        return FAIL(t, "options.skip and options.micro_batch must not be negative");
    if (!(o->average >= 0 && o->average < 1))
        return FAIL(t, "options.average must be in 0 .. 1, but is %g", nn_shown(o->average));
    int64_t bad = nn_find_nonfinite(t->theta->dtype, t->theta->data, t->theta->size);
    if (bad < 0) return 0;
    return FAIL(t, "element %lld of theta is %g before the first step", (long long)bad,
                nn_shown(nn_element(t->theta->dtype, t->theta->data, bad)));
}

/* ---- stages ---------------------------------------------------------------------------------- */

static void close_stage(nn_trainer *t)
{
    int narray = t->feed.narray;
    nn_worker_free(t->worker);
    nn_evaluation_close(&t->validation);
    nn_runner_free(&t->runner);
    nn_batch_close(&t->batches[0], narray);
    nn_batch_close(&t->batches[1], narray);
    nn_feed_close(&t->feed);
    nn_theta_free(t->refined);
    nn_theta_free(t->aside);
    free(t->single);
    free(t->key);
    free(t->states);
    t->states = NULL;
    t->nstate = 0;
    t->worker = NULL;
    t->asked = 0;
    t->batch = NULL;
    t->refined = NULL;
    t->aside = NULL;
    t->single = NULL;
    t->key = NULL;
}

/* Compiles the stage that the next step belongs to. */
static int open_stage(nn_trainer *t, int stage)
{
    const nn_stage *s = &t->stages[stage];
    t->stage = stage;
    t->first = 0;
    for (int i = 0; i < stage; i++) t->first += t->stages[i].steps;
    t->single = calloc((size_t)s->narray + 1, sizeof *t->single);
    if (!t->single) return FAIL(t, "out of memory");
    if (nn_feed_open(t, &t->feed, s, NN_TRAINING, s->batch, false)) return -1;
    for (int i = 0; i < (t->options.worker ? 2 : 1); i++)
        if (nn_batch_open(t, &t->batches[i], &t->feed, t->theta)) return -1;
    if (nn_loss_compile(t) || nn_trust_new(t)) return -1;
    if (nn_validates(t) && nn_evaluation_open(t, &t->validation, NN_VALIDATION)) return -1;
    if (!t->options.worker) return 0;
    t->worker = nn_worker_new(&t->feed);
    return t->worker ? 0 : FAIL(t, "the thread of options.worker could not be started");
}

/* That of the latest step. */
static int stage_of(const nn_trainer *t)
{
    int stage = 0;
    for (int64_t end = t->stages[0].steps; end < t->step; end += t->stages[stage].steps) stage++;
    return stage;
}

/* ---- making a trainer ------------------------------------------------------------------------ */

static int make_thetas(nn_trainer *t)
{
    const nn_theta *theta = t->theta;
    bool pieces = t->options.micro_batch > 0, validated = nn_validates(t);
    t->gradient = nn_theta_new(theta->model, theta->dtype, NULL);
    if (pieces) t->piece = nn_theta_new(theta->model, theta->dtype, NULL);
    if (t->options.average > 0) t->average = nn_theta_copy(theta);
    if (validated) t->best = nn_theta_copy(theta);
    bool all = t->gradient && (t->piece || !pieces) && (t->average || t->options.average == 0) &&
               (t->best || !validated);
    return all ? 0 : FAIL(t, "out of memory");
}

/* The other processes learn of a failure here, and here from theirs: what a process does beside its
 * gradient can fail too. The last word of each is with step 0. */
static int last_word(nn_trainer *t, const char *failure)
{
    char error[600];
    nn_share share = { .rows = 1, .failure = failure };
    if (!t->reduction) return 0;
    int result = nn_reduction_step(t->reduction, &share, t->gradient, error, sizeof error);
    nn_reduction_free(t->reduction);
    t->reduction = NULL;
    return result && !failure ? FAIL(t, "%s", error) : result;
}

/* Finds the other processes at the same place, before any of them writes a file. */
static int join(nn_trainer *t)
{
    nn_processes *p = t->options.processes;
    char error[600];
    if (!p) return 0;
    t->met = true;
    if (nn_processes_meet(p, t->theta, NULL, error, sizeof error)) return FAIL(t, "%s", error);
    double steps[2] = { (double)t->step, (double)t->steps };
    double sums[2] = { steps[0], steps[1] };
    if (nn_processes_sum(p, 2, sums, error, sizeof error)) return FAIL(t, "%s", error);
    if (sums[0] != p->size * steps[0] || sums[1] != p->size * steps[1])
        return FAIL(
            t,
            "the processes do not all go on after the same step: rank %d after step %lld of "
            "%lld; give all of them the same options and the same checkpoint",
            p->rank, (long long)t->step, (long long)t->steps);
    t->reduction = nn_reduction_new(p, t->theta);
    return t->reduction ? 0 : FAIL(t, "out of memory");
}

static int prepare(nn_trainer *t, const nn_train_options *options)
{
    if (nn_theta_check("nn_train", t->theta, t->error, sizeof t->error)) return -1;
    if (!options) return FAIL(t, "options is NULL");
    if (make_stages(t) || check_numbers(t)) return -1;
    for (int i = 0; i < t->nstage; i++)
        if (nn_arrays_check(t, &t->stages[i])) return -1;
    if (nn_parts_new(t) || nn_validation_check(t)) return -1;
    if (t->options.optimizer.threads == 0) t->options.optimizer.threads = t->options.threads;
    t->state = nn_optimizer_new(&t->options.optimizer, t->theta, t->steps);
    if (nn_optimizer_error(t->state)) return FAIL(t, "%s", nn_optimizer_error(t->state));
    if (make_thetas(t)) return -1;
    t->start_size = nn_largest(t->theta);
    if (nn_checkpoint_resume(t) || join(t) || open_stage(t, stage_of(t)) || nn_log_open(t))
        return -1;
    /* The first one tells at once whether it can be written. */
    if (t->options.checkpoint.path && t->step == 0 && nn_leads(t) && nn_checkpoint_write(t))
        return -1;
    if (t->options.label && nn_leads(t)) t->progress = nn_progress_new(t->options.label, t->steps);
    return 0;
}

nn_trainer *nn_trainer_new(nn_theta *theta, const nn_train_options *options)
{
    nn_trainer *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->theta = theta;
    double start = now();
    t->report = (nn_train_report){ .first_loss = NAN, .last_loss = NAN };
    if (options) t->options = *options;
    bool fine = prepare(t, options) == 0;
    if (!fine && t->reduction) last_word(t, t->error);
    else if (!fine && t->options.processes && !t->met)
        nn_processes_meet(t->options.processes, theta, t->error, NULL, 0);
    t->report.seconds += now() - start;
    return t;
}

void nn_trainer_free(nn_trainer *trainer)
{
    if (!trainer) return;
    nn_progress_free(trainer->progress);
    nn_log_close(trainer);
    close_stage(trainer);
    nn_reduction_free(trainer->reduction);
    nn_optimizer_free(trainer->state);
    nn_theta_free(trainer->gradient);
    nn_theta_free(trainer->piece);
    nn_theta_free(trainer->average);
    nn_theta_free(trainer->best);
    free(trainer->parts);
    free(trainer->stages);
    free(trainer);
}

const char *nn_trainer_error(const nn_trainer *trainer)
{
    if (!trainer) return "nn_train: out of memory";
    return trainer->error[0] ? trainer->error : NULL;
}

const nn_train_report *nn_trainer_report(const nn_trainer *trainer)
{
    return trainer ? &trainer->report : NULL;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* The batch of the next step; with a worker, the one after it is asked for. */
static int next_batch(nn_trainer *t)
{
    int64_t step = t->step - t->first + 1; /* of the stage */
    nn_batch *batch = t->batch;
    int result = 0;
    if (!t->worker) {
        batch = &t->batches[0];
        result = nn_batch_fill(&t->feed, batch, step);
    } else {
        batch = batch == &t->batches[0] ? &t->batches[1] : &t->batches[0];
        if (t->asked != step) nn_worker_ask(t->worker, batch, step);
        result = nn_worker_wait(t->worker);
    }
    t->batch = batch;
    if (result)
        return FAIL(t, "%s at step %lld of %lld; theta is as after step %lld", batch->error,
                    (long long)t->step + 1, (long long)t->steps, (long long)t->step);
    if (t->worker && step < t->stages[t->stage].steps) {
        nn_batch *next = batch == &t->batches[0] ? &t->batches[1] : &t->batches[0];
        t->asked = step + 1;
        nn_worker_ask(t->worker, next, t->asked);
    }
    return 0;
}

/* Whether the batch that failed may be left out; then it is. */
static bool skip(nn_trainer *t)
{
    if (t->report.skipped >= t->options.skip) return false;
    t->report.skipped++;
    return true;
}

/* The mean over all processes; `failure` is why this one has no gradient, or NULL. 1: the batch is
 * left out, by all of them. */
static int reduce(nn_trainer *t, const char *failure)
{
    char error[600], reason[60];
    nn_share share = { .loss = t->loss, .rows = nn_own_rows(t), .step = t->step + 1 };
    share.failure = failure;
    if (!failure && share.rows > 0 && !isfinite(t->loss)) {
        snprintf(reason, sizeof reason, "the loss is %g", nn_shown(t->loss));
        share.failure = reason;
    }
    if (nn_reduction_step(t->reduction, &share, t->gradient, error, sizeof error)) {
        if (skip(t)) return 1;
        nn_reduction_free(t->reduction); /* all have the error */
        t->reduction = NULL;
        return nn_step_failed(t, error);
    }
    t->loss = share.loss;
    return 0;
}

/* Loss and gradient of the batch, and the update. 1: the batch is left out. */
static int update(nn_trainer *t)
{
    bool checked = nn_own_rows(t) > 0 && nn_trust_refine(t, t->step + 1);
    const char *failure =
        nn_gradient(t, 0, &t->loss, t->gradient) ? ad_workspace_error(t->runner.workspace) : NULL;
    if (failure && !t->reduction) return skip(t) ? 1 : nn_step_failed(t, failure);
    if (checked && !failure && isfinite(t->loss)) nn_trust_compare(t, t->step + 1);
    int left_out = t->reduction ? reduce(t, failure) : 0;
    if (left_out) return left_out;
    if (!isfinite(t->loss)) {
        char reason[60];
        snprintf(reason, sizeof reason, "the loss is %g", nn_shown(t->loss));
        return skip(t) ? 1 : nn_step_failed(t, reason);
    }
    const char *bad = nn_bad_state(t);
    if (bad) {
        char reason[120];
        snprintf(reason, sizeof reason, "the new value of '%.60s' is not finite", bad);
        return skip(t) ? 1 : nn_step_failed(t, reason);
    }
    if (nn_optimizer_step(t->state, t->theta, t->gradient) == 0) {
        nn_states_copy(t, t->gradient, t->theta);
        return 0;
    }
    bool gradient =
        nn_find_nonfinite(t->gradient->dtype, t->gradient->data, t->gradient->size) >= 0;
    return gradient && skip(t) ? 1 : nn_update_failed(t);
}

/* What follows an update. */
static int follow(nn_trainer *t)
{
    const nn_train_options *o = &t->options;
    nn_train_report *r = &t->report;
    if (isnan(r->first_loss)) r->first_loss = t->loss;
    r->last_loss = t->loss;
    t->loss_sum += t->loss;
    t->loss_count++;
    if (o->on_step && o->on_step(t->step, t->loss, t->theta, o->user)) t->stopped = true;
    if (t->average) {
        double share = fmax(1 - o->average, 9 / ((double)t->step + 10));
        if (nn_theta_average(t->average, t->theta, share))
            return FAIL(t, "%s", nn_theta_error(t->average));
    }
    return t->step == t->first + 1 ? nn_loss_compare(t) : 0;
}

/* theta as it is in the end. */
static int finish(nn_trainer *t)
{
    t->over = true;
    if (last_word(t, NULL)) return -1;
    if (t->average) copy_theta(t->theta, t->average);
    if (t->report.best_step > 0 && !t->options.validation.keep_last) copy_theta(t->theta, t->best);
    return 0;
}

static int step(nn_trainer *t)
{
    const nn_stage *stage = &t->stages[t->stage];
    bool last = t->stopped || t->step == t->steps;
    if (t->step == t->first + stage->steps || last) {
        if (t->batch && t->step > t->first + 1 && nn_loss_compare(t)) return -1;
        if (last) return finish(t);
        close_stage(t);
        if (open_stage(t, t->stage + 1)) return -1;
    }
    if (next_batch(t)) return -1;
    int result = update(t);
    if (result < 0) return -1;
    t->step++;
    t->report.steps = t->step;
    if (result == 0 && follow(t)) return -1;
    bool validated = nn_validation_is_due(t);
    if (validated && nn_validate(t)) return -1;
    if (nn_log_step(t, validated)) return -1;
    if (nn_checkpoint_is_due(t) && nn_checkpoint_write(t)) return -1;
    if (t->report.validations == 0) nn_progress_update(t->progress, t->step, "loss %.5g", t->loss);
    else
        nn_progress_update(t->progress, t->step, "loss %.5g, validation %.5g", t->loss,
                           t->report.validation.loss);
    return 1;
}

int nn_trainer_step(nn_trainer *trainer)
{
    if (!trainer || trainer->error[0]) return -1;
    if (trainer->over) return 0;
    double start = now();
    int result = step(trainer);
    if (result < 0) last_word(trainer, trainer->error);
    trainer->report.seconds += now() - start;
    return result;
}

/* ---- the rest -------------------------------------------------------------------------------- */

int nn_trainer_evaluate(nn_trainer *trainer, nn_part part, nn_scores *scores)
{
    nn_trainer *t = trainer;
    if (!t || t->error[0]) return -1;
    if (!scores) return FAIL(t, "nn_trainer_evaluate: scores is NULL");
    bool drawn = t->examples == 0 && t->options.validation.rows > 0;
    if (part < NN_TRAINING || part > NN_TEST || (t->count[part] == 0 && !drawn))
        return FAIL(t, "nn_trainer_evaluate: there are no examples in part %d", (int)part);
    nn_evaluation e = { 0 };
    int result = nn_evaluation_open(t, &e, part) ? -1 : nn_evaluation_run(t, &e, t->theta, scores);
    nn_evaluation_close(&e);
    return result;
}

int nn_train(nn_theta *theta, const nn_train_options *options, nn_train_report *report, char *error,
             size_t error_size)
{
    nn_trainer *t = nn_trainer_new(theta, options);
    while (nn_trainer_step(t) > 0) continue;
    if (t && !t->error[0] && t->count[NN_TEST] > 0)
        nn_trainer_evaluate(t, NN_TEST, &t->report.test);
    if (report && t) *report = t->report;
    const char *wrong = nn_trainer_error(t);
    if (wrong) nn_error(error, error_size, "%s", wrong);
    nn_trainer_free(t);
    return wrong ? -1 : 0;
}
