/* costate: neural networks from autodiff operations: parameters in one flat vector, layers as functions, losses, optimisers, data, training.
 *
 * All parameters of a model are one flat array, theta, of the tape's dtype. A layer is a name, a slice of theta (offset, sizes, aligned to 64
 * bytes) and a function from variables to variables. Optimisers, checkpoints and clipping act on the one array.
 * Layers are plain values: copy them freely; they own nothing. */
#ifndef COSTATE_NN_H
#define COSTATE_NN_H
#include "../autodiff/autodiff.h"
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- theta: the layout of parameters --------------------------------------------------------------------------------------------- */

typedef struct nn_model nn_model; /* names, shapes and offsets of all parameters of a model, and how each is initialised */
nn_model *nn_model_new(void);     /* NULL when memory is short */
void nn_model_free(nn_model *model);
/* First error of building the model (a name twice, a size < 1, memory), or NULL. Sticky. */
const char *nn_model_error(const nn_model *model);
int64_t nn_model_size(const nn_model *model); /* elements of theta, padding (always zero) included */
int64_t nn_model_parameters(const nn_model *model); /* without padding */

/* Random numbers: counter-based and splittable, the same on every machine. */
typedef struct { uint64_t key, counter; } nn_rng;
nn_rng nn_rng_seed(uint64_t seed);
uint64_t nn_rng_next(nn_rng *rng);
double nn_uniform(nn_rng *rng); /* in (0,1) */
double nn_normal(nn_rng *rng);

typedef void (*nn_init)(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
extern const nn_init nn_init_zeros, nn_init_ones, nn_init_xavier_uniform, nn_init_xavier_normal, nn_init_he_uniform, nn_init_he_normal,
    nn_init_lecun_normal, nn_init_uniform_fan_in /* U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for linear layers */;

/* Adds a parameter array; returns its offset in theta, or -1 with the model's error set. fan_in/fan_out for the initialiser. */
int64_t nn_model_add(nn_model *model, const char *name, ad_shape shape, nn_init init, int64_t fan_in, int64_t fan_out);
/* Fills theta (nn_model_size elements of dtype) by each array's initialiser. */
void nn_model_init(const nn_model *model, nn_rng *rng, ad_dtype dtype, void *theta);
/* One parameter array as a variable: a slice of theta in its shape. */
ad_var nn_model_get(const nn_model *model, ad_var theta, const char *name);

/* ---- layers ------------------------------------------------------------------------------------------------------------------------ */

typedef ad_var (*nn_activation)(ad_var x); /* ad_tanh, ad_softplus, ad_silu, ... ; NULL: identity */

typedef struct { int64_t in, out, weight, bias; } nn_linear; /* y = x W + b; W [in,out], b [out] at these offsets of theta; bias -1: none */
nn_linear nn_linear_new(nn_model *model, const char *name, int64_t in, int64_t out, nn_init init); /* init NULL: uniform_fan_in for both; bias starts at 0 otherwise */
nn_linear nn_linear_new_unbiased(nn_model *model, const char *name, int64_t in, int64_t out, nn_init init);
ad_var nn_linear_apply(const nn_linear *layer, ad_var theta, ad_var x); /* x [rows,in] -> [rows,out] (any leading axes) */

enum { NN_MAX_LAYERS = 16 };
typedef struct { int nlayer; nn_linear layer[NN_MAX_LAYERS]; nn_activation activation; } nn_mlp; /* activation between layers, none after the last */
nn_mlp nn_mlp_new(nn_model *model, const char *name, int nsize, const int64_t *sizes, nn_activation activation, nn_init init);
ad_var nn_mlp_apply(const nn_mlp *mlp, ad_var theta, ad_var x);

/* Time-dependent layers for fields; t as an ODE field gets it (sizes 1, or [rows,1]). concat: the time is an extra input. concat-squash
 * (Grathwohl et al. 2019, arXiv:1810.01367): (x W + b) * sigmoid(t g + c) + t h. */
typedef enum { NN_CONCAT, NN_CONCAT_SQUASH } nn_time_kind;
typedef struct { nn_time_kind kind; nn_linear linear, gate, shift; } nn_time_linear;
nn_time_linear nn_time_linear_new(nn_model *model, const char *name, nn_time_kind kind, int64_t in, int64_t out, nn_init init);
ad_var nn_time_linear_apply(const nn_time_linear *layer, ad_var theta, ad_var t, ad_var x);
typedef struct { int nlayer; nn_time_linear layer[NN_MAX_LAYERS]; nn_activation activation; } nn_time_mlp;
nn_time_mlp nn_time_mlp_new(nn_model *model, const char *name, nn_time_kind kind, int nsize, const int64_t *sizes, nn_activation activation, nn_init init);
ad_var nn_time_mlp_apply(const nn_time_mlp *mlp, ad_var theta, ad_var t, ad_var x);

/* ---- losses: means over all elements (or rows), scalars ------------------------------------------------------------------------------ */

ad_var nn_mse(ad_var prediction, ad_var target);
ad_var nn_mae(ad_var prediction, ad_var target);
/* logits [rows,C]; classes [rows,1] holding whole numbers 0..C-1, or probabilities [rows,C]. Mean over rows of -log softmax. */
ad_var nn_cross_entropy(ad_var logits, ad_var classes);
/* Mean of (x - mean)^2 / (2 sd^2) + log sd + log(2 pi)/2, given log sd (broadcasts). */
ad_var nn_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd);

/* ---- optimisers ------------------------------------------------------------------------------------------------------------------------ */

typedef struct nn_optimizer nn_optimizer; /* an algorithm, constant */
extern const nn_optimizer nn_sgd, nn_adam, nn_adamw, nn_rmsprop;
const char *nn_optimizer_name(const nn_optimizer *optimizer);

typedef struct {
    const nn_optimizer *algorithm; /* default nn_adam */
    double rate;                   /* learning rate; default 1e-3 */
    double momentum;               /* sgd; default 0 */
    bool nesterov;                 /* sgd */
    double beta1, beta2, epsilon;  /* adam, adamw: 0.9, 0.999, 1e-8 (Kingma & Ba 2015, arXiv:1412.6980); rmsprop: beta2 = alpha 0.99, epsilon 1e-8 */
    double weight_decay;           /* adamw: decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101); others: added to the gradient */
    double clip_norm;              /* > 0: gradients are scaled down to this global 2-norm */
    /* Factor on the rate at step k of n (0 <= k < n), e.g. nn_schedule_cosine; NULL: constant. */
    double (*schedule)(int64_t step, int64_t steps);
} nn_optimizer_options;
double nn_schedule_cosine(int64_t step, int64_t steps);      /* 1 down to 0 along half a cosine */
double nn_schedule_exponential(int64_t step, int64_t steps); /* 1 down to 0.01 */

/* The state of an optimiser over one theta. */
typedef struct nn_optimizer_state nn_optimizer_state;
nn_optimizer_state *nn_optimizer_new(const nn_optimizer_options *options, ad_dtype dtype, int64_t size, int64_t steps); /* steps: planned, for the schedule; NULL when memory is short */
void nn_optimizer_free(nn_optimizer_state *state);
/* One update of theta in place. 0; -1 when the gradient is not finite (theta and state untouched; nn_optimizer_error says which element). */
int nn_optimizer_step(nn_optimizer_state *state, void *theta, const void *gradient);
const char *nn_optimizer_error(const nn_optimizer_state *state);

/* ---- data ---------------------------------------------------------------------------------------------------------------------------- */

/* A table of numbers [rows, columns], row-major double, and column names ("" where there is no header). */
typedef struct { int64_t rows, columns; double *data; char **names; } nn_table;
/* Reads comma-, semicolon-, tab- or blank-separated numbers; a header line and lines starting with # are recognised; quoted names. Errors name
 * file and line ("pelts.csv:17: column 3 of 3 is not a number: 'n/a'"). 0, or -1 with the message in error (of error_size bytes). */
int nn_read_csv(const char *path, nn_table *table, char *error, size_t error_size);
int nn_write_csv(const char *path, const nn_table *table, char *error, size_t error_size); /* whole or not at all */
void nn_table_clear(nn_table *table);
int64_t nn_table_column(const nn_table *table, const char *name); /* index, or -1 */

/* theta to and from a safetensors file: every parameter array under its name. Written to a temporary file and renamed: whole or not at all.
 * Loading checks names, shapes and dtype (converts between F32 and F64) and changes theta only when all is right. */
int nn_save(const char *path, const nn_model *model, ad_dtype dtype, const void *theta, char *error, size_t error_size);
int nn_load(const char *path, const nn_model *model, ad_dtype dtype, void *theta, char *error, size_t error_size);

/* ---- training -------------------------------------------------------------------------------------------------------------------------- */

/* Records the loss (a scalar) of a batch: theta [size], batch[i] the i-th data array's rows (each [rows, ...]). */
typedef ad_var (*nn_loss)(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);

typedef struct { ad_shape shape; const void *data; } nn_array; /* shape.dim[0] == AD_ROWS; data: examples x row, borrowed */

typedef struct {
    nn_optimizer_options optimizer;
    int64_t steps;               /* updates to make (required) */
    int64_t batch;               /* rows per update; default: all. Without replacement, reshuffled every epoch; the last batch of an epoch may be smaller */
    uint64_t seed;               /* of the shuffling */
    int threads;                 /* 0: as OpenMP has it */
    const char *label;           /* progress: "training"; NULL: no output */
    /* Called after every update (step counts from 1) with the loss before it and theta; non-zero stops the training. */
    int (*on_step)(int64_t step, double loss, const void *theta, void *user);
    /* Draws the batch itself instead of slicing arrays: fills data[i] with `batch` fresh rows. */
    void (*draw)(int64_t rows, void *const *data, void *user);
} nn_train_options;

typedef struct { int64_t steps; double first_loss, last_loss, seconds; } nn_train_report;

/* Compiles loss and gradient once, then makes options->steps updates of theta in place. 0, or -1 with the message in error (then theta is as after the last good update). */
int nn_train(nn_model *model, ad_dtype dtype, void *theta, nn_loss loss, void *user, int narray, const nn_array *arrays, int64_t examples,
             const nn_train_options *options, nn_train_report *report, char *error, size_t error_size);

/* Progress of long work: a bar on a terminal, plain lines elsewhere (stderr). */
typedef struct nn_progress nn_progress;
nn_progress *nn_progress_new(const char *label, int64_t total);
void nn_progress_update(nn_progress *progress, int64_t done, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;
void nn_progress_free(nn_progress *progress);

#ifdef __cplusplus
}
#endif
#endif
