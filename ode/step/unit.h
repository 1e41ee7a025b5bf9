/* Internal: units, functions of a system that run on arrays. */
#ifndef ODE_UNIT_H
#define ODE_UNIT_H
#include "ode/step/ports.h"

/* A function of the system that runs on arrays. */
struct ode_unit {
    ode_unit *next;
    ode_unit_key key;
    ode_system *system;
    ode_layout layout;   /* of its inputs and outputs */
    ode_layout own;      /* of what it is a derivative of (of other units: as layout) */
    ad_program *program; /* NULL: not compiled yet, or recorded at every run */
    atomic_bool absent;  /* a tangent that the field has not */
};
static inline ode_place ode_unit_place(const ode_unit *u, ode_role role, ode_port port)
{
    return u->layout.at[role][port];
}

/* The variables of a port of what the unit is, or is a derivative of, in a list of its inputs or
 * its outputs; NULL: it has none. */
static inline const ad_var *ode_unit_input(const ode_unit *u, const ad_var *in, ode_port port)
{
    ode_place place = u->own.at[ODE_VALUE][port];
    return place.count ? in + place.first : NULL;
}
static inline ad_var *ode_unit_output(const ode_unit *u, ad_var *out, ode_port port)
{
    ode_place place = u->own.at[ODE_VALUE][port];
    return place.count ? out + place.first : NULL;
}

/* Finds or makes a unit and compiles it; NULL with the tape's error set, preceded by `caller`. */
ode_unit *ode_unit_make(ode_system *system, ode_unit_key key, ad_tape *tape, const char *caller);
/* As above, but it is only compiled when it is first run (it may never be). */
ode_unit *ode_unit_plan(ode_system *system, ode_unit_key key, ad_tape *tape, const char *caller);
/* Records what it computes, as its system and key say, with data (NULL: symbolic) in inputs
 * (unit_record.c). The variables in a new array, inputs first; NULL with the tape's error set. */
ad_var *ode_unit_record(const ode_unit *unit, ad_tape *tape, int64_t rows, const void *const *data);
/* Record units of the kinds ODE_UNIT_TANGENT and ODE_UNIT_FIELD_TANGENT (tangent.c). */
void ode_tangent_record(const ode_unit *unit, ad_tape *tape, const ad_var *in, ad_var *out);
void ode_field_tangent_record(const ode_unit *unit, ad_tape *tape, const ad_var *in, ad_var *out);
/* Connects a step to the unit's inputs `in` by name, and its results to memory (connect.c). */
typedef struct {
    ad_var next[ODE_MAX_JOINT], slope[ODE_MAX_JOINT], error[ODE_MAX_JOINT], error3[ODE_MAX_JOINT],
        ringing[ODE_MAX_JOINT], k[ODE_MAX_STAGES * ODE_MAX_JOINT];
} ode_step_memory;
void ode_step_connect(const ode_unit *unit, ad_tape *tape, const ad_var *in, ode_step *s,
                      ode_step_results *r, ode_step_memory *memory);

/* A unit with the memory to run it. */
typedef struct {
    const ode_unit *unit;
    const ad_program *program; /* NULL: recorded at every run */
    ad_workspace *workspace;
    const void **in;
    void **out;
    bool *accumulate;
    bool accumulates; /* some output */
    int refine;       /* for solves inside the field, as ad_run_args.refine */
    char *warning; /* where what they doubt is written, unless something is; NULL: it is an error */
    size_t warning_size;
    bool defer;  /* sums to be accumulated, as ad_run_args.defer; ode_runner_deliver ends it */
    bool primed; /* parameters are unchanged since the previous run */
    void (*fill)(void *context, int64_t first, int64_t rows); /* as ad_run_args.fill */
    void *fill_context;
    double fill_work;
    bool connected; /* for the user of the runner: what stays the same over a solve is in place */
} ode_runner;
/* Compiles the unit if this has not been done (by whatever thread). 0, or -1 with a message. */
int ode_runner_open(ode_runner *runner, const ode_unit *unit, int threads, char *error,
                    size_t error_size);
void ode_runner_close(ode_runner *runner);
/* Adds what a runner of the unit (NULL: there is none) holds to the account, which says for how
 * many rows; compiles the unit. One that cannot be compiled, or is recorded anew at every run,
 * counts as nothing. */
void ode_runner_account(const ode_unit *unit, ad_opaque_account *account);
/* What solves inside the field doubt, the call does. */
static inline void ode_runner_answers_to(ode_runner *r, const ad_opaque_call *call)
{
    r->warning = call->warning;
    r->warning_size = call->error_size;
}
/* 0, or -1 with a message. */
int ode_runner_run(ode_runner *runner, int64_t rows, char *error, size_t error_size);
void ode_runner_deliver(const ode_runner *runner);
/* Of all arrays of a port, one after the other. */
size_t ode_port_bytes(const ode_unit *unit, ode_role role, ode_port port, int64_t rows);
/* Pointers to the arrays of a port, as inputs and as outputs. */
static inline const void **ode_runner_in(const ode_runner *r, ode_role role, ode_port port)
{
    ode_place place = ode_unit_place(r->unit, role, port);
    AD_ASSERT(!place.count || !place.output);
    return r->in + place.first;
}
static inline void **ode_runner_out(const ode_runner *r, ode_role role, ode_port port)
{
    ode_place place = ode_unit_place(r->unit, role, port);
    AD_ASSERT(!place.count || place.output);
    return r->out + place.first;
}
/* Points all arrays of a port at memory where they lie one after the other (write: NULL, they are
 * not delivered). Most ports have one array: the others are spread behind it. */
void ode_runner_spread_in(ode_runner *r, ode_place place, int64_t rows);
void ode_runner_spread_out(ode_runner *r, ode_place place, int64_t rows);
static inline void ode_runner_read(ode_runner *r, ode_role role, ode_port port, int64_t rows,
                                   const void *memory)
{
    ode_place place = ode_unit_place(r->unit, role, port);
    if (!place.count) return;
    AD_ASSERT(!place.output);
    r->in[place.first] = memory;
    if (place.count > 1) ode_runner_spread_in(r, place, rows);
}
static inline void ode_runner_write(ode_runner *r, ode_role role, ode_port port, int64_t rows,
                                    void *memory)
{
    ode_place place = ode_unit_place(r->unit, role, port);
    if (!place.count) return;
    AD_ASSERT(place.output);
    r->out[place.first] = memory;
    if (place.count > 1) ode_runner_spread_out(r, place, rows);
}
/* Points per-row arguments and shared values at those of a solve, which may be others than at the
 * previous run. */
void ode_runner_arguments(ode_runner *r, const void *const *row, const void *const *shared);

#endif
