/* Units: functions of a system (a step, its VJP, ...) that run on arrays, compiled once, or
 * recorded anew at every run with values at hand (ode_options.rerecord). */
#include "ode/step/unit.h"
#include <stdlib.h>
#include <string.h>

static void free_unit(ode_unit *u)
{
    if (!u) return;
    ad_program_free(u->program);
    ode_layout_clear(&u->layout);
    ode_layout_clear(&u->own);
    free(u);
}

static void free_units(ode_unit *first)
{
    while (first) {
        ode_unit *u = first;
        first = u->next;
        free_unit(u);
    }
}

/* After a failure to record it: a tangent that was not short of memory, but needs a rule that an
 * operation of the field has not, will never be there. */
static void note_absence(ode_unit *u, const char *error)
{
    bool is_tangent = u->key.kind == ODE_UNIT_TANGENT || u->key.kind == ODE_UNIT_FIELD_TANGENT;
    if (is_tangent && !strstr(error, "out of memory")) atomic_store(&u->absent, true);
}

/* The unit's program; NULL with a message. */
static const ad_program *compile(ode_unit *u, char *error, size_t error_size)
{
    ode_system_lock(u->system);
    if (atomic_load(&u->absent)) {
        snprintf(error, error_size, "the field has an operation without a tangent");
    } else if (!u->program) {
        ad_tape *tape = ad_tape_new(u->system->dtype);
        ad_var *v = tape ? ode_unit_record(u, tape, 0, NULL) : NULL;
        u->program = v ? ad_compile(u->layout.nin, v, u->layout.nout, v + u->layout.nin) : NULL;
        if (!u->program)
            snprintf(error, error_size, "%s",
                     tape && ad_tape_error(tape) ? ad_tape_error(tape) : "out of memory");
        if (!u->program) note_absence(u, error);
        const ode_system *traced = ode_system_traced(u->system);
        if (traced->trace)
            ad_tape_clear_error(traced->trace); /* of memory: the next attempt may have more */
        free(v);
        ad_tape_free(tape);
    }
    const ad_program *program = u->program;
    ode_system_unlock(u->system);
    return program;
}

static ode_unit *find_or_make(ode_system *s, ode_unit_key key, ad_tape *tape, const char *caller)
{
    ode_unit_key clean;
    memset(&clean, 0, sizeof clean); /* the bytes between members are compared too */
    clean.kind = key.kind;
    clean.derivative = key.derivative;
    clean.flags = key.flags;
    clean.method = key.method;
    clean.need = key.need;
    clean.values = key.values;
    clean.newton.tolerance = key.newton.tolerance;
    clean.newton.iterations = key.newton.iterations;
    clean.residuals = key.residuals;
    for (ode_unit *u = s->units; u; u = u->next)
        if (!memcmp(&u->key, &clean, sizeof clean)) return u;
    AD_ASSERT(!key.residuals || key.derivative != ODE_JVP); /* a JVP evaluates the field itself */
    ode_unit_key own = clean;
    own.derivative = ODE_ITSELF;
    ode_unit *u = calloc(1, sizeof *u);
    if (u) {
        memcpy(&u->key, &clean, sizeof clean);
        u->system = s;
    }
    if (!u || !ode_layout_make(&u->own, s, &own) || !ode_layout_make(&u->layout, s, &u->key)) {
        ad_fail(tape, "%s: out of memory", caller);
        free_unit(u);
        return NULL;
    }
    u->next = s->units;
    s->units = u;
    s->free_units = free_units;
    return u;
}

ode_unit *ode_unit_plan(ode_system *s, ode_unit_key key, ad_tape *tape, const char *caller)
{
    ode_system_lock(s);
    ode_unit *u = find_or_make(s, key, tape, caller);
    ode_system_unlock(s);
    return u;
}

ode_unit *ode_unit_make(ode_system *s, ode_unit_key key, ad_tape *tape, const char *caller)
{
    char error[ODE_ERROR_SIZE];
    ode_unit *u = ode_unit_plan(s, key, tape, caller);
    if (!u || s->rerecord || compile(u, error, sizeof error)) return u;
    ad_fail(tape, "%s: %s", caller, error);
    return NULL;
}

int ode_runner_open(ode_runner *r, const ode_unit *u, int threads, char *error, size_t error_size)
{
    if (r->unit == u) return 0;
    const ode_runner before = *r;
    ode_runner_close(r);
    r->warning = before.warning; /* whose it is may have been said */
    r->warning_size = before.warning_size;
    /* The unit is the system's, which everybody holds; only its program is still to come. */
    if (!u->system->rerecord && !(r->program = compile((ode_unit *)u, error, error_size)))
        return -1;
    r->in = calloc((size_t)u->layout.nin + 1, sizeof *r->in);
    r->out = calloc((size_t)u->layout.nout + 1, sizeof *r->out);
    r->accumulate = calloc((size_t)u->layout.nout + 1, sizeof *r->accumulate);
    if (r->program) r->workspace = ad_workspace_new(r->program, threads);
    if (!r->in || !r->out || !r->accumulate || (r->program && !r->workspace)) {
        ode_runner_close(r);
        snprintf(error, error_size, "out of memory");
        return -1;
    }
    r->unit = u;
    return 0;
}

void ode_runner_account(const ode_unit *u, ad_opaque_account *a)
{
    char error[ODE_ERROR_SIZE];
    const ad_program *p =
        !u || u->system->rerecord ? NULL : compile((ode_unit *)u, error, sizeof error);
    if (!p) return;
    int64_t step_bytes;
    const int64_t bytes = ad_program_bytes(p, a->rows, a->threads, &step_bytes);
    a->bytes = bytes < 0 || a->bytes < 0 || a->bytes > INT64_MAX - bytes ? -1 : a->bytes + bytes;
    a->step_bytes += step_bytes;
    const size_t lists =
        (size_t)(u->layout.nin + u->layout.nout + 2) * sizeof(void *) + (size_t)u->layout.nout + 1;
    ode_account(a, 1, lists);
}

void ode_runner_close(ode_runner *r)
{
    ad_workspace_free(r->workspace);
    free(r->in);
    free(r->out);
    free(r->accumulate);
    *r = (ode_runner){ 0 };
}

/* Records the unit with values and copies what was asked for. */
static int run_recorded(ode_runner *r, int64_t rows, char *error, size_t error_size)
{
    const ode_unit *u = r->unit;
    ad_dtype dtype = u->system->dtype;
    ad_tape *tape = ad_tape_new(dtype);
    ad_var *v = tape ? ode_unit_record(u, tape, rows, (const void *const *)r->in) : NULL;
    bool recorded = v && !ad_tape_error(tape);
    for (int i = 0; v && i < u->layout.nout; i++) {
        if (!r->out[i]) continue;
        const void *value = ad_value(v[u->layout.nin + i]);
        if (!value) break;
        int64_t n = ad_size(v[u->layout.nin + i]);
        if (r->accumulate[i]) ode_add(dtype, n, value, r->out[i]);
        else memcpy(r->out[i], value, (size_t)n * ode_bytes(dtype));
    }
    int failed = !v || ad_tape_error(tape);
    if (failed)
        snprintf(error, error_size, "in the field: %s",
                 tape && ad_tape_error(tape) ? ad_tape_error(tape) : "out of memory");
    if (!recorded) note_absence((ode_unit *)u, error);
    free(v);
    ad_tape_free(tape);
    return failed ? -1 : 0;
}

int ode_runner_run(ode_runner *r, int64_t rows, char *error, size_t error_size)
{
    if (!r->program) return run_recorded(r, rows, error, error_size);
    ad_run_args args = { .rows = rows,
                         .inputs = r->in,
                         .outputs = r->out,
                         .accumulate = r->accumulates ? r->accumulate : NULL,
                         .refine = r->refine,
                         .warns = r->warning != NULL,
                         .defer = r->defer,
                         .same_parameters = r->primed,
                         .fill = r->fill,
                         .fill_context = r->fill_context,
                         .fill_work = r->fill_work };
    if (ad_run_with(r->program, r->workspace, &args)) {
        /* The caller says which solve and which step it was; that it ran as a program tells nobody
         * anything. */
        const char *message = ad_workspace_error(r->workspace), prefix[] = "ad_run: ";
        snprintf(error, error_size, "%s",
                 message + (strncmp(message, prefix, sizeof prefix - 1) ? 0 : sizeof prefix - 1));
        return -1;
    }
    const char *doubt = ad_workspace_warning(r->workspace);
    if (doubt && !r->warning[0]) snprintf(r->warning, r->warning_size, "%s", doubt);
    r->primed = true;
    return 0;
}

void ode_runner_deliver(const ode_runner *r) { ad_run_deliver(r->workspace); }

size_t ode_port_bytes(const ode_unit *u, ode_role role, ode_port port, int64_t rows)
{
    ode_place place = ode_unit_place(u, role, port);
    const ad_shape *shape = place.output ? u->layout.out : u->layout.in;
    int64_t n = 0;
    for (int i = 0; i < place.count; i++) n += ad_count(shape[place.first + i], rows);
    return (size_t)n * ode_bytes(u->system->dtype);
}

static size_t array_bytes(const ode_unit *u, ad_shape shape, int64_t rows)
{
    return (size_t)ad_count(shape, rows) * ode_bytes(u->system->dtype);
}

void ode_runner_spread_in(ode_runner *r, ode_place place, int64_t rows)
{
    for (int i = place.first + 1; i < place.first + place.count; i++)
        r->in[i] =
            (const char *)r->in[i - 1] + array_bytes(r->unit, r->unit->layout.in[i - 1], rows);
}

void ode_runner_spread_out(ode_runner *r, ode_place place, int64_t rows)
{
    for (int i = place.first + 1; i < place.first + place.count; i++) {
        char *before = r->out[i - 1];
        size_t bytes = array_bytes(r->unit, r->unit->layout.out[i - 1], rows);
        r->out[i] = before ? before + bytes : NULL;
    }
}

void ode_runner_arguments(ode_runner *r, const void *const *row, const void *const *shared)
{
    const ode_system *s = r->unit->system;
    const void **rows = ode_runner_in(r, ODE_VALUE, ODE_PORT_ROW),
               **values = ode_runner_in(r, ODE_VALUE, ODE_PORT_SHARED);
    int nrow = ode_unit_place(r->unit, ODE_VALUE, ODE_PORT_ROW).count;
    for (int i = 0; i < nrow; i++) rows[i] = row[i];
    for (int i = 0; i < s->nshared; i++) values[i] = shared[i];
    r->primed = false;
}
