/* Time to quality: seconds of training until a continuous normalizing flow of 8gaussians is within
 * 0.02 nats of the truth, on held-out points. bench/peers/quality.py does the same with the same
 * model, batches of the same size and the same optimiser. Evaluation is not part of the time,
 * recording and compiling are. */
#include "bench.h"
#include "costate.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HELD_OUT = 5000, BATCH = 512, STEPS = 600, EVERY = 20 };
static const double pi = 3.14159265358979323846, close_enough = 0.02;

typedef struct {
    nn_time_mlp network;
    ode_cnf flow;
} problem;

static ad_var field(ad_var t, ad_var x, const ad_var *args, void *user)
{
    const problem *p = user;
    return nn_time_mlp_apply(&p->network, args[0], t, x);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const problem *p = user;
    (void)tape;
    return ad_neg(ad_mean_all(ode_cnf_log_density(&p->flow, batch[0], 1, &theta)));
}

/* Eight Gaussians of deviation 0.5 on a circle of radius 4, all divided by 1.414. */
static void draw_point(ad_rng *rng, double *x)
{
    double angle = (double)ad_rng_below(rng, 8) * pi / 4;
    x[0] = (4 * cos(angle) + 0.5 * ad_rng_normal(rng)) / 1.414;
    x[1] = (4 * sin(angle) + 0.5 * ad_rng_normal(rng)) / 1.414;
}

static double log_density(const double *x)
{
    double s = 0.5 / 1.414, r = 4 / 1.414, sum = 0;
    for (int k = 0; k < 8; k++) {
        double u = x[0] - r * cos(k * pi / 4), v = x[1] - r * sin(k * pi / 4);
        sum += exp(-(u * u + v * v) / (2 * s * s));
    }
    return log(sum / 8 / (2 * pi * s * s));
}

static int draw(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t i = 0; i < step->rows; i++) draw_point(step->rng, &out[0][2 * i]);
    return 0;
}

int main(int argc, char **argv)
{
    static float test[2 * HELD_OUT];
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    ad_rng rng = ad_rng_seed(seed);
    nn_model *model = nn_model_new();
    problem p;
    p.network =
        nn_time_mlp_new(model, "field", NN_CONCAT, 4, (int64_t[]){ 2, 64, 64, 2 }, ad_tanh, NULL);
    p.flow = (ode_cnf){ field, &p, 1, { .method = &ode_dopri5, .rtol = 1e-4, .atol = 1e-4 } };
    nn_theta *theta = nn_theta_new(model, AD_F32, &rng);
    const nn_linear *last = &p.network.layer[p.network.nlayer - 1].linear;
    for (int64_t i = 0; i < last->in * last->out; i++)
        nn_theta_f32(theta, NULL)[last->weight + i] *= 0.1f; /* begins near the identity */
    double truth = 0;
    for (int i = 0; i < HELD_OUT; i++) {
        double x[2];
        draw_point(&rng, x);
        truth -= log_density(x) / HELD_OUT;
        for (int k = 0; k < 2; k++) test[2 * i + k] = (float)x[k];
    }
    ode_cnf tight = p.flow;
    tight.options.rtol = tight.options.atol = 1e-5;
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var w = nn_theta_param(tape, theta),
           held_out = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), HELD_OUT, test),
           nll = ad_neg(ad_mean_all(ode_cnf_log_density(&tight, held_out, 1, &w)));

    double seconds = 0, start = bench_now();
    nn_array points = nn_array_drawn(AD_SHAPE(AD_ROWS, 2));
    nn_train_options options = { .loss = loss,
                                 .user = &p,
                                 .narray = 1,
                                 .arrays = &points,
                                 .draw = draw,
                                 .batch = BATCH,
                                 .steps = STEPS,
                                 .optimizer = { .rate = 0.01, .schedule = nn_schedule_cosine },
                                 .seed = seed,
                                 .threads = threads };
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    double gap = INFINITY, reached = NAN, at = 0;
    bool fine = !nn_trainer_error(trainer) && !ad_tape_error(tape);
    for (int step = 1; step <= STEPS && fine; step++) {
        fine = nn_trainer_step(trainer) >= 0;
        if (step % EVERY) continue;
        seconds += bench_now() - start;
        ad_set_data(w, 1, AD_F32, nn_theta_data(theta));
        gap = ad_item(nll) - truth;
        if (isnan(reached) && gap < close_enough) {
            reached = seconds;
            at = step;
        }
        start = bench_now();
    }
    if (!fine) fprintf(stderr, "quality: %s\n", nn_trainer_error(trainer));
    printf("{\"case\": \"8gaussians\", \"peer\": \"costate\", \"threads\": %d, \"seed\": %llu, "
           "\"seconds\": %.3f, \"updates\": %g, \"all\": %.3f, \"gap\": %.4f}\n",
           threads, (unsigned long long)seed, reached, at, seconds, gap);
    nn_trainer_free(trainer);
    ad_tape_free(tape);
    nn_theta_free(theta);
    nn_model_free(model);
    return !fine;
}
