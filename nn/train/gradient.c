/* Loss and gradient of a batch, in one run or in pieces. */
#include "nn/train/train.h"
#include "autodiff/extension.h"
#include <string.h>

/* Loss and gradient of rows [first, first + rows) of the present batch. */
static int run(nn_trainer *t, int refine, int64_t first, int64_t rows, double *loss,
               nn_theta *gradient)
{
    union {
        float f32;
        double f64;
    } value = { .f64 = 0 };
    bool whole = first == 0;
    ad_run_args args = { .rows = rows,
                         .inputs = whole ? t->batch->inputs
                                         : nn_batch_from(&t->feed, t->batch, first, t->single),
                         .outputs = (void *[]){ &value, gradient->data },
                         .refine = refine,
                         .warns = true };
    if (ad_run_with(t->runner.program, t->runner.workspace, &args)) return -1;
    const char *doubt = ad_workspace_warning(t->runner.workspace);
    if (doubt) nn_warn(t, t->step + 1, "warning: %s", doubt);
    *loss = nn_element(t->theta->dtype, &value, 0);
    return 0;
}

/* sum += share * piece */
static void add(nn_theta *sum, double share, const nn_theta *piece)
{
    for (int64_t i = 0; i < sum->size; i++) {
        double value = nn_element(sum->dtype, sum->data, i);
        nn_put(sum->dtype, sum->data, i, value + share * nn_element(piece->dtype, piece->data, i));
    }
}

bool nn_leads(const nn_trainer *t)
{
    return !t->options.processes || t->options.processes->rank == 0;
}

/* Where the rows of a rank begin. */
static int64_t first_row(const nn_trainer *t, int rank)
{
    const nn_processes *p = t->options.processes;
    return p ? t->batch->rows / p->size * rank + t->batch->rows % p->size * rank / p->size : 0;
}

int64_t nn_own_rows(const nn_trainer *t)
{
    const nn_processes *p = t->options.processes;
    return p ? first_row(t, p->rank + 1) - first_row(t, p->rank) : t->batch->rows;
}

int nn_gradient(nn_trainer *t, int refine, double *loss, nn_theta *gradient)
{
    int64_t rows = nn_own_rows(t), micro = t->options.micro_batch,
            begin = t->options.processes ? first_row(t, t->options.processes->rank) : 0;
    if (rows > 0 && (!t->piece || micro >= rows))
        return run(t, refine, begin, rows, loss, gradient);
    memset(gradient->data, 0, (size_t)gradient->size * nn_bytes(gradient->dtype));
    *loss = 0;
    for (int64_t first = 0; first < rows; first += micro) {
        int64_t n = rows - first < micro ? rows - first : micro;
        double share = (double)n / (double)rows, part;
        if (run(t, refine, begin + first, n, &part, t->piece)) return -1;
        *loss += share * part;
        add(gradient, share, t->piece);
    }
    return 0;
}

const char *nn_bad_state(const nn_trainer *t)
{
    const nn_theta *g = t->gradient;
    for (int64_t i = 0; i < t->nstate; i++) {
        const char *values = (char *)g->data + (size_t)t->states[i].offset * nn_bytes(g->dtype);
        if (nn_find_nonfinite(g->dtype, values, t->states[i].size) >= 0)
            return nn_parameter_at(g->model, t->states[i].offset)->name;
    }
    return NULL;
}

void nn_states_copy(const nn_trainer *t, const nn_theta *from, nn_theta *to)
{
    size_t bytes = nn_bytes(t->theta->dtype);
    for (int64_t i = 0; i < t->nstate; i++) {
        size_t start = (size_t)t->states[i].offset * bytes;
        memcpy((char *)to->data + start, (const char *)from->data + start,
               (size_t)t->states[i].size * bytes);
    }
}

void nn_states_clear(const nn_trainer *t, nn_theta *theta)
{
    size_t bytes = nn_bytes(t->theta->dtype);
    for (int64_t i = 0; i < t->nstate; i++)
        memset((char *)theta->data + (size_t)t->states[i].offset * bytes, 0,
               (size_t)t->states[i].size * bytes);
}
