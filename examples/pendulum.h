/* Pendulums, measured and made up, and how a learned one is trained and judged. */
#ifndef PENDULUM_H
#define PENDULUM_H
#include "costate.h"
#include <stdbool.h>
#include <stdint.h>

/* Stretches of trajectories at equal times. */
typedef struct {
    int64_t rows, times;
    double step;    /* from one time to the next, s */
    double *state;  /* [rows,times,2]: angle (0 where it hangs), speed */
    double *torque; /* [rows,times,1]: its mean from this time to the next */
} pendulum_set;
void pendulum_set_clear(pendulum_set *set);

/* A vector field that is learned: of angle and speed [rows,2], with `net` for its user. args:
 * theta; of a driven one also the torque [rows,times,1] at times 0, step, 2 step, ... */
typedef struct {
    const char *name;
    ode_field field;
    bool driven; /* by a torque, and with friction */
    double step; /* of the torque */
    int64_t times;
    nn_model *model;
    nn_mlp network;
    nn_theta *theta;
    double seconds; /* of the training */
} pendulum_net;

/* A network with `outputs` outputs and two hidden layers; outputs 0: none, the field is that of the
 * textbook with unknown numbers. false after explaining. */
bool pendulum_net_new(pendulum_net *net, int64_t outputs, int64_t width, uint64_t seed);
void pendulum_net_clear(pendulum_net *net);
/* The network of cos(angle), sin(angle) and the speed: [rows,outputs]. */
ad_var pendulum_network(const pendulum_net *net, ad_var theta, ad_var angle, ad_var speed);
/* The torque, divided by the inertia, less viscous and dry friction, which are learned: [rows,1].
 */
ad_var pendulum_force(const pendulum_net *net, ad_var t, ad_var speed, const ad_var *args);
/* The plain neural ODE: its network has two outputs, the derivatives of angle and speed. */
ad_var pendulum_plain(ad_var t, ad_var y, const ad_var *args, void *net);
/* angle'' = -a sin(angle) + force. */
ad_var pendulum_textbook(ad_var t, ad_var y, const ad_var *args, void *net);

typedef struct {
    const char *data; /* folder of the measurements, or NULL */
    const char *directory, *picture;
    int64_t width, steps, seed;
} pendulum_options;
/* Trains a field whose network has `outputs` outputs and the plain one on an ideal pendulum and on
 * one that is driven, prints how good they are, draws them. 0, or 1 after explaining. */
int pendulum_study(const char *name, ode_field field, int64_t outputs, const pendulum_options *o);
#endif
