/* Internal to the kernels: loops that are vectorised, and vectors of the instruction set that a
 * file is built for, of BYTES; VECTORS is defined where the compiler can rearrange their elements.
 */
#ifndef COSTATE_KERNEL_VECTORS_H
#define COSTATE_KERNEL_VECTORS_H

/* In-place operation reads and writes the same element only, so iterations are independent. Clang
 * would interleave vectors beyond the 64 bytes by which the loops go, and leave the rest to scalar
 * code. */
#ifdef __clang__
#define VECTORISE _Pragma("clang loop vectorize(assume_safety) interleave_count(1)")
#else
#define VECTORISE _Pragma("GCC ivdep")
#endif

#if defined __AVX512F__
#define BYTES 64
#elif defined __AVX__
#define BYTES 32
#else
#define BYTES 16
#endif
/* x for each element of a vector. */
#define SAME_2(x) x, x
#define SAME_4(x) SAME_2(x), SAME_2(x)
#define SAME_8(x) SAME_4(x), SAME_4(x)
#define SAME_16(x) SAME_8(x), SAME_8(x)
#if BYTES == 64
#define SAME_F32 SAME_16
#define SAME_F64 SAME_8
#elif BYTES == 32
#define SAME_F32 SAME_8
#define SAME_F64 SAME_4
#else
#define SAME_F32 SAME_4
#define SAME_F64 SAME_2
#endif

#if defined __GNUC__ && defined __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define VECTORS 1
#endif
#endif

#ifdef VECTORS
/* Every other element of x followed by y, from `first` on. */
#define EVERY_OTHER_2(x, y, first) __builtin_shufflevector(x, y, first, first + 2)
#define EVERY_OTHER_4(x, y, first)                                                                 \
    __builtin_shufflevector(x, y, first, first + 2, first + 4, first + 6)
#define EVERY_OTHER_8(x, y, first)                                                                 \
    __builtin_shufflevector(x, y, first, first + 2, first + 4, first + 6, first + 8, first + 10,   \
                            first + 12, first + 14)
#define EVERY_OTHER_16(x, y, first)                                                                \
    __builtin_shufflevector(x, y, first, first + 2, first + 4, first + 6, first + 8, first + 10,   \
                            first + 12, first + 14, first + 16, first + 18, first + 20,            \
                            first + 22, first + 24, first + 26, first + 28, first + 30)
#if BYTES == 64
#define EVERY_OTHER_F32 EVERY_OTHER_16
#define EVERY_OTHER_F64 EVERY_OTHER_8
#elif BYTES == 32
#define EVERY_OTHER_F32 EVERY_OTHER_8
#define EVERY_OTHER_F64 EVERY_OTHER_4
#else
#define EVERY_OTHER_F32 EVERY_OTHER_4
#define EVERY_OTHER_F64 EVERY_OTHER_2
#endif
#endif

#endif
