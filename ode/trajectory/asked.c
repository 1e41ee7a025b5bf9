/* Times that a solve is asked for later: read, checked, and put in order. */
#include "ode/trajectory/asked.h"
#include <math.h>

void ode_asked_close(ode_asked_order *order)
{
    ode_buffer_free(&order->entries);
    ode_buffer_free(&order->times);
    ode_buffer_free(&order->places);
}

typedef struct {
    double along; /* how far along the solve */
    int place;
} entry;

/* Shell's sort (1959): in place, and quick where times come in order. */
static void sort(int n, entry *e)
{
    for (int gap = n / 2; gap > 0; gap /= 2)
        for (int i = gap; i < n; i++) {
            entry one = e[i];
            int k = i;
            for (; k >= gap && e[k - gap].along > one.along; k -= gap) e[k] = e[k - gap];
            e[k] = one;
        }
}

/* Times that are computed in the tape's type may be off by its rounding. */
static bool inside(double t, double first, double last, ad_dtype dtype)
{
    double slack = dtype == AD_F32 ? 2 * ode_type_spacing(dtype, fmax(fabs(first), fabs(last))) : 0;
    return t >= fmin(first, last) - slack && t <= fmax(first, last) + slack;
}

int ode_asked_read(ode_asked_order *order, const ode_asked *asked, const ode_forward *forward,
                   const void *times, const ad_opaque_call *call)
{
    const double *solved = forward->times.data;
    double first = solved[0], last = solved[forward->problem->ntimes - 1];
    size_t n = (size_t)asked->n;
    entry *e = ode_buffer_need(&order->entries, n * sizeof *e);
    double *t = ode_buffer_need(&order->times, n * sizeof *t);
    int *place = ode_buffer_need(&order->places, n * sizeof *place);
    if (!e || !t || !place) {
        snprintf(call->error, call->error_size, "out of memory");
        return -1;
    }
    for (int i = 0; i < asked->n; i++) {
        double at = asked->times ? asked->times[i] : ode_load(call->dtype, times, i);
        if (!inside(at, first, last, call->dtype)) {
            snprintf(
                call->error, call->error_size,
                "times[%d] is %.15g, outside of the interval of the solve, from %.15g to %.15g", i,
                ode_shown(at), first, last);
            return -1;
        }
        e[i] = (entry){ last < first ? -at : at, i };
    }
    sort(asked->n, e);
    for (int i = 0; i < asked->n; i++) {
        t[i] = last < first ? -e[i].along : e[i].along;
        place[i] = e[i].place;
    }
    order->t = t;
    order->place = place;
    return 0;
}
