/* Dense output of methods that have none of their own: the cubic Hermite interpolant through the
 * states and slopes at both ends of a step, of order 3. */
#include "ode/step/step.h"

/* Stages: the slopes at the beginning and at the end, and the mean slope (next - y) / h, so that
 * y(t + theta h) = y + h sum_i w_i k_i here too. */
enum { BEGIN, END, MEAN };

void ode_hermite_dense(const ode_method *m, double theta, double *w, double *slope)
{
    (void)m;
    double x = theta, u = 1 - theta, p1 = x * u, p2 = x * x * u, d1 = 1 - 2 * x,
           d2 = x * (2 - 3 * x);
    w[BEGIN] = p1 - p2;
    w[END] = -p2;
    w[MEAN] = x - p1 + 2 * p2;
    slope[BEGIN] = d1 - d2;
    slope[END] = -d2;
    slope[MEAN] = 1 - d1 + 2 * d2;
}

/* The evaluation of a step with dense output that is at t + c h. */
static int evaluation_at(const ode_method *m, double c)
{
    int i = 0;
    while (i < m->times_dense - 1 && m->c[i] != c) i++;
    return i;
}

void ode_hermite_record(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    int n = s->system->nstate;
    ode_record_field(s, r, evaluation_at(m, 0), s->y, r->k + BEGIN * n, NULL);
    ode_record_field(s, r, evaluation_at(m, 1), r->next, r->k + END * n, NULL);
    for (int j = 0; j < n; j++) r->k[MEAN * n + j] = ad_div(ad_sub(r->next[j], s->y[j]), s->h);
}
