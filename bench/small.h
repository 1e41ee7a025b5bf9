/* Small systems, by costate (small.c) and by hand (small_hand.c). */
#ifndef BENCH_SMALL_H
#define BENCH_SMALL_H
#include <stdint.h>

enum { SMALL_MOST = 28, SMALL_MOST_PARAMETERS = 28 * 56 + 56 + 14 };

/* By hand, for each of so many rows y [rows,n], at parameters p: out [rows,n] is the field, or y
 * after a step of the classical method of Runge and Kutta of length h. back: the cotangents of y
 * and p (summed over the rows), given that of the step's result. */
typedef struct {
    const char *name;
    int n, parameters;
    void (*field)(int64_t rows, const double *y, const double *p, double *out);
    void (*step)(int64_t rows, const double *y, const double *p, double h, double *out);
    void (*back)(int64_t rows, const double *y, const double *p, double h, const double *bar,
                 double *ybar, double *pbar);
} small_system;

enum { SMALL_SYSTEMS = 6 };
extern const small_system small_systems[SMALL_SYSTEMS];

#endif
