/* Part of nn.h: activations that are no operations of their own. Those are ad_relu, ad_silu,
 * ad_gelu (by the normal distribution), ad_softplus, ad_tanh and ad_sigmoid. Names, formulas and
 * defaults are PyTorch's. */
#ifndef COSTATE_ACTIVATIONS_H
#define COSTATE_ACTIVATIONS_H
#include "model.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Element by element, x of any shape; each may be an nn_activation. */
ad_var nn_elu(ad_var x);         /* x, below 0 e^x - 1 (Clevert et al. 2016, arXiv:1511.07289) */
ad_var nn_selu(ad_var x);        /* (Klambauer et al. 2017, arXiv:1706.02515) */
ad_var nn_gelu_tanh(ad_var x);   /* GELU's approximation by tanh (arXiv:1606.08415) */
ad_var nn_mish(ad_var x);        /* x tanh(softplus(x)) (Misra 2020, arXiv:1908.08681) */
ad_var nn_leaky_relu(ad_var x);  /* x, below 0 x / 100 */
ad_var nn_relu6(ad_var x);       /* x within 0 .. 6 */
ad_var nn_hardtanh(ad_var x);    /* x within -1 .. 1 */
ad_var nn_hardsigmoid(ad_var x); /* (x + 3) / 6 within 0 .. 1 */
ad_var nn_hardswish(ad_var x);   /* x hardsigmoid(x) (Howard et al. 2019, arXiv:1905.02244) */
ad_var nn_softsign(ad_var x);    /* x / (1 + |x|) */
ad_var nn_logsigmoid(ad_var x);  /* log sigmoid(x) */

/* With another number than the default: below 0 alpha (e^x - 1), and slope x. */
ad_var nn_elu_of(ad_var x, double alpha);
ad_var nn_leaky_relu_of(ad_var x, double slope);

/* Along the last axis. softmax: e^x / sum of e^x; log_softmax its logarithm. glu: a sigmoid(b) with
 * the halves a, b of the axis, which must be even (Dauphin et al. 2017, arXiv:1612.08083). */
ad_var nn_softmax(ad_var x);
ad_var nn_log_softmax(ad_var x);
ad_var nn_glu(ad_var x);

/* x, below 0 weight x (He et al. 2015, arXiv:1502.01852). Learned: "<name>.weight" [channels], from
 * 0.25, of the channels of x [...,channels]; with 1 channel it is shared by all elements. On
 * failure the model has the error, and applying the layer is an error on the tape. */
typedef struct {
    const nn_model *model; /* borrowed: whose theta the layer takes */
    int64_t channels, weight;
} nn_prelu;
nn_prelu nn_prelu_new(nn_model *model, const char *name, int64_t channels);
ad_var nn_prelu_apply(const nn_prelu *layer, ad_var theta, ad_var x);

#ifdef __cplusplus
}
#endif
#endif
