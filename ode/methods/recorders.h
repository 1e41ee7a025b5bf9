/* Internal: the recorders of methods and what they share. */
#ifndef ODE_RECORDERS_H
#define ODE_RECORDERS_H
#include "ode/step/unit.h"

void ode_runge_kutta_step(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_runge_kutta_dense(const ode_method *method, double theta, double *w, double *slope);
void ode_esdirk_step(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_implicit_step(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_implicit_midpoint_step(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_nystroem_begin(const ode_method *method, const ode_step *s, ode_step_results *r);
void ode_nystroem_step(const ode_method *method, const ode_step *s, ode_step_results *r);
/* Records what a step with an estimate shows of its stability: r->stiffness, from the state g of
 * the stage before the last one at c = 1 (unused where the tableau has none). Of an error estimate
 * there is a limit to h |lambda|: of explicit Runge-Kutta methods that of decay. */
void ode_record_stiffness(const ode_tableau *t, const ode_step *s, ode_step_results *r,
                          const ad_var *g);
/* a stage at c = 1 whose state differs from the step's result; 0: none */
int ode_stage_before_last(const ode_tableau *t);
double ode_runge_kutta_stability(const ode_method *method);
int ode_runge_kutta_growth(const ode_method *method, double *coefficient);
double ode_runge_kutta_rounding(const ode_method *method, double x);
/* The stages of an implicit step (root.c), which share their matrix: equations with the same g. */
typedef struct {
    const ode_step *step;
    const ode_unit *field, *jacobian;
    ad_var owner;                          /* the token of the first stage */
    ad_var counts, failed_row, failed_how; /* of all stages so far, as ode_step_results has them */
} ode_stages;
ode_stages ode_stages_begin(const ode_step *step);
/* k and z with k = f(t, z), z = base + g k, t the time of evaluation i; guess: of k. */
void ode_record_stage(ode_stages *stages, int i, ad_var g, const ad_var *base, const ad_var *guess,
                      ad_var *k, ad_var *z);
/* (I - g J)^{-1} x with the stages' matrix (whose derivatives are those of the matrix at z, which
 * evaluation i has found). */
void ode_record_filter(const ode_stages *stages, int i, ad_var g, const ad_var *z, const ad_var *x,
                       ad_var *filtered);
/* Results of the step that tell of its stages. */
void ode_stages_end(const ode_stages *stages, ode_step_results *r);

/* Of a stochastic equation: adds to each of sum [nstate] the noise g W of the step's beginning, and
 * with `milstein` its term of second order. */
void sde_add_noise(const ode_step *s, const ad_var *g, bool milstein, ad_var *sum);

#endif
