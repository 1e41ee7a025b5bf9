/* The loops of optimisers over elements. This file is built once per instruction set, each build
 * with its own NN_LOOPS, the name of the table that it exports.
 *
 * The arithmetic is that of theta's dtype where squares of gradients stay within its range, which
 * is looked at chunk by chunk. Elsewhere it is double, and squares are those of scaled numbers. */
#include "nn/train/updates.h"
#include <math.h>
#include <string.h>

/* Elements whose range is looked at together; the second look finds them in the level 1 cache. */
enum { CHUNK = 1024 };

/* Numbers up to LARGE have squares and sums within the range. A square that vanishes belongs to a
 * gradient that is nothing beside epsilon, if that is not smaller than LEAST. */
#define T float
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
#define LARGE 0x1p60
#define LEAST 0x1p-40
#define ROOT sqrtf
#define SIZE fabsf
#include "nn/train/updates_loops.h"
#undef T
#undef A
#undef SUFFIX
#undef LARGE
#undef LEAST
#undef ROOT
#undef SIZE

#define T double
#define A double
#define EXTREME
#define SUFFIX f64_extreme
#define ROOT sqrt
#define SIZE fabs
#include "nn/train/updates_loops.h"
#undef EXTREME
#undef SUFFIX

#define SUFFIX f64
#define LARGE 0x1p500
#define LEAST 0x1p-450
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

const nn_loops NN_LOOPS = {
    .squares_f32 = squares_f32,
    .squares_f64 = squares_f64,
#define OPTIMIZER(name, ...) [NN_ALGORITHM_##name] = name##_all_f32,
    .update_f32 = {
#include "nn/train/optimizers.def"
    },
#undef OPTIMIZER
#define OPTIMIZER(name, ...) [NN_ALGORITHM_##name] = name##_all_f64,
    .update_f64 = {
#include "nn/train/optimizers.def"
    },
#undef OPTIMIZER
};
