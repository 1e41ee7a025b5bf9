/* Internal: right-hand sides, traced once, and what their evaluations leave for derivatives. */
#ifndef ODE_SYSTEM_H
#define ODE_SYSTEM_H
#include "ode/field/arrays.h"
#include "ode/field/diffusion.h"
#include <pthread.h>
#include <stdatomic.h>

enum {
    ODE_MAX_STATES = 8,
    ODE_MAX_JOINT = 4 * ODE_MAX_STATES, /* arrays of states, with costates or tangents */
    ODE_MAX_CLOCKS = 8, /* the times of a solve, and tangents of them: derivatives of order 3 */
    ODE_MAX_STAGES = 16,
    ODE_MAX_ARGS = 64,
    ODE_MAX_ROWS = ODE_MAX_ARGS + ODE_MAX_STATES, /* per-row arguments with given ones */
    ODE_ERROR_SIZE = 1024
};

typedef struct ode_system ode_system;

/* What evaluations of a traced field leave for their VJPs (by the arguments in `need`, and by
 * time); owned by the system. */
typedef struct ode_residuals ode_residuals;
struct ode_residuals {
    ode_residuals *next;
    uint64_t need;
    bool times;
    int n;       /* 0: nothing worth keeping */
    ad_var *var; /* on the trace */
    ad_shape *shape;
    int *state; /* of each, which state it is; -1: none */
};

typedef struct ode_unit ode_unit;

/* Knots of an input that the field interpolates at its own time: steps end there. */
typedef struct {
    int arg;      /* the argument that holds them; -1: they are constants */
    double *knot; /* those */
    int64_t n;
    bool jump; /* the input jumps there (ODE_HOLD) */
} ode_knots;

/* How many doubtful gradients of a solve are passed over (ode/adjoints/halved.c). The system owns
 * it, which a loop that records its loss anew finds again. */
typedef struct ode_pause ode_pause;
struct ode_pause {
    ode_pause *next;
    bool taken;         /* by an adjoint that is still there */
    int passed, length; /* since the latest comparison, and until the next one */
    const ode_method *method;
    uint64_t need;
    double rtol, atol, limit, from, to; /* from, to: constant times, or 0 */
};

/* A right-hand side of one or several states: a user's field, traced (or kept to be called anew),
 * with its diffusion where it has one, or the augmented system of an adjoint. The field sees
 * per-row arguments as they are, and shared arguments through `shared` values: what of the traced
 * field depends on them alone (computed once per solve by the prologue); without a trace, the
 * shared arguments themselves. */
struct ode_system {
    atomic_int references;
    pthread_mutex_t lock; /* unused but in systems with a trace of their own */
    ad_dtype dtype;
    int nstate, rank; /* rank of t: the smallest rank among the states */
    const char *last; /* name of the last state, or NULL */
    ad_shape state[ODE_MAX_JOINT];
    int64_t size[ODE_MAX_JOINT], width;
    int nargs, nrow, nshared;
    ad_shape arg[ODE_MAX_ROWS];
    int row[ODE_MAX_ROWS]; /* argument number of each per-row argument */
    /* so many, the last ones, differ from evaluation to evaluation: whoever marches the system
     * gives them as functions of time */
    int ngiven;
    ad_shape *shared;
    uint64_t *shared_from; /* the arguments each shared value depends on, a bit set */
    ode_field field;
    ode_fields fields;
    void *user;
    bool owns_user, rerecord;
    ad_tape *trace;
    ad_var t, y[ODE_MAX_STATES], args[ODE_MAX_ARGS], dy[ODE_MAX_STATES], *frontier;
    /* The error norm of steps (record NULL: root mean square, which steps make themselves); on the
     * trace: scaled errors and the norm. */
    ode_error_norm norm;
    ad_var scaled[ODE_MAX_STATES], norm_value;
    bool reads_time; /* a trace depends on t */
    ad_rows rows;    /* how the rows of a trace depend on each other */
    /* Stochastic systems. g: of the states that have noise; of diagonal noise with the state's
     * shape. The derivatives dy are the drift in the calculus of the solve's method: `correction`
     * times sum_j (dg_j/dy) g_j is a part of them. */
    ode_field diffusion;
    ode_fields diffusions;
    ode_noise_of noise;
    bool langevin; /* states are position and velocity of sde_langevin */
    ad_var g[ODE_MAX_STATES];
    sde_calculus calculus;
    double correction;
    ode_knots *knots;
    int nknots;
    /* Augmented systems: states (x, a), or a with x given; quadratures of the needed per-row
     * arguments, then of the needed shared values. */
    ode_system *base;
    ode_system *next; /* of the same base */
    uint64_t need;
    int nquad, nquad_row;
    ad_shape *quad;
    int *quad_of; /* which per-row argument, which shared value */
    ode_system *augmented;
    /* Tangent systems (tangents.c): what they are the tangents of, and its arguments that have one.
     * The order counts how often tangents have been taken; a part of the states is a set of those,
     * a bit each, and states are in the order of their parts, as clocks are, the times and tangents
     * of them, of which clock[i] is the part. */
    const ode_system *primal; /* NULL: of other systems */
    ode_system *tangents;
    uint64_t along;
    int order, nclocks, clock[ODE_MAX_CLOCKS];
    ode_unit *units; /* freed by free_units, as they are made in another room */
    void (*free_units)(ode_unit *first);
    ode_residuals *residuals;
    ode_pause *pauses;
};

/* What tangents of whatever order are taken of. */
static inline const ode_system *ode_system_root(const ode_system *s)
{
    while (s->primal) s = s->primal;
    return s;
}
/* Whose trace a system is recorded from. */
static inline ode_system *ode_system_traced(const ode_system *s)
{
    const ode_system *root = ode_system_root(s);
    return (ode_system *)(root->base ? root->base : root);
}

/* Around all that reads or changes a system's trace, units, residuals and pauses: a unit may be
 * compiled when it is first run, in whatever thread. Recursive: a step that finds a root makes a
 * unit while it is recorded. Compiling calls the rules of opaque operations, of solves inside the
 * field among them, which take the locks of their own systems: always those of what is inside after
 * that of what is around it. */
static inline void ode_system_lock(ode_system *s)
{
    pthread_mutex_lock(&ode_system_traced(s)->lock);
}
static inline void ode_system_unlock(ode_system *s)
{
    pthread_mutex_unlock(&ode_system_traced(s)->lock);
}

/* A field as given to the solver; user_size > 0: *user is copied (it is the library's own and the
 * caller's stack goes away). */
typedef struct {
    const char *caller; /* "ode_solve", for messages */
    ode_field field;
    ode_fields fields;
    /* Of a stochastic equation: its diffusion, and the calculus of drift and method. Else NULL. */
    ode_field diffusion;
    ode_fields diffusions;
    const sde_options *sde;
    sde_calculus calculus;
    bool langevin;
    void *user;
    size_t user_size;
    const ode_error_norm *norm; /* NULL: root mean square */
    const char *last; /* what the last state is, for messages; NULL: one of the caller's */
} ode_right_side;

/* Traces the field for these states and arguments (or finds it in the tape's cache). A new
 * reference, or NULL with the tape's error set. */
ode_system *ode_system_make(ad_tape *tape, const ode_right_side *right, int nstate,
                            const ad_var *y0, int nargs, const ad_var *args, bool rerecord);
ode_system *ode_system_retain(ode_system *system);
void ode_system_release(void *system);
/* The augmented system for cotangents of the arguments in the bit set `need` (owned by the base);
 * given: its states are costates alone, and those of the base are given. NULL: out of memory. */
ode_system *ode_system_augmented(ode_system *base, uint64_t need, bool given);
/* Whether a shared value depends on arguments in the bit set `need`. */
static inline bool ode_shared_needed(const ode_system *s, int shared, uint64_t need)
{
    return s->shared_from[shared] & need;
}
/* A system without states, arguments and field, and its states one by one; NULL: out of memory. */
ode_system *ode_system_new(ad_dtype dtype);
void ode_system_add_state(ode_system *system, ad_shape shape);
/* Makes room for the shapes of so many shared values. false: out of memory. */
bool ode_system_new_shared(ode_system *system, int most);
/* The tangent system (owned by the primal) for tangents of the states, of the arguments in the bit
 * set `along` and, if `moving`, of all clocks. Its arguments are those of the primal, and then the
 * tangents of those in the set. NULL with the tape's error set. */
ode_system *ode_system_tangent(ode_system *primal, uint64_t along, bool moving, ad_tape *tape,
                               const char *caller);
/* The residuals of the field (found once); n = 0 without a trace. NULL with the tape's error set.
 */
const ode_residuals *ode_system_residuals(ode_system *system, uint64_t need, bool times,
                                          ad_tape *tape, const char *caller);
void ode_residuals_free(ode_residuals *list);
/* Memory for those of one evaluation; stored: the states are somewhere else, and need none. */
size_t ode_residuals_bytes(const ode_system *system, const ode_residuals *residuals, int64_t rows,
                           bool stored);
/* The arrays in it as outputs of a program (no memory: NULLs), and as inputs; state: NULL, or the
 * states that are stored. */
void ode_residuals_write(const ode_system *system, const ode_residuals *residuals, int64_t rows,
                         void *memory, bool stored, void **out);
void ode_residuals_read(const ode_system *system, const ode_residuals *residuals, int64_t rows,
                        const void *memory, const void *state, const void **in);
/* Of a field that is called anew: fails where `bar`, the cotangent of argument `arg` (the i-th with
 * rows, or without), is 0 because the field has only looked at the argument's value. */
void ode_check_argument(const ode_system *system, ad_var arg, bool row, int i, ad_var bar);
/* Records dy = f(t, y), and the quadratures' rates when quad is not NULL. */
void ode_system_record(const ode_system *system, ad_tape *tape, ad_var t, const ad_var *y,
                       const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *quad);
/* As above; dy, g: drift and diffusion, NULL where it is not wanted; with residuals of both (NULL:
 * none), kept: n variables. */
void ode_system_record_kept(const ode_system *system, ad_tape *tape, ad_var t, const ad_var *y,
                            const ad_var *row, const ad_var *shared, ad_var *dy, ad_var *g,
                            const ode_residuals *residuals, ad_var *kept);
/* Records dy = f h + g w of a stochastic system, with residuals as above. Of an augmented system
 * (in the sense of Stratonovich, whatever the calculus of its base), of states and costates, and
 * the quadratures' increments when quad is not NULL. */
void ode_system_record_driven(const ode_system *system, ad_tape *tape, ad_var t, const ad_var *y,
                              const ad_var *row, const ad_var *shared, const ode_driving *by,
                              ad_var *dy, ad_var *quad, const ode_residuals *residuals,
                              ad_var *kept);
/* Drift and diffusion as the trace has them, those of states without noise left out: at most 2
 * nstate variables. */
int ode_system_outputs(const ode_system *system, ad_var *out);
/* Error norms (norm.c). Traces that of a system; whether it has one of its own; records it: of an
 * augmented system, the larger one of states and costates. */
void ode_norm_trace(ode_system *system);
bool ode_has_norm(const ode_system *system);
ad_var ode_norm_record(const ode_system *system, ad_tape *tape, const ad_var *scaled);
/* Knots are noted on the tape of a trace that listens (interpolate.c), and taken from there into
 * the system. false: out of memory. */
bool ode_listen_for_knots(ad_tape *trace);
bool ode_take_knots(ode_system *system);
/* Diffusions (diffusion.c). Calls the user's, and looks at what it returns: fills g and the
 * system's noise; where that is known already, it has to be the same. */
void ode_diffusion_call(ode_system *system, ad_tape *tape, ad_var t, const ad_var *y,
                        const ad_var *args, ad_var *g);
/* The shape of the diffusion of state i: the state's, or of general noise [rows,D...,m]. */
ad_shape ode_diffusion_shape(const ode_system *system, int i);
/* The noise of state i from what a diffusion returned for it, which gets the full shape: the
 * state's, or [rows|1,D...,m]. Fails where its shape fits nothing. */
ode_noise_kind ode_diffusion_look(ad_tape *tape, ad_shape state, int i, ad_var *g);
/* Adds `correction` times sum_j (dg_j/dy) g_j to the drift. */
void ode_diffusion_correct(const ode_system *system, ad_tape *tape, const ode_diffusion_at *at,
                           double correction, ad_var *dy);
/* dy = g x, x [rows,m] one number for each Brownian motion; invalid for states without noise. */
void ode_diffusion_apply(const ode_system *system, ad_tape *tape, const ad_var *g, ad_var x,
                         ad_var *dy);
/* What a field returned for state i, of shape `state` after broadcasting; invalid with the tape's
 * error set if it is not that. */
ad_var ode_checked_derivative(ad_tape *tape, ad_var dy, int i, ad_shape state);
/* Calls the field on `tape`, checks what it returns and gives it the states' shapes; g: NULL, or
 * where its diffusion goes. */
void ode_system_call(ode_system *system, ad_tape *tape, ad_var t, const ad_var *y,
                     const ad_var *args, ad_var *dy, ad_var *g);
ad_shape ode_time_shape(int rank); /* sizes 1 */

/* Pointers to the per-row arguments that are not given. */
void ode_row_arguments(const ode_system *s, const void *const *args, const void **row);
/* Where state j lies in a slot. */
static inline void *ode_part(const ode_system *s, int64_t rows, const void *slot, int j)
{
    int64_t at = 0;
    for (int i = 0; i < j; i++) at += s->size[i];
    return (char *)slot + (size_t)(at * rows) * ode_bytes(s->dtype);
}

/* ---- parts by name, for messages (naming.c) ---- */

/* Which state, row and component an element of a slot is. */
void ode_where(const ode_system *s, int64_t rows, int64_t element, char *text, size_t size);
/* Whether that is a costate or a tangent, whose equation is a derivative of the field; and what is
 * said of one that is not finite, with the place. */
bool ode_is_derivative(const ode_system *s, int64_t rows, int64_t element);
#define ODE_NO_DERIVATIVE                                                                          \
    "the derivative of the field is not finite in %s; it has none there (a root or a power at 0?)"
/* An element of a per-row argument, and the arguments that a shared value is computed from: "by
 * argument 1, ...". */
void ode_name_row_argument(const ode_system *s, int argument, int64_t element, char *text,
                           size_t size);
void ode_name_shared(const ode_system *s, int shared, uint64_t need, int64_t element, char *text,
                     size_t size);
/* Whether something is not finite among the increments of an augmented system's quadratures: then
 * text says what. */
bool ode_name_quadrature(const ode_system *s, int64_t rows, const void *increment, char *text,
                         size_t size);

#endif
