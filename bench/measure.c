/* Times beside the machine's peak, which drifts with its clock and its neighbours. */
#include "bench.h"
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static clockid_t watch = CLOCK_MONOTONIC;

void bench_use_processor_time(void) { watch = CLOCK_PROCESS_CPUTIME_ID; }

double bench_now(void)
{
    struct timespec t;
    clock_gettime(watch, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the peak: independent chains of fused multiplications and additions, enough of them to hide
 * their latency, and few enough for sixteen registers, with two operands beside them ---- */

enum { CHAINS = 12, BURST = 40000 };
static volatile double sink;

/* One burst; returns the operations done. The chains are a named register each, which an array
 * would not be without optimisation. */
#define BURST_FUNCTION(name, attribute, V, lanes, set, fma, first)                                 \
    attribute static double name(void)                                                             \
    {                                                                                              \
        V m = set(0.999999f), c = set(1e-6f), a[CHAINS];                                           \
        for (int i = 0; i < CHAINS; i++) a[i] = set(1 + i);                                        \
        for (int k = 0; k < BURST; k++) {                                                          \
            a[0] = fma(a[0], m, c), a[1] = fma(a[1], m, c), a[2] = fma(a[2], m, c),                \
            a[3] = fma(a[3], m, c);                                                                \
            a[4] = fma(a[4], m, c), a[5] = fma(a[5], m, c), a[6] = fma(a[6], m, c),                \
            a[7] = fma(a[7], m, c);                                                                \
            a[8] = fma(a[8], m, c), a[9] = fma(a[9], m, c), a[10] = fma(a[10], m, c),              \
            a[11] = fma(a[11], m, c);                                                              \
        }                                                                                          \
        double sum = 0;                                                                            \
        for (int i = 0; i < CHAINS; i++) sum += (double)first(a[i]);                               \
        sink = sum;                                                                                \
        return 2.0 * CHAINS * BURST * lanes;                                                       \
    }

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX2_FIRST_PS(v) _mm_cvtss_f32(_mm256_castps256_ps128(v))
#define AVX2_FIRST_PD(v) _mm_cvtsd_f64(_mm256_castpd256_pd128(v))
#define AVX512 __attribute__((target("avx512f")))
#define AVX512_FIRST_PS(v) _mm_cvtss_f32(_mm512_castps512_ps128(v))
#define AVX512_FIRST_PD(v) _mm_cvtsd_f64(_mm512_castpd512_pd128(v))
BURST_FUNCTION(avx2_f32, AVX2, __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps, AVX2_FIRST_PS)
BURST_FUNCTION(avx2_f64, AVX2, __m256d, 4, _mm256_set1_pd, _mm256_fmadd_pd, AVX2_FIRST_PD)
BURST_FUNCTION(avx512_f32, AVX512, __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, AVX512_FIRST_PS)
BURST_FUNCTION(avx512_f64, AVX512, __m512d, 8, _mm512_set1_pd, _mm512_fmadd_pd, AVX512_FIRST_PD)
#endif

/* Elsewhere the compiler's vectors; this file is compiled so that it may fuse a * b + c where the
 * machine can. */
typedef float vector_f32 __attribute__((vector_size(16)));
typedef double vector_f64 __attribute__((vector_size(16)));
#define PLAIN_SET_F32(x) ((vector_f32){ (x), (x), (x), (x) })
#define PLAIN_SET_F64(x) ((vector_f64){ (x), (x) })
#define PLAIN_FMA(a, b, c) ((a) * (b) + (c))
#define PLAIN_FIRST(v) ((v)[0])
BURST_FUNCTION(plain_f32, , vector_f32, 4, PLAIN_SET_F32, PLAIN_FMA, PLAIN_FIRST)
BURST_FUNCTION(plain_f64, , vector_f64, 2, PLAIN_SET_F64, PLAIN_FMA, PLAIN_FIRST)

static double burst(ad_dtype dtype)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return dtype == AD_F32 ? avx512_f32() : avx512_f64();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return dtype == AD_F32 ? avx2_f32() : avx2_f64();
#endif
    return dtype == AD_F32 ? plain_f32() : plain_f64();
}

double bench_peak_sample(ad_dtype dtype)
{
    double start = bench_now(), flops = burst(dtype);
    return flops / (bench_now() - start) * 1e-9;
}

/* ---- medians ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How many runs in a row last `least` seconds or more, after as long again to warm up. */
static long runs_needed(bench_job *job, double least)
{
    double start = bench_now();
    do job->run(job->user);
    while (bench_now() - start < 5 * least);
    for (long runs = 1;; runs *= 2) {
        start = bench_now();
        for (long k = 0; k < runs; k++) job->run(job->user);
        if (bench_now() - start >= least) return runs;
    }
}

static double median(int n, double *values)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

bool bench_measure(int repeats, ad_dtype dtype, int njob, bench_job *jobs, double *peak)
{
    double *ms = malloc((size_t)repeats * (size_t)njob * sizeof *ms);
    if (!ms) return false;
    for (int j = 0; j < njob; j++) jobs[j].runs = runs_needed(&jobs[j], 2e-3);
    *peak = 0;
    for (int r = 0; r < repeats; r++)
        for (int j = 0; j < njob; j++) {
            double sample = bench_peak_sample(dtype), start;
            if (sample > *peak) *peak = sample;
            start = bench_now();
            for (long k = 0; k < jobs[j].runs; k++) jobs[j].run(jobs[j].user);
            ms[j * repeats + r] = (bench_now() - start) * 1e3 / (double)jobs[j].runs;
        }
    for (int j = 0; j < njob; j++) jobs[j].ms = median(repeats, ms + j * repeats);
    free(ms);
    return true;
}

double bench_floor(double flops, double tanhs, ad_dtype dtype, double peak)
{
    /* 0.206 ns where the peak is 214 GFLOP/s in single precision, 0.912 ns where it is 107 in
     * double: as many cycles on any machine. */
    double tanh_ns = dtype == AD_F32 ? 0.206 * 214 / peak : 0.912 * 107 / peak;
    return flops / peak * 1e-6 + tanhs * tanh_ns * 1e-6;
}
