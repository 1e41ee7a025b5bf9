/* Part of nn.h: models, which are names and shapes of parameters, and theta, their numbers. */
#ifndef COSTATE_MODEL_H
#define COSTATE_MODEL_H
#include "../autodiff/autodiff.h"
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- models: names and shapes of parameters -------------------------------------------------- */

/* names, shapes and offsets of all parameters of a model, and how each is initialised */
typedef struct nn_model nn_model;
nn_model *nn_model_new(void); /* NULL when memory is short */
/* NULL is allowed. Thetas of the model keep it until they are freed themselves. */
void nn_model_free(nn_model *model);
/* First error of building the model (a name twice, a size < 1, memory), or NULL. Sticky; the text
 * is the model's. */
const char *nn_model_error(const nn_model *model);
int64_t nn_model_size(
    const nn_model *model); /* elements of theta, padding (always zero) included */
int64_t nn_model_parameters(const nn_model *model); /* that are trained; without padding */

/* Fills out[0..n) with initial values: PyTorch's and Flax's, by the names of the literature. */
typedef void (*nn_init)(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
#define NN_INIT(name)                                                                              \
    void nn_init_##name(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
NN_INIT(zeros)
NN_INIT(ones)
NN_INIT(uniform)          /* U(0, 1) */
NN_INIT(normal)           /* N(0, 1) */
NN_INIT(truncated_normal) /* N(0, 1) between -2 and 2 */
/* Laws of mean 0 whose variance keeps that of the signal: 2 / (fan_in + fan_out) for xavier (Glorot
 * & Bengio 2010), 2 / fan_in for he, also called kaiming, and 2 / fan_out for he_out (He et al.
 * 2015, arXiv:1502.01852), 1 / fan_in for lecun (LeCun et al. 1998). truncated: normal, without
 * what is farther out than two standard deviations, of the same variance; what Flax calls normal.
 */
NN_INIT(xavier_uniform)
NN_INIT(xavier_normal)
NN_INIT(xavier_truncated)
NN_INIT(he_uniform)
NN_INIT(he_normal)
NN_INIT(he_truncated)
NN_INIT(he_out_uniform)
NN_INIT(he_out_normal)
NN_INIT(he_out_truncated)
NN_INIT(lecun_uniform)
NN_INIT(lecun_normal)
NN_INIT(lecun_truncated)
/* U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for linear layers. */
NN_INIT(uniform_fan_in)
/* A matrix of fan_in rows (of one row where that does not divide n) with orthonormal rows or
 * columns, whichever are fewer, all such matrices alike (Saxe et al. 2014, arXiv:1312.6120); and
 * with ones on its diagonal. */
NN_INIT(orthogonal)
NN_INIT(identity)
#undef NN_INIT

/* Adds a parameter array (every size >= 1; the name unique, not empty, not "__metadata__"); returns
 * its offset in theta, a multiple of 16 elements, or -1 with the model's error set. fan_in and
 * fan_out (>= 1) are for the initialiser. */
int64_t nn_model_add(nn_model *model, const char *name, ad_shape shape, nn_init init,
                     int64_t fan_in, int64_t fan_out);
/* An array of numbers that are not trained: random features, statistics of data. It is a part of
 * theta and is saved and loaded with it, but its gradient is zero, weight decay leaves it alone,
 * and nn_model_parameters does not count it. nn_theta_set changes it. */
int64_t nn_model_add_fixed(nn_model *model, const char *name, ad_shape shape, nn_init init,
                           int64_t fan_in, int64_t fan_out);
bool nn_model_is_fixed(const nn_model *model, const char *name); /* false: no such array, too */
/* Offset of a parameter array in theta, or -1; its shape in *shape where that is not NULL. */
int64_t nn_model_find(const nn_model *model, const char *name, ad_shape *shape);
/* One parameter array as a variable: a slice of theta (an [nn_model_size] array) in its shape. */
ad_var nn_model_get(const nn_model *model, ad_var theta, const char *name);

/* Called by a loss of nn_train: what a fixed array becomes by a training step, in the array's
 * shape. It is computed with the gradient and is part of theta after the update; of a batch in
 * pieces, or of several processes, it is the mean, weighted by rows. It has no derivative. The last
 * call for an array counts; on a tape that nn_train does not record a loss of, or for another
 * theta, nothing happens. Not from a field of a solve or a step of a scan, which are recorded
 * apart. Errors are the tape's. */
void nn_model_update(const nn_model *model, ad_var theta, const char *name, ad_var value);

/* ---- theta: the numbers of all parameters ---------------------------------------------------- */

/* One array for all parameters of a model, of one dtype. Also what is laid out like it: a gradient,
 * an average of weights. */
typedef struct nn_theta nn_theta;
/* Filled by each parameter array's initialiser, each from its own split of rng; rng NULL: zeros.
 * Padding is zero. The model must be complete: what is added to it later makes theta unusable, with
 * an error that names both sizes. NULL when memory is short; a model with an error, or none, is
 * theta's error. */
nn_theta *nn_theta_new(const nn_model *model, ad_dtype dtype, ad_rng *rng);
nn_theta *nn_theta_copy(const nn_theta *theta); /* NULL when memory is short */
void nn_theta_free(nn_theta *theta);            /* NULL is allowed */
/* First error of a call with this theta, or NULL. Sticky: whatever takes theta refuses it from then
 * on. */
const char *nn_theta_error(const nn_theta *theta);
const nn_model *nn_theta_model(
    const nn_theta *theta); /* borrowed; NULL for a theta that could not be made */
ad_dtype nn_theta_dtype(const nn_theta *theta);
int64_t nn_theta_size(
    const nn_theta *theta); /* nn_model_size of its model; 0 for a theta with an error */
/* The numbers of one parameter array, row-major, or of all of theta where name is NULL; to be read
 * and written, theta's. NULL with theta's error set where theta has the other dtype or no array of
 * the name. */
float *nn_theta_f32(nn_theta *theta, const char *name);
double *nn_theta_f64(nn_theta *theta, const char *name);
/* All numbers, of theta's dtype, for ad_run. NULL for a theta with an error. */
void *nn_theta_data(nn_theta *theta);
/* Copies the n numbers of one parameter array (name NULL: of all of theta) out or in, whatever the
 * dtype. 0, or -1 with theta's error set: no such array, another n, a number that is not finite in
 * theta's dtype (nothing is changed then). */
int nn_theta_get(nn_theta *theta, const char *name, int64_t n, double *out);
int nn_theta_set(nn_theta *theta, const char *name, int64_t n, const double *values);
/* Draws one parameter array again: shift + scale * (what init gives). So every law has its
 * parameters: a normal one of mean shift and standard deviation scale, a uniform one in shift ..
 * shift + scale, a constant (nn_init_zeros), he or orthogonal with a gain. Takes one split of rng.
 * 0, or -1 with theta's error set. */
int nn_theta_init(nn_theta *theta, const char *name, nn_init init, double scale, double shift,
                  ad_rng *rng);
/* average += share (theta - average): called after every update, an exponential moving average of
 * the weights (Polyak & Juditsky 1992, doi:10.1137/0330046; its decay is 1 - share), which is often
 * better than the last ones. share: in 0 .. 1. 0, or -1 with average's error set (average is as
 * before): theta is of another model or dtype, or has an error; the share is out of range. */
int nn_theta_average(nn_theta *average, const nn_theta *theta, double share);
/* theta as a variable with its present values: an ad_param [nn_theta_size]. */
ad_var nn_theta_param(ad_tape *tape, const nn_theta *theta);

/* theta to and from a safetensors file: every parameter array under its name. Written to a
 * temporary file beside it and renamed: whole or not at all. Loading checks names, shapes and dtype
 * (converts between F32 and F64, and from F16 and BF16) and changes theta only when all is right.
 * Numbers that are not finite (in dtype) are neither saved nor loaded. 0, or -1 with the message in
 * error. */
int nn_save(const char *path, const nn_theta *theta, char *error, size_t error_size);
int nn_load(const char *path, nn_theta *theta, char *error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif
