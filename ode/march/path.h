/* Internal: the Brownian path of a solve. */
#ifndef ODE_PATH_H
#define ODE_PATH_H
#include "ode/march/settings.h"
#include "ode/noise/noise.h"
#include "ode/step/unit.h"

typedef struct {
    ode_noise *noise, *pair_noise;
    ode_noise_settings settings; /* of the solve in progress */
    ode_buffer numbers, pairs;   /* of a step: standardised, as its ports have them */
    ode_buffer draw, grid;
} ode_path;

/* For a solve from t0 to t1 with the arguments args; count + 1 boundaries of its steps, or NULL:
 * they are not known before. 0, or -1 with a message. */
int ode_path_open(ode_path *path, const ode_settings *settings, const ode_system *system,
                  int64_t rows, int threads, const void *const *args, double t0, double t1,
                  int64_t count, const double *boundaries, char *error, size_t error_size);
void ode_path_close(ode_path *path);
/* Points the runner of a step from a to b at the numbers of its path. Over no time they are zeros.
 * 0, or -1 with a message. */
int ode_path_step(ode_path *path, ode_runner *runner, double a, double b, char *error,
                  size_t error_size);

#endif
