/* One recorder for all ESDIRK tableaux (esdirk.def).
 *
 * The first stage is the slope at the beginning, which the step before has left; each of the others
 * is an equation k_i = f(t_i, y + h sum_{j<i} a_ij k_j + g k_i) with the same g = diagonal h, so
 * all share the factors of one matrix I - g J (newton.c). The last stage is the result: what decays
 * fast is gone at the end of the step, whatever its error in the stages before.
 *
 * First guesses of slopes are those of earlier stages, interpolated: from the latest stage at the
 * same time where there is one (the embedded result, for the last stage), else by the polynomial
 * through the nearest three. */
#include "ode/methods/recorders.h"
#include <math.h>

enum { GUESS_NODES = 3 };

/* Weights w [i] of the slopes before stage i in the first guess of its own. */
static void guess_weights(const ode_tableau *t, int i, double *w)
{
    int node[GUESS_NODES], n = 0;
    bool used[ODE_MAX_STAGES] = { false };
    for (int j = 0; j < i; j++) w[j] = 0;
    for (int j = i - 1; j >= 0; j--)
        if (t->c[j] == t->c[i]) {
            w[j] = 1;
            return;
        }
    for (; n < GUESS_NODES && n < i; n++) {
        int nearest = -1;
        for (int j = 0; j < i; j++)
            if (!used[j] &&
                (nearest < 0 || fabs(t->c[j] - t->c[i]) < fabs(t->c[nearest] - t->c[i])))
                nearest = j;
        used[nearest] = true;
        node[n] = nearest;
    }
    for (int p = 0; p < n; p++) {
        w[node[p]] = 1;
        for (int q = 0; q < n; q++)
            if (q != p) w[node[p]] *= (t->c[i] - t->c[node[q]]) / (t->c[node[p]] - t->c[node[q]]);
    }
}

/* The slope at the beginning. */
static void record_first(const ode_step *s, ode_step_results *r)
{
    int nquad = s->quadrature.wanted ? s->system->nquad : 0;
    if (!s->slope) {
        ode_record_field(s, r, 0, s->y, r->k, nquad ? r->rates : NULL);
        return;
    }
    for (int j = 0; j < s->system->nstate; j++) r->k[j] = s->slope[j];
    for (int q = 0; q < nquad; q++) r->rates[q] = s->quadrature.rate[q];
}

/* b - bhat of h k, with k of `count` arrays a stage. */
static void record_errors(const ode_tableau *t, const ode_step *s, int count, const ad_var *k,
                          ad_var *error)
{
    for (int j = 0; j < count; j++)
        error[j] = ad_mul(s->h, ode_record_weighted(t->stages + 1, t->e, k + j, count));
}

/* Quadratures have rates of their own, evaluated at the stages that have been found. */
static void finish_quadratures(const ode_tableau *t, const ode_step *s, ode_step_results *r)
{
    int nquad = s->system->nquad, last = t->stages;
    double b[ODE_MAX_STAGES];
    for (int i = 0; i <= last; i++) b[i] = i < last ? ode_tableau_row(t, last)[i] : t->diagonal;
    for (int q = 0; q < nquad; q++) {
        r->quad[q] = ad_mul(s->h, ode_record_weighted(last + 1, b, r->rates + q, nquad));
        if (s->estimate) r->rate[q] = r->rates[last * nquad + q];
    }
    if (s->quadrature.size) record_errors(t, s, nquad, r->rates, r->quad_error);
}

void ode_esdirk_step(const ode_method *m, const ode_step *s, ode_step_results *r)
{
    const ode_tableau *t = m->tableau;
    int n = s->system->nstate, last = t->stages;
    int nquad = s->quadrature.wanted ? s->system->nquad : 0;
    ad_var g = ad_scale(s->h, t->diagonal);
    ad_var base[ODE_MAX_JOINT], guess[ODE_MAX_JOINT], z[ODE_MAX_JOINT], unused[ODE_MAX_JOINT];
    double w[ODE_MAX_STAGES];
    record_first(s, r);
    ode_stages stages = ode_stages_begin(s);
    for (int i = 1; i <= last; i++) {
        guess_weights(t, i, w);
        for (int j = 0; j < n; j++) {
            base[j] = ode_record_sum(s->y[j], s->h, i, ode_tableau_row(t, i), r->k + j, n);
            guess[j] = ode_record_weighted(i, w, r->k + j, n);
        }
        ode_record_stage(&stages, i, g, base, guess, r->k + i * n, z);
        if (nquad) ode_record_field(s, r, i, z, unused, r->rates + i * nquad);
    }
    ode_stages_end(&stages, r);
    for (int j = 0; j < n; j++) r->next[j] = z[j];
    if (nquad) finish_quadratures(t, s, r);
    if (!s->estimate) return;
    for (int j = 0; j < n; j++) r->slope[j] = r->k[last * n + j];
    record_errors(t, s, n, r->k, t->filtered ? base : r->error);
    if (t->filtered) ode_record_filter(&stages, last, g, z, base, r->error);
}
