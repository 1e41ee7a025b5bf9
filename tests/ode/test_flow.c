/* Joint systems: running costs, flows with their log-determinants against closed forms and explicit
 * Jacobians, continuous normalizing flows. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

enum { D = 3, B = 5 };
static const double a[D * D] = { 0.3, -1.1, 0.2, 0.7, -0.4, 0.5, -0.1, 0.6, 0.25 };
static const double trace_a = 0.3 - 0.4 + 0.25;

/* x' = x A^T: row-wise A x. */
static ad_var linear(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_matmul(x, ad_transpose(args[0], (int[]){ 1, 0 }));
}

/* expm(A t), by its series in short pieces. */
static void exponential(double t, double *e)
{
    double term[D * D], next[D * D], piece[D * D] = { 0 }, result[D * D] = { 0 };
    for (int i = 0; i < D; i++) piece[i * D + i] = result[i * D + i] = 1;
    memcpy(term, piece, sizeof term);
    for (int k = 1; k < 16; k++) {
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                next[i * D + j] = 0;
                for (int m = 0; m < D; m++)
                    next[i * D + j] += a[i * D + m] * term[m * D + j] * t / 32 / k;
            }
        memcpy(term, next, sizeof term);
        for (int i = 0; i < D * D; i++) piece[i] += term[i];
    }
    for (int n = 0; n < 32; n++) {
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                next[i * D + j] = 0;
                for (int m = 0; m < D; m++) next[i * D + j] += piece[i * D + m] * result[m * D + j];
            }
        memcpy(result, next, sizeof result);
    }
    memcpy(e, result, sizeof result);
}

static void points(double *x)
{
    for (int i = 0; i < B * D; i++) x[i] = sin(1.9 * i + 0.4);
}

/* x(T) = expm(A T) x and log-determinant T tr A, in either direction; d logdet / dA = T I. */
START_TEST(linear_flow)
{
    const ode_method *m = ode_methods()[_i / 2];
    double from = _i % 2 ? 1.3 : 0.2, to = _i % 2 ? 0.2 : 1.3, x0[B * D], x[B * D], l[B], e[D * D],
           g[D * D];
    ad_tape *tape = ad_tape_new(AD_F64);
    points(x0);
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), B, x0),
           p = ad_param(tape, AD_SHAPE(D, D), a), logdet, grad;
    ode_options o = { .method = m, .rtol = 1e-9, .atol = 1e-9 };
    int order = ode_method_order(m);
    if (!ode_method_adaptive(m)) o.steps = order == 1 ? 2000 : order == 2 ? 1000 : 100;
    ad_var end = ode_flow(linear, NULL, start, 1, &p, ode_interval(tape, from, to), &o, &logdet);
    get(end, x);
    get(logdet, l);
    exponential(to - from, e);
    double tolerance = order == 1 ? 1e-2 : order == 2 && !ode_method_adaptive(m) ? 1e-5 : 1e-7;
    tolerance *= method_slack(m);
    for (int r = 0; r < B; r++) {
        for (int i = 0; i < D; i++) {
            double sum = 0;
            for (int j = 0; j < D; j++) sum += e[i * D + j] * x0[r * D + j];
            ck_assert_double_eq_tol(x[r * D + i], sum, tolerance);
        }
        ck_assert_double_eq_tol(l[r], (to - from) * trace_a, 1e-12);
    }
    ad_grad(ad_sum_all(logdet), 1, &p, &grad);
    get(grad, g);
    for (int i = 0; i < D * D; i++)
        ck_assert_double_eq_tol(g[i], i % (D + 1) ? 0 : B * (to - from), 1e-10);
    ad_tape_free(tape);
}
END_TEST

/* [1,D]: the same for all rows. [rows,1]: the same in all components. */
static ad_var drift(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)x, (void)user;
    return ad_matmul(t, ad_slice(args[0], 0, 0, 1));
}
static ad_var together(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(ad_sum_axis(x, 1, true), ad_slice(ad_slice(args[0], 0, 0, 1), 1, 0, 1));
}
static ad_var twice(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_concatenate(2, (ad_var[]){ x, x }, 1);
}

START_TEST(fields_that_broadcast)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double x0[B * D], x[B * D], l[B], end = 0.8;
    points(x0);
    ad_var p = ad_param(tape, AD_SHAPE(D, D), a),
           start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), B, x0), logdet;
    ode_options o = { .rtol = 1e-10, .atol = 1e-10 };
    get(ode_flow(drift, NULL, start, 1, &p, ode_interval(tape, 0, end), &o, &logdet), x);
    get(logdet, l);
    for (int i = 0; i < B * D; i++)
        ck_assert_double_eq_tol(x[i], x0[i] + a[i % D] * end * end / 2, 1e-9);
    for (int r = 0; r < B; r++) ck_assert_double_eq(l[r], 0);
    get(ode_flow(together, NULL, start, 1, &p, ode_interval(tape, 0, end), &o, &logdet), x);
    get(logdet, l);
    for (int r = 0; r < B; r++) {
        double moved = (x0[r * D] + x0[r * D + 1] + x0[r * D + 2]) * (exp(D * a[0] * end) - 1) / D;
        for (int i = 0; i < D; i++)
            ck_assert_double_eq_tol(x[r * D + i], x0[r * D + i] + moved, 1e-8);
        ck_assert_double_eq_tol(l[r], D * a[0] * end, 1e-12);
    }
    ad_tape_free(tape);
}
END_TEST

/* A Gaussian: the base N(0, I) at time T pulled back by expm(A T): density of covariance expm(-A T)
 * expm(-A T)^T at time 0. */
START_TEST(linear_density)
{
    double x[B * D], l[B], e[D * D], horizon = 0.8;
    ad_tape *tape = ad_tape_new(AD_F64);
    points(x);
    ad_var data = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), B, x),
           p = ad_param(tape, AD_SHAPE(D, D), a);
    ode_cnf flow = { .field = linear,
                     .horizon = horizon,
                     .options = { .rtol = 1e-10, .atol = 1e-10 } };
    get(ode_cnf_log_density(&flow, data, 1, &p), l);
    exponential(horizon, e);
    for (int r = 0; r < B; r++) {
        double squares = 0;
        for (int i = 0; i < D; i++) {
            double z = 0;
            for (int j = 0; j < D; j++) z += e[i * D + j] * x[r * D + j];
            squares += z * z;
        }
        ck_assert_double_eq_tol(l[r], -squares / 2 - D * log(2 * acos(-1)) / 2 + horizon * trace_a,
                                1e-8);
    }
    /* Encoding and sampling are inverse to each other. */
    double back[B * D];
    get(ode_cnf_sample(&flow, ode_cnf_encode(&flow, data, 1, &p), 1, &p), back);
    for (int i = 0; i < B * D; i++) ck_assert_double_eq_tol(back[i], x[i], 1e-8);
    ad_tape_free(tape);
}
END_TEST

/* x' = tanh(x W + t b) V: two weights and a time-dependent bias. */
static ad_var network(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)user;
    return ad_matmul(ad_tanh(ad_add(ad_matmul(x, args[0]), ad_mul(t, args[1]))), args[2]);
}

static void weights(ad_tape *tape, ad_var *args)
{
    double w[D * 8], b[8], v[8 * D];
    for (int i = 0; i < D * 8; i++) {
        w[i] = sin(2.3 * i);
        v[i] = 0.5 * cos(1.1 * i);
    }
    for (int i = 0; i < 8; i++) b[i] = 0.1 * i;
    args[0] = ad_param(tape, AD_SHAPE(D, 8), w);
    args[1] = ad_param(tape, AD_SHAPE(8), b);
    args[2] = ad_param(tape, AD_SHAPE(8, D), v);
}

static double determinant(const double *m)
{
    return m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6]) +
           m[2] * (m[3] * m[7] - m[4] * m[6]);
}

/* The log-determinant equals that of the solved flow's own Jacobian, by differentiating the solve
 * three times. */
START_TEST(determinant_of_the_flow)
{
    double x0[B * D], l[B], j[B][D * D];
    ad_tape *tape = ad_tape_new(AD_F64);
    points(x0);
    ad_var args[3], start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), B, x0), logdet, g;
    weights(tape, args);
    ode_options o = { .method = &ode_dopri8, .rtol = 1e-11, .atol = 1e-11 };
    ad_var end = ode_flow(network, NULL, start, 3, args, ode_interval(tape, 0, 1), &o, &logdet);
    get(logdet, l);
    for (int i = 0; i < D; i++) {
        double rows[B * D];
        ad_grad(ad_sum_all(ad_slice(end, 1, i, i + 1)), 1, &start, &g);
        get(g, rows);
        for (int r = 0; r < B; r++) memcpy(j[r] + i * D, rows + r * D, D * sizeof(double));
    }
    for (int r = 0; r < B; r++) ck_assert_double_eq_tol(l[r], log(fabs(determinant(j[r]))), 1e-8);
    ad_tape_free(tape);
}
END_TEST

/* The gradient of a density with respect to weights and points, against differences; both adjoints.
 */
START_TEST(density_gradient)
{
    double x[B * D], g[2][8 * D + B * D], h = 1e-3;
    points(x);
    for (int k = 0; k < 2; k++) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var args[3], in[2], grad[2];
        weights(tape, args);
        ode_cnf flow = { .field = network,
                         .horizon = 1,
                         .options = { .method = &ode_dopri8, .rtol = 1e-11, .atol = 1e-11 } };
        if (k) flow.options.adjoint = &ode_backsolve;
        in[0] = args[2];
        in[1] = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), B, x);
        ad_var loss = ad_sum_all(ode_cnf_log_density(&flow, in[1], 3, args));
        ad_grad(loss, 2, in, grad);
        get(grad[0], g[k]);
        get(grad[1], g[k] + 8 * D);
        for (int i = 0; i < 3 && !k; i++) {
            double value[4];
            for (int s = 0; s < 4; s++) {
                double v[8 * D];
                for (int n = 0; n < 8 * D; n++) v[n] = 0.5 * cos(1.1 * n);
                v[5 * i] += (s < 2 ? h : 2 * h) * (s % 2 ? -1 : 1);
                ck_assert_int_eq(ad_set(args[2], 0, v), 0);
                value[s] = ad_item(loss);
            }
            double slope = (8 * (value[0] - value[1]) - (value[2] - value[3])) / (12 * h);
            ck_assert_double_eq_tol(g[0][5 * i], slope, 1e-7);
        }
        ad_tape_free(tape);
    }
    for (int i = 0; i < 8 * D + B * D; i++) ck_assert_double_eq_tol(g[0][i], g[1][i], 1e-7);
}
END_TEST

/* ---- running costs ---- */

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_neg(ad_mul(args[0], y));
}
static ad_var square_cost(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)user;
    return ad_add(ad_sum_axis(ad_square(y), 1, true), t);
}

/* y = y0 exp(-k t): q = |y0|^2 (1 - exp(-2 k t)) / 2k + t^2 / 2. */
START_TEST(running_cost)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double y0[4] = { 1, 2, 0.5, -1 }, k0 = 0.7, q[6], y[12], g;
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, y0),
           k = ad_param(tape, AD_SCALAR, &k0), cost, grad;
    ode_options o = { .rtol = 1e-9, .atol = 1e-10, .adjoint = _i ? &ode_backsolve : &ode_discrete };
    ad_var solution = ode_solve_cost(decay, square_cost, NULL, start, 1, &k,
                                     ode_linspace(tape, 0, 2, 3), &o, &cost);
    get(cost, q);
    get(solution, y);
    for (int r = 0; r < 2; r++)
        for (int j = 0; j < 3; j++) {
            double squares = y0[2 * r] * y0[2 * r] + y0[2 * r + 1] * y0[2 * r + 1];
            ck_assert_double_eq_tol(
                q[3 * r + j], squares * (1 - exp(-2 * k0 * j)) / (2 * k0) + j * j / 2.0, 1e-7);
            ck_assert_double_eq_tol(y[6 * r + 2 * j], y0[2 * r] * exp(-k0 * j), 1e-7);
        }
    ad_grad(ad_sum_all(ad_slice(cost, 1, 2, 3)), 1, &k, &grad);
    get(grad, &g);
    double squares = 1 + 4 + 0.25 + 1, e = exp(-4 * k0);
    ck_assert_double_eq_tol(g, squares * (4 * e / (2 * k0) - (1 - e) / (2 * k0 * k0)), 1e-6);
    ad_tape_free(tape);
}
END_TEST

/* The squared speed, by the field itself. */
static ad_var speed(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_sum_axis(ad_square(decay(t, y, args, user)), 1, true);
}

/* y = y0 exp(-k t), the logarithm of the determinant is -2 k T, the cost k |y0|^2 (1 - exp(-2 k T))
 * / 2. */
START_TEST(flow_with_cost)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double y0[4] = { 1, 2, 0.5, -1 }, k0 = 0.7, T = 1.5, q[2], y[4], l[2], p[2], plain[2], g[2],
           e = exp(-2 * k0 * T);
    ad_var start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, y0),
           k = ad_param(tape, AD_SCALAR, &k0), cost, logdet, grad[2];
    ode_options o = { .rtol = 1e-10,
                      .atol = 1e-11,
                      .adjoint = _i ? &ode_backsolve : &ode_discrete };
    get(ode_flow_cost(decay, speed, NULL, start, 1, &k, ode_interval(tape, 0, T), &o, &logdet,
                      &cost),
        y);
    get(logdet, l);
    get(cost, q);
    ode_cnf flow = { .field = decay, .horizon = T, .options = o };
    ad_var along, density = ode_cnf_log_density_cost(&flow, speed, start, 1, &k, &along);
    get(density, p);
    get(ode_cnf_log_density(&flow, start, 1, &k), plain);
    ad_grad(ad_sum_all(cost), 1, &k, &grad[0]);
    ad_grad(ad_sum_all(ad_sub(along, density)), 1, &k, &grad[1]);
    for (int i = 0; i < 2; i++) get(grad[i], &g[i]);
    double by_k = 0, by_k_of_density = 0;
    for (int r = 0; r < 2; r++) {
        double squares = y0[2 * r] * y0[2 * r] + y0[2 * r + 1] * y0[2 * r + 1],
               right = k0 * squares * (1 - e) / 2;
        ck_assert_double_eq_tol(y[2 * r], y0[2 * r] * exp(-k0 * T), 1e-9);
        ck_assert_double_eq_tol(l[r], -2 * k0 * T, 1e-9);
        ck_assert_double_eq_tol(q[r], right, 1e-8);
        ck_assert_double_eq_tol(p[r], plain[r], 1e-9);
        ck_assert_double_eq_tol(p[r], -log(2 * acos(-1.0)) - squares * e / 2 - 2 * k0 * T, 1e-8);
        by_k += squares * (1 - e) / 2 + k0 * squares * T * e;
        by_k_of_density += squares * T * e - 2 * T;
    }
    ck_assert_double_eq_tol(g[0], by_k, 1e-7);
    ck_assert_double_eq_tol(g[1], by_k - by_k_of_density, 1e-7);
    ad_tape_free(tape);
}
END_TEST

/* ---- rows with times of their own, states at the end ---- */

/* y' = (t0 + T t + 1) T, args: t0, T. */
static ad_var own_time(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y, (void)user;
    ad_var time = ad_add(args[0], ad_mul(args[1], t));
    return ad_mul(ad_shift(time, 1), args[1]);
}

START_TEST(rows_with_their_own_times)
{
    ad_tape *tape = ad_tape_new(_i ? AD_F32 : AD_F64);
    double zero[3] = { 0 }, t0[3] = { 0, 1.5, -2 }, length[3] = { 2, 0.5, 3 }, y[3], g[3],
           most = _i ? 1e-4 : 1e-8;
    ad_var args[2] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, t0),
                       ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, length) },
           by[2];
    ad_var end = ode_solve_final(own_time, NULL, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, zero),
                                 2, args, ode_interval(tape, 0, 1), NULL);
    get(end, y);
    ad_grad(ad_sum_all(end), 2, args, by);
    for (int i = 0; i < 3; i++) /* the integral of t + 1 from t0 to t0 + T */
        ck_assert_double_eq_tol(y[i], length[i] * (t0[i] + length[i] / 2 + 1),
                                most * fmax(1, fabs(y[i])));
    get(by[0], g);
    for (int i = 0; i < 3; i++) ck_assert_double_eq_tol(g[i], length[i], most * 3);
    get(by[1], g);
    for (int i = 0; i < 3; i++) ck_assert_double_eq_tol(g[i], t0[i] + length[i] + 1, most * 3);
    ad_tape_free(tape);
}
END_TEST

static void rotating(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                     ad_var *dy)
{
    (void)t, (void)args, (void)user, (void)nstate;
    dy[0] = y[1];
    dy[1] = ad_neg(y[0]);
}

/* The last of what ode_solve_states gives, bit by bit, with its gradient. */
START_TEST(states_at_the_end)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double start[4] = { 1, 2, 3, 4 }, v[2][8], g[2][4];
    ode_options o = { .adjoint = _i ? &ode_backsolve : &ode_discrete };
    for (int k = 0; k < 2; k++) {
        ad_var y0[2] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, start),
                         ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, start) },
               y[2], b;
        ad_var times = ode_interval(tape, 0, 2);
        if (k)
            ck_assert_int_eq(ode_solve_states_final(rotating, NULL, 2, y0, 0, NULL, times, &o, y),
                             0);
        else ck_assert_int_eq(ode_solve_states(rotating, NULL, 2, y0, 0, NULL, times, &o, y), 0);
        for (int i = 0; i < 2 && !k; i++)
            y[i] = ad_reshape(ad_slice(y[i], 1, 1, 2), AD_SHAPE(AD_ROWS, 2));
        for (int i = 0; i < 2; i++) {
            ck_assert_int_eq(ad_shape_of(y[i]).rank, 2);
            get(y[i], v[k] + 4 * i);
        }
        ad_grad(ad_sum_all(ad_mul(y[0], ad_square(y[1]))), 1, &y0[0], &b);
        get(b, g[k]);
    }
    ck_assert_mem_eq(v[0], v[1], sizeof v[0]);
    ck_assert_mem_eq(g[0], g[1], sizeof g[0]);
    ck_assert_double_eq_tol(v[1][0], cos(2) + sin(2), 1e-5);
    ad_tape_free(tape);
}
END_TEST

/* ---- bad input ---- */

static void fails(ad_tape *tape, const char *part)
{
    ck_assert_msg(ad_tape_error(tape) != NULL, "no error; expected %s", part);
    ck_assert_msg(strstr(ad_tape_error(tape), part) != NULL, "\"%s\" is not in \"%s\"", part,
                  ad_tape_error(tape));
    ad_tape_clear_error(tape);
}

START_TEST(bad_input)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double x[B * D];
    points(x);
    ad_var p = ad_param(tape, AD_SHAPE(D, D), a),
           data = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D), B, x), logdet;
    ad_var deep = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1, D), B, x),
           wide = ad_input_rows(tape, AD_SHAPE(AD_ROWS, D, 1), B, x);
    ode_cnf flow = { .field = linear, .horizon = 0 };
    ode_cnf_log_density(&flow, data, 1, &p);
    fails(tape, "ode_cnf_log_density: the horizon is 0");
    flow.horizon = -1;
    ode_cnf_sample(&flow, data, 1, &p);
    fails(tape, "ode_cnf_sample: the horizon is -1");
    flow.horizon = NAN;
    ode_cnf_encode(&flow, data, 1, &p);
    fails(tape, "ode_cnf_encode: the horizon is nan");
    flow.horizon = 1;
    ode_cnf_log_density(&flow, deep, 1, &p);
    fails(tape, "ode_cnf_log_density: points have shape [rows,1,3]");
    ode_flow(linear, NULL, wide, 1, &p, ode_interval(tape, 0, 1), NULL, &logdet);
    fails(tape, "ode_flow: points have shape [rows,3,1]");
    ode_flow_cost(linear, NULL, NULL, data, 1, &p, ode_interval(tape, 0, 1), NULL, &logdet,
                  &logdet);
    fails(tape, "ode_flow_cost: the cost is NULL");
    ode_flow_cost(linear, linear, NULL, data, 1, &p, ode_interval(tape, 0, 1), NULL, &logdet, NULL);
    fails(tape, "ode_flow_cost: q is NULL");
    ode_cnf_log_density_cost(&(ode_cnf){ .field = linear, .horizon = 1 }, NULL, data, 1, &p,
                             &logdet);
    fails(tape, "ode_cnf_log_density_cost: the cost is NULL");
    ode_flow(twice, NULL, data, 1, &p, ode_interval(tape, 0, 1), NULL, &logdet);
    fails(tape, "ode_flow: in the field: it returned [rows,6] for a state of shape [rows,3]");
    ode_normal_log_density(p);
    fails(tape, "ode_normal_log_density: points have shape [3,3]");
    ode_linspace(tape, 0, 1, 1);
    fails(tape, "ode_linspace: n is 1");
    flow.options.rtol = -1;
    ode_cnf_log_density(&flow, data, 1, &p);
    fails(tape, "ode_cnf_log_density: options.rtol");
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("flow", "flow");
    tcase_add_loop_test(c, linear_flow, 0, 2 * method_count());
    tcase_add_test(c, linear_density);
    tcase_add_test(c, determinant_of_the_flow);
    tcase_add_test(c, fields_that_broadcast);
    tcase_add_test(c, density_gradient);
    tcase_add_loop_test(c, running_cost, 0, 2);
    tcase_add_loop_test(c, flow_with_cost, 0, 2);
    tcase_add_loop_test(c, rows_with_their_own_times, 0, 2);
    tcase_add_loop_test(c, states_at_the_end, 0, 2);
    tcase_add_test(c, bad_input);
    return suite_run();
}
