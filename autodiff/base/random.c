/* Counter-based random numbers. */
#include "autodiff/extension.h"
#include "autodiff/base/philox.h"
#include <math.h>

/* The upper half of the counter separates draws (0) from splits (1), so that a child's key is none
 * of its parent's numbers. */
static uint64_t draw(ad_rng *rng, uint64_t purpose)
{
    uint32_t c0 = (uint32_t)rng->counter, c1 = (uint32_t)(rng->counter >> 32);
    uint32_t c2 = (uint32_t)purpose, c3 = (uint32_t)(purpose >> 32);
    rng->counter++;
    ad_philox(rng->key, &c0, &c1, &c2, &c3);
    return (uint64_t)c1 << 32 | c0;
}

ad_rng ad_rng_seed(uint64_t seed) { return (ad_rng){ seed, 0 }; }
ad_rng ad_rng_split(ad_rng *rng) { return (ad_rng){ rng ? draw(rng, 1) : 0, 0 }; }
uint64_t ad_rng_next(ad_rng *rng) { return rng ? draw(rng, 0) : 0; }

uint64_t ad_rng_below(ad_rng *rng, uint64_t n)
{
    if (!rng || n == 0) return 0;
    /* The smallest 2^64 mod n draws would make some results likelier than others. There are fewer
     * than n of them, so that most draws need one division. */
    uint64_t bits;
    do bits = ad_rng_next(rng);
    while (bits < n && bits < -n % n);
    return bits % n;
}

/* 52 bits and a half: the ends cannot be reached by rounding. */
double ad_rng_uniform(ad_rng *rng)
{
    return rng ? ((double)(ad_rng_next(rng) >> 12) + 0.5) * 0x1p-52 : NAN;
}

/* log x for 0 < x < 1 to about 1e-16, by operations that IEEE 754 fixes to the last bit; libms
 * differ in theirs. x = m 2^e with m in [sqrt(1/2), sqrt 2), and log m = 2 artanh s with s = (m -
 * 1) / (m + 1), |s| < 0.1716. */
static double portable_log(double x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0.70710678118654752440) {
        m *= 2;
        e--;
    }
    double s = (m - 1) / (m + 1), s2 = s * s, series = 0;
    for (int k = 25; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
    return 2 * s * series + e * 0.69314718055994530942;
}

/* The polar method (Marsaglia & Bray 1964, doi:10.1137/1006063): a point in the unit disc gives a
 * normal number without sine or cosine. */
double ad_rng_normal(ad_rng *rng)
{
    double u, v, s;
    if (!rng) return NAN;
    do {
        u = 2 * ad_rng_uniform(rng) - 1;
        v = 2 * ad_rng_uniform(rng) - 1;
        s = u * u + v * v;
    } while (s >= 1 || s == 0);
    return u * sqrt(-2 * portable_log(s) / s);
}

void ad_random_words(uint64_t key, uint64_t counter, int64_t n, const uint32_t *word2,
                     const uint32_t *word3, uint32_t *out)
{
    if (n <= 0 || !word2 || !word3 || !out) return;
    for (int64_t i = 0; i < n; i++) {
        uint32_t a = (uint32_t)counter, b = (uint32_t)(counter >> 32), c = word2[i], d = word3[i];
        ad_philox(key, &a, &b, &c, &d);
        out[i] = a;
        out[n + i] = b;
        out[2 * n + i] = c;
        out[3 * n + i] = d;
    }
}
