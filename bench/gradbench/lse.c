/* lse: log sum exp of a vector. size: n. */
#include "gradbench.h"
#include <math.h>

static void plan(gb_case *c)
{
    c->ninput = 1;
    c->count[0] = c->nderivative = c->size[0];
    c->nvalue = 1;
}

static void fill(const gb_case *c) { gb_numbers(0, c->count[0], 0, 10, c->input[0]); }

static ad_var record(const gb_case *c, const ad_var *in)
{
    (void)c;
    return ad_logsumexp(in[0], 1, (int[]){ 0 }, false);
}

static int64_t work_size(const gb_case *c)
{
    (void)c;
    return 0;
}

static void by_hand(const gb_case *c, double *value, double *derivative, double *work)
{
    const double *x = c->input[0];
    const int64_t n = c->size[0];
    double most = x[0], sum = 0;
    (void)work;
    for (int64_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i++) sum += derivative[i] = exp(x[i] - most);
    for (int64_t i = 0; i < n; i++) derivative[i] /= sum;
    *value = log(sum) + most;
}

const gb_program gb_lse = { "lse", plan, fill, record, by_hand, work_size };
