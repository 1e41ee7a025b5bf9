/* What all kernels have in common, and what is done with one that is prepared. */
#include "autodiff/kernels/impl.h"
#include <math.h>
#include <stdlib.h>

void *ad_prepared_new(ad_kernel *k, size_t bytes)
{
    ad_prepared *p = calloc(1, bytes);
    if (!p) return NULL;
    p->loops = ad_loops_of(k->dtype);
    p->size = k->dtype == AD_F32 ? sizeof(float) : sizeof(double);
    k->prepared = p;
    return p;
}

void ad_kernel_begin(ad_kernel *k)
{
    k->prepared = NULL;
    k->run = NULL;
    k->reduces_rows = false;
    if (ad_has_rows(k->out)) return;
    for (int i = 0; i < k->nin; i++) k->reduces_rows |= ad_has_rows(k->in_shapes[i]);
}

void ad_kernel_clear(ad_kernel *k)
{
    ad_prepared *p = k->prepared;
    if (p && p->clear) p->clear(p);
    free(p);
    k->prepared = NULL;
    k->run = NULL;
}

size_t ad_kernel_scratch(const ad_kernel *k, int64_t rows)
{
    const ad_prepared *p = k->prepared;
    return p && p->scratch ? p->scratch(k, rows) : 0;
}

void ad_kernel_identity(const ad_kernel *k, void *out, int64_t n)
{
    const ad_prepared *p = k->prepared;
    p->loops->fill(n, ad_has_trait(k->op, AD_MAXIMUM) ? -INFINITY : 0, out);
}

void ad_kernel_combine(const ad_kernel *k, void *into, const void *from, int64_t n)
{
    const ad_prepared *p = k->prepared;
    p->loops->combine(ad_has_trait(k->op, AD_MAXIMUM), n, from, into);
}
