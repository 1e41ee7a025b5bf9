/* kmeans: the sum over points of the squared distance to the nearest of k centres, by the centres.
 * size: k, points, dimensions. The points are rows. */
#include "gradbench.h"
#include <string.h>

static void plan(gb_case *c)
{
    c->ninput = 2;
    c->rows = c->size[1];
    c->count[0] = c->nderivative = c->size[0] * c->size[2];
    c->count[1] = c->size[2];
    c->nvalue = 1;
}

static void fill(const gb_case *c)
{
    gb_numbers(0, c->count[0], 0, 1, c->input[0]);
    gb_numbers(1, c->rows * c->count[1], 0, 1, c->input[1]);
}

static ad_var record(const gb_case *c, const ad_var *in)
{
    const int64_t k = c->size[0], d = c->size[2];
    ad_var centre = ad_reshape(in[0], AD_SHAPE(k, d)), x = in[1];
    /* |x - c|^2 = |x|^2 - 2 x.c + |c|^2: one product */
    ad_var product = ad_contract("bd,kd->bk", 2, (ad_var[]){ x, centre });
    ad_var length = ad_sum_axis(ad_square(centre), -1, false);
    ad_var part = ad_sub(ad_scale(product, 2), length);
    ad_var nearest = ad_reduce_max(part, 1, (int[]){ -1 }, true);
    return ad_sum_all(ad_sub(ad_sum_axis(ad_square(x), -1, true), nearest));
}

static int64_t work_size(const gb_case *c)
{
    (void)c;
    return 0;
}

static void by_hand(const gb_case *c, double *value, double *derivative, double *work)
{
    const int64_t k = c->size[0], d = c->size[2];
    (void)work;
    *value = 0;
    memset(derivative, 0, (size_t)(k * d) * sizeof *derivative);
    for (int64_t r = 0; r < c->rows; r++) {
        const double *x = c->input[1] + r * d;
        double best = 1e300;
        int64_t nearest = 0;
        for (int64_t j = 0; j < k; j++) {
            double sum = 0;
            for (int64_t i = 0; i < d; i++) {
                const double off = x[i] - c->input[0][j * d + i];
                sum += off * off;
            }
            if (sum < best) {
                best = sum;
                nearest = j;
            }
        }
        *value += best;
        for (int64_t i = 0; i < d; i++)
            derivative[nearest * d + i] += 2 * (c->input[0][nearest * d + i] - x[i]);
    }
}

const gb_program gb_kmeans = { "kmeans", plan, fill, record, by_hand, work_size };
