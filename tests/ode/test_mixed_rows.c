/* One fast row in a batch whose others are slow in several ways: it alone sets the steps, and which
 * rows are looked at further must not pass it over. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>

enum { ROWS = 200, FAST = 77, WIDTH = 3 };
static const double horizon = 0.7, push = 1e-3, angle = 0.7;

/* y_0 and y_1 are x and u, turned by an angle, and y_2 is v. x and v, at rest but for what u
 * pushes, decay by a and turn with w, which are the row's own; u' = cos t - u. */
static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    const double c = cos(angle), s = sin(angle);
    ad_var p = ad_slice(y, 1, 0, 1), q = ad_slice(y, 1, 1, 2), v = ad_slice(y, 1, 2, 3),
           x = ad_add(ad_scale(p, c), ad_scale(q, s)), u = ad_sub(ad_scale(q, c), ad_scale(p, s)),
           a = ad_slice(args[0], 1, 0, 1), w = ad_slice(args[0], 1, 1, 2);
    ad_var dx = ad_add(ad_mul(a, x), ad_mul(w, v)),
           dv = ad_add(ad_sub(ad_mul(a, v), ad_mul(w, x)), ad_scale(u, push)),
           du = ad_sub(ad_cos(t), u);
    ad_var rates[] = { ad_sub(ad_scale(dx, c), ad_scale(du, s)),
                       ad_add(ad_scale(dx, s), ad_scale(du, c)), dv };
    return ad_concatenate(WIDTH, rates, 1);
}

static const ode_method *const methods[] = { &ode_dopri5, &ode_tsit5, &ode_dopri8, &ode_bosh3 };
enum { METHODS = sizeof methods / sizeof methods[0] };

/* The slow oscillations grow more in one product by the Jacobian than the fast decay does, as their
 * components differ in size. */
START_TEST(the_fast_one_is_right)
{
    static const double rates[] = { 9, 24, 60 };
    double y0[ROWS * WIDTH], own[ROWS * 2], bar[ROWS * WIDTH];
    for (int k = 0; k < 3; k++) {
        for (int r = 0; r < ROWS; r++) {
            const bool turns = r % 5 < 2;
            own[2 * r] = r == FAST ? -rates[k] : turns ? -0.02 : -0.3;
            own[2 * r + 1] = turns && r != FAST ? 2.1 + 0.2 * r / ROWS : 0.01;
            y0[WIDTH * r] = -0.5 * sin(angle);
            y0[WIDTH * r + 1] = 0.5 * cos(angle);
            y0[WIDTH * r + 2] = 0;
        }
        ad_tape *tape = ad_tape_new(_i % 2 ? AD_F64 : AD_F32);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDTH), ROWS, y0), by_y0,
               args = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), ROWS, own);
        ad_var x = ode_solve_final(field, NULL, y, 1, &args, ode_interval(tape, 0, horizon),
                                   &(ode_options){ .method = methods[_i / 2] });
        x = ad_add(ad_scale(ad_slice(x, 1, 0, 1), cos(angle)),
                   ad_scale(ad_slice(x, 1, 1, 2), sin(angle)));
        ad_grad(ad_sum_all(x), 1, &y, &by_y0);
        ck_assert_msg(!ad_get(by_y0, bar), "%s", ad_tape_error(tape));
        for (int r = 0; r < ROWS; r++) {
            const double want = exp(own[2 * r] * horizon) * cos(own[2 * r + 1] * horizon),
                         got = bar[WIDTH * r] * cos(angle) + bar[WIDTH * r + 1] * sin(angle);
            ck_assert_double_eq_tol(got, want, 1e-3);
        }
        ad_tape_free(tape);
    }
}
END_TEST

/* Many oscillators in a row, all of one frequency in a third of the rows, and slow ones elsewhere;
 * one row has one that is fast. In a random direction it is a small part of its row. */
enum { PAIRS = 60 };
static void pairs(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *rates)
{
    (void)n, (void)user;
    const double decay = -0.05;
    ad_var pushed = ad_scale(y[2], push);
    rates[0] = ad_add(ad_add(ad_scale(y[0], decay), ad_mul(args[0], y[1])), pushed);
    rates[1] = ad_add(ad_sub(ad_scale(y[1], decay), ad_mul(args[0], y[0])), pushed);
    rates[2] = ad_sub(ad_cos(t), y[2]);
}

START_TEST(the_fast_pair_is_right)
{
    static double zeros[ROWS * PAIRS], w[ROWS * PAIRS], bar[ROWS * PAIRS];
    double half[ROWS];
    const double time = 2;
    for (int r = 0; r < ROWS; r++) {
        half[r] = 0.5;
        for (int i = 0; i < PAIRS; i++) {
            const bool alike = r % 3 == 0 && r != FAST;
            w[r * PAIRS + i] = alike ? 2.9 + 0.2 * i / PAIRS : r == FAST && i == 0 ? 20 : 0.5;
        }
    }
    ad_tape *tape = ad_tape_new(_i % 2 ? AD_F64 : AD_F32);
    const ad_shape shape = AD_SHAPE(AD_ROWS, PAIRS);
    ad_var y[] = { ad_input_rows(tape, shape, ROWS, zeros), ad_input_rows(tape, shape, ROWS, zeros),
                   ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, half) };
    ad_var args = ad_input_rows(tape, shape, ROWS, w), ends[3], by_x;
    ode_solve_states_final(pairs, NULL, 3, y, 1, &args, ode_interval(tape, 0, time),
                           &(ode_options){ .method = methods[_i / 2] }, ends);
    ad_grad(ad_sum_all(ends[0]), 1, y, &by_x);
    ck_assert_msg(!ad_get(by_x, bar), "%s", ad_tape_error(tape));
    for (int i = 0; i < ROWS * PAIRS; i++)
        ck_assert_double_eq_tol(bar[i], exp(-0.05 * time) * cos(w[i] * time), 0.1);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("mixed_rows", "mixed_rows");
    tcase_add_loop_test(tests, the_fast_one_is_right, 0, 2 * METHODS);
    tcase_add_loop_test(tests, the_fast_pair_is_right, 0, 2 * METHODS);
    return suite_run();
}
