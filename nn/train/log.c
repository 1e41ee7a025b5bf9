/* Lines of numbers: comma-separated values, or JSON objects. */
#include "nn/train/train.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_json(const nn_trainer *t)
{
    const char *path = t->options.log.path, *end = strrchr(path, '.');
    return end && strcmp(end, ".jsonl") == 0;
}

static int log_failed(nn_trainer *t)
{
    return FAIL(t, "%s: cannot be written: %s; theta is as after step %lld", t->options.log.path,
                strerror(errno), (long long)t->step);
}

static int end_line(nn_trainer *t)
{
    fputc('\n', t->log);
    if (fflush(t->log) || ferror(t->log)) return log_failed(t);
    t->log_size = ftell(t->log);
    return 0;
}

/* One number; what is not finite, and what there is not, is left out of both kinds of lines. */
static void put(nn_trainer *t, const char *name, double value)
{
    bool first = strcmp(name, "step") == 0, has = isfinite(value);
    if (!is_json(t)) {
        if (!first) fputc(',', t->log);
        if (has) fprintf(t->log, "%.9g", value);
    } else if (has) {
        fprintf(t->log, "%s\"%s\":%.9g", first ? "{" : ",", name, value);
    }
}

static int begin_file(nn_trainer *t)
{
    const nn_validation *v = &t->options.validation;
    if (is_json(t)) return 0;
    fputs("step,epoch,loss", t->log);
    if (nn_validates(t)) {
        fputs(",validation", t->log);
        for (int i = 0; i < v->nmetric; i++) fprintf(t->log, ",%s", v->metrics[i].name);
    }
    fputs(",seconds", t->log);
    return end_line(t);
}

int nn_log_open(nn_trainer *t)
{
    const nn_log *o = &t->options.log;
    if (!o->path || !nn_leads(t)) return 0;
    if (o->every < 0) return FAIL(t, "options.log.every must not be negative");
    bool on = t->log_size > 0;
    t->log = fopen(o->path, on ? "r+" : "w");
    if (!t->log) return log_failed(t);
    if (!on) return begin_file(t);
    if (fseek(t->log, 0, SEEK_END) || ftell(t->log) < t->log_size)
        return FAIL(t,
                    "%s is shorter than it was when %s was written; move the log back, or begin "
                    "anew (options.checkpoint.fresh)",
                    o->path, t->options.checkpoint.path);
    if (ftruncate(fileno(t->log), t->log_size) || fseek(t->log, t->log_size, SEEK_SET))
        return log_failed(t);
    return 0;
}

int nn_log_step(nn_trainer *t, bool validated)
{
    if (!t->log) return 0;
    const nn_validation *v = &t->options.validation;
    int64_t every = t->options.log.every > 0 ? t->options.log.every : (t->steps + 999) / 1000;
    if (!validated && t->step % every != 0 && t->step != t->steps && !t->stopped) return 0;
    int64_t epoch = (t->step - t->first - 1) / nn_feed_batches(&t->feed) + 1;
    put(t, "step", (double)t->step);
    put(t, "epoch", (double)epoch);
    put(t, "loss", t->loss_count > 0 ? t->loss_sum / (double)t->loss_count : NAN);
    if (nn_validates(t)) {
        put(t, "validation", validated ? t->report.validation.loss : NAN);
        for (int i = 0; i < v->nmetric; i++)
            put(t, v->metrics[i].name, validated ? t->report.validation.metrics[i] : NAN);
    }
    put(t, "seconds", t->report.seconds);
    if (is_json(t)) fputc('}', t->log);
    t->loss_sum = 0;
    t->loss_count = 0;
    return end_line(t);
}

void nn_log_close(nn_trainer *t)
{
    if (t->log) fclose(t->log);
    t->log = NULL;
}
