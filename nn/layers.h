/* Part of nn.h: layers. */
#ifndef COSTATE_LAYERS_H
#define COSTATE_LAYERS_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef ad_var (*nn_activation)(ad_var x); /* ad_tanh, ad_softplus, ad_silu, ... ; NULL: identity */

typedef struct {
    const nn_model *model; /* borrowed: whose theta the layer takes, and no longer or shorter one */
    int64_t in, out, weight, bias;
} nn_linear; /* y = x W + b; W [in,out], b [out] at these offsets of theta; bias -1: none */
/* Parameters "<name>.weight" and "<name>.bias". init NULL: uniform_fan_in for both; otherwise init
 * for the weight, and the bias starts at 0. On failure the model has the error and the layer's
 * offsets are -1: applying it is an error on the tape. The same for all layers. */
nn_linear nn_linear_new(nn_model *model, const char *name, int64_t in, int64_t out, nn_init init);
nn_linear nn_linear_new_unbiased(nn_model *model, const char *name, int64_t in, int64_t out,
                                 nn_init init);
ad_var nn_linear_apply(const nn_linear *layer, ad_var theta,
                       ad_var x); /* x [rows,in] -> [rows,out] (any leading axes) */

enum { NN_MAX_LAYERS = 16 };
/* sizes: nsize widths from input to output. Layers "<name>.0", "<name>.1", ...; the activation
 * between layers, none after the last. */
typedef struct {
    int nlayer;
    nn_linear layer[NN_MAX_LAYERS];
    nn_activation activation;
} nn_mlp;
/* 2 to NN_MAX_LAYERS + 1 sizes; init as for nn_linear_new. */
nn_mlp nn_mlp_new(nn_model *model, const char *name, int nsize, const int64_t *sizes,
                  nn_activation activation, nn_init init);
ad_var nn_mlp_apply(const nn_mlp *mlp, ad_var theta,
                    ad_var x); /* [rows,sizes[0]] -> [rows,sizes[nsize-1]] */
/* A residual block (He et al. 2016, arXiv:1512.03385) is ad_add(x, nn_mlp_apply(&net, theta, x)),
 * or any other function of the shape of x in the place of the network. */

/* Time-dependent layers for fields; t as an ODE field gets it (sizes 1, or [rows,1]). concat: the
 * time is an extra input, the last one, of a linear layer (W [in+1,out]). concat-squash (Grathwohl
 * et al. 2019, arXiv:1810.01367): (x W + b) * sigmoid(t g + c) + t h, with parameters
 * "<name>.gate.weight" [1,out], "<name>.gate.bias" and "<name>.shift.weight" [1,out]. hyper-network
 * (the same paper's HyperLinear): weights that are linear in the time, x (W + t V) + (b + t c),
 * with parameters "<name>.shift.weight" V [in,out] and "<name>.shift.bias" c. What depends on a t
 * of sizes 1 is computed once a call. */
typedef enum { NN_CONCAT, NN_CONCAT_SQUASH, NN_HYPER } nn_time_kind;
typedef struct {
    nn_time_kind kind;
    nn_linear linear, gate, shift;
} nn_time_linear;
nn_time_linear nn_time_linear_new(nn_model *model, const char *name, nn_time_kind kind, int64_t in,
                                  int64_t out, nn_init init);
ad_var nn_time_linear_apply(const nn_time_linear *layer, ad_var theta, ad_var t, ad_var x);
typedef struct {
    int nlayer;
    nn_time_linear layer[NN_MAX_LAYERS];
    nn_activation activation;
} nn_time_mlp;
nn_time_mlp nn_time_mlp_new(nn_model *model, const char *name, nn_time_kind kind, int nsize,
                            const int64_t *sizes, nn_activation activation, nn_init init);
ad_var nn_time_mlp_apply(const nn_time_mlp *mlp, ad_var theta, ad_var t, ad_var x);

/* Recurrent layers with PyTorch's formulas and order of gates, in one layer and direction.
 * GRU (Cho et al. 2014, arXiv:1406.1078; reset, update, new):
 *     r = sigmoid(a_r + b_r), z = sigmoid(a_z + b_z), n = tanh(a_n + r b_n), h' = (1 - z) n + z h
 * LSTM (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; input, forget, cell,
 * output): c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c') with a = x W + b of the
 * input and b = h V + c of the hidden state. Parameters "<name>.input.weight" [in,gates*width],
 * "<name>.input.bias", "<name>.hidden.weight" [width,gates*width] and
 * "<name>.hidden.bias", uniform within 1/sqrt(width). States: h, and for an LSTM c, [rows,width].
 */
typedef enum { NN_GRU, NN_LSTM } nn_recurrent_kind;
typedef struct {
    nn_recurrent_kind kind;
    int64_t width;
    nn_linear input, hidden;
} nn_recurrent;
nn_recurrent nn_gru_new(nn_model *model, const char *name, int64_t in, int64_t width);
nn_recurrent nn_lstm_new(nn_model *model, const char *name, int64_t in, int64_t width);
int nn_recurrent_states(const nn_recurrent *layer); /* 1 or 2 */
/* One step: x [rows,in], state and next: nn_recurrent_states of [rows,width]. */
void nn_recurrent_cell(const nn_recurrent *layer, ad_var theta, ad_var x, const ad_var *state,
                       ad_var *next);
/* How a sequence is gone through, as in ad_recurrence. */
typedef struct {
    bool reverse;
    ad_var lengths; /* [rows,1], or {0} */
    /* [rows,T,1], or {0}: a step where it is 0 leaves the states as they are, whatever x is */
    ad_var mask;
    size_t row_bytes;
} nn_sequence;
/* x [rows,T,in]; first: states before the first step, NULL for zeros; options: may be NULL. last:
 * states after the last step; all: h after every step, [rows,T,width]; both may be NULL. 0, or -1
 * with the tape's error set. */
int nn_recurrent_apply(const nn_recurrent *layer, ad_var theta, ad_var x, const ad_var *first,
                       const nn_sequence *options, ad_var *last, ad_var *all);

/* GRU-D (Che et al. 2018, doi:10.1038/s41598-018-24271-9): a GRU for series with missing values.
 * With m 1 where an element of x is observed, else 0, and d the time since it was last observed (or
 * since the first step):
 *     x' = x where m is 1, else g x_last + (1 - g) mean   with g = exp(-max(0, d u + v)),
 *     h' = exp(-max(0, d U + V)) h,   a = x' W + m M + b,
 *     r = sigmoid(a_r + h' S_r), z = sigmoid(a_z + h' S_z), n = tanh(a_n + (r h') S_n),
 *     next h = (1 - z) h' + z n,
 * where x_last is the last observed value, before the first one the mean. Parameters, uniform
 * within 1/sqrt(width): "<name>.input.weight" [2 in,3 width] (W above M; reset, update, new),
 * "<name>.input.bias" b, "<name>.hidden.weight" S [width,3 width], "<name>.decay.weight" U
 * [in,width], "<name>.decay.bias" V, "<name>.value_decay.weight" u and "<name>.value_decay.bias" v
 * [in]. Not trained: "<name>.mean" [in], from 0, the elements' means over the training data. */
typedef struct {
    int64_t width;
    nn_linear input, hidden, decay;
    int64_t value_weight, value_bias, mean; /* offsets */
} nn_gru_d;
nn_gru_d nn_gru_d_new(nn_model *model, const char *name, int64_t in, int64_t width);
/* x and observed [rows,T,in] (x where observed is 0 does not matter, even where it is NaN), times
 * [rows,T,1], which increase; the rest as for nn_recurrent_apply, with one state. In reverse d is
 * the time to the observation that comes next. */
int nn_gru_d_apply(const nn_gru_d *layer, ad_var theta, ad_var x, ad_var observed, ad_var times,
                   const ad_var *first, const nn_sequence *options, ad_var *last, ad_var *all);

#ifdef __cplusplus
}
#endif
#endif
