/* Compiled programs: replayed against lazy values over graphs, rows, types and threads; bits;
 * allocations; errors; the description. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/plan/program.h"
#include "autodiff/run/threads.h"
#include "tests/autodiff/graphs.h"
#include "tests/support.h"
#include <malloc.h>
#include <pthread.h>

/* ---- running them ---------------------------------------------------------------------------- */

typedef struct {
    void *data[MAX_VARS];
    size_t bytes[MAX_VARS];
    int n;
} results;

static results room(const ad_shape *shapes, int n, ad_dtype dtype, int64_t rows)
{
    results r = { .n = n };
    for (int j = 0; j < n; j++) {
        r.bytes[j] = (size_t)count(shapes[j], rows) * size_of(dtype);
        r.data[j] = malloc(r.bytes[j]);
        memset(r.data[j], 0xff, r.bytes[j]);
    }
    return r;
}

static void discard(results *r)
{
    for (int j = 0; j < r->n; j++) free(r->data[j]);
}

static void shapes_of(const function *f, ad_shape *shapes)
{
    for (int j = 0; j < f->noutput; j++) shapes[j] = ad_shape_of(f->output[j]);
}

static results run_on(const function *f, const ad_program *p, ad_workspace *w, int64_t rows,
                      void *const *inputs)
{
    ad_shape shapes[MAX_VARS];
    shapes_of(f, shapes);
    results r = room(shapes, f->noutput, f->dtype, rows);
    int code = ad_run(p, w, rows, (const void *const *)inputs, r.data);
    ck_assert_msg(code == 0, "%s", ad_workspace_error(w));
    ck_assert_ptr_null(ad_workspace_error(w));
    return r;
}

static void check_close(const char *name, const function *f, const results *r)
{
    double tolerance = f->dtype == AD_F32 ? 2e-5 : 1e-12;
    for (int j = 0; j < f->noutput; j++) {
        const void *lazy = ad_value(f->output[j]);
        ck_assert_msg(lazy != NULL, "%s: %s", name, ad_tape_error(f->tape));
        int64_t n = ad_size(f->output[j]);
        double scale = 1;
        for (int64_t i = 0; i < n;
             i++) { /* not fmax, here and elsewhere: GCC 12 fails on a loop of it for AArch64 */
            double element = fabs(get(f->dtype, lazy, i));
            if (element > scale) scale = element;
        }
        for (int64_t i = 0; i < n; i++) {
            double a = get(f->dtype, lazy, i), b = get(f->dtype, r->data[j], i);
            if (!(fabs(a - b) <= tolerance * scale)) /* check hands on each assertion that holds */
                ck_abort_msg("%s: output %d[%lld]: lazy %.17g, replayed %.17g (%lld rows, f%d)",
                             name, j, (long long)i, a, b, (long long)f->rows,
                             f->dtype == AD_F32 ? 32 : 64);
        }
    }
}

static void check_same_bits(const char *name, const char *what, const results *a, const results *b)
{
    for (int j = 0; j < a->n; j++)
        ck_assert_msg(memcmp(a->data[j], b->data[j], a->bytes[j]) == 0,
                      "%s: output %d differs in bits: %s", name, j, what);
}

static const int64_t row_counts[] = { 1, 2, 3, 5, 63, 64, 65, 511, 512 };
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

static void compare_with_lazy(const graph *g, ad_dtype dtype)
{
    function f = record(g, dtype, row_counts[ROW_COUNTS - 1]);
    ad_program *p = compile(&f);
    ad_workspace *w[4];
    for (int t = 0; t < 4; t++) w[t] = ad_workspace_new(p, t + 1);
    for (int k = ROW_COUNTS - 1; k >= 0; k--) {
        function at = record(g, dtype, row_counts[k]);
        results first = run_on(&f, p, w[0], row_counts[k], f.data);
        check_close(g->name, &at, &first);
        for (int t = 1; t < 4; t++) {
            results other = run_on(&f, p, w[t], row_counts[k], f.data);
            check_same_bits(g->name, "threads", &first, &other);
            discard(&other);
        }
        discard(&first);
        forget(&at);
    }
    for (int t = 0; t < 4; t++) ad_workspace_free(w[t]);
    ad_program_free(p);
    forget(&f);
}

START_TEST(test_replayed_equals_lazy)
{
    compare_with_lazy(&graphs[_i], AD_F32);
    compare_with_lazy(&graphs[_i], AD_F64);
    ck_assert_int_eq(atomic_load(&live_states), 0);
    ck_assert_int_eq(atomic_load(&live_data), 0);
}
END_TEST

/* Row r of every row output, alone in its batch, has the bits it has among 65 and 301 others. */
static void compare_alone(const graph *g, ad_dtype dtype, int64_t rows, int64_t row)
{
    function f = record(g, dtype, rows);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 2);
    void *inputs[MAX_VARS];
    for (int i = 0; i < f.ninput; i++) {
        ad_shape s = ad_shape_of(f.input[i]);
        inputs[i] = (char *)f.data[i] + (has_rows(s) ? count(s, row) * (int64_t)size_of(dtype) : 0);
    }
    results among = run_on(&f, p, w, rows, f.data), alone = run_on(&f, p, w, 1, inputs);
    for (int j = 0; j < f.noutput; j++) {
        ad_shape s = ad_shape_of(f.output[j]);
        if (!has_rows(s)) continue;
        ck_assert_msg(memcmp(alone.data[j], (char *)among.data[j] + row * (int64_t)alone.bytes[j],
                             alone.bytes[j]) == 0,
                      "%s: output %d: row %lld of %lld depends on its batch mates", g->name, j,
                      (long long)row, (long long)rows);
    }
    discard(&among);
    discard(&alone);
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
}

START_TEST(test_rows_do_not_see_each_other)
{
    if (!graphs[_i].row_wise) return;
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        compare_alone(&graphs[_i], dtype, 66, 0);
        compare_alone(&graphs[_i], dtype, 66, 65);
        compare_alone(&graphs[_i], dtype, 302, 131);
    }
}
END_TEST

START_TEST(test_second_run_allocates_nothing)
{
    function f = record(&graphs[_i], AD_F32, 512);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 2);
    results a = run_on(&f, p, w, 512, f.data);
    size_t bytes = ad_workspace_bytes(w);
    long before = allocations();
    int code = ad_run(p, w, 512, (const void *const *)f.data, a.data);
    code |= ad_run(p, w, 65, (const void *const *)f.data, a.data);
    code |= ad_run(p, w, 1, (const void *const *)f.data, a.data);
    long after = allocations();
    ck_assert_int_eq(code, 0);
    ck_assert_msg(after == before, "%s: %ld allocations in later runs", graphs[_i].name,
                  after - before);
    ck_assert_uint_eq(ad_workspace_bytes(w), bytes);
    discard(&a);
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* ---- the run's options ----------------------------------------------------------------------- */

START_TEST(test_tape_may_die)
{
    function f = record(&graphs[1], AD_F64, 70);
    ad_program *p = compile(&f);
    double loss, expected = ad_item(f.output[0]);
    ad_tape_free(f.tape);
    f.tape = NULL;
    ad_workspace *w = ad_workspace_new(p, 1);
    ad_program_retain(p);
    ad_program_free(p);
    ck_assert_int_eq(ad_run(p, w, 70, (const void *const *)f.data, (void *[]){ &loss, NULL, NULL }),
                     0);
    ck_assert_double_eq_tol(loss, expected, 1e-12);
    ad_program_free(p); /* the workspace holds it */
    ck_assert_int_eq(ad_run(p, w, 70, (const void *const *)f.data, (void *[]){ &loss, NULL, NULL }),
                     0);
    ad_workspace_free(w);
    forget(&f);
}
END_TEST

START_TEST(test_accumulate_and_undelivered)
{
    function f = record(&graphs[1], AD_F64, 100);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 2);
    results a = run_on(&f, p, w, 100, f.data), b = run_on(&f, p, w, 100, f.data);
    ad_run_args args = { .rows = 100,
                         .inputs = (const void *const *)f.data,
                         .outputs = (void *[]){ NULL, b.data[1], NULL },
                         .accumulate = (bool[]){ false, true, false } };
    ck_assert_int_eq(ad_run_with(p, w, &args), 0);
    for (int i = 0; i < THETA; i++)
        ck_assert_double_eq(((double *)b.data[1])[i], 2 * ((double *)a.data[1])[i]);
    args.accumulate = (bool[]){ false, false, true };
    args.outputs = b.data;
    ck_assert_int_eq(ad_run_with(p, w, &args), -1);
    ck_assert_str_eq(ad_workspace_error(w), "ad_run: output 2 of shape [rows,5] has rows: only "
                                            "outputs without rows can be accumulated");
    for (int j = 0; j < f.noutput; j++) {
        void *only[MAX_VARS] = { NULL };
        results c = run_on(&f, p, w, 100, f.data);
        memset(c.data[j], 0, c.bytes[j]);
        only[j] = c.data[j];
        ck_assert_int_eq(ad_run(p, w, 100, (const void *const *)f.data, only), 0);
        check_same_bits("gradient", "one output alone", &a, &c);
        discard(&c);
    }
    discard(&a);
    discard(&b);
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* Deferred sums over the rows reach their outputs once, with the same totals; what is no plain sum,
 * and a run that is of another kind, is delivered at once. */
START_TEST(test_deferred)
{
    enum { MOST = 300, RUNS = 4 }; /* fewer numbers than AD_CHAIN in a lane */
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS), 0, NULL), sum = ad_sum_all(x);
    ad_var y[] = { sum, ad_scale(ad_sum_all(ad_square(x)), 3), ad_scale(x, 2),
                   ad_reduce_max(x, 0, NULL, 0) };
    ad_program *p = ad_compile(1, &x, 4, y);
    ck_assert_ptr_nonnull(p);
    for (int threads = 1; threads <= 2; threads++) {
        ad_workspace *w = ad_workspace_new(p, threads);
        double data[MOST], twice[2][MOST], total = 100, squares = 100, largest = 100;
        double expected = 100, expected_squares = 100, expected_largest = 100;
        void *outputs[] = { &total, &squares, NULL, &largest };
        ad_run_args args = { .inputs = (const void *[]){ data },
                             .outputs = outputs,
                             .accumulate = (bool[]){ true, true, false, true },
                             .defer = true };
        for (int k = 0; k < RUNS; k++) {
            args.rows = k < RUNS - 1 ? MOST : 7;
            outputs[2] = twice[k % 2];
            double most = -1;
            for (int i = 0; i < args.rows; i++) {
                data[i] = (double)((i + 3) * (k + 2) % 11);
                expected_squares += 3 * data[i] * data[i];
                most = fmax(most, data[i]);
            }
            ck_assert_int_eq(ad_run_with(p, w, &args), 0);
            ck_assert_double_eq(total, k < RUNS - 1 ? 100 : expected);
            for (int i = 0; i < args.rows; i++) expected += data[i];
            expected_largest += most;
            ck_assert_double_eq(squares, expected_squares);
            ck_assert_double_eq(largest, expected_largest);
            ck_assert_double_eq(twice[k % 2][3], 2 * data[3]);
            if (k == RUNS - 2 && threads == 1) { /* else the next run delivers */
                ad_run_deliver(w);
                ad_run_deliver(w);
                ck_assert_double_eq(total, expected);
            }
        }
        args.defer = false;
        ck_assert_int_eq(ad_run_with(p, w, &args), 0);
        for (int i = 0; i < args.rows; i++) expected += data[i];
        ck_assert_double_eq(total, expected);
        ad_run_deliver(w);
        ck_assert_double_eq(total, expected);
        ad_workspace_free(w);
    }
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* Rows of an input that are written when they are asked for. */
enum { FILLED = 700 };
typedef struct {
    ad_program *program;
    double data[FILLED];
    atomic_int asked[FILLED];
    atomic_bool wrong;
} filling;

static double to_fill(int64_t i) { return sin(0.3 * (double)i); }

static void fill_rows(void *context, int64_t first, int64_t rows)
{
    filling *f = context;
    const int64_t each = ad_program_fill_rows(f->program);
    if (first % each || rows > each) atomic_store(&f->wrong, true);
    for (int64_t i = first; i < first + rows; i++) {
        f->data[i] = to_fill(i);
        atomic_fetch_add(&f->asked[i], 1);
    }
}

/* Inputs are filled once each, whatever bodies read them, and results are those of inputs that are
 * there. */
START_TEST(test_filled)
{
    static const int64_t rows[] = { 1, 2, 65, FILLED };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS), 0, NULL);
    ad_var away = ad_sub(x, ad_div(ad_sum_all(x), ad_row_count(t)));
    ad_var y[] = { ad_sum_all(ad_exp(away)), ad_mul(x, away) };
    static filling f;
    static double there[FILLED], results[2][FILLED];
    f.program = ad_compile(1, &x, 2, y);
    ck_assert_ptr_nonnull(f.program);
    for (int i = 0; i < FILLED; i++) there[i] = to_fill(i);
    for (int threads = 1; threads <= 3; threads++) {
        ad_workspace *w = ad_workspace_new(f.program, threads);
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
            double sums[2];
            const size_t n = (size_t)rows[k];
            ad_run_args args = { .rows = rows[k],
                                 .inputs = (const void *[]){ there },
                                 .outputs = (void *[]){ &sums[0], results[0] } };
            ck_assert_int_eq(ad_run_with(f.program, w, &args), 0);
            memset(f.asked, 0, sizeof f.asked);
            for (int i = 0; i < FILLED; i++) f.data[i] = NAN;
            args.inputs = (const void *[]){ f.data };
            args.outputs = (void *[]){ &sums[1], results[1] };
            args.fill = fill_rows;
            args.fill_context = &f;
            args.fill_work = 1e5; /* worth more than one thread */
            ck_assert_int_eq(ad_run_with(f.program, w, &args), 0);
            ck_assert(!f.wrong);
            for (int64_t i = 0; i < FILLED; i++)
                if (f.asked[i] != (i < rows[k]))
                    ck_abort_msg("row %lld: asked for %d times", (long long)i, (int)f.asked[i]);
            ck_assert_mem_eq(&sums[0], &sums[1], sizeof *sums);
            ck_assert_mem_eq(results[0], results[1], n * sizeof(double));
        }
        ad_workspace_free(w);
    }
    ad_program_free(f.program);
    ad_tape_free(t);
}
END_TEST

static int hand_on(void *data, void *state, const ad_opaque_call *call)
{
    (void)data, (void)state;
    memcpy(call->out[0], call->in[0], (size_t)call->rows * sizeof(double));
    return 0;
}

/* Not where an operation reads them as a whole, or where there are no rows. */
START_TEST(test_filled_in_vain)
{
    static const ad_opaque_class handing = { .name = "handing", .forward = hand_on };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS), 0, NULL), p = ad_param(t, AD_SHAPE(2), NULL), y;
    ad_opaque(t, &handing, NULL, 1, &x, 1, &(ad_shape){ 1, { AD_ROWS } }, &y);
    ad_program *programs[] = { ad_compile(1, &x, 1, (ad_var[]){ ad_exp(y) }),
                               ad_compile(1, &p, 1, (ad_var[]){ ad_exp(p) }) };
    double data[2] = { 0, 0 }, result[2];
    filling f = { .program = NULL };
    for (int k = 0; k < 2; k++) {
        ck_assert_ptr_nonnull(programs[k]);
        ck_assert_int_eq(ad_program_fill_rows(programs[k]), 0);
        ad_workspace *w = ad_workspace_new(programs[k], 1);
        ad_run_args args = { .rows = 2,
                             .inputs = (const void *[]){ data },
                             .outputs = (void *[]){ result },
                             .fill = fill_rows,
                             .fill_context = &f };
        ck_assert_int_eq(ad_run_with(programs[k], w, &args), -1);
        ck_assert_ptr_nonnull(strstr(ad_workspace_error(w), "block by block"));
        args.fill = NULL;
        ck_assert_int_eq(ad_run_with(programs[k], w, &args), 0);
        ck_assert_double_eq(result[1], 1);
        ad_workspace_free(w);
        ad_program_free(programs[k]);
    }
    ck_assert_int_eq(ad_program_fill_rows(NULL), 0);
    ad_tape_free(t);
}
END_TEST

/* With same_parameters, what depends on parameters alone is kept; without, it is computed again. */
START_TEST(test_same_parameters)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var w = ad_param(t, AD_SHAPE(2), NULL), x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, NULL);
    ad_var y = ad_mul(x, ad_exp(w));
    ad_program *p = ad_compile(2, (ad_var[]){ w, x }, 1, &y);
    ck_assert_ptr_nonnull(p);
    ad_workspace *s = ad_workspace_new(p, 1);
    double weights[2] = { 0, 0 }, rows[2] = { 1, 2 }, result[2];
    ad_run_args args = { .rows = 1,
                         .inputs = (const void *[]){ weights, rows },
                         .outputs = (void *[]){ result },
                         .same_parameters = true };
    ck_assert_int_eq(ad_run_with(p, s, &args), 0);
    ck_assert_double_eq(result[1], 2);
    weights[1] = 1;
    ck_assert_int_eq(ad_run_with(p, s, &args), 0);
    ck_assert_double_eq(result[1], 2);
    args.same_parameters = false;
    ck_assert_int_eq(ad_run_with(p, s, &args), 0);
    ck_assert_double_eq_tol(result[1], 2 * exp(1), 1e-15);
    weights[1] = 0; /* seen by a run that fails, and not changed since */
    args.rows = 0;
    ck_assert_int_eq(ad_run_with(p, s, &args), -1);
    args.rows = 1;
    args.same_parameters = true;
    ck_assert_int_eq(ad_run_with(p, s, &args), 0);
    ck_assert_double_eq(result[1], 2);
    ad_workspace_free(s);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* The order in which equal graphs were recorded does not show. */
START_TEST(test_canonical_order)
{
    char *text[2];
    for (int k = 0; k < 2; k++) {
        ad_tape *t = ad_tape_new(AD_F32);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 3), 0, NULL), a, b;
        if (k) {
            b = ad_cos(x);
            a = ad_sin(x);
            ad_exp(b);
        } else {
            a = ad_sin(x);
            b = ad_cos(x);
        }
        ad_var y = ad_add(ad_square(a), b);
        ad_program *p = ad_compile(1, &x, 1, &y);
        text[k] = ad_program_describe(p);
        ad_program_free(p);
        ad_tape_free(t);
    }
    ck_assert_str_eq(text[0], text[1]);
    free(text[0]);
    free(text[1]);
}
END_TEST

START_TEST(test_workspace_grows)
{
    function f = record(&graphs[7], AD_F64, 1);
    ad_program *p = compile(&f);
    long live = 0;
    enum { PASSES = 6 };
    for (int pass = 0; pass < PASSES; pass++) {
        ad_workspace *w = ad_workspace_new(p, 3);
        for (int64_t rows = 1; rows <= MAX_ROWS; rows += 71) {
            ad_workspace *fresh = ad_workspace_new(p, 1);
            results a = run_on(&f, p, w, rows, f.data), b = run_on(&f, p, fresh, rows, f.data);
            check_same_bits("standardise", "grown workspace", &a, &b);
            discard(&a);
            discard(&b);
            ad_workspace_free(fresh);
        }
        ad_workspace_free(w);
        if (pass == 0) live = allocations_live();
    }
    ck_assert_int_eq(allocations_live(), live);
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* ---- errors ---------------------------------------------------------------------------------- */

START_TEST(test_compile_errors)
{
    ad_tape *t = ad_tape_new(AD_F32), *other = ad_tape_new(AD_F32);
    float data[128] = { 0 };
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, NULL),
           w = ad_param(t, AD_SHAPE(64, 2), data), y = ad_sum_all(w);
    ck_assert_ptr_null(ad_compile(1, &x, 3, (ad_var[]){ x, ad_exp(x), y }));
    ck_assert_str_eq(ad_tape_error(t), "ad_compile: output 2 depends on an input of shape [64,2] "
                                       "that is not in the list of inputs");
    ad_tape_clear_error(t);
    ck_assert_ptr_null(ad_compile(2, (ad_var[]){ w, ad_neg(w) }, 1, &y));
    ck_assert_str_eq(ad_tape_error(t), "ad_compile: input 1 is the result of ad_neg; inputs are "
                                       "made by ad_param, ad_input or ad_input_rows");
    ad_tape_clear_error(t);
    ck_assert_ptr_null(ad_compile(2, (ad_var[]){ w, w }, 1, &y));
    ck_assert_str_eq(ad_tape_error(t), "ad_compile: input 1 is already in the list, as input 0");
    ad_tape_clear_error(t);
    ad_var z = ad_param(other, AD_SHAPE(1), NULL);
    ck_assert_ptr_null(ad_compile(1, &z, 1, &y));
    ck_assert(strstr(ad_tape_error(t), "ad_compile: inputs[0] is on another tape; ") ==
              ad_tape_error(t));
    ad_tape_clear_error(t);
    ad_tape_clear_error(other);
    ck_assert_ptr_null(ad_compile(1, &w, 0, NULL));
    ck_assert_str_eq(ad_tape_error(t), "ad_compile: there are no outputs");
    ad_tape_free(t);
    ad_tape_free(other);
}
END_TEST

START_TEST(test_run_errors)
{
    function f = record(&graphs[1], AD_F32, 4);
    ad_program *p = compile(&f), *q = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 1);
    float loss = 7;
    void *outputs[3] = { &loss, NULL, NULL };
    const void *inputs[3] = { f.data[0], NULL, f.data[2] };
    ck_assert_int_eq(ad_run(p, w, 0, (const void *const *)f.data, outputs), -1);
    ck_assert_str_eq(ad_workspace_error(w), "ad_run: the batch is empty (rows = 0)");
    ck_assert_int_eq(ad_run(p, w, -3, (const void *const *)f.data, outputs), -1);
    ck_assert_str_eq(ad_workspace_error(w), "ad_run: the number of rows is negative (rows = -3)");
    ck_assert_int_eq(ad_run(p, w, 4, inputs, outputs), -1);
    ck_assert_str_eq(ad_workspace_error(w), "ad_run: input 1 of shape [rows,5] is NULL");
    ck_assert_int_eq(ad_run(q, w, 4, (const void *const *)f.data, outputs), -1);
    ck_assert_str_eq(ad_workspace_error(w), "ad_run: the workspace was made for another program");
    ck_assert_float_eq(loss, 7);
    ck_assert_int_eq(ad_run(p, w, 4, (const void *const *)f.data, outputs), 0);
    ck_assert_ptr_null(ad_workspace_error(w));
    ad_workspace_free(w);
    ad_program_free(p);
    ad_program_free(q);
    ad_program_free(NULL);
    ad_workspace_free(NULL);
    forget(&f);
}
END_TEST

START_TEST(test_impossible_memory)
{
    function f = record(&graphs[7], AD_F64, 4);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 1);
    void *outputs[2] = { f.data[0], f.data[0] };
    ck_assert_int_eq(ad_run(p, w, INT64_MAX / 2, (const void *const *)f.data, outputs), -1);
    ck_assert_ptr_nonnull(strstr(ad_workspace_error(w),
                                 "4611686018427387903 rows need more bytes than can be addressed"));
#ifndef ALLOCATIONS_NOT_COUNTED /* sanitizers end the program at such sizes */
    ck_assert_int_eq(ad_run(p, w, (int64_t)1 << 50, (const void *const *)f.data, outputs), -1);
    ck_assert_ptr_nonnull(strstr(ad_workspace_error(w), "ad_run: out of memory: "));
    ck_assert_ptr_nonnull(
        strstr(ad_workspace_error(w), " bytes for a program with rows = 1125899906842624"));
#endif
    results r = run_on(&f, p, w, 4, f.data);
    check_close("standardise", &f, &r);
    discard(&r);
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
}
END_TEST

START_TEST(test_failing_opaque)
{
    ad_tape *t = ad_tape_new(AD_F64);
    function f = { .tape = t, .dtype = AD_F64, .rows = 3 };
    ad_var x = in(&f, ROWS, AD_SHAPE(AD_ROWS, D)), factor = in(&f, CALL, AD_SCALAR), sum[2];
    record_running_sum(&f, ad_exp(x), factor, sum);
    out(&f, sum[0]);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 1);
    double result[3 * D], large = 101;
    const void *bad[2] = { f.data[0], &large };
    for (int k = 0; k < 2; k++) {
        ck_assert_int_eq(ad_run(p, w, 3, bad, (void *[]){ result }), -1);
        ck_assert_str_eq(ad_workspace_error(w), "ad_run: running_sum: the factor is above 100");
        ck_assert_int_eq(ad_run(p, w, 3, (const void *const *)f.data, (void *[]){ result }), 0);
    }
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
    ck_assert_int_eq(atomic_load(&live_states), 0);
    ck_assert_int_eq(atomic_load(&live_data), 0);
}
END_TEST

/* An operation that waits inside a run, so that a second run of the same workspace is sure to meet
 * it. */
typedef struct {
    const ad_program *program;
    ad_workspace *workspace;
} inner_run;

static int run_again(void *data, void *state, const ad_opaque_call *call)
{
    (void)state;
    const inner_run *r = data;
    double y = 0;
    int code = r->workspace ? ad_run(r->program, r->workspace, 1, call->in, (void *[]){ &y }) : 0;
    put(call->dtype, call->out[0], 0,
        code == -1 && strstr(ad_workspace_error(r->workspace), "in use by another run") != NULL);
    return 0;
}
static const ad_opaque_class run_again_class = { .name = "run_again", .forward = run_again };

START_TEST(test_workspace_in_use)
{
    inner_run again = { NULL, NULL };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, NULL), y;
    ad_opaque(t, &run_again_class, &again, 1, &x, 1, &(ad_shape){ 0, { 0 } }, &y);
    ad_program *p = ad_compile(1, &x, 1, &y);
    ck_assert_ptr_nonnull(p);
    again = (inner_run){ p, ad_workspace_new(p, 1) };
    double value = 1, refused = 0;
    ck_assert_int_eq(
        ad_run(p, again.workspace, 0, (const void *[]){ &value }, (void *[]){ &refused }), 0);
    ck_assert_double_eq(refused, 1);
    ad_workspace_free(again.workspace);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* Two threads: the second comes while the first is inside. */
typedef struct {
    const ad_program *program;
    ad_workspace *workspace;
    pthread_barrier_t inside, turned_away;
    atomic_int entered;
    double result;
    int code;
} meeting;

static int meet(void *data, void *state, const ad_opaque_call *call)
{
    (void)state;
    meeting *m = data;
    put(call->dtype, call->out[0], 0, 2 * get(call->dtype, call->in[0], 0));
    if (atomic_fetch_add(&m->entered, 1) > 0) return 0;
    pthread_barrier_wait(&m->inside);
    pthread_barrier_wait(&m->turned_away);
    return 0;
}
static const ad_opaque_class meet_class = { .name = "meet", .forward = meet };

static void *first_run(void *data)
{
    meeting *m = data;
    double value = 3;
    m->code =
        ad_run(m->program, m->workspace, 0, (const void *[]){ &value }, (void *[]){ &m->result });
    return NULL;
}

START_TEST(test_workspace_of_two_threads)
{
    meeting m = { .workspace = NULL };
    atomic_init(&m.entered, 0);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SCALAR, NULL), y;
    ad_opaque(t, &meet_class, &m, 1, &x, 1, &(ad_shape){ 0, { 0 } }, &y);
    ad_program *p = ad_compile(1, &x, 1, &y);
    ck_assert_ptr_nonnull(p);
    m.program = p;
    m.workspace = ad_workspace_new(p, 1);
    pthread_barrier_init(&m.inside, NULL, 2);
    pthread_barrier_init(&m.turned_away, NULL, 2);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, first_run, &m), 0);
    double value = 5, result = 7;
    pthread_barrier_wait(&m.inside);
    int code = ad_run(p, m.workspace, 0, (const void *[]){ &value }, (void *[]){ &result });
    const char *error = ad_workspace_error(m.workspace);
    pthread_barrier_wait(&m.turned_away);
    pthread_join(thread, NULL);
    ck_assert_int_eq(code, -1);
    ck_assert_str_eq(error,
                     "ad_run: the workspace is in use by another run; every thread needs its own");
    ck_assert_double_eq(result, 7);
    ck_assert_int_eq(m.code, 0);
    ck_assert_double_eq(m.result, 6);
    ad_workspace_free(m.workspace);
    pthread_barrier_destroy(&m.inside);
    pthread_barrier_destroy(&m.turned_away);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* ---- one program, many threads --------------------------------------------------------------- */

typedef struct {
    const function *f;
    const ad_program *p;
    results got;
} job;

static void *run_job(void *data)
{
    job *j = data;
    ad_workspace *w = ad_workspace_new(j->p, 2);
    for (int k = 0; k < 5; k++)
        if (ad_run(j->p, w, 300, (const void *const *)j->f->data, j->got.data)) break;
    ad_workspace_free(w);
    return NULL;
}

START_TEST(test_program_is_shared_by_threads)
{
    function f = record(&graphs[1], AD_F32, 300);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 1);
    results expected = run_on(&f, p, w, 300, f.data);
    pthread_t thread[3];
    job jobs[3];
    ad_shape shapes[MAX_VARS];
    shapes_of(&f, shapes);
    for (int k = 0; k < 3; k++) {
        jobs[k] = (job){ &f, p, room(shapes, f.noutput, f.dtype, 300) };
        ck_assert_int_eq(pthread_create(&thread[k], NULL, run_job, &jobs[k]), 0);
    }
    for (int k = 0; k < 3; k++) {
        pthread_join(thread[k], NULL);
        check_same_bits("gradient", "threads of the caller", &expected, &jobs[k].got);
        discard(&jobs[k].got);
    }
    discard(&expected);
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* Inside a team of the caller, a run is serial and gives the same bits. */
START_TEST(test_nested_in_a_team)
{
    function f = record(&graphs[1], AD_F32, 300);
    ad_program *p = compile(&f);
    ad_workspace *w = ad_workspace_new(p, 2);
    results expected = run_on(&f, p, w, 300, f.data);
    job jobs[3];
    ad_shape shapes[MAX_VARS];
    shapes_of(&f, shapes);
    bool team[3];
    for (int k = 0; k < 3; k++) jobs[k] = (job){ &f, p, room(shapes, f.noutput, f.dtype, 300) };
#ifdef _OPENMP
#pragma omp parallel for num_threads(3)
#endif
    for (int k = 0; k < 3; k++) {
        team[k] = ad_threads_in_team();
        run_job(&jobs[k]);
    }
    ck_assert(!ad_threads_in_team());
    for (int k = 0; k < 3; k++) {
#ifdef _OPENMP
        ck_assert(team[k]);
#else
        ck_assert(!team[k]);
#endif
        check_same_bits("gradient", "nested", &expected, &jobs[k].got);
        discard(&jobs[k].got);
    }
    discard(&expected);
    ad_workspace_free(w);
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* ---- what was compiled ----------------------------------------------------------------------- */

static char *description(const graph *g)
{
    function f = record(g, AD_F32, 4);
    ad_program *p = compile(&f);
    char *text = ad_program_describe(p);
    ck_assert_ptr_nonnull(text);
    ad_program_free(p);
    forget(&f);
    return text;
}

static void expect(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "no \"%s\" in\n%s", part, text);
}
static void expect_not(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) == NULL, "\"%s\" in\n%s", part, text);
}

static int occurrences(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)) != NULL; text++) n++;
    return n;
}

/* The VJP of the exact trace of a network with `hidden` hidden layers of 64. */
static char *description_of_trace(int hidden, int64_t d)
{
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var in[8], out, bar[8], seed = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var y = in[0] = ad_input_rows(t, AD_SHAPE(AD_ROWS, d), 0, NULL);
    for (int l = 1; l <= hidden + 1; l++) {
        in[l] = ad_param(t, AD_SHAPE(l == 1 ? d : 64, l > hidden ? d : 64), NULL);
        y = ad_matmul(y, in[l]);
        if (l <= hidden) y = ad_tanh(y);
    }
    out = ad_jacobian_trace(y, in[0]);
    ad_vjp(1, &out, &seed, hidden + 2, in, bar);
    in[hidden + 2] = seed;
    ad_program *p = ad_compile(hidden + 3, in, hidden + 2, bar);
    char *text = ad_program_describe(p);
    ck_assert_ptr_nonnull(text);
    ad_program_free(p);
    ad_tape_free(t);
    return text;
}

/* Every product with rows reads and writes its operands as they lie: no result in another order
 * than its operands', and large products of weights are multiplied out in both orders instead of
 * being transposed. */
START_TEST(test_describe_trace)
{
    static const char *packing[] = { "->kjl",
                                     "->lkj",
                                     "->ilj",
                                     "[64,64,64] transpose",
                                     "[64,32,64] transpose",
                                     "[64,64,32] transpose" };
    static const int64_t dims[] = { 8, 32, 128 };
    char *text = description_of_trace(3 + _i / 3, dims[_i % 3]);
    for (size_t k = 0; k < sizeof packing / sizeof *packing; k++) expect_not(text, packing[k]);
    if (dims[_i % 3] == 32)
        expect(text, "ij,kjl->ikl"); /* rows of weights that would lie pages apart */
    if (dims[_i % 3] == 8) {
        expect(text, "ij,jkl->ikl");
        expect_not(text, "ij,kjl->ikl");
    }
    expect(text, "ijk,jkl->il");
    free(text);
}
END_TEST

/* Weights are multiplied with each other first, though that takes more multiplications than with
 * the rows of a batch: it is done once. */
START_TEST(test_describe_order)
{
    enum { WIDE = 256 };
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_shape square = AD_SHAPE(WIDE, WIDE);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE), 0, NULL),
                    ad_param(tape, square, NULL), ad_param(tape, square, NULL) };
    ad_var y = ad_contract("bi,ij,jk->bk", 3, in);
    ad_program *p = ad_compile(3, in, 1, &y);
    char *text = ad_program_describe(p);
    expect(text, "  parameters 1: contract 1\n");
    expect(text, "  rows 1: contract 1\n");
    free(text);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

/* A matrix for each index that both operands keep is read as it lies. */
START_TEST(test_describe_batch)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 4, 8), 0, NULL),
                    ad_param(tape, AD_SHAPE(4, 8, 16), NULL) };
    ad_var y = ad_contract("bij,ijk->bik", 2, in);
    ad_program *p = ad_compile(2, in, 1, &y);
    char *text = ad_program_describe(p);
    expect(text, "  parameters 0\n");
    free(text);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

START_TEST(test_describe_network)
{
    char *text = description(&graphs[0]);
    expect(text, "program f32: 2 inputs, 1 outputs");
    expect(text, "  v1 [rows,5] rows\n");
    expect(text, "512 rows in 4 blocks");
    expect(text, "  parameters 0\n");               /* weights lie right, their slices are views */
    expect(text, "  rows 5: tanh 2, contract 3\n"); /* biases are added within tanh */
    ck_assert_int_eq(occurrences(text, " + "), 2);
    expect(text, "[rows,16] contract(v1, v3) ij,jk->ik, 160 flop a row\n");
    free(text);
}
END_TEST

/* The cotangent needs transposed weights, once per change of the parameters; gradients of slices
 * are added into their places. */
START_TEST(test_describe_gradient)
{
    char *text = description(&graphs[1]);
    expect(text, "phase 0 parameters\n");
    expect(text, "  parameters 3: transpose 3\n");
    expect(text, "assemble 1");
    expect_not(text, "assemble 2");
    expect_not(text, "phase 1 body");
    expect(text, "512 rows in 4 blocks");
    free(text);
}
END_TEST

/* Gradients of a matrix and a bias that are used three times have lanes for one of them each, and
 * so has a sum that an output is. */
START_TEST(test_describe_sums)
{
    char *text = description(&graphs[16]);
    ck_assert_int_eq(occurrences(text, ", added to v"), 5);
    free(text);
}
END_TEST

/* Of composites: what is read elsewhere, of another extent, an output, or known earlier stays a
 * value of its own. */
START_TEST(test_describe_composites)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 0, NULL),
           column = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var p = ad_param(tape, AD_SHAPE(3), NULL), t = ad_input(tape, AD_SHAPE(3), NULL),
           in[] = { x, column, p, t };
    ad_var shared = ad_mul(x, p), out = ad_square(x);
    struct {
        ad_var y;
        const char *sign;
        int count;
    } cases[] = { { ad_exp(ad_add(x, p)), " + ", 1 },
                  { ad_sub(p, ad_square(shared)), " * ", 1 },
                  { ad_add(ad_mul(x, p), column), " * ", 1 },
                  { ad_sub(ad_mul(x, p), column), " * ", 0 },
                  { ad_mul(ad_add(shared, p), ad_exp(shared)), " * ", 0 },
                  { ad_sub(x, ad_mul(column, column)), " * ", 0 },
                  { ad_add(out, x), " * ", 0 },
                  { ad_add(t, ad_square(p)), " * ", 0 },
                  { ad_add(p, ad_square(t)), " * ", 1 },
                  { ad_add(t, ad_mul(ad_neg(p), t)), "sub(v3, v2 * v3)", 1 },
                  { ad_sin(ad_add(x, p)), " + ", 0 } };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        ad_program *program = ad_compile(4, in, 2, (ad_var[]){ cases[k].y, out });
        ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
        char *text = ad_program_describe(program);
        ck_assert_msg(occurrences(text, cases[k].sign) == cases[k].count, "case %d: %s", (int)k,
                      text);
        free(text);
        ad_program_free(program);
    }
    ad_tape_free(tape);
}
END_TEST

START_TEST(test_describe_phases)
{
    for (int k = 0; k < GRAPHS; k++) {
        char *text = description(&graphs[k]), body[32];
        for (int phase = 0; phase < 4; phase++) {
            snprintf(body, sizeof body, "phase %d body\n", phase);
            ck_assert_msg((strstr(text, body) != NULL) == (phase < graphs[k].phases), "%s: %s%s",
                          graphs[k].name, body, text);
        }
        free(text);
    }
}
END_TEST

/* Signs and powers of two of a product become one, at its smallest factor; what others need stays.
 */
START_TEST(test_describe_scales)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 0, NULL),
                    ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL) },
           y[2];
    ad_var a = in[0], b = in[1], twice = ad_scale(a, 2);
    y[0] = ad_mul(ad_neg(ad_mul(ad_sin(a), ad_cos(b))),
                  ad_scale(ad_exp(a), 2)); /* sin(a) (cos(b) -2) exp(a) */
    y[1] = ad_mul(ad_neg(ad_mul(twice, ad_scale(ad_neg(b), 0.5))), twice); /* (2a) (b/2) (2a) */
    ad_program *p = ad_compile(2, in, 2, y);
    char *text = ad_program_describe(p);
    expect(text, "  rows 8: exp 1, sin 1, cos 1, mul 5\n");
    ck_assert_int_eq(occurrences(text, " * "), 2); /* two of them multiply twice */
    ck_assert_int_eq(occurrences(text, "[rows,1] mul"), 2);
    double va[] = { 0.3, -1.2, 0.7 }, vb = 0.4, out[2][3];
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert(!ad_run(p, w, 1, (const void *[]){ va, &vb }, (void *[]){ out[0], out[1] }));
    for (int i = 0; i < 3; i++) {
        ck_assert_double_eq_tol(out[0][i], -2 * sin(va[i]) * cos(vb) * exp(va[i]), 1e-14);
        ck_assert_double_eq_tol(out[1][i], 2 * va[i] * va[i] * vb, 1e-15);
    }
    free(text);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

/* Large powers of two stay: moved together they would leave the range of numbers, though the
 * product does not. */
START_TEST(test_large_scales)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL),
           y = ad_mul(ad_scale(x, 0x1p600), ad_scale(ad_sin(x), 0x1p600));
    ad_program *p = ad_compile(1, &x, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    double small = 0x1p-590, result;
    ck_assert(!ad_run(p, w, 1, (const void *[]){ &small }, (void *[]){ &result }));
    ck_assert_double_eq(result, 0x1p20);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

/* The factor that takes a sign or power of two is not looked for in all of a long product: that
 * would take half an hour here. */
START_TEST(test_long_products)
{
    enum { FACTORS = 8000 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL),
                    ad_param(tape, AD_SHAPE(FACTORS), NULL) },
           y = in[0];
    for (int k = 0; k < FACTORS; k++) {
        ad_var factor = ad_tanh(ad_slice(in[1], 0, k, k + 1));
        y = k % 2 ? ad_mul(y, ad_scale(factor, 2)) : ad_mul(ad_scale(factor, -2), ad_neg(y));
    }
    ad_program *p = ad_compile(2, in, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    double factors[FACTORS], start = 0.3, end;
    for (int k = 0; k < FACTORS; k++) factors[k] = atanh(0.5);
    ck_assert(!ad_run(p, w, 1, (const void *[]){ &start, factors }, (void *[]){ &end }));
    ck_assert_double_eq_tol(end, start, 1e-12);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

/* Sums of thousands of padded pieces are added up in some steps: each piece copied into one list
 * with those before it took 700 MB here. */
START_TEST(test_long_sums)
{
    enum { TERMS = 10000 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(TERMS), NULL), y = x;
    for (int k = 0; k < TERMS; k++)
        y = ad_add(y, ad_pad(ad_square(ad_slice(x, 0, k, k + 1)), 0, k, TERMS - k - 1));
#ifndef ALLOCATIONS_NOT_COUNTED
    struct mallinfo2 before = mallinfo2();
#endif
    ad_program *p = ad_compile(1, &x, 1, &y);
#ifndef ALLOCATIONS_NOT_COUNTED
    struct mallinfo2 after = mallinfo2();
    ck_assert_uint_lt(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd, 200000000);
#endif
    ad_workspace *w = ad_workspace_new(p, 1);
    double in[TERMS], out[TERMS];
    for (int k = 0; k < TERMS; k++) in[k] = k % 10;
    ck_assert(!ad_run(p, w, 0, (const void *[]){ in }, (void *[]){ out }));
    for (int k = 0; k < TERMS; k++) ck_assert_double_eq(out[k], in[k] + in[k] * in[k]);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

/* Pieces are not compared each with each, nor looked through for each slice of the whole: that
 * would take minutes here. */
START_TEST(test_long_concatenations)
{
    enum { PIECES = 100000 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(PIECES), NULL), y = x,
           *piece = malloc(PIECES * sizeof *piece);
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < PIECES; k++) piece[k] = ad_square(ad_slice(y, 0, k, k + 1));
        y = ad_concatenate(PIECES, piece, 0);
    }
    ad_program *p = ad_compile(1, &x, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    double *in = malloc(PIECES * sizeof *in), *out = malloc(PIECES * sizeof *out);
    for (int k = 0; k < PIECES; k++) in[k] = k % 10;
    ck_assert(!ad_run(p, w, 0, (const void *[]){ in }, (void *[]){ out }));
    for (int k = 0; k < PIECES; k++) ck_assert_double_eq(out[k], pow(in[k], 4));
    free(in);
    free(out);
    free(piece);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

START_TEST(test_describe_simplified)
{
    char *text = description(&graphs[12]);
    expect_not(text, "eye");
    expect_not(text, "neg(");
    expect_not(text, "stop_gradient");
    expect_not(text, "exp(");
    ck_assert_int_eq(occurrences(text, " contract("), 1);
    free(text);
}
END_TEST

/* The verifier sees what passes could break. */
START_TEST(test_verifier)
{
    function f = record(&graphs[1], AD_F32, 4);
    ad_program *p = compile(&f);
    int32_t where = 0;
    ck_assert_ptr_null(ad_verify_ir(&p->ir, &where));
    ck_assert_ptr_null(ad_verify_plan(p, &where));

    int32_t last = p->ir.n - 1, late[] = { last, last };
    ad_inst *x = &p->ir.inst[last], kept = *x;
    x->in = late;
    ck_assert_str_eq(ad_verify_ir(&p->ir, &where), "operand does not come before its use");
    ck_assert_int_eq(where, last);
    *x = kept;
    x->level = AD_LEVEL_CONSTANT;
    ck_assert_str_eq(ad_verify_ir(&p->ir, &where), "level is below an operand's");
    *x = kept;
    x->shape.dim[x->shape.rank - 1]++;
    ck_assert_str_eq(ad_verify_ir(&p->ir, &where), "contraction: a label has two sizes");
    *x = kept;

    ad_phase *body = &p->phase[0];
    for (int i = 0; i < body->nblock; i++) p->slot[body->block[i]].position = 0;
    ck_assert_str_eq(ad_verify_plan(p, &where), "memory: live values overlap");
    p->slot[body->block[0]].position = p->block_bytes;
    ck_assert_str_eq(ad_verify_plan(p, &where), "memory: out of range");
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* The first value of the operation that is, or is not, in the lanes of another one; -1: there is
 * none. */
static int32_t in_lanes(const ad_program *p, ad_op op, bool shared)
{
    for (int32_t i = 0; i < p->ir.n; i++)
        if (p->ir.inst[i].op == op && p->slot[i].place == AD_PLACE_LANES &&
            (p->slot[i].root != i) == shared)
            return i;
    return -1;
}

/* Lanes that reductions share hold their sum, which must be all that is read. */
START_TEST(test_verifier_of_sums)
{
    function f = record(&graphs[16], AD_F32, 4);
    ad_program *p = compile(&f);
    int32_t where = 0, part = in_lanes(p, AD_OP_contract, true), root = p->slot[part].root,
            largest = in_lanes(p, AD_OP_reduce_max, false);
    ck_assert_ptr_null(ad_verify_plan(p, &where));
    int32_t *output = &p->ir.output[0], sum = *output;
    *output = part;
    ck_assert_str_eq(ad_verify_plan(p, &where), "lanes: a part of a sum is read");
    ck_assert_int_eq(where, part);
    *output = sum;
    p->ir.inst[part].uses = 2;
    ck_assert_str_eq(ad_verify_plan(p, &where), "lanes: a part of a sum is read");
    p->ir.inst[part].uses = 1;
    p->slot[part].root = part;
    ck_assert_str_eq(ad_verify_plan(p, &where), "lanes: hold a sum, but not all of its parts");
    p->slot[part].root = largest;
    ck_assert_str_eq(ad_verify_plan(p, &where), "lanes: a maximum is no sum");
    p->slot[part].root = in_lanes(p, AD_OP_sum, false);
    ck_assert_str_eq(ad_verify_plan(p, &where),
                     "lanes: shared by reductions of different phases or sizes");
    p->slot[part].root = root;
    p->slot[part].phase++;
    ck_assert_str_eq(ad_verify_plan(p, &where),
                     "lanes: shared by reductions of different phases or sizes");
    p->slot[part].phase--;
    p->slot[part].root = p->ir.output[0];
    ck_assert_str_eq(ad_verify_plan(p, &where), "lanes: no reduction's");
    ad_program_free(p);
    forget(&f);
}
END_TEST

/* A group's values are the lazy ones to the last bit, in whole chunks and in the rest: operands of
 * every extent, a value that is read again after the group, and an output in the middle of it. */
START_TEST(test_fused_bits)
{
    for (int which = 0; which < 6; which++) {
        ad_dtype dtype = which % 2 ? AD_F64 : AD_F32;
        int64_t rows = 37 + 150 * (which / 4), d = which / 2 % 2 ? 200 : 64;
        double *x = malloc((size_t)(rows * d) * 8), bias[200], scale[187];
        for (int64_t i = 0; i < rows * d; i++) x[i] = sin(0.37 * (double)i);
        for (int64_t i = 0; i < 200; i++) bias[i] = cos(0.71 * (double)i);
        for (int64_t i = 0; i < 187; i++) scale[i] = 1 + 0.01 * (double)i;
        results in = room((ad_shape[]){ AD_SHAPE(AD_ROWS, d), AD_SHAPE(d), AD_SHAPE(AD_ROWS, 1) },
                          3, dtype, rows);
        for (int64_t i = 0; i < rows * d; i++) put(dtype, in.data[0], i, x[i]);
        for (int64_t i = 0; i < d; i++) put(dtype, in.data[1], i, bias[i]);
        for (int64_t i = 0; i < rows; i++) put(dtype, in.data[2], i, scale[i]);
        ad_tape *t = ad_tape_new(dtype);
        ad_var v[3] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, d), rows, x),
                        ad_param(t, AD_SHAPE(d), bias),
                        ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), rows, scale) };
        ad_var a = ad_tanh(ad_add(v[0], v[1])), b = ad_mul(ad_mul(a, v[2]), ad_add(v[1], v[0])),
               c = ad_sub(ad_exp(b), ad_square(v[0]));
        ad_var out[3] = { ad_mul(c, b), b, ad_add(ad_cumsum(c, 1, false), ad_mul(a, v[1])) };
        ad_program *p = ad_compile(3, v, 3, out);
        ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
        int32_t where = 0;
        ck_assert_ptr_null(ad_verify_plan(p, &where));
        char *text = ad_program_describe(p);
        expect(text, " fused\n");
        free(text);
        ad_workspace *w = ad_workspace_new(p, 1);
        ad_shape shape = AD_SHAPE(AD_ROWS, d);
        results r = room((ad_shape[]){ shape, shape, shape }, 3, dtype, rows);
        ck_assert_int_eq(ad_run(p, w, rows, (const void *const *)in.data, r.data), 0);
        for (int j = 0; j < 3; j++) ck_assert_mem_eq(r.data[j], ad_value(out[j]), r.bytes[j]);
        int chunks = p->phase[0].nchunk;
        ck_assert_int_gt(chunks, 0);
        p->slot[p->phase[0].chunk[0]].position = p->chunk_bytes;
        ck_assert_str_eq(ad_verify_plan(p, &where), "chunk: out of range");
        discard(&r);
        discard(&in);
        ad_workspace_free(w);
        ad_program_free(p);
        ad_tape_free(t);
        free(x);
    }
}
END_TEST

/* Networks of any width run 512 rows in at least four blocks, and wide ones in smaller blocks. */
START_TEST(test_block_sizes)
{
    static const int64_t widths[] = { 2, 64, 1024, 8192 }, blocks[] = { 4, 4, 8, 32 };
    for (int k = 0; k < 4; k++) {
        ad_tape *t = ad_tape_new(AD_F32);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, widths[k]), 0, NULL),
               y = ad_mul(ad_cumsum(ad_tanh(x), 1, false), ad_flip(x, 1));
        ad_program *p = ad_compile(1, &x, 1, &y);
        char *text = ad_program_describe(p), *at = strstr(text, "512 rows in ");
        ck_assert_ptr_nonnull(at);
        ck_assert_int_ge(atoi(at + 12), blocks[k]);
        ck_assert_int_gt(ad_program_bytes_per_row(p), 0);
        free(text);
        ad_program_free(p);
        ad_tape_free(t);
    }
}
END_TEST

int main(void)
{
    TCase *tc = suite_case("program", "program");
    tcase_add_loop_test(tc, test_replayed_equals_lazy, 0, GRAPHS);
    tcase_add_loop_test(tc, test_rows_do_not_see_each_other, 0, GRAPHS);
    tcase_add_loop_test(tc, test_second_run_allocates_nothing, 0, GRAPHS);
    tcase_add_test(tc, test_tape_may_die);
    tcase_add_test(tc, test_accumulate_and_undelivered);
    tcase_add_test(tc, test_deferred);
    tcase_add_test(tc, test_filled);
    tcase_add_test(tc, test_filled_in_vain);
    tcase_add_test(tc, test_same_parameters);
    tcase_add_test(tc, test_canonical_order);
    tcase_add_test(tc, test_workspace_grows);
    tcase_add_test(tc, test_compile_errors);
    tcase_add_test(tc, test_run_errors);
    tcase_add_test(tc, test_impossible_memory);
    tcase_add_test(tc, test_failing_opaque);
    tcase_add_test(tc, test_workspace_in_use);
    tcase_add_test(tc, test_workspace_of_two_threads);
    tcase_add_test(tc, test_program_is_shared_by_threads);
    tcase_add_test(tc, test_nested_in_a_team);
    tcase_add_test(tc, test_describe_network);
    tcase_add_test(tc, test_describe_order);
    tcase_add_test(tc, test_describe_batch);
    tcase_add_loop_test(tc, test_describe_trace, 0, 6);
    tcase_add_test(tc, test_describe_gradient);
    tcase_add_test(tc, test_describe_scales);
    tcase_add_test(tc, test_large_scales);
    tcase_add_test(tc, test_long_products);
    tcase_add_test(tc, test_long_sums);
    tcase_add_test(tc, test_long_concatenations);
    tcase_add_test(tc, test_describe_sums);
    tcase_add_test(tc, test_describe_composites);
    tcase_add_test(tc, test_describe_phases);
    tcase_add_test(tc, test_describe_simplified);
    tcase_add_test(tc, test_fused_bits);
    tcase_add_test(tc, test_verifier);
    tcase_add_test(tc, test_verifier_of_sums);
    tcase_add_test(tc, test_block_sizes);
    return suite_run();
}
