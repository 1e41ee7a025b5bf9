/* The linear algebra of implicit steps: dense matrices of single rows, by LAPACK, in double
 * whatever the type of the solve. */
#include "ode/methods/linear.h"
#include <math.h>

extern void dgetrf_(const int *m, const int *n, double *a, const int *lda, int *ipiv, int *info);
extern void dgetrs_(const char *trans, const int *n, const int *nrhs, const double *a,
                    const int *lda, const int *ipiv, double *b, const int *ldb, int *info);
extern void dgeev_(const char *jobvl, const char *jobvr, const int *n, double *a, const int *lda,
                   double *wr, double *wi, double *vl, const int *ldvl, double *vr, const int *ldvr,
                   double *work, const int *lwork, int *info);
extern void dhseqr_(const char *job, const char *compz, const int *n, const int *ilo,
                    const int *ihi, double *h, const int *ldh, double *wr, double *wi, double *z,
                    const int *ldz, double *work, const int *lwork, int *info);

bool ode_matrix_factor(ad_dtype dtype, int64_t n, double g, const void *jacobian, double *matrix,
                       int *pivots)
{
    if (dtype == AD_F64) {
        const double *j = jacobian;
        for (int64_t i = 0; i < n * n; i++) matrix[i] = -g * j[i];
    } else {
        const float *j = jacobian;
        for (int64_t i = 0; i < n * n; i++) matrix[i] = -g * (double)j[i];
    }
    for (int64_t i = 0; i < n; i++) matrix[i * n + i] += 1;
    double sum = 0;
    for (int64_t i = 0; i < n * n; i++) sum += matrix[i];
    if (!isfinite(sum)) return false;
    int size = (int)n, info = 0;
    dgetrf_(&size, &size, matrix, &size, pivots, &info);
    return info == 0;
}

/* LAPACK stores columns: to it, our matrix is the transpose. */
bool ode_matrix_solve(int64_t n, const double *matrix, const int *pivots, bool transposed,
                      double *x)
{
    int size = (int)n, one = 1, info = 0;
    dgetrs_(transposed ? "N" : "T", &size, &one, matrix, &size, pivots, x, &size, &info);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return info == 0 && isfinite(sum);
}

bool ode_matrix_eigenvalues(int64_t n, double *matrix, double *real, double *imaginary,
                            double *work)
{
    int size = (int)n, one = 1, length = ODE_EIGENVALUES_WORK * size, info = 0;
    double none;
    dgeev_("N", "N", &size, matrix, &size, real, imaginary, &none, &one, &none, &one, work, &length,
           &info);
    return info == 0;
}

bool ode_hessenberg_eigenvalues(int64_t n, double *matrix, double *real, double *imaginary,
                                double *work)
{
    int size = (int)n, one = 1, length = ODE_EIGENVALUES_WORK * size, info = 0;
    double none;
    dhseqr_("E", "N", &size, &one, &size, matrix, &size, real, imaginary, &none, &one, work,
            &length, &info);
    return info == 0;
}

void ode_rows_gather(const ode_system *s, int64_t rows, const void *const *state, double *wide)
{
    int64_t first = 0;
    for (int j = 0; j < s->nstate; first += s->size[j++])
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < s->size[j]; i++)
                wide[r * s->width + first + i] = ode_load(s->dtype, state[j], r * s->size[j] + i);
}

void ode_rows_scatter(const ode_system *s, int64_t rows, const double *wide, void *const *state)
{
    int64_t first = 0;
    for (int j = 0; j < s->nstate; first += s->size[j++])
        for (int64_t r = 0; state[j] && r < rows; r++)
            for (int64_t i = 0; i < s->size[j]; i++)
                ode_store(s->dtype, state[j], r * s->size[j] + i, wide[r * s->width + first + i]);
}
