/* determinant: of a matrix by minors, as the definition has it, on scalars. size: n. */
#include "gradbench.h"
#include <string.h>

enum { MOST = 12 };

static void plan(gb_case *c)
{
    c->ninput = 1;
    c->count[0] = c->nderivative = c->size[0] * c->size[0];
    c->nvalue = 1;
}

static void fill(const gb_case *c)
{
    gb_numbers(0, c->count[0], 0, 1, c->input[0]);
    for (int64_t i = 0; i < c->size[0]; i++) c->input[0][i * (c->size[0] + 1)] += 1; /* regular */
}

/* Of the rows from `row` on and the columns that are not used. */
static ad_var minor(int64_t n, const ad_var *a, int64_t row, unsigned used)
{
    ad_var sum = a[0];
    int k = 0;
    for (int64_t j = 0; j < n; j++) {
        if (used >> j & 1) continue;
        ad_var term = a[row * n + j];
        if (row < n - 1) term = ad_mul(term, minor(n, a, row + 1, used | 1u << j));
        sum = k == 0 ? term : k % 2 ? ad_sub(sum, term) : ad_add(sum, term);
        k++;
    }
    return sum;
}

static ad_var record(const gb_case *c, const ad_var *in)
{
    const int64_t n = c->size[0];
    ad_var a[MOST * MOST];
    for (int64_t i = 0; i < n * n; i++) a[i] = gb_part(in[0], i, i + 1);
    return ad_sum_all(minor(n, a, 0, 0));
}

static int64_t work_size(const gb_case *c)
{
    (void)c;
    return 0;
}

/* The definition, with its adjoint: xbar += bar times the derivative of the minor. */
static double minor_back(int64_t n, const double *a, int64_t row, unsigned used, double bar,
                         double *xbar)
{
    double sum = 0, sign = 1;
    if (row == n) return 1;
    for (int64_t j = 0; j < n; j++) {
        if (used >> j & 1) continue;
        const double element = a[row * n + j];
        const double rest = minor_back(n, a, row + 1, used | 1u << j, bar * sign * element, xbar);
        sum += sign * element * rest;
        xbar[row * n + j] += bar * sign * rest;
        sign = -sign;
    }
    return sum;
}

static void by_hand(const gb_case *c, double *value, double *derivative, double *work)
{
    (void)work;
    memset(derivative, 0, (size_t)c->nderivative * sizeof *derivative);
    *value = minor_back(c->size[0], c->input[0], 0, 0, 1, derivative);
}

const gb_program gb_determinant = { "determinant", plan, fill, record, by_hand, work_size };
