/* The Jacobian on the few directions that show its outer modes (Arnoldi 1951,
 * doi:10.1090/qam/42792; Saad, Numerical Methods for Large Eigenvalue Problems, 2011, VI.2).
 *
 * From a random direction v each product J v, a difference of the field beside the state, is made
 * orthogonal to the directions before it, which gives the next one. On these directions J is a
 * small matrix, whose eigenvalues are those of J if the directions are as many as the components,
 * or close to the outermost ones. A power iteration tells no more than the steepest. */
#include "ode/march/watch.h"
#include <string.h>

/* Part of J v that is orthogonal to the directions before it and still tells another one: above the
 * rounding of a difference of the field. Units of components can make it small. */
static double another(ad_dtype dtype) { return dtype == AD_F32 ? 1e-4 : 1e-9; }

int64_t ode_krylov_size(const ode_system *s)
{
    return s->width < ODE_KRYLOV ? s->width : ODE_KRYLOV;
}

/* Vectors are of the rows that are picked. Sums over each row of the products of two, [picked]. */
static void multiply(const ode_march *m, const void *x, const void *y, double *sum)
{
    const ode_system *s = m->system;
    const int64_t rows = m->watch.picked;
    memset(sum, 0, (size_t)rows * sizeof *sum);
    int64_t at = 0;
    for (int j = 0; j < s->nstate; j++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < s->size[j]; i++, at++)
                sum[r] += ode_load(s->dtype, x, at) * ode_load(s->dtype, y, at);
}

/* x := x + c y in each row, or c x where there is no y. */
static void combine(const ode_march *m, void *x, const double *c, const void *y)
{
    const ode_system *s = m->system;
    const int64_t rows = m->watch.picked;
    int64_t at = 0;
    for (int j = 0; j < s->nstate; j++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < s->size[j]; i++, at++) {
                double old = ode_load(s->dtype, x, at);
                ode_store(s->dtype, x, at, y ? old + c[r] * ode_load(s->dtype, y, at) : c[r] * old);
            }
}

/* x := J v in units of the tolerances. As ode_march_field. */
static int differ(ode_march *m, const ode_boundary *a, int direction, const void *y, const void *v,
                  void *x)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    ad_dtype dtype = s->dtype;
    const double size = sqrt((double)s->width); /* of one, on average, in each element */
    for (ode_run c = ode_first_run(m); c.j < s->nstate; ode_next_run(m, &c))
        for (int64_t i = 0; i < c.n; i++) {
            double value = ode_load(dtype, y, c.at + i),
                   most = fmax(fabs(value), ode_load(dtype, w->largest.data, c.at + i));
            ode_store(dtype, w->largest.data, c.at + i, most);
            ode_store(dtype, w->moved.data, c.part + i,
                      value + scale_of(m, c.at + i, most) * size * ode_load(dtype, v, c.part + i));
        }
    int failed =
        ode_march_field_of_picked(m, a->t, a->jump ? direction : 0, w->moved.data, w->slope.data);
    if (failed) return failed;
    for (ode_run c = ode_first_run(m); c.j < s->nstate; ode_next_run(m, &c))
        for (int64_t i = 0; i < c.n; i++) {
            double scale = scale_of(m, c.at + i, ode_load(dtype, w->largest.data, c.at + i)),
                   change = ode_load(dtype, w->slope.data, c.part + i) -
                            ode_load(dtype, m->slope[0].data, c.at + i);
            ode_store(dtype, x, c.part + i, scale > 0 ? change / (scale * size) : 0);
        }
    return 0;
}

/* Makes x a vector of length one in each row, of length 0 where it is not above `least`, [picked].
 * length: what it was. */
static void normalise(const ode_march *m, void *x, const double *least, double *length)
{
    double *factor = (double *)m->watch.rows.data;
    multiply(m, x, x, length);
    for (int64_t r = 0; r < m->watch.picked; r++) {
        length[r] = sqrt(length[r]);
        bool tells = length[r] > (least ? least[r] : 0) && isfinite(length[r]);
        factor[r] = tells ? 1 / length[r] : 0;
        if (!tells) length[r] = 0;
    }
    combine(m, x, factor, NULL);
}

int ode_project_jacobians(ode_march *m, const ode_boundary *a, int direction, const void *y)
{
    ode_watch *w = &m->watch;
    const ode_system *s = m->system;
    const int64_t n = ode_krylov_size(s);
    const int64_t rows = w->picked;
    const size_t slot = (size_t)(rows * s->width) * ode_bytes(s->dtype);
    double *sum = (double *)w->rows.data, *least = sum + rows, *length = least + rows;
    char *basis = w->basis.data;
    int64_t at = 0;
    for (int j = 0; j < s->nstate; j++)
        for (int64_t i = 0; i < rows * s->size[j]; i++, at++)
            ode_store(s->dtype, basis, at, state_weight(s, j, i));
    normalise(m, basis, NULL, length);
    memset(w->jacobians.data, 0, (size_t)(rows * n * n) * ode_bytes(s->dtype));
    for (int64_t k = 0; k < n; k++) {
        char *next = basis + (size_t)(k + 1) * slot;
        int failed = differ(m, a, direction, y, basis + (size_t)k * slot, next);
        if (failed) return failed < 0 ? -1 : 0;
        multiply(m, next, next, least);
        for (int64_t r = 0; r < rows; r++) least[r] = another(s->dtype) * sqrt(least[r]);
        for (int64_t i = 0; i <= k; i++) {
            multiply(m, next, basis + (size_t)i * slot, sum);
            for (int64_t r = 0; r < rows; r++) {
                ode_store(s->dtype, w->jacobians.data, (r * n + i) * n + k, sum[r]);
                sum[r] = -sum[r];
            }
            combine(m, next, sum, basis + (size_t)i * slot);
        }
        normalise(m, next, least, length);
        for (int64_t r = 0; r < rows && k + 1 < n; r++)
            ode_store(s->dtype, w->jacobians.data, (r * n + k + 1) * n + k, length[r]);
    }
    return ode_first_nonfinite(s->dtype, rows * n * n, w->jacobians.data) < 0;
}
