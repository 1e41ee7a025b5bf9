/* What tests share. Every test program ends with
 *
 *     TCase *tests = suite_case("name", "name");
 *     tcase_add_test(tests, ...);
 *     return suite_run();
 *
 * Headers of the library that a test includes first bring more: ode/ode.h loops over all methods,
 * autodiff/plan/program.h what has programs shared out to threads. With TESTS_COUNT_ALLOCATIONS
 * defined before, malloc and its kin are replaced by functions that count, can fail, and pass on.
 */
#ifndef COSTATE_TESTS_SUPPORT_H
#define COSTATE_TESTS_SUPPORT_H
#include <check.h>
#include <stddef.h>

/* ---- suites ---------------------------------------------------------------------------------- */

static Suite *tests_suite; /* of this program */

/* A new case of the program's suite. Its tests have no time limit of their own: check's four
 * seconds are too few for a busy machine under a sanitizer, and meson limits suites. */
static inline TCase *suite_case(const char *suite, const char *name)
{
    if (!tests_suite) tests_suite = suite_create(suite);
    TCase *tests = tcase_create(name);
    tcase_set_timeout(tests, 0);
    suite_add_tcase(tests_suite, tests);
    return tests;
}

/* Runs all cases and prints their results: the program's exit status. */
static inline int suite_run(void)
{
    SRunner *runner = srunner_create(tests_suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

/* ---- methods --------------------------------------------------------------------------------- */

#ifdef COSTATE_ODE_H
#include "ode/step/step.h"

#include <math.h>

static inline int method_count(void)
{
    int n = 0;
    while (ode_methods()[n]) n++;
    return n;
}

/* Solves by an implicit method: stages are found by iteration, and their evaluations are not kept.
 */
static inline bool method_implicit(const ode_method *m)
{
    return ode_method_has(m, ODE_METHOD_IMPLICIT);
}

/* Whether a stage lies beyond the end of the step: at a jump it takes place at the end. */
static inline bool method_looks_ahead(const ode_method *m)
{
    double last = 0;
    for (int i = 0; i < m->times; i++) last = fmax(last, m->c[i]);
    return last > 1;
}

/* How many times farther off than other methods an adaptive solve may be at the same tolerance. The
 * estimate of trbdf2 is the error of the result that is taken, not of a cruder one, so the errors
 * of all steps add up; that of kvaerno5 is a small one. */
static inline double method_slack(const ode_method *m)
{
    return m == &ode_trbdf2 ? 40 : m == &ode_kvaerno5 ? 3 : 1;
}
#endif

/* ---- programs -------------------------------------------------------------------------------- */

#ifdef COSTATE_PROGRAM_H
/* Has every body of a program shared out to threads, however small it is. */
static inline void share_always(ad_program *p)
{
    for (int f = 0; p && f < p->nphase; f++) p->phase[f].row_work = 1e12;
}

/* Native code for several rows is used wherever there is some, also where kernels are faster. */
static inline void native_always(ad_program *p)
{
    const ad_pieces *pieces = ad_program_pieces(p, true);
    for (int f = 0; f < p->nphase && pieces->phase; f++) {
        const ad_piece_list *list = &pieces->phase[f][AD_SECTION_BODY];
        for (int32_t i = 0; i < list->n; i++) list->piece[i].most_rows = INT64_MAX;
    }
}
#endif

/* ---- allocations ----------------------------------------------------------------------------- */

/* Under a sanitizer, which brings its own, nothing is counted. */
#ifdef TESTS_COUNT_ALLOCATIONS
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

static atomic_long allocations_so_far, allocations_held, allocations_size;
static inline long allocations(void) { return atomic_load(&allocations_so_far); }
/* Allocations that have not been freed. */
static inline long allocations_live(void) { return atomic_load(&allocations_held); }
/* The bytes of those, as the system rounds them up. */
static inline long allocations_bytes(void) { return atomic_load(&allocations_size); }

#ifndef ALLOCATIONS_NOT_COUNTED
#include <malloc.h>

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
    if (p) atomic_fetch_add(&allocations_size, (long)malloc_usable_size(p));
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
void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
void *realloc(void *old, size_t size)
{
    if (!old) return malloc(size);
    if (!allocations_allow()) return NULL;
    long before = (long)malloc_usable_size(old);
    void *p = __libc_realloc(old, size);
    if (p) atomic_fetch_add(&allocations_size, (long)malloc_usable_size(p) - before);
    return p;
}
int posix_memalign(void **out, size_t alignment, size_t size)
{
    *out = aligned_alloc(alignment, size);
    return *out ? 0 : 12;
}
void free(void *p)
{
    if (p) atomic_fetch_sub(&allocations_held, 1);
    if (p) atomic_fetch_sub(&allocations_size, (long)malloc_usable_size(p));
    __libc_free(p);
}
#endif
#endif

#endif
