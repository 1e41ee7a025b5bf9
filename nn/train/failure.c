/* What is said when a step fails: theta or a loss that have run away, or else the rows that fail by
 * themselves. */
#include "nn/train/train.h"

enum { EXAMINED = 1000 }; /* rows of a batch that failed, at most */
enum { REASON_SIZE = 800 };

double nn_largest(const nn_theta *theta)
{
    double largest = 0;
    for (int64_t i = 0; i < theta->size; i++) {
        double size = fabs(nn_element(theta->dtype, theta->data, i));
        if (size > largest) largest = size;
    }
    return largest;
}

/* Whether a row by itself gives no finite loss. */
static bool row_fails(nn_trainer *t, int64_t row)
{
    union {
        float f32;
        double f64;
    } loss = { .f64 = 0 };
    const void *const *inputs = nn_batch_from(&t->feed, t->batch, row, t->single);
    if (ad_run(t->runner.program, t->runner.workspace, 1, inputs, (void *const[]){ &loss, NULL }))
        return true;
    return !isfinite(nn_element(t->theta->dtype, &loss, 0));
}

/* Where a few rows of the batch fail alone, they are to blame, and the first is named: "; 2 of 64
 * examples do so alone, the first is 17". Else nothing: then it is theta, or the loss. */
static void name_rows(nn_trainer *t, char *text, size_t size)
{
    int64_t rows = t->batch->rows < EXAMINED ? t->batch->rows : EXAMINED;
    int64_t failing = 0, first = -1;
    for (int64_t r = 0; r < rows; r++) {
        if (!row_fails(t, r)) continue;
        failing++;
        if (first < 0) first = r;
    }
    if (failing == 0 || 2 * failing > rows) return;
    bool drawn = t->examples == 0;
    snprintf(text, size, "; %lld of %lld %s alone, the first is %lld (from 0)", (long long)failing,
             (long long)rows, drawn ? "rows drawn do so" : "examples do so",
             (long long)(drawn ? first : t->batch->examples[first]));
}

/* Where theta or the loss have run away since the first step, that is the cause, whatever failed in
 * the end. */
static bool name_growth(const nn_trainer *t, char *text, size_t size)
{
    double theta = nn_largest(t->theta), least = fmax(t->start_size, 1);
    double first = t->report.first_loss, last = t->report.last_loss;
    bool grown = theta > 10 * least || last - first > 10 * fmax(fabs(first), 1);
    if (t->step == 0 || !grown) return grown;
    snprintf(text, size,
             "the training has blown up: the loss went from %.3g to %.3g, the largest |theta| from "
             "%.3g to %.3g; try a smaller rate, or clip_norm. What failed then: ",
             first, last, t->start_size, theta);
    return true;
}

int nn_step_failed(nn_trainer *t, const char *why)
{
    char reason[REASON_SIZE], rows[120] = "", growth[240] = "", skipped[80] = "";
    snprintf(reason, sizeof reason, "%s", why); /* running single rows overwrites the workspace's */
    if (!name_growth(t, growth, sizeof growth)) name_rows(t, rows, sizeof rows);
    const char *advice =
        t->step == 0 ? "; this is before any update: it is the loss, the data or the initial theta"
        : !growth[0] && !rows[0] ? "; try a smaller rate, or clip_norm"
                                 : "";
    if (t->report.skipped > 0)
        snprintf(skipped, sizeof skipped, "; %lld batches have been left out before",
                 (long long)t->report.skipped);
    return FAIL(t, "step %lld of %lld: %s%s%s%s%s; theta is as after step %lld",
                (long long)t->step + 1, (long long)t->steps, growth, reason, rows, advice, skipped,
                (long long)t->step);
}

int nn_update_failed(nn_trainer *t)
{
    char reason[REASON_SIZE];
    int64_t bad = nn_find_nonfinite(t->gradient->dtype, t->gradient->data, t->gradient->size);
    const nn_parameter *p = bad >= 0 ? nn_parameter_at(t->theta->model, bad) : NULL;
    const char *name = p ? p->name : "";
    if (!p && t->step == 0) { /* nothing has grown yet: it is the optimiser itself */
        return FAIL(t, "step 1 of %lld: %s; theta is as before it", (long long)t->steps,
                    nn_optimizer_error(t->state));
    }
    snprintf(reason, sizeof reason, "%s%s%.60s%s", nn_optimizer_error(t->state), p ? " (in '" : "",
             name, p ? "')" : "");
    return nn_step_failed(t, reason);
}
