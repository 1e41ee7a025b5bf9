/* costate: neural networks from autodiff operations: parameters in one flat vector, layers as
 * functions, losses, optimisers, data, training.
 *
 * A model is a list of parameter arrays: names, shapes, initialisers. Their numbers are one flat
 * array, theta, an object of its own that knows its model, its dtype and its size. A layer is a
 * name, a slice of theta (offset, sizes, aligned to 64 bytes) and a function from variables to
 * variables. Optimisers, checkpoints and clipping act on the one array. Layers are plain values:
 * copy them freely; they own nothing and borrow their model.
 *
 *     nn_model *model = nn_model_new();
 *     nn_mlp net = nn_mlp_new(model, "net", 3, (int64_t[]){ 2, 64, 1 }, ad_tanh, NULL);
 *     ad_rng rng = ad_rng_seed(1);
 *     nn_theta *theta = nn_theta_new(model, AD_F32, &rng);
 *     ... nn_train(theta, &options, &report, error, sizeof error) ...
 *     nn_theta_free(theta);
 *     nn_model_free(model);
 *
 * Errors of variables stick to their tape (ad_tape_error), as for all operations; models, thetas
 * and optimisers keep their first error likewise; other calls write a message. NULL where an object
 * is due is such an error, never a crash. Threads: a model that is built may be read by many;
 * everything else belongs to one thread at a time. */
#ifndef COSTATE_NN_H
#define COSTATE_NN_H
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
int64_t nn_model_parameters(const nn_model *model); /* without padding */

/* Fills out[0..n) with initial values. The names are those of the literature: Glorot & Bengio 2010
 * (xavier), He et al. 2015 (arXiv:1502.01852; he), LeCun et al. 1998 (lecun). uniform_fan_in:
 * U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for linear layers. */
typedef void (*nn_init)(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_zeros(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_ones(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_xavier_uniform(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_xavier_normal(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_he_uniform(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_he_normal(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_lecun_normal(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);
void nn_init_uniform_fan_in(ad_rng *rng, int64_t fan_in, int64_t fan_out, int64_t n, double *out);

/* Adds a parameter array (every size >= 1; the name unique, not empty, not "__metadata__"); returns
 * its offset in theta, a multiple of 16 elements, or -1 with the model's error set. fan_in and
 * fan_out (>= 1) are for the initialiser. */
int64_t nn_model_add(nn_model *model, const char *name, ad_shape shape, nn_init init,
                     int64_t fan_in, int64_t fan_out);
/* Offset of a parameter array in theta, or -1; its shape in *shape where that is not NULL. */
int64_t nn_model_find(const nn_model *model, const char *name, ad_shape *shape);
/* One parameter array as a variable: a slice of theta (an [nn_model_size] array) in its shape. */
ad_var nn_model_get(const nn_model *model, ad_var theta, const char *name);

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
/* average += share (theta - average): called after every update, an exponential moving average of
 * the weights (Polyak & Juditsky 1992, doi:10.1137/0330046; its decay is 1 - share), which is often
 * better than the last ones. share: in 0 .. 1. 0, or -1 with average's error set (average is as
 * before): theta is of another model or dtype, or has an error; the share is out of range. */
int nn_theta_average(nn_theta *average, const nn_theta *theta, double share);
/* theta as a variable with its present values: an ad_param [nn_theta_size]. */
ad_var nn_theta_param(ad_tape *tape, const nn_theta *theta);

/* ---- layers ---------------------------------------------------------------------------------- */

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

/* Time-dependent layers for fields; t as an ODE field gets it (sizes 1, or [rows,1]). concat: the
 * time is an extra input, the last one, of a linear layer (W [in+1,out]). concat-squash (Grathwohl
 * et al. 2019, arXiv:1810.01367): (x W + b) * sigmoid(t g + c) + t h, with parameters
 * "<name>.gate.weight" [1,out], "<name>.gate.bias" and "<name>.shift.weight" [1,out]. What depends
 * on a t of sizes 1 is computed once a call. */
typedef enum { NN_CONCAT, NN_CONCAT_SQUASH } nn_time_kind;
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

/* ---- losses: means over all elements (or rows), scalars -------------------------------------- */

/* Prediction and target have the same shape: [rows,1] against [rows,D] is an error, not a
 * broadcast. */
ad_var nn_mse(ad_var prediction, ad_var target);
ad_var nn_mae(ad_var prediction, ad_var target);
/* logits [rows,C], C >= 2; classes [rows,1] holding whole numbers 0..C-1, or probabilities
 * [rows,C]. Mean over rows of -log softmax. A class that is none of 0..C-1 is an error when the
 * loss or its gradient is computed, which names the row, the class and C. Without rows, [...,C]
 * likewise. */
ad_var nn_cross_entropy(ad_var logits, ad_var classes);
/* Mean of (x - mean)^2 / (2 sd^2) + log sd + log(2 pi)/2, given log sd (mean and log_sd broadcast
 * to x). */
ad_var nn_gaussian_nll(ad_var x, ad_var mean, ad_var log_sd);

/* ---- optimisers ------------------------------------------------------------------------------ */

typedef struct nn_optimizer nn_optimizer; /* an algorithm, constant */
/* In PyTorch's forms. sgd: momentum, Nesterov. adam: Kingma & Ba 2015 (arXiv:1412.6980), with bias
 * correction. adamw: decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101). rmsprop:
 * Tieleman & Hinton 2012, not centred, epsilon outside the root. */
extern const nn_optimizer nn_sgd, nn_adam, nn_adamw, nn_rmsprop;
const char *nn_optimizer_name(const nn_optimizer *optimizer); /* "adam" */

/* Which parameter arrays weight decay acts on. nn_decay_matrices, the default: those of rank 2 and
 * more, the weights of layers; biases, scales, learnt initial states and other vectors are left
 * alone, as training recipes in the literature do. nn_decay_all: every array, as PyTorch does
 * without parameter groups. An own function gets each array's name once, in nn_optimizer_new. */
bool nn_decay_matrices(const char *name, ad_shape shape, void *user);
bool nn_decay_all(const char *name, ad_shape shape, void *user);

/* Zero means the default; to switch something off that has another default, give a tiny number. */
typedef struct {
    const nn_optimizer *algorithm; /* default nn_adam */
    double rate;                   /* learning rate; default 1e-3 */
    double momentum;               /* sgd, rmsprop; default 0 */
    bool nesterov;                 /* sgd with momentum */
    double beta1, beta2,
        epsilon; /* adam, adamw: 0.9, 0.999, 1e-8; rmsprop: beta2 = alpha 0.99, epsilon 1e-8 */
    /* adamw: theta *= 1 - rate decay, default 0.01; others: decay theta is added to the gradient,
     * default 0 */
    double weight_decay;
    bool (*decays)(const char *name, ad_shape shape, void *user); /* default nn_decay_matrices */
    double clip_norm; /* > 0: gradients are scaled down to this global 2-norm */
    /* Factor on the rate at step k of n (0 <= k < n), e.g. nn_schedule_cosine; NULL: constant.
     * After n steps, that of the last. A factor that is negative or not finite is an error of the
     * step. */
    double (*schedule)(int64_t step, int64_t steps, void *user);
    void *user; /* goes to schedule and decays */
} nn_optimizer_options;
double nn_schedule_cosine(int64_t step, int64_t steps,
                          void *user); /* 1 down to 0 along half a cosine */
double nn_schedule_exponential(int64_t step, int64_t steps, void *user); /* 1 down to 0.01 */

/* The state of an optimiser over one theta: moments, number of updates. Arithmetic is in double,
 * whatever the dtype. One thread at a time. */
typedef struct nn_optimizer_state nn_optimizer_state;
/* options may be NULL. theta (or another of the same model and dtype) is what will be updated; it
 * is not kept. steps: how many updates are planned, for the schedule. NULL when memory is short;
 * options that make no sense, or a theta with an error, are the state's error, and every step then
 * fails. */
nn_optimizer_state *nn_optimizer_new(const nn_optimizer_options *options, const nn_theta *theta,
                                     int64_t steps);
void nn_optimizer_free(nn_optimizer_state *state);
/* One update of theta in place; allocates nothing. gradient is laid out as theta (nn_theta_new with
 * rng NULL makes one). 0; -1 with nn_optimizer_error set: theta or gradient are not of the state's
 * model and dtype, or the gradient is not finite (theta and the state are untouched, and another
 * gradient may be tried), or the update would overflow (theta is untouched; the state is of no more
 * use). */
int nn_optimizer_step(nn_optimizer_state *state, nn_theta *theta, const nn_theta *gradient);
int64_t nn_optimizer_steps(const nn_optimizer_state *state); /* updates made so far */
const char *nn_optimizer_error(
    const nn_optimizer_state *state); /* of the last step, or of the options; NULL: none */

/* ---- data ------------------------------------------------------------------------------------ */

/* The texts of a column of classes, in order: class k of the column is name[k]. */
typedef struct {
    int64_t count;
    char **name;
} nn_classes;

/* A table of numbers [rows, columns], row-major double, and column names ("" where there is no
 * header; NULL allowed when writing). */
typedef struct {
    int64_t rows, columns;
    double *data;
    char **names;
    /* [columns], count 0 for a column of numbers; or NULL: there is no column of classes */
    nn_classes *classes;
} nn_table;

/* How a column is read. Numbers: finite, with a decimal point, whatever the locale. Classes: texts,
 * which become 0..K-1 in their order (that of numbers where all of them are numbers, else of
 * bytes), or that of a given list. Days and seconds: dates 2024-01-31, with a time 2024-01-31T06:30
 * (or a blank, seconds, fractions, Z, +02:00), counted from 1970-01-01 UTC; times alone, 06:30 or
 * 47:59:59, from 0. */
typedef enum { NN_NUMBER, NN_CLASS, NN_DAYS, NN_SECONDS, NN_SKIP } nn_column_kind;
typedef struct {
    const char *name; /* in the header; NULL: by number */
    int64_t number;   /* from 1 */
    nn_column_kind kind;
    /* of NN_CLASS: the list, so that several files agree; another text is an error. 0: whatever
     * comes */
    int nclass;
    const char *const *classes;
} nn_csv_column;

/* Zeros are the strict reader: all columns, numbers, none missing. */
typedef struct {
    int ncolumn;
    const nn_csv_column *columns; /* how these columns are read; the others are numbers */
    bool only;                    /* read these columns only, in this order */
    /* empty fields, NA, N/A, NaN, null, none, ?, - and . become NaN; a separator may end the lines
     */
    bool missing;
    bool no_header; /* the first line is data, whatever it looks like */
} nn_csv_options;

/* Reads fields separated by semicolons, tabs, commas or blanks (the first of these that the first
 * line has, outside quotes). Lines end by LF, CR LF, or CR alone; those starting with #, blank
 * lines and a byte order mark are skipped. The first line is a header when it has a field that is
 * neither number nor date and every number in it is quoted. Every line has as many fields. options
 * NULL: the strict reader. Errors name file and line, the column and what would read it
 * ("pelts.csv:17: column 3 of 3 ('lynx') is a missing value: 'n/a' (options.missing reads it as
 * NaN)"). 0, or -1 with the message in error (of error_size bytes) and an empty table. */
int nn_read_csv(const char *path, const nn_csv_options *options, nn_table *table, char *error,
                size_t error_size);
/* Commas, a header where any column has a name, classes by their names, numbers in as many digits
 * as give the same double again. Written whole or not at all. */
int nn_write_csv(const char *path, const nn_table *table, char *error, size_t error_size);
void nn_table_clear(nn_table *table); /* frees what nn_read_csv made; the table is then empty */
int64_t nn_table_column(const nn_table *table, const char *name); /* index, or -1 */

/* theta to and from a safetensors file: every parameter array under its name. Written to a
 * temporary file beside it and renamed: whole or not at all. Loading checks names, shapes and dtype
 * (converts between F32 and F64) and changes theta only when all is right. Numbers that are not
 * finite (in dtype) are neither saved nor loaded. 0, or -1 with the message in error. */
int nn_save(const char *path, const nn_theta *theta, char *error, size_t error_size);
int nn_load(const char *path, nn_theta *theta, char *error, size_t error_size);

/* ---- training -------------------------------------------------------------------------------- */

/* One input of the loss beside theta. Four kinds, by shape and data:
 *   [AD_ROWS, ...], data      examples x row: each batch gets the rows of its examples
 *   [...], data               the same in every batch: times, knots, constants that may change
 * between runs [AD_ROWS, ...], no data   drawn for each batch by options.draw: fresh points, noise
 * beside data
 *   [...], no data            set for each step by options.draw: annealed weights, the step itself
 * Data are finite, borrowed, of either dtype (converted where theta has the other one). */
typedef struct {
    ad_shape shape;
    ad_dtype dtype;   /* of data */
    const void *data; /* NULL: drawn */
} nn_array;
nn_array nn_array_data(ad_shape shape, ad_dtype dtype, const void *data);
nn_array nn_array_drawn(ad_shape shape); /* without data: options.draw fills it */
/* nn_array_of(shape, data): nn_array_data with the dtype that the pointer has, as ad_input. A
 * pointer to anything but float or double does not compile. */
#define nn_array_of(shape, ...) nn_array_data(shape, AD_DTYPE_OF(__VA_ARGS__), __VA_ARGS__)

/* Records the loss (a scalar) of a batch: theta [size], batch[i] the i-th array: its rows of this
 * batch, or its values of this step. It is recorded once and then replayed, so whatever it reads
 * from C variables stays as it was: what changes from step to step comes in as an array. (It is
 * called again after the first and after the last update to see whether it would record something
 * else now, which is an error.) */
typedef ad_var (*nn_loss)(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);

/* What a draw is for. */
typedef struct {
    /* this update, from 1, of how many; those that options.state has made before count */
    int64_t step, steps;
    int64_t rows; /* of this batch */
    const int64_t *
        examples; /* [rows] which examples (from 0) they are; NULL when no array has rows of data */
    ad_rng
        *rng; /* of this step alone: made from seed and step, so that a step can be drawn again */
} nn_step;

typedef struct {
    nn_loss loss; /* required */
    void *user;   /* goes to loss, draw and on_step */
    int narray;
    const nn_array *arrays;
    int64_t examples; /* rows of the arrays' data */
    /* Fills out[i] for every array without data, in double, whatever theta's dtype: rows x row
     * size, or all elements of an array without rows. out[i] is NULL for the others. Called before
     * every step. Non-zero ends the training with an error. */
    int (*draw)(const nn_step *step, double *const *out, void *user);
    /* rows per update; default, and where it is larger: all examples. Without replacement,
     * reshuffled every epoch; the last batch of an epoch may be smaller. Required where rows are
     * drawn and there are no examples */
    int64_t batch;
    int64_t steps; /* updates to make (required) */
    nn_optimizer_options optimizer;
    /* Made by nn_optimizer_new for a theta like this one: moments, schedule, shuffling and draws go
     * on from the updates it has made, here and in later calls, so that 500 updates and 500 more
     * are the same as 1000. It brings its options; `optimizer` must be left zero. NULL: a fresh one
     */
    nn_optimizer_state *state;
    uint64_t seed;     /* of the shuffling and of draws */
    int threads;       /* 0: one for each processor; the result is the same for any number */
    const char *label; /* progress: "training"; NULL: no output */
    /* A loss with solves in it: when its gradient is compared with the one of halved steps
     * (ad_check_gradient). 0: at updates 1, 500, 1000, 2000, 4000 and so on, which takes at most 1
     * % of the time from 500 updates on; n > 0: at the first and every n-th; -1: never. The results
     * are the same. */
    int64_t check_gradient;
    /* Called after every update (step counts from 1) with the loss before it and theta, which it
     * may change; non-zero stops the training. */
    int (*on_step)(int64_t step, double loss, nn_theta *theta, void *user);
} nn_train_options;

typedef struct {
    int64_t steps;
    double first_loss, last_loss, seconds;
    int64_t gradient_checks; /* how often the gradient was compared with the one of halved steps */
    double gradient_difference; /* the largest relative difference found */
    /* "", or that they differ by more than a tenth, and what to do (once; also printed when there
     * is a label) */
    char warning[720];
} nn_train_report;

/* Compiles loss and gradient once, then makes options->steps updates of theta in place; a step
 * allocates nothing (the first two and what follows the last apart). report may be NULL. 0, also
 * when on_step stopped it (report->steps says when); -1 with the message in error: then theta is as
 * after the last good update. Class labels of nn_cross_entropy that come from data are checked
 * before the first update, for all examples. A loss that is not finite, and a run that fails, are
 * named with their step, with the example that does it alone, and, where theta or the loss have run
 * away, with how. */
int nn_train(nn_theta *theta, const nn_train_options *options, nn_train_report *report, char *error,
             size_t error_size);

/* Progress of long work on stderr: a bar with rate and time left on a terminal, a line for every
 * tenth elsewhere. nn_progress_new may return NULL (memory), which the others allow. format NULL:
 * nothing added. The label is copied. */
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
