/* Internal: the builds of the pointwise kernels, of the inner loops and of random numbers, one per
 * instruction set, of which builds.c chooses one at run time.
 */
#ifndef COSTATE_BUILDS_H
#define COSTATE_BUILDS_H
#include "autodiff/kernels/impl.h"

ad_pointwise ad_pointwise_generic(ad_op op, ad_dtype dtype, int nin);
ad_pointwise_pair ad_pair_generic(ad_op op, ad_op second, ad_dtype dtype, int nin);
const ad_loops *ad_loops_generic(ad_dtype dtype);
ad_narrow ad_narrow_generic(ad_dtype dtype, int64_t n, int64_t k);
void ad_bits_generic(uint64_t key, uint64_t counter, int64_t n, uint64_t *out);
void ad_normals_generic(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n,
                        const uint32_t *c2, const uint32_t *c3, void *out);
#ifdef __x86_64__
ad_pointwise ad_pointwise_v2(ad_op op, ad_dtype dtype, int nin);
ad_pointwise_pair ad_pair_v2(ad_op op, ad_op second, ad_dtype dtype, int nin);
const ad_loops *ad_loops_v2(ad_dtype dtype);
ad_narrow ad_narrow_v2(ad_dtype dtype, int64_t n, int64_t k);
void ad_bits_v2(uint64_t key, uint64_t counter, int64_t n, uint64_t *out);
void ad_normals_v2(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n, const uint32_t *c2,
                   const uint32_t *c3, void *out);
ad_pointwise ad_pointwise_v3(ad_op op, ad_dtype dtype, int nin);
ad_pointwise_pair ad_pair_v3(ad_op op, ad_op second, ad_dtype dtype, int nin);
const ad_loops *ad_loops_v3(ad_dtype dtype);
ad_narrow ad_narrow_v3(ad_dtype dtype, int64_t n, int64_t k);
void ad_bits_v3(uint64_t key, uint64_t counter, int64_t n, uint64_t *out);
void ad_normals_v3(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n, const uint32_t *c2,
                   const uint32_t *c3, void *out);
ad_pointwise ad_pointwise_v4(ad_op op, ad_dtype dtype, int nin);
ad_pointwise_pair ad_pair_v4(ad_op op, ad_op second, ad_dtype dtype, int nin);
const ad_loops *ad_loops_v4(ad_dtype dtype);
ad_narrow ad_narrow_v4(ad_dtype dtype, int64_t n, int64_t k);
void ad_bits_v4(uint64_t key, uint64_t counter, int64_t n, uint64_t *out);
void ad_normals_v4(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n, const uint32_t *c2,
                   const uint32_t *c3, void *out);
#endif

#endif
