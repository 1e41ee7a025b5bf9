/* Normal numbers in bulk: the generator's published answers, bits that every machine has, and the
 * law: moments, tails, distribution, no correlation. Counters are fixed, so nothing is left to
 * chance. */
#include "autodiff/base/philox.h"
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Random123 1.14, kat_vectors: philox4x32-10. */
START_TEST(test_published)
{
    static const uint32_t known[][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
          0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
          0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };
    for (int k = 0; k < 3; k++) {
        uint32_t c[4];
        memcpy(c, known[k], sizeof c);
        ad_philox((uint64_t)known[k][5] << 32 | known[k][4], &c[0], &c[1], &c[2], &c[3]);
        for (int i = 0; i < 4; i++) ck_assert_uint_eq(c[i], known[k][6 + i]);
        uint32_t word2[3] = { 0, known[k][2], 9 }, word3[3] = { 0, known[k][3], 9 }, out[4][3];
        ad_random_words((uint64_t)known[k][5] << 32 | known[k][4],
                        (uint64_t)known[k][1] << 32 | known[k][0], 3, word2, word3, out[0]);
        for (int i = 0; i < 4; i++) ck_assert_uint_eq(out[i][1], known[k][6 + i]);
    }
}
END_TEST

enum { COUNT = 250000 };

/* Numbers of counters 0 .. n - 1 in word 3; the caller frees. In double, [lanes, n]. */
static double *draw(ad_dtype dtype, uint64_t key, uint64_t counter, int n)
{
    const int64_t total = (int64_t)n * ad_normal_lanes(dtype);
    uint32_t *word = malloc(2 * (size_t)n * sizeof *word);
    double *x = malloc((size_t)total * sizeof *x);
    float *f32 = malloc((size_t)total * sizeof *f32);
    for (int i = 0; i < n; i++) {
        word[i] = 5;
        word[n + i] = (uint32_t)i;
    }
    ad_normals(dtype, key, counter, n, word, word + n, dtype == AD_F32 ? (void *)f32 : x);
    for (int64_t i = 0; i < total && dtype == AD_F32; i++) x[i] = (double)f32[i];
    free(f32);
    free(word);
    return x;
}

/* Box and Muller in the C library's functions. */
START_TEST(test_formula)
{
    const uint64_t key = 0x0123456789abcdef, counter = 0xfedcba9876543210;
    enum { N = 3000 };
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        double *x = draw(dtype, key, counter, N);
        for (int i = 0; i < N; i++) {
            uint32_t w[4] = { (uint32_t)counter, (uint32_t)(counter >> 32), 5, (uint32_t)i };
            ad_philox(key, &w[0], &w[1], &w[2], &w[3]);
            for (int pair = 0; pair < (dtype == AD_F32 ? 2 : 1); pair++) {
                const uint64_t one = (uint64_t)w[1] << 32 | w[0], two = (uint64_t)w[3] << 32 | w[2];
                const bool f32 = dtype == AD_F32;
                const uint64_t angle = f32 ? (uint64_t)w[2 * pair + 1] << 32 : two;
                const double u = f32 ? ((w[2 * pair] >> 1) + 0.5) * 0x1p-31
                                     : ((double)(one >> 12) + 0.5) * 0x1p-52;
                const double part = f32 ? (double)((int32_t)(w[2 * pair + 1] << 2) + 2) * 0x1p-32
                                        : ((double)(angle << 2 >> 12) + 0.5) * 0x1p-52 - 0.5;
                double a = part * acos(-1.0) / 2;
                if (angle >> 63) a = acos(-1.0) / 2 - a;
                if (angle >> 62 & 1) a += acos(-1.0);
                const double r = sqrt(-2 * log(u)), within = f32 ? 3e-6 : 3e-15;
                ck_assert_double_eq_tol(x[(2 * pair + 0) * N + i], r * cos(a), within);
                ck_assert_double_eq_tol(x[(2 * pair + 1) * N + i], r * sin(a), within);
            }
        }
        free(x);
    }
}
END_TEST

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double distribution(double x) { return 0.5 * erfc(-x / sqrt(2)); }

/* Within five standard errors; Kolmogorov and Smirnov's distance within what one sample in a
 * million exceeds (2.69 / sqrt n). */
START_TEST(test_law)
{
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        const int n = COUNT * ad_normal_lanes(dtype);
        double *x = draw(dtype, 42, 7, COUNT), sum[5] = { 0 }, worst = 0;
        int beyond[6] = { 0 };
        for (int i = 0; i < n; i++) {
            double power = 1;
            for (int k = 1; k <= 4; k++) sum[k] += power *= x[i];
            for (int k = 1; k <= 5; k++) beyond[k] += fabs(x[i]) > k;
        }
        const double moment[] = { 1, 0, 1, 0, 3 }, variance[] = { 0, 1, 2, 15, 96 };
        for (int k = 1; k <= 4; k++)
            ck_assert_double_le(fabs(sum[k] / n - moment[k]), 5 * sqrt(variance[k] / n));
        for (int k = 1; k <= 5; k++) {
            const double expected = n * erfc(k / sqrt(2));
            ck_assert_double_le(fabs(beyond[k] - expected), 5 * sqrt(expected) + 1);
        }
        /* Lanes are independent of each other, and counters of their neighbours. */
        for (int lag = 1; lag < ad_normal_lanes(dtype); lag++) {
            double product = 0, squares = 0;
            for (int i = 0; i < COUNT; i++) {
                const double a = x[i], b = x[lag * COUNT + i];
                product += a * b;
                squares += (a * a - 1) * (b * b - 1);
            }
            ck_assert_double_le(fabs(product), 5 * sqrt(COUNT));
            ck_assert_double_le(fabs(squares), 5 * 2 * sqrt(COUNT));
        }
        double next = 0;
        for (int i = 1; i < COUNT; i++) next += x[i] * x[i - 1];
        ck_assert_double_le(fabs(next), 5 * sqrt(COUNT));
        qsort(x, (size_t)n, sizeof *x, by_size);
        for (int i = 0; i < n; i++)
            worst = fmax(worst, fabs((i + 0.5) / n - distribution(x[i])) + 0.5 / n);
        ck_assert_double_le(worst, 2.69 / sqrt(n));
        free(x);
    }
}
END_TEST

static uint64_t hash(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* A number, and a fingerprint of all: as they came out first, on x86-64. */
START_TEST(test_bits)
{
    enum { N = 1237 };
    uint32_t word2[N], word3[N];
    static float f32[4 * N];
    static double f64[2 * N];
    uint64_t h32 = 0xcbf29ce484222325, h64 = h32;
    for (int i = 0; i < N; i++) {
        word2[i] = (uint32_t)i * 77;
        word3[i] = (uint32_t)i / 3;
    }
    for (uint64_t k = 0; k < 50; k++) {
        ad_normals(AD_F32, k, k << 40, N, word2, word3, f32);
        ad_normals(AD_F64, k, k << 40, N, word2, word3, f64);
        h32 = hash(h32, f32, sizeof f32);
        h64 = hash(h64, f64, sizeof f64);
    }
    ck_assert_msg(h32 == UINT64_C(0x15522ec1760043f3) && h64 == UINT64_C(0xc0da4e78693c5a08),
                  "0x%016llx 0x%016llx %a %a", (unsigned long long)h32, (unsigned long long)h64,
                  (double)f32[0], f64[0]);
    /* However many are asked for at a time. */
    double alone[2];
    ad_normals(AD_F64, 49, UINT64_C(49) << 40, 1, word2 + 1000, word3 + 1000, alone);
    ck_assert(alone[0] == f64[1000] && alone[1] == f64[N + 1000]);
}
END_TEST

typedef struct {
    atomic_int done[1000];
    atomic_int wrong_thread;
} shared;

static void part(void *data, int thread, int64_t k)
{
    shared *s = data;
    atomic_fetch_add(&s->done[k], 1);
    if (thread < 0 || thread >= 2) atomic_fetch_add(&s->wrong_thread, 1);
}

START_TEST(test_share)
{
    static shared s;
    ad_share(2, 1e9, 1000, part, &s);
    for (int k = 0; k < 1000; k++) ck_assert_int_eq(s.done[k], 1);
    ck_assert_int_eq(s.wrong_thread, 0);
}
END_TEST

/* Numbers in bulk are those that come one by one, where the counter's halves wrap too. */
START_TEST(test_in_bulk)
{
    static const char *const sets[] = { "generic", "x86-64-v2", "x86-64-v3", "x86-64-v4" };
    static const uint64_t starts[] = { 0, 7, UINT32_MAX - 20, UINT64_MAX - 20 };
    for (int k = 0; k < 16; k++) {
        setenv("COSTATE_ISA", sets[k % 4], 1);
        for (int n = 0; n <= 45; n++) {
            ad_rng one = { 0x0123456789abcdef, starts[k / 4] }, all = one;
            uint64_t out[46];
            memset(out, 0x5a, sizeof out);
            ad_rng_fill(&all, n, out);
            for (int i = 0; i < n; i++) ck_assert_uint_eq(out[i], ad_rng_next(&one));
            ck_assert_uint_eq(out[n], 0x5a5a5a5a5a5a5a5a);
            ck_assert_uint_eq(all.counter, one.counter);
        }
        unsetenv("COSTATE_ISA");
    }
    uint64_t out[2] = { 1, 1 };
    ad_rng rng = ad_rng_seed(1);
    ad_rng_fill(NULL, 2, out);
    ck_assert(out[0] == 0 && out[1] == 0);
    ad_rng_fill(&rng, 2, NULL);
    ad_rng_fill(&rng, -1, out);
    ck_assert_uint_eq(rng.counter, 0);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("normals", "normals");
    tcase_add_test(tests, test_published);
    tcase_add_test(tests, test_formula);
    tcase_add_test(tests, test_law);
    tcase_add_test(tests, test_bits);
    tcase_add_test(tests, test_in_bulk);
    tcase_add_test(tests, test_share);
    return suite_run();
}
