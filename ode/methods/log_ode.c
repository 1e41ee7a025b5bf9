/* The log-ODE method (Castell, Gaines 1996; Foster, Oberhauser, Lyons 2020,
 * doi:10.1137/19M1261912): over a step the equation in the sense of Stratonovich has the solution
 * at s = 1 of
 *
 *     dy/ds = h f + g W + sum_(i<j) A_ij [g_i, g_j],   [g_i, g_j] = (dg_j/dy) g_i - (dg_i/dy) g_j,
 *
 * which one step of the midpoint rule solves, with the Levy area A_ij = 1/2 int (W_i dW_j - W_j
 * dW_i). Of general noise A is not a function of increments: it is approximated by its mean for
 * W, H and K of the step, to which a number of the right variance is added (Davie 2014,
 * doi:10.1214/EJP.v19-3425; Foster, Habermann 2023, doi:10.1017/apr.2022.43). With the standardised
 * numbers w, z, k of W, H, K, and a number x_ij of each pair,
 *
 *     A_ij / h = (z_i w_j - w_i z_j) / sqrt(12) + (k_i z_j - z_i k_j) / sqrt(60)
 *                + sqrt(1/28 + (k_i^2 + k_j^2) / 140) x_ij:
 *
 * of the Fourier-Legendre series of A (Kloeden, Platen, Wright 1992) the first two terms, and the
 * variance of the rest. */
#include "ode/methods/recorders.h"
#include <math.h>
#include <stdlib.h>

/* [rows,m] as [rows,m,1], and as [rows,1,m]. */
static ad_var down(ad_var x, int64_t m) { return ad_reshape(x, AD_SHAPE(AD_ROWS, m, 1)); }
static ad_var along(ad_var x, int64_t m) { return ad_reshape(x, AD_SHAPE(AD_ROWS, 1, m)); }

/* x_i y_j - y_i x_j: [rows,m,m]. */
static ad_var wedge(ad_var x, ad_var y, int64_t m)
{
    return ad_sub(ad_mul(down(x, m), along(y, m)), ad_mul(down(y, m), along(x, m)));
}

/* The numbers of the pairs i < j as an antisymmetric matrix [rows,m,m]. */
static ad_var antisymmetric(ad_var pairs, int64_t m)
{
    ad_tape *tape = pairs.tape;
    int64_t *place = calloc((size_t)(m * m), sizeof *place);
    double *sign = calloc((size_t)(m * m), sizeof *sign);
    ad_var matrix = ad_none(tape);
    if (place && sign) {
        int64_t pair = 0;
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = i + 1; j < m; j++) {
                place[i * m + j] = place[j * m + i] = pair++;
                sign[i * m + j] = 1;
                sign[j * m + i] = -1;
            }
        matrix = ad_reshape(ad_gather(pairs, 1, m * m, place), AD_SHAPE(AD_ROWS, m, m));
        matrix = ad_mul(matrix, ad_constant(tape, AD_SHAPE(m, m), sign));
    } else {
        ad_fail(tape, "the log-ODE method: out of memory");
    }
    free(place);
    free(sign);
    return matrix;
}

/* The approximated Levy area of the step, [rows,m,m]. */
static ad_var record_area(const ode_step *s, int64_t m)
{
    ad_var w = s->noise[0], z = s->noise[1], k = s->noise[2], square = ad_square(k);
    ad_var mean =
        ad_add(ad_scale(wedge(z, w, m), 1 / sqrt(12)), ad_scale(wedge(k, z, m), 1 / sqrt(60)));
    ad_var spread = ad_scale(ad_add(down(square, m), along(square, m)), 1.0 / 140);
    ad_var rest = ad_mul(ad_sqrt(ad_shift(spread, 1.0 / 28)), antisymmetric(s->pairs[0], m));
    return ad_mul(ad_square(s->root_h), ad_add(mean, rest));
}

/* Column i of g, of the states that have noise: their derivatives in the direction v, added to
 * sum. */
static void add_derivative(const ode_step *s, const ad_var *y, const ad_var *g, int64_t i,
                           const ad_var *v, ad_var *sum)
{
    int n = s->system->nstate, count = 0, of[ODE_MAX_STATES];
    ad_var column[ODE_MAX_STATES], moved[ODE_MAX_STATES];
    for (int j = 0; j < n; j++) {
        if (g[j].node < 0) continue;
        int axis = s->system->state[j].rank;
        of[count] = j;
        column[count++] = ad_slice(g[j], axis, i, i + 1);
    }
    ad_jvp_cut(n, y, v, count, column, moved);
    for (int c = 0; c < count; c++) {
        ad_shape shape = ad_shape_of(moved[c]);
        shape.rank--;
        sum[of[c]] = ad_add(sum[of[c]], ad_reshape(moved[c], shape));
    }
}

/* sum_(i<j) A_ij [g_i, g_j] = sum_j (dg_j/dy) sum_i g_i A_ij, added to sum. */
static void add_brackets(const ode_step *s, const ad_var *y, const ad_var *g, ad_var *sum)
{
    int n = s->system->nstate;
    int64_t m = s->system->noise.m;
    ad_var area = record_area(s, m), v[ODE_MAX_STATES];
    for (int64_t i = 0; i < m; i++) {
        ad_var x = ad_reshape(ad_slice(area, 2, i, i + 1), AD_SHAPE(AD_ROWS, m));
        ode_record_noise(s, g, x, v);
        for (int j = 0; j < n; j++)
            if (v[j].node < 0) v[j] = ad_zeros_like(s->y[j]);
        add_derivative(s, y, g, i, v, sum);
    }
}

static void log_ode_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    const ode_system *system = s->system;
    int n = system->nstate;
    ad_var w = ode_record_increment(s), middle[ODE_MAX_STATES], move[ODE_MAX_STATES];
    ode_record_driven(s, r, 0, s->y, w, move, NULL);
    for (int j = 0; j < n; j++) middle[j] = ad_add(s->y[j], ad_scale(move[j], 0.5));
    ode_record_driven(s, r, 1, middle, w, move, NULL);
    for (int j = 0; j < n; j++) r->next[j] = ad_add(s->y[j], move[j]);
    if (system->noise.kind != ODE_NOISE_GENERAL || system->noise.m < 2 || system->noise.additive)
        return;
    ad_var g[ODE_MAX_STATES];
    ode_record_drift_diffusion(s, r, 1, middle, NULL, g);
    add_brackets(s, middle, g, r->next);
}

static const double at_start_and_middle[] = { 0, 0.5 };
const ode_method sde_log_ode = {
    .name = "log_ode",
    .about = "the log-ODE method with an approximated Levy area (Foster, Oberhauser, Lyons 2020, "
             "doi:10.1137/19M1261912; Stratonovich; general or scalar noise): strong order 0.5, "
             "with a smaller error than that of Heun's method, and 1 where the noise commutes",
    .flags = ODE_METHOD_LEVY_AREA,
    .order = 2,
    .times = 2,
    .times_estimate = 2,
    .times_dense = 2,
    .c = at_start_and_middle,
    .noise = 3,
    .takes = ODE_TAKES_GENERAL | ODE_TAKES_SCALAR | ODE_TAKES_COMMUTATIVE | ODE_TAKES_ADDITIVE,
    .calculi = ODE_IN_STRATONOVICH,
    .strong_order = 0.5,
    .weak_order = 1,
    .step = log_ode_step
};
