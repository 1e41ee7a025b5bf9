/* Internal: Brownian paths. */
#ifndef ODE_NOISE_H
#define ODE_NOISE_H
#include "autodiff/extension.h"

typedef struct {
    uint64_t seed;
    bool antithetic, common;
    ad_dtype dtype;
    int64_t rows, m;
    int groups; /* 1: W; 2: and H; 3: and K */
    double t0, t1;
    int64_t cells;
    const double *grid; /* cells + 1 boundaries, or NULL: equal cells */
    const double *draw; /* NULL, or one number or one a row */
    int64_t ndraw;
    int threads;
} ode_noise_settings;

typedef struct ode_noise ode_noise; /* a path opened for a solve: rows x m components */
/* Opens, or reopens (memory is kept). 0 or -1 with a message. */
int ode_noise_open(ode_noise **noise, const ode_noise_settings *settings, char *error,
                   size_t error_size);
/* Standardised numbers of the step from a to b: out[group] [rows,m] in the dtype. 0 or -1 with a
 * message. */
int ode_noise_step(ode_noise *noise, double a, double b, void *const *out, char *error,
                   size_t error_size);
void ode_noise_close(ode_noise *noise);

#endif
