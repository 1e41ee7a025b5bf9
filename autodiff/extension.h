/* costate: what modules built on the tape (ode/, nn/, a user's own) need beyond autodiff.h: shapes,
 * opaque operations, functions recorded on one tape and inlined on another, the cut between what
 * depends on parameters only and the rest, program caches, and runs that accumulate.
 *
 * Errors, ownership and threads are as in autodiff.h: what takes a tape, or variables of one, sets
 * that tape's error, copies the lists it is given, and is for one thread at a time. Functions of
 * shapes, and of programs, may be called from any thread. */
#ifndef COSTATE_AUTODIFF_EXTENSION_H
#define COSTATE_AUTODIFF_EXTENSION_H
#include "autodiff.h"
#include <stdbool.h>
#include <stdlib.h>
#ifdef __cplusplus
extern "C" {
#endif

/* ---- assertions ------------------------------------------------------------------------------ */

/* Says what the code around it relies on. Where NDEBUG is not defined (debug and sanitizer builds)
 * a condition that does not hold is written to stderr with file and line, and the process aborts.
 * Otherwise the condition is compiled but never evaluated, so it costs nothing and must have no
 * side effects. It is for mistakes of the library itself: what a caller can do wrong is an error
 * that is reported. */
#ifdef NDEBUG
#define AD_ASSERT(condition) ((void)(0 && (condition)))
#else
#define AD_ASSERT(condition)                                                                       \
    ((condition) ? (void)0                                                                         \
                 : ((void)fprintf(stderr, "%s:%d: assertion failed: %s\n", __FILE__, __LINE__,     \
                                  #condition),                                                     \
                    abort()))
#endif

/* ---- shapes ---------------------------------------------------------------------------------- */

bool ad_has_rows(ad_shape s); /* whether its first axis is the row axis */
/* Elements of s with so many rows; without the row axis they do not matter. */
int64_t ad_count(ad_shape s, int64_t rows);
int64_t ad_row_size(ad_shape s); /* elements of one row; of all of s when it has no row axis */
bool ad_same_shape(ad_shape a, ad_shape b);
/* NumPy broadcasting; the row axis must lead in both of equal rank, or one operand has no row axis
 * and broadcasts. false: incompatible. */
bool ad_broadcast_shapes(ad_shape a, ad_shape b, ad_shape *out);

/* ---- opaque operations ----------------------------------------------------------------------- */

/* One evaluation of an opaque operation. Arrays are row-major, complete (all rows), of the call's
 * dtype. */
typedef struct {
    ad_dtype dtype;
    int64_t rows; /* number of rows of the run; 0 when the program has no row axis */
    int threads;  /* how many threads the operation may use; 0: as ad_workspace_new has it */
    /* 0: as usual; k: of what a `discretises` class chose as usual, each step is divided into 2^k
     */
    int refine;
    /* another operation may look at this one's state: it takes the token (a lazy evaluation: might
     * take it) */
    bool state_used;
    int64_t most_bytes; /* that the state may hold, more is an error of the run; 0: no limit */
    /* in[i]: the i-th operand's elements; NULL for an operand that is an opaque operation's token
     */
    const void *const *in;
    /* in_state[i]: the state of the opaque operation whose token is operand i, and whose own
     * operands and results are still where they were; else NULL */
    void *const *in_state;
    void *const *out; /* out[j]: to be filled; NULL where nobody needs output j */
    /* Shapes of operands and results with the number of rows in the place of AD_ROWS: sizes come
     * from here, never from `rows` alone. rank -1: a token, a result that nobody needs. */
    const ad_shape *in_shape, *out_shape;
    char *error; /* on failure: a message of at most error_size bytes */
    size_t error_size;
    /* NULL: what the operation doubts in its results is an error. Else that is written here, of at
     * most error_size bytes, unless there is something already, and the results count */
    char *warning;
} ad_opaque_call;

/* What the state of an opaque operation holds once it has been evaluated, reckoned before that. */
typedef struct {
    int64_t rows; /* of the run, as in ad_opaque_call; likewise: */
    int threads;
    bool state_used;
    /* result[j] < 0: nobody needs result j, whose call->out[j] is NULL; NULL: all are needed */
    const int32_t *result;
    /* To be filled; zeros before. */
    int64_t bytes;      /* -1: more than can be counted */
    int64_t step_bytes; /* more for each step, where only the evaluation tells how many there are */
    char largest[160];  /* what takes most of it: "100 states of 4096 bytes" */
} ad_opaque_account;

/* A class of opaque operations, constant for as long as tapes and programs hold one; `data` belongs
 * to one recorded operation and is shared by tapes and programs through retain/release. All but the
 * derivative rules may be called from several threads at a time, though never with the same state.
 */
typedef struct {
    const char *name;
    /* 0; -1 with call->error written: an error of the run; 1, perhaps with call->error written: the
     * operands are outside the operation's domain. Then all of its results become NaN, the run goes
     * on, and ad_workspace_outside has the message: a solver with adaptive steps takes a smaller
     * one. (Where only some rows are outside, write NaN to those and return 0: the others keep
     * their results.) `state` persists from call to call within one tape or workspace, and is where
     * an operation keeps its memory. */
    int (*forward)(void *data, void *state, const ad_opaque_call *call);
    void *(*state_new)(
        void *data); /* may be NULL: no state. Returning NULL is an error (out of memory). */
    void (*state_free)(void *state);
    void (*retain)(void *data); /* may be NULL, as release */
    void (*release)(void *data);
    /* Derivative rules record operations. token: this operation as an operand (its state reaches
     * the rule's operation through in_state). Absent cotangents and tangents are invalid variables.
     * vjp fills xbar[i] where need[i]; jvp fills ydot[j]. Either may be NULL: then differentiating
     * is an error that names the operation. */
    void (*vjp)(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar);
    void (*jvp)(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot);
    /* What messages call the operation with this data, where that is not `name`: the function that
     * the user called. May be NULL. */
    const char *(*called)(const void *data);
    bool flat;        /* its results have no derivatives, and it needs no rules: a check, a mask */
    bool discretises; /* it approximates something continuous by steps, and heeds call->refine */
    /* Fills in what a state takes; may compile. NULL: nothing to speak of. An operation whose
     * state is large has one, for accounts and limits (ad_program_bytes), and keeps to
     * call->most_bytes. From any thread. */
    void (*account)(void *data, ad_opaque_account *account);
} ad_opaque_class;

/* Records an opaque operation: operands in[0..nin), results of the given shapes in out[0..nout).
 * Takes over one reference of `data` (also on failure). Returns its token; invalid with the tape's
 * error set on failure. */
ad_var ad_opaque(ad_tape *tape, const ad_opaque_class *class_, void *data, int nin,
                 const ad_var *in, int nout, const ad_shape *shapes, ad_var *out);

/* ---- functions: inputs and outputs on one tape ----------------------------------------------- */

/* Records out (functions of in, on another tape or this one) again on `target`, with args[i] in the
 * place of in[i] (any variables, not only inputs: what in[i] itself depends on is not visited),
 * whose shape it has. An input reached that is not in `in` is an error on target. result[j] for
 * out[j]; invalid on failure. */
void ad_inline(int nin, const ad_var *in, int nout, const ad_var *out, ad_tape *target,
               const ad_var *args, ad_var *result);
/* The cut under out: variables that depend on parameters (ad_param) and constants only and are used
 * by operations that depend on more (or are in out). Writes at most max and returns how many there
 * are; -1 with the error set. Constants are not listed. */
int ad_frontier(int nout, const ad_var *out, int max, ad_var *frontier);
/* What out needs of what was recorded before the seeds (of a VJP: its cotangents), to be kept so
 * that nothing costly is computed again: variables with rows that hold all that is needed, together
 * with `available` ones and cheap operations (additions, products, layout). Writes at most max and
 * returns how many there are: 0 when keeping is not worth it (no contraction would be saved) or not
 * possible (opaque operations); -1 with the error set. */
int ad_residuals(int nseed, const ad_var *seed, int navailable, const ad_var *available, int nout,
                 const ad_var *out, int max, ad_var *residual);
/* As ad_vjp, but x are treated as independent of each other: propagation stops at them. */
void ad_vjp_cut(int ny, const ad_var *y, const ad_var *ybar, int nx, const ad_var *x, ad_var *xbar);
/* As ad_jvp, likewise: the tangent of an x that depends on another x is the one given. */
void ad_jvp_cut(int nx, const ad_var *x, const ad_var *xdot, int ny, const ad_var *y, ad_var *ydot);
/* Whether y depends on x (differentiably or not); false with the tape's error set when memory is
 * short. */
bool ad_depends(ad_var y, ad_var x);
/* How the rows of y depend on each other: not at all; perhaps, as opaque operations see all of them
 * (a solve gives them the same steps), or their number is read; or through values without rows that
 * are computed from them. APART of invalid variables, and with the tape's error set when memory is
 * short. */
typedef enum { AD_ROWS_APART, AD_ROWS_OPAQUE, AD_ROWS_COUPLED } ad_rows;
ad_rows ad_rows_of(int ny, const ad_var *y);
/* Whether ad_value (ad_item, ad_get, ad_print) has been asked for x or for something that depends
 * on it. */
bool ad_looked_at(ad_var x);
/* Whether the variable is a constant or fill; its elements in double (borrowed; for fill one
 * element), else NULL. */
const double *ad_constant_elements(ad_var x);
int64_t ad_constant_size(ad_var x); /* how many elements that is; 0: not a constant */
/* A canonical byte string of out as a function of in, *length bytes: equal strings mean equal
 * functions, for as long as the data of opaque operations in them live. Caller frees. NULL with the
 * tape's error set. */
void *ad_function_key(int nin, const ad_var *in, int nout, const ad_var *out, size_t *length);

/* Says that the tape is being traced to be replayed: ad_value on what depends on a symbolic input
 * fails, and the message ends with `advice`, which is copied: why there is no value, and where
 * values are to be had. */
void ad_tape_set_traced(ad_tape *tape, const char *advice);
/* Sets the tape's error if it has none (printf form). */
void ad_fail(ad_tape *tape, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* An invalid variable of the tape. */
ad_var ad_none(ad_tape *tape);

/* A cache that lives as long as the tape and survives rewinding. The key is copied; the tape owns
 * object and calls release(object), at once and with its error set when memory is short. It keeps
 * the 128 objects used last, so that a loop that records something new each time runs in flat
 * memory: release is also called, within ad_cache_add, for the object that makes room. Who uses an
 * object longer than until the next ad_cache_add holds a reference of its own. find: the object,
 * still the tape's, or NULL. */
void *ad_cache_find(ad_tape *tape, const void *key, size_t length);
void ad_cache_add(ad_tape *tape, const void *key, size_t length, void *object,
                  void (*release)(void *));

/* ---- programs -------------------------------------------------------------------------------- */

/* One more reference, which ad_program_free drops; gives the program back. From any thread. */
ad_program *ad_program_retain(ad_program *program);
/* For accounts of memory: what a run takes for a row of a block and in complete arrays, and what a
 * workspace holds, the states of opaque operations apart. */
int64_t ad_program_bytes_per_row(const ad_program *program);
size_t ad_workspace_bytes(const ad_workspace *workspace);

typedef struct {
    int64_t rows;
    const void *const *inputs;
    void *const *outputs; /* an output that is NULL is not delivered */
    /* NULL, or per output: add to what is there (only outputs without rows) instead of overwriting
     */
    const bool *accumulate;
    /* handed to opaque operations: 0 as usual, k: steps divided into 2^k. More work and memory,
     * which stays */
    int refine;
    /* inputs made by ad_param are unchanged since this workspace's previous run: skip what depends
     * on them alone */
    bool same_parameters;
    /* of accumulated outputs, those that are sums over a batch of a few blocks may stay in the
     * workspace, to be added up with those of further such runs. ad_run_deliver, a run that has
     * other rows or outputs or does not defer, or one after which they are sums of many numbers,
     * adds them to the outputs, which must be there so long. */
    bool defer;
    /* NULL, or writes rows first .. first + rows - 1 of inputs that are not there when the run
     * begins, where ad_program_fill_rows allows it. Each row is asked for once, at multiples of so
     * many rows, by the thread that reads it next; threads ask at the same time. */
    void (*fill)(void *context, int64_t first, int64_t rows);
    void *fill_context;
    double fill_work; /* for one row, as ad_share has it */
    /* what opaque operations doubt in their results is kept for ad_workspace_warning and is no
     * error */
    bool warns;
} ad_run_args;
/* Rows of a block, of which ad_run_args.fill is asked for at a time; 0: inputs have to be there, as
 * operations see them as a whole. */
int64_t ad_program_fill_rows(const ad_program *program);
/* ad_run is this with the other fields zero. 0, or -1 with ad_workspace_error set. */
int ad_run_with(const ad_program *program, ad_workspace *workspace, const ad_run_args *args);
/* Adds what was deferred to the outputs; nothing where nothing was. Not while the workspace runs.
 */
void ad_run_deliver(ad_workspace *workspace);
/* Of the latest run: the first opaque operation that was outside its domain, "NAME: MESSAGE"; NULL:
 * none. Valid until the next run. */
const char *ad_workspace_outside(const ad_workspace *workspace);
/* Of the latest run, if its ad_run_args.warns: the first doubt, "NAME: MESSAGE"; NULL: none. Valid
 * until the next run. */
const char *ad_workspace_warning(const ad_workspace *workspace);
/* Whether ad_run_args.refine changes anything (from any thread): some operation of the program
 * discretises. */
bool ad_program_discretises(const ad_program *program);
/* The Euclidean norm, whatever the range of the numbers; infinite where one is not finite. */
double ad_array_norm(ad_dtype dtype, int64_t n, const void *x);
/* The gradient of a loss, of n elements, beside the refined one. Differences of at most `allowed`
 * are none; others are relative to the gradients' size, or to least_size where that is larger. */
ad_gradient_difference ad_compare_gradients(ad_dtype dtype, int64_t n, const void *gradient,
                                            const void *refined, double allowed, double least_size);
/* What ad_check_gradient allows: of a gradient by x, for rounding; scale: the loss, or what else
 * rounding is relative to. */
double ad_gradient_rounding(ad_dtype dtype, int64_t n, const void *x, double scale);
/* Whether that is within the threshold (0: the default). */
bool ad_gradients_agree(const ad_gradient_difference *difference, double threshold);

/* ---- numbers, threads and instructions for loops -----------------------------------------------
 */

/* Standard normal numbers in bulk: a function of dtype, key and counter alone, the same bits on
 * every machine. The counter of Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405) is
 * `counter` in its lower half and word2[i], word3[i] in its upper half; its output makes so many
 * numbers as there are lanes, by Box and Muller (1958, doi:10.1214/aoms/1177706645). out [lanes,n]:
 * number l of counter i is at l * n + i. The largest number possible is 6.7 in single and 8.6 in
 * double precision. Does nothing where a pointer is NULL or n is not positive. From any thread. */
void ad_normals(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n, const uint32_t *word2,
                const uint32_t *word3, void *out);
int ad_normal_lanes(ad_dtype dtype); /* 4 in single, 2 in double precision */
/* The random bits behind them: the four words of each counter, out [4,n]. Likewise. */
void ad_random_words(uint64_t key, uint64_t counter, int64_t n, const uint32_t *word2,
                     const uint32_t *word3, uint32_t *out);

/* The instruction set in use, for modules with loops of their own that are built for several: 4, 3,
 * 2 for x86-64-v4, v3, v2, or 0 for what every processor has. As for the library's own loops it is
 * the best that the processor has, unless the environment variable COSTATE_ISA names another. From
 * any thread. */
int ad_instruction_set(void);

/* Does part(data, thread, k) for k = 0 .. parts - 1, once each, on the caller's thread and those of
 * the library's pool that are free, at most `threads` in all (0: as ad_workspace_new has it), on
 * fewer where `work`, in bytes that are written or what takes as long, is too little for them.
 * Returns when all is done; does not fail. Which thread does which part is left to chance; no two
 * threads at a time have the same number, from 0 to threads - 1. Does nothing where part is NULL.
 */
void ad_share(int threads, double work, int64_t parts,
              void (*part)(void *data, int thread, int64_t k), void *data);

#ifdef __cplusplus
}
#endif
#endif
