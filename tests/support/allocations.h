/* Counts allocations, and lets them fail: a test that includes this replaces malloc and its kin by
 * functions that count and pass on. Include it once per program. Under a sanitizer, which brings
 * its own, nothing is counted. */
#ifndef COSTATE_TESTS_ALLOCATIONS_H
#define COSTATE_TESTS_ALLOCATIONS_H
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#if defined __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define ALLOCATIONS_NOT_COUNTED
#endif
#endif
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ || !defined __GLIBC__
#define ALLOCATIONS_NOT_COUNTED
#endif

static atomic_long allocations_so_far, allocations_held;
static inline long allocations(void) { return atomic_load(&allocations_so_far); }
/* Allocations that have not been freed. */
static inline long allocations_live(void) { return atomic_load(&allocations_held); }

#ifndef ALLOCATIONS_NOT_COUNTED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *p);

/* Lets the k-th allocation from now on fail, and all after it; k < 0: none. */
static atomic_long allocations_left = -1;
static atomic_bool allocations_alone;
static inline void allocations_fail_at(long k)
{
    atomic_store(&allocations_alone, false);
    atomic_store(&allocations_left, k);
}
/* Lets the k-th allocation from now on fail, and no other. */
static inline void allocations_fail_alone(long k)
{
    allocations_fail_at(k);
    atomic_store(&allocations_alone, true);
}
/* Ends the failing; whether an allocation has failed. */
static inline bool allocations_failed(void)
{
    bool failed = atomic_load(&allocations_left) == 0 || atomic_load(&allocations_left) == -2;
    atomic_store(&allocations_left, -1);
    return failed;
}

static inline int allocations_allow(void)
{
    atomic_fetch_add(&allocations_so_far, 1);
    long left = atomic_load(&allocations_left);
    if (left > 0) atomic_store(&allocations_left, left - 1);
    if (left == 0 && atomic_load(&allocations_alone)) atomic_store(&allocations_left, -2);
    if (left == 0) errno = ENOMEM;
    return left != 0;
}

static inline void *allocations_hold(void *p)
{
    if (p) atomic_fetch_add(&allocations_held, 1);
    return p;
}

void *malloc(size_t size)
{
    return allocations_allow() ? allocations_hold(__libc_malloc(size)) : NULL;
}
void *calloc(size_t n, size_t size)
{
    return allocations_allow() ? allocations_hold(__libc_calloc(n, size)) : NULL;
}
void *aligned_alloc(size_t alignment, size_t size)
{
    return allocations_allow() ? allocations_hold(__libc_memalign(alignment, size)) : NULL;
}
void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
void *realloc(void *old, size_t size)
{
    if (!old) return malloc(size);
    return allocations_allow() ? __libc_realloc(old, size) : NULL;
}
int posix_memalign(void **out, size_t alignment, size_t size)
{
    *out = aligned_alloc(alignment, size);
    return *out ? 0 : 12;
}
void free(void *p)
{
    if (p) atomic_fetch_sub(&allocations_held, 1);
    __libc_free(p);
}
#endif

#endif
