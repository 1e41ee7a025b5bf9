/* Flow matching: a continuous normalizing flow that is trained without solving anything (Lipman et
 * al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003).
 *
 * Data x and normal draws z are joined by straight lines, x_t = (1 - t) x + t z. A network F(x, t;
 * w) is fitted to their velocities by least squares, E |F(x_t, t) - (z - x)|^2: the mean velocity
 * of the lines through a place carries the distribution of the data to the normal one. Which x
 * belongs to which z is free:
 *
 *   independent   any: lines cross, so ways bend
 *   transport     in each part of a batch the pairs of least total squared length (minibatch
 * optimal transport, Tong et al. 2024, arXiv:2302.00482), found exactly (assignment.c): lines cross
 * less, and ways are nearly straight
 *
 * What comes out is a flow like any other: the same network, trained by maximum likelihood as in
 * cnf_2d, stands beside it. Densities are by the exact trace in all cases, samples by solving from
 * the base to the data. */
#include "assignment.h"
#include "costate.h"
#include "densities.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 5000, GRID = 121, WAYS = 60, TIMES = 31, PAIRS = 4, PART = 64 };
enum { LIKELIHOOD, INDEPENDENT, TRANSPORT, WAYS_OF_TRAINING };
static const char *const names[] = { "maximum likelihood", "flow matching", "transport matching" };
static const char *const files[] = { "likelihood", "independent", "transport" };

typedef struct {
    int training;
    const density *density;
    nn_model *model;
    nn_time_mlp network;
    ode_cnf flow;
    nn_theta *average; /* of the weights along flow matching; of likelihoods: the last ones */
    double length;     /* sum of the squared lengths of pairs, */
    int64_t pairs;     /* and how many these are */
    ad_rng rng;
} problem;

/* args[0] is theta. */
static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    return nn_time_mlp_apply(&p->network, args[0], t, x);
}

/* ---- the two ways of training ---------------------------------------------------------------- */

/* batch: points. */
static ad_var minus_log_likelihood(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    return ad_neg(ad_mean_all(ode_cnf_log_density(&p->flow, batch[0], AD_VARS(theta))));
}

/* batch: points x, normal draws z, times [rows,1]. */
static ad_var matching(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    ad_var x = batch[0], z = batch[1], t = batch[2], velocity = ad_sub(z, x);
    (void)tape;
    return nn_mse(field(t, ad_add(x, ad_mul(t, velocity)), &theta, user), velocity);
}

static void draw_points(const problem *p, ad_rng *rng, int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i++) p->density->draw(rng, &x[2 * i], &x[2 * i + 1]);
}

static void draw_normals(ad_rng *rng, int64_t n, double *z)
{
    for (int64_t i = 0; i < n; i++) z[i] = ad_rng_normal(rng);
}

static double squared_length(const double *x, const double *z)
{
    return (x[0] - z[0]) * (x[0] - z[0]) + (x[1] - z[1]) * (x[1] - z[1]);
}

/* Reorders n normal draws, so that they are the cheapest partners of the points. */
static bool transport(int64_t n, const double *x, double *z)
{
    double *cost = malloc((size_t)(n * n) * sizeof *cost),
           *copy = malloc((size_t)n * 2 * sizeof *z);
    int64_t *pair = malloc((size_t)n * sizeof *pair);
    bool fine = cost && copy && pair;
    for (int64_t i = 0; fine && i < n; i++)
        for (int64_t j = 0; j < n; j++) cost[i * n + j] = squared_length(x + 2 * i, z + 2 * j);
    fine = fine && assign(n, cost, pair);
    if (fine) memcpy(copy, z, (size_t)n * 2 * sizeof *z);
    for (int64_t i = 0; fine && i < n; i++) memcpy(z + 2 * i, copy + 2 * pair[i], 2 * sizeof *z);
    free(cost);
    free(copy);
    free(pair);
    return fine;
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    problem *p = user;
    double *x = out[0], *z = out[1];
    draw_points(p, step->rng, step->rows, x);
    if (p->training == LIKELIHOOD) return 0;
    draw_normals(step->rng, 2 * step->rows, z);
    for (int64_t i = 0; p->training == TRANSPORT && i < step->rows; i += PART) {
        const int64_t n = step->rows - i < PART ? step->rows - i : PART;
        if (!transport(n, x + 2 * i, z + 2 * i)) return 1;
    }
    /* times spread evenly: one in each of as many parts as there are rows, in an order that the
     * pairs do not know */
    for (int64_t i = 0; i < step->rows; i++) {
        out[2][i] = ((double)i + ad_rng_uniform(step->rng)) / (double)step->rows;
        p->length += squared_length(x + 2 * i, z + 2 * i);
    }
    p->pairs += step->rows;
    return 0;
}

/* The last weights of a likelihood; the average of those of flow matching, whose steps are noisier.
 */
static int average(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)value;
    const double share = p->training == LIKELIHOOD ? 1 : fmax(2e-3, 1 / (double)step);
    return nn_theta_average(p->average, theta, share);
}

/* ---- what is asked of a flow ----------------------------------------------------------------- */

typedef enum { LOG_DENSITY, SAMPLE, WAY } question;

/* Answers for n points or normal draws, solved at 1e-5 or, where `steps` is not 0, by so many steps
 * of the midpoint rule; false after explaining. */
static bool ask(const problem *p, question what, int64_t steps, int64_t n, const double *x,
                double *out, ode_stats *stats)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ode_cnf flow = p->flow;
    flow.options = (ode_options){ .rtol = 1e-5, .atol = 1e-5, .stats = stats };
    if (steps) flow.options = (ode_options){ .method = &ode_midpoint, .steps = steps };
    ad_var w = nn_theta_param(tape, p->average),
           in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, x), y;
    if (what == LOG_DENSITY) y = ode_cnf_log_density(&flow, in, AD_VARS(w));
    else if (what == SAMPLE) y = ode_cnf_sample(&flow, in, AD_VARS(w));
    else
        y = ode_solve(field, flow.user, in, AD_VARS(w), ode_linspace(tape, 1, 0, TIMES),
                      &flow.options);
    const bool fine = ad_get(y, out) == 0;
    if (!fine) example_failed("the flow", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

typedef struct {
    double seconds, nll, evaluations, distance,
        coarse;    /* of samples at 1e-5, and by 4 evaluations */
    double length; /* mean squared length of the pairs */
} outcome;

/* x: sets of points to compare with, one after the other; z: normal draws [POINTS,2]; unit: the
 * distance of two sets of points. */
static bool measure(const problem *p, const double *x, const double *z, double unit, outcome *o)
{
    double *y = malloc(POINTS * 2 * sizeof *y);
    ode_stats stats = { 0 };
    if (!y) {
        example_failed("memory", NULL);
        return false;
    }
    o->nll = o->distance = o->coarse = 0;
    bool fine = ask(p, LOG_DENSITY, 0, POINTS, x, y, NULL);
    for (int i = 0; fine && i < POINTS; i++) o->nll -= y[i] / POINTS;
    fine = fine && ask(p, SAMPLE, 0, POINTS, z, y, &stats);
    o->evaluations = (double)stats.evaluations;
    for (int k = 0; fine && k < PAIRS; k++)
        o->distance += energy_distance(POINTS, x + 2 * k * POINTS, y) / unit / PAIRS;
    fine = fine && ask(p, SAMPLE, 2, POINTS, z, y, NULL);
    for (int k = 0; fine && k < PAIRS; k++)
        o->coarse += energy_distance(POINTS, x + 2 * k * POINTS, y) / unit / PAIRS;
    ode_stats_clear(&stats);
    free(y);
    return fine;
}

/* ---- pictures -------------------------------------------------------------------------------- */

static bool write_density(const problem *p, const char *directory)
{
    const int64_t n = GRID * GRID;
    const double r = p->density->radius, h = 2 * r / (GRID - 1);
    double *x = malloc((size_t)n * 2 * sizeof *x), *log_p = malloc((size_t)n * sizeof *log_p);
    char name[64];
    snprintf(name, sizeof name, "flow_matching_density_%s.dat", files[p->training]);
    FILE *f = NULL;
    for (int64_t i = 0; x && i < n; i++) {
        const int64_t row = i / GRID;
        x[2 * i] = -r + h * (double)(i % GRID);
        x[2 * i + 1] = -r + h * (double)row;
    }
    if (x && log_p && ask(p, LOG_DENSITY, 0, n, x, log_p, NULL)) f = example_file(directory, name);
    for (int64_t i = 0; f && i < n; i++)
        fprintf(f, "%.5g %.5g %.6g\n%s", x[2 * i], x[2 * i + 1], exp(log_p[i]),
                i % GRID == GRID - 1 ? "\n" : "");
    free(x);
    free(log_p);
    return f && fclose(f) == 0;
}

static bool write_ways(const problem *p, const char *directory, const double *z)
{
    double way[WAYS * TIMES * 2];
    char name[64];
    snprintf(name, sizeof name, "flow_matching_ways_%s.dat", files[p->training]);
    FILE *f = ask(p, WAY, 0, WAYS, z, way, NULL) ? example_file(directory, name) : NULL;
    for (int i = 0; f && i < WAYS * TIMES; i++)
        fprintf(f, "%.5g %.5g\n%s", way[2 * i], way[2 * i + 1], i % TIMES == TIMES - 1 ? "\n" : "");
    return f && fclose(f) == 0;
}

static void write_picture(const char *directory, const density *d)
{
    FILE *f = example_file(directory, "flow_matching.gp");
    if (!f) return;
    fprintf(f,
            "set terminal pngcairo size 1100,760 font 'sans,11'\nset output 'flow_matching.png'\n"
            "set multiplot layout 2,3\nset size square\nset xrange [-%g:%g]\nset yrange [-%g:%g]\n"
            "unset key\nunset colorbox\nset tics scale 0.5\n"
            "set palette defined (0 '#ffffff', 0.2 '#9ecae1', 0.5 '#3182bd', 1 '#08306b')\n",
            d->radius, d->radius, d->radius, d->radius);
    for (int k = 0; k < WAYS_OF_TRAINING; k++)
        fprintf(
            f,
            "set title '%s, by %s'\nplot 'flow_matching_density_%s.dat' using 1:2:3 with image\n",
            d->name, names[k], files[k]);
    for (int k = 0; k < WAYS_OF_TRAINING; k++)
        fprintf(
            f,
            "set title 'ways from the base'\nplot 'flow_matching_ways_%s.dat' with lines lc rgb "
            "'#40446688'\n",
            files[k]);
    fclose(f);
    example_picture(directory, "flow_matching");
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bool learn(problem *p, nn_train_options options, double *seconds)
{
    ad_rng rng = ad_rng_seed(options.seed);
    char error[512];
    const bool solves = p->training == LIKELIHOOD;
    nn_theta *theta = nn_theta_new(p->model, AD_F32, &rng);
    p->average = nn_theta_copy(theta);
    const nn_array arrays[] = { nn_array_drawn(AD_SHAPE(AD_ROWS, 2)),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, 2)),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, 1)) };
    options.loss = solves ? minus_log_likelihood : matching;
    options.narray = solves ? 1 : 3;
    options.arrays = arrays;
    options.user = p;
    options.draw = draw;
    options.on_step = average;
    options.label = names[p->training];
    nn_train_report report;
    const bool fine = nn_train(theta, &options, &report, error, sizeof error) == 0;
    if (!fine) example_failed("training", error);
    *seconds = report.seconds;
    nn_theta_free(theta);
    return fine;
}

int main(int argc, char **argv)
{
    int64_t likelihood_steps = 600, steps = 8000, batch = 512, width = 64, seed = 1, threads = 0;
    double rate = 1e-2;
    const char *data = "8gaussians", *directory = "out";
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "8gaussians, 2spirals, checkerboard, pinwheel, rings, moons, circles or swissroll" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates of flow matching" },
        { "likelihood", EXAMPLE_INTEGER, &likelihood_steps, "updates of maximum likelihood" },
        { "batch", EXAMPLE_INTEGER, &batch, "fresh points an update" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "width", EXAMPLE_INTEGER, &width, "of the hidden layers" },
        { "seed", EXAMPLE_INTEGER, &seed, "of weights and draws" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "quick", EXAMPLE_FLAG, &quick, "small networks, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Learns a density in the plane by flow matching, without solving anything.",
        options);
    if (done) return done - 1;
    problem p = { .density = density_find(data), .rng = ad_rng_seed((uint64_t)seed + 1) };
    if (!p.density) return example_failed(data, "not a known density; --help lists them");
    if (!example_directory(directory)) return 1;
    if (quick) {
        width = 32;
        steps = 1500;
        likelihood_steps = 150;
    }
    p.model = nn_model_new();
    p.network = nn_time_mlp_new(p.model, "field", NN_CONCAT, 4, (int64_t[]){ 2, width, width, 2 },
                                ad_tanh, NULL);
    p.flow = (ode_cnf){ field, &p, 1, { .rtol = 1e-4, .atol = 1e-4, .max_steps = 1000 } };
    if (nn_model_error(p.model)) return example_failed("model", nn_model_error(p.model));
    double *x = malloc((size_t)PAIRS * POINTS * 2 * sizeof *x), *z = malloc(POINTS * 2 * sizeof *z);
    if (!x || !z) return example_failed("memory", NULL);
    draw_points(&p, &p.rng, (int64_t)PAIRS * POINTS, x);
    draw_normals(&p.rng, (int64_t)POINTS * 2, z);
    const double unit = 2 * mean_distance(POINTS, x, x + 2 * POINTS) / POINTS;

    printf("%s: %lld parameters; %lld updates by likelihood, %lld by flow matching, of %lld "
           "points\n%-20s %8s %10s %12s %10s %10s %10s\n",
           data, (long long)nn_model_parameters(p.model), (long long)likelihood_steps,
           (long long)steps, (long long)batch, "", "seconds", "nats", "evaluations", "distance",
           "by 4", "length");
    for (p.training = 0; p.training < WAYS_OF_TRAINING; p.training++) {
        nn_train_options train = {
            .processes = example_processes(),
            .batch = batch,
            .steps = p.training == LIKELIHOOD ? likelihood_steps : steps,
            .optimizer = { .rate = rate, .schedule = nn_schedule_cosine },
            .seed = (uint64_t)seed,
            .threads = (int)threads,
        };
        outcome o = { .length = NAN };
        p.length = 0;
        p.pairs = 0;
        if (!learn(&p, train, &o.seconds) || !measure(&p, x, z, unit, &o) ||
            !write_density(&p, directory) || !write_ways(&p, directory, z))
            return 1;
        o.length = p.length / (double)p.pairs;
        printf("%-20s %8.1f %10.4f %12.0f %10.1f %10.1f", names[p.training], o.seconds, o.nll,
               o.evaluations, o.distance, o.coarse);
        if (p.training == LIKELIHOOD) printf(" %10s\n", "-");
        else printf(" %10.3f\n", o.length);
        fflush(stdout);
        nn_theta_free(p.average);
    }
    double exact = 0;
    for (int i = 0; p.density->log_density && i < POINTS; i++)
        exact -= p.density->log_density(x[2 * i], x[2 * i + 1]) / POINTS;
    if (p.density->log_density) printf("%-20s %8s %10.4f\n", "the true density", "", exact);
    printf("nats: negative log-likelihood of %d held-out points; evaluations of the field for "
           "samples at 1e-5;\nenergy distance of these to points, in units of that between two "
           "sets of points, and of samples\nby 4 evaluations (2 steps of the midpoint rule); mean "
           "squared length of the pairs in training\n",
           POINTS);
    write_picture(directory, p.density);
    free(x);
    free(z);
    nn_model_free(p.model);
    return 0;
}
