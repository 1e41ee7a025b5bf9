/* An ODE-RNN (Rubanova, Chen & Duvenaud 2019, arXiv:1907.03907): irregular, incomplete measurements
 * of patients in intensive care, and whether they survive.
 *
 * A hidden state follows an equation from visit to visit and takes up what is measured by a GRU:
 *
 *     dh/dt = f(h)  between visits,    h(t_i) = GRU(h(t_i -), [x_i, mask_i])  at visit i.
 *
 * The values that were measured last are kept beside h. A network of h(t_i -) predicts how x_i
 * differs from them; a linear layer of the last h, of the mean h and of the last values says how
 * likely death is. The predictions are learned first, then both; a part of the visits is hidden in
 * training. Each stay has times of its own: with s from 0 to 1 between any two visits, dh/ds = gap
 * f(h), so that the gap is data, and a few steps of Euler's method (as in the paper) serve all rows
 * at once. ad_scan records one visit and runs as many as the longest stay has; a stay that is
 * shorter ends with its own last visit.
 *
 * Baselines: logistic regression on the last and the mean values; for the predictions the value
 * that was measured last. */
#include "costate.h"
#include "example.h"
#include "stays.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Q = STAY_QUANTITIES, BASE = 3 * Q };

typedef struct {
    const stays *data;
    int64_t hidden, width, euler;
    bool deaths;         /* are learned too, beside the predictions */
    double weight;       /* of the predictions in the loss */
    double hidden_share; /* of the visits in training */
    nn_model *model;
    nn_mlp field, decoder;
    nn_linear classifier;
    nn_recurrent cell;
} ode_rnn;

/* ---- the model ------------------------------------------------------------------------------- */

static void ode_rnn_new(ode_rnn *m)
{
    const int64_t h = m->hidden, w = m->width;
    m->model = nn_model_new();
    nn_model_add_fixed(m->model, "mean", AD_SHAPE(Q), nn_init_zeros, 1, 1);
    nn_model_add_fixed(m->model, "scale", AD_SHAPE(Q), nn_init_ones, 1, 1);
    m->field = nn_mlp_new(m->model, "field", 3, (int64_t[]){ h, w, h }, ad_tanh, NULL);
    m->cell = nn_gru_new(m->model, "cell", 2 * Q, h);
    m->decoder = nn_mlp_new(m->model, "decoder", 3, (int64_t[]){ h, w, Q }, ad_relu, NULL);
    m->classifier = nn_linear_new(m->model, "classifier", 2 * h + Q, 1, NULL);
}

/* Mean and deviation of each quantity over the stays of the training. */
static void set_scales(const stays *s, nn_theta *theta)
{
    double mean[Q], scale[Q];
    for (int q = 0; q < Q; q++) {
        double n = 1, sum = 0, squares = 0;
        for (int64_t k = q; k < s->count * s->visits * Q; k += Q) {
            n += s->mask[k];
            sum += s->x[k];
            squares += s->x[k] * s->x[k];
        }
        mean[q] = sum / n;
        scale[q] = sqrt(fmax(squares / n - mean[q] * mean[q], 1e-6));
    }
    nn_theta_set(theta, "mean", Q, mean);
    nn_theta_set(theta, "scale", Q, scale);
}

/* One visit. Carries: h, and the values that were measured last. Inputs: what is measured, mask,
 * gap. Outputs: both carries before the visit. */
static void visit(const ad_scan_step *at, void *user)
{
    const ode_rnn *m = user;
    ad_var h = at->carry[0], step = ad_scale(at->input[2], 1 / (double)m->euler);
    for (int64_t k = 0; k < m->euler; k++)
        h = ad_add(h, ad_mul(step, nn_mlp_apply(&m->field, at->arg[0], h)));
    ad_var values = ad_select(at->input[1], at->input[0], at->carry[1]);
    ad_var in = ad_concatenate(AD_VARS(values, at->input[1]), 1);
    nn_recurrent_cell(&m->cell, at->arg[0], in, &h, at->next);
    at->next[1] = values;
    at->output[0] = h;
    at->output[1] = at->carry[1];
}

/* batch: x, mask, gap, length. Predictions of x at all visits [rows,visits,Q], and the log odds of
 * death [rows,1], from the last h, its mean over the visits, and the last values. */
static void apply(const ode_rnn *m, ad_var theta, const ad_var *batch, ad_var *x, ad_var *odds)
{
    ad_var first[] = { ad_fill(theta.tape, AD_SHAPE(AD_ROWS, m->hidden), 0),
                       ad_fill(theta.tape, AD_SHAPE(AD_ROWS, Q), 0) };
    ad_var mean = nn_model_get(m->model, theta, "mean"),
           scale = nn_model_get(m->model, theta, "scale"), last[2], before[2];
    ad_var standard = ad_mul(ad_div(ad_sub(batch[0], mean), scale), batch[1]);
    ad_recurrence stay = { .step = visit,
                           .user = (void *)m,
                           .steps = m->data->visits,
                           .ncarry = 2,
                           .carry = first,
                           .ninput = 3,
                           .input = (ad_var[]){ standard, batch[1], batch[2] },
                           .narg = 1,
                           .arg = &theta,
                           .noutput = 2,
                           .lengths = batch[3] };
    ad_scan(&stay, last, before);
    ad_var change = nn_mlp_apply(&m->decoder, theta, before[0]);
    *x = ad_add(mean, ad_mul(scale, ad_add(before[1], change)));
    ad_var state = ad_div(ad_sum_axis(before[0], 1, false), batch[3]);
    ad_var all = ad_concatenate(AD_VARS(last[0], state, last[1]), 1);
    *odds = nn_linear_apply(&m->classifier, theta, all);
}

/* Errors and mask behind the first visit, whose values nobody could predict. */
static void compare(const ode_rnn *m, ad_var x, const ad_var *batch, ad_var *error, ad_var *seen)
{
    const int64_t n = m->data->visits;
    *error = ad_sub(ad_slice(x, 1, 1, n), ad_slice(batch[0], 1, 1, n));
    *seen = ad_slice(batch[1], 1, 1, n);
}

/* A part of the visits is hidden from the network, which has to predict their values all the same.
 * batch: x, mask, gap, length, died, which visits may be seen. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const ode_rnn *m = user;
    const ad_var shown[] = { batch[0], ad_mul(batch[1], batch[5]), batch[2], batch[3] };
    ad_var x, odds, error, seen;
    (void)tape;
    apply(m, theta, shown, &x, &odds);
    compare(m, x, batch, &error, &seen);
    ad_var predictions = ad_scale(nn_weighted_mean(ad_square(error), seen), m->weight);
    return m->deaths ? ad_add(nn_binary_cross_entropy(odds, batch[4]), predictions) : predictions;
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const ode_rnn *m = user;
    const double share = step->part == NN_TRAINING ? m->hidden_share : 0;
    for (int64_t i = 0; i < step->rows * m->data->visits; i++)
        out[5][i] = ad_rng_uniform(step->rng) >= share;
    return 0;
}

/* Area under the ROC curve, and the mean square of the errors behind the first visit. */
static const nn_metric metrics[] = { { "auc", NN_AUC, true }, { "mse", NN_RATIO, false } };

static void record(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out, void *user)
{
    const ode_rnn *m = user;
    ad_var x, odds, error, seen;
    (void)tape;
    apply(m, theta, batch, &x, &odds);
    compare(m, x, batch, &error, &seen);
    out[0] = ad_concatenate(AD_VARS(odds, batch[4]), 1);
    out[1] = ad_stack(AD_VARS(ad_sum_all(ad_mul(ad_square(error), seen)), ad_sum_all(seen)), 0);
}

/* ---- baselines ------------------------------------------------------------------------------- */

/* Last value, mean, and whether there is one, of each quantity: out [count,BASE]. */
static void summarise(const stays *s, float *out)
{
    for (int64_t i = 0; i < s->count; i++)
        for (int q = 0; q < Q; q++) {
            float last = 0, sum = 0, n = 0;
            for (int64_t k = 0; k < s->visits; k++) {
                const int64_t at = (i * s->visits + k) * Q + q;
                if (s->mask[at] > 0) last = s->x[at];
                sum += s->x[at];
                n += s->mask[at];
            }
            out[i * BASE + q] = last;
            out[i * BASE + Q + q] = n > 0 ? sum / n : 0;
            out[i * BASE + 2 * Q + q] = n > 0;
        }
}

/* user: the nn_linear */
static ad_var logistic_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_binary_cross_entropy(nn_linear_apply(user, theta, batch[0]), batch[1]);
}
static void logistic_record(ad_tape *tape, ad_var theta, const ad_var *batch, ad_var *out,
                            void *user)
{
    (void)tape;
    out[0] = ad_concatenate(AD_VARS(nn_linear_apply(user, theta, batch[0]), batch[1]), 1);
}

/* The value that was measured last, or the mean of the quantity over the stays of `learn`:
 * x [count,visits,Q]. */
static void carry_forward(const stays *learn, const stays *s, double *x)
{
    for (int q = 0; q < Q; q++) {
        double sum = 0, n = 0;
        for (int64_t k = q; k < learn->count * learn->visits * Q; k += Q) {
            sum += learn->x[k];
            n += learn->mask[k];
        }
        for (int64_t i = 0; i < s->count; i++) {
            double last = sum / fmax(n, 1);
            for (int64_t k = 0; k < s->visits; k++) {
                const int64_t at = (i * s->visits + k) * Q + q;
                x[at] = last;
                if (s->mask[at] > 0) last = s->x[at];
            }
        }
    }
}

/* ---- what predictions are worth -------------------------------------------------------------- */

typedef struct {
    double auc, logistic;                /* areas under the ROC curve */
    double each, carried;                /* mean square errors of values */
    double published, carried_published; /* the same as the authors' program counts */
} figures;
enum { FIGURES = sizeof(figures) / sizeof(double) };

/* Squared errors of x [count,visits,Q] behind the first visit, whose values nobody could predict:
 * the mean over all values; and as the authors' program counts: for each quantity of each stay the
 * mean over its values (those of the first visit have error 0), then over all quantities (one that
 * was never measured has error 0) and stays. */
static void judge(const stays *s, const double *x, double *each, double *published)
{
    double sum = 0, n = 0, share = 0;
    for (int64_t i = 0; i < s->count; i++)
        for (int q = 0; q < Q; q++) {
            double own = 0, values = 0;
            for (int64_t k = 0; k < s->visits; k++) {
                const int64_t at = (i * s->visits + k) * Q + q;
                if (s->mask[at] == 0) continue;
                values++;
                if (k == 0) continue;
                own += (x[at] - s->x[at]) * (x[at] - s->x[at]);
                n++;
            }
            sum += own;
            share += own / fmax(values, 1);
        }
    *each = sum / n;
    *published = share / (double)(s->count * Q);
}

/* Predictions x [count,visits,Q] and log odds [count] of all stays; false after explaining. */
static bool predict(const ode_rnn *m, const nn_theta *theta, const stays *s, double *x,
                    double *odds)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    const ad_shape values = AD_SHAPE(AD_ROWS, s->visits, Q), ones = AD_SHAPE(AD_ROWS, s->visits, 1),
                   one = AD_SHAPE(AD_ROWS, 1);
    const ad_var batch[] = { ad_input_rows(tape, values, s->count, s->x),
                             ad_input_rows(tape, values, s->count, s->mask),
                             ad_input_rows(tape, ones, s->count, s->gap),
                             ad_input_rows(tape, one, s->count, s->length) };
    ad_var said, risk;
    apply(m, nn_theta_param(tape, theta), batch, &said, &risk);
    const bool fine = !ad_get(said, x) && !ad_get(risk, odds);
    if (!fine) example_failed("predictions", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* ---- one experiment -------------------------------------------------------------------------- */

typedef struct {
    int64_t steps, death_steps, batch;
    double rate, death_rate;
    int threads;
} training;

/* `arrays` of all stays; learned, chosen and judged by the parts of `data`. */
static bool train(nn_theta *theta, nn_train_options options, const stays *data,
                  const unsigned char *part, const char *label, nn_train_report *report)
{
    char error[512];
    options.processes = example_processes();
    options.examples = data->count;
    options.split.part = part;
    options.validation.metrics = metrics;
    options.optimizer.schedule = nn_schedule_cosine;
    options.optimizer.clip_norm = 1;
    options.average = 0.99;
    options.label = label;
    if (nn_train(theta, &options, report, error, sizeof error))
        return !example_failed(label, error);
    printf("%s: %lld parameters, %lld updates in %.1f s\n", label,
           (long long)nn_model_parameters(nn_theta_model(theta)), (long long)report->steps,
           report->seconds);
    fflush(stdout);
    return true;
}

static bool train_logistic(const stays *data, const unsigned char *part, uint64_t seed,
                           figures *result)
{
    nn_model *model = nn_model_new();
    nn_linear layer = nn_linear_new(model, "logistic", BASE, 1, nn_init_zeros);
    nn_theta *theta = nn_theta_new(model, AD_F32, NULL);
    float *in = malloc((size_t)(data->count * BASE) * sizeof *in);
    if (!in) return !example_failed("memory", NULL);
    summarise(data, in);
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, BASE), in),
                                nn_array_of(AD_SHAPE(AD_ROWS, 1), data->died) };
    nn_train_report report;
    const bool fine =
        train(theta,
              (nn_train_options){
                  .loss = logistic_loss,
                  .user = &layer,
                  .narray = 2,
                  .arrays = arrays,
                  .batch = 256,
                  .steps = 3000,
                  .seed = seed,
                  .optimizer = { .rate = 2e-2, .weight_decay = 1e-4 },
                  .validation = { .nmetric = 1, .record = logistic_record, .watch = "auc" } },
              data, part, "logistic regression", &report);
    if (fine) result->logistic = report.test.metrics[0];
    free(in);
    nn_theta_free(theta);
    nn_model_free(model);
    return fine;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The ROC curve of the log odds, and measured and predicted values of a stay. */
static bool write_picture(const char *directory, const stays *s, const double *x,
                          const double *odds)
{
    FILE *f = example_file(directory, "ode_rnn.dat");
    double *order = malloc(2 * (size_t)s->count * sizeof *order), dead = 0, died = 0, alive = 0;
    if (!f || !order) return false;
    for (int64_t i = 0; i < s->count; i++) {
        order[2 * i] = -odds[i];
        order[2 * i + 1] = s->died[i];
        died += s->died[i];
    }
    qsort(order, (size_t)s->count, 2 * sizeof *order, by_size);
    for (int64_t i = 0; i < s->count; i++) {
        dead += order[2 * i + 1];
        alive += 1 - order[2 * i + 1];
        fprintf(f, "%.4f %.4f\n", alive / ((double)s->count - died), dead / died);
    }
    int64_t shown = 0;
    for (int64_t i = 0; i < s->count && s->length[shown] < 70; i++) shown = i;
    static const char *const names[] = { "HR", "Temp", "Urine" };
    for (int n = 0; n < 3; n++) {
        int q = 0;
        while (strcmp(stay_quantity[q], names[n])) q++;
        fprintf(f, "\n\n");
        double hour = 0;
        for (int64_t k = 0; k < (int64_t)s->length[shown]; k++) {
            const int64_t cell = shown * s->visits + k, at = cell * Q + q;
            hour += STAY_HOURS * s->gap[cell];
            fprintf(f, "%.2f %.4f %.4f\n", hour, s->mask[at] > 0 ? s->x[at] : NAN, k ? x[at] : NAN);
        }
    }
    fclose(f);
    free(order);
    f = example_file(directory, "ode_rnn.gp");
    if (!f) return false;
    fputs("set terminal pngcairo size 1100,480 font 'sans,11'\nset output 'ode_rnn.png'\n"
          "set datafile missing 'nan'\nset multiplot\nset grid lc rgb '#eeeeee'\n"
          "set origin 0,0\nset size 0.4,1\nset title 'death in hospital: ROC curve'\nunset key\n"
          "set xlabel 'false alarms'\nset ylabel 'deaths foreseen'\n"
          "plot 'ode_rnn.dat' index 0 using 1:2 with lines lw 2 lc rgb '#1f77b4', "
          "x with lines dt 2 lc rgb '#888888'\n"
          "set origin 0.4,0\nset size 0.6,1\nset title 'one stay (0 to 1: all values of all "
          "stays)'\nset key outside bottom center horizontal\nset xlabel 'hours'\n"
          "unset ylabel\n"
          "plot for [i=1:3] 'ode_rnn.dat' index i using 1:2 with points pt 7 ps 0.6 lc i title "
          "word('HR temperature urine', i), for [i=1:3] '' index i using 1:3 with lines lw 1.5 "
          "lc i title i == 1 ? 'predicted' : ''\n",
          f);
    fclose(f);
    example_picture(directory, "ode_rnn");
    return true;
}

/* Stays for training, for choosing weights, for testing: 72, 8 and 20 in a hundred. */
static bool experiment(ode_rnn *m, const training *t, const char *data, uint64_t seed,
                       const char *directory, figures *result)
{
    stays all;
    if (data ? !stays_read(data, seed, &all) : !stays_make(seed, 600, &all)) return false;
    const int64_t learn = all.count * 72 / 100, choose = all.count * 80 / 100;
    const stays train_part = stays_part(&all, 0, learn), test = stays_part(&all, choose, all.count);
    unsigned char *part = malloc((size_t)all.count);
    double *x = malloc((size_t)(test.count * test.visits * Q) * sizeof *x),
           *odds = malloc((size_t)test.count * sizeof *odds);
    if (!part || !x || !odds) return !example_failed("memory", NULL);
    for (int64_t i = 0; i < all.count; i++)
        part[i] = i < learn ? NN_TRAINING : i < choose ? NN_VALIDATION : NN_TEST;
    m->data = &all;
    ode_rnn_new(m);
    ad_rng rng = ad_rng_seed(seed);
    nn_theta *theta = nn_theta_new(m->model, AD_F32, &rng);
    set_scales(&train_part, theta);
    const ad_shape values = AD_SHAPE(AD_ROWS, all.visits, Q), one = AD_SHAPE(AD_ROWS, 1);
    const nn_array arrays[] = { nn_array_of(values, all.x),
                                nn_array_of(values, all.mask),
                                nn_array_of(AD_SHAPE(AD_ROWS, all.visits, 1), all.gap),
                                nn_array_of(one, all.length),
                                nn_array_of(one, all.died),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, all.visits, 1)) };
    nn_train_options options = { .loss = loss,
                                 .user = m,
                                 .narray = 6,
                                 .draw = draw,
                                 .worker = true,
                                 .arrays = arrays,
                                 .batch = t->batch,
                                 .steps = t->steps,
                                 .seed = seed,
                                 .threads = t->threads,
                                 .optimizer = { .rate = t->rate },
                                 .validation = { .nmetric = 2, .record = record, .watch = "mse" } };
    nn_train_report report;
    printf("%lld stays of at most %lld visits, seed %llu\n", (long long)all.count,
           (long long)all.visits, (unsigned long long)seed);
    carry_forward(&train_part, &test, x);
    judge(&test, x, &result->carried, &result->carried_published);
    bool fine = train_logistic(&all, part, seed, result);
    m->deaths = false;
    fine = fine && train(theta, options, &all, part, "ODE-RNN, predictions", &report) &&
           predict(m, theta, &test, x, odds);
    if (fine) judge(&test, x, &result->each, &result->published);
    m->deaths = true;
    options.steps = t->death_steps;
    options.optimizer.rate = t->death_rate;
    options.validation.watch = "auc";
    fine = fine && train(theta, options, &all, part, "ODE-RNN, deaths", &report) &&
           predict(m, theta, &test, x, odds) && write_picture(directory, &test, x, odds);
    if (fine) result->auc = report.test.metrics[0];
    if (fine) printf("area under the curve %.4f, error %.4e\n", result->auc, result->each);
    free(part);
    free(x);
    free(odds);
    nn_theta_free(theta);
    nn_model_free(m->model);
    m->data = NULL;
    stays_free(&all);
    return fine;
}

/* Mean and standard deviation of a figure over the seeds. */
static void tell(const char *what, const double *first, int64_t seeds, double unit)
{
    double mean = 0, square = 0;
    for (int64_t i = 0; i < seeds; i++) mean += first[i * FIGURES] / (double)seeds / unit;
    for (int64_t i = 0; i < seeds; i++) square += pow(first[i * FIGURES] / unit - mean, 2);
    printf("%-46s %8.4f", what, mean);
    if (seeds > 1) printf(" +- %.4f", sqrt(square / (double)(seeds - 1)));
    printf("\n");
}

int main(int argc, char **argv)
{
    enum { MOST = 20 };
    int64_t seed = 1, seeds = 1, threads = 0;
    training t = {
        .steps = 1200, .death_steps = 500, .batch = 50, .rate = 3e-3, .death_rate = 1e-3
    };
    ode_rnn m = { .hidden = 64, .width = 64, .euler = 2, .weight = 200, .hidden_share = 0.3 };
    const char *data = NULL, *directory = "out";
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "folder of PhysioNet 2012: Outcomes-a.txt and set-a/ (set-a.tar.gz, unpacked)" },
        { "steps", EXAMPLE_INTEGER, &t.steps, "updates by Adam, for the predictions" },
        { "death-steps", EXAMPLE_INTEGER, &t.death_steps, "updates after that, for both" },
        { "batch", EXAMPLE_INTEGER, &t.batch, "stays an update" },
        { "rate", EXAMPLE_NUMBER, &t.rate, "learning rate at the start; it falls along a cosine" },
        { "death-rate", EXAMPLE_NUMBER, &t.death_rate, "learning rate after that" },
        { "hidden", EXAMPLE_INTEGER, &m.hidden, "size of h" },
        { "width", EXAMPLE_INTEGER, &m.width, "of the hidden layers" },
        { "euler", EXAMPLE_INTEGER, &m.euler, "steps of Euler's method from visit to visit" },
        { "weight", EXAMPLE_NUMBER, &m.weight, "of the predictions in the loss" },
        { "hide", EXAMPLE_NUMBER, &m.hidden_share, "share of the visits that training hides" },
        { "seed", EXAMPLE_INTEGER, &seed, "of everything that is drawn; the first one" },
        { "seeds", EXAMPLE_INTEGER, &seeds, "runs whose mean and deviation are told" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "quick", EXAMPLE_FLAG, &quick, "a short training" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Irregular series by an ODE-RNN.", options);
    if (done) return done - 1;
    if (!example_directory(directory)) return 1;
    if (seeds < 1 || seeds > MOST || m.euler < 1)
        return example_failed("options", "there are 1 to 20 seeds, and at least 1 step of Euler");
    if (quick) {
        t.steps = t.death_steps = 150;
        m.hidden = m.width = 40;
    }
    if (!data) printf("data: a stand-in, stays made by this program (--data reads real ones)\n");
    t.threads = (int)threads;
    static figures all[MOST];
    for (int64_t i = 0; i < seeds; i++)
        if (!experiment(&m, &t, data, (uint64_t)(seed + i), directory, &all[i])) return 1;
    tell("area under the ROC curve: ODE-RNN", &all->auc, seeds, 1);
    tell("area under the ROC curve: logistic regression", &all->logistic, seeds, 1);
    tell("mean square error in 0.001: ODE-RNN", &all->each, seeds, 1e-3);
    tell("mean square error in 0.001: the value before", &all->carried, seeds, 1e-3);
    tell("as the authors count: ODE-RNN", &all->published, seeds, 1e-3);
    tell("as the authors count: the value before", &all->carried_published, seeds, 1e-3);
    return 0;
}
