/* Recording a solve: arguments checked, the field traced, programs compiled or found, one opaque
 * operation. */
#include "ode/solve/solve.h"
#include "ode/adjoints/adjoint.h"
#include "ode/trajectory/tangents.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks ---- */

/* Says what is wrong with an operand of the solve, by name and number, unless it is a variable of
 * the tape. */
static bool check_operand(ad_tape *tape, const char *caller, const char *name, int number, ad_var x)
{
    if (!x.tape) ad_fail(tape, "%s: %s %d is empty ({0}), not a variable", caller, name, number);
    else if (x.tape != tape) ad_fail(tape, "%s: %s %d is on another tape", caller, name, number);
    else if (!ad_valid(x)) ad_fail(tape, "%s: %s %d is not a valid variable", caller, name, number);
    return !ad_tape_error(tape);
}

static ad_tape *check_arguments(const ode_right_side *right, int nstate, const ad_var *y0,
                                int nargs, const ad_var *args, ad_var times, const ad_var *out)
{
    const char *caller = right->caller;
    ad_tape *tape = nstate > 0 && y0 && y0[0].tape ? y0[0].tape : times.tape;
    if (!tape || ad_tape_error(tape)) return NULL;
    char shape[128];
    ad_shape t = ad_shape_of(times);
    const char *missing = !right->field && !right->fields                         ? "the field"
                          : right->sde && !right->diffusion && !right->diffusions ? "the diffusion"
                          : !out               ? "y, for the results,"
                          : nstate > 0 && !y0  ? "y0"
                          : nargs > 0 && !args ? "args"
                                               : NULL;
    if (missing) ad_fail(tape, "%s: %s is NULL", caller, missing);
    else if (nstate < 1 || nstate > ODE_MAX_STATES)
        ad_fail(tape, "%s: %d states; there may be 1 to %d", caller, nstate, ODE_MAX_STATES);
    if (nargs < 0 || nargs > ODE_MAX_ARGS)
        ad_fail(tape, "%s: %d arguments; there may be 0 to %d (concatenate small ones)", caller,
                nargs, ODE_MAX_ARGS);
    for (int i = 0; !ad_tape_error(tape) && i < nstate; i++) {
        if (!check_operand(tape, caller, "y0 of state", i, y0[i]) ||
            ad_has_rows(ad_shape_of(y0[i])))
            continue;
        ad_format_shape(ad_shape_of(y0[i]), shape, sizeof shape);
        ad_fail(tape,
                "%s: y0 (state %d) of shape %s has no row axis; make it with ad_input_rows (one "
                "row for a single trajectory), or add it to "
                "zeros that have rows",
                caller, i, shape);
    }
    for (int i = 0; !ad_tape_error(tape) && i < nargs; i++)
        check_operand(tape, caller, "argument", i, args[i]);
    if (ad_tape_error(tape)) return NULL;
    if (times.tape != tape || !ad_valid(times)) {
        ad_fail(tape,
                "%s: times are not a valid variable of y0's tape; make them with ad_constant, "
                "ode_interval or ode_linspace",
                caller);
        return NULL;
    }
    if (t.rank == 1 && t.dim[0] >= 2 && t.dim[0] <= INT_MAX) return tape;
    ad_format_shape(t, shape, sizeof shape);
    ad_fail(tape,
            "%s: times have shape %s; they must be a vector [T] of at least two times, the first "
            "that of y0",
            caller, shape);
    return NULL;
}

/* Constant times keep their double precision. */
static bool copy_times(ode_problem *p, ad_var times, ad_tape *tape)
{
    const double *t = ad_constant_elements(times);
    p->ntimes = (int)ad_shape_of(times).dim[0];
    if (!t) return true;
    p->times = malloc((size_t)p->ntimes * sizeof *p->times);
    if (!p->times) {
        ad_fail(tape, "%s: out of memory", p->settings.caller);
        return false;
    }
    /* Times made by ad_fill are one number: only good for the error message. */
    bool fill = ad_constant_size(times) < p->ntimes;
    for (int i = 0; i < p->ntimes; i++) p->times[i] = t[fill ? 0 : i];
    char text[256];
    const char *error = ode_check_times(p->ntimes, p->times, text, sizeof text);
    if (error) ad_fail(tape, "%s: %s", p->settings.caller, error);
    return !error;
}

/* ---- the operation ---- */

static void solve_vjp(void *problem, ad_var token, int nin, const ad_var *in, int nout,
                      const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)nout;
    ode_adjoint_record(problem, NULL, token, nin, in, out, ybar, need, xbar);
}

static void solve_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                      int nout, const ad_var *out, ad_var *ydot)
{
    ode_problem *p = data;
    ode_tangents t;
    (void)nin, (void)out;
    if (!ode_tangents_record(p, NULL, token, in, xdot, &t)) return;
    for (int i = 0; i < nout; i++) ydot[i] = t.out[nout + i];
}

static const char *called(const void *problem)
{
    return ((const ode_problem *)problem)->settings.caller;
}

static const ad_opaque_class solve_class = { .name = "ode_solve",
                                             .called = called,
                                             .forward = ode_forward_solve,
                                             .state_new = ode_forward_new,
                                             .state_free = ode_forward_free,
                                             .retain = ode_problem_retain,
                                             .release = ode_problem_release,
                                             .jvp = solve_jvp,
                                             .vjp = solve_vjp,
                                             .discretises = true,
                                             .account = ode_forward_account };

/* ---- recording ---- */

static bool compile(ode_problem *p, ad_tape *tape)
{
    const ode_settings *set = &p->settings;
    const ode_system *s = p->system;
    bool between = (set->adaptive || set->replay) && !ode_method_stochastic(set->method);
    p->dense = !p->final_only && p->ntimes > 2 && between;
    if (s->nshared && !s->rerecord) {
        p->prologue = ode_unit_make(p->system, (ode_unit_key){ .kind = ODE_UNIT_PROLOGUE }, tape,
                                    set->caller);
        if (!p->prologue) return false;
    }
    return ode_march_compile(&p->units, p->system, set, set->adaptive, p->dense, 0, NULL, tape);
}

/* The calculus in which the method solves the equation: the one that is meant, if it can. */
static sde_calculus calculus_of(const ode_method *method, const sde_options *sde)
{
    if (method->calculi >> sde->calculus & 1) return sde->calculus;
    return sde->calculus == SDE_ITO ? SDE_STRATONOVICH : SDE_ITO;
}

/* The draw of a path comes in as the last argument. */
static bool take_draw(ode_problem *p, const sde_options *sde, int nargs, const ad_var *args,
                      ad_tape *tape)
{
    if (!sde || !sde->path.draw.tape) return true;
    p->settings.draw = nargs - 1;
    ad_shape shape = ad_shape_of(args[nargs - 1]);
    bool one = shape.rank == 0, each = shape.rank == 2 && ad_has_rows(shape) && shape.dim[1] == 1;
    if (one || each) return true;
    char text[128];
    ad_format_shape(shape, text, sizeof text);
    ad_fail(tape, "%s: options.path.draw has shape %s; it must be a scalar [] or [rows,1]",
            p->settings.caller, text);
    return false;
}

static ode_problem *make_problem(const ode_right_side *right, int nstate, const ad_var *y0,
                                 int nargs, const ad_var *args, ad_var times,
                                 const ode_options *options, bool final_only, ad_tape *tape)
{
    ode_problem *p = calloc(1, sizeof *p);
    if (!p) {
        ad_fail(tape, "%s: out of memory", right->caller);
        return NULL;
    }
    atomic_init(&p->references, 1);
    p->final_only = final_only;
    ode_options o = options ? *options : (ode_options){ 0 };
    if (!o.adjoint) o.adjoint = &ode_discrete;
    ode_right_side whole = *right;
    whole.norm = o.norm;
    const sde_options *sde = right->sde;
    bool ok = ode_settings_make(&p->settings, &o, sde, tape, right->caller) &&
              copy_times(p, times, tape) && take_draw(p, sde, nargs, args, tape);
    if (ok && sde) whole.calculus = calculus_of(p->settings.method, sde);
    if (ok &&
        (p->system =
             ode_system_make(tape, &whole, nstate, y0, nargs, args, p->settings.rerecord)) &&
        (!sde || ode_settings_take_noise(&p->settings, p->system, sde->commutative, tape)) &&
        ode_settings_fit(&p->settings, p->system, tape) && compile(p, tape))
        return p;
    ode_problem_release(p);
    return NULL;
}

ad_var ode_record_forward(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                          const ad_var *args, ad_var times, const ode_options *options,
                          bool final_only, ad_var *out, ad_var *in, ode_problem **problem)
{
    ad_tape *tape = check_arguments(right, nstate, y0, nargs, args, times, out);
    ad_var none = ad_none(y0 ? y0[0].tape : times.tape);
    for (int i = 0; out && i < nstate && i < ODE_MAX_STATES; i++) out[i] = none;
    if (!tape) return none;
    for (int i = 0; i < nstate; i++) {
        if (ad_shape_of(y0[i]).rank < AD_MAX_RANK || final_only) continue;
        ad_fail(tape,
                "%s: y0 (state %d) has the largest rank, %d: there is no room for the time axis; "
                "reshape it",
                right->caller, i, AD_MAX_RANK);
        return none;
    }
    ode_problem *p = make_problem(right, nstate, y0, nargs, args, times, options, final_only, tape);
    if (!p) return none;
    *problem = p;
    p->operation = &solve_class;
    p->exact = &ode_discrete;
    ad_shape shapes[ODE_MAX_STATES];
    int n = 0;
    for (int i = 0; i < nstate; i++) in[n++] = y0[i];
    for (int i = 0; i < nargs; i++) in[n++] = args[i];
    in[n++] = times;
    for (int i = 0; i < nstate; i++) shapes[i] = ode_shape_of_solution(p, i);
    return ad_opaque(tape, &solve_class, p, n, in, nstate, shapes, out);
}

int ode_record_solve(const ode_right_side *right, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, bool final_only,
                     ad_var *out)
{
    ad_var in[ODE_MAX_OPERANDS];
    ode_problem *problem;
    return ad_valid(ode_record_forward(right, nstate, y0, nargs, args, times, options, final_only,
                                       out, in, &problem))
               ? 0
               : -1;
}

/* ---- the everyday forms ---- */

ad_var ode_solve(ode_field field, void *user, ad_var y0, int nargs, const ad_var *args,
                 ad_var times, const ode_options *options)
{
    ad_var y = ad_none(y0.tape);
    ode_right_side right = { .caller = "ode_solve", .field = field, .user = user };
    ode_record_solve(&right, 1, &y0, nargs, args, times, options, false, &y);
    return y;
}

ad_var ode_solve_final(ode_field field, void *user, ad_var y0, int nargs, const ad_var *args,
                       ad_var times, const ode_options *options)
{
    ad_var y = ad_none(y0.tape);
    ode_right_side right = { .caller = "ode_solve_final", .field = field, .user = user };
    ode_record_solve(&right, 1, &y0, nargs, args, times, options, true, &y);
    return y;
}

int ode_solve_states(ode_fields field, void *user, int nstate, const ad_var *y0, int nargs,
                     const ad_var *args, ad_var times, const ode_options *options, ad_var *y)
{
    ode_right_side right = { .caller = "ode_solve_states", .fields = field, .user = user };
    return ode_record_solve(&right, nstate, y0, nargs, args, times, options, false, y);
}

int ode_solve_states_final(ode_fields field, void *user, int nstate, const ad_var *y0, int nargs,
                           const ad_var *args, ad_var times, const ode_options *options, ad_var *y)
{
    ode_right_side right = { .caller = "ode_solve_states_final", .fields = field, .user = user };
    return ode_record_solve(&right, nstate, y0, nargs, args, times, options, true, y);
}

ad_var ode_linspace(ad_tape *tape, double t0, double t1, int n)
{
    if (n < 2) {
        ad_fail(tape, "ode_linspace: n is %d; at least two times are needed", n);
        return ad_none(tape);
    }
    double *t = malloc((size_t)n * sizeof *t);
    if (!t) {
        ad_fail(tape, "ode_linspace: out of memory");
        return ad_none(tape);
    }
    for (int i = 0; i < n; i++) t[i] = i == n - 1 ? t1 : t0 + (t1 - t0) * i / (n - 1);
    ad_var times = ad_constant(tape, AD_SHAPE(n), t);
    free(t);
    return times;
}

ad_var ode_interval(ad_tape *tape, double t0, double t1)
{
    return ad_constant(tape, AD_SHAPE(2), (double[]){ t0, t1 });
}
