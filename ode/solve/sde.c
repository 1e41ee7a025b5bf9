/* Solves of stochastic equations: ordinary ones whose right side has a diffusion too, and whose
 * path may have a draw among their arguments. */
#include "ode/solve/solve.h"
#include <string.h>

/* The draw of the path becomes the last argument. */
int sde_record_solve(const ode_right_side *given, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const sde_options *options, bool final_only,
                     ad_var *y)
{
    const sde_options usual = { 0 };
    ode_right_side right = *given;
    right.sde = options ? options : &usual;
    ad_var draw = right.sde->path.draw, all[ODE_MAX_ARGS];
    ad_tape *tape = nstate > 0 && y0 && y0[0].tape ? y0[0].tape : times.tape;
    for (int i = 0; y && i < nstate && i < ODE_MAX_STATES; i++) y[i] = ad_none(tape);
    if (draw.tape && tape) {
        if (draw.tape != tape || !ad_valid(draw)) {
            ad_fail(tape, "%s: options.path.draw is not a valid variable of y0's tape",
                    right.caller);
            return -1;
        }
        if (nargs >= ODE_MAX_ARGS) {
            ad_fail(tape, "%s: %d arguments and options.path.draw; there may be %d in all",
                    right.caller, nargs, ODE_MAX_ARGS);
            return -1;
        }
        if (nargs > 0 && args) memcpy(all, args, (size_t)nargs * sizeof *all);
        if (nargs >= 0 && (args || !nargs)) {
            all[nargs++] = draw;
            args = all;
        }
    }
    return ode_record_solve(&right, nstate, y0, nargs, args, times, &right.sde->ode, final_only, y);
}

ad_var sde_solve(ode_field drift, ode_field diffusion, void *user, ad_var y0, int nargs,
                 const ad_var *args, ad_var times, const sde_options *options)
{
    ad_var y = ad_none(y0.tape);
    ode_right_side right = {
        .caller = "sde_solve", .field = drift, .diffusion = diffusion, .user = user
    };
    sde_record_solve(&right, 1, &y0, nargs, args, times, options, false, &y);
    return y;
}

ad_var sde_solve_final(ode_field drift, ode_field diffusion, void *user, ad_var y0, int nargs,
                       const ad_var *args, ad_var times, const sde_options *options)
{
    ad_var y = ad_none(y0.tape);
    ode_right_side right = {
        .caller = "sde_solve_final", .field = drift, .diffusion = diffusion, .user = user
    };
    sde_record_solve(&right, 1, &y0, nargs, args, times, options, true, &y);
    return y;
}

int sde_solve_states(ode_fields drift, ode_fields diffusion, void *user, int nstate,
                     const ad_var *y0, int nargs, const ad_var *args, ad_var times,
                     const sde_options *options, ad_var *y)
{
    ode_right_side right = {
        .caller = "sde_solve_states", .fields = drift, .diffusions = diffusion, .user = user
    };
    return sde_record_solve(&right, nstate, y0, nargs, args, times, options, false, y);
}

int sde_solve_states_final(ode_fields drift, ode_fields diffusion, void *user, int nstate,
                           const ad_var *y0, int nargs, const ad_var *args, ad_var times,
                           const sde_options *options, ad_var *y)
{
    ode_right_side right = {
        .caller = "sde_solve_states_final", .fields = drift, .diffusions = diffusion, .user = user
    };
    return sde_record_solve(&right, nstate, y0, nargs, args, times, options, true, y);
}

/* ---- running costs ---- */

typedef struct {
    ode_field drift, diffusion, cost;
    void *user;
} cost_fields;

static void drift_with_cost(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                            ad_var *dy)
{
    const cost_fields *f = user;
    (void)nstate;
    dy[0] = f->drift(t, y[0], args, f->user);
    dy[1] = f->cost(t, y[0], args, f->user);
}

/* The cost has no noise. */
static void diffusion_of_state(ad_var t, int nstate, const ad_var *y, const ad_var *args,
                               void *user, ad_var *g)
{
    const cost_fields *f = user;
    (void)nstate;
    g[0] = f->diffusion(t, y[0], args, f->user);
}

ad_var sde_solve_cost(ode_field drift, ode_field diffusion, ode_field cost, void *user, ad_var y0,
                      int nargs, const ad_var *args, ad_var times, const sde_options *options,
                      ad_var *q)
{
    cost_fields all = { drift, diffusion, cost, user };
    ode_right_side right = { .caller = "sde_solve_cost",
                             .fields = drift_with_cost,
                             .diffusions = diffusion_of_state,
                             .user = &all,
                             .user_size = sizeof all };
    ad_var y[2] = { ad_none(y0.tape), ad_none(y0.tape) };
    const char *missing = !drift       ? "the drift"
                          : !diffusion ? "the diffusion"
                          : !cost      ? "the cost"
                          : !q         ? "q"
                                       : NULL;
    if (missing) {
        ad_fail(y0.tape ? y0.tape : times.tape, "sde_solve_cost: %s is NULL", missing);
    } else {
        ad_var zeros = ad_fill(y0.tape, AD_SHAPE(AD_ROWS, 1), 0);
        sde_record_solve(&right, 2, (ad_var[]){ y0, zeros }, nargs, args, times, options, false, y);
    }
    if (q) *q = y[1];
    return y[0];
}
