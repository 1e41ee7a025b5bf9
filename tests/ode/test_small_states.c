/* Gradients where the state is small against its tolerance, but not zero: an oscillator whose
 * amplitude the tolerance does not resolve, alone or beside a component that is large. The solution
 * is right whatever the steps are; its derivative is that of the same oscillator of any size:
 * dx/dx_0 = cos T, dx/dv_0 = sin T. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>

/* What else there is does not move. */
static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    int64_t width = ad_shape_of(y).dim[1];
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), dy[] = { v, ad_neg(x), x };
    if (width > 2) dy[2] = ad_scale(ad_slice(y, 1, 2, 3), 0);
    ad_var all = ad_concatenate((int)width, dy, 1);
    return ad_mul(args[0], user ? ad_neg(all) : all);
}

static const struct {
    double amplitude, horizon;
} cases[] = { { 1e-12, 100 }, { 1e-10, 10 }, { 1e-9, 10 }, { 1e-8, 100 },
              { 1e-7, 1 },    { 1e-7, 100 }, { 1e-6, 100 } };
enum { CASES = sizeof cases / sizeof *cases };

/* Both types; forwards alone, and backwards beside a row that rests. */
enum { F32 = 1, BACK = 2, BESIDE = 4 };
static const int kinds[] = { 0, F32, BACK | BESIDE, F32 | BACK | BESIDE };
enum { KINDS = sizeof kinds / sizeof *kinds };

/* beside: the value of a third component, 0: there is none. */
static void check(const ode_method *method, int kind, double amplitude, double beside,
                  double horizon)
{
    bool f32 = kind & F32, back = kind & BACK;
    int rows = kind & BESIDE ? 2 : 1, width = beside > 0 ? 3 : 2;
    double right[] = { cos(horizon), sin(horizon) }, start[6] = { amplitude }, got[6];
    for (int r = 0; r < rows && beside > 0; r++) start[r * width + 2] = beside;
    ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, width), rows, start),
           p = ad_param(tape, AD_SHAPE(1, 1), ((double[]){ 1 })), bar;
    ad_var times = ode_interval(tape, 0, back ? -horizon : horizon);
    ad_var y = ode_solve_final(oscillator, back ? tape : NULL, y0, 1, &p, times,
                               &(ode_options){ .method = method });
    ad_grad(ad_sum_all(ad_slice(y, 1, 0, 1)), 1, &y0, &bar);
    ck_assert_msg(!ad_get(bar, got), "%s", ad_tape_error(tape));
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 2; i++)
            ck_assert_msg(fabs(got[r * width + i] - right[i]) < 0.1,
                          "%s, kind %d, amplitude %g beside %g, to %g: %g, right is %g",
                          ode_method_name(method), kind, amplitude, beside, horizon,
                          got[r * width + i], right[i]);
    ad_tape_free(tape);
}

START_TEST(gradients_are_right)
{
    const ode_method *method = ode_methods()[_i / CASES];
    if (!ode_method_adaptive(method)) return;
    for (int k = 0; k < KINDS; k++)
        check(method, kinds[k], cases[_i % CASES].amplitude, 0, cases[_i % CASES].horizon);
}
END_TEST

static const ode_method *const implicit[] = { &ode_trbdf2, &ode_kvaerno3, &ode_kvaerno4,
                                              &ode_kvaerno5 };
enum { IMPLICIT = sizeof implicit / sizeof *implicit };

/* The first looks of methods without a limit of stability find the oscillation whatever is beside
 * it. */
START_TEST(a_large_component_hides_nothing)
{
    static const double amplitudes[] = { 1e-12, 1e-9, 1e-7 }, horizons[] = { 1, 10, 100 };
    for (int a = 0; a < 3; a++)
        for (int t = 0; t < 3; t++)
            for (int k = 0; k < KINDS; k++)
                check(implicit[_i], kinds[k], amplitudes[a], 1e6, horizons[t]);
}
END_TEST

int main(void)
{
    int methods = 0;
    while (ode_methods()[methods]) methods++;
    TCase *tests = suite_case("small_states", "small_states");
    tcase_add_loop_test(tests, gradients_are_right, 0, methods * CASES);
    tcase_add_loop_test(tests, a_large_component_hides_nothing, 0, IMPLICIT);
    return suite_run();
}
