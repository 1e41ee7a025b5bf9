/* Internal: the builds of the pointwise kernels, one per instruction set, of which isa.c chooses one at run time. */
#ifndef COSTATE_ISA_H
#define COSTATE_ISA_H
#include "kernel.h"

ad_pointwise ad_pointwise_generic(ad_op op, ad_dtype dtype);
#ifdef __x86_64__
ad_pointwise ad_pointwise_v2(ad_op op, ad_dtype dtype);
ad_pointwise ad_pointwise_v3(ad_op op, ad_dtype dtype);
ad_pointwise ad_pointwise_v4(ad_op op, ad_dtype dtype);
#endif

/* Names of the instruction sets this processor can run, best first; NULL from index = their number on. */
const char *ad_isa_available(int index);

#endif
