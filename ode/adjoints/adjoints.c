/* The adjoints that there are. */
#include "ode/adjoints/adjoint.h"
#include <string.h>

static const ode_adjoint *const all[] = { &ode_discrete, &ode_interpolating, &ode_backsolve,
                                          &ode_reversible, NULL };

const ode_adjoint *const *ode_adjoints(void) { return all; }
const char *ode_adjoint_name(const ode_adjoint *a) { return a ? a->name : "no adjoint"; }
const char *ode_adjoint_about(const ode_adjoint *a) { return a ? a->about : "no adjoint (NULL)"; }

const ode_adjoint *ode_adjoint_find(const char *name)
{
    for (int i = 0; name && all[i]; i++)
        if (!strcmp(all[i]->name, name)) return all[i];
    return NULL;
}
