/* Internal: the instruction set that kernels are chosen for at run time. */
#ifndef COSTATE_BASE_ISA_H
#define COSTATE_BASE_ISA_H
#include <stdbool.h>

/* Levels of instruction sets, best first. Kernels are built once for each (kernels/builds.c). */
typedef enum {
#ifdef __x86_64__
    AD_ISA_V4,
    AD_ISA_V3,
    AD_ISA_V2,
#endif
    AD_ISA_GENERIC,
    AD_ISAS
} ad_isa_level;
/* What is in use: the best that the processor has unless the environment variable COSTATE_ISA names
 * another. error: gets what is wrong with that name (a static text), which new tapes report, or
 * NULL; may be NULL. */
ad_isa_level ad_isa_chosen(const char **error);
/* Its name: "x86-64-v4", "x86-64-v3", "x86-64-v2" or "generic". */
const char *ad_isa(const char **error);
/* Names of the instruction sets this processor can run, best first; NULL from index = their number
 * on. */
const char *ad_isa_available(int index);

#endif
