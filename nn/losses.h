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

#ifdef __cplusplus
}
#endif
#endif
