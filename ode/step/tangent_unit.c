/* Units of tangent systems: a unit of the primal system and its JVP in one. Nothing depends on what
 * kind of unit it is: the table of ports says which arrays there are and which have tangents. */
#include "ode/step/tangent_unit.h"
#include <stdlib.h>
#include <string.h>

/* One array of the primal's unit: where it is in the lists of that and of the tangent system's, and
 * its tangent there (-1: it has none). */
typedef struct {
    int primal, value, tangent;
} array;

/* The arrays of a port that are inputs, or outputs; returns how many. */
static int arrays_of_port(const ode_unit *u, const ode_unit *primal, ode_port port, array *a)
{
    const ode_system *s = primal->system;
    ode_unit_key key = primal->key;
    key.need = u->system->along;
    bool moving = u->system->nclocks > s->nclocks;
    key.flags = moving ? key.flags | ODE_TIMES : key.flags & ~ODE_TIMES;
    ode_place to = primal->own.at[ODE_VALUE][port];
    int value = u->own.at[ODE_VALUE][port].first, n = 0;
    for (int group = 0; n < to.count; group++) {
        int count = ode_port_arrays(s, &primal->key, port, group);
        for (int i = 0; i < count; i++) a[n + i] = (array){ to.first + n + i, value++, -1 };
        for (int i = 0; i < count && ode_port_differentiable(port); i++)
            if (ode_port_needed(s, &key, port, i)) a[n + i].tangent = value++;
        n += count;
    }
    return n;
}

/* All inputs, or all outputs. */
static int arrays(const ode_unit *u, const ode_unit *primal, bool inputs, array *a)
{
    int n = 0;
    for (ode_port port = 0; port < ODE_PORTS; port++)
        if (ode_port_is_input(primal->key.kind, port) == inputs)
            n += arrays_of_port(u, primal, port, a + n);
    return n;
}

static void clear(ode_tangent_unit *t)
{
    free(t->in);
    ode_layout_clear(&t->primal.own);
}

bool ode_tangent_unit_open(ode_tangent_unit *t, const ode_unit *u, ad_tape *tape, const ad_var *in)
{
    *t = (ode_tangent_unit){ .primal = { .key = u->key,
                                         .system = (ode_system *)u->system->primal } };
    ode_unit *primal = &t->primal;
    primal->key.derivative = ODE_ITSELF;
    bool made = ode_layout_make(&primal->own, primal->system, &primal->key);
    primal->key.derivative = u->key.derivative; /* what it is recorded for */
    size_t nin = (size_t)primal->own.nin, nout = (size_t)primal->own.nout;
    if (made) t->in = malloc((2 * nin + nout + 1) * sizeof *t->in);
    array *a = t->in ? malloc((nin + 1) * sizeof *a) : NULL;
    if (!a) {
        ad_fail(tape, "out of memory");
        clear(t);
        return false;
    }
    t->direction = t->in + nin;
    t->out = t->direction + nin;
    int n = arrays(u, primal, true, a);
    for (int i = 0; i < n; i++) {
        t->in[a[i].primal] = in[a[i].value];
        t->direction[a[i].primal] = a[i].tangent < 0 ? ad_none(tape) : in[a[i].tangent];
    }
    free(a);
    return true;
}

/* The tangents of arguments that a field which is called anew reads by their values only are no
 * zeros. */
static void check_arguments(const ode_tangent_unit *t, int ny, const ad_var *y)
{
    const ode_unit *primal = &t->primal;
    const ode_port ports[] = { ODE_PORT_ROW, ODE_PORT_SHARED };
    if (!primal->system->rerecord || primal->system->primal) return;
    for (int k = 0; k < 2; k++) {
        ode_place place = primal->own.at[ODE_VALUE][ports[k]];
        if (!ode_port_is_input(primal->key.kind, ports[k])) continue;
        for (int i = 0; i < place.count; i++) {
            ad_var x = t->in[place.first + i];
            bool depends = t->direction[place.first + i].node < 0;
            for (int j = 0; j < ny && !depends; j++) depends = ad_depends(y[j], x);
            if (!depends) ode_check_argument(primal->system, x, k == 0, i, ad_zeros_like(x));
        }
    }
}

void ode_tangent_unit_close(ode_tangent_unit *t, const ode_unit *u, ad_tape *tape, ad_var *out)
{
    const ode_unit *primal = &t->primal;
    int nin = primal->own.nin, nout = primal->own.nout, nx = 0, ny = 0;
    array *a = malloc((size_t)(nout + 1) * sizeof *a);
    ad_var *x = malloc((size_t)(2 * (nin + nout) + 1) * sizeof *x);
    if (a && x) {
        ad_var *along = x + nin, *y = along + nin, *tangent = y + nout;
        for (int i = 0; i < nin; i++) {
            if (t->direction[i].node < 0) continue;
            x[nx] = t->in[i];
            along[nx++] = t->direction[i];
        }
        int n = arrays(u, primal, false, a);
        for (int i = 0; i < n; i++) {
            out[a[i].value] = t->out[a[i].primal];
            if (a[i].tangent >= 0) y[ny++] = t->out[a[i].primal];
        }
        ad_jvp(nx, x, along, ny, y, tangent);
        check_arguments(t, ny, y);
        ny = 0;
        for (int i = 0; i < n; i++)
            if (a[i].tangent >= 0) out[a[i].tangent] = tangent[ny++];
    } else {
        ad_fail(tape, "out of memory");
    }
    free(a);
    free(x);
    clear(t);
}
