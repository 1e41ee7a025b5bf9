/* The equations of implicit steps as differentiable operations.
 *
 * A stage k = f(t, base + g k; args) is one opaque operation, which Newton's method evaluates
 * (newton.c). Its derivatives follow from the implicit function theorem at the root itself, with
 * z = base + g k and J = df/dz there:
 *
 *     (I - g J) dk = J (dbase + k dg) + df/dt dt + df/dargs dargs,
 *
 * so the tangent is the tangent of f, and the cotangent the cotangent of f, with one linear system
 * between. That system, x = (I - g J)^{-1} b or its transpose, is the second opaque operation. It
 * uses the Jacobian at z: the factors that Newton's method ended with belong to another point, and
 * would give a wrong derivative. With u = (I - g J)^{-T} xbar its own derivative is
 *
 *     xbar . dx = u . db + u . d(g J) x,
 *
 * where d(g J) x is a derivative of the tangent of f in the direction x. All of it is recorded from
 * f and these two operations, so derivatives of every order exist.
 *
 * The stages of a step share one memory (factors, programs): that of the first, which the later
 * ones reach by its token. */
#include "ode/methods/recorders.h"
#include "ode/methods/newton.h"
#include <stdlib.h>
#include <string.h>

/* The system outlives what is recorded for it: its units own the programs that hold this. */
typedef struct {
    atomic_int references;
    ode_newton_problem problem; /* without what a call decides */
    bool transposed;            /* of a linear system */
    bool shares;                /* the memory is that of the operation whose token is an operand */
} root_data;

/* Operands. Of a stage: base [n], first guess of k [n], t, g, reuse, per-row arguments, shared
 * values, token (shares). Of a linear system: b [n], z [n], t, g, per-row
 * arguments, shared values, token (shares). */
typedef struct {
    int second, t, g, reuse, row, shared, token, count;
} places;

static places operands(const root_data *d, bool stage)
{
    const ode_system *s = d->problem.system;
    places p;
    p.second = s->nstate;
    p.t = 2 * s->nstate;
    p.g = p.t + 1;
    p.reuse = p.g + 1;
    p.row = p.g + 1 + stage;
    p.shared = p.row + s->nrow;
    p.token = p.shared + s->nshared;
    p.count = p.token + d->shares;
    return p;
}

static void retain(void *data) { atomic_fetch_add(&((root_data *)data)->references, 1); }

static void release(void *data)
{
    root_data *d = data;
    if (d && atomic_fetch_sub(&d->references, 1) == 1) free(d);
}

static void *state_new(void *data)
{
    (void)data;
    return calloc(1, sizeof(ode_newton_work));
}

static void state_free(void *state)
{
    if (state) ode_newton_close(state);
    free(state);
}

/* Operations that share have the memory of another one. */
static void account(void *data, ad_opaque_account *a)
{
    const root_data *d = data;
    if (!d->shares) ode_newton_account(&d->problem, a);
}

/* A copy of what is common to operations of one equation. */
static root_data *data_like(const root_data *d, ad_tape *tape)
{
    root_data *copy = calloc(1, sizeof *copy);
    if (!copy) {
        ad_fail(tape, "Newton's method: out of memory");
        return NULL;
    }
    copy->problem = d->problem;
    atomic_init(&copy->references, 1);
    return copy;
}

/* ---- linear systems ---- */

static int solve_linear(void *data, void *state, const ad_opaque_call *call)
{
    const root_data *d = data;
    const ode_system *s = d->problem.system;
    places p = operands(d, false);
    ode_newton_problem problem = d->problem;
    ode_newton_work *own = state, *work = d->shares ? call->in_state[p.token] : own;
    problem.g = ode_load(call->dtype, call->in[p.g], 0);
    if (!d->shares &&
        ode_newton_open(own, &problem, call, call->in[p.t], call->in + p.row, call->in + p.shared))
        return -1;
    double *x = ode_buffer_need(&own->update, (size_t)(call->rows * s->width) * sizeof(double));
    if (!x) {
        snprintf(call->error, call->error_size, "out of memory");
        return -1;
    }
    ode_rows_gather(s, call->rows, call->in, x);
    if (d->shares) {
        ode_newton_solve_kept(work, s, x);
    } else {
        for (int j = 0; j < s->nstate; j++)
            memcpy(ode_part(s, call->rows, own->z.data, j), call->in[p.second + j],
                   (size_t)(call->rows * s->size[j]) * ode_bytes(s->dtype));
        if (ode_newton_solve(work, &problem, call, d->transposed, x)) return -1;
    }
    ode_rows_scatter(s, call->rows, x, call->out);
    return 0;
}

static void linear_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar);
static void linear_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                       int nout, const ad_var *out, ad_var *ydot);

static const ad_opaque_class linear_class = { .name = "linear system of an implicit step",
                                              .forward = solve_linear,
                                              .state_new = state_new,
                                              .state_free = state_free,
                                              .retain = retain,
                                              .release = release,
                                              .vjp = linear_vjp,
                                              .jvp = linear_jvp,
                                              .account = account };

/* Records x = (I - g J)^{-1} b, or with the transpose. at: z [n], t, g, per-row arguments, shared
 * values, as an operation of this equation has them from operand `second` on but for `reuse`. */
static void record_linear(const root_data *like, ad_tape *tape, bool transposed, const ad_var *b,
                          const ad_var *at, ad_var *x)
{
    const ode_system *s = like->problem.system;
    root_data *d = data_like(like, tape);
    for (int j = 0; j < s->nstate; j++) x[j] = ad_none(tape);
    if (!d) return;
    d->transposed = transposed;
    places p = operands(d, false);
    ad_var *op = malloc((size_t)p.count * sizeof *op);
    if (!op) {
        ad_fail(tape, "Newton's method: out of memory");
        release(d);
        return;
    }
    memcpy(op, b, (size_t)s->nstate * sizeof *op);
    memcpy(op + s->nstate, at, (size_t)(p.count - s->nstate) * sizeof *op);
    ad_opaque(tape, &linear_class, d, p.count, op, s->nstate, s->state, x);
    free(op);
}

/* A point at which f and its derivatives are recorded: z [n], t, g, per-row arguments, shared
 * values in one array, and after them up to 2n variables that are held fixed while derivatives by
 * the others are taken. f depends on all of the former but g. */
typedef struct {
    const ode_system *system;
    ad_tape *tape;
    ad_var *at;         /* owned, with `derivative` behind it */
    ad_var *derivative; /* cotangents or tangents of each */
    int n, g, count;    /* states; the place of g; what is not held */
    int all;
} point;

/* at is NULL, with the tape's error set, where there is no memory. */
static point point_new(const root_data *d, ad_tape *tape)
{
    const ode_system *s = d->problem.system;
    point q = { .system = s,
                .tape = tape,
                .n = s->nstate,
                .g = s->nstate + 1,
                .count = s->nstate + 2 + s->nrow + s->nshared };
    q.all = q.count;
    const size_t most = (size_t)q.count + 2 * (size_t)q.n;
    q.at = malloc(2 * most * sizeof *q.at);
    if (q.at) q.derivative = q.at + most;
    else ad_fail(tape, "Newton's method: out of memory");
    return q;
}

static void hold(point *q, const ad_var *x)
{
    for (int j = 0; j < q->n; j++) q->at[q->all++] = x[j];
}

static void record_field(const point *q, ad_var *f)
{
    const ad_var *row = q->at + q->g + 1;
    ode_system_record(q->system, q->tape, q->at[q->n], q->at, row, row + q->system->nrow, f, NULL);
}

/* g J x. */
static void record_product(const point *q, const ad_var *x, ad_var *product)
{
    ad_var f[ODE_MAX_JOINT];
    record_field(q, f);
    ad_jvp_cut(q->n, q->at, x, q->n, f, product);
    for (int j = 0; j < q->n; j++) product[j] = ad_mul(q->at[q->g], product[j]);
}

/* g J^T x. */
static void record_transposed_product(const point *q, const ad_var *x, ad_var *product)
{
    ad_var f[ODE_MAX_JOINT];
    record_field(q, f);
    ad_vjp_cut(q->n, f, x, q->n, q->at, product);
    for (int j = 0; j < q->n; j++) product[j] = ad_mul(q->at[q->g], product[j]);
}

/* x, or zeros of the shape of `like` where it is absent. */
static ad_var or_zeros(ad_var x, ad_var like) { return x.node >= 0 ? x : ad_zeros_like(like); }

/* With u = (I - g J)^{-T} xbar (of the transposed system (I - g J)^{-1} xbar): bbar = u, and the
 * rest is the cotangent of u . (g J) x, of the transposed system of x . (g J) u. */
static void linear_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                       const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    const root_data *d = data;
    ad_tape *tape = token.tape;
    point q = point_new(d, tape);
    int n = q.n;
    ad_var b[ODE_MAX_JOINT], u[ODE_MAX_JOINT], product[ODE_MAX_JOINT];
    (void)nin, (void)nout;
    if (!q.at) return;
    ad_var *bar = q.derivative;
    memcpy(q.at, in + n, (size_t)q.count * sizeof *q.at);
    for (int j = 0; j < n; j++) b[j] = or_zeros(ybar[j], out[j]);
    record_linear(d, tape, !d->transposed, b, q.at, u);
    record_product(&q, d->transposed ? u : out, product);
    hold(&q, out);
    hold(&q, u);
    ad_vjp_cut(n, product, d->transposed ? out : u, q.all, q.at, bar);
    for (int j = 0; j < n; j++)
        if (need[j]) xbar[j] = u[j];
    for (int i = 0; i < q.count; i++)
        if (need[n + i]) xbar[n + i] = bar[i];
    free(q.at);
}

/* (I - g J) dx = db + d(g J) x. */
static void linear_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                       int nout, const ad_var *out, ad_var *ydot)
{
    const root_data *d = data;
    ad_tape *tape = token.tape;
    point q = point_new(d, tape);
    int n = q.n;
    ad_var product[ODE_MAX_JOINT], right[ODE_MAX_JOINT];
    (void)nin, (void)nout;
    if (!q.at) return;
    ad_var *dot = q.derivative;
    memcpy(q.at, in + n, (size_t)q.count * sizeof *q.at);
    for (int i = 0; i < q.count; i++) dot[i] = or_zeros(xdot[n + i], q.at[i]);
    (d->transposed ? record_transposed_product : record_product)(&q, out, product);
    hold(&q, out);
    for (int i = q.count; i < q.all; i++) dot[i] = ad_zeros_like(q.at[i]);
    ad_jvp_cut(q.all, q.at, dot, n, product, right);
    for (int j = 0; j < n; j++)
        if (xdot[j].node >= 0) right[j] = ad_add(right[j], xdot[j]);
    record_linear(d, tape, d->transposed, right, q.at, ydot);
    free(q.at);
}

/* ---- stages ---- */

static int find_roots(void *data, void *state, const ad_opaque_call *call)
{
    const root_data *d = data;
    const ode_system *s = d->problem.system;
    places p = operands(d, true);
    ode_newton_work *w = d->shares ? call->in_state[p.token] : state;
    ode_newton_problem problem = d->problem;
    problem.first = !d->shares;
    problem.g = ode_load(call->dtype, call->in[p.g], 0);
    problem.reuse = ode_load(call->dtype, call->in[p.reuse], 0) != 0;
    if (ode_newton_open(w, &problem, call, call->in[p.t], call->in + p.row, call->in + p.shared))
        return -1;
    ode_rows_gather(s, call->rows, call->in, w->base.data);
    ode_rows_gather(s, call->rows, call->in + p.second, w->k.data);
    ode_newton_counts counts;
    if (ode_newton_find(w, &problem, call, &counts)) return -1;
    ode_rows_scatter(s, call->rows, w->k.data, call->out);
    const double values[] = { (double)counts.jacobians, (double)counts.factorisations,
                              (double)counts.iterations };
    void *const *out = call->out + s->nstate;
    for (int i = 0; out[0] && i < 3; i++) ode_store(call->dtype, out[0], i, values[i]);
    if (out[1]) ode_store(call->dtype, out[1], 0, (double)(counts.failed + 1));
    if (out[2]) ode_store(call->dtype, out[2], 0, counts.end);
    return 0;
}

/* The point of a stage: z = base + g k, and the operands from t on but for `reuse`. */
static void point_of_stage(point *q, const places *p, const ad_var *in, const ad_var *out)
{
    for (int j = 0; j < q->n; j++) q->at[j] = ad_add(in[j], ad_mul(in[p->g], out[j]));
    q->at[q->n] = in[p->t];
    q->at[q->g] = in[p->g];
    for (int i = q->g + 1; i < q->count; i++) q->at[i] = in[p->row + i - q->g - 1];
}

/* Which operand of the stage element i of its point is, for i > n (z is none). */
static int operand_of(const point *q, const places *p, int i)
{
    return i == q->n ? p->t : i == q->g ? p->g : p->row + i - q->g - 1;
}

static void stage_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                      const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    const root_data *d = data;
    ad_tape *tape = token.tape;
    places p = operands(d, true);
    point q = point_new(d, tape);
    int n = q.n;
    ad_var b[ODE_MAX_JOINT], w[ODE_MAX_JOINT], f[ODE_MAX_JOINT];
    (void)nout;
    if (!q.at) return;
    ad_var *bar = q.derivative;
    point_of_stage(&q, &p, in, out);
    for (int j = 0; j < n; j++) b[j] = or_zeros(ybar[j], out[j]);
    record_linear(d, tape, true, b, q.at, w);
    record_field(&q, f);
    ad_vjp_cut(n, f, w, q.count, q.at, bar);
    for (int i = 0; i < nin; i++)
        if (need[i]) xbar[i] = ad_zeros_like(in[i]);
    for (int j = 0; j < n; j++) {
        if (need[j]) xbar[j] = bar[j];
        if (!need[p.g]) continue;
        ad_var dot = ad_sum_all(ad_mul(bar[j], out[j]));
        xbar[p.g] = j ? ad_add(xbar[p.g], dot) : dot;
    }
    for (int i = n; i < q.count; i++)
        if (i != q.g && need[operand_of(&q, &p, i)]) xbar[operand_of(&q, &p, i)] = bar[i];
    free(q.at);
}

static void stage_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                      int nout, const ad_var *out, ad_var *ydot)
{
    const root_data *d = data;
    ad_tape *tape = token.tape;
    places p = operands(d, true);
    point q = point_new(d, tape);
    int n = q.n;
    ad_var f[ODE_MAX_JOINT], right[ODE_MAX_JOINT];
    (void)nin, (void)nout;
    if (!q.at) return;
    ad_var *dot = q.derivative;
    point_of_stage(&q, &p, in, out);
    for (int j = 0; j < n; j++) {
        dot[j] = or_zeros(xdot[j], in[j]);
        if (xdot[p.g].node >= 0) dot[j] = ad_add(dot[j], ad_mul(out[j], xdot[p.g]));
    }
    for (int i = n; i < q.count; i++)
        dot[i] = i == q.g ? ad_zeros_like(in[p.g])
                          : or_zeros(xdot[operand_of(&q, &p, i)], in[operand_of(&q, &p, i)]);
    record_field(&q, f);
    ad_jvp_cut(q.count, q.at, dot, n, f, right);
    record_linear(d, tape, false, right, q.at, ydot);
    free(q.at);
}

static const ad_opaque_class stage_class = { .name = "Newton's method",
                                             .forward = find_roots,
                                             .state_new = state_new,
                                             .state_free = state_free,
                                             .retain = retain,
                                             .release = release,
                                             .vjp = stage_vjp,
                                             .jvp = stage_jvp,
                                             .account = account };

/* ---- recording ---- */

ode_stages ode_stages_begin(const ode_step *s)
{
    ode_stages all = { .step = s,
                       .owner = ad_none(s->tape),
                       .counts = ad_none(s->tape),
                       .failed_row = ad_none(s->tape),
                       .failed_how = ad_none(s->tape) };
    ode_unit_key field = { .kind = ODE_UNIT_FIELD }, jacobian = { .kind = ODE_UNIT_ROOT };
    all.field = ode_unit_make(s->system, field, s->tape, "Newton's method");
    all.jacobian = ode_unit_make(s->system, jacobian, s->tape, "Newton's method");
    return all;
}

static root_data *data_of(const ode_stages *all)
{
    const ode_step *s = all->step;
    root_data *d = all->field && all->jacobian ? calloc(1, sizeof *d) : NULL;
    if (!d) {
        ad_fail(s->tape, "Newton's method: out of memory");
        return NULL;
    }
    atomic_init(&d->references, 1);
    d->problem = (ode_newton_problem){
        .system = s->system, .field = all->field, .jacobian = all->jacobian, .limits = s->newton
    };
    d->shares = all->owner.node >= 0;
    return d;
}

void ode_record_stage(ode_stages *all, int evaluation, ad_var g, const ad_var *base,
                      const ad_var *guess, ad_var *k, ad_var *z)
{
    const ode_step *s = all->step;
    const ode_system *sys = s->system;
    int n = sys->nstate;
    for (int j = 0; j < n; j++) k[j] = z[j] = ad_none(s->tape);
    root_data *d = data_of(all);
    if (!d) return;
    d->problem.controlled = s->estimate;
    places p = operands(d, true);
    ad_var *in = malloc((size_t)p.count * sizeof *in);
    if (!in) {
        ad_fail(s->tape, "Newton's method: out of memory");
        release(d);
        return;
    }
    for (int j = 0; j < n; j++) {
        in[j] = base[j];
        in[p.second + j] = ad_stop_gradient(guess[j]);
    }
    in[p.t] = s->t[evaluation];
    in[p.g] = g;
    in[p.reuse] = s->reuse.node >= 0 ? s->reuse : ad_scalar(s->tape, 0);
    ad_var memory[ODE_MAX_ROWS];
    const ad_var *row = ode_step_row(s, evaluation, memory);
    for (int i = 0; i < sys->nrow; i++) in[p.row + i] = row[i];
    for (int i = 0; i < sys->nshared; i++) in[p.shared + i] = s->shared[i];
    if (d->shares) in[p.token] = all->owner;
    ad_var out[ODE_MAX_JOINT + 3];
    ad_shape shapes[ODE_MAX_JOINT + 3];
    for (int j = 0; j < n; j++) shapes[j] = sys->state[j];
    shapes[n] = AD_SHAPE(3);
    shapes[n + 1] = shapes[n + 2] = AD_SCALAR;
    bool first = !d->shares;
    ad_var token = ad_opaque(s->tape, &stage_class, d, p.count, in, n + 3, shapes, out);
    free(in);
    for (int j = 0; j < n; j++) {
        k[j] = out[j];
        z[j] = ad_add(base[j], ad_mul(g, k[j]));
    }
    if (first) {
        all->owner = token;
        all->counts = out[n];
        all->failed_row = out[n + 1];
        all->failed_how = out[n + 2];
        return;
    }
    all->counts = ad_add(all->counts, out[n]);
    all->failed_how = ad_select(all->failed_row, all->failed_how, out[n + 2]);
    all->failed_row = ad_select(all->failed_row, all->failed_row, out[n + 1]);
}

void ode_stages_end(const ode_stages *all, ode_step_results *r)
{
    r->counts = all->counts;
    r->failed_row = all->failed_row;
    r->failed_how = all->failed_how;
}

void ode_record_filter(const ode_stages *all, int evaluation, ad_var g, const ad_var *z,
                       const ad_var *x, ad_var *filtered)
{
    const ode_step *s = all->step;
    const ode_system *sys = s->system;
    int n = sys->nstate;
    for (int j = 0; j < n; j++) filtered[j] = ad_none(s->tape);
    root_data *d = data_of(all);
    if (!d) return;
    places p = operands(d, false);
    ad_var *in = malloc((size_t)p.count * sizeof *in);
    if (!in) {
        ad_fail(s->tape, "Newton's method: out of memory");
        release(d);
        return;
    }
    for (int j = 0; j < n; j++) {
        in[j] = x[j];
        in[p.second + j] = z[j];
    }
    in[p.t] = s->t[evaluation];
    in[p.g] = g;
    ad_var memory[ODE_MAX_ROWS];
    const ad_var *row = ode_step_row(s, evaluation, memory);
    for (int i = 0; i < sys->nrow; i++) in[p.row + i] = row[i];
    for (int i = 0; i < sys->nshared; i++) in[p.shared + i] = s->shared[i];
    if (d->shares) in[p.token] = all->owner;
    ad_opaque(s->tape, &linear_class, d, p.count, in, n, sys->state, filtered);
    free(in);
}
