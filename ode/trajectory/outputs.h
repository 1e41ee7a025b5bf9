/* Internal: arrays of outputs, and the interpolant inside a step. */
#ifndef ODE_OUTPUTS_H
#define ODE_OUTPUTS_H
#include "ode/trajectory/problem.h"

/* Output arrays are [rows, T, size] (final_only: [rows, size]). Copies a state's part of a slot to
 * output time j, and adds back. */
void ode_output_put(const ode_problem *p, int64_t rows, const void *part, int state, int j,
                    void *to);
void ode_output_add(const ode_problem *p, int64_t rows, const void *from, int state, int j,
                    void *part);
/* Weights of the dense output at t inside the step from a to b: h b_i(theta), and derivatives by
 * theta. Returns how many. */
int ode_output_weights(const ode_method *method, const ode_boundary *a, const ode_boundary *b,
                       double t, double *w, double *slope);

#endif
