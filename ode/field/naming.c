/* Parts of a system by name, for messages. */
#include "ode/field/system.h"

void ode_where(const ode_system *s, int64_t rows, int64_t element, char *text, size_t size)
{
    int j = 0;
    while (j + 1 < s->nstate && element >= rows * s->size[j]) element -= rows * s->size[j++];
    int used = snprintf(text, size, "row %lld, component %lld", (long long)(element / s->size[j]),
                        (long long)(element % s->size[j]));
    if ((s->nstate == 1 && !s->base) || used < 0 || (size_t)used >= size) return;
    text += used;
    size -= (size_t)used;
    if (s->primal) {
        int states = ode_system_root(s)->nstate;
        const char *what = j < states ? "the state" : "a tangent of the state";
        if (states == 1) snprintf(text, size, " of %s", what);
        else snprintf(text, size, " of %s %d", what, j % states);
        return;
    }
    int costates = s->base ? s->base->nstate : 0; /* of an augmented system, before its states */
    int own = s->base ? costates : s->nstate;
    if (j < costates)
        snprintf(text, size,
                 own > 1 ? " of the gradient by state %d" : " of the gradient by the state", j);
    else if (s->last && j == s->nstate - 1) snprintf(text, size, " of %s", s->last);
    else snprintf(text, size, own > 1 ? " of state %d" : " of the state", j - costates);
}

bool ode_is_derivative(const ode_system *s, int64_t rows, int64_t element)
{
    int j = 0;
    while (j + 1 < s->nstate && element >= rows * s->size[j]) element -= rows * s->size[j++];
    if (s->primal) return j >= ode_system_root(s)->nstate;
    return s->base && j < s->base->nstate;
}

void ode_name_shared(const ode_system *s, int shared, uint64_t need, int64_t element, char *text,
                     size_t size)
{
    int first = 0;
    while (first < ODE_MAX_ARGS - 1 && !(s->shared_from[shared] & need & (uint64_t)1 << first))
        first++;
    const char *what = s->rerecord ? "by argument %d, element %lld"
                                   : "by what is computed from argument %d alone, element %lld";
    snprintf(text, size, what, first, (long long)element);
}

void ode_name_row_argument(const ode_system *s, int argument, int64_t element, char *text,
                           size_t size)
{
    int64_t row = ad_row_size(s->arg[argument]);
    snprintf(text, size, "by argument %d, row %lld, element %lld", argument,
             (long long)(element / row), (long long)(element % row));
}

bool ode_name_quadrature(const ode_system *s, int64_t rows, const void *increment, char *text,
                         size_t size)
{
    const char *at = increment;
    for (int q = 0; q < s->nquad; q++) {
        int64_t n = ad_count(s->quad[q], rows), bad = ode_first_nonfinite(s->dtype, n, at);
        at += (size_t)n * ode_bytes(s->dtype);
        if (bad < 0) continue;
        if (q < s->nquad_row) ode_name_row_argument(s, s->row[s->quad_of[q]], bad, text, size);
        else ode_name_shared(s, s->quad_of[q], s->need, bad, text, size);
        return true;
    }
    return false;
}
