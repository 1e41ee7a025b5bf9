/* Initial values of parameters. */
#include "nn/nn.h"
#include <math.h>
#include <stdlib.h>

static void fill(double value, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) out[i] = value;
}

static void uniform(ad_rng *rng, double limit, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) out[i] = limit * (2 * ad_rng_uniform(rng) - 1);
}

static void normal(ad_rng *rng, double sd, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) out[i] = sd * ad_rng_normal(rng);
}

/* The standard normal law between -2 and 2, whose variance is less than 1. */
static void truncated(ad_rng *rng, double sd, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) {
        double x = NAN;
        do x = ad_rng_normal(rng);
        while (fabs(x) > 2);
        out[i] = sd * x;
    }
}

/* Its standard deviation: sqrt(1 - 4 density(2) / (Phi(2) - Phi(-2))). */
static const double truncated_sd = 0.87962566103423978;

#define INIT(name)                                                                                 \
    void nn_init_##name(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out)
#define UNUSED(x) (void)(x)

INIT(zeros)
{
    UNUSED(rng), UNUSED(fan_in), UNUSED(fan_out);
    fill(0, n, out);
}

INIT(ones)
{
    UNUSED(rng), UNUSED(fan_in), UNUSED(fan_out);
    fill(1, n, out);
}

INIT(uniform)
{
    UNUSED(fan_in), UNUSED(fan_out);
    for (int64_t i = 0; out && i < n; i++) out[i] = ad_rng_uniform(rng);
}

INIT(normal)
{
    UNUSED(fan_in), UNUSED(fan_out);
    normal(rng, 1, n, out);
}

INIT(truncated_normal)
{
    UNUSED(fan_in), UNUSED(fan_out);
    truncated(rng, 1, n, out);
}

/* ---- variance scaling: a law of a variance, gain / fan ----------------------------------------
 */

static double sd_of(double gain, double fan) { return sqrt(gain / fan); }
static double limit_of(double gain, double fan) { return sqrt(3 * gain / fan); }

/* name, gain, fan */
#define SCALING(name, gain, fan)                                                                   \
    INIT(name##_uniform)                                                                           \
    {                                                                                              \
        UNUSED(fan_in), UNUSED(fan_out);                                                           \
        uniform(rng, limit_of(gain, fan), n, out);                                                 \
    }                                                                                              \
    INIT(name##_normal)                                                                            \
    {                                                                                              \
        UNUSED(fan_in), UNUSED(fan_out);                                                           \
        normal(rng, sd_of(gain, fan), n, out);                                                     \
    }                                                                                              \
    INIT(name##_truncated)                                                                         \
    {                                                                                              \
        UNUSED(fan_in), UNUSED(fan_out);                                                           \
        truncated(rng, sd_of(gain, fan) / truncated_sd, n, out);                                   \
    }
SCALING(xavier, 2, (double)fan_in + (double)fan_out)
SCALING(he, 2, (double)fan_in)
SCALING(he_out, 2, (double)fan_out)
SCALING(lecun, 1, (double)fan_in)

INIT(uniform_fan_in)
{
    UNUSED(fan_out);
    uniform(rng, sqrt(1.0 / (double)fan_in), n, out);
}

/* ---- matrices ----------------------------------------------------------------------------------
 */

/* An array as a matrix: fan_in rows where that divides the number of elements, else one row. */
static int64_t rows_of(int64_t fan_in, int64_t n)
{
    return fan_in > 0 && n % fan_in == 0 ? fan_in : 1;
}

INIT(identity)
{
    UNUSED(rng), UNUSED(fan_out);
    fill(0, n, out);
    const int64_t rows = rows_of(fan_in, n), columns = n / rows;
    for (int64_t i = 0; out && i < rows && i < columns; i++) out[i * columns + i] = 1;
}

static double product(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Takes from a what lies along the first `before` rows of q, twice (Giraud et al. 2005,
 * doi:10.1007/s00211-005-0615-4: twice is enough), and scales it to length 1. */
static void orthogonalise(int64_t before, int64_t n, const double *q, double *a)
{
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t k = 0; k < before; k++) {
            const double along = product(n, q + k * n, a);
            for (int64_t i = 0; i < n; i++) a[i] -= along * q[k * n + i];
        }
    }
    const double length = sqrt(product(n, a, a));
    for (int64_t i = 0; i < n; i++) a[i] /= length;
}

/* Normal vectors made orthonormal one after the other: of all such matrices none is likelier than
 * another (Mezzadri 2007, arXiv:math-ph/0609050). NaN, which training refuses, where memory is
 * short. */
INIT(orthogonal)
{
    UNUSED(fan_out);
    if (!out || n < 1) return;
    const int64_t rows = rows_of(fan_in, n), columns = n / rows;
    const bool tall = rows > columns;
    const int64_t count = tall ? columns : rows, length = tall ? rows : columns;
    double *q = tall ? malloc((size_t)n * sizeof *q) : out;
    if (!q) {
        fill(NAN, n, out);
        return;
    }
    normal(rng, 1, n, q);
    for (int64_t k = 0; k < count; k++) orthogonalise(k, length, q, q + k * length);
    for (int64_t i = 0; tall && i < rows; i++)
        for (int64_t j = 0; j < columns; j++) out[i * columns + j] = q[j * rows + i];
    if (tall) free(q);
}
