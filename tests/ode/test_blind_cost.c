/* What is paid for gradients where the state does not say how large the steps may be: shares of the
 * evaluations that looks and tangents take. */
#include "autodiff/extension.h"
#include "ode/ode.h"
#include "tests/support.h"
#include <math.h>

enum { MOST = 6 };

typedef struct {
    const char *name;
    ode_field field;
    int n;
    double y0[MOST], p, horizon;
} problem;

static ad_var part(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }
static ad_var join(int n, const ad_var *y) { return ad_concatenate(n, y, 1); }

static double get(ad_dtype dtype, const void *x, int i)
{
    return dtype == AD_F32 ? (double)((const float *)x)[i] : ((const double *)x)[i];
}

static void check_close(const char *name, const ode_method *method, double got, double want)
{
    ck_assert_msg(fabs(got - want) <= 0.1 * fabs(want),
                  "%s, %s: the derivative is %.9g, right is %.9g", name, ode_method_name(method),
                  got, want);
}

/* x'' = p - x'/10 - x. */
static ad_var oscillator(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), v = part(y, 1);
    return join(2, (ad_var[]){ v, ad_sub(args[0], ad_add(ad_scale(v, 0.1), x)) });
}

static ad_var lotka_volterra(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), w = part(y, 1), xw = ad_mul(x, w);
    return join(2, (ad_var[]){ ad_sub(ad_mul(args[0], x), xw), ad_sub(xw, ad_scale(w, 3)) });
}

static ad_var van_der_pol(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), v = part(y, 1);
    ad_var damping = ad_mul(args[0], ad_sub(ad_ones_like(x), ad_square(x)));
    return join(2, (ad_var[]){ v, ad_sub(ad_mul(damping, v), x) });
}

static ad_var lorenz(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), w = part(y, 1), z = part(y, 2);
    ad_var dw = ad_sub(ad_mul(x, ad_sub(ad_scale(args[0], 28), z)), w),
           dz = ad_sub(ad_mul(x, w), ad_scale(z, 8.0 / 3));
    return join(3, (ad_var[]){ ad_scale(ad_sub(w, x), 10), dw, dz });
}

static ad_var kepler(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = part(y, 0), w = part(y, 1), square = ad_add(ad_square(x), ad_square(w));
    ad_var pull = ad_neg(ad_div(args[0], ad_mul(square, ad_sqrt(square))));
    return join(4, (ad_var[]){ part(y, 2), part(y, 3), ad_mul(pull, x), ad_mul(pull, w) });
}

/* Looks take at most a twentieth of the evaluations of ordinary problems. */
START_TEST(ordinary_problems_pay_little)
{
    static const problem ordinary[] = {
        { "Lotka-Volterra", lotka_volterra, 2, { 1, 1 }, 1.5, 10 },
        { "van der Pol", van_der_pol, 2, { 2, 0 }, 1, 20 },
        { "Lorenz", lorenz, 3, { 1, 1, 1 }, 1, 3 },
        { "Kepler", kepler, 4, { 1, 0, 0, 1.2 }, 1, 20 },
    };
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method)) return;
    for (size_t k = 0; k < sizeof ordinary / sizeof *ordinary; k++) {
        const problem *q = &ordinary[k];
        ad_tape *tape = ad_tape_new(AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = method,
                          .stats = &stats,
                          .rtol = ode_method_order(method) < 3 ? 1e-4 : 0 };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, q->n), 1, q->y0),
               p = ad_param(tape, AD_SHAPE(1, 1), &q->p), bar;
        ad_grad(ad_sum_all(ode_solve_final(q->field, NULL, y0, 1, &p,
                                           ode_interval(tape, 0, q->horizon), &o)),
                1, &p, &bar);
        ck_assert_msg(ad_value(bar), "%s", ad_tape_error(tape));
        ck_assert_int_gt(stats.probes, 0);
        ck_assert_msg(stats.probe_evaluations * 20 <= stats.evaluations,
                      "%s, %s: %lld of %lld evaluations", q->name, ode_method_name(method),
                      (long long)stats.probe_evaluations, (long long)stats.evaluations);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

/* Evaluations of a solve whose steps are watched or not. */
static int64_t evaluations_of(const problem *q, ad_dtype dtype, const ode_method *method,
                              double rtol, bool watched)
{
    ad_tape *tape = ad_tape_new(dtype);
    ode_stats stats = { 0 };
    ode_options o = { .method = method,
                      .adjoint = watched ? &ode_discrete : &ode_backsolve,
                      .stats = &stats,
                      .rtol = rtol,
                      .atol = 0.01 * rtol };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, q->n), 1, q->y0),
           p = ad_param(tape, AD_SHAPE(1, 1), &q->p);
    ad_var end = ode_solve_final(q->field, NULL, y0, 1, &p, ode_interval(tape, 0, q->horizon), &o);
    ck_assert_msg(ad_value(end), "%s", ad_tape_error(tape));
    int64_t evaluations = stats.evaluations;
    ck_assert_int_eq(stats.probes > 0, watched);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
    return evaluations;
}

/* The sum over tolerances about this one. */
static int64_t evaluations_about(const problem *q, ad_dtype dtype, const ode_method *method,
                                 double rtol, bool watched)
{
    int64_t sum = 0;
    for (int k = -12; k <= 12; k++)
        sum += evaluations_of(q, dtype, method, rtol * pow(1.6, k / 12.0), watched);
    return sum;
}

/* The fastest mode of these comes and goes. Only the steps in which it is there are taken again
 * where they were too large for its derivative. */
START_TEST(modes_that_come_and_go_pay_little)
{
    static const problem changing[] = {
        { "Lotka-Volterra", lotka_volterra, 2, { 1, 1 }, 1.5, 10 },
        { "van der Pol", van_der_pol, 2, { 2, 0 }, 1, 20 },
    };
    static const ode_method *const methods[] = { &ode_dopri5, &ode_bosh3 };
    for (int k = 0; k < 4; k++) {
        const problem *q = &changing[k / 2];
        int64_t with = evaluations_about(q, AD_F64, methods[k % 2], 1e-3, true),
                without = evaluations_about(q, AD_F64, methods[k % 2], 1e-3, false);
        ck_assert_msg(with * 100 <= without * 106, "%s, %s: %lld evaluations, %lld without",
                      q->name, ode_method_name(methods[k % 2]), (long long)with,
                      (long long)without);
    }
}
END_TEST

static ad_var lotka_volterra_with_clock(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return join(2, (ad_var[]){ lotka_volterra(t, y, args, user), ad_ones_like(part(y, 0)) });
}

static ad_var kepler_in_space(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = ad_slice(y, 1, 0, 3), square = ad_sum(ad_square(x), 1, (int[]){ 1 }, true);
    ad_var pull = ad_neg(ad_div(args[0], ad_mul(square, ad_sqrt(square))));
    return join(2, (ad_var[]){ ad_slice(y, 1, 3, 6), ad_mul(pull, x) });
}

/* A component that rests for ever (a clock's derivative, z of a plane orbit) is looked at, for a
 * twentieth of the evaluations. */
START_TEST(components_that_rest_pay_little)
{
    static const problem resting[] = {
        { "Lotka-Volterra", lotka_volterra_with_clock, 3, { 1, 1, 0 }, 1.5, 30 },
        { "Kepler", kepler_in_space, 6, { 1, 0, 0, 0, 1.2, 0 }, 1, 100 },
    };
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method) || ode_method_order(method) < 3) return;
    for (int k = 0; k < 4; k++) {
        ad_tape *tape = ad_tape_new(k % 2 ? AD_F32 : AD_F64);
        ode_stats stats = { 0 };
        ode_options o = { .method = method, .stats = &stats, .rtol = 1e-6, .atol = 1e-8 };
        int n = resting[k / 2].n;
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, n), 1, resting[k / 2].y0);
        ad_var p = ad_param(tape, AD_SHAPE(1, 1), &resting[k / 2].p), bar;
        ad_var times = ode_interval(tape, 0, resting[k / 2].horizon);
        ad_grad(ad_sum_all(ode_solve_final(resting[k / 2].field, NULL, y0, 1, &p, times, &o)), 1,
                &p, &bar);
        ck_assert_msg(ad_value(bar), "%s", ad_tape_error(tape));
        ck_assert_msg(stats.probe_evaluations * 20 <= stats.evaluations,
                      "%s, %s, %d: %lld of %lld evaluations", resting[k / 2].name,
                      ode_method_name(method), k, (long long)stats.probe_evaluations,
                      (long long)stats.evaluations);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

/* y' = W tanh(y). */
static ad_var layer(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_matmul(ad_tanh(y), args[0]);
}

/* A last layer of zeros: the state rests for ever, and so does what the weights do to it,
 * dy_i/dW_ji = tanh(y_j). One short look knows. */
START_TEST(zeros_in_the_last_layer_pay_little)
{
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method)) return;
    for (int k = 0; k < 2; k++) {
        ad_dtype dtype = k ? AD_F32 : AD_F64;
        ad_tape *tape = ad_tape_new(dtype);
        ode_stats stats = { 0 };
        ode_options o = { .method = method, .stats = &stats };
        const double start[] = { 1, 0.5 }, zeros[4] = { 0 };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
        ad_var weights = ad_param(tape, AD_SHAPE(2, 2), zeros), bar;
        ad_grad(
            ad_sum_all(ode_solve_final(layer, NULL, y0, 1, &weights, ode_interval(tape, 0, 1), &o)),
            1, &weights, &bar);
        const void *by_weights = ad_value(bar);
        ck_assert_msg(by_weights, "%s", ad_tape_error(tape));
        for (int i = 0; i < 4; i++)
            ck_assert_double_eq_tol(get(dtype, by_weights, i), tanh(start[i / 2]), 1e-5);
        ck_assert_int_gt(stats.probe_evaluations, 0);
        ck_assert_int_le(stats.probe_evaluations, 6);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

/* Of a state that rests for ever every step is the same: its tangents are taken while the steps
 * grow, and then hardly any more. */
START_TEST(rest_for_ever_pays_little)
{
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method)) return;
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats stats = { 0 };
    ode_options o = { .method = method,
                      .stats = &stats,
                      .rtol = ode_method_order(method) < 3 ? 1e-4 : 0 };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ 0, 0 }));
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), ((double[]){ 0 })), bar;
    ad_var y = ode_solve_final(oscillator, NULL, y0, 1, &p, ode_interval(tape, 0, 50), &o);
    ad_grad(ad_sum_all(part(y, 0)), 1, &y0, &bar);
    const double *by_y0 = ad_value(bar);
    ck_assert_msg(by_y0, "%s", ad_tape_error(tape));
    check_close("oscillator", method, by_y0[0], 0.0763844318043403);
    ck_assert_msg(stats.probe_evaluations * 3 <= stats.evaluations, "%s: %lld of %lld evaluations",
                  ode_method_name(method), (long long)stats.probe_evaluations,
                  (long long)stats.evaluations);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* On the slow parts of a stiff solution elements rest by rounding, and a stiff mode makes the
 * tangents by the arguments inaccurate, but it decays: steps stay at the limit of stability. */
START_TEST(stiff_solutions_pay_little)
{
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method) || ode_method_order(method) < 3) return;
    for (int k = 0; k < 2; k++) {
        ad_dtype dtype = k ? AD_F32 : AD_F64;
        ad_tape *tape = ad_tape_new(dtype);
        ode_stats stats = { 0 };
        ode_options o = { .method = method, .stats = &stats };
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, ((double[]){ 2, 0 }));
        ad_var mu = ad_param(tape, AD_SHAPE(1, 1), ((double[]){ 30 })), bar;
        ad_var times = ode_interval(tape, 0, 20);
        ad_var y = ode_solve_final(van_der_pol, NULL, y0, 1, &mu, times, &o);
        ad_grad(ad_sum_all(part(y, 0)), 1, &mu, &bar);
        ck_assert_msg(ad_value(bar), "%s", ad_tape_error(tape));
        check_close("van der Pol", method, ad_item(bar), 0.0324498);
        ck_assert_msg(stats.probe_evaluations * 10 <= stats.evaluations,
                      "%s, %d: %lld of %lld evaluations", ode_method_name(method), k,
                      (long long)stats.probe_evaluations, (long long)stats.evaluations);
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
}
END_TEST

enum { HIDDEN = 16 };
static double inner[2 * HIDDEN], bias[HIDDEN], outer[HIDDEN * 2];

static ad_var network(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var w1 = ad_constant(t.tape, AD_SHAPE(2, HIDDEN), inner),
           w2 = ad_constant(t.tape, AD_SHAPE(HIDDEN, 2), outer),
           b = ad_constant(t.tape, AD_SHAPE(1, HIDDEN), bias);
    return ad_mul(args[0], ad_matmul(ad_tanh(ad_add(ad_matmul(y, w1), b)), w2));
}

static void fill(int n, double *x, double width, uint64_t *state)
{
    for (int i = 0; i < n; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        x[i] = width * ((double)(*state >> 32) * 0x1p-32 - 0.5);
    }
}

/* Networks of random weights, most of which come to rest or to a steady motion. Modes that have
 * decayed there are neither looked at again and again, nor do they ask for small steps. */
START_TEST(networks_that_come_to_rest_pay_little)
{
    const ode_method *method = ode_methods()[_i];
    if (!ode_method_adaptive(method) || ode_method_order(method) < 3) return;
    for (int k = 0; k < 2; k++) {
        ad_dtype dtype = k ? AD_F32 : AD_F64;
        int64_t with = 0, without = 0;
        uint64_t state = 1;
        for (int n = 0; n < 20; n++) {
            problem q = { "network", network, 2, { 0 }, 1, 20 };
            double width = 1.5 + 0.75 * (n % 4);
            fill(2 * HIDDEN, inner, width, &state);
            fill(HIDDEN * 2, outer, width / 2, &state);
            fill(HIDDEN, bias, 1, &state);
            fill(2, q.y0, 4, &state);
            with += evaluations_of(&q, dtype, method, k ? 1e-4 : 1e-6, true);
            without += evaluations_of(&q, dtype, method, k ? 1e-4 : 1e-6, false);
        }
        ck_assert_msg(with * 100 <= without * 108, "%s, %d: %lld evaluations, %lld without",
                      ode_method_name(method), k, (long long)with, (long long)without);
    }
}
END_TEST

int main(void)
{
    TCase *cost = suite_case("blind_cost", "cost");
    tcase_add_loop_test(cost, ordinary_problems_pay_little, 0, method_count());
    tcase_add_loop_test(cost, rest_for_ever_pays_little, 0, method_count());
    tcase_add_loop_test(cost, stiff_solutions_pay_little, 0, method_count());
    tcase_add_loop_test(cost, zeros_in_the_last_layer_pay_little, 0, method_count());
    tcase_add_loop_test(cost, components_that_rest_pay_little, 0, method_count());
    tcase_add_test(cost, modes_that_come_and_go_pay_little);
    tcase_add_loop_test(cost, networks_that_come_to_rest_pay_little, 0, method_count());
    return suite_run();
}
