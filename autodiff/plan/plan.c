/* Planning: in which phase every value is computed, where it is kept, and the steps that compute
 * it.
 *
 * A value is a source, a view of another (which shares its root's memory), uniform (without rows:
 * computed in a U), of rows (in a body), a reduction over rows (made in a body, finished in the
 * next U), or opaque (in a U, on complete arrays). The phase of a value is the first in which all
 * its operands are ready. What is read in the body that makes it stays in block memory; what
 * another phase or an opaque operation reads is a complete array. Then the steps are listed in
 * order, the parts of the plan that have files of their own are made (lanes, groups, blocks), and
 * the kernels are prepared for the number of rows that a block has. */
#include "autodiff/plan/program.h"
#include <stdlib.h>
#include <string.h>

/* How a value comes about. */
typedef enum {
    KIND_SOURCE,
    KIND_VIEW,
    KIND_UNIFORM,
    KIND_ROWS,
    KIND_REDUCTION,
    KIND_OPAQUE,
    KIND_RESULT
} kind;

static kind kind_of(const ad_program *p, int32_t i)
{
    const ad_inst *x = &p->ir.inst[i];
    if (ad_inst_reduces(&p->ir, x)) return KIND_REDUCTION;
    if (p->slot[i].root != i) return KIND_VIEW;
    if (ad_ops[x->op].kind == AD_OPAQUE) return KIND_OPAQUE;
    if (ad_ops[x->op].kind == AD_RESULT) return KIND_RESULT;
    if (x->op == AD_OP_input || (ad_is_constant(x) && !ad_has_rows(x->shape))) return KIND_SOURCE;
    return ad_has_rows(x->shape) ? KIND_ROWS : KIND_UNIFORM;
}

/* ---- views ---- */

/* Whether a slice without rows is a stretch of consecutive elements of its operand, and where it
 * begins. */
static bool is_stretch(const ad_ir *ir, const ad_inst *x, int64_t *offset)
{
    ad_shape from = ir->inst[x->in[0]].shape;
    if (ad_has_rows(from)) return false;
    int lead = 0;
    while (lead < x->shape.rank && x->shape.dim[lead] == 1) lead++;
    for (int i = lead + 1; i < x->shape.rank; i++)
        if (x->shape.dim[i] != from.dim[i]) return false;
    *offset = 0;
    for (int i = 0; i < x->shape.rank; i++) *offset = *offset * from.dim[i] + x->attr[i];
    return true;
}

static void find_views(ad_program *p)
{
    for (int32_t i = 0; i < p->ir.n; i++) {
        const ad_inst *x = &p->ir.inst[i];
        int64_t offset = 0;
        p->slot[i] = (ad_slot){ .root = i };
        if (!ad_has_trait(x->op, AD_VIEW)) continue;
        if (x->op == AD_OP_slice && !is_stretch(&p->ir, x, &offset)) continue;
        const ad_slot *from = &p->slot[x->in[0]];
        p->slot[i].root = from->root;
        p->slot[i].offset = from->offset + offset * (int64_t)ad_dtype_size(p->ir.dtype);
    }
}

/* ---- phases ---- */

/* Where all is made of parameters, there is no run for which something would be worth keeping, and
 * outputs need not be copied from what is kept: it is made in every run, as what a call decides. */
static void make_anew(ad_ir *ir)
{
    for (int32_t i = 0; i < ir->n; i++)
        if (ir->inst[i].level > AD_LEVEL_PARAMETER) return;
    for (int32_t i = ir->ninput; i < ir->n; i++)
        if (ir->inst[i].level == AD_LEVEL_PARAMETER) ir->inst[i].level = AD_LEVEL_CALL;
}

/* The first phase in which value i can be read: by a body, or by U as a whole. */
static int ready(const ad_program *p, int32_t i, bool body)
{
    kind k = kind_of(p, p->slot[i].root);
    int phase = p->slot[p->slot[i].root].phase;
    return k == KIND_REDUCTION || (k == KIND_ROWS && !body) ? phase + 1 : phase;
}

static void assign_phases(ad_program *p)
{
    p->nphase = 1;
    for (int32_t i = 0; i < p->ir.n; i++) {
        const ad_inst *x = &p->ir.inst[i];
        kind k = kind_of(p, i);
        for (int j = 0; j < x->nin; j++) {
            int r =
                ready(p, x->in[j], k == KIND_ROWS || k == KIND_REDUCTION || ad_has_rows(x->shape));
            if (r > p->slot[i].phase) p->slot[i].phase = r;
        }
        if (p->slot[i].phase >= p->nphase) p->nphase = p->slot[i].phase + 1;
    }
}

/* ---- places ---- */

static ad_place place_of(const ad_program *p, int32_t i)
{
    const ad_inst *x = &p->ir.inst[i];
    switch (kind_of(p, i)) {
    case KIND_SOURCE: return x->op == AD_OP_input ? AD_PLACE_INPUT : AD_PLACE_CONSTANT;
    case KIND_UNIFORM: return AD_PLACE_UNIFORM;
    case KIND_REDUCTION: return AD_PLACE_LANES;
    case KIND_RESULT: return ad_has_rows(x->shape) ? AD_PLACE_COMPLETE : AD_PLACE_UNIFORM;
    case KIND_ROWS: return AD_PLACE_BLOCK;
    default: return AD_PLACE_NONE;
    }
}

/* Smaller sums over rows are added up in lanes, block by block, while their operands are in the
 * caches. */
enum { DIVIDED_BYTES = 256 * 1024 };

/* Whether value i by itself can be made in pieces. */
static bool divides(const ad_program *p, int32_t i)
{
    const ad_inst *x = &p->ir.inst[i];
    const int64_t elements = ad_row_size(x->shape), size = (int64_t)ad_dtype_size(p->ir.dtype);
    const bool small = ad_inst_reduces(&p->ir, x) && elements < DIVIDED_BYTES / size;
    if (x->op != AD_OP_contract || (small && !p->divide)) return false;
    const ad_shape shapes[2] = { p->ir.inst[x->in[0]].shape, p->ir.inst[x->in[1]].shape };
    return ad_kernel_divides(&(ad_kernel){ .op = x->op,
                                           .dtype = p->ir.dtype,
                                           .nin = 2,
                                           .in_shapes = shapes,
                                           .out = x->shape,
                                           .nattr = x->nattr,
                                           .attr = x->attr });
}

/* Large sums are made in pieces if all that are added up in one array can be. Their operands are
 * kept for a stretch of rows. */
static void place_sums(ad_program *p)
{
    const ad_ir *ir = &p->ir;
    bool any = false;
    for (int32_t i = 0; i < ir->n; i++) {
        if (p->slot[i].place != AD_PLACE_LANES || p->slot[i].root != i || !divides(p, i)) continue;
        p->slot[i].place = AD_PLACE_SUM;
        any = true;
    }
    if (!any) return;
    for (int32_t i = 0; i < ir->n; i++) {
        ad_slot *r = &p->slot[p->slot[i].root];
        if (r->place == AD_PLACE_SUM && ad_inst_reduces(ir, &ir->inst[i]) && !divides(p, i))
            r->place = AD_PLACE_LANES;
    }
    for (int32_t i = 0; i < ir->n; i++) {
        if (!ad_inst_reduces(ir, &ir->inst[i]) || p->slot[p->slot[i].root].place != AD_PLACE_SUM)
            continue;
        for (int j = 0; j < ir->inst[i].nin; j++) {
            ad_slot *r = &p->slot[p->slot[ir->inst[i].in[j]].root];
            if (r->place == AD_PLACE_BLOCK) r->place = AD_PLACE_STRETCH;
            if (r->place == AD_PLACE_OUTPUT) r->place = AD_PLACE_COMPLETE;
        }
    }
}

static void assign_places(ad_program *p)
{
    ad_ir *ir = &p->ir;
    for (int32_t i = 0; i < ir->n; i++) p->slot[i].place = place_of(p, i);
    for (int j = 0; j < ir->noutput; j++) {
        ad_slot *r = &p->slot[p->slot[ir->output[j]].root];
        if (r->place == AD_PLACE_BLOCK) r->place = AD_PLACE_OUTPUT;
    }
    /* Rows that a later phase reads, as opaque operations do, are kept complete. */
    for (int32_t i = 0; i < ir->n; i++) {
        kind k = kind_of(p, i);
        for (int j = 0; j < ir->inst[i].nin && k != KIND_VIEW; j++) {
            ad_slot *r = &p->slot[p->slot[ir->inst[i].in[j]].root];
            bool block = r->place == AD_PLACE_BLOCK || r->place == AD_PLACE_OUTPUT;
            if (block && p->slot[i].phase > r->phase) r->place = AD_PLACE_COMPLETE;
        }
    }
    place_sums(p);
    for (int32_t i = 0; i < ir->n; i++)
        if (p->slot[i].root != i) p->slot[i].place = p->slot[p->slot[i].root].place;
}

/* Sizes, and positions of what stays. */
static bool assign_positions(ad_program *p)
{
    int64_t *end[] = {
        [AD_PLACE_CONSTANT] = &p->constant_bytes, [AD_PLACE_LANES] = &p->lane_bytes
    };
    p->complete = ad_pool_alloc(&p->pool, (size_t)p->ir.n * sizeof *p->complete);
    if (!p->complete) return false;
    for (int32_t i = 0; i < p->ir.n; i++) {
        ad_slot *s = &p->slot[i];
        if (s->root != i || s->place == AD_PLACE_NONE) continue;
        s->bytes =
            ad_size_mul(ad_row_size(p->ir.inst[i].shape), (int64_t)ad_dtype_size(p->ir.dtype));
        if (s->place == AD_PLACE_COMPLETE) {
            s->position = p->complete_row_bytes;
            p->complete_row_bytes = ad_size_add(p->complete_row_bytes, s->bytes);
            p->complete[p->ncomplete++] = i;
        } else if (s->place == AD_PLACE_STRETCH) {
            s->position = p->stretch_row_bytes;
            p->stretch_row_bytes = ad_size_add(p->stretch_row_bytes, ad_size_align(s->bytes));
        } else if (s->place == AD_PLACE_CONSTANT || s->place == AD_PLACE_LANES) {
            s->position = *end[s->place];
            *end[s->place] = ad_size_add(s->position, ad_size_align(s->bytes));
        }
    }
    if (p->constant_bytes < 0 || p->lane_bytes < 0 || p->complete_row_bytes < 0 ||
        p->stretch_row_bytes < 0)
        p->refused = -1;
    else if (p->constant_bytes > ad_machine_bytes()) p->refused = p->constant_bytes;
    return p->refused == 0;
}

static bool write_constants(ad_program *p)
{
    if (p->constant_bytes == 0) return true;
    p->constants = ad_aligned_alloc(p->constant_bytes);
    if (!p->constants) {
        p->refused = p->constant_bytes;
        return false;
    }
    for (int32_t i = 0; i < p->ir.n; i++)
        if (p->slot[i].place == AD_PLACE_CONSTANT && p->slot[i].root == i)
            ad_constant_write(&p->ir, &p->ir.inst[i], (char *)p->constants + p->slot[i].position);
    return true;
}

/* ---- steps ---- */

enum { PART_PARAMETER, PART_CALL, PART_BODY, PART_SUM, PARTS };

/* Where value i's step belongs: phase * PARTS + part; -1 when it needs none. */
static int part_of(const ad_program *p, int32_t i)
{
    const ad_inst *x = &p->ir.inst[i];
    int at = p->slot[i].phase * PARTS;
    switch (kind_of(p, i)) {
    case KIND_ROWS: return at + PART_BODY;
    case KIND_REDUCTION: return at + (p->slot[i].place == AD_PLACE_SUM ? PART_SUM : PART_BODY);
    case KIND_OPAQUE: return at + PART_CALL;
    case KIND_UNIFORM: return at + (x->level <= AD_LEVEL_PARAMETER ? PART_PARAMETER : PART_CALL);
    default: return -1;
    }
}

static bool make_step(ad_program *p, ad_step *s, int32_t i)
{
    const ad_inst *x = &p->ir.inst[i];
    const int32_t at = (int32_t)(s - p->step);
    *s = (ad_step){ .kind = AD_STEP_KERNEL, .value = i, .begin = at, .end = at + 1 };
    if (x->op == AD_OP_fill) s->kind = AD_STEP_FILL;
    if (x->op == AD_OP_row_count) s->kind = AD_STEP_ROW_COUNT;
    if (x->op == AD_OP_opaque) s->kind = AD_STEP_OPAQUE;
    ad_ref *operand = ad_pool_alloc(&p->pool, (size_t)(x->nin ? x->nin : 1) * sizeof *operand);
    ad_shape *shapes = ad_pool_alloc(&p->pool, (size_t)(x->nin ? x->nin : 1) * sizeof *shapes);
    if (!operand || !shapes) return false;
    for (int k = 0; k < x->nin; k++) {
        int32_t root = p->slot[x->in[k]].root;
        operand[k] = (ad_ref){ .root = root, .pointer = root, .offset = p->slot[x->in[k]].offset };
        shapes[k] = p->ir.inst[x->in[k]].shape;
    }
    s->operand = operand;
    s->shapes = shapes;
    s->kernel = (ad_kernel){ .op = x->op,
                             .dtype = p->ir.dtype,
                             .nin = x->nin,
                             .in_shapes = shapes,
                             .out = x->shape,
                             .nattr = x->nattr,
                             .attr = x->attr };
    if (x->nin > p->max_operands) p->max_operands = x->nin;
    if (x->nout > p->max_results) p->max_results = x->nout;
    return true;
}

/* Steps sorted by phase and part, else in the order of the values. */
static bool make_steps(ad_program *p)
{
    int parts = p->nphase * PARTS;
    int32_t *begin = ad_pool_alloc(&p->pool, ((size_t)parts + 1) * sizeof *begin);
    if (!begin) return false;
    for (int32_t i = 0; i < p->ir.n; i++)
        if (part_of(p, i) >= 0) begin[part_of(p, i) + 1]++;
    for (int k = 0; k < parts; k++) begin[k + 1] += begin[k];
    p->step = ad_pool_alloc(&p->pool, ((size_t)begin[parts] + 1) * sizeof *p->step);
    if (!p->step) return false;
    for (int f = 0; f < p->nphase; f++) {
        const int32_t *b = begin + f * PARTS;
        p->phase[f] = (ad_phase){ .parameter_steps = { b[0], b[1] },
                                  .call_steps = { b[1], b[2] },
                                  .body_steps = { b[2], b[3] },
                                  .sum_steps = { b[3], b[4] } };
    }
    int32_t *next = ad_pool_alloc(&p->pool, ((size_t)parts + 1) * sizeof *next);
    if (!next) return false;
    memcpy(next, begin, (size_t)parts * sizeof *next);
    p->nstep = begin[parts];
    for (int32_t i = 0; i < p->ir.n; i++) {
        int part = part_of(p, i);
        if (part >= 0 && !make_step(p, &p->step[next[part]++], i)) return false;
    }
    return true;
}

static bool list_opaques(ad_program *p)
{
    p->opaque = ad_pool_alloc(&p->pool, (size_t)(p->nstep + 1) * sizeof *p->opaque);
    int32_t **result = ad_pool_alloc(&p->pool, (size_t)p->ir.n * sizeof *result + 1);
    ad_step **made = ad_pool_alloc(&p->pool, (size_t)p->ir.n * sizeof *made + 1);
    if (!p->opaque || !result || !made) return false;
    for (int32_t s = 0; s < p->nstep; s++) {
        ad_step *step = &p->step[s];
        if (step->kind != AD_STEP_OPAQUE) continue;
        int nout = p->ir.inst[step->value].nout;
        int32_t *list = ad_pool_alloc(&p->pool, (size_t)(nout + 1) * sizeof *list);
        if (!list) return false;
        for (int j = 0; j < nout; j++) list[j] = -1;
        made[step->value] = step;
        step->result = result[step->value] = list;
        p->slot[step->value].position = p->nopaque;
        p->opaque[p->nopaque++] = step->value;
    }
    for (int32_t i = 0; i < p->ir.n; i++) {
        const ad_inst *x = &p->ir.inst[i];
        if (ad_ops[x->op].kind == AD_RESULT) result[x->in[0]][x->attr[0]] = i;
        for (int k = 0; x->op == AD_OP_opaque && k < x->nin; k++)
            if (p->ir.inst[x->in[k]].op == AD_OP_opaque) made[x->in[k]]->state_used = true;
    }
    return true;
}

/* ---- what a body touches ---- */

typedef struct {
    int32_t *list;
    int n;
} root_list;

static void note(ad_program *p, int phase, int32_t root, root_list *moving, int32_t *seen)
{
    ad_place place = p->slot[root].place;
    bool moves = place == AD_PLACE_COMPLETE || place == AD_PLACE_OUTPUT ||
                 place == AD_PLACE_INPUT || place == AD_PLACE_STRETCH;
    if (!moves || !ad_has_rows(p->ir.inst[root].shape) || seen[root] == phase + 1) return;
    seen[root] = phase + 1;
    moving->list[moving->n++] = root;
}

static bool list_roots(ad_program *p, int f, int32_t *seen)
{
    ad_phase *phase = &p->phase[f];
    int32_t from = phase->body_steps[0], to = phase->body_steps[1], count = to - from;
    for (int32_t s = from; s < to; s++) count += p->ir.inst[p->step[s].value].nin;
    root_list moving = { ad_pool_alloc(&p->pool, (size_t)(count + 1) * sizeof(int32_t)), 0 };
    int32_t *block = ad_pool_alloc(&p->pool, (size_t)(to - from + 1) * sizeof *block);
    int32_t *chunk = ad_pool_alloc(&p->pool, (size_t)(to - from + 1) * sizeof *chunk);
    int32_t *reduction = ad_pool_alloc(&p->pool, (size_t)(to - from + 1) * sizeof *reduction);
    ad_row_sum *sum = ad_pool_alloc(&p->pool, (size_t)(to - from + 1) * sizeof *sum);
    if (!moving.list || !block || !chunk || !reduction || !sum) return false;
    for (int32_t s = from; s < to; s++) {
        int32_t v = p->step[s].value;
        ad_place place = p->slot[v].place;
        for (int k = 0; k < p->ir.inst[v].nin; k++)
            note(p, f, p->step[s].operand[k].root, &moving, seen);
        note(p, f, v, &moving, seen);
        if (place == AD_PLACE_LANES) reduction[phase->nreduction++] = s;
        if (place == AD_PLACE_LANES && p->slot[v].root == v)
            sum[phase->nsum++] = (ad_row_sum){ .root = v,
                                               .step = s,
                                               .before = p->ir.n + p->nrepeat + p->nsum++,
                                               .max = ad_has_trait(p->ir.inst[v].op, AD_MAXIMUM) };
        if (place == AD_PLACE_BLOCK || place == AD_PLACE_OUTPUT) block[phase->nblock++] = v;
        if (place == AD_PLACE_CHUNK) chunk[phase->nchunk++] = v;
    }
    phase->moving = moving.list;
    phase->nmoving = moving.n;
    phase->block = block;
    phase->chunk = chunk;
    phase->reduction = reduction;
    phase->sum = sum;
    return true;
}

/* Sums that only outputs read can wait for those of further runs. */
static void find_sums(ad_program *p)
{
    for (int32_t i = 0; i < p->ir.n; i++)
        p->slot[i].summed =
            (p->slot[i].place == AD_PLACE_LANES || p->slot[i].place == AD_PLACE_SUM) &&
            p->slot[i].root == i && !ad_has_trait(p->ir.inst[i].op, AD_MAXIMUM);
    for (int32_t s = 0; s < p->nstep; s++)
        for (int k = 0; k < p->ir.inst[p->step[s].value].nin; k++)
            p->slot[p->step[s].operand[k].root].summed = false;
}

/* ---- the plan ---- */

/* Whole arrays have no pairs, and long programs without rows few different kernels. */
enum { REMEMBERED = 256 };

static bool prepare_kernel(ad_program *p, ad_step *step, int64_t rows, bool body, int32_t *prepared)
{
    int32_t *like = &prepared[ad_kernel_hash(&step->kernel) % REMEMBERED];
    if (!body && *like && ad_kernel_share(&step->kernel, &p->step[*like - 1].kernel)) return true;
    if (!ad_kernel_prepare(&step->kernel, rows)) return false;
    if (!body) *like = (int32_t)(step - p->step) + 1;
    return true;
}

static bool prepare_kernels(ad_program *p)
{
    int32_t prepared[REMEMBERED] = { 0 }; /* steps, as numbers + 1 */
    for (int f = 0; f < p->nphase; f++) {
        for (int32_t s = p->phase[f].parameter_steps[0]; s < p->phase[f].sum_steps[1]; s++) {
            ad_step *step = &p->step[s];
            bool body = s >= p->phase[f].body_steps[0];
            int64_t *scratch = body ? &p->block_scratch : &p->uniform_scratch,
                    rows = step->elements ? step->chunk_rows
                           : body         ? p->block_rows
                                          : 1;
            if (step->kind != AD_STEP_KERNEL) continue;
            const ad_kernel *k = &step->kernel;
            if (!ad_kernel_exists(k->op, k->dtype, k->nin)) {
                p->without_kernel = ad_ops[k->op].name;
                return false;
            }
            step->kernel.divided =
                s >= p->phase[f].sum_steps[0] || (!body && divides(p, step->value));
            if (!prepare_kernel(p, step, rows, body, prepared)) return false;
            if (!body && step->kernel.divided) scratch = &p->piece_scratch;
            int64_t need = (int64_t)ad_kernel_scratch(&step->kernel, rows);
            if (need > *scratch) *scratch = need;
        }
    }
    return true;
}

/* Whether the step makes a code, and the two that follow are all that is made of it: the value and
 * the slope. */
static bool only_decoded(const ad_program *p, const ad_step *s)
{
    return ad_decoded_by(s[1].kernel.op) && s[2].kernel.op == AD_OP_slope_of_code &&
           s[2].kernel.nin == 1 && s[2].operand[0].root == s->value &&
           p->ir.inst[s->value].uses == 2;
}

/* How many steps that follow step i its kernel can make as well: a code and what decodes it at
 * once, or a slope and what decodes the same code, are one pass; so are both that are made of a
 * code, which then is not there. */
static int paired(const ad_program *p, int32_t i)
{
    ad_step *s = &p->step[i];
    const ad_step *next = s + 1;
    const bool shared = !ad_has_rows(p->ir.inst[s->value].shape); /* the kernel is */
    if (s->chunk_rows == 0 || shared || s->end <= i + 1 || next->kernel.nin != 1) return 0;
    const ad_ref *code = &next->operand[0], *last = &s->operand[s->kernel.nin - 1];
    if (code->root == s->value) {
        if (s->end > i + 2 && only_decoded(p, s) &&
            ad_kernel_pair(&s->kernel, ad_decoded_by(next->kernel.op)->whole, AD_OP_slope_of_code))
            return 2;
    } else if (code->pointer != last->pointer || code->offset != last->offset) {
        return 0;
    }
    return ad_kernel_pair(&s->kernel, s->kernel.op, next->kernel.op);
}

static void pair_steps(ad_program *p)
{
    for (int32_t i = 0; i + 1 < p->nstep; i++) {
        p->step[i].paired = paired(p, i);
        i += p->step[i].paired;
    }
}

/* Rows are, and arrays that every run makes anew. */
static bool made_in_place(const ad_program *p, int32_t value)
{
    const ad_slot *slot = &p->slot[value], *root = &p->slot[slot->root];
    if (slot->place == AD_PLACE_OUTPUT) return true;
    const bool anew =
        kind_of(p, slot->root) == KIND_RESULT || p->ir.inst[slot->root].level > AD_LEVEL_PARAMETER;
    const int64_t bytes =
        ad_row_size(p->ir.inst[value].shape) * (int64_t)ad_dtype_size(p->ir.dtype);
    return slot->place == AD_PLACE_UNIFORM && anew && slot->offset == 0 && bytes == root->bytes;
}

/* seen: of every value, no phase or -1. */
static bool list_outputs(ad_program *p, int32_t *seen)
{
    p->output = ad_pool_alloc(&p->pool, ((size_t)p->ir.noutput + 1) * sizeof *p->output);
    for (int j = p->ir.noutput - 1; p->output && j >= 0; j--) {
        const int32_t value = p->ir.output[j];
        const ad_slot *slot = &p->slot[value], *root = &p->slot[slot->root];
        const ad_shape shape = p->ir.inst[value].shape;
        p->output[j] =
            (ad_output){ .root = slot->root,
                         .in_place = made_in_place(p, value),
                         .lane = slot->place == AD_PLACE_LANES &&
                                 ad_row_size(shape) == ad_row_size(p->ir.inst[slot->root].shape),
                         .rows = ad_has_rows(shape),
                         .summed = root->summed,
                         .offset = slot->offset,
                         .size = ad_row_size(shape),
                         .position = root->position };
        ad_output *o = &p->output[j];
        o->last = (o->in_place || o->lane) && seen[o->root] >= 0;
        if (o->last) seen[o->root] = -1;
    }
    return p->output != NULL;
}

/* So many rows that sums over them go through their operands at the speed of arithmetic, and blocks
 * for each lane; within STRETCH_BYTES where two blocks a lane allow it. */
static void choose_stretch(ad_program *p)
{
    enum { STRETCH_ROWS = 1024, STRETCH_BYTES = 1 << 25 };
    const int64_t least = 2 * AD_LANES * p->block_rows;
    int64_t rows = p->divide ? least : STRETCH_ROWS;
    while (rows > least && p->stretch_row_bytes > STRETCH_BYTES / rows) rows /= 2;
    p->stretch_rows = rows > least ? rows / least * least : least;
}

/* As many blocks as add AD_CHAIN numbers to a sum, or few. */
static void choose_group(ad_program *p)
{
    enum { MOST_BLOCKS = 32 };
    p->group = MOST_BLOCKS;
    for (int f = 0; f < p->nphase; f++)
        for (int i = 0; i < p->phase[f].nreduction; i++) {
            const ad_kernel *k = &p->step[p->phase[f].reduction[i]].kernel;
            const int64_t blocks = AD_CHAIN / ad_kernel_chain(k, p->block_rows);
            if (blocks < p->group) p->group = blocks;
        }
    if (p->group < 1) p->group = 1;
}

bool ad_plan(ad_program *p)
{
    p->slot = ad_pool_alloc(&p->pool, ((size_t)p->ir.n + 1) * sizeof *p->slot);
    if (!p->slot) return false;
    make_anew(&p->ir);
    find_views(p);
    assign_phases(p);
    ad_join_reductions(p);
    assign_places(p);
    p->phase = ad_pool_alloc(&p->pool, (size_t)p->nphase * sizeof *p->phase);
    if (!p->phase || !assign_positions(p) || !write_constants(p) || !make_steps(p) ||
        !list_opaques(p) || !ad_group_whole(p) || !ad_remake_whole(p) || !ad_fuse(p) ||
        !ad_plan_whole(p))
        return false;
    int32_t *seen = ad_pool_alloc(&p->pool, ((size_t)p->ir.n + 1) * sizeof *seen);
    if (!seen) return false;
    for (int f = 0; f < p->nphase; f++)
        if (!list_roots(p, f, seen)) return false;
    if (!ad_plan_blocks(p)) return false;
    for (int f = 0; f < p->nphase; f++) {
        p->phase[f].row_work = ad_row_work(p, p->phase[f].body_steps);
        p->phase[f].sum_work = ad_row_work(p, p->phase[f].sum_steps);
    }
    choose_stretch(p);
    if (!prepare_kernels(p)) return false;
    choose_group(p);
    find_sums(p);
    pair_steps(p);
    return list_outputs(p, seen);
}
