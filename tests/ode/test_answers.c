/* Four cases whose answers are known to nine digits (found by other programs at tolerance 1e-12): a
 * training step on the spiral data, a neural ODE, continuous normalizing flows in 2 and 8
 * dimensions, a wide network. Weights W_l[i][j] = s sin(1.7 i + 0.9 j + 0.37 i j + l), biases 0,
 * points x[b][i] = sin(0.37 b + 1.3 i). Solved here in f64 at tolerance 1e-10; answers to 1e-7. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>

enum { MAX_LAYERS = 3 };

typedef struct {
    int nlayer;
    int64_t size[MAX_LAYERS + 1];
    double scale; /* 0: 1 / sqrt(fan in) */
    int cube;
} network;

static ad_var mlp(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const network *n = user;
    (void)t;
    ad_var x = n->cube ? ad_mul(ad_square(y), y) : y;
    for (int l = 0; l < n->nlayer; l++) {
        x = ad_add(ad_matmul(x, args[2 * l]), args[2 * l + 1]);
        if (l + 1 < n->nlayer) x = ad_tanh(x);
    }
    return x;
}

static void parameters(ad_tape *tape, const network *n, ad_var *args)
{
    for (int l = 0; l < n->nlayer; l++) {
        int64_t in = n->size[l], out = n->size[l + 1];
        double *w = calloc((size_t)(in * out + out), sizeof *w),
               s = n->scale > 0 ? n->scale : 1 / sqrt((double)in);
        for (int64_t i = 0; i < in; i++)
            for (int64_t j = 0; j < out; j++)
                w[i * out + j] =
                    s * sin(1.7 * (double)i + 0.9 * (double)j + 0.37 * (double)(i * j) + l);
        args[2 * l] = ad_param(tape, AD_SHAPE(in, out), w);
        args[2 * l + 1] = ad_param(tape, AD_SHAPE(out), w + in * out); /* zeros */
        free(w);
    }
}

static ad_var points(ad_tape *tape, int64_t rows, int64_t d)
{
    double *x = malloc((size_t)(rows * d) * sizeof *x);
    for (int64_t b = 0; b < rows; b++)
        for (int64_t i = 0; i < d; i++) x[b * d + i] = sin(0.37 * (double)b + 1.3 * (double)i);
    ad_var v = ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), rows, x);
    free(x);
    return v;
}

static void near(const char *what, double value, double known)
{
    ck_assert_msg(fabs(value - known) <= 1e-7 * fabs(known) + 5e-10, "%s: %.10g, known %.10g", what,
                  value, known);
}

static double *values(ad_var x)
{
    double *v = malloc((size_t)(ad_size(x) > 0 ? ad_size(x) : 1) * sizeof *v);
    ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape));
    return v;
}

static void sums(ad_var x, double sum, double squares, int n, const double *first)
{
    double *v = values(x), s = 0, q = 0;
    for (int64_t i = 0; i < ad_size(x); i++) {
        s += v[i];
        q += v[i] * v[i];
    }
    near("sum", s, sum);
    near("sum of squares", q, squares);
    for (int i = 0; i < n; i++) near("first", v[i], first[i]);
    free(v);
}

static void gradients(ad_var loss, int nargs, const ad_var *args, const double *norms,
                      const double *first)
{
    ad_var g[2 * MAX_LAYERS];
    ad_grad(loss, nargs, args, g);
    for (int k = 0; k < nargs; k++) {
        double *v = values(g[k]), q = 0;
        for (int64_t i = 0; i < ad_size(g[k]); i++) q += v[i] * v[i];
        near("gradient norm", sqrt(q), norms[k]);
        for (int i = 0; k == 0 && i < 4; i++) near("gradient of W0", v[i], first[i]);
        free(v);
    }
}

static const ode_options tight = { .method = &ode_dopri8, .rtol = 1e-10, .atol = 1e-10 };

static ad_var half_mean_square(ad_var x, double rows)
{
    return ad_scale(ad_sum_all(ad_square(x)), 1 / (2 * rows));
}

/* ---- a: one training iteration of the spiral demo ---- */

static ad_var spiral(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_matmul(ad_mul(ad_square(y), y), args[0]);
}

/* [1000,2] at linspace(0, 25, 1000). */
static double *spiral_data(void)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var a = ad_constant(tape, AD_SHAPE(2, 2), (double[]){ -0.1, 2, -2, -0.1 });
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 2, 0 });
    ode_options o = { .method = &ode_dopri8, .steps = 2 };
    double *v = values(ode_solve(spiral, NULL, y0, 1, &a, ode_linspace(tape, 0, 25, 1000), &o));
    ad_tape_free(tape);
    return v;
}

START_TEST(case_a)
{
    enum { B = 20, T = 10 };
    double *data = spiral_data(), y0[B * 2], target[B * T * 2], times[T];
    near("y0[1]", data[49 * 2], 1.45315091);
    near("y0[19]", data[931 * 2 + 1], 0.466978858);
    for (int b = 0; b < B; b++) {
        for (int k = 0; k < 2; k++) y0[2 * b + k] = data[2 * 49 * b + k];
        for (int j = 0; j < T * 2; j++) target[b * T * 2 + j] = data[2 * 49 * b + j];
    }
    free(data);
    near("target[9][19]", target[19 * T * 2 + 18], -0.274394539);
    for (int j = 0; j < T; j++) times[j] = 25.0 * j / 999;
    network n = { 2, { 2, 50, 2 }, 0.1 * sqrt(2), 1 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var args[4], start = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), B, y0),
                    goal = ad_input_rows(tape, AD_SHAPE(AD_ROWS, T, 2), B, target);
    parameters(tape, &n, args);
    ode_options o = tight;
    if (_i == 1) o.adjoint = &ode_backsolve;
    ad_var y = ode_solve(mlp, &n, start, 4, args, ad_constant(tape, AD_SHAPE(T), times), &o);
    ad_var loss = ad_mean_all(ad_abs(ad_sub(y, goal)));
    sums(ad_slice(y, 1, T - 1, T), 3.66937636, 16.8985677, 4,
         (double[]){ 1.99645735, -0.00370675549, 1.45019199, -0.556099175 });
    near("loss", ad_item(loss), 0.108761084);
    gradients(loss, 4, args, (double[]){ 0.0353470722, 0.0109725013, 0.0383922272, 0.0170719063 },
              (double[]){ -0.00103313773, 0.00522921948, -0.00251651285, -0.00648200895 });
    ad_tape_free(tape);
}
END_TEST

/* ---- b and d: neural ODEs ---- */

typedef struct {
    network n;
    double end, sum, squares, loss, first[4], norms[6], gradient[4];
} neural;

static const neural neural_cases[] = {
    { { 3, { 2, 64, 64, 2 }, 0, 0 },
      1,
      4.31161696,
      803.768708,
      0.784930379,
      { 0.405074051, 0.971384388, 0.850549682, 0.974547665 },
      { 0.552976248, 0.00346088331, 2.34892852, 0.00393502331, 2.0558281, 0.00613210178 },
      { 0.00478355363, 0.00574580828, 0.127025713, 0.0163821217 } },
    { { 3, { 64, 256, 256, 64 }, 0, 0 },
      1,
      1.32704371,
      16790.5676,
      16.3970387,
      { -0.00193970319, 1.24401273, 0.468003213, -0.695766974 },
      { 23.5202629, 0.0290376115, 16.0077616, 0.03070145, 4.72607011, 0.0279018084 },
      { -0.060345671, -0.00914125262, -0.0311976666, -0.0967026941 } },
};

static void neural_case(const neural *c, const ode_adjoint *adjoint)
{
    network n = c->n;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var args[6], x = points(tape, 512, n.size[0]);
    parameters(tape, &n, args);
    ode_options o = tight;
    o.adjoint = adjoint;
    ad_var y = ode_solve_final(mlp, &n, x, 6, args, ode_interval(tape, 0, c->end), &o),
           loss = half_mean_square(y, 512);
    sums(y, c->sum, c->squares, 4, c->first);
    near("loss", ad_item(loss), c->loss);
    gradients(loss, 6, args, c->norms, c->gradient);
    ad_tape_free(tape);
}

START_TEST(case_b) { neural_case(&neural_cases[0], _i ? &ode_backsolve : &ode_discrete); }
END_TEST
START_TEST(case_d) { neural_case(&neural_cases[1], &ode_discrete); }
END_TEST

/* ---- c: continuous normalizing flows ---- */

typedef struct {
    int64_t d;
    double sum, squares, loss, sum_logp, logp[3], norms[6], gradient[4], first[4];
} cnf;

static const cnf cnf_cases[] = {
    { 2,
      2.20893976,
      350.667416,
      2.41350522,
      119.387904,
      { 0.301994085, 0.274884272, 0.21897257 },
      { 0.528804853, 0.00377542135, 2.27722513, 0.00262568441, 1.74060564, 0.0035815254 },
      { 0.00417246027, 3.64927403e-05, 0.0957409846, -0.00602602381 },
      { -0.274371327, 0.925966796, -0.0342376697, 0.985072115 } },
    { 8,
      3.1112595,
      2428.21607,
      9.72903103,
      3.18361903,
      { -0.0543845142, -0.0135406634, 0.0290871876 },
      { 1.89125381, 0.00737550318, 3.68194528, 0.00698660242, 4.22322469, 0.00980674294 },
      { -0.00229432033, 0.0180755307, 0.0287129129, 0.28622215 },
      { -0.522214715, 1.28078845, 0.089019021, -0.336562312 } },
};

START_TEST(case_c)
{
    const cnf *c = &cnf_cases[_i / 2];
    network n = { 3, { c->d, 64, 64, c->d }, 0, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var args[6], logdet, x = points(tape, 512, c->d);
    parameters(tape, &n, args);
    ode_options o = tight;
    if (_i % 2) o.adjoint = &ode_backsolve;
    ad_var z = ode_flow(mlp, &n, x, 6, args, ode_interval(tape, 1, 0), &o, &logdet),
           logp = ad_neg(logdet);
    ad_var loss = ad_neg(ad_mean_all(ad_sub(ode_normal_log_density(z), logp)));
    sums(z, c->sum, c->squares, 4, c->first);
    double *l = values(logp), sum = 0;
    for (int i = 0; i < 512; i++) sum += l[i];
    near("sum of log-determinants", sum, c->sum_logp);
    for (int i = 0; i < 3; i++) near("log-determinant", l[i], c->logp[i]);
    free(l);
    near("loss", ad_item(loss), c->loss);
    gradients(loss, 6, args, c->norms, c->gradient);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("answers", "answers");
    tcase_add_loop_test(c, case_a, 0, 2);
    tcase_add_loop_test(c, case_b, 0, 2);
    tcase_add_loop_test(c, case_c, 0, 4);
    tcase_add_test(c, case_d);
    return suite_run();
}
