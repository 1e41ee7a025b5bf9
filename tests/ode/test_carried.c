/* A method may carry any number of arrays from step to step, of kinds of its own. This one, which
 * no library has, carries two: the previous slope, as the Adams-Bashforth method of order 2 does,
 * and a number for each row, a fading sum of squares of slopes that drives the state. Solutions and
 * gradients are compared with the same recursion in plain C. */
#include "ode/step/step.h"
#include "tests/support.h"
#include <math.h>

enum { ROWS = 2, WIDTH = 2, STEPS = 4, INTERVALS = 2 };

/* ---- the method, as costate sees it ---- */

static void step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    ad_var slope[1], old = s->carry[0], memory = s->carry[1];
    ode_record_field(s, r, 0, s->y, slope, NULL);
    ad_var change = ad_sub(ad_scale(slope[0], 1.5), ad_scale(old, 0.5));
    ad_var push = ad_mul(s->h, ad_reshape(memory, AD_SHAPE(AD_ROWS, 1)));
    r->next[0] = ad_add(s->y[0], ad_mul(s->h, ad_add(change, push)));
    r->carry[0] = slope[0];
    r->carry[1] = ad_add(ad_scale(memory, 0.5), ode_record_row_squares(slope[0]));
}

static void begin(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    ode_record_field(s, r, 0, s->y, r->carry, NULL);
    r->carry[1] = ad_zeros_like(ode_record_row_squares(s->y[0]));
}

static const ode_shapes carried[] = { ODE_SHAPE_STATE, ODE_SHAPE_ROW_NUMBER };
static const double both_ends[] = { 0, 1 };
static const ode_method method = { .name = "driven",
                                   .about = "two carried arrays",
                                   .flags = ODE_METHOD_MULTISTEP,
                                   .order = 1,
                                   .times = 1,
                                   .times_estimate = 1,
                                   .times_dense = 2,
                                   .c = both_ends,
                                   .begin_times = 1,
                                   .begin_c = both_ends,
                                   .dense_stages = ODE_HERMITE_STAGES,
                                   .dense = ode_hermite_dense,
                                   .ncarry = 2,
                                   .carry = carried,
                                   .step = step,
                                   .begin = begin };

static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(args[0], ad_sub(ad_sin(y), ad_mul(t, y)));
}

/* ---- the same in C ---- */

/* Of all rows: y0, then the argument. */
typedef struct {
    double y0[ROWS][WIDTH], p;
} inputs;

static void slope_of(double p, double t, const double *y, double *slope)
{
    for (int i = 0; i < WIDTH; i++) slope[i] = p * (sin(y[i]) - t * y[i]);
}

/* Sum over rows, output times after the first and elements of the weighted solution. */
static double weight_of(int r, int j, int i) { return 1 + 0.3 * r - 0.7 * j + 0.2 * i; }

static double loss_of(const inputs *x)
{
    double loss = 0, h = 0.5 / STEPS;
    for (int r = 0; r < ROWS; r++) {
        double y[WIDTH] = { x->y0[r][0], x->y0[r][1] };
        for (int j = 0; j < INTERVALS; j++) {
            double old[WIDTH], slope[WIDTH], memory = 0;
            slope_of(x->p, 0.5 * j, y, old); /* it begins anew at each output time */
            for (int k = 0; k < STEPS; k++) {
                double squares = 0;
                slope_of(x->p, 0.5 * j + k * h, y, slope);
                for (int i = 0; i < WIDTH; i++) {
                    y[i] += h * (1.5 * slope[i] - 0.5 * old[i] + h * memory);
                    old[i] = slope[i];
                    squares += slope[i] * slope[i];
                }
                memory = 0.5 * memory + squares;
            }
            for (int i = 0; i < WIDTH; i++) loss += weight_of(r, j + 1, i) * y[i];
        }
    }
    return loss;
}

/* The loss's derivative by an element of x, by differences. */
static double difference(inputs *x, double *element)
{
    const double by = 1e-3, at[] = { -2, -1, 1, 2 }, weight[] = { 1, -8, 8, -1 };
    double sum = 0, before = *element;
    for (int k = 0; k < 4; k++) {
        *element = before + at[k] * by;
        sum += weight[k] * loss_of(x);
    }
    *element = before;
    return sum / (12 * by);
}

START_TEST(solution_and_gradient)
{
    inputs x = { .y0 = { { 0.5, -0.3 }, { 1.2, 0.8 } }, .p = 0.9 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDTH), ROWS, &x.y0[0][0]);
    ad_var p = ad_param(tape, AD_SHAPE(1), &x.p), bar[2];
    ode_options options = { .method = &method, .steps = STEPS };
    ad_var times = ode_linspace(tape, 0, 0.5 * INTERVALS, INTERVALS + 1);
    ad_var y = ode_solve(field, NULL, y0, 1, &p, times, &options);
    double weights[ROWS][INTERVALS + 1][WIDTH] = { { { 0 } } };
    for (int r = 0; r < ROWS; r++)
        for (int j = 1; j <= INTERVALS; j++)
            for (int i = 0; i < WIDTH; i++) weights[r][j][i] = weight_of(r, j, i);
    ad_var w =
        ad_input_rows(tape, AD_SHAPE(AD_ROWS, INTERVALS + 1, WIDTH), ROWS, &weights[0][0][0]);
    ad_var loss = ad_sum_all(ad_mul(w, y));
    ad_grad(loss, 2, (ad_var[]){ y0, p }, bar);
    const double *by_y0 = ad_value_f64(bar[0]), *by_p = ad_value_f64(bar[1]);
    ck_assert_msg(by_y0 && by_p, "%s", ad_tape_error(tape));
    ck_assert_double_eq_tol(ad_item(loss), loss_of(&x), 1e-13);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < WIDTH; i++)
            ck_assert_double_eq_tol(by_y0[r * WIDTH + i], difference(&x, &x.y0[r][i]), 1e-9);
    ck_assert_double_eq_tol(by_p[0], difference(&x, &x.p), 1e-9);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("carried", "carried");
    tcase_add_test(tests, solution_and_gradient);
    return suite_run();
}
