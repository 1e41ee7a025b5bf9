/* Random bits and normal numbers in bulk, by the loop of the instruction set in use. */
#include "autodiff/extension.h"
#include "autodiff/kernels/impl.h"
#include <string.h>

int ad_normal_lanes(ad_dtype dtype) { return dtype == AD_F32 ? 4 : 2; }

void ad_normals(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n, const uint32_t *word2,
                const uint32_t *word3, void *out)
{
    if (n <= 0 || !word2 || !word3 || !out) return;
    ad_normals_kernel()(dtype, key, counter, n, word2, word3, out);
}

void ad_rng_fill(ad_rng *rng, int64_t n, uint64_t *out)
{
    if (n <= 0 || !out) return;
    if (!rng) {
        memset(out, 0, (size_t)n * sizeof *out);
        return;
    }
    ad_bits_kernel()(rng->key, rng->counter, n, out);
    rng->counter += (uint64_t)n;
}
