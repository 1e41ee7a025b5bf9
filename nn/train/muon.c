/* Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): a matrix moves along the
 * orthogonal matrix next to its momentum, so that all its directions move alike. Five iterations of
 * Newton and Schulz come close enough to it; they are recorded and compiled once for each shape. */
#include "nn/train/optimizer.h"
#include <stdlib.h>

struct nn_matrix {
    int64_t rows, columns;
    ad_dtype dtype;
    ad_program *program; /* from gradient, first and numbers to the direction and the new first */
    ad_workspace *workspace;
    void *direction, *next; /* its results */
};

enum { ITERATIONS = 5 };

/* x / its Frobenius norm, whatever the size of its elements. */
static ad_var normalised(ad_var x)
{
    double tiny = ad_tape_dtype(x.tape) == AD_F32 ? 0x1p-126 : 0x1p-1022;
    ad_var least = ad_scalar(x.tape, tiny);
    x = ad_div(x, ad_max(ad_reduce_max(ad_abs(x), 0, NULL, false), least));
    return ad_div(x, ad_max(ad_sqrt(ad_sum_all(ad_square(x))), least));
}

/* The polynomial a s + b s^3 + c s^5 of the singular values s, five times, brings them close to 1;
 * its coefficients are those that grow small ones fastest (Jordan et al. 2024). */
static ad_var orthogonalised(ad_var x, bool tall)
{
    const double a = 3.4445, b = -4.7750, c = 2.0315;
    const int turned[] = { 1, 0 };
    x = normalised(x);
    if (tall) x = ad_transpose(x, turned);
    for (int k = 0; k < ITERATIONS; k++) {
        ad_var square = ad_matmul(x, ad_transpose(x, turned));
        ad_var factor = ad_add(ad_scale(square, b), ad_scale(ad_matmul(square, square), c));
        x = ad_add(ad_scale(x, a), ad_matmul(factor, x));
    }
    return tall ? ad_transpose(x, turned) : x;
}

static ad_program *compile(ad_tape *tape, int64_t rows, int64_t columns)
{
    ad_shape shape = AD_SHAPE(rows, columns);
    ad_var in[] = { ad_input(tape, shape, NULL), ad_input(tape, shape, NULL),
                    ad_input(tape, AD_SHAPE(3), NULL) };
    ad_var scale = ad_slice(in[2], 0, 0, 1), limit = ad_slice(in[2], 0, 1, 2),
           momentum = ad_slice(in[2], 0, 2, 3);
    ad_var gradient = ad_clamp(ad_mul(in[0], scale), ad_neg(limit), limit);
    ad_var first = ad_add(gradient, ad_mul(momentum, ad_sub(in[1], gradient)));
    ad_var ahead = ad_add(gradient, ad_mul(momentum, ad_sub(first, gradient)));
    ad_var out[] = { orthogonalised(ahead, rows > columns), first };
    return ad_compile(3, in, 2, out);
}

nn_matrix *nn_matrix_new(ad_dtype dtype, int64_t rows, int64_t columns, char *error, size_t size)
{
    nn_matrix *m = calloc(1, sizeof *m);
    ad_tape *tape = ad_tape_new(dtype);
    size_t bytes = (size_t)(rows * columns) * nn_bytes(dtype);
    if (m && tape) {
        *m = (nn_matrix){ .rows = rows, .columns = columns, .dtype = dtype };
        m->program = compile(tape, rows, columns);
        m->workspace = m->program ? ad_workspace_new(m->program, 1) : NULL;
        m->direction = malloc(bytes);
        m->next = malloc(bytes);
    }
    bool good = m && m->workspace && m->direction && m->next;
    const char *why = tape ? ad_tape_error(tape) : NULL;
    if (!good) nn_error(error, size, "nn_optimizer_new: muon: %s", why ? why : "out of memory");
    ad_tape_free(tape);
    if (good) return m;
    nn_matrix_free(m);
    return NULL;
}

void nn_matrix_free(nn_matrix *matrix)
{
    if (!matrix) return;
    ad_workspace_free(matrix->workspace);
    ad_program_free(matrix->program);
    free(matrix->direction);
    free(matrix->next);
    free(matrix);
}

bool nn_matrix_fits(const nn_matrix *matrix, int64_t rows, int64_t columns)
{
    return matrix->rows == rows && matrix->columns == columns;
}

/* The length of the step is that of Adam with the same rate: 0.2 sqrt(max(rows, columns)) makes it
 * so (Liu et al. 2025, arXiv:2502.16982, section 2.2). */
bool nn_matrix_update(const nn_matrix *matrix, const nn_update *u, void *theta,
                      const void *gradient, void *first)
{
    const nn_matrix *m = matrix;
    const double numbers[] = { u->scale, u->limit, u->momentum };
    const float numbers_f32[] = { (float)u->scale, (float)u->limit, (float)u->momentum };
    bool single = m->dtype == AD_F32;
    const void *in[] = { gradient, first, single ? (const void *)numbers_f32 : numbers };
    if (ad_run(m->program, m->workspace, 0, in, (void *const[]){ m->direction, m->next }))
        return false;
    double longer = (double)(m->rows > m->columns ? m->rows : m->columns);
    double rate = u->rate * 0.2 * sqrt(longer), kept = 1 - u->rate * u->decay;
    bool fine = true;
    for (int64_t i = 0; i < m->rows * m->columns; i++) {
        double value =
            kept * nn_element(m->dtype, theta, i) - rate * nn_element(m->dtype, m->direction, i);
        nn_put(m->dtype, theta, i, value);
        nn_put(m->dtype, first, i, nn_element(m->dtype, m->next, i));
        fine &= isfinite(nn_element(m->dtype, theta, i)) != 0;
    }
    return fine;
}
