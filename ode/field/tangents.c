/* Tangent systems: a system beside its tangents, so that the tangents of a solve are a solve again.
 *
 * Each array of the primal system (a state, an argument, a shared value, the times) is there as
 * itself and, if it has one, as its tangent: values first, tangents after them, in the same order.
 * There is no field to be traced: units of a tangent system are the primal's units and their JVPs
 * (ode/step/tangents.c). A tangent system has tangent systems too, and so has every order. */
#include "ode/field/system.h"
#include <string.h>

/* Fills in what it is made of. false: out of memory. */
static bool describe(ode_system *s, const ode_system *p)
{
    s->rerecord = p->rerecord;
    s->order = p->order + 1;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < p->nstate; i++) ode_system_add_state(s, p->state[i]);
    s->nargs = p->nargs;
    memcpy(s->arg, p->arg, sizeof s->arg);
    int tangent_of[ODE_MAX_ARGS]; /* by argument of the primal */
    for (int i = 0; i < p->nargs; i++) {
        if (!(s->along >> i & 1)) continue;
        tangent_of[i] = s->nargs;
        s->arg[s->nargs++] = p->arg[i];
    }
    for (int i = 0; i < s->nargs; i++)
        if (ad_has_rows(s->arg[i])) s->row[s->nrow++] = i;
    if (!ode_system_new_shared(s, 2 * p->nshared)) return false;
    s->nshared = p->nshared;
    for (int i = 0; i < p->nshared; i++) {
        s->shared[i] = p->shared[i];
        s->shared_from[i] = p->shared_from[i];
        if (!ode_shared_needed(p, i, s->along)) continue;
        /* A field that is called anew has the arguments themselves for shared values. */
        uint64_t from = p->rerecord ? 0 : p->shared_from[i];
        for (int k = 0; k < p->nargs; k++)
            if ((p->shared_from[i] & s->along) >> k & 1) from |= (uint64_t)1 << tangent_of[k];
        s->shared[s->nshared] = p->shared[i];
        s->shared_from[s->nshared++] = from;
    }
    return true;
}

static void describe_clocks(ode_system *s, const ode_system *p, bool moving)
{
    s->nclocks = p->nclocks;
    memcpy(s->clock, p->clock, sizeof s->clock);
    for (int i = 0; moving && i < p->nclocks; i++)
        s->clock[s->nclocks++] = p->clock[i] | 1 << p->order;
}

/* Whether a tangent system fits; else the tape's error says what is too much. */
static bool fits(const ode_system *p, uint64_t along, bool moving, ad_tape *tape,
                 const char *caller)
{
    int nargs = p->nargs;
    for (int i = 0; i < p->nargs; i++) nargs += along >> i & 1;
    int nclocks = p->nclocks * (moving ? 2 : 1);
    if (2 * p->nstate <= ODE_MAX_JOINT && nargs <= ODE_MAX_ARGS && nclocks <= ODE_MAX_CLOCKS)
        return true;
    ad_fail(tape,
            "%s: a derivative of order %d takes %d arrays of states (at most %d), %d arguments "
            "(at most %d), and times in %d parts (at most %d); concatenate states or arguments, "
            "or take a derivative of a lower order",
            caller, p->order + 1, 2 * p->nstate, ODE_MAX_JOINT, nargs, ODE_MAX_ARGS, nclocks,
            ODE_MAX_CLOCKS);
    return false;
}

static ode_system *make(ode_system *p, uint64_t along, bool moving, ad_tape *tape,
                        const char *caller)
{
    if (!fits(p, along, moving, tape, caller)) return NULL;
    ode_system *s = ode_system_new(p->dtype);
    if (s) s->along = along;
    if (!s || !describe(s, p)) {
        ad_fail(tape, "%s: out of memory", caller);
        ode_system_release(s);
        return NULL;
    }
    describe_clocks(s, p, moving);
    s->primal = p;
    s->next = p->tangents;
    p->tangents = s;
    return s;
}

ode_system *ode_system_tangent(ode_system *p, uint64_t along, bool moving, ad_tape *tape,
                               const char *caller)
{
    ode_system_lock(p);
    ode_system *s = p->tangents;
    while (s && (s->along != along || (s->nclocks > p->nclocks) != moving)) s = s->next;
    if (!s) s = make(p, along, moving, tape, caller);
    ode_system_unlock(p);
    return s;
}
