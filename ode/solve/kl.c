/* The Kullback-Leibler divergence between the path measures of two stochastic equations with one
 * diffusion, integrated beside the state. */
#include "ode/solve/solve.h"

typedef struct {
    ode_field posterior, prior, diffusion;
    void *user;
} kl_fields;

/* ---- |u|^2 of the smallest u with g u = d ---- */

static ad_var sum_of_squares(ad_var x) { return ad_sum_axis(ad_square(x), -1, true); }

/* squared, or 0 where it is the rounding of `whole`: what is divided by it then is not finite, and
 * the solve says so. */
static ad_var without_rounding(ad_var squared, ad_var whole)
{
    double rounding = ad_tape_dtype(squared.tape) == AD_F32 ? 1e-5 : 1e-13;
    ad_var counts = ad_gt(squared, ad_scale(whole, rounding * rounding));
    return ad_select(counts, squared, ad_zeros_like(squared));
}

/* d [rows,n,1], g [rows|1,n,m] with m >= n. By Gram and Schmidt g = L Q, the rows of Q orthonormal,
 * so u = Q' v with L v = d, and |u| = |v|. Each turn makes a row of Q and an element of v, and
 * takes their parts out of the rows of g and the elements of d that are left. */
static ad_var general_energy(ad_var d, ad_var g, int64_t n)
{
    ad_var energy = ad_none(d.tape), whole = sum_of_squares(g);
    for (int64_t left = n; left > 0; left--) {
        ad_var row = ad_slice(g, 1, 0, 1);
        ad_var squared = without_rounding(sum_of_squares(row), ad_slice(whole, 1, 0, 1));
        ad_var first = ad_slice(d, 1, 0, 1), part = ad_div(ad_square(first), squared);
        energy = left == n ? part : ad_add(energy, part);
        if (left == 1) break;
        ad_var others = ad_slice(g, 1, 1, left), along = ad_div(row, squared);
        ad_var share = ad_sum_axis(ad_mul(others, along), -1, true);
        g = ad_sub(others, ad_mul(share, row));
        d = ad_sub(ad_slice(d, 1, 1, left), ad_mul(share, first));
        whole = ad_slice(whole, 1, 1, left);
    }
    return ad_reshape(energy, AD_SHAPE(AD_ROWS, 1));
}

/* Of the difference of drifts, which has the shape of the state, [rows,D...]. */
static ad_var energy(ad_var d, ad_var g, ode_noise_kind kind)
{
    ad_tape *tape = d.tape;
    ad_shape state = ad_shape_of(d), noise = ad_shape_of(g);
    int64_t n = 1, m = noise.dim[noise.rank - 1];
    for (int i = 1; i < state.rank; i++) n *= state.dim[i];
    if (kind == ODE_NOISE_DIAGONAL)
        return sum_of_squares(ad_reshape(ad_div(d, g), AD_SHAPE(AD_ROWS, n)));
    if (m >= n)
        return general_energy(ad_reshape(d, AD_SHAPE(AD_ROWS, n, 1)),
                              ad_reshape(g, AD_SHAPE(noise.dim[0], n, m)), n);
    char text[128];
    ad_format_shape(noise, text, sizeof text);
    ad_fail(tape,
            "the diffusion returned %s, %lld Brownian motions for %lld elements of the state: they "
            "do not carry every drift to every other, so the divergence is infinite; give at "
            "least as many Brownian motions as elements",
            text, (long long)m, (long long)n);
    return ad_none(tape);
}

/* ---- the solve ---- */

/* Girsanov's theorem: with g u = posterior - prior, KL' = E |u|^2 / 2. */
static void drift_with_kl(ad_var t, int nstate, const ad_var *y, const ad_var *args, void *user,
                          ad_var *dy)
{
    const kl_fields *f = user;
    ad_tape *tape = y[0].tape;
    ad_shape state = ad_shape_of(y[0]);
    (void)nstate;
    dy[0] = ode_checked_derivative(tape, f->posterior(t, y[0], args, f->user), 0, state);
    ad_var prior = ode_checked_derivative(tape, f->prior(t, y[0], args, f->user), 0, state);
    ad_var g = f->diffusion(t, y[0], args, f->user);
    ode_noise_kind kind =
        ad_valid(g) && g.tape == tape ? ode_diffusion_look(tape, state, 0, &g) : ODE_NOISE_NONE;
    /* The solve looks at the diffusion again, and says what is wrong with it. */
    dy[1] = kind == ODE_NOISE_NONE ? ad_scalar(tape, 0)
                                   : ad_scale(energy(ad_sub(dy[0], prior), g, kind), 0.5);
}

/* The divergence has no noise. */
static void diffusion_of_state(ad_var t, int nstate, const ad_var *y, const ad_var *args,
                               void *user, ad_var *g)
{
    const kl_fields *f = user;
    (void)nstate;
    g[0] = f->diffusion(t, y[0], args, f->user);
}

ad_var sde_solve_kl(ode_field posterior, ode_field prior, ode_field diffusion, void *user,
                    ad_var y0, int nargs, const ad_var *args, ad_var times,
                    const sde_options *options, ad_var *kl)
{
    kl_fields all = { posterior, prior, diffusion, user };
    ode_right_side right = { .caller = "sde_solve_kl",
                             .fields = drift_with_kl,
                             .diffusions = diffusion_of_state,
                             .user = &all,
                             .user_size = sizeof all,
                             .last = "the divergence (is the diffusion singular?)" };
    ad_var y[2] = { ad_none(y0.tape), ad_none(y0.tape) };
    const char *missing = !posterior   ? "the posterior drift"
                          : !prior     ? "the prior drift"
                          : !diffusion ? "the diffusion"
                          : !kl        ? "kl"
                                       : NULL;
    if (missing) {
        ad_fail(y0.tape ? y0.tape : times.tape, "sde_solve_kl: %s is NULL", missing);
    } else {
        ad_var zeros = ad_fill(y0.tape, AD_SHAPE(AD_ROWS, 1), 0);
        sde_record_solve(&right, 2, (ad_var[]){ y0, zeros }, nargs, args, times, options, false, y);
    }
    if (kl) *kl = y[1];
    return y[0];
}
