/* A latent stochastic differential equation (Li et al. 2020, arXiv:2001.01328): the law of a
 * process that is seen at irregular times, with errors.
 *
 * A particle in a double well, dx = 4 (x - x^3) dt + dW, is seen 150 times. What is learned:
 *
 *     prior      dx = f(x) dt + sigma dW,                   f a network
 *     posterior  dx = (f(x) + sigma u(t, x)) dt + sigma dW, u a network that knows what is seen
 *     seen       x with normal errors of size 0.2, which is known
 *
 * Paths of the posterior are drawn by the solver, and the divergence of the two equations,
 * E int |u|^2 / 2 dt, is integrated in the same solve (sde_solve_kl). Training maximises
 *
 *     E log p(seen | x) - KL(posterior || prior)  <=  log p(seen),
 *
 * by gradients through the solve. In one dimension all of this can be checked: for any drift and
 * the solver's own steps, a sum over a grid of places gives log p(seen) and the posterior exactly.
 * It says how far below the bound lies, and what the best possible forecast of points that were
 * held out is worth. (A part of the gap is that of the steps: within a step the exact posterior
 * has less noise than sigma sqrt(h), and no drift makes up for that.) The best linear process
 * (Ornstein-Uhlenbeck, a Gaussian process) is the baseline. */
#include "costate.h"
#include "example.h"
#include "grid_smoother.h"
#include <math.h>
#include <stdlib.h>

enum { STEPS = 1500, SEEN = 150, HELD_OUT = 150, CONTEXT = 6, PATHS = 1000, DRAWN = 5 };
static const double step_size = 0.02, error_size = 0.25;

typedef struct {
    double path[STEPS + 1], seen[STEPS + 1], held_out[STEPS + 1]; /* NaN: not looked at */
    int64_t at[SEEN];                                             /* the steps that are seen */
    double value[SEEN], time[STEPS + 1];
    /* From each time of `knots` on: the time of the next point, and what is seen then. */
    double knots[SEEN + 1], next[SEEN + 1][2];
} series;

typedef struct {
    nn_model *model;
    nn_mlp drift, control;
    const series *data;
} problem;

/* ---- data ---- */

static ad_var well(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(ad_sub(x, ad_mul(x, ad_square(x))), 4);
}
static ad_var unit(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)x, (void)args, (void)user;
    return ad_scalar(t.tape, 1);
}

/* A path by the solver, and what is seen of it: every step is one of the points that are seen, or
 * of those held out, or neither. Nothing is seen in the sixth part of the time. */
static bool make_series(uint64_t seed, series *s)
{
    ad_rng rng = ad_rng_seed(seed);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    sde_options options = { .ode = { .steps = 1 }, .path = { .seed = seed } };
    ad_var x = sde_solve(well, unit, NULL, start, 0, NULL,
                         ode_linspace(tape, 0, STEPS * step_size, STEPS + 1), &options);
    bool fine = !ad_get(x, s->path);
    if (!fine) example_failed("data", ad_tape_error(tape));
    ad_tape_free(tape);
    for (int k = 0; k <= STEPS; k++) {
        s->time[k] = k * step_size;
        s->seen[k] = s->held_out[k] = NAN;
    }
    for (int n = 0; n < SEEN + HELD_OUT;) {
        int k = (int)ad_rng_below(&rng, STEPS + 1);
        bool gap = 4 * STEPS <= 6 * k && 6 * k < 5 * STEPS;
        if (!isnan(s->seen[k]) || !isnan(s->held_out[k]) || (gap && n < SEEN)) continue;
        (n++ < SEEN ? s->seen : s->held_out)[k] = s->path[k] + error_size * ad_rng_normal(&rng);
    }
    int n = 0;
    for (int k = 0; k <= STEPS; k++) {
        if (isnan(s->seen[k])) continue;
        s->at[n] = k;
        s->value[n] = s->seen[k];
        s->knots[n + 1] = s->time[k];
        s->next[n][0] = s->time[k];
        s->next[n++][1] = s->seen[k];
    }
    s->next[SEEN][0] = s->time[STEPS];
    s->next[SEEN][1] = 0;
    return fine;
}

/* ---- the model ---- */

static ad_var scalar(const problem *p, ad_var theta, const char *name)
{
    return nn_model_get(p->model, theta, name);
}

/* f(x). args[0] is theta. */
static ad_var prior(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    (void)t;
    return nn_mlp_apply(&p->drift, args[0], x);
}

static ad_var diffusion(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)x;
    return ad_exp(scalar(user, args[0], "log_sigma"));
}

/* f(x) + sigma u(t, x): u sees x, how far it is from the next point in time and in place, and what
 * the model has learned to know of the points from there on, a vector for each stretch between two
 * points. An encoder that reads the points backwards would give these vectors for many series; one
 * series has them as parameters. */
static ad_var posterior(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    ad_var knots = ad_constant(t.tape, AD_SHAPE(SEEN + 1), p->data->knots);
    ad_var next = ad_constant(t.tape, AD_SHAPE(SEEN + 1, 2), p->data->next[0]);
    ad_var context = nn_model_get(p->model, args[0], "context");
    ad_var to_next =
        ad_sub(ode_interpolate(ODE_HOLD, t, knots, next),
               ad_concatenate(2, (ad_var[]){ ad_broadcast(t, AD_SHAPE(AD_ROWS, 1)), x }, 1));
    ad_var in = ad_concatenate(
        3, (ad_var[]){ x, to_next, ode_interpolate(ODE_HOLD, t, knots, context) }, 1);
    ad_var u = nn_mlp_apply(&p->control, args[0], in);
    return ad_add(prior(t, x, args, user), ad_mul(diffusion(t, x, args, user), u));
}

/* Paths of the posterior at all steps [rows,STEPS + 1,1] from normal draws [rows,1], and *kl
 * [rows,1]: the divergence along each, and that of the starts. */
static ad_var posterior_paths(const problem *p, ad_var theta, ad_var normal, sde_path path,
                              ad_var *kl)
{
    ad_tape *tape = theta.tape;
    ad_var mean = scalar(p, theta, "start"), log_sd = scalar(p, theta, "log_start_sd");
    ad_var start = ad_add(mean, ad_mul(ad_exp(log_sd), normal)), q;
    ad_var times = ad_constant(tape, AD_SHAPE(STEPS + 1), p->data->time);
    ad_var x = sde_solve_kl(posterior, prior, diffusion, (void *)p, start, 1, &theta, times,
                            &(sde_options){ .ode = { .steps = 1 }, .path = path }, &q);
    /* KL(N(mean, sd) || N(0, 1)) */
    ad_var squares = ad_add(ad_square(mean), ad_exp(ad_scale(log_sd, 2)));
    ad_var kl_start = ad_sub(ad_scale(ad_shift(squares, -1), 0.5), log_sd);
    ad_var kl_path = ad_reshape(ad_slice(q, 1, STEPS, STEPS + 1), AD_SHAPE(AD_ROWS, 1));
    *kl = ad_add(kl_path, kl_start);
    return x;
}

/* Minus the bound on log p(seen), an estimate a row [rows,1]. */
static ad_var negative_bound(const problem *p, ad_var theta, ad_var normal, sde_path path)
{
    ad_var kl, x = posterior_paths(p, theta, normal, path, &kl);
    ad_var seen = ad_constant(theta.tape, AD_SHAPE(SEEN, 1), p->data->value);
    ad_var miss = ad_sub(ad_gather(x, 1, SEEN, p->data->at), seen);
    ad_var squares = ad_sum(ad_square(ad_scale(miss, 1 / error_size)), 2, (int[]){ 1, 2 }, false);
    ad_var nll = ad_scale(ad_reshape(squares, AD_SHAPE(AD_ROWS, 1)), 0.5);
    double constant = log(error_size * sqrt(2 * 3.14159265358979323846));
    return ad_add(ad_shift(nll, SEEN * constant), kl);
}

/* batch[0]: normal draws [rows,1]; batch[1]: the number of the update, which gives new paths. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    sde_path path = { .draw = batch[1] };
    return ad_scale(ad_mean_all(negative_bound(user, theta, batch[0], path)), 1.0 / SEEN);
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    const nn_processes *all = example_processes(); /* each has rows from 0, and paths of its own */
    (void)user;
    for (int64_t i = 0; i < step->rows; i++) out[0][i] = ad_rng_normal(step->rng);
    *out[1] = (double)(step->step + (all ? all->rank * step->steps : 0));
    return 0;
}

/* ---- the best linear process ---- */

/* Minus the log-likelihood of dx = a (m - x) dt + sigma dW by the Kalman filter over the solver's
 * steps; theta: a, m, log sigma. */
static ad_var linear_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)batch;
    ad_var v[3], linear = nn_model_get(p->model, theta, "linear");
    ad_split(linear, 0, 3, NULL, v);
    ad_var factor = ad_shift(ad_scale(v[0], -step_size), 1), shift = ad_mul(v[0], v[1]);
    ad_var spread = ad_scale(ad_exp(ad_scale(v[2], 2)), step_size), sum = ad_scalar(tape, 0);
    double error = error_size * error_size;
    ad_var mean = ad_scalar(tape, 0), variance = ad_scalar(tape, 1);
    for (int k = 0; k <= STEPS; k++) {
        if (k) {
            mean = ad_add(ad_mul(factor, mean), ad_scale(shift, step_size));
            variance = ad_add(ad_mul(ad_square(factor), variance), spread);
        }
        if (isnan(p->data->seen[k])) continue;
        ad_var miss = ad_sub(ad_scalar(tape, p->data->seen[k]), mean);
        ad_var all = ad_shift(variance, error), gain = ad_div(variance, all);
        sum = ad_add(sum, ad_add(ad_div(ad_square(miss), all), ad_log(all)));
        mean = ad_add(mean, ad_mul(gain, miss));
        variance = ad_scale(gain, error);
    }
    return ad_scale(ad_sum_all(sum), 0.5 / SEEN);
}

/* *log_likelihood: by the filter, of what is seen. */
static bool fit_linear(const problem *p, grid_chain *chain, double *log_likelihood)
{
    problem line = { .model = nn_model_new(), .data = p->data };
    nn_model_add(line.model, "linear", AD_SHAPE(3), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(line.model, AD_F64, NULL);
    double v[3] = { 1, 0, 0 };
    char error[512];
    nn_theta_set(theta, "linear", 3, v);
    nn_train_options options = { .loss = linear_loss,
                                 .user = &line,
                                 .steps = 600,
                                 .optimizer = { .rate = 0.05, .schedule = nn_schedule_cosine } };
    nn_train_report trained;
    bool fine = !nn_train(theta, &options, &trained, error, sizeof error) &&
                !nn_theta_get(theta, "linear", 3, v);
    if (!fine) example_failed("the linear process", error);
    for (int i = 0; i < GRID_PLACES; i++) chain->drift[i] = v[0] * (v[1] - grid_place(i));
    chain->sigma = exp(v[2]);
    *log_likelihood = -SEEN * (trained.last_loss + 0.5 * log(2 * 3.14159265358979323846));
    nn_theta_free(theta);
    nn_model_free(line.model);
    return fine;
}

/* ---- looking at the result ---- */

/* The chain of the learned prior. */
static bool learned_chain(const problem *p, nn_theta *theta, grid_chain *chain)
{
    float places[GRID_PLACES];
    for (int i = 0; i < GRID_PLACES; i++) places[i] = (float)grid_place(i);
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var w = nn_theta_param(tape, theta);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), GRID_PLACES, places);
    bool fine = !ad_get(prior(x, x, &w, (void *)p), chain->drift) &&
                !nn_theta_get(theta, "log_sigma", 1, &chain->sigma);
    if (!fine) example_failed("the learned drift", ad_tape_error(tape));
    chain->sigma = exp(chain->sigma);
    ad_tape_free(tape);
    return fine;
}

/* Mean log density of the points held out under a posterior of the grid. */
static double held_out(const series *s, const double *posterior)
{
    double sum = 0;
    for (int k = 0; k <= STEPS; k++)
        if (!isnan(s->held_out[k]))
            sum +=
                grid_log_density(posterior + (int64_t)k * GRID_PLACES, s->held_out[k], error_size);
    return sum / HELD_OUT;
}

/* The posterior on the grid from drawn paths x [PATHS,STEPS + 1]: the shares of paths at each
 * place. */
static void count_paths(const double *x, double *posterior)
{
    for (int64_t i = 0; i < (STEPS + 1) * GRID_PLACES; i++) posterior[i] = 0;
    for (int r = 0; r < PATHS; r++)
        for (int k = 0; k <= STEPS; k++) {
            double place =
                (x[r * (STEPS + 1) + k] - grid_place(0)) / (grid_place(1) - grid_place(0));
            int i = (int)fmin(fmax(round(place), 0), GRID_PLACES - 1);
            posterior[(int64_t)k * GRID_PLACES + i] += 1.0 / PATHS;
        }
}

/* Paths of the posterior, of the prior, and the bound with its standard error. */
static bool draw_paths(const problem *p, nn_theta *theta, double *x, double *priors, double *bound,
                       double *bound_error)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_rng rng = ad_rng_seed(99);
    static float normal[PATHS];
    static double each[PATHS];
    for (int i = 0; i < PATHS; i++) normal[i] = (float)ad_rng_normal(&rng);
    ad_var w = nn_theta_param(tape, theta), kl;
    ad_var z = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), PATHS, normal);
    sde_path path = { .seed = 99 }, other = { .seed = 100 };
    ad_var times = ad_constant(tape, AD_SHAPE(STEPS + 1), p->data->time);
    ad_var free_paths = sde_solve(prior, diffusion, (void *)p, z, 1, &w, times,
                                  &(sde_options){ .ode = { .steps = 1 }, .path = other });
    bool fine = !ad_get(posterior_paths(p, w, z, path, &kl), x) && !ad_get(free_paths, priors) &&
                !ad_get(negative_bound(p, w, z, path), each);
    if (!fine) example_failed("paths", ad_tape_error(tape));
    ad_tape_free(tape);
    double sum = 0, squares = 0;
    for (int i = 0; i < PATHS; i++) {
        sum += each[i];
        squares += each[i] * each[i];
    }
    *bound = -sum / PATHS;
    *bound_error = sqrt((squares / PATHS - *bound * *bound) / PATHS);
    return fine;
}

static void write_results(const char *directory, const series *s, const double *drawn,
                          const double *exact, const double *x, const double *priors,
                          const grid_chain *learned)
{
    FILE *f = example_file(directory, "latent_sde.dat");
    if (!f) return;
    fprintf(f, "# time, posterior 5 %% and 95 %%, exact 5 %% and 95 %%, the path, what is seen, "
               "held out, paths of the posterior, of the prior\n");
    for (int k = 0; k <= STEPS; k++) {
        const double *p = drawn + (int64_t)k * GRID_PLACES, *q = exact + (int64_t)k * GRID_PLACES;
        fprintf(f, "%.3f %.3f %.3f %.3f %.3f %.4f %.4f %.4f", s->time[k], grid_quantile(p, 0.05),
                grid_quantile(p, 0.95), grid_quantile(q, 0.05), grid_quantile(q, 0.95), s->path[k],
                s->seen[k], s->held_out[k]);
        for (int r = 0; r < DRAWN; r++) fprintf(f, " %.4f", x[r * (STEPS + 1) + k]);
        for (int r = 0; r < DRAWN; r++) fprintf(f, " %.4f", priors[r * (STEPS + 1) + k]);
        fprintf(f, "\n");
    }
    fprintf(f, "\n\n# place, learned drift, true drift\n");
    for (int i = 0; i < GRID_PLACES; i++) {
        double place = grid_place(i);
        fprintf(f, "%.3f %.5f %.5f\n", place, learned->drift[i], 4 * (place - pow(place, 3)));
    }
    fclose(f);
    f = example_file(directory, "latent_sde.gp");
    if (!f) return;
    fputs("set terminal pngcairo size 1200,760 font 'sans,11'\nset output 'latent_sde.png'\n"
          "set datafile missing 'nan'\nset multiplot\nset grid lc rgb '#eeeeee'\n"
          "set origin 0,0.5\nset size 1,0.5\nset key horizontal at graph 1,1.13 samplen 2\n"
          "set xrange [0:30]\nset yrange [-2:2]\nset ylabel 'x'\n"
          "set title 'posterior, 5 to 95 %' offset -45,0\n"
          "plot 'latent_sde.dat' index 0 using 1:2:3 with filledcurves lc rgb '#c6dbef' title "
          "'latent SDE', \\\n"
          "  for [i=9:11] '' index 0 using 1:i with lines lw 0.7 lc rgb '#6baed6' notitle, \\\n"
          "  '' index 0 using 1:4 with lines dt 2 lc rgb '#08519c' title 'exact', \\\n"
          "  '' index 0 using 1:5 with lines dt 2 lc rgb '#08519c' notitle, \\\n"
          "  '' index 0 using 1:7 with points pt 7 ps 0.6 lc rgb '#d62728' title 'seen', \\\n"
          "  '' index 0 using 1:8 with points pt 6 ps 0.6 lc rgb '#888888' title 'held out'\n"
          "set origin 0,0\nset size 0.62,0.5\nunset key\nset xlabel 'time'\n"
          "set title 'paths of the learned prior' offset 0,0\n"
          "plot for [i=14:16] 'latent_sde.dat' index 0 using 1:i with lines lw 1.2\n"
          "set origin 0.62,0\nset size 0.38,0.5\nset key inside top right\nset xlabel 'x'\n"
          "set ylabel 'drift'\nset xrange [-1.6:1.6]\nset yrange [-8:8]\nset title 'drift'\n"
          "plot 'latent_sde.dat' index 1 using 1:2 with lines lw 2 lc rgb '#3182bd' title "
          "'learned', '' index 1 using 1:3 with lines dt 2 lc rgb '#333333' title 'true'\n",
          f);
    fclose(f);
    example_picture(directory, "latent_sde");
}

/* ---- all of it ---- */

static void add_parameters(problem *p)
{
    p->model = nn_model_new();
    p->drift = nn_mlp_new(p->model, "drift", 3, (int64_t[]){ 1, 32, 1 }, ad_tanh, NULL);
    p->control =
        nn_mlp_new(p->model, "control", 4, (int64_t[]){ 3 + CONTEXT, 32, 32, 1 }, ad_tanh, NULL);
    nn_model_add(p->model, "context", AD_SHAPE(SEEN + 1, CONTEXT), nn_init_xavier_normal, CONTEXT,
                 CONTEXT);
    nn_model_add(p->model, "log_sigma", AD_SHAPE(1), nn_init_zeros, 1, 1);
    nn_model_add(p->model, "start", AD_SHAPE(1), nn_init_zeros, 1, 1);
    nn_model_add(p->model, "log_start_sd", AD_SHAPE(1), nn_init_zeros, 1, 1);
}

/* What the models are worth. */
static bool report(const problem *p, nn_theta *theta, const char *directory)
{
    const series *s = p->data;
    size_t cells = (STEPS + 1) * GRID_PLACES, places = (size_t)PATHS * (STEPS + 1);
    double *drawn = malloc(cells * sizeof *drawn), *exact = malloc(cells * sizeof *exact);
    double *x = malloc(places * sizeof *x), *priors = malloc(places * sizeof *priors);
    double bound, bound_error, filter;
    bool fine = drawn && exact && x && priors;
    if (!fine) example_failed("memory", NULL);
    grid_chain truth = {
        .sigma = 1, .h = step_size, .error = error_size, .steps = STEPS, .seen = s->seen
    };
    for (int i = 0; i < GRID_PLACES; i++)
        truth.drift[i] = 4 * (grid_place(i) - pow(grid_place(i), 3));
    grid_chain line = truth, learned = truth;
    fine = fine && fit_linear(p, &line, &filter) && learned_chain(p, theta, &learned) &&
           draw_paths(p, theta, x, priors, &bound, &bound_error);
    if (fine) {
        count_paths(x, drawn);
        printf("                             log p(seen)   held out (nats a point)\n");
        double l = grid_smooth(&line, exact);
        printf("the best linear process       %10.2f   %10.3f\n", l, held_out(s, exact));
        printf("  by a Kalman filter          %10.2f\n", filter);
        l = grid_smooth(&truth, exact);
        printf("the true process              %10.2f   %10.3f\n", l, held_out(s, exact));
        l = grid_smooth(&learned, exact);
        printf("latent SDE, exact             %10.2f   %10.3f\n", l, held_out(s, exact));
        printf("latent SDE, bound and paths   %10.2f   %10.3f   (bound +- %.2f)\n", bound,
               held_out(s, drawn), bound_error);
        printf("the bound is %.2f nats below log p(seen)\n", l - bound);
        printf("sigma %.3f (true 1)\n", learned.sigma);
        write_results(directory, s, drawn, exact, x, priors, &learned);
    }
    free(drawn);
    free(exact);
    free(x);
    free(priors);
    return fine;
}

int main(int argc, char **argv)
{
    int64_t steps = 1000, paths = 32, seed = 1, threads = 0;
    double rate = 1e-2;
    bool quick = false;
    const char *directory = "out";
    const example_option options[] = {
        { "steps", EXAMPLE_INTEGER, &steps, "updates by Adam" },
        { "paths", EXAMPLE_INTEGER, &paths, "of the posterior, an update" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "quick", EXAMPLE_FLAG, &quick, "100 updates: to see that it works" },
        { "seed", EXAMPLE_INTEGER, &seed, "of data, weights and draws" },
        { "threads", EXAMPLE_INTEGER, &threads, "0: all cores" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Learns a stochastic process from one noisy, irregular series.", options);
    if (done) return done - 1;
    if (!example_directory(directory)) return 1;
    static series data;
    if (!make_series((uint64_t)seed, &data)) return 1;
    problem p = { .data = &data };
    add_parameters(&p);
    if (nn_model_error(p.model)) return example_failed("model", nn_model_error(p.model));
    ad_rng rng = ad_rng_seed((uint64_t)seed);
    nn_theta *theta = nn_theta_new(p.model, AD_F32, &rng);
    if (nn_theta_error(theta)) return example_failed("theta", nn_theta_error(theta));
    const nn_array arrays[] = { nn_array_drawn(AD_SHAPE(AD_ROWS, 1)), nn_array_drawn(AD_SCALAR) };
    nn_train_options train = {
        .processes = example_processes(),
        .loss = loss,
        .user = &p,
        .narray = 2,
        .arrays = arrays,
        .draw = draw,
        .batch = paths,
        .steps = quick ? 100 : steps,
        .optimizer = { .rate = rate, .schedule = nn_schedule_cosine, .clip_norm = 1 },
        .seed = (uint64_t)seed,
        .threads = (int)threads,
        .label = "training"
    };
    nn_train_report trained;
    char error[1024];
    if (nn_train(theta, &train, &trained, error, sizeof error))
        return example_failed("training", error);
    printf("%lld updates in %.1f s\n", (long long)trained.steps, trained.seconds);
    bool fine = report(&p, theta, directory);
    nn_theta_free(theta);
    nn_model_free(p.model);
    return !fine;
}
