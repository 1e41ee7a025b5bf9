/* Parameters of stochastic differential equations from data, beside the answers that are known.
 *
 *     Ornstein-Uhlenbeck           dx = a (m - x) dt + sigma dW
 *     geometric Brownian motion    dx = m x dt + sigma x dW
 *
 * are observed at equal times, without errors. Both have transition densities in closed form, so
 * the maximum of the likelihood is known exactly: linear regression of each observation on the one
 * before, and mean and variance of the logarithms' steps.
 *
 * The way that works for any equation draws paths from each observation to the next by sde_solve.
 * Their mean and variance at the end make a normal density of the next observation (of x, or of log
 * x where that is nearer to normal). The Brownian paths are fixed, so this simulated likelihood is
 * a smooth function of the parameters. Its gradient comes through the solves, and Adam maximises
 * it. Its Hessian, through the solves too, gives standard errors.
 *
 * The two answers differ by the size of the steps and by the number of paths. What counts is the
 * difference in standard errors of the estimate: what the data know. */
#include "costate.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_PARAMETERS = 3 };
typedef struct {
    const char *title, *file;
    int n;
    const char *name[MAX_PARAMETERS];
    double truth[MAX_PARAMETERS], start[MAX_PARAMETERS];
    ode_field drift, diffusion; /* args[0]: the parameters [n], the last one log sigma */
    /* Of data x_0 ... x_count: the estimate, with sigma itself. */
    void (*exact)(const double *x, int64_t count, double interval, double *estimate);
    double x0, interval;       /* between observations */
    ad_var (*scale)(ad_var x); /* in which steps are close to normal; NULL: x itself */
} equation;

typedef struct {
    const equation *equation;
    nn_model *model;
    int64_t samples, steps;
} problem;

static ad_var parameter(const ad_var *args, int64_t i) { return ad_slice(args[0], 0, i, i + 1); }

/* ---- Ornstein-Uhlenbeck ---- */

static ad_var ou_drift(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(parameter(args, 0), ad_sub(parameter(args, 1), x));
}
static ad_var ou_diffusion(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)x, (void)user;
    return ad_exp(parameter(args, 2));
}

/* x_{k+1} = m + b (x_k - m) + e: b = exp(-a d), and e is normal with variance sigma^2 (1 - b^2) /
 * (2 a). */
static void ou_exact(const double *x, int64_t n, double interval, double *estimate)
{
    double sx = 0, sy = 0, sxx = 0, sxy = 0, variance = 0, count = (double)n;
    for (int64_t k = 0; k < n; k++) {
        sx += x[k] / count;
        sy += x[k + 1] / count;
    }
    for (int64_t k = 0; k < n; k++) {
        sxx += (x[k] - sx) * (x[k] - sx);
        sxy += (x[k] - sx) * (x[k + 1] - sy);
    }
    double b = sxy / sxx, m = (sy - b * sx) / (1 - b), a = -log(b) / interval;
    for (int64_t k = 0; k < n; k++) variance += pow(x[k + 1] - m - b * (x[k] - m), 2) / count;
    estimate[0] = a;
    estimate[1] = m;
    estimate[2] = sqrt(variance * 2 * a / (1 - b * b));
}

/* ---- geometric Brownian motion ---- */

static ad_var gbm_drift(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(parameter(args, 0), x);
}
static ad_var gbm_diffusion(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(ad_exp(parameter(args, 1)), x);
}

/* The steps of log x are normal with mean (m - sigma^2 / 2) d and variance sigma^2 d. */
static void gbm_exact(const double *x, int64_t n, double interval, double *estimate)
{
    double mean = log(x[n] / x[0]) / (double)n, variance = 0;
    for (int64_t k = 0; k < n; k++) variance += pow(log(x[k + 1] / x[k]) - mean, 2) / (double)n;
    estimate[0] = mean / interval + variance / interval / 2;
    estimate[1] = sqrt(variance / interval);
}

static const equation equations[] = {
    { "Ornstein-Uhlenbeck",
      "ornstein_uhlenbeck",
      3,
      { "a", "m", "sigma" },
      { 1.5, 0.5, 0.6 },
      { 0.5, 0, 0 },
      ou_drift,
      ou_diffusion,
      ou_exact,
      1.5,
      0.1,
      NULL },
    { "geometric Brownian motion",
      "geometric",
      2,
      { "m", "sigma" },
      { 0.3, 0.25 },
      { 0, 0 },
      gbm_drift,
      gbm_diffusion,
      gbm_exact,
      1,
      0.1,
      ad_log },
};
enum { EQUATIONS = sizeof equations / sizeof *equations };

/* ---- data and likelihood ---- */

/* Observations x_0 ... x_n: a path by the solver, with steps that are small beside all else. */
static bool observe(const equation *e, int64_t n, uint64_t seed, double *x)
{
    double v[MAX_PARAMETERS];
    for (int i = 0; i < e->n; i++) v[i] = i == e->n - 1 ? log(e->truth[i]) : e->truth[i];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &e->x0);
    ad_var theta = ad_param(tape, AD_SHAPE(e->n), v);
    ad_var path = sde_solve(e->drift, e->diffusion, NULL, start, 1, &theta,
                            ode_linspace(tape, 0, (double)n * e->interval, (int)n + 1),
                            &(sde_options){ .ode = { .steps = 200 }, .path = { .seed = seed } });
    bool fine = !ad_get(path, x);
    if (!fine) example_failed(e->title, ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* Minus the mean simulated log-likelihood. batch[0]: x_k [rows,1], batch[1]: x_{k+1}. Each row has
 * the samples as its state, [rows,samples], and each of them a path of its own. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    const equation *e = p->equation;
    const int samples[] = { 1 };
    ad_var args[] = { nn_model_get(p->model, theta, "parameters") };
    ad_var start = ad_add(batch[0], ad_fill(tape, AD_SHAPE(AD_ROWS, p->samples), 0));
    const nn_processes *all = example_processes(); /* each has rows from 0, and paths of its own */
    sde_options options = { .ode = { .method = &sde_heun, .steps = p->steps },
                            .path = { .seed = all ? (uint64_t)all->rank : 0 } };
    ad_var x = sde_solve_final(e->drift, e->diffusion, NULL, start, 1, args,
                               ode_interval(tape, 0, e->interval), &options);
    ad_var next = e->scale ? e->scale(batch[1]) : batch[1], y = e->scale ? e->scale(x) : x;
    ad_var mean = ad_mean(y, 1, samples, true);
    ad_var squares = ad_sum(ad_square(ad_sub(y, mean)), 1, samples, true);
    ad_var sd = ad_sqrt(ad_scale(squares, 1 / (double)(p->samples - 1)));
    return nn_gaussian_nll(next, mean, ad_log(sd));
}

/* ---- standard errors ---- */

/* Of n observations, from the inverse of the Hessian of the mean loss; its size is at most 3. */
static void invert(int n, const double *h, double *inverse)
{
    double a[MAX_PARAMETERS][2 * MAX_PARAMETERS] = { { 0 } };
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) a[i][j] = h[i * n + j];
        a[i][n + i] = 1;
    }
    for (int k = 0; k < n; k++) {
        double pivot = a[k][k];
        for (int j = 0; j < 2 * n; j++) a[k][j] /= pivot;
        for (int i = 0; i < n; i++) {
            double factor = i == k ? 0 : a[i][k];
            for (int j = 0; j < 2 * n; j++) a[i][j] -= factor * a[k][j];
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) inverse[i * n + j] = a[i][n + j];
}

static bool standard_errors(problem *p, nn_theta *theta, const double *x, int64_t n, double *error)
{
    int size = p->equation->n;
    double hessian[MAX_PARAMETERS * MAX_PARAMETERS], inverse[MAX_PARAMETERS * MAX_PARAMETERS];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var w = nn_theta_param(tape, theta);
    ad_var batch[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), n, x),
                       ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), n, x + 1) };
    ad_var l = loss(tape, w, batch, p);
    bool fine = true;
    for (int i = 0; fine && i < size; i++) {
        double unit[64] = { 0 }, column[64];
        unit[i] = 1;
        ad_var along = ad_constant(tape, ad_shape_of(w), unit);
        fine = !ad_get(ad_hvp(l, w, along), column);
        for (int j = 0; j < size; j++) hessian[i * size + j] = column[j];
    }
    if (!fine) example_failed("Hessian", ad_tape_error(tape));
    ad_tape_free(tape);
    if (fine) invert(size, hessian, inverse);
    for (int i = 0; fine && i < size; i++) error[i] = sqrt(inverse[i * size + i] / (double)n);
    return fine;
}

/* ---- one equation ---- */

static void print_table(const equation *e, const double *exact, const double *got,
                        const double *error)
{
    printf("              true    exact maximum    through sde_solve   standard error   "
           "difference\n");
    for (int i = 0; i < e->n; i++)
        printf("  %-6s %10.3f %16.4f %20.4f %16.4f %12.3f of it\n", e->name[i], e->truth[i],
               exact[i], got[i], error[i], fabs(got[i] - exact[i]) / error[i]);
}

typedef struct {
    double exact[MAX_PARAMETERS], got[MAX_PARAMETERS], standard[MAX_PARAMETERS];
} estimates;

static bool fit(const equation *e, int64_t n, int64_t updates, problem *p, const double *x,
                int64_t threads, estimates *found)
{
    double *exact = found->exact, *got = found->got, *standard = found->standard;
    char error[512];
    p->equation = e;
    p->model = nn_model_new();
    nn_model_add(p->model, "parameters", AD_SHAPE(e->n), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(p->model, AD_F64, NULL);
    nn_theta_set(theta, "parameters", e->n, e->start);
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), x),
                                nn_array_of(AD_SHAPE(AD_ROWS, 1), x + 1) };
    nn_train_options options = { .processes = example_processes(),
                                 .loss = loss,
                                 .user = p,
                                 .narray = 2,
                                 .arrays = arrays,
                                 .examples = n,
                                 .steps = updates,
                                 .threads = (int)threads,
                                 .optimizer = { .rate = 0.1, .schedule = nn_schedule_cosine } };
    nn_train_report trained;
    bool fine = !nn_train(theta, &options, &trained, error, sizeof error) &&
                !nn_theta_get(theta, "parameters", e->n, got);
    if (!fine) example_failed(e->title, error);
    fine = fine && standard_errors(p, theta, x, n, standard);
    if (fine) {
        /* The last parameter is log sigma: d sigma = sigma d log sigma. */
        got[e->n - 1] = exp(got[e->n - 1]);
        standard[e->n - 1] *= got[e->n - 1];
        e->exact(x, n, e->interval, exact);
        printf("%s: %lld observations, %.1f apart (%.1f s)\n", e->title, (long long)n, e->interval,
               trained.seconds);
        print_table(e, exact, got, standard);
    }
    nn_theta_free(theta);
    nn_model_free(p->model);
    return fine;
}

static void write_picture(const char *directory, int64_t n, double *const *x,
                          const estimates *found)
{
    FILE *f = example_file(directory, "ornstein_uhlenbeck.dat");
    if (!f) return;
    for (int i = 0; i < EQUATIONS; i++) {
        fprintf(f, "# time, %s\n", equations[i].title);
        for (int64_t k = 0; k <= n; k++)
            fprintf(f, "%.3f %.6f\n", (double)k * equations[i].interval, x[i][k]);
        fprintf(f, "\n\n");
    }
    fprintf(f,
            "# parameter, exact maximum, through sde_solve; from the truth, in standard errors\n");
    for (int i = 0; i < EQUATIONS; i++)
        for (int k = 0; k < equations[i].n; k++) {
            double truth = equations[i].truth[k], unit = found[i].standard[k];
            fprintf(f, "\"%s\" %.4f %.4f\n", equations[i].name[k],
                    (found[i].exact[k] - truth) / unit, (found[i].got[k] - truth) / unit);
        }
    fclose(f);
    f = example_file(directory, "ornstein_uhlenbeck.gp");
    if (!f) return;
    fprintf(f, "set terminal pngcairo size 1300,400 font 'sans,11'\n"
               "set output 'ornstein_uhlenbeck.png'\nset multiplot layout 1,3\nunset key\n"
               "set grid lc rgb '#dddddd'\nset xlabel 'time'\nset ylabel 'x'\n");
    for (int i = 0; i < EQUATIONS; i++)
        fprintf(f,
                "set title '%s'\n%s logscale y\nplot 'ornstein_uhlenbeck.dat' index %d with "
                "linespoints pt 7 ps 0.4 lc rgb '%s'\n",
                equations[i].title, equations[i].scale ? "set" : "unset", i,
                i ? "#d62728" : "#1f77b4");
    fputs("unset logscale\nset title 'estimates minus the truth'\nset xlabel ''\n"
          "set ylabel 'standard errors'\nset xrange [-0.7:4.7]\nset yrange [-3:3]\n"
          "set key top left\n"
          "plot 'ornstein_uhlenbeck.dat' index 2 using 0:3:(1):xtic(1) with yerrorbars pt 7 ps 1.2 "
          "lc rgb '#1f77b4' title 'through sde\\_solve', \\\n"
          "     '' index 2 using 0:2 with points pt 2 ps 1.6 lw 2 lc rgb '#d62728' title 'exact "
          "maximum', 0 lc rgb '#888888' notitle\n",
          f);
    fclose(f);
    example_picture(directory, "ornstein_uhlenbeck");
}

int main(int argc, char **argv)
{
    int64_t observations = 300, samples = 512, steps = 4, updates = 200, seed = 1, threads = 0;
    bool quick = false;
    const char *directory = "out";
    const example_option options[] = {
        { "observations", EXAMPLE_INTEGER, &observations, "of each process" },
        { "samples", EXAMPLE_INTEGER, &samples, "paths from each observation to the next" },
        { "steps", EXAMPLE_INTEGER, &steps, "of the solver between observations" },
        { "updates", EXAMPLE_INTEGER, &updates, "by Adam" },
        { "quick", EXAMPLE_FLAG, &quick, "128 samples, 100 updates" },
        { "seed", EXAMPLE_INTEGER, &seed, "of the data" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Estimates the parameters of two stochastic equations from data.", options);
    if (done) return done - 1;
    if (observations < 3 || samples < 2 || steps < 1)
        return example_failed("options", "at least 3 observations, 2 samples, 1 step are needed");
    if (!example_directory(directory)) return 1;
    problem p = { .samples = quick ? 128 : samples, .steps = steps };
    double *x[EQUATIONS];
    estimates found[EQUATIONS];
    for (int i = 0; i < EQUATIONS; i++) {
        x[i] = malloc((size_t)(observations + 1) * sizeof *x[i]);
        if (!x[i]) return example_failed("memory", NULL);
        if (!observe(&equations[i], observations, (uint64_t)seed, x[i]) ||
            !fit(&equations[i], observations, quick ? 100 : updates, &p, x[i], threads, &found[i]))
            return 1;
    }
    write_picture(directory, observations, x, found);
    for (int i = 0; i < EQUATIONS; i++) free(x[i]);
    return 0;
}
