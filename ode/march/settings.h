/* Internal: options, resolved and checked. */
#ifndef ODE_SETTINGS_H
#define ODE_SETTINGS_H
#include "ode/march/controller.h"
#include "ode/step/step.h"

struct ode_steps {
    int64_t count; /* accepted steps; count + 1 times */
    ode_buffer times;
    bool chosen;   /* by their errors, and not known before the solve: of its path */
    sde_path path; /* the one they were chosen on, of stochastic equations; its grid is not there */
};

/* An adjoint: what it needs of the forward solve, how it is prepared when it is recorded, and how
 * it runs (ode/adjoints/adjoint.h). */
typedef struct ode_adjoint_plan ode_adjoint_plan;
typedef struct ode_adjoint_run ode_adjoint_run;
struct ode_adjoint {
    const char *name, *about;
    bool states;     /* needs the trajectory's states */
    bool magnitudes; /* needs the largest magnitude of each element */
    /* differentiates the accepted steps as they are: adaptive ones are watched (watch.c) */
    bool frozen;
    bool replays;       /* works with steps that are replayed */
    int wants, refuses; /* ODE_METHOD_...: flags that a method has to have, and may not have */
    bool asked;         /* goes back from times that are asked for later, too */
    size_t own;         /* bytes of what it plans of its own, and of the memory of a run (zeros) */
    size_t memory;
    /* Compiles what it runs. false with the tape's error set. */
    bool (*plan)(ode_adjoint_plan *plan, ad_tape *tape);
    /* From the last time to the first. 0, or -1 with the call's error written. */
    int (*run)(ode_adjoint_run *run);
    void (*close)(void *memory); /* frees what the memory of a run holds */
    /* Adds what that will be to the account, which says for how many rows. */
    void (*account)(const ode_adjoint_plan *plan, ad_opaque_account *account);
};

typedef struct {
    const char *caller;
    const ode_method *method;
    const ode_adjoint *adjoint;
    ode_controller controller;
    /* NULL, or instead of atol: of the costates of a row's elements, all states in order, then of
     * the elements themselves; owned */
    double *atol_each;
    int natol; /* of either */
    double rtol, atol, adjoint_rtol, adjoint_atol, step, first_step, min_step, max_step;
    int64_t steps, max_steps, keep_bytes;
    double stability; /* adaptive: the limit to h |lambda| */
    /* adaptive: R(h lambda), as ode_method.growth has it; degree 0: not known. */
    int degree;
    double diagonal;
    double growth[ODE_MAX_STAGES + 1];
    ode_newton newton;
    const ode_steps *replay;
    double *jump; /* owned */
    int njump;
    double costate_drift;
    bool rerecord, adaptive, seminorm, partial;
    /* Of stochastic equations. The path; its grid (owned), or NULL; the argument that has its
     * draws, or -1. */
    sde_path path;
    double *grid;
    int draw;
    bool (*on_step)(const ode_accepted_step *step, void *user);
    void *on_step_user;
    ode_stats *stats;
} ode_settings;

/* The default of rtol. */
static inline double ode_usual_rtol(ad_dtype dtype) { return dtype == AD_F32 ? 1e-4 : 1e-6; }

/* Checks options (which have an adjoint) and resolves defaults; sde: NULL, or the options of a
 * stochastic equation, to which they belong. false with the tape's error set. */
bool ode_settings_make(ode_settings *settings, const ode_options *options, const sde_options *sde,
                       ad_tape *tape, const char *caller);
/* Checks that the method takes the noise of the system. false with the tape's error set. */
bool ode_settings_take_noise(const ode_settings *settings, const ode_system *system,
                             bool commutative, ad_tape *tape);
/* Checks that atol_each fits the rows of the system. */
bool ode_settings_fit(const ode_settings *settings, const ode_system *system, ad_tape *tape);
void ode_settings_clear(ode_settings *settings);
/* NULL, or what is wrong with these times (a message in the buffer). */
const char *ode_check_times(int n, const double *times, char *text, size_t size);

#endif
