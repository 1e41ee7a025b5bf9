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
    k->prepared = NULL;
    k->run = NULL;
    if (p && p->others-- > 0) return;
    if (p && p->clear) p->clear(p);
    free(p);
}

bool ad_kernel_share(ad_kernel *k, const ad_kernel *other)
{
    if (ad_ops[k->op].kind != AD_POINTWISE || k->op != other->op || k->dtype != other->dtype ||
        k->nin != other->nin || !ad_same_shape(k->out, other->out))
        return false;
    for (int i = 0; i < k->nin; i++)
        if (!ad_same_shape(k->in_shapes[i], other->in_shapes[i])) return false;
    k->reduces_rows = other->reduces_rows;
    k->run = other->run;
    k->prepared = other->prepared;
    ((ad_prepared *)k->prepared)->others++;
    return true;
}

static uint32_t mixed(uint32_t h, ad_shape s)
{
    for (int i = 0; i < s.rank; i++) h = (h ^ (uint32_t)s.dim[i]) * 0x9e3779b1u;
    return h ^ h >> 15;
}

uint32_t ad_kernel_hash(const ad_kernel *k)
{
    uint32_t h = mixed((uint32_t)k->op * 0x85ebca6bu, k->out);
    for (int i = 0; i < k->nin; i++) h = mixed(h + 1, k->in_shapes[i]);
    return h;
}

size_t ad_kernel_scratch(const ad_kernel *k, int64_t rows)
{
    const ad_prepared *p = k->prepared;
    if (!p) return 0;
    const bool parts = p->part_rows && (p->units || rows > p->part_rows);
    const size_t own = p->scratch ? p->scratch(k, parts ? p->part_rows : rows) : 0;
    return parts ? own + ad_parts_bytes(true, ad_row_size(k->out), p->size) : own;
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

void ad_kernel_gather(const ad_kernel *k, void *into, void *lost, void *from, int64_t n)
{
    const ad_prepared *p = k->prepared;
    if (!ad_has_trait(k->op, AD_MAXIMUM)) {
        p->loops->gather(n, from, into, lost);
        return;
    }
    p->loops->combine(true, n, from, into);
    p->loops->fill(n, -INFINITY, from);
}
