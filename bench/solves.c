/* Cases a to d: solves, and losses with their gradients as a training step takes them. Each is
 * recorded and compiled once and run many times. */
#include "bench.h"
#include <math.h>
#include <stdlib.h>

typedef struct {
    double loss, norms[2 * BENCH_MAX_LAYERS];
} answer;
#define ANSWER(name, loss, ...) static const answer exact_##name = { loss, { __VA_ARGS__ } };
#include "answers.def"
#undef ANSWER

typedef enum { SPIRAL, HALF_SQUARE, LIKELIHOOD } loss_kind;
typedef struct {
    const char *name, *group;
    loss_kind loss;
    int64_t rows;
    int nsize;
    int64_t sizes[BENCH_MAX_LAYERS + 1];
    double scale, horizon;
    const ode_method *method;
    double rtol, atol;
    int64_t steps;
    const ode_adjoint *adjoint;    /* NULL: forward only */
    const nn_optimizer *optimizer; /* NULL: the gradient alone */
    /* The floor's evaluations, forward and backward (those that torchdiffeq needs), and whether it
     * counts the backward ones as using activations that the forward ones have stored. */
    int64_t evaluations, vjps;
    bool stored;
    double must;
    const answer *exact;
    bool again; /* the solve may keep no activations */
} solve_case;

#define TRAIN_A                                                                                    \
    SPIRAL, 20, 3, { 2, 50, 2 }, 0.14142135623730951, 225.0 / 999, &ode_dopri5, 1e-7, 1e-9, 0,     \
        &ode_discrete, &nn_rmsprop
#define NET_B HALF_SQUARE, 512, 4, { 2, 64, 64, 2 }, 0
#define DOPRI5 &ode_dopri5, 1e-5, 1e-5, 0
#define CASE_C(d, must)                                                                            \
    {                                                                                              \
        "c" #d, "c", LIKELIHOOD, 512, 4, { d, 64, 64, d }, 0, 1, DOPRI5, &ode_discrete, &nn_adam,  \
            20, 20, false, must, &exact_c##d, false                                                \
    }
#define NET_D HALF_SQUARE, 512, 4, { 64, 256, 256, 64 }, 0, 1, &ode_rk4_38, 0, 0, 20

static const solve_case cases[] = {
    { "a", "a", TRAIN_A, 14, 14, true, 8, &exact_a, false },
    { "b.forward", "b", NET_B, 1, DOPRI5, NULL, NULL, 20, 0, false, 1.35, &exact_b, false },
    { "b.discrete", "b", NET_B, 1, DOPRI5, &ode_discrete, NULL, 20, 20, false, 1.5, &exact_b,
      false },
    { "b.backsolve", "b", NET_B, 1, DOPRI5, &ode_backsolve, NULL, 20, 20, false, 1.5, &exact_b,
      false },
    { "b10.forward", "b", NET_B, 10, DOPRI5, NULL, NULL, 50, 0, false, 0, &exact_b10, false },
    { "b10.discrete", "b", NET_B, 10, DOPRI5, &ode_discrete, NULL, 50, 50, false, 0, &exact_b10,
      false },
    { "b10.backsolve", "b", NET_B, 10, DOPRI5, &ode_backsolve, NULL, 50, 68, false, 0, &exact_b10,
      false },
    CASE_C(2, 1.6),
    CASE_C(8, 1.55),
    CASE_C(32, 1.45),
    CASE_C(128, 1.35),
    { "d.forward", "d", NET_D, NULL, NULL, 80, 0, false, 1.35, &exact_d, false },
    { "d.gradient", "d", NET_D, &ode_discrete, NULL, 80, 80, true, 1.5, &exact_d, false },
    { "d.recomputed", "d", NET_D, &ode_discrete, NULL, 80, 80, false, 1.4, &exact_d, true },
};

typedef struct {
    const solve_case *c;
    ad_dtype dtype;
    bench_network net;
    nn_theta *slope;                   /* what gradient is in */
    void *x, *target, *gradient, *out; /* out: the final states, or the loss */
    ad_tape *tape;
    ad_program *program;
    ad_workspace *workspace;
    nn_optimizer_state *optimizer;
    ode_stats stats;
    bool failed;
} solve;

/* ---- recording, as a user would ---- */

static ode_options options_of(solve *s, double tolerance)
{
    const solve_case *c = s->c;
    return (ode_options){ .method = c->method,
                          .adjoint = c->adjoint,
                          .keep_bytes = c->again,
                          .steps = c->steps,
                          .stats = &s->stats,
                          .rtol = c->steps        ? 0
                                  : tolerance > 0 ? tolerance
                                                  : c->rtol,
                          .atol = c->steps        ? 0
                                  : tolerance > 0 ? tolerance
                                                  : c->atol };
}

/* The loss; where there is no gradient to take, the final states. */
static ad_var record(solve *s, ad_var theta, ad_var x, ad_var target, double tolerance)
{
    const solve_case *c = s->c;
    ode_options o = options_of(s, tolerance);
    ad_var y, logdet;
    switch (c->loss) {
    case SPIRAL:
        y = ode_solve(bench_field, &s->net, x, 1, &theta, ode_linspace(s->tape, 0, c->horizon, 10),
                      &o);
        return nn_mae(y, target);
    case HALF_SQUARE:
        y = ode_solve_final(bench_field, &s->net, x, 1, &theta,
                            ode_interval(s->tape, 0, c->horizon), &o);
        return c->adjoint ? ad_scale(ad_sum_all(ad_square(y)), 0.5 / (double)c->rows) : y;
    case LIKELIHOOD:
        y = ode_flow(bench_field, &s->net, x, 1, &theta, ode_interval(s->tape, c->horizon, 0), &o,
                     &logdet);
        return ad_neg(ad_mean_all(ad_add(ode_normal_log_density(y), logdet)));
    }
    return x;
}

static bool compile(solve *s, double tolerance)
{
    const solve_case *c = s->c;
    s->tape = ad_tape_new(s->dtype);
    ad_var in[3] = { ad_param(s->tape, AD_SHAPE(s->net.size), NULL),
                     ad_input_rows(s->tape, AD_SHAPE(AD_ROWS, c->sizes[0]), 0, NULL) },
           out[2];
    if (c->loss == SPIRAL)
        in[2] = ad_input_rows(s->tape, AD_SHAPE(AD_ROWS, 10, c->sizes[0]), 0, NULL);
    out[0] = record(s, in[0], in[1], in[2], tolerance);
    if (c->adjoint) ad_grad(out[0], 1, &in[0], &out[1]);
    s->program = ad_compile(c->loss == SPIRAL ? 3 : 2, in, c->adjoint ? 2 : 1, out);
    return s->program;
}

static void release(solve *s)
{
    ad_workspace_free(s->workspace);
    ad_program_free(s->program);
    ad_tape_free(s->tape);
    nn_optimizer_free(s->optimizer);
    ode_stats_clear(&s->stats);
    bench_network_free(&s->net);
    free(s->x);
    free(s->target);
    nn_theta_free(s->slope);
    free(s->out);
}

static bool prepare(solve *s, double tolerance, int threads)
{
    const solve_case *c = s->c;
    int64_t d = c->sizes[0];
    bool fine = bench_network_make(&s->net, c->nsize, c->sizes, c->scale, s->dtype);
    s->net.cube = c->loss == SPIRAL;
    s->out = bench_alloc(c->rows * d, s->dtype);
    s->slope = fine ? nn_theta_new(s->net.model, s->dtype, NULL) : NULL;
    s->gradient = nn_theta_data(s->slope);
    s->x =
        c->loss == SPIRAL ? bench_alloc(c->rows * d, s->dtype) : bench_inputs(c->rows, d, s->dtype);
    if (c->loss == SPIRAL) s->target = bench_alloc(c->rows * 10 * d, s->dtype);
    if (!s->out || !s->gradient || !s->x || (c->loss == SPIRAL && !s->target))
        return bench_failed(c->name, "out of memory");
    if (c->loss == SPIRAL && !bench_spiral(s->dtype, s->x, s->target)) return false;
    if (!compile(s, tolerance)) return bench_failed(c->name, ad_tape_error(s->tape));
    s->workspace = ad_workspace_new(s->program, threads);
    /* All the work of an update, and nothing of its effect. */
    if (c->optimizer)
        s->optimizer = nn_optimizer_new(
            &(nn_optimizer_options){ .algorithm = c->optimizer, .rate = 1e-30, .threads = threads },
            s->net.numbers, 1);
    return (s->workspace && (!c->optimizer || s->optimizer)) ||
           bench_failed(c->name, "out of memory");
}

static void run(void *user)
{
    solve *s = user;
    const void *in[] = { s->net.theta, s->x, s->target };
    void *out[] = { s->out, s->gradient };
    if (ad_run(s->program, s->workspace, s->c->rows, in, out)) s->failed = true;
    if (s->optimizer && nn_optimizer_step(s->optimizer, s->net.numbers, s->slope)) s->failed = true;
}

/* ---- answers ---- */

static double loss_of(const solve *s)
{
    if (s->c->adjoint) return bench_get(s->out, s->dtype, 0);
    double sum = 0;
    for (int64_t i = 0; i < s->c->rows * s->c->sizes[0]; i++)
        sum += pow(bench_get(s->out, s->dtype, i), 2);
    return sum / (2 * (double)s->c->rows);
}

static double relative(double value, double exact)
{
    double error = fabs(value - exact) / fabs(exact);
    return error >= 0 ? error : INFINITY; /* NaN too is wrong */
}

static double error_of(const solve *s)
{
    const answer *e = s->c->exact;
    double norms[2 * BENCH_MAX_LAYERS], error = relative(loss_of(s), e->loss);
    int n = s->c->adjoint ? bench_norms(&s->net, s->gradient, norms) : 0;
    for (int i = 0; i < n; i++) error = fmax(error, relative(norms[i], e->norms[i]));
    return error;
}

static void print_answer(const solve *s)
{
    double norms[2 * BENCH_MAX_LAYERS];
    int n = s->c->adjoint ? bench_norms(&s->net, s->gradient, norms) : 0;
    printf("%s: loss %.10g, norms of the gradient", s->c->name, loss_of(s));
    for (int i = 0; i < n; i++) printf(" %.10g", norms[i]);
    printf("; evaluations %lld\n", (long long)s->stats.evaluations);
}

/* Runs the case once at this tolerance (0: its own), and gives its error. */
static bool solve_once(const solve_case *c, ad_dtype dtype, double tolerance, bool print,
                       double *error)
{
    solve s = { .c = c, .dtype = dtype };
    bool fine = prepare(&s, tolerance, 1);
    if (fine) run(&s);
    if (fine && s.failed) fine = bench_failed(c->name, ad_workspace_error(s.workspace));
    if (fine) *error = error_of(&s);
    if (fine && print) print_answer(&s);
    release(&s);
    return fine;
}

/* ---- timing ---- */

/* Of the forward evaluations, and of the backward ones: each makes the activations anew where they
 * are not stored, and two products for every one forward. The exact trace of two hidden layers is
 * one more product of the hidden layers' size. */
static double floor_of(const solve *s, double peak)
{
    const solve_case *c = s->c;
    double extra = c->loss == LIKELIHOOD ? 2 * (double)(c->sizes[1] * c->sizes[2]) : 0,
           rows = (double)c->rows;
    double flops = rows * (bench_field_flops(&s->net) + extra),
           tanhs = rows * bench_field_tanhs(&s->net);
    double forward = bench_floor(flops, tanhs, s->dtype, peak);
    double backward = bench_floor(2 * flops, 0, s->dtype, peak) + (c->stored ? 0 : forward);
    return (double)c->evaluations * forward + (double)c->vjps * backward;
}

static bool time_case(const bench_options *options, const solve_case *c)
{
    ad_dtype judged = c->loss == SPIRAL ? AD_F64 : AD_F32;
    solve s = { .c = c, .dtype = options->dtype < 0 ? judged : (ad_dtype)options->dtype };
    bench_line line = { .name = c->name,
                        .dtype = s.dtype,
                        .threads = options->threads,
                        .must = c->must,
                        .bound = s.dtype == AD_F32 ? 1e-3 : 1e-6,
                        .floor_evaluations = c->evaluations,
                        .floor_vjps = c->vjps };
    bool fine = prepare(&s, options->tolerance, options->threads);
    if (fine) run(&s);
    if (fine && !s.failed) {
        line.error = error_of(&s);
        bench_job job = { .run = run, .user = &s };
        fine = bench_measure(options->repeats, s.dtype, 1, &job, &line.peak);
        line.ms = job.ms;
        line.floor_ms = floor_of(&s, line.peak) / options->threads;
        line.evaluations = s.stats.evaluations;
        line.vjps = s.stats.vjps;
    }
    if (fine && s.failed) fine = bench_failed(c->name, ad_workspace_error(s.workspace));
    release(&s);
    /* In double the error of the tolerance in use would hide that of the gradient: right means
     * right at a finer one. */
    if (fine && s.dtype == AD_F64 && !c->steps && c->rtol > 1e-7 && options->tolerance <= 0) {
        line.note = "error at 1e-9";
        fine = solve_once(c, AD_F64, 1e-9, false, &line.error);
    }
    if (fine) bench_print(options, &line);
    return fine;
}

bool bench_solves(const bench_options *options, const char *wanted, int *count)
{
    bool fine = true;
    double error;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!bench_wanted(wanted, cases[i].group, cases[i].name)) continue;
        fine &= options->answers ? solve_once(&cases[i], AD_F64, 1e-12, true, &error)
                                 : time_case(options, &cases[i]);
        ++*count;
    }
    return fine;
}
