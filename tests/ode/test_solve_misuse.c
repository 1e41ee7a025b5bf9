/* Every public function of ode/ called with nothing, or with what is not meant for it: an error on
 * the tape that names the function and what is wrong, never a crash. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

typedef struct {
    ad_tape *tape, *other;
    ad_var y0, wide, p, times, nothing, stale, foreign; /* foreign: on the other tape */
    ad_var y[9];                                        /* as many as the wrongest call says */
} scene;

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}

static ad_var nothing_returned(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)y, (void)args, (void)user;
    return (ad_var){ 0 };
}

static ad_var invalid_returned(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    ad_var z = ad_neg(y);
    z.node = -1;
    return z;
}

static ad_var captured(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args;
    return ad_mul(y, *(ad_var *)user);
}

static ad_var foreign_knots(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    return ad_sub(ode_interpolate(ODE_LINEAR, t, *(ad_var *)user, *(ad_var *)user), y);
}

static void nothing_written(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                            ad_var *dy)
{
    (void)t, (void)nstate, (void)y, (void)args, (void)user, (void)dy;
}

static ad_var solve(scene *s, ode_field field, void *user)
{
    return ode_solve_final(field, user, s->y0, 0, NULL, s->times, NULL);
}

static ad_var times_of(scene *s, int64_t n, const double *t)
{
    return ode_solve(decay, NULL, s->y0, 0, NULL, ad_constant(s->tape, AD_SHAPE(n), t), NULL);
}

static ad_var states(scene *s, int nstate, const ad_var *y0, ad_var *out)
{
    return (ad_var){
        s->tape, ode_solve_states(nothing_written, NULL, nstate, y0, 0, NULL, s->times, NULL, out),
        0
    };
}

static ad_var cost(scene *s, ode_field field, ode_field rate, ad_var *q)
{
    return ode_solve_cost(field, rate, NULL, s->y0, 0, NULL, s->times, NULL, q);
}

static ad_var density(scene *s, const ode_cnf *flow)
{
    return ode_cnf_log_density(flow, s->wide, 0, NULL);
}

/* Each case on a new scene; NULL: no more of them. What the error must say. */
static const char *misuse(int i, scene *s, ad_var *result)
{
    const ad_var two[2] = { s->y0, s->foreign }, none[2] = { s->y0, s->nothing };
    ode_cnf flow = { .horizon = 1 }, still = { .field = decay };
    switch (i) {
    case 0: *result = solve(s, NULL, NULL); return "ode_solve_final: the field is NULL";
    case 1:
        *result = ode_solve(decay, NULL, s->nothing, 0, NULL, s->times, NULL);
        return "ode_solve: y0 of state 0 is empty";
    case 2:
        *result = ode_solve(decay, NULL, s->stale, 0, NULL, s->times, NULL);
        return "ode_solve: y0 of state 0 is not a valid variable";
    case 3:
        *result = ode_solve(decay, NULL, s->y0, 2, NULL, s->times, NULL);
        return "ode_solve: args is NULL";
    case 4:
        *result = ode_solve(decay, NULL, s->y0, -1, &s->p, s->times, NULL);
        return "ode_solve: -1 arguments";
    case 5:
        *result = ode_solve(decay, NULL, s->y0, 65, &s->p, s->times, NULL);
        return "ode_solve: 65 arguments";
    case 6:
        *result = ode_solve(decay, NULL, s->y0, 1, &s->foreign, s->times, NULL);
        return "argument 0 is on another tape";
    case 7:
        *result = ode_solve(decay, NULL, s->y0, 1, &s->nothing, s->times, NULL);
        return "argument 0 is empty ({0})";
    case 8:
        *result = ode_solve(decay, NULL, s->y0, 0, NULL, s->nothing, NULL);
        return "times are not a valid variable";
    case 9:
        *result = ode_solve(decay, NULL, s->y0, 0, NULL, ode_interval(s->other, 0, 1), NULL);
        return "times are not a valid variable";
    case 10:
        *result = ode_solve(decay, NULL, s->p, 0, NULL, s->times, NULL);
        return "has no row axis";
    case 11:
        *result = times_of(s, 3, (double[]){ 0, 1, NAN });
        return "times[2] is nan; times must be finite";
    case 12:
        *result = times_of(s, 3, (double[]){ 0, 1, INFINITY });
        return "times[2] is inf; times must be finite";
    case 13:
        *result = times_of(s, 3, (double[]){ 0, 1, 0.5 });
        return "strictly increasing or decreasing";
    case 14: *result = times_of(s, 1, (double[]){ 0 }); return "at least two times";
    case 15: *result = states(s, 0, &s->y0, s->y); return "0 states; there may be 1 to 8";
    case 16: *result = states(s, -3, &s->y0, s->y); return "-3 states; there may be 1 to 8";
    case 17: *result = states(s, 9, &s->y0, s->y); return "9 states; there may be 1 to 8";
    case 18: *result = states(s, 1, NULL, s->y); return "ode_solve_states: y0 is NULL";
    case 19:
        *result = states(s, 1, &s->y0, NULL);
        return "ode_solve_states: y, for the results, is NULL";
    case 20: *result = states(s, 2, two, s->y); return "y0 of state 1 is on another tape";
    case 21: *result = states(s, 2, none, s->y); return "y0 of state 1 is empty";
    case 22:
        *result = states(s, 1, &s->y0, s->y);
        return "it returned no valid variable for state 0";
    case 23: *result = cost(s, NULL, decay, s->y); return "ode_solve_cost: the field is NULL";
    case 24: *result = cost(s, decay, NULL, s->y); return "ode_solve_cost: the cost is NULL";
    case 25: *result = cost(s, decay, decay, NULL); return "ode_solve_cost: q is NULL";
    case 26:
        *result = ode_flow(NULL, NULL, s->wide, 0, NULL, s->times, NULL, s->y);
        return "ode_flow: the field is NULL";
    case 27:
        *result = ode_flow(decay, NULL, s->wide, 0, NULL, s->times, NULL, NULL);
        return "ode_flow: logdet is NULL";
    case 28: *result = density(s, &flow); return "ode_cnf_log_density: the flow's field is NULL";
    case 29: *result = density(s, NULL); return "ode_cnf_log_density: the flow is NULL";
    case 30: *result = density(s, &still); return "the horizon is 0";
    case 31:
        *result = ode_cnf_sample(NULL, s->wide, 0, NULL);
        return "ode_cnf_sample: the flow is NULL";
    case 32:
        *result = ode_cnf_encode(&flow, s->wide, 0, NULL);
        return "ode_cnf_encode: the flow's field is NULL";
    case 33:
        *result = ode_cnf_sample(&(ode_cnf){ .field = decay, .horizon = 1 }, s->wide, 3, NULL);
        return "ode_cnf_sample: args is NULL";
    case 34:
        *result = ode_normal_log_density(s->p);
        return "ode_normal_log_density: points have shape";
    case 35:
        *result = solve(s, nothing_returned, NULL);
        return "in the field: it returned an empty variable ({0}) for state 0";
    case 36:
        *result = solve(s, invalid_returned, NULL);
        return "in the field: it returned no valid variable for state 0";
    case 37: *result = solve(s, captured, &s->p); return "outside variables";
    case 38: *result = solve(s, captured, &s->nothing); return "in the field";
    case 39:
        *result = solve(s, foreign_knots, &s->times);
        return "pass outside variables through args";
    case 40:
        *result = ode_interpolate(ODE_LINEAR, s->nothing, s->times, s->p);
        return "variables of one tape";
    case 41:
        *result = ode_interpolate(ODE_LINEAR, s->p, s->nothing, s->p);
        return "variables of one tape";
    case 42:
        *result = ode_interpolate((ode_interpolation)7, s->p, s->times,
                                  ad_reshape(s->times, AD_SHAPE(2, 1)));
        return "kind 7";
    case 43: *result = ode_linspace(s->tape, 0, 1, 1); return "ode_linspace: n is 1";
    case 44: *result = ode_linspace(s->tape, 0, 1, -7); return "ode_linspace: n is -7";
    case 45:
        *result = ode_solve(decay, NULL, s->y0, 0, NULL, s->times, &(ode_options){ .njump = 2 });
        return "njump is 2 with jump_times NULL";
    case 46:
        *result = ode_flow(nothing_returned, NULL, s->wide, 0, NULL, s->times, NULL, s->y);
        return "it returned an empty variable ({0})";
    default: return NULL;
    }
}

static scene make_scene(void)
{
    scene s = { .tape = ad_tape_new(AD_F64), .other = ad_tape_new(AD_F64) };
    s.y0 = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    s.wide = ad_input_rows(s.tape, AD_SHAPE(AD_ROWS, 2), 1, (double[]){ 1, 2 });
    s.p = ad_param(s.tape, AD_SHAPE(1), (double[]){ 1 });
    s.times = ode_interval(s.tape, 0, 1);
    s.foreign = ad_input_rows(s.other, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 1 });
    int32_t mark = ad_tape_mark(s.tape);
    s.stale = ad_neg(s.y0);
    ad_tape_rewind(s.tape, mark);
    return s;
}

START_TEST(test_errors_that_say_what)
{
    const char *says = "";
    for (int i = 0; says; i++) {
        scene s = make_scene();
        ad_var result = { 0 };
        says = misuse(i, &s, &result);
        const char *error = ad_tape_error(s.tape);
        if (says) {
            ck_assert_msg(error && strstr(error, says), "case %d: '%s' is not in '%s'", i, says,
                          error ? error : "no error");
            ck_assert_msg(!ad_valid(result), "case %d", i);
        }
        ad_tape_free(s.tape);
        ad_tape_free(s.other);
    }
}
END_TEST

/* Where there is no tape to put an error on, there is still no crash. */
START_TEST(test_nothing_at_all)
{
    ad_var none = { 0 }, out[2];
    ck_assert(!ad_valid(ode_solve(NULL, NULL, none, 0, NULL, none, NULL)));
    ck_assert(!ad_valid(ode_solve_final(decay, NULL, none, 3, NULL, none, NULL)));
    ck_assert_int_eq(ode_solve_states(NULL, NULL, 2, NULL, 0, NULL, none, NULL, NULL), -1);
    ck_assert(!ad_valid(ode_solve_cost(NULL, NULL, NULL, none, 0, NULL, none, NULL, NULL)));
    ck_assert(!ad_valid(ode_flow(NULL, NULL, none, 0, NULL, none, NULL, out)));
    ck_assert(!ad_valid(ode_cnf_log_density(NULL, none, 0, NULL)));
    ck_assert(!ad_valid(ode_cnf_sample(&(ode_cnf){ .field = decay, .horizon = 1 }, none, 0, NULL)));
    ck_assert(!ad_valid(ode_cnf_encode(NULL, none, 0, NULL)));
    ck_assert(!ad_valid(ode_normal_log_density(none)));
    ck_assert(!ad_valid(ode_interpolate(ODE_CUBIC, none, none, none)));
    ck_assert(!ad_valid(ode_interval(NULL, 0, 1)) && !ad_valid(ode_linspace(NULL, 0, 1, 5)));
    ck_assert_ptr_nonnull(ode_method_name(NULL));
    ck_assert_ptr_nonnull(ode_method_about(NULL));
    ck_assert(ode_method_order(NULL) == 0 && !ode_method_adaptive(NULL));
    ck_assert_ptr_null(ode_method_find(NULL));
    ck_assert(ode_steps_count(NULL) == 0 && !ode_steps_times(NULL));
    ode_steps_free(NULL);
    ode_stats_clear(NULL);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("solve misuse", "calls");
    tcase_add_test(tests, test_errors_that_say_what);
    tcase_add_test(tests, test_nothing_at_all);
    return suite_run();
}
