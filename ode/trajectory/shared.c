/* Shared values of a system: computed from the shared arguments once in a solve. */
#include "ode/trajectory/shared.h"

static size_t value_bytes(const ode_system *s)
{
    size_t bytes = 0;
    for (int i = 0; i < s->nshared; i++) bytes += ode_array_bytes(s->dtype, s->shared[i], 1);
    return bytes;
}

void ode_shared_account(const ode_problem *p, ad_opaque_account *a)
{
    ode_account_buffer(a, (size_t)p->system->nshared * sizeof(void *));
    if (!p->prologue) return;
    ode_account_buffer(a, value_bytes(p->system));
    ode_runner_account(p->prologue, a);
}

void **ode_shared_compute(ode_shared *sh, const ode_problem *p, const ad_opaque_call *call,
                          const void *const *args)
{
    const ode_system *s = p->system;
    const size_t bytes = value_bytes(s);
    void **at = ode_buffer_need(&sh->pointers, (size_t)s->nshared * sizeof *at);
    char *memory = p->prologue ? ode_buffer_need(&sh->memory, bytes) : NULL;
    if (!at || (p->prologue && !memory)) {
        snprintf(call->error, call->error_size, "out of memory");
        return NULL;
    }
    if (p->prologue &&
        ode_runner_open(&sh->prologue, p->prologue, call->threads, call->error, call->error_size))
        return NULL;
    for (int i = 0, n = 0; i < s->nargs; i++) {
        if (ad_has_rows(s->arg[i])) continue;
        if (p->prologue) sh->prologue.in[n++] = args[i];
        else if (s->rerecord) at[n++] = (void *)args[i];
    }
    if (!p->prologue) return at;
    for (int i = 0; i < s->nshared; i++) {
        sh->prologue.out[i] = at[i] = memory;
        memory += ode_array_bytes(s->dtype, s->shared[i], 1);
    }
    sh->prologue.primed = false;
    sh->prologue.refine = call->refine;
    char error[ODE_ERROR_SIZE];
    if (!ode_runner_run(&sh->prologue, call->rows, error, sizeof error)) return at;
    snprintf(call->error, call->error_size, "%s", error);
    return NULL;
}

void ode_shared_close(ode_shared *sh)
{
    ode_runner_close(&sh->prologue);
    ode_buffer_free(&sh->memory);
    ode_buffer_free(&sh->pointers);
}
