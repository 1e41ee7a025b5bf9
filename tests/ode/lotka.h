/* Lotka and Volterra's equations, y [rows,2], with their four parameters as an argument. */
#ifndef COSTATE_TESTS_LOTKA_H
#define COSTATE_TESTS_LOTKA_H
#include "ode/ode.h"

static inline ad_var lotka(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)user;
    ad_var p[4], u = ad_slice(y, 1, 0, 1), v = ad_slice(y, 1, 1, 2), uv = ad_mul(u, v);
    for (int i = 0; i < 4; i++) p[i] = ad_slice(args[0], 0, i, i + 1);
    return ad_concatenate(2,
                          (ad_var[]){ ad_sub(ad_mul(p[0], u), ad_mul(p[1], uv)),
                                      ad_sub(ad_mul(p[3], uv), ad_mul(p[2], v)) },
                          1);
}

static const double lotka_p[] = { 1.5, 1, 3, 1 };
#endif
