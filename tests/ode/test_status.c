/* How a solve ends, as a program can test it; what becomes of a field outside its domain; the
 * callback for accepted steps. */
#include "autodiff/extension.h"
#include "ode/ode.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void has(const char *error, const char *part)
{
    ck_assert_msg(error && strstr(error, part), "'%s' is not in '%s'", part,
                  error ? error : "no error");
}

/* Solves one row of one component, to the last time; stats and the error (NULL: none) are left. */
static char error_text[2048];
static const char *error;
static double solve(ode_field field, void *user, double y0, double t0, double t1,
                    const ode_options *options, ode_stats *stats)
{
    ode_options o = *options;
    o.stats = stats;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &y0);
    double value =
        ad_item(ode_solve_final(field, user, y, 0, NULL, ode_interval(tape, t0, t1), &o));
    error = NULL;
    if (ad_tape_error(tape)) {
        strcpy(error_text, ad_tape_error(tape));
        error = error_text;
    }
    ad_tape_free(tape);
    return value;
}

static ad_var decay(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    return ad_scale(y, user ? -*(double *)user : -1);
}

/* y' = 2 t, which reads the time. */
static ad_var clock_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    (void)user;
    return ad_add(ad_scale(y, 0), ad_scale(t, 2));
}

/* y' = y^2 from 1: infinite at t = 1. */
static ad_var blow_up(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    (void)user;
    return ad_square(y);
}

/* ---- statuses ---- */

START_TEST(statuses)
{
    ode_stats s = { 0 };
    double fast = 1e6;
    solve(decay, NULL, 1, 0, 2, &(ode_options){ 0 }, &s);
    ck_assert_ptr_null(error);
    ck_assert_int_eq(s.status, ODE_DONE);
    ck_assert_double_eq(s.reached, 2);
    solve(decay, NULL, 1, 2, -1, &(ode_options){ .step = 0.1 }, &s);
    ck_assert_int_eq(s.status, ODE_DONE);
    ck_assert_double_eq(s.reached, -1);
    solve(decay, NULL, NAN, 0, 2, &(ode_options){ 0 }, &s);
    ck_assert_int_eq(s.status, ODE_NOT_FINITE);
    ck_assert_double_eq(s.reached, 0);
    ck_assert_int_eq(s.steps, 0);
    solve(decay, NULL, 1, 0, 2, &(ode_options){ .max_steps = 4 }, &s);
    ck_assert_int_eq(s.status, ODE_TOO_MANY_STEPS);
    ck_assert(s.reached > 0 && s.reached < 2);
    ck_assert_double_eq(s.reached, ode_steps_times(s.steps_taken)[s.steps]);
    solve(decay, NULL, 1, 0, 2, &(ode_options){ .min_step = 1, .rtol = 1e-12 }, &s);
    ck_assert_int_eq(s.status, ODE_STEP_TOO_SMALL);
    has(error, "min_step");
    solve(blow_up, NULL, 1, 0, 2, &(ode_options){ 0 }, &s);
    ck_assert(s.status == ODE_STEP_TOO_SMALL || s.status == ODE_NOT_FINITE);
    ck_assert(s.reached > 0.999 && s.reached < 1.001);
    solve(blow_up, NULL, 1, 0, 20, &(ode_options){ .step = 0.1 }, &s);
    ck_assert_int_eq(s.status, ODE_NOT_FINITE);
    ck_assert(s.reached > 0.9 && s.reached < 5);
    ode_options ringing = { .method = &ode_trapezoidal, .step = 0.1 };
    solve(decay, &fast, 1, 0, 0.2, &ringing, &s);
    ck_assert_int_eq(s.status, ODE_RINGING);
    ck_assert_double_eq_tol(s.reached, 0.1, 1e-15);
    ode_options short_of = { .method = &ode_implicit_euler, .step = 0.5, .newton_iterations = 1 };
    solve(blow_up, NULL, 1, 0, 1, &short_of, &s);
    ck_assert_int_eq(s.status, ODE_NEWTON);
    ck_assert_double_eq(s.reached, 0);
    has(error, "Newton's method");
    ode_stats_clear(&s);
    ck_assert_int_eq(s.status, ODE_DONE);
}
END_TEST

START_TEST(names)
{
    for (int i = 0; i < ODE_STATUSES; i++)
        for (int j = 0; j < i; j++)
            ck_assert_str_ne(ode_status_name((ode_status)i), ode_status_name((ode_status)j));
    ck_assert_str_eq(ode_status_name(ODE_STEP_TOO_SMALL), "step too small");
    ck_assert_str_eq(ode_status_name(ODE_STATUSES), "no such status");
    ck_assert_str_eq(ode_status_name((ode_status)-1), "no such status");
}
END_TEST

/* ---- outside the domain ---- */

/* The square root of each element, of non-negative operands. */
static int root(void *data, void *state, const ad_opaque_call *call)
{
    (void)data;
    (void)state;
    const double *x = call->in[0];
    double *out = call->out[0];
    for (int64_t i = 0; i < ad_count(call->in_shape[0], 1); i++) {
        if (x[i] < 0) {
            snprintf(call->error, call->error_size, "operand %g is negative", x[i]);
            return 1;
        }
        out[i] = sqrt(x[i]);
    }
    return 0;
}
static const ad_opaque_class root_class = { .name = "root", .forward = root };

/* y' = -sqrt(y), of y = (1 - t / 2)^2 from 1, which leaves the domain where it goes on after 2. */
static ad_var outflow(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)args;
    (void)user;
    ad_var r;
    ad_opaque(y.tape, &root_class, NULL, 1, &y, 1, (ad_shape[]){ ad_shape_of(y) }, &r);
    return ad_neg(r);
}

/* The same with y' = -1 - sqrt(y): it arrives at zero and cannot stay. With r = sqrt(y):
 * t = 2 (1 - r) - 2 log(2 / (1 + r)), 2 - 2 log 2 at zero. */
static ad_var sink(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_shift(outflow(t, y, args, user), -1);
}

START_TEST(smaller_steps_stay_inside)
{
    for (int i = 0; ode_methods()[i]; i++) {
        const ode_method *m = ode_methods()[i];
        /* Implicit steps would need the derivative of `root`. */
        if (!ode_method_adaptive(m) || method_implicit(m)) continue;
        /* A first step that goes outside at once. */
        ode_stats s = { 0 };
        ode_options o = {
            .method = m, .adjoint = &ode_backsolve, .first_step = 50, .rtol = 1e-6, .atol = 1e-9
        };
        double y = solve(outflow, NULL, 1, 0, 1.9, &o, &s), right = pow(1 - 1.9 / 2, 2);
        ck_assert_msg(!error, "%s: %s", ode_method_name(m), error);
        ck_assert_msg(fabs(y - right) < 1e-5, "%s: %g, not %g", ode_method_name(m), y, right);
        ck_assert_int_gt(s.rejected, 0);
        ck_assert_int_eq(s.status, ODE_DONE);
        ode_stats_clear(&s);
    }
}
END_TEST

/* The look that the first step's size comes from goes outside, and so do the first attempts. */
START_TEST(a_look_outside_is_no_failure)
{
    ode_stats s = { 0 };
    ode_options o = { .adjoint = &ode_backsolve, .rtol = 1e-6, .atol = 1e-6 };
    double y = solve(outflow, NULL, 1e-12, 0, 1.9e-6, &o, &s);
    ck_assert_ptr_null(error);
    ck_assert_double_eq_tol(y, pow(1e-6 - 0.95e-6, 2), 1e-12);
    ck_assert_int_eq(s.status, ODE_DONE);
    ck_assert_double_eq(s.reached, 1.9e-6);
    ode_stats_clear(&s);
}
END_TEST

START_TEST(the_end_of_the_domain)
{
    ode_stats s = { 0 };
    const double end = 2 - 2 * log(2);
    solve(sink, NULL, 1, 0, 3, &(ode_options){ .adjoint = &ode_backsolve }, &s);
    has(error, "root: operand -");
    has(error, "is negative");
    has(error, "leaves the field's domain");
    ck_assert_int_eq(s.status, ODE_OUTSIDE_DOMAIN);
    ck_assert_double_eq_tol(s.reached, end, 1e-6);
    solve(sink, NULL, 1, 0, 3, &(ode_options){ .method = &ode_rk4, .step = 0.1 }, &s);
    has(error, "root: operand -");
    ck_assert_int_eq(s.status, ODE_OUTSIDE_DOMAIN);
    ck_assert(fabs(s.reached - end) < 0.11);
    solve(sink, NULL, -1, 0, 3, &(ode_options){ 0 }, &s);
    has(error, "at t = 0: root: operand -1 is negative");
    ck_assert_int_eq(s.status, ODE_OUTSIDE_DOMAIN);
    ck_assert_double_eq(s.reached, 0);
    ode_stats_clear(&s);
}
END_TEST

/* ---- the callback ---- */

enum { MOST = 1000 };
typedef struct {
    int64_t count, stop_after; /* stop_after: 0: never */
    double t[MOST], size[MOST], error[MOST], y[MOST][3];
    int64_t number[MOST];
} log_of_steps;

static bool note(const ode_accepted_step *step, void *user)
{
    log_of_steps *l = user;
    ck_assert_int_lt(l->count, MOST);
    ck_assert_int_eq(step->dtype, AD_F64);
    ck_assert_int_eq(step->nstate, 1);
    ck_assert_int_eq(step->shape[0].rank, 2);
    ck_assert_int_eq(step->shape[0].dim[0], AD_ROWS);
    ck_assert_int_eq(step->shape[0].dim[1], 1);
    for (int64_t r = 0; r < step->rows && r < 3; r++)
        l->y[l->count][r] = ((const double *)step->y[0])[r];
    l->t[l->count] = step->t;
    l->size[l->count] = step->size;
    l->error[l->count] = step->error;
    l->number[l->count++] = step->number;
    return l->count != l->stop_after;
}

static log_of_steps seen;

START_TEST(every_accepted_step)
{
    for (int backwards = 0; backwards < 2; backwards++)
        for (int fixed = 0; fixed < 2; fixed++) {
            ode_stats s = { 0 };
            seen.count = 0;
            ode_options o = { .on_step = note, .on_step_user = &seen, .stats = &s };
            if (fixed) o.step = 0.3;
            double end = backwards ? -2 : 2;
            ad_tape *tape = ad_tape_new(AD_F64);
            ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, (double[]){ 1, 2, 3 });
            ad_var y = ode_solve_final(decay, NULL, y0, 0, NULL, ode_interval(tape, 0, end), &o);
            const double *value = ad_value(y);
            const double *t = ode_steps_times(s.steps_taken);
            ck_assert_ptr_nonnull(value);
            ck_assert_int_eq(seen.count, s.steps);
            for (int64_t k = 0; k < s.steps; k++) {
                ck_assert_int_eq(seen.number[k], k);
                ck_assert_double_eq(seen.t[k], t[k + 1]);
                ck_assert_double_eq(seen.size[k], t[k + 1] - t[k]);
                ck_assert(fixed ? seen.error[k] == 0 : seen.error[k] <= 1 && seen.error[k] >= 0);
                for (int r = 0; r < 3; r++)
                    ck_assert_double_eq_tol(seen.y[k][r], (r + 1) * exp(-t[k + 1]), 1e-4);
            }
            ck_assert(!memcmp(seen.y[s.steps - 1], value, 3 * sizeof *value));
            /* The gradient takes no further steps of the solve. */
            int64_t count = seen.count;
            ad_var g;
            ad_grad(ad_sum_all(y), 1, &y0, &g);
            const double *gradient = ad_value(g);
            ck_assert_ptr_nonnull(gradient);
            ck_assert_double_eq_tol(gradient[0], exp(-end), 1e-4);
            ck_assert_int_eq(seen.count, count);
            ad_tape_free(tape);
            ode_stats_clear(&s);
        }
}
END_TEST

START_TEST(stopping)
{
    ode_stats s = { 0 };
    seen = (log_of_steps){ .stop_after = 3 };
    ode_options o = { .on_step = note, .on_step_user = &seen, .step = 0.5 };
    solve(decay, NULL, 1, 0, 5, &o, &s);
    has(error, "options.on_step stopped the solve at t = 1.5, after step 2");
    ck_assert_int_eq(s.status, ODE_STOPPED);
    ck_assert_double_eq(s.reached, 1.5);
    ck_assert_int_eq(s.steps, 3);
    /* After the last step there is nothing to stop. */
    seen = (log_of_steps){ .stop_after = 10 };
    solve(decay, NULL, 1, 0, 5, &o, &s);
    ck_assert_ptr_null(error);
    ck_assert_int_eq(s.status, ODE_DONE);
    ck_assert_int_eq(seen.count, 10);
    ode_stats_clear(&s);
}
END_TEST

/* What a compiled program runs again is reported again; steps that a check of the gradient divides
 * are those of the divided solve alone. */
START_TEST(programs_and_refinement)
{
    ode_stats s = { 0 };
    seen = (log_of_steps){ 0 };
    ode_options o = { .on_step = note, .on_step_user = &seen, .step = 0.5, .stats = &s };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL);
    ad_var y = ode_solve_final(clock_field, NULL, y0, 0, NULL, ode_interval(tape, 0, 2), &o);
    ad_program *p = ad_compile(1, &y0, 1, &y);
    ad_workspace *w = ad_workspace_new(p, 1);
    double start = 1, end = 0;
    for (int refine = 0; refine < 2; refine++)
        for (int again = 0; again < 2; again++) {
            seen.count = 0;
            ad_run_args a = { .rows = 1,
                              .inputs = (const void *[]){ &start },
                              .outputs = (void *[]){ &end },
                              .refine = refine };
            ck_assert_int_eq(ad_run_with(p, w, &a), 0);
            ck_assert_double_eq_tol(end, 5, 1e-12);
            ck_assert_int_eq(seen.count, refine ? 8 : 4);
            ck_assert_int_eq(s.steps, seen.count);
        }
    ad_workspace_free(w);
    ad_program_free(p);
    ad_tape_free(tape);
    ode_stats_clear(&s);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("status", "status");
    tcase_add_test(tests, statuses);
    tcase_add_test(tests, names);
    tcase_add_test(tests, smaller_steps_stay_inside);
    tcase_add_test(tests, a_look_outside_is_no_failure);
    tcase_add_test(tests, the_end_of_the_domain);
    tcase_add_test(tests, every_accepted_step);
    tcase_add_test(tests, stopping);
    tcase_add_test(tests, programs_and_refinement);
    return suite_run();
}
