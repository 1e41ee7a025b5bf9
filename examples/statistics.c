/* What a solve did: steps, evaluations, time. The van der Pol oscillator,
 *
 *     x' = v,  v' = mu (1 - x^2) v - x,  (x, v)(0) = (2, 0),  mu = 5,
 *
 * to t = 10 with four tolerances and two methods. More digits cost more evaluations; for many
 * digits the method of higher order needs fewer. */
#include <costate.h>

static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var part[2];
    ad_split(y, 1, 2, NULL, part);
    ad_var x = part[0], v = part[1];
    (void)t;
    (void)args;
    (void)user;
    ad_var damping = ad_scale(ad_sub(ad_ones_like(x), ad_square(x)), 5);
    return ad_concatenate(AD_VARS(v, ad_sub(ad_mul(damping, v), x)), 1);
}

int main(void)
{
    const ode_method *method[] = { &ode_dopri5, &ode_dopri8 };
    const double start[] = { 2, 0 };
    printf("%-8s %8s %8s %8s %12s  %s\n", "method", "rtol", "steps", "rejected", "evaluations",
           "x(10)");
    for (int m = 0; m < 2; m++) {
        for (double rtol = 1e-4; rtol > 1e-11; rtol /= 100) {
            ad_tape *tape = ad_tape_new(AD_F64);
            ode_stats stats = { 0 };
            ode_options options = {
                .method = method[m], .rtol = rtol, .atol = rtol, .stats = &stats
            };
            ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
            ad_var y =
                ode_solve_final(oscillator, NULL, y0, 0, NULL, ode_interval(tape, 0, 10), &options);
            double x = ad_item(ad_slice(y, 1, 0, 1));
            if (ad_tape_error(tape)) fprintf(stderr, "%s\n", ad_tape_error(tape));
            printf("%-8s %8.0e %8d %8d %12d  %.9f\n", ode_method_name(method[m]), rtol,
                   (int)stats.steps, (int)stats.rejected, (int)stats.evaluations, x);
            ode_stats_clear(&stats);
            ad_tape_free(tape);
        }
    }
}
