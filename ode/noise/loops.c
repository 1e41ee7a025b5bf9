/* Arithmetic of a Brownian path. W, H and K, standardised, are the coefficients of dW by the
 * orthonormal Legendre polynomials p0, -p1, p2 of the interval. Those of the whole follow from
 * those of two parts by expanding the polynomials of the whole in those of the parts: three
 * orthonormal rows. Rows that complete them to an orthogonal matrix give new numbers, independent
 * of those of the whole; the transpose goes from the whole and new numbers to the parts (Foster,
 * Lyons & Oberhauser 2020, arXiv:1904.06998; Jelincic, Foster & Kidger 2024, arXiv:2405.06464). */
#include "ode/noise/loops.h"
#include <math.h>
#include <string.h>

#define T float
#define LANES 4
#define F(name) name##_f32
#include "ode/noise/loops.inc"
#undef T
#undef LANES
#undef F
#define T double
#define LANES 2
#define F(name) name##_f64
#include "ode/noise/loops.inc"
#undef T
#undef LANES
#undef F

const ode_noise_loops *ode_noise_loops_of(ad_dtype dtype)
{
    return dtype == AD_F32 ? &loops_f32 : &loops_f64;
}
