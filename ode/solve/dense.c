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
#include "ode/trajectory/tangents.h"
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- an asking ---- */

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
    const ode_asking *a = data;
    asking_state *state = state_;
    const ode_system *s = a->problem->system;
    ode_forward *forward = call->in_state[0];
    if (!forward->trajectory.stores && ode_forward_again(forward, call)) return -1;
    const void *const *args = call->in + 1 + s->nstate;
    const void *const *times = call->in + 1 + ode_operands(a->problem);
    size_t slot = (size_t)(call->rows * s->width) * ode_bytes(s->dtype);
    void *y = ode_buffer_need(&state->slot, slot);
    if (!y) return ode_call_fail(call, "out of memory");
    if (ode_asked_read(&state->order, &a->asked, forward, times, call) ||
        ode_interpolant_open(&state->interpolant, forward, &a->units, call, args))
        return -1;
    int64_t cells = call->rows * s->width;
    for (int i = 0; i < a->asked.n; i++) {
        const double *t = state->order.t + i;
        if (!ode_forward_reached(forward, *t))
            for (int64_t k = 0; k < cells; k++) ode_store(s->dtype, y, k, NAN);
        else if (ode_interpolant_at(&state->interpolant, t, a->asked.n, y)) return -1;
        for (int j = 0; j < s->nstate; j++)
            if (call->out[j])
                ode_output_put(s, call->rows, ode_part(s, call->rows, y, j), j, a->asked.n,
                               state->order.place[i], call->out[j]);
    }
    return 0;
}

static void account(void *data, ad_opaque_account *a)
{
    const ode_asking *d = data;
    const ode_system *s = d->problem->system;
    ode_account(a, 1, sizeof(asking_state));
    ode_account_buffer(a, (size_t)(a->rows * s->width) * ode_bytes(s->dtype));
    ode_interpolant_account(d->problem, &d->units, a);
}

static void vjp(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar)
{
    const ode_asking *a = data;
    (void)token, (void)nout;
    ode_adjoint_record(a->problem, &a->asked, in[0], nin - 1, in + 1, out, ybar, need + 1,
                       xbar + 1);
}

static void jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot)
{
    const ode_asking *a = data;
    ode_tangents t;
    (void)token, (void)nin, (void)out;
    if (!ode_tangents_record(a->problem, &a->asked, in[0], in + 1, xdot + 1, &t)) return;
    for (int i = 0; i < nout; i++) ydot[i] = t.out[nout + i];
}

static const ad_opaque_class asking_class = { .name = "ode_dense_at",
                                              .called = called,
                                              .forward = answer,
                                              .state_new = state_new,
                                              .state_free = state_free,
                                              .retain = ode_asking_retain,
                                              .release = ode_asking_release,
                                              .vjp = vjp,
                                              .jvp = jvp,
                                              .discretises = true,
                                              .account = account };

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

static ad_tape *tape_of(const ode_dense *dense, ad_var times)
{
    return dense && dense->solve.tape ? dense->solve.tape : times.tape;
}

int ode_dense_states_at(const ode_dense *dense, ad_var times, ad_var *y)
{
    ad_tape *tape = tape_of(dense, times);
    if (!dense || !y) {
        if (tape)
            ad_fail(tape, "ode_dense_at: %s is NULL", dense ? "y, for the results," : "dense");
        return -1;
    }
    for (int i = 0; i < dense->nstate; i++) y[i] = ad_none(tape);
    if (!tape || ad_tape_error(tape)) return -1;
    if (!ad_valid(dense->solve)) {
        ad_fail(tape,
                "ode_dense_at: the solve is not valid: it was not recorded, it failed, or its "
                "tape was rewound");
        return -1;
    }
    if (!check_times(tape, times)) return -1;
    ode_problem *p = dense->problem;
    for (int i = 0; i < dense->nstate; i++) {
        if (p->system->state[i].rank < AD_MAX_RANK) continue;
        ad_fail(tape,
                "ode_dense_at: state %d has the largest rank, %d: there is no room for the "
                "time axis; reshape it",
                i, AD_MAX_RANK);
        return -1;
    }
    return ode_asking_record(p, &asking_class, dense->solve, dense->operand, &times, y) ? 0 : -1;
}

ad_var ode_dense_at(const ode_dense *dense, ad_var times)
{
    ad_var none = ad_none(tape_of(dense, times));
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
