/* Gradients where the state does not say how large the steps may be: at rest, beside a mode that is
 * at rest, with forcing whose coefficient is zero. The right values are those of the exact
 * solutions. */
#include "autodiff/extension.h"
#include "ode/ode.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { MOST = 4 };
static const double pi = 3.14159265358979323846;

typedef struct {
    const char *name;
    ode_field field;
    int n;
    double y0[MOST], p, horizon;
    double by_y0[MOST], by_p; /* of the first component at the end */
} problem;

static ad_var part(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }
static ad_var join(int n, const ad_var *y) { return ad_concatenate(n, y, 1); }

/* y' = -y + p sin t. */
static ad_var forced_decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ad_mul(args[0], ad_sin(t)), y);
}

/* The same backwards in time. */
static ad_var forced_growth(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_add(ad_mul(args[0], ad_sin(t)), y);
}

static ad_var fast_square(ad_var t) { return ad_square(ad_sin(ad_scale(t, 20 * pi))); }

/* y' = p sin^2(20 pi t). */
static ad_var fast(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_add(ad_mul(args[0], fast_square(t)), ad_zeros_like(y));
}

/* y' = p / (1 + 400 (t - 1/2)^2). */
static ad_var bump(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var width = ad_shift(ad_scale(ad_square(ad_shift(t, -0.5)), 400), 1);
    return ad_add(ad_div(args[0], width), ad_zeros_like(y));
}

/* y' = p after t = 0.6, which is no jump time. */
static ad_var late(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_add(ad_mul(args[0], ad_gt(t, ad_scalar(t.tape, 0.6))), ad_zeros_like(y));
}

/* y' = p y cos 30 t. */
static ad_var gate(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(ad_mul(args[0], y), ad_cos(ad_scale(t, 30)));
}

/* x'' = p - x'/10 - x. */
static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), v = part(y, 1);
    return join(2, (ad_var[]){ v, ad_sub(args[0], ad_add(ad_scale(v, 0.1), x)) });
}

/* Two species, of which one turns into the other; p leads back. */
static ad_var species(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return join(2, (ad_var[]){ ad_sub(part(y, 1), part(y, 0)), ad_mul(args[0], part(y, 0)) });
}

/* y' = p sin^2(20 pi t) + user, beside a decay. */
static ad_var fast_beside_decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var rate = ad_add(ad_mul(args[0], fast_square(t)), ad_zeros_like(part(y, 0)));
    return join(2, (ad_var[]){ rate, ad_neg(part(y, 1)) });
}

static ad_var fast_drift_beside_decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var rates = fast_beside_decay(t, y, args, user);
    return join(2, (ad_var[]){ ad_shift(part(rates, 0), 1), part(rates, 1) });
}

/* z' = p (1 - z) beside w'' = -w. */
static ad_var stiff_beside_oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var decay = ad_mul(args[0], ad_sub(ad_ones_like(part(y, 0)), part(y, 0)));
    return join(3, (ad_var[]){ decay, part(y, 2), ad_neg(part(y, 1)) });
}

/* The same for z and w turned by 45 degrees, so that no component is at rest. */
static ad_var stiff_turned(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    const double c = sqrt(0.5);
    ad_var z = ad_scale(ad_add(part(y, 0), part(y, 1)), c),
           w = ad_scale(ad_sub(part(y, 0), part(y, 1)), c);
    ad_var dz = ad_mul(args[0], ad_sub(ad_ones_like(z), z)), dw = part(y, 2);
    return join(3,
                (ad_var[]){ ad_scale(ad_add(dz, dw), c), ad_scale(ad_sub(dz, dw), c), ad_neg(w) });
}

/* x'' = p - 0.2 x' - 219 x: the field multiplies x by 219 and x' by 1. */
static ad_var steep_oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), v = part(y, 1);
    ad_var pull = ad_add(ad_scale(v, 0.2), ad_scale(x, 219));
    return join(2, (ad_var[]){ v, ad_sub(args[0], pull) });
}

/* z'' = -p^2 z at rest, and w' = -w, turned. */
static ad_var oscillator_turned(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    const double c = sqrt(0.5);
    ad_var z = ad_scale(ad_add(part(y, 0), part(y, 1)), c),
           w = ad_scale(ad_sub(part(y, 0), part(y, 1)), c);
    ad_var dz = ad_mul(args[0], part(y, 2)), dw = ad_neg(w);
    return join(3, (ad_var[]){ ad_scale(ad_add(dz, dw), c), ad_scale(ad_sub(dz, dw), c),
                               ad_neg(ad_mul(args[0], z)) });
}

#define E10 4.5399929762484854e-05
static const problem problems[] = {
    { "forced decay at rest", forced_decay, 1, { 0 }, 0, 10, { E10 }, 0.14754816462646 },
    { "forced decay at rest, backwards",
      forced_growth,
      1,
      { 0 },
      0,
      -10,
      { E10 },
      0.14754816462646 },
    { "forced decay at rest for long", forced_decay, 1, { 0 }, 0, 200, { 0 }, -0.68025494 },
    { "fast forcing off", fast, 1, { 0 }, 0, 1, { 1 }, 0.5 },
    { "fast forcing off, backwards", fast, 1, { 0 }, 0, -1, { 1 }, -0.5 },
    { "bump off", bump, 1, { 0 }, 0, 1, { 1 }, 0.147112767430373 },
    { "late start off", late, 1, { 0 }, 0, 1, { 1 }, 0.4 },
    { "gate off", gate, 1, { 1 }, 0, 1, { 1 }, -0.0329343874697206 },
    { "oscillator at rest",
      oscillator,
      2,
      { 0, 0 },
      0,
      50,
      { 0.0763844318043403, -0.02510413 },
      0.9236155682 },
    { "species in balance", species, 2, { 0.5, 0.5 }, 0, 100, { 0, 1 }, 49.5 },
    { "fast forcing off beside decay", fast_beside_decay, 2, { 0, 1 }, 0, 1, { 1, 0 }, 0.5 },
    { "fast forcing off in a drift", fast_drift_beside_decay, 2, { 0, 1 }, 0, 1, { 1, 0 }, 0.5 },
    { "stiff beside oscillator", stiff_beside_oscillator, 3, { 1, 1, 0 }, 1000, 2, { 0, 0, 0 }, 0 },
    { "stiff turned",
      stiff_turned,
      3,
      { 0, 1.4142135623730951, 1 },
      20,
      30,
      { 0.07712572494, -0.07712572494, -0.69864672 },
      0 },
    { "very stiff turned",
      stiff_turned,
      3,
      { 0, 1.4142135623730951, 1 },
      1000,
      2,
      { -0.20807341827, 0.20807341827, 0.64297037 },
      0 },
    { "oscillator turned",
      oscillator_turned,
      3,
      { 1, -1, 0 },
      40,
      10,
      { -0.26262694, -0.26267234, -0.60167478 },
      0 },
    { "steep oscillator at rest",
      steep_oscillator,
      2,
      { 0, 0 },
      0,
      20.05,
      { 0.0242588672335, 0.00896171022518 },
      0.0044554389624 },
    { "fast forcing far below the tolerance", fast, 1, { 0 }, 1e-15, 1, { 1 }, 0.5 },
};
enum { PROBLEMS = sizeof problems / sizeof *problems };

static const struct {
    const ode_method *method;
    ad_dtype dtype;
    double rtol, atol;
} settings[] = {
    { &ode_dopri5, AD_F64, 0, 0 },         { &ode_tsit5, AD_F64, 0, 0 },
    { &ode_dopri8, AD_F64, 0, 0 },         { &ode_bosh3, AD_F64, 0, 0 },
    { &ode_midpoint, AD_F64, 1e-4, 1e-6 }, { &ode_heun, AD_F64, 1e-4, 1e-6 },
    { &ode_ralston, AD_F64, 1e-4, 1e-6 },  { &ode_dopri5, AD_F64, 1e-6, 0 },
    { &ode_dopri8, AD_F64, 1e-10, 1e-12 }, { &ode_tsit5, AD_F64, 1e-3, 1e-6 },
    { &ode_dopri5, AD_F32, 0, 0 },         { &ode_tsit5, AD_F32, 0, 0 },
    { &ode_dopri8, AD_F32, 0, 0 },         { &ode_bosh3, AD_F32, 0, 0 },
    { &ode_dopri5, AD_F32, 1e-4, 0 },
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static double get(ad_dtype dtype, const void *x, int i)
{
    return dtype == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

static void check_close(const char *name, const char *method, const char *what, double got,
                        double want)
{
    ck_assert_msg(fabs(got - want) <= 0.1 * fabs(want) + 1e-4 * (want == 0),
                  "%s, %s: %s is %.9g, right is %.9g", name, method, what, got, want);
}

START_TEST(gradients_are_right)
{
    const problem *q = &problems[_i % PROBLEMS];
    const ode_method *method = settings[_i / PROBLEMS].method;
    ad_dtype dtype = settings[_i / PROBLEMS].dtype;
    ode_options o = { .method = method,
                      .rtol = settings[_i / PROBLEMS].rtol,
                      .atol = settings[_i / PROBLEMS].atol };
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, q->n), 1, q->y0),
           p = ad_param(tape, AD_SHAPE(1, 1), &q->p), bar[2];
    ad_var y = ode_solve_final(q->field, NULL, y0, 1, &p, ode_interval(tape, 0, q->horizon), &o);
    ad_grad(ad_sum_all(part(y, 0)), 2, (ad_var[]){ y0, p }, bar);
    const void *by_y0 = ad_value(bar[0]), *by_p = ad_value(bar[1]);
    ck_assert_msg(by_y0 && by_p, "%s, %s: %s", q->name, ode_method_name(method),
                  ad_tape_error(tape));
    for (int i = 0; i < q->n; i++)
        check_close(q->name, ode_method_name(method), "dy/dy0", get(dtype, by_y0, i), q->by_y0[i]);
    check_close(q->name, ode_method_name(method), "dy/dp", get(dtype, by_p, 0), q->by_p);
    ad_tape_free(tape);
}
END_TEST

/* At the limit of stability a step is a large part of a period of the forcing. */
START_TEST(gradients_after_a_long_rest)
{
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method) || ode_method_order(method) < 3) return;
    const double zero = 0, horizon = 1000;
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(k ? AD_F32 : AD_F64);
        ode_options o = { .method = method };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &zero);
        ad_var p = ad_param(tape, AD_SHAPE(1, 1), &zero), bar,
               times = ode_interval(tape, 0, horizon);
        ad_var y = ode_solve_final(forced_decay, NULL, y0, 1, &p, times, &o);
        ad_grad(ad_sum_all(y), 1, &p, &bar);
        ck_assert_msg(ad_value(bar), "%s", ad_tape_error(tape));
        check_close("long rest", ode_method_name(method), "dy/dp", ad_item(bar),
                    (sin(horizon) - cos(horizon)) / 2);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- rows, states, outputs ---- */

/* y' = a (1 - y), with a for each row. */
static ad_var approach(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], ad_sub(ad_ones_like(y), y));
}

/* One row is stiff and at rest, the others move: dy/dy0 = exp(-a T), dy/da = T exp(-a T) (1 - y0).
 */
START_TEST(rows_at_rest)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    const double start[] = { 1, 0, 0.5 }, rate[] = { 1000, 1, 0.5 }, horizon = 3;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, start),
           a = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, rate), bar[2];
    ad_var y = ode_solve_final(approach, NULL, y0, 1, &a, ode_interval(tape, 0, horizon), NULL);
    ad_grad(ad_sum_all(y), 2, (ad_var[]){ y0, a }, bar);
    const double *by_y0 = ad_value(bar[0]), *by_a = ad_value(bar[1]);
    ck_assert_msg(by_y0 && by_a, "%s", ad_tape_error(tape));
    for (int r = 0; r < 3; r++) {
        double left = exp(-rate[r] * horizon);
        ck_assert_double_eq_tol(by_y0[r], left, 1e-6);
        ck_assert_double_eq_tol(by_a[r], horizon * left * (1 - start[r]), 1e-6);
    }
    ad_tape_free(tape);
}
END_TEST

/* Forcing with a coefficient for each row: off in the first row, on in the second. */
START_TEST(rows_with_forcing_off)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 2, ((double[]){ 0, 1 }));
    ad_var p = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 2, ((double[]){ 0, 1e-4 })), bar;
    ad_grad(ad_sum_all(ode_solve_final(fast, NULL, y0, 1, &p, ode_interval(tape, 0, 1), NULL)), 1,
            &p, &bar);
    const double *by_p = ad_value(bar);
    ck_assert_msg(by_p, "%s", ad_tape_error(tape));
    for (int r = 0; r < 2; r++) check_close("rows", "dopri5", "dy/dp", by_p[r], 0.5);
    ad_tape_free(tape);
}
END_TEST

static void two_states(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    (void)n;
    dy[0] = fast(t, y[0], args, user);
    dy[1] = ad_neg(y[1]);
}

START_TEST(several_states)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS), 1, ((double[]){ 0 })),
                    ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2, 1), 1, ((double[]){ 1, 2 })) };
    ad_var p = ad_param(tape, AD_SHAPE(1), ((double[]){ 0 })), y[2], bar;
    ad_var times = ode_interval(tape, 0, 1);
    ck_assert_msg(ode_solve_states(two_states, NULL, 2, y0, 1, &p, times, NULL, y) == 0, "%s",
                  ad_tape_error(tape));
    ad_grad(ad_sum_all(y[0]), 1, &p, &bar);
    ck_assert_msg(ad_value(bar), "%s", ad_tape_error(tape));
    check_close("states", "dopri5", "dy/dp", ad_item(bar), 0.5);
    ad_tape_free(tape);
}
END_TEST

/* Steps that are taken again leave right outputs between them, and their gradient. */
START_TEST(outputs_of_steps_taken_again)
{
    enum { TIMES = 61 };
    const problem *q = &problems[13];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, q->y0),
           p = ad_param(tape, AD_SHAPE(1, 1), &q->p), bar;
    ode_stats stats = { 0 };
    ode_options o = { .method = settings[_i].method, .stats = &stats };
    ad_var y = ode_solve(q->field, NULL, y0, 1, &p, ode_linspace(tape, 0, q->horizon, TIMES), &o);
    ad_grad(ad_sum_all(ad_slice(ad_slice(y, 2, 0, 1), 1, TIMES / 2, TIMES / 2 + 1)), 1, &y0, &bar);
    const double *value = ad_value(y), *by_y0 = ad_value(bar);
    ck_assert_msg(value && by_y0, "%s", ad_tape_error(tape));
    for (int k = 0; k < TIMES; k++) {
        double t = q->horizon * k / (TIMES - 1), w = sin(t) - cos(t);
        ck_assert_double_eq_tol(value[3 * k], (1 + w) * sqrt(0.5), 1e-4);
    }
    check_close(q->name, ode_method_name(o.method), "dy/dy0 in the middle", by_y0[0],
                cos(q->horizon / 2) / 2);
    const double *t = ode_steps_times(stats.steps_taken);
    for (int64_t k = 0; k < stats.steps; k++) ck_assert(t[k + 1] > t[k]);
    ck_assert_int_eq(ode_steps_count(stats.steps_taken), stats.steps);
    ck_assert_double_eq(t[stats.steps], q->horizon);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* ---- fields without a tangent ---- */

static int negate(void *data, void *state, const ad_opaque_call *call)
{
    (void)data, (void)state;
    const double *x = call->in[0];
    double *y = call->out[0];
    for (int64_t i = 0; i < call->rows; i++) y[i] = -x[i];
    return 0;
}

static void negate_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)data, (void)token, (void)nin, (void)in, (void)nout, (void)out;
    if (need[0]) xbar[0] = ad_neg(ybar[0]);
}

/* Its name is in the message that says it has no tangent: only what is said of memory is a lack of
 * memory. */
static const ad_opaque_class memory_cell = { .name = "memory_cell",
                                             .forward = negate,
                                             .vjp = negate_vjp };

/* x' = -x beside a clock, which rests. */
static ad_var decay_without_tangent(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var x = part(y, 0), dx;
    ad_opaque(y.tape, &memory_cell, NULL, 1, &x, 1, &(ad_shape){ 2, { AD_ROWS, 1 } }, &dx);
    return join(2, (ad_var[]){ dx, ad_ones_like(x) });
}

/* Such a solve is not probed, and has its gradient: compiled and recorded at every step. */
START_TEST(fields_without_a_tangent)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ 1, 0 })), bar;
    ode_options o = { .rerecord = _i };
    ad_var y =
        ode_solve_final(decay_without_tangent, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &o);
    ad_grad(ad_sum_all(part(y, 0)), 1, &y0, &bar);
    const double *by_y0 = ad_value(bar);
    ck_assert_msg(by_y0, "%s", ad_tape_error(tape));
    ck_assert_double_eq_tol(by_y0[0], exp(-1), 1e-5);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *gradients = suite_case("blind", "gradients"), *shapes = suite_case("blind", "shapes");
    tcase_add_loop_test(gradients, gradients_are_right, 0, PROBLEMS * SETTINGS);
    tcase_add_loop_test(gradients, gradients_after_a_long_rest, 0, method_count());
    tcase_add_test(shapes, rows_at_rest);
    tcase_add_test(shapes, rows_with_forcing_off);
    tcase_add_test(shapes, several_states);
    tcase_add_loop_test(shapes, outputs_of_steps_taken_again, 0, 4);
    tcase_add_loop_test(shapes, fields_without_a_tangent, 0, 2);
    return suite_run();
}
