/* Arrays of outputs, and the method's interpolant between the ends of a step. */
#include "ode/trajectory/outputs.h"
#include <string.h>

void ode_output_put(const ode_problem *p, int64_t rows, const void *part, int state, int j,
                    void *to)
{
    size_t bytes = (size_t)p->system->size[state] * ode_bytes(p->system->dtype);
    size_t n = p->final_only ? 1 : (size_t)p->ntimes, at = p->final_only ? 0 : (size_t)j;
    if (n == 1) {
        memcpy(to, part, (size_t)rows * bytes);
        return;
    }
    for (size_t r = 0; r < (size_t)rows; r++)
        memcpy((char *)to + (r * n + at) * bytes, (const char *)part + r * bytes, bytes);
}

void ode_output_add(const ode_problem *p, int64_t rows, const void *from, int state, int j,
                    void *part)
{
    int64_t size = p->system->size[state];
    ad_dtype dtype = p->system->dtype;
    size_t bytes = (size_t)size * ode_bytes(dtype), n = p->final_only ? 1 : (size_t)p->ntimes,
           at = p->final_only ? 0 : (size_t)j;
    if (n == 1) {
        ode_add(dtype, rows * size, from, part);
        return;
    }
    for (size_t r = 0; r < (size_t)rows; r++)
        ode_add(dtype, size, (const char *)from + (r * n + at) * bytes, (char *)part + r * bytes);
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
