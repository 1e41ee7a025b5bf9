/* Losses: scalars recorded on the tape. */
#include "nn/layers/checks.h"
#include "nn/layers/layer.h"
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

/* Classes, checked when they are computed. */
static ad_var checked(const char *what, ad_var classes, int64_t n)
{
    return nn_check_whole(classes, &(nn_whole){ what, "class", 0, n - 1 }, true);
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

/* What has no weight may be NaN, and that would come through a derivative that is multiplied by 0.
 */
static ad_var observed(ad_var x, ad_var weights)
{
    if (!ad_valid(x) || !ad_valid(weights)) return ad_mul(x, weights);
    ad_var zero = ad_scalar(x.tape, 0), known = ad_select(ad_ne(weights, zero), x, zero);
    if (!ad_valid(known) || ad_same_shape(ad_shape_of(known), ad_shape_of(x))) return known;
    return shapes_differ("nn_weighted_mean", x, "x", weights, "the weights",
                         "they must broadcast to x");
}

/* Of each row, [...,1]. */
static ad_var cross_entropy_each(ad_var logits, ad_var classes)
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
        ad_var hit = ad_eq(checked("nn_cross_entropy", classes, n), nn_layer_range(logits.tape, n));
        return ad_logsumexp(distances(logits, hit), 1, (int[]){ -1 }, true);
    }
    if (!ad_same_shape(ad_shape_of(classes), shape)) {
        return shapes_differ("nn_cross_entropy", logits, "logits", classes, "classes",
                             "classes must be [rows,1], or probabilities [rows,C]");
    }
    ad_var distance = distances(logits, likeliest(classes)),
           normaliser = ad_logsumexp(distance, 1, (int[]){ -1 }, true); /* [...,1] */
    return ad_sum_axis(ad_mul(classes, ad_sub(normaliser, distance)), -1, true);
}

ad_var nn_cross_entropy(ad_var logits, ad_var classes)
{
    return ad_mean_all(cross_entropy_each(logits, classes));
}

ad_var nn_weighted_cross_entropy(ad_var logits, ad_var classes, ad_var weights)
{
    ad_var each = cross_entropy_each(observed(logits, weights), classes);
    return nn_weighted_mean(each, weights);
}

ad_var nn_smooth_classes(ad_var classes, int64_t n, double smoothing)
{
    ad_shape shape = ad_shape_of(classes);
    if (!ad_valid(classes)) return ad_neg(classes); /* says why */
    bool single = shape.rank > 0 && shape.dim[shape.rank - 1] == 1;
    if (!single || n < 2 || n > MAX_CLASSES || !(smoothing >= 0 && smoothing < 1)) {
        char text[128];
        ad_format_shape(shape, text, sizeof text);
        ad_fail(classes.tape,
                "nn_smooth_classes: classes must be [rows,1], but are %s; there must be at least 2 "
                "classes (%lld), and the smoothing must be in [0,1) (%g)",
                text, (long long)n, smoothing);
        return ad_none(classes.tape);
    }
    ad_var hit = ad_eq(checked("nn_smooth_classes", classes, n), nn_layer_range(classes.tape, n));
    return ad_shift(ad_scale(hit, 1 - smoothing), smoothing / (double)n);
}

/* Of each element. */
static ad_var gaussian_nll_each(ad_var x, ad_var mean, ad_var log_sd)
{
    const double half_log_2pi = 0.91893853320467274178;
    ad_var z = ad_mul(ad_sub(x, mean), ad_exp(ad_neg(log_sd)));
    ad_var nll = ad_shift(ad_add(ad_scale(ad_square(z), 0.5), log_sd), half_log_2pi);
    if (ad_valid(nll) && !ad_same_shape(ad_shape_of(nll), ad_shape_of(x))) {
        return shapes_differ("nn_gaussian_nll", x, "x", nll, "x with mean and log_sd",
                             "mean and log_sd must broadcast to x");
    }
    return nll;
}

ad_var nn_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd)
{
    return ad_mean_all(gaussian_nll_each(x, mean, log_sd));
}

ad_var nn_weighted_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd, ad_var weights)
{
    ad_var wide = ad_zeros_like(x), known = observed(x, weights), wide_mean = ad_add(mean, wide),
           wide_log_sd = ad_add(log_sd, wide);
    ad_var nll =
        gaussian_nll_each(known, observed(wide_mean, weights), observed(wide_log_sd, weights));
    return nn_weighted_mean(nll, weights);
}

ad_var nn_weighted_mse(ad_var prediction, ad_var target, ad_var weights)
{
    if (!ad_valid(difference("nn_weighted_mse", prediction, target)))
        return ad_sub(prediction, target);
    ad_var apart = ad_sub(observed(prediction, weights), observed(target, weights));
    return nn_weighted_mean(ad_square(apart), weights);
}

ad_var nn_huber(ad_var prediction, ad_var target, double delta)
{
    ad_var d = difference("nn_huber", prediction, target), size = ad_abs(d);
    if (!ad_valid(d)) return d;
    if (!(delta > 0)) {
        ad_fail(d.tape, "nn_huber: delta must be positive, but is %g", delta);
        return ad_none(d.tape);
    }
    ad_var near = ad_le(size, ad_scalar(d.tape, delta));
    ad_var straight = ad_scale(ad_shift(size, -delta / 2), delta);
    return ad_mean_all(ad_select(near, ad_scale(ad_square(d), 0.5), straight));
}

/* The two terms by themselves: softplus(x) - t x would cancel where x is large. */
ad_var nn_binary_cross_entropy(ad_var logits, ad_var target)
{
    if (!ad_valid(difference("nn_binary_cross_entropy", logits, target)))
        return ad_sub(logits, target);
    ad_var missed = ad_mul(target, ad_softplus(ad_neg(logits)));
    ad_var alarm = ad_mul(ad_shift(ad_neg(target), 1), ad_softplus(logits));
    return ad_mean_all(ad_add(missed, alarm));
}

ad_var nn_poisson_nll(ad_var log_rate, ad_var count)
{
    if (!ad_valid(difference("nn_poisson_nll", log_rate, count))) return ad_sub(log_rate, count);
    return ad_mean_all(ad_sub(ad_exp(log_rate), ad_mul(count, log_rate)));
}

ad_var nn_gaussian_kl(ad_var mean, ad_var log_sd, ad_var prior_mean, ad_var prior_log_sd)
{
    ad_var apart = ad_sub(mean, prior_mean), wider = ad_sub(log_sd, prior_log_sd);
    ad_var z = ad_mul(apart, ad_exp(ad_neg(prior_log_sd)));
    /* exp(2 w) - 1 - 2 w: its difference from 0 is exact for small w */
    ad_var spread = ad_sub(ad_expm1(ad_scale(wider, 2)), ad_scale(wider, 2));
    ad_var each = ad_scale(ad_add(spread, ad_square(z)), 0.5);
    return ad_mean_all(ad_sum_axis(each, -1, true));
}

ad_var nn_standard_kl(ad_var mean, ad_var log_sd)
{
    ad_var zero = ad_zeros_like(mean);
    return nn_gaussian_kl(mean, log_sd, zero, zero);
}

ad_var nn_weighted_mean(ad_var x, ad_var weights)
{
    ad_var wide = ad_mul(weights, ad_ones_like(x));
    if (!ad_valid(wide)) return wide;
    if (!ad_same_shape(ad_shape_of(wide), ad_shape_of(x)))
        return shapes_differ("nn_weighted_mean", x, "x", weights, "the weights",
                             "they must broadcast to x");
    ad_var zero = ad_scalar(x.tape, 0), one = ad_scalar(x.tape, 1);
    ad_var counts = ad_ne(wide, zero), total = ad_sum_all(wide);
    ad_var sum = ad_sum_all(ad_mul(wide, ad_select(counts, x, zero)));
    return ad_div(sum, ad_select(ad_ne(total, zero), total, one));
}
