/* The divergence between path measures: closed forms, gradients against differences on the frozen
 * path, and diffusions for which there is none. */
#include "costate.h"
#include "ode/step/step.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

/* ---- drifts of Ornstein and Uhlenbeck ---- */

/* dy = (args[1] - args[0] y) dt + args[3] dW; the prior is without args[2], a difference. */
static ad_var ou_prior(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_sub(args[1], ad_mul(args[0], y));
}
static ad_var ou_posterior(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_add(ou_prior(t, y, args, user), args[2]);
}
/* Which lies in a rate. */
static ad_var ou_faster(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_sub(ou_prior(t, y, args, user), ad_mul(args[2], y));
}
static ad_var last_argument(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)y, (void)user;
    return args[3];
}
/* One Brownian motion. */
static ad_var last_scalar(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)y, (void)user;
    return ad_reshape(args[3], AD_SHAPE(1, 1, 1));
}

static ad_var number(ad_tape *tape, double x) { return ad_param(tape, AD_SHAPE(1), &x); }

/* Two drifts that differ by c: KL = c^2 T / (2 sigma^2) on every path, at every time. */
START_TEST(constant_difference)
{
    enum { ROWS = 3, TIMES = 4 };
    const double start[ROWS] = { 0.3, -1, 2 }, c = 0.7, sigma = 0.4;
    const ode_method *m = sde_methods()[_i];
    for (int way = 0; way < 4; way++) {
        bool scalar = way & 1;
        if (!(m->takes & (scalar ? ODE_TAKES_SCALAR : ODE_TAKES_DIAGONAL))) continue;
        sde_options options = { .ode = { .method = m, .steps = 5 },
                                .calculus = way & 2 ? SDE_STRATONOVICH : SDE_ITO };
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, start), kl;
        ad_var args[] = { number(tape, 1.3), number(tape, 0.2), number(tape, c),
                          number(tape, sigma) };
        ad_var times = ad_constant(tape, AD_SHAPE(TIMES), ((double[]){ 0.5, 0.7, 1.4, 2 }));
        ad_var y = sde_solve_kl(ou_posterior, ou_prior, scalar ? last_scalar : last_argument, NULL,
                                y0, 4, args, times, &options, &kl);
        ad_var same = sde_solve(ou_posterior, scalar ? last_scalar : last_argument, NULL, y0, 4,
                                args, times, &options);
        double got[ROWS * TIMES], path[ROWS * TIMES], alone[ROWS * TIMES];
        const double *t = (double[]){ 0.5, 0.7, 1.4, 2 };
        get(kl, got);
        get(y, path);
        get(same, alone);
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < TIMES; k++) {
                double right = c * c * (t[k] - t[0]) / (2 * sigma * sigma);
                ck_assert_msg(fabs(got[r * TIMES + k] - right) <= 1e-13,
                              "%s, way %d: %.15g at t = %g, right is %.15g", m->name, way,
                              got[r * TIMES + k], t[k], right);
                ck_assert_double_eq_tol(path[r * TIMES + k], alone[r * TIMES + k], 1e-14);
            }
        ad_tape_free(tape);
    }
}
END_TEST

/* Rates that differ by d, in the state of rest of the posterior, whose rate is a and whose variance
 * is sigma^2 / (2 a): KL = d^2 T / (4 a), the mean over paths. */
START_TEST(other_rate)
{
    enum { ROWS = 4000 };
    const double rate = 1, d = 0.5, sigma = 0.6, end = 2;
    double *start = malloc(ROWS * sizeof *start), *kl = malloc(2 * ROWS * sizeof *kl);
    ad_rng rng = ad_rng_seed(4);
    for (int i = 0; i < ROWS; i++) start[i] = ad_rng_normal(&rng) * sigma / sqrt(2 * (rate + d));
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, start), q;
    ad_var args[] = { number(tape, rate), number(tape, 0), number(tape, d), number(tape, sigma) };
    sde_solve_kl(ou_faster, ou_prior, last_argument, NULL, y0, 4, args, ode_interval(tape, 0, end),
                 &(sde_options){ .ode = { .steps = 400 } }, &q);
    get(q, kl);
    double sum = 0, squares = 0;
    for (int i = 0; i < ROWS; i++) {
        sum += kl[2 * i + 1];
        squares += kl[2 * i + 1] * kl[2 * i + 1];
    }
    double mean = sum / ROWS, error = sqrt((squares / ROWS - mean * mean) / ROWS);
    double right = d * d * end / (4 * (rate + d));
    ck_assert_msg(error < 0.02 * right && fabs(mean - right) < 4 * error,
                  "%.5f +- %.5f, right is %.5f", mean, error, right);
    free(start);
    free(kl);
    ad_tape_free(tape);
}
END_TEST

/* ---- general noise ---- */

enum { WIDE = 2, MOTIONS = 3 };
/* args: a [2], b [2,3], c [rows,2]. States are [rows,2,1]. */
static ad_var column(ad_var x) { return ad_reshape(x, AD_SHAPE(AD_ROWS, WIDE, 1)); }
static ad_var general_prior(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ad_sin(t), ad_mul(ad_reshape(args[0], AD_SHAPE(WIDE, 1)), y));
}
static ad_var general_posterior(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_add(general_prior(t, y, args, user), ad_tanh(ad_add(column(args[2]), y)));
}
/* b (1 + cos(y_0) / 4 in the first row) */
static ad_var general_noise(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var size = ad_shift(ad_scale(ad_cos(ad_slice(y, 1, 0, 1)), 0.25), 1);
    ad_var both = ad_concatenate(2, (ad_var[]){ size, ad_ones_like(size) }, 1);
    ad_var b = ad_reshape(args[1], AD_SHAPE(1, WIDE, 1, MOTIONS));
    return ad_mul(ad_reshape(both, AD_SHAPE(AD_ROWS, WIDE, 1, 1)), b);
}
static ad_var diagonal_noise(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var size = ad_shift(ad_scale(ad_cos(y), 0.25), 1);
    ad_var b = ad_reshape(ad_slice(args[1], 1, 0, 1), AD_SHAPE(WIDE, 1));
    return ad_mul(size, b);
}

enum { ROWS = 2, TIMES = 3, N = ROWS * WIDE, UNKNOWNS = N + WIDE + WIDE * MOTIONS + N };
/* y0, a, b, c; behind them how the times scale. */
static const double unknowns[UNKNOWNS + 1] = { 0.3, -0.5, 0.8,   1.1, 1.2, 0.6, 0.8, 0.2, -0.4,
                                               0.9, 0.7,  -0.25, 0.5, 0.3, 0.6, 0.9, 1.0 };
typedef struct {
    ad_tape *tape;
    ad_var x[5], y, kl, loss; /* x: y0, a, b, c, times */
} solve;

static solve record(const ode_method *m, ode_field diffusion, const double *v)
{
    solve s = { .tape = ad_tape_new(AD_F64) };
    double times[TIMES];
    for (int i = 0; i < TIMES; i++) times[i] = 0.4 * i * v[UNKNOWNS];
    s.x[0] = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, WIDE, 1), ROWS, v);
    s.x[1] = ad_param(s.tape, AD_SHAPE(WIDE), v + N);
    s.x[2] = ad_param(s.tape, AD_SHAPE(WIDE, MOTIONS), v + N + WIDE);
    s.x[3] = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, WIDE), ROWS, v + N + WIDE + WIDE * MOTIONS);
    s.x[4] = ad_input(s.tape, AD_SHAPE(TIMES), times);
    s.y = sde_solve_kl(general_posterior, general_prior, diffusion, NULL, s.x[0], 3, s.x + 1,
                       s.x[4], &(sde_options){ .ode = { .method = m, .steps = 3 } }, &s.kl);
    s.loss = ad_add(ad_sum_all(ad_square(s.kl)), ad_sum_all(ad_sin(s.y)));
    return s;
}

/* (a d_1^2 - 2 b d_0 d_1 + c d_0^2) / det, of the inverse of g g' = [a b; b c] */
static double rate_by_hand(const double *y, const double *b, const double *c)
{
    double g[WIDE][MOTIONS], d[WIDE], s[3] = { 0 };
    for (int i = 0; i < WIDE; i++) {
        d[i] = tanh(c[i] + y[i]);
        for (int j = 0; j < MOTIONS; j++)
            g[i][j] = b[i * MOTIONS + j] * (i ? 1 : 1 + 0.25 * cos(y[0]));
    }
    for (int j = 0; j < MOTIONS; j++) {
        s[0] += g[0][j] * g[0][j];
        s[1] += g[0][j] * g[1][j];
        s[2] += g[1][j] * g[1][j];
    }
    return (s[2] * d[0] * d[0] - 2 * s[1] * d[0] * d[1] + s[0] * d[1] * d[1]) /
           (2 * (s[0] * s[2] - s[1] * s[1]));
}

/* A step of Euler and Maruyama takes the rate at its start, for which 2 x 2 is solved by hand. */
START_TEST(general)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    enum { STEPS = 6 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE, 1), ROWS, unknowns), kl;
    const double *b = unknowns + N + WIDE, *c = b + WIDE * MOTIONS;
    ad_var args[] = { ad_param(tape, AD_SHAPE(WIDE), unknowns + N),
                      ad_param(tape, AD_SHAPE(WIDE, MOTIONS), b),
                      ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE), ROWS, c) };
    ad_var y = sde_solve_kl(general_posterior, general_prior, general_noise, NULL, y0, 3, args,
                            ode_linspace(tape, 0, 1.2, STEPS + 1),
                            &(sde_options){ .ode = { .steps = 1 } }, &kl);
    double path[ROWS][STEPS + 1][WIDE], got[ROWS][STEPS + 1];
    get(y, path[0][0]);
    get(kl, got[0]);
    for (int r = 0; r < ROWS; r++) {
        double right = 0;
        for (int k = 0; k < STEPS; k++) {
            right += 0.2 * rate_by_hand(path[r][k], b, c + r * WIDE);
            ck_assert_msg(fabs(got[r][k + 1] - right) <= 1e-12 * right, "%.15g, right is %.15g",
                          got[r][k + 1], right);
        }
    }
    ad_tape_free(tape);
}
END_TEST

static double loss_at(const ode_method *m, ode_field diffusion, const double *v)
{
    solve s = record(m, diffusion, v);
    double loss = ad_item(s.loss);
    ck_assert_msg(!ad_tape_error(s.tape), "%s: %s", m->name, ad_tape_error(s.tape));
    ad_tape_free(s.tape);
    return loss;
}

START_TEST(gradients)
{
    const ode_method *m = sde_methods()[_i];
    const ode_field diffusions[] = { diagonal_noise, general_noise };
    const unsigned kinds[] = { ODE_TAKES_DIAGONAL, ODE_TAKES_GENERAL };
    for (int k = 0; k < 2; k++) {
        if (!(m->takes & kinds[k])) continue;
        solve s = record(m, diffusions[k], unknowns);
        ad_var g[5];
        double gradient[UNKNOWNS + TIMES], *to = gradient;
        ad_grad(s.loss, 5, s.x, g);
        for (int i = 0; i < 5; i++) {
            get(g[i], to);
            to += ad_size(g[i]);
        }
        gradient[UNKNOWNS] = 0.4 * gradient[UNKNOWNS + 1] + 0.8 * gradient[UNKNOWNS + 2];
        ad_tape_free(s.tape);
        for (int i = 0; i <= UNKNOWNS; i++) {
            double h = 1e-3, sum = 0;
            const double at[] = { -2, -1, 1, 2 }, weight[] = { 1, -8, 8, -1 };
            for (int q = 0; q < 4; q++) {
                double moved[UNKNOWNS + 1];
                memcpy(moved, unknowns, sizeof moved);
                moved[i] += at[q] * h;
                sum += weight[q] * loss_at(m, diffusions[k], moved) / (12 * h);
            }
            ck_assert_msg(fabs(sum - gradient[i]) <= 1e-8 * (1 + fabs(sum)),
                          "%s, noise %d, unknown %d: gradient %.12g, difference %.12g", m->name, k,
                          i, gradient[i], sum);
        }
    }
}
END_TEST

/* The continuous adjoints differ from the discrete one by what the steps are off. */
START_TEST(adjoints)
{
    const ode_adjoint *all[] = { &ode_discrete, &ode_interpolating, &ode_backsolve };
    double right[UNKNOWNS], got[UNKNOWNS];
    for (int k = 0; k < 3; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        const double *b = unknowns + N + WIDE, *c = b + WIDE * MOTIONS;
        ad_var x[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE, 1), ROWS, unknowns),
                       ad_param(tape, AD_SHAPE(WIDE), unknowns + N),
                       ad_param(tape, AD_SHAPE(WIDE, MOTIONS), b),
                       ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE), ROWS, c) };
        ad_var kl, g[4];
        sde_options options = { .ode = { .method = &sde_heun, .adjoint = all[k], .steps = 400 },
                                .calculus = SDE_STRATONOVICH };
        ad_var y = sde_solve_kl(general_posterior, general_prior, diagonal_noise, NULL, x[0], 3,
                                x + 1, ode_interval(tape, 0, 1), &options, &kl);
        ad_grad(ad_add(ad_sum_all(kl), ad_sum_all(ad_sin(y))), 4, x, g);
        double *to = k ? got : right;
        for (int i = 0; i < 4; i++) {
            get(g[i], to);
            to += ad_size(g[i]);
        }
        ad_tape_free(tape);
        for (int i = 0; k && i < UNKNOWNS; i++)
            ck_assert_msg(fabs(got[i] - right[i]) <= 2e-3 * (1 + fabs(right[i])),
                          "adjoint %d, unknown %d: %.6g, by the discrete one %.6g", k, i, got[i],
                          right[i]);
    }
}
END_TEST

/* ---- where there is no divergence ---- */

static ad_var one_motion(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user, (void)args, (void)y;
    return ad_fill(t.tape, AD_SHAPE(1, WIDE, 1, 1), 1);
}
static ad_var no_noise_below(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user, (void)args, (void)y;
    return ad_constant(t.tape, AD_SHAPE(WIDE, 1), ((double[]){ 1, 0 }));
}
static ad_var dependent_rows(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user, (void)args, (void)y;
    return ad_constant(t.tape, AD_SHAPE(1, WIDE, 1, MOTIONS),
                       ((double[]){ 0.1, 0.2, 0.7, 0.3, 0.6, 2.1 }));
}
static ad_var wrong_shape(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user, (void)args, (void)y;
    return ad_fill(t.tape, AD_SHAPE(5), 1);
}

/* Whether the error has these words. */
static void refused(ode_field prior, ode_field diffusion, bool with_kl, const char *const *words)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE, 1), ROWS, unknowns), kl;
    ad_var args[] = { ad_param(tape, AD_SHAPE(WIDE), unknowns + N), ad_scalar(tape, 1),
                      ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDE), ROWS, unknowns) };
    ad_var y = sde_solve_kl(general_posterior, prior, diffusion, NULL, y0, 3, args,
                            ode_interval(tape, 0, 1), &(sde_options){ .ode = { .steps = 4 } },
                            with_kl ? &kl : NULL);
    ck_assert_ptr_null(ad_value(y));
    const char *error = ad_tape_error(tape);
    ck_assert_ptr_nonnull(error);
    for (int i = 0; words[i]; i++)
        ck_assert_msg(strstr(error, words[i]) != NULL, "\"%s\" is not in: %s", words[i], error);
    ad_tape_free(tape);
}

START_TEST(singular)
{
    refused(
        general_prior, one_motion, true,
        (const char *[]){ "sde_solve_kl", "[1,2,1,1]", "1 Brownian motions for 2 elements", NULL });
    refused(general_prior, no_noise_below, true,
            (const char *[]){ "sde_solve_kl", "step 0", "row 0",
                              "of the divergence (is the diffusion singular?)", NULL });
    refused(general_prior, dependent_rows, true,
            (const char *[]){ "sde_solve_kl", "step 0", "row 0",
                              "of the divergence (is the diffusion singular?)", NULL });
    refused(general_prior, wrong_shape, true,
            (const char *[]){ "sde_solve_kl", "the diffusion returned [5]", NULL });
    refused(wrong_shape, no_noise_below, true, (const char *[]){ "sde_solve_kl", "[5]", NULL });
    refused(NULL, no_noise_below, true, (const char *[]){ "the prior drift is NULL", NULL });
    refused(general_prior, NULL, true, (const char *[]){ "the diffusion is NULL", NULL });
    refused(general_prior, no_noise_below, false, (const char *[]){ "kl is NULL", NULL });
}
END_TEST

int main(void)
{
    int methods = 0;
    while (sde_methods()[methods]) methods++;
    TCase *tests = suite_case("sde_kl", "sde_kl");
    tcase_add_loop_test(tests, constant_difference, 0, methods);
    tcase_add_test(tests, other_rate);
    tcase_add_test(tests, general);
    tcase_add_loop_test(tests, gradients, 0, methods);
    tcase_add_test(tests, adjoints);
    tcase_add_test(tests, singular);
    return suite_run();
}
