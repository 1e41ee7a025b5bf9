/* Gradients of solves: against finite differences that replay the accepted steps, closed forms,
 * published numbers, and between adjoints. */
#include "costate.h"
#include "lotka.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static void relative(const char *what, double value, double known, double tolerance)
{
    ck_assert_msg(fabs(value - known) <= tolerance * fmax(fabs(known), 1e-3),
                  "%s: %.12g, known %.12g", what, value, known);
}

/* ---- frozen steps ---- */

/* Two rows of Lotka-Volterra with a shared parameter vector [4], a forcing of given strength per
 * row, and a time-dependent term. */
static ad_var forced(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var p[4], u = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    for (int i = 0; i < 4; i++) p[i] = ad_slice(ad_exp(args[0]), 0, i, i + 1);
    ad_var uv = ad_mul(u, v), du = ad_sub(ad_mul(p[0], u), ad_mul(p[1], uv)),
           dv = ad_sub(ad_mul(p[3], uv), ad_mul(p[2], v));
    return ad_concatenate(2, (ad_var[]){ ad_add(du, ad_mul(args[1], ad_sin(t))), dv }, 1);
}

enum { ROWS = 2, TIMES = 4, UNKNOWNS = 4 + 4 + 2 };

/* Unknowns: y0 [2,2], log p [4], strengths [2]. */
typedef struct {
    double x[UNKNOWNS], times[TIMES];
} inputs;

static const inputs centre = { { 1, 1, 1.5, 0.7, 0.405, 0, 1.0986, 0, 0.3, -0.2 },
                               { 0, 0.35, 0.8, 1.7 } };

typedef struct {
    ad_tape *tape;
    ad_var y0, p, strength, times, loss;
} problem;

static problem record(const inputs *at, const ode_options *o, bool variable_times)
{
    problem q;
    q.tape = ad_tape_new(AD_F64);
    q.y0 = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, 2), ROWS, at->x);
    q.p = ad_param(q.tape, AD_SHAPE(4), at->x + 4);
    q.strength = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, 1), ROWS, at->x + 8);
    q.times = variable_times ? ad_input(q.tape, AD_SHAPE(TIMES), at->times)
                             : ad_constant(q.tape, AD_SHAPE(TIMES), at->times);
    ad_var y = ode_solve(forced, NULL, q.y0, 2, (ad_var[]){ q.p, q.strength }, q.times, o);
    ad_var weight =
        ad_constant(q.tape, AD_SHAPE(TIMES, 2), (double[]){ 0.3, 0.1, 1, -0.5, 0.7, 0.4, 1, 1.3 });
    q.loss = ad_sum_all(ad_mul(weight, ad_mul(y, ad_shift(ad_scale(y, 0.3), 1))));
    return q;
}

static double loss_at(const inputs *at, const ode_options *o)
{
    problem q = record(at, o, false);
    double loss = ad_item(q.loss);
    ck_assert_msg(!ad_tape_error(q.tape), "%s", ad_tape_error(q.tape));
    ad_tape_free(q.tape);
    return loss;
}

/* Six-point central difference of the loss in unknown k. */
static double difference(const inputs *at, int k, const ode_options *o)
{
    static const double weight[] = { 45.0 / 60, -9.0 / 60, 1.0 / 60 };
    double h = 2e-3, sum = 0;
    for (int i = 0; i < 3; i++) {
        inputs up = *at, down = *at;
        double *u = k < UNKNOWNS ? &up.x[k] : &up.times[k - UNKNOWNS],
               *d = k < UNKNOWNS ? &down.x[k] : &down.times[k - UNKNOWNS];
        *u += (i + 1) * h;
        *d -= (i + 1) * h;
        sum += weight[i] * (loss_at(&up, o) - loss_at(&down, o));
    }
    return sum / h;
}

static ode_options for_method(const ode_method *m, double tolerance)
{
    ode_options o = { .method = m, .rtol = tolerance, .atol = tolerance };
    if (!ode_method_adaptive(m)) o.steps = tolerance > 1e-4 ? 6 : 12;
    return o;
}

/* The discrete gradient equals finite differences that take the very same steps, at a loose and at
 * a tight tolerance. */
START_TEST(frozen_steps)
{
    const ode_method *m = ode_methods()[_i / 2];
    double tolerance = _i % 2 ? 1e-6 : 1e-3, g[UNKNOWNS];
    if (ode_method_order(m) <= 2 && _i % 2 && ode_method_adaptive(m)) tolerance = 1e-5;
    ode_stats stats = { 0 };
    ode_options o = for_method(m, tolerance), replay = { .method = m };
    o.stats = &stats;
    problem q = record(&centre, &o, false);
    ad_var x[] = { q.y0, q.p, q.strength }, grad[3];
    ad_grad(q.loss, 3, x, grad);
    get(grad[0], g);
    get(grad[1], g + 4);
    get(grad[2], g + 8);
    replay.replay = stats.steps_taken;
    ck_assert_int_eq(ode_steps_count(stats.steps_taken), stats.steps);
    double equal = method_implicit(m) ? 1e-11 : 1e-14;
    relative("replayed loss", loss_at(&centre, &replay), ad_item(q.loss), equal);
    for (int k = 0; k < UNKNOWNS; k++)
        relative(ode_method_name(m), g[k], difference(&centre, k, &replay), 1e-8);
    ad_tape_free(q.tape);
    ode_stats_clear(&stats);
}
END_TEST

/* Output times as variables. Fixed steps move with them: finite differences need no replay. */
START_TEST(times_fixed_steps)
{
    const ode_method *m = ode_methods()[_i / 2];
    double jump_at[] = {
        _i % 2 ? -0.5 : 0.5
    }; /* inside an interval: pieces beside it move with one time only */
    ode_options o = { .method = m, .steps = 5, .jump_times = jump_at, .njump = 1 };
    inputs at = centre;
    if (_i % 2)
        for (int j = 0; j < TIMES; j++) at.times[j] = -centre.times[j];
    problem q = record(&at, &o, true);
    double g[TIMES];
    ad_var grad;
    ad_grad(q.loss, 1, &q.times, &grad);
    get(grad, g);
    for (int j = 0; j < TIMES; j++)
        relative(ode_method_name(m), g[j], difference(&at, UNKNOWNS + j, &o), 1e-8);
    ad_tape_free(q.tape);
}
END_TEST

/* Adaptive: interior output times by replay; all times against the exact problem's. */
START_TEST(times_adaptive)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m) || ode_method_order(m) < 3) return;
    ode_stats stats = { 0 };
    ode_options o = for_method(m, 1e-6), replay = { .method = m },
                exact = for_method(&ode_dopri8, 1e-12);
    o.stats = &stats;
    inputs at = centre;
    (void)loss_at(&at, &o);
    /* Interior times at the middle of steps (which they do not influence): at a step's end the
     * interpolant has a kink. */
    const double *t = ode_steps_times(stats.steps_taken);
    for (int j = 1; j + 1 < TIMES; j++)
        for (int64_t k = 0; k < ode_steps_count(stats.steps_taken); k++)
            if (t[k] <= centre.times[j] && centre.times[j] < t[k + 1])
                at.times[j] = (t[k] + t[k + 1]) / 2;
    problem q = record(&at, &o, true);
    double g[TIMES];
    ad_var grad;
    ad_grad(q.loss, 1, &q.times, &grad);
    get(grad, g);
    replay.replay = stats.steps_taken;
    for (int j = 1; j + 1 < TIMES; j++)
        relative(ode_method_name(m), g[j], difference(&at, UNKNOWNS + j, &replay), 1e-8);
    for (int j = 0; j < TIMES; j++)
        relative(ode_method_name(m), g[j], difference(&at, UNKNOWNS + j, &exact), 5e-3);
    ad_tape_free(q.tape);
    ode_stats_clear(&stats);
}
END_TEST

/* One adaptive step over everything, at a tolerance that nothing fails: its ends and its interior
 * outputs all move with the times. */
START_TEST(times_in_one_step)
{
    const ode_method *m = ode_methods()[_i];
    if (!ode_method_adaptive(m)) return;
    ode_options o = { .method = m, .rtol = 1e6, .atol = 1e6, .first_step = 10 };
    inputs at = centre;
    for (int j = 0; j < TIMES; j++) at.times[j] = 0.1 + 0.2 * centre.times[j];
    problem q = record(&at, &o, true);
    double g[TIMES];
    ad_var grad;
    ad_grad(q.loss, 1, &q.times, &grad);
    get(grad, g);
    for (int j = 0; j < TIMES; j++)
        relative(ode_method_name(m), g[j], difference(&at, UNKNOWNS + j, &o), 1e-8);
    ad_tape_free(q.tape);
}
END_TEST

/* The continuous adjoints reach the gradient of the continuous problem to about their tolerance,
 * also for methods of fixed steps. */
START_TEST(continuous_agree)
{
    const ode_method *m = ode_methods()[_i / 2];
    bool back = _i % 2 == 0;
    if (!back && m == &ode_nystroem2) return;
    ode_options o = for_method(m, ode_method_order(m) > 3 ? 1e-9 : 1e-6),
                exact = for_method(&ode_dopri8, 1e-12);
    if (!ode_method_adaptive(m)) o.steps = ode_method_order(m) == 1 ? 400 : 200;
    ode_stats stats = { 0 };
    o.adjoint = back ? &ode_backsolve : &ode_interpolating;
    o.stats = &stats;
    double g[UNKNOWNS + TIMES], e[UNKNOWNS + TIMES];
    for (int k = 0; k < 2; k++) {
        problem q = record(&centre, k ? &exact : &o, true);
        ad_var x[] = { q.y0, q.p, q.strength, q.times }, grad[4];
        double *to = k ? e : g;
        ad_grad(q.loss, 4, x, grad);
        get(grad[0], to);
        get(grad[1], to + 4);
        get(grad[2], to + 8);
        get(grad[3], to + UNKNOWNS);
        ad_tape_free(q.tape);
    }
    double tolerance = ode_method_order(m) == 1 ? 6e-2 : ode_method_order(m) > 3 ? 1e-6 : 1e-3;
    for (int k = 0; k < UNKNOWNS + TIMES; k++)
        ck_assert_msg(fabs(g[k] - e[k]) < tolerance * (1 + fabs(e[k])), "%s: %d: %g, exact %g",
                      ode_method_name(m), k, g[k], e[k]);
    ck_assert_int_gt(stats.backward_steps, 0);
    ck_assert_int_gt(stats.backward_evaluations, 0);
    ck_assert_int_eq(stats.stored_bytes == 0, back);
    ck_assert_int_eq(stats.backward_drift > 0, back);
    ck_assert(isfinite(stats.backward_drift));
    ode_stats_clear(&stats);
}
END_TEST

/* Of a solve for the last time only, backsolve takes as many fixed steps between the times as the
 * solve did. */
START_TEST(backsolve_of_the_end)
{
    double g[2][2];
    for (int k = 0; k < 2; k++) {
        ode_stats stats = { 0 };
        ode_options o = { .method = &ode_rk4,
                          .steps = 6,
                          .adjoint = k ? &ode_backsolve : &ode_discrete,
                          .stats = &stats };
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 1, 1 }),
               p = ad_param(tape, AD_SHAPE(4), centre.x + 4);
        ad_var strength = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 0.3 }), grad;
        ad_var y = ode_solve_final(forced, NULL, y0, 2, (ad_var[]){ p, strength },
                                   ode_linspace(tape, 3, 0, 9), &o);
        ad_grad(ad_sum_all(ad_square(y)), 1, &y0, &grad);
        get(grad, g[k]);
        ck_assert_int_eq(stats.steps, 48);
        ck_assert_int_eq(stats.backward_steps, 48);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    for (int i = 0; i < 2; i++) relative("backsolve", g[1][i], g[0][i], 1e-3);
}
END_TEST

/* Calling the field anew at every step gives what the trace gives. */
START_TEST(recording_anew)
{
    const ode_method *const methods[] = { &ode_dopri5, &ode_rk4, &ode_trapezoidal, &ode_nystroem2 };
    double g[2][UNKNOWNS + TIMES];
    for (int k = 0; k < 2; k++) {
        ode_options o = for_method(methods[_i / 2], 1e-4);
        o.rerecord = k;
        if (_i % 2) o.adjoint = &ode_backsolve;
        /* quadratures are by what the trace shares, and without a trace by the arguments themselves
         */
        o.adjoint_seminorm = true;
        problem q = record(&centre, &o, true);
        ad_var x[] = { q.y0, q.p, q.strength, q.times }, grad[4];
        ad_grad(q.loss, 4, x, grad);
        get(grad[0], g[k]);
        get(grad[1], g[k] + 4);
        get(grad[2], g[k] + 8);
        get(grad[3], g[k] + UNKNOWNS);
        ad_tape_free(q.tape);
    }
    for (int i = 0; i < UNKNOWNS + TIMES; i++) relative("recorded anew", g[1][i], g[0][i], 1e-11);
}
END_TEST

/* ---- published numbers and closed forms ---- */

START_TEST(lotka_volterra)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var u0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 1, 1 }),
           p = ad_param(tape, AD_SHAPE(4), lotka_p);
    ode_options o = { .method = _i % 2 ? &ode_tsit5 : &ode_dopri8, .rtol = 1e-10, .atol = 1e-14 };
    if (_i / 2) o.adjoint = &ode_backsolve;
    ad_var u = ode_solve_final(lotka, NULL, u0, 1, &p, ode_interval(tape, 0, 10), &o),
           x[] = { u0, p }, g[2];
    ad_var loss = ad_scale(ad_sum_all(ad_square(ad_sub(ad_scalar(tape, 1), u))), 0.5);
    double end[2], du[2], dp[4];
    get(u, end);
    /* The published numbers carry the error of the solver that made them, some 3e-8; the solution
     * to twelve digits is this. */
    relative("u", end[0], 1.02634476757509, 1e-9);
    relative("v", end[1], 0.909691078136039, 1e-9);
    relative("published u", end[0], 1.026344801589377, 5e-8);
    relative("published v", end[1], 0.9096910639243128, 5e-8);
    ad_grad(loss, 2, x, g);
    get(g[0], du);
    get(g[1], dp);
    const double known_u[] = { 0.2995996056786226, -0.01415181416922305 },
                 known_p[] = { 0.6219617, 0.0680014, 0.1691765, 0.2725608 };
    for (int i = 0; i < 2; i++) relative("du0", du[i], known_u[i], 5e-7);
    for (int i = 0; i < 4; i++) relative("dp", dp[i], known_p[i], 5e-7);
    ad_tape_free(tape);
}
END_TEST

static ad_var cubic(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_matmul(ad_mul(ad_square(y), y), args[1]);
}

/* A parameter that the field does not use has the gradient zero, exactly. */
START_TEST(unused_parameter)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 2, 0 }),
           unused = ad_param(tape, AD_SHAPE(3), (double[]){ 1, 2, 3 });
    ad_var a = ad_param(tape, AD_SHAPE(2, 2), (double[]){ -0.1, 2, -2, -0.1 });
    ad_var row = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 5, 6 });
    ode_options o = { .adjoint = _i ? &ode_backsolve : &ode_discrete, .rtol = 1e-9, .atol = 1e-9 };
    ad_var times = ad_input(tape, AD_SHAPE(3), (double[]){ 0, 10, 25 });
    ad_var y = ode_solve(cubic, NULL, y0, 3, (ad_var[]){ unused, a, row }, times, &o),
           x[] = { unused, a, y0, times, row }, g[5];
    ad_grad(ad_sum_all(y), 5, x, g);
    double v[5][4];
    for (int i = 0; i < 5; i++) get(g[i], v[i]);
    for (int i = 0; i < 3; i++) ck_assert_double_eq(v[0][i], 0);
    for (int i = 0; i < 2; i++) ck_assert_double_eq(v[4][i], 0);
    for (int i = 1; i < 4; i++) ck_assert(isfinite(v[i][0]) && v[i][0] != 0);
    /* A solve with all of the gradient asked of the unused alone. */
    ad_grad(ad_sum_all(y), 1, &unused, g);
    get(g[0], v[0]);
    for (int i = 0; i < 3; i++) ck_assert_double_eq(v[0][i], 0);
    ad_tape_free(tape);
}
END_TEST

/* One tape, one field, an argument that it does not use, of another shape each time: gradients have
 * the argument's. */
START_TEST(unused_of_any_shape)
{
    const ad_shape shapes[] = { AD_SHAPE(200),  AD_SHAPE(3),          AD_SHAPE(200),
                                AD_SHAPE(2, 5), AD_SHAPE(AD_ROWS, 4), AD_SHAPE(AD_ROWS, 50),
                                AD_SHAPE(3) };
    ad_tape *tape = ad_tape_new(AD_F64);
    double data[200] = { 1, 2, 3 }, v[200];
    ode_options o = { .adjoint = _i ? &ode_backsolve : &ode_discrete, .rtol = 1e-6, .atol = 1e-6 };
    for (int k = 0; k < 7; k++) {
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 2, 0 });
        ad_var unused = shapes[k].dim[0] == AD_ROWS ? ad_input_rows(tape, shapes[k], 1, data)
                                                    : ad_param(tape, shapes[k], data),
               g[2];
        ad_var a = ad_param(tape, AD_SHAPE(2, 2), (double[]){ -0.1, 2, -2, -0.1 });
        ad_var y = ode_solve_final(cubic, NULL, y0, 2, (ad_var[]){ unused, a },
                                   ode_interval(tape, 0, 1), &o);
        ad_grad(ad_sum_all(y), 2, (ad_var[]){ unused, a }, g);
        ad_shape shape = ad_shape_of(g[0]);
        ck_assert_int_eq(shape.rank, shapes[k].rank);
        for (int i = 0; i < shape.rank; i++) ck_assert_int_eq(shape.dim[i], shapes[k].dim[i]);
        get(g[0], v);
        for (int64_t i = 0; i < ad_size(g[0]); i++) ck_assert_double_eq(v[i], 0);
        get(g[1], v);
        ck_assert(isfinite(v[0]) && v[0] != 0);
    }
    ad_tape_free(tape);
}
END_TEST

static ad_var identity(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return y;
}

START_TEST(euler_powers)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 }), g;
    ode_options o = { .method = &ode_euler, .step = _i ? 0.1 : 0, .steps = _i ? 0 : 10 };
    ad_var y = ode_solve_final(identity, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &o);
    ad_grad(ad_sum_all(y), 1, &y0, &g);
    ck_assert_double_eq_tol(ad_item(y), pow(1.1, 10), 1e-12);
    ck_assert_double_eq_tol(ad_item(g), pow(1.1, 10), 1e-12);
    ad_tape_free(tape);
}
END_TEST

/* A zero-length solve: y0, gradient the identity, and the rate of the last time. */
START_TEST(zero_length)
{
    const ode_method *m = ode_methods()[_i / 2];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, (double[]){ 1, 2, 3, 4 }),
           times = ad_input(tape, AD_SHAPE(2), (double[]){ 0.5, 0.5 });
    ode_options o = for_method(m, 1e-6);
    if (_i % 2) o.adjoint = &ode_backsolve;
    ad_var y = ode_solve(identity, NULL, y0, 0, NULL, times, &o), x[] = { y0, times }, g[2];
    ad_grad(ad_sum_all(ad_slice(y, 1, 1, 2)), 2, x, g);
    double v[8], dy[4], dt[2];
    get(y, v);
    get(g[0], dy);
    get(g[1], dt);
    for (int r = 0; r < 2; r++)
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < 2; i++)
                ck_assert_double_eq_tol(v[4 * r + 2 * j + i], 1 + 2 * r + i, 1e-12);
    for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(dy[i], 1, 1e-12);
    ck_assert_double_eq_tol(dt[1], 10, 1e-12);
    ck_assert_double_eq_tol(dt[0], -10, 1e-12);
    ad_tape_free(tape);
}
END_TEST

/* x' = -x/2 before t = 1/2, x^2 after: naming the jump saves evaluations on both ways. */
static ad_var jumping(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    ad_var at = ad_scalar(t.tape, 0.5), before = *(int *)user ? ad_le(t, at) : ad_lt(t, at);
    return ad_select(ad_broadcast(before, ad_shape_of(y)), ad_scale(y, -0.5), ad_square(y));
}

START_TEST(jump)
{
    int64_t forward[2], backward[2];
    int closed = _i / 2; /* whether the time of the jump itself is before or after it */
    double jump_at[] = { 0.5 };
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 }), g;
        ode_stats stats = { 0 };
        ode_options o = { .rtol = 1e-8,
                          .atol = 1e-8,
                          .adjoint = _i % 2 ? &ode_backsolve : &ode_discrete,
                          .stats = &stats };
        if (k) {
            o.jump_times = jump_at;
            o.njump = 1;
        }
        ad_var y = ode_solve_final(jumping, &closed, y0, 0, NULL, ode_interval(tape, 0, 1), &o);
        ad_grad(ad_sum_all(y), 1, &y0, &g);
        double mid = exp(-0.25), value = ad_item(y), slope = ad_item(g); /* 1 / (1/mid - 1/2) */
        ck_assert_double_eq_tol(value, 1 / (1 / mid - 0.5), k ? 1e-7 : 1e-5);
        ck_assert_double_eq_tol(slope, value * value / (mid * mid) * mid, k ? 1e-6 : 1e-4);
        forward[k] = stats.evaluations;
        backward[k] = stats.backward_evaluations;
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_int_lt(forward[1], forward[0]);
    ck_assert_int_lt(backward[1], backward[0]);
}
END_TEST

/* Several states of different shapes, fixed and adaptive, discrete and backsolve: x' = A z, z' = -x
 * summed; checked against one joined state. */
static void two_states(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    (void)t, (void)n, (void)user;
    dy[0] = ad_tanh(ad_add(ad_mul(args[0], y[0]), ad_sum_axis(y[1], 2, false)));
    dy[1] = ad_mul(ad_reshape(y[0], AD_SHAPE(AD_ROWS, 2, 1)), ad_cos(y[1]));
}

static ad_var joined(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var parts[2] = { ad_slice(y, 1, 0, 2),
                        ad_reshape(ad_slice(y, 1, 2, 8), AD_SHAPE(AD_ROWS, 2, 3)) },
           d[2];
    two_states(t, 2, parts, args, user, d);
    return ad_concatenate(2, (ad_var[]){ d[0], ad_reshape(d[1], AD_SHAPE(AD_ROWS, 6)) }, 1);
}

START_TEST(several_states)
{
    static const ode_method *const methods[] = { &ode_dopri5, &ode_dopri8, &ode_rk4, &ode_nystroem2,
                                                 &ode_trapezoidal };
    double a[16], ga, gb[2];
    ad_tape *tape = ad_tape_new(AD_F64);
    for (int i = 0; i < 16; i++) a[i] = sin(1.0 + i);
    double first[4], second[12];
    for (int r = 0; r < 2; r++) {
        memcpy(first + 2 * r, a + 8 * r, 2 * sizeof *a);
        memcpy(second + 6 * r, a + 8 * r + 2, 6 * sizeof *a);
    }
    ode_options o = for_method(methods[_i / 2], 1e-7);
    if (_i % 2) o.adjoint = &ode_backsolve;
    ad_var p = ad_param(tape, AD_SHAPE(2), (double[]){ 0.4, -0.3 }),
           times = ad_constant(tape, AD_SHAPE(3), (double[]){ 0, 0.4, 1 });
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 8), 2, a), g;
    ad_var s0[2] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, first),
                     ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2, 3), 2, second) },
           s[2];
    ad_var y = ode_solve(joined, NULL, y0, 1, &p, times, &o);
    ck_assert_msg(!ode_solve_states(two_states, NULL, 2, s0, 1, &p, times, &o, s), "%s",
                  ad_tape_error(tape));
    ad_grad(ad_sum_all(ad_square(ad_slice(y, 2, 2, 8))), 1, &p, &g);
    get(g, gb);
    ga = gb[0];
    double whole[48], part[36];
    get(y, whole);
    get(s[1], part);
    for (int r = 0; r < 2; r++)
        for (int j = 0; j < 3; j++)
            for (int i = 0; i < 6; i++)
                ck_assert_double_eq_tol(part[(r * 3 + j) * 6 + i], whole[(r * 3 + j) * 8 + 2 + i],
                                        1e-12);
    /* Only the second state has a cotangent. */
    ad_grad(ad_sum_all(ad_square(s[1])), 1, &p, &g);
    get(g, gb);
    relative("gradient", gb[0], ga, 1e-10);
    ad_tape_free(tape);
}
END_TEST

/* A training loop that rewinds and records again; a compiled program with another number of rows.
 */
START_TEST(programs)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    float p0[1] = { -0.5f }, y[3] = { 1, 2, 3 }, out[3], grad[1];
    ad_var p = ad_param(tape, AD_SHAPE(1), p0),
           y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL), g;
    ode_options o = { .rtol = 1e-5, .atol = 1e-6, .adjoint = _i ? &ode_backsolve : &ode_discrete };
    ad_var end =
        ode_solve_final(identity, NULL, ad_mul(y0, p), 0, NULL, ode_interval(tape, 0, 1), &o);
    ad_grad(ad_sum_all(end), 1, &p, &g);
    ad_program *program = ad_compile(2, (ad_var[]){ p, y0 }, 2, (ad_var[]){ end, g });
    ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
    ad_tape_free(tape);
    ad_workspace *w = ad_workspace_new(program, 1);
    for (int64_t rows = 1; rows <= 3; rows++) {
        ck_assert_msg(!ad_run(program, w, rows, (const void *[]){ p0, y }, (void *[]){ out, grad }),
                      "%s", ad_workspace_error(w));
        for (int64_t i = 0; i < rows; i++)
            ck_assert_double_eq_tol(out[i], -0.5 * y[i] * exp(1), 1e-4);
        ck_assert_double_eq_tol(grad[0], (double)(rows * (rows + 1)) / 2 * exp(1), 3e-4);
    }
    ad_workspace_free(w);
    ad_program_free(program);
}
END_TEST

/* Tangents as states: y' = sin(p y) with its derivative s = dy/dp as a second state. The gradient
 * of y(1)^2's derivative 2 y s is the second derivative, and a unit cotangent for each component
 * gives the Jacobian. Against differences of the solution in closed form: tan(p y / 2) = tan(p y0 /
 * 2) e^(p t). */
static void with_sensitivity(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                             ad_var *dy)
{
    (void)t, (void)nstate, (void)user;
    ad_var along[] = { y[0], args[0] }, direction[] = { y[1], ad_ones_like(args[0]) };
    dy[0] = ad_sin(ad_mul(args[0], y[0]));
    ad_jvp(2, along, direction, 1, dy, dy + 1);
}

static double sine_flow(double p, double y0) { return 2 / p * atan(tan(p * y0 / 2) * exp(p)); }

START_TEST(sensitivities_as_states)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double p = 0.8, start = 0.9, h = 1e-4, v, f[3];
    ode_options o = { .rtol = 1e-10,
                      .atol = 1e-12,
                      .adjoint = _i ? &ode_backsolve : &ode_discrete };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           x = ad_param(tape, AD_SCALAR, &p), y[2], g;
    ode_solve_states_final(with_sensitivity, NULL, 2, (ad_var[]){ y0, ad_zeros_like(y0) }, 1, &x,
                           ode_interval(tape, 0, 1), &o, y);
    for (int i = 0; i < 3; i++) f[i] = pow(sine_flow(p + (i - 1) * h, start), 2);
    get(y[0], &v);
    relative("y", v, sine_flow(p, start), 1e-9);
    get(ad_mul(ad_scale(y[0], 2), y[1]), &v);
    relative("first", v, (f[2] - f[0]) / (2 * h), 1e-6);
    ad_grad(ad_sum_all(ad_mul(ad_scale(y[0], 2), y[1])), 1, &x, &g);
    get(g, &v);
    relative("second", v, (f[2] - 2 * f[1] + f[0]) / (h * h), 1e-5);
    ad_tape_free(tape);
}
END_TEST

/* ---- arguments that a field called anew only looks at ---- */

typedef enum { LOOKS_ONLY, LOOKS_TOO, COMPUTES, IGNORES } use;

/* y' = -(p + q) y, where p comes in as the use says, q always as a variable. */
static ad_var looking(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    use how = *(const use *)user;
    double p = how == LOOKS_ONLY || how == LOOKS_TOO ? ad_item(ad_scale(args[0], 1)) : 0;
    ad_var rate = how == LOOKS_ONLY ? ad_scalar(y.tape, p)
                  : how == IGNORES  ? ad_scalar(y.tape, 1)
                                    : args[0];
    return ad_neg(ad_mul(ad_add(rate, args[1]), y));
}

/* The number p alone has no gradient; asking for it is an error, not 0. All else is as it would be:
 * y(1) and its derivative by p and q. */
START_TEST(arguments_looked_at)
{
    for (int k = 0; k < 4 * 2 * 2 * 2; k++) {
        use how = (use)(k % 4);
        bool rows = k / 4 % 2, by_p = k / 8 % 2, back = k / 16;
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 }), g;
        ad_var p = rows ? ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 })
                        : ad_param(tape, AD_SHAPE(1), (double[]){ 1 });
        ad_var args[] = { p, ad_param(tape, AD_SHAPE(1), (double[]){ 0.5 }) };
        ode_options o = { .adjoint = back ? &ode_backsolve : &ode_discrete,
                          .rtol = 1e-8,
                          .atol = 1e-10,
                          .rerecord = true };
        ad_var y = ode_solve_final(looking, &how, y0, 2, args, ode_interval(tape, 0, 1), &o);
        ck_assert_double_eq_tol(ad_item(y), exp(-1.5), 1e-6);
        ad_grad(ad_sum_all(y), 1, &args[by_p ? 0 : 1], &g);
        double slope = ad_item(g);
        if (how == LOOKS_ONLY && by_p) {
            const char *error = ad_tape_error(tape);
            ck_assert_msg(
                error &&
                    strstr(error, "the field reads the value of argument 0 (ad_value, ad_item)"),
                "%d: %s", k, error ? error : "no error");
            ck_assert(isnan(slope));
        } else {
            ck_assert_msg(!ad_tape_error(tape), "%d: %s", k, ad_tape_error(tape));
            ck_assert_double_eq_tol(slope, how == IGNORES && by_p ? 0 : -exp(-1.5), 1e-5);
        }
        ad_tape_free(tape);
    }
}
END_TEST

int main(void)
{
    TCase *frozen = suite_case("gradients", "frozen steps"),
          *known = suite_case("gradients", "known");
    tcase_add_test(known, arguments_looked_at);
    tcase_add_loop_test(frozen, frozen_steps, 0, 2 * method_count());
    tcase_add_loop_test(frozen, times_fixed_steps, 0, 2 * method_count());
    tcase_add_loop_test(frozen, times_adaptive, 0, method_count());
    tcase_add_loop_test(frozen, times_in_one_step, 0, method_count());
    tcase_add_loop_test(frozen, continuous_agree, 0, 2 * method_count());
    tcase_add_test(frozen, backsolve_of_the_end);
    tcase_add_loop_test(frozen, recording_anew, 0, 8);
    tcase_add_loop_test(known, lotka_volterra, 0, 4);
    tcase_add_loop_test(known, unused_parameter, 0, 2);
    tcase_add_loop_test(known, unused_of_any_shape, 0, 2);
    tcase_add_loop_test(known, euler_powers, 0, 2);
    tcase_add_loop_test(known, zero_length, 0, 2 * method_count());
    tcase_add_loop_test(known, jump, 0, 4);
    tcase_add_loop_test(known, several_states, 0, 10);
    tcase_add_loop_test(known, programs, 0, 2);
    tcase_add_loop_test(known, sensitivities_as_states, 0, 2);
    return suite_run();
}
