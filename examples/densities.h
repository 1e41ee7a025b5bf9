/* The standard two-dimensional densities on which normalizing flows are shown (as in Grathwohl et
 * al. 2019, arXiv:1810.01367). */
#ifndef DENSITIES_H
#define DENSITIES_H
#include "nn/nn.h"

typedef struct {
    const char *name;
    void (*draw)(ad_rng *rng, double *x, double *y); /* one point */
    double radius; /* half the side of a square that holds nearly all of it */
    double (*log_density)(double x, double y); /* NULL where there is no closed form */
} density;

/* NULL-terminated by name. */
extern const density densities[];
const density *density_find(const char *name);

/* Mean distance of the pairs of two sets of n points [n,2]. */
double mean_distance(int64_t n, const double *x, const double *y);
/* The energy distance of two sets (Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018): 0 if and
 * only if they are one distribution. Two sets of one distribution are on average 2 D / n from each
 * other, D the mean distance of two points of it. */
double energy_distance(int64_t n, const double *x, const double *y);
#endif
