/* Data whose networks are known in closed form: Gaussians, correlated or not, and mixtures. */
#ifndef COSTATE_TESTS_DIFFUSION_PROBLEMS_H
#define COSTATE_TESTS_DIFFUSION_PROBLEMS_H
#include "costate.h"
#include "tests/support.h"
#include <math.h>

static inline void get(ad_var x, double *v)
{
    ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape));
}

/* Data in the plane with mean m and covariance s^2 [1, rho; rho, 1]. */
typedef struct {
    const ode_process *process;
    ode_prediction prediction;
    double m, s, rho;
} gaussian;

/* alpha and sigma at a time, in double. */
static inline void kernel_at(const ode_process *process, double t, double *alpha, double *sigma)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var a, s;
    ck_assert_msg(!ode_process_kernel(process, ad_scalar(tape, t), &a, &s), "%s",
                  ad_tape_error(tape));
    *alpha = ad_item(a);
    *sigma = ad_item(s);
    ad_tape_free(tape);
}

/* x_t has covariance alpha^2 S + sigma^2 I = v; noise = sigma v^-1 (x - alpha m), and the data that
 * go with it. The other forms are written out here once more. */
static inline ad_var gaussian_network(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)args;
    const gaussian *g = user;
    ad_var alpha, sigma, alpha_dot, sigma_dot, one = ad_ones_like(t);
    g->process->kernel(t, g->process->parameter, &alpha, &sigma);
    const double turn[4] = { sqrt(0.5), sqrt(0.5), sqrt(0.5), -sqrt(0.5) };
    const double axes[2] = { g->s * g->s * (1 + g->rho), g->s * g->s * (1 - g->rho) };
    ad_var q = ad_constant(x.tape, AD_SHAPE(2, 2), turn),
           a = ad_constant(x.tape, AD_SHAPE(1, 2), axes);
    ad_var v = ad_add(ad_mul(ad_square(alpha), a), ad_square(sigma));
    ad_var centred = ad_sub(x, ad_scale(alpha, g->m));
    ad_var score = ad_neg(ad_matmul(ad_div(ad_matmul(centred, q), v), q));
    ad_var noise = ad_neg(ad_mul(sigma, score));
    ad_var data = ad_div(ad_add(x, ad_mul(ad_square(sigma), score)), alpha);
    switch (g->prediction) {
    case ODE_SCORE: return score;
    case ODE_DATA: return data;
    case ODE_V: return ad_sub(ad_mul(alpha, noise), ad_mul(sigma, data));
    case ODE_VELOCITY:
        ad_jvp(1, &t, &one, 1, &alpha, &alpha_dot);
        ad_jvp(1, &t, &one, 1, &sigma, &sigma_dot);
        return ad_add(ad_mul(alpha_dot, data), ad_mul(sigma_dot, noise));
    default: return noise;
    }
}

static inline ode_diffusion gaussian_model(gaussian *g)
{
    return (ode_diffusion){
        .process = g->process, .prediction = g->prediction, .network = gaussian_network, .user = g
    };
}

/* Deviation along the axis (1, 1) (k = 0) or (1, -1) at a time. */
static inline double gaussian_deviation(const gaussian *g, double t, int k)
{
    double alpha, sigma;
    kernel_at(g->process, t, &alpha, &sigma);
    return sqrt(alpha * alpha * g->s * g->s * (k ? 1 - g->rho : 1 + g->rho) + sigma * sigma);
}

/* Where the probability flow takes x from time a to time b. */
static inline void gaussian_flow(const gaussian *g, double a, double b, const double *x, double *y)
{
    double alpha[2], sigma;
    kernel_at(g->process, a, &alpha[0], &sigma);
    kernel_at(g->process, b, &alpha[1], &sigma);
    double u[2] = { x[0] - alpha[0] * g->m, x[1] - alpha[0] * g->m };
    double along = (u[0] + u[1]) / 2 * gaussian_deviation(g, b, 0) / gaussian_deviation(g, a, 0);
    double across = (u[0] - u[1]) / 2 * gaussian_deviation(g, b, 1) / gaussian_deviation(g, a, 1);
    y[0] = alpha[1] * g->m + along + across;
    y[1] = alpha[1] * g->m + along - across;
}

/* Standard normal draws, those that a test always takes. */
static inline void normals(uint64_t seed, int64_t n, double *z)
{
    ad_rng rng = ad_rng_seed(seed);
    for (int64_t i = 0; i < n; i++) z[i] = ad_rng_normal(&rng);
}

/* Means and covariance of points in the plane: mean 0, mean 1, variance 0, variance 1, covariance.
 */
static inline void moments(int64_t n, const double *x, double *out)
{
    for (int k = 0; k < 5; k++) out[k] = 0;
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 2; k++) out[k] += x[2 * i + k] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double u = x[2 * i] - out[0], v = x[2 * i + 1] - out[1];
        out[2] += u * u / (double)n;
        out[3] += v * v / (double)n;
        out[4] += u * v / (double)n;
    }
}

#endif
