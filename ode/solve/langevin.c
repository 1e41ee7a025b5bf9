/* The underdamped Langevin equation as a stochastic one with two states. Friction and inverse mass
 * are its last two arguments. */
#include "ode/solve/solve.h"
#include <string.h>

typedef struct {
    ode_field gradient;
    void *user;
    int nargs; /* of the gradient */
} langevin_fields;

static void drift(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    const langevin_fields *f = user;
    (void)nstate;
    ad_var friction = args[f->nargs], inverse_mass = args[f->nargs + 1];
    ad_var pull = ad_mul(inverse_mass, f->gradient(t, y[0], args, f->user));
    dy[0] = y[1];
    dy[1] = ad_neg(ad_add(ad_mul(friction, y[1]), pull));
}

/* The position has no noise. */
static void diffusion(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                      ad_var *g)
{
    const langevin_fields *f = user;
    (void)t, (void)nstate, (void)y;
    g[1] = ad_sqrt(ad_scale(ad_mul(args[f->nargs], args[f->nargs + 1]), 2));
}

static bool check(const sde_langevin *e, const char *caller, ad_var x0, ad_var v0, int nargs,
                  const ad_var *args, ad_tape *tape)
{
    const char *missing = !e                   ? "the equation"
                          : !e->gradient       ? "the gradient of the potential"
                          : nargs > 0 && !args ? "args"
                                               : NULL;
    if (missing) {
        ad_fail(tape, "%s: %s is NULL", caller, missing);
    } else if (!ad_valid(e->friction)) {
        ad_fail(tape, "%s: the friction is not a valid variable; ad_scalar(tape, 1), say", caller);
    } else if (nargs < 0 || nargs > ODE_MAX_ARGS - 2) {
        ad_fail(tape, "%s: %d arguments; with friction and inverse mass there may be 0 to %d",
                caller, nargs, ODE_MAX_ARGS - 2);
    } else if (ad_valid(x0) && ad_valid(v0) && !ad_same_shape(ad_shape_of(x0), ad_shape_of(v0))) {
        char x[128], v[128];
        ad_format_shape(ad_shape_of(x0), x, sizeof x);
        ad_format_shape(ad_shape_of(v0), v, sizeof v);
        ad_fail(tape, "%s: x0 has shape %s and v0 %s; they must be equal", caller, x, v);
    }
    return !ad_tape_error(tape);
}

static int solve(const sde_langevin *e, const char *caller, ad_var x0, ad_var v0, int nargs,
                 const ad_var *args, ad_var times, const sde_options *options, bool final_only,
                 ad_var *y)
{
    ad_tape *tape = x0.tape ? x0.tape : times.tape;
    if (y) y[0] = y[1] = ad_none(tape);
    if (!tape || ad_tape_error(tape) || !check(e, caller, x0, v0, nargs, args, tape)) return -1;
    langevin_fields fields = { .gradient = e->gradient, .user = e->user, .nargs = nargs };
    ode_right_side right = { .caller = caller,
                             .fields = drift,
                             .diffusions = diffusion,
                             .langevin = true,
                             .user = &fields,
                             .user_size = sizeof fields };
    sde_options own = options ? *options : (sde_options){ 0 };
    if (!own.ode.method) own.ode.method = &sde_align;
    ad_var all[ODE_MAX_ARGS], start[] = { x0, v0 };
    if (nargs) memcpy(all, args, (size_t)nargs * sizeof *all);
    all[nargs] = e->friction;
    all[nargs + 1] = e->inverse_mass.tape ? e->inverse_mass : ad_scalar(tape, 1);
    return sde_record_solve(&right, 2, start, nargs + 2, all, times, &own, final_only, y);
}

int sde_langevin_solve(const sde_langevin *equation, ad_var x0, ad_var v0, int nargs,
                       const ad_var *args, ad_var times, const sde_options *options, ad_var *y)
{
    return solve(equation, "sde_langevin_solve", x0, v0, nargs, args, times, options, false, y);
}

int sde_langevin_solve_final(const sde_langevin *equation, ad_var x0, ad_var v0, int nargs,
                             const ad_var *args, ad_var times, const sde_options *options,
                             ad_var *y)
{
    return solve(equation, "sde_langevin_solve_final", x0, v0, nargs, args, times, options, true,
                 y);
}
