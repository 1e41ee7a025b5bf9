/* Groups of processes, here of threads: means of gradients, what ranks must agree on, failures. */
#define _GNU_SOURCE
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANKS = 5, TEXT = 400 };

/* ---- ranks that are threads ---- */

typedef struct {
    int size;
    pthread_barrier_t barrier;
    const void *from[MAX_RANKS];
} meeting;

static int exchange(nn_processes *group, size_t bytes, const void *from, void *to, char *error,
                    size_t error_size)
{
    meeting *m = group->context;
    (void)error, (void)error_size;
    m->from[group->rank] = from;
    pthread_barrier_wait(&m->barrier);
    for (int r = 0; r < group->size; r++)
        memcpy((char *)to + (size_t)r * bytes,
               (const char *)m->from[r] + (size_t)group->rank * bytes, bytes);
    pthread_barrier_wait(&m->barrier);
    return 0;
}

static int gather(nn_processes *group, size_t bytes, const void *mine, void *all, char *error,
                  size_t error_size)
{
    meeting *m = group->context;
    (void)error, (void)error_size;
    m->from[group->rank] = mine;
    pthread_barrier_wait(&m->barrier);
    for (int r = 0; r < group->size; r++)
        memcpy((char *)all + (size_t)r * bytes, m->from[r], bytes);
    pthread_barrier_wait(&m->barrier);
    return 0;
}

/* What a rank does, and with what. */
typedef struct rank rank;
struct rank {
    nn_processes group;
    void (*work)(rank *r);
    int kind, status;
    char error[TEXT];
    ad_dtype dtype;
    nn_share share;
    double numbers[64]; /* results */
};

static void *run(void *data)
{
    rank *r = data;
    r->work(r);
    return NULL;
}

/* Runs `size` ranks, all of which have been given their kind. */
static void meet(int size, rank *ranks, void (*work)(rank *r))
{
    meeting m = { .size = size };
    pthread_t thread[MAX_RANKS];
    pthread_barrier_init(&m.barrier, NULL, (unsigned)size);
    for (int i = 0; i < size; i++) {
        ranks[i].group = (nn_processes){ "threads", i, size, exchange, gather, &m };
        ranks[i].work = work;
        ck_assert_int_eq(pthread_create(&thread[i], NULL, run, &ranks[i]), 0);
    }
    for (int i = 0; i < size; i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&m.barrier);
}

/* ---- means ---- */

enum { ROWS = 3, COLUMNS = 7 };

static nn_model *make_model(const char *name, int64_t columns)
{
    nn_model *model = nn_model_new();
    nn_model_add(model, name, AD_SHAPE(ROWS, columns), nn_init_xavier_normal, ROWS, columns);
    return model;
}

/* The gradient of a rank: numbers that differ by rank and by place. */
static double number(int rank, int64_t i) { return sin(1 + 3.7 * rank + 0.61 * (double)i); }

static int64_t rows_of(int rank) { return rank == 1 ? 0 : 10 + 3 * rank; }

static void mean(rank *r)
{
    nn_model *model = make_model("w", COLUMNS);
    nn_theta *gradient = nn_theta_new(model, r->dtype, NULL);
    nn_reduction *reduction = nn_reduction_new(&r->group, gradient);
    double values[ROWS * COLUMNS];
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) values[i] = number(r->group.rank, i);
    r->status = nn_theta_set(gradient, "w", ROWS * COLUMNS, values);
    r->share = (nn_share){ .loss = 1.5 * r->group.rank, .rows = rows_of(r->group.rank) };
    r->status |= nn_reduction_step(reduction, &r->share, gradient, r->error, TEXT);
    r->status |= nn_theta_get(gradient, "w", ROWS * COLUMNS, r->numbers);
    nn_reduction_free(reduction);
    nn_theta_free(gradient);
    nn_model_free(model);
}

START_TEST(means_of_gradients)
{
    int size = 1 + _i % MAX_RANKS;
    ad_dtype dtype = _i < MAX_RANKS ? AD_F64 : AD_F32;
    rank ranks[MAX_RANKS] = { 0 };
    for (int k = 0; k < size; k++) ranks[k].dtype = dtype;
    meet(size, ranks, mean);
    double rows = 0, loss = 0, bound = dtype == AD_F64 ? 1e-15 : 1e-6;
    for (int k = 0; k < size; k++) rows += (double)rows_of(k);
    for (int k = 0; k < size; k++) loss += 1.5 * k * (double)rows_of(k) / rows;
    for (int k = 0; k < size; k++) {
        ck_assert_msg(!ranks[k].status, "%s", ranks[k].error);
        ck_assert_int_eq(ranks[k].share.rows, (int64_t)rows);
        ck_assert_double_eq_tol(ranks[k].share.loss, loss, 1e-14);
        ck_assert(!memcmp(ranks[k].numbers, ranks[0].numbers, sizeof ranks[k].numbers));
    }
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
        double sum = 0;
        for (int k = 0; k < size; k++) sum += (double)rows_of(k) / rows * number(k, i);
        ck_assert_double_eq_tol(ranks[0].numbers[i], sum, bound);
    }
}
END_TEST

static void sum(rank *r)
{
    for (int i = 0; i < 5; i++) r->numbers[i] = r->group.rank + 10 * i;
    r->status = nn_processes_sum(&r->group, 5, r->numbers, r->error, TEXT);
}

START_TEST(sums)
{
    rank ranks[4] = { 0 };
    meet(4, ranks, sum);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 5; i++) ck_assert_double_eq(ranks[k].numbers[i], 6 + 40 * i);
}
END_TEST

/* ---- what goes wrong ---- */

static void agree(rank *r)
{
    bool odd = r->group.rank == 2;
    nn_model *model =
        make_model(odd && r->kind == 1 ? "v" : "w", odd && r->kind == 2 ? COLUMNS + 1 : COLUMNS);
    ad_rng rng = ad_rng_seed(odd && r->kind == 3 ? 8 : 7);
    nn_theta *theta = nn_theta_new(model, odd && r->kind == 4 ? AD_F32 : AD_F64, &rng);
    if (odd && r->kind == 5) nn_theta_f32(theta, "w");
    r->status = nn_processes_agree(&r->group, theta, r->error, TEXT);
    nn_theta_free(theta);
    nn_model_free(model);
}

START_TEST(ranks_that_disagree)
{
    static const char *const messages[] = { NULL,
                                            "rank 2 has other parameter arrays",
                                            "rank 2 has other parameter arrays",
                                            "rank 2 starts from other numbers",
                                            "rank 2 starts from other numbers",
                                            "rank 2: " };
    rank ranks[4] = { 0 };
    for (int k = 0; k < 4; k++) ranks[k].kind = _i;
    meet(4, ranks, agree);
    for (int k = 0; k < 4; k++) {
        ck_assert_int_eq(ranks[k].status, _i ? -1 : 0);
        if (_i) ck_assert_msg(strstr(ranks[k].error, messages[_i]), "%s", ranks[k].error);
    }
}
END_TEST

static void one_fails(rank *r)
{
    nn_model *model = make_model("w", COLUMNS), *other = make_model("w", COLUMNS);
    nn_theta *theta = nn_theta_new(model, AD_F64, NULL),
             *gradient = nn_theta_new(r->kind == 1 && r->group.rank ? other : model, AD_F64, NULL);
    nn_reduction *reduction = nn_reduction_new(&r->group, theta);
    r->share = (nn_share){ .rows = r->kind == 2 ? 0 : 4 };
    if (r->kind == 0 && r->group.rank == 1) r->share.failure = "the loss is not finite";
    r->status = nn_reduction_step(reduction, &r->share, gradient, r->error, TEXT);
    nn_reduction_free(reduction);
    nn_theta_free(gradient);
    nn_theta_free(theta);
    nn_model_free(model);
    nn_model_free(other);
}

START_TEST(one_fails_and_all_know)
{
    static const char *const messages[] = { "rank 1 of 3: the loss is not finite",
                                            "rank 1 of 3: nn_reduction_step: the gradient is not",
                                            "no rank has a row" };
    rank ranks[3] = { 0 };
    for (int k = 0; k < 3; k++) ranks[k].kind = _i;
    meet(3, ranks, one_fails);
    for (int k = 0; k < 3; k++) {
        ck_assert_int_eq(ranks[k].status, -1);
        ck_assert_msg(strstr(ranks[k].error, messages[_i]), "%s", ranks[k].error);
    }
}
END_TEST

/* ---- training ---- */

enum { EXAMPLES = 53, IN = 4, STEPS = 40 };

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_mse(nn_mlp_apply(user, theta, batch[0]), batch[1]);
}

/* Rank 1 cannot draw at step 20, where it is told so. */
static int draw(const nn_step *step, double *const *out, void *user)
{
    bool *fails = user;
    for (int64_t i = 0; i < step->rows; i++) out[1][i] = ad_rng_normal(step->rng);
    return *fails && step->step == 20;
}

static bool never = false, now = true;

static void train(rank *r)
{
    double x[EXAMPLES * IN];
    for (int i = 0; i < EXAMPLES * IN; i++) x[i] = sin(1.3 * i);
    nn_model *model = nn_model_new();
    nn_mlp mlp = nn_mlp_new(model, "m", 3, (int64_t[]){ IN, 8, 1 }, ad_tanh, NULL);
    ad_rng rng = ad_rng_seed(5);
    nn_theta *theta = nn_theta_new(model, r->dtype, &rng);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS, IN), x),
                          nn_array_drawn(AD_SHAPE(AD_ROWS, 1)) };
    nn_stage stage = { .steps = STEPS, .loss = loss, .user = &mlp };
    nn_train_options o = { .narray = 2, .arrays = arrays, .draw = draw, .stages = &stage };
    o.nstage = 1;
    o.user = r->kind == 1 && r->group.rank == 1 ? &now : &never;
    o.examples = EXAMPLES;
    o.batch = 10; /* the last one of an epoch has 3 rows: some ranks have none */
    o.micro_batch = 2;
    o.worker = r->kind == 2;
    o.threads = 1;
    o.validation.batch = r->kind == 3 && r->group.rank == 1 ? -1 : 0;
    o.processes = r->group.size > 1 ? &r->group : NULL;
    nn_train_report report;
    r->status = nn_train(theta, &o, &report, r->error, TEXT);
    r->share.loss = report.last_loss;
    if (!r->status) nn_theta_get(theta, "m.0.weight", IN * 8, r->numbers);
    nn_theta_free(theta);
    nn_model_free(model);
}

START_TEST(training_by_several)
{
    rank alone[1] = { 0 }, ranks[MAX_RANKS] = { 0 }, again[MAX_RANKS] = { 0 };
    int size = 2 + _i % 4;
    ad_dtype dtype = _i < 4 ? AD_F64 : AD_F32;
    alone[0].dtype = dtype;
    for (int k = 0; k < size; k++) ranks[k].dtype = again[k].dtype = dtype;
    for (int k = 0; k < size; k++) again[k].kind = 2;
    meet(1, alone, train);
    meet(size, ranks, train);
    meet(size, again, train);
    ck_assert_msg(!alone[0].status, "%s", alone[0].error);
    for (int k = 0; k < size; k++) {
        ck_assert_msg(!ranks[k].status, "%s", ranks[k].error);
        ck_assert(!memcmp(ranks[k].numbers, ranks[0].numbers, sizeof ranks[k].numbers));
        ck_assert(!memcmp(again[k].numbers, ranks[0].numbers, sizeof ranks[k].numbers));
    }
    for (int i = 0; i < IN * 8; i++)
        ck_assert_double_eq_tol(ranks[0].numbers[i], alone[0].numbers[i],
                                dtype == AD_F64 ? 1e-10 : 2e-3);
}
END_TEST

/* Where one cannot go on, or cannot begin, nobody waits for it. */
START_TEST(one_stops_and_all_stop)
{
    rank ranks[3] = { 0 };
    for (int k = 0; k < 3; k++) {
        ranks[k].kind = _i;
        ranks[k].dtype = AD_F64;
    }
    meet(3, ranks, train);
    for (int k = 0; k < 3; k++) {
        ck_assert_int_eq(ranks[k].status, -1);
        ck_assert_msg(strstr(ranks[k].error, _i == 1 ? "draw" : "options.validation"), "%s",
                      ranks[k].error);
        if (k != 1) ck_assert_msg(strstr(ranks[k].error, "rank 1"), "%s", ranks[k].error);
    }
}
END_TEST

START_TEST(bad_groups)
{
    char error[TEXT];
    double x = 1;
    nn_processes bad[] = { { "x", 2, 2, exchange, gather, NULL },
                           { "x", 0, 1, NULL, gather, NULL } };
    ck_assert_int_eq(nn_processes_sum(NULL, 1, &x, error, TEXT), -1);
    ck_assert_ptr_nonnull(strstr(error, "NULL"));
    ck_assert_int_eq(nn_processes_sum(&bad[0], 1, &x, error, TEXT), -1);
    ck_assert_ptr_nonnull(strstr(error, "rank 2 of 2"));
    ck_assert_int_eq(nn_processes_sum(&bad[1], 1, &x, error, TEXT), -1);
    ck_assert_ptr_nonnull(strstr(error, "exchange"));
    ck_assert_ptr_null(nn_reduction_new(NULL, NULL));
    nn_reduction_free(NULL);
    ck_assert_int_eq(nn_reduction_step(NULL, NULL, NULL, error, TEXT), -1);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("parallel", "parallel");
    tcase_add_loop_test(c, means_of_gradients, 0, 2 * MAX_RANKS);
    tcase_add_test(c, sums);
    tcase_add_loop_test(c, ranks_that_disagree, 0, 6);
    tcase_add_loop_test(c, one_fails_and_all_know, 0, 3);
    tcase_add_loop_test(c, training_by_several, 0, 8);
    tcase_add_loop_test(c, one_stops_and_all_stop, 1, 2);
    tcase_add_loop_test(c, one_stops_and_all_stop, 3, 4);
    tcase_add_test(c, bad_groups);
    return suite_run();
}
