#include "pendulum.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    IDEAL = 25,
    IDEAL_TIMES = 45,
    WINDOW = 50,
    IDEAL_WINDOW = 20,
    LONG = 301,
    LATE = LONG / 10,
    MOST_TIMES = 401
};
static const double pi = 3.14159265358979323846;
/* Of the measured pendulum, kg m^2: 0.57 kg at 0.5 m. */
static const double inertia = 0.57 * 0.5 * 0.5;

/* ---- fields ---------------------------------------------------------------------------------- */

bool pendulum_net_new(pendulum_net *net, int64_t outputs, int64_t width, uint64_t seed)
{
    ad_rng rng = ad_rng_seed(seed);
    net->model = nn_model_new();
    if (!outputs) nn_model_add(net->model, "stiffness", AD_SHAPE(1), nn_init_zeros, 1, 1);
    else
        net->network = nn_mlp_new(net->model, "network", 4, (int64_t[]){ 3, width, width, outputs },
                                  ad_tanh, nn_init_xavier_uniform);
    /* logarithms of the viscous and the dry friction */
    if (net->driven) nn_model_add(net->model, "friction", AD_SHAPE(2), nn_init_zeros, 1, 1);
    net->theta = nn_theta_new(net->model, AD_F64, &rng);
    const char *error = nn_theta_error(net->theta);
    if (net->theta && !error) return true;
    example_failed(net->name, error);
    return false;
}

void pendulum_net_clear(pendulum_net *net)
{
    nn_theta_free(net->theta);
    nn_model_free(net->model);
}

ad_var pendulum_network(const pendulum_net *net, ad_var theta, ad_var angle, ad_var speed)
{
    ad_var features =
        ad_concatenate(AD_VARS(ad_cos(angle), ad_sin(angle), ad_scale(speed, 0.2)), 1);
    return nn_mlp_apply(&net->network, theta, features);
}

/* 0, step, 2 step, ...: the knots of the torque are the times of solves, to the bit. */
static ad_var times_of(ad_tape *tape, int64_t n, double step)
{
    double at[MOST_TIMES];
    for (int64_t i = 0; i < n; i++) at[i] = step * (double)i;
    return ad_constant(tape, AD_SHAPE(n), at);
}

ad_var pendulum_force(const pendulum_net *net, ad_var t, ad_var speed, const ad_var *args)
{
    if (!net->driven) return ad_zeros_like(speed);
    ad_var size[2], knots = times_of(t.tape, net->times, net->step);
    ad_split(ad_exp(nn_model_get(net->model, args[0], "friction")), 0, 2, NULL, size);
    ad_var pushed = ad_scale(ode_interpolate(ODE_HOLD, t, knots, args[1]), 1 / inertia);
    ad_var viscous = ad_mul(speed, size[0]), dry = ad_mul(ad_tanh(ad_scale(speed, 10)), size[1]);
    return ad_sub(pushed, ad_add(viscous, dry));
}

ad_var pendulum_plain(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const pendulum_net *net = user;
    ad_var angle = ad_slice(y, 1, 0, 1), speed = ad_slice(y, 1, 1, 2);
    ad_var force = pendulum_force(net, t, speed, args);
    ad_var known = ad_concatenate(AD_VARS(speed, force), 1);
    return ad_add(pendulum_network(net, args[0], angle, speed), known);
}

ad_var pendulum_textbook(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const pendulum_net *net = user;
    ad_var angle = ad_slice(y, 1, 0, 1), speed = ad_slice(y, 1, 1, 2);
    ad_var back = ad_mul(ad_sin(angle), ad_exp(nn_model_get(net->model, args[0], "stiffness")));
    ad_var force = pendulum_force(net, t, speed, args);
    return ad_concatenate(AD_VARS(speed, ad_sub(force, back)), 1);
}

/* States at n times from the starts y0 [rows,2] on, an equal number of steps between them. */
static ad_var trajectories(pendulum_net *net, ad_var theta, ad_var y0, ad_var torque, int64_t n,
                           double step, const ode_method *method, int64_t steps)
{
    const ad_var args[] = { theta, torque };
    return ode_solve(net->field, net, y0, net->driven ? 2 : 1, args, times_of(theta.tape, n, step),
                     &(ode_options){ .method = method, .steps = steps });
}

/* The same as numbers, out [rows,n,2]; false after explaining. */
static bool follow(pendulum_net *net, int64_t rows, const double *start, const double *torque,
                   int64_t n, double step, const ode_method *method, int64_t steps, double *out)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), rows, start), u = { 0 };
    if (net->driven) u = ad_input_rows(tape, AD_SHAPE(AD_ROWS, net->times, 1), rows, torque);
    ad_var y = trajectories(net, nn_theta_param(tape, net->theta), y0, u, n, step, method, steps);
    const bool fine = ad_get(y, out) == 0;
    if (!fine) example_failed(net->name, ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* ---- data ------------------------------------------------------------------------------------ */

static bool set_new(pendulum_set *set)
{
    const size_t n = (size_t)(set->rows * set->times);
    set->state = calloc(n, 2 * sizeof *set->state);
    set->torque = calloc(n, sizeof *set->torque);
    if (!set->state || !set->torque) example_failed("pendulum", NULL);
    return set->state && set->torque;
}

void pendulum_set_clear(pendulum_set *set)
{
    free(set->state);
    free(set->torque);
    *set = (pendulum_set){ 0 };
}

/* All stretches of `times` times that begin `every` times apart, and where `mirrored` the same with
 * left for right. */
static bool stretches(const pendulum_set *from, int64_t times, int64_t every, bool mirrored,
                      pendulum_set *to)
{
    const int64_t each = (from->times - times) / every + 1, all = from->rows * each;
    *to = (pendulum_set){ .rows = mirrored ? 2 * all : all, .times = times, .step = from->step };
    if (!set_new(to)) return false;
    for (int64_t i = 0; i < to->rows; i++) {
        const int64_t at = i % all / each * from->times + i % each * every;
        const double sign = i < all ? 1 : -1;
        for (int64_t k = 0; k < 2 * times; k++)
            to->state[2 * i * times + k] = sign * from->state[2 * at + k];
        for (int64_t k = 0; k < times; k++) to->torque[i * times + k] = sign * from->torque[at + k];
    }
    return true;
}

/* A column of a table at time t: between its rows, straight lines. */
static double at_time(const nn_table *table, int64_t column, double t)
{
    int64_t i = 1;
    const double *row = table->data;
    while (i + 1 < table->rows && row[i * table->columns] < t) i++;
    const double *a = row + (i - 1) * table->columns, *b = row + i * table->columns;
    return a[column] + (t - a[0]) / (b[0] - a[0]) * (b[column] - a[column]);
}

/* The mean of a column from time `from` to time `to`. */
static double mean_of(const nn_table *table, int64_t column, double from, double to)
{
    double sum = 0, n = 0;
    for (int64_t i = 0; i < table->rows; i++) {
        const double *row = table->data + i * table->columns;
        const bool inside = row[0] >= from && row[0] < to;
        sum += inside ? row[column] : 0;
        n += inside;
    }
    return sum / n;
}

/* A file of time, position, velocity and torque, up to `end` seconds. The speed is a difference of
 * angles, which are exacter than the measured speed. */
static bool read_file(const char *folder, const char *name, double end, pendulum_set *set)
{
    const double step = 0.02;
    const nn_csv_column wanted[] = { { .name = "time" },
                                     { .name = "position" },
                                     { .name = "torque" } };
    char path[4096], error[512];
    nn_table table;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (nn_read_csv(path, &(nn_csv_options){ .ncolumn = 3, .columns = wanted, .only = true },
                    &table, error, sizeof error)) {
        example_failed("measurements", error);
        return false;
    }
    const double last = fmin(end, table.data[3 * (table.rows - 1)]);
    *set = (pendulum_set){ .rows = 1, .times = (int64_t)(last / step) - 2, .step = step };
    const bool fine = set_new(set);
    for (int64_t i = 0; fine && i < set->times; i++) {
        const double t = step * (double)(i + 1);
        set->state[2 * i] = at_time(&table, 1, t);
        set->state[2 * i + 1] =
            (at_time(&table, 1, t + step) - at_time(&table, 1, t - step)) / (2 * step);
        set->torque[i] = mean_of(&table, 2, t, t + step);
    }
    nn_table_clear(&table);
    return fine;
}

/* A driven pendulum with friction, by the textbook: one trajectory of 8 s. */
static bool make_driven(ad_rng *rng, pendulum_set *set)
{
    pendulum_net truth = { .name = "stand-in", .field = pendulum_textbook, .driven = true };
    const double friction[] = { log(0.2), log(2) }, stiffness = log(19.2);
    *set = (pendulum_set){ .rows = 1, .times = 300, .step = 0.02 };
    truth.step = set->step;
    truth.times = set->times;
    bool fine = set_new(set) && pendulum_net_new(&truth, 0, 0, 1);
    const double phase = 2 * pi * ad_rng_uniform(rng);
    for (int64_t i = 0; fine && i < set->times; i++)
        set->torque[i] = 1.5 * sin(4 * set->step * (double)i + phase) + 0.5 * ad_rng_normal(rng);
    const double start[] = { ad_rng_normal(rng), 0 };
    fine = fine && !nn_theta_set(truth.theta, "friction", 2, friction) &&
           !nn_theta_set(truth.theta, "stiffness", 1, &stiffness) &&
           follow(&truth, 1, start, set->torque, set->times, set->step, &ode_rk4, 4, set->state);
    for (int64_t i = 0; fine && i < 2 * set->times; i++)
        set->state[i] += (i % 2 ? 0.05 : 0.002) * ad_rng_normal(rng);
    pendulum_net_clear(&truth);
    return fine;
}

/* The ideal pendulum of Greydanus et al. 2019, section 3: energy 3 (1 - cos q) + p^2, so that the
 * speed is 2 p; 45 times in 3 time units, and noise of 0.1 on q and p. */
static double energy_of(const double *state)
{
    return 3 * (1 - cos(state[0])) + state[1] * state[1] / 4;
}

static bool make_ideal(ad_rng *rng, double noise, pendulum_set *set)
{
    pendulum_net truth = { .name = "ideal pendulum", .field = pendulum_textbook };
    const double stiffness = log(6);
    double start[2 * IDEAL];
    *set = (pendulum_set){ .rows = IDEAL, .times = IDEAL_TIMES, .step = 3.0 / (IDEAL_TIMES - 1) };
    for (int i = 0; i < IDEAL; i++) {
        double q = 2 * ad_rng_uniform(rng) - 1, p = 2 * ad_rng_uniform(rng) - 1;
        const double size = (1.3 + ad_rng_uniform(rng)) / hypot(q, p);
        start[2 * i] = q * size;
        start[2 * i + 1] = 2 * p * size;
    }
    bool fine = set_new(set) && pendulum_net_new(&truth, 0, 0, 1) &&
                !nn_theta_set(truth.theta, "stiffness", 1, &stiffness) &&
                follow(&truth, IDEAL, start, NULL, IDEAL_TIMES, set->step, &ode_rk4, 4, set->state);
    for (int64_t i = 0; fine && i < 2 * set->rows * set->times; i++)
        set->state[i] += noise * (i % 2 ? 2 : 1) * ad_rng_normal(rng);
    pendulum_net_clear(&truth);
    return fine;
}

/* ---- training -------------------------------------------------------------------------------- */

/* A horizon that training has reached. */
typedef struct {
    pendulum_net *net;
    int64_t times;
    double step, weight[2]; /* 1 / variance of angle and speed */
} horizon;

/* batch: states, torque. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const horizon *h = user;
    ad_var first = ad_reshape(ad_slice(batch[0], 1, 0, 1), AD_SHAPE(AD_ROWS, 2));
    ad_var y = trajectories(h->net, theta, first, batch[1], h->times, h->step, &ode_rk4, 1);
    ad_var errors = ad_square(ad_sub(y, ad_slice(batch[0], 1, 0, h->times)));
    return ad_mean_all(ad_mul(errors, ad_constant(tape, AD_SHAPE(1, 1, 2), h->weight)));
}

static void weigh(const pendulum_set *set, double *weight)
{
    const double n = (double)(set->rows * set->times);
    for (int k = 0; k < 2; k++) {
        double mean = 0, square = 0;
        for (int64_t i = k; i < 2 * set->rows * set->times; i += 2) {
            mean += set->state[i] / n;
            square += set->state[i] * set->state[i] / n;
        }
        weight[k] = 1 / (square - mean * mean);
    }
}

/* The four numbers of the textbook, by L-BFGS. */
static bool fit(pendulum_net *net, const pendulum_set *set, const nn_array *arrays, horizon *part)
{
    char error[512];
    for (int k = 0; k < 3; k++) {
        const nn_fit_options options = {
            .loss = loss, .user = &part[k], .narray = 2, .arrays = arrays, .examples = set->rows
        };
        if (nn_lbfgs(net->theta, &options, NULL, error, sizeof error) == 0) continue;
        example_failed(net->name, error);
        return false;
    }
    return true;
}

/* The horizon grows in three stages to all times of the set. */
static bool train(pendulum_net *net, const pendulum_set *set, int64_t steps, uint64_t seed)
{
    horizon part[3];
    nn_stage stages[3];
    for (int k = 0; k < 3; k++) {
        const int64_t grown[] = { set->times / 8 + 2, set->times / 3 + 2, set->times };
        part[k] = (horizon){ .net = net, .times = grown[k], .step = set->step };
        weigh(set, part[k].weight);
        stages[k] = (nn_stage){ .steps = steps / 3, .user = &part[k] };
    }
    const nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, set->times, 2), set->state),
                                nn_array_of(AD_SHAPE(AD_ROWS, set->times, 1), set->torque) };
    if (!net->network.nlayer) return fit(net, set, arrays, part);
    const nn_group friction = { .pattern = "friction", .rate = 5 };
    const nn_train_options options = { .processes = example_processes(),
                                       .loss = loss,
                                       .narray = 2,
                                       .arrays = arrays,
                                       .examples = set->rows,
                                       .batch = 64,
                                       .nstage = 3,
                                       .stages = stages,
                                       .optimizer = { .algorithm = &nn_adamw,
                                                      .ngroup = net->driven,
                                                      .groups = &friction,
                                                      .weight_decay = 0.1,
                                                      .rate = 5e-3,
                                                      .clip_norm = 1,
                                                      .schedule = nn_schedule_cosine },
                                       .seed = seed,
                                       .label = net->name };
    nn_train_report report;
    char error[512];
    const bool fine = nn_train(net->theta, &options, &report, error, sizeof error) == 0;
    if (!fine) example_failed(net->name, error);
    net->seconds = report.seconds;
    return fine;
}

/* ---- how good they are ----------------------------------------------------------------------- */

/* Root mean squares over all rows and times after the first: of angle, speed and energy. */
static bool errors_of(pendulum_net *net, const pendulum_set *set, double *rms)
{
    const int64_t n = set->rows * (set->times - 1);
    double *y = malloc((size_t)(set->rows * set->times) * 2 * sizeof *y);
    double *start = malloc((size_t)set->rows * 2 * sizeof *start);
    bool fine = y && start;
    for (int64_t i = 0; fine && i < 2 * set->rows; i++)
        start[i] = set->state[i / 2 * 2 * set->times + i % 2];
    fine =
        fine && follow(net, set->rows, start, set->torque, set->times, set->step, &ode_rk4, 1, y);
    for (int k = 0; k < 3; k++) rms[k] = 0;
    for (int64_t i = 0; fine && i < set->rows * set->times; i++) {
        const double off[] = { y[2 * i] - set->state[2 * i], y[2 * i + 1] - set->state[2 * i + 1],
                               energy_of(y + 2 * i) - energy_of(set->state + 2 * i) };
        for (int k = 0; k < 3; k++) rms[k] += off[k] * off[k] / (double)n;
    }
    for (int k = 0; k < 3; k++) rms[k] = sqrt(rms[k]);
    free(y);
    free(start);
    return fine;
}

static int by_size(const void *a, const void *b)
{
    const double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

/* The energy of the ideal pendulum in steps of 0.25 over 300 time units, by a field that has been
 * learned: curve [LONG] of the first trajectory; the median of the changes of all of them in the
 * last tenth. The mean would be that of the few that start next to the top: an error of the learned
 * energy that is small everywhere decides whether they swing or go round. */
static bool drift_of(pendulum_net *net, const pendulum_set *set, const ode_method *method,
                     double *curve, double *change)
{
    double *y = malloc(sizeof *y * 2 * IDEAL * LONG), start[2 * IDEAL], changes[IDEAL];
    for (int64_t i = 0; i < 2 * IDEAL; i++) start[i] = set->state[i / 2 * 2 * set->times + i % 2];
    const bool fine = y && follow(net, IDEAL, start, NULL, LONG, 1, method, 4, y);
    for (int64_t i = 0; fine && i < IDEAL; i++) {
        double late = 0;
        for (int64_t k = LONG - LATE; k < LONG; k++)
            late += energy_of(y + 2 * (i * LONG + k)) / LATE;
        changes[i] = fabs(late - energy_of(start + 2 * i));
    }
    if (fine) {
        qsort(changes, IDEAL, sizeof *changes, by_size);
        *change = changes[IDEAL / 2];
    }
    for (int64_t k = 0; fine && k < LONG; k++) curve[k] = energy_of(y + 2 * k);
    free(y);
    return fine;
}

/* ---- the study ------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    ode_field field;
    int64_t outputs;
} candidate;

static void print_errors(const pendulum_net *net, const double *rms, bool energy)
{
    printf("%-14s %10lld %9.1f %9.4f %9.4f", net->name, (long long)nn_model_parameters(net->model),
           net->seconds, rms[0], rms[1]);
    if (energy) printf(" %9.4f", rms[2]);
    printf("\n");
    fflush(stdout);
}

/* Energies of four solves side by side. */
static bool write_curves(const pendulum_options *o, double curve[4][LONG])
{
    char name[64];
    snprintf(name, sizeof name, "%s_energy.dat", o->picture);
    FILE *f = example_file(o->directory, name);
    for (int k = 0; f && k < LONG; k++)
        fprintf(f, "%d %.6g %.6g %.6g %.6g\n", k, curve[0][k], curve[1][k], curve[2][k],
                curve[3][k]);
    if (f) fclose(f);
    return f;
}

static bool study_ideal(const candidate *learned, const pendulum_options *o)
{
    static double curve[4][LONG];
    const candidate all[] = { { "plain", pendulum_plain, 2 }, *learned };
    ad_rng rng = ad_rng_seed((uint64_t)o->seed);
    pendulum_set noisy, train_set = { 0 }, test = { 0 };
    bool fine = make_ideal(&rng, 0.1, &noisy) && make_ideal(&rng, 0, &test) &&
                stretches(&noisy, IDEAL_WINDOW + 1, 1, true, &train_set);
    printf("ideal pendulum: %d trajectories of %d times with noise; errors of %d others without\n",
           IDEAL, IDEAL_TIMES, IDEAL);
    printf("%-14s %10s %9s %9s %9s %9s\n", "field", "parameters", "seconds", "angle", "speed",
           "energy");
    double change[4];
    for (int k = 0; fine && k < 2; k++) {
        pendulum_net net = { .name = all[k].name, .field = all[k].field };
        double rms[3];
        fine = pendulum_net_new(&net, all[k].outputs, o->width, (uint64_t)o->seed) &&
               train(&net, &train_set, o->steps, (uint64_t)o->seed) && errors_of(&net, &test, rms);
        if (fine) print_errors(&net, rms, true);
        fine = fine && drift_of(&net, &test, &ode_rk4, curve[2 * k], &change[2 * k]) &&
               drift_of(&net, &test, &ode_implicit_midpoint, curve[2 * k + 1], &change[2 * k + 1]);
        pendulum_net_clear(&net);
    }
    if (fine) {
        printf("median change of the energy after 300 time units in steps of 0.25:\n");
        for (int k = 0; k < 4; k++)
            printf("%-14s %-18s %9.4f\n", all[k / 2].name,
                   ode_method_name(k % 2 ? &ode_implicit_midpoint : &ode_rk4), change[k]);
    }
    fine = fine && write_curves(o, curve);
    pendulum_set_clear(&noisy);
    pendulum_set_clear(&train_set);
    pendulum_set_clear(&test);
    return fine;
}

/* The whole trajectory for testing by a field, beside it. */
static bool forecast(pendulum_net *net, const pendulum_set *whole, double *angle)
{
    double *y = malloc((size_t)whole->times * 2 * sizeof *y);
    const int64_t times = net->times;
    net->times = whole->times;
    const bool fine =
        y && follow(net, 1, whole->state, whole->torque, whole->times, whole->step, &ode_rk4, 1, y);
    net->times = times;
    for (int64_t i = 0; fine && i < whole->times; i++) angle[i] = y[2 * i];
    free(y);
    return fine;
}

/* Two experiments: one trains, the other judges. Files are read before anything is learned, so that
 * a missing one is known at once. */
static bool two_experiments(const pendulum_options *o, pendulum_set *first, pendulum_set *second)
{
    ad_rng rng = ad_rng_seed((uint64_t)o->seed + 1);
    if (!o->data) return make_driven(&rng, first) && make_driven(&rng, second);
    return read_file(o->data, "simple_energy_shaping_measured.csv", 7.6, first) &&
           read_file(o->data, "simple_sysid_measured.csv", 6, second);
}

static bool study_driven(const candidate *learned, const pendulum_options *o,
                         const pendulum_set *first, const pendulum_set *second)
{
    const candidate all[] = { { "textbook", pendulum_textbook, 0 },
                              { "plain", pendulum_plain, 2 },
                              *learned };
    static double angle[3][MOST_TIMES];
    char name[64];
    pendulum_set train_set = { 0 }, test = { 0 };
    bool fine = stretches(first, WINDOW + 1, 1, true, &train_set) &&
                stretches(second, WINDOW + 1, 5, false, &test);
    printf("%s: errors over 1 s of another experiment\n",
           o->data ? "measured pendulum"
                   : "data: a stand-in, a driven pendulum with friction made by this program "
                     "(--data reads a measured one)");
    printf("%-14s %10s %9s %9s %9s\n", "field", "parameters", "seconds", "angle", "speed");
    for (int k = 0; fine && k < 3; k++) {
        pendulum_net net = { .name = all[k].name,
                             .field = all[k].field,
                             .driven = true,
                             .step = train_set.step,
                             .times = train_set.times };
        double rms[3];
        fine = pendulum_net_new(&net, all[k].outputs, o->width, (uint64_t)o->seed) &&
               train(&net, &train_set, o->steps, (uint64_t)o->seed) &&
               errors_of(&net, &test, rms) && forecast(&net, second, angle[k]);
        if (fine) print_errors(&net, rms, false);
        pendulum_net_clear(&net);
    }
    snprintf(name, sizeof name, "%s_angle.dat", o->picture);
    FILE *f = fine ? example_file(o->directory, name) : NULL;
    for (int64_t i = 0; f && i < second->times; i++)
        fprintf(f, "%g %.6g %.6g %.6g %.6g\n", second->step * (double)(i + 1), second->state[2 * i],
                angle[0][i], angle[1][i], angle[2][i]);
    if (f) fclose(f);
    pendulum_set_clear(&train_set);
    pendulum_set_clear(&test);
    return f;
}

static void write_picture(const char *name, const pendulum_options *o)
{
    char script[64];
    snprintf(script, sizeof script, "%s.gp", o->picture);
    FILE *f = example_file(o->directory, script);
    if (!f) return;
    fprintf(f,
            "set terminal pngcairo size 1000,420 font 'sans,11'\nset output '%s.png'\n"
            "set multiplot layout 1,2\nset tics scale 0.5\nset grid lc rgb '#dddddd'\n"
            "set title 'A driven pendulum, from its first state on'\nset xlabel 's'\n"
            "set ylabel 'angle'\nset key top left\nset yrange [-4:6]\n"
            "plot '%s_angle.dat' using 1:2 with points pt 7 ps 0.4 lc rgb '#888888' title "
            "'%s', \\\n"
            "     '' using 1:4 with lines lw 2 lc rgb '#d62728' title 'plain', \\\n"
            "     '' using 1:5 with lines lw 2 lc rgb '#1f77b4' title '%s'\n",
            o->picture, o->picture, o->data ? "measured" : "stand-in", name);
    fprintf(f,
            "set title 'Energy of an ideal pendulum, in steps of 0.25'\nset xlabel 'time'\n"
            "set ylabel 'energy'\nset key top right\nset yrange [0:8]\n"
            "plot '%s_energy.dat' using 1:2 with lines lc rgb '#d62728' title 'plain, rk4', \\\n"
            "     '' using 1:4 with lines lc rgb '#88aa44' title '%s, rk4', \\\n"
            "     '' using 1:5 with lines lc rgb '#1f77b4' title '%s, implicit midpoint'\n",
            o->picture, name, name);
    fclose(f);
    example_picture(o->directory, o->picture);
}

int pendulum_study(const char *name, ode_field field, int64_t outputs, const pendulum_options *o)
{
    const candidate learned = { name, field, outputs };
    if (!example_directory(o->directory)) return 1;
    pendulum_set first = { 0 }, second = { 0 };
    const bool fine = two_experiments(o, &first, &second) && study_ideal(&learned, o) &&
                      study_driven(&learned, o, &first, &second);
    pendulum_set_clear(&first);
    pendulum_set_clear(&second);
    if (fine) write_picture(name, o);
    return fine ? 0 : 1;
}
