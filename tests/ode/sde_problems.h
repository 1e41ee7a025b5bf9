/* Stochastic equations for tests, one for each kind of noise. */
#ifndef COSTATE_TESTS_SDE_PROBLEMS_H
#define COSTATE_TESTS_SDE_PROBLEMS_H
#include "costate.h"

enum { SDE_WIDTH = 3, SDE_MOTIONS = 2 };

/* args: a [3] and b [3] shared, c [rows,3]. */
static inline ad_var sde_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var pull = ad_mul(args[0], ad_sub(ad_sin(t), y));
    return ad_add(pull, ad_scale(ad_tanh(ad_mul(args[2], y)), 0.5));
}

static inline ad_var sde_diagonal(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var size = ad_add(ad_scalar(t.tape, 0.3), ad_scale(ad_square(ad_sin(y)), 0.2));
    return ad_mul(ad_mul(args[1], args[2]), size);
}

static inline ad_var sde_additive(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user, (void)y;
    return ad_mul(args[1], ad_shift(ad_scale(ad_cos(t), 0.3), 1));
}

/* [rows,3,1] */
static inline ad_var sde_scalar(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var g = sde_diagonal(t, y, args, user);
    return ad_reshape(g, AD_SHAPE(AD_ROWS, SDE_WIDTH, 1));
}

/* [rows,3,2], whose columns do not commute. */
static inline ad_var sde_general(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var first = sde_diagonal(t, y, args, user);
    ad_var turned = ad_concatenate(2, (ad_var[]){ ad_slice(y, 1, 1, 3), ad_slice(y, 1, 0, 1) }, 1);
    ad_var second = ad_mul(args[1], ad_scale(ad_cos(turned), 0.2));
    return ad_stack(2, (ad_var[]){ first, second }, 2);
}

typedef struct {
    const char *name;
    ode_field diffusion;
    unsigned kinds; /* a method that takes one of these (ODE_TAKES_...) takes it */
    int motions;
} sde_noise_case;
enum { SDE_NOISES = 4 };
#define SDE_NOISE_CASES                                                                            \
    {                                                                                              \
        { "additive", sde_additive, ODE_TAKES_ADDITIVE | ODE_TAKES_DIAGONAL, SDE_WIDTH },          \
            { "diagonal", sde_diagonal, ODE_TAKES_DIAGONAL, SDE_WIDTH },                           \
            { "scalar", sde_scalar, ODE_TAKES_SCALAR | ODE_TAKES_GENERAL, 1 },                     \
            { "general", sde_general, ODE_TAKES_GENERAL, SDE_MOTIONS },                            \
    }

#endif
