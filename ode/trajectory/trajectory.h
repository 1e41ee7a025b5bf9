/* Internal: trajectories, the accepted steps of a forward solve as an object.
 *
 * A trajectory has n steps between n + 1 boundaries. It is filled by a march, step by step, and
 * lent to whoever looks at the solve afterwards: adjoints, dense output. What it stores is its
 * policy, which follows from what the solve's adjoint needs and from a budget in bytes; who asks
 * for what is not stored gets NULL and computes it again. */
#ifndef ODE_TRAJECTORY_H
#define ODE_TRAJECTORY_H
#include "ode/trajectory/problem.h"

/* What is to be stored. */
typedef struct {
    bool states;                    /* at the boundaries, with what the method carries */
    size_t carried;                 /* bytes of that in a step; 0: nothing */
    bool boundaries;                /* times of the steps, where no states are stored too */
    bool magnitudes;                /* the largest |y| of each element, over all boundaries */
    int64_t states_bytes;           /* for states: where they need more, none are stored. 0: any */
    const ode_residuals *residuals; /* of evaluations, for VJPs of the steps; NULL: none */
    size_t numbers;                 /* bytes of a step's part of a Brownian path */
    int64_t residuals_bytes;        /* for residuals and numbers: the first steps have them */
    bool dense;                     /* steps evaluate the stages of dense output too */
    int64_t most_bytes;             /* of all that is stored; 0: no limit */
} ode_trajectory_policy;

typedef struct {
    const ode_system *system;
    const ode_method *method;
    ode_trajectory_policy policy;
    int64_t rows;
    bool stores;        /* states: as the policy has it, unless they were too many */
    int64_t count;      /* steps stored */
    size_t kept_stage;  /* bytes of the residuals of an evaluation inside a step */
    int64_t kept_limit; /* steps 0 .. kept_limit - 1 have residuals */
    ode_buffer bounds;  /* ode_boundary [count + 1] */
    ode_pile states, carries, kept;
    ode_buffer largest; /* magnitudes, in the system's type */
} ode_trajectory;

/* Begins anew: the memory of the first state, which the caller fills before the first step. NULL:
 * out of memory. */
void *ode_trajectory_begin(ode_trajectory *tr, const ode_system *system, const ode_method *method,
                           const ode_trajectory_policy *policy, int64_t rows);
void ode_trajectory_start(ode_trajectory *tr, const ode_boundary *first);
/* Memory for the state after step k; of what is not stored, two take turns. NULL: out of memory. */
void *ode_trajectory_next(ode_trajectory *tr, int64_t k);
/* Step k has ended at b, in state next; carried: what the method carried into it (or NULL). false:
 * out of memory. */
bool ode_trajectory_add(ode_trajectory *tr, int64_t k, const ode_boundary *b, const void *carried,
                        const void *next);
void ode_trajectory_rewind(ode_trajectory *tr, int64_t k); /* forgets step k and all after it */
void ode_trajectory_end(ode_trajectory *tr); /* gives back memory that is not needed */
void ode_trajectory_close(ode_trajectory *tr);

/* Boundary k, 0 <= k <= count. */
const ode_boundary *ode_trajectory_boundary(const ode_trajectory *tr, int64_t k);
/* The state there, and what the method carried into step k (of a method that carries something). */
void *ode_trajectory_state(ode_trajectory *tr, int64_t k);
void *ode_trajectory_carried(ode_trajectory *tr, int64_t k);
/* Residuals of stage i of step k; NULL: not kept. The stage after the last is the first of the next
 * step. */
void *ode_trajectory_kept(ode_trajectory *tr, int64_t k, int i);
/* Numbers of the Brownian path over step k; NULL: not kept. */
void *ode_trajectory_numbers(ode_trajectory *tr, int64_t k);
size_t ode_trajectory_bytes(const ode_trajectory *tr); /* stored */
/* What one with this policy holds in memory after n steps, before it is filled; -1: more than can
 * be counted. each: how much more each further step takes. */
int64_t ode_trajectory_needs(const ode_system *system, const ode_method *method,
                             const ode_trajectory_policy *policy, int64_t rows, int64_t n,
                             int64_t *each);
/* Whether n steps are within the policy's limit. */
bool ode_trajectory_fits(const ode_trajectory *tr, int64_t n);
/* How many first steps have room for residuals. */
int64_t ode_trajectory_keeps(const ode_system *system, const ode_method *method,
                             const ode_trajectory_policy *policy, int64_t rows);

#endif
