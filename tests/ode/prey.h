/* A problem with all that a solve can be differentiated by: a driven predator and its prey, in two
 * rows. */
#ifndef COSTATE_TESTS_PREY_H
#define COSTATE_TESTS_PREY_H
#include "costate.h"
#include <check.h>
#include <math.h>
#include <string.h>

static inline void get(ad_var x, double *v)
{
    ck_assert_msg(!ad_get(x, v), "%s", ad_tape_error(x.tape));
}

/* x' = a x - b x z, z' = b x z - c z + d sin(t), with a, b shared and c, d of the rows. */
static inline ad_var prey_field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)user;
    ad_var x = ad_slice(y, 1, 0, 1), z = ad_slice(y, 1, 1, 2);
    ad_var rates = ad_exp(args[0]); /* depends on parameters only */
    ad_var a = ad_slice(rates, 0, 0, 1), b = ad_slice(rates, 0, 1, 2);
    ad_var c = ad_slice(args[1], 1, 0, 1), d = ad_slice(args[1], 1, 1, 2);
    ad_var xz = ad_mul(b, ad_mul(x, z));
    ad_var dx = ad_sub(ad_mul(a, x), xz);
    ad_var dz = ad_add(ad_sub(xz, ad_mul(c, z)), ad_mul(d, ad_sin(t)));
    return ad_concatenate(2, (ad_var[]){ dx, dz }, 1);
}

enum { PREY_ROWS = 2, PREY_TIMES = 4, PREY_OPERANDS = 5 };
/* What is solved for: all times; the last; times that are asked later. */
typedef enum { PREY_SOLVE, PREY_FINAL, PREY_ASKED, PREY_FORMS } prey_form;
/* y0, shared arguments, arguments of the rows, times, asked times. */
static const int prey_size[PREY_OPERANDS] = { 4, 2, 4, PREY_TIMES, PREY_TIMES };
enum { PREY_UNKNOWNS = 4 + 2 + 4 + 2 * PREY_TIMES };
static const double prey_unknowns[PREY_UNKNOWNS] = {
    1, 0.5, 1.5, 0.8, 0.1, -0.5, 0.9, 0.2, 1.2, 0.4, 0.1, 0.7, 1.3, 1.9, 1.27, 0.35, 1.26, 0.8
};
static const double prey_direction[PREY_UNKNOWNS] = { 0.3, -0.7, 0.2,  0.5, 0.4,  -0.3,
                                                      0.6, 0.1,  -0.2, 0.8, 0.1,  -0.3,
                                                      0.2, 0.25, -0.4, 0.3, 0.15, 0.2 };

typedef struct {
    ad_tape *tape;
    ad_var x[PREY_OPERANDS]; /* the last is used where times are asked */
    int n;                   /* of those that are used */
    ad_var y, weights;
    double w[PREY_ROWS * PREY_TIMES * 2]; /* the weights */
} prey;

/* Variables of the operands' shapes. */
static inline void prey_operands(ad_tape *tape, const double *u, ad_var *x)
{
    x[0] = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), PREY_ROWS, u);
    x[1] = ad_param(tape, AD_SHAPE(2), u + 4);
    x[2] = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), PREY_ROWS, u + 6);
    x[3] = ad_input(tape, AD_SHAPE(PREY_TIMES), u + 10);
    x[4] = ad_input(tape, AD_SHAPE(PREY_TIMES), u + 10 + PREY_TIMES);
}

static inline prey prey_record(ad_dtype dtype, prey_form form, const double *u,
                               const ode_options *o)
{
    prey p = { .tape = ad_tape_new(dtype), .n = form == PREY_ASKED ? 5 : 4 };
    prey_operands(p.tape, u, p.x);
    ad_var *x = p.x, args[] = { x[1], x[2] };
    if (form == PREY_SOLVE) p.y = ode_solve(prey_field, NULL, x[0], 2, args, x[3], o);
    if (form == PREY_FINAL) p.y = ode_solve_final(prey_field, NULL, x[0], 2, args, x[3], o);
    if (form == PREY_ASKED) {
        ode_dense dense;
        ck_assert_msg(!ode_solve_dense(&dense, prey_field, NULL, x[0], 2, args, x[3], o), "%s",
                      ad_tape_error(p.tape));
        p.y = ode_dense_at(&dense, x[4]);
    }
    ck_assert_msg(ad_valid(p.y), "%s", ad_tape_error(p.tape));
    for (int i = 0; i < PREY_ROWS * PREY_TIMES * 2; i++) p.w[i] = cos(1.7 * i + 0.4);
    p.weights = ad_input_rows(p.tape, ad_shape_of(p.y), PREY_ROWS, p.w);
    return p;
}

/* sum w (y + y^2 / 3) */
static inline ad_var prey_loss(const prey *p)
{
    return ad_sum_all(ad_mul(p->weights, ad_add(p->y, ad_scale(ad_square(p->y), 1. / 3))));
}

/* sum over all operands. */
static inline ad_var prey_dot(int n, const ad_var *x, const ad_var *y)
{
    ad_var sum = ad_sum_all(ad_mul(x[0], y[0]));
    for (int i = 1; i < n; i++) sum = ad_add(sum, ad_sum_all(ad_mul(x[i], y[i])));
    return sum;
}

#endif
