/* Internal to nn/: elements by dtype, error texts. */
#ifndef COSTATE_NN_SUPPORT_H
#define COSTATE_NN_SUPPORT_H
#include "nn/nn.h"
#include <math.h>
#include <stdio.h>

static inline size_t nn_bytes(ad_dtype dtype)
{
    return dtype == AD_F32 ? sizeof(float) : sizeof(double);
}
static inline double nn_element(ad_dtype dtype, const void *data, int64_t i)
{
    return dtype == AD_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

static inline void nn_put(ad_dtype dtype, void *data, int64_t i, double value)
{
    if (dtype == AD_F32) ((float *)data)[i] = (float)value;
    else ((double *)data)[i] = value;
}
static inline bool nn_is_dtype(ad_dtype dtype) { return dtype == AD_F32 || dtype == AD_F64; }
static inline const char *nn_dtype_name(ad_dtype dtype) { return dtype == AD_F32 ? "f32" : "f64"; }
/* For messages: the sign of a NaN means nothing, and not every machine prints it. */
static inline double nn_shown(double value) { return isnan(value) ? fabs(value) : value; }

/* n numbers, all zero, at the beginning of a cache line, so that no vector lies in two of them; as
 * calloc: NULL when memory is short, free() releases them. */
void *nn_zeros(ad_dtype dtype, int64_t n);

/* The first element that is not finite, or -1. */
int64_t nn_find_nonfinite(ad_dtype dtype, const void *data, int64_t n);
/* The first element that is not finite as a number of dtype `as`, or -1. */
int64_t nn_find_unfit(ad_dtype dtype, const void *data, int64_t n, ad_dtype as);

/* Writes the message (if there is room for one) and returns -1. */
int nn_error(char *error, size_t size, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

#endif
