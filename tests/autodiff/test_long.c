/* Very long recordings: compiling takes time in proportion to their length (times its logarithm),
 * whatever they consist of; so do values and gradients on a tape that is never rewound. Each of
 * these took minutes where a step looked through all the others, and now takes seconds: the suite's
 * time limit tells. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/extension.h"
#include "autodiff/plan/program.h"
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, WIDTH = 4 };
#ifdef ALLOCATIONS_NOT_COUNTED /* under a sanitizer all is slower */
enum { SLOWER = 8 };
#else
enum { SLOWER = 1 };
#endif

typedef struct {
    ad_tape *tape;
    ad_var x, p; /* [rows,4], [4] */
} recording;

static recording new_recording(void)
{
    recording r = { .tape = ad_tape_new(AD_F64) };
    r.x = ad_input_rows(r.tape, AD_SHAPE(AD_ROWS, WIDTH), 0, NULL);
    r.p = ad_param(r.tape, AD_SHAPE(WIDTH), NULL);
    return r;
}

/* Compiles and runs the loss and its gradients; out: loss, gradient by x, by p. */
static void run(recording *r, ad_var loss, double *out)
{
    ad_var in[] = { r->x, r->p }, y[3] = { loss };
    ad_grad(loss, 2, in, y + 1);
    ad_program *program = ad_compile(2, in, 3, y);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(r->tape));
    ad_tape_free(r->tape);
    ad_workspace *w = ad_workspace_new(program, 1);
    double x[ROWS * WIDTH], p[WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = 0.1 * (i + 1);
    for (int i = 0; i < WIDTH; i++) p[i] = 1 - 1e-5 * i;
    int failed = ad_run(program, w, ROWS, (const void *[]){ x, p },
                        (void *[]){ out, out + 1, out + 1 + ROWS * WIDTH });
    ck_assert_msg(!failed, "%s", ad_workspace_error(w));
    ad_workspace_free(w);
    ad_program_free(program);
}

/* y = max(sin y, y/2), n times, elementwise: value and derivative by hand. */
START_TEST(test_values_that_live_long)
{
    const int n = 20000 / SLOWER;
    recording r = new_recording();
    ad_var y = r.x;
    for (int i = 0; i < n; i++) y = ad_max(ad_sin(y), ad_scale(y, 0.5));
    double out[1 + ROWS * WIDTH + WIDTH], sum = 0;
    run(&r, ad_sum_all(y), out);
    for (int k = 0; k < ROWS * WIDTH; k++) {
        double v = 0.1 * (k + 1), slope = 1;
        for (int i = 0; i < n; i++) {
            bool half = v / 2 > sin(v);
            slope *= half ? 0.5 : cos(v);
            v = half ? v / 2 : sin(v);
        }
        sum += v;
        ck_assert_double_eq_tol(out[1 + k], slope, 1e-10 * slope);
    }
    ck_assert_double_eq_tol(out[0], sum, 1e-10 * sum);
}
END_TEST

/* Halves that change places, one of them multiplied: (a, b) becomes (p b, a), 2 n times. */
START_TEST(test_slices_and_concatenations)
{
    const int n = 15000 / SLOWER;
    recording r = new_recording();
    ad_var y = r.x, c = ad_slice(r.p, 0, 0, 2);
    for (int i = 0; i < 2 * n; i++)
        y = ad_concatenate(2, (ad_var[]){ ad_mul(ad_slice(y, 1, 2, 4), c), ad_slice(y, 1, 0, 2) },
                           1);
    double out[1 + ROWS * WIDTH + WIDTH];
    run(&r, ad_sum_all(y), out);
    for (int k = 0; k < ROWS * WIDTH; k++)
        ck_assert_double_eq_tol(out[1 + k], pow(1 - 1e-5 * (k % 2), n), 1e-9);
}
END_TEST

/* Steps y += h f(y), whose f takes slices: its gradient has as many pieces a step whatever the
 * number of steps, and nested assemblies are one. */
START_TEST(test_slices_in_steps)
{
    int64_t pieces[2] = { 0 };
    for (int k = 0; k < 2; k++) {
        const int steps = k ? 800 : 400;
        recording r = new_recording();
        ad_var y = r.p, one = ad_fill(r.tape, AD_SHAPE(1), 1), g;
        for (int i = 0; i < steps; i++) {
            ad_var before = ad_concatenate(2, (ad_var[]){ one, ad_slice(y, 0, 0, WIDTH - 1) }, 0);
            y = ad_add(y, ad_scale(ad_mul(r.p, before), 1.0 / steps));
        }
        ad_grad(ad_sum_all(y), 1, &r.p, &g);
        ad_program *program = ad_compile(1, &r.p, 1, &g);
        ck_assert_msg(program != NULL, "%s", ad_tape_error(r.tape));
        for (int32_t i = 0; i < program->ir.n; i++) {
            const ad_inst *x = &program->ir.inst[i];
            if (x->op != AD_OP_assemble) continue;
            pieces[k] += x->nin;
            for (int j = 0; j < x->nin; j++)
                ck_assert_msg(program->ir.inst[x->in[j]].op != AD_OP_assemble ||
                                  program->ir.inst[x->in[j]].uses > 1,
                              "an assembly inside of one is made for that one alone");
        }
        ad_program_free(program);
        ad_tape_free(r.tape);
    }
    ck_assert_int_gt(pieces[0], 400);
    ck_assert_int_le(pieces[1], 2 * pieces[0] + 10);
}
END_TEST

/* The sum of n means of sin applied ever more often. */
START_TEST(test_many_reductions)
{
    const int n = 30000 / SLOWER;
    recording r = new_recording();
    ad_var y = r.x, sum = ad_scalar(r.tape, 0);
    for (int i = 0; i < n; i++) {
        y = ad_sin(y);
        sum = ad_add(sum, ad_mean_all(y));
    }
    double out[1 + ROWS * WIDTH + WIDTH], want = 0;
    run(&r, sum, out);
    for (int k = 0; k < ROWS * WIDTH; k++) {
        double v = 0.1 * (k + 1), slope = 1, total = 0;
        for (int i = 0; i < n; i++) {
            slope *= cos(v);
            v = sin(v);
            want += v / (ROWS * WIDTH);
            total += slope / (ROWS * WIDTH);
        }
        ck_assert_double_eq_tol(out[1 + k], total, 1e-8 * total);
    }
    ck_assert_double_eq_tol(out[0], want, 1e-8 * want);
}
END_TEST

/* Every step has a stretch of a long vector of parameters of its own. */
START_TEST(test_many_parameters)
{
    const int n = 30000 / SLOWER;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 0, NULL),
                    ad_param(tape, AD_SHAPE(2 * n), NULL) },
           y = in[0], out[2];
    for (int i = 0; i < n; i++) y = ad_tanh(ad_add(y, ad_slice(in[1], 0, 2 * i, 2 * i + 2)));
    out[0] = ad_sum_all(y);
    ad_grad(out[0], 1, &in[1], &out[1]);
    ad_program *program = ad_compile(2, in, 2, out);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    double x[2] = { 0.5, -1 }, loss, *p = calloc(2 * (size_t)n, sizeof *p),
           *g = calloc(2 * (size_t)n, sizeof *g);
    for (int i = 0; i < 2 * n; i++) p[i] = 0.3 * sin(i);
    ad_workspace *w = ad_workspace_new(program, 1);
    ck_assert_int_eq(ad_run(program, w, 1, (const void *[]){ x, p }, (void *[]){ &loss, g }), 0);
    for (int k = 0; k < 2; k++) {
        double v = x[k], slope = 1;
        for (int i = 0; i < n; i++) v = tanh(v + p[2 * i + k]);
        x[k] = v;
        /* By the last parameter, and the one before: d tanh = 1 - tanh^2, along the way back. */
        double before = x[k];
        slope = 1 - before * before;
        ck_assert_double_eq_tol(g[2 * (n - 1) + k], slope, 1e-9);
    }
    ck_assert_double_eq_tol(loss, x[0] + x[1], 1e-9);
    free(p);
    free(g);
    ad_workspace_free(w);
    ad_program_free(program);
}
END_TEST

/* ---- loops that record ---- */

/* Every iteration takes the same time on a tape that is never rewound, and has the same result:
 * values, gradients, new data. */
START_TEST(test_loop_without_rewinding)
{
    const int n = 10000 / SLOWER;
    double x[2 * 2] = { 0.5, -0.2, 0.1, 0.9 }, w[4] = { 0.6, -0.3, 0.2, 0.8 }, first[5];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, x),
           p = ad_param(tape, AD_SHAPE(2, 2), w);
    for (int i = 0; i < n; i++) {
        ad_var y = in, g;
        if (i % 2) ck_assert_int_eq(ad_set(in, 2, x), 0);
        for (int k = 0; k < 5; k++) y = ad_tanh(ad_matmul(y, p));
        ad_var loss = ad_mean_all(ad_square(y));
        ad_grad(loss, 1, &p, &g);
        double out[5] = { ad_item(loss) };
        ck_assert_msg(!ad_get(g, out + 1), "%s", ad_tape_error(tape));
        if (i == 0) memcpy(first, out, sizeof first);
        else ck_assert_mem_eq(first, out, sizeof first);
    }
    ad_tape_free(tape);
}
END_TEST

/* Forward derivatives, Jacobians and what depends on what, likewise. */
START_TEST(test_loop_of_forward_derivatives)
{
    const int n = 10000 / SLOWER;
    double x[2 * 2] = { 0.5, -0.2, 0.1, 0.9 }, first[2 * 2 + 2 * 2 * 2 + 2];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, x),
           other = ad_param(tape, AD_SCALAR, (double[]){ 1 });
    for (int i = 0; i < n; i++) {
        ad_var y = ad_mul(ad_sin(in), ad_sum_axis(ad_square(in), 1, true)),
               tangent = ad_ones_like(in), dot;
        ad_jvp(1, &in, &tangent, 1, &y, &dot);
        double out[2 * 2 + 2 * 2 * 2 + 2];
        ad_get(dot, out);
        ad_get(ad_jacobian(y, in), out + 4);
        ad_get(ad_jacobian_trace(y, in), out + 12);
        ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
        ck_assert(ad_depends(y, in) && !ad_depends(y, other));
        if (i == 0) memcpy(first, out, sizeof first);
        else ck_assert_mem_eq(first, out, sizeof first);
    }
    ad_tape_free(tape);
}
END_TEST

/* A function of few operations far behind its input is evaluated at new data in the time that it
 * takes, not in that of the tape between them. */
START_TEST(test_evaluating_far_behind)
{
    const int between = 400000, n = 500000 / SLOWER;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SCALAR, NULL), other = ad_scalar(tape, 1);
    for (int i = 0; i < between; i++) other = ad_neg(other);
    ad_var y = ad_square(x);
    for (int i = 0; i < n; i++) {
        const double at = i;
        double value;
        ck_assert_msg(
            !ad_evaluate_f64(1, &x, (const double *[]){ &at }, 0, 1, &y, (double *[]){ &value }),
            "%s", ad_tape_error(tape));
        ck_assert_double_eq(value, at * at);
    }
    ad_tape_free(tape);
}
END_TEST

/* A tape that is too long says what to do. */
START_TEST(test_limit)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_tape_set_limit(tape, 1000);
    ad_var x = ad_scalar(tape, 1);
    for (int i = 0; i < 999; i++) x = ad_sin(x);
    ck_assert_msg(ad_valid(x), "%s", ad_tape_error(tape));
    ck_assert(!ad_valid(ad_cos(x)));
    const char *error = ad_tape_error(tape);
    ck_assert_msg(strstr(error, "ad_cos: the tape holds 1000 operations, its limit") == error, "%s",
                  error);
    ck_assert(strstr(error, "ad_tape_rewind") && strstr(error, "ad_compile") &&
              strstr(error, "ad_tape_set_limit"));
    ad_tape_clear_error(tape);
    ad_tape_rewind(tape, 10);
    ck_assert(ad_valid(ad_scalar(tape, 1)));
    ad_tape_rewind(tape, 0);
    ad_tape_set_limit(tape, 0);
    x = ad_scalar(tape, 1);
    for (int i = 0; i < 2000; i++) x = ad_sin(x);
    ck_assert(ad_valid(x));
    ad_tape_set_limit(tape, -1);
    ck_assert_msg(strstr(ad_tape_error(tape), "ad_tape_set_limit") != NULL, "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

#ifndef ALLOCATIONS_NOT_COUNTED
/* So does one whose values fill the memory. */
START_TEST(test_values_fill_the_memory)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_scalar(tape, 1), y;
    for (int i = 0; i < 100000; i++) y = ad_sin(x);
    ck_assert_ptr_nonnull(ad_value(x));
    allocations_fail_at(1); /* the first is for the search */
    const void *value = ad_value(y);
    allocations_fail_at(-1);
    ck_assert_ptr_null(value);
    const char *error = ad_tape_error(tape);
    ck_assert_msg(strstr(error, "out of memory: ad_sin") && strstr(error, "ad_tape_rewind"), "%s",
                  error);
    ad_tape_free(tape);
}
END_TEST
#endif

static ad_var scaled_decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    return ad_mul(ad_scale(y, *(const double *)user), args[0]);
}

/* The solution of y' = rate p y at t = 1 and its derivatives by y(0) and p. */
static void check_decay(ad_var y0, ad_var p, double rate, ad_var y, ad_var *g)
{
    ad_grad(ad_sum_all(y), 2, (ad_var[]){ y0, p }, g);
    ck_assert_msg(fabs(ad_item(y) - exp(rate)) < 1e-5, "%.9g, not %.9g: %s", ad_item(y), exp(rate),
                  ad_tape_error(y.tape));
    ck_assert_double_eq_tol(ad_item(g[0]), exp(rate), 1e-4);
    ck_assert_double_eq_tol(ad_item(g[1]), rate * exp(rate), 1e-4);
}

/* A field with another constant each time is another function: its programs are compiled, and
 * forgotten when many others have come since. What is still on the tape keeps its own. */
START_TEST(test_ever_new_fields)
{
    enum { LOOPS = 600 / SLOWER, SETTLED = 200 };
    ad_tape *tape = ad_tape_new(AD_F64);
    double one[] = { 1 }, rate = -0.3;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, one),
           p = ad_param(tape, AD_SCALAR, one), g[2];
    ad_var kept = ode_solve_final(scaled_decay, &rate, y0, 1, &p, ode_interval(tape, 0, 1), NULL);
    int32_t mark = ad_tape_mark(tape);
    long live = 0;
    for (int i = 0; i < LOOPS; i++) {
        double other = -0.5 - 1e-5 * i; /* alike: they need the same programs */
        check_decay(
            y0, p, other,
            ode_solve_final(scaled_decay, &other, y0, 1, &p, ode_interval(tape, 0, 1), NULL), g);
        ad_tape_rewind(tape, mark);
        if (i == SETTLED) live = allocations_live();
    }
    /* 200 for each field that is not forgotten. */
    ck_assert_int_le(allocations_live(), live + 100);
    check_decay(y0, p, rate, kept, g);
    check_decay(y0, p, rate,
                ode_solve_final(scaled_decay, &rate, y0, 1, &p, ode_interval(tape, 0, 1), NULL), g);
    ad_tape_free(tape);
}
END_TEST

/* Without rows: kernels of one operation and shape are prepared once, not once a node. */
START_TEST(test_kernels_are_shared)
{
    enum { N = 1000, KINDS = 8 };
    ad_tape *t = ad_tape_new(AD_F64);
    ad_var x = ad_input(t, AD_SHAPE(2), (double *)NULL), y = x;
    for (int i = 0; i < N; i++) y = ad_sin(ad_add(ad_exp(ad_neg(y)), x));
    ad_program *p = ad_compile(1, &x, 1, &y);
    ck_assert_msg(p != NULL, "%s", ad_tape_error(t));
    ad_tape_free(t);
    const void *seen[KINDS];
    int nseen = 0;
    for (int32_t s = 0; s < p->nstep; s++) {
        const void *prepared = p->step[s].kernel.prepared;
        bool found = p->step[s].kind != AD_STEP_KERNEL;
        for (int k = 0; k < nseen; k++) found = found || seen[k] == prepared;
        ck_assert_msg(found || nseen < KINDS, "more than %d kernels", (int)KINDS);
        if (!found) seen[nseen++] = prepared;
    }
    ck_assert_int_ge(p->nstep, 2 * N);
    ck_assert_int_ge(nseen, 2);
    ad_program_free(p);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("long", "long");
    tcase_add_test(tests, test_values_that_live_long);
    tcase_add_test(tests, test_slices_and_concatenations);
    tcase_add_test(tests, test_slices_in_steps);
    tcase_add_test(tests, test_many_reductions);
    tcase_add_test(tests, test_many_parameters);
    tcase_add_test(tests, test_loop_without_rewinding);
    tcase_add_test(tests, test_loop_of_forward_derivatives);
    tcase_add_test(tests, test_evaluating_far_behind);
    tcase_add_test(tests, test_limit);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_test(tests, test_values_fill_the_memory);
#endif
    tcase_add_test(tests, test_ever_new_fields);
    tcase_add_test(tests, test_kernels_are_shared);
    return suite_run();
}
