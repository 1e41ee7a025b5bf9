/* Internal to the kernels: typed inner loops, loop nests over strided arrays, and what everything
 * that a kernel prepares begins with. */
#ifndef COSTATE_KERNEL_IMPL_H
#define COSTATE_KERNEL_IMPL_H
#include "autodiff/kernels/kernel.h"

static inline size_t ad_round_up(size_t bytes)
{
    return (bytes + AD_ALIGN - 1) / AD_ALIGN * AD_ALIGN;
}
static inline const char *ad_at(const void *array, int64_t element, size_t size)
{
    return (const char *)array + element * (int64_t)size;
}
static inline char *ad_at_out(void *array, int64_t element, size_t size)
{
    return (char *)array + element * (int64_t)size;
}

/* Transforms of the tiles of a convolution (winograd.c): from and to tiles of so many elements. */
typedef enum {
    AD_TILE_IMAGE,   /* 4x4 -> 4x4 */
    AD_TILE_SUMS,    /* 4x4 -> 2x2 */
    AD_TILE_RESULT,  /* 2x2 -> 4x4, the transpose of AD_TILE_SUMS */
    AD_TILE_WEIGHTS, /* 3x3 -> 4x4 */
    AD_TILE_PRODUCTS /* 4x4 -> 3x3, the transpose of AD_TILE_WEIGHTS */
} ad_tile;

/* Inner loops of one dtype (strided.c, built once per instruction set). Sizes and strides
 * count elements. Sums run in an order that depends on the sizes alone. */
typedef struct {
    /* out[i,j] (+)= in[i,j], i < n0, j < n1, strides for i and j. */
    void (*move)(bool add, int64_t n0, int64_t n1, const void *in, int64_t in0, int64_t in1,
                 void *out, int64_t out0, int64_t out1);
    void (*fill)(int64_t n, double value, void *out);
    /* out[o,i] (+)= sum over r of in[o,r,i] of dense in [o,r,i]; or max instead of sum (accumulate:
     * with what is in out). */
    void (*reduce)(bool max, bool accumulate, int64_t outer, int64_t n, int64_t inner,
                   const void *in, void *out);
    /* The sum of a line of n elements in two parts (ad_kernel_sum_leaves). */
    void (*leaves)(int64_t n, const void *in, void *leaves);
    void (*tree)(int64_t n, const void *leaves, void *out);
    void (*combine)(bool max, int64_t n, const void *from, void *into);
    /* into += from and what was lost, which becomes what rounding loses now (Kahan). */
    void (*add)(int64_t n, const void *from, void *into, void *lost);
    /* into += from, lost += what rounding the sums loses, from = 0. */
    void (*gather)(int64_t n, void *from, void *into, void *lost);
    void (*cumsum)(bool reverse, int64_t outer, int64_t n, int64_t inner, const void *in,
                   void *out);
    /* The number at p as an index into 0..n-1: clamped; 0 for NaN. */
    int64_t (*index)(const void *p, int64_t n);
    void (*locate)(int64_t n, const void *t, int64_t nknots, const void *knots, void *out);
    /* out[i*so] (+)= a[i*sa] * b[i*sb]. */
    void (*product)(bool accumulate, int64_t n, const void *a, int64_t sa, const void *b,
                    int64_t sb, void *out, int64_t so);
    /* out[i*so + j] = a[i*sa0 + j*sa1] * b[i*sb0 + j*sb1], i < n0, j < n1; sa1 and sb1 are 0 or 1,
     * not both 0. */
    void (*product_lines)(int64_t n0, int64_t n1, const void *a, int64_t sa0, int64_t sa1,
                          const void *b, int64_t sb0, int64_t sb1, void *out, int64_t so);
    /* out[i*so] (+)= sum over j < n of a[i*sa + j] * b[i*sb + j], i < outer. */
    void (*dot)(bool accumulate, int64_t outer, int64_t n, const void *a, int64_t sa, const void *b,
                int64_t sb, void *out, int64_t so);
    /* c[i*ldc + j] (+)= sum over l of a[i*am + l*ak] * b[l*ldb + j], i < m, j < n, l < k: every
     * element is summed in the order of l. */
    void (*gemm)(bool accumulate, int64_t m, int64_t n, int64_t k, const void *a, int64_t am,
                 int64_t ak, const void *b, int64_t ldb, void *c, int64_t ldc);
    /* Of each of n channels: in and out are lines of n, one for each element of the tile. Results
     * overwrite what is in out, or are added to it. */
    void (*tile)(ad_tile which, bool add, int64_t n, const void *const *in, void *const *out);
} ad_loops;
/* Those for the instruction set chosen at run time. */
const ad_loops *ad_loops_of(ad_dtype dtype);

/* c[i*ldc + j] (+)= sum over l of a[i*lda + l] * b[l*ldb + j], i < m, j < n, l < k; an element's
 * bits depend on its row of a and its column of b alone. scratch: AD_NARROW_COLUMNS * (k +
 * AD_NARROW_WIDTH) elements. */
enum { AD_NARROW_COLUMNS = 8, AD_NARROW_WIDTH = 16 };
typedef void (*ad_narrow)(bool accumulate, int64_t m, int64_t n, int64_t k, const void *a,
                          int64_t lda, const void *b, int64_t ldb, void *c, int64_t ldc,
                          void *scratch);
/* That of the instruction set chosen at run time; NULL where there are too many columns for it to
 * pay, or too little to sum. */
ad_narrow ad_narrow_of(ad_dtype dtype, int64_t n, int64_t k);

/* ad_normals (autodiff/extension.h) by the loops of one instruction set. */
typedef void (*ad_normals_loop)(ad_dtype dtype, uint64_t key, uint64_t counter, int64_t n,
                                const uint32_t *word2, const uint32_t *word3, void *out);
/* That of the instruction set chosen at run time. */
ad_normals_loop ad_normals_kernel(void);
/* ad_rng_next at n counters from one on. */
typedef void (*ad_bits_loop)(uint64_t key, uint64_t counter, int64_t n, uint64_t *out);
ad_bits_loop ad_bits_kernel(void);

/* A loop nest over arrays with strides: dim[0] is the outermost. With `rows`, the outermost size is
 * multiplied by the number of rows. */
enum { AD_NEST_ARRAYS = 4 };
typedef struct {
    int rank, arrays;
    bool rows;
    int64_t dim[AD_MAX_RANK];
    int64_t stride[AD_NEST_ARRAYS][AD_MAX_RANK];
} ad_nest;

/* The strides of a dense array; along the row axis that of one row. */
void ad_dense_strides(ad_shape s, int64_t *stride);
/* A nest over `out` (array 0: dense out), to which arrays are added. */
ad_nest ad_nest_over(ad_shape out);
/* Adds an array that broadcasts to the shape the nest was made with. */
void ad_nest_broadcast(ad_nest *nest, ad_shape out, ad_shape in);
/* Drops dimensions of size 1 and merges those that are adjacent in all arrays; at least one
 * remains. */
void ad_nest_simplify(ad_nest *nest);
/* The outermost size for so many rows. */
static inline int64_t ad_nest_outer(const ad_nest *nest, int64_t rows)
{
    return nest->rows ? nest->dim[0] * rows : nest->dim[0];
}
/* Copies (or adds) array 1 into array 0. */
void ad_nest_move(const ad_nest *nest, const ad_loops *loops, size_t size, bool add, int64_t rows,
                  const void *in, void *out);

/* Steps an odometer through the outermost `rank` dimensions of a nest; offsets follow. false: back
 * at the start. */
bool ad_nest_step(const ad_nest *nest, int rank, int64_t outer, int64_t *index, int64_t *offset);

/* A long sum, in parts (parts.c). Its result is m lines of n elements, `ld` apart. */
typedef struct {
    const ad_loops *loops;
    size_t size; /* of an element */
    int64_t m, n, ld;
    int64_t terms, most; /* most: terms of a part */
    bool gathers;        /* what rounding loses of the sum of the parts */
    /* Adds so many terms from the first on to a part of the result, which is dense. */
    void (*add)(const void *data, int64_t first, int64_t count, void *part, void *scratch);
    const void *data;
} ad_parts;
/* Scratch memory for parts of n elements, before that of what adds to them. */
size_t ad_parts_bytes(bool gathers, int64_t n, size_t size);
/* out = the sum, or out += the sum. */
void ad_parts_run(const ad_parts *p, bool accumulate, void *out, void *scratch);

/* What a kernel prepares begins with this. */
typedef struct {
    const ad_loops *loops;
    size_t size;    /* of an element */
    int32_t others; /* kernels that have it as well: the last one frees it */
    /* Where rows are reduced: what a row adds to an element, one after the other; 0: all rows are
     * added at once. */
    int64_t terms;
    /* Of a kernel without rows that adds as many equal parts of its operands, which its run takes
     * some of, as if they were rows; 0: none. `terms` is that of one. */
    int64_t units;
    /* Of a sum in parts (parts.c): rows of a part, and what runs it; 0: there are none. */
    int64_t part_rows;
    void (*run_part)(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                     void *scratch);
    size_t (*scratch)(const ad_kernel *k, int64_t rows); /* NULL: none */
    void (*clear)(void *prepared);                       /* NULL: free is enough */
} ad_prepared;

/* Allocates zeroed memory of the given size and fills its head; NULL when memory is short. */
void *ad_prepared_new(ad_kernel *k, size_t bytes);

/* Elements of the axes behind this one. */
static inline int64_t ad_size_behind(ad_shape s, int axis)
{
    int64_t n = 1;
    for (int i = axis + 1; i < s.rank; i++) n *= s.dim[i];
    return n;
}

/* Makes a prepared sum over rows one in parts, where so many rows need it. */
void ad_kernel_part(ad_kernel *k, int64_t max_rows);

/* Sets what ad_kernel_prepare fills, as if nothing were prepared yet. */
void ad_kernel_begin(ad_kernel *k);
/* One for each row of ops.def that needs a kernel: sets k->run and k->prepared. false: memory is
 * short, and ad_kernel_clear takes back what there is. */
#define AD_STRUCTURAL(name, ...) bool ad_prepare_##name(ad_kernel *k, int64_t max_rows);
#include "autodiff/ops.def"
bool ad_prepare_pointwise(ad_kernel *k, int64_t max_rows);

#endif
