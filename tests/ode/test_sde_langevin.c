/* The underdamped Langevin equation: strong orders, the law at rest, gradients, what is refused. */
#include "sde_orders.h"
#include <string.h>

enum { CELLS = 256 };

static const ode_method *const methods[] = { &sde_align, &sde_sort, &sde_quicsort };
static const double order[] = { 2, 3, 3 };

/* U = (x^2 - 1)^2 / 4, two wells, with a stiffness args[0]. */
static ad_var two_wells(ad_var t, ad_var x, const ad_var *args, void *user)
{
    (void)t, (void)user;
    return ad_mul(args[0], ad_sub(ad_mul(x, ad_square(x)), x));
}

typedef struct {
    const ode_method *method;
    int rows, steps, cells;
    double horizon, stiffness, friction, inverse_mass, x0, v0;
} problem;

typedef struct {
    ad_tape *tape;
    ad_var in[5], y[2]; /* x0, v0, stiffness, friction, inverse mass */
} solve;

static solve record(const problem *p)
{
    solve s = { .tape = ad_tape_new(AD_F64) };
    double *zeros = calloc((size_t)p->rows, sizeof *zeros);
    ad_var rows = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 1), p->rows, zeros);
    free(zeros);
    const double value[] = { p->x0, p->v0, p->stiffness, p->friction, p->inverse_mass };
    for (int i = 0; i < 5; i++) s.in[i] = ad_param(s.tape, AD_SCALAR, value + i);
    sde_langevin equation = { .gradient = two_wells, .friction = s.in[3], .inverse_mass = s.in[4] };
    sde_options options = { .ode = { .method = p->method, .steps = p->steps },
                            .path = { .seed = 3, .cells = p->cells } };
    sde_langevin_solve_final(&equation, ad_add(rows, s.in[0]), ad_add(rows, s.in[1]), 1, s.in + 2,
                             ode_interval(s.tape, 0, p->horizon), &options, s.y);
    return s;
}

/* Positions and velocities at the end, [2][rows]. The caller frees. */
static double *ends(const problem *p)
{
    solve s = record(p);
    double *y = malloc((size_t)(2 * p->rows) * sizeof *y);
    for (int j = 0; j < 2; j++)
        ck_assert_msg(!ad_get(s.y[j], y + j * p->rows), "%s", ad_tape_error(s.tape));
    ad_tape_free(s.tape);
    return y;
}

START_TEST(strong)
{
    enum { ROWS = 300, LEVELS = 5, FIRST = 3 };
    problem p = { .rows = ROWS,
                  .cells = CELLS,
                  .horizon = 2,
                  .stiffness = 1,
                  .friction = 1,
                  .inverse_mass = 1.5,
                  .x0 = 0.5 };
    problem fine = p;
    fine.method = &sde_quicsort;
    fine.steps = 4 * CELLS;
    double *truth = ends(&fine);
    for (int k = 0; k < 3; k++) {
        static double part[LEVELS * ROWS];
        for (int l = 0; l < LEVELS; l++) {
            p.method = methods[k];
            p.steps = 1 << (FIRST + l);
            double *y = ends(&p);
            for (int i = 0; i < ROWS; i++)
                part[l * ROWS + i] =
                    pow(y[i] - truth[i], 2) + pow(y[ROWS + i] - truth[ROWS + i], 2);
            free(y);
        }
        measured_order m = slope_of(LEVELS, ROWS, part, 0.5);
        printf("  %-10s %.2e to %.2e  %.3f +- %.3f  %.0f\n", ode_method_name(methods[k]), m.size[0],
               m.size[LEVELS - 1], m.slope, m.error, order[k]);
        ck_assert_msg(fabs(m.slope - order[k]) <= 0.15 && m.error < 0.05,
                      "%s: strong order %.3f +- %.3f, published %.0f", ode_method_name(methods[k]),
                      m.slope, m.error, order[k]);
    }
    free(truth);
}
END_TEST

/* At rest x has the law exp(-U) and v that of variance u, independent of x. */
START_TEST(at_rest)
{
    enum { ROWS = 20000 };
    double weight = 0, square = 0;
    for (int i = 0; i < 4000; i++) {
        double x = -5 + 10 * (i + 0.5) / 4000, w = exp(-pow(x * x - 1, 2) / 4);
        weight += w;
        square += w * x * x;
    }
    square /= weight;
    for (int k = 0; k < 3; k++) {
        problem p = { .method = methods[k],
                      .rows = ROWS,
                      .steps = 80,
                      .cells = 80,
                      .horizon = 16,
                      .stiffness = 1,
                      .friction = 1,
                      .inverse_mass = 1.5,
                      .x0 = 0.5 };
        double *y = ends(&p), x2 = 0, x4 = 0, v2 = 0, mean = 0, both = 0;
        for (int i = 0; i < ROWS; i++) {
            double x = y[i], v = y[ROWS + i];
            mean += x / ROWS;
            x2 += x * x / ROWS;
            x4 += pow(x, 4) / ROWS;
            v2 += v * v / ROWS;
            both += x * v / ROWS;
        }
        double error = sqrt((x4 - x2 * x2) / ROWS);
        ck_assert_msg(fabs(x2 - square) < 4 * error + 0.01 &&
                          fabs(mean) < 4 * sqrt(x2 / ROWS) + 0.02,
                      "%s: mean %.4f, E x^2 %.4f +- %.4f, exact %.4f", ode_method_name(methods[k]),
                      mean, x2, error, square);
        ck_assert_msg(fabs(v2 - 1.5) < 4 * 1.5 * sqrt(2.0 / ROWS) + 0.01 &&
                          fabs(both) < 4 * sqrt(1.5 * x2 / ROWS),
                      "%s: E v^2 %.4f, E x v %.4f", ode_method_name(methods[k]), v2, both);
        free(y);
    }
}
END_TEST

static double loss_at(const problem *p)
{
    double *y = ends(p), loss = 0;
    for (int i = 0; i < p->rows; i++)
        loss += sin(y[i]) + y[i] * y[p->rows + i] + y[p->rows + i] * y[p->rows + i];
    free(y);
    return loss;
}

/* By start, stiffness, friction and inverse mass, against differences; where gamma h is small, and
 * where it is not. */
START_TEST(gradients)
{
    for (int k = 0; k < 3; k++)
        for (int damped = 0; damped < 2; damped++) {
            problem p = { .method = methods[k],
                          .rows = 3,
                          .steps = 4,
                          .horizon = 1.2,
                          .stiffness = 0.7,
                          .friction = damped ? 9 : 0.8,
                          .inverse_mass = 1.5,
                          .x0 = 0.5,
                          .v0 = -0.4 };
            solve s = record(&p);
            ad_var loss = ad_sum_all(
                       ad_add(ad_sin(s.y[0]), ad_add(ad_mul(s.y[0], s.y[1]), ad_square(s.y[1])))),
                   g[5];
            ad_grad(loss, 5, s.in, g);
            double *at[] = { &p.x0, &p.v0, &p.stiffness, &p.friction, &p.inverse_mass }, h = 2e-3;
            for (int i = 0; i < 5; i++) {
                double got = ad_item(g[i]), sum = 0, value = *at[i];
                ck_assert_msg(!ad_tape_error(s.tape), "%s", ad_tape_error(s.tape));
                const double step[] = { -2, -1, 1, 2 }, weight[] = { 1, -8, 8, -1 };
                for (int q = 0; q < 4; q++) {
                    *at[i] = value + step[q] * h;
                    sum += weight[q] * loss_at(&p);
                }
                *at[i] = value;
                double d = sum / (12 * h);
                ck_assert_msg(fabs(d - got) < 1e-8 * (1 + fabs(d)),
                              "%s, by %d: gradient %.12g, difference %.12g",
                              ode_method_name(methods[k]), i, got, d);
            }
            ad_tape_free(s.tape);
        }
}
END_TEST

/* Without friction it is Newton's equation, and nothing is divided by zero. */
START_TEST(without_friction)
{
    for (int k = 0; k < 3; k++) {
        problem p = { .method = methods[k],
                      .rows = 1,
                      .steps = 2000,
                      .horizon = 2,
                      .stiffness = 1,
                      .inverse_mass = 1,
                      .x0 = 0.5,
                      .v0 = 0.3 };
        double *y = ends(&p), energy = 0.045 + pow(0.25 - 1, 2) / 4;
        ck_assert_double_eq_tol(y[1] * y[1] / 2 + pow(y[0] * y[0] - 1, 2) / 4, energy, 1e-6);
        free(y);
    }
}
END_TEST

START_TEST(refused)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var x = start(tape, 1, 1, NULL), v = start(tape, 1, 2, NULL), y[2];
    ad_var times = ode_interval(tape, 0, 1), one = ad_scalar(tape, 1);
    sde_options options = { .ode = { .method = &sde_align, .steps = 1 } };
    sde_langevin fine = { .gradient = no_drift, .friction = one };
    sde_langevin blank = { .friction = one }, free_of = { .gradient = no_drift };
    const struct {
        const sde_langevin *equation;
        ad_var v;
        const char *text;
    } cases[] = { { NULL, x, "the equation is NULL" },
                  { &blank, x, "the gradient of the potential is NULL" },
                  { &free_of, x, "friction is not a valid variable" },
                  { &fine, v, "x0 has shape [rows,1] and v0 [rows,2]" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(
            sde_langevin_solve_final(cases[i].equation, x, cases[i].v, 0, NULL, times, &options, y),
            -1);
        ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), cases[i].text));
        ad_tape_clear_error(tape);
    }
    /* Another equation has no friction and no force to be found. */
    sde_solve_final(no_drift, path_itself, NULL, x, 0, NULL, times, &options);
    ck_assert_ptr_nonnull(strstr(ad_tape_error(tape), "sde_langevin_solve"));
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sde_langevin", "sde_langevin");
    tcase_add_test(tests, strong);
    tcase_add_test(tests, at_rest);
    tcase_add_test(tests, gradients);
    tcase_add_test(tests, without_friction);
    tcase_add_test(tests, refused);
    return suite_run();
}
