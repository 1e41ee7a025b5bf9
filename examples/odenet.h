/* An ODE-Net for pictures of digits and the networks that it is compared with: a residual network
 * and a linear classifier (Chen et al. 2018, arXiv:1806.07366, section 3 and table 1). How they are
 * trained, and what the solver and its adjoints do in them. */
#ifndef ODENET_H
#define ODENET_H
#include "costate.h"
#include "digits.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { ODENET_BLOCKS = 6, ODENET_COMPARED = 64 };
typedef enum { ODENET_LINEAR, ODENET_RESIDUAL, ODENET_ODE, ODENET_KINDS } odenet_kind;

/* Two convolutions 3x3, a group norm before each. */
typedef struct {
    nn_norm first, second;
    nn_conv one, two;
} odenet_block;

typedef struct {
    odenet_kind kind;
    int side, levels; /* of the digits */
    int64_t channels; /* of the state; half as many after the first convolution */
    nn_model *model;
    nn_conv down[2];
    nn_norm between, last;
    odenet_block residual[ODENET_BLOCKS], ode;
    nn_conv time[2]; /* of the channel that the time is */
    nn_norm out;     /* of F */
    nn_linear linear;
} odenet;

/* A network, and how it is used. */
typedef struct {
    const odenet *net;
    double smoothing; /* of the labels */
    ode_options solver;
} odenet_use;

/* Makes model and layers from the members before them. */
void odenet_build(odenet *n);
/* The state [rows,s,s,channels] that the middle begins with; grey [rows,pixels], 0 .. levels - 1.
 */
ad_var odenet_state(const odenet *n, ad_var theta, ad_var grey);
/* The state at time 1, of that at time 0. */
ad_var odenet_solve(const odenet *n, ad_var theta, ad_var h, const ode_options *solver);
/* [rows,DIGITS] */
ad_var odenet_logits(const odenet_use *u, ad_var theta, ad_var grey);

/* ---- training -------------------------------------------------------------------------------- */

/* The digits, those for training first. */
typedef struct {
    digit_set all;
    int64_t ntrain;
    double bend;         /* how much digits are moved in training */
    unsigned char *part; /* [all.n]: the nn_part of each */
    nn_array arrays[2];  /* of a batch: classes, greys */
} odenet_data;

/* Takes the digits over from both sets; false after explaining. */
bool odenet_data_new(odenet_data *data, digit_set *train, digit_set *test);
void odenet_data_clear(odenet_data *data);

typedef struct {
    int64_t epochs, adaptive, batch, seed, threads, timed;
    double rate, bend, tolerance, until;
} odenet_settings;

/* What all trainings have in common: batches, and the error of the digits for testing, which choose
 * nothing, after each `every` updates, with the network used as `tested` says; every 0: never. Both
 * are borrowed. The user of the loss is an odenet_use, which the stages give. */
nn_train_options odenet_training(const odenet_settings *s, odenet_data *data, odenet_use *tested,
                                 int64_t every);
/* Of all threads together. */
double odenet_processor_seconds(void);

/* ---- measurements ---------------------------------------------------------------------------- */

/* Plain training at the tolerance: times s->timed updates, after some that are not timed, or trains
 * until so few of the digits for testing are taken for another as s->until says, in per cent. Those
 * choose when it ends, nothing else; tests are not timed. false after explaining. */
bool odenet_time_updates(const odenet *n, const odenet_settings *s, odenet_data *data,
                         nn_theta *theta);
/* Prints and writes a line a tolerance: the error of the state of the first ODENET_COMPARED digits,
 * evaluations forwards, what the adjoints take back, and the memory of the discrete one. Solving
 * back loses its way where the tolerance is too loose. false after explaining. */
bool odenet_compare(const odenet *n, const nn_theta *theta, const digit_set *digits, FILE *f);
#endif
