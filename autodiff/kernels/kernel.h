/* Internal: kernels. A kernel computes one operation on dense row-major arrays of one dtype. It is
 * prepared once for its shapes and run for any number of rows; lazy evaluation runs it on whole
 * arrays, compiled programs on blocks of rows. */
#ifndef COSTATE_KERNEL_H
#define COSTATE_KERNEL_H
#include "autodiff/tape/tape.h"

typedef struct ad_kernel ad_kernel;
struct ad_kernel {
    ad_op op;
    ad_dtype dtype;
    int nin;
    const ad_shape *in_shapes; /* nin shapes; the caller keeps them alive */
    ad_shape out;
    int nattr;
    const int64_t *attr; /* the caller keeps it alive */
    /* Filled by ad_kernel_prepare. reduces_rows: reduces over the row axis; the kernel adds to
     * `out` (reduce_max: takes the maximum with it) instead of overwriting, and the caller
     * initialises `out` with ad_kernel_identity. */
    bool reduces_rows;
    /* Set before ad_kernel_prepare, where ad_kernel_divides says so: the result is made by
     * ad_kernel_run_piece, in so many pieces. */
    bool divided;
    int64_t pieces;
    void (*run)(const ad_kernel *k, int64_t rows, const void *const *in, void *out, void *scratch);
    void *prepared; /* of this kernel and those that share it; ad_kernel_clear frees it */
};

/* Whether there is a kernel for the operation with so many operands. Sources, opaque operations and
 * their results have none: they are the caller's. */
bool ad_kernel_exists(ad_op op, ad_dtype dtype, int nin);
/* Prepares a kernel whose op, dtype, nin, in_shapes, out, nattr, attr are set. max_rows: the
 * largest number of rows per call (kernels may generate code for it and for smaller counts). false:
 * there is no kernel (ad_kernel_exists), or else memory is short. Pointwise operands broadcast
 * against out (ranks may be smaller). */
bool ad_kernel_prepare(ad_kernel *k, int64_t max_rows);
void ad_kernel_clear(ad_kernel *k);
/* Where k is pointwise and has the operation and the shapes of `other`, which is prepared for as
 * many rows: prepares k with what that has. Neither may be asked for a pair (ad_kernel_pair). */
bool ad_kernel_share(ad_kernel *k, const ad_kernel *other);
/* A number that is the same for kernels that can share. */
uint32_t ad_kernel_hash(const ad_kernel *k);
/* Whether a product that sums over rows, or one without rows that is worth it, can be made in
 * pieces of the result, for several threads. Set are op, dtype, nin, in_shapes, out, nattr, attr.
 */
bool ad_kernel_divides(const ad_kernel *k);
/* One piece of the result of a divided kernel; fresh: overwritten, not added to. */
void ad_kernel_run_piece(const ad_kernel *k, int64_t piece, bool fresh, int64_t rows,
                         const void *const *in, void *out, void *scratch);
/* Whether there is a kernel that makes `op` and `second` (as ad_pair_kernel has them) of the
 * operands of a prepared pointwise kernel; ad_kernel_run_pair runs it. */
bool ad_kernel_pair(ad_kernel *k, ad_op op, ad_op second);
void ad_kernel_run_pair(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                        void *second);
/* Bytes of scratch, aligned to AD_ALIGN by the caller, that run needs for so many rows. */
size_t ad_kernel_scratch(const ad_kernel *k, int64_t rows);
/* How many numbers a run of a sum over so many rows adds to an element, one after the other. Sums
 * of more than AD_CHAIN are made from parts, so that rounding does not grow with the rows. */
enum { AD_CHAIN = 512 };
int64_t ad_kernel_chain(const ad_kernel *k, int64_t rows);
/* Sums of all elements of an array without rows, in pieces. They are trees over sums of AD_SUM_LEAF
 * elements (leaves), so whoever computes the leaves of some whole ones at a time, and the tree in
 * the end, has the bits of a run. */
enum { AD_SUM_LEAF = 128 };
/* Whether the kernel is such a sum. Set are op, nin, in_shapes, attr. */
bool ad_kernel_sums_all(const ad_kernel *k);
static inline int64_t ad_kernel_leaves(int64_t n) { return (n + AD_SUM_LEAF - 1) / AD_SUM_LEAF; }
/* Of n elements, which begin a leaf. */
void ad_kernel_sum_leaves(const ad_kernel *k, int64_t n, const void *in, void *leaves);
void ad_kernel_sum_tree(const ad_kernel *k, int64_t n, const void *leaves, void *out);
/* Fills n elements of out with the identity of the kernel's reduction (0, or -inf). Combines: into
 * += (max=) from. */
void ad_kernel_identity(const ad_kernel *k, void *out, int64_t n);
void ad_kernel_combine(const ad_kernel *k, void *into, const void *from, int64_t n);
/* The same where more follows: `lost`, zeros at first, gathers what rounding loses, and is combined
 * with `into` in the end. `from` has the identity then. */
void ad_kernel_gather(const ad_kernel *k, void *into, void *lost, void *from, int64_t n);

/* ---- pointwise kernels on contiguous arrays (pointwise_isa.c, built once per instruction set)
 * ---- */

/* out[i] = f(in0[i * s0], in1[i * s1], ...), s = 1, or 0 for an operand that is one number; out may
 * be the same array as an operand. */
typedef void (*ad_pointwise)(int64_t n, const void *const *in, const int *stride, void *out);
/* The pointwise kernel of an operation for the instruction set chosen at run time; NULL: there is
 * none for so many operands. With one operand more than it has, an operation is a composite, with
 * the bits of its parts: a unary one is that of the sum in0 + in1, but a slope is in0 times that of
 * in1; an addition, subtraction or multiplication is that of in0 and the product in1 * in2. */
ad_pointwise ad_pointwise_kernel(ad_op op, ad_dtype dtype, int nin);
/* Two operations in one pass, of dense operands: op with nin operands, and `second`. That is of the
 * result of op where it is a code; of the code of the same operands where op is a function that has
 * one; else of the last operand of op. Arrays may be the same as operands; where both results are
 * one array, it has the second. */
typedef void (*ad_pointwise_pair)(int64_t n, const void *const *in, void *out, void *second);
/* NULL: there is none. */
ad_pointwise_pair ad_pair_kernel(ad_op op, ad_op second, ad_dtype dtype, int nin);

#endif
