/* Samplers: one step of each, as operations. In lambda = log(alpha / sigma) the probability flow is
 *
 *     x_t = alpha_t / alpha_s x_s - alpha_t int exp(-lambda) noise dlambda
 *
 * (Lu et al. 2022, arXiv:2206.00927, proposition 3.1), so that only the network's prediction is
 * approximated: by its value (order 1) or by differences of values too. */
#include "ode/diffusion/sampler.h"

/* alpha, sigma, lambda at a time. */
typedef struct {
    ad_var t, alpha, sigma, lambda;
} place;

static place at(const ode_sampler_step *s, ad_var t)
{
    place p = { .t = t };
    const ode_process *process = s->model->process;
    process->kernel(t, process->parameter, &p.alpha, &p.sigma);
    p.lambda = ad_log(ad_div(p.alpha, p.sigma));
    return p;
}

static ode_pair predicted(const ode_sampler_step *s, ad_var t, ad_var x)
{
    return ode_model_pair(s->model, t, x, s->args);
}

/* ---- ddim ---- */

/* x0 and noise as predicted, at less noise; a part of the noise is fresh, with the variance that
 * x_t has given x_s and x0, times eta^2 (Song, Meng & Ermon 2021, equations 12 and 16). */
static ad_var step_ddim(const ode_sampler_step *s, ad_var *carried)
{
    (void)carried;
    place a = at(s, s->from), b = at(s, s->to);
    ode_pair p = predicted(s, s->from, s->x);
    double eta = s->options->eta;
    if (eta == 0) return ad_add(ad_mul(b.alpha, p.data), ad_mul(b.sigma, p.noise));
    ad_var gone = ad_neg(ad_expm1(ad_scale(ad_sub(a.lambda, b.lambda), 2)));
    ad_var fresh = ad_scale(ad_mul(b.sigma, ad_sqrt(gone)), eta);
    ad_var rest = ad_mul(b.sigma, ad_sqrt(ad_shift(ad_scale(gone, -eta * eta), 1)));
    return ad_add(ad_mul(b.alpha, p.data), ad_add(ad_mul(rest, p.noise), ad_mul(fresh, s->noise)));
}

/* ---- exponential integrators ---- */

/* alpha_b / alpha_a x - sigma_b (exp(h) - 1) noise, h = lambda_b - lambda_a. */
static ad_var exponential(const ode_sampler_step *s, place a, place b, ad_var noise)
{
    ad_var grown = ad_mul(b.sigma, ad_expm1(ad_sub(b.lambda, a.lambda)));
    return ad_sub(ad_mul(ad_div(b.alpha, a.alpha), s->x), ad_mul(grown, noise));
}

static ad_var step_dpm_1(const ode_sampler_step *s, ad_var *carried)
{
    (void)carried;
    return exponential(s, at(s, s->from), at(s, s->to), predicted(s, s->from, s->x).noise);
}

static ad_var step_dpm_2(const ode_sampler_step *s, ad_var *carried)
{
    (void)carried;
    place a = at(s, s->from), m = at(s, s->stage[0]), b = at(s, s->to);
    ad_var first = predicted(s, a.t, s->x).noise;
    ad_var middle = predicted(s, m.t, exponential(s, a, m, first)).noise;
    return exponential(s, a, b, middle);
}

/* sigma_b ((exp(h) - 1) / h - 1), the weight of a difference. */
static ad_var curved(place a, place b)
{
    ad_var h = ad_sub(b.lambda, a.lambda);
    return ad_mul(b.sigma, ad_shift(ad_div(ad_expm1(h), h), -1));
}

static ad_var step_dpm_3(const ode_sampler_step *s, ad_var *carried)
{
    (void)carried;
    place a = at(s, s->from), m = at(s, s->stage[0]), n = at(s, s->stage[1]), b = at(s, s->to);
    ad_var e = predicted(s, a.t, s->x).noise;
    ad_var first = ad_sub(predicted(s, m.t, exponential(s, a, m, e)).noise, e);
    /* stages at 1/3 and 2/3 */
    ad_var x = ad_sub(exponential(s, a, n, e), ad_mul(ad_scale(curved(a, n), 2), first));
    ad_var second = ad_sub(predicted(s, n.t, x).noise, e);
    return ad_sub(exponential(s, a, b, e), ad_mul(ad_scale(curved(a, b), 1.5), second));
}

/* The same in x0, which does not grow as noise goes (Lu et al. 2022, arXiv:2211.01095, algorithm
 * 2); linear in lambda through this prediction and the one before. */
static ad_var step_dpm_pp_2m(const ode_sampler_step *s, ad_var *carried)
{
    place a = at(s, s->from), b = at(s, s->to), c = at(s, s->before);
    ad_var data = predicted(s, a.t, s->x).data, zero = ad_zeros_like(a.t);
    ad_var h = ad_sub(b.lambda, a.lambda), h_before = ad_sub(a.lambda, c.lambda);
    ad_var weight = ad_select(ad_lt(s->from, s->before), ad_div(ad_scale(h, 0.5), h_before), zero);
    *carried = data;
    data = ad_add(data, ad_mul(weight, ad_sub(data, s->carried)));
    return ad_sub(ad_mul(ad_div(b.sigma, a.sigma), s->x),
                  ad_mul(ad_mul(b.alpha, ad_expm1(ad_neg(h))), data));
}

/* ---- with Langevin steps ---- */

/* A step of the reverse-time equation as exact as its linear part: the ancestral step, ddim with
 * eta = 1. */
static ad_var step_ancestral(const ode_sampler_step *s, ad_var *carried)
{
    ode_sampling options = *s->options;
    ode_sampler_step with = *s;
    options.eta = 1;
    with.options = &options;
    return step_ddim(&with, carried);
}

/* x + e score + sqrt(2 e) noise leaves the distribution of x_t as it is, for small e. */
static ad_var langevin(const ode_sampler_step *s, ad_var size, ad_var score)
{
    return ad_add(s->x, ad_add(ad_mul(size, score), ad_mul(ad_sqrt(ad_scale(size, 2)), s->noise)));
}

/* The mean over rows of their Euclidean norms, [1,1]. */
static ad_var mean_norm(ad_var x)
{
    return ad_mean(ad_sqrt(ad_sum_axis(ad_square(x), 1, true)), 1, (int[]){ 0 }, true);
}

/* e = 2 (ratio |noise| / |score|)^2 (Song et al. 2021, algorithm 4), where a factor alpha^2 keeps
 * steps of vp from being larger than its noise (algorithm 5). */
static ad_var correct_by_ratio(const ode_sampler_step *s)
{
    ode_kernel k = ode_kernel_at(s->model->process, s->to);
    ode_pair p = predicted(s, s->to, s->x);
    ad_var score = ode_from_pair(ODE_SCORE, &k, p.data, p.noise);
    ad_var part = ad_scale(ad_div(mean_norm(s->noise), mean_norm(score)), s->options->ratio);
    ad_var one = ad_mul(ad_square(k.alpha), ad_square(part));
    return langevin(s, ad_scale(one, 2), score);
}

static ad_var correct_by_level(const ode_sampler_step *s)
{
    ode_kernel k = ode_kernel_at(s->model->process, s->to);
    ode_pair p = predicted(s, s->to, s->x);
    return langevin(s, ad_scale(ad_square(k.sigma), s->options->ratio),
                    ode_from_pair(ODE_SCORE, &k, p.data, p.noise));
}

/* ---- the table ---- */

const ode_sampler ode_ddim = {
    .name = "ddim",
    .about = "denoising diffusion implicit models (Song, Meng & Ermon 2021, arXiv:2010.02502)",
    .order = 1,
    .evaluations = 1,
    .takes_eta = true,
    .step = step_ddim,
};
const ode_sampler ode_dpm_1 = {
    .name = "dpm_1",
    .about = "DPM-Solver-1, exponential Euler (Lu et al. 2022, arXiv:2206.00927)",
    .order = 1,
    .evaluations = 1,
    .log_snr = true,
    .step = step_dpm_1,
};
const ode_sampler ode_dpm_2 = {
    .name = "dpm_2",
    .about = "DPM-Solver-2, exponential midpoint rule (Lu et al. 2022, arXiv:2206.00927)",
    .order = 2,
    .evaluations = 2,
    .log_snr = true,
    .part = { 1.0 / 2 },
    .step = step_dpm_2,
};
const ode_sampler ode_dpm_3 = {
    .name = "dpm_3",
    .about = "DPM-Solver-3 (Lu et al. 2022, arXiv:2206.00927)",
    .order = 3,
    .evaluations = 3,
    .log_snr = true,
    .part = { 1.0 / 3, 2.0 / 3 },
    .step = step_dpm_3,
};
const ode_sampler ode_dpm_pp_2m = {
    .name = "dpm_pp_2m",
    .about = "DPM-Solver++(2M), two steps in the data prediction (Lu et al. 2022, "
             "arXiv:2211.01095)",
    .order = 2,
    .evaluations = 1,
    .log_snr = true,
    .step = step_dpm_pp_2m,
};
const ode_sampler ode_predictor_corrector = {
    .name = "predictor_corrector",
    .about = "ancestral steps and Langevin corrections (Song et al. 2021, arXiv:2011.13456)",
    .evaluations = 1,
    .fresh = true,
    .step = step_ancestral,
    .correct = correct_by_ratio,
    .corrections = 1,
    .ratio = 0.16,
};
const ode_sampler ode_annealed_langevin = {
    .name = "annealed_langevin",
    .about = "Langevin steps at falling levels of noise (Song & Ermon 2019, arXiv:1907.05600)",
    .log_snr = true,
    .correct = correct_by_level,
    .corrections = 5,
    .ratio = 0.1,
};

const ode_sampler *const *ode_samplers(void)
{
    static const ode_sampler *const all[] = { &ode_ddim,
                                              &ode_dpm_1,
                                              &ode_dpm_2,
                                              &ode_dpm_3,
                                              &ode_dpm_pp_2m,
                                              &ode_predictor_corrector,
                                              &ode_annealed_langevin,
                                              NULL };
    return all;
}

const char *ode_sampler_name(const ode_sampler *sampler)
{
    return sampler ? sampler->name : "no sampler";
}

const char *ode_sampler_about(const ode_sampler *sampler)
{
    return sampler ? sampler->about : "no sampler";
}

int ode_sampler_order(const ode_sampler *sampler) { return sampler ? sampler->order : 0; }
