/* Internal: what is known of each operation (ops.def has the words' meanings), what the integers of
 * a contraction say, and the identities of algebra that are exact. */
#ifndef COSTATE_OPS_H
#define COSTATE_OPS_H
#include "autodiff/extension.h"

typedef enum {
#define AD_UNARY(name, ...) AD_OP_##name,
#define AD_BINARY(name, ...) AD_OP_##name,
#define AD_TERNARY(name, ...) AD_OP_##name,
#define AD_STRUCTURAL(name, ...) AD_OP_##name,
#include "autodiff/ops.def"
    AD_OP_COUNT
} ad_op;

typedef enum {
    AD_POINTWISE,
    AD_LINEAR,
    AD_CONTRACT,
    AD_CONVOLUTION,
    AD_NONLINEAR,
    AD_FLAT,
    AD_SOURCE,
    AD_OPAQUE,
    AD_RESULT
} ad_kind;

typedef enum {
    AD_ATTR_NONE,
    AD_ATTR_AXIS,
    AD_ATTR_AXES,
    AD_ATTR_PERMUTATION,
    AD_ATTR_WINDOWS,
    AD_ATTR_LABELS,
    AD_ATTR_SWEEP,
    AD_ATTR_LEVEL,
    AD_ATTR_OFFSET,
    AD_ATTR_COUNT,
    AD_ATTR_NUMBER
} ad_attributes;

enum {
    AD_CHEAP = 1 << 0,
    AD_POLE = 1 << 1,
    AD_SELECTS = 1 << 2,
    AD_SIGNS = 1 << 3,
    AD_OMITS = 1 << 4,
    AD_FILLS = 1 << 5,
    AD_REDUCES = 1 << 6,
    AD_MAXIMUM = 1 << 7,
    AD_BATCHED = 1 << 8,
    AD_VIEW = 1 << 9,
    AD_CONSTANT = 1 << 10,
    AD_INDEX_1 = 1 << 11,
    AD_AT_ZERO = 1 << 12,
    AD_NOT_NEGATIVE = 1 << 13
};

typedef struct {
    const char *name; /* "tanh" */
    ad_kind kind;
    int arity; /* of pointwise operations; -1 otherwise */
    ad_attributes attributes;
    unsigned traits; /* AD_CHEAP, ... joined */
} ad_op_info;
extern const ad_op_info ad_ops[AD_OP_COUNT];
static inline bool ad_has_trait(ad_op op, unsigned trait)
{
    return (ad_ops[op].traits & trait) != 0;
}

/* Operations that are recorded in two, by way of a code (ops.def). */
typedef struct {
    ad_op whole, code, of_code;
} ad_coded;
enum {
#define AD_BY_CODE(name) AD_CODED_##name,
#include "autodiff/ops.def"
    AD_CODED_OPS
};
extern const ad_coded ad_coded_ops[AD_CODED_OPS];
/* That of which op decodes the code; NULL: it decodes none. */
static inline const ad_coded *ad_decoded_by(ad_op op)
{
    for (int k = 0; k < AD_CODED_OPS; k++)
        if (ad_coded_ops[k].of_code == op) return &ad_coded_ops[k];
    return NULL;
}

/* ---- contractions ---------------------------------------------------------------------------- */

/* The axes of the two operands and of the result by labels: small non-negative integers, distinct
 * within each list. Every label of the result occurs in an operand. The pointers are into the
 * attributes, which are three ranks and then three lists. */
typedef struct {
    int rank[3]; /* of operand 0, of operand 1, of the result */
    const int64_t *label[3];
} ad_contraction;
enum { AD_CONTRACTION_MOST = 3 + 3 * AD_MAX_RANK }; /* attributes */

static inline ad_contraction ad_contraction_of(const int64_t *attr, int nattr)
{
    ad_contraction c;
    const int64_t *from = attr + 3;
    for (int k = 0; k < 3; k++) {
        AD_ASSERT(attr[k] >= 0 && attr[k] <= AD_MAX_RANK);
        c.rank[k] = (int)attr[k];
        c.label[k] = from;
        from += c.rank[k];
    }
    AD_ASSERT(from == attr + nattr);
    (void)nattr;
    return c;
}
/* Writes the attributes, AD_CONTRACTION_MOST at most; returns how many. */
static inline int ad_contraction_write(const ad_contraction *c, int64_t *attr)
{
    int n = 3;
    for (int k = 0; k < 3; k++) {
        AD_ASSERT(c->rank[k] >= 0 && c->rank[k] <= AD_MAX_RANK);
        attr[k] = c->rank[k];
        for (int i = 0; i < c->rank[k]; i++) attr[n++] = c->label[k][i];
    }
    return n;
}
/* The place of a label among n; -1: it is not there. */
static inline int ad_label_find(const int64_t *label, int n, int64_t what)
{
    for (int i = 0; i < n; i++)
        if (label[i] == what) return i;
    return -1;
}

/* ---- convolutions ---------------------------------------------------------------------------- */

/* The arrays of the trilinear form sum over o, k of x[o * stride - before + k * dilation,c]
 * w[k,c,d] y[o,d]. Each operation is its derivative by one of them, and has the other two as
 * operands, in this order. */
typedef enum { AD_FACE_X, AD_FACE_W, AD_FACE_Y } ad_face;
static inline ad_face ad_face_of(ad_op op)
{
    AD_ASSERT(op == AD_OP_conv || op == AD_OP_conv_transpose || op == AD_OP_conv_weight);
    return op == AD_OP_conv ? AD_FACE_Y : op == AD_OP_conv_weight ? AD_FACE_W : AD_FACE_X;
}
/* Which array operand i is; the second of conv_transpose is w as well. */
static inline ad_face ad_face_operand(ad_op op, int i)
{
    switch (ad_face_of(op)) {
    case AD_FACE_Y: return i ? AD_FACE_W : AD_FACE_X;
    case AD_FACE_X: return i ? AD_FACE_W : AD_FACE_Y;
    default: return i ? AD_FACE_Y : AD_FACE_X;
    }
}

typedef struct {
    int axes; /* spatial ones: 1 or 2 */
    int64_t groups, stride[2], before[2], dilation[2];
} ad_sweep;
enum { AD_SWEEP_MOST = 8 }; /* attributes */

static inline ad_sweep ad_sweep_of(const int64_t *attr, int nattr)
{
    ad_sweep s = { .axes = (int)attr[0], .groups = attr[1] };
    AD_ASSERT(nattr == 2 + 3 * s.axes && s.axes >= 1 && s.axes <= 2);
    (void)nattr;
    for (int a = 0; a < s.axes; a++) {
        s.stride[a] = attr[2 + 3 * a];
        s.before[a] = attr[3 + 3 * a];
        s.dilation[a] = attr[4 + 3 * a];
    }
    return s;
}
/* Writes the attributes, AD_SWEEP_MOST at most; returns how many. */
static inline int ad_sweep_write(const ad_sweep *s, int64_t *attr)
{
    int n = 0;
    attr[n++] = s->axes;
    attr[n++] = s->groups;
    for (int a = 0; a < s->axes; a++) {
        attr[n++] = s->stride[a];
        attr[n++] = s->before[a];
        attr[n++] = s->dilation[a];
    }
    return n;
}

/* ---- identities ------------------------------------------------------------------------------ */

/* An operand, on a tape or in a program. */
typedef struct {
    int32_t number; /* of the value */
    ad_op op;       /* that made it */
    double fill;    /* op is fill: the value of all its elements */
    int32_t first;  /* the first operand of op, if it has any */
} ad_operand;
/* The number of the value that op of these operands equals, to the bit, for all values of the
 * operands, or -1. Shapes are not looked at: where an operand is stretched, it equals that operand
 * broadcast. */
int32_t ad_identity(ad_op op, int n, const ad_operand *x);

#endif
