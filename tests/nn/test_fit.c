/* Fits by L-BFGS and by Levenberg and Marquardt's method: test functions with known minima, NIST's
 * certified regressions (https://www.itl.nist.gov/div898/strd/), rates of an equation beside
 * SciPy's (tests/reference/fit.py), bounds, and what is refused. */
#define TESTS_COUNT_ALLOCATIONS
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>
#include <unistd.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

typedef struct {
    nn_model *model;
    nn_theta *theta;
} numbers;

static numbers make(ad_dtype dtype, int n, const double *x)
{
    numbers v = { .model = nn_model_new() };
    nn_model_add(v.model, "x", AD_SHAPE(n), nn_init_zeros, 1, 1);
    v.theta = nn_theta_new(v.model, dtype, NULL);
    ck_assert_int_eq(nn_theta_set(v.theta, "x", n, x), 0);
    return v;
}

static void release(numbers *v)
{
    nn_theta_free(v->theta);
    nn_model_free(v->model);
}

static ad_var number(ad_var theta, int i) { return ad_slice(theta, 0, i, i + 1); }

/* ---- known minima ---------------------------------------------------------------------------- */

/* (10 (x2 - x1^2), 1 - x1): residuals of Rosenbrock's function. */
static ad_var rosenbrock_residuals(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)batch, (void)user;
    ad_var x = number(theta, 0), y = number(theta, 1);
    ad_var r[] = { ad_scale(ad_sub(y, ad_square(x)), 10), ad_shift(ad_neg(x), 1) };
    return ad_concatenate(2, r, 0);
}

static ad_var rosenbrock(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    return ad_sum_all(ad_square(rosenbrock_residuals(tape, theta, batch, user)));
}

START_TEST(rosenbrock_by_both)
{
    static const double starts[][2] = { { -1.2, 1 }, { 3, -4 }, { 0, 0 } };
    for (int k = 0; k < 2 * COUNT(starts); k++) {
        numbers v = make(AD_F64, 2, starts[k / 2]);
        nn_fit_options o = { .loss = k % 2 ? rosenbrock_residuals : rosenbrock };
        nn_fit_report report;
        char error[300] = "";
        int result = k % 2 ? nn_levenberg_marquardt(v.theta, &o, &report, error, sizeof error)
                           : nn_lbfgs(v.theta, &o, &report, error, sizeof error);
        ck_assert_msg(result == 0, "%s", error);
        double x[2];
        nn_theta_get(v.theta, "x", 2, x);
        ck_assert_double_eq_tol(x[0], 1, 1e-8);
        ck_assert_double_eq_tol(x[1], 1, 1e-8);
        ck_assert_int_le(report.iterations, 60);
        ck_assert_int_le(report.evaluations, 150);
        ck_assert_msg(report.end <= NN_FIT_STEP, "%s", nn_fit_end_text(report.end));
        ck_assert_double_lt(report.last_loss, 1e-16);
        release(&v);
    }
}
END_TEST

/* sum of c_i (x_i - 1)^2 with c from 1 to 1000, plus (sum x_i)^2. */
static ad_var long_valley(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)user;
    (void)tape;
    ad_var x = ad_slice(theta, 0, 0, 20), off = ad_shift(x, -1);
    return ad_add(ad_sum_all(ad_mul(batch[0], ad_square(off))), ad_square(ad_sum_all(x)));
}

/* The minimum in closed form: x_i = 1 - s / c_i, where s = sum x = 20 / (1 + sum 1/c_i). A loss of
 * 93 says where it is to the root of its rounding; twice that is allowed. */
/* With a label a fit writes lines as a training does: here, where stderr is no terminal, one for
 * each tenth of the iterations. */
START_TEST(progress)
{
    numbers v = make(AD_F64, 2, (double[]){ -1.2, 1 });
    nn_fit_options o = { .loss = rosenbrock, .iterations = 10, .label = "valley" };
    nn_fit_report report;
    char error[300] = "", text[2000];
    FILE *lines = tmpfile();
    int kept = dup(STDERR_FILENO);
    dup2(fileno(lines), STDERR_FILENO);
    int result = nn_lbfgs(v.theta, &o, &report, error, sizeof error);
    dup2(kept, STDERR_FILENO);
    close(kept);
    ck_assert_msg(result == 0, "%s", error);
    rewind(lines);
    text[fread(text, 1, sizeof text - 1, lines)] = 0;
    fclose(lines);
    ck_assert_msg(strncmp(text, "valley: 1/10 (10 %)", 19) == 0, "%s", text);
    char last[60];
    snprintf(last, sizeof last, "loss %.5g\n", report.last_loss);
    ck_assert_msg(strstr(text, "valley: 10/10 (100 %)") && strstr(text, last), "%s", text);
    release(&v);
}
END_TEST

START_TEST(many_numbers)
{
    double start[20] = { 0 }, c[20], x[20], sum = 1;
    for (int i = 0; i < 20; i++) {
        c[i] = pow(1000, i / 19.0);
        sum += 1 / c[i];
    }
    for (int type = 0; type < 2; type++) {
        numbers v = make(type ? AD_F64 : AD_F32, 20, start);
        nn_array array = nn_array_of(AD_SHAPE(20), c);
        nn_fit_options o = {
            .loss = long_valley, .narray = 1, .arrays = &array, .loss_tolerance = 1e-300
        };
        nn_fit_report report;
        char error[300] = "";
        ck_assert_msg(nn_lbfgs(v.theta, &o, &report, error, sizeof error) == 0, "%s", error);
        nn_theta_get(v.theta, "x", 20, x);
        for (int i = 0; i < 20; i++)
            ck_assert_double_eq_tol(x[i], 1 - 20 / sum / c[i],
                                    2 * sqrt(93 * (type ? 0x1p-52 : 0x1p-23)));
        ck_assert_int_lt(report.iterations, 200); /* SciPy's L-BFGS-B: 167 */
        release(&v);
    }
}
END_TEST

/* Rosenbrock's function for x1 <= 0.5 has its minimum at (0.5, 0.25); in the box [1.5, 2] x
 * [-1, 1], where both bounds press, at (1.5, 1). */
START_TEST(bounds)
{
    static const struct {
        double start[2], lower[2], upper[2], end[2];
    } cases[] = {
        { { -1.2, 1 }, { -INFINITY, -INFINITY }, { 0.5, INFINITY }, { 0.5, 0.25 } },
        { { 0.5, 3 }, { -INFINITY, -INFINITY }, { 0.5, INFINITY }, { 0.5, 0.25 } },
        { { 1.9, -1 }, { 1.5, -1 }, { 2, 1 }, { 1.5, 1 } },
        { { -1.2, 1 }, { -2, -2 }, { 2, 2 }, { 1, 1 } },
    };
    for (int k = 0; k < 2 * COUNT(cases); k++) {
        numbers v = make(AD_F64, 2, cases[k / 2].start);
        nn_theta *lower = nn_theta_copy(v.theta), *upper = nn_theta_copy(v.theta);
        nn_theta *deviations = nn_theta_copy(v.theta);
        memcpy(nn_theta_f64(lower, "x"), cases[k / 2].lower, sizeof cases[0].lower);
        memcpy(nn_theta_f64(upper, "x"), cases[k / 2].upper, sizeof cases[0].upper);
        nn_fit_options o = { .loss = k % 2 ? rosenbrock_residuals : rosenbrock,
                             .lower = lower,
                             .upper = upper,
                             .deviations = k % 2 ? deviations : NULL };
        nn_fit_report report;
        char error[300] = "";
        int result = k % 2 ? nn_levenberg_marquardt(v.theta, &o, &report, error, sizeof error)
                           : nn_lbfgs(v.theta, &o, &report, error, sizeof error);
        ck_assert_msg(result == 0, "%s", error);
        const double *x = nn_theta_f64(v.theta, "x"), *end = cases[k / 2].end;
        ck_assert_double_eq_tol(x[0], end[0], 1e-7);
        ck_assert_double_eq_tol(x[1], end[1], 1e-7);
        ck_assert_msg(report.end <= NN_FIT_STEP, "%d: %s", k, nn_fit_end_text(report.end));
        if (o.deviations && k / 2 == 2) ck_assert_double_eq(nn_theta_f64(deviations, "x")[0], 0);
        nn_theta_free(lower);
        nn_theta_free(upper);
        nn_theta_free(deviations);
        release(&v);
    }
}
END_TEST

/* ---- NIST ------------------------------------------------------------------------------------ */

static const double misra_x[] = { 77.6,  114.9, 141.1, 190.8, 239.9, 289.0, 332.8,
                                  378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0 };
static const double misra_y[] = { 10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02,
                                  44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78 };
static const double box_x[] = { 1, 2, 3, 5, 7, 10 }, box_y[] = { 109, 149, 149, 191, 213, 224 };
static const double mgh_x[] = { 4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625 };
static const double mgh_y[] = { 0.1957, 0.1947, 0.1735, 0.16,   0.0844, 0.0627,
                                0.0456, 0.0342, 0.0323, 0.0235, 0.0246 };

/* b1 (1 - exp(-b2 x)) - y */
static ad_var saturating(ad_tape *tape, ad_var b, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    ad_var grown = ad_neg(ad_expm1(ad_neg(ad_mul(number(b, 1), batch[0]))));
    return ad_sub(ad_mul(number(b, 0), grown), batch[1]);
}

/* b1 (x^2 + b2 x) / (x^2 + b3 x + b4) - y */
static ad_var rational(ad_tape *tape, ad_var b, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    ad_var x = batch[0], square = ad_square(x);
    ad_var above = ad_add(square, ad_mul(number(b, 1), x));
    ad_var below = ad_add(ad_add(square, ad_mul(number(b, 2), x)), number(b, 3));
    return ad_sub(ad_div(ad_mul(number(b, 0), above), below), batch[1]);
}

/* Certified parameters, their standard deviations and the residual sum of squares. */
static const struct {
    const char *name;
    nn_loss residuals;
    int examples, n;
    const double *x, *y;
    double start[4], end[4], deviation[4], squares;
} regressions[] = {
    { "Misra1a",
      saturating,
      14,
      2,
      misra_x,
      misra_y,
      { 500, 1e-4 },
      { 2.3894212918e2, 5.5015643181e-4 },
      { 2.7070075241, 7.2668688436e-6 },
      1.2455138894e-1 },
    { "Misra1a",
      saturating,
      14,
      2,
      misra_x,
      misra_y,
      { 250, 5e-4 },
      { 2.3894212918e2, 5.5015643181e-4 },
      { 2.7070075241, 7.2668688436e-6 },
      1.2455138894e-1 },
    { "BoxBOD",
      saturating,
      6,
      2,
      box_x,
      box_y,
      { 100, 0.75 },
      { 2.1380940889e2, 5.4723748542e-1 },
      { 1.2354515176e1, 1.0455993237e-1 },
      1.1680088766e3 },
    { "MGH09",
      rational,
      11,
      4,
      mgh_x,
      mgh_y,
      { 25, 39, 41.5, 39 },
      { 1.9280693458e-1, 1.9128232873e-1, 1.2305650693e-1, 1.3606233068e-1 },
      { 1.1435312227e-2, 1.9633220911e-1, 8.0842031232e-2, 9.0025542308e-2 },
      3.0750560385e-4 },
    { "MGH09",
      rational,
      11,
      4,
      mgh_x,
      mgh_y,
      { 0.25, 0.39, 0.415, 0.39 },
      { 1.9280693458e-1, 1.9128232873e-1, 1.2305650693e-1, 1.3606233068e-1 },
      { 1.1435312227e-2, 1.9633220911e-1, 8.0842031232e-2, 9.0025542308e-2 },
      3.0750560385e-4 },
};

START_TEST(certified)
{
    int i = _i, n = regressions[i].n;
    numbers v = make(AD_F64, n, regressions[i].start);
    nn_theta *deviations = nn_theta_new(v.model, AD_F64, NULL);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 1), regressions[i].x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), regressions[i].y) };
    nn_fit_options o = { .loss = regressions[i].residuals,
                         .narray = 2,
                         .arrays = arrays,
                         .examples = regressions[i].examples,
                         .iterations = 2000,
                         .deviations = deviations };
    nn_fit_report report;
    char error[300] = "";
    ck_assert_msg(nn_levenberg_marquardt(v.theta, &o, &report, error, sizeof error) == 0, "%s",
                  error);
    ck_assert_msg(report.end <= NN_FIT_STEP, "%s", nn_fit_end_text(report.end));
    ck_assert_double_eq_tol(2 * report.last_loss / regressions[i].squares, 1, 1e-9);
    const double *b = nn_theta_f64(v.theta, "x"), *s = nn_theta_f64(deviations, "x");
    for (int k = 0; k < n; k++) {
        ck_assert_double_eq_tol(b[k] / regressions[i].end[k], 1, 1e-7);
        ck_assert_double_eq_tol(s[k] / regressions[i].deviation[k], 1, 1e-6);
    }
    nn_theta_free(deviations);
    release(&v);
}
END_TEST

/* ---- an equation ----------------------------------------------------------------------------- */

static ad_var hunting(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), z = ad_slice(y, 1, 1, 2), xz = ad_mul(x, z);
    ad_var dx = ad_sub(ad_mul(number(args[0], 0), x), ad_mul(number(args[0], 1), xz));
    ad_var dz = ad_sub(ad_mul(number(args[0], 2), xz), ad_mul(number(args[0], 3), z));
    return ad_concatenate(2, (ad_var[]){ dx, dz }, 1);
}

static ad_var animals(ad_tape *tape, ad_var rates, ad_var y0)
{
    double t[11];
    for (int i = 0; i < 11; i++) t[i] = i;
    return ode_solve(hunting, NULL, y0, 1, &rates, ad_constant(tape, AD_SHAPE(11), t),
                     &(ode_options){ .rtol = 1e-10, .atol = 1e-10 });
}

static ad_var miss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    ad_var r = ad_sub(animals(tape, ad_slice(theta, 0, 0, 4), batch[0]), batch[1]);
    return user ? ad_scale(ad_sum_all(ad_square(r)), 0.5) : r;
}

START_TEST(rates_of_an_equation)
{
    static const double truth[] = { 1, 0.5, 0.4, 1.2 }, start[] = { 0.9, 0.6, 0.5, 1 };
    static const double end[] = { 1.0004287453502942, 0.487547274131807, 0.3986813493295348,
                                  1.1652778624778366 },
                        deviation[] = { 0.031405090718665395, 0.019142499388316223,
                                        0.0168829396048315, 0.05011575962031429 };
    double y0[] = { 1.5, 1 }, observed[22];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = animals(tape, ad_param(tape, AD_SHAPE(4), truth),
                       ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, y0));
    ck_assert_msg(ad_get(y, observed) == 0, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    for (int i = 0; i < 22; i++) observed[i] *= 1 + 0.1 * sin(7 * i);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, 2), y0),
                          nn_array_of(AD_SHAPE(AD_ROWS, 11, 2), observed) };
    for (int k = 0; k < 2; k++) {
        numbers v = make(AD_F64, 4, start);
        nn_theta *deviations = nn_theta_new(v.model, AD_F64, NULL);
        nn_fit_options o = { .loss = miss,
                             .user = k ? arrays : NULL,
                             .narray = 2,
                             .arrays = arrays,
                             .examples = 1,
                             .deviations = k ? NULL : deviations };
        nn_fit_report report;
        char error[300] = "";
        int result = k ? nn_lbfgs(v.theta, &o, &report, error, sizeof error)
                       : nn_levenberg_marquardt(v.theta, &o, &report, error, sizeof error);
        ck_assert_msg(result == 0, "%s", error);
        const double *x = nn_theta_f64(v.theta, "x"), *s = nn_theta_f64(deviations, "x");
        ck_assert_double_eq_tol(2 * report.last_loss, 0.723459417044054, 1e-8);
        for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(x[i], end[i], 1e-6);
        for (int i = 0; i < 4 && k == 0; i++) ck_assert_double_eq_tol(s[i] / deviation[i], 1, 1e-4);
        ck_assert_int_le(report.evaluations, 120);
        nn_theta_free(deviations);
        release(&v);
    }
}
END_TEST

/* ---- what is refused ------------------------------------------------------------------------- */

static ad_var logarithm(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)batch, (void)user;
    return ad_sum_all(ad_log(ad_slice(theta, 0, 0, 2)));
}
static ad_var nothing(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)theta, (void)batch, (void)user;
    return ad_scalar(tape, 1);
}
static int stop(int64_t iteration, double loss, const nn_theta *theta, void *user)
{
    (void)loss, (void)theta, (void)user;
    return iteration == 3;
}

START_TEST(misuse)
{
    double nan[] = { 1, NAN };
    nn_array drawn = nn_array_drawn(AD_SHAPE(2)), bad = nn_array_of(AD_SHAPE(2), nan);
    nn_array rows = nn_array_of(AD_SHAPE(AD_ROWS, 1), nan);
    numbers v = make(AD_F64, 2, (double[]){ -1.2, 1 });
    const struct {
        nn_fit_options options;
        const char *message;
    } cases[] = {
        { { 0 }, "nn_lbfgs: options.loss is NULL" },
        { { .loss = rosenbrock, .iterations = -1 },
          "nn_lbfgs: iterations, memory and threads must not be negative" },
        { { .loss = rosenbrock, .loss_tolerance = NAN }, "nn_lbfgs: tolerances must be in [0,1)" },
        { { .loss = rosenbrock, .narray = 1, .arrays = &drawn },
          "nn_lbfgs: array 0 has no data, and a fit draws none" },
        { { .loss = rosenbrock, .narray = 1, .arrays = &bad },
          "nn_lbfgs: array 0: element 1 is nan" },
        { { .loss = rosenbrock, .narray = 1, .arrays = &rows },
          "nn_lbfgs: there are no examples (options.examples is 0)" },
        { { .loss = rosenbrock, .lower = v.theta }, "nn_lbfgs: options.lower is theta itself" },
        { { .loss = rosenbrock_residuals },
          "nn_lbfgs: the loss must be a scalar, but is [2]; take its mean (ad_mean_all)" },
        { { .loss = nothing }, "nn_lbfgs: what options.loss returns does not depend on theta" },
        { { .loss = logarithm }, "nn_lbfgs: at the start: the result is not finite" },
    };
    for (int i = 0; i < COUNT(cases); i++) {
        nn_fit_report report;
        char error[300] = "";
        ck_assert_int_eq(nn_lbfgs(v.theta, &cases[i].options, &report, error, sizeof error), -1);
        ck_assert_str_eq(error, cases[i].message);
        ck_assert_int_eq(report.end, NN_FIT_FAILED);
        ck_assert_double_eq(nn_theta_f64(v.theta, "x")[0], -1.2);
    }
    char error[300] = "";
    ck_assert_int_eq(nn_lbfgs(NULL, NULL, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_lbfgs: theta is NULL");
    ck_assert_int_eq(nn_levenberg_marquardt(v.theta, NULL, NULL, error, sizeof error), -1);
    nn_fit_report report;
    nn_fit_options o = { .loss = rosenbrock, .on_iteration = stop };
    ck_assert_int_eq(nn_lbfgs(v.theta, &o, &report, error, sizeof error), 0);
    ck_assert_int_eq(report.end, NN_FIT_STOPPED);
    ck_assert_int_eq(report.iterations, 3);
    o = (nn_fit_options){ .loss = rosenbrock_residuals, .iterations = 2 };
    ck_assert_int_eq(nn_levenberg_marquardt(v.theta, &o, &report, error, sizeof error), 0);
    ck_assert_int_eq(report.end, NN_FIT_ITERATIONS);
    release(&v);
}
END_TEST

/* A weight that changes between recordings: by itself, as noise does, or in on_iteration. */
static double weight = 1;
static ad_var weighted(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const bool *counts = user;
    if (*counts) weight++;
    return ad_scale(ad_square(ad_shift(rosenbrock_residuals(tape, theta, batch, NULL), 1)), weight);
}
static ad_var weighted_sum(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    return ad_sum_all(weighted(tape, theta, batch, user));
}
static int anneal(int64_t iteration, double loss, const nn_theta *theta, void *user)
{
    const bool *counts = user;
    (void)iteration, (void)loss, (void)theta;
    if (!*counts) weight /= 2;
    return 0;
}
static int leave(int64_t iteration, double loss, const nn_theta *theta, void *user)
{
    (void)iteration, (void)loss, (void)theta, (void)user;
    return 0;
}

START_TEST(values_that_change)
{
    for (int way = 0; way < 3; way++) {
        numbers v = make(AD_F64, 2, (double[]){ -1.2, 1 });
        bool counts = way == 1;
        char error[400] = "";
        nn_fit_report report;
        nn_fit_options o = { .loss = _i ? weighted : weighted_sum,
                             .iterations = 3,
                             .user = &counts,
                             .on_iteration = way == 2 ? anneal : leave };
        int result =
            (_i ? nn_levenberg_marquardt : nn_lbfgs)(v.theta, &o, &report, error, sizeof error);
        ck_assert_msg(result == (way ? -1 : 0), "way %d: %s", way, error);
        if (way) ck_assert_ptr_nonnull(strstr(error, "it reads a value that changes"));
        ck_assert_int_eq(report.end == NN_FIT_FAILED, way != 0);
        release(&v);
    }
}
END_TEST

#ifndef ALLOCATIONS_NOT_COUNTED
/* Wherever memory ends in a fit, that is what is said, or a step is shorter. */
START_TEST(without_memory)
{
    nn_fit_options o = { .loss = _i ? rosenbrock_residuals : rosenbrock,
                         .iterations = 1,
                         .threads = 1 };
    int result = -1;
    long k = -1; /* first with all the memory it wants */
    for (; (result || k == 0) && k < 5000; k++) {
        numbers v = make(AD_F64, 2, (double[]){ -1.2, 1 });
        char error[300] = "";
        long live = allocations_live();
        allocations_fail_at(k);
        result = (_i ? nn_levenberg_marquardt : nn_lbfgs)(v.theta, &o, NULL, error, sizeof error);
        allocations_fail_at(-1);
        ck_assert_int_eq(allocations_live(), live);
        if (result)
            ck_assert_msg(strstr(error, "out of memory") || strstr(error, "memory is short"),
                          "%ld: %s", k, error);
        release(&v);
    }
    ck_assert_int_eq(result, 0);
    ck_assert_int_gt(k, 50);
}
END_TEST
#endif

int main(void)
{
    TCase *tests = suite_case("fit", "fit");
    tcase_add_test(tests, rosenbrock_by_both);
    tcase_add_test(tests, progress);
    tcase_add_test(tests, many_numbers);
    tcase_add_test(tests, bounds);
    tcase_add_loop_test(tests, certified, 0, COUNT(regressions));
    tcase_add_test(tests, rates_of_an_equation);
    tcase_add_test(tests, misuse);
    tcase_add_loop_test(tests, values_that_change, 0, 2);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_loop_test(tests, without_memory, 0, 2);
#endif
    return suite_run();
}
