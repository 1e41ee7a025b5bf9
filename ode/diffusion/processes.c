/* Processes: the mean's factor alpha and the deviation sigma of x_t given x0, as operations. */
#include "ode/diffusion/model.h"
#include <math.h>

/* log alpha = -t^2 (b1 - b0) / 4 - t b0 / 2 (Song et al. 2021, equation 29). */
static ad_var vp_log_alpha(ad_var t, const double *b)
{
    return ad_neg(ad_mul(t, ad_shift(ad_scale(t, (b[1] - b[0]) / 4), b[0] / 2)));
}

/* The root of that in a form without cancellation. */
static ad_var vp_time(ad_var log_alpha, const double *b)
{
    ad_var l = ad_neg(log_alpha);
    ad_var root = ad_sqrt(ad_shift(ad_scale(l, b[1] - b[0]), b[0] * b[0] / 4));
    return ad_div(ad_scale(l, 2), ad_shift(root, b[0] / 2));
}

static void vp_kernel(ad_var t, const double *b, ad_var *alpha, ad_var *sigma)
{
    ad_var l = vp_log_alpha(t, b);
    *alpha = ad_exp(l);
    *sigma = ad_sqrt(ad_neg(ad_expm1(ad_scale(l, 2))));
}

/* alpha^2 = 1 / (1 + exp(-2 lambda)). */
static ad_var vp_of_lambda(ad_var lambda, const double *b)
{
    return vp_time(ad_scale(ad_softplus(ad_scale(lambda, -2)), -0.5), b);
}

static void sub_vp_kernel(ad_var t, const double *b, ad_var *alpha, ad_var *sigma)
{
    ad_var l = vp_log_alpha(t, b);
    *alpha = ad_exp(l);
    *sigma = ad_neg(ad_expm1(ad_scale(l, 2)));
}

/* alpha / (1 - alpha^2) = exp(lambda) is sinh(-log alpha) = exp(-lambda) / 2. */
static ad_var sub_vp_of_lambda(ad_var lambda, const double *b)
{
    ad_var s = ad_scale(ad_exp(ad_neg(lambda)), 0.5), square = ad_square(s);
    /* asinh(s) = log1p(s + s^2 / (1 + sqrt(1 + s^2))) */
    ad_var rest = ad_div(square, ad_shift(ad_sqrt(ad_shift(square, 1)), 1));
    return vp_time(ad_neg(ad_log1p(ad_add(s, rest))), b);
}

static void ve_kernel(ad_var t, const double *s, ad_var *alpha, ad_var *sigma)
{
    *alpha = ad_ones_like(t);
    *sigma = ad_scale(ad_exp(ad_scale(t, log(s[1] / s[0]))), s[0]);
}

static ad_var ve_of_lambda(ad_var lambda, const double *s)
{
    return ad_scale(ad_shift(ad_neg(lambda), -log(s[0])), 1 / log(s[1] / s[0]));
}

static const double half_pi = 1.57079632679489661923;

/* With sigma(t)^2 as a difference of squares, which does not cancel at small times. */
static void cosine_kernel(ad_var t, const double *s, ad_var *alpha, ad_var *sigma)
{
    double first = half_pi * s[0] / (1 + s[0]), rate = half_pi / (1 + s[0]);
    ad_var angle = ad_shift(ad_scale(t, rate), first);
    *alpha = ad_scale(ad_cos(angle), 1 / cos(first));
    /* cos^2 a - cos^2 b = sin(b - a) sin(b + a) */
    ad_var square = ad_mul(ad_sin(ad_scale(t, rate)), ad_sin(ad_shift(angle, first)));
    *sigma = ad_scale(ad_sqrt(square), 1 / cos(first));
}

static void transport_kernel(ad_var t, const double *s, ad_var *alpha, ad_var *sigma)
{
    *alpha = ad_shift(ad_neg(t), 1);
    *sigma = ad_shift(ad_scale(t, 1 - s[0]), s[0]);
}

/* 1 - t = exp(lambda) (s + (1 - s) t). */
static ad_var transport_of_lambda(ad_var lambda, const double *s)
{
    ad_var e = ad_exp(lambda);
    return ad_div(ad_shift(ad_scale(e, -s[0]), 1), ad_shift(ad_scale(e, 1 - s[0]), 1));
}

const ode_process ode_vp = { "vp",
                             "variance preserving (Song et al. 2021, arXiv:2011.13456)",
                             vp_kernel,
                             vp_of_lambda,
                             { 0.1, 20 },
                             1e-3,
                             1 };
const ode_process ode_sub_vp = { "sub_vp",
                                 "variance below that of vp (Song et al. 2021)",
                                 sub_vp_kernel,
                                 sub_vp_of_lambda,
                                 { 0.1, 20 },
                                 1e-3,
                                 1 };
const ode_process ode_ve = {
    "ve", "variance exploding (Song et al. 2021)", ve_kernel, ve_of_lambda, { 0.01, 50 }, 1e-5, 1
};
const ode_process ode_cosine = {
    "cosine",      "cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672)",
    cosine_kernel, NULL,
    { 0.008 },     1e-3,
    0.9946
};
const ode_process ode_optimal_transport = {
    "optimal_transport",
    "straight conditional paths (Lipman et al. 2023, arXiv:2210.02747)",
    transport_kernel,
    transport_of_lambda,
    { 1e-3 },
    0,
    1
};

const ode_process *const *ode_processes(void)
{
    static const ode_process *const all[] = {
        &ode_vp, &ode_sub_vp, &ode_ve, &ode_cosine, &ode_optimal_transport, NULL
    };
    return all;
}

ad_var ode_log_snr(const ode_process *process, ad_var t)
{
    ad_var alpha, sigma;
    process->kernel(t, process->parameter, &alpha, &sigma);
    return ad_log(ad_div(alpha, sigma));
}

ode_kernel ode_kernel_at(const ode_process *process, ad_var t)
{
    ode_kernel k;
    ad_var dot[2];
    process->kernel(t, process->parameter, &k.alpha, &k.sigma);
    ad_jvp_cut(1, &t, (ad_var[]){ ad_ones_like(t) }, 2, (ad_var[]){ k.alpha, k.sigma }, dot);
    k.alpha_dot = dot[0];
    k.sigma_dot = dot[1];
    return k;
}

int ode_model_numbers(const ode_process *process, int64_t n, const double *t, double *alpha,
                      double *sigma)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    if (!tape) return -1;
    ad_var a, s;
    process->kernel(ad_constant(tape, AD_SHAPE(n), t), process->parameter, &a, &s);
    int failed = (alpha && ad_get(a, alpha)) || (sigma && ad_get(s, sigma));
    ad_tape_free(tape);
    return failed ? -1 : 0;
}
