/* Wide networks: layers, solves, and the exact trace, at sizes where a weight matrix does not stay
 * in a level 2 cache. Losses are half the sum of squares of the outputs over the rows; of densities
 * half that of the final state plus the mean of the integrated trace. */
#include "bench.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDEST_NETWORK = 5, MAX_NUMBERS = 2 * WIDEST_NETWORK + 2, RK4_STEPS = 6 };

typedef enum {
    VALUE,      /* the loss of the network's outputs */
    GRADIENT,   /* and its gradients by x and theta */
    SOLVE,      /* the loss of six steps of rk4 and its gradient by theta */
    HUTCHINSON, /* the same of a density, with one probe a row for the trace */
    DENSITY,    /* a step of dopri5 with the exact trace, and the gradient by theta */
} wide_kind;

typedef struct {
    const char *name;
    wide_kind kind;
    int64_t rows;
    int nsize;
    int64_t sizes[WIDEST_NETWORK + 1];
    int count;
    double answer[MAX_NUMBERS];
} wide_case;

#define SIZES(...)                                                                                 \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
static const wide_case cases[] = {
#define WIDE(name, kind, rows, nsize, sizes, count, ...)                                           \
    { #name, kind, rows, nsize, sizes, count, { __VA_ARGS__ } },
#include "wide.def"
#undef WIDE
};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct {
    const wide_case *c;
    ad_dtype dtype;
    bench_network net;
    void *x, *probe, *dx, *slope;
    double loss[1];
    ad_program *program;
    ad_workspace *workspace;
    bool failed;
} wide;

/* ---- recording ---- */

/* probe^T (df/dx) probe; args are theta and the probe. */
static ad_var estimate(ad_var t, ad_var x, const ad_var *args, void *user)
{
    ad_var y = bench_field(t, x, args, user), back;
    ad_vjp(1, &y, &args[1], 1, &x, &back);
    return ad_sum_axis(ad_mul(back, args[1]), 1, true);
}

static ad_var half_square(const wide *w, ad_var y)
{
    return ad_scale(ad_sum_all(ad_square(y)), 0.5 / (double)w->c->rows);
}

static ad_var record(wide *w, ad_var theta, ad_var x, ad_var probe)
{
    ad_tape *tape = theta.tape;
    ode_options rk4 = { .method = &ode_rk4_38, .steps = RK4_STEPS },
                dopri5 = { .method = &ode_dopri5, .steps = 1 };
    ad_var args[2] = { theta, probe }, times = ode_interval(tape, 0, 1), y, change;
    switch (w->c->kind) {
    case VALUE:
    case GRADIENT: return half_square(w, bench_field(ad_scalar(tape, 0), x, &theta, &w->net));
    case SOLVE:
        return half_square(w, ode_solve_final(bench_field, &w->net, x, 1, &theta, times, &rk4));
    case HUTCHINSON:
        y = ode_solve_cost(bench_field, estimate, &w->net, x, 2, args, times, &rk4, &change);
        return ad_add(half_square(w, ad_slice(y, 1, 1, 2)), ad_mean_all(ad_slice(change, 1, 1, 2)));
    case DENSITY:
        y = ode_flow(bench_field, &w->net, x, 1, &theta, times, &dopri5, &change);
        return ad_add(half_square(w, y), ad_mean_all(change));
    }
    return x;
}

static bool prepare(wide *w, int threads)
{
    const wide_case *c = w->c;
    int64_t d = c->sizes[0];
    if (!bench_network_make(&w->net, c->nsize, c->sizes, 0, w->dtype)) return false;
    w->x = bench_inputs(c->rows, d, w->dtype);
    w->probe = bench_alloc(c->rows * d, w->dtype);
    w->dx = bench_alloc(c->rows * d, w->dtype);
    w->slope = bench_alloc(w->net.size, w->dtype);
    if (!w->x || !w->probe || !w->dx || !w->slope) return bench_failed(c->name, "out of memory");
    for (int64_t i = 0; i < c->rows * d; i++)
        bench_put(w->probe, w->dtype, i, (i / d + 3 * (i % d)) % 7 < 3 ? -1 : 1);
    ad_tape *tape = ad_tape_new(w->dtype);
    ad_shape shape = AD_SHAPE(AD_ROWS, d);
    ad_var in[3] = { ad_param(tape, AD_SHAPE(w->net.size), NULL),
                     ad_input_rows(tape, shape, 0, NULL), ad_input_rows(tape, shape, 0, NULL) },
           out[3];
    out[0] = record(w, in[0], in[1], in[2]);
    int outputs = c->kind == VALUE ? 1 : c->kind == GRADIENT ? 3 : 2;
    if (outputs > 1) ad_grad(out[0], outputs - 1, in, &out[1]);
    w->program = ad_compile(3, in, outputs, out);
    bool fine = w->program || bench_failed(c->name, ad_tape_error(tape));
    ad_tape_free(tape);
    if (fine) w->workspace = ad_workspace_new(w->program, threads);
    return w->workspace != NULL;
}

static void release(wide *w)
{
    ad_workspace_free(w->workspace);
    ad_program_free(w->program);
    bench_network_free(&w->net);
    free(w->x);
    free(w->probe);
    free(w->dx);
    free(w->slope);
}

static void run(void *user)
{
    wide *w = user;
    const void *in[] = { w->net.theta, w->x, w->probe };
    void *out[] = { w->loss, w->slope, w->dx };
    if (ad_run(w->program, w->workspace, w->c->rows, in, out)) w->failed = true;
}

/* ---- answers and floors ---- */

static double norm(ad_dtype dtype, const void *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += bench_get(x, dtype, i) * bench_get(x, dtype, i);
    return sqrt(sum);
}

static int numbers_of(const wide *w, double *numbers)
{
    int n = 0;
    numbers[n++] = bench_get(w->loss, w->dtype, 0);
    if (w->c->kind == VALUE) return n;
    if (w->c->kind == GRADIENT) numbers[n++] = norm(w->dtype, w->dx, w->c->rows * w->c->sizes[0]);
    return n + bench_norms(&w->net, w->slope, numbers + n);
}

/* Multiplications and additions, in evaluations of the field. An estimate costs one more
 * evaluation, and its gradient twice as much again. The exact trace has no floor. */
static double evaluations(const wide_case *c)
{
    switch (c->kind) {
    case VALUE: return 1;
    case GRADIENT: return 3;
    case SOLVE: return 4 * RK4_STEPS * 3;
    case HUTCHINSON: return 4 * RK4_STEPS * 6;
    case DENSITY: return 0;
    }
    return 0;
}

static bool time_case(const bench_options *options, const wide_case *c)
{
    wide w = { .c = c, .dtype = options->dtype < 0 ? AD_F32 : (ad_dtype)options->dtype };
    bool fine = prepare(&w, options->threads);
    char note[64] = "";
    bench_line line = { .name = c->name,
                        .dtype = w.dtype,
                        .threads = options->threads,
                        .note = note,
                        .bound = w.dtype == AD_F32 ? 1e-3 : 1e-8 };
    bench_job job = { .run = run, .user = &w };
    if (fine) fine = bench_measure(options->repeats, w.dtype, 1, &job, &line.peak);
    if (fine && w.failed) fine = bench_failed(c->name, ad_workspace_error(w.workspace));
    if (fine) {
        double numbers[MAX_NUMBERS];
        int n = numbers_of(&w, numbers);
        for (int i = 0; i < n && c->count; i++)
            line.error = fmax(line.error, fabs(numbers[i] / c->answer[i] - 1));
        double flops = evaluations(c) * (double)c->rows * bench_field_flops(&w.net);
        line.ms = job.ms;
        line.floor_ms = bench_floor(flops, 0, w.dtype, line.peak) / options->threads;
        if (flops > 0) snprintf(note, sizeof note, "%.1f GFLOP/s", flops / job.ms * 1e-6);
        bench_print(options, &line);
    }
    release(&w);
    return fine;
}

bool bench_wide(const bench_options *options, const char *wanted, int *count)
{
    bool fine = true;
    for (int i = 0; i < CASES; i++) {
        if (!bench_wanted(wanted, "wide", cases[i].name)) continue;
        fine &= time_case(options, &cases[i]);
        ++*count;
    }
    return fine;
}
