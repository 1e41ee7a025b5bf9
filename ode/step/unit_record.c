/* What units compute: how each kind is recorded, and derivatives of all of them. */
#include "ode/step/tangent_unit.h"
#include <stdlib.h>
#include <string.h>

static ad_var unit_input(const ode_unit *u, ad_tape *tape, int i, int64_t rows, const void *data)
{
    ad_dtype dtype = ad_tape_dtype(tape);
    ad_shape shape = u->layout.in[i];
    if (ad_has_rows(shape)) return ad_input_rows_data(tape, shape, rows, dtype, data);
    return u->layout.parameter[i] ? ad_param_data(tape, shape, dtype, data)
                                  : ad_input_data(tape, shape, dtype, data);
}

static void put(const ode_unit *u, ad_var *out, ode_port port, int n, const ad_var *x)
{
    ad_var *to = ode_unit_output(u, out, port);
    if (to) memcpy(to, x, (size_t)n * sizeof *x);
}

/* ---- steps ---- */

/* Variables of a step of which a system may have any number, one array after the other. */
static ad_var *quadrature_memory(const ode_unit *u, ode_step_results *r, int nsize)
{
    size_t nquad = (size_t)u->system->nquad, nkept = 0;
    if (u->key.residuals) nkept = ODE_MAX_STAGES * (size_t)u->key.residuals->n;
    size_t n = (4 + ODE_MAX_STAGES) * nquad + (size_t)nsize + nkept + 1;
    ad_var *memory = malloc(n * sizeof *memory);
    if (!memory) return NULL;
    r->quad = memory;
    r->quad_error = r->quad + nquad;
    r->quad_error3 = r->quad_error + nquad;
    r->rate = r->quad_error3 + nquad;
    r->rates = r->rate + nquad;
    r->kept = r->rates + ODE_MAX_STAGES * nquad + nsize;
    return memory;
}

static void record_step(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    const ode_method *m = u->key.method;
    int n = u->system->nstate, nquad = u->system->nquad;
    ode_step s;
    ode_step_results r;
    ode_step_memory memory;
    ode_step_connect(u, tape, in, &s, &r, &memory);
    ad_var *quads = quadrature_memory(u, &r, nquad);
    if (!quads) {
        ad_fail(tape, "out of memory");
        return;
    }
    r.carry = ode_unit_output(u, out, ODE_PORT_CARRY_NEXT);
    m->step(m, &s, &r);
    if (s.dense && m->dense == ode_hermite_dense) ode_hermite_record(m, &s, &r);
    ad_var none = ad_none(tape);
    ode_step_measures measures = { none, none, none, none, r.rates + ODE_MAX_STAGES * nquad };
    ode_record_measures(m, &s, &r, &measures);
    put(u, out, ODE_PORT_NEXT, n, r.next);
    put(u, out, ODE_PORT_SLOPE_NEXT, n, r.slope);
    put(u, out, ODE_PORT_STAGES, u->own.at[ODE_VALUE][ODE_PORT_STAGES].count, r.k);
    put(u, out, ODE_PORT_QUADRATURE, nquad, r.quad);
    put(u, out, ODE_PORT_RATE_NEXT, nquad, r.rate);
    put(u, out, ODE_PORT_SIZE_NEXT, nquad, measures.size);
    put(u, out, ODE_PORT_QUADRATURE_ERROR, 1, &measures.quadratures);
    put(u, out, ODE_PORT_FINITE, 1, &measures.finite);
    put(u, out, ODE_PORT_ERROR, 1, &measures.error);
    put(u, out, ODE_PORT_ERROR3, 1, &measures.error3);
    put(u, out, ODE_PORT_STIFFNESS, 1, &r.stiffness);
    put(u, out, ODE_PORT_COUNTS, 1, &r.counts);
    put(u, out, ODE_PORT_FAILED_ROW, 1, &r.failed_row);
    put(u, out, ODE_PORT_FAILED_HOW, 1, &r.failed_how);
    put(u, out, ODE_PORT_RINGING, n, r.ringing);
    if (u->key.residuals)
        put(u, out, ODE_PORT_KEPT, u->own.at[ODE_VALUE][ODE_PORT_KEPT].count,
            r.kept + ode_first_kept(&u->key) * u->key.residuals->n);
    free(quads);
}

static void record_begin(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    ode_step s;
    ode_step_results r;
    ode_step_memory memory;
    ode_step_connect(u, tape, in, &s, &r, &memory);
    r.carry = ode_unit_output(u, out, ODE_PORT_CARRY_NEXT);
    u->key.method->begin(u->key.method, &s, &r);
}

/* ---- other units ---- */

static void record_field(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    ad_var t = *ode_unit_input(u, in, ODE_PORT_TIMES),
           *dy = ode_unit_output(u, out, ODE_PORT_DERIVATIVE);
    const ad_var *y = ode_unit_input(u, in, ODE_PORT_STATE),
                 *row = ode_unit_input(u, in, ODE_PORT_ROW),
                 *shared = ode_unit_input(u, in, ODE_PORT_SHARED);
    if (u->key.residuals)
        ode_system_record_kept(u->system, tape, t, y, row, shared, dy, NULL, u->key.residuals,
                               ode_unit_output(u, out, ODE_PORT_KEPT));
    else
        ode_system_record(u->system, tape, t, y, row, shared, dy,
                          ode_unit_output(u, out, ODE_PORT_QUADRATURE));
}

/* The shared values from the shared arguments. */
static void record_prologue(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    const ode_system *s = u->system;
    ad_var args[ODE_MAX_ARGS];
    int n = 0;
    for (int i = 0; i < s->nargs; i++)
        if (!ad_has_rows(s->arg[i])) args[n++] = s->args[i];
    ad_inline(n, args, s->nshared, s->frontier, tape, ode_unit_input(u, in, ODE_PORT_ARGUMENTS),
              out);
}

/* f, and its Jacobian [rows,width,width] with all states side by side. */
static void record_root(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    const ode_system *s = u->system;
    const ad_var *state = ode_unit_input(u, in, ODE_PORT_STATE);
    ad_var y[ODE_MAX_JOINT], *dy = ode_unit_output(u, out, ODE_PORT_DERIVATIVE),
                             flat[ODE_MAX_JOINT];
    for (int i = 0; i < s->nstate; i++) y[i] = ad_reshape(state[i], AD_SHAPE(AD_ROWS, s->size[i]));
    ad_var z = s->nstate == 1 ? y[0] : ad_concatenate(s->nstate, y, 1);
    int64_t at = 0;
    for (int i = 0; i < s->nstate; at += s->size[i++])
        y[i] = ad_reshape(ad_slice(z, 1, at, at + s->size[i]), s->state[i]);
    ode_system_record(s, tape, *ode_unit_input(u, in, ODE_PORT_TIMES), y,
                      ode_unit_input(u, in, ODE_PORT_ROW), ode_unit_input(u, in, ODE_PORT_SHARED),
                      dy, NULL);
    for (int i = 0; i < s->nstate; i++) flat[i] = ad_reshape(dy[i], AD_SHAPE(AD_ROWS, s->size[i]));
    ad_var f = s->nstate == 1 ? flat[0] : ad_concatenate(s->nstate, flat, 1);
    *ode_unit_output(u, out, ODE_PORT_ROOT_JACOBIAN) = ad_jacobian(f, z);
}

static void record_itself(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out);

/* Of a tangent system: the unit of its primal, and the JVP of that. */
static void record_with_tangents(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    ode_tangent_unit t;
    if (!ode_tangent_unit_open(&t, u, tape, in)) return;
    record_itself(&t.primal, tape, t.in, t.out);
    ode_tangent_unit_close(&t, u, tape, out);
}

/* What the unit is (a derivative of): outputs of own.nout from inputs of own.nin. */
static void record_itself(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    for (int i = 0; i < u->own.nout; i++) out[i] = ad_none(tape);
    if (u->system->primal) {
        record_with_tangents(u, tape, in, out);
        return;
    }
    switch (u->key.kind) {
    case ODE_UNIT_FIELD: record_field(u, tape, in, out); break;
    case ODE_UNIT_BEGIN: record_begin(u, tape, in, out); break;
    case ODE_UNIT_STEP: record_step(u, tape, in, out); break;
    case ODE_UNIT_PROLOGUE: record_prologue(u, tape, in, out); break;
    case ODE_UNIT_ROOT: record_root(u, tape, in, out); break;
    case ODE_UNIT_TANGENT: ode_tangent_record(u, tape, in, out); break;
    case ODE_UNIT_FIELD_TANGENT: ode_field_tangent_record(u, tape, in, out); break;
    case ODE_UNIT_KINDS: break;
    }
}

/* ---- derivatives ---- */

/* Variables x of what the unit is a derivative of, and beside each its cotangent or tangent. */
typedef struct {
    int n;
    ad_var *x, *along;
} pairs;

static void add_pair(pairs *p, ad_var x, ad_var along)
{
    p->x[p->n] = x;
    p->along[p->n++] = along;
}

/* Collects, of what the unit is a derivative of, the arrays that take part in it: inputs or outputs
 * `values`. along: the unit's own inputs, where the layout has their cotangents or tangents; NULL:
 * those are results, which have the same order. */
static void collect(const ode_unit *u, bool inputs, const ad_var *values, const ad_var *along,
                    pairs *p)
{
    ode_role role = u->key.derivative == ODE_VJP ? ODE_BAR : ODE_DOT;
    for (ode_port port = 0; port < ODE_PORTS; port++) {
        ode_place own = u->own.at[ODE_VALUE][port];
        if (!ode_port_differentiable(port) || ode_port_is_input(u->key.kind, port) != inputs)
            continue;
        int place = u->layout.at[role][port].first;
        for (int i = 0; i < own.count; i++)
            if (ode_port_needed(u->system, &u->key, port, i))
                add_pair(p, values[own.first + i], along ? along[place++] : ad_none(values->tape));
    }
}

/* The cotangents of arguments that the field reads by their values only are no zeros. */
static void check_arguments(const ode_unit *u, const ad_var *in, const ad_var *bar)
{
    const ode_port ports[] = { ODE_PORT_ROW, ODE_PORT_SHARED };
    for (int k = 0; k < 2; k++) {
        ode_place own = u->own.at[ODE_VALUE][ports[k]];
        int place = u->layout.at[ODE_BAR][ports[k]].first;
        for (int i = 0; i < own.count; i++)
            if (ode_port_is_input(u->key.kind, ports[k]) &&
                ode_port_needed(u->system, &u->key, ports[k], i))
                ode_check_argument(u->system, in[own.first + i], k == 0, i, bar[place++]);
    }
}

/* The derivative, from values `own` of what it is taken of. */
static void differentiate(const ode_unit *u, const ad_var *in, const ad_var *own, pairs *x,
                          pairs *y, ad_var *out)
{
    bool vjp = u->key.derivative == ODE_VJP;
    collect(u, true, in, vjp ? NULL : in, x);
    collect(u, false, own, vjp ? in : NULL, y);
    AD_ASSERT(x->n <= u->own.nin && y->n <= u->own.nout);
    AD_ASSERT((vjp ? x->n : y->n) <= u->layout.nout);
    if (vjp) {
        ad_vjp_cut(y->n, y->x, y->along, x->n, x->x, out);
        check_arguments(u, in, out);
    } else {
        ad_jvp(x->n, x->x, x->along, y->n, y->x, out);
    }
    for (ode_port port = 0; port < ODE_PORTS; port++) {
        ode_place place = u->layout.at[ODE_VALUE][port];
        if (u->key.values & ode_port_bit(port) && place.count)
            memcpy(out + place.first, own + u->own.at[ODE_VALUE][port].first,
                   (size_t)place.count * sizeof *out);
    }
}

/* Records the derivative; kept: NULL, or where the variables go that residuals can stand for. */
static void record_derivative(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out,
                              ad_var *kept)
{
    int nin = u->own.nin, nout = u->own.nout;
    ad_var *memory = malloc((size_t)(2 * nin + 3 * nout + 1) * sizeof *memory);
    if (!memory) {
        ad_fail(tape, "out of memory");
        return;
    }
    ad_var *own = memory + 2 * nin + 2 * nout;
    pairs x = { .x = memory, .along = memory + nin };
    pairs y = { .x = memory + 2 * nin, .along = memory + 2 * nin + nout };
    record_itself(u, tape, in, own);
    ode_place residuals = u->own.at[ODE_VALUE][ODE_PORT_KEPT];
    if (kept) memcpy(kept, own + residuals.first, (size_t)residuals.count * sizeof *kept);
    differentiate(u, in, own, &x, &y, out);
    free(memory);
}

/* A VJP that is given the residuals of the evaluations: recorded on a tape of its own, and from
 * there the part above them. */
static void record_kept_vjp(const ode_unit *u, ad_tape *tape, const ad_var *in, ad_var *out)
{
    int nin = u->layout.nin, nout = u->layout.nout;
    ode_place given = ode_unit_place(u, ODE_VALUE, ODE_PORT_KEPT);
    ad_tape *whole = ad_tape_new(u->system->dtype);
    ad_var *v = whole ? malloc((size_t)(nin + nout) * sizeof *v) : NULL;
    if (!v) ad_fail(tape, "out of memory");
    else {
        ad_var *y = v + nin;
        for (int i = 0; i < nin; i++)
            if (i < given.first || i >= given.first + given.count)
                v[i] = unit_input(u, whole, i, 0, NULL);
        for (int i = 0; i < nout; i++) y[i] = ad_none(whole);
        record_derivative(u, whole, v, y, v + given.first);
        if (ad_tape_error(whole)) ad_fail(tape, "%s", ad_tape_error(whole));
        else ad_inline(nin, v, nout, y, tape, in, out);
    }
    free(v);
    ad_tape_free(whole);
}

ad_var *ode_unit_record(const ode_unit *u, ad_tape *tape, int64_t rows, const void *const *data)
{
    int nin = u->layout.nin, nout = u->layout.nout;
    ad_var *v = malloc((size_t)(nin + nout + 1) * sizeof *v), *out = v + nin;
    if (!v) {
        ad_fail(tape, "out of memory");
        return NULL;
    }
    for (int i = 0; i < nin; i++) v[i] = unit_input(u, tape, i, rows, data ? data[i] : NULL);
    for (int i = 0; i < nout; i++) out[i] = ad_none(tape);
    if (u->key.derivative == ODE_ITSELF) record_itself(u, tape, v, out);
    else if (u->key.derivative == ODE_VJP && u->key.residuals) record_kept_vjp(u, tape, v, out);
    else record_derivative(u, tape, v, out, NULL);
    return v;
}
