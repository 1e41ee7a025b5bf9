/* Steps of the underdamped Langevin equation, dx = v dt, dv = F(x, t) dt - gamma v dt + rho dW.
 *
 * Between evaluations of the force F everything is linear, and is solved exactly along a path that
 * is close to the Brownian one; what it takes are averages of the decay exp(-gamma s) over the step
 * (average, below). The position is smooth enough for high strong orders: of ALIGN 2, of SORT and
 * QUICSORT 3, if F is smooth.
 *
 * Foster, Lyons, Oberhauser 2021, "The shifted ODE method for underdamped Langevin MCMC",
 * arXiv:2101.03446 (definition 1.2: SORT; 4.2: the splitting that ALIGN interpolates). QUICSORT has
 * two evaluations at the points of Gauss, as the UBU splitting (Chada, Leimkuhler, Paulin, Whalley
 * 2023, arXiv:2311.05025): Scott, O'Kane, Jelincic, Foster 2025, arXiv:2508.16485. */
#include "ode/methods/recorders.h"
#include <math.h>

/* Averages of the decay over the fraction c of a step, with a = c gamma h: decay e^-a, first
 * (1 - e^-a) / a, second (e^-a + a - 1) / a^2, third 6 (e^-a (a + 2) + a - 2) / a^3. Of small a
 * they are their Taylor series. */
typedef struct {
    ad_var decay, first, second, third;
} averages;

/* The series have an error below 1e-16 where |a| is at most 1/2. */
enum { TERMS = 14 };

/* sum_k c_k (-a)^k / (k + n)!, with c_k = 1 (k + 1: rising). */
static ad_var series(ad_var minus_a, int n, bool rising)
{
    double factor[TERMS], factorial = tgamma(n + 1);
    for (int k = 0; k < TERMS; k++) {
        factor[k] = (rising ? k + 1 : 1) / factorial;
        factorial *= k + n + 1;
    }
    ad_var sum = ad_shift(ad_scale(minus_a, factor[TERMS - 1]), factor[TERMS - 2]);
    for (int k = TERMS - 3; k >= 0; k--) sum = ad_shift(ad_mul(sum, minus_a), factor[k]);
    return sum;
}

static averages average(ad_var gamma_h, double c)
{
    averages all;
    ad_var a = c == 1 ? gamma_h : ad_scale(gamma_h, c), minus = ad_neg(a);
    ad_var small = ad_lt(ad_abs(a), ad_scalar(a.tape, 0.5));
    ad_var square = ad_square(a);
    all.decay = ad_exp(minus);
    all.first = ad_select(small, series(minus, 1, false), ad_div(ad_expm1(minus), minus));
    all.second =
        ad_select(small, series(minus, 2, false), ad_div(ad_add(ad_expm1(minus), a), square));
    ad_var third = ad_add(ad_mul(all.decay, ad_shift(a, 2)), ad_shift(a, -2));
    all.third =
        ad_scale(ad_select(small, series(minus, 3, true), ad_div(third, ad_mul(square, a))), 6);
    return all;
}

/* ---- what steps share ---- */

/* Of the two states the first is the position, the second the velocity. The field is asked for its
 * parts: the force F is the acceleration at rest, gamma what it loses by velocity. */
typedef struct {
    const ode_step *step;
    ode_step_results *results;
    ad_var x, v, h, gamma_h;
    ad_var g[2];
} motion;

static motion motion_of(const ode_step *s, ode_step_results *r)
{
    motion q = { .step = s, .results = r, .x = s->y[0], .v = s->y[1], .h = s->h };
    ad_var dy[2], damping, ones = ad_ones_like(q.v);
    ode_record_drift_diffusion(s, r, 0, s->y, dy, q.g);
    ad_jvp_cut(1, &q.v, &ones, 1, dy + 1, &damping);
    q.gamma_h = ad_neg(ad_mul(q.h, damping));
    return q;
}

static ad_var force(const motion *q, int evaluation, ad_var x)
{
    ad_var y[] = { x, ad_zeros_like(q->v) }, dy[2];
    ode_record_drift_diffusion(q->step, q->results, evaluation, y, dy, NULL);
    return dy[1];
}

/* rho times a number of the path, in the velocity's shape. */
static ad_var noise(const motion *q, ad_var number)
{
    ad_var dy[2];
    ode_record_noise(q->step, q->g, number, dy);
    return dy[1];
}

/* x + a b */
static ad_var plus(ad_var x, ad_var a, ad_var b) { return ad_add(x, ad_mul(a, b)); }

static void langevin_begin(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    motion q = { .step = s, .results = r, .v = s->y[1] };
    r->carry[0] = force(&q, 0, s->y[0]);
    r->carry[1] = ad_zeros_like(s->y[1]);
}

static void carry_force(const motion *q, ad_var f)
{
    q->results->carry[0] = f;
    q->results->carry[1] = ad_zeros_like(q->v);
}

/* ---- ALIGN ---- */

/* The force is that of the line through the forces at both ends. */
static void align_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    motion q = motion_of(s, r);
    averages a = average(q.gamma_h, 1);
    ad_var w = noise(&q, ode_record_increment(s)), area = noise(&q, ode_record_area(s));
    ad_var f = s->carry[0];
    /* x + h (first v + second (h F + rho W) + third rho H) */
    ad_var speed = plus(ad_mul(a.first, q.v), a.second, plus(w, q.h, f));
    r->next[0] = plus(q.x, q.h, plus(speed, a.third, area));
    ad_var end = force(&q, 1, r->next[0]);
    /* decay v + h (first F + second (F' - F)) + rho (first W - a third H) */
    ad_var change = ad_mul(q.h, ad_mul(a.second, ad_sub(end, f)));
    ad_var v = plus(ad_mul(a.decay, q.v), a.first, plus(w, q.h, f));
    r->next[1] = ad_sub(ad_add(v, change), ad_mul(q.gamma_h, ad_mul(a.third, area)));
    carry_force(&q, end);
    if (!s->estimate) return;
    r->error[0] = ad_zeros_like(q.x);
    r->error[1] = change;
}

/* ---- SORT, QUICSORT ---- */

/* The path is replaced by jumps of v at the ends of the step, rho (H + 6 K) and -rho (H - 6 K), and
 * a line between of slope rho (W - 12 K) / h, which has the same W, H and K. */
typedef struct {
    ad_var jump, line, back;
} shifts;

static shifts shifts_of(const motion *q)
{
    const ode_step *s = q->step;
    ad_var w = ode_record_increment(s), area = ode_record_area(s);
    ad_var third = ode_record_second_area(s);
    return (shifts){ .jump = noise(q, ad_add(area, ad_scale(third, 6))),
                     .line = noise(q, ad_sub(w, ad_scale(third, 12))),
                     .back = noise(q, ad_sub(area, ad_scale(third, 6))) };
}

/* x + c h (first v + c second (h F + line)), with the averages of the fraction c. */
static ad_var position(const motion *q, const averages *a, double c, ad_var v, ad_var pull)
{
    ad_var speed = plus(ad_mul(a->first, v), ad_scale(a->second, c), pull);
    return plus(q->x, ad_scale(q->h, c), speed);
}

/* Between the jumps, a Runge-Kutta method of order 3 for the semi-linear equation. */
static void sort_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    (void)m;
    motion q = motion_of(s, r);
    averages half = average(q.gamma_h, 0.5), all = average(q.gamma_h, 1);
    shifts shift = shifts_of(&q);
    ad_var v = ad_add(q.v, shift.jump), first = s->carry[0];
    ad_var middle = force(&q, 1, position(&q, &half, 0.5, v, plus(shift.line, q.h, first)));
    ad_var mean = ad_add(ad_scale(first, 1.0 / 3), ad_scale(middle, 2.0 / 3));
    r->next[0] = position(&q, &all, 1, v, plus(shift.line, q.h, mean));
    ad_var last = force(&q, 2, r->next[0]);
    /* decay v + h (decay F / 6 + 2/3 decay_half F_middle + F' / 6) + first line */
    ad_var pull = ad_add(ad_scale(ad_mul(all.decay, first), 1.0 / 6), ad_scale(last, 1.0 / 6));
    pull = plus(pull, ad_scale(half.decay, 2.0 / 3), middle);
    ad_var end = plus(plus(ad_mul(all.decay, v), all.first, shift.line), q.h, pull);
    r->next[1] = ad_sub(end, shift.back);
    carry_force(&q, last);
}

/* Between the jumps, the force acts at the two points of Gauss alone. */
static void quicsort_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    motion q = motion_of(s, r);
    const double left = m->c[1], right = m->c[2];
    averages to_left = average(q.gamma_h, left), to_right = average(q.gamma_h, right);
    averages third = average(q.gamma_h, 1.0 / 3), all = average(q.gamma_h, 1);
    shifts shift = shifts_of(&q);
    ad_var v = ad_add(q.v, shift.jump), square = ad_square(q.h);
    ad_var first = force(&q, 1, position(&q, &to_left, left, v, shift.line));
    ad_var x = position(&q, &to_right, right, v, shift.line);
    x = plus(x, ad_scale(square, 1.0 / 3), ad_mul(third.first, first));
    ad_var second = force(&q, 2, x);
    ad_var pull = ad_add(ad_scale(ad_mul(to_right.first, first), right / 2),
                         ad_scale(ad_mul(to_left.first, second), left / 2));
    r->next[0] = plus(position(&q, &all, 1, v, shift.line), square, pull);
    pull = ad_add(ad_mul(to_right.decay, first), ad_mul(to_left.decay, second));
    ad_var end = plus(plus(ad_mul(all.decay, v), all.first, shift.line), ad_scale(q.h, 0.5), pull);
    r->next[1] = ad_sub(end, shift.back);
}

/* ---- the constants ---- */

/* The points of Gauss are 1/2 -+ sqrt(3)/6. */
static const double at_both_ends[] = { 0, 1 }, at_simpson[] = { 0, 0.5, 1 };
static const double at_gauss[] = { 0, 0.21132486540518711775, 0.78867513459481288225 };
static const ode_shapes one_state[] = { ODE_SHAPE_STATE };

const ode_method sde_align = {
    .name = "align",
    .about = "ALIGN, of the underdamped Langevin equation (Foster, Lyons, Oberhauser 2021, "
             "arXiv:2101.03446; sde_langevin): strong order 2, one force a step; with an estimate",
    .flags = ODE_METHOD_ADAPTIVE,
    .order = 2,
    .times = 2,
    .times_estimate = 2,
    .times_dense = 2,
    .c = at_both_ends,
    .begin_times = 1,
    .begin_c = at_both_ends,
    .ncarry = 1,
    .carry = one_state,
    .begin = langevin_begin,
    .noise = 2,
    .takes = ODE_TAKES_LANGEVIN,
    .calculi = ODE_IN_BOTH,
    .strong_order = 2,
    .weak_order = 2,
    .step = align_step
};

const ode_method sde_sort = {
    .name = "sort",
    .about = "SORT, of the underdamped Langevin equation (Foster, Lyons, Oberhauser 2021, "
             "arXiv:2101.03446; sde_langevin): strong order 3, two forces a step",
    .order = 3,
    .times = 3,
    .times_estimate = 3,
    .times_dense = 3,
    .c = at_simpson,
    .begin_times = 1,
    .begin_c = at_both_ends,
    .ncarry = 1,
    .carry = one_state,
    .begin = langevin_begin,
    .noise = 3,
    .takes = ODE_TAKES_LANGEVIN,
    .calculi = ODE_IN_BOTH,
    .strong_order = 3,
    .weak_order = 3,
    .step = sort_step
};

const ode_method sde_quicsort = {
    .name = "quicsort",
    .about = "QUICSORT, of the underdamped Langevin equation (Scott, O'Kane, Jelincic, Foster "
             "2025, arXiv:2508.16485; sde_langevin): strong order 3, two forces a step",
    .order = 3,
    .times = 3,
    .times_estimate = 3,
    .times_dense = 3,
    .c = at_gauss,
    .noise = 3,
    .takes = ODE_TAKES_LANGEVIN,
    .calculi = ODE_IN_BOTH,
    .strong_order = 3,
    .weak_order = 3,
    .step = quicsort_step
};
