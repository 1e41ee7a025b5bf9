/* Stochastic cases: Euler-Maruyama on a network with diagonal noise, the loss alone and with its
 * gradient by starts and all parameters. Answers on other paths are judged by moments, the gradient
 * by differences on the same path in double. */
#include "bench.h"
#include <math.h>
#include <stdlib.h>

enum { ROWS = 512, STEPS = 100, RUNS = 24, NUMBERS = 10 };
typedef struct {
    double runs, of[2 * NUMBERS]; /* mean and standard deviation of each */
} moments;
#define MOMENTS(name, runs, ...) static const moments moments_##name = { runs, { __VA_ARGS__ } };
#include "moments.def"
#undef MOMENTS

typedef struct {
    const char *name;
    int64_t d;
    bool gradient;
    double must;
    const moments *right;
} stochastic_case;

static const stochastic_case cases[] = {
    { "sde2.forward", 2, false, 1.6, &moments_sde2 },
    { "sde2.gradient", 2, true, 1.6, &moments_sde2 },
    { "sde32.forward", 32, false, 1.6, &moments_sde32 },
    { "sde32.gradient", 32, true, 1.6, &moments_sde32 },
};

enum { Y0, THETA, SLOPE, OFFSET, DIFFERENTIATED, DRAW = DIFFERENTIATED, INPUTS };
typedef struct {
    const stochastic_case *c;
    ad_dtype dtype;
    bench_network net;
    int64_t size[DIFFERENTIATED];
    void *in[INPUTS], *out[1 + DIFFERENTIATED]; /* out: the loss and its gradients */
    ad_tape *tape;
    ad_program *program;
    ad_workspace *workspace;
    ode_stats stats;
    bool failed;
} stochastic;

/* args: theta, slope and offset. */
static ad_var diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    return ad_sigmoid(ad_add(ad_mul(args[1], y), args[2]));
}

static bool compile(stochastic *s)
{
    int64_t d = s->c->d;
    s->tape = ad_tape_new(s->dtype);
    ad_var in[INPUTS] = { ad_input_rows(s->tape, AD_SHAPE(AD_ROWS, d), 0, NULL),
                          ad_param(s->tape, AD_SHAPE(s->net.size), NULL),
                          ad_param(s->tape, AD_SHAPE(d), NULL),
                          ad_param(s->tape, AD_SHAPE(d), NULL),
                          ad_input(s->tape, AD_SCALAR, NULL) },
           out[1 + DIFFERENTIATED];
    sde_options o = { .ode = { .steps = STEPS, .stats = &s->stats }, .path = { .draw = in[DRAW] } };
    ad_var y = sde_solve_final(bench_field, diffusion, &s->net, in[Y0], 3, &in[THETA],
                               ode_interval(s->tape, 0, 1), &o);
    out[0] = ad_scale(ad_sum_all(ad_square(y)), 0.5 / ROWS);
    if (s->c->gradient) ad_grad(out[0], DIFFERENTIATED, in, &out[1]);
    s->program = ad_compile(INPUTS, in, s->c->gradient ? 1 + DIFFERENTIATED : 1, out);
    return s->program;
}

static void release(stochastic *s)
{
    ad_workspace_free(s->workspace);
    ad_program_free(s->program);
    ad_tape_free(s->tape);
    ode_stats_clear(&s->stats);
    for (int i = 0; i < INPUTS; i++)
        if (i != THETA) free(s->in[i]);
    for (int i = 0; i <= DIFFERENTIATED; i++) free(s->out[i]);
    bench_network_free(&s->net);
}

static bool prepare(stochastic *s, int threads)
{
    int64_t d = s->c->d;
    bool fine = bench_network_make(&s->net, 4, (int64_t[]){ d, 64, 64, d }, 0, s->dtype);
    int64_t size[DIFFERENTIATED] = { ROWS * d, s->net.size, d, d };
    s->in[Y0] = bench_inputs(ROWS, d, s->dtype);
    s->in[THETA] = s->net.theta;
    s->in[SLOPE] = bench_alloc(d, s->dtype);
    s->in[OFFSET] = bench_alloc(d, s->dtype);
    s->in[DRAW] = bench_alloc(1, s->dtype);
    s->out[0] = bench_alloc(1, s->dtype);
    for (int i = 0; i < DIFFERENTIATED; i++) {
        s->size[i] = size[i];
        s->out[1 + i] = bench_alloc(size[i], s->dtype);
        fine = fine && s->out[1 + i];
    }
    for (int i = 0; i < INPUTS; i++) fine = fine && s->in[i];
    if (!fine || !s->out[0]) return bench_failed(s->c->name, "out of memory");
    for (int64_t i = 0; i < d; i++) {
        bench_put(s->in[SLOPE], s->dtype, i, 0.5 * cos((double)i));
        bench_put(s->in[OFFSET], s->dtype, i, sin((double)i) - 1);
    }
    if (!compile(s)) return bench_failed(s->c->name, ad_tape_error(s->tape));
    s->workspace = ad_workspace_new(s->program, threads);
    return s->workspace || bench_failed(s->c->name, "out of memory");
}

static void run(void *user)
{
    stochastic *s = user;
    if (ad_run(s->program, s->workspace, ROWS, (const void *const *)s->in, s->out))
        s->failed = true;
}

/* ---- answers ---- */

static double sum(const void *data, ad_dtype dtype, int64_t start, int64_t n)
{
    double total = 0;
    for (int64_t i = start; i < start + n; i++) total += bench_get(data, dtype, i);
    return total;
}

/* The numbers of which moments.def has the moments; returns how many. */
static int numbers_of(const stochastic *s, double *numbers)
{
    int n = 0;
    numbers[n++] = bench_get(s->out[0], s->dtype, 0);
    if (!s->c->gradient) return n;
    numbers[n++] = sum(s->out[1 + Y0], s->dtype, 0, s->size[Y0]);
    for (int l = 0; l < s->net.mlp.nlayer; l++) {
        const nn_linear *layer = &s->net.mlp.layer[l];
        numbers[n++] = sum(s->out[1 + THETA], s->dtype, layer->weight, layer->in * layer->out);
        numbers[n++] = sum(s->out[1 + THETA], s->dtype, layer->bias, layer->out);
    }
    numbers[n++] = sum(s->out[1 + SLOPE], s->dtype, 0, s->size[SLOPE]);
    numbers[n++] = sum(s->out[1 + OFFSET], s->dtype, 0, s->size[OFFSET]);
    return n;
}

/* By how many standard errors the means over some draws are off, at the worst. */
static double deviation(stochastic *s)
{
    double means[NUMBERS] = { 0 }, numbers[NUMBERS], worst = 0;
    int n = 0;
    for (int k = 0; k < RUNS; k++) {
        bench_put(s->in[DRAW], s->dtype, 0, k);
        run(s);
        n = numbers_of(s, numbers);
        for (int i = 0; i < n; i++) means[i] += numbers[i] / RUNS;
    }
    for (int i = 0; i < n; i++) {
        const double *of = &s->c->right->of[2 * i];
        double error = of[1] * sqrt(1.0 / RUNS + 1 / s->c->right->runs);
        worst = fmax(worst, fabs(means[i] - of[0]) / error);
    }
    return worst;
}

/* Moves an input along a stated direction, and returns what the gradient says of that. */
static double move(stochastic *s, int input, double by)
{
    double slope = 0;
    for (int64_t i = 0; i < s->size[input]; i++) {
        double direction = sin(0.7 * (double)i + 1);
        bench_put(s->in[input], s->dtype, i, bench_get(s->in[input], s->dtype, i) + by * direction);
        slope += direction * bench_get(s->out[1 + input], s->dtype, i);
    }
    return slope;
}

/* Largest relative error of the derivatives along a direction of each input, in double, against
 * differences on the same path. */
static bool check_gradient(const stochastic_case *c, double *error)
{
    stochastic s = { .c = c, .dtype = AD_F64 };
    double by = 1e-5;
    bool fine = prepare(&s, 1);
    if (fine) run(&s);
    for (int input = 0; fine && input < DIFFERENTIATED; input++) {
        double slope = move(&s, input, by), loss[2];
        for (int side = 0; side < 2; side++) {
            run(&s);
            loss[side] = bench_get(s.out[0], AD_F64, 0);
            move(&s, input, side ? by : -2 * by);
        }
        run(&s);
        *error = fmax(*error, fabs((loss[0] - loss[1]) / (2 * by) / slope - 1));
    }
    if (s.failed) fine = bench_failed(c->name, ad_workspace_error(s.workspace));
    release(&s);
    return fine;
}

/* ---- timing ---- */

/* Products, tanh and sigmoids of each step, and a draw for each element; backward two products for
 * each one forward, with activations that are kept. */
static double floor_of(const stochastic *s, double peak)
{
    double evaluations = STEPS * ROWS, d = (double)s->c->d, flops = bench_field_flops(&s->net);
    double forward = bench_floor(flops, bench_field_tanhs(&s->net) + d, s->dtype, peak);
    double backward = s->c->gradient ? bench_floor(2 * flops, 0, s->dtype, peak) : 0;
    return evaluations * (forward + backward + d * bench_normal_sample() * 1e-6);
}

static bool time_case(const bench_options *options, const stochastic_case *c)
{
    stochastic s = { .c = c, .dtype = options->dtype < 0 ? AD_F32 : (ad_dtype)options->dtype };
    bench_line line = { .name = c->name,
                        .note = "standard errors",
                        .dtype = s.dtype,
                        .threads = options->threads,
                        .must = s.dtype == AD_F32 ? c->must : 0,
                        .bound = 4,
                        .floor_evaluations = STEPS,
                        .floor_vjps = c->gradient ? STEPS : 0 };
    double wrong = 0;
    bool fine = !c->gradient || check_gradient(c, &wrong);
    if (wrong > 1e-8) fine = bench_failed(c->name, "gradient and differences do not agree");
    fine = fine && prepare(&s, options->threads);
    if (fine) line.error = deviation(&s);
    bench_job job = { .run = run, .user = &s };
    if (fine && !s.failed) {
        fine = bench_measure(options->repeats, s.dtype, 1, &job, &line.peak);
        line.ms = job.ms;
        line.floor_ms = s.dtype == AD_F32 ? floor_of(&s, line.peak) / options->threads : 0;
        line.evaluations = s.stats.evaluations;
        line.vjps = s.stats.vjps;
    }
    if (fine && s.failed) fine = bench_failed(c->name, ad_workspace_error(s.workspace));
    release(&s);
    if (fine) bench_print(options, &line);
    return fine;
}

bool bench_stochastic(const bench_options *options, const char *wanted, int *count)
{
    bool fine = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!bench_wanted(wanted, "sde", cases[i].name)) continue;
        fine &= time_case(options, &cases[i]);
        ++*count;
    }
    return fine;
}
