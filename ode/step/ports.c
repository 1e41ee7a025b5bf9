/* The table of ports, and layouts made from it. */
#include "ode/step/ports.h"
#include <stdlib.h>

/* ---- how many groups of a port a unit has ---- */

static int one(const ode_unit_key *key)
{
    (void)key;
    return 1;
}

static int evaluations(const ode_unit_key *key)
{
    const ode_method *m = key->method;
    bool tangent = key->kind == ODE_UNIT_TANGENT;
    if (key->kind == ODE_UNIT_BEGIN) return m->begin_times;
    if (key->kind != ODE_UNIT_STEP && !tangent) return 1;
    return ode_method_times(m, tangent || key->flags & ODE_ESTIMATE, key->flags & ODE_DENSE);
}

static int with(const ode_unit_key *key, int flags) { return (key->flags & flags) == flags; }
static int estimated(const ode_unit_key *key) { return with(key, ODE_ESTIMATE); }
static int with_quadrature(const ode_unit_key *key) { return with(key, ODE_QUADRATURE); }
static int with_size(const ode_unit_key *key) { return with(key, ODE_QUADRATURE_NORM); }
static int with_quadrature_norm(const ode_unit_key *key) { return with(key, ODE_QUADRATURE_NORM); }
static int with_each(const ode_unit_key *key) { return with(key, ODE_EACH); }
static int with_norm(const ode_unit_key *key)
{
    return key->kind != ODE_UNIT_STEP || estimated(key);
}
static int first_slope(const ode_unit_key *key)
{
    return estimated(key) && ode_method_has(key->method, ODE_METHOD_FSAL);
}
static int with_stability(const ode_unit_key *key)
{
    return with(key, ODE_ESTIMATE | ODE_STABILITY);
}
static int carried_rate(const ode_unit_key *key)
{
    return with(key, ODE_ESTIMATE | ODE_QUADRATURE);
}
static int carried(const ode_unit_key *key) { return key->method->ncarry; }
static int noise(const ode_unit_key *key) { return key->method->noise; }
static int pairs(const ode_unit_key *key)
{
    return ode_method_has(key->method, ODE_METHOD_LEVY_AREA);
}
static int unlimited(const ode_unit_key *key) { return !key->method->stability; }
static int with_root(const ode_unit_key *key)
{
    return ode_method_has(key->method, ODE_METHOD_IMPLICIT);
}
static int with_ringing(const ode_unit_key *key)
{
    return ode_method_has(key->method, ODE_METHOD_RINGS);
}
static int dense_stages(const ode_unit_key *key)
{
    return with(key, ODE_DENSE) ? key->method->dense_stages : 0;
}
static int tangents(const ode_unit_key *key)
{
    return key->kind == ODE_UNIT_TANGENT ? ODE_TANGENTS
           : with(key, ODE_FORCE_CHANGE) ? ODE_FIELD_TANGENTS
                                         : ODE_TANGENT_FORCE_CHANGE;
}

static int kept(const ode_unit_key *key)
{
    if (!key->residuals) return 0;
    if (key->kind == ODE_UNIT_FIELD) return 1;
    int stages = ode_method_times(key->method, key->flags & ODE_ESTIMATE, key->flags & ODE_DENSE);
    return stages - ode_first_kept(key);
}

/* ---- the table ---- */

typedef struct {
    ode_shapes shapes;
    int (*groups)(const ode_unit_key *key);
    unsigned in, out; /* sets of kinds of units */
    bool differentiable;
} row;

enum {
    FIELD = 1 << ODE_UNIT_FIELD,
    BEGIN = 1 << ODE_UNIT_BEGIN,
    STEP = 1 << ODE_UNIT_STEP,
    PROLOGUE = 1 << ODE_UNIT_PROLOGUE,
    ROOT = 1 << ODE_UNIT_ROOT,
    TANGENT = 1 << ODE_UNIT_TANGENT,
    ANY_TANGENT = TANGENT | 1 << ODE_UNIT_FIELD_TANGENT
};

static const row table[] = {
#define ODE_PORT(name, shapes, groups, in, out, differentiable)                                    \
    { ODE_SHAPE_##shapes, groups, in, out, differentiable },
#include "ode/step/ports.def"
#undef ODE_PORT
};

/* ---- arrays of a group ---- */

static ode_shapes shapes_of_group(const ode_unit_key *key, ode_port port, int group)
{
    ode_shapes shapes = table[port].shapes;
    if (shapes != ODE_SHAPE_CARRIED) return shapes;
    AD_ASSERT(key->method->carry[group] != ODE_SHAPE_CARRIED);
    return key->method->carry[group];
}

/* How many states have noise, and the shape of the i-th diffusion. Of a tangent system: those of
 * what it is made of, and as often their tangents. */
static int diffusions(const ode_system *s)
{
    int n = 0;
    for (int j = 0; j < s->nstate; j++) n += s->noise.states >> j & 1;
    return n;
}
static ad_shape diffusion_shape(const ode_system *s, int i)
{
    const ode_system *root = ode_system_root(s);
    int j = 0;
    i %= diffusions(root);
    while (!(root->noise.states >> j & 1) || i-- > 0) j++;
    return ode_diffusion_shape(root, j);
}

static int arrays_of(const ode_system *s, const ode_unit_key *key, ode_shapes shapes)
{
    switch (shapes) {
    case ODE_SHAPE_SIZE:
    case ODE_SHAPE_TIME: return s->nclocks;
    case ODE_SHAPE_STATE:
    case ODE_SHAPE_STATE_ELEMENT: return s->nstate;
    case ODE_SHAPE_QUADRATURE: return s->nquad;
    case ODE_SHAPE_ROW_ARGUMENT: return key->kind == ODE_UNIT_STEP ? s->nrow - s->ngiven : s->nrow;
    case ODE_SHAPE_GIVEN: return s->ngiven;
    case ODE_SHAPE_SHARED: return s->nshared;
    case ODE_SHAPE_SHARED_ARGUMENT: return s->nargs - s->nrow;
    case ODE_SHAPE_RESIDUAL: return key->residuals->n;
    case ODE_SHAPE_DIFFUSION:
        return diffusions(ode_system_root(s)) * (s->nstate / ode_system_root(s)->nstate);
    case ODE_SHAPE_NOISE_PAIRS: return s->noise.kind == ODE_NOISE_GENERAL && s->noise.m > 1;
    default: return 1;
    }
}

/* Which argument the i-th without rows is. */
static int shared_argument(const ode_system *s, int i)
{
    int k = 0;
    AD_ASSERT(i < s->nargs - s->nrow);
    while (ad_has_rows(s->arg[k]) || i-- > 0) k++;
    return k;
}

static ad_shape shape_of(const ode_system *s, const ode_unit_key *key, ode_shapes shapes, int i)
{
    ad_shape one_row;
    switch (shapes) {
    case ODE_SHAPE_TIME: return ode_time_shape(s->rank);
    case ODE_SHAPE_ROW_NUMBER: return AD_SHAPE(AD_ROWS);
    case ODE_SHAPE_STATE: return s->state[i];
    case ODE_SHAPE_STATE_ELEMENT:
        one_row = s->state[i];
        one_row.dim[0] = 1;
        return one_row;
    case ODE_SHAPE_WIDE: return AD_SHAPE(AD_ROWS, s->width);
    case ODE_SHAPE_JACOBIAN: return AD_SHAPE(AD_ROWS, s->width, s->width);
    case ODE_SHAPE_QUADRATURE: return s->quad[i];
    case ODE_SHAPE_ROW_ARGUMENT: return s->arg[s->row[i]];
    case ODE_SHAPE_GIVEN: return s->arg[s->row[s->nrow - s->ngiven + i]];
    case ODE_SHAPE_SHARED: return s->shared[i];
    case ODE_SHAPE_SHARED_ARGUMENT: return s->arg[shared_argument(s, i)];
    case ODE_SHAPE_RESIDUAL: return key->residuals->shape[i];
    case ODE_SHAPE_DIFFUSION: return diffusion_shape(s, i);
    case ODE_SHAPE_NOISE: return AD_SHAPE(AD_ROWS, s->noise.m);
    case ODE_SHAPE_NOISE_PAIRS: return AD_SHAPE(AD_ROWS, s->noise.m * (s->noise.m - 1) / 2);
    case ODE_SHAPE_COUNTS: return AD_SHAPE(3);
    default: return AD_SCALAR;
    }
}

/* Whether an array takes part in the derivatives that the key asks for. */
static bool is_needed(const ode_system *s, const ode_unit_key *key, ode_shapes shapes, int i)
{
    switch (shapes) {
    case ODE_SHAPE_SIZE:
    case ODE_SHAPE_TIME: return key->flags & ODE_TIMES;
    case ODE_SHAPE_ROW_ARGUMENT: return key->need >> s->row[i] & 1;
    case ODE_SHAPE_SHARED: return ode_shared_needed(s, i, key->need);
    case ODE_SHAPE_SHARED_ARGUMENT: return key->need >> shared_argument(s, i) & 1;
    default: return true;
    }
}

bool ode_port_differentiable(ode_port port) { return table[port].differentiable; }

bool ode_port_is_input(ode_unit_kind kind, ode_port port) { return table[port].in >> kind & 1; }

bool ode_port_needed(const ode_system *s, const ode_unit_key *key, ode_port port, int i)
{
    return is_needed(s, key, table[port].shapes, i);
}

/* Numbers and messages of a tangent system are those of what it is made of: they have no tangents.
 */
static const ode_system *described_by(const ode_system *s, ode_port port)
{
    return ode_port_differentiable(port) ? s : ode_system_root(s);
}

int ode_port_arrays(const ode_system *s, const ode_unit_key *key, ode_port port, int group)
{
    return arrays_of(described_by(s, port), key, shapes_of_group(key, port, group));
}

/* ---- layouts ---- */

/* Layouts are made in two passes: without memory, where arrays are only counted, and with it. */
static void add_input(ode_layout *l, ad_shape shape, bool parameter)
{
    if (l->in) {
        l->in[l->nin] = shape;
        l->parameter[l->nin] = parameter;
    }
    l->nin++;
}

static void add_output(ode_layout *l, ad_shape shape)
{
    if (l->out) l->out[l->nout] = shape;
    l->nout++;
}

typedef struct {
    const ode_system *system;
    const ode_unit_key *key;
    ode_layout *layout;
} making;

/* Adds a port to the inputs or the outputs; needed: only those arrays that take part in
 * derivatives. */
static void add_port(const making *m, ode_role role, ode_port port, bool output, bool needed)
{
    ode_layout *l = m->layout;
    ode_place *place = &l->at[role][port];
    place->first = output ? l->nout : l->nin;
    place->output = output;
    const ode_system *s = described_by(m->system, port);
    int groups = table[port].groups(m->key);
    for (int g = 0; g < groups; g++) {
        ode_shapes shapes = shapes_of_group(m->key, port, g);
        bool parameter = role == ODE_VALUE &&
                         (shapes == ODE_SHAPE_SHARED || shapes == ODE_SHAPE_SHARED_ARGUMENT);
        int n = arrays_of(s, m->key, shapes);
        for (int i = 0; i < n; i++) {
            if (needed && !is_needed(s, m->key, shapes, i)) continue;
            ad_shape shape = shape_of(s, m->key, shapes, i);
            if (output) add_output(l, shape);
            else add_input(l, shape, parameter);
        }
    }
    place->count = (output ? l->nout : l->nin) - place->first;
}

static bool is_input(const making *m, ode_port port)
{
    return ode_port_is_input(m->key->kind, port);
}
static bool is_output(const making *m, ode_port port)
{
    return table[port].out >> m->key->kind & 1;
}

static void add_inputs(const making *m)
{
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_input(m, p)) add_port(m, ODE_VALUE, p, false, false);
}

/* Values of outputs that a derivative gives as well. */
static void add_values(const making *m)
{
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_output(m, p) && m->key->values & ode_port_bit(p))
            add_port(m, ODE_VALUE, p, true, false);
}

static void lay_out_vjp(const making *m)
{
    add_inputs(m);
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_output(m, p) && table[p].differentiable) add_port(m, ODE_BAR, p, false, true);
    if (m->key->residuals) add_port(m, ODE_VALUE, ODE_PORT_KEPT, false, false);
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_input(m, p) && table[p].differentiable) add_port(m, ODE_BAR, p, true, true);
    add_values(m);
}

static void lay_out_jvp(const making *m)
{
    add_inputs(m);
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_input(m, p) && table[p].differentiable) add_port(m, ODE_DOT, p, false, true);
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_output(m, p) && table[p].differentiable) add_port(m, ODE_DOT, p, true, true);
    add_values(m);
}

static void lay_out_itself(const making *m)
{
    add_inputs(m);
    for (ode_port p = 0; p < ODE_PORTS; p++)
        if (is_output(m, p)) add_port(m, ODE_VALUE, p, true, false);
}

static void lay_out(const making *m)
{
    m->layout->nin = m->layout->nout = 0;
    switch (m->key->derivative) {
    case ODE_ITSELF: lay_out_itself(m); break;
    case ODE_VJP: lay_out_vjp(m); break;
    case ODE_JVP: lay_out_jvp(m); break;
    }
}

bool ode_layout_make(ode_layout *l, const ode_system *s, const ode_unit_key *key)
{
    *l = (ode_layout){ 0 };
    making m = { s, key, l };
    lay_out(&m);
    l->in = calloc((size_t)l->nin + 1, sizeof *l->in);
    l->out = calloc((size_t)l->nout + 1, sizeof *l->out);
    l->parameter = calloc((size_t)l->nin + 1, sizeof *l->parameter);
    if (!l->in || !l->out || !l->parameter) {
        ode_layout_clear(l);
        return false;
    }
    int nin = l->nin, nout = l->nout;
    lay_out(&m);
    AD_ASSERT(l->nin == nin && l->nout == nout);
    return true;
}

void ode_layout_clear(ode_layout *l)
{
    free(l->in);
    free(l->out);
    free(l->parameter);
    *l = (ode_layout){ 0 };
}
