/* What is wrong with a stochastic solve is an error that says what, and what would do. */
#include "costate.h"
#include "ode/step/step.h"
#include "support.h"
#include <math.h>
#include <string.h>

typedef struct {
    ad_tape *tape, *other;
    ad_var y0, times;
    sde_options options; /* ten steps */
} scene;

static ad_var drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}
static ad_var noise(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, 0.1);
}
/* The root of a negative variance. */
static ad_var imaginary(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_sqrt(ad_sub(ad_neg(y), ad_square(y)));
}
/* A constant of the shape that `user` points at. */
static ad_var of_shape(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)y;
    return ad_fill(t.tape, *(const ad_shape *)user, 0.1);
}
static ad_var general(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(ad_outer(y, y), 0.01);
}
static ad_var empty(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)y, (void)args, (void)user;
    return (ad_var){ 0 };
}
static ad_var captured(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)y;
    return *(ad_var *)user;
}
/* Diagonal at times, and general at others. */
static ad_var changing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_item(t) < 0.5 ? general(t, y, args, user) : noise(t, y, args, user);
}
static void drifts(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    (void)t, (void)args, (void)user;
    for (int i = 0; i < n; i++) dy[i] = ad_neg(y[i]);
}
static void mixed(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)n;
    g[0] = noise(t, y[0], args, user);
    g[1] = general(t, y[1], args, user);
}
static void unequal(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)n, (void)y, (void)args, (void)user;
    g[0] = ad_fill(t.tape, AD_SHAPE(1, 2, 3), 1);
    g[1] = ad_fill(t.tape, AD_SHAPE(1, 2, 4), 1);
}

static scene open(void)
{
    double y[4] = { 1, 2, 3, 4 };
    scene s = { .tape = ad_tape_new(AD_F64), .other = ad_tape_new(AD_F64) };
    s.y0 = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 2), 2, y);
    s.times = ode_interval(s.tape, 0, 1);
    s.options.ode.steps = 10;
    return s;
}

static ad_var solve(scene *s, ode_field diffusion, void *user)
{
    return sde_solve_final(drift, diffusion, user, s->y0, 0, NULL, s->times, &s->options);
}

/* The tape's error has all of these words; closes the scene. */
static void close_with(scene *s, ad_var result, int n, const char *const *words)
{
    if (ad_valid(result)) ad_value(result);
    const char *error = ad_tape_error(s->tape);
    ck_assert_msg(error != NULL, "no error where \"%s\" was expected", words[0]);
    for (int i = 0; i < n; i++)
        ck_assert_msg(strstr(error, words[i]), "\"%s\" is not in: %s", words[i], error);
    ad_tape_free(s->tape);
    ad_tape_free(s->other);
}
#define CLOSE(s, result, ...)                                                                      \
    close_with(&(s), result, sizeof(const char *[]){ __VA_ARGS__ } / sizeof(char *),               \
               (const char *[]){ __VA_ARGS__ })

START_TEST(shapes)
{
    ad_shape matrix = AD_SHAPE(2, 2), three = AD_SHAPE(1, 3, 2), good = AD_SHAPE(1, 2, 5);
    scene s = open();
    CLOSE(s, solve(&s, of_shape, &matrix), "sde_solve_final: in the field", "[2,2]", "[rows,2]",
          "[rows,D...,m]");
    s = open();
    CLOSE(s, solve(&s, of_shape, &three), "[1,3,2]", "one axis more");
    s = open();
    ck_assert(ad_value(solve(&s, of_shape, &good)) != NULL);
    CLOSE(s, solve(&s, empty, NULL), "without noise is solved by ode_solve");
    s = open();
    ad_var y[2] = { s.y0, s.y0 }, out[2];
    sde_solve_states(drifts, mixed, NULL, 2, y, 0, NULL, s.times, &s.options, out);
    CLOSE(s, out[0], "sde_solve_states", "one kind", "state 1");
    s = open();
    y[0] = y[1] = s.y0;
    sde_solve_states(drifts, unequal, NULL, 2, y, 0, NULL, s.times, &s.options, out);
    CLOSE(s, out[0], "by 4 Brownian motions", "by 3 for a state before");
    s = open();
    ad_var foreign = ad_scalar(s.other, 1);
    CLOSE(s, solve(&s, captured, &foreign), "another tape", "args");
    s = open();
    s.options.ode.rerecord = true;
    CLOSE(s, solve(&s, changing, NULL), "when it was called first", "general");
}
END_TEST

START_TEST(methods)
{
    scene s = open();
    s.options.ode.method = &ode_rk4;
    CLOSE(s, solve(&s, noise, NULL), "rk4 is a method for ordinary", "sde_euler_maruyama",
          "sde_heun");
    s = open();
    ode_options ode = { .method = &sde_heun, .steps = 3 };
    CLOSE(s, ode_solve_final(drift, NULL, s.y0, 0, NULL, s.times, &ode),
          "heun is a method for stochastic", "ode_dopri5");
    s = open();
    s.options.ode.steps = 0;
    CLOSE(s, solve(&s, noise, NULL), "euler_maruyama has no error estimate", "sde_heun");
    s = open();
    s.options.calculus = (sde_calculus)7;
    CLOSE(s, solve(&s, noise, NULL), "options.calculus is 7");
    ck_assert(sde_method_find("heun") == &sde_heun && !sde_method_find("rk4"));
    ck_assert(!sde_method_find(NULL) && !ode_method_find("euler_maruyama"));
    ck_assert_double_eq(sde_method_strong_order(NULL), 0);
    ck_assert_double_eq(sde_method_weak_order(&ode_rk4), 0);
    for (int i = 0; sde_methods()[i]; i++) {
        const ode_method *m = sde_methods()[i];
        ck_assert(sde_method_find(ode_method_name(m)) == m && m->takes && m->calculi);
        ck_assert(sde_method_strong_order(m) >= 0.5 && sde_method_weak_order(m) >= 1);
    }
}
END_TEST

/* Of each method, noise that it does not take. */
START_TEST(kinds)
{
    const ode_method *m = sde_methods()[_i];
    ad_shape additive = AD_SHAPE(1, 2, 3);
    scene s = open();
    s.options.ode.method = m;
    if (!(m->takes & ODE_TAKES_GENERAL)) {
        CLOSE(s, solve(&s, general, NULL), m->name, "does not take general noise",
              "sde_euler_maruyama");
    } else {
        ck_assert_msg(ad_value(solve(&s, general, NULL)) != NULL, "%s", ad_tape_error(s.tape));
        ck_assert(ad_value(solve(&s, of_shape, &additive)) != NULL);
        CLOSE(s, ad_none(s.tape), (ad_fail(s.tape, "done"), "done"));
    }
    if (m->takes & ODE_TAKES_DIAGONAL) return;
    s = open();
    s.options.ode.method = m;
    CLOSE(s, solve(&s, noise, NULL), m->name, "does not take diagonal noise", "sde_");
}
END_TEST

START_TEST(paths)
{
    double grid[] = { 0, 0.5, 0.4, 1 }, y0[2] = { 1, 1 };
    scene s = open();
    s.options.path.grid = grid;
    s.options.path.cells = 3;
    CLOSE(s, solve(&s, noise, NULL), "options.path.grid", "grid[1] = 0.5");
    s = open();
    s.options.path.grid = grid;
    CLOSE(s, solve(&s, noise, NULL), "options.path.cells is 0");
    s = open();
    s.options.path.cells = -1;
    CLOSE(s, solve(&s, noise, NULL), "options.path.cells is -1");
    s = open();
    s.options.path.t1 = NAN;
    CLOSE(s, solve(&s, noise, NULL), "options.path goes from", "nan");
    s = open();
    s.options.path.t0 = 0.2;
    s.options.path.t1 = 2;
    CLOSE(s, solve(&s, noise, NULL), "step 0", "outside");
    s = open();
    s.options.path.draw = ad_scalar(s.tape, -1);
    CLOSE(s, solve(&s, noise, NULL), "options.path.draw is -1", "whole number");
    s = open();
    s.options.path.draw = ad_input(s.tape, AD_SHAPE(2), y0);
    CLOSE(s, solve(&s, noise, NULL), "options.path.draw has shape [2]");
    s = open();
    s.options.path.draw = ad_scalar(s.other, 1);
    CLOSE(s, solve(&s, noise, NULL), "options.path.draw is not a valid variable");
    s = open();
    s.options.path.t0 = -1.7e308;
    s.options.path.t1 = 1.7e308;
    CLOSE(s, solve(&s, noise, NULL), "interval must be finite");
}
END_TEST

/* A counter that single precision rounds would draw one path again and again. */
START_TEST(counters)
{
    float y0 = 1, draw = 0x1p24f - 1;
    scene s = open();
    ad_tape_free(s.tape);
    s.tape = ad_tape_new(AD_F32);
    s.y0 = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 1), 1, &y0);
    s.times = ode_interval(s.tape, 0, 1);
    s.options.path.draw = ad_input(s.tape, AD_SCALAR, &draw);
    ad_var y = solve(&s, noise, NULL);
    ck_assert(ad_value(y) != NULL);
    draw++;
    ad_set(s.options.path.draw, 0, &draw);
    CLOSE(s, y, "options.path.draw is 16777216", "below 2^24 in f32");
}
END_TEST

/* Nothing where something is wanted, as everywhere in ode/. */
START_TEST(nothing)
{
    scene s = open();
    CLOSE(s, sde_solve(NULL, noise, NULL, s.y0, 0, NULL, s.times, &s.options),
          "sde_solve: the field is NULL");
    s = open();
    CLOSE(s, sde_solve(drift, NULL, NULL, s.y0, 0, NULL, s.times, &s.options),
          "sde_solve: the diffusion is NULL");
    s = open();
    CLOSE(s, sde_solve(drift, noise, NULL, s.y0, 0, NULL, s.times, NULL), "has no error estimate");
    s = open();
    ad_var q;
    CLOSE(s, sde_solve_cost(drift, noise, NULL, NULL, s.y0, 0, NULL, s.times, &s.options, &q),
          "sde_solve_cost: the cost is NULL");
    s = open();
    CLOSE(s, sde_solve_cost(drift, noise, drift, NULL, s.y0, 0, NULL, s.times, &s.options, NULL),
          "sde_solve_cost: q is NULL");
    s = open();
    CLOSE(s, sde_solve_final(drift, noise, NULL, s.y0, 1, NULL, s.times, &s.options),
          "args is NULL");
    s = open();
    s.options.path.draw = ad_scalar(s.tape, 1);
    CLOSE(s, sde_solve_final(drift, noise, NULL, s.y0, 64, NULL, s.times, &s.options),
          "options.path.draw; there may be 64");
    s = open();
    CLOSE(s, sde_solve_final(drift, noise, NULL, (ad_var){ 0 }, 0, NULL, s.times, &s.options),
          "y0 of state 0 is empty");
    s = open();
    int failed =
        sde_solve_states_final(drifts, mixed, NULL, 0, NULL, 0, NULL, s.times, &s.options, NULL);
    ck_assert_int_eq(failed, -1);
    CLOSE(s, ad_none(s.tape), "y, for the results, is NULL");
    ck_assert(
        !ad_valid(sde_solve(drift, noise, NULL, (ad_var){ 0 }, 0, NULL, (ad_var){ 0 }, NULL)));
}
END_TEST

/* A replay whose steps pass an output time, and steps that cannot be found. */
START_TEST(steps)
{
    ode_stats stats = { 0 };
    scene s = open();
    s.options.ode.stats = &stats;
    ad_value(solve(&s, noise, NULL));
    s.options.ode.stats = NULL;
    s.options.ode.steps = 0;
    s.options.ode.replay = stats.steps_taken;
    s.times = ode_linspace(s.tape, 0, 1, 4);
    CLOSE(s, sde_solve(drift, noise, NULL, s.y0, 0, NULL, s.times, &s.options),
          "passes an output time");
    ode_stats_clear(&stats);
    for (int k = 0; k < 4; k++) { /* chosen steps are those of their path */
        s = open();
        s.options.ode = (ode_options){ .method = &sde_heun, .stats = &stats };
        ck_assert_ptr_nonnull(ad_value(solve(&s, noise, NULL)));
        s.options.ode.stats = NULL;
        s.options.ode.replay = stats.steps_taken;
        ck_assert_ptr_nonnull(ad_value(solve(&s, noise, NULL)));
        if (k == 0) s.options.path.seed = 5;
        s.options.path.antithetic = k == 1;
        s.options.path.cells = k == 2 ? 7 : 0;
        s.options.path.t1 = k == 3 ? 2 : 0;
        CLOSE(s, solve(&s, noise, NULL),
              k == 0 ? "this solve has seed 5" : "on a path with other options.path");
        ode_stats_clear(&stats);
    }
    s = open();
    s.options.ode = (ode_options){ .method = &sde_heun, .rtol = 1e-9, .max_steps = 20 };
    CLOSE(s, solve(&s, noise, NULL), "max_steps = 20", "loosen the tolerances");
    s = open();
    s.options.ode = (ode_options){ .method = &sde_heun, .rtol = 1e-9, .min_step = 1e-3 };
    CLOSE(s, solve(&s, noise, NULL), "loosen the tolerances", "lower min_step");
    s = open();
    s.options.ode = (ode_options){ .method = &sde_heun };
    CLOSE(s, solve(&s, imaginary, NULL), "step 0 near t = 0", "not finite in row 0, component 0",
          "however small the step");
}
END_TEST

/* Times of single precision, which rounding moves past an end of the path given in double. */
START_TEST(rounded_ends)
{
    float y0 = 1, times[] = { 0, 0.3f };
    for (int back = 0; back < 2; back++) {
        scene s = open();
        ad_tape_free(s.tape);
        s.tape = ad_tape_new(AD_F32);
        s.y0 = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 1), 1, &y0);
        s.times = ad_input(s.tape, AD_SHAPE(2), times);
        s.options.path.t1 = 0.3;
        if (back) s.times = ad_flip(s.times, 0);
        ck_assert_msg(ad_value(solve(&s, noise, NULL)) != NULL, "%s", ad_tape_error(s.tape));
        s.options.path.t1 = 0.2999;
        CLOSE(s, solve(&s, noise, NULL), "outside");
    }
}
END_TEST

int main(void)
{
    int all = 0;
    while (sde_methods()[all]) all++;
    TCase *tests = suite_case("sde_misuse", "sde_misuse");
    tcase_add_test(tests, shapes);
    tcase_add_test(tests, methods);
    tcase_add_loop_test(tests, kinds, 0, all);
    tcase_add_test(tests, paths);
    tcase_add_test(tests, counters);
    tcase_add_test(tests, nothing);
    tcase_add_test(tests, steps);
    tcase_add_test(tests, rounded_ends);
    return suite_run();
}
