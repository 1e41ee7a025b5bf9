/* Cotangents of shared values: sums over a backward solve, and from there to the arguments. */
#include "ode/adjoints/shared_bar.h"
#include <string.h>

static size_t bar_bytes(const ode_adjoint_plan *plan)
{
    const ode_system *s = plan->problem->system;
    size_t bytes = 0;
    for (int i = 0; i < s->nshared; i++)
        if (ode_shared_needed(s, i, plan->need))
            bytes += ode_array_bytes(s->dtype, s->shared[i], 1);
    return bytes;
}

void ode_shared_bar_account(const ode_adjoint_plan *plan, ad_opaque_account *a)
{
    ode_account_buffer(a, bar_bytes(plan));
    ode_account_buffer(a, (size_t)plan->problem->system->nshared * sizeof(void *));
    ode_runner_account(plan->prologue, a);
}

void **ode_shared_bar_begin(ode_shared_bar *bar, const ode_adjoint_plan *plan)
{
    const ode_system *s = plan->problem->system;
    const size_t bytes = bar_bytes(plan);
    char *memory = ode_buffer_need(&bar->memory, bytes);
    void **at = ode_buffer_need(&bar->pointers, (size_t)s->nshared * sizeof *at);
    if (!memory || !at) return NULL;
    memset(memory, 0, bytes);
    for (int i = 0; i < s->nshared; i++) {
        at[i] = NULL;
        if (!ode_shared_needed(s, i, plan->need)) continue;
        at[i] = memory;
        memory += ode_array_bytes(s->dtype, s->shared[i], 1);
    }
    return at;
}

int ode_shared_bar_finish(ode_shared_bar *bar, const ode_adjoint_run *run)
{
    const ode_adjoint_plan *plan = run->plan;
    const ad_opaque_call *call = run->call;
    const ode_adjoint_call *c = &run->c;
    const ode_system *s = plan->problem->system;
    void **at = bar->pointers.data;
    ode_runner *r = &bar->prologue;
    int n = 0, nout = 0, nin = 0;
    if (plan->prologue &&
        ode_runner_open(r, plan->prologue, call->threads, call->error, call->error_size))
        return -1;
    for (int i = 0; i < s->nargs; i++) {
        if (ad_has_rows(s->arg[i])) continue;
        size_t bytes = (size_t)ad_count(s->arg[i], 1) * ode_bytes(s->dtype);
        bool wanted = plan->need >> i & 1;
        if (plan->prologue) {
            r->in[nin++] = c->args[i];
            if (wanted) r->out[nout++] = c->argbar[i];
        } else if (wanted && c->argbar[i]) {
            if (s->rerecord)
                memcpy(c->argbar[i], at[n], bytes); /* the arguments are the shared values */
            else memset(c->argbar[i], 0, bytes);
        }
        n++;
    }
    if (!plan->prologue) return 0;
    for (int i = 0; i < s->nshared; i++)
        if (at[i]) r->in[nin++] = at[i];
    r->primed = false;
    r->refine = call->refine;
    ode_runner_answers_to(r, call);
    char error[ODE_ERROR_SIZE];
    return ode_runner_run(r, call->rows, error, sizeof error) ? ode_call_fail(call, error) : 0;
}

void ode_shared_bar_close(ode_shared_bar *bar)
{
    ode_runner_close(&bar->prologue);
    ode_buffer_free(&bar->memory);
    ode_buffer_free(&bar->pointers);
}
