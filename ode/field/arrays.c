/* Host arrays: memory that only grows, and loops over elements of either type. */
#include "ode/field/arrays.h"
#include <math.h>
#include <stdlib.h>

void *ode_buffer_need(ode_buffer *b, size_t bytes)
{
    if (bytes < 64) bytes = 64;
    if (bytes <= b->size) return b->data;
    size_t size = b->size ? b->size : 256;
    while (size < bytes) size += size / 2 + 64;
    void *more = realloc(b->data, size);
    if (!more) return NULL;
    b->data = more;
    b->size = size;
    return more;
}

void ode_buffer_free(ode_buffer *b)
{
    free(b->data);
    *b = (ode_buffer){ 0 };
}

void ode_buffer_swap(ode_buffer pair[2])
{
    ode_buffer first = pair[0];
    pair[0] = pair[1];
    pair[1] = first;
}

size_t ode_array_bytes(ad_dtype dtype, ad_shape shape, int64_t rows)
{
    return ((size_t)ad_count(shape, rows) * ode_bytes(dtype) + 63) & ~(size_t)63;
}

double ode_load(ad_dtype t, const void *x, int64_t i)
{
    return t == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

double ode_shown(double x) { return isnan(x) ? fabs(x) : x; }

void ode_store(ad_dtype t, void *x, int64_t i, double value)
{
    if (t == AD_F32) ((float *)x)[i] = (float)value;
    else ((double *)x)[i] = value;
}

/* One body for both types: T is the element type, X the arrays by name. */
#define EITHER_TYPE(BODY)                                                                          \
    if (t == AD_F32) {                                                                             \
        typedef float T;                                                                           \
        BODY                                                                                       \
    } else {                                                                                       \
        typedef double T;                                                                          \
        BODY                                                                                       \
    }

void ode_add(ad_dtype t, int64_t n, const void *x, void *y)
{
    EITHER_TYPE({
        const T *a = x;
        T *b = y;
        for (int64_t i = 0; i < n; i++) b[i] += a[i];
    })
}

void ode_add_scaled(ad_dtype t, int64_t n, double w, const void *x, void *y)
{
    EITHER_TYPE({
        const T *a = x;
        T *b = y;
        T f = (T)w;
        for (int64_t i = 0; i < n; i++) b[i] += f * a[i];
    })
}

double ode_dot(ad_dtype t, int64_t n, const void *x, const void *y)
{
    double sum = 0;
    EITHER_TYPE({
        const T *a = x;
        const T *b = y;
        for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    })
    return sum;
}

void ode_combine(ad_dtype t, int64_t n, const void *base, int m, const double *w,
                 const void *const *x, void *out)
{
    EITHER_TYPE({
        const T *a = base;
        T *o = out;
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int j = 0; j < m; j++)
                if (w[j] != 0) sum += w[j] * (double)((const T *)x[j])[i];
            o[i] = (T)((double)a[i] + sum);
        }
    })
}

void ode_grow(ad_dtype t, int64_t n, const void *x, void *most){ EITHER_TYPE({
    const T *a = x;
    T *m = most;
    for (int64_t i = 0; i < n; i++) {
        T size = a[i] < 0 ? -a[i] : a[i];
        m[i] = size > m[i] ? size : m[i];
    }
}) }

int64_t ode_first_nonfinite(ad_dtype t, int64_t n, const void *x)
{
    EITHER_TYPE({
        const T *a = x;
        for (int64_t i = 0; i < n; i++)
            if (!isfinite(a[i])) return i;
    })
    return -1;
}

double ode_scaled_squares(ad_dtype t, int64_t n, const void *x, const void *y, double rtol,
                          double atol)
{
    double sum = 0;
    EITHER_TYPE({
        const T *a = x;
        const T *b = y;
        for (int64_t i = 0; i < n; i++) {
            double r = (double)a[i] / (atol + rtol * fabs((double)b[i]));
            sum += r * r;
        }
    })
    return sum;
}
