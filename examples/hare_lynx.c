/* A neural ODE fitted to real data: hares and lynx of Hudson Bay, 1900-1920.
 *
 * The first years (1900-1914) are fitted, the rest is forecast and compared with what was traded.
 * The state x is the standardised logarithm of the populations, its vector field a network, its
 * start a parameter: dx/dt = F(x; w),  x(1900) = x0. F is by default two small networks, one for
 * each species, each seeing the other species only: the growth of a population per head depends on
 * the other population. (--field full lets one network see both.)
 *
 * The loss is the mean squared error of x at the yearly observations plus 0.01 times the squared
 * weights. Long trajectories of an untrained field carry little information on its weights, so the
 * horizon grows: only the first 3 years count in the beginning, all of them after 60 % of the
 * updates. Gradients are those of the discretisation (discrete adjoint). docs/hare_lynx.md has the
 * study behind these choices. */
#include "costate.h"
#include "example.h"
#include "pelts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS_A_YEAR = 20, CURVE = (PELT_YEARS - 1) * POINTS_A_YEAR + 1 };

typedef struct {
    nn_model *model;
    nn_mlp both, hare, lynx;
    bool cross;
    int64_t years, steps;  /* fitted years; updates */
    double mean[2], sd[2]; /* of the logarithms of the fitted years */
} problem;

/* dx/dt for x [rows,2]; args[0] is theta. The equation is autonomous. */
static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    (void)t;
    if (!p->cross) return nn_mlp_apply(&p->both, args[0], x);
    ad_var hare = nn_mlp_apply(&p->hare, args[0], ad_slice(x, 1, 1, 2)),
           lynx = nn_mlp_apply(&p->lynx, args[0], ad_slice(x, 1, 0, 1));
    return ad_concatenate(2, (ad_var[]){ hare, lynx }, 1);
}

/* x at the given times, beginning at x0 [rows,2]: [rows,T,2]. */
static ad_var trajectory(problem *p, ad_var theta, ad_var x0, ad_var times)
{
    return ode_solve(field, p, x0, 1, &theta, times,
                     &(ode_options){ .method = &ode_rk4, .step = 0.25 });
}

static ad_var start_of(const problem *p, ad_var theta)
{
    return ad_broadcast(nn_model_get(p->model, theta, "start"), AD_SHAPE(AD_ROWS, 2));
}

static ad_var squared_weights(const problem *p, ad_var theta)
{
    const nn_mlp *mlps[] = { &p->both, &p->hare, &p->lynx };
    ad_var sum = ad_scalar(theta.tape, 0);
    for (int k = p->cross ? 1 : 0; k < (p->cross ? 3 : 1); k++)
        for (int i = 0; i < mlps[k]->nlayer; i++) {
            const nn_linear *layer = &mlps[k]->layer[i];
            sum =
                ad_add(sum, ad_sum_all(ad_square(ad_slice(
                                theta, 0, layer->weight, layer->weight + layer->in * layer->out))));
        }
    return sum;
}

/* batch[0]: observations [rows,T,2]; batch[1]: how much each year counts in this update [T,1]. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    ad_var x = trajectory(p, theta, start_of(p, theta),
                          ode_linspace(tape, 0, (double)(p->years - 1), (int)p->years));
    ad_var errors = ad_mul(ad_square(ad_sub(x, batch[0])), batch[1]);
    return ad_add(ad_scale(ad_sum_all(errors), 0.5), ad_scale(squared_weights(p, theta), 0.01));
}

static double standardised(const problem *p, int year, int species)
{
    return (log(species ? pelts_lynx[year] : pelts_hare[year]) - p->mean[species]) / p->sd[species];
}

/* The weights of the years in this update: the growing horizon. */
static int weigh(const nn_step *step, double *const *out, void *user)
{
    const problem *p = user;
    double grown = ceil((double)p->years * (double)step->step / (0.6 * (double)step->steps));
    int64_t horizon = (int64_t)fmin((double)p->years, fmax(3, grown));
    for (int64_t year = 0; year < p->years; year++)
        out[1][year] = year < horizon ? 1 / (double)horizon : 0;
    return 0;
}

static double schedule(int64_t step, int64_t steps, void *user)
{
    return 0.01 + 0.99 * nn_schedule_cosine(step, steps, user);
}

static void standardise(problem *p)
{
    for (int k = 0; k < 2; k++) {
        double n = (double)p->years;
        p->mean[k] = p->sd[k] = 0;
        for (int i = 0; i < p->years; i++) p->mean[k] += log(k ? pelts_lynx[i] : pelts_hare[i]) / n;
        for (int i = 0; i < p->years; i++)
            p->sd[k] += pow(log(k ? pelts_lynx[i] : pelts_hare[i]) - p->mean[k], 2) / n;
        p->sd[k] = sqrt(p->sd[k]);
    }
}

static bool build(problem *p, bool cross, int64_t width)
{
    p->cross = cross;
    p->model = nn_model_new();
    if (!p->model) return false;
    nn_model_add(p->model, "start", AD_SHAPE(2), nn_init_zeros, 1, 1);
    if (cross) {
        p->hare = nn_mlp_new(p->model, "hare", 3, (int64_t[]){ 1, width, 1 }, ad_tanh,
                             nn_init_xavier_uniform);
        p->lynx = nn_mlp_new(p->model, "lynx", 3, (int64_t[]){ 1, width, 1 }, ad_tanh,
                             nn_init_xavier_uniform);
    } else
        p->both = nn_mlp_new(p->model, "both", 3, (int64_t[]){ 2, width, 2 }, ad_tanh,
                             nn_init_xavier_uniform);
    return !nn_model_error(p->model);
}

/* Populations on the fine grid from x at year `from` on: out[2 * i]. false after explaining. */
static bool solve(problem *p, const nn_theta *theta, bool from_observation, int from, double *out)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double x0[2] = { standardised(p, from, 0), standardised(p, from, 1) };
    int points = (PELT_YEARS - 1 - from) * POINTS_A_YEAR + 1;
    ad_var w = nn_theta_param(tape, theta),
           start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, x0);
    ad_var x = trajectory(p, w, from_observation ? start : start_of(p, w),
                          ode_linspace(tape, from, PELT_YEARS - 1, points));
    bool fine = tape && ad_get(x, out) == 0;
    if (!fine) example_failed("solution", ad_tape_error(tape));
    for (int i = 0; fine && i < 2 * points; i++)
        out[i] = exp(p->mean[i % 2] + p->sd[i % 2] * out[i]);
    ad_tape_free(tape);
    return fine;
}

typedef struct {
    double curve[2 * CURVE],
        restart[2 * CURVE]; /* from the fitted start; from the last observation that was fitted */
    double fit, forecast, forecast_restart; /* root mean square errors in thousands of pelts */
    double seconds;
} outcome;

static double observed(int year, int species)
{
    return species ? pelts_lynx[year] : pelts_hare[year];
}

static double rmse(const double *curve, int curve_from, int from, int to)
{
    double s = 0;
    for (int i = from; i < to; i++)
        for (int k = 0; k < 2; k++)
            s += pow(curve[2 * (i - curve_from) * POINTS_A_YEAR + k] - observed(i, k), 2) /
                 (2.0 * (to - from));
    return sqrt(s);
}

/* Root mean square error of a forecast that repeats one pair of numbers. */
static double constant_rmse(int64_t years, double hare, double lynx)
{
    double s = 0;
    for (int64_t i = years; i < PELT_YEARS; i++)
        s += (pow(hare - observed((int)i, 0), 2) + pow(lynx - observed((int)i, 1), 2)) /
             (2.0 * (double)(PELT_YEARS - years));
    return sqrt(s);
}

static bool train(problem *p, uint64_t seed, double rate, const char *label, outcome *o)
{
    char error[512];
    ad_rng rng = ad_rng_seed(seed);
    nn_theta *theta = nn_theta_new(p->model, AD_F64, &rng);
    double start[2] = { standardised(p, 0, 0), standardised(p, 0, 1) }, x[2 * PELT_YEARS];
    nn_theta_set(theta, "start", 2, start);
    for (int i = 0; i < 2 * p->years; i++) x[i] = standardised(p, i / 2, i % 2);
    nn_array arrays[2] = { nn_array_of(AD_SHAPE(AD_ROWS, p->years, 2), x),
                           nn_array_drawn(AD_SHAPE(p->years, 1)) };
    nn_train_options options = {
        .loss = loss,
        .user = p,
        .narray = 2,
        .arrays = arrays,
        .examples = 1, /* one trajectory */
        .draw = weigh,
        .optimizer = { .rate = rate, .clip_norm = 1, .schedule = schedule },
        .steps = p->steps,
        .threads = 1,
        .label = label
    };
    nn_train_report report = { 0 };
    bool fine = nn_train(theta, &options, &report, error, sizeof error) == 0;
    if (!fine) example_failed("training", error);
    int last = (int)p->years - 1;
    fine = fine && solve(p, theta, false, 0, o->curve) && solve(p, theta, true, last, o->restart);
    if (fine) {
        o->fit = rmse(o->curve, 0, 0, last + 1);
        o->forecast = rmse(o->curve, 0, last + 1, PELT_YEARS);
        o->forecast_restart = rmse(o->restart, last, last + 1, PELT_YEARS);
        o->seconds = report.seconds;
    }
    nn_theta_free(theta);
    return fine;
}

static void write_picture(const char *directory, const problem *p, const outcome *o)
{
    FILE *f = example_file(directory, "hare_lynx.dat");
    if (!f) return;
    fprintf(f, "# year hare lynx: the neural ODE, from its fitted start\n");
    for (int i = 0; i < CURVE; i++)
        fprintf(f, "%.3f %.5f %.5f\n", PELT_FIRST_YEAR + (double)i / POINTS_A_YEAR, o->curve[2 * i],
                o->curve[2 * i + 1]);
    fprintf(f, "\n\n# year hare lynx: pelts, thousands\n");
    for (int i = 0; i < PELT_YEARS; i++)
        fprintf(f, "%d %g %g\n", PELT_FIRST_YEAR + i, pelts_hare[i], pelts_lynx[i]);
    fclose(f);
    f = example_file(directory, "hare_lynx.gp");
    if (!f) return;
    double end = PELT_FIRST_YEAR + (double)p->years - 0.5;
    fprintf(
        f,
        "set terminal pngcairo size 900,480 font 'sans,11'\nset output 'hare_lynx.png'\n"
        "set title 'A neural ODE fitted to the Hudson Bay pelts of %d-%d, and its forecast'\n"
        "set xlabel 'year'\nset ylabel 'pelts (thousands)'\nset key top center\nset yrange "
        "[0:90]\nset grid lc rgb '#dddddd'\n"
        "set object 1 rectangle from %g,0 to %d.5,90 fc rgb '#f2f2f2' behind lw 0\nset label 1 "
        "'forecast' at %g,84\n"
        "plot 'hare_lynx.dat' index 0 using 1:2 with lines lw 2 lc rgb '#1f77b4' title 'hare, "
        "neural ODE', \\\n"
        "     '' index 0 using 1:3 with lines lw 2 lc rgb '#d62728' title 'lynx, neural ODE', \\\n"
        "     '' index 1 using 1:2 with points pt 7 lc rgb '#1f77b4' title 'hare, pelts', \\\n"
        "     '' index 1 using 1:3 with points pt 5 lc rgb '#d62728' title 'lynx, pelts'\n",
        PELT_FIRST_YEAR, PELT_FIRST_YEAR + (int)p->years - 1, end, PELT_FIRST_YEAR + PELT_YEARS - 1,
        end + 0.3);
    fclose(f);
    example_picture(directory, "hare_lynx");
}

int main(int argc, char **argv)
{
    int64_t seeds = 5, width = 8;
    double rate = 0.01;
    const char *directory = "out", *kind = "cross";
    static problem p = { .years = 15, .steps = 2000 };
    const example_option options[] = {
        { "field", EXAMPLE_TEXT, &kind,
          "cross (each species sees the other) or full (one network sees both)" },
        { "years", EXAMPLE_INTEGER, &p.years,
          "fit the first N years (5 to 20), forecast the rest" },
        { "seeds", EXAMPLE_INTEGER, &seeds, "train N times, from seeds 1 to N" },
        { "steps", EXAMPLE_INTEGER, &p.steps, "updates by Adam" },
        { "width", EXAMPLE_INTEGER, &width, "hidden units" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv,
        "Fits a neural ODE to the Hudson Bay pelts and forecasts the years that it has not seen.",
        options);
    if (done) return done - 1;
    if (p.years < 5 || p.years > 20) return example_failed("--years", "must be between 5 and 20");
    if (seeds < 1 || p.steps < 1) return example_failed("--seeds, --steps", "must be at least 1");
    if (strcmp(kind, "cross") && strcmp(kind, "full"))
        return example_failed("--field", "is cross or full");
    standardise(&p);
    if (!build(&p, !strcmp(kind, "cross"), width))
        return example_failed("model", p.model ? nn_model_error(p.model) : NULL);
    if (!example_directory(directory)) return 1;

    double hare = 0, lynx = 0;
    for (int i = 0; i < p.years; i++) {
        hare += pelts_hare[i] / (double)p.years;
        lynx += pelts_lynx[i] / (double)p.years;
    }
    double persistence =
        constant_rmse(p.years, observed((int)p.years - 1, 0), observed((int)p.years - 1, 1));
    printf("neural ODE (%s field, %lld parameters), fitted to %d-%d, forecast to %d\n", kind,
           (long long)nn_model_parameters(p.model), PELT_FIRST_YEAR,
           PELT_FIRST_YEAR + (int)p.years - 1, PELT_FIRST_YEAR + PELT_YEARS - 1);
    printf("root mean square errors of both species, in thousands of pelts:\n");
    printf("%-34s %8s %10s %16s\n", "", "fit", "forecast", "of persistence");
    int better = 0;
    static outcome first, o;
    for (int64_t seed = 1; seed <= seeds; seed++) {
        char label[64], name[64];
        snprintf(label, sizeof label, "seed %lld", (long long)seed);
        if (!train(&p, (uint64_t)seed, rate, label, &o)) return 1;
        snprintf(name, sizeof name, "neural ODE, seed %lld (%.1f s)", (long long)seed, o.seconds);
        printf("%-34s %8.2f %10.2f %16.3f\n", name, o.fit, o.forecast, o.forecast / persistence);
        printf("%-34s %8s %10.2f %16.3f\n", "  restarted at the last observation", "",
               o.forecast_restart, o.forecast_restart / persistence);
        better += o.forecast <= 0.8 * persistence;
        if (seed == 1) first = o;
    }
    printf("%-34s %8s %10.2f %16.3f\n", "persistence (the last fitted year)", "", persistence, 1.0);
    double mean_error = constant_rmse(p.years, hare, lynx);
    printf("%-34s %8s %10.2f %16.3f\n", "mean of the fitted years", "", mean_error,
           mean_error / persistence);
    printf("%d of %lld seeds forecast with at most 0.8 of the error of persistence\n", better,
           (long long)seeds);
    write_picture(directory, &p, &first);
    nn_model_free(p.model);
    return 0;
}
