/* The correction between the calculi, against one that is written by hand: an equation in the sense
 * of Stratonovich is the equation in the sense of Ito whose drift has it. */
#include "costate.h"
#include "ode/step/step.h"
#include "tests/support.h"
#include <math.h>
#include <string.h>

enum { ROWS = 2, MOST = 16 };

static ad_var part(ad_var y, int i) { return ad_slice(y, 1, i, i + 1); }
static ad_var pair(ad_var a, ad_var b) { return ad_concatenate(2, (ad_var[]){ a, b }, 1); }
static ad_var half(ad_var x) { return ad_scale(x, 0.5); }

static void still(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *dy)
{
    (void)t, (void)args, (void)user;
    for (int i = 0; i < n; i++) dy[i] = ad_zeros_like(y[i]);
}

/* Diagonal noise whose elements depend on each other: g = (a b, a + 2 b^2). */
static void crossed(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)t, (void)n, (void)args, (void)user;
    ad_var a = part(y[0], 0), b = part(y[0], 1);
    g[0] = pair(ad_mul(a, b), ad_add(a, ad_scale(ad_square(b), 2)));
}
static void crossed_drift(ad_var t, int n, const ad_var *y, const ad_var *args, void *user,
                          ad_var *dy)
{
    (void)t, (void)n, (void)args, (void)user;
    ad_var a = part(y[0], 0), b = part(y[0], 1);
    ad_var second = ad_add(a, ad_scale(ad_square(b), 2));
    dy[0] = half(pair(ad_mul(a, ad_square(b)), ad_scale(ad_mul(b, second), 4)));
}

/* Columns (b, a^2) and (sin a, a b). */
static void columns(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)t, (void)n, (void)args, (void)user;
    ad_var a = part(y[0], 0), b = part(y[0], 1);
    ad_var first = pair(b, ad_square(a)), second = pair(ad_sin(a), ad_mul(a, b));
    g[0] = ad_stack(2, (ad_var[]){ first, second }, 2);
}
static void columns_drift(ad_var t, int n, const ad_var *y, const ad_var *args, void *user,
                          ad_var *dy)
{
    (void)t, (void)n, (void)args, (void)user;
    ad_var a = part(y[0], 0), b = part(y[0], 1), ab = ad_mul(a, b);
    ad_var first = ad_add(ad_square(a), ad_mul(ad_cos(a), ad_sin(a)));
    ad_var second = ad_add(ad_scale(ab, 2), ad_add(ad_mul(b, ad_sin(a)), ad_mul(a, ab)));
    dy[0] = half(pair(first, second));
}

/* Two states by one Brownian motion: g_x = v, g_v = x v. */
static void joint(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)t, (void)n, (void)args, (void)user;
    g[0] = ad_reshape(y[1], AD_SHAPE(AD_ROWS, 1, 1));
    g[1] = ad_reshape(ad_mul(y[0], y[1]), AD_SHAPE(AD_ROWS, 1, 1));
}
static void joint_drift(ad_var t, int n, const ad_var *y, const ad_var *args, void *user,
                        ad_var *dy)
{
    (void)t, (void)n, (void)args, (void)user;
    ad_var x = y[0], v = y[1];
    dy[0] = half(ad_mul(x, v));
    dy[1] = half(ad_add(ad_square(v), ad_mul(ad_square(x), v)));
}

/* A state of three axes, [rows,2,2]: g = y^2. */
static void square(ad_var t, int n, const ad_var *y, const ad_var *args, void *user, ad_var *g)
{
    (void)t, (void)n, (void)args, (void)user;
    g[0] = ad_square(y[0]);
}
static void square_drift(ad_var t, int n, const ad_var *y, const ad_var *args, void *user,
                         ad_var *dy)
{
    (void)t, (void)n, (void)args, (void)user;
    dy[0] = ad_mul(y[0], ad_square(y[0]));
}

static const struct {
    const char *name;
    ode_fields diffusion, drift;
    int nstate;
    ad_shape shape;
} cases[] = { { "crossed", crossed, crossed_drift, 1, { 2, { AD_ROWS, 2 } } },
              { "columns", columns, columns_drift, 1, { 2, { AD_ROWS, 2 } } },
              { "joint", joint, joint_drift, 2, { 2, { AD_ROWS, 1 } } },
              { "square", square, square_drift, 1, { 3, { AD_ROWS, 2, 2 } } } };

/* All states at the end, one after the other. */
static void solve(int of, const ode_method *m, sde_calculus calculus, bool moved, bool rerecord,
                  double *to)
{
    double start[MOST] = { 0.3, -0.5, 0.8, 0.6, 0.2, 0.7, -0.4, 0.5 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var y0[2], y[2];
    for (int i = 0; i < cases[of].nstate; i++)
        y0[i] = ad_input_rows(tape, cases[of].shape, ROWS, start + 2 * i);
    sde_options options = { .ode = { .method = m, .steps = 4, .rerecord = rerecord },
                            .calculus = calculus,
                            .path = { .seed = 9 } };
    sde_solve_states_final(moved ? cases[of].drift : still, cases[of].diffusion, NULL,
                           cases[of].nstate, y0, 0, NULL, ode_interval(tape, 0, 0.5), &options, y);
    for (int i = 0; i < cases[of].nstate; i++) {
        ck_assert_msg(!ad_get(y[i], to), "%s: %s", cases[of].name, ad_tape_error(tape));
        to += ad_size(y[i]);
    }
    ad_tape_free(tape);
}

START_TEST(correction)
{
    const ode_method *methods[] = { &sde_euler_maruyama, &sde_heun };
    for (int k = 0; k < 2; k++)
        for (int anew = 0; anew < 2; anew++) {
            double meant[MOST] = { 0 }, written[MOST] = { 0 }, without[MOST] = { 0 };
            solve(_i, methods[k], SDE_STRATONOVICH, false, anew, meant);
            solve(_i, methods[k], SDE_ITO, true, anew, written);
            solve(_i, methods[k], SDE_ITO, false, anew, without);
            double most = 0;
            for (int i = 0; i < MOST; i++) {
                ck_assert_msg(fabs(meant[i] - written[i]) < 1e-13, "%s by %s: %.15g, %.15g",
                              cases[_i].name, methods[k]->name, meant[i], written[i]);
                most = fmax(most, fabs(meant[i] - without[i]));
            }
            ck_assert(most > 1e-2);
        }
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sde_calculus", "sde_calculus");
    tcase_add_loop_test(tests, correction, 0, sizeof cases / sizeof *cases);
    return suite_run();
}
