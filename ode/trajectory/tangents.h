/* Internal: tangents of solves. */
#ifndef ODE_TANGENTS_H
#define ODE_TANGENTS_H
#include "ode/trajectory/asked.h"

/* A recorded solve of states and their tangents, or an asking for those: its operands, and its
 * solutions, those of the states first and then as many tangents. */
typedef struct {
    ode_problem *problem;   /* the operation's */
    ad_var token;           /* of the solve */
    const ode_asked *asked; /* NULL: at the solve's times; the operation's */
    int nin;
    ad_var in[ODE_MAX_OPERANDS], out[ODE_MAX_JOINT];
} ode_tangents;
/* Records it for the solve with this token and operands, in the direction xdot (by operand;
 * invalid: none), the JVP rule of solves; or, of askings, with `asked` and the asked times behind
 * the operands. false with the tape's error set. */
bool ode_tangents_record(ode_problem *p, const ode_asked *asked, ad_var token, const ad_var *in,
                         const ad_var *xdot, ode_tangents *t);

#endif
