/* A hidden state x on a grid: the exact posterior of a chain in one dimension, by forward and
 * backward sums over all places (the forward-backward algorithm). */
#ifndef GRID_SMOOTHER_H
#define GRID_SMOOTHER_H
#include <stdbool.h>
#include <stdint.h>

enum { GRID_PLACES = 241 };
/* Place i of the grid, which goes from -3 to 3. */
double grid_place(int i);

/* x_0 is standard normal; x_{k+1} = x_k + drift(x_k) h + sigma sqrt(h) normal. Some x_k are seen
 * with normal errors of this size. */
typedef struct {
    double drift[GRID_PLACES]; /* at the places */
    double sigma, h, error;
    int64_t steps;
    const double *seen; /* [steps + 1], NaN where nothing is seen */
} grid_chain;
/* Returns the log-likelihood of what is seen; posterior [steps + 1, GRID_PLACES]: the probability
 * of each place given all that is seen. NaN when memory is short. */
double grid_smooth(const grid_chain *chain, double *posterior);
/* Of one row of the posterior: the log density of a value seen with an error, and the place below
 * which a share of the probability lies. */
double grid_log_density(const double *posterior, double seen, double error);
double grid_quantile(const double *posterior, double share);
#endif
