/* The library's own threads: every part is done once, by threads that work side by side with the
 * caller's arithmetic; forks, exits, several callers, more threads than the system has or the work
 * needs. */
#define _GNU_SOURCE
#include "autodiff/plan/program.h"
#include "autodiff/run/threads.h"
#include "tests/support.h"
#include <cblas.h>
#include <dlfcn.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined __has_feature
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifndef __SANITIZE_THREAD__ /* which has no threads after a fork */
#define FORK
#ifndef __SANITIZE_ADDRESS__ /* whose allocator may be locked for ever in the child when threads   \
                                are at work */
#define FORK_MEANWHILE
#endif
#endif

static const double MUCH = 1e12; /* work, worth any number of threads */

/* ---- parts ---- */

enum { MAX_PARTS = 100 };
typedef struct {
    int threads;
    atomic_int done[MAX_PARTS], busy[AD_MAX_THREADS];
    atomic_bool wrong;
} census;

static void count_part(void *data, int thread, int64_t part)
{
    census *c = data;
    if (thread < 0 || thread >= c->threads || part < 0 || part >= MAX_PARTS) {
        atomic_store(&c->wrong, true);
        return;
    }
    if (atomic_exchange(&c->busy[thread], 1)) atomic_store(&c->wrong, true);
    atomic_fetch_add(&c->done[part], 1);
    atomic_store(&c->busy[thread], 0);
}

/* Whether every part is done once, by a thread of a number of its own. Like all here that a second
 * thread or a forked process calls, it asserts nothing: check's assertions take a lock, which a
 * fork may leave locked for ever in the child. */
static bool every_part_once(int threads, double work, int64_t parts)
{
    census c = { .threads = threads };
    ad_threads_share(threads, work, parts, count_part, &c);
    bool fine = !c.wrong;
    for (int64_t k = 0; k < MAX_PARTS; k++) fine &= c.done[k] == (k < parts);
    return fine;
}

START_TEST(test_every_part_once)
{
    static const int threads[] = { 1, 2, 3, 4, 7, 40 };
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
            for (int64_t parts = 0; parts <= MAX_PARTS; parts = parts < 5 ? parts + 1 : parts * 2) {
                ck_assert(every_part_once(threads[i], MUCH, parts));
                ck_assert(every_part_once(threads[i], 3e5, parts));
            }
}
END_TEST

typedef struct {
    atomic_int begun, first_only;
    int64_t parts;
    int rounding[AD_MAX_THREADS];
} meeting;

/* Ends only when all parts have begun. */
static void meet(void *data, int thread, int64_t part)
{
    meeting *m = data;
    m->rounding[thread] = fegetround();
    (void)part;
    atomic_fetch_add(&m->begun, 1);
    while (atomic_load(&m->begun) < m->parts) sched_yield();
}

/* Whether so many threads meet, with the caller's rounding mode. */
static bool all_meet(int threads)
{
    meeting m = { .parts = threads };
    ad_threads_share(threads, MUCH, threads, meet, &m);
    for (int k = 0; k < threads; k++)
        if (m.rounding[k] != fegetround()) return false;
    return true;
}

START_TEST(test_side_by_side)
{
    for (int round = 0; round < 100; round++)
        for (int threads = 2; threads <= 4; threads++) ck_assert(all_meet(threads));
}
END_TEST

/* The rounding mode is the caller's, whatever it was when the threads were made. */
START_TEST(test_rounding)
{
    ck_assert(all_meet(3));
    fesetround(FE_UPWARD);
    ck_assert(all_meet(3));
    fesetround(FE_TONEAREST);
    ck_assert(all_meet(3));
}
END_TEST

/* Divides zero by `by` in long double, which is the x87 processor's work, when all have begun. */
static void divide_long(void *data, int thread, int64_t part)
{
    meeting *m = data;
    volatile long double zero = 0, by = (long double)m->rounding[0], quotient;
    (void)part;
    (void)thread;
    atomic_fetch_add(&m->begun, 1);
    while (atomic_load(&m->begun) < m->parts) sched_yield();
    quotient = zero / by;
    (void)quotient;
}

/* Exceptions that one job has left are not raised in the next one, whose caller traps them. */
START_TEST(test_traps)
{
    for (int by = 0; by < 2; by++) {
        meeting m = { .parts = 2, .rounding = { by } };
        if (by) {
            feclearexcept(FE_ALL_EXCEPT);
            feenableexcept(FE_INVALID);
        }
        ad_threads_share(2, MUCH, 2, divide_long, &m);
    }
    fedisableexcept(FE_INVALID);
}
END_TEST

static void note_thread(void *data, int thread, int64_t part)
{
    (void)part;
    if (thread) atomic_store(&((meeting *)data)->begun, 1);
    else atomic_fetch_add(&((meeting *)data)->first_only, 1);
}

START_TEST(test_little_work)
{
    for (int k = 0; k < 200; k++) {
        meeting m = { 0 };
        ck_assert(all_meet(2)); /* the worker is awake */
        ad_threads_share(2, 1000, 10000, note_thread, &m);
        ck_assert_int_eq(m.first_only, 10000);
        ck_assert_int_eq(m.begun, 0);
    }
}
END_TEST

START_TEST(test_default_number)
{
    setenv("OMP_NUM_THREADS", "3,2", 1);
    ck_assert_int_eq(ad_threads_default(), 3);
    setenv("OMP_NUM_THREADS", "100000", 1);
    ck_assert_int_eq(ad_threads_default(), AD_MAX_THREADS);
    static const char *none[] = { "", "0", "-2", "many" };
    unsetenv("OMP_NUM_THREADS");
    int processors = ad_threads_default();
    ck_assert_int_ge(processors, 1);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        setenv("OMP_NUM_THREADS", none[i], 1);
        ck_assert_int_eq(ad_threads_default(), processors);
    }
}
END_TEST

/* ---- programs ---- */

enum { IN = 8, HIDDEN = 96, ROWS_MOST = 700, SIZE = 2 * IN * HIDDEN + HIDDEN * HIDDEN };
static float theta[SIZE], rows_of_x[ROWS_MOST * IN];

typedef struct {
    float loss, gradient[SIZE], y[ROWS_MOST * IN];
} answer;

/* A network's values, a loss and its gradient: blocks and sums of lanes that are worth several
 * threads. */
static ad_program *network(void)
{
    for (int i = 0; i < SIZE; i++) theta[i] = 0.1f * sinf(1.7f * (float)i);
    for (int i = 0; i < ROWS_MOST * IN; i++) rows_of_x[i] = cosf(0.3f * (float)i);
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var w = ad_param(t, AD_SHAPE(SIZE), NULL),
           x = ad_input_rows(t, AD_SHAPE(AD_ROWS, IN), 0, NULL), out[3];
    ad_var w1 = ad_reshape(ad_slice(w, 0, 0, IN * HIDDEN), AD_SHAPE(IN, HIDDEN));
    ad_var w2 = ad_reshape(ad_slice(w, 0, IN * HIDDEN, IN * HIDDEN + HIDDEN * HIDDEN),
                           AD_SHAPE(HIDDEN, HIDDEN));
    ad_var w3 =
        ad_reshape(ad_slice(w, 0, IN * HIDDEN + HIDDEN * HIDDEN, SIZE), AD_SHAPE(HIDDEN, IN));
    out[2] = ad_matmul(ad_tanh(ad_matmul(ad_tanh(ad_matmul(x, w1)), w2)), w3);
    out[0] = ad_mean_all(ad_square(out[2]));
    ad_grad(out[0], 1, &w, &out[1]);
    ad_program *p = ad_compile(2, (ad_var[]){ w, x }, 3, out);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    return p;
}

static bool replay(const ad_program *p, ad_workspace *s, int64_t rows, answer *a)
{
    memset(a, 0, sizeof *a);
    if (ad_run(p, s, rows, (const void *[]){ theta, rows_of_x },
               (void *[]){ &a->loss, a->gradient, a->y }) == 0)
        return true;
    fprintf(stderr, "%s\n", ad_workspace_error(s));
    return false;
}

/* Whether `runs` runs on so many threads give the bits of one thread. */
static bool agrees(const ad_program *p, int threads, int64_t rows, int runs)
{
    ad_workspace *one = ad_workspace_new(p, 1), *many = ad_workspace_new(p, threads);
    answer *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    bool same = replay(p, one, rows, a);
    for (int k = 0; k < runs && same; k++)
        same = replay(p, many, rows, b) && !memcmp(a, b, sizeof *a);
    free(a);
    free(b);
    ad_workspace_free(one);
    ad_workspace_free(many);
    return same;
}

/* Fewer blocks than threads; more threads than the library makes. */
START_TEST(test_bits)
{
    static const int threads[] = { 2, 3, 4, 9, 64, 1000 };
    static const int64_t rows[] = { 1, 64, 130, ROWS_MOST };
    ad_program *p = network();
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
            ck_assert_msg(agrees(p, threads[i], rows[k], 50), "%d threads, %d rows", threads[i],
                          (int)rows[k]);
    ad_program_free(p);
}
END_TEST

START_TEST(test_bits_of_rounding)
{
    ad_program *p = network();
    ck_assert(agrees(p, 4, ROWS_MOST, 2));
    fesetround(FE_UPWARD);
    ck_assert(agrees(p, 4, ROWS_MOST, 20));
    fesetround(FE_TONEAREST);
    ad_program_free(p);
}
END_TEST

/* Many numbers in single precision: what is lost hardly grows with their number. A column is added
 * up, a gradient of a product is, and the largest is found, for numbers of rows about which lanes
 * begin to have groups. */
START_TEST(test_long_sums)
{
    enum { MOST = 4000000 };
    static const int64_t rows[] = { 65536, 65537, 65536 + 8 * 128 + 5, MOST };
    float *x = malloc(MOST * sizeof *x), got[2][3];
    const float one = 1;
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL),
                    ad_param(tape, AD_SHAPE(1, 1), NULL) };
    ad_var out[] = { ad_sum_all(in[0]), in[1], ad_reduce_max(in[0], 0, NULL, false) };
    ad_grad(ad_sum_all(ad_matmul(in[0], in[1])), 1, &in[1], &out[1]);
    ad_program *p = ad_compile(2, in, 3, out);
    for (int i = 0; i < MOST; i++) x[i] = 0.1f;
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        double sum = 0;
        for (int64_t i = 0; i < rows[k]; i++) sum += (double)x[i];
        for (int threads = 1; threads <= 2; threads++) {
            ad_workspace *w = ad_workspace_new(p, threads);
            float *y = got[threads - 1];
            ck_assert_int_eq(ad_run(p, w, rows[k], (const void *const[]){ x, &one },
                                    (void *const[]){ y, y + 1, y + 2 }),
                             0);
            ad_workspace_free(w);
        }
        ck_assert_mem_eq(got[0], got[1], sizeof got[0]);
        ck_assert_msg(fabs(got[0][0] / sum - 1) < 2e-6,
                      "%lld rows: the sum is %.9g, should be %.9g", (long long)rows[k], got[0][0],
                      sum);
        ck_assert_msg(fabs(got[0][1] / sum - 1) < 2e-6,
                      "%lld rows: the gradient is %.9g, should be %.9g", (long long)rows[k],
                      got[0][1], sum);
        ck_assert(got[0][2] == 0.1f);
    }
    ad_program_free(p);
    ad_tape_free(tape);
    free(x);
}
END_TEST

/* ---- beside a threaded BLAS ---- */

static atomic_int blas_calls;
typedef void sgemm(CBLAS_LAYOUT, CBLAS_TRANSPOSE, CBLAS_TRANSPOSE, blasint, blasint, blasint, float,
                   const float *, blasint, const float *, blasint, float, float *, blasint);

/* In the place of the library's, to be counted. */
void cblas_sgemm(CBLAS_LAYOUT layout, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n,
                 blasint k, float alpha, const float *a, blasint lda, const float *b, blasint ldb,
                 float beta, float *c, blasint ldc)
{
    void *real = dlsym(RTLD_NEXT, "cblas_sgemm");
    sgemm *call;
    memcpy(&call, &real, sizeof call);
    atomic_fetch_add(&blas_calls, 1);
    call(layout, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

enum { LARGE = 170, LARGE_ROWS = 5 }; /* enough multiplications to be divided */

static float large[LARGE_ROWS][LARGE][LARGE];

/* One product of large matrices, which the threads share, or one for each row: neither goes to
 * BLAS. */
static void check_large_product(bool rows, int threads)
{
    static float product[2][LARGE_ROWS][LARGE][LARGE];
    ad_shape shape = rows ? AD_SHAPE(AD_ROWS, LARGE, LARGE) : AD_SHAPE(LARGE, LARGE);
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var x = rows ? ad_input_rows(t, shape, 0, NULL) : ad_input(t, shape, NULL),
           y = ad_matmul(x, x);
    ad_program *p = ad_compile_with(&(ad_compile_options){ .block_rows = 1 }, 1, &x, 1, &y);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    atomic_store(&blas_calls, 0);
    for (int k = 0; k < 2; k++) {
        ad_workspace *s = ad_workspace_new(p, k ? threads : 1);
        ck_assert_int_eq(
            ad_run(p, s, LARGE_ROWS, (const void *[]){ large }, (void *[]){ product[k] }), 0);
        ad_workspace_free(s);
    }
    ck_assert_int_eq(atomic_load(&blas_calls), 0);
    for (int r = 0; r < (rows ? LARGE_ROWS : 1); r++)
        for (int i = 0; i < LARGE; i++)
            for (int j = 0; j < LARGE; j++) {
                double sum = 0;
                for (int l = 0; l < LARGE; l++)
                    sum += (double)large[r][i][l] * (double)large[r][l][j];
                ck_assert_double_eq_tol((double)product[0][r][i][j], sum, 1e-4);
            }
    ck_assert_mem_eq(product[0], product[1], sizeof product[0]);
    ad_program_free(p);
    ad_tape_free(t);
}

START_TEST(test_large_products)
{
    for (int r = 0; r < LARGE_ROWS; r++)
        for (int i = 0; i < LARGE; i++)
            for (int j = 0; j < LARGE; j++)
                large[r][i][j] = sinf((float)(31 * r + 17 * i * (j + 3)));
    check_large_product(false, 3);
    check_large_product(true, 3);
}
END_TEST

/* ---- several callers ---- */

typedef struct {
    const ad_program *p;
    atomic_bool *stop;
    atomic_int rounds;
    bool wrong;
} caller;

static void *call(void *data)
{
    caller *c = data;
    do {
        c->wrong |= !agrees(c->p, 3, ROWS_MOST, 10);
        atomic_fetch_add(&c->rounds, 1);
    } while (!atomic_load(c->stop));
    return NULL;
}

START_TEST(test_several_callers)
{
    enum { CALLERS = 3 };
    ad_program *p = network();
    atomic_bool stop = true;
    pthread_t thread[CALLERS];
    caller c[CALLERS];
    for (int k = 0; k < CALLERS; k++) {
        c[k] = (caller){ .p = p, .stop = &stop };
        ck_assert_int_eq(pthread_create(&thread[k], NULL, call, &c[k]), 0);
    }
    for (int k = 0; k < CALLERS; k++) {
        pthread_join(thread[k], NULL);
        ck_assert(!c[k].wrong);
    }
    ad_program_free(p);
}
END_TEST

/* A thread that is cancelled while its worker is at work waits for it. */
static void cancel_caller(void *data, int thread, int64_t part)
{
    meet(data, thread, part);
    if (thread) nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    else pthread_cancel(pthread_self());
}

static void *share_and_end(void *returned)
{
    meeting m = { .parts = 2 };
    ad_threads_share(2, MUCH, 2, cancel_caller, &m);
    atomic_store((atomic_bool *)returned, true);
    pthread_testcancel();
    return NULL;
}

START_TEST(test_cancelled_caller)
{
    for (int k = 0; k < 5; k++) {
        atomic_bool returned = false;
        pthread_t thread;
        void *result;
        ck_assert_int_eq(pthread_create(&thread, NULL, share_and_end, &returned), 0);
        pthread_join(thread, &result);
        ck_assert_ptr_eq(result, PTHREAD_CANCELED);
        ck_assert(returned);
        ck_assert(all_meet(2));
    }
}
END_TEST

/* The signals that the program gets go to its own threads, those that a thread brings upon itself
 * to that thread. */
static void note_signals(void *data, int thread, int64_t part)
{
    sigset_t blocked;
    meet(data, thread, part);
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    if (thread && sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGALRM) &&
        sigismember(&blocked, SIGCHLD) && !sigismember(&blocked, SIGSEGV) &&
        !sigismember(&blocked, SIGSYS))
        atomic_fetch_add(&((meeting *)data)->first_only, 1);
}

START_TEST(test_signals)
{
    meeting m = { .parts = 3 };
    ad_threads_share(3, MUCH, 3, note_signals, &m);
    ck_assert_int_eq(m.first_only, 2);
}
END_TEST

/* ---- processes ---- */

static int status_of(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child ? status : -1;
}

#ifdef FORK
/* The child has none of its parent's threads; it makes its own, and so does its child. */
START_TEST(test_fork)
{
    ad_program *p = network();
    ck_assert(all_meet(4));
    for (int k = 0; k < 5; k++) {
        pid_t child = fork();
        if (child == 0) {
            bool fine = all_meet(3) && agrees(p, 3, ROWS_MOST, 5);
            pid_t grandchild = fork();
            if (grandchild == 0) _exit(all_meet(4) ? 0 : 1);
            exit(fine && status_of(grandchild) == 0 ? 0 : 1);
        }
        ck_assert_int_gt(child, 0);
        ck_assert(agrees(p, 4, ROWS_MOST, 5));
        ck_assert_int_eq(status_of(child), 0);
    }
    ad_program_free(p);
}
END_TEST

/* While another thread's program is under way. */
START_TEST(test_fork_while_programs_run)
{
    ad_program *p = network();
    atomic_bool stop = false;
    caller c = { .p = p, .stop = &stop };
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, call, &c), 0);
    for (int k = 0; k < 20; k++) {
        pid_t child = fork();
        if (child == 0) _exit(all_meet(3) ? 0 : 1);
        ck_assert_int_gt(child, 0);
        ck_assert_int_eq(status_of(child), 0);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    ck_assert(!c.wrong);
    ad_program_free(p);
}
END_TEST

/* A product of a size of its own, for which code has to be generated. */
static bool compiles(int size)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var w = ad_input(t, AD_SHAPE(size, 40), NULL),
           x = ad_input_rows(t, AD_SHAPE(AD_ROWS, size), 0, NULL), y = ad_matmul(x, w);
    ad_program *p = ad_compile(2, (ad_var[]){ w, x }, 1, &y);
    ad_program_free(p);
    ad_tape_free(t);
    return p != NULL;
}

static void *compile_for_long(void *stop)
{
    for (int size = 10; !atomic_load((atomic_bool *)stop); size++)
        if (!compiles(size)) abort();
    return NULL;
}

START_TEST(test_fork_while_programs_are_compiled)
{
    atomic_bool stop = false;
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, compile_for_long, &stop), 0);
    for (int k = 0; k < 50; k++) {
        pid_t child = fork();
        if (child == 0) _exit(compiles(5) ? 0 : 1);
        ck_assert_int_gt(child, 0);
        ck_assert_int_eq(status_of(child), 0);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
}
END_TEST
#endif

static atomic_int shared;
static void *share_for_ever(void *data)
{
    for (;; atomic_fetch_add(&shared, 1))
        if (!every_part_once(3, MUCH, MAX_PARTS)) abort();
    return data;
}

/* Neither the pool nor the code of the products is taken from a thread that is still at work at the
 * end. */
START_TEST(test_exit_meanwhile)
{
    for (int k = 0; k < 10; k++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, share_for_ever, NULL)) _exit(1);
            while (atomic_load(&shared) < 100) sched_yield();
            exit(every_part_once(3, MUCH, MAX_PARTS) ? 0 : 1);
        }
        ck_assert_int_gt(child, 0);
        ck_assert_int_eq(status_of(child), 0);
    }
}
END_TEST

#ifndef __SANITIZE_ADDRESS__ /* whose leak checker may take for lost what a thread at work holds   \
                              */
START_TEST(test_exit_while_programs_run)
{
    ad_program *p = network();
    for (int k = 0; k < 50; k++) {
        pid_t child = fork();
        if (child == 0) {
            atomic_bool stop = false;
            caller c = { .p = p, .stop = &stop };
            pthread_t thread;
            if (pthread_create(&thread, NULL, call, &c)) _exit(1);
            while (atomic_load(&c.rounds) < 1) sched_yield();
            exit(0);
        }
        ck_assert_int_gt(child, 0);
        ck_assert_int_eq(status_of(child), 0);
    }
    ad_program_free(p);
}
END_TEST
#endif

#ifdef __GLIBC__
/* The system has no threads to give: their stacks would be too large. */
static bool does_without_threads(void)
{
    pthread_attr_t huge;
    pthread_attr_init(&huge);
    if (pthread_attr_setstacksize(&huge, (size_t)1 << 60) || pthread_setattr_default_np(&huge))
        return false;
    pthread_attr_destroy(&huge);
    meeting m = { 0 };
    ad_threads_share(4, MUCH, 50, note_thread, &m);
    if (m.first_only != 50 || m.begun != 0) return false;
    ad_program *p = network();
    const bool fine = agrees(p, 4, ROWS_MOST, 3);
    ad_program_free(p);
    return fine;
}

/* In a child, which has no workers of the tests before (CK_FORK=no). */
START_TEST(test_no_threads)
{
    pid_t child = fork();
    if (child == 0) _exit(does_without_threads() ? 0 : 1);
    ck_assert_int_gt(child, 0);
    ck_assert_int_eq(status_of(child), 0);
}
END_TEST
#endif

int main(void)
{
    TCase *tc = suite_case("threads", "threads");
    tcase_add_test(tc, test_every_part_once);
    tcase_add_test(tc, test_side_by_side);
    tcase_add_test(tc, test_rounding);
    tcase_add_test(tc, test_traps);
    tcase_add_test(tc, test_little_work);
    tcase_add_test(tc, test_default_number);
    tcase_add_test(tc, test_bits);
    tcase_add_test(tc, test_bits_of_rounding);
    tcase_add_test(tc, test_long_sums);
    tcase_add_test(tc, test_large_products);
    tcase_add_test(tc, test_several_callers);
    tcase_add_test(tc, test_cancelled_caller);
    tcase_add_test(tc, test_signals);
#ifdef FORK
    tcase_add_test(tc, test_fork);
#endif
#ifdef FORK_MEANWHILE
    tcase_add_test(tc, test_fork_while_programs_run);
    tcase_add_test(tc, test_fork_while_programs_are_compiled);
#endif
    tcase_add_test(tc, test_exit_meanwhile);
#ifndef __SANITIZE_ADDRESS__
    tcase_add_test(tc, test_exit_while_programs_run);
#endif
#ifdef __GLIBC__
    tcase_add_test(tc, test_no_threads);
#endif
    return suite_run();
}
