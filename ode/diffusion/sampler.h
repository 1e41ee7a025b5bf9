/* Internal: what a sampler is. */
#ifndef ODE_DIFFUSION_SAMPLER_H
#define ODE_DIFFUSION_SAMPLER_H
#include "ode/diffusion/model.h"

enum { ODE_SAMPLER_STAGES = 2 };

/* What a step or a correction is recorded from. Times are [1,1], inputs of the program. */
typedef struct {
    const ode_diffusion *model;  /* complete */
    const ode_sampling *options; /* complete */
    const ad_var *args;
    ad_var x;        /* [rows,d], at `from`; of a correction at `to` */
    ad_var from, to; /* the step's times */
    ad_var before;   /* where the step before began; `from`: there was none */
    ad_var
        stage[ODE_SAMPLER_STAGES]; /* times inside, at the sampler's parts of the step in lambda */
    ad_var carried;                /* [rows,d] by the step before */
    ad_var noise;                  /* [rows,d], standard normal */
} ode_sampler_step;

struct ode_sampler {
    const char *name, *about;
    int order;
    int evaluations; /* a step */
    bool fresh;      /* a step reads noise always; takes_eta: where options.eta is not 0 */
    bool takes_eta;
    bool log_snr;                    /* its own spacing */
    double part[ODE_SAMPLER_STAGES]; /* where stages are; 0: none */
    /* x at `to`; NULL: x stays. May set *carried for the next step. */
    ad_var (*step)(const ode_sampler_step *s, ad_var *carried);
    ad_var (*correct)(const ode_sampler_step *s); /* x at `to`, moved; one evaluation; or NULL */
    int corrections;                              /* defaults of options */
    double ratio;
};

#endif
