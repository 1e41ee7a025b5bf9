/* Times that a solve is asked for later: the operation recorded; times read, checked, and put in
 * order. */
#include "ode/trajectory/asked.h"
#include "ode/trajectory/interpolant.h"
#include "ode/trajectory/outputs.h"
#include <math.h>
#include <stdlib.h>

/* ---- the operation ---- */

void ode_asking_retain(void *asking) { atomic_fetch_add(&((ode_asking *)asking)->references, 1); }

void ode_asking_release(void *asking)
{
    ode_asking *a = asking;
    if (!a || atomic_fetch_sub(&a->references, 1) != 1) return;
    ode_problem_release(a->problem);
    free(a->asked.times);
    free(a);
}

static ode_asking *new_asking(ode_problem *p, const ad_opaque_class *operation, ad_var times,
                              ad_tape *tape)
{
    int n = (int)ad_shape_of(times).dim[0];
    const double *constant = ad_constant_elements(times);
    bool fill = constant && ad_constant_size(times) < n;
    ode_asking *a = calloc(1, sizeof *a);
    double *t = constant ? malloc((size_t)n * sizeof *t) : NULL;
    if (!a || (constant && !t)) {
        ad_fail(tape, "ode_dense_at: out of memory");
        free(a);
        free(t);
        return NULL;
    }
    for (int i = 0; t && i < n; i++) t[i] = constant[fill ? 0 : i];
    atomic_init(&a->references, 1);
    a->problem = p;
    ode_problem_retain(p);
    a->asked = (ode_asked){ .n = n, .times = t, .operation = operation };
    if (ode_interpolant_compile(&a->units, p, tape)) return a;
    ode_asking_release(a);
    return NULL;
}

const ode_asking *ode_asking_record(ode_problem *p, const ad_opaque_class *operation, ad_var token,
                                    const ad_var *in, const ad_var *times, ad_var *y)
{
    ad_tape *tape = token.tape;
    const ode_system *s = p->system;
    ode_asking *a = new_asking(p, operation, times[0], tape);
    if (!a) return NULL;
    ad_var op[1 + ODE_MAX_OPERANDS];
    ad_shape shapes[ODE_MAX_JOINT];
    int n = 0;
    op[n++] = token;
    for (int i = 0; i < ode_operands(p); i++) op[n++] = in[i];
    for (int i = 0; i < s->nclocks; i++) op[n++] = times[i];
    for (int i = 0; i < s->nstate; i++) shapes[i] = ode_shape_at_times(s->state[i], a->asked.n);
    return ad_valid(ad_opaque(tape, operation, a, n, op, s->nstate, shapes, y)) ? a : NULL;
}

/* ---- times ---- */

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

/* How far t is outside of the interval. Times that are computed in the tape's type may be off by
 * its rounding: those are taken for the end that they have passed. */
static double outside(double *t, double first, double last, ad_dtype dtype)
{
    double least = fmin(first, last), most = fmax(first, last);
    double beyond = fmax(least - *t, *t - most);
    double slack = 2 * ode_type_spacing(dtype, fmax(fabs(first), fabs(last)));
    if (!(beyond <= slack)) return beyond;
    *t = fmin(fmax(*t, least), most);
    return 0;
}

int ode_asked_read(ode_asked_order *order, const ode_asked *asked, const ode_forward *forward,
                   const void *const *times, const ad_opaque_call *call)
{
    const double *solved = forward->times.data;
    double first = solved[0], last = solved[forward->problem->ntimes - 1];
    size_t n = (size_t)asked->n;
    entry *e = ode_buffer_need(&order->entries, n * sizeof *e);
    int clocks = forward->problem->system->nclocks;
    double *t = ode_buffer_need(&order->times, (size_t)clocks * n * sizeof *t);
    int *place = ode_buffer_need(&order->places, n * sizeof *place);
    if (!e || !t || !place) {
        snprintf(call->error, call->error_size, "out of memory");
        return -1;
    }
    for (int i = 0; i < asked->n; i++) {
        double at = asked->times ? asked->times[i] : ode_load(call->dtype, times[0], i);
        double beyond = outside(&at, first, last, call->dtype);
        if (beyond != 0) {
            snprintf(call->error, call->error_size,
                     "times[%d] is %.15g, outside of the interval of the solve, from %.15g to "
                     "%.15g, by %.2g",
                     i, ode_shown(at), first, last, ode_shown(beyond));
            return -1;
        }
        e[i] = (entry){ last < first ? -at : at, i };
    }
    sort(asked->n, e);
    for (int i = 0; i < asked->n; i++) {
        t[i] = last < first ? -e[i].along : e[i].along;
        place[i] = e[i].place;
    }
    for (int k = 1; k < clocks; k++)
        for (int i = 0; i < asked->n; i++)
            t[k * asked->n + i] = ode_load(call->dtype, times[k], place[i]);
    order->t = t;
    order->place = place;
    return 0;
}
