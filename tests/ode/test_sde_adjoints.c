/* The continuous adjoints of stochastic solves (Li et al. 2020, arXiv:2001.01328) against the
 * discrete one: both converge to the gradient on the path, so that their difference goes to zero
 * with the steps. */
#include "costate.h"
#include "ode/step/step.h"
#include "sde_problems.h"
#include "support.h"
#include <math.h>
#include <string.h>

enum { ROWS = 8, TIMES = 3, N = ROWS * SDE_WIDTH, GRADIENT = 2 * N + 2 * SDE_WIDTH };

static const sde_noise_case noises[SDE_NOISES] = SDE_NOISE_CASES;
static const ode_adjoint *const adjoints[] = { &ode_backsolve, &ode_interpolating };

typedef struct {
    const ode_method *method;
    const ode_adjoint *adjoint;
    const sde_noise_case *noise;
    sde_calculus calculus;
    int steps;
    bool adaptive, rerecord, matrix; /* matrix: a state [rows,3,1] */
    const double *jump;
} problem;

static ad_var as_matrix(ad_var x) { return ad_reshape(x, AD_SHAPE(AD_ROWS, SDE_WIDTH, 1)); }
static ad_var as_vector(ad_var x) { return ad_reshape(x, AD_SHAPE(AD_ROWS, SDE_WIDTH)); }
static ad_var matrix_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return as_matrix(sde_drift(ad_reshape(t, AD_SHAPE(1, 1)), as_vector(y), args, user));
}
static ad_var matrix_diagonal(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return as_matrix(sde_diagonal(ad_reshape(t, AD_SHAPE(1, 1)), as_vector(y), args, user));
}

/* The gradient by y0, a, b and c; the tape's error, if it has one, in `error`. */
static void gradient_of(const problem *p, double *gradient, ode_stats *stats, char *error,
                        size_t size)
{
    const double a[] = { 0.7, 1.2, 0.4 }, b[] = { 0.5, 0.3, 0.6 }, times[] = { 0.2, 0.5, 1.2 };
    double y0[N], c[N];
    for (int i = 0; i < N; i++) {
        y0[i] = sin(1.3 * i);
        c[i] = 1 + 0.3 * cos(0.7 * i);
    }
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), ROWS, y0);
    ad_var x[] = { y, ad_param(tape, AD_SHAPE(SDE_WIDTH), a),
                   ad_param(tape, AD_SHAPE(SDE_WIDTH), b),
                   ad_input_rows(tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), ROWS, c) };
    sde_options options = { .ode = { .method = p->method,
                                     .adjoint = p->adjoint,
                                     .steps = p->adaptive ? 0 : p->steps,
                                     .rtol = p->adaptive ? 1e-3 : 0,
                                     .atol = p->adaptive ? 1e-4 : 0,
                                     .rerecord = p->rerecord,
                                     .jump_times = p->jump,
                                     .njump = p->jump ? 1 : 0,
                                     .stats = stats },
                            .calculus = p->calculus,
                            .path = { .seed = 11, .cells = p->adaptive ? 0 : 1024 } };
    ad_var t = ad_constant(tape, AD_SHAPE(TIMES), times), g[4];
    ad_var all =
        p->matrix
            ? sde_solve(matrix_drift, matrix_diagonal, NULL, as_matrix(y), 3, x + 1, t, &options)
            : sde_solve(sde_drift, p->noise->diffusion, NULL, y, 3, x + 1, t, &options);
    ad_var loss = ad_sum_all(ad_mul(ad_square(all), ad_shift(ad_sin(all), 2)));
    ad_grad(loss, 4, x, g);
    double *to = gradient;
    for (int i = 0; i < 4 && !ad_tape_error(tape); i++) {
        ad_get(g[i], to);
        to += ad_size(g[i]);
    }
    if (error) snprintf(error, size, "%s", ad_tape_error(tape) ? ad_tape_error(tape) : "");
    else ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
}

/* How far the adjoint is from the discrete one, relative to that. */
static double difference(const problem *p)
{
    double g[GRADIENT], exact[GRADIENT], square = 0, norm = 0;
    problem discrete = *p;
    discrete.adjoint = &ode_discrete;
    ode_stats stats = { 0 };
    gradient_of(p, g, &stats, NULL, 0);
    gradient_of(&discrete, exact, NULL, NULL, 0);
    if (p->adjoint == &ode_backsolve) ck_assert(stats.backward_drift > 0);
    ck_assert_int_eq(stats.backward_steps, stats.steps);
    ode_stats_clear(&stats);
    for (int i = 0; i < GRADIENT; i++) {
        square += pow(g[i] - exact[i], 2);
        norm += exact[i] * exact[i];
    }
    return sqrt(square / norm);
}

/* With every method that takes the noise, from both calculi: sixteen times the steps, so at least
 * four times nearer, unless few steps happen to be near on these paths. */
START_TEST(converges)
{
    const ode_method *m = sde_methods()[_i];
    for (int k = 0; k < SDE_NOISES; k++)
        for (int way = 0; way < 2; way++) {
            problem p = { .method = m,
                          .adjoint = adjoints[way],
                          .noise = &noises[k],
                          .calculus = (k + way) % 2 ? SDE_STRATONOVICH : SDE_ITO };
            if (!(m->takes & noises[k].kinds)) continue;
            double off[2];
            for (int i = 0; i < 2; i++) {
                p.steps = i ? 256 : 16;
                off[i] = difference(&p);
            }
            ck_assert_msg(off[1] < fmax(off[0] / 3, 1e-3) && off[1] < 3e-3,
                          "%s, %s, %s noise: off by %.3g with 16 steps, %.3g with 256", m->name,
                          ode_adjoint_name(p.adjoint), p.noise->name, off[0], off[1]);
        }
}
END_TEST

/* With Heun's method both adjoints differ by its error, of order 1, where the noise commutes. */
START_TEST(close_for_heun)
{
    for (int way = 0; way < 2; way++) {
        problem p = {
            .method = &sde_heun, .adjoint = adjoints[way], .noise = &noises[1], .steps = 512
        };
        double off = difference(&p);
        ck_assert_msg(off < 2e-5, "%s: %.3g", ode_adjoint_name(p.adjoint), off);
    }
}
END_TEST

/* Fields that are called anew, states that are no vectors, and steps that the error chose. */
START_TEST(ways)
{
    for (int way = 0; way < 2; way++) {
        problem p = {
            .method = &sde_euler_maruyama, .adjoint = adjoints[way], .noise = &noises[1], .steps = 8
        };
        double g[GRADIENT], other[GRADIENT];
        gradient_of(&p, g, NULL, NULL, 0);
        for (int i = 0; i < 2; i++) {
            problem q = p;
            q.rerecord = i == 0;
            q.matrix = i == 1;
            gradient_of(&q, other, NULL, NULL, 0);
            for (int k = 0; k < GRADIENT; k++)
                ck_assert_msg(fabs(other[k] - g[k]) <= 1e-11 * (1 + fabs(g[k])),
                              "%d, %d: %.12g, %.12g", i, k, other[k], g[k]);
        }
        problem chosen = p;
        chosen.method = &sde_heun;
        chosen.adaptive = true;
        double off = difference(&chosen);
        ck_assert_msg(off < 2e-3, "%s: %.3g", ode_adjoint_name(p.adjoint), off);
    }
}
END_TEST

START_TEST(no_gradient_by_times)
{
    for (int way = 0; way < 2; way++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        const double y0[SDE_WIDTH] = { 1, 2, 3 };
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, SDE_WIDTH), 1, y0), g;
        ad_var args[] = { ad_fill(tape, AD_SHAPE(SDE_WIDTH), 1),
                          ad_fill(tape, AD_SHAPE(SDE_WIDTH), 1), ad_ones_like(y) };
        ad_var t = ad_input(tape, AD_SHAPE(2), (double[]){ 0, 1 });
        sde_options options = { .ode = { .adjoint = adjoints[way], .steps = 4 } };
        ad_var end = sde_solve_final(sde_drift, sde_diagonal, NULL, y, 3, args, t, &options);
        ad_grad(ad_sum_all(end), 1, &t, &g);
        ck_assert_ptr_nonnull(ad_tape_error(tape));
        ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "use ode_discrete"));
        ad_tape_free(tape);
    }
}
END_TEST

/* Steps taken back: the discrete gradient, but for rounding, and no states are stored. */
START_TEST(undone)
{
    for (int k = 0; k < SDE_NOISES; k++)
        for (int way = 0; way < 4; way++) {
            problem p = { .method = &sde_reversible_heun,
                          .adjoint = &ode_reversible,
                          .noise = &noises[k],
                          .calculus = way % 2 ? SDE_STRATONOVICH : SDE_ITO,
                          .steps = 128,
                          .adaptive = way == 2,
                          .rerecord = way == 3 };
            if (p.rerecord) p.steps = 8;
            double g[GRADIENT], exact[GRADIENT];
            ode_stats stats = { 0 };
            gradient_of(&p, g, &stats, NULL, 0);
            ck_assert_uint_eq(stats.stored_bytes, 0);
            ck_assert_int_eq(stats.backward_steps, stats.steps);
            ode_stats_clear(&stats);
            p.adjoint = &ode_discrete;
            gradient_of(&p, exact, NULL, NULL, 0);
            for (int i = 0; i < GRADIENT; i++)
                ck_assert_msg(fabs(g[i] - exact[i]) <= 1e-10 * (1 + fabs(exact[i])),
                              "%s noise, way %d, %d: %.14g, discrete %.14g", p.noise->name, way, i,
                              g[i], exact[i]);
        }
}
END_TEST

START_TEST(cannot_undo)
{
    const double jump[] = { 0.8 };
    problem p = {
        .method = &sde_heun, .adjoint = &ode_reversible, .noise = &noises[1], .steps = 4
    };
    double g[GRADIENT];
    char error[1024];
    gradient_of(&p, g, NULL, error, sizeof error);
    ck_assert_msg(strstr(error, "use sde_reversible_heun"), "%s", error);
    p.method = &sde_reversible_heun;
    p.jump = jump;
    gradient_of(&p, g, NULL, error, sizeof error);
    ck_assert_msg(strstr(error, "t = 0.8, a jump"), "%s", error);
}
END_TEST

/* A decay that rounding does not survive in reverse time. */
static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, -30);
}
static ad_var small(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_fill(y.tape, AD_SHAPE(1, 1), 0.1);
}

START_TEST(forgotten)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 }), g;
    sde_options options = {
        .ode = { .method = &sde_reversible_heun, .adjoint = &ode_reversible, .steps = 400 }
    };
    ad_var end =
        sde_solve_final(decay, small, NULL, y, 0, NULL, ode_interval(tape, 0, 4), &options);
    ad_grad(ad_sum_all(ad_square(end)), 1, &y, &g);
    double got;
    ad_get(g, &got);
    ck_assert_ptr_nonnull(ad_tape_error(tape));
    ck_assert_msg(strstr(ad_tape_error(tape), "use ode_discrete"), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    int methods = 0;
    while (sde_methods()[methods]) methods++;
    TCase *tests = suite_case("sde_adjoints", "sde_adjoints");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, converges, 0, methods);
    tcase_add_test(tests, close_for_heun);
    tcase_add_test(tests, ways);
    tcase_add_test(tests, no_gradient_by_times);
    tcase_add_test(tests, undone);
    tcase_add_test(tests, cannot_undo);
    tcase_add_test(tests, forgotten);
    return suite_run();
}
