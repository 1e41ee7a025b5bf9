/* Weak orders: how fast mean and second moment at the end come to those of the equation, which are
 * known. Rows are paths; the difference to the solution on the same path has the same mean as the
 * difference to the moments, and a far smaller variance. */
#include "sde_orders.h"

enum { ROWS = 20000, CELLS = 128, LEVELS = 4 };

/* Geometric Brownian motion in the sense of Ito, of scalar noise. */
static const double growth = 1, spread = 0.5;

static ad_var drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, growth);
}
static ad_var diffusion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_reshape(ad_scale(y, spread), AD_SHAPE(AD_ROWS, 1, 1));
}
static void solution(const double *w, double *y)
{
    y[0] = exp(growth - spread * spread / 2 + spread * w[0]);
}

static const sde_problem gbm = { .name = "geometric Brownian motion",
                                 .calculus = SDE_ITO,
                                 .drift = drift,
                                 .diffusion = diffusion,
                                 .dim = 1,
                                 .motions = 1,
                                 .horizon = 1,
                                 .y0 = { 1 },
                                 .exact = solution };

/* The order of the error of the mean of y^power: of 16 to 128 steps, of methods of order 2, whose
 * errors the noise of the mean would hide there, of 8 to 64. */
static measured_order weak_order(const ode_method *method, const double *truth, int power)
{
    double *part = malloc((size_t)(LEVELS * ROWS) * sizeof *part);
    int first = sde_method_weak_order(method) > 1 ? 3 : 4;
    ck_assert_ptr_nonnull(part);
    for (int l = 0; l < LEVELS; l++) {
        double *y = end_states(&gbm, method, ROWS, CELLS, 1 << (first + l));
        for (int i = 0; i < ROWS; i++) part[l * ROWS + i] = pow(y[i], power) - pow(truth[i], power);
        free(y);
    }
    measured_order m = slope_of(LEVELS, ROWS, part, 1);
    free(part);
    return m;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The paths have the law: the moments of the solution are within four standard errors. */
START_TEST(moments)
{
    double *y = true_states(&gbm, ROWS, CELLS);
    for (int power = 1; power <= 2; power++) {
        double mean = 0, square = 0;
        for (int i = 0; i < ROWS; i++) {
            mean += pow(y[i], power) / ROWS;
            square += pow(y[i], 2 * power) / ROWS;
        }
        double error = sqrt((square - mean * mean) / ROWS);
        double exact = exp(power * growth + power * (power - 1) / 2.0 * spread * spread);
        ck_assert_msg(fabs(mean - exact) < 4 * error, "moment %d: %.4f +- %.4f, exact %.4f", power,
                      mean, error, exact);
    }
    qsort(y, ROWS, sizeof *y, compare);
    ck_assert_double_eq_tol(log(y[ROWS / 2]), growth - spread * spread / 2, 0.02);
    free(y);
}
END_TEST

/* The order is what the method says, or of methods with fractions of the step in their stages, sri1
 * and sri2, at least that. The mean of a linear equation is that of the method without noise: of
 * sri2 its order is 3, and the spread of the paths hides it. */
static void check(const ode_method *method, const char *what, measured_order m)
{
    double order = sde_method_weak_order(method);
    bool least = order != floor(order);
    ck_assert_msg(m.slope >= order - 0.15 && (least || m.slope <= order + 0.15) && m.error < 0.05,
                  "%s, %s: weak order %.3f +- %.3f, published %.1f", ode_method_name(method), what,
                  m.slope, m.error, order);
}

START_TEST(weak)
{
    double *truth = true_states(&gbm, ROWS, CELLS);
    printf("weak order of the mean, of the second moment, published\n");
    for (int i = 0; sde_methods()[i]; i++) {
        const ode_method *method = sde_methods()[i];
        if (!(method->takes & (ODE_TAKES_SCALAR | ODE_TAKES_GENERAL))) continue;
        measured_order mean = weak_order(method, truth, 1), second = weak_order(method, truth, 2);
        double order = sde_method_weak_order(method);
        printf("  %-20s %.3f +- %.3f  %.3f +- %.3f  %.1f\n", ode_method_name(method), mean.slope,
               mean.error, second.slope, second.error, order);
        if (method != &sde_sri2) check(method, "mean", mean);
        check(method, "second moment", second);
    }
    free(truth);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sde_weak", "sde_weak");
    tcase_add_test(tests, moments);
    tcase_add_test(tests, weak);
    return suite_run();
}
