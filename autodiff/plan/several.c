/* Native code for several rows at a time: which steps of a body become machine code.
 *
 * A group of pointwise steps is native as a whole or not at all: it goes through the block in
 * chunks. Sums over the rows are the kernels': those of what a piece makes come behind the piece,
 * in their order, so that they do not cut it into many. Native code goes through a block row by row
 * and would write over what it is still to read where places in memory are used again, so what it
 * hands on has memory of its own. */
#include "autodiff/plan/pieces.h"

/* Nanoseconds, as measured on Zen 5; they say from how many rows on kernels are faster: a call of a
 * kernel, what it takes for a byte of its result (others than pointwise ones go through rows of a
 * few elements one by one), and an instruction of machine code. */
static const double a_call = 25, a_pointwise_call = 10, a_byte = 0.03, a_pointwise_byte = 0.005,
                    an_instruction = 0.1;

typedef struct {
    const ad_piece_maker *maker;
    ad_piece_list *list;
    int32_t begin; /* of the piece under way */
    int32_t *postponed, npostponed;
    bool failed; /* memory is short, or there is too much code */
} cutter;

static bool in_block(const ad_program *p, int32_t root)
{
    const ad_place place = p->slot[root].place;
    return place == AD_PLACE_BLOCK || place == AD_PLACE_OUTPUT || place == AD_PLACE_CHUNK;
}

static int32_t this_piece(const cutter *c) { return c->list->n + 1; }

/* Memory of its own for a value that others read. */
static void hand_on(cutter *c, int32_t value)
{
    const ad_program *p = c->maker->program;
    ad_pieces *pieces = c->maker->pieces;
    ad_native_keep(pieces->native, value);
    if (!in_block(p, value)) return;
    pieces->handed[pieces->nhanded] =
        (ad_handed){ .value = value, .position = pieces->handed_bytes };
    pieces->handed_bytes += ad_size_align(p->slot[value].bytes * p->block_rows);
    if (pieces->handed_bytes > c->maker->most_handed) c->failed = true;
    else pieces->nhanded++;
}

/* A sum over the rows that may come behind the piece: nothing it reads is written over until then.
 */
static bool postpone(cutter *c, int32_t s)
{
    const ad_program *p = c->maker->program;
    const ad_step *step = &p->step[s];
    if (p->slot[step->value].place != AD_PLACE_LANES || step->end != step->begin + 1) return false;
    if (c->begin == s) return false;
    const int nin = p->ir.inst[step->value].nin;
    for (int k = 0; k < nin; k++)
        if (in_block(p, step->operand[k].root) && !c->maker->made[step->operand[k].root])
            return false;
    for (int k = 0; k < nin; k++) c->maker->wanted[step->operand[k].root] = this_piece(c);
    c->postponed[c->npostponed++] = s;
    return true;
}

static bool is_postponed(const cutter *c, int32_t s)
{
    return c->maker->program->slot[c->maker->program->step[s].value].place == AD_PLACE_LANES;
}

/* What kernels take for the steps of a piece, whatever the number of rows, and with every row. */
typedef struct {
    double calls, row;
} cost;

static void add_cost(cost *all, const ad_program *p, int32_t value)
{
    const bool pointwise = ad_ops[p->ir.inst[value].op].kind == AD_POINTWISE;
    all->calls += pointwise ? a_pointwise_call : a_call;
    all->row += (double)p->slot[value].bytes * (pointwise ? a_pointwise_byte : a_byte);
}

/* Up to how many rows machine code is faster than kernels. */
static int64_t find_most_rows(const ad_native *native, int code, cost kernels)
{
    const double row =
        an_instruction * (double)ad_native_instructions(native, code) / ad_native_lanes(native);
    const double lost = row - kernels.row;
    return lost * INT32_MAX > kernels.calls ? (int64_t)(kernels.calls / lost) : INT32_MAX;
}

static void add_native(cutter *c, int32_t begin, int32_t end, cost kernels)
{
    const ad_native *native = c->maker->pieces->native;
    const int code = ad_native_end(c->maker->pieces->native);
    c->failed = c->failed || code < 0;
    ad_add_piece(c->list, begin, end, code);
    if (code >= 0) c->list->piece[c->list->n - 1].most_rows = find_most_rows(native, code, kernels);
    for (int32_t k = 0; k < c->npostponed; k++) {
        ad_piece *behind = &c->list->piece[c->list->n++];
        *behind = (ad_piece){ .begin = c->postponed[k], .code = -1, .behind = true };
        behind->end = behind->begin + 1;
    }
    c->npostponed = 0;
}

static void end_piece(cutter *c, int32_t end)
{
    const ad_program *p = c->maker->program;
    const int32_t begin = c->begin;
    cost kernels = { 0, 0 };
    c->begin = end;
    if (begin == end) return;
    for (int32_t s = begin; s < end; s++) {
        const int32_t value = p->step[s].value;
        if (is_postponed(c, s)) continue;
        add_cost(&kernels, p, value);
        if (c->maker->last[value] >= end || c->maker->wanted[value] == this_piece(c))
            hand_on(c, value);
    }
    add_native(c, begin, end, kernels);
}

static bool append(cutter *c, int32_t s)
{
    const ad_step *step = &c->maker->program->step[s];
    if (!ad_step_can_be_native(step) ||
        !ad_native_append(c->maker->pieces->native, step->value, &step->kernel))
        return false;
    c->maker->made[step->value] = this_piece(c);
    return true;
}

static void cut(cutter *c, const int32_t *range)
{
    const ad_program *p = c->maker->program;
    for (int32_t s = range[0]; s < range[1] && !c->failed;) {
        if (postpone(c, s) || append(c, s)) {
            s++;
            continue;
        }
        /* The group is left to the interpreter, unless the piece before it was only too long. */
        const int32_t first = p->step[s].begin, end = p->step[s].end;
        const bool again = c->begin < first;
        for (int32_t i = first; i <= s; i++) c->maker->made[p->step[i].value] = 0;
        end_piece(c, first);
        s = first;
        if (again) continue;
        ad_native_drop(c->maker->pieces->native);
        ad_add_piece(c->list, first, end, -1);
        c->begin = s = end;
    }
    end_piece(c, range[1]);
}

bool ad_make_several(const ad_piece_maker *m, const ad_phase *phase, ad_piece_list *list)
{
    ad_pool *pool = &m->pieces->pool;
    const size_t steps = (size_t)(phase->body_steps[1] - phase->body_steps[0]);
    cutter c = { .maker = m,
                 .list = list,
                 .begin = phase->body_steps[0],
                 .postponed = ad_pool_alloc(pool, (steps + 1) * sizeof *c.postponed) };
    list->piece = ad_pool_alloc(pool, (2 * steps + 1) * sizeof *list->piece);
    if (!c.postponed || !list->piece) return false;
    cut(&c, phase->body_steps);
    return !c.failed;
}
