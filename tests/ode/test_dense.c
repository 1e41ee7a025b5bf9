/* Dense output as an object: a solve that is asked for its state at times given later, and the
 * gradients of what it answers, which are exact for the accepted steps. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

/* x' = a x - b x z, z' = b x z - c z + d sin(t), with a, b shared and c, d of the rows. */
static ad_var forced_prey(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), z = ad_slice(y, 1, 1, 2), a = ad_slice(args[0], 0, 0, 1);
    ad_var b = ad_slice(args[0], 0, 1, 2), c = ad_slice(args[1], 1, 0, 1);
    ad_var d = ad_slice(args[1], 1, 1, 2), xz = ad_mul(b, ad_mul(x, z));
    ad_var dx = ad_sub(ad_mul(a, x), xz);
    ad_var dz = ad_add(ad_sub(xz, ad_mul(c, z)), ad_mul(d, ad_sin(t)));
    return ad_concatenate(2, (ad_var[]){ dx, dz }, 1);
}

enum { ROWS = 2, ASKED = 4, UNKNOWNS = 4 + 2 + 4 + 2 + ASKED };
/* y0, shared arguments, arguments of the rows, the solve's times, the asked ones. */
static const double unknowns[UNKNOWNS] = { 1,   0.5, 1.5, 0.8, 1.1,  0.6,  0.9,  0.2,
                                           1.2, 0.4, 0.1, 1.9, 1.27, 0.35, 1.26, 0.8 };
static const double weights[ROWS * ASKED * 2] = { 0.3, -1,  0.7, 0.2, 1.1, -0.4, 0.5, 0.9,
                                                  -.6, 1.4, 0.8, 0.1, -.2, 0.6,  1,   -.7 };

typedef struct {
    ad_tape *tape;
    ad_var y0, shared, row, interval, asked, loss;
    ode_dense dense;
} problem;

static problem record(ad_dtype dtype, const double *u, const ode_options *o, bool constant)
{
    problem q = { .tape = ad_tape_new(dtype) };
    q.y0 = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, 2), ROWS, u);
    q.shared = ad_param(q.tape, AD_SHAPE(2), u + 4);
    q.row = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, 2), ROWS, u + 6);
    q.interval =
        constant ? ad_constant(q.tape, AD_SHAPE(2), u + 10) : ad_param(q.tape, AD_SHAPE(2), u + 10);
    q.asked = ad_param(q.tape, AD_SHAPE(ASKED), u + 12);
    ck_assert_msg(!ode_solve_dense(&q.dense, forced_prey, NULL, q.y0, 2,
                                   (ad_var[]){ q.shared, q.row }, q.interval, o),
                  "%s", ad_tape_error(q.tape));
    ad_var y = ode_dense_at(&q.dense, q.asked);
    ad_var w = ad_input_rows(q.tape, AD_SHAPE(AD_ROWS, ASKED, 2), ROWS, weights);
    q.loss = ad_sum_all(ad_mul(w, ad_add(y, ad_scale(ad_square(y), 0.3))));
    return q;
}

static double loss_of(const double *u, const ode_options *o)
{
    problem q = record(AD_F64, u, o, o->replay != NULL);
    double loss;
    get(q.loss, &loss);
    ad_tape_free(q.tape);
    return loss;
}

static void gradient_of(problem *q, bool constant, double *g)
{
    const ad_var x[] = { q->y0, q->shared, q->row, q->asked, q->interval };
    ad_var bar[5];
    ad_grad(q->loss, constant ? 4 : 5, x, bar);
    get(bar[0], g);
    get(bar[1], g + 4);
    get(bar[2], g + 6);
    get(bar[3], g + 12);
    if (!constant) get(bar[4], g + 10);
}

/* Against differences with the accepted steps frozen: given steps move with the solve's times,
 * those that the error chose are replayed. */
START_TEST(gradients_are_exact)
{
    const ode_method *m = ode_methods()[_i];
    for (int fixed = !ode_method_adaptive(m); fixed < 2; fixed++) {
        ode_stats stats = { 0 };
        ode_options o = { .method = m, .steps = fixed ? 9 : 0, .rtol = 1e-4, .atol = 1e-6 };
        if (fixed) o.rtol = o.atol = 0;
        ode_options replay = o;
        o.stats = &stats;
        problem q = record(AD_F64, unknowns, &o, !fixed);
        double g[UNKNOWNS], loss;
        gradient_of(&q, !fixed, g);
        get(q.loss, &loss);
        ad_tape_free(q.tape);
        if (!fixed) {
            replay = (ode_options){ .method = m, .replay = stats.steps_taken };
            double equal = method_implicit(m) ? 1e-10 : 1e-12;
            ck_assert_double_eq_tol(loss_of(unknowns, &replay), loss, equal);
        }
        for (int i = 0; i < UNKNOWNS; i++) {
            if (!fixed && (i == 10 || i == 11)) continue;
            double to[2], e = 1e-5;
            for (int k = 0; k < 2; k++) {
                double u[UNKNOWNS];
                memcpy(u, unknowns, sizeof u);
                u[i] += k ? e : -e;
                to[k] = loss_of(u, &replay);
            }
            double right = (to[1] - to[0]) / (2 * e);
            ck_assert_msg(fabs(g[i] - right) < 1e-7 * (1 + fabs(right)),
                          "%s %d: %d: %.12g, not %.12g", ode_method_name(m), fixed, i, g[i], right);
        }
        ode_stats_clear(&stats);
    }
}
END_TEST

/* ---- values ---- */

/* x' = z, z' = -x: (cos t, -sin t). */
static ad_var circle(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), z = ad_slice(y, 1, 1, 2);
    return ad_concatenate(2, (ad_var[]){ z, ad_neg(x) }, 1);
}

/* In any order, twice the same, at both ends; forwards and backwards in time; in both types. */
START_TEST(values_are_those_of_the_solution)
{
    const double times[] = { 2.5, 0, 7, 0.01, 2.5, 6.999, 4 };
    enum { N = sizeof times / sizeof *times };
    for (int f32 = 0; f32 < 2; f32++)
        for (int back = 0; back < 2; back++) {
            ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
            double end = back ? -7 : 7, asked[N], y[2 * N], start[] = { 1, 0 };
            for (int i = 0; i < N; i++) asked[i] = back ? -times[i] : times[i];
            ode_options o = { .rtol = f32 ? 1e-5 : 1e-9, .atol = f32 ? 1e-6 : 1e-9 };
            ode_dense dense;
            ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
            ode_solve_dense(&dense, circle, NULL, y0, 0, NULL, ode_interval(tape, 0, end), &o);
            get(ode_dense_at(&dense, ad_constant(tape, AD_SHAPE(N), asked)), y);
            for (int i = 0; i < N; i++) {
                ck_assert_double_eq_tol(y[2 * i], cos(asked[i]), f32 ? 2e-4 : 1e-7);
                ck_assert_double_eq_tol(y[2 * i + 1], -sin(asked[i]), f32 ? 2e-4 : 1e-7);
            }
            ad_tape_free(tape);
        }
}
END_TEST

/* The solve is marched once, whatever is asked, and answers as ode_solve does over the same steps.
 */
START_TEST(askings_share_a_solve)
{
    ode_stats stats = { 0 };
    ode_options o = { .stats = &stats };
    problem q = record(AD_F64, unknowns, &o, true);
    double y[ROWS * 3 * 2], z[ROWS * 3 * 2], loss;
    const double times[] = { 0.1, 0.7, 1.9 };
    get(q.loss, &loss);
    int64_t evaluations = stats.evaluations;
    get(ode_dense_at(&q.dense, ad_constant(q.tape, AD_SHAPE(3), times)), y);
    ck_assert_int_eq(stats.evaluations, evaluations);
    ode_options replay = { .replay = stats.steps_taken };
    ad_var args[] = { q.shared, q.row };
    ad_var all = ad_constant(q.tape, AD_SHAPE(3), times);
    get(ode_solve(forced_prey, NULL, q.y0, 2, args, all, &replay), z);
    for (int i = 0; i < ROWS * 3 * 2; i++) ck_assert_double_eq_tol(y[i], z[i], 1e-13);
    ad_tape_free(q.tape);
    ode_stats_clear(&stats);
}
END_TEST

/* Steps that are replayed may be asked between, whatever the method: by ode_solve too. */
START_TEST(replayed_steps_are_interpolated)
{
    const ode_method *m = ode_methods()[_i];
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 0 }, y[8], z[8];
    const double times[] = { 0, 0.33, 1.27, 2 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
    ode_stats stats = { 0 };
    ode_options o = { .method = m, .steps = 7, .stats = &stats };
    get(ode_solve(circle, NULL, y0, 0, NULL, ode_interval(tape, 0, 2), &o), z);
    o = (ode_options){ .method = m, .replay = stats.steps_taken };
    ad_var asked = ad_constant(tape, AD_SHAPE(4), times);
    get(ode_solve(circle, NULL, y0, 0, NULL, asked, &o), y);
    ck_assert_double_eq_tol(y[6], z[2], 1e-13);
    ode_dense dense;
    ode_solve_dense(&dense, circle, NULL, y0, 0, NULL, ode_interval(tape, 0, 2), &o);
    get(ode_dense_at(&dense, asked), z);
    for (int i = 0; i < 8; i++) ck_assert_double_eq_tol(y[i], z[i], 1e-13);
    ad_tape_free(tape);
    ode_stats_clear(&stats);
}
END_TEST

/* Gradients of two askings in one loss are the sum of their gradients. */
START_TEST(gradients_of_askings_add)
{
    double g[3][UNKNOWNS];
    for (int k = 0; k < 3; k++) {
        problem q = record(AD_F64, unknowns, &(ode_options){ 0 }, false);
        ad_var times = ad_constant(q.tape, AD_SHAPE(2), (double[]){ 1.6, 0.2 });
        ad_var second = ad_sum_all(ad_square(ode_dense_at(&q.dense, times)));
        q.loss = k == 0   ? q.loss
                 : k == 1 ? ad_add(second, ad_scale(ad_sum_all(q.asked), 0))
                          : ad_add(q.loss, second);
        gradient_of(&q, false, g[k]);
        ad_tape_free(q.tape);
    }
    for (int i = 0; i < UNKNOWNS; i++)
        ck_assert_double_eq_tol(g[0][i] + g[1][i], g[2][i], 1e-12 * (1 + fabs(g[2][i])));
}
END_TEST

/* Times may be an input of a program that is run with others; outside of the interval is an error.
 */
START_TEST(times_change_from_run_to_run)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 0 }, at[] = { 0, 0, 0 }, y[6], slope[3];
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
    ad_var times = ad_param(tape, AD_SHAPE(3), at);
    ode_dense dense;
    ode_options o = { .rtol = 1e-10, .atol = 1e-10 };
    ode_solve_dense(&dense, circle, NULL, y0, 0, NULL, ode_interval(tape, 1, 3), &o);
    ad_var out[2] = { ode_dense_at(&dense, times) };
    ad_grad(ad_sum_all(ad_slice(out[0], 2, 0, 1)), 1, &times, &out[1]);
    ad_program *program = ad_compile(2, (ad_var[]){ y0, times }, 2, out);
    ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
    ad_workspace *w = ad_workspace_new(program, 1);
    const double asked[][3] = { { 2.9, 1.5, 2 }, { 1, 3, 1.1 }, { 1.7, 1.7, 2.3 } };
    for (int k = 0; k < 3; k++) {
        memcpy(at, asked[k], sizeof at);
        ck_assert_msg(!ad_run(program, w, 1, (const void *[]){ start, at }, (void *[]){ y, slope }),
                      "%s", ad_workspace_error(w));
        for (int i = 0; i < 3; i++) {
            ck_assert_double_eq_tol(y[2 * i], cos(at[i] - 1), 1e-8);
            ck_assert_double_eq_tol(slope[i], -sin(at[i] - 1), 1e-7);
        }
    }
    at[1] = 3.25;
    ck_assert(ad_run(program, w, 1, (const void *[]){ start, at }, (void *[]){ y, slope }) != 0);
    const char *error = ad_workspace_error(w);
    ck_assert_msg(strstr(error, "ode_dense_at") && strstr(error, "times[1] is 3.25") &&
                      strstr(error, "from 1 to 3"),
                  "%s", error);
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

static void with_energy(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                        ad_var *dy)
{
    (void)nstate;
    dy[0] = circle(t, y[0], args, user);
    dy[1] = ad_sum_axis(ad_square(ad_slice(y[0], 1, 0, 1)), 1, 1);
}

START_TEST(several_states)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 0 }, zero = 0, v[2];
    ad_var y0[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start),
                    ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &zero) };
    ode_dense dense;
    ode_options o = { .rtol = 1e-10, .atol = 1e-10 };
    ode_solve_dense_states(&dense, with_energy, NULL, 2, y0, 0, NULL, ode_interval(tape, 0, 5), &o);
    ad_var y[2], times = ad_constant(tape, AD_SHAPE(1), (double[]){ 2.2 }), bar[2];
    ck_assert_int_eq(ode_dense_states_at(&dense, times, y), 0);
    get(y[1], v);
    ck_assert_double_eq_tol(v[0], 1.1 + sin(4.4) / 4, 1e-7);
    /* q is quadratic in y0: with y0 = (a, 0) it is a^2 times that. */
    ad_grad(ad_sum_all(y[1]), 2, y0, bar);
    get(bar[0], v);
    ck_assert_double_eq_tol(v[0], 2 * (1.1 + sin(4.4) / 4), 1e-7);
    get(bar[1], v);
    ck_assert_double_eq_tol(v[0], 1, 1e-12);
    ck_assert(!ad_valid(ode_dense_at(&dense, times)));
    ck_assert_msg(strstr(ad_tape_error(tape), "ode_dense_states_at") != NULL, "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* ---- misuse ---- */

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], y);
}

/* y' = a y over no time: y0, wherever it is asked; y(t) moves with t by the field, against t0. */
START_TEST(no_time_at_all)
{
    const ode_method *const methods[] = { &ode_dopri5, &ode_dopri8, &ode_rk4, &ode_implicit_euler };
    ode_options o = { .method = methods[_i / 2],
                      .adjoint = _i % 2 ? &ode_interpolating : &ode_discrete,
                      .steps = 1 };
    ad_tape *tape = ad_tape_new(AD_F64);
    double y[2], one = 1, a = -3, g[5];
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one), bar[4];
    ad_var rate = ad_param(tape, AD_SHAPE(1), &a);
    ad_var solved = ad_param(tape, AD_SHAPE(2), (double[]){ 2, 2 });
    ad_var asked = ad_param(tape, AD_SHAPE(2), (double[]){ 2, 2 });
    ode_dense dense;
    ode_solve_dense(&dense, decay, NULL, y0, 1, &rate, solved, &o);
    ad_var answer = ode_dense_at(&dense, asked);
    get(answer, y);
    ck_assert(y[0] == 1 && y[1] == 1);
    ad_var w = ad_constant(tape, AD_SHAPE(1, 2, 1), (double[]){ 1, 10 });
    ad_grad(ad_sum_all(ad_mul(w, answer)), 4, (ad_var[]){ y0, rate, solved, asked }, bar);
    get(bar[0], g);
    get(bar[1], g + 1);
    ck_assert_double_eq_tol(g[0], 11, 1e-12);
    ck_assert_double_eq_tol(g[1], 0, 1e-12);
    get(bar[2], g);
    get(bar[3], g + 2);
    const double expected[] = { 33, 0, -3, -30 };
    for (int i = 0; i < 4; i++) ck_assert_double_eq_tol(g[i], expected[i], 1e-9);
    ad_var moved, by = ad_constant(tape, AD_SHAPE(2), (double[]){ 1, 2 });
    ad_jvp(1, &asked, &by, 1, &answer, &moved);
    get(moved, y);
    ck_assert_double_eq_tol(y[0], -3, 1e-9);
    ck_assert_double_eq_tol(y[1], -6, 1e-9);
    ad_tape_free(tape);
}
END_TEST

/* Times that rounding has carried past an end are those of the end, forwards and backwards. */
START_TEST(rounding_at_the_ends)
{
    double first = 0.3, last = _i % 2 ? -1.62 : 1.62, one = 1, a = -1, y[2], g;
    ode_options o = { .adjoint = _i / 2 ? &ode_interpolating : &ode_discrete };
    double sign = last > first ? 1 : -1;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one), bar;
    ad_var rate = ad_param(tape, AD_SHAPE(1), &a);
    double beyond[] = { nextafter(last, sign * 9), nextafter(first, -sign * 9) };
    ode_dense dense;
    ode_solve_dense(&dense, decay, NULL, y0, 1, &rate, ode_interval(tape, first, last), &o);
    ad_var asked = ad_input(tape, AD_SHAPE(2), beyond), answer = ode_dense_at(&dense, asked);
    get(answer, y);
    ck_assert_double_eq_tol(y[0], exp(first - last), 1e-5);
    ck_assert_double_eq(y[1], 1);
    ad_grad(ad_sum_all(answer), 1, &rate, &bar);
    get(bar, &g);
    ck_assert_double_eq_tol(g, (last - first) * exp(first - last), 1e-4);
    ad_tape_free(tape);
}
END_TEST

/* What was never recorded tells it to the tape of the times. */
START_TEST(never_recorded)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_dense dense = { 0 };
    ck_assert(!ad_valid(ode_dense_at(&dense, ode_interval(tape, 0, 1))));
    const char *error = ad_tape_error(tape);
    ck_assert(error && strstr(error, "it was not recorded"));
    ad_tape_free(tape);
}
END_TEST

START_TEST(errors)
{
    const struct {
        const char *message;
        int kind;
    } cases[] = {
        { "backsolve", 0 },     { "times have shape [2,1]", 1 },  { "rewound", 2 },
        { "dense is NULL", 3 }, { "times[0] is -1, outside", 4 }, { "the field is NULL", 5 }
    };
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[] = { 1, 0 }, v[2];
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
    int32_t mark = ad_tape_mark(tape);
    ode_options o = { .adjoint = cases[_i].kind == 0 ? &ode_backsolve : NULL };
    ode_dense dense;
    ode_solve_dense(&dense, cases[_i].kind == 5 ? NULL : circle, NULL, y0, 0, NULL,
                    ode_interval(tape, 0, 1), &o);
    if (cases[_i].kind == 2) ad_tape_rewind(tape, mark);
    ad_var times = ad_constant(tape, cases[_i].kind == 1 ? AD_SHAPE(2, 1) : AD_SHAPE(1),
                               (double[]){ cases[_i].kind == 4 ? -1 : 0.5, 1 });
    ad_var y = ode_dense_at(cases[_i].kind == 3 ? NULL : &dense, times);
    if (cases[_i].kind == 4) ck_assert(ad_get(y, v) != 0);
    else ck_assert(!ad_valid(y));
    ck_assert_msg(strstr(ad_tape_error(tape), cases[_i].message) != NULL, "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("dense", "gradients");
    int n = 0;
    while (ode_methods()[n]) n++;
    tcase_add_loop_test(c, gradients_are_exact, 0, n);
    tcase_add_test(c, gradients_of_askings_add);
    c = suite_case("dense", "values");
    tcase_add_test(c, values_are_those_of_the_solution);
    tcase_add_test(c, askings_share_a_solve);
    tcase_add_loop_test(c, replayed_steps_are_interpolated, 0, n);
    tcase_add_test(c, times_change_from_run_to_run);
    tcase_add_test(c, several_states);
    tcase_add_loop_test(c, no_time_at_all, 0, 8);
    tcase_add_loop_test(c, rounding_at_the_ends, 0, 4);
    tcase_add_test(c, never_recorded);
    tcase_add_loop_test(c, errors, 0, 6);
    return suite_run();
}
