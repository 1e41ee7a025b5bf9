/* The cheapest pairing of two sets. */
#ifndef ASSIGNMENT_H
#define ASSIGNMENT_H
#include <stdbool.h>
#include <stdint.h>

/* Pairs row i of a square matrix cost [n,n] with column pair[i], each column once, so that the sum
 * of cost[i, pair[i]] is the least there is. By shortest augmenting paths, O(n^3) (Jonker &
 * Volgenant 1987, doi:10.1007/BF02278710, without its initialisation). false when memory is short.
 */
bool assign(int64_t n, const double *cost, int64_t *pair);
#endif
