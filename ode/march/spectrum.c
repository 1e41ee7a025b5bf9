/* All modes of a small system, and the outer ones of a larger one.
 *
 * A power iteration (modes.c) finds the steepest mode. Implicit steps are chosen far beyond it,
 * which is gone at the first output, and may damp to nothing what it hides: an oscillation that is
 * less steep, of which the derivative keeps all. The method's Jacobian is there, and of a few
 * components its eigenvalues cost no more than a step. Explicit steps within the limit of stability
 * of the steepest mode may put such an oscillation wrong, too. For them the Jacobian is taken where
 * the steepest mode is steep enough to hide one; two iterations tell both modes of two components.
 * Of more components it is looked at on a few directions (krylov.c). */
#include "ode/march/watch.h"
#include "ode/methods/linear.h"
#include <string.h>

/* Components of a row, at most: for a few directions to show what there is; and by explicit
 * methods, at least. */
enum { MOST_WIDTH = 128, LEAST_EXPLICIT = 3 };

ode_spectrum_source ode_spectrum_of(const ode_system *s, const ode_method *method)
{
    bool implicit = ode_method_has(method, ODE_METHOD_IMPLICIT),
         looked =
             implicit || (s->trace && s->rows != AD_ROWS_COUPLED && s->width >= LEAST_EXPLICIT);
    if (s->ngiven || !looked || s->width > MOST_WIDTH) return ODE_NO_SPECTRUM;
    return s->width <= ODE_KRYLOV ? ODE_JACOBIAN : ODE_DIRECTIONS;
}

/* The Jacobians of the rows that are picked at time t. 1; 0: one is not finite; -1 with the march's
 * error written.
 */
static int find_jacobians(ode_march *m, double t, int side, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    ode_runner *r = &w->jacobian;
    char text[ODE_ERROR_SIZE];
    if (ode_runner_open(r, w->jacobian_unit, m->threads, m->error, m->error_size)) return -1;
    if (w->picked < m->rows) {
        const size_t one = ode_bytes(s->dtype);
        for (ode_run c = ode_first_run(m); c.j < s->nstate; ode_next_run(m, &c))
            memcpy((char *)w->moved.data + (size_t)c.part * one,
                   (const char *)y + (size_t)c.at * one, (size_t)c.n * one);
        y = w->moved.data;
    }
    double number = 0;
    ode_store(s->dtype, &number, 0, ode_time_beside(s->dtype, t, side));
    *ode_runner_in(r, ODE_VALUE, ODE_PORT_TIMES) = &number;
    ode_runner_read(r, ODE_VALUE, ODE_PORT_STATE, w->picked, y);
    ode_runner_write(r, ODE_VALUE, ODE_PORT_DERIVATIVE, w->picked, w->slope.data);
    *ode_runner_out(r, ODE_VALUE, ODE_PORT_ROOT_JACOBIAN) = w->jacobians.data;
    ode_runner_arguments(r, ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_ROW),
                         ode_runner_in(&m->step, ODE_VALUE, ODE_PORT_SHARED));
    if (w->picked < m->rows) ode_point_at_picked(m, r);
    if (ode_runner_run(r, w->picked, text, sizeof text))
        return ode_fail(m, ODE_FAILED, "at t = %.15g: %s", t, text);
    bool implicit = ode_method_has(m->method, ODE_METHOD_IMPLICIT);
    m->counts[0] += implicit;
    ode_count_picked(m, implicit ? 1 : 1 + s->width);
    return ode_first_nonfinite(s->dtype, w->picked * s->width * s->width, w->jacobians.data) < 0;
}

int ode_find_in_spectrum(ode_march *m, const ode_boundary *a, int direction, const void *y,
                         double h, double complex *found)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    if (w->spectrum == ODE_NO_SPECTRUM || w->picked > w->most_picked) return 0;
    int there = w->spectrum == ODE_JACOBIAN ? find_jacobians(m, a->t, a->jump ? direction : 0, y)
                                            : ode_project_jacobians(m, a, direction, y);
    if (there <= 0) return there;
    const int64_t n = ode_krylov_size(s);
    bool (*find)(int64_t, double *, double *, double *, double *) =
        w->spectrum == ODE_JACOBIAN ? ode_matrix_eigenvalues : ode_hessenberg_eigenvalues;
    double matrix[ODE_KRYLOV * ODE_KRYLOV], real[ODE_KRYLOV], imaginary[ODE_KRYLOV],
        work[ODE_EIGENVALUES_WORK * ODE_KRYLOV], most = 0;
    *found = w->steepest = 0;
    w->all = true;
    for (int64_t r = 0; r < w->picked; r++) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < n; k++)
                matrix[k * n + i] =
                    direction * ode_load(s->dtype, w->jacobians.data, (r * n + i) * n + k);
        if (!find(n, matrix, real, imaginary, work)) continue;
        for (int64_t i = 0; i < n; i++) {
            if (imaginary[i] < 0) continue; /* of two that are conjugate one is enough */
            double complex mode = real[i] + I * imaginary[i];
            double strain = ode_excess(m, mode, h);
            w->steepest = fmax(w->steepest, cabs(mode));
            if (!(strain > most)) continue;
            most = strain;
            *found = mode;
        }
    }
    return 1;
}
