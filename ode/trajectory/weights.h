/* Internal: weights of dense output, with their tangents. */
#ifndef ODE_WEIGHTS_H
#define ODE_WEIGHTS_H
#include "ode/march/march.h"

/* Largest number of parts of a system's states (system.h). */
enum { ODE_MAX_PARTS = ODE_MAX_JOINT };

/* At t = a + theta h inside a step of size h from a: y(t) = y + sum_i w_i k_i over the stages, with
 * w_i = h b_i(theta). Of a tangent system whose times move, w has tangents too, and the solution's
 * are those of a product: y^(p)(t) = y^(p) + sum over the subsets q of p of w_i^(q) k_i^(p - q). */
typedef struct {
    int parts, stages; /* parts: 1 where no time moves, however many the states have */
    int64_t cells;     /* of one part of a slot */
    double theta[ODE_MAX_PARTS];
    struct {
        double w[ODE_MAX_STAGES], b[ODE_MAX_STAGES], slope[ODE_MAX_STAGES]; /* b, b' at theta */
    } of[ODE_MAX_PARTS];
} ode_weights;
/* Inside the step from a to e, at the time t[k * stride] by clock k. clock: the output times by
 * each clock, from [1] on. */
void ode_weights_at(ode_weights *w, const ode_method *m, const ode_system *s, int64_t rows,
                    const ode_boundary *a, const ode_boundary *e, const double *const *clock,
                    const double *t, int stride);
/* The solution there, from the state y and the stages k, slots of so many bytes. */
void ode_weights_apply(const ode_weights *w, ad_dtype dtype, const void *y, const void *k,
                       size_t slot, void *out);
/* Adds the cotangents of the stages, from that of the solution there. */
void ode_weights_spread(const ode_weights *w, ad_dtype dtype, const void *bar, void *k_bar,
                        size_t slot);
/* Cotangents of t, a and e by each clock, from that of the solution and the stages. */
typedef struct {
    double t, a, e;
} ode_movement;
void ode_weights_move(const ode_weights *w, const ode_system *s, const void *bar, const void *k,
                      size_t slot, ode_movement *by_clock);

#endif
