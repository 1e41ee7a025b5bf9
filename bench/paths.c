/* Brownian paths: what a number costs beside one of a plain loop, where a path is asked in order
 * and at random. */
#include "bench.h"
#include "ode/noise/noise.h"
#include <stdlib.h>

enum { ROWS = 512, COMPONENTS = 32, STEPS = 128 };
typedef struct {
    const char *name;
    int64_t cells; /* of the path from 0 to 1 */
    bool random;   /* 128 cells at random; else 128 equal steps in order */
    double must;
} path_case;
/* In order over cells, and inside one cell (three numbers for each halving: W, H and K); at random
 * among few cells and among many: that costs as the logarithm of their number. */
static const path_case cases[] = { { "path.order", STEPS, false, 3 },
                                   { "path.within", 1, false, 0 },
                                   { "path.random128", STEPS, true, 0 },
                                   { "path.random16384", STEPS *STEPS, true, 0 } };

typedef struct {
    const path_case *c;
    ode_noise *noise;
    ode_noise_settings settings;
    void *out;
    char error[256];
    bool failed;
} path;

static void run(void *user)
{
    path *p = user;
    int64_t cells = p->c->random ? p->c->cells : STEPS;
    ad_rng rng = ad_rng_seed(1);
    if (ode_noise_open(&p->noise, &p->settings, p->error, sizeof p->error)) p->failed = true;
    for (int64_t k = 0; k < STEPS && !p->failed; k++) {
        int64_t at = p->c->random ? (int64_t)(ad_rng_next(&rng) % (uint64_t)cells) : k;
        double a = (double)at / (double)cells, b = (double)(at + 1) / (double)cells;
        if (ode_noise_step(p->noise, a, b, &p->out, p->error, sizeof p->error)) p->failed = true;
    }
}

static bool time_case(const bench_options *options, const path_case *c)
{
    path p = { .c = c,
               .settings = { .dtype = AD_F32,
                             .rows = ROWS,
                             .m = COMPONENTS,
                             .groups = 1,
                             .t1 = 1,
                             .cells = c->cells,
                             .threads = options->threads },
               .out = bench_alloc(ROWS * COMPONENTS, AD_F32) };
    bench_line line = {
        .name = c->name, .dtype = AD_F32, .threads = options->threads, .must = c->must
    };
    bench_job job = { .run = run, .user = &p };
    bool fine = p.out && bench_measure(options->repeats, AD_F32, 1, &job, &line.peak);
    line.ms = job.ms;
    line.floor_ms = STEPS * ROWS * COMPONENTS * bench_normal_sample() * 1e-6 / options->threads;
    if (!fine || p.failed) fine = bench_failed(c->name, p.failed ? p.error : NULL);
    else bench_print(options, &line);
    ode_noise_close(p.noise);
    free(p.out);
    return fine;
}

bool bench_paths(const bench_options *options, const char *wanted, int *count)
{
    bool fine = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!bench_wanted(wanted, "path", cases[i].name)) continue;
        fine &= time_case(options, &cases[i]);
        ++*count;
    }
    return fine;
}
