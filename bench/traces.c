/* The exact trace of the Jacobian: field and trace together against the field alone, and the VJP of
 * both. */
#include "bench.h"
#include <math.h>
#include <stdlib.h>

enum { ROWS = 512, CHECKED = 4, HIDDEN = 64, LAYERS = 4, WIDEST = 128 };

typedef enum { FIELD, JOINT, VJP, PROGRAMS } kind;
typedef struct problem problem;
typedef struct {
    problem *p;
    kind kind;
    ad_program *program;
    ad_workspace *workspace;
    int64_t rows;
    bool failed;
} replay;
struct problem {
    bench_network net;
    int layers;
    int64_t d;
    void *x, *ybar, *tbar, *y, *trace, *xbar, *thetabar;
    ad_tape *tape;
    replay replay[PROGRAMS];
};

/* ---- recording and running ---- */

static bool compile(problem *p, int threads)
{
    ad_tape *tape = p->tape = ad_tape_new(p->net.dtype);
    ad_shape points = AD_SHAPE(AD_ROWS, p->d), column = AD_SHAPE(AD_ROWS, 1);
    ad_var theta = ad_param(tape, AD_SHAPE(p->net.size), NULL),
           x = ad_input_rows(tape, points, 0, NULL);
    ad_var in[] = { theta, x, ad_input_rows(tape, points, 0, NULL),
                    ad_input_rows(tape, column, 0, NULL) };
    ad_var out[2] = { bench_field(ad_scalar(tape, 0), x, &theta, &p->net) }, bar[2];
    out[1] = ad_jacobian_trace(out[0], x);
    p->replay[FIELD].program = ad_compile(2, in, 1, out);
    p->replay[JOINT].program = ad_compile(2, in, 2, out);
    ad_vjp(2, out, &in[2], 2, (ad_var[]){ x, theta }, bar);
    p->replay[VJP].program = ad_compile(4, in, 2, bar);
    for (int k = 0; k < PROGRAMS; k++) {
        replay *r = &p->replay[k];
        *r = (replay){ p,          (kind)k,
                       r->program, r->program ? ad_workspace_new(r->program, threads) : NULL,
                       ROWS,       false };
        if (!r->workspace) return false;
    }
    return true;
}

static void run(void *user)
{
    replay *r = user;
    problem *p = r->p;
    const void *in[] = { p->net.theta, p->x, p->ybar, p->tbar };
    void *values[] = { p->y, p->trace }, *cotangents[] = { p->xbar, p->thetabar };
    if (ad_run(r->program, r->workspace, r->rows, in, r->kind == VJP ? cotangents : values))
        r->failed = true;
}

static bool prepare(problem *p, int layers, int64_t d, ad_dtype dtype)
{
    int64_t sizes[LAYERS + 2] = { d };
    for (int l = 1; l <= layers; l++) sizes[l] = HIDDEN;
    sizes[layers + 1] = d;
    *p = (problem){ .layers = layers, .d = d };
    if (!bench_network_make(&p->net, layers + 2, sizes, 0, dtype)) return false;
    p->x = bench_inputs(ROWS, d, dtype);
    p->ybar = bench_inputs(ROWS, d, dtype);
    p->tbar = bench_inputs(ROWS, 1, dtype);
    p->y = bench_alloc(ROWS * d, dtype);
    p->xbar = bench_alloc(ROWS * d, dtype);
    p->trace = bench_alloc(ROWS, dtype);
    p->thetabar = bench_alloc(p->net.size, dtype);
    return p->x && p->ybar && p->tbar && p->y && p->xbar && p->trace && p->thetabar;
}

static void release(problem *p)
{
    for (int k = 0; k < PROGRAMS; k++) {
        ad_workspace_free(p->replay[k].workspace);
        ad_program_free(p->replay[k].program);
    }
    ad_tape_free(p->tape);
    bench_network_free(&p->net);
    void *const all[] = { p->x, p->ybar, p->tbar, p->y, p->trace, p->xbar, p->thetabar };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* ---- checking: plain loops in double, one unit vector after the other ---- */

/* One layer of one row: out = W^T in (+ b). */
static void apply(const nn_linear *layer, const double *theta, bool bias, const double *in,
                  double *out)
{
    for (int64_t j = 0; j < layer->out; j++) out[j] = bias ? theta[layer->bias + j] : 0;
    for (int64_t i = 0; i < layer->in; i++)
        for (int64_t j = 0; j < layer->out; j++)
            out[j] += in[i] * theta[layer->weight + i * layer->out + j];
}

/* y and the trace of dy/dx of one row. */
static double evaluate(const nn_mlp *mlp, const double *theta, const double *x, double *y)
{
    double h[LAYERS + 2][WIDEST], v[2][WIDEST], trace = 0;
    int last = mlp->nlayer - 1;
    int64_t d = mlp->layer[0].in;
    for (int64_t i = 0; i < d; i++) h[0][i] = x[i];
    for (int l = 0; l <= last; l++) {
        apply(&mlp->layer[l], theta, true, h[l], h[l + 1]);
        for (int64_t j = 0; l < last && j < mlp->layer[l].out; j++) h[l + 1][j] = tanh(h[l + 1][j]);
    }
    for (int64_t i = 0; i < d; i++) {
        y[i] = h[last + 1][i];
        for (int64_t k = 0; k < d; k++) v[0][k] = k == i;
        for (int l = 0; l <= last; l++) {
            apply(&mlp->layer[l], theta, false, v[l % 2], v[(l + 1) % 2]);
            for (int64_t j = 0; l < last && j < mlp->layer[l].out; j++)
                v[(l + 1) % 2][j] *= 1 - h[l + 1][j] * h[l + 1][j];
        }
        trace += v[(last + 1) % 2][i];
    }
    return trace;
}

/* What the VJP is the gradient of, some way along a direction in x and theta: sum of ybar y + tbar
 * trace. */
static double along(const problem *p, double step, double *theta)
{
    double x[WIDEST], y[WIDEST], sum = 0;
    ad_dtype dtype = p->net.dtype;
    for (int64_t i = 0; i < p->net.size; i++)
        theta[i] = bench_get(p->net.theta, dtype, i) + step * 0.1 * sin(0.7 * (double)i);
    for (int64_t b = 0; b < CHECKED; b++) {
        for (int64_t i = 0; i < p->d; i++)
            x[i] = bench_get(p->x, dtype, b * p->d + i) + step * cos((double)(b + i));
        sum += bench_get(p->tbar, dtype, b) * evaluate(&p->net.mlp, theta, x, y);
        for (int64_t i = 0; i < p->d; i++) sum += bench_get(p->ybar, dtype, b * p->d + i) * y[i];
    }
    return sum;
}

static double relative(double value, double exact, double scale)
{
    return fabs(value - exact) <= INFINITY ? fabs(value - exact) / scale : INFINITY;
}

/* Largest error of y and the trace over the first rows, relative to the largest value. */
static double error_of_joint(const problem *p, double *theta)
{
    double x[WIDEST], y[WIDEST], scale = 0, trace_scale = 0, worst = 0, trace_worst = 0;
    ad_dtype dtype = p->net.dtype;
    for (int64_t i = 0; i < p->net.size; i++) theta[i] = bench_get(p->net.theta, dtype, i);
    for (int64_t b = 0; b < CHECKED; b++) {
        for (int64_t i = 0; i < p->d; i++) x[i] = bench_get(p->x, dtype, b * p->d + i);
        double trace = evaluate(&p->net.mlp, theta, x, y);
        trace_scale = fmax(trace_scale, fabs(trace));
        trace_worst = fmax(trace_worst, relative(bench_get(p->trace, dtype, b), trace, 1));
        for (int64_t i = 0; i < p->d; i++) {
            scale = fmax(scale, fabs(y[i]));
            worst = fmax(worst, relative(bench_get(p->y, dtype, b * p->d + i), y[i], 1));
        }
    }
    return fmax(worst / scale, trace_worst / trace_scale);
}

static double error_of_vjp(const problem *p, double *theta)
{
    const double step = 1e-5;
    double slope = (along(p, step, theta) - along(p, -step, theta)) / (2 * step), sum = 0;
    ad_dtype dtype = p->net.dtype;
    for (int64_t b = 0; b < CHECKED; b++)
        for (int64_t i = 0; i < p->d; i++)
            sum += bench_get(p->xbar, dtype, b * p->d + i) * cos((double)(b + i));
    for (int64_t i = 0; i < p->net.size; i++)
        sum += bench_get(p->thetabar, dtype, i) * 0.1 * sin(0.7 * (double)i);
    return relative(sum, slope, fabs(slope));
}

/* Runs a program on a few rows and compares. */
static double check(replay *r)
{
    problem *p = r->p;
    double *theta = malloc((size_t)p->net.size * sizeof *theta);
    if (!theta) return INFINITY;
    r->rows = CHECKED;
    run(r);
    r->rows = ROWS;
    double error = r->kind == VJP ? error_of_vjp(p, theta) : error_of_joint(p, theta);
    free(theta);
    return error;
}

/* ---- timing ---- */

/* Of the trace alone, for a row. Around the cycle of layers stand as many diagonals as hidden
 * layers. One or two: a product with what is made from weights only. More: matrices of the hidden
 * size all around, or the d unit vectors through the hidden layers. */
static double trace_flops(int layers, int64_t d)
{
    double h = HIDDEN;
    if (layers == 1) return 2 * h;
    if (layers == 2) return 2 * h * h;
    return 2 *
           fmin((layers - 1) * (double)d * h * h + (double)d * h, (layers - 2) * h * h * h + h * h);
}

/* Of the VJP: that of three joint evaluations. */
static double floor_of(const problem *p, kind kind, double peak)
{
    double flops = bench_field_flops(&p->net) + (kind == FIELD ? 0 : trace_flops(p->layers, p->d));
    return (kind == VJP ? 3 : 1) *
           bench_floor(ROWS * flops, ROWS * bench_field_tanhs(&p->net), p->net.dtype, peak);
}

static void print(const bench_options *options, problem *p, kind kind, const bench_job *jobs,
                  double peak)
{
    static const char *const names[] = { "field", "joint", "vjp" };
    static const double over_field[] = { 1.9, 1.8, 1.65,
                                         1.35 }; /* two hidden layers, d = 2, 8, 32, 128 */
    char name[64];
    snprintf(name, sizeof name, "trace%d.d%d.%s", p->layers, (int)p->d, names[kind]);
    bench_line line = { .name = name,
                        .dtype = p->net.dtype,
                        .threads = options->threads,
                        .ms = jobs[kind].ms,
                        .peak = peak,
                        .floor_ms = floor_of(p, kind, peak) / options->threads,
                        .evaluations = 1,
                        .floor_evaluations = 1,
                        .vjps = kind == VJP,
                        .floor_vjps = kind == VJP };
    if (kind != FIELD) {
        line.error = check(&p->replay[kind]);
        line.bound = p->net.dtype == AD_F32 ? 1e-3 : 1e-6;
        line.must = 1.5;
        line.over_field = jobs[kind].ms / jobs[FIELD].ms;
        if (kind == JOINT && p->layers == 2)
            line.must_over_field = over_field[p->d == 2 ? 0 : p->d == 8 ? 1 : p->d == 32 ? 2 : 3];
    }
    bench_print(options, &line);
}

static bool time_traces(const bench_options *options, int layers, int64_t d)
{
    problem p;
    bench_job jobs[PROGRAMS];
    double peak;
    if (!prepare(&p, layers, d, options->dtype < 0 ? AD_F32 : (ad_dtype)options->dtype)) {
        release(&p);
        return bench_failed("trace", "out of memory");
    }
    bool fine = compile(&p, options->threads) || bench_failed("trace", ad_tape_error(p.tape));
    for (int k = 0; k < PROGRAMS; k++) jobs[k] = (bench_job){ .run = run, .user = &p.replay[k] };
    fine = fine && bench_measure(options->repeats, p.net.dtype, PROGRAMS, jobs, &peak);
    for (int k = 0; fine && k < PROGRAMS; k++) {
        print(options, &p, (kind)k, jobs, peak);
        if (p.replay[k].failed)
            fine = bench_failed("trace", ad_workspace_error(p.replay[k].workspace));
    }
    release(&p);
    return fine;
}

bool bench_traces(const bench_options *options, const char *wanted, int *count)
{
    static const int64_t dims[] = { 2, 8, 32, 128 };
    bool fine = true;
    for (int layers = 1; layers <= LAYERS; layers++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            char name[32];
            snprintf(name, sizeof name, "trace%d.d%d", layers, (int)dims[i]);
            if (!bench_wanted(wanted, "trace", name)) continue;
            fine &= time_traces(options, layers, dims[i]);
            ++*count;
        }
    return fine;
}
