/* The pointwise kernels, generated from the table of operations; built once per instruction set (autodiff/meson.build), each build
 * with its own AD_POINTWISE_ISA, the name of the one function it exports. */
#include "isa.h"
#include "kernel_math.h"
#include "kernel_vectors.h"
#include <math.h>
#include <string.h>

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
