/* Internal: arrays on the host, in the dtype of a solve. */
#ifndef ODE_ARRAYS_H
#define ODE_ARRAYS_H
#include "autodiff/extension.h"

/* Where arrays begin, in bytes: a vector register that lies across two cache lines takes twice as
 * long to read and to write. */
enum { ODE_LINE = 64 };
static inline size_t ode_aligned(size_t bytes)
{
    return (bytes + ODE_LINE - 1) / ODE_LINE * ODE_LINE;
}

/* Begins at a cache line. */
typedef struct {
    void *data;
    size_t size;
} ode_buffer;
/* At least so many bytes; growing keeps the contents. NULL: out of memory. */
void *ode_buffer_need(ode_buffer *buffer, size_t bytes);
void ode_buffer_free(ode_buffer *buffer);
size_t ode_buffer_bytes(size_t bytes); /* of an empty one that is asked for so many */
/* Adds n times so many bytes to an account of a state. */
static inline void ode_account(ad_opaque_account *a, int64_t n, size_t bytes)
{
    const int64_t most = bytes ? INT64_MAX / (int64_t)bytes : INT64_MAX;
    const bool fits = a->bytes >= 0 && n >= 0 && n <= most;
    const int64_t more = fits ? n * (int64_t)bytes : -1;
    a->bytes = more < 0 || a->bytes > INT64_MAX - more ? -1 : a->bytes + more;
}
static inline void ode_account_buffer(ad_opaque_account *a, size_t bytes)
{
    ode_account(a, 1, ode_buffer_bytes(bytes));
}
void ode_buffer_swap(ode_buffer *pair);
/* Buffers that are held together, with the bytes of each. */
typedef struct {
    ode_buffer *buffer;
    size_t bytes;
} ode_buffer_part;
bool ode_buffers_need(int n, const ode_buffer_part *parts); /* false: out of memory */
static inline void ode_account_buffers(ad_opaque_account *a, int n, const ode_buffer_part *parts)
{
    for (int i = 0; i < n; i++) ode_account_buffer(a, parts[i].bytes);
}

/* Of arrays laid one after the other, each aligned to 64 bytes. */
size_t ode_array_bytes(ad_dtype dtype, ad_shape shape, int64_t rows);
static inline size_t ode_bytes(ad_dtype t) { return t == AD_F32 ? sizeof(float) : sizeof(double); }
static inline double ode_load(ad_dtype t, const void *x, int64_t i)
{
    return t == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}
void ode_store(ad_dtype t, void *x, int64_t i, double value);
void ode_add(ad_dtype t, int64_t n, const void *x, void *y);                  /* y += x */
void ode_add_scaled(ad_dtype t, int64_t n, double w, const void *x, void *y); /* y += w x */
double ode_dot(ad_dtype t, int64_t n, const void *x, const void *y);
/* out = base + sum_i w_i x_i, accumulated in double. */
void ode_combine(ad_dtype t, int64_t n, const void *base, int m, const double *w,
                 const void *const *x, void *out);
void ode_grow(ad_dtype t, int64_t n, const void *x, void *most); /* most = max(most, |x|) */
/* A number for a message: NaN without its sign. */
double ode_shown(double x);
/* Index of the first element that is not finite, or -1. */
int64_t ode_first_nonfinite(ad_dtype t, int64_t n, const void *x);
bool ode_some_are_equal(ad_dtype t, int64_t n, const void *x, const void *y); /* x_i == y_i */
/* Sum of (x_i / (atol + rtol |y_i|))^2. */
double ode_scaled_squares(ad_dtype t, int64_t n, const void *x, const void *y, double rtol,
                          double atol);

#endif
