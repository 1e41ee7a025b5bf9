/* Reductions over the rows that are added up: they share lanes. */
#include "autodiff/plan/program.h"

/* A sum of two; a composite adds a product. */
static bool is_sum(const ad_inst *x) { return x->op == AD_OP_add && x->nin == 2; }

static int32_t find(const ad_program *p, int32_t i)
{
    while (p->slot[i].root != i) i = p->slot[i].root;
    return i;
}

/* The reduction that value i is, whole and under whatever shape, or the first of those that it is
 * the sum of, when nobody needs i but for its sum with another value; else -1. */
static int32_t summand(const ad_program *p, int32_t i, int64_t size)
{
    int32_t root = find(p, i);
    const ad_inst *r = &p->ir.inst[root];
    if (!ad_inst_reduces(&p->ir, r) || ad_has_trait(r->op, AD_MAXIMUM)) return -1;
    if (ad_row_size(p->ir.inst[i].shape) != size || ad_row_size(r->shape) != size) return -1;
    for (; p->ir.inst[i].uses == 1; i = p->ir.inst[i].in[0])
        if (is_sum(&p->ir.inst[i]) || ad_inst_reduces(&p->ir, &p->ir.inst[i])) return root;
    return -1;
}

/* The gradient of a parameter that is used many times is a sum of reductions, one for each use.
 * They are accumulated in the lanes of the first of them, and their sum is a view of it. Parts of a
 * sum are never there by themselves, hence nobody else may need them. */
void ad_join_reductions(ad_program *p)
{
    for (int32_t i = 0; i < p->ir.n; i++) {
        const ad_inst *x = &p->ir.inst[i];
        if (!is_sum(x) || ad_has_rows(x->shape)) continue;
        int64_t size = ad_row_size(x->shape);
        int32_t a = summand(p, x->in[0], size), b = summand(p, x->in[1], size);
        if (a >= 0 && b >= 0 && p->slot[a].phase == p->slot[b].phase)
            p->slot[a].root = p->slot[b].root = p->slot[i].root = a < b ? a : b;
    }
    for (int32_t i = 0; i < p->ir.n; i++) {
        p->slot[i].root = find(p, i);
        AD_ASSERT(p->slot[i].root <= i);
    }
}
