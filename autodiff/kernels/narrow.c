/* Products with few columns, once for each dtype. Built once per instruction set, and alone with
 * contraction on: every multiplication here is fused with its addition wherever the instruction set
 * can do so, hence the same for each element of a product. */
#include "autodiff/kernels/builds.h"
#include "autodiff/kernels/vectors.h"
#include <string.h>

#ifdef VECTORS
#define INLINE static inline __attribute__((always_inline))

#define T float
#define F(name) name##_f32
#define EVERY_OTHER EVERY_OTHER_F32
#include "autodiff/kernels/narrow.inc"
#undef T
#undef F
#undef EVERY_OTHER
#define T double
#define F(name) name##_f64
#define EVERY_OTHER EVERY_OTHER_F64
#include "autodiff/kernels/narrow.inc"

/* Generated code does better with half a vector of columns or more; transposing B and adding lanes
 * wants long sums. */
ad_narrow AD_NARROW_ISA(ad_dtype dtype, int64_t n, int64_t k)
{
    int64_t width = dtype == AD_F32 ? WIDTH_f32 : WIDTH_f64;
    if (n > width / 2 || k < 16 || k < 8 * n) return NULL;
    return dtype == AD_F32 ? narrow_f32 : narrow_f64;
}
#else
ad_narrow AD_NARROW_ISA(ad_dtype dtype, int64_t n, int64_t k)
{
    return (void)dtype, (void)n, (void)k, (ad_narrow)0;
}
#endif
