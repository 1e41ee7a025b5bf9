/* Stochastic equations: solutions on a path that is known, noise of all kinds, both calculi. */
#include "costate.h"
#include "ode/step/step.h"
#include "sde_problems.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

/* The increments of a path are the solution of dy = dW with the same options. */
static ad_var nothing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_zeros_like(y);
}
static ad_var unit_noise(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_scalar(t.tape, 1);
}

/* W [rows,n + 1,width] at n + 1 equally spaced times of [0,1]. */
static void path_of(sde_options options, int rows, int width, int n, double *w)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double *zeros = calloc((size_t)rows * (size_t)width, sizeof *zeros);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, width), rows, zeros);
    options.ode.steps = options.ode.steps / n ? options.ode.steps / n : 1;
    get(sde_solve(nothing, unit_noise, NULL, y0, 0, NULL, ode_linspace(tape, 0, 1, n + 1),
                  &options),
        w);
    free(zeros);
    ad_tape_free(tape);
}

/* ---- geometric Brownian motion ---- */

/* dy = a y dt + b y dW: y(1) = y(0) exp((a - b^2/2) + b W) in the sense of Ito, without b^2/2 in
 * that of Stratonovich. */
static const double gbm_a = 0.4, gbm_b = 0.5;
static ad_var gbm_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, gbm_a);
}
static ad_var gbm_diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, gbm_b);
}

/* The root mean square error at the end over rows, by so many steps of a path of 256 cells. */
static double gbm_error(const ode_method *method, sde_calculus calculus, int steps)
{
    enum { ROWS = 200 };
    double one[ROWS], w[2 * ROWS], y[ROWS], sum = 0;
    for (int i = 0; i < ROWS; i++) one[i] = 1;
    sde_options options = { .ode = { .method = method, .steps = steps },
                            .calculus = calculus,
                            .path = { .seed = 7, .cells = 256 } };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, one);
    get(sde_solve_final(gbm_drift, gbm_diffusion, NULL, y0, 0, NULL, ode_interval(tape, 0, 1),
                        &options),
        y);
    ad_tape_free(tape);
    path_of(options, ROWS, 1, 1, w);
    double drift = gbm_a - (calculus == SDE_ITO ? gbm_b * gbm_b / 2 : 0);
    for (int i = 0; i < ROWS; i++) {
        double exact = exp(drift + gbm_b * w[2 * i + 1]);
        sum += (y[i] - exact) * (y[i] - exact);
    }
    return sqrt(sum / ROWS);
}

/* Every method solves the equation that is meant in either sense: its error goes down with the
 * step, to the order that diagonal noise allows at least. */
START_TEST(gbm)
{
    for (int i = 0; sde_methods()[i]; i++) {
        const ode_method *m = sde_methods()[i];
        if (!(m->takes & ODE_TAKES_DIAGONAL)) continue;
        for (int c = 0; c < 2; c++) {
            double coarse = gbm_error(m, (sde_calculus)c, 16);
            double fine = gbm_error(m, (sde_calculus)c, 128);
            double order = log2(coarse / fine) / 3;
            ck_assert_msg(order > m->strong_order - 0.15 && fine < 0.08,
                          "%s, calculus %d: errors %.3g, %.3g: order %.2f", m->name, c, coarse,
                          fine, order);
        }
    }
}
END_TEST

/* One step of Euler and Maruyama is what it is. */
START_TEST(euler_maruyama)
{
    enum { ROWS = 3, N = 5 };
    double one[ROWS] = { 1, 2, -1 }, w[ROWS * (N + 1)], y[ROWS * (N + 1)];
    sde_options options = { .ode = { .steps = 1 }, .path = { .seed = 3 } };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, one);
    get(sde_solve(gbm_drift, gbm_diffusion, NULL, y0, 0, NULL, ode_linspace(tape, 0, 1, N + 1),
                  &options),
        y);
    ad_tape_free(tape);
    path_of(options, ROWS, 1, N, w);
    for (int r = 0; r < ROWS; r++) {
        double x = one[r];
        for (int k = 0; k < N; k++) {
            int at = r * (N + 1) + k;
            x += gbm_a * x / N + gbm_b * x * (w[at + 1] - w[at]);
            ck_assert_double_eq_tol(y[at + 1], x, 1e-14);
        }
        ck_assert(fabs(w[r * (N + 1) + N]) > 1e-3);
    }
}
END_TEST

/* A drift so stiff that explicit steps of this size explode: the variance at rest of implicit steps
 * is that of y' = (y + s W) / (1 + q), s^2 h / (2 q + q^2) with q = rate h. */
static ad_var stiff(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, -1000);
}

static ad_var constant(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_fill(t.tape, AD_SHAPE(1, 1), 2);
}

START_TEST(stiff_drifts)
{
    enum { ROWS = 20000, STEPS = 20 };
    static double y[ROWS];
    const ode_method *const methods[] = { &sde_implicit_euler, &sde_implicit_milstein,
                                          &sde_euler_maruyama };
    double h = 0.05, q = 1000 * h, wanted = 4 * h / (2 * q + q * q);
    for (int i = 0; i < 3; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        for (int k = 0; k < ROWS; k++) y[k] = 1;
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, y);
        sde_options options = { .ode = { .method = methods[i], .steps = STEPS } };
        ad_get(sde_solve_final(stiff, constant, NULL, y0, 0, NULL, ode_interval(tape, 0, h * STEPS),
                               &options),
               y);
        ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
        double mean = 0, square = 0;
        for (int k = 0; k < ROWS; k++) mean += y[k] / ROWS;
        for (int k = 0; k < ROWS; k++) square += (y[k] - mean) * (y[k] - mean) / ROWS;
        double error = 4.5 * wanted * sqrt(2.0 / ROWS);
        if (i < 2) ck_assert_double_eq_tol(square, wanted, error);
        if (i < 2) ck_assert_double_eq_tol(mean, 0, 4.5 * sqrt(wanted / ROWS));
        else ck_assert_double_gt(fabs(mean), 1e10);
        ad_tape_free(tape);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sde", "sde");
    tcase_add_test(tests, gbm);
    tcase_add_test(tests, euler_maruyama);
    tcase_add_test(tests, stiff_drifts);
    return suite_run();
}
