/* Internal: options, resolved and checked. */
#ifndef ODE_SETTINGS_H
#define ODE_SETTINGS_H
#include "ode/step/step.h"

struct ode_steps {
    int64_t count; /* accepted steps; count + 1 times */
    ode_buffer times;
};

struct ode_adjoint {
    const char *name;
    bool stores;   /* the forward solve keeps the states of accepted steps */
    bool measures; /* it keeps the largest magnitude of each component */
};

typedef struct {
    const char *caller;
    const ode_method *method;
    const ode_adjoint *adjoint;
    double *atol_each; /* NULL, or instead of atol: of the elements of a row, all states in order,
                          then of their costates; owned */
    int natol;         /* of the former */
    double rtol, atol, adjoint_rtol, adjoint_atol, step, first_step, min_step, max_step;
    int64_t steps, max_steps, keep_bytes;
    double stability; /* adaptive: the limit to h |lambda| */
    ode_newton newton;
    const ode_steps *replay;
    double *jump; /* owned */
    int njump;
    bool rerecord, adaptive, seminorm;
    ode_stats *stats;
} ode_settings;

/* Checks options (NULL: defaults) and resolves defaults. false with the tape's error set. */
bool ode_settings_make(ode_settings *settings, const ode_options *options, ad_tape *tape,
                       const char *caller);
/* Checks that atol_each fits the rows of the system. */
bool ode_settings_fit(const ode_settings *settings, const ode_system *system, ad_tape *tape);
void ode_settings_clear(ode_settings *settings);
/* NULL, or what is wrong with these times (a message in the buffer). */
const char *ode_check_times(int n, const double *times, char *text, size_t size);

#endif
