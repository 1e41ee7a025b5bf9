/* The pointwise kernels, generated from the table of operations; built once per instruction set (autodiff/meson.build), each build
 * with its own AD_POINTWISE_ISA, the name of the one function it exports. */
#include "isa.h"
#include "kernel_math.h"
#include <math.h>
#include <string.h>

/* In-place operation reads and writes the same element only, so iterations are independent. Clang would interleave vectors beyond the
 * 64 bytes by which the loops go, and leave the rest to scalar code. */
#ifdef __clang__
#define VECTORISE _Pragma("clang loop vectorize(assume_safety) interleave_count(1)")
#else
#define VECTORISE _Pragma("GCC ivdep")
#endif

#define T float
#define M(f) f##_f32
#include "kernel_loops.h"
#undef T
#undef M

#define T double
#define M(f) f##_f64
#include "kernel_loops.h"
#undef T
#undef M

ad_pointwise AD_POINTWISE_ISA(ad_op op, ad_dtype dtype, int nin) { return dtype == AD_F32 ? lookup_f32(op, nin) : lookup_f64(op, nin); }
