/* What a gradient conserves along a solution, as a check of it: gradients that are wrong where the
 * solution is right are errors, others are not. Right values are those at tolerances of 1e-10, in
 * double precision, by another method. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static ad_var part(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }
static ad_var pair(ad_var a, ad_var b) { return ad_concatenate(2, (ad_var[]){ a, b }, 1); }

static ad_var van_der_pol(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), v = part(y, 1), one = ad_ones_like(x);
    return pair(v, ad_sub(ad_mul(ad_mul(args[0], ad_sub(one, ad_square(x))), v), x));
}

/* The same with v in units that are a million times as small. */
static ad_var in_small_units(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var f = van_der_pol(t, pair(part(y, 0), ad_scale(part(y, 1), 1e-6)), args, user);
    return pair(part(f, 0), ad_scale(part(f, 1), 1e6));
}

/* The same backwards in time. */
static ad_var backwards(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_neg(van_der_pol(t, y, args, user));
}

static ad_var kepler(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var q = ad_slice(y, 1, 0, 2), v = ad_slice(y, 1, 2, 4);
    ad_var r2 = ad_sum_axis(ad_square(q), 1, true);
    return pair(v, ad_neg(ad_mul(q, ad_div(args[0], ad_mul(r2, ad_sqrt(r2))))));
}

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_neg(ad_mul(y, args[0]));
}

/* At rest in the end, where a gradient has decayed. */
static ad_var flame(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], ad_mul(ad_square(y), ad_sub(ad_ones_like(y), y)));
}

/* A fast first component, that begins far from where the slow one has it. */
static ad_var fast_start(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), w = part(y, 1);
    return pair(ad_mul(args[0], ad_sub(ad_square(w), x)), ad_mul(ad_sub(ad_cos(x), w), w));
}

static ad_var pendulum(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), v = part(y, 1);
    return pair(v, ad_neg(ad_add(ad_mul(ad_sin(x), args[0]), ad_scale(v, 0.1))));
}

typedef struct {
    const char *name;
    ode_field field;
    int n;
    double y0[4], p, end;
} problem;

enum { ALL = -1, MOST = 5 };
/* The gradient of the last state's component (or of the sum of ALL), by y0 and p: [n + 1]. times:
 * outputs, all but the last without effect. NULL, or the error. */
static const char *gradient(const problem *q, int component, const ode_options *o, ad_dtype dtype,
                            int times, double *bar)
{
    static char error[1024];
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, q->n), 1, q->y0);
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &q->p), by[2];
    double from = q->field == backwards ? q->end : 0, to = q->end - from;
    ad_var y = ode_solve(q->field, NULL, y0, 1, &p, ode_linspace(tape, from, to, times), o);
    ad_var last = ad_reshape(ad_slice(y, 1, times - 1, times), AD_SHAPE(AD_ROWS, q->n));
    if (component != ALL) last = part(last, component);
    ad_grad(ad_sum_all(last), 2, (ad_var[]){ y0, p }, by);
    bool failed = ad_get(by[0], bar) || ad_get(by[1], bar + q->n);
    if (failed) snprintf(error, sizeof error, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    return failed ? error : NULL;
}

/* How far it is off, relative to the largest part; parts by p relative to p. */
static double off(const problem *q, const double *bar, const double *right)
{
    double most = 0, size = 0;
    for (int i = 0; i <= q->n; i++) {
        double unit = i < q->n ? 1 : q->p;
        most = fmax(most, unit * fabs(bar[i] - right[i]));
        size = fmax(size, unit * fabs(right[i]));
    }
    return most / size;
}

static const problem wrong[] = {
    { "van der Pol, mu = 5", van_der_pol, 2, { 2, 0 }, 5, 60 },
    { "van der Pol, mu = 30", van_der_pol, 2, { 2, 0 }, 30, 100 },
    { "van der Pol, mu = 100", van_der_pol, 2, { 2, 0 }, 100, 200 },
    { "van der Pol, mu = 1000", van_der_pol, 2, { 2, 0 }, 1000, 2000 },
    { "van der Pol, backwards", backwards, 2, { 2, 0 }, 30, 100 },
    { "Kepler, e = 0.64", kepler, 4, { 1, 0, 0, 0.6 }, 1, 20 },
    { "van der Pol, mu = 15, v in small units", in_small_units, 2, { 2, 0 }, 15, 20 },
};

/* Which of them are off by a tenth and more, by this method at default tolerances. */
static const struct {
    int problem;
    const ode_method *method;
    ad_dtype dtype;
} cases[] = {
    { 0, &ode_dopri5, AD_F32 }, { 1, &ode_dopri5, AD_F32 },   { 1, &ode_bosh3, AD_F32 },
    { 2, &ode_dopri8, AD_F32 }, { 2, &ode_kvaerno3, AD_F32 }, { 2, &ode_trbdf2, AD_F32 },
    { 3, &ode_trbdf2, AD_F64 }, { 3, &ode_kvaerno3, AD_F64 }, { 3, &ode_kvaerno4, AD_F64 },
    { 4, &ode_dopri5, AD_F32 }, { 5, &ode_dopri5, AD_F32 },   { 5, &ode_tsit5, AD_F32 },
    { 6, &ode_dopri5, AD_F32 },
};

START_TEST(wrong_gradients_are_errors)
{
    const problem *q = &wrong[cases[_i].problem];
    const ode_method *method = cases[_i].method;
    ad_dtype dtype = cases[_i].dtype;
    double bar[MOST], right[MOST];
    ode_stats stats = { 0 };
    ode_options tight = { .method = &ode_kvaerno5, .rtol = 1e-10, .atol = 1e-12 };
    const char *error = gradient(q, ALL, &tight, AD_F64, 2, right);
    ck_assert_msg(!error, "%s", error);
    for (int component = ALL; component < 2; component += 2) { /* the second one is the fast one */
        if (q->field == kepler && component != ALL) continue;
        ode_options o = { .method = method, .stats = &stats };
        error = gradient(q, component, &o, dtype, 2, bar);
        ck_assert_msg(error && strstr(error, "the gradient is not that of the solution: a^T f"),
                      "%s, %s: %s", q->name, ode_method_name(method), error ? error : "no error");
        ck_assert(strstr(error, "in row 0"));
        ck_assert_double_gt(stats.costate_drift, 0.1);
    }
    /* What is refused is wrong; what is not is no more so with tolerances that suit it. */
    ode_options any = { .method = method, .costate_drift = INFINITY };
    error = gradient(q, ALL, &any, dtype, 2, bar);
    ck_assert_msg(!error, "%s", error);
    ck_assert_msg(off(q, bar, right) > 0.1, "%s, %s is off by %g only", q->name,
                  ode_method_name(method), off(q, bar, right));
    ode_options finer = { .method = &ode_kvaerno5, .rtol = 1e-9, .atol = 1e-11 };
    error = gradient(q, ALL, &finer, AD_F64, 2, bar);
    ck_assert_msg(!error, "%s", error);
    ck_assert_double_lt(off(q, bar, right), 0.1);
    ode_stats_clear(&stats);
}
END_TEST

/* Little by little between many outputs. */
START_TEST(drifts_add_up)
{
    double bar[MOST];
    ode_options o = { 0 };
    const char *error = gradient(&wrong[0], ALL, &o, AD_F32, 7, bar);
    ck_assert_msg(error && strstr(error, "a^T f"), "%s", error ? error : "no error");
}
END_TEST

static const problem fine[] = {
    { "decay", decay, 1, { 1 }, 1e4, 3 },
    { "slow decay", decay, 1, { 1 }, 30, 1 },
    { "flame", flame, 1, { 0.01 }, 1, 200 },
    { "ignition", flame, 1, { 1e-4 }, 1, 20000 },
    { "fast start", fast_start, 2, { 2, 0.5 }, 1e3, 3 },
    { "faster start", fast_start, 2, { 2, 0.5 }, 1e7, 3 },
    { "rest", pendulum, 2, { 0, 0 }, 1, 20 },
    { "pendulum", pendulum, 2, { 3, 0 }, 1, 20 },
    { "pendulum that comes to rest", pendulum, 2, { 3, 0 }, 1, 200 },
    { "van der Pol, mu = 1", van_der_pol, 2, { 2, 0 }, 1, 20 },
    { "Kepler, e = 0.44", kepler, 4, { 1, 0, 0, 1.2 }, 1, 20 },
};
enum { FINE = sizeof fine / sizeof fine[0] };
static const ode_method *const methods[] = { &ode_trbdf2,   &ode_kvaerno3, &ode_kvaerno4,
                                             &ode_kvaerno5, &ode_dopri5,   &ode_tsit5,
                                             &ode_dopri8,   &ode_bosh3 };
enum { METHODS = sizeof methods / sizeof methods[0], IMPLICIT = 4 };

START_TEST(others_are_not)
{
    const ode_method *method = methods[_i / 2];
    ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    for (int i = 0; i < FINE; i++) {
        const problem *q = &fine[i];
        if (_i / 2 >= IMPLICIT && q->p * q->end > 1e4) continue; /* too stiff for them */
        for (int component = ALL; component < q->n && component < 2; component++) {
            double bar[MOST];
            ode_options o = { .method = method };
            const char *error = gradient(q, component, &o, dtype, component == ALL ? 5 : 2, bar);
            ck_assert_msg(!error, "%s, %s, component %d, %s: %s", q->name, ode_method_name(method),
                          component, dtype == AD_F32 ? "f32" : "f64", error);
        }
    }
}
END_TEST

/* In the row that it is about, beside others that are right. */
START_TEST(names_the_row)
{
    const double y0[] = { 2, 0, 2, 0, 2, 0 }, mu[] = { 1, 1.5, 5 };
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, y0);
    ad_var p = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, mu), bar;
    ad_var end = ode_solve_final(van_der_pol, NULL, y, 1, &p, ode_interval(tape, 0, 60), NULL);
    ad_grad(ad_sum_all(end), 1, &p, &bar);
    ck_assert_ptr_null(ad_value(bar));
    ck_assert_msg(strstr(ad_tape_error(tape), "in row 2"), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* Decays to less than the tolerance; a disturbed state is negative, and has no logarithm. */
static ad_var gompertz(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(y, ad_sub(ad_scale(ad_log(y), 0.01), args[0]));
}

START_TEST(fields_may_end_beside_the_solution)
{
    const problem q = { "gompertz", gompertz, 1, { 0.5 }, 3, 10 };
    for (int i = 0; i < METHODS; i++) {
        if (i > 0 && i < IMPLICIT) continue; /* Newton's iterations are negative, too */
        double bar[MOST];
        ode_options o = { .method = methods[i], .costate_drift = 1e-15 };
        const char *error = gradient(&q, ALL, &o, AD_F64, 2, bar);
        ck_assert_msg(!error, "%s: %s", ode_method_name(methods[i]), error);
    }
}
END_TEST

static bool stop_early(const ode_accepted_step *step, void *user)
{
    (void)user;
    return step->t < 5;
}

/* A solve that ended before all that it is asked for has the gradient 0. */
START_TEST(nothing_was_reached)
{
    const double y0[] = { 2, 0 }, mu = 1, asked[] = { 18, 19 };
    double bar;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, y0),
           p = ad_param(tape, AD_SHAPE(1, 1), &mu);
    ode_options o = { .partial = true, .on_step = stop_early };
    ode_dense dense;
    ck_assert(!ode_solve_dense(&dense, van_der_pol, NULL, y, 1, &p, ode_interval(tape, 0, 20), &o));
    ad_var at = ode_dense_at(&dense, ad_constant(tape, AD_SHAPE(2), asked)), by;
    ad_var none = ad_constant(tape, AD_SHAPE(1, 2, 1), (double[]){ 0, 0 });
    ad_grad(ad_sum_all(ad_select(none, at, ad_zeros_like(at))), 1, &p, &by);
    ck_assert_msg(!ad_get(by, &bar), "%s", ad_tape_error(tape));
    ck_assert_double_eq(bar, 0);
    ad_tape_free(tape);
}
END_TEST

START_TEST(limits_are_checked)
{
    static const double limits[] = { -1, NAN };
    for (int i = 0; i < 2; i++) {
        double bar[MOST];
        ode_options o = { .costate_drift = limits[i] };
        const char *error = gradient(&fine[0], ALL, &o, AD_F64, 2, bar);
        ck_assert_msg(error && strstr(error, "options.costate_drift"), "%s", error);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("conserved", "conserved");
    tcase_add_loop_test(tests, wrong_gradients_are_errors, 0, sizeof cases / sizeof cases[0]);
    tcase_add_test(tests, drifts_add_up);
    tcase_add_loop_test(tests, others_are_not, 0, 2 * METHODS);
    tcase_add_test(tests, names_the_row);
    tcase_add_test(tests, fields_may_end_beside_the_solution);
    tcase_add_test(tests, nothing_was_reached);
    tcase_add_test(tests, limits_are_checked);
    return suite_run();
}
