/* For builds without ADOL-C. */
#include "peers.h"

bool gb_adolc_start(const gb_case *c, const char *program)
{
    (void)c, (void)program;
    return false;
}

void gb_adolc_run(const gb_case *c, const char *program, double *value, double *derivative)
{
    (void)c, (void)program, (void)value, (void)derivative;
}
