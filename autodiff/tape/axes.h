/* Internal to recording: arguments that name axes. */
#ifndef COSTATE_AXES_H
#define COSTATE_AXES_H
#include "autodiff/tape/tape.h"

/* The number in 0..rank-1 of an axis that may count from the end; -1 after reporting. `name` is the
 * operation. */
int ad_axis_of(const char *name, ad_var x, int axis);
/* The same for operations that cannot act on the row axis. */
int ad_axis_within_rows(const char *name, ad_var x, int axis);
/* A list of axes as a bit mask; of no axes: all of x. false after reporting. */
bool ad_axes_mask(const char *name, ad_var x, int naxis, const int *axes, uint32_t *mask);
/* Of sizes; a sum that overflows is one that is refused as a shape. */
int64_t ad_saturated_sum(int64_t a, int64_t b);

#endif
