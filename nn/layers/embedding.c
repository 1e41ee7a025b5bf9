/* Embeddings of labels. */
#include "nn/layers/checks.h"
#include "nn/layers/layer.h"
#include "autodiff/extension.h"

nn_embedding nn_embedding_new(nn_model *model, const char *name, int64_t labels, int64_t width,
                              nn_init init)
{
    nn_embedding layer = { model, labels, width, -1 };
    layer.weight = nn_layer_add(model, name, "weight", AD_SHAPE(labels, width),
                                init ? init : nn_init_normal, labels, width);
    return layer;
}

ad_var nn_embedding_apply(const nn_embedding *layer, ad_var theta, ad_var label)
{
    static const char what[] = "nn_embedding_apply";
    if (!nn_layer_check(what, layer ? layer->model : NULL, layer ? layer->weight : -1, theta,
                        label))
        return nn_layer_none(label);
    ad_shape s = ad_shape_of(label);
    char text[128];
    ad_format_shape(s, text, sizeof text);
    if (s.rank < 1 || s.rank == AD_MAX_RANK) {
        ad_fail(label.tape, "%s: labels are %s, but must have 1 to %d axes", what, text,
                AD_MAX_RANK - 1);
        return ad_none(label.tape);
    }
    if (ad_tape_dtype(label.tape) == AD_F32 && layer->labels > (int64_t)1 << 24) {
        ad_fail(label.tape, "%s: %lld labels; beyond 2^24 they are no whole numbers in f32", what,
                (long long)layer->labels);
        return ad_none(label.tape);
    }
    ad_var known = nn_check_whole(label, &(nn_whole){ what, "label", 0, layer->labels - 1 }, true);
    /* ad_take has no axis for a single place a row, [rows,1] and [rows] alike. */
    if (s.rank == 1 && ad_has_rows(s)) known = ad_reshape(known, AD_SHAPE(AD_ROWS, 1));
    ad_var rows =
        ad_take(nn_layer_array(theta, layer->weight, AD_SHAPE(layer->labels, layer->width)), known);
    s.dim[s.rank++] = layer->width;
    return ad_reshape(rows, s);
}
