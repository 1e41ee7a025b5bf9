/* The tape and what surrounds it: lazy values, marks, errors and their texts, misuse of every
 * operation, opaque operations, functions recorded again elsewhere, derivatives at special points,
 * and the limits of shapes. */
#include "autodiff/tape/tape.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What opaque operations of these tests keep account of. */
typedef struct {
    int references, runs, states;
    int64_t rows;
    bool fails;
} account;

static ad_tape *t;
static account book;
static const double numbers[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };

static void setup(void)
{
    book = (account){ 0 };
    t = ad_tape_new(AD_F64);
}
static void teardown(void) { ad_tape_free(t); }

static ad_var param(int64_t n) { return ad_param(t, AD_SHAPE(n), numbers); }
static ad_var matrix(int64_t n, int64_t m) { return ad_param(t, AD_SHAPE(n, m), numbers); }
static ad_var rows(int64_t d) { return ad_input_rows(t, AD_SHAPE(AD_ROWS, d), 2, numbers); }
static ad_var number(double v) { return ad_param(t, AD_SCALAR, &v); }

static void fails_on(ad_tape *tape, const char *text)
{
    const char *error = ad_tape_error(tape);
    ck_assert_msg(error != NULL, "no error, but wanted \"%s\"", text);
    ck_assert_msg(strstr(error, text) != NULL, "the error is \"%s\", but wanted \"%s\"", error,
                  text);
    ad_tape_clear_error(tape);
}
static void fails(const char *text) { fails_on(t, text); }
static void fine(void) { ck_assert_msg(!ad_tape_error(t), "%s", ad_tape_error(t)); }

static void is(ad_var x, double want)
{
    double got = ad_item(x);
    fine();
    ck_assert_msg(got == want || (isnan(got) && isnan(want)) ||
                      fabs(got - want) <= 1e-13 * fabs(want),
                  "got %.17g, want %.17g", got, want);
}

static ad_var gradient(ad_var y, ad_var x)
{
    ad_var g;
    ad_grad(y, 1, &x, &g);
    return g;
}

/* ---- opaque operations of these tests ---- */

static void account_retain(void *data) { ((account *)data)->references++; }
static void account_release(void *data) { ((account *)data)->references--; }
typedef struct {
    account *of;
    int runs;
} memory;
static void *memory_new(void *data)
{
    memory *m = calloc(1, sizeof *m);
    if (m) {
        m->of = data;
        m->of->states++;
    }
    return m;
}
static void memory_free(void *state)
{
    ((memory *)state)->of->states--;
    free(state);
}

static double at(const ad_opaque_call *c, int i, int64_t k)
{
    return c->dtype == AD_F32 ? ((const float *)c->in[i])[k] : ((const double *)c->in[i])[k];
}
static void put(const ad_opaque_call *c, int j, int64_t k, double v)
{
    if (c->dtype == AD_F32) ((float *)c->out[j])[k] = (float)v;
    else ((double *)c->out[j])[k] = v;
}

/* [R?,2] -> x, 2 x, 3 x of the same shape. */
static int triple_forward(void *data, void *state, const ad_opaque_call *c)
{
    account *a = data;
    a->runs++;
    a->rows = c->rows;
    if (state) ((memory *)state)->runs++;
    if (a->fails) {
        snprintf(c->error, c->error_size, "asked to fail");
        return -1;
    }
    int64_t n = 2 * (c->rows ? c->rows : 1);
    for (int j = 0; j < 3; j++)
        for (int64_t k = 0; k < n && c->out[j]; k++) put(c, j, k, (j + 1) * at(c, 0, k));
    return 0;
}
/* The tangents of the second and third result are left absent: zero. */
static void triple_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                       int nout, const ad_var *out, ad_var *ydot)
{
    (void)data, (void)token, (void)nin, (void)in, (void)nout, (void)out;
    ydot[0] = xdot[0];
}
/* Reads the number of runs in the other's state, by the token. */
static int peek_forward(void *data, void *state, const ad_opaque_call *c)
{
    (void)data, (void)state;
    put(c, 0, 0, c->in_state[0] ? ((const memory *)c->in_state[0])->runs : -1);
    return c->in[0] != NULL;
}
static const ad_opaque_class peek = { .name = "peek", .forward = peek_forward };
/* The vjp is opaque again, and that one has no rule. */
static void triple_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar);
static const ad_opaque_class triple = { .name = "triple",
                                        .forward = triple_forward,
                                        .state_new = memory_new,
                                        .state_free = memory_free,
                                        .retain = account_retain,
                                        .release = account_release,
                                        .vjp = triple_vjp,
                                        .jvp = triple_jvp };
static const ad_opaque_class ruleless = { .name = "ruleless",
                                          .forward = triple_forward,
                                          .retain = account_retain,
                                          .release = account_release };
static void triple_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)token, (void)nin, (void)nout, (void)out;
    ck_assert(need[0]);
    ad_var bar = ad_none(in[0].tape), o[3];
    for (int j = 0; j < 3; j++)
        if (ybar[j].node >= 0) {
            ad_var v = ad_scale(ybar[j], j + 1);
            bar = bar.node < 0 ? v : ad_add(bar, v);
        }
    account_retain(data);
    ad_var x = ad_mul(bar, ad_div(in[0], in[0]));
    ad_opaque(x.tape, &ruleless, data, 1, &x, 3,
              (ad_shape[]){ ad_shape_of(x), ad_shape_of(x), ad_shape_of(x) }, o);
    xbar[0] = o[0];
}

static ad_var opaque(account *a, const ad_opaque_class *class_, ad_var x, ad_var *out)
{
    ad_shape s = ad_shape_of(x);
    a->references++;
    return ad_opaque(x.tape, class_, a, 1, &x, 3, (ad_shape[]){ s, s, s }, out);
}

/* ---- values ---- */

START_TEST(values_are_lazy)
{
    ad_var x = param(2), o[3], p[3];
    opaque(&book, &triple, x, o);
    opaque(&book, &ruleless, x, p);
    ad_var y = ad_add(o[0], o[2]), z = ad_square(x);
    is(ad_sum_all(z), 5);
    ck_assert_int_eq(book.runs, 0);
    is(ad_sum_all(y), 12);
    is(ad_sum_all(o[1]), 6);
    ck_assert_int_eq(book.runs, 1);
    ck_assert_int_eq(ad_set(x, 0, numbers + 1), 0);
    ck_assert_int_eq(book.runs, 1);
    is(ad_sum_all(y), 20);
    ck_assert_int_eq(book.runs, 2);
    ck_assert_int_eq(book.rows, 0);
    /* the value stands while nothing is set */
    const double *v = ad_value(y);
    ad_exp(y);
    ck_assert_ptr_eq(v, ad_value(y));
    teardown();
    ck_assert_int_eq(book.references, 0);
    ck_assert_int_eq(book.states, 0);
    setup();
}
END_TEST

static char *printed(ad_var x)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    ad_print(file, "x", x);
    fclose(file);
    return text;
}

static void prints(ad_var x, const char *want)
{
    char *text = printed(x);
    ck_assert_str_eq(text, want);
    free(text);
}

START_TEST(printing)
{
    prints(number(0.5), "x [] 0.5\n");
    prints(param(3), "x [3] 1 2 3\n");
    prints(matrix(2, 2), "x [2,2]\n  1 2\n  3 4\n");
    prints(rows(2), "x [rows,2]\n  1 2\n  3 4\n");
    char *text = printed(ad_fill(t, AD_SHAPE(2000), 1));
    ck_assert(strstr(text, "2000 elements") && strlen(text) < 4000);
    free(text);
    prints(ad_sin(ad_input(t, AD_SHAPE(2), NULL)),
           "x [2]: no value here: an input was recorded without data\n");
    fine();
    prints(ad_none(NULL), "x: not a variable\n");
    ad_tape *narrow = ad_tape_new(AD_F32);
    prints(ad_scale(ad_param(narrow, AD_SHAPE(2), (float[]){ 1.5f, 2 }), 2), "x [2] 3 4\n");
    ck_assert_int_eq(ad_tape_dtype(narrow), AD_F32);
    ad_tape_free(narrow);
    char shape[128];
    ad_format_shape(AD_SHAPE(AD_ROWS, 64), shape, sizeof shape);
    ck_assert_str_eq(shape, "[rows,64]");
    ad_format_shape(AD_SHAPE(AD_ROWS, 64), shape, 4);
    ck_assert_str_eq(shape, "[ro");
}
END_TEST

START_TEST(single_elements)
{
    ck_assert(isnan(ad_item(param(2))));
    fails("ad_item: the variable is not one number");
    ck_assert(isnan(ad_item(rows(1))));
    fails("ad_item");
    is(ad_reshape(param(1), AD_SHAPE(1, 1, 1)), 1);
    ck_assert_int_eq(ad_size(rows(3)), 6);
    ck_assert_int_eq(ad_size(ad_none(t)), -1);
    ck_assert_int_eq(ad_shape_of(ad_none(t)).rank, -1);
    is(ad_row_count(t), 2);
}
END_TEST

/* ---- marks ---- */

START_TEST(rewinding)
{
    ad_var x = param(3), y = ad_square(x);
    int32_t mark = ad_tape_mark(t);
    ad_var o[3], z = ad_exp(y), w = ad_constant(t, AD_SHAPE(12), numbers);
    opaque(&book, &triple, param(2), o);
    is(ad_sum_all(o[0]), 3);
    ad_tape_rewind(t, mark);
    ck_assert_int_eq(book.references, 0);
    ck_assert_int_eq(book.states, 0);
    ck_assert(ad_valid(y) && !ad_valid(z) && !ad_valid(w));
    for (int i = 0; i < 4; i++) {
        ad_var again = ad_sin(x); /* takes the place of z */
        ck_assert(ad_valid(again) && !ad_valid(z));
        ad_add(y, z);
        fails("ad_add: operand 1 is stale");
        ad_tape_rewind(t, mark);
    }
    ad_value(z);
    fails("ad_value: operand 0 is stale");
    is(ad_sum_all(y), 14);
    ad_tape_rewind(t, 12345);
    fails("mark 12345");
    ad_tape_rewind(t, -1);
    fails("mark -1");
    ad_tape_rewind(t, 0);
    ck_assert(!ad_valid(x));
    ck_assert_int_eq(ad_tape_mark(t), 0);
}
END_TEST

/* What was computed for another number of rows is forgotten with the rows. */
START_TEST(rewinding_rows)
{
    ad_var ones = ad_square(ad_fill(t, AD_SHAPE(AD_ROWS, 4), 1)), b = ad_row_count(t);
    int32_t mark = ad_tape_mark(t);
    double many[400] = { 0 };
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 2, numbers);
    is(ad_sum_all(ones), 8);
    is(b, 2);
    ad_tape_rewind(t, mark);
    ck_assert_int_eq(ad_tape_rows(t), -1);
    ad_value(ones);
    fails("the number of rows is not known");
    ad_value(b);
    fails("the number of rows is not known");
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 100, many);
    is(ad_sum_all(ones), 400);
    is(b, 100);
    ad_tape_rewind(t, mark);
    ad_var early = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, NULL);
    mark = ad_tape_mark(t);
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 3, numbers);
    ck_assert_int_eq(ad_set(early, 3, numbers), 0);
    ad_tape_rewind(t, mark);
    is(ad_sum_all(early), 21);
}
END_TEST

/* ---- inputs ---- */

START_TEST(setting)
{
    ad_var x = param(2), r = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, NULL),
           q = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var y = ad_sum_all(ad_mul(ad_add(r, q), x));
    ck_assert_int_eq(ad_tape_rows(t), -1);
    ad_value(y);
    fails("an input has no value");
    ck_assert_int_eq(ad_set(r, 2, numbers), 0);
    ck_assert_int_eq(ad_tape_rows(t), 2);
    ad_value(y);
    fails("an input has no value");
    ck_assert_int_eq(ad_set(q, 3, numbers), 0);
    ad_value(y);
    fails("a row input has 2 rows, the latest data 3");
    ck_assert_int_eq(ad_set(r, 3, numbers), 0);
    is(y, 51); /* sum_bk (r[b,k] + q[b]) x[k] */
    ck_assert_int_eq(ad_set(r, 0, numbers), -1);
    fails("ad_set: the batch is empty (rows = 0)");
    ck_assert_int_eq(ad_set(r, -4, numbers), -1);
    fails("ad_set: the batch is empty (rows = -4)");
    ck_assert_int_eq(ad_set(r, INT64_MAX / 2, numbers), -1);
    fails("rows are too many");
    ck_assert_int_eq(ad_set(y, 1, numbers), -1);
    fails("ad_set: the variable is the result of ad_reshape; only inputs can be set");
    ck_assert_int_eq(ad_set(x, 1, NULL), -1);
    fails("ad_set: no data (NULL)");
    ck_assert_int_eq(ad_set(ad_scalar(t, 1), 1, numbers), -1);
    fails("ad_fill");
    ck_assert_int_eq(ad_set(ad_none(NULL), 1, numbers), -1);
    fine();
    ad_set(r, 3, numbers);
    ad_get(y, (double[1]){ 0 });
    fine();
}
END_TEST

START_TEST(sources_misused)
{
    ad_param(t, AD_SHAPE(3, 0), numbers);
    fails("ad_param: size 0 of axis 1 is not positive in [3,0]");
    ad_param(t, AD_SHAPE(AD_ROWS, 3), numbers);
    fails("ad_param: [rows,3] has the row axis, which ad_input_rows declares");
    ad_input(t, AD_SHAPE(3, AD_ROWS), numbers);
    fails("ad_input: size -1 of axis 1 is not positive in [3,rows] (AD_ROWS stands first, or "
          "nowhere)");
    ad_input_rows(t, AD_SHAPE(3, 2), 3, numbers);
    fails("ad_input_rows: the shape must begin with AD_ROWS, it is [3,2]");
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 0, numbers);
    fails("ad_input_rows: the batch is empty");
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), (int64_t)1 << 62, numbers);
    fails("ad_input_rows: 4611686018427387904 rows are too many");
    rows(2);
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 3, numbers);
    fails("ad_input_rows: 3 rows, but the other row inputs of this tape have 2");
    ad_constant(t, AD_SHAPE(AD_ROWS), numbers);
    fails("ad_constant: [rows] has the row axis");
    ad_constant(t, AD_SHAPE(2), NULL);
    fails("ad_constant: no data (NULL)");
    ad_fill(t, (ad_shape){ 9, { 1 } }, 0);
    fails("ad_fill: rank 9 is not between 0 and 8");
    ad_fill(t, (ad_shape){ -2, { 1 } }, 0);
    fails("ad_fill: rank -2");
    ad_fill(t, AD_SHAPE((int64_t)1 << 40, (int64_t)1 << 40), 0);
    fails("ad_fill: [1099511627776,1099511627776] has too many elements");
    ad_eye(t, 0, 2, 0);
    fails("ad_eye");
    is(ad_sum_all(ad_eye(t, 2, 3, INT64_MAX)), 0);
    is(ad_sum_all(ad_eye(t, 2, 3, INT64_MIN)), 0);
    is(ad_sum_all(
           ad_contract("ij,jk->ik", 2, (ad_var[]){ ad_eye(t, 2, 3, 3), ad_eye(t, 3, 2, -3) })),
       0);
    ck_assert_ptr_null(ad_constant_elements(param(2)));
    ck_assert_double_eq(ad_constant_elements(ad_scalar(t, 3))[0], 3);
    ck_assert(!ad_valid(ad_param(NULL, AD_SHAPE(1), numbers)) && !ad_valid(ad_scalar(NULL, 1)) &&
              !ad_valid(ad_row_count(NULL)));
    ck_assert_ptr_nonnull(ad_tape_error(NULL));
    ad_tape_free(NULL);
}
END_TEST

START_TEST(traced)
{
    ad_var x = ad_input(t, AD_SCALAR, NULL), p = param(1);
    ad_tape_set_traced(t, "set .record_always");
    is(ad_exp(ad_scale(p, 0)), 1);
    ck_assert(isnan(ad_item(ad_exp(x))));
    fails("no value here: set .record_always");
    ad_tape_set_traced(t, "other advice");
    ad_value(x);
    fails("other advice");
}
END_TEST

/* ---- errors ---- */

START_TEST(errors_stick)
{
    ad_var a = matrix(2, 3), b = param(4), bad = ad_add(a, b);
    ck_assert(!ad_valid(bad) && !ad_valid(a));
    const char *first = ad_tape_error(t);
    ck_assert_str_eq(first, "ad_add: shapes do not broadcast: a is [2,3], b is [4]");
    /* everything is harmless now */
    ad_var g, list[2] = { bad, a };
    ad_matmul(bad, a);
    ad_grad(bad, 1, &a, &g);
    ad_vjp(1, &a, &bad, 1, &b, &g);
    ad_jvp(1, &a, &bad, 1, &b, &g);
    ad_jacobian(a, bad);
    ad_jacobian_trace(bad, bad);
    ad_concatenate(2, list, 0);
    ad_stack(2, list, 0);
    ad_contract("ij,ij->", 2, list);
    ad_reshape(bad, AD_SHAPE(1));
    ad_sum_all(bad);
    ad_logsumexp(bad, 0, NULL, false);
    ad_scale(bad, 2);
    ad_pow_scalar(bad, 2);
    ad_take(a, bad);
    ad_hvp(bad, a, b);
    ad_fill(t, AD_SHAPE(-4), 1);
    ad_param(t, AD_SHAPE(2), numbers);
    ck_assert(!ad_value(a) && isnan(ad_item(a)) && ad_get(a, &(double){ 0 }) == -1 &&
              ad_set(a, 1, numbers) == -1);
    ck_assert_ptr_null(ad_compile(1, &a, 1, &bad));
    ck_assert_int_eq(ad_frontier(1, &bad, 0, NULL), -1);
    size_t length;
    ck_assert_ptr_null(ad_function_key(1, &a, 1, &bad, &length));
    ck_assert(!ad_depends(bad, a) && !ad_constant_elements(bad));
    ck_assert_str_eq(ad_tape_error(t), "ad_add: shapes do not broadcast: a is [2,3], b is [4]");
    ad_tape_clear_error(t);
    fine();
    ck_assert(ad_valid(a));
    is(ad_sum_all(a), 21);
    ad_exp(bad);
    fails("ad_exp: operand 0 is an invalid variable");
    ad_add(a, ad_none(NULL));
    fails("ad_add: operand 1 is not a variable");
    ck_assert(!ad_valid(ad_exp(ad_none(NULL))) && !ad_valid(ad_stack(0, NULL, 0)) &&
              !ad_valid(ad_concatenate(0, NULL, 0)));
}
END_TEST

START_TEST(tapes_do_not_mix)
{
    ad_tape *other = ad_tape_new(AD_F64);
    ad_var x = param(2), y = ad_param(other, AD_SHAPE(2), numbers), g;
    ad_mul(x, y);
    fails("ad_mul: operand 1 is on another tape");
    fails_on(other, "ad_mul: mixes variables of this tape with those of another");
    ad_var s = ad_sum(x, 0, NULL, true), bar = ad_param(other, AD_SHAPE(1), numbers);
    ad_vjp(1, &s, &bar, 1, &x, &g);
    fails("ad_vjp: operand 1 is on another tape");
    fails_on(other, "ad_vjp");
    ck_assert(!ad_valid(g));
    ad_grad(ad_sum_all(x), 1, &y, &g);
    ck_assert(ad_tape_error(t) || ad_tape_error(other) || !ad_valid(g));
    ad_tape_clear_error(t);
    ad_tape_clear_error(other);
    ad_jvp(1, &x, &y, 1, &s, &g);
    ck_assert(!ad_valid(g));
    ad_tape_clear_error(t);
    ad_tape_clear_error(other);
    ad_jacobian(x, y);
    fails("ad_jacobian: operand 1 is on another tape");
    ck_assert(!ad_depends(x, y));
    ad_tape_free(other);
}
END_TEST

/* ---- wrong shapes ---- */

START_TEST(pointwise_misused)
{
    ad_var a = matrix(2, 3), b = param(4), r = rows(3), n = ad_none(t);
    (void)n;
#define AD_BINARY(name, ...)                                                                       \
    ad_##name(a, b);                                                                               \
    fails("ad_" #name ": shapes do not broadcast: a is [2,3], b is [4]");                          \
    ad_##name(r, a);                                                                               \
    fails("ad_" #name ": shapes do not broadcast (the row axis leads in operands of equal rank): " \
          "a is [rows,3], b is [2,3]");                                                            \
    ad_##name(r, ad_fill(t, AD_SHAPE(5, 1, 3), 1));                                                \
    fails("ad_" #name ": shapes do not broadcast (the row axis");
#define AD_TERNARY(name, ...)                                                                      \
    ad_##name(a, a, b);                                                                            \
    fails("ad_" #name ": shapes do not broadcast: a is [2,3], b is [2,3], c is [4]");
#define AD_UNARY(name, ...)                                                                        \
    ad_##name(n);                                                                                  \
    fails("ad_" #name ": operand 0 is an invalid variable");
#define AD_CODED(...)
#include "autodiff/ops.def"
}
END_TEST

START_TEST(axes_misused)
{
    ad_var a = matrix(2, 3), r = rows(3);
    int axis = 2;
    const int64_t index[] = { 0, 1 }, outside[] = { 0, 3 };
#define BAD_AXIS(name, call)                                                                       \
    call, fails("ad_" name ": axis 2 is out of range for rank 2: the operand is [2,3]");
    BAD_AXIS("sum", ad_sum(a, 1, &axis, false))
    BAD_AXIS("mean", ad_mean(a, 1, &axis, false))
    BAD_AXIS("reduce_max", ad_reduce_max(a, 1, &axis, false))
    BAD_AXIS("logsumexp", ad_logsumexp(a, 1, &axis, false))
    BAD_AXIS("sum", ad_sum_axis(a, axis, false))
    BAD_AXIS("slice", ad_slice(a, axis, 0, 1))
    BAD_AXIS("pad", ad_pad(a, axis, 0, 1))
    BAD_AXIS("concatenate", ad_concatenate(1, &a, axis))
    BAD_AXIS("flip", ad_flip(a, axis))
    BAD_AXIS("gather", ad_gather(a, axis, 2, index))
    BAD_AXIS("scatter_add", ad_scatter_add(a, axis, 2, index))
    BAD_AXIS("cumsum", ad_cumsum(a, axis, false))
    ad_flip(a, -3);
    fails("ad_flip: axis -3 is out of range");
#define ON_ROWS(name, call)                                                                        \
    call, fails("ad_" name                                                                         \
                ": axis 0 is the row axis, whose length is known only when the program runs");
    ON_ROWS("slice", ad_slice(r, 0, 0, 1))
    ON_ROWS("pad", ad_pad(r, -2, 0, 1))
    ON_ROWS("flip", ad_flip(r, 0))
    ON_ROWS("gather", ad_gather(r, 0, 2, index))
    ON_ROWS("scatter_add", ad_scatter_add(r, 0, 2, index))
    ON_ROWS("cumsum", ad_cumsum(r, 0, false))
    ON_ROWS("concatenate", ad_concatenate(2, (ad_var[]){ r, r }, 0))
    ad_gather(a, 1, 2, outside);
    fails("ad_gather: index 3 at place 1 is not in 0..2: the operand is [2,3]");
    ad_gather(a, 1, 1, (int64_t[]){ -1 });
    fails("ad_gather: index -1 at place 0");
    ad_gather(a, 1, 0, index);
    fails("ad_gather: the list of indices is empty");
    ad_scatter_add(a, 0, 3, outside);
    fails("ad_scatter_add: index 3 at place 1 is not in 0..2");
    ad_scatter_add(a, 0, 0, index);
    fails("ad_scatter_add: the size of the result's axis is not positive");
}
END_TEST

START_TEST(layout_misused)
{
    ad_var a = matrix(2, 3), b = param(2), r = rows(3), one = ad_fill(t, AD_SHAPE(1), 1);
    ad_reshape(a, AD_SHAPE(4, 2));
    fails("ad_reshape: [4,2] has another number of elements: the operand is [2,3]");
    ad_reshape(r, AD_SHAPE(6));
    fails("ad_reshape: [6] has another row axis (it must stay first): the operand is [rows,3]");
    ad_reshape(a, AD_SHAPE(AD_ROWS, 6));
    fails("another row axis");
    ad_reshape(a, AD_SHAPE(-2, -3));
    fails("ad_reshape: size -2 of axis 0 is not positive in [-2,-3]");
    ad_reshape(a, AD_SHAPE(6, AD_ROWS, AD_ROWS));
    fails("ad_reshape: size -1 of axis 1");
    ad_reshape(a, (ad_shape){ 1000, { 6 } });
    fails("ad_reshape: rank 1000");
    ad_broadcast(a, AD_SHAPE(4, 3));
    fails("ad_broadcast: does not broadcast to [4,3]: the operand is [2,3]");
    ad_broadcast(a, AD_SHAPE(3));
    fails("ad_broadcast: does not broadcast to [3]");
    ad_broadcast(r, AD_SHAPE(2, 3));
    fails("ad_broadcast: does not broadcast to [2,3]: the operand is [rows,3]");
    ad_broadcast(one, AD_SHAPE(-5));
    fails("ad_broadcast: size -5 of axis 0");
    ad_broadcast(one, AD_SHAPE(2, AD_ROWS));
    fails("ad_broadcast: size -1 of axis 1");
    ad_broadcast(one, (ad_shape){ 1000, { 1 } });
    fails("ad_broadcast: rank 1000");
    ad_transpose(a, (int[]){ 0, 0 });
    fails("ad_transpose: the permutation does not name each axis once: the operand is [2,3]");
    ad_transpose(a, (int[]){ 1, 2 });
    fails("ad_transpose");
    ad_transpose(r, (int[]){ 1, 0 });
    fails("ad_transpose: the row axis must stay first: the operand is [rows,3]");
    ad_slice(a, 1, 2, 2);
    fails("ad_slice: 2:2 is not a range within axis 1: the operand is [2,3]");
    ad_slice(a, 1, 0, 4);
    fails("ad_slice: 0:4");
    ad_slice(a, 1, -1, 2);
    fails("ad_slice: -1:2");
    ad_pad(a, 1, -1, 2);
    fails("ad_pad: the padding is negative (ad_slice cuts)");
    ad_pad(a, 1, INT64_MAX, INT64_MAX);
    fails("ad_pad: [2,9223372036854775807] has too many elements");
    ad_concatenate(2, (ad_var[]){ a, b }, 0);
    fails("ad_concatenate: shapes differ beside the axis: a is [2,3], b is [2]");
    ad_concatenate(2, (ad_var[]){ a, ad_transpose(a, (int[]){ 1, 0 }) }, 0);
    fails("ad_concatenate: shapes differ beside the axis: a is [2,3], b is [3,2]");
    ad_stack(2, (ad_var[]){ a, b }, 0);
    fails("ad_stack: the shapes differ: a is [2,3], b is [2]");
    ad_stack(2, (ad_var[]){ ad_fill(t, AD_SHAPE(1, 3), 1), r }, 0);
    fails("ad_stack: the new axis is out of range, or before the row axis");
    is(ad_sum_all(
           ad_stack(2, (ad_var[]){ ad_fill(t, AD_SHAPE(1, 3), 0), ad_mul(r, ad_scalar(t, 0)) }, 1)),
       0);
    ad_sum(a, -1, (int[]){ 0 }, false);
    fails("ad_sum: the number of axes is negative: the operand is [2,3]");
    ad_stack(2, (ad_var[]){ a, a }, 3);
    fails("ad_stack: the new axis is out of range");
    ad_stack(2, (ad_var[]){ r, r }, 0);
    fails("ad_stack: the new axis is out of range, or before the row axis");
    ad_var eight = ad_fill(t, AD_SHAPE(1, 1, 1, 1, 1, 1, 1, 2), 1);
    ad_stack(2, (ad_var[]){ eight, eight }, 0);
    fails("ad_stack");
    ad_take(number(1), b);
    fails("ad_take: the table must be [K,...] or [rows,K,...] and the index [m] or [rows,m], of 8 "
          "axes in all: a is [], b is [2]");
    ad_take(eight, b);
    ad_take(eight, a);
    fails("ad_take");
    ad_take(ad_input_rows(t, AD_SHAPE(AD_ROWS), 2, numbers), one);
    fails("ad_take");
    ad_locate(b, a);
    fails("ad_locate: the knots must be [K], K >= 2: a is [2], b is [2,3]");
    ad_locate(b, one);
    fails("ad_locate");
}
END_TEST

START_TEST(contractions_misused)
{
    ad_var a = matrix(2, 3), b = matrix(3, 4), v = param(4), r = rows(3), many[17];
    for (int i = 0; i < 17; i++) many[i] = ad_fill(t, AD_SHAPE(2, 2), 1);
    static const struct {
        const char *spec, *problem;
    } bad[] = {
        { "ij,jk", "-> and the letters of the result are missing" },
        { "ij,jk-", "-> and the letters of the result are missing" },
        { "ij,jk-ik", "-> and the letters of the result are missing" },
        { "", "the operands named are not those given" },
        { "->", "the operands named are not those given" },
        { "ij->ij", "the operands named are not those given" },
        { "ij,j->i", "the operands named are not those given" },
        { "ij,jk,k->i", "more operands are named than given" },
        { "ij,jk,->i", "more operands are named than given" },
        { "i,jk->i", "an operand has another number of axes than letters" },
        { "ijk,jk->i", "an operand has another number of axes than letters" },
        { "ij,jkl->i", "an operand has another number of axes than letters" },
        { "ij,ik->jk", "a letter stands for axes of different sizes" },
        { "ii,jk->jk", "a letter stands for axes of different sizes" },
        { "i1,jk->i", "letters, commas and one -> are expected" },
        { "i\xe9,jk->i", "letters, commas and one -> are expected" },
        { "ij,jk->il", "a letter of the result is in no operand" },
        { "ij,jk->i k->", "a letter of the result is in no operand" },
        { "ij,jk->\xe9", "a letter of the result is in no operand" },
        { "ij,jk->ii", "a letter stands twice in the result" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        snprintf(text, sizeof text, "ad_contract: \"%s\": %s: a is [2,3], b is [3,4]", bad[i].spec,
                 bad[i].problem);
        ad_contract(bad[i].spec, 2, (ad_var[]){ a, b });
        fails(text);
    }
    ad_contract("ab->a", 17, many);
    fails("too many operands");
    ad_contract("ab,cd,ef,gh,ij->abcdefghi", 5, many);
    fails("the result has too many axes");
    ad_contract("bi,ij->jb", 2, (ad_var[]){ r, b });
    fails("the row axis must be the first of the result");
    ck_assert(!ad_valid(ad_contract("->", 0, NULL)));
    fine();
    ad_matmul(a, a);
    fails("ad_matmul: inner sizes differ: a is [2,3], b is [2,3]");
    ad_matmul(number(1), a);
    fails("ad_matmul: a needs at least one axis and b two: a is [], b is [2,3]");
    ad_matmul(a, v);
    fails("ad_matmul: a needs at least one axis and b two");
    ad_matmul(ad_fill(t, AD_SHAPE(2, 5, 3), 1), ad_fill(t, AD_SHAPE(3, 3, 4), 1));
    fails("ad_matmul: batch axes differ");
    ad_matmul(a, ad_fill(t, AD_SHAPE(2, 3, 4), 1));
    fails("ad_matmul: batched operands need the same number of axes");
    ad_dot(a, b);
    fails(
        "ad_dot: the operands need the same shape with at least one axis: a is [2,3], b is [3,4]");
    ad_dot(number(1), number(2));
    fails("ad_dot");
    ad_outer(a, v);
    fails("ad_outer: the operands must be [n] and [m], or [rows,n] and [rows,m]: a is [2,3], b is "
          "[4]");
    ad_outer(r, v);
    fails("ad_outer");
}
END_TEST

START_TEST(contractions_at_the_limits)
{
    ad_var chain[16], m = ad_fill(t, AD_SHAPE(3, 50), 1), n = ad_fill(t, AD_SHAPE(50, 3), 1),
                      eight = ad_fill(t, AD_SHAPE(2, 2, 2, 2, 2, 2, 2, 2), 1);
    for (int i = 0; i < 16; i++) chain[i] = ad_fill(t, AD_SHAPE(2, 2), 1);
    is(ad_sum_all(ad_contract("ab,bc,cd,de,ef,fg,gh,hi,ij,jk,kl,lm,mn,no,op,pq->aq", 16, chain)),
       131072);
    is(ad_sum_all(ad_contract("ax,by,cz,dw,xe,yf,zg,wh->abcdefgh", 8,
                              (ad_var[]){ m, m, m, m, n, n, n, n })),
       6561 * pow(50, 4));
    is(ad_sum_all(ad_contract("abcdefgh,ijklmnop,abcdefgh,ijklmnop->ai", 4,
                              (ad_var[]){ eight, eight, eight, eight })),
       65536);
    is(ad_contract(" a b , a -> ", 2, (ad_var[]){ matrix(2, 2), param(2) }), 1 + 2 + 2 * (3 + 4));
    /* not every order has intermediate results of eight axes at most */
    for (int i = 0; i < 12; i++) chain[i] = ad_fill(t, AD_SHAPE(1, 1, 1, 1, 1), 2);
    is(ad_contract("abcde,fghij,abcde,fghij->", 4, chain), 16);
    is(ad_contract("abcde,fghij,klmno,abcde,fghij,klmno,abcde,fghij,klmno,abcde,fghij,klmno->", 12,
                   chain),
       4096);
    ck_assert(!ad_valid(ad_contract("abcghimn,abcjklop,defghiop,defjklmn->", 4,
                                    (ad_var[]){ eight, eight, eight, eight })));
    fails("no order was found whose intermediate results have at most 8 axes");
    /* rows by rows are no array, however cheap they would be */
    rows(1);
    ad_var wide = ad_fill(t, AD_SHAPE(AD_ROWS, 400), 1);
    is(ad_sum_all(ad_contract("bi,ci,cj->bj", 3, (ad_var[]){ wide, wide, wide })),
       2. * 2 * 400 * 400);
    /* diagonals, of identities too */
    is(ad_contract("ii->", 1, (ad_var[]){ matrix(2, 2) }), 5);
    is(ad_contract("ab,bb->", 2, (ad_var[]){ ad_eye(t, 3, 3, 0), ad_eye(t, 3, 3, 1) }), 0);
    is(ad_contract("ab,bb->", 2, (ad_var[]){ ad_eye(t, 3, 3, 0), ad_eye(t, 3, 3, 0) }), 3);
    ad_var big = ad_fill(t, AD_SHAPE((int64_t)1 << 40), 1);
    ad_outer(big, big);
    fails("has too many elements");
    ad_add(ad_reshape(big, AD_SHAPE((int64_t)1 << 40, 1)), big);
    fails("ad_add: [1099511627776,1099511627776] has too many elements");
    ad_var *list = malloc(70000 * sizeof *list), s = number(2);
    for (int i = 0; i < 70000; i++) list[i] = s;
    is(ad_sum_all(ad_stack(70000, list, 0)), 140000);
    free(list);
}
END_TEST

START_TEST(derivatives_misused)
{
    ad_var a = matrix(2, 3), b = param(2), r = rows(3), g;
    ad_grad(a, 1, &b, &g);
    fails("ad_grad: the loss must be one number (ad_vjp takes cotangents of anything else): the "
          "operand is [2,3]");
    ck_assert(!ad_valid(g));
    ad_grad(rows(1), 1, &b, &g);
    fails("ad_grad");
    ad_vjp(1, &a, &b, 1, &a, &g);
    fails("ad_vjp: a cotangent must have the shape of its variable: a is [2,3], b is [2]");
    ad_jvp(1, &a, &b, 1, &a, &g);
    fails("ad_jvp: a tangent must have the shape of its variable: a is [2,3], b is [2]");
    ad_jacobian(a, r);
    fails("ad_jacobian: both variables need the row axis, or neither: a is [2,3], b is [rows,3]");
    ad_jacobian(ad_sub(r, ad_mean(r, 1, (int[]){ 0 }, true)), r);
    fails("ad_jacobian: y does not depend on x row by row (ad_sum reduces over rows)");
    ad_jacobian_trace(a, b);
    fails("ad_jacobian_trace: both must be [rows,d], or both [d]: a is [2,3], b is [2]");
    ad_var eight = ad_fill(t, AD_SHAPE(1, 1, 1, 1, 1, 1, 1, 2), 1);
    ad_jacobian(eight, eight);
    fails("ad_jacobian: the result would have too many axes");
    /* what does not depend: zeros of the right shape */
    g = gradient(number(2), a);
    ck_assert(ad_same_shape(ad_shape_of(g), ad_shape_of(a)));
    is(ad_sum_all(g), 0);
    ad_jvp(1, &a, &a, 1, &b, &g);
    ck_assert(ad_same_shape(ad_shape_of(g), ad_shape_of(b)));
    is(ad_sum_all(g), 0);
    ad_jvp(0, NULL, NULL, 1, &b, &g);
    is(ad_sum_all(g), 0);
    ad_vjp(0, NULL, NULL, 1, &a, &g);
    is(ad_sum_all(g), 0);
    is(ad_sum_all(ad_jacobian(ad_square(b), a)), 0);
}
END_TEST

/* ---- Jacobians that products of factors cannot express ---- */

START_TEST(jacobians_by_directions)
{
    ad_var d = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 3, numbers), x = param(2), v = param(4);
    double j[16];
    ad_get(ad_jacobian(ad_sum_axis(ad_mul(d, ad_square(x)), 0, false), x), j);
    ck_assert(j[0] == 18 && j[1] == 0 && j[2] == 0 && j[3] == 48);
    ad_var s = ad_contract("bi,bi->i", 2, (ad_var[]){ ad_mul(d, x), d });
    is(ad_jacobian_trace(ad_contract("bi,bi->i", 2, (ad_var[]){ ad_mul(d, s), d }), x),
       35. * 35 + 56. * 56);
    ad_var eight = ad_cumsum(ad_reshape(v, AD_SHAPE(1, 1, 2, 1, 2, 1, 1, 1)), 2, false);
    ad_get(ad_jacobian(ad_reshape(ad_square(eight), AD_SHAPE(4)), v), j);
    fine();
    ck_assert(j[0] == 2 && j[8] == 8 && j[10] == 8 && j[13] == 12 && j[15] == 12 && j[1] == 0);
}
END_TEST

/* What lies between x and y on the tape without leading to y is left alone: no error, no nodes. */
START_TEST(beside_the_way)
{
    ad_var x = rows(2), mean = ad_mean(x, 0, NULL, false), v = ad_ones_like(x), y = ad_square(x),
           p[3], dot;
    for (int i = 0; i < 100; i++) mean = ad_exp(mean);
    opaque(&book, &ruleless, x, p);
    ad_var z = ad_sin(y);
    int32_t before = ad_tape_mark(t);
    ad_jvp(1, &x, &v, 1, &z, &dot);
    ad_var trace = ad_jacobian_trace(z, x);
    is(ad_sum_all(ad_jacobian(z, x)), 2 * (cos(1) + 2 * cos(4) + 3 * cos(9) + 4 * cos(16)));
    is(ad_sum_all(trace), 2 * (cos(1) + 2 * cos(4) + 3 * cos(9) + 4 * cos(16)));
    is(ad_sum_all(dot), 2 * (cos(1) + 2 * cos(4) + 3 * cos(9) + 4 * cos(16)));
    ck_assert_int_lt(ad_tape_mark(t) - before, 60);
}
END_TEST

/* A variable that is listed twice has the sum of its tangents, and its cotangent twice. */
START_TEST(listed_twice)
{
    ad_var x = number(3), xs[] = { x, x }, y = ad_square(x), dot, bar[2];
    ad_jvp(2, xs, (ad_var[]){ number(1), number(10) }, 1, &y, &dot);
    is(dot, 66);
    ad_grad(y, 2, xs, bar);
    is(bar[0], 6);
    is(bar[1], 6);
}
END_TEST

/* ---- opaque operations ---- */

START_TEST(opaque_bookkeeping)
{
    ad_var x = param(2), o[3], token = opaque(&book, &triple, x, o), run;
    ck_assert(ad_valid(token));
    ad_opaque(t, &peek, NULL, 1, &token, 1, &AD_SCALAR, &run);
    is(run, 1);
    ad_set(x, 0, numbers);
    is(run, 2); /* the state lives on */
    ad_var bad = ad_none(t);
    book.references++;
    ad_opaque(t, &triple, &book, 1, &bad, 3, (ad_shape[]){ AD_SHAPE(2), AD_SHAPE(2), AD_SHAPE(2) },
              o);
    ck_assert(ad_tape_error(t) && book.references == 1 && !ad_valid(o[0]));
    ad_tape_clear_error(t);
    book.references++;
    ad_opaque(t, &triple, &book, 1, &x, 2,
              (ad_shape[]){ AD_SHAPE(2), AD_SHAPE((int64_t)1 << 40, (int64_t)1 << 40) }, o);
    fails("triple: [1099511627776,1099511627776] has too many elements");
    ck_assert(book.references == 1);
    book.references++;
    ad_opaque(t, &triple, &book, 1, &x, 1, (ad_shape[]){ AD_SHAPE(2, -7) }, o);
    fails("triple: size -7 of axis 1");
    ck_assert(book.references == 1);
    opaque(&book, &triple, x, o);
    book.fails = true;
    ck_assert_ptr_null(ad_value(o[1]));
    fails("triple: asked to fail");
    book.fails = false;
    is(ad_sum_all(o[1]), 6);
}
END_TEST

START_TEST(tokens_have_no_value)
{
    ad_var x = param(2), o[3], k = opaque(&book, &triple, x, o), g;
    int permutation[] = { 0 }, axis = 0;
    const int64_t index[] = { 0 };
#define TOKEN_AT(name, place, call)                                                                \
    (void)(call), fails("ad_" name ": " place " is the token of triple, which has no value");
#define TOKEN(name, call) TOKEN_AT(name, "operand 0", call)
    TOKEN("value", ad_value(k))
    TOKEN("item", ad_item(k))
    TOKEN("exp", ad_exp(k))
    TOKEN("sub", ad_sub(k, x))
    TOKEN("select", ad_select(k, x, x))
    TOKEN("scale", ad_scale(k, 1))
    TOKEN("shift", ad_shift(k, 1))
    TOKEN("zeros_like", ad_zeros_like(k))
    TOKEN("ones_like", ad_ones_like(k))
    TOKEN("pow_scalar", ad_pow_scalar(k, 0))
    TOKEN("sum", ad_sum(k, 1, &axis, false))
    TOKEN("sum", ad_sum_all(k))
    TOKEN("mean", ad_mean(k, 1, &axis, false))
    TOKEN("reduce_max", ad_reduce_max(k, 0, NULL, false))
    TOKEN("logsumexp", ad_logsumexp(k, 0, NULL, false))
    TOKEN("reshape", ad_reshape(k, AD_SHAPE(1)))
    TOKEN("transpose", ad_transpose(k, permutation))
    TOKEN("broadcast", ad_broadcast(k, AD_SHAPE(2)))
    TOKEN("slice", ad_slice(k, 0, 0, 1))
    TOKEN("concatenate", ad_concatenate(1, &k, 0))
    TOKEN("stack", ad_stack(1, &k, 0))
    TOKEN("pad", ad_pad(k, 0, 1, 1))
    TOKEN("flip", ad_flip(k, 0))
    TOKEN("gather", ad_gather(k, 0, 1, index))
    TOKEN("scatter_add", ad_scatter_add(k, 0, 1, index))
    TOKEN("cumsum", ad_cumsum(k, 0, false))
    TOKEN("take", ad_take(k, x))
    TOKEN("locate", ad_locate(k, x))
    TOKEN("contract", ad_contract("i->i", 1, &k))
    TOKEN("matmul", ad_matmul(k, x))
    TOKEN("dot", ad_dot(k, x))
    TOKEN("outer", ad_outer(k, x))
    TOKEN("jacobian", ad_jacobian(k, x))
    TOKEN("jacobian_trace", ad_jacobian_trace(k, x))
    TOKEN("frontier", ad_frontier(1, &k, 0, NULL))
    TOKEN_AT("compile", "outputs[0]", ad_compile(1, &x, 1, &k))
    TOKEN_AT("grad", "the loss", (ad_grad(k, 1, &x, &g), 0))
    TOKEN_AT("jvp", "y[0]", (ad_jvp(1, &x, &x, 1, &k, &g), 0))
    ad_set(k, 0, numbers);
    fails("ad_set: operand 0 is the token of triple");
    prints(k, "x: ad_print: operand 0 is the token of triple, which has no value\n");
    ad_tape_clear_error(t);
    ck_assert_int_eq(ad_size(k), -1);
}
END_TEST

START_TEST(opaque_derivatives)
{
    ad_var x = param(2), o[3], v = ad_ones_like(x), dot;
    opaque(&book, &triple, x, o);
    ad_var y = ad_sum_all(ad_add(ad_add(o[0], o[1]), ad_square(o[2])));
    ad_var g = gradient(y, x);
    is(ad_sum_all(g), 2 * (1 + 2) + 18 * (1 + 2));
    ad_jvp(1, &x, &v, 1, &y, &dot); /* by its rule, only the first result moves */
    is(dot, 2);
    ad_var max =
        ad_add(ad_reduce_max(o[1], 0, NULL, false),
               ad_sum_all(ad_concatenate(
                   2, (ad_var[]){ o[1], ad_reshape(ad_cumsum(o[2], 0, false), AD_SHAPE(2)) }, 0)));
    ad_jvp(1, &x, &v, 1, &max, &dot);
    is(dot, 0);
    gradient(ad_sum_all(g), x);
    fails("ad_vjp: ruleless has no derivative rule (vjp); a derivative of this order is not "
          "defined for it");
    ad_jvp(1, &x, &v, 1, &g, &dot);
    fails("ad_jvp: ruleless has no forward derivative rule (jvp)");
    ad_hvp(y, x, v);
    fails("ad_jvp: ruleless");
    ad_var p[3];
    opaque(&book, &ruleless, x, p);
    ad_jacobian(p[0], x);
    fails("ad_jvp: ruleless");
    is(ad_sum_all(gradient(ad_sum_all(ad_add(x, ad_stop_gradient(p[0]))), x)), 2);
    teardown();
    ck_assert_int_eq(book.references, 0);
    ck_assert_int_eq(book.states, 0);
    setup();
}
END_TEST

/* Rules that give what they should not. */
static ad_var rule_result;
static void bad_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                    const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)data, (void)token, (void)nin, (void)in, (void)nout, (void)out, (void)ybar, (void)need;
    xbar[0] = rule_result;
}
static void bad_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                    int nout, const ad_var *out, ad_var *ydot)
{
    (void)data, (void)token, (void)nin, (void)in, (void)xdot, (void)nout, (void)out;
    ydot[0] = rule_result;
}
START_TEST(opaque_rules_misused)
{
    static const ad_opaque_class class_ = {
        .name = "bad", .forward = triple_forward, .vjp = bad_vjp, .jvp = bad_jvp
    };
    ad_tape *other = ad_tape_new(AD_F64);
    ad_var x = rows(2), v = ad_ones_like(x), o[3], dot;
    opaque(&book, &class_, x, o);
    ad_var y = ad_cumsum(o[0], 1, false), loss = ad_sum_all(y);
    rule_result = ad_fill(t, AD_SHAPE(3), 1);
    gradient(loss, x);
    fails("bad: its rule vjp gave a variable [3] where [rows,2] is due");
    ad_jvp(1, &x, &v, 1, &y, &dot);
    fails("bad: its rule jvp gave a variable [3] where [rows,2] is due");
    rule_result = ad_fill(other, AD_SHAPE(AD_ROWS, 2), 1);
    gradient(loss, x);
    fails("bad: its rule vjp gave a variable of another tape");
    ad_jvp(1, &x, &v, 1, &y, &dot);
    fails("bad: its rule jvp gave a variable of another tape");
    rule_result = ad_fill(t, AD_SHAPE(2), 1); /* the same for all rows */
    is(ad_sum_all(gradient(loss, x)), 4);
    ad_jvp(1, &x, &v, 1, &y, &dot);
    is(ad_sum_all(dot), 6);
    rule_result = ad_none(NULL);
    is(ad_sum_all(gradient(loss, x)), 0);
    ad_tape_free(other);
}
END_TEST

START_TEST(opaque_flat)
{
    static const ad_opaque_class flat = { .name = "flat", .forward = triple_forward, .flat = true };
    ad_var x = rows(2), v = ad_ones_like(x), o[3], dot;
    opaque(&book, &flat, x, o);
    ad_var y = ad_add(ad_scale(x, 5), o[0]), loss = ad_sum_all(y);
    is(ad_sum_all(gradient(loss, x)), 20);
    ad_jvp(1, &x, &v, 1, &y, &dot);
    is(ad_sum_all(dot), 20);
    is(ad_sum_all(gradient(ad_sum_all(o[0]), x)), 0);
}
END_TEST

/* In programs: one state a workspace, references held by the program beyond the tape. */
START_TEST(opaque_in_programs)
{
    for (int narrow = 0; narrow < 2; narrow++) {
        ad_tape *own = ad_tape_new(narrow ? AD_F32 : AD_F64);
        ad_var x = ad_input_rows(own, AD_SHAPE(AD_ROWS, 2), 0, NULL), o[3], out[2];
        ad_var token = opaque(&book, &triple, ad_tanh(x), o);
        ad_opaque(own, &peek, NULL, 1, &token, 1, &AD_SCALAR, &out[1]);
        out[0] = ad_square(o[2]);
        ad_program *p = ad_compile(1, &x, 2, out);
        ck_assert_msg(p != NULL, "%s", ad_tape_error(own));
        ad_tape_free(own);
        ck_assert_int_eq(book.references, 1);
        ad_workspace *w[2] = { ad_workspace_new(p, 1), ad_workspace_new(p, 2) };
        ad_program_free(p);
        double in[600], y[600], run;
        float narrow_run;
        for (int i = 0; i < 600; i++) in[i] = narrow ? 0 : i / 300. - 1;
        for (int k = 0; k < 3; k++)
            for (int i = 0; i < 2; i++) {
                ck_assert_int_eq(
                    ad_run(p, w[i], 300 / (k + 1), (const void *[]){ in }, (void *[]){ y, &run }),
                    0);
                if (narrow) memcpy(&narrow_run, &run, sizeof narrow_run);
                ck_assert_int_eq((int)(narrow ? (double)narrow_run : run), k + 1);
                ck_assert_int_eq(book.rows, 300 / (k + 1));
                if (!narrow) ck_assert_double_eq_tol(y[7], pow(3 * tanh(in[7]), 2), 1e-14);
            }
        book.fails = true;
        ck_assert_int_eq(ad_run(p, w[0], 1, (const void *[]){ in }, (void *[]){ y, &run }), -1);
        ck_assert_ptr_nonnull(strstr(ad_workspace_error(w[0]), "triple: asked to fail"));
        book.fails = false;
        ck_assert_int_eq(ad_run(p, w[0], 1, (const void *[]){ in }, (void *[]){ y, &run }), 0);
        ad_workspace_free(w[0]);
        ad_workspace_free(w[1]);
        ck_assert_int_eq(book.states, 0);
        ck_assert_int_eq(book.references, 0);
    }
}
END_TEST

/* ---- functions ---- */

START_TEST(inlining)
{
    ad_tape *inner = ad_tape_new(AD_F64);
    ad_var x = ad_input(inner, AD_SHAPE(2), NULL), w = ad_param(inner, AD_SHAPE(2), NULL), o[3],
           r[2];
    ad_var y = ad_mul(ad_exp(x), w);
    opaque(&book, &triple, y, o);
    ad_var args[2] = { ad_scale(param(2), 0), param(2) };
    ad_inline(2, (ad_var[]){ x, w }, 2, (ad_var[]){ o[0], ad_add(y, w) }, t, args,
              r); /* the first of three results, alone */
    is(ad_sum_all(r[0]), 3);
    is(ad_sum_all(r[1]), 6);
    ad_inline(1, &y, 1, &o[1], t, args + 1, r); /* cut at y: its inputs are not asked for */
    is(ad_sum_all(r[0]), 6);
    ad_inline(2, (ad_var[]){ o[0], y }, 1, (ad_var[]){ ad_add(o[0], o[1]) }, t, args,
              r); /* a result as input, its sibling computed */
    is(ad_sum_all(r[0]), 6);
    ad_inline(1, &x, 1, &x, t, args, r);
    ck_assert_int_eq(r[0].node, args[0].node);
    ad_inline(1, &x, 1, &y, t, args, r);
    fails(
        "ad_inline: the function depends on an input of shape [2] that is not among its arguments");
    ck_assert(!ad_valid(r[0]));
    ad_inline(1, &x, 1, &y, t, (ad_var[]){ number(1) }, r);
    fails("ad_inline: an argument must have the shape of the variable whose place it takes: the "
          "operand is []");
    ad_tape *third = ad_tape_new(AD_F64);
    ad_var z = ad_input(third, AD_SHAPE(2), NULL);
    ad_inline(1, &z, 1, &y, t, args, r);
    fails("ad_inline: the function's variables must be on one tape, its arguments on the target");
    ad_inline(1, &x, 1, &y, t, &z, r);
    fails("ad_inline");
    ad_add(x, ad_input(inner, AD_SHAPE(3), NULL));
    ad_inline(1, &x, 1, &y, t, args, r); /* the function's own error is told */
    fails("ad_add: shapes do not broadcast: a is [2], b is [3]");
    ad_tape_free(third);
    ad_tape_free(inner);
    teardown();
    ck_assert_int_eq(book.references, 0);
    setup();
}
END_TEST

START_TEST(captured_variables)
{
    ad_tape *inner = ad_tape_new(AD_F64);
    ad_var x = ad_input(inner, AD_SHAPE(2), NULL), outside = param(2), y = ad_mul(x, outside), r;
    fails("ad_mul: mixes variables of this tape with those of another; pass them as arguments "
          "(args)");
    ad_inline(1, &x, 1, &y, t, &outside, &r);
    fails("ad_mul: operand 1 is on another tape; a function that is traced on a tape of its own "
          "must get outside variables as arguments "
          "(args)");
    ad_tape_free(inner);
}
END_TEST

START_TEST(frontiers)
{
    ad_var w = matrix(2, 2), b = param(2), x = rows(2), f[4];
    ad_var packed = ad_exp(w), unused = ad_sin(w), y = ad_add(ad_matmul(x, packed), b);
    (void)unused;
    ck_assert_int_eq(ad_frontier(1, &y, 4, f), 2);
    ck_assert_int_eq(f[0].node, b.node);
    ck_assert_int_eq(f[1].node, packed.node);
    ck_assert_int_eq(ad_frontier(1, &y, 0, NULL), 2);
    ck_assert_int_eq(ad_frontier(2, (ad_var[]){ y, unused }, 4, f), 3);
    ck_assert_int_eq(ad_frontier(1, (ad_var[]){ ad_square(x) }, 4, f), 0);
    ck_assert_int_eq(ad_frontier(1, (ad_var[]){ ad_scalar(t, 1) }, 4, f), 0);
    ck_assert(ad_depends(y, w) && ad_depends(y, y) && !ad_depends(y, unused) && !ad_depends(w, y) &&
              ad_depends(ad_floor(y), x));
    /* independent of each other: propagation stops at packed */
    ad_var loss = ad_sum_all(y), one = ad_ones_like(loss), bar[2];
    ad_vjp_cut(1, &loss, &one, 2, (ad_var[]){ packed, w }, bar);
    is(ad_sum_all(bar[0]), 2 * (1 + 3 + 2 + 4));
    is(ad_sum_all(bar[1]), 0);
    ad_vjp(1, &loss, &one, 2, (ad_var[]){ packed, w }, bar);
    is(ad_sum_all(bar[0]), 20);
    is(ad_sum_all(bar[1]), 8 * (exp(1) + exp(2)) * 0.5 + 12 * (exp(3) + exp(4)) * 0.5);
}
END_TEST

static bool same_function(ad_var x, ad_var y, ad_var u, ad_var v)
{
    size_t n, m;
    void *a = ad_function_key(1, &x, 1, &y, &n), *b = ad_function_key(1, &u, 1, &v, &m);
    bool same = a && b && n == m && !memcmp(a, b, n);
    free(a);
    free(b);
    fine();
    return same;
}

START_TEST(function_keys)
{
    ad_var x = param(2), u = param(2), w = param(3), i = ad_input(t, AD_SHAPE(2), numbers);
    ad_var y = ad_exp(ad_scale(x, 2)), v = ad_exp(ad_scale(u, 2));
    ck_assert(same_function(x, y, u, v));
    ck_assert(!same_function(x, y, u, ad_exp(ad_scale(u, 3))));
    ck_assert(!same_function(x, y, u, ad_sin(ad_scale(u, 2))));
    ck_assert(!same_function(x, y, i, ad_exp(ad_scale(i, 2))));
    ck_assert(!same_function(x, ad_sum_all(ad_cumsum(x, 0, false)), u,
                             ad_sum_all(ad_cumsum(u, 0, true))));
    ck_assert(!same_function(x, ad_sum_all(x), w, ad_sum_all(w)));
    ad_tape *other = ad_tape_new(AD_F64);
    for (int k = 0; k < 600; k++) ad_scalar(other, k);
    ad_var far = ad_param(other, AD_SHAPE(2), numbers);
    size_t n;
    ck_assert_ptr_null(ad_function_key(1, &far, 1, &y, &n));
    fails("ad_function_key: in[0] is on another tape");
    ad_tape_free(other);
}
END_TEST

static void count_release(void *object) { ++*(int *)object; }
START_TEST(caches)
{
    int released[2] = { 0, 0 };
    ad_tape *own = ad_tape_new(AD_F64);
    int32_t mark = ad_tape_mark(own);
    ad_scalar(own, 1);
    char key[] = "abc";
    ad_cache_add(own, key, 3, &released[0], count_release);
    ad_cache_add(own, "abcd", 4, &released[1], count_release);
    key[0] = 'x'; /* it was copied */
    ad_tape_rewind(own, mark);
    ck_assert_ptr_eq(ad_cache_find(own, "abc", 3), &released[0]);
    ck_assert_ptr_eq(ad_cache_find(own, "abcd", 4), &released[1]);
    ck_assert_ptr_null(ad_cache_find(own, "ab", 2));
    ck_assert_int_eq(released[0] + released[1], 0);
    ad_tape_free(own);
    ck_assert(released[0] == 1 && released[1] == 1);
}
END_TEST

/* ---- special points ---- */

START_TEST(powers_at_zero)
{
    static const double at_zero[][4] = { /* exponent, value, first and second derivative */
                                         { 0, 1, 0, 0 },
                                         { 1, 0, 1, 0 },
                                         { 2, 0, 0, 2 },
                                         { 3, 0, 0, 0 },
                                         { 0.5, 0, INFINITY, -INFINITY },
                                         { -1, INFINITY, -INFINITY, INFINITY }
    };
    for (size_t i = 0; i < sizeof at_zero / sizeof *at_zero; i++)
        for (int form = 0; form < 3; form++) {
            ad_var x = number(0), p = number(at_zero[i][0]);
            ad_var y = form == 0 ? ad_pow_scalar(x, at_zero[i][0])
                                 : ad_pow(x, form == 1 ? ad_scalar(t, at_zero[i][0]) : p),
                   g = gradient(y, x);
            is(y, at_zero[i][1]);
            is(g, at_zero[i][2]);
            is(gradient(g, x), at_zero[i][3]);
            if (form == 2) is(gradient(y, p), 0);
        }
    ad_var x = number(-2), y = ad_pow(x, ad_scalar(t, 3)), g = gradient(y, x);
    is(y, -8);
    is(g, 12);
    is(gradient(g, x), -12);
    is(ad_pow(x, ad_scalar(t, -1)), -0.5);
    is(ad_pow(x, ad_scalar(t, 0.5)), NAN);
    /* an exponent that happens to be 0: d2 a^b / da db = a^(b-1) (1 + b log a) */
    ad_var two = number(2), none = number(0);
    y = ad_pow(two, none);
    is(gradient(y, two), 0);
    is(gradient(gradient(y, two), none), 0.5);
    is(gradient(gradient(y, none), two), 0.5);
    /* an infinite cotangent times a zero derivative, by selecting */
    is(gradient(ad_log(ad_sub(ad_pow(x, ad_scalar(t, 0)), ad_scalar(t, 1))), x), 0);
}
END_TEST

/* The derivative selects: infinities on the side not taken, in values or cotangents, do not matter.
 * (A function that is itself infinitely steep at the point, as log at 0, must be given another
 * argument there.) */
START_TEST(selections)
{
    ad_var x = number(0), inf = number(INFINITY), zero = ad_scalar(t, 0), one = ad_scalar(t, 1),
           positive = ad_gt(x, zero);
    ad_var safe = ad_select(positive, x, one);
    is(gradient(ad_select(positive, ad_log(safe), zero), x), 0);
    is(gradient(ad_select(positive, ad_sqrt(safe), zero), x), 0);
    is(gradient(ad_select(positive, inf, ad_scale(x, 3)), x), 3);
    is(gradient(ad_select(positive, inf, zero), inf), 0);
    is(gradient(ad_log(ad_select(positive, x, zero)), x), 0);
    is(gradient(ad_log(ad_relu(ad_shift(x, -1))), x), 0);
    is(gradient(ad_log(ad_clamp(ad_shift(x, -1), zero, one)), x), 0);
    is(gradient(ad_log(ad_max(ad_shift(x, -1), zero)), x), 0);
    is(gradient(ad_clamp(inf, zero, one), inf), 0);
    is(gradient(ad_min(inf, x), x), 1);
    is(gradient(ad_min(inf, x), inf), 0);
    is(gradient(ad_max(inf, x), x), 0);
    is(gradient(ad_relu(inf), inf), 1);
    is(gradient(ad_relu(ad_neg(inf)), inf), 0);
    is(gradient(ad_relu(x), x), 0);
    is(gradient(ad_abs(x), x), 0);
    is(gradient(ad_abs(ad_neg(inf)), inf), 1);
    is(gradient(ad_max(x, zero), x), 0.5);
    is(gradient(ad_min(x, zero), x), 0.5);
    is(gradient(ad_clamp(x, zero, one), x), 1);
    is(gradient(ad_sqrt(x), x), INFINITY);
    is(ad_relu(number(NAN)), NAN);
}
END_TEST

static ad_var by_part_of_eye(ad_var x)
{
    ad_var part = ad_slice(ad_eye(x.tape, 3, 4, 0), 0, 1, 3);
    return ad_sum_all(ad_matmul(x, ad_transpose(ad_slice(part, 1, 0, 3), (int[]){ 1, 0 })));
}

/* Parts of identities, transposed or not, are identities: no infinity is multiplied with their
 * zeros, neither by a program nor, where no caller holds them, by what is recorded. */
START_TEST(identities_select)
{
    double value[] = { INFINITY, 1, 2 }, result = 0;
    ad_var x = ad_param(t, AD_SHAPE(1, 3), value), y = by_part_of_eye(x);
    int32_t inner = ad_inner_begin(t);
    is(by_part_of_eye(x), 3);
    ad_inner_end(t, inner);
    ad_program *p = ad_compile(1, &x, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_int_eq(ad_run(p, w, 0, (const void *const[]){ value }, (void *const[]){ &result }),
                     0);
    ck_assert_double_eq(result, 3);
    ad_workspace_free(w);
    ad_program_free(p);
}
END_TEST

START_TEST(flat_operations)
{
    ad_var x = number(1.5), v = number(1), dot,
           y[] = { ad_sign(x), ad_floor(x), ad_stop_gradient(x), ad_gt(x, v),
                   ad_locate(x, param(3)) };
    for (int i = 0; i < 5; i++) {
        is(gradient(y[i], x), 0);
        ad_jvp(1, &x, &v, 1, &y[i], &dot);
        is(dot, 0);
    }
    is(gradient(ad_mul(ad_floor(x), x), x), 1);
}
END_TEST

START_TEST(logsumexp_of_infinities)
{
    const double v[] = { -INFINITY, -INFINITY, INFINITY, 0, -INFINITY, 1, 1000, 1000 };
    ad_var x = ad_param(t, AD_SHAPE(4, 2), v), y = ad_logsumexp(x, 1, (int[]){ 1 }, false);
    double got[8];
    ad_get(y, got);
    ck_assert(got[0] == -INFINITY && got[1] == INFINITY && got[2] == 1);
    ck_assert_double_eq_tol(got[3], 1000 + log(2), 1e-12);
    ad_get(gradient(ad_sum_all(y), x), got);
    ck_assert(got[0] == 0 && got[1] == 0 && got[3] == 0 && got[4] == 0 && got[5] == 1);
    ck_assert_double_eq_tol(got[6], 0.5, 1e-15);
    is(ad_logsumexp(ad_param(t, AD_SHAPE(2), (double[]){ NAN, 1 }), 0, NULL, false), NAN);
    is(ad_logsumexp(ad_fill(t, AD_SHAPE(3), -INFINITY), 0, NULL, false), -INFINITY);
    x = ad_param(t, AD_SHAPE(2), (double[]){ INFINITY, 1 });
    ad_get(gradient(ad_logsumexp(x, 0, NULL, false), x), got);
    ck_assert(got[0] == 1 && got[1] == 0);
}
END_TEST

/* The Hessian of two terms is p (1 - p) times (1, -1; -1, 1); with x = (0, -40), p (1 - p) = 1 / (2
 * + exp(40) + exp(-40)). */
START_TEST(logsumexp_of_the_dominant)
{
    const double p = 4.248354255291589e-18;
    ad_var x = ad_param(t, AD_SHAPE(2), (double[]){ 0, -40 }), y = ad_logsumexp(x, 0, NULL, false);
    double got[2];
    for (int i = 0; i < 2; i++) {
        ad_get(ad_hvp(y, x, ad_constant(t, AD_SHAPE(2), (double[]){ i == 0, i == 1 })), got);
        ck_assert_double_eq_tol(got[i] / p, 1, 1e-14);
        ck_assert_double_eq_tol(got[1 - i] / -p, 1, 1e-14);
    }
    x = ad_param(t, AD_SHAPE(3), (double[]){ 2, 1, 2 }); /* a tie; p = (1, 1/e, 1) / (2 + 1/e) */
    double h[3];
    ad_get(ad_hvp(ad_logsumexp(x, 0, NULL, false), x,
                  ad_constant(t, AD_SHAPE(3), (double[]){ 1, 0, 0 })),
           h);
    ck_assert_double_eq_tol(h[0], 0.24396563089491166, 1e-15);
    ck_assert_double_eq_tol(h[1], -0.06561246353830515, 1e-15);
    ck_assert_double_eq_tol(h[2], -0.17835316735660653, 1e-15);
}
END_TEST

/* Ten million tenths: what is added, whatever comes before. */
START_TEST(long_running_sums)
{
    enum { MANY = 10000000 };
    ad_tape *f32 = ad_tape_new(AD_F32);
    ad_var tenths = ad_fill(f32, AD_SHAPE(MANY), 0.1f),
           end = ad_slice(ad_cumsum(tenths, 0, false), 0, MANY - 1, MANY);
    ck_assert_double_eq_tol(ad_item(end), 1000000.015, 0.06);
    ck_assert_double_eq_tol(ad_item(ad_slice(ad_cumsum(tenths, 0, true), 0, 0, 1)), 1000000.015,
                            0.06);
    ad_var x = ad_param(f32, AD_SHAPE(3), (float[]){ 1, INFINITY, 2 });
    double got[3];
    ad_get(ad_cumsum(x, 0, false), got);
    ck_assert(got[0] == 1 && got[1] == INFINITY && got[2] == INFINITY);
    ad_tape_free(f32);
}
END_TEST

START_TEST(ties_of_the_maximum)
{
    ad_var x = ad_param(t, AD_SHAPE(4), (double[]){ 3, 1, 3, 3 }),
           v = ad_param(t, AD_SHAPE(4), (double[]){ 3, 5, 6, 9 }), dot,
           y = ad_reduce_max(x, 0, NULL, false);
    double g[4];
    ad_get(gradient(y, x), g);
    ck_assert(g[0] == g[2] && g[2] == g[3] && g[1] == 0);
    ck_assert_double_eq_tol(g[0], 1. / 3, 1e-16);
    ad_jvp(1, &x, &v, 1, &y, &dot);
    is(dot, 6);
    is(ad_reduce_max(ad_fill(t, AD_SHAPE(2), -INFINITY), 0, NULL, false), -INFINITY);
}
END_TEST

/* ---- size: nothing grows faster than the tape ---- */

START_TEST(long_tapes)
{
    ad_var x = number(0.5), y = x;
    for (int i = 0; i < 50000; i++) y = i % 2 ? ad_sin(y) : ad_add(y, x);
    int32_t before = ad_tape_mark(t);
    ad_var g = gradient(y, x);
    ck_assert(ad_valid(g) && ad_tape_mark(t) - before < 3 * before);
    ck_assert(isfinite(ad_item(g)));
    y = x;
    for (int i = 0; i < 60; i++) {
        y = ad_mul(y, y);
        y = ad_scale(y, 1.5);
    } /* paths double at every step */
    before = ad_tape_mark(t);
    gradient(gradient(y, x), x);
    ck_assert(ad_tape_mark(t) - before < 4000);
}
END_TEST

START_TEST(deep_traces)
{
    ad_var x = rows(4), w = ad_param(t, AD_SHAPE(4, 4),
                                     (double[]){ .1, .2, .3, .4, -.5, .6, .7, -.8, .9, .1, .2, -.3,
                                                 .4, .5, -.6, .7 });
    ad_var y = x, dense = x;
    for (int i = 0; i < 20; i++) y = ad_add(y, ad_tanh(ad_matmul(y, w)));
    for (int i = 0; i < 8; i++)
        dense = ad_concatenate(
            2,
            (ad_var[]){ dense, ad_tanh(ad_matmul(ad_slice(dense, 1, ad_shape_of(dense).dim[1] - 4,
                                                          ad_shape_of(dense).dim[1]),
                                                 w)) },
            1);
    dense = ad_sum_axis(ad_reshape(dense, AD_SHAPE(AD_ROWS, 9, 4)), 1, false);
    ad_var deep[] = { y, dense };
    for (int k = 0; k < 2; k++) {
        int32_t before = ad_tape_mark(t);
        ad_var trace = ad_jacobian_trace(deep[k], x), j = ad_jacobian(deep[k], x);
        ck_assert_int_lt(ad_tape_mark(t) - before, 6000);
        double got[2], full[32];
        ad_get(trace, got);
        ad_get(j, full);
        fine();
        for (int b = 0; b < 2; b++)
            ck_assert_double_eq_tol(
                got[b], full[16 * b] + full[16 * b + 5] + full[16 * b + 10] + full[16 * b + 15],
                1e-11 * (1 + fabs(got[b])));
    }
}
END_TEST

int main(void)
{
    TCase *c = suite_case("tape", "tape");
    tcase_add_checked_fixture(c, setup, teardown);
    const TTest *tests[] = { values_are_lazy,
                             printing,
                             single_elements,
                             rewinding,
                             rewinding_rows,
                             setting,
                             sources_misused,
                             traced,
                             errors_stick,
                             tapes_do_not_mix,
                             pointwise_misused,
                             axes_misused,
                             layout_misused,
                             contractions_misused,
                             contractions_at_the_limits,
                             derivatives_misused,
                             jacobians_by_directions,
                             beside_the_way,
                             listed_twice,
                             opaque_bookkeeping,
                             tokens_have_no_value,
                             opaque_derivatives,
                             opaque_rules_misused,
                             opaque_flat,
                             opaque_in_programs,
                             inlining,
                             captured_variables,
                             frontiers,
                             function_keys,
                             caches,
                             powers_at_zero,
                             selections,
                             identities_select,
                             flat_operations,
                             logsumexp_of_infinities,
                             logsumexp_of_the_dominant,
                             long_running_sums,
                             ties_of_the_maximum,
                             long_tapes,
                             deep_traces };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) tcase_add_test(c, tests[i]);
    return suite_run();
}
