/* Error texts and scans that the files of nn/ share. */
#include "nn/base/support.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int nn_error(char *error, size_t size, const char *format, ...)
{
    if (!error || size == 0) return -1;
    va_list list;
    va_start(list, format);
    vsnprintf(error, size, format, list);
    va_end(list);
    return -1;
}

void *nn_zeros(ad_dtype dtype, int64_t n)
{
    enum { LINE = 64 };
    if (n < 0 || n > (INT64_MAX >> 8)) return NULL;
    size_t bytes = ((size_t)n * nn_bytes(dtype) / LINE + 1) * LINE;
    void *zeros = aligned_alloc(LINE, bytes);
    return zeros ? memset(zeros, 0, bytes) : NULL;
}

int64_t nn_find_nonfinite(ad_dtype dtype, const void *data, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(nn_element(dtype, data, i))) return i;
    return -1;
}

int64_t nn_find_unfit(ad_dtype dtype, const void *data, int64_t n, ad_dtype as)
{
    if (as == AD_F64 || dtype == AD_F32) return nn_find_nonfinite(dtype, data, n);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite((float)((const double *)data)[i])) return i;
    return -1;
}
