#include "latent.h"
#include <math.h>

void latent_ode_new(latent_ode *m)
{
    const int64_t d = m->latent, w = m->width, c = m->channels;
    m->model = nn_model_new();
    m->encoder = nn_gru_new(m->model, "encoder", c + 1, m->units);
    m->code = nn_linear_new(m->model, "code", m->units, 2 * d, NULL);
    m->field = nn_mlp_new(m->model, "field", 4, (int64_t[]){ d, w, w, d }, ad_silu, NULL);
    m->decoder = nn_mlp_new(m->model, "decoder", 3, (int64_t[]){ d, w, c }, ad_relu, NULL);
}

void latent_ode_encode(const latent_ode *m, ad_var theta, ad_var sequence, ad_var *code)
{
    ad_var last, x = ad_slice(sequence, 2, 0, m->channels + 1);
    nn_recurrent_apply(&m->encoder, theta, x, NULL, &(nn_sequence){ .reverse = true }, &last, NULL);
    ad_split(nn_linear_apply(&m->code, theta, last), 1, 2, NULL, code);
}

/* args[0] is theta. */
static ad_var field(ad_var t, ad_var z, const ad_var *args, void *user)
{
    const latent_ode *m = user;
    (void)t;
    return nn_mlp_apply(&m->field, args[0], z);
}

ad_var latent_ode_decode(const latent_ode *m, ad_var theta, ad_var z0, int n)
{
    ad_var times = ode_linspace(theta.tape, 0, m->time(n - 1), n);
    ad_var z = ode_solve(field, (void *)m, z0, AD_VARS(theta), times, &m->solver);
    return nn_mlp_apply(&m->decoder, theta, z);
}

ad_var latent_ode_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    const latent_ode *m = user;
    ad_var code[2];
    latent_ode_encode(m, theta, batch[0], code);
    ad_var z0 = ad_add(code[0], ad_mul(ad_exp(code[1]), batch[3]));
    ad_var x = latent_ode_decode(m, theta, z0, m->grid), log_sd = ad_scalar(tape, log(m->noise));
    ad_var misfit = nn_weighted_gaussian_nll(batch[1], x, log_sd, batch[2]);
    ad_var kl = nn_standard_kl(code[0], code[1]);
    return ad_add(misfit, ad_scale(kl, 1 / (double)(m->channels * m->seen)));
}

void latent_ode_draw(const latent_ode *m, const nn_step *step, double *out)
{
    for (int64_t i = 0; i < step->rows * m->latent; i++) out[i] = ad_rng_normal(step->rng);
}
