/* The discrete adjoint with activations kept from the forward solve: against the same gradients
 * with everything computed again, against finite differences that replay the steps, and what is
 * kept for how many bytes. */
#define TESTS_COUNT_ALLOCATIONS
#include "autodiff/extension.h"
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { D = 3, H = 7, ROWS = 5, WEIGHTS = D * H + H + H * D, ALL = ROWS * D + WEIGHTS + ROWS };

/* dy/dt = g tanh([y W1 + b] s(t)) W2 - y^3/8 with a gate g per row and s(t) = 1 + t/2, until the
 * time *user half of that. */
static ad_var network(ad_var t, ad_var y, const ad_var *args, void *user)
{
    double *until = user;
    ad_var w1 = ad_reshape(ad_slice(args[0], 0, 0, D * H), AD_SHAPE(D, H)),
           b = ad_slice(args[0], 0, D * H, D * H + H),
           w2 = ad_reshape(ad_slice(args[0], 0, D * H + H, WEIGHTS), AD_SHAPE(H, D));
    ad_var s = ad_shift(ad_scale(t, 0.5), 1);
    if (until)
        s = ad_mul(s, ad_shift(ad_scale(ad_lt(t, ad_fill(t.tape, AD_SCALAR, *until)), -0.5), 1));
    ad_var h = ad_tanh(ad_mul(ad_add(ad_matmul(y, w1), b), s));
    return ad_sub(ad_mul(args[1], ad_matmul(h, w2)), ad_scale(ad_mul(y, ad_square(y)), 0.125));
}

/* What is solved for: the end, several times (interpolated by adaptive methods), several times that
 * are a variable, several with jumps. */
enum { END, TIMES, VARIABLE_TIMES, JUMPS, FLOW, KINDS };

typedef struct {
    ad_tape *tape;
    ad_var y0, theta, gate, times, loss;
} problem;

static double start[ALL];

static void draw(void)
{
    for (int i = 0; i < ALL; i++) start[i] = 0.9 * sin(1.7 * i + 0.3 * i * i);
}

static problem record(int kind, const double *at, const ode_options *options)
{
    static const double times[] = { 0, 0.45, 0.9, 1.2 };
    static double jumps[] = { 0.5, 0.9 };
    ode_options o = *options;
    problem q = { .tape = ad_tape_new(AD_F64) };
    q.y0 = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, D), ROWS, at);
    q.theta = ad_param(q.tape, AD_SHAPE(WEIGHTS), at + ROWS * D);
    q.gate = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, 1), ROWS, at + ROWS * D + WEIGHTS);
    q.times = kind == VARIABLE_TIMES ? ad_input(q.tape, AD_SHAPE(4), times)
                                     : ad_constant(q.tape, AD_SHAPE(4), times);
    ad_var args[] = { q.theta, q.gate }, logdet;
    if (kind == JUMPS) {
        o.jump_times = jumps;
        o.njump = 2;
    }
    if (kind == FLOW) {
        ad_var y = ode_flow(network, NULL, q.y0, 2, args, q.times, &o, &logdet);
        q.loss = ad_add(ad_sum_all(ad_sin(y)), ad_sum_all(ad_square(logdet)));
    } else {
        ad_var y = (kind == END ? ode_solve_final : ode_solve)(
            network, kind == JUMPS ? jumps : NULL, q.y0, 2, args, q.times, &o);
        q.loss = ad_sum_all(ad_sin(y));
    }
    return q;
}

static int gradient(problem *q, bool variable_times, double *g)
{
    ad_var x[] = { q->y0, q->theta, q->gate, q->times }, grad[4];
    int n = variable_times ? 4 : 3;
    ad_grad(q->loss, n, x, grad);
    for (int i = 0; i < n; i++) {
        ck_assert_msg(!ad_get(grad[i], g), "%s", ad_tape_error(q->tape));
        g += ad_size(grad[i]);
    }
    return ALL + (variable_times ? 4 : 0);
}

static void same(const char *what, int n, const double *a, const double *b)
{
    double size = 0, off = 0;
    for (int i = 0; i < n; i++) {
        size = fmax(size, fabs(a[i]));
        off = fmax(off, fabs(a[i] - b[i]));
    }
    ck_assert_msg(size > 0.1 && off <= 1e-13 * size, "%s: off by %.3g of %.3g", what, off, size);
}

static ode_options options_of(const ode_method *m, ode_stats *stats)
{
    ode_options o = { .method = m, .rtol = 1e-5, .atol = 1e-5, .stats = stats };
    if (!ode_method_adaptive(m)) o.steps = 4;
    return o;
}

static bool is_explicit(const ode_method *m) { return !method_implicit(m) && m != &ode_nystroem2; }

/* Every method and kind of solve, with all, some and none of the activations kept. */
START_TEST(as_computed_again)
{
    const ode_method *m = ode_methods()[_i / KINDS];
    int kind = _i % KINDS;
    ode_stats stats = { 0 };
    ode_options o = options_of(m, &stats);
    draw();
    double known[ALL + 4], g[ALL + 4];
    o.keep_bytes = 1;
    problem q = record(kind, start, &o);
    int n = gradient(&q, kind == VARIABLE_TIMES, known);
    ad_tape_free(q.tape);
    ck_assert_int_gt(stats.backward_evaluations, 0);
    size_t states = stats.stored_bytes;
    int64_t again = stats.backward_evaluations;
    int64_t budgets[] = { 1500, 5000, 20000, 0 };
    for (int i = 0; i < 4; i++) {
        o.keep_bytes = budgets[i];
        q = record(kind, start, &o);
        gradient(&q, kind == VARIABLE_TIMES, g);
        ad_tape_free(q.tape);
        same(ode_method_name(m), n, known, g);
        ck_assert_int_le(stats.backward_evaluations, again);
        if (budgets[i]) ck_assert_uint_le(stats.stored_bytes, states + (size_t)budgets[i]);
        again = stats.backward_evaluations;
        if (!is_explicit(m)) ck_assert_uint_eq(stats.stored_bytes, states);
    }
    if (is_explicit(m)) {
        ck_assert_uint_gt(stats.stored_bytes, states);
        if (kind != JUMPS) ck_assert_int_eq(again, 0);
    }
    ck_assert_int_gt(stats.vjps, 0);
    ode_stats_clear(&stats);
}
END_TEST

/* Not only each other's equal: finite differences that take the very same steps. */
START_TEST(differences)
{
    const ode_method *m = ode_methods()[_i];
    if (!is_explicit(m)) return;
    ode_stats stats = { 0 };
    ode_options o = options_of(m, &stats), replay = { .method = m };
    draw();
    double g[ALL], at[ALL];
    problem q = record(TIMES, start, &o);
    gradient(&q, false, g);
    ad_tape_free(q.tape);
    ck_assert_int_eq(stats.backward_evaluations, 0);
    replay.replay = stats.steps_taken;
    if (!ode_method_adaptive(m)) replay = (ode_options){ .method = m, .steps = o.steps };
    for (int k = 0; k < ALL; k += 3) {
        static const double weight[] = { 45.0 / 60, -9.0 / 60, 1.0 / 60 };
        double h = 2e-3, sum = 0;
        for (int i = 0; i < 6; i++) {
            memcpy(at, start, sizeof at);
            const int distance = i / 2 + 1;
            at[k] += (i % 2 ? -1 : 1) * distance * h;
            q = record(TIMES, at, &replay);
            sum += (i % 2 ? -1 : 1) * weight[i / 2] * ad_item(q.loss);
            ck_assert_msg(!ad_tape_error(q.tape), "%s", ad_tape_error(q.tape));
            ad_tape_free(q.tape);
        }
        ck_assert_msg(fabs(sum / h - g[k]) <= 1e-8, "%s, unknown %d: %.12g, difference %.12g",
                      ode_method_name(m), k, g[k], sum / h);
    }
    ode_stats_clear(&stats);
}
END_TEST

/* Of each evaluation the state, the hidden units, and (for the gates' derivatives) the last
 * product: nothing that follows from these. */
START_TEST(what_is_kept)
{
    ode_stats stats = { 0 };
    ode_options o = { .method = &ode_rk4, .steps = 4, .stats = &stats, .keep_bytes = 1 };
    double g[ALL];
    draw();
    problem q = record(END, start, &o);
    gradient(&q, false, g);
    ad_tape_free(q.tape);
    size_t states = stats.stored_bytes;
    o.keep_bytes = 0;
    q = record(END, start, &o);
    gradient(&q, false, g);
    ad_tape_free(q.tape);
    size_t state = (ROWS * D * sizeof(double) + 63) / 64 * 64,
           one = 2 * state + (ROWS * H * sizeof(double) + 63) / 64 * 64;
    /* three intervals of four steps, and one slot over; the first state of each is stored anyway */
    ck_assert_uint_eq(stats.stored_bytes - states, (3 * 4 + 1) * (4 * one - state));
    ode_stats_clear(&stats);
}
END_TEST

/* The gradient by times wants more of an evaluation (the first product), whether or not the field
 * has been differentiated without. */
START_TEST(what_times_want)
{
    ode_stats stats = { 0 };
    ode_options o = { .method = &ode_rk4, .steps = 4, .stats = &stats };
    size_t bytes[3];
    draw();
    for (int k = 0; k < 3; k++) { /* without times, with, with after without */
        problem q = record(VARIABLE_TIMES, start, &o);
        ad_var x[] = { q.theta, q.times }, grad[2];
        if (k == 2) {
            ad_grad(q.loss, 1, x, grad);
            q.loss = ad_sum_all(
                ode_solve(network, NULL, q.y0, 2, (ad_var[]){ q.theta, q.gate }, q.times, &o));
        }
        ad_grad(q.loss, k ? 2 : 1, x, grad);
        ck_assert_msg(ad_value(grad[k > 0]) != NULL, "%s", ad_tape_error(q.tape));
        bytes[k] = stats.stored_bytes;
        ad_tape_free(q.tape);
    }
    ck_assert_uint_gt(bytes[1], bytes[0]);
    ck_assert_uint_eq(bytes[2], bytes[1]);
    ode_stats_clear(&stats);
}
END_TEST

/* A field without products keeps nothing: it is as quick to evaluate as to read. */
static ad_var pendulum(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var angle = ad_slice(y, 1, 0, 1), rate = ad_slice(y, 1, 1, 2);
    return ad_concatenate(2, (ad_var[]){ rate, ad_neg(ad_mul(args[0], ad_sin(angle))) }, 1);
}

START_TEST(nothing_to_keep)
{
    ode_stats stats = { 0 };
    ode_options o = { .stats = &stats };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 1, 0 }),
           p = ad_param(tape, AD_SHAPE(1), (double[]){ 2 }), g;
    ad_var y = ode_solve_final(pendulum, NULL, y0, 1, &p, ode_interval(tape, 0, 1), &o);
    ad_grad(ad_sum_all(y), 1, &p, &g);
    ck_assert(isfinite(ad_item(g)));
    /* Two more are looks at what the gradient conserves. */
    ck_assert_int_eq(stats.backward_evaluations, stats.vjps + 2);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

/* The value first, the gradient afterwards; then gradients of the same solve by other unknowns. */
START_TEST(one_after_the_other)
{
    ode_stats stats = { 0 };
    ode_options o = options_of(&ode_dopri5, &stats);
    double known[ALL], g[ALL];
    draw();
    problem q = record(TIMES, start, &o);
    gradient(&q, false, known);
    ck_assert_int_eq(stats.backward_evaluations, 0);
    ad_tape_free(q.tape);
    q = record(TIMES, start, &o);
    ck_assert(isfinite(ad_item(q.loss)));
    gradient(&q, false, g);
    same("value first", ALL, known, g);
    ck_assert_int_gt(stats.backward_evaluations, 0);
    ad_var only[2];
    ad_grad(q.loss, 1, &q.theta, &only[0]);
    ad_grad(q.loss, 1, &q.y0, &only[1]);
    ad_get(only[0], g + ROWS * D);
    ad_get(only[1], g);
    same("one by one", ALL, known, g);
    ad_tape_free(q.tape);
    ode_stats_clear(&stats);
}
END_TEST

/* A program that is run with more and fewer rows, and other values, again and again. */
START_TEST(programs)
{
    enum { MOST = 9 };
    double y0[MOST * D], gate[MOST], theta[WEIGHTS], gy[MOST * D], gt[WEIGHTS], known_y[MOST * D],
        known_t[WEIGHTS];
    ode_options o = {
        .method = _i ? &ode_dopri5 : &ode_rk4, .rtol = 1e-5, .atol = 1e-5, .steps = _i ? 0 : 3
    };
    ad_program *program[2];
    for (int k = 0; k < 2; k++) {
        o.keep_bytes = k ? 0 : 1;
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var in[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), 0, NULL),
                        ad_param(tape, AD_SHAPE(WEIGHTS), NULL),
                        ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL) },
               grad[2];
        ad_var y = ode_solve_final(network, NULL, in[0], 2, in + 1, ode_interval(tape, 0, 1), &o);
        ad_grad(ad_sum_all(ad_sin(y)), 2, in, grad);
        program[k] = ad_compile(3, in, 2, grad);
        ck_assert_msg(program[k] != NULL, "%s", ad_tape_error(tape));
        ad_tape_free(tape);
    }
    ad_workspace *w[] = { ad_workspace_new(program[0], 1), ad_workspace_new(program[1], 2) };
    static const int rows[] = { 4, 9, 1, 9, 2, 4 };
    for (int k = 0; k < 6; k++) {
        for (int i = 0; i < MOST * D; i++) y0[i] = sin(i + k);
        for (int i = 0; i < MOST; i++) gate[i] = 1 + 0.5 * cos(i + 2 * k);
        for (int i = 0; i < WEIGHTS; i++) theta[i] = cos(1.3 * i + k);
        const void *in[] = { y0, theta, gate };
        ck_assert(!ad_run(program[0], w[0], rows[k], in, (void *[]){ known_y, known_t }));
        ck_assert(!ad_run(program[1], w[1], rows[k], in, (void *[]){ gy, gt }));
        same("rows", rows[k] * D, known_y, gy);
        same("weights", WEIGHTS, known_t, gt);
    }
    for (int k = 0; k < 2; k++) {
        ad_workspace_free(w[k]);
        ad_program_free(program[k]);
    }
}
END_TEST

/* How much is kept does not depend on what the workspace ran before, and batches that fit the
 * budget in turn with ones too large for it allocate nothing. */
START_TEST(after_a_larger_batch)
{
    enum { LARGE = 20, SMALL = 2 };
    static double y0[LARGE * D], gate[LARGE], g[2][WEIGHTS];
    size_t kept[2];
    ode_stats stats = { 0 };
    ode_options o = {
        .method = &ode_rk4, .steps = 30, .stats = &stats, .keep_bytes = _i ? 3000 : 19000
    };
    draw();
    for (int i = 0; i < LARGE * D; i++) y0[i] = sin(i);
    for (int i = 0; i < LARGE; i++) gate[i] = 1 + 0.5 * cos(i);
    problem q = record(END, start, &o);
    ad_var in[] = { q.y0, q.theta, q.gate }, grad;
    ad_grad(q.loss, 1, &q.theta, &grad);
    ad_program *program = ad_compile(3, in, 1, &grad);
    const void *values[] = { y0, start + ROWS * D, gate };
    for (int k = 0; k < 2; k++) {
        ad_workspace *w = ad_workspace_new(program, 1);
        if (k) ck_assert(!ad_run(program, w, LARGE, values, (void *[]){ g[k] }));
        ck_assert(!ad_run(program, w, SMALL, values, (void *[]){ g[k] }));
        kept[k] = stats.stored_bytes;
        long before = allocations();
        int failed = 0;
        for (int i = 0; k && i < 4; i++)
            failed |= ad_run(program, w, i % 2 ? SMALL : LARGE, values, (void *[]){ g[k] });
        long made = allocations() - before;
        ck_assert_int_eq(made, 0);
        ck_assert_int_eq(failed, 0);
        ad_workspace_free(w);
    }
    ck_assert_uint_eq(kept[0], kept[1]);
    ck_assert_mem_eq(g[0], g[1], sizeof g[0]);
    ad_program_free(program);
    ad_tape_free(q.tape);
    ode_stats_clear(&stats);
}
END_TEST

/* A program of the value alone keeps nothing, though the solve has a gradient elsewhere. */
START_TEST(value_alone)
{
    ode_stats stats = { 0 };
    ode_options o = { .method = &ode_rk4, .steps = 3, .stats = &stats };
    draw();
    problem q = record(END, start, &o);
    ad_var in[] = { q.y0, q.theta, q.gate }, results[2] = { q.loss };
    ad_grad(q.loss, 1, &q.theta, results + 1);
    double loss[2], g[WEIGHTS];
    size_t kept[2];
    for (int k = 0; k < 2; k++) {
        ad_program *program = ad_compile(3, in, 1 + k, results);
        ad_workspace *w = ad_workspace_new(program, 1);
        const void *values[] = { start, start + ROWS * D, start + ROWS * D + WEIGHTS };
        ck_assert(!ad_run(program, w, ROWS, values, (void *[]){ loss + k, g }));
        kept[k] = stats.stored_bytes;
        ad_workspace_free(w);
        ad_program_free(program);
    }
    ck_assert_uint_eq(kept[0], 0);
    ck_assert_uint_gt(kept[1], 0);
    ck_assert(fabs(loss[0] - loss[1]) <= 1e-14 * fabs(loss[0]));
    ad_tape_free(q.tape);
    ode_stats_clear(&stats);
}
END_TEST

/* What no seed reaches may be much older than the seeds. */
START_TEST(older_than_the_seeds)
{
    enum { BETWEEN = 1 << 18 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), 0, NULL),
           w = ad_param(tape, AD_SHAPE(D, D), NULL), kept;
    ad_var y = ad_tanh(ad_matmul(x, w)), seed = x;
    for (int k = 0; k < BETWEEN; k++) seed = ad_sin(seed);
    ck_assert_int_eq(ad_residuals(1, &seed, 1, &x, 1, &y, 1, &kept), 1);
    ck_assert_int_eq(kept.node, y.node);
    ad_tape_free(tape);
}
END_TEST

/* A value before anybody has asked for a gradient: more states than keep_bytes allows are not kept,
 * and the gradient, asked for later, is the same bit by bit. */
static ad_var halving(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(ad_sub(ad_cos(t), y), args[0]);
}

START_TEST(value_before_gradient)
{
    const ode_method *const methods[] = { &ode_dopri5, &ode_rk4, &ode_nystroem2,
                                          &ode_implicit_euler };
    for (int m = 0; m < 4; m++) {
        double g[2][3];
        for (int k = 0; k < 2; k++) {
            ad_tape *tape = ad_tape_new(AD_F64);
            ode_stats stats = { 0 };
            ode_options o = { .method = methods[m], .stats = &stats, .keep_bytes = k ? 40 : 0 };
            if (m) o.steps = 50;
            ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 2, (double[]){ 1, -2 }),
                   p = ad_param(tape, AD_SCALAR, (double[]){ 0.7 }), b[2];
            ad_var y = ode_solve(halving, NULL, y0, 1, &p, ode_linspace(tape, 0, 2, 5), &o),
                   loss = ad_sum_all(ad_square(y));
            ck_assert_ptr_nonnull(ad_value(loss));
            if (k) ck_assert_int_eq(stats.stored_bytes, 0);
            else ck_assert_int_gt(stats.stored_bytes, 0);
            ad_grad(loss, 2, (ad_var[]){ y0, p }, b);
            ck_assert_msg(!ad_get(b[0], g[k]) && !ad_get(b[1], g[k] + 2), "%s",
                          ad_tape_error(tape));
            ck_assert_int_gt(stats.stored_bytes, 0);
            ode_stats_clear(&stats);
            ad_tape_free(tape);
        }
        ck_assert_mem_eq(g[0], g[1], sizeof g[0]);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("kept", "kept");
    tcase_add_loop_test(tests, as_computed_again, 0, method_count() * KINDS);
    tcase_add_loop_test(tests, differences, 0, method_count());
    tcase_add_test(tests, what_is_kept);
    tcase_add_test(tests, what_times_want);
    tcase_add_test(tests, nothing_to_keep);
    tcase_add_test(tests, one_after_the_other);
    tcase_add_loop_test(tests, programs, 0, 2);
    tcase_add_loop_test(tests, after_a_larger_batch, 0, 2);
    tcase_add_test(tests, value_alone);
    tcase_add_test(tests, older_than_the_seeds);
    tcase_add_test(tests, value_before_gradient);
    return suite_run();
}
