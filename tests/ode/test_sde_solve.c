/* Stochastic solves beside their numbers: outputs, several states, costs, draws, rows that share
 * paths, chosen and replayed steps, callbacks, parts of solves, refinement, bits. */
#define TESTS_COUNT_ALLOCATIONS
#include "costate.h"
#include "ode/step/step.h"
#include "sde_problems.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static ad_var nothing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_zeros_like(y);
}
static ad_var unit_noise(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)args, (void)user;
    return ad_scalar(t.tape, 1);
}
static ad_var linear(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, 0.5);
}

static ad_var zeros(ad_tape *tape, int rows, int width)
{
    double *x = calloc((size_t)rows * (size_t)width, sizeof *x);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, width), rows, x);
    free(x);
    return y;
}

static ad_var ones(ad_tape *tape, int rows, int width)
{
    return ad_shift(zeros(tape, rows, width), 1);
}

static ad_var network(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_matmul(ad_tanh(ad_matmul(y, args[0])), args[0]);
}

/* ---- paths ---- */

enum { ROWS = 4, WIDTH = 2 };

/* W at the end, [ROWS,WIDTH]. */
static void end_of_path(const sde_path *path, const double *draw, double *w)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    sde_options options = { .ode = { .steps = 8 }, .path = *path };
    if (draw) options.path.draw = ad_input(tape, AD_SCALAR, draw);
    get(sde_solve_final(nothing, unit_noise, NULL, zeros(tape, ROWS, WIDTH), 0, NULL,
                        ode_interval(tape, 0, 1), &options),
        w);
    ad_tape_free(tape);
}

START_TEST(paths)
{
    double w[ROWS * WIDTH], other[ROWS * WIDTH], draw[] = { 0, 1 };
    sde_path path = { .seed = 11 };
    end_of_path(&path, NULL, w);
    end_of_path(&path, NULL, other);
    ck_assert_mem_eq(w, other, sizeof w);
    for (int i = 0; i < ROWS * WIDTH; i++)
        for (int k = 0; k < i; k++) ck_assert(w[i] != w[k]);
    end_of_path(&path, &draw[0], other);
    ck_assert_mem_eq(w, other, sizeof w);
    end_of_path(&path, &draw[1], other);
    for (int i = 0; i < ROWS * WIDTH; i++) ck_assert(w[i] != other[i]);
    sde_path seed = { .seed = 12 }, common = { .seed = 11, .common = true };
    end_of_path(&seed, NULL, other);
    for (int i = 0; i < ROWS * WIDTH; i++) ck_assert(w[i] != other[i]);
    end_of_path(&common, NULL, other);
    for (int r = 0; r < ROWS; r++) ck_assert_mem_eq(other + r * WIDTH, w, WIDTH * sizeof *w);
    sde_path pairs = { .seed = 11, .antithetic = true };
    end_of_path(&pairs, NULL, other);
    for (int r = 0; r < ROWS; r += 2)
        for (int i = 0; i < WIDTH; i++)
            ck_assert_double_eq(other[r * WIDTH + i], -other[(r + 1) * WIDTH + i]);
}
END_TEST

/* Solves in both directions over one interval have one path, whichever way it is given. */
START_TEST(directions)
{
    enum { TIMES = 5 };
    const double ends[][2] = { { 0, 0 }, { 0, 1 }, { 1, 0 } };
    double w[2][TIMES];
    for (int k = 0; k < 3; k++) {
        for (int back = 0; back < 2; back++) {
            ad_tape *tape = ad_tape_new(AD_F64);
            sde_options options = { .ode = { .steps = 3 },
                                    .path = { .seed = 11, .t0 = ends[k][0], .t1 = ends[k][1] } };
            get(sde_solve(nothing, unit_noise, NULL, zeros(tape, 1, 1), 0, NULL,
                          ode_linspace(tape, back, 1 - back, TIMES), &options),
                w[back]);
            ad_tape_free(tape);
        }
        for (int i = 0; i < TIMES; i++)
            ck_assert_double_eq_tol(w[1][TIMES - 1 - i], w[0][i] - w[0][TIMES - 1], 1e-12);
    }
}
END_TEST

/* A compiled step of training: other draws, other paths, each row by its own. */
START_TEST(draws)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = zeros(tape, 2, 1), draw = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    sde_options options = { .ode = { .steps = 4 }, .path = { .draw = draw } };
    ad_var y =
        sde_solve_final(nothing, unit_noise, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &options);
    ad_program *program = ad_compile(2, (ad_var[]){ y0, draw }, 1, &y);
    ad_workspace *w = ad_workspace_new(program, 1);
    double zero[2] = { 0 }, number[2] = { 3, 3 }, first[2], second[2], half = 0.5;
    ck_assert_msg(w &&
                      !ad_run(program, w, 2, (const void *[]){ zero, number }, (void *[]){ first }),
                  "%s", ad_workspace_error(w));
    number[1] = 4;
    ck_assert(!ad_run(program, w, 2, (const void *[]){ zero, number }, (void *[]){ second }));
    ck_assert_double_eq(first[0], second[0]);
    ck_assert_double_ne(first[1], second[1]);
    number[1] = half;
    ck_assert(ad_run(program, w, 2, (const void *[]){ zero, number }, (void *[]){ second }));
    ck_assert(strstr(ad_workspace_error(w), "whole number"));
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

/* A solve in two parts on one path ends where the whole one does. */
START_TEST(parts)
{
    double whole[ROWS * WIDTH], halves[ROWS * WIDTH];
    sde_path path = { .seed = 2, .t0 = 0, .t1 = 1, .cells = 8 };
    sde_options options = { .ode = { .steps = 8 }, .path = path };
    ad_tape *tape = ad_tape_new(AD_F64);
    get(sde_solve_final(linear, linear, NULL, ones(tape, ROWS, WIDTH), 0, NULL,
                        ode_interval(tape, 0, 1), &options),
        whole);
    options.ode.steps = 4;
    ad_var y = sde_solve_final(linear, linear, NULL, ones(tape, ROWS, WIDTH), 0, NULL,
                               ode_interval(tape, 0, 0.5), &options);
    y = sde_solve_final(linear, linear, NULL, y, 0, NULL, ode_interval(tape, 0.5, 1), &options);
    get(y, halves);
    for (int i = 0; i < ROWS * WIDTH; i++) ck_assert_double_eq_tol(whole[i], halves[i], 1e-14);
    ad_tape_free(tape);
}
END_TEST

/* ---- several states, costs ---- */

/* x' = v dt, dv = -x dt + s dW: the position has no noise. */
static void oscillator(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    (void)t, (void)n, (void)args, (void)user;
    dy[0] = y[1];
    dy[1] = ad_neg(y[0]);
}
static void push(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)t, (void)n, (void)user, (void)y;
    g[1] = args[0];
}
static void push_general(ad_var t, int n, const ad_var *y, const ad_var *args, void *user,
                         ad_var *g)
{
    (void)t, (void)n, (void)user;
    ad_var one = ad_mul(args[0], ad_ones_like(y[1]));
    g[0] = (ad_var){ 0 };
    g[1] = ad_reshape(one, AD_SHAPE(AD_ROWS, 1, 1));
}

START_TEST(states)
{
    double x[2][3 * ROWS], v[2][3 * ROWS], s = 0.7, w[3 * ROWS];
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0[2] = { ones(tape, ROWS, 1), zeros(tape, ROWS, 1) }, y[2];
        ad_var size = ad_param(tape, AD_SCALAR, &s), times = ode_linspace(tape, 0, 0.2, 3);
        sde_options options = { .ode = { .steps = 1 } };
        ck_assert(!sde_solve_states(oscillator, k ? push_general : push, NULL, 2, y0, 1, &size,
                                    times, &options, y));
        get(y[0], x[k]);
        get(y[1], v[k]);
        if (!k) get(sde_solve(nothing, unit_noise, NULL, y0[1], 0, NULL, times, &options), w);
        ad_tape_free(tape);
    }
    ck_assert_mem_eq(x[0], x[1], sizeof x[0]);
    ck_assert_mem_eq(v[0], v[1], sizeof v[0]);
    for (int r = 0; r < ROWS; r++) {
        double p = 1, q = 0;
        for (int i = 1; i < 3; i++) {
            double to = p + 0.1 * q;
            q += -0.1 * p + s * (w[3 * r + i] - w[3 * r + i - 1]);
            p = to;
            ck_assert_double_eq_tol(x[0][3 * r + i], p, 1e-14);
            ck_assert_double_eq_tol(v[0][3 * r + i], q, 1e-14);
        }
    }
}
END_TEST

static ad_var square(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_sum_axis(ad_square(y), 1, true);
}

START_TEST(cost)
{
    enum { N = 5 };
    double y[ROWS * N * WIDTH], q[ROWS * N];
    ad_tape *tape = ad_tape_new(AD_F64);
    sde_options options = { .ode = { .steps = 1 } };
    ad_var running;
    get(sde_solve_cost(linear, linear, square, NULL, ones(tape, ROWS, WIDTH), 0, NULL,
                       ode_linspace(tape, 0, 1, N), &options, &running),
        y);
    get(running, q);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i + 1 < N; i++) {
            const double *at = y + (r * N + i) * WIDTH;
            ck_assert_double_eq_tol(q[r * N + i], sum, 1e-13);
            sum += (at[0] * at[0] + at[1] * at[1]) / (N - 1);
        }
    }
    ad_tape_free(tape);
}
END_TEST

/* ---- chosen steps ---- */

/* Chosen steps land on all output times; replayed, they give the same numbers, and their gradient
 * is that of the frozen steps. The tolerance bounds the error on the path. */
START_TEST(chosen)
{
    const ode_method *m = sde_methods()[_i];
    if (!ode_method_adaptive(m) || !(m->takes & ODE_TAKES_DIAGONAL)) return;
    enum { N = 4 };
    double y[N], replayed[N], w[N], error[2], g[2];
    int64_t fewest = 5;
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_stats stats = { 0 };
        sde_options options = { .ode = { .method = m, .rtol = k ? 1e-4 : 1e-2, .stats = &stats },
                                .calculus = SDE_STRATONOVICH };
        ad_var times = ode_linspace(tape, 0, 1, N), y0 = ones(tape, 1, 1), one = ad_shift(y0, 0),
               bar;
        ad_var solution = sde_solve(linear, linear, NULL, one, 0, NULL, times, &options);
        get(solution, y);
        ad_grad(ad_sum_all(solution), 1, &one, &bar);
        get(bar, g);
        ck_assert_msg(stats.steps > fewest && stats.status == ODE_DONE, "%s: %lld steps", m->name,
                      (long long)stats.steps);
        fewest = 2 * stats.steps;
        const double *t = ode_steps_times(stats.steps_taken);
        int64_t n = ode_steps_count(stats.steps_taken);
        for (int i = 1, at = 0; i < N; i++) {
            while (at <= n && t[at] < i / 3.0 - 1e-15) at++;
            ck_assert_double_eq_tol(t[at], i / 3.0, 1e-15);
        }
        sde_options again = options;
        again.ode.stats = NULL;
        again.ode.rtol = 0;
        again.ode.replay = stats.steps_taken;
        one = ad_shift(y0, 0);
        solution = sde_solve(linear, linear, NULL, one, 0, NULL, times, &again);
        get(solution, replayed);
        ck_assert_mem_eq(y, replayed, sizeof y);
        ad_grad(ad_sum_all(solution), 1, &one, &bar);
        get(bar, g + 1);
        ck_assert_double_eq_tol(g[0], g[1], 1e-12 * fabs(g[0]));
        get(sde_solve(nothing, unit_noise, NULL, zeros(tape, 1, 1), 0, NULL, times, &again), w);
        double exact = exp(0.5 + 0.5 * w[N - 1]);
        error[k] = fabs(y[N - 1] - exact) / exact;
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_msg(error[1] < 2e-3 && error[1] < error[0] + 1e-4, "%s: errors %.3g, %.3g", m->name,
                  error[0], error[1]);
}
END_TEST

/* ---- callbacks, parts, refinement, no time ---- */

static bool three_steps(const ode_accepted_step *step, void *user)
{
    ++*(int *)user;
    return step->number < 2;
}

START_TEST(partial)
{
    int calls = 0;
    double y[5], g;
    ode_stats stats = { 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    sde_options options = { .ode = { .steps = 1,
                                     .on_step = three_steps,
                                     .on_step_user = &calls,
                                     .partial = true,
                                     .stats = &stats } };
    ad_var y0 = ones(tape, 1, 1);
    ad_var s = sde_solve(linear, linear, NULL, y0, 0, NULL, ode_linspace(tape, 0, 1, 5), &options);
    get(s, y);
    ck_assert_int_eq(calls, 3);
    ck_assert(stats.status == ODE_STOPPED && stats.reached == 0.75 && isnan(y[4]));
    ad_var at = ad_slice(s, 1, 3, 4), bar;
    ad_grad(ad_sum_all(at), 1, &y0, &bar);
    get(bar, &g);
    ck_assert_double_eq_tol(g, y[3], 1e-14); /* linear from 1 */
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* Halved steps are on the same path: the difference is the error of the steps. */
START_TEST(refined)
{
    ad_gradient_report report;
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ones(tape, ROWS, WIDTH);
        sde_options options = { .ode = { .method = &sde_heun, .steps = k ? 64 : 1 },
                                .calculus = SDE_STRATONOVICH };
        ad_var y =
            sde_solve_final(linear, linear, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &options);
        ck_assert(!ad_check_gradient(ad_mean_all(ad_square(y)), 1, &y0, 0.02, &report, NULL));
        ck_assert_msg(report.agrees == (k == 1), "%s", report.text);
        ad_tape_free(tape);
    }
}
END_TEST

START_TEST(no_time)
{
    double y[2], bar[2], t[2] = { 0.5, 0.5 };
    for (int i = 0; sde_methods()[i]; i++) {
        if (!(sde_methods()[i]->takes & ODE_TAKES_DIAGONAL)) continue;
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ones(tape, 2, 1), times = ad_input(tape, AD_SHAPE(2), t), g;
        sde_options options = { .ode = { .method = sde_methods()[i], .steps = 1 } };
        ad_var s = sde_solve_final(linear, linear, NULL, y0, 0, NULL, times, &options);
        get(s, y);
        ck_assert_double_eq(y[0], 1);
        ad_grad(ad_sum_all(s), 1, &times, &g);
        get(g, bar);
        ck_assert(isfinite(bar[0]) && isfinite(bar[1]));
        ad_tape_free(tape);
    }
}
END_TEST

/* In single precision: of a linear equation from 1 the derivative by y0 is the solution. */
START_TEST(single)
{
    for (int i = 0; sde_methods()[i]; i++) {
        if (!(sde_methods()[i]->takes & ODE_TAKES_DIAGONAL)) continue;
        double y[3], g[3];
        float one[] = { 1, 1, 1 };
        ad_tape *tape = ad_tape_new(AD_F32);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, one), bar;
        sde_options options = { .ode = { .method = sde_methods()[i], .steps = 20 },
                                .calculus = SDE_STRATONOVICH };
        ad_var s =
            sde_solve_final(linear, linear, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &options);
        ad_grad(ad_sum_all(s), 1, &y0, &bar);
        get(s, y);
        get(bar, g);
        for (int k = 0; k < 3; k++) {
            ck_assert(fabs(y[k] - 1) > 1e-3 && y[k] != y[(k + 1) % 3]);
            ck_assert_double_eq_tol(y[k], g[k], 1e-5 * fabs(y[k]));
        }
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- bits ---- */

/* A gradient and a solution of so many rows by so many threads. */
static void run(const ode_method *m, ad_dtype dtype, int threads, int rows, void *y, void *bar)
{
    ad_tape *tape = ad_tape_new(dtype);
    double a[] = { 0.7, 1.2, 0.4 }, b[] = { 0.5, 0.3, 0.6 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), 0, (const double *)NULL);
    ad_var args[] = { ad_param(tape, AD_SHAPE(3), a), ad_param(tape, AD_SHAPE(3), b), y0 };
    sde_options options = { .ode = { .method = m, .steps = 10 } };
    ad_var s = sde_solve_final(sde_drift, sde_additive, NULL, y0, 3, args, ode_interval(tape, 0, 1),
                               &options);
    ad_var g, in[] = { y0, args[0], args[1] };
    ad_grad(ad_sum_all(ad_square(s)), 1, &y0, &g);
    ad_program *program = ad_compile(3, in, 2, (ad_var[]){ s, g });
    ad_workspace *w = ad_workspace_new(program, threads);
    size_t n = (size_t)rows * SDE_WIDTH;
    double *x = calloc(n, sizeof *x);
    float af[3], bf[3];
    for (size_t i = 0; i < n; i++) {
        double value = sin((double)i);
        if (dtype == AD_F32) ((float *)x)[i] = (float)value;
        else x[i] = value;
    }
    for (int i = 0; i < 3; i++) {
        af[i] = (float)a[i];
        bf[i] = (float)b[i];
    }
    const void *ins[] = { x, dtype == AD_F32 ? (void *)af : a, dtype == AD_F32 ? (void *)bf : b };
    ck_assert_msg(w && !ad_run(program, w, rows, ins, (void *[]){ y, bar }), "%s",
                  w ? ad_workspace_error(w) : ad_tape_error(tape));
    free(x);
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}

/* The same bits by one thread and by two, and in any batch. */
START_TEST(bits)
{
    enum { MANY = 1000, FEW = 3 };
    static char y[3][MANY * SDE_WIDTH * 8], g[3][MANY * SDE_WIDTH * 8];
    for (int i = 0; sde_methods()[i]; i++)
        for (int k = 0; k < 2 && sde_methods()[i]->takes & ODE_TAKES_ADDITIVE; k++) {
            ad_dtype dtype = k ? AD_F32 : AD_F64;
            size_t bytes = k ? 4 : 8;
            run(sde_methods()[i], dtype, 1, MANY, y[0], g[0]);
            run(sde_methods()[i], dtype, 2, MANY, y[1], g[1]);
            run(sde_methods()[i], dtype, 1, FEW, y[2], g[2]);
            ck_assert_mem_eq(y[0], y[1], MANY * SDE_WIDTH * bytes);
            ck_assert_mem_eq(g[0], g[1], MANY * SDE_WIDTH * bytes);
            ck_assert_mem_eq(y[0], y[2], FEW * SDE_WIDTH * bytes);
            ck_assert_mem_eq(g[0], g[2], FEW * SDE_WIDTH * bytes);
        }
}
END_TEST

/* Runs on new paths allocate nothing, and evaluate the drift once a step: what a gradient needs of
 * it is kept. */
START_TEST(replays)
{
    for (int i = 0; sde_methods()[i]; i++) {
        if (!(sde_methods()[i]->takes & ODE_TAKES_ADDITIVE)) continue;
        double y[ROWS * WIDTH], g[4], weights[4] = { 0.5, 0.2, -0.3, 0.4 }, draw, x[ROWS * WIDTH];
        for (int k = 0; k < ROWS * WIDTH; k++) x[k] = 0.1 * k;
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_stats stats = { 0 };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDTH), 0, (const double *)NULL);
        ad_var matrix = ad_param(tape, AD_SHAPE(2, 2), weights), bar;
        ad_var number = ad_input(tape, AD_SCALAR, (const double *)NULL);
        sde_options options = { .ode = { .method = sde_methods()[i], .steps = 6, .stats = &stats },
                                .path = { .draw = number } };
        ad_var s = sde_solve_final(network, unit_noise, NULL, y0, 1, &matrix,
                                   ode_interval(tape, 0, 1), &options);
        ad_grad(ad_sum_all(s), 1, &matrix, &bar);
        ad_program *program =
            ad_compile(3, (ad_var[]){ y0, matrix, number }, 2, (ad_var[]){ s, bar });
        ad_workspace *w = ad_workspace_new(program, 1);
        ck_assert_msg(w != NULL, "%s", ad_tape_error(tape));
        long before = 0;
        int failed = 0; /* looked at afterwards: an assertion allocates */
        for (draw = 0; draw < 5; draw++) {
            if (draw == 2) before = allocations();
            failed |=
                ad_run(program, w, ROWS, (const void *[]){ x, weights, &draw }, (void *[]){ y, g });
        }
        long made = allocations() - before;
        ck_assert_msg(!failed, "%s", ad_workspace_error(w));
        ck_assert_msg(made == 0, "%s: %ld allocations", sde_methods()[i]->name, made);
        if (ode_method_has(sde_methods()[i], ODE_METHOD_KEEPS))
            ck_assert_int_eq(stats.backward_evaluations, 0);
        ode_stats_clear(&stats);
        ad_workspace_free(w);
        ad_program_free(program);
        ad_tape_free(tape);
    }
}
END_TEST

int main(void)
{
    int methods = 0;
    while (sde_methods()[methods]) methods++;
    TCase *tests = suite_case("sde_solve", "sde_solve");
    tcase_add_test(tests, paths);
    tcase_add_test(tests, directions);
    tcase_add_test(tests, draws);
    tcase_add_test(tests, parts);
    tcase_add_test(tests, states);
    tcase_add_test(tests, cost);
    tcase_add_loop_test(tests, chosen, 0, methods);
    tcase_add_test(tests, partial);
    tcase_add_test(tests, refined);
    tcase_add_test(tests, no_time);
    tcase_add_test(tests, single);
    tcase_add_test(tests, bits);
    tcase_add_test(tests, replays);
    return suite_run();
}
