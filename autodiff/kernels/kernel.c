/* Preparing and running kernels: dispatch, loop nests, and pointwise operations with broadcasting.
 */
#include "autodiff/kernels/kernel_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- loop nests ------------------------------------------------------------------------------ */

void ad_dense_strides(ad_shape s, int64_t *stride)
{
    int64_t n = 1;
    for (int i = s.rank - 1; i >= 0; i--) {
        stride[i] = n;
        if (s.dim[i] != AD_ROWS) n *= s.dim[i];
    }
}

ad_nest ad_nest_over(ad_shape out)
{
    ad_nest nest = { .rank = out.rank, .arrays = 1, .rows = ad_has_rows(out) };
    for (int i = 0; i < out.rank; i++) nest.dim[i] = out.dim[i] == AD_ROWS ? 1 : out.dim[i];
    ad_dense_strides(out, nest.stride[0]);
    return nest;
}

void ad_nest_broadcast(ad_nest *nest, ad_shape out, ad_shape in)
{
    int64_t dense[AD_MAX_RANK], *stride = nest->stride[nest->arrays++];
    ad_dense_strides(in, dense);
    int missing = out.rank - in.rank;
    for (int i = 0; i < out.rank; i++)
        stride[i] = i < missing || in.dim[i - missing] == 1 ? 0 : dense[i - missing];
}

static bool mergeable(const ad_nest *nest, int outer, int inner)
{
    for (int a = 0; a < nest->arrays; a++)
        if (nest->stride[a][outer] != nest->stride[a][inner] * nest->dim[inner]) return false;
    return true;
}

static void set_dim(ad_nest *nest, int to, int from, int64_t size)
{
    nest->dim[to] = size;
    for (int a = 0; a < nest->arrays; a++) nest->stride[a][to] = nest->stride[a][from];
}

void ad_nest_simplify(ad_nest *nest)
{
    int rank = 0;
    for (int i = 0; i < nest->rank; i++) {
        bool row_axis = nest->rows && i == 0;
        if (nest->dim[i] == 1 && !row_axis) continue;
        if (rank > 0 && mergeable(nest, rank - 1, i))
            set_dim(nest, rank - 1, i, nest->dim[rank - 1] * nest->dim[i]);
        else set_dim(nest, rank++, i, nest->dim[i]);
    }
    if (rank == 0) {
        nest->dim[0] = 1;
        for (int a = 0; a < nest->arrays; a++) nest->stride[a][0] = 1;
        rank = 1;
    }
    nest->rank = rank;
}

bool ad_nest_step(const ad_nest *nest, int rank, int64_t outer, int64_t *index, int64_t *offset)
{
    for (int d = rank - 1; d >= 0; d--) {
        int64_t n = d == 0 ? outer : nest->dim[d];
        for (int a = 0; a < nest->arrays; a++) offset[a] += nest->stride[a][d];
        if (++index[d] < n) return true;
        for (int a = 0; a < nest->arrays; a++) offset[a] -= n * nest->stride[a][d];
        index[d] = 0;
    }
    return false;
}

void ad_nest_move(const ad_nest *nest, const ad_loops *loops, size_t size, bool add, int64_t rows,
                  const void *in, void *out)
{
    const int64_t *so = nest->stride[0], *si = nest->stride[1], outer = ad_nest_outer(nest, rows);
    for (int d = 0; d < nest->rank; d++)
        if ((d == 0 ? outer : nest->dim[d]) == 0) return;
    if (nest->rank == 1) {
        loops->move(add, 1, outer, in, 0, si[0], out, 0, so[0]);
        return;
    }
    int d = nest->rank - 2;
    int64_t index[AD_MAX_RANK] = { 0 }, offset[AD_NEST_ARRAYS] = { 0 };
    do
        loops->move(add, d == 0 ? outer : nest->dim[d], nest->dim[d + 1],
                    ad_at(in, offset[1], size), si[d], si[d + 1], ad_at_out(out, offset[0], size),
                    so[d], so[d + 1]);
    while (ad_nest_step(nest, d, outer, index, offset));
}

/* ---- pointwise operations -------------------------------------------------------------------- */

/* The operands and the result are walked together in chunks that stay in L1. A chunk is `step`
 * indices of dimension `split` with all of the inner dimensions. Within it an operand is
 * contiguous, one number, or it is expanded into scratch first; an operand that is the same in
 * every chunk (a bias [D] against [rows,D]) is expanded once. */
enum { CHUNK = 1024, LINE = 32, OPERANDS = AD_NEST_ARRAYS - 1 };
typedef enum { DIRECT, SINGLE, EXPANDED, EXPANDED_ONCE } access;

typedef struct {
    ad_plan head;
    ad_pointwise kernel;
    ad_pointwise_pair pair; /* of it and what ad_kernel_pair was asked for */
    ad_nest nest;           /* array 0: out; then the operands */
    int split;
    int64_t step, inner;
    int stride[OPERANDS];
    access how[OPERANDS];
    size_t where[OPERANDS], scratch;
} pointwise_plan;

static access classify(const ad_nest *nest, int array, int split)
{
    const int64_t *s = nest->stride[array], *dense = nest->stride[0];
    bool same = true, zero = true, fixed = true;
    for (int d = split; d < nest->rank; d++) same &= s[d] == dense[d], zero &= s[d] == 0;
    for (int d = 0; d <= split; d++) fixed &= s[d] == 0;
    return zero ? SINGLE : same ? DIRECT : fixed ? EXPANDED_ONCE : EXPANDED;
}

static void expand(const pointwise_plan *p, int operand, int64_t count, const void *in, void *to)
{
    ad_nest nest = { .arrays = 2, .rank = p->nest.rank - p->split };
    for (int d = 0; d < nest.rank; d++) {
        nest.dim[d] = d == 0 ? count : p->nest.dim[p->split + d];
        nest.stride[0][d] = p->nest.stride[0][p->split + d];
        nest.stride[1][d] = p->nest.stride[operand + 1][p->split + d];
    }
    ad_nest_move(&nest, p->head.loops, p->head.size, false, 0, in, to);
}

static void pointwise_chunk(const ad_kernel *k, int64_t count, const int64_t *offset,
                            const void *const *in, void *out, char *scratch, bool first)
{
    const pointwise_plan *p = k->plan;
    const void *operand[OPERANDS];
    for (int i = 0; i < k->nin; i++) {
        const void *at = ad_at(in[i], offset[i + 1], p->head.size);
        operand[i] = p->how[i] >= EXPANDED ? scratch + p->where[i] : at;
        if (p->how[i] == EXPANDED || (p->how[i] == EXPANDED_ONCE && first))
            expand(p, i, count, at, scratch + p->where[i]);
    }
    p->kernel(count * p->inner, operand, p->stride, ad_at_out(out, offset[0], p->head.size));
}

static void pointwise_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                          void *scratch)
{
    const pointwise_plan *p = k->plan;
    int64_t outer = ad_nest_outer(&p->nest, rows),
            n = p->split == 0 ? outer : p->nest.dim[p->split];
    int64_t index[AD_MAX_RANK] = { 0 }, start[AD_NEST_ARRAYS] = { 0 };
    bool first = true;
    if (outer == 0 || n == 0 || p->inner == 0) return;
    do
        for (int64_t i = 0; i < n; i += p->step) {
            int64_t offset[AD_NEST_ARRAYS];
            for (int a = 0; a <= k->nin; a++)
                offset[a] = start[a] + i * p->nest.stride[a][p->split];
            pointwise_chunk(k, n - i < p->step ? n - i : p->step, offset, in, out, scratch, first);
            first = false;
        }
    while (ad_nest_step(&p->nest, p->split, outer, index, start));
}

/* Operands and result are contiguous, or one number. */
static void pointwise_run_straight(const ad_kernel *k, int64_t rows, const void *const *in,
                                   void *out, void *scratch)
{
    const pointwise_plan *p = k->plan;
    (void)scratch;
    p->kernel(ad_nest_outer(&p->nest, rows), in, p->stride, out);
}

/* Products in which lines of one operand are one number each, or the same line (outer products,
 * scaled matrices): nothing is expanded. */
static void pointwise_run_lines(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                                void *scratch)
{
    const pointwise_plan *p = k->plan;
    const ad_nest *nest = &p->nest;
    const int64_t *so = nest->stride[0], *sa = nest->stride[1], *sb = nest->stride[2];
    int64_t outer = ad_nest_outer(nest, rows), index[AD_MAX_RANK] = { 0 },
            offset[AD_NEST_ARRAYS] = { 0 };
    int d = nest->rank - 2;
    size_t size = p->head.size;
    (void)scratch;
    if (outer == 0 || p->inner == 0) return;
    do
        p->head.loops->product_lines(d == 0 ? outer : nest->dim[d], nest->dim[d + 1],
                                     ad_at(in[0], offset[1], size), sa[d], sa[d + 1],
                                     ad_at(in[1], offset[2], size), sb[d], sb[d + 1],
                                     ad_at_out(out, offset[0], size), so[d]);
    while (ad_nest_step(nest, d, outer, index, offset));
}

static bool goes_by_lines(const ad_kernel *k, const ad_nest *nest)
{
    int last = nest->rank - 1;
    if (k->op != AD_OP_mul || k->nin != 2 || last == 0 || nest->dim[last] < LINE) return false;
    int64_t sa = nest->stride[1][last], sb = nest->stride[2][last];
    return sa <= 1 && sb <= 1 && sa + sb > 0;
}

static size_t pointwise_scratch(const ad_kernel *k, int64_t rows)
{
    (void)rows;
    return ((const pointwise_plan *)k->plan)->scratch;
}

bool ad_kernel_pair(ad_kernel *k, ad_op second)
{
    pointwise_plan *p = k->plan;
    if (k->run != pointwise_run_straight) return false;
    for (int i = 0; i < k->nin; i++)
        if (p->how[i] != DIRECT) return false;
    p->pair = ad_pair_kernel(k->op, second, k->dtype, k->nin);
    return p->pair != NULL;
}

void ad_kernel_run_pair(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                        void *second)
{
    const pointwise_plan *p = k->plan;
    p->pair(ad_nest_outer(&p->nest, rows), in, out, second);
}

static bool prepare_pointwise(ad_kernel *k)
{
    pointwise_plan *p = ad_plan_new(k, sizeof *p);
    if (!p) return false;
    p->head.scratch = pointwise_scratch;
    p->kernel = ad_pointwise_kernel(k->op, k->dtype, k->nin);
    p->nest = ad_nest_over(k->out);
    for (int i = 0; i < k->nin; i++) ad_nest_broadcast(&p->nest, k->out, k->in_shapes[i]);
    ad_nest_simplify(&p->nest);
    p->inner = 1;
    p->split = p->nest.rank - 1;
    while (p->split > 0 && p->inner * p->nest.dim[p->split] <= CHUNK)
        p->inner *= p->nest.dim[p->split--];
    p->step = CHUNK / (p->inner > 0 ? p->inner : 1);
    if (p->step < 1) p->step = 1;
    bool straight = p->nest.rank == 1;
    for (int i = 0; i < k->nin; i++) {
        p->how[i] = classify(&p->nest, i + 1, p->split);
        straight &= p->how[i] < EXPANDED;
        p->stride[i] = p->how[i] != SINGLE;
        p->where[i] = p->scratch;
        if (p->how[i] >= EXPANDED)
            p->scratch += ad_round_up((size_t)(p->step * p->inner) * p->head.size);
    }
    k->run = straight ? pointwise_run_straight : pointwise_run;
    if (!straight && goes_by_lines(k, &p->nest)) {
        k->run = pointwise_run_lines;
        p->scratch = 0;
    }
    return p->kernel != NULL;
}

/* ---- the interface --------------------------------------------------------------------------- */

void *ad_plan_new(ad_kernel *k, size_t bytes)
{
    ad_plan *plan = calloc(1, bytes);
    if (!plan) return NULL;
    plan->loops = ad_loops_of(k->dtype);
    plan->size = k->dtype == AD_F32 ? sizeof(float) : sizeof(double);
    k->plan = plan;
    return plan;
}

static bool prepare(ad_kernel *k, int64_t max_rows)
{
    switch (k->op) {
#define AD_UNARY(name, ...) case AD_OP_##name:
#define AD_BINARY(name, ...) case AD_OP_##name:
#define AD_TERNARY(name, ...) case AD_OP_##name:
#include "autodiff/ops.def"
        return prepare_pointwise(k);
    case AD_OP_sum:
    case AD_OP_reduce_max:
    case AD_OP_cumsum: return ad_prepare_reduce(k);
    case AD_OP_contract: return ad_prepare_contract(k, max_rows);
    default: return ad_prepare_layout(k);
    }
}

bool ad_kernel_prepare(ad_kernel *k, int64_t max_rows)
{
    k->plan = NULL;
    k->run = NULL;
    k->reduces_rows = false;
    for (int i = 0; i < k->nin; i++)
        k->reduces_rows |= ad_has_rows(k->in_shapes[i]) && !ad_has_rows(k->out);
    if (prepare(k, max_rows > 0 ? max_rows : 1)) return true;
    ad_kernel_clear(k);
    return false;
}

void ad_kernel_clear(ad_kernel *k)
{
    ad_plan *plan = k->plan;
    if (plan && plan->clear) plan->clear(plan);
    free(plan);
    k->plan = NULL;
    k->run = NULL;
}

size_t ad_kernel_scratch(const ad_kernel *k, int64_t rows)
{
    const ad_plan *plan = k->plan;
    return plan && plan->scratch ? plan->scratch(k, rows) : 0;
}

void ad_kernel_identity(const ad_kernel *k, void *out, int64_t n)
{
    const ad_plan *plan = k->plan;
    plan->loops->fill(n, k->op == AD_OP_reduce_max ? -INFINITY : 0, out);
}

void ad_kernel_combine(const ad_kernel *k, void *into, const void *from, int64_t n)
{
    const ad_plan *plan = k->plan;
    plan->loops->combine(k->op == AD_OP_reduce_max, n, from, into);
}
