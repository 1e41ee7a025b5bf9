/* The tape: recording, marks and rewinding, the number of rows, what is being evaluated.
 *
 * A tape is a list of nodes in the order of recording, so operands stand before what uses them. A
 * node's level says what its value depends on, the highest among its operands; it decides in which
 * part of a program the value is computed. The storage is nodes.c, the error is error.c, checks of
 * operands are operands.c; one file for each kind of operation records it (sources, pointwise,
 * layout, reduce, index, contract, opaque). */
#include "autodiff/base/isa.h"
#include "autodiff/base/memory.h"
#include "autodiff/tape/store.h"
#include <stdlib.h>
#include <string.h>

enum { NODE_LIMIT = 10000000 /* about 3 GB */ };

/* Of computed values, where no limit is given: half the machine's memory. A loop that records and
 * never rewinds keeps the values of all its turns; it is to learn so before the machine is out of
 * memory. Data that the caller gives do not count. */
static int64_t usual_most(void)
{
    const char *said = getenv("COSTATE_MEMORY");
    return said && said[0] ? INT64_MAX : ad_machine_bytes() / 2;
}

ad_tape *ad_tape_new(ad_dtype dtype)
{
    ad_tape *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->dtype = dtype;
    t->epoch = 1;
    t->limit = NODE_LIMIT;
    t->inner = INT32_MAX;
    t->rows = -1;
    t->given_rows = -1;
    const char *error;
    ad_isa(&error);
    if (error) ad_fail(t, "COSTATE_ISA=%s: %s", getenv("COSTATE_ISA"), error);
    t->memory = ad_memory_limit(&error);
    if (error) ad_fail(t, "COSTATE_MEMORY=%s: %s", getenv("COSTATE_MEMORY"), error);
    t->most = t->memory ? t->memory : usual_most();
    return t;
}

void ad_tape_free(ad_tape *t)
{
    if (!t) return;
    ad_nodes_free(t);
    ad_cache_free(t);
    free(t->advice);
    free(t);
}

ad_dtype ad_tape_dtype(const ad_tape *t) { return t ? t->dtype : AD_F64; }

int32_t ad_tape_mark(const ad_tape *t) { return t ? t->nnode : 0; }

int64_t ad_tape_rows(const ad_tape *t) { return t ? t->rows : -1; }

int64_t ad_size(ad_var x)
{
    if (!ad_valid(x)) return -1;
    ad_shape s = ad_shape_of(x);
    if (s.rank < 0 || (ad_has_rows(s) && x.tape->rows < 0)) return -1;
    if (ad_has_rows(s) && x.tape->rows >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / ad_row_size(s))
        return -1;
    return ad_count(s, x.tape->rows);
}

void ad_tape_set_limit(ad_tape *t, int32_t operations)
{
    if (!t) return;
    if (operations < 0)
        ad_fail(t, "ad_tape_set_limit: %d operations; 0 is the default", (int)operations);
    else t->limit = operations ? operations : NODE_LIMIT;
}

void ad_tape_set_memory(ad_tape *t, int64_t bytes)
{
    if (!t) return;
    if (bytes < 0) {
        ad_fail(t, "ad_tape_set_memory: %lld bytes; 0 is no limit", (long long)bytes);
        return;
    }
    t->memory = bytes;
    t->most = bytes ? bytes : INT64_MAX;
}

int64_t ad_tape_memory(const ad_tape *t) { return t->memory; }

int64_t ad_tape_most(const ad_tape *t) { return t->most; }

/* The tape has lost row inputs: the number of rows is that of the first that is left. */
static void rows_of_first_input(ad_tape *t)
{
    int64_t rows = t->given_rows;
    for (int32_t i = 0; i < t->nnode && rows < 0; i++) {
        const ad_node *n = ad_node_at(t, i);
        if (n->op == AD_OP_input && n->known && ad_has_rows(n->shape)) rows = n->rows;
    }
    if (rows != t->rows) ad_tape_forget_values(t);
    t->rows = rows;
}

int ad_tape_set_rows(ad_tape *t, int64_t rows)
{
    if (!t || t->failed || (rows != t->rows && ad_tape_is_held(t, "ad_tape_set_rows"))) return -1;
    if (rows < 1 || rows >= (int64_t)1 << AD_MAX_ELEMENTS_SHIFT) {
        ad_fail(t, "ad_tape_set_rows: %lld rows %s", (long long)rows,
                rows < 1 ? "given; there is at least one" : "are too many");
        return -1;
    }
    int64_t before = t->given_rows;
    t->given_rows = -1;
    rows_of_first_input(t);
    if (t->rows >= 0 && t->rows != rows) {
        t->given_rows = before;
        ad_fail(t,
                "ad_tape_set_rows: %lld rows, but the row inputs of this tape have %lld (ad_set "
                "gives them others)",
                (long long)rows, (long long)t->rows);
        return -1;
    }
    if (t->rows != rows) ad_tape_forget_values(t);
    t->rows = t->given_rows = rows;
    return 0;
}

void ad_tape_hold(ad_tape *t)
{
    if (!t->held++) t->held_nodes = t->nnode;
}

void ad_tape_release(ad_tape *t)
{
    AD_ASSERT(t->held > 0);
    t->held--;
}

bool ad_tape_is_held(ad_tape *t, const char *what)
{
    if (t->held)
        ad_fail(t,
                "%s: this tape is being evaluated: a field of one of its solves (options.rerecord) "
                "must leave what it has alone",
                what);
    return t->held != 0;
}

void ad_tape_rewind(ad_tape *t, int32_t mark)
{
    if (!t || (mark < t->held_nodes && ad_tape_is_held(t, "ad_tape_rewind"))) return;
    if (mark < 0 || mark > t->nnode) {
        ad_fail(t, "ad_tape_rewind: mark %d is not a position of this tape, which has %d nodes",
                (int)mark, (int)t->nnode);
        return;
    }
    if (mark == t->nnode) return;
    bool rows_change = false;
    for (int32_t i = t->nnode - 1; i >= mark; i--) {
        const ad_node *n = ad_node_at(t, i);
        rows_change = rows_change || (n->op == AD_OP_input && n->known && ad_has_rows(n->shape));
    }
    ad_nodes_drop(t, mark);
    if (rows_change) rows_of_first_input(t);
}

/* Room for one more; NULL with the error set. */
static ad_node *new_node(ad_tape *t, ad_op op)
{
    if (t->nnode >= t->limit) {
        ad_fail(t,
                "ad_%s: the tape holds %d operations, its limit: a loop that records has to forget "
                "each time what it does not need any "
                "more (ad_tape_mark before, ad_tape_rewind after), or to compile it once "
                "(ad_compile); ad_tape_set_limit allows more",
                ad_ops[op].name, (int)t->nnode);
        return NULL;
    }
    ad_node *node = ad_node_room(t);
    if (!node)
        ad_fail(t, "ad_%s: out of memory on the tape (node %d)", ad_ops[op].name, (int)t->nnode);
    return node;
}

static ad_level level_of(const ad_tape *t, ad_op op, int nin, const int32_t *in,
                         const int64_t *attr, ad_shape shape)
{
    if (ad_has_rows(shape)) return AD_LEVEL_ROW;
    if (op == AD_OP_input) return (ad_level)attr[0];
    if (op == AD_OP_row_count) return AD_LEVEL_CALL;
    ad_level level = AD_LEVEL_CONSTANT;
    for (int i = 0; i < nin; i++) {
        ad_level l = ad_node_at(t, in[i])->level;
        if (l > level) level = l;
    }
    return level;
}

ad_var ad_record(ad_tape *t, ad_op op, int nin, const int32_t *in, int nattr, const int64_t *attr,
                 ad_shape shape)
{
    if (t->failed || (op != AD_OP_opaque && !ad_check_shape(t, ad_ops[op].name, shape)))
        return ad_none(t);
    for (int i = 0; i < nin; i++) AD_ASSERT(in[i] >= 0 && in[i] < t->nnode);
    AD_ASSERT(ad_ops[op].kind != AD_POINTWISE || nattr == 0);
    AD_ASSERT(op != AD_OP_contract || ad_contraction_of(attr, nattr).rank[2] == shape.rank);
    size_t mark = t->arena_used;
    int32_t *ins = nin ? ad_arena_alloc(t, (size_t)nin * sizeof *ins) : NULL;
    int64_t *attrs = nattr ? ad_arena_alloc(t, (size_t)nattr * sizeof *attrs) : NULL;
    if ((nin && !ins) || (nattr && !attrs)) return ad_none(t);
    ad_node *n = new_node(t, op);
    if (!n) return ad_none(t);
    if (nin) memcpy(ins, in, (size_t)nin * sizeof *ins);
    if (nattr) memcpy(attrs, attr, (size_t)nattr * sizeof *attrs);
    *n = (ad_node){ .op = op,
                    .epoch = t->epoch,
                    .nin = nin,
                    .nattr = nattr,
                    .in = ins,
                    .attr = attrs,
                    .shape = shape,
                    .level = level_of(t, op, nin, in, attr, shape),
                    .arena_mark = mark };
    return ad_var_at(t, t->nnode++);
}

int32_t ad_inner_begin(ad_tape *t)
{
    int32_t before = t->inner;
    if (t->nnode < before) t->inner = t->nnode;
    return before;
}

int32_t ad_inner_none(ad_tape *t)
{
    int32_t before = t->inner;
    t->inner = INT32_MAX;
    return before;
}

void ad_inner_end(ad_tape *t, int32_t before) { t->inner = before; }

bool ad_is_inner(ad_var x) { return x.node >= x.tape->inner; }

void ad_tape_set_refine(ad_tape *t, int refine)
{
    for (int32_t i = 0; i < t->nnode; i++) {
        ad_node *n = ad_node_at(t, i);
        n->known = n->known && n->op == AD_OP_input;
    }
    t->refine = refine;
}

int ad_tape_refine(const ad_tape *t) { return t->refine; }

void ad_tape_set_traced(ad_tape *t, const char *advice)
{
    if (!t) return;
    size_t n = advice ? strlen(advice) + 1 : 0;
    free(t->advice);
    t->advice = n ? malloc(n) : NULL;
    if (t->advice) memcpy(t->advice, advice, n);
}

const char *ad_tape_advice(const ad_tape *t) { return t->advice; }

void *ad_arena_alloc(ad_tape *t, size_t bytes)
{
    void *memory = ad_arena_take(t, bytes);
    if (!memory) ad_fail(t, "out of memory on the tape (%zu bytes)", bytes);
    return memory;
}
