/* Exogenous inputs: u(t) from samples at knots, as recorded operations, so that it is
 * differentiable in the samples and in t. */
#include "ode/field/system.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- knots that a field's trace takes note of ---- */

typedef struct {
    ad_var t, knots;
    bool jump;
} note;

typedef struct {
    int n, capacity;
    note *at;
} notes;

static const char tag[] = "ode_interpolate";

static void forget_notes(void *object)
{
    notes *all = object;
    free(all->at);
    free(all);
}

bool ode_listen_for_knots(ad_tape *trace)
{
    notes *all = calloc(1, sizeof *all);
    if (all) ad_cache_add(trace, tag, sizeof tag, all, forget_notes);
    return all;
}

static void take_note(ad_var t, ad_var knots, bool jump)
{
    notes *all = ad_cache_find(t.tape, tag, sizeof tag);
    if (!all) return; /* nobody listens */
    if (all->n == all->capacity) {
        int capacity = 2 * all->capacity + 4;
        note *more = realloc(all->at, (size_t)capacity * sizeof *more);
        if (!more) {
            ad_fail(t.tape, "ode_interpolate: out of memory");
            return;
        }
        all->at = more;
        all->capacity = capacity;
    }
    all->at[all->n++] = (note){ t, knots, jump };
}

/* Where the knots of a note stand: constants, or an argument as it was given; false: elsewhere,
 * where they cannot be known. */
static bool find_knots(const ode_system *s, const note *from, ode_knots *to,
                       const double **constant)
{
    *to = (ode_knots){ .arg = -1, .n = ad_shape_of(from->knots).dim[0], .jump = from->jump };
    *constant = ad_constant_elements(from->knots);
    for (int i = 0; i < s->nargs && !*constant; i++)
        if (s->args[i].node == from->knots.node) to->arg = i;
    return from->t.node == s->t.node && (*constant || to->arg >= 0);
}

bool ode_take_knots(ode_system *s)
{
    const notes *all = ad_cache_find(s->trace, tag, sizeof tag);
    if (!all || !all->n) return true;
    s->knots = calloc((size_t)all->n, sizeof *s->knots);
    if (!s->knots) return false;
    for (int i = 0; i < all->n; i++) {
        const double *constant;
        ode_knots *k = &s->knots[s->nknots];
        if (!find_knots(s, &all->at[i], k, &constant)) continue;
        s->nknots++;
        if (!constant) continue;
        k->knot = malloc((size_t)k->n * sizeof(double));
        if (!k->knot) return false;
        memcpy(k->knot, constant, (size_t)k->n * sizeof(double));
    }
    return true;
}

/* ---- interpolation ---- */

/* Slope of the samples at each knot, by the parabola through it and its neighbours (at the ends:
 * through the nearest three): [K,D] or [rows,K,D] as the samples. It depends on no time, so that a
 * solve computes it once. h: widths [K-1,1]. */
static ad_var knot_slopes(ad_var samples, ad_var h, int axis, int64_t n)
{
    ad_var s = ad_div(ad_sub(ad_slice(samples, axis, 1, n), ad_slice(samples, axis, 0, n - 1)),
                      h); /* [.., K-1, D] */
    if (n == 2) return ad_concatenate(2, (ad_var[]){ s, s }, axis);
    ad_var before = ad_slice(s, axis, 0, n - 2), after = ad_slice(s, axis, 1, n - 1);
    ad_var h0 = ad_slice(h, 0, 0, n - 2), h1 = ad_slice(h, 0, 1, n - 1);
    ad_var bend = ad_div(ad_sub(after, before), ad_add(h0, h1)); /* half the second derivative */
    ad_var inner = ad_add(before, ad_mul(bend, h0));
    ad_var first =
        ad_sub(ad_slice(s, axis, 0, 1), ad_mul(ad_slice(bend, axis, 0, 1), ad_slice(h, 0, 0, 1)));
    ad_var last = ad_add(ad_slice(s, axis, n - 2, n - 1),
                         ad_mul(ad_slice(bend, axis, n - 3, n - 2), ad_slice(h, 0, n - 2, n - 1)));
    return ad_concatenate(3, (ad_var[]){ first, inner, last }, axis);
}

/* Between knots that are one number in the tape's type a piece has no width. */
static void check_rounded_knots(ad_tape *tape, int64_t n, const double *k)
{
    if (ad_tape_dtype(tape) != AD_F32) return;
    for (int64_t i = 0; i + 1 < n; i++) {
        if ((float)k[i] < (float)k[i + 1]) continue;
        ad_fail(tape,
                "ode_interpolate: knots[%lld] = %.15g and knots[%lld] = %.15g are one number of "
                "float32; count time from the start (knots too), or use float64",
                (long long)i, k[i], (long long)i + 1, k[i + 1]);
        return;
    }
}

static bool check(ode_interpolation kind, ad_var t, ad_var knots, ad_var samples, int *axis)
{
    ad_tape *tape = t.tape ? t.tape : knots.tape ? knots.tape : samples.tape;
    ad_shape ts = ad_shape_of(t), ks = ad_shape_of(knots), us = ad_shape_of(samples);
    if (!tape || ad_tape_error(tape)) return false;
    char a[128], b[128], c[128];
    ad_format_shape(ts, a, sizeof a);
    ad_format_shape(ks, b, sizeof b);
    ad_format_shape(us, c, sizeof c);
    *axis = ad_has_rows(us) ? 1 : 0;
    if (t.tape != tape || knots.tape != tape || samples.tape != tape)
        ad_fail(tape, "ode_interpolate: t, knots and samples must be variables of one tape (inside "
                      "a field: that of t); pass outside "
                      "variables through args");
    else if (ts.rank < 0 || ad_count(ts, 1) != 1)
        ad_fail(tape, "ode_interpolate: t has shape %s; it must hold one time, or one for each row",
                a);
    else if (ks.rank != 1 || ks.dim[0] < 2)
        ad_fail(tape, "ode_interpolate: knots have shape %s; they must be [K], K >= 2", b);
    else if (us.rank != *axis + 2 || us.dim[*axis] != ks.dim[0])
        ad_fail(tape,
                "ode_interpolate: samples have shape %s for knots of shape %s; they must be [K,D] "
                "or [rows,K,D]",
                c, b);
    const double *k = ad_constant_elements(knots);
    if (!ad_tape_error(tape) && k && ad_constant_size(knots) < ks.dim[0])
        ad_fail(tape, "ode_interpolate: knots must be strictly increasing; all are %g",
                ode_shown(k[0]));
    for (int64_t i = 0; k && !ad_tape_error(tape) && i + 1 < ks.dim[0]; i++)
        if (!(k[i] < k[i + 1]) || !isfinite(k[i]) || !isfinite(k[i + 1]))
            ad_fail(tape,
                    "ode_interpolate: knots must be finite and strictly increasing: knots[%lld] = "
                    "%g, knots[%lld] = %g",
                    (long long)i, ode_shown(k[i]), (long long)i + 1, ode_shown(k[i + 1]));
    if (k && !ad_tape_error(tape) && kind != ODE_HOLD) check_rounded_knots(tape, ks.dim[0], k);
    return !ad_tape_error(tape);
}

/* As a column: [1,1] or [rows,1]. */
static ad_var column(ad_var x)
{
    ad_shape s = ad_shape_of(x);
    return ad_reshape(x, AD_SHAPE(ad_has_rows(s) ? AD_ROWS : 1, 1));
}

/* The latest sample: ad_locate ends at the last knot but one, and one more is to be told from it.
 */
static ad_var held(ad_var t, ad_var knots, ad_var samples)
{
    int64_t n = ad_shape_of(knots).dim[0];
    ad_var time = column(t),
           past = ad_ge(time, ad_reshape(ad_slice(knots, 0, n - 1, n), AD_SHAPE(1, 1)));
    return ad_take(samples, ad_add(ad_locate(time, knots), past));
}

ad_var ode_interpolate(ode_interpolation kind, ad_var t, ad_var knots, ad_var samples)
{
    int axis;
    if (!check(kind, t, knots, samples, &axis)) return ad_none(t.tape);
    if (kind != ODE_LINEAR && kind != ODE_CUBIC && kind != ODE_HOLD) {
        ad_fail(t.tape, "ode_interpolate: kind %d is none of ODE_LINEAR, ODE_CUBIC, ODE_HOLD",
                (int)kind);
        return ad_none(t.tape);
    }
    take_note(t, knots, kind == ODE_HOLD);
    int64_t n = ad_shape_of(knots).dim[0];
    if (kind == ODE_HOLD) return held(t, knots, samples);
    ad_var time = column(t), index = ad_locate(time, knots), following = ad_shift(index, 1);
    ad_var left = column(ad_take(knots, index)),
           width = ad_sub(column(ad_take(knots, following)), left);
    ad_var x = ad_div(ad_sub(time, left), width), u0 = ad_take(samples, index),
           u1 = ad_take(samples, following);
    ad_var step = ad_sub(u1, u0);
    if (kind == ODE_LINEAR) return ad_add(u0, ad_mul(x, step));
    ad_var h = ad_reshape(ad_sub(ad_slice(knots, 0, 1, n), ad_slice(knots, 0, 0, n - 1)),
                          AD_SHAPE(n - 1, 1));
    ad_var slopes = knot_slopes(samples, h, axis, n);
    ad_var m0 = ad_mul(width, ad_take(slopes, index)),
           m1 = ad_mul(width, ad_take(slopes, following));
    /* u0 + x (step + (1 - x) ((1 - x) (m0 - step) - x (m1 - step))): Hermite's cubic. */
    ad_var y = ad_shift(ad_neg(x), 1);
    ad_var bend = ad_sub(ad_mul(y, ad_sub(m0, step)), ad_mul(x, ad_sub(m1, step)));
    return ad_add(u0, ad_mul(x, ad_add(step, ad_mul(y, bend))));
}
