/* What a training step costs beyond its program of loss and gradient: the same batch through
 * nn_trainer_step and through the program alone, in turn; medians. */
#include "costate.h"
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 301, WIDE = 512 };

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_mse(nn_mlp_apply(user, theta, batch[0]), batch[1]);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(const char *name, int64_t in, int64_t hidden, int64_t batch)
{
    int64_t examples = 4 * batch, sizes[] = { in, hidden, hidden, in };
    float *x = malloc((size_t)(examples * in) * sizeof *x), value;
    ad_rng rng = ad_rng_seed(1);
    for (int64_t i = 0; x && i < examples * in; i++) x[i] = (float)ad_rng_normal(&rng);
    nn_model *model = nn_model_new();
    nn_mlp mlp = nn_mlp_new(model, "net", 4, sizes, ad_tanh, NULL);
    nn_theta *theta = nn_theta_new(model, AD_F32, &rng);
    nn_theta *gradient = nn_theta_new(model, AD_F32, NULL);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, in), x),
                          nn_array_of(AD_SHAPE(AD_ROWS, in), x) };
    nn_train_options options = { .loss = loss,
                                 .user = &mlp,
                                 .narray = 2,
                                 .arrays = arrays,
                                 .examples = examples,
                                 .batch = batch,
                                 .steps = 2 * ROUNDS,
                                 .threads = 1 };
    nn_trainer *trainer = nn_trainer_new(theta, &options);
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var v[3] = { ad_param(tape, AD_SHAPE(nn_theta_size(theta)), NULL),
                    ad_input_rows(tape, arrays[0].shape, 0, NULL),
                    ad_input_rows(tape, arrays[1].shape, 0, NULL) };
    ad_var out[2] = { loss(tape, v[0], v + 1, &mlp) };
    ad_grad(out[0], 1, v, &out[1]);
    ad_program *program = ad_compile(3, v, 2, out);
    ad_workspace *workspace = program ? ad_workspace_new(program, 1) : NULL;
    double step[ROUNDS], run[ROUNDS];
    bool fine = x && workspace && !nn_trainer_error(trainer);
    for (int i = 0; fine && i < ROUNDS; i++) {
        const void *inputs[] = { nn_theta_data(theta), x, x };
        void *outputs[] = { &value, nn_theta_data(gradient) };
        double start = bench_now();
        fine = nn_trainer_step(trainer) == 1;
        double middle = bench_now();
        fine = fine && ad_run(program, workspace, batch, inputs, outputs) == 0;
        run[i] = bench_now() - middle;
        step[i] = middle - start;
    }
    if (!fine) fprintf(stderr, "%s: %s\n", name, nn_trainer_error(trainer));
    qsort(step, ROUNDS, sizeof *step, by_size);
    qsort(run, ROUNDS, sizeof *run, by_size);
    if (fine)
        printf("training %-7s %6lld parameters, batch %lld: step %8.1f us, program %8.1f us, "
               "ratio %.3f\n",
               name, (long long)nn_model_parameters(model), (long long)batch,
               1e6 * step[ROUNDS / 2], 1e6 * run[ROUNDS / 2], step[ROUNDS / 2] / run[ROUNDS / 2]);
    ad_workspace_free(workspace);
    ad_program_free(program);
    ad_tape_free(tape);
    nn_trainer_free(trainer);
    nn_theta_free(gradient);
    nn_theta_free(theta);
    nn_model_free(model);
    free(x);
    return !fine;
}

int main(void) { return measure("small", 2, 64, WIDE) | measure("medium", 64, 256, WIDE); }
