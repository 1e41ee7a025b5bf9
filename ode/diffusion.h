/* costate: diffusion models, flow matching and stochastic interpolants
 *
 * A process turns data x0 into noise along t: x_t = alpha(t) x0 + sigma(t) noise, with standard
 * normal noise. A network learns to undo it (Song et al. 2021, arXiv:2011.13456): what it predicts
 * of x_t gives the score, grad log p_t(x), and with it equations whose solutions from t_max to
 * t_min carry noise to data. The network is a field, net(t, x; args), as that of a solve is; it is
 * recorded, so any operations may be in it. Points x are [rows,d]; t is a scalar, [1,1] or
 * [rows,1]. Data are at small t, noise is at large t, in everything here.
 *
 * Training: ode_diffusion_times and ode_diffusion_loss. Sampling: solves of the reverse-time
 * stochastic equation and of the probability-flow equation by any method, or ode_diffusion_sample,
 * whose samplers use that the equation is linear but for the network. docs/diffusion.md says which
 * to take.
 *
 * Errors stick to the tape, as everywhere. All functions may be called from any thread, each tape
 * by one at a time. A model is a plain value, which is read while something is recorded. */
#ifndef COSTATE_DIFFUSION_H
#define COSTATE_DIFFUSION_H
#include "sde.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- processes ------------------------------------------------------------------------------- */

/* Constant objects. One's own are objects like these, or copies with other parameters:
 * ode_process p = ode_ve; p.parameter[1] = 10. The log signal-to-noise ratio
 * lambda(t) = log(alpha / sigma) must decrease. Everything else (drift, diffusion coefficient,
 * velocities) is recorded from the kernel as its derivatives. */
typedef struct {
    const char *name, *about;
    /* alpha(t) >= 0 and sigma(t) > 0 of t's shape */
    void (*kernel)(ad_var t, const double *parameter, ad_var *alpha, ad_var *sigma);
    /* t of lambda, for times that are drawn by importance; NULL: not these times */
    ad_var (*time)(ad_var lambda, const double *parameter);
    double parameter[2];
    double t_min, t_max; /* where models begin and end unless they say otherwise */
} ode_process;

/* vp, sub_vp: d log alpha / dt = -beta(t) / 2, beta linear from parameter[0] = 0.1 to
 * parameter[1] = 20; sigma^2 = 1 - alpha^2, and sigma = 1 - alpha^2. ve: alpha = 1, sigma
 * exponential from parameter[0] = 0.01 to parameter[1] = 50, which is to be about the largest
 * distance between data (Song et al. 2021, section 3.4). cosine: alpha = cos of t (Nichol &
 * Dhariwal 2021, arXiv:2102.09672; parameter[0] = 0.008). optimal_transport: alpha = 1 - t, sigma =
 * parameter[0] + (1 - parameter[0]) t, with parameter[0] = 1e-3 (Lipman et al. 2023,
 * arXiv:2210.02747, with the time reversed); at t = 1 nothing is left of the data, which only
 * networks that predict the velocity can start from. */
extern const ode_process ode_vp, ode_sub_vp, ode_ve, ode_cosine, ode_optimal_transport;
const ode_process *const *ode_processes(void); /* all, NULL-terminated */

/* What a network predicts of x_t, or what is asked of a model. */
typedef enum {
    ODE_NOISE,    /* the noise in x_t */
    ODE_SCORE,    /* grad log p_t = -noise / sigma */
    ODE_DATA,     /* x0 */
    ODE_V,        /* alpha noise - sigma x0 (Salimans & Ho 2022, arXiv:2202.00512) */
    ODE_VELOCITY, /* dx_t/dt = alpha' x0 + sigma' noise, the target of flow matching */
    ODE_PREDICTIONS
} ode_prediction;

/* A process and a network, and how its samples are guided. Zeros are the defaults. */
typedef struct {
    const ode_process *process; /* default ode_vp */
    ode_prediction prediction;  /* what the network's result is, [rows,d]; default ODE_NOISE */
    ode_field network;
    void *user;          /* goes to all fields of the model */
    double t_min, t_max; /* both 0: those of the process */
    /* Guidance without a classifier (Ho & Salimans 2022, arXiv:2207.12598): with
     * `unconditional`, predictions are (1 + guidance) network - guidance unconditional. The
     * condition is among the arguments. */
    double guidance;
    ode_field unconditional;
    /* Guidance by a classifier (Dhariwal & Nguyen 2021, arXiv:2105.05233): classifier(t, x; args)
     * [rows,1] is log p(condition | x_t), of which `strength` times the gradient by x, taken from
     * the tape, is added to the score. strength 0: 1. */
    ode_field classifier;
    double strength;
} ode_diffusion;

/* alpha and sigma at t, of t's shape; and f and g of the forward equation dx = f x dt + g dW,
 * f = d log alpha/dt, g^2 = 2 sigma (dsigma/dt - f sigma). Pointers may be NULL. 0, or -1 with the
 * tape's error set. */
int ode_process_kernel(const ode_process *process, ad_var t, ad_var *alpha, ad_var *sigma);
int ode_process_coefficients(const ode_process *process, ad_var t, ad_var *f, ad_var *g);
/* What the model says of x at t, guided, in the form that is asked for: [rows,d]. */
ad_var ode_diffusion_predict(const ode_diffusion *model, ode_prediction what, ad_var t, ad_var x,
                             const ad_var *args);

/* ---- training -------------------------------------------------------------------------------- */

/* Times of examples, from numbers u in (0,1) [rows,1] that are drawn for each batch. uniform:
 * between t_min and t_max. importance: with a density in proportion to g^2 / sigma^2, which is
 * uniform lambda (Song, Durkan, Murray & Ermon 2021, arXiv:2101.09258): ODE_WEIGHT_NOISE with these
 * times is ODE_WEIGHT_LIKELIHOOD with uniform ones but for a constant factor, and less noisy. */
typedef enum { ODE_TIMES_UNIFORM, ODE_TIMES_IMPORTANCE } ode_times_kind;
ad_var ode_diffusion_times(const ode_diffusion *model, ode_times_kind kind, ad_var u);

/* Weights of squared errors. noise: errors of the noise, sigma^2 times those of the score; the
 * usual choice, best for samples. likelihood: g^2 times errors of the score, which bounds the
 * negative log-likelihood. own: errors of what the network predicts. */
typedef enum { ODE_WEIGHT_NOISE, ODE_WEIGHT_LIKELIHOOD, ODE_WEIGHT_OWN } ode_weight;

/* Denoising score matching (Vincent 2011): the mean over all elements of the weighted squared error
 * of what the network predicts of x_t = alpha x0 + sigma noise. x0, noise (standard normal)
 * [rows,d], t [rows,1]: inputs, of nn_train drawn for each batch. A scalar. Guidance is not part of
 * it. */
ad_var ode_diffusion_loss(const ode_diffusion *model, ode_weight weight, ad_var x0, ad_var t,
                          ad_var noise, int nargs, const ad_var *args);
/* Flow matching along the paths of optimal transport: the loss of a model with
 * ode_optimal_transport that predicts the velocity, weights ODE_WEIGHT_OWN. The network is
 * network(t, x; args); with other pairs (x0, x1) than independent ones it is rectified flow. */
ad_var ode_flow_matching_loss(ode_field network, void *user, ad_var x0, ad_var t, ad_var noise,
                              int nargs, const ad_var *args);
/* Stochastic interpolants (Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797): between any two
 * distributions, x_t = (1 - t) x0 + t x1 + gamma(t) noise with gamma = strength t (1 - t). The
 * network learns the velocity dx_t/dt, and ode_solve over it carries draws of x0 at t = 0 to
 * draws of x1 at t = 1, and back. */
ad_var ode_interpolant_loss(ode_field network, void *user, double strength, ad_var x0, ad_var x1,
                            ad_var t, ad_var noise, int nargs, const ad_var *args);

/* ---- solves ---------------------------------------------------------------------------------- */

/* Fields whose `user` is the model (const ode_diffusion *), for solves of one's own from t_max to
 * t_min, which begin with sigma(t_max) times standard normal draws. The probability-flow equation
 * dx/dt = f x - g^2/2 score; drift and diffusion of the reverse-time equation dx = (f x - g^2
 * score) dt + g dW, time running backwards. */
ad_var ode_diffusion_velocity(ad_var t, ad_var x, const ad_var *args, void *model);
ad_var ode_diffusion_reverse_drift(ad_var t, ad_var x, const ad_var *args, void *model);
ad_var ode_diffusion_reverse_noise(ad_var t, ad_var x, const ad_var *args, void *model);

/* Samples [rows,d] from standard normal draws z [rows,d], and back: encode is the inverse of
 * decode up to the tolerance. by_sde: reverse-time equation, by any stochastic method; z and the
 * path are to be independent. */
ad_var ode_diffusion_decode(const ode_diffusion *model, ad_var z, int nargs, const ad_var *args,
                            const ode_options *options);
ad_var ode_diffusion_encode(const ode_diffusion *model, ad_var x, int nargs, const ad_var *args,
                            const ode_options *options);
ad_var ode_diffusion_by_sde(const ode_diffusion *model, ad_var z, int nargs, const ad_var *args,
                            const sde_options *options);
/* log p(x) [rows,1] of the probability flow, with the exact trace: the density at t_min, where data
 * have a noise of deviation sigma(t_min) on them. */
ad_var ode_diffusion_log_density(const ode_diffusion *model, ad_var x, int nargs,
                                 const ad_var *args, const ode_options *options);

/* Whole numbers 0 .. levels-1, [rows,d], to points in [-1,1], uniformly dequantised by u in (0,1)
 * [rows,d] (Theis, van den Oord & Bethge 2016, arXiv:1511.01844), and the log-density of such
 * points [rows,1] to bits per dimension [rows,1], of which the mean bounds that of the numbers'
 * probabilities from above. */
ad_var ode_dequantise(ad_var numbers, ad_var u, int levels);
ad_var ode_bits_per_dimension(ad_var log_density, int64_t d, int levels);

/* ---- samplers -------------------------------------------------------------------------------- */

/* Constant objects; ode_samplers() lists them, about says where each comes from.
 *
 * ddim: order 1, with fresh noise of options.eta (0: none; 1: as the ancestral sampler of DDPM).
 * dpm_1, dpm_2, dpm_3: exponential integrators of orders 1, 2, 3, with as many evaluations of the
 * network a step. dpm_pp_2m: order 2 with one evaluation a step, from the step before; the default.
 * predictor_corrector: a step of the reverse-time equation, then corrections by Langevin steps
 * whose size follows from a signal-to-noise ratio, one for all rows. annealed_langevin: Langevin
 * steps alone, at one level of noise after the other. */
typedef struct ode_sampler ode_sampler;
extern const ode_sampler ode_ddim, ode_dpm_1, ode_dpm_2, ode_dpm_3, ode_dpm_pp_2m,
    ode_predictor_corrector, ode_annealed_langevin;
const ode_sampler *const *ode_samplers(void); /* all, NULL-terminated */
const char *ode_sampler_name(const ode_sampler *sampler);
const char *ode_sampler_about(const ode_sampler *sampler);
int ode_sampler_order(const ode_sampler *sampler); /* 0: it is of random draws */
/* Evaluations of the network that a sample by these options takes (of a guided model: of all its
 * fields); options may be NULL. */
typedef struct ode_sampling ode_sampling;
int64_t ode_sampling_evaluations(const ode_sampling *options);

typedef enum {
    ODE_SPACING_OWN,     /* lambda for dpm_..., else time */
    ODE_SPACING_TIME,    /* equal steps of t */
    ODE_SPACING_LOG_SNR, /* equal steps of lambda */
    ODE_SPACINGS
} ode_spacing;

/* Zero means the default. */
struct ode_sampling {
    const ode_sampler *sampler; /* default ode_dpm_pp_2m */
    int64_t steps;              /* default 20 */
    ode_spacing spacing;
    double eta;      /* of ddim, 0 to 1 */
    int corrections; /* a step: default 1 (predictor_corrector), 5 (annealed_langevin) */
    /* of corrections. predictor_corrector: signal to noise, default 0.16 (Song et al. 2021,
     * algorithm 4). annealed_langevin: a step is ratio sigma^2 score, default 0.1 (Song & Ermon
     * 2019, arXiv:1907.05600). */
    double ratio;
    bool denoise;  /* at the end, one more evaluation: x0 as predicted at t_min */
    uint64_t seed; /* of fresh noise: equal seeds give equal samples */
    /* Inpainting: where mask [d] or [rows,d] is 1 (elsewhere 0), samples are to be `known` [rows,d]
     * or [d]: it takes its place after each step, with the noise of that time (Song et al. 2021,
     * appendix I.2). resample > 1: each step is taken so many times, with noise added again in
     * between (RePaint: Lugmayr et al. 2022, arXiv:2201.09865), which brings the rest in harmony
     * with what is known. Both given, or neither. */
    ad_var known, mask;
    int resample;
};

/* Samples [rows,d] from standard normal draws z [rows,d]: one operation, whose steps run one after
 * the other in the memory of a few arrays of z's size. Deterministic samplers read no seed. There
 * is no derivative (the solves above have them). options may be NULL. A sample that is not finite
 * is an error that names step, time, row and component. */
ad_var ode_diffusion_sample(const ode_diffusion *model, ad_var z, int nargs, const ad_var *args,
                            const ode_sampling *options);

#ifdef __cplusplus
}
#endif
#endif
