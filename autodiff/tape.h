/* Internal: the tape's nodes, shared by recording (tape.c, record.c), rules, evaluation and compilation. */
#ifndef COSTATE_TAPE_H
#define COSTATE_TAPE_H
#include "extension.h"
#include <stdbool.h>

typedef enum {
#define AD_UNARY(name, ...) AD_OP_##name,
#define AD_BINARY(name, ...) AD_OP_##name,
#define AD_TERNARY(name, ...) AD_OP_##name,
#define AD_STRUCTURAL(name, ...) AD_OP_##name,
#include "ops.def"
    AD_OP_COUNT
} ad_op;

typedef enum { AD_POINTWISE, AD_LINEAR, AD_CONTRACT, AD_OPAQUE, AD_SOURCE } ad_kind;

typedef struct {
    const char *name; /* "tanh" */
    ad_kind kind;
    int arity;        /* of pointwise operations; -1 otherwise */
} ad_op_info;
extern const ad_op_info ad_ops[AD_OP_COUNT];

/* What a value depends on, in order; a node's level is the highest among its operands (a reduction over rows stays AD_LEVEL_ROW:
 * `shape` says that it has no row axis, `level` that it was computed from rows). */
typedef enum { AD_LEVEL_CONSTANT, AD_LEVEL_PARAMETER, AD_LEVEL_CALL, AD_LEVEL_ROW } ad_level;

/* Integer attributes, by operation:
 *   input       level, serial number
 *   constant    - (data: elements)        fill  - (data: one element)        eye  offset        row_count  -
 *   sum, reduce_max   bit mask of the reduced axes, which stay with size 1 (removing them is a reshape)
 *   reshape, broadcast   - (the node's shape says it; broadcast: same rank as its operand, sizes 1 are stretched)
 *   transpose   permutation[rank]: result axis i is operand axis permutation[i]
 *   slice       start[rank] (the node's shape has the sizes)
 *   assemble    start[rank] of each operand in turn: operands are added into zeros at these places (pad, concatenate, adjoint of slices)
 *   flip        bit mask of axes
 *   gather      axis, indices...            scatter_add  axis, indices... (result size in the node's shape)
 *   cumsum      axis, reverse
 *   take        - (operands table, index)   put_add - (operands values, index: the transpose of take; table's shape is the node's)
 *   locate      - (operands t, knots)
 *   contract    na, nb, nout, labels of a, of b, of the result (small non-negative integers; distinct within each list;
 *               every label of the result occurs in a or b)
 *   opaque      - (opaque: class and data)  project  k: output k of the opaque operation that is its operand */
typedef struct {
    ad_op op;
    ad_level level;
    uint32_t epoch;
    int nin, nattr;
    const int32_t *in;    /* operands: node numbers, smaller than this node's */
    const int64_t *attr;
    ad_shape shape;       /* opaque: rank -1 */
    const double *data;   /* constant, fill */
    int64_t ndata;
    const ad_opaque_class *class_; /* opaque */
    void *opaque;                  /* its data */
    void *state;          /* opaque, lazy evaluation: its state */
    void *value;          /* lazy evaluation: elements, NULL before */
    bool known;           /* input: it has data; computed nodes: value is up to date */
} ad_node;

/* ---- shapes (shape.c) ------------------------------------------------------------------------------------------------------------ */

static inline bool ad_has_rows(ad_shape s) { return s.rank > 0 && s.dim[0] == AD_ROWS; }
/* Elements of s with n rows; without the row axis, the second argument does not matter. */
int64_t ad_count(ad_shape s, int64_t rows);
/* Elements of one row (of all of s when it has no row axis). */
int64_t ad_row_size(ad_shape s);
bool ad_same_shape(ad_shape a, ad_shape b);
/* NumPy broadcasting; the row axis must lead in both of equal rank, or one operand has no row axis and broadcasts. false: incompatible. */
bool ad_broadcast_shapes(ad_shape a, ad_shape b, ad_shape *out);

/* ---- tape (tape.c) --------------------------------------------------------------------------------------------------------------- */

ad_node *ad_node_at(const ad_tape *tape, int32_t node);   /* no checks */
int32_t ad_tape_size(const ad_tape *tape);
void *ad_arena_alloc(ad_tape *tape, size_t bytes);        /* 16-byte aligned; NULL with the error set */
/* Appends a node; copies in, attr and data into the arena. Shape and level are the caller's (level < 0: from the operands). */
ad_var ad_record(ad_tape *tape, ad_op op, int nin, const int32_t *in, int nattr, const int64_t *attr, ad_shape shape);
ad_var ad_var_at(ad_tape *tape, int32_t node);
/* The tape all of x are valid on; NULL after reporting (stale, invalid, or mixed tapes; `what` names the operation). */
ad_tape *ad_common_tape(const char *what, int n, const ad_var *x);
static inline size_t ad_dtype_size(ad_dtype t) { return t == AD_F32 ? sizeof(float) : sizeof(double); }

#endif
