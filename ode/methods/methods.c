/* The methods: constants made from the table of tableaux, and the few that are not explicit
 * Runge-Kutta methods. */
#include "ode/methods/recorders.h"
#include <string.h>

#define ROWS(...)                                                                                  \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define C ROWS
#define A ROWS
#define E ROWS
#define D ROWS
#define ODE_RUNGE_KUTTA(name_, about_, order_, error_order_, dense_order_, stages_, extra_,        \
                        dense_, c_, a_, e_, e3_, d_)                                               \
    static const double name_##_c[] = c_, name_##_a[] = a_, name_##_e[] = e_, name_##_e3[] = e3_,  \
                        name_##_d[] = d_;                                                          \
    static const ode_tableau name_##_tableau = { stages_,                                          \
                                                 extra_,                                           \
                                                 dense_,                                           \
                                                 name_##_c,                                        \
                                                 name_##_a,                                        \
                                                 (error_order_) ? name_##_e : NULL,                \
                                                 sizeof name_##_e3 > sizeof(double) ? name_##_e3   \
                                                                                    : NULL,        \
                                                 name_##_d };                                      \
    const ode_method ode_##name_ = { .name = #name_,                                               \
                                     .about = about_,                                              \
                                     .order = order_,                                              \
                                     .error_order = error_order_,                                  \
                                     .dense_order = dense_order_,                                  \
                                     .tableau = &name_##_tableau,                                  \
                                     .times = stages_,                                             \
                                     .c = name_##_c,                                               \
                                     .step = ode_runge_kutta_step };
#include "ode/methods/methods.def"
#undef C
#undef A
#undef E
#undef D

static const double at_end[] = { 1 }, at_both_ends[] = { 0, 1 }, at_start[] = { 0 },
                    at_start_and_middle[] = { 0, 0.5 };

const ode_method ode_implicit_euler = {
    .name = "implicit_euler",
    .about = "implicit Euler, order 1, L-stable: for stiff problems; Newton's method row by row",
    .order = 1,
    .times = 1,
    .c = at_end,
    .implicit = true,
    .step = ode_implicit_step
};
const ode_method ode_trapezoidal = {
    .name = "trapezoidal",
    .about = "the implicit trapezoidal rule (Crank and Nicolson 1947), order 2, A-stable but not "
             "L-stable: rings on very stiff problems",
    .order = 2,
    .times = 2,
    .c = at_both_ends,
    .implicit = true,
    .rings = true,
    .step = ode_implicit_step
};
const ode_method ode_nystroem2 = {
    .name = "nystroem2",
    .about = "the two-step Nystroem method (leapfrog), order 2; for uniform steps and "
             "oscillations: unstable where Re lambda < 0",
    .order = 2,
    .times = 1,
    .c = at_start,
    .begin_times = 2,
    .begin_c = at_start_and_middle,
    .step = ode_nystroem_step,
    .begin = ode_nystroem_begin
};

static const ode_method *const all[] = {
#define ODE_RUNGE_KUTTA(name_, ...) &ode_##name_,
#include "ode/methods/methods.def"
    &ode_implicit_euler, &ode_trapezoidal, &ode_nystroem2, NULL
};

const ode_method *const *ode_methods(void) { return all; }
const char *ode_method_name(const ode_method *m) { return m ? m->name : "no method"; }
const char *ode_method_about(const ode_method *m) { return m ? m->about : "no method (NULL)"; }
int ode_method_order(const ode_method *m) { return m ? m->order : 0; }
bool ode_method_adaptive(const ode_method *m) { return m && m->error_order > 0; }

const ode_method *ode_method_find(const char *name)
{
    for (int i = 0; name && all[i]; i++)
        if (!strcmp(all[i]->name, name)) return all[i];
    return NULL;
}

int ode_method_times(const ode_method *m, bool last, bool dense)
{
    if (!m->tableau) return m->times;
    return m->times + (last || dense) + (dense ? m->tableau->extra : 0);
}

/* Hermite's basis in the form theta F0 + theta (1-theta) F1 + theta^2 (1-theta) F2 + theta^2
 * (1-theta)^2 (...), with F0 = sum b k, F1 = k_1 - F0, F2 = 2 F0 - k_last - k_1 (Hairer, Norsett,
 * Wanner, Solving ODEs I, II.6). */
void ode_dense_weights(const ode_tableau *t, double theta, double *w, double *slope)
{
    int s = t->stages, n = s + 1 + t->extra;
    const double *b = ode_tableau_row(t, s);
    double x = theta, u = 1 - theta;
    double p0 = x, p1 = x * u, p2 = x * x * u, d0 = 1, d1 = 1 - 2 * x, d2 = x * (2 - 3 * x);
    double q = x * x * u * u,
           dq =
               2 * x * u * (1 - 2 * x); /* times 1, theta, theta (1 - theta), theta^2 (1 - theta) */
    double p[] = { q, q * x, q * x * u, q * x * x * u };
    double d[] = { dq, dq * x + q, dq * x * u + q * (1 - 2 * x),
                   dq * x * x * u + q * x * (2 - 3 * x) };
    for (int i = 0; i < n; i++) {
        double bi = i < s ? b[i] : 0, first = i == 0, last = i == s;
        w[i] = bi * p0 + (first - bi) * p1 + (2 * bi - last - first) * p2;
        slope[i] = bi * d0 + (first - bi) * d1 + (2 * bi - last - first) * d2;
        for (int r = 0; r < t->dense; r++) {
            w[i] += t->d[r * n + i] * p[r];
            slope[i] += t->d[r * n + i] * d[r];
        }
    }
}
