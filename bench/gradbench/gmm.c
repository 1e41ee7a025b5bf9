/* gmm: the log likelihood of a mixture of k Gaussians with Wishart's prior (gamma = 1, m = 0), less
 * its constants. The parameters are weights [k], means [k,d], and of each inverse covariance factor
 * Q the logarithms of the diagonal [d] and what is below it, column by column [d (d-1) / 2].
 * size: d, k, points. The points are rows. */
#include "gradbench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t below(int64_t d) { return d * (d - 1) / 2; }

static void plan(gb_case *c)
{
    const int64_t d = c->size[0], k = c->size[1];
    c->ninput = 2;
    c->rows = c->size[2];
    c->count[0] = c->nderivative = k * (1 + 2 * d + below(d));
    c->count[1] = d;
    c->nvalue = 1;
}

static void fill(const gb_case *c)
{
    gb_numbers(0, c->count[0], 0, 1 / sqrt((double)c->size[0]), c->input[0]);
    gb_numbers(1, c->rows * c->count[1], 0, 1, c->input[1]);
}

static ad_var record(const gb_case *c, const ad_var *in)
{
    const int64_t d = c->size[0], k = c->size[1], wide = d + below(d);
    ad_var alpha = gb_part(in[0], 0, k), x = in[1];
    ad_var mean = ad_reshape(gb_part(in[0], k, k + k * d), AD_SHAPE(k, d));
    ad_var icf = ad_reshape(gb_part(in[0], k + k * d, c->count[0]), AD_SHAPE(k, wide));
    ad_var log_diagonal = gb_part(icf, 0, d), diagonal = ad_exp(log_diagonal);
    ad_var sum_log = ad_sum_axis(log_diagonal, -1, false), entries = diagonal;
    if (d > 1) entries = ad_concatenate(2, (ad_var[]){ diagonal, gb_part(icf, d, wide) }, -1);
    int64_t *place = malloc((size_t)wide * sizeof *place), n = 0;
    if (!place) return ad_sum_all(ad_broadcast(alpha, AD_SHAPE(-2))); /* an error of the tape */
    for (int64_t i = 0; i < d; i++) place[n++] = i * d + i;
    for (int64_t j = 0; j < d; j++)
        for (int64_t i = j + 1; i < d; i++) place[n++] = i * d + j;
    ad_var q = ad_reshape(ad_scatter_add(entries, -1, d * d, place), AD_SHAPE(k, d, d));
    free(place);
    ad_var off = ad_sub(ad_contract("bj,kij->bki", 2, (ad_var[]){ x, q }),
                        ad_contract("kj,kij->ki", 2, (ad_var[]){ mean, q }));
    ad_var square = ad_sum_axis(ad_square(off), -1, false);
    ad_var term = ad_sub(ad_add(alpha, sum_log), ad_scale(square, 0.5));
    ad_var likelihood = ad_sum_all(ad_logsumexp(term, 1, (int[]){ -1 }, false));
    ad_var weights = ad_scale(ad_logsumexp(alpha, 1, (int[]){ -1 }, false), (double)c->rows);
    ad_var prior = ad_scale(ad_sum_all(ad_square(entries)), 0.5);
    return ad_add(ad_sub(likelihood, weights), prior);
}

static int64_t work_size(const gb_case *c)
{
    const int64_t d = c->size[0], k = c->size[1];
    return k + 2 * k * d + k * d * d;
}

static double log_sum_exp(int64_t n, const double *x, double *share)
{
    double most = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i++) sum += share[i] = exp(x[i] - most);
    for (int64_t i = 0; i < n; i++) share[i] /= sum;
    return log(sum) + most;
}

static void by_hand(const gb_case *c, double *value, double *derivative, double *work)
{
    const int64_t d = c->size[0], k = c->size[1], wide = d + below(d);
    const double *alpha = c->input[0], *mean = alpha + k, *icf = mean + k * d;
    double *alphabar = derivative, *meanbar = alphabar + k, *icfbar = meanbar + k * d;
    double *share = work, *off = share + k, *centred = off + k * d, *q = centred + k * d;
    double sum = 0, prior = 0;
    memset(derivative, 0, (size_t)c->nderivative * sizeof *derivative);
    memset(q, 0, (size_t)(k * d * d) * sizeof *q);
    for (int64_t a = 0; a < k; a++) {
        const double *l = icf + a * wide;
        for (int64_t i = 0; i < d; i++) q[(a * d + i) * d + i] = exp(l[i]);
        for (int64_t j = 0, n = d; j < d; j++)
            for (int64_t i = j + 1; i < d; i++) q[(a * d + i) * d + j] = l[n++];
    }
    for (int64_t r = 0; r < c->rows; r++) {
        const double *x = c->input[1] + r * d;
        for (int64_t a = 0; a < k; a++) {
            double square = 0, logs = 0;
            for (int64_t j = 0; j < d; j++) centred[a * d + j] = x[j] - mean[a * d + j];
            for (int64_t i = 0; i < d; i++) {
                double dot = 0;
                for (int64_t j = 0; j <= i; j++) dot += q[(a * d + i) * d + j] * centred[a * d + j];
                off[a * d + i] = dot;
                square += dot * dot;
                logs += icf[a * wide + i];
            }
            share[a] = alpha[a] + logs - square / 2;
        }
        sum += log_sum_exp(k, share, share);
        for (int64_t a = 0; a < k; a++) {
            const double w = share[a], *e = centred + a * d;
            double *lbar = icfbar + a * wide;
            alphabar[a] += w;
            for (int64_t i = 0; i < d; i++) {
                const double bar = -w * off[a * d + i], *line = q + (a * d + i) * d;
                lbar[i] += w + bar * e[i] * line[i];
                for (int64_t j = 0; j <= i; j++) meanbar[a * d + j] -= bar * line[j];
            }
            for (int64_t j = 0, n = d; j < d; j++)
                for (int64_t i = j + 1; i < d; i++) lbar[n++] -= w * off[a * d + i] * e[j];
        }
    }
    sum -= (double)c->rows * log_sum_exp(k, alpha, share);
    for (int64_t a = 0; a < k; a++) {
        alphabar[a] -= (double)c->rows * share[a];
        for (int64_t i = 0; i < wide; i++) {
            const double l = icf[a * wide + i], entry = i < d ? exp(l) : l;
            prior += entry * entry / 2;
            icfbar[a * wide + i] += i < d ? entry * entry : entry;
        }
    }
    *value = sum + prior;
}

const gb_program gb_gmm = { "gmm", plan, fill, record, by_hand, work_size };
