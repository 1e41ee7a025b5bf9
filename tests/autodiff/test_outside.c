/* Opaque operations whose operands are outside their domain: results that are not numbers, a note
 * that says why, and a run that goes on. */
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

/* The square roots of the operand's elements, and their sum; outside where one is negative. The
 * word that data points to is the message; "fail": an error. */
static int roots(void *data, void *state, const ad_opaque_call *call)
{
    (void)state;
    const char *word = data;
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        bool f32 = call->dtype == AD_F32;
        double x = f32 ? ((const float *)call->in[0])[i] : ((const double *)call->in[0])[i];
        double root = sqrt(fabs(x));
        sum += root;
        if (f32) ((float *)call->out[0])[i] = (float)root;
        else ((double *)call->out[0])[i] = root;
        if (x >= 0) continue;
        strcpy(call->error, word);
        return strcmp(word, "fail") ? 1 : -1;
    }
    if (!call->out[1]) return 0;
    if (call->dtype == AD_F32) *(float *)call->out[1] = (float)sum;
    else *(double *)call->out[1] = sum;
    return 0;
}
static const ad_opaque_class roots_class = { .name = "roots", .forward = roots };

/* {sum of x, roots, their sum}. */
static ad_var record(ad_tape *tape, const char *word, const double *x, ad_var out[3])
{
    ad_var in = ad_input(tape, AD_SHAPE(3), x);
    out[0] = ad_sum_all(in);
    const ad_shape shapes[] = { AD_SHAPE(3), AD_SCALAR };
    ad_opaque(tape, &roots_class, (void *)word, 1, &in, 2, shapes, out + 1);
    return in;
}

START_TEST(in_programs)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var out[3], in = record(tape, "negative", NULL, out);
    ad_program *p = ad_compile(1, &in, 3, out);
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_ptr_null(ad_workspace_outside(NULL));
    for (int k = 0; k < 4; k++) {
        const double good[] = { 1, 4, 9 }, bad[] = { 1, -4, 9 };
        double sum = 0, root[3] = { 0 }, total = 0;
        const void *const inputs[] = { k % 2 ? bad : good };
        void *const outputs[] = { &sum, root, k < 2 ? &total : NULL };
        ck_assert_int_eq(ad_run(p, w, 0, inputs, outputs), 0);
        ck_assert_ptr_null(ad_workspace_error(w));
        const char *outside = ad_workspace_outside(w);
        ck_assert_double_eq(sum, k % 2 ? 6 : 14);
        if (k % 2) {
            ck_assert_str_eq(outside, "roots: negative");
            for (int i = 0; i < 3; i++) ck_assert(isnan(root[i]));
            ck_assert(k > 1 || isnan(total));
        } else {
            ck_assert_ptr_null(outside);
            for (int i = 0; i < 3; i++) ck_assert_double_eq(root[i], i + 1);
            ck_assert(k > 1 || total == 6);
        }
    }
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

START_TEST(in_lazy_evaluations)
{
    const double bad[] = { 1, -4, 9 };
    for (int f32 = 0; f32 < 2; f32++) {
        ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
        ad_var out[3];
        record(tape, "negative", bad, out);
        ck_assert_double_eq(ad_item(out[0]), 6);
        ck_assert(isnan(ad_item(out[2])));
        double root[3];
        ck_assert_int_eq(ad_get(out[1], root), 0);
        for (int i = 0; i < 3; i++) ck_assert(isnan(root[i]));
        ck_assert_ptr_null(ad_tape_error(tape));
        ad_tape_free(tape);
    }
}
END_TEST

START_TEST(without_a_message)
{
    const double bad[] = { -1, 4, 9 };
    double root[3];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var out[3], in = record(tape, "", NULL, out);
    ad_program *p = ad_compile(1, &in, 1, out + 1);
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_int_eq(ad_run(p, w, 0, (const void *[]){ bad }, (void *[]){ root }), 0);
    ck_assert_str_eq(ad_workspace_outside(w), "roots: its operands are outside its domain");
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

START_TEST(errors_are_still_errors)
{
    const double bad[] = { -1, 4, 9 };
    double root[3];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var out[3], in = record(tape, "fail", NULL, out);
    ad_program *p = ad_compile(1, &in, 1, out + 1);
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_int_eq(ad_run(p, w, 0, (const void *[]){ bad }, (void *[]){ root }), -1);
    ck_assert_ptr_nonnull(strstr(ad_workspace_error(w), "roots: fail"));
    ck_assert_ptr_null(ad_workspace_outside(w));
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("outside", "outside");
    tcase_add_test(tests, in_programs);
    tcase_add_test(tests, in_lazy_evaluations);
    tcase_add_test(tests, without_a_message);
    tcase_add_test(tests, errors_are_still_errors);
    return suite_run();
}
