/* Layout of contractions. X[r,n] W[k,n] -> [r,k] wants W as [n,k]: an explicit transpose of the operand without rows moves the packing
 * out of the body, for weights to the parameter level, where it happens once per change of the parameters. */
#include "program.h"

static bool has(const int64_t *labels, int64_t n, int64_t label)
{
    for (int64_t i = 0; i < n; i++)
        if (labels[i] == label) return true;
    return false;
}

/* The labels of b in the order that the kernel reads best: those kept of both, then those summed in a's order, then those of b in the
 * result's order. Returns how many; fewer than b has when some are summed in b alone. */
static int wanted_order(const int64_t *attr, int64_t *want)
{
    int64_t na = attr[0], nb = attr[1], nout = attr[2];
    const int64_t *a = attr + 3, *b = a + na, *out = b + nb;
    int n = 0;
    for (int64_t i = 0; i < nout; i++)
        if (has(b, nb, out[i]) && has(a, na, out[i])) want[n++] = out[i];
    for (int64_t i = 0; i < na; i++)
        if (has(b, nb, a[i]) && !has(out, nout, a[i])) want[n++] = a[i];
    for (int64_t i = 0; i < nout; i++)
        if (has(b, nb, out[i]) && !has(a, na, out[i])) want[n++] = out[i];
    return n;
}

static int32_t lay_out(ad_ir *ir, ad_inst *x)
{
    if (x->op != AD_OP_contract || !ad_has_rows(x->shape) || ad_has_rows(ir->inst[x->in[1]].shape)) return ad_ir_add(ir, x);
    int64_t want[AD_MAX_RANK], permutation[AD_MAX_RANK], *attr = ad_ir_longs(ir, x->nattr, x->attr);
    ad_shape from = ir->inst[x->in[1]].shape, to = from;
    if (!attr || wanted_order(attr, want) != attr[1]) return ad_ir_add(ir, x);
    bool moved = false;
    int64_t *b = attr + 3 + attr[0];
    int64_t last = -1;
    for (int i = 0; i < attr[1]; i++) {
        permutation[i] = 0;
        while (b[permutation[i]] != want[i]) permutation[i]++;
        to.dim[i] = from.dim[permutation[i]];
        if (to.dim[i] == 1) continue;
        moved = moved || permutation[i] < last;
        last = permutation[i];
    }
    if (!moved) return ad_ir_add(ir, x);
    for (int i = 0; i < attr[1]; i++) b[i] = want[i];
    ad_inst t = { .op = AD_OP_transpose,
                  .shape = to,
                  .nin = 1,
                  .in = &x->in[1],
                  .nattr = (int)attr[1],
                  .attr = ad_ir_longs(ir, (int)attr[1], permutation) };
    int32_t *in = ad_ir_ints(ir, 2, x->in);
    if (ir->failed) return 0;
    in[1] = ad_ir_add(ir, &t);
    x->in = in;
    x->attr = attr;
    return ad_ir_add(ir, x);
}

bool ad_pass_layout(ad_ir *ir) { return ad_ir_rewrite(ir, lay_out); }
