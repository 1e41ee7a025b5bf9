/* ad_compile: collects what the outputs need, runs the passes, plans. A program is a function of
 * the recording alone: values are collected depth first from the outputs, so equal functions give
 * equal programs whatever else is on the tape. */
#include "autodiff/plan/program.h"
#include "autodiff/base/isa.h"
#include <stdlib.h>
#include <string.h>

/* Passes in their order; each leaves a valid representation. */
static const struct {
    const char *name;
    bool (*run)(ad_ir *ir);
} passes[] = {
    { "simplify", ad_pass_simplify },       { "fold", ad_pass_fold },
    { "simplify again", ad_pass_simplify }, { "layout", ad_pass_layout },
    { "fold layouts", ad_pass_fold },       { "combine", ad_pass_combine },
};
enum { PASSES = sizeof passes / sizeof *passes };

const char *ad_pass_name(int pass) { return pass >= 0 && pass < PASSES ? passes[pass].name : NULL; }

/* ---- collecting ---- */

typedef struct {
    ad_tape *tape;
    ad_program *program;
    ad_ir *ir;
    int32_t *number; /* of every node of the tape: its value + 1, or 0 */
    struct frame {
        int32_t node;
        int next; /* operand to visit next */
    } * stack;
    int depth, capacity;
} collector;

static bool push(collector *c, int32_t node)
{
    if (c->depth == c->capacity) {
        int capacity = c->capacity ? 2 * c->capacity : 256;
        struct frame *more = realloc(c->stack, (size_t)capacity * sizeof *more);
        if (!more) return false;
        c->stack = more;
        c->capacity = capacity;
    }
    c->stack[c->depth++] = (struct frame){ node, 0 };
    return true;
}

static void fail_unlisted(ad_tape *tape, int output, const ad_node *node)
{
    char shape[160];
    ad_format_shape(node->shape, shape, sizeof shape);
    ad_fail(
        tape,
        "ad_compile: output %d depends on an input of shape %s that is not in the list of inputs",
        output, shape);
}

/* Keeps the data of an opaque operation for as long as the program lives, whatever the passes make
 * of the operation. */
static bool hold(collector *c, const ad_inst *x)
{
    ad_held *held = ad_pool_alloc(c->ir->pool, sizeof *held);
    if (!held) {
        c->ir->failed = true;
        return false;
    }
    *held = (ad_held){ c->program->held, x->class_, x->opaque };
    c->program->held = held;
    if (x->class_->retain) x->class_->retain(x->opaque);
    return true;
}

/* The value of a node whose operands have been added. */
static int32_t add_node(collector *c, const ad_node *node)
{
    ad_inst x = { .op = node->op,
                  .nin = node->nin,
                  .nattr = node->nattr,
                  .shape = node->shape,
                  .ndata = node->ndata,
                  .class_ = node->class_,
                  .opaque = node->opaque,
                  .nout = node->op == AD_OP_opaque ? (int)node->attr[0] : 0 };
    int32_t *in = ad_ir_ints(c->ir, node->nin, node->in);
    int64_t *attr = ad_ir_longs(c->ir, node->nattr, node->attr);
    double *data = ad_pool_alloc(c->ir->pool, (size_t)node->ndata * sizeof *data + 1);
    if (!in || !attr || !data) {
        c->ir->failed = true;
        return 0;
    }
    for (int k = 0; k < node->nin; k++) in[k] = c->number[node->in[k]] - 1;
    if (node->ndata) memcpy(data, node->data, (size_t)node->ndata * sizeof *data);
    x.in = in;
    x.attr = attr;
    x.data = data;
    if (x.op == AD_OP_opaque && !hold(c, &x)) return 0;
    return ad_ir_add(c->ir, &x);
}

/* Depth first, operands in their order: the order of the values follows from the outputs alone, not
 * from that of recording. */
static bool collect(collector *c, int output, int32_t node)
{
    if (!c->number[node] && !push(c, node)) return false;
    while (c->depth) {
        struct frame *top = &c->stack[c->depth - 1];
        const ad_node *n = ad_node_at(c->tape, top->node);
        if (n->op == AD_OP_input && !c->number[top->node]) {
            fail_unlisted(c->tape, output, n);
            return false;
        }
        if (!c->number[top->node] && top->next < n->nin) {
            int32_t operand = n->in[top->next++];
            if (!c->number[operand] && !push(c, operand)) return false;
            continue;
        }
        if (!c->number[top->node]) c->number[top->node] = add_node(c, n) + 1;
        if (c->ir->failed) return false;
        c->depth--;
    }
    return true;
}

static bool add_inputs(collector *c, int ninput, const ad_var *inputs)
{
    c->ir->ninput = ninput;
    for (int i = 0; i < ninput; i++) {
        const ad_node *n = ad_node_at(c->tape, inputs[i].node);
        if (n->op != AD_OP_input) {
            ad_fail(c->tape,
                    "ad_compile: input %d is the result of ad_%s; inputs are made by ad_param, "
                    "ad_input or ad_input_rows",
                    i, ad_ops[n->op].name);
            return false;
        }
        if (c->number[inputs[i].node]) {
            ad_fail(c->tape, "ad_compile: input %d is already in the list, as input %d", i,
                    (int)c->number[inputs[i].node] - 1);
            return false;
        }
        int64_t *attr = ad_ir_longs(c->ir, 2, (int64_t[]){ n->level, i });
        if (!attr) return false;
        c->number[inputs[i].node] =
            1 +
            ad_ir_add(c->ir,
                      &(ad_inst){ .op = AD_OP_input, .nattr = 2, .attr = attr, .shape = n->shape });
    }
    return !c->ir->failed;
}

static bool collect_all(ad_program *p, ad_tape *tape, int ninput, const ad_var *inputs, int noutput,
                        const ad_var *outputs)
{
    collector c = { .tape = tape,
                    .program = p,
                    .ir = &p->ir,
                    .number = calloc((size_t)ad_tape_size(tape) + 1, sizeof *c.number) };
    p->ir.output = ad_pool_alloc(&p->pool, ((size_t)noutput + 1) * sizeof *p->ir.output);
    bool ok = c.number && p->ir.output && add_inputs(&c, ninput, inputs);
    for (int j = 0; j < noutput && ok; j++) {
        ok = collect(&c, j, outputs[j].node);
        if (ok) p->ir.output[p->ir.noutput++] = c.number[outputs[j].node] - 1;
    }
    for (int j = 0; j < noutput && ok; j++)
        if (ad_node_at(tape, outputs[j].node)->op == AD_OP_opaque) {
            ad_fail(
                tape,
                "ad_compile: output %d is the token of the opaque operation %s, which has no value",
                j, ad_node_name(ad_node_at(tape, outputs[j].node)));
            ok = false;
        }
    free(c.stack);
    free(c.number);
    return ok;
}

/* ---- passes ---- */

#ifndef NDEBUG
static bool verified(ad_tape *tape, const ad_program *p, const char *pass, bool planned)
{
    int32_t where = 0;
    const char *wrong = planned ? ad_verify_plan(p, &where) : ad_verify_ir(&p->ir, &where);
    if (wrong)
        ad_fail(tape, "ad_compile: internal error after pass \"%s\": value %d (%s): %s", pass,
                (int)where, ad_ops[p->ir.inst[where].op].name, wrong);
    return !wrong;
}
#else
static bool verified(ad_tape *tape, const ad_program *p, const char *pass, bool planned)
{
    (void)tape, (void)p, (void)pass, (void)planned;
    return true;
}
#endif

/* Whether the program has rows, and how many it can have. */
static void count_rows(ad_program *p)
{
    int64_t widest = 1;
    for (int32_t i = 0; i < p->ir.n; i++) {
        bool rows = ad_has_rows(p->ir.inst[i].shape);
        p->has_rows = p->has_rows || rows || p->ir.inst[i].op == AD_OP_row_count;
        if (rows && i < p->ir.ninput && ad_row_size(p->ir.inst[i].shape) > widest)
            widest = ad_row_size(p->ir.inst[i].shape);
    }
    for (int j = 0; j < p->ir.noutput; j++) {
        ad_shape out = p->ir.inst[p->ir.output[j]].shape;
        if (ad_has_rows(out) && ad_row_size(out) > widest) widest = ad_row_size(out);
    }
    p->most_rows = INT64_MAX / (int64_t)sizeof(double) / widest;
}

static bool transform(ad_tape *tape, ad_program *p, uint32_t without)
{
    if (!verified(tape, p, "collect", false)) return false;
    for (int k = 0; k < PASSES; k++)
        if (!(without >> k & 1) &&
            (!passes[k].run(&p->ir) || !verified(tape, p, passes[k].name, false)))
            return false;
    ad_ir_count_uses(&p->ir);
    count_rows(p);
    return ad_plan(p) && verified(tape, p, "plan", true);
}

static void fail_compiling(ad_tape *tape, const ad_program *p)
{
    if (p && p->without_kernel) ad_fail(tape, "ad_compile: no kernel for ad_%s", p->without_kernel);
    else if (p && p->refused > 0)
        ad_fail(tape,
                "ad_compile: out of memory: the program needs %lld bytes whatever its rows; this "
                "machine has %lld",
                (long long)p->refused, (long long)ad_machine_bytes());
    else if (p && p->refused < 0)
        ad_fail(tape,
                "ad_compile: out of memory: the program needs more bytes than can be addressed");
    else ad_fail(tape, "ad_compile: out of memory");
}

ad_program *ad_compile(int ninput, const ad_var *inputs, int noutput, const ad_var *outputs)
{
    return ad_compile_with(&(ad_compile_options){ 0 }, ninput, inputs, noutput, outputs);
}

ad_program *ad_compile_with(const ad_compile_options *options, int ninput, const ad_var *inputs,
                            int noutput, const ad_var *outputs)
{
    const ad_list lists[] = { { "outputs", noutput, outputs, false },
                              { "inputs", ninput, inputs, false } };
    ad_tape *tape = ad_lists_tape("compile", 2, lists);
    if (!tape) return NULL;
    if (noutput < 1) {
        ad_fail(tape, "ad_compile: there are no outputs");
        return NULL;
    }
    ad_program *p = calloc(1, sizeof *p);
    if (p) {
        atomic_init(&p->references, 1);
        p->isa = ad_isa(NULL);
        p->block_rows = options->block_rows;
        p->interpreted = options->interpreted || !ad_native_wanted();
        p->divide = options->divide;
        p->chunks = options->chunks;
        if (ad_ir_init(&p->ir, &p->pool, ad_tape_dtype(tape), 256) &&
            collect_all(p, tape, ninput, inputs, noutput, outputs) &&
            transform(tape, p, options->without))
            return p;
    }
    fail_compiling(tape, p);
    ad_program_free(p);
    return NULL;
}

ad_program *ad_program_retain(ad_program *p)
{
    if (p) atomic_fetch_add(&p->references, 1);
    return p;
}

void ad_program_free(ad_program *p)
{
    if (!p || atomic_fetch_sub(&p->references, 1) != 1) return;
    for (int32_t s = 0; s < p->nstep; s++)
        if (p->step[s].kind == AD_STEP_KERNEL) ad_kernel_clear(&p->step[s].kernel);
    for (const ad_held *h = p->held; h; h = h->next)
        if (h->class_->release) h->class_->release(h->opaque);
    for (int i = 0; i < 2; i++) ad_pieces_free(atomic_load(&p->pieces[i]));
    free(p->constants);
    ad_ir_clear(&p->ir);
    ad_pool_clear(&p->pool);
    free(p);
}

int64_t ad_program_fill_rows(const ad_program *p)
{
    bool body = false;
    for (int f = 0; p && f < p->nphase; f++)
        body = body || p->phase[f].body_steps[0] < p->phase[f].sum_steps[1];
    return body && !p->nopaque ? p->block_rows : 0;
}

int64_t ad_program_bytes_per_row(const ad_program *p)
{
    return p ? ad_size_add(p->block_row_bytes, p->complete_row_bytes) : 0;
}
