/* Classification of irregular time series by a neural controlled differential equation (Kidger,
 * Morrill, Foster & Lyons 2020, arXiv:2005.08926).
 *
 * The series, with the time as a channel of its own, is interpolated to a path X(t). It drives
 *
 *     dz/dt = f(z) dX/dt,    z(0) = g(X(0)),
 *
 * where f(z) is a matrix [hidden, channels] that a network computes, and the class is read off
 * z(T). Whatever was not observed is no difficulty: the path goes through what was. Observations
 * are dropped at random, the same share of each series (none, 30 %, 50 %, 70 %), and the network
 * is trained anew on what is left.
 *
 * dX/dt needs no formula: it is the derivative of ode_interpolate by the field's own time. Paths:
 * "linear" through the observations; "cubic" (Hermite pieces, smooth, not causal); "rectilinear"
 * (Morrill et al. 2021, arXiv:2106.11028), where the time goes first and the values follow, so
 * that z at any time knows nothing of later observations.
 *
 * Beside it: the nearest neighbour under dynamic time warping of all channels together, on the
 * linearly interpolated series. */
#include "costate.h"
#include "example.h"
#include "series.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t length, channels, hidden, classes; /* channels: with the time */
    int64_t knots;
    double *knot; /* [knots] */
    ode_interpolation kind;
    nn_model *model;
    nn_linear first, last;
    nn_mlp field;
} cde;

/* ---- the model ---- */

static ad_var path(const cde *c, ad_var t, ad_var samples)
{
    ad_var knots = ad_constant(t.tape, AD_SHAPE(c->knots), c->knot);
    return ode_interpolate(c->kind, t, knots, samples);
}

/* args: theta, samples [rows,knots,channels] */
static ad_var field(ad_var t, ad_var z, const ad_var *args, void *user)
{
    const cde *c = user;
    ad_var x = path(c, t, args[1]), one = ad_ones_like(t), slope;
    ad_jvp(1, &t, &one, 1, &x, &slope);
    ad_var matrix = ad_tanh(nn_mlp_apply(&c->field, args[0], z));
    matrix = ad_reshape(matrix, AD_SHAPE(AD_ROWS, c->hidden, c->channels));
    return ad_contract("rhc,rc->rh", 2, (ad_var[]){ matrix, slope });
}

/* Scores of the classes [rows,classes] of samples [rows,knots,channels]. */
static ad_var scores(const cde *c, ad_var theta, ad_var samples)
{
    ad_var start = ad_reshape(ad_slice(samples, 1, 0, 1), AD_SHAPE(AD_ROWS, c->channels));
    ad_var z0 = nn_linear_apply(&c->first, theta, start);
    ad_var times = ode_interval(theta.tape, 0, c->knot[c->knots - 1]);
    ode_options options = { .method = &ode_rk4, .step = 1 };
    ad_var z = ode_solve_final(field, (void *)c, z0, AD_VARS(theta, samples), times, &options);
    return nn_linear_apply(&c->last, theta, z);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_cross_entropy(scores(user, theta, batch[0]), batch[1]);
}

static nn_theta *build(cde *c, uint64_t seed)
{
    c->model = nn_model_new();
    c->first = nn_linear_new(c->model, "first", c->channels, c->hidden, NULL);
    c->field =
        nn_mlp_new(c->model, "field", 3,
                   (int64_t[]){ c->hidden, 2 * c->hidden, c->hidden * c->channels }, ad_relu, NULL);
    c->last = nn_linear_new(c->model, "last", c->hidden, c->classes, NULL);
    ad_rng rng = ad_rng_seed(seed);
    return nn_theta_new(c->model, AD_F32, &rng);
}

/* ---- data ---- */

/* What a share of the observations leaves, linearly interpolated: [length,channels], in place. The
 * first one stays, so that all paths begin; after the last one that is left the value stays. */
static void drop(ad_rng *rng, double share, int64_t length, int64_t channels, double *x)
{
    int64_t before = 0;
    for (int64_t t = 1; t <= length; t++) {
        if (t < length && ad_rng_uniform(rng) < share) continue;
        for (int64_t k = before + 1; k < t; k++)
            for (int64_t i = 0; i < channels; i++) {
                double a = x[before * channels + i], b = t < length ? x[t * channels + i] : a;
                x[k * channels + i] = a + (b - a) * (double)(k - before) / (double)(t - before);
            }
        before = t;
    }
}

/* Mean 0 and deviation 1 of each channel, by the numbers of `by`. */
static void standardise(const series *by, series *s)
{
    int64_t n = by->count * by->length;
    for (int64_t i = 0; i < s->channels; i++) {
        double mean = 0, square = 0;
        for (int64_t k = 0; k < n; k++) mean += by->x[k * s->channels + i] / (double)n;
        for (int64_t k = 0; k < n; k++)
            square += pow(by->x[k * s->channels + i] - mean, 2) / (double)n;
        for (int64_t k = 0; k < s->count * s->length; k++)
            s->x[k * s->channels + i] = (s->x[k * s->channels + i] - mean) / sqrt(square + 1e-12);
    }
}

/* Samples of the path [count,knots,1 + channels], the time (0 to 1) first. Of a rectilinear one
 * each observation has two knots: the time moves before the first, the values before the second. */
static float *samples_of(const cde *c, const series *s, bool rectilinear)
{
    float *out = malloc((size_t)(s->count * c->knots * c->channels) * sizeof *out), *to = out;
    for (int64_t i = 0; out && i < s->count; i++)
        for (int64_t k = 0; k < c->knots; k++) {
            int64_t now = rectilinear ? (k + 1) / 2 : k, seen = rectilinear ? k / 2 : k;
            const double *x = s->x + (i * s->length + seen) * s->channels;
            *to++ = (float)now / (float)(s->length - 1);
            for (int64_t j = 0; j < s->channels; j++) *to++ = (float)x[j];
        }
    return out;
}

/* ---- a baseline ---- */

/* Squared distance under dynamic time warping, all channels warped together. */
static double warped(const series *a, const double *x, const double *y, double *line)
{
    int64_t n = a->length, d = a->channels;
    for (int64_t k = 0; k <= n; k++) line[k] = k ? INFINITY : 0;
    for (int64_t i = 0; i < n; i++) {
        double corner = line[0];
        line[0] = INFINITY;
        for (int64_t k = 0; k < n; k++) {
            double cost = 0, above = line[k + 1];
            for (int64_t j = 0; j < d; j++) cost += pow(x[i * d + j] - y[k * d + j], 2);
            line[k + 1] = cost + fmin(fmin(line[k], above), corner);
            corner = above;
        }
    }
    return line[n];
}

static double nearest_neighbour(const series *train, const series *test)
{
    double *line = malloc((size_t)(train->length + 1) * sizeof *line), right = 0;
    int64_t size = train->length * train->channels;
    for (int64_t i = 0; line && i < test->count; i++) {
        double best = INFINITY, class_ = -1;
        for (int64_t k = 0; k < train->count; k++) {
            double distance = warped(train, test->x + i * size, train->x + k * size, line);
            if (distance < best) class_ = train->class_[k];
            best = fmin(best, distance);
        }
        right += class_ == test->class_[i];
    }
    free(line);
    return right / (double)test->count;
}

/* ---- one experiment ---- */

static double accuracy(const cde *c, const nn_theta *theta, const series *s, const float *samples)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, c->knots, c->channels), s->count, samples),
           truth = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), s->count, s->class_);
    ad_var said = ad_argmax(scores(c, nn_theta_param(tape, theta), x), 1, true);
    double share = ad_item(ad_mean_all(ad_eq(said, truth)));
    if (ad_tape_error(tape)) example_failed("accuracy", ad_tape_error(tape));
    ad_tape_free(tape);
    return share;
}

typedef struct {
    int64_t steps, seed;
    double share; /* dropped */
    bool rectilinear;
} experiment;

/* Trains on what is left of `train`; accuracy on what is left of `test`, or NaN after explaining.
 */
static double run(cde *c, const experiment *e, const series *train, const series *test)
{
    nn_theta *theta = build(c, (uint64_t)e->seed);
    float *x = samples_of(c, train, e->rectilinear), *y = samples_of(c, test, e->rectilinear);
    double result = NAN;
    char error[512];
    nn_array arrays[] = {
        nn_array_data(AD_SHAPE(AD_ROWS, c->knots, c->channels), AD_F32, x),
        nn_array_of(AD_SHAPE(AD_ROWS, 1), train->class_),
    };
    nn_train_options options = {
        .processes = example_processes(), .loss = loss, .user = c, .narray = 2, .arrays = arrays
    };
    options.examples = train->count;
    options.batch = 64;
    options.steps = e->steps;
    options.seed = (uint64_t)e->seed;
    options.optimizer =
        (nn_optimizer_options){ .rate = 3e-3, .schedule = nn_schedule_cosine, .clip_norm = 1 };
    if (!x || !y) example_failed("neural_cde", "out of memory");
    else if (nn_train(theta, &options, NULL, error, sizeof error))
        example_failed("training", error);
    else result = accuracy(c, theta, test, y);
    free(x);
    free(y);
    nn_theta_free(theta);
    nn_model_free(c->model);
    return result;
}

static int drop_from(series *s, double share, uint64_t seed)
{
    ad_rng rng = ad_rng_seed(seed);
    for (int64_t i = 0; i < s->count; i++)
        drop(&rng, share, s->length, s->channels, s->x + i * s->length * s->channels);
    return 0;
}

static int load(const char *data, const char *part, int64_t length, series *s)
{
    char path[1024];
    if (!data) return series_make(*part == 'T' && part[1] == 'R' ? 1 : 2, 150, 40, s);
    snprintf(path, sizeof path, "%s_%s.ts", data, part);
    return series_read(path, length, s);
}

/* Training and test series, of one length, standardised; some of their observations dropped. */
static int prepare(const char *data, double share, uint64_t seed, series *train, series *test)
{
    if (load(data, "TRAIN", 0, train)) return -1;
    if (load(data, "TEST", train->length, test)) {
        series_free(train);
        return -1;
    }
    if (test->length > train->length) {
        series_free(train);
        if (load(data, "TRAIN", test->length, train)) {
            series_free(test);
            return -1;
        }
    }
    if (test->length != train->length || test->channels != train->channels ||
        test->classes != train->classes) {
        series_free(train);
        series_free(test);
        return -example_failed("neural_cde", "training and test series do not go together");
    }
    series copy = *train;
    standardise(&copy, test);
    double *first = malloc((size_t)(copy.count * copy.length * copy.channels) * sizeof *first);
    if (!first) return -example_failed("neural_cde", "out of memory");
    memcpy(first, copy.x, (size_t)(copy.count * copy.length * copy.channels) * sizeof *first);
    copy.x = first;
    standardise(&copy, train);
    free(first);
    drop_from(train, share, 10 * seed + 1);
    return drop_from(test, share, 10 * seed + 2);
}

/* Accuracies of both beside each other. */
static bool draw(const char *out)
{
    FILE *script = example_file(out, "neural_cde.gp");
    if (!script) return false;
    fputs("set terminal pngcairo size 700,450\n"
          "set output 'neural_cde.png'\n"
          "set xlabel 'share of the observations that is dropped'\n"
          "set ylabel 'accuracy on test series'\n"
          "set xrange [-0.05:0.75]\nset yrange [0:1.05]\nset key bottom left\n"
          "plot 'neural_cde.dat' using 1:2:3 with yerrorlines lw 2 pt 7 title 'neural CDE', \\\n"
          "     'neural_cde.dat' using 1:4 with linespoints lw 2 pt 5 title 'nearest neighbour'\n",
          script);
    fclose(script);
    example_picture(out, "neural_cde");
    return true;
}

static const struct {
    const char *name;
    ode_interpolation kind;
    bool rectilinear;
} paths[] = { { "linear", ODE_LINEAR, false },
              { "cubic", ODE_CUBIC, false },
              { "rectilinear", ODE_LINEAR, true } };

int main(int argc, char **argv)
{
    const char *data = NULL, *out = "output", *path_name = "linear";
    int64_t steps = 800, hidden = 32, seeds = 3;
    bool quick = false;
    const example_option list[] = {
        { "data", EXAMPLE_TEXT, &data, "files of the UEA archive: FOLDER/NAME of NAME_TRAIN.ts" },
        { "path", EXAMPLE_TEXT, &path_name, "linear, cubic or rectilinear" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates" },
        { "hidden", EXAMPLE_INTEGER, &hidden, "size of z" },
        { "seeds", EXAMPLE_INTEGER, &seeds, "runs whose mean is told" },
        { "quick", EXAMPLE_FLAG, &quick, "half of the observations dropped, one short run" },
        { "out", EXAMPLE_TEXT, &out, "where pictures go" },
        { NULL, EXAMPLE_FLAG, NULL, NULL },
    };
    int status = example_options(argc, argv, "Irregular time series by a neural CDE.", list);
    if (status) return status - 1;
    int which = 0;
    while (which < 3 && strcmp(paths[which].name, path_name)) which++;
    if (which == 3 || steps < 1 || hidden < 1 || seeds < 1)
        return example_failed("neural_cde", "a path is linear, cubic or rectilinear, and numbers "
                                            "are positive; --help lists the options");
    if (quick) {
        steps = 150;
        seeds = 1;
    }
    if (!example_directory(out)) return 1;
    FILE *table = example_file(out, "neural_cde.dat");
    if (!table) return 1;
    if (!data) printf("Without --data: series of three kinds of motion that are made up.\n");
    printf("dropped  neural CDE (%s)        nearest neighbour, warped\n", path_name);
    for (int k = quick ? 2 : 0; k < (quick ? 3 : 4); k++) {
        static const double share[] = { 0, 0.3, 0.5, 0.7 };
        double mean = 0, square = 0, nearest = 0;
        for (int64_t seed = 1; seed <= seeds; seed++) {
            series train, test;
            if (prepare(data, share[k], (uint64_t)seed, &train, &test)) return 1;
            experiment e = { steps, seed, share[k], paths[which].rectilinear };
            cde c = { .length = train.length, .channels = train.channels + 1, .hidden = hidden };
            c.classes = train.classes;
            c.kind = paths[which].kind;
            c.knots = e.rectilinear ? 2 * train.length - 1 : train.length;
            c.knot = malloc((size_t)c.knots * sizeof *c.knot);
            for (int64_t i = 0; c.knot && i < c.knots; i++) c.knot[i] = (double)i;
            double a = c.knot ? run(&c, &e, &train, &test) : NAN;
            mean += a / (double)seeds;
            square += a * a / (double)seeds;
            nearest += nearest_neighbour(&train, &test) / (double)seeds;
            free(c.knot);
            series_free(&train);
            series_free(&test);
        }
        if (isnan(mean)) return 1;
        double deviation =
            seeds > 1 ? sqrt(fmax(square - mean * mean, 0) * (double)seeds / (double)(seeds - 1))
                      : 0;
        printf("%5.0f %%  %5.1f %% (deviation %.1f)     %5.1f %%\n", 100 * share[k], 100 * mean,
               100 * deviation, 100 * nearest);
        fflush(stdout);
        fprintf(table, "%g %g %g %g\n", share[k], mean, deviation, nearest);
    }
    fclose(table);
    return draw(out) ? 0 : 1;
}
