/* The pointwise kernels, generated from the table of operations; built once per instruction set
 * (autodiff/meson.build), each build with its own AD_POINTWISE_ISA and AD_PAIR_ISA, the names of
 * the functions it exports. */
#include "autodiff/kernels/builds.h"
#include "autodiff/kernels/maths.h"
#include "autodiff/kernels/vectors.h"
#include <math.h>
#include <string.h>

#define T float
#define M(f) f##_f32
#define SAME SAME_F32
#include "autodiff/kernels/pointwise_loops.h"
#undef T
#undef M
#undef SAME

#define T double
#define M(f) f##_f64
#define SAME SAME_F64
#include "autodiff/kernels/pointwise_loops.h"
#undef T
#undef M

ad_pointwise AD_POINTWISE_ISA(ad_op op, ad_dtype dtype, int nin)
{
    return dtype == AD_F32 ? lookup_f32(op, nin) : lookup_f64(op, nin);
}

ad_pointwise_pair AD_PAIR_ISA(ad_op op, ad_op second, ad_dtype dtype, int nin)
{
    return dtype == AD_F32 ? lookup_pair_f32(op, second, nin) : lookup_pair_f64(op, second, nin);
}
