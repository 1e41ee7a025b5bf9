/* A latent ODE of series that are seen at irregular times (Chen et al. 2018, arXiv:1806.07366;
 * Rubanova et al. 2019, arXiv:1907.03907): a recurrent network reads what is seen backwards in time
 * and says where in a latent space the series began; an equation goes on from there. */
#ifndef LATENT_H
#define LATENT_H
#include "costate.h"
#include <stdint.h>

typedef struct {
    int64_t channels;            /* numbers of x */
    int64_t seen, latent, width; /* observations; size of z; of hidden layers */
    int64_t units;               /* of the recurrent network */
    int grid;                    /* times of x in the loss */
    double (*time)(int64_t k); /* the k-th of these times, which are equally spaced; 0 for k = 0 */
    double noise;              /* sd of x about what is decoded */
    nn_model *model;
    nn_recurrent encoder;
    nn_linear code;
    nn_mlp field, decoder;
    ode_options solver;
} latent_ode;

/* Makes model and layers from the numbers before them. */
void latent_ode_new(latent_ode *m);
/* Mean and log sd of q(z0 | seen), [rows,latent] each, of sequences [rows,seen,channels + 1 or
 * more]: x, the time since the observation before, and what the encoder does not look at. */
void latent_ode_encode(const latent_ode *m, ad_var theta, ad_var sequence, ad_var *code);
/* Means of x at the first n times of the grid, [rows,n,channels]. */
ad_var latent_ode_decode(const latent_ode *m, ad_var theta, ad_var z0, int n);
/* Minus the bound, for each number that is seen: a loss whose user is a latent_ode. batch:
 * sequences, x on the grid, mask, draws [rows,latent], which latent_ode_draw fills. */
ad_var latent_ode_loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user);
void latent_ode_draw(const latent_ode *m, const nn_step *step, double *out);
#endif
