/* Bytes of solves and of their gradients before anything runs: what ad_program_bytes says of a
 * program is what its workspace holds afterwards, solves in it included; and limits are errors that
 * name them, before anything runs where the steps are given, else where they grow beyond. */
#define TESTS_COUNT_ALLOCATIONS
#include "ode/ode.h"
#include "autodiff/extension.h"
#include "tests/support.h"
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 6, HIDDEN = 24, MOST_ROWS = 1000 };

static ad_var network(ad_var t, ad_var y, const ad_var *w, void *user)
{
    (void)t, (void)user;
    return ad_matmul(ad_tanh(ad_matmul(y, w[0])), w[1]);
}

static const struct {
    const char *name;
    ode_options options;
    bool gradient;
} cases[] = {
    { "rk4, the solution", { .method = &ode_rk4, .steps = 40 }, false },
    { "rk4, discrete", { .method = &ode_rk4, .steps = 40 }, true },
    { "rk4, a step size", { .method = &ode_rk4, .step = 0.025 }, true },
    { "rk4, nothing kept", { .method = &ode_rk4, .steps = 40, .keep_bytes = 1 }, true },
    { "rk4, some kept", { .method = &ode_rk4, .steps = 40, .keep_bytes = 20000 }, true },
    { "trbdf2, discrete", { .method = &ode_trbdf2, .steps = 10 }, true },
    { "rk4, backsolve", { .method = &ode_rk4, .steps = 40, .adjoint = &ode_backsolve }, true },
    { "rk4, interpolating",
      { .method = &ode_rk4, .steps = 40, .adjoint = &ode_interpolating },
      true },
    { "dopri5, discrete", { .method = &ode_dopri5, .rtol = 1e-10 }, true },
    { "dopri5, backsolve",
      { .method = &ode_dopri5, .rtol = 1e-10, .adjoint = &ode_backsolve },
      true },
    { "rk4, recurrent", { .method = &ode_rk4, .steps = 40 }, true },
    { "dopri5, recurrent", { .method = &ode_dopri5, .rtol = 1e-10 }, true },
};
enum { CASES = sizeof cases / sizeof *cases };

static bool adaptive(int k) { return cases[k].options.method == &ode_dopri5; }
/* Whether the solve is the step of a recurrence. */
static bool recurrent(int k) { return strstr(cases[k].name, "recurrent") != NULL; }

static void turn(const ad_scan_step *at, void *options)
{
    at->next[0] = ode_solve_final(network, NULL, at->carry[0], 2, at->arg,
                                  ode_interval(at->tape, 0, 1), options);
}

static ad_var solve(ad_var y0, const ad_var *w, bool again, ode_options *options)
{
    if (!again)
        return ode_solve_final(network, NULL, y0, 2, w, ode_interval(y0.tape, 0, 1), options);
    ad_recurrence r = {
        .step = turn, .user = options, .steps = 3, .ncarry = 1, .narg = 2, .carry = &y0, .arg = w
    };
    ad_var last = { 0 };
    ad_scan(&r, &last, NULL);
    return last;
}

typedef struct {
    ad_tape *tape;
    ad_program *program;
    ad_var out[3];
    int nout;
    double y0[MOST_ROWS * WIDTH], w[2][WIDTH * HIDDEN], loss, bar[2][WIDTH * HIDDEN];
    ode_stats stats;
} sample;

static sample *compile(int k)
{
    sample *s = calloc(1, sizeof *s);
    ck_assert_ptr_nonnull(s);
    ad_rng rng = ad_rng_seed(3);
    for (int i = 0; i < MOST_ROWS * WIDTH; i++) s->y0[i] = ad_rng_normal(&rng);
    for (int i = 0; i < 2 * WIDTH * HIDDEN; i++)
        s->w[i / (WIDTH * HIDDEN)][i % (WIDTH * HIDDEN)] = 0.2 * ad_rng_normal(&rng);
    ad_tape *t = s->tape = ad_tape_new(AD_F64);
    ode_options o = cases[k].options;
    o.stats = &s->stats;
    ad_var in[] = { ad_input_rows(t, AD_SHAPE(AD_ROWS, WIDTH), MOST_ROWS, s->y0),
                    ad_param(t, AD_SHAPE(WIDTH, HIDDEN), s->w[0]),
                    ad_param(t, AD_SHAPE(HIDDEN, WIDTH), s->w[1]) };
    ad_var y = solve(in[0], in + 1, recurrent(k), &o);
    s->nout = cases[k].gradient ? 3 : 1;
    s->out[0] = ad_sum_all(ad_square(y));
    if (cases[k].gradient) ad_grad(s->out[0], 2, in + 1, s->out + 1);
    s->program = ad_compile(3, in, s->nout, s->out);
    ck_assert_msg(s->program != NULL, "%s", ad_tape_error(t));
    return s;
}

static void end(sample *s)
{
    ad_program_free(s->program);
    ad_tape_free(s->tape);
    ode_stats_clear(&s->stats);
    free(s);
}

static int run(sample *s, ad_workspace *w, int64_t rows)
{
    return ad_run(s->program, w, rows, (const void *[]){ s->y0, s->w[0], s->w[1] },
                  (void *[]){ &s->loss, s->bar[0], s->bar[1] });
}

#ifndef ALLOCATIONS_NOT_COUNTED
static const int64_t row_counts[] = { 1, 32, MOST_ROWS };

/* Within a tenth, and never less than is held: but for the smallest arrays, which the system rounds
 * up, and what the steps' own figure adds. */
START_TEST(test_held)
{
    sample *s = compile(_i);
    for (int k = 0; k < 3; k++)
        for (int threads = 1; threads <= 2; threads++) {
            int64_t each, bytes = ad_program_bytes(s->program, row_counts[k], threads, &each);
            long before = 0, held = 0, count = 0;
            for (int turn = 0; turn < 2; turn++) { /* in the first one threads begin */
                before = allocations_bytes();
                count = allocations_live();
                ad_workspace *w = ad_workspace_new(s->program, threads);
                ck_assert_msg(run(s, w, row_counts[k]) == 0, "%s", ad_workspace_error(w));
                held = allocations_bytes() - before;
                count = allocations_live() - count;
                ad_workspace_free(w);
            }
            ck_assert_msg((each > 0) == (adaptive(_i) && cases[_i].options.adjoint == NULL),
                          "%s: %lld bytes a step", cases[_i].name, (long long)each);
            bytes += each * s->stats.steps;
            /* adaptive steps may not need all programs that they might */
            const int64_t least = adaptive(_i) ? 0 : bytes - bytes / 10;
            /* and slabs of large pages begin at one: the system counts what lies before */
            const int64_t pages = bytes > 1 << 22 ? bytes / 8 : 0;
            ck_assert_msg(held <= bytes + count * 60 + bytes / 50 + pages && held >= least,
                          "%s, %lld rows, %d threads: foretold %lld, held %ld in %ld arrays",
                          cases[_i].name, (long long)row_counts[k], threads, (long long)bytes, held,
                          count);
        }
    end(s);
}
END_TEST
#endif

/* Where steps are given, the limit is looked at before anything runs. */
START_TEST(test_limit)
{
    sample *s = compile(_i);
    if (!adaptive(_i)) {
        const int64_t bytes = ad_program_bytes(s->program, 200, 1, NULL);
        ad_workspace *w = ad_workspace_new(s->program, 1);
        ck_assert_int_eq(ad_workspace_set_limit(w, bytes - 1), 0);
        s->stats.evaluations = -5;
        ck_assert_int_eq(run(s, w, 200), -1);
        ck_assert_int_eq(s->stats.evaluations, -5); /* nothing ran */
        const char *error = ad_workspace_error(w);
        ck_assert_msg(strstr(error, "out of memory: ") && strstr(error, "and the limit is ") &&
                          strstr(error, "run with rows = "),
                      "%s", error);
        ck_assert_int_eq(ad_workspace_set_limit(w, bytes), 0);
        ck_assert_msg(run(s, w, 200) == 0, "%s", ad_workspace_error(w));
        /* Halved steps are more than were reckoned: they have what the limit leaves. */
        const ad_run_args halved = { .rows = 200,
                                     .inputs = (const void *[]){ s->y0, s->w[0], s->w[1] },
                                     .outputs = (void *[]){ &s->loss, s->bar[0], s->bar[1] },
                                     .refine = 1 };
        ck_assert_int_eq(ad_workspace_set_limit(w, 4 * bytes), 0);
        ck_assert_msg(ad_run_with(s->program, w, &halved) == 0, "%s", ad_workspace_error(w));
        ad_workspace_free(w);
    }
    end(s);
}
END_TEST

/* What takes most of it is named. */
START_TEST(test_largest)
{
    sample *s = compile(1);
    ad_workspace *w = ad_workspace_new(s->program, 1);
    ck_assert_int_eq(ad_workspace_set_limit(w, 1000), 0);
    ck_assert_int_eq(run(s, w, 1000), -1);
    ck_assert_msg(strstr(ad_workspace_error(w), "most of it is the memory of ode_solve_final, "),
                  "%s", ad_workspace_error(w));
    ck_assert_msg(strstr(ad_workspace_error(w), ": states and activations of 40 steps, "), "%s",
                  ad_workspace_error(w));
    char *text = ad_program_describe(s->program);
    ck_assert_msg(strstr(text, "of that ode_solve_final at 512 rows ") != NULL, "%s", text);
    ck_assert_msg(strstr(text, "of that ode_solve_final's adjoint at 512 rows ") != NULL, "%s",
                  text);
    free(text);
    ad_workspace_free(w);
    end(s);
}
END_TEST

/* Steps that the error chooses grow up to the limit, and no further; those of a solve in a
 * recurrence too. */
START_TEST(test_adaptive)
{
    sample *s = compile(_i ? CASES - 1 : 8);
    int64_t each, bytes = ad_program_bytes(s->program, 50, 1, &each);
    ad_workspace *w = ad_workspace_new(s->program, 1);
    ck_assert_int_eq(run(s, w, 50), 0);
    const int64_t steps = s->stats.steps;
    ck_assert_int_gt(steps, 8);
    ck_assert_int_eq(ad_workspace_set_limit(w, bytes + each), 0);
    ck_assert_int_eq(run(s, w, 50), -1);
    ck_assert_int_eq(s->stats.status, ODE_OUT_OF_MEMORY);
    const char *error = ad_workspace_error(w);
    ck_assert_msg(strstr(error, "is one too many for the limit") && strstr(error, "keep_bytes") &&
                      strstr(error, "COSTATE_MEMORY"),
                  "%s", error);
    /* Piles grow by eight slots or so. */
    ck_assert_int_eq(ad_workspace_set_limit(w, bytes + each * (steps + 16)), 0);
    ck_assert_msg(run(s, w, 50) == 0, "%s", ad_workspace_error(w));
    ck_assert_int_eq(s->stats.steps, steps);
    ck_assert_int_eq(ad_workspace_set_limit(w, bytes + each), 0);
    ck_assert_int_eq(run(s, w, 50), -1);
    ck_assert_int_eq(ad_workspace_set_limit(w, 0), 0);
    ck_assert_msg(run(s, w, 50) == 0, "%s", ad_workspace_error(w));
    ad_workspace_free(w);
    end(s);
}
END_TEST

/* Values on demand too. */
START_TEST(test_lazy)
{
    sample *s = compile(_i);
    ad_tape_set_memory(s->tape, 100000);
    ck_assert_ptr_null(ad_value(s->out[s->nout - 1]));
    ck_assert_msg(strstr(ad_tape_error(s->tape), "the limit") != NULL, "%s",
                  ad_tape_error(s->tape));
    ad_tape_clear_error(s->tape);
    ad_tape_set_memory(s->tape, 0);
    ck_assert_ptr_nonnull(ad_value(s->out[s->nout - 1]));
    end(s);
}
END_TEST

int main(void)
{
    TCase *tc = suite_case("budget", "budget");
#ifndef ALLOCATIONS_NOT_COUNTED
    tcase_add_loop_test(tc, test_held, 0, CASES);
#endif
    tcase_add_loop_test(tc, test_limit, 0, CASES);
    tcase_add_test(tc, test_largest);
    tcase_add_loop_test(tc, test_adaptive, 0, 2);
    tcase_add_loop_test(tc, test_lazy, 0, CASES);
    return suite_run();
}
