/* Classification: three arms of a spiral in the plane, told apart by a small network.
 *
 * The loss is the cross entropy of the network's three outputs and the arm's number; the class it
 * says is the place of the largest output. A fifth of the points is kept for testing. */
#include <costate.h>
#include <math.h>

enum { CLASSES = 3, TRAINING = 480, TESTING = 120 };

/* Points [n,2] and their arms [n,1]. */
static void draw(ad_rng *rng, int n, double *x, double *arm)
{
    for (int i = 0; i < n; i++) {
        double radius = ad_rng_uniform(rng), class_ = (double)ad_rng_below(rng, CLASSES);
        double angle = 2.0943951023931953 * class_ + 4 * radius + 0.15 * ad_rng_normal(rng);
        arm[i] = class_;
        x[2 * i] = radius * cos(angle);
        x[2 * i + 1] = radius * sin(angle);
    }
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_cross_entropy(nn_mlp_apply(user, theta, batch[0]), batch[1]);
}

/* The share of points whose class is found. */
static double accuracy(const nn_theta *theta, const nn_mlp *mlp, int n, const double *x,
                       const double *arm)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var points = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, x),
           truth = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), n, arm);
    ad_var said = ad_argmax(nn_mlp_apply(mlp, nn_theta_param(tape, theta), points), 1, true);
    double share = ad_item(ad_mean_all(ad_eq(said, truth)));
    if (ad_tape_error(tape)) fprintf(stderr, "%s\n", ad_tape_error(tape));
    ad_tape_free(tape);
    return share;
}

int main(void)
{
    static double x[2 * (TRAINING + TESTING)], arm[TRAINING + TESTING];
    ad_rng rng = ad_rng_seed(7);
    draw(&rng, TRAINING + TESTING, x, arm);
    nn_model *model = nn_model_new();
    nn_mlp mlp = nn_mlp_new(model, "mlp", 4, (int64_t[]){ 2, 32, 32, CLASSES }, ad_tanh, NULL);
    nn_theta *theta = nn_theta_new(model, AD_F64, &rng);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 2), x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), arm) };
    nn_train_options options = { .loss = loss, .user = &mlp, .narray = 2, .arrays = arrays };
    options.examples = TRAINING;
    options.batch = 96;
    options.steps = 1000;
    options.optimizer.rate = 0.01;
    options.optimizer.schedule = nn_schedule_cosine;
    nn_train_report report;
    char error[512];
    if (nn_train(theta, &options, &report, error, sizeof error)) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    printf("loss from %.2f to %.2f\n", report.first_loss, report.last_loss);
    printf("training accuracy %.3f\n", accuracy(theta, &mlp, TRAINING, x, arm));
    printf("testing accuracy %.3f\n",
           accuracy(theta, &mlp, TESTING, x + 2 * TRAINING, arm + TRAINING));
    nn_theta_free(theta);
    nn_model_free(model);
}
