/* ranks DIRECTORY [die]: a training of which every process that mpirun starts computes a share.
 * Rank 0 prints the loss, and the sum and a hash of the weights; its checkpoint goes into the
 * directory. die: the last rank kills itself at step 60 of 100. */
#define _GNU_SOURCE
#include "nn/mpi.h"
#include "nn/nn.h"
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXAMPLES = 200, IN = 3, STEPS = 100 };

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_mse(nn_mlp_apply(user, theta, batch[0]), batch[1]);
}

static int die(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)theta, (void)user;
    if (step == 60) raise(SIGKILL);
    return 0;
}

static int train(nn_processes *all, const char *directory, bool dies)
{
    double x[EXAMPLES * IN], y[EXAMPLES];
    char error[600] = "", path[4000];
    for (int i = 0; i < EXAMPLES * IN; i++) x[i] = sin(0.7 * i * i);
    for (int i = 0; i < EXAMPLES; i++) y[i] = x[IN * i] * x[IN * i + 1];
    nn_model *model = nn_model_new();
    nn_mlp mlp = nn_mlp_new(model, "m", 3, (int64_t[]){ IN, 16, 1 }, ad_tanh, NULL);
    ad_rng rng = ad_rng_seed(3);
    nn_theta *theta = nn_theta_new(model, AD_F64, &rng);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, IN), x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), y) };
    nn_train_options o = { .loss = loss, .user = &mlp, .narray = 2, .arrays = arrays };
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", directory);
    o.examples = EXAMPLES;
    o.batch = 50;
    o.steps = STEPS;
    o.threads = 1;
    o.processes = all;
    o.checkpoint.path = path;
    o.checkpoint.every = 10;
    if (dies && all->rank == all->size - 1) o.on_step = die;
    nn_train_report report;
    int status = nn_train(theta, &o, &report, error, sizeof error);
    if (status) fprintf(stderr, "rank %d: %s\n", all->rank, error);
    uint64_t hash = 0, bits;
    double sum = 0;
    for (int64_t i = 0; i < nn_theta_size(theta); i++) {
        memcpy(&bits, nn_theta_f64(theta, NULL) + i, sizeof bits);
        hash = hash * 31 + bits;
        sum += nn_theta_f64(theta, NULL)[i];
    }
    if (all->rank == 0)
        printf("resumed %" PRId64 " loss %.12g sum %.12g hash %" PRIx64 "\n", report.resumed,
               report.last_loss, sum, hash);
    nn_theta_free(theta);
    nn_model_free(model);
    return status;
}

int main(int argc, char **argv)
{
    char error[600];
    nn_processes *all = argc > 1 ? nn_mpi_new(error, sizeof error) : NULL;
    if (!all) return fprintf(stderr, "%s\n", argc > 1 ? error : "usage: ranks DIRECTORY [die]") > 0;
    int status = train(all, argv[1], argc > 2);
    nn_mpi_free(all);
    return status != 0;
}
