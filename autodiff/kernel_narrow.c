/* Products with few columns, once for each dtype. Built once per instruction set, and alone with contraction on: every multiplication here
 * is fused with its addition wherever the instruction set can do so, hence the same for each element of a product. */
#include "isa.h"
#include <string.h>

#if defined __GNUC__ && defined __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define VECTORS 1
#endif
#endif

#ifdef VECTORS
#if defined __AVX512F__
#define BYTES 64
#elif defined __AVX__
#define BYTES 32
#else
#define BYTES 16
#endif
#define INLINE static inline __attribute__((always_inline))

/* Every other element of x followed by y, from `first` on. */
#define EVERY_OTHER_2(x, y, first) __builtin_shufflevector(x, y, first, first + 2)
#define EVERY_OTHER_4(x, y, first) __builtin_shufflevector(x, y, first, first + 2, first + 4, first + 6)
#define EVERY_OTHER_8(x, y, first)                                                                                                         \
    __builtin_shufflevector(x, y, first, first + 2, first + 4, first + 6, first + 8, first + 10, first + 12, first + 14)
#define EVERY_OTHER_16(x, y, first)                                                                                                        \
    __builtin_shufflevector(x, y, first, first + 2, first + 4, first + 6, first + 8, first + 10, first + 12, first + 14, first + 16,       \
                            first + 18, first + 20, first + 22, first + 24, first + 26, first + 28, first + 30)

#define T float
#define F(name) name##_f32
#if BYTES == 64
#define EVERY_OTHER EVERY_OTHER_16
#elif BYTES == 32
#define EVERY_OTHER EVERY_OTHER_8
#else
#define EVERY_OTHER EVERY_OTHER_4
#endif
#include "kernel_narrow.inc"
#undef T
#undef F
#undef EVERY_OTHER
#define T double
#define F(name) name##_f64
#if BYTES == 64
#define EVERY_OTHER EVERY_OTHER_8
#elif BYTES == 32
#define EVERY_OTHER EVERY_OTHER_4
#else
#define EVERY_OTHER EVERY_OTHER_2
#endif
#include "kernel_narrow.inc"

/* Generated code does better with half a vector of columns or more; transposing B and adding lanes wants long sums. */
ad_narrow AD_NARROW_ISA(ad_dtype dtype, int64_t n, int64_t k)
{
    int64_t width = dtype == AD_F32 ? WIDTH_f32 : WIDTH_f64;
    if (n > width / 2 || k < 16 || k < 8 * n) return NULL;
    return dtype == AD_F32 ? narrow_f32 : narrow_f64;
}
#else
ad_narrow AD_NARROW_ISA(ad_dtype dtype, int64_t n, int64_t k) { return (void)dtype, (void)n, (void)k, (ad_narrow)0; }
#endif
