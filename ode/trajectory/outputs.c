/* Arrays of outputs, and the method's interpolant between the ends of a step. */
#include "ode/trajectory/outputs.h"
#include <string.h>

ad_shape ode_shape_at_times(ad_shape state, int ntimes)
{
    ad_shape out = state;
    out.rank = state.rank + 1;
    out.dim[1] = ntimes;
    for (int i = 1; i < state.rank; i++) out.dim[i + 1] = state.dim[i];
    return out;
}

void ode_output_put(const ode_system *s, int64_t rows, const void *part, int state, int n, int at,
                    void *to)
{
    size_t bytes = (size_t)s->size[state] * ode_bytes(s->dtype);
    if (n == 1) {
        memcpy(to, part, (size_t)rows * bytes);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        memcpy((char *)to + (size_t)(r * n + at) * bytes, (const char *)part + (size_t)r * bytes,
               bytes);
}

void ode_output_add(const ode_system *s, int64_t rows, const void *from, int state, int n, int at,
                    void *part)
{
    int64_t size = s->size[state];
    size_t bytes = (size_t)size * ode_bytes(s->dtype);
    if (n == 1) {
        ode_add(s->dtype, rows * size, from, part);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        ode_add(s->dtype, size, (const char *)from + (size_t)(r * n + at) * bytes,
                (char *)part + (size_t)r * bytes);
}

int ode_output_weights(const ode_method *m, const ode_boundary *a, const ode_boundary *b, double t,
                       double *w, double *slope)
{
    double h = b->t - a->t;
    int n = m->dense_stages;
    m->dense(m, (t - a->t) / h, w, slope);
    for (int i = 0; i < n; i++) w[i] *= h;
    return n;
}
