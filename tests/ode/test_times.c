/* Times: jumps of the field where times are no numbers of the type, gradients with respect to times
 * of every kind. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static void close_to(const char *what, double value, double right, double tolerance)
{
    ck_assert_msg(fabs(value - right) <= tolerance * fmax(1, fabs(right)),
                  "%s: %.9g, right is %.9g", what, value, right);
}

static ad_var one_row(ad_tape *tape, double y)
{
    return ad_shift(ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, (double[]){ 0 }), y);
}

/* ---- jumps ---- */

/* y' = p y before the jump and -p y after it; user: the jump and whether it belongs to the time
 * before. */
typedef struct {
    double at;
    bool before;
} jump;

static ad_var turning(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const jump *j = user;
    ad_var at = ad_scalar(t.tape, j->at), rate = ad_mul(args[0], y);
    return ad_select(j->before ? ad_le(t, at) : ad_lt(t, at), rate, ad_neg(rate));
}

/* The end and its derivatives by p, y0 and both times. */
static void turn(ad_dtype dtype, jump j, const ode_options *given, double from, double to,
                 double *v)
{
    ad_tape *tape = ad_tape_new(dtype);
    ode_options o = *given;
    if (!o.steps && dtype == AD_F64) o.rtol = 1e-7;
    o.jump_times = &j.at;
    o.njump = 1;
    double p = 1.3;
    ad_var rate = ad_param(tape, AD_SCALAR, &p), y0 = one_row(tape, 2);
    ad_var times = ode_interval(tape, from, to),
           y = ode_solve_final(turning, &j, y0, 1, &rate, times, &o), g[3];
    ad_grad(ad_sum_all(y), 3, (ad_var[]){ rate, y0, times }, g);
    get(y, v);
    for (int i = 0; i < 3; i++) get(g[i], v + 1 + i);
    ad_tape_free(tape);
}

/* In f32 0.6 is rounded up and 0.7 down. */
START_TEST(jump_between_numbers)
{
    for (const ode_method *const *m = ode_methods(); *m; m++)
        for (int i = 0; i < 32; i++) {
            jump j = { i & 1 ? 0.6 : 0.7, i & 2 };
            ode_options o = { .method = *m, .adjoint = i & 4 ? &ode_backsolve : &ode_discrete };
            double from = i & 8 ? 1 : 0, to = 1 - from, v[2][5], sign = i & 8 ? -1 : 1;
            if (i & 16) o.steps = 60;
            else if (!ode_method_adaptive(*m)) continue;
            for (int k = 0; k < 2; k++) turn(k ? AD_F32 : AD_F64, j, &o, from, to, v[k]);
            double shift = sign * (2 * j.at - 1), y = 2 * exp(1.3 * shift);
            bool first = ode_method_order(*m) < 2;
            double most = o.steps ? first ? 0.1 : 0.01 : 2e-3,
                   right[] = { y, shift * y, y / 2, -1.3 * (i & 8 ? -2 : 2) };
            char what[128];
            snprintf(what, sizeof what, "%s, jump %g, case %d", ode_method_name(*m), j.at, i);
            for (int k = 0; k < 3; k++) close_to(what, v[0][k], right[k], most);
            /* The steps are the same in both types. */
            for (int k = 0; k < 5 && o.steps; k++) close_to(what, v[1][k], v[0][k], 1e-4);
            for (int k = 0; k < 3; k++) close_to(what, v[1][k], right[k], most);
        }
}
END_TEST

/* A time of the tape's type that the jump rounds to is the jump: no step is taken between them. */
START_TEST(jump_at_an_output)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    float t[3] = { 0, 0.6f, 1 };
    jump j = { 0.6, _i };
    ode_stats stats = { 0 };
    ode_options o = {
        .method = &ode_rk4, .steps = 5, .jump_times = &j.at, .njump = 1, .stats = &stats
    };
    ad_var rate = ad_fill(tape, AD_SCALAR, 1.3);
    double y[3];
    get(ode_solve(turning, &j, one_row(tape, 2), 1, &rate, ad_input(tape, AD_SHAPE(3), t), &o), y);
    ck_assert_int_eq(stats.steps, 10);
    close_to("at the jump", y[1], 2 * exp(1.3 * 0.6), 1e-4);
    close_to("at the end", y[2], 2 * exp(1.3 * 0.2), 1e-4);
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* ---- times of the clock ---- */

/* user: the start. y' = cos(t - start), or a field that does not read the time. */
static ad_var by_the_clock(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args, (void)y;
    return ad_cos(ad_shift(t, -*(double *)user));
}

static ad_var resting(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_neg(y);
}

/* A start, a length, whether the type can tell the times of a solve apart. At 1.7e9 floats are 128
 * apart, at 1e16 doubles 2. */
static const struct {
    ad_dtype dtype;
    double start, length;
    bool good;
} clocks[] = { { AD_F32, 1.7e9, 10, false },  { AD_F32, 1.7e9, -10, false },
               { AD_F32, 1.7e9, 1e4, false }, { AD_F64, 1.7e9, 10, true },
               { AD_F64, 1e16, 10, false },   { AD_F64, -1e16, 10, false },
               { AD_F32, 100, 10, true },     { AD_F32, 0, 10, true },
               { AD_F32, 1000, 10, true } };

START_TEST(clock_times)
{
    double start = clocks[_i].start, end = start + clocks[_i].length;
    for (const ode_method *const *m = ode_methods(); *m; m++)
        for (int i = 0; i < 4; i++) {
            if (i & 1 && !ode_method_adaptive(*m)) continue;
            ad_tape *tape = ad_tape_new(clocks[_i].dtype);
            ode_options o = { .method = *m, .adjoint = i & 2 ? &ode_backsolve : &ode_discrete };
            if (!(i & 1)) o.steps = fabs(clocks[_i].length) > 10 ? 200 : 5;
            ad_var y0 = one_row(tape, 0), y = ode_solve_final(by_the_clock, &start, y0, 0, NULL,
                                                              ode_interval(tape, start, end), &o);
            bool good = ad_value(y);
            const char *error = ad_tape_error(tape);
            ck_assert_msg(good == clocks[_i].good, "%s, case %d: %s", ode_method_name(*m), i,
                          good ? "no error" : error);
            bool told = good || strstr(error, "count time from the start") ||
                        strstr(error, "shift the origin of time") ||
                        strstr(error, "are not equal"); /* (steps of nystroem2) */
            ck_assert_msg(told, "%s: %s", ode_method_name(*m), error ? error : "no error");
            if (good && i & 1)
                close_to(ode_method_name(*m), ad_item(y), sin(clocks[_i].length),
                         clocks[_i].dtype == AD_F32 ? 1e-2 : 1e-4);
            ad_tape_free(tape);
        }
}
END_TEST

/* A field that does not read the time does not mind. */
START_TEST(clock_is_not_read)
{
    for (const ode_method *const *m = ode_methods(); *m; m++) {
        ad_tape *tape = ad_tape_new(AD_F32);
        ode_options o = { .method = *m };
        if (!ode_method_adaptive(*m)) o.steps = 200;
        ad_var y0 = one_row(tape, 1), g,
               y = ode_solve_final(resting, NULL, y0, 0, NULL, ode_interval(tape, 1.7e9, 1.7e9 + 2),
                                   &o);
        ad_grad(ad_sum_all(y), 1, &y0, &g);
        double v;
        get(y, &v);
        close_to(ode_method_name(*m), v, exp(-2), 1e-2);
        get(g, &v);
        close_to(ode_method_name(*m), v, exp(-2), 1e-2);
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- gradients with respect to times ---- */

static ad_var growing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_scale(y, 0.5);
}

static ad_var no_cost(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return y;
}

static void growing_states(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                           ad_var *dy)
{
    (void)nstate;
    dy[0] = growing(t, y[0], args, user);
}

enum { FORMS = 5 };
static ad_var end_of(int form, ad_var y0, ad_var times, const ode_options *o)
{
    ad_var y, unused;
    if (form == 0) return ode_solve_final(growing, NULL, y0, 0, NULL, times, o);
    if (form == 3) return ode_flow(growing, NULL, y0, 0, NULL, times, o, &unused);
    if (form == 1) y = ode_solve(growing, NULL, y0, 0, NULL, times, o);
    else if (form == 2) ode_solve_states(growing_states, NULL, 1, &y0, 0, NULL, times, o, &y);
    else y = ode_solve_cost(growing, no_cost, NULL, y0, 0, NULL, times, o, &unused);
    int64_t last = ad_shape_of(times).dim[0] - 1;
    return ad_slice(y, 1, last, last + 1);
}

/* y' = y/2 from 1 at 0: y(1) moves with the times by -+ e^(1/2) / 2, whatever made them. */
START_TEST(constant_times)
{
    double middle[3] = { 0, 0.3, 1 }, one = 1;
    float single_one = 1;
    for (int i = 0; i < FORMS * 3 * 2 * 2 * 2; i++) {
        int form = i % FORMS, kind = i / FORMS % 3;
        ad_dtype dtype = i / FORMS / 3 % 2 ? AD_F32 : AD_F64;
        ode_options o = { .adjoint = i / FORMS / 6 % 2 ? &ode_backsolve : &ode_discrete };
        ad_tape *tape = ad_tape_new(dtype);
        ad_var times = kind == 0   ? ode_interval(tape, 0, 1)
                       : kind == 1 ? ode_linspace(tape, 0, 1, 4)
                                   : ad_constant(tape, AD_SHAPE(3), middle);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one), g;
        ad_var loss = ad_sum_all(end_of(form, y0, times, &o));
        int64_t n = ad_shape_of(times).dim[0];
        double v[4];
        float single[4];
        ad_grad(loss, 1, &times, &g);
        if (i / FORMS / 12) { /* compiled */
            ad_program *program = ad_compile(1, &y0, 1, &g);
            ck_assert_msg(program, "%s", ad_tape_error(tape) ? ad_tape_error(tape) : "");
            ad_workspace *w = ad_workspace_new(program, 1);
            ck_assert_msg(!ad_run(program, w, 1,
                                  (const void *[]){ dtype == AD_F32 ? (void *)&single_one : &one },
                                  (void *[]){ dtype == AD_F32 ? (void *)single : v }),
                          "%s", ad_workspace_error(w));
            for (int k = 0; k < n && dtype == AD_F32; k++) v[k] = single[k];
            ad_workspace_free(w);
            ad_program_free(program);
        } else get(g, v);
        close_to("first", v[0], -0.824360635350064, dtype == AD_F32 ? 1e-3 : 1e-5);
        for (int k = 1; k + 1 < n; k++) close_to("between", v[k], 0, dtype == AD_F32 ? 1e-3 : 1e-5);
        close_to("last", v[n - 1], 0.824360635350064, dtype == AD_F32 ? 1e-3 : 1e-5);
        ad_tape_free(tape);
    }
}
END_TEST

/* Constant times keep their double precision in f32: 2^24 and 2^24 + 1 are the same float. */
START_TEST(constants_stay_double)
{
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var times = ode_interval(tape, 16777216, 16777217), g;
    ad_var y = ode_solve_final(growing, NULL, one_row(tape, 1), 0, NULL, times, NULL);
    ad_grad(ad_sum_all(y), 1, &times, &g);
    double v[2];
    get(y, v);
    close_to("end", v[0], exp(0.5), 1e-3);
    get(g, v);
    close_to("by the end", v[1], 0.5 * exp(0.5), 1e-3);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("times", "times");
    tcase_add_test(c, jump_between_numbers);
    tcase_add_loop_test(c, jump_at_an_output, 0, 2);
    tcase_add_loop_test(c, clock_times, 0, sizeof clocks / sizeof *clocks);
    tcase_add_test(c, clock_is_not_read);
    tcase_add_test(c, constant_times);
    tcase_add_test(c, constants_stay_double);
    return suite_run();
}
