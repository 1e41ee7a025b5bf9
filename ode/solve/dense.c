/* Dense output as an object: a solve is recorded once, and asked for its state at times that are
 * given later.
 *
 * The solve is the operation that all solves are, and stores its trajectory. Each asking is an
 * operation of its own that takes the solve's token and, for their derivatives, the solve's
 * operands: it finds the steps that its times lie in, takes them again with the stages of dense
 * output, and delivers the interpolant's values. So the march forwards is one, whatever is asked;
 * each asking whose gradient is wanted has an adjoint of its own. */
#include "ode/adjoints/adjoint.h"
#include "ode/solve/solve.h"
#include "ode/trajectory/interpolant.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a recorded asking ---- */

typedef struct {
    atomic_int references;
    ode_problem *problem; /* the solve's */
    ode_asked asked;
    ode_march_units units;
} asking;

static void retain(void *data) { atomic_fetch_add(&((asking *)data)->references, 1); }

static void release(void *data)
{
    asking *a = data;
    if (!a || atomic_fetch_sub(&a->references, 1) != 1) return;
    ode_problem_release(a->problem);
    free(a->asked.times);
    free(a);
}

static const char *called(const void *data)
{
    (void)data;
    return "ode_dense_at";
}

typedef struct {
    ode_interpolant interpolant;
    ode_asked_order order;
    ode_buffer slot;
} asking_state;

static void *state_new(void *data)
{
    (void)data;
    return calloc(1, sizeof(asking_state));
}

static void state_free(void *state)
{
    asking_state *a = state;
    if (!a) return;
    ode_interpolant_close(&a->interpolant);
    ode_asked_close(&a->order);
    ode_buffer_free(&a->slot);
    free(a);
}

static int answer(void *data, void *state_, const ad_opaque_call *call)
{
    const asking *a = data;
    asking_state *state = state_;
    const ode_system *s = a->problem->system;
    ode_forward *forward = call->in_state[0];
    if (!forward->trajectory.stores && ode_forward_again(forward, call)) return -1;
    const void *const *args = call->in + 1 + s->nstate, *times = args[s->nargs + 1];
    size_t slot = (size_t)(call->rows * s->width) * ode_bytes(s->dtype);
    void *y = ode_buffer_need(&state->slot, slot);
    if (!y) return ode_call_fail(call, "out of memory");
    if (ode_asked_read(&state->order, &a->asked, forward, times, call) ||
        ode_interpolant_open(&state->interpolant, forward, &a->units, call, args))
        return -1;
    int64_t cells = call->rows * s->width;
    for (int i = 0; i < a->asked.n; i++) {
        double t = state->order.t[i];
        if (!ode_forward_reached(forward, t))
            for (int64_t k = 0; k < cells; k++) ode_store(s->dtype, y, k, NAN);
        else if (ode_interpolant_at(&state->interpolant, t, y)) return -1;
        for (int j = 0; j < s->nstate; j++)
            if (call->out[j])
                ode_output_put(s, call->rows, ode_part(s, call->rows, y, j), j, a->asked.n,
                               state->order.place[i], call->out[j]);
    }
    return 0;
}

static void vjp(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar)
{
    const asking *a = data;
    (void)token, (void)nout;
    ode_adjoint_record(a->problem, &a->asked, in[0], nin - 1, in + 1, out, ybar, need + 1,
                       xbar + 1);
}

static void jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot)
{
    (void)data, (void)nin, (void)in, (void)xdot, (void)nout, (void)out, (void)ydot;
    ad_fail(token.tape, "ode_dense_at: there is no forward derivative (ad_jvp, ad_jacobian, "
                        "ad_hvp): take ad_grad or ad_vjp");
}

static const ad_opaque_class asking_class = { .name = "ode_dense_at",
                                              .called = called,
                                              .forward = answer,
                                              .state_new = state_new,
                                              .state_free = state_free,
                                              .retain = retain,
                                              .release = release,
                                              .vjp = vjp,
                                              .jvp = jvp,
                                              .discretises = true };

/* ---- recording ---- */

static int solve_dense(const ode_right_side *right, ode_dense *dense, int nstate, const ad_var *y0,
                       int nargs, const ad_var *args, ad_var times, const ode_options *options)
{
    ad_tape *tape = nstate > 0 && y0 ? y0[0].tape : times.tape;
    if (!dense) {
        if (tape) ad_fail(tape, "%s: dense, for the result, is NULL", right->caller);
        return -1;
    }
    *dense = (ode_dense){ .solve = ad_none(tape) };
    ad_var out[ODE_MAX_STATES];
    ode_problem *problem = NULL;
    ad_var token = ode_record_forward(right, nstate, y0, nargs, args, times, options, true, out,
                                      dense->operand, &problem);
    if (!ad_valid(token)) return -1;
    if (!problem->settings.adjoint->asked) {
        ad_fail(tape,
                "%s: options.adjoint is %s, which does not go back to stored states; dense output "
                "works with ode_discrete and ode_interpolating",
                right->caller, problem->settings.adjoint->name);
        return -1;
    }
    atomic_store(&problem->differentiated, true);
    dense->solve = token;
    dense->problem = problem;
    dense->nstate = nstate;
    dense->nargs = nargs;
    return 0;
}

int ode_solve_dense(ode_dense *dense, ode_field field, void *user, ad_var y0, int nargs,
                    const ad_var *args, ad_var times, const ode_options *options)
{
    ode_right_side right = { .caller = "ode_solve_dense", .field = field, .user = user };
    return solve_dense(&right, dense, 1, &y0, nargs, args, times, options);
}

int ode_solve_dense_states(ode_dense *dense, ode_fields fields, void *user, int nstate,
                           const ad_var *y0, int nargs, const ad_var *args, ad_var times,
                           const ode_options *options)
{
    ode_right_side right = { .caller = "ode_solve_dense_states", .fields = fields, .user = user };
    return solve_dense(&right, dense, nstate, y0, nargs, args, times, options);
}

static bool check_times(ad_tape *tape, ad_var times)
{
    ad_shape s = ad_shape_of(times);
    char text[128];
    if (times.tape != tape || !ad_valid(times))
        ad_fail(tape, "ode_dense_at: times are not a valid variable of the solve's tape");
    else if (s.rank != 1 || s.dim[0] < 1 || s.dim[0] > INT_MAX) {
        ad_format_shape(s, text, sizeof text);
        ad_fail(tape, "ode_dense_at: times have shape %s; they must be a vector [T]", text);
    }
    return !ad_tape_error(tape);
}

static asking *new_asking(ode_problem *p, ad_var times, ad_tape *tape)
{
    int n = (int)ad_shape_of(times).dim[0];
    const double *constant = ad_constant_elements(times);
    bool fill = constant && ad_constant_size(times) < n;
    asking *a = calloc(1, sizeof *a);
    double *t = constant ? malloc((size_t)n * sizeof *t) : NULL;
    if (!a || (constant && !t)) {
        ad_fail(tape, "ode_dense_at: out of memory");
        free(a);
        free(t);
        return NULL;
    }
    for (int i = 0; t && i < n; i++) t[i] = constant[fill ? 0 : i];
    atomic_init(&a->references, 1);
    a->problem = p;
    ode_problem_retain(p);
    a->asked = (ode_asked){ .n = n, .times = t };
    if (ode_interpolant_compile(&a->units, p, tape)) return a;
    release(a);
    return NULL;
}

int ode_dense_states_at(const ode_dense *dense, ad_var times, ad_var *y)
{
    ad_tape *tape = dense ? dense->solve.tape : times.tape;
    if (!dense || !y) {
        if (tape)
            ad_fail(tape, "ode_dense_at: %s is NULL", dense ? "y, for the results," : "dense");
        return -1;
    }
    for (int i = 0; i < dense->nstate; i++) y[i] = ad_none(tape);
    if (!tape || ad_tape_error(tape)) return -1;
    if (!ad_valid(dense->solve)) {
        ad_fail(tape, "ode_dense_at: the solve is not valid: it failed, or its tape was rewound");
        return -1;
    }
    if (!check_times(tape, times)) return -1;
    ode_problem *p = dense->problem;
    ad_var in[2 + ODE_MAX_OPERANDS];
    ad_shape shapes[ODE_MAX_STATES];
    for (int i = 0; i < dense->nstate; i++) {
        ad_shape s = p->system->state[i];
        if (s.rank == AD_MAX_RANK) {
            ad_fail(tape,
                    "ode_dense_at: state %d has the largest rank, %d: there is no room for the "
                    "time axis; reshape it",
                    i, AD_MAX_RANK);
            return -1;
        }
        shapes[i] = ode_shape_at_times(s, (int)ad_shape_of(times).dim[0]);
    }
    asking *a = new_asking(p, times, tape);
    if (!a) return -1;
    int n = 0, operands = dense->nstate + dense->nargs + 1;
    in[n++] = dense->solve;
    for (int i = 0; i < operands; i++) in[n++] = dense->operand[i];
    in[n++] = times;
    return ad_valid(ad_opaque(tape, &asking_class, a, n, in, dense->nstate, shapes, y)) ? 0 : -1;
}

ad_var ode_dense_at(const ode_dense *dense, ad_var times)
{
    ad_var none = ad_none(dense ? dense->solve.tape : times.tape);
    if (dense && dense->nstate > 1) {
        ad_fail(dense->solve.tape,
                "ode_dense_at: the solve has %d states; ask for them by ode_dense_states_at",
                dense->nstate);
        return none;
    }
    ad_var y = none;
    ode_dense_states_at(dense, times, &y);
    return y;
}
