/* Gradients that are not finite are errors that say where they come from. An adjoint looks at its
 * results once, when it is done; only when one of them is not finite does it run again, in search
 * of the step. */
#include "ode/adjoints/adjoint.h"
#include <stdarg.h>
#include <math.h>
#include <string.h>

bool ode_results_finite(const ode_adjoint_run *run)
{
    const ad_opaque_call *call = run->call;
    for (int i = 0; i < run->plan->nresults; i++)
        if (call->out[i] &&
            ode_first_nonfinite(call->dtype, ode_result_size(call, i), call->out[i]) >= 0)
            return false;
    return true;
}

/* Of a place in the arrays of solutions. */
static double time_of(const ode_adjoint_run *run, int place)
{
    int i = 0;
    while (run->out.place[i] != place) i++;
    return run->out.t[i];
}

bool ode_blame_cotangents(const ode_adjoint_run *run)
{
    const ode_problem *p = run->plan->problem;
    const ad_opaque_call *call = run->call;
    const ode_adjoint_call *c = &run->c;
    const ode_system *s = p->system;
    int64_t ntimes = run->out.places;
    for (int i = 0; i < s->nstate; i++) {
        int64_t bad =
            c->ybar[i] ? ode_first_nonfinite(s->dtype, call->rows * ntimes * s->size[i], c->ybar[i])
                       : -1;
        if (bad < 0) continue;
        int64_t row = bad / (ntimes * s->size[i]), time = bad / s->size[i] % ntimes;
        char state[32] = "";
        if (s->nstate > 1) snprintf(state, sizeof state, " of state %d", i);
        snprintf(call->error, call->error_size,
                 "the derivative of the loss by the solution is not finite (%g) at t = %.15g in "
                 "row %lld, component %lld%s; what is computed "
                 "from the solution is at fault, not the solve",
                 fabs(ode_load(s->dtype, c->ybar[i], bad)), time_of(run, (int)time), (long long)row,
                 (long long)(bad % s->size[i]), state);
        return true;
    }
    return false;
}

bool ode_name_nonfinite(const ode_adjoint_run *run, const void *state, bool times, char *text,
                        size_t size)
{
    const ode_problem *p = run->plan->problem;
    const ad_opaque_call *call = run->call;
    const ode_adjoint_call *c = &run->c;
    void *const *shared = run->shared_bar;
    const ode_system *s = p->system;
    int64_t bad = state ? ode_first_nonfinite(s->dtype, call->rows * s->width, state) : -1;
    if (bad >= 0) {
        char where[96];
        ode_where(s, call->rows, bad, where, sizeof where);
        snprintf(text, size, "by the state, %s", where);
        return true;
    }
    for (int i = 0; i < s->nargs; i++) {
        if (!c->argbar[i] || !ad_has_rows(s->arg[i])) continue;
        bad = ode_first_nonfinite(s->dtype, ad_count(s->arg[i], call->rows), c->argbar[i]);
        if (bad < 0) continue;
        ode_name_row_argument(s, i, bad, text, size);
        return true;
    }
    for (int i = 0; i < s->nshared; i++) {
        bad = shared[i] ? ode_first_nonfinite(s->dtype, ad_count(s->shared[i], 1), shared[i]) : -1;
        if (bad < 0) continue;
        ode_name_shared(s, i, run->plan->need, bad, text, size);
        return true;
    }
    for (int j = 0; times && j < p->ntimes; j++) {
        if (isfinite(run->times_bar[j])) continue;
        snprintf(text, size, "by times[%d]", j);
        return true;
    }
    for (int i = 0; times && c->askedbar[0] && i < run->out.n; i++) {
        if (isfinite(run->out.bar[i])) continue;
        snprintf(text, size, "by the asked times[%d]", run->out.place[i]);
        return true;
    }
    return false;
}

int ode_call_fail(const ad_opaque_call *call, const char *reason)
{
    snprintf(call->error, call->error_size, "%s", reason);
    return -1;
}

int ode_call_doubt(const ad_opaque_call *call, const char *format, ...)
{
    const bool warns = call->warning;
    if (warns && call->warning[0]) return 0;
    va_list args;
    va_start(args, format);
    vsnprintf(warns ? call->warning : call->error, call->error_size, format, args);
    va_end(args);
    return warns ? 0 : -1;
}

int ode_blame_arguments(const ode_adjoint_run *run)
{
    const ode_system *s = run->plan->problem->system;
    const ad_opaque_call *call = run->call;
    const ode_adjoint_call *c = &run->c;
    for (int i = 0; i < s->nargs; i++) {
        int64_t bad = c->argbar[i] ? ode_first_nonfinite(s->dtype, ad_count(s->arg[i], call->rows),
                                                         c->argbar[i])
                                   : -1;
        if (bad < 0) continue;
        snprintf(call->error, call->error_size,
                 "the gradient by argument %d, element %lld, is not finite, though those by all "
                 "states are; what the field computes from "
                 "this argument alone has no finite derivative there, or its sum over the solve is "
                 "beyond the range of the type",
                 i, (long long)bad);
        return -1;
    }
    return ode_call_fail(call, "the gradient by the initial state or by times is not finite");
}
