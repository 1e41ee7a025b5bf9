/* A continuous normalizing flow that learns a density in the plane (Chen et al. 2018,
 * arXiv:1806.07366; Grathwohl et al. 2019, arXiv:1810.01367).
 *
 * A network F(x, t; w) carries points from data at t = 0 to a standard normal at t = T. The density
 * along the way changes by d log p / dt = -tr(dF/dx), so log p(x) = log N(x(T); 0, I) + integral of
 * tr(dF/dx) over [0, T], with the exact trace, taken from the tape, integrated beside x. Training
 * maximises the mean of log p over fresh draws; solving from T to 0 instead turns normal draws into
 * samples.
 *
 * The solver in training chooses its steps. A few fixed steps are cheaper, but the network learns
 * to exploit their error: the loss falls below the entropy of the data while the true likelihood
 * gets worse. The likelihoods printed are from a tighter tolerance. */
#include "costate.h"
#include "densities.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_OUT = 5000, GRID = 161, SAMPLES = 4000 };

typedef struct {
    nn_model *model;
    nn_time_mlp network;
    ode_cnf flow;
    ad_rng rng;
    const density *density; /* draws for training come from here, */
    nn_table table;         /* or from the rows of a file, standardised by centre and scale */
    double centre[2], scale[2];
} problem;

/* The vector field. args[0] is theta, the flat vector of all weights. */
static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    return nn_time_mlp_apply(&p->network, args[0], t, x);
}

/* Mean negative log-likelihood of the batch. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    return ad_neg(ad_mean_all(ode_cnf_log_density(&p->flow, batch[0], 1, &theta)));
}

static void draw_point(const problem *p, ad_rng *rng, double *x)
{
    if (p->density) p->density->draw(rng, &x[0], &x[1]);
    else {
        const double *row = p->table.data + 2 * ad_rng_below(rng, (uint64_t)p->table.rows);
        for (int k = 0; k < 2; k++) x[k] = (row[k] - p->centre[k]) / p->scale[k];
    }
}

/* Fresh points for an update. */
static int draw(const nn_step *step, double *const *out, void *user)
{
    for (int64_t i = 0; i < step->rows; i++) draw_point(user, step->rng, &out[0][2 * i]);
    return 0;
}

/* Fresh points for looking at the result. */
static void draw_points(problem *p, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        double x[2];
        draw_point(p, &p->rng, x);
        out[2 * i] = (float)x[0];
        out[2 * i + 1] = (float)x[1];
    }
}

/* ---- evaluating the trained flow, with tighter tolerances than in training ---- */

static ode_cnf tight(const problem *p)
{
    ode_cnf flow = p->flow;
    flow.options = (ode_options){ .method = &ode_dopri5, .rtol = 1e-5, .atol = 1e-6 };
    return flow;
}

/* log p of n points; false after explaining. */
static bool log_density(const problem *p, const nn_theta *theta, int64_t n, const float *x,
                        double *out)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ode_cnf flow = tight(p);
    ad_var w = nn_theta_param(tape, theta), in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, x);
    bool fine = tape && ad_get(ode_cnf_log_density(&flow, in, 1, &w), out) == 0;
    if (!fine) example_failed("log density", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* n samples; and how far encoding and decoding some of the data comes back to them. */
static bool sample(problem *p, const nn_theta *theta, int64_t n, double *out,
                   double *reconstruction)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ode_cnf flow = tight(p);
    float *z = malloc((size_t)n * 2 * sizeof *z), *x = malloc((size_t)n * 2 * sizeof *x);
    bool fine = tape && z && x;
    for (int64_t i = 0; fine && i < 2 * n; i++) z[i] = (float)ad_rng_normal(&p->rng);
    if (fine) {
        draw_points(p, n, x);
        ad_var w = nn_theta_param(tape, theta);
        ad_var data = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, x),
               back = ode_cnf_sample(&flow, ode_cnf_encode(&flow, data, 1, &w), 1, &w);
        fine = ad_get(ode_cnf_sample(&flow, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, z), 1, &w),
                      out) == 0;
        *reconstruction = ad_item(ad_reduce_max(ad_abs(ad_sub(back, data)), 0, NULL, false));
    }
    if (!fine || ad_tape_error(tape)) example_failed("sampling", ad_tape_error(tape));
    ad_tape_free(tape);
    free(z);
    free(x);
    return fine;
}

/* Mean and covariance of the points, and the negative log-likelihood of `test` under that Gaussian:
 * the plain baseline. */
static double gaussian_baseline(int64_t n, const float *train, const float *test)
{
    double m[2] = { 0 }, c[3] = { 0 }, nll = 0;
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 2; k++) m[k] += train[2 * i + k] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double u = train[2 * i] - m[0], v = train[2 * i + 1] - m[1];
        c[0] += u * u / (double)n;
        c[1] += u * v / (double)n;
        c[2] += v * v / (double)n;
    }
    double det = c[0] * c[2] - c[1] * c[1];
    for (int64_t i = 0; i < n; i++) {
        double u = test[2 * i] - m[0], v = test[2 * i + 1] - m[1];
        nll += (0.5 * (c[2] * u * u - 2 * c[1] * u * v + c[0] * v * v) / det + 0.5 * log(det) +
                log(2 * 3.14159265358979323846)) /
               (double)n;
    }
    return nll;
}

/* ---- output ---- */

static bool write_points(const char *directory, const char *name, int64_t n, const float *f,
                         const double *d)
{
    FILE *file = example_file(directory, name);
    if (!file) return false;
    for (int64_t i = 0; i < n; i++)
        fprintf(file, "%.6g %.6g\n", f ? f[2 * i] : d[2 * i], f ? f[2 * i + 1] : d[2 * i + 1]);
    return fclose(file) == 0;
}

/* The density on a grid, written for the picture; returns its integral over the square, which
 * should be 1. */
static double write_density(const problem *p, const nn_theta *theta, const char *directory,
                            double radius)
{
    int64_t n = GRID * GRID;
    float *x = malloc((size_t)n * 2 * sizeof *x);
    double *log_p = malloc((size_t)n * sizeof *log_p), h = 2 * radius / (GRID - 1), integral = NAN;
    for (int64_t i = 0; x && i < n; i++) {
        const int64_t row = i / GRID, column = i % GRID;
        x[2 * i] = (float)(-radius + h * (double)column);
        x[2 * i + 1] = (float)(-radius + h * (double)row);
    }
    FILE *file = x && log_p && log_density(p, theta, n, x, log_p)
                     ? example_file(directory, "cnf_2d_density.dat")
                     : NULL;
    if (file) {
        integral = 0;
        for (int64_t i = 0; i < n; i++) {
            integral += exp(log_p[i]) * h * h;
            fprintf(file, "%.5g %.5g %.6g\n%s", x[2 * i], x[2 * i + 1], exp(log_p[i]),
                    i % GRID == GRID - 1 ? "\n" : "");
        }
        fclose(file);
    }
    free(x);
    free(log_p);
    return integral;
}

static void write_picture(const char *directory, const char *title, double radius)
{
    FILE *f = example_file(directory, "cnf_2d.gp");
    if (!f) return;
    fprintf(
        f,
        "set terminal pngcairo size 1200,430 font 'sans,11'\nset output 'cnf_2d.png'\nset "
        "multiplot layout 1,3\n"
        "set size square\nset xrange [-%g:%g]\nset yrange [-%g:%g]\nunset key\nunset colorbox\nset "
        "tics scale 0.5\n"
        "set title '%s: data'\nplot 'cnf_2d_data.dat' with points pt 7 ps 0.25 lc rgb '#33446688'\n"
        "set title 'density of the flow'\nset palette defined (0 '#ffffff', 0.2 '#9ecae1', 0.5 "
        "'#3182bd', 1 '#08306b')\n"
        "plot 'cnf_2d_density.dat' using 1:2:3 with image\n"
        "set title 'samples of the flow'\nplot 'cnf_2d_samples.dat' with points pt 7 ps 0.25 lc "
        "rgb '#33884422'\n",
        radius, radius, radius, radius, title);
    fclose(f);
    example_picture(directory, "cnf_2d");
}

/* ---- data from a file ---- */

static bool read_table(problem *p, const char *path)
{
    char error[512];
    if (nn_read_csv(path, NULL, &p->table, error, sizeof error)) {
        example_failed("data", error);
        return false;
    }
    if (p->table.columns != 2 || p->table.rows < 10) {
        example_failed(path, "two columns and at least ten rows are expected");
        return false;
    }
    for (int k = 0; k < 2; k++) {
        double s = 0, q = 0, n = (double)p->table.rows;
        for (int64_t i = 0; i < p->table.rows; i++) s += p->table.data[2 * i + k];
        for (int64_t i = 0; i < p->table.rows; i++) q += pow(p->table.data[2 * i + k] - s / n, 2);
        p->centre[k] = s / n;
        p->scale[k] = sqrt(q / n);
        if (!(p->scale[k] > 0)) {
            example_failed(path, "a column is constant");
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    int64_t steps = 600, batch = 512, width = 64, seed = 1, threads = 0;
    double rate = 1e-2, tolerance = 1e-4, horizon = 1;
    const char *data = "8gaussians", *directory = "out", *weights = NULL;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "8gaussians, 2spirals, checkerboard, pinwheel, rings, moons, circles, swissroll or a "
          "two-column .csv" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates by Adam" },
        { "batch", EXAMPLE_INTEGER, &batch, "fresh points an update" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "width", EXAMPLE_INTEGER, &width, "of the hidden layers" },
        { "horizon", EXAMPLE_NUMBER, &horizon, "time T between data and base" },
        { "tolerance", EXAMPLE_NUMBER, &tolerance, "of the solver in training" },
        { "seed", EXAMPLE_INTEGER, &seed, "of weights and draws" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "weights", EXAMPLE_TEXT, &weights, "save the trained weights to this .safetensors file" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Learns a density in the plane with a continuous normalizing flow.", options);
    if (done) return done - 1;
    problem p = { .model = nn_model_new(),
                  .rng = ad_rng_seed((uint64_t)seed),
                  .density = density_find(data),
                  .centre = { 0 },
                  .scale = { 1, 1 } };
    char error[512];
    if (!p.density && !strchr(data, '.'))
        return example_failed(data,
                              "is neither a known density nor a .csv file; --help lists them");
    if (!p.density && !read_table(&p, data)) return 1;
    if (!example_directory(directory)) return 1;

    p.network = nn_time_mlp_new(p.model, "field", NN_CONCAT, 4, (int64_t[]){ 2, width, width, 2 },
                                ad_tanh, NULL);
    p.flow = (ode_cnf){
        field,
        &p,
        horizon,
        { .method = &ode_dopri5, .rtol = tolerance, .atol = tolerance, .max_steps = 1000 }
    };
    if (nn_model_error(p.model)) return example_failed("model", nn_model_error(p.model));
    float *train = malloc(HELD_OUT * 2 * sizeof *train),
          *test = malloc(HELD_OUT * 2 * sizeof *test);
    double *log_p = malloc(HELD_OUT * sizeof *log_p),
           *samples = malloc(SAMPLES * 2 * sizeof *samples);
    if (!train || !test || !log_p || !samples) return example_failed("memory", NULL);
    nn_theta *theta = nn_theta_new(p.model, AD_F32, &p.rng);
    if (nn_theta_error(theta)) return example_failed("theta", nn_theta_error(theta));
    /* A small last layer: the flow begins near the identity. */
    const nn_linear *last = &p.network.layer[p.network.nlayer - 1].linear;
    float *weight = nn_theta_f32(theta, NULL) + last->weight;
    for (int64_t i = 0; i < last->in * last->out; i++) weight[i] *= 0.1f;

    nn_array points = nn_array_drawn(AD_SHAPE(AD_ROWS, 2));
    nn_train_options train_options = { .processes = example_processes(),
                                       .loss = loss,
                                       .user = &p,
                                       .narray = 1,
                                       .arrays = &points,
                                       .draw = draw,
                                       .batch = batch,
                                       .steps = steps,
                                       .optimizer = { .rate = rate,
                                                      .schedule = nn_schedule_cosine },
                                       .seed = (uint64_t)seed,
                                       .threads = (int)threads,
                                       .label = "training" };
    nn_train_report report;
    printf("%s: %lld parameters, %lld updates of %lld points\n", data,
           (long long)nn_model_parameters(p.model), (long long)steps, (long long)batch);
    fflush(stdout);
    if (nn_train(theta, &train_options, &report, error, sizeof error))
        return example_failed("training", error);
    if (weights && nn_save(weights, theta, error, sizeof error))
        return example_failed("weights", error);

    /* Fresh points that the training has not seen (draws from a file come from its rows). */
    draw_points(&p, HELD_OUT, train);
    draw_points(&p, HELD_OUT, test);
    double nll = 0, exact = 0, radius = p.density ? p.density->radius : 3.5, reconstruction = NAN;
    if (!log_density(&p, theta, HELD_OUT, test, log_p) ||
        !sample(&p, theta, SAMPLES, samples, &reconstruction))
        return 1;
    for (int i = 0; i < HELD_OUT; i++) {
        nll -= log_p[i] / HELD_OUT;
        double truth = p.density && p.density->log_density
                           ? p.density->log_density(test[2 * i], test[2 * i + 1])
                           : 0;
        if (isfinite(truth)) exact -= truth / HELD_OUT;
    }
    write_points(directory, "cnf_2d_data.dat", SAMPLES, test, NULL);
    write_points(directory, "cnf_2d_samples.dat", SAMPLES, NULL, samples);
    double integral = write_density(&p, theta, directory, radius);
    printf("trained in %.1f s\n", report.seconds);
    printf("held-out negative log-likelihood (nats a point, %d points):\n", HELD_OUT);
    printf("  the flow                %8.4f\n", nll);
    printf("  the best Gaussian       %8.4f\n", gaussian_baseline(HELD_OUT, train, test));
    if (exact) printf("  the true density        %8.4f\n", exact);
    printf("the flow's density integrates to %.4f over the square drawn; encoding and decoding "
           "return to the data within %.1e\n",
           integral, reconstruction);
    write_picture(directory, data, radius);
    free(train);
    free(test);
    free(log_p);
    free(samples);
    nn_theta_free(theta);
    nn_table_clear(&p.table);
    nn_model_free(p.model);
    return 0;
}
