/* Internal to nn/: what fits share: the recorded loss or residuals with their derivatives, as
 * functions of the parameters without padding, in double. */
#ifndef COSTATE_NN_FIT_H
#define COSTATE_NN_FIT_H
#include "nn/model/model.h"

typedef struct {
    const char *what; /* the function that the user called */
    nn_theta *theta;
    nn_fit_options options; /* with defaults */
    nn_fit_report *report;
    char *error;
    size_t error_size;

    int64_t n;      /* parameters */
    int64_t *place; /* [n] of each in theta */
    double *lower, *upper;
    double *x; /* [n] where theta is */

    int64_t rows, m; /* m: elements of the results */
    void *key;       /* of what was recorded (ad_function_key) */
    size_t key_length;
    ad_program *plain, *derived;
    ad_workspace *plain_work, *derived_work;
    const void **inputs; /* theta, arrays, a direction */
    void **converted;    /* [narray] data of the other dtype */
    void *trial;         /* [theta] that is evaluated */
    void *direction;     /* [theta] */
    void *result;        /* [m] of dtype */
    void *derivative;    /* gradient [theta], or the residuals' tangent [m] */
    nn_progress *progress;
    char message[300]; /* of the latest evaluation that failed */
} nn_fit;

#define FIT_FAIL(f, format, ...)                                                                   \
    nn_error((f)->error, (f)->error_size, "%s: " format, (f)->what, __VA_ARGS__)

/* Checks all, records and compiles. residuals: the derivative is a tangent, not a gradient. */
int nn_fit_new(nn_fit *f, bool residuals);
void nn_fit_clear(nn_fit *f);
/* Whether options.loss still records what was compiled; theta is where the fit has ended. An error
 * if not: it reads what changes, which stood still. */
int nn_fit_compare(nn_fit *f);
/* The results at x, and their derivative: the gradient, or the tangent along number k, where
 * wanted (else k is -1 and derivative is NULL). false, with the message kept, where a number is not
 * finite or the run fails. */
bool nn_fit_evaluate(nn_fit *f, const double *x, int64_t k, double *result, double *derivative);
/* x becomes theta's. */
void nn_fit_accept(nn_fit *f, const double *x);
/* Whether number i stands at a bound and would be moved across it along d. */
bool nn_fit_blocked(const nn_fit *f, const double *x, int64_t i, double d);
/* After an iteration: counts it, tells the user, and says whether to end. */
bool nn_fit_iterated(nn_fit *f, double loss);
int nn_fit_end_with(nn_fit *f, nn_fit_end end);

#endif
