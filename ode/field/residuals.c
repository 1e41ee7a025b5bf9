/* Residuals: what an evaluation of a field leaves for its VJP, so that the discrete adjoint need
 * not evaluate the field again. They are found, not written: the VJP of the traced field is
 * recorded once, and the cut between it and the evaluation taken (ad_residuals). */
#include "ode/field/system.h"
#include <stdlib.h>
#include <string.h>

/* A cotangent that is to come. */
static ad_var seed_for(ad_tape *tape, ad_shape shape)
{
    return ad_has_rows(shape) ? ad_input_rows(tape, shape, 0, NULL) : ad_input(tape, shape, NULL);
}

/* Records the VJP that an adjoint will take of the field, behind the trace, and finds the cut.
 * Returns how many (-1: error on the trace).
 */
static int find(ode_system *s, uint64_t need, bool times, int max, ad_var *residual)
{
    ad_tape *tape = s->trace;
    int32_t mark = ad_tape_mark(tape);
    int n = 0, nrow = 0;
    size_t most = 1 + (size_t)(s->nstate + s->nrow + s->nshared);
    ad_var *x = malloc(2 * most * sizeof *x), seed[2 * ODE_MAX_STATES], y[2 * ODE_MAX_STATES],
           row[ODE_MAX_ARGS];
    if (!x) {
        ad_fail(tape, "out of memory");
        return -1;
    }
    int ny = ode_system_outputs(s, y);
    for (int i = 0; i < ny; i++) seed[i] = seed_for(tape, ad_shape_of(y[i]));
    for (int i = 0; i < s->nstate; i++) x[n++] = s->y[i];
    for (int i = 0; i < s->nrow; i++) {
        row[nrow++] = s->args[s->row[i]];
        if (need >> s->row[i] & 1) x[n++] = s->args[s->row[i]];
    }
    for (int i = 0; i < s->nshared; i++)
        if (ode_shared_needed(s, i, need)) x[n++] = s->frontier[i];
    if (times) x[n++] = s->t;
    ad_var *bar = x + most;
    ad_vjp_cut(ny, y, seed, n, x, bar);
    int count = ad_residuals(ny, seed, nrow, row, n, bar, max, residual);
    ad_tape_rewind(tape, mark);
    free(x);
    return count;
}

static ode_residuals *find_residuals(const ode_system *s, uint64_t need, bool times)
{
    ode_residuals *r = s->residuals;
    while (r && (r->need != need || r->times != times)) r = r->next;
    return r;
}

static int state_of(const ode_system *s, ad_var x)
{
    for (int i = 0; i < s->nstate; i++)
        if (s->y[i].node == x.node) return i;
    return -1;
}

static ode_residuals *make_residuals(ode_system *s, uint64_t need, bool times, ad_tape *tape,
                                     const char *caller)
{
    ode_residuals *r = calloc(1, sizeof *r);
    int n = r && s->trace ? find(s, need, times, 0, NULL) : 0;
    if (n > 0) {
        r->var = calloc((size_t)n, sizeof *r->var);
        r->shape = calloc((size_t)n, sizeof *r->shape);
        r->state = calloc((size_t)n, sizeof *r->state);
        r->n = r->var && r->shape && r->state ? find(s, need, times, n, r->var) : 0;
    }
    if (!r || n < 0 || r->n != n) {
        const char *why = s->trace ? ad_tape_error(s->trace) : NULL;
        ad_fail(tape, "%s: %s", caller, why ? why : "out of memory");
        if (s->trace) ad_tape_clear_error(s->trace); /* of memory: the next attempt may have more */
        ode_residuals_free(r);
        return NULL;
    }
    for (int j = 0; j < n; j++) {
        r->shape[j] = ad_shape_of(r->var[j]);
        r->state[j] = state_of(s, r->var[j]);
        AD_ASSERT(ad_has_rows(r->shape[j]));
    }
    r->need = need;
    r->times = times;
    r->next = s->residuals;
    s->residuals = r;
    return r;
}

const ode_residuals *ode_system_residuals(ode_system *s, uint64_t need, bool times, ad_tape *tape,
                                          const char *caller)
{
    ode_system_lock(s);
    const ode_residuals *r = find_residuals(s, need, times);
    if (!r) r = make_residuals(s, need, times, tape, caller);
    ode_system_unlock(s);
    return r;
}

void ode_residuals_free(ode_residuals *r)
{
    while (r) {
        ode_residuals *next = r->next;
        free(r->var);
        free(r->shape);
        free(r->state);
        free(r);
        r = next;
    }
}

static bool is_stored(const ode_residuals *r, int j, bool stored)
{
    return stored && r->state[j] >= 0;
}

size_t ode_residuals_bytes(const ode_system *s, const ode_residuals *r, int64_t rows, bool stored)
{
    size_t bytes = 0;
    for (int j = 0; j < r->n; j++)
        if (!is_stored(r, j, stored)) bytes += ode_array_bytes(s->dtype, r->shape[j], rows);
    return bytes;
}

void ode_residuals_write(const ode_system *s, const ode_residuals *r, int64_t rows, void *memory,
                         bool stored, void **out)
{
    char *at = memory;
    for (int j = 0; j < r->n; j++) {
        out[j] = is_stored(r, j, stored) ? NULL : at;
        if (out[j]) at += ode_array_bytes(s->dtype, r->shape[j], rows);
    }
}

void ode_residuals_read(const ode_system *s, const ode_residuals *r, int64_t rows,
                        const void *memory, const void *state, const void **in)
{
    const char *at = memory;
    for (int j = 0; j < r->n; j++) {
        if (is_stored(r, j, state)) {
            in[j] = ode_part(s, rows, state, r->state[j]);
        } else {
            in[j] = at;
            at += ode_array_bytes(s->dtype, r->shape[j], rows);
        }
    }
}
