/* Internal: recording a solve. */
#ifndef ODE_SOLVE_H
#define ODE_SOLVE_H
#include "ode/trajectory/problem.h"

/* Results out[nstate], operands in[] (y0, arguments, times), and the problem, which is the
 * operation's. The token of the operation; invalid with the tape's error set. */
ad_var ode_record_forward(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                          const ad_var *args, ad_var times, const ode_options *options,
                          bool final_only, ad_var *out, ad_var *in, ode_problem **problem);
/* The results alone. 0, or -1 with the tape's error set. */
int ode_record_solve(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, bool final_only,
                     ad_var *out);
/* Of a stochastic equation: with the path of the options (NULL: all defaults). */
int sde_record_solve(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const sde_options *options, bool final_only,
                     ad_var *out);

#endif
