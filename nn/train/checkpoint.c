/* Checkpoints: all that a training has come to, in one safetensors file. Arrays: theta, the average
 * and the best weights by the names of their parameters, the optimiser's state whole. Texts: what
 * the training is, which has to be the same, and how far it has come. The order of the data and the
 * generators of draws are functions of seed and step, and need no place. */
#include "nn/train/train.h"
#include "nn/model/safetensors.h"
#include "autodiff/extension.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMAT "costate checkpoint 1"
enum { TEXT = 200, NAME = 300 };

/* ---- texts ----------------------------------------------------------------------------------- */

/* What the training is. */
enum { IDENTITIES = 8 };
typedef struct {
    const char *key, *what; /* what: for messages */
    char value[TEXT];
} identity;

static void identify(const nn_trainer *t, identity list[IDENTITIES])
{
    const nn_train_options *o = &t->options;
    const nn_stage *s = &t->stages[0];
    identity all[IDENTITIES] = { { "format", "the format", FORMAT },
                                 { "dtype", "theta's type", "" },
                                 { "optimizer", "the optimiser", "" },
                                 { "examples", "the number of examples", "" },
                                 { "training", "the number of examples for training", "" },
                                 { "batch", "options.batch", "" },
                                 { "seed", "options.seed", "" },
                                 { "steps", "the steps (of stages, or of a schedule)", "" } };
    memcpy(list, all, sizeof all);
    snprintf(list[1].value, TEXT, "%s", nn_dtype_name(t->theta->dtype));
    snprintf(list[2].value, TEXT, "%s", nn_optimizer_name(nn_optimizer_algorithm(t->state)));
    snprintf(list[3].value, TEXT, "%lld", (long long)t->examples);
    snprintf(list[4].value, TEXT, "%lld", (long long)t->count[NN_TRAINING]);
    snprintf(list[5].value, TEXT, "%lld", (long long)nn_batch_rows(s->batch, t->examples));
    snprintf(list[6].value, TEXT, "%llu", (unsigned long long)o->seed);
    /* Without a schedule and stages, more steps are the same training. */
    size_t used = 0;
    for (int i = 0; i < t->nstage && (t->nstage > 1 || o->optimizer.schedule); i++) {
        if (used < TEXT - 24)
            used += (size_t)snprintf(list[7].value + used, TEXT - used, "%s%lld", i ? " " : "",
                                     (long long)t->stages[i].steps);
    }
}

/* How far it has come: numbers of the trainer. */
typedef struct {
    const char *key;
    int64_t *whole; /* one of the two */
    double *real;
} position;
enum { POSITIONS = 15 + 2 * NN_MAX_METRICS };

static int list_positions(nn_trainer *t, position list[POSITIONS], char names[][24])
{
    nn_train_report *r = &t->report;
    position all[] = { { "step", &t->step, NULL },
                       { "skipped", &r->skipped, NULL },
                       { "waiting", &t->waiting, NULL },
                       { "validations", &r->validations, NULL },
                       { "best_step", &r->best_step, NULL },
                       { "gradient_checks", &r->gradient_checks, NULL },
                       { "log_size", &t->log_size, NULL },
                       { "loss_count", &t->loss_count, NULL },
                       { "loss_sum", NULL, &t->loss_sum },
                       { "first_loss", NULL, &r->first_loss },
                       { "last_loss", NULL, &r->last_loss },
                       { "seconds", NULL, &r->seconds },
                       { "gradient_difference", NULL, &r->gradient_difference },
                       { "validation_loss", NULL, &r->validation.loss },
                       { "best_loss", NULL, &r->best.loss } };
    int n = (int)(sizeof all / sizeof *all);
    memcpy(list, all, sizeof all);
    for (int i = 0; i < t->options.validation.nmetric; i++) {
        snprintf(names[2 * i], 24, "validation_%d", i);
        snprintf(names[2 * i + 1], 24, "best_%d", i);
        list[n++] = (position){ names[2 * i], NULL, &r->validation.metrics[i] };
        list[n++] = (position){ names[2 * i + 1], NULL, &r->best.metrics[i] };
    }
    return n;
}

static json_t *describe(nn_trainer *t)
{
    identity what[IDENTITIES];
    position where[POSITIONS];
    char names[2 * NN_MAX_METRICS][24];
    json_t *texts = json_object();
    identify(t, what);
    int n = list_positions(t, where, names), failed = !texts;
    for (int i = 0; i < IDENTITIES; i++)
        failed |= json_object_set_new(texts, what[i].key, json_string(what[i].value));
    for (int i = 0; i < n; i++) {
        char text[40];
        if (where[i].whole) snprintf(text, sizeof text, "%lld", (long long)*where[i].whole);
        else snprintf(text, sizeof text, "%.17g", *where[i].real);
        failed |= json_object_set_new(texts, where[i].key, json_string(text));
    }
    if (!failed) return texts;
    json_decref(texts);
    return NULL;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

/* Arrays of a checkpoint and where they are in memory. */
typedef struct {
    int64_t n;
    nn_tensor *tensor;
    char (*name)[NAME];
} arrays;

static void add_array(arrays *a, const char *group, const char *name, ad_dtype dtype,
                      ad_shape shape, void *data)
{
    snprintf(a->name[a->n], NAME, "%s.%s", group, name);
    a->tensor[a->n] = (nn_tensor){ a->name[a->n], (nn_type)dtype, shape, data };
    a->n++;
}

static void add_theta(arrays *a, const char *group, const nn_theta *theta)
{
    for (int64_t i = 0; theta && i < theta->model->count; i++) {
        const nn_parameter *p = &theta->model->parameter[i];
        add_array(a, group, p->name, theta->dtype, p->shape,
                  (char *)theta->data + (size_t)p->offset * nn_bytes(theta->dtype));
    }
}

static int list_arrays(nn_trainer *t, arrays *a)
{
    size_t room = 3 * (size_t)t->theta->model->count + NN_STATE_ARRAYS;
    nn_state_array states[NN_STATE_ARRAYS];
    a->n = 0;
    a->tensor = calloc(room, sizeof *a->tensor);
    a->name = calloc(room, sizeof *a->name);
    if (!a->tensor || !a->name) return FAIL(t, "out of memory");
    add_theta(a, "theta", t->theta);
    add_theta(a, "average", t->average);
    add_theta(a, "best", t->best);
    nn_optimizer_arrays(t->state, states);
    for (int i = 0; i < NN_STATE_ARRAYS; i++)
        add_array(a, "optimizer", states[i].name, states[i].dtype, AD_SHAPE(states[i].size),
                  states[i].data);
    return 0;
}

static void clear(arrays *a)
{
    free(a->tensor);
    free(a->name);
}

/* ---- writing --------------------------------------------------------------------------------- */

bool nn_checkpoint_is_due(const nn_trainer *t)
{
    const nn_checkpoint *c = &t->options.checkpoint;
    int64_t every = c->every > 0 ? c->every : (t->steps + 99) / 100;
    return nn_leads(t) && c->path && (t->step % every == 0 || t->step == t->steps || t->stopped);
}

static void older(const char *path, int age, char *name)
{
    if (age == 0) snprintf(name, 4096, "%s", path);
    else snprintf(name, 4096, "%s.%d", path, age);
}

/* path becomes path.1, and so on; path itself stays until the new one takes its place. */
static int keep_older(nn_trainer *t)
{
    const nn_checkpoint *c = &t->options.checkpoint;
    char from[4096], to[4096];
    for (int age = c->keep - 1; age > 0; age--) {
        older(c->path, age - 1, from);
        older(c->path, age, to);
        if (access(from, F_OK)) continue; /* not so many yet */
        unlink(to); /* renaming does nothing where both names are of one file, after a kill here */
        int failed = age > 1 ? rename(from, to) : link(from, to);
        if (failed)
            return FAIL(t, "checkpoint after step %lld: %s: cannot be written: %s",
                        (long long)t->step, to, strerror(errno));
    }
    return 0;
}

int nn_checkpoint_write(nn_trainer *t)
{
    const char *path = t->options.checkpoint.path;
    char why[600] = "out of memory";
    arrays a = { 0 };
    int result = list_arrays(t, &a);
    json_t *texts = result ? NULL : describe(t);
    if (result == 0 && t->step > 0) result = keep_older(t);
    if (result == 0 && (!texts || nn_safetensors_save(path, a.n, a.tensor, texts, why, sizeof why)))
        result = FAIL(t,
                      "checkpoint after step %lld: %s; one that was there before is left as it "
                      "was; theta is as after step %lld",
                      (long long)t->step, why, (long long)t->step);
    json_decref(texts);
    clear(&a);
    return result;
}

/* ---- going on -------------------------------------------------------------------------------- */

static int compare_identity(nn_trainer *t, const nn_safetensors *file)
{
    const char *path = t->options.checkpoint.path;
    identity what[IDENTITIES];
    identify(t, what);
    for (int i = 0; i < IDENTITIES; i++) {
        const char *there = nn_safetensors_text(file, what[i].key);
        if (i == 0 && (!there || strncmp(there, "costate checkpoint ", 19) != 0))
            return FAIL(t, "%s is no checkpoint of a training", path);
        if (there && strcmp(there, what[i].value) == 0) continue;
        return FAIL(t,
                    "%s is the checkpoint of another training: %s is '%.60s' there, and '%.60s' "
                    "here; move it away, or begin anew (options.checkpoint.fresh)",
                    path, what[i].what, there ? there : "missing", what[i].value);
    }
    return 0;
}

/* Matches the arrays by name and shape; here[i] is tensor i of the file in memory. */
static int match(nn_trainer *t, const nn_safetensors *file, const arrays *a,
                 const nn_tensor **found, nn_tensor *there)
{
    const char *path = t->options.checkpoint.path;
    for (int64_t i = 0; nn_safetensors_get(file, i, &there[i]); i++) {
        int64_t k = 0;
        while (k < a->n && (found[k] || strcmp(a->name[k], there[i].name) != 0)) k++;
        if (k == a->n || i >= a->n)
            return FAIL(t,
                        "%s is the checkpoint of another training: it has '%.60s', which this one "
                        "has not",
                        path, there[i].name);
        found[k] = &there[i];
    }
    for (int64_t k = 0; k < a->n; k++) {
        if (!found[k])
            return FAIL(t, "%s is the checkpoint of another training: it has no '%.60s'", path,
                        a->name[k]);
        if (ad_same_shape(found[k]->shape, a->tensor[k].shape) &&
            found[k]->type == a->tensor[k].type)
            continue;
        char one[128], other[128];
        ad_format_shape(found[k]->shape, one, sizeof one);
        ad_format_shape(a->tensor[k].shape, other, sizeof other);
        return FAIL(t,
                    "%s is the checkpoint of another training: '%.60s' is %s %s there, and %s %s "
                    "here",
                    path, a->name[k], nn_type_name(found[k]->type), one,
                    nn_type_name(a->tensor[k].type), other);
    }
    return 0;
}

static int read_positions(nn_trainer *t, const nn_safetensors *file)
{
    position where[POSITIONS];
    char names[2 * NN_MAX_METRICS][24];
    int n = list_positions(t, where, names);
    for (int i = 0; i < n; i++) {
        const char *text = nn_safetensors_text(file, where[i].key);
        char *end = NULL;
        if (text && where[i].whole) *where[i].whole = strtoll(text, &end, 10);
        else if (text) *where[i].real = strtod(text, &end);
        if (text && end != text && !*end && (!where[i].whole || *where[i].whole >= 0)) continue;
        return FAIL(t, "%s: '%s' is not a number", t->options.checkpoint.path, where[i].key);
    }
    if (t->step <= t->steps) return 0;
    return FAIL(t, "%s was written after step %lld, but this training has %lld",
                t->options.checkpoint.path, (long long)t->step, (long long)t->steps);
}

static int take_arrays(nn_trainer *t, const nn_safetensors *file, const arrays *a)
{
    const char *path = t->options.checkpoint.path;
    int64_t count = 0;
    nn_tensor any;
    while (nn_safetensors_get(file, count, &any)) count++;
    nn_tensor *there = calloc((size_t)count + 1, sizeof *there);
    const nn_tensor **found = calloc((size_t)a->n, sizeof *found);
    int result = there && found ? match(t, file, a, found, there) : FAIL(t, "out of memory");
    /* All is looked at before anything is changed. */
    for (int64_t k = 0; result == 0 && k < a->n; k++) {
        int64_t n = ad_row_size(found[k]->shape);
        for (int64_t i = 0; result == 0 && i < n; i++) {
            double value = nn_tensor_element(found[k], i);
            if (!isfinite(value))
                result = FAIL(t, "%s: element %lld of '%.60s' is %g", path, (long long)i,
                              a->name[k], nn_shown(value));
        }
    }
    for (int64_t k = 0; result == 0 && k < a->n; k++)
        memcpy(a->tensor[k].data, found[k]->data,
               (size_t)nn_shape_bytes(found[k]->shape, found[k]->type));
    free(there);
    free(found);
    return result;
}

int nn_checkpoint_resume(nn_trainer *t)
{
    const nn_checkpoint *c = &t->options.checkpoint;
    if (!c->path) return 0;
    if (c->every < 0 || c->keep < 0)
        return FAIL(t, "every and keep of options.checkpoint must not be negative");
    if (strlen(c->path) > 4000) return FAIL(t, "options.checkpoint.path is too long");
    if (c->fresh || (access(c->path, F_OK) && errno == ENOENT)) return 0;
    char why[600];
    nn_safetensors *file = nn_safetensors_load(c->path, why, sizeof why);
    if (!file) return FAIL(t, "going on from a checkpoint: %s", why);
    arrays a = { 0 };
    int result = compare_identity(t, file) || list_arrays(t, &a) || read_positions(t, file) ||
                         take_arrays(t, file, &a)
                     ? -1
                     : 0;
    if (result == 0 && nn_optimizer_restored(t->state, why, sizeof why))
        result = FAIL(t, "%s: %s", c->path, why);
    clear(&a);
    nn_safetensors_free(file);
    if (result) return -1;
    t->report.steps = t->report.resumed = t->step;
    const nn_validation *v = &t->options.validation;
    t->stopped = t->report.stopped_early = v->patience > 0 && t->waiting >= v->patience;
    return 0;
}
