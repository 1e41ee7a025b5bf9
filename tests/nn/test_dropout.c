/* Dropout: the law of masks, what they are a function of, masks in a solve, misuse. */
#include "tests/nn/layer_cases.h"
#include "ode/ode.h"

#define R(...) AD_SHAPE(AD_ROWS, __VA_ARGS__)

/* Elements of the mask [rows,size] of a draw, or of a draw for each row; the caller frees. */
static double *mask_of(ad_dtype dtype, double p, uint64_t seed, int64_t rows, int64_t size,
                       const double *draw, bool by_row)
{
    ad_tape *t = ad_tape_new(dtype);
    ad_var d = by_row ? ad_input_rows(t, R(1), rows, draw) : ad_input(t, AD_SHAPE(1), draw);
    if (!by_row) ad_tape_set_rows(t, rows);
    double *m = malloc((size_t)(rows * size) * sizeof *m);
    ck_assert_msg(!ad_get(nn_dropout_mask(t, R(size), p, seed, d), m), "%s", ad_tape_error(t));
    ad_tape_free(t);
    return m;
}

/* ---- the law --------------------------------------------------------------------------------- */

/* As many zeros as p says, to four standard deviations; the others are 1/(1-p); neighbours in the
 * row, rows, draws and seeds have nothing to do with each other. */
START_TEST(law)
{
    enum { ROWS = 300, SIZE = 401, N = ROWS * SIZE };
    const double p = _i ? 0.25 : 0.6, draws[2] = { 7, 8 };
    double *m[3];
    for (int k = 0; k < 3; k++)
        m[k] = mask_of(AD_F64, p, k == 2 ? 6 : 5, ROWS, SIZE, &draws[k == 1], false);
    const double kept = 1 / (1 - p);
    double zeros = 0, pairs[4] = { 0 }, deviation = sqrt(N * p * (1 - p));
    for (int i = 0; i < N; i++) {
        ck_assert(m[0][i] == 0 || fabs(m[0][i] - kept) < 1e-9);
        zeros += m[0][i] == 0;
        const double *const other[4] = { m[1] + i, m[2] + i, m[0] + (i + 1) % N,
                                         m[0] + (i + SIZE) % N };
        for (int k = 0; k < 4; k++) pairs[k] += m[0][i] == 0 && *other[k] == 0;
    }
    ck_assert_msg(fabs(zeros - N * p) < 4 * deviation, "%g zeros, not %g", zeros, N * p);
    deviation = sqrt(N * p * p * (1 - p * p));
    for (int k = 0; k < 4; k++)
        ck_assert_msg(fabs(pairs[k] - N * p * p) < 4 * deviation, "%d: %g, not %g", k, pairs[k],
                      N * p * p);
    for (int k = 0; k < 3; k++) free(m[k]);
}
END_TEST

/* Numbers that must never change: words of Philox with the key of seed 3 and draw 2, four of each
 * counter. */
START_TEST(words)
{
    enum { ROWS = 5, SIZE = 331, COUNTERS = (SIZE + 3) / 4 };
    const double draw = 2;
    ad_rng numbered = { 3, 2 };
    uint64_t key = ad_rng_split(&numbered).key;
    uint32_t low[COUNTERS], high[COUNTERS] = { 0 }, w[4 * COUNTERS];
    for (uint32_t i = 0; i < COUNTERS; i++) low[i] = i;
    for (int dtype = AD_F32; dtype <= AD_F64; dtype++) {
        double *m = mask_of((ad_dtype)dtype, 0.5, 3, ROWS, SIZE, &draw, false);
        for (int r = 0; r < ROWS; r++) {
            ad_random_words(key, (uint64_t)r, COUNTERS, low, high, w);
            for (int e = 0; e < SIZE; e++)
                ck_assert_double_eq(m[r * SIZE + e], w[e % 4 * COUNTERS + e / 4] >> 31 ? 2 : 0);
        }
        free(m);
    }
}
END_TEST

/* ---- what a mask is a function of ------------------------------------------------------------ */

static bool equal(const double *a, const double *b, int n)
{
    int same = 0;
    for (int i = 0; i < n; i++) same += a[i] == b[i];
    return same == n;
}

/* A row with a draw of its own has the same mask in any batch. */
START_TEST(draws_of_rows)
{
    const double draws[5] = { 4, 9, 4, 0, 123456 }, single = 123456;
    double *m = mask_of(AD_F64, 0.5, 1, 5, 33, draws, true);
    double *one = mask_of(AD_F64, 0.5, 1, 1, 33, &single, true);
    ck_assert(equal(m + 4 * 33, one, 33));
    ck_assert(equal(m, m + 2 * 33, 33));
    ck_assert(!equal(m, m + 33, 33));
    free(m);
    free(one);
}
END_TEST

/* Compiled once, run with other draws and on other numbers of threads. */
START_TEST(threads_do_not_change_bits)
{
    enum { ROWS = 500, SIZE = 70 };
    static float out[3][ROWS * SIZE], in[ROWS * SIZE];
    for (int i = 0; i < ROWS * SIZE; i++) in[i] = 1;
    ad_tape *t = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(t, R(SIZE), 0, (float *)NULL);
    ad_var draw = ad_input(t, AD_SHAPE(1), (float *)NULL), of[2] = { x, draw };
    ad_var y = nn_dropout(x, 0.3, 1, draw);
    ad_program *p = ad_compile(2, of, 1, &y);
    ck_assert_msg(p, "%s", ad_tape_error(t));
    share_always(p);
    for (int k = 0; k < 3; k++) {
        ad_workspace *w = ad_workspace_new(p, k ? 3 : 1);
        float number = k == 2 ? 11 : 10;
        ck_assert_int_eq(
            ad_run_f32(p, w, ROWS, (const float *[]){ in, &number }, (float *[]){ out[k] }), 0);
        ad_workspace_free(w);
    }
    ck_assert(!memcmp(out[0], out[1], sizeof out[0]));
    ck_assert(memcmp(out[0], out[2], sizeof out[0]));
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* The gradient is the mask, the second derivative that of what follows; no derivative by the draw.
 */
START_TEST(derivatives)
{
    double x[12], m[12], g[12], h[12];
    case_fill(x, 12, 1.3, 0.4);
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(t, R(4), 3, x), draw = ad_input(t, AD_SCALAR, (double[]){ 3 });
    ad_var y = nn_dropout(in, 0.5, 9, draw), by[2] = { in, draw }, of[2], again;
    ad_grad(ad_sum_all(ad_mul(ad_square(y), y)), 2, by, of);
    ad_grad(ad_sum_all(of[0]), 1, &in, &again);
    ad_get(nn_dropout_mask(t, R(4), 0.5, 9, draw), m);
    ad_get(of[0], g);
    ad_get(again, h);
    ck_assert_double_eq(ad_item(of[1]), 0);
    for (int i = 0; i < 12; i++) {
        ck_assert_double_eq_tol(g[i], 3 * pow(m[i], 3) * x[i] * x[i], 1e-13);
        ck_assert_double_eq_tol(h[i], 6 * pow(m[i], 3) * x[i], 1e-13);
    }
    ck_assert_ptr_null(ad_tape_error(t));
    ad_tape_free(t);
}
END_TEST

/* No draw: ones, which leave nothing in a program. */
START_TEST(evaluation)
{
    const ad_var none = { 0 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, R(3), 1, ((double[]){ 1, 2, 3 }));
    double y[3];
    ck_assert_int_eq(ad_get(nn_dropout(x, 0.9, 1, none), y), 0);
    for (int i = 0; i < 3; i++) ck_assert_double_eq(y[i], i + 1);
    ad_var draw = ad_input(t, AD_SHAPE(1), (double[]){ 0 });
    ck_assert_int_eq(ad_get(nn_dropout(x, 0, 1, draw), y), 0);
    for (int i = 0; i < 3; i++) ck_assert_double_eq(y[i], i + 1);
    ck_assert_int_eq(ad_get(nn_dropout(x, 1 - 0x1p-50, 1, draw), y), 0);
    for (int i = 0; i < 3; i++) ck_assert(y[i] == 0 || y[i] > 1e9);
    ad_tape_free(t);
}
END_TEST

/* Channels of signals. */
START_TEST(whole_channels)
{
    double ones[40], y[40];
    int kinds = 0;
    for (int i = 0; i < 40; i++) ones[i] = 1;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, R(5, 4), 2, ones), draw = ad_input(t, AD_SHAPE(1), (double[]){ 1 });
    ad_get(ad_mul(x, nn_dropout_mask(t, R(1, 4), 0.5, 1, draw)), y);
    for (int i = 0; i < 40; i++) {
        ck_assert_double_eq(y[i], y[i / 20 * 20 + i % 4]);
        kinds |= y[i] > 0 ? 1 : 2;
    }
    ck_assert_int_eq(kinds, 3);
    ad_tape_free(t);
}
END_TEST

/* ---- in a solve ------------------------------------------------------------------------------ */

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_neg(ad_mul(args[0], y));
}

/* y' = -m y with the mask m as an argument is exp(-m) y0 at t = 1; dy/dy0 likewise. */
START_TEST(one_mask_for_a_solve)
{
    enum { ROWS = 6, SIZE = 5, N = ROWS * SIZE };
    double y0[N], m[N], y[N], g[N];
    for (int i = 0; i < N; i++) y0[i] = 1 + i;
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, R(SIZE), ROWS, y0);
    ad_var draw = ad_input(t, AD_SHAPE(1), (double[]){ 17 });
    ad_var mask = nn_dropout_mask(t, R(SIZE), 0.5, 1, draw), gradient;
    ad_var end = ode_solve_final(decay, NULL, x, 1, &mask, ode_interval(t, 0, 1),
                                 &(ode_options){ .rtol = 1e-10, .atol = 1e-10 });
    ad_grad(ad_sum_all(end), 1, &x, &gradient);
    ck_assert_msg(!ad_get(end, y), "%s", ad_tape_error(t));
    ad_get(gradient, g);
    ad_get(mask, m);
    for (int i = 0; i < N; i++) {
        ck_assert_double_eq_tol(y[i], exp(-m[i]) * y0[i], 1e-7);
        ck_assert_double_eq_tol(g[i], exp(-m[i]), 1e-7);
    }
    ad_tape_free(t);
}
END_TEST

/* ---- misuse ---------------------------------------------------------------------------------- */

START_TEST(misuse_is_refused)
{
    const double bad[] = { -1, 0.5, NAN, 1e300 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(t, R(3), 2, ((double[]){ 1, 2, 3, 4, 5, 6 }));
    ad_var draw = ad_input(t, AD_SHAPE(1), (double[]){ 0 });
    ad_var by_row = ad_input_rows(t, R(1), 2, ((double[]){ 0, -3 }));
    case_refused(nn_dropout(x, 1, 1, draw), "p must be in [0,1), but is 1");
    case_refused(nn_dropout(x, -0.1, 1, draw), "p must be in [0,1), but is -0.1");
    case_refused(nn_dropout(x, NAN, 1, draw), "p must be in [0,1), but is nan");
    case_refused(nn_dropout(x, 0.5, 1, ad_none(t)), "draw is not a valid variable");
    case_refused(nn_dropout(ad_none(t), 0.5, 1, draw), "x is not a valid variable");
    case_refused(nn_dropout(x, 0.5, 1, x), "the draw [rows,3]; the draw must be [1]");
    case_refused(nn_dropout_mask(t, AD_SHAPE(4), 0.5, 1, by_row), "the mask is [4], the draw");
    ck_assert(!nn_dropout_mask(NULL, R(3), 0.5, 1, draw).tape);
    case_fails(nn_dropout(x, 0.5, 1, by_row), "nn_dropout_mask: the draw of row 1 (from 0) is -3");
    for (int i = 0; i < 4; i++) {
        ad_set(draw, 0, &bad[i]);
        case_fails(nn_dropout(x, 0.5, 1, draw), "but must be a whole number from 0 to 9007199");
    }
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("dropout", "dropout");
    tcase_add_loop_test(tests, law, 0, 2);
    tcase_add_test(tests, words);
    tcase_add_test(tests, draws_of_rows);
    tcase_add_test(tests, threads_do_not_change_bits);
    tcase_add_test(tests, derivatives);
    tcase_add_test(tests, evaluation);
    tcase_add_test(tests, whole_channels);
    tcase_add_test(tests, one_mask_for_a_solve);
    tcase_add_test(tests, misuse_is_refused);
    return suite_run();
}
