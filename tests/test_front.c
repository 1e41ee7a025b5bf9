/* The front door: data of either type, and what a user meets before the first number. */
#include <costate.h>
#include "suite.h"
#include <math.h>
#include <string.h>

static ad_dtype dtype;
static ad_tape *t;

static void fails(const char *text)
{
    const char *error = ad_tape_error(t);
    ck_assert_msg(error && strstr(error, text), "the error is \"%s\", but wanted \"%s\"", error ? error : "none", text);
    ad_tape_clear_error(t);
}

static void is(ad_var x, const double *want)
{
    double got[64];
    ck_assert_int_le(ad_size(x), 64);
    ck_assert_msg(!ad_get(x, got), "%s", ad_tape_error(x.tape));
    for (int64_t i = 0; i < ad_size(x); i++) ck_assert_msg(got[i] == want[i], "element %d is %.17g, want %.17g", (int)i, got[i], want[i]);
}

/* Data of the other type are converted, whatever the tape's. */
START_TEST(data_of_either_type)
{
    const double wide[] = { 1, -2.5, 3, 4 }, other[] = { 5, 6.25, -7, 8 };
    const float narrow[] = { 1, -2.5, 3, 4 }, narrow_other[] = { 5, 6.25, -7, 8 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        is(ad_param(t, AD_SHAPE(4), wide), wide);
        is(ad_param(t, AD_SHAPE(4), narrow), wide);
        is(ad_input(t, AD_SHAPE(2, 2), narrow), wide);
        is(ad_input(t, AD_SHAPE(2, 2), wide), wide);
        is(ad_constant(t, AD_SHAPE(4), narrow), wide);
        is(ad_constant(t, AD_SHAPE(4), wide), wide);
        is(ad_param(t, AD_SHAPE(4), (float[]){ 1, -2.5, 3, 4 }), wide);
        ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 2, narrow);
        is(x, wide);
        is(ad_input_rows(t, AD_SHAPE(AD_ROWS, 2), 2, wide), wide);
        ck_assert(!ad_set(x, 2, narrow_other));
        is(x, other);
        ck_assert(!ad_set(x, 2, wide));
        is(x, wide);
        ck_assert_int_eq(ad_set(x, 2, (double *)NULL), -1);
        fails("ad_set: no data");
        is(ad_param_data(t, AD_SHAPE(4), AD_F32, narrow), wide);
        ad_value(ad_param(t, AD_SHAPE(4), NULL));
        fails("an input has no value");
        ad_tape_free(t);
    }
}
END_TEST

/* What lies outside float becomes infinite there; a float is itself in double. */
START_TEST(conversion)
{
    const double wide[] = { 1e300, 0.1 };
    const float narrow[] = { 0.1f, 1e-45f };
    t = ad_tape_new(AD_F32);
    is(ad_param(t, AD_SHAPE(2), wide), (double[]){ INFINITY, 0.1f });
    ad_tape_free(t);
    t = ad_tape_new(AD_F64);
    is(ad_param(t, AD_SHAPE(2), narrow), (double[]){ 0.1f, 1e-45f });
    ad_tape_free(t);
}
END_TEST

START_TEST(runs_of_a_type)
{
    const float narrow[] = { 3 };
    const double wide[] = { 3 };
    for (dtype = AD_F32; dtype <= AD_F64; dtype++) {
        t = ad_tape_new(dtype);
        ad_var x = ad_param(t, AD_SHAPE(1), NULL), y = ad_square(x);
        ad_program *p = ad_compile(1, &x, 1, &y);
        ad_workspace *w = ad_workspace_new(p, 1);
        float small = 0;
        double large = 0;
        int status_f32 = ad_run_f32(p, w, 0, (const float *[]){ narrow }, (float *[]){ &small });
        const char *error = ad_workspace_error(w);
        if (dtype == AD_F64) ck_assert_str_eq(error, "ad_run: the program computes in double (AD_F64), the arrays are float");
        else ck_assert_ptr_null(error);
        int status_f64 = ad_run_f64(p, w, 0, (const double *[]){ wide }, (double *[]){ &large });
        error = ad_workspace_error(w);
        if (dtype == AD_F32) ck_assert_str_eq(error, "ad_run: the program computes in float (AD_F32), the arrays are double");
        else ck_assert_ptr_null(error);
        ck_assert_int_eq(status_f32, dtype == AD_F32 ? 0 : -1);
        ck_assert_int_eq(status_f64, dtype == AD_F64 ? 0 : -1);
        ck_assert(dtype == AD_F32 ? small == 9 && large == 0 : small == 0 && large == 9);
        ad_workspace_free(w);
        ad_program_free(p);
        ad_tape_free(t);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("front");
    TCase *c = tcase_create("front");
    tcase_set_timeout(c, 60);
    const TTest *tests[] = { data_of_either_type, conversion, runs_of_a_type };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) tcase_add_test(c, tests[i]);
    suite_add_tcase(s, c);
    return suite_run(s);
}
