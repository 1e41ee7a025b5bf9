/* Internal: Newton's method for the stages of implicit steps, row by row. */
#ifndef ODE_NEWTON_H
#define ODE_NEWTON_H
#include "ode/methods/linear.h"
#include "ode/step/unit.h"

/* The memory of Newton's method, shared by the stages of a step and kept from step to step. All
 * zero: empty. */
typedef struct {
    ode_runner field, jacobian;
    int64_t rows;         /* what follows is for so many */
    ode_buffer z, f;      /* where the field is evaluated, and what it gives: state by state */
    ode_buffer jacobians; /* as evaluated last, [rows,width,width] */
    ode_buffer kept;      /* those that the factors were made from */
    ode_buffer factors, pivots;
    ode_buffer k, guess, base, update; /* [rows,width] in double */
    ode_buffer state;                  /* of each row */
} ode_newton_work;
void ode_newton_close(ode_newton_work *work);

/* One equation k = f(t, base + g k) for each row. */
typedef struct {
    const ode_system *system;
    const ode_unit *field, *jacobian;
    ode_newton limits;
    /* Steps whose size an error chooses: a row that does not converge is a result (k is NaN), and
     * `weight` holds the error that is allowed in each element of base + g k. Other steps: a row
     * that does not converge is an error, and limits.tolerance counts. */
    bool controlled;
    bool first; /* the first stage of a step */
    bool reuse; /* factors of the steps before may be used */
    double g;
} ode_newton_problem;

typedef enum {
    ODE_NEWTON_FINE,
    ODE_NEWTON_SLOW,       /* it does not converge, or not fast enough */
    ODE_NEWTON_FIELD,      /* the field is not finite */
    ODE_NEWTON_DERIVATIVE, /* its Jacobian is not */
    ODE_NEWTON_SINGULAR,   /* the matrix I - g J is singular */
    ODE_NEWTON_BEFORE      /* an earlier stage of the row had failed */
} ode_newton_end;

/* Counted by a solve: runs of the Jacobian and of the field for the whole batch, factorisations of
 * single rows. failed: the first row that failed, or -1, and how. */
typedef struct {
    int64_t jacobians, factorisations, iterations, failed;
    ode_newton_end end;
} ode_newton_counts;

/* Adds what its memory holds to the account, which says for how many rows. */
void ode_newton_account(const ode_newton_problem *problem, ad_opaque_account *account);
/* Memory and programs for so many rows; inputs of the programs from the operands of the call. 0, or
 * -1 with the call's error written. */
int ode_newton_open(ode_newton_work *work, const ode_newton_problem *problem,
                    const ad_opaque_call *call, const void *t, const void *const *row,
                    const void *const *shared);
/* Finds work->k, from the first guess there and from work->base and work->weight. 0, or -1 with the
 * call's error written. */
int ode_newton_find(ode_newton_work *work, const ode_newton_problem *problem,
                    const ad_opaque_call *call, ode_newton_counts *counts);
/* x [rows,width] becomes (I - g J)^{-1} x, or with the transpose. With the Jacobian at work->z, or
 * with the factors that are there (which every row of a finished step has). A row for which there
 * is no solution is an error, or of a controlled step NaN. 0, or -1 with the call's error written.
 */
int ode_newton_solve(ode_newton_work *work, const ode_newton_problem *problem,
                     const ad_opaque_call *call, bool transposed, double *x);
void ode_newton_solve_kept(const ode_newton_work *work, const ode_system *system, double *x);

#endif
