/* Internal: recording a solve. */
#ifndef ODE_SOLVE_H
#define ODE_SOLVE_H
#include "ode/field/system.h"

/* Results out[nstate]. 0, or -1 with the tape's error set. */
int ode_record_solve(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, bool final_only,
                     ad_var *out);

#endif
