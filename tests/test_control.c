/* How adaptive solves choose their steps: estimates that see the whole step, first steps without units, limits of the step's size, and
 * what is said when no step will do. Right values are analytic. */
#include "costate.h"
#include "methods.h"
#include "suite.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ad_var column(ad_tape *tape, int64_t rows, const double *wide) { return ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), rows, wide); }

/* The last value of the solution of one row and component from y0; NaN after an error. */
static double solve(ad_tape *tape, ode_field field, const void *user, double y0, double t0, double t1, const ode_options *o)
{
    return ad_item(ode_solve_final(field, (void *)user, column(tape, 1, &y0), 0, NULL, ode_interval(tape, t0, t1), o));
}

/* ---- estimates ---- */

/* y' = sigmoid(1000 (t - centre)) - y/10. */
static ad_var late_start(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    return ad_sub(ad_sigmoid(ad_scale(ad_shift(t, -*(const double *)user), 1000)), ad_scale(y, 0.1));
}

/* A right-hand side that is zero at first: y(0) = 0. An estimate that sees only a part of the step lets whole steps jump over the start,
 * an error of one half. Pairs of high order see it at some places a thousand times less than it is; those of low order see it well. */
START_TEST(late_starts_are_seen)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    double most = ode_method_order(m) > 3 ? 1e-2 : 5e-6;
    for (int i = 0; i < 60; i++) {
        double centre = 1 + 0.133 * i + 0.01 * sin(i), right = 10 * (1 - exp(-0.1 * (10 - centre)));
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_options o = { .method = m, .rtol = 1e-6, .atol = 1e-6 };
        double y = solve(tape, late_start, &centre, 0, 0, 10, &o);
        ck_assert_msg(fabs(y - right) < most * right, "%s: start at %g: %.8g, not %.8g", ode_method_name(m), centre, y, right);
        ad_tape_free(tape);
    }
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
    double constant = -p->c[0] / l, sine = -(p->c[3] * l - p->c[2]) / (l * l + 1), cosine = -(p->c[2] * l + p->c[3]) / (l * l + 1);
    return constant + sine * sin(s) + cosine * cos(s) + (p->c[4] - constant - cosine) * exp(l * s);
}

/* The steps do not depend on the unit of time: with units that are powers of two they are the same to the last bit. (Where state and
 * derivative are zero and atol is too, the error of a method of order two is as large as the state until both are nearly out of range.) */
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
        ode_options o = { .method = m, .rtol = k & 1 ? 1e-3 : 1e-4, .atol = k & 4 ? 0 : 1e-5, .stats = &stats };
        for (int unit = 0; unit < 3; unit++) {
            p.tau = backwards * (unit == 0 ? 1 : unit == 1 ? 0x1p-40 : 0x1p40);
            ad_tape *tape = ad_tape_new(dtype);
            double y = solve(tape, linear_field, &p, p.c[4], 0, 3 * p.tau, &o), right = linear_solution(&p, 3);
            ck_assert_msg(fabs(y - right) < 0.02 * fmax(1, fabs(right)), "%s, problem %d: %g, not %g (%s)", ode_method_name(m), k, y, right,
                          ad_tape_error(tape) ? ad_tape_error(tape) : "");
            const double *t = ode_steps_times(stats.steps_taken);
            ck_assert_int_lt(stats.steps, MOST);
            for (int64_t i = 0; i <= stats.steps; i++) {
                if (unit == 0) times[i] = t[i] / p.tau;
                ck_assert_msg(t[i] / p.tau == times[i], "%s, problem %d: boundary %d", ode_method_name(m), k, (int)i);
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
            ck_assert_msg(fabs(y - right) < 3e-4 * right + 3e-6, "%s, tau = %g, T = %g tau: %g, not %g", ode_method_name(m), p.tau, times,
                          y, right);
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

int main(void)
{
    Suite *s = suite_create("control");
    TCase *c = tcase_create("control");
    suite_add_tcase(s, c);
    tcase_set_timeout(c, 0);
    tcase_add_loop_test(c, late_starts_are_seen, 0, method_count());
    tcase_add_loop_test(c, steps_without_units, 0, method_count());
    tcase_add_loop_test(c, decay_in_any_unit, 0, method_count());
    tcase_add_loop_test(c, large_numbers, 0, method_count());
    return suite_run(s);
}
