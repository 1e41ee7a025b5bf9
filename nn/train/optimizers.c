/* Optimisers: the table of algorithms, and the loops of the instruction set in use. */
#include "nn/train/optimizer.h"
#include "autodiff/extension.h"

#define OPTIMIZER(algorithm, ...)                                                                  \
    const nn_optimizer nn_##algorithm = { #algorithm, NN_ALGORITHM_##algorithm, __VA_ARGS__ };
#include "nn/train/optimizers.def"
#undef OPTIMIZER

const char *nn_optimizer_name(const nn_optimizer *optimizer)
{
    return optimizer ? optimizer->name : "none";
}

const nn_loops *nn_loops_chosen(ad_dtype dtype)
{
#ifdef __x86_64__
    switch (ad_instruction_set()) {
    case 4: return &nn_loops_v4[dtype];
    case 3: return &nn_loops_v3[dtype];
    case 2: return &nn_loops_v2[dtype];
    default: break;
    }
#endif
    return &nn_loops_generic[dtype];
}
