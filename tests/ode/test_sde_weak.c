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

/* A drift that is not linear, and additive noise: from y0 the law at T is that of the mixture of
 * N(y0 + T, T) and N(y0 - T, T) whose weights are as e^y0 and e^-y0 (the density is that of a
 * Brownian motion times cosh(y) / cosh(y0) e^(-T/2), by Girsanov's theorem). */
static ad_var bent_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_tanh(y);
}

static const sde_problem bent = { .name = "tanh drift",
                                  .calculus = SDE_ITO,
                                  .drift = bent_drift,
                                  .diffusion = path_itself,
                                  .dim = 1,
                                  .motions = 1,
                                  .horizon = 2,
                                  .y0 = { 0.5 },
                                  .reference = &sde_sra3,
                                  .fine = 4 };

static double bent_moment(int power)
{
    const double y = bent.y0[0], T = bent.horizon, up = 1 / (1 + exp(-2 * y));
    if (power == 1) return y + T * (2 * up - 1);
    return up * (y + T) * (y + T) + (1 - up) * (y - T) * (y - T) + T;
}

static double gbm_moment(int power)
{
    return exp(power * growth + power * (power - 1) / 2.0 * spread * spread);
}

/* The orders of the errors of the means of y and of y^2: of 16 to 128 steps, of methods of order 2,
 * whose errors the noise of the mean would hide there, of 8 to 64. */
typedef struct {
    measured_order mean, second;
} weak_orders;

static weak_orders orders_of(const sde_problem *problem, const ode_method *method,
                             const double *truth)
{
    double *part = malloc((size_t)(2 * LEVELS * ROWS) * sizeof *part),
           *square = part + LEVELS * ROWS;
    int first = sde_method_weak_order(method) > 1 ? 3 : 4;
    ck_assert_ptr_nonnull(part);
    for (int l = 0; l < LEVELS; l++) {
        double *y = end_states(problem, method, ROWS, CELLS, 1 << (first + l));
        for (int i = 0; i < ROWS; i++) {
            part[l * ROWS + i] = y[i] - truth[i];
            square[l * ROWS + i] = y[i] * y[i] - truth[i] * truth[i];
        }
        free(y);
    }
    weak_orders orders = { slope_of(LEVELS, ROWS, part, 1), slope_of(LEVELS, ROWS, square, 1) };
    free(part);
    return orders;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The paths have the law: the moments of the solutions are within four standard errors. */
static void check_moments(const double *y, double (*exact_moment)(int power))
{
    for (int power = 1; power <= 2; power++) {
        double mean = 0, square = 0;
        for (int i = 0; i < ROWS; i++) {
            mean += pow(y[i], power) / ROWS;
            square += pow(y[i], 2 * power) / ROWS;
        }
        double error = sqrt((square - mean * mean) / ROWS);
        double exact = exact_moment(power);
        ck_assert_msg(fabs(mean - exact) < 4 * error, "moment %d: %.4f +- %.4f, exact %.4f", power,
                      mean, error, exact);
    }
}

START_TEST(moments)
{
    double *z = true_states(&bent, ROWS, CELLS), *y = true_states(&gbm, ROWS, CELLS);
    check_moments(z, bent_moment);
    free(z);
    check_moments(y, gbm_moment);
    qsort(y, ROWS, sizeof *y, compare);
    ck_assert_double_eq_tol(log(y[ROWS / 2]), growth - spread * spread / 2, 0.02);
    free(y);
}
END_TEST

/* The order is what the method says, or of methods with fractions of the step in their stages, sri1
 * and sri2, and of noise that methods need not expect to be additive, at least that. The mean of a
 * linear equation is that of the method without noise: of sri2 its order is 3, and the spread of
 * the paths hides it. */
static void check(const ode_method *method, const char *what, measured_order m, bool least)
{
    double order = sde_method_weak_order(method);
    ck_assert_msg(m.slope >= order - 0.15 && (least || m.slope <= order + 0.15) &&
                      (least || m.error < 0.05),
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
        weak_orders o = orders_of(&gbm, method, truth);
        double order = sde_method_weak_order(method);
        printf("  %-20s %.3f +- %.3f  %.3f +- %.3f  %.1f\n", ode_method_name(method), o.mean.slope,
               o.mean.error, o.second.slope, o.second.error, order);
        bool least = order != floor(order);
        if (method != &sde_sri2) check(method, "mean", o.mean, least);
        check(method, "second moment", o.second, least);
    }
    free(truth);
}
END_TEST

START_TEST(weak_of_additive_noise)
{
    double *truth = true_states(&bent, ROWS, CELLS);
    printf("additive noise: weak order of the mean, of the second moment, published\n");
    for (int i = 0; sde_methods()[i]; i++) {
        const ode_method *method = sde_methods()[i];
        if (!(method->takes & (ODE_TAKES_ADDITIVE | ODE_TAKES_DIAGONAL))) continue;
        weak_orders o = orders_of(&bent, method, truth);
        double order = sde_method_weak_order(method);
        printf("  %-20s %.3f +- %.3f  %.3f +- %.3f  %.1f\n", ode_method_name(method), o.mean.slope,
               o.mean.error, o.second.slope, o.second.error, order);
        check(method, "mean of additive noise", o.mean, true);
        check(method, "second moment of additive noise", o.second, true);
    }
    free(truth);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sde_weak", "sde_weak");
    tcase_add_test(tests, moments);
    tcase_add_test(tests, weak);
    tcase_add_test(tests, weak_of_additive_noise);
    return suite_run();
}
