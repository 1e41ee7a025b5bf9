/* Mixtures of Gaussians with full covariances: the baselines of density models. */
#ifndef MIXTURE_H
#define MIXTURE_H
#include "nn/nn.h"

/* p(x) = sum_k share_k N(x; mean_k, C_k), with C_k = L_k L_k^T. */
typedef struct {
    int components;
    int64_t d;
    double *log_share;   /* [components] */
    double *mean;        /* [components,d] */
    double *root;        /* [components,d,d]: L, lower triangular */
    double *inverse;     /* [components,d,d]: L^-1 */
    double *log_inverse; /* [components]: log det L^-1 */
    double *moments;     /* [components,d,d]: where sums are made */
} mixture;

/* Fits a mixture to x [n,d] by `rounds` of expectation maximisation (Dempster, Laird, Rubin 1977)
 * after a first one from the given components (of row i: component[i], 0 .. components - 1; NULL:
 * all are of component 0). Covariances are drawn towards their mean over all components by the
 * share `shrink`, as by Friedman (1989): few rows do not make d (d + 1) / 2 numbers. false after
 * explaining. */
bool mixture_fit(mixture *m, int components, double shrink, int rounds, int64_t n, int64_t d,
                 const double *x, const double *component);
/* log p of n rows; false after explaining. */
bool mixture_log_density(const mixture *m, int64_t n, const double *x, double *out);
void mixture_draw(const mixture *m, ad_rng *rng, int64_t n, double *out);
void mixture_clear(mixture *m);
#endif
