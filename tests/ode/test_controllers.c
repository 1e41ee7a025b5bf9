/* Controllers of step sizes: factors against formulas worked out by hand, fewer rejections at the
 * limit of stability, controllers of a user's own, gradients with frozen steps, and what is
 * refused. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void has(const char *error, const char *part)
{
    ck_assert_msg(error && strstr(error, part), "'%s' is not in '%s'", part,
                  error ? error : "no error");
}

static void near(double value, double right)
{
    ck_assert_msg(fabs(value - right) <= 1e-14 * fabs(right), "%.17g, not %.17g", value, right);
}

/* ---- formulas ---- */

/* Of a method of order 5, after steps of sizes 0.2, 0.1, 0.4 with these errors. */
static ode_control_history after(double latest, double before, double first)
{
    return (ode_control_history){
        .order = 5, .steps = 3, .ratio = { latest, before, first }, .size = { 0.2, 0.1, 0.4 }
    };
}

START_TEST(factors_by_hand)
{
    ode_control_history p = after(0.5, 0.25, 0.125);
    /* 0.9 0.25^(-1/5) = 0.9 2^(2/5); the errors before do not count. */
    p.ratio[0] = 0.25;
    near(ode_controller_factor(&ode_control_i, &p), 0.9 * pow(2, 0.4));
    /* Aimed at e = 0.9^5: (e / 0.5)^(0.7 / 5) (e / 0.25)^(-0.4 / 5) = 0.9^0.3 2^0.14 2^-0.16. */
    p.ratio[0] = 0.5;
    near(ode_controller_factor(&ode_control_pi, &p), pow(0.9, 0.3) * pow(2, -0.02));
    /* (e / 0.5)^(1 / 20) (e / 0.25)^(1 / 20) (0.2 / 0.1)^(-1 / 4) = 0.9^0.5 2^0.15 2^-0.25. */
    near(ode_controller_factor(&ode_control_h211b, &p), sqrt(0.9) * pow(2, -0.1));
    /* 0.9^(2 / 9) 0.5^(-1 / 90) 0.25^(-2 / 90) 0.125^(-1 / 90) = 0.9^(2 / 9) 2^(8 / 90). */
    near(ode_controller_factor(&ode_control_pid, &p), pow(0.9, 2.0 / 9) * pow(2, 8.0 / 90));
    /* H321 of Soederlind 2003 by its five coefficients: 0.9^(1/9) 2^(1/15) 2^(1/45) 2^(-1/6) times
     * (0.2 / 0.1)^(5 / 6) (0.1 / 0.4)^(1 / 6). */
    ode_controller h321 = { .beta = { 1.0 / 3, 1.0 / 18, -5.0 / 18 },
                            .alpha = { -5.0 / 6, -1.0 / 6 } };
    near(ode_controller_factor(&h321, &p),
         pow(0.9, 1.0 / 9) * pow(2, 1.0 / 15 + 1.0 / 45 - 1.0 / 6 + 5.0 / 6 - 1.0 / 3));
}
END_TEST

START_TEST(elementary_where_there_is_no_sequence)
{
    for (int i = 0; ode_controllers()[i]; i++) {
        const ode_controller *c = ode_controllers()[i];
        ode_control_history first = after(0.01, 1, 1), rejected = after(32, 0.5, 0.5);
        first.steps = 1;
        near(ode_controller_factor(c, &first), 0.9 * pow(100, 0.2));
        near(ode_controller_factor(c, &rejected), 0.9 / 2);
    }
}
END_TEST

START_TEST(limits)
{
    ck_assert(isnan(ode_controller_factor(NULL, &(ode_control_history){ 0 })));
    ck_assert(isnan(ode_controller_factor(&ode_control_i, NULL)));
    ode_control_history tiny = after(1e-30, 1e-30, 1e-30), none = after(0, 1, 1),
                        huge = after(1e30, 1, 1), lost = after(INFINITY, 1, 1),
                        just = after(1, 1, 1);
    ode_controller c = { .beta = { 1 }, .safety = 0.8, .most = 3, .least = 0.5, .most_again = 1.5 };
    near(ode_controller_factor(&c, &tiny), 3);
    near(ode_controller_factor(&c, &none), 3);
    near(ode_controller_factor(&c, &huge), 0.5);
    near(ode_controller_factor(&c, &lost), 0.5);
    near(ode_controller_factor(&c, &just), 0.8);
    near(ode_controller_factor(&ode_control_i, &just), 1); /* it does not shrink then */
    near(ode_controller_factor(&ode_control_i, &tiny), 10);
    near(ode_controller_factor(&ode_control_i, &huge), 0.2);
    c.least_accepted = 0.95;
    near(ode_controller_factor(&c, &just), 0.95);
    tiny.rejections = 1;
    near(ode_controller_factor(&c, &tiny), 1.5);
    near(ode_controller_factor(&ode_control_pi, &tiny), 1);
    near(ode_controller_factor(&ode_control_i, &tiny), 10);
}
END_TEST

/* ---- solves ---- */

static ad_var van_der_pol(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    ad_var damping = ad_mul(args[0], ad_shift(ad_neg(ad_square(x)), 1));
    return ad_concatenate(2, (ad_var[]){ v, ad_sub(ad_mul(damping, v), x) }, 1);
}

/* y' = -100 (y - cos t) - sin t, whose solution from 1 is cos t. */
static ad_var towards_cosine(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)args;
    (void)user;
    return ad_sub(ad_scale(ad_sub(y, ad_cos(t)), -100), ad_sin(t));
}

/* Solves by a controller; backsolve: so that errors and the limit of stability alone choose. */
static ode_stats run(ode_field field, int width, double t1, const ode_options *options, double *y)
{
    ode_stats stats = { 0 };
    ode_options o = *options;
    o.stats = &stats;
    if (!o.adjoint) o.adjoint = &ode_backsolve;
    const double start[] = { 2, 0 }, one = 1, mu = 10;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, width), 1, width == 2 ? start : &one);
    ad_var arg = ad_input(tape, AD_SHAPE(1), &mu);
    ad_var end = ode_solve_final(field, NULL, y0, 1, &arg, ode_interval(tape, 0, t1), &o);
    const double *value = ad_value(end);
    ck_assert_msg(value != NULL, "%s", ad_tape_error(tape));
    for (int i = 0; i < width; i++) y[i] = value[i];
    ad_tape_free(tape);
    ode_steps_free(stats.steps_taken);
    stats.steps_taken = NULL;
    return stats;
}

/* At the limit of stability the error of a step depends on the step before: what PI control was
 * made for (Gustafsson 1991). Right values: cos 10; van der Pol by SciPy's Radau, rtol 1e-12. */
START_TEST(fewer_rejections)
{
    const ode_method *const method[] = { &ode_midpoint, &ode_heun, &ode_bosh3, &ode_dopri5,
                                         &ode_tsit5 };
    for (size_t i = 0; i < sizeof method / sizeof *method; i++)
        for (int c = 1; ode_controllers()[c]; c++)
            for (int stiff = 0; stiff < 2; stiff++) {
                ode_options o = { .method = method[i], .rtol = 1e-6, .atol = 1e-6 };
                double y[2];
                ode_field field = stiff ? van_der_pol : towards_cosine;
                int width = stiff ? 2 : 1;
                double t1 = stiff ? 20 : 10, right = stiff ? 1.9393586 : cos(10);
                ode_stats usual = run(field, width, t1, &o, y);
                ck_assert_double_eq_tol(y[0], right, 1e-5);
                o.controller = ode_controllers()[c];
                ode_stats smooth = run(field, width, t1, &o, y);
                ck_assert_double_eq_tol(y[0], right, 1e-5);
                ck_assert_msg(smooth.rejected < usual.rejected &&
                                  (stiff || 3 * smooth.rejected < 2 * usual.rejected),
                              "%s, %s: %d rejections, by default %d", ode_method_name(method[i]),
                              o.controller->name, (int)smooth.rejected, (int)usual.rejected);
                ck_assert_int_lt(smooth.steps, 1.1 * (double)usual.steps);
            }
}
END_TEST

/* ---- a user's own ---- */

typedef struct {
    int calls, rejected, most_steps;
    double value; /* of the factor; 0: the elementary choice */
} seen;

static double own_factor(const ode_control_history *past, void *user)
{
    seen *s = user;
    s->calls++;
    s->rejected += past->ratio[0] > 1;
    if (past->steps > s->most_steps) s->most_steps = past->steps;
    for (int i = 0; i < past->steps; i++) ck_assert(past->size[i] > 0 && past->ratio[i] > 0);
    for (int i = 1; i < past->steps; i++) ck_assert(past->ratio[i] <= 1);
    return s->value != 0 ? s->value : 0.9 * pow(past->ratio[0], -1.0 / past->order);
}

/* The default written as a function, and as a table, takes the same steps. */
START_TEST(own_controllers)
{
    seen s = { 0 };
    const ode_controller function = {
        .name = "mine", .factor = own_factor, .user = &s, .least_accepted = 1
    };
    const ode_controller table = { .name = "table", .beta = { 1 }, .least_accepted = 1 };
    ode_options o = { .rtol = 1e-5, .atol = 1e-5 };
    double right[2], y[2];
    ode_stats usual = run(van_der_pol, 2, 20, &o, right);
    const ode_controller *const own[] = { &function, &table };
    for (int i = 0; i < 2; i++) {
        o.controller = own[i];
        ode_stats stats = run(van_der_pol, 2, 20, &o, y);
        ck_assert_int_eq(stats.steps, usual.steps);
        ck_assert_int_eq(stats.rejected, usual.rejected);
        ck_assert(!memcmp(y, right, sizeof y));
    }
    ck_assert_int_le(s.calls, usual.steps + usual.rejected);
    ck_assert_int_gt(s.rejected, 0);
    ck_assert_int_eq(s.most_steps, 3);
}
END_TEST

static const char *error_of(const ode_controller *c, const ode_options *options)
{
    static char text[1024];
    ode_options o = *options;
    o.controller = c;
    const double one = 1;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &one);
    ad_value(ode_solve_final(towards_cosine, NULL, y0, 0, NULL, ode_interval(tape, 0, 1), &o));
    ck_assert_ptr_nonnull(ad_tape_error(tape));
    strcpy(text, ad_tape_error(tape));
    ad_tape_free(tape);
    return text;
}

START_TEST(refused)
{
    const ode_options none = { 0 }, fixed = { .step = 0.1 };
    seen s = { .value = NAN };
    ode_controller c = { .name = "mine", .beta = { 1, -1 } };
    has(error_of(&c, &none), "options.controller (mine): beta {1, -1, 0}");
    c = (ode_controller){ .beta = { NAN } };
    has(error_of(&c, &none), "options.controller (no name): beta");
    c = (ode_controller){ .beta = { 1 }, .alpha = { INFINITY } };
    has(error_of(&c, &none), "alpha {inf, 0}");
    c = (ode_controller){ .beta = { 1 }, .safety = 1.5 };
    has(error_of(&c, &none), "safety is 1.5; it must be between 0.01 and 1");
    c = (ode_controller){ .beta = { 1 }, .most = 0.5 };
    has(error_of(&c, &none), "most is 0.5");
    c = (ode_controller){ .beta = { 1 }, .least = -1 };
    has(error_of(&c, &none), "least is -1");
    c = (ode_controller){ .beta = { 1 }, .least_accepted = 2 };
    has(error_of(&c, &none), "least_accepted is 2");
    c = (ode_controller){ .beta = { 1 }, .most_again = NAN };
    has(error_of(&c, &none), "most_again is nan");
    has(error_of(&ode_control_pi, &fixed),
        "options.controller is for steps that the error chooses");
    c = (ode_controller){ .name = "mine", .factor = own_factor, .user = &s };
    has(error_of(&c, &none), "the factor of options.controller (mine) is not finite");
}
END_TEST

/* ---- gradients ---- */

/* The solution's first component at the end, with the steps given; mu: the parameter. */
static double replayed(const ode_steps *steps, double mu)
{
    const double start[] = { 2, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
    ad_var arg = ad_input(tape, AD_SHAPE(1), &mu);
    ode_options o = { .replay = steps };
    ad_var y = ode_solve_final(van_der_pol, NULL, y0, 1, &arg, ode_interval(tape, 0, 8), &o);
    double value = ad_item(ad_slice(y, 1, 0, 1));
    ad_tape_free(tape);
    return value;
}

/* The gradient is that of the accepted steps, whoever chose them. */
START_TEST(gradients_of_frozen_steps)
{
    for (int i = 0; ode_controllers()[i]; i++) {
        const double start[] = { 2, 0 }, mu = 3, d = 1e-4;
        ode_stats stats = { 0 };
        ode_options o = {
            .rtol = 1e-5, .atol = 1e-7, .controller = ode_controllers()[i], .stats = &stats
        };
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
        ad_var arg = ad_input(tape, AD_SHAPE(1), &mu), g;
        ad_var y = ode_solve_final(van_der_pol, NULL, y0, 1, &arg, ode_interval(tape, 0, 8), &o);
        ad_grad(ad_sum_all(ad_slice(y, 1, 0, 1)), 1, &arg, &g);
        double gradient = ad_item(g);
        ck_assert_msg(!ad_tape_error(tape), "%s", ad_tape_error(tape));
        const ode_steps *s = stats.steps_taken;
        double difference = (8 * (replayed(s, mu + d) - replayed(s, mu - d)) -
                             (replayed(s, mu + 2 * d) - replayed(s, mu - 2 * d))) /
                            (12 * d);
        ck_assert_msg(fabs(gradient - difference) < 1e-8 * fabs(difference), "%s: %.12g, not %.12g",
                      o.controller->name, gradient, difference);
        ad_tape_free(tape);
        ode_stats_clear(&stats);
    }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("controllers", "controllers");
    tcase_add_test(tests, factors_by_hand);
    tcase_add_test(tests, elementary_where_there_is_no_sequence);
    tcase_add_test(tests, limits);
    tcase_add_test(tests, fewer_rejections);
    tcase_add_test(tests, own_controllers);
    tcase_add_test(tests, refused);
    tcase_add_test(tests, gradients_of_frozen_steps);
    return suite_run();
}
