/* The roles of a contraction's labels. Every label belongs to one class: batch (in both operands
 * and the result), m (first operand and result), n (second and result), k (both operands only);
 * labels in one operand alone are summed away first. Without k the contraction is a product; where
 * k is contiguous and one operand has no label of its own, a dot product; everything else becomes
 * matrix products C [M,N] (+)= A [M,K] B [K,N], one for each index of the batch labels. Here is
 * decided which operand is A, where the row label goes, and what has to be packed; contract.c runs
 * it. */
#include "autodiff/kernels/contract.h"
#include <string.h>

enum { NARROW = 8 };
/* Multiplications of a product without rows from which on it is divided. */
enum { DIVIDED = 1 << 22 };

/* ---- labels ---------------------------------------------------------------------------------- */

/* All labels, those of the result first and in its order, then those of a, then those of b. */
static void collect(const ad_kernel *k, const ad_shape shapes[3], ad_labels *all)
{
    const ad_contraction c = ad_contraction_of(k->attr, k->nattr);
    const int64_t *const *list = c.label;
    const int *count = c.rank;
    static const int order[3] = { C, A, B };
    int64_t seen[3 * AD_MAX_RANK], dense[3][AD_MAX_RANK];
    for (int s = 0; s < 3; s++) ad_dense_strides(shapes[s], dense[s]);
    all->n = 0;
    int nseen = 0;
    for (int o = 0; o < 3; o++)
        for (int i = 0; i < count[order[o]]; i++) {
            int64_t what = list[order[o]][i];
            if (ad_label_find(seen, nseen, what) >= 0) continue;
            seen[nseen++] = what;
            label l = { .size = 1 };
            for (int s = 0; s < 3; s++) {
                int at = ad_label_find(list[s], count[s], what);
                if (at < 0) continue;
                int64_t size = shapes[s].dim[at];
                l.in[s] = true;
                l.rows |= size == AD_ROWS;
                l.stride[s] = size == 1 ? 0 : dense[s][at];
                if (size > l.size || size == 0) l.size = size;
            }
            if ((l.size != 1 || l.rows) && all->n < LABELS) all->of[all->n++] = l;
        }
}

static void choose(const ad_labels *all, bool a, bool b, bool c, ad_labels *some)
{
    some->n = 0;
    for (int i = 0; i < all->n; i++)
        if (all->of[i].in[A] == a && all->of[i].in[B] == b && all->of[i].in[C] == c)
            some->of[some->n++] = all->of[i];
}

static int64_t size_of(const ad_labels *l)
{
    int64_t n = 1;
    for (int i = 0; i < l->n; i++) n *= l->of[i].size;
    return n;
}

/* Whether the labels, in their order, are one axis in array s; its stride (1 when there are none).
 */
static bool one_axis(const ad_labels *l, int s, int64_t *stride)
{
    *stride = l->n ? l->of[l->n - 1].stride[s] : 1;
    for (int i = 1; i < l->n; i++)
        if (l->of[i - 1].stride[s] != l->of[i].stride[s] * l->of[i].size) return false;
    return true;
}

static bool has_row(const ad_labels *l) { return l->n > 0 && l->of[0].rows; }

/* Without its first label. */
static ad_labels rest_of(const ad_labels *l)
{
    ad_labels rest = { .n = l->n - 1 };
    memcpy(rest.of, l->of + 1, (size_t)rest.n * sizeof rest.of[0]);
    return rest;
}

static void nest_add(ad_nest *nest, const ad_labels *l, int arrays, const int *which)
{
    for (int i = 0; i < l->n && nest->rank < AD_MAX_RANK; i++, nest->rank++) {
        nest->dim[nest->rank] = l->of[i].size;
        nest->rows |= l->of[i].rows;
        for (int a = 0; a < arrays; a++) nest->stride[a][nest->rank] = l->of[i].stride[which[a]];
    }
}

void ad_contract_classify(const ad_kernel *k, const ad_shape shapes[3], ad_classes *c)
{
    collect(k, shapes, &c->all);
    choose(&c->all, true, true, true, &c->batch);
    choose(&c->all, true, false, true, &c->m);
    choose(&c->all, false, true, true, &c->n);
    choose(&c->all, true, true, false, &c->sum);
}

/* ---- sums over labels of one operand alone --------------------------------------------------- */

bool ad_contract_presum(const ad_kernel *k, ad_contraction_plan *p, int which, int64_t max_rows)
{
    const ad_contraction c = ad_contraction_of(k->attr, k->nattr);
    const int64_t *mine = c.label[which], *other = c.label[!which], *result = c.label[2];
    ad_shape in = k->in_shapes[which], out = in;
    int64_t *mask = &p->presum_mask[which];
    for (int i = 0; i < in.rank; i++)
        if (in.dim[i] != 1 && ad_label_find(other, c.rank[!which], mine[i]) < 0 &&
            ad_label_find(result, c.rank[2], mine[i]) < 0) {
            *mask |= (int64_t)1 << i;
            out.dim[i] = 1;
        }
    p->presum_in[which] = in;
    p->presum_out[which] = out;
    if (!*mask) return true;
    ad_kernel *sum = &p->presum[which];
    *sum = (ad_kernel){ .op = AD_OP_sum,
                        .dtype = k->dtype,
                        .nin = 1,
                        .in_shapes = &p->presum_in[which],
                        .out = out,
                        .nattr = 1,
                        .attr = mask };
    ad_kernel_begin(sum);
    p->summed[which] = ad_prepare_sum(sum, max_rows);
    if (!p->summed[which]) ad_kernel_clear(sum);
    return p->summed[which];
}

int64_t ad_contract_terms(const ad_classes *c)
{
    for (int i = 0; i < c->sum.n; i++)
        if (c->sum.of[i].rows) return size_of(&c->sum);
    return 0;
}

/* ---- products and dot products --------------------------------------------------------------- */

bool ad_contract_is_dot(ad_contraction_plan *p, const ad_classes *c)
{
    const ad_labels *k = &c->sum;
    int64_t sa, sb;
    if (c->m.n && c->n.n) return false;
    if (!one_axis(k, A, &sa) || !one_axis(k, B, &sb) || sa != 1 || sb != 1) return false;
    p->dot_size = size_of(k);
    p->dot_rows = has_row(k);
    return true;
}

void ad_contract_result_nest(ad_contraction_plan *p, const ad_classes *c)
{
    static const int which[3] = { C, A, B };
    ad_labels result;
    result.n = 0;
    for (int i = 0; i < c->all.n; i++)
        if (c->all.of[i].in[C]) result.of[result.n++] = c->all.of[i];
    p->nest = (ad_nest){ .arrays = 3 };
    nest_add(&p->nest, &result, 3, which);
    ad_nest_simplify(&p->nest);
}

/* ---- matrix products ------------------------------------------------------------------------- */

/* An operand with the given row and column labels (A: m, k; B: k, n; C: m, n), packed densely as
 * [rows, columns]. */
static void prepare_pack(side *s, int array, const ad_labels *row, const ad_labels *column)
{
    int which[1] = { array };
    s->packed = true;
    ad_nest strides = { .arrays = 1 };
    nest_add(&strides, row, 1, which);
    nest_add(&strides, column, 1, which);
    ad_shape dense = { .rank = strides.rank };
    for (int i = 0; i < strides.rank; i++)
        dense.dim[i] = strides.rows && i == 0 ? AD_ROWS : strides.dim[i];
    s->pack = ad_nest_over(dense);
    s->pack.arrays = 2;
    memcpy(s->pack.stride[1], strides.stride[0], sizeof strides.stride[0]);
    s->packed_size = ad_row_size(dense);
    s->pack_rows = strides.rows;
    ad_nest_simplify(&s->pack);
}

/* The leading dimension of array s seen as a matrix with rows of adjacent columns; 0 when it cannot
 * be seen so. */
static int64_t leading(int s, const ad_labels *row, const ad_labels *column)
{
    int64_t rs, cs, nrow = size_of(row), ncolumn = size_of(column);
    if (has_row(column) || !one_axis(row, s, &rs) || !one_axis(column, s, &cs)) return 0;
    bool row_one = nrow == 1 && !has_row(row), column_one = ncolumn == 1;
    if ((cs != 1 && !column_one) || (!row_one && rs < ncolumn)) return 0;
    return row_one ? (ncolumn > cs ? ncolumn : cs) : rs;
}

/* The same of A stored transposed: rows are contiguous instead. */
static int64_t leading_transposed(int s, const ad_labels *row, const ad_labels *column)
{
    int64_t rs, cs, nrow = size_of(row), ncolumn = size_of(column);
    if (!one_axis(row, s, &rs) || !one_axis(column, s, &cs)) return 0;
    bool row_one = nrow == 1 && !has_row(row), column_one = ncolumn == 1 && !has_row(column);
    if ((rs != 1 && !row_one) || (!column_one && cs < nrow)) return 0;
    return column_one ? nrow : cs;
}

/* Fixes the leading dimension of an operand used as it lies, or packs it. `transposed`: A only. */
static int64_t prepare_side(side *s, int array, const ad_labels *row, const ad_labels *column,
                            bool *transposed)
{
    int64_t ld = leading(array, row, column);
    if (ld) return ld;
    if (transposed && (ld = leading_transposed(array, row, column))) {
        *transposed = true;
        return ld;
    }
    if (transposed && has_row(column)) { /* the row axis stays outermost: pack as [K,M] */
        *transposed = true;
        prepare_pack(s, array, column, row);
        return size_of(row);
    }
    prepare_pack(s, array, row, column);
    return size_of(column);
}

/* How many arrays need packing. */
static int packs(const ad_contraction_plan *p, const ad_labels *m, const ad_labels *n,
                 const ad_labels *k)
{
    return (!leading(p->first, m, k) && !leading_transposed(p->first, m, k)) +
           !leading(p->second, k, n) + !leading(C, m, n);
}

static int64_t row_stride(const ad_labels *all, int array)
{
    for (int i = 0; i < all->n; i++)
        if (all->of[i].rows) return all->of[i].stride[array];
    return 0;
}

static bool moves_with(const ad_labels *batch, int array)
{
    for (int i = 0; i < batch->n; i++)
        if (batch->of[i].stride[array]) return true;
    return false;
}

/* Whether the result's contiguous label is among these. */
static bool innermost(const ad_labels *l)
{
    for (int i = 0; i < l->n; i++)
        if (l->of[i].stride[C] == 1 && l->of[i].size > 1) return true;
    return false;
}

static void swap_labels(ad_labels *a, ad_labels *b)
{
    ad_labels t = *a;
    *a = *b;
    *b = t;
}

/* Moves the row label out of m, n or k to the batch, so that each row has a matrix product of its
 * own. */
static void row_to_batch(ad_labels *from, ad_labels *batch)
{
    if (!has_row(from)) return;
    memmove(batch->of + 1, batch->of, (size_t)batch->n * sizeof batch->of[0]);
    batch->of[0] = from->of[0];
    batch->n++;
    *from = rest_of(from);
}

/* Decides where the row label goes and which operand is A: rows are the leading part of M or of K,
 * or they are looped over. Columns of C fill vectors, so that a narrow sum over rows is better made
 * transposed, although C then goes through scratch. */
static void assign_roles(ad_contraction_plan *p, ad_labels *batch, ad_labels *m, ad_labels *n,
                         ad_labels *k)
{
    int64_t stride;
    if (has_row(n)) {
        swap_labels(m, n);
        p->first = B;
    }
    p->row = ROW_NONE;
    if (has_row(m)) {
        ad_labels rest = rest_of(m);
        if (size_of(n) == 1 && size_of(&rest) > 1) row_to_batch(m, batch);
        else p->row = ROW_M;
    } else if (has_row(k)) {
        if (one_axis(k, A, &stride) && one_axis(k, B, &stride)) p->row = ROW_K;
        else row_to_batch(k, batch);
    }
    if (has_row(batch)) p->row = ROW_OUTER;
    if (p->row != ROW_M && (innermost(m) || (n->n == 0 && m->n > 0))) {
        swap_labels(m, n);
        p->first = p->first == A ? B : A;
    }
    if (p->row == ROW_K && size_of(n) < NARROW && size_of(m) >= 4 * size_of(n)) {
        swap_labels(m, n);
        p->first = p->first == A ? B : A;
    }
    p->second = p->first == A ? B : A;
}

/* Moves the leading label of m or n to the batch: many smaller products, without packing. */
static bool split(const ad_contraction_plan *p, ad_labels *batch, ad_labels *m, ad_labels *n,
                  ad_labels *k)
{
    ad_labels *from[2] = { n, m };
    for (int i = 0; i < 2; i++) {
        ad_labels all = *from[i];
        if (all.n < 2 || has_row(&all) || batch->n == LABELS) continue;
        ad_labels rest = rest_of(&all);
        if (size_of(&rest) < NARROW) continue;
        if (packs(p, i ? &rest : m, i ? n : &rest, k) >= packs(p, m, n, k)) continue;
        batch->of[batch->n++] = all.of[0];
        *from[i] = rest;
        return true;
    }
    return false;
}

void ad_contract_lay_out(const ad_kernel *kernel, ad_contraction_plan *p, ad_classes *c)
{
    ad_labels *batch = &c->batch, *m = &c->m, *n = &c->n, *k = &c->sum;
    assign_roles(p, batch, m, n, k);
    while (split(p, batch, m, n, k)) continue;
    side *a = &p->side[A], *b = &p->side[B], *out = &p->side[C];
    bool transposed = false;
    p->gemm = (ad_gemm){ .dtype = kernel->dtype,
                         .accumulate = p->accumulate,
                         .m = size_of(m),
                         .n = size_of(n),
                         .k = size_of(k) };
    p->gemm.lda = prepare_side(a, p->first, m, k, &transposed);
    p->gemm.ldb = prepare_side(b, p->second, k, n, NULL);
    p->gemm.ldc = prepare_side(out, C, m, n, NULL);
    p->gemm.a_transposed = transposed;
}

void ad_contract_go_round(ad_contraction_plan *p, const ad_classes *c)
{
    const int arrays[3] = { C, p->first, p->second };
    p->nest = (ad_nest){ .arrays = 3 };
    nest_add(&p->nest, &c->batch, 3, arrays);
    ad_nest_simplify(&p->nest);
    for (int s = 0; s < 3; s++) {
        int array = s == C ? C : s == A ? p->first : p->second;
        bool tiled = p->row == ROW_M || p->row == ROW_K;
        p->side[s].row_step = tiled ? row_stride(&c->all, array) : 0;
        p->side[s].moves = moves_with(&c->batch, array) || (tiled && p->side[s].row_step);
    }
}

/* ---- sums over rows in pieces ---------------------------------------------------------------- */

bool ad_kernel_divides(const ad_kernel *k)
{
    if (k->op != AD_OP_contract || k->nin != 2) return false;
    const double most = (double)ad_row_size(k->in_shapes[0]) * (double)ad_row_size(k->out);
    if (!ad_has_rows(k->in_shapes[0]) && !ad_has_rows(k->in_shapes[1]) && most < DIVIDED)
        return false;
    const ad_shape shapes[3] = { k->in_shapes[0], k->in_shapes[1], k->out };
    ad_contraction_plan p = { .head.size = ad_dtype_size(k->dtype), .accumulate = true };
    ad_classes c;
    ad_contract_classify(k, shapes, &c);
    const int sorted = c.batch.n + c.m.n + c.n.n + c.sum.n;
    if (sorted < c.all.n || c.batch.n || !c.m.n || !c.n.n || !c.sum.n) return false;
    if (has_row(&c.m) || has_row(&c.n)) return false;
    const double flop = (double)size_of(&c.m) * (double)size_of(&c.n) * (double)size_of(&c.sum);
    if (!has_row(&c.sum) && (flop < DIVIDED || !ad_gemm_generates())) return false;
    ad_contract_lay_out(k, &p, &c);
    return (p.row == ROW_K || p.row == ROW_NONE) && c.batch.n == 0 && !p.side[A].packed &&
           !p.side[B].packed && !p.side[C].packed;
}
