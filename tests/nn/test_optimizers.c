/* Optimisers: what they refuse, numbers at the ends of the range, groups, schedules, states that
 * are saved. That they do what PyTorch does is in test_trajectories.c. */
#include "nn/train/optimizer.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

/* A theta of n numbers, in one array "x", and a gradient like it. */
typedef struct {
    nn_model *model;
    nn_theta *x, *gradient;
    int n;
} numbers;

static numbers make_numbers(ad_dtype dtype, int n, const double *x)
{
    numbers v = { .model = nn_model_new(), .n = n };
    nn_model_add(v.model, "x", AD_SHAPE(n), nn_init_zeros, 1, 1);
    v.x = nn_theta_new(v.model, dtype, NULL);
    v.gradient = nn_theta_new(v.model, dtype, NULL);
    ck_assert_int_eq(nn_theta_set(v.x, "x", n, x), 0);
    return v;
}

static void free_numbers(numbers *v)
{
    nn_theta_free(v->x);
    nn_theta_free(v->gradient);
    nn_model_free(v->model);
}

static int step(nn_optimizer_state *s, numbers *v, const double *gradient)
{
    double *f64 = nn_theta_dtype(v->gradient) == AD_F64 ? nn_theta_f64(v->gradient, "x") : NULL;
    float *f32 = f64 ? NULL : nn_theta_f32(v->gradient, "x");
    for (int i = 0; i < v->n; i++) {
        if (f64) f64[i] = gradient[i];
        else f32[i] = (float)gradient[i];
    }
    return nn_optimizer_step(s, v->x, v->gradient);
}

static double at(const numbers *v, int i)
{
    double x[32];
    ck_assert_int_eq(nn_theta_get(v->x, "x", v->n, x), 0);
    return x[i];
}

static double rosenbrock(const double *x, double *g)
{
    double a = 1 - x[0], b = x[1] - x[0] * x[0];
    g[0] = -2 * a - 400 * x[0] * b;
    g[1] = 200 * b;
    return a * a + 100 * b * b;
}

static double quadratic(const double *x, double *g)
{
    g[0] = x[0] - 2;
    g[1] = 20 * (x[1] + 1);
    return 0.5 * ((x[0] - 2) * (x[0] - 2) + 20 * (x[1] + 1) * (x[1] + 1));
}

/* From a usual start to a small loss. */
static const struct {
    double (*f)(const double *x, double *g);
    nn_optimizer_options options;
    int steps;
    double loss;
} descents[] = {
    { quadratic, { .algorithm = &nn_sgd, .rate = 0.05 }, 400, 1e-15 },
    { quadratic, { .algorithm = &nn_sgd, .rate = 0.02, .momentum = 0.9 }, 400, 1e-12 },
    { quadratic,
      { .algorithm = &nn_sgd, .rate = 0.02, .momentum = 0.9, .nesterov = true },
      400,
      1e-12 },
    { quadratic, { .rate = 0.05, .schedule = nn_schedule_cosine }, 1000, 1e-8 },
    { quadratic,
      { .algorithm = &nn_adamw,
        .rate = 0.05,
        .weight_decay = 1e-9,
        .schedule = nn_schedule_exponential },
      1000,
      1e-8 },
    { quadratic,
      { .algorithm = &nn_rmsprop, .rate = 0.05, .schedule = nn_schedule_exponential },
      1000,
      1e-4 },
    { rosenbrock, { .rate = 0.05, .schedule = nn_schedule_cosine }, 5000, 1e-6 },
    { rosenbrock,
      { .algorithm = &nn_sgd, .rate = 1e-3, .momentum = 0.9, .clip_norm = 10 },
      20000,
      1e-6 },
    { rosenbrock,
      { .algorithm = &nn_rmsprop, .rate = 0.005, .schedule = nn_schedule_exponential },
      10000,
      1e-4 },
};

START_TEST(descends)
{
    numbers v = make_numbers(AD_F64, 2, (double[]){ -1.2, 1 });
    const double *x = nn_theta_f64(v.x, "x");
    double *g = nn_theta_f64(v.gradient, "x");
    nn_optimizer_state *s = nn_optimizer_new(&descents[_i].options, v.x, descents[_i].steps);
    for (int k = 0; k < descents[_i].steps; k++) {
        descents[_i].f(x, g);
        ck_assert_int_eq(nn_optimizer_step(s, v.x, v.gradient), 0);
    }
    ck_assert_double_le(descents[_i].f(x, g), descents[_i].loss);
    nn_optimizer_free(s);
    free_numbers(&v);
}
END_TEST

START_TEST(clipping)
{
    nn_optimizer_options o = { .algorithm = &nn_sgd, .rate = 1, .clip_norm = 2 };
    numbers v = make_numbers(AD_F64, 2, (double[]){ 0, 0 });
    nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 0);
    step(s, &v, (double[]){ 3, 4 });
    ck_assert_double_eq_tol(at(&v, 0), -1.2, 1e-15);
    ck_assert_double_eq_tol(at(&v, 1), -1.6, 1e-15);
    step(s, &v, (double[]){ 0.5, 0 }); /* shorter: as it is */
    ck_assert_double_eq_tol(at(&v, 0), -1.7, 1e-15);
    ck_assert_int_eq(nn_theta_set(v.x, "x", 2, (double[]){ 0, 0 }), 0);
    ck_assert_int_eq(step(s, &v, (double[]){ 3e200, 4e200 }), 0); /* whose square overflows */
    ck_assert_double_eq_tol(at(&v, 0), -1.2, 1e-15);
    nn_optimizer_free(s);
    free_numbers(&v);
    /* Long enough for all eight partial sums and a remainder. */
    double zeros[19] = { 0 }, ones[19];
    for (int i = 0; i < 19; i++) ones[i] = 1;
    v = make_numbers(AD_F64, 19, zeros);
    s = nn_optimizer_new(&o, v.x, 0);
    step(s, &v, ones);
    for (int i = 0; i < 19; i++) ck_assert_double_eq_tol(at(&v, i), -2 / sqrt(19), 1e-15);
    nn_optimizer_free(s);
    free_numbers(&v);
}
END_TEST

/* The norm of finite gradients may be too large for a number, or have a square that is none. */
START_TEST(clipping_at_the_ends)
{
    static const double sizes[] = { 1.7e308, 1e160, 1e-160, 1e-300 };
    for (int k = 0; k < 4; k++) {
        double size = sizes[k], limit = size < 1 ? size / 4 : 1;
        nn_optimizer_options o = { .algorithm = &nn_sgd, .rate = 1, .clip_norm = limit };
        numbers v = make_numbers(AD_F64, 4, (double[]){ 0, 0, 0, 0 });
        nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 0);
        ck_assert_int_eq(step(s, &v, (double[]){ size, -size, size, size }), 0);
        ck_assert_double_eq_tol(at(&v, 0) / limit, -0.5, 1e-15); /* the norm is twice the size */
        ck_assert_double_eq_tol(at(&v, 1) / limit, 0.5, 1e-15);
        ck_assert_int_eq(step(s, &v, (double[]){ 0, 0, 0, 0 }), 0);
        ck_assert_double_eq_tol(at(&v, 0) / limit, -0.5, 1e-15);
        nn_optimizer_free(s);
        free_numbers(&v);
    }
}
END_TEST

static double own_schedule(int64_t k, int64_t n, void *user)
{
    return *(double *)user * (double)(n - k);
}

START_TEST(schedules)
{
    ck_assert_double_eq(nn_schedule_cosine(0, 10, NULL), 1);
    ck_assert_double_eq_tol(nn_schedule_cosine(5, 10, NULL), 0.5, 1e-15);
    ck_assert_double_eq_tol(nn_schedule_exponential(5, 10, NULL), 0.1, 1e-15);
    double expected = 0, factor = 0.25;
    nn_optimizer_options o = { .algorithm = &nn_sgd,
                               .rate = 1,
                               .schedule = nn_schedule_exponential };
    numbers v = make_numbers(AD_F64, 1, &expected);
    nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 2);
    for (int k = 0; k < 4; k++) {
        step(s, &v, (double[]){ 1 });
        expected -= k == 0 ? 1 : 0.1; /* from the second on that of the last step planned */
        ck_assert_double_eq_tol(at(&v, 0), expected, 1e-15);
    }
    nn_optimizer_free(s);
    o.schedule = own_schedule;
    o.user = &factor;
    s = nn_optimizer_new(&o, v.x, 2);
    step(s, &v, (double[]){ 1 });
    ck_assert_double_eq_tol(at(&v, 0), expected - 0.5, 1e-15);
    expected = at(&v, 0);
    static const double bad[] = { -0.5, NAN, INFINITY };
    static const char *const shown[] = { "-0.5", "nan", "inf" };
    for (int k = 0; k < 3; k++) {
        char message[200];
        factor = bad[k];
        ck_assert_int_eq(step(s, &v, (double[]){ 1 }), -1);
        snprintf(message, sizeof message,
                 "nn_optimizer_step: the schedule's factor at step 1 of 2 is %s, but must be "
                 "finite and not negative",
                 shown[k]);
        ck_assert_str_eq(nn_optimizer_error(s), message);
        ck_assert_double_eq(at(&v, 0), expected);
    }
    factor = 0.5; /* nothing has happened */
    ck_assert_int_eq(step(s, &v, (double[]){ 1 }), 0);
    ck_assert_double_eq(at(&v, 0), expected - 0.5);
    nn_optimizer_free(s);
    free_numbers(&v);
}
END_TEST

/* Each step of Adam, whose gradient stays the same, is the rate, however large or small that
 * gradient is; of RMSprop the rate over sqrt(1 - alpha^k). The squares of these gradients are
 * beyond the type's range. */
START_TEST(gradients_of_any_size)
{
    static const double sizes[] = { 1e30, -1e30, 1e-30, 1e200, 1e-200, 1.7e308 };
    const nn_optimizer *algorithm[] = { &nn_adam, &nn_adamw, &nn_rmsprop };
    for (int k = 0; k < 36; k++) {
        bool single = k >= 18;
        const double size = sizes[k % 6], sign = size < 0 ? -1 : 1;
        const nn_optimizer *a = algorithm[k / 6 % 3];
        if (single && k % 6 >= 3) continue; /* no float */
        const nn_optimizer_options o = {
            .algorithm = a, .rate = 0.1, .epsilon = 1e-300, .weight_decay = 1e-300
        };
        numbers v = make_numbers(single ? AD_F32 : AD_F64, 1, (double[]){ 1 });
        nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 0);
        double expected = 1;
        for (int n = 1; n <= 3; n++) {
            ck_assert_int_eq(step(s, &v, &size), 0);
            expected -= sign * (a != &nn_rmsprop ? 0.1 : 0.1 / sqrt(1 - pow(0.99, n)));
        }
        ck_assert_double_eq_tol(at(&v, 0), expected, single ? 1e-6 : 1e-14);
        nn_optimizer_free(s);
        free_numbers(&v);
    }
}
END_TEST

/* Factors of the gradient or of theta so small that the squares vanish even as
 * double though the gradient is a float: the first step of Adam is the rate. */
START_TEST(extreme_factors)
{
    for (int k = 0; k < 4; k++) {
        const bool clipped = k < 2;
        const nn_optimizer_options o = { .algorithm = &nn_adam,
                                         .rate = 0.1,
                                         .epsilon = 1e-300,
                                         .clip_norm = clipped ? (k ? 1e-200 : 1e-60) : 0,
                                         .weight_decay = clipped  ? 0
                                                         : k == 2 ? 1e-200
                                                                  : 1e-60,
                                         .decays = nn_decay_all };
        const double gradient = clipped ? 1 : 0;
        numbers v = make_numbers(AD_F32, 1, (double[]){ 1 });
        nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 0);
        ck_assert_int_eq(step(s, &v, &gradient), 0);
        ck_assert_double_eq_tol(at(&v, 0), 0.9, 1e-6);
        nn_optimizer_free(s);
        free_numbers(&v);
    }
}
END_TEST

static bool decays_start(const char *name, ad_shape shape, void *user)
{
    ck_assert_int_ge(shape.rank, 0);
    ck_assert_str_eq(user, "mine");
    return strcmp(name, "start") == 0;
}

/* Weights shrink; biases and learnt starts do not, unless they are asked to. With a gradient of
 * zero only the decay moves: by 1 - rate decay in adamw, and in the others by a gradient of decay
 * theta. */
START_TEST(decay_mask)
{
    static const char *const names[] = { "start", "l.weight", "l.bias", "scale", "m.weight" };
    static const struct {
        bool (*decays)(const char *name, ad_shape shape, void *user);
        bool decayed[5];
    } cases[] = { { NULL, { false, true, false, false, true } },
                  { nn_decay_all, { true, true, true, true, true } },
                  { decays_start, { true, false, false, false, false } } };
    nn_model *m = nn_model_new();
    nn_model_add(m, "start", AD_SHAPE(2), nn_init_ones, 1, 1);
    nn_model_add(m, "l.weight", AD_SHAPE(2, 3), nn_init_ones, 1, 1);
    nn_model_add(m, "l.bias", AD_SHAPE(3), nn_init_ones, 1, 1);
    nn_model_add(m, "scale", AD_SCALAR, nn_init_ones, 1, 1);
    nn_model_add(m, "m.weight", AD_SHAPE(3, 1), nn_init_ones, 1, 1);
    ad_rng rng = ad_rng_seed(0);
    const nn_optimizer *const algorithms[] = { &nn_adamw, &nn_sgd };
    for (int i = 0; i < 2 * COUNT(cases); i++) {
        nn_theta *theta = nn_theta_new(m, AD_F32, &rng), *gradient = nn_theta_new(m, AD_F32, NULL);
        nn_optimizer_options o = { .algorithm = algorithms[i % 2],
                                   .rate = 0.5,
                                   .weight_decay = 0.5,
                                   .decays = cases[i / 2].decays,
                                   .user = (void *)"mine" };
        nn_optimizer_state *s = nn_optimizer_new(&o, theta, 0);
        ck_assert_int_eq(nn_optimizer_step(s, theta, gradient), 0);
        for (int k = 0; k < 5; k++)
            ck_assert_float_eq(*nn_theta_f32(theta, names[k]),
                               cases[i / 2].decayed[k] ? 0.75f : 1.0f);
        nn_optimizer_free(s);
        nn_theta_free(theta);
        nn_theta_free(gradient);
    }
    nn_model_free(m);
}
END_TEST

START_TEST(bad_gradients)
{
    nn_optimizer_options o = { .algorithm = &nn_adam, .rate = 0.1 };
    const double start[3] = { 1, 2, 3 }, good[3] = { 1, 1, 1 }, bad[3] = { 1, -NAN, 1 };
    numbers x = make_numbers(AD_F32, 3, start), y = make_numbers(AD_F32, 3, start);
    nn_optimizer_state *s = nn_optimizer_new(&o, x.x, 0), *same = nn_optimizer_new(&o, y.x, 0);
    ck_assert_int_eq(step(s, &x, bad), -1);
    ck_assert_str_eq(nn_optimizer_error(s), "nn_optimizer_step: element 1 of the gradient is nan");
    for (int i = 0; i < 3; i++) ck_assert_double_eq(at(&x, i), start[i]);
    step(s, &x, good);
    step(same, &y, good);
    ck_assert_ptr_null(nn_optimizer_error(s));
    for (int i = 0; i < 3; i++)
        ck_assert_double_eq(at(&x, i), at(&y, i)); /* the state was untouched too */
    nn_optimizer_free(s);
    nn_optimizer_free(same);
    free_numbers(&y);

    nn_optimizer_options wild = { .algorithm = &nn_sgd, .rate = 1e30 };
    s = nn_optimizer_new(&wild, x.x, 0);
    double before = at(&x, 2);
    ck_assert_int_eq(step(s, &x, (double[]){ 0, 0, 1e20 }), -1);
    ck_assert_str_eq(
        nn_optimizer_error(s),
        "nn_optimizer_step: element 2 of theta would overflow; the rate (1e+30) is too large");
    ck_assert_double_eq(at(&x, 2), before);
    ck_assert_int_eq(step(s, &x, good), -1);
    ck_assert_int_eq(step(NULL, &x, good), -1);
    nn_optimizer_free(s);
    nn_optimizer_free(NULL);
    free_numbers(&x);
}
END_TEST

/* Another dtype, another model, nothing at all. */
START_TEST(foreign_thetas)
{
    numbers x = make_numbers(AD_F32, 3, (double[]){ 1, 2, 3 }),
            wide = make_numbers(AD_F64, 3, (double[]){ 1, 2, 3 }),
            longer = make_numbers(AD_F32, 20, (double[20]){ 0 });
    nn_optimizer_state *s = nn_optimizer_new(NULL, x.x, 0);
    ck_assert_int_eq(nn_optimizer_step(s, wide.x, wide.gradient), -1);
    ck_assert_str_eq(
        nn_optimizer_error(s),
        "nn_optimizer_step: f64 [16] of another model, but the optimiser was made for f32 [16]");
    ck_assert_int_eq(nn_optimizer_step(s, x.x, longer.gradient), -1);
    ck_assert_str_eq(nn_optimizer_error(s), "nn_optimizer_step: gradient: f32 [32] of another "
                                            "model, but the optimiser was made for f32 [16]");
    ck_assert_int_eq(nn_optimizer_step(s, x.x, x.x), -1);
    ck_assert_int_eq(nn_optimizer_step(s, x.x, NULL), -1);
    ck_assert_str_eq(nn_optimizer_error(s), "nn_optimizer_step: gradient: theta is NULL");
    ck_assert_int_eq(nn_optimizer_step(s, NULL, x.gradient), -1);
    ck_assert_int_eq(nn_optimizer_step(s, x.x, x.gradient),
                     0); /* and nothing of that has done harm */
    nn_optimizer_free(s);
    s = nn_optimizer_new(NULL, NULL, 0);
    ck_assert_str_eq(nn_optimizer_error(s), "nn_optimizer_new: theta is NULL");
    nn_optimizer_free(s);
    free_numbers(&x);
    free_numbers(&wide);
    free_numbers(&longer);
}
END_TEST

START_TEST(bad_options)
{
    static const struct {
        nn_optimizer_options options;
        const char *message;
    } cases[] = {
        { { .rate = -1 }, "nn_optimizer_new: adam: the rate must be positive" },
        { { .rate = NAN }, "nn_optimizer_new: adam: the rate must be positive" },
        { { .algorithm = &nn_sgd, .momentum = 1 },
          "nn_optimizer_new: sgd: momentum must be in [0,1)" },
        { { .momentum = 0.9 },
          "nn_optimizer_new: adam: this algorithm takes no momentum (its beta1 is one)" },
        { { .algorithm = &nn_sgd, .nesterov = true },
          "nn_optimizer_new: sgd: nesterov needs sgd with momentum" },
        { { .algorithm = &nn_sgd, .beta1 = 0.9 },
          "nn_optimizer_new: sgd: this algorithm takes no beta1, beta2, epsilon" },
        { { .beta2 = 1 }, "nn_optimizer_new: adam: beta1 and beta2 must be in [0,1)" },
        { { .epsilon = -1 }, "nn_optimizer_new: adam: epsilon must be positive" },
        { { .weight_decay = -1 }, "nn_optimizer_new: adam: weight_decay must not be negative" },
        { { .clip_norm = NAN }, "nn_optimizer_new: adam: clip_norm must not be negative" },
        { { .clip_value = -1 }, "nn_optimizer_new: adam: clip_value must not be negative" },
        { { .clip_norm = 1, .clip_value = 1 },
          "nn_optimizer_new: adam: clip_norm and clip_value exclude each other" },
        { { .algorithm = &nn_lion, .epsilon = 1 },
          "nn_optimizer_new: lion: this algorithm takes no epsilon" },
        { { .schedule = nn_schedule_cosine },
          "nn_optimizer_new: adam: a schedule needs the number of planned steps" },
        { { .warmup = -1 }, "nn_optimizer_new: adam: warmup must not be negative" },
        { { .plateau = { .factor = 1 } },
          "nn_optimizer_new: adam: plateau.factor must be in (0,1), or 0 for none" },
        { { .plateau = { .patience = 3 } },
          "nn_optimizer_new: adam: plateau has options, but no factor" },
        { { .plateau = { .factor = 0.5, .least = 2 } },
          "nn_optimizer_new: adam: plateau.least must be in [0,1]" },
        { { .ngroup = 1 }, "nn_optimizer_new: groups is NULL, ngroup is 1" },
    };
    numbers v = make_numbers(AD_F64, 1, (double[]){ 0 });
    for (int i = 0; i < COUNT(cases); i++) {
        nn_optimizer_state *s = nn_optimizer_new(&cases[i].options, v.x, 0);
        ck_assert_str_eq(nn_optimizer_error(s), cases[i].message);
        ck_assert_int_eq(step(s, &v, (double[]){ 0 }), -1);
        nn_optimizer_free(s);
    }
    free_numbers(&v);
    ck_assert_str_eq(nn_optimizer_name(&nn_rmsprop), "rmsprop");
}
END_TEST

START_TEST(bad_groups)
{
    static const struct {
        nn_group group;
        const char *message;
    } cases[] = {
        { { .rate = 2 }, "group 0 (from 0) has no pattern" },
        { { "x", .rate = -1 }, "group 'x': rate, a factor, must be positive" },
        { { "x", .weight_decay = NAN }, "group 'x': weight_decay must not be negative" },
        { { "x", .weight_decay = 1, .no_decay = true }, "group 'x' has weight_decay and no_decay" },
        { { "x", .rate = 2, .frozen = true },
          "group 'x' is frozen; its rate and decay say nothing" },
        { { "y*", .rate = 2 },
          "group 'y*' has no parameter array: its pattern matches no name, or "
          "only names that an earlier group has" },
        { { "*", .frozen = true }, "every parameter array is frozen" },
    };
    numbers v = make_numbers(AD_F64, 1, (double[]){ 0 });
    for (int i = 0; i < COUNT(cases); i++) {
        char message[200];
        nn_optimizer_options o = { .groups = &cases[i].group, .ngroup = 1 };
        nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 0);
        snprintf(message, sizeof message, "nn_optimizer_new: %s", cases[i].message);
        ck_assert_str_eq(nn_optimizer_error(s), message);
        ck_assert_int_eq(step(s, &v, (double[]){ 0 }), -1);
        nn_optimizer_free(s);
    }
    free_numbers(&v);
}
END_TEST

/* A state that is saved and put back goes on as if nothing had been: bit by bit, in every
 * algorithm, whose own numbers are all among its arrays. */
START_TEST(saved_states)
{
    static const nn_optimizer *const algorithms[] = {
        &nn_sgd, &nn_adam, &nn_adamw, &nn_radam, &nn_adamax, &nn_rmsprop, &nn_lion, &nn_muon
    };
    const nn_optimizer *a = algorithms[_i / 2];
    ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    nn_model *model = nn_model_new();
    nn_model_add(model, "w", AD_SHAPE(3, 2), nn_init_xavier_normal, 3, 2);
    nn_model_add(model, "b", AD_SHAPE(3), nn_init_xavier_normal, 3, 2);
    ad_rng rng = ad_rng_seed(1);
    nn_theta *one = nn_theta_new(model, dtype, &rng), *other = nn_theta_copy(one);
    nn_theta *gradient = nn_theta_new(model, dtype, NULL);
    nn_optimizer_options o = { .algorithm = a,
                               .rate = 0.1,
                               .momentum = a == &nn_sgd || a == &nn_rmsprop ? 0.9 : 0,
                               .warmup = 3,
                               .schedule = nn_schedule_cosine,
                               .plateau = { .factor = 0.5, .patience = 1 } };
    nn_optimizer_state *whole = nn_optimizer_new(&o, one, 40),
                       *part = nn_optimizer_new(&o, one, 40);
    for (int k = 0; k < 40; k++) {
        double g[6];
        for (int i = 0; i < 6; i++) g[i] = ad_rng_normal(&rng);
        nn_theta_set(gradient, "w", 6, g);
        nn_theta_set(gradient, "b", 3, g);
        ck_assert_int_eq(nn_optimizer_step(whole, one, gradient), 0);
        ck_assert_int_eq(nn_optimizer_step(part, other, gradient), 0);
        ck_assert_int_eq(nn_optimizer_metric(whole, g[0]), 0);
        ck_assert_int_eq(nn_optimizer_metric(part, g[0]), 0);
        if (k % 7) continue;
        nn_optimizer_state *next = nn_optimizer_new(&o, one, 40);
        nn_state_array from[NN_STATE_ARRAYS], to[NN_STATE_ARRAYS];
        char error[200] = "";
        nn_optimizer_arrays(part, from);
        nn_optimizer_arrays(next, to);
        for (int i = 0; i < NN_STATE_ARRAYS; i++) {
            ck_assert_str_eq(from[i].name, to[i].name);
            ck_assert_int_eq(from[i].size, to[i].size);
            memcpy(to[i].data, from[i].data,
                   (size_t)to[i].size * (to[i].dtype == AD_F32 ? sizeof(float) : sizeof(double)));
        }
        nn_optimizer_free(part);
        ck_assert_msg(nn_optimizer_restored(next, error, sizeof error) == 0, "%s", error);
        part = next;
    }
    size_t bytes = (size_t)nn_theta_size(one) * (_i % 2 ? sizeof(double) : sizeof(float));
    ck_assert_mem_eq(nn_theta_data(one), nn_theta_data(other), bytes);
    ck_assert_int_eq(nn_optimizer_steps(part), 40);
    ck_assert_double_eq(nn_optimizer_rate(part), nn_optimizer_rate(whole));
    nn_optimizer_free(whole);
    nn_optimizer_free(part);
    nn_theta_free(one);
    nn_theta_free(other);
    nn_theta_free(gradient);
    nn_model_free(model);
}
END_TEST

START_TEST(bad_states)
{
    static const struct {
        int array, element;
        double value;
        const char *message;
    } cases[] = {
        { 0, 2, INFINITY, "element 2 of the optimiser's 'first' is inf" },
        { 1, 1, NAN, "element 1 of the optimiser's 'second' is nan" },
        { 1, 0, -1, "element 0 of the optimiser's 'second', a root, is negative" },
        { 2, 0, -1, "the optimiser's 'made' holds numbers of no optimiser" },
        { 2, 0, 1.5, "the optimiser's 'made' holds numbers of no optimiser" },
        { 2, 0, 1e300, "the optimiser's 'made' holds numbers of no optimiser" },
        { 2, 4, 0.5, "the optimiser's 'made' holds numbers of no optimiser" },
    };
    numbers v = make_numbers(AD_F64, 3, (double[]){ 1, 2, 3 });
    for (int i = 0; i < COUNT(cases); i++) {
        nn_optimizer_state *s = nn_optimizer_new(NULL, v.x, 0);
        nn_state_array arrays[NN_STATE_ARRAYS];
        char error[200];
        nn_optimizer_arrays(s, arrays);
        ((double *)arrays[cases[i].array].data)[cases[i].element] = cases[i].value;
        ck_assert_int_eq(nn_optimizer_restored(s, error, sizeof error), -1);
        ck_assert_str_eq(error, cases[i].message);
        ck_assert_int_eq(step(s, &v, (double[]){ 1, 1, 1 }), -1);
        nn_optimizer_free(s);
    }
    free_numbers(&v);
}
END_TEST

/* Metrics without progress lower the rate, down to the least. */
START_TEST(plateau)
{
    nn_optimizer_options o = { .rate = 1,
                               .plateau = { .factor = 0.1, .patience = 1, .least = 0.05 } };
    numbers v = make_numbers(AD_F64, 1, (double[]){ 0 });
    nn_optimizer_state *s = nn_optimizer_new(&o, v.x, 0);
    static const double metrics[] = { -3, -3.1, -3.1, -3.1, -3.1, -3.1, -3.1, -9, -9 };
    static const double rates[] = { 1, 1, 1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05 };
    for (int i = 0; i < COUNT(metrics); i++) {
        ck_assert_int_eq(nn_optimizer_metric(s, metrics[i]), 0);
        ck_assert_double_eq_tol(nn_optimizer_rate(s), rates[i], 1e-15);
    }
    ck_assert_int_eq(nn_optimizer_metric(s, NAN), -1);
    ck_assert_str_eq(nn_optimizer_error(s), "nn_optimizer_metric: the value is nan");
    nn_optimizer_free(s);
    s = nn_optimizer_new(NULL, v.x, 0);
    ck_assert_int_eq(nn_optimizer_metric(s, 1), -1);
    ck_assert_str_eq(nn_optimizer_error(s),
                     "nn_optimizer_metric: the optimiser was made without options.plateau");
    nn_optimizer_free(s);
    free_numbers(&v);
    ck_assert_int_eq(nn_optimizer_metric(NULL, 1), -1);
    ck_assert(isnan(nn_optimizer_rate(NULL)));
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("optimizers", "optimizers");
    tcase_add_test(tests, gradients_of_any_size);
    tcase_add_test(tests, extreme_factors);
    tcase_add_loop_test(tests, descends, 0, COUNT(descents));
    tcase_add_test(tests, clipping);
    tcase_add_test(tests, clipping_at_the_ends);
    tcase_add_test(tests, schedules);
    tcase_add_test(tests, decay_mask);
    tcase_add_test(tests, bad_gradients);
    tcase_add_test(tests, foreign_thetas);
    tcase_add_test(tests, bad_options);
    tcase_add_loop_test(tests, saved_states, 0, 16);
    tcase_add_test(tests, bad_groups);
    tcase_add_test(tests, bad_states);
    tcase_add_test(tests, plateau);
    return suite_run();
}
