/* Recurrent layers: a cell, and sequences of it by ad_scan. What a cell makes of its input alone is
 * computed for all steps at once, outside of the recurrence. */
#include "nn/model/model.h"
#include "autodiff/extension.h"
#include <string.h>

static nn_linear new_part(nn_model *model, const char *name, const char *part, int64_t in,
                          int64_t width, int gates)
{
    char text[256];
    /* a width that has no such multiple is refused as it is */
    bool fits = width > 0 && width <= INT64_MAX / gates;
    nn_linear layer = { model, in, fits ? gates * width : width, -1, -1 };
    int n = snprintf(text, sizeof text, "%s.%s.weight", name ? name : "", part);
    bool named = name && *name && n < (int)sizeof text;
    layer.weight = nn_model_add(model, named ? text : NULL, AD_SHAPE(in, layer.out),
                                nn_init_uniform_fan_in, width, layer.out);
    if (named) snprintf(text, sizeof text, "%s.%s.bias", name, part);
    layer.bias = nn_model_add(model, named ? text : NULL, AD_SHAPE(layer.out),
                              nn_init_uniform_fan_in, width, layer.out);
    if (layer.bias < 0) layer.weight = -1;
    return layer;
}

static nn_recurrent new_recurrent(nn_model *model, nn_recurrent_kind kind, const char *name,
                                  int64_t in, int64_t width)
{
    int gates = kind == NN_GRU ? 3 : 4;
    nn_recurrent layer = { .kind = kind, .width = width };
    layer.input = new_part(model, name, "input", in, width, gates);
    layer.hidden = new_part(model, name, "hidden", width, width, gates);
    return layer;
}

nn_recurrent nn_gru_new(nn_model *model, const char *name, int64_t in, int64_t width)
{
    return new_recurrent(model, NN_GRU, name, in, width);
}

nn_recurrent nn_lstm_new(nn_model *model, const char *name, int64_t in, int64_t width)
{
    return new_recurrent(model, NN_LSTM, name, in, width);
}

int nn_recurrent_states(const nn_recurrent *layer)
{
    return layer && layer->kind == NN_LSTM ? 2 : 1;
}

/* u: of the input, v: of the hidden state, both with all gates. */
static void gru(ad_var u, ad_var v, const ad_var *state, ad_var *next)
{
    ad_var a[3], b[3];
    ad_split(u, 1, 3, NULL, a);
    ad_split(v, 1, 3, NULL, b);
    ad_var reset = ad_sigmoid(ad_add(a[0], b[0])), keep = ad_sigmoid(ad_add(a[1], b[1]));
    ad_var fresh = ad_tanh(ad_add(a[2], ad_mul(reset, b[2])));
    next[0] = ad_add(fresh, ad_mul(keep, ad_sub(state[0], fresh)));
}

static void lstm(ad_var u, ad_var v, const ad_var *state, ad_var *next)
{
    ad_var gate[4];
    ad_split(ad_add(u, v), 1, 4, NULL, gate);
    ad_var kept = ad_mul(ad_sigmoid(gate[1]), state[1]);
    next[1] = ad_add(kept, ad_mul(ad_sigmoid(gate[0]), ad_tanh(gate[2])));
    next[0] = ad_mul(ad_sigmoid(gate[3]), ad_tanh(next[1]));
}

static void cell(nn_recurrent_kind kind, ad_var u, ad_var v, const ad_var *state, ad_var *next)
{
    if (kind == NN_GRU) gru(u, v, state, next);
    else lstm(u, v, state, next);
}

void nn_recurrent_cell(const nn_recurrent *layer, ad_var theta, ad_var x, const ad_var *state,
                       ad_var *next)
{
    ad_var u = nn_linear_apply(layer ? &layer->input : NULL, theta, x);
    ad_var v = nn_linear_apply(layer ? &layer->hidden : NULL, theta, state[0]);
    cell(nn_recurrent_states(layer) == 2 ? NN_LSTM : NN_GRU, u, v, state, next);
}

typedef struct {
    nn_recurrent_kind kind;
    bool all; /* steps have their state as output */
} sequence;

static void step(const ad_scan_step *at, void *user)
{
    const sequence *s = user;
    ad_var v = ad_add(ad_matmul(at->carry[0], at->arg[0]), at->arg[1]);
    cell(s->kind, at->input[0], v, at->carry, at->next);
    if (s->all) at->output[0] = at->next[0];
}

int nn_recurrent_apply(const nn_recurrent *layer, ad_var theta, ad_var x, const ad_var *first,
                       const nn_sequence *options, ad_var *last, ad_var *all)
{
    const nn_sequence none = { 0 }, *o = options ? options : &none;
    ad_shape shape = ad_shape_of(x);
    if (ad_valid(x) && (shape.rank != 3 || !ad_has_rows(shape))) {
        char text[128];
        ad_format_shape(shape, text, sizeof text);
        ad_fail(x.tape, "nn_recurrent_apply: x is %s, but a sequence is [rows,T,in]", text);
    }
    ad_var u = nn_linear_apply(layer ? &layer->input : NULL, theta, x), state[2], end[2];
    if (all) *all = u;
    if (!ad_valid(u)) return -1;
    int n = nn_recurrent_states(layer);
    for (int i = 0; i < n; i++)
        state[i] = first ? first[i] : ad_fill(x.tape, AD_SHAPE(AD_ROWS, layer->width), 0);
    ad_var arg[2] = { ad_reshape(ad_slice(theta, 0, layer->hidden.weight,
                                          layer->hidden.weight + layer->width * layer->hidden.out),
                                 AD_SHAPE(layer->width, layer->hidden.out)),
                      ad_slice(theta, 0, layer->hidden.bias,
                               layer->hidden.bias + layer->hidden.out) };
    sequence s = { layer->kind, all != NULL };
    ad_recurrence r = { .step = step,
                        .user = &s,
                        .steps = shape.dim[1],
                        .ncarry = n,
                        .carry = state,
                        .ninput = 1,
                        .input = &u,
                        .narg = 2,
                        .arg = arg,
                        .noutput = s.all,
                        .reverse = o->reverse,
                        .lengths = o->lengths,
                        .row_bytes = o->row_bytes };
    int status = ad_scan(&r, end, all);
    for (int i = 0; i < n && last; i++) last[i] = end[i];
    return status;
}
