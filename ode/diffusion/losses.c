/* Losses: regression on what is known of the path from data to noise. */
#include "ode/diffusion/model.h"
#include <math.h>

/* Whether all of these have one shape [rows,d]. */
static bool alike(const char *caller, ad_var x, const char *name, ad_var other)
{
    if (!ode_model_points(caller, "x0", NULL, x) || !ode_model_points(caller, name, x.tape, other))
        return false;
    if (ad_same_shape(ad_shape_of(x), ad_shape_of(other))) return true;
    char a[128], b[128];
    ad_format_shape(ad_shape_of(x), a, sizeof a);
    ad_format_shape(ad_shape_of(other), b, sizeof b);
    ad_fail(x.tape, "%s: x0 has shape %s and %s has %s; they must be equal", caller, a, name, b);
    return false;
}

static ad_var mean_square(const char *caller, ad_var weight, ad_var prediction, ad_var target)
{
    if (ad_valid(prediction) && !alike(caller, target, "the network's prediction", prediction))
        return ad_none(target.tape);
    ad_var error = ad_square(ad_sub(prediction, target));
    return ad_mean_all(weight.tape ? ad_mul(weight, error) : error);
}

/* ---- times ---- */

ad_var ode_diffusion_times(const ode_diffusion *model, ode_times_kind kind, ad_var u)
{
    static const char caller[] = "ode_diffusion_times";
    ode_diffusion m;
    ad_var none = ad_none(u.tape);
    if (!ode_model_complete(model, caller, u.tape, &m) || !ode_model_column(caller, "u", NULL, u))
        return none;
    if (kind == ODE_TIMES_UNIFORM) return ad_shift(ad_scale(u, m.t_max - m.t_min), m.t_min);
    if (kind != ODE_TIMES_IMPORTANCE) {
        ad_fail(u.tape, "%s: the kind is none of ode_times_kind", caller);
        return none;
    }
    const double ends[2] = { m.t_min, m.t_max };
    double alpha[2], sigma[2];
    if (!m.process->time || ode_model_numbers(m.process, 2, ends, alpha, sigma)) {
        ad_fail(u.tape,
                "%s: process %s has no time of its signal-to-noise ratio in closed form; ode_vp, "
                "ode_sub_vp, ode_ve and ode_optimal_transport have",
                caller, m.process->name);
        return none;
    }
    double first = log(alpha[0] / sigma[0]), last = log(alpha[1] / sigma[1]);
    if (!isfinite(last)) {
        ad_fail(u.tape,
                "%s: nothing is left of the data at t = %g, so that times drawn by importance have "
                "no end; take a smaller t_max",
                caller, m.t_max);
        return none;
    }
    ad_var t = m.process->time(ad_shift(ad_scale(u, last - first), first), m.process->parameter);
    return ad_clamp(t, ad_scalar(u.tape, m.t_min), ad_scalar(u.tape, m.t_max)); /* rounding */
}

/* ---- losses ---- */

/* Squared errors of a prediction are those of the noise times the square of a function of t: how
 * much the target moves with the noise where x_t stays, data = (x_t - sigma noise) / alpha. */
static ad_var noise_in_target(ode_prediction what, const ode_kernel *k)
{
    ad_var one = ad_ones_like(k->alpha);
    return ode_from_pair(what, k, ad_neg(ad_div(k->sigma, k->alpha)), one);
}

static ad_var weight_of(const ode_diffusion *m, ode_weight weight, const ode_kernel *k)
{
    if (weight == ODE_WEIGHT_OWN) return (ad_var){ 0 };
    ad_var w = ad_ones_like(k->alpha);
    if (m->prediction != ODE_NOISE) w = ad_reciprocal(ad_square(noise_in_target(m->prediction, k)));
    if (weight == ODE_WEIGHT_NOISE) return w;
    /* g^2 / sigma^2 = -2 d lambda / dt */
    ad_var rate = ad_sub(ad_div(k->sigma_dot, k->sigma), ad_div(k->alpha_dot, k->alpha));
    return ad_mul(ad_scale(rate, 2), w);
}

static ad_var loss(const char *caller, const ode_diffusion *model, ode_weight weight, ad_var x0,
                   ad_var t, ad_var noise, const ad_var *args)
{
    ode_diffusion m;
    if (!ode_model_complete(model, caller, x0.tape, &m) || !alike(caller, x0, "noise", noise) ||
        !ode_model_times(&m, caller, x0.tape, t))
        return ad_none(x0.tape);
    ode_kernel k = ode_kernel_at(m.process, t);
    ad_var x = ad_add(ad_mul(k.alpha, x0), ad_mul(k.sigma, noise));
    return mean_square(caller, weight_of(&m, weight, &k), m.network(t, x, args, m.user),
                       ode_from_pair(m.prediction, &k, x0, noise));
}

/* Whether arguments are there if there are to be some. */
static bool arguments(const char *caller, ad_var x, int nargs, const ad_var *args)
{
    if (nargs >= 0 && (args || !nargs)) return true;
    if (x.tape) ad_fail(x.tape, "%s: %d arguments, and args is NULL", caller, nargs);
    return false;
}

ad_var ode_diffusion_loss(const ode_diffusion *model, ode_weight weight, ad_var x0, ad_var t,
                          ad_var noise, int nargs, const ad_var *args)
{
    static const char caller[] = "ode_diffusion_loss";
    if (!arguments(caller, x0, nargs, args)) return ad_none(x0.tape);
    if ((int)weight >= 0 && weight <= ODE_WEIGHT_OWN)
        return loss(caller, model, weight, x0, t, noise, args);
    if (x0.tape) ad_fail(x0.tape, "%s: the weight is none of ode_weight", caller);
    return ad_none(x0.tape);
}

ad_var ode_flow_matching_loss(ode_field network, void *user, ad_var x0, ad_var t, ad_var noise,
                              int nargs, const ad_var *args)
{
    static const char caller[] = "ode_flow_matching_loss";
    const ode_diffusion model = { .process = &ode_optimal_transport,
                                  .prediction = ODE_VELOCITY,
                                  .network = network,
                                  .user = user };
    if (!arguments(caller, x0, nargs, args)) return ad_none(x0.tape);
    return loss(caller, &model, ODE_WEIGHT_OWN, x0, t, noise, args);
}

ad_var ode_interpolant_loss(ode_field network, void *user, double strength, ad_var x0, ad_var x1,
                            ad_var t, ad_var noise, int nargs, const ad_var *args)
{
    static const char caller[] = "ode_interpolant_loss";
    const ode_diffusion unit = { .t_min = 0, .t_max = 1 };
    if (!x0.tape) return x0;
    if (!network) ad_fail(x0.tape, "%s: the network is NULL", caller);
    if (!(strength >= 0 && isfinite(strength)))
        ad_fail(x0.tape, "%s: the strength is %g; it must not be negative", caller, strength);
    if (!network || ad_tape_error(x0.tape) || !arguments(caller, x0, nargs, args) ||
        !alike(caller, x0, "x1", x1) || !alike(caller, x0, "noise", noise) ||
        !ode_model_times(&unit, caller, x0.tape, t))
        return ad_none(x0.tape);
    ad_var gamma = ad_scale(ad_mul(t, ad_shift(ad_neg(t), 1)), strength),
           difference = ad_sub(x1, x0);
    ad_var x = ad_add(ad_add(x0, ad_mul(t, difference)), ad_mul(gamma, noise)), dot;
    ad_jvp_cut(1, &t, (ad_var[]){ ad_ones_like(t) }, 1, &x, &dot);
    return mean_square(caller, (ad_var){ 0 }, network(t, x, args, user), dot);
}
