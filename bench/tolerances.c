/* Tolerances of training and of use: a normalizing flow is trained at several tolerances, and each
 * result is evaluated at several, on points that it has not seen. The tables of docs/training.md.
 * Data: eight Gaussians on a ring, whose density is known. */
#include "costate.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 512, TEST = 4096, STEPS = 600 };

typedef struct {
    nn_mlp mlp;
    const ode_method *method;
    double tolerance;
    ode_stats *stats;
} flow;

static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const flow *f = user;
    (void)t;
    return nn_mlp_apply(&f->mlp, args[0], x);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const flow *f = user;
    ode_cnf cnf = { .field = field,
                    .user = user,
                    .horizon = 1,
                    .options = { .method = f->method,
                                 .rtol = f->tolerance,
                                 .atol = f->tolerance,
                                 .stats = f->stats } };
    (void)tape;
    return ad_neg(ad_mean_all(ode_cnf_log_density(&cnf, batch[0], 1, &theta)));
}

/* n points; the mean of -log p over them. */
static double ring(ad_rng *rng, int64_t n, double *x)
{
    const double radius = 2, deviation = 0.3, pi = acos(-1);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double angle = pi / 4 * (double)ad_rng_below(rng, 8), density = 0;
        x[2 * i] = radius * cos(angle) + deviation * ad_rng_normal(rng);
        x[2 * i + 1] = radius * sin(angle) + deviation * ad_rng_normal(rng);
        for (int k = 0; k < 8; k++) {
            double u = (x[2 * i] - radius * cos(pi / 4 * k)) / deviation;
            double v = (x[2 * i + 1] - radius * sin(pi / 4 * k)) / deviation;
            density += exp(-(u * u + v * v) / 2) / (16 * pi * deviation * deviation);
        }
        sum -= log(density);
    }
    return sum / (double)n;
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    ring(step->rng, step->rows, out[0]);
    return 0;
}

/* The loss on the test points, in double, and how often the field was evaluated for it. */
static double evaluate(const flow *f, nn_theta *theta, const double *x, double tolerance,
                       int64_t *evaluations)
{
    ode_stats stats = { 0 };
    flow own = { f->mlp, f->method, tolerance, &stats };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), TEST, x);
    double value = ad_item(loss(tape, nn_theta_param(tape, theta), &in, &own));
    *evaluations = stats.evaluations;
    if (ad_tape_error(tape)) fprintf(stderr, "%s\n", ad_tape_error(tape));
    ode_stats_clear(&stats);
    ad_tape_free(tape);
    return value;
}

static nn_theta *in_double(nn_theta *theta)
{
    int64_t n = nn_theta_size(theta);
    nn_theta *wide = nn_theta_new(nn_theta_model(theta), AD_F64, NULL);
    const float *from = nn_theta_f32(theta, NULL);
    double *to = nn_theta_f64(wide, NULL);
    for (int64_t i = 0; i < n; i++) to[i] = from[i];
    return wide;
}

static void print_use(const flow *f, nn_theta *theta, const double *x)
{
    static const double use[] = { 1e-1, 1e-2, 1e-3, 1e-4, 1e-6 };
    enum { USE = sizeof use / sizeof *use };
    int64_t evaluations;
    nn_theta *wide = in_double(theta);
    flow best = *f;
    best.method = &ode_dopri8;
    double right = evaluate(&best, wide, x, 1e-10, &evaluations);
    printf(" %.4f |", right);
    for (int k = 0; k < USE; k++) {
        double value = evaluate(f, wide, x, use[k], &evaluations);
        printf(" %+.1e (%lld) |", value - right, (long long)evaluations);
    }
    puts("");
    fflush(stdout);
    nn_theta_free(wide);
}

static bool train(const ode_method *method, double tolerance, const double *x)
{
    nn_model *model = nn_model_new();
    int64_t sizes[] = { 2, 64, 64, 2 };
    flow f = { nn_mlp_new(model, "net", 4, sizes, ad_tanh, NULL), method, tolerance, NULL };
    ad_rng start = ad_rng_seed(2);
    nn_theta *theta = nn_theta_new(model, AD_F32, &start);
    nn_array data = nn_array_drawn(AD_SHAPE(AD_ROWS, 2));
    nn_train_options options = { .loss = loss,
                                 .user = &f,
                                 .narray = 1,
                                 .arrays = &data,
                                 .draw = draw,
                                 .batch = BATCH,
                                 .steps = STEPS,
                                 .seed = 3,
                                 .optimizer = { .rate = 5e-3, .schedule = nn_schedule_cosine } };
    nn_train_report report;
    char error[600];
    bool fine = nn_train(theta, &options, &report, error, sizeof error) == 0;
    if (!fine) fprintf(stderr, "%s\n", error);
    if (fine) printf("| %s, %g | %.0f |", ode_method_name(method), tolerance, report.seconds);
    if (fine) print_use(&f, theta, x);
    nn_theta_free(theta);
    nn_model_free(model);
    return fine;
}

int main(void)
{
    static const double tolerances[] = { 1e-1, 1e-2, 1e-3 };
    enum { COUNT = sizeof tolerances / sizeof *tolerances };
    static double x[2 * TEST];
    ad_rng rng = ad_rng_seed(1);
    bool fine = true;
    printf("the true density: %.4f nats\n\n", ring(&rng, TEST, x));
    puts("| trained at | seconds | used at 1e-10 | 1e-1 | 1e-2 | 1e-3 | 1e-4 | 1e-6 |");
    puts("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (int i = 0; fine && i < 2 * COUNT; i++)
        fine = train(i < COUNT ? &ode_dopri5 : &ode_heun, tolerances[i % COUNT], x);
    return !fine;
}
