/* Layout of contractions. X[r,n] W[k,n] -> [r,k] wants W as [n,k]: an explicit transpose of the
 * operand without rows moves the packing out of the body, for weights to the parameter level, where
 * it happens once per change of the parameters. */
#include "autodiff/compile/ir.h"

enum {
    WIDTH = 32,
    /* of a line of a panel, and of weights that are laid out as panels */
    PANEL_BYTES = 256,
    WIDE_BYTES = 512 * 1024,
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

/* X[..,k] W[k,n] or X[..,k] W[n,k] of a wide W without rows: -> [..,n/WIDE,WIDE] by W as panels
 * [n/WIDE,k,WIDE], each of which is read from its beginning to its end while a block of rows goes
 * by. -1: it is none. */
static int32_t lay_out_panels(ad_ir *ir, const ad_inst *x)
{
    if (x->op != AD_OP_contract || !ad_has_rows(x->shape)) return -1;
    const ad_shape from = ir->inst[x->in[1]].shape;
    const int64_t bytes = (int64_t)ad_dtype_size(ir->dtype), wide = PANEL_BYTES / bytes;
    if (ad_has_rows(from) || ad_row_size(from) < WIDE_BYTES / bytes) return -1;
    const ad_contraction c = ad_inst_contraction(x);
    const int64_t *b = c.label[1];
    const int out = c.rank[2];
    if (c.rank[1] != 2 || out == AD_MAX_RANK) return -1;
    const int64_t n = c.label[2][out - 1];
    const int at = b[1] == n; /* the axis of W that the result has */
    if (b[at] != n || ad_label_find(c.label[0], c.rank[0], n) >= 0 ||
        ad_label_find(c.label[2], out, b[!at]) >= 0 ||
        ad_label_find(c.label[0], c.rank[0], b[!at]) < 0)
        return -1;
    const int64_t size = from.dim[at], k = from.dim[!at];
    if (size % wide || size < 2 * wide) return -1;
    const int64_t panel = 2 * AD_MAX_RANK; /* a label that is not in use */
    int64_t order[AD_MAX_RANK] = { at ? 1 : 0, at ? 0 : 2, at ? 2 : 1 };
    ad_inst split = { .op = AD_OP_reshape,
                      .nin = 1,
                      .in = ad_ir_ints(ir, 1, &x->in[1]),
                      .shape =
                          at ? AD_SHAPE(k, size / wide, wide) : AD_SHAPE(size / wide, wide, k) };
    const int32_t pieces = ad_simplified(ir, &split);
    ad_inst turn = { .op = AD_OP_transpose,
                     .nin = 1,
                     .in = ad_ir_ints(ir, 1, &pieces),
                     .nattr = 3,
                     .attr = ad_ir_longs(ir, 3, order),
                     .shape = AD_SHAPE(size / wide, k, wide) };
    const int32_t panels = ad_simplified(ir, &turn);
    int64_t of_panels[3] = { panel, b[!at], n }, of_out[AD_MAX_RANK], attr[AD_CONTRACTION_MOST];
    ad_shape shape = x->shape;
    for (int i = 0; i < out; i++) of_out[i] = c.label[2][i];
    of_out[out - 1] = panel;
    of_out[out] = n;
    shape.dim[out - 1] = size / wide;
    shape.dim[out] = wide;
    shape.rank = out + 1;
    const ad_contraction by_panels = { { c.rank[0], 3, out + 1 },
                                       { c.label[0], of_panels, of_out } };
    const int nattr = ad_contraction_write(&by_panels, attr);
    ad_inst y = { .op = AD_OP_contract,
                  .nin = 2,
                  .in = ad_ir_ints(ir, 2, (int32_t[]){ x->in[0], panels }),
                  .nattr = nattr,
                  .attr = ad_ir_longs(ir, nattr, attr),
                  .shape = shape };
    if (ir->failed) return 0;
    const int32_t product = ad_ir_add(ir, &y);
    ad_inst joined = {
        .op = AD_OP_reshape, .nin = 1, .in = ad_ir_ints(ir, 1, &product), .shape = x->shape
    };
    return ir->failed ? 0 : ad_ir_add(ir, &joined);
}

static int32_t lay_out_wide(ad_ir *ir, ad_inst *x)
{
    const int32_t panels = lay_out_panels(ir, x);
    return panels >= 0 ? panels : lay_out(ir, x);
}

bool ad_pass_layout(ad_ir *ir) { return ad_ir_rewrite(ir, lay_out_wide); }
