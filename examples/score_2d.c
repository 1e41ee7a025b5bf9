/* A score-based diffusion model that learns a density in the plane (Song et al. 2021,
 * arXiv:2011.13456).
 *
 * Noise is added to data along a time t until nothing is left of them: x_t = alpha(t) x0 +
 * sigma(t) noise. A network is trained to say which noise is in x_t; each update takes fresh
 * points, fresh noise, and a time for each point, and no equation is solved. What the network has
 * learned is the score, grad log p_t(x), and the score is all that is needed to go back in time:
 *
 *   - by a stochastic equation, which samples,
 *   - by an ordinary equation, the probability flow, which samples, encodes, and gives the density
 *     of a point, with the exact trace as in cnf_2d.
 *
 * The errors of what the network predicts have equal weights at all times, which gives large noise,
 * where samples are parted among the modes, its share. The weights that are used are an average
 * over the last updates, which is what makes such a network good. */
#include "costate.h"
#include "densities.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 5000, GRID = 161, ARROWS = 21, PAIRS = 10 };

typedef struct {
    nn_model *model;
    nn_mlp network;
    ode_diffusion diffusion;
    const density *density;
    double centre[2], scale; /* of the data; the model sees (x - centre) / scale */
    nn_theta *average;       /* of weights */
    double decay;
} problem;

/* ---- the model and its training ---- */

/* The network sees x and, of the time, the logarithm of signal to noise. args[0] is theta. */
static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    ad_var alpha, sigma;
    ode_process_kernel(p->diffusion.process, t, &alpha, &sigma);
    ad_var level = ad_scale(ad_log(ad_div(alpha, sigma)), 0.3);
    return nn_mlp_apply(&p->network, args[0], ad_concatenate(2, (ad_var[]){ x, level }, 1));
}

/* batch: points, numbers in (0,1) for their times, noise. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    ad_var t = ode_diffusion_times(&p->diffusion, ODE_TIMES_UNIFORM, batch[1]);
    return ode_diffusion_loss(&p->diffusion, ODE_WEIGHT_OWN, batch[0], t, batch[2], 1, &theta);
}

static void draw_points(const problem *p, ad_rng *rng, int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i++) {
        p->density->draw(rng, &x[2 * i], &x[2 * i + 1]);
        for (int k = 0; k < 2; k++) x[2 * i + k] = (x[2 * i + k] - p->centre[k]) / p->scale;
    }
}

static void draw_normals(ad_rng *rng, int64_t n, double *z)
{
    for (int64_t i = 0; i < n; i++) z[i] = ad_rng_normal(rng);
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    draw_points(user, step->rng, step->rows, out[0]);
    /* times spread evenly: one in each of as many parts as there are rows */
    for (int64_t i = 0; i < step->rows; i++)
        out[1][i] = ((double)i + ad_rng_uniform(step->rng)) / (double)step->rows;
    draw_normals(step->rng, 2 * step->rows, out[2]);
    return 0;
}

static int average(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    (void)value;
    float *mean = nn_theta_f32(p->average, NULL);
    const float *now = nn_theta_f32(theta, NULL);
    double weight = fmax(1 - p->decay, 1 / (double)step);
    for (int64_t i = 0; i < nn_theta_size(theta); i++)
        mean[i] += (float)(weight * (now[i] - mean[i]));
    return 0;
}

/* ---- what is asked of the trained model ---- */

typedef enum { LOG_DENSITY, BY_FLOW, BY_SDE, BY_SAMPLER, SCORE } question;

/* Answers for n rows of two numbers: points, or draws of the base; false after explaining. */
static bool ask(const problem *p, question what, const ode_sampling *sampling, double t, int64_t n,
                const double *x, double *out)
{
    const ode_options tight = { .rtol = 1e-5, .atol = 1e-5 };
    ad_tape *tape = ad_tape_new(AD_F32);
    if (!tape) {
        example_failed("memory", NULL);
        return false;
    }
    ad_var w = nn_theta_param(tape, p->average),
           in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, x);
    const ode_diffusion *m = &p->diffusion;
    /* another path for other draws of the base */
    uint64_t path;
    memcpy(&path, x, sizeof path);
    const sde_options steps = { .ode = { .steps = 500 }, .path = { .seed = path } };
    ad_var y;
    switch (what) {
    case LOG_DENSITY: y = ode_diffusion_log_density(m, in, 1, &w, &tight); break;
    case BY_FLOW: y = ode_diffusion_decode(m, in, 1, &w, &tight); break;
    case BY_SDE: y = ode_diffusion_by_sde(m, in, 1, &w, &steps); break;
    case BY_SAMPLER: y = ode_diffusion_sample(m, in, 1, &w, sampling); break;
    default: y = ode_diffusion_predict(m, ODE_SCORE, ad_fill(tape, AD_SHAPE(1, 1), t), in, &w);
    }
    bool fine = ad_get(y, out) == 0;
    if (!fine) example_failed("the model", ad_tape_error(tape));
    ad_tape_free(tape);
    for (int64_t i = 0; fine && what == LOG_DENSITY && i < n; i++) out[i] -= 2 * log(p->scale);
    return fine;
}

/* ---- the table: quality against evaluations of the network ---- */

static bool print_table(const problem *p, const double *z, const double *test, double between)
{
    double *x = malloc(POINTS * 2 * sizeof *x);
    if (!x) {
        example_failed("memory", NULL);
        return false;
    }
    const double own = mean_distance(POINTS, test, test);
    static const int evaluations[] = { 6, 12, 24, 48, 96 };
    bool fine = true;
    printf("\nenergy distance of samples to held-out points, in units of that between two sets of "
           "data,\nagainst evaluations of the network for a sample:\n\n%-20s",
           "");
    for (int k = 0; k < 5; k++) printf("%8d", evaluations[k]);
    for (int i = 0; fine && i < 9; i++) {
        ode_sampling o = { .sampler = i < 7 ? ode_samplers()[i] : &ode_ddim, .seed = 1 };
        if (i == 7) o.eta = 1;
        if (i == 8) o.spacing = ODE_SPACING_LOG_SNR;
        char name[64];
        snprintf(name, sizeof name, "%s%s", ode_sampler_name(o.sampler),
                 i == 7   ? ", eta 1"
                 : i == 8 ? ", in lambda"
                          : "");
        printf("\n%-20s", name);
        for (int k = 0; fine && k < 5; k++) {
            o.steps = 1;
            o.steps = evaluations[k] / ode_sampling_evaluations(&o);
            if (!o.steps) printf("%8s", "-");
            if (!o.steps) continue;
            fine = ask(p, BY_SAMPLER, &o, 0, POINTS, z, x);
            if (fine)
                printf("%8.2f",
                       (2 * mean_distance(POINTS, x, test) - mean_distance(POINTS, x, x) - own) /
                           between);
            fflush(stdout);
        }
    }
    printf("\n");
    free(x);
    return fine;
}

/* ---- pictures ---- */

static bool write_points(const problem *p, const char *directory, const char *name, const double *x)
{
    FILE *file = example_file(directory, name);
    if (!file) return false;
    for (int i = 0; i < POINTS; i++)
        fprintf(file, "%.6g %.6g\n", p->centre[0] + p->scale * x[2 * i],
                p->centre[1] + p->scale * x[2 * i + 1]);
    return fclose(file) == 0;
}

/* The density on a grid, and its integral over the square; the score on a coarse one. */
static double write_fields(const problem *p, const char *directory)
{
    int64_t n = GRID * GRID;
    double r = p->density->radius, h = 2 * r / (GRID - 1), integral = 0;
    double *x = malloc((size_t)n * 2 * sizeof *x), *y = malloc((size_t)n * 2 * sizeof *y);
    FILE *file = x && y ? example_file(directory, "score_2d_density.dat") : NULL;
    for (int64_t i = 0; file && i < n; i++) {
        int64_t row = i / GRID;
        x[2 * i] = (-r + h * (double)(i % GRID) - p->centre[0]) / p->scale;
        x[2 * i + 1] = (-r + h * (double)row - p->centre[1]) / p->scale;
    }
    if (!file || !ask(p, LOG_DENSITY, NULL, 0, n, x, y)) return NAN;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = i / GRID;
        integral += exp(y[i]) * h * h;
        fprintf(file, "%.5g %.5g %.6g\n%s", -r + h * (double)(i % GRID), -r + h * (double)row,
                exp(y[i]), i % GRID == GRID - 1 ? "\n" : "");
    }
    fclose(file);
    file = example_file(directory, "score_2d_score.dat");
    h = 2 * r / (ARROWS - 1);
    for (int64_t i = 0; i < ARROWS * ARROWS; i++) {
        int64_t row = i / ARROWS;
        x[2 * i] = (-r + h * (double)(i % ARROWS) - p->centre[0]) / p->scale;
        x[2 * i + 1] = (-r + h * (double)row - p->centre[1]) / p->scale;
    }
    if (!file || !ask(p, SCORE, NULL, 0.1, ARROWS * ARROWS, x, y)) return NAN;
    for (int64_t i = 0; i < ARROWS * ARROWS; i++) {
        int64_t row = i / ARROWS;
        double length = hypot(y[2 * i], y[2 * i + 1]), shown = 0.8 * h * tanh(length / 4) / length;
        fprintf(file, "%.5g %.5g %.5g %.5g\n", -r + h * (double)(i % ARROWS), -r + h * (double)row,
                shown * y[2 * i], shown * y[2 * i + 1]);
    }
    fclose(file);
    free(x);
    free(y);
    return integral;
}

static void write_picture(const problem *p, const char *directory)
{
    FILE *f = example_file(directory, "score_2d.gp");
    if (!f) return;
    double r = p->density->radius;
    fprintf(f,
            "set terminal pngcairo size 1000,1030 font 'sans,11'\nset output 'score_2d.png'\nset "
            "multiplot layout 2,2\nset size square\nset xrange [-%g:%g]\nset yrange [-%g:%g]\n"
            "unset key\nunset colorbox\nset tics scale 0.5\n"
            "set title '%s: density of the probability flow'\nset palette defined (0 '#ffffff', "
            "0.2 '#9ecae1', 0.5 '#3182bd', 1 '#08306b')\n"
            "plot 'score_2d_density.dat' using 1:2:3 with image\n"
            "set title 'score at t = 0.1, over data'\n"
            "plot 'score_2d_data.dat' with points pt 7 ps 0.2 lc rgb '#aa9ecae1', "
            "'score_2d_score.dat' using 1:2:3:4 with vectors head size 0.12,25 lc rgb '#cc5500'\n"
            "set title 'samples by the reverse-time equation'\n"
            "plot 'score_2d_sde.dat' with points pt 7 ps 0.25 lc rgb '#33884422'\n"
            "set title 'samples by the probability flow'\n"
            "plot 'score_2d_flow.dat' with points pt 7 ps 0.25 lc rgb '#33446688'\n",
            r, r, r, r, p->density->name);
    fclose(f);
    example_picture(directory, "score_2d");
}

/* ---- */

/* Centre and scale of the data, from draws. */
static void standardise(problem *p, ad_rng *rng, double *x)
{
    double c[2] = { 0 }, q = 0;
    draw_points(p, rng, POINTS, x);
    for (int i = 0; i < 2 * POINTS; i++) c[i % 2] += x[i] / POINTS;
    for (int i = 0; i < 2 * POINTS; i++) q += pow(x[i] - c[i % 2], 2) / (2 * POINTS);
    for (int k = 0; k < 2; k++) p->centre[k] = c[k];
    p->scale = sqrt(q);
}

int main(int argc, char **argv)
{
    int64_t steps = 6000, batch = 1024, width = 96, seed = 1, threads = 0;
    double rate = 5e-3;
    const char *data = "8gaussians", *directory = "out";
    bool table = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &data,
          "8gaussians, 2spirals, checkerboard, pinwheel, rings, moons, circles or swissroll" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates by Adam" },
        { "batch", EXAMPLE_INTEGER, &batch, "fresh points an update" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "width", EXAMPLE_INTEGER, &width, "of the hidden layers" },
        { "table", EXAMPLE_FLAG, &table, "samplers compared by evaluations of the network" },
        { "seed", EXAMPLE_INTEGER, &seed, "of weights and draws" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Learns a density in the plane with a score-based diffusion model.", options);
    if (done) return done - 1;
    ad_rng rng = ad_rng_seed((uint64_t)seed);
    problem p = {
        .model = nn_model_new(), .density = density_find(data), .scale = 1, .decay = 0.999
    };
    if (!p.density) return example_failed(data, "not a known density; --help lists them");
    if (!example_directory(directory)) return 1;
    double *x[4];
    for (int i = 0; i < 4; i++)
        if (!(x[i] = malloc(POINTS * 2 * sizeof(double)))) return example_failed("memory", NULL);
    double *test = x[0], *flow = x[1], *sde = x[2], *z = x[3];
    standardise(&p, &rng, test);

    p.network = nn_mlp_new(p.model, "score", 5, (int64_t[]){ 3, width, width, width, 2 }, ad_silu,
                           nn_init_he_normal);
    p.diffusion =
        (ode_diffusion){ .process = &ode_vp, .prediction = ODE_V, .network = field, .user = &p };
    if (nn_model_error(p.model)) return example_failed("model", nn_model_error(p.model));
    nn_theta *theta = nn_theta_new(p.model, AD_F32, &rng);
    p.average = nn_theta_copy(theta);
    if (nn_theta_error(theta)) return example_failed("theta", nn_theta_error(theta));
    const nn_array arrays[] = { nn_array_drawn(AD_SHAPE(AD_ROWS, 2)),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, 1)),
                                nn_array_drawn(AD_SHAPE(AD_ROWS, 2)) };
    nn_train_options train = { .processes = example_processes(),
                               .loss = loss,
                               .user = &p,
                               .narray = 3,
                               .arrays = arrays,
                               .draw = draw,
                               .batch = batch,
                               .steps = steps,
                               .optimizer = { .rate = rate, .schedule = nn_schedule_cosine },
                               .seed = (uint64_t)seed,
                               .threads = (int)threads,
                               .label = "training",
                               .on_step = average };
    nn_train_report report;
    char error[512];
    printf("%s: %lld parameters, %lld updates of %lld points\n", data,
           (long long)nn_model_parameters(p.model), (long long)steps, (long long)batch);
    fflush(stdout);
    if (nn_train(theta, &train, &report, error, sizeof error))
        return example_failed("training", error);
    printf("trained in %.1f s\n", report.seconds);

    /* Two sets of n points of one distribution are on average 2 D / n from each other, D the mean
     * distance of two points. A single pair of sets may be at half of that or at twice: samples are
     * held against several sets of data. */
    double between = 0, by_flow = 0, by_sde = 0, nll = 0, exact = 0;
    draw_points(&p, &rng, POINTS, flow);
    draw_points(&p, &rng, POINTS, test);
    between = 2 * mean_distance(POINTS, flow, test) / POINTS;
    for (int i = 0; i < PAIRS; i++) {
        draw_points(&p, &rng, POINTS, test);
        draw_normals(&rng, 2 * POINTS, z);
        if (!ask(&p, BY_FLOW, NULL, 0, POINTS, z, flow) ||
            !ask(&p, BY_SDE, NULL, 0, POINTS, z, sde))
            return 1;
        by_flow += energy_distance(POINTS, flow, test) / PAIRS;
        by_sde += energy_distance(POINTS, sde, test) / PAIRS;
    }
    draw_points(&p, &rng, POINTS, test);
    draw_normals(&rng, 2 * POINTS, z);
    if (!ask(&p, LOG_DENSITY, NULL, 0, POINTS, test, flow)) return 1;
    for (int i = 0; i < POINTS; i++) {
        nll -= flow[i] / POINTS;
        if (p.density->log_density)
            exact -= p.density->log_density(p.centre[0] + p.scale * test[2 * i],
                                            p.centre[1] + p.scale * test[2 * i + 1]) /
                     POINTS;
    }
    if (!ask(&p, BY_FLOW, NULL, 0, POINTS, z, flow) || !ask(&p, BY_SDE, NULL, 0, POINTS, z, sde))
        return 1;
    printf("held-out negative log-likelihood (nats a point, %d points):\n", POINTS);
    printf("  the probability flow    %8.4f\n", nll);
    if (p.density->log_density) printf("  the true density        %8.4f\n", exact);
    printf("energy distance to held-out points, in units of that between two sets of data (%.2e; "
           "%d pairs of sets each):\n",
           between * p.scale, PAIRS);
    printf("  the probability flow    %8.2f\n", by_flow / between);
    printf("  the reverse-time SDE    %8.2f\n", by_sde / between);
    fflush(stdout);
    write_points(&p, directory, "score_2d_data.dat", test);
    write_points(&p, directory, "score_2d_flow.dat", flow);
    write_points(&p, directory, "score_2d_sde.dat", sde);
    printf("the density integrates to %.4f over the square drawn\n", write_fields(&p, directory));
    write_picture(&p, directory);
    bool fine = !table || print_table(&p, z, test, between);
    for (int i = 0; i < 4; i++) free(x[i]);
    nn_theta_free(theta);
    nn_theta_free(p.average);
    nn_model_free(p.model);
    return !fine;
}
