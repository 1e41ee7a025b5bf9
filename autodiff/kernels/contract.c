/* Contractions of two operands, as roles.c has laid them out: products and dot products element by
 * element, everything else as matrix products, one for each index of the batch labels, with packing
 * where strides do not allow direct use. Wide weights go by strips of columns; divided sums over
 * rows, and large products without rows, are made in pieces of the result. */
#include "autodiff/kernels/contract.h"
#include <stdlib.h>
#include <string.h>

enum { ROW_TILE = 128 }; /* lines of a matrix product at a time */
/* Of a divided sum over rows: lines and columns of a piece of the result, and bytes of a line of B
 * and of a line of A' that are multiplied at a time. */
enum { PIECE_LINES = 128, PIECE_COLUMNS = 256, PANEL_BYTES = 256, DEPTH_BYTES = 512 };
/* Of weights that are larger than LEAVING_BYTES: bytes of a line of a strip. */
enum { STRIP_BYTES = 256, LEAVING_BYTES = 512 * 1024 };

/* ---- sums over labels of one operand alone --------------------------------------------------- */

static size_t presum_bytes(const ad_contraction_plan *p, int which, int64_t rows)
{
    if (!p->summed[which]) return 0;
    return ad_round_up((size_t)ad_count(p->presum_out[which], rows) * p->head.size);
}

static size_t presum_scratch(const ad_contraction_plan *p, int64_t rows)
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
static char *run_presums(const ad_contraction_plan *p, int64_t rows, const void **operand,
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

static void run_nest(const ad_contraction_plan *p, int64_t rows, const void *const *operand,
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

/* ---- matrix products ------------------------------------------------------------------------- */

/* Each strip of a wide B stays in a level 2 cache while the rows go by. */
static void prepare_strips(ad_contraction_plan *p)
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

static void run_strips(const ad_contraction_plan *p, int64_t count, const void *a, const void *b,
                       void *c, void *scratch)
{
    const size_t size = p->head.size;
    const int64_t whole = p->columns / p->strip * p->strip;
    for (int64_t j = 0; j < whole; j += p->strip)
        ad_gemm_run(&p->gemm, count, a, ad_at(b, j, size), ad_at_out(c, j, size), scratch);
    ad_gemm_run(&p->last_strip, count, a, ad_at(b, whole, size), ad_at_out(c, whole, size),
                scratch);
}

static void prepare_matrix(const ad_kernel *kernel, ad_contraction_plan *p, ad_classes *c,
                           int64_t max_rows)
{
    ad_contract_lay_out(kernel, p, c);
    ad_contract_go_round(p, c);
    p->gemm.alone = !ad_has_rows(kernel->in_shapes[0]) && !ad_has_rows(kernel->in_shapes[1]);
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

static size_t pack_bytes(const ad_contraction_plan *p, int which)
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

static const void *pack_operand(const ad_contraction_plan *p, int which, int64_t rows,
                                const void *at, matrix_scratch *s)
{
    const side *o = &p->side[which];
    if (!o->packed) return at;
    if (o->moves || s->fresh)
        ad_nest_move(&o->pack, p->head.loops, p->head.size, false, rows, at, s->pack[which]);
    return s->pack[which];
}

static void matrix_tile(const ad_contraction_plan *p, int64_t rows, const void *a, const void *b,
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

static void run_matrix(const ad_contraction_plan *p, int64_t rows, const void *const *operand,
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

/* What a piece reads of both operands is copied before it is multiplied, A with its lines along the
 * sum: where they are, the numbers of a column lie far apart, often pages, in few sets of a cache.
 * Then a part of a piece (parts.c), of B a panel at a time, and of A what belongs to it stay in a
 * level 2 cache. */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t elements_in(int64_t bytes, const ad_contraction_plan *p)
{
    return bytes / (int64_t)p->head.size;
}

static int64_t pieces_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Lines, columns and columns of a last panel of whole pieces and of those at the end. */
typedef struct {
    int64_t lines[2], columns[2], left[2];
} piece_sizes;

static piece_sizes sizes_of(const ad_contraction_plan *p)
{
    const int64_t m = p->gemm.m, n = p->gemm.n, panel = elements_in(PANEL_BYTES, p);
    piece_sizes s = { { least(m, PIECE_LINES), (m - 1) % PIECE_LINES + 1 },
                      { least(n, PIECE_COLUMNS), (n - 1) % PIECE_COLUMNS + 1 },
                      { 0, 0 } };
    for (int j = 0; j < 2; j++) s.left[j] = s.columns[j] % panel;
    return s;
}

static void prepare_pieces(ad_kernel *k, ad_contraction_plan *p)
{
    const piece_sizes s = sizes_of(p);
    const int64_t panel = elements_in(PANEL_BYTES, p), depth = elements_in(DEPTH_BYTES, p);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            for (int last = 0; last < 2; last++) {
                const int64_t n = last ? s.left[j] : s.columns[j] < panel ? 0 : panel;
                ad_gemm *g = &p->piece[i][j][last];
                *g = (ad_gemm){ .dtype = k->dtype,
                                .m = s.lines[i],
                                .n = n,
                                .k = depth,
                                .lda = depth,
                                .ldb = n,
                                .ldc = s.columns[j],
                                .accumulate = true,
                                .vary = AD_GEMM_VARY_K };
                ad_gemm_prepare(g);
            }
    k->pieces = pieces_of(p->gemm.m, PIECE_LINES) * pieces_of(p->gemm.n, PIECE_COLUMNS);
}

/* Copies of A and of B, before the memory that products need. */
static size_t copied_bytes(const ad_contraction_plan *p, bool of_b)
{
    const int64_t depth = elements_in(DEPTH_BYTES, p),
                  n = of_b ? elements_in(PANEL_BYTES, p) : PIECE_LINES;
    return ad_round_up((size_t)(depth * n) * p->head.size);
}

static size_t piece_scratch(const ad_contraction_plan *p)
{
    size_t most = 0;
    for (int i = 0; i < 8; i++) {
        const size_t each = ad_gemm_scratch(&p->piece[i / 4][i / 2 % 2][i % 2]);
        most = each > most ? each : most;
    }
    return ad_parts_bytes(false, PIECE_LINES * PIECE_COLUMNS, p->head.size) +
           copied_bytes(p, false) + copied_bytes(p, true) + most;
}

typedef struct {
    const ad_contraction_plan *plan;
    const ad_gemm *panel; /* [2]: a whole one, the last */
    int64_t lines, columns;
    const void *a, *b; /* where the piece begins */
} of_piece;

static void add_terms(const void *data, int64_t first, int64_t count, void *part, void *scratch)
{
    const of_piece *d = data;
    const ad_contraction_plan *p = d->plan;
    const ad_gemm *whole = &p->gemm;
    const ad_loops *loops = p->head.loops;
    const size_t size = p->head.size;
    const int64_t depth = elements_in(DEPTH_BYTES, p), panel = elements_in(PANEL_BYTES, p),
                  line = whole->a_transposed ? 1 : whole->lda,
                  term = whole->a_transposed ? whole->lda : 1;
    char *a = scratch, *b = a + copied_bytes(p, false), *rest = b + copied_bytes(p, true);
    for (int64_t at = first; at < first + count; at += depth) {
        const int64_t terms = least(depth, first + count - at);
        loops->move(false, d->lines, terms, ad_at(d->a, at * term, size), line, term, a, depth, 1);
        for (int64_t j = 0; j < d->columns; j += panel) {
            const int64_t n = least(panel, d->columns - j);
            loops->move(false, terms, n, ad_at(d->b, at * whole->ldb + j, size), whole->ldb, 1, b,
                        n, 1);
            ad_gemm_run(&d->panel[n < panel], terms, a, b, ad_at_out(part, j, size), rest);
        }
    }
}

void ad_kernel_run_piece(const ad_kernel *k, int64_t piece, bool fresh, int64_t rows,
                         const void *const *in, void *out, void *scratch)
{
    AD_ASSERT(k->divided && piece >= 0 && piece < k->pieces);
    const ad_contraction_plan *p = k->prepared;
    const piece_sizes s = sizes_of(p);
    const size_t size = p->head.size;
    const int64_t down = pieces_of(p->gemm.m, PIECE_LINES),
                  across = pieces_of(p->gemm.n, PIECE_COLUMNS);
    const int64_t i = piece % down * PIECE_LINES, j = piece / down * PIECE_COLUMNS;
    const bool lowest = piece % down == down - 1, last = piece / down == across - 1;
    const of_piece data = { .plan = p,
                            .panel = p->piece[lowest][last],
                            .lines = s.lines[lowest],
                            .columns = s.columns[last],
                            .a = ad_at(in[p->first], i * (p->gemm.a_transposed ? 1 : p->gemm.lda),
                                       size),
                            .b = ad_at(in[p->second], j, size) };
    const ad_parts parts = { .loops = p->head.loops,
                             .size = size,
                             .m = data.lines,
                             .n = data.columns,
                             .ld = p->gemm.ldc,
                             .terms = rows * p->row_count,
                             .most = AD_CHAIN,
                             .add = add_terms,
                             .data = &data };
    ad_parts_run(&parts, !fresh, ad_at_out(out, i * p->gemm.ldc + j, size), scratch);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static void contract_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                         void *scratch)
{
    const ad_contraction_plan *p = k->prepared;
    const void *operand[2] = { in[0], in[1] };
    char *rest = run_presums(p, rows, operand, scratch);
    if (p->form == MATRIX) run_matrix(p, rows, operand, out, rest);
    else run_nest(p, rows, operand, out);
}

static size_t contract_scratch(const ad_kernel *k, int64_t rows)
{
    const ad_contraction_plan *p = k->prepared;
    size_t sums = presum_bytes(p, 0, rows) + presum_bytes(p, 1, rows),
           own = presum_scratch(p, rows), matrix = 0;
    if (p->form == MATRIX) {
        for (int i = 0; i < 3; i++) matrix += pack_bytes(p, i);
        const size_t last = p->strip ? ad_gemm_scratch(&p->last_strip) : 0,
                     each = ad_gemm_scratch(&p->gemm);
        matrix += last > each ? last : each;
    }
    const size_t piece = k->divided ? piece_scratch(p) : 0;
    if (piece > matrix) matrix = piece;
    return sums + (own > matrix ? own : matrix);
}

static void contract_clear(void *prepared)
{
    ad_contraction_plan *p = prepared;
    for (int i = 0; i < 2; i++)
        if (p->summed[i]) ad_kernel_clear(&p->presum[i]);
}

bool ad_prepare_contract(ad_kernel *k, int64_t max_rows)
{
    ad_contraction_plan *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    p->head.scratch = contract_scratch;
    p->head.clear = contract_clear;
    p->accumulate = k->reduces_rows;
    k->run = contract_run;
    if (!ad_contract_presum(k, p, 0, max_rows) || !ad_contract_presum(k, p, 1, max_rows))
        return false;
    const ad_shape shapes[3] = { p->presum_out[0], p->presum_out[1], k->out };
    ad_classes c;
    ad_contract_classify(k, shapes, &c);
    if (c.sum.n == 0) p->form = PRODUCT;
    else p->form = ad_contract_is_dot(p, &c) ? DOT : MATRIX;
    if (p->form != DOT) p->head.terms = ad_contract_terms(&c);
    if (p->form == MATRIX) prepare_matrix(k, p, &c, max_rows);
    else ad_contract_result_nest(p, &c);
    if (k->divided) prepare_pieces(k, p);
    return true;
}
