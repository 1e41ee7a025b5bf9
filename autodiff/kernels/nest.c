/* Loop nests over strided arrays: dimensions of size 1 go, adjacent ones are merged, and an
 * odometer walks what is left outside the inner loops. */
#include "autodiff/kernels/impl.h"

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
    AD_ASSERT(nest->arrays < AD_NEST_ARRAYS && in.rank <= out.rank);
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
    AD_ASSERT(nest->arrays == 2 && nest->rank >= 1);
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
