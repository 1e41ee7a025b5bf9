/* The methods: constants made from the table of tableaux, and the few that are not explicit
 * Runge-Kutta methods. */
#include "ode/methods/recorders.h"
#include <string.h>

/* Before the constants: one that ode.h does not declare does not compile. */
static const ode_method *const all[] = {
#define ODE_RUNGE_KUTTA(name_, ...) &ode_##name_,
#include "ode/methods/methods.def"
#define ODE_ESDIRK(name_, ...) &ode_##name_,
#include "ode/methods/esdirk.def"
    &ode_implicit_euler, &ode_trapezoidal, &ode_implicit_midpoint, &ode_nystroem2, NULL
};

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
    static const ode_tableau name_##_tableau = { .stages = stages_,                                \
                                                 .extra = extra_,                                  \
                                                 .dense = dense_,                                  \
                                                 .c = name_##_c,                                   \
                                                 .a = name_##_a,                                   \
                                                 .e = (error_order_) ? name_##_e : NULL,           \
                                                 .e3 = sizeof name_##_e3 > sizeof(double)          \
                                                           ? name_##_e3                            \
                                                           : NULL,                                 \
                                                 .d = name_##_d };                                 \
    _Static_assert((stages_) + 1 + (extra_) <= ODE_MAX_STAGES, #name_ " has too many stages");     \
    const ode_method ode_##name_ = {                                                               \
        .name = #name_,                                                                            \
        .about = about_,                                                                           \
        .flags = ODE_METHOD_FSAL | ODE_METHOD_KEEPS | ((error_order_) ? ODE_METHOD_ADAPTIVE : 0) | \
                 (sizeof name_##_e3 > sizeof(double) ? ODE_METHOD_TWO_ESTIMATES : 0),              \
        .order = order_,                                                                           \
        .error_order = error_order_,                                                               \
        .dense_order = dense_order_,                                                               \
        .times = stages_,                                                                          \
        .times_estimate = (stages_) + 1,                                                           \
        .times_dense = (stages_) + 1 + (extra_),                                                   \
        .c = name_##_c,                                                                            \
        .dense_stages = (stages_) + 1 + (extra_),                                                  \
        .tableau = &name_##_tableau,                                                               \
        .step = ode_runge_kutta_step,                                                              \
        .dense = ode_runge_kutta_dense,                                                            \
        .stability = ode_runge_kutta_stability,                                                    \
        .growth = ode_runge_kutta_growth,                                                          \
        .rounding = ode_runge_kutta_rounding                                                       \
    };
#include "ode/methods/methods.def"
#define ODE_ESDIRK(name_, about_, order_, error_order_, dense_order_, stages_, dense_, diagonal_,  \
                   filtered_, c_, a_, e_, d_)                                                      \
    static const double name_##_c[] = c_, name_##_a[] = a_, name_##_e[] = e_, name_##_d[] = d_;    \
    static const ode_tableau name_##_tableau = { .stages = stages_,                                \
                                                 .dense = dense_,                                  \
                                                 .diagonal = diagonal_,                            \
                                                 .filtered = filtered_,                            \
                                                 .c = name_##_c,                                   \
                                                 .a = name_##_a,                                   \
                                                 .e = name_##_e,                                   \
                                                 .d = name_##_d };                                 \
    _Static_assert((stages_) + 1 <= ODE_MAX_STAGES, #name_ " has too many stages");                \
    const ode_method ode_##name_ = { .name = #name_,                                               \
                                     .about = about_,                                              \
                                     .flags = ODE_METHOD_IMPLICIT | ODE_METHOD_FSAL |              \
                                              ODE_METHOD_STIFFLY_ACCURATE | ODE_METHOD_ADAPTIVE,   \
                                     .order = order_,                                              \
                                     .error_order = error_order_,                                  \
                                     .dense_order = dense_order_,                                  \
                                     .times = (stages_) + 1,                                       \
                                     .times_estimate = (stages_) + 1,                              \
                                     .times_dense = (stages_) + 1,                                 \
                                     .c = name_##_c,                                               \
                                     .dense_stages = (stages_) + 1,                                \
                                     .tableau = &name_##_tableau,                                  \
                                     .step = ode_esdirk_step,                                      \
                                     .dense = ode_runge_kutta_dense,                               \
                                     .growth = ode_runge_kutta_growth };
#include "ode/methods/esdirk.def"
#undef C
#undef A
#undef E
#undef D

static const ode_shapes one_state[] = { ODE_SHAPE_STATE };
static const double at_end[] = { 1, 0 }, at_both_ends[] = { 0, 1 },
                    at_start_and_middle[] = { 0, 0.5 }, at_middle_and_ends[] = { 0.5, 0, 1 };

const ode_method ode_implicit_euler = {
    .name = "implicit_euler",
    .about = "implicit Euler, order 1, L-stable: for stiff problems; Newton's method row by row",
    .flags = ODE_METHOD_IMPLICIT | ODE_METHOD_STIFFLY_ACCURATE,
    .order = 1,
    .times = 1,
    .times_estimate = 1,
    .times_dense = 2,
    .c = at_end,
    .dense_stages = ODE_HERMITE_STAGES,
    .dense = ode_hermite_dense,
    .step = ode_implicit_step
};
const ode_method ode_trapezoidal = {
    .name = "trapezoidal",
    .about = "the implicit trapezoidal rule (Crank and Nicolson 1947), order 2, A-stable but not "
             "L-stable: rings on very stiff problems",
    .flags = ODE_METHOD_IMPLICIT | ODE_METHOD_STIFFLY_ACCURATE | ODE_METHOD_RINGS,
    .order = 2,
    .times = 2,
    .times_estimate = 2,
    .times_dense = 2,
    .c = at_both_ends,
    .dense_stages = ODE_HERMITE_STAGES,
    .dense = ode_hermite_dense,
    .step = ode_implicit_step
};
const ode_method ode_implicit_midpoint = {
    .name = "implicit_midpoint",
    .about = "the implicit midpoint rule (Gauss's method of one stage), order 2, symplectic, keeps "
             "quadratic invariants; A-stable but not L-stable: rings on very stiff problems",
    .flags = ODE_METHOD_IMPLICIT | ODE_METHOD_RINGS,
    .order = 2,
    .times = 2,
    .times_estimate = 2,
    .times_dense = 3,
    .c = at_middle_and_ends,
    .dense_stages = ODE_HERMITE_STAGES,
    .dense = ode_hermite_dense,
    .step = ode_implicit_midpoint_step
};
const ode_method ode_nystroem2 = {
    .name = "nystroem2",
    .about = "the two-step Nystroem method (leapfrog), order 2; for uniform steps and "
             "oscillations: unstable where Re lambda < 0",
    .flags = ODE_METHOD_MULTISTEP,
    .order = 2,
    .times = 1,
    .times_estimate = 1,
    .times_dense = 2,
    .c = at_both_ends,
    .dense_stages = ODE_HERMITE_STAGES,
    .dense = ode_hermite_dense,
    .begin_times = 2,
    .begin_c = at_start_and_middle,
    .ncarry = 1,
    .carry = one_state,
    .step = ode_nystroem_step,
    .begin = ode_nystroem_begin
};

const ode_method *const *ode_methods(void) { return all; }
const char *ode_method_name(const ode_method *m) { return m ? m->name : "no method"; }
const char *ode_method_about(const ode_method *m) { return m ? m->about : "no method (NULL)"; }
int ode_method_order(const ode_method *m) { return m ? m->order : 0; }
bool ode_method_adaptive(const ode_method *m)
{
    return m && ode_method_has(m, ODE_METHOD_ADAPTIVE);
}

const ode_method *ode_method_find(const char *name)
{
    for (int i = 0; name && all[i]; i++)
        if (!strcmp(all[i]->name, name)) return all[i];
    return NULL;
}
