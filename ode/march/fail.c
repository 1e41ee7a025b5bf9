/* How a march that cannot go on says so. */
#include "ode/march/march.h"
#include <stdarg.h>

int ode_fail(ode_march *m, ode_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(m->error, m->error_size, format, args);
    va_end(args);
    m->status = status;
    return -1;
}

static const char *const names[] = {
    [ODE_DONE] = "done",
    [ODE_STOPPED] = "stopped",
    [ODE_STEP_TOO_SMALL] = "step too small",
    [ODE_TOO_MANY_STEPS] = "too many steps",
    [ODE_NOT_FINITE] = "not finite",
    [ODE_OUTSIDE_DOMAIN] = "outside the domain",
    [ODE_NEWTON] = "Newton's method failed",
    [ODE_RINGING] = "ringing",
    [ODE_TIME_TOO_COARSE] = "time too coarse",
    [ODE_OUT_OF_MEMORY] = "out of memory",
    [ODE_FAILED] = "failed",
};
_Static_assert(sizeof names / sizeof *names == ODE_STATUSES, "every status has a name");

const char *ode_status_name(ode_status status)
{
    bool known = (unsigned)status < ODE_STATUSES;
    return known ? names[status] : "no such status";
}
