/* Internal: units, functions of a system that run on arrays. */
#ifndef ODE_UNIT_H
#define ODE_UNIT_H
#include "ode/step/step.h"

typedef enum {
    ODE_UNIT_FIELD,
    ODE_UNIT_BEGIN,
    ODE_UNIT_STEP,
    ODE_UNIT_STEP_VJP,
    ODE_UNIT_BEGIN_VJP,
    ODE_UNIT_PROLOGUE,
    ODE_UNIT_PROLOGUE_VJP,
    ODE_UNIT_ROOT,
    ODE_UNIT_TANGENT,
    ODE_UNIT_KINDS
} ode_unit_kind;
enum {
    ODE_ESTIMATE = 1,
    ODE_DENSE = 2,
    ODE_TIMES = 4,
    ODE_QUADRATURE = 8,
    ODE_QUADRATURE_NORM = 16,
    ODE_EACH = 32
};

typedef struct {
    ode_unit_kind kind;
    int flags;
    const ode_method *method;
    uint64_t need; /* arguments whose cotangents are wanted */
    ode_newton newton;
    const ode_residuals *residuals; /* NULL, or a step or field that delivers them, a VJP of a step
                                       that is given them */
} ode_unit_key;

/* Numbers that a step with an error estimate gives beside its arrays (without one: the first). */
enum { ODE_SUM_FINITE, ODE_SUM_ERROR, ODE_SUM_ERROR3, ODE_SUM_STIFFNESS, ODE_SUMS };

/* What a tangent gives, [rows] each: sums of squares in units of the tolerance, of the change of
 * the result and of the error estimate with the state, of the direction itself, and of both changes
 * with the arguments. Of the elements that are chosen, then of the others. */
enum {
    ODE_TANGENT_STATE,
    ODE_TANGENT_STATE_ERROR,
    ODE_TANGENT_STATE_START,
    ODE_TANGENT_ARGUMENTS,
    ODE_TANGENT_ARGUMENTS_ERROR,
    ODE_TANGENT_SUMS,
    ODE_TANGENTS = 2 * ODE_TANGENT_SUMS
};
/* What a tangent of the field alone (of no method) gives of the elements that are chosen, [rows]
 * each, in units of the tolerance: the largest element of J J d, d the direction and J the field's
 * Jacobian by the state; sums of squares of d, and of the derivatives' changes with the arguments.
 */
enum { ODE_TANGENT_SECOND, ODE_TANGENT_DIRECTION, ODE_TANGENT_FORCE, ODE_FIELD_TANGENTS };

/* Places of the inputs and outputs of a unit in its lists (the first of each group). */
typedef struct {
    int h, t, tolerance, each, y, carry, carry_quad, size, row, shared, ybar, chosen, carry_bar,
        k_bar; /* inputs */

    int next, carry_next, carry_quad_next, size_next, quad_error, quad, k, sums, counts,
        ringing;                                            /* outputs of a step */
    int xbar, carry_out, t_out, h_out, row_out, shared_out; /* outputs of a VJP */
    int arguments_dot; /* of a tangent: the directions of row and shared; its ybar is that of the
                          state */
    int nt, nk;
    int kept, first_kept, nkept; /* residuals of stages first_kept .. nkept - 1: outputs of a step
                                    or field, inputs of a VJP */
} ode_places;

/* A function of the system that runs on arrays. */
struct ode_unit {
    ode_unit *next;
    ode_unit_key key;
    ode_system *system;
    ode_places at;
    int nin, nout;
    ad_shape *in;
    bool *parameter;
    ad_program *program; /* NULL: not compiled yet, or recorded at every run */
    bool absent;         /* a tangent that the field has not */
};

/* Finds or makes a unit and compiles it; NULL with the tape's error set, preceded by `caller`. */
ode_unit *ode_unit_make(ode_system *system, ode_unit_key key, ad_tape *tape, const char *caller);
/* As above, but it is only compiled when it is first run (it may never be). */
ode_unit *ode_unit_plan(ode_system *system, ode_unit_key key, ad_tape *tape, const char *caller);
/* What it computes (unit_record.c), as its system and key say: finds the places of inputs and
 * outputs; records it, with data (NULL: symbolic) in inputs. The variables in a new array, inputs
 * first; NULL with the tape's error set. */
void ode_unit_place(ode_unit *unit);
void ode_tangent_place(ode_unit *unit); /* the inputs after the arguments, and the outputs */
void ode_tangent_record(const ode_unit *unit, ad_tape *tape, const ad_var *in, ad_var *out);
ad_var *ode_unit_record(const ode_unit *unit, ad_tape *tape, int64_t rows, const void *const *data);

/* A unit with the memory to run it. */
typedef struct {
    const ode_unit *unit;
    const ad_program *program; /* NULL: recorded at every run */
    ad_workspace *workspace;
    const void **in;
    void **out;
    bool *accumulate;
    int refine;     /* for solves inside the field, as ad_run_args.refine */
    bool primed;    /* parameters are unchanged since the previous run */
    bool connected; /* for the user of the runner: what stays the same over a solve is in place */
} ode_runner;
/* Compiles the unit if this has not been done (by whatever thread). 0, or -1 with a message. */
int ode_runner_open(ode_runner *runner, const ode_unit *unit, int threads, char *error,
                    size_t error_size);
void ode_runner_close(ode_runner *runner);
/* 0, or -1 with a message. */
int ode_runner_run(ode_runner *runner, int64_t rows, char *error, size_t error_size);

#endif
