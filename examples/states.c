/* Several states with shapes of their own: the planets' positions and velocities.
 *
 *     x' = v,   v' = -x / |x|^3
 *
 * Two planets, a row each: one on a circle, one on an ellipse of eccentricity 1/2, both with period
 * 2 pi. After one period each is where it was, and its energy is what it was. */
#include <costate.h>
#include <math.h>

static void gravity(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                    ad_var *dy)
{
    (void)t;
    (void)nstate;
    (void)args;
    (void)user;
    ad_var x = y[0], v = y[1];
    ad_var cube = ad_pow_scalar(ad_sum_axis(ad_square(x), 1, true), 1.5);
    dy[0] = v;
    dy[1] = ad_neg(ad_div(x, cube));
}

/* |v|^2 / 2 - 1 / |x| of arrays [rows,T,2]: [rows,T]. */
static ad_var energy(ad_var x, ad_var v)
{
    ad_var kinetic = ad_scale(ad_sum_axis(ad_square(v), 2, false), 0.5);
    return ad_sub(kinetic, ad_rsqrt(ad_sum_axis(ad_square(x), 2, false)));
}

int main(void)
{
    const double place[] = { 1, 0, /**/ 0.5, 0 }, speed[] = { 0, 1, /**/ 0, 1.7320508075688772 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0[] = { ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, place),
                    ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 2, speed) };
    ad_var times = ode_linspace(tape, 0, 2 * 3.14159265358979323846, 3), y[2];
    ode_options options = { .method = &ode_dopri8, .rtol = 1e-10, .atol = 1e-10 };
    if (ode_solve_states(gravity, NULL, 2, y0, 0, NULL, times, &options, y)) {
        fprintf(stderr, "%s\n", ad_tape_error(tape));
        return 1;
    }
    ad_print(stdout, "x at 0, 1/2 and 1 period", y[0]);
    ad_print(stdout, "energy", energy(y[0], y[1]));
    ad_tape_free(tape);
}
