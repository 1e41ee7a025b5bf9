/* Groups of processes: sums in the order of ranks. Numbers are cut into as many parts as there are
 * ranks; each rank gets everybody's part of its own number, adds them up, and all gather the sums.
 * A number travels twice, whatever the size of the group, and no other order of additions can
 * occur. */
#include "nn/train/train.h"
#include <stdlib.h>
#include <string.h>

/* ---- sums ---- */

/* What a rank tells the others of its share. */
typedef struct {
    double loss;
    int64_t rows, step;
    char failure[488]; /* "" when there is none */
} note;

struct nn_reduction {
    nn_processes *group;
    const nn_model *model;
    ad_dtype dtype;
    int64_t n, part;     /* numbers, and those of a part: the last one is filled up with zeros */
    void *send, *gather; /* [size,part] */
    void *sum;           /* [part] */
    note *notes;         /* [size] */
};

/* Numbers of a message whose sum is one of doubles even where gradients are floats. */
static void add_parts(ad_dtype dtype, int size, int64_t n, const void *parts, void *sum)
{
    for (int64_t i = 0; i < n; i++) {
        double s = 0;
        for (int r = 0; r < size; r++) s += nn_element(dtype, parts, (int64_t)r * n + i);
        nn_put(dtype, sum, i, s);
    }
}

/* send has the numbers, gather gets the sums; both filled up. */
static int sum_of_ranks(nn_processes *g, ad_dtype dtype, int64_t part, void *send, void *sum,
                        void *gather, char *error, size_t error_size)
{
    size_t bytes = (size_t)part * nn_bytes(dtype);
    if (g->exchange(g, bytes, send, gather, error, error_size)) return -1;
    add_parts(dtype, g->size, part, gather, sum);
    return g->gather(g, bytes, sum, gather, error, error_size);
}

static int64_t part_of(const nn_processes *g, int64_t n) { return (n + g->size - 1) / g->size; }

static bool group_fits(const nn_processes *g, const char *caller, char *error, size_t error_size)
{
    if (!g) nn_error(error, error_size, "%s: the group is NULL", caller);
    else if (g->size < 1 || g->rank < 0 || g->rank >= g->size)
        nn_error(error, error_size, "%s: rank %d of %d; ranks go from 0 to size - 1", caller,
                 g->rank, g->size);
    else if (!g->exchange || !g->gather)
        nn_error(error, error_size, "%s: the group lacks exchange or gather", caller);
    else return true;
    return false;
}

int nn_processes_sum(nn_processes *group, int64_t n, double *values, char *error, size_t error_size)
{
    if (!group_fits(group, "nn_processes_sum", error, error_size)) return -1;
    if (n < 0 || (n && !values))
        return nn_error(error, error_size, "nn_processes_sum: %lld numbers at %p", (long long)n,
                        (void *)values);
    if (n == 0) return 0;
    int64_t part = part_of(group, n), all = part * group->size;
    double *send = calloc((size_t)(2 * all + part), sizeof *send);
    if (!send) return nn_error(error, error_size, "nn_processes_sum: out of memory");
    memcpy(send, values, (size_t)n * sizeof *send);
    int status =
        sum_of_ranks(group, AD_F64, part, send, send + 2 * all, send + all, error, error_size);
    if (!status) memcpy(values, send + all, (size_t)n * sizeof *values);
    free(send);
    return status;
}

/* ---- agreement ---- */

/* FNV-1a, 64 bits: to tell numbers apart that differ by mistake. */
static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    const unsigned char *byte = data;
    for (size_t i = 0; i < n; i++) h = (h ^ byte[i]) * 0x100000001b3u;
    return h;
}

static uint64_t hash_of_layout(uint64_t h, const nn_model *model)
{
    for (int64_t i = 0; i < model->count; i++) {
        const nn_parameter *p = &model->parameter[i];
        h = hash(h, p->name, strlen(p->name) + 1);
        h = hash(h, p->shape.dim, (size_t)p->shape.rank * sizeof *p->shape.dim);
        h = hash(h, &p->offset, sizeof p->offset);
    }
    return h;
}

typedef struct {
    uint64_t layout, numbers;
    int64_t parameters;
    char fault[200]; /* of a rank that cannot take part */
} identity;

static identity identity_of(nn_theta *theta, const char *fault)
{
    static const uint64_t start = 0xcbf29ce484222325u;
    identity me = { .numbers = start };
    if (!fault) fault = theta ? nn_theta_error(theta) : "theta is NULL";
    if (fault) {
        snprintf(me.fault, sizeof me.fault, "%s", fault);
        return me;
    }
    me.layout = hash_of_layout(start, theta->model);
    me.parameters = nn_model_parameters(theta->model);
    me.numbers = hash(start, &theta->dtype, sizeof theta->dtype);
    me.numbers = hash(me.numbers, theta->data, (size_t)theta->size * nn_bytes(theta->dtype));
    return me;
}

int nn_processes_meet(nn_processes *group, nn_theta *theta, const char *fault, char *error,
                      size_t error_size)
{
    static const char caller[] = "nn_processes_agree";
    if (!group_fits(group, caller, error, error_size)) return -1;
    identity mine = identity_of(theta, fault), *all = calloc((size_t)group->size, sizeof *all);
    if (!all) return nn_error(error, error_size, "%s: out of memory", caller);
    int status = group->gather(group, sizeof mine, &mine, all, error, error_size);
    for (int r = 0; r < group->size && !status; r++) {
        if (all[r].fault[0])
            status = nn_error(error, error_size, "%s: rank %d: %s", caller, r, all[r].fault);
        else if (all[r].layout != all[0].layout)
            status =
                nn_error(error, error_size,
                         "%s: rank %d has other parameter arrays (%lld numbers) than rank 0 "
                         "(%lld): all ranks must build the same model",
                         caller, r, (long long)all[r].parameters, (long long)all[0].parameters);
        else if (all[r].numbers != all[0].numbers)
            status = nn_error(error, error_size,
                              "%s: rank %d starts from other numbers in theta than rank 0: give "
                              "all ranks the same seed, dtype and initialisers, or the same file",
                              caller, r);
    }
    free(all);
    return status;
}

int nn_processes_agree(nn_processes *group, nn_theta *theta, char *error, size_t error_size)
{
    return nn_processes_meet(group, theta, NULL, error, error_size);
}

/* ---- gradients ---- */

nn_reduction *nn_reduction_new(nn_processes *group, const nn_theta *theta)
{
    nn_reduction *r = calloc(1, sizeof *r);
    if (!r || !group_fits(group, "", NULL, 0) || !theta || nn_theta_error(theta)) {
        free(r);
        return NULL;
    }
    r->group = group;
    r->model = nn_theta_model(theta);
    r->dtype = nn_theta_dtype(theta);
    r->n = nn_theta_size(theta);
    r->part = part_of(group, r->n);
    size_t all = (size_t)r->part * (size_t)group->size, bytes = nn_bytes(r->dtype);
    r->send = calloc(all, bytes);
    r->gather = calloc(all, bytes);
    r->sum = calloc((size_t)r->part, bytes);
    r->notes = calloc((size_t)group->size, sizeof *r->notes);
    if (r->send && r->gather && r->sum && r->notes) return r;
    nn_reduction_free(r);
    return NULL;
}

void nn_reduction_free(nn_reduction *r)
{
    if (!r) return;
    free(r->send);
    free(r->gather);
    free(r->sum);
    free(r->notes);
    free(r);
}

/* Everybody's loss and rows, or everybody's failure. */
static int take_stock(nn_reduction *r, const nn_share *share, note *total, char *error,
                      size_t error_size)
{
    nn_processes *g = r->group;
    note mine = { .loss = share->loss, .rows = share->rows, .step = share->step };
    if (share->failure) snprintf(mine.failure, sizeof mine.failure, "%s", share->failure);
    if (share->failure && !mine.failure[0])
        snprintf(mine.failure, sizeof mine.failure, "it failed");
    if (g->gather(g, sizeof mine, &mine, r->notes, error, error_size)) return -1;
    *total = (note){ .rows = 0 };
    for (int k = 0; k < g->size; k++) {
        const note other = r->notes[k];
        if (other.failure[0])
            return nn_error(error, error_size, "rank %d of %d: %s", k, g->size, other.failure);
        if (other.step != share->step)
            return nn_error(error, error_size,
                            "rank %d of %d is at step %lld, rank %d at step %lld", k, g->size,
                            (long long)other.step, g->rank, (long long)share->step);
        if (other.rows < 0 || other.rows > INT64_MAX - total->rows)
            return nn_error(error, error_size, "rank %d of %d: a share of %lld rows", k, g->size,
                            (long long)other.rows);
        total->rows += other.rows;
        if (other.rows) total->loss += (double)other.rows * other.loss;
    }
    if (total->rows == 0) return nn_error(error, error_size, "no rank has a row of this batch");
    total->loss /= (double)total->rows;
    return 0;
}

int nn_reduction_step(nn_reduction *r, nn_share *share, nn_theta *gradient, char *error,
                      size_t error_size)
{
    static const char caller[] = "nn_reduction_step";
    if (!r || !share) return nn_error(error, error_size, "%s: an argument is NULL", caller);
    nn_share mine = *share;
    char fault[160];
    if (!mine.failure &&
        (!gradient || nn_theta_error(gradient) || nn_theta_model(gradient) != r->model ||
         nn_theta_dtype(gradient) != r->dtype)) {
        snprintf(fault, sizeof fault,
                 "%s: the gradient is not of the model and dtype of the theta "
                 "that nn_reduction_new got",
                 caller);
        mine.failure = fault;
    }
    note total;
    if (take_stock(r, &mine, &total, error, error_size)) return -1;
    double weight = (double)mine.rows / (double)total.rows;
    void *numbers = nn_theta_data(gradient);
    for (int64_t i = 0; i < r->n; i++) {
        double g = mine.rows ? weight * nn_element(r->dtype, numbers, i) : 0;
        nn_put(r->dtype, r->send, i, g);
    }
    if (sum_of_ranks(r->group, r->dtype, r->part, r->send, r->sum, r->gather, error, error_size))
        return -1;
    memcpy(numbers, r->gather, (size_t)r->n * nn_bytes(r->dtype));
    share->loss = total.loss;
    share->rows = total.rows;
    return 0;
}
