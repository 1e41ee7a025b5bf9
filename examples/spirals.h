/* Noisy spirals that are seen at irregular times, as in Chen et al. 2018, section 5. */
#ifndef SPIRALS_H
#define SPIRALS_H
#include <stdbool.h>
#include <stdint.h>

/* Two curves of 1000 points, one clockwise, one counter-clockwise, as the authors' program
 * (latent_ode.py of torchdiffeq) has them. A spiral is a stretch of one: SPIRAL_GRID points, among
 * which it is seen, and as many beyond, up to SPIRAL_ALL. */
enum { SPIRAL_CURVE = 1000, SPIRAL_GRID = 100, SPIRAL_ALL = 200 };
extern const double spiral_noise; /* standard deviation of what is seen */
double spiral_time(int64_t k);    /* of the k-th point since the first */

typedef struct {
    int64_t count, seen; /* spirals; observations of each */
    double *truth;       /* [count,SPIRAL_ALL,2] */
    double *noisy;       /* [count,SPIRAL_ALL,2]: with errors */
    double *grid;        /* [count,SPIRAL_GRID,2]: the first half of `noisy` */
    double *mask;        /* [count,SPIRAL_GRID,1]: 1 where the spiral is seen, else 0 */
    double *sequence; /* [count,seen,4]: x, y, time since the observation before, to the next; the
                         last of all: to the first point beyond the grid */
} spirals;

/* future: with the points beyond the grid, so from the first 900 of the curve; else those are
 * zero. false after explaining. */
bool spirals_make(uint64_t seed, int64_t count, int64_t seen, bool future, spirals *s);
void spirals_free(spirals *s);

/* What somebody can say who knows both curves: x [count,SPIRAL_ALL,2], the stretch with the least
 * squared distance to what is seen. */
void spirals_fit(const spirals *s, double *x);

/* Mean squares over spirals and coordinates, at each time. */
typedef struct {
    double clean[SPIRAL_ALL], noisy[SPIRAL_ALL]; /* beside the truth, beside what would be seen */
} spiral_errors;
/* x: [count,SPIRAL_ALL - from,2], from the time `from` on. */
spiral_errors spirals_judge(const spirals *s, int64_t from, const double *x);
/* The root of the mean over the times from .. to - 1. */
double spirals_root(const double *squares, int64_t from, int64_t to);
#endif
