/* Internal: matrix products C [M,N] (+)= A [M,K] B [K,N], row-major with leading dimensions; A may
 * be stored transposed, as [K,M]. One of M and K may vary from run to run (up to what was
 * prepared): M is the rows of a batch, K the rows a weight gradient sums over. A row of C does not
 * depend, bit for bit, on how many rows are computed with it. */
#ifndef COSTATE_GEMM_H
#define COSTATE_GEMM_H
#include "autodiff/kernels/impl.h"

typedef enum { AD_GEMM_FIXED, AD_GEMM_VARY_M, AD_GEMM_VARY_K } ad_gemm_vary;
typedef void (*ad_gemm_jit)(
    const void *b, const void *a,
    void *c); /* generated code, in its own (column-major) order of operands */

enum { AD_GEMM_TILES = 3 };
typedef struct {
    /* Given to ad_gemm_prepare. */
    ad_dtype dtype;
    int64_t m, n, k, lda, ldb, ldc; /* m or k is the largest that occurs when it varies */
    bool a_transposed, accumulate;
    ad_gemm_vary vary;
    bool alone; /* no other thread of ours computes meanwhile: the product may use all processors */
    /* Its own. */
    const ad_loops *loops;
    struct {
        int64_t count; /* of the varying dimension */
        ad_gemm_jit run;
    } tile[AD_GEMM_TILES]; /* the largest first */
    int ntile;             /* 0: plain C */
    ad_gemm_jit padded;    /* the smallest tile, on operands that were copied to scratch */
    ad_narrow narrow;      /* NULL: not narrow */
    bool blas;
    bool parts; /* K is long: its products are added in parts, tiles are of a part */
} ad_gemm;

/* Whether code is generated here: where not, large products that are alone are left to BLAS. */
bool ad_gemm_generates(void);
void ad_gemm_prepare(ad_gemm *g);
/* count: M or K of this run, where it varies. */
void ad_gemm_run(const ad_gemm *g, int64_t count, const void *a, const void *b, void *c,
                 void *scratch);
size_t ad_gemm_scratch(const ad_gemm *g);

#endif
