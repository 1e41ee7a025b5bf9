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
#endif
