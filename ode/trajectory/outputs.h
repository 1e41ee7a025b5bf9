/* Internal: arrays of outputs, and the interpolant inside a step. */
#ifndef ODE_OUTPUTS_H
#define ODE_OUTPUTS_H
#include "ode/trajectory/problem.h"

/* Arrays of outputs are [rows, n, size], of n times. Copies a state's part of a slot to the place
 * of one of them, and adds back. */
void ode_output_put(const ode_system *s, int64_t rows, const void *part, int state, int n, int at,
                    void *to);
void ode_output_add(const ode_system *s, int64_t rows, const void *from, int state, int n, int at,
                    void *part);
ad_shape ode_shape_at_times(ad_shape state, int ntimes); /* [rows, T, D...] of [rows, D...] */
/* Weights of the dense output at t inside the step from a to b: h b_i(theta), and derivatives by
 * theta. Returns how many. */
int ode_output_weights(const ode_method *method, const ode_boundary *a, const ode_boundary *b,
                       double t, double *w, double *slope);

#endif
