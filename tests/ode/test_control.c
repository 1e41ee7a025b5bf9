/* How adaptive solves choose their steps: estimates that see the whole step, first steps without
 * units, limits of the step's size, and what is said when no step will do. Right values are
 * analytic. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ad_var column(ad_tape *tape, int64_t rows, const double *wide)
{
    return ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), rows, wide);
}

static void has(const char *error, const char *part)
{
    ck_assert_msg(error && strstr(error, part), "'%s' is not in '%s'", part,
                  error ? error : "no error");
}

/* The last value of the solution of one row and component from y0; NaN after an error. */
static double solve(ad_tape *tape, ode_field field, const void *user, double y0, double t0,
                    double t1, const ode_options *o)
{
    return ad_item(ode_solve_final(field, (void *)user, column(tape, 1, &y0), 0, NULL,
                                   ode_interval(tape, t0, t1), o));
}

/* ---- estimates ---- */

/* y' = sigmoid(1000 (t - centre)) - y/10. */
static ad_var late_start(ad_var t, ad_var y, const ad_var *centre, void *user)
{
    (void)user;
    return ad_sub(ad_sigmoid(ad_scale(ad_sub(t, centre[0]), 1000)), ad_scale(y, 0.1));
}

/* A right-hand side that is zero at first: y(0) = 0. An estimate that sees only a part of the step
 * lets whole steps jump over the start, an error of one half. Pairs of high order see it at some
 * places a thousand times less than it is; those of low order see it well. */
START_TEST(late_starts_are_seen)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    double most = ode_method_order(m) > 3 ? 1e-2 : 5e-6 * method_slack(m);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var at = ad_param(tape, AD_SCALAR, (double[]){ 0 });
    ode_options o = {
        .method = m, .adjoint = &ode_backsolve, .rtol = 1e-6, .atol = 1e-6
    }; /* estimates alone choose the steps */
    ad_var end = ode_solve_final(late_start, NULL, column(tape, 1, (double[]){ 0 }), 1, &at,
                                 ode_interval(tape, 0, 10), &o);
    for (int i = 0; i < 60; i++) {
        double centre = 1 + 0.133 * i + 0.01 * sin(i), right = 10 * (1 - exp(-0.1 * (10 - centre)));
        ad_set(at, 0, &centre);
        double y = ad_item(end);
        ck_assert_msg(fabs(y - right) < most * right, "%s: start at %g: %.8g, not %.8g",
                      ode_method_name(m), centre, y, right);
    }
    ad_tape_free(tape);
}
END_TEST

/* ---- first steps ---- */

typedef struct {
    double tau;  /* unit of time */
    double c[5]; /* y' = (c0 + c1 y + c2 cos(t / tau) + c3 sin(t / tau)) / tau from y(0) = c4 */
} linear;

static ad_var linear_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const linear *p = user;
    ad_var s = ad_scale(t, 1 / p->tau);
    ad_var f = ad_add(ad_scale(ad_cos(s), p->c[2]), ad_scale(ad_sin(s), p->c[3]));
    (void)args;
    return ad_scale(ad_add(f, ad_shift(ad_scale(y, p->c[1]), p->c[0])), 1 / p->tau);
}

static const linear problems[] = {
    { 1, { 0, -1, 0, 0, 1 } },  /* decay */
    { 1, { 1, -1, 0, 0, 0 } },  /* from zero */
    { 1, { 0, 0, 1, 0, 0 } },   /* from zero, and time alone moves it */
    { 1, { 0, 0, 0, 1, 1 } },   /* the derivative is zero */
    { 1, { 0, -1, 0, 1, 0 } },  /* both are */
    { 1, { 0, -1, 0, 0, -3 } }, /* negative */
};
enum { PROBLEMS = sizeof problems / sizeof *problems };

static double linear_solution(const linear *p, double s)
{
    double l = p->c[1];
    if (l == 0) return p->c[4] + p->c[0] * s + p->c[2] * sin(s) + p->c[3] * (1 - cos(s));
    double constant = -p->c[0] / l, sine = -(p->c[3] * l - p->c[2]) / (l * l + 1),
           cosine = -(p->c[2] * l + p->c[3]) / (l * l + 1);
    return constant + sine * sin(s) + cosine * cos(s) + (p->c[4] - constant - cosine) * exp(l * s);
}

/* The steps do not depend on the unit of time: with units that are powers of two they are the same
 * to the last bit. (Where state and derivative are zero and atol is too, the error of a method of
 * order two is as large as the state until both are nearly out of range.) */
START_TEST(steps_without_units)
{
    enum { MOST = 50000 };
    static double times[MOST];
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    for (int k = 0; k < PROBLEMS * 8; k++) {
        linear p = problems[k / 8];
        double backwards = k & 2 ? -1 : 1;
        ad_dtype dtype = k & 1 ? AD_F32 : AD_F64;
        ode_stats stats = { 0 };
        ode_options o = {
            .method = m, .rtol = k & 1 ? 1e-3 : 1e-4, .atol = k & 4 ? 0 : 1e-5, .stats = &stats
        };
        for (int unit = 0; unit < 3; unit++) {
            p.tau = backwards * (unit == 0 ? 1 : unit == 1 ? 0x1p-40 : 0x1p40);
            ad_tape *tape = ad_tape_new(dtype);
            double y = solve(tape, linear_field, &p, p.c[4], 0, 3 * p.tau, &o),
                   right = linear_solution(&p, 3);
            ck_assert_msg(fabs(y - right) < 0.02 * fmax(1, fabs(right)),
                          "%s, problem %d: %g, not %g (%s)", ode_method_name(m), k, y, right,
                          ad_tape_error(tape) ? ad_tape_error(tape) : "");
            const double *t = ode_steps_times(stats.steps_taken);
            ck_assert_int_lt(stats.steps, MOST);
            for (int64_t i = 0; i <= stats.steps; i++) {
                if (unit == 0) times[i] = t[i] / p.tau;
                ck_assert_msg(t[i] / p.tau == times[i], "%s, problem %d: boundary %d",
                              ode_method_name(m), k, (int)i);
            }
            ad_tape_free(tape);
        }
        ode_stats_clear(&stats);
    }
}
END_TEST

/* Decay within any time at all, and over horizons that are long for it. */
START_TEST(decay_in_any_unit)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    for (int e = -12; e <= 12; e++)
        for (int k = 0; k < 8; k++) {
            linear p = problems[0];
            p.tau = k & 2 ? -pow(10, e) : pow(10, e);
            double times = k & 4 ? 30 : 1, right = exp(-times);
            ad_tape *tape = ad_tape_new(k & 1 ? AD_F32 : AD_F64);
            ode_options o = { .method = m, .rtol = 1e-4, .atol = 1e-6 };
            double y = solve(tape, linear_field, &p, 1, 0, times * p.tau, &o);
            ck_assert_msg(fabs(y - right) < (3e-4 * right + 3e-6) * method_slack(m),
                          "%s, tau = %g, T = %g tau: %g, not %g", ode_method_name(m), p.tau, times,
                          y, right);
            ad_tape_free(tape);
        }
}
END_TEST

/* y' = 1 / (1 + 400 (t - 1/2)^2), which is the same at 0 and at 1. */
static ad_var hump(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var from = ad_scale(ad_square(ad_shift(t, -0.5)), 400);
    return ad_add(ad_reciprocal(ad_shift(from, 1)), ad_scale(y, 0));
}

/* A field that looks constant between the ends of the solve is not taken for one. Large steps of
 * high order may still miss so narrow a thing, in single precision. */
START_TEST(symmetric_fields)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m) || ode_method_order(m) > 3) return;
    const double right = 0.147112767430373; /* atan(10) / 10 */
    for (int k = 0; k < 4; k++) {
        ad_tape *tape = ad_tape_new(k & 1 ? AD_F32 : AD_F64);
        ode_options o = { .method = m };
        double y = solve(tape, hump, NULL, 1, k & 2 ? 1 : 0, k & 2 ? 0 : 1, &o);
        ck_assert_msg(fabs(y - 1 - (k & 2 ? -right : right)) < 1e-3, "%s, kind %d: %g",
                      ode_method_name(m), k, y);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- large numbers ---- */

static ad_var grow(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return y;
}

/* Values whose sum is beyond the type's range are finite all the same. */
START_TEST(large_numbers)
{
    enum { ROWS = 4096 };
    const ode_method *m = ode_methods()[_i];
    static float y0[ROWS];
    static double y[ROWS];
    for (int i = 0; i < ROWS; i++) y0[i] = 1e35F;
    ode_options o = { .method = m, .steps = ode_method_adaptive(m) ? 0 : 100 };
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, y0);
    int failed = ad_get(ode_solve_final(grow, NULL, x, 0, NULL, ode_interval(tape, 0, 1), &o), y);
    ck_assert_msg(!failed, "%s: %s", ode_method_name(m), ad_tape_error(tape));
    for (int i = 0; i < ROWS; i++) ck_assert(fabs(y[i] / 1e35 - exp(1)) < 0.02);
    ad_tape_free(tape);
}
END_TEST

/* ---- limits of the step's size ---- */

static ad_var at_rest(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, 0);
}

/* No step is larger than max_step, not even to avoid a sliver at the end; a whole number of them is
 * not one more by rounding. */
START_TEST(largest_steps)
{
    const ode_method *m = ode_methods()[_i];
    const struct {
        double end, most;
        int steps;
    } cases[] = { { 1.009, 1, 2 }, { 1, 1, 1 }, { 1, 0.1, 10 }, { 1, 0.001, 1000 }, { 2.5, 1, 3 } };
    if (!ode_method_adaptive(m)) return;
    for (size_t k = 0; k < 2 * sizeof cases / sizeof *cases; k++) {
        double end = k % 2 ? -cases[k / 2].end : cases[k / 2].end, most = cases[k / 2].most;
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = m, .max_step = most, .first_step = most, .stats = &stats };
        ck_assert_double_eq(solve(tape, at_rest, NULL, 1, 0, end, &o), 1);
        ck_assert_int_eq(stats.steps, cases[k / 2].steps);
        const double *t = ode_steps_times(stats.steps_taken);
        for (int64_t i = 0; i < stats.steps; i++)
            ck_assert_double_le(fabs(t[i + 1] - t[i]), most * (1 + 2e-6));
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

static ad_var fast_decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, -20);
}

/* A step of min_step is tried before the solve gives up. */
START_TEST(smallest_steps)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = {
        .rtol = 0.05, .atol = 0.05, .first_step = 0.13, .min_step = 0.1, .stats = &stats
    };
    ck_assert_double_lt(fabs(solve(tape, fast_decay, NULL, 1, 0, 1, &o)), 0.1);
    ck_assert_int_gt(stats.rejected, 0);
    ck_assert_double_eq(ode_steps_times(stats.steps_taken)[1], 0.1);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

static ad_var fast(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(ad_reciprocal(y), 1e30);
}

/* A problem whose time scale, here 1e-18, is below the spacing of times: no step of length zero is
 * taken. */
START_TEST(steps_below_rounding)
{
    const ode_method *m = ode_methods()[_i / 4];
    if (!ode_method_adaptive(m)) return;
    ad_tape *tape = ad_tape_new(_i % 2 ? AD_F32 : AD_F64);
    ode_stats stats = { 0 };
    ode_options o = { .method = m, .stats = &stats };
    ck_assert(isnan(solve(tape, fast, NULL, 1e6, 1, _i & 2 ? 0 : 2, &o)));
    has(ad_tape_error(tape), "limited by the rounding of time; shift the origin of time");
    ck_assert_int_eq(stats.steps, 0);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* ---- given steps ---- */

/* n steps of size 1/100 between times that lie n/100 apart, however these are rounded. */
START_TEST(numbers_of_given_steps)
{
    bool f32 = _i & 1, backwards = _i & 2;
    for (int k = 0; k < 200; k++) {
        int n = 1 + k;
        double from = (f32 ? 100 : 1000) + 0.37 * k, to = from + (backwards ? -n : n) / 100.0;
        const double wide[2] = { from, to };
        const float narrow[2] = { (float)from, (float)to };
        ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = &ode_euler, .step = 0.01, .stats = &stats };
        ad_var times =
            f32 ? ad_input(tape, AD_SHAPE(2), narrow) : ad_input(tape, AD_SHAPE(2), wide);
        ck_assert_double_eq(ad_item(ode_solve_final(at_rest, NULL, column(tape, 1, (double[]){ 1 }),
                                                    0, NULL, times, &o)),
                            1);
        ck_assert_msg(stats.steps == n, "%d steps instead of %d from %.17g", (int)stats.steps, n,
                      from);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

/* y' = 1e10 (t-independent), over 45 spacings of t: methods that take one step at a time are right
 * however many they are asked for; the two-step method needs equal steps, and says so. */
static ad_var steep(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_shift(ad_scale(y, 0), 1e10);
}

START_TEST(given_steps_below_rounding)
{
    const ode_method *m = ode_methods()[_i];
    double spacing = nextafter(1000, 2000) - 1000, to = 1000 + 45 * spacing,
           right = 1e10 * (to - 1000);
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_options o = { .method = m, .steps = 1000 };
    double y = solve(tape, steep, NULL, 0, 1000, to, &o);
    if (m == &ode_nystroem2) has(ad_tape_error(tape), "are not equal, as nystroem2 needs them");
    else
        ck_assert_msg(fabs(y - right) < 1e-6 * right, "%s: %g, not %g", ode_method_name(m), y,
                      right);
    ad_tape_free(tape);
}
END_TEST

/* ---- messages ---- */

static ad_var stiff(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_scale(ad_sub(y, ad_cos(t)), -1e6);
}

/* y' = -sqrt(y), which reaches 0 at t = 2. */
static ad_var emptying(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(ad_sqrt(y));
}

static ad_var growth_of_square(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_square(y);
}

static ad_var relay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(ad_sign(y));
}

static ad_var oscillation(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_scale(ad_cos(ad_scale(t, 100)), 1);
}

static ad_var zero_by_zero(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var zero = ad_scale(ad_sub(y, y), 0);
    return ad_neg(ad_div(zero, zero));
}

typedef struct {
    const char *name;
    bool f32;
    ode_field field;
    double y0, t0, t1;
    ode_options options;
    const char *part, *not ; /* what the message must and must not say */
} message;

static const message messages[] = {
    { "one attempt", false, oscillation, 0, 0, 1, { .max_steps = 1 }, "raise max_steps", "stiff" },
    { "accuracy",
      false,
      oscillation,
      0,
      0,
      10,
      { .rtol = 1e-12, .atol = 1e-12, .max_steps = 100 },
      "not stability",
      "stiff" },
    { "relay", false, relay, 1.2345, 0, 3, { .max_steps = 200 }, "step", "stiff" },
    { "stiff",
      false,
      stiff,
      2,
      0,
      1,
      { .max_steps = 200 },
      "the problem is stiff there; use an L-stable method (ode_kvaerno5)",
      "trapezoidal" },
    { "stiff in f32", true, stiff, 2, 0, 1, { .max_steps = 200 }, "|h lambda| = ", NULL },
    { "fine tolerance",
      true,
      oscillation,
      1,
      0,
      1,
      { .atol = 1e-14, .max_steps = 1000 },
      "below the rounding of float32",
      "stiff" },
    { "singularity", false, growth_of_square, 1, 0, 2, { 0 }, "look for a singularity", "stiff" },
    { "singularity before",
      false,
      growth_of_square,
      -1,
      0,
      -2,
      { 0 },
      "look for a singularity",
      "stiff" },
    { "no number", false, zero_by_zero, 1, 0, 1, { 0 }, "the field is not finite (nan)", "-nan" },
    { "no number in f32",
      true,
      zero_by_zero,
      1,
      0,
      1,
      { 0 },
      "the field is not finite (nan)",
      "-nan" },
    { "no number in a step",
      false,
      zero_by_zero,
      1,
      0,
      1,
      { .method = &ode_rk4, .steps = 2 },
      "the state becomes nan",
      "-nan" },
    { "no root",
      false,
      growth_of_square,
      1,
      0,
      1,
      { .method = &ode_implicit_euler, .steps = 1 },
      "size 1: Newton's method: 1 rows, row 0",
      "ad_run" },
    { "no number in a root",
      false,
      zero_by_zero,
      1,
      0,
      1,
      { .method = &ode_trapezoidal, .steps = 1 },
      "Newton's method: iteration 0: the field is not finite in row 0, component 0",
      "ode_root" },
    /* a limit that time cannot resolve, at once */
    { "largest step below rounding",
      false,
      at_rest,
      1,
      1e9,
      1e9 + 1,
      { .max_step = 1e-8, .max_steps = INT64_MAX },
      "options.max_step = 1e-08 is too small at t = 1000000000",
      NULL },
    { "largest step below rounding, backwards",
      false,
      at_rest,
      1,
      1e9,
      1e9 - 1,
      { .max_step = 1e-8, .max_steps = INT64_MAX },
      "options.max_step = 1e-08 is too small at t = 1000000000",
      NULL },
    { "least",
      false,
      stiff,
      2,
      0,
      1,
      { .min_step = 0.01 },
      "step of options.min_step = 0.01",
      NULL },
    { "least of a stiff one", false, stiff, 2, 0, 1, { .min_step = 0.01 }, "ode_kvaerno5", NULL },
    { "no gradient is asked for", false, emptying, 1, 0, 3, { 0 }, "step", "gradient" },
};

START_TEST(what_is_said)
{
    const message *s = &messages[_i];
    ad_tape *tape = ad_tape_new(s->f32 ? AD_F32 : AD_F64);
    ck_assert_msg(isnan(solve(tape, s->field, NULL, s->y0, s->t0, s->t1, &s->options)), "%s",
                  s->name);
    has(ad_tape_error(tape), s->part);
    ck_assert_msg(!s->not || !strstr(ad_tape_error(tape), s->not ), "%s: '%s' is in '%s'", s->name,
                  s->not, ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* y' = sqrt|y|, whose component that begins at 0 has no derivative there. */
static ad_var filling(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_sqrt(ad_abs(y));
}

/* It is the derivative of the field that is blamed, not the field, and with its place; and nobody's
 * way of going back in time. */
START_TEST(no_derivative)
{
    static const ode_adjoint *const adjoints[] = { &ode_interpolating, &ode_backsolve };
    static const ode_method *const methods[] = { &ode_dopri5, &ode_kvaerno3, &ode_trapezoidal,
                                                 &ode_implicit_euler };
    const ode_method *m = methods[_i / 4];
    ode_options o = { .method = m,
                      .adjoint = adjoints[_i % 2],
                      .rerecord = _i / 2 % 2,
                      .steps = ode_method_adaptive(m) ? 0 : 10 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, (double[]){ 1, 2, 1, 0 }), g;
    ad_var y = ode_solve_final(filling, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &o);
    ad_grad(ad_sum_all(y), 1, &y0, &g);
    ck_assert_ptr_null(ad_value(g));
    const char *error = ad_tape_error(tape);
    has(error, "derivative of the field is not finite in row 1, component 1");
    has(error, "(a root or a power at 0?)");
    ck_assert_msg(!strstr(error, "chaotic"), "%s", error);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("control", "control");
    tcase_add_loop_test(c, late_starts_are_seen, 0, method_count());
    tcase_add_loop_test(c, steps_without_units, 0, method_count());
    tcase_add_loop_test(c, decay_in_any_unit, 0, method_count());
    tcase_add_loop_test(c, symmetric_fields, 0, method_count());
    tcase_add_loop_test(c, large_numbers, 0, method_count());
    tcase_add_loop_test(c, largest_steps, 0, method_count());
    tcase_add_test(c, smallest_steps);
    tcase_add_loop_test(c, steps_below_rounding, 0, 4 * method_count());
    tcase_add_loop_test(c, numbers_of_given_steps, 0, 4);
    tcase_add_loop_test(c, given_steps_below_rounding, 0, method_count());
    tcase_add_loop_test(c, no_derivative, 0, 16);
    tcase_add_loop_test(c, what_is_said, 0, sizeof messages / sizeof *messages);
    return suite_run();
}
