/* Strong orders of all methods on four equations, one for each kind of noise, beside the published
 * ones. The path is the same for all step sizes; rows are paths. */
#include "sde_orders.h"

enum { ROWS = 500, CELLS = 512, FIRST = 5, LEVELS = 5 };

static ad_var times(ad_var y, double a, double b)
{
    ad_var re = ad_slice(y, 1, 0, 1), im = ad_slice(y, 1, 1, 2);
    ad_var parts[] = { ad_sub(ad_scale(re, a), ad_scale(im, b)),
                       ad_add(ad_scale(re, b), ad_scale(im, a)) };
    return ad_concatenate(2, parts, 1);
}

static ad_var matrix_times(ad_var y, const double *m)
{
    ad_var matrix = ad_constant(y.tape, AD_SHAPE(2, 2), m);
    return ad_contract("bj,ij->bi", 2, (ad_var[]){ y, matrix });
}

/* ---- scalar noise: geometric Brownian motion, in the sense of Ito ---- */

static const double growth = 1, spread = 0.6;

static ad_var gbm_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, growth);
}
static ad_var gbm_diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_reshape(ad_scale(y, spread), AD_SHAPE(AD_ROWS, 1, 1));
}
static void gbm_solution(const double *w, double *y)
{
    y[0] = exp(growth - spread * spread / 2 + spread * w[0]);
}

/* ---- noise that commutes: complex numbers, in the sense of Stratonovich ---- */

/* dy = c_0 y dt + c_1 y dW_1 + c_2 y dW_2: y = y(0) exp(c_0 t + c_1 W_1 + c_2 W_2). */
static const double complex_c[3][2] = { { -0.5, 0.3 }, { 0.3, 0.4 }, { 0.5, -0.2 } };
static const double complex_start[2] = { 1, 0.5 };

static ad_var complex_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return times(y, complex_c[0][0], complex_c[0][1]);
}
static ad_var complex_diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var columns[] = { times(y, complex_c[1][0], complex_c[1][1]),
                         times(y, complex_c[2][0], complex_c[2][1]) };
    return ad_stack(2, columns, 2);
}
static void complex_solution(const double *w, double *y)
{
    double re = complex_c[0][0] + complex_c[1][0] * w[0] + complex_c[2][0] * w[1];
    double im = complex_c[0][1] + complex_c[1][1] * w[0] + complex_c[2][1] * w[1];
    const double *s = complex_start;
    y[0] = exp(re) * (s[0] * cos(im) - s[1] * sin(im));
    y[1] = exp(re) * (s[0] * sin(im) + s[1] * cos(im));
}

/* ---- noise that does not: two matrices that do not commute, in the sense of Ito ---- */

static ad_var matrix_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return matrix_times(y, (double[]){ -0.5, 0.3, -0.2, -0.4 });
}
static ad_var matrix_diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var columns[] = { matrix_times(y, (double[]){ 0.3, 0.4, -0.4, 0.3 }),
                         matrix_times(y, (double[]){ 0.2, 0.1, 0.6, -0.4 }) };
    return ad_stack(2, columns, 2);
}

/* ---- additive noise that depends on time, and a drift that is not linear ---- */

static ad_var forced_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_add(ad_sin(ad_scale(y, 2)), ad_mul(ad_cos(ad_scale(t, 3)), y));
}
static ad_var forced_diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_shift(ad_scale(ad_sin(ad_scale(t, 4)), 0.5), 1);
}

/* ---- the tests ---- */

enum { SCALAR, COMMUTATIVE, GENERAL, ADDITIVE, KINDS };
static const sde_problem problems[KINDS] = {
    { .name = "scalar noise",
      .calculus = SDE_ITO,
      .drift = gbm_drift,
      .diffusion = gbm_diffusion,
      .dim = 1,
      .motions = 1,
      .horizon = 1,
      .y0 = { 1 },
      .exact = gbm_solution },
    { .name = "noise that commutes",
      .calculus = SDE_STRATONOVICH,
      .commutative = true,
      .drift = complex_drift,
      .diffusion = complex_diffusion,
      .dim = 2,
      .motions = 2,
      .horizon = 1,
      .y0 = { 1, 0.5 },
      .exact = complex_solution },
    { .name = "general noise",
      .calculus = SDE_ITO,
      .drift = matrix_drift,
      .diffusion = matrix_diffusion,
      .dim = 2,
      .motions = 2,
      .horizon = 1,
      .y0 = { 1, 0.5 },
      .reference = &sde_log_ode,
      .fine = 16 },
    { .name = "additive noise",
      .calculus = SDE_ITO,
      .drift = forced_drift,
      .diffusion = forced_diffusion,
      .dim = 1,
      .motions = 1,
      .horizon = 1,
      .y0 = { 1 },
      .reference = &sde_sra3,
      .fine = 8 },
};

/* Published strong orders by kind of noise; 0: the method does not take it. */
static const struct {
    const ode_method *method;
    double order[KINDS];
} published[] = {
    { &sde_euler_maruyama, { 0.5, 0.5, 0.5, 1 } },
    { &sde_heun, { 1, 1, 0.5, 1 } },
    { &sde_midpoint, { 1, 1, 0.5, 1 } },
    { &sde_euler_heun, { 1, 1, 0.5, 1 } },
    { &sde_reversible_heun, { 1, 1, 0.5, 1 } },
    { &sde_milstein, { 1, 1, 0, 1 } },
    { &sde_sri1, { 1.5, 0, 0, 1.5 } },
    { &sde_sri2, { 1.5, 0, 0, 1.5 } },
    { &sde_slow_rk, { 1.5, 1.5, 0, 1.5 } },
    { &sde_spark, { 1, 1, 0.5, 1.5 } },
    { &sde_shark_general, { 1, 1, 0.5, 1.5 } },
    { &sde_log_ode, { 1, 1, 0.5, 1 } },
    { &sde_sea, { 0, 0, 0, 1 } },
    { &sde_sra1, { 0, 0, 0, 1.5 } },
    { &sde_sra2, { 0, 0, 0, 1.5 } },
    { &sde_sra3, { 0, 0, 0, 1.5 } },
    { &sde_shark, { 0, 0, 0, 1.5 } },
    { &sde_implicit_euler, { 0.5, 0.5, 0.5, 1 } },
    { &sde_implicit_milstein, { 1, 1, 0, 1 } },
};
enum { PUBLISHED = sizeof published / sizeof *published };

START_TEST(strong)
{
    const sde_problem *p = &problems[_i];
    double *truth = true_states(p, ROWS, CELLS);
    printf("%s: errors at %d to %d steps, strong order +- its standard error, published\n", p->name,
           1 << FIRST, 1 << (FIRST + LEVELS - 1));
    for (int i = 0; i < PUBLISHED; i++) {
        const ode_method *method = published[i].method;
        double order = published[i].order[_i];
        if (order == 0) continue;
        measured_order m = strong_order(p, method, ROWS, truth, CELLS, FIRST, LEVELS);
        printf("  %-20s %.2e to %.2e  %.3f +- %.3f  %.1f\n", ode_method_name(method), m.size[0],
               m.size[LEVELS - 1], m.slope, m.error, order);
        ck_assert_msg(fabs(m.slope - order) <= 0.15 && m.error < 0.05,
                      "%s, %s: strong order %.3f +- %.3f, published %.1f", p->name,
                      ode_method_name(method), m.slope, m.error, order);
    }
    free(truth);
}
END_TEST

/* The table has all methods, and orders in all kinds of noise that a method takes; the method says
 * the least of them. */
START_TEST(complete)
{
    for (int i = 0; sde_methods()[i]; i++) {
        const ode_method *m = sde_methods()[i];
        if (m->takes == ODE_TAKES_LANGEVIN) continue;
        int at = 0;
        while (at < PUBLISHED && published[at].method != m) at++;
        ck_assert_msg(at < PUBLISHED, "%s is not in the table", m->name);
        const double *order = published[at].order;
        const unsigned kinds[KINDS] = { ODE_TAKES_SCALAR | ODE_TAKES_GENERAL,
                                        ODE_TAKES_COMMUTATIVE | ODE_TAKES_GENERAL,
                                        ODE_TAKES_GENERAL,
                                        ODE_TAKES_ADDITIVE | ODE_TAKES_DIAGONAL };
        double least = 9;
        for (int k = 0; k < KINDS; k++) {
            ck_assert_msg((order[k] > 0) == !!(m->takes & kinds[k]), "%s, %s", m->name,
                          problems[k].name);
            if (order[k] > 0 && order[k] < least) least = order[k];
        }
        ck_assert_msg(least == sde_method_strong_order(m), "%s: %.1f", m->name, least);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sde_orders", "sde_orders");
    tcase_add_test(tests, complete);
    tcase_add_loop_test(tests, strong, 0, KINDS);
    return suite_run();
}
