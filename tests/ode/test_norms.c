/* Error norms: what they mean is measured on a step whose error is known, that a user's own is a
 * recorded function and no pointer, what is refused. */
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

/* y' = c y^0 t: component i of row r moves by c = args[0], whatever the state. Heun's step is exact
 * for it, and its estimate (against Euler's) is c h^2 / 2. */
static ad_var ramp(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_add(ad_scale(y, 0), ad_mul(t, args[0]));
}

enum { ROWS = 3, WIDTH = 2 };
static const double slopes[ROWS * WIDTH] = { 1, 0, -2, 3, 0.5, 8 };

typedef struct {
    double error; /* of the only step, as on_step sees it */
    int calls;    /* of the user's norm */
} seen;

static bool note(const ode_accepted_step *step, void *user)
{
    ((seen *)user)->error = step->error;
    return true;
}

/* One step of size 1 with atol 1000, and what error it is said to have; NaN and the tape's error
 * after a failure. */
static double error_of_step(ad_tape *tape, const ode_options *options)
{
    static const double zeros[ROWS * WIDTH];
    seen s = { .error = NAN };
    ode_options o = *options;
    if (!o.method) o.method = &ode_heun;
    o.adjoint = &ode_backsolve;
    o.first_step = 1;
    if (!o.natol) o.atol = 1000;
    o.on_step = note;
    o.on_step_user = &s;
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDTH), ROWS, zeros);
    ad_var c = ad_input_rows(tape, AD_SHAPE(AD_ROWS, WIDTH), ROWS, slopes);
    ad_value(ode_solve_final(ramp, NULL, y, 1, &c, ode_interval(tape, 0, 1), &o));
    return s.error;
}

static ad_var mean_of_sizes(ad_tape *tape, int nstate, const ad_var *scaled, void *user)
{
    (void)tape;
    ck_assert_int_eq(nstate, 1);
    if (user) ((seen *)user)->calls++;
    return ad_mean_all(ad_abs(scaled[0]));
}

START_TEST(what_they_are)
{
    double squares = 0, largest = 0, sum = 0;
    for (int i = 0; i < ROWS * WIDTH; i++) {
        double scaled = fabs(slopes[i]) / 2 / 1000;
        squares += scaled * scaled;
        sum += scaled;
        largest = fmax(largest, scaled);
    }
    const ode_error_norm mean = { .name = "mean", .record = mean_of_sizes };
    const struct {
        const ode_error_norm *norm;
        double right;
    } cases[] = { { NULL, sqrt(squares / (ROWS * WIDTH)) },
                  { &ode_norm_rms, sqrt(squares / (ROWS * WIDTH)) },
                  { &ode_norm_max, largest },
                  { &mean, sum / (ROWS * WIDTH) } };
    for (int f32 = 0; f32 < 2; f32++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int rerecord = 0; rerecord < 2; rerecord++) {
                ad_tape *tape = ad_tape_new(f32 ? AD_F32 : AD_F64);
                double error = error_of_step(
                    tape, &(ode_options){ .norm = cases[i].norm, .rerecord = rerecord });
                ck_assert_msg(fabs(error - cases[i].right) < (f32 ? 1e-6 : 1e-13) * cases[i].right,
                              "norm %zu: %.12g, not %.12g (%s)", i, error, cases[i].right,
                              ad_tape_error(tape) ? ad_tape_error(tape) : "");
                ad_tape_free(tape);
            }
}
END_TEST

START_TEST(with_tolerances_of_each)
{
    const double each[WIDTH] = { 1000, 4000 };
    ad_tape *tape = ad_tape_new(AD_F64);
    double error = error_of_step(
        tape, &(ode_options){ .norm = &ode_norm_max, .atol_each = each, .natol = WIDTH });
    ck_assert_double_eq_tol(error, 1e-3, 1e-15); /* -2 / 2 / 1000; 8 / 2 / 4000 is as much */
    ad_tape_free(tape);
}
END_TEST

/* Every method has a right solution with the largest error as its norm, and takes more steps. */
static ad_var decays(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    return ad_neg(ad_mul(y, args[0]));
}

START_TEST(every_row_is_accurate)
{
    /* One row that moves beside many that rest: their errors would hide its own. */
    enum { MANY = 400 };
    double start[MANY], rate[MANY];
    for (int i = 0; i < MANY; i++) {
        start[i] = 1;
        rate[i] = i ? 0 : 1;
    }
    for (int k = 0; ode_methods()[k]; k++) {
        const ode_method *m = ode_methods()[k];
        if (!ode_method_adaptive(m)) continue;
        double off[2];
        ode_stats stats[2] = { { 0 }, { 0 } };
        for (int i = 0; i < 2; i++) {
            ad_tape *tape = ad_tape_new(AD_F64);
            ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), MANY, start);
            ad_var r = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), MANY, rate);
            ode_options o = { .method = m,
                              .adjoint = &ode_backsolve,
                              .rtol = 1e-8,
                              .atol = 1e-10,
                              .norm = i ? &ode_norm_max : NULL,
                              .stats = &stats[i] };
            ad_var y = ode_solve_final(decays, NULL, y0, 1, &r, ode_interval(tape, 0, 2), &o);
            const double *value = ad_value(y);
            ck_assert_ptr_nonnull(value);
            off[i] = fabs(value[0] - exp(-2));
            ad_tape_free(tape);
        }
        ck_assert_msg(off[1] < 1e-8 * method_slack(m) && off[1] < off[0],
                      "%s: off by %g, by default %g", ode_method_name(m), off[1], off[0]);
        ck_assert_int_gt(stats[1].steps, stats[0].steps);
        for (int i = 0; i < 2; i++) ode_stats_clear(&stats[i]);
    }
}
END_TEST

/* ---- recorded functions ---- */

static ad_var twice_the_mean(ad_tape *tape, int nstate, const ad_var *scaled, void *user)
{
    const double *factor = user;
    (void)tape;
    (void)nstate;
    return ad_scale(ad_mean_all(ad_abs(scaled[0])), *factor);
}

START_TEST(traced_once_and_known_by_what_it_is)
{
    seen s = { 0 };
    const ode_error_norm mean = { .name = "mean", .record = mean_of_sizes, .user = &s };
    ad_tape *tape = ad_tape_new(AD_F64);
    double first = error_of_step(tape, &(ode_options){ .norm = &mean });
    ck_assert_int_eq(s.calls, 1);
    /* The same function with other data is another norm; the same pointer is no proof. */
    double factor = 2;
    const ode_error_norm scaled = { .name = "scaled", .record = twice_the_mean, .user = &factor };
    ck_assert_double_eq_tol(error_of_step(tape, &(ode_options){ .norm = &scaled }), 2 * first,
                            1e-15);
    factor = 3;
    ck_assert_double_eq_tol(error_of_step(tape, &(ode_options){ .norm = &scaled }), 3 * first,
                            1e-15);
    ck_assert_double_eq(error_of_step(tape, &(ode_options){ .norm = &mean }), first);
    ck_assert_double_ne(error_of_step(tape, &(ode_options){ 0 }), first);
    ad_tape_free(tape);
}
END_TEST

/* Both states of a solve with two come to the norm; backsolve takes it of states and costates. */
static void oscillator(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                       ad_var *dy)
{
    (void)t;
    (void)nstate;
    (void)user;
    dy[0] = ad_mul(args[0], y[1]);
    dy[1] = ad_neg(ad_mul(args[0], y[0]));
}

static ad_var largest_of_two(ad_tape *tape, int nstate, const ad_var *scaled, void *user)
{
    (void)tape;
    (void)user;
    ck_assert_int_eq(nstate, 2);
    ad_var a = ad_reduce_max(ad_abs(scaled[0]), 0, NULL, false);
    return ad_max(a, ad_reduce_max(ad_abs(scaled[1]), 0, NULL, false));
}

START_TEST(of_several_states_and_of_costates)
{
    const ode_error_norm own = { .name = "own", .record = largest_of_two };
    const ode_error_norm *const norms[] = { &ode_norm_max, &own };
    double gradient[2], one = 1, zero = 0, w = 1.5;
    for (int a = 0; ode_adjoints()[a]; a++) {
        if (!ode_adjoint_takes(ode_adjoints()[a], &ode_dopri5)) continue;
        for (int i = 0; i < 2; i++) {
            ad_tape *tape = ad_tape_new(AD_F64);
            ad_var y0[2] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one),
                             ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &zero) };
            ad_var arg = ad_param(tape, AD_SHAPE(1), &w), y[2], g;
            ode_options o = {
                .adjoint = ode_adjoints()[a], .rtol = 1e-8, .atol = 1e-8, .norm = norms[i]
            };
            ode_solve_states_final(oscillator, NULL, 2, y0, 1, &arg, ode_interval(tape, 0, 2), &o,
                                   y);
            ad_grad(ad_sum_all(y[0]), 1, &arg, &g);
            gradient[i] = ad_item(g);
            ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
            ad_tape_free(tape);
        }
        ck_assert_double_eq(gradient[0], gradient[1]); /* written twice, the same function */
        ck_assert_double_eq_tol(gradient[0], -2 * sin(3), 1e-6); /* y = cos(2 w) at the end */
    }
}
END_TEST

/* ---- what is refused ---- */

static ad_var outside;
static ad_var wrong(ad_tape *tape, int nstate, const ad_var *scaled, void *user)
{
    (void)nstate;
    switch (*(int *)user) {
    case 0: return scaled[0];
    case 1: return (ad_var){ 0 };
    case 2: return ad_add(ad_mean_all(scaled[0]), outside);
    case 3: return ad_fill(tape, AD_SCALAR, -1);
    default: return ad_fill(tape, AD_SCALAR, NAN);
    }
}

START_TEST(refused)
{
    const char *const message[] = { "in options.norm: it returned", "it returned nothing valid",
                                    "in options.norm: ", "options.norm gave -1",
                                    "options.norm gave nan" };
    for (int i = 0; i < 5; i++)
        for (int rerecord = 0; rerecord < 2; rerecord++) {
            if (rerecord && i < 3) continue;
            const ode_error_norm norm = { .name = "wrong", .record = wrong, .user = &i };
            ad_tape *tape = ad_tape_new(AD_F64);
            outside = ad_scalar(tape, 1);
            ck_assert(
                isnan(error_of_step(tape, &(ode_options){ .norm = &norm, .rerecord = rerecord })));
            has(ad_tape_error(tape), message[i]);
            ad_tape_free(tape);
        }
    ad_tape *tape = ad_tape_new(AD_F64);
    const double one = 1;
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one);
    ode_options o = { .step = 0.1, .norm = &ode_norm_max };
    ode_solve_final(decays, NULL, y0, 1, &y0, ode_interval(tape, 0, 1), &o);
    has(ad_tape_error(tape), "options.norm is for steps that the error chooses");
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("norms", "norms");
    tcase_add_test(tests, what_they_are);
    tcase_add_test(tests, with_tolerances_of_each);
    tcase_add_test(tests, every_row_is_accurate);
    tcase_add_test(tests, traced_once_and_known_by_what_it_is);
    tcase_add_test(tests, of_several_states_and_of_costates);
    tcase_add_test(tests, refused);
    return suite_run();
}
