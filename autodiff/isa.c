/* The choice of an instruction set at run time, so that a package built on one machine runs fast on another. Nothing is remembered:
 * kernels are looked up when a program is compiled, not when it runs. */
#include "isa.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;
    bool (*supported)(void);
    ad_pointwise (*pointwise)(ad_op op, ad_dtype dtype, int nin);
    ad_pointwise_pair (*pair)(ad_op op, ad_op second, ad_dtype dtype, int nin);
    const ad_loops *(*loops)(ad_dtype dtype);
    ad_narrow (*narrow)(ad_dtype dtype, int64_t n, int64_t k);
} isa;

static bool always(void) { return true; }

#ifdef __x86_64__
/* The features of each level that the compiler may use here; no processor has these without the rest of the level. */
static bool has_v2(void) { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }

static bool has_v3(void)
{
    return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

static bool has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static const isa isas[] = { /* best first; the last one runs everywhere */
#ifdef __x86_64__
                            { "x86-64-v4", has_v4, ad_pointwise_v4, ad_pair_v4, ad_loops_v4, ad_narrow_v4 },
                            { "x86-64-v3", has_v3, ad_pointwise_v3, ad_pair_v3, ad_loops_v3, ad_narrow_v3 },
                            { "x86-64-v2", has_v2, ad_pointwise_v2, ad_pair_v2, ad_loops_v2, ad_narrow_v2 },
#endif
                            { "generic", always, ad_pointwise_generic, ad_pair_generic, ad_loops_generic, ad_narrow_generic }
};
enum { ISAS = sizeof isas / sizeof isas[0] };

#ifdef __x86_64__
#define CHOICES "x86-64-v4, x86-64-v3, x86-64-v2 and generic"
#else
#define CHOICES "generic"
#endif

static const isa *best(void)
{
    for (int i = 0; i < ISAS; i++)
        if (isas[i].supported()) return &isas[i];
    return &isas[ISAS - 1];
}

static const isa *chosen(const char **error)
{
    *error = NULL;
    const char *name = getenv("COSTATE_ISA");
    if (!name || !*name) return best();
    for (int i = 0; i < ISAS; i++) {
        if (strcmp(name, isas[i].name)) continue;
        if (isas[i].supported()) return &isas[i];
        *error = "this processor does not have that instruction set; unset the variable to use the best it has";
        return best();
    }
    *error = "no such instruction set (choices: " CHOICES "); unset the variable to use the best that this processor has";
    return best();
}

const char *ad_isa(const char **error)
{
    const char *ignored;
    return chosen(error ? error : &ignored)->name;
}

const char *ad_isa_available(int index)
{
    for (int i = 0; i < ISAS; i++)
        if (isas[i].supported() && index-- == 0) return isas[i].name;
    return NULL;
}

ad_pointwise ad_pointwise_kernel(ad_op op, ad_dtype dtype, int nin)
{
    const char *ignored;
    return chosen(&ignored)->pointwise(op, dtype, nin);
}

ad_pointwise_pair ad_pair_kernel(ad_op op, ad_op second, ad_dtype dtype, int nin)
{
    const char *ignored;
    return chosen(&ignored)->pair(op, second, dtype, nin);
}

const ad_loops *ad_loops_of(ad_dtype dtype)
{
    const char *ignored;
    return chosen(&ignored)->loops(dtype);
}

ad_narrow ad_narrow_of(ad_dtype dtype, int64_t n, int64_t k)
{
    const char *ignored;
    return chosen(&ignored)->narrow(dtype, n, k);
}
