/* Inner loops of the structural kernels, once for each dtype. Built once per instruction set:
 * AD_LOOPS_ISA names the function that hands them out. The order of every sum is spelt out, so that
 * all builds give the same bits. */
#include "autodiff/kernels/builds.h"
#include "autodiff/kernels/vectors.h"
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define T float
#define F(name) name##_f32
#define EVERY_OTHER EVERY_OTHER_F32
#define MASK int32_t
#include "autodiff/kernels/tiles.inc"
#include "autodiff/kernels/strided.inc"
#undef EVERY_OTHER
#undef MASK
#undef T
#undef F
#define T double
#define F(name) name##_f64
#define EVERY_OTHER EVERY_OTHER_F64
#define MASK int64_t
#include "autodiff/kernels/tiles.inc"
#include "autodiff/kernels/strided.inc"
#undef EVERY_OTHER
#undef MASK
#undef T
#undef F

const ad_loops *AD_LOOPS_ISA(ad_dtype dtype) { return dtype == AD_F32 ? &loops_f32 : &loops_f64; }
