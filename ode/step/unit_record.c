/* What units compute: the places of their inputs and outputs, and how each kind is recorded. */
#include "ode/step/unit.h"
#include <stdlib.h>
#include <string.h>

/* ---- places of inputs and outputs ---- */

static int add_input(ode_unit *u, ad_shape shape, bool parameter)
{
    u->in[u->nin] = shape;
    u->parameter[u->nin] = parameter;
    return u->nin++;
}

static int add_states(ode_unit *u)
{
    int first = u->nin;
    for (int i = 0; i < u->system->nstate; i++) add_input(u, u->system->state[i], false);
    return first;
}

static int add_outputs(ode_unit *u, int n)
{
    int first = u->nout;
    u->nout += n;
    return first;
}

static void place_times(ode_unit *u, int n)
{
    u->at.nt = n;
    u->at.t = u->nin;
    for (int i = 0; i < n; i++) add_input(u, ode_time_shape(u->system->rank), false);
}

static void place_arguments(ode_unit *u)
{
    const ode_system *s = u->system;
    u->at.row = u->nin;
    for (int i = 0; i < s->nrow; i++) add_input(u, s->arg[s->row[i]], false);
    u->at.shared = u->nin;
    for (int i = 0; i < s->nshared; i++) add_input(u, s->shared[i], true);
}

/* Residuals of evaluations first .. n - 1: outputs, or (of a VJP) inputs. */
static void place_kept(ode_unit *u, int first, int n)
{
    const ode_residuals *r = u->key.residuals;
    bool given = u->key.kind == ODE_UNIT_STEP_VJP;
    u->at.first_kept = first;
    u->at.nkept = n;
    u->at.kept = given ? u->nin : u->nout;
    if (!r) return;
    if (!given) u->nout += (n - first) * r->n;
    for (int i = first; given && i < n; i++)
        for (int j = 0; j < r->n; j++) add_input(u, r->shape[j], false);
}

static void place_vjp_outputs(ode_unit *u)
{
    const ode_system *s = u->system;
    u->at.xbar = add_outputs(u, s->nstate);
    if (u->key.method->begin && u->key.kind == ODE_UNIT_STEP_VJP)
        u->at.carry_out = add_outputs(u, s->nstate);
    u->at.row_out = u->nout;
    for (int i = 0; i < s->nrow; i++) u->nout += u->key.need >> s->row[i] & 1;
    u->at.shared_out = u->nout;
    for (int i = 0; i < s->nshared; i++) u->nout += ode_shared_needed(s, i, u->key.need);
    if (!(u->key.flags & ODE_TIMES)) return;
    u->at.t_out = add_outputs(u, u->at.nt);
    u->at.h_out = add_outputs(u, 1);
}

static void place_step(ode_unit *u)
{
    const ode_method *m = u->key.method;
    int n = u->system->nstate;
    bool estimate = u->key.flags & ODE_ESTIMATE, dense = u->key.flags & ODE_DENSE,
         quadrature = u->key.flags & ODE_QUADRATURE;
    bool norm = u->key.flags & ODE_QUADRATURE_NORM;
    u->at.h = add_input(u, AD_SCALAR, false);
    place_times(u, ode_method_times(m, estimate, dense));
    u->at.y = add_states(u);
    if (estimate || m->begin) u->at.carry = add_states(u);
    u->at.nk = dense ? m->tableau->stages + 1 + m->tableau->extra : 0;
    place_arguments(u);
    if (u->key.kind == ODE_UNIT_STEP_VJP) {
        u->at.ybar = add_states(u);
        if (m->begin) u->at.carry_bar = add_states(u);
        u->at.k_bar = u->nin;
        for (int i = 0; i < u->at.nk; i++) add_states(u);
        place_vjp_outputs(u);
        u->at.k = add_outputs(u, dense && u->key.flags & ODE_TIMES ? u->at.nk * n : 0);
        if (u->key.residuals) place_kept(u, 0, dense ? u->at.nk : m->tableau->stages);
        return;
    }
    if (estimate) {
        u->at.tolerance = add_input(u, AD_SCALAR, false);
        add_input(u, AD_SCALAR, false);
        add_input(u, AD_SCALAR, false);
    }
    u->at.each = u->nin;
    for (int i = 0; u->key.flags & ODE_EACH && i < n; i++) {
        ad_shape each = u->system->state[i];
        each.dim[0] = 1;
        add_input(u, each, false);
    }
    u->at.carry_quad = u->nin;
    for (int i = 0; estimate && quadrature && i < u->system->nquad; i++)
        add_input(u, u->system->quad[i], false);
    u->at.size = u->nin;
    for (int i = 0; norm && i < u->system->nquad; i++) add_input(u, u->system->quad[i], false);
    u->at.next = add_outputs(u, n);
    u->at.carry_next = add_outputs(u, estimate || m->begin ? n : 0);
    u->at.carry_quad_next = add_outputs(u, estimate && quadrature ? u->system->nquad : 0);
    u->at.size_next = add_outputs(u, norm ? u->system->nquad : 0);
    u->at.quad_error = add_outputs(u, norm);
    u->at.quad = add_outputs(u, quadrature ? u->system->nquad : 0);
    u->at.k = add_outputs(u, u->at.nk * n);
    u->at.sums = add_outputs(u, estimate ? ODE_SUMS : 1);
    u->at.counts = add_outputs(u, m->implicit);
    u->at.ringing = add_outputs(u, m->rings ? n : 0);
    if (u->key.residuals) place_kept(u, estimate, dense ? u->at.nk : m->tableau->stages + estimate);
}

void ode_unit_place(ode_unit *u)
{
    const ode_system *s = u->system;
    switch (u->key.kind) {
    case ODE_UNIT_FIELD:
        place_times(u, 1);
        u->at.y = add_states(u);
        place_arguments(u);
        u->at.next = add_outputs(u, s->nstate);
        u->at.quad = add_outputs(u, u->key.flags & ODE_QUADRATURE ? s->nquad : 0);
        place_kept(u, 0, 1);
        break;
    case ODE_UNIT_STEP:
    case ODE_UNIT_STEP_VJP: place_step(u); break;
    case ODE_UNIT_BEGIN:
    case ODE_UNIT_BEGIN_VJP:
        u->at.h = add_input(u, AD_SCALAR, false);
        place_times(u, u->key.method->begin_times);
        u->at.y = add_states(u);
        place_arguments(u);
        if (u->key.kind == ODE_UNIT_BEGIN) {
            u->at.carry_next = add_outputs(u, s->nstate);
        } else {
            u->at.carry_bar = add_states(u);
            place_vjp_outputs(u);
        }
        break;
    case ODE_UNIT_PROLOGUE:
    case ODE_UNIT_PROLOGUE_VJP:
        u->at.shared = u->nin;
        for (int i = 0; i < s->nargs; i++)
            if (!ad_has_rows(s->arg[i])) add_input(u, s->arg[i], true);
        u->at.ybar = u->nin;
        if (u->key.kind == ODE_UNIT_PROLOGUE) {
            u->nout = s->nshared;
            break;
        }
        for (int i = 0; i < s->nshared; i++)
            if (ode_shared_needed(s, i, u->key.need)) add_input(u, s->shared[i], false);
        for (int i = 0; i < s->nargs; i++)
            u->nout += !ad_has_rows(s->arg[i]) && u->key.need >> i & 1;
        break;
    case ODE_UNIT_ROOT:
        place_times(u, 1);
        u->at.y = add_input(u, AD_SHAPE(AD_ROWS, s->width), false);
        place_arguments(u);
        u->nout = 2;
        break;
    case ODE_UNIT_TANGENT:
        if (u->key.method) u->at.h = add_input(u, AD_SCALAR, false);
        place_times(u, u->key.method ? ode_method_times(u->key.method, true, false) : 1);
        u->at.y = add_states(u);
        place_arguments(u);
        ode_tangent_place(u);
        break;
    case ODE_UNIT_KINDS: break;
    }
}

/* ---- recording ---- */

static ad_var unit_input(const ode_unit *u, ad_tape *tape, int i, int64_t rows, const void *data)
{
    ad_dtype dtype = ad_tape_dtype(tape);
    if (ad_has_rows(u->in[i])) return ad_input_rows_data(tape, u->in[i], rows, dtype, data);
    return u->parameter[i] ? ad_param_data(tape, u->in[i], dtype, data)
                           : ad_input_data(tape, u->in[i], dtype, data);
}

typedef struct {
    ad_var next[ODE_MAX_JOINT], carry_next[ODE_MAX_JOINT], ringing[ODE_MAX_JOINT],
        k[ODE_MAX_STAGES * ODE_MAX_JOINT];
} results;

/* s->quad holds memory for the variables; kept: residuals of all stages (not of a first one that is
 * carried). */
static bool record_step(const ode_unit *u, ad_tape *tape, const ad_var *in, ode_step *s, results *r)
{
    const ode_places *at = &u->at;
    int flags = u->key.flags;
    bool carry = flags & ODE_ESTIMATE || u->key.method->begin;
    int nquad = u->system->nquad, nkept = u->key.residuals ? at->nkept * u->key.residuals->n : 0;
    ad_var *quads =
        malloc(((size_t)(3 + ODE_MAX_STAGES) * (size_t)nquad + (size_t)nkept + 1) * sizeof *quads);
    if (!quads) {
        ad_fail(tape, "out of memory");
        return false;
    }
    *s = (ode_step){ .tape = tape,
                     .system = u->system,
                     .row = in + at->row,
                     .shared = in + at->shared,
                     .newton = u->key.newton,
                     .h = in[at->h],
                     .t = in + at->t,
                     .y = in + at->y,
                     .carry = carry ? in + at->carry : NULL,
                     .carry_quad = in + at->carry_quad,
                     .size = flags & ODE_QUADRATURE_NORM ? in + at->size : NULL,
                     .estimate = flags & ODE_ESTIMATE,
                     .dense = flags & ODE_DENSE,
                     .quadrature = flags & ODE_QUADRATURE,
                     .next = r->next,
                     .ringing = r->ringing,
                     .carry_next = r->carry_next,
                     .quad = quads,
                     .carry_quad_next = quads + nquad,
                     .size_next = quads + 2 * nquad,
                     .rates = quads + 3 * nquad,
                     .residuals = u->key.residuals,
                     .kept = quads + (3 + ODE_MAX_STAGES) * nquad,
                     .k = r->k };
    if (s->estimate) {
        s->rtol = in[at->tolerance];
        s->atol = in[at->tolerance + 1];
        s->rounding = in[at->tolerance + 2];
    }
    if (flags & ODE_EACH) s->each = in + at->each;
    u->key.method->step(u->key.method, s);
    return true;
}

static void step_outputs(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out)
{
    ode_step s;
    results r;
    if (!record_step(u, tape, in, &s, &r)) return;
    const ode_places *at = &u->at;
    int n = u->system->nstate, nquad = u->key.flags & ODE_QUADRATURE ? u->system->nquad : 0;
    for (int i = 0; i < n; i++) {
        out[at->next + i] = r.next[i];
        if (s.carry) out[at->carry_next + i] = r.carry_next[i];
    }
    for (int i = 0; i < nquad; i++) {
        out[at->quad + i] = s.quad[i];
        if (s.estimate) out[at->carry_quad_next + i] = s.carry_quad_next[i];
        if (s.size) out[at->size_next + i] = s.size_next[i];
    }
    for (int i = 0; i < at->nk * n; i++) out[at->k + i] = r.k[i];
    out[at->sums + ODE_SUM_FINITE] = s.finite;
    if (s.estimate) {
        out[at->sums + ODE_SUM_ERROR] = s.error;
        out[at->sums + ODE_SUM_ERROR3] = s.error3;
        out[at->sums + ODE_SUM_STIFFNESS] = s.stiffness;
    }
    if (s.size) out[at->quad_error] = s.quad_error;
    if (u->key.method->implicit) out[at->counts] = s.counts;
    for (int i = 0; u->key.method->rings && i < n; i++) out[at->ringing + i] = r.ringing[i];
    int nres = u->key.residuals ? u->key.residuals->n : 0;
    for (int i = at->first_kept * nres; i < at->nkept * nres; i++)
        out[at->kept + i - at->first_kept * nres] = s.kept[i];
    free(s.quad);
}

/* Cotangents of needed arguments, from place n of x and of their VJP on, per row first. */
static void check_arguments(const ode_unit *u, int n, const ad_var *x, const ad_var *bar)
{
    const ode_system *s = u->system;
    for (int i = 0; i < s->nrow; i++) {
        if (!(u->key.need >> s->row[i] & 1)) continue;
        ode_check_argument(s, x[n], true, i, bar[n]);
        n++;
    }
    for (int i = 0; i < s->nshared; i++) {
        if (!ode_shared_needed(s, i, u->key.need)) continue;
        ode_check_argument(s, x[n], false, i, bar[n]);
        n++;
    }
}

/* Records the VJP of y [ny] with cotangents ybar by all that the unit's key asks for, in the order
 * of place_vjp_outputs. */
static void vjp_outputs(const ode_unit *u, ad_tape *tape, const ad_var *in, int ny, const ad_var *y,
                        const ad_var *ybar, ad_var *out)
{
    const ode_system *s = u->system;
    const ode_places *at = &u->at;
    ad_var *x = malloc((size_t)u->nin * sizeof *x);
    if (!x) {
        ad_fail(tape, "out of memory");
        return;
    }
    int n = 0;
    for (int i = 0; i < s->nstate; i++) x[n++] = in[at->y + i];
    if (u->key.method->begin && u->key.kind == ODE_UNIT_STEP_VJP)
        for (int i = 0; i < s->nstate; i++) x[n++] = in[at->carry + i];
    int first_argument = n;
    for (int i = 0; i < s->nrow; i++)
        if (u->key.need >> s->row[i] & 1) x[n++] = in[at->row + i];
    for (int i = 0; i < s->nshared; i++)
        if (ode_shared_needed(s, i, u->key.need)) x[n++] = in[at->shared + i];
    if (u->key.flags & ODE_TIMES) {
        for (int i = 0; i < at->nt; i++) x[n++] = in[at->t + i];
        x[n++] = in[at->h];
    }
    ad_vjp_cut(ny, y, ybar, n, x, out);
    check_arguments(u, first_argument, x, out);
    free(x);
}

/* kept: NULL, or where the variables go that residuals can stand for. */
static void step_vjp_outputs(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out,
                             ad_var *kept)
{
    ode_step s;
    results r;
    if (!record_step(u, tape, in, &s, &r)) return;
    const ode_places *at = &u->at;
    if (kept) memcpy(kept, s.kept, (size_t)(at->nkept * s.residuals->n) * sizeof *kept);
    free(s.quad);
    int n = u->system->nstate, ny = 0;
    ad_var *y = malloc(2 * (size_t)(2 + at->nk) * (size_t)n * sizeof *y);
    if (!y) {
        ad_fail(tape, "out of memory");
        return;
    }
    ad_var *ybar = y + (2 + at->nk) * n;
    for (int i = 0; i < n; i++) y[ny] = r.next[i], ybar[ny++] = in[at->ybar + i];
    for (int i = 0; u->key.method->begin && i < n; i++)
        y[ny] = r.carry_next[i], ybar[ny++] = in[at->carry_bar + i];
    for (int i = 0; i < at->nk * n; i++) y[ny] = r.k[i], ybar[ny++] = in[at->k_bar + i];
    vjp_outputs(u, tape, in, ny, y, ybar, out);
    for (int i = 0; u->key.flags & ODE_TIMES && i < at->nk * n; i++) out[at->k + i] = r.k[i];
    free(y);
}

/* The VJP of a step with the residuals of its evaluations given: recorded on a tape of its own, and
 * from there the part above them. */
static void kept_vjp_outputs(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out)
{
    ad_tape *whole = ad_tape_new(u->system->dtype);
    ad_var *v = whole ? malloc((size_t)(u->nin + u->nout) * sizeof *v) : NULL;
    if (!v) ad_fail(tape, "out of memory");
    else {
        ad_var *y = v + u->nin;
        for (int i = 0; i < u->at.kept; i++) v[i] = unit_input(u, whole, i, 0, NULL);
        for (int i = 0; i < u->nout; i++) y[i] = ad_none(whole);
        step_vjp_outputs(u, v, whole, y, v + u->at.kept);
        if (ad_tape_error(whole)) ad_fail(tape, "%s", ad_tape_error(whole));
        else ad_inline(u->nin, v, u->nout, y, tape, in, out);
    }
    free(v);
    ad_tape_free(whole);
}

static void begin_outputs(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out)
{
    const ode_places *at = &u->at;
    ad_var carry[ODE_MAX_JOINT];
    ode_step s = { .tape = tape,
                   .system = u->system,
                   .row = in + at->row,
                   .shared = in + at->shared,
                   .h = in[at->h],
                   .t = in + at->t,
                   .y = in + at->y,
                   .carry_next = carry };
    u->key.method->begin(u->key.method, &s);
    if (u->key.kind == ODE_UNIT_BEGIN_VJP) {
        vjp_outputs(u, tape, in, u->system->nstate, carry, in + at->carry_bar, out);
    } else {
        for (int i = 0; i < u->system->nstate; i++) out[at->carry_next + i] = carry[i];
    }
}

/* The shared values from the shared arguments, or the VJP of that. */
static void prologue_outputs(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out)
{
    const ode_system *s = u->system;
    ad_var args[ODE_MAX_ARGS], x[ODE_MAX_ARGS];
    int n = 0, ny = 0, nx = 0;
    for (int i = 0; i < s->nargs; i++)
        if (!ad_has_rows(s->arg[i])) args[n++] = s->args[i];
    if (u->key.kind == ODE_UNIT_PROLOGUE) {
        ad_inline(n, args, s->nshared, s->frontier, tape, in + u->at.shared, out);
        return;
    }
    ad_var *y = malloc((2 * (size_t)s->nshared + 1) * sizeof *y);
    if (!y) {
        ad_fail(tape, "out of memory");
        return;
    }
    for (int i = 0; i < s->nshared; i++)
        if (ode_shared_needed(s, i, u->key.need)) y[ny++] = s->frontier[i];
    ad_inline(n, args, ny, y, tape, in + u->at.shared, y + ny);
    n = 0;
    for (int i = 0; i < s->nargs; i++) {
        if (ad_has_rows(s->arg[i])) continue;
        if (u->key.need >> i & 1) x[nx++] = in[u->at.shared + n];
        n++;
    }
    ad_vjp(ny, y + ny, in + u->at.ybar, nx, x, out);
    free(y);
}

/* f and its Jacobian for the states laid side by side, z [rows,width]. */
static void root_outputs(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out)
{
    const ode_system *s = u->system;
    ad_var y[ODE_MAX_JOINT], dy[ODE_MAX_JOINT], z = in[u->at.y];
    int64_t at = 0;
    for (int i = 0; i < s->nstate; at += s->size[i++])
        y[i] = ad_reshape(ad_slice(z, 1, at, at + s->size[i]), s->state[i]);
    ode_system_record(s, tape, in[u->at.t], y, in + u->at.row, in + u->at.shared, dy, NULL);
    for (int i = 0; i < s->nstate; i++) dy[i] = ad_reshape(dy[i], AD_SHAPE(AD_ROWS, s->size[i]));
    out[0] = s->nstate == 1 ? dy[0] : ad_concatenate(s->nstate, dy, 1);
    out[1] = ad_jacobian(out[0], z);
}

static void record(const ode_unit *u, const ad_var *in, ad_tape *tape, ad_var *out)
{
    for (int i = 0; i < u->nout; i++) out[i] = ad_none(tape);
    switch (u->key.kind) {
    case ODE_UNIT_FIELD:
        if (u->key.residuals)
            ode_system_record_kept(u->system, tape, in[u->at.t], in + u->at.y, in + u->at.row,
                                   in + u->at.shared, out + u->at.next, u->key.residuals,
                                   out + u->at.kept);
        else
            ode_system_record(u->system, tape, in[u->at.t], in + u->at.y, in + u->at.row,
                              in + u->at.shared, out + u->at.next,
                              u->key.flags & ODE_QUADRATURE ? out + u->at.quad : NULL);
        break;
    case ODE_UNIT_STEP: step_outputs(u, in, tape, out); break;
    case ODE_UNIT_STEP_VJP:
        if (u->key.residuals) kept_vjp_outputs(u, in, tape, out);
        else step_vjp_outputs(u, in, tape, out, NULL);
        break;
    case ODE_UNIT_BEGIN:
    case ODE_UNIT_BEGIN_VJP: begin_outputs(u, in, tape, out); break;
    case ODE_UNIT_PROLOGUE:
    case ODE_UNIT_PROLOGUE_VJP: prologue_outputs(u, in, tape, out); break;
    case ODE_UNIT_ROOT: root_outputs(u, in, tape, out); break;
    case ODE_UNIT_TANGENT: ode_tangent_record(u, tape, in, out); break;
    case ODE_UNIT_KINDS: break;
    }
}

ad_var *ode_unit_record(const ode_unit *u, ad_tape *tape, int64_t rows, const void *const *data)
{
    ad_var *v = malloc((size_t)(u->nin + u->nout + 1) * sizeof *v);
    if (!v) {
        ad_fail(tape, "out of memory");
        return NULL;
    }
    for (int i = 0; i < u->nin; i++) v[i] = unit_input(u, tape, i, rows, data ? data[i] : NULL);
    record(u, v, tape, v + u->nin);
    return v;
}
