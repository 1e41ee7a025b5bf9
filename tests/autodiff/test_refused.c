/* Every function of autodiff.h and extension.h called in ways it must refuse: without a tape, with
 * NULL for its lists and numbers of elements that make no sense, with variables of another tape,
 * stale ones, results of failed operations, and {0}. Nothing crashes, and wherever one of the
 * arguments is on a tape, that tape has an error. structure.sh looks that no function is left out.
 */
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

static ad_tape *another; /* whose error is cleared too */

/* Calls what must set the error of the tape. */
#define REFUSES(tape, ...)                                                                         \
    do {                                                                                           \
        ad_tape_clear_error(tape);                                                                 \
        ad_tape_clear_error(another);                                                              \
        __VA_ARGS__;                                                                               \
        ck_assert_msg(ad_tape_error(tape) != NULL, "no error: %s", #__VA_ARGS__);                  \
        ad_tape_clear_error(tape);                                                                 \
    } while (0)
/* Calls what has no tape that could say anything. */
#define HARMLESS(...)                                                                              \
    do {                                                                                           \
        __VA_ARGS__;                                                                               \
    } while (0)
#define NO_RESULT(...) ck_assert(!ad_valid(__VA_ARGS__))

static const ad_var nothing;
static const ad_shape square = { 2, { 2, 2 } };
static const double four[] = { 1, 2, 3, 4 };

/* ---- without a tape ---- */

START_TEST(test_no_tape)
{
    HARMLESS(ad_tape_free(NULL));
    HARMLESS(ad_tape_dtype(NULL));
    ck_assert_ptr_nonnull(ad_tape_error(NULL));
    HARMLESS(ad_tape_clear_error(NULL));
    HARMLESS(ad_tape_mark(NULL));
    HARMLESS(ad_tape_rewind(NULL, 0));
    HARMLESS(ad_tape_set_limit(NULL, 5));
    HARMLESS(ad_tape_set_memory(NULL, 5));
    HARMLESS(ad_tape_on_error(NULL, NULL, NULL));
    ck_assert_int_eq(ad_tape_rows(NULL), -1);
    ck_assert_int_eq(ad_tape_set_rows(NULL, 3), -1);
    HARMLESS(ad_tape_set_traced(NULL, "advice"));
    HARMLESS(ad_fail(NULL, "%s", "text"));
    NO_RESULT(ad_none(NULL));
    NO_RESULT(ad_param(NULL, square, four));
    NO_RESULT(ad_input(NULL, square, four));
    NO_RESULT(ad_input_rows(NULL, AD_SHAPE(AD_ROWS, 2), 2, four));
    NO_RESULT(ad_constant(NULL, square, four));
    NO_RESULT(ad_param_data(NULL, square, AD_F64, four));
    NO_RESULT(ad_input_data(NULL, square, AD_F64, four));
    NO_RESULT(ad_input_rows_data(NULL, AD_SHAPE(AD_ROWS, 2), 2, AD_F64, four));
    NO_RESULT(ad_constant_data(NULL, square, AD_F64, four));
    NO_RESULT(ad_fill(NULL, square, 1));
    NO_RESULT(ad_scalar(NULL, 1));
    NO_RESULT(ad_eye(NULL, 2, 2, 0));
    NO_RESULT(ad_row_count(NULL));
    ck_assert_int_eq(ad_set(nothing, 1, four), -1);
    ck_assert_int_eq(ad_set_data(nothing, 1, AD_F64, four), -1);
    ck_assert_int_eq(ad_shape_of(nothing).rank, -1);
    ck_assert_int_eq(ad_size(nothing), -1);
    ck_assert_ptr_null(ad_value(nothing));
    ck_assert_ptr_null(ad_value_f32(nothing));
    ck_assert_ptr_null(ad_value_f64(nothing));
    ck_assert(isnan(ad_item(nothing)));
    double out[4];
    ck_assert_int_eq(ad_get(nothing, out), -1);
    ck_assert_ptr_null(ad_constant_elements(nothing));
    ck_assert_int_eq(ad_constant_size(nothing), 0);
    ck_assert_ptr_null(ad_cache_find(NULL, "key", 3));
    HARMLESS(ad_cache_add(NULL, "key", 3, malloc(1), free));
    HARMLESS(ad_program_free(NULL));
    HARMLESS(ad_workspace_free(NULL));
    ck_assert_ptr_null(ad_program_describe(NULL));
    ck_assert_ptr_null(ad_program_retain(NULL));
    ck_assert_ptr_null(ad_workspace_new(NULL, 1));
    ck_assert_ptr_nonnull(ad_workspace_error(NULL));
    ck_assert_int_eq(ad_program_bytes_per_row(NULL), 0);
    ck_assert_int_eq(ad_program_fill_rows(NULL), 0);
    ck_assert_int_eq((int)ad_workspace_bytes(NULL), 0);
    ck_assert_int_eq(ad_program_bytes(NULL, 1, 1, NULL), -1);
    ck_assert_int_eq(ad_workspace_set_limit(NULL, 1), -1);
    ck_assert_ptr_null(ad_workspace_outside(NULL));
    ck_assert_ptr_null(ad_workspace_warning(NULL));
    ck_assert(!ad_program_discretises(NULL));
    ck_assert_int_eq(ad_run(NULL, NULL, 1, NULL, NULL), -1);
    ck_assert_int_eq(ad_run_f32(NULL, NULL, 1, NULL, NULL), -1);
    ck_assert_int_eq(ad_run_f64(NULL, NULL, 1, NULL, NULL), -1);
    ck_assert_int_eq(ad_run_with(NULL, NULL, NULL), -1);
    ad_run_deliver(NULL);
    ck_assert_int_eq(ad_evaluate_f32(1, NULL, NULL, 1, 1, NULL, NULL), -1);
    ck_assert_int_eq(ad_evaluate_f64(1, NULL, NULL, 1, 1, NULL, NULL), -1);
}
END_TEST

/* Shapes that are none: whoever looks at them finds no more axes than there are. */
START_TEST(test_shapes)
{
    ad_shape huge = { 1000, { AD_ROWS, 2, 3 } }, negative = { -5, { 2 } }, both;
    char text[64];
    ad_shape none[] = { huge, negative };
    for (int i = 0; i < 2; i++) {
        HARMLESS(ad_has_rows(none[i]));
        HARMLESS(ad_count(none[i], 3));
        HARMLESS(ad_row_size(none[i]));
        HARMLESS(ad_same_shape(none[i], none[i]));
        HARMLESS(ad_same_shape(none[i], square));
        HARMLESS(ad_format_shape(none[i], text, sizeof text));
        ck_assert(!ad_broadcast_shapes(none[i], square, &both));
        ck_assert(!ad_broadcast_shapes(square, none[i], &both));
        ad_tape *t = ad_tape_new(AD_F64);
        ad_var x = ad_param(t, square, four);
        REFUSES(t, NO_RESULT(ad_param(t, none[i], NULL)));
        REFUSES(t, NO_RESULT(ad_input(t, none[i], NULL)));
        REFUSES(t, NO_RESULT(ad_input_rows(t, none[i], 1, NULL)));
        REFUSES(t, NO_RESULT(ad_constant(t, none[i], four)));
        REFUSES(t, NO_RESULT(ad_fill(t, none[i], 1)));
        REFUSES(t, NO_RESULT(ad_reshape(x, none[i])));
        REFUSES(t, NO_RESULT(ad_broadcast(x, none[i])));
        ad_tape_free(t);
    }
    ck_assert(ad_broadcast_shapes(square, square, NULL));
    HARMLESS(ad_format_shape(square, NULL, 0));
    HARMLESS(ad_format_shape(square, NULL, 10));
}
END_TEST

/* ---- lists that are not there, sizes that make no sense ---- */

static int fails(void *data, void *state, const ad_opaque_call *call)
{
    (void)data, (void)state, (void)call;
    return -1;
}
static const ad_opaque_class opaque = { .name = "opaque", .forward = fails };

START_TEST(test_no_lists)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_param(t, square, four), y = ad_sum_all(ad_square(x)), out[4];
    double number;
    REFUSES(t, ad_tape_rewind(t, -1));
    REFUSES(t, ad_tape_rewind(t, 1000));
    REFUSES(t, ad_tape_set_rows(t, 0));
    HARMLESS(ad_tape_set_traced(t, NULL));
    REFUSES(t, ad_fail(t, NULL));
    REFUSES(t, NO_RESULT(ad_constant(t, square, NULL)));
    REFUSES(t, NO_RESULT(ad_eye(t, 0, 2, 0)));
    REFUSES(t, NO_RESULT(ad_eye(t, 2, -2, 0)));
    REFUSES(t, ck_assert_int_eq(ad_set(x, 1, NULL), -1));
    REFUSES(t, ck_assert_int_eq(ad_get(x, NULL), -1));
    HARMLESS(ad_print(NULL, "x", x));
    FILE *sink = fopen("/dev/null", "w");
    HARMLESS(ad_print(sink, NULL, x));
    HARMLESS(ad_print(sink, NULL, nothing));
    fclose(sink);
    REFUSES(t,
            ck_assert_int_eq(ad_scan(&(ad_recurrence){ .ncarry = 1, .carry = &x }, out, NULL), -1));
    HARMLESS(ck_assert_int_eq(ad_scan(NULL, out, NULL), -1));
    REFUSES(t, NO_RESULT(ad_sum(x, 1, NULL, false)));
    REFUSES(t, NO_RESULT(ad_sum(x, -1, NULL, false)));
    REFUSES(t, NO_RESULT(ad_mean(x, 1, NULL, false)));
    REFUSES(t, NO_RESULT(ad_reduce_max(x, 1, NULL, false)));
    REFUSES(t, NO_RESULT(ad_logsumexp(x, 2, NULL, false)));
    REFUSES(t, NO_RESULT(ad_sum(x, 1, (int[]){ 2 }, false)));
    REFUSES(t, NO_RESULT(ad_sum_axis(x, -3, false)));
    REFUSES(t, NO_RESULT(ad_argmax(x, 2, false)));
    REFUSES(t, NO_RESULT(ad_argmin(x, -3, false)));
    REFUSES(t, NO_RESULT(ad_transpose(x, NULL)));
    REFUSES(t, NO_RESULT(ad_transpose(x, (int[]){ 0, 9 })));
    REFUSES(t, NO_RESULT(ad_slice(x, 5, 0, 1)));
    REFUSES(t, NO_RESULT(ad_slice(x, 0, -1, 1)));
    REFUSES(t, NO_RESULT(ad_slice(x, 0, 0, INT64_MAX)));
    REFUSES(t, ad_split(x, 0, 2, NULL, NULL));
    REFUSES(t, ad_split(x, 0, -2, NULL, out));
    REFUSES(t, ad_split(x, 0, 2, (int64_t[]){ INT64_MAX, INT64_MAX }, out));
    HARMLESS(NO_RESULT(ad_concatenate(2, NULL, 0)));
    HARMLESS(NO_RESULT(ad_concatenate(-1, NULL, 0)));
    REFUSES(t, NO_RESULT(ad_concatenate(2, (ad_var[]){ x, x }, 7)));
    HARMLESS(NO_RESULT(ad_stack(2, NULL, 0)));
    HARMLESS(NO_RESULT(ad_stack(0, NULL, 0)));
    REFUSES(t, NO_RESULT(ad_stack(2, (ad_var[]){ x, x }, 7)));
    REFUSES(t, NO_RESULT(ad_pad(x, 0, INT64_MAX, INT64_MAX)));
    REFUSES(t, NO_RESULT(ad_pad(x, 4, 0, 1)));
    REFUSES(t, NO_RESULT(ad_unfold(x, 0, NULL)));
    REFUSES(t, NO_RESULT(ad_fold(x, 0, 2, NULL)));
    REFUSES(t, NO_RESULT(ad_flip(x, 2)));
    REFUSES(t, NO_RESULT(ad_gather(x, 0, 2, NULL)));
    REFUSES(t, NO_RESULT(ad_gather(x, 0, -2, (int64_t[]){ 0 })));
    REFUSES(t, NO_RESULT(ad_gather(x, 0, 1, (int64_t[]){ 2 })));
    REFUSES(t, NO_RESULT(ad_scatter_add(x, 0, 2, NULL)));
    REFUSES(t, NO_RESULT(ad_scatter_add(x, 0, -2, (int64_t[]){ 0, 1 })));
    REFUSES(t, NO_RESULT(ad_cumsum(x, 3, false)));
    REFUSES(t, NO_RESULT(ad_contract(NULL, 1, &x)));
    HARMLESS(NO_RESULT(ad_contract("i->i", 1, NULL)));
    HARMLESS(NO_RESULT(ad_contract("i->i", -1, &x)));
    REFUSES(t, NO_RESULT(ad_contract("\xe4\xf6->", 1, &x)));
    REFUSES(t, ad_vjp(1, &y, NULL, 1, &x, out));
    REFUSES(t, ad_vjp(1, NULL, &y, 1, &x, out));
    REFUSES(t, ad_vjp(1, &y, &y, 1, NULL, out));
    REFUSES(t, ad_vjp(1, &y, &y, 1, &x, NULL));
    REFUSES(t, ad_vjp(1, &y, &y, -1, &x, out));
    REFUSES(t, ad_vjp(-1, &y, &y, 1, &x, out));
    REFUSES(t, ad_vjp_cut(1, &y, NULL, 1, &x, out));
    REFUSES(t, ad_vjp_cut(1, &y, &y, 1, &x, NULL));
    REFUSES(t, ad_jvp_cut(1, &x, NULL, 1, &y, out));
    REFUSES(t, ad_jvp_cut(1, &x, &x, 1, &y, NULL));
    REFUSES(t, ad_jvp(1, &x, NULL, 1, &y, out));
    REFUSES(t, ad_jvp(1, NULL, &x, 1, &y, out));
    REFUSES(t, ad_jvp(1, &x, &x, 1, NULL, out));
    REFUSES(t, ad_jvp(1, &x, &x, 1, &y, NULL));
    REFUSES(t, ad_jvp(-1, &x, &x, 1, &y, out));
    REFUSES(t, ad_jvp(1, &x, &x, -1, &y, out));
    REFUSES(t, ad_grad(y, 1, NULL, out));
    REFUSES(t, ad_grad(y, 1, &x, NULL));
    REFUSES(t, ad_grad(y, -1, &x, out));
    REFUSES(t, ck_assert_int_eq(ad_check_gradient(y, 1, NULL, 0, NULL, NULL), -1));
    REFUSES(t, ck_assert_int_eq(ad_check_gradient(y, -1, &x, 0, NULL, NULL), -1));
    REFUSES(t, ck_assert_ptr_null(ad_compile(1, &x, 1, NULL)));
    REFUSES(t, ck_assert_ptr_null(ad_compile(1, NULL, 1, &y)));
    REFUSES(t, ck_assert_ptr_null(ad_compile(-1, &x, 1, &y)));
    REFUSES(t, ck_assert_ptr_null(ad_compile(1, &x, -1, &y)));
    HARMLESS(ck_assert_ptr_null(ad_compile(1, NULL, 1, NULL)));
    const double *data[] = { four };
    double *to[] = { NULL };
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, &x, data, 1, 1, NULL, to), -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, NULL, data, 1, 1, &y, to), -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, &x, NULL, 1, 1, &y, to), -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, &x, data, 1, 1, &y, NULL), -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(-1, &x, data, 1, 1, &y, to), -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, &x, data, 1, 0, &y, to), -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f32(1, &x, NULL, 1, 1, &y, NULL), -1));
    REFUSES(t, NO_RESULT(ad_opaque(t, NULL, NULL, 1, &x, 1, &square, out)));
    REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, 1, NULL, 1, &square, out)));
    REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, 1, &x, 1, NULL, out)));
    REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, 1, &x, 1, &square, NULL)));
    REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, -1, &x, 1, &square, out)));
    REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, 1, &x, -1, &square, out)));
    HARMLESS(NO_RESULT(ad_opaque(NULL, &opaque, NULL, 0, NULL, 1, &square, out)));
    REFUSES(t, ad_inline(1, &x, 1, NULL, t, &x, out));
    REFUSES(t, ad_inline(1, NULL, 1, &y, t, &x, out));
    REFUSES(t, ad_inline(1, &x, 1, &y, t, NULL, out));
    REFUSES(t, ad_inline(1, &x, 1, &y, t, &x, NULL));
    REFUSES(t, ad_inline(-1, &x, 1, &y, t, &x, out));
    HARMLESS(ad_inline(1, &x, 1, &y, NULL, &x, out));
    HARMLESS(ck_assert_int_eq(ad_frontier(1, NULL, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_frontier(1, &y, 4, NULL), -1));
    HARMLESS(ck_assert_int_eq(ad_residuals(1, NULL, 0, NULL, 1, NULL, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, NULL, 0, NULL, 1, &y, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, &y, 1, NULL, 1, &y, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, &y, 1, &x, 1, NULL, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, &y, 1, &x, 1, &y, 4, NULL), -1));
    size_t length;
    REFUSES(t, ck_assert_ptr_null(ad_function_key(1, NULL, 1, &y, &length)));
    REFUSES(t, ck_assert_ptr_null(ad_function_key(1, &x, 1, NULL, &length)));
    REFUSES(t, ck_assert_ptr_null(ad_function_key(1, &x, 1, &y, NULL)));
    ck_assert_ptr_null(ad_cache_find(t, NULL, 3));
    REFUSES(t, ad_cache_add(t, NULL, 3, malloc(1), free));
    HARMLESS(ad_cache_add(t, "key", 3, t, NULL));
    HARMLESS(ad_compare_gradients(AD_F64, 0, NULL, NULL, 1, 0));
    HARMLESS(ad_compare_gradients(AD_F64, 2, NULL, NULL, 1, 0));
    HARMLESS(ad_array_norm(AD_F64, 2, NULL));
    HARMLESS(ad_gradient_rounding(AD_F64, 2, NULL, 1));
    HARMLESS(ad_gradients_agree(NULL, 0));
    number = ad_item(y); /* all works as before */
    ck_assert_double_eq(number, 30);
    ad_tape_free(t);
}
END_TEST

/* ---- programs ---- */

START_TEST(test_runs)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_param(t, square, NULL), y = ad_square(x);
    ad_program *p = ad_compile(1, &x, 1, &y), *other = ad_compile(1, &x, 1, &x);
    ad_workspace *w = ad_workspace_new(p, 1), *elsewhere = ad_workspace_new(other, 1);
    double out[4];
    const void *in[] = { four }, *no_data[] = { NULL };
    void *to[] = { out };
    ck_assert_int_eq(ad_run(p, NULL, 1, in, to), -1);
    ck_assert_int_eq(ad_run(NULL, w, 1, in, to), -1);
    ck_assert_ptr_nonnull(ad_workspace_error(w));
    ck_assert_int_eq(ad_run(p, elsewhere, 1, in, to), -1);
    ck_assert_ptr_nonnull(ad_workspace_error(elsewhere));
    ck_assert_int_eq(ad_run(p, w, 1, NULL, to), -1);
    ck_assert_ptr_nonnull(ad_workspace_error(w));
    ck_assert_int_eq(ad_run(p, w, 1, in, NULL), -1);
    ck_assert_ptr_nonnull(ad_workspace_error(w));
    ck_assert_int_eq(ad_run(p, w, 1, no_data, to), -1);
    ck_assert_ptr_nonnull(ad_workspace_error(w));
    ck_assert_int_eq(ad_run_with(p, w, NULL), -1);
    ck_assert_ptr_nonnull(ad_workspace_error(w));
    ck_assert_int_eq(ad_run_f32(p, w, 1, NULL, NULL), -1);
    ck_assert_int_eq(ad_run_f64(p, w, 1, NULL, NULL), -1);
    ck_assert_int_eq(ad_run(p, w, 1, in, to), 0);
    ck_assert_double_eq(out[3], 16);
    ad_workspace_free(w);
    ad_workspace_free(elsewhere);
    ad_program_free(p);
    ad_program_free(other);
    ad_tape_free(t);
}
END_TEST

/* ---- variables from elsewhere ---- */

enum { FOREIGN, ZERO, STALE, INVALID, BAD };

/* _i: which kind. */
START_TEST(test_variables_from_elsewhere)
{
    ad_tape *t = ad_tape_new(AD_F64), *u = another = ad_tape_new(AD_F64);
    ad_var x = ad_param(t, square, four), loss = ad_sum_all(ad_square(x)),
           v = ad_param(t, AD_SHAPE(2), four), one = ad_scalar(t, 1);
    int32_t mark = ad_tape_mark(t);
    ad_var gone = ad_sin(x), foreign = ad_param(u, square, four);
    ad_tape_rewind(t, mark);
    ad_var kinds[BAD] = {
        [FOREIGN] = foreign, [ZERO] = nothing, [STALE] = gone, [INVALID] = ad_none(t)
    };
    ad_var bad = kinds[_i], out[4];
    double numbers[4];

    if (_i == STALE || _i == INVALID) { /* alone */
#define AD_UNARY(name, ...) REFUSES(t, NO_RESULT(ad_##name(bad)));
#define AD_BINARY(name, ...)
#define AD_TERNARY(name, ...)
#define AD_CODED(...)
#include "autodiff/ops.def"
        REFUSES(t, ck_assert_ptr_null(ad_value(bad)));
        REFUSES(t, ck_assert_ptr_null(ad_value_f32(bad)));
        REFUSES(t, ck_assert_ptr_null(ad_value_f64(bad)));
        REFUSES(t, ck_assert(isnan(ad_item(bad))));
        REFUSES(t, ck_assert_int_eq(ad_get(bad, numbers), -1));
        REFUSES(t, ck_assert_int_eq(ad_set(bad, 1, four), -1));
        REFUSES(t, NO_RESULT(ad_scale(bad, 2)));
        REFUSES(t, NO_RESULT(ad_shift(bad, 2)));
        REFUSES(t, NO_RESULT(ad_pow_scalar(bad, 2)));
        REFUSES(t, NO_RESULT(ad_zeros_like(bad)));
        REFUSES(t, NO_RESULT(ad_ones_like(bad)));
        REFUSES(t, NO_RESULT(ad_sum(bad, 0, NULL, false)));
        REFUSES(t, NO_RESULT(ad_mean(bad, 0, NULL, false)));
        REFUSES(t, NO_RESULT(ad_reduce_max(bad, 0, NULL, false)));
        REFUSES(t, NO_RESULT(ad_logsumexp(bad, 0, NULL, false)));
        REFUSES(t, NO_RESULT(ad_argmax(bad, 0, false)));
        REFUSES(t, NO_RESULT(ad_argmin(bad, 0, false)));
        REFUSES(t, NO_RESULT(ad_sum_all(bad)));
        REFUSES(t, NO_RESULT(ad_mean_all(bad)));
        REFUSES(t, NO_RESULT(ad_sum_axis(bad, 0, false)));
        REFUSES(t, NO_RESULT(ad_reshape(bad, square)));
        REFUSES(t, NO_RESULT(ad_transpose(bad, (int[]){ 1, 0 })));
        REFUSES(t, NO_RESULT(ad_broadcast(bad, square)));
        REFUSES(t, NO_RESULT(ad_slice(bad, 0, 0, 1)));
        REFUSES(t, ad_split(bad, 0, 2, NULL, out));
        REFUSES(t, NO_RESULT(ad_unfold(bad, 0, &(ad_window){ .size = 1 })));
        REFUSES(t, NO_RESULT(ad_fold(bad, 0, 1, &(ad_window){ .size = 1 })));
        REFUSES(t, NO_RESULT(ad_pad(bad, 0, 1, 1)));
        REFUSES(t, NO_RESULT(ad_flip(bad, 0)));
        REFUSES(t, NO_RESULT(ad_gather(bad, 0, 1, (int64_t[]){ 0 })));
        REFUSES(t, NO_RESULT(ad_scatter_add(bad, 0, 2, (int64_t[]){ 0, 1 })));
        REFUSES(t, NO_RESULT(ad_cumsum(bad, 0, false)));
        REFUSES(t, ck_assert_int_eq(ad_frontier(1, &bad, 4, out), -1));
    } else if (_i == ZERO) { /* there is no tape */
#define AD_UNARY(name, ...) NO_RESULT(ad_##name(bad));
#define AD_BINARY(name, ...) NO_RESULT(ad_##name(bad, bad));
#define AD_TERNARY(name, ...) NO_RESULT(ad_##name(bad, bad, bad));
#define AD_CODED(...)
#include "autodiff/ops.def"
        NO_RESULT(ad_scale(bad, 2));
        NO_RESULT(ad_shift(bad, 2));
        NO_RESULT(ad_pow_scalar(bad, 3));
        NO_RESULT(ad_zeros_like(bad));
        NO_RESULT(ad_ones_like(bad));
        NO_RESULT(ad_sum_all(bad));
        NO_RESULT(ad_mean_all(bad));
        NO_RESULT(ad_logsumexp(bad, 0, NULL, false));
        NO_RESULT(ad_argmax(bad, 0, false));
        NO_RESULT(ad_reshape(bad, square));
        NO_RESULT(ad_transpose(bad, NULL));
        NO_RESULT(ad_broadcast(bad, square));
        NO_RESULT(ad_slice(bad, 0, 0, 1));
        HARMLESS(ad_split(bad, 0, 2, NULL, out));
        NO_RESULT(ad_pad(bad, 0, 1, 1));
        NO_RESULT(ad_flip(bad, 0));
        NO_RESULT(ad_gather(bad, 0, 1, NULL));
        NO_RESULT(ad_scatter_add(bad, 0, 1, NULL));
        NO_RESULT(ad_cumsum(bad, 0, false));
        HARMLESS(ad_grad(bad, 1, &bad, out));
        HARMLESS(ad_hvp(bad, bad, bad));
        HARMLESS(ad_vjp(1, &bad, &bad, 1, &bad, out));
        HARMLESS(ad_jvp(1, &bad, &bad, 1, &bad, out));
        HARMLESS(ad_compile(1, &bad, 1, &bad));
    }
    /* Beside a good one, in every place. */
#define AD_UNARY(name, ...)
#define AD_BINARY(name, ...)                                                                       \
    REFUSES(t, NO_RESULT(ad_##name(x, bad)));                                                      \
    REFUSES(t, NO_RESULT(ad_##name(bad, x)));
#define AD_TERNARY(name, ...)                                                                      \
    REFUSES(t, NO_RESULT(ad_##name(bad, x, x)));                                                   \
    REFUSES(t, NO_RESULT(ad_##name(x, bad, x)));                                                   \
    REFUSES(t, NO_RESULT(ad_##name(x, x, bad)));
#define AD_CODED(...)
#include "autodiff/ops.def"
    ad_var pairs[2][2] = { { x, bad }, { bad, x } };
    for (int k = 0; k < 2; k++) {
        const ad_var *p = pairs[k];
        REFUSES(t, NO_RESULT(ad_concatenate(2, p, 0)));
        REFUSES(t, NO_RESULT(ad_stack(2, p, 0)));
        REFUSES(t, NO_RESULT(ad_contract("ij,jk->ik", 2, p)));
        REFUSES(t, NO_RESULT(ad_matmul(p[0], p[1])));
        REFUSES(t, NO_RESULT(ad_dot(p[0], p[1])));
        REFUSES(t, NO_RESULT(ad_outer(p[0], p[1])));
        REFUSES(t, NO_RESULT(ad_take(p[0], p[1])));
        REFUSES(t, NO_RESULT(ad_locate(p[0], p[1])));
        REFUSES(t, NO_RESULT(ad_jacobian(p[0], p[1])));
        REFUSES(t, NO_RESULT(ad_jacobian_trace(p[0], p[1])));
        REFUSES(t, ck_assert_ptr_null(ad_compile(2, p, 1, &loss)));
        REFUSES(t, ck_assert_ptr_null(ad_compile(1, &x, 2, p)));
        REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, 2, p, 1, &square, out)));
        ck_assert(!ad_depends(p[0], p[1]));
        REFUSES(t, ck_assert_int_eq(ad_frontier(2, p, 4, out), -1));
    }
    ck_assert(!ad_looked_at(bad));
    ck_assert_int_eq(ad_rows_of(2, (ad_var[]){ x, bad }), AD_ROWS_APART);
    REFUSES(t, NO_RESULT(ad_take(v, bad)));
    REFUSES(t, ad_grad(loss, 1, &bad, out); NO_RESULT(out[0]));
    REFUSES(t, ad_grad(bad, 1, &x, out); NO_RESULT(out[0]));
    REFUSES(t, ad_grad(loss, 2, (ad_var[]){ x, bad }, out); NO_RESULT(out[0]); NO_RESULT(out[1]));
    REFUSES(t, ad_vjp(1, &bad, &one, 1, &x, out); NO_RESULT(out[0]));
    REFUSES(t, ad_vjp(1, &loss, &one, 1, &bad, out); NO_RESULT(out[0]));
    REFUSES(t, ad_vjp(2, (ad_var[]){ loss, bad }, (ad_var[]){ one, one }, 1, &x, out);
            NO_RESULT(out[0]));
    REFUSES(t, ad_vjp_cut(1, &loss, &one, 1, &bad, out); NO_RESULT(out[0]));
    if (_i != INVALID)
        REFUSES(t, ad_vjp(1, &loss, &bad, 1, &x, out);
                NO_RESULT(out[0])); /* which is an absent cotangent */
    REFUSES(t, ad_jvp_cut(1, &bad, &x, 1, &loss, out); NO_RESULT(out[0]));
    REFUSES(t, ad_jvp(1, &bad, &x, 1, &loss, out); NO_RESULT(out[0]));
    REFUSES(t, ad_jvp(1, &x, &bad, 1, &loss, out); NO_RESULT(out[0]));
    REFUSES(t, ad_jvp(1, &x, &x, 1, &bad, out); NO_RESULT(out[0]));
    REFUSES(t, NO_RESULT(ad_hvp(bad, x, x)));
    REFUSES(t, NO_RESULT(ad_hvp(loss, bad, x)));
    REFUSES(t, NO_RESULT(ad_hvp(loss, x, bad)));
    REFUSES(t, ck_assert_int_eq(ad_check_gradient(bad, 1, &x, 0, NULL, NULL), -1));
    REFUSES(t, ck_assert_int_eq(ad_check_gradient(loss, 1, &bad, 0, NULL, NULL), -1));
    REFUSES(t, ck_assert_ptr_null(ad_compile(1, &bad, 1, &loss)));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, &bad, (const double *[]){ four }, 1, 1, &loss,
                                                (double *[]){ NULL }),
                                -1));
    REFUSES(t, ck_assert_int_eq(ad_evaluate_f64(1, &x, (const double *[]){ four }, 1, 1, &bad,
                                                (double *[]){ NULL }),
                                -1));
    REFUSES(t, ck_assert_ptr_null(ad_compile(1, &x, 1, &bad)));
    REFUSES(t, NO_RESULT(ad_opaque(t, &opaque, NULL, 1, &bad, 1, &square, out)));
    REFUSES(t, ad_inline(1, &x, 1, &loss, t, &bad, out); NO_RESULT(out[0]));
    REFUSES(t, ad_inline(1, &bad, 1, &loss, t, &x, out); NO_RESULT(out[0]));
    REFUSES(t, ad_inline(1, &x, 1, &bad, t, &x, out); NO_RESULT(out[0]));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, &bad, 0, NULL, 1, &loss, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, &loss, 1, &bad, 1, &loss, 4, out), -1));
    REFUSES(t, ck_assert_int_eq(ad_residuals(1, &loss, 0, NULL, 1, &bad, 4, out), -1));
    size_t length;
    REFUSES(t, ck_assert_ptr_null(ad_function_key(1, &bad, 1, &loss, &length)));
    REFUSES(t, ck_assert_ptr_null(ad_function_key(1, &x, 1, &bad, &length)));
    if (_i == STALE || _i == ZERO || _i == INVALID) ck_assert_ptr_null(ad_constant_elements(bad));
    ck_assert_msg(_i == FOREIGN || !ad_tape_error(u), "%s", ad_tape_error(u));
    ck_assert_double_eq(ad_item(loss), 30);
    ad_tape_free(t);
    ad_tape_free(u);
    another = NULL; /* tests may share a process (CK_FORK=no) */
}
END_TEST

/* Results that would be written over what is still read. */
START_TEST(test_results_over_operands)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x[2] = { ad_param(t, square, four), ad_param(t, square, four) };
    ad_var y[2] = { ad_mul(x[0], x[1]), ad_square(x[1]) }, loss = ad_sum_all(y[0]);
    REFUSES(t, ad_grad(loss, 2, x, x));
    REFUSES(t, ad_grad(loss, 1, x + 1, x + 1));
    REFUSES(t, ad_vjp(2, y, x, 2, x, y));
    REFUSES(t, ad_vjp(2, y, y, 2, x, x));
    REFUSES(t, ad_vjp_cut(2, y, x, 2, x, y + 1));
    REFUSES(t, ad_jvp(2, x, x, 2, y, y));
    REFUSES(t, ad_jvp_cut(2, x, y, 2, y, x));
    REFUSES(t, ad_inline(2, x, 2, y, t, x, y));
    ad_var apart[2];
    ad_jvp(2, x, x, 2, y, apart);
    ck_assert_msg(!ad_tape_error(t), "%s", ad_tape_error(t));
    ad_tape_free(t);
}
END_TEST

static void never(void *data, int thread, int64_t k)
{
    ck_abort_msg("part %lld on thread %d, of nothing", (long long)k, thread + (data != NULL));
}

START_TEST(test_no_generator)
{
    ad_rng_fill(NULL, 1, &(uint64_t){ 1 });
    ad_rng_fill(&(ad_rng){ 1, 0 }, 1, NULL);
    ck_assert(ad_rng_next(NULL) == 0 && ad_rng_below(NULL, 7) == 0 && ad_rng_split(NULL).key == 0);
    ck_assert(isnan(ad_rng_uniform(NULL)) && isnan(ad_rng_normal(NULL)));
    ck_assert_int_eq(ad_rng_below(&(ad_rng){ 1, 0 }, 0), 0);
    ck_assert_int_eq(ad_rng_seed(7).counter, 0);
    const uint32_t word = 0;
    float lanes[4] = { 7, 7, 7, 7 };
    ad_normals(AD_F32, 1, 2, 1, NULL, &word, lanes);
    ad_normals(AD_F32, 1, 2, 1, &word, NULL, lanes);
    ad_normals(AD_F32, 1, 2, 0, &word, &word, lanes);
    ad_normals(AD_F32, 1, 2, -1, &word, &word, lanes);
    ad_normals(AD_F32, 1, 2, 1, &word, &word, NULL);
    for (int l = 0; l < ad_normal_lanes(AD_F32); l++) ck_assert(lanes[l] == 7);
    uint32_t words[4] = { 7, 7, 7, 7 };
    ad_random_words(1, 2, 1, NULL, &word, words);
    ad_random_words(1, 2, 1, &word, NULL, words);
    ad_random_words(1, 2, -1, &word, &word, words);
    ad_random_words(1, 2, 1, &word, &word, NULL);
    for (int l = 0; l < 4; l++) ck_assert(words[l] == 7);
    ad_share(2, 1e9, 3, NULL, NULL);
    ad_share(2, 1e9, -1, never, NULL);
    ad_share(-1, 1e9, 0, never, NULL);
    ck_assert_int_eq(ad_instruction_set(), ad_instruction_set());
}
END_TEST

/* Both tapes of a mixture learn of it. */
START_TEST(test_both_tapes)
{
    ad_tape *t = ad_tape_new(AD_F64), *u = ad_tape_new(AD_F64);
    ad_var x = ad_param(t, square, four), y = ad_sum_all(ad_square(x)),
           z = ad_param(u, square, four), g;
    ad_grad(y, 1, &z, &g);
    ck_assert_msg(ad_tape_error(t) && strstr(ad_tape_error(t), "ad_grad: x[0] is on another tape"),
                  "%s", ad_tape_error(t));
    ck_assert_msg(ad_tape_error(u) && strstr(ad_tape_error(u), "ad_grad: "), "%s",
                  ad_tape_error(u));
    ad_tape_free(t);
    ad_tape_free(u);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("refused", "refused");
    tcase_add_test(tests, test_no_tape);
    tcase_add_test(tests, test_shapes);
    tcase_add_test(tests, test_no_lists);
    tcase_add_test(tests, test_runs);
    tcase_add_loop_test(tests, test_variables_from_elsewhere, 0, BAD);
    tcase_add_test(tests, test_results_over_operands);
    tcase_add_test(tests, test_no_generator);
    tcase_add_test(tests, test_both_tapes);
    return suite_run();
}
