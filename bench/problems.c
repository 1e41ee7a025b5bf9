/* Networks with stated weights, stated inputs, and the data of case a. */
#include "bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void *bench_alloc(int64_t n, ad_dtype dtype)
{
    size_t bytes = ((size_t)n * (dtype == AD_F32 ? sizeof(float) : sizeof(double)) + 127) / 64 * 64;
    void *p = aligned_alloc(64, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

double bench_get(const void *data, ad_dtype dtype, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

void bench_put(void *data, ad_dtype dtype, int64_t i, double value)
{
    if (dtype == AD_F32) ((float *)data)[i] = (float)value;
    else ((double *)data)[i] = value;
}

void *bench_inputs(int64_t rows, int64_t d, ad_dtype dtype)
{
    void *x = bench_alloc(rows * d, dtype);
    for (int64_t b = 0; x && b < rows; b++)
        for (int64_t i = 0; i < d; i++)
            bench_put(x, dtype, b * d + i, sin(0.37 * (double)b + 1.3 * (double)i));
    return x;
}

/* ---- networks ---- */

bool bench_network_make(bench_network *n, int nsize, const int64_t *sizes, double scale,
                        ad_dtype dtype)
{
    *n = (bench_network){ .model = nn_model_new(), .dtype = dtype };
    n->mlp = nn_mlp_new(n->model, "field", nsize, sizes, ad_tanh, nn_init_zeros);
    if (!n->model || nn_model_error(n->model)) return false;
    n->size = nn_model_size(n->model);
    n->numbers = nn_theta_new(n->model, dtype, NULL);
    n->theta = nn_theta_data(n->numbers);
    for (int l = 0; n->theta && l < n->mlp.nlayer; l++) {
        const nn_linear *layer = &n->mlp.layer[l];
        double s = scale > 0 ? scale : sqrt(1 / (double)layer->in);
        for (int64_t i = 0; i < layer->in; i++)
            for (int64_t j = 0; j < layer->out; j++) {
                double x = (double)i, y = (double)j;
                bench_put(n->theta, dtype, layer->weight + i * layer->out + j,
                          s * sin(1.7 * x + 0.9 * y + 0.37 * x * y + l));
            }
    }
    return n->theta;
}

void bench_network_free(bench_network *n)
{
    nn_model_free(n->model);
    nn_theta_free(n->numbers);
    *n = (bench_network){ 0 };
}

ad_var bench_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const bench_network *n = user;
    (void)t;
    return nn_mlp_apply(&n->mlp, args[0], n->cube ? ad_mul(y, ad_square(y)) : y);
}

double bench_field_flops(const bench_network *n)
{
    double flops = 0;
    for (int l = 0; l < n->mlp.nlayer; l++)
        flops += 2 * (double)(n->mlp.layer[l].in * n->mlp.layer[l].out);
    return flops;
}

double bench_field_tanhs(const bench_network *n)
{
    double count = 0;
    for (int l = 0; l + 1 < n->mlp.nlayer; l++) count += (double)n->mlp.layer[l].out;
    return count;
}

static double norm(const void *data, ad_dtype dtype, int64_t start, int64_t n)
{
    double sum = 0;
    for (int64_t i = start; i < start + n; i++)
        sum += bench_get(data, dtype, i) * bench_get(data, dtype, i);
    return sqrt(sum);
}

int bench_norms(const bench_network *n, const void *gradient, double *norms)
{
    for (int l = 0; l < n->mlp.nlayer; l++) {
        const nn_linear *layer = &n->mlp.layer[l];
        norms[2 * l] = norm(gradient, n->dtype, layer->weight, layer->in * layer->out);
        norms[2 * l + 1] = norm(gradient, n->dtype, layer->bias, layer->out);
    }
    return 2 * n->mlp.nlayer;
}

/* ---- case a: twenty pieces of ten points of a spiral ---- */

static ad_var spiral(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    (void)user;
    return ad_matmul(ad_mul(y, ad_square(y)),
                     ad_constant(y.tape, AD_SHAPE(2, 2), (const double[]){ -0.1, 2, -2, -0.1 }));
}

bool bench_spiral(ad_dtype dtype, void *start, void *target)
{
    enum { POINTS = 1000, PIECES = 20, EACH = 10, APART = 49 };
    static const double from[2] = { 2, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    double *path = malloc(2 * POINTS * sizeof *path);
    ode_options o = { .rtol = 1e-12, .atol = 1e-13 };
    bool fine = path && tape &&
                ad_get(ode_solve(spiral, NULL, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, from),
                                 0, NULL, ode_linspace(tape, 0, 25, POINTS), &o),
                       path) == 0;
    for (int64_t p = 0; fine && p < PIECES; p++)
        for (int64_t k = 0; k < 2 * EACH; k++) {
            bench_put(target, dtype, p * 2 * EACH + k, path[2 * APART * p + k]);
            if (k < 2) bench_put(start, dtype, 2 * p + k, path[2 * APART * p + k]);
        }
    if (!fine) bench_failed("spiral", tape ? ad_tape_error(tape) : NULL);
    ad_tape_free(tape);
    free(path);
    return fine;
}
