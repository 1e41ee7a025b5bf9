/* A network for the Lagrangian of a pendulum, and its equations of motion by differentiation
 * (Lagrangian neural networks, Cranmer et al. 2020, arXiv:2003.04630).
 *
 *   q'' = (d2L/dv2)^-1 (dL/dq - (d2L/dv dq) v + force),    L(q, v) = v.v / 2 + network
 *
 * Against a Hamiltonian this needs no momenta: angles and speeds are what one measures, whatever
 * the inertia. First the single pendulum, ideal and driven, as hamiltonian.c has it; then the
 * double pendulum of the paper, whose inertia depends on the angles: accelerations of random states
 * are learned, by the Lagrangian and by a plain network, and what is asked is whether solutions
 * keep the energy. Even the accelerations to be learned come from a Lagrangian by the same
 * function. */
#include "example.h"
#include "pendulum.h"
#include <math.h>
#include <stdlib.h>

enum { BATCH = 256, STARTS = 40, TIMES = 101 };

/* ---- the single pendulum --------------------------------------------------------------------- */

/* y: angle, speed. */
static ad_var lagrangian(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const pendulum_net *net = user;
    ad_var q = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), one = ad_ones_like(v), by[2];
    ad_var value = ad_add(ad_scale(ad_square(v), 0.5), pendulum_network(net, args[0], q, v));
    ad_var inertia, turning;
    ad_vjp(1, &value, &one, AD_VARS(q, v), by);
    ad_jvp(1, &v, &one, 1, &by[1], &inertia);
    ad_jvp(1, &q, &v, 1, &by[1], &turning);
    ad_var force = ad_add(ad_sub(by[0], turning), pendulum_force(net, t, v, args));
    return ad_concatenate(AD_VARS(v, ad_div(force, inertia)), 1);
}

/* ---- the double pendulum --------------------------------------------------------------------- */

typedef enum { TRUE_LAGRANGIAN, LEARNED_LAGRANGIAN, PLAIN } double_kind;
static const char *const kind_name[] = { "true", "lagrangian", "plain" };
typedef struct {
    double_kind kind;
    nn_model *model;
    nn_mlp network;
    nn_theta *theta;
    double seconds;
} double_net;

/* Two masses of 1 kg on rods of 1 m, q their angles to the vertical: kinetic less potential. */
static ad_var true_lagrangian(ad_var q, ad_var v)
{
    const double g = 9.8;
    ad_var q1 = ad_slice(q, 1, 0, 1), q2 = ad_slice(q, 1, 1, 2), v1 = ad_slice(v, 1, 0, 1),
           v2 = ad_slice(v, 1, 1, 2);
    ad_var joint = ad_mul(ad_mul(v1, v2), ad_cos(ad_sub(q1, q2)));
    ad_var kinetic = ad_add(ad_add(ad_square(v1), ad_scale(ad_square(v2), 0.5)), joint);
    return ad_add(kinetic, ad_add(ad_scale(ad_cos(q1), 2 * g), ad_scale(ad_cos(q2), g)));
}

static ad_var network(const double_net *net, ad_var theta, ad_var q, ad_var v)
{
    ad_var features = ad_concatenate(AD_VARS(ad_cos(q), ad_sin(q), ad_scale(v, 0.2)), 1);
    return nn_mlp_apply(&net->network, theta, features);
}

/* x with m x = b, for m [rows,2,2] and b [rows,2], by Cramer's rule. */
static ad_var solve_2(ad_var m, ad_var b)
{
    ad_var e[4], c[2];
    ad_split(ad_reshape(m, AD_SHAPE(AD_ROWS, 4)), 1, 4, NULL, e);
    ad_split(b, 1, 2, NULL, c);
    ad_var x = ad_sub(ad_mul(e[3], c[0]), ad_mul(e[1], c[1])),
           y = ad_sub(ad_mul(e[0], c[1]), ad_mul(e[2], c[0]));
    ad_var determinant = ad_sub(ad_mul(e[0], e[3]), ad_mul(e[1], e[2]));
    return ad_div(ad_concatenate(AD_VARS(x, y), 1), determinant);
}

/* Accelerations [rows,2] at angles q and speeds v [rows,2]. */
static ad_var accelerations(const double_net *net, ad_var theta, ad_var q, ad_var v)
{
    if (net->kind == PLAIN) return network(net, theta, q, v);
    ad_var value = true_lagrangian(q, v), by[2], turning;
    if (net->kind == LEARNED_LAGRANGIAN) {
        ad_var kinetic = ad_scale(ad_sum_axis(ad_square(v), 1, true), 0.5);
        value = ad_add(kinetic, network(net, theta, q, v));
    }
    ad_var one = ad_ones_like(value);
    ad_vjp(1, &value, &one, AD_VARS(q, v), by);
    ad_jvp(1, &q, &v, 1, &by[1], &turning);
    return solve_2(ad_jacobian(by[1], v), ad_sub(by[0], turning));
}

/* y: both angles, both speeds. */
static ad_var double_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var q = ad_slice(y, 1, 0, 2), v = ad_slice(y, 1, 2, 4);
    (void)t;
    return ad_concatenate(AD_VARS(v, accelerations(user, args[0], q, v)), 1);
}

/* batch[0]: states. The accelerations of random states have long tails: Huber's loss. */
static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const double_net truth = { .kind = TRUE_LAGRANGIAN };
    ad_var q = ad_slice(batch[0], 1, 0, 2), v = ad_slice(batch[0], 1, 2, 4);
    (void)tape;
    return nn_huber(accelerations(user, theta, q, v), accelerations(&truth, theta, q, v), 3);
}

static void draw_state(ad_rng *rng, double speed, double *state)
{
    for (int k = 0; k < 2; k++) state[k] = 3.14159265358979 * (2 * ad_rng_uniform(rng) - 1);
    for (int k = 2; k < 4; k++) state[k] = speed * ad_rng_normal(rng);
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t i = 0; i < step->rows; i++) draw_state(step->rng, 3, out[0] + 4 * i);
    return 0;
}

static bool train(double_net *net, int64_t width, int64_t steps, uint64_t seed)
{
    ad_rng rng = ad_rng_seed(seed);
    const int64_t outputs = net->kind == PLAIN ? 2 : 1;
    net->model = nn_model_new();
    net->network = nn_mlp_new(net->model, "network", 4, (int64_t[]){ 6, width, width, outputs },
                              ad_softplus, nn_init_xavier_uniform);
    net->theta = nn_theta_new(net->model, AD_F64, &rng);
    const nn_array states = nn_array_drawn(AD_SHAPE(AD_ROWS, 4));
    const nn_train_options options = {
        .processes = example_processes(),
        .loss = loss,
        .user = net,
        .narray = 1,
        .arrays = &states,
        .draw = draw,
        .batch = BATCH,
        .steps = steps,
        .optimizer = { .rate = 3e-3, .clip_norm = 1, .schedule = nn_schedule_cosine },
        .seed = seed,
        .label = kind_name[net->kind]
    };
    nn_train_report report;
    char error[512];
    const bool fine = nn_train(net->theta, &options, &report, error, sizeof error) == 0;
    if (!fine) example_failed(kind_name[net->kind], error);
    net->seconds = report.seconds;
    return fine;
}

static double energy_of(const double *y)
{
    const double kinetic = y[2] * y[2] + y[3] * y[3] / 2 + y[2] * y[3] * cos(y[0] - y[1]);
    return kinetic + 9.8 * (3 - 2 * cos(y[0]) - cos(y[1]));
}

/* Solutions over 10 s from 40 random states at rest: the mean change of energy, as a part of the
 * largest potential energy, over all times and at the end. */
static bool judge(double_net *net, uint64_t seed)
{
    static double y[4 * STARTS * TIMES];
    double start[4 * STARTS], change = 0, end = 0;
    const double most = 9.8 * 6;
    ad_rng rng = ad_rng_seed(seed + 1);
    for (int i = 0; i < STARTS; i++) draw_state(&rng, 0, start + 4 * i);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 4), STARTS, start);
    ad_var theta = net->theta ? nn_theta_param(tape, net->theta) : ad_scalar(tape, 0);
    ad_var way = ode_solve(double_field, net, y0, AD_VARS(theta), ode_linspace(tape, 0, 10, TIMES),
                           &(ode_options){ .rtol = 1e-8, .atol = 1e-8 });
    const bool fine = ad_get(way, y) == 0;
    if (!fine) example_failed(kind_name[net->kind], ad_tape_error(tape));
    for (int i = 0; fine && i < STARTS; i++)
        for (int k = 0; k < TIMES; k++) {
            const double off = fabs(energy_of(y + 4 * (i * TIMES + k)) - energy_of(start + 4 * i));
            change += off / (STARTS * TIMES * most);
            if (k == TIMES - 1) end += off / (STARTS * most);
        }
    const long long size = net->model ? (long long)nn_model_parameters(net->model) : 0;
    if (fine)
        printf("%-14s %10lld %9.1f %11.4f %% %11.4f %%\n", kind_name[net->kind], size, net->seconds,
               100 * change, 100 * end);
    fflush(stdout);
    ad_tape_free(tape);
    return fine;
}

static bool study_double(int64_t width, int64_t steps, uint64_t seed)
{
    bool fine = true;
    printf("double pendulum, 10 s from 40 states at rest: change of the energy, mean and at the "
           "end\n%-14s %10s %9s %13s %13s\n",
           "field", "parameters", "seconds", "mean", "end");
    for (double_kind kind = TRUE_LAGRANGIAN; fine && kind <= PLAIN; kind++) {
        double_net net = { .kind = kind };
        fine = (kind == TRUE_LAGRANGIAN || train(&net, width, steps, seed)) && judge(&net, seed);
        nn_theta_free(net.theta);
        nn_model_free(net.model);
    }
    return fine;
}

int main(int argc, char **argv)
{
    pendulum_options o = {
        .directory = "out", .picture = "lagrangian", .width = 32, .steps = 2400, .seed = 1
    };
    int64_t width = 96, steps = 20000;
    bool quick = false;
    const example_option options[] = {
        { "data", EXAMPLE_TEXT, &o.data,
          "folder of simple_energy_shaping_measured.csv and simple_sysid_measured.csv" },
        { "width", EXAMPLE_INTEGER, &o.width, "of the two hidden layers" },
        { "steps", EXAMPLE_INTEGER, &o.steps, "updates by AdamW of each field" },
        { "double-width", EXAMPLE_INTEGER, &width, "the same for the double pendulum" },
        { "double-steps", EXAMPLE_INTEGER, &steps, "the same for the double pendulum" },
        { "seed", EXAMPLE_INTEGER, &o.seed, "of everything that is drawn" },
        { "quick", EXAMPLE_FLAG, &quick, "small networks, trained for seconds" },
        { "out", EXAMPLE_TEXT, &o.directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(argc, argv, "Learns the Lagrangian of pendulums.", options);
    if (done) return done - 1;
    if (quick) {
        o.width = 16;
        o.steps = 300;
        width = 32;
        steps = 1000;
    }
    if (pendulum_study("lagrangian", lagrangian, 1, &o)) return 1;
    return study_double(width, steps, (uint64_t)o.seed) ? 0 : 1;
}
