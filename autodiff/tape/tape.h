/* Internal: the tape's nodes, shared by recording, rules, evaluation and
 * compilation. */
#ifndef COSTATE_TAPE_H
#define COSTATE_TAPE_H
#include "autodiff/base/memory.h"
#include "autodiff/tape/ops.h"

/* What a value depends on, in order; a node's level is the highest among its operands (a reduction
 * over rows stays AD_LEVEL_ROW: `shape` says that it has no row axis, `level` that it was computed
 * from rows). */
typedef enum { AD_LEVEL_CONSTANT, AD_LEVEL_PARAMETER, AD_LEVEL_CALL, AD_LEVEL_ROW } ad_level;

typedef struct {
    ad_op op;
    ad_level level;
    uint32_t epoch;
    int nin, nattr;
    const int32_t *in;   /* operands: node numbers, smaller than this node's */
    const int64_t *attr; /* integers that the operation is recorded with: ops.def, `attributes` */
    ad_shape shape;      /* opaque: rank -1 */
    const double *data;  /* constant, fill */
    int64_t ndata;
    const ad_opaque_class *class_; /* opaque */
    void *opaque;                  /* its data */
    void *state;                   /* opaque, lazy evaluation: its state */
    void *value;                   /* lazy evaluation: elements, NULL before */
    int64_t bytes;                 /* that computed elements take; 0: an input's are not counted */
    bool known;                    /* input: it has data; computed nodes: value is up to date */
    bool looked;                   /* ad_value has been asked for it */
    bool running;                  /* opaque: its evaluation is under way */
    int64_t rows;                  /* row input: rows of its data */
    size_t arena_mark;             /* where the arena stood before this node */
    /* Lazy evaluation: the list of computed nodes that hold a value (nodes.c), as numbers + 1; 0:
     * none. */
    bool listed;
    int32_t before, after;
} ad_node;

/* ---- the tape (tape.c, nodes.c, error.c, operands.c) ----------------------------------------- */

ad_node *ad_node_at(const ad_tape *tape, int32_t node); /* no checks */
/* What messages call an opaque operation. */
static inline const char *ad_opaque_name(const ad_opaque_class *class_, const void *data)
{
    return class_->called ? class_->called(data) : class_->name;
}
static inline const char *ad_node_name(const ad_node *n)
{
    return ad_opaque_name(n->class_, n->opaque);
}
int32_t ad_tape_size(const ad_tape *tape);
void *ad_arena_alloc(ad_tape *tape, size_t bytes); /* 16-byte aligned; NULL with the error set */
/* Appends a node; copies in and attr into the arena. The level comes from the operands (sources:
 * from op and attr) and the shape. */
ad_var ad_record(ad_tape *tape, ad_op op, int nin, const int32_t *in, int nattr,
                 const int64_t *attr, ad_shape shape);
ad_var ad_var_at(ad_tape *tape, int32_t node);
/* A variable that a caller holds stays on the path from its operands to what is computed from it:
 * derivatives by it may be asked for. So recording looks through an operand, to what lies before
 * it or to its constant value, only where the operand is inner: recorded since the call under way
 * began, and not yet returned by it. Programs have no derivatives, so compile/ looks through
 * everything. ad_inner_begin makes what is recorded from now on inner, besides what is inner
 * already, and ad_inner_none makes nothing inner (a rule of the user is about to run); both return
 * what ad_inner_end needs to undo this. */
int32_t ad_inner_begin(ad_tape *tape);
int32_t ad_inner_none(ad_tape *tape);
void ad_inner_end(ad_tape *tape, int32_t before);
bool ad_is_inner(ad_var x);
/* While an opaque operation of the tape runs, or a program with arrays of the tape, values stay
 * where they are: what would change or free them asks ad_tape_is_held, which sets the error. */
void ad_tape_hold(ad_tape *tape);
void ad_tape_release(ad_tape *tape);
bool ad_tape_is_held(ad_tape *tape, const char *what);
/* Gives a computed node its array, whose bytes count as the tape's until it is forgotten. How many
 * those are, how many they may be, and the limit that was given for them and for the memory of
 * solves (ad_tape_set_memory; 0: none). */
void ad_tape_hold_value(ad_tape *tape, ad_node *node, void *value, int64_t bytes);
int64_t ad_tape_computed(const ad_tape *tape);
int64_t ad_tape_most(const ad_tape *tape);
int64_t ad_tape_memory(const ad_tape *tape);
/* Says that a computed node (no input) is about to get a value, so that it can be forgotten. */
void ad_tape_note_value(ad_tape *tape, int32_t node);
/* Tells an error at once where the environment or the callback (which may be NULL) wants it.
 * `about`: the nodes it is about, if any; t may be NULL (report.c). */
void ad_report(const ad_tape *t, const char *message, int nabout, const int32_t *about,
               void (*callback)(const char *, void *), void *user);
/* What the tape's next error is about, until it is called again; none when n is 0. */
void ad_tape_about(ad_tape *tape, int n, const ad_var *x);
/* Text of an error that names an operation and the shapes of its operands: "ad_add: <reason>: a is
 * [2,3], b is [4]". */
ad_var ad_fail_shapes(ad_tape *tape, const char *op, const char *reason, int n, const ad_var *x);
/* The tape all of x are valid on; NULL after reporting (stale, invalid, tokens, or mixed tapes;
 * `what` names the operation). */
ad_tape *ad_common_tape(const char *what, int n, const ad_var *x);
/* The same for operands of opaque operations, which may be tokens of others. */
ad_tape *ad_common_tape_tokens(const char *what, int n, const ad_var *x);
/* Several lists of a call, by the names of its arguments. */
typedef struct {
    const char *name;
    int n;
    const ad_var *x;
    bool alone; /* one variable: an argument of its own */
} ad_list;
/* As ad_common_tape for all variables of the lists; NULL too where a list is NULL or its length
 * negative. The report is on the first tape that any variable has. */
ad_tape *ad_lists_tape(const char *what, int nlist, const ad_list *lists);
/* Makes n results, a list that may be NULL, invalid variables: of `tape`, or if that is NULL of the
 * tapes of the variables `of` (as many, or NULL). */
static inline void ad_clear_results(ad_tape *tape, int n, const ad_var *of, ad_var *result)
{
    if (!result) return;
    for (int i = 0; i < n; i++) result[i] = ad_none(tape ? tape : of ? of[i].tape : NULL);
}
/* Whether n results lie apart from all variables of the lists, which are read while results are
 * written; else reports. */
bool ad_results_apart(ad_tape *tape, const char *what, int n, const ad_var *result, int nlist,
                      const ad_list *lists);
/* Sets the tape's error "ad_what: argument is NULL". */
void ad_fail_null(ad_tape *tape, const char *what, const char *argument);
/* Whether s is a shape: rank, positive sizes, the row axis first if at all, a number of elements
 * that can be counted. Else reports. */
bool ad_check_shape(ad_tape *tape, const char *what, ad_shape s);
enum {
    AD_MAX_ELEMENTS_SHIFT = 59
}; /* arrays have fewer than 2^59 elements, so that sizes in bytes can be added */

/* How opaque operations are evaluated from now on (ad_opaque_call.refine). Values have to be
 * computed again; the arrays in which they lie stay. */
void ad_tape_set_refine(ad_tape *tape, int refine);
int ad_tape_refine(const ad_tape *tape);
/* Copies n numbers of one dtype as those of another (sources.c). */
void ad_convert(int64_t n, ad_dtype from, const void *data, ad_dtype to, void *out);
/* The shape with so many rows in the place of AD_ROWS. */
static inline ad_shape ad_with_rows(ad_shape s, int64_t rows)
{
    if (ad_has_rows(s)) s.dim[0] = rows;
    return s;
}

static inline ad_contraction ad_node_contraction(const ad_node *n)
{
    AD_ASSERT(n->op == AD_OP_contract);
    return ad_contraction_of(n->attr, n->nattr);
}

const char *ad_tape_advice(const ad_tape *tape); /* of ad_tape_set_traced, or NULL */

/* ---- what variables need (reach.c) ----------------------------------------------------------- */

/* Nodes in order of recording. */
typedef struct {
    int32_t *node;
    int32_t n;
} ad_reach;
typedef struct {
    int32_t first;     /* nodes recorded before this one are left out */
    int nend;          /* these are in the list where they are reached, and what they need is not */
    const ad_var *end; /* [nend] */
    bool values;       /* likewise nodes that have a value */
} ad_reach_limits;
/* The n variables x and what they need, each node once. false with the tape's error set: memory is
 * short. */
bool ad_reach_find(ad_reach *reach, ad_tape *tape, int n, const ad_var *x,
                   const ad_reach_limits *limits);
void ad_reach_clear(ad_reach *reach);
/* A byte for each node, all zero, for one search, which leaves them zero (nodes.c). NULL: memory is
 * short. */
char *ad_tape_marks(ad_tape *tape);

/* ---- recording for the other files of this room ---------------------------------------------- */

#define AD_CODED(name, ...) ad_var ad_##name(ad_var x);
#include "autodiff/ops.def"
/* Adds n operands into zeros of `shape` at start + i * rank (layout.c). */
ad_var ad_assemble(ad_tape *tape, int n, const ad_var *x, const int64_t *start, ad_shape shape);
/* Adds values [R,...] (R as of take) into zeros of the table's shape at the rows that index says:
 * the transpose of take. */
ad_var ad_put_add(ad_var values, ad_var index, ad_shape table);
/* Sums v over what broadcasting from `shape` stretched. */
ad_var ad_sum_to(ad_var v, ad_shape shape);
/* Sums over the axes of the mask, which stay with size 1. */
ad_var ad_sum_mask(ad_var x, uint32_t mask);

/* The mask, in its shape, of what taps touch of operand i of convolution y, or of y itself (i = 2);
 * invalid without an error: everything. */
ad_var ad_conv_touched(ad_var y, int i);

/* Many-operand contraction by labels (contract.c): operand i has labels[i][0..rank); the result
 * those of out. Labels are 0..AD_MAX_LABELS-1. Invalid without an error: no order was found in
 * which all intermediate results are arrays of at most AD_MAX_RANK axes. */
enum { AD_MAX_LABELS = 48, AD_MAX_FACTORS = 16 };
typedef struct {
    ad_var x;
    int8_t label[AD_MAX_RANK];
} ad_factor;
ad_var ad_contract_factors(ad_tape *tape, int n, const ad_factor *factors, int nout,
                           const int8_t *out);

#endif
