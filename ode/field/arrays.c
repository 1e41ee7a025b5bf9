/* Host arrays: memory that only grows, and loops over elements of either type. */
#include "ode/field/arrays.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Room is made by halves, so that what grows a little each time is copied seldom. */
static size_t grown(size_t size, size_t bytes)
{
    if (!size) size = 256;
    while (size < bytes) size += size / 2 + 64;
    return ode_aligned(size);
}

size_t ode_buffer_bytes(size_t bytes) { return grown(0, bytes); }

void *ode_buffer_need(ode_buffer *b, size_t bytes)
{
    if (bytes < 64) bytes = 64;
    if (bytes <= b->size) return b->data;
    const size_t size = grown(b->size, bytes);
    void *more = aligned_alloc(ODE_LINE, size);
    if (!more) return NULL;
    if (b->size) memcpy(more, b->data, b->size);
    free(b->data);
    b->data = more;
    b->size = size;
    return more;
}

bool ode_buffers_need(int n, const ode_buffer_part *parts)
{
    for (int i = 0; i < n; i++)
        if (!ode_buffer_need(parts[i].buffer, parts[i].bytes)) return false;
    return true;
}

void ode_buffer_free(ode_buffer *b)
{
    free(b->data);
    *b = (ode_buffer){ 0 };
}

void ode_buffer_swap(ode_buffer *pair)
{
    ode_buffer first = pair[0];
    pair[0] = pair[1];
    pair[1] = first;
}

size_t ode_array_bytes(ad_dtype dtype, ad_shape shape, int64_t rows)
{
    return ((size_t)ad_count(shape, rows) * ode_bytes(dtype) + 63) & ~(size_t)63;
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

/* Loops over stretches of so many elements, which the compiler turns into vector code. */
enum { STRETCH = 256 };
static int64_t stretch_end(int64_t start, int64_t n)
{
    return n - start < STRETCH ? n : start + STRETCH;
}

void ode_combine(ad_dtype t, int64_t n, const void *base, int m, const double *w,
                 const void *const *x, void *out)
{
    double sum[STRETCH];
    EITHER_TYPE({
        const T *a = base;
        T *o = out;
        for (int64_t start = 0; start < n; start += STRETCH) {
            int64_t count = stretch_end(start, n) - start;
            for (int64_t i = 0; i < count; i++) sum[i] = 0;
            for (int j = 0; j < m; j++) {
                const T *term = (const T *)x[j] + start;
                for (int64_t i = 0; w[j] != 0 && i < count; i++) sum[i] += w[j] * (double)term[i];
            }
            for (int64_t i = 0; i < count; i++) o[start + i] = (T)((double)a[start + i] + sum[i]);
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
        for (int64_t start = 0, end; start < n; start = end) {
            int bad = 0;
            end = stretch_end(start, n);
            for (int64_t i = start; i < end; i++) bad |= !(a[i] - a[i] == 0);
            for (int64_t i = start; bad && i < end; i++)
                if (!isfinite(a[i])) return i;
        }
    })
    return -1;
}

bool ode_some_are_equal(ad_dtype t, int64_t n, const void *x, const void *y)
{
    EITHER_TYPE({
        const T *a = x;
        const T *b = y;
        for (int64_t start = 0, end; start < n; start = end) {
            int equal = 0;
            end = stretch_end(start, n);
            for (int64_t i = start; i < end; i++) equal |= a[i] == b[i];
            if (equal) return true;
        }
    })
    return false;
}

double ode_scaled_squares(ad_dtype t, int64_t n, const void *x, const void *y, double rtol,
                          double atol)
{
    enum { SUMS = 8 }; /* side by side, so that none waits for another */
    double sum[SUMS] = { 0 };
    int64_t whole = n / SUMS * SUMS;
    EITHER_TYPE({
        const T *a = x;
        const T *b = y;
        for (int64_t i = 0; i < whole; i += SUMS)
            for (int k = 0; k < SUMS; k++) {
                double r = (double)a[i + k] / (atol + rtol * fabs((double)b[i + k]));
                sum[k] += r * r;
            }
        for (int64_t i = whole; i < n; i++) {
            double r = (double)a[i] / (atol + rtol * fabs((double)b[i]));
            sum[i - whole] += r * r;
        }
    })
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}
