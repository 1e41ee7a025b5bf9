/* Piles: slots of equal size whose addresses stay while more are added. */
#include "ode/field/pile.h"
#include "ode/field/arrays.h"
#include <stdlib.h>
#include <sys/mman.h>

/* Slots that are larger than SMALL share slabs of about LARGE. A slab of HUGE_PAGE and more lies on
 * pages of that size, where the system has some: adjoints go through more memory than a processor
 * finds small pages of. */
enum { SMALL = 1 << 17, LARGE = 1 << 24, HUGE_PAGE = 1 << 21 };

static size_t slab_bytes(size_t stride)
{
    if (stride < SMALL) return 8 * stride;
    return stride < LARGE ? LARGE / stride * stride : stride;
}

/* As it is allocated. */
static size_t whole_pages(size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE) return (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
#endif
    return bytes;
}

int64_t ode_pile_bytes(size_t slot, int64_t slots)
{
    const size_t stride = ode_aligned(slot), bytes = slab_bytes(stride);
    const int64_t each = (int64_t)(bytes / stride), slabs = (slots + each - 1) / each;
    return slabs * (int64_t)whole_pages(bytes);
}

static char *new_slab(size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE) {
        char *slab = aligned_alloc(HUGE_PAGE, whole_pages(bytes));
        if (slab) madvise(slab, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
        return slab;
    }
#endif
    return aligned_alloc(ODE_LINE, bytes);
}

void ode_pile_reset(ode_pile *p, size_t slot)
{
    size_t stride = ode_aligned(slot);
    if (stride > p->bytes) {
        for (int64_t i = 0; i < p->count; i++) free(p->slab[i]);
        p->count = 0;
        p->bytes = slab_bytes(stride);
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
        p->slab[p->count] = new_slab(p->bytes);
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
