/* Tangents of a solve: J v, with the accepted steps frozen.
 *
 * With its steps frozen a solve is a composition of step programs, and its tangents are that of
 * their JVPs. The states and their tangents are the states of another solve, whose system is the
 * tangent system, and which follows the first one: it takes the steps that this has stored, where
 * its token is an operand. So the tangents of a solve have all that a solve has, an adjoint (which
 * gives second derivatives: J^T b is linear in b, and of b^T J v the gradient by the operands is
 * the derivative of J^T b in the direction v) and tangents of their own, and so on in every order.
 *
 * Times that move are more clocks (ode_system.clock): a tangent of the boundaries of all steps is
 * the same combination of tangents of the output times as the boundaries are of those. */
#include "ode/trajectory/tangents.h"
#include "ode/trajectory/outputs.h"
#include <stdlib.h>
#include <string.h>

static bool copy_times(ode_problem *t, const ode_problem *p)
{
    t->ntimes = p->ntimes;
    if (!p->times) return true;
    size_t bytes = (size_t)p->ntimes * sizeof *t->times;
    t->times = malloc(bytes);
    if (t->times) memcpy(t->times, p->times, bytes);
    return t->times != NULL;
}

static bool compile(ode_problem *t, ad_tape *tape)
{
    ode_system *s = t->system;
    const char *caller = t->settings.caller;
    if (s->nshared && !s->rerecord) {
        t->prologue = ode_unit_make(s, (ode_unit_key){ .kind = ODE_UNIT_PROLOGUE }, tape, caller);
        if (!t->prologue) return false;
    }
    return ode_march_compile(&t->units, s, &t->settings, false, t->dense, 0, NULL, tape);
}

/* The recorded solve of the tangents. NULL with the tape's error set. */
static ode_problem *problem_of(const ode_problem *p, uint64_t along, bool moving, ad_tape *tape)
{
    ode_problem *t = calloc(1, sizeof *t);
    if (!t || !copy_times(t, p)) {
        ad_fail(tape, "%s: out of memory", p->settings.caller);
        free(t);
        return NULL;
    }
    atomic_init(&t->references, 1);
    t->operation = p->operation;
    t->exact = p->exact;
    t->final_only = p->final_only;
    t->dense = p->dense;
    t->settings = p->settings;
    t->settings.adjoint = p->exact;
    t->settings.adaptive = false;
    t->settings.replay = NULL;
    t->settings.stats = NULL;
    t->settings.on_step = NULL;
    t->settings.jump = t->settings.atol_each = t->settings.grid = NULL;
    t->settings.njump = t->settings.natol = 0;
    ode_system *s = ode_system_tangent(p->system, along, moving, tape, p->settings.caller);
    if (s) t->system = ode_system_retain(s);
    if (s && compile(t, tape)) return t;
    ode_problem_release(t);
    return NULL;
}

/* Appends n operands, and the tangents of those that are in the set. */
static void append(ode_tangents *t, int n, const ad_var *x, const ad_var *xdot, uint64_t set)
{
    for (int i = 0; i < n; i++) t->in[t->nin++] = x[i];
    for (int i = 0; i < n; i++)
        if (set >> i & 1) t->in[t->nin++] = xdot[i].node < 0 ? ad_zeros_like(x[i]) : xdot[i];
}

/* The solve itself. moving: times have tangents. */
static bool record_solve(ode_problem *p, ad_var token, const ad_var *in, const ad_var *xdot,
                         bool moving, ode_tangents *t)
{
    const ode_system *s = p->system;
    int n = s->nstate, clock = ode_first_clock(p);
    uint64_t along = 0, all = ~(uint64_t)0;
    for (int i = 0; i < s->nargs; i++)
        if (xdot[n + i].node >= 0) along |= (uint64_t)1 << i;
    t->problem = problem_of(p, along, moving, token.tape);
    if (!t->problem) return false;
    atomic_store(&p->differentiated, true);
    append(t, n, in, xdot, all);
    append(t, s->nargs, in + n, xdot + n, along);
    append(t, s->nclocks, in + clock, xdot + clock, moving ? all : 0);
    t->in[t->nin++] = token;
    for (int i = 0; i < s->order; i++) t->in[t->nin++] = in[ode_first_token(p) + i];
    ad_shape shapes[ODE_MAX_JOINT];
    int nout = t->problem->system->nstate;
    for (int i = 0; i < nout; i++) shapes[i] = ode_shape_of_solution(t->problem, i);
    t->token = ad_opaque(token.tape, p->operation, t->problem, t->nin, t->in, nout, shapes, t->out);
    return ad_valid(t->token);
}

/* ---- directions that come again ---- */

/* The tangents of a solution and those of its gradient, which a Hessian times a vector needs, are
 * in one direction: they are recorded once. The latest ones of each solve are kept by the tape,
 * under the solve's token. */
typedef struct {
    ad_var direction[ODE_MAX_OPERANDS];
    bool moving;
    ode_tangents tangents;
} latest;

typedef struct {
    char tag[8];
    int32_t node;
    uint32_t epoch;
} latest_key;

static latest_key key_of(ad_var token)
{
    return (latest_key){ "tangent", token.node, token.epoch };
}

static void release_latest(void *object)
{
    ode_problem_release(((latest *)object)->tangents.problem);
    free(object);
}

static bool same(ad_var x, ad_var y)
{
    return x.node < 0 ? y.node < 0 : x.node == y.node && x.epoch == y.epoch;
}

static bool recall(const ode_problem *p, ad_var token, const ad_var *xdot, bool moving,
                   ode_tangents *t)
{
    latest_key key = key_of(token);
    const latest *l = ad_cache_find(token.tape, &key, sizeof key);
    if (!l || l->moving != moving || !ad_valid(l->tangents.token)) return false;
    for (int i = 0; i < ode_first_token(p); i++)
        if (!same(l->direction[i], xdot[i])) return false;
    *t = l->tangents;
    return true;
}

static void remember(const ode_problem *p, ad_var token, const ad_var *xdot, bool moving,
                     const ode_tangents *t)
{
    latest_key key = key_of(token);
    latest *l = ad_cache_find(token.tape, &key, sizeof key);
    bool known = l != NULL;
    if (known) ode_problem_release(l->tangents.problem);
    else if (!(l = malloc(sizeof *l))) return;
    memcpy(l->direction, xdot, (size_t)ode_first_token(p) * sizeof *xdot);
    l->moving = moving;
    l->tangents = *t;
    ode_problem_retain(t->problem);
    if (!known) ad_cache_add(token.tape, &key, sizeof key, l, release_latest);
}

/* ---- recording ---- */

bool ode_tangents_record(ode_problem *p, const ode_asked *asked, ad_var token, const ad_var *in,
                         const ad_var *xdot, ode_tangents *t)
{
    int clocks = p->system->nclocks, first = ode_first_clock(p), behind = ode_operands(p);
    bool moving = false;
    for (int i = 0; i < clocks; i++) {
        moving = moving || xdot[first + i].node >= 0;
        moving = moving || (asked && xdot[behind + i].node >= 0);
    }
    t->nin = 0;
    t->asked = NULL;
    if (!recall(p, token, xdot, moving, t)) {
        if (!record_solve(p, token, in, xdot, moving, t)) return false;
        remember(p, token, xdot, moving, t);
    }
    if (!asked) return true;
    int solve = t->nin;
    append(t, clocks, in + behind, xdot + behind, moving ? ~(uint64_t)0 : 0);
    const ode_asking *a =
        ode_asking_record(t->problem, asked->operation, t->token, t->in, t->in + solve, t->out);
    t->asked = a ? &a->asked : NULL;
    return a != NULL;
}
