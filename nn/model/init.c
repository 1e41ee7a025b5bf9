/* Initial values of parameters. */
#include "nn/nn.h"
#include <math.h>

static void fill(double value, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) out[i] = value;
}

static void uniform(ad_rng *rng, double limit, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) out[i] = limit * (2 * ad_rng_uniform(rng) - 1);
}

static void normal(ad_rng *rng, double sd, int64_t n, double *out)
{
    for (int64_t i = 0; out && i < n; i++) out[i] = sd * ad_rng_normal(rng);
}

#define INIT(name)                                                                                 \
    void nn_init_##name(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out)
#define UNUSED(x) (void)(x)

INIT(zeros)
{
    UNUSED(rng), UNUSED(fan_in), UNUSED(fan_out);
    fill(0, n, out);
}

INIT(ones)
{
    UNUSED(rng), UNUSED(fan_in), UNUSED(fan_out);
    fill(1, n, out);
}

INIT(xavier_uniform) { uniform(rng, sqrt(6.0 / (double)(fan_in + fan_out)), n, out); }
INIT(xavier_normal) { normal(rng, sqrt(2.0 / (double)(fan_in + fan_out)), n, out); }

INIT(he_uniform)
{
    UNUSED(fan_out);
    uniform(rng, sqrt(6.0 / (double)fan_in), n, out);
}

INIT(he_normal)
{
    UNUSED(fan_out);
    normal(rng, sqrt(2.0 / (double)fan_in), n, out);
}

INIT(lecun_normal)
{
    UNUSED(fan_out);
    normal(rng, sqrt(1.0 / (double)fan_in), n, out);
}

INIT(uniform_fan_in)
{
    UNUSED(fan_out);
    uniform(rng, sqrt(1.0 / (double)fan_in), n, out);
}
