/* First and second derivatives of the pointwise operations over the whole range of their arguments,
 * in both types and on every instruction set this machine has, against long double: relative
 * accuracy also where a function has nearly reached its limit. */
#include "autodiff/base/isa.h"
#include "autodiff/kernels/builds.h"
#include "tests/support.h"
#include <stdlib.h>
#include <tgmath.h>

typedef long double real;

/* A derivative, and the size of its terms where they cancel at one of its zeros (0: they do not).
 */
typedef struct {
    real first, first_size, second, second_size;
} slopes;

static const real pi = 3.14159265358979323846264338327950288L;

static real logistic(real x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static real logistic_slope(real x)
{
    return exp(-fabs(x)) / ((1 + exp(-fabs(x))) * (1 + exp(-fabs(x))));
}
static real logistic_bend(real x) { return -logistic_slope(x) * tanh(x / 2); }
static real density(real x) { return exp(-x * x / 2) / sqrt(2 * pi); }
/* a b, 0 where b is. */
static real times(real a, real b) { return b == 0 ? 0 : a * b; }

static slopes of_reciprocal(real x)
{
    return (slopes){ .first = -1 / (x * x), .second = 2 / (x * x * x) };
}
static slopes of_square(real x) { return (slopes){ .first = 2 * x, .second = 2 }; }
static slopes of_sqrt(real x)
{
    return (slopes){ .first = 0.5L / sqrt(x), .second = -0.25L / (x * sqrt(x)) };
}
static slopes of_rsqrt(real x)
{
    return (slopes){ .first = -0.5L / (x * sqrt(x)), .second = 0.75L / (x * x * sqrt(x)) };
}
static slopes of_exp(real x) { return (slopes){ .first = exp(x), .second = exp(x) }; }
static slopes of_log(real x) { return (slopes){ .first = 1 / x, .second = -1 / (x * x) }; }
static slopes of_log1p(real x)
{
    return (slopes){ .first = 1 / (1 + x), .second = -1 / ((1 + x) * (1 + x)) };
}
static slopes of_sin(real x) { return (slopes){ .first = cos(x), .second = -sin(x) }; }
static slopes of_cos(real x) { return (slopes){ .first = -sin(x), .second = -cos(x) }; }
static slopes of_tan(real x)
{
    return (slopes){ .first = 1 + tan(x) * tan(x), .second = 2 * tan(x) * (1 + tan(x) * tan(x)) };
}
static slopes of_tanh(real x)
{
    return (slopes){ .first = 4 * logistic_slope(2 * x), .second = 8 * logistic_bend(2 * x) };
}
static slopes of_sigmoid(real x)
{
    return (slopes){ .first = logistic_slope(x), .second = logistic_bend(x) };
}
static slopes of_softplus(real x)
{
    return (slopes){ .first = logistic(x), .second = logistic_slope(x) };
}
static slopes of_silu(real x)
{
    const real a = times(x, logistic_slope(x)), b = times(x, logistic_bend(x));
    return (slopes){ logistic(x) + a, logistic(x) + fabs(a), 2 * logistic_slope(x) + b,
                     2 * logistic_slope(x) + fabs(b) };
}
static slopes of_gelu(real x)
{
    const real cdf = 0.5L * erfc(-x * sqrt(0.5L)), a = times(x, density(x)),
               b = times(x * x, density(x));
    return (slopes){ cdf + a, cdf + fabs(a), 2 * density(x) - b, 2 * density(x) + b };
}
static slopes of_erf(real x)
{
    return (slopes){ .first = 2 / sqrt(pi) * exp(-x * x),
                     .second = -4 / sqrt(pi) * times(x, exp(-x * x)) };
}
static slopes of_normal_cdf(real x)
{
    return (slopes){ .first = density(x), .second = -times(x, density(x)) };
}

static const struct {
    const char *name;
    ad_var (*record)(ad_var x);
    slopes (*reference)(real x);
    bool positive, everywhere; /* arguments above 0 only; infinite ones too */
    double tolerance[2];       /* in units of rounding, of the first and second derivative */
} cases[] = {
    { "reciprocal", ad_reciprocal, of_reciprocal, false, false, { 4, 6 } },
    { "square", ad_square, of_square, false, false, { 1, 1 } },
    { "sqrt", ad_sqrt, of_sqrt, true, false, { 3, 6 } },
    { "rsqrt", ad_rsqrt, of_rsqrt, true, false, { 8, 12 } },
    { "exp", ad_exp, of_exp, false, false, { 3, 3 } },
    { "expm1", ad_expm1, of_exp, false, false, { 3, 3 } },
    { "log", ad_log, of_log, true, false, { 1, 4 } },
    { "log1p", ad_log1p, of_log1p, true, false, { 3, 5 } },
    { "sin", ad_sin, of_sin, false, false, { 4, 4 } },
    { "cos", ad_cos, of_cos, false, false, { 4, 4 } },
    { "tan", ad_tan, of_tan, false, false, { 12, 20 } },
    { "tanh", ad_tanh, of_tanh, false, true, { 10, 14 } },
    { "sigmoid", ad_sigmoid, of_sigmoid, false, true, { 8, 14 } },
    { "softplus", ad_softplus, of_softplus, false, true, { 5, 8 } },
    { "silu", ad_silu, of_silu, false, true, { 10, 16 } },
    { "gelu", ad_gelu, of_gelu, false, true, { 10, 10 } },
    { "erf", ad_erf, of_erf, false, true, { 5, 6 } },
    { "normal_cdf", ad_normal_cdf, of_normal_cdf, false, true, { 5, 6 } },
};
enum { CASES = sizeof cases / sizeof *cases, N = 4096 };

static double uniform(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (double)(*state >> 11) * 0x1p-53;
}

/* By turns: a few units, saturation, the ends of exponentials, and small numbers; at last, for
 * functions with limits, infinities. */
static double argument(uint64_t *state, int i, ad_dtype dtype, int which)
{
    const double u = 2 * uniform(state) - 1, ends = dtype == AD_F32 ? 100 : 740;
    double x = i % 4 == 0   ? 3 * u
               : i % 4 == 1 ? 20 * u
               : i % 4 == 2 ? ends * u
                            : ldexp(u, -(i / 4) % 30);
    if (cases[which].everywhere && i >= N - 2) x = i % 2 ? INFINITY : -INFINITY;
    if (cases[which].positive) x = fabs(x);
    return dtype == AD_F32 ? (double)(float)x : x;
}

/* The most by which a number may be off where it or a part of it underflows. */
static real underflow(ad_dtype dtype, real x)
{
    return (dtype == AD_F32 ? 0x1p-125L : 0x1p-1021L) * fmax(1, fmin(fabs(x), 1000));
}

static void compare(int which, ad_dtype dtype, int order, const char *isa, double x, double got,
                    real right, real size)
{
    const real unit = dtype == AD_F32 ? 0x1p-24L : 0x1p-53L,
               largest = dtype == AD_F32 ? 0x1p127L : 0x1p1023L;
    if (fabs(right) > largest) return;
    const real bound =
        cases[which].tolerance[order - 1] * unit * fmax(size, fabs(right)) + underflow(dtype, x);
    if (fabs((real)got - right) <= bound) return;
    ck_abort_msg(
        "derivative %d of %s(%.17g), %s, %s: is %.17g, should be %.17Lg: off by %.3Lg units", order,
        cases[which].name, x, dtype == AD_F32 ? "f32" : "f64", isa, got, right,
        fabs((real)got - right) / unit / fmax(size, fabs(right)));
}

static void check(int which, ad_dtype dtype, const char *isa)
{
    static double x[N], first[N], second[N];
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < N; i++) x[i] = argument(&state, i, dtype, which);
    ad_tape *tape = ad_tape_new(dtype);
    ad_var v = ad_param(tape, AD_SHAPE(N), x), g, h;
    ad_grad(ad_sum_all(cases[which].record(v)), 1, &v, &g);
    ad_grad(ad_sum_all(g), 1, &v, &h);
    ck_assert_int_eq(ad_get(g, first), 0);
    ck_assert_int_eq(ad_get(h, second), 0);
    for (int i = 0; i < N; i++) {
        const slopes r = cases[which].reference(x[i]);
        compare(which, dtype, 1, isa, x[i], first[i], r.first, r.first_size);
        compare(which, dtype, 2, isa, x[i], second[i], r.second, r.second_size);
    }
    ad_tape_free(tape);
}

START_TEST(over_the_whole_range)
{
    const char *isa;
    for (int k = 0; (isa = ad_isa_available(k)) != NULL; k++) {
        setenv("COSTATE_ISA", isa, 1);
        check(_i, AD_F32, isa);
        check(_i, AD_F64, isa);
    }
    unsetenv("COSTATE_ISA");
}
END_TEST

/* ---- binary operations ---- */

/* Derivatives by a, b, a twice, a and b, b twice, and sizes of terms that cancel (0: none). */
enum { BY_A, BY_B, BY_AA, BY_AB, BY_BB, PARTIALS };
typedef struct {
    real value[PARTIALS], size[PARTIALS];
} partials;

static partials of_div(real a, real b)
{
    return (partials){ { 1 / b, -a / (b * b), 0, -1 / (b * b), 2 * a / (b * b * b) }, { 0 } };
}

static partials of_mul(real a, real b) { return (partials){ { b, a, 0, 1, 0 }, { 0 } }; }

/* The exponents b - 1 and b - 2 are rounded where b is below 1/2 or 3/2, and a rounding of the
 * exponent is one of the power times log a. */
static partials of_pow(real a, real b)
{
    const real l = log(a), p = pow(a, b - 1), y = pow(a, b), q = pow(a, b - 2);
    const real once = 1 + (b < 0.5L ? fabs((b - 1) * l) : 0),
               twice = 1 + (b < 1.5L ? fabs((b - 1) * l) + fabs((b - 2) * l) : 0);
    return (partials){ { b * p, y * l, b * (b - 1) * q, p * (1 + b * l), y * l * l },
                       { [BY_A] = fabs(b) * p * once,
                         [BY_AA] = (fabs(b) + b * b) * q * twice,
                         [BY_AB] = p * (1 + fabs(b * l)) * once } };
}

static const struct {
    const char *name;
    ad_var (*record)(ad_var a, ad_var b);
    partials (*reference)(real a, real b);
    bool positive; /* a above 0 only */
    double tolerance[PARTIALS];
} binary[] = {
    { "mul", ad_mul, of_mul, false, { 1, 1, 1, 1, 1 } },
    { "div", ad_div, of_div, false, { 2, 4, 1, 4, 6 } },
    { "pow", ad_pow, of_pow, true, { 6, 6, 10, 10, 10 } },
};
enum { BINARY = sizeof binary / sizeof *binary };

static void compare_partials(int which, ad_dtype dtype, const char *isa, double a, double b,
                             const double *got)
{
    const real unit = dtype == AD_F32 ? 0x1p-24L : 0x1p-53L,
               largest = dtype == AD_F32 ? 0x1p125L : 0x1p1021L;
    const partials right = binary[which].reference(a, b);
    for (int k = 0; k < PARTIALS; k++) {
        const real size = fmax(fabs(right.value[k]), right.size[k]),
                   bound = binary[which].tolerance[k] * unit * size;
        if (size > largest || size < 0x1p20L / largest) continue; /* a part of it may underflow */
        ck_assert_msg(fabs((real)got[k] - right.value[k]) <= bound,
                      "partial %d of %s(%.17g, %.17g), %s, %s: is %.17g, should be %.17Lg: off by "
                      "%.3Lg units",
                      k, binary[which].name, a, b, dtype == AD_F32 ? "f32" : "f64", isa, got[k],
                      right.value[k], fabs((real)got[k] - right.value[k]) / unit / size);
    }
}

/* a: of all sizes in the type's range; b: a few units, small ones, and of all sizes where that is
 * no power. */
static void draw(int which, ad_dtype dtype, uint64_t *state, int i, double *a, double *b)
{
    const int ends = dtype == AD_F32 ? 40 : 300;
    *a = i % 2 ? 3 * uniform(state)
               : ldexp(1 + uniform(state), (int)(2 * ends * uniform(state)) - ends);
    *b = i % 3 == 0   ? 6 * uniform(state) - 3
         : i % 3 == 1 ? ldexp(uniform(state), -i % 30)
                      : 40 * uniform(state) - 20;
    if (!binary[which].positive && i % 4 < 2) *a = -*a;
    if (dtype == AD_F32) {
        *a = (float)*a;
        *b = (float)*b;
    }
}

static void check_binary(int which, ad_dtype dtype, const char *isa)
{
    static double a[N], b[N], got[PARTIALS][N];
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < N; i++) draw(which, dtype, &state, i, &a[i], &b[i]);
    ad_tape *tape = ad_tape_new(dtype);
    ad_var x[] = { ad_param(tape, AD_SHAPE(N), a), ad_param(tape, AD_SHAPE(N), b) }, first[2],
           by_a[2], by_b[2];
    ad_grad(ad_sum_all(binary[which].record(x[0], x[1])), 2, x, first);
    ad_grad(ad_sum_all(first[0]), 2, x, by_a);
    ad_grad(ad_sum_all(first[1]), 2, x, by_b);
    const ad_var all[PARTIALS] = { first[0], first[1], by_a[0], by_a[1], by_b[1] };
    for (int k = 0; k < PARTIALS; k++) ck_assert_int_eq(ad_get(all[k], got[k]), 0);
    for (int i = 0; i < N; i++)
        compare_partials(which, dtype, isa, a[i], b[i],
                         (double[]){ got[0][i], got[1][i], got[2][i], got[3][i], got[4][i] });
    ad_tape_free(tape);
}

START_TEST(of_binary_operations)
{
    const char *isa;
    for (int k = 0; (isa = ad_isa_available(k)) != NULL; k++) {
        setenv("COSTATE_ISA", isa, 1);
        check_binary(_i, AD_F32, isa);
        check_binary(_i, AD_F64, isa);
    }
    unsetenv("COSTATE_ISA");
}
END_TEST

static double slope_at(ad_dtype dtype, ad_var (*f)(ad_var), double x, int order)
{
    ad_tape *tape = ad_tape_new(dtype);
    ad_var v = ad_param(tape, AD_SCALAR, &x), y = f(v);
    for (int k = 0; k < order; k++) ad_grad(y, 1, &v, &y);
    const double value = ad_item(y);
    ad_tape_free(tape);
    return value;
}

/* Numbers by mpmath with 40 digits, to which a torch of 2025 says 0. */
START_TEST(published)
{
    ck_assert_double_eq_tol(slope_at(AD_F64, ad_sigmoid, 40, 1) / 4.248354255291589e-18, 1, 1e-15);
    ck_assert_double_eq_tol(slope_at(AD_F64, ad_tanh, 20, 1) / 1.6993417021166355e-17, 1, 2e-15);
    ck_assert_double_eq_tol(slope_at(AD_F64, ad_gelu, -9, 0) / -1.0157295653584566e-18, 1, 1e-13);
    ck_assert_double_eq_tol(slope_at(AD_F64, ad_softplus, 1e-9, 3) / -1.25e-10, 1, 1e-15);
    ck_assert_double_eq_tol(slope_at(AD_F64, ad_softplus, 40, 3) / -4.248354255291589e-18, 1,
                            1e-14);
    for (int dtype = 0; dtype < 2; dtype++) {
        ck_assert(slope_at(dtype ? AD_F64 : AD_F32, ad_silu, INFINITY, 1) == 1);
        ck_assert(slope_at(dtype ? AD_F64 : AD_F32, ad_gelu, INFINITY, 1) == 1);
        ck_assert(slope_at(dtype ? AD_F64 : AD_F32, ad_silu, -INFINITY, 0) == 0);
        ck_assert(slope_at(dtype ? AD_F64 : AD_F32, ad_gelu, -INFINITY, 0) == 0);
        ck_assert(slope_at(dtype ? AD_F64 : AD_F32, ad_silu, -INFINITY, 2) == 0);
        ck_assert(slope_at(dtype ? AD_F64 : AD_F32, ad_gelu, -INFINITY, 2) == 0);
    }
}
END_TEST

/* The trace of the Jacobian of tanh is the sum of its slopes 4 / (exp(x) + exp(-x))^2; by a
 * program, with the bias absorbed. */
START_TEST(trace_of_the_saturated)
{
    const float x[] = { 6, -9.1f, 15 };
    float got[3];
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var v = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, x), y = ad_tanh(v),
           trace = ad_jacobian_trace(y, v);
    ad_program *program = ad_compile(1, &v, 2, (ad_var[]){ trace, y });
    ad_workspace *workspace = ad_workspace_new(program, 1);
    ck_assert_int_eq(
        ad_run(program, workspace, 3, (const void *const[]){ x }, (void *const[]){ got, NULL }), 0);
    for (int i = 0; i < 3; i++)
        ck_assert_double_eq_tol(got[i] / (4 * (double)logistic_slope(2 * (real)x[i])), 1, 1e-6);
    ad_workspace_free(workspace);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

/* The value, the slope and its derivative, of rows of numbers with a bias. */
enum { VALUE, SLOPE, BEND, RESULTS, ROWS = 77, WIDTH = 5 };

/* Runs a program that has those of the results that `asked` has a bit for. */
static void run_asked(ad_dtype dtype, ad_var (*f)(ad_var), unsigned asked, const double *x,
                      double (*out)[ROWS * WIDTH])
{
    ad_tape *tape = ad_tape_new(dtype);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDTH), 0, NULL),
                    ad_param(tape, AD_SHAPE(WIDTH), NULL) };
    ad_var result[RESULTS] = { f(ad_add(in[0], in[1])) };
    for (int k = SLOPE; k < RESULTS; k++) ad_grad(ad_sum_all(result[k - 1]), 1, in, &result[k]);
    ad_var outputs[RESULTS];
    void *to[RESULTS];
    int n = 0;
    for (int k = 0; k < RESULTS; k++) {
        if (!(asked >> k & 1)) continue;
        to[n] = out[k];
        outputs[n++] = result[k];
    }
    ad_program *program = ad_compile(2, in, n, outputs);
    ad_workspace *workspace = ad_workspace_new(program, 1);
    ck_assert_int_eq(ad_run(program, workspace, ROWS, (const void *const[]){ x, x }, to), 0);
    ad_workspace_free(workspace);
    ad_program_free(program);
    ad_tape_free(tape);
}

/* Programs take other ways to the same numbers, depending on what they are asked for. */
START_TEST(whatever_is_asked)
{
    static ad_var (*const functions[])(ad_var) = { ad_tanh, ad_sigmoid };
    ad_var (*f)(ad_var) = functions[_i / 2];
    const ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    double x[ROWS * WIDTH], alone[RESULTS][ROWS * WIDTH] = { { 0 } };
    for (int i = 0; i < ROWS * WIDTH; i++) {
        const double number = 40 * pow(sin(i + 0.5), 3);
        if (dtype == AD_F64) x[i] = number;
        else ((float *)x)[i] = (float)number;
    }
    for (int k = 0; k < RESULTS; k++) run_asked(dtype, f, 1u << k, x, alone);
    for (unsigned asked = 1; asked < 1u << RESULTS; asked++) {
        double got[RESULTS][ROWS * WIDTH] = { { 0 } };
        run_asked(dtype, f, asked, x, got);
        for (int k = 0; k < RESULTS; k++)
            ck_assert_msg(!(asked >> k & 1) || memcmp(got[k], alone[k], sizeof *got) == 0,
                          "result %d differs where %u are asked for", k, asked);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("slopes", "slopes");
    tcase_add_loop_test(tests, over_the_whole_range, 0, CASES);
    tcase_add_loop_test(tests, of_binary_operations, 0, BINARY);
    tcase_add_test(tests, published);
    tcase_add_test(tests, trace_of_the_saturated);
    tcase_add_loop_test(tests, whatever_is_asked, 0, 4);
    return suite_run();
}
