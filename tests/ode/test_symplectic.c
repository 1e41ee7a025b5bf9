/* The implicit midpoint rule is symplectic: M^T J M = J for the Jacobian M of a step, for every
 * Hamiltonian system, and it keeps quadratic invariants. Right values are analytic. */
#include "costate.h"
#include "tests/support.h"
#include <complex.h>
#include <math.h>

enum { N = 2, D = 2 * N };

/* H = (1 + q1^2) p1^2 / 2 + p1 p2 cos q2 + p2^2 + exp q1 + q1 q2^2: not separable. y: q, p. */
static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var z[D], g;
    (void)t, (void)args, (void)user;
    ad_split(y, 1, D, NULL, z);
    ad_var turn = ad_mul(ad_mul(z[2], z[3]), ad_cos(z[1])),
           first = ad_mul(ad_shift(ad_square(z[0]), 1), ad_scale(ad_square(z[2]), 0.5)),
           potential = ad_add(ad_exp(z[0]), ad_mul(z[0], ad_square(z[1])));
    ad_var energy = ad_add(ad_add(first, turn), ad_add(ad_square(z[3]), potential));
    ad_grad(ad_sum_all(energy), AD_VARS(y), &g);
    return ad_concatenate(AD_VARS(ad_slice(g, 1, N, D), ad_neg(ad_slice(g, 1, 0, N))), 1);
}

/* The largest element of M^T J M - J after 20 steps. */
static double loss_of_area(const ode_method *method)
{
    const double start[D] = { 0.3, -0.2, 0.5, 0.4 };
    double m[D * D], largest = 0;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), 1, start);
    ad_var y = ode_solve_final(field, NULL, y0, 0, NULL, ode_interval(tape, 0, 2),
                               &(ode_options){ .method = method, .steps = 20 });
    ck_assert_msg(!ad_get(ad_jacobian(y, y0), m), "%s", ad_tape_error(tape));
    for (int a = 0; a < D; a++)
        for (int b = 0; b < D; b++) {
            double form = b == a + N ? -1 : a == b + N ? 1 : 0;
            for (int i = 0; i < N; i++)
                form += m[i * D + a] * m[(i + N) * D + b] - m[(i + N) * D + a] * m[i * D + b];
            largest = fmax(largest, fabs(form));
        }
    ad_tape_free(tape);
    return largest;
}

START_TEST(area)
{
    ck_assert_double_lt(loss_of_area(&ode_implicit_midpoint), 1e-11);
    /* Methods that are not symplectic are found out. */
    ck_assert_double_gt(loss_of_area(&ode_trapezoidal), 1e-4);
    ck_assert_double_gt(loss_of_area(&ode_rk4), 1e-7);
}
END_TEST

static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_concatenate(AD_VARS(ad_slice(y, 1, 1, 2), ad_neg(ad_slice(y, 1, 0, 1))), 1);
}

/* Each step of y' = -i y multiplies it by (1 - i h / 2) / (1 + i h / 2), of modulus 1. */
START_TEST(oscillation)
{
    enum { STEPS = 5000 };
    const double h = 0.3, start[2] = { 1, 0 };
    double y[2];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
    ad_var end =
        ode_solve_final(oscillator, NULL, y0, 0, NULL, ode_interval(tape, 0, STEPS * h),
                        &(ode_options){ .method = &ode_implicit_midpoint, .steps = STEPS });
    ck_assert_msg(!ad_get(end, y), "%s", ad_tape_error(tape));
    double complex right = cpow((1 - I * h / 2) / (1 + I * h / 2), STEPS);
    ck_assert_double_eq_tol(y[0], creal(right), 1e-9);
    ck_assert_double_eq_tol(y[1], cimag(right), 1e-9);
    ck_assert_double_eq_tol(hypot(y[0], y[1]), 1, 1e-11);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("symplectic", "symplectic");
    tcase_add_test(c, area);
    tcase_add_test(c, oscillation);
    return suite_run();
}
