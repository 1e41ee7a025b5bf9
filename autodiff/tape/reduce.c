/* Recording reductions over axes. */
#include "autodiff/tape/axes.h"
#include <math.h>

static ad_var reduce(ad_op op, ad_var x, uint32_t mask)
{
    ad_shape s = ad_shape_of(x);
    bool any = false;
    for (int i = 0; i < s.rank; i++) {
        if (!(mask >> i & 1)) continue;
        if (s.dim[i] == 1) mask &= ~(1u << i);
        else any = true;
        s.dim[i] = 1;
    }
    return any ? ad_record(x.tape, op, 1, &x.node, 1, (int64_t[]){ mask }, s) : x;
}

static ad_var drop_axes(ad_var x, uint32_t mask)
{
    ad_shape s = ad_shape_of(x), out = { 0, { 0 } };
    for (int i = 0; i < s.rank; i++)
        if (!(mask >> i & 1)) out.dim[out.rank++] = s.dim[i];
    return s.rank < 0 ? x : ad_reshape(x, out);
}

ad_var ad_sum_mask(ad_var x, uint32_t mask)
{
    return ad_common_tape("sum", 1, &x) ? reduce(AD_OP_sum, x, mask) : ad_none(x.tape);
}

static ad_var reduce_axes(const char *name, ad_op op, ad_var x, int naxis, const int *axes,
                          bool keep)
{
    uint32_t mask;
    if (!ad_common_tape(name, 1, &x) || !ad_axes_mask(name, x, naxis, axes, &mask))
        return ad_none(x.tape);
    ad_var y = reduce(op, x, mask);
    return keep ? y : drop_axes(y, mask);
}

ad_var ad_sum(ad_var x, int naxis, const int *axes, bool keep)
{
    return reduce_axes("sum", AD_OP_sum, x, naxis, axes, keep);
}
ad_var ad_reduce_max(ad_var x, int naxis, const int *axes, bool keep)
{
    return reduce_axes("reduce_max", AD_OP_reduce_max, x, naxis, axes, keep);
}
ad_var ad_sum_all(ad_var x) { return ad_sum(x, 0, NULL, false); }
ad_var ad_mean_all(ad_var x) { return ad_mean(x, 0, NULL, false); }
ad_var ad_sum_axis(ad_var x, int axis, bool keep) { return ad_sum(x, 1, &axis, keep); }

ad_var ad_mean(ad_var x, int naxis, const int *axes, bool keep)
{
    uint32_t mask;
    if (!ad_common_tape("mean", 1, &x) || !ad_axes_mask("mean", x, naxis, axes, &mask))
        return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    double count = 1;
    for (int i = 0; i < s.rank; i++)
        if (mask >> i & 1 && s.dim[i] != AD_ROWS) count *= (double)s.dim[i];
    ad_var sum = ad_sum(x, naxis, axes, keep);
    if (ad_has_rows(s) && mask & 1) return ad_div(sum, ad_scale(ad_row_count(x.tape), count));
    return ad_div(sum, ad_scalar(x.tape, count));
}

/* m + log sum exp(x - m) with the maximum m, which takes part in the derivative although it
 * cancels: all derivatives of the sum are then in differences from that of the maximum, so that
 * those of the dominant term do not cancel. Where m is infinite, terms that attain it count 1 and
 * others nothing; where it is -inf, the derivative is zero. */
ad_var ad_logsumexp(ad_var x, int naxis, const int *axes, bool keep)
{
    uint32_t mask;
    if (!ad_common_tape("logsumexp", 1, &x) || !ad_axes_mask("logsumexp", x, naxis, axes, &mask))
        return ad_none(x.tape);
    ad_var zero = ad_scalar(x.tape, 0), nothing = ad_scalar(x.tape, -INFINITY),
           m = reduce(AD_OP_reduce_max, x, mask);
    ad_var infinite = ad_eq(ad_abs(m), ad_scalar(x.tape, INFINITY));
    ad_var difference = ad_select(infinite, ad_select(ad_eq(x, m), zero, nothing), ad_sub(x, m));
    ad_var sum = reduce(AD_OP_sum, ad_exp(difference), mask);
    ad_var y = ad_add(ad_log(sum), ad_select(ad_eq(m, nothing), nothing, m));
    return keep ? y : drop_axes(y, mask);
}

ad_var ad_sum_to(ad_var v, ad_shape shape)
{
    ad_shape s = ad_shape_of(v);
    if (s.rank < 0 || ad_same_shape(s, shape)) return v;
    uint32_t mask = 0;
    int lead = s.rank - shape.rank;
    for (int i = 0; i < s.rank; i++)
        if (i < lead || (shape.dim[i - lead] == 1 && s.dim[i] != 1)) mask |= 1u << i;
    return ad_reshape(ad_sum_mask(v, mask), shape);
}
