/* ad_scan against the same recurrence recorded step by step: values, derivatives of all kinds,
 * lengths, both orders, segments; what does not grow with the number of steps. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { T = 7, ROWS = 5, H = 3, D = 2 };

/* A recurrence with a carry with rows, one without, inputs of both kinds, arguments of both kinds:
 * h' = tanh(h W + u V + b) gate(h, w), m' = m c + mean of h over H and over the row's argument. */
static void step(const ad_scan_step *at, void *user)
{
    ad_var h = at->carry[0], m = at->carry[1], u = at->input[0], w = at->input[1];
    ad_var weight = at->arg[0], per_row = at->arg[1];
    ad_var in = ad_slice(weight, 0, 0, D), own = ad_slice(weight, 0, D, D + H);
    ad_var pre = ad_add(ad_add(ad_matmul(u, in), ad_matmul(h, own)), w);
    ad_var gate = ad_sigmoid(ad_add(h, ad_mul(per_row, m)));
    at->next[0] = ad_add(ad_mul(gate, h), ad_mul(ad_shift(ad_neg(gate), 1), ad_tanh(pre)));
    at->next[1] = ad_scale(ad_add(m, ad_sum_axis(weight, 0, false)), 0.5);
    if (user) return;
    at->output[0] = ad_mul(at->next[0], ad_exp(ad_scale(pre, 0.1)));
    at->output[1] = ad_square(at->next[1]);
}

typedef struct {
    int64_t steps;
    bool reverse, lengths;
    size_t row_bytes;
} how;

enum { H0, M0, U, W, WEIGHT, PER_ROW, OPERANDS };
typedef struct {
    ad_tape *tape;
    ad_var x[OPERANDS], lengths, last[2], output[2], loss;
} model;

static double *numbers(int64_t n, uint64_t seed)
{
    double *x = malloc((size_t)n * sizeof *x);
    ad_rng rng = ad_rng_seed(seed);
    for (int64_t i = 0; i < n; i++) x[i] = 0.7 * ad_rng_normal(&rng);
    return x;
}

static ad_shape operand_shape(int i, int64_t steps)
{
    const ad_shape shape[OPERANDS] = { AD_SHAPE(AD_ROWS, H),        AD_SHAPE(H),
                                       AD_SHAPE(AD_ROWS, steps, D), AD_SHAPE(steps, H),
                                       AD_SHAPE(D + H, H),          AD_SHAPE(AD_ROWS, 1) };
    return shape[i];
}

static double length_of(int row, int64_t steps)
{
    const double length[ROWS] = { 0, 1, (double)steps, (double)steps - 1, 3 };
    return length[row] > (double)steps ? (double)steps : length[row];
}

static void begin(model *m, how w, int rows)
{
    *m = (model){ .tape = ad_tape_new(AD_F64) };
    for (int i = 0; i < OPERANDS; i++) {
        ad_shape shape = operand_shape(i, w.steps);
        double *x = numbers(ad_count(shape, rows), 3 + (uint64_t)i);
        m->x[i] = ad_has_rows(shape) ? ad_input_rows(m->tape, shape, rows, x)
                                     : ad_param(m->tape, shape, x);
        free(x);
    }
    double length[ROWS];
    for (int i = 0; i < rows; i++) length[i] = length_of(i, w.steps);
    if (w.lengths) m->lengths = ad_input_rows(m->tape, AD_SHAPE(AD_ROWS, 1), rows, length);
}

static ad_recurrence recurrence_of(const model *m, how w)
{
    return (ad_recurrence){ .step = step,
                            .steps = w.steps,
                            .ncarry = 2 - w.lengths,
                            .ninput = 2,
                            .narg = 2,
                            .noutput = 2,
                            .carry = m->x,
                            .input = m->x + U,
                            .arg = m->x + WEIGHT,
                            .reverse = w.reverse,
                            .lengths = m->lengths,
                            .row_bytes = w.row_bytes };
}

/* With lengths all carries and outputs have rows. */
static void step_rows(const ad_scan_step *at, void *user)
{
    ad_var carry[2] = { at->carry[0],
                        ad_constant(at->tape, AD_SHAPE(H), ((double[]){ .1, .2, .3 })) },
           next[2], output[2];
    ad_scan_step inner = *at;
    inner.carry = carry;
    inner.next = next;
    inner.output = output;
    step(&inner, user);
    at->next[0] = next[0];
    at->output[0] = output[0];
    at->output[1] = ad_log(ad_shift(ad_square(next[0]), 0.1));
}

static ad_var slice_step(ad_var x, int axis, int64_t k)
{
    ad_shape shape = ad_shape_of(x), one = { shape.rank - 1, { 0 } };
    for (int i = 0; i < one.rank; i++) one.dim[i] = shape.dim[i < axis ? i : i + 1];
    return ad_reshape(ad_slice(x, axis, k, k + 1), one);
}

/* The recurrence step by step. */
static void unroll(model *m, how w)
{
    ad_var carry[2] = { m->x[H0], m->x[M0] }, out[2][64];
    for (int64_t turn = 0; turn < w.steps; turn++) {
        int64_t k = w.reverse ? w.steps - 1 - turn : turn;
        ad_var next[2], output[2],
            input[2] = { slice_step(m->x[U], 1, k), slice_step(m->x[W], 0, k) };
        ad_scan_step at = { m->tape, carry, input, m->x + WEIGHT, next, output };
        if (w.lengths) step_rows(&at, NULL);
        else step(&at, NULL);
        ad_var alive = w.lengths ? ad_gt(m->lengths, ad_scalar(m->tape, (double)k)) : m->x[H0];
        for (int i = 0; i < 2 - w.lengths; i++)
            carry[i] = w.lengths ? ad_select(alive, next[i], carry[i]) : next[i];
        for (int j = 0; j < 2; j++)
            out[j][k] =
                w.lengths ? ad_select(alive, output[j], ad_zeros_like(output[j])) : output[j];
    }
    for (int i = 0; i < 2; i++) m->last[i] = carry[i];
    for (int j = 0; j < 2; j++)
        m->output[j] = ad_stack((int)w.steps, out[j], ad_has_rows(ad_shape_of(out[j][0])) ? 1 : 0);
}

static void finish(model *m, how w)
{
    ad_var loss = ad_sum_all(ad_square(m->last[0]));
    if (!w.lengths) loss = ad_add(loss, ad_sum_all(ad_sin(m->last[1])));
    for (int j = 0; j < 2; j++) loss = ad_add(loss, ad_sum_all(ad_sin(m->output[j])));
    m->loss = loss;
}

static void record(model *m, how w, bool scanned, int rows)
{
    begin(m, w, rows);
    ad_recurrence r = recurrence_of(m, w);
    if (w.lengths) r.step = step_rows;
    if (scanned) ad_scan(&r, m->last, m->output);
    else unroll(m, w);
    finish(m, w);
    ck_assert_msg(!ad_tape_error(m->tape), "%s", ad_tape_error(m->tape));
}

static void same(ad_var a, ad_var b, const char *what, int i)
{
    const double *x = ad_value_f64(a), *y = ad_value_f64(b);
    ck_assert_msg(x && y, "%s %d: %s %s", what, i, x ? "" : ad_tape_error(a.tape),
                  y ? "" : ad_tape_error(b.tape));
    ck_assert_int_eq(ad_size(a), ad_size(b));
    double largest = 1e-3;
    for (int64_t k = 0; k < ad_size(a); k++) largest = fmax(largest, fabs(y[k]));
    for (int64_t k = 0; k < ad_size(a); k++)
        ck_assert_msg(fabs(x[k] - y[k]) <= 1e-12 * largest, "%s %d, element %d: %.17g, not %.17g",
                      what, i, (int)k, x[k], y[k]);
}

static const how ways[] = { { 1, false, false, 0 },  { T, false, false, 0 },
                            { T, true, false, 0 },   { T, false, true, 0 },
                            { T, true, true, 0 },    { T, false, false, 440 },
                            { T, true, false, 440 }, { T, false, true, 440 },
                            { T, true, true, 440 } };
enum { WAYS = sizeof ways / sizeof *ways };

START_TEST(test_values)
{
    model a, b;
    record(&a, ways[_i], true, ROWS);
    record(&b, ways[_i], false, ROWS);
    for (int i = 0; i < 2 - ways[_i].lengths; i++) same(a.last[i], b.last[i], "last carry", i);
    for (int j = 0; j < 2; j++) same(a.output[j], b.output[j], "output", j);
    ad_tape_free(a.tape);
    ad_tape_free(b.tape);
}
END_TEST

/* Gradients, tangents, and all that follows: H v forward over reverse and reverse over reverse, and
 * third derivatives. */
static void derive(model *m, ad_var *all, int *n)
{
    ad_var g[OPERANDS], v[OPERANDS], h[OPERANDS], tangent;
    for (int i = 0; i < OPERANDS; i++) {
        ad_shape shape = ad_shape_of(m->x[i]);
        double *x = numbers(ad_count(shape, ROWS), 33 + (uint64_t)i);
        v[i] = ad_has_rows(shape) ? ad_input_rows(m->tape, shape, ROWS, x)
                                  : ad_input(m->tape, shape, x);
        free(x);
    }
    ad_grad(m->loss, OPERANDS, m->x, g);
    for (int i = 0; i < OPERANDS; i++) all[(*n)++] = g[i];
    ad_jvp(OPERANDS, m->x, v, 1, &m->loss, &tangent);
    all[(*n)++] = tangent;
    ad_grad(tangent, OPERANDS, m->x, h);
    for (int i = 0; i < OPERANDS; i++) all[(*n)++] = h[i];
    ad_jvp(OPERANDS, m->x, v, OPERANDS, g, h);
    for (int i = 0; i < OPERANDS; i++) all[(*n)++] = h[i];
    ad_var by[1] = { m->x[WEIGHT] }, third[1], dot = ad_sum_all(ad_mul(h[U], v[U]));
    ad_grad(dot, 1, by, third);
    all[(*n)++] = third[0];
}

START_TEST(test_derivatives)
{
    model m[2];
    ad_var all[2][64];
    int n[2] = { 0, 0 };
    for (int k = 0; k < 2; k++) {
        record(&m[k], ways[_i], k == 0, ROWS);
        derive(&m[k], all[k], &n[k]);
        ck_assert_msg(!ad_tape_error(m[k].tape), "%s", ad_tape_error(m[k].tape));
    }
    for (int i = 0; i < n[0]; i++) same(all[0][i], all[1][i], "derivative", i);
    for (int k = 0; k < 2; k++) ad_tape_free(m[k].tape);
}
END_TEST

/* ---- programs: rows, threads, memory ---- */

static void run(const model *m, int rows, int threads, double **result, const double *const *data)
{
    ad_var out[OPERANDS + 1] = { m->output[0] };
    ad_grad(m->loss, OPERANDS, m->x, out + 1);
    ad_program *p = ad_compile(OPERANDS, m->x, OPERANDS + 1, out);
    ck_assert_msg(p, "%s", ad_tape_error(m->tape));
    share_always(p);
    ad_workspace *w = ad_workspace_new(p, threads);
    ck_assert_msg(!ad_run(p, w, rows, (const void *const *)data, (void *const *)result), "%s",
                  ad_workspace_error(w));
    long before = allocations();
    int status = ad_run(p, w, rows, (const void *const *)data, (void *const *)result);
    long after = allocations(); /* before check, which allocates itself */
    ck_assert_int_eq(status, 0);
#ifndef ALLOCATIONS_NOT_COUNTED
    ck_assert_int_eq(after, before);
#else
    (void)before, (void)after;
#endif
    ad_workspace_free(w);
    ad_program_free(p);
}

START_TEST(test_rows_and_threads)
{
    enum { MANY = 150 };
    model m;
    how w = ways[1 + 4 * _i];
    record(&m, w, true, 1);
    double *data[OPERANDS], *first[OPERANDS + 1], *second[OPERANDS + 1], *alone[OPERANDS + 1];
    for (int i = 0; i < OPERANDS; i++)
        data[i] = numbers(ad_count(ad_shape_of(m.x[i]), MANY), 90 + (uint64_t)i);
    for (int i = 0; i <= OPERANDS; i++) {
        ad_shape shape = ad_shape_of(i ? m.x[i - 1] : m.output[0]);
        first[i] = calloc((size_t)ad_count(shape, MANY), sizeof(double));
        second[i] = calloc((size_t)ad_count(shape, MANY), sizeof(double));
        alone[i] = calloc((size_t)ad_count(shape, MANY), sizeof(double));
    }
    run(&m, MANY, 1, first, (const double *const *)data);
    run(&m, MANY, 2, second, (const double *const *)data);
    run(&m, 1, 1, alone, (const double *const *)data);
    for (int i = 0; i <= OPERANDS; i++) {
        ad_shape shape = ad_shape_of(i ? m.x[i - 1] : m.output[0]);
        size_t n = (size_t)ad_count(shape, MANY), one = (size_t)ad_count(shape, 1);
        ck_assert_msg(!memcmp(first[i], second[i], n * sizeof(double)), "threads: result %d", i);
        if (ad_has_rows(shape))
            ck_assert_msg(!memcmp(first[i], alone[i], one * sizeof(double)), "rows: result %d", i);
    }
    for (int i = 0; i < OPERANDS; i++) free(data[i]);
    for (int i = 0; i <= OPERANDS; i++) {
        free(first[i]);
        free(second[i]);
        free(alone[i]);
    }
    ad_tape_free(m.tape);
}
END_TEST

START_TEST(test_size_of_the_recording)
{
    int32_t size[2];
    for (int k = 0; k < 2; k++) {
        model m;
        ad_var g[OPERANDS];
        record(&m, (how){ k ? 1000 : 10, false, false, 0 }, true, 1);
        ad_grad(m.loss, OPERANDS, m.x, g);
        size[k] = ad_tape_mark(m.tape);
        ad_tape_free(m.tape);
    }
    ck_assert_int_eq(size[0], size[1]);
}
END_TEST

/* With a budget a run holds less: what a row keeps is bounded. */
START_TEST(test_bytes)
{
    size_t held[2];
    for (int k = 0; k < 2; k++) {
        model m;
        ad_var g[OPERANDS];
        record(&m, (how){ 60, false, false, k ? 1600 : 0 }, true, 1);
        ad_grad(m.loss, OPERANDS, m.x, g);
        ad_program *p = ad_compile(OPERANDS, m.x, 1, g + WEIGHT);
        held[k] = (size_t)ad_program_bytes_per_row(p);
        ad_program_free(p);
        ad_tape_free(m.tape);
    }
    ck_assert_msg(held[1] < held[0], "%zu %zu", held[1], held[0]);
}
END_TEST

/* ---- misuse ---- */

static ad_var outside;
static void keeps(const ad_scan_step *at, void *user)
{
    (void)user;
    at->next[0] = at->carry[0];
}
static void widens(const ad_scan_step *at, void *user)
{
    (void)user;
    at->next[0] = ad_concatenate(AD_VARS(at->carry[0], at->carry[0]), 1);
}
static void forgets(const ad_scan_step *at, void *user) { (void)at, (void)user; }
static void captures(const ad_scan_step *at, void *user)
{
    (void)user;
    at->next[0] = ad_mul(at->carry[0], outside);
}
static void returns_outside(const ad_scan_step *at, void *user)
{
    (void)user;
    at->next[0] = outside;
}
static void looks(const ad_scan_step *at, void *user)
{
    (void)user;
    at->next[0] = ad_item(ad_sum_all(at->carry[0])) > 0 ? at->carry[0] : ad_neg(at->carry[0]);
}

static void refused(void (*f)(const ad_scan_step *, void *), int64_t steps, int64_t n,
                    size_t row_bytes, const char *message)
{
    ad_tape *t = ad_tape_new(AD_F64);
    const double x[12] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
    ad_var c = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 1, x), last;
    ad_var u = ad_input(t, AD_SHAPE(n), x);
    outside = c;
    ad_recurrence r = { .step = f,
                        .steps = steps,
                        .ncarry = 1,
                        .ninput = 1,
                        .carry = &c,
                        .input = &u,
                        .row_bytes = row_bytes };
    ck_assert_int_eq(ad_scan(&r, &last, NULL), -1);
    ck_assert(!ad_valid(last));
    ck_assert_msg(strstr(ad_tape_error(t), message), "%s", ad_tape_error(t));
    ad_tape_free(t);
}

START_TEST(test_refused)
{
    refused(keeps, 4, 5, 0, "ad_scan: input 0 is [5], which is 5 steps, but steps = 4");
    refused(keeps, -1, 5, 0, "ad_scan: steps = -1 is negative");
    refused(widens, 5, 5, 0,
            "ad_scan: in the step: it gave [rows,4] for carry 0, which is [rows,2]; a carry must "
            "keep its shape");
    refused(forgets, 5, 5, 0, "ad_scan: in the step: it gave no carry 0");
    refused(captures, 5, 5, 0, "must get outside variables as arguments");
    refused(returns_outside, 5, 5, 0, "outside variables must be passed as arguments (arg)");
    refused(looks, 5, 5, 0, "cannot look at values");
    refused(keeps, 5, 5, 17, "row_bytes = 17, but a row of 5 steps keeps at least");
    refused(NULL, 5, 5, 0, "step is NULL");
}
END_TEST

START_TEST(test_no_steps)
{
    ad_tape *t = ad_tape_new(AD_F64);
    const double x[2] = { 1, 2 };
    ad_var c = ad_input(t, AD_SHAPE(2), x), last, output;
    ad_recurrence r = { .step = keeps, .ncarry = 1, .carry = &c };
    ck_assert_int_eq(ad_scan(&r, &last, NULL), 0);
    ck_assert(ad_value_f64(last)[1] == 2);
    r.noutput = 1;
    ck_assert_int_eq(ad_scan(&r, &last, &output), -1);
    ck_assert(strstr(ad_tape_error(t), "without a step there are no outputs"));
    ad_tape_free(t);
}
END_TEST

START_TEST(test_bad_lengths)
{
    const double bad[] = { -1, 6, 2.5, NAN };
    ad_tape *t = ad_tape_new(AD_F64);
    const double x[6] = { 1, 2, 3, 4, 5, 6 };
    double length[3] = { 0, 5, bad[_i] };
    ad_var c = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 3, x), last;
    ad_recurrence r = { .step = keeps,
                        .steps = 5,
                        .ncarry = 1,
                        .carry = &c,
                        .lengths = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 3, length) };
    ck_assert_int_eq(ad_scan(&r, &last, NULL), 0);
    ck_assert(!ad_value_f64(last));
    ck_assert_msg(strstr(ad_tape_error(t), "ad_scan: the length of row 2 (from 0) is "), "%s",
                  ad_tape_error(t));
    ck_assert(strstr(ad_tape_error(t), "a whole number from 0 to 5, the number of steps"));
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("scan", "scan");
    tcase_add_loop_test(tests, test_values, 0, WAYS);
    tcase_add_loop_test(tests, test_derivatives, 0, WAYS);
    tcase_add_loop_test(tests, test_rows_and_threads, 0, 2);
    tcase_add_test(tests, test_size_of_the_recording);
    tcase_add_test(tests, test_bytes);
    tcase_add_test(tests, test_refused);
    tcase_add_test(tests, test_no_steps);
    tcase_add_loop_test(tests, test_bad_lengths, 0, 4);
    return suite_run();
}
