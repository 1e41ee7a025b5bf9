/* Runs of one row go another way than those of many. One workspace serves both in turn, with and
 * without the outputs' arrays, and sums wait from run to run; values are held against plain C. Of
 * two programs, one has exponentials; the other can be one piece of machine code alone. */
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 5, MOST = 300, OUTPUTS = 6 };
static const int64_t turns[] = { 1, 40, 1, MOST, 1, 1, 7, 1 };
enum { TURNS = sizeof turns / sizeof *turns };

typedef struct {
    ad_program *program;
    ad_workspace *workspace;
    double x[MOST * WIDTH], p[WIDTH];
    double rows[2][MOST * WIDTH], sum[WIDTH], again[WIDTH], largest, head;
    bool alone; /* without exponentials */
} one_row;

static double first(const one_row *o, int64_t i)
{
    const double a = o->x[i] * o->p[i % WIDTH] + o->p[i % WIDTH];
    return o->alone ? a : tanh(a);
}
static double second(const one_row *o, int64_t i)
{
    const double b = first(o, i) * o->x[i] * o->x[i];
    return o->alone ? b : exp(b);
}

/* which: bit 0: interpreted, bit 1: without exponentials. */
static one_row *open_program(int which)
{
    one_row *o = calloc(1, sizeof *o);
    ck_assert_ptr_nonnull(o);
    o->alone = which & 2;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, WIDTH), 0, (double *)NULL),
           p = ad_param(t, AD_SHAPE(WIDTH), (double *)NULL);
    ad_var a = ad_add(ad_mul(x, p), p);
    if (!o->alone) a = ad_tanh(a);
    ad_var b = ad_mul(a, ad_square(x));
    if (!o->alone) b = ad_exp(b);
    ad_var sum = ad_sum(ad_sub(b, a), 1, (int[]){ 0 }, false);
    ad_var out[OUTPUTS] = { a,
                            b,
                            sum,
                            ad_reduce_max(b, 2, (int[]){ 0, 1 }, false),
                            ad_slice(o->alone ? p : ad_exp(p), 0, 1, 2),
                            sum };
    o->program = ad_compile_with(&(ad_compile_options){ .interpreted = which & 1 }, 2,
                                 (ad_var[]){ x, p }, OUTPUTS, out);
    o->workspace = ad_workspace_new(o->program, 2);
    ck_assert_msg(o->workspace != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    for (int i = 0; i < MOST * WIDTH; i++) o->x[i] = sin(1 + 1.7 * i);
    for (int i = 0; i < WIDTH; i++) o->p[i] = cos(2.0 * i);
    return o;
}

/* Check hands on each assertion that holds: one a number would be half of this suite's time. */
static void check_number(double got, double want)
{
    if (!(fabs(got - want) < 1e-14)) ck_assert_double_eq_tol(got, want, 1e-14);
}

/* without: bit j: output j is not wanted. */
static void check_run(one_row *o, int64_t rows, int without)
{
    void *out[] = { o->rows[0], o->rows[1], o->sum, &o->largest, &o->head, o->again };
    double sum[WIDTH] = { 0 }, largest = -INFINITY;
    memset(o->rows, 0, sizeof o->rows);
    o->largest = 0;
    for (int j = 0; j < OUTPUTS; j++)
        if (without >> j & 1) out[j] = NULL;
    ck_assert_msg(
        ad_run(o->program, o->workspace, rows, (const void *const[]){ o->x, o->p }, out) == 0, "%s",
        ad_workspace_error(o->workspace));
    for (int64_t i = 0; i < rows * WIDTH; i++) {
        const double a = first(o, i), b = second(o, i);
        check_number(o->rows[0][i], without & 1 ? 0 : a);
        check_number(o->rows[1][i], without & 2 ? 0 : b);
        sum[i % WIDTH] += b - a;
        largest = fmax(largest, b);
    }
    for (int i = 0; i < WIDTH && !(without & 4); i++)
        ck_assert_double_eq_tol(o->sum[i], sum[i], 1e-12 * (double)rows);
    for (int i = 0; i < WIDTH && !(without & 32); i++)
        ck_assert_double_eq_tol(o->again[i], sum[i], 1e-12 * (double)rows);
    ck_assert_double_eq_tol(o->largest, without & 8 ? 0 : largest, 1e-14);
    if (!(without & 16)) ck_assert_double_eq_tol(o->head, o->alone ? o->p[1] : exp(o->p[1]), 1e-14);
}

static void close_program(one_row *o)
{
    ad_workspace_free(o->workspace);
    ad_program_free(o->program);
    free(o);
}

START_TEST(test_in_turn)
{
    one_row *o = open_program(_i & 3);
    for (int without = 0; without < 1 << OUTPUTS; without++)
        for (int k = 0; k < TURNS; k++) check_run(o, turns[(k + _i / 4) % TURNS], without);
    close_program(o);
}
END_TEST

/* Sums over several runs: some of one row, which wait, some of more, which do not wait for them. */
START_TEST(test_sums_wait)
{
    one_row *o = open_program(_i);
    double sum[WIDTH] = { 0 };
    void *out[OUTPUTS] = { NULL, NULL, o->sum, NULL, NULL };
    const bool accumulate[OUTPUTS] = { [2] = true };
    for (int k = 0; k < TURNS; k++) {
        const ad_run_args args = { .rows = turns[k],
                                   .inputs = (const void *const[]){ o->x, o->p },
                                   .outputs = out,
                                   .accumulate = accumulate,
                                   .defer = true };
        ck_assert_int_eq(ad_run_with(o->program, o->workspace, &args), 0);
        for (int64_t i = 0; i < turns[k] * WIDTH; i++) sum[i % WIDTH] += second(o, i) - first(o, i);
    }
    ad_run_deliver(o->workspace);
    for (int i = 0; i < WIDTH; i++) ck_assert_double_eq_tol(o->sum[i], sum[i], 1e-10);
    close_program(o);
}
END_TEST

/* A sum that waits is delivered before a run that is to replace it. */
START_TEST(test_sum_is_replaced)
{
    one_row *o = open_program(_i);
    double sum[WIDTH] = { 0 };
    void *out[OUTPUTS] = { NULL, NULL, o->sum, NULL, NULL };
    bool accumulate[OUTPUTS] = { [2] = true };
    for (int k = 0; k < 2; k++) {
        const ad_run_args args = { .rows = 1,
                                   .inputs = (const void *const[]){ o->x, o->p },
                                   .outputs = out,
                                   .accumulate = accumulate,
                                   .defer = true };
        ck_assert_int_eq(ad_run_with(o->program, o->workspace, &args), 0);
        accumulate[2] = false;
    }
    ad_run_deliver(o->workspace);
    for (int i = 0; i < WIDTH; i++) {
        sum[i] = second(o, i) - first(o, i);
        ck_assert_double_eq_tol(o->sum[i], sum[i], 1e-10);
    }
    close_program(o);
}
END_TEST

/* What was there before a limit, or a run that failed, is looked at again. */
START_TEST(test_rows_are_looked_at)
{
    static const int64_t none[] = { 0, -1, -2, INT64_MIN };
    one_row *o = open_program(_i);
    void *out[OUTPUTS] = { NULL, NULL, o->sum, NULL, NULL };
    const void *const in[] = { o->x, o->p };
    ck_assert_int_eq(ad_run(o->program, o->workspace, 1, in, out), 0);
    for (int64_t limit = 1; limit < INT64_C(1) << 40; limit <<= 30) {
        ck_assert_int_eq(ad_workspace_set_limit(o->workspace, limit), 0);
        for (int k = 0; k < 4; k++) {
            ck_assert_int_eq(ad_run(o->program, o->workspace, none[k], in, out), -1);
            ck_assert_ptr_nonnull(ad_workspace_error(o->workspace));
            ck_assert_int_eq(ad_run(o->program, o->workspace, 1, in, out), limit == 1 ? -1 : 0);
        }
    }
    close_program(o);
}
END_TEST

/* A sum that is too long for machine code, but not what is made of it: the code reads the sum where
 * a run of many rows, which needs more lanes than there were, has left it. */
START_TEST(test_lanes_grow)
{
    enum { LONG = 40, MANY = 5000 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, LONG), 0, (double *)NULL), mean = ad_mean_all(x);
    ad_program *p = ad_compile(1, &x, 1, &mean);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t) ? ad_tape_error(t) : "no error");
    ad_workspace *w = ad_workspace_new(p, 1);
    double *data = malloc(MANY * LONG * sizeof *data), result;
    for (int i = 0; i < MANY * LONG; i++) data[i] = 1 + i % 2;
    const int64_t rows[] = { 1, 3, MANY, 2 };
    for (int k = 0; k < 4; k++) {
        result = 0;
        ck_assert_int_eq(ad_run(p, w, rows[k], (const void *[]){ data }, (void *[]){ &result }), 0);
        ck_assert_msg(result == 1.5, "%d rows: %g", (int)rows[k], result);
    }
    free(data);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* Where machine code is all there is, a run like the one before asks little. Whatever can be
 * different is different once, between two such runs. bit 0: interpreted, bit 1: with rows. */
enum { MANY = 7 };
typedef struct {
    ad_program *program;
    ad_workspace *workspace;
    double x[MANY * WIDTH], p[WIDTH], a[MANY * WIDTH], b[MANY * WIDTH];
    bool rows;
} plain;

static plain open_plain(int which)
{
    plain o = { .rows = which & 2 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = o.rows ? ad_input_rows(t, AD_SHAPE(AD_ROWS, WIDTH), 0, (double *)NULL)
                      : ad_input(t, AD_SHAPE(WIDTH), (double *)NULL),
           p = ad_input(t, AD_SHAPE(WIDTH), (double *)NULL), a = ad_add(ad_mul(x, p), p);
    ad_var out[] = { a, ad_mul(a, x) };
    o.program = ad_compile_with(&(ad_compile_options){ .interpreted = which & 1 }, 2,
                                (ad_var[]){ x, p }, 2, out);
    o.workspace = ad_workspace_new(o.program, 1);
    ck_assert_msg(o.workspace != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    for (int i = 0; i < MANY * WIDTH; i++) o.x[i] = sin(1 + 1.7 * i);
    for (int i = 0; i < WIDTH; i++) o.p[i] = cos(2.0 * i);
    return o;
}

/* The outputs are times as much; those that are not wanted are as before. */
static void check_plain(plain *o, int64_t rows, bool without, double times)
{
    for (int64_t i = 0; i < rows * WIDTH; i++) {
        const double a = o->x[i] * o->p[i % WIDTH] + o->p[i % WIDTH];
        check_number(o->a[i], times * a);
        check_number(o->b[i], without ? 0 : times * a * o->x[i]);
    }
    memset(o->a, 0, sizeof o->a);
    memset(o->b, 0, sizeof o->b);
}

static void run_plainly(plain *o, int64_t rows, bool without)
{
    void *const out[] = { o->a, without ? NULL : o->b };
    const void *const in[] = { o->x, o->p };
    ck_assert_msg(!ad_run(o->program, o->workspace, rows, in, out), "%s",
                  ad_workspace_error(o->workspace));
    check_plain(o, rows, without, 1);
}

static void fill_plain(void *context, int64_t first, int64_t rows)
{
    plain *o = context;
    for (int64_t i = first * WIDTH; i < (first + rows) * WIDTH; i++)
        o->x[i] = sin(1 + 1.7 * (int)i);
}

static void fails_plainly(plain *o, const void *const *in, void *const *out, const char *why)
{
    ck_assert_int_eq(ad_run(o->program, o->workspace, 1, in, out), -1);
    ck_assert_ptr_nonnull(strstr(ad_workspace_error(o->workspace), why));
}

START_TEST(test_plain_runs)
{
    plain o = open_plain(_i);
    void *const out[] = { o.a, o.b };
    const void *const in[] = { o.x, o.p };
    for (int what = 0; what < 8; what++) {
        for (int k = 0; k < 3; k++) run_plainly(&o, 1, false);
        ad_run_args args = { .rows = 1, .inputs = in, .outputs = out };
        if (what == 0) run_plainly(&o, 1, true);
        if (what == 1 && o.rows) run_plainly(&o, MANY, false);
        if (what == 2) fails_plainly(&o, (const void *const[]){ o.x, NULL }, out, "input 1 of");
        if (what == 3) fails_plainly(&o, NULL, out, "the list of inputs is NULL");
        if (what == 4) fails_plainly(&o, in, NULL, "the list of outputs is NULL");
        if (what == 5 && o.rows) {
            memset(o.x, 0, sizeof o.x);
            args.fill = fill_plain;
            args.fill_context = &o;
            ck_assert_int_eq(ad_run_with(o.program, o.workspace, &args), 0);
            fill_plain(&o, 0, MANY);
            check_plain(&o, 1, false, 1);
        }
        if (what == 6 && !o.rows) {
            args.accumulate = (const bool[]){ true, true };
            for (int k = 0; k < 2; k++)
                ck_assert_int_eq(ad_run_with(o.program, o.workspace, &args), 0);
            check_plain(&o, 1, false, 2);
        }
        if (what == 7 && o.rows) {
            ck_assert_int_eq(ad_run(o.program, o.workspace, 0, in, out), -1);
            ck_assert_ptr_nonnull(strstr(ad_workspace_error(o.workspace), "empty"));
        }
    }
    run_plainly(&o, 1, false);
    ad_workspace_free(o.workspace);
    ad_program_free(o.program);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("one_row", "one_row");
    tcase_add_loop_test(tests, test_in_turn, 0, 8);
    tcase_add_loop_test(tests, test_sums_wait, 0, 4);
    tcase_add_loop_test(tests, test_sum_is_replaced, 0, 4);
    tcase_add_loop_test(tests, test_rows_are_looked_at, 0, 4);
    tcase_add_test(tests, test_lanes_grow);
    tcase_add_loop_test(tests, test_plain_runs, 0, 4);
    return suite_run();
}
