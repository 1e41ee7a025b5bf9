/* Internal: the controller of a march, with what it remembers of the steps so far. */
#ifndef ODE_CONTROLLER_H
#define ODE_CONTROLLER_H
#include "ode/ode.h"

/* The controller of the options, with its zeros replaced by defaults. */
ode_controller ode_controller_resolved(const ode_controller *controller);

typedef struct {
    const ode_controller *controller;
    ode_control_history past; /* entry 0 is of the latest attempt, accepted or not */
    int known;                /* accepted steps that it remembers beside that */
    bool alone;               /* the latest attempt */
} ode_control;

/* A new sequence of steps, of a method whose error is proportional to h^order. */
void ode_control_begin(ode_control *control, const ode_controller *controller, int order);
/* Forgets the steps before: the next one has nothing to do with them. */
void ode_control_forget(ode_control *control);
/* By how much the size is to change after an attempt of this size with this error in units of the
 * tolerance (infinite: not a number). alone: the size was not the controller's choice, so that the
 * attempt says nothing together with the steps before. NaN: the user's controller gave no number.
 */
double ode_control_factor(ode_control *control, double size, double ratio, bool alone);
void ode_control_accept(ode_control *control); /* the latest attempt */
void ode_control_reject(ode_control *control);

#endif
