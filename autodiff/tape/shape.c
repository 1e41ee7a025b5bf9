/* Shapes: sizes, comparison, broadcasting, text. */
#include "autodiff/tape/tape.h"

/* The axes that a shape may have at all, whatever its rank says. */
static int axes_of(ad_shape s) { return s.rank < AD_MAX_RANK ? s.rank : AD_MAX_RANK; }

int64_t ad_row_size(ad_shape s)
{
    int64_t n = 1;
    for (int i = ad_has_rows(s) ? 1 : 0; i < axes_of(s); i++) n *= s.dim[i];
    return n;
}

bool ad_has_rows(ad_shape s) { return s.rank > 0 && s.dim[0] == AD_ROWS; }

int64_t ad_count(ad_shape s, int64_t rows) { return ad_row_size(s) * (ad_has_rows(s) ? rows : 1); }

bool ad_same_shape(ad_shape a, ad_shape b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < axes_of(a); i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

bool ad_broadcast_shapes(ad_shape a, ad_shape b, ad_shape *out)
{
    if (a.rank < b.rank) {
        ad_shape swap = a;
        a = b;
        b = swap;
    }
    if (b.rank < 0 || a.rank > AD_MAX_RANK) return false;
    /* An operand of lower rank never carries the row axis: NumPy aligns at the right, rows stand at
     * the left. */
    if (a.rank > b.rank && ad_has_rows(b)) return false;
    ad_shape unused;
    if (!out) out = &unused;
    *out = a;
    int lead = a.rank - b.rank;
    for (int i = 0; i < b.rank; i++) {
        int64_t p = a.dim[lead + i], q = b.dim[i];
        if (p != q && p != 1 && q != 1) return false;
        out->dim[lead + i] = p == 1 ? q : p;
    }
    return true;
}

void ad_format_shape(ad_shape s, char *text, size_t size)
{
    if (!text) return;
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < axes_of(s) && used < size; i++) {
        const char *comma = i ? "," : "";
        if (s.dim[i] == AD_ROWS)
            used += (size_t)snprintf(text + used, size - used, "%srows", comma);
        else
            used +=
                (size_t)snprintf(text + used, size - used, "%s%lld", comma, (long long)s.dim[i]);
    }
    if (used < size) snprintf(text + used, size - used, "]");
}
