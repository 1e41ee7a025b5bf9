/* Solves of a model's equations: the probability flow with its likelihood, the reverse-time
 * equation. */
#include "ode/diffusion/model.h"
#include <math.h>

/* sigma(t_max), the deviation of the noise that samples begin with. */
static double prior(const ode_diffusion *m)
{
    double sigma = NAN;
    ode_model_numbers(m->process, 1, &m->t_max, NULL, &sigma);
    return sigma;
}

static bool begin(const char *caller, const ode_diffusion *model, const char *what, ad_var x,
                  ode_diffusion *m)
{
    return ode_model_complete(model, caller, x.tape, m) && ode_model_points(caller, what, NULL, x);
}

ad_var ode_diffusion_decode(const ode_diffusion *model, ad_var z, int nargs, const ad_var *args,
                            const ode_options *options)
{
    ode_diffusion m;
    if (!begin("ode_diffusion_decode", model, "z", z, &m)) return ad_none(z.tape);
    return ode_solve_final(ode_diffusion_velocity, &m, ad_scale(z, prior(&m)), nargs, args,
                           ode_interval(z.tape, m.t_max, m.t_min), options);
}

ad_var ode_diffusion_encode(const ode_diffusion *model, ad_var x, int nargs, const ad_var *args,
                            const ode_options *options)
{
    ode_diffusion m;
    if (!begin("ode_diffusion_encode", model, "x", x, &m)) return ad_none(x.tape);
    ad_var end = ode_solve_final(ode_diffusion_velocity, &m, x, nargs, args,
                                 ode_interval(x.tape, m.t_min, m.t_max), options);
    return ad_scale(end, 1 / prior(&m));
}

ad_var ode_diffusion_by_sde(const ode_diffusion *model, ad_var z, int nargs, const ad_var *args,
                            const sde_options *options)
{
    ode_diffusion m;
    if (!begin("ode_diffusion_by_sde", model, "z", z, &m)) return ad_none(z.tape);
    return sde_solve_final(ode_diffusion_reverse_drift, ode_diffusion_reverse_noise, &m,
                           ad_scale(z, prior(&m)), nargs, args,
                           ode_interval(z.tape, m.t_max, m.t_min), options);
}

ad_var ode_diffusion_log_density(const ode_diffusion *model, ad_var x, int nargs,
                                 const ad_var *args, const ode_options *options)
{
    ode_diffusion m;
    if (!begin("ode_diffusion_log_density", model, "x", x, &m)) return ad_none(x.tape);
    ad_var logdet, end = ode_flow(ode_diffusion_velocity, &m, x, nargs, args,
                                  ode_interval(x.tape, m.t_min, m.t_max), options, &logdet);
    if (!ad_valid(end)) return ad_none(x.tape);
    double sigma = prior(&m), d = (double)ad_shape_of(x).dim[1];
    return ad_add(ad_shift(ode_normal_log_density(ad_scale(end, 1 / sigma)), -d * log(sigma)),
                  logdet);
}

/* ---- discrete data ---- */

static bool levels_fine(const char *caller, int levels, ad_var x)
{
    if (levels < 2) ad_fail(x.tape, "%s: %d levels; there must be at least 2", caller, levels);
    return levels >= 2;
}

ad_var ode_dequantise(ad_var numbers, ad_var u, int levels)
{
    static const char caller[] = "ode_dequantise";
    if (!numbers.tape || !levels_fine(caller, levels, numbers) ||
        !ode_model_points(caller, "numbers", NULL, numbers) ||
        !ode_model_points(caller, "u", numbers.tape, u))
        return ad_none(numbers.tape);
    return ad_shift(ad_scale(ad_add(numbers, u), 2.0 / levels), -1);
}

/* A cell of the numbers has volume (2 / levels)^d. */
ad_var ode_bits_per_dimension(ad_var log_density, int64_t d, int levels)
{
    static const char caller[] = "ode_bits_per_dimension";
    if (!log_density.tape || !levels_fine(caller, levels, log_density))
        return ad_none(log_density.tape);
    if (d < 1) {
        ad_fail(log_density.tape, "%s: %lld dimensions; there must be at least 1", caller,
                (long long)d);
        return ad_none(log_density.tape);
    }
    return ad_shift(ad_scale(log_density, -1 / ((double)d * log(2))), -log2(2.0 / levels));
}
