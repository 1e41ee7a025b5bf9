/* The least that a normally distributed number can cost: Philox 4x32-10 (Salmon et al. 2011) and
 * the method of Box and Muller (1958) in plain loops, which the compiler makes as wide as the
 * machine's vectors are. */
#include "bench.h"
#include <math.h>
#include <string.h>

enum { LANES = 128, NUMBERS = 4 * LANES, BLOCKS = 64 };

#define INLINE static inline __attribute__((always_inline))

INLINE float bits_as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t float_as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* -2 log x for 0 < x <= 1: exponent, and 2 atanh(s) of the mantissa m in [0.7, 1.4], with s =
 * (m - 1) / (m + 1). */
INLINE float minus_two_log(float x)
{
    uint32_t bits = float_as_bits(x) - 0x3f3504f3u;
    float exponent = (float)((int32_t)bits >> 23);
    float m = bits_as_float((bits & 0x007fffffu) + 0x3f3504f3u), s = (m - 1) / (m + 1), q = s * s;
    float series = 1 + q * (1 / 3.0f + q * (1 / 5.0f + q * (1 / 7.0f + q * (1 / 9.0f))));
    return -2 * (exponent * 0.693147181f + 2 * s * series);
}

/* cos and sin of 2 pi u, u in [0, 1). */
INLINE void turn(float u, float *c, float *s)
{
    int32_t quarter = (int32_t)(4 * u + 0.5f);
    float x = (u - 0.25f * (float)quarter) * 6.28318531f, q = x * x;
    float sine = x * (1 + q * (-1 / 6.0f + q * (1 / 120.0f + q * (-1 / 5040.0f))));
    float cosine = 1 + q * (-0.5f + q * (1 / 24.0f + q * (-1 / 720.0f + q * (1 / 40320.0f))));
    bool odd = quarter & 1;
    float a = odd ? sine : cosine, b = odd ? cosine : sine;
    *c = bits_as_float(float_as_bits(a) ^ (uint32_t)((quarter + 1) & 2) << 30);
    *s = bits_as_float(float_as_bits(b) ^ (uint32_t)(quarter & 2) << 30);
}

/* Numbers from 0 to 2^24 - 1, as floats. */
INLINE void philox(uint32_t counter, float *restrict out)
{
    for (int i = 0; i < LANES; i++) {
        uint32_t c0 = counter * LANES + (uint32_t)i, c1 = 0, c2 = 0, c3 = 0, k0 = 1, k1 = 2;
        uint64_t a, b;
#define ROUND                                                                                      \
    a = (uint64_t)c0 * 0xD2511F53u;                                                                \
    b = (uint64_t)c2 * 0xCD9E8D57u;                                                                \
    c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;                                                            \
    c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;                                                            \
    c1 = (uint32_t)b;                                                                              \
    c3 = (uint32_t)a;                                                                              \
    k0 += 0x9E3779B9u;                                                                             \
    k1 += 0xBB67AE85u;
        ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND;
#undef ROUND
        out[i] = (float)(int32_t)(c0 >> 8);
        out[LANES + i] = (float)(int32_t)(c1 >> 8);
        out[2 * LANES + i] = (float)(int32_t)(c2 >> 8);
        out[3 * LANES + i] = (float)(int32_t)(c3 >> 8);
    }
}

INLINE void draw(uint32_t counter, float *restrict out)
{
    float words[NUMBERS];
    philox(counter, words);
    for (int i = 0; i < 2 * LANES; i++) {
        float c, s, r = sqrtf(minus_two_log((words[i] + 1) * 0x1p-24f));
        turn(words[2 * LANES + i] * 0x1p-24f, &c, &s);
        out[i] = r * c;
        out[2 * LANES + i] = r * s;
    }
}

#define FUNCTION(name, attribute)                                                                  \
    attribute static void name(float *restrict out)                                                \
    {                                                                                              \
        for (uint32_t k = 0; k < BLOCKS; k++) draw(k, out + k * NUMBERS);                          \
    }
#if defined(__x86_64__)
FUNCTION(draw_avx2, __attribute__((target("avx2,fma"))))
/* Clang has no such attribute for the width. */
#ifdef __clang__
FUNCTION(draw_avx512, __attribute__((target("avx512f,avx512dq,avx512vl"))))
#else
FUNCTION(draw_avx512, __attribute__((target("avx512f,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif
#endif
FUNCTION(draw_plain, )

double bench_normal_sample(void)
{
    static _Thread_local float out[BLOCKS * NUMBERS];
    void (*function)(float *) = draw_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        function = draw_avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) function = draw_avx2;
#endif
    double best = INFINITY;
    for (int i = 0; i < 20; i++) {
        double start = bench_now();
        function(out);
        best = fmin(best, bench_now() - start);
    }
    return best * 1e9 / (BLOCKS * NUMBERS);
}
