/* Memory: pools, aligned arrays, and what the machine has. */
#include "autodiff/base/memory.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct ad_pool_slab {
    struct ad_pool_slab *next;
    size_t used, size;
    max_align_t bytes[];
} ad_pool_slab;

void *ad_pool_alloc(ad_pool *pool, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    ad_pool_slab *c = pool->slab;
    if (!c || c->size - c->used < bytes) {
        size_t size = bytes > 32768 ? bytes : 32768;
        c = malloc(sizeof *c + size);
        if (!c) return NULL;
        *c = (ad_pool_slab){ .next = pool->slab, .size = size };
        pool->slab = c;
    }
    void *p = (char *)c->bytes + c->used;
    c->used += bytes;
    memset(p, 0, bytes);
    return p;
}

void ad_pool_clear(ad_pool *pool)
{
    while (pool->slab) {
        ad_pool_slab *c = pool->slab;
        pool->slab = c->next;
        free(c);
    }
}

int64_t ad_machine_bytes(void)
{
#if defined _SC_PHYS_PAGES && defined _SC_PAGESIZE
    int64_t bytes = ad_size_mul(sysconf(_SC_PHYS_PAGES), sysconf(_SC_PAGESIZE));
    if (bytes > 0) return bytes;
#endif
    return INT64_MAX;
}

int64_t ad_memory_limit(const char **error)
{
    const char *said = getenv("COSTATE_MEMORY");
    if (error) *error = NULL;
    if (!said || !said[0]) return 0;
    char *end;
    const double number = strtod(said, &end);
    static const char units[] = "KkMmGgTt";
    const char *unit = *end ? strchr(units, *end) : NULL;
    double bytes = number;
    for (long k = unit ? (unit - units) / 2 + 1 : 0; k > 0; k--) bytes *= 1024;
    const bool fine = end > said && !end[unit != NULL] && bytes >= 0 && bytes < 0x1p62;
    if (fine) return number > 0 && bytes < 1 ? 1 : (int64_t)bytes;
    if (error) *error = "not a number of bytes; 4G, 500M or 1000000 are";
    return 0;
}

void *ad_aligned_alloc(int64_t bytes)
{
    bytes = ad_size_align(bytes == 0 ? 1 : bytes);
    if (bytes < 0 || (uint64_t)bytes > SIZE_MAX / 2 || bytes > ad_machine_bytes()) return NULL;
    return aligned_alloc(AD_ALIGN, (size_t)bytes);
}
