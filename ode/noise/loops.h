/* Internal: arithmetic of a Brownian path on arrays of n standardised numbers, in either dtype. The
 * bits of an element depend on its operands alone. */
#ifndef COSTATE_ODE_NOISE_LOOPS_H
#define COSTATE_ODE_NOISE_LOOPS_H
#include "ode/noise/noise.h"

typedef struct {
    /* W of the two parts of x, from the whole and new numbers z; left, right: their shares of the
     * length */
    void (*split)(int64_t n, double left, double right, const void *whole, const void *z, void *a,
                  void *b);
    /* W, H, K of the halves of an interval, from those of the whole, x [3], and new numbers z [3]
     */
    void (*halve)(int64_t n, const void *const *x, const void *const *z, void *const *a,
                  void *const *b);
    /* x becomes the interval x followed by y; groups: 1..3 of them */
    void (*join)(int64_t n, int groups, double left, double right, void *const *x,
                 const void *const *y);
    void (*copy)(int64_t n, const void *from, void *to);
    /* Counters are those of one block after the other, in each by component, none left out. Of
     * numbers from [lanes, count] of counters, number l of counter i goes, times sign, to
     * element `component` of row s = block * lanes + l, rows being `stride` numbers apart; only
     * rows before `sources` */
    void (*spread)(int count, const uint32_t *block, const uint32_t *component, int64_t sources,
                   int64_t stride, double sign, const void *from, void *to);
} ode_noise_loops;
const ode_noise_loops *ode_noise_loops_of(ad_dtype dtype);

#endif
