/* costate: neural networks from autodiff operations: parameters in one flat vector, layers as functions, losses, optimisers, data,
 * training.
 *
 * All parameters of a model are one flat array, theta, of the tape's dtype. A layer is a name, a slice of theta (offset, sizes, aligned to
 * 64 bytes) and a function from variables to variables. Optimisers, checkpoints and clipping act on the one array. Layers are plain values:
 * copy them freely; they own nothing.
 *
 * Errors of variables stick to their tape (ad_tape_error), as for all operations. Threads: a model that is built may be read by many. */
#ifndef COSTATE_NN_H
#define COSTATE_NN_H
#include "../autodiff/autodiff.h"
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- theta: the layout of parameters ------------------------------------------------------------------------------------------------ */

typedef struct nn_model nn_model;    /* names, shapes and offsets of all parameters of a model, and how each is initialised */
nn_model *nn_model_new(void);        /* NULL when memory is short */
void nn_model_free(nn_model *model); /* NULL is allowed */
/* First error of building the model (a name twice, a size < 1, memory), or NULL. Sticky; the text is the model's. */
const char *nn_model_error(const nn_model *model);
int64_t nn_model_size(const nn_model *model);       /* elements of theta, padding (always zero) included */
int64_t nn_model_parameters(const nn_model *model); /* without padding */

/* Random numbers: Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405). Draw n of a generator is the first half of the block
 * cipher's output for (key, n), so that a state is two words, a draw can be found again, and every machine gets the same bits: only integer
 * operations, + - * / and square roots are used, never libm. Plain values: a copy draws the same numbers again. Not for cryptography. */
typedef struct {
    uint64_t key, counter;
} nn_rng;
nn_rng nn_rng_seed(uint64_t seed);
nn_rng nn_rng_split(nn_rng *rng);               /* an independent generator; uses up one draw of rng */
uint64_t nn_rng_next(nn_rng *rng);              /* 64 random bits */
uint64_t nn_rng_below(nn_rng *rng, uint64_t n); /* uniform in 0..n-1, without bias; 0 when n is 0 */
double nn_uniform(nn_rng *rng);                 /* in (0,1), ends excluded */
double nn_normal(nn_rng *rng);                  /* mean 0, variance 1 */

/* Fills out[0..n) with initial values. The names are those of the literature: Glorot & Bengio 2010 (xavier), He et al. 2015
 * (arXiv:1502.01852; he), LeCun et al. 1998 (lecun). uniform_fan_in: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for linear
 * layers. */
typedef void (*nn_init)(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_zeros(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_ones(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_xavier_uniform(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_xavier_normal(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_he_uniform(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_he_normal(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_lecun_normal(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_uniform_fan_in(nn_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);

/* Adds a parameter array (every size >= 1; the name unique, not empty, not "__metadata__"); returns its offset in theta, a multiple of 16
 * elements, or -1 with the model's error set. fan_in and fan_out (>= 1) are for the initialiser. */
int64_t nn_model_add(nn_model *model, const char *name, ad_shape shape, nn_init init, int64_t fan_in, int64_t fan_out);
/* Fills theta (nn_model_size elements of dtype) by each array's initialiser, each from its own split of rng; padding becomes zero.
 * 0, or -1 when the model has an error, theta is NULL or memory is short. */
int nn_model_init(const nn_model *model, nn_rng *rng, ad_dtype dtype, void *theta);
/* Offset of a parameter array in theta, or -1; its shape in *shape where that is not NULL. */
int64_t nn_model_find(const nn_model *model, const char *name, ad_shape *shape);
/* One parameter array as a variable: a slice of theta (an [nn_model_size] array) in its shape. */
ad_var nn_model_get(const nn_model *model, ad_var theta, const char *name);

/* ---- layers ------------------------------------------------------------------------------------------------------------------------- */

typedef ad_var (*nn_activation)(ad_var x); /* ad_tanh, ad_softplus, ad_silu, ... ; NULL: identity */

typedef struct {
    int64_t in, out, weight, bias;
} nn_linear; /* y = x W + b; W [in,out], b [out] at these offsets of theta; bias -1: none */
/* Parameters "<name>.weight" and "<name>.bias". init NULL: uniform_fan_in for both; otherwise init for the weight, and the bias starts at
 * 0. On failure the model has the error and the layer's offsets are -1: applying it is an error on the tape. The same for all layers. */
nn_linear nn_linear_new(nn_model *model, const char *name, int64_t in, int64_t out, nn_init init);
nn_linear nn_linear_new_unbiased(nn_model *model, const char *name, int64_t in, int64_t out, nn_init init);
ad_var nn_linear_apply(const nn_linear *layer, ad_var theta, ad_var x); /* x [rows,in] -> [rows,out] (any leading axes) */

enum { NN_MAX_LAYERS = 16 };
/* sizes: nsize widths from input to output. Layers "<name>.0", "<name>.1", ...; the activation between layers, none after the last. */
typedef struct {
    int nlayer;
    nn_linear layer[NN_MAX_LAYERS];
    nn_activation activation;
} nn_mlp;
nn_mlp nn_mlp_new(nn_model *model, const char *name, int nsize, const int64_t *sizes, nn_activation activation, nn_init init);
ad_var nn_mlp_apply(const nn_mlp *mlp, ad_var theta, ad_var x);

/* Time-dependent layers for fields; t as an ODE field gets it (sizes 1, or [rows,1]). concat: the time is an extra input, the last one, of
 * a linear layer (W [in+1,out]). concat-squash (Grathwohl et al. 2019, arXiv:1810.01367): (x W + b) * sigmoid(t g + c) + t h, with
 * parameters
 * "<name>.gate.weight" [1,out], "<name>.gate.bias" and "<name>.shift.weight" [1,out]. What depends on a t of sizes 1 is computed once a
 * call. */
typedef enum { NN_CONCAT, NN_CONCAT_SQUASH } nn_time_kind;
typedef struct {
    nn_time_kind kind;
    nn_linear linear, gate, shift;
} nn_time_linear;
nn_time_linear nn_time_linear_new(nn_model *model, const char *name, nn_time_kind kind, int64_t in, int64_t out, nn_init init);
ad_var nn_time_linear_apply(const nn_time_linear *layer, ad_var theta, ad_var t, ad_var x);
typedef struct {
    int nlayer;
    nn_time_linear layer[NN_MAX_LAYERS];
    nn_activation activation;
} nn_time_mlp;
nn_time_mlp nn_time_mlp_new(nn_model *model, const char *name, nn_time_kind kind, int nsize, const int64_t *sizes, nn_activation activation,
                            nn_init init);
ad_var nn_time_mlp_apply(const nn_time_mlp *mlp, ad_var theta, ad_var t, ad_var x);

/* ---- losses: means over all elements (or rows), scalars ----------------------------------------------------------------------------- */

/* Prediction and target have the same shape: [rows,1] against [rows,D] is an error, not a broadcast. */
ad_var nn_mse(ad_var prediction, ad_var target);
ad_var nn_mae(ad_var prediction, ad_var target);
/* logits [rows,C], C >= 2; classes [rows,1] holding whole numbers 0..C-1, or probabilities [rows,C]. Mean over rows of -log softmax.
 * A class that is none of 0..C-1 makes the loss NaN, and the gradient by its row's logits. Without rows, [...,C] likewise. */
ad_var nn_cross_entropy(ad_var logits, ad_var classes);
/* Mean of (x - mean)^2 / (2 sd^2) + log sd + log(2 pi)/2, given log sd (mean and log_sd broadcast to x). */
ad_var nn_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd);

/* ---- optimisers --------------------------------------------------------------------------------------------------------------------- */

typedef struct nn_optimizer nn_optimizer; /* an algorithm, constant */
/* In PyTorch's forms. sgd: momentum, Nesterov. adam: Kingma & Ba 2015 (arXiv:1412.6980), with bias correction. adamw: decoupled weight
 * decay (Loshchilov & Hutter 2019, arXiv:1711.05101). rmsprop: Tieleman & Hinton 2012, not centred, epsilon outside the root. */
extern const nn_optimizer nn_sgd, nn_adam, nn_adamw, nn_rmsprop;
const char *nn_optimizer_name(const nn_optimizer *optimizer);

/* Zero means the default; to switch something off that has another default, give a tiny number. */
typedef struct {
    const nn_optimizer *algorithm; /* default nn_adam */
    double rate;                   /* learning rate; default 1e-3 */
    double momentum;               /* sgd, rmsprop; default 0 */
    bool nesterov;                 /* sgd with momentum */
    double beta1, beta2, epsilon;  /* adam, adamw: 0.9, 0.999, 1e-8; rmsprop: beta2 = alpha 0.99, epsilon 1e-8 */
    double weight_decay; /* adamw: theta *= 1 - rate decay, default 0.01; others: decay theta is added to the gradient, default 0 */
    double clip_norm;    /* > 0: gradients are scaled down to this global 2-norm */
    /* Factor on the rate at step k of n (0 <= k < n), e.g. nn_schedule_cosine; NULL: constant. After n steps, that of the last. */
    double (*schedule)(int64_t step, int64_t steps);
} nn_optimizer_options;
double nn_schedule_cosine(int64_t step, int64_t steps);      /* 1 down to 0 along half a cosine */
double nn_schedule_exponential(int64_t step, int64_t steps); /* 1 down to 0.01 */

/* The state of an optimiser over one theta. Arithmetic is in double, whatever the dtype. One thread at a time. */
typedef struct nn_optimizer_state nn_optimizer_state;
/* options may be NULL. steps: how many are planned, for the schedule. NULL when memory is short; options that make no sense are the
 * state's error, and every step then fails. */
nn_optimizer_state *nn_optimizer_new(const nn_optimizer_options *options, ad_dtype dtype, int64_t size, int64_t steps);
void nn_optimizer_free(nn_optimizer_state *state);
/* One update of theta in place; allocates nothing. 0; -1 with nn_optimizer_error set: the gradient is not finite (theta and the state are
 * untouched, and another gradient may be tried), or the update would overflow (theta is untouched; the state is of no more use). */
int nn_optimizer_step(nn_optimizer_state *state, void *theta, const void *gradient);
const char *nn_optimizer_error(const nn_optimizer_state *state); /* of the last step, or of the options; NULL: none */

/* ---- data --------------------------------------------------------------------------------------------------------------------------- */

/* A table of numbers [rows, columns], row-major double, and column names ("" where there is no header; NULL allowed when writing). */
typedef struct {
    int64_t rows, columns;
    double *data;
    char **names;
} nn_table;
/* Reads numbers separated by semicolons, tabs, commas or blanks (the first of these that the first line has, outside quotes). Lines
 * starting with #, blank lines and a byte order mark are skipped. The first line is a header when it has a field that is no number and
 * every number in it is quoted. Every line has as many fields, and every field is a finite number with a decimal point, whatever the
 * locale. Errors name file and line ("pelts.csv:17: column 3 of 3 is not a number: 'n/a'"). 0, or -1 with the message in error (of
 * error_size bytes) and an empty table. */
int nn_read_csv(const char *path, nn_table *table, char *error, size_t error_size);
/* Commas, a header where any column has a name, numbers in as many digits as give the same double again. Written whole or not at all. */
int nn_write_csv(const char *path, const nn_table *table, char *error, size_t error_size);
void nn_table_clear(nn_table *table);                             /* frees what nn_read_csv made; the table is then empty */
int64_t nn_table_column(const nn_table *table, const char *name); /* index, or -1 */

/* theta to and from a safetensors file: every parameter array under its name. Written to a temporary file beside it and renamed: whole or
 * not at all. Loading checks names, shapes and dtype (converts between F32 and F64) and changes theta only when all is right. Numbers that
 * are not finite (in dtype) are neither saved nor loaded. 0, or -1 with the message in error. */
int nn_save(const char *path, const nn_model *model, ad_dtype dtype, const void *theta, char *error, size_t error_size);
int nn_load(const char *path, const nn_model *model, ad_dtype dtype, void *theta, char *error, size_t error_size);

/* ---- training ----------------------------------------------------------------------------------------------------------------------- */

/* Records the loss (a scalar) of a batch: theta [size], batch[i] the i-th data array's rows (each [rows, ...]). */
typedef ad_var (*nn_loss)(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);

typedef struct {
    ad_shape shape;
    const void *data;
} nn_array; /* shape.dim[0] == AD_ROWS; data: examples x row, in dtype, finite, borrowed */

typedef struct {
    nn_optimizer_options optimizer;
    int64_t steps; /* updates to make (required) */
    int64_t batch; /* rows per update; default, and where it is larger: all. Without replacement, reshuffled every epoch; the last batch of
                      an epoch may be smaller */
    uint64_t seed; /* of the shuffling */
    int threads;   /* 0: one for each processor; the result is the same for any number */
    const char *label; /* progress: "training"; NULL: no output */
    /* Called after every update (step counts from 1) with the loss before it and theta; non-zero stops the training. */
    int (*on_step)(int64_t step, double loss, const void *theta, void *user);
    /* Draws the batch itself instead of slicing arrays (whose data are then ignored): fills data[i] with `batch` (required) fresh rows. */
    void (*draw)(int64_t rows, void *const *data, void *user);
} nn_train_options;

typedef struct {
    int64_t steps;
    double first_loss, last_loss, seconds;
} nn_train_report;

/* Compiles loss and gradient once, then makes options->steps updates of theta in place; a step allocates nothing (the first one apart).
 * report may be NULL. `user` goes to loss, on_step and draw. 0, also when on_step stopped it (report->steps says when); -1 with the message
 * in error: then theta is as after the last good update, and a loss that is not finite is named with its step. */
int nn_train(const nn_model *model, ad_dtype dtype, void *theta, nn_loss loss, void *user, int narray, const nn_array *arrays,
             int64_t examples, const nn_train_options *options, nn_train_report *report, char *error, size_t error_size);

/* Progress of long work on stderr: a bar with rate and time left on a terminal, a line for every tenth elsewhere. nn_progress_new may
 * return NULL (memory), which the others allow. format NULL: nothing added. The label is copied. */
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
