/* Methods of stochastic equations: the list, and the simplest ones. */
#include "ode/methods/recorders.h"
#include <string.h>

/* Before the constants: one that sde.h does not declare does not compile. */
static const ode_method *const all[] = {
#define SDE_METHOD(name_) &sde_##name_,
#include "ode/methods/sde.def"
#undef SDE_METHOD
    NULL
};

const ode_method *const *sde_methods(void) { return all; }
double sde_method_strong_order(const ode_method *m) { return m ? m->strong_order : 0; }
double sde_method_weak_order(const ode_method *m) { return m ? m->weak_order : 0; }

const ode_method *sde_method_find(const char *name)
{
    for (int i = 0; name && all[i]; i++)
        if (!strcmp(all[i]->name, name)) return all[i];
    return NULL;
}

/* ---- Euler and Maruyama ---- */

/* y + f h + g W, all at the beginning of the step. */
static void euler_maruyama_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    ad_var move[ODE_MAX_STATES];
    ode_record_driven(s, r, 0, s->y, ode_record_increment(s), move, NULL);
    for (int j = 0; j < s->system->nstate; j++) r->next[j] = ad_add(s->y[j], move[j]);
}

static const double at_start[] = { 0 };
const ode_method sde_euler_maruyama = {
    .name = "euler_maruyama",
    .about = "Maruyama 1955 (Ito; all noise): strong order 0.5, and 1 where the noise is additive; "
             "weak order 1",
    .flags = ODE_METHOD_KEEPS,
    .order = 1,
    .times = 1,
    .times_estimate = 1,
    .times_dense = 1,
    .c = at_start,
    .noise = 1,
    .takes = ODE_TAKES_ALL,
    .calculi = ODE_IN_ITO,
    .strong_order = 0.5,
    .weak_order = 1,
    .step = euler_maruyama_step
};

/* ---- Runge-Kutta methods on the driven field ---- */

static void driven_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    const ode_tableau *t = m->tableau;
    int n = s->system->nstate, last = t->stages;
    int nquad = s->quadrature.wanted ? s->system->nquad : 0;
    ad_var w = ode_record_increment(s), stage[ODE_MAX_JOINT];
    memcpy(stage, s->y, (size_t)n * sizeof *stage);
    for (int i = 1; i <= last; i++) {
        ode_record_driven(s, r, i - 1, stage, w, r->k + (i - 1) * n,
                          nquad ? r->rates + (i - 1) * nquad : NULL);
        for (int j = 0; j < n; j++) {
            ad_var sum = ode_record_weighted(i, ode_tableau_row(t, i), r->k + j, n);
            stage[j] = ad_add(s->y[j], sum);
        }
    }
    memcpy(r->next, stage, (size_t)n * sizeof *stage);
    for (int q = 0; q < nquad; q++)
        r->quad[q] = ode_record_weighted(last, ode_tableau_row(t, last), r->rates + q, nquad);
    for (int j = 0; s->estimate && j < n; j++)
        r->error[j] = ode_record_weighted(last, t->e, r->k + j, n);
}

#define ROWS(...)                                                                                  \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define C ROWS
#define A ROWS
#define E ROWS
#define SDE_DRIVEN(name_, about_, stages_, c_, a_, e_)                                             \
    static const double name_##_c[] = c_, name_##_a[] = a_, name_##_e[] = e_;                      \
    static const ode_tableau name_##_tableau = {                                                   \
        .stages = stages_, .c = name_##_c, .a = name_##_a, .e = name_##_e                          \
    };                                                                                             \
    const ode_method sde_##name_ = { .name = #name_,                                               \
                                     .about = about_,                                              \
                                     .flags = ODE_METHOD_KEEPS | ODE_METHOD_ADAPTIVE,              \
                                     .order = 1,                                                   \
                                     .times = stages_,                                             \
                                     .times_estimate = stages_,                                    \
                                     .times_dense = stages_,                                       \
                                     .c = name_##_c,                                               \
                                     .tableau = &name_##_tableau,                                  \
                                     .noise = 1,                                                   \
                                     .takes = ODE_TAKES_ALL,                                       \
                                     .calculi = ODE_IN_STRATONOVICH,                               \
                                     .strong_order = 0.5,                                          \
                                     .weak_order = 1,                                              \
                                     .step = driven_step };
#include "ode/methods/sde_driven.def"
