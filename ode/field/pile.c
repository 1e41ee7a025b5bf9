/* Piles: slots of equal size whose addresses stay while more are added. */
#include "ode/field/pile.h"
#include "ode/field/arrays.h"
#include <stdlib.h>

void ode_pile_reset(ode_pile *p, size_t slot)
{
    size_t stride = ode_aligned(slot);
    if (stride > p->bytes) {
        for (int64_t i = 0; i < p->count; i++) free(p->slab[i]);
        p->count = 0;
        p->bytes = stride < (size_t)1 << 17 ? 8 * stride : stride;
    }
    p->slot = slot;
    p->stride = stride;
    p->per_slab = (int64_t)(p->bytes / stride);
}

void *ode_pile_slot(ode_pile *p, int64_t k)
{
    while (k / p->per_slab >= p->count) {
        if (p->count == p->capacity) {
            int64_t capacity = p->capacity ? 2 * p->capacity : 16;
            char **more = realloc(p->slab, (size_t)capacity * sizeof *more);
            if (!more) return NULL;
            p->slab = more;
            p->capacity = capacity;
        }
        p->slab[p->count] = aligned_alloc(ODE_LINE, p->bytes);
        if (!p->slab[p->count]) return NULL;
        p->count++;
    }
    return p->slab[k / p->per_slab] + (size_t)(k % p->per_slab) * p->stride;
}

void ode_pile_trim(ode_pile *p, int64_t slots)
{
    int64_t slabs = p->per_slab ? (slots + p->per_slab - 1) / p->per_slab : 0;
    while (p->count > slabs) free(p->slab[--p->count]);
}

void ode_pile_free(ode_pile *p)
{
    for (int64_t i = 0; i < p->count; i++) free(p->slab[i]);
    free(p->slab);
    *p = (ode_pile){ 0 };
}
