/* Part of nn.h: losses: means over all elements (or rows), scalars. */
#ifndef COSTATE_LOSSES_H
#define COSTATE_LOSSES_H
#include "../autodiff/autodiff.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Prediction and target have the same shape: [rows,1] against [rows,D] is an error, not a
 * broadcast. */
ad_var nn_mse(ad_var prediction, ad_var target);
ad_var nn_mae(ad_var prediction, ad_var target);
/* logits [rows,C], C >= 2; classes [rows,1] holding whole numbers 0..C-1, or probabilities
 * [rows,C]. Mean over rows of -log softmax. A class that is none of 0..C-1 is an error when the
 * loss or its gradient is computed, which names the row, the class and C. Without rows, [...,C]
 * likewise. */
ad_var nn_cross_entropy(ad_var logits, ad_var classes);
/* Mean of (x - mean)^2 / (2 sd^2) + log sd + log(2 pi)/2, given log sd (mean and log_sd broadcast
 * to x). */
ad_var nn_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd);

/* Weighted means: sum of w x / sum of w, with weights (>= 0) that broadcast to x. A mask is weights
 * of 0 and 1. What has weight 0 does not matter, neither a target (x of the likelihood) nor a
 * prediction, even where it is NaN: its gradient is 0.
 * Where all weights are 0, as in a batch without an observation, the mean and its gradient are 0.
 */
ad_var nn_weighted_mean(ad_var x, ad_var weights);
ad_var nn_weighted_mse(ad_var prediction, ad_var target, ad_var weights);
ad_var nn_weighted_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd, ad_var weights);
/* weights [rows,1]. Classes of rows with weight 0 must still be classes: 0, say. */
ad_var nn_weighted_cross_entropy(ad_var logits, ad_var classes, ad_var weights);

/* classes [...,1] as probabilities [...,n] for nn_cross_entropy: 1 - smoothing for the class, and
 * smoothing / n more for every one (Szegedy et al. 2016, arXiv:1512.00567, section 7). */
ad_var nn_smooth_classes(ad_var classes, int64_t n, double smoothing);
/* Mean of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2) (Huber 1964,
 * doi:10.1214/aoms/1177703732); of one shape, as nn_mse. */
ad_var nn_huber(ad_var prediction, ad_var target, double delta);
/* Bernoulli's negative log-likelihood: mean of -t log s(x) - (1 - t) log(1 - s(x)), with s the
 * sigmoid of finite logits x and targets t in [0,1], of one shape. */
ad_var nn_binary_cross_entropy(ad_var logits, ad_var target);
/* Mean of exp(l) - k l, log rates l and counts k of one shape; without log k!, which is constant.
 */
ad_var nn_poisson_nll(ad_var log_rate, ad_var count);
/* Kullback-Leibler divergence of N(mean, sd^2) from N(prior_mean, prior_sd^2), given log sd: summed
 * over the last axis, of which all are independent, and averaged over the others. nn_standard_kl:
 * from N(0, 1). */
ad_var nn_gaussian_kl(ad_var mean, ad_var log_sd, ad_var prior_mean, ad_var prior_log_sd);
ad_var nn_standard_kl(ad_var mean, ad_var log_sd);

#ifdef __cplusplus
}
#endif
#endif
