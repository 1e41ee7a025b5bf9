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
    tcase_add_loop_test(c, large_numbers, 0, method_count());
    return suite_run(s);
}
