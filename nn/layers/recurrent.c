/* Recurrent layers: cells, and sequences of them by ad_scan. What a cell makes of its input alone
 * is computed for all steps at once, outside of the recurrence. */
#include "autodiff/extension.h"
#include "nn/layers/layer.h"

/* ---- making ---------------------------------------------------------------------------------- */

/* Uniform within 1/sqrt(width). */
static nn_linear new_part(nn_model *model, const char *name, const char *part, int64_t in,
                          int64_t out, int64_t width, bool biased)
{
    char text[NN_LAYER_NAME];
    const char *full = nn_layer_name(text, name, part);
    nn_linear layer = { model, in, out, -1, -1 };
    layer.weight =
        nn_layer_add(model, full, "weight", AD_SHAPE(in, out), nn_init_uniform_fan_in, width, out);
    if (!biased) return layer;
    layer.bias =
        nn_layer_add(model, full, "bias", AD_SHAPE(out), nn_init_uniform_fan_in, width, out);
    if (layer.bias < 0) layer.weight = -1;
    return layer;
}

/* A width that has no such multiple is refused as it is. */
static int64_t times(int64_t n, int64_t width)
{
    return width > 0 && width <= INT64_MAX / n ? n * width : width;
}

static nn_recurrent new_recurrent(nn_model *model, nn_recurrent_kind kind, const char *name,
                                  int64_t in, int64_t width)
{
    const int64_t all = times(kind == NN_GRU ? 3 : 4, width); /* gates */
    nn_recurrent layer = { .kind = kind, .width = width };
    layer.input = new_part(model, name, "input", in, all, width, true);
    layer.hidden = new_part(model, name, "hidden", width, all, width, true);
    if (layer.hidden.weight < 0) layer.input.weight = -1;
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

nn_gru_d nn_gru_d_new(nn_model *model, const char *name, int64_t in, int64_t width)
{
    char text[NN_LAYER_NAME];
    nn_gru_d layer = { .width = width };
    layer.input = new_part(model, name, "input", times(2, in), times(3, width), width, true);
    layer.hidden = new_part(model, name, "hidden", width, times(3, width), width, false);
    layer.decay = new_part(model, name, "decay", in, width, width, true);
    const char *value = nn_layer_name(text, name, "value_decay");
    layer.value_weight =
        nn_layer_add(model, value, "weight", AD_SHAPE(in), nn_init_uniform_fan_in, width, in);
    layer.value_bias =
        nn_layer_add(model, value, "bias", AD_SHAPE(in), nn_init_uniform_fan_in, width, in);
    layer.mean = nn_layer_add_fixed(model, name, "mean", AD_SHAPE(in), nn_init_zeros);
    if (layer.mean < 0) layer.input.weight = -1;
    return layer;
}

/* ---- cells ----------------------------------------------------------------------------------- */

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

/* h: the state, decayed; weight [width,3 width]. */
static ad_var gru_d(ad_var u, ad_var h, ad_var weight)
{
    const int64_t width = ad_shape_of(weight).dim[0];
    ad_var a[3], b[2];
    ad_split(u, 1, 3, NULL, a);
    ad_split(ad_matmul(h, ad_slice(weight, 1, 0, 2 * width)), 1, 2, NULL, b);
    ad_var reset = ad_sigmoid(ad_add(a[0], b[0])), change = ad_sigmoid(ad_add(a[1], b[1]));
    ad_var c = ad_matmul(ad_mul(reset, h), ad_slice(weight, 1, 2 * width, 3 * width));
    ad_var fresh = ad_tanh(ad_add(a[2], c));
    return ad_add(h, ad_mul(change, ad_sub(fresh, h)));
}

void nn_recurrent_cell(const nn_recurrent *layer, ad_var theta, ad_var x, const ad_var *state,
                       ad_var *next)
{
    ad_var u = nn_linear_apply(layer ? &layer->input : NULL, theta, x);
    ad_var v = nn_linear_apply(layer ? &layer->hidden : NULL, theta, state[0]);
    cell(nn_recurrent_states(layer) == 2 ? NN_LSTM : NN_GRU, u, v, state, next);
}

/* ---- sequences ------------------------------------------------------------------------------- */

static const nn_sequence plainly;

/* Whether the variable is [rows,steps,width] (of which 0 is any); else its tape has the error. */
static bool check_sequence(const char *what, const char *name, ad_var x, int64_t steps,
                           int64_t width, ad_tape *tape)
{
    if (!nn_layer_valid(what, name, x, tape)) return false;
    ad_shape s = ad_shape_of(x);
    if (s.rank == 3 && ad_has_rows(s) && (!steps || s.dim[1] == steps) &&
        (!width || s.dim[2] == width))
        return true;
    char text[128], want[128] = "[rows,T,in]";
    ad_format_shape(s, text, sizeof text);
    if (steps && width) ad_format_shape(AD_SHAPE(AD_ROWS, steps, width), want, sizeof want);
    ad_fail(x.tape, "%s: %s is %s, but must be %s", what, name, text, want);
    return false;
}

/* A sequence x with its mask, if there is one. */
static bool check_inputs(const char *what, ad_var x, const nn_sequence *o)
{
    return check_sequence(what, "x", x, 0, 0, x.tape) &&
           (!o->mask.tape ||
            check_sequence(what, "the mask", o->mask, ad_shape_of(x).dim[1], 1, x.tape));
}

/* x where it counts, else 0, not what may be NaN there. */
static ad_var counted(ad_var x, ad_var counts)
{
    return ad_select(counts, x, ad_scalar(x.tape, 0));
}

typedef struct {
    nn_recurrent_kind kind;
    bool decays; /* it is a GRU-D */
    bool masked;
    bool all; /* states are outputs */
} stepping;

/* Inputs: what the cell makes of x, the decay, the mask. Arguments: weight and bias of the hidden
 * state. */
static void step(const ad_scan_step *at, void *user)
{
    const stepping *s = user;
    ad_var next[2];
    if (s->decays) {
        next[0] = gru_d(at->input[0], ad_mul(at->input[1], at->carry[0]), at->arg[0]);
    } else {
        ad_var v = ad_add(ad_matmul(at->carry[0], at->arg[0]), at->arg[1]);
        cell(s->kind, at->input[0], v, at->carry, next);
    }
    for (int i = 0; i <= (s->kind == NN_LSTM); i++)
        at->next[i] =
            s->masked ? ad_select(at->input[1 + s->decays], next[i], at->carry[i]) : next[i];
    if (s->all) at->output[0] = at->next[0];
}

/* Inputs are followed by room for the mask. */
static int run(stepping *s, int64_t width, int ninput, ad_var *input, int narg, const ad_var *arg,
               const ad_var *first, const nn_sequence *o, ad_var *last, ad_var *all)
{
    ad_tape *tape = input[0].tape;
    const int n = 1 + (s->kind == NN_LSTM);
    ad_var state[2], end[2] = { ad_none(tape), ad_none(tape) }, outputs = ad_none(tape);
    for (int i = 0; i < n; i++)
        state[i] = first ? first[i] : ad_fill(tape, AD_SHAPE(AD_ROWS, width), 0);
    s->masked = o->mask.tape != NULL;
    s->all = all != NULL;
    if (s->masked) input[ninput++] = o->mask;
    int status = -1;
    if (ad_valid(input[0])) {
        ad_recurrence r = { .step = step,
                            .user = s,
                            .steps = ad_shape_of(input[0]).dim[1],
                            .ncarry = n,
                            .carry = state,
                            .ninput = ninput,
                            .input = input,
                            .narg = narg,
                            .arg = arg,
                            .noutput = s->all,
                            .reverse = o->reverse,
                            .lengths = o->lengths,
                            .row_bytes = o->row_bytes };
        status = ad_scan(&r, end, &outputs);
    }
    if (all) *all = outputs;
    for (int i = 0; i < n && last; i++) last[i] = end[i];
    return status;
}

/* Nothing but invalid results. */
static int fail(ad_var x, int n, ad_var *last, ad_var *all)
{
    const ad_var none = nn_layer_none(x);
    if (all) *all = none;
    for (int i = 0; i < n && last; i++) last[i] = none;
    return -1;
}

int nn_recurrent_apply(const nn_recurrent *layer, ad_var theta, ad_var x, const ad_var *first,
                       const nn_sequence *options, ad_var *last, ad_var *all)
{
    static const char what[] = "nn_recurrent_apply";
    const nn_sequence *o = options ? options : &plainly;
    if (!nn_layer_check(what, layer ? layer->input.model : NULL, layer ? layer->input.weight : -1,
                        theta, x) ||
        !check_inputs(what, x, o) || !nn_layer_width(what, x, layer->input.in))
        return fail(x, layer ? nn_recurrent_states(layer) : 0, last, all);
    if (o->mask.tape) x = counted(x, o->mask);
    const nn_linear *hidden = &layer->hidden;
    ad_var input[2] = { nn_linear_rows(&layer->input, theta, x, layer->input.in) };
    ad_var arg[2] = { nn_layer_array(theta, hidden->weight, AD_SHAPE(hidden->in, hidden->out)),
                      nn_layer_array(theta, hidden->bias, AD_SHAPE(hidden->out)) };
    stepping s = { .kind = layer->kind };
    return run(&s, layer->width, 1, input, 2, arg, first, o, last, all);
}

/* ---- GRU-D ----------------------------------------------------------------------------------- */

/* The last observed values, and how long ago that was, without parameters: a recurrence of its own,
 * so that what depends on parameters is computed for all steps at once. Carries: the time of the
 * step before, whether there was one, the time since the last observation as of then, the value. */
static void look_back(const ad_scan_step *at, void *user)
{
    (void)user;
    ad_var x = at->input[0], observed = at->input[1], time = at->input[2];
    ad_var zero = ad_scalar(at->tape, 0);
    ad_var gap = ad_select(at->carry[1], ad_abs(ad_sub(time, at->carry[0])), zero);
    ad_var since = ad_add(at->carry[2], gap);
    at->output[0] = since;
    at->output[1] = at->carry[3];
    at->next[0] = time;
    at->next[1] = ad_ones_like(at->carry[1]);
    at->next[2] = ad_select(observed, zero, since);
    at->next[3] = ad_select(observed, x, at->carry[3]);
}

/* exp(-max(0, x)) */
static ad_var fading(ad_var x) { return ad_exp(ad_neg(ad_relu(x))); }

int nn_gru_d_apply(const nn_gru_d *layer, ad_var theta, ad_var x, ad_var observed, ad_var times,
                   const ad_var *first, const nn_sequence *options, ad_var *last, ad_var *all)
{
    static const char what[] = "nn_gru_d_apply";
    const nn_sequence *o = options ? options : &plainly;
    if (!nn_layer_check(what, layer ? layer->input.model : NULL, layer ? layer->input.weight : -1,
                        theta, x) ||
        !check_inputs(what, x, o) || !nn_layer_width(what, x, layer->decay.in) ||
        !check_sequence(what, "observed", observed, ad_shape_of(x).dim[1], layer->decay.in,
                        x.tape) ||
        !check_sequence(what, "times", times, ad_shape_of(x).dim[1], 1, x.tape))
        return fail(x, 1, last, all);
    const int64_t in = layer->decay.in, steps = ad_shape_of(x).dim[1];
    ad_tape *t = x.tape;
    observed = ad_ne(observed, ad_scalar(t, 0));
    if (o->mask.tape) observed = ad_mul(observed, ad_ne(o->mask, ad_scalar(t, 0)));
    ad_var mean = nn_layer_fixed(theta, layer->mean, AD_SHAPE(in));
    ad_var none = ad_fill(t, AD_SHAPE(AD_ROWS, 1), 0), wide = ad_fill(t, AD_SHAPE(AD_ROWS, in), 0);
    ad_recurrence r = { .step = look_back,
                        .steps = steps,
                        .ncarry = 4,
                        .carry = (ad_var[]){ none, none, wide, ad_add(wide, mean) },
                        .ninput = 3,
                        .input = (ad_var[]){ x, observed, times },
                        .noutput = 2,
                        .reverse = o->reverse,
                        .lengths = o->lengths };
    ad_var end[4], back[2];
    if (ad_scan(&r, end, back)) return fail(x, 1, last, all);
    ad_var g =
        fading(ad_add(ad_mul(back[0], nn_layer_array(theta, layer->value_weight, AD_SHAPE(in))),
                      nn_layer_array(theta, layer->value_bias, AD_SHAPE(in))));
    ad_var guess = ad_add(mean, ad_mul(g, ad_sub(back[1], mean)));
    ad_var both = ad_concatenate(2, (ad_var[]){ ad_select(observed, x, guess), observed }, -1);
    ad_var input[3] = { nn_linear_rows(&layer->input, theta, both, 2 * in),
                        fading(nn_linear_rows(&layer->decay, theta, back[0], in)) };
    ad_var weight =
        nn_layer_array(theta, layer->hidden.weight, AD_SHAPE(layer->width, 3 * layer->width));
    stepping s = { .kind = NN_GRU, .decays = true };
    return run(&s, layer->width, 2, input, 1, &weight, first, o, last, all);
}
