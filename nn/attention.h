/* Part of nn.h: embeddings of labels and of times, attention, residual blocks. Layers are plain
 * values, as in layers.h; a model that is built may be read by many threads. */
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

#ifdef __cplusplus
}
#endif
#endif
