/* Orders of SDE methods, measured: errors of several step sizes on the same paths, rows being
 * paths, and the slope of their logarithms with its standard error. */
#ifndef COSTATE_TESTS_SDE_ORDERS_H
#define COSTATE_TESTS_SDE_ORDERS_H
#include "ode/sde.h"
#include "tests/support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_LEVELS = 8 };

/* dy = f dt + g dW over [0, horizon], from y0 [dim], driven by so many Brownian motions. */
typedef struct {
    const char *name;
    sde_calculus calculus;
    bool commutative;
    ode_field drift, diffusion;
    int dim, motions;
    double horizon, y0[3];
    /* The solution at the end, y [dim], from the path's end w [motions]; NULL: it takes fine steps
     * by the method `reference`, so many a cell of the path. */
    void (*exact)(const double *w, double *y);
    const ode_method *reference;
    int fine;
} sde_problem;

typedef struct {
    double slope, error;      /* and its standard error */
    double size[MOST_LEVELS]; /* of what is measured, at each level */
} measured_order;

/* y0 of the problem for so many rows, or zeros of another dimension. */
static inline ad_var start(ad_tape *tape, int rows, int dim, const double *y0)
{
    double *y = calloc((size_t)(rows * dim), sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int i = 0; y0 && i < rows * dim; i++) y[i] = y0[i % dim];
    ad_var x = ad_input_rows(tape, AD_SHAPE(AD_ROWS, dim), rows, y);
    free(y);
    return x;
}

/* The states at the end [rows,dim] of so many equal steps; the path has `cells` cells. The caller
 * frees. */
static inline double *end_states(const sde_problem *p, const ode_method *method, int rows,
                                 int cells, int steps)
{
    ad_tape *tape = ad_tape_new(AD_F64);
    sde_options options = { .ode = { .method = method, .steps = steps, .max_steps = 1 << 20 },
                            .calculus = p->calculus,
                            .commutative = p->commutative,
                            .path = { .seed = 7, .cells = cells } };
    ad_var y = sde_solve_final(p->drift, p->diffusion, NULL, start(tape, rows, p->dim, p->y0), 0,
                               NULL, ode_interval(tape, 0, p->horizon), &options);
    double *end = malloc((size_t)(rows * p->dim) * sizeof *end);
    ck_assert_ptr_nonnull(end);
    ck_assert_msg(!ad_get(y, end), "%s: %s", p->name, ad_tape_error(tape));
    ad_tape_free(tape);
    return end;
}

static inline ad_var no_drift(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_zeros_like(y);
}

/* The identity: the state is the path. */
static inline ad_var path_itself(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)t, (void)args, (void)user;
    return ad_ones_like(y);
}

/* The solutions at the end [rows,dim], exact for the path. The caller frees. */
static inline double *true_states(const sde_problem *p, int rows, int cells)
{
    if (!p->exact) return end_states(p, p->reference, rows, cells, cells * p->fine);
    sde_problem path = { .name = "the path",
                         .drift = no_drift,
                         .diffusion = path_itself,
                         .dim = p->motions,
                         .horizon = p->horizon };
    double *w = end_states(&path, &sde_euler_maruyama, rows, cells, 1);
    double *y = malloc((size_t)(rows * p->dim) * sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int i = 0; i < rows; i++) p->exact(w + i * p->motions, y + i * p->dim);
    free(w);
    return y;
}

/* The slope of log(size) by log(step) over levels whose steps halve, by least squares; variance of
 * the slope from the spread of the rows' part in each size. power: 1/2 where the size is the root
 * of a mean, else 1. part [levels][rows] averages to what the size is the power of. */
static inline measured_order slope_of(int levels, int rows, const double *part, double power)
{
    measured_order m = { 0 };
    double weight[MOST_LEVELS], total = 0, mean[MOST_LEVELS];
    for (int l = 0; l < levels; l++) {
        weight[l] = (levels - 1) / 2.0 - l; /* log2 of the step, centred */
        total += weight[l] * weight[l];
        mean[l] = 0;
        for (int i = 0; i < rows; i++) mean[l] += part[l * rows + i] / rows;
        m.size[l] = pow(fabs(mean[l]), power);
        m.slope += weight[l] * log2(m.size[l]);
    }
    m.slope /= total;
    double sum = 0;
    for (int i = 0; i < rows; i++) {
        double influence = 0;
        for (int l = 0; l < levels; l++)
            influence += weight[l] / total * power * (part[l * rows + i] / mean[l] - 1) / log(2);
        sum += influence * influence;
    }
    m.error = sqrt(sum) / rows;
    return m;
}

/* The strong order: of the root mean square distance at the end, of 2^first, ..., 2^(first +
 * levels - 1) steps. */
static inline measured_order strong_order(const sde_problem *p, const ode_method *method, int rows,
                                          const double *truth, int cells, int first, int levels)
{
    double *part = malloc((size_t)(levels * rows) * sizeof *part);
    ck_assert_ptr_nonnull(part);
    for (int l = 0; l < levels; l++) {
        double *y = end_states(p, method, rows, cells, 1 << (first + l));
        for (int i = 0; i < rows; i++) {
            double square = 0;
            for (int j = 0; j < p->dim; j++) {
                double d = y[i * p->dim + j] - truth[i * p->dim + j];
                square += d * d;
            }
            part[l * rows + i] = square;
        }
        free(y);
    }
    measured_order m = slope_of(levels, rows, part, 0.5);
    free(part);
    return m;
}
#endif
