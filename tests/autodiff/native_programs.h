/* Programs with native code beside the same ones without. */
#ifndef TESTS_NATIVE_PROGRAMS_H
#define TESTS_NATIVE_PROGRAMS_H
#include "autodiff/plan/program.h"
#include "tests/autodiff/native_operations.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Whether this processor has the instructions; then they are asked for, whatever the environment
 * says. */
static bool ask_for_native(void)
{
    setenv("COSTATE_NATIVE", "1", 1);
    unsetenv("COSTATE_ISA");
    return ad_native_wanted();
}

static ad_program *compile(bool interpreted, int nin, const ad_var *in, ad_var out)
{
    ad_program *p =
        ad_compile_with(&(ad_compile_options){ .interpreted = interpreted }, nin, in, 1, &out);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(out.tape));
    return p;
}

static void run(const ad_program *p, int64_t rows, const void *const *in, void *out)
{
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_msg(ad_run(p, w, rows, in, &out) == 0, "%s", ad_workspace_error(w));
    ad_workspace_free(w);
}

static int functions_of(const ad_program *p)
{
    const ad_pieces *pieces = ad_program_pieces(p, false);
    int n = 0;
    for (int f = 0; f < p->nphase && pieces->phase; f++)
        for (int k = 0; k < AD_SECTIONS; k++) n += pieces->phase[f][k].native;
    return n;
}

/* Steps that are left to the interpreter. */
static int interpreted_of(const ad_program *p)
{
    const ad_pieces *pieces = ad_program_pieces(p, false);
    int n = 0;
    for (int f = 0; f < p->nphase && pieces->phase; f++)
        for (int k = 0; k < AD_SECTIONS; k++) {
            const ad_piece_list *list = &pieces->phase[f][k];
            for (int32_t i = 0; i < list->n; i++)
                if (list->piece[i].code < 0) n += list->piece[i].end - list->piece[i].begin;
        }
    return n;
}

static const double special[] = { 0.0,       -0.0,  1.0,       -1.0,
                                  0.3,       -2.5,  3.7,       1e-310,
                                  -1e-310,   1e300, -1e30,     INFINITY,
                                  -INFINITY, NAN,   0.9999999, 4503599627370497.5 };
enum { SPECIAL = sizeof special / sizeof *special };

static void put(ad_dtype dtype, void *array, int i, double x)
{
    if (dtype == AD_F32) ((float *)array)[i] = (float)x;
    else ((double *)array)[i] = x;
}

/* Bits, but for those of what is not a number. */
static bool same(ad_dtype dtype, const void *a, const void *b, int i)
{
    if (dtype == AD_F32) {
        const float x = ((const float *)a)[i], y = ((const float *)b)[i];
        return (isnan(x) && isnan(y)) || !memcmp(&x, &y, sizeof x);
    }
    const double x = ((const double *)a)[i], y = ((const double *)b)[i];
    return (isnan(x) && isnan(y)) || !memcmp(&x, &y, sizeof x);
}

static void compare(ad_dtype dtype, const char *what, int nin, const ad_var *in, ad_var out,
                    const void *const *data, bool all)
{
    ad_program *native = compile(false, nin, in, out), *other = compile(true, nin, in, out);
    const int n = (int)ad_row_size(ad_shape_of(out));
    double a[128], b[128];
    ck_assert_int_le(n, 128);
    run(native, 1, data, a);
    run(other, 1, data, b);
    ck_assert_int_eq(functions_of(other), 0);
    if (all) ck_assert_msg(interpreted_of(native) == 0, "%s is not native", what);
    for (int i = 0; i < n; i++)
        ck_assert_msg(same(dtype, a, b, i), "%s: element %d has other bits", what, i);
    ad_program_free(native);
    ad_program_free(other);
}

static ad_var applied(const operation *o, const ad_var *x)
{
    return o->one ? o->one(x[0]) : o->two ? o->two(x[0], x[1]) : o->three(x[0], x[1], x[2]);
}

#endif
