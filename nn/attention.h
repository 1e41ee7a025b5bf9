/* Part of nn.h: embeddings of labels and of times, attention. Layers are plain values, as in
 * layers.h; a model that is built may be read by many threads. */
#ifndef COSTATE_ATTENTION_H
#define COSTATE_ATTENTION_H
#include "layers.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- embeddings of labels -------------------------------------------------------------------- */

/* Rows of a learned table. Parameter "<name>.weight" [labels,width], init NULL: nn_init_normal, as
 * PyTorch's Embedding. On failure the model has the error, and applying the layer is an error on
 * the tape; the same for all layers here. */
typedef struct {
    const nn_model *model; /* borrowed: whose theta the layer takes */
    int64_t labels, width, weight;
} nn_embedding;
nn_embedding nn_embedding_new(nn_model *model, const char *name, int64_t labels, int64_t width,
                              nn_init init);
/* label [rows] of whole numbers 0 .. labels - 1, or of more axes: [rows,T] -> [rows,T,width]. The
 * gradients of a label that occurs more than once add up. A label that is none of these numbers is
 * an error of the run, which names its row. */
ad_var nn_embedding_apply(const nn_embedding *layer, ad_var theta, ad_var label);

/* ---- features of times ----------------------------------------------------------------------- */

/* 0, 1, ..., T-1 as [T,1]: the places of a sequence. */
ad_var nn_positions(ad_tape *tape, int64_t T);
/* Sines and cosines in turn (Vaswani et al. 2017, arXiv:1706.03762, section 3.5): t [...,1] ->
 * [...,width], of which elements 2i and 2i+1 are sin and cos of t / period^(2i/width). width even;
 * period 0: 10000. Nothing is learned. */
ad_var nn_sinusoidal(ad_var t, int64_t width, double period);
/* Random Fourier features (Tancik et al. 2020, arXiv:2006.10739): x [...,in] -> [...,2 count],
 * cos(2 pi x B), then sin(2 pi x B). B is sd times the array "<name>.frequencies" [in,count] of
 * standard normal numbers, which is not trained; sd (positive) is a bandwidth, in cycles per unit
 * of x. */
typedef struct {
    const nn_model *model; /* borrowed */
    int64_t in, count, frequencies;
    double sd;
} nn_fourier;
nn_fourier nn_fourier_new(nn_model *model, const char *name, int64_t in, int64_t count, double sd);
ad_var nn_fourier_apply(const nn_fourier *layer, ad_var theta, ad_var x);

/* ---- attention ------------------------------------------------------------------------------- */

typedef struct {
    int64_t key_width, value_width; /* of keys and values; 0: the layer's width */
    bool unbiased;
    nn_init init; /* NULL: nn_init_xavier_uniform, and biases start at 0 */
} nn_attention_options;
/* Multi-head attention (Vaswani et al. 2017, section 3.2): queries, keys and values go through
 * linear layers to `width` elements, of which each head has its share; the result of a head is the
 * mean of the values, weighted by softmax(q . k / sqrt(width / heads)); the heads' results go
 * through one more linear layer. Learned: "<name>.query", ".key", ".value" and ".out", each with
 * ".weight" [in,out] and ".bias". PyTorch's MultiheadAttention (its in_proj_weight has the first
 * three one below the other, transposed). */
typedef struct {
    int64_t width, heads;
    nn_linear query, key, value, out;
} nn_attention;
nn_attention nn_attention_new(nn_model *model, const char *name, int64_t width, int64_t heads,
                              const nn_attention_options *options);
/* Which keys a query sees: those before lengths ([rows,1] of whole numbers 1..Tk, or {0}; others
 * are an error of the run, which names the row), and, causal, those not behind its own place. What
 * is not seen has to be finite. */
typedef struct {
    bool causal;
    ad_var lengths;
} nn_attention_mask;
/* query [rows,Tq,width], key [rows,Tk,key_width], value [rows,Tk,value_width] -> [rows,Tq,width];
 * queries, or keys and values, may be the same for all rows, without the row axis. The same x three
 * times is self-attention. mask NULL: every query sees all keys. */
ad_var nn_attention_apply(const nn_attention *layer, ad_var theta, ad_var query, ad_var key,
                          ad_var value, const nn_attention_mask *mask);

#ifdef __cplusplus
}
#endif
#endif
