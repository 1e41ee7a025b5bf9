/* Losses: scalars recorded on the tape. */
#include "nn/layers/checks.h"
#include "autodiff/extension.h"

static ad_var shapes_differ(const char *what, ad_var a, const char *a_name, ad_var b,
                            const char *b_name, const char *advice)
{
    char a_text[128], b_text[128];
    ad_format_shape(ad_shape_of(a), a_text, sizeof a_text);
    ad_format_shape(ad_shape_of(b), b_text, sizeof b_text);
    ad_fail(a.tape, "%s: %s is %s, %s is %s; %s", what, a_name, a_text, b_name, b_text, advice);
    return ad_none(a.tape);
}

/* Their difference, or an invalid variable with the tape's error set: broadcasting here would hide
 * a mistake. */
static ad_var difference(const char *what, ad_var prediction, ad_var target)
{
    if (ad_valid(prediction) && ad_valid(target) &&
        !ad_same_shape(ad_shape_of(prediction), ad_shape_of(target))) {
        return shapes_differ(what, prediction, "the prediction", target, "the target",
                             "they must be the same");
    }
    return ad_sub(prediction, target);
}

ad_var nn_mse(ad_var prediction, ad_var target)
{
    return ad_mean_all(ad_square(difference("nn_mse", prediction, target)));
}
ad_var nn_mae(ad_var prediction, ad_var target)
{
    return ad_mean_all(ad_abs(difference("nn_mae", prediction, target)));
}

enum { MAX_CLASSES = 1 << 24 }; /* beyond it, f32 does not have every whole number */

/* 0, 1, ..., n-1 as a constant [n], made by the tape. */
static ad_var range(ad_tape *tape, int64_t n)
{
    return ad_shift(ad_cumsum(ad_fill(tape, AD_SHAPE(n), 1), 0, false), -1);
}

/* The logits' distances from that of one class of each row, where hit is 1. The class's own
 * distance is the constant 0, so that the gradient by its logit is a sum over the others and does
 * not cancel. Logits are selected, not multiplied: one of -inf elsewhere must not make NaN. */
static ad_var distances(ad_var logits, ad_var hit)
{
    ad_var zero = ad_scalar(logits.tape, 0),
           chosen = ad_sum_axis(ad_select(hit, logits, zero), -1, true);
    return ad_select(hit, zero, ad_sub(logits, chosen));
}

/* 1 at the first of the largest probabilities of each row. */
static ad_var likeliest(ad_var probabilities)
{
    ad_var hit = ad_eq(probabilities, ad_reduce_max(probabilities, 1, (int[]){ -1 }, true));
    return ad_mul(hit, ad_eq(ad_cumsum(hit, -1, false), ad_scalar(hit.tape, 1)));
}

ad_var nn_cross_entropy(ad_var logits, ad_var classes)
{
    if (!ad_valid(logits) || !ad_valid(classes)) return ad_add(logits, classes); /* says which */
    ad_shape shape = ad_shape_of(logits), single = shape;
    int64_t n = shape.rank > 0 ? shape.dim[shape.rank - 1] : 0;
    if (n < 2 || n > MAX_CLASSES) {
        return shapes_differ("nn_cross_entropy", logits, "logits", classes, "classes",
                             "logits must be [rows,C] with C >= 2 classes");
    }
    single.dim[shape.rank - 1] = 1;
    if (ad_same_shape(ad_shape_of(classes), single)) {
        ad_var hit = ad_eq(nn_check_classes(classes, n), range(logits.tape, n));
        return ad_mean_all(ad_logsumexp(distances(logits, hit), 1, (int[]){ -1 }, true));
    }
    if (!ad_same_shape(ad_shape_of(classes), shape)) {
        return shapes_differ("nn_cross_entropy", logits, "logits", classes, "classes",
                             "classes must be [rows,1], or probabilities [rows,C]");
    }
    ad_var distance = distances(logits, likeliest(classes)),
           normaliser = ad_logsumexp(distance, 1, (int[]){ -1 }, true); /* [...,1] */
    return ad_mean_all(ad_sum_axis(ad_mul(classes, ad_sub(normaliser, distance)), -1, true));
}

ad_var nn_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd)
{
    const double half_log_2pi = 0.91893853320467274178;
    ad_var z = ad_mul(ad_sub(x, mean), ad_exp(ad_neg(log_sd)));
    ad_var nll = ad_shift(ad_add(ad_scale(ad_square(z), 0.5), log_sd), half_log_2pi);
    if (ad_valid(nll) && !ad_same_shape(ad_shape_of(nll), ad_shape_of(x))) {
        return shapes_differ("nn_gaussian_nll", x, "x", nll, "x with mean and log_sd",
                             "mean and log_sd must broadcast to x");
    }
    return ad_mean_all(nll);
}
