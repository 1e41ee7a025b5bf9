/* What the adjoints share: the recorded operation, its operands by name, cotangents of shared
 * values. */
#include "ode/adjoints/adjoint.h"
#include <stdlib.h>
#include <string.h>

void ode_adjoint_retain(void *data)
{
    atomic_fetch_add(&((ode_adjoint_data *)data)->references, 1);
}

void ode_adjoint_release(void *data)
{
    ode_adjoint_data *d = data;
    if (!d || atomic_fetch_sub(&d->references, 1) != 1) return;
    ode_problem_release(d->problem);
    free(d);
}

const char *ode_adjoint_called(const void *data)
{
    return ((const ode_adjoint_data *)data)->called;
}

ode_adjoint_data *ode_adjoint_new(ode_problem *p, int nin, const ad_var *ybar, const bool *need,
                                  ad_tape *tape)
{
    const ode_system *s = p->system;
    ode_adjoint_data *d = calloc(1, sizeof *d);
    if (!d) {
        ad_fail(tape, "%s: out of memory", p->settings.caller);
        return NULL;
    }
    atomic_init(&d->references, 1);
    d->problem = p;
    snprintf(d->called, sizeof d->called, "%s's adjoint", p->settings.caller);
    ode_problem_retain(p);
    bool shared = false;
    for (int i = 0; i < s->nstate; i++) {
        d->has[i] = ybar[i].node >= 0;
        d->need_y0[i] = need[i];
    }
    for (int i = 0; i < s->nargs; i++) {
        if (!need[s->nstate + i]) continue;
        d->need |= (uint64_t)1 << i;
        shared = shared || !ad_has_rows(s->arg[i]);
    }
    d->need_times = nin > s->nstate + s->nargs && need[s->nstate + s->nargs];
    if (!shared || s->rerecord) return d;
    ode_unit_key key = { .kind = ODE_UNIT_PROLOGUE_VJP, .need = d->need };
    bool any = false;
    for (int i = 0; i < s->nshared; i++) any = any || ode_shared_needed(s, i, d->need);
    if (!any || (d->prologue = ode_unit_make(p->system, key, tape, p->settings.caller))) return d;
    ode_adjoint_release(d);
    return NULL;
}

void ode_adjoint_record(ode_adjoint_data *d, const ad_opaque_class *class_, ad_var token, int nin,
                        const ad_var *in, const ad_var *out, const ad_var *ybar, const bool *need,
                        ad_var *xbar)
{
    int n = d->problem->system->nstate, nop = 0, nout = 0;
    ad_var op[2 + 3 * ODE_MAX_STATES + ODE_MAX_ARGS], bar[1 + ODE_MAX_STATES + ODE_MAX_ARGS];
    ad_shape shapes[1 + ODE_MAX_STATES + ODE_MAX_ARGS];
    op[nop++] = token;
    for (int i = 0; i < nin; i++) op[nop++] = in[i];
    for (int i = 0; i < n; i++) op[nop++] = out[i];
    for (int i = 0; i < n; i++)
        if (d->has[i]) op[nop++] = ybar[i];
    for (int i = 0; i < nin; i++)
        if (need[i]) shapes[nout++] = ad_shape_of(in[i]);
    if (!ad_valid(ad_opaque(token.tape, class_, d, nop, op, nout, shapes, bar))) return;
    nout = 0;
    for (int i = 0; i < nin; i++)
        if (need[i]) xbar[i] = bar[nout++];
}

static void no_second_derivative(const ode_adjoint_data *d, ad_tape *tape)
{
    ad_fail(tape,
            "%s: the gradient of a solve has no derivative of its own (ad_hvp, gradients of "
            "gradients): for a Hessian times v solve for the "
            "derivative in direction v as another state, s' = (dF/dy) s + (dF/dargs) v by ad_jvp "
            "inside the field (ode_solve_states), and take "
            "ad_grad of the loss's derivative made from it; or take differences of gradients",
            d->problem->settings.caller);
}

void ode_adjoint_vjp(void *data, ad_var token, int nin, const ad_var *in, int nout,
                     const ad_var *out, const ad_var *ybar, const bool *need, ad_var *xbar)
{
    (void)nin, (void)in, (void)nout, (void)out, (void)ybar, (void)need, (void)xbar;
    no_second_derivative(data, token.tape);
}

void ode_adjoint_jvp(void *data, ad_var token, int nin, const ad_var *in, const ad_var *xdot,
                     int nout, const ad_var *out, ad_var *ydot)
{
    (void)nin, (void)in, (void)xdot, (void)nout, (void)out, (void)ydot;
    no_second_derivative(data, token.tape);
}

ode_adjoint_call ode_adjoint_parse(const ode_adjoint_data *d, const ad_opaque_call *call)
{
    const ode_problem *p = d->problem;
    int n = p->system->nstate, nargs = p->system->nargs, k = 1, o = 0;
    ode_adjoint_call c = { 0 };
    c.y0 = call->in + k, k += n;
    c.args = call->in + k, k += nargs;
    c.times = call->in[k++];
    c.y = call->in + k, k += n;
    for (int i = 0; i < n; i++)
        if (d->has[i]) c.ybar[i] = call->in[k++];
    for (int i = 0; i < n; i++)
        if (d->need_y0[i]) c.y0bar[i] = call->out[o++];
    for (int i = 0; i < nargs; i++)
        if (d->need >> i & 1) c.argbar[i] = call->out[o++];
    if (d->need_times) c.timesbar = call->out[o++];
    return c;
}

void ode_clear_row_bars(const ode_adjoint_data *d, const ad_opaque_call *call,
                        const ode_adjoint_call *c)
{
    const ode_system *s = d->problem->system;
    for (int i = 0; i < s->nrow; i++) {
        void *bar = c->argbar[s->row[i]];
        if (bar)
            memset(bar, 0, (size_t)ad_count(s->arg[s->row[i]], call->rows) * ode_bytes(s->dtype));
    }
}

int ode_call_fail(const ad_opaque_call *call, const char *reason)
{
    snprintf(call->error, call->error_size, "%s", reason);
    return -1;
}

void ode_write_times(const ode_problem *p, ad_dtype dtype, const double *bar, void *out)
{
    for (int j = 0; out && j < p->ntimes; j++) ode_store(dtype, out, j, bar[j]);
}

/* ---- shared values ---- */

void **ode_shared_bar_begin(ode_shared_bar *bar, const ode_adjoint_data *d)
{
    const ode_system *s = d->problem->system;
    size_t bytes = 0;
    for (int i = 0; i < s->nshared; i++)
        if (ode_shared_needed(s, i, d->need)) bytes += ode_array_bytes(s->dtype, s->shared[i], 1);
    char *memory = ode_buffer_need(&bar->memory, bytes);
    void **at = ode_buffer_need(&bar->pointers, (size_t)s->nshared * sizeof *at);
    if (!memory || !at) return NULL;
    memset(memory, 0, bytes);
    for (int i = 0; i < s->nshared; i++) {
        at[i] = NULL;
        if (!ode_shared_needed(s, i, d->need)) continue;
        at[i] = memory;
        memory += ode_array_bytes(s->dtype, s->shared[i], 1);
    }
    return at;
}

int ode_shared_bar_finish(ode_shared_bar *bar, const ode_adjoint_data *d,
                          const ad_opaque_call *call, const ode_adjoint_call *c)
{
    const ode_system *s = d->problem->system;
    void **at = bar->pointers.data;
    ode_runner *r = &bar->prologue;
    int n = 0, nout = 0, nin = 0;
    if (d->prologue &&
        ode_runner_open(r, d->prologue, call->threads, call->error, call->error_size))
        return -1;
    for (int i = 0; i < s->nargs; i++) {
        if (ad_has_rows(s->arg[i])) continue;
        size_t bytes = (size_t)ad_count(s->arg[i], 1) * ode_bytes(s->dtype);
        bool wanted = d->need >> i & 1;
        if (d->prologue) {
            r->in[nin++] = c->args[i];
            if (wanted) r->out[nout++] = c->argbar[i];
        } else if (wanted && c->argbar[i]) {
            if (s->rerecord)
                memcpy(c->argbar[i], at[n], bytes); /* the arguments are the shared values */
            else memset(c->argbar[i], 0, bytes);
        }
        n++;
    }
    if (!d->prologue) return 0;
    for (int i = 0; i < s->nshared; i++)
        if (at[i]) r->in[nin++] = at[i];
    r->primed = false;
    r->refine = call->refine;
    char error[ODE_ERROR_SIZE];
    return ode_runner_run(r, call->rows, error, sizeof error) ? ode_call_fail(call, error) : 0;
}

void ode_shared_bar_close(ode_shared_bar *bar)
{
    ode_runner_close(&bar->prologue);
    ode_buffer_free(&bar->memory);
    ode_buffer_free(&bar->pointers);
}
