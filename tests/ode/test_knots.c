/* Inputs that are given by samples: the zero-order hold, and knots at which steps end by
 * themselves. */
#include "costate.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

static void get(ad_var x, double *v) { ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape)); }

static void close_to(const char *what, double value, double right, double tolerance)
{
    ck_assert_msg(fabs(value - right) <= tolerance, "%s: %.12g, right is %.12g", what, value,
                  right);
}

static ad_var zeros(ad_tape *tape, int64_t rows, int64_t d)
{
    double none[64] = { 0 };
    return ad_input_rows(tape, AD_SHAPE(AD_ROWS, d), rows, none);
}

enum { K = 6 };
/* Rounded up and down in f32. */
static const double knots[K] = { 0, 0.3, 0.7, 1.1, 1.6, 2.4 },
                    samples[K] = { 1, -2, 0.5, 3, -1, 2 };

/* ---- the hold ---- */

START_TEST(latest_sample)
{
    const double at[] = { -5, 0, 0.1, 0.3, 0.5, 0.7, 1.5, 1.6, 2.3, 2.4, 7 },
                 right[] = { 1, 1, 1, -2, -2, 0.5, 3, -1, -1, 2, 2 };
    const int index[] = { 0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 5 };
    ad_tape *tape = ad_tape_new(_i ? AD_F32 : AD_F64);
    ad_var k = ad_constant(tape, AD_SHAPE(K), knots), u = ad_param(tape, AD_SHAPE(K, 1), samples),
           g[2];
    for (int i = 0; i < 11; i++) {
        double v[K];
        ad_var t = ad_input(tape, AD_SHAPE(1, 1), &at[i]), y = ode_interpolate(ODE_HOLD, t, k, u);
        get(y, v);
        ck_assert_double_eq(v[0], right[i]);
        ad_grad(ad_sum_all(y), 2, (ad_var[]){ u, t }, g);
        get(g[0], v);
        for (int j = 0; j < K; j++) ck_assert_double_eq(v[j], j == index[i]);
        get(g[1], v);
        ck_assert_double_eq(v[0], 0);
    }
    /* Times and samples of the rows; two knots. */
    double own[] = { 1, 2, 3, 4, 5, 6 }, v[3];
    ad_var rows = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2, 1), 3, own);
    ad_var t = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 3, (double[]){ -1, 0.3, 0.2 });
    get(ode_interpolate(ODE_HOLD, t, ad_constant(tape, AD_SHAPE(2), knots), rows), v);
    ck_assert(v[0] == 1 && v[1] == 4 && v[2] == 5);
    ad_tape_free(tape);
}
END_TEST

/* ---- inside a field ---- */

typedef enum { CONSTANT, CONSTANT_ARGUMENT, INPUT, WAYS } way;
typedef struct {
    ode_interpolation kind;
    way way;
} input;

/* y' = u(t). args: samples, and the knots unless they are made here. */
static ad_var driven(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const input *in = user;
    (void)y;
    return ode_interpolate(in->kind, t,
                           in->way == CONSTANT ? ad_constant(t.tape, AD_SHAPE(K), knots) : args[1],
                           args[0]);
}

/* Time from a to b that belongs to sample k: the integral of its weight. */
static double weight(ode_interpolation kind, int k, double a, double b)
{
    double sum = 0;
    for (int i = -1; i < K; i++) { /* pieces: before the first knot, between, after the last */
        double left = i < 0 ? a : fmax(a, knots[i]), right = i == K - 1 ? b : fmin(b, knots[i + 1]);
        if (!(left < right)) continue;
        if (kind == ODE_HOLD) {
            sum += k == (i < 0 ? 0 : i) ? right - left : 0;
            continue;
        }
        int first = i < 0 ? 0 : i == K - 1 ? K - 2 : i;
        double x = ((left + right) / 2 - knots[first]) / (knots[first + 1] - knots[first]);
        sum += (right - left) * (k == first ? 1 - x : k == first + 1 ? x : 0);
    }
    return sum;
}

/* Pieces that every method integrates exactly, as long as each of its stages is on the step's own
 * side: constants, and for methods of second order straight lines, if no stage is to lie beyond the
 * step. Gradients are the weights of the samples. */
START_TEST(exact_pieces)
{
    for (const ode_method *const *m = ode_methods(); *m; m++)
        for (int i = 0; i < 64 * WAYS; i++) {
            input in = { i & 1 ? ODE_LINEAR : ODE_HOLD, i / 64 };
            ad_dtype dtype = i & 2 ? AD_F32 : AD_F64;
            ode_options o = { .method = *m, .adjoint = i & 4 ? &ode_backsolve : &ode_discrete };
            bool adaptive = i & 8, several = i & 32;
            double from = i & 16 ? 2 : 0.1, to = i & 16 ? 0.1 : 2, v[K], right = 0,
                   most = dtype == AD_F32 ? 3e-5 : 1e-11;
            if (adaptive && !ode_method_adaptive(*m)) continue;
            if (in.kind == ODE_LINEAR && ode_method_order(*m) < 2) continue;
            if (in.kind == ODE_LINEAR && method_looks_ahead(*m)) continue;
            if (!adaptive) o.steps = 3;
            char what[128];
            snprintf(what, sizeof what, "%s, case %d", ode_method_name(*m), i);
            ad_tape *tape = ad_tape_new(dtype);
            ad_var u = ad_param(tape, AD_SHAPE(K, 1), samples), g;
            ad_var k = in.way == INPUT ? ad_input(tape, AD_SHAPE(K), knots)
                                       : ad_constant(tape, AD_SHAPE(K), knots);
            ad_var args[] = { u, k },
                   times = several ? ode_linspace(tape, from, to, 4) : ode_interval(tape, from, to);
            ad_var y = ode_solve(driven, &in, zeros(tape, 1, 1), in.way == CONSTANT ? 1 : 2, args,
                                 times, &o);
            y = ad_slice(y, 1, several ? 3 : 1, several ? 4 : 2);
            get(y, v);
            double sign = to > from ? 1 : -1, a = fmin(from, to), b = fmax(from, to);
            for (int j = 0; j < K; j++) right += sign * samples[j] * weight(in.kind, j, a, b);
            close_to(what, v[0], right, most);
            ad_grad(ad_sum_all(y), 1, &u, &g);
            get(g, v);
            for (int j = 0; j < K; j++) close_to(what, v[j], sign * weight(in.kind, j, a, b), most);
            ad_tape_free(tape);
        }
}
END_TEST

/* Samples of the rows, an input that acts on what the state is, against the exact flow of each
 * piece. */
static ad_var growing(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_mul(y,
                  ode_interpolate(ODE_HOLD, t, ad_constant(t.tape, AD_SHAPE(K), knots), args[0]));
}

START_TEST(samples_of_the_rows)
{
    enum { ROWS = 3 };
    double own[ROWS * K], v[ROWS * K], y[ROWS];
    for (int row = 0; row < ROWS; row++)
        for (int k = 0; k < K; k++) own[row * K + k] = samples[k] * (1 + 0.3 * row) / 2;
    ad_tape *tape = ad_tape_new(_i % 2 ? AD_F32 : AD_F64);
    double most = _i % 2 ? 2e-3 : 1e-5;
    ode_options o = { .adjoint = _i / 2 ? &ode_backsolve : &ode_discrete };
    ad_var u = ad_input_rows(tape, AD_SHAPE(AD_ROWS, K, 1), ROWS, own), g;
    ad_var end = ode_solve_final(growing, NULL, ad_shift(zeros(tape, ROWS, 1), 1), 1, &u,
                                 ode_interval(tape, 0, 2), &o);
    ad_grad(ad_sum_all(end), 1, &u, &g);
    get(end, y);
    get(g, v);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int k = 0; k < K; k++) sum += own[r * K + k] * weight(ODE_HOLD, k, 0, 2);
        close_to("end", y[r], exp(sum), most * exp(sum));
        for (int k = 0; k < K; k++)
            close_to("by a sample", v[r * K + k], exp(sum) * weight(ODE_HOLD, k, 0, 2),
                     most * exp(sum));
    }
    ad_tape_free(tape);
}
END_TEST

/* A pulse of width 0.05 between samples that are zero, in the middle of a long time in which
 * nothing happens. */
static const double pulse_at[] = { 0, 4.975, 5, 5.025, 10 }, pulse[] = { 0, 0, 1, 0, 0 };

static ad_var pulsed(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y;
    return ode_interpolate(*(ode_interpolation *)user, t,
                           ad_constant(t.tape, AD_SHAPE(5), pulse_at), args[0]);
}

START_TEST(pulse_is_not_stepped_over)
{
    ode_interpolation kind = _i % 3 == 0 ? ODE_LINEAR : _i % 3 == 1 ? ODE_CUBIC : ODE_HOLD;
    for (const ode_method *const *m = ode_methods(); *m; m++) {
        if (!ode_method_adaptive(*m)) continue;
        ad_tape *tape = ad_tape_new(_i / 3 ? AD_F32 : AD_F64);
        ad_var u = ad_param(tape, AD_SHAPE(5, 1), pulse), y;
        double v, right = kind == ODE_CUBIC ? 0 : 0.025;
        if (kind == ODE_CUBIC) { /* by Simpson's rule between the knots, which is exact */
            ad_tape *exact = ad_tape_new(AD_F64);
            ad_var k = ad_constant(exact, AD_SHAPE(5), pulse_at),
                   w = ad_param(exact, AD_SHAPE(5, 1), pulse);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 3; j++) {
                    double h = pulse_at[i + 1] - pulse_at[i];
                    get(ode_interpolate(ODE_CUBIC, ad_scalar(exact, pulse_at[i] + j * h / 2), k, w),
                        &v);
                    right += h / 6 * v * (j == 1 ? 4 : 1);
                }
            ad_tape_free(exact);
        }
        y = ode_solve_final(pulsed, &kind, zeros(tape, 1, 1), 1, &u, ode_interval(tape, 0, 10),
                            &(ode_options){ .method = *m });
        get(y, &v);
        close_to(ode_method_name(*m), v, right,
                 (_i / 3 ? 1e-3 : 1e-5) * fmax(1, fabs(right)) * method_slack(*m));
        ad_tape_free(tape);
    }
}
END_TEST

/* ---- what it costs ---- */

static ad_var follows(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    return ad_sub(ode_interpolate(ODE_LINEAR, t, args[1], args[0]), y);
}

static ode_stats taken(ad_tape *tape, int64_t n, const double *at, const double *u,
                       const ode_options *given)
{
    ode_stats stats = { 0 };
    ode_options o = given ? *given : (ode_options){ 0 };
    o.stats = &stats;
    ad_var args[] = { ad_param(tape, AD_SHAPE(n, 1), u), ad_constant(tape, AD_SHAPE(n), at) };
    double v;
    get(ode_solve_final(follows, NULL, zeros(tape, 1, 1), 2, args, ode_interval(tape, 0, 1), &o),
        &v);
    close_to("y' = t - y", v, exp(-1), 1e-5);
    return stats;
}

/* The same straight line by knots outside the interval, at its ends, and inside it. */
START_TEST(only_knots_inside_cost)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    double far[] = { -200, -100, 100, 200 }, ends[] = { 0, 1 }, inside[] = { 0, 0.4, 1 };
    ode_stats a = taken(tape, 4, far, far, NULL), b = taken(tape, 2, ends, ends, NULL),
              c = taken(tape, 3, inside, inside, NULL);
    ck_assert_int_eq(a.evaluations, b.evaluations);
    ck_assert_int_eq(a.steps, b.steps);
    bool stopped = false;
    for (int64_t i = 0; i <= c.steps; i++)
        stopped = stopped || ode_steps_times(c.steps_taken)[i] == 0.4;
    ck_assert(stopped);
    /* Equal steps are as many as were asked for where the knots lie on them, and one more for a
     * knot between. */
    ode_stats d =
        taken(tape, 3, inside, inside, &(ode_options){ .method = &ode_dopri5, .steps = 20 });
    ck_assert_int_eq(d.steps, 20);
    inside[1] = 0.41;
    ode_stats e =
        taken(tape, 3, inside, inside, &(ode_options){ .method = &ode_dopri5, .steps = 20 });
    ck_assert_int_eq(e.steps, 21);
    ode_stats *all[] = { &a, &b, &c, &d, &e };
    for (int i = 0; i < 5; i++) ode_stats_clear(all[i]);
    ad_tape_free(tape);
}
END_TEST

/* A thousand knots are a thousand steps and no rejections. */
START_TEST(many_knots)
{
    static double at[1001];
    for (int i = 0; i <= 1000; i++) at[i] = 1e-3 * i;
    ad_tape *tape = ad_tape_new(AD_F64);
    ode_stats s = taken(tape, 1001, at, at, NULL);
    ck_assert_int_le(s.steps, 1010);
    ck_assert_int_le(s.rejected, 1);
    ck_assert_int_le(s.evaluations - s.probe_evaluations, 6200);
    ck_assert_int_le(s.probe_evaluations * 20, s.evaluations);
    ode_stats_clear(&s);
    ad_tape_free(tape);
}
END_TEST

/* One program, knots that are an input of it: each run stops at its own. */
START_TEST(knots_of_the_run)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    input in = { ODE_HOLD, INPUT };
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 1), 0, NULL),
           k = ad_input(tape, AD_SHAPE(K), NULL);
    ad_var args[] = { ad_param(tape, AD_SHAPE(K, 1), samples), k };
    ad_var y = ode_solve_final(driven, &in, y0, 2, args, ode_interval(tape, 0, 3), NULL),
           inputs[] = { y0, args[0], k };
    ad_program *program = ad_compile(3, inputs, 1, &y);
    ck_assert_msg(program, "%s", ad_tape_error(tape) ? ad_tape_error(tape) : "");
    ad_workspace *w = ad_workspace_new(program, 1);
    for (int run = 0; run < 3; run++) {
        double at[K], zero = 0, end, right = 0;
        for (int i = 0; i < K; i++) at[i] = knots[i] * (1 + 0.1 * run);
        for (int i = 0; i < K; i++) right += samples[i] * ((i + 1 < K ? at[i + 1] : 3) - at[i]);
        ck_assert_msg(
            !ad_run(program, w, 1, (const void *[]){ &zero, samples, at }, (void *[]){ &end }),
            "%s", ad_workspace_error(w));
        close_to("run", end, right, 1e-11);
    }
    ad_workspace_free(w);
    ad_program_free(program);
    ad_tape_free(tape);
}
END_TEST

/* Of pieces without a width nothing is left, and among knots in disorder no time is found. Times of
 * a clock come to that in floats; what is held needs no width. */
START_TEST(knots_that_do_not_increase)
{
    static const struct {
        ad_dtype dtype;
        double knots[K];
        int held; /* whether ODE_HOLD takes them */
        const char *message;
    } cases[] = {
        { AD_F64, { 0, 1, 1, 2, 3, 4 }, 1, "knots[1] = 1, knots[2] = 1" },
        { AD_F64, { 0, 1, 3, 2, 4, 5 }, 0, "knots[2] = 3, knots[3] = 2" },
        { AD_F64, { 0, 1, NAN, 2, 4, 5 }, 0, "knots[1] = 1, knots[2] = nan" },
        { AD_F32, { 1e9, 1e9 + 1, 2e9, 3e9, 4e9, 5e9 }, 1, "knots[1] = 1000000000 as float32" },
    };
    for (int kind = ODE_LINEAR; kind <= ODE_HOLD; kind++) {
        input in = { (ode_interpolation)kind, INPUT };
        ad_tape *tape = ad_tape_new(cases[_i].dtype);
        ad_var args[] = { ad_param(tape, AD_SHAPE(K, 1), samples),
                          ad_input(tape, AD_SHAPE(K), cases[_i].knots) };
        double v;
        int failed = ad_get(ode_solve_final(driven, &in, zeros(tape, 1, 1), 2, args,
                                            ode_interval(tape, 2, 3), NULL),
                            &v);
        const char *error = ad_tape_error(tape);
        if (kind == ODE_HOLD && cases[_i].held) ck_assert_msg(!failed, "%s", error);
        else
            ck_assert_msg(error && strstr(error, "argument 1, do not increase") &&
                              strstr(error, cases[_i].message),
                          "%s", error ? error : "no error");
        ad_tape_free(tape);
    }
}
END_TEST

/* The same function written without the interpolation, first, on the same tape: it does not take
 * away the stops of the other. */
static ad_var by_hand(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user, (void)y;
    ad_var k = ad_constant(t.tape, AD_SHAPE(K), knots),
           past = ad_ge(t, ad_reshape(ad_slice(k, 0, K - 1, K), AD_SHAPE(1, 1)));
    return ad_take(args[0], ad_add(ad_locate(t, k), past));
}

START_TEST(equal_function_without_stops)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    input in = { ODE_HOLD, CONSTANT };
    ad_var u = ad_param(tape, AD_SHAPE(K, 1), samples), y0 = zeros(tape, 1, 1),
           times = ode_interval(tape, 0, 2);
    double v, right = 0;
    for (int k = 0; k < K; k++) right += samples[k] * weight(ODE_HOLD, k, 0, 2);
    get(ode_solve_final(by_hand, NULL, y0, 1, &u, times, NULL), &v);
    get(ode_solve_final(driven, &in, y0, 1, &u, times, NULL), &v);
    close_to("with stops", v, right, 1e-12);
    ad_tape_free(tape);
}
END_TEST

int main(void)
{
    TCase *c = suite_case("knots", "knots");
    tcase_add_loop_test(c, latest_sample, 0, 2);
    tcase_add_test(c, exact_pieces);
    tcase_add_loop_test(c, samples_of_the_rows, 0, 4);
    tcase_add_loop_test(c, pulse_is_not_stepped_over, 0, 6);
    tcase_add_test(c, only_knots_inside_cost);
    tcase_add_test(c, many_knots);
    tcase_add_test(c, knots_of_the_run);
    tcase_add_loop_test(c, knots_that_do_not_increase, 0, 4);
    tcase_add_test(c, equal_function_without_stops);
    return suite_run();
}
