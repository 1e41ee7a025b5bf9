/* Random bits and standard normal numbers by counting. Built once per instruction set: AD_BITS_ISA
 * and AD_NORMALS_ISA name the functions. All builds give the same bits: integers, and additions,
 * multiplications, divisions and square roots as IEEE 754 fixes them, none of them fused.
 *
 * Box and Muller (1958, doi:10.1214/aoms/1177706645) make of two uniform numbers a radius and an
 * angle, and so a point of the plane with two normal coordinates. For vectors that is cheaper than
 * inverting the distribution, whose centre and tails both have to be computed, and than the polar
 * method, which rejects. */
#define HAVE_FMA 0
#include "autodiff/base/philox.h"
#include "autodiff/kernels/builds.h"
#include "autodiff/kernels/maths.h"
#include "autodiff/kernels/vectors.h"
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { TILE = 256 }; /* counters at a time: their words stay in the level 1 cache */

typedef struct {
    uint32_t w[4][TILE];
} words;

/* GCC does not find the instruction that multiplies the lower halves of 64-bit elements: its loops
 * multiply all 64 bits, and take twice as long. */
#ifdef __SSE2__
#if defined __AVX512F__
enum { WIDE = 8 };
#define PRODUCT(x, y) ((wide)_mm512_mul_epu32((__m512i)(x), _mm512_set1_epi64(y)))
#elif defined __AVX2__
enum { WIDE = 4 };
#define PRODUCT(x, y) ((wide)_mm256_mul_epu32((__m256i)(x), _mm256_set1_epi64x(y)))
#else
enum { WIDE = 2 };
#define PRODUCT(x, y) ((wide)_mm_mul_epu32((__m128i)(x), _mm_set1_epi64x(y)))
#endif
typedef uint64_t wide __attribute__((vector_size(8 * WIDE)));
typedef uint32_t narrow __attribute__((vector_size(4 * WIDE)));

INLINE wide widened(const uint32_t *from)
{
    narrow x;
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, wide);
}

INLINE void store(uint32_t *to, wide x)
{
    const narrow y = __builtin_convertvector(x, narrow);
    memcpy(to, &y, sizeof y);
}

/* The first halves of the output for the first counters, as many as fill vectors; returns how many.
 */
static int64_t wide_bits(uint64_t key, uint64_t counter, int64_t n, uint64_t *out)
{
    static const uint64_t following[] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    wide lanes;
    memcpy(&lanes, following, sizeof lanes);
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        const wide zero = { 0 };
        wide a = lanes + (counter + (uint64_t)i), b = a >> 32, c = zero, d = zero;
        AD_PHILOX(wide, PRODUCT, key, a, b, c, d);
        const wide both = b << 32 | (a & UINT32_MAX);
        memcpy(out + i, &both, sizeof both);
    }
    return i;
}

/* The first counters, as many as fill vectors; returns how many. */
static int wide_words(uint64_t key, uint64_t counter, int n, const uint32_t *c2, const uint32_t *c3,
                      words *out)
{
    int i = 0;
    for (; i + WIDE <= n; i += WIDE) {
        const wide zero = { 0 };
        wide a = zero + (counter & UINT32_MAX), b = zero + (counter >> 32);
        wide c = widened(c2 + i), d = widened(c3 + i);
        AD_PHILOX(wide, PRODUCT, key, a, b, c, d);
        store(out->w[0] + i, a);
        store(out->w[1] + i, b);
        store(out->w[2] + i, c);
        store(out->w[3] + i, d);
    }
    return i;
}
#else
static int64_t wide_bits(uint64_t key, uint64_t counter, int64_t n, uint64_t *out)
{
    (void)key, (void)counter, (void)n, (void)out;
    return 0;
}

static int wide_words(uint64_t key, uint64_t counter, int n, const uint32_t *c2, const uint32_t *c3,
                      words *out)
{
    (void)key, (void)counter, (void)n, (void)c2, (void)c3, (void)out;
    return 0;
}
#endif

static void random_words(uint64_t key, uint64_t counter, int n, const uint32_t *restrict c2,
                         const uint32_t *restrict c3, words *restrict out)
{
    VECTORISE
    for (int i = wide_words(key, counter, n, c2, c3, out); i < n; i++) {
        uint32_t a = (uint32_t)counter, b = (uint32_t)(counter >> 32), c = c2[i], d = c3[i];
        ad_philox(key, &a, &b, &c, &d);
        out->w[0][i] = a;
        out->w[1][i] = b;
        out->w[2][i] = c;
        out->w[3][i] = d;
    }
}

/* The angle is that of a quarter around the first axis; one bit exchanges the coordinates, one
 * turns the point half around. Radii up to sqrt(-2 log 2^-32) = 6.7. */
static void normals_f32(int n, const uint32_t *restrict radius, const uint32_t *restrict angle,
                        float *restrict x, float *restrict y)
{
    VECTORISE
    for (int i = 0; i < n; i++) {
        const float u = ((float)(int32_t)(radius[i] >> 1) + 0.5f) * 0x1p-31f;
        float e;
        const float m = split_f32(u, &e);
        const float square = -2 * log_parts_f32(e, m - 1);
        const float r = sqrt_f32(square > 0 ? square : 0);
        const uint32_t turned = (angle[i] & 0x40000000u) << 1;
        const float a = (float)((int32_t)(angle[i] << 2) + 2) * (0x1.921fb6p-1f * 0x1p-31f);
        const float c = from_bits_f32(bits_f32(r * cos_reduced_f32(a)) ^ turned);
        const float s = from_bits_f32(bits_f32(r * sin_reduced_f32(a)) ^ turned);
        const bool exchanged = (int32_t)angle[i] < 0;
        x[i] = exchanged ? s : c;
        y[i] = exchanged ? c : s;
    }
}

/* Likewise; radii up to sqrt(-2 log 2^-53) = 8.6. */
static void normals_f64(int n, const words *restrict from, double *restrict x, double *restrict y)
{
    VECTORISE
    for (int i = 0; i < n; i++) {
        const uint64_t radius = (uint64_t)from->w[1][i] << 32 | from->w[0][i];
        const uint64_t angle = (uint64_t)from->w[3][i] << 32 | from->w[2][i];
        const uint64_t one = 0x3ff0000000000000u;
        const double u = from_bits_f64(radius >> 12 | one) - (1 - 0x1p-53);
        double e;
        const double m = split_f64(u, &e);
        const double r = sqrt_f64(-2 * log_parts_f64(e, m - 1));
        const uint64_t turned = (angle & 0x4000000000000000u) << 1;
        const double a =
            (from_bits_f64((angle << 2) >> 12 | one) - (1.5 - 0x1p-53)) * 0x1.921fb54442d18p+0;
        const double c = from_bits_f64(bits_f64(r * cos_reduced_f64(a, 0)) ^ turned);
        const double s = from_bits_f64(bits_f64(r * sin_reduced_f64(a, 0)) ^ turned);
        const bool exchanged = (int64_t)angle < 0;
        x[i] = exchanged ? s : c;
        y[i] = exchanged ? c : s;
    }
}

void AD_BITS_ISA(uint64_t key, uint64_t counter, int64_t n, uint64_t *out)
{
    for (int64_t i = wide_bits(key, counter, n, out); i < n; i++) {
        const uint64_t at = counter + (uint64_t)i;
        uint32_t a = (uint32_t)at, b = (uint32_t)(at >> 32), c = 0, d = 0;
        ad_philox(key, &a, &b, &c, &d);
        out[i] = (uint64_t)b << 32 | a;
    }
}

void AD_NORMALS_ISA(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n, const uint32_t *c2,
                    const uint32_t *c3, void *out)
{
    words buffer;
    for (int64_t first = 0; first < n; first += TILE) {
        const int count = n - first < TILE ? (int)(n - first) : TILE;
        random_words(key, counter, count, c2 + first, c3 + first, &buffer);
        if (dtype == AD_F32) {
            float *to = (float *)out + first;
            normals_f32(count, buffer.w[0], buffer.w[1], to, to + n);
            normals_f32(count, buffer.w[2], buffer.w[3], to + 2 * n, to + 3 * n);
        } else {
            double *to = (double *)out + first;
            normals_f64(count, &buffer, to, to + n);
        }
    }
}
