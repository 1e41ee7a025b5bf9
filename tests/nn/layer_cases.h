/* What tests of layers share. A case is a layer and its inputs; for each there are numbers of
 * PyTorch (tests/reference/digest.py): values, first and second derivatives. The same cases are run
 * in single precision, and compiled, with other rows beside a row and on other numbers of threads.
 */
#ifndef COSTATE_TESTS_LAYER_CASES_H
#define COSTATE_TESTS_LAYER_CASES_H
#include "autodiff/plan/program.h"
#include "nn/nn.h"
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CASE_INPUTS = 4, CASE_NAMES = 16, CASE_ROWS = 3, CASE_MOST = 4096 };

typedef struct {
    const char *name;
    const double *want; /* ten numbers */
    int ninput;         /* with derivatives; others follow them */
    int ngiven;
    ad_shape input[CASE_INPUTS];
    double (*given)(int k, int64_t i); /* elements of the k-th input without derivatives */
    /* Makes the layer; once for each model, before `apply`. */
    void (*make)(nn_model *model);
    ad_var (*apply)(ad_var theta, const ad_var *x);
    const char *parameter[CASE_NAMES]; /* in the order of the script */
    const char *fixed[2];
    bool mixes_rows; /* a row's result depends on the others */
} layer_case;

static inline void case_fill(double *x, int64_t n, double a, double b)
{
    for (int64_t i = 0; i < n; i++) x[i] = sin(a * (double)i + b);
}

/* theta with the numbers of the script; the caller frees. */
static inline double *case_theta(const layer_case *c, const nn_model *model)
{
    double *theta = calloc((size_t)nn_model_size(model) + 1, sizeof *theta);
    ad_shape s;
    for (int k = 0; k < CASE_NAMES && c->parameter[k]; k++) {
        int64_t at = nn_model_find(model, c->parameter[k], &s);
        ck_assert_msg(at >= 0, "%s has no %s", c->name, c->parameter[k]);
        case_fill(theta + at, ad_count(s, 1), 0.9, 0.1 + k);
    }
    for (int k = 0; k < 2 && c->fixed[k]; k++) {
        int64_t at = nn_model_find(model, c->fixed[k], &s), n = ad_count(s, 1);
        case_fill(theta + at, n, 0.9, 0.1 + k);
        for (int64_t i = 0; i < n; i++) theta[at + i] = theta[at + i] * theta[at + i] + 0.5;
    }
    return theta;
}

static inline void case_elements(const layer_case *c, int k, int64_t n, double *x)
{
    if (k < c->ninput) case_fill(x, n, 1.3, 0.4 + k);
    for (int64_t i = 0; i < n && k >= c->ninput; i++) x[i] = c->given(k - c->ninput, i);
}

static inline ad_var case_input(const layer_case *c, int k, ad_tape *t)
{
    double x[CASE_MOST];
    ad_shape s = c->input[k];
    case_elements(c, k, ad_count(s, CASE_ROWS), x);
    return ad_has_rows(s) ? ad_input_rows(t, s, CASE_ROWS, x) : ad_input(t, s, x);
}

/* ---- against PyTorch ------------------------------------------------------------------------- */

/* Sum, and product with cosines, of the elements of all arrays, one after the other. */
static inline void case_digest(const layer_case *c, const char *what, int n, const ad_var *arrays,
                               const double *want, double tolerance)
{
    double v[CASE_MOST], sum = 0, product = 0, scale = 1;
    int64_t place = 0;
    for (int k = 0; k < n; k++) {
        int64_t size = ad_size(arrays[k]);
        ck_assert_msg(size > 0 && size <= CASE_MOST && ad_get(arrays[k], v) == 0, "%s, %s: %s",
                      c->name, what, ad_tape_error(arrays[k].tape));
        for (int64_t i = 0; i < size; i++, place++) {
            sum += v[i];
            product += v[i] * cos(0.7 * (double)place + 0.2);
            scale += fabs(v[i]);
        }
    }
    ck_assert_msg(fabs(sum - want[0]) <= tolerance * scale &&
                      fabs(product - want[1]) <= tolerance * scale,
                  "%s, %s: %.15g %.15g, PyTorch has %.15g %.15g", c->name, what, sum, product,
                  want[0], want[1]);
}

/* The cotangents of the parameters, out of that of theta. */
static inline int case_parameters(const layer_case *c, const nn_model *model, ad_var of_theta,
                                  ad_var *out)
{
    int n = 0;
    for (; n < CASE_NAMES && c->parameter[n]; n++) {
        ad_shape s;
        int64_t at = nn_model_find(model, c->parameter[n], &s);
        out[n] = ad_slice(of_theta, 0, at, at + ad_count(s, 1));
    }
    return n;
}

static inline ad_var case_squares(ad_var sum, int n, const ad_var *x)
{
    for (int i = 0; i < n; i++) sum = ad_add(sum, ad_sum_all(ad_square(x[i])));
    return sum;
}

static inline void case_check(const layer_case *c, ad_dtype dtype, double tolerance)
{
    nn_model *model = nn_model_new();
    c->make(model);
    if (c->parameter[0]) ck_assert_msg(!nn_model_error(model), "%s", nn_model_error(model));
    double *numbers = case_theta(c, model), weights[CASE_MOST];
    ad_tape *t = ad_tape_new(dtype);
    ad_var x[CASE_INPUTS + 1], g[CASE_INPUTS + 1], h[CASE_INPUTS + 1];
    ad_var gp[CASE_NAMES], hp[CASE_NAMES];
    for (int k = 0; k < c->ninput + c->ngiven; k++) x[k] = case_input(c, k, t);
    ad_var theta = ad_param(t, AD_SHAPE(nn_model_size(model)), numbers), y = c->apply(theta, x);
    ck_assert_msg(ad_valid(y), "%s: %s", c->name, ad_tape_error(t));
    const int n = c->ninput;
    x[n] = theta;
    ad_shape s = ad_shape_of(y);
    case_fill(weights, ad_count(s, CASE_ROWS), 0.8, 0.6);
    ad_var w =
        ad_has_rows(s) ? ad_input_rows(t, s, CASE_ROWS, weights) : ad_constant(t, s, weights);
    ad_grad(ad_sum_all(ad_mul(w, ad_square(y))), n + 1, x, g);
    int np = case_parameters(c, model, g[n], gp);
    ad_grad(case_squares(case_squares(ad_scalar(t, 0), n, g), np, gp), n + 1, x, h);
    case_parameters(c, model, h[n], hp);
    case_digest(c, "value", 1, &y, c->want, tolerance);
    case_digest(c, "gradient by inputs", n, g, c->want + 2, tolerance);
    case_digest(c, "gradient by parameters", np, gp, c->want + 4, tolerance);
    case_digest(c, "second derivative by inputs", n, h, c->want + 6, tolerance);
    case_digest(c, "second derivative by parameters", np, hp, c->want + 8, tolerance);
    ad_tape_free(t);
    free(numbers);
    nn_model_free(model);
}

/* ---- rows and threads ------------------------------------------------------------------------ */

/* Value and gradient by the first input, compiled: the same bits on one thread and on three, and of
 * a row by itself. */
static inline void case_rows_and_threads(const layer_case *c)
{
    enum { ROWS = 150, ROW = 77 };
    nn_model *model = nn_model_new();
    c->make(model);
    double *numbers = case_theta(c, model), *in[CASE_INPUTS + 1], *out[2][2];
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x[CASE_INPUTS + 1], y, g;
    const int n = c->ninput + c->ngiven;
    int64_t row[CASE_INPUTS + 1] = { 0 }, of_row[2];
    for (int k = 0; k < n; k++) {
        ad_shape s = c->input[k];
        const int64_t count = ad_count(s, ROWS);
        row[k] = ad_has_rows(s) ? ad_row_size(s) : 0;
        in[k] = malloc((size_t)count * sizeof(double));
        case_elements(c, k, count, in[k]);
        x[k] = ad_has_rows(s) ? ad_input_rows(t, s, 0, (double *)NULL)
                              : ad_input(t, s, (double *)NULL);
    }
    x[n] = ad_param(t, AD_SHAPE(nn_model_size(model)), (double *)NULL);
    in[n] = numbers;
    y = c->apply(x[n], x);
    const int by = c->ninput ? 0 : n;
    ad_grad(ad_sum_all(ad_square(y)), 1, &x[by], &g);
    ad_program *p = ad_compile(n + 1, x, 2, (ad_var[]){ y, g });
    ck_assert_msg(p, "%s: %s", c->name, ad_tape_error(t));
    share_always(p);
    const ad_shape shape[2] = { ad_shape_of(y), ad_shape_of(g) };
    for (int k = 0; k < 2; k++) {
        for (int j = 0; j < 2; j++)
            out[k][j] = calloc((size_t)ad_count(shape[j], ROWS), sizeof(double));
        ad_workspace *w = ad_workspace_new(p, k ? 3 : 1);
        ck_assert_msg(!ad_run_f64(p, w, ROWS, (const double *const *)in, out[k]), "%s: %s", c->name,
                      ad_workspace_error(w));
        ad_workspace_free(w);
    }
    for (int j = 0; j < 2; j++)
        ck_assert_msg(
            !memcmp(out[0][j], out[1][j], (size_t)ad_count(shape[j], ROWS) * sizeof(double)),
            "%s: threads change bits", c->name);
    const double *single[CASE_INPUTS + 1];
    for (int k = 0; k <= n; k++) single[k] = in[k] + ROW * row[k];
    ad_workspace *w = ad_workspace_new(p, 1);
    if (!c->mixes_rows) {
        ck_assert_int_eq(ad_run_f64(p, w, 1, single, out[1]), 0);
        for (int j = 0; j < 2; j++) {
            of_row[j] = ad_has_rows(shape[j]) ? ad_row_size(shape[j]) : 0;
            ck_assert_msg(
                !memcmp(out[0][j] + ROW * of_row[j], out[1][j], (size_t)of_row[j] * sizeof(double)),
                "%s: other rows change bits", c->name);
        }
    }
    ad_workspace_free(w);
    for (int k = 0; k < 4; k++) free(out[k / 2][k % 2]);
    for (int k = 0; k <= n; k++) free(in[k]);
    ad_program_free(p);
    ad_tape_free(t);
    nn_model_free(model);
}

/* ---- misuse ---------------------------------------------------------------------------------- */

/* The result of a call that is refused with these words. */
static inline void case_refused(ad_var y, const char *words)
{
    const char *error = ad_tape_error(y.tape);
    ck_assert(!ad_valid(y));
    ck_assert_msg(error && strstr(error, words), "\"%s\" without \"%s\"", error ? error : "",
                  words);
    ad_tape_clear_error(y.tape);
}

/* The same where it is the value that cannot be computed. */
static inline void case_fails(ad_var y, const char *words)
{
    ck_assert_msg(ad_valid(y), "%s", ad_tape_error(y.tape));
    ck_assert_ptr_null(ad_value(y));
    const char *error = ad_tape_error(y.tape);
    ck_assert_msg(error && strstr(error, words), "\"%s\" without \"%s\"", error ? error : "",
                  words);
    ad_tape_clear_error(y.tape);
}

/* Making a layer is refused: the model's error. Frees the model. */
static inline void case_unmade(nn_model *model, const char *words)
{
    const char *error = nn_model_error(model);
    ck_assert_msg(error && strstr(error, words), "\"%s\" without \"%s\"", error ? error : "",
                  words);
    nn_model_free(model);
}

/* All cases, each of which `cases` has: against PyTorch in both types, rows and threads. */
#define CASE_TESTS(cases)                                                                          \
    START_TEST(agrees_with_pytorch) { case_check(&cases[_i], AD_F64, 1e-12); }                     \
    END_TEST                                                                                       \
    START_TEST(agrees_in_single_precision) { case_check(&cases[_i], AD_F32, 1e-4); }               \
    END_TEST                                                                                       \
    START_TEST(rows_and_threads_do_not_change_bits) { case_rows_and_threads(&cases[_i]); }         \
    END_TEST                                                                                       \
    static void add_case_tests(TCase *tests)                                                       \
    {                                                                                              \
        const int n = (int)(sizeof cases / sizeof *cases);                                         \
        tcase_add_loop_test(tests, agrees_with_pytorch, 0, n);                                     \
        tcase_add_loop_test(tests, agrees_in_single_precision, 0, n);                              \
        tcase_add_loop_test(tests, rows_and_threads_do_not_change_bits, 0, n);                     \
    }
#endif
