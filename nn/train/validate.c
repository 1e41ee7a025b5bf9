/* Validation: loss and metrics of a part, the best weights, and when there is no more to be gained.
 * Means are over rows, whatever the batches: a smaller last batch weighs less. */
#include "nn/train/train.h"
#include "autodiff/extension.h"
#include <stdlib.h>
#include <string.h>

bool nn_validates(const nn_trainer *t)
{
    return t->count[NN_VALIDATION] > 0 || (t->examples == 0 && t->options.validation.rows > 0);
}

/* Which metric is watched; -1: the loss; -2: there is no such metric. */
static int watched(const nn_validation *v)
{
    if (!v->watch) return -1;
    for (int i = 0; i < v->nmetric; i++)
        if (strcmp(v->metrics[i].name, v->watch) == 0) return i;
    return -2;
}

static int check_names(nn_trainer *t)
{
    static const char *const taken[] = { "step", "epoch", "loss", "validation", "seconds" };
    const nn_validation *v = &t->options.validation;
    for (int i = 0; i < v->nmetric; i++) {
        const char *name = v->metrics[i].name;
        if (!name || !*name) return FAIL(t, "metric %d has no name", i);
        bool twice = false;
        for (size_t k = 0; k < sizeof taken / sizeof *taken; k++)
            twice = twice || strcmp(name, taken[k]) == 0;
        for (int k = 0; k < i; k++) twice = twice || strcmp(name, v->metrics[k].name) == 0;
        if (twice) return FAIL(t, "the metric's name '%.60s' is taken", name);
        if (v->metrics[i].kind > NN_AUC)
            return FAIL(t, "the metric '%.60s' is of no kind there is", name);
    }
    return 0;
}

int nn_validation_check(nn_trainer *t)
{
    const nn_validation *v = &t->options.validation;
    if (v->nmetric < 0 || v->nmetric > NN_MAX_METRICS || (v->nmetric > 0 && !v->metrics))
        return FAIL(t, "validation.nmetric is %d; there can be up to %d, in validation.metrics",
                    v->nmetric, NN_MAX_METRICS);
    if (v->nmetric > 0 && !v->record)
        return FAIL(t, "there are metrics, but validation.record is NULL");
    if (check_names(t)) return -1;
    if (v->every < 0 || v->rows < 0 || v->batch < 0 || v->patience < 0 || !(v->min_delta >= 0))
        return FAIL(t,
                    "every, rows, batch, min_delta and patience of options.validation must not be "
                    "negative");
    if (v->rows > 0 && t->examples > 0)
        return FAIL(t,
                    "validation.rows is for rows that are drawn; of examples, options.split says "
                    "which ones are for validation");
    if (watched(v) < -1) return FAIL(t, "validation.watch: there is no metric '%.60s'", v->watch);
    if (nn_validates(t) || (v->every == 0 && v->patience == 0 && !v->watch)) return 0;
    return FAIL(t, "options.validation is given, but options.split leaves no examples for it");
}

/* ---- evaluations ----------------------------------------------------------------------------- */

static bool is_auc(const nn_trainer *t, int metric)
{
    return t->options.validation.metrics[metric].kind == NN_AUC;
}

static int make_outputs(nn_trainer *t, nn_evaluation *e)
{
    for (int i = 0; i <= t->options.validation.nmetric; i++) {
        bool rows = i > 0 && is_auc(t, i - 1);
        e->outputs[i] = calloc(rows ? 2 * (size_t)e->feed.batch : 2, sizeof(double));
        if (rows) e->pairs[i - 1] = malloc((size_t)e->feed.rows * sizeof *e->pairs[i - 1]);
        if (!e->outputs[i] || (rows && !e->pairs[i - 1])) return FAIL(t, "out of memory");
    }
    return 0;
}

int nn_evaluation_open(nn_trainer *t, nn_evaluation *e, nn_part part)
{
    const nn_stage *stage = &t->stages[t->stage];
    int64_t batch = t->options.validation.batch > 0 ? t->options.validation.batch : stage->batch;
    if (nn_feed_open(t, &e->feed, stage, part, batch, false)) return -1;
    if (part == NN_TRAINING) { /* in order, and drawn as for validation */
        e->feed.part = NN_VALIDATION;
        e->feed.rows = e->feed.count > 0 ? e->feed.count : t->options.validation.rows;
        e->feed.planned = nn_feed_batches(&e->feed);
    }
    if (nn_batch_open(t, &e->batch, &e->feed, t->theta)) return -1;
    if (nn_metrics_compile(t, &e->runner)) return -1;
    return make_outputs(t, e);
}

void nn_evaluation_close(nn_evaluation *e)
{
    for (int i = 0; i <= NN_MAX_METRICS; i++) free(e->outputs[i]);
    for (int i = 0; i < NN_MAX_METRICS; i++) free(e->pairs[i]);
    nn_runner_free(&e->runner);
    nn_batch_close(&e->batch, e->feed.narray);
    nn_feed_close(&e->feed);
    *e = (nn_evaluation){ 0 };
}

/* Sums over the batches: of values weighted by rows, or of numerators and denominators. */
typedef struct {
    double above, below;
} ratio;

/* A batch into the sums; scores and labels are kept. */
static void add_batch(const nn_trainer *t, nn_evaluation *e, int64_t before, ratio *sums)
{
    const nn_validation *v = &t->options.validation;
    ad_dtype dtype = t->theta->dtype;
    double rows = (double)e->batch.rows;
    for (int i = 0; i <= v->nmetric; i++) {
        double first = nn_element(dtype, e->outputs[i], 0);
        bool of_sums = i > 0 && v->metrics[i - 1].kind == NN_RATIO;
        sums[i].above += of_sums ? first : rows * first;
        sums[i].below += of_sums ? nn_element(dtype, e->outputs[i], 1) : rows;
    }
    for (int i = 0; i < v->nmetric; i++) {
        for (int64_t k = 0; e->pairs[i] && k < 2 * e->batch.rows; k++)
            e->pairs[i][before + k / 2][k % 2] = nn_element(dtype, e->outputs[1 + i], k);
    }
}

static int run_batches(nn_trainer *t, nn_evaluation *e, ratio *sums)
{
    int64_t rows = 0;
    for (int64_t k = 1; k <= nn_feed_batches(&e->feed); k++) {
        if (nn_batch_fill(&e->feed, &e->batch, k))
            return FAIL(t, "validation after step %lld: %s", (long long)t->step, e->batch.error);
        if (ad_run(e->runner.program, e->runner.workspace, e->batch.rows, e->batch.inputs,
                   e->outputs))
            return FAIL(t, "validation after step %lld: %s", (long long)t->step,
                        ad_workspace_error(e->runner.workspace));
        add_batch(t, e, rows, sums);
        rows += e->batch.rows;
    }
    return 0;
}

/* The area of a metric from the scores and labels of all rows. */
static int measure_area(nn_trainer *t, nn_evaluation *e, int metric, double *area)
{
    const char *name = t->options.validation.metrics[metric].name;
    double(*pairs)[2] = e->pairs[metric];
    int64_t n = e->feed.rows;
    *area = NAN;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(pairs[i][0])) return 0; /* no score, no area */
        if (pairs[i][1] != 0 && pairs[i][1] != 1)
            return FAIL(t, "the metric '%.60s': a label is %g, but must be 0 or 1", name,
                        nn_shown(pairs[i][1]));
    }
    *area = nn_auc(n, pairs);
    if (!isnan(*area)) return 0;
    return FAIL(t,
                "the metric '%.60s': all %lld labels are the same, and there is no area under the "
                "curve; choose the examples of the part (options.split.part)",
                name, (long long)n);
}

int nn_evaluation_run(nn_trainer *t, nn_evaluation *e, const nn_theta *theta, nn_scores *scores)
{
    const nn_validation *v = &t->options.validation;
    ratio sums[1 + NN_MAX_METRICS] = { { 0, 0 } };
    e->batch.inputs[0] = theta->data;
    *scores = (nn_scores){ 0 };
    if (run_batches(t, e, sums)) return -1;
    scores->loss = sums[0].above / sums[0].below;
    for (int i = 0; i < v->nmetric; i++) {
        double value = sums[1 + i].above / sums[1 + i].below;
        if (v->metrics[i].kind == NN_ROOT) value = sqrt(value);
        if (e->pairs[i] && measure_area(t, e, i, &value)) return -1;
        scores->metrics[i] = value;
    }
    return 0;
}

/* ---- area under the curve -------------------------------------------------------------------- */

static int by_score(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (x[0] > y[0]) - (x[0] < y[0]);
}

/* By ranks; those of equal scores share their mean. */
double nn_auc(int64_t n, double (*pairs)[2])
{
    double ones = 0, ranks = 0;
    qsort(pairs, (size_t)n, sizeof *pairs, by_score);
    for (int64_t i = 0; i < n;) {
        int64_t stop = i;
        double tied = 0;
        for (; stop < n && pairs[stop][0] == pairs[i][0]; stop++) tied += pairs[stop][1];
        ones += tied;
        ranks += tied * 0.5 * (double)(i + 1 + stop);
        i = stop;
    }
    double zeros = (double)n - ones;
    return ones > 0 && zeros > 0 ? (ranks - 0.5 * ones * (ones + 1)) / (ones * zeros) : NAN;
}

/* ---- the best weights ------------------------------------------------------------------------ */

bool nn_validation_is_due(const nn_trainer *t)
{
    if (!nn_validates(t)) return false;
    int64_t every = t->options.validation.every;
    if (every == 0) {
        int64_t hundredth = (t->steps + 99) / 100, epoch = nn_feed_batches(&t->feed);
        every = epoch > hundredth ? epoch : hundredth;
    }
    return t->step % every == 0 || t->step == t->steps || t->stopped;
}

/* By how much scores are better than others. */
static double gain(const nn_validation *v, const nn_scores *now, const nn_scores *before)
{
    int i = watched(v);
    if (i < 0) return before->loss - now->loss;
    bool larger = v->metrics[i].larger || v->metrics[i].kind == NN_AUC;
    double less = before->metrics[i] - now->metrics[i];
    return larger ? -less : less;
}

static bool is_finite(const nn_validation *v, const nn_scores *scores)
{
    int i = watched(v);
    return isfinite(i < 0 ? scores->loss : scores->metrics[i]);
}

int nn_validate(nn_trainer *t)
{
    const nn_validation *v = &t->options.validation;
    nn_train_report *r = &t->report;
    const nn_theta *theta = t->average ? t->average : t->theta;
    if (nn_evaluation_run(t, &t->validation, theta, &r->validation)) return -1;
    r->validations++;
    bool better = is_finite(v, &r->validation) &&
                  (r->best_step == 0 || gain(v, &r->validation, &r->best) > v->min_delta);
    t->waiting = better ? 0 : t->waiting + 1;
    if (better) {
        r->best_step = t->step;
        r->best = r->validation;
        memcpy(t->best->data, theta->data, (size_t)theta->size * nn_bytes(theta->dtype));
    }
    if (v->patience > 0 && t->waiting >= v->patience) t->stopped = r->stopped_early = true;
    return 0;
}
