/* Gradients along fast oscillations that hardly decay and are no part of the solution: the state
 * moves slowly in all components, so its error says nothing of the steps that the gradient needs.
 * Right values are those of the damped oscillator x'' = -c x' - w^2 x. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static const double angle = 0.7, horizon = 10;

/* y_0 and y_1 are x, which is at rest, and a slow u, turned by an angle; x' = unit v. */
typedef struct {
    double w, c, unit;
    enum { FOLLOWS, DECAYS, SATURATES, SLOW } u;
    int slower; /* components that decay more slowly than the one beside it */
} oscillator;

static ad_var slow(ad_var t, ad_var u, ad_var p, int kind)
{
    if (kind == FOLLOWS) return ad_mul(p, ad_sub(ad_cos(t), u));
    if (kind == DECAYS) return ad_neg(ad_mul(p, u));
    return ad_mul(p, ad_mul(u, ad_sub(ad_ones_like(u), u)));
}

static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const oscillator *k = user;
    double c = cos(angle), s = sin(angle);
    ad_var a = ad_slice(y, 1, 0, 1), b = ad_slice(y, 1, 1, 2), v = ad_slice(y, 1, 2, 3);
    ad_var x = ad_add(ad_scale(a, c), ad_scale(b, s)), u = ad_sub(ad_scale(b, c), ad_scale(a, s));
    ad_var dx = ad_scale(v, k->unit), du = slow(t, u, args[0], k->u);
    ad_var dv = ad_neg(ad_add(ad_scale(v, k->c), ad_scale(x, k->w * k->w / k->unit)));
    ad_var da = ad_sub(ad_scale(dx, c), ad_scale(du, s)),
           db = ad_add(ad_scale(dx, s), ad_scale(du, c));
    return ad_concatenate(3, (ad_var[]){ da, db, dv }, 1);
}

/* The same backwards in time, from `horizon` to 0. */
static ad_var backwards(ad_var t, ad_var y, const ad_var *args, void *user)
{
    return ad_neg(field(ad_sub(ad_scalar(t.tape, horizon), t), y, args, user));
}

/* dx/dx_0 after time t, and the largest that it is about then. */
static double right(const oscillator *k, double t, double *envelope)
{
    double a = k->c / 2, w = sqrt(k->w * k->w - a * a);
    *envelope = exp(-a * t) * hypot(1, a / w);
    return exp(-a * t) * (cos(w * t) + a / w * sin(w * t));
}

static void check(const oscillator *k, const ode_method *method, ad_dtype dtype, bool back,
                  ode_stats *stats)
{
    const double y0[] = { -0.5 * sin(angle), 0.5 * cos(angle), 0 }, p0 = 0.7;
    double by_y0[3], envelope, want = right(k, horizon, &envelope);
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, y0);
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &p0), bar;
    ode_options o = { .method = method, .stats = stats };
    ad_var times = back ? ode_interval(tape, horizon, 0) : ode_interval(tape, 0, horizon);
    ad_var end = ode_solve_final(back ? backwards : field, (void *)k, y, 1, &p, times, &o);
    ad_var x = ad_add(ad_scale(ad_slice(end, 1, 0, 1), cos(angle)),
                      ad_scale(ad_slice(end, 1, 1, 2), sin(angle)));
    ad_grad(ad_sum_all(x), 1, &y, &bar);
    ck_assert_msg(!ad_get(bar, by_y0), "%s", ad_tape_error(tape));
    double got = by_y0[0] * cos(angle) + by_y0[1] * sin(angle);
    ck_assert_msg(fabs(got - want) <= 0.1 * envelope,
                  "%s, %s, w %g, c %g, unit %g, slow part %d: %g, right is %g, of at most %g",
                  ode_method_name(method), dtype == AD_F32 ? "float" : "double", k->w, k->c,
                  k->unit, k->u, got, want, envelope);
    ad_tape_free(tape);
}

static const ode_method *const methods[] = { &ode_dopri5,   &ode_tsit5,   &ode_dopri8,
                                             &ode_bosh3,    &ode_trbdf2,  &ode_kvaerno3,
                                             &ode_kvaerno4, &ode_kvaerno5 };
enum { METHODS = sizeof methods / sizeof methods[0], EXPLICIT = 4 };

/* In components of like units, and where v is w or a tenth of that as large as x. */
static double unit_of(int i, double w) { return i == 0 ? 1 : i == 1 ? w : w / 10; }

START_TEST(oscillations_are_right)
{
    static const double w[] = { 5.1, 8.7, 14.7, 25 }, c[] = { 0.02, 0.72 };
    ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    bool implicit = _i / 2 >= EXPLICIT; /* a step takes longer */
    for (int i = 0; i < 4; i += implicit ? 2 : 1)
        for (int j = 0; j < 2; j++)
            for (int kind = 0; kind < SLOW; kind++)
                for (int unit = 0; unit < 3; unit++) {
                    ode_stats stats = { 0 };
                    check(&(oscillator){ w[i], c[j], unit_of(unit, w[i]), kind, 0 },
                          methods[_i / 2], dtype, false, &stats);
                    ode_stats_clear(&stats);
                }
}
END_TEST

START_TEST(oscillations_are_right_backwards)
{
    for (int kind = 0; kind < SLOW; kind++) {
        ode_stats stats = { 0 };
        check(&(oscillator){ 12, 0.1, 1, kind, 0 }, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, true,
              &stats);
        ode_stats_clear(&stats);
    }
}
END_TEST

/* Rows with an oscillator each, pushed a little by what is slow; user: a second, in units of time.
 */
static ad_var rows_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const double second = *(const double *)user, c = cos(angle), s = sin(angle);
    t = ad_scale(t, 1 / second);
    ad_var a = ad_slice(y, 1, 0, 1), b = ad_slice(y, 1, 1, 2), v = ad_slice(y, 1, 2, 3);
    ad_var x = ad_add(ad_scale(a, c), ad_scale(b, s)), u = ad_sub(ad_scale(b, c), ad_scale(a, s));
    ad_var w = ad_slice(args[0], 1, 0, 1), damping = ad_slice(args[0], 1, 1, 2);
    ad_var dx = ad_mul(w, v), du = ad_sub(ad_cos(t), u);
    ad_var dv = ad_sub(ad_scale(u, 0.01), ad_add(ad_mul(damping, v), ad_mul(w, x)));
    ad_var da = ad_sub(ad_scale(dx, c), ad_scale(du, s)),
           db = ad_add(ad_scale(dx, s), ad_scale(du, c));
    return ad_scale(ad_concatenate(3, (ad_var[]){ da, db, dv }, 1), 1 / second);
}

static void check_rows(int n, const oscillator *rows, const ode_method *method, ad_dtype dtype,
                       double second)
{
    enum { MOST_ROWS = 200 };
    double y0[3 * MOST_ROWS], w[2 * MOST_ROWS], by_y0[3 * MOST_ROWS];
    ck_assert_int_le(n, MOST_ROWS);
    for (int r = 0; r < n; r++) {
        y0[3 * r] = -0.5 * sin(angle);
        y0[3 * r + 1] = 0.5 * cos(angle);
        y0[3 * r + 2] = 0;
        w[2 * r] = rows[r].w;
        w[2 * r + 1] = rows[r].c;
    }
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), n, y0);
    ad_var args = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), n, w), bar;
    ode_options o = { .method = method };
    ad_var end = ode_solve_final(rows_field, &second, y, 1, &args,
                                 ode_interval(tape, 0, horizon * second), &o);
    ad_var x = ad_add(ad_scale(ad_slice(end, 1, 0, 1), cos(angle)),
                      ad_scale(ad_slice(end, 1, 1, 2), sin(angle)));
    ad_grad(ad_sum_all(x), 1, &y, &bar);
    ck_assert_msg(!ad_get(bar, by_y0), "%s", ad_tape_error(tape));
    for (int r = 0; r < n; r++) {
        if (rows[r].c > 2 * rows[r].w) continue; /* it does not oscillate */
        double envelope, want = right(&rows[r], horizon, &envelope),
                         got = by_y0[3 * r] * cos(angle) + by_y0[3 * r + 1] * sin(angle);
        ck_assert_msg(fabs(got - want) <= 0.1 * envelope, "row %d: %g, right is %g, of at most %g",
                      r, got, want, envelope);
    }
    ad_tape_free(tape);
}

START_TEST(each_row_has_its_own)
{
    static const oscillator rows[] = { { 3, 0.02, 3, 0, 0 },
                                       { 16, 0.02, 16, 0, 0 },
                                       { 2, 0.5, 2, 0, 0 } };
    check_rows(3, rows, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, 1);
}
END_TEST

/* Of many rows a look picks those in which two iterations grew most, whatever the unit of time: the
 * fast one is among them wherever it is, and the fastest of rows that are all different. */
START_TEST(one_of_many_rows_is_fast)
{
    enum { ROWS = 200 };
    static const int places[] = { 0, 7, 8, 131, ROWS - 1 };
    oscillator rows[ROWS];
    for (int i = 0; i < 5; i++) {
        for (int r = 0; r < ROWS; r++) rows[r] = (oscillator){ 2 + 0.005 * r, 0.1, 1, 0, 0 };
        rows[places[i]] = (oscillator){ 16, 0.02, 1, 0, 0 };
        check_rows(ROWS, rows, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, i % 2 ? 1e9 : 1e-9);
    }
    for (int r = 0; r < ROWS; r++)
        rows[r] = (oscillator){ pow(16, (double)(r * 77 % ROWS) / ROWS), 0.02, 1, 0, 0 };
    check_rows(ROWS, rows, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, 1);
}
END_TEST

/* Rows that are alike are picked in order, no more of them than there is memory for; steep rows
 * that decay do not hide those that oscillate. */
START_TEST(many_rows_are_alike)
{
    enum { ROWS = 200 };
    oscillator rows[ROWS];
    for (int r = 0; r < ROWS; r++) rows[r] = (oscillator){ r < ROWS - 3 ? 16.3 : 3, 0.02, 1, 0, 0 };
    for (int n = ROWS; n > 10; n /= 3)
        check_rows(n, rows + ROWS - n, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, 1);
    for (int r = 0; r < ROWS; r++)
        rows[r] = r < 40 ? (oscillator){ 25, 100, 1, 0, 0 } : (oscillator){ 25, 0.02, 1, 0, 0 };
    check_rows(ROWS, rows, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, 1);
}
END_TEST

/* At all output times. */
START_TEST(oscillations_are_right_at_all_times)
{
    oscillator k = { 20, 0.3, 1, FOLLOWS, 0 };
    const double y0[] = { -0.5 * sin(angle), 0.5 * cos(angle), 0 }, p0 = 0.7;
    enum { TIMES = 6 };
    for (int i = 1; i < TIMES; i++) {
        double by_y0[3], envelope, want = right(&k, 2.0 * i, &envelope);
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, y0);
        ad_var p = ad_param(tape, AD_SHAPE(1, 1), &p0), bar;
        ode_options o = { .method = methods[_i] };
        ad_var times = ode_linspace(tape, 0, horizon, TIMES);
        ad_var all = ode_solve(field, &k, y, 1, &p, times, &o);
        ad_var at = ad_reshape(ad_slice(all, 1, i, i + 1), AD_SHAPE(AD_ROWS, 3));
        ad_var x = ad_add(ad_scale(ad_slice(at, 1, 0, 1), cos(angle)),
                          ad_scale(ad_slice(at, 1, 1, 2), sin(angle)));
        ad_grad(ad_sum_all(x), 1, &y, &bar);
        ck_assert_msg(!ad_get(bar, by_y0), "%s", ad_tape_error(tape));
        double got = by_y0[0] * cos(angle) + by_y0[1] * sin(angle);
        ck_assert_msg(fabs(got - want) <= 0.1 * envelope, "%s, at %g: %g, right is %g",
                      ode_method_name(methods[_i]), 2.0 * i, got, want);
        ad_tape_free(tape);
    }
}
END_TEST

/* The error says why the steps are so many. */
START_TEST(says_what_asks_for_the_steps)
{
    oscillator k = { 25, 0.02, 1, FOLLOWS, 0 };
    const double y0[] = { -0.5 * sin(angle), 0.5 * cos(angle), 0 }, p0 = 0.7;
    ad_tape *tape = ad_tape_new(AD_F32);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, y0);
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &p0), bar;
    ode_options o = { .max_steps = 100 };
    ad_grad(ad_sum_all(ode_solve_final(field, &k, y, 1, &p, ode_interval(tape, 0, horizon), &o)), 1,
            &y, &bar);
    ck_assert_ptr_null(ad_value(bar));
    ck_assert_msg(strstr(ad_tape_error(tape), "an oscillation of frequency 2"), "%s",
                  ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* x'' = -9 x, as a part of the solution. */
static ad_var swinging(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t;
    (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    return ad_concatenate(2, (ad_var[]){ v, ad_neg(ad_mul(args[0], x)) }, 1);
}

/* Evaluations of a solve, with a gradient or without. */
static double evaluations(const ode_method *method, ad_dtype dtype, double rtol, bool gradient)
{
    const double y0[] = { 1, 0 }, p0 = 9;
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, y0);
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &p0), bar;
    ode_stats stats = { 0 };
    ode_options o = { .method = method, .rtol = rtol, .atol = rtol / 100, .stats = &stats };
    ad_var loss =
        ad_sum_all(ode_solve_final(swinging, NULL, y, 1, &p, ode_interval(tape, 0, 20), &o));
    if (gradient) ad_grad(loss, 1, &p, &bar);
    ck_assert_msg(ad_value(gradient ? bar : loss), "%s", ad_tape_error(tape));
    double n = (double)stats.evaluations;
    ode_stats_clear(&stats);
    ad_tape_free(tape);
    return n;
}

/* Oscillations whose steps the error chooses are left alone. */
START_TEST(those_of_the_solution_pay_little)
{
    static const double rtol[] = { 1e-3, 1e-4, 1e-5, 1e-6 };
    ad_dtype dtype = _i % 2 ? AD_F64 : AD_F32;
    for (int i = 0; i < 4; i++) {
        double with = evaluations(methods[_i / 2], dtype, rtol[i], true),
               without = evaluations(methods[_i / 2], dtype, rtol[i], false);
        ck_assert_msg(with <= 1.05 * without,
                      "%s, rtol %g: %g evaluations with a gradient, %g "
                      "without",
                      ode_method_name(methods[_i / 2]), rtol[i], with, without);
    }
}
END_TEST

/* x'' = 1e4 (cos t - x) - 150 x': fast oscillations that have decayed at the first output. */
static ad_var stiff_spring(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2);
    ad_var pull = ad_scale(ad_mul(args[0], ad_sub(ad_cos(t), x)), 1e4);
    return ad_concatenate(2, (ad_var[]){ v, ad_sub(pull, ad_scale(v, 150)) }, 1);
}

/* Implicit methods step over these, with a gradient as without. */
START_TEST(those_that_have_decayed_are_left_alone)
{
    const ode_method *method = methods[METHODS - 1 - _i / 2];
    const double y0[] = { 1, 0 }, one = 1;
    double steps[2];
    for (int gradient = 0; gradient < 2; gradient++) {
        ad_tape *tape = ad_tape_new(_i % 2 ? AD_F64 : AD_F32);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, y0);
        ad_var p = ad_param(tape, AD_SHAPE(1, 1), &one), bar;
        ode_stats stats = { 0 };
        ode_options o = { .method = method, .stats = &stats };
        ad_var loss =
            ad_sum_all(ode_solve_final(stiff_spring, NULL, y, 1, &p, ode_interval(tape, 0, 3), &o));
        if (gradient) ad_grad(loss, 1, &p, &bar);
        ck_assert_msg(ad_value(gradient ? bar : loss), "%s", ad_tape_error(tape));
        steps[gradient] = (double)stats.steps;
        ode_stats_clear(&stats);
        ad_tape_free(tape);
    }
    ck_assert_msg(steps[1] <= 1.05 * steps[0] + 1, "%s: %g steps with a gradient, %g without",
                  ode_method_name(method), steps[1], steps[0]);
}
END_TEST

/* Beside the oscillation z' = -rate z, which is as steep or steeper, so that the look at the field
 * finds that, and slower ones. */
enum { MOST_SLOWER = 12 };
static ad_var beside_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const oscillator *k = user;
    double part[1 + MOST_SLOWER];
    for (int i = 0; i <= k->slower; i++) part[i] = -pow(0.7, i);
    ad_var z = ad_slice(y, 1, 3, 4 + k->slower), rest = field(t, ad_slice(y, 1, 0, 3), args, user);
    ad_var rates = ad_mul(args[1], ad_constant(y.tape, AD_SHAPE(1, 1 + k->slower), part));
    return ad_concatenate(2, (ad_var[]){ rest, ad_mul(rates, z) }, 1);
}

typedef struct {
    enum { RIGHT, WRONG, REFUSED } result;
    double by_y0[4 + MOST_SLOWER];
    ode_stats stats;
} outcome;

/* The derivative of x at time t, beside that mode where its rate is not 0. */
static outcome derive(const oscillator *k, const ode_method *method, ad_dtype dtype, double t,
                      double rate, double rtol, double limit)
{
    const double y0[4 + MOST_SLOWER] = { -0.5 * sin(angle), 0.5 * cos(angle) }, p0 = 0.7;
    const int n = rate > 0 ? 4 + k->slower : 3;
    double envelope, want = right(k, t, &envelope);
    outcome o = { .result = RIGHT };
    ad_tape *tape = ad_tape_new(dtype);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, n), 1, y0), bar;
    ad_var args[] = { ad_param(tape, AD_SHAPE(1, 1), &p0), ad_param(tape, AD_SHAPE(1, 1), &rate) };
    ode_options options = { .method = method,
                            .stats = &o.stats,
                            .rtol = rtol,
                            .atol = rtol / 100,
                            .costate_drift = limit };
    ad_var end = ode_solve_final(n > 3 ? beside_field : field, (void *)k, y, n > 3 ? 2 : 1, args,
                                 ode_interval(tape, 0, t), &options);
    ad_var x = ad_add(ad_scale(ad_slice(end, 1, 0, 1), cos(angle)),
                      ad_scale(ad_slice(end, 1, 1, 2), sin(angle)));
    ad_grad(ad_sum_all(x), 1, &y, &bar);
    if (ad_get(bar, o.by_y0)) {
        const char *why = ad_tape_error(tape);
        ck_assert_msg(strstr(why, "by the initial state") && strstr(why, "step is halved") &&
                          strstr(why, "options.costate_drift"),
                      "%s", why);
        o.result = REFUSED;
    } else {
        double got = o.by_y0[0] * cos(angle) + o.by_y0[1] * sin(angle);
        if (!(fabs(got - want) <= 0.1 * envelope)) o.result = WRONG;
    }
    ad_tape_free(tape);
    return o;
}

/* Counts outcomes over a time, at the default limit and without one. */
static void count_outcomes(const ode_method *method, ad_dtype dtype, double t, double rate,
                           int count[2][3])
{
    static const double w[] = { 8.7, 14.7, 25 };
    for (int i = 0; i < 3; i++)
        for (int kind = 0; kind < SLOW; kind++)
            for (int limit = 0; limit < 2; limit++) {
                const oscillator k = { w[i], 0.02, unit_of(kind % 2, w[i]), kind, 0 };
                outcome o = derive(&k, method, dtype, t, rate * w[i], 0, limit ? INFINITY : 0);
                count[limit][o.result]++;
                ode_stats_clear(&o.stats);
            }
}

static void check_outcomes(const ode_method *method, ad_dtype dtype, double t, double rate)
{
    int count[2][3] = { { 0 } };
    count_outcomes(method, dtype, t, rate, count);
    ck_assert_int_eq(count[0][WRONG], 0);
    ck_assert_int_eq(count[1][REFUSED], 0);
    ck_assert_int_le(count[0][REFUSED], count[1][WRONG] + 1); /* those off by a little less */
}

/* Solves that are over before the first look at the field is due have it at the end. */
START_TEST(short_solves_are_right)
{
    int count[2][3] = { { 0 } };
    count_outcomes(methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, 1, 0, count);
    ck_assert_int_eq(count[0][WRONG] + count[0][REFUSED] + count[1][WRONG], 0);
}
END_TEST

/* A loose tolerance is that of the state: over hundreds of steps it does not add up in the
 * derivative. */
START_TEST(loose_tolerances_are_right)
{
    static const double w[] = { 14.7, 43 };
    for (int i = 0; i < 4; i++) {
        const oscillator k = { w[i / 2], 0.02, 1, FOLLOWS, 0 };
        outcome o = derive(&k, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, horizon, 0, 1e-3,
                           i % 2 ? INFINITY : 0);
        ck_assert_int_eq(o.result, RIGHT);
        ode_stats_clear(&o.stats);
    }
}
END_TEST

/* Over a time of 10, all wrong where nothing is looked at. Implicit methods damp these so much that
 * the derivative is nothing with all steps halved as well; they know all modes. */
static const struct {
    const ode_method *method;
    ad_dtype dtype;
} beside[] = { { &ode_dopri5, AD_F32 },   { &ode_dopri5, AD_F64 },   { &ode_tsit5, AD_F64 },
               { &ode_bosh3, AD_F32 },    { &ode_bosh3, AD_F64 },    { &ode_trbdf2, AD_F32 },
               { &ode_trbdf2, AD_F64 },   { &ode_kvaerno3, AD_F32 }, { &ode_kvaerno3, AD_F64 },
               { &ode_kvaerno4, AD_F32 }, { &ode_kvaerno5, AD_F32 }, { &ode_kvaerno5, AD_F64 } };
enum { BESIDE = sizeof beside / sizeof beside[0] };

START_TEST(those_beside_steeper_modes_are_right_or_refused)
{
    check_outcomes(beside[_i].method, beside[_i].dtype, 10, 1.5);
}
END_TEST

/* All modes are looked at, or where there are many the outer ones, by explicit methods where the
 * steepest may hide one: then the steps are those that the oscillation needs, and nothing is
 * refused. */
START_TEST(those_beside_steeper_modes_are_found)
{
    static const double w[] = { 5.1, 8.7, 14.7 };
    for (int i = 0; i < 3; i++)
        for (int kind = 0; kind < SLOW; kind++)
            for (int slower = 0; slower <= MOST_SLOWER; slower += MOST_SLOWER / 2) {
                const oscillator k = { w[i], 0.02, unit_of(kind, w[i]), kind, slower };
                outcome o =
                    derive(&k, methods[_i / 2], _i % 2 ? AD_F64 : AD_F32, 10, 1.5 * w[i], 0, 0);
                ck_assert_int_eq(o.result, RIGHT);
                ode_stats_clear(&o.stats);
            }
}
END_TEST

/* z' = -45 z, which a look at the field finds, beside an oscillation of a frequency by row. There
 * are too many components for a look at all modes: the others stand still. */
enum { MANY = 129 };
static ad_var rows_beside(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), z = ad_slice(y, 1, 2, 3);
    const ad_var dy[] = { ad_mul(args[0], v), ad_neg(ad_mul(args[0], x)), ad_scale(z, -45),
                          ad_zeros_like(ad_slice(y, 1, 3, MANY)) };
    return ad_concatenate(4, dy, 1);
}

/* Of many rows some are looked at, in no order of the batch's: every second one oscillates fast. */
START_TEST(any_order_of_rows)
{
    enum { ROWS = 256 };
    static double y0[MANY * ROWS], w[ROWS];
    for (int r = 0; r < ROWS; r++) w[r] = r % 2 == _i ? 25 : 0.1;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, MANY), ROWS, y0);
    ad_var args = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), ROWS, w), bar;
    ad_var end =
        ode_solve_final(rows_beside, NULL, y, 1, &args, ode_interval(tape, 0, horizon), NULL);
    ad_grad(ad_sum_all(ad_slice(end, 1, 0, 1)), 1, &y, &bar);
    ck_assert_ptr_null(ad_value(bar));
    ck_assert_msg(strstr(ad_tape_error(tape), "step is halved"), "%s", ad_tape_error(tape));
    ad_tape_free(tape);
}
END_TEST

/* A doubtful gradient that is right is what it is without the comparison, and so is all that is
 * known of the solve; further ones of a program are looked at less and less. */
START_TEST(what_is_right_stays_as_it_is)
{
    const oscillator k = { 8.7, 0.2, 1, FOLLOWS, 0 };
    outcome o[2];
    for (int limit = 0; limit < 2; limit++) {
        o[limit] = derive(&k, methods[_i], AD_F64, horizon, 0, 0, limit ? INFINITY : 0);
        ck_assert_int_eq(o[limit].result, RIGHT);
    }
    ck_assert_int_gt(o[0].stats.backward_evaluations, 2 * o[0].stats.evaluations);
    ck_assert_mem_eq(o[0].by_y0, o[1].by_y0, sizeof o[0].by_y0);
    ck_assert_int_eq(o[0].stats.evaluations, o[1].stats.evaluations);
    ck_assert_int_eq(o[0].stats.steps, o[1].stats.steps);
    ck_assert_int_eq(o[0].stats.backward_steps, o[1].stats.backward_steps);
    ck_assert_uint_eq(o[0].stats.stored_bytes, o[1].stats.stored_bytes);
    for (int limit = 0; limit < 2; limit++) ode_stats_clear(&o[limit].stats);
}
END_TEST

/* A loss whose gradient is right and doubtful; y at `start` is (0, 0.5), turned by the angle. */
static const oscillator doubtful = { 8.7, 0.2, 1, FOLLOWS, 0 };
static const double start[] = { -0.32210884361884556, 0.38242109364224425, 0 }, rate0 = 0.7;

static ad_var record_doubtful(ad_var y, ad_var p, double rtol, ode_stats *stats)
{
    const ode_options o = { .stats = stats, .rtol = rtol, .atol = rtol * 1e-2 };
    ad_var times = ode_interval(y.tape, 0, horizon);
    return ad_sum_all(ode_solve_final(field, (void *)&doubtful, y, 1, &p, times, &o));
}

/* The first, third, seventh, ... doubtful gradient is compared, the others are passed over. */
static void check_doubt(const ode_stats *stats, int i)
{
    const bool compared = i == 0 || i == 2 || i == 6 || i == 14;
    ck_assert_msg(stats->doubt == (compared ? ODE_DOUBT_COMPARED : ODE_DOUBT_PASSED_OVER),
                  "gradient %d: %d", i, (int)stats->doubt);
    ck_assert_msg((stats->backward_evaluations > stats->evaluations) == compared,
                  "gradient %d: %lld evaluations for the solve, %lld for the gradient", i,
                  (long long)stats->evaluations, (long long)stats->backward_evaluations);
}

START_TEST(programs_look_less_and_less)
{
    double first[3], by_y0[3];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, start), bar;
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &rate0);
    ode_stats stats = { 0 };
    ad_grad(record_doubtful(y, p, 0, &stats), 1, &y, &bar);
    ad_program *program = ad_compile(2, (ad_var[]){ y, p }, 1, &bar);
    ck_assert_msg(program, "%s", ad_tape_error(tape));
    ad_workspace *w = ad_workspace_new(program, 1);
    for (int i = 0; i < 20; i++) {
        const void *in[] = { start, &rate0 };
        void *out[] = { i ? by_y0 : first };
        ck_assert_msg(!ad_run(program, w, 1, in, out), "%s", ad_workspace_error(w));
        check_doubt(&stats, i);
        if (i) ck_assert_mem_eq(by_y0, first, sizeof first);
    }
    ode_stats_clear(&stats);
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

/* So does a loop that records its loss anew, of several solves for each; another tolerance is
 * another solve. */
START_TEST(recorded_losses_look_less_and_less)
{
    double first[3], by_y0[3];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, start), bar;
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &rate0);
    ode_stats stats[3] = { { 0 } };
    const int32_t mark = ad_tape_mark(tape);
    for (int i = 0; i < 20; i++) {
        ad_var loss = record_doubtful(y, p, 0, &stats[0]);
        loss = ad_add(loss, record_doubtful(ad_scale(y, 0.5), p, 0, &stats[1]));
        if (i >= 3) loss = ad_add(loss, record_doubtful(y, p, 1e-5, &stats[2]));
        ad_grad(loss, 1, &y, &bar);
        ck_assert_msg(!ad_get(bar, i == 0 || i == 3 ? first : by_y0), "%s", ad_tape_error(tape));
        for (int k = 0; k < 2; k++) check_doubt(&stats[k], i);
        if (i >= 3) check_doubt(&stats[2], i - 3);
        if (i != 0 && i != 3) ck_assert_mem_eq(by_y0, first, sizeof first);
        ad_tape_rewind(tape, mark);
    }
    for (int k = 0; k < 3; k++) ode_stats_clear(&stats[k]);
    ad_tape_free(tape);
}
END_TEST

/* However many other solves there have been. */
START_TEST(ever_new_tolerances)
{
    double by_y0[3];
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, start), bar;
    ad_var p = ad_param(tape, AD_SHAPE(1, 1), &rate0);
    ode_stats stats = { 0 };
    const int32_t mark = ad_tape_mark(tape);
    for (int i = 0; i < 140; i++) {
        const int kind = i / 2;
        ad_grad(record_doubtful(y, p, 1e-6 * (1 + 1e-4 * kind), &stats), 1, &y, &bar);
        ck_assert_msg(!ad_get(bar, by_y0), "%s", ad_tape_error(tape));
        check_doubt(&stats, i % 2);
        ad_tape_rewind(tape, mark);
    }
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* One that is refused is so the next time, too. */
START_TEST(what_is_refused_stays_refused)
{
    static const double w[] = { 25, 25, 25, 0.1, 25 };
    enum { TIMES = sizeof w / sizeof w[0] };
    ad_tape *tape = ad_tape_new(AD_F64);
    const double zeros[MANY] = { 0 };
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, MANY), 1, zeros);
    const int32_t mark = ad_tape_mark(tape);
    ode_stats stats = { 0 };
    const ode_options o = { .stats = &stats };
    for (int i = 0; i < TIMES; i++) {
        ad_var args = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 1, &w[i]), bar;
        ad_var end =
            ode_solve_final(rows_beside, NULL, y, 1, &args, ode_interval(tape, 0, horizon), &o);
        ad_grad(ad_sum_all(ad_slice(end, 1, 0, 1)), 1, &y, &bar);
        ck_assert((ad_value(bar) == NULL) == (w[i] == 25));
        ck_assert_int_eq(stats.doubt, w[i] == 25 ? ODE_DOUBT_COMPARED : ODE_NO_DOUBT);
        ad_tape_clear_error(tape);
        ad_tape_rewind(tape, mark);
    }
    ode_stats_clear(&stats);
    ad_tape_free(tape);
}
END_TEST

/* Under a limit of memory that has no room for a comparison a gradient says that there was none. */
START_TEST(no_room_for_a_comparison)
{
    double by_y0[3], usual[3];
    int without = 0;
    for (int64_t limit = 1000000; limit > 10000; limit -= limit / 40) {
        ad_tape *tape = ad_tape_new(AD_F64);
        ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 3), 1, start), bar;
        ad_var p = ad_param(tape, AD_SHAPE(1, 1), &rate0);
        ode_stats stats = { 0 };
        ad_grad(record_doubtful(y, p, 0, &stats), 1, &y, &bar);
        ad_program *program = ad_compile(2, (ad_var[]){ y, p }, 1, &bar);
        ck_assert_msg(program, "%s", ad_tape_error(tape));
        ad_workspace *w = ad_workspace_new(program, 1);
        const void *in[] = { start, &rate0 };
        void *out[] = { limit == 1000000 ? usual : by_y0 };
        ad_workspace_set_limit(w, limit);
        const int failed = ad_run(program, w, 1, in, out);
        if (limit == 1000000) ck_assert_int_eq(stats.doubt, ODE_DOUBT_COMPARED);
        if (!failed && stats.doubt != ODE_DOUBT_COMPARED) {
            ck_assert_int_eq(stats.doubt, ODE_DOUBT_NO_ROOM);
            ck_assert_mem_eq(by_y0, usual, sizeof usual);
            without++;
        }
        ode_stats_clear(&stats);
        ad_workspace_free(w);
        ad_program_free(program);
        ad_tape_free(tape);
    }
    ck_assert_int_gt(without, 0);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("hidden_modes", "hidden_modes");
    tcase_add_loop_test(tests, those_that_have_decayed_are_left_alone, 0, 8);
    tcase_add_loop_test(tests, oscillations_are_right, 0, 2 * METHODS);
    tcase_add_loop_test(tests, oscillations_are_right_backwards, 0, 2 * METHODS);
    tcase_add_loop_test(tests, each_row_has_its_own, 0, 2 * METHODS);
    tcase_add_loop_test(tests, oscillations_are_right_at_all_times, 0, METHODS);
    tcase_add_test(tests, says_what_asks_for_the_steps);
    tcase_add_loop_test(tests, those_of_the_solution_pay_little, 0, 2 * METHODS);
    tcase_add_loop_test(tests, short_solves_are_right, 0, 2 * METHODS);
    tcase_add_loop_test(tests, loose_tolerances_are_right, 0, 2 * METHODS);
    tcase_add_loop_test(tests, those_beside_steeper_modes_are_right_or_refused, 0, BESIDE);
    tcase_add_loop_test(tests, those_beside_steeper_modes_are_found, 0, 2 * METHODS);
    tcase_add_loop_test(tests, one_of_many_rows_is_fast, 0, 2 * EXPLICIT);
    tcase_add_loop_test(tests, many_rows_are_alike, 0, 2 * EXPLICIT);
    tcase_add_loop_test(tests, any_order_of_rows, 0, 2);
    tcase_add_loop_test(tests, what_is_right_stays_as_it_is, 0, 2);
    tcase_add_test(tests, programs_look_less_and_less);
    tcase_add_test(tests, recorded_losses_look_less_and_less);
    tcase_add_test(tests, ever_new_tolerances);
    tcase_add_test(tests, what_is_refused_stays_refused);
    tcase_add_test(tests, no_room_for_a_comparison);
    return suite_run();
}
