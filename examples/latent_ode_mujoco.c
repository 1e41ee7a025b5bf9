/* A latent ODE fills in the motion of a body (Rubanova, Chen & Duvenaud 2019, arXiv:1907.03907,
 * section 5.2): the Hopper of dm-control is thrown, and of 100 states a tenth, a fifth, 30 or 50 %
 * are seen, others in each trajectory. All 100 are to be told, 7 positions and 7 speeds, scaled to
 * 0 .. 1 by the least and the largest value of each in all trajectories.
 *
 * The model is that of latent_ode.c. Which states are seen is drawn anew for every batch. Training
 * compares with all states, as in the paper. Four fifths of the trajectories are for training.
 *
 * Plain baseline: straight lines between the states that are seen. latent_ode_mujoco.py makes the
 * trajectories. */
#include "costate.h"
#include "example.h"
#include "latent.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TIMES = 100, MOST_CHANNELS = 16 };

/* Trajectories, scaled: those for training first. */
typedef struct {
    int64_t count, train, channels;
    float *x; /* [count,TIMES,channels] */
} motions;

typedef struct {
    latent_ode latent;
    const motions *data;
} problem;

static double time_of(int64_t k) { return 0.02 * (double)k; }

/* ---- data ------------------------------------------------------------------------------------ */

static bool scale(motions *d)
{
    const int64_t n = d->count * TIMES;
    for (int64_t c = 0; c < d->channels; c++) {
        float least = d->x[c], most = d->x[c];
        for (int64_t i = 0; i < n; i++) {
            least = fminf(least, d->x[i * d->channels + c]);
            most = fmaxf(most, d->x[i * d->channels + c]);
        }
        if (!(most > least)) return !example_failed("motions", "a channel does not change");
        for (int64_t i = 0; i < n; i++)
            d->x[i * d->channels + c] = (d->x[i * d->channels + c] - least) / (most - least);
    }
    d->train = d->count * 4 / 5;
    return true;
}

/* FOLDER/hopper.npy, [count,TIMES,channels]. */
static bool read_motions(const char *folder, motions *d)
{
    char path[4096], error[512] = "is no array [trajectories,100,5 to 16]";
    nn_tensor file = { 0 };
    snprintf(path, sizeof path, "%s/hopper.npy", folder);
    bool fine = nn_read_npy(path, &file, error, sizeof error) == 0;
    if (fine) {
        fine = file.shape.rank == 3 && file.shape.dim[0] >= 10 && file.shape.dim[1] == TIMES &&
               file.shape.dim[2] >= 5 && file.shape.dim[2] <= MOST_CHANNELS;
        if (!fine) snprintf(error, sizeof error, "is no array [trajectories,100,5 to 16]");
    }
    if (fine) {
        *d = (motions){ .count = file.shape.dim[0], .channels = file.shape.dim[2] };
        d->x = malloc((size_t)nn_tensor_count(&file) * sizeof *d->x);
        fine = d->x && nn_tensor_numbers(&file, AD_F32, d->x, error, sizeof error) == 0;
    }
    nn_tensor_clear(&file);
    if (!fine) example_failed(path, error);
    return fine && scale(d);
}

/* A stand-in: channels that are sums of three oscillations, whose phases and sizes are random. */
static bool make_motions(ad_rng *rng, motions *d)
{
    *d = (motions){ .count = 1000, .channels = 6 };
    d->x = malloc((size_t)(d->count * TIMES * d->channels) * sizeof *d->x);
    for (int64_t i = 0; d->x && i < d->count; i++) {
        double size[3], phase[3];
        for (int k = 0; k < 3; k++) {
            size[k] = 1 + 0.3 * ad_rng_normal(rng);
            phase[k] = 6.2831853 * ad_rng_uniform(rng);
        }
        for (int64_t t = 0; t < TIMES; t++)
            for (int64_t c = 0; c < d->channels; c++) {
                double x = 0;
                for (int k = 0; k < 3; k++)
                    x += size[k] * cos((double)(c * (k + 1))) *
                         sin(phase[k] + (1.3 + k) * time_of(t) + (double)c);
                d->x[(i * TIMES + t) * d->channels + c] = (float)x;
            }
    }
    if (!d->x) example_failed("motions", NULL);
    return d->x && scale(d);
}

/* Chooses `seen` of the times of trajectory i, in order. */
static void choose(ad_rng *rng, int64_t seen, int *times)
{
    int64_t wanted = seen;
    for (int t = 0; t < TIMES && wanted; t++)
        if (ad_rng_uniform(rng) * (TIMES - t) < (double)wanted) times[seen - wanted--] = t;
}

/* What is seen of trajectory i at these times: x, and the time since the one before. */
static void look(const motions *d, int64_t i, int64_t seen, const int *times, double *out)
{
    for (int64_t k = 0; k < seen; k++, out += d->channels + 1) {
        const float *x = d->x + (i * TIMES + times[k]) * d->channels;
        for (int64_t c = 0; c < d->channels; c++) out[c] = x[c];
        out[d->channels] = time_of(times[k] - (k ? times[k - 1] : 0));
    }
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const problem *p = user;
    const int64_t seen = p->latent.seen, size = seen * (p->data->channels + 1);
    for (int64_t i = 0; i < step->rows; i++) {
        int times[TIMES];
        choose(step->rng, seen, times);
        look(p->data, step->examples[i], seen, times, out[0] + i * size);
    }
    latent_ode_draw(&p->latent, step, out[3]);
    return 0;
}

/* ---- training and test ----------------------------------------------------------------------- */

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    return latent_ode_loss(tape, theta, batch, &p->latent);
}

typedef struct {
    int64_t steps, batch, seed;
    double rate;
} training;

static bool train(problem *p, nn_theta *theta, const training *t)
{
    const double one = 1;
    const motions *d = p->data;
    const nn_array arrays[] = {
        nn_array_drawn(AD_SHAPE(AD_ROWS, p->latent.seen, d->channels + 1)),
        nn_array_of(AD_SHAPE(AD_ROWS, TIMES, d->channels), d->x),
        nn_array_of(AD_SHAPE(1, 1, 1), &one),
        nn_array_drawn(AD_SHAPE(AD_ROWS, p->latent.latent)),
    };
    const nn_train_options options = {
        .processes = example_processes(),
        .loss = loss,
        .user = p,
        .narray = 4,
        .arrays = arrays,
        .examples = d->train,
        .draw = draw,
        .batch = t->batch,
        .steps = t->steps,
        .optimizer = { .rate = t->rate, .schedule = nn_schedule_cosine, .clip_norm = 1 },
        .seed = (uint64_t)t->seed,
        .average = 0.995,
        .label = "latent ODE"
    };
    nn_train_report report;
    char error[512];
    if (nn_train(theta, &options, &report, error, sizeof error))
        return !example_failed("training", error);
    printf("%3lld %% seen: %lld parameters, %lld updates in %.0f s\n", (long long)p->latent.seen,
           (long long)nn_model_parameters(p->latent.model), (long long)report.steps,
           report.seconds);
    return true;
}

/* Straight lines between what is seen of trajectory i, at time t of channel c. */
static double between(const motions *d, int64_t i, int64_t seen, const int *times, int t, int64_t c)
{
    const float *x = d->x + i * TIMES * d->channels + c;
    int64_t k = 0;
    while (k < seen && times[k] <= t) k++;
    const int before = times[k ? k - 1 : 0], after = times[k < seen ? k : seen - 1];
    const double share = after > before ? (double)(t - before) / (after - before) : 0;
    return (1 - share) * x[before * d->channels] + share * x[after * d->channels];
}

/* All states of trajectory i, a line each: time, and for each channel the truth, what is seen, and
 * what the latent ODE says. */
static void write_trajectory(FILE *f, const motions *d, int64_t i, int64_t seen, const int *times,
                             const double *said)
{
    for (int64_t t = 0, k = 0; t < TIMES; t++) {
        const bool here = k < seen && times[k] == t;
        k += here;
        fprintf(f, "%g", 0.005 * (double)t);
        for (int64_t c = 0; c < d->channels; c++) {
            const double x = d->x[(i * TIMES + t) * d->channels + c];
            fprintf(f, " %.5g %.5g %.5g", x, here ? x : NAN, said[t * d->channels + c]);
        }
        fprintf(f, "\n");
    }
}

/* Mean square errors over all states of the trajectories for testing; the first goes to `f`. */
static bool judge(const problem *p, const nn_theta *theta, FILE *f, double *ours, double *lines)
{
    enum { PART = 500 };
    const motions *d = p->data;
    const int64_t seen = p->latent.seen, size = seen * (d->channels + 1),
                  each = TIMES * d->channels;
    double *sequence = malloc(PART * (size_t)size * sizeof *sequence),
           *said = malloc(PART * (size_t)each * sizeof *said);
    ad_rng rng = ad_rng_seed(99);
    int first[TIMES];
    bool fine = sequence && said;
    const double n = (double)((d->count - d->train) * each);
    *ours = *lines = 0;
    for (int64_t from = d->train; fine && from < d->count; from += PART) {
        const int64_t rows = d->count - from < PART ? d->count - from : PART;
        for (int64_t r = 0; r < rows; r++) {
            int times[TIMES];
            choose(&rng, seen, times);
            look(d, from + r, seen, times, sequence + r * size);
            if (from + r == d->train) memcpy(first, times, sizeof first);
            for (int64_t k = 0; k < each; k++)
                *lines +=
                    pow(between(d, from + r, seen, times, (int)(k / d->channels), k % d->channels) -
                            d->x[(from + r) * each + k],
                        2) /
                    n;
        }
        ad_tape *tape = ad_tape_new(AD_F32);
        ad_var w = nn_theta_param(tape, theta), code[2];
        ad_var s = ad_input_rows(tape, AD_SHAPE(AD_ROWS, seen, d->channels + 1), rows, sequence);
        latent_ode_encode(&p->latent, w, s, code);
        fine = ad_get(latent_ode_decode(&p->latent, w, code[0], TIMES), said) == 0;
        if (!fine) example_failed("test", ad_tape_error(tape));
        if (fine && from == d->train) write_trajectory(f, d, from, seen, first, said);
        for (int64_t k = 0; fine && k < rows * each; k++)
            *ours += pow(said[k] - d->x[from * each + k], 2) / n;
        ad_tape_free(tape);
    }
    free(sequence);
    free(said);
    return fine;
}

static bool experiment(const motions *d, latent_ode latent, const training *t, FILE *f,
                       double *ours, double *lines)
{
    problem p = { .latent = latent, .data = d };
    latent_ode_new(&p.latent);
    ad_rng rng = ad_rng_seed((uint64_t)t->seed);
    nn_theta *theta = nn_theta_new(p.latent.model, AD_F32, &rng);
    const bool fine = train(&p, theta, t) && judge(&p, theta, f, ours, lines);
    nn_theta_free(theta);
    nn_model_free(p.latent.model);
    return fine;
}

/* Four channels of the first trajectory of the first experiment. */
static void write_picture(const char *directory, int64_t channels)
{
    FILE *f = example_file(directory, "latent_ode_mujoco.gp");
    if (!f) return;
    fputs("set terminal pngcairo size 1000,560 font 'sans,11'\nset output 'latent_ode_mujoco.png'\n"
          "set multiplot layout 2,2\nset tics scale 0.5\nset grid lc rgb '#dddddd'\n"
          "set xlabel 's'\nunset key\n",
          f);
    for (int k = 0; k < 4; k++) {
        const int64_t c = k + 1;
        fprintf(
            f,
            "set title 'number %lld of %lld'\n%s"
            "plot 'latent_ode_mujoco.dat' index 0 using 1:%lld with lines lw 4 lc rgb '#dddddd' "
            "title 'truth', \\\n"
            "     '' index 0 using 1:%lld with lines lw 2 lc rgb '#1f77b4' title 'latent ODE', \\\n"
            "     '' index 0 using 1:%lld with points pt 7 ps 0.8 lc rgb '#333333' title 'seen'\n",
            (long long)c + 1, (long long)channels, k ? "unset key\n" : "set key bottom right\n",
            2 + 3 * (long long)c, 4 + 3 * (long long)c, 3 + 3 * (long long)c);
    }
    fclose(f);
    example_picture(directory, "latent_ode_mujoco");
}

int main(int argc, char **argv)
{
    static const int64_t all[] = { 10, 20, 30, 50 };
    training t = { .batch = 100, .rate = 3e-3, .steps = 4000, .seed = 1 };
    latent_ode m = {
        .latent = 16, .width = 96, .units = 96, .grid = TIMES, .time = time_of, .noise = 0.01
    };
    int64_t seen = 0;
    double tolerance = 1e-3, ours[4], lines[4];
    const char *data = NULL, *directory = "out";
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data, "folder of hopper.npy, which latent_ode_mujoco.py makes" },
        { "seen", EXAMPLE_INTEGER, &seen, "states of a trajectory; 0: 10, 20, 30 and 50" },
        { "steps", EXAMPLE_INTEGER, &t.steps, "updates by Adam" },
        { "batch", EXAMPLE_INTEGER, &t.batch, "trajectories an update" },
        { "rate", EXAMPLE_NUMBER, &t.rate, "learning rate at the start; it falls along a cosine" },
        { "latent", EXAMPLE_INTEGER, &m.latent, "size of z" },
        { "width", EXAMPLE_INTEGER, &m.width, "of the hidden layers of field and decoder" },
        { "units", EXAMPLE_INTEGER, &m.units, "of the recurrent network" },
        { "tolerance", EXAMPLE_NUMBER, &tolerance, "of the solver" },
        { "seed", EXAMPLE_INTEGER, &t.seed, "of everything that is drawn" },
        { "quick", EXAMPLE_FLAG, &quick, "small networks, trained for seconds, 20 states" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done =
        example_options(argc, argv, "Fills in the motion of a body by a latent ODE.", options);
    if (done) return done - 1;
    if (seen < 0 || seen > TIMES) return example_failed("--seen", "is 0 or up to 100");
    if (!example_directory(directory)) return 1;
    FILE *f = example_file(directory, "latent_ode_mujoco.dat");
    if (!f) return 1;
    if (quick) {
        t.steps = 800;
        t.batch = 50;
        t.rate = 5e-3;
        m.latent = 8;
        m.width = m.units = 32;
        seen = 20;
    }
    motions d;
    ad_rng rng = ad_rng_seed((uint64_t)t.seed);
    if (!(data ? read_motions(data, &d) : make_motions(&rng, &d))) return 1;
    if (!data)
        printf("data: a stand-in, oscillations made by this program (--data reads the Hopper)\n");
    m.channels = d.channels;
    m.solver = (ode_options){ .rtol = tolerance, .atol = tolerance };
    const int rounds = seen ? 1 : 4;
    for (int k = 0; k < rounds; k++) {
        m.seen = seen ? seen : all[k];
        if (!experiment(&d, m, &t, f, &ours[k], &lines[k])) return 1;
        fprintf(f, "\n\n");
        printf("mean square errors of %lld trajectories, in 0.01: latent ODE %.4f, straight lines "
               "%.4f\n",
               (long long)(d.count - d.train), 100 * ours[k], 100 * lines[k]);
        fflush(stdout);
    }
    fclose(f);
    write_picture(directory, d.channels);
    free(d.x);
    return 0;
}
