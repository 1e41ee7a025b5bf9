/* Pointwise operations with broadcasting.
 *
 * The operands and the result are walked together in tiles that stay in L1. A tile is `step`
 * indices of dimension `split` with all of the inner dimensions. Within it an operand is
 * contiguous, one number, or it is expanded into scratch first; an operand that is the same in
 * every tile (a bias [D] against [rows,D]) is expanded once. */
#include "autodiff/kernels/impl.h"
#include <stdlib.h>

enum { TILE = 1024, LINE = 32, OPERANDS = AD_NEST_ARRAYS - 1 };
typedef enum { DIRECT, SINGLE, EXPANDED, EXPANDED_ONCE } access;

typedef struct {
    ad_prepared head;
    ad_pointwise kernel;
    ad_pointwise_pair pair; /* what ad_kernel_pair was asked for */
    ad_nest nest;           /* array 0: out; then the operands */
    int split;
    int64_t step, inner;
    int stride[OPERANDS];
    access how[OPERANDS];
    size_t where[OPERANDS], scratch;
} pointwise_prepared;

static access classify(const ad_nest *nest, int array, int split)
{
    const int64_t *s = nest->stride[array], *dense = nest->stride[0];
    bool same = true, zero = true, fixed = true;
    for (int d = split; d < nest->rank; d++) {
        same &= s[d] == dense[d];
        zero &= s[d] == 0;
    }
    for (int d = 0; d <= split; d++) fixed &= s[d] == 0;
    return zero ? SINGLE : same ? DIRECT : fixed ? EXPANDED_ONCE : EXPANDED;
}

static void expand(const pointwise_prepared *p, int operand, int64_t count, const void *in,
                   void *to)
{
    ad_nest nest = { .arrays = 2, .rank = p->nest.rank - p->split };
    for (int d = 0; d < nest.rank; d++) {
        nest.dim[d] = d == 0 ? count : p->nest.dim[p->split + d];
        nest.stride[0][d] = p->nest.stride[0][p->split + d];
        nest.stride[1][d] = p->nest.stride[operand + 1][p->split + d];
    }
    ad_nest_move(&nest, p->head.loops, p->head.size, false, 0, in, to);
}

static void pointwise_tile(const ad_kernel *k, int64_t count, const int64_t *offset,
                           const void *const *in, void *out, char *scratch, bool first)
{
    const pointwise_prepared *p = k->prepared;
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
    const pointwise_prepared *p = k->prepared;
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
            pointwise_tile(k, n - i < p->step ? n - i : p->step, offset, in, out, scratch, first);
            first = false;
        }
    while (ad_nest_step(&p->nest, p->split, outer, index, start));
}

/* Operands and result are contiguous, or one number. */
static void pointwise_run_straight(const ad_kernel *k, int64_t rows, const void *const *in,
                                   void *out, void *scratch)
{
    const pointwise_prepared *p = k->prepared;
    (void)scratch;
    p->kernel(ad_nest_outer(&p->nest, rows), in, p->stride, out);
}

/* Products in which lines of one operand are one number each, or the same line (outer products,
 * scaled matrices): nothing is expanded. */
static void pointwise_run_lines(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                                void *scratch)
{
    const pointwise_prepared *p = k->prepared;
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
    return ((const pointwise_prepared *)k->prepared)->scratch;
}

bool ad_kernel_pair(ad_kernel *k, ad_op op, ad_op second)
{
    pointwise_prepared *p = k->prepared;
    if (k->run != pointwise_run_straight) return false;
    for (int i = 0; i < k->nin; i++)
        if (p->how[i] != DIRECT) return false;
    p->pair = ad_pair_kernel(op, second, k->dtype, k->nin);
    return p->pair != NULL;
}

void ad_kernel_run_pair(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                        void *second)
{
    const pointwise_prepared *p = k->prepared;
    p->pair(ad_nest_outer(&p->nest, rows), in, out, second);
}

bool ad_prepare_pointwise(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    AD_ASSERT(k->nin <= OPERANDS);
    pointwise_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    p->head.scratch = pointwise_scratch;
    p->kernel = ad_pointwise_kernel(k->op, k->dtype, k->nin);
    p->nest = ad_nest_over(k->out);
    for (int i = 0; i < k->nin; i++) ad_nest_broadcast(&p->nest, k->out, k->in_shapes[i]);
    ad_nest_simplify(&p->nest);
    p->inner = 1;
    p->split = p->nest.rank - 1;
    while (p->split > 0 && p->inner * p->nest.dim[p->split] <= TILE)
        p->inner *= p->nest.dim[p->split--];
    p->step = TILE / (p->inner > 0 ? p->inner : 1);
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
