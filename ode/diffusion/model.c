/* Models: a process and a network, guided. All that is asked of a model follows from the noise and
 * the data that it predicts. */
#include "ode/diffusion/model.h"
#include <math.h>

/* ---- checks ---- */

static bool complain(ad_tape *tape, const char *caller, const char *text)
{
    if (tape) ad_fail(tape, "%s: %s", caller, text);
    return false;
}

static bool check_process(const ode_process *p, const char *caller, ad_tape *tape)
{
    if (!p->kernel) return complain(tape, caller, "the process has no kernel");
    const double t[3] = { p->t_min, (p->t_min + p->t_max) / 2, p->t_max };
    double alpha[3], sigma[3];
    const char *name = p->name ? p->name : "without a name";
    if (!(isfinite(t[0]) && isfinite(t[2]) && t[0] < t[2])) {
        ad_fail(tape, "%s: process %s goes from t = %g to %g; t_min must be below t_max", caller,
                name, t[0], t[2]);
        return false;
    }
    if (ode_model_numbers(p, 3, t, alpha, sigma)) {
        ad_fail(tape,
                "%s: the kernel of process %s cannot be evaluated: results must have t's "
                "shape",
                caller, name);
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (sigma[i] > 0 && isfinite(sigma[i]) && alpha[i] > -1e-12 && isfinite(alpha[i])) continue;
        ad_fail(tape,
                "%s: process %s has alpha %g and sigma %g at t = %g; alpha must not be negative, "
                "sigma must be positive (sigma is 0 at t = 0 for most processes: take a larger "
                "t_min)",
                caller, name, alpha[i], sigma[i], t[i]);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        if (alpha[i] * sigma[i + 1] > alpha[i + 1] * sigma[i]) continue;
        ad_fail(tape,
                "%s: process %s has no more noise at t = %g than at t = %g: alpha / sigma must "
                "decrease",
                caller, name, t[i + 1], t[i]);
        return false;
    }
    return true;
}

bool ode_model_complete(const ode_diffusion *model, const char *caller, ad_tape *tape,
                        ode_diffusion *m)
{
    if (!tape) return false;
    if (!model) return complain(tape, caller, "the model is NULL");
    *m = *model;
    if (!m->process) m->process = &ode_vp;
    if (!m->network) return complain(tape, caller, "the model has no network");
    if ((int)m->prediction < 0 || m->prediction >= ODE_PREDICTIONS)
        return complain(tape, caller, "the model's prediction is none of ode_prediction");
    if (!isfinite(m->guidance) || !isfinite(m->strength))
        return complain(tape, caller, "the model's guidance or strength is not finite");
    if (m->guidance != 0 && !m->unconditional)
        return complain(tape, caller,
                        "guidance needs the model's unconditional field as well as its network");
    if (m->strength != 0 && !m->classifier)
        return complain(tape, caller, "strength is of a classifier, and the model has none");
    if (m->classifier && m->strength == 0) m->strength = 1;
    const ode_process *p = m->process;
    if (m->t_min == 0 && m->t_max == 0) {
        m->t_min = p->t_min;
        m->t_max = p->t_max;
    }
    if (!(m->t_min >= 0 && m->t_min < m->t_max && m->t_max <= 1)) {
        ad_fail(tape,
                "%s: the model's times go from t_min = %g to t_max = %g; they must increase "
                "and lie in [0,1]",
                caller, m->t_min, m->t_max);
        return false;
    }
    ode_process within = *p;
    within.t_min = m->t_min;
    within.t_max = m->t_max;
    return check_process(&within, caller, tape);
}

/* false; the error says what shape x has and which one it must have. */
static bool misshapen(const char *caller, const char *what, ad_tape *tape, ad_var x,
                      const char *want)
{
    ad_shape s = ad_shape_of(x);
    char text[128] = "(none: it is not a valid variable)";
    if (s.rank >= 0) ad_format_shape(s, text, sizeof text);
    if (!tape) tape = x.tape;
    if (tape) ad_fail(tape, "%s: %s has shape %s; it must be %s", caller, what, text, want);
    return false;
}

bool ode_model_points(const char *caller, const char *what, ad_tape *tape, ad_var x)
{
    ad_shape s = ad_shape_of(x);
    if (s.rank == 2 && s.dim[0] == AD_ROWS) return true;
    return misshapen(caller, what, tape, x, "[rows,d]");
}

bool ode_model_column(const char *caller, const char *what, ad_tape *tape, ad_var t)
{
    ad_shape s = ad_shape_of(t);
    if (s.rank >= 0 && s.rank <= 2 && ad_row_size(s) == 1) return true;
    return misshapen(caller, what, tape, t, "a scalar, [1,1] or [rows,1]");
}

bool ode_model_times(const ode_diffusion *model, const char *caller, ad_tape *tape, ad_var t)
{
    if (!ode_model_column(caller, "t", tape, t)) return false;
    const double *value = ad_constant_elements(t);
    if (value && !(value[0] >= model->t_min && value[0] <= model->t_max)) {
        ad_fail(t.tape, "%s: t = %g is outside the model's times, from %g to %g", caller, value[0],
                model->t_min, model->t_max);
        return false;
    }
    return true;
}

/* ---- predictions ---- */

ad_var ode_from_pair(ode_prediction what, const ode_kernel *k, ad_var data, ad_var noise)
{
    switch (what) {
    case ODE_SCORE: return ad_neg(ad_div(noise, k->sigma));
    case ODE_DATA: return data;
    case ODE_V: return ad_sub(ad_mul(k->alpha, noise), ad_mul(k->sigma, data));
    case ODE_VELOCITY: return ad_add(ad_mul(k->alpha_dot, data), ad_mul(k->sigma_dot, noise));
    default: return noise;
    }
}

/* The inverse: two linear equations, x = alpha data + sigma noise and the one above. */
static ode_pair pair_of(ode_prediction what, ode_kernel k, ad_var x, ad_var y)
{
    ode_pair p = { .kernel = k };
    if (what == ODE_DATA) {
        p.data = y;
        p.noise = ad_div(ad_sub(x, ad_mul(k.alpha, y)), k.sigma);
    } else if (what == ODE_V) {
        ad_var square = ad_add(ad_square(k.alpha), ad_square(k.sigma));
        p.noise = ad_div(ad_add(ad_mul(k.alpha, y), ad_mul(k.sigma, x)), square);
        p.data = ad_div(ad_sub(ad_mul(k.alpha, x), ad_mul(k.sigma, y)), square);
    } else if (what == ODE_VELOCITY) {
        ad_var d = ad_sub(ad_mul(k.alpha, k.sigma_dot), ad_mul(k.alpha_dot, k.sigma));
        p.noise = ad_div(ad_sub(ad_mul(k.alpha, y), ad_mul(k.alpha_dot, x)), d);
        p.data = ad_div(ad_sub(ad_mul(k.sigma_dot, x), ad_mul(k.sigma, y)), d);
    } else {
        p.noise = what == ODE_SCORE ? ad_neg(ad_mul(k.sigma, y)) : y;
        p.data = ad_div(ad_sub(x, ad_mul(k.sigma, p.noise)), k.alpha);
    }
    return p;
}

/* What a field of the model returns: `what`, of this shape. */
static ad_var of_shape(ad_var y, const char *what, ad_shape want)
{
    ad_shape got = ad_shape_of(y);
    if (got.rank >= 0 && !ad_same_shape(got, want)) {
        char a[128], b[128];
        ad_format_shape(got, a, sizeof a);
        ad_format_shape(want, b, sizeof b);
        ad_fail(y.tape, "%s has shape %s, not %s", what, a, b);
        return ad_none(y.tape);
    }
    return y;
}

/* The network's result, guided without a classifier: forms of predictions depend on each other
 * linearly, with x added, so weights of sum 1 do the same in all of them. */
static ad_var raw(const ode_diffusion *m, ad_var t, ad_var x, const ad_var *args)
{
    ad_shape shape = ad_shape_of(x);
    ad_var y = of_shape(m->network(t, x, args, m->user), "the network's prediction", shape);
    if (m->guidance == 0) return y;
    ad_var free = of_shape(m->unconditional(t, x, args, m->user),
                           "the unconditional field's prediction", shape);
    return ad_sub(ad_scale(y, 1 + m->guidance), ad_scale(free, m->guidance));
}

ode_pair ode_model_pair(const ode_diffusion *m, ad_var t, ad_var x, const ad_var *args)
{
    ode_pair p = pair_of(m->prediction, ode_kernel_at(m->process, t), x, raw(m, t, x, args));
    if (!m->classifier) return p;
    ad_var log_p = m->classifier(t, x, args, m->user), gradient;
    ad_shape column = AD_SHAPE(AD_ROWS, 1);
    log_p = of_shape(log_p, "the classifier's log-probability", column);
    ad_vjp_cut(1, &log_p, (ad_var[]){ ad_ones_like(log_p) }, 1, &x, &gradient);
    p.noise = ad_sub(p.noise, ad_mul(ad_scale(p.kernel.sigma, m->strength), gradient));
    p.data = ad_div(ad_sub(x, ad_mul(p.kernel.sigma, p.noise)), p.kernel.alpha);
    return p;
}

/* Of a complete model. */
static ad_var predict(const ode_diffusion *m, ode_prediction what, ad_var t, ad_var x,
                      const ad_var *args)
{
    if (what == m->prediction && !m->classifier) return raw(m, t, x, args);
    ode_pair p = ode_model_pair(m, t, x, args);
    return ode_from_pair(what, &p.kernel, p.data, p.noise);
}

ad_var ode_diffusion_predict(const ode_diffusion *model, ode_prediction what, ad_var t, ad_var x,
                             const ad_var *args)
{
    static const char caller[] = "ode_diffusion_predict";
    ode_diffusion m;
    if (!ode_model_complete(model, caller, x.tape, &m) || !ode_model_points(caller, "x", NULL, x) ||
        !ode_model_times(&m, caller, x.tape, t))
        return ad_none(x.tape);
    if ((int)what >= 0 && what < ODE_PREDICTIONS) return predict(&m, what, t, x, args);
    ad_fail(x.tape, "%s: what is asked for is none of ode_prediction", caller);
    return ad_none(x.tape);
}

ad_var ode_diffusion_velocity(ad_var t, ad_var x, const ad_var *args, void *model)
{
    return ode_diffusion_predict(model, ODE_VELOCITY, t, x, args);
}

/* f x - g^2 score = velocity - g^2 / 2 score, and g^2 / (2 sigma) = sigma' - alpha' sigma / alpha
 * is taken times the noise. */
ad_var ode_diffusion_reverse_drift(ad_var t, ad_var x, const ad_var *args, void *model)
{
    static const char caller[] = "ode_diffusion_reverse_drift";
    ode_diffusion m;
    if (!ode_model_complete(model, caller, x.tape, &m) || !ode_model_points(caller, "x", NULL, x))
        return ad_none(x.tape);
    ode_pair p = ode_model_pair(&m, t, x, args);
    ode_kernel *k = &p.kernel;
    ad_var half = ad_sub(k->sigma_dot, ad_div(ad_mul(k->alpha_dot, k->sigma), k->alpha));
    return ad_add(ode_from_pair(ODE_VELOCITY, k, p.data, p.noise), ad_mul(half, p.noise));
}

/* ---- the forward equation ---- */

/* Whether there is a process with positive deviations. */
static bool whole(const ode_process *process, const char *caller, ad_var t)
{
    const ode_diffusion model = { .process = process, .network = ode_diffusion_velocity };
    ode_diffusion complete;
    if (!process && t.tape) ad_fail(t.tape, "%s: the process is NULL", caller);
    return process && ode_model_complete(&model, caller, t.tape, &complete) &&
           ode_model_times(&complete, caller, NULL, t);
}

int ode_process_kernel(const ode_process *process, ad_var t, ad_var *alpha, ad_var *sigma)
{
    ad_var a = ad_none(t.tape), s = a;
    bool fine = whole(process, "ode_process_kernel", t);
    if (fine) process->kernel(t, process->parameter, &a, &s);
    if (alpha) *alpha = a;
    if (sigma) *sigma = s;
    return fine && ad_valid(a) && ad_valid(s) ? 0 : -1;
}

int ode_process_coefficients(const ode_process *process, ad_var t, ad_var *f, ad_var *g)
{
    ad_var rate = ad_none(t.tape), noise = rate;
    if (whole(process, "ode_process_coefficients", t)) {
        ode_kernel k = ode_kernel_at(process, t);
        rate = ad_div(k.alpha_dot, k.alpha);
        noise = ad_sqrt(ad_scale(ad_mul(k.sigma, ad_sub(k.sigma_dot, ad_mul(rate, k.sigma))), 2));
    }
    if (f) *f = rate;
    if (g) *g = noise;
    return ad_valid(rate) && ad_valid(noise) ? 0 : -1;
}

ad_var ode_diffusion_reverse_noise(ad_var t, ad_var x, const ad_var *args, void *model)
{
    static const char caller[] = "ode_diffusion_reverse_noise";
    (void)args;
    ode_diffusion m;
    ad_var g = ad_none(x.tape);
    if (ode_model_complete(model, caller, x.tape, &m))
        ode_process_coefficients(m.process, t, NULL, &g);
    return g;
}
