/* An adjoint as a recorded operation: its plan, and its derivatives. */
#include "ode/adjoints/adjoint.h"
#include "ode/trajectory/tangents.h"
#include <stdlib.h>
#include <string.h>

bool ode_adjoint_takes(const ode_adjoint *a, const ode_method *m)
{
    return a && m && ode_method_has(m, a->wants) && !(m->flags & a->refuses);
}

/* ---- the plan ---- */

static void retain(void *data) { atomic_fetch_add(&((ode_adjoint_plan *)data)->references, 1); }

static void release(void *data)
{
    ode_adjoint_plan *d = data;
    if (!d || atomic_fetch_sub(&d->references, 1) != 1) return;
    ode_problem_release(d->problem);
    free(d->asked.times);
    free(d->own);
    free(d);
}

static const char *called(const void *data) { return ((const ode_adjoint_plan *)data)->called; }

/* The VJP of the prologue, if an argument that is wanted comes in through it. */
static bool plan_prologue(ode_adjoint_plan *d, ad_tape *tape)
{
    ode_system *s = d->problem->system;
    bool any = false;
    for (int i = 0; i < s->nshared; i++) any = any || ode_shared_needed(s, i, d->need);
    if (!any || s->rerecord) return true;
    ode_unit_key key = { .kind = ODE_UNIT_PROLOGUE, .derivative = ODE_VJP, .need = d->need };
    d->prologue = ode_unit_make(s, key, tape, d->problem->settings.caller);
    return d->prologue != NULL;
}

static bool copy_asked(ode_asked *to, const ode_asked *from)
{
    to->n = from->n;
    to->operation = from->operation;
    if (!from->times) return true;
    size_t bytes = (size_t)from->n * sizeof *to->times;
    to->times = malloc(bytes);
    if (to->times) memcpy(to->times, from->times, bytes);
    return to->times != NULL;
}

static ode_adjoint_plan *new_plan(ode_problem *p, const ode_asked *asked, const ad_var *ybar,
                                  const bool *need, ad_tape *tape)
{
    const ode_system *s = p->system;
    const ode_adjoint *adjoint = p->settings.adjoint;
    ode_adjoint_plan *d = calloc(1, sizeof *d);
    void *own = calloc(1, adjoint->own);
    if (!d || !own || (asked && !copy_asked(&d->asked, asked))) {
        ad_fail(tape, "%s: out of memory", p->settings.caller);
        free(d);
        free(own);
        return NULL;
    }
    atomic_init(&d->references, 1);
    d->problem = p;
    d->own = own;
    const char *caller = asked ? "ode_dense_at" : p->settings.caller;
    snprintf(d->called, sizeof d->called, "%s's adjoint", caller);
    ode_problem_retain(p);
    for (int i = 0; i < s->nstate; i++) d->has[i] = ybar[i].node >= 0;
    for (int i = 0; i < ode_adjoint_operands(d); i++)
        if (need[i]) d->result[d->nresults++] = i;
    for (int i = 0; i < d->nresults; i++) {
        const int argument = d->result[i] - s->nstate;
        if (d->result[i] >= ode_first_clock(p)) d->need_times = true;
        else if (argument >= 0) d->need |= (uint64_t)1 << argument;
    }
    if (adjoint->states) atomic_store(&p->differentiated, true);
    if (plan_prologue(d, tape) && adjoint->plan(d, tape)) return d;
    release(d);
    return NULL;
}

/* ---- the operation ---- */

/* The adjoint A(x, b) = J^T b of operands x and cotangents b is linear in b, and b^T J v is both
 * v^T A(x, b) and b^T T(x, v), T the tangents. So the derivatives of A are T, and the adjoint of T
 * by x, which is that of A in the direction v since second derivatives are symmetric. */

static const ode_asked *asked_of(const ode_adjoint_plan *d)
{
    return d->asked.n ? &d->asked : NULL;
}

/* Which of those it has results for, in need[ODE_MAX_OPERANDS]. */
static void needed_operands(const ode_adjoint_plan *d, bool *need)
{
    for (int i = 0; i < ODE_MAX_OPERANDS; i++) need[i] = false;
    for (int i = 0; i < d->nresults; i++) need[d->result[i]] = true;
}

/* Where operand i of a solve is among those of its tangents. */
static int place_in_tangents(const ode_problem *p, const ode_problem *t, int i)
{
    if (i < p->system->nstate) return i;
    if (i < ode_first_clock(p)) return t->system->nstate + i - p->system->nstate;
    if (i < ode_operands(p)) return ode_first_clock(t) + i - ode_first_clock(p);
    return ode_operands(t) + i - ode_operands(p);
}

/* The cotangents of the solutions, by state, from the operands that follow its own. */
static void cotangents(const ode_adjoint_plan *d, const ad_var *operand, ad_var *b)
{
    int n = d->problem->system->nstate;
    const ad_var *given = operand + ode_adjoint_operands(d) + n;
    for (int i = 0; i < n; i++) b[i] = d->has[i] ? *given++ : ad_none(operand[0].tape);
}

/* The gradient of b^T T by the operands in `need`; c: also that of c^T S, S the solution, which T
 * has beside it (invalid cotangents: none). */
static void differentiate_tangents(const ode_adjoint_plan *d, const ode_tangents *t,
                                   const ad_var *b, const ad_var *c, const bool *need, ad_var *xbar)
{
    int n = d->problem->system->nstate, shared = ode_adjoint_operands(d);
    ad_var ybar[ODE_MAX_JOINT], bar[ODE_MAX_OPERANDS];
    bool wanted[ODE_MAX_OPERANDS] = { false }, any = false;
    for (int i = 0; i < n; i++) {
        ybar[i] = c[i];
        ybar[n + i] = b[i];
    }
    for (int i = 0; i < shared; i++) {
        if (!need[i]) continue;
        wanted[place_in_tangents(d->problem, t->problem, i)] = any = true;
    }
    for (int i = 0; i < t->nin; i++) bar[i] = ad_none(t->token.tape);
    if (any)
        ode_adjoint_record(t->problem, t->asked, t->token, t->nin, t->in, t->out, ybar, wanted,
                           bar);
    for (int i = 0; i < shared; i++)
        if (need[i]) xbar[i] = bar[place_in_tangents(d->problem, t->problem, i)];
}

static void vjp(void *data, ad_var token, int nin, const ad_var *in, int nout, const ad_var *out,
                const ad_var *ybar, const bool *need, ad_var *xbar)
{
    const ode_adjoint_plan *d = data;
    int n = d->problem->system->nstate, shared = ode_adjoint_operands(d), k = 0;
    bool has[ODE_MAX_OPERANDS];
    ad_var v[ODE_MAX_OPERANDS], b[ODE_MAX_JOINT], none[ODE_MAX_JOINT];
    ode_tangents t;
    (void)nin, (void)nout, (void)out;
    needed_operands(d, has);
    for (int i = 0; i < shared; i++) v[i] = has[i] ? ybar[k++] : ad_none(token.tape);
    if (!ode_tangents_record(d->problem, asked_of(d), in[0], in + 1, v, &t)) return;
    for (int i = 0; i < n; i++) none[i] = ad_none(token.tape);
    cotangents(d, in + 1, b);
    differentiate_tangents(d, &t, b, none, need + 1, xbar + 1);
    k = 1 + shared + n;
    for (int i = 0; i < n; i++) {
        if (!d->has[i]) continue;
        if (need[k]) xbar[k] = t.out[n + i];
        k++;
    }
}

static void jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot, int nout,
                const ad_var *out, ad_var *ydot)
{
    const ode_adjoint_plan *d = data;
    int shared = ode_adjoint_operands(d), k = 0;
    bool need[ODE_MAX_OPERANDS], moving = false;
    ad_var b[ODE_MAX_JOINT], bdot[ODE_MAX_JOINT], dot[ODE_MAX_OPERANDS];
    ode_tangents t;
    (void)nin, (void)nout, (void)out;
    needed_operands(d, need);
    cotangents(d, in + 1, b);
    cotangents(d, xdot + 1, bdot);
    for (int i = 0; i < shared; i++) {
        dot[i] = ad_none(token.tape);
        moving = moving || xdot[1 + i].node >= 0;
    }
    if (!moving)
        ode_adjoint_record(d->problem, asked_of(d), in[0], shared, in + 1, in + 1 + shared, bdot,
                           need, dot);
    else if (ode_tangents_record(d->problem, asked_of(d), in[0], in + 1, xdot + 1, &t))
        differentiate_tangents(d, &t, b, bdot, need, dot);
    for (int i = 0; i < shared; i++)
        if (need[i]) ydot[k++] = dot[i];
}

static const ad_opaque_class adjoint_class = { .name = "ode_solve_adjoint",
                                               .called = called,
                                               .forward = ode_adjoint_run_back,
                                               .state_new = ode_adjoint_state_new,
                                               .state_free = ode_adjoint_state_free,
                                               .retain = retain,
                                               .release = release,
                                               .vjp = vjp,
                                               .jvp = jvp,
                                               .discretises = true,
                                               .account = ode_adjoint_account };

void ode_adjoint_record(ode_problem *p, const ode_asked *asked, ad_var token, int nin,
                        const ad_var *in, const ad_var *out, const ad_var *ybar, const bool *need,
                        ad_var *xbar)
{
    ode_adjoint_plan *d = new_plan(p, asked, ybar, need, token.tape);
    if (!d) return;
    int n = p->system->nstate, nop = 0, nout = 0;
    ad_var op[1 + ODE_MAX_OPERANDS + 2 * ODE_MAX_JOINT], bar[ODE_MAX_OPERANDS];
    ad_shape shapes[ODE_MAX_OPERANDS];
    op[nop++] = token;
    for (int i = 0; i < nin; i++) op[nop++] = in[i];
    for (int i = 0; i < n; i++) op[nop++] = out[i];
    for (int i = 0; i < n; i++)
        if (d->has[i]) op[nop++] = ybar[i];
    for (int i = 0; i < nin; i++)
        if (need[i]) shapes[nout++] = ad_shape_of(in[i]);
    if (!ad_valid(ad_opaque(token.tape, &adjoint_class, d, nop, op, nout, shapes, bar))) return;
    nout = 0;
    for (int i = 0; i < nin; i++)
        if (need[i]) xbar[i] = bar[nout++];
}
