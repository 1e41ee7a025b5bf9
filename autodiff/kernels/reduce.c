/* Sums, maxima and cumulative sums. */
#include "autodiff/kernels/impl.h"
#include <stdlib.h>
#include <string.h>

/* The reduced axes, merged where adjacent, are reduced group by group, the innermost first; each
 * pass sees its operand as [outer, n, inner] and leaves [outer, inner]. Where rows are among the
 * reduced axes, they are in the last group. */
typedef struct {
    int64_t outer, n, inner;
    bool rows_outer, rows_n;
} pass;

typedef struct {
    ad_prepared head;
    bool max;
    int n;
    pass passes[AD_MAX_RANK];
} reduce_prepared;

static int64_t pass_outer(const pass *p, int64_t rows)
{
    return p->rows_outer ? p->outer * rows : p->outer;
}
static size_t pass_bytes(const reduce_prepared *p, int i, int64_t rows)
{
    return i < p->n - 1
               ? ad_round_up((size_t)(pass_outer(&p->passes[i], rows) * p->passes[i].inner) *
                             p->head.size)
               : 0;
}

/* Results of passes alternate between two places. */
static void reduce_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                       void *scratch)
{
    const reduce_prepared *p = k->prepared;
    const void *from = in[0];
    for (int i = 0; i < p->n; i++) {
        const pass *s = &p->passes[i];
        bool last = i == p->n - 1;
        void *to = last ? out : (char *)scratch + (i % 2 ? pass_bytes(p, 0, rows) : 0);
        p->head.loops->reduce(p->max, last && k->reduces_rows, pass_outer(s, rows),
                              s->rows_n ? s->n * rows : s->n, s->inner, from, to);
        from = to;
    }
}

static size_t reduce_scratch(const ad_kernel *k, int64_t rows)
{
    const reduce_prepared *p = k->prepared;
    return pass_bytes(p, 0, rows) + (p->n > 1 ? pass_bytes(p, 1, rows) : 0);
}

static bool prepare_reduce(ad_kernel *k)
{
    reduce_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    ad_shape s = k->in_shapes[0];
    int64_t mask = k->attr[0], inner = 1;
    p->max = ad_has_trait(k->op, AD_MAXIMUM);
    p->head.scratch = reduce_scratch;
    k->run = reduce_run;
    for (int i = s.rank - 1; i >= 0;) {
        if (!(mask >> i & 1)) {
            inner *= s.dim[i] == AD_ROWS ? 1 : s.dim[i];
            i--;
            continue;
        }
        pass *q = &p->passes[p->n++];
        *q = (pass){ .outer = 1, .n = 1, .inner = inner };
        for (; i >= 0 && (mask >> i & 1); i--) {
            q->n *= s.dim[i] == AD_ROWS ? 1 : s.dim[i];
            q->rows_n |= s.dim[i] == AD_ROWS;
        }
        for (int j = 0; j <= i; j++) {
            q->outer *= s.dim[j] == AD_ROWS ? 1 : s.dim[j];
            q->rows_outer |= s.dim[j] == AD_ROWS;
        }
    }
    if (p->n == 0)
        p->passes[p->n++] =
            (pass){ .outer = ad_row_size(s), .n = 1, .inner = 1, .rows_outer = ad_has_rows(s) };
    return true;
}

bool ad_prepare_sum(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare_reduce(k);
}

bool ad_prepare_reduce_max(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare_reduce(k);
}

/* ---- sums in pieces ---- */

/* The reduced axes are one line; others have one element. */
bool ad_kernel_sums_all(const ad_kernel *k)
{
    if (k->op != AD_OP_sum || ad_has_rows(k->in_shapes[0])) return false;
    const ad_shape s = k->in_shapes[0];
    bool inside = false, behind = false;
    for (int i = s.rank - 1; i >= 0; i--) {
        const bool reduced = k->attr[0] >> i & 1;
        if ((reduced && behind) || (!reduced && s.dim[i] != 1)) return false;
        behind |= inside && !reduced;
        inside |= reduced;
    }
    return inside;
}

void ad_kernel_sum_leaves(const ad_kernel *k, int64_t n, const void *in, void *leaves)
{
    ((const ad_prepared *)k->prepared)->loops->leaves(n, in, leaves);
}

void ad_kernel_sum_tree(const ad_kernel *k, int64_t n, const void *leaves, void *out)
{
    ((const ad_prepared *)k->prepared)->loops->tree(n, leaves, out);
}

/* ---- cumulative sums ---- */

typedef struct {
    ad_prepared head;
    bool rows;
    int64_t outer, n, inner;
} cumsum_prepared;

static void cumsum_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                       void *scratch)
{
    const cumsum_prepared *p = k->prepared;
    (void)scratch;
    if (p->n > 0)
        p->head.loops->cumsum(k->attr[1] != 0, p->rows ? p->outer * rows : p->outer, p->n, p->inner,
                              in[0], out);
}

bool ad_prepare_cumsum(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    cumsum_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    int axis = (int)k->attr[0];
    ad_shape lead = k->out;
    lead.rank = axis;
    p->rows = ad_has_rows(k->out);
    p->outer = ad_row_size(lead);
    p->n = k->out.dim[axis];
    p->inner = ad_size_behind(k->out, axis);
    k->run = cumsum_run;
    return true;
}
