/* Internal: diffusions, what stochastic systems have beside their drift. */
#ifndef ODE_DIFFUSION_H
#define ODE_DIFFUSION_H
#include "ode/sde.h"

typedef enum { ODE_NOISE_NONE, ODE_NOISE_DIAGONAL, ODE_NOISE_GENERAL } ode_noise_kind;
/* Kinds of noise that a method takes, a bit each. */
enum {
    ODE_TAKES_ADDITIVE = 1,
    ODE_TAKES_SCALAR = 2,
    ODE_TAKES_DIAGONAL = 4,
    ODE_TAKES_COMMUTATIVE = 8, /* general noise that commutes, as the options say */
    ODE_TAKES_GENERAL = 16,
    ODE_TAKES_ALL = 31,
    ODE_TAKES_COMMUTING =
        ODE_TAKES_ADDITIVE | ODE_TAKES_SCALAR | ODE_TAKES_DIAGONAL | ODE_TAKES_COMMUTATIVE,
    ODE_TAKES_LANGEVIN = 32 /* that of the underdamped Langevin equation, on velocities alone */
};

/* The noise of a system. */
typedef struct {
    ode_noise_kind kind; /* none: an ordinary equation */
    bool additive;
    bool langevin;   /* the system is an underdamped Langevin equation (sde_langevin) */
    int64_t m;       /* Brownian motions of a row */
    unsigned states; /* that have noise, a bit each */
} ode_noise_of;
/* The kinds of noise that it counts as, a bit each. */
unsigned ode_noise_kinds(const ode_noise_of *noise, bool commutative);
const char *ode_noise_name(const ode_noise_of *noise); /* "diagonal" */

/* A diffusion as it was recorded: g by state, and all that it may depend on. */
typedef struct {
    ad_var t;
    const ad_var *y, *args, *g;
    int nargs;
} ode_diffusion_at;
/* What drives a system over a step: dy/ds = f h + g w, s in [0,1]; w [rows,m]. */
typedef struct {
    ad_var h, w;
} ode_driving;

#endif
