/* The first program: a mass on a spring with friction, and how its motion depends on the friction.
 *
 *     x'' = -x - c x',  x(0) = 1,  x'(0) = 0,  c = 1/2
 *
 * As a system of first order: y = (x, v), y' = (v, -x - c v). */
#include <costate.h>

static ad_var spring(ad_var t, ad_var y, const ad_var *args, void *user)
{
    ad_var part[2], friction = args[0];
    ad_split(y, 1, 2, NULL, part);
    (void)t, (void)user;
    return ad_concatenate(AD_VARS(part[1], ad_neg(ad_add(part[0], ad_mul(friction, part[1])))), 1);
}

int main(void)
{
    double start[] = { 1, 0 }, c = 0.5;
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0 = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, start);
    ad_var friction = ad_param(tape, AD_SHAPE(1), &c), slope;
    ad_var y = ode_solve_final(spring, NULL, y0, AD_VARS(friction), ode_interval(tape, 0, 2), NULL);
    ad_grad(ad_sum_all(ad_slice(y, 1, 0, 1)), AD_VARS(friction), &slope);
    ad_print(stdout, "x(2), v(2)", y);
    ad_print(stdout, "dx(2)/dc", slope);
    ad_tape_free(tape);
}
