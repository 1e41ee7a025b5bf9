#include "grid_smoother.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = GRID_PLACES };
static const double spacing = 6.0 / (N - 1);

double grid_place(int i) { return -3 + spacing * i; }

static double normal_density(double x, double sd)
{
    return exp(-0.5 * x * x / (sd * sd)) / (sd * sqrt(2 * 3.14159265358979323846));
}

/* Weights p by the likelihood of what is seen, makes their sum 1, and returns its logarithm. */
static double weigh(double *p, double seen, double error)
{
    double sum = 0;
    for (int i = 0; i < N; i++) {
        if (!isnan(seen)) p[i] *= normal_density(seen - grid_place(i), error);
        sum += p[i];
    }
    for (int i = 0; i < N; i++) p[i] /= sum;
    return log(sum);
}

/* The probability of each step from place i to place j. */
static void transitions(const grid_chain *c, double (*move)[N])
{
    for (int i = 0; i < N; i++) {
        double sum = 0, to = grid_place(i) + c->drift[i] * c->h;
        for (int j = 0; j < N; j++)
            sum += move[i][j] = normal_density(grid_place(j) - to, c->sigma * sqrt(c->h));
        for (int j = 0; j < N; j++) move[i][j] /= sum;
    }
}

double grid_smooth(const grid_chain *c, double *posterior)
{
    double(*move)[N] = malloc(sizeof(double[N][N])), later[N], next[N], log_likelihood = 0;
    if (!move) return NAN;
    transitions(c, move);
    for (int i = 0; i < N; i++) posterior[i] = normal_density(grid_place(i), 1) * spacing;
    for (int64_t k = 0; k <= c->steps; k++) {
        double *p = posterior + k * N;
        for (int j = 0; k && j < N; j++) p[j] = 0;
        for (int i = 0; k && i < N; i++)
            for (int j = 0; j < N; j++) p[j] += p[i - N] * move[i][j];
        log_likelihood += weigh(p, c->seen[k], c->error);
    }
    /* later[i]: how likely is what is seen after step k, from place i; of any size. */
    for (int i = 0; i < N; i++) later[i] = 1;
    for (int64_t k = c->steps; k >= 0; k--) {
        double *p = posterior + k * N;
        memcpy(next, later, sizeof next);
        for (int i = 0; i < N; i++) p[i] *= later[i];
        weigh(p, NAN, 0);
        weigh(next, c->seen[k], c->error);
        for (int i = 0; i < N; i++) {
            later[i] = 0;
            for (int j = 0; j < N; j++) later[i] += move[i][j] * next[j];
        }
    }
    free(move);
    return log_likelihood;
}

double grid_log_density(const double *posterior, double seen, double error)
{
    double sum = 0;
    for (int i = 0; i < N; i++) sum += posterior[i] * normal_density(seen - grid_place(i), error);
    return log(sum);
}

double grid_quantile(const double *posterior, double share)
{
    double below = 0;
    int i = 0;
    while (i < N - 1 && below + posterior[i] < share) below += posterior[i++];
    return grid_place(i);
}
