/* How good is a gradient? A body falls into a liquid that brakes it,
 *
 *     v' = g - k v |v|,  v(0) = 20,  g = 9.81,  k = 1/2,
 *
 * and v(1) is differentiated by g and k. A gradient through a solve is exact for the solve's steps.
 * ad_check_gradient tells whether these are small enough: it halves them all and compares. Halving
 * ten steps of Euler's method changes the gradient by 9 %, just within the default threshold of a
 * tenth; it is 7 to 12 % off. That of the default method is right. */
#include <costate.h>

static ad_var fall(ad_var t, ad_var v, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    ad_var drag = ad_mul(args[1], ad_mul(v, ad_abs(v)));
    return ad_sub(args[0], drag);
}

int main(void)
{
    const double start = 20, g = 9.81, k = 0.5;
    const ode_options options[] = { { .method = &ode_euler, .steps = 10 },
                                    { .method = &ode_dopri5 } };
    for (int i = 0; i < 2; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var v0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start);
        ad_var args[] = { ad_param(tape, AD_SHAPE(1), &g), ad_param(tape, AD_SHAPE(1), &k) };
        ad_var speed = ad_sum_all(
            ode_solve_final(fall, NULL, v0, 2, args, ode_interval(tape, 0, 1), &options[i]));
        ad_gradient_report report;
        if (ad_check_gradient(speed, 2, args, 0, &report, NULL)) {
            fprintf(stderr, "%s\n", ad_tape_error(tape));
            return 1;
        }
        printf("%s: the gradient %s\n%s\n", ode_method_name(options[i].method),
               report.agrees ? "agrees" : "does not agree", report.text);
        ad_tape_free(tape);
    }
}
