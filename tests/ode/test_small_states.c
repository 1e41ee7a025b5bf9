/* Gradients where the whole state is small against atol, but not zero: an oscillator whose
 * amplitude the tolerance does not resolve. The solution is right whatever the steps are; its
 * derivative is that of the same oscillator of any size: dx/dx_0 = cos T, dx/dv_0 = sin T. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>

static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    ad_var dy = ad_concatenate(2, (ad_var[]){ v, ad_neg(x) }, 1);
    return ad_mul(args[0], user ? ad_neg(dy) : dy);
}

static const struct {
    double amplitude, horizon;
} cases[] = {
    { 1e-10, 10 }, { 1e-9, 10 }, { 1e-8, 100 }, { 1e-7, 1 }, { 1e-7, 100 }, { 1e-6, 100 }
};
enum { CASES = sizeof cases / sizeof *cases };

/* Both types, both directions of time, alone and beside a row that rests. */
enum { KINDS = 8 };

START_TEST(gradients_are_right)
{
    double amplitude = cases[_i % CASES].amplitude, horizon = cases[_i % CASES].horizon;
    const ode_method *method = ode_methods()[_i / CASES];
    if (!ode_method_adaptive(method)) return;
    for (int k = 0; k < KINDS; k++) {
        bool f32 = k & 1, back = k & 2;
        int rows = k & 4 ? 2 : 1;
        double right[] = { cos(horizon), sin(horizon) }, got[4];
        ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), rows, ((double[4]){ amplitude })),
               p = ad_param(tape, AD_SHAPE(1, 1), ((double[]){ 1 })), bar;
        ad_var times = ode_interval(tape, 0, back ? -horizon : horizon);
        ad_var y = ode_solve_final(oscillator, back ? tape : NULL, y0, 1, &p, times,
                                   &(ode_options){ .method = method });
        ad_grad(ad_sum_all(ad_slice(y, 1, 0, 1)), 1, &y0, &bar);
        ck_assert_msg(!ad_get(bar, got), "%s", ad_tape_error(tape));
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 2; i++)
                ck_assert_msg(fabs(got[2 * r + i] - right[i]) < 0.1,
                              "%s, kind %d, amplitude %g, to %g: %g, right is %g",
                              ode_method_name(method), k, amplitude, horizon, got[2 * r + i],
                              right[i]);
        ad_tape_free(tape);
    }
}
END_TEST

int main(void)
{
    int methods = 0;
    while (ode_methods()[methods]) methods++;
    TCase *tests = suite_case("small_states", "small_states");
    tcase_add_loop_test(tests, gradients_are_right, 0, methods * CASES);
    return suite_run();
}
