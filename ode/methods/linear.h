/* Internal: the linear algebra of implicit steps. */
#ifndef ODE_LINEAR_H
#define ODE_LINEAR_H
#include "ode/field/system.h"

/* The matrix I - g J of one row [n,n], dense and row-major, is made from the Jacobian J [n,n] in
 * the call's type and factored in place: matrix = P L U. false: it is singular or not finite.
 * pivots: [n]. Structure (banded, sparse) would be a second pair of these two functions, chosen
 * once a system. */
bool ode_matrix_factor(ad_dtype dtype, int64_t n, double g, const void *jacobian, double *matrix,
                       int *pivots);
/* x [n] becomes (I - g J)^{-1} x, or (I - g J)^{-T} x. false: the result is not finite. */
bool ode_matrix_solve(int64_t n, const double *matrix, const int *pivots, bool transposed,
                      double *x);

/* The eigenvalues of a matrix [n,n], which is overwritten: real + i imaginary, [n] each; of two
 * that are conjugate the one with imaginary > 0 is the first; work: [ODE_EIGENVALUES_WORK n].
 * false: they did not converge. */
enum { ODE_EIGENVALUES_WORK = 8 };
bool ode_matrix_eigenvalues(int64_t n, double *matrix, double *real, double *imaginary,
                            double *work);
/* Of a matrix whose rows are zero from the second element right of the diagonal on: half the
 * work. */
bool ode_hessenberg_eigenvalues(int64_t n, double *matrix, double *real, double *imaginary,
                                double *work);

/* States in arrays of their own, state by state in the call's type, and side by side in rows
 * [rows,width] in double. */
void ode_rows_gather(const ode_system *system, int64_t rows, const void *const *state,
                     double *wide);
void ode_rows_scatter(const ode_system *system, int64_t rows, const double *wide,
                      void *const *state); /* NULL: that state is not wanted */
#endif
