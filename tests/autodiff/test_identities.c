/* Identities of algebra: what equals one of its operands to the bit is not computed by a program,
 * nor recorded where no caller holds its operands; what only looks so is. Checked on numbers for
 * which a wrong identity shows: zeros of both signs, infinities, NaN. */
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { N = 7 };
static const double numbers[N] = { 0.0, -0.0, 1.5, -3, INFINITY, -INFINITY, NAN };

typedef struct {
    const char *name;
    ad_var (*build)(ad_var x, ad_var c);
    double constant;
    double (*reference)(double x);
    bool equal; /* whether the result is x */
} identity;

static ad_var times(ad_var x, ad_var c) { return ad_mul(x, c); }
static ad_var timed(ad_var x, ad_var c) { return ad_mul(c, x); }
static ad_var over(ad_var x, ad_var c) { return ad_div(x, c); }
static ad_var under(ad_var x, ad_var c) { return ad_div(c, x); }
static ad_var plus(ad_var x, ad_var c) { return ad_add(x, c); }
static ad_var added(ad_var x, ad_var c) { return ad_add(c, x); }
static ad_var minus(ad_var x, ad_var c) { return ad_sub(x, c); }
static ad_var from(ad_var x, ad_var c) { return ad_sub(c, x); }
static ad_var twice_negated(ad_var x, ad_var c)
{
    (void)c;
    return ad_neg(ad_neg(x));
}

static double same(double x) { return x; }
static double inverse(double x) { return 1 / x; }
static double doubled(double x) { return 2 * x; }
static double plus_zero(double x) { return x + 0.0; }
static double minus_minus_zero(double x) { return x - -0.0; }
static double zero_minus(double x) { return 0.0 - x; }

static const identity identities[] = {
    { "x * 1", times, 1, same, true },         { "1 * x", timed, 1, same, true },
    { "x / 1", over, 1, same, true },          { "x + -0", plus, -0.0, same, true },
    { "-0 + x", added, -0.0, same, true },     { "x - 0", minus, 0.0, same, true },
    { "-(-x)", twice_negated, 0, same, true }, { "1 / x", under, 1, inverse, false },
    { "x * 2", times, 2, doubled, false },     { "x + 0", plus, 0.0, plus_zero, false },
    { "0 + x", added, 0.0, plus_zero, false }, { "x - -0", minus, -0.0, minus_minus_zero, false },
    { "0 - x", from, 0.0, zero_minus, false },
};
enum { IDENTITIES = sizeof identities / sizeof *identities };

static void check_bits(const identity *d, const char *where, const double *y)
{
    for (int i = 0; i < N; i++) {
        double want = d->reference(numbers[i]);
        bool fine = isnan(want) ? isnan(y[i]) : memcmp(&y[i], &want, sizeof want) == 0;
        ck_assert_msg(fine, "%s, %s: of %g is %g, should be %g", d->name, where, numbers[i], y[i],
                      want);
    }
}

START_TEST(of_one_shape)
{
    const identity *d = &identities[_i];
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(N), numbers);
    int32_t inner = ad_inner_begin(t);
    ad_var z = d->build(x, ad_scalar(t, d->constant));
    ad_inner_end(t, inner);
    ck_assert_msg((z.node == x.node) == d->equal, "%s", d->name);
    check_bits(d, "value", ad_value_f64(z));
    ad_var y = d->build(x, ad_scalar(t, d->constant));
    ck_assert_msg(y.node != x.node, "%s: the constant is held", d->name);
    check_bits(d, "value with a constant that is held", ad_value_f64(y));
    ad_program *p = ad_compile(1, &x, 1, &y);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    ck_assert_msg((p->ir.output[0] == 0) == d->equal, "%s: program", d->name);
    ad_workspace *w = ad_workspace_new(p, 1);
    const double *in = numbers;
    double out[N], *result = out;
    ck_assert_int_eq(ad_run(p, w, 0, (const void *const[]){ in }, (void *const[]){ result }), 0);
    check_bits(d, "program", out);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
}
END_TEST

/* An operand that is stretched is not the result. */
START_TEST(of_a_larger_shape)
{
    const identity *d = &identities[_i];
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(N), numbers);
    ad_var y = d->build(x, ad_fill(t, AD_SHAPE(2, N), d->constant));
    ad_shape want = d->build == twice_negated ? AD_SHAPE(N) : AD_SHAPE(2, N);
    ck_assert_msg(ad_same_shape(ad_shape_of(y), want), "%s", d->name);
    check_bits(d, "stretched", ad_value_f64(y));
    ad_tape_free(t);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("identities", "identities");
    tcase_add_loop_test(tests, of_one_shape, 0, IDENTITIES);
    tcase_add_loop_test(tests, of_a_larger_shape, 0, IDENTITIES);
    return suite_run();
}
