/* Bytes before anything runs: what ad_program_bytes says is what a workspace holds afterwards, and
 * limits are errors that name it. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/extension.h"
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <stdlib.h>
#include <string.h>

/* A program and what it is run on. */
typedef struct {
    ad_tape *tape;
    ad_program *program;
    int nin, nout;
    void *in[4], *out[4];
} sample;

enum { WIDTH = 48, MOST_ROWS = 1000 };

static double *zeros(int64_t n)
{
    double *x = calloc((size_t)n, sizeof *x);
    ck_assert_ptr_nonnull(x);
    return x;
}

static sample compile(ad_tape *t, bool interpreted, int nin, const ad_var *in, int nout,
                      const ad_var *out)
{
    sample s = { .tape = t, .nin = nin, .nout = nout };
    s.program =
        ad_compile_with(&(ad_compile_options){ .interpreted = interpreted }, nin, in, nout, out);
    ck_assert_msg(s.program != NULL, "%s", ad_tape_error(t) ? ad_tape_error(t) : "no error");
    for (int i = 0; i < nin; i++) s.in[i] = zeros(ad_count(ad_shape_of(in[i]), MOST_ROWS));
    for (int i = 0; i < nout; i++) s.out[i] = zeros(ad_count(ad_shape_of(out[i]), MOST_ROWS));
    return s;
}

/* A network's loss and its gradient; a normalisation over the rows makes arrays of all rows. */
static sample network(bool interpreted, int64_t width)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, width), 0, NULL),
           w = ad_param(t, AD_SHAPE(width, width), NULL), b = ad_param(t, AD_SHAPE(width), NULL),
           h = ad_tanh(ad_add(ad_matmul(x, w), b)), axis[2];
    h = ad_sub(h, ad_mean(h, 1, (int[]){ 0 }, true));
    ad_var loss = ad_sum_all(ad_square(ad_matmul(h, w)));
    ad_grad(loss, 2, (ad_var[]){ w, b }, axis);
    return compile(t, interpreted, 3, (ad_var[]){ x, w, b }, 3,
                   (ad_var[]){ loss, axis[0], axis[1] });
}

/* A small field, for which there is native code. */
static sample field(bool interpreted)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, NULL),
           w = ad_param(t, AD_SHAPE(2, 16), NULL), v = ad_param(t, AD_SHAPE(16, 2), NULL),
           y = ad_matmul(ad_tanh(ad_matmul(x, w)), v);
    return compile(t, interpreted, 3, (ad_var[]){ x, w, v }, 1, &y);
}

static sample without_rows(bool interpreted)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(WIDTH, WIDTH), NULL), y = ad_exp(ad_matmul(x, ad_tanh(x)));
    y = ad_sum_all(ad_mul(y, ad_transpose(y, (int[]){ 1, 0 })));
    return compile(t, interpreted, 1, &x, 1, &y);
}

/* h' = tanh(h W + u) */
static void step(const ad_scan_step *at, void *user)
{
    (void)user;
    at->output[0] = at->next[0] =
        ad_tanh(ad_add(ad_matmul(at->carry[0], at->arg[0]), at->input[0]));
}

/* A recurrence of STEPS steps and its gradient: of rows, or of one state without the axis. */
static sample recurrence(bool interpreted, bool rows)
{
    enum { STEPS = 10 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var w = ad_param(t, AD_SHAPE(WIDTH, WIDTH), NULL),
           h = rows ? ad_input_rows(t, AD_SHAPE(AD_ROWS, WIDTH), 0, NULL)
                    : ad_input(t, AD_SHAPE(1, WIDTH), NULL),
           u = rows ? ad_input_rows(t, AD_SHAPE(AD_ROWS, STEPS, WIDTH), 0, NULL)
                    : ad_input(t, AD_SHAPE(STEPS, 1, WIDTH), NULL);
    ad_recurrence r = { .step = step,
                        .steps = STEPS,
                        .ncarry = 1,
                        .ninput = 1,
                        .narg = 1,
                        .noutput = 1,
                        .carry = &h,
                        .input = &u,
                        .arg = &w };
    ad_var last, all, bar[2];
    ck_assert_int_eq(ad_scan(&r, &last, &all), 0);
    ad_var loss = ad_sum_all(ad_square(all));
    ad_grad(loss, 2, (ad_var[]){ w, h }, bar);
    return compile(t, interpreted, 3, (ad_var[]){ w, h, u }, 3, (ad_var[]){ loss, bar[0], bar[1] });
}

static sample sample_of(int kind)
{
    bool interpreted = kind % 2;
    return kind / 2 == 0   ? network(interpreted, WIDTH)
           : kind / 2 == 1 ? field(interpreted)
           : kind / 2 == 2 ? network(interpreted, 200)
           : kind / 2 == 3 ? without_rows(interpreted)
           : kind / 2 == 4 ? recurrence(interpreted, true)
                           : recurrence(interpreted, false);
}
/* Whether its memory depends on the number of rows. */
static bool has_rows(int kind) { return kind / 2 != 3 && kind / 2 != 5; }
enum { SAMPLES = 12 };

static void end(sample *s)
{
    for (int i = 0; i < s->nin; i++) free(s->in[i]);
    for (int i = 0; i < s->nout; i++) free(s->out[i]);
    ad_program_free(s->program);
    ad_tape_free(s->tape);
}

static int run(const sample *s, ad_workspace *w, int64_t rows)
{
    return ad_run(s->program, w, rows, (const void *const *)s->in, s->out);
}

#ifndef ALLOCATIONS_NOT_COUNTED
enum { ROW_COUNTS = 3 };
static const int64_t row_counts[ROW_COUNTS] = { 1, 32, MOST_ROWS };

/* The system rounds each array up, large ones to pages. */
static long rounding(long count, int64_t bytes) { return count * (bytes > 100000 ? 4200 : 40); }

START_TEST(test_held)
{
    sample s = sample_of(_i);
    for (int k = 0; k < ROW_COUNTS; k++)
        for (int threads = 1; threads <= 2; threads++) {
            const int64_t rows = row_counts[k];
            int64_t step, bytes = ad_program_bytes(s.program, rows, threads, &step);
            ck_assert_int_gt(bytes, 0);
            ck_assert_int_eq(step, 0);
            for (int turn = 0; turn < 2; turn++) { /* in the first one threads begin */
                long before = allocations_bytes(), live = allocations_live();
                ad_workspace *w = ad_workspace_new(s.program, threads);
                ck_assert_int_eq(run(&s, w, rows), 0);
                long held = allocations_bytes() - before, count = allocations_live() - live;
                ad_workspace_free(w);
                if (turn == 0) continue;
                ck_assert_msg(held >= bytes && held <= bytes + rounding(count, bytes),
                              "%lld rows, %d threads: %lld bytes foretold, %ld held in %ld arrays",
                              (long long)rows, threads, (long long)bytes, held, count);
            }
        }
    end(&s);
}
END_TEST
#endif

/* The limit is kept to the byte; the error says how many rows would do, and they do. */
START_TEST(test_limit)
{
    sample s = sample_of(_i);
    ad_program_bytes(s.program, 1, 1, NULL); /* makes native code for one row */
    const int64_t bytes = ad_program_bytes(s.program, MOST_ROWS, 1, NULL);
    ad_workspace *w = ad_workspace_new(s.program, 1);
    char want[64];
    ck_assert_int_eq(ad_workspace_set_limit(w, bytes - 1), 0);
#ifndef ALLOCATIONS_NOT_COUNTED
    long held = allocations_bytes();
#endif
    ck_assert_int_eq(run(&s, w, MOST_ROWS), -1);
#ifndef ALLOCATIONS_NOT_COUNTED
    ck_assert_int_eq(allocations_bytes(), held);
#endif
    const char *error = ad_workspace_error(w), *fit = strstr(error, "run with rows = ");
    snprintf(want, sizeof want,
             "out of memory: %lld bytes for a program with rows = ", (long long)bytes);
    ck_assert_msg(strstr(error, want) && strstr(error, "ad_workspace_set_limit"), "%s", error);
    snprintf(want, sizeof want, "and the limit is %lld;", (long long)bytes - 1);
    ck_assert_msg(strstr(error, want) && strstr(error, "most of it is "), "%s", error);
    /* networks have arrays of all rows; a field may have the same at all */
    ck_assert_msg(_i / 2 == 1 || (fit != NULL) == has_rows(_i), "%s", error);
    if (fit) {
        const int64_t most = atoll(fit + strlen("run with rows = "));
        ck_assert(most >= 1 && most < MOST_ROWS);
        ck_assert_int_eq(run(&s, w, most + 1), -1);
        ck_assert_int_eq(run(&s, w, most), 0);
    }
    ck_assert_int_eq(ad_workspace_set_limit(w, bytes), 0);
    ck_assert_int_eq(run(&s, w, MOST_ROWS), 0);
    ck_assert_int_eq(ad_workspace_set_limit(w, 0), 0);
    ck_assert_int_eq(run(&s, w, MOST_ROWS), 0);
    ad_workspace_free(w);
    end(&s);
}
END_TEST

/* A limit that nothing fits in gives no advice on rows. */
START_TEST(test_limit_too_small)
{
    sample s = sample_of(_i);
    ad_workspace *w = ad_workspace_new(s.program, 2);
    ck_assert_int_eq(ad_workspace_set_limit(w, 1), 0);
    ck_assert_int_eq(run(&s, w, 7), -1);
    const char *error = ad_workspace_error(w);
    ck_assert_msg(strstr(error, "the limit is 1;") && !strstr(error, "run with rows"), "%s", error);
    ck_assert_int_eq(ad_workspace_set_limit(w, -5), -1);
    ck_assert_msg(strstr(ad_workspace_error(w), "-5 bytes") != NULL, "%s", ad_workspace_error(w));
    ad_workspace_free(w);
    end(&s);
}
END_TEST

START_TEST(test_refused)
{
    sample s = network(false, WIDTH), plain = without_rows(false);
    int64_t step = 5;
    ck_assert_int_eq(ad_program_bytes(NULL, 1, 1, &step), -1);
    ck_assert_int_eq(step, 0);
    ck_assert_int_eq(ad_program_bytes(s.program, 0, 1, NULL), -1);
    ck_assert_int_eq(ad_program_bytes(s.program, -3, 1, NULL), -1);
    ck_assert_int_eq(ad_program_bytes(s.program, 1, -1, NULL), -1);
    for (int k = 54; k < 63; k++)
        ck_assert_int_eq(ad_program_bytes(s.program, INT64_C(1) << k, 1, NULL), -1);
    ck_assert_int_eq(ad_program_bytes(s.program, INT64_MAX, 1, NULL), -1);
    ck_assert_int_gt(ad_program_bytes(s.program, 1, 0, NULL), 0);
    ck_assert_int_eq(ad_program_bytes(plain.program, -3, 1, NULL),
                     ad_program_bytes(plain.program, 17, 1, NULL));
    ck_assert_int_eq(ad_workspace_set_limit(NULL, 1), -1);
    end(&s);
    end(&plain);
}
END_TEST

START_TEST(test_described)
{
    sample s = sample_of(_i);
    char want[96], *text = ad_program_describe(s.program);
    snprintf(want, sizeof want, "%s  %lld bytes and %lld", has_rows(_i) ? "  at 32 rows" : "",
             (long long)ad_program_bytes(s.program, 32, 1, NULL),
             (long long)ad_program_bytes(s.program, 32, 2, NULL));
    ck_assert_msg(strstr(text, want) != NULL, "%s: %s", want, text);
    free(text);
    end(&s);
}
END_TEST

/* ---- the environment ---- */

START_TEST(test_environment)
{
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } cases[] = { { "4096", 4096 }, { "3K", 3072 }, { "1.5M", 3 << 19 }, { "2g", (int64_t)2 << 30 },
                  { "", 0 },        { "0", 0 },     { "lots", -1 },      { "4X", -1 },
                  { "4GB", -1 },    { "-1", -1 },   { "nan", -1 },       { "1e300", -1 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("COSTATE_MEMORY", cases[i].text, 1);
        const char *error;
        const int64_t bytes = ad_memory_limit(&error);
        ad_tape *t = ad_tape_new(AD_F64);
        const char *said = ad_tape_error(t);
        ck_assert_msg((error != NULL) == (cases[i].bytes < 0), "%s", cases[i].text);
        ck_assert_int_eq(bytes, cases[i].bytes < 0 ? 0 : cases[i].bytes);
        ck_assert_msg((said && strstr(said, "COSTATE_MEMORY=")) == (error != NULL), "%s",
                      cases[i].text);
        ad_tape_free(t);
    }
    unsetenv("COSTATE_MEMORY");
    sample s = network(false, WIDTH);
    setenv("COSTATE_MEMORY", "1K", 1);
    ad_workspace *w = ad_workspace_new(s.program, 1);
    ck_assert_int_eq(run(&s, w, 32), -1);
    ck_assert_msg(strstr(ad_workspace_error(w), "the limit is 1024;") != NULL, "%s",
                  ad_workspace_error(w));
    ad_workspace_free(w);
    unsetenv("COSTATE_MEMORY");
    end(&s);
}
END_TEST

/* ---- values on demand ---- */

START_TEST(test_values)
{
    const double data[64] = { 0 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 8), 8, data), y = ad_exp(x), z = ad_sin(y);
    ad_tape_set_memory(t, 2 * 512 - 1);
    ck_assert_ptr_nonnull(ad_value(y));
    ck_assert_ptr_null(ad_value(z));
    const char *error = ad_tape_error(t);
    ck_assert_msg(strstr(error, "ad_sin needs 512 bytes for [rows,8]") &&
                      strstr(error, "computed values hold 512, and the limit is 1023"),
                  "%s", error);
    ad_tape_clear_error(t);
    ad_tape_set_memory(t, 2 * 512);
    ck_assert_ptr_nonnull(ad_value(z));
    /* Values that are forgotten do not count any more. */
    for (int turn = 0; turn < 3; turn++) {
        ck_assert_int_eq(ad_set(x, 8, data), 0);
        ck_assert_ptr_nonnull(ad_value(z));
    }
    int32_t mark = ad_tape_mark(t);
    for (int turn = 0; turn < 3; turn++) {
        ck_assert_int_eq(ad_set(x, 4, data), 0);
        ck_assert_ptr_nonnull(ad_value(ad_cos(z)));
        ad_tape_rewind(t, mark);
    }
    ad_tape_set_memory(t, -1);
    ck_assert_msg(strstr(ad_tape_error(t), "-1 bytes") != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
}
END_TEST

/* Without a limit being set there is one, which knows the cure; data that are given do not count.
 * What is asked for is refused before it is allocated. */
START_TEST(test_values_of_machine)
{
    const int64_t machine = ad_machine_bytes(), rows = machine / 64 * 4;
    const double one = 1;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, &one), y = ad_broadcast(x, AD_SHAPE(64, rows));
    ck_assert_ptr_null(ad_value(y));
    char limit[64];
    snprintf(limit, sizeof limit, "the limit is %lld, half", (long long)(machine / 2));
    const char *error = ad_tape_error(t);
    ck_assert_msg(strstr(error, limit) && strstr(error, "(ad_tape_mark, ad_tape_rewind)"), "%s",
                  error);
    ad_tape_clear_error(t);
    ad_tape_set_memory(t, 1000);
    ck_assert_ptr_null(ad_value(y));
    error = ad_tape_error(t);
    ck_assert_msg(strstr(error, "the limit is 1000;"), "%s", error);
    ad_tape_free(t);
}
END_TEST

START_TEST(test_evaluate)
{
    const double data[64] = { 0 }, *in[] = { data };
    double result[64], *out[] = { result };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 8), 8, data), y = ad_cumsum(ad_exp(x), 1, false);
    ad_tape_set_memory(t, 100);
    ck_assert_int_eq(ad_evaluate_f64(1, &x, in, 8, 1, &y, out), -1);
    ck_assert_msg(strstr(ad_tape_error(t), "the limit is 100") != NULL, "%s", ad_tape_error(t));
    ad_tape_clear_error(t);
    ad_tape_set_memory(t, 0);
    ck_assert_int_eq(ad_evaluate_f64(1, &x, in, 8, 1, &y, out), 0);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tc = suite_case("bytes", "bytes");
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_loop_test(tc, test_held, 0, SAMPLES);
#endif
    tcase_add_loop_test(tc, test_limit, 0, SAMPLES);
    tcase_add_loop_test(tc, test_limit_too_small, 0, SAMPLES);
    tcase_add_test(tc, test_refused);
    tcase_add_loop_test(tc, test_described, 0, SAMPLES);
    tcase_add_test(tc, test_environment);
    tcase_add_test(tc, test_values);
    tcase_add_test(tc, test_values_of_machine);
    tcase_add_test(tc, test_evaluate);
    return suite_run();
}
