/* Multi-head attention. */
#include "autodiff/extension.h"
#include "nn/activations.h"
#include "nn/layers/checks.h"
#include "nn/layers/layer.h"

nn_attention nn_attention_new(nn_model *model, const char *name, int64_t width, int64_t heads,
                              const nn_attention_options *options)
{
    static const nn_attention_options none;
    const nn_attention_options *o = options ? options : &none;
    const nn_init init = o->init ? o->init : nn_init_xavier_uniform;
    nn_attention layer = { .width = width, .heads = heads };
    if (width < 1 || heads < 1 || width % heads)
        nn_model_fail(model, "nn: '%.60s': a width of %lld cannot be divided among %lld heads",
                      name ? name : "", (long long)width, (long long)heads);
    struct {
        const char *name;
        nn_linear *part;
        int64_t in;
    } parts[] = { { "query", &layer.query, width },
                  { "key", &layer.key, o->key_width ? o->key_width : width },
                  { "value", &layer.value, o->value_width ? o->value_width : width },
                  { "out", &layer.out, width } };
    char text[NN_LAYER_NAME];
    for (int i = 0; i < 4; i++) {
        const char *full = nn_layer_name(text, name, parts[i].name);
        *parts[i].part = o->unbiased ? nn_linear_new_unbiased(model, full, parts[i].in, width, init)
                                     : nn_linear_new(model, full, parts[i].in, width, init);
    }
    if (layer.out.weight < 0) layer.query.weight = -1;
    return layer;
}

static const char what[] = "nn_attention_apply";

/* A sequence is [rows,T,width], or [T,width] where it is the same for all rows. */
static bool check_sequence(const char *name, ad_var x, int64_t width, ad_var theta)
{
    if (!nn_layer_valid(what, name, x, theta.tape)) return false;
    ad_shape s = ad_shape_of(x);
    if (s.rank == 2 + ad_has_rows(s) && s.dim[s.rank - 1] == width) return true;
    char text[128];
    ad_format_shape(s, text, sizeof text);
    ad_fail(x.tape, "%s: %s is %s, but must be [rows,T,%lld]", what, name, text, (long long)width);
    return false;
}

static int64_t steps_of(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    return s.dim[s.rank - 2];
}

static bool check_pairs(ad_var key, ad_var value)
{
    ad_shape k = ad_shape_of(key), v = ad_shape_of(value);
    if (k.rank == v.rank && steps_of(key) == steps_of(value)) return true;
    char a[128], b[128];
    ad_format_shape(k, a, sizeof a);
    ad_format_shape(v, b, sizeof b);
    ad_fail(key.tape, "%s: keys are %s and values %s, but each key has a value", what, a, b);
    return false;
}

static bool check_lengths(ad_var lengths, ad_var query, ad_var key)
{
    if (!lengths.tape) return true;
    if (!nn_layer_valid(what, "lengths", lengths, query.tape)) return false;
    const bool rows = ad_has_rows(ad_shape_of(query)) || ad_has_rows(ad_shape_of(key));
    if (rows && ad_same_shape(ad_shape_of(lengths), AD_SHAPE(AD_ROWS, 1))) return true;
    char text[128];
    ad_format_shape(ad_shape_of(lengths), text, sizeof text);
    ad_fail(query.tape, "%s: lengths are %s, but must be [rows,1], of sequences with rows", what,
            text);
    return false;
}

/* Through its layer, and divided among the heads: [rows,T,heads,width/heads]. */
static ad_var split(const nn_attention *layer, const nn_linear *part, ad_var theta, ad_var x)
{
    ad_var y = nn_linear_rows(part, theta, x, part->in);
    const int64_t each = layer->width / layer->heads, n = steps_of(x);
    return ad_reshape(y, ad_has_rows(ad_shape_of(x)) ? AD_SHAPE(AD_ROWS, n, layer->heads, each)
                                                     : AD_SHAPE(n, layer->heads, each));
}

/* Scores [rows,heads,Tq,Tk] where the mask lets a query see a key, -inf elsewhere. */
static ad_var masked(ad_var scores, const nn_attention_mask *mask)
{
    ad_shape s = ad_shape_of(scores);
    if (!mask || s.rank < 0) return scores;
    ad_tape *t = scores.tape;
    const int64_t queries = s.dim[s.rank - 2], keys = s.dim[s.rank - 1];
    ad_var place = nn_layer_range(t, keys), hidden = ad_scalar(t, -INFINITY);
    if (mask->causal) {
        ad_var own = ad_reshape(nn_layer_range(t, queries), AD_SHAPE(queries, 1));
        scores = ad_select(ad_le(place, own), scores, hidden);
    }
    if (mask->lengths.tape) {
        ad_var n = nn_check_whole(mask->lengths, &(nn_whole){ what, "length", 1, keys }, true);
        n = ad_reshape(n, AD_SHAPE(AD_ROWS, 1, 1, 1));
        scores = ad_select(ad_lt(place, n), scores, hidden);
    }
    return scores;
}

ad_var nn_attention_apply(const nn_attention *layer, ad_var theta, ad_var query, ad_var key,
                          ad_var value, const nn_attention_mask *mask)
{
    const nn_linear *first = layer ? &layer->query : NULL;
    if (!nn_layer_check(what, first ? first->model : NULL, first ? first->weight : -1, theta,
                        query) ||
        !check_sequence("query", query, layer->width, theta) ||
        !check_sequence("key", key, layer->key.in, theta) ||
        !check_sequence("value", value, layer->value.in, theta) || !check_pairs(key, value) ||
        !check_lengths(mask ? mask->lengths : (ad_var){ 0 }, query, key))
        return nn_layer_none(query);
    const bool of_query = ad_has_rows(ad_shape_of(query)), of_key = ad_has_rows(ad_shape_of(key));
    ad_var q = split(layer, &layer->query, theta, query), k = split(layer, &layer->key, theta, key),
           v = split(layer, &layer->value, theta, value);
    const int64_t width = layer->width / layer->heads; /* of one head */
    q = ad_scale(q, 1 / sqrt((double)width));
    const bool rows = of_query || of_key;
    char spec[64];
    snprintf(spec, sizeof spec, "%sqhd,%skhd->%shqk", of_query ? "b" : "", of_key ? "b" : "",
             rows ? "b" : "");
    ad_var weights = nn_softmax(masked(ad_contract(spec, 2, (ad_var[]){ q, k }), mask));
    snprintf(spec, sizeof spec, "%shqk,%skhd->%sqhd", rows ? "b" : "", of_key ? "b" : "",
             rows ? "b" : "");
    ad_var y = ad_contract(spec, 2, (ad_var[]){ weights, v });
    const int64_t n = steps_of(query);
    y = ad_reshape(y, rows ? AD_SHAPE(AD_ROWS, n, layer->width) : AD_SHAPE(n, layer->width));
    return nn_linear_rows(&layer->out, theta, y, layer->width);
}
