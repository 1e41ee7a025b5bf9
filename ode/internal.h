/* Internal to ode/: methods, systems (traced fields), units (recorded functions that are compiled or recorded anew at each run) and host
 * arrays. Sizes: rows x width elements a state slot, where width is the sum of the states' sizes per row. */
#ifndef ODE_INTERNAL_H
#define ODE_INTERNAL_H
#include "../autodiff/extension.h"
#include "ode.h"
#include <stdatomic.h>

enum { ODE_MAX_STATES = 8, ODE_MAX_JOINT = 2 * ODE_MAX_STATES, ODE_MAX_STAGES = 16, ODE_MAX_ARGS = 64, ODE_ERROR_SIZE = 1024 };

/* ---- methods ------------------------------------------------------------------------------------------------------------------- */

/* An explicit Runge-Kutta tableau, laid out as methods.def says: `stages` make y_next, one more is f(t + h, y_next), `extra` serve dense
 * output. */
typedef struct {
    int stages, extra, dense;
    const double *c, *a, *e, *e3, *d; /* a: rows of 1, 2, ..., stages + extra coefficients */
} ode_tableau;
/* Coefficients of stage i >= 1 (i of them); row `stages` is b. */
static inline const double *ode_tableau_row(const ode_tableau *t, int i) { return t->a + i * (i - 1) / 2; }
/* Weights w, and their derivatives, of y(t + theta h) = y + h sum_i w_i k_i; stages + 1 + extra of each. */
void ode_dense_weights(const ode_tableau *t, double theta, double *w, double *slope);

typedef struct {
    double tolerance;
    int iterations;
} ode_newton;

typedef struct ode_system ode_system;

/* Around all that reads or changes a system's trace and units: a unit may be compiled when it is first run, in whatever thread. */
void ode_systems_lock(void);
void ode_systems_unlock(void);

/* What evaluations of a traced field leave for their VJPs (by the arguments in `need`, and by time); owned by the system. */
typedef struct ode_residuals ode_residuals;
struct ode_residuals {
    ode_residuals *next;
    uint64_t need;
    bool times;
    int n;       /* 0: nothing worth keeping */
    ad_var *var; /* on the trace */
    ad_shape *shape;
};

/* What a step is recorded from and into. Arrays of states have system->nstate variables. */
typedef struct {
    ad_tape *tape;
    ode_system *system;
    const ad_var *row, *shared; /* per-row arguments and shared values of the system */
    ode_newton newton;
    ad_var h;
    const ad_var *t;          /* stage times, with the rank a field expects */
    const ad_var *y, *carry;  /* carry: the method's, or the first stage k_1 of a Runge-Kutta step (NULL: to be evaluated) */
    const ad_var *carry_quad; /* its quadrature part */
    const ad_var *size;       /* quadratures in the error norm: the sum of their increments' magnitudes so far (NULL: they are not in it) */
    bool estimate, dense, quadrature;
    ad_var rtol, atol, rounding;    /* rounding: ode_guard_rounding */
    const ad_var *each;             /* NULL, or absolute tolerances of each state's elements [1,D...], instead of atol */
    const ode_residuals *residuals; /* NULL, or what of every evaluation is wanted, of stage i from kept[i * residuals->n] */
    ad_var *kept;
    /* Results. */
    ad_var *next, *carry_next, *carry_quad_next;
    ad_var *ringing;                      /* of each state, if the method rings: elements above 1 where it does */
    ad_var *quad;                         /* increments of the quadratures */
    ad_var *rates;                        /* memory for the quadratures' rates at the stages, [stage][quadrature] */
    ad_var *size_next, quad_error;        /* the largest mean square of a quadrature's scaled errors */
    ad_var *k;                            /* stages, [stage][state] */
    ad_var error, error3, finite, counts; /* sums of squares of scaled errors; a number that is finite when the step is; Newton's counts */
    ad_var stiffness;                     /* |lambda|^2, the largest of all rows */
} ode_step;

struct ode_method {
    const char *name, *about;
    int order, error_order, dense_order;
    const ode_tableau *tableau; /* explicit Runge-Kutta methods, else NULL */
    int times, begin_times;     /* stage times t + c_i h of a step and of the bootstrap */
    const double *c, *begin_c;
    bool implicit;
    bool rings; /* a part of the state that decays fast may alternate instead: steps say so (ode_step.ringing) */
    void (*step)(const ode_method *method, ode_step *s);
    void (*begin)(const ode_method *method, ode_step *s); /* makes carry_next from y; NULL: nothing is carried */
};

void ode_runge_kutta_step(const ode_method *method, ode_step *s);
void ode_implicit_step(const ode_method *method, ode_step *s);
void ode_nystroem_begin(const ode_method *method, ode_step *s);
void ode_nystroem_step(const ode_method *method, ode_step *s);
/* Records what a step with an estimate shows of its stability: s->stiffness, from the state g of the stage before the last one at c = 1
 * (unused where the tableau has none). Of an error estimate there is a limit to h |lambda|: of explicit Runge-Kutta methods that of decay.
 */
void ode_record_stiffness(const ode_method *method, ode_step *s, const ad_var *g);
ad_var ode_record_row_squares(ad_var x);         /* sums of squares by row, [rows] */
int ode_stage_before_last(const ode_tableau *t); /* a stage at c = 1 whose state differs from the step's result; 0: none */
double ode_stability_limit(const ode_tableau *t);
/* Stage times that a program of the method reads (dense: with those of the dense stages). */
int ode_method_times(const ode_method *method, bool last, bool dense);
/* y + weight * sum of c_i k_i[state] over n stages that lie nstate apart, by recorded operations (terms with c_i = 0 are left out). */
ad_var ode_record_sum(ad_var y, ad_var weight, int n, const double *c, const ad_var *k, int nstate);

/* The error that a step may make in state j: atol + rtol max(|y|, |next|). */
ad_var ode_record_tolerance(const ode_step *s, int j);
ad_var ode_record_weight(const ode_step *s, int j); /* its reciprocal, which all norms of a step share */
/* The largest absolute value of n arrays: finite if and only if all their elements are. */
ad_var ode_record_largest(int n, const ad_var *x);

/* ---- systems ------------------------------------------------------------------------------------------------------------------- */

typedef struct ode_unit ode_unit;

/* Knots of an input that the field interpolates at its own time: steps end there. */
typedef struct {
    int arg;      /* the argument that holds them; -1: they are constants */
    double *knot; /* those */
    int64_t n;
    bool jump; /* the input jumps there (ODE_HOLD) */
} ode_knots;

/* A right-hand side of one or several states: a user's field, traced (or kept to be called anew), or the augmented system of an adjoint.
 * The field sees per-row arguments as they are, and shared arguments through `shared` values: what of the traced field depends on them
 * alone (computed once per solve by the prologue); without a trace, the shared arguments themselves. */
struct ode_system {
    atomic_int references;
    ad_dtype dtype;
    int nstate, rank; /* rank of t: the smallest rank among the states */
    ad_shape state[ODE_MAX_JOINT];
    int64_t size[ODE_MAX_JOINT], width;
    int nargs, nrow, nshared;
    ad_shape arg[ODE_MAX_ARGS];
    int row[ODE_MAX_ARGS]; /* argument number of each per-row argument */
    ad_shape *shared;
    uint64_t *shared_from; /* the arguments each shared value depends on, a bit set */
    ode_field field;
    ode_fields fields;
    void *user;
    bool owns_user, rerecord;
    ad_tape *trace;
    ad_var t, y[ODE_MAX_STATES], args[ODE_MAX_ARGS], dy[ODE_MAX_STATES], *frontier;
    bool reads_time; /* a trace depends on t */
    ode_knots *knots;
    int nknots;
    /* Augmented systems: states (x, a), quadratures of the needed per-row arguments, then of the needed shared values. */
    const ode_system *base;
    ode_system *next; /* of the same base */
    uint64_t need;
    int nquad, nquad_row;
    ad_shape *quad;
    int *quad_of; /* which per-row argument, which shared value */
    ode_system *augmented;
    ode_unit *units;
    ode_residuals *residuals;
};

/* A field as given to the solver; user_size > 0: *user is copied (it is the library's own and the caller's stack goes away). */
typedef struct {
    const char *caller; /* "ode_solve", for messages */
    ode_field field;
    ode_fields fields;
    void *user;
    size_t user_size;
} ode_right_side;

/* Traces the field for these states and arguments (or finds it in the tape's cache). A new reference, or NULL with the tape's error set. */
ode_system *ode_system_make(ad_tape *tape, const ode_right_side *right, int nstate, const ad_var *y0, int nargs, const ad_var *args,
                            bool rerecord);
ode_system *ode_system_retain(ode_system *system);
void ode_system_release(void *system);
/* The augmented system for cotangents of the arguments in the bit set `need` (owned by the base); NULL: out of memory. */
ode_system *ode_system_augmented(ode_system *base, uint64_t need);
bool ode_shared_needed(const ode_system *system, int shared, uint64_t need);
/* The residuals of the field (found once); n = 0 without a trace. NULL with the tape's error set. */
const ode_residuals *ode_system_residuals(ode_system *system, uint64_t need, bool times, ad_tape *tape, const char *caller);
void ode_residuals_free(ode_residuals *list);
/* Memory for those of one evaluation, and the arrays in it as inputs or outputs of a program (NULL: not those; no memory: NULLs). */
size_t ode_residuals_bytes(const ode_system *system, const ode_residuals *residuals, int64_t rows);
void ode_residuals_point(const ode_system *system, const ode_residuals *residuals, int64_t rows, void *memory, const void **in, void **out);
/* Of a field that is called anew: fails where `bar`, the cotangent of argument `arg` (the i-th with rows, or without), is 0 because the
 * field has only looked at the argument's value. */
void ode_check_argument(const ode_system *system, ad_var arg, bool row, int i, ad_var bar);
/* Records dy = f(t, y), and the quadratures' rates when quad is not NULL. */
void ode_system_record(const ode_system *system, ad_tape *tape, ad_var t, const ad_var *y, const ad_var *row, const ad_var *shared,
                       ad_var *dy, ad_var *quad);
/* As above, with residuals; kept: n variables. */
void ode_system_record_kept(const ode_system *system, ad_tape *tape, ad_var t, const ad_var *y, const ad_var *row, const ad_var *shared,
                            ad_var *dy, const ode_residuals *residuals, ad_var *kept);
/* Knots are noted on the tape of a trace that listens (interpolate.c), and taken from there into the system. false: out of memory. */
bool ode_listen_for_knots(ad_tape *trace);
bool ode_take_knots(ode_system *system);
/* What a field returned for state i, of shape `state` after broadcasting; invalid with the tape's error set if it is not that. */
ad_var ode_checked_derivative(ad_tape *tape, ad_var dy, int i, ad_shape state);
size_t ode_array_bytes(ad_dtype dtype, ad_shape shape, int64_t rows); /* of arrays laid one after the other, each aligned to 64 bytes */
ad_shape ode_time_shape(int rank);                                    /* sizes 1 */

/* ---- units --------------------------------------------------------------------------------------------------------------------- */

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
enum { ODE_ESTIMATE = 1, ODE_DENSE = 2, ODE_TIMES = 4, ODE_QUADRATURE = 8, ODE_QUADRATURE_NORM = 16, ODE_EACH = 32 };

typedef struct {
    ode_unit_kind kind;
    int flags;
    const ode_method *method;
    uint64_t need; /* arguments whose cotangents are wanted */
    ode_newton newton;
    const ode_residuals *residuals; /* NULL, or a step or field that delivers them, a VJP of a step that is given them */
} ode_unit_key;

/* Numbers that a step with an error estimate gives beside its arrays (without one: the first). */
enum { ODE_SUM_FINITE, ODE_SUM_ERROR, ODE_SUM_ERROR3, ODE_SUM_STIFFNESS, ODE_SUMS };

/* What a tangent gives, [rows] each: sums of squares in units of the tolerance, of the change of the result and of the error estimate with
 * the state, of the direction itself, and of both changes with the arguments. Of the elements that are chosen, then of the others. */
enum {
    ODE_TANGENT_STATE,
    ODE_TANGENT_STATE_ERROR,
    ODE_TANGENT_STATE_START,
    ODE_TANGENT_ARGUMENTS,
    ODE_TANGENT_ARGUMENTS_ERROR,
    ODE_TANGENT_SUMS,
    ODE_TANGENTS = 2 * ODE_TANGENT_SUMS
};

/* Places of the inputs and outputs of a unit in its lists (the first of each group). */
typedef struct {
    int h, t, tolerance, each, y, carry, carry_quad, size, row, shared, ybar, chosen, carry_bar, k_bar; /* inputs */

    int next, carry_next, carry_quad_next, size_next, quad_error, quad, k, sums, counts, ringing; /* outputs of a step */
    int xbar, carry_out, t_out, h_out, row_out, shared_out;                                       /* outputs of a VJP */
    int arguments_dot; /* of a tangent: the directions of row and shared; its ybar is that of the state */
    int nt, nk;
    int kept, first_kept, nkept; /* residuals of stages first_kept .. nkept - 1: outputs of a step or field, inputs of a VJP */
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
void ode_unit_free(ode_unit *unit);
/* What it computes (unit_record.c), as its system and key say: finds the places of inputs and outputs; records it, with data (NULL:
 * symbolic) in inputs. The variables in a new array, inputs first; NULL with the tape's error set. */
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
int ode_runner_open(ode_runner *runner, const ode_unit *unit, int threads, char *error, size_t error_size);
void ode_runner_close(ode_runner *runner);
/* 0, or -1 with a message. */
int ode_runner_run(ode_runner *runner, int64_t rows, char *error, size_t error_size);

/* ---- root-finding (implicit methods) -------------------------------------------------------------------------------------------- */

/* z with z = base + g f(t, z); z starts at base. counts [3]: Jacobians, factorisations, iterations. */
void ode_record_root(const ode_step *s, ad_var t, ad_var g, const ad_var *base, ad_var *z, ad_var *counts);

/* ---- arrays on the host ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    void *data;
    size_t size;
} ode_buffer;
/* At least so many bytes; growing keeps the contents. NULL: out of memory. */
void *ode_buffer_need(ode_buffer *buffer, size_t bytes);
void ode_buffer_free(ode_buffer *buffer);
void ode_buffer_swap(ode_buffer pair[2]);

static inline size_t ode_bytes(ad_dtype t) { return t == AD_F32 ? sizeof(float) : sizeof(double); }
double ode_load(ad_dtype t, const void *x, int64_t i);
void ode_store(ad_dtype t, void *x, int64_t i, double value);
void ode_add(ad_dtype t, int64_t n, const void *x, void *y);                  /* y += x */
void ode_add_scaled(ad_dtype t, int64_t n, double w, const void *x, void *y); /* y += w x */
double ode_dot(ad_dtype t, int64_t n, const void *x, const void *y);
/* out = base + sum_i w_i x_i, accumulated in double. */
void ode_combine(ad_dtype t, int64_t n, const void *base, int m, const double *w, const void *const *x, void *out);
void ode_grow(ad_dtype t, int64_t n, const void *x, void *most); /* most = max(most, |x|) */
/* A number for a message: NaN without its sign. */
double ode_shown(double x);
/* Index of the first element that is not finite, or -1. */
int64_t ode_first_nonfinite(ad_dtype t, int64_t n, const void *x);
/* Sum of (x_i / (atol + rtol |y_i|))^2. */
double ode_scaled_squares(ad_dtype t, int64_t n, const void *x, const void *y, double rtol, double atol);

#endif
