/* Internal: sizes of arrays without overflow, aligned memory, and pools: memory that lives as long
 * as its owner. */
#ifndef COSTATE_BASE_MEMORY_H
#define COSTATE_BASE_MEMORY_H
#include "autodiff/autodiff.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { AD_ALIGN = 64 }; /* bytes: of arrays and scratch memory */
static inline size_t ad_dtype_size(ad_dtype t)
{
    return t == AD_F32 ? sizeof(float) : sizeof(double);
}

typedef struct {
    struct ad_pool_slab *slab;
} ad_pool;
void *ad_pool_alloc(ad_pool *pool,
                    size_t bytes); /* zeroed, 16-byte aligned; NULL when memory is short */
void ad_pool_clear(ad_pool *pool);

/* a * b and a + b of sizes; -1 on overflow or when one of them is negative already. */
static inline int64_t ad_size_mul(int64_t a, int64_t b)
{
    if (a < 0 || b < 0) return -1;
    return b != 0 && a > INT64_MAX / b ? -1 : a * b;
}
static inline int64_t ad_size_add(int64_t a, int64_t b)
{
    if (a < 0 || b < 0) return -1;
    return a > INT64_MAX - b ? -1 : a + b;
}
static inline int64_t ad_size_align(int64_t a)
{
    a = ad_size_add(a, AD_ALIGN - 1);
    return a < 0 ? -1 : a / AD_ALIGN * AD_ALIGN;
}
/* The machine's memory in bytes; INT64_MAX where it cannot be asked for. */
int64_t ad_machine_bytes(void);
/* What the environment variable COSTATE_MEMORY allows, "4G" say; 0: no limit. error (may be NULL):
 * NULL, or what is wrong with it, and then there is no limit. */
int64_t ad_memory_limit(const char **error);
/* bytes (a multiple of AD_ALIGN, or rounded up to one) aligned to AD_ALIGN; free() releases them.
 * NULL when bytes is negative or more than the machine has, which an operating system that promises
 * more would only notice when they are touched. */
void *ad_aligned_alloc(int64_t bytes);

#endif
