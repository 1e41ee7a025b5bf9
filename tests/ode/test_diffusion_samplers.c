/* Samplers against Gaussian data, whose samples' law and whose probability flow are known: orders,
 * laws, guidance, inpainting. */
#include "diffusion_problems.h"
#include <stdlib.h>
#include <string.h>

enum { MANY = 8000 };

/* Largest error of a few samples against the exact flow. */
static double error_of(gaussian *g, const ode_sampling *options)
{
    double z[8], x[8], want[2], alpha, sigma, worst = 0;
    normals(3, 8, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_diffusion model = gaussian_model(g);
    get(ode_diffusion_sample(&model, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 4, z), 0, NULL,
                             options),
        x);
    double first = g->process->t_max, last = g->process->t_min;
    kernel_at(g->process, first, &alpha, &sigma);
    for (int r = 0; r < 4; r++) {
        double start[2] = { sigma * z[2 * r], sigma * z[2 * r + 1] };
        gaussian_flow(g, first, last, start, want);
        for (int k = 0; k < 2; k++) worst = fmax(worst, fabs(x[2 * r + k] - want[k]));
    }
    ad_tape_free(tape);
    return worst;
}

/* Errors go down with steps^-order. */
START_TEST(orders)
{
    static const ode_sampler *const samplers[] = { &ode_ddim, &ode_dpm_1, &ode_dpm_2, &ode_dpm_3,
                                                   &ode_dpm_pp_2m };
    static const ode_process *const processes[] = { &ode_vp, &ode_sub_vp, &ode_ve, &ode_cosine };
    gaussian g = { processes[_i / 5], ODE_NOISE, 0.7, 0.6, 0.4 };
    ode_sampling o = { .sampler = samplers[_i % 5], .steps = 160, .spacing = ODE_SPACING_LOG_SNR };
    double coarse = error_of(&g, &o);
    o.steps *= 4;
    double fine = error_of(&g, &o), order = log(coarse / fine) / log(4);
    ck_assert_msg(fabs(order - ode_sampler_order(o.sampler)) < 0.15 || fine < 1e-11,
                  "%s on %s: order %g (%g, %g)", ode_sampler_name(o.sampler), g.process->name,
                  order, coarse, fine);
}
END_TEST

/* The first exponential integrator is ddim without noise, whatever the process. */
START_TEST(ddim_is_the_first_integrator)
{
    gaussian g = { ode_processes()[_i], ODE_V, 0.7, 0.6, 0.4 };
    ode_sampling o = { .sampler = &ode_ddim, .steps = 7, .spacing = ODE_SPACING_TIME };
    double a = error_of(&g, &o);
    o.sampler = &ode_dpm_1;
    ck_assert_double_eq_tol(a, error_of(&g, &o), 1e-11);
}
END_TEST

/* Samples of a model, and their moments. */
static void sample(const ode_diffusion *model, ode_sampling options, double *x, double *moment)
{
    double *z = malloc(MANY * 2 * sizeof *z);
    normals(11, MANY * 2, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    get(ode_diffusion_sample(model, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), MANY, z), 0, NULL,
                             &options),
        x);
    moments(MANY, x, moment);
    ad_tape_free(tape);
    free(z);
}

/* Whether moments are those of the Gaussian within 4.5 standard errors and a bias. */
static void expect_law(const char *name, const gaussian *g, const double *got, double bias)
{
    double v = g->s * g->s, error = 4.5 / sqrt(MANY);
    const double want[5] = { g->m, g->m, v, v, v * g->rho };
    const double deviation[5] = { g->s, g->s, v * sqrt(2), v * sqrt(2),
                                  v * sqrt(1 + g->rho * g->rho) };
    for (int k = 0; k < 5; k++)
        ck_assert_msg(fabs(got[k] - want[k]) < error * deviation[k] + bias,
                      "%s: moment %d is %g, not %g", name, k, got[k], want[k]);
}

/* The law of the data comes out of noise. */
START_TEST(laws)
{
    static const struct {
        const char *name;
        const ode_process *process;
        ode_sampling o;
        double bias;
    } cases[] = {
        { "ddim", &ode_vp, { .sampler = &ode_ddim, .steps = 200 }, 0.01 },
        { "ddim 0.5", &ode_vp, { .sampler = &ode_ddim, .steps = 200, .eta = 0.5 }, 0.01 },
        { "ddim 1", &ode_vp, { .sampler = &ode_ddim, .steps = 200, .eta = 1 }, 0.01 },
        { "default", &ode_sub_vp, { 0 }, 0.01 },
        { "corrector", &ode_vp, { .sampler = &ode_predictor_corrector, .steps = 200 }, 0.02 },
        { "langevin",
          &ode_ve,
          { .sampler = &ode_annealed_langevin, .steps = 60, .corrections = 40 },
          0.02 },
    };
    gaussian g = { cases[_i].process, ODE_NOISE, 0.5, 0.6, 0.6 };
    ode_diffusion model = gaussian_model(&g);
    double *x = malloc(MANY * 2 * sizeof *x), moment[5];
    sample(&model, cases[_i].o, x, moment);
    expect_law(cases[_i].name, &g, moment, cases[_i].bias);
    free(x);
}
END_TEST

/* ---- guidance ---- */

/* A measurement y = x0[0] + noise of deviation 0.5, seen from x_t: given x_t, x0 is normal with
 * variance s^2 sigma^2 / v, so log p(y | x_t) is that of a normal. */
static const double measured = 1.3, measure = 0.5;

static ad_var classifier(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)args;
    const gaussian *g = user;
    ad_var alpha, sigma;
    g->process->kernel(t, g->process->parameter, &alpha, &sigma);
    double s2 = g->s * g->s;
    ad_var v = ad_add(ad_scale(ad_square(alpha), s2), ad_square(sigma));
    ad_var gain = ad_div(ad_scale(alpha, s2), v);
    ad_var mean = ad_shift(ad_mul(gain, ad_sub(ad_slice(x, 1, 0, 1), ad_scale(alpha, g->m))), g->m);
    ad_var variance = ad_shift(ad_div(ad_scale(ad_square(sigma), s2), v), measure * measure);
    ad_var error = ad_square(ad_shift(mean, -measured));
    return ad_scale(ad_add(ad_div(error, variance), ad_log(variance)), -0.5);
}

/* Guided by the exact classifier, samples have the law given the measurement. */
START_TEST(guided_by_a_classifier)
{
    gaussian g = { &ode_vp, _i, 0.5, 0.6, 0 };
    ode_diffusion model = gaussian_model(&g);
    model.classifier = classifier;
    double *x = malloc(MANY * 2 * sizeof *x), m[5];
    sample(&model, (ode_sampling){ .steps = 40 }, x, m);
    double s2 = g.s * g.s, n2 = measure * measure, error = 4.5 / sqrt(MANY);
    double mean = (g.m * n2 + measured * s2) / (s2 + n2), variance = s2 * n2 / (s2 + n2);
    ck_assert_double_eq_tol(m[0], mean, error * sqrt(variance) + 0.005);
    ck_assert_double_eq_tol(m[2], variance, error * variance * 1.5 + 0.005);
    ck_assert_double_eq_tol(m[1], g.m, error * g.s + 0.005);
    ck_assert_double_eq_tol(m[3], s2, error * s2 * 1.5 + 0.005);
    free(x);
}
END_TEST

static ad_var unconditional(ad_var t, ad_var x, const ad_var *args, void *user)
{
    gaussian other = *(const gaussian *)user;
    other.m = -1;
    return gaussian_network(t, x, args, &other);
}

/* Of two Gaussians of one width, (1 + w) one score - w the other is the score of a third, whose
 * mean lies as far beyond. */
START_TEST(guided_without_a_classifier)
{
    gaussian g = { &ode_vp, _i, 0.5, 0.6, 0.2 }, beyond = g;
    ode_diffusion model = gaussian_model(&g), exact = gaussian_model(&beyond);
    model.guidance = 0.75;
    model.unconditional = unconditional;
    beyond.m = 0.5 + 0.75 * 1.5;
    double z[8], a[8], b[8];
    normals(5, 8, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 4, z);
    get(ode_diffusion_sample(&model, in, 0, NULL, NULL), a);
    get(ode_diffusion_sample(&exact, in, 0, NULL, NULL), b);
    for (int i = 0; i < 8; i++) ck_assert_double_eq_tol(a[i], b[i], 1e-10);
    ad_tape_free(tape);
}
END_TEST

/* ---- inpainting ---- */

/* x[1] given x[0] of a correlated Gaussian. Each step taken often enough, what is unknown has the
 * conditional law. */
START_TEST(inpainting)
{
    enum { N = 2000 };
    gaussian g = { &ode_vp, ODE_NOISE, 0.2, 0.8, 0.7 };
    ode_diffusion model = gaussian_model(&g);
    const double known[2] = { 1.1, 0 }, mask[2] = { 1, 0 };
    double *z = malloc(N * 2 * sizeof *z), *x = malloc(N * 2 * sizeof *x), m[5];
    normals(11, N * 2, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_sampling o = { .sampler = &ode_ddim,
                       .eta = 1,
                       .steps = 60,
                       .spacing = ODE_SPACING_LOG_SNR,
                       .resample = 10,
                       .known = ad_constant(tape, AD_SHAPE(2), known),
                       .mask = ad_constant(tape, AD_SHAPE(2), mask) };
    get(ode_diffusion_sample(&model, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), N, z), 0, NULL, &o),
        x);
    moments(N, x, m);
    double mean = g.m + g.rho * (known[0] - g.m), variance = g.s * g.s * (1 - g.rho * g.rho);
    ck_assert_double_eq_tol(m[0], known[0], 1e-12);
    ck_assert_double_eq_tol(m[2], 0, 1e-20);
    ck_assert_double_eq_tol(m[1], mean, 4.5 * sqrt(variance / N) + 0.03);
    ck_assert_double_eq_tol(m[3], variance, 4.5 * variance * sqrt(2.0 / N) + 0.03);
    ad_tape_free(tape);
    free(z);
    free(x);
}
END_TEST

/* ---- the operation ---- */

/* Equal seeds give equal samples, other seeds others; a row does not depend on the rows beside it;
 * and evaluations are counted. */
START_TEST(reproducible)
{
    gaussian g = { &ode_vp, ODE_NOISE, 0, 1, 0 };
    ode_diffusion model = gaussian_model(&g);
    ode_sampling o = { .sampler = &ode_ddim, .eta = 1, .steps = 5, .denoise = true, .seed = 4 };
    double z[12], a[12], b[12], c[12];
    normals(5, 12, z);
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 6, z);
    get(ode_diffusion_sample(&model, in, 0, NULL, &o), a);
    get(ode_diffusion_sample(&model, in, 0, NULL, &o), b);
    ck_assert(!memcmp(a, b, sizeof a));
    ad_var few = ode_diffusion_sample(&model, in, 0, NULL, &o);
    ck_assert(!ad_evaluate_f64(1, &in, (const double *[]){ z }, 3, 1, &few, (double *[]){ c }));
    ck_assert(!memcmp(a, c, 6 * sizeof *a));
    o.seed = 5;
    get(ode_diffusion_sample(&model, in, 0, NULL, &o), b);
    for (int i = 0; i < 12; i++) ck_assert(a[i] != b[i]);
    ck_assert_int_eq(ode_sampling_evaluations(&o), 6);
    ck_assert_int_eq(ode_sampling_evaluations(NULL), 20);
    ad_tape_free(tape);
}
END_TEST

static ad_var explodes(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_div(x, ad_gt(t, ad_scalar(t.tape, 0.5)));
}

START_TEST(bad_input)
{
    gaussian g = { &ode_vp, ODE_NOISE, 0, 1, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    double z[4] = { 1, 2, 3, 4 };
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, z),
           known = ad_constant(tape, AD_SHAPE(2), z), flat = ad_constant(tape, AD_SHAPE(3), z),
           column = ad_slice(in, 1, 0, 1);
    const struct {
        ode_sampling o;
        const char *message;
    } bad[] = {
        { { .steps = -1 }, "options.steps" },
        { { .spacing = 9 }, "ode_spacing" },
        { { .sampler = &ode_ddim, .eta = 2 }, "from 0 to 1" },
        { { .eta = 0.5 }, "ode_ddim alone" },
        { { .corrections = 2 }, "ode_annealed_langevin" },
        { { .sampler = &ode_predictor_corrector, .ratio = -1 }, "options.ratio" },
        { { .known = known }, "both be given" },
        { { .resample = 3 }, "inpainting" },
        { { .known = known, .mask = flat }, "[rows,d] or [d]" },
        { { .known = column, .mask = known }, "[rows,d] or [d]" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ode_diffusion model = gaussian_model(&g);
        ad_var x = ode_diffusion_sample(&model, in, 0, NULL, &bad[i].o);
        const char *error = ad_tape_error(tape);
        ck_assert(!ad_valid(x));
        ck_assert_msg(error && strstr(error, bad[i].message), "\"%s\", not \"%s\"",
                      error ? error : "no error", bad[i].message);
        ad_tape_clear_error(tape);
    }
    ode_diffusion model = { .network = explodes };
    double x[4];
    ck_assert(ad_get(ode_diffusion_sample(&model, in, 0, NULL, NULL), x) != 0);
    ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "not finite after the step from t = "));
    ad_tape_clear_error(tape);
    model = (ode_diffusion){ .process = &ode_optimal_transport, .network = explodes };
    ode_diffusion_sample(&model, in, 0, NULL, NULL);
    ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "smaller t_max"));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("diffusion_samplers", "samplers");
    tcase_add_loop_test(c, orders, 0, 20);
    tcase_add_loop_test(c, ddim_is_the_first_integrator, 0, 4);
    tcase_add_loop_test(c, laws, 0, 6);
    tcase_add_loop_test(c, guided_by_a_classifier, 0, ODE_PREDICTIONS);
    tcase_add_loop_test(c, guided_without_a_classifier, 0, ODE_PREDICTIONS);
    tcase_add_test(c, inpainting);
    tcase_add_test(c, reproducible);
    tcase_add_test(c, bad_input);
    return suite_run();
}
