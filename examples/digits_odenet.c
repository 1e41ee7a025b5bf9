/* A classifier of handwritten digits with an ODE where a residual network has its blocks (ODE-Net,
 * Chen et al. 2018, arXiv:1806.07366).
 *
 *   h(0) = tanh(A pixels + a),    dh/dt = F(h, t; w),    logits = B h(1) + b
 *
 * Layers have become time: the solver chooses how many evaluations of F a batch needs, and the
 * gradient needs either what the forward solve has kept (ode_discrete) or nothing of it
 * (ode_backsolve, which solves back in time). The program measures both on one batch.
 *
 * Each update sees every digit anew: moved, turned, slanted and scaled a little. The weights that
 * are used are an average over the last updates. The plain baseline is the nearest neighbour: the
 * class of the digit for training that has the least squared distance. */
#include "costate.h"
#include "digits.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 48, COLUMNS = 16 };

typedef struct {
    digit_set train, test;
    nn_model *model;
    nn_linear in, out;
    nn_time_mlp network;
    ode_options solver;
    ode_stats stats;
    int64_t evaluations; /* of F in training */
    double bend;         /* how much the digits are moved */
    nn_theta *average;
    FILE *history; /* update, loss, evaluations */
} problem;

/* args[0] is theta. */
static ad_var field(ad_var t, ad_var h, const ad_var *args, void *user)
{
    const problem *p = user;
    return nn_time_mlp_apply(&p->network, args[0], t, h);
}

static ad_var logits(const problem *p, ad_var theta, ad_var grey, const ode_options *solver)
{
    ad_var pixels = ad_scale(grey, 1.0 / (p->train.levels - 1));
    ad_var start = ad_tanh(nn_linear_apply(&p->in, theta, pixels));
    ad_var end = ode_solve_final(field, (void *)p, start, AD_VARS(theta),
                                 ode_interval(theta.tape, 0, 1), solver);
    return nn_linear_apply(&p->out, theta, end);
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: classes, greys. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    return nn_cross_entropy(logits(p, theta, batch[1], &p->solver), batch[0]);
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const problem *p = user;
    for (int64_t i = 0; i < step->rows; i++)
        digits_bend(&p->train, step->rng, p->bend,
                    p->train.grey + step->examples[i] * p->train.pixels,
                    out[1] + i * p->train.pixels);
    return 0;
}

static int after(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    p->evaluations += p->stats.evaluations;
    fprintf(p->history, "%lld %.6g %lld\n", (long long)step, value,
            (long long)p->stats.evaluations);
    return nn_theta_average(p->average, theta, fmax(5e-3, 1 / (double)step));
}

/* ---- what is asked of the classifier --------------------------------------------------------- */

/* The classes of all digits for testing; the share that is right, or NaN after explaining. */
static double classify(const problem *p, double *said, int64_t *evaluations)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ode_stats stats = { 0 };
    const ode_options solver = { .rtol = 1e-4, .atol = 1e-4, .stats = &stats };
    ad_var grey = ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->test.pixels), p->test.n, p->test.grey);
    ad_var y = logits(p, nn_theta_param(tape, p->average), grey, &solver);
    double right = 0;
    if (ad_get(ad_argmax(y, 1, true), said)) {
        example_failed("classifier", ad_tape_error(tape));
        right = NAN;
    }
    for (int64_t i = 0; i < p->test.n; i++)
        right += (said[i] == p->test.digit[i]) / (double)p->test.n;
    *evaluations = stats.evaluations;
    ad_tape_free(tape);
    ode_stats_clear(&stats);
    return right;
}

static double nearest_neighbour(const problem *p)
{
    double right = 0;
    const int64_t d = p->test.pixels;
    for (int64_t i = 0; i < p->test.n; i++) {
        double least = INFINITY, digit = -1;
        for (int64_t j = 0; j < p->train.n; j++) {
            double distance = 0;
            for (int64_t k = 0; k < d; k++) {
                const double by = p->test.grey[i * d + k] - p->train.grey[j * d + k];
                distance += by * by;
            }
            if (distance < least) digit = p->train.digit[j];
            least = fmin(least, distance);
        }
        right += (digit == p->test.digit[i]) / (double)p->test.n;
    }
    return right;
}

/* The gradient of the first 256 digits by an adjoint: what it keeps and evaluates. gradient
 * [size of theta]. */
static bool take_gradient(const problem *p, const ode_adjoint *adjoint, double *gradient)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    const ode_options solver = { .adjoint = adjoint, .rtol = 1e-4, .atol = 1e-6, .stats = &stats };
    ad_var theta = nn_theta_param(tape, p->average), g;
    ad_var grey = ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->train.pixels), 256, p->train.grey),
           digit = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 256, p->train.digit);
    ad_var value = nn_cross_entropy(logits(p, theta, grey, &solver), digit);
    ad_grad(value, AD_VARS(theta), &g);
    const bool fine = ad_get(g, gradient) == 0;
    if (!fine) example_failed("gradient", ad_tape_error(tape));
    else
        printf("  %-12s %9.1f kB kept, %4lld evaluations forwards, %4lld back\n",
               ode_adjoint_name(adjoint), (double)stats.stored_bytes / 1024,
               (long long)stats.evaluations,
               (long long)stats.backward_evaluations + (long long)stats.vjps);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
    return fine;
}

static bool compare_adjoints(const problem *p)
{
    const int64_t size = nn_theta_size(p->average);
    double *a = malloc((size_t)size * sizeof *a), *b = malloc((size_t)size * sizeof *b);
    double difference = 0, norm = 0;
    printf("the gradient of 256 digits, in double precision at 1e-4:\n");
    const bool fine =
        a && b && take_gradient(p, &ode_discrete, a) && take_gradient(p, &ode_backsolve, b);
    for (int64_t i = 0; fine && i < size; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += a[i] * a[i];
    }
    if (fine) printf("  their relative difference is %.1e\n", sqrt(difference / norm));
    free(a);
    free(b);
    return fine;
}

/* ---- the picture ----------------------------------------------------------------------------- */

/* The digits that are classified wrongly, as a matrix of greys. */
static bool write_wrong(const problem *p, const char *directory, const double *said)
{
    const int cell = p->test.side + 1, rows = SHOWN / COLUMNS;
    int64_t which[SHOWN];
    int n = 0;
    for (int64_t i = 0; i < p->test.n && n < SHOWN; i++)
        if (said[i] != p->test.digit[i]) which[n++] = i;
    FILE *f = example_file(directory, "digits_odenet_wrong.dat"),
         *labels = example_file(directory, "digits_odenet_labels.dat");
    for (int y = 0; f && labels && y < rows * cell; y++) {
        for (int x = 0; x < COLUMNS * cell; x++) {
            const int i = y / cell * COLUMNS + x / cell, row = y % cell, column = x % cell;
            const bool paper = i >= n || row == cell - 1 || column == cell - 1;
            fprintf(f, " %g",
                    paper ? 0
                          : p->test.grey[which[i] * p->test.pixels + row * (cell - 1) + column]);
        }
        fprintf(f, "\n");
    }
    for (int i = 0; labels && i < n; i++) {
        const int row = i / COLUMNS;
        fprintf(labels, "%d %d %g>%g\n", i % COLUMNS * cell + cell - 2, row * cell + cell - 2,
                p->test.digit[which[i]], said[which[i]]);
    }
    const bool fine = f && labels;
    if (f) fclose(f);
    if (labels) fclose(labels);
    return fine;
}

static void write_picture(const char *directory)
{
    FILE *f = example_file(directory, "digits_odenet.gp");
    if (!f) return;
    fprintf(f, "set terminal pngcairo size 1000,640 font 'sans,11'\nset output "
               "'digits_odenet.png'\nset multiplot\nset tics scale 0.5\nunset key\n"
               "set size 0.5,0.5\nset origin 0,0.5\nset logscale y\nset xlabel 'update'\n"
               "set title 'loss'\n"
               "plot 'digits_odenet_history.dat' using 1:2 with lines lc rgb '#446688'\n"
               "unset logscale\nset origin 0.5,0.5\nset yrange [0:*]\n"
               "set title 'evaluations of the field in a solve'\n"
               "plot 'digits_odenet_history.dat' using 1:3 with lines lc rgb '#884422'\n"
               "set size 1,0.5\nset origin 0,0\nunset tics\nunset xlabel\nunset border\n"
               "unset colorbox\nset yrange [*:*] reverse\nset xrange [*:*]\nset palette gray "
               "negative\nset size ratio -1\n"
               "set title 'digits for testing that are taken for another (is > taken for)'\n"
               "plot 'digits_odenet_wrong.dat' matrix with image, 'digits_odenet_labels.dat' "
               "using 1:2:3 with labels right font 'sans,8' tc rgb '#cc3300'\n");
    fclose(f);
    example_picture(directory, "digits_odenet");
}

int main(int argc, char **argv)
{
    int64_t steps = 3000, batch = 256, width = 96, seed = 1, threads = 0;
    double rate = 4e-3, tolerance = 1e-3;
    const char *data = NULL, *directory = "out";
    bool quick = false;
    static problem p = { .bend = 1 };
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "folder of optdigits.tra and .tes (8x8), or of MNIST's files; else digits are drawn" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates by AdamW" },
        { "batch", EXAMPLE_INTEGER, &batch, "digits an update" },
        { "width", EXAMPLE_INTEGER, &width, "of the state and of the hidden layer of the field" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "bend", EXAMPLE_NUMBER, &p.bend, "how much digits are moved in training; 0: not at all" },
        { "tolerance", EXAMPLE_NUMBER, &tolerance, "of the solver in training" },
        { "seed", EXAMPLE_INTEGER, &seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "quick", EXAMPLE_FLAG, &quick, "a small network, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Classifies handwritten digits with an ODE.", options);
    if (done) return done - 1;
    if (!example_directory(directory)) return 1;
    if (quick) {
        steps = 300;
        width = 32;
    }
    ad_rng rng = ad_rng_seed((uint64_t)seed);
    bool fine = data ? digits_read(data, &p.train, &p.test)
                     : digits_draw(&rng, 3800, 4, &p.train) && digits_draw(&rng, 1800, 4, &p.test);
    if (!fine) return 1;
    if (!data) printf("data: a stand-in, digits drawn by this program (--data reads real ones)\n");
    const int64_t d = p.train.pixels;
    p.model = nn_model_new();
    p.in = nn_linear_new(p.model, "in", d, width, NULL);
    p.network = nn_time_mlp_new(p.model, "field", NN_CONCAT, 3, (int64_t[]){ width, width, width },
                                ad_tanh, NULL);
    p.out = nn_linear_new(p.model, "out", width, DIGITS, NULL);
    p.solver = (ode_options){ .rtol = tolerance, .atol = tolerance, .stats = &p.stats };
    if (nn_model_error(p.model)) return example_failed("model", nn_model_error(p.model));
    nn_theta *theta = nn_theta_new(p.model, AD_F32, &rng);
    p.average = nn_theta_copy(theta);
    p.history = example_file(directory, "digits_odenet_history.dat");
    double *said = malloc((size_t)p.test.n * sizeof *said);
    if (!p.history || !said) return example_failed("memory", NULL);
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), p.train.digit),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, d)) };
    const nn_train_options train = {
        .processes = example_processes(),
        .loss = loss,
        .user = &p,
        .narray = 2,
        .arrays = arrays,
        .examples = p.train.n,
        .draw = draw,
        .batch = batch,
        .steps = steps,
        .optimizer = { .algorithm = &nn_adamw, .rate = rate, .schedule = nn_schedule_cosine },
        .seed = (uint64_t)seed,
        .threads = (int)threads,
        .label = "training",
        .on_step = after
    };
    nn_train_report report;
    char error[512];
    fine = nn_train(theta, &train, &report, error, sizeof error) == 0;
    fclose(p.history);
    if (!fine) return example_failed("training", error);
    int64_t evaluations;
    const double accuracy = classify(&p, said, &evaluations);
    if (isnan(accuracy)) return 1;
    printf("%lld digits for training, %lld for testing; %lld parameters, %lld updates in %.1f s\n",
           (long long)p.train.n, (long long)p.test.n, (long long)nn_model_parameters(p.model),
           (long long)steps, report.seconds);
    printf("evaluations of the field in a solve: %.1f in training, %lld in testing at 1e-4\n",
           (double)p.evaluations / (double)steps, (long long)evaluations);
    printf("right: ODE-Net            %.2f %%\n", 100 * accuracy);
    fflush(stdout);
    printf("right: nearest neighbour  %.2f %%\n", 100 * nearest_neighbour(&p));
    if (!compare_adjoints(&p) || !write_wrong(&p, directory, said)) return 1;
    write_picture(directory);
    free(said);
    nn_theta_free(theta);
    nn_theta_free(p.average);
    nn_model_free(p.model);
    ode_stats_clear(&p.stats);
    digits_clear(&p.train);
    digits_clear(&p.test);
    return 0;
}
