/* The gradient beside the one with all steps halved: every gradient that steps have spoilt is
 * found, ordinary ones are not, and the tape is as it was. The steps that spoil them are given, so
 * that nothing keeps the solver from taking them. */
#define TESTS_COUNT_ALLOCATIONS
#include "costate.h"
#include "autodiff/extension.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

static ad_var column(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }
static ad_var pair(ad_var a, ad_var b) { return ad_concatenate(2, (ad_var[]){ a, b }, 1); }

/* ---- fields: y' = f(t, y; p), right derivatives of the last state known ---------------------- */

static ad_var forced_decay(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)user;
    return ad_sub(ad_mul(p[0], ad_sin(t)), y);
}

static ad_var wave(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)user;
    return ad_add(ad_scale(y, 0), ad_mul(p[0], ad_square(ad_sin(ad_scale(t, 20 * pi)))));
}

static ad_var hump(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)user;
    return ad_add(ad_scale(y, 0),
                  ad_div(p[0], ad_shift(ad_scale(ad_square(ad_shift(t, -0.5)), 400), 1)));
}

static ad_var oscillator(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ad_var x = column(y, 0), v = column(y, 1);
    return pair(v, ad_sub(ad_sub(p[0], ad_scale(v, 0.1)), x));
}

static ad_var fast_decay(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)user;
    return ad_mul(p[0], ad_sub(ad_cos(t), y));
}

static ad_var van_der_pol(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ad_var x = column(y, 0), v = column(y, 1);
    return pair(v, ad_sub(ad_mul(p[0], ad_mul(ad_sub(ad_scalar(y.tape, 1), ad_square(x)), v)), x));
}

static ad_var two_states(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    return ad_mul(p[0], pair(ad_sub(column(y, 1), column(y, 0)), ad_scale(column(y, 1), 0)));
}

static ad_var lotka_volterra(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ad_var x = column(y, 0), v = column(y, 1), both = ad_mul(x, v);
    return pair(ad_sub(ad_mul(p[0], x), both), ad_sub(both, ad_scale(v, 3)));
}

static ad_var lorenz(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ad_var a = column(y, 0), b = column(y, 1), c = column(y, 2);
    return ad_concatenate(3,
                          (ad_var[]){ ad_scale(ad_sub(b, a), 10),
                                      ad_sub(ad_mul(a, ad_sub(p[0], c)), b),
                                      ad_sub(ad_mul(a, b), ad_scale(c, 8.0 / 3)) },
                          1);
}

static ad_var kepler(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ad_var q = ad_slice(y, 1, 0, 2), v = ad_slice(y, 1, 2, 4);
    ad_var r2 = ad_sum_axis(ad_square(q), 1, true);
    return pair(v, ad_neg(ad_mul(p[0], ad_div(q, ad_mul(r2, ad_sqrt(r2))))));
}

typedef struct {
    ode_field field;
    int width;
    double y0[4], p, end;
    int component; /* of the final state: the loss */
    double right_y0,
        right_p; /* its derivatives by the first component of y0, and by p; NaN: not known here */
} problem;

/* ---- a problem on a tape of its own, and its check ---- */

typedef struct {
    ad_tape *tape;
    ad_var x[2], loss; /* x: y0, p */
    ad_gradient_report report;
    ad_gradient_difference difference[2];
    double gradient[2]; /* by the first component of y0, by p */
} checked;

static checked make(ad_dtype dtype, const problem *q, const ode_options *options)
{
    checked c = { .tape = ad_tape_new(dtype) };
    c.x[0] = ad_input_rows(c.tape, AD_SHAPE(AD_ROWS, q->width), 1, q->y0);
    c.x[1] = ad_param(c.tape, AD_SHAPE(1), &q->p);
    ad_var y = ode_solve_final(q->field, NULL, c.x[0], 1, &c.x[1], ode_interval(c.tape, 0, q->end),
                               options);
    c.loss = ad_sum_all(column(y, q->component));
    return c;
}

static void check(checked *c)
{
    ad_var g[2];
    double by_y0[4];
    ck_assert_msg(ad_check_gradient(c->loss, 2, c->x, 0, &c->report, c->difference) == 0, "%s",
                  ad_tape_error(c->tape));
    ad_grad(c->loss, 2, c->x, g);
    ck_assert_int_eq(ad_get(g[0], by_y0), 0);
    c->gradient[0] = by_y0[0];
    c->gradient[1] = ad_item(g[1]);
}

static ad_var still(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)p, (void)user;
    return ad_zeros_like(y);
}

/* The steps that error control alone (of a solve whose steps have no gradient) takes where nothing
 * moves: each ten times as long as the one before. */
static ode_steps *steps_at_rest(double end)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options options = { .first_step = 1e-6, .adjoint = &ode_backsolve, .stats = &stats };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    ck_assert_ptr_nonnull(
        ad_value(ode_solve_final(still, NULL, y0, 0, NULL, ode_interval(tape, 0, end), &options)));
    ode_steps *steps = stats.steps_taken;
    stats.steps_taken = NULL;
    ad_tape_free(tape);
    ck_assert_int_le(ode_steps_count(steps), 10);
    return steps;
}

static double off(double value, double right)
{
    return fabs(value - right) / fmax(fabs(right), 1e-6);
}

/* ---- gradients that their steps have spoilt -------------------------------------------------- */

/* What error control of the state cannot see. */
static const problem at_rest[] = {
    { forced_decay, 1, { 0 }, 0, 10, 0, 4.5399929762484854e-5, 0.14754825646330585 },
    { wave, 1, { 0 }, 0, 1, 0, 1, 0.5 },
    { hump, 1, { 0 }, 0, 1, 0, 1, 0.147112767430373 },
    { oscillator, 2, { 0, 0 }, 0, 50, 0, 0.0763844318043403, NAN },
    { two_states, 2, { 0.5, 0.5 }, 1, 1000, 0, 0, 0 },
};

START_TEST(test_steps_at_rest)
{
    static const ode_method *const methods[] = { &ode_dopri5, &ode_tsit5, &ode_dopri8,
                                                 &ode_bosh3,  &ode_heun,  &ode_midpoint,
                                                 &ode_rk4 };
    int wrong = 0;
    for (int d = 0; d < 2; d++) {
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            for (size_t i = 0; i < sizeof at_rest / sizeof *at_rest; i++) {
                const problem *q = &at_rest[i];
                ode_steps *steps = steps_at_rest(q->end);
                checked c = make(d ? AD_F32 : AD_F64, q,
                                 &(ode_options){ .method = methods[m], .replay = steps });
                ad_tape *tape = c.tape;
                if (ad_check_gradient(c.loss, 2, c.x, 0, &c.report, c.difference)) {
                    /* Beyond the range of the type: said in another way. */
                    ck_assert_msg(strstr(ad_tape_error(tape), "not finite") ||
                                      strstr(ad_tape_error(tape), "inf"),
                                  "%s", ad_tape_error(tape));
                } else {
                    check(&c);
                    double most = off(c.gradient[0], q->right_y0);
                    if (!isnan(q->right_p)) most = fmax(most, off(c.gradient[1], q->right_p));
                    if (!(most <= 0.1)) {
                        wrong++;
                        ck_assert_msg(!c.report.agrees, "%s, problem %zu: %s",
                                      ode_method_name(methods[m]), i, c.report.text);
                        ck_assert_ptr_nonnull(
                            strstr(c.report.text, "the steps are too large for it"));
                    }
                }
                ad_tape_free(tape);
                ode_steps_free(steps);
            }
        }
    }
    ck_assert_int_ge(wrong, 50);
}
END_TEST

/* Steps beyond the stability limit that start on the slow solution: it stays right for long, the
 * gradient does not. */
START_TEST(test_steps_at_the_stability_limit)
{
    const double p = 2000, end = 0.25, start = p * p / (p * p + 1);
    const problem q = { fast_decay, 1, { start }, p, end, 0, 0, NAN };
    checked c = make(AD_F64, &q, &(ode_options){ .method = &ode_rk4, .step = 2.8 / p });
    check(&c);
    double right = (p * p * cos(end) + p * sin(end)) / (p * p + 1);
    ck_assert_double_eq_tol(c.report.loss, right, 1e-3);
    ck_assert_double_gt(fabs(c.gradient[0]), 5);
    ck_assert_int_eq(c.report.agrees, 0);
    ad_tape_free(c.tape);
}
END_TEST

/* ---- ordinary problems ----------------------------------------------------------------------- */

START_TEST(test_ordinary_problems)
{
    static const problem ordinary[] = {
        { lotka_volterra, 2, { 1, 1 }, 1.5, 10, 0, NAN, NAN },
        { van_der_pol, 2, { 2, 0 }, 1, 10, 0, NAN, NAN },
        { lorenz, 3, { 1, 1, 1 }, 28, 2, 0, NAN, NAN },
        { kepler, 4, { 0.5, 0, 0, 1.7320508 }, 1, 10, 0, NAN, NAN },
    };
    static const ode_method *const methods[] = { &ode_dopri5, &ode_tsit5, &ode_dopri8, &ode_bosh3 };
    for (int d = 0; d < 2; d++) {
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            for (size_t i = 0; i < sizeof ordinary / sizeof *ordinary; i++) {
                for (int back = 0; back < 2; back++) {
                    if (back && (i == 1 || i == 2)) continue; /* reverse time loses these */
                    ode_options options = { .method = methods[m],
                                            .adjoint = back ? &ode_backsolve : NULL };
                    checked c = make(d ? AD_F32 : AD_F64, &ordinary[i], &options);
                    check(&c);
                    ck_assert_msg(c.report.agrees, "%s, problem %zu: %s",
                                  ode_method_name(methods[m]), i, c.report.text);
                    ck_assert_double_lt(c.difference[0].difference, d ? 0.1 : 0.001);
                    ck_assert_double_gt(c.difference[0].norm, 0);
                    ad_tape_free(c.tape);
                }
            }
        }
    }
}
END_TEST

/* A density by a network's flow, three rows, with the log-determinant: also ordinary. */
static ad_var network(ad_var t, ad_var y, const ad_var *w, void *user)
{
    (void)user;
    return ad_matmul(ad_tanh(ad_add(ad_matmul(y, w[0]), t)), w[1]);
}

START_TEST(test_flow_of_a_network)
{
    double w[2][16], x[6] = { 0.3, -1, 0.7, 0.2, -0.4, 1.5 };
    for (int i = 0; i < 16; i++) {
        w[0][i] = 0.7 * sin(1 + 3 * i);
        w[1][i] = 0.5 * cos(2 + 5 * i);
    }
    for (int back = 0; back < 2; back++) {
        for (int d = 0; d < 2; d++) {
            ad_tape *tape = ad_tape_new(d ? AD_F32 : AD_F64);
            ode_cnf flow = { .field = network,
                             .horizon = 1,
                             .options = { .adjoint = back ? &ode_backsolve : NULL } };
            ad_var v[] = { ad_param(tape, AD_SHAPE(2, 8), w[0]),
                           ad_param(tape, AD_SHAPE(8, 2), w[1]),
                           ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 3, x) };
            ad_var loss = ad_neg(ad_mean_all(ode_cnf_log_density(&flow, v[2], 2, v)));
            ad_gradient_report report;
            ad_gradient_difference difference[3];
            ck_assert_msg(ad_check_gradient(loss, 3, v, 1e-2, &report, difference) == 0, "%s",
                          ad_tape_error(tape));
            ck_assert_msg(report.agrees, "%s", report.text);
            for (int i = 0; i < 3; i++)
                ck_assert_double_lt(difference[i].difference, d ? 1e-3 : 1e-5);
            ad_tape_free(tape);
        }
    }
}
END_TEST

/* A start that is forgotten: e^-60 of it is left, and nobody needs to know that to ten per cent. */
START_TEST(test_what_is_forgotten)
{
    for (int d = 0; d < 2; d++) {
        checked c = make(d ? AD_F32 : AD_F64,
                         &(problem){ forced_decay, 1, { 1 }, 1, 60, 0, NAN, NAN }, NULL);
        check(&c);
        ck_assert_double_lt(fabs(c.gradient[0]), d ? 1e-7 : 1e-15);
        ck_assert_msg(c.report.agrees, "%s", c.report.text);
        ad_tape_free(c.tape);
    }
}
END_TEST

/* What cancels to rounding is no difference: the sum of two states that flow into each other does
 * not depend on how fast. */
static ad_var exchange(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ad_var flow = ad_mul(p[0], ad_sub(column(y, 0), ad_square(column(y, 1))));
    return pair(ad_neg(flow), flow);
}

START_TEST(test_rounding_is_no_difference)
{
    for (int d = 0; d < 2; d++) {
        checked c = make(d ? AD_F32 : AD_F64,
                         &(problem){ exchange, 2, { 0.9, 0.3 }, 1.3, 5, 0, NAN, NAN }, NULL);
        ad_var y =
            ode_solve_final(exchange, NULL, c.x[0], 1, &c.x[1], ode_interval(c.tape, 0, 5), NULL);
        c.loss = ad_sum_all(y);
        check(&c);
        ck_assert_double_lt(fabs(c.gradient[1]), d ? 1e-4 : 1e-12);
        ck_assert_msg(c.report.agrees, "%s", c.report.text);
        ad_tape_free(c.tape);
    }
}
END_TEST

/* ---- what halving does ----------------------------------------------------------------------- */

static ad_var switched(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)user;
    ad_var rate =
        ad_mul(p[0], ad_select(ad_le(t, ad_scalar(t.tape, 0.6)), ad_scalar(t.tape, 1), ad_neg(t)));
    return ad_mul(y, ad_sub(rate, ad_scale(y, 0.1)));
}

enum { TIMES = 4, ROWS = 2 };

/* loss, and its gradients by y0 [2,1], p [1] and times [4], of a solve with these options. */
typedef struct {
    ad_tape *tape;
    ad_var x[3], out[4];
} timed;

static timed make_timed(const ode_options *options, const double *t, double sign)
{
    timed q = { .tape = ad_tape_new(AD_F64) };
    double times[TIMES];
    for (int i = 0; i < TIMES; i++) times[i] = sign * t[i];
    q.x[0] = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, 1), ROWS, (double[]){ 0.7, 2 });
    q.x[1] = ad_param(q.tape, AD_SHAPE(1), (double[]){ 1.3 });
    q.x[2] = ad_input(q.tape, AD_SHAPE(TIMES), times);
    ad_var y = ode_solve(switched, NULL, q.x[0], 1, &q.x[1], q.x[2], options);
    q.out[0] = ad_sum_all(ad_square(y));
    ad_grad(q.out[0], 3, q.x, q.out + 1);
    return q;
}

/* The results in doubles: loss, y0, p, times. */
static void run_refined(const timed *q, const double *t, double sign, int refine, double *out)
{
    ad_program *program = ad_compile(3, q->x, 4, q->out);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(q->tape));
    ck_assert(ad_program_discretises(program));
    ad_workspace *w = ad_workspace_new(program, 1);
    double times[TIMES];
    for (int i = 0; i < TIMES; i++) times[i] = sign * t[i];
    const void *in[] = { (double[]){ 0.7, 2 }, (double[]){ 1.3 }, times };
    ad_run_args args = { .rows = ROWS,
                         .inputs = in,
                         .outputs = (void *[]){ out, out + 1, out + 3, out + 4 },
                         .refine = refine };
    for (int i = 0; i < 2; i++) {
        long before = allocations();
        int result = ad_run_with(program, w, &args);
        long made = allocations() - before;
        ck_assert_msg(result == 0, "%s", ad_workspace_error(w));
        if (i) ck_assert_int_eq(made, 0);
    }
    args.refine = 0; /* what was refined leaves no trace */
    double plain[8], fresh[8];
    args.outputs = (void *[]){ plain, plain + 1, plain + 3, plain + 4 };
    ck_assert_int_eq(ad_run_with(program, w, &args), 0);
    ad_workspace *other = ad_workspace_new(program, 1);
    args.outputs = (void *[]){ fresh, fresh + 1, fresh + 3, fresh + 4 };
    ck_assert_int_eq(ad_run_with(program, other, &args), 0);
    ck_assert_mem_eq(plain, fresh, sizeof plain);
    ad_workspace_free(other);
    ad_workspace_free(w);
    ad_program_free(program);
}

/* Halved fixed steps are twice as many fixed steps: solution and all gradients, those by times too.
 */
START_TEST(test_halved_fixed_steps)
{
    static const ode_method *const methods[] = { &ode_euler,       &ode_rk4,
                                                 &ode_dopri5,      &ode_implicit_euler,
                                                 &ode_trapezoidal, &ode_nystroem2 };
    const double t[TIMES] = { 0, 0.5, 0.9, 1.6 },
                 jump[] = { 0.7, -0.7 }; /* with as many steps on each side */
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        for (int back = 0; back < 2; back++) {
            for (int adjoint = 0; adjoint < 2; adjoint++) {
                for (int refine = 1; refine < 3; refine++) {
                    ode_options options = {
                        .method = methods[m], .steps = 6, .jump_times = jump, .njump = 2
                    };
                    if (adjoint) options.adjoint = &ode_backsolve;
                    double got[8], want[8];
                    timed q = make_timed(&options, t, back ? -1 : 1);
                    run_refined(&q, t, back ? -1 : 1, refine, got);
                    ad_tape_free(q.tape);
                    options.steps = 6 << refine;
                    q = make_timed(&options, t, back ? -1 : 1);
                    run_refined(&q, t, back ? -1 : 1, 0, want);
                    ad_tape_free(q.tape);
                    for (int i = 0; i < 8; i++)
                        ck_assert_msg(fabs(got[i] - want[i]) <= 1e-11 * (1 + fabs(want[i])),
                                      "%s, adjoint %d, result %d: %.16g, not %.16g",
                                      ode_method_name(methods[m]), adjoint, i, got[i], want[i]);
                }
            }
        }
    }
}
END_TEST

/* Halved adaptive steps: the boundaries and their middles; replaying these gives the same. */
START_TEST(test_halved_adaptive_steps)
{
    static const ode_method *const methods[] = { &ode_bosh3, &ode_dopri5, &ode_dopri8 };
    const double t[TIMES] = { 0, 0.5, 0.9, 1.6 }, jump[] = { 0.6 };
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        ode_stats coarse = { 0 }, fine = { 0 };
        ode_options options = { .method = methods[m],
                                .jump_times = jump,
                                .njump = 1,
                                .stats = &coarse,
                                .rtol = 1e-3,
                                .atol = 1e-3 };
        double got[8], want[8];
        timed q = make_timed(&options, t, 1);
        for (int i = 0; i < 4; i++) ck_assert_ptr_nonnull(ad_value(q.out[i]));
        ad_gradient_difference difference[3];
        ad_gradient_report report;
        ck_assert_int_eq(ad_check_gradient(q.out[0], 3, q.x, 0, &report, difference), 0);
        ad_tape_free(q.tape);
        options.stats = &fine;
        q = make_timed(&options, t, 1);
        ad_program *program = ad_compile(3, q.x, 4, q.out);
        ad_workspace *w = ad_workspace_new(program, 1);
        const void *in[] = { (double[]){ 0.7, 2 }, (double[]){ 1.3 }, t };
        ad_run_args args = { .rows = ROWS,
                             .inputs = in,
                             .outputs = (void *[]){ got, got + 1, got + 3, got + 4 },
                             .refine = 1 };
        ck_assert_int_eq(ad_run_with(program, w, &args), 0);
        ad_workspace_free(w);
        ad_program_free(program);
        ad_tape_free(q.tape);
        ck_assert_int_eq(fine.steps, 2 * coarse.steps);
        const double *a = ode_steps_times(coarse.steps_taken),
                     *b = ode_steps_times(fine.steps_taken);
        for (int64_t k = 0; k < coarse.steps; k++) {
            ck_assert_double_eq(b[2 * k], a[k]);
            ck_assert_double_eq_tol(b[2 * k + 1], (a[k] + a[k + 1]) / 2, 1e-15);
        }
        ode_options replay = {
            .method = methods[m], .jump_times = jump, .njump = 1, .replay = fine.steps_taken
        };
        q = make_timed(&replay, t, 1);
        run_refined(&q, t, 1, 0, want);
        ad_tape_free(q.tape);
        for (int i = 0; i < 4; i++)
            ck_assert_double_eq_tol(got[i], want[i], 1e-12 * (1 + fabs(want[i])));
        /* The middles of the first and last step move with the times here; replayed steps do not.
         */
        for (int i = 4; i < 8; i++)
            ck_assert_double_eq_tol(got[i], want[i], 1e-3 * (1 + fabs(want[i])));
        ck_assert_double_eq(report.refined_loss, got[0]);
        ode_stats_clear(&coarse);
        ode_stats_clear(&fine);
    }
}
END_TEST

/* A solve inside the field of another is refined too: with one step each, the inner one's error
 * would stay. */
static ad_var inner(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    return ad_mul(p[0], y);
}

static ad_var outer(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    ode_options options = { .method = &ode_euler, .steps = 1 };
    return ad_sub(ode_solve_final(inner, NULL, y, 1, p, ode_interval(y.tape, 0, 1), &options),
                  ad_scale(y, 1.5));
}

START_TEST(test_solve_inside_a_field)
{
    checked c = make(AD_F64, &(problem){ outer, 1, { 1 }, 1, 0.5, 0, NAN, NAN },
                     &(ode_options){ .method = &ode_euler, .steps = 1 });
    check(&c);
    /* Euler: 1 + h (2 - 1.5); halved twice h = 1/4 and the inner solve gives 2.25. */
    ck_assert_double_eq_tol(c.report.loss, 1.25, 1e-14);
    ck_assert_double_eq_tol(c.report.refined_loss, 1.1875 * 1.1875, 1e-14);
    ad_tape_free(c.tape);
}
END_TEST

/* ---- the call -------------------------------------------------------------------------------- */

START_TEST(test_tape_is_as_it_was)
{
    ode_stats stats = { 0 };
    checked c = make(AD_F64, &(problem){ lotka_volterra, 2, { 1, 1 }, 1.5, 5, 0, NAN, NAN },
                     &(ode_options){ .stats = &stats });
    ad_var g[2];
    ad_grad(c.loss, 2, c.x, g);
    double loss = ad_item(c.loss), before[2], after[2];
    const void *where = ad_value(g[0]);
    memcpy(before, where, sizeof before);
    int64_t steps = stats.steps;
    int32_t mark = ad_tape_mark(c.tape);
    check(&c);
    ad_tape_rewind(c.tape, mark);
    ck_assert(ad_valid(g[0]));
    ck_assert_ptr_eq(ad_value(g[0]), where);
    memcpy(after, where, sizeof after);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert(ad_item(c.loss) == loss && c.report.loss == loss && c.report.refined_loss != loss);
    ck_assert_int_eq(stats.steps, steps);
    ode_stats_clear(&stats);
    ad_tape_free(c.tape);
}
END_TEST

START_TEST(test_loss_without_a_solve)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = ad_param(tape, AD_SHAPE(2), (double[]){ 1, 2 }), loss = ad_sum_all(ad_square(x));
    ad_gradient_report report;
    ck_assert_int_eq(ad_check_gradient(loss, 1, &x, 0, &report, NULL), 0);
    ck_assert(report.agrees && report.loss == 5 && report.refined_loss == 5);
    ck_assert_ptr_nonnull(strstr(report.text, "Nothing on the way to the loss is solved in steps"));
    ck_assert_int_eq(ad_check_gradient(loss, 1, &x, 0, NULL, NULL), 0);
    ad_program *program = ad_compile(1, &x, 1, &loss);
    ck_assert(!ad_program_discretises(program));
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

START_TEST(test_misuse)
{
    ad_gradient_report report;
    for (int i = 0; i < 6; i++) {
        ad_tape *tape = ad_tape_new(AD_F64), *other = ad_tape_new(AD_F64);
        ad_var x = ad_param(tape, AD_SHAPE(2), (double[]){ 1, 2 }), loss = ad_sum_all(ad_square(x)),
               nobody = { 0 };
        ad_var foreign = ad_param(other, AD_SHAPE(2), (double[]){ 1, 2 });
        int result = i == 0   ? ad_check_gradient(loss, 0, &x, 0, &report, NULL)
                     : i == 1 ? ad_check_gradient(loss, 1, NULL, 0, &report, NULL)
                     : i == 2 ? ad_check_gradient(x, 1, &x, 0, &report, NULL)
                     : i == 3 ? ad_check_gradient(loss, 1, &x, -1, &report, NULL)
                     : i == 4 ? ad_check_gradient(loss, 1, &foreign, 0, &report, NULL)
                              : ad_check_gradient(nobody, 1, &x, 0, &report, NULL);
        ck_assert_int_eq(result, -1);
        ck_assert_int_eq(report.agrees, 0);
        if (i < 4) ck_assert_ptr_nonnull(ad_tape_error(tape));
        ad_tape_free(tape);
        ad_tape_free(other);
    }
}
END_TEST

/* Two arrays are compared alike whatever their size, what is allowed and the least size with them:
 * the squares of the largest and smallest are beyond the range of the type. */
START_TEST(test_comparison_of_any_size)
{
    static const double sizes[] = { 1, 1e-300, 1e-160, 1e160, 1e300 };
    for (int i = 0; i < 5; i++) {
        const double a = sizes[i], g[] = { 3 * a, 4 * a }, r[] = { 3 * a, 5 * a };
        ck_assert_double_eq_tol(ad_array_norm(AD_F64, 2, g) / a, 5, 1e-14);
        ad_gradient_difference d = ad_compare_gradients(AD_F64, 2, g, r, 0, 0);
        ck_assert_double_eq_tol(d.norm / a, 5, 1e-14);
        ck_assert_double_eq_tol(d.refined_norm / a, sqrt(34), 1e-14);
        ck_assert_double_eq_tol(d.difference, 1 / sqrt(34), 1e-14);
        ck_assert_double_eq_tol(d.worst, 0.2, 1e-14);
        ck_assert_int_eq(d.worst_element, 1);
        ck_assert_double_eq_tol(ad_compare_gradients(AD_F64, 2, g, r, 0.9 * a, 10 * a).difference,
                                0.1, 1e-14);
        ck_assert_double_eq(ad_compare_gradients(AD_F64, 2, g, r, 1.1 * a, 0).difference, 0);
    }
    const double endless[] = { 1, INFINITY }, one[] = { 1, 1 };
    ck_assert(isinf(ad_array_norm(AD_F64, 2, endless)));
    ck_assert(isinf(ad_compare_gradients(AD_F64, 2, one, endless, 0, 0).difference));
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("check", "gradients");
    tcase_add_test(tests, test_steps_at_rest);
    tcase_add_test(tests, test_steps_at_the_stability_limit);
    tcase_add_test(tests, test_ordinary_problems);
    tcase_add_test(tests, test_flow_of_a_network);
    tcase_add_test(tests, test_what_is_forgotten);
    tcase_add_test(tests, test_rounding_is_no_difference);
    tcase_add_test(tests, test_halved_fixed_steps);
    tcase_add_test(tests, test_halved_adaptive_steps);
    tcase_add_test(tests, test_solve_inside_a_field);
    tcase_add_test(tests, test_tape_is_as_it_was);
    tcase_add_test(tests, test_loss_without_a_solve);
    tcase_add_test(tests, test_misuse);
    tcase_add_test(tests, test_comparison_of_any_size);
    return suite_run();
}
