/* Internal: arrays of outputs. */
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
ad_shape ode_shape_of_solution(const ode_problem *p, int state);

#endif
