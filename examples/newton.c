/* First and second derivatives: Newton's method for the lowest point of Rosenbrock's valley,
 *
 *     f(x) = (1 - x_0)^2 + 100 (x_1 - x_0^2)^2,   lowest at (1, 1): f = 0.
 *
 * Gradient g and Hessian H are recorded once. Each step sets new data and asks for the values: x <-
 * x - H^-1 g. */
#include <costate.h>

int main(void)
{
    double place[] = { -1.2, 1 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input(tape, AD_SHAPE(2), place), part[2], gradient;
    ad_split(x, 0, 2, NULL, part);
    ad_var valley = ad_sub(part[1], ad_square(part[0]));
    ad_var f =
        ad_sum_all(ad_add(ad_square(ad_shift(part[0], -1)), ad_scale(ad_square(valley), 100)));
    ad_grad(f, AD_VARS(x), &gradient);
    ad_var hessian = ad_jacobian(gradient, x);

    /* A Hessian times a vector needs no Hessian: its cost is that of a gradient. */
    ad_var v = ad_constant(tape, AD_SHAPE(2), ((double[]){ 1, 2 }));
    ad_print(stdout, "H", hessian);
    ad_print(stdout, "H v by ad_hvp", ad_hvp(f, x, v));
    ad_print(stdout, "H v by ad_contract", ad_contract("ij,j->i", AD_VARS(hessian, v)));

    for (int step = 0; step <= 6; step++) {
        const double *g = ad_value_f64(gradient), *h = ad_value_f64(hessian);
        if (!g || !h) {
            fprintf(stderr, "%s\n", ad_tape_error(tape));
            return 1;
        }
        printf("step %d: x = (%.6f, %.6f), f = %.3e\n", step, place[0], place[1], ad_item(f));
        double determinant = h[0] * h[3] - h[1] * h[2];
        place[0] -= (h[3] * g[0] - h[1] * g[1]) / determinant;
        place[1] -= (h[0] * g[1] - h[2] * g[0]) / determinant;
        ad_set(x, 1, place);
    }
    ad_tape_free(tape);
}
