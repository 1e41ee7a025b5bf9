/* What all kernels have in common, and what is done with one that is prepared. */
#include "autodiff/kernels/impl.h"
#include <math.h>
#include <stdlib.h>

void *ad_plan_new(ad_kernel *k, size_t bytes)
{
    ad_plan *plan = calloc(1, bytes);
    if (!plan) return NULL;
    plan->loops = ad_loops_of(k->dtype);
    plan->size = k->dtype == AD_F32 ? sizeof(float) : sizeof(double);
    k->plan = plan;
    return plan;
}

void ad_kernel_begin(ad_kernel *k)
{
    k->plan = NULL;
    k->run = NULL;
    k->reduces_rows = false;
    if (ad_has_rows(k->out)) return;
    for (int i = 0; i < k->nin; i++) k->reduces_rows |= ad_has_rows(k->in_shapes[i]);
}

void ad_kernel_clear(ad_kernel *k)
{
    ad_plan *plan = k->plan;
    if (plan && plan->clear) plan->clear(plan);
    free(plan);
    k->plan = NULL;
    k->run = NULL;
}

size_t ad_kernel_scratch(const ad_kernel *k, int64_t rows)
{
    const ad_plan *plan = k->plan;
    return plan && plan->scratch ? plan->scratch(k, rows) : 0;
}

void ad_kernel_identity(const ad_kernel *k, void *out, int64_t n)
{
    const ad_plan *plan = k->plan;
    plan->loops->fill(n, ad_has_trait(k->op, AD_MAXIMUM) ? -INFINITY : 0, out);
}

void ad_kernel_combine(const ad_kernel *k, void *into, const void *from, int64_t n)
{
    const ad_plan *plan = k->plan;
    plan->loops->combine(ad_has_trait(k->op, AD_MAXIMUM), n, from, into);
}
