/* Gradients that are not finite are errors that name step, time, row and component: of both
 * adjoints, by initial states, by arguments shared and given per row, and by times; lazy and
 * compiled. A loss whose derivative is not finite is named as such. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3 };

static ad_var root_of_state(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)p, (void)user;
    return ad_sqrt(y);
}

static ad_var root_of_size(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)p, (void)user;
    return ad_sqrt(ad_abs(y));
}

/* The root depends on the argument alone: it is taken before the solve. */
static ad_var root_of_argument(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    return ad_mul(ad_sqrt(p[0]), y);
}

/* ... and here at each evaluation. */
static ad_var root_in_time(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)user;
    return ad_sub(ad_sqrt(ad_add(p[0], ad_scale(t, 0))), y);
}

/* Finite at t0, its derivative is not. */
static ad_var root_of_time(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)p, (void)user;
    return ad_sub(ad_sqrt(t), y);
}

static ad_var explosion(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)t, (void)user;
    return ad_mul(p[0], ad_sub(ad_square(y), y));
}

typedef struct {
    ode_field field;
    double y0[ROWS], p[ROWS], times[2];
    int by;              /* 0: y0, 1: shared argument, 2: argument given per row, 3: times */
    bool bad_loss;       /* the root of 0 */
    const char *says[2]; /* parts of the error */
} singular;

/* The error of the gradient, copied; the tape is freed. */
static void gradient_error(const singular *q, const ode_options *options, bool compiled, char *text,
                           size_t size)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, q->y0),
           times = ad_input(tape, AD_SHAPE(2), q->times), g;
    ad_var p = q->by == 2 ? ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, q->p)
                          : ad_param(tape, AD_SHAPE(1), q->p);
    ad_var y = ode_solve_final(q->field, NULL, y0, 1, &p, times, options);
    ad_var loss = ad_sum_all(q->bad_loss ? ad_sqrt(ad_sub(y, ad_stop_gradient(y))) : y);
    ad_var x = q->by == 0 ? y0 : q->by == 3 ? times : p;
    ad_grad(loss, 1, &x, &g);
    double out[ROWS];
    if (compiled) {
        ad_program *program = ad_compile(3, (ad_var[]){ y0, p, times }, 1, &g);
        ck_assert_msg(program != NULL, "%s", ad_tape_error(tape));
        ad_workspace *w = ad_workspace_new(program, 1);
        ck_assert_int_eq(
            ad_run(program, w, ROWS, (const void *[]){ q->y0, q->p, q->times }, (void *[]){ out }),
            -1);
        snprintf(text, size, "%s", ad_workspace_error(w));
        ad_workspace_free(w);
        ad_program_free(program);
    } else {
        ck_assert_ptr_null(ad_value(g));
        snprintf(text, size, "%s", ad_tape_error(tape));
    }
    ad_tape_free(tape);
}

static const singular cases[] = {
    { root_of_state, { 1, 0, 1 }, { 1 }, { 0, 1 }, 0, false, { "row 1, component 0", "t = " } },
    { root_of_size, { 1, 1, 0 }, { 1 }, { 0, 1 }, 0, false, { "row 2, component 0", "t = " } },
    { root_of_state, { 1, 0, 1 }, { 1 }, { 1, 0.5 }, 0, false, { "row 1, component 0", "t = " } },
    { root_of_argument, { 1, 1, 1 }, { 0 }, { 0, 1 }, 1, false, { "argument 0", "element 0" } },
    { root_in_time, { 1, 1, 1 }, { 0 }, { 0, 1 }, 1, false, { "argument 0", "t = " } },
    { root_in_time,
      { 1, 1, 1 },
      { 1, 1, 0 },
      { 0, 1 },
      2,
      false,
      { "by argument 0, row 2, element 0", "t = " } },
    { root_in_time,
      { 1, 1, 1 },
      { 1 },
      { 0, 1 },
      0,
      true,
      { "the derivative of the loss by the solution is not finite", "t = 1 in row 0" } },
};

static void check_case(const singular *q, const ode_options *options)
{
    char text[1024];
    for (int compiled = 0; compiled < 2; compiled++) {
        gradient_error(q, options, compiled, text, sizeof text);
        for (int i = 0; i < 2; i++)
            ck_assert_msg(strstr(text, q->says[i]) != NULL, "'%s' is not in '%s'", q->says[i],
                          text);
    }
}

START_TEST(test_named)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int k = 0; ode_adjoints()[k]; k++) {
            const ode_adjoint *adjoint = ode_adjoints()[k];
            if (!ode_adjoint_takes(adjoint, &ode_dopri5)) continue;
            check_case(&cases[i], &(ode_options){ .adjoint = adjoint });
            check_case(&cases[i],
                       &(ode_options){ .adjoint = adjoint, .method = &ode_rk4, .steps = 5 });
            check_case(&cases[i], &(ode_options){
                                      .adjoint = adjoint, .method = &ode_bosh3, .rerecord = true });
        }
    }
}
END_TEST

START_TEST(test_times_named)
{
    const singular q = {
        root_of_time, { 1, 1, 1 }, { 1 }, { 0, 1 }, 3, false, { "by times[0]", "step 0" }
    };
    check_case(&q, NULL);
    check_case(&q, &(ode_options){ .method = &ode_rk4, .steps = 5 });
}
END_TEST

/* The step is the one that spoils it: of twelve implicit steps and more, the one that begins where
 * the field's derivative is infinite. */
static ad_var root_at_one(ad_var t, ad_var y, const ad_var *p, void *user)
{
    (void)p, (void)user;
    return ad_sub(ad_sqrt(ad_abs(ad_mul(ad_shift(t, -1), y))), y);
}

START_TEST(test_step_named)
{
    const singular q = {
        root_at_one, { 1, 1, 1 }, { 1 }, { 0, 2 }, 0, false, { "step 6 ", "t = 1 to" }
    };
    check_case(&q, &(ode_options){ .method = &ode_euler, .steps = 12 });
}
END_TEST

/* What grows beyond the type's range is told from a derivative that is infinite by its size before
 * the step. */
START_TEST(test_growth_is_told)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    float start = 1, rate = 100;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &start),
           p = ad_param(tape, AD_SHAPE(1), &rate), g;
    ad_var y = ode_solve_final(explosion, NULL, y0, 1, &p, ode_interval(tape, 0, 1),
                               &(ode_options){ .method = &ode_euler, .steps = 30 });
    ad_grad(ad_sum_all(y), 1, &y0, &g);
    ck_assert_ptr_nonnull(ad_value(g));
    y = ode_solve_final(explosion, NULL, y0, 1, &p, ode_interval(tape, 0, 2),
                        &(ode_options){ .method = &ode_euler, .steps = 90 });
    ad_grad(ad_sum_all(y), 1, &y0, &g);
    ck_assert_ptr_null(ad_value(g));
    const char *size = strstr(ad_tape_error(tape), "by the state at its end it is ");
    ck_assert_msg(size != NULL, "%s", ad_tape_error(tape));
    ck_assert_double_gt(strtod(size + strlen("by the state at its end it is "), NULL), 1e36);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("finite", "gradients");
    tcase_add_test(tests, test_named);
    tcase_add_test(tests, test_times_named);
    tcase_add_test(tests, test_step_named);
    tcase_add_test(tests, test_growth_is_told);
    return suite_run();
}
