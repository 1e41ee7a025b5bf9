/* Values without rows: memory that is used again, and what has to stay. */
#include "autodiff/extension.h"
#include "autodiff/plan/program.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1000, INPUT = 0, PARAMETER };

static ad_var source(ad_tape *t, int kind)
{
    return kind == PARAMETER ? ad_param(t, AD_SHAPE(N), (double *)NULL)
                             : ad_input(t, AD_SHAPE(N), (double *)NULL);
}

static double element(int i) { return 0.3 + 0.7 * sin(0.01 * i); }

static double *elements(void)
{
    double *x = malloc(N * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (int i = 0; i < N; i++) x[i] = element(i);
    return x;
}

static ad_program *compile(ad_tape *t, int nin, const ad_var *in, int nout, const ad_var *out)
{
    ad_program *p = ad_compile(nin, in, nout, out);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t) ? ad_tape_error(t) : "no error");
    return p;
}

/* y' = x y by Euler's method; with gradient: of the sum of its end, by x. */
static ad_program *euler(int kind, int steps, bool gradient)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = source(t, kind), y = ad_fill(t, AD_SHAPE(N), 1), out[2];
    for (int s = 0; s < steps; s++) y = ad_add(y, ad_scale(ad_mul(ad_sin(y), x), 1.0 / steps));
    out[0] = y;
    if (gradient) ad_grad(ad_sum_all(y), 1, &x, &out[1]);
    ad_program *p = compile(t, 1, &x, gradient ? 2 : 1, out);
    ad_tape_free(t);
    return p;
}

/* An unrolled program takes as much memory whatever its length; with a gradient, what the steps
 * have to keep: the state, or its sine and cosine. */
START_TEST(memory_is_used_again)
{
    const int64_t array = ad_size_align(N * sizeof(double));
    int64_t bytes[2];
    for (int k = 0; k < 2; k++) {
        ad_program *p = euler(_i, k ? 1000 : 10, false);
        bytes[k] = p->uniform_bytes;
        ad_program_free(p);
    }
    ck_assert_int_eq(bytes[0], bytes[1]);
    ck_assert_int_le(bytes[0], 4 * array);
    const int steps = 100;
    ad_program *p = euler(_i, steps, true);
    ck_assert_int_le(p->uniform_bytes, (2 * steps + 6) * array);
    double *x = elements(), y[N], g[N];
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ x }, (void *[]){ y, g }), 0);
    for (int i = 0; i < N; i++) {
        double state = 1, slope = 0;
        for (int s = 0; s < steps; s++) {
            slope += (cos(state) * slope * x[i] + sin(state)) / steps;
            state += sin(state) * x[i] / steps;
        }
        ck_assert_double_eq_tol(y[i], state, 1e-13);
        ck_assert_double_eq_tol(g[i], slope, 1e-13);
    }
    ad_workspace_free(w);
    ad_program_free(p);
    free(x);
}
END_TEST

/* A result does not take over an array of which its step reads a part by itself: here the numbers
 * that multiply the lines, which come after the first ones are written. */
START_TEST(parts_are_read)
{
    enum { LINES = 50, LINE = N / LINES };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = source(t, _i), y = ad_exp(ad_concatenate(2, (ad_var[]){ x, x }, 0));
    ad_var first = ad_reshape(ad_slice(y, 0, 0, LINES), AD_SHAPE(LINES, 1));
    ad_var z = ad_mul(ad_reshape(y, AD_SHAPE(LINES, 2 * LINE)), first);
    ad_program *p = compile(t, 1, &x, 1, &z);
    ad_workspace *w = ad_workspace_new(p, 1);
    double *data = elements(), result[2 * N];
    ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ data }, (void *[]){ result }), 0);
    for (int i = 0; i < 2 * N; i++) {
        const double expected = exp(data[i % N]) * exp(data[i / (2 * LINE)]);
        ck_assert_double_eq_tol(result[i], expected, 1e-14 * expected);
    }
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
    free(data);
}
END_TEST

/* Two runs with the same parameters, into other arrays; one input or two. Frees the program. */
static void same_in_two_runs(ad_program *p)
{
    ad_workspace *w = ad_workspace_new(p, 1);
    double *data = elements(), first[N], again[N];
    ad_run_args args = { .rows = 1,
                         .inputs = (const void *[]){ data, data },
                         .outputs = (void *[]){ first },
                         .same_parameters = true };
    ck_assert_int_eq(ad_run_with(p, w, &args), 0);
    args.outputs = (void *[]){ again };
    ck_assert_int_eq(ad_run_with(p, w, &args), 0);
    ck_assert_mem_eq(first, again, sizeof first);
    ad_workspace_free(w);
    ad_program_free(p);
    free(data);
}

/* What parameters decide is there in runs that do not make it again, whatever the call has written
 * since. */
START_TEST(parameters_stay)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var q = source(t, PARAMETER), x = source(t, INPUT), in[] = { q, x };
    ad_var a = ad_exp(ad_square(q)), y = ad_mul(x, a);
    for (int k = 0; k < 4; k++) y = ad_sin(ad_add(ad_exp(ad_neg(y)), ad_sqrt(ad_exp(y))));
    ad_program *p = compile(t, 2, in, 1, &y);
    same_in_two_runs(p);
    ad_tape_free(t);
}
END_TEST

/* An operation whose state is a pointer at its operand, and one that reads through it. */
static void *new_state(void *data)
{
    (void)data;
    return calloc(1, sizeof(const double *));
}

static int point(void *data, void *state, const ad_opaque_call *call)
{
    (void)data;
    *(const double **)state = call->in[0];
    memcpy(call->out[0], call->in[0], N * sizeof(double));
    return 0;
}

static int follow(void *data, void *state, const ad_opaque_call *call)
{
    (void)data, (void)state;
    const double *const *at = call->in_state[0];
    for (int i = 0; i < N; i++)
        ((double *)call->out[0])[i] = (*at)[i] + ((const double *)call->in[1])[i];
    return 0;
}

static const ad_opaque_class point_class = {
    .name = "point", .forward = point, .state_new = new_state, .state_free = free
};
static const ad_opaque_class follow_class = { .name = "follow", .forward = follow };

START_TEST(operands_stay_for_states)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = source(t, INPUT), e = ad_exp(x), y, z;
    const ad_shape shape = AD_SHAPE(N);
    ad_var token = ad_opaque(t, &point_class, NULL, 1, &e, 1, &shape, &y);
    for (int k = 0; k < 4; k++) y = ad_sin(ad_add(ad_cos(y), ad_sqrt(ad_exp(y))));
    ad_opaque(t, &follow_class, NULL, 2, (ad_var[]){ token, y }, 1, &shape, &z);
    ad_var out[] = { ad_sub(z, y) };
    ad_program *p = compile(t, 1, &x, 1, out);
    ad_workspace *w = ad_workspace_new(p, 1);
    double *data = elements(), result[N];
    ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ data }, (void *[]){ result }), 0);
    for (int i = 0; i < N; i++) ck_assert_double_eq_tol(result[i], exp(data[i]), 1e-14);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
    free(data);
}
END_TEST

/* ---- chunks ---- */

/* So many elements that groups go through them by chunks, the last of which is not full, nor its
 * last leaf. */
enum { LARGE = 100011 };

typedef struct {
    ad_tape *tape;
    ad_var in, out[3];
    int nout;
} recording;

/* Sums of what a group makes and of what is made of that, and a number that waits for them. */
static recording record_sums(ad_dtype dtype, const void *data)
{
    recording r = { .tape = ad_tape_new(dtype), .nout = 3 };
    r.in = dtype == AD_F32 ? ad_input(r.tape, AD_SHAPE(1, LARGE), (const float *)data)
                           : ad_input(r.tape, AD_SHAPE(1, LARGE), (const double *)data);
    ad_var e = ad_exp(ad_neg(ad_square(r.in)));
    ad_var s = ad_sum(e, 1, (int[]){ 1 }, true), u = ad_div(e, s);
    r.out[0] = s;
    r.out[1] = ad_sum_all(ad_sqrt(u));
    r.out[2] = ad_log(ad_mul(u, ad_sum_all(ad_mul(e, r.in))));
    return r;
}

/* The bits are those of whole arrays, on which values on demand are computed, for any number of
 * threads. */
START_TEST(chunks_have_the_bits_of_whole_arrays)
{
    const ad_dtype dtype = _i ? AD_F32 : AD_F64;
    const size_t size = _i ? sizeof(float) : sizeof(double);
    double *data = malloc(LARGE * sizeof *data);
    for (int i = 0; i < LARGE; i++)
        if (_i) ((float *)(void *)data)[i] = (float)element(i);
        else data[i] = element(i);
    recording r = record_sums(dtype, data);
    ad_program *p = compile(r.tape, 1, &r.in, r.nout, r.out);
    void *out[3];
    int grouped = 0;
    for (int32_t s = 0; s < p->nstep; s++) grouped += p->step[s].end - p->step[s].begin > 1;
    ck_assert_int_ge(grouped, 8);
    ck_assert_int_le(p->uniform_bytes, 3 * LARGE * (int64_t)size);
    for (int j = 0; j < 3; j++) out[j] = malloc(LARGE * size);
    for (int threads = 1; threads <= 4; threads++) {
        ad_workspace *w = ad_workspace_new(p, threads);
        for (int j = 0; j < 3; j++) memset(out[j], 0, LARGE * size);
        ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ data }, out), 0);
        for (int j = 0; j < 3; j++) {
            const void *lazy = ad_value(r.out[j]);
            const size_t n = (size_t)ad_count(ad_shape_of(r.out[j]), 1);
            ck_assert_msg(lazy && !memcmp(lazy, out[j], n * size), "output %d, %d threads", j,
                          threads);
        }
        ad_workspace_free(w);
    }
    for (int j = 0; j < 3; j++) free(out[j]);
    ad_program_free(p);
    ad_tape_free(r.tape);
    free(data);
}
END_TEST

static int count_groups(const ad_program *p)
{
    int groups = 0;
    for (int32_t s = 0; s < p->nstep; s = p->step[s].end) groups += p->step[s].elements > 0;
    return groups;
}

/* Four groups, with reductions between them. Of what the later ones read, an exponential is kept,
 * and what is cheap is made again from the input in two of them, also by two steps, and also where
 * its own group does not read it. */
static recording record_cheap(ad_dtype dtype, const void *data)
{
    recording r = { .tape = ad_tape_new(dtype), .nout = 3 };
    r.in = dtype == AD_F32 ? ad_input(r.tape, AD_SHAPE(LARGE), (const float *)data)
                           : ad_input(r.tape, AD_SHAPE(LARGE), (const double *)data);
    ad_var x = r.in, alone = ad_abs(ad_sub(x, ad_scalar(r.tape, 0.5)));
    ad_var mask = ad_gt(x, ad_scalar(r.tape, 0.3)), e = ad_exp(x);
    ad_var s = ad_sum_all(e), n = ad_sum_all(mask);
    ad_var y = ad_select(mask, ad_mul(alone, n), ad_div(e, s));
    ad_var z = ad_reduce_max(y, 1, (int[]){ 0 }, false);
    r.out[0] = ad_add(y, ad_mul(ad_select(mask, z, n), alone));
    r.out[1] = ad_add(s, n);
    r.out[2] = ad_mul(alone, z);
    return r;
}

/* Data with ties, an infinite number, and perhaps what is no number. */
static void *make_data(ad_dtype dtype, bool with_nan)
{
    double *data = malloc(LARGE * sizeof *data);
    for (int i = 0; i < LARGE; i++) {
        double x = i % 1000 == 7 ? 0.5 : element(i);
        if (i == 50000) x = -INFINITY;
        if (i == 70001 && with_nan) x = NAN;
        if (dtype == AD_F32) ((float *)(void *)data)[i] = (float)x;
        else data[i] = x;
    }
    return data;
}

static void check_bits(recording *r, const ad_program *p, const void *data, size_t size)
{
    void *out[3];
    for (int j = 0; j < 3; j++) out[j] = malloc(LARGE * size);
    for (int threads = 1; threads <= 3; threads++) {
        ad_workspace *w = ad_workspace_new(p, threads);
        for (int j = 0; j < 3; j++) memset(out[j], 0, LARGE * size);
        ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ data }, out), 0);
        for (int j = 0; j < r->nout; j++) {
            const void *lazy = ad_value(r->out[j]);
            const size_t n = (size_t)ad_count(ad_shape_of(r->out[j]), 1);
            ck_assert_msg(lazy && !memcmp(lazy, out[j], n * size), "output %d, %d threads", j,
                          threads);
        }
        ad_workspace_free(w);
    }
    for (int j = 0; j < 3; j++) free(out[j]);
}

START_TEST(cheap_values_are_made_again)
{
    const ad_dtype dtype = _i & 1 ? AD_F32 : AD_F64;
    const size_t size = ad_dtype_size(dtype);
    void *data = make_data(dtype, _i & 2);
    recording r = record_cheap(dtype, data);
    ad_program *p = compile(r.tape, 1, &r.in, r.nout, r.out);
    ck_assert_ptr_null(ad_verify_plan(p, &(int32_t){ 0 }));
    ck_assert_int_eq(count_groups(p), 4);
    const int64_t array = ad_size_align(LARGE * (int64_t)size);
    ck_assert_int_le(p->uniform_bytes, 2 * array + 1024); /* e and y */
    int again = 0;
    for (int32_t s = 0; s < p->nstep; s++) again += p->step[s].kernel.op == AD_OP_abs;
    ck_assert_int_eq(again, 2); /* the first group does not read it */
    check_bits(&r, p, data, size);
    ad_program_free(p);
    ad_tape_free(r.tape);
    free(data);
}
END_TEST

/* A logarithm of a sum of exponentials and its gradient go through memory three times: for the
 * maximum, for the sum, for the gradient. What the sum has divided is not summed again. */
START_TEST(a_logarithm_of_a_sum_has_two_groups)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_param(t, AD_SHAPE(LARGE), (double *)NULL), out[2];
    out[0] = ad_logsumexp(x, 1, (int[]){ 0 }, false);
    ad_grad(out[0], 1, &x, &out[1]);
    ad_program *p = compile(t, 1, &x, 2, out);
    ck_assert_int_eq(count_groups(p), 2);
    const int64_t array = ad_size_align(LARGE * (int64_t)sizeof(double));
    ck_assert_int_le(p->uniform_bytes, 2 * array + 1024); /* exponentials, and the gradient */
    double *data = malloc(LARGE * sizeof *data), *g = malloc(LARGE * sizeof *g), y, sum = 0;
    for (int i = 0; i < LARGE; i++) {
        data[i] = i % 5000 == 3 ? 700 : 690 * element(i);
        sum += exp(data[i] - 700);
    }
    ad_workspace *w = ad_workspace_new(p, 1);
    ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ data }, (void *[]){ &y, g }), 0);
    ck_assert_double_eq_tol(y, 700 + log(sum), 1e-11);
    for (int i = 0; i < LARGE; i++)
        ck_assert_double_eq_tol(g[i], exp(data[i] - 700) / sum, 1e-13 / sum);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
    free(data);
    free(g);
}
END_TEST

/* Where all is made of parameters, it is made in the caller's arrays in every run. */
START_TEST(parameters_alone_are_not_kept)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = source(t, PARAMETER), y = ad_exp(x);
    ad_program *p = compile(t, 1, &x, 1, &y);
    ck_assert(p->output[0].in_place);
    same_in_two_runs(p);
    ad_tape_free(t);
}
END_TEST

/* A number of an array that the group at hand would write over, and one of an array that it makes.
 */
START_TEST(parts_of_large_arrays)
{
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_param(t, AD_SHAPE(LARGE), (double *)NULL);
    ad_var c =
        ad_concatenate(2, (ad_var[]){ ad_slice(x, 0, 1, LARGE), ad_fill(t, AD_SHAPE(1), 0.5) }, 0);
    ad_var a = ad_mul(c, ad_slice(c, 0, 10000, 10001)), b = ad_add(a, ad_sin(x));
    ad_var y = ad_mul(b, ad_slice(b, 0, 15000, 15001));
    ad_program *p = compile(t, 1, &x, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    double *data = malloc(LARGE * sizeof *data), *result = malloc(LARGE * sizeof *result);
    for (int i = 0; i < LARGE; i++) data[i] = element(i);
    ck_assert_int_eq(ad_run(p, w, 1, (const void *[]){ data }, (void *[]){ result }), 0);
    const double at = data[10001], factor = data[15001] * at + sin(data[15000]);
    for (int i = 0; i < LARGE; i++) {
        const double next = i + 1 < LARGE ? data[i + 1] : 0.5;
        ck_assert_double_eq_tol(result[i], (next * at + sin(data[i])) * factor, 1e-13);
    }
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
    free(data);
    free(result);
}
END_TEST

/* Wide rows are cut into chunks too, one or several; with a number for all of them, and one that is
 * kept for the gradient. */
START_TEST(wide_rows_have_chunks)
{
    enum { ROWS = 3 };
    ad_tape *t = ad_tape_new(AD_F64);
    double *data = malloc(ROWS * LARGE * sizeof *data), *out[2];
    for (int i = 0; i < ROWS * LARGE; i++) data[i] = element(i);
    ad_var x = ad_input_rows(t, AD_SHAPE(AD_ROWS, LARGE), _i, data), y = x;
    const double factor = 0.75;
    ad_var f = ad_param(t, AD_SCALAR, &factor), in[] = { x, f }, result[2];
    for (int k = 0; k < 3; k++) y = ad_mul(f, ad_add(ad_sin(y), ad_sqrt(ad_exp(y))));
    result[0] = y;
    ad_grad(ad_sum_all(y), 1, &x, &result[1]);
    ad_program *p = compile(t, 2, in, 2, result);
    ck_assert_int_gt(p->chunk_bytes, 0);
    ck_assert_int_le(p->chunk_bytes, 16 * 4096);
    ck_assert_ptr_null(ad_verify_plan(p, &(int32_t){ 0 }));
    ad_workspace *w = ad_workspace_new(p, 1);
    for (int j = 0; j < 2; j++) out[j] = malloc(ROWS * LARGE * sizeof *out[j]);
    ck_assert_int_eq(
        ad_run(p, w, _i, (const void *[]){ data, &factor }, (void *[]){ out[0], out[1] }), 0);
    const double *lazy = ad_value(y);
    ck_assert_msg(lazy && !memcmp(lazy, out[0], (size_t)_i * LARGE * sizeof *lazy), "bits");
    for (int i = 0; i < _i * LARGE; i++) {
        double state = data[i], slope = 1;
        for (int k = 0; k < 3; k++) {
            slope *= factor * (cos(state) + exp(state / 2) / 2);
            state = factor * (sin(state) + exp(state / 2));
        }
        ck_assert_double_eq_tol(out[1][i], slope, 1e-13 * slope);
    }
    for (int j = 0; j < 2; j++) free(out[j]);
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(t);
    free(data);
}
END_TEST

START_TEST(verifier_sees_it)
{
    ad_program *p = euler(PARAMETER, 10, true);
    int32_t where;
    ck_assert_ptr_null(ad_verify_plan(p, &where));
    for (int32_t i = 0; i < p->ir.n; i++)
        if (p->slot[i].place == AD_PLACE_UNIFORM) p->slot[i].position = 0;
    ck_assert_str_eq(ad_verify_plan(p, &where), "memory: live values overlap");
    ad_program_free(p);
}
END_TEST

int main(void)
{
    TCase *t = suite_case("whole", "whole");
    tcase_add_loop_test(t, memory_is_used_again, 0, 2);
    tcase_add_loop_test(t, parts_are_read, 0, 2);
    tcase_add_test(t, parameters_stay);
    tcase_add_test(t, operands_stay_for_states);
    tcase_add_loop_test(t, chunks_have_the_bits_of_whole_arrays, 0, 2);
    tcase_add_loop_test(t, cheap_values_are_made_again, 0, 4);
    tcase_add_test(t, a_logarithm_of_a_sum_has_two_groups);
    tcase_add_test(t, parameters_alone_are_not_kept);
    tcase_add_test(t, parts_of_large_arrays);
    tcase_add_loop_test(t, wide_rows_have_chunks, 1, 4);
    tcase_add_test(t, verifier_sees_it);
    return suite_run();
}
