/* Estimating the parameters of one's own differential equation.
 *
 * Hares u and lynx v (Lotka 1925, Volterra 1926):
 *     du/dt = (a - b v) u,    dv/dt = (-c + d u) v.
 * The four rates and the two initial populations are fitted to the pelts of 1900-1920. Errors are
 * log-normal, so the loss is the mean squared difference of logarithms (the maximum-likelihood
 * estimate, up to the size of the errors); gradients come through the solver by the discrete
 * adjoint. All six unknowns are positive and are optimised as logarithms. The horizon grows, 8, 14,
 * 21 years: the loss of a long trajectory has many local minima, that of a short one does not.
 *
 * For comparison, the posterior means of the same model with weak priors (the Stan case study of
 * the same data): 0.547, 0.0277, 0.800, 0.0241. */
#include "costate.h"
#include "example.h"
#include "pelts.h"
#include <math.h>

/* The vector field: y [rows,2] holds u and v, args[0] the logarithms of a, b, c, d [4]. */
static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var u = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), rate = ad_exp(args[0]);
    ad_var a = ad_slice(rate, 0, 0, 1), b = ad_slice(rate, 0, 1, 2), c = ad_slice(rate, 0, 2, 3),
           d = ad_slice(rate, 0, 3, 4);
    ad_var du = ad_mul(ad_sub(a, ad_mul(b, v)), u);
    ad_var dv = ad_mul(ad_sub(ad_mul(d, u), c), v);
    return ad_concatenate(2, (ad_var[]){ du, dv }, 1);
}

typedef struct {
    nn_model *model;
    int64_t years;
} problem;

/* The populations at the given times, a trajectory per row: [rows,T,2]. */
static ad_var trajectory(const problem *p, ad_tape *tape, ad_var theta, ad_var times)
{
    ad_var rates = nn_model_get(p->model, theta, "log_rates"),
           start = ad_exp(nn_model_get(p->model, theta, "log_start"));
    ad_var y0 = ad_broadcast(start, AD_SHAPE(AD_ROWS, 2));
    (void)tape;
    return ode_solve(field, NULL, y0, 1, &rates, times,
                     &(ode_options){ .method = &ode_tsit5, .rtol = 1e-8, .atol = 1e-8 });
}

static double schedule(int64_t step, int64_t n, void *user)
{
    return 0.01 + 0.99 * nn_schedule_cosine(step, n, user);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    ad_var y =
        trajectory(p, tape, theta, ode_linspace(tape, 0, (double)(p->years - 1), (int)p->years));
    return nn_mse(ad_log(y), ad_log(batch[0]));
}

static void write_results(const char *directory, const double *fit, int64_t points)
{
    FILE *f = example_file(directory, "lotka_volterra.dat");
    if (!f) return;
    fprintf(f, "# year hare lynx (model)\n");
    for (int64_t i = 0; i < points; i++)
        fprintf(f, "%.4f %.6f %.6f\n", PELT_FIRST_YEAR + 20.0 * (double)i / (double)(points - 1),
                fit[2 * i], fit[2 * i + 1]);
    fprintf(f, "\n\n# year hare lynx (pelts, thousands)\n");
    for (int i = 0; i < PELT_YEARS; i++)
        fprintf(f, "%d %g %g\n", PELT_FIRST_YEAR + i, pelts_hare[i], pelts_lynx[i]);
    fclose(f);
    f = example_file(directory, "lotka_volterra.gp");
    if (!f) return;
    fputs("set terminal pngcairo size 900,480 font 'sans,11'\n"
          "set output 'lotka_volterra.png'\n"
          "set title 'Lotka-Volterra model of the Hudson Bay pelts'\n"
          "set xlabel 'year'\nset ylabel 'pelts (thousands)'\nset key top right\nset grid lc rgb "
          "'#dddddd'\n"
          "plot 'lotka_volterra.dat' index 0 using 1:2 with lines lw 2 lc rgb '#1f77b4' title "
          "'hare, model', \\\n"
          "     '' index 0 using 1:3 with lines lw 2 lc rgb '#d62728' title 'lynx, model', \\\n"
          "     '' index 1 using 1:2 with points pt 7 lc rgb '#1f77b4' title 'hare, pelts', \\\n"
          "     '' index 1 using 1:3 with points pt 5 lc rgb '#d62728' title 'lynx, pelts'\n",
          f);
    fclose(f);
    example_picture(directory, "lotka_volterra");
}

int main(int argc, char **argv)
{
    int64_t steps = 1200, years = PELT_YEARS;
    double rate = 0.05;
    const char *directory = "out";
    const example_option options[] = {
        { "years", EXAMPLE_INTEGER, &years, "fit the first N years, 3 to 21" },
        { "steps", EXAMPLE_INTEGER, &steps, "updates by Adam" },
        { "rate", EXAMPLE_NUMBER, &rate, "learning rate at the start; it falls along a cosine" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Fits the four rates of the Lotka-Volterra equations to the Hudson Bay pelts.",
        options);
    if (done) return done - 1;
    if (years < 3 || years > PELT_YEARS)
        return example_failed("--years", "must be between 3 and 21");
    if (!example_directory(directory)) return 1;

    problem p = { nn_model_new(), years };
    if (!p.model) return example_failed("model", NULL);
    nn_model_add(p.model, "log_rates", AD_SHAPE(4), nn_init_zeros, 1, 1);
    nn_model_add(p.model, "log_start", AD_SHAPE(2), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(p.model, AD_F64, NULL);
    double *log_rates = nn_theta_f64(theta, "log_rates"),
           *log_start = nn_theta_f64(theta, "log_start");
    if (nn_theta_error(theta)) return example_failed("theta", nn_theta_error(theta));
    double data[2 * PELT_YEARS], fit[2 * 401], mse = 0;
    char error[512];

    /* A plain start; the first counts. */
    const double start[4] = { 0.5, 0.02, 0.5, 0.02 };
    for (int i = 0; i < 4; i++) log_rates[i] = log(start[i]);
    log_start[0] = log(pelts_hare[0]);
    log_start[1] = log(pelts_lynx[0]);
    for (int i = 0; i < PELT_YEARS; i++) {
        data[2 * i] = pelts_hare[i];
        data[2 * i + 1] = pelts_lynx[i];
    }
    nn_train_report report;
    double seconds = 0;
    for (int stage = 0; stage < 3; stage++) {
        static const int64_t horizons[3] = { 8, 14, PELT_YEARS };
        p.years = horizons[stage] < years && stage < 2 ? horizons[stage] : years;
        char label[64];
        snprintf(label, sizeof label, "%lld years", (long long)p.years);
        nn_array pelts = nn_array_of(AD_SHAPE(AD_ROWS, p.years, 2), data);
        nn_train_options train = { .loss = loss,
                                   .user = &p,
                                   .narray = 1,
                                   .arrays = &pelts,
                                   .examples = 1,
                                   .optimizer = { .rate = rate, .schedule = schedule },
                                   .steps = stage < 2 ? (steps + 3) / 4 : (steps + 1) / 2,
                                   .threads = 1,
                                   .label = label };
        if (nn_train(theta, &train, &report, error, sizeof error))
            return example_failed("training", error);
        seconds += report.seconds;
    }

    printf("%-26s %8s %8s %8s %8s %8s %8s\n", "", "a", "b", "c", "d", "u(1900)", "v(1900)");
    printf("%-26s %8.4f %8.5f %8.4f %8.5f %8.3f %8.3f\n", "this fit", exp(log_rates[0]),
           exp(log_rates[1]), exp(log_rates[2]), exp(log_rates[3]), exp(log_start[0]),
           exp(log_start[1]));
    printf("%-26s %8.4f %8.5f %8.4f %8.5f %8.3f %8.3f\n", "published posterior means", 0.547,
           0.0277, 0.800, 0.0241, 34.035, 5.936);

    /* The fitted model once more, finely, without training: the same function of theta evaluated
     * lazily. */
    ad_tape *tape = ad_tape_new(AD_F64);
    if (!tape) return example_failed("tape", NULL);
    ad_var w = nn_theta_param(tape, theta);
    ad_tape_set_rows(tape, 1); /* one trajectory */
    if (ad_get(trajectory(&p, tape, w, ode_linspace(tape, 0, 20, 401)), fit))
        return example_failed("solution", ad_tape_error(tape));
    for (int i = 0; i < years; i++)
        for (int k = 0; k < 2; k++)
            mse += pow(log(fit[2 * 20 * i + k]) - log(data[2 * i + k]), 2) / (double)(2 * years);
    printf("root mean square error of the logarithms: %.4f (%.1f s)\n", sqrt(mse), seconds);
    write_results(directory, fit, 401);
    ad_tape_free(tape);
    nn_theta_free(theta);
    nn_model_free(p.model);
    return 0;
}
