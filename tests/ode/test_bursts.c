/* Gradients where a fast oscillation of differences, which are zero, comes and goes between two
 * looks at the field, and a decay makes the cotangent small again before the first time is reached:
 * a small gradient can be garbage, too. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static const double end = 5, burst_width = 0.4, decay_width = 0.5, rtol = 1e-4;

/* Of y, whose three components are equal, p = y_0 - y_2 and q = y_1 - y_2 turn with the frequency
 * w(t), a burst around a time, and decay by 1 + k(t), a burst around 0. */
typedef struct {
    double w, at, k;
} bursts;

static ad_var burst(ad_var t, double at, double width, double top)
{
    return ad_scale(ad_exp(ad_neg(ad_square(ad_scale(ad_shift(t, -at), 1 / width)))), top);
}

static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    const bursts *b = user;
    ad_var last = ad_slice(y, 1, 2, 3), p = ad_sub(ad_slice(y, 1, 0, 1), last),
           q = ad_sub(ad_slice(y, 1, 1, 2), last), w = burst(t, b->at, burst_width, b->w),
           k = burst(t, 0, decay_width, b->k);
    ad_var turned[] = { ad_sub(ad_mul(w, q), ad_mul(k, p)),
                        ad_neg(ad_add(ad_mul(w, p), ad_mul(k, q))), ad_zeros_like(p) };
    return ad_add(ad_sub(ad_cos(t), y), ad_concatenate(3, turned, 1));
}

/* From time 0 to the end. */
static double integral(double at, double width, double top)
{
    return top * width * sqrt(M_PI) / 2 * (erf((end - at) / width) + erf(at / width));
}

/* The derivative of p at the end by y at time 0. */
static void derivative(const bursts *b, double by_y0[3])
{
    const double size = exp(-end - integral(0, decay_width, b->k)),
                 angle = integral(b->at, burst_width, b->w);
    by_y0[0] = size * cos(angle);
    by_y0[1] = size * sin(angle);
    by_y0[2] = -by_y0[0] - by_y0[1];
}

static const ode_method *const methods[] = { &ode_dopri5, &ode_tsit5, &ode_dopri8 };
enum { METHODS = sizeof methods / sizeof methods[0] };

/* The end of the solve from y; asked for at many times inside steps, with a loss at the last one
 * or, as good as, at the others too; or inside a longer solve. */
enum { FINAL, AT_TIMES, AT_ALL_TIMES, DENSE, WAYS };
static ad_var solve(int way, const bursts *b, ad_var y, const ode_options *o)
{
    enum { TIMES = 13 };
    void *user = (void *)b;
    ad_tape *tape = y.tape;
    if (way == FINAL)
        return ode_solve_final(field, user, y, 0, NULL, ode_interval(tape, 0, end), o);
    if (way == DENSE) {
        ode_dense dense;
        ode_solve_dense(&dense, field, user, y, 0, NULL, ode_interval(tape, 0, 1.17 * end), o);
        ad_var at = ode_dense_at(&dense, ad_constant(tape, AD_SHAPE(1), &end));
        return ad_reshape(at, AD_SHAPE(AD_ROWS, 3));
    }
    ad_var all = ode_solve(field, user, y, 0, NULL, ode_linspace(tape, 0, end, TIMES), o),
           last = ad_slice(all, 1, TIMES - 1, TIMES);
    if (way == AT_ALL_TIMES) last = ad_add(last, ad_scale(ad_sum_axis(all, 1, true), 1e-9));
    return ad_reshape(last, AD_SHAPE(AD_ROWS, 3));
}

/* Nothing is said of what is as good as zero, beside the cotangent at the end: a few times 100 rtol
 * of it. A burst of w = 2 turns the cotangent by about a radian, and has to be right. */
START_TEST(gradients_are_right_or_refused)
{
    static const double w[] = { 2, 20, 40, 100 }, at[] = { 1, 2, 3 }, k[] = { 0, 4, 8 };
    const ode_method *method = methods[_i / 2 / WAYS];
    const int way = _i / 2 % WAYS;
    const double nothing = 3 * 100 * rtol * sqrt(2);
    int refused = 0;
    for (int i = 0; i < 4 * 3 * 3; i++) {
        const bursts b = { w[i / 9], at[i / 3 % 3], k[i % 3] };
        const double y0[] = { 1, 1, 1 };
        double want[3], got[3], off = 0, size = 0;
        derivative(&b, want);
        ad_tape *tape = ad_tape_new(_i % 2 ? AD_F64 : AD_F32);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, y0), by_y0;
        const ode_options o = { .method = method, .rtol = rtol, .atol = rtol };
        ad_var x = solve(way, &b, y, &o);
        ad_grad(ad_sum_all(ad_sub(ad_slice(x, 1, 0, 1), ad_slice(x, 1, 2, 3))), 1, &y, &by_y0);
        if (ad_get(by_y0, got)) {
            ck_assert_msg(strstr(ad_tape_error(tape), "step is halved"), "%s", ad_tape_error(tape));
            ck_assert_double_gt(b.w, 2);
            refused++;
        } else {
            for (int j = 0; j < 3; j++) {
                off += pow(got[j] - want[j], 2);
                size += pow(want[j], 2);
            }
            ck_assert_msg(sqrt(off) <= fmax(0.2 * sqrt(size), nothing),
                          "%s (%d), w = %g at %g, k = %g: %g off of %g", ode_method_name(method),
                          way, b.w, b.at, b.k, sqrt(off), sqrt(size));
        }
        ad_tape_free(tape);
    }
    ck_assert_int_gt(refused, 0);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("bursts", "bursts");
    tcase_add_loop_test(tests, gradients_are_right_or_refused, 0, 2 * METHODS * WAYS);
    return suite_run();
}
