/* Weights that outlive their program.
 *
 *     weights train FILE    fits a small network to sin on [-3, 3] and saves its weights in FILE
 * (safetensors) weights use FILE      another program: builds the same network, loads the weights
 * and evaluates it at new points
 *
 * Only the model has to be the same: loading compares names, shapes and types. */
#include <costate.h>
#include <math.h>
#include <string.h>

enum { POINTS = 64 };

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_mse(nn_mlp_apply(user, theta, batch[0]), batch[1]);
}

static int train(nn_theta *theta, nn_mlp *mlp, char *error, size_t size)
{
    double x[POINTS], y[POINTS];
    for (int i = 0; i < POINTS; i++) {
        x[i] = -3 + 6.0 * i / (POINTS - 1);
        y[i] = sin(x[i]);
    }
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), y) };
    nn_train_options options = {
        .loss = loss, .user = mlp, .narray = 2, .arrays = arrays, .examples = POINTS, .steps = 1500
    };
    options.optimizer.rate = 0.02;
    options.optimizer.schedule = nn_schedule_cosine;
    nn_train_report report;
    if (nn_train(theta, &options, &report, error, size)) return -1;
    printf("loss %.1e after %d updates\n", report.last_loss, (int)report.steps);
    return 0;
}

static int use(const nn_theta *theta, const nn_mlp *mlp)
{
    const double points[] = { -2, 0.5, 1 };
    double result[3];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var y = nn_mlp_apply(mlp, nn_theta_param(tape, theta), x);
    const double *data[] = { points };
    double *results[] = { result };
    int status = ad_evaluate_f64(AD_VARS(x), data, 3, AD_VARS(y), results);
    if (status) fprintf(stderr, "%s\n", ad_tape_error(tape));
    for (int i = 0; i < 3 && !status; i++)
        printf("network %.3f, sin %.3f\n", result[i], sin(points[i]));
    ad_tape_free(tape);
    return status;
}

int main(int argc, char **argv)
{
    bool training = argc == 3 && !strcmp(argv[1], "train");
    if (!training && !(argc == 3 && !strcmp(argv[1], "use"))) {
        fprintf(stderr, "usage: weights train FILE | weights use FILE\n");
        return 2;
    }
    char error[512] = "";
    nn_model *model = nn_model_new();
    nn_mlp mlp = nn_mlp_new(model, "mlp", 3, (int64_t[]){ 1, 16, 1 }, ad_tanh, NULL);
    ad_rng rng = ad_rng_seed(1);
    nn_theta *theta = nn_theta_new(model, AD_F64, training ? &rng : NULL);
    int status;
    if (training)
        status =
            train(theta, &mlp, error, sizeof error) || nn_save(argv[2], theta, error, sizeof error);
    else status = nn_load(argv[2], theta, error, sizeof error) || use(theta, &mlp);
    if (error[0]) fprintf(stderr, "%s\n", error);
    nn_theta_free(theta);
    nn_model_free(model);
    return status != 0;
}
