/* The front door: data of either type, and what a user meets before the first number. */
#include <costate.h>
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static ad_dtype dtype;
static ad_tape *t;

static void fails(const char *text)
{
    const char *error = ad_tape_error(t);
    ck_assert_msg(error && strstr(error, text), "the error is \"%s\", but wanted \"%s\"",
                  error ? error : "none", text);
    ad_tape_clear_error(t);
}

static void is(ad_var x, const double *want)
{
    double got[64];
    ck_assert_int_le(ad_size(x), 64);
    ck_assert_msg(!ad_get(x, got), "%s", ad_tape_error(x.tape));
    for (int64_t i = 0; i < ad_size(x); i++)
        ck_assert_msg(got[i] == want[i], "element %d is %.17g, want %.17g", (int)i, got[i],
                      want[i]);
}

/* Data of the other type are converted, whatever the tape's. */
START_TEST(data_of_either_type)
{
    const double wide[] = { 1, -2.5, 3, 4 }, other[] = { 5, 6.25, -7, 8 };
    const float narrow[] = { 1, -2.5, 3, 4 }, narrow_other[] = { 5, 6.25, -7, 8 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        is(ad_param(t, AD_SHAPE(4), wide), wide);
        is(ad_param(t, AD_SHAPE(4), narrow), wide);
        is(ad_input(t, AD_SHAPE(2, 2), narrow), wide);
        is(ad_input(t, AD_SHAPE(2, 2), wide), wide);
        is(ad_constant(t, AD_SHAPE(4), narrow), wide);
        is(ad_constant(t, AD_SHAPE(4), wide), wide);
        is(ad_param(t, AD_SHAPE(4), (float[]){ 1, -2.5, 3, 4 }), wide);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 2, narrow);
        is(x, wide);
        is(ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 2, wide), wide);
        ck_assert(!ad_set(x, 2, narrow_other));
        is(x, other);
        ck_assert(!ad_set(x, 2, wide));
        is(x, wide);
        ck_assert_int_eq(ad_set(x, 2, (double *)NULL), -1);
        fails("ad_set: no data");
        is(ad_param_data(t, AD_SHAPE(4), AD_F32, narrow), wide);
        ad_value(ad_param(t, AD_SHAPE(4), NULL));
        fails("an input has no value");
        ad_tape_free(t);
    }
}
END_TEST

/* What lies outside float becomes infinite there; a float is itself in double. */
START_TEST(conversion)
{
    const double wide[] = { 1e300, 0.1 };
    const float narrow[] = { 0.1f, 1e-45f };
    t = ad_tape_new(AD_F32);
    is(ad_param(t, AD_SHAPE(2), wide), (double[]){ INFINITY, 0.1f });
    ad_tape_free(t);
    t = ad_tape_new(AD_F64);
    is(ad_param(t, AD_SHAPE(2), narrow), (double[]){ 0.1f, 1e-45f });
    ad_tape_free(t);
}
END_TEST

START_TEST(runs_of_a_type)
{
    const float narrow[] = { 3 };
    const double wide[] = { 3 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        ad_var x = ad_param(t, AD_SHAPE(1), NULL), y = ad_square(x);
        ad_program *p = ad_compile(1, &x, 1, &y);
        ad_workspace *w = ad_workspace_new(p, 1);
        float small = 0;
        double large = 0;
        int status_f32 = ad_run_f32(p, w, 0, (const float *[]){ narrow }, (float *[]){ &small });
        const char *error = ad_workspace_error(w);
        if (dtype == AD_F64)
            ck_assert_str_eq(
                error, "ad_run: the program computes in double (AD_F64), the arrays are float");
        else ck_assert_ptr_null(error);
        int status_f64 = ad_run_f64(p, w, 0, (const double *[]){ wide }, (double *[]){ &large });
        error = ad_workspace_error(w);
        if (dtype == AD_F32)
            ck_assert_str_eq(
                error, "ad_run: the program computes in float (AD_F32), the arrays are double");
        else ck_assert_ptr_null(error);
        ck_assert_int_eq(status_f32, dtype == AD_F32 ? 0 : -1);
        ck_assert_int_eq(status_f64, dtype == AD_F64 ? 0 : -1);
        ck_assert(dtype == AD_F32 ? small == 9 && large == 0 : small == 0 && large == 9);
        ad_workspace_free(w);
        ad_program_free(p);
        ad_tape_free(t);
    }
}
END_TEST

/* ---- operations ---- */

/* Lazily, and compiled with three rows. */
static void everywhere(ad_var x, const double *data, ad_var y, int64_t n, const double *want)
{
    double got[64];
    float narrow[64];
    ck_assert_msg(!ad_get(y, got), "%s", ad_tape_error(t));
    ck_assert_int_eq(ad_size(y), n);
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(got[i] == want[i], "element %d is %g, want %g", (int)i, got[i], want[i]);
    ad_program *p = ad_compile(1, &x, 1, &y);
    ck_assert_msg(p, "%s", ad_tape_error(t));
    ad_workspace *w = ad_workspace_new(p, 1);
    int64_t nx = ad_size(x);
    for (int64_t i = 0; i < nx; i++) narrow[i] = (float)data[i];
    memset(got, 0, sizeof got);
    float result[64];
    if (dtype == AD_F32)
        ck_assert(!ad_run_f32(p, w, 3, (const float *[]){ narrow }, (float *[]){ result }));
    else ck_assert(!ad_run_f64(p, w, 3, (const double *[]){ data }, (double *[]){ got }));
    for (int64_t i = 0; i < n && dtype == AD_F32; i++) got[i] = result[i];
    for (int64_t i = 0; i < n; i++)
        ck_assert_msg(got[i] == want[i], "compiled: element %d is %g, want %g", (int)i, got[i],
                      want[i]);
    ad_workspace_free(w);
    ad_program_free(p);
}

/* The values are those of NumPy's argmax and argmin. */
START_TEST(places_of_extremes)
{
    const double v[] = { 3, 7, 7, -1, /**/ -INFINITY, -2, -2, -INFINITY, /**/ 5, NAN, 9, NAN };
    const double zeros[12] = { 0 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 3, v), m = ad_argmax(x, 1, false), g;
        everywhere(x, v, m, 3, (double[]){ 1, 1, 1 });
        everywhere(x, v, ad_argmin(x, -1, false), 3, (double[]){ 3, 0, 1 });
        ck_assert(ad_shape_of(m).rank == 1 && ad_shape_of(ad_argmax(x, 1, true)).rank == 2);
        ad_grad(ad_sum_all(m), 1, &x, &g);
        everywhere(x, v, g, 12, zeros);
        ad_jvp(1, &x, &x, 1, &m, &g);
        everywhere(x, v, g, 3, zeros);
        ad_var cube = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2, 2), 3, v);
        everywhere(cube, v, ad_argmax(cube, 1, false), 6, (double[]){ 1, 0, 1, 0, 1, 0 });
        ad_var p = ad_param(t, AD_SHAPE(2, 2), v);
        everywhere(p, v, ad_argmax(p, 0, false), 2, (double[]){ 1, 0 });
        everywhere(p, v, ad_argmin(p, 0, true), 2, (double[]){ 0, 1 });
        everywhere(x, v, ad_argmax(ad_slice(x, 1, 2, 3), 1, false), 3, zeros);
        ad_argmax(x, 0, false);
        fails("ad_argmax: axis 0 is the row axis");
        ad_argmin(x, 2, false);
        fails("ad_argmin: axis 2 is out of range");
        ad_tape_free(t);
    }
    t = ad_tape_new(AD_F32);
    ad_argmax(ad_fill(t, AD_SHAPE((1 << 24) + 1), 0), 0, false);
    fails("2^24");
    ad_tape_free(t);
}
END_TEST

START_TEST(splitting)
{
    const double v[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 3, v), part[3], g;
        ad_split(x, 1, 3, (int64_t[]){ 1, 2, 1 }, part);
        everywhere(x, v, part[0], 3, (double[]){ 1, 5, 9 });
        everywhere(x, v, part[1], 6, (double[]){ 2, 3, 6, 7, 10, 11 });
        everywhere(x, v, part[2], 3, (double[]){ 4, 8, 12 });
        ad_grad(ad_sum_all(ad_square(part[2])), 1, &x, &g);
        everywhere(x, v, g, 12, (double[]){ 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0, 24 });
        ad_split(x, -1, 2, NULL, part);
        everywhere(x, v, part[1], 6, (double[]){ 3, 4, 7, 8, 11, 12 });
        ad_split(x, 1, 3, NULL, part);
        fails("ad_split: the axis does not fall into so many equal parts (give their sizes): the "
              "operand is [rows,4]");
        ck_assert(!ad_valid(part[0]) && !ad_valid(part[2]));
        ad_split(x, 1, 2, (int64_t[]){ 1, 2 }, part);
        fails("add up to the axis");
        ad_split(x, 1, 3, (int64_t[]){ 5, -2, 1 }, part);
        fails("must be positive");
        ad_split(x, 1, 2, (int64_t[]){ INT64_MAX, INT64_MAX }, part);
        fails("add up to the axis");
        ad_split(x, 0, 3, NULL, part);
        fails("axis 0 is the row axis");
        ad_tape_free(t);
    }
}
END_TEST

/* ---- rows without data ---- */

START_TEST(rows_given)
{
    const double v[] = { 1, 2, 3 };
    t = ad_tape_new(AD_F64);
    ad_var x = ad_broadcast(ad_param(t, AD_SHAPE(1, 3), v), AD_SHAPE(AD_ROWS, 3));
    ad_value(x);
    fails("ad_tape_set_rows");
    ck_assert(!ad_tape_set_rows(t, 2));
    ck_assert_int_eq(ad_tape_rows(t), 2);
    is(x, (double[]){ 1, 2, 3, 1, 2, 3 });
    ck_assert(!ad_tape_set_rows(t, 1));
    is(x, v);
    int32_t mark = ad_tape_mark(t);
    ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 2, v);
    fails("2 rows, but");
    ad_var y = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 1, v);
    ck_assert_int_eq(ad_tape_set_rows(t, 2), -1);
    fails("ad_tape_set_rows: 2 rows, but the row inputs of this tape have 1");
    ck_assert(!ad_set(y, 3, v));
    ck_assert_int_eq(ad_size(x), 9);
    ad_tape_rewind(t, mark);
    ck_assert_int_eq(ad_tape_rows(t), 3);
    ck_assert_int_eq(ad_tape_set_rows(t, 0), -1);
    fails("0 rows");
    ck_assert_int_eq(ad_tape_set_rows(NULL, 1), -1);
    ad_tape_free(t);
}
END_TEST

/* ---- an opaque operation knows its shapes ---- */

static int add_up(void *data, void *state, const ad_opaque_call *call)
{
    (void)state;
    const ad_shape *in = call->in_shape, *out = call->out_shape;
    ck_assert(in[0].rank == 2 && in[0].dim[0] == 3 && in[0].dim[1] == 4);
    ck_assert(in[1].rank == 1 && in[1].dim[0] == 2);
    ck_assert(call->out[0] ? out[0].rank == 1 && out[0].dim[0] == 3 : out[0].rank == -1);
    ck_assert(call->out[1] ? out[1].rank == 2 && out[1].dim[0] == 5 && out[1].dim[1] == 1
                           : out[1].rank == -1);
    for (int64_t i = 0; call->out[0] && i < 3; i++)
        ((double *)call->out[0])[i] = ((const double *)call->in[0])[4 * i];
    for (int64_t i = 0; call->out[1] && i < 5; i++)
        ((double *)call->out[1])[i] = ((const double *)call->in[1])[1];
    ++*(int *)data;
    return 0;
}
static const ad_opaque_class adder = { .name = "adder", .forward = add_up };

START_TEST(opaque_shapes)
{
    const double v[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
    dtype = AD_F64;
    t = ad_tape_new(dtype);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 4), 3, v), out[2];
    int runs = 0;
    ad_opaque(t, &adder, &runs, AD_VARS(x, ad_constant(t, AD_SHAPE(2), v)), 2,
              (ad_shape[]){ AD_SHAPE(AD_ROWS), AD_SHAPE(5, 1) }, out);
    everywhere(x, v, out[0], 3, (double[]){ 1, 5, 9 });
    everywhere(x, v, out[1], 5, (double[]){ 2, 2, 2, 2, 2 });
    ck_assert_int_gt(runs, 1);
    ad_tape_free(t);
}
END_TEST

/* ---- errors told at once ---- */

static void tell(const char *text, void *user) { snprintf(user, 4096, "%s", text); }

START_TEST(errors_told)
{
    const double v[] = { 1, 2, 3, 4, 5, 6 };
    char text[4096] = "";
    t = ad_tape_new(AD_F64);
    ad_tape_on_error(t, tell, text);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 3, v), w = ad_param(t, AD_SHAPE(3), v);
    ad_fill(t, AD_SHAPE(7), 1);
    ad_var y = ad_sin(ad_mul(x, ad_scale(x, 2)));
    ck_assert_str_eq(text, "");
    ad_add(y, w);
    ck_assert_str_eq(text, "ad_add: shapes do not broadcast (the row axis leads in operands of "
                           "equal rank): a is [rows,2], b is [3]\n"
                           "  computed from:\n"
                           "    %0 = ad_input_rows: [rows,2]\n"
                           "    %1 = ad_param: [3]\n"
                           "    %3 = ad_fill: []\n"
                           "    %4 = ad_mul(%0, %3): [rows,2]\n"
                           "    %5 = ad_mul(%0, %4): [rows,2]\n"
                           "    %6 = ad_sin(%5): [rows,2]\n");
    text[0] = 0;
    ad_add(y, w); /* the first error stands */
    ck_assert_str_eq(text, "");
    ad_tape_clear_error(t);
    ck_assert_ptr_null(ad_value(ad_neg(ad_input(t, AD_SHAPE(2), NULL))));
    ck_assert_msg(strstr(text, "an input has no value") &&
                      strstr(text, "computed from:\n    %7 = ad_input: [2]\n"),
                  "%s", text);
    ad_tape_clear_error(t);
    ad_tape_on_error(t, NULL, NULL);
    text[0] = 0;
    ad_add(y, w);
    ck_assert_str_eq(text, "");
    ad_tape_free(t);
    ad_tape_on_error(NULL, tell, text);
}
END_TEST

static ad_var two_shapes(ad_var time, ad_var y, const ad_var *args, void *user)
{
    (void)time;
    (void)user;
    return ad_add(y, args[0]);
}

/* In a process of its own: what it writes to stderr, and how it ends. */
static int written_by(const char *setting, void (*act)(void), char *text, size_t size)
{
    int ends[2], status;
    ck_assert(!pipe(ends));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = { 0, 0 };
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], 2);
        if (setting) setenv("COSTATE_ERRORS", setting, 1);
        else unsetenv("COSTATE_ERRORS");
        act();
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t n = 1; n > 0 && used + 1 < size; used += (size_t)n) {
        n = read(ends[0], text + used, size - used - 1);
        if (n < 0) n = 0;
    }
    text[used] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    return status;
}

static void field_fails(void)
{
    const double one[] = { 1, 2, 3 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, one),
           w = ad_param(tape, AD_SHAPE(3), one);
    ad_value(ode_solve_final(two_shapes, NULL, y0, 1, &w, ode_interval(tape, 0, 1), NULL));
    ad_tape_free(tape);
}

static void run_fails(void)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(1), NULL), y = ad_exp(x);
    ad_program *p = ad_compile(1, &x, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    ad_run(p, w, 0, (const void *[]){ NULL }, (void *[]){ NULL });
    ad_add((ad_var){ 0 }, (ad_var){ 0 });
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}

START_TEST(errors_printed)
{
    char text[8192];
    ck_assert_int_eq(written_by(NULL, field_fails, text, sizeof text), 0);
    ck_assert_str_eq(text, "");
    ck_assert_int_eq(written_by("print", field_fails, text, sizeof text), 0);
    ck_assert_msg(strstr(text, "costate: ad_add: shapes do not broadcast") == text, "%s", text);
    ck_assert_msg(strstr(text, "= ad_param: [3]\n") != NULL, "%s", text);
    int status = written_by("abort", field_fails, text, sizeof text);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    ck_assert_msg(strstr(text, "costate: ad_add") == text, "%s", text);
    ck_assert_int_eq(written_by("print", run_fails, text, sizeof text), 0);
    ck_assert_str_eq(text, "costate: ad_run: input 0 of shape [1] is NULL\ncostate: ad_add: no "
                           "operand is a variable of a tape\n");
}
END_TEST

/* ---- a recorded function at new data ---- */

START_TEST(evaluating)
{
    const double v[] = { 1, 2, 3, 4, 5, 6 }, weights[] = { 10, 100 }, ones[] = { 1, 1 };
    const float narrow[] = { 1, 2, 3, 4 };
    const double *data[] = { v }, *both[] = { ones, v }, *none[] = { NULL };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        double result[3] = { 0 };
        float small[2] = { 0 };
        double *results[] = { result, NULL };
        for (int round = 0; round < 2; round++) { /* an equal function after rewinding */
            ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 1, v + 4),
                   w = ad_param(t, AD_SHAPE(2), weights);
            ad_var y = ad_sum_axis(ad_mul(x, w), 1, false),
                   other = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 0, NULL);
            for (int again = 0; again < 3; again++) {
                ck_assert_msg(!ad_evaluate_f64(AD_VARS(x), data, 3, AD_VARS(y), results), "%s",
                              ad_tape_error(t));
                ck_assert(result[0] == 210 && result[1] == 430 && result[2] == 650);
                ck_assert(!ad_evaluate_f32(AD_VARS(x), (const float *[]){ narrow }, 2, AD_VARS(y),
                                           (float *[]){ small }));
                ck_assert(small[0] == 210 && small[1] == 430);
                /* The tape is as before. */
                ck_assert_int_eq(ad_tape_rows(t), 1);
                is(x, v + 4);
                is(y, (double[]){ 650 });
                ck_assert(!ad_evaluate_f64(AD_VARS(w, x), both, 2, AD_VARS(y, x), results));
                ck_assert(result[0] == 3 && result[1] == 7);
                ck_assert(!ad_evaluate_f64(AD_VARS(w), both, 1, AD_VARS(y), results));
                ck_assert(result[0] == 11);
            }
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(w), data, 2, AD_VARS(y), results), -1);
            fails("an input of shape [rows,2] that is not listed has 1 rows, the new data 2");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(x), data, 1,
                                             AD_VARS(ad_add(ad_sum_axis(other, 1, false), y)),
                                             results),
                             -1);
            fails("an input of shape [rows,1] has no data, and none are given");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(y), data, 1, AD_VARS(y), results), -1);
            fails("variable 0 is the result of ad_");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(x), none, 1, AD_VARS(y), results), -1);
            fails("the data of input 0 are NULL");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(x), data, 0, AD_VARS(y), results), -1);
            fails("the batch is empty");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(x), data, INT64_MAX / 4, AD_VARS(y), results),
                             -1);
            fails("rows are too many");
            ad_var spread = ad_add(w, ad_zeros_like(x)); /* rows that no input has */
            ck_assert_int_eq(
                ad_evaluate_f64(AD_VARS(w), data, INT64_MAX / 4, AD_VARS(spread), results), -1);
            fails("rows are too many");
            ck_assert_int_eq(
                ad_evaluate_f64(AD_VARS(w), data, INT64_MAX, AD_VARS(ad_row_count(t)), results),
                -1);
            fails("rows need more bytes than can be addressed");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(x), data, 1, AD_VARS(y), NULL), -1);
            fails("the list of results is NULL");
            ck_assert_int_eq(ad_evaluate_f64(AD_VARS(x), data, 1, 0, NULL, NULL), -1);
            ad_tape_clear_error(t);
            ad_tape_rewind(t, 0);
        }
        ad_tape_free(t);
    }
}
END_TEST

/* ---- evaluating from a field that is recorded anew at each step ---- */

typedef struct {
    ad_tape *tape;
    ad_var in, out; /* evaluated again by the field where they are given */
    int evaluated;
} from_field;

/* y' = -y; evaluates so many other functions that the tape's cache drops the one that is running.
 */
static ad_var crowding(ad_var time, ad_var y, const ad_var *args, void *user)
{
    from_field *f = user;
    (void)time;
    (void)args;
    for (int i = 0; i < 150; i++) {
        double one = 1, result = 0, factor = 1 + ++f->evaluated;
        ad_var x = ad_param(f->tape, AD_SHAPE(1), NULL), scaled = ad_scale(x, factor);
        const double *data[] = { &one };
        double *results[] = { &result };
        ck_assert_msg(!ad_evaluate_f64(AD_VARS(x), data, 1, AD_VARS(scaled), results), "%s",
                      ad_tape_error(f->tape));
        ck_assert(result == factor);
    }
    return ad_neg(y);
}

static ad_var within_itself(ad_var time, ad_var y, const ad_var *args, void *user)
{
    from_field *f = user;
    double one = 1, result = 0;
    const double *data[] = { &one };
    double *results[] = { &result };
    (void)time;
    (void)args;
    f->evaluated++;
    ck_assert_int_eq(ad_evaluate_f64(AD_VARS(f->in), data, 1, AD_VARS(f->out), results), -1);
    return ad_neg(y);
}

START_TEST(evaluating_from_a_field)
{
    const double one = 1;
    const double *data[] = { &one };
    double result = 0;
    double *results[] = { &result };
    const ode_options options = { .method = &ode_euler, .steps = 2, .rerecord = true };
    t = ad_tape_new(AD_F64);
    from_field f = { .tape = t };
    f.in = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var y = ode_solve_final(crowding, &f, f.in, 0, NULL, ode_interval(t, 0, 1), &options);
    for (int i = 0; i < 3; i++)
        ck_assert_msg(!ad_evaluate_f64(AD_VARS(f.in), data, 1, AD_VARS(y), results), "%s",
                      ad_tape_error(t));
    ck_assert(result == 0.25);
    f.out = ode_solve_final(within_itself, &f, f.in, 0, NULL, ode_interval(t, 0, 1), &options);
    f.evaluated = 0;
    ck_assert_int_eq(ad_evaluate_f64(AD_VARS(f.in), data, 1, AD_VARS(f.out), results), 0);
    ck_assert_int_gt(f.evaluated, 0);
    fails("this function is being evaluated already");
    ad_tape_free(t);
}
END_TEST

/* What a field may not do to the tape on which its solve is being evaluated. */
typedef struct {
    ad_var x, y;
    int deed;
    bool done;
} meddling;

static ad_var meddles(ad_var time, ad_var y, const ad_var *args, void *user)
{
    meddling *m = user;
    const double other[] = { 4, 5, 6 };
    ad_var gradient;
    (void)time;
    (void)args;
    if (m->done || m->y.tape == NULL) return ad_neg(y);
    m->done = true;
    if (m->deed == 0) ad_value(m->y);
    else if (m->deed == 1) ad_set(m->x, 3, other);
    else if (m->deed == 2) ad_set(m->x, 2, other);
    else if (m->deed == 3) ad_tape_rewind(m->x.tape, 0);
    else if (m->deed == 4) ad_tape_set_rows(m->x.tape, 7);
    else if (m->deed == 5) {
        ad_grad(ad_sum_all(m->y), AD_VARS(m->x), &gradient);
        ad_value(gradient);
    } else if (m->deed == 6) ad_check_gradient(ad_sum_all(m->y), AD_VARS(m->x), 0, NULL, NULL);
    else { /* what it has recorded itself may go */ int32_t mark = ad_tape_mark(m->x.tape);
        ad_item(ad_sum_all(m->x));
        ad_tape_rewind(m->x.tape, mark);
    }
    return ad_neg(y);
}

START_TEST(meddling_fields)
{
    const char *const wrong[] = { "is being evaluated already",
                                  "ad_set: this tape is being evaluated",
                                  "ad_set: this tape is being evaluated",
                                  "ad_tape_rewind: this tape is being evaluated",
                                  "ad_tape_set_rows: this tape is being evaluated",
                                  "is being evaluated already",
                                  "ad_check_gradient: this tape is being evaluated" };
    const double numbers[] = { 1, 2, 3 };
    const ode_options options = { .method = &ode_euler, .steps = 2, .rerecord = true };
    for (int deed = 0; deed < 8; deed++) {
        meddling m = { .deed = deed };
        t = ad_tape_new(AD_F64);
        m.x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 3, numbers);
        ad_var y = ode_solve_final(meddles, &m, m.x, 0, NULL, ode_interval(t, 0, 1), &options);
        m.y = y;
        const double *value = ad_value_f64(y);
        ck_assert(m.done);
        ck_assert_msg((deed < 7) == (ad_tape_error(t) != NULL), "%d: %s", deed,
                      ad_tape_error(t) ? ad_tape_error(t) : "no error");
        if (deed < 7) fails(wrong[deed]);
        else ck_assert(value && value[0] == 0.25);
        ad_tape_free(t);
    }
}
END_TEST

/* Pointers to values carry their type: what would be read wrongly is not given. */
START_TEST(values_of_a_type)
{
    const double numbers[] = { 1, -2.5 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        ad_var x = ad_neg(ad_param(t, AD_SHAPE(2), numbers));
        const float *narrow = ad_value_f32(x);
        if (dtype == AD_F64) {
            ck_assert_ptr_null(narrow);
            fails("ad_value_f32: the tape computes in double (ad_get");
        } else ck_assert(narrow && narrow[0] == -1 && narrow[1] == 2.5f);
        const double *wide = ad_value_f64(x);
        if (dtype == AD_F32) {
            ck_assert_ptr_null(wide);
            fails("ad_value_f64: the tape computes in float (ad_get");
        } else ck_assert(wide && wide[0] == -1 && wide[1] == 2.5);
        ad_tape_free(t);
    }
}
END_TEST

/* ---- messages name the function that the user called ---- */

static ad_var exploding(ad_var time, ad_var y, const ad_var *args, void *user)
{
    (void)time;
    (void)user;
    return ad_mul(args[0], ad_square(y));
}

static void explode(ad_tape *tape, int form, ad_var y0, ad_var rate, ad_var *y)
{
    ad_var times = ode_interval(tape, 0, 2), other;
    ode_cnf cnf = { .field = exploding, .horizon = 2 };
    if (form == 0) *y = ode_solve(exploding, NULL, y0, AD_VARS(rate), times, NULL);
    else if (form == 1) *y = ode_solve_final(exploding, NULL, y0, AD_VARS(rate), times, NULL);
    else if (form == 2) *y = ode_flow(exploding, NULL, y0, AD_VARS(rate), times, NULL, &other);
    else if (form == 3) *y = ode_cnf_encode(&cnf, y0, AD_VARS(rate));
    else *y = ode_solve_cost(exploding, exploding, NULL, y0, AD_VARS(rate), times, NULL, &other);
}

START_TEST(names_of_calls)
{
    const char *const names[] = { "ode_solve: step", "ode_solve_final: step", "ode_flow: step",
                                  "ode_cnf_encode: step", "ode_solve_cost: step" };
    const double one = 1;
    const double *data[] = { &one };
    double result;
    double *results[] = { &result };
    for (int form = 0; form < 5; form++) {
        t = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 1, &one),
               rate = ad_param(t, AD_SHAPE(1), &one), y;
        explode(t, form, y0, rate, &y);
        ck_assert_ptr_null(ad_value(y));
        ck_assert_msg(strstr(ad_tape_error(t), names[form]) == ad_tape_error(t), "%s",
                      ad_tape_error(t));
        ad_tape_clear_error(t);
        ck_assert_int_eq(ad_evaluate_f64(AD_VARS(y0), data, 1, AD_VARS(ad_sum_all(y)), results),
                         -1);
        fails(names[form]);
        ad_tape_free(t);
    }
}
END_TEST

/* ---- looking into a field ---- */

static FILE *seen;
static ad_var looked_at(ad_var time, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    (void)user;
    ad_print(seen, "time", time);
    ad_print(seen, "slope", ad_neg(y));
    ad_print(seen, "two", ad_scalar(y.tape, 2));
    return ad_neg(y);
}

START_TEST(printing_in_a_field)
{
    const double one = 1;
    char text[1024] = "";
    seen = tmpfile();
    t = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 1, &one);
    double y = ad_item(ode_solve_final(looked_at, NULL, y0, 0, NULL, ode_interval(t, 0, 1), NULL));
    ck_assert_msg(fabs(y - exp(-1)) < 1e-5, "%s",
                  ad_tape_error(t) ? ad_tape_error(t) : "a wrong value");
    rewind(seen);
    ck_assert(fread(text, 1, sizeof text - 1, seen) > 0);
    const char *why =
        "no value here: the field is traced once and replayed; set ode_options.rerecord";
    ck_assert_msg(strstr(text, "time [1,1]: ") == text && strstr(text, "\nslope [rows,1]: ") &&
                      strstr(text, why),
                  "%s", text);
    ck_assert_msg(strstr(text, "\ntwo [] 2\n") != NULL, "%s", text);
    fclose(seen);
    ad_tape_free(t);
}
END_TEST

static ad_var branches(ad_var t_, ad_var y, const ad_var *args, void *user)
{
    (void)t_, (void)args, (void)user;
    return ad_item(ad_sum_all(y)) > 0 ? ad_neg(y) : y;
}

/* The error of looking at a value where there is none says why, once, and what to do. */
START_TEST(branches_by_value)
{
    const double one = 1;
    t = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(t, AD_SHAPE(AD_ROWS, 1), 1, &one);
    ad_item(ode_solve_final(branches, NULL, y0, 0, NULL, ode_interval(t, 0, 1), NULL));
    const char *error = ad_tape_error(t), *why = "traced once and replayed";
    ck_assert_ptr_nonnull(error);
    const char *first = strstr(error, why);
    ck_assert_msg(first && !strstr(first + 1, why) && strstr(first, "set ode_options.rerecord"),
                  "%s", error);
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("front", "front");
    const TTest *tests[] = { data_of_either_type, conversion,          runs_of_a_type,
                             places_of_extremes,  splitting,           rows_given,
                             opaque_shapes,       errors_told,         errors_printed,
                             evaluating,          printing_in_a_field, evaluating_from_a_field,
                             values_of_a_type,    names_of_calls,      meddling_fields,
                             branches_by_value };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) tcase_add_test(c, tests[i]);
    return suite_run();
}
