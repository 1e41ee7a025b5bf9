/* A latent ODE (Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, section 5): the
 * future of noisy, irregular time series.
 *
 * Spirals turn clockwise or counter-clockwise. Each is looked at 30, 50 or 100 times with errors of
 * size 0.3, at times of its own. A series is explained by a start z0 in a latent space:
 *
 *     q(z0 | seen) = N(mean, sd^2)      by a GRU that reads what is seen backwards in time
 *     dz/dt = f(z)                      by a network; the same for all series
 *     x(t_i) ~ N(g(z(t_i)), 0.3^2)      by a network
 *
 * Training maximises E log p(seen | z0) - KL(q(z0 | seen) || N(0, 1)). The field knows nothing of
 * the time, so solving on forecasts what comes next: the error is measured at 100 times beyond the
 * 100 among which the series was seen, of other spirals than those of the training.
 *
 * Beside it: a GRU that is told the time to the next observation, predicts it, and then feeds on
 * its own predictions; and the limit that noise sets to anybody: least squares over all places of
 * the two true curves. */
#include "costate.h"
#include "example.h"
#include "latent.h"
#include "spirals.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { GRID = SPIRAL_GRID, ALL = SPIRAL_ALL, TRAIN = 1000, TEST = 1000, SHOWN = 4 };

static int draw(const nn_step *step, double *const *out, void *user)
{
    latent_ode_draw(user, step, out[3]);
    return 0;
}

/* ---- a recurrent network ----------------------------------------------------------------------
 */

typedef struct {
    nn_model *model;
    nn_recurrent cell;
    nn_linear out;
} rnn;

static void rnn_new(rnn *m, int64_t units)
{
    m->model = nn_model_new();
    m->cell = nn_gru_new(m->model, "cell", 3, units);
    m->out = nn_linear_new(m->model, "out", units, 2, NULL);
}

/* x, y, time to the next observation, of a sequence [rows,seen,4]. */
static ad_var rnn_inputs(ad_var sequence)
{
    return ad_gather(sequence, 2, 3, (int64_t[]){ 0, 1, 3 });
}

/* Each observation is predicted from those before it. */
static ad_var rnn_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const rnn *m = user;
    const int64_t seen = ad_shape_of(batch[0]).dim[1];
    ad_var states, x = rnn_inputs(ad_slice(batch[0], 1, 0, seen - 1));
    nn_recurrent_apply(&m->cell, theta, x, NULL, NULL, NULL, &states);
    ad_var next = ad_slice(ad_slice(batch[0], 1, 1, seen), 2, 0, 2);
    return nn_gaussian_nll(next, nn_linear_apply(&m->out, theta, states),
                           ad_scalar(tape, log(spiral_noise)));
}

/* Predictions become observations. Carries: x, h. */
static void rnn_step(const ad_scan_step *at, void *user)
{
    const rnn *m = user;
    ad_var gap = ad_scale(ad_ones_like(ad_slice(at->carry[0], 1, 0, 1)), spiral_time(1));
    ad_var in = ad_concatenate(AD_VARS(at->carry[0], gap), 1);
    nn_recurrent_cell(&m->cell, at->arg[0], in, &at->carry[1], &at->next[1]);
    at->next[0] = nn_linear_apply(&m->out, at->arg[0], at->next[1]);
    at->output[0] = at->carry[0];
}

/* x at the times beyond the grid, [rows,GRID,2]. */
static ad_var rnn_forecast(const rnn *m, ad_var theta, ad_var sequence)
{
    ad_var carry[2], last[2], x;
    nn_recurrent_apply(&m->cell, theta, rnn_inputs(sequence), NULL, NULL, &carry[1], NULL);
    carry[0] = nn_linear_apply(&m->out, theta, carry[1]);
    ad_recurrence recurrence = { .step = rnn_step,
                                 .user = (void *)m,
                                 .steps = GRID,
                                 .ncarry = 2,
                                 .carry = carry,
                                 .narg = 1,
                                 .arg = &theta,
                                 .noutput = 1 };
    ad_scan(&recurrence, last, &x);
    return x;
}

/* ---- one experiment -------------------------------------------------------------------------- */

typedef struct {
    int64_t steps, batch, seed;
    double rate;
    int threads;
} training;

static nn_train_options train_options(const training *t, nn_loss loss, void *user)
{
    return (nn_train_options){
        .loss = loss,
        .user = user,
        .batch = t->batch,
        .steps = t->steps,
        .optimizer = { .rate = t->rate, .schedule = nn_schedule_cosine, .clip_norm = 1 },
        .seed = (uint64_t)t->seed,
        .threads = t->threads
    };
}

static bool train(nn_theta *theta, nn_train_options options, const spirals *s, const char *label)
{
    const latent_ode *m = options.loss == latent_ode_loss ? options.user : NULL;
    const nn_array arrays[] = {
        nn_array_of(AD_SHAPE(AD_ROWS, s->seen, 4), s->sequence),
        nn_array_of(AD_SHAPE(AD_ROWS, GRID, 2), s->grid),
        nn_array_of(AD_SHAPE(AD_ROWS, GRID, 1), s->mask),
        nn_array_drawn(AD_SHAPE(AD_ROWS, m ? m->latent : 1)),
    };
    options.processes = example_processes();
    options.arrays = arrays;
    options.narray = m ? 4 : 1;
    options.draw = m ? draw : NULL;
    options.examples = s->count;
    options.average = 0.995;
    options.label = label;
    char error[512];
    nn_train_report report;
    if (nn_train(theta, &options, &report, error, sizeof error))
        return !example_failed(label, error);
    printf("%s: %lld parameters, %lld updates in %.1f s\n", label,
           (long long)nn_model_parameters(nn_theta_model(theta)), (long long)report.steps,
           report.seconds);
    fflush(stdout);
    return true;
}

/* The forecasts of all spirals: x [count,ALL,2] by the latent ODE, from the means of q(z0 | seen);
 * by the recurrent network beyond the grid, y [count,GRID,2]. */
static bool forecast(const latent_ode *m, const nn_theta *theta, const rnn *r,
                     const nn_theta *theta_rnn, const spirals *s, double *x, double *y)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var w = nn_theta_param(tape, theta), v = nn_theta_param(tape, theta_rnn), code[2];
    ad_var seen = ad_input_rows(tape, AD_SHAPE(AD_ROWS, s->seen, 4), s->count, s->sequence);
    latent_ode_encode(m, w, seen, code);
    const bool fine =
        !ad_get(latent_ode_decode(m, w, code[0], ALL), x) && !ad_get(rnn_forecast(r, v, seen), y);
    if (!fine) example_failed("forecast", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* Forecasts of SHOWN spirals, a block each: the time, truth, what is seen, latent ODE, recurrent
 * network; then the errors at each time. */
static bool write_results(const char *directory, const spirals *s, const double *x, const double *y,
                          const spiral_errors *e)
{
    FILE *f = example_file(directory, "latent_ode.dat");
    if (!f) return false;
    for (int64_t i = 0; i < SHOWN; i++) {
        for (int64_t k = 0; k < ALL; k++) {
            const int64_t at = 2 * (i * ALL + k), beyond = 2 * ((i - 1) * GRID + k);
            const bool seen = k < GRID && s->mask[i * GRID + k] > 0;
            fprintf(f, "%.4f %.4f %.4f", spiral_time(k), s->truth[at], s->truth[at + 1]);
            fprintf(f, " %.4f %.4f", seen ? s->noisy[at] : NAN, seen ? s->noisy[at + 1] : NAN);
            fprintf(f, " %.4f %.4f", x[at], x[at + 1]);
            fprintf(f, " %.4f %.4f\n", k < GRID ? NAN : y[beyond], k < GRID ? NAN : y[beyond + 1]);
        }
        fprintf(f, "\n\n");
    }
    for (int64_t k = 0; k < ALL; k++)
        fprintf(f, "%.4f %.4f %.4f %.4f\n", spiral_time(k), sqrt(e[0].clean[k]),
                k < GRID ? NAN : sqrt(e[1].clean[k]), sqrt(e[2].clean[k]));
    fclose(f);
    f = example_file(directory, "latent_ode.gp");
    if (!f) return false;
    fputs("set terminal pngcairo size 1200,480 font 'sans,11'\nset output 'latent_ode.png'\n"
          "set datafile missing 'nan'\nset multiplot layout 1,2\nset grid lc rgb '#eeeeee'\n"
          "set title 'four spirals'\nset key outside bottom center horizontal\nset size ratio -1\n"
          "plot for [i=0:3] 'latent_ode.dat' index i using 2:3 with lines lw 5 lc rgb '#dddddd' "
          "title i ? '' : 'truth', \\\n"
          "  for [i=0:3] '' index i using 4:5 with points pt 7 ps 0.5 lc rgb '#333333' title i ? "
          "'' : 'seen', \\\n"
          "  for [i=0:3] '' index i using 8:9 with lines dt 2 lc rgb '#d62728' title i ? '' : "
          "'recurrent', \\\n"
          "  for [i=0:3] '' index i using 6:7 with lines lw 1.5 lc rgb '#1f77b4' title i ? '' : "
          "'latent ODE'\n"
          "set size noratio\nset title 'root mean square error beside the truth'\n"
          "set xlabel 'time'\nset logscale y\nset key inside top left vertical\n"
          "set arrow from 1.88, graph 0 to 1.88, graph 1 nohead dt 3\n"
          "plot 'latent_ode.dat' index 4 using 1:3 with lines lw 2 lc rgb '#d62728' title "
          "'recurrent', '' index 4 using 1:2 with lines lw 2 lc rgb '#1f77b4' title 'latent ODE', "
          "'' index 4 using 1:4 with lines dt 2 lc rgb '#333333' title 'curves known'\n",
          f);
    fclose(f);
    example_picture(directory, "latent_ode");
    return true;
}

static void tell(const char *who, const spiral_errors *e, bool within)
{
    char grid[32] = "";
    if (within) snprintf(grid, sizeof grid, "%10.4f", spirals_root(e->clean, 0, GRID));
    printf("%-14s %10.4f %10.4f %10s\n", who, spirals_root(e->clean, GRID, ALL),
           spirals_root(e->noisy, GRID, ALL), grid);
}

/* Trains both at so many observations a spiral, and says what they are worth. */
static bool experiment(latent_ode *m, const training *t, const char *directory)
{
    static double x[TEST * ALL * 2], y[TEST * GRID * 2], best[TEST * ALL * 2];
    const uint64_t seed = (uint64_t)t->seed;
    spirals learn, test;
    rnn r;
    if (!spirals_make(2 * seed, TRAIN, m->seen, false, &learn) ||
        !spirals_make(2 * seed + 1, TEST, m->seen, true, &test))
        return false;
    printf("%lld observations a spiral\n", (long long)m->seen);
    latent_ode_new(m);
    rnn_new(&r, m->units);
    ad_rng rng = ad_rng_seed(seed);
    nn_theta *theta = nn_theta_new(m->model, AD_F32, &rng),
             *theta_rnn = nn_theta_new(r.model, AD_F32, &rng);
    const bool fine =
        train(theta_rnn, train_options(t, rnn_loss, &r), &learn, "recurrent network") &&
        train(theta, train_options(t, latent_ode_loss, m), &learn, "latent ODE") &&
        forecast(m, theta, &r, theta_rnn, &test, x, y);
    if (fine) {
        spirals_fit(&test, best);
        const spiral_errors e[] = { spirals_judge(&test, 0, x), spirals_judge(&test, GRID, y),
                                    spirals_judge(&test, 0, best) };
        printf("root mean square error at the 100 times beyond, and at the 100 of the grid:\n");
        printf("%-14s %10s %10s %10s\n", "", "truth", "noisy", "grid");
        tell("recurrent", &e[1], false);
        tell("latent ODE", &e[0], true);
        tell("curves known", &e[2], true);
        write_results(directory, &test, x, y, e);
    }
    nn_theta_free(theta);
    nn_theta_free(theta_rnn);
    nn_model_free(m->model);
    nn_model_free(r.model);
    spirals_free(&learn);
    spirals_free(&test);
    return fine;
}

/* ---- how long a step takes ------------------------------------------------------------------- */

/* Draws that another program can make too. */
static int draw_waves(const nn_step *step, double *const *out, void *user)
{
    const latent_ode *m = user;
    for (int64_t i = 0; i < step->rows; i++)
        for (int64_t j = 0; j < m->latent; j++)
            out[3][i * m->latent + j] = sin((double)(step->examples[i] * m->latent + j));
    return 0;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Processor time of one step on one batch, the weights staying as they are; what other programs
 * need to compute the same loss (bench/peers/latent_ode.py) is written to the directory. */
static bool time_steps(latent_ode *m, const training *t, int64_t steps, const char *directory)
{
    spirals s;
    char path[1024], error[512] = "";
    if (!spirals_make(1, t->batch, m->seen, false, &s)) return false;
    latent_ode_new(m);
    ad_rng rng = ad_rng_seed(1);
    nn_theta *theta = nn_theta_new(m->model, AD_F32, &rng);
    snprintf(path, sizeof path, "%s/latent_ode.safetensors", directory);
    FILE *f = example_file(directory, "latent_ode_batch.f64");
    if (!f || nn_save(path, theta, error, sizeof error)) return !example_failed(path, error);
    fwrite(s.sequence, sizeof(double), (size_t)(t->batch * m->seen * 4), f);
    fwrite(s.grid, sizeof(double), (size_t)(t->batch * GRID * 2), f);
    fwrite(s.mask, sizeof(double), (size_t)(t->batch * GRID), f);
    fclose(f);
    const nn_array arrays[] = {
        nn_array_of(AD_SHAPE(AD_ROWS, m->seen, 4), s.sequence),
        nn_array_of(AD_SHAPE(AD_ROWS, GRID, 2), s.grid),
        nn_array_of(AD_SHAPE(AD_ROWS, GRID, 1), s.mask),
        nn_array_drawn(AD_SHAPE(AD_ROWS, m->latent)),
    };
    nn_train_options options = train_options(t, latent_ode_loss, m);
    options.arrays = arrays;
    options.narray = 4;
    options.draw = draw_waves;
    options.examples = t->batch;
    options.steps = steps + 5;
    options.optimizer = (nn_optimizer_options){ .rate = 1e-30 };
    options.check_gradient = -1;
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    double *ms = calloc((size_t)steps, sizeof *ms);
    bool fine = ms && trainer;
    for (int64_t k = -5; fine && k < steps; k++) {
        const clock_t start = clock();
        fine = nn_trainer_step(trainer) == 1;
        if (k >= 0) ms[k] = 1e3 * (double)(clock() - start) / CLOCKS_PER_SEC;
    }
    if (fine) {
        qsort(ms, (size_t)steps, sizeof *ms, by_size);
        printf("%.4f ms of processor time a step (median; least %.4f), loss %.7g\n", ms[steps / 2],
               ms[0], nn_trainer_report(trainer)->last_loss);
    } else example_failed("steps", nn_trainer_error(trainer));
    free(ms);
    nn_trainer_free(trainer);
    nn_theta_free(theta);
    nn_model_free(m->model);
    spirals_free(&s);
    return fine;
}

int main(int argc, char **argv)
{
    int64_t seen = 0, threads = 0, timed = 0;
    training t = { .batch = 100, .rate = 5e-3, .steps = 6000, .seed = 1 };
    latent_ode m = { .channels = 2,
                     .latent = 4,
                     .width = 64,
                     .units = 64,
                     .grid = GRID,
                     .time = spiral_time,
                     .noise = spiral_noise };
    const char *directory = "out";
    double tolerance = 1e-3;
    bool quick = false;
    const example_option options[] = {
        { "seen", EXAMPLE_INTEGER, &seen, "observations a spiral; 0: 30, 50 and 100" },
        { "steps", EXAMPLE_INTEGER, &t.steps, "updates by Adam" },
        { "batch", EXAMPLE_INTEGER, &t.batch, "spirals an update" },
        { "rate", EXAMPLE_NUMBER, &t.rate, "learning rate at the start; it falls along a cosine" },
        { "latent", EXAMPLE_INTEGER, &m.latent, "size of z" },
        { "width", EXAMPLE_INTEGER, &m.width, "of the hidden layers of field and decoder" },
        { "units", EXAMPLE_INTEGER, &m.units, "of the recurrent networks" },
        { "tolerance", EXAMPLE_NUMBER, &tolerance, "of the solver" },
        { "seed", EXAMPLE_INTEGER, &t.seed, "of everything that is drawn" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "time", EXAMPLE_INTEGER, &timed, "only measure the time of so many steps on one batch" },
        { "quick", EXAMPLE_FLAG, &quick, "a short training of small networks, 50 observations" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Forecasts irregular series by a latent ODE.", options);
    if (done) return done - 1;
    if (!example_directory(directory)) return 1;
    if (seen < 0 || seen == 1 || seen > GRID)
        return example_failed("seen", "a spiral is seen 2 to 100 times; 0: 30, 50 and 100");
    if (quick) {
        t.steps = 800;
        t.rate = 1e-2;
        m.width = m.units = 25;
        seen = 50;
    }
    t.threads = (int)threads;
    m.solver = (ode_options){ .rtol = tolerance, .atol = tolerance };
    static const int64_t all[] = { 30, 50, 100 };
    if (timed > 0) {
        m.seen = seen ? seen : GRID;
        return !time_steps(&m, &t, timed, directory);
    }
    for (int k = 0; k < (seen ? 1 : 3); k++) {
        m.seen = seen ? seen : all[k];
        if (!experiment(&m, &t, directory)) return 1;
    }
    return 0;
}
