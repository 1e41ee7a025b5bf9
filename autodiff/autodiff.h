/* costate: reverse- and forward-mode automatic differentiation on an operation tape.
 *
 * A tape records operations on variables. Recording is lazy: nothing is computed until ad_value()
 * asks for a number, or until ad_compile() turns a piece of the tape into a program that ad_run()
 * replays with other inputs and any number of rows. Derivatives (ad_vjp, ad_jvp, ...) are recorded
 * on the same tape as ordinary operations, so they can be differentiated again.
 *
 * The row axis. A variable whose shape starts with AD_ROWS has one row per sample of a batch. The
 * number of rows is not part of the recording: it is given with the data (ad_input_rows) or with
 * the run (ad_run). All row variables of a tape share it. Everything else broadcasts as in NumPy.
 *
 * Errors are reported in two ways. Questions with yes or no for an answer are bool.
 * - Sticky objects. The first failure stays on the tape (ad_tape_error) with the operation, the
 *   shapes and what to do. Operations on a failed tape, or on invalid variables, are harmless and
 *   return an invalid variable. A workspace keeps the error of its latest run. Calls that return
 *   int give 0, or -1 with the object's error set; calls that return a pointer give NULL then.
 * - A message buffer, for a call without such an object: the forward function of an opaque
 *   operation (extension.h) returns 0, or -1 with its message written.
 * COSTATE_ERRORS=print in the environment has errors told at once, with what led to them
 * (ad_tape_on_error).
 *
 * Lists that are handed over (operands, axes, indices, data) are copied.
 *
 * Threads: a tape belongs to one thread at a time. A program is immutable and may be run by many
 * threads, each with a workspace.
 *
 * Languages: C from C11 on, C++ from C++11 on. What differs between them is in typed.h. */
#ifndef COSTATE_AUTODIFF_H
#define COSTATE_AUTODIFF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct ad_tape ad_tape;
typedef struct ad_program ad_program;
typedef struct ad_workspace ad_workspace;

/* A variable: a place on a tape. Copied freely; never freed. `epoch` detects variables that a
 * rewind has removed. `tape` is for everybody to use: inside a field, ad_scalar(y.tape, 2) is a
 * number on the tape that y is on. */
typedef struct {
    ad_tape *tape;
    int32_t node;
    uint32_t epoch;
} ad_var;

typedef enum { AD_F32, AD_F64 } ad_dtype;
enum { AD_MAX_RANK = 8, AD_ROWS = -1 };

/* Row-major shape. dim[0] == AD_ROWS declares the row axis; AD_ROWS stands nowhere else. rank 0 is
 * a scalar. */
typedef struct {
    int rank;
    int64_t dim[AD_MAX_RANK];
} ad_shape;

/* In C and in C++ (typed.h defines them):
 * AD_SHAPE(3, 4), AD_SHAPE(AD_ROWS, 2), AD_SCALAR: shapes.
 * AD_VARS(a, b, c): two arguments, the number of the variables and the list of them:
 * ad_concatenate(AD_VARS(a, b), 1). The list lives as long as the statement in C++, as long as the
 * block in C. */

/* ---- tapes ----------------------------------------------------------------------------------- */

/* A new empty tape; every variable on it has this dtype. NULL when memory is short. It bears an
 * error from the beginning when the environment variable COSTATE_ISA, which chooses the kernels'
 * instruction set (generic, x86-64-v2, -v3, -v4), asks for one that is not to be had. */
ad_tape *ad_tape_new(ad_dtype dtype);
/* Frees the tape, its values and cached programs. NULL is allowed. Programs that the caller
 * compiled from it stay valid. */
void ad_tape_free(ad_tape *tape);
ad_dtype ad_tape_dtype(const ad_tape *tape);
/* The first error, or NULL. The text lives as long as the tape, or until ad_tape_clear_error. */
const char *ad_tape_error(const ad_tape *tape);
void ad_tape_clear_error(ad_tape *tape);
/* Errors told when they happen, for finding the line that made them: `report` gets the first error
 * of the tape (and the first after each ad_tape_clear_error) with the operations that led to it, a
 * line each; report NULL: no more. It may look at the tape, not record. An error inside a field is
 * told once it has reached this tape, without the field's operations: those are on a tape of the
 * solve. For all tapes and workspaces, those inside a solve included: the environment variable
 * COSTATE_ERRORS=print writes them to stderr, and COSTATE_ERRORS=abort calls abort() then, where a
 * debugger shows the call. */
void ad_tape_on_error(ad_tape *tape, void (*report)(const char *text, void *user), void *user);
/* Position for ad_tape_rewind, which forgets everything recorded since; variables recorded since
 * become stale (using one is an error). */
int32_t ad_tape_mark(const ad_tape *tape);
void ad_tape_rewind(ad_tape *tape, int32_t mark);
/* The most operations that the tape may hold; beyond, recording is an error. A loop that records
 * without rewinding meets it, and learns what it lacks, before the memory is full. 0 is the
 * default: 10 million, about 3 GB. */
void ad_tape_set_limit(ad_tape *tape, int32_t operations);
/* The most bytes that values on demand may hold (ad_value, ad_get, ad_evaluate and the like), those
 * of all variables together, and each solve among them besides; more is an error that names the
 * operation. 0: no limit; without a call it is the environment's COSTATE_MEMORY
 * (ad_workspace_set_limit), and without that half the machine's memory, for values alone: a loop
 * that records and never rewinds keeps all that it has computed. Data that are given (ad_input,
 * ad_param) do not count. */
void ad_tape_set_memory(ad_tape *tape, int64_t bytes);
/* Number of rows: the one of the row data given so far (ad_input_rows, ad_set), or of
 * ad_tape_set_rows; -1: none yet. */
int64_t ad_tape_rows(const ad_tape *tape);
/* The number of rows (>= 1) where no row data say it: a start that is computed from parameters,
 * say, is one row. Other row data that the tape holds must have as many. 0, or -1 with the tape's
 * error set. */
int ad_tape_set_rows(ad_tape *tape, int64_t rows);

/* ---- sources --------------------------------------------------------------------------------- */

/* Programs leave out _data and the dtype, which the pointer has:
 *
 * - ad_param(tape, shape, data), ad_input(tape, shape, data)
 * - ad_input_rows(tape, shape, rows, data)
 * - ad_constant(tape, shape, data)
 * - ad_set(input, rows, data)
 *
 * `data` is a pointer to float or double, or NULL. Anything else does not compile, pointers to void
 * included: code that knows the dtype only when it runs calls the functions below. Data are
 * row-major; they are copied, and converted where the tape has the other dtype.
 *
 * Inputs. data NULL: the variable is symbolic, without a value. ad_param: a parameter (weights):
 * constant during a solve. ad_input: changes from call to call (times, step sizes). ad_input_rows:
 * shape.dim[0] must be AD_ROWS; `data` holds `rows` rows (rows is ignored when data is NULL). */
ad_var ad_param_data(ad_tape *tape, ad_shape shape, ad_dtype dtype, const void *data);
ad_var ad_input_data(ad_tape *tape, ad_shape shape, ad_dtype dtype, const void *data);
ad_var ad_input_rows_data(ad_tape *tape, ad_shape shape, int64_t rows, ad_dtype dtype,
                          const void *data);
/* New data for an input (rows is ignored unless it is a row input; with another number of rows, set
 * all row inputs). All computed values are forgotten. 0, or -1 with the tape's error set. */
int ad_set_data(ad_var input, int64_t rows, ad_dtype dtype, const void *data);
/* Constants, kept in double whatever the tape's dtype. */
ad_var ad_constant_data(ad_tape *tape, ad_shape shape, ad_dtype dtype, const void *data);
ad_var ad_scalar(ad_tape *tape, double value);
/* ad_fill, ad_eye, ad_row_count: operations without operands, below. */

/* ---- values ---------------------------------------------------------------------------------- */

bool ad_valid(ad_var x);        /* on a tape, not stale, not the result of a failed operation */
ad_shape ad_shape_of(ad_var x); /* with AD_ROWS where rows are declared; rank -1 when invalid */
/* The number of elements, with the tape's rows; -1 when it is unknown, or too large for a number.
 */
int64_t ad_size(ad_var x);
/* Computes what x needs and returns its ad_size(x) elements, row-major; NULL with the tape's error
 * set on failure. The array is the tape's, and valid until the tape is rewound below x or freed, or
 * an input is set. The tape's dtype must be the one of the name: it is an error otherwise. ad_value
 * is for code that knows the dtype only when it runs; ad_get gives doubles, whatever the dtype. */
const float *ad_value_f32(ad_var x);
const double *ad_value_f64(ad_var x);
const void *ad_value(ad_var x);
/* The only element of x; NaN with the tape's error set when there are more or none. */
double ad_item(ad_var x);
/* Copies all elements (ad_size(x) of them) as double; 0, or -1 with the tape's error set. */
int ad_get(ad_var x, double *out);
/* Name, shape and elements (the first thousand), a row to a line; or the tape's error. Where there
 * is no value yet (in a field or a loss that is traced, or for want of data) name, shape and the
 * reason, which is no error: the tape goes on. */
void ad_print(FILE *file, const char *name, ad_var x);
/* "[rows,64]"; of at most size bytes, cut off where it is longer. */
void ad_format_shape(ad_shape shape, char *text, size_t size);

/* ---- operations ------------------------------------------------------------------------------ */

/* How the kernel of a convolution is led over its array, by spatial axis. Of stride, dilation and
 * groups 0 means 1; nothing may be negative. */
typedef struct {
    int64_t stride[2];
    int64_t before[2], after[2]; /* zeros at the beginning and at the end of the axis */
    int64_t dilation[2];         /* from tap to tap */
    int64_t groups;              /* parts of the channels that do not mix; divides Cin and Cout */
    /* ad_conv_transpose alone: elements more at the end of the axis, fewer than stride or dilation.
     * A stride leaves open which of several sizes the convolution came from. */
    int64_t extra[2];
} ad_conv_options;

/* One prototype a row of ops.def, which says what each does: x, a, b, c are variables, and the
 * result is a variable; a row's `arguments` are those of its prototype. On failure the result is an
 * invalid variable, and the tape has the error. */
#define AD_UNARY(name, ...) ad_var ad_##name(ad_var x);
#define AD_BINARY(name, ...) ad_var ad_##name(ad_var a, ad_var b);
#define AD_TERNARY(name, ...) ad_var ad_##name(ad_var a, ad_var b, ad_var c);
#define AD_CODED(...)
#define AD_STRUCTURAL(name, kind, attributes, traits, arguments) ad_var ad_##name arguments;
#define AD_INTERNAL(...)
#include "ops.def"
/* Pointwise: element by element; operands broadcast. ad_select(c, a, b): a where c is not zero,
 * else b. ad_clamp(x, lo, hi). Comparisons give 1 or 0. ad_stop_gradient(x): x with derivative
 * zero. Where a derivative jumps (ad_abs, ad_relu, ad_max, ...) it is one of its limits, or their
 * mean.
 *
 * The others, in short:
 * ad_sum, ad_reduce_max(x, naxis, axes, keep)
 * ad_reshape(x, shape), ad_broadcast(x, shape), ad_transpose(x, permutation)
 * ad_slice(x, axis, start, stop), ad_flip(x, axis), ad_cumsum(x, axis, reverse)
 * ad_gather(x, axis, n, indices), ad_scatter_add(x, axis, size, indices)
 * ad_take(table, index), ad_locate(t, knots)
 * ad_contract(spec, n, x): einsum
 * ad_conv(x, w, options), ad_conv_transpose(y, w, options)
 * ad_fill(tape, shape, value), ad_eye(tape, n, m, offset), ad_row_count(tape)
 *
 * The rest of this section is composed of them. */

/* With a number: x * factor, x + term, x to the power of exponent; zeros and ones of x's shape. */
ad_var ad_scale(ad_var x, double factor);
ad_var ad_shift(ad_var x, double term);
ad_var ad_pow_scalar(ad_var x, double exponent);
ad_var ad_zeros_like(ad_var x);
ad_var ad_ones_like(ad_var x);

/* Reductions over axes, as in ad_sum. */
ad_var ad_mean(ad_var x, int naxis, const int *axes, bool keep);
ad_var ad_logsumexp(ad_var x, int naxis, const int *axes, bool keep);
/* Place of the largest and of the smallest element along an axis, as a whole number 0, 1, ...: of
 * equal ones the first, of NaNs the first NaN. Derivative zero. Not along the row axis. */
ad_var ad_argmax(ad_var x, int axis, bool keep);
ad_var ad_argmin(ad_var x, int axis, bool keep);
ad_var ad_sum_all(ad_var x);
ad_var ad_mean_all(ad_var x);
ad_var ad_sum_axis(ad_var x, int axis, bool keep);

/* n parts that follow each other along the axis, of the given sizes; sizes NULL: of equal size. On
 * failure all are invalid. */
void ad_split(ad_var x, int axis, int n, const int64_t *sizes, ad_var *parts);
/* Shapes differ along the axis only; where some operand has rows, [1,...] is repeated for each. */
ad_var ad_concatenate(int n, const ad_var *x, int axis);
/* Of one shape; the result's axis `axis` is new, of size n. */
ad_var ad_stack(int n, const ad_var *x, int axis);
ad_var ad_pad(ad_var x, int axis, int64_t before, int64_t after); /* with zeros; not the row axis */

/* Overlapping windows along an axis. Element k of window i is element i * stride - before + k *
 * dilation of the axis, and 0 outside of it; of stride and dilation 0 means 1. There are (n +
 * before
 * + after - dilation (size - 1) - 1) / stride + 1 windows, rounded down. ad_unfold: the axis, of n
 * elements, becomes two: [...,n,...] -> [...,windows,size,...]. ad_fold, its transpose, adds each
 * element of the windows to where it was: [...,windows,size,...] -> [...,n,...]; axis is that of
 * the windows. Not the row axis. */
typedef struct {
    int64_t size, stride, dilation, before, after;
} ad_window;
ad_var ad_unfold(ad_var x, int axis, const ad_window *window);
ad_var ad_fold(ad_var x, int axis, int64_t n, const ad_window *window);

/* ad_matmul: [...,n,k] x [k,m], or [b...,n,k] x [b...,k,m] (batched). */
ad_var ad_matmul(ad_var a, ad_var b);
ad_var ad_dot(ad_var a, ad_var b);   /* over the last axis */
ad_var ad_outer(ad_var a, ad_var b); /* [n] x [m] -> [n,m]; [rows,n] x [rows,m] -> [rows,n,m] */

/* ---- recurrences ----------------------------------------------------------------------------- */

/* What the step of a recurrence reads and fills, all on a tape of its own: `carry` (at the
 * beginning of the step), `input` (this step's part) and `arg` in the order and number of the
 * ad_recurrence; `next` (the carries at its end, each of its carry's shape) and `output`. Outside
 * variables must be among them. */
typedef struct {
    ad_tape *tape;
    const ad_var *carry, *input, *arg;
    ad_var *next, *output;
} ad_scan_step;

/* next_k, output_k = step(carry_k, input_k; arg), for k = 0 .. steps - 1. */
typedef struct {
    void (*step)(const ad_scan_step *at, void *user); /* is called during ad_scan only */
    void *user;
    int64_t steps; /* n */
    int ncarry, ninput, narg, noutput;
    const ad_var *carry; /* before the first step: of any shapes of rank 7 at most */
    const ad_var *input; /* [rows,n,...] or [n,...]: a step sees [rows,...] or [...] */
    const ad_var *arg;   /* the same in all steps, as weights are */
    bool reverse;        /* from the last step to the first: k = steps - 1 .. 0 */
    /* [rows,1] of whole numbers from 0 to n, or {0}. From its length on a row has no steps: in
     * either order, steps k >= length leave its carries as they are, and its outputs are zero. All
     * carries and outputs must have rows. A length that is none of these numbers is an error of the
     * run, which names the row. */
    ad_var lengths;
    /* At most so many bytes of each row are kept for derivatives; 0: no limit. Otherwise carries
     * are kept where segments of steps begin, and the steps of one segment are computed again at a
     * time (one more forward run). An error where it cannot be done; it names the least number. */
    size_t row_bytes;
} ad_recurrence;

/* Records a recurrence as one operation: recording, compiling and derivatives cost what one step
 * costs, whatever n is. last[ncarry]: the carries after the last step (with n = 0 the first ones).
 * output[noutput]: the outputs of all steps, [rows,n,...] or [n,...]. Derivatives of all orders
 * exist: they are recurrences too. What the step computes from arguments without rows alone is
 * computed once. 0, or -1 with the tape's error set: the step changes the shape of a carry, inputs
 * have other than n steps, n is negative. */
int ad_scan(const ad_recurrence *recurrence, ad_var *last, ad_var *output);

/* ---- derivatives, recorded on the tape and differentiable again ------------------------------ */

/* xbar[i] = sum_j ybar[j] . dy[j]/dx[i]. ybar[j] has the shape of y[j]; xbar[i] gets that of x[i]
 * (zeros where y does not depend on x[i]). What a selection, a slice, a gather, a maximum or a
 * clamp leaves out has the derivative zero, also where it is infinite there. Likewise in all other
 * derivatives. On failure the results of all of these are invalid variables, and the tape has the
 * error.
 *
 * Equal operations between x and y are derived once. Of u = exp(a) and v = exp(a), say, xbar has u
 * in the derivatives of both. A further derivative of xbar by u alone then counts v's share too,
 * and the one by v lacks it; their sum is right. Derivatives by x, by inputs and by parameters are
 * not affected. Give u and v in x as well where they are to be told apart. */
void ad_vjp(int ny, const ad_var *y, const ad_var *ybar, int nx, const ad_var *x, ad_var *xbar);
/* ydot[j] = sum_i dy[j]/dx[i] . xdot[i]; xdot[i] has the shape of x[i]. */
void ad_jvp(int nx, const ad_var *x, const ad_var *xdot, int ny, const ad_var *y, ad_var *ydot);
/* Gradient of a loss of one element: ad_vjp with the cotangent 1, with the same note on equal
 * operations. */
void ad_grad(ad_var loss, int nx, const ad_var *x, ad_var *gradient);
/* y [rows,m...], x [rows,n...] computed row by row: [rows,m...,n...]. Without rows: y [m...], x
 * [n...]: [m...,n...]. y without rows and x with rows is the caller's ad_grad. Recorded in the
 * cheapest contraction order, or where that is less work as a reverse derivative for each element
 * of a row of y. */
ad_var ad_jacobian(ad_var y, ad_var x);
/* Hessian of a scalar loss times v (shape of x). */
ad_var ad_hvp(ad_var loss, ad_var x, ad_var v);
/* Trace of dy/dx of a row-wise y [rows,d] by x [rows,d]: [rows,1]; without rows, y and x [d]: [1].
 * Exact; recorded in the cheapest contraction order, so its cost does not grow with d for networks
 * with one or two hidden layers. */
ad_var ad_jacobian_trace(ad_var y, ad_var x);

/* ---- how good a gradient is ------------------------------------------------------------------ */

/* A gradient beside the same one with all steps halved. Differences are relative. */
typedef struct {
    double norm, refined_norm; /* Euclidean */
    /* norm of the difference / the larger norm; 0 when both are 0, infinite when an element is not
     * finite */
    double difference;
    /* largest |g - r| / max(|g|, |r|, a tenth of the largest element) of an element. In both, what
     * rounding may have done counts as no difference: what changes the loss by 100 epsilons of its
     * size, or of the change that the largest gradient stands for */
    double worst;
    int64_t worst_element; /* its number (row-major) */
} ad_gradient_difference;

typedef struct {
    double loss, refined_loss;
    int worst_variable; /* the number in x of the variable that differs most */
    bool agrees; /* the verdict: true when every variable's difference is at most the threshold */
    char text[2048]; /* for people: a line a variable, the verdict, what to do */
} ad_gradient_report;

/* Checks the gradient of a loss of one element by x[0 .. nx): evaluates both as they are, and again
 * with every step halved that a solve on the way to the loss has taken. The gradient of a solve is
 * exact for its steps; where halving them changes it, the steps are too large for it, however small
 * the error of the solution: the difference estimates the error of the gradient. threshold: 0 for
 * the default, 0.1, which finds gradients that are wrong; a smaller one asks for accuracy.
 * difference: [nx], or NULL. Uses the data of the tape's inputs and leaves the tape as it was, with
 * the values of the unrefined evaluation. Costs three to four gradients, and the memory of one with
 * twice as many steps. Losses without a solve agree, without being evaluated twice. 0, or -1 with
 * the tape's error set. */
int ad_check_gradient(ad_var loss, int nx, const ad_var *x, double threshold,
                      ad_gradient_report *report, ad_gradient_difference *difference);

/* ---- random numbers -------------------------------------------------------------------------- */

/* Random numbers: Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405). Draw n of a
 * generator is the first half of the block cipher's output for (key, n), so that a state is two
 * words, a draw can be found again, and every machine gets the same bits: only integer operations,
 * + - * / and square roots are used, never libm. Plain values: a copy draws the same numbers again.
 * Not for cryptography. A generator that is NULL gives 0, and NaN where real numbers are drawn. */
typedef struct {
    uint64_t key, counter;
} ad_rng;
ad_rng ad_rng_seed(uint64_t seed); /* any seed is as good as any other */
ad_rng ad_rng_split(ad_rng *rng);  /* an independent generator; uses up one draw of rng */
uint64_t ad_rng_next(ad_rng *rng); /* 64 random bits */
/* The next n of ad_rng_next in out [n], in a tenth of the time. */
void ad_rng_fill(ad_rng *rng, int64_t n, uint64_t *out);
uint64_t ad_rng_below(ad_rng *rng, uint64_t n); /* uniform in 0..n-1, without bias; 0 when n is 0 */
double ad_rng_uniform(ad_rng *rng);             /* in (0,1), ends excluded */
double ad_rng_normal(ad_rng *rng);              /* mean 0, variance 1 */

/* ---- programs -------------------------------------------------------------------------------- */

/* Compiles `outputs` as a function of `inputs` (variables made by ad_param, ad_input,
 * ad_input_rows). NULL with the tape's error set on failure: an output depends on an input that is
 * not listed, memory is short. The program is independent of the tape. Its instruction set is the
 * best of this processor, or the one that the environment's COSTATE_ISA names. Small arrays of one
 * row are computed by machine code of the program's own, made when a workspace is first run for one
 * row, unless the environment's COSTATE_NATIVE is 0; every result has the same bits with it and
 * without.
 */
ad_program *ad_compile(int ninput, const ad_var *inputs, int noutput, const ad_var *outputs);
/* NULL is allowed, for workspaces too. Workspaces of the program keep it until they are freed
 * themselves. */
void ad_program_free(ad_program *program);
/* What was compiled, for people: levels, blocks, values, contractions with sizes, bytes, native
 * code with its instructions. Caller frees with free(). */
char *ad_program_describe(const ad_program *program);
/* The bytes that a workspace for so many threads (as ad_workspace_new has them) will hold once it
 * has run so many rows first, before anything runs: values, packed weights, block memory of the
 * threads, sums, and what recurrences (ad_scan) and solves in the program keep. Of solves that
 * choose their steps by the error it is an upper bound, several times what short ones hold:
 * programs are counted that they may come to need. Not the program itself, the caller's arrays or
 * Brownian paths. *step_bytes (may be NULL): more for each step of solves that choose their steps
 * by the error, which are counted as if they took none. Rows do not matter to a program without
 * them. -1: the program is NULL, rows or threads make no sense, or there are more bytes than can
 * be counted.
 */
int64_t ad_program_bytes(const ad_program *program, int64_t rows, int threads, int64_t *step_bytes);

/* Memory for running one program from one thread at a time; grows when rows do, never otherwise.
 * NULL when memory is short. threads: 0 = one for each processor that the process may use, or as
 * OMP_NUM_THREADS says; at most 256; a negative number is an error, which ad_run reports. The
 * threads are the library's own and serve the whole process; they sleep when there is nothing to
 * do, and what is too small to be shared out does not wake them. Inside a parallel region of OpenMP
 * a run keeps to the thread that calls it. */
ad_workspace *ad_workspace_new(const ad_program *program, int threads);
void ad_workspace_free(ad_workspace *workspace);
/* The most bytes that the workspace may hold, as ad_program_bytes counts them; 0: no limit. A run
 * that needs more is an error, which says so before anything is allocated: how much, what takes
 * most of it, and how many rows would do. An adaptive solve that grows beyond it ends with an
 * error. Without a call the limit is the environment's COSTATE_MEMORY, a number of bytes (4G, 500M
 * and 64K are understood), which holds for each workspace, those inside of solves too, and for what
 * a tape computes itself (ad_tape_set_memory). 0, or -1 with the workspace's error set: bytes is
 * negative. */
int ad_workspace_set_limit(ad_workspace *workspace, int64_t bytes);
/* Of the latest run, or NULL; valid until the next run. */
const char *ad_workspace_error(const ad_workspace *workspace);

/* Runs the program: inputs[i] and outputs[j] point to row-major arrays of the tape's dtype, with
 * `rows` rows where rows are declared. Output arrays must overlap neither inputs nor each other; an
 * input that no output needs may be NULL, and so may an output (it is not delivered). 0, or -1 with
 * ad_workspace_error set: outputs may then be written in part. The number of threads does not
 * change a bit of the results. */
int ad_run(const ad_program *program, ad_workspace *workspace, int64_t rows,
           const void *const *inputs, void *const *outputs);
/* The same with pointers that carry their type; in C++ both are called ad_run too. It is an error
 * when the program computes in the other one. */
int ad_run_f32(const ad_program *program, ad_workspace *workspace, int64_t rows,
               const float *const *inputs, float *const *outputs);
int ad_run_f64(const ad_program *program, ad_workspace *workspace, int64_t rows,
               const double *const *inputs, double *const *outputs);

/* Recorded results at new data, in one call: `in` are inputs, data[i] their elements (with `rows`
 * rows where in[i] has rows), results[j] gets the elements of out[j] (NULL: not delivered). Inputs
 * that out needs and `in` does not list keep the tape's data, weights for instance. The function is
 * compiled at the first call; the program stays with the tape, also when it is rewound and an equal
 * function recorded again. The tape's own data, values and rows stay as they are. Data and results
 * are converted where the tape has the other type. 0, or -1 with the tape's error set. In C++ both
 * are called ad_evaluate too. */
int ad_evaluate_f32(int nin, const ad_var *in, const float *const *data, int64_t rows, int nout,
                    const ad_var *out, float *const *results);
int ad_evaluate_f64(int nin, const ad_var *in, const double *const *data, int64_t rows, int nout,
                    const ad_var *out, double *const *results);

#ifdef __cplusplus
}
#endif

#include "typed.h"
#endif
