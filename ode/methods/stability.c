/* How large h |lambda| is in a step of an explicit Runge-Kutta method, and how large it may be.
 *
 * Error control keeps the state of a stiff problem right with steps beyond the stability limit: the
 * disturbance that such a step amplifies makes the next one smaller. A gradient of the steps as
 * they were taken has no such feedback, and is amplified without end. So steps are held within the
 * limit. |lambda| comes free: two stages at the same time whose states differ by d have slopes that
 * differ by J d, and what is left in d, where the smooth part of the solution cancels, is what J
 * amplifies most (the test for stiffness of DOPRI5 and DOP853: Hairer & Wanner, Solving ODEs II,
 * IV.2). Tableaux without such a pair take the highest divided difference of their stages in place
 * of d.
 *
 * In single precision a method with many stages meets another limit before. The field sees each
 * stage's state rounded; h lambda turns the rounding into one of the slope, and the later stages
 * multiply it: those of DOP853 by a hundred at h |lambda| = 4, where the step as a whole damps
 * almost everything. The derivative by lambda has what is multiplied twice. */
#include "ode/methods/recorders.h"
#include <math.h>

int ode_stage_before_last(const ode_tableau *t)
{
    for (int i = t->stages - 1; i > 0; i--)
        if (t->c[i] == 1) return i;
    return 0;
}

/* x := A x */
static void multiply_by_tableau(const ode_tableau *t, double *x)
{
    for (int i = t->stages; i >= 0; i--) {
        x[i] *= i > 0 ? t->diagonal : 0;
        for (int j = 0; j < i; j++) x[i] += ode_tableau_row(t, i)[j] * x[j];
    }
}

/* R(z) = 1 + sum_k z^k b A^(k-1) 1, where b is the last row of A; times (1 - diagonal z)^stages a
 * polynomial. */
int ode_runge_kutta_growth(const ode_method *m, double *coefficient)
{
    const ode_tableau *t = m->tableau;
    int n = t->stages;
    double power[ODE_MAX_STAGES];
    for (int i = 0; i <= n; i++) power[i] = 1;
    for (int k = 0; k <= n; k++) {
        coefficient[k] = power[n];
        multiply_by_tableau(t, power);
    }
    for (int i = 0; i < n; i++)
        for (int k = n; k > 0; k--) coefficient[k] -= t->diagonal * coefficient[k - 1];
    return n;
}

/* |R(-x)| from the coefficients of R. */
static double amplification(int n, const double *coefficient, double x)
{
    double r = 0;
    for (int k = n; k >= 0; k--) r = coefficient[k] - x * r;
    return fabs(r);
}

double ode_runge_kutta_stability(const ode_method *m)
{
    double coefficient[ODE_MAX_STAGES + 1];
    int n = ode_runge_kutta_growth(m, coefficient);
    const double step = 1.0 / 16;
    double stable = step;
    while (stable < 100 && amplification(n, coefficient, stable + step) <= 1) stable += step;
    double unstable = stable + step;
    for (int i = 0; i < 12; i++) {
        double middle = (stable + unstable) / 2;
        if (amplification(n, coefficient, middle) <= 1) stable = middle;
        else unstable = middle;
    }
    return stable;
}

/* x := (I - z A^T)^-1 x */
static void multiply_through_stages(const ode_tableau *t, double z, double *x)
{
    for (int i = t->stages - 1; i > 0; i--)
        for (int j = 0; j < i; j++) x[j] += z * ode_tableau_row(t, i)[j] * x[i];
}

double ode_runge_kutta_rounding(const ode_method *m, double x)
{
    /* A step of y' = lambda y, z = h lambda, whose stages see states that are off by d ends at
     * R y + z b (I - z A)^-1 d; the derivative of the latter by log lambda is
     * z b (I - z A)^-2 d. */
    const ode_tableau *t = m->tableau;
    double gain[ODE_MAX_STAGES], sum = 0;
    for (int i = 0; i < t->stages; i++) gain[i] = ode_tableau_row(t, t->stages)[i];
    for (int twice = 0; twice < 2; twice++) multiply_through_stages(t, -x, gain);
    for (int i = 0; i < t->stages; i++) sum += x * gain[i] * (x * gain[i]);
    return sqrt(sum);
}

/* Weights w of the stages' slopes, and q of d = h sum_j q_j k_j = sum_i w_i g_i: highest divided
 * differences over their times. */
static void divided_difference(const ode_tableau *t, double *w, double *q)
{
    int n = t->stages + 1;
    for (int i = 0; i < n; i++) {
        w[i] = 1;
        q[i] = 0;
        for (int j = 0; j < n; j++) {
            AD_ASSERT(j == i || t->c[i] != t->c[j]); /* else the tableau has a pair */
            if (j != i) w[i] /= t->c[i] - t->c[j];
        }
    }
    for (int i = 1; i < n; i++)
        for (int j = 0; j < i; j++) q[j] += w[i] * ode_tableau_row(t, i)[j];
}

/* Along one mode the ratio of squares is the same in all units. A component that passes zero has a
 * small tolerance, and what the others do to it counts by its square: a ratio so many times that in
 * the units of the state is not one of a mode. */
static const double most_apart = 4;

static ad_var weighted(const ode_step *s, const ad_var *k, int n, const double *w, int state)
{
    ad_var sum = ad_none(s->tape);
    int terms = 0;
    for (int i = 0; i < n; i++) {
        if (w[i] == 0) continue;
        ad_var term = ad_scale(k[i * s->system->nstate + state], w[i]);
        sum = terms++ ? ad_add(sum, term) : term;
    }
    return sum;
}

void ode_record_stiffness(const ode_tableau *t, const ode_step *s, ode_step_results *r,
                          const ad_var *g)
{
    int n = s->system->nstate, last = t->stages, twin = ode_stage_before_last(t);
    double w[ODE_MAX_STAGES], q[ODE_MAX_STAGES];
    if (!twin) divided_difference(t, w, q);
    /* Sums of squares in units of the tolerances, and in those of the state. */
    ad_var slopes[2], states[2];
    for (int j = 0; j < n; j++) {
        ad_var dk, dg, weight = ode_record_weight(s, r->next, j);
        if (twin) {
            dk = ad_sub(r->k[last * n + j], r->k[twin * n + j]);
            dg = ad_sub(r->next[j], g[j]);
        } else {
            dk = weighted(s, r->k, last + 1, w, j);
            dg = ad_mul(s->h, weighted(s, r->k, last + 1, q, j));
        }
        for (int plain = 0; plain < 2; plain++) {
            ad_var dk2 = ode_record_row_squares(plain ? dk : ad_mul(dk, weight));
            ad_var dg2 = ode_record_row_squares(plain ? dg : ad_mul(dg, weight));
            slopes[plain] = j ? ad_add(slopes[plain], dk2) : dk2;
            states[plain] = j ? ad_add(states[plain], dg2) : dg2;
        }
    }
    ad_var ratio = ad_div(slopes[0], ad_add(states[0], s->norm.rounding));
    ad_var plain = ad_div(slopes[1], states[1]);
    ratio = ad_select(ad_lt(ad_scale(plain, most_apart), ratio), plain, ratio);
    r->stiffness = ad_reduce_max(ratio, 0, NULL, 0);
}
