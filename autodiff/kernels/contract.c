/* Contractions of two operands. Every label belongs to one class: batch (in both operands and the
 * result), m (first operand and result), n (second and result), k (both operands only); labels in
 * one operand alone are summed away first. Without k the contraction is a product; where k is
 * contiguous and one operand has no label of its own, a dot product; everything else becomes matrix
 * products C [M,N] (+)= A [M,K] B [K,N], one for each index of the batch labels, with packing where
 * strides do not allow direct use. */
#include "autodiff/kernels/gemm.h"
#include <stdlib.h>
#include <string.h>

enum { A, B, C, LABELS = 2 * AD_MAX_RANK, ROW_TILE = 128, NARROW = 8 };
/* Of a divided sum over rows: lines and bytes of a line of a piece of the result, and rows that are
 * summed at a time. A piece stays in a level 2 cache, and a few of its lines in registers while the
 * rows go by. */
enum { PIECE_LINES = 256, PIECE_BYTES = 256, PIECE_ROWS = 256 };
/* Multiplications of a product without rows from which on it is divided. */
enum { DIVIDED = 1 << 22 };
/* Of weights that are larger than LEAVING_BYTES: bytes of a line of a strip. */
enum { STRIP_BYTES = 256, LEAVING_BYTES = 512 * 1024 };

/* A label: its size (1 for the row label, which `rows` marks) and its strides in a, b and c; 0
 * where it does not occur. */
typedef struct {
    int64_t size, stride[3];
    bool in[3], rows;
} label;

typedef struct {
    int n;
    label of[LABELS];
} label_list;

typedef enum { PRODUCT, DOT, MATRIX } form;
typedef enum { ROW_NONE, ROW_OUTER, ROW_M, ROW_K } row_role;

/* An operand of the matrix product: direct, or packed with `pack` (array 0: packed, array 1: the
 * operand; for C the other way round). */
typedef struct {
    bool packed, moves; /* moves: its place changes with the batch index or the row tile */
    int64_t row_step;   /* elements from row to row, along the row axis (0: it has none) */
    ad_nest pack;
    int64_t packed_size; /* elements, of a row where the row axis is packed */
    bool pack_rows;
} side;

typedef struct {
    ad_prepared head;
    ad_kernel presum[2];
    ad_shape presum_in[2], presum_out[2];
    int64_t presum_mask[2];
    bool summed[2];
    form form;
    bool accumulate;
    int first, second; /* which operand is the matrix A, and B */
    ad_nest nest;      /* product, dot: c, a, b over the result; matrix: over the batch */
    int64_t dot_size;
    bool dot_rows;
    row_role row;
    int64_t row_count; /* M or K per row */
    int64_t tile;      /* rows a time */
    side side[3];
    ad_gemm gemm;
    /* of weights that do not stay in a level 2 cache, so many columns at a time (0: all at once),
     * and those that are left */
    int64_t columns, strip;
    ad_gemm last_strip;
    /* divided: of whole pieces and of those at the end, by lines and by columns */
    ad_gemm piece[2][2];
} contract_prepared;

/* ---- labels ---------------------------------------------------------------------------------- */

/* All labels, those of the result first and in its order, then those of a, then those of b. */
static void collect(const ad_kernel *k, const ad_shape shapes[3], label_list *all)
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

static void choose(const label_list *all, bool a, bool b, bool c, label_list *some)
{
    some->n = 0;
    for (int i = 0; i < all->n; i++)
        if (all->of[i].in[A] == a && all->of[i].in[B] == b && all->of[i].in[C] == c)
            some->of[some->n++] = all->of[i];
}

static int64_t size_of(const label_list *l)
{
    int64_t n = 1;
    for (int i = 0; i < l->n; i++) n *= l->of[i].size;
    return n;
}

/* Whether the labels, in their order, are one axis in array s; its stride (1 when there are none).
 */
static bool one_axis(const label_list *l, int s, int64_t *stride)
{
    *stride = l->n ? l->of[l->n - 1].stride[s] : 1;
    for (int i = 1; i < l->n; i++)
        if (l->of[i - 1].stride[s] != l->of[i].stride[s] * l->of[i].size) return false;
    return true;
}

static bool has_row(const label_list *l) { return l->n > 0 && l->of[0].rows; }

/* Without its first label. */
static label_list rest_of(const label_list *l)
{
    label_list rest = { .n = l->n - 1 };
    memcpy(rest.of, l->of + 1, (size_t)rest.n * sizeof rest.of[0]);
    return rest;
}

static void nest_add(ad_nest *nest, const label_list *l, int arrays, const int *which)
{
    for (int i = 0; i < l->n && nest->rank < AD_MAX_RANK; i++, nest->rank++) {
        nest->dim[nest->rank] = l->of[i].size;
        nest->rows |= l->of[i].rows;
        for (int a = 0; a < arrays; a++) nest->stride[a][nest->rank] = l->of[i].stride[which[a]];
    }
}

/* ---- sums over labels of one operand alone --------------------------------------------------- */

static bool prepare_presum(const ad_kernel *k, contract_prepared *p, int which, int64_t max_rows)
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

static size_t presum_bytes(const contract_prepared *p, int which, int64_t rows)
{
    if (!p->summed[which]) return 0;
    return ad_round_up((size_t)ad_count(p->presum_out[which], rows) * p->head.size);
}

static size_t presum_scratch(const contract_prepared *p, int64_t rows)
{
    size_t need = 0;
    for (int i = 0; i < 2; i++)
        if (p->summed[i]) {
            size_t own = ad_kernel_scratch(&p->presum[i], rows);
            need = own > need ? own : need;
        }
    return ad_round_up(need);
}

/* Leaves the sums in scratch and points at them; returns the scratch that remains. */
static char *run_presums(const contract_prepared *p, int64_t rows, const void **operand,
                         char *scratch)
{
    char *rest = scratch + presum_bytes(p, 0, rows) + presum_bytes(p, 1, rows);
    for (int i = 0; i < 2; i++) {
        if (!p->summed[i]) continue;
        const ad_kernel *sum = &p->presum[i];
        if (sum->reduces_rows) ad_kernel_identity(sum, scratch, ad_row_size(p->presum_out[i]));
        sum->run(sum, rows, &operand[i], scratch, rest);
        operand[i] = scratch;
        scratch += presum_bytes(p, i, rows);
    }
    return rest;
}

/* ---- products and dot products --------------------------------------------------------------- */

static void run_nest(const contract_prepared *p, int64_t rows, const void *const *operand,
                     void *out)
{
    const ad_nest *nest = &p->nest;
    const ad_loops *loops = p->head.loops;
    size_t size = p->head.size;
    int64_t outer = ad_nest_outer(nest, rows), index[AD_MAX_RANK] = { 0 },
            offset[AD_NEST_ARRAYS] = { 0 };
    int d = nest->rank - 1;
    int64_t n = d == 0 ? outer : nest->dim[d], so = nest->stride[0][d], sa = nest->stride[1][d],
            sb = nest->stride[2][d];
    int64_t dot = p->dot_rows ? p->dot_size * rows : p->dot_size;
    for (int i = 0; i < nest->rank; i++)
        if ((i == 0 ? outer : nest->dim[i]) == 0) return;
    do {
        const void *a = ad_at(operand[0], offset[1], size), *b = ad_at(operand[1], offset[2], size);
        void *c = ad_at_out(out, offset[0], size);
        if (p->form == PRODUCT) loops->product(p->accumulate, n, a, sa, b, sb, c, so);
        else loops->dot(p->accumulate, n, dot, a, sa, b, sb, c, so);
    } while (ad_nest_step(nest, d, outer, index, offset));
}

static void prepare_nest(contract_prepared *p, const label_list *result)
{
    static const int which[3] = { C, A, B };
    p->nest = (ad_nest){ .arrays = 3 };
    nest_add(&p->nest, result, 3, which);
    ad_nest_simplify(&p->nest);
}

/* ---- matrix products ------------------------------------------------------------------------- */

/* An operand with the given row and column labels (A: m, k; B: k, n; C: m, n), packed densely as
 * [rows, columns]. */
static void prepare_pack(side *s, int array, const label_list *row, const label_list *column)
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
static int64_t leading(int s, const label_list *row, const label_list *column)
{
    int64_t rs, cs, nrow = size_of(row), ncolumn = size_of(column);
    if (has_row(column) || !one_axis(row, s, &rs) || !one_axis(column, s, &cs)) return 0;
    bool row_one = nrow == 1 && !has_row(row), column_one = ncolumn == 1;
    if ((cs != 1 && !column_one) || (!row_one && rs < ncolumn)) return 0;
    return row_one ? (ncolumn > cs ? ncolumn : cs) : rs;
}

/* The same of A stored transposed: rows are contiguous instead. */
static int64_t leading_transposed(int s, const label_list *row, const label_list *column)
{
    int64_t rs, cs, nrow = size_of(row), ncolumn = size_of(column);
    if (!one_axis(row, s, &rs) || !one_axis(column, s, &cs)) return 0;
    bool row_one = nrow == 1 && !has_row(row), column_one = ncolumn == 1 && !has_row(column);
    if ((rs != 1 && !row_one) || (!column_one && cs < nrow)) return 0;
    return column_one ? nrow : cs;
}

/* Fixes the leading dimension of an operand used as it lies, or packs it. `transposed`: A only. */
static int64_t prepare_side(side *s, int array, const label_list *row, const label_list *column,
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
static int packs(const contract_prepared *p, const label_list *m, const label_list *n,
                 const label_list *k)
{
    return (!leading(p->first, m, k) && !leading_transposed(p->first, m, k)) +
           !leading(p->second, k, n) + !leading(C, m, n);
}

static int64_t row_stride(const label_list *all, int array)
{
    for (int i = 0; i < all->n; i++)
        if (all->of[i].rows) return all->of[i].stride[array];
    return 0;
}

static bool moves_with(const label_list *batch, int array)
{
    for (int i = 0; i < batch->n; i++)
        if (batch->of[i].stride[array]) return true;
    return false;
}

/* Whether the result's contiguous label is among these. */
static bool innermost(const label_list *l)
{
    for (int i = 0; i < l->n; i++)
        if (l->of[i].stride[C] == 1 && l->of[i].size > 1) return true;
    return false;
}

static void swap_labels(label_list *a, label_list *b)
{
    label_list t = *a;
    *a = *b;
    *b = t;
}

/* Moves the row label out of m, n or k to the batch, so that each row has a matrix product of its
 * own. */
static void row_to_batch(label_list *from, label_list *batch)
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
static void assign_roles(contract_prepared *p, label_list *batch, label_list *m, label_list *n,
                         label_list *k)
{
    int64_t stride;
    if (has_row(n)) {
        swap_labels(m, n);
        p->first = B;
    }
    p->row = ROW_NONE;
    if (has_row(m)) {
        label_list rest = rest_of(m);
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
static bool split(const contract_prepared *p, label_list *batch, label_list *m, label_list *n,
                  label_list *k)
{
    label_list *from[2] = { n, m };
    for (int i = 0; i < 2; i++) {
        label_list all = *from[i];
        if (all.n < 2 || has_row(&all) || batch->n == LABELS) continue;
        label_list rest = rest_of(&all);
        if (size_of(&rest) < NARROW) continue;
        if (packs(p, i ? &rest : m, i ? n : &rest, k) >= packs(p, m, n, k)) continue;
        batch->of[batch->n++] = all.of[0];
        *from[i] = rest;
        return true;
    }
    return false;
}

/* Fixes how the operands of the matrix product lie. */
static void lay_out(const ad_kernel *kernel, contract_prepared *p, label_list *batch, label_list *m,
                    label_list *n, label_list *k)
{
    assign_roles(p, batch, m, n, k);
    while (split(p, batch, m, n, k)) continue;
    side *a = &p->side[A], *b = &p->side[B], *c = &p->side[C];
    bool transposed = false;
    p->gemm = (ad_gemm){ .dtype = kernel->dtype,
                         .accumulate = p->accumulate,
                         .m = size_of(m),
                         .n = size_of(n),
                         .k = size_of(k) };
    p->gemm.lda = prepare_side(a, p->first, m, k, &transposed);
    p->gemm.ldb = prepare_side(b, p->second, k, n, NULL);
    p->gemm.ldc = prepare_side(c, C, m, n, NULL);
    p->gemm.a_transposed = transposed;
}

/* Each strip of a wide B stays in a level 2 cache while the rows go by. */
static void prepare_strips(contract_prepared *p)
{
    const int64_t size = (int64_t)p->head.size, columns = STRIP_BYTES / size, n = p->gemm.n;
    if (p->row != ROW_M || n < 2 * columns || n * p->gemm.k < LEAVING_BYTES / size) return;
    p->columns = n;
    p->strip = columns;
    p->last_strip = p->gemm;
    p->last_strip.n = n % columns;
    p->gemm.n = columns;
    ad_gemm_prepare(&p->last_strip);
}

static void run_strips(const contract_prepared *p, int64_t count, const void *a, const void *b,
                       void *c, void *scratch)
{
    const size_t size = p->head.size;
    const int64_t whole = p->columns / p->strip * p->strip;
    for (int64_t j = 0; j < whole; j += p->strip)
        ad_gemm_run(&p->gemm, count, a, ad_at(b, j, size), ad_at_out(c, j, size), scratch);
    ad_gemm_run(&p->last_strip, count, a, ad_at(b, whole, size), ad_at_out(c, whole, size),
                scratch);
}

static void prepare_matrix(const ad_kernel *kernel, contract_prepared *p, const label_list *all,
                           label_list *batch, label_list *m, label_list *n, label_list *k,
                           int64_t max_rows)
{
    lay_out(kernel, p, batch, m, n, k);
    p->gemm.alone = !ad_has_rows(kernel->in_shapes[0]) && !ad_has_rows(kernel->in_shapes[1]);
    int arrays[3] = { C, p->first, p->second };
    p->nest = (ad_nest){ .arrays = 3 };
    nest_add(&p->nest, batch, 3, arrays);
    ad_nest_simplify(&p->nest);
    for (int s = 0; s < 3; s++) {
        int array = s == C ? C : s == A ? p->first : p->second;
        bool tiled = p->row == ROW_M || p->row == ROW_K;
        p->side[s].row_step = tiled ? row_stride(all, array) : 0;
        p->side[s].moves = moves_with(batch, array) || (tiled && p->side[s].row_step);
    }
    const bool counts_k = p->row == ROW_K || kernel->divided;
    p->row_count = p->row == ROW_M ? p->gemm.m : counts_k ? p->gemm.k : 1;
    p->tile = p->row_count < ROW_TILE ? ROW_TILE / (p->row_count ? p->row_count : 1) : 1;
    int64_t most = max_rows < p->tile ? max_rows : p->tile;
    if (p->row == ROW_M) {
        p->gemm.vary = AD_GEMM_VARY_M;
        p->gemm.m *= most;
    }
    if (p->row == ROW_K) {
        p->gemm.vary = AD_GEMM_VARY_K;
        p->gemm.k *= most;
    }
    prepare_strips(p);
    if (!kernel->divided) ad_gemm_prepare(&p->gemm);
}

static size_t pack_bytes(const contract_prepared *p, int which)
{
    const side *s = &p->side[which];
    return s->packed
               ? ad_round_up((size_t)(s->packed_size * (s->pack_rows ? p->tile : 1)) * p->head.size)
               : 0;
}

typedef struct {
    char *pack[3], *gemm;
    bool fresh; /* nothing has been packed yet */
} matrix_scratch;

static const void *pack_operand(const contract_prepared *p, int which, int64_t rows, const void *at,
                                matrix_scratch *s)
{
    const side *o = &p->side[which];
    if (!o->packed) return at;
    if (o->moves || s->fresh)
        ad_nest_move(&o->pack, p->head.loops, p->head.size, false, rows, at, s->pack[which]);
    return s->pack[which];
}

static void matrix_tile(const contract_prepared *p, int64_t rows, const void *a, const void *b,
                        void *c, matrix_scratch *s)
{
    const void *pa = pack_operand(p, A, rows, a, s), *pb = pack_operand(p, B, rows, b, s);
    const side *out = &p->side[C];
    void *pc = c;
    if (out->packed) {
        pc = s->pack[C];
        if (p->gemm.accumulate)
            ad_nest_move(&out->pack, p->head.loops, p->head.size, false, rows, c, pc);
    }
    s->fresh = false;
    if (p->strip) run_strips(p, rows * p->row_count, pa, pb, pc, s->gemm);
    else ad_gemm_run(&p->gemm, rows * p->row_count, pa, pb, pc, s->gemm);
    if (!out->packed) return;
    ad_nest back = out->pack;
    memcpy(back.stride[0], out->pack.stride[1], sizeof back.stride[0]);
    memcpy(back.stride[1], out->pack.stride[0], sizeof back.stride[1]);
    ad_nest_move(&back, p->head.loops, p->head.size, false, rows, pc, c);
}

static void run_matrix(const contract_prepared *p, int64_t rows, const void *const *operand,
                       void *out, char *scratch)
{
    size_t size = p->head.size;
    const void *a = operand[p->first], *b = operand[p->second];
    matrix_scratch s = { .fresh = true };
    for (int i = 0; i < 3; i++) {
        s.pack[i] = scratch;
        scratch += pack_bytes(p, i);
    }
    s.gemm = scratch;
    bool tiled = p->row == ROW_M || p->row == ROW_K;
    int64_t outer = ad_nest_outer(&p->nest, rows), index[AD_MAX_RANK] = { 0 },
            offset[AD_NEST_ARRAYS] = { 0 }, all = tiled ? rows : 1;
    for (int d = 0; d < p->nest.rank; d++)
        if ((d == 0 ? outer : p->nest.dim[d]) == 0) return;
    do
        for (int64_t r = 0; r < all; r += p->tile)
            matrix_tile(p, tiled ? (all - r < p->tile ? all - r : p->tile) : 1,
                        ad_at(a, offset[1] + r * p->side[A].row_step, size),
                        ad_at(b, offset[2] + r * p->side[B].row_step, size),
                        ad_at_out(out, offset[0] + r * p->side[C].row_step, size), &s);
    while (ad_nest_step(&p->nest, p->nest.rank, outer, index, offset));
}

/* ---- sums over rows in pieces ---------------------------------------------------------------- */

static int64_t piece_columns(const contract_prepared *p)
{
    return PIECE_BYTES / (int64_t)p->head.size;
}

static int64_t pieces_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

static void prepare_pieces(ad_kernel *k, contract_prepared *p)
{
    const int64_t lines = PIECE_LINES, columns = piece_columns(p), m = p->gemm.m, n = p->gemm.n;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            ad_gemm *g = &p->piece[i][j];
            *g = p->gemm;
            g->vary = AD_GEMM_VARY_K;
            g->accumulate = true;
            g->m = i ? m % lines : m < lines ? 0 : lines;
            g->n = j ? n % columns : n < columns ? 0 : columns;
            g->k = PIECE_ROWS;
            ad_gemm_prepare(g);
        }
    k->pieces = pieces_of(m, lines) * pieces_of(n, columns);
}

static void run_piece(const contract_prepared *p, int64_t piece, bool fresh, int64_t rows,
                      const void *const *in, void *out, void *scratch)
{
    const size_t size = p->head.size;
    const int64_t lines = PIECE_LINES, columns = piece_columns(p);
    const int64_t down = pieces_of(p->gemm.m, lines);
    const int64_t i = piece % down * lines, j = piece / down * columns;
    const ad_gemm *g = &p->piece[p->gemm.m - i < lines][p->gemm.n - j < columns];
    const int64_t step = g->a_transposed ? 1 : g->lda;
    const char *a = ad_at(in[p->first], i * step, size), *b = ad_at(in[p->second], j, size);
    char *c = ad_at_out(out, i * g->ldc + j, size);
    const int64_t count = rows * p->row_count;
    const int64_t a_step = g->a_transposed ? g->lda : 1;
    for (int64_t l = 0; fresh && l < g->m; l++)
        p->head.loops->fill(g->n, 0, ad_at_out(c, l * g->ldc, size));
    for (int64_t r = 0; r < count; r += PIECE_ROWS)
        ad_gemm_run(g, count - r < PIECE_ROWS ? count - r : PIECE_ROWS, ad_at(a, r * a_step, size),
                    ad_at(b, r * g->ldb, size), c, scratch);
}

void ad_kernel_run_piece(const ad_kernel *k, int64_t piece, bool fresh, int64_t rows,
                         const void *const *in, void *out, void *scratch)
{
    AD_ASSERT(k->divided && piece >= 0 && piece < k->pieces);
    run_piece(k->prepared, piece, fresh, rows, in, out, scratch);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static void contract_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                         void *scratch)
{
    const contract_prepared *p = k->prepared;
    const void *operand[2] = { in[0], in[1] };
    char *rest = run_presums(p, rows, operand, scratch);
    if (p->form == MATRIX) run_matrix(p, rows, operand, out, rest);
    else run_nest(p, rows, operand, out);
}

static size_t contract_scratch(const ad_kernel *k, int64_t rows)
{
    const contract_prepared *p = k->prepared;
    size_t sums = presum_bytes(p, 0, rows) + presum_bytes(p, 1, rows),
           own = presum_scratch(p, rows), matrix = 0;
    if (p->form == MATRIX) {
        for (int i = 0; i < 3; i++) matrix += pack_bytes(p, i);
        const size_t last = p->strip ? ad_gemm_scratch(&p->last_strip) : 0,
                     each = ad_gemm_scratch(&p->gemm);
        matrix += last > each ? last : each;
    }
    for (int i = 0; k->divided && i < 4; i++) {
        const size_t piece = ad_gemm_scratch(&p->piece[i / 2][i % 2]);
        if (piece > matrix) matrix = piece;
    }
    return sums + (own > matrix ? own : matrix);
}

static void contract_clear(void *prepared)
{
    contract_prepared *p = prepared;
    for (int i = 0; i < 2; i++)
        if (p->summed[i]) ad_kernel_clear(&p->presum[i]);
}

static bool is_dot(contract_prepared *p, const label_list *m, const label_list *n,
                   const label_list *k)
{
    int64_t sa, sb;
    if (m->n && n->n) return false;
    if (!one_axis(k, A, &sa) || !one_axis(k, B, &sb) || sa != 1 || sb != 1) return false;
    p->dot_size = size_of(k);
    p->dot_rows = has_row(k);
    return true;
}

/* The labels of a contraction, by class. */
typedef struct {
    label_list all, batch, m, n, sum;
} classes;

static void classify(const ad_kernel *k, const ad_shape shapes[3], classes *c)
{
    collect(k, shapes, &c->all);
    choose(&c->all, true, true, true, &c->batch);
    choose(&c->all, true, false, true, &c->m);
    choose(&c->all, false, true, true, &c->n);
    choose(&c->all, true, true, false, &c->sum);
}

bool ad_kernel_divides(const ad_kernel *k)
{
    if (k->op != AD_OP_contract || k->nin != 2) return false;
    const double most = (double)ad_row_size(k->in_shapes[0]) * (double)ad_row_size(k->out);
    if (!ad_has_rows(k->in_shapes[0]) && !ad_has_rows(k->in_shapes[1]) && most < DIVIDED)
        return false;
    const ad_shape shapes[3] = { k->in_shapes[0], k->in_shapes[1], k->out };
    contract_prepared p = { .head.size = ad_dtype_size(k->dtype), .accumulate = true };
    classes c;
    classify(k, shapes, &c);
    const int sorted = c.batch.n + c.m.n + c.n.n + c.sum.n;
    if (sorted < c.all.n || c.batch.n || !c.m.n || !c.n.n || !c.sum.n) return false;
    if (has_row(&c.m) || has_row(&c.n)) return false;
    const double flop = (double)size_of(&c.m) * (double)size_of(&c.n) * (double)size_of(&c.sum);
    if (!has_row(&c.sum) && (flop < DIVIDED || !ad_gemm_generates())) return false;
    lay_out(k, &p, &c.batch, &c.m, &c.n, &c.sum);
    return (p.row == ROW_K || p.row == ROW_NONE) && c.batch.n == 0 && !p.side[A].packed &&
           !p.side[B].packed && !p.side[C].packed;
}

bool ad_prepare_contract(ad_kernel *k, int64_t max_rows)
{
    contract_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    p->head.scratch = contract_scratch;
    p->head.clear = contract_clear;
    p->accumulate = k->reduces_rows;
    k->run = contract_run;
    if (!prepare_presum(k, p, 0, max_rows) || !prepare_presum(k, p, 1, max_rows)) return false;
    const ad_shape shapes[3] = { p->presum_out[0], p->presum_out[1], k->out };
    classes c;
    classify(k, shapes, &c);
    label_list result;
    result.n = 0;
    for (int i = 0; i < c.all.n; i++)
        if (c.all.of[i].in[C]) result.of[result.n++] = c.all.of[i];
    if (c.sum.n == 0) p->form = PRODUCT;
    else p->form = is_dot(p, &c.m, &c.n, &c.sum) ? DOT : MATRIX;
    if (p->form == MATRIX) prepare_matrix(k, p, &c.all, &c.batch, &c.m, &c.n, &c.sum, max_rows);
    else prepare_nest(p, &result);
    if (k->divided) prepare_pieces(k, p);
    return true;
}
