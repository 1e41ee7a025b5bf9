/* The loops of optimisers over elements. This file is built once per instruction set, each build
 * with its own NN_LOOPS, the name of the table that it exports.
 *
 * The arithmetic is that of theta's dtype where all numbers are of a moderate size: then no square
 * and no result leaves its range. Elsewhere it is double, and squares are those of scaled numbers.
 */
#include "nn/train/updates.h"
#include <math.h>
#include <string.h>

/* The size of a number as an integer: these are ordered as sizes are, with NaN above infinity, and
 * the largest of many is found without looking at them one after the other. */
static inline int32_t size_bits_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (int32_t)(bits & INT32_MAX);
}

static inline int64_t size_bits_f64(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (int64_t)(bits & INT64_MAX);
}

/* Numbers are moderate up to MOST, rates up to FASTEST, means over up to LONGEST steps, momentum
 * where a gradient lasts for up to LASTING of them. Moments are then within 2 MOST LASTING from the
 * first update on, and a step is at most that times FASTEST LONGEST / LEAST, the smallest epsilon,
 * which is within the range. A square that vanishes belongs to a gradient that is nothing beside
 * epsilon. */
#define T float
#define BITS int32_t
#define SIZE_BITS size_bits_f32
#define A double
#define EXTREME
#define SUFFIX f32_extreme
#define ROOT sqrt
#define SIZE fabs
#include "nn/train/updates_loops.h"
#undef A
#undef EXTREME
#undef SUFFIX
#undef ROOT
#undef SIZE

#define A float
#define SUFFIX f32
#define ROOT sqrtf
#define SIZE fabsf
#define MOST 0x1p30
#define LEAST 0x1p-40
#define FASTEST 0x1p8
#define LONGEST 0x1p24
#define LASTING 0x1p18
#include "nn/train/updates_loops.h"
#undef T
#undef BITS
#undef SIZE_BITS
#undef A
#undef SUFFIX
#undef ROOT
#undef SIZE
#undef MOST
#undef LEAST
#undef LONGEST
#undef LASTING

#define T double
#define BITS int64_t
#define SIZE_BITS size_bits_f64
#define A double
#define EXTREME
#define SUFFIX f64_extreme
#define ROOT sqrt
#define SIZE fabs
#include "nn/train/updates_loops.h"
#undef EXTREME
#undef SUFFIX

#define SUFFIX f64
#define MOST 0x1p400
#define LEAST 0x1p-450
#define LONGEST 0x1p54
#define LASTING 0x1p40
#include "nn/train/updates_loops.h"

/* ---- sums of squares ------------------------------------------------------------------------- */

typedef double wide __attribute__((vector_size(64)));
typedef float half __attribute__((vector_size(32)));
enum { WIDE = sizeof(wide) / sizeof(double), WIDES = 4 };

/* Through a pointer: vectors as results would depend on the instruction set. */
static inline void load_f32(const float *x, wide *out)
{
    half v;
    memcpy(&v, x, sizeof v);
    *out = __builtin_convertvector(v, wide);
}

static inline void load_f64(const double *x, wide *out) { memcpy(out, x, sizeof *out); }

#define SQUARES(suffix, type)                                                                      \
    static double squares_##suffix(int64_t n, const void *data)                                    \
    {                                                                                              \
        const type *x = data;                                                                      \
        wide a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };                                           \
        int64_t i = 0;                                                                             \
        for (; i + WIDES * WIDE <= n; i += WIDES * WIDE) {                                         \
            wide p, q, r, s;                                                                       \
            load_##suffix(x + i, &p);                                                              \
            load_##suffix(x + i + WIDE, &q);                                                       \
            load_##suffix(x + i + 2 * WIDE, &r);                                                   \
            load_##suffix(x + i + 3 * WIDE, &s);                                                   \
            a += p * p;                                                                            \
            b += q * q;                                                                            \
            c += r * r;                                                                            \
            d += s * s;                                                                            \
        }                                                                                          \
        wide all = (a + b) + (c + d);                                                              \
        double sum = 0;                                                                            \
        for (int k = 0; k < WIDE; k++) sum += all[k];                                              \
        for (; i < n; i++) sum += (double)x[i] * (double)x[i];                                     \
        return sum;                                                                                \
    }
SQUARES(f32, float)
SQUARES(f64, double)

/* ---- the table ------------------------------------------------------------------------------- */

/* What does not depend on the algorithm. */
#define LOOPS(dtype, suffix)                                                                       \
    [dtype].squares = squares_##suffix, [dtype].moderate = moderate_##suffix,                      \
    [dtype].moderate_moments = moderate_moments_##suffix,                                          \
    [dtype].moderate_factors = moderate_factors_##suffix
#define UPDATE(dtype, member, name, suffix)                                                        \
    [dtype].member[NN_ALGORITHM_##name] = name##_all_##suffix
#define OPTIMIZER(name, ...)                                                                       \
    UPDATE(AD_F32, update, name, f32), UPDATE(AD_F32, extreme, name, f32_extreme),                 \
        UPDATE(AD_F64, update, name, f64), UPDATE(AD_F64, extreme, name, f64_extreme),

const nn_loops NN_LOOPS[] = {
    LOOPS(AD_F32, f32),
    LOOPS(AD_F64, f64),
#include "nn/train/optimizers.def"
};
