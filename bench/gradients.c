/* Default gradients of small problems whose right derivatives are known: most of them are those at
 * which adaptive steps, chosen by the error of the state alone, spoil the gradient. Prints JSON for
 * bench/peers/gradients.py, which has the same problems and sets the results beside the right
 * values and those of other libraries. */
#include "costate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ad_var column(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }
static ad_var pair(ad_var a, ad_var b) { return ad_concatenate(2, (ad_var[]){ a, b }, 1); }

/* ---- fields; p is the parameter ---- */

#define FIELD(name) static ad_var name(ad_var t, ad_var y, const ad_var *p, void *user)

FIELD(forced_decay)
{
    (void)user;
    return ad_sub(ad_mul(p[0], ad_sin(t)), y);
}

FIELD(wave)
{
    (void)user;
    return ad_add(ad_scale(y, 0), ad_mul(p[0], ad_square(ad_sin(ad_scale(t, 20 * acos(-1.0))))));
}

FIELD(hump)
{
    (void)user;
    return ad_add(ad_scale(y, 0),
                  ad_div(p[0], ad_shift(ad_scale(ad_square(ad_shift(t, -0.5)), 400), 1)));
}

FIELD(oscillator)
{
    (void)t, (void)user;
    return pair(column(y, 1), ad_sub(ad_sub(p[0], ad_scale(column(y, 1), 0.1)), column(y, 0)));
}

FIELD(fast_decay)
{
    (void)user;
    return ad_mul(p[0], ad_sub(ad_cos(t), y));
}

FIELD(van_der_pol)
{
    (void)t, (void)user;
    ad_var x = column(y, 0), v = column(y, 1);
    return pair(v, ad_sub(ad_mul(p[0], ad_mul(ad_shift(ad_neg(ad_square(x)), 1), v)), x));
}

FIELD(chain)
{
    (void)t, (void)user;
    return ad_mul(p[0], pair(ad_sub(column(y, 1), column(y, 0)), ad_scale(column(y, 1), 0)));
}

FIELD(resting_mode)
{
    (void)user;
    ad_var z = column(y, 1);
    return pair(ad_add(ad_mul(p[0], ad_cos(t)), z), ad_scale(z, -500));
}

FIELD(lotka_volterra)
{
    (void)t, (void)user;
    ad_var both = ad_mul(column(y, 0), column(y, 1));
    return pair(ad_sub(ad_mul(p[0], column(y, 0)), both), ad_sub(both, ad_scale(column(y, 1), 3)));
}

FIELD(lorenz)
{
    (void)t, (void)user;
    ad_var a = column(y, 0), b = column(y, 1), c = column(y, 2);
    ad_var dy[] = { ad_scale(ad_sub(b, a), 10), ad_sub(ad_mul(a, ad_sub(p[0], c)), b),
                    ad_sub(ad_mul(a, b), ad_scale(c, 8.0 / 3)) };
    return ad_concatenate(3, dy, 1);
}

FIELD(kepler)
{
    (void)t, (void)user;
    ad_var q = ad_slice(y, 1, 0, 2), r2 = ad_sum_axis(ad_square(q), 1, true);
    return pair(ad_slice(y, 1, 2, 4), ad_neg(ad_mul(p[0], ad_div(q, ad_mul(r2, ad_sqrt(r2))))));
}

/* ---- problems: the derivatives of the first component at the end by p and by y0 ---- */

typedef struct {
    const char *name;
    ode_field field;
    int width;
    double y0[4], p, end;
} problem;

static const problem problems[] = {
    { "forced decay at rest, T = 10", forced_decay, 1, { 0 }, 0, 10 },
    { "forced decay at rest, T = 1000", forced_decay, 1, { 0 }, 0, 1000 },
    { "wave of height 0", wave, 1, { 0 }, 0, 1 },
    { "hump of height 0", hump, 1, { 0 }, 0, 1 },
    { "oscillator at rest", oscillator, 2, { 0, 0 }, 0, 50 },
    { "fast decay to cos t", fast_decay, 1, { 1 }, 3211.8388779548577, 3 },
    { "van der Pol, mu = 30", van_der_pol, 2, { 2, 0 }, 30, 20 },
    { "chain at rest", chain, 2, { 0.5, 0.5 }, 1, 1000 },
    { "fast mode at rest", resting_mode, 2, { 0, 0 }, 1, 10 },
    { "Lotka-Volterra", lotka_volterra, 2, { 1, 1 }, 1.5, 10 },
    { "van der Pol, mu = 1", van_der_pol, 2, { 2, 0 }, 1, 10 },
    { "Lorenz, T = 2", lorenz, 3, { 1, 1, 1 }, 28, 2 },
    { "Kepler", kepler, 4, { 0.5, 0, 0, 1.7320508 }, 1, 10 },
};

static void print_number(const char *before, double x)
{
    if (isfinite(x)) printf("%s%.17g", before, x);
    else printf("%snull", before);
}

static void print_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text >= ' ') putchar(*text);
    }
    putchar('"');
}

/* A solve of the problem on the tape, its last first component, and what that depends on. */
static ad_var record(ad_tape *tape, const problem *q, const ode_options *options, ad_var x[2])
{
    x[0] = ad_input_rows(tape, AD_SHAPE(AD_ROWS, q->width), 1, q->y0);
    x[1] = ad_param(tape, AD_SHAPE(1), &q->p);
    ad_var y =
        ode_solve_final(q->field, NULL, x[0], 1, &x[1], ode_interval(tape, 0, q->end), options);
    return ad_sum_all(column(y, 0));
}

/* The relative differences from the gradients with all steps halved. The check runs on a tape of
 * its own, so that what it refuses hides no gradient. */
static void print_check(const problem *q, ad_dtype dtype, ode_options options)
{
    ad_tape *tape = ad_tape_new(dtype);
    ad_var x[2];
    ad_gradient_difference d[2] = { { .difference = NAN }, { .difference = NAN } };
    options.stats = NULL;
    ad_var loss = record(tape, q, &options, x);
    ad_check_gradient(loss, 2, x, 0, NULL, d);
    print_number(", \"check_y0\": ", d[0].difference);
    print_number(", \"check_p\": ", d[1].difference);
    ad_tape_free(tape);
}

static void print_gradient(const problem *q, ad_dtype dtype, const ode_method *method,
                           const ode_adjoint *adjoint)
{
    ad_tape *tape = ad_tape_new(dtype);
    ode_stats stats = { 0 };
    ode_options options = { .method = method, .adjoint = adjoint, .stats = &stats };
    ad_var x[2], g[2];
    double by_y0[4] = { NAN, NAN, NAN, NAN };
    ad_var loss = record(tape, q, &options, x);
    ad_grad(loss, 2, x, g);
    double value = ad_item(loss);
    int failed = ad_get(g[0], by_y0);
    double by_p = ad_item(g[1]);
    printf("{\"problem\": \"%s\", \"dtype\": \"%s\", \"method\": \"%s\", \"adjoint\": \"%s\"",
           q->name, dtype == AD_F32 ? "f32" : "f64", ode_method_name(method),
           ode_adjoint_name(adjoint));
    if (failed || ad_tape_error(tape)) {
        printf(", \"error\": ");
        print_text(ad_tape_error(tape));
    } else {
        print_number(", \"value\": ", value);
        print_number(", \"p\": ", by_p);
        printf(", \"y0\": [");
        for (int i = 0; i < q->width; i++) print_number(i ? ", " : "", by_y0[i]);
        printf("], \"steps\": %lld, \"evaluations\": %lld", (long long)stats.steps,
               (long long)stats.evaluations);
    }
    ode_stats_clear(&stats);
    ad_tape_free(tape);
    print_check(q, dtype, options);
    printf("}");
}

int main(void)
{
    static const ode_method *const methods[] = { &ode_dopri5, &ode_tsit5,    &ode_dopri8,
                                                 &ode_bosh3,  &ode_midpoint, &ode_ralston };
    const char *before = "[";
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            for (int k = 0; ode_adjoints()[k]; k++)
                for (int f32 = 0; f32 < 2; f32++) {
                    const ode_adjoint *adjoint = ode_adjoints()[k];
                    if (m > 0 && adjoint != &ode_discrete) continue; /* the default method only */
                    if (!ode_adjoint_takes(adjoint, methods[m])) continue;
                    printf("%s\n", before);
                    print_gradient(&problems[i], f32 ? AD_F32 : AD_F64, methods[m], adjoint);
                    before = ",";
                }
        }
        fflush(stdout);
    }
    printf("\n]\n");
    return 0;
}
