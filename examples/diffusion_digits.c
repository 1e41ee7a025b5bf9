/* A diffusion model of handwritten digits (Song et al. 2021, arXiv:2011.13456).
 *
 * The process x_t = alpha(t) x0 + sigma(t) noise turns a digit x0 into noise along t. A network
 * learns to undo it: of x_t, t and the digit's class it predicts v = alpha noise - sigma x0, which
 * gives the score, grad log p_t(x | class). The probability-flow equation, whose field is made from
 * the score, carries normal draws to digits, and digits to the normal distribution with an exact
 * log-density. p(x) is the mean of p(x | class) over the ten classes.
 *
 * A grey is a whole number 0 .. levels - 1. Densities are of greys with a uniform draw added
 * (dequantised), so that their log-likelihood is comparable between models, in bits a pixel: here
 * with a Gaussian and with a mixture of ten Gaussians that begins at the classes. Samples are
 * judged by a classifier that was trained on the data: the share that it calls a digit with more
 * than 0.9.
 *
 * In training a fifth of the examples have no class, so that the network knows p_t(x) too:
 * predictions (1 + guidance) v(class) - guidance v(no class) make samples more typical of their
 * class than the data are (Ho & Salimans 2022, arXiv:2207.12598). */
#include "costate.h"
#include "digits.h"
#include "example.h"
#include "mixture.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEATURES = 16, SIDE_OF_SHEET = 10, JUDGED = 1000, MOST_FITTED = 20000 };

typedef struct {
    digit_set train, test;
    int64_t d;
    double *centre, *scale; /* [d] of the pixels in [-1,1], dequantised */
    nn_model *model;
    nn_linear in, hidden, out;
    nn_linear class_in, time_in, time_hidden;
    nn_theta *weights; /* the average along the training */
    ode_diffusion diffusion, guided;
    nn_model *judge_model;
    nn_mlp judge;
    nn_theta *judge_weights;
    ad_rng rng;
} problem;

/* ---- the network ----------------------------------------------------------------------------- */

/* Waves along the log signal-to-noise ratio, which is what t means: [.,FEATURES]. */
static ad_var time_features(ad_var t)
{
    enum { WAVES = FEATURES / 2 };
    double frequency[WAVES];
    for (int i = 0; i < WAVES; i++) frequency[i] = 0.15 * pow(1.6, i);
    ad_var alpha, sigma;
    ode_process_kernel(&ode_vp, t, &alpha, &sigma);
    ad_var phase =
        ad_mul(ad_log(ad_div(alpha, sigma)), ad_constant(t.tape, AD_SHAPE(1, WAVES), frequency));
    return ad_concatenate(AD_VARS(ad_sin(phase), ad_cos(phase)), 1);
}

/* v at x [rows,d] and t; args: theta, class [rows,DIGITS] (1 at the class; zeros: none). Two hidden
 * layers: so the exact trace costs about one layer more. */
static ad_var network(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    ad_var theta = args[0], waves = time_features(t);
    ad_var h = nn_linear_apply(&p->in, theta, x);
    h = ad_add(h, nn_linear_apply(&p->class_in, theta, args[1]));
    h = ad_silu(ad_add(h, nn_linear_apply(&p->time_in, theta, waves)));
    h = nn_linear_apply(&p->hidden, theta, h);
    h = ad_silu(ad_add(h, nn_linear_apply(&p->time_hidden, theta, waves)));
    return nn_linear_apply(&p->out, theta, h);
}

static ad_var network_without_class(ad_var t, ad_var x, const ad_var *args, void *user)
{
    return network(t, x, (ad_var[]){ args[0], ad_zeros_like(args[1]) }, user);
}

static void build(problem *p, int64_t width, double guidance)
{
    p->model = nn_model_new();
    p->in = nn_linear_new(p->model, "in", p->d, width, NULL);
    p->class_in = nn_linear_new_unbiased(p->model, "class_in", DIGITS, width, NULL);
    p->time_in = nn_linear_new_unbiased(p->model, "time_in", FEATURES, width, NULL);
    p->hidden = nn_linear_new(p->model, "hidden", width, width, NULL);
    p->time_hidden = nn_linear_new_unbiased(p->model, "time_hidden", FEATURES, width, NULL);
    p->out = nn_linear_new(p->model, "out", width, p->d, nn_init_zeros);
    p->diffusion = (ode_diffusion){ .prediction = ODE_V, .network = network, .user = p };
    p->guided = p->diffusion;
    p->guided.guidance = guidance;
    p->guided.unconditional = network_without_class;
}

/* ---- greys and points ------------------------------------------------------------------------ */

/* Points in [-1,1] to what the network sees: mean 0 and variance 1 in each pixel. */
static ad_var standardise(const problem *p, ad_var points)
{
    ad_var centre = ad_constant(points.tape, AD_SHAPE(1, p->d), p->centre),
           scale = ad_constant(points.tape, AD_SHAPE(1, p->d), p->scale);
    return ad_div(ad_sub(points, centre), scale);
}

/* Mean and deviation of each pixel. The uniform draw adds half a step and a variance of 1/12. */
static bool measure(problem *p)
{
    const double n = (double)p->train.n, step = 2.0 / p->train.levels;
    p->d = p->train.pixels;
    p->centre = calloc((size_t)p->d, sizeof *p->centre);
    p->scale = calloc((size_t)p->d, sizeof *p->scale);
    for (int64_t k = 0; p->centre && p->scale && k < p->d; k++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < p->train.n; i++) sum += p->train.grey[i * p->d + k];
        for (int64_t i = 0; i < p->train.n; i++)
            squares += pow(p->train.grey[i * p->d + k] - sum / n, 2);
        p->centre[k] = (sum / n + 0.5) * step - 1;
        p->scale[k] = sqrt(squares / n + 1. / 12) * step;
    }
    return p->centre && p->scale;
}

/* Greys [n,d] dequantised to points in [-1,1]; to be freed. */
static double *points_of(problem *p, const digit_set *set, int64_t n)
{
    double *points = malloc((size_t)(n * p->d) * sizeof *points);
    for (int64_t i = 0; points && i < n * p->d; i++)
        points[i] = 2 * (set->grey[i] + ad_rng_uniform(&p->rng)) / set->levels - 1;
    return points;
}

/* Points to greys, in place. */
static void quantise(const problem *p, int64_t n, double *points)
{
    const int levels = p->train.levels;
    for (int64_t i = 0; i < n * p->d; i++)
        points[i] = fmin(fmax(floor((points[i] + 1) / 2 * levels), 0), levels - 1);
}

/* The mean over n rows of the bits per dimension; NaN after explaining. */
static double bits_of(const problem *p, int64_t n, const double *log_density)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var log_p = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), n, log_density);
    double bits = ad_item(ad_mean_all(ode_bits_per_dimension(log_p, p->d, p->train.levels)));
    if (ad_tape_error(tape)) example_failed("bits per dimension", ad_tape_error(tape));
    ad_tape_free(tape);
    return bits;
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: greys [rows,d], and drawn: uniforms for them, classes [rows,DIGITS], a uniform for the
 * time [rows,1], noise [rows,d]. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    ad_var x0 = standardise(p, ode_dequantise(batch[0], batch[1], p->train.levels));
    ad_var t = ode_diffusion_times(&p->diffusion, ODE_TIMES_UNIFORM, batch[3]);
    return ode_diffusion_loss(&p->diffusion, ODE_WEIGHT_NOISE, x0, t, batch[4],
                              AD_VARS(theta, batch[2]));
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const problem *p = user;
    /* Times that are spread evenly over the batch: a loss with less variance. */
    const double first = ad_rng_uniform(step->rng);
    for (int64_t i = 0; i < step->rows; i++) {
        const double u = fmod(first + (double)i / (double)step->rows, 1);
        const bool has_class = ad_rng_below(step->rng, 5) > 0;
        out[3][i] = fmin(fmax(u, 1e-6), 1 - 1e-6);
        for (int k = 0; k < DIGITS; k++)
            out[2][i * DIGITS + k] = has_class && p->train.digit[step->examples[i]] == k;
        for (int64_t k = i * p->d; k < (i + 1) * p->d; k++) {
            out[1][k] = ad_rng_uniform(step->rng);
            out[4][k] = ad_rng_normal(step->rng);
        }
    }
    return 0;
}

/* The average of the weights: of about the last thousand updates, in the beginning of fewer. */
static int average(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)value;
    return nn_theta_average(p->weights, theta, fmax(1e-3, 10 / (9 + (double)step)));
}

static bool train(problem *p, nn_train_options options)
{
    char error[512];
    nn_theta *theta = nn_theta_new(p->model, AD_F32, &p->rng);
    p->weights = nn_theta_copy(theta);
    const ad_shape pixels = AD_SHAPE(AD_ROWS, p->d);
    nn_array arrays[] = { nn_array_of(pixels, p->train.grey), nn_array_drawn(pixels),
                          nn_array_drawn(AD_SHAPE(AD_ROWS, DIGITS)),
                          nn_array_drawn(AD_SHAPE(AD_ROWS, 1)), nn_array_drawn(pixels) };
    options.loss = loss;
    options.draw = draw;
    options.on_step = average;
    options.user = p;
    options.narray = 5;
    options.arrays = arrays;
    options.examples = p->train.n;
    nn_train_report report;
    bool fine = nn_train(theta, &options, &report, error, sizeof error) == 0;
    if (!fine) example_failed("training", error);
    else
        printf("diffusion: %lld parameters, %lld updates in %.0f s\n",
               (long long)nn_model_parameters(p->model), (long long)report.steps, report.seconds);
    nn_theta_free(theta);
    return fine;
}

/* ---- densities and samples ------------------------------------------------------------------- */

/* log p of n points: of each with all ten classes, [n,DIGITS], then their mean. false after
 * explaining. */
static bool log_density(const problem *p, int64_t n, const double *points, double *out)
{
    const int64_t rows = n * DIGITS;
    double *repeated = malloc((size_t)(rows * p->d) * sizeof *repeated),
           *classes = calloc((size_t)(rows * DIGITS), sizeof *classes),
           *log_p = malloc((size_t)rows * sizeof *log_p);
    ad_tape *tape = ad_tape_new(AD_F32);
    bool fine = repeated && classes && log_p && tape;
    for (int64_t row = 0; fine && row < rows; row++) {
        memcpy(repeated + row * p->d, points + row / DIGITS * p->d,
               (size_t)p->d * sizeof *repeated);
        classes[row * DIGITS + row % DIGITS] = 1;
    }
    if (fine) {
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->d), rows, repeated),
               class_ = ad_input_rows(tape, AD_SHAPE(AD_ROWS, DIGITS), rows, classes);
        ad_var log_x = ode_diffusion_log_density(&p->diffusion, standardise(p, y),
                                                 AD_VARS(nn_theta_param(tape, p->weights), class_),
                                                 &(ode_options){ .rtol = 1e-4, .atol = 1e-4 });
        fine = ad_get(log_x, log_p) == 0;
    }
    double log_scale = 0;
    for (int64_t k = 0; k < p->d; k++) log_scale += log(p->scale[k]);
    for (int64_t i = 0; fine && i < n; i++) {
        const double *of = log_p + i * DIGITS;
        double most = -INFINITY, sum = 0;
        for (int k = 0; k < DIGITS; k++) most = fmax(most, of[k]);
        for (int k = 0; k < DIGITS; k++) sum += exp(of[k] - most) / DIGITS;
        out[i] = most + log(sum) - log_scale;
    }
    if (!fine) example_failed("log density", ad_tape_error(tape));
    ad_tape_free(tape);
    free(repeated);
    free(classes);
    free(log_p);
    return fine;
}

/* n greys by the probability flow; sample i is to be a (i mod 10). false after explaining. */
static bool sample(problem *p, const ode_diffusion *diffusion, int64_t n, double *out)
{
    double *classes = calloc((size_t)(n * DIGITS), sizeof *classes);
    ad_tape *tape = ad_tape_new(AD_F32);
    bool fine = classes && tape;
    for (int64_t i = 0; i < n * p->d; i++) out[i] = ad_rng_normal(&p->rng);
    for (int64_t i = 0; fine && i < n; i++) classes[i * DIGITS + i % DIGITS] = 1;
    if (fine) {
        ad_var z = ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->d), n, out),
               class_ = ad_input_rows(tape, AD_SHAPE(AD_ROWS, DIGITS), n, classes);
        ad_var x =
            ode_diffusion_decode(diffusion, z, AD_VARS(nn_theta_param(tape, p->weights), class_),
                                 &(ode_options){ .rtol = 1e-3, .atol = 1e-3 });
        fine = ad_get(x, out) == 0;
    }
    for (int64_t i = 0; i < n * p->d; i++)
        out[i] = p->centre[i % p->d] + p->scale[i % p->d] * out[i];
    quantise(p, n, out);
    if (!fine) example_failed("sampling", ad_tape_error(tape));
    ad_tape_free(tape);
    free(classes);
    return fine;
}

/* ---- the judge ------------------------------------------------------------------------------- */

static ad_var judgement(const problem *p, ad_var theta, ad_var grey)
{
    return nn_mlp_apply(&p->judge, theta, ad_scale(grey, 1.0 / p->train.levels));
}

static ad_var judge_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_cross_entropy(judgement(user, theta, batch[0]), batch[1]);
}

static bool train_judge(problem *p, int64_t steps, int threads)
{
    char error[512];
    p->judge_model = nn_model_new();
    p->judge =
        nn_mlp_new(p->judge_model, "judge", 3, (int64_t[]){ p->d, 256, DIGITS }, ad_relu, NULL);
    p->judge_weights = nn_theta_new(p->judge_model, AD_F32, &p->rng);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, p->d), p->train.grey),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), p->train.digit) };
    nn_train_options options = {
        .processes = example_processes(),
        .loss = judge_loss,
        .user = p,
        .narray = 2,
        .arrays = arrays,
        .examples = p->train.n,
        .batch = 128,
        .steps = steps,
        .optimizer = { .algorithm = &nn_adamw, .rate = 2e-3, .schedule = nn_schedule_cosine },
        .threads = threads
    };
    if (nn_train(p->judge_weights, &options, NULL, error, sizeof error) == 0) return true;
    example_failed("classifier", error);
    return false;
}

/* Prints which share of n greys the judge calls a digit with more than 0.9, and how many of these
 * are which digit; and where the digits are known, the share that it finds. */
static bool judge(const problem *p, const char *what, int64_t n, const double *grey,
                  const double *digit)
{
    double *sure = malloc((size_t)n * sizeof *sure), *said = malloc((size_t)n * sizeof *said);
    ad_tape *tape = ad_tape_new(AD_F32);
    bool fine = sure && said && tape;
    if (fine) {
        ad_var pixels = ad_input_rows(tape, AD_SHAPE(AD_ROWS, p->d), n, grey);
        ad_var logits = judgement(p, nn_theta_param(tape, p->judge_weights), pixels);
        ad_var most = ad_reduce_max(logits, 1, (int[]){ 1 }, true),
               total = ad_logsumexp(logits, 1, (int[]){ 1 }, true);
        fine = ad_get(ad_exp(ad_sub(most, total)), sure) == 0 &&
               ad_get(ad_argmax(logits, 1, true), said) == 0;
    }
    int64_t count[DIGITS] = { 0 }, all = 0, right = 0;
    for (int64_t i = 0; fine && i < n; i++) {
        if (digit) right += said[i] == digit[i];
        if (sure[i] <= 0.9) continue;
        count[(int)said[i]]++;
        all++;
    }
    if (fine) {
        printf("  %-28s %.3f  ", what, (double)all / (double)n);
        for (int k = 0; k < DIGITS; k++) printf(" %4lld", (long long)count[k]);
        printf("\n");
        if (digit) printf("    (its accuracy on these: %.4f)\n", (double)right / (double)n);
    } else example_failed("classifier", ad_tape_error(tape));
    ad_tape_free(tape);
    free(sure);
    free(said);
    return fine;
}

/* Each pixel of another held-out digit: what the judge makes of what is no digit at all. */
static void mix_pixels(problem *p, int64_t n, double *out)
{
    for (int64_t i = 0; i < n * p->d; i++) {
        const int64_t from = (int64_t)ad_rng_below(&p->rng, (uint64_t)p->test.n);
        out[i] = p->test.grey[from * p->d + i % p->d];
    }
}

/* ---- the sheet ------------------------------------------------------------------------------- */

/* The first hundred pictures as a matrix of greys. */
static bool write_sheet(const problem *p, const char *directory, const char *name,
                        const double *grey)
{
    const int side = p->train.side, cell = side + 1;
    FILE *f = example_file(directory, name);
    if (!f) return false;
    for (int y = 0; y < SIDE_OF_SHEET * cell; y++) {
        for (int x = 0; x < SIDE_OF_SHEET * cell; x++) {
            const int64_t i = y / cell * SIDE_OF_SHEET + x / cell;
            const int row = y % cell, column = x % cell;
            const bool gap = row == side || column == side;
            fprintf(f, " %g", gap ? 0 : grey[i * p->d + row * side + column]);
        }
        fprintf(f, "\n");
    }
    return fclose(f) == 0;
}

typedef struct {
    const char *title, *file;
    double *grey; /* [JUDGED,d] */
} sheet;

static bool write_picture(const problem *p, const char *directory, int n, const sheet *sheets)
{
    FILE *f = example_file(directory, "diffusion_digits.gp");
    if (!f) return false;
    fprintf(f,
            "set terminal pngcairo size %d,440 font 'sans,12'\nset output 'diffusion_digits.png'\n"
            "set multiplot layout 1,%d\nset size square\nset yrange [*:*] reverse\nunset tics\n"
            "unset border\nunset key\nunset colorbox\nset palette gray negative\n",
            400 * n, n);
    for (int i = 0; i < n; i++)
        fprintf(f, "set title '%s'\nplot '%s' matrix with image\n", sheets[i].title,
                sheets[i].file);
    fclose(f);
    for (int i = 0; i < n; i++)
        if (!write_sheet(p, directory, sheets[i].file, sheets[i].grey)) return false;
    example_picture(directory, "diffusion_digits");
    return true;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* A mixture's bits per dimension on the held-out points, and samples of it. */
static bool baseline(problem *p, const char *what, int components, double *const points[2],
                     int64_t held, double *log_p, double *samples)
{
    const int64_t n = p->train.n < MOST_FITTED ? p->train.n : MOST_FITTED;
    const double shrink = 0.03;
    mixture m;
    bool fine = mixture_fit(&m, components, shrink, components > 1 ? 10 : 0, n, p->d, points[0],
                            components > 1 ? p->train.digit : NULL) &&
                mixture_log_density(&m, held, points[1], log_p);
    if (fine) {
        printf("  %-28s %.3f bits\n", what, bits_of(p, held, log_p));
        mixture_draw(&m, &p->rng, JUDGED, samples);
        quantise(p, JUDGED, samples);
    }
    mixture_clear(&m);
    return fine;
}

static bool compare(problem *p, int64_t held, const char *directory)
{
    enum { HELD_OUT, GUIDED, PLAIN, MIXTURE, GAUSSIAN, MIXED, SHEETS };
    sheet sheets[SHEETS] = { { "held-out digits", "digits_held_out.dat", NULL },
                             { "diffusion, guided", "digits_guided.dat", NULL },
                             { "diffusion", "digits_diffusion.dat", NULL },
                             { "ten Gaussians", "digits_mixture.dat", NULL },
                             { "a Gaussian", "digits_gaussian.dat", NULL },
                             { "pixels of different digits", "", NULL } };
    const int64_t n = p->train.n < MOST_FITTED ? p->train.n : MOST_FITTED;
    double *points[2] = { points_of(p, &p->train, n), points_of(p, &p->test, held) };
    double *log_p = malloc((size_t)held * sizeof *log_p);
    bool fine = points[0] && points[1] && log_p;
    for (int i = 0; i < SHEETS; i++) {
        sheets[i].grey = malloc((size_t)(JUDGED * p->d) * sizeof(double));
        fine = fine && sheets[i].grey;
    }
    if (!fine) example_failed("memory", NULL);
    if (fine) {
        printf("bits per dimension of %lld held-out digits:\n", (long long)held);
        fine = baseline(p, "a Gaussian", 1, points, held, log_p, sheets[GAUSSIAN].grey) &&
               baseline(p, "ten Gaussians", DIGITS, points, held, log_p, sheets[MIXTURE].grey) &&
               log_density(p, held, points[1], log_p);
    }
    if (fine) {
        printf("  %-28s %.3f bits\n", "diffusion", bits_of(p, held, log_p));
        fflush(stdout);
        fine = sample(p, &p->diffusion, JUDGED, sheets[PLAIN].grey) &&
               sample(p, &p->guided, JUDGED, sheets[GUIDED].grey);
    }
    if (fine) {
        mix_pixels(p, JUDGED, sheets[MIXED].grey);
        memcpy(sheets[HELD_OUT].grey, p->test.grey, (size_t)(JUDGED * p->d) * sizeof(double));
        printf(
            "share that a classifier calls a digit with more than 0.9, and its digits 0 to 9:\n");
        fine = judge(p, "held-out digits", p->test.n, p->test.grey, p->test.digit);
    }
    for (int i = GUIDED; fine && i < SHEETS; i++)
        fine = judge(p, sheets[i].title, JUDGED, sheets[i].grey, NULL);
    fine = fine && write_picture(p, directory, MIXED, sheets);
    for (int i = 0; i < SHEETS; i++) free(sheets[i].grey);
    free(points[0]);
    free(points[1]);
    free(log_p);
    return fine;
}

int main(int argc, char **argv)
{
    int64_t steps = 7000, batch = 256, width = 512, held = 500, seed = 1, threads = 0;
    double rate = 3e-3, decay = 0.1, guidance = 1;
    const char *data = NULL, *directory = "out", *weights = NULL;
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "directory of optdigits.tra and .tes (8x8), or of MNIST's files (28x28); else digits are "
          "drawn" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates by AdamW" },
        { "batch", EXAMPLE_INTEGER, &batch, "digits an update" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "decay", EXAMPLE_NUMBER, &decay, "of the weights" },
        { "width", EXAMPLE_INTEGER, &width, "of the two hidden layers" },
        { "guidance", EXAMPLE_NUMBER, &guidance, "of the guided samples" },
        { "held", EXAMPLE_INTEGER, &held, "held-out digits whose density is computed" },
        { "seed", EXAMPLE_INTEGER, &seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "quick", EXAMPLE_FLAG, &quick, "a small network, trained for seconds" },
        { "weights", EXAMPLE_TEXT, &weights, "save the network to this .safetensors file" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the sheets" },
        { 0 }
    };
    int done =
        example_options(argc, argv, "Learns handwritten digits with a diffusion model.", options);
    if (done) return done - 1;
    if (!example_directory(directory)) return 1;
    if (quick) {
        steps = 800;
        width = 96;
        held = 50;
    }
    problem p = { .rng = ad_rng_seed((uint64_t)seed) };
    char error[512];
    bool fine = data ? digits_read(data, &p.train, &p.test)
                     : digits_draw(&p.rng, quick ? 2000 : 20000, 4, &p.train) &&
                           digits_draw(&p.rng, 2000, 4, &p.test);
    if (!data) printf("data: a stand-in, digits drawn by this program (--data reads real ones)\n");
    if (fine && (p.test.n < JUDGED || held < 1 || held > p.test.n)) {
        example_failed("data", "a thousand held-out digits, and not fewer than --held, are needed");
        fine = false;
    }
    fine = fine && measure(&p);
    if (!fine) return 1;
    printf("%lld digits of %dx%d pixels with %d greys for training, %lld held out\n",
           (long long)p.train.n, p.train.side, p.train.side, p.train.levels, (long long)p.test.n);
    fflush(stdout);
    build(&p, width, guidance);
    nn_train_options train_options = { .processes = example_processes(),
                                       .batch = batch,
                                       .steps = steps,
                                       .optimizer = { .algorithm = &nn_adamw,
                                                      .rate = rate,
                                                      .weight_decay = decay,
                                                      .clip_norm = 1,
                                                      .schedule = nn_schedule_cosine },
                                       .seed = (uint64_t)seed,
                                       .threads = (int)threads,
                                       .label = "training" };
    fine = train(&p, train_options) && train_judge(&p, (steps + 1) / 2, (int)threads);
    if (fine && weights && nn_save(weights, p.weights, error, sizeof error)) {
        example_failed("weights", error);
        fine = false;
    }
    fine = fine && compare(&p, held, directory);
    nn_theta_free(p.weights);
    nn_theta_free(p.judge_weights);
    nn_model_free(p.model);
    nn_model_free(p.judge_model);
    digits_clear(&p.train);
    digits_clear(&p.test);
    free(p.centre);
    free(p.scale);
    return fine ? 0 : 1;
}
