/* The choice of an instruction set at run time, so that a package built on one machine runs fast on
 * another. Nothing is remembered: kernels are looked up when a program is compiled, not when it
 * runs. */
#include "autodiff/base/isa.h"
#include "autodiff/extension.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static bool always(void) { return true; }

#ifdef __x86_64__
/* The features of each level that the compiler may use here; no processor has these without the
 * rest of the level. */
static bool has_v2(void)
{
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}

static bool has_v3(void)
{
    return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static bool has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

typedef struct {
    const char *name;
    bool (*supported)(void);
} isa;

/* In the order of ad_isa_level; the last one runs everywhere. */
static const isa isas[AD_ISAS] = {
#ifdef __x86_64__
    [AD_ISA_V4] = { "x86-64-v4", has_v4 },
    [AD_ISA_V3] = { "x86-64-v3", has_v3 },
    [AD_ISA_V2] = { "x86-64-v2", has_v2 },
#endif
    [AD_ISA_GENERIC] = { "generic", always },
};

#ifdef __x86_64__
#define CHOICES "x86-64-v4, x86-64-v3, x86-64-v2 and generic"
#else
#define CHOICES "generic"
#endif

static ad_isa_level best(void)
{
    for (int i = 0; i < AD_ISAS; i++)
        if (isas[i].supported()) return (ad_isa_level)i;
    return AD_ISA_GENERIC;
}

ad_isa_level ad_isa_chosen(const char **error)
{
    const char *ignored;
    if (!error) error = &ignored;
    *error = NULL;
    const char *name = getenv("COSTATE_ISA");
    if (!name || !*name) return best();
    for (int i = 0; i < AD_ISAS; i++) {
        if (strcmp(name, isas[i].name)) continue;
        if (isas[i].supported()) return (ad_isa_level)i;
        *error = "this processor does not have that instruction set; unset the variable to use the "
                 "best it has";
        return best();
    }
    *error = "no such instruction set (choices: " CHOICES
             "); unset the variable to use the best that this processor has";
    return best();
}

const char *ad_isa(const char **error) { return isas[ad_isa_chosen(error)].name; }

int ad_instruction_set(void)
{
    switch (ad_isa_chosen(NULL)) {
#ifdef __x86_64__
    case AD_ISA_V4: return 4;
    case AD_ISA_V3: return 3;
    case AD_ISA_V2: return 2;
#endif
    default: return 0;
    }
}

const char *ad_isa_available(int index)
{
    for (int i = 0; i < AD_ISAS; i++)
        if (isas[i].supported() && index-- == 0) return isas[i].name;
    return NULL;
}
