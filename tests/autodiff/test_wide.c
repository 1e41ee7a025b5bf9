/* Products whose weights do not stay in a level 2 cache: by panels, by strips of columns, and
 * gradients of weights in pieces, by stretches of rows; and products without rows. Against plain
 * loops in double; the same bits for any number of threads, and for a row whatever its neighbours
 * are. */
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* y = (x A) B, x [rows,IN]. A is laid out as panels, as B transposed is; B has strips, the last of
 * them narrower. More rows than a stretch has, and than whole blocks. */
enum { IN = 200, WIDE = 512, OUT = 397, ROWS = 1100, RESULTS = 4, FEW = 7 };

typedef struct {
    ad_dtype dtype;
    ad_program *program;
    void *x, *bar, *a, *b;
} problem;

static size_t size_of(ad_dtype dtype) { return ad_dtype_size(dtype); }

static double get(ad_dtype dtype, const void *p, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)p)[i] : ((const double *)p)[i];
}

static void *numbers(ad_dtype dtype, int64_t n, double phase, double scale)
{
    void *p = malloc((size_t)n * size_of(dtype));
    for (int64_t i = 0; i < n; i++) {
        double value = scale * sin(1.7 * (double)i + phase + 1e-3 * (double)(i % 997));
        if (dtype == AD_F32) ((float *)p)[i] = (float)value;
        else ((double *)p)[i] = value;
    }
    return p;
}

/* Results: y, and the cotangents of x, A and B, the latter of both of its uses: z = (x A) B + (x A
 * / 2) B. */
static problem prepare(ad_dtype dtype, const ad_compile_options *options)
{
    problem p = { .dtype = dtype };
    ad_tape *t = ad_tape_new(dtype);
    ad_var in[] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, IN), 0, NULL),
                    ad_input_rows(t, AD_SHAPE(AD_ROWS, OUT), 0, NULL),
                    ad_param(t, AD_SHAPE(IN, WIDE), NULL), ad_param(t, AD_SHAPE(WIDE, OUT), NULL) };
    ad_var h = ad_matmul(in[0], in[2]), out[RESULTS];
    out[0] = ad_add(ad_matmul(h, in[3]), ad_matmul(ad_scale(ad_tanh(h), 0.5), in[3]));
    ad_vjp(1, out, &in[1], 3, (ad_var[]){ in[0], in[2], in[3] }, &out[1]);
    p.program = ad_compile_with(options, 4, in, RESULTS, out);
    ck_assert_msg(p.program != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    p.x = numbers(dtype, ROWS * IN, 0.1, 1);
    p.bar = numbers(dtype, ROWS * OUT, 0.7, 1);
    p.a = numbers(dtype, IN * WIDE, 1.3, 0.1);
    p.b = numbers(dtype, WIDE * OUT, 2.9, 0.1);
    return p;
}

static void finish(problem *p)
{
    ad_program_free(p->program);
    free(p->x);
    free(p->bar);
    free(p->a);
    free(p->b);
}

static const int64_t row_elements[RESULTS] = { OUT, IN, 0, 0 };

static int64_t elements(int k, int64_t rows)
{
    return row_elements[k] ? row_elements[k] * rows : k == 2 ? IN * WIDE : WIDE * OUT;
}

static void run_in(ad_workspace *w, const problem *p, int64_t first, int64_t rows, int times,
                   void **out)
{
    const size_t size = size_of(p->dtype);
    const void *in[] = { (char *)p->x + (size_t)(first * IN) * size,
                         (char *)p->bar + (size_t)(first * OUT) * size, p->a, p->b };
    for (int k = 0; k < RESULTS; k++) {
        out[k] = malloc((size_t)elements(k, rows) * size);
        memset(out[k], 0xff, (size_t)elements(k, rows) * size);
    }
    for (int k = 0; k < times; k++)
        ck_assert_msg(ad_run(p->program, w, rows, in, out) == 0, "%s", ad_workspace_error(w));
}

static void run(const problem *p, int threads, int64_t first, int64_t rows, int times, void **out)
{
    ad_workspace *w = ad_workspace_new(p->program, threads);
    run_in(w, p, first, rows, times, out);
    ad_workspace_free(w);
}

static void discard(void **out)
{
    for (int k = 0; k < RESULTS; k++) free(out[k]);
}

/* The same by loops, in double. */
static void plain(const problem *p, double *out[RESULTS])
{
    double h[WIDE], slope[WIDE], hbar[WIDE];
    for (int k = 0; k < RESULTS; k++) out[k] = calloc((size_t)elements(k, ROWS), sizeof(double));
    for (int64_t r = 0; r < ROWS; r++) {
        memset(h, 0, sizeof h);
        memset(hbar, 0, sizeof hbar);
        for (int64_t i = 0; i < IN; i++)
            for (int64_t j = 0; j < WIDE; j++)
                h[j] += get(p->dtype, p->x, r * IN + i) * get(p->dtype, p->a, i * WIDE + j);
        for (int64_t j = 0; j < WIDE; j++) {
            const double both = h[j] + tanh(h[j]) / 2;
            slope[j] = 1 + (1 - tanh(h[j]) * tanh(h[j])) / 2;
            for (int64_t l = 0; l < OUT; l++) {
                const double weight = get(p->dtype, p->b, j * OUT + l),
                             bar = get(p->dtype, p->bar, r * OUT + l);
                out[0][r * OUT + l] += both * weight;
                hbar[j] += bar * weight;
                out[3][j * OUT + l] += both * bar;
            }
        }
        for (int64_t i = 0; i < IN; i++)
            for (int64_t j = 0; j < WIDE; j++) {
                const double bar = hbar[j] * slope[j];
                out[1][r * IN + i] += bar * get(p->dtype, p->a, i * WIDE + j);
                out[2][i * WIDE + j] += bar * get(p->dtype, p->x, r * IN + i);
            }
    }
}

START_TEST(against_loops)
{
    const ad_dtype dtype = _i ? AD_F64 : AD_F32;
    problem p = prepare(dtype, &(ad_compile_options){ 0 });
    char *text = ad_program_describe(p.program);
    ck_assert_msg(strstr(text, "phase 0 sums") != NULL, "%s", text);
    free(text);
    void *out[RESULTS];
    double *want[RESULTS];
    run(&p, 2, 0, ROWS, 2, out);
    plain(&p, want);
    for (int k = 0; k < RESULTS; k++) {
        double error = 0, most = 0;
        for (int64_t i = 0; i < elements(k, ROWS); i++) {
            error = fmax(error, fabs(get(dtype, out[k], i) - want[k][i]));
            most = fmax(most, fabs(want[k][i]));
        }
        ck_assert_msg(error <= (dtype == AD_F32 ? 1e-4 : 1e-13) * most, "result %d: %g of %g", k,
                      error, most);
        free(want[k]);
    }
    discard(out);
    finish(&p);
}
END_TEST

START_TEST(same_bits)
{
    const ad_dtype dtype = _i ? AD_F64 : AD_F32;
    const size_t size = size_of(dtype);
    problem p = prepare(dtype, &(ad_compile_options){ 0 });
    void *all[RESULTS], *again[RESULTS];
    run(&p, 1, 0, ROWS, 1, all);
    for (int threads = 2; threads <= 5; threads += 3) {
        run(&p, threads, 0, ROWS, 1, again);
        for (int k = 0; k < RESULTS; k++)
            ck_assert_msg(!memcmp(all[k], again[k], (size_t)elements(k, ROWS) * size),
                          "result %d on %d threads", k, threads);
        discard(again);
    }
    static const int64_t firsts[] = { 0, 3, 1030, ROWS - FEW };
    for (int f = 0; f < 4; f++) {
        run(&p, 1, firsts[f], FEW, 1, again);
        for (int k = 0; k < 2; k++)
            ck_assert_msg(!memcmp((char *)all[k] + (size_t)elements(k, firsts[f]) * size, again[k],
                                  (size_t)elements(k, FEW) * size),
                          "result %d, rows from %d on", k, (int)firsts[f]);
        discard(again);
    }
    discard(all);
    finish(&p);
}
END_TEST

/* Runs of one row, in turn with others: its results are those it has among others, and gradients of
 * two rows are those of one and of the other. */
START_TEST(one_row)
{
    problem p = prepare(AD_F64, &(ad_compile_options){ 0 });
    enum { AT = 1030, RUNS = 5 };
    void *all[RESULTS], *out[RUNS][RESULTS];
    run(&p, 1, 0, ROWS, 1, all);
    ad_workspace *w = ad_workspace_new(p.program, 2);
    static const int64_t first[RUNS] = { AT, AT, AT + 1, 0, AT + 1 }, rows[] = { 1, 2, 1, ROWS, 1 };
    for (int r = 0; r < RUNS; r++) run_in(w, &p, first[r], rows[r], 1, out[r]);
    ad_workspace_free(w);
    for (int r = 0; r < RUNS; r++)
        for (int k = 0; k < 2; k++)
            ck_assert_msg(!memcmp((double *)all[k] + elements(k, first[r]), out[r][k],
                                  (size_t)elements(k, rows[r]) * sizeof(double)),
                          "result %d of run %d", k, r);
    for (int k = 2; k < RESULTS; k++) {
        const double *one = out[0][k], *both = out[1][k], *other = out[2][k];
        ck_assert(!memcmp(all[k], out[3][k], (size_t)elements(k, ROWS) * sizeof(double)));
        ck_assert(!memcmp(other, out[4][k], (size_t)elements(k, 1) * sizeof(double)));
        for (int64_t i = 0; i < elements(k, 1); i++)
            ck_assert_double_eq_tol(both[i], one[i] + other[i], 1e-14);
    }
    for (int r = 0; r < RUNS; r++) discard(out[r]);
    discard(all);
    finish(&p);
}
END_TEST

/* Sums that wait for those of further runs, and are then added to what the caller has. */
START_TEST(sums_that_wait)
{
    problem p = prepare(AD_F64, &(ad_compile_options){ 0 });
    enum { TOGETHER = 300, RUNS = 3 };
    ad_workspace *w = ad_workspace_new(p.program, 2);
    const void *in[] = { p.x, p.bar, p.a, p.b };
    double *a = calloc(IN * WIDE, sizeof *a), *b = calloc(WIDE * OUT, sizeof *b);
    void *out[RESULTS] = { NULL, NULL, a, b }, *once[RESULTS];
    a[5] = 1;
    run(&p, 1, 0, TOGETHER, 1, once);
    ad_run_args args = { .rows = TOGETHER,
                         .inputs = in,
                         .outputs = out,
                         .accumulate = (const bool[]){ false, false, true, true },
                         .defer = true };
    for (int k = 0; k < RUNS; k++) ck_assert_int_eq(ad_run_with(p.program, w, &args), 0);
    ad_run_deliver(w);
    for (int64_t i = 0; i < IN * WIDE; i++)
        ck_assert_double_eq_tol(a[i], RUNS * ((double *)once[2])[i] + (i == 5), 1e-11);
    for (int64_t i = 0; i < WIDE * OUT; i++)
        ck_assert_double_eq_tol(b[i], RUNS * ((double *)once[3])[i], 1e-11);
    ad_workspace_free(w);
    free(a);
    free(b);
    discard(once);
    finish(&p);
}
END_TEST

/* Without rows: large products, one of them by the transpose of its first operand. */
START_TEST(without_rows)
{
    enum { M = 300, K = 401, N = 530, PRODUCTS = 2 };
    const ad_dtype dtype = _i ? AD_F64 : AD_F32;
    const size_t size = size_of(dtype);
    ad_tape *t = ad_tape_new(dtype);
    ad_var in[] = { ad_param(t, AD_SHAPE(M, K), NULL), ad_param(t, AD_SHAPE(K, M), NULL),
                    ad_param(t, AD_SHAPE(K, N), NULL) };
    ad_var out[] = { ad_contract("ij,jk->ik", 2, (ad_var[]){ in[0], in[2] }),
                     ad_contract("ji,jk->ik", 2, (ad_var[]){ in[1], in[2] }) };
    ad_program *p = ad_compile(3, in, PRODUCTS, out);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    char *text = ad_program_describe(p);
    const char *found = strstr(text, "in pieces");
    ck_assert_msg(found && strstr(found + 1, "in pieces"), "%s", text);
    free(text);
    void *data[] = { numbers(dtype, M * K, 0.1, 1), numbers(dtype, K * M, 1.1, 1),
                     numbers(dtype, K * N, 2.3, 1) };
    void *first[PRODUCTS], *again[PRODUCTS];
    for (int k = 0; k < PRODUCTS; k++) {
        first[k] = malloc(M * N * size);
        again[k] = malloc(M * N * size);
    }
    for (int threads = 1; threads <= 4; threads++) {
        ad_workspace *w = ad_workspace_new(p, threads);
        ck_assert_int_eq(ad_run(p, w, 0, (const void *const *)data, threads == 1 ? first : again),
                         0);
        for (int k = 0; k < PRODUCTS && threads > 1; k++)
            ck_assert(!memcmp(first[k], again[k], M * N * size));
        ad_workspace_free(w);
    }
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum[PRODUCTS] = { 0 };
            for (int64_t l = 0; l < K; l++) {
                const double b = get(dtype, data[2], l * N + j);
                sum[0] += get(dtype, data[0], i * K + l) * b;
                sum[1] += get(dtype, data[1], l * M + i) * b;
            }
            for (int k = 0; k < PRODUCTS; k++)
                ck_assert_double_eq_tol(get(dtype, first[k], i * N + j), sum[k],
                                        K * (dtype == AD_F32 ? 0x1p-23 : 0x1p-52));
        }
    for (int k = 0; k < PRODUCTS; k++) {
        free(first[k]);
        free(again[k]);
    }
    for (int k = 0; k < 3; k++) free(data[k]);
    ad_program_free(p);
}
END_TEST

int main(void)
{
    TCase *t = suite_case("wide", "wide");
    tcase_add_loop_test(t, against_loops, 0, 2);
    tcase_add_loop_test(t, same_bits, 0, 2);
    tcase_add_test(t, one_row);
    tcase_add_test(t, sums_that_wait);
    tcase_add_loop_test(t, without_rows, 0, 2);
    return suite_run();
}
