/* ode: y_1' = x_1, y_i' = x_i y_{i-1}, y(0) = 0, to t = 2 in equal steps of the classical method of
 * Runge and Kutta; the value is y_n. size: n, steps. */
#include "gradbench.h"
#include <string.h>

static void plan(gb_case *c)
{
    c->ninput = 1;
    c->count[0] = c->size[0];
    c->nvalue = 1;
    c->nderivative = c->size[0];
}

static void fill(const gb_case *c) { gb_numbers(0, c->count[0], 1, 0.3, c->input[0]); }

/* [1, y_1 .. y_{n-1}] */
static ad_var before(ad_var y, int64_t n)
{
    ad_var one = ad_fill(y.tape, AD_SHAPE(1), 1);
    return n == 1 ? one : ad_concatenate(2, (ad_var[]){ one, gb_part(y, 0, n - 1) }, -1);
}

static ad_var record(const gb_case *c, const ad_var *in)
{
    const int64_t n = c->size[0];
    const double h = 2.0 / (double)c->size[1];
    ad_var x = in[0], y = ad_fill(x.tape, AD_SHAPE(n), 0);
    for (int64_t s = 0; s < c->size[1]; s++) {
        ad_var k1 = ad_mul(x, before(y, n));
        ad_var k2 = ad_mul(x, before(ad_add(y, ad_scale(k1, h / 2)), n));
        ad_var k3 = ad_mul(x, before(ad_add(y, ad_scale(k2, h / 2)), n));
        ad_var k4 = ad_mul(x, before(ad_add(y, ad_scale(k3, h)), n));
        ad_var sum = ad_add(ad_add(k1, k4), ad_scale(ad_add(k2, k3), 2));
        y = ad_add(y, ad_scale(sum, h / 6));
    }
    return ad_sum_all(gb_part(y, n - 1, n));
}

/* k = x * [1, u_1 .. u_{n-1}] */
static void slope(int64_t n, const double *x, const double *u, double *k)
{
    k[0] = x[0];
    for (int64_t i = 1; i < n; i++) k[i] = x[i] * u[i - 1];
}

/* xbar += kbar * [1, u]; ubar = x * kbar, moved back by one. */
static void slope_back(int64_t n, const double *x, const double *u, const double *kbar,
                       double *xbar, double *ubar)
{
    xbar[0] += kbar[0];
    for (int64_t i = 1; i < n; i++) xbar[i] += kbar[i] * u[i - 1];
    for (int64_t i = 1; i < n; i++) ubar[i - 1] = kbar[i] * x[i];
    ubar[n - 1] = 0;
}

enum { KEPT = 4 }; /* the points of a step's slopes */
static int64_t work_size(const gb_case *c) { return c->size[0] * (KEPT * c->size[1] + 9); }

static void by_hand(const gb_case *c, double *value, double *derivative, double *work)
{
    const int64_t n = c->size[0], steps = c->size[1];
    const double *x = c->input[0], h = 2.0 / (double)steps;
    double *kept = work, *k[4], *y = work + KEPT * steps * n, *ybar = y + n;
    double *kbar = ybar + n, *ubar = kbar + n;
    for (int i = 0; i < 4; i++) k[i] = ubar + (1 + i) * n;
    memset(y, 0, (size_t)n * sizeof *y);
    for (int64_t s = 0; s < steps; s++) {
        static const double reach[4] = { 0, 0.5, 0.5, 1 };
        double *u = kept + KEPT * s * n;
        for (int i = 0; i < 4; i++) {
            for (int64_t j = 0; j < n; j++)
                u[i * n + j] = i == 0 ? y[j] : y[j] + h * reach[i] * k[i - 1][j];
            slope(n, x, u + i * n, k[i]);
        }
        for (int64_t j = 0; j < n; j++)
            y[j] += h / 6 * (k[0][j] + k[3][j] + 2 * (k[1][j] + k[2][j]));
    }
    *value = y[n - 1];
    memset(derivative, 0, (size_t)n * sizeof *derivative);
    memset(ybar, 0, (size_t)n * sizeof *ybar);
    ybar[n - 1] = 1;
    for (int64_t s = steps - 1; s >= 0; s--) {
        const double *u = kept + KEPT * s * n;
        static const double weight[4] = { 1, 2, 2, 1 }, reach[4] = { 0.5, 0.5, 1, 0 };
        double *sum = k[0];
        memset(ubar, 0, (size_t)n * sizeof *ubar);
        memcpy(sum, ybar, (size_t)n * sizeof *sum);
        for (int i = 3; i >= 0; i--) {
            for (int64_t j = 0; j < n; j++)
                kbar[j] = h / 6 * weight[i] * ybar[j] + h * reach[i] * ubar[j];
            slope_back(n, x, u + i * n, kbar, derivative, ubar);
            for (int64_t j = 0; j < n; j++) sum[j] += ubar[j];
        }
        memcpy(ybar, sum, (size_t)n * sizeof *sum);
    }
}

const gb_program gb_ode = { "ode", plan, fill, record, by_hand, work_size };
