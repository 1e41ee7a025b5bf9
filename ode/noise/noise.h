/* Internal: Brownian paths. W is a function of seed, draw number, row, component, and of interval
 * and cells of the path: it is the same bits on every machine, whatever was asked before, however
 * many rows and threads there are; and the same, to rounding, however many groups are asked for.
 * Each dtype has paths of its own.
 *
 * A step from a to b of length h has standardised numbers, independent of each other, with mean 0
 * and variance 1, in groups (Foster, Lyons & Oberhauser 2020, arXiv:1904.06998):
 *   0: w, of the increment W(b) - W(a) = sqrt(|h|) w;
 *   1: z, of the space-time Levy area H = sqrt(|h| / 12) z, which is the mean over the step of
 *      W(r) - W(a) - (r - a) / h (W(b) - W(a));
 *   2: z, of the space-space-time area K = sqrt(|h| / 720) z, the mean of the same times
 *      1/2 - (r - a) / h.
 * A step may go backwards: b < a. */
#ifndef COSTATE_ODE_NOISE_H
#define COSTATE_ODE_NOISE_H
#include "autodiff/extension.h"

enum { ODE_NOISE_GROUPS = 3 };

typedef struct {
    uint64_t seed;
    bool antithetic; /* row 2i+1 has minus the path of row 2i */
    bool common;     /* all rows have the path of row 0; with antithetic, odd rows minus it */
    ad_dtype dtype;
    int64_t rows, m; /* components of a row: independent Brownian motions */
    int groups;      /* 1..3 */
    double t0, t1;   /* the interval, in either direction; not used where there is a grid */
    int64_t cells;   /* at least 1; fewer than 2^31 */
    /* cells + 1 boundaries, increasing or decreasing (copied); NULL: equal cells of [t0, t1]. Both
     * directions have the same path. */
    const double *grid;
    /* ndraw whole numbers (copied), each of which has paths of its own: none is as one that is 0;
     * one for all rows; or one a row (of pairs, the first row's; common: row 0's), which takes
     * two (f64) or four times (f32) as long to draw */
    const double *draw;
    int64_t ndraw; /* 0, 1 or rows */
    int threads;   /* at most; 0: as ad_workspace_new has it */
    /* rows that ode_noise_fill draws by themselves, a power of two from 16 on; 0: none. Not with
     * common */
    int64_t stretch;
} ode_noise_settings;

typedef struct ode_noise ode_noise;

/* Opens a path, at *noise a new one where that is NULL, else in the memory of what is there. What
 * comes of it is the caller's, who closes it, also after an error. 0, or -1 with a message. Memory:
 * a few arrays of rows x m numbers for each level of the tree that is reached, of which there are
 * log2 of the cells and, where times lie within cells, at most 32 more. */
int ode_noise_open(ode_noise **noise, const ode_noise_settings *settings, char *error,
                   size_t error_size);
void ode_noise_close(ode_noise *noise); /* NULL is allowed */

/* The numbers of the step from a to b: out[group] [rows,m] in the dtype, for each of the groups.
 * Zeros where a is b. Times are rounded to 2^-32 of their cell, or 16 roundings of the interval's
 * ends where that is more. 0, or -1 with a message: a time is outside the interval, or the step is
 * shorter than what times are rounded to. Steps in order, forwards or backwards, over cells draw
 * one number a cell, component, row and group; other steps some log2(cells) numbers, and within a
 * cell three for each halving, of which there are up to 32. With areas, a step over many cells asks
 * all of them. One thread at a time. */
int ode_noise_step(ode_noise *noise, double a, double b, void *const *out, char *error,
                   size_t error_size);
/* The same in two. After ode_noise_find_step ode_noise_fill has to write the rows of the step, once
 * each, a whole number of stretches (or what is left behind them) at a time; several threads may do
 * so for different rows. */
int ode_noise_find_step(ode_noise *noise, double a, double b, void *const *out, char *error,
                        size_t error_size);
void ode_noise_fill(void *noise, int64_t first, int64_t rows);
/* For a row of the step that was found, as ad_share has it. */
double ode_noise_row_work(const ode_noise *noise);
/* No step from t that is as long as this one is too short; 0 where t is outside. */
double ode_noise_shortest(const ode_noise *noise, double t);

#endif
