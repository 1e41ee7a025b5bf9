/* Overlapping windows along an axis, composed of paddings, gathers and reshapes. */
#include "autodiff/tape/axes.h"
#include <stdlib.h>

enum { MOST = 1 << 30 }; /* of a window's numbers */

/* The window with its defaults; false: an error that names the operation, the axis and its size. */
static bool window_of(ad_tape *t, const char *name, const ad_window *given, int64_t n, ad_window *w,
                      int64_t *count)
{
    if (!given) {
        ad_fail_null(t, name, "the window");
        return false;
    }
    *w = *given;
    w->stride = w->stride ? w->stride : 1;
    w->dilation = w->dilation ? w->dilation : 1;
    const int64_t number[] = { w->size - 1, w->stride, w->dilation, w->before, w->after };
    bool fine = n < (int64_t)1 << 32;
    for (int i = 0; i < 5; i++) fine = fine && number[i] >= 0 && number[i] < MOST;
    int64_t room = fine ? n + w->before + w->after - w->dilation * (w->size - 1) - 1 : -1;
    *count = room < 0 ? 0 : room / w->stride + 1;
    if (*count > 0 && *count < MOST / w->size) return true;
    ad_fail(
        t,
        "ad_%s: a window of size %lld, stride %lld, dilation %lld, padding %lld + %lld does not "
        "fit an axis of %lld elements (it must fit into the padded axis; the size is positive, "
        "nothing negative)",
        name, (long long)w->size, (long long)w->stride, (long long)w->dilation,
        (long long)w->before, (long long)w->after, (long long)n);
    return false;
}

/* The elements of all windows, in the padded axis; NULL with the tape's error set. */
static int64_t *elements_of(ad_tape *t, const char *name, const ad_window *w, int64_t count)
{
    int64_t n = count * w->size;
    int64_t *index = malloc((size_t)n * sizeof *index);
    if (!index) ad_fail(t, "ad_%s: out of memory", name);
    for (int64_t i = 0; index && i < n; i++)
        index[i] = i / w->size * w->stride + i % w->size * w->dilation;
    return index;
}

ad_var ad_unfold(ad_var x, int axis, const ad_window *window)
{
    ad_tape *t = ad_common_tape("unfold", 1, &x);
    int a = t ? ad_axis_within_rows("unfold", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    ad_window w;
    int64_t count;
    if (!window_of(t, "unfold", window, s.dim[a], &w, &count)) return ad_none(t);
    if (s.rank == AD_MAX_RANK)
        return ad_fail_shapes(t, "unfold", "the result would have too many axes", 1, &x);
    int64_t *index = elements_of(t, "unfold", &w, count);
    if (!index) return ad_none(t);
    ad_shape split = { s.rank + 1, { 0 } };
    for (int i = 0; i < split.rank; i++) split.dim[i] = s.dim[i <= a ? i : i - 1];
    split.dim[a] = count;
    split.dim[a + 1] = w.size;
    int32_t inner = ad_inner_begin(t);
    ad_var padded = w.before || w.after ? ad_pad(x, a, w.before, w.after) : x;
    ad_var y = ad_reshape(ad_gather(padded, a, count * w.size, index), split);
    ad_inner_end(t, inner);
    free(index);
    return y;
}

ad_var ad_fold(ad_var x, int axis, int64_t n, const ad_window *window)
{
    ad_tape *t = ad_common_tape("fold", 1, &x);
    int a = t ? ad_axis_within_rows("fold", x, axis) : -1;
    if (a < 0) return ad_none(x.tape);
    ad_shape s = ad_shape_of(x);
    ad_window w;
    int64_t count;
    if (!window_of(t, "fold", window, n, &w, &count)) return ad_none(t);
    if (n < 1 || a + 1 >= s.rank || s.dim[a] != count || s.dim[a + 1] != w.size) {
        char text[160];
        snprintf(text, sizeof text,
                 "an axis of %lld elements has %lld such windows of %lld; x must be [...,%lld,%lld,"
                 "...] at the axis",
                 (long long)n, (long long)count, (long long)w.size, (long long)count,
                 (long long)w.size);
        return ad_fail_shapes(t, "fold", text, 1, &x);
    }
    int64_t *index = elements_of(t, "fold", &w, count);
    if (!index) return ad_none(t);
    ad_shape merged = { s.rank - 1, { 0 } };
    for (int i = 0; i < merged.rank; i++) merged.dim[i] = s.dim[i <= a ? i : i + 1];
    merged.dim[a] = count * w.size;
    int32_t inner = ad_inner_begin(t);
    ad_var y = ad_scatter_add(ad_reshape(x, merged), a, n + w.before + w.after, index);
    if (w.before || w.after) y = ad_slice(y, a, w.before, w.before + n);
    ad_inner_end(t, inner);
    free(index);
    return y;
}
