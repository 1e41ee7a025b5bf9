/* Every pointwise operation of the table, in both types and on every instruction set this machine
 * has, against long double libm: error bounds over the whole range, special values; and that an
 * element's bits do not depend on its place, on strides, or on working in place.
 */
#include "autodiff/kernels/builds.h"
#include "autodiff/base/isa.h"
#include "tests/support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

typedef long double real;
typedef struct {
    const char *name;
    int arity;
    real (*reference)(real a, real b, real c);
} operation;

/* The table's reference expressions, which <tgmath.h> turns to long double. */
#define AD_UNARY(name, traits, kernel, push, reference, ...)                                       \
    static real reference_##name(real x, real b, real c) { return (void)b, (void)c, (reference); }
#define AD_BINARY(name, traits, kernel, push_a, push_b, reference, ...)                            \
    static real reference_##name(real a, real b, real c) { return (void)c, (reference); }
#define AD_TERNARY(name, traits, kernel, push_a, push_b, push_c, reference)                        \
    static real reference_##name(real a, real b, real c) { return (reference); }
#define AD_CODED(...)
#include "autodiff/ops.def"

static const operation operations[] = {
#define AD_UNARY(name, ...) [AD_OP_##name] = { #name, 1, reference_##name },
#define AD_BINARY(name, ...) [AD_OP_##name] = { #name, 2, reference_##name },
#define AD_TERNARY(name, ...) [AD_OP_##name] = { #name, 3, reference_##name },
#define AD_CODED(name, ...)                                                                        \
    [AD_OP_##name] = { #name, 1, NULL }, /* tested by what they make of arguments: derivatives */
#include "autodiff/ops.def"
};
enum { OPERATIONS = sizeof operations / sizeof operations[0] };

/* What an error is measured in: units in the last place of the result; the same, but x times the
 * smallest number where that is more (silu, gelu: x times a factor that underflows gradually). */
typedef enum { OF_RESULT, OF_SCALED_UNDERFLOW } unit;

/* The bounds, in those units, in float and double. An operation that is not listed is rounded
 * correctly. */
static const struct {
    double ulp[2];
    unit unit;
} bounds[OPERATIONS] = {
    [AD_OP_rsqrt] = { { 1.5, 1.5 }, OF_RESULT },
    [AD_OP_exp] = { { 1.1, 1.1 }, OF_RESULT },
    [AD_OP_expm1] = { { 2, 2.3 }, OF_RESULT },
    [AD_OP_log] = { { 1, 1 }, OF_RESULT },
    [AD_OP_log1p] = { { 1.5, 1.5 }, OF_RESULT },
    [AD_OP_sin] = { { 2, 1 }, OF_RESULT },
    [AD_OP_cos] = { { 2, 1 }, OF_RESULT },
    [AD_OP_tan] = { { 3.8, 2.5 }, OF_RESULT },
    [AD_OP_tanh] = { { 2.8, 2.8 }, OF_RESULT },
    [AD_OP_sigmoid] = { { 2.5, 2.8 }, OF_RESULT },
    [AD_OP_softplus] = { { 3, 3 }, OF_RESULT },
    [AD_OP_silu] = { { 3.3, 3.3 }, OF_SCALED_UNDERFLOW },
    [AD_OP_gelu] = { { 4, 4 }, OF_SCALED_UNDERFLOW },
    [AD_OP_erf] = { { 2.6, 2 }, OF_RESULT },
    [AD_OP_pow] = { { 0.6, 1.8 }, OF_RESULT },
    [AD_OP_normal_cdf] = { { 4, 4 }, OF_RESULT },
    [AD_OP_exp_minus_square] = { { 1.5, 1.5 }, OF_RESULT },
    [AD_OP_exp_minus_half_square] = { { 1.5, 1.5 }, OF_RESULT },
};

static double bound(int op, int dtype)
{
    return bounds[op].ulp[dtype] > 0 ? bounds[op].ulp[dtype] : 0.501;
}

/* ---- both types under one roof --------------------------------------------------------------- */

enum { N = 1024, F32 = 0, F64 = 1 };
static const ad_dtype dtypes[] = { AD_F32, AD_F64 };
static const size_t sizes[] = { sizeof(float), sizeof(double) };

static void put(void *array, int dtype, int i, real x)
{
    if (dtype == F32) ((float *)array)[i] = (float)x;
    else ((double *)array)[i] = (double)x;
}

static real get(const void *array, int dtype, int i)
{
    return dtype == F32 ? (real)((const float *)array)[i] : (real)((const double *)array)[i];
}

static bool same_bits(const void *x, int i, const void *y, int j, int dtype, int n)
{
    const char *a = (const char *)x + (size_t)i * sizes[dtype],
               *b = (const char *)y + (size_t)j * sizes[dtype];
    return !memcmp(a, b, (size_t)n * sizes[dtype]);
}

/* |y - r| in units in the last place of scale, in the type's range; a result beyond it must be
 * infinite or close to the end. */
static double error_in_ulp(real y, real r, real scale, int dtype)
{
    const int digits = dtype == F32 ? 24 : 53, emin = dtype == F32 ? -125 : -1021,
              emax = dtype == F32 ? 128 : 1024;
    const real end = ldexp(1.0L, emax);
    int e;
    if (isnan(y) || isnan(r)) return isnan(y) && isnan(r) ? 0 : INFINITY;
    if (signbit(y) != signbit(r)) return INFINITY;
    y = fmin(fabs(y), end);
    r = fmin(fabs(r), end);
    frexp(fmin(fabs(scale), end * 0.5L), &e);
    e = scale == 0 || e < emin ? emin : e;
    return (double)(fabs(y - r) / ldexp(1.0L, e - digits));
}

static double error_of(int op, int dtype, real x, real y, real r)
{
    const real smallest = dtype == F32 ? 0x1p-126L : 0x1p-1022L;
    const real scale =
        bounds[op].unit == OF_SCALED_UNDERFLOW ? fmax(fabs(r), fabs(x) * smallest) : r;
    return error_in_ulp(y, r, scale, dtype);
}

/* ---- arguments ------------------------------------------------------------------------------- */

static uint64_t random_bits(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static real uniform(uint64_t *state) { return (real)(random_bits(state) >> 11) * 0x1p-53L; }

/* By turns: any bits (all exponents, infinities, NaN), the interesting interval, twice wider ones,
 * small numbers, and numbers near 1. */
static real argument(uint64_t *state, int dtype, int kind)
{
    const real u = 2 * uniform(state) - 1;
    float f;
    double d;
    const uint64_t bits = random_bits(state);
    switch (kind) {
    case 0:
        memcpy(&f, &bits, sizeof f);
        memcpy(&d, &bits, sizeof d);
        return dtype == F32 ? (real)f : (real)d;
    case 1: return 4 * u;
    case 2: return 20 * u;
    case 3: return (dtype == F32 ? 110 : 750) * u;
    case 4: return ldexp(u, -(int)(bits % 64));
    default: return 1 + ldexp(u, -(int)(bits % 40));
    }
}
enum { KINDS = 6 };

/* Limits, kinks, thresholds of underflow and overflow, integers odd and even (pow), and the ends of
 * reductions. */
static int special_values(int dtype, real *list)
{
    static const real common[] = {
        0,       1,     0.5L,    2,          3,       0.99999994L, 1.0000001L, 1.5707963267948966L,
        88.72L,  87.3L, 103.97L, 709.78L,    708.4L,  745.13L,     9.02L,      19.1L,
        3.95L,   5.95L, 0x1p15L, 32768.004L, 0x1p20L, 1048576.1L,  1e10L,      0x1p-30L,
        INFINITY
    };
    const real smallest = dtype == F32 ? 0x1p-149L : 0x1p-1074L,
               normal = dtype == F32 ? 0x1p-126L : 0x1p-1022L;
    const real own[] = { smallest, normal - smallest, normal,
                         dtype == F32 ? 0x1.fffffep127L : 0x1.fffffffffffffp1023L };
    int n = 0;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
        list[n++] = common[i];
        list[n++] = -common[i];
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        list[n++] = own[i];
        list[n++] = -own[i];
    }
    list[n++] = NAN;
    return n;
}
enum { MAX_SPECIAL = 64 };

typedef struct {
    double in[3][N], out[N]; /* room for either type */
} arrays;

static const int ones[3] = { 1, 1, 1 };

static ad_pointwise kernel_of(int op, int dtype, const char *isa)
{
    setenv("COSTATE_ISA", isa, 1);
    ad_pointwise kernel = ad_pointwise_kernel((ad_op)op, dtypes[dtype], operations[op].arity);
    unsetenv("COSTATE_ISA");
    if (!kernel) ck_abort_msg("%s has no kernel", operations[op].name);
    return kernel;
}

static void for_each_operation(void (*run)(int op, int dtype))
{
    for (int op = 0; op < OPERATIONS; op++)
        for (int dtype = 0; operations[op].reference && dtype < 2; dtype++) run(op, dtype);
}

static void for_each_kernel(void (*run)(int op, int dtype, const char *isa, ad_pointwise kernel))
{
    const char *isa;
    for (int k = 0; (isa = ad_isa_available(k)) != NULL; k++)
        for (int op = 0; op < OPERATIONS; op++)
            for (int dtype = 0; operations[op].name && dtype < 2; dtype++)
                run(op, dtype, isa, kernel_of(op, dtype, isa));
}

/* NaN wins over both branches of min and max, which their references leave open. */
static real expected(int op, real a, real b, real c)
{
    if ((op == AD_OP_min || op == AD_OP_max) && (isnan(a) || isnan(b))) return NAN;
    return operations[op].reference(a, b, c);
}

/* (Assertions that hold are recorded, too, which takes longer than the arithmetic.) */
static void compare_one(int op, int dtype, const char *isa, const arrays *v, int i, real r)
{
    const real a = get(v->in[0], dtype, i), b = get(v->in[1], dtype, i),
               c = get(v->in[2], dtype, i), y = get(v->out, dtype, i);
    const double error = error_of(op, dtype, a, y, r);
    if (error <= bound(op, dtype)) return;
    ck_abort_msg("%s(%.17Lg, %.17Lg, %.17Lg), %s, %s: is %.17Lg, should be %.17Lg: %.3g ulp",
                 operations[op].name, a, b, c, dtype == F32 ? "float" : "double", isa, y, r, error);
}

/* The first n arguments on every instruction set. */
static void compare(int op, int dtype, arrays *v, int n)
{
    real r[N];
    const char *isa;
    for (int i = 0; i < n; i++)
        r[i] =
            expected(op, get(v->in[0], dtype, i), get(v->in[1], dtype, i), get(v->in[2], dtype, i));
    for (int k = 0; (isa = ad_isa_available(k)) != NULL; k++) {
        kernel_of(op, dtype, isa)(n, (const void *const[]){ v->in[0], v->in[1], v->in[2] }, ones,
                                  v->out);
        for (int i = 0; i < n; i++) compare_one(op, dtype, isa, v, i, r[i]);
    }
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void check_accuracy(int op, int dtype)
{
    arrays v;
    uint64_t state = 88172645463325252u;
    const int arity = operations[op].arity, combinations = arity == 1 ? KINDS : KINDS * KINDS;
    for (int round = 0; round < (arity == 1 ? 20 : 2) * combinations; round++) {
        for (int i = 0; i < N; i++)
            for (int k = 0; k < 3; k++)
                put(v.in[k], dtype, i,
                    argument(&state, dtype, k == 1 ? round / KINDS % KINDS : round % KINDS));
        compare(op, dtype, &v, N);
    }
}

START_TEST(accuracy) { for_each_operation(check_accuracy); }
END_TEST

static void check_special(int op, int dtype)
{
    arrays v;
    real list[MAX_SPECIAL];
    const int n = special_values(dtype, list), arity = operations[op].arity;
    for (int j = 0; j < (arity > 1 ? n : 1); j++)
        for (int k = 0; k < (arity > 2 ? n : 1); k++) {
            for (int i = 0; i < n; i++) {
                put(v.in[0], dtype, i, list[i]);
                put(v.in[1], dtype, i, list[j]);
                put(v.in[2], dtype, i, list[k]);
            }
            compare(op, dtype, &v, n);
        }
}

START_TEST(special) { for_each_operation(check_special); }
END_TEST

static void fill(arrays *v, int dtype)
{
    uint64_t state = 1442695040888963407u;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < N; i++) put(v->in[k], dtype, i, argument(&state, dtype, i % KINDS));
}

static const void *at(const void *array, int dtype, int i)
{
    return (const char *)array + (size_t)i * sizes[dtype];
}

static void check_position(int op, int dtype, const char *isa, ad_pointwise kernel)
{
    arrays v;
    double part[N];
    fill(&v, dtype);
    kernel(N, (const void *const[]){ v.in[0], v.in[1], v.in[2] }, ones, v.out);
    for (int offset = 0; offset < 20; offset++)
        for (int n = 0; n <= 70; n++) {
            memset(part, 0x55, sizeof part);
            kernel(n,
                   (const void *const[]){ at(v.in[0], dtype, offset), at(v.in[1], dtype, offset),
                                          at(v.in[2], dtype, offset) },
                   ones, part);
            if (!same_bits(part, 0, v.out, offset, dtype, n))
                ck_abort_msg("%s, %s: bits depend on the place: offset %d, n = %d",
                             operations[op].name, isa, offset, n);
            if (*((unsigned char *)part + (size_t)n * sizes[dtype]) != 0x55)
                ck_abort_msg("%s, %s: writes beyond %d", operations[op].name, isa, n);
        }
}

START_TEST(position) { for_each_kernel(check_position); }
END_TEST

static void check_in_place(int op, int dtype, const char *isa, ad_pointwise kernel)
{
    static const int counts[] = { 1, 7, 64, 300, N };
    arrays v;
    double work[3][N];
    fill(&v, dtype);
    kernel(N, (const void *const[]){ v.in[0], v.in[1], v.in[2] }, ones, v.out);
    for (int c = 0; c < 5; c++)
        for (int k = 0; k < operations[op].arity; k++) {
            memcpy(work, v.in, sizeof work);
            kernel(counts[c], (const void *const[]){ work[0], work[1], work[2] }, ones, work[k]);
            ck_assert_msg(same_bits(work[k], 0, v.out, 0, dtype, counts[c]),
                          "%s, %s: wrong in place of operand %d", operations[op].name, isa, k);
        }
}

START_TEST(in_place) { for_each_kernel(check_in_place); }
END_TEST

/* An operand that is one number gives the bits of an array full of it. */
static void check_strides(int op, int dtype, const char *isa, ad_pointwise kernel)
{
    arrays v, full;
    double out[N];
    const int arity = operations[op].arity, n = 533;
    fill(&v, dtype);
    for (int mask = 0; mask < 1 << arity; mask++)
        for (int number = 0; number < 12; number++) {
            const int stride[3] = { mask & 1, mask >> 1 & 1, mask >> 2 & 1 };
            const void *in[3];
            for (int k = 0; k < 3; k++) {
                in[k] = stride[k] ? v.in[k] : at(v.in[k], dtype, number);
                for (int i = 0; i < n; i++)
                    put(full.in[k], dtype, i, get(in[k], dtype, i * stride[k]));
            }
            kernel(n, (const void *const[]){ full.in[0], full.in[1], full.in[2] }, ones, full.out);
            kernel(n, in, stride, out);
            ck_assert_msg(same_bits(out, 0, full.out, 0, dtype, n), "%s, %s: strides %d %d %d",
                          operations[op].name, isa, stride[0], stride[1], stride[2]);
        }
}

START_TEST(strides) { for_each_kernel(check_strides); }
END_TEST

static bool is_nan(const void *x, int dtype, int i)
{
    return dtype == F32 ? isnan(((const float *)x)[i]) : isnan(((const double *)x)[i]);
}

/* The same bits, but for those of NaN: which of two NaN operands a product takes is left to the
 * compiler. */
static bool same_values(const void *x, int i, const void *y, int j, int dtype, int n)
{
    for (int k = 0; k < n; k++)
        if (!same_bits(x, i + k, y, j + k, dtype, 1) &&
            !(is_nan(x, dtype, i + k) && is_nan(y, dtype, j + k)))
            return false;
    return true;
}

/* An operation with one operand more than it has, against its parts one after the other: the same
 * bits from any operands, also in place. */
static void check_composite(int op, int dtype, const char *isa, ad_pointwise kernel)
{
    if (op == AD_OP_slope_of_code) return; /* see pairs */
    const int nin = operations[op].arity + 1,
              first = nin - 2; /* the part within reads operands first and first + 1 */
    setenv("COSTATE_ISA", isa, 1);
    ad_pointwise composite = ad_pointwise_kernel((ad_op)op, dtypes[dtype], nin);
    ad_pointwise part = ad_pointwise_kernel(nin == 2 ? AD_OP_add : AD_OP_mul, dtypes[dtype], 2);
    unsetenv("COSTATE_ISA");
    if (!composite) return;
    arrays v;
    fill(&v, dtype);
    for (int mask = 0; mask < 1 << nin; mask++)
        for (int n = 0; n <= 100; n += n < 70 ? 1 : 30) {
            int stride[3] = { mask & 1, mask >> 1 & 1, mask >> 2 & 1 };
            double inner[N], out[N];
            const void *whole[] = { at(v.in[0], dtype, 1), at(v.in[1], dtype, 2),
                                    at(v.in[2], dtype, 3) },
                       *outer[2] = { whole[0], inner };
            part(n, whole + first, stride + first, inner);
            if (nin == 2) outer[0] = inner;
            kernel(n, outer, (const int[]){ nin == 2 ? 1 : stride[0], 1 }, v.out);
            memset(out, 0x55, sizeof out);
            composite(n, whole, stride, out);
            bool right = same_values(out, 0, v.out, 0, dtype, n) &&
                         *((unsigned char *)out + (size_t)n * sizes[dtype]) == 0x55;
            for (int k = 0; k < nin && n > 0; k++) {
                double work[N];
                memcpy(work, v.in[k], sizeof work);
                const void *in[] = { whole[0], whole[1], whole[2] };
                in[k] = at(work, dtype, k + 1);
                if (stride[k]) composite(n, in, stride, (void *)(uintptr_t)in[k]);
                right = right && (!stride[k] || same_values(in[k], 0, v.out, 0, dtype, n));
            }
            if (!right)
                ck_abort_msg("%s, %s: a composite of %d operands differs, strides %d, n = %d",
                             operations[op].name, isa, nin, mask, n);
        }
}

/* Codes of arguments of all sizes and kinds. */
static void fill_codes(double *codes, const double *x, int dtype, const char *isa)
{
    setenv("COSTATE_ISA", isa, 1);
    ad_pointwise_kernel(AD_OP_tanh_code, dtypes[dtype], 1)(N, (const void *const[]){ x },
                                                           (const int[]){ 1 }, codes);
    unsetenv("COSTATE_ISA");
}

/* Two operations in one pass against one after the other, where `first` has nin operands: the same
 * bits, also in place, and where both results are one array. The second is of what `code` makes of
 * the operands; AD_OP_COUNT: of the last operand. */
static void check_pair(ad_op first, ad_op second, ad_op code, int nin, int dtype, const char *isa)
{
    arrays v;
    const bool coded = code == AD_OP_COUNT;
    fill(&v, dtype);
    if (coded) fill_codes(v.in[nin - 1], v.in[nin - 1], dtype, isa);
    setenv("COSTATE_ISA", isa, 1);
    ad_pointwise encode = coded ? NULL : ad_pointwise_kernel(code, dtypes[dtype], nin);
    ad_pointwise one = ad_pointwise_kernel(first, dtypes[dtype], nin);
    ad_pointwise other = ad_pointwise_kernel(second, dtypes[dtype], 1);
    ad_pointwise_pair pair = ad_pair_kernel(first, second, dtypes[dtype], nin);
    unsetenv("COSTATE_ISA");
    ck_assert_ptr_nonnull(pair);
    for (int n = 0; n <= 100; n += n < 70 ? 1 : 30) {
        double x[N], y[N], a[N], b[N], codes[N], right[N];
        const void *in[] = { v.in[0], v.in[1] };
        one(n, in, (const int[]){ 1, 1 }, y);
        if (encode) encode(n, in, (const int[]){ 1, 1 }, codes);
        other(n, (const void *const[]){ coded ? in[nin - 1] : codes }, (const int[]){ 1 }, right);
        memset(b, 0x55, sizeof b);
        pair(n, in, a, b);
        bool same = same_values(a, 0, y, 0, dtype, n) && same_values(b, 0, right, 0, dtype, n);
        same = same && *((unsigned char *)b + (size_t)n * sizes[dtype]) == 0x55;
        pair(n, in, a, a);
        same = same && same_values(a, 0, right, 0, dtype, n);
        for (int k = 0; k < nin; k++) {
            memcpy(x, v.in[k], sizeof x);
            in[k] = x;
            pair(n, in, a, x);
            same =
                same && same_values(a, 0, y, 0, dtype, n) && same_values(x, 0, right, 0, dtype, n);
            memcpy(x, v.in[k], sizeof x);
            pair(n, in, x, b);
            same =
                same && same_values(x, 0, y, 0, dtype, n) && same_values(b, 0, right, 0, dtype, n);
            in[k] = v.in[k];
        }
        if (!same)
            ck_abort_msg("%d and %d of %d operands, %s: differ, n = %d", (int)first, (int)second,
                         nin, isa, n);
    }
}

static void check_pairs(int dtype, const char *isa)
{
    for (int nin = 1; nin <= 2; nin++) {
        for (int k = 0; k < AD_CODED_OPS; k++) {
            const ad_coded *c = &ad_coded_ops[k];
            check_pair(c->code, c->of_code, c->code, nin, dtype, isa);
            check_pair(c->whole, AD_OP_slope_of_code, c->code, nin, dtype, isa);
            check_pair(AD_OP_slope_of_code, c->of_code, AD_OP_COUNT, nin, dtype, isa);
        }
    }
}

/* A slope with a factor, against slope and product one after the other. */
static void check_slope(int dtype, const char *isa)
{
    arrays v;
    double slope[N];
    double right[N];
    fill(&v, dtype);
    fill_codes(v.in[1], v.in[1], dtype, isa);
    setenv("COSTATE_ISA", isa, 1);
    ad_pointwise_kernel(AD_OP_slope_of_code, dtypes[dtype], 1)(N, (const void *const[]){ v.in[1] },
                                                               (const int[]){ 1 }, slope);
    ad_pointwise_kernel(AD_OP_mul, dtypes[dtype], 2)(N, (const void *const[]){ v.in[0], slope },
                                                     (const int[]){ 1, 1 }, right);
    const void *in[] = { v.in[0], v.in[1] };
    ad_pointwise_kernel(AD_OP_slope_of_code, dtypes[dtype], 2)(N, in, (const int[]){ 1, 1 }, v.out);
    unsetenv("COSTATE_ISA");
    ck_assert_msg(same_values(v.out, 0, right, 0, dtype, N), "%s: a slope with a factor differs",
                  isa);
}

START_TEST(pairs)
{
    const char *isa;
    for (int k = 0; (isa = ad_isa_available(k)) != NULL; k++)
        for (int dtype = 0; dtype < 2; dtype++) {
            check_pairs(dtype, isa);
            check_slope(dtype, isa);
        }
    ck_assert_ptr_null(ad_pair_kernel(AD_OP_tanh_code, AD_OP_sigmoid_of_code, AD_F32, 1));
    ck_assert_ptr_null(ad_pair_kernel(AD_OP_tanh, AD_OP_tanh_of_code, AD_F32, 1));
}
END_TEST

START_TEST(composites)
{
    for_each_kernel(check_composite);
    for (int dtype = 0; dtype < 2; dtype++) {
        ck_assert_ptr_nonnull(ad_pointwise_kernel(AD_OP_tanh, dtypes[dtype], 2));
        ck_assert_ptr_nonnull(ad_pointwise_kernel(AD_OP_add, dtypes[dtype], 3));
        ck_assert_ptr_null(ad_pointwise_kernel(AD_OP_sin, dtypes[dtype], 2));
    }
}
END_TEST

START_TEST(choice)
{
    const char *error, *best = ad_isa_available(0);
    unsetenv("COSTATE_ISA");
    ck_assert_str_eq(ad_isa(&error), best);
    ck_assert_ptr_null(error);
    for (int k = 0; ad_isa_available(k); k++) {
        setenv("COSTATE_ISA", ad_isa_available(k), 1);
        ck_assert_str_eq(ad_isa(&error), ad_isa_available(k));
        ck_assert_ptr_null(error);
    }
    setenv("COSTATE_ISA", "x86-64-v9", 1);
    ck_assert_str_eq(ad_isa(&error), best);
    ck_assert_ptr_nonnull(error);
    ck_assert_ptr_nonnull(strstr(error, "generic"));
    ck_assert_ptr_nonnull(ad_pointwise_kernel(AD_OP_exp, AD_F32, 1));
    ck_assert_ptr_null(ad_pointwise_kernel(AD_OP_sum, AD_F32, 1));
    unsetenv("COSTATE_ISA");
}
END_TEST

/* What the table says is not negative is not, at arguments of all sizes. */
static void check_sign(int op, int dtype, const char *isa, ad_pointwise kernel)
{
    enum { COUNT = 4096 };
    static float single[3][COUNT];
    static double twice[3][COUNT];
    if (!ad_has_trait((ad_op)op, AD_NOT_NEGATIVE)) return;
    for (int i = 0; i < COUNT; i++)
        for (int k = 0; k < 2; k++) {
            double size = ldexp(1, (i * 7 + k * 31) % 60 - 40);
            twice[k][i] = size * (i % 2 ? 1 : -1) * (1 + i / (double)COUNT);
            single[k][i] = (float)twice[k][i];
        }
    const void *in[3] = { dtype ? (void *)twice[0] : single[0],
                          dtype ? (void *)twice[1] : single[1] };
    kernel(COUNT, in, (const int[]){ 1, 1, 1 }, dtype ? (void *)twice[2] : single[2]);
    for (int i = 0; i < COUNT; i++) {
        double y = dtype ? twice[2][i] : (double)single[2][i];
        ck_assert_msg(!(y < 0), "%s %s of %g: %g", operations[op].name, isa, twice[0][i], y);
    }
}

START_TEST(not_negative) { for_each_kernel(check_sign); }
END_TEST

int main(void)
{
    TCase *tests = suite_case("pointwise", "pointwise");
    tcase_add_test(tests, choice);
    tcase_add_test(tests, accuracy);
    tcase_add_test(tests, special);
    tcase_add_test(tests, not_negative);
    tcase_add_test(tests, position);
    tcase_add_test(tests, in_place);
    tcase_add_test(tests, strides);
    tcase_add_test(tests, composites);
    tcase_add_test(tests, pairs);
    return suite_run();
}
