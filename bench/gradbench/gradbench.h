/* The programs of GradBench (gradbench/gradbench on GitHub), written anew: each as a function of
 * flat arrays with a value and a derivative, recorded with costate, and where it is short with its
 * adjoint by hand. Peers get
 * the numbers of the same cases (peers.h, ../peers/gradbench_jax.py). */
#ifndef GRADBENCH_H
#define GRADBENCH_H
#include "costate.h"
#include <stdbool.h>

enum { GB_INPUTS = 4, GB_SIZES = 3 };

/* A program at one size. Inputs are flat arrays; with rows, input k has count[k] numbers a row. */
typedef struct {
    const char *name;       /* "ode.10" */
    int64_t size[GB_SIZES]; /* what they mean is said where the program is */
    int ninput;
    int64_t rows; /* 0: the program has no rows */
    int64_t count[GB_INPUTS];
    double *input[GB_INPUTS];
    int64_t nvalue, nderivative; /* in all; the derivative is by the first input */
} gb_case;

typedef struct {
    const char *name;
    /* Says the counts of a case from its sizes. */
    void (*plan)(gb_case *c);
    /* Fills the inputs. */
    void (*fill)(const gb_case *c);
    /* Records the value; the derivative is its gradient or, of several values, ad_jacobian. */
    ad_var (*record)(const gb_case *c, const ad_var *in);
    /* NULL: none. work: as many numbers as work_size says. */
    void (*by_hand)(const gb_case *c, double *value, double *derivative, double *work);
    int64_t (*work_size)(const gb_case *c);
} gb_program;

extern const gb_program gb_ode, gb_lse, gb_kmeans, gb_determinant, gb_gmm, gb_lstm, gb_adjustment;

/* Number i of array k: within -1 and 1, without a pattern that a program could notice. */
double gb_number(int k, int64_t i);
/* x[n] = shift + scale * gb_number(k, i) */
void gb_numbers(int k, int64_t n, double shift, double scale, double *x);
/* Columns start .. stop of the last axis. */
static inline ad_var gb_part(ad_var x, int64_t start, int64_t stop)
{
    return ad_slice(x, -1, start, stop);
}

#endif
