/* Internal: ports, the inputs and outputs of units by name.
 *
 * A unit is a function of a system that runs on arrays: the field, a step, the VJP of a step. Its
 * arrays are listed once, in ports.def. A port is a group of arrays with one name (the states, the
 * times of all evaluations); from the table follow the shapes of a unit's inputs and outputs, their
 * order, and where in the lists each port begins. The layout of a derivative is not written but
 * derived: of a VJP, the inputs are those of the unit and the cotangents of its differentiable
 * outputs, the outputs are the cotangents of its differentiable inputs; of a JVP likewise with
 * tangents. Which arrays take part is for the key to say (arguments in `need`, times with
 * ODE_TIMES). */
#ifndef ODE_PORTS_H
#define ODE_PORTS_H
#include "ode/step/step.h"

typedef enum {
    ODE_UNIT_FIELD,
    ODE_UNIT_BEGIN,
    ODE_UNIT_STEP,
    ODE_UNIT_PROLOGUE,      /* shared values from shared arguments */
    ODE_UNIT_ROOT,          /* the field and its Jacobian, for Newton's method */
    ODE_UNIT_TANGENT,       /* how a step changes with state and arguments */
    ODE_UNIT_FIELD_TANGENT, /* how the field does */
    ODE_UNIT_KINDS
} ode_unit_kind;

/* What a tangent gives, [rows] each: sums of squares in units of the tolerance, of the change of
 * the result and of the error estimate with the state, of the direction itself, and of both changes
 * with the arguments. Of the elements that are chosen, then of the others. */
enum {
    ODE_TANGENT_STATE,
    ODE_TANGENT_STATE_ERROR,
    ODE_TANGENT_STATE_START,
    ODE_TANGENT_ARGUMENTS,
    ODE_TANGENT_ARGUMENTS_ERROR,
    ODE_TANGENT_SUMS,
    ODE_TANGENTS = 2 * ODE_TANGENT_SUMS
};
/* What a tangent of the field gives of the elements that are chosen, [rows] each, in units of the
 * tolerance: the largest element of J J d, d the direction and J the field's Jacobian by the state;
 * sums of squares of d, of the derivatives' changes with the arguments, and of how these change
 * along d (with ODE_FORCE_CHANGE). */
enum {
    ODE_TANGENT_SECOND,
    ODE_TANGENT_DIRECTION,
    ODE_TANGENT_FORCE,
    ODE_TANGENT_FORCE_CHANGE,
    ODE_FIELD_TANGENTS
};

typedef enum { ODE_ITSELF, ODE_VJP, ODE_JVP } ode_derivative;

enum {
    ODE_ESTIMATE = 1,
    ODE_DENSE = 2,
    ODE_TIMES = 4, /* derivatives by times and the size of the step too */
    ODE_QUADRATURE = 8,
    ODE_QUADRATURE_NORM = 16,
    ODE_EACH = 32,
    ODE_STABILITY = 64,    /* with the estimate of the error, that of |lambda| */
    ODE_FORCE_CHANGE = 128 /* a field's tangent: that sum too */
};

typedef enum {
#define ODE_PORT(name, ...) ODE_PORT_##name,
#include "ode/step/ports.def"
#undef ODE_PORT
    ODE_PORTS
} ode_port;
_Static_assert(ODE_PORTS <= 64, "a set of ports is a uint64_t");
static inline uint64_t ode_port_bit(ode_port port) { return (uint64_t)1 << port; }

typedef struct {
    ode_unit_kind kind;
    ode_derivative derivative;
    int flags;
    const ode_method *method;
    uint64_t need;   /* arguments that derivatives are wanted by */
    uint64_t values; /* of a derivative: ports whose values it gives as well, a bit set */
    ode_newton newton;
    /* NULL, or a step or field that delivers them, a VJP of a step that is given them */
    const ode_residuals *residuals;
} ode_unit_key;

/* A port is there as itself, as cotangents, as tangents. */
typedef enum { ODE_VALUE, ODE_BAR, ODE_DOT, ODE_ROLES } ode_role;

/* Where arrays of a port are in the list of inputs or of outputs. */
typedef struct {
    int first, count;
    bool output;
} ode_place;

typedef struct {
    int nin, nout;
    ad_shape *in, *out;
    bool *parameter; /* of inputs: constant during a solve */
    ode_place at[ODE_ROLES][ODE_PORTS];
} ode_layout;

/* Lays out a unit itself, or as its key says, its derivative. false: out of memory. */
bool ode_layout_make(ode_layout *layout, const ode_system *system, const ode_unit_key *key);
void ode_layout_clear(ode_layout *layout);
/* Whether cotangents and tangents pass through a port; whether it is an input of units of a kind,
 * where it is not absent. */
bool ode_port_differentiable(ode_port port);
bool ode_port_is_input(ode_unit_kind kind, ode_port port);
/* How many arrays a group of a port has. */
int ode_port_arrays(const ode_system *system, const ode_unit_key *key, ode_port port, int group);
/* Whether array i of a port takes part in the derivatives that the key asks for. */
bool ode_port_needed(const ode_system *system, const ode_unit_key *key, ode_port port, int i);
/* The evaluation whose residuals come first in ODE_PORT_KEPT: not one that is carried. */
static inline int ode_first_kept(const ode_unit_key *key)
{
    return key->kind == ODE_UNIT_STEP && key->flags & ODE_ESTIMATE &&
           ode_method_has(key->method, ODE_METHOD_FSAL);
}

#endif
