/* Kernels that move elements without computing with them, apart from adding what falls on the same
 * place. */
#include "autodiff/kernels/impl.h"
#include <stdlib.h>
#include <string.h>

/* ---- nests: reshape, transpose, broadcast, slice, assemble, flip ----------------------------- */

/* Operand i is moved through nests[i], from element in0 to element out0. */
typedef struct {
    ad_nest nest;
    int64_t in0, out0;
} move;

typedef struct {
    ad_prepared head;
    int64_t row_size; /* of out, for clearing it */
    bool clear, add;
    int n;
    move moves[];
} move_prepared;

static void move_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                     void *scratch)
{
    const move_prepared *p = k->prepared;
    (void)scratch;
    size_t size = p->head.size;
    if (p->clear) memset(out, 0, (size_t)(p->row_size * (ad_has_rows(k->out) ? rows : 1)) * size);
    for (int i = 0; i < p->n; i++) {
        const move *m = &p->moves[i];
        ad_nest_move(&m->nest, p->head.loops, size, p->add, rows, ad_at(in[i], m->in0, size),
                     ad_at_out(out, m->out0, size));
    }
}

static move_prepared *new_moves(ad_kernel *k, int n)
{
    move_prepared *p = ad_prepared_new(k, sizeof *p + (size_t)n * sizeof p->moves[0]);
    if (!p) return NULL;
    p->n = n;
    p->row_size = ad_row_size(k->out);
    k->run = move_run;
    return p;
}

/* One operand, read with the given strides from element in0. */
static bool prepare_strided(ad_kernel *k, const int64_t *stride, int64_t in0)
{
    move_prepared *p = new_moves(k, 1);
    if (!p) return false;
    ad_nest *nest = &p->moves[0].nest;
    *nest = ad_nest_over(k->out);
    nest->arrays = 2;
    memcpy(nest->stride[1], stride, (size_t)k->out.rank * sizeof *stride);
    ad_nest_simplify(nest);
    p->moves[0].in0 = in0;
    return true;
}

bool ad_prepare_reshape(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    int64_t stride[AD_MAX_RANK];
    ad_dense_strides(k->out, stride);
    return prepare_strided(k, stride, 0);
}

bool ad_prepare_transpose(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    int64_t dense[AD_MAX_RANK], stride[AD_MAX_RANK];
    ad_dense_strides(k->in_shapes[0], dense);
    for (int i = 0; i < k->out.rank; i++) stride[i] = dense[k->attr[i]];
    return prepare_strided(k, stride, 0);
}

bool ad_prepare_broadcast(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    ad_nest nest = ad_nest_over(k->out);
    ad_nest_broadcast(&nest, k->out, k->in_shapes[0]);
    return prepare_strided(k, nest.stride[1], 0);
}

bool ad_prepare_slice(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    int64_t stride[AD_MAX_RANK], in0 = 0;
    ad_dense_strides(k->in_shapes[0], stride);
    for (int i = 0; i < k->out.rank; i++) in0 += k->attr[i] * stride[i];
    return prepare_strided(k, stride, in0);
}

bool ad_prepare_flip(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    int64_t stride[AD_MAX_RANK], in0 = 0;
    ad_dense_strides(k->in_shapes[0], stride);
    for (int i = 0; i < k->out.rank; i++)
        if (k->attr[0] >> i & 1) {
            in0 += (k->out.dim[i] - 1) * stride[i];
            stride[i] = -stride[i];
        }
    return prepare_strided(k, stride, in0);
}

static bool boxes_overlap(const ad_kernel *k, int i, int j)
{
    int rank = k->out.rank;
    const int64_t *a = k->attr + i * rank, *b = k->attr + j * rank;
    for (int d = 0; d < rank; d++) {
        int64_t na = k->in_shapes[i].dim[d], nb = k->in_shapes[j].dim[d];
        if (na != AD_ROWS && (a[d] + na <= b[d] || b[d] + nb <= a[d])) return false;
    }
    return true;
}

/* The box that holds those of the operands so far. */
typedef struct {
    int64_t low[AD_MAX_RANK], high[AD_MAX_RANK];
} extent;

/* Whether the box of operand i overlaps that of an earlier one; extends e by it. One beside all of
 * them, as in a concatenation, from whichever end it is made, need not be compared with each. */
static bool overlaps_earlier(const ad_kernel *k, int i, extent *e)
{
    const int64_t *start = k->attr + (ptrdiff_t)i * k->out.rank;
    bool beside = i == 0, overlaps = false;
    for (int d = 0; d < k->out.rank; d++) {
        int64_t n = k->in_shapes[i].dim[d], end = start[d] + (n == AD_ROWS ? 1 : n);
        beside |= start[d] >= e->high[d] || end <= e->low[d];
        if (i == 0 || start[d] < e->low[d]) e->low[d] = start[d];
        if (i == 0 || end > e->high[d]) e->high[d] = end;
    }
    for (int j = 0; j < i && !beside && !overlaps; j++) overlaps = boxes_overlap(k, i, j);
    return overlaps;
}

/* Operands that do not overlap are copied, and where they leave no gap nothing need be cleared. */
bool ad_prepare_assemble(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    move_prepared *p = new_moves(k, k->nin);
    if (!p) return false;
    int64_t covered = 0, dense[AD_MAX_RANK];
    extent before = { { 0 }, { 0 } };
    ad_dense_strides(k->out, dense);
    for (int i = 0; i < k->nin; i++) {
        move *m = &p->moves[i];
        m->nest = ad_nest_over(k->in_shapes[i]);
        memcpy(m->nest.stride[1], m->nest.stride[0], sizeof m->nest.stride[1]);
        memcpy(m->nest.stride[0], dense, sizeof dense);
        m->nest.arrays = 2;
        for (int d = 0; d < k->out.rank; d++) m->out0 += k->attr[i * k->out.rank + d] * dense[d];
        ad_nest_simplify(&m->nest);
        covered += ad_row_size(k->in_shapes[i]);
        if (!p->add) p->add = overlaps_earlier(k, i, &before);
    }
    p->clear = p->add || covered < p->row_size;
    return true;
}

/* ---- gather, scatter_add --------------------------------------------------------------------- */

/* Seen as [outer, n, inner] with the indexed axis in the middle; `whole` is its size in the array
 * the indices point into. */
typedef struct {
    ad_prepared head;
    bool rows, exact; /* exact: with what rounding loses, as sums are long */
    int64_t outer, whole, n, inner;
} gather_prepared;

static size_t gather_scratch(const ad_kernel *k, int64_t rows)
{
    const gather_prepared *p = k->prepared;
    (void)rows;
    return p->exact ? ad_round_up((size_t)(p->whole * p->inner) * p->head.size) : 0;
}

static void scatter_exactly(const gather_prepared *p, const int64_t *indices, int64_t outer,
                            const void *in, void *out, void *lost)
{
    const ad_loops *loops = p->head.loops;
    const size_t size = p->head.size;
    const int64_t count = p->whole * p->inner;
    for (int64_t o = 0; o < outer; o++) {
        void *into = ad_at_out(out, o * count, size);
        loops->fill(count, 0, lost);
        for (int64_t j = 0; j < p->n; j++)
            loops->add(p->inner, ad_at(in, (o * p->n + j) * p->inner, size),
                       ad_at_out(into, indices[j] * p->inner, size),
                       ad_at_out(lost, indices[j] * p->inner, size));
        loops->combine(false, count, lost, into);
    }
}

static void gather_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                       void *scratch)
{
    const gather_prepared *p = k->prepared;
    const int64_t *indices = k->attr + 1, outer = p->rows ? p->outer * rows : p->outer;
    bool scatter = k->op == AD_OP_scatter_add;
    size_t size = p->head.size;
    if (scatter) memset(out, 0, (size_t)(outer * p->whole * p->inner) * size);
    if (p->exact) {
        scatter_exactly(p, indices, outer, in[0], out, scratch);
        return;
    }
    for (int64_t j = 0; j < p->n; j++) {
        int64_t from = scatter ? j : indices[j], to = scatter ? indices[j] : j;
        int64_t nin = scatter ? p->n : p->whole, nout = scatter ? p->whole : p->n;
        p->head.loops->move(scatter, outer, p->inner, ad_at(in[0], from * p->inner, size),
                            nin * p->inner, 1, ad_at_out(out, to * p->inner, size), nout * p->inner,
                            1);
    }
}

/* Whether one place has more than AD_CHAIN of the n indices into `whole`; in *many. false: memory
 * is short. */
static bool find_many(const int64_t *indices, int64_t n, int64_t whole, bool *many)
{
    *many = false;
    if (n <= AD_CHAIN) return true;
    int64_t *count = calloc((size_t)whole, sizeof *count);
    if (!count) return false;
    for (int64_t j = 0; j < n; j++) *many = ++count[indices[j]] > AD_CHAIN || *many;
    free(count);
    return true;
}

static bool prepare_gather(ad_kernel *k)
{
    gather_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    int axis = (int)k->attr[0];
    ad_shape s = k->op == AD_OP_gather ? k->in_shapes[0] : k->out, lead = s;
    lead.rank = axis;
    p->rows = ad_has_rows(s);
    p->outer = ad_row_size(lead);
    p->whole = s.dim[axis];
    p->n = k->nattr - 1;
    p->inner = ad_size_behind(s, axis);
    p->head.scratch = gather_scratch;
    k->run = gather_run;
    return k->op == AD_OP_gather || find_many(k->attr + 1, p->n, p->whole, &p->exact);
}

bool ad_prepare_gather(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare_gather(k);
}

bool ad_prepare_scatter_add(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare_gather(k);
}

/* ---- take, put_add, locate ------------------------------------------------------------------- */

/* A table of n items of `inner` elements, one for all rows (table_row = 0) or one a row; `places`
 * of them are taken for each row, or in all. Exact: with what rounding loses, as sums can be long
 * within a row. */
typedef struct {
    ad_prepared head;
    bool rows, exact;
    int64_t n, inner, places, table_row, index_row, item_row;
} take_prepared;

static size_t take_scratch(const ad_kernel *k, int64_t rows)
{
    const take_prepared *p = k->prepared;
    (void)rows;
    return p->exact ? ad_round_up((size_t)(p->n * p->inner) * p->head.size) : 0;
}

static void take_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                     void *scratch)
{
    const take_prepared *p = k->prepared;
    const ad_loops *loops = p->head.loops;
    const size_t size = p->head.size;
    const int64_t count = p->n * p->inner, last = p->rows ? rows - 1 : 0;
    const bool put = k->op == AD_OP_put_add;
    if (put && !k->reduces_rows)
        memset(out, 0, (size_t)(count * (ad_has_rows(k->out) ? rows : 1)) * size);
    for (int64_t r = 0; r <= last; r++) {
        if (p->exact && (r == 0 || p->table_row)) loops->fill(count, 0, scratch);
        for (int64_t k = 0; k < p->places; k++) {
            int64_t i = loops->index(ad_at(in[1], r * p->index_row + k, size), p->n);
            int64_t place = r * p->table_row + i * p->inner;
            int64_t item = r * p->item_row + k * p->inner;
            if (p->exact)
                loops->add(p->inner, ad_at(in[0], item, size), ad_at_out(out, place, size),
                           ad_at_out(scratch, i * p->inner, size));
            else if (put)
                loops->move(true, 1, p->inner, ad_at(in[0], item, size), 0, 1,
                            ad_at_out(out, place, size), 0, 1);
            else
                loops->move(false, 1, p->inner, ad_at(in[0], place, size), 0, 1,
                            ad_at_out(out, item, size), 0, 1);
        }
        if (p->exact && (r == last || p->table_row))
            loops->combine(false, count, scratch, ad_at_out(out, r * p->table_row, size));
    }
}

static bool prepare_take(ad_kernel *k)
{
    take_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    ad_shape table = k->op == AD_OP_take ? k->in_shapes[0] : k->out,
             item = k->op == AD_OP_take ? k->out : k->in_shapes[0];
    bool table_rows = ad_has_rows(table), index_rows = ad_has_rows(k->in_shapes[1]);
    p->rows = table_rows || index_rows || ad_has_rows(item);
    p->n = table.dim[table_rows];
    p->inner = ad_size_behind(table, table_rows);
    p->table_row = table_rows ? p->n * p->inner : 0;
    p->places = ad_row_size(k->in_shapes[1]);
    p->index_row = index_rows ? p->places : 0;
    p->item_row = ad_has_rows(item) ? p->places * p->inner : 0;
    p->exact = k->op == AD_OP_put_add && p->places > AD_CHAIN;
    p->head.terms = p->exact ? 1 : p->places;
    p->head.scratch = take_scratch;
    k->run = take_run;
    return p->n > 0;
}

bool ad_prepare_take(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare_take(k);
}

bool ad_prepare_put_add(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare_take(k);
}

static void locate_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                       void *scratch)
{
    const ad_prepared *p = k->prepared;
    (void)scratch;
    int64_t n = ad_count(k->out, rows);
    p->loops->locate(n, in[0], ad_row_size(k->in_shapes[1]), in[1], out);
}

bool ad_prepare_locate(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    k->run = locate_run;
    return ad_prepared_new(k, sizeof(ad_prepared)) != NULL;
}
