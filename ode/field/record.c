/* Right-hand sides on tapes: the user's field called anew or inlined as it was traced, the driven
 * field of a stochastic equation, and the augmented system of the continuous adjoint, which is made
 * from them by ad_vjp. */
#include "ode/field/system.h"
#include <stdlib.h>
#include <string.h>

static bool broadcasts_to(ad_shape from, ad_shape to)
{
    ad_shape both;
    return ad_broadcast_shapes(from, to, &both) && ad_same_shape(both, to);
}

/* ---- calling the user's field ---- */

ad_var ode_checked_derivative(ad_tape *tape, ad_var dy, int i, ad_shape state)
{
    char got[128], want[128];
    if (ad_tape_error(tape)) return ad_none(tape);
    if (!dy.tape) {
        ad_fail(tape,
                "it returned an empty variable ({0}) for state %d: every way through the field "
                "must return the derivative",
                i);
    } else if (dy.tape != tape) {
        ad_fail(tape,
                "it returned a variable of another tape for state %d: outside variables must be "
                "passed in args",
                i);
    } else if (!ad_valid(dy)) {
        ad_fail(tape, "it returned no valid variable for state %d", i);
    } else if (broadcasts_to(ad_shape_of(dy), state)) {
        return ad_broadcast(dy, state);
    } else {
        ad_format_shape(ad_shape_of(dy), got, sizeof got);
        ad_format_shape(state, want, sizeof want);
        ad_fail(
            tape,
            "it returned %s for a state of shape %s; the derivative must have the state's shape",
            got, want);
    }
    return ad_none(tape);
}

void ode_system_call(ode_system *s, ad_tape *tape, ad_var t, const ad_var *y, const ad_var *args,
                     ad_var *dy, ad_var *g)
{
    for (int i = 0; i < s->nstate; i++) dy[i] = ad_none(tape);
    if (ad_tape_error(tape)) return;
    if (s->field) dy[0] = s->field(t, y[0], args, s->user);
    else s->fields(t, s->nstate, y, args, s->user, dy);
    for (int i = 0; i < s->nstate; i++) dy[i] = ode_checked_derivative(tape, dy[i], i, s->state[i]);
    if (g) ode_diffusion_call(s, tape, t, y, args, g);
    ode_diffusion_at at = { .t = t, .y = y, .args = args, .g = g, .nargs = s->nargs };
    if (g) ode_diffusion_correct(s, tape, &at, s->correction, dy);
    for (int i = 0; i < s->nstate && ad_tape_error(tape); i++) dy[i] = ad_none(tape);
}

/* ---- recording ---- */

/* The field as it was traced. */
static void record_traced(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                          const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g,
                          const ode_residuals *residuals, ad_var *kept)
{
    int n = 1 + s->nstate + s->nrow + s->nshared, k = 0, nkept = residuals ? residuals->n : 0,
        nout = 0;
    ad_var *in = malloc(2 * (size_t)(n + 2 * s->nstate + nkept) * sizeof *in);
    if (!in) {
        ad_fail(tape, "out of memory");
        return;
    }
    ad_var *to = in + n, *out = to + n, *result = out + 2 * s->nstate + nkept;
    in[k] = s->t;
    to[k++] = t;
    for (int i = 0; i < s->nstate; i++) {
        in[k] = s->y[i];
        to[k++] = y[i];
    }
    for (int i = 0; i < s->nrow; i++) {
        in[k] = s->args[s->row[i]];
        to[k++] = row[i];
    }
    for (int i = 0; i < s->nshared; i++) {
        in[k] = s->frontier[i];
        to[k++] = shared[i];
    }
    for (int i = 0; dy && i < s->nstate; i++) out[nout++] = s->dy[i];
    for (int i = 0; g && i < s->nstate; i++)
        if (s->noise.states >> i & 1) out[nout++] = s->g[i];
    for (int i = 0; i < nkept; i++) out[nout++] = residuals->var[i];
    ad_inline(n, in, nout, out, tape, to, result);
    const ad_var *next = result;
    for (int i = 0; dy && i < s->nstate; i++) dy[i] = *next++;
    for (int i = 0; g && i < s->nstate; i++)
        if (s->noise.states >> i & 1) g[i] = *next++;
    for (int i = 0; i < nkept; i++) kept[i] = *next++;
    free(in);
}

static void record_called(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                          const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g)
{
    ad_var args[ODE_MAX_ARGS], drift[ODE_MAX_STATES], diffusion[ODE_MAX_STATES];
    int nrow = 0, nshared = 0;
    for (int i = 0; i < s->nargs; i++)
        args[i] = ad_has_rows(s->arg[i]) ? row[nrow++] : shared[nshared++];
    bool both = g || s->correction != 0;
    ode_system_call((ode_system *)s, tape, t, y, args, dy ? dy : drift, both ? diffusion : NULL);
    if (g) memcpy(g, diffusion, (size_t)s->nstate * sizeof *g);
}

void ode_system_record_kept(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                            const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g,
                            const ode_residuals *residuals, ad_var *kept)
{
    for (int i = 0; i < s->nstate; i++) {
        if (dy) dy[i] = ad_none(tape);
        if (g) g[i] = ad_none(tape);
    }
    for (int i = 0; residuals && i < residuals->n; i++) kept[i] = ad_none(tape);
    if (s->trace) record_traced(s, tape, t, y, row, shared, dy, g, residuals, kept);
    else record_called(s, tape, t, y, row, shared, dy, g);
}

void ode_check_argument(const ode_system *s, ad_var arg, bool row, int i, ad_var bar)
{
    const double *zero = s->rerecord ? ad_constant_elements(bar) : NULL;
    for (int64_t k = 0; zero && k < ad_constant_size(bar); k++)
        if (zero[k] != 0) return;
    if (!zero || !ad_looked_at(arg)) return;
    int argument = 0;
    for (int before = 0; argument < s->nargs - 1; argument++)
        if (ad_has_rows(s->arg[argument]) == row && before++ == i) break;
    ad_fail(arg.tape,
            "the field reads the value of argument %d (ad_value, ad_item) and depends on it in no "
            "other way; to the gradient a number is a "
            "constant, so that it would be 0: compute with the variable",
            argument);
}

static void correct_from_ito(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                             const ad_var *row, const ad_var *shared, const ad_var *g, ad_var *f)
{
    int n = s->nrow + s->nshared;
    ad_var *args = malloc((size_t)(n + 1) * sizeof *args);
    if (!args) {
        ad_fail(tape, "out of memory");
        return;
    }
    if (s->nrow) memcpy(args, row, (size_t)s->nrow * sizeof *args);
    if (s->nshared) memcpy(args + s->nrow, shared, (size_t)s->nshared * sizeof *args);
    ode_diffusion_at at = { .t = t, .y = y, .args = args, .g = g, .nargs = n };
    ode_diffusion_correct(s, tape, &at, -0.5, f);
    free(args);
}

/* f h + g w; stratonovich: f is that of the calculus whatever the system's own. */
static void record_driven(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                          const ad_var *row, const ad_var *shared, const ode_driving *by,
                          bool stratonovich, ad_var *dy, const ode_residuals *residuals,
                          ad_var *kept)
{
    ad_var f[ODE_MAX_STATES], g[ODE_MAX_STATES];
    ode_system_record_kept(s, tape, t, y, row, shared, f, g, residuals, kept);
    if (stratonovich && s->calculus == SDE_ITO) correct_from_ito(s, tape, t, y, row, shared, g, f);
    ode_diffusion_apply(s, tape, g, by->w, dy);
    for (int j = 0; j < s->nstate; j++) {
        ad_var drift = ad_mul(by->h, f[j]);
        dy[j] = dy[j].node < 0 ? drift : ad_add(drift, dy[j]);
    }
}

/* x' = f, a' = -(df/dx)^T a, q' = -(df/dargs)^T a (Pontryagin's adjoint; Chen et al. 2018,
 * arXiv:1806.07366, appendix B). Where x is given, the first is left out. Costates come first: the
 * program of a step computes what its first result needs in order, so that each stage's costate
 * follows on its state, whose hidden units need not wait for it. */
static void record_augmented(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                             const ad_var *row, const ad_var *shared, const ode_driving *by,
                             ad_var *dy, ad_var *quad)
{
    int n = s->base->nstate, nquad = quad ? s->nquad : 0;
    const ad_var *state = s->ngiven ? row + s->nrow - s->ngiven : y + n, *costate = y;
    ad_var f[ODE_MAX_STATES], *slope = s->ngiven ? f : dy + n, *costate_slope = dy;
    if (by) record_driven(s->base, tape, t, state, row, shared, by, true, slope, NULL, NULL);
    else ode_system_record(s->base, tape, t, state, row, shared, slope, NULL);
    ad_var *x = malloc(2 * (size_t)(n + nquad) * sizeof *x);
    if (!x) ad_fail(tape, "out of memory");
    if (ad_tape_error(tape)) {
        free(x);
        for (int i = 0; i < n; i++) costate_slope[i] = ad_none(tape);
        for (int i = 0; i < nquad; i++) quad[i] = ad_none(tape);
        return;
    }
    ad_var *bar = x + n + nquad;
    for (int i = 0; i < n; i++) x[i] = state[i];
    for (int i = 0; i < nquad; i++)
        x[n + i] = i < s->nquad_row ? row[s->quad_of[i]] : shared[s->quad_of[i]];
    ad_vjp_cut(n, slope, costate, n + nquad, x, bar);
    for (int i = 0; i < n; i++) costate_slope[i] = ad_neg(bar[i]);
    for (int i = 0; i < nquad; i++) {
        ode_check_argument(s, x[n + i], i < s->nquad_row, s->quad_of[i], bar[n + i]);
        quad[i] = ad_neg(bar[n + i]);
    }
    free(x);
}

void ode_system_record(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                       const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *quad)
{
    if (s->base) record_augmented(s, tape, t, y, row, shared, NULL, dy, quad);
    else ode_system_record_kept(s, tape, t, y, row, shared, dy, NULL, NULL, NULL);
}

void ode_system_record_driven(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y,
                              const ad_var *row, const ad_var *shared, const ode_driving *by,
                              ad_var *dy, ad_var *quad, const ode_residuals *residuals,
                              ad_var *kept)
{
    if (s->base) record_augmented(s, tape, t, y, row, shared, by, dy, quad);
    else record_driven(s, tape, t, y, row, shared, by, false, dy, residuals, kept);
}
