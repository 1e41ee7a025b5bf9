/* Root-finding inside implicit steps: z = base + g f(t, z), row by row, as an opaque operation.
 * Newton's method with the Jacobian from the tape; derivatives by the implicit function theorem
 * with the Jacobian at the root itself: factors kept from the iteration belong to another point,
 * and using them would be wrong. */
#include "ode/methods/recorders.h"
#include "ode/step/unit.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

extern void dgetrf_(const int *m, const int *n, double *a, const int *lda, int *ipiv, int *info);
extern void dgetrs_(const char *trans, const int *n, const int *nrhs, const double *a,
                    const int *lda, const int *ipiv, double *b, const int *ldb, int *info);

/* The system outlives what is recorded for it: its units own the programs that hold this. */
typedef struct {
    atomic_int references;
    ode_system *system;
    const ode_unit *unit; /* f and its Jacobian */
    ode_newton newton;
} root_data;

typedef struct {
    ode_runner runner;
    ode_buffer z, f, jacobian, matrix, pivots, zd, base, active;
} root_state;

/* Operands: base or zbar [n], then (solve only) z [n], t, g, per-row arguments, shared values. */
typedef struct {
    int t, g, row, shared, count;
} places;

static places operands(const ode_system *s, bool solve)
{
    places p;
    p.t = solve ? 2 * s->nstate : s->nstate;
    p.g = p.t + 1;
    p.row = p.g + 1;
    p.shared = p.row + s->nrow;
    p.count = p.shared + s->nshared;
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
    return calloc(1, sizeof(root_state));
}

static void state_free(void *state)
{
    root_state *s = state;
    ode_runner_close(&s->runner);
    ode_buffer *all[] = { &s->z,      &s->f,  &s->jacobian, &s->matrix,
                          &s->pivots, &s->zd, &s->base,     &s->active };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
    free(s);
}

static int no_memory(const ad_opaque_call *call)
{
    snprintf(call->error, call->error_size, "out of memory");
    return -1;
}

static int prepare(root_data *d, root_state *s, const ad_opaque_call *call, places p)
{
    int64_t n = d->system->width, cells = call->rows * n;
    size_t bytes = ode_bytes(call->dtype), count = (size_t)cells;
    if (ode_runner_open(&s->runner, d->unit, call->threads, call->error, call->error_size))
        return -1;
    if (!ode_buffer_need(&s->z, count * bytes) || !ode_buffer_need(&s->f, count * bytes) ||
        !ode_buffer_need(&s->jacobian, count * (size_t)n * bytes) ||
        !ode_buffer_need(&s->matrix, (size_t)(n * n + n) * sizeof(double)) ||
        !ode_buffer_need(&s->pivots, (size_t)n * sizeof(int)) ||
        !ode_buffer_need(&s->zd, count * sizeof(double)) ||
        !ode_buffer_need(&s->base, count * sizeof(double)) ||
        !ode_buffer_need(&s->active, (size_t)call->rows))
        return no_memory(call);
    ode_runner *r = &s->runner;
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_TIMES) = call->in[p.t];
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_ROOT_STATE) = s->z.data;
    ode_runner_arguments(r, call->in + p.row, call->in + p.shared);
    *ode_runner_out(r, ODE_VALUE, ODE_PORT_ROOT_DERIVATIVE) = s->f.data;
    *ode_runner_out(r, ODE_VALUE, ODE_PORT_ROOT_JACOBIAN) = s->jacobian.data;
    return 0;
}

/* States in arrays of their own, side by side in rows: in double and in the call's type. */
static void gather(const ode_system *s, const ad_opaque_call *call, int first, double *wide,
                   void *narrow)
{
    for (int64_t r = 0; r < call->rows; r++)
        for (int64_t i = 0, at = r * s->width; i < s->nstate; at += s->size[i++])
            for (int64_t j = 0; j < s->size[i]; j++) {
                double value = ode_load(call->dtype, call->in[first + i], r * s->size[i] + j);
                if (wide) wide[at + j] = value;
                if (narrow) ode_store(call->dtype, narrow, at + j, value);
            }
}

static void scatter(const ode_system *s, const ad_opaque_call *call, const double *wide)
{
    for (int64_t r = 0; r < call->rows; r++)
        for (int64_t i = 0, at = r * s->width; i < s->nstate; at += s->size[i++])
            for (int64_t j = 0; call->out[i] && j < s->size[i]; j++)
                ode_store(call->dtype, call->out[i], r * s->size[i] + j, wide[at + j]);
}

/* Solves (I - g J) x = x, or with the transpose, for one row. Row-major rows are LAPACK's columns:
 * "T" is the matrix itself. */
static bool solve_row(const root_state *s, const root_data *d, ad_dtype dtype, int64_t row,
                      double g, const char *trans, double *x)
{
    int n = (int)d->system->width, one = 1, info = 0;
    double *m = s->matrix.data;
    for (int64_t i = 0; i < (int64_t)n * n; i++)
        m[i] = (i % (n + 1) == 0) - g * ode_load(dtype, s->jacobian.data, row * n * n + i);
    dgetrf_(&n, &n, m, &n, s->pivots.data, &info);
    if (info) return false;
    dgetrs_(trans, &n, &one, m, &n, s->pivots.data, x, &n, &info);
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return !info;
}

/* One Newton update of a row; *converged says whether it was below the tolerance, *residual what it
 * started from, *bad which component of that is not finite (-1: none). */
static bool update_row(const root_state *s, const root_data *d, ad_dtype dtype, int64_t row,
                       double g, bool *converged, double *residual, int64_t *bad)
{
    int64_t n = d->system->width;
    double *z = (double *)s->zd.data + row * n, *base = (double *)s->base.data + row * n;
    double *x = (double *)s->matrix.data + n * n, scale = DBL_MIN, change = 0;
    *residual = 0;
    *bad = -1;
    for (int64_t i = n - 1; i >= 0; i--) {
        x[i] = base[i] + g * ode_load(dtype, s->f.data, row * n + i) - z[i];
        if (!isfinite(x[i])) *bad = i;
        *residual = fmax(*residual, fabs(x[i]));
    }
    if (*bad >= 0 || !solve_row(s, d, dtype, row, g, "T", x)) return false;
    for (int64_t i = 0; i < n; i++) {
        z[i] += x[i];
        ode_store(dtype, s->z.data, row * n + i, z[i]);
        change = fmax(change, fabs(x[i]));
        scale = fmax(scale, fmax(fabs(z[i]), fabs(base[i])));
    }
    *converged = change <= d->newton.tolerance * scale;
    return true;
}

/* Why a row's update failed. */
static int fail_update(const root_data *d, const ad_opaque_call *call, int64_t row, int64_t bad,
                       int iteration, double g, double residual)
{
    int state = 0;
    if (bad < 0) {
        snprintf(call->error, call->error_size,
                 "row %lld, iteration %d: the matrix I - %g J is singular or not finite (residual "
                 "%.3g); take a smaller step",
                 (long long)row, iteration, ode_shown(g), ode_shown(residual));
        return -1;
    }
    while (bad >= d->system->size[state]) bad -= d->system->size[state++];
    snprintf(call->error, call->error_size,
             "iteration %d: the field is not finite in row %lld, component %lld of state %d; take "
             "a smaller step, or "
             "check the field there",
             iteration, (long long)row, (long long)bad, state);
    return -1;
}

static int find_roots(void *data, void *state, const ad_opaque_call *call)
{
    root_data *d = data;
    root_state *s = state;
    places p = operands(d->system, false);
    if (prepare(d, s, call, p)) return -1;
    gather(d->system, call, 0, s->zd.data, s->z.data);
    gather(d->system, call, 0, s->base.data, NULL);
    memset(s->active.data, 1, (size_t)call->rows);
    unsigned char *active = s->active.data;
    double g = ode_load(call->dtype, call->in[p.g], 0), residual = 0;
    int64_t left = call->rows, factorisations = 0, failed = 0, bad;
    int iteration = 0;
    for (; left && iteration < d->newton.iterations; iteration++) {
        if (ode_runner_run(&s->runner, call->rows, call->error, call->error_size)) return -1;
        for (int64_t r = 0; r < call->rows; r++) {
            bool converged = false;
            if (!active[r]) continue;
            factorisations++;
            if (!update_row(s, d, call->dtype, r, g, &converged, &residual, &bad))
                return fail_update(d, call, r, bad, iteration, g, residual);
            if (converged) active[r] = 0, left--;
            else failed = r;
        }
    }
    if (left) {
        snprintf(call->error, call->error_size,
                 "%lld rows, row %lld among them, do not converge in %d iterations (residual %.3g, "
                 "tolerance %g); take a "
                 "smaller "
                 "step, or raise newton_iterations or newton_tolerance",
                 (long long)left, (long long)failed, d->newton.iterations, ode_shown(residual),
                 d->newton.tolerance);
        return -1;
    }
    scatter(d->system, call, s->zd.data);
    void *counts = call->out[d->system->nstate];
    double values[3] = { iteration, (double)factorisations, iteration };
    for (int i = 0; counts && i < 3; i++) ode_store(call->dtype, counts, i, values[i]);
    return 0;
}

/* w with (I - g J)^T w = zbar at the root. */
static int solve_adjoint(void *data, void *state, const ad_opaque_call *call)
{
    root_data *d = data;
    root_state *s = state;
    places p = operands(d->system, true);
    if (prepare(d, s, call, p)) return -1;
    gather(d->system, call, d->system->nstate, NULL, s->z.data);
    gather(d->system, call, 0, s->zd.data, NULL);
    if (ode_runner_run(&s->runner, call->rows, call->error, call->error_size)) return -1;
    double g = ode_load(call->dtype, call->in[p.g], 0), *w = s->zd.data;
    for (int64_t r = 0; r < call->rows; r++) {
        if (solve_row(s, d, call->dtype, r, g, "N", w + r * d->system->width)) continue;
        snprintf(call->error, call->error_size,
                 "row %lld: the matrix I - %g J is singular or not finite", (long long)r, g);
        return -1;
    }
    scatter(d->system, call, w);
    return 0;
}

static const ad_opaque_class solve_class = { .name = "adjoint of an implicit step",
                                             .forward = solve_adjoint,
                                             .state_new = state_new,
                                             .state_free = state_free,
                                             .retain = retain,
                                             .release = release };

/* dz = (I - g J)^{-1} (dbase + dg f + g (df/dt dt + df/dargs dargs)). */
static void root_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                     const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    root_data *d = data;
    ode_system *s = d->system;
    ad_tape *tape = token.tape;
    int n = s->nstate, nx = 0;
    (void)nout;
    places p = operands(s, false);
    ad_var *op = malloc(3 * (size_t)(nin + n) * sizeof *op);
    if (!op) {
        ad_fail(tape, "Newton's method: out of memory");
        return;
    }
    ad_var *x = op + nin + n, *bar = x + nin + n, w[ODE_MAX_JOINT], f[ODE_MAX_JOINT],
           scaled[ODE_MAX_JOINT];
    for (int i = 0; i < n; i++) {
        op[i] = ybar[i].node >= 0 ? ybar[i] : ad_zeros_like(out[i]);
        op[n + i] = out[i];
    }
    for (int i = n; i < nin; i++) op[n + i] = in[i];
    retain(d);
    ad_opaque(tape, &solve_class, d, nin + n, op, n, s->state, w);
    ode_system_record(s, tape, in[p.t], out, in + p.row, in + p.shared, f, NULL);
    ad_var gbar = ad_none(tape);
    for (int i = 0; i < n; i++) {
        scaled[i] = ad_mul(in[p.g], w[i]);
        ad_var dot = ad_sum_all(ad_mul(w[i], f[i]));
        gbar = i ? ad_add(gbar, dot) : dot;
        if (need[i]) xbar[i] = w[i];
    }
    if (need[p.g]) xbar[p.g] = gbar;
    for (int i = 0; i < n; i++) x[nx++] = out[i]; /* held fixed: its part is in w */
    for (int i = n; i < nin; i++)
        if (need[i] && i != p.g) x[nx++] = in[i];
    ad_vjp_cut(n, f, scaled, nx, x, bar);
    nx = n;
    for (int i = n; i < nin; i++)
        if (need[i] && i != p.g) xbar[i] = bar[nx++];
    free(op);
}

static const ad_opaque_class root_class = { .name = "Newton's method",
                                            .forward = find_roots,
                                            .state_new = state_new,
                                            .state_free = state_free,
                                            .retain = retain,
                                            .release = release,
                                            .vjp = root_vjp };

void ode_record_root(const ode_step *step, ad_var t, ad_var g, const ad_var *base, ad_var *z,
                     ad_var *counts)
{
    ode_system *s = step->system;
    for (int i = 0; i < s->nstate; i++) z[i] = ad_none(step->tape);
    *counts = ad_none(step->tape);
    ode_unit_key key = { .kind = ODE_UNIT_ROOT };
    places p = operands(s, false);
    const ode_unit *unit = ode_unit_make(s, key, step->tape, "Newton's method");
    root_data *d = unit ? calloc(1, sizeof *d) : NULL;
    ad_var *in = d ? malloc((size_t)p.count * sizeof *in) : NULL;
    if (!in) {
        ad_fail(step->tape, "out of memory");
        free(d);
        return;
    }
    atomic_init(&d->references, 1);
    d->system = s;
    d->unit = unit;
    d->newton = step->newton;
    for (int i = 0; i < s->nstate; i++) in[i] = base[i];
    in[p.t] = t;
    in[p.g] = g;
    for (int i = 0; i < s->nrow; i++) in[p.row + i] = step->row[i];
    for (int i = 0; i < s->nshared; i++) in[p.shared + i] = step->shared[i];
    ad_var out[ODE_MAX_JOINT + 1];
    ad_shape shapes[ODE_MAX_JOINT + 1];
    for (int i = 0; i < s->nstate; i++) shapes[i] = s->state[i];
    shapes[s->nstate] = AD_SHAPE(3);
    ad_opaque(step->tape, &root_class, d, p.count, in, s->nstate + 1, shapes, out);
    for (int i = 0; i < s->nstate; i++) z[i] = out[i];
    *counts = out[s->nstate];
    free(in);
}
