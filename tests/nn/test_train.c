/* Training: what it reaches, that it repeats itself to the bit, and what it says when it cannot go
 * on. */
#define _GNU_SOURCE
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

enum { EXAMPLES = 203, IN = 3, MAX_SIZE = 512 };

/* y = x . (1, -2, 0.5) + 0.7 + noise, and a linear model for it. */
typedef struct {
    nn_model *model;
    nn_linear layer;
    nn_mlp mlp;
    nn_theta *numbers, *numbersf;
    double x[EXAMPLES * IN], y[EXAMPLES], *theta; /* theta, thetaf: of numbers, numbersf */
    float xf[EXAMPLES * IN], yf[EXAMPLES], *thetaf;
    int steps, stop_at, drawn;
    double losses[4000];
    ad_rng rng;
} problem;

static char error[512];

static problem *make_problem(bool network)
{
    problem *p = calloc(1, sizeof *p);
    ad_rng rng = ad_rng_seed(7);
    for (int i = 0; i < EXAMPLES; i++) {
        for (int k = 0; k < IN; k++) p->x[i * IN + k] = ad_rng_normal(&rng);
        const double *x = p->x + i * IN;
        p->y[i] = x[0] - 2 * x[1] + 0.5 * x[2] + 0.7 + 0.1 * ad_rng_normal(&rng);
    }
    for (int i = 0; i < EXAMPLES * IN; i++) p->xf[i] = (float)p->x[i];
    for (int i = 0; i < EXAMPLES; i++) p->yf[i] = (float)p->y[i];
    p->model = nn_model_new();
    if (network) p->mlp = nn_mlp_new(p->model, "net", 3, (int64_t[]){ IN, 16, 1 }, ad_tanh, NULL);
    else p->layer = nn_linear_new(p->model, "l", IN, 1, nn_init_zeros);
    ck_assert_ptr_null(nn_model_error(p->model));
    ck_assert_int_le(nn_model_size(p->model), MAX_SIZE);
    ad_rng same = rng;
    p->numbers = nn_theta_new(p->model, AD_F64, &rng);
    p->numbersf = nn_theta_new(p->model, AD_F32, &same);
    p->theta = nn_theta_f64(p->numbers, NULL);
    p->thetaf = nn_theta_f32(p->numbersf, NULL);
    error[0] = 0;
    return p;
}

static void free_problem(problem *p)
{
    nn_model_free(p->model);
    nn_theta_free(p->numbers);
    nn_theta_free(p->numbersf);
    free(p);
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    problem *p = user;
    (void)tape;
    return nn_mse(p->mlp.nlayer ? nn_mlp_apply(&p->mlp, theta, batch[0])
                                : nn_linear_apply(&p->layer, theta, batch[0]),
                  batch[1]);
}

static int note(int64_t step, double value, nn_theta *theta, void *user)
{
    problem *p = user;
    ck_assert_ptr_null(nn_theta_error(theta));
    ck_assert_int_eq(step, ++p->steps);
    if (step <= COUNT(p->losses)) p->losses[step - 1] = value;
    return step == p->stop_at;
}

static int train(problem *p, ad_dtype dtype, nn_train_options options, nn_train_report *report)
{
    nn_array f64[] = { nn_array_of(AD_SHAPE(AD_ROWS, IN), p->x),
                       nn_array_of(AD_SHAPE(AD_ROWS, 1), p->y) };
    nn_array f32[] = { nn_array_of(AD_SHAPE(AD_ROWS, IN), p->xf),
                       nn_array_of(AD_SHAPE(AD_ROWS, 1), p->yf) };
    options.loss = loss;
    options.user = p;
    options.narray = 2;
    options.arrays = dtype == AD_F32 ? f32 : f64;
    options.examples = EXAMPLES;
    if (!options.on_step) options.on_step = note;
    return nn_train(dtype == AD_F32 ? p->numbersf : p->numbers, &options, report, error,
                    sizeof error);
}

/* Least squares by the normal equations and Gauss's elimination: weights, then bias. */
static void least_squares(const problem *p, double *w)
{
    enum { N = IN + 1 };
    double a[N][N + 1] = { { 0 } };
    for (int e = 0; e < EXAMPLES; e++) {
        double row[N] = { p->x[e * IN], p->x[e * IN + 1], p->x[e * IN + 2], 1 };
        for (int i = 0; i < N; i++) {
            for (int j = 0; j < N; j++) a[i][j] += row[i] * row[j];
            a[i][N] += row[i] * p->y[e];
        }
    }
    for (int k = 0; k < N; k++) {
        for (int i = 0; i < N; i++) {
            double factor = i == k ? 0 : a[i][k] / a[k][k];
            for (int j = k; j <= N; j++) a[i][j] -= factor * a[k][j];
        }
    }
    for (int i = 0; i < N; i++) w[i] = a[i][N] / a[i][i];
}

START_TEST(least_squares_solution)
{
    problem *p = make_problem(false);
    nn_train_report report;
    double w[IN + 1];
    least_squares(p, w);
    nn_train_options sgd = { .optimizer = { .algorithm = &nn_sgd, .rate = 0.2, .momentum = 0.5 },
                             .steps = 400 };
    ck_assert_msg(train(p, AD_F64, sgd, &report) == 0, "%s", error);
    for (int i = 0; i < IN; i++)
        ck_assert_double_eq_tol(p->theta[p->layer.weight + i], w[i], 1e-12);
    ck_assert_double_eq_tol(p->theta[p->layer.bias], w[IN], 1e-12);
    ck_assert_int_eq(report.steps, 400);
    ck_assert_double_eq(report.first_loss, p->losses[0]);
    ck_assert_double_eq(report.last_loss, p->losses[399]);
    double mean_square = 0;
    for (int i = 0; i < EXAMPLES; i++) mean_square += p->y[i] * p->y[i] / EXAMPLES;
    ck_assert_double_eq_tol(report.first_loss, mean_square, 1e-12); /* all weights were 0 */
    ck_assert_double_lt(report.last_loss, 0.02);

    p->steps = 0;
    ck_assert_msg(train(p, AD_F32, sgd, NULL) == 0, "%s", error);
    for (int i = 0; i < IN; i++)
        ck_assert_double_eq_tol(p->thetaf[p->layer.weight + i], w[i], 1e-5);
    free_problem(p);
}
END_TEST

/* The first epoch's batches cover every example once: the batch losses, weighted with their rows,
 * add up to the loss of all, while theta stands still; 203 examples in batches of 50 leave one
 * of 3. */
START_TEST(partial_batches)
{
    problem *p = make_problem(false);
    nn_train_options o = { .optimizer = { .algorithm = &nn_sgd, .rate = 1e-300 },
                           .steps = 10,
                           .batch = 50 };
    ck_assert_msg(train(p, AD_F64, o, NULL) == 0, "%s", error);
    double all = 0;
    for (int i = 0; i < EXAMPLES; i++) all += p->y[i] * p->y[i];
    for (int epoch = 0; epoch < 2; epoch++) {
        double sum = 0;
        for (int k = 0; k < 5; k++) sum += p->losses[5 * epoch + k] * (k < 4 ? 50 : 3);
        ck_assert_double_eq_tol(sum, all, 1e-10);
    }
    ck_assert_double_ne(p->losses[0], p->losses[5]); /* shuffled anew */

    double first = p->losses[0];
    p->steps = 0;
    o.seed = 1;
    ck_assert_int_eq(train(p, AD_F64, o, NULL), 0);
    ck_assert_double_ne(p->losses[0], first); /* another seed, another order */
    p->steps = 0;
    o.batch = 5000; /* more than there are: all */
    ck_assert_int_eq(train(p, AD_F64, o, NULL), 0);
    ck_assert_double_eq_tol(p->losses[0], all / EXAMPLES, 1e-12);
    free_problem(p);
}
END_TEST

/* One seed gives one result, for any number of threads. */
START_TEST(repeats_itself)
{
    static const int threads[] = { 1, 1, 2, 0 };
    float first[MAX_SIZE];
    for (int run = 0; run < COUNT(threads); run++) {
        problem *p = make_problem(true);
        nn_train_options o = { .optimizer = { .rate = 0.01 },
                               .steps = 60,
                               .batch = _i ? 0 : 64,
                               .seed = 5,
                               .threads = threads[run] };
        ck_assert_msg(train(p, AD_F32, o, NULL) == 0, "%s", error);
        ck_assert_double_lt(p->losses[59], p->losses[0]);
        size_t size = (size_t)nn_theta_size(p->numbersf) * sizeof *first;
        if (run == 0) memcpy(first, p->thetaf, size);
        ck_assert_mem_eq(first, p->thetaf, size);
        free_problem(p);
    }
}
END_TEST

/* Rows that are worth more than one thread, of arrays of both types: a batch has its own rows of
 * each, every row of an epoch once. Numbers are small and whole, so all sums are exact. */
enum { MANY = 601, WIDTH = 1000, BATCH = 300, EPOCHS = 3, BATCHES = 3 };

static ad_var wide_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    ad_var squares = ad_sum(ad_square(batch[0]), 1, (int[]){ 1 }, false),
           products = ad_sum(ad_mul(batch[1], batch[2]), 1, (int[]){ 1 }, false);
    (void)tape, (void)user;
    return ad_add(ad_sum_all(ad_add(squares, products)), ad_sum_all(theta));
}

START_TEST(wide_rows)
{
    static float wide[MANY * WIDTH], narrow[MANY];
    static double other[MANY * 5];
    double total = 0, first[EPOCHS * BATCHES];
    for (int i = 0; i < MANY * WIDTH; i++) {
        wide[i] = (float)(i % 1009 % 5);
        total += (double)(wide[i] * wide[i]);
    }
    for (int i = 0; i < MANY; i++) {
        narrow[i] = (float)(i % 13);
        for (int k = 0; k < 5; k++) total += (other[i * 5 + k] = (i + k) % 11) * (i % 13);
    }
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, WIDTH), wide),
                          nn_array_of(AD_SHAPE(AD_ROWS, 5), other),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), narrow) };
    for (int run = 0; run < 4; run++) {
        problem *p = make_problem(false);
        for (int i = 0; i < MAX_SIZE && i < nn_theta_size(p->numbersf); i++) p->thetaf[i] = 0;
        nn_train_options o = { .loss = wide_loss,
                               .user = p,
                               .narray = 3,
                               .arrays = arrays,
                               .examples = MANY,
                               .optimizer = { .rate = 1e-20 },
                               .steps = EPOCHS * BATCHES,
                               .batch = BATCH,
                               .check_gradient = -1,
                               .on_step = note,
                               .worker = run == 3,
                               .threads = run == 3 ? 2 : run + 1 };
        ck_assert_msg(nn_train(p->numbersf, &o, NULL, error, sizeof error) == 0, "%s", error);
        for (int e = 0; e < EPOCHS; e++) {
            const double *l = &p->losses[e * BATCHES];
            ck_assert_double_eq(l[0] + l[1] + l[2], total);
        }
        if (run == 0) memcpy(first, p->losses, sizeof first);
        ck_assert_mem_eq(first, p->losses, sizeof first);
        free_problem(p);
    }
}
END_TEST

/* Where the C library lets its allocator be replaced: how often memory was asked for. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&       \
    !defined(SANITIZED)
#define COUNTS_ALLOCATIONS 1
extern void *__libc_malloc(size_t size), *__libc_calloc(size_t n, size_t size),
    *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
static long allocations;
void *malloc(size_t size)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(size);
}
void *calloc(size_t n, size_t size)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_calloc(n, size);
}
void *realloc(void *old, size_t size)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_memalign(alignment, size);
}
#else
#define COUNTS_ALLOCATIONS 0
static long allocations;
#endif

static long before_second_epoch, after_last;
static int count_allocations(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)theta, (void)user;
    if (step == 4) before_second_epoch = allocations;
    after_last = allocations;
    return 0;
}

/* After the first epoch (three batches of 64 and one of 11), nothing. */
START_TEST(allocates_nothing)
{
    problem *p = make_problem(true);
    nn_train_options o = { .steps = 40, .batch = 64, .on_step = count_allocations };
    ck_assert_msg(train(p, AD_F32, o, NULL) == 0, "%s", error);
    if (COUNTS_ALLOCATIONS) ck_assert_int_gt(before_second_epoch, 0);
    ck_assert_int_eq(after_last, before_second_epoch);
    free_problem(p);
}
END_TEST

START_TEST(stops_when_told)
{
    problem *p = make_problem(false);
    nn_train_report report;
    p->stop_at = 3;
    ck_assert_int_eq(train(p, AD_F64, (nn_train_options){ .steps = 100 }, &report), 0);
    ck_assert_int_eq(report.steps, 3);
    ck_assert_int_eq(p->steps, 3);
    free_problem(p);
}
END_TEST

static int draw(const nn_step *step, double *const *out, void *user)
{
    problem *p = user;
    p->drawn += (int)step->rows;
    ck_assert_ptr_null(step->examples);
    for (int64_t i = 0; i < step->rows; i++) {
        for (int k = 0; k < IN; k++) out[0][i * IN + k] = ad_rng_normal(step->rng);
        out[1][i] = out[0][i * IN] - 3;
    }
    return 0;
}

START_TEST(draws)
{
    for (int single = 0; single < 2; single++) {
        problem *p = make_problem(false);
        nn_array arrays[] = { nn_array_drawn(AD_SHAPE(AD_ROWS, IN)),
                              nn_array_drawn(AD_SHAPE(AD_ROWS, 1)) };
        nn_train_options o = { .loss = loss,
                               .user = p,
                               .narray = 2,
                               .arrays = arrays,
                               .optimizer = { .algorithm = &nn_sgd, .rate = 0.2 },
                               .steps = 300,
                               .batch = 20,
                               .draw = draw };
        nn_theta *theta = single ? p->numbersf : p->numbers;
        double weight[IN], bias;
        ck_assert_msg(nn_train(theta, &o, NULL, error, sizeof error) == 0, "%s", error);
        ck_assert_int_eq(p->drawn, 6000);
        ck_assert_int_eq(nn_theta_get(theta, "l.weight", IN, weight), 0);
        ck_assert_int_eq(nn_theta_get(theta, "l.bias", 1, &bias), 0);
        ck_assert_double_eq_tol(weight[0], 1, single ? 1e-5 : 1e-9);
        ck_assert_double_eq_tol(bias, -3, single ? 1e-5 : 1e-9);
        free_problem(p);
    }
}
END_TEST

/* A loss without data: (theta - 3)^2. */
static ad_var no_data(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)batch, (void)user;
    return ad_sum_all(ad_square(ad_shift(ad_slice(theta, 0, 0, 1), -3)));
}

START_TEST(without_data)
{
    nn_model *m = nn_model_new();
    nn_model_add(m, "a", AD_SCALAR, nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(m, AD_F64, NULL);
    nn_train_options o = { .loss = no_data,
                           .optimizer = { .algorithm = &nn_sgd, .rate = 0.25 },
                           .steps = 100 };
    ck_assert_msg(nn_train(theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    ck_assert_double_eq_tol(nn_theta_f64(theta, NULL)[0], 3, 1e-14);
    ck_assert_double_eq(nn_theta_f64(theta, NULL)[1], 0);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* ---- what goes wrong ------------------------------------------------------------------------- */

static ad_var bad_shape(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_linear_apply(&((problem *)user)->layer, theta, batch[0]);
}

static ad_var bad_operation(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)theta, (void)user;
    return nn_mse(batch[0], batch[1]);
}

static ad_var no_theta(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)theta, (void)user;
    return ad_mean_all(batch[1]);
}

static ad_var nothing(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)theta, (void)batch, (void)user;
    return (ad_var){ 0 };
}

/* log of the first weight, which is negative. */
static ad_var log_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    return ad_add(loss(tape, theta, batch, user), ad_sum_all(ad_log(ad_slice(theta, 0, 0, 1))));
}

/* sqrt at 0: a good value, no gradient. */
static ad_var root_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    return ad_add(loss(tape, theta, batch, user), ad_sum_all(ad_sqrt(ad_slice(theta, 0, 0, 1))));
}

START_TEST(losses_that_fail)
{
    static const struct {
        nn_loss loss;
        double first;
        const char *message;
    } cases[] = {
        { bad_shape, 0,
          "nn_train: the loss must be a scalar, but is [rows,1]; take its mean (ad_mean_all)" },
        { bad_operation, 0,
          "nn_train: recording the loss: nn_mse: the prediction is [rows,3], the target is "
          "[rows,1]; they must be the same" },
        { no_theta, 0, "nn_train: the loss does not depend on theta" },
        { nothing, 0, "nn_train: the loss function did not return a variable of its tape" },
        { log_loss, -1,
          "nn_train: step 1 of 10: the loss is nan; this is before any update: it is the loss, the "
          "data or the initial theta; theta is "
          "as after step 0" },
        { root_loss, 0,
          "nn_train: step 1 of 10: nn_optimizer_step: element 0 of the gradient is inf (in "
          "'l.weight'); this is before any update: it is "
          "the loss, the data or the initial theta; theta is as after step 0" },
    };
    problem *p = make_problem(false);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, IN), p->x),
                          nn_array_of(AD_SHAPE(AD_ROWS, 1), p->y) };
    nn_train_options o = {
        .user = p, .narray = 2, .arrays = arrays, .examples = EXAMPLES, .steps = 10
    };
    for (int i = 0; i < COUNT(cases); i++) {
        double before[MAX_SIZE];
        size_t size = (size_t)nn_theta_size(p->numbers) * sizeof *before;
        p->theta[0] = cases[i].first;
        memcpy(before, p->theta, size);
        o.loss = cases[i].loss;
        ck_assert_int_eq(nn_train(p->numbers, &o, NULL, error, sizeof error), -1);
        ck_assert_str_eq(error, cases[i].message);
        ck_assert_mem_eq(before, p->theta, size);
    }
    free_problem(p);
}
END_TEST

/* Diverging: the loss overflows in the end; theta is the one before, and finite. */
static double last_theta[MAX_SIZE];
static int64_t last_step;
static int remember(int64_t step, double value, nn_theta *theta, void *user)
{
    (void)value, (void)user;
    last_step = step;
    memcpy(last_theta, nn_theta_f64(theta, NULL), 32 * sizeof(double));
    return 0;
}

START_TEST(divergence)
{
    problem *p = make_problem(false);
    nn_train_report report;
    char expected[200];
    nn_train_options o = { .optimizer = { .algorithm = &nn_sgd, .rate = 100 },
                           .steps = 100000,
                           .on_step = remember };
    ck_assert_int_eq(train(p, AD_F64, o, &report), -1);
    ck_assert_int_eq(report.steps, last_step);
    ck_assert_int_gt(last_step, 3);
    ck_assert_mem_eq(p->theta, last_theta, 32 * sizeof(double));
    for (int i = 0; i < 32; i++) ck_assert(isfinite(p->theta[i]));
    snprintf(expected, sizeof expected,
             "nn_train: step %lld of 100000: the training has blown up: the loss went from %.3g to "
             "%.3g, the largest |theta| from 0 to ",
             (long long)last_step + 1, report.first_loss, report.last_loss);
    ck_assert_msg(strstr(error, expected) == error, "%s", error);
    ck_assert_msg(strstr(error, "; try a smaller rate, or clip_norm. What failed then: "), "%s",
                  error);
    snprintf(expected, sizeof expected, "; theta is as after step %lld", (long long)last_step);
    ck_assert_msg(strstr(error, expected) != NULL, "%s", error);
    free_problem(p);
}
END_TEST

static int try_train(problem *p, nn_train_options o, nn_array first, int64_t examples)
{
    nn_array arrays[] = { first, nn_array_of(AD_SHAPE(AD_ROWS, 1), p->y) };
    o.loss = loss;
    o.user = p;
    o.narray = 2;
    o.arrays = arrays;
    o.examples = examples;
    return nn_train(p->numbers, &o, NULL, error, sizeof error);
}

static int refuse(const nn_step *step, double *const *out, void *user)
{
    (void)user, (void)out;
    return step->step == 3;
}

static int draw_nan(const nn_step *step, double *const *out, void *user)
{
    (void)user;
    for (int64_t i = 0; i < step->rows * IN; i++) out[0][i] = i == 4 ? -NAN : 0;
    return 0;
}

START_TEST(bad_arguments)
{
    problem *p = make_problem(false);
    nn_train_options good = { .steps = 4 }, o;
    nn_array x = nn_array_of(AD_SHAPE(AD_ROWS, IN), p->x), bad = x;
    ck_assert_int_eq(try_train(p, (nn_train_options){ 0 }, x, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: options.steps must be at least 1, but is 0");
    ck_assert_int_eq(try_train(p, good, x, 0), -1);
    ck_assert_str_eq(error, "nn_train: there are no examples (options.examples is 0)");
    bad.shape = AD_SHAPE(AD_ROWS, 0);
    ck_assert_int_eq(try_train(p, good, bad, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: array 0: the shape must be [AD_ROWS, ...] or [...] with "
                            "sizes >= 1, but is [rows,0]");
    bad.shape = AD_SHAPE(AD_ROWS, 1ll << 40, 1ll << 14);
    ck_assert_int_eq(try_train(p, good, bad, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: array 0 does not fit into memory");
    bad = x;
    bad.dtype = (ad_dtype)7;
    ck_assert_int_eq(try_train(p, good, bad, EXAMPLES), -1);
    bad = nn_array_drawn(x.shape);
    ck_assert_int_eq(try_train(p, good, bad, EXAMPLES), -1);
    ck_assert_str_eq(error,
                     "nn_train: array 0 has no data, and there is no options.draw to fill it");
    p->x[7] = -NAN;
    ck_assert_int_eq(try_train(p, good, x, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: array 0: element 1 of example 2 (from 0) is nan");
    p->x[7] = 0;
    p->theta[1] = INFINITY;
    ck_assert_int_eq(try_train(p, good, x, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: element 1 of theta is inf before the first step");
    p->theta[1] = 0;
    o = good;
    o.batch = -1;
    ck_assert_int_eq(try_train(p, o, x, EXAMPLES), -1);
    o = good;
    o.draw = draw;
    ck_assert_int_eq(try_train(p, o, x, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: options.draw is given, but every array has data: leave the "
                            "data of what it draws NULL");
    o.draw = refuse;
    ck_assert_int_eq(try_train(p, o, nn_array_drawn(x.shape), EXAMPLES), -1);
    ck_assert_str_eq(
        error, "nn_train: options.draw returned an error at step 3 of 4; theta is as after step 2");
    o.draw = draw_nan;
    ck_assert_int_eq(try_train(p, o, nn_array_drawn(x.shape), EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: options.draw wrote nan as element 4 of array 0 at step 1 of "
                            "4; theta is as after step 0");
    o = good;
    o.optimizer.rate = -1;
    ck_assert_int_eq(try_train(p, o, x, EXAMPLES), -1);
    ck_assert_str_eq(error, "nn_train: nn_optimizer_new: adam: the rate must be positive");
    ck_assert_int_eq(nn_train(NULL, &good, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: theta is NULL");
    ck_assert_int_eq(nn_train(p->numbers, NULL, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: options is NULL");
    ck_assert_int_eq(nn_train(p->numbers, &good, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: options.loss is NULL");
    o = good;
    o.loss = loss;
    o.narray = 2;
    ck_assert_int_eq(nn_train(p->numbers, &o, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_train(NULL, NULL, NULL, NULL, 0), -1); /* nobody wants the message */
    nn_model *empty = nn_model_new();
    nn_theta *none = nn_theta_new(empty, AD_F64, NULL);
    ck_assert_int_eq(nn_train(none, &good, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_train: nn_theta_new: the model has no parameters");
    nn_theta_free(none);
    nn_model_free(empty);
    ck_assert_int_eq(try_train(p, good, x, EXAMPLES), 0); /* and nothing of that has done harm */
    free_problem(p);
}
END_TEST

/* ---- progress -------------------------------------------------------------------------------- */

/* Runs f with stderr going to a file; returns its text, which the caller frees. */
static char *captured(void (*f)(void))
{
    FILE *file = tmpfile();
    int kept = dup(STDERR_FILENO);
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    f();
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    char *text = calloc(1, 20000);
    rewind(file);
    size_t n = fread(text, 1, 19999, file);
    text[n] = 0;
    fclose(file);
    return text;
}

static void work(void)
{
    nn_progress *p = nn_progress_new("reading", 2000);
    for (int i = 1; i <= 2000; i++) nn_progress_update(p, i, "loss %d", i);
    nn_progress_free(p);
    nn_progress_update(NULL, 1, NULL);
    nn_progress_free(NULL);
}

static void train_with_progress(void)
{
    problem *p = make_problem(false);
    ck_assert_int_eq(train(p, AD_F64, (nn_train_options){ .steps = 50, .label = "fitting" }, NULL),
                     0);
    p->steps = 0;
    ck_assert_int_eq(train(p, AD_F64, (nn_train_options){ .steps = 50 }, NULL), 0);
    free_problem(p);
}

/* Elsewhere than on a terminal: whole lines, one for every tenth (and a few more on a machine that
 * stands still for half a minute). */
START_TEST(progress_lines)
{
    char *text = captured(work);
    ck_assert_ptr_null(strchr(text, '\r'));
    ck_assert_ptr_null(strchr(text, '\033'));
    int lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    ck_assert_int_ge(lines, 10);
    ck_assert_int_lt(lines, 100);
    ck_assert_int_eq(strncmp(text, "reading: 200/2000 (10 %), ", 26), 0);
    ck_assert_ptr_nonnull(strstr(text, " left, loss 200\n"));
    ck_assert_ptr_nonnull(strstr(text, "reading: 2000/2000 (100 %), "));
    free(text);
    text = captured(train_with_progress);
    ck_assert_ptr_nonnull(strstr(text, "fitting: 50/50 (100 %), "));
    ck_assert_ptr_nonnull(strstr(text, "loss "));
    lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    ck_assert_int_lt(lines, 20); /* the second training has no label and says nothing */
    free(text);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("train", "training");
    tcase_add_test(c, least_squares_solution);
    tcase_add_test(c, partial_batches);
    tcase_add_loop_test(c, repeats_itself, 0, 2);
    tcase_add_test(c, wide_rows);
    tcase_add_test(c, allocates_nothing);
    tcase_add_test(c, stops_when_told);
    tcase_add_test(c, draws);
    tcase_add_test(c, without_data);
    tcase_add_test(c, losses_that_fail);
    tcase_add_test(c, divergence);
    tcase_add_test(c, bad_arguments);
    tcase_add_test(c, progress_lines);
    return suite_run();
}
