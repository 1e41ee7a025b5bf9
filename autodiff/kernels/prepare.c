/* Which kernel an operation has: a table made from the rows of ops.def. A row whose kind needs a
 * kernel and has no ad_prepare_<name> does not link. */
#include "autodiff/kernels/builds.h"

typedef bool (*prepare)(ad_kernel *k, int64_t max_rows);

/* By kind. */
#define KERNEL_LINEAR(name) ad_prepare_##name
#define KERNEL_CONTRACT(name) ad_prepare_##name
#define KERNEL_CONVOLUTION(name) ad_prepare_##name
#define KERNEL_NONLINEAR(name) ad_prepare_##name
#define KERNEL_FLAT(name) ad_prepare_##name
#define KERNEL_SOURCE(name) NULL
#define KERNEL_OPAQUE(name) NULL
#define KERNEL_RESULT(name) NULL

static const prepare prepares[AD_OP_COUNT] = {
#define AD_UNARY(name, ...) ad_prepare_pointwise,
#define AD_BINARY(name, ...) ad_prepare_pointwise,
#define AD_TERNARY(name, ...) ad_prepare_pointwise,
#define AD_STRUCTURAL(name, kind, ...) KERNEL_##kind(name),
#include "autodiff/ops.def"
};

bool ad_kernel_exists(ad_op op, ad_dtype dtype, int nin)
{
    /* all builds have the same ones */
    if (ad_ops[op].kind == AD_POINTWISE) return ad_pointwise_generic(op, dtype, nin) != NULL;
    return prepares[op] != NULL;
}

bool ad_kernel_prepare(ad_kernel *k, int64_t max_rows)
{
    ad_kernel_begin(k);
    if (!ad_kernel_exists(k->op, k->dtype, k->nin)) return false;
    if (max_rows < 1) max_rows = 1;
    if (prepares[k->op](k, max_rows)) {
        ad_kernel_part(k, max_rows);
        return true;
    }
    ad_kernel_clear(k);
    return false;
}
