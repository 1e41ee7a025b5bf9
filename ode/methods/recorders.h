/* Internal: the recorders of methods and what they share. */
#ifndef ODE_RECORDERS_H
#define ODE_RECORDERS_H
#include "ode/step/step.h"

void ode_runge_kutta_step(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_runge_kutta_dense(const ode_method *method, double theta, double *w, double *slope);
void ode_implicit_step(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_nystroem_begin(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_nystroem_step(const ode_method *method, const ode_step *s, ode_step_results *r);
/* Records what a step with an estimate shows of its stability: r->stiffness, from the state g of
 * the stage before the last one at c = 1 (unused where the tableau has none). Of an error estimate
 * there is a limit to h |lambda|: of explicit Runge-Kutta methods that of decay. */
void ode_record_stiffness(const ode_tableau *t, const ode_step *s, ode_step_results *r,
                          const ad_var *g);
int ode_stage_before_last(const ode_tableau *t); /* a stage at c = 1 whose state differs from the
                                                    step's result; 0: none */
double ode_runge_kutta_stability(const ode_method *method);
/* z with z = base + g f(t, z); z starts at base. counts [3]: Jacobians, factorisations, iterations.
 */
void ode_record_root(const ode_step *s, ad_var t, ad_var g, const ad_var *base, ad_var *z,
                     ad_var *counts);

#endif
