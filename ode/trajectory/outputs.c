/* Arrays of outputs. */
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

ad_shape ode_shape_of_solution(const ode_problem *p, int state)
{
    ad_shape s = p->system->state[state];
    return p->final_only ? s : ode_shape_at_times(s, p->ntimes);
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
