/* Layout of contractions. X[r,n] W[k,n] -> [r,k] wants W as [n,k]: an explicit transpose of the
 * operand without rows moves the packing out of the body, for weights to the parameter level, where
 * it happens once per change of the parameters. */
#include "autodiff/compile/ir.h"

enum {
    WIDTH = 32,
    DISTANT = 2048 /* elements of a row of b: with so many, rows share few sets of a cache */
};

/* The labels of b in the order that the kernel reads best: those kept of both, then those summed in
 * a's order, then those of b in the result's order; of the last, leading ones stand before the
 * summed ones where rows of b would lie pages apart. Returns how many; fewer than b has when some
 * are summed in b alone. */
static int wanted_order(const ad_contraction *c, ad_shape shape, int64_t *want)
{
    const int64_t *a = c->label[0], *b = c->label[1], *out = c->label[2];
    const int na = c->rank[0], nb = c->rank[1], nout = c->rank[2];
    int64_t own[AD_MAX_RANK];
    int n = 0, nown = 0, trailing = 0;
    for (int i = 0; i < nout; i++) {
        if (ad_label_find(b, nb, out[i]) < 0) continue;
        if (ad_label_find(a, na, out[i]) >= 0) want[n++] = out[i];
        else own[nown++] = out[i];
    }
    int64_t width = 1, row = 1;
    for (int i = nown - 1; i >= 0; i--) {
        const int64_t size = shape.dim[ad_label_find(b, nb, own[i])];
        row *= size;
        if (width >= WIDTH) continue;
        width *= size;
        trailing = i;
    }
    if (row < DISTANT) trailing = 0;
    for (int i = 0; i < trailing; i++) want[n++] = own[i];
    for (int i = 0; i < na; i++)
        if (ad_label_find(b, nb, a[i]) >= 0 && ad_label_find(out, nout, a[i]) < 0) want[n++] = a[i];
    for (int i = trailing; i < nown; i++) want[n++] = own[i];
    return n;
}

/* Whether value i of `size` elements is a product of arrays that are all smaller (an outer product
 * of weights). */
static bool is_outer_product(const ad_ir *ir, int32_t i, int64_t size, int depth)
{
    const ad_inst *x = &ir->inst[i];
    if (x->op != AD_OP_mul || depth == 0) return false;
    for (int k = 0; k < 2; k++)
        if (ad_row_size(ir->inst[x->in[k]].shape) >= size &&
            !is_outer_product(ir, x->in[k], size, depth - 1))
            return false;
    return true;
}

/* Value i, which broadcasts to so many axes, with these in another order. Outer products are
 * multiplied out in that order: transposing what is larger than a cache takes longer. */
static int32_t transposed(ad_ir *ir, int32_t i, int rank, const int64_t *permutation)
{
    enum { FACTORS = 4 };
    ad_inst x = ir->inst[i], wide = { .op = AD_OP_reshape, .shape = { .rank = rank }, .nin = 1 };
    int lead = rank - x.shape.rank;
    if (ad_row_size(x.shape) == 1) return i;
    for (int d = 0; d < rank; d++) wide.shape.dim[d] = d < lead ? 1 : x.shape.dim[d - lead];
    ad_inst y = { .op = AD_OP_transpose,
                  .shape = wide.shape,
                  .nin = 1,
                  .nattr = rank,
                  .attr = ad_ir_longs(ir, rank, permutation) };
    for (int d = 0; d < rank; d++) y.shape.dim[d] = wide.shape.dim[permutation[d]];
    if (is_outer_product(ir, i, ad_row_size(x.shape), FACTORS - 1)) {
        int32_t in[2];
        for (int k = 0; k < 2; k++) in[k] = transposed(ir, x.in[k], rank, permutation);
        x.in = ad_ir_ints(ir, 2, in);
        x.shape = y.shape;
        return ad_simplified(ir, &x);
    }
    wide.in = ad_ir_ints(ir, 1, &i);
    if (lead) i = ad_simplified(ir, &wide);
    y.in = ad_ir_ints(ir, 1, &i);
    return ir->failed ? 0 : ad_simplified(ir, &y);
}

static int32_t lay_out(ad_ir *ir, ad_inst *x)
{
    if (x->op != AD_OP_contract || !ad_has_rows(x->shape) || ad_has_rows(ir->inst[x->in[1]].shape))
        return ad_ir_add(ir, x);
    int64_t want[AD_MAX_RANK], permutation[AD_MAX_RANK] = { 0 };
    int64_t *attr = ad_ir_longs(ir, x->nattr, x->attr);
    ad_shape from = ir->inst[x->in[1]].shape;
    const ad_contraction c = ad_inst_contraction(x);
    const int rank = c.rank[1];
    if (!attr || wanted_order(&c, from, want) != rank) return ad_ir_add(ir, x);
    bool moved = false;
    int64_t *b = attr + (c.label[1] - x->attr);
    int64_t last = -1;
    for (int i = 0; i < rank; i++) {
        permutation[i] = 0;
        while (b[permutation[i]] != want[i]) permutation[i]++;
        if (from.dim[permutation[i]] == 1) continue;
        moved = moved || permutation[i] < last;
        last = permutation[i];
    }
    if (!moved) return ad_ir_add(ir, x);
    for (int i = 0; i < rank; i++) b[i] = want[i];
    int32_t *in = ad_ir_ints(ir, 2, x->in);
    if (ir->failed) return 0;
    in[1] = transposed(ir, in[1], rank, permutation);
    x->in = in;
    x->attr = attr;
    return ad_ir_add(ir, x);
}

bool ad_pass_layout(ad_ir *ir) { return ad_ir_rewrite(ir, lay_out); }
