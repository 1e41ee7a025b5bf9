/* Internal: how far a cotangent turns in a step, as a sign of steps that are too large for it.
 *
 * Where a step is a radian or more of an oscillation, the gradient along it is wrong, though the
 * method is stable and the state, which may not oscillate at all, is right. The watch of the
 * forward solve looks for such modes now and then, and finds the steepest; the way back sees each
 * step, in the direction that matters: there the cotangent's change turns by the angle by which the
 * oscillation does. It costs no evaluation. */
#ifndef ODE_TURNING_H
#define ODE_TURNING_H
#include "ode/adjoints/adjoint.h"

enum { ODE_TURNING_ANGLES = 64 };
typedef struct {
    const ode_system *system; /* NULL: not looked at */
    int64_t rows, stride;     /* that are looked at: one in so many of the call's */
    int known;                /* changes in a row that were seen, going back */
    double h;                 /* size of the step of the last one */
    double fading;            /* part of the cotangent's size that still counts a step on */
    bool has_errors;
    double held;                      /* growth of a cotangent in a step that says nothing */
    double error[ODE_TURNING_ANGLES]; /* that the method makes of an oscillation in a step */
    /* The cotangent of the run as it is, where it was largest so far with what it was after faded:
     * at that time. In the run with steps halved, by what part it is another one there. */
    double largest, largest_at, apart;
    bool halved;
    ode_buffer change, by_row, at_largest;
} ode_turning;

/* For the run, if its solve is such. 0, or -1 with the call's error written. */
int ode_turning_open(ode_turning *turning, const ode_adjoint_run *run);
/* After a step back from time `to` to `from`, over which the state's cotangent, of all the rows,
 * went from `later` to `earlier`. inside: the cotangents of outputs inside it, which came to the
 * former; NULL: there are none. Of a step with such only growth tells. */
void ode_turning_pass(ode_turning *turning, int64_t rows, double from, double to, const void *later,
                      const void *inside, const void *earlier);
/* At the first time: about the relative error of the gradient that this stands for, all rows
 * together; envelope: the size of the cotangent there, or of the oscillation that it is in; apart:
 * in a run with steps halved, by what part the cotangent differs from that of the run before where
 * that oscillation was largest. */
double ode_turning_error(const ode_turning *turning, double *envelope, double *apart);
void ode_turning_close(ode_turning *turning);
/* Adds what it holds to the account of a run. */
void ode_turning_account(const ode_adjoint_plan *plan, ad_opaque_account *account);

#endif
