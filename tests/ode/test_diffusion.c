/* Processes against their published formulas, predictions, losses, and what makes no sense. */
#include "diffusion_problems.h"
#include <stdlib.h>
#include <string.h>

enum { TIMES = 6 };
static const double times[TIMES] = { 1e-3, 0.03, 0.2, 0.5, 0.8, 0.99 };

/* Song et al. 2021, equations 29 to 33 and appendix B, in libm's numbers: f, g^2, alpha, sigma. */
static void published(int process, double t, double *out)
{
    double beta = 0.1 + t * 19.9, integral = 0.1 * t + 0.5 * t * t * 19.9;
    out[0] = process < 2 ? -beta / 2 : 0;
    out[2] = process < 2 ? exp(-integral / 2) : 1;
    if (process == 0) {
        out[1] = beta;
        out[3] = sqrt(-expm1(-integral));
    } else if (process == 1) {
        out[1] = -beta * expm1(-2 * integral);
        out[3] = -expm1(-integral);
    } else {
        out[3] = 0.01 * pow(5000, t);
        out[1] = out[3] * out[3] * 2 * log(5000);
    }
}

START_TEST(published_processes)
{
    const ode_process *process = ode_processes()[_i];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var t = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), TIMES, times), v[4];
    double got[4][TIMES], want[4];
    ck_assert(!ode_process_coefficients(process, t, &v[0], &v[1]));
    ck_assert(!ode_process_kernel(process, t, &v[2], &v[3]));
    for (int k = 0; k < 4; k++) get(v[k], got[k]);
    for (int i = 0; i < TIMES; i++) {
        published(_i, times[i], want);
        got[1][i] *= got[1][i];
        for (int k = 0; k < 4; k++)
            ck_assert_msg(fabs(got[k][i] - want[k]) < 1e-11 * fmax(1, fabs(want[k])),
                          "%s at t = %g, %d: %.15g, not %.15g", process->name, times[i], k,
                          got[k][i], want[k]);
    }
    ad_tape_free(tape);
}
END_TEST

/* The cosine schedule as published, and straight paths. */
START_TEST(other_processes)
{
    for (int i = 0; i < TIMES; i++) {
        double alpha, sigma, pi = acos(-1), cosine = cos((times[i] + 0.008) / 1.008 * pi / 2);
        double bar = pow(cosine / cos(0.008 / 1.008 * pi / 2), 2);
        kernel_at(&ode_cosine, times[i], &alpha, &sigma);
        ck_assert_double_eq_tol(alpha * alpha, bar, 1e-13);
        ck_assert_double_eq_tol(sigma * sigma, 1 - bar, 1e-13);
        kernel_at(&ode_optimal_transport, times[i], &alpha, &sigma);
        ck_assert_double_eq_tol(alpha, 1 - times[i], 1e-15);
        ck_assert_double_eq_tol(sigma, 1e-3 + 0.999 * times[i], 1e-15);
    }
}
END_TEST

/* Times drawn by importance have uniform lambda. */
START_TEST(times_by_importance)
{
    const ode_process *process = ode_processes()[_i];
    ode_diffusion model = {
        .process = process, .network = gaussian_network, .t_min = 1e-3, .t_max = 0.95
    };
    const double u[3] = { 0.25, 0.5, 0.9 }, ends[2] = { 1e-3, 0.95 };
    double t[3], a, s, lambda[2];
    for (int k = 0; k < 2; k++) {
        kernel_at(process, ends[k], &a, &s);
        lambda[k] = log(a / s);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, u);
    ad_var out = ode_diffusion_times(&model, ODE_TIMES_IMPORTANCE, in);
    if (process == &ode_cosine) {
        ck_assert(!ad_valid(out));
        ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "closed form"));
    } else {
        get(out, t);
        for (int i = 0; i < 3; i++) {
            kernel_at(process, t[i], &a, &s);
            ck_assert_double_eq_tol(log(a / s), lambda[0] + u[i] * (lambda[1] - lambda[0]), 1e-11);
        }
    }
    ad_tape_free(tape);
}
END_TEST

/* Whatever the network predicts, everything that can be asked for comes out. */
START_TEST(predictions)
{
    gaussian g = { ode_processes()[_i / ODE_PREDICTIONS], _i % ODE_PREDICTIONS, 0.7, 0.6, 0.4 };
    ode_diffusion model = gaussian_model(&g);
    double z[2 * TIMES], got[2 * TIMES], want[2 * TIMES];
    normals(2, 2 * TIMES, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), TIMES, z),
           t = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), TIMES, times);
    for (int what = 0; what < ODE_PREDICTIONS; what++) {
        gaussian other = g;
        other.prediction = what;
        get(ode_diffusion_predict(&model, what, t, x, NULL), got);
        get(gaussian_network(t, x, NULL, &other), want);
        for (int i = 0; i < 2 * TIMES; i++) {
            double alpha, sigma; /* from data to a score rounding is divided by sigma^2 */
            kernel_at(g.process, times[i / 2], &alpha, &sigma);
            double rounding = 1e-12 + 1e-15 / (sigma * sigma);
            ck_assert_msg(fabs(got[i] - want[i]) < rounding * fmax(1, fabs(want[i])) / alpha,
                          "%s, %d as %d: %.12g, not %.12g", g.process->name, (int)g.prediction,
                          what, got[i], want[i]);
        }
    }
    ad_tape_free(tape);
}
END_TEST

/* ---- losses ---- */

enum { B = 4 };

static ad_var half(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)user;
    return ad_add(ad_mul(x, args[0]), t);
}

/* Losses of a network y = x / 2 + t against loops in C. */
START_TEST(losses)
{
    const ode_prediction what = _i % ODE_PREDICTIONS;
    const ode_weight weight = _i / ODE_PREDICTIONS;
    ode_diffusion model = { .prediction = what, .network = half };
    double x0[2 * B], e[2 * B], t[B] = { 0.1, 0.3, 0.5, 0.9 }, sum = 0;
    normals(21, 2 * B, x0);
    normals(22, 2 * B, e);
    for (int r = 0; r < B; r++) {
        double p[4];
        published(0, t[r], p);
        double alpha = p[2], sigma = p[3], alpha_dot = alpha * p[0],
               sigma_dot = -alpha * alpha_dot / sigma;
        for (int k = 0; k < 2; k++) {
            double n = e[2 * r + k], x = alpha * x0[2 * r + k] + sigma * n, y = 0.5 * x + t[r];
            double target = what == ODE_SCORE      ? -n / sigma
                            : what == ODE_DATA     ? x0[2 * r + k]
                            : what == ODE_V        ? alpha * n - sigma * x0[2 * r + k]
                            : what == ODE_VELOCITY ? alpha_dot * x0[2 * r + k] + sigma_dot * n
                                                   : n;
            double noise = what == ODE_SCORE      ? -sigma * y
                           : what == ODE_DATA     ? (x - alpha * y) / sigma
                           : what == ODE_V        ? alpha * y + sigma * x
                           : what == ODE_VELOCITY ? (alpha * y - alpha_dot * x) /
                                                        (alpha * sigma_dot - alpha_dot * sigma)
                                                  : y;
            if (weight == ODE_WEIGHT_OWN) sum += pow(y - target, 2);
            else
                sum += pow(noise - n, 2) *
                       (weight == ODE_WEIGHT_LIKELIHOOD ? p[1] / sigma / sigma : 1);
        }
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var factor = ad_scalar(tape, 0.5);
    ad_var loss =
        ode_diffusion_loss(&model, weight, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), B, x0),
                           ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), B, t),
                           ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), B, e), 1, &factor);
    double got;
    get(loss, &got);
    ck_assert_double_eq_tol(got, sum / (2 * B), 1e-11 * sum);
    ad_tape_free(tape);
}
END_TEST

/* Weights of the likelihood with uniform times, and of the noise with times by importance, are the
 * same integral: of a network that predicts no noise at all, by the midpoint rule. */
START_TEST(importance_is_likelihood)
{
    enum { N = 20000 };
    gaussian g = { ode_processes()[_i], ODE_NOISE, 0.3, 0.6, 0.4 };
    ode_diffusion model = gaussian_model(&g);
    model.t_min = 0.05;
    double *u = malloc(N * sizeof *u), *x0 = malloc(2 * N * sizeof *x0),
           *e = malloc(2 * N * sizeof *e);
    for (int i = 0; i < N; i++) {
        u[i] = (i + 0.5) / N;
        for (int k = 0; k < 2; k++) {
            x0[2 * i + k] = 0.4 - k;
            e[2 * i + k] = 0.9 + k;
        }
    }
    model.t_max = 1;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), N, x0),
           n = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), N, e),
           in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), N, u);
    double a, b, alpha[2], sigma[2];
    get(ode_diffusion_loss(&model, ODE_WEIGHT_LIKELIHOOD, x,
                           ode_diffusion_times(&model, ODE_TIMES_UNIFORM, in), n, 0, NULL),
        &a);
    get(ode_diffusion_loss(&model, ODE_WEIGHT_NOISE, x,
                           ode_diffusion_times(&model, ODE_TIMES_IMPORTANCE, in), n, 0, NULL),
        &b);
    kernel_at(g.process, 0.05, &alpha[0], &sigma[0]);
    kernel_at(g.process, 1, &alpha[1], &sigma[1]);
    double range = log(alpha[0] / sigma[0]) - log(alpha[1] / sigma[1]);
    ck_assert_double_eq_tol(a * 0.95, b * 2 * range, 1e-5 * a);
    ad_tape_free(tape);
    free(u);
    free(x0);
    free(e);
}
END_TEST

/* Flow matching's target is noise - data, but for sigma; that of interpolants is as derived by
 * hand. */
START_TEST(straight_paths)
{
    double x0[2 * B], x1[2 * B], e[2 * B], t[B] = { 0.1, 0.3, 0.5, 0.9 }, flow = 0, between = 0,
                                           got;
    normals(21, 2 * B, x0);
    normals(22, 2 * B, e);
    normals(23, 2 * B, x1);
    for (int i = 0; i < 2 * B; i++) {
        double s = t[i / 2], x = (1 - s) * x0[i] + (1e-3 + 0.999 * s) * e[i];
        flow += pow(0.5 * x + s - (0.999 * e[i] - x0[i]), 2) / (2 * B);
        x = (1 - s) * x0[i] + s * x1[i] + 0.7 * s * (1 - s) * e[i];
        between += pow(0.5 * x + s - (x1[i] - x0[i] + 0.7 * (1 - 2 * s) * e[i]), 2) / (2 * B);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var a = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), B, x0),
           b = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), B, x1),
           n = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), B, e),
           time = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), B, t), factor = ad_scalar(tape, 0.5);
    get(ode_flow_matching_loss(half, NULL, a, time, n, 1, &factor), &got);
    ck_assert_double_eq_tol(got, flow, 1e-12);
    get(ode_interpolant_loss(half, NULL, 0.7, a, b, time, n, 1, &factor), &got);
    ck_assert_double_eq_tol(got, between, 1e-12);
    ad_tape_free(tape);
}
END_TEST

/* ---- what makes no sense ---- */

static void negative(ad_var t, const double *parameter, ad_var *alpha, ad_var *sigma)
{
    (void)parameter;
    *alpha = ad_ones_like(t);
    *sigma = ad_neg(t);
}

static void constant(ad_var t, const double *parameter, ad_var *alpha, ad_var *sigma)
{
    (void)parameter;
    *alpha = *sigma = ad_ones_like(t);
}

static ad_var narrow(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_slice(x, 1, 0, 1);
}

START_TEST(bad_models)
{
    static const ode_process bad = { .name = "mine", .kernel = negative, .t_min = 0.1, .t_max = 1 },
                             flat = { .name = "flat", .kernel = constant, .t_max = 1 };
    static const struct {
        ode_diffusion model;
        const char *message;
    } cases[] = {
        { { 0 }, "no network" },
        { { .network = half, .process = &bad }, "sigma must be positive" },
        { { .network = half, .process = &flat }, "must decrease" },
        { { .network = half, .t_min = 0.5, .t_max = 0.2 }, "must increase" },
        { { .network = half, .t_min = 0, .t_max = 1 }, "larger t_min" },
        { { .network = half, .t_min = 1e-3, .t_max = 2 }, "[0,1]" },
        { { .network = half, .prediction = 9 }, "ode_prediction" },
        { { .network = half, .guidance = 1 }, "unconditional" },
        { { .network = narrow }, "the network's prediction has shape [rows,1], not [rows,2]" },
        { { .network = half, .guidance = 1, .unconditional = narrow },
          "the unconditional field's" },
        { { .network = half, .classifier = half },
          "log-probability has shape [rows,2], not [rows,1]" },
        { { .network = half, .strength = 2 }, "the model has none" },
    };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 0, NULL), factor = ad_scalar(tape, 0.5);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ad_var y =
            ode_diffusion_predict(&cases[i].model, ODE_DATA, ad_scalar(tape, 0.5), x, &factor);
        const char *error = ad_tape_error(tape);
        ck_assert(!ad_valid(y));
        ck_assert_msg(error && strstr(error, cases[i].message), "\"%s\", not \"%s\"",
                      error ? error : "no error", cases[i].message);
        ad_tape_clear_error(tape);
    }
    ode_diffusion model = { .network = half };
    static const char *const messages[] = { "outside the model's times",
                                            "a scalar, [1,1] or [rows,1]",
                                            "must be [rows,d]",
                                            "must be equal",
                                            "is NULL",
                                            "t has shape (none" };
    for (int i = 0; i < 6; i++) {
        ad_var column = ad_slice(x, 1, 0, 1), t = ad_scalar(tape, i == 0 ? 1.5 : 0.5);
        if (i < 3)
            ode_diffusion_predict(&model, ODE_DATA, i == 1 ? x : t, i == 2 ? ad_sum_all(x) : x,
                                  &factor);
        else if (i == 5)
            ode_diffusion_loss(&model, ODE_WEIGHT_NOISE, x, (ad_var){ 0 }, x, 1, &factor);
        else ode_diffusion_loss(i == 4 ? NULL : &model, ODE_WEIGHT_NOISE, x, t, column, 1, &factor);
        const char *error = ad_tape_error(tape);
        ck_assert_msg(error && strstr(error, messages[i]), "\"%s\", not \"%s\"",
                      error ? error : "no error", messages[i]);
        ad_tape_clear_error(tape);
    }
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("diffusion", "diffusion");
    tcase_add_loop_test(c, published_processes, 0, 3);
    tcase_add_test(c, other_processes);
    tcase_add_loop_test(c, times_by_importance, 0, 5);
    tcase_add_loop_test(c, predictions, 0, 4 * ODE_PREDICTIONS);
    tcase_add_loop_test(c, losses, 0, 3 * ODE_PREDICTIONS);
    tcase_add_loop_test(c, importance_is_likelihood, 0, 3);
    tcase_add_test(c, straight_paths);
    tcase_add_test(c, bad_models);
    return suite_run();
}
