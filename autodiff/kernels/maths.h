/* Internal: the functions of the pointwise kernels, M(f) in the table of operations, for float
 * (maths_f32.h) and double (maths_f64.h). They have no branches and call nothing, so
 * that loops over them become vector code. They hold for all arguments: infinities, NaN, subnormal
 * arguments and results, signed zeros. Only sin, cos and tan are for |x| <= TRIG_LIMIT;
 * pointwise_loops.h sees to the rest. Bounds on their errors are stated, and tested, in
 * tests/test_pointwise.c.
 *
 * Every rounding is written out: contraction is off, and a fused multiply-add is a call of FMA,
 * which is a multiplication and an addition where the instruction set has no fused one. So an
 * element's bits do not depend on the compiler's choice of vectors.
 *
 * The coefficients are minimax fits made for this file by tools/fit_kernel_math.py. Reductions
 * follow Cody and Waite, "Software Manual for the Elementary Functions" (1980); error-free sums and
 * products follow Dekker (1971, doi:10.1007/BF01397083). */
#ifndef COSTATE_KERNEL_MATH_H
#define COSTATE_KERNEL_MATH_H
#include <stdint.h>
#include <string.h>

/* A file whose bits must not depend on the instruction set either defines it as 0. */
#ifdef HAVE_FMA
#elif defined __FMA__ || defined __ARM_FEATURE_FMA
#define HAVE_FMA 1
#else
#define HAVE_FMA 0
#endif

/* Not a hint: a loop with a call in it is not vectorised. */
#define INLINE static inline __attribute__((always_inline))

/* Polynomials by Horner's rule, in x (a name), from the constant coefficient up. FMA is the one of
 * the type at hand. */
#define POLY1(x, a, b) FMA(b, x, a)
#define POLY2(x, a, ...) FMA(POLY1(x, __VA_ARGS__), x, a)
#define POLY3(x, a, ...) FMA(POLY2(x, __VA_ARGS__), x, a)
#define POLY4(x, a, ...) FMA(POLY3(x, __VA_ARGS__), x, a)
#define POLY5(x, a, ...) FMA(POLY4(x, __VA_ARGS__), x, a)
#define POLY6(x, a, ...) FMA(POLY5(x, __VA_ARGS__), x, a)
#define POLY7(x, a, ...) FMA(POLY6(x, __VA_ARGS__), x, a)
#define POLY8(x, a, ...) FMA(POLY7(x, __VA_ARGS__), x, a)
#define POLY9(x, a, ...) FMA(POLY8(x, __VA_ARGS__), x, a)
#define POLY10(x, a, ...) FMA(POLY9(x, __VA_ARGS__), x, a)
#define POLY11(x, a, ...) FMA(POLY10(x, __VA_ARGS__), x, a)
#define POLY12(x, a, ...) FMA(POLY11(x, __VA_ARGS__), x, a)
#define POLY13(x, a, ...) FMA(POLY12(x, __VA_ARGS__), x, a)
#define POLY14(x, a, ...) FMA(POLY13(x, __VA_ARGS__), x, a)
#define POLY15(x, a, ...) FMA(POLY14(x, __VA_ARGS__), x, a)
#define POLY16(x, a, ...) FMA(POLY15(x, __VA_ARGS__), x, a)
#define POLY17(x, a, ...) FMA(POLY16(x, __VA_ARGS__), x, a)
#define POLY18(x, a, ...) FMA(POLY17(x, __VA_ARGS__), x, a)
#define POLY19(x, a, ...) FMA(POLY18(x, __VA_ARGS__), x, a)
#define POLY20(x, a, ...) FMA(POLY19(x, __VA_ARGS__), x, a)
#define POLY21(x, a, ...) FMA(POLY20(x, __VA_ARGS__), x, a)
#define POLY22(x, a, ...) FMA(POLY21(x, __VA_ARGS__), x, a)
#define POLY23(x, a, ...) FMA(POLY22(x, __VA_ARGS__), x, a)

#include "autodiff/kernels/maths_f64.h"
#include "autodiff/kernels/maths_f32.h"

#endif
