/* Pooling, one spatial axis after the other. */
#include "nn/convolution.h"
#include "autodiff/extension.h"
#include <stdlib.h>

/* Windows along an axis of n elements: window i has elements first[i] .. first[i] + size[i] - 1. */
typedef struct {
    int64_t count, most; /* most: the largest size */
    int64_t *first, *size;
} windows;

static bool windows_new(windows *w, ad_tape *t, const char *name, int64_t count)
{
    *w = (windows){ .count = count, .first = calloc((size_t)count, 2 * sizeof *w->first) };
    w->size = w->first ? w->first + count : NULL;
    if (!w->first) ad_fail(t, "%s: out of memory", name);
    return w->first != NULL;
}

static void put_window(windows *w, int64_t i, int64_t first, int64_t end)
{
    w->first[i] = first;
    w->size[i] = end - first;
    if (w->size[i] > w->most) w->most = w->size[i];
}

/* Whether x has the spatial axes and channels behind them. */
static bool check(const char *name, ad_var x, int axes)
{
    if (!ad_valid(x)) {
        if (x.tape) ad_fail(x.tape, "%s: x is not a valid variable", name);
        return false;
    }
    ad_shape s = ad_shape_of(x);
    if ((axes == 1 || axes == 2) && s.rank - ad_has_rows(s) > axes) return true;
    char text[128];
    ad_format_shape(s, text, sizeof text);
    ad_fail(x.tape,
            "%s: x is %s and %d spatial axes are asked for; x must be [...,L,channels] (1) "
            "or [...,H,W,channels] (2)",
            name, text, axes);
    return false;
}

/* The maximum of each window along an axis: smaller windows repeat their last element, which shares
 * the derivative with itself. */
static ad_var max_along(ad_var x, int axis, const windows *w)
{
    ad_tape *t = x.tape;
    int64_t n = w->count * w->most;
    int64_t *index = malloc((size_t)n * sizeof *index);
    if (!index) {
        ad_fail(t, "nn_max_pool: out of memory");
        return ad_none(t);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i % w->most, at = i / w->most;
        index[i] = w->first[at] + (k < w->size[at] ? k : w->size[at] - 1);
    }
    ad_var g = ad_gather(x, axis, n, index);
    free(index);
    ad_shape s = ad_shape_of(g);
    if (s.rank < 0) return g;
    if (s.rank == AD_MAX_RANK) {
        ad_fail(t, "nn_max_pool: x has %d axes, one too many", s.rank);
        return ad_none(t);
    }
    ad_shape split = { s.rank + 1, { 0 } };
    for (int a = 0; a < split.rank; a++)
        split.dim[a] = a < axis ? s.dim[a] : a == axis ? w->count : s.dim[a - 1];
    split.dim[axis + 1] = w->most;
    return ad_reduce_max(ad_reshape(g, split), 1, (int[]){ axis + 1 }, false);
}

/* The mean of each window along an axis: a product with a matrix [windows,n]. */
static ad_var mean_along(ad_var x, int axis, const windows *w)
{
    ad_tape *t = x.tape;
    ad_shape s = ad_shape_of(x);
    if (s.rank < 0) return x;
    int64_t n = s.dim[axis];
    double *share = calloc((size_t)(w->count * n), sizeof *share);
    if (!share) {
        ad_fail(t, "nn_adaptive_average_pool: out of memory");
        return ad_none(t);
    }
    for (int64_t i = 0; i < w->count; i++)
        for (int64_t k = 0; k < w->size[i]; k++)
            share[i * n + w->first[i] + k] = 1 / (double)w->size[i];
    ad_var matrix = ad_constant(t, AD_SHAPE(w->count, n), share);
    free(share);
    /* "abc,zb->azc" for axis 1 of 3 */
    char of_x[AD_MAX_RANK + 1] = "abcdefgh", of_y[AD_MAX_RANK + 1] = "abcdefgh", spec[64];
    of_x[s.rank] = of_y[s.rank] = 0;
    of_y[axis] = 'z';
    snprintf(spec, sizeof spec, "%s,z%c->%s", of_x, of_x[axis], of_y);
    return ad_contract(spec, 2, (ad_var[]){ x, matrix });
}

/* ---- windows of one size --------------------------------------------------------------------- */

static bool check_options(const char *name, ad_var x, const nn_pool_options *o)
{
    if (!o) {
        if (x.tape) ad_fail(x.tape, "%s: options are NULL; they say how large windows are", name);
        return false;
    }
    if (!check(name, x, o->axes)) return false;
    ad_shape s = ad_shape_of(x);
    for (int a = 0; a < o->axes; a++) {
        int64_t n = s.dim[s.rank - 1 - o->axes + a], size = o->size[a];
        bool fine = size > 0 && size < (int64_t)1 << 30 && o->stride[a] >= 0 && o->before[a] >= 0 &&
                    o->after[a] >= 0 && o->before[a] <= size / 2 && o->after[a] <= size / 2 &&
                    size <= n + o->before[a] + o->after[a];
        if (fine) continue;
        ad_fail(x.tape,
                "%s: spatial axis %d has %lld elements, size %lld, stride %lld, padding %lld + "
                "%lld; the size must be positive and at most the padded axis, the padding at most "
                "half the size, nothing negative",
                name, a, (long long)n, (long long)size, (long long)o->stride[a],
                (long long)o->before[a], (long long)o->after[a]);
        return false;
    }
    return true;
}

ad_var nn_max_pool(ad_var x, const nn_pool_options *o)
{
    if (!check_options("nn_max_pool", x, o)) return x.tape ? ad_none(x.tape) : x;
    for (int a = 0; a < o->axes; a++) {
        ad_shape s = ad_shape_of(x);
        if (s.rank < 0) return x;
        int axis = s.rank - 1 - o->axes + a;
        int64_t n = s.dim[axis], stride = o->stride[a] ? o->stride[a] : o->size[a];
        windows w;
        int64_t count = (n + o->before[a] + o->after[a] - o->size[a]) / stride + 1;
        if (!windows_new(&w, x.tape, "nn_max_pool", count)) return ad_none(x.tape);
        for (int64_t i = 0; i < count; i++) {
            int64_t first = i * stride - o->before[a], end = first + o->size[a];
            put_window(&w, i, first < 0 ? 0 : first, end > n ? n : end);
        }
        x = max_along(x, axis, &w);
        free(w.first);
    }
    return x;
}

/* A convolution by a kernel that does not vary, channel by channel. */
ad_var nn_average_pool(ad_var x, const nn_pool_options *o)
{
    if (!check_options("nn_average_pool", x, o)) return x.tape ? ad_none(x.tape) : x;
    ad_shape s = ad_shape_of(x), w = { o->axes + 2, { 0 } };
    ad_conv_options sweep = { .groups = s.dim[s.rank - 1] };
    double size = 1;
    for (int a = 0; a < o->axes; a++) {
        w.dim[a] = o->size[a];
        sweep.stride[a] = o->stride[a] ? o->stride[a] : o->size[a];
        sweep.before[a] = o->before[a];
        sweep.after[a] = o->after[a];
        size *= (double)o->size[a];
    }
    w.dim[o->axes] = 1;
    w.dim[o->axes + 1] = sweep.groups;
    return ad_conv(x, ad_fill(x.tape, w, 1 / size), &sweep);
}

/* ---- windows of given number ----------------------------------------------------------------- */

static ad_var adaptive(const char *name, ad_var x, int axes, const int64_t *sizes,
                       ad_var (*along)(ad_var x, int axis, const windows *w))
{
    if (!check(name, x, axes)) return x.tape ? ad_none(x.tape) : x;
    for (int a = 0; a < axes; a++) {
        ad_shape s = ad_shape_of(x);
        if (s.rank < 0) return x;
        int axis = s.rank - 1 - axes + a;
        int64_t n = s.dim[axis], m = sizes ? sizes[a] : 0;
        if (m < 1 || m > n) {
            ad_fail(x.tape,
                    "%s: spatial axis %d has %lld elements, asked for are %lld; it must be "
                    "1 to as many as there are",
                    name, a, (long long)n, (long long)m);
            return ad_none(x.tape);
        }
        windows w;
        if (!windows_new(&w, x.tape, name, m)) return ad_none(x.tape);
        for (int64_t i = 0; i < m; i++) put_window(&w, i, i * n / m, ((i + 1) * n + m - 1) / m);
        x = along(x, axis, &w);
        free(w.first);
    }
    return x;
}

ad_var nn_adaptive_max_pool(ad_var x, int axes, const int64_t *sizes)
{
    return adaptive("nn_adaptive_max_pool", x, axes, sizes, max_along);
}

ad_var nn_adaptive_average_pool(ad_var x, int axes, const int64_t *sizes)
{
    return adaptive("nn_adaptive_average_pool", x, axes, sizes, mean_along);
}
