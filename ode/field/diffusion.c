/* Diffusions: called, their noise recognised from what they return, and the correction between the
 * two calculi recorded from them. */
#include "ode/field/system.h"
#include <stdlib.h>
#include <string.h>

unsigned ode_noise_kinds(const ode_noise_of *n, bool commutative)
{
    unsigned kinds = n->additive ? ODE_TAKES_ADDITIVE : 0;
    if (n->langevin) kinds |= ODE_TAKES_LANGEVIN;
    if (n->m == 1) kinds |= ODE_TAKES_SCALAR;
    if (n->kind == ODE_NOISE_DIAGONAL) kinds |= ODE_TAKES_DIAGONAL;
    if (n->kind == ODE_NOISE_GENERAL) kinds |= ODE_TAKES_GENERAL;
    if (n->kind == ODE_NOISE_GENERAL && commutative) kinds |= ODE_TAKES_COMMUTATIVE;
    return kinds;
}

const char *ode_noise_name(const ode_noise_of *n)
{
    if (n->kind == ODE_NOISE_NONE) return "no";
    if (n->kind == ODE_NOISE_DIAGONAL) return n->additive ? "additive diagonal" : "diagonal";
    if (n->m == 1) return n->additive ? "additive scalar" : "scalar";
    return n->additive ? "additive general" : "general";
}

/* ---- what a diffusion returns ---- */

static bool broadcasts_to(ad_shape from, ad_shape to)
{
    ad_shape both;
    return ad_broadcast_shapes(from, to, &both) && ad_same_shape(both, to);
}

/* The shape of general noise by m Brownian motions: [rows,D...,m], or [1,D...,m] where `got` is the
 * same for all rows. */
static ad_shape general_shape(ad_shape state, ad_shape got)
{
    ad_shape shape = state;
    shape.dim[shape.rank++] = got.dim[got.rank - 1];
    if (!ad_has_rows(got)) shape.dim[0] = 1;
    return shape;
}

ode_noise_kind ode_diffusion_look(ad_tape *tape, ad_shape state, int i, ad_var *g)
{
    ad_shape got = ad_shape_of(*g);
    if (got.rank <= state.rank && broadcasts_to(got, state)) {
        *g = ad_broadcast(*g, state);
        return ODE_NOISE_DIAGONAL;
    }
    if (got.rank == state.rank + 1) {
        ad_shape shape = general_shape(state, got);
        if (broadcasts_to(got, shape)) {
            *g = ad_broadcast(*g, shape);
            return ODE_NOISE_GENERAL;
        }
    }
    char text[128], want[128];
    ad_format_shape(got, text, sizeof text);
    ad_format_shape(state, want, sizeof want);
    ad_fail(tape,
            "the diffusion returned %s for state %d of shape %s; it must have the state's shape "
            "(diagonal noise: a Brownian motion for each element), or one axis more at the end "
            "([rows,D...,m] or [1,D...,m]: m Brownian motions)",
            text, i, want);
    return ODE_NOISE_NONE;
}

/* Adds what state i has to the noise of the system. */
static void add_state(const ode_system *s, ad_tape *tape, int i, ode_noise_kind kind, ad_shape g,
                      ode_noise_of *noise)
{
    if (ad_tape_error(tape)) return;
    int64_t m = kind == ODE_NOISE_DIAGONAL ? s->size[i] : g.dim[g.rank - 1];
    if (noise->kind != ODE_NOISE_NONE && noise->kind != kind) {
        ad_fail(tape,
                "the diffusion returned diagonal noise for some states and general noise for "
                "state %d; all have noise of one kind: write diagonal noise as general noise, "
                "[rows,D...,m]",
                i);
    } else if (kind == ODE_NOISE_GENERAL && noise->states && noise->m != m) {
        ad_fail(tape,
                "the diffusion returned noise by %lld Brownian motions for state %d, and by %lld "
                "for a state before; general noise of all states is by the same ones: fill up "
                "with zeros",
                (long long)m, i, (long long)noise->m);
    }
    noise->m = kind == ODE_NOISE_DIAGONAL ? noise->m + m : m;
    noise->kind = kind;
    noise->states |= 1u << i;
}

/* Whether no g depends on a state, not even by looking at its value. */
static bool is_additive(const ode_system *s, unsigned states, const ad_var *y, const ad_var *g)
{
    for (int j = 0; j < s->nstate; j++) {
        if (s->rerecord && ad_looked_at(y[j])) return false;
        for (int i = 0; i < s->nstate; i++)
            if (states >> i & 1 && ad_depends(g[i], y[j])) return false;
    }
    return true;
}

static void call(const ode_system *s, ad_tape *tape, ad_var t, const ad_var *y, const ad_var *args,
                 ad_var *g)
{
    for (int i = 0; i < s->nstate; i++) g[i] = ad_none(tape);
    if (ad_tape_error(tape)) return;
    if (s->diffusion) g[0] = s->diffusion(t, y[0], args, s->user);
    else s->diffusions(t, s->nstate, y, args, s->user, g);
}

/* Of a diffusion that is called anew: whether it is as it was the first time. */
static void compare(ad_tape *tape, const ode_noise_of *was, const ode_noise_of *is)
{
    if (was->kind == is->kind && was->m == is->m && was->states == is->states &&
        (is->additive || !was->additive))
        return;
    ad_fail(tape,
            "the diffusion returned %s noise by %lld Brownian motions, and when it was called "
            "first, with ones for all numbers, %s noise by %lld: it must be of one kind",
            ode_noise_name(is), (long long)is->m, ode_noise_name(was), (long long)was->m);
}

void ode_diffusion_call(ode_system *s, ad_tape *tape, ad_var t, const ad_var *y, const ad_var *args,
                        ad_var *g)
{
    ode_noise_of noise = { .langevin = s->langevin };
    call(s, tape, t, y, args, g);
    for (int i = 0; i < s->nstate && !ad_tape_error(tape); i++) {
        if (!g[i].tape || (g[i].tape == tape && g[i].node < 0)) {
            g[i] = ad_none(tape);
        } else if (g[i].tape != tape) {
            ad_fail(tape,
                    "the diffusion returned a variable of another tape for state %d: outside "
                    "variables must be passed in args",
                    i);
        } else if (!ad_valid(g[i])) {
            ad_fail(tape, "the diffusion returned no valid variable for state %d", i);
        } else {
            ode_noise_kind kind = ode_diffusion_look(tape, s->state[i], i, &g[i]);
            add_state(s, tape, i, kind, ad_shape_of(g[i]), &noise);
        }
    }
    if (!ad_tape_error(tape) && !noise.states)
        ad_fail(tape, "the diffusion returned an empty variable for every state: an equation "
                      "without noise is solved by ode_solve");
    for (int i = 0; i < s->nstate && ad_tape_error(tape); i++) g[i] = ad_none(tape);
    if (ad_tape_error(tape)) return;
    noise.additive = is_additive(s, noise.states, y, g);
    if (s->noise.kind == ODE_NOISE_NONE) s->noise = noise;
    else compare(tape, &s->noise, &noise);
}

ad_shape ode_diffusion_shape(const ode_system *s, int i)
{
    ad_shape shape = s->state[i];
    if (s->noise.kind == ODE_NOISE_GENERAL) shape.dim[shape.rank++] = s->noise.m;
    return shape;
}

/* ---- the correction ---- */

/* Diagonal noise: column j of the matrix of all noise is g_j e_j, so the correction of element i is
 * (dg_i/dy_i) g_i. The diagonal of the Jacobian is the derivative, by weights u, of the trace of
 * the Jacobian of u g, which the tape finds in its cheapest form; the derivative does not read u,
 * as the trace is linear in it. */
static ad_var jacobian_diagonal(ad_tape *tape, ad_shape flat, ad_var g, ad_var x)
{
    ad_var u = ad_input_rows(tape, flat, 0, NULL), diagonal = ad_none(tape);
    ad_var trace = ad_jacobian_trace(ad_mul(u, g), x), one = ad_ones_like(trace);
    ad_vjp_cut(1, &trace, &one, 1, &u, &diagonal);
    return diagonal;
}

/* A trace is that of a function of vectors: a state of another shape is written as a view of one,
 * in whose place the state then is. */
static ad_var correct_diagonal(const ode_system *s, ad_tape *tape, const ode_diffusion_at *at,
                               int i)
{
    ad_shape state = s->state[i], flat = AD_SHAPE(AD_ROWS, s->size[i]);
    ad_var g = at->g[i];
    if (ad_same_shape(flat, state)) return ad_mul(jacobian_diagonal(tape, flat, g, at->y[i]), g);
    int n = s->nstate, inputs = n + at->nargs + 1;
    ad_var *in = malloc(2 * (size_t)inputs * sizeof *in), *to = in + inputs;
    if (!in) {
        ad_fail(tape, "out of memory");
        return ad_none(tape);
    }
    memcpy(in, at->y, (size_t)n * sizeof *in);
    if (at->nargs) memcpy(in + n, at->args, (size_t)at->nargs * sizeof *in);
    in[inputs - 1] = at->t;
    memcpy(to, in, (size_t)inputs * sizeof *to);
    ad_var x = ad_input_rows(tape, flat, 0, NULL), gx, diagonal, at_state;
    to[i] = ad_reshape(x, state);
    ad_inline(inputs, in, 1, &g, tape, to, &gx);
    diagonal = jacobian_diagonal(tape, flat, ad_reshape(gx, flat), x);
    in[i] = x;
    to[i] = ad_reshape(at->y[i], flat);
    ad_inline(inputs, in, 1, &diagonal, tape, to, &at_state);
    free(in);
    return ad_mul(ad_reshape(at_state, state), g);
}

/* General noise: the sum over the Brownian motions j of (dg_j/dy) g_j, where y are all states. */
static void correct_general(const ode_system *s, const ad_var *y, const ad_var *g, ad_var *sum)
{
    for (int64_t j = 0; j < s->noise.m; j++) {
        ad_var column[ODE_MAX_STATES], along[ODE_MAX_STATES], moved[ODE_MAX_STATES];
        int of[ODE_MAX_STATES], n = 0;
        for (int i = 0; i < s->nstate; i++) {
            along[i] = ad_zeros_like(y[i]);
            if (!(s->noise.states >> i & 1)) continue;
            int axis = s->state[i].rank;
            ad_var part = ad_slice(g[i], axis, j, j + 1);
            ad_shape shape = ad_shape_of(part);
            shape.rank--;
            of[n] = i;
            column[n++] = ad_reshape(part, shape);
            along[i] = ad_broadcast(column[n - 1], s->state[i]);
        }
        ad_jvp_cut(s->nstate, y, along, n, column, moved);
        for (int k = 0; k < n; k++) {
            ad_var term = moved[k];
            sum[of[k]] = sum[of[k]].node < 0 ? term : ad_add(sum[of[k]], term);
        }
    }
}

void ode_diffusion_correct(const ode_system *s, ad_tape *tape, const ode_diffusion_at *at,
                           double correction, ad_var *dy)
{
    if (ad_tape_error(tape) || s->noise.additive || correction == 0) return;
    ad_var sum[ODE_MAX_STATES];
    for (int i = 0; i < s->nstate; i++) sum[i] = ad_none(tape);
    if (s->noise.kind == ODE_NOISE_GENERAL) {
        correct_general(s, at->y, at->g, sum);
    } else {
        for (int i = 0; i < s->nstate; i++)
            if (s->noise.states >> i & 1) sum[i] = correct_diagonal(s, tape, at, i);
    }
    for (int i = 0; i < s->nstate; i++)
        if (sum[i].node >= 0) dy[i] = ad_add(dy[i], ad_scale(sum[i], correction));
}

/* ---- noise ---- */

/* General noise of a state: the sum over the Brownian motions. */
static ad_var contract(const ode_system *s, int j, ad_var g, ad_var x)
{
    ad_shape state = s->state[j];
    int64_t size = s->size[j], m = s->noise.m;
    bool rows = ad_has_rows(ad_shape_of(g));
    g = ad_reshape(g, rows ? AD_SHAPE(AD_ROWS, size, m) : AD_SHAPE(size, m));
    ad_var flat = ad_contract(rows ? "bdm,bm->bd" : "dm,bm->bd", 2, (ad_var[]){ g, x });
    return state.rank == 2 ? flat : ad_reshape(flat, state);
}

void ode_diffusion_apply(const ode_system *s, ad_tape *tape, const ad_var *g, ad_var x, ad_var *dy)
{
    bool diagonal = s->noise.kind == ODE_NOISE_DIAGONAL;
    int64_t at = 0;
    for (int j = 0; j < s->nstate; j++) {
        dy[j] = ad_none(tape);
        if (!(s->noise.states >> j & 1)) continue;
        if (!diagonal) {
            dy[j] = contract(s, j, g[j], x);
            continue;
        }
        int64_t n = s->size[j];
        ad_var part = n == s->noise.m ? x : ad_slice(x, 1, at, at + n);
        if (s->state[j].rank != 2) part = ad_reshape(part, s->state[j]);
        dy[j] = ad_mul(g[j], part);
        at += n;
    }
}

int ode_system_outputs(const ode_system *s, ad_var *out)
{
    int n = s->nstate;
    memcpy(out, s->dy, (size_t)n * sizeof *out);
    for (int i = 0; i < s->nstate; i++)
        if (s->noise.states >> i & 1) out[n++] = s->g[i];
    return n;
}
