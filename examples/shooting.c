/* Optimal control by gradients through a solve: the swing-up of a pendulum with a weak motor.
 *
 *   angle'' = -sin(angle) - friction angle' + u(t),    angle(0) = angle'(0) = 0 (it hangs)
 *   J(u) = integral of u^2 / 2 over [0, T] + weight ((angle(T) - pi)^2 + angle'(T)^2) -> min
 *
 * The torque u is given by its values at knots, with straight lines between them; the integral is
 * solved beside the state. J is a recorded function of the values, so its gradient is by the
 * adjoint of the solve and its Hessian by derivatives of that, and Newton's method with a shift
 * (Levenberg 1944) finds the minimum in some twenty steps.
 *
 * Pontryagin's principle says that the optimal torque is minus the costate of the speed, dJ/d
 * angle'(t). That costate is a gradient too: of the rest of J by the state at t. The program prints
 * how far the two are apart, for more and more knots. */
#include "costate.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KNOTS = 161, REFINEMENTS = 4, MOST_STEPS = 200, CURVE = 201 };
static const double pi = 3.14159265358979323846;

typedef struct {
    double horizon, friction, weight;
    int64_t knots;
} problem;

/* ---- the pendulum ---------------------------------------------------------------------------- */

/* args[0]: torques at the knots [knots,1]. */
static ad_var torque(ad_var t, const ad_var *args, const problem *p)
{
    double at[MOST_KNOTS];
    for (int64_t k = 0; k < p->knots; k++) at[k] = p->horizon * (double)k / (double)(p->knots - 1);
    return ode_interpolate(ODE_LINEAR, t, ad_constant(t.tape, AD_SHAPE(p->knots), at), args[0]);
}

/* y: angle, speed. */
static ad_var field(ad_var t, ad_var y, const ad_var *args, void *user)
{
    const problem *p = user;
    ad_var angle = ad_slice(y, 1, 0, 1), speed = ad_slice(y, 1, 1, 2);
    ad_var slowed = ad_add(ad_sin(angle), ad_scale(speed, p->friction));
    return ad_concatenate(AD_VARS(speed, ad_sub(torque(t, args, p), slowed)), 1);
}

static ad_var effort(ad_var t, ad_var y, const ad_var *args, void *user)
{
    (void)y;
    return ad_scale(ad_square(torque(t, args, user)), 0.5);
}

/* J from y [1,2] at time t0 on. */
static ad_var cost_to_go(problem *p, double t0, ad_var y, ad_var u)
{
    const ode_options exact = { .rtol = 1e-10, .atol = 1e-11 };
    const double target[2] = { pi, 0 };
    ad_var q, way = ode_solve_cost(field, effort, p, y, AD_VARS(u),
                                   ode_interval(u.tape, t0, p->horizon), &exact, &q);
    ad_var end = ad_reshape(ad_slice(way, 1, 1, 2), AD_SHAPE(AD_ROWS, 2));
    ad_var off = ad_sub(end, ad_constant(u.tape, AD_SHAPE(1, 2), target));
    ad_var final = ad_scale(ad_sum_all(ad_square(off)), p->weight);
    return ad_add(ad_sum_all(ad_slice(q, 1, 1, 2)), final);
}

/* ---- Newton's method with a shift ------------------------------------------------------------ */

/* x := (H + shift I)^-1 g by Cholesky's method; false where the matrix is not positive definite. */
static bool solve_shifted(int64_t n, const double *h, double shift, const double *g, double *root,
                          double *x)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++) {
            double s = h[i * n + j] + (i == j ? shift : 0);
            for (int64_t k = 0; k < j; k++) s -= root[i * n + k] * root[j * n + k];
            if (i == j && !(s > 0)) return false;
            root[i * n + j] = i == j ? sqrt(s) : s / root[j * n + j];
        }
        x[i] = g[i];
        for (int64_t k = 0; k < i; k++) x[i] -= root[i * n + k] * x[k];
        x[i] /= root[i * n + i];
    }
    for (int64_t i = n; i-- > 0;) {
        for (int64_t k = i + 1; k < n; k++) x[i] -= root[k * n + i] * x[k];
        x[i] /= root[i * n + i];
    }
    return true;
}

typedef struct {
    double cost, gradient; /* J, and the largest element of its gradient */
    int steps;
} minimum;

/* Minimises J from the torques u [knots] on. */
static bool minimise(problem *p, double *u, minimum *m)
{
    static double hessian[MOST_KNOTS * MOST_KNOTS], root[MOST_KNOTS * MOST_KNOTS];
    double gradient[MOST_KNOTS], step[MOST_KNOTS], tried[MOST_KNOTS], shift = 1;
    const int64_t n = p->knots;
    const double hanging[2] = { 0, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var torques = ad_param(tape, AD_SHAPE(n, 1), u), g;
    ad_var value = cost_to_go(p, 0, ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, hanging), torques);
    ad_grad(value, AD_VARS(torques), &g);
    ad_var h = ad_jacobian(g, torques);
    bool fine = true;
    m->cost = ad_item(value);
    for (m->steps = 0; fine && m->steps < MOST_STEPS; m->steps++) {
        fine = ad_get(g, gradient) == 0;
        m->gradient = 0;
        for (int64_t i = 0; i < n; i++) m->gradient = fmax(m->gradient, fabs(gradient[i]));
        if (!fine || m->gradient < 1e-8) break;
        fine = ad_get(h, hessian) == 0;
        bool better = false;
        while (fine && !better && shift < 1e8) {
            if (solve_shifted(n, hessian, shift, gradient, root, step)) {
                for (int64_t i = 0; i < n; i++) tried[i] = u[i] - step[i];
                ad_set(torques, 0, tried);
                const double cost = ad_item(value);
                better = cost < m->cost;
                if (better) m->cost = cost;
            }
            shift = better ? fmax(shift / 5, 1e-12) : shift * 4;
        }
        if (better) memcpy(u, tried, (size_t)n * sizeof *u);
        else break; /* rounding: nothing nearby is less */
    }
    fine = fine && !ad_tape_error(tape);
    if (!fine) example_failed("optimal control", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* ---- what the optimum is like ---------------------------------------------------------------- */

/* angle and speed at equal times [CURVE,2], and minus the costate of the speed there [CURVE]. */
static bool follow(problem *p, const double *u, double *way, double *costate)
{
    const double hanging[2] = { 0, 0 };
    ad_tape *tape = ad_tape_new(AD_F64);
    ad_var torques = ad_param(tape, AD_SHAPE(p->knots, 1), u);
    ad_var y = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, hanging);
    bool fine =
        ad_get(ode_solve(field, p, y, AD_VARS(torques), ode_linspace(tape, 0, p->horizon, CURVE),
                         &(ode_options){ .rtol = 1e-10, .atol = 1e-11 }),
               way) == 0;
    for (int i = 0; fine && i + 1 < CURVE; i++) {
        double slope[2];
        ad_var at = ad_input_rows(tape, AD_SHAPE(AD_ROWS, 2), 1, way + 2 * i), g;
        ad_grad(cost_to_go(p, p->horizon * i / (CURVE - 1), at, torques), AD_VARS(at), &g);
        fine = ad_get(g, slope) == 0;
        costate[i] = -slope[1];
    }
    costate[CURVE - 1] = -2 * p->weight * way[2 * CURVE - 1];
    if (!fine) example_failed("the way", ad_tape_error(tape));
    ad_tape_free(tape);
    return fine;
}

/* Straight lines between the values at n knots, at x in 0 .. 1. */
static double between(int64_t n, const double *u, double x)
{
    const int64_t k = (int64_t)fmin(floor(x * (double)(n - 1)), (double)(n - 2));
    const double share = x * (double)(n - 1) - (double)k;
    return (1 - share) * u[k] + share * u[k + 1];
}

static bool write_picture(const problem *p, const char *directory, const double *u,
                          const double *way, const double *costate)
{
    FILE *f = example_file(directory, "shooting.dat");
    if (!f) return false;
    for (int i = 0; i < CURVE; i++) {
        const double x = (double)i / (CURVE - 1);
        fprintf(f, "%.6g %.8g %.8g %.8g %.8g\n", p->horizon * x, way[2 * i], way[2 * i + 1],
                between(p->knots, u, x), costate[i]);
    }
    fclose(f);
    f = example_file(directory, "shooting.gp");
    if (!f) return false;
    fprintf(
        f,
        "set terminal pngcairo size 1000,420 font 'sans,11'\nset output 'shooting.png'\n"
        "set multiplot layout 1,2\nset tics scale 0.5\nset grid lc rgb '#dddddd'\n"
        "set xlabel 't'\nset key top left\nset title 'Swing-up of a pendulum'\n"
        "plot 'shooting.dat' using 1:2 with lines lw 2 lc rgb '#1f77b4' title 'angle', \\\n"
        "     '' using 1:3 with lines lw 2 lc rgb '#88aa44' title 'speed', %.8g with lines dt 2 "
        "lc rgb '#888888' title 'pi'\n"
        "set title 'Torque, and what is optimal by Pontryagin'\n"
        "plot 'shooting.dat' using 1:4 with lines lw 2 lc rgb '#d62728' title 'torque', \\\n"
        "     '' using 1:5 every 5 with points pt 6 lc rgb '#444444' title 'minus the costate'\n",
        pi);
    fclose(f);
    example_picture(directory, "shooting");
    return true;
}

int main(int argc, char **argv)
{
    problem p = { .horizon = 10, .friction = 0.1, .weight = 50 };
    const char *directory = "out";
    bool quick = false;
    const example_option options[] = {
        { "horizon", EXAMPLE_NUMBER, &p.horizon, "time T" },
        { "friction", EXAMPLE_NUMBER, &p.friction, "of the pendulum" },
        { "weight", EXAMPLE_NUMBER, &p.weight, "of what is missing at the end" },
        { "quick", EXAMPLE_FLAG, &quick, "21 and 41 knots only" },
        { "out", EXAMPLE_TEXT, &directory, "directory of the picture and the numbers" },
        { 0 }
    };
    int done = example_options(
        argc, argv, "Swings a pendulum up with the least effort, by Newton's method.", options);
    if (done) return done - 1;
    if (!(p.horizon > 0)) return example_failed("--horizon", "must be positive");
    if (!example_directory(directory)) return 1;
    static double u[MOST_KNOTS], coarse[MOST_KNOTS], way[2 * CURVE], costate[CURVE];
    p.knots = 21;
    /* A first guess: a torque that swings, as pushing a swing does. */
    for (int64_t k = 0; k < p.knots; k++)
        u[k] = 0.5 * cos(p.horizon * (double)k / (double)(p.knots - 1));
    printf("%6s %6s %14s %14s %22s\n", "knots", "steps", "J", "gradient", "torque - (-costate)");
    for (int r = 0; r < (quick ? 2 : REFINEMENTS); r++) {
        if (r > 0) {
            memcpy(coarse, u, sizeof u);
            const int64_t n = p.knots;
            p.knots = 2 * n - 1;
            for (int64_t k = 0; k < p.knots; k++)
                u[k] = between(n, coarse, (double)k / (double)(p.knots - 1));
        }
        minimum m;
        if (!minimise(&p, u, &m) || !follow(&p, u, way, costate)) return 1;
        double apart = 0;
        for (int i = 0; i < CURVE; i++)
            apart = fmax(apart, fabs(between(p.knots, u, (double)i / (CURVE - 1)) - costate[i]));
        printf("%6lld %6d %14.8f %14.1e %22.1e\n", (long long)p.knots, m.steps, m.cost, m.gradient,
               apart);
        fflush(stdout);
    }
    double largest = 0;
    for (int64_t k = 0; k < p.knots; k++) largest = fmax(largest, fabs(u[k]));
    printf("at the end: angle %.6f, speed %.6f; the largest torque is %.4f (holding it level takes "
           "1)\n",
           way[2 * CURVE - 2], way[2 * CURVE - 1], largest);
    return write_picture(&p, directory, u, way, costate) ? 0 : 1;
}
