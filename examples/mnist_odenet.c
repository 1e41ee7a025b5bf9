/* Handwritten digits by an ODE-Net and by its twin, a residual network (Chen et al. 2018,
 * arXiv:1806.07366, section 3 and table 1).
 *
 * Both make an image [rows,S,S,1] a state [rows,s,s,64] by two convolutions with a stride of 2, and
 * read the class off the mean over the s x s places of what comes out of the middle:
 *
 *   ResNet      six blocks h <- h + G_k(h), each with weights of its own
 *   ODE-Net     dh/dt = F(h, t; w) from t = 0 to 1
 *
 * F and G_k are two convolutions 3x3 between group norms (Wu & He 2018, arXiv:1803.08494). In F the
 * time is one more channel of what is convolved; since that channel has the same value everywhere,
 * its share of the result is t times the convolution of ones, which depends on weights alone and is
 * computed once a solve.
 *
 * The solver chooses how many evaluations of F a batch needs. The program shows what the paper's
 * figure 3 shows: this number as training goes on, what it does to the error of the solution, and
 * what the gradient takes by the discrete adjoint and by solving back in time. Most of the training
 * takes one step of the classical Runge-Kutta method for the whole solve, which is four
 * evaluations; the last epochs have steps that the solver chooses, as all tests have.
 *
 * Each update sees every digit anew: moved, turned, slanted and scaled a little. The weights that
 * are used are an average over the last updates. The plain baseline is a linear classifier. */
#include "costate.h"
#include "digits.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCKS = 6, COMPARED = 64 };

typedef struct {
    nn_norm first, second;
    nn_conv one, two;
} block;

typedef enum { LINEAR, RES_NET, ODE_NET, KINDS } kind;
static const char *const names[KINDS] = { "linear", "ResNet", "ODE-Net" };

typedef struct {
    kind kind;
    const digit_set *digits;
    int64_t channels; /* of the state; half as many after the first convolution */
    nn_model *model;
    nn_conv down[2];
    nn_norm between, last;
    block res[BLOCKS], ode;
    nn_conv time[2]; /* of the channel that the time is */
    nn_norm out;     /* of F */
    nn_linear linear;
} network;

/* A network, and how it is used. */
typedef struct {
    const network *net;
    double smoothing; /* of the labels */
    ode_options solver;
} use;

/* ---- the networks ---------------------------------------------------------------------------- */

/* Groups of two channels, as in the paper's program. */
static nn_norm norm_new(nn_model *model, const char *name, int64_t channels)
{
    return nn_group_norm_new(model, name, channels, channels / 2, NULL);
}

static nn_conv conv_new(nn_model *model, const char *name, int64_t in, int64_t out, bool unbiased)
{
    const nn_conv_options same = { .sweep = { .before = { 1, 1 }, .after = { 1, 1 } },
                                   .unbiased = unbiased };
    return nn_conv2d_new(model, name, in, out, 3, 3, &same);
}

static block block_new(nn_model *model, const char *name, int64_t channels, bool unbiased)
{
    char part[4][64];
    static const char *const parts[4] = { "norm1", "conv1", "norm2", "conv2" };
    for (int i = 0; i < 4; i++) snprintf(part[i], sizeof part[i], "%s.%s", name, parts[i]);
    return (block){ .first = norm_new(model, part[0], channels),
                    .one = conv_new(model, part[1], channels, channels, unbiased),
                    .second = norm_new(model, part[2], channels),
                    .two = conv_new(model, part[3], channels, channels, unbiased) };
}

static void build(network *n)
{
    const nn_conv_options stride = { .sweep = { .stride = { 2, 2 } } };
    nn_model *m = n->model = nn_model_new();
    const int64_t c = n->channels;
    if (n->kind == LINEAR) {
        n->linear = nn_linear_new(m, "linear", n->digits->pixels, DIGITS, NULL);
        return;
    }
    n->down[0] = nn_conv2d_new(m, "down1", 1, c / 2, 4, 4, &stride);
    n->between = norm_new(m, "norm1", c / 2);
    n->down[1] = nn_conv2d_new(m, "down2", c / 2, c, 3, 3, &stride);
    for (int i = 0; n->kind == RES_NET && i < BLOCKS; i++) {
        char name[32];
        snprintf(name, sizeof name, "block%d", i);
        n->res[i] = block_new(m, name, c, true);
    }
    if (n->kind == ODE_NET) {
        n->ode = block_new(m, "field", c, false);
        n->time[0] = conv_new(m, "field.time1", 1, c, true);
        n->time[1] = conv_new(m, "field.time2", 1, c, true);
        n->out = norm_new(m, "field.norm3", c);
    }
    n->last = norm_new(m, "norm2", c);
    n->linear = nn_linear_new(m, "linear", c, DIGITS, NULL);
}

/* t times what ones become: [1,s,s,channels]. */
static ad_var of_time(const nn_conv *c, ad_var theta, ad_var t, ad_shape state)
{
    ad_var ones = ad_fill(theta.tape, AD_SHAPE(state.dim[1], state.dim[2], 1), 1);
    return ad_mul(t, nn_conv_apply(c, theta, ones));
}

/* args[0] is theta. */
static ad_var field(ad_var t, ad_var h, const ad_var *args, void *user)
{
    const network *n = user;
    const block *b = &n->ode;
    ad_var theta = args[0];
    ad_var x = ad_relu(nn_norm_apply(&b->first, theta, h));
    x = ad_add(nn_conv_apply(&b->one, theta, x), of_time(&n->time[0], theta, t, ad_shape_of(h)));
    x = ad_relu(nn_norm_apply(&b->second, theta, x));
    x = ad_add(nn_conv_apply(&b->two, theta, x), of_time(&n->time[1], theta, t, ad_shape_of(h)));
    return nn_norm_apply(&n->out, theta, x);
}

static ad_var residual(const block *b, ad_var theta, ad_var h)
{
    ad_var x = nn_conv_apply(&b->one, theta, ad_relu(nn_norm_apply(&b->first, theta, h)));
    return ad_add(h, nn_conv_apply(&b->two, theta, ad_relu(nn_norm_apply(&b->second, theta, x))));
}

/* The state [rows,s,s,channels] that the middle begins with; grey [rows,pixels], 0 .. levels - 1.
 */
static ad_var state(const network *n, ad_var theta, ad_var grey)
{
    const int side = n->digits->side;
    ad_var x = ad_scale(grey, 1.0 / (n->digits->levels - 1));
    x = nn_conv_apply(&n->down[0], theta, ad_reshape(x, AD_SHAPE(AD_ROWS, side, side, 1)));
    return nn_conv_apply(&n->down[1], theta, ad_relu(nn_norm_apply(&n->between, theta, x)));
}

static ad_var solve(const network *n, ad_var theta, ad_var h, const ode_options *solver)
{
    return ode_solve_final(field, (void *)n, h, AD_VARS(theta), ode_interval(theta.tape, 0, 1),
                           solver);
}

static ad_var logits(const use *u, ad_var theta, ad_var grey)
{
    const network *n = u->net;
    if (n->kind == LINEAR)
        return nn_linear_apply(&n->linear, theta, ad_scale(grey, 1.0 / (n->digits->levels - 1)));
    ad_var h = state(n, theta, grey);
    for (int i = 0; n->kind == RES_NET && i < BLOCKS; i++) h = residual(&n->res[i], theta, h);
    if (n->kind == ODE_NET) h = solve(n, theta, h, &u->solver);
    h = ad_mean(ad_relu(nn_norm_apply(&n->last, theta, h)), 2, (int[]){ 1, 2 }, false);
    return nn_linear_apply(&n->linear, theta, h);
}

/* ---- training -------------------------------------------------------------------------------- */

/* batch: classes, greys. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const use *u = user;
    (void)tape;
    return nn_cross_entropy(logits(u, theta, batch[1]),
                            nn_smooth_classes(batch[0], DIGITS, u->smoothing));
}

/* The share of digits that are taken for another. */
static void record_error(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out, void *user)
{
    (void)tape;
    ad_var said = ad_argmax(logits(user, theta, batch[1]), 1, true);
    out[0] = ad_mean_all(ad_ne(said, batch[0]));
}

typedef struct {
    const digit_set *digits;
    double bend; /* how much they are moved */
} source;

static int draw(const nn_step *step, double *const *out, void *user)
{
    const source *s = user;
    const int64_t n = s->digits->pixels;
    for (int64_t i = 0; i < step->rows; i++) {
        const double *grey = s->digits->grey + step->examples[i] * n;
        double *to = out[1] + i * n;
        if (step->part == NN_TRAINING) digits_bend(s->digits, step->rng, s->bend, grey, to);
        else memcpy(to, grey, (size_t)n * sizeof *grey);
    }
    return 0;
}

typedef struct {
    int64_t epochs, adaptive, batch, seed, threads, timed;
    double rate, bend, tolerance, until;
} settings;

typedef struct {
    double error, seconds, processor; /* seconds of an epoch; of the processors */
    int64_t parameters;
} outcome;

static double processor_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* Trains the network and looks at the digits for testing, which choose nothing, after each epoch:
 * epoch, loss, error, evaluations of F in a solve at 1e-3, and in training. */
static bool learn(const network *n, const settings *s, int64_t ntrain, nn_theta *theta,
                  FILE *history, outcome *o)
{
    const digit_set *d = n->digits;
    const int64_t epoch = (ntrain + s->batch - 1) / s->batch;
    const int64_t adaptive = n->kind == ODE_NET ? s->adaptive : 0;
    ode_stats stats = { 0 }, exact_stats = { 0 };
    use rough = { n, 0.1, { .method = &ode_rk4, .steps = 1, .stats = &stats } };
    use fine = { n, 0.1, { .rtol = s->tolerance, .atol = s->tolerance, .stats = &stats } };
    use exact = { n, 0, { .rtol = 1e-3, .atol = 1e-3, .stats = &exact_stats } };
    source from = { d, n->kind == LINEAR ? 0 : s->bend };
    unsigned char *part = malloc((size_t)d->n);
    for (int64_t i = 0; part && i < d->n; i++) part[i] = i < ntrain ? NN_TRAINING : NN_VALIDATION;
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), d->digit),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, d->pixels)) };
    const nn_stage stages[] = { { .steps = (s->epochs - adaptive) * epoch, .user = &rough },
                                { .steps = adaptive * epoch, .user = &fine } };
    const nn_metric wrong = { "error", NN_MEAN, false };
    const nn_train_options options = {
        .processes = example_processes(),
        .loss = loss,
        .user = &from,
        .narray = 2,
        .arrays = arrays,
        .examples = d->n,
        .split = { .part = part },
        .draw = draw,
        .worker = true,
        .batch = s->batch,
        .nstage = adaptive ? 2 : 1,
        .stages = stages,
        .optimizer = { .algorithm = &nn_adamw, .rate = s->rate, .schedule = nn_schedule_one_cycle },
        .seed = (uint64_t)s->seed,
        .threads = (int)s->threads,
        .average = 0.998,
        .validation = { .every = epoch,
                        .batch = 500,
                        .user = &exact,
                        .nmetric = 1,
                        .metrics = &wrong,
                        .record = record_error,
                        .keep_last = true },
        .label = names[n->kind]
    };
    const double start = processor_seconds();
    double sum = 0, evaluations = 0;
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    const nn_train_report *report = nn_trainer_report(trainer);
    int result;
    while ((result = nn_trainer_step(trainer)) > 0) {
        sum += report->last_loss / (double)epoch;
        evaluations += (double)stats.evaluations / (double)epoch;
        if (report->steps % epoch) continue;
        fprintf(history, "%lld %.6g %.6g %lld %.3g\n", (long long)(report->steps / epoch), sum,
                100 * report->validation.metrics[0], (long long)exact_stats.evaluations,
                evaluations);
        fflush(history);
        sum = evaluations = 0;
    }
    if (result) example_failed("training", nn_trainer_error(trainer));
    else
        *o = (outcome){ .error = report->validation.metrics[0],
                        .seconds = report->seconds / (double)s->epochs,
                        .processor = (processor_seconds() - start) / (double)s->epochs,
                        .parameters = nn_model_parameters(n->model) };
    nn_trainer_free(trainer);
    free(part);
    ode_stats_clear(&stats);
    ode_stats_clear(&exact_stats);
    return result == 0;
}

/* Plain training at the tolerance: times so many updates, after some that are not timed, or trains
 * until so few of the digits for testing are taken for another as s->until says, in per cent. Those
 * choose when it ends, nothing else; tests are not timed. */
static bool time_updates(const network *n, const settings *s, int64_t ntrain, nn_theta *theta)
{
    enum { BEFORE = 3, EVERY = 100, MOST = 100000 };
    ode_stats stats = { 0 };
    use fine = { n, 0, { .rtol = s->tolerance, .atol = s->tolerance, .stats = &stats } };
    source from = { n->digits, s->bend };
    const bool race = s->until > 0;
    unsigned char *part = malloc((size_t)n->digits->n);
    for (int64_t i = 0; part && i < n->digits->n; i++)
        part[i] = i < ntrain ? NN_TRAINING : NN_VALIDATION;
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), n->digits->digit),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, n->digits->pixels)) };
    const nn_stage stage = { .steps = race ? MOST : s->timed + BEFORE, .user = &fine };
    const nn_metric wrong = { "error", NN_MEAN, false };
    nn_train_options options = { .loss = loss,
                                 .user = &from,
                                 .narray = 2,
                                 .arrays = arrays,
                                 .examples = ntrain,
                                 .draw = draw,
                                 .worker = true,
                                 .batch = s->batch,
                                 .nstage = 1,
                                 .stages = &stage,
                                 .optimizer = { .rate = 1e-3 },
                                 .seed = (uint64_t)s->seed,
                                 .threads = (int)s->threads,
                                 .check_gradient = -1 };
    if (race) {
        options.examples = n->digits->n;
        options.split.part = part;
        options.validation = (nn_validation){ .every = EVERY,
                                              .batch = 500,
                                              .user = &fine,
                                              .nmetric = 1,
                                              .metrics = &wrong,
                                              .record = record_error,
                                              .keep_last = true };
    }
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    const nn_train_report *report = nn_trainer_report(trainer);
    double seconds = 0, processor = 0, evaluations = 0, back = 0;
    int64_t timed = 0;
    int result;
    do {
        const double began = report->seconds, then = processor_seconds();
        const int64_t validations = report->validations;
        result = nn_trainer_step(trainer);
        if (result <= 0 || report->steps <= BEFORE) continue;
        if (report->validations == validations) {
            seconds += report->seconds - began;
            processor += processor_seconds() - then;
            evaluations += (double)stats.evaluations;
            back += (double)(stats.backward_evaluations + stats.vjps);
            timed++;
        } else if (race) {
            const double share = (double)report->steps / (double)timed;
            printf("%lld updates: test error %.2f %%, %.1f s, %.1f s of the processors\n",
                   (long long)report->steps, 100 * report->validation.metrics[0], seconds * share,
                   processor * share);
            fflush(stdout);
            if (100 * report->validation.metrics[0] <= s->until) break;
        }
    } while (result > 0);
    if (result < 0) example_failed("training", nn_trainer_error(trainer));
    else
        printf("an update: %.1f ms, %.1f ms of the processors, %.1f evaluations, %.1f back\n",
               1e3 * seconds / (double)timed, 1e3 * processor / (double)timed,
               evaluations / (double)timed, back / (double)timed);
    nn_trainer_free(trainer);
    free(part);
    ode_stats_clear(&stats);
    return result >= 0;
}

/* ---- what the solver and the adjoints do ----------------------------------------------------- */

/* Of the first digits: the final state and the gradient at a tolerance. */
typedef struct {
    double *state, *gradient; /* borrowed; state NULL: not wanted */
    ode_stats stats;
    char error[512];
} solved;

static bool solve_at(const network *n, const nn_theta *theta, const ode_adjoint *adjoint,
                     double tolerance, solved *to)
{
    const digit_set *d = n->digits;
    ad_tape *tape = ad_tape_new(AD_F64);
    use u = { n, 0, { .adjoint = adjoint, .rtol = tolerance, .atol = tolerance } };
    u.solver.stats = &to->stats;
    ad_var w = nn_theta_param(tape, theta), g;
    ad_var grey = ad_input_rows(tape, AD_SHAPE(AD_ROWS, d->pixels), COMPARED, d->grey),
           digit = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), COMPARED, d->digit);
    ad_var value = nn_cross_entropy(logits(&u, w, grey), digit);
    ad_grad(value, AD_VARS(w), &g);
    bool fine = ad_get(g, to->gradient) == 0;
    if (fine && to->state) fine = ad_get(solve(n, w, state(n, w, grey), &u.solver), to->state) == 0;
    if (!fine) snprintf(to->error, sizeof to->error, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

static double distance(int64_t n, const double *a, const double *b)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(difference / norm);
}

/* A line a tolerance: error of the state, evaluations forwards, what the adjoints take back, and
 * the memory of the discrete one. Solving back loses its way where the tolerance is too loose. */
static bool compare(const network *n, const nn_theta *theta, int64_t size, FILE *f)
{
    static const double tolerance[] = { 1e-1, 1e-2, 1e-3, 1e-4, 1e-5 };
    const int64_t weights = nn_theta_size(theta), all = size * COMPARED;
    double *numbers = malloc((size_t)(2 * all + 2 * weights) * sizeof *numbers);
    if (!numbers) return !example_failed("memory", NULL);
    solved exact = { numbers, numbers + 2 * all, { 0 }, "" };
    bool fine = solve_at(n, theta, &ode_discrete, 1e-7, &exact);
    if (!fine) example_failed("solve", exact.error);
    printf("solutions and gradients of %d digits, in double precision, beside those at 1e-7\n"
           "             state                  discrete adjoint             backsolve\n"
           "  tolerance  error     evaluations  error     back     kept      error     back\n",
           COMPARED);
    for (int i = 0; fine && i < 5; i++) {
        solved a = { numbers + all, numbers + 2 * all + weights, { 0 }, "" };
        fine = solve_at(n, theta, &ode_discrete, tolerance[i], &a);
        if (!fine) example_failed("solve", a.error);
        solved b = { NULL, a.gradient, { 0 }, "" };
        const double state_error = distance(all, a.state, exact.state),
                     discrete_error = distance(weights, a.gradient, exact.gradient);
        const bool back = solve_at(n, theta, &ode_backsolve, tolerance[i], &b);
        const int64_t taken = a.stats.evaluations,
                      products = a.stats.backward_evaluations + a.stats.vjps,
                      solved_back = b.stats.backward_evaluations + b.stats.vjps;
        printf("  %9.0e  %8.1e  %11lld  %8.1e  %4lld  %5.1f MB  ", tolerance[i], state_error,
               (long long)taken, discrete_error, (long long)products,
               (double)a.stats.stored_bytes / 1048576);
        if (back)
            printf("%8.1e  %7lld\n", distance(weights, b.gradient, exact.gradient),
                   (long long)solved_back);
        else printf("    lost\n");
        fprintf(f, "%g %g %lld %lld ", tolerance[i], state_error, (long long)taken,
                (long long)products);
        if (back) fprintf(f, "%lld\n", (long long)solved_back);
        else fprintf(f, "nan\n");
        ode_stats_clear(&a.stats);
        ode_stats_clear(&b.stats);
    }
    ode_stats_clear(&exact.stats);
    free(numbers);
    return fine;
}

/* ---- output ---------------------------------------------------------------------------------- */

static void write_picture(const char *directory)
{
    FILE *f = example_file(directory, "mnist_odenet.gp");
    if (!f) return;
    fputs("set terminal pngcairo size 1000,760 font 'sans,11'\nset output 'mnist_odenet.png'\n"
          "set multiplot layout 2,2\nset tics scale 0.5\nset xlabel 'epoch'\n"
          "set title 'test error, %'\nset logscale y\n"
          "plot 'mnist_odenet_ODE-Net.dat' using 1:3 with linespoints pt 7 lc rgb '#884422' title "
          "'ODE-Net', 'mnist_odenet_ResNet.dat' using 1:3 with linespoints pt 5 lc rgb '#446688' "
          "title 'ResNet'\n"
          "unset logscale\nset yrange [0:*]\nset key left center\n"
          "set title 'evaluations of F in a solve'\n"
          "plot 'mnist_odenet_ODE-Net.dat' using 1:4 with linespoints pt 7 lc rgb '#884422' title "
          "'testing, at 1e-3', '' using 1:5 with linespoints pt 5 lc rgb '#446688' title "
          "'training'\n"
          "set xlabel 'evaluations of F in a solve'\nset xrange [0:*]\nset yrange [*:*]\n"
          "set logscale y\nset format y '10^{%L}'\nunset key\n"
          "set title 'relative error of the solution, at 1e-1 to 1e-5'\n"
          "plot 'mnist_odenet_solves.dat' using 3:2 with linespoints pt 7 lc rgb '#884422'\n"
          "unset logscale\nunset format\nset key top left\nset yrange [0:*]\n"
          "set title 'evaluations and products for the gradient'\n"
          "plot 'mnist_odenet_solves.dat' using 3:4 with linespoints pt 7 lc rgb '#884422' title "
          "'discrete adjoint', '' using 3:5 with linespoints pt 5 lc rgb '#446688' title "
          "'solving back'\n",
          f);
    fclose(f);
    example_picture(directory, "mnist_odenet");
}

/* The digits of both sets in one, the first one's first. */
static bool join(digit_set *all, digit_set *more)
{
    const size_t n = (size_t)all->n, m = (size_t)more->n, pixels = (size_t)all->pixels;
    double *grey = realloc(all->grey, (n + m) * pixels * sizeof *grey);
    if (grey) all->grey = grey;
    double *digit = realloc(all->digit, (n + m) * sizeof *digit);
    if (digit) all->digit = digit;
    if (!grey || !digit || more->pixels != all->pixels) return false;
    memcpy(grey + n * pixels, more->grey, m * pixels * sizeof *grey);
    memcpy(digit + n, more->digit, m * sizeof *digit);
    all->n += more->n;
    digits_clear(more);
    return true;
}

/* Trains one of the networks; of the ODE-Net, what its solver does then. */
static bool study(kind which, const digit_set *digits, int64_t ntrain, int64_t channels,
                  const settings *s, const char *directory, outcome *o)
{
    network n = { .kind = which, .digits = digits, .channels = channels };
    char file[64], error[512];
    ad_rng rng = ad_rng_seed((uint64_t)s->seed);
    build(&n);
    if (nn_model_error(n.model)) return !example_failed("model", nn_model_error(n.model));
    nn_theta *theta = nn_theta_new(n.model, AD_F32, &rng);
    snprintf(file, sizeof file, "mnist_odenet_%s.dat", names[which]);
    if (s->timed > 0 || s->until > 0) {
        const bool timed = time_updates(&n, s, ntrain, theta);
        nn_theta_free(theta);
        nn_model_free(n.model);
        return timed;
    }
    FILE *history = example_file(directory, file);
    bool fine = history && learn(&n, s, ntrain, theta, history, o);
    if (history) fclose(history);
    if (fine && which == ODE_NET) {
        FILE *f = example_file(directory, "mnist_odenet_solves.dat");
        const int64_t side = ((digits->side - 4) / 2 + 1 - 3) / 2 + 1;
        fine = f && compare(&n, theta, side * side * channels, f);
        if (f) fclose(f);
    }
    snprintf(file, sizeof file, "mnist_odenet_%s.safetensors", names[which]);
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    if (fine && nn_save(path, theta, error, sizeof error)) fine = !example_failed("weights", error);
    nn_theta_free(theta);
    nn_model_free(n.model);
    return fine;
}

int main(int argc, char **argv)
{
    settings s = {
        .epochs = 6, .adaptive = 1, .seed = 1, .rate = 3e-3, .bend = 0.7, .tolerance = 1e-2
    };
    int64_t channels = 64;
    const char *data = NULL, *directory = "out", *only = NULL;
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "folder that has MNIST's files in mnist; else digits are drawn" },
        { "only", EXAMPLE_TEXT, &only, "one of linear, ResNet, ODE-Net; else all" },
        { "epochs", EXAMPLE_INTEGER, &s.epochs, "passes over the digits for training" },
        { "adaptive", EXAMPLE_INTEGER, &s.adaptive,
          "the last so many of them with steps that the solver chooses; before, one step of rk4" },
        { "tolerance", EXAMPLE_NUMBER, &s.tolerance, "of the solver in these epochs" },
        { "batch", EXAMPLE_INTEGER, &s.batch,
          "digits an update; 0: 128 of MNIST, 32 of the stand-in" },
        { "channels", EXAMPLE_INTEGER, &channels, "of the state, a multiple of 4" },
        { "rate", EXAMPLE_NUMBER, &s.rate, "largest learning rate, of one cycle" },
        { "bend", EXAMPLE_NUMBER, &s.bend, "how much digits are moved in training; 0: not at all" },
        { "seed", EXAMPLE_INTEGER, &s.seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &s.threads, "0: all cores" },
        { "time", EXAMPLE_INTEGER, &s.timed, "only times so many updates of the ODE-Net" },
        { "until", EXAMPLE_NUMBER, &s.until,
          "only times updates until so many per cent of the digits for testing are wrong" },
        { "quick", EXAMPLE_FLAG, &quick, "small networks, trained for seconds" },
        { "out", EXAMPLE_TEXT, &directory,
          "directory of the picture, the weights and the numbers" },
        { 0 }
    };
    int done =
        example_options(argc, argv, "Classifies handwritten digits with an ODE-Net.", options);
    if (done) return done - 1;
    if (quick) {
        s.epochs = 8;
        s.adaptive = 2;
        channels = 16;
    }
    if (s.batch == 0) s.batch = data ? 128 : 32;
    if (s.epochs < 1 || s.batch < 1 || s.adaptive < 0 || s.adaptive >= s.epochs)
        return example_failed("--epochs, --adaptive", "at least one epoch is of fixed steps");
    if (channels < 4 || channels % 4) return example_failed("--channels", "is a multiple of 4");
    if (!example_directory(directory)) return 1;
    digit_set digits = { 0 }, test = { 0 };
    char folder[4096];
    ad_rng rng = ad_rng_seed((uint64_t)s.seed);
    snprintf(folder, sizeof folder, "%s/mnist", data ? data : "");
    if (!(data ? digits_read(folder, &digits, &test)
               : digits_draw(&rng, 3000, 2, &digits) && digits_draw(&rng, 1000, 2, &test)))
        return 1;
    if (!data) printf("data: a stand-in, digits drawn by this program (--data reads MNIST)\n");
    const int64_t ntrain = digits.n, ntest = test.n;
    if (!join(&digits, &test)) return example_failed("memory", NULL);
    if (ntrain < COMPARED) return example_failed("data", "there are too few digits");
    printf("%lld digits for training, %lld for testing, %dx%d pixels; %lld epochs\n",
           (long long)ntrain, (long long)ntest, digits.side, digits.side, (long long)s.epochs);
    fflush(stdout);
    if (s.timed > 0 || s.until > 0)
        return study(ODE_NET, &digits, ntrain, channels, &s, directory, NULL) ? 0 : 1;
    outcome results[KINDS] = { { 0 } };
    for (int k = 0; k < KINDS; k++) {
        if (only && strcmp(only, names[k])) continue;
        if (!study((kind)k, &digits, ntrain, channels, &s, directory, &results[k])) return 1;
        printf("%-8s test error %5.2f %%, %7lld parameters, %6.1f s an epoch (%.1f of the "
               "processors)\n",
               names[k], 100 * results[k].error, (long long)results[k].parameters,
               results[k].seconds, results[k].processor);
        fflush(stdout);
    }
    if (!only) write_picture(directory);
    digits_clear(&digits);
    return 0;
}
