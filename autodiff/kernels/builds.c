/* The kernels of the instruction set in use, from those that were built for each. */
#include "autodiff/kernels/builds.h"
#include "autodiff/base/isa.h"

typedef struct {
    ad_pointwise (*pointwise)(ad_op op, ad_dtype dtype, int nin);
    ad_pointwise_pair (*pair)(ad_op op, ad_op second, ad_dtype dtype, int nin);
    const ad_loops *(*loops)(ad_dtype dtype);
    ad_narrow (*narrow)(ad_dtype dtype, int64_t n, int64_t k);
    ad_normals_loop normals;
    ad_bits_loop bits;
} build;

static const build builds[AD_ISAS] = {
#ifdef __x86_64__
    [AD_ISA_V4] = { ad_pointwise_v4, ad_pair_v4, ad_loops_v4, ad_narrow_v4, ad_normals_v4,
                    ad_bits_v4 },
    [AD_ISA_V3] = { ad_pointwise_v3, ad_pair_v3, ad_loops_v3, ad_narrow_v3, ad_normals_v3,
                    ad_bits_v3 },
    [AD_ISA_V2] = { ad_pointwise_v2, ad_pair_v2, ad_loops_v2, ad_narrow_v2, ad_normals_v2,
                    ad_bits_v2 },
#endif
    [AD_ISA_GENERIC] = { ad_pointwise_generic, ad_pair_generic, ad_loops_generic, ad_narrow_generic,
                         ad_normals_generic, ad_bits_generic },
};

static const build *chosen(void) { return &builds[ad_isa_chosen(NULL)]; }

ad_pointwise ad_pointwise_kernel(ad_op op, ad_dtype dtype, int nin)
{
    return chosen()->pointwise(op, dtype, nin);
}

ad_pointwise_pair ad_pair_kernel(ad_op op, ad_op second, ad_dtype dtype, int nin)
{
    return chosen()->pair(op, second, dtype, nin);
}

const ad_loops *ad_loops_of(ad_dtype dtype) { return chosen()->loops(dtype); }

ad_narrow ad_narrow_of(ad_dtype dtype, int64_t n, int64_t k)
{
    return chosen()->narrow(dtype, n, k);
}

ad_normals_loop ad_normals_kernel(void) { return chosen()->normals; }
ad_bits_loop ad_bits_kernel(void) { return chosen()->bits; }
