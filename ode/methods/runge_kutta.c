/* One recorder for all explicit Runge-Kutta tableaux. */
#include "ode/methods/recorders.h"

/* h sum_i e_i k_i over the first n stages of each of `count` arrays. */
static void record_errors(const ode_step *s, int n, const double *e, int count, const ad_var *k,
                          ad_var *error)
{
    for (int j = 0; j < count; j++)
        error[j] = ad_mul(s->h, ode_record_weighted(n, e, k + j, count));
}

/* Increments of the quadratures, and their errors. */
static void finish_quadratures(const ode_tableau *t, const ode_step *s, ode_step_results *r)
{
    int nquad = s->system->nquad, last = t->stages;
    const double *b = ode_tableau_row(t, last);
    for (int q = 0; q < nquad; q++) {
        r->quad[q] = ad_mul(s->h, ode_record_weighted(last, b, r->rates + q, nquad));
        if (s->estimate) r->rate[q] = r->rates[last * nquad + q];
    }
    if (!s->quadrature.size) return;
    record_errors(s, last + 1, t->e, nquad, r->rates, r->quad_error);
    if (t->e3) record_errors(s, last + 1, t->e3, nquad, r->rates, r->quad_error3);
}

/* Whether the quadratures' rates at stage i are wanted: the last one begins the next step. */
static bool wants_rates(const ode_tableau *t, const ode_step *s, int i)
{
    if (!s->quadrature.wanted || i > t->stages) return false;
    if (i == t->stages) return s->estimate;
    return ode_tableau_row(t, t->stages)[i] != 0 ||
           (s->quadrature.size && (t->e[i] != 0 || (t->e3 && t->e3[i] != 0)));
}

/* The slope at stage i, where the state is `stage`. */
static void record_slope(const ode_tableau *t, const ode_step *s, ode_step_results *r, int i,
                         const ad_var *stage)
{
    int n = s->system->nstate, nquad = s->quadrature.wanted ? s->system->nquad : 0;
    ad_var *k = r->k + i * n, *rate = wants_rates(t, s, i) ? r->rates + i * nquad : NULL;
    if (i > 0 || !s->slope) {
        ode_record_field(s, r, i, stage, k, rate);
        return;
    }
    for (int j = 0; j < n; j++) k[j] = s->slope[j];
    for (int q = 0; rate && q < nquad; q++) rate[q] = s->quadrature.rate[q];
}

void ode_runge_kutta_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    const ode_tableau *t = m->tableau;
    int n = s->system->nstate, last = t->stages, twin = ode_stage_before_last(t);
    int count = ode_method_times(m, s->estimate, s->dense);
    AD_ASSERT(count <= ODE_MAX_STAGES && twin < last);
    ad_var before[ODE_MAX_JOINT] = { 0 };
    for (int i = 0; i < (count > last ? count : last + 1); i++) {
        ad_var stage[ODE_MAX_JOINT];
        const double *a = i ? ode_tableau_row(t, i) : NULL;
        for (int j = 0; j < n; j++)
            stage[j] = i ? ode_record_sum(s->y[j], s->h, i, a, r->k + j, n) : s->y[j];
        for (int j = 0; i == last && j < n; j++) r->next[j] = stage[j];
        for (int j = 0; i && i == twin && j < n; j++) before[j] = stage[j];
        if (i < count) record_slope(t, s, r, i, stage);
    }
    if (s->quadrature.wanted) finish_quadratures(t, s, r);
    if (!s->estimate) return;
    for (int j = 0; j < n; j++) r->slope[j] = r->k[last * n + j];
    record_errors(s, last + 1, t->e, n, r->k, r->error);
    if (t->e3) record_errors(s, last + 1, t->e3, n, r->k, r->error3);
    if (s->stability) ode_record_stiffness(t, s, r, before);
}

/* Hermite's basis in the form theta F0 + theta (1-theta) F1 + theta^2 (1-theta) F2 + theta^2
 * (1-theta)^2 (...), with F0 = sum b k, F1 = k_1 - F0, F2 = 2 F0 - k_last - k_1 (Hairer, Norsett,
 * Wanner, Solving ODEs I, II.6). */
void ode_runge_kutta_dense(const ode_method *m, double theta, double *w, double *slope)
{
    const ode_tableau *t = m->tableau;
    int s = t->stages, n = s + 1 + t->extra;
    const double *b = ode_tableau_row(t, s);
    double x = theta, u = 1 - theta;
    double p0 = x, p1 = x * u, p2 = x * x * u, d0 = 1, d1 = 1 - 2 * x, d2 = x * (2 - 3 * x);
    double q = x * x * u * u,
           dq =
               2 * x * u * (1 - 2 * x); /* times 1, theta, theta (1 - theta), theta^2 (1 - theta) */
    double p[] = { q, q * x, q * x * u, q * x * x * u };
    double d[] = { dq, dq * x + q, dq * x * u + q * (1 - 2 * x),
                   dq * x * x * u + q * x * (2 - 3 * x) };
    for (int i = 0; i < n; i++) {
        double bi = i < s ? b[i] : i == s ? t->diagonal : 0, first = i == 0, last = i == s;
        w[i] = bi * p0 + (first - bi) * p1 + (2 * bi - last - first) * p2;
        slope[i] = bi * d0 + (first - bi) * d1 + (2 * bi - last - first) * d2;
        for (int r = 0; r < t->dense; r++) {
            w[i] += t->d[r * n + i] * p[r];
            slope[i] += t->d[r * n + i] * d[r];
        }
    }
}
