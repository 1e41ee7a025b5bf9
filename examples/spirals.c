#include "spirals.h"
#include "costate.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;
const double spiral_noise = 0.3;

double spiral_time(int64_t k) { return 6 * pi * (double)k / (SPIRAL_CURVE - 1); }

/* The k-th point of a curve. */
static void curve(bool clockwise, int64_t k, double *x)
{
    const double t = spiral_time(k), angle = clockwise ? 6 * pi + 1 - t : t;
    const double radius = clockwise ? 15 / angle : 0.3 * angle;
    x[0] = radius * cos(angle) + (clockwise ? -5 : 5);
    x[1] = radius * sin(angle);
}

/* Which points of the grid are seen: each subset of the size is as likely as any other. */
static void choose(spirals *s, int64_t i, ad_rng *rng)
{
    const double *x = s->grid + i * SPIRAL_GRID * 2;
    double *mask = s->mask + i * SPIRAL_GRID, *out = s->sequence + i * s->seen * 4;
    int64_t wanted = s->seen, before = 0;
    for (int64_t k = 0; k < SPIRAL_GRID; k++) {
        mask[k] = (double)(SPIRAL_GRID - k) * ad_rng_uniform(rng) < (double)wanted;
        if (mask[k] == 0) continue;
        if (wanted < s->seen) out[-1] = spiral_time(k - before);
        out[0] = x[2 * k];
        out[1] = x[2 * k + 1];
        out[2] = spiral_time(k - before);
        out[3] = spiral_time(SPIRAL_GRID - k);
        before = k;
        out += 4;
        wanted--;
    }
}

bool spirals_make(uint64_t seed, int64_t count, int64_t seen, bool future, spirals *s)
{
    const size_t n = (size_t)count;
    const int64_t times = future ? SPIRAL_ALL : SPIRAL_GRID;
    *s = (spirals){ .count = count,
                    .seen = seen,
                    .truth = calloc(n * SPIRAL_ALL * 2, sizeof(double)),
                    .noisy = calloc(n * SPIRAL_ALL * 2, sizeof(double)),
                    .grid = calloc(n * SPIRAL_GRID * 2, sizeof(double)),
                    .mask = calloc(n * SPIRAL_GRID, sizeof(double)),
                    .sequence = calloc(n * (size_t)seen * 4, sizeof(double)) };
    ad_rng rng = ad_rng_seed(seed);
    if (!s->truth || !s->noisy || !s->grid || !s->mask || !s->sequence)
        return !example_failed("spirals", NULL);
    for (int64_t i = 0; i < count; i++) {
        const uint64_t places = (uint64_t)(SPIRAL_CURVE - SPIRAL_GRID - times);
        const int64_t start = SPIRAL_GRID + (int64_t)ad_rng_below(&rng, places);
        const bool clockwise = ad_rng_uniform(&rng) > 0.5;
        double *truth = s->truth + i * SPIRAL_ALL * 2, *noisy = s->noisy + i * SPIRAL_ALL * 2;
        for (int64_t k = 0; k < times; k++) curve(clockwise, start + k, truth + 2 * k);
        for (int64_t k = 0; k < 2 * times; k++)
            noisy[k] = truth[k] + spiral_noise * ad_rng_normal(&rng);
        memcpy(s->grid + i * SPIRAL_GRID * 2, noisy, SPIRAL_GRID * 2 * sizeof *noisy);
        choose(s, i, &rng);
    }
    return true;
}

void spirals_free(spirals *s)
{
    free(s->truth);
    free(s->noisy);
    free(s->grid);
    free(s->mask);
    free(s->sequence);
}

void spirals_fit(const spirals *s, double *x)
{
    static double points[2][SPIRAL_CURVE][2];
    for (int c = 0; c < 2; c++)
        for (int64_t k = 0; k < SPIRAL_CURVE; k++) curve(c, k, points[c][k]);
    for (int64_t i = 0; i < s->count; i++) {
        const double *seen = s->grid + i * SPIRAL_GRID * 2, *mask = s->mask + i * SPIRAL_GRID;
        double least = INFINITY;
        const double *best = NULL;
        for (int c = 0; c < 2; c++)
            for (int64_t start = SPIRAL_GRID; start < SPIRAL_CURVE - SPIRAL_ALL; start++) {
                const double *at = points[c][start];
                double sum = 0;
                for (int64_t k = 0; k < 2 * SPIRAL_GRID; k++)
                    sum += mask[k / 2] * pow(seen[k] - at[k], 2);
                if (sum < least) best = at;
                least = fmin(least, sum);
            }
        memcpy(x + i * SPIRAL_ALL * 2, best, SPIRAL_ALL * 2 * sizeof *x);
    }
}

spiral_errors spirals_judge(const spirals *s, int64_t from, const double *x)
{
    spiral_errors e = { 0 };
    const double share = 1 / (2 * (double)s->count);
    for (int64_t i = 0; i < s->count; i++)
        for (int64_t k = from; k < SPIRAL_ALL; k++)
            for (int j = 0; j < 2; j++, x++) {
                const int64_t at = (i * SPIRAL_ALL + k) * 2 + j;
                e.clean[k] += share * pow(*x - s->truth[at], 2);
                e.noisy[k] += share * pow(*x - s->noisy[at], 2);
            }
    return e;
}

double spirals_root(const double *squares, int64_t from, int64_t to)
{
    double mean = 0;
    for (int64_t k = from; k < to; k++) mean += squares[k] / (double)(to - from);
    return sqrt(mean);
}
