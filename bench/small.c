/* Small systems, as most people who fit differential equations have them: field, step of the
 * classical method of Runge and Kutta and its gradients by state and parameters, for one row and
 * for 32, beside the same by hand in C (small_hand.c); and the fit of Lotka's and Volterra's
 * equations. The floor of a line is the time by hand. */
#include "bench.h"
#include "small.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ad_var part(ad_var x, int64_t start, int64_t stop) { return ad_slice(x, -1, start, stop); }
static ad_var column(ad_var x, int64_t i) { return part(x, i, i + 1); }

/* ---- fields: y [rows,n] at p [parameters] ---- */

static ad_var lotka(ad_var y, ad_var p)
{
    ad_var prey = column(y, 0), hunter = column(y, 1), met = ad_mul(prey, hunter);
    ad_var f[] = { ad_sub(ad_mul(column(p, 0), prey), ad_mul(column(p, 1), met)),
                   ad_sub(ad_mul(column(p, 2), met), ad_mul(column(p, 3), hunter)) };
    return ad_concatenate(2, f, -1);
}

static ad_var lorenz(ad_var y, ad_var p)
{
    ad_var a = column(y, 0), b = column(y, 1), c = column(y, 2);
    ad_var f[] = { ad_mul(column(p, 0), ad_sub(b, a)),
                   ad_sub(ad_mul(a, ad_sub(column(p, 1), c)), b),
                   ad_sub(ad_mul(a, b), ad_mul(column(p, 2), c)) };
    return ad_concatenate(3, f, -1);
}

static ad_var robertson(ad_var y, ad_var p)
{
    ad_var a = ad_mul(column(p, 0), column(y, 0)), middle = column(y, 1);
    ad_var b = ad_mul(column(p, 1), ad_square(middle));
    ad_var c = ad_mul(column(p, 2), ad_mul(middle, column(y, 2)));
    ad_var f[] = { ad_sub(c, a), ad_sub(ad_sub(a, b), c), b };
    return ad_concatenate(3, f, -1);
}

/* The last `first` columns before the others. */
static ad_var rolled(ad_var x, int64_t first)
{
    const ad_shape s = ad_shape_of(x);
    const int64_t n = s.dim[s.rank - 1];
    ad_var ends[] = { part(x, n - first, n), part(x, 0, n - first) };
    return ad_concatenate(2, ends, -1);
}

static ad_var kinetics(ad_var y, ad_var p)
{
    const int64_t n = ad_shape_of(y).dim[1];
    ad_var back = ad_mul(part(p, n, 2 * n), rolled(y, n - 1));
    ad_var rate = ad_mul(y, ad_sub(part(p, 0, n), back));
    return ad_sub(rolled(rate, 1), rate);
}

/* x [rows,in] W [in,out] + b, W and b at p[at]. */
static ad_var linear(ad_var x, ad_var p, int64_t at, int64_t in, int64_t out)
{
    ad_var w = ad_reshape(part(p, at, at + in * out), AD_SHAPE(in, out));
    return ad_add(ad_matmul(x, w), part(p, at + in * out, at + in * out + out));
}

static ad_var network(ad_var y, ad_var p)
{
    return linear(ad_tanh(linear(y, p, 0, 4, 32)), p, 160, 32, 4);
}

static ad_var lstm(ad_var y, ad_var p)
{
    enum { B = 14, GATES = 4 * B, GIVEN = 2 * B * GATES + GATES };
    ad_var x = ad_broadcast(part(p, GIVEN, GIVEN + B), AD_SHAPE(AD_ROWS, B));
    ad_var g = linear(ad_concatenate(2, (ad_var[]){ x, part(y, 0, B) }, -1), p, 0, 2 * B, GATES);
    ad_var open = ad_sigmoid(part(g, 0, 3 * B)), change = ad_tanh(part(g, 3 * B, GATES));
    ad_var cell =
        ad_add(ad_mul(part(y, B, 2 * B), part(open, 0, B)), ad_mul(part(open, B, 2 * B), change));
    ad_var hidden = ad_mul(part(open, 2 * B, 3 * B), ad_tanh(cell));
    return ad_concatenate(2, (ad_var[]){ hidden, cell }, -1);
}

static ad_var (*const fields[SMALL_SYSTEMS])(ad_var y, ad_var p) = { lotka,    lorenz,  robertson,
                                                                     kinetics, network, lstm };

static ad_var step(ad_var (*f)(ad_var, ad_var), ad_var y, ad_var p, double h)
{
    ad_var k1 = f(y, p), k2 = f(ad_add(y, ad_scale(k1, h / 2)), p);
    ad_var k3 = f(ad_add(y, ad_scale(k2, h / 2)), p), k4 = f(ad_add(y, ad_scale(k3, h)), p);
    ad_var sum = ad_add(ad_add(k1, k4), ad_scale(ad_add(k2, k3), 2));
    return ad_add(y, ad_scale(sum, h / 6));
}

/* ---- programs beside what is done by hand ---- */

typedef enum { FIELD, STEP, BACK } small_kind;
static const char *const kinds[] = { "field", "step", "gradient" };

/* In `in`: y, p, bar. In `out`, by costate and by hand: the field, or the step, or the cotangents
 * of y and p. */
typedef struct {
    const small_system *system;
    small_kind kind;
    int64_t rows;
    double *in[3], *out[2][2];
    ad_program *program;
    ad_workspace *workspace;
    const char *error;
} small;

static const double H = 0.01;
enum { MOST_RATES = 2 * 20 };

static void run_program(void *user)
{
    small *s = user;
    void *out[] = { s->out[0][0], s->out[0][1] };
    if (ad_run(s->program, s->workspace, s->rows, (const void *const *)s->in, out))
        s->error = ad_workspace_error(s->workspace);
}

static void run_by_hand(void *user)
{
    small *s = user;
    double *const *in = s->in, *const *out = s->out[1];
    if (s->kind == FIELD) s->system->field(s->rows, in[0], in[1], out[0]);
    else if (s->kind == STEP) s->system->step(s->rows, in[0], in[1], H, out[0]);
    else {
        memset(out[1], 0, (size_t)s->system->parameters * sizeof *out[1]);
        s->system->back(s->rows, in[0], in[1], H, in[2], out[0], out[1]);
    }
}

static void record(small *s, int system)
{
    const int64_t n = s->system->n;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(t, AD_SHAPE(AD_ROWS, n), 0, (double *)NULL);
    ad_var p = ad_param(t, AD_SHAPE(s->system->parameters), (double *)NULL);
    ad_var bar = ad_input_rows(t, AD_SHAPE(AD_ROWS, n), 0, (double *)NULL);
    ad_var z = s->kind == FIELD ? fields[system](y, p) : step(fields[system], y, p, H);
    ad_var out[2] = { z };
    if (s->kind == BACK) ad_vjp(1, &z, &bar, 2, (ad_var[]){ y, p }, out);
    s->program = ad_compile(3, (ad_var[]){ y, p, bar }, s->kind == BACK ? 2 : 1, out);
    s->workspace = ad_workspace_new(s->program, 1);
    if (!s->workspace) s->error = "recording or compiling failed";
    ad_tape_free(t);
}

/* The largest difference, relative to the largest number. */
static double difference(int64_t n, const double *a, const double *b)
{
    double off = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return INFINITY;
        off = fmax(off, fabs(a[i] - b[i]));
        most = fmax(most, fabs(b[i]));
    }
    return off / (most > 0 ? most : 1);
}

static bool compare(const bench_options *options, const char *name, int system, small_kind kind,
                    int64_t rows)
{
    small s = { .system = &small_systems[system], .kind = kind, .rows = rows };
    const int64_t n = rows * s.system->n, size[] = { n, s.system->parameters };
    bool fine = true;
    for (int k = 0; k < 3; k++) {
        const int64_t count = size[k == 1];
        const double shift = k == 1 && count > MOST_RATES ? 0 : 1; /* weights are of both signs */
        s.in[k] = bench_alloc(count, AD_F64);
        fine = fine && s.in[k];
        for (int64_t i = 0; i < count && fine; i++)
            s.in[k][i] = shift + sin(1.3 * (double)i + k) / 2;
    }
    for (int k = 0; k < 4; k++) {
        s.out[k / 2][k % 2] = bench_alloc(size[k % 2], AD_F64);
        fine = fine && s.out[k / 2][k % 2];
    }
    bench_job jobs[] = { { .run = run_program, .user = &s }, { .run = run_by_hand, .user = &s } };
    bench_line line = { .name = name, .dtype = AD_F64, .threads = 1, .bound = 1e-12 };
    if (fine) record(&s, system);
    if (!fine || (!s.error && !bench_measure(options->repeats, AD_F64, 2, jobs, &line.peak)))
        s.error = "out of memory";
    if (s.error) fine = bench_failed(name, s.error);
    else {
        line.ms = jobs[0].ms;
        line.floor_ms = jobs[1].ms;
        line.must = kind == STEP ? 0 : 2;
        line.error = difference(n, s.out[0][0], s.out[1][0]);
        if (kind == BACK)
            line.error = fmax(line.error, difference(size[1], s.out[0][1], s.out[1][1]));
        bench_print(options, &line);
    }
    for (int k = 0; k < 3; k++) free(s.in[k]);
    for (int k = 0; k < 4; k++) free(s.out[k / 2][k % 2]);
    ad_workspace_free(s.workspace);
    ad_program_free(s.program);
    return fine;
}

/* ---- a fit: the squared distance to 20 measurements and its gradient by four parameters ---- */

enum { TIMES = 21 };

typedef struct {
    double start[2], rates[4], loss, gradient[4];
    ad_program *program;
    ad_workspace *workspace;
    const char *error;
} fit;

static void run_fit(void *user)
{
    fit *f = user;
    if (ad_run(f->program, f->workspace, 1, (const void *const[]){ f->start, f->rates },
               (void *const[]){ &f->loss, f->gradient }))
        f->error = ad_workspace_error(f->workspace);
}

static ad_var lotka_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return lotka(y, args[0]);
}

static bool time_fit(const bench_options *options)
{
    fit f = { .start = { 1, 0.5 }, .rates = { 1.5, 1, 1, 3 } };
    double times[TIMES], data[TIMES * 2];
    for (int i = 0; i < TIMES; i++) times[i] = 0.25 * i;
    for (int i = 0; i < 2 * TIMES; i++) data[i] = 1 + sin(0.6 * i) / 2;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, (double *)NULL);
    ad_var p = ad_param(t, AD_SHAPE(4), (double *)NULL), out[2];
    ode_options o = { .rtol = 1e-6, .atol = 1e-6 };
    ad_var y = ode_solve(lotka_field, NULL, y0, 1, &p, ad_constant(t, AD_SHAPE(TIMES), times), &o);
    ad_var target = ad_constant(t, AD_SHAPE(1, TIMES, 2), data);
    out[0] = ad_sum_all(ad_square(ad_sub(y, target)));
    ad_grad(out[0], 1, &p, &out[1]);
    f.program = ad_compile(2, (ad_var[]){ y0, p }, 2, out);
    f.workspace = ad_workspace_new(f.program, 1);
    if (!f.workspace) f.error = "recording or compiling failed";
    ad_tape_free(t);
    bench_job job = { .run = run_fit, .user = &f };
    bench_line line = { .name = "lotka.fit", .dtype = AD_F64, .threads = 1, .limit_ms = 0.03 };
    if (!f.error && !bench_measure(options->repeats, AD_F64, 1, &job, &line.peak))
        f.error = "out of memory";
    line.ms = job.ms;
    if (!f.error) bench_print(options, &line);
    ad_workspace_free(f.workspace);
    ad_program_free(f.program);
    return !f.error || bench_failed("lotka.fit", f.error);
}

bool bench_small(const bench_options *options, const char *wanted, int *count)
{
    static const int64_t rows[] = { 1, 32 };
    bool fine = true;
    for (int i = 0; i < SMALL_SYSTEMS; i++)
        for (int kind = FIELD; kind <= BACK; kind++)
            for (int r = 0; r < 2; r++) {
                char name[64];
                snprintf(name, sizeof name, "%s.%s.%d", small_systems[i].name, kinds[kind],
                         (int)rows[r]);
                if (!bench_wanted(wanted, "small", name)) continue;
                fine &= compare(options, name, i, (small_kind)kind, rows[r]);
                ++*count;
            }
    if (bench_wanted(wanted, "small", "lotka.fit")) {
        fine &= time_fit(options);
        ++*count;
    }
    return fine;
}
