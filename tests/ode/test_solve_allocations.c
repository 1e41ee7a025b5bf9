/* Allocations of solves: the second of the same size makes none, and wherever one fails there is an
 * error. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/extension.h"
#include "costate.h"
#include "lotka.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

/* A network with work that depends on parameters alone, in the prologue (exp) and in the steps
 * (products and their transposes). */
static ad_var trained(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var w = ad_reshape(args[0], AD_SHAPE(2, 2)), h = ad_tanh(ad_matmul(y, ad_exp(w)));
    return ad_sub(ad_matmul(h, ad_mul(w, ad_sin(w))), ad_scale(y, 2));
}

static const ode_adjoint *const adjoints[] = { &ode_discrete, &ode_backsolve, &ode_interpolating };

/* A second solve and gradient of the same size, with rejected steps, allocates nothing. */
START_TEST(nothing_is_allocated)
{
    static const ode_method *const methods[] = { &ode_dopri5, &ode_dopri8, &ode_rk4,
                                                 &ode_trapezoidal, &ode_nystroem2 };
    const ode_method *m = methods[_i / 3];
    const ode_adjoint *adjoint = adjoints[_i % 3];
    if (m == &ode_nystroem2 && adjoint == &ode_interpolating) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = { .method = m,
                      .rtol = 1e-5,
                      .atol = 1e-5,
                      .first_step = 3,
                      .adjoint = adjoint,
                      .stats = &stats };
    if (!ode_method_adaptive(m)) {
        o.first_step = 0;
        o.steps = 60;
    }
    enum { B = 100 };
    static double x[2 * B], out[3 * 2 * B], gx[2 * B], gp[4], p0[4], t[3] = { 0, 1, 4 }, gt[3];
    for (int i = 0; i < 2 * B; i++) x[i] = 1 + 0.3 * sin(1.7 * i);
    memcpy(p0, lotka_p, sizeof p0);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 0, NULL),
           p = ad_param(tape, AD_SHAPE(4), NULL), times = ad_input(tape, AD_SHAPE(3), NULL);
    ad_var y = ode_solve(trained, NULL, y0, 1, &p, times, &o), in[] = { y0, p, times },
           results[4] = { y };
    ad_grad(ad_sum_all(ad_square(y)), 3, in, results + 1);
    ad_program *program = ad_compile(3, in, 4, results);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
    ad_workspace *w = ad_workspace_new(program, 1);
    const void *inputs[] = { x, p0, t };
    void *outputs[] = { out, gx, gp, gt };
    for (int k = 0; k < 3; k++) {
        p0[0] = 1.5 - 0.001 * k; /* other values, as in training */
        long before = allocations();
        int failed = ad_run(program, w, B, inputs, outputs);
        long made = allocations() - before;
        ck_assert_msg(!failed, "%s", ad_workspace_error(w));
        if (k) ck_assert_int_eq(made, 0);
    }
    if (ode_method_adaptive(m)) ck_assert_int_gt(stats.rejected, 0);
    ck_assert(isfinite(gp[0]) && gp[0] != 0);
    /* With the new values of the parameters: as a fresh workspace has it. */
    static double fresh[3 * 2 * B], fresh_x[2 * B], fresh_p[4], fresh_t[3];
    ad_workspace *other = ad_workspace_new(program, 1);
    ck_assert_int_eq(
        ad_run(program, other, B, inputs, (void *[]){ fresh, fresh_x, fresh_p, fresh_t }), 0);
    ck_assert_mem_eq(out, fresh, sizeof out);
    ck_assert_mem_eq(gx, fresh_x, sizeof gx);
    ck_assert_mem_eq(gp, fresh_p, sizeof gp);
    ck_assert_mem_eq(gt, fresh_t, sizeof gt);
    ad_workspace_free(other);
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

#ifndef ALLOCATIONS_NOT_COUNTED
/* The results of an attempt. */
typedef struct {
    double out[12], gx[4], gp[4], gt[3];
} numbers;

/* Records, differentiates, compiles and runs a solve; true when all went well. *failed: whether an
 * allocation failed. After a failure in the run the program works again, after one before it so
 * does the tape. */
static bool attempt(ode_field field, const ode_method *m, const ode_adjoint *adjoint, bool *failed,
                    numbers *of)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    *failed = true;
    if (!tape) return false;
    double x[4] = { 1, 1, 2, 0.5 }, t[3] = { 0, 0.5, 1 };
    ode_stats stats = { 0 };
    ode_options o = { .method = m,
                      .adjoint = adjoint,
                      .rtol = 1e-3,
                      .atol = 1e-3,
                      .steps = ode_method_adaptive(m) ? 0 : 3,
                      .stats = &stats };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 0, NULL),
           p = ad_param(tape, AD_SHAPE(4), NULL), times = ad_input(tape, AD_SHAPE(3), NULL);
    ad_var y = ode_solve(field, NULL, y0, 1, &p, times, &o), in[] = { y0, p, times }, r[4] = { y };
    ad_grad(ad_sum_all(ad_square(y)), 3, in, r + 1);
    ad_program *program = ad_compile(3, in, 4, r);
    ad_workspace *w = program ? ad_workspace_new(program, 1) : NULL;
    const void *inputs[] = { x, lotka_p, t };
    void *outputs[] = { of->out, of->gx, of->gp, of->gt };
    bool good = w && !ad_run(program, w, 2, inputs, outputs);
    *failed = allocations_failed(); /* the checks allocate */
    if (w && !good) {
        ck_assert_ptr_nonnull(ad_workspace_error(w));
        ck_assert_msg(!ad_run(program, w, 2, inputs, outputs), "%s", ad_workspace_error(w));
        ck_assert(isfinite(of->gp[0]));
    } else if (!program) {
        ck_assert_ptr_nonnull(ad_tape_error(tape));
        ad_tape_clear_error(tape);
        if (ad_valid(y0) && ad_valid(p) && ad_valid(times)) {
            ad_grad(ad_sum_all(ad_square(ode_solve(field, NULL, y0, 1, &p, times, &o))), 3, in,
                    r + 1);
            ck_assert_msg(ad_valid(r[1]), "%s", ad_tape_error(tape));
        }
    }
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
    return good;
}

/* Wherever memory runs out, for good or for one allocation alone, there is an error or the same
 * numbers, and no crash, and nothing stays broken. */
START_TEST(every_allocation_may_fail)
{
    static const ode_method *const methods[] = { &ode_dopri5, &ode_rk4, &ode_trapezoidal,
                                                 &ode_nystroem2 };
    static const ode_method *const controlled[] = { &ode_dopri5, &ode_trapezoidal, &ode_kvaerno3 };
    bool interpolating = _i >= 32; /* one field */
    ode_field field = interpolating || _i % 16 >= 8 ? trained : lotka;
    const ode_method *m = interpolating ? controlled[(_i - 32) / 2] : methods[_i % 8 / 2];
    const ode_adjoint *adjoint = _i % 2 ? &ode_backsolve : &ode_discrete;
    if (interpolating) adjoint = &ode_interpolating;
    bool failed = true;
    numbers right, found;
    ck_assert(attempt(field, m, adjoint, &failed, &right));
    failed = true;
    for (long k = 0; failed; k += k < 40 || _i % 16 < 2 ? 1 : 7) {
        if (interpolating ? _i % 2 == 0 : _i < 16) allocations_fail_at(k);
        else allocations_fail_alone(k);
        bool good = attempt(field, m, adjoint, &failed, &found);
        allocations_fail_at(-1);
        ck_assert(good || failed);
        /* Code that could not be made native rounds otherwise; other steps differ by far more. */
        for (size_t i = 0; good && i < sizeof right / sizeof(double); i++)
            ck_assert_double_eq_tol(((double *)&found)[i], ((double *)&right)[i], 1e-11);
    }
}
END_TEST
#endif

/* Recording and evaluating the same solve again compiles nothing anew. */
START_TEST(recording_again_is_cheap)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 1, 1 }),
           p = ad_param(tape, AD_SHAPE(4), lotka_p), in[] = { y0, p };
    int32_t mark = ad_tape_mark(tape);
    long count[3];
    for (int k = 0; k < 3; k++) {
        long before = allocations();
        ad_var g[2],
            y = ode_solve_final(lotka, NULL, y0, 1, &p, ode_interval(tape, 0, 1 - 0.1 * k), NULL);
        ad_grad(ad_sum_all(y), 2, in, g);
        ad_value(g[1]);
        ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
        count[k] = allocations() - before;
        ad_tape_rewind(tape, mark);
    }
#ifndef ALLOCATIONS_NOT_COUNTED
    ck_assert_int_lt(count[1], count[0] / 3);
    ck_assert_int_le(count[2], count[1]);
#endif
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("solve_allocations", "solve_allocations");
    tcase_add_loop_test(tests, nothing_is_allocated, 0, 15);
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_loop_test(tests, every_allocation_may_fail, 0, 38);
#endif
    tcase_add_test(tests, recording_again_is_cheap);
    return suite_run();
}
