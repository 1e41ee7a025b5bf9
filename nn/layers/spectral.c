/* Bounds of the largest singular value. Of the eigenvalues l of W^T W the sum of l^p, p = 2^k, is
 * the trace of the k times squared matrix. Each square is divided by its trace, whose logarithms
 * add up, so that nothing overflows. */
#include "autodiff/extension.h"
#include "nn/layers/layer.h"
#include "nn/normalisation.h"

enum { SQUARINGS = 8, MOST_SQUARINGS = 30 };

/* W as a matrix of the last axis' size of columns; invalid with the error set. */
static ad_var matrix(const char *what, ad_var w, int squarings)
{
    if (!nn_layer_valid(what, "w", w, w.tape)) return nn_layer_none(w);
    ad_shape s = ad_shape_of(w);
    if (s.rank >= 2 && !ad_has_rows(s) && squarings >= 0 && squarings <= MOST_SQUARINGS) {
        const int64_t columns = s.dim[s.rank - 1];
        return ad_reshape(w, AD_SHAPE(ad_count(s, 1) / columns, columns));
    }
    char text[128];
    ad_format_shape(s, text, sizeof text);
    ad_fail(w.tape,
            "%s: w is %s, and %d squarings are asked for; w must be [...,in,out] "
            "without rows, the "
            "squarings 0 to %d",
            what, text, squarings, MOST_SQUARINGS);
    return ad_none(w.tape);
}

ad_var nn_spectral_bound(ad_var w, int squarings)
{
    ad_var m = matrix("nn_spectral_bound", w, squarings);
    if (!ad_valid(m)) return m;
    const ad_shape s = ad_shape_of(m);
    const bool wide = s.dim[0] < s.dim[1];
    const double n = (double)(wide ? s.dim[0] : s.dim[1]);
    const int k = squarings ? squarings : SQUARINGS;
    ad_var a = ad_contract(wide ? "ik,jk->ij" : "ki,kj->ij", 2, (ad_var[]){ m, m });
    /* Of W = 0 the bound is this, so that W / bound is 0. */
    ad_var trace = ad_shift(ad_sum_all(ad_square(m)), 1e-36);
    ad_var log_bound = ad_scale(ad_log(trace), 0.5);
    double share = 0.25;
    for (int i = 0; i < k; i++, share /= 2) {
        a = ad_div(i ? ad_matmul(a, a) : a, trace);
        /* The trace of a^2, which is at least 1/n where a has trace 1. */
        trace = ad_max(ad_sum_all(ad_square(a)), ad_scalar(m.tape, 0.5 / n));
        log_bound = ad_add(log_bound, ad_scale(ad_log(trace), share));
    }
    return ad_exp(log_bound);
}

ad_var nn_spectral_normalised(ad_var w, int squarings)
{
    return ad_div(w, nn_spectral_bound(w, squarings));
}

ad_var nn_linear_spectral_apply(const nn_linear *layer, ad_var theta, int squarings, ad_var x)
{
    static const char what[] = "nn_linear_spectral_apply";
    if (!nn_layer_check(what, layer ? layer->model : NULL, layer ? layer->weight : -1, theta, x) ||
        !nn_layer_width(what, x, layer->in))
        return nn_layer_none(x);
    ad_var w = nn_layer_array(theta, layer->weight, AD_SHAPE(layer->in, layer->out));
    const bool vector = ad_shape_of(x).rank == 1;
    ad_var y = ad_matmul(vector ? ad_reshape(x, AD_SHAPE(1, layer->in)) : x,
                         nn_spectral_normalised(w, squarings));
    if (vector) y = ad_reshape(y, AD_SHAPE(layer->out));
    return layer->bias < 0 ? y
                           : ad_add(y, nn_layer_array(theta, layer->bias, AD_SHAPE(layer->out)));
}
