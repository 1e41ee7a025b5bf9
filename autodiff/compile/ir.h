/* Internal: the intermediate representation of programs, and the passes that rewrite it. */
#ifndef COSTATE_IR_H
#define COSTATE_IR_H
#include "autodiff/base/memory.h"
#include "autodiff/tape/tape.h"

/* ---- intermediate representation (ir.c) ------------------------------------------------------ */

/* One value: as an ad_node, without what belongs to the tape. Operands are numbers of earlier
 * values. Equal values are the same value. */
typedef struct {
    ad_op op;
    /* of what it depends on; values with rows, and what is computed from them, are AD_LEVEL_ROW */
    ad_level level;
    int nin, nattr;
    const int32_t *in;
    const int64_t *attr; /* input: its level and its place in the list of inputs */
    ad_shape shape;
    const double *data; /* constant, fill */
    int64_t ndata;
    const ad_opaque_class *class_;
    void *opaque;
    int nout; /* opaque: number of results */
    int uses; /* while rewriting: operands and outputs that name it, as far as known */
} ad_inst;

typedef struct {
    int32_t number; /* of the value, + 1; 0: the entry is empty */
    uint32_t hash;
} ad_ir_entry;

typedef struct {
    ad_pool *pool;
    ad_dtype dtype;
    /* the first ninput are the inputs, in the order of ad_compile's list, whether used or not */
    ad_inst *inst;
    int32_t n, capacity;
    ad_ir_entry *table; /* hash table of the values; NULL: none can be added */
    int32_t table_size;
    int ninput, noutput;
    int32_t *output;
    bool failed; /* memory was short */
} ad_ir;

bool ad_ir_init(ad_ir *ir, ad_pool *pool, ad_dtype dtype, int32_t capacity);
void ad_ir_clear(ad_ir *ir);
/* Adds x, or finds its equal; sets the level. x->in, attr and data must live in the pool. On
 * failure sets ir->failed and returns 0. */
int32_t ad_ir_add(ad_ir *ir, const ad_inst *x);
/* A value of this shape whose elements are all the same. */
int32_t ad_make_fill(ad_ir *ir, ad_shape shape, double value);
/* Copies into the pool. On failure sets ir->failed and returns NULL. */
int32_t *ad_ir_ints(ad_ir *ir, int n, const int32_t *from);
int64_t *ad_ir_longs(ad_ir *ir, int n, const int64_t *from);
/* A rule makes the new value of x (its operands are new already): its number in ir. */
typedef int32_t (*ad_rule)(ad_ir *ir, ad_inst *x);
/* Rewrites every value by the rule, in order, and drops what is not needed any more. */
bool ad_ir_rewrite(ad_ir *ir, ad_rule rule);
/* Drops what no output needs. Nothing can be added afterwards. */
bool ad_ir_sweep(ad_ir *ir);
/* After that, while planning: a second value as an old one; -1: memory is short. */
int32_t ad_ir_copy(ad_ir *ir, int32_t value);
void ad_ir_count_uses(ad_ir *ir);
static inline bool ad_is_source(ad_op op) { return ad_ops[op].kind == AD_SOURCE; }
static inline bool ad_is_constant(const ad_inst *x) { return ad_has_trait(x->op, AD_CONSTANT); }
static inline ad_contraction ad_inst_contraction(const ad_inst *x)
{
    AD_ASSERT(x->op == AD_OP_contract);
    return ad_contraction_of(x->attr, x->nattr);
}
/* Whether x reduces over the row axis. */
bool ad_inst_reduces(const ad_ir *ir, const ad_inst *x);

/* Floating-point operations of a contraction or convolution, for each row where it has rows; 0 of
 * anything else. */
double ad_product_flop(const ad_ir *ir, const ad_inst *x);

/* ---- passes ---------------------------------------------------------------------------------- */

bool ad_pass_simplify(ad_ir *ir);
bool ad_pass_fold(ad_ir *ir);
bool ad_pass_layout(ad_ir *ir);
bool ad_pass_combine(ad_ir *ir);
/* The value that the simplifying rules make of x (rules use it for what they make in turn). */
int32_t ad_simplified(ad_ir *ir, ad_inst *x);
/* Signs and powers of two in a product or negation, moved to where they cost least (scale.c): the
 * number of the equal value, or -1. */
int32_t ad_move_scales(ad_ir *ir, const ad_inst *x);
/* Writes the elements of a constant, fill or eye (without rows) in the program's dtype. */
void ad_constant_write(const ad_ir *ir, const ad_inst *x, void *out);
/* A constant of x's shape with these elements (of the program's dtype); a fill when they are all
 * the same. */
int32_t ad_constant_add(ad_ir *ir, ad_shape shape, const void *elements);
/* NULL, or what is wrong with the representation (a static text); `where` gets the value. */
const char *ad_verify_ir(const ad_ir *ir, int32_t *where);

#endif
