/* Solving, attacked from outside: problems that must fail fail with the place named, counts are
 * compared with an operation that counts itself, programs are run with other rows and data, in two
 * threads, without new memory. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/extension.h"
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <pthread.h>
#include <string.h>

static ad_var column(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }

static void expect(const char *error, const char *part)
{
    ck_assert_msg(error && strstr(error, part), "'%s' is not in '%s'", part,
                  error ? error : "no error");
}

/* ---- what must fail, and where --------------------------------------------------------------- */

static ad_var root_of_past(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_add(y, ad_sqrt(ad_neg(t)));
}

static ad_var logarithm(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_log(y);
}

static ad_var to_the_mean(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_sub(ad_mean(y, 1, (int[]){ 0 }, true), y);
}

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}

static ad_var ones(ad_tape *tape, int64_t rows, int64_t d)
{
    double *zeros = calloc((size_t)(rows * d), sizeof *zeros);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), rows, zeros);
    free(zeros);
    return ad_shift(x, 1);
}

/* At t = 0 rounding does not bound the step from below: it must not shrink to nothing and "succeed"
 * for ever. */
START_TEST(test_singular_after_zero)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ad_var y = ode_solve_final(root_of_past, NULL, ones(tape, 3, 2), 0, NULL,
                               ode_interval(tape, 0, 1), &(ode_options){ .stats = &stats });
    ck_assert_ptr_null(ad_value(y));
    expect(ad_tape_error(tape), "near t = 0: the state is not finite in row 0, component 0");
    ck_assert_int_eq(stats.steps, 0);
    ck_assert_int_lt(stats.rejected, 1000);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

START_TEST(test_sample_is_named)
{
    double *y0 = malloc(512 * 8 * sizeof *y0);
    for (int i = 0; i < 512 * 8; i++) y0[i] = 1.5;
    y0[300 * 8 + 5] = 0.5; /* falls to 0 near t = 0.379 */
    const ode_options options[] = { { 0 },
                                    { .method = &ode_rk4, .steps = 40 },
                                    { .method = &ode_implicit_euler, .steps = 40 } };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 8), 512, y0);
        ck_assert_ptr_null(ad_value(
            ode_solve_final(logarithm, NULL, y, 0, NULL, ode_interval(tape, 0, 5), &options[i])));
        expect(ad_tape_error(tape), "row 300, component 5");
        expect(ad_tape_error(tape), "t = 0.");
        ad_tape_free(tape);
    }
    free(y0);
}
END_TEST

START_TEST(test_rows_that_mix)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ones(tape, 4, 2);
    ck_assert_ptr_nonnull(
        ad_value(ode_solve_final(to_the_mean, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), NULL)));
    ode_options implicit = { .method = &ode_trapezoidal, .steps = 4 };
    ck_assert(!ad_valid(
        ode_solve_final(to_the_mean, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &implicit)));
    expect(ad_tape_error(tape), "y does not depend on x row by row");
    ad_tape_free(tape);
}
END_TEST

START_TEST(test_tiny_intervals)
{
    const double size[] = { 1e-12, 1e-170, 1e-300, -1e-300 };
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        double t[3] = { 0, size[i] / 2, size[i] }, y[6];
        ode_options options = { .jump_times = (double[]){ size[i] / 4 }, .njump = 1 };
        ck_assert_int_eq(ad_get(ode_solve(decay, NULL, ones(tape, 2, 1), 0, NULL,
                                          ad_constant(tape, AD_SHAPE(3), t), &options),
                                y),
                         0);
        for (int j = 0; j < 6; j++) ck_assert_double_eq_tol(y[j], 1, 1e-11);
        ad_tape_free(tape);
    }
}
END_TEST

START_TEST(test_replay_of_own_statistics)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options options = { .stats = &stats };
    ad_var y0 = ones(tape, 1, 1), times = ode_interval(tape, 0, 1);
    ad_value(ode_solve_final(decay, NULL, y0, 0, NULL, times, &options));
    options.replay = stats.steps_taken;
    ck_assert(!ad_valid(ode_solve_final(decay, NULL, y0, 0, NULL, times, &options)));
    expect(ad_tape_error(tape), "which this solve overwrites");
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

static ad_var lorenz(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var a = column(y, 0), b = column(y, 1), c = column(y, 2);
    return ad_concatenate(3,
                          (ad_var[]){ ad_scale(ad_sub(b, a), 10),
                                      ad_sub(ad_mul(a, ad_shift(ad_neg(c), 28)), b),
                                      ad_sub(ad_mul(a, b), ad_scale(c, 8.0 / 3)) },
                          1);
}

/* Reverse time is hopeless on a strange attractor: an error whether the backward solve arrives
 * elsewhere or does not arrive. */
START_TEST(test_reverse_time_is_distrusted)
{
    const double span[] = { 2, 15 };
    for (int i = 0; i < 2; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_stats stats = { 0 };
        ode_options options = { .rtol = 1e-10,
                                .atol = 1e-10,
                                .adjoint = &ode_backsolve,
                                .max_steps = 20000,
                                .stats = &stats };
        ad_var y0 = ones(tape, 1, 3), g,
               y = ode_solve_final(lorenz, NULL, y0, 0, NULL, ode_interval(tape, 0, span[i]),
                                   &options);
        ad_grad(ad_sum_all(y), 1, &y0, &g);
        ck_assert_ptr_nonnull(ad_value(y));
        const void *value = ad_value(g);
        ck_assert_ptr_null(value);
        expect(ad_tape_error(tape), "use ode_discrete or ode_interpolating there");
        if (i == 0) expect(ad_tape_error(tape), "at t = 0 the recomputed state is off by");
        ck_assert(isinf(stats.backward_drift));
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- statistics against an operation that counts --------------------------------------------- */

static long evaluations, derivatives;

static int negate(long *count, const ad_opaque_call *call)
{
    ++*count;
    for (int64_t i = 0; i < 2 * call->rows; i++)
        ((double *)call->out[0])[i] = -((const double *)call->in[0])[i];
    return 0;
}

static int count_evaluation(void *data, void *state, const ad_opaque_call *call)
{
    return (void)data, (void)state, negate(&evaluations, call);
}
static int count_derivative(void *data, void *state, const ad_opaque_call *call)
{
    return (void)data, (void)state, negate(&derivatives, call);
}

static const ad_opaque_class minus_vjp = { .name = "minus_vjp", .forward = count_derivative };

static void vjp_of_minus(void *data, ad_var token, int nin, const ad_var *in, int nout,
                         const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)data, (void)nin, (void)nout, (void)out, (void)need;
    ad_shape shape = ad_shape_of(in[0]);
    ad_opaque(token.tape, &minus_vjp, NULL, 1, ybar, 1, &shape, xbar);
}

static void jvp_of_minus(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                         int nout, const ad_var *out, ad_var *ydot)
{
    (void)data, (void)token, (void)nin, (void)in, (void)nout, (void)out;
    ydot[0] = ad_neg(xdot[0]);
}

static const ad_opaque_class minus = {
    .name = "minus", .forward = count_evaluation, .vjp = vjp_of_minus, .jvp = jvp_of_minus
};

static ad_var counted(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    ad_var out;
    ad_shape shape = ad_shape_of(y);
    ad_opaque(y.tape, &minus, NULL, 1, &y, 1, &shape, &out);
    return ad_add(out, ad_sin(ad_scale(t, 3)));
}

static void check_counts(const ode_method *method, const ode_adjoint *adjoint, int fixed,
                         int variable)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options options = {
        .method = method, .adjoint = adjoint, .rtol = 1e-4, .atol = 1e-4, .stats = &stats
    };
    if (fixed) options.steps = 7;
    else options.first_step = 3; /* too large: there are rejections */
    double t[4] = { 0, 0.5, 2, 3 };
    ad_var times = variable ? ad_input(tape, AD_SHAPE(4), t) : ad_constant(tape, AD_SHAPE(4), t),
           y0 = ones(tape, 2, 2), g;
    ad_var loss = ad_sum_all(ad_square(ode_solve(counted, NULL, y0, 0, NULL, times, &options)));
    ad_grad(loss, 1, variable ? &times : &y0, &g);
    evaluations = derivatives = 0;
    const char *name = ode_method_name(method);
    ck_assert_msg(ad_value(loss), "%s: %s", name, ad_tape_error(tape));
    ck_assert_msg(stats.evaluations == evaluations, "%s: %ld evaluations, counted %ld", name,
                  (long)stats.evaluations, evaluations);
    ck_assert_int_eq(stats.steps, ode_steps_count(stats.steps_taken));
    ck_assert(fixed ? stats.rejected == 0 : stats.rejected > 0);
    evaluations = 0;
    if (method_implicit(method)) goto done; /* derivatives of the root are Jacobians */
    ck_assert_ptr_nonnull(ad_value(g));
    ck_assert_msg(stats.vjps == derivatives, "%s: %ld VJPs, counted %ld", name, (long)stats.vjps,
                  derivatives);
    if (adjoint == &ode_backsolve)
        ck_assert_msg(stats.backward_evaluations == evaluations, "%s: %ld back, counted %ld", name,
                      (long)stats.backward_evaluations, evaluations);
done:
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}

START_TEST(test_counts)
{
    for (const ode_method *const *m = ode_methods(); *m; m++)
        for (int i = 0; i < 8; i++) {
            bool implicit = method_implicit(*m);
            if ((!(i & 1) && !ode_method_adaptive(*m)) || (implicit && i & 2)) continue;
            check_counts(*m, i & 2 ? &ode_backsolve : &ode_discrete, i & 1, i >> 2);
        }
}
END_TEST

/* ---- one program, many runs ------------------------------------------------------------------ */

static ad_var network(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_add(ad_tanh(ad_matmul(y, args[0])), ad_scale(ad_mul(y, ad_cos(t)), 0.1));
}

/* Loss and gradients of solves in sequence and side by side, between an encoder and a decoder. in:
 * x [rows,3], W, V [2,2], E [3,2]. */
static void record_composition(const ad_var *in, const ode_options *options, ad_var *out)
{
    ad_tape *tape = in[0].tape;
    ad_var z = ad_tanh(ad_matmul(in[0], in[3]));
    ad_var a = ode_solve_final(network, NULL, z, 1, in + 1, ode_interval(tape, 0, 1), options);
    ad_var b = ode_solve_final(network, NULL, a, 1, in + 2, ode_interval(tape, 1, 2.5), options);
    ad_var c = ode_solve_final(network, NULL, z, 1, in + 2, ode_interval(tape, 0, 1), options);
    ad_var d = ode_solve_final(network, NULL, z, 1, in + 1, ode_interval(tape, 0, 1.5), options);
    ad_var decoded = ad_contract("bi,oi->bo", 2, (ad_var[]){ ad_add(b, ad_mul(c, d)), in[3] });
    out[0] = ad_mean_all(ad_square(ad_sub(decoded, in[0])));
    ad_grad(out[0], 4, in, out + 1);
}

enum { MOST_ROWS = 70 };
typedef struct {
    double x[MOST_ROWS * 3], w[4], v[4], e[6], loss, gx[MOST_ROWS * 3], gw[4], gv[4], ge[6];
} numbers;

static void fill(numbers *n, int k)
{
    for (int i = 0; i < MOST_ROWS * 3; i++) n->x[i] = sin(1.1 * i + k);
    for (int i = 0; i < 6; i++) {
        if (i < 4) {
            n->w[i] = 0.7 * cos(i + k);
            n->v[i] = 0.7 * sin(2 * i + k);
        }
        n->e[i] = 0.8 * cos(3 * i + 1);
    }
}

static int run(const ad_program *program, ad_workspace *workspace, int64_t rows, numbers *n)
{
    return ad_run(program, workspace, rows, (const void *[]){ n->x, n->w, n->v, n->e },
                  (void *[]){ &n->loss, n->gx, n->gw, n->gv, n->ge });
}

static ad_program *compile_composition(const ode_options *options)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var in[4] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 0, NULL),
                     ad_param(tape, AD_SHAPE(2, 2), NULL), ad_param(tape, AD_SHAPE(2, 2), NULL),
                     ad_param(tape, AD_SHAPE(3, 2), NULL) };
    ad_var out[5];
    record_composition(in, options, out);
    ad_program *program = ad_compile(4, in, 5, out);
    ck_assert_msg(program, "%s", ad_tape_error(tape) ? ad_tape_error(tape) : "");
    ad_tape_free(tape); /* programs outlive tapes */
    return program;
}

static const ode_options composed[] = { { .rtol = 1e-8 },
                                        { .rtol = 1e-8, .adjoint = &ode_backsolve },
                                        { .method = &ode_trapezoidal, .steps = 5 },
                                        { .method = &ode_nystroem2, .steps = 9 },
                                        { .method = &ode_rk4, .steps = 3, .rerecord = true } };
enum { COMPOSED = sizeof composed / sizeof *composed };

/* Rows and data change from run to run, some runs fail: nothing is left over from them. */
START_TEST(test_runs_leave_nothing_behind)
{
    const int rows[] = { 5, 1, 64, 3, 70, 5 };
    numbers *n = calloc(2, sizeof *n);
    ad_program *program = compile_composition(&composed[_i]);
    ad_workspace *used = ad_workspace_new(program, 0);
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        ad_workspace *fresh = ad_workspace_new(program, 0);
        fill(&n[0], (int)k);
        fill(&n[1], (int)k);
        ck_assert_int_eq(run(program, used, rows[k], &n[0]), 0);
        ck_assert_int_eq(run(program, fresh, rows[k], &n[1]), 0);
        ck_assert_mem_eq(&n[0], &n[1], sizeof n[0]);
        ad_workspace_free(fresh);
        n[0].x[1] = NAN;
        ck_assert_int_eq(run(program, used, rows[k], &n[0]), -1);
        expect(ad_workspace_error(used), "y0 is nan in row 0");
        ck_assert_int_eq(run(program, used, 0, &n[0]), -1);
        memset(n, 0, 2 * sizeof *n);
    }
    ad_workspace_free(used);
    ad_program_free(program);
    free(n);
}
END_TEST

typedef struct {
    const ad_program *program;
    numbers n;
    double losses[40];
} job;

static void *work(void *argument)
{
    job *j = argument;
    ad_workspace *workspace = ad_workspace_new(j->program, 1);
    for (int i = 0; i < 40; i++) {
        fill(&j->n, i);
        j->losses[i] = run(j->program, workspace, 1 + i % 7, &j->n) ? NAN : j->n.loss + j->n.gw[1];
    }
    ad_workspace_free(workspace);
    return NULL;
}

START_TEST(test_two_threads)
{
    job *jobs = calloc(2, sizeof *jobs);
    pthread_t thread;
    ad_program *program = compile_composition(&composed[_i]);
    jobs[0].program = jobs[1].program = program;
    ck_assert_int_eq(pthread_create(&thread, NULL, work, &jobs[0]), 0);
    work(&jobs[1]);
    pthread_join(thread, NULL);
    for (int i = 0; i < 40; i++)
        ck_assert(jobs[0].losses[i] == jobs[1].losses[i]); /* NaN is unequal to itself */
    ad_program_free(program);
    free(jobs);
}
END_TEST

#ifndef ALLOCATIONS_NOT_COUNTED
/* Backsolve's memory does not grow with the number of steps. (The first solve is not counted: it
 * starts threads.) */
START_TEST(test_constant_memory)
{
    long live[3];
    for (int i = 0; i < 3; i++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_options options = { .method = &ode_rk4,
                                .steps = i == 2 ? 5000 : 50,
                                .adjoint = &ode_backsolve };
        ad_var y0 = ones(tape, 10, 2), g;
        ad_grad(ad_sum_all(
                    ode_solve_final(decay, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &options)),
                1, &y0, &g);
        long before = allocations_live();
        ck_assert_ptr_nonnull(ad_value(g));
        live[i] = allocations_live() - before;
        ad_tape_free(tape);
    }
    ck_assert_int_eq(live[1], live[2]);
}
END_TEST
#endif

int main(void)
{
    TCase *tests = suite_case("distrust", "distrust");
    tcase_add_test(tests, test_singular_after_zero);
    tcase_add_test(tests, test_sample_is_named);
    tcase_add_test(tests, test_rows_that_mix);
    tcase_add_test(tests, test_tiny_intervals);
    tcase_add_test(tests, test_replay_of_own_statistics);
    tcase_add_test(tests, test_reverse_time_is_distrusted);
    tcase_add_test(tests, test_counts);
    tcase_add_loop_test(tests, test_runs_leave_nothing_behind, 0, COMPOSED);
    tcase_add_loop_test(tests, test_two_threads, 0, COMPOSED);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_test(tests, test_constant_memory);
#endif
    return suite_run();
}
