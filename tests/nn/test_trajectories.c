/* Optimisers beside PyTorch's: fifty steps from the same start end in the same place. The numbers
 * are made by tests/reference/optimizers.py, where the loss and the cases are described. */
#include "nn/nn.h"
#include "tests/reference/optimizers.h"
#include "tests/support.h"
#include <math.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

enum { N = 15, STEPS = 50 };

static double loss_and_gradient(const double *x, double *g)
{
    double loss = 0;
    for (int i = 0; i < N; i++) g[i] = 0;
    for (int i = 0; i < N; i++) {
        int next = (i + 1) % N;
        double c = pow(10, -(i % 3)), off = x[i] - (i % 5 - 2.0), slope = cos(x[i] * x[next]);
        loss += c * off * off / 2 + sin(x[i] * x[next]);
        g[i] += c * off + x[next] * slope;
        g[next] += x[i] * slope;
    }
    return loss;
}

static const nn_group two_groups[] = {
    { .pattern = "w", .rate = 0.5, .weight_decay = 0.2 },
    { .pattern = "[a-c]", .no_decay = true },
};
static const nn_group frozen_matrix[] = { { .pattern = "w*", .frozen = true } };
static nn_steps_schedule halved = { .every = 7, .factor = 0.5 };

static const struct {
    const double *end;
    nn_optimizer_options options;
    bool metric; /* the loss plus 10 is told to the plateau */
} cases[] = {
    { sgd_50, { .algorithm = &nn_sgd, .rate = 0.05 }, false },
    { sgd_momentum_50, { .algorithm = &nn_sgd, .rate = 0.02, .momentum = 0.9 }, false },
    { sgd_nesterov_50,
      { .algorithm = &nn_sgd,
        .rate = 0.02,
        .momentum = 0.9,
        .nesterov = true,
        .weight_decay = 0.1 },
      false },
    { adam_50, { .rate = 0.1 }, false },
    { adam_decay_50,
      { .algorithm = &nn_adam,
        .rate = 0.1,
        .beta1 = 0.8,
        .beta2 = 0.95,
        .epsilon = 1e-3,
        .weight_decay = 0.2 },
      false },
    { adamw_50, { .algorithm = &nn_adamw, .rate = 0.1 }, false },
    { radam_50, { .algorithm = &nn_radam, .rate = 0.1 }, false },
    { radam_decay_50,
      { .algorithm = &nn_radam,
        .rate = 0.1,
        .beta1 = 0.8,
        .beta2 = 0.9,
        .epsilon = 1e-4,
        .weight_decay = 0.1 },
      false },
    { adamax_50, { .algorithm = &nn_adamax }, false },
    { adamax_decay_50,
      { .algorithm = &nn_adamax, .rate = 0.1, .beta1 = 0.8, .beta2 = 0.9, .weight_decay = 0.1 },
      false },
    { rmsprop_50, { .algorithm = &nn_rmsprop, .rate = 0.1 }, false },
    { rmsprop_momentum_50,
      { .algorithm = &nn_rmsprop,
        .rate = 0.005,
        .beta2 = 0.9,
        .momentum = 0.5,
        .weight_decay = 0.1 },
      false },
    { lion_50, { .algorithm = &nn_lion, .rate = 0.02 }, false },
    { lion_decay_50,
      { .algorithm = &nn_lion, .rate = 0.02, .beta1 = 0.8, .beta2 = 0.95, .weight_decay = 0.3 },
      false },
    { muon_50, { .algorithm = &nn_muon, .rate = 0.05 }, false },
    { groups_50,
      { .algorithm = &nn_adamw, .rate = 0.1, .groups = two_groups, .ngroup = 2 },
      false },
    { frozen_50, { .rate = 0.1, .groups = frozen_matrix, .ngroup = 1 }, false },
    { clip_norm_50, { .rate = 0.1, .clip_norm = 2 }, false },
    { clip_value_50, { .rate = 0.1, .clip_value = 0.5 }, false },
    { schedule_step_50, { .rate = 0.1, .schedule = nn_schedule_step, .user = &halved }, false },
    { schedule_one_cycle_50, { .rate = 0.3, .schedule = nn_schedule_one_cycle }, false },
    { schedule_warm_cosine_50,
      { .rate = 0.1, .warmup = 10, .schedule = nn_schedule_cosine },
      false },
    { schedule_plateau_50,
      { .algorithm = &nn_sgd,
        .rate = 0.15,
        .plateau = { .factor = 0.3, .patience = 2, .threshold = 0.01, .least = 1e-3 / 0.15 } },
      true },
};

/* The model: a matrix and a vector that follows it, 16 elements apart. */
static void get(nn_theta *theta, double *x)
{
    ck_assert_int_eq(nn_theta_get(theta, "w", 12, x), 0);
    ck_assert_int_eq(nn_theta_get(theta, "b", 3, x + 12), 0);
}
static void set(nn_theta *theta, const double *x)
{
    ck_assert_int_eq(nn_theta_set(theta, "w", 12, x), 0);
    ck_assert_int_eq(nn_theta_set(theta, "b", 3, x + 12), 0);
}

/* clip_norm is relative to the norm plus 1e-6 in PyTorch, which is where its last digits go. */
static double tolerance_of(int i, ad_dtype dtype)
{
    if (dtype == AD_F32) return cases[i].end == muon_50 ? 2e-3 : 2e-4;
    return cases[i].end == clip_norm_50 ? 1e-6 : 1e-12;
}

static void check_end(int i, ad_dtype dtype)
{
    nn_model *model = nn_model_new();
    nn_model_add(model, "w", AD_SHAPE(4, 3), nn_init_zeros, 1, 1);
    nn_model_add(model, "b", AD_SHAPE(3), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(model, dtype, NULL), *gradient = nn_theta_copy(theta);
    double x[N], g[N];
    for (int k = 0; k < N; k++) x[k] = 0.1 * (k + 1) * (k % 2 ? -1 : 1);
    set(theta, x);
    nn_optimizer_options options = cases[i].options;
    if (!options.ngroup) options.decays = nn_decay_all; /* as PyTorch does */
    nn_optimizer_state *s = nn_optimizer_new(&options, theta, STEPS);
    ck_assert_ptr_null(nn_optimizer_error(s));
    for (int step = 0; step < STEPS; step++) {
        get(theta, x);
        double loss = loss_and_gradient(x, g);
        set(gradient, g);
        ck_assert_int_eq(nn_optimizer_step(s, theta, gradient), 0);
        if (cases[i].metric) ck_assert_int_eq(nn_optimizer_metric(s, loss + 10), 0);
    }
    ck_assert_int_eq(nn_optimizer_steps(s), STEPS);
    get(theta, x);
    double tolerance = tolerance_of(i, dtype);
    for (int k = 0; k < N; k++)
        ck_assert_double_eq_tol(x[k], cases[i].end[k], tolerance * fmax(1, fabs(x[k])));
    nn_optimizer_free(s);
    nn_theta_free(theta);
    nn_theta_free(gradient);
    nn_model_free(model);
}

START_TEST(as_pytorch) { check_end(_i, AD_F64); }
END_TEST
START_TEST(as_pytorch_in_single) { check_end(_i, AD_F32); }
END_TEST

int main(void)
{
    TCase *tests = suite_case("trajectories", "trajectories");
    tcase_add_loop_test(tests, as_pytorch, 0, COUNT(cases));
    tcase_add_loop_test(tests, as_pytorch_in_single, 0, COUNT(cases));
    return suite_run();
}
