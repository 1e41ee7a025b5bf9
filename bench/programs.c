/* What programs cost beside arithmetic: making them, and starting one. */
#include "bench.h"
#include <stdlib.h>

enum { ROWS = 512, D = 32 };

typedef struct {
    bench_network net;
    void *x, *gradient;
    const char *error; /* of the first failure; a literal, since tapes are gone by then */
    int what;          /* 0: the field, 1: field and trace, 2: their VJP, 3: all three */
} making;

/* ---- recording and compiling ---- */

static void make(void *user)
{
    making *m = user;
    ad_tape *tape = ad_tape_new(m->net.dtype);
    ad_program *program[3] = { NULL };
    ad_shape points = AD_SHAPE(AD_ROWS, D);
    ad_var theta = ad_param(tape, AD_SHAPE(m->net.size), NULL),
           x = ad_input_rows(tape, points, 0, NULL);
    ad_var in[] = { theta, x, ad_input_rows(tape, points, 0, NULL),
                    ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL) };
    ad_var out[2] = { bench_field(ad_scalar(tape, 0), x, &theta, &m->net) }, bar[2];
    if (m->what == 0 || m->what == 3) program[0] = ad_compile(2, in, 1, out);
    if (m->what > 0) out[1] = ad_jacobian_trace(out[0], x);
    if (m->what == 1 || m->what == 3) program[1] = ad_compile(2, in, 2, out);
    if (m->what > 1) {
        ad_vjp(2, out, &in[2], 2, (ad_var[]){ x, theta }, bar);
        program[2] = ad_compile(4, in, 2, bar);
    }
    if (ad_tape_error(tape)) m->error = "recording or compiling failed";
    for (int i = 0; i < 3; i++) ad_program_free(program[i]);
    ad_tape_free(tape);
}

/* A loss through a flow and its gradient, from nothing to the first result. */
static void first_solve(void *user)
{
    making *m = user;
    ad_tape *tape = ad_tape_new(m->net.dtype);
    ode_options o = { .rtol = 1e-5, .atol = 1e-5 };
    ad_var in[] = { ad_param(tape, AD_SHAPE(m->net.size), NULL),
                    ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), 0, NULL) },
           logdet, out[2];
    ad_var z = ode_flow(bench_field, &m->net, in[1], 1, in, ode_interval(tape, 1, 0), &o, &logdet);
    out[0] = ad_neg(ad_mean_all(ad_add(ode_normal_log_density(z), logdet)));
    ad_grad(out[0], 1, in, &out[1]);
    ad_program *program = ad_compile(2, in, 2, out);
    ad_workspace *workspace = program ? ad_workspace_new(program, 1) : NULL;
    double loss;
    const void *from[] = { m->net.theta, m->x };
    void *to[] = { &loss, m->gradient };
    /* One row: what is left is making programs and memory, not arithmetic. */
    if (!workspace || ad_run(program, workspace, 1, from, to)) m->error = "the solve failed";
    ad_workspace_free(workspace);
    ad_program_free(program);
    ad_tape_free(tape);
}

static bool time_making(const bench_options *options, const char *name, int what)
{
    making m = { .what = what };
    ad_dtype dtype = options->dtype < 0 ? AD_F32 : (ad_dtype)options->dtype;
    void (*body)(void *) = what < 4 ? make : first_solve;
    bool fine = bench_network_make(&m.net, 4, (int64_t[]){ D, 64, 64, D }, 0, dtype);
    m.x = bench_inputs(ROWS, D, dtype);
    m.gradient = fine ? bench_alloc(m.net.size, dtype) : NULL;
    bench_line line = { .name = name, .dtype = dtype, .threads = 1, .limit_ms = what >= 3 ? 5 : 0 };
    if (!fine || !m.x || !m.gradient) m.error = "out of memory";
    else {
        double start = bench_now();
        body(&m);
        line.first_ms = (bench_now() - start) * 1e3;
        bench_job job = { .run = body, .user = &m };
        if (!bench_measure(options->repeats, dtype, 1, &job, &line.peak)) m.error = "out of memory";
        line.ms = job.ms;
    }
    if (m.error) fine = bench_failed(name, m.error);
    else bench_print(options, &line);
    bench_network_free(&m.net);
    free(m.x);
    free(m.gradient);
    return fine;
}

/* ---- starting ---- */

typedef struct {
    ad_program *program;
    ad_workspace *workspace;
    double x[4], y[4];
    bool failed;
} replay;

static void run(void *user)
{
    replay *r = user;
    if (ad_run(r->program, r->workspace, 1, (const void *const[]){ r->x }, (void *const[]){ r->y }))
        r->failed = true;
}

/* Ten operations on one row of four numbers. */
static bool time_overhead(const bench_options *options)
{
    ad_dtype dtype = options->dtype < 0 ? AD_F32 : (ad_dtype)options->dtype;
    replay r = { .program = NULL };
    for (int i = 0; i < 4; i++) bench_put(r.x, dtype, i, 0.1 * i);
    ad_tape *tape = ad_tape_new(dtype);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 4), 0, NULL), y = x;
    for (int i = 0; i < 5; i++) y = ad_mul(ad_add(y, x), y);
    r.program = ad_compile(1, &x, 1, &y);
    r.workspace = r.program ? ad_workspace_new(r.program, options->threads) : NULL;
    bench_line line = {
        .name = "overhead", .dtype = dtype, .threads = options->threads, .limit_ms = 0.5e-3
    };
    bool fine = r.workspace || bench_failed("overhead", ad_tape_error(tape));
    bench_job job = { .run = run, .user = &r };
    if (fine) fine = bench_measure(options->repeats, dtype, 1, &job, &line.peak);
    line.ms = job.ms;
    if (fine && r.failed) fine = bench_failed("overhead", ad_workspace_error(r.workspace));
    if (fine) bench_print(options, &line);
    ad_workspace_free(r.workspace);
    ad_program_free(r.program);
    ad_tape_free(tape);
    return fine;
}

bool bench_programs(const bench_options *options, const char *wanted, int *count)
{
    static const char *const names[] = { "compile.field", "compile.joint", "compile.vjp",
                                         "compile.all", "compile.solve" };
    bool fine = true;
    for (int what = 0; what < 5; what++) {
        if (!bench_wanted(wanted, "compile", names[what])) continue;
        fine &= time_making(options, names[what], what);
        ++*count;
    }
    if (bench_wanted(wanted, "overhead", "overhead")) {
        fine &= time_overhead(options);
        ++*count;
    }
    return fine;
}
