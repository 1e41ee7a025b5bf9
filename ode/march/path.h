/* Internal: the Brownian path of a solve. */
#ifndef ODE_PATH_H
#define ODE_PATH_H
#include "ode/march/settings.h"
#include "ode/noise/noise.h"
#include "ode/step/unit.h"

typedef struct {
    ode_noise *noise, *pair_noise;
    ode_noise_settings settings; /* of the solve in progress */
    size_t pairs;                /* where those begin in the numbers of a step */
    ode_buffer numbers;          /* of a step that keeps none */
    ode_buffer draw, grid;
} ode_path;

/* The numbers of a step, standardised, as its ports have them: groups [rows, m], then those of the
 * pairs of components, of methods that ask for them. */
size_t ode_path_bytes(const ode_settings *settings, const ode_system *system, int64_t rows);

/* For a solve from t0 to t1 with the arguments args; count + 1 boundaries of its steps, or NULL:
 * they are not known before; stretch: the rows of which the steps' program has its inputs filled
 * at a time, or 0. 0, or -1 with a message. */
int ode_path_open(ode_path *path, const ode_settings *settings, const ode_system *system,
                  int64_t rows, int threads, const void *const *args, double t0, double t1,
                  int64_t count, const double *boundaries, int64_t stretch, char *error,
                  size_t error_size);
void ode_path_close(ode_path *path);
/* The shortest step from t of which the path has numbers. */
double ode_path_shortest(const ode_path *path, double t);
/* Points the runner of a step at its numbers. */
void ode_path_point(const ode_path *path, ode_runner *runner, const void *numbers);
/* Finds the numbers of the step from a to b, and points its runner at them; memory for them, or
 * NULL: they need not outlive the step. Over no time they are zeros. Where the runner's program
 * allows it they are there only once it has run, drawn by the threads that use them. 0, or -1 with
 * a message. */
int ode_path_step(ode_path *path, ode_runner *runner, double a, double b, void *numbers,
                  char *error, size_t error_size);

#endif
