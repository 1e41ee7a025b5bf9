/* Arguments that name axes. */
#include "autodiff/tape/axes.h"

int ad_axis_of(const char *name, ad_var x, int axis)
{
    int rank = ad_shape_of(x).rank, a = axis < 0 ? axis + rank : axis;
    if (a >= 0 && a < rank) return a;
    char reason[96];
    snprintf(reason, sizeof reason, "axis %d is out of range for rank %d", axis, rank);
    ad_fail_shapes(x.tape, name, reason, 1, &x);
    return -1;
}

int ad_axis_within_rows(const char *name, ad_var x, int axis)
{
    int a = ad_axis_of(name, x, axis);
    if (a != 0 || !ad_has_rows(ad_shape_of(x))) return a;
    ad_fail_shapes(x.tape, name,
                   "axis 0 is the row axis, whose length is known only when the program runs", 1,
                   &x);
    return -1;
}

bool ad_axes_mask(const char *name, ad_var x, int naxis, const int *axes, uint32_t *mask)
{
    int rank = ad_shape_of(x).rank;
    *mask = naxis ? 0 : (1u << rank) - 1;
    if (naxis < 0) ad_fail_shapes(x.tape, name, "the number of axes is negative", 1, &x);
    if (naxis > 0 && !axes) ad_fail_null(x.tape, name, "the list of axes");
    if (naxis > 0 && !axes) return false;
    for (int i = 0; i < naxis; i++) {
        int a = ad_axis_of(name, x, axes[i]);
        if (a < 0) return false;
        *mask |= 1u << a;
    }
    return naxis >= 0;
}

int64_t ad_saturated_sum(int64_t a, int64_t b) { return a > INT64_MAX - b ? INT64_MAX : a + b; }
