/* Loops over all methods, also those that are still to come. */
#ifndef COSTATE_TESTS_METHODS_H
#define COSTATE_TESTS_METHODS_H
#include "ode/ode.h"

static inline int method_count(void)
{
    int n = 0;
    while (ode_methods()[n]) n++;
    return n;
}

#endif
