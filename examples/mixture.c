#include "mixture.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The mixture as variables of a tape. */
typedef struct {
    ad_tape *tape;
    ad_var log_share, mean, inverse, log_inverse, x;
} variables;

static ad_var numbers(ad_tape *tape, ad_shape shape, const double *data)
{
    return ad_param(tape, shape, data);
}

static variables on_tape(const mixture *m, int64_t n, const double *x)
{
    const int64_t k = m->components, d = m->d;
    variables v = { .tape = ad_tape_new(AD_F64) };
    v.log_share = numbers(v.tape, AD_SHAPE(k), m->log_share);
    v.mean = numbers(v.tape, AD_SHAPE(k, d), m->mean);
    v.inverse = numbers(v.tape, AD_SHAPE(k, d, d), m->inverse);
    v.log_inverse = numbers(v.tape, AD_SHAPE(k), m->log_inverse);
    v.x = ad_input_rows(v.tape, AD_SHAPE(AD_ROWS, d), n, x);
    return v;
}

/* log(share_k N(x; mean_k, C_k)): [rows,components]. */
static ad_var joint(const mixture *m, const variables *v)
{
    static const double log_2pi = 1.83787706640934548356;
    ad_var whitened = ad_contract("bi,kji->bkj", AD_VARS(v->x, v->inverse));
    ad_var centre = ad_contract("ki,kji->kj", AD_VARS(v->mean, v->inverse));
    ad_var distance = ad_sum_axis(ad_square(ad_sub(whitened, centre)), 2, false);
    ad_var constant = ad_shift(ad_add(v->log_share, v->log_inverse), -0.5 * log_2pi * (double)m->d);
    return ad_sub(constant, ad_scale(distance, 0.5));
}

/* C = L L^T (Cholesky) and L^-1; false where C is not positive definite. */
static bool factor(int64_t d, const double *c, double *root, double *inverse, double *log_inverse)
{
    *log_inverse = 0;
    memset(root, 0, (size_t)(d * d) * sizeof *root);
    memset(inverse, 0, (size_t)(d * d) * sizeof *inverse);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++) {
            double s = c[i * d + j];
            for (int64_t k = 0; k < j; k++) s -= root[i * d + k] * root[j * d + k];
            if (i == j && !(s > 0)) return false;
            root[i * d + j] = i == j ? sqrt(s) : s / root[j * d + j];
        }
    for (int64_t i = 0; i < d; i++) {
        double *row = inverse + i * d;
        row[i] = 1;
        for (int64_t k = 0; k < i; k++)
            for (int64_t j = 0; j <= k; j++) row[j] -= root[i * d + k] * inverse[k * d + j];
        for (int64_t j = 0; j <= i; j++) row[j] /= root[i * d + i];
        *log_inverse -= log(root[i * d + i]);
    }
    return true;
}

/* Shares, means and covariances that are the most likely ones for these responsibilities
 * [n,components]. */
static bool maximise(mixture *m, double shrink, int64_t n, const double *x, const double *weight)
{
    const int64_t k = m->components, d = m->d;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var r = ad_input_rows(tape, AD_SHAPE(AD_ROWS, k), n, weight),
           rows = ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), n, x);
    ad_var count = ad_sum(r, 1, (int[]){ 0 }, false);
    double *counts = malloc((size_t)k * sizeof *counts),
           *pooled = calloc((size_t)(d * d), sizeof *pooled);
    bool fine = counts && pooled && ad_get(count, counts) == 0 &&
                ad_get(ad_contract("bk,bi->ki", AD_VARS(r, rows)), m->mean) == 0 &&
                ad_get(ad_contract("bk,bi,bj->kij", AD_VARS(r, rows, rows)), m->moments) == 0;
    for (int64_t c = 0; fine && c < k; c++) {
        double *mean = m->mean + c * d, *moments = m->moments + c * d * d;
        if (!(counts[c] > 0)) {
            example_failed("mixture", "a component has no rows");
            fine = false;
            break;
        }
        m->log_share[c] = log(counts[c] / (double)n);
        for (int64_t i = 0; i < d; i++) mean[i] /= counts[c];
        for (int64_t i = 0; i < d; i++)
            for (int64_t j = 0; j < d; j++) {
                moments[i * d + j] = moments[i * d + j] / counts[c] - mean[i] * mean[j];
                pooled[i * d + j] += moments[i * d + j] * counts[c] / (double)n;
            }
    }
    for (int64_t c = 0; fine && c < k; c++) {
        double *covariance = m->moments + c * d * d;
        for (int64_t i = 0; i < d * d; i++) covariance[i] += shrink * (pooled[i] - covariance[i]);
        fine =
            factor(d, covariance, m->root + c * d * d, m->inverse + c * d * d, &m->log_inverse[c]);
        if (!fine) example_failed("mixture", "a covariance is not positive definite");
    }
    if (ad_tape_error(tape)) example_failed("mixture", ad_tape_error(tape));
    ad_tape_free(tape);
    free(counts);
    free(pooled);
    return fine;
}

bool mixture_fit(mixture *m, int components, double shrink, int rounds, int64_t n, int64_t d,
                 const double *x, const double *component)
{
    const size_t k = (size_t)components, square = (size_t)(d * d);
    *m = (mixture){ .components = components, .d = d };
    m->log_share = calloc(k, sizeof *m->log_share);
    m->log_inverse = calloc(k, sizeof *m->log_inverse);
    m->mean = calloc(k * (size_t)d, sizeof *m->mean);
    m->root = calloc(k * square, sizeof *m->root);
    m->inverse = calloc(k * square, sizeof *m->inverse);
    m->moments = calloc(k * square, sizeof *m->moments);
    double *weight = calloc((size_t)n * k, sizeof *weight);
    bool fine =
        m->log_share && m->log_inverse && m->mean && m->root && m->inverse && m->moments && weight;
    if (!fine) example_failed("mixture", NULL);
    for (int64_t i = 0; fine && i < n; i++)
        weight[i * components + (component ? (int64_t)component[i] : 0)] = 1;
    fine = fine && maximise(m, shrink, n, x, weight);
    for (int round = 0; fine && round < rounds; round++) {
        variables v = on_tape(m, n, x);
        ad_var log_p = joint(m, &v);
        ad_var total = ad_logsumexp(log_p, 1, (int[]){ 1 }, true);
        fine = ad_get(ad_exp(ad_sub(log_p, total)), weight) == 0;
        if (!fine) example_failed("mixture", ad_tape_error(v.tape));
        ad_tape_free(v.tape);
        fine = fine && maximise(m, shrink, n, x, weight);
    }
    free(weight);
    return fine;
}

bool mixture_log_density(const mixture *m, int64_t n, const double *x, double *out)
{
    variables v = on_tape(m, n, x);
    bool fine = ad_get(ad_logsumexp(joint(m, &v), 1, (int[]){ 1 }, true), out) == 0;
    if (!fine) example_failed("log density of the mixture", ad_tape_error(v.tape));
    ad_tape_free(v.tape);
    return fine;
}

void mixture_draw(const mixture *m, ad_rng *rng, int64_t n, double *out)
{
    for (int64_t row = 0; row < n; row++, out += m->d) {
        double u = ad_rng_uniform(rng);
        int k = 0;
        while (k + 1 < m->components && (u -= exp(m->log_share[k])) > 0) k++;
        const double *root = m->root + k * m->d * m->d;
        memcpy(out, m->mean + k * m->d, (size_t)m->d * sizeof *out);
        for (int64_t j = 0; j < m->d; j++) {
            const double z = ad_rng_normal(rng);
            for (int64_t i = j; i < m->d; i++) out[i] += root[i * m->d + j] * z;
        }
    }
}

void mixture_clear(mixture *m)
{
    free(m->log_share);
    free(m->mean);
    free(m->root);
    free(m->inverse);
    free(m->log_inverse);
    free(m->moments);
    *m = (mixture){ 0 };
}
