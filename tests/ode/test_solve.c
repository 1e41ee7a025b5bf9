/* Solving: problems with known solutions in both types and directions, step control, replay,
 * implicit methods, bad input. */
#include "autodiff/extension.h"
#include "costate.h"
#include "lotka.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static ad_var rows_of(ad_tape *tape, int64_t rows, int64_t d, const double *x)
{
    return ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), rows, x);
}

/* ---- problems with known solutions: ten points from 1 to 8 ---- */

static ad_var constant_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var d = ad_shift(ad_sub(y, ad_scale(t, 0.2)), -3);
    return ad_shift(ad_mul(ad_square(ad_square(d)), d), 0.2);
}

static void constant_solution(double t, double *y) { y[0] = 0.2 * t + 3; }

static ad_var sine_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var t2 = ad_square(t), t3 = ad_mul(t2, t);
    ad_var force =
        ad_add(ad_sub(ad_mul(ad_square(t2), ad_sin(ad_scale(t, 2))), t2), ad_scale(t3, 4));
    return ad_add(ad_div(ad_scale(y, 2), t), force);
}

static void sine_solution(double t, double *y)
{
    double t2 = t * t, t3 = t2 * t, t4 = t2 * t2;
    y[0] = -t4 * cos(2 * t) / 2 + t3 * sin(2 * t) / 2 + t2 * cos(2 * t) / 4 - t3 + 2 * t4 +
           (acos(-1) - 0.25) * t2;
}

enum { N = 10 };

/* A = U - U^T, the u of order 0.1. */
static void linear_matrix(double *a)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i * N + j] = 0.15 * (sin(3.7 * i * i + 1.3 * j) - sin(3.7 * j * j + 1.3 * i));
}

static ad_var linear_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    double a[N * N];
    (void)t, (void)args, (void)user;
    linear_matrix(a);
    return ad_matmul(y, ad_transpose(ad_constant(y.tape, AD_SHAPE(N, N), a), (int[]){ 1, 0 }));
}

/* expm(A t) 1 by its series, in short pieces. */
static void linear_solution(double t, double *y)
{
    double a[N * N], term[N], next[N];
    linear_matrix(a);
    for (int i = 0; i < N; i++) y[i] = 1;
    for (int piece = 0; piece < 64; piece++) {
        memcpy(term, y, sizeof term);
        for (int k = 1; k < 14; k++) {
            for (int i = 0; i < N; i++) {
                next[i] = 0;
                for (int j = 0; j < N; j++) next[i] += a[i * N + j] * term[j] * t / 64 / k;
            }
            memcpy(term, next, sizeof term);
            for (int i = 0; i < N; i++) y[i] += term[i];
        }
    }
}

static ad_var exp_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_scale(ad_exp(ad_scale(t, -0.1)), -0.1); /* [1,1]: broadcasts to the state */
}

static void exp_solution(double t, double *y) { y[0] = exp(-0.1 * t) + 2; }

typedef struct {
    const char *name;
    ode_field field;
    void (*solution)(double t, double *y);
    int64_t d;
} known_problem;

static const known_problem known[] = { { "constant", constant_field, constant_solution, 1 },
                                       { "sine", sine_field, sine_solution, 1 },
                                       { "linear", linear_field, linear_solution, N },
                                       { "exp", exp_field, exp_solution, 1 } };

static double worst_error(const known_problem *p, const ode_options *o, ad_dtype dtype,
                          bool backwards)
{
    enum { T = 10 };
    ad_tape *tape = ad_tape_new(dtype);
    double y0[N], exact[N], y[T * N], from = backwards ? 8 : 1, to = backwards ? 1 : 8, worst = 0;
    p->solution(from, y0);
    ad_var end = ode_solve(p->field, NULL, rows_of(tape, 1, p->d, y0), 0, NULL,
                           ode_linspace(tape, from, to, T), o);
    get(end, y);
    for (int j = 0; j < T; j++) {
        double scale = 0, error = 0;
        p->solution(from + (to - from) * j / (T - 1), exact);
        for (int64_t i = 0; i < p->d; i++) {
            scale = fmax(scale, fabs(exact[i]));
            error = fmax(error, fabs(y[j * p->d + i] - exact[i]));
        }
        worst = fmax(worst, error / scale);
    }
    ad_tape_free(tape);
    return worst;
}

/* Adaptive methods at rtol 1e-7, atol 1e-9 (f32: 1e-5, 1e-6), fixed ones with steps that suit their
 * order. Bounds: relative to the solution. */
START_TEST(known_solutions)
{
    const ode_method *m = ode_methods()[_i];
    for (int k = 0; k < COUNT(known) * 4; k++) {
        const known_problem *p = &known[k / 4];
        bool f32 = k & 1, backwards = k & 2;
        int order = ode_method_order(m);
        ode_options o = { .method = m, .rtol = f32 ? 1e-5 : 1e-7, .atol = f32 ? 1e-6 : 1e-9 };
        if (f32 && m == &ode_kvaerno5) o.rtol = 1e-6; /* it hardly sees the errors of large steps */
        if (!ode_method_adaptive(m)) o.steps = order == 1 ? 500 : order == 2 ? 200 : 40;
        double error = worst_error(p, &o, f32 ? AD_F32 : AD_F64, backwards);
        double bound = order == 1                            ? 4e-2
                       : f32                                 ? 3e-4
                       : ode_method_adaptive(m) && order > 2 ? 2e-6
                                                             : 2e-4;
        if (order == 2 && f32) bound = 2e-3;
        if (ode_method_adaptive(m)) bound *= method_slack(m);
        ck_assert_msg(error < bound, "%s, %s, %s, %s: %g", ode_method_name(m), p->name,
                      f32 ? "f32" : "f64", backwards ? "backwards" : "forwards", error);
    }
}
END_TEST

/* ---- step control ---- */

/* The largest error at 41 times, and the steps, which interior times do not change. */
static double error_at_tolerance(const ode_method *m, double tolerance, const double *from)
{
    double exact[41 * 2], y[41 * 2], error = 0;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, from),
           p = ad_constant(tape, AD_SHAPE(4), lotka_p);
    ode_options reference = { .method = &ode_dopri8, .steps = 40 };
    get(ode_solve(lotka, NULL, y0, 1, &p, ode_linspace(tape, 0, 4, 41), &reference), exact);
    ode_stats dense = { 0 }, final = { 0 };
    ode_options o = { .method = m, .rtol = tolerance, .atol = tolerance, .stats = &dense };
    get(ode_solve(lotka, NULL, y0, 1, &p, ode_linspace(tape, 0, 4, 41), &o), y);
    for (int i = 0; i < 82; i++) error = fmax(error, fabs(y[i] - exact[i]));
    o.stats = &final;
    get(ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 4), &o), y);
    ck_assert_int_eq(dense.steps, final.steps);
    ck_assert_int_eq(dense.rejected, final.rejected);
    ck_assert_double_eq(ode_steps_times(final.steps_taken)[final.steps], 4);
    ode_stats_clear(&dense);
    ode_stats_clear(&final);
    ad_tape_free(tape);
    return error;
}

/* The error falls with the tolerance, at the end and at interpolated times. It is a geometric mean
 * over several starts: a step of order eight may have a small estimate by chance, so the error of
 * one start is worth little. */
START_TEST(tolerance_is_kept)
{
    enum { STARTS = 8 };
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    double last = 1;
    for (double tolerance = 1e-3; tolerance > (ode_method_order(m) == 2 ? 1e-6 : 1e-9);
         tolerance /= 10) {
        double sum = 0;
        for (int k = 0; k < STARTS; k++)
            sum += log(error_at_tolerance(m, tolerance, (double[]){ 1 + 0.1 * k, 1 - 0.05 * k })) /
                   STARTS;
        double error = exp(sum);
        ck_assert_msg(error < 70 * tolerance * method_slack(m), "%s at %g: %g", ode_method_name(m),
                      tolerance, error);
        ck_assert_msg(error < last / 2, "%s at %g: %g, not half of what was before",
                      ode_method_name(m), tolerance, error);
        last = error;
    }
}
END_TEST

/* Evaluations: two to choose the first step, six a step with first same as last. */
START_TEST(statistics)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 1, 1 }),
           p = ad_constant(tape, AD_SHAPE(4), lotka_p);
    ode_stats s = { 0 };
    ode_options o = { .rtol = 1e-6, .atol = 1e-6, .stats = &s };
    ck_assert(isfinite(ad_item(
        ad_sum_all(ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 10), &o)))));
    ck_assert_int_eq(s.evaluations - s.probe_evaluations, 2 + 6 * (s.steps + s.rejected));
    ck_assert_int_gt(s.rejected, 0);
    ck_assert_int_eq(ode_steps_count(s.steps_taken), s.steps);
    ck_assert_double_eq(ode_steps_times(s.steps_taken)[0], 0);
    ck_assert_double_eq(ode_steps_times(s.steps_taken)[s.steps], 10);
    ck_assert_uint_gt(s.stored_bytes, (size_t)s.steps * 16);
    o.first_step = 0.25;
    o.max_step = 0.25;
    ck_assert(isfinite(ad_item(
        ad_sum_all(ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 10), &o)))));
    ck_assert_int_eq(s.evaluations - s.probe_evaluations, 1 + 6 * (s.steps + s.rejected));
    for (int64_t k = 0; k < s.steps; k++)
        ck_assert_double_le(
            ode_steps_times(s.steps_taken)[k + 1] - ode_steps_times(s.steps_taken)[k], 0.25 + 1e-6);
    ode_options fixed = { .method = &ode_rk4, .step = 0.3, .stats = &s };
    ck_assert(isfinite(ad_item(
        ad_sum_all(ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 3), &fixed)))));
    ck_assert_int_eq(s.steps, 10); /* 3 / 0.3 is a little more than 10 in floating point */
    ck_assert_int_eq(s.evaluations, 40);
    ode_stats_clear(&s);
    ck_assert_ptr_null(s.steps_taken);
    ad_tape_free(tape);
}
END_TEST

/* Replaying the accepted steps gives the same solution, dense output included, bit for bit for the
 * explicit methods that take them adaptively; implicit ones find their stages to 1e-12. */
START_TEST(replay)
{
    const ode_method *m = ode_methods()[_i];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, (double[]){ 1, 1, 2, 0.5 }),
           p = ad_constant(tape, AD_SHAPE(4), lotka_p);
    ad_var times = ad_constant(tape, AD_SHAPE(4), (double[]){ 3, 2, 1, 0 });
    ode_stats s = { 0 };
    ode_options o = { .method = m, .rtol = 1e-4, .atol = 1e-4, .stats = &s },
                again = { .method = m };
    if (!ode_method_adaptive(m)) o.steps = 20;
    double a[16], b[16];
    get(ode_solve(lotka, NULL, y0, 1, &p, times, &o), a);
    again.replay = s.steps_taken;
    get(ode_solve(lotka, NULL, y0, 1, &p, times, &again), b);
    double bound = method_implicit(m) ? 1e-11 : 1e-13;
    for (int i = 0; i < 16; i++) ck_assert_double_eq_tol(a[i], b[i], bound * (1 + fabs(a[i])));
    ode_stats_clear(&s);
    ad_tape_free(tape);
}
END_TEST

/* Stiff: y' = -1e4 (y - cos t) - sin t. Implicit steps stay on the slow solution; row by row, with
 * a nonlinear companion of another stiffness. */
static ad_var stiff(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var d = ad_sub(y, ad_cos(t));
    return ad_sub(ad_neg(ad_mul(args[0], ad_add(d, ad_mul(ad_square(d), d)))), ad_sin(t));
}

START_TEST(stiff_rows)
{
    ad_tape *tape = ad_tape_new(_i % 2 ? AD_F32 : AD_F64);
    ad_var y0 = rows_of(tape, 3, 1, (double[]){ 1, 1, 1.5 }),
           k = rows_of(tape, 3, 1, (double[]){ 1, 1e4, 1e2 });
    ode_stats s = { 0 };
    ode_options o = { .method = _i / 2 ? &ode_trapezoidal : &ode_implicit_euler,
                      .step = 0.01,
                      .stats = &s };
    double y[3];
    get(ode_solve_final(stiff, NULL, y0, 1, &k, ode_interval(tape, 0, 2), &o), y);
    for (int r = 0; r < 3; r++) ck_assert_double_eq_tol(y[r], cos(2), _i / 2 ? 1e-4 : 5e-3);
    ck_assert_int_gt(s.newton_iterations, s.steps);
    ck_assert_int_ge(s.factorisations, 3); /* they serve many iterations */
    ck_assert_int_lt(s.factorisations, s.newton_iterations);
    ck_assert_int_lt(s.jacobians, s.newton_iterations / 2 + 10);
    ode_stats_clear(&s);
    ad_tape_free(tape);
}
END_TEST

/* A row's result does not depend on its mates when steps are fixed. */
START_TEST(rows_are_independent)
{
    const ode_method *m = ode_methods()[_i];
    ad_tape *tape = ad_tape_new(AD_F64);
    double x[6] = { 1, 1, 2, 0.5, 0.3, 3 }, together[6], alone[2];
    ad_var p = ad_constant(tape, AD_SHAPE(4), lotka_p);
    ode_options o = { .method = m, .steps = 30 };
    int32_t mark = ad_tape_mark(tape);
    get(ode_solve_final(lotka, NULL, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, x), 1, &p,
                        ode_interval(tape, 0, 1), &o),
        together);
    for (int r = 0; r < 3; r++) {
        ad_tape_rewind(tape, mark);
        get(ode_solve_final(lotka, NULL, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, x + 2 * r), 1,
                            &p, ode_interval(tape, 0, 1), &o),
            alone);
        ck_assert(alone[0] == together[2 * r] && alone[1] == together[2 * r + 1]);
    }
    ad_tape_free(tape);
}
END_TEST

/* With rerecord the field sees values and may branch on them; traced, asking is an error that names
 * the option. */
static ad_var peeking(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args;
    const double *v = ad_value(y);
    int *calls = user;
    if (!v) return ad_none(y.tape);
    ++*calls;
    return v[0] > 2 ? ad_zeros_like(y) : y;
}

START_TEST(values_in_the_field)
{
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        int calls = 0;
        ode_options o = { .method = &ode_rk4, .steps = 100, .rerecord = k };
        ad_var y = ode_solve_final(peeking, &calls,
                                   ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 }), 0,
                                   NULL, ode_interval(tape, 0, 3), &o);
        if (k) {
            ck_assert_double_eq_tol(ad_item(y), 2, 0.05);
            ck_assert_int_eq(calls, 400);
        } else {
            ck_assert_ptr_nonnull(ad_tape_error(tape));
            ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "rerecord"));
        }
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- bad input ---- */

typedef struct {
    ad_tape *tape;
    ad_var y0, times, args[2];
    int nargs;
    ode_field field;
    void *user;
    ode_options options;
    ode_stats stats;
} setting;

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}
static ad_var wrong_shape(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_concatenate(2, (ad_var[]){ y, y }, 1);
}
static ad_var capturing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args;
    return ad_mul(y, *(ad_var *)user);
}
static ad_var returns_other(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)y, (void)args;
    return ad_neg(*(ad_var *)user);
}
static ad_var returns_nothing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_none(y.tape);
}
static ad_var field_error(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_matmul(y, ad_eye(y.tape, 5, 5, 0));
}
static ad_var nan_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_sqrt(ad_shift(y, -1.5));
}
static ad_var blow_up(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_square(y); /* y0 = 1, 2: infinite at t = 1, 1/2 */
}
static ad_var later_nan(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_add(y, ad_log(ad_shift(ad_neg(t), 0.5))); /* NaN from t = 1/2 on */
}
static ad_var very_stiff(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_scale(ad_sub(y, ad_cos(t)), -1e6);
}
static ad_var no_root(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_shift(ad_square(y), 100); /* z = y + h (z^2 + 100) has no solution for h = 1 */
}

static ad_var vector(ad_tape *tape, int n, const double *t)
{
    return ad_constant(tape, AD_SHAPE(n), t);
}

static void set_nan_y0(setting *s)
{
    s->y0 = ad_input_rows(s->tape, AD_SHAPE(AD_ROWS, 2), 2, (double[]){ 1, 2, 3, NAN });
}
static void set_inf_y0(setting *s)
{
    s->y0 = ad_input_rows(s->tape, AD_SHAPE(AD_ROWS, 2), 2, (double[]){ 1, INFINITY, 3, 4 });
}
static void set_no_rows(setting *s) { s->y0 = ad_input(s->tape, AD_SHAPE(2), (double[]){ 1, 2 }); }
static void set_nan_times(setting *s) { s->times = vector(s->tape, 3, (double[]){ 0, NAN, 1 }); }
static void set_same_times(setting *s) { s->times = vector(s->tape, 3, (double[]){ 0, 0, 1 }); }
static void set_back_and_forth(setting *s)
{
    s->times = vector(s->tape, 3, (double[]){ 0, 1, 0.5 });
}
static void set_variable_times(setting *s)
{
    s->times = ad_input(s->tape, AD_SHAPE(3), (double[]){ 0, 1, 0.5 });
}
static void set_one_time(setting *s) { s->times = vector(s->tape, 1, (double[]){ 0 }); }
static void set_filled_times(setting *s) { s->times = ad_fill(s->tape, AD_SHAPE(3), 1); }
static void set_matrix_times(setting *s)
{
    s->times = ad_constant(s->tape, AD_SHAPE(1, 2), (double[]){ 0, 1 });
}
static void set_invalid_times(setting *s) { s->times = ad_none(s->tape); }
static void set_negative_rtol(setting *s) { s->options.rtol = -1e-3; }
static void set_nan_atol(setting *s) { s->options.atol = NAN; }
static void set_negative_step(setting *s) { s->options.step = -0.1; }
static void set_nan_step(setting *s) { s->options.step = NAN; }
static void set_negative_steps(setting *s) { s->options.steps = -1; }
static void set_both(setting *s)
{
    s->options.step = 0.1;
    s->options.steps = 3;
}
static void set_not_adaptive(setting *s) { s->options.method = &ode_rk4; }
static void set_limits(setting *s)
{
    s->options.min_step = 0.1;
    s->options.max_step = 0.01;
}
static void set_jumps(setting *s) { s->options.njump = 1; }
static void set_nan_jump(setting *s)
{
    static const double at[] = { NAN };
    s->options.jump_times = at;
    s->options.njump = 1;
}
static void set_wrong_shape(setting *s) { s->field = wrong_shape; }
static void set_capturing(setting *s)
{
    static ad_var outside;
    outside = ad_scalar(s->tape, 2);
    s->field = capturing;
    s->user = &outside;
}
static void set_returns_other(setting *s)
{
    set_capturing(s);
    s->field = returns_other;
}
static void set_returns_nothing(setting *s) { s->field = returns_nothing; }
static void set_field_error(setting *s) { s->field = field_error; }
static void set_nan_field(setting *s) { s->field = nan_field; }
static void set_blow_up(setting *s) { s->field = blow_up; }
static void set_blow_up_fixed(setting *s)
{
    s->field = blow_up;
    s->options.method = &ode_euler;
    s->options.steps = 2000;
    s->times = vector(s->tape, 2, (double[]){ 0, 20 });
}
static void set_later_nan(setting *s) { s->field = later_nan; }
static void set_min_step(setting *s)
{
    s->field = very_stiff;
    s->options.min_step = 0.01;
}
static void set_max_steps(setting *s)
{
    s->field = very_stiff;
    s->options.max_steps = 100;
}
static void set_max_steps_fixed(setting *s)
{
    s->options.method = &ode_rk4;
    s->options.step = 1e-9;
}
static void set_limit_of_fixed(setting *s)
{
    s->options.steps = 3;
    s->options.max_step = 0.01;
}
static void set_no_root(setting *s)
{
    s->field = no_root;
    s->options.method = &ode_implicit_euler;
    s->options.steps = 1;
}
static void set_bad_argument(setting *s)
{
    s->nargs = 1;
    s->args[0] = ad_none(s->tape);
}
static void set_too_many_arguments(setting *s) { s->nargs = 65; }
static ode_steps *steps_of_another(void)
{
    ode_stats stats = { 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_options o = { .stats = &stats };
    (void)ad_item(ode_solve_final(decay, NULL,
                                  ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 }), 0,
                                  NULL, ode_interval(tape, 0, 2), &o));
    ad_tape_free(tape);
    return stats.steps_taken;
}
static void set_replay(setting *s) { s->options.replay = steps_of_another(); }
static void set_replay_backsolve(setting *s)
{
    s->options.replay = steps_of_another();
    s->options.adjoint = &ode_backsolve;
}
static void set_replay_own(setting *s)
{
    s->options.replay = s->stats.steps_taken = steps_of_another();
    s->options.stats = &s->stats;
}
static void set_replay_step(setting *s)
{
    s->options.replay = steps_of_another();
    s->options.steps = 3;
}
typedef struct {
    const char *name;
    void (*set)(setting *s);
    const char *message; /* parts that must be found, separated by | */
} bad_input;

static const bad_input bad[] = {
    { "NaN in y0", set_nan_y0, "ode_solve: y0 is nan in row 1, component 1" },
    { "infinite y0", set_inf_y0, "y0 is inf in row 0, component 1" },
    { "y0 without rows", set_no_rows,
      "ode_solve: y0 (state 0) of shape [2] has no row axis|ad_input_rows" },
    { "NaN in times", set_nan_times, "ode_solve: times[1] is nan" },
    { "equal times", set_same_times, "strictly increasing or decreasing|times[0]" },
    { "back and forth", set_back_and_forth, "strictly increasing or decreasing|times[2]" },
    { "variable times", set_variable_times, "ode_solve: times must be strictly increasing" },
    { "one time", set_one_time, "ode_solve: times have shape [1]|at least two" },
    { "filled times", set_filled_times, "strictly increasing" },
    { "matrix of times", set_matrix_times, "ode_solve: times have shape [1,2]" },
    { "invalid times", set_invalid_times, "ode_solve: times are not a valid variable" },
    { "negative rtol", set_negative_rtol, "ode_solve: options.rtol is -0.001" },
    { "NaN atol", set_nan_atol, "ode_solve: options.atol is nan" },
    { "negative step", set_negative_step, "ode_solve: options.step is -0.1" },
    { "NaN step", set_nan_step, "ode_solve: options.step is nan" },
    { "negative steps", set_negative_steps, "ode_solve: options.steps is -1" },
    { "step and steps", set_both, "options.step and options.steps are both given" },
    { "not adaptive", set_not_adaptive, "ode_solve: rk4 has no error estimate|options.steps" },
    { "limits", set_limits, "options.min_step 0.1 is larger than max_step 0.01" },
    { "jumps", set_jumps, "options.njump is 1 with jump_times NULL" },
    { "NaN jump", set_nan_jump, "options.jump_times[0] is nan" },
    { "shape of the field", set_wrong_shape,
      "ode_solve: in the field: it returned [rows,4] for a state of shape [rows,2]" },
    { "captured variable", set_capturing, "ode_solve: in the field: ad_mul:|args" },
    { "variable of another tape", set_returns_other,
      "ode_solve: in the field: it returned a variable of another tape|args" },
    { "no variable", set_returns_nothing,
      "ode_solve: in the field: it returned no valid variable" },
    { "error in the field", set_field_error, "ode_solve: in the field: ad_matmul" },
    { "NaN field", set_nan_field, "ode_solve: the field is not finite|t = 0, row 0, component 0" },
    { "blow-up", set_blow_up, "ode_solve: step|underflows|row 1, component 1|singularity" },
    { "blow-up in fixed steps", set_blow_up_fixed,
      "ode_solve: step|row 1, component 1|smaller steps" },
    { "NaN later", set_later_nan, "not finite|near t = 0.|check the field" },
    { "least step", set_min_step, "a step of options.min_step = 0.01|ode_kvaerno5" },
    { "too many steps", set_max_steps,
      "ode_solve: max_steps = 100 attempts are used up at t = |ode_kvaerno5" },
    { "too many fixed steps", set_max_steps_fixed, "more than max_steps = 100000" },
    { "limit of fixed steps", set_limit_of_fixed,
      "options.first_step, min_step and max_step are for steps that the error chooses" },
    { "no root", set_no_root, "ode_solve: step 0 from t = 0|Newton's method|row" },
    { "bad argument", set_bad_argument, "ode_solve: argument 0 is not a valid variable" },
    { "too many arguments", set_too_many_arguments, "ode_solve: 65 arguments" },
    { "replay of other steps", set_replay,
      "the steps to replay go from t = 0 to 2, not from 0 to 1" },
    { "replay with backsolve", set_replay_backsolve,
      "options.replay works with the discrete and the interpolating adjoint" },
    { "replay of its own statistics", set_replay_own,
      "options.replay is the steps_taken of options.stats" },
    { "replay with steps", set_replay_step, "options.replay takes given steps" },
};

static void has_parts(const char *name, const char *message, const char *parts)
{
    char part[256];
    ck_assert_msg(message != NULL, "%s: no error", name);
    for (const char *p = parts; *p;) {
        size_t n = strcspn(p, "|");
        memcpy(part, p, n);
        part[n] = 0;
        ck_assert_msg(strstr(message, part) != NULL, "%s: \"%s\" is not in \"%s\"", name, part,
                      message);
        p += n + (p[n] == '|');
    }
}

START_TEST(bad_inputs)
{
    const bad_input *b = &bad[_i];
    setting s = { .tape = ad_tape_new(AD_F64), .field = decay };
    s.y0 = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 2), 2, (double[]){ 1, 1, 1, 2 });
    s.times = ode_interval(s.tape, 0, 1);
    b->set(&s);
    if (ad_shape_of(s.y0).rank == 1 || b->set == set_nan_y0 || b->set == set_inf_y0)
        ck_assert(ad_valid(s.y0));
    ad_var y = ode_solve(s.field, s.user, s.y0, s.nargs, s.args, s.times, &s.options);
    (void)ad_value(y);
    has_parts(b->name, ad_tape_error(s.tape), b->message);
    ad_tape_free(s.tape);
    ode_steps_free((ode_steps *)s.options.replay);
}
END_TEST

/* Errors at run time reach the workspace of a compiled program; the batch may not be empty;
 * afterwards the program still works. */
START_TEST(errors_of_programs)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL),
           y = ode_solve_final(blow_up, NULL, y0, 0, NULL, ode_interval(tape, 0, 1.5), NULL);
    ad_program *program = ad_compile(1, &y0, 1, &y);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
    ad_workspace *w = ad_workspace_new(program, 1);
    double x[2] = { 0.5, 1 }, out[2];
    ck_assert_int_eq(ad_run(program, w, 2, (const void *[]){ x }, (void *[]){ out }), -1);
    has_parts("blow-up", ad_workspace_error(w), "ode_solve_final: step|underflows|row 1");
    ck_assert_int_eq(ad_run(program, w, 0, (const void *[]){ x }, (void *[]){ out }), -1);
    ck_assert_msg(!ad_run(program, w, 1, (const void *[]){ x }, (void *[]){ out }), "%s",
                  ad_workspace_error(w));
    ck_assert_double_eq_tol(out[0], 2, 1e-4);
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("solve", "solutions"), *e = suite_case("solve", "errors");
    tcase_add_loop_test(c, known_solutions, 0, method_count());
    tcase_add_loop_test(c, tolerance_is_kept, 0, method_count());
    tcase_add_test(c, statistics);
    tcase_add_loop_test(c, replay, 0, method_count());
    tcase_add_loop_test(c, stiff_rows, 0, 4);
    tcase_add_loop_test(c, rows_are_independent, 0, method_count());
    tcase_add_test(c, values_in_the_field);
    tcase_add_loop_test(e, bad_inputs, 0, COUNT(bad));
    tcase_add_test(e, errors_of_programs);
    return suite_run();
}
