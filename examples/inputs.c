/* A system that is driven by measurements: the voltage y over a capacitor behind a resistor (RC =
 * 1/2 s),
 *
 *     y' = (u(t) - y) / RC,  y(0) = 0,
 *
 * where u was sampled 21 times a period. The field gets the samples as an argument and interpolates
 * them; the gradient of y(1) by every sample comes with them. For u = sin(2 pi t) the exact answer
 * is known. */
#include <costate.h>
#include <math.h>

enum { SAMPLES = 21 };

static ad_var circuit(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var u = ode_interpolate(ODE_CUBIC, t, args[0], args[1]);
    return ad_scale(ad_sub(u, y), 2);
}

int main(void)
{
    const double pi = 3.14159265358979323846, w = 2 * pi, zero = 0;
    double time[SAMPLES], volt[SAMPLES], by_sample[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        time[i] = (double)i / (SAMPLES - 1);
        volt[i] = sin(w * time[i]);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &zero);
    ad_var knots = ad_constant(tape, AD_SHAPE(SAMPLES), time);
    ad_var samples = ad_param(tape, AD_SHAPE(SAMPLES, 1), volt), gradient;
    ad_var y =
        ode_solve_final(circuit, NULL, y0, AD_VARS(knots, samples), ode_interval(tape, 0, 1), NULL);
    ad_grad(ad_sum_all(y), AD_VARS(samples), &gradient);
    double exact = 2 * w / (4 + w * w) * (exp(-2) - 1);
    printf("y(1) = %.4f, exactly %.4f\n", ad_item(y), exact);
    if (ad_get(gradient, by_sample)) {
        fprintf(stderr, "%s\n", ad_tape_error(tape));
        return 1;
    }
    for (int i = 0; i < SAMPLES; i += 5) printf("dy(1)/du(%.2f) = %.4f\n", time[i], by_sample[i]);
    ad_tape_free(tape);
}
