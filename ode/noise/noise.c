/* Brownian paths: increments of cells in order, bisection inside a cell. */
#include "ode/noise/noise.h"
#include <math.h>
#include <string.h>

struct ode_noise {
    ode_noise_settings set;
    double *grid, *draw;
};

int ode_noise_open(ode_noise **noise, const ode_noise_settings *settings, char *error,
                   size_t error_size)
{
    ode_noise *n = *noise ? *noise : calloc(1, sizeof *n);
    *noise = n;
    size_t cells = (size_t)settings->cells + 1, draws = (size_t)settings->ndraw;
    double *grid = n ? realloc(n->grid, cells * sizeof *grid) : NULL;
    if (grid) n->grid = grid;
    double *draw = grid ? realloc(n->draw, (draws + 1) * sizeof *draw) : NULL;
    if (!draw) {
        snprintf(error, error_size, "out of memory");
        return -1;
    }
    n->draw = draw;
    n->set = *settings;
    for (size_t i = 0; i < cells; i++)
        grid[i] = settings->grid ? settings->grid[i]
                                 : settings->t0 + (settings->t1 - settings->t0) * (double)i /
                                                      (double)settings->cells;
    if (draws) memcpy(draw, settings->draw, draws * sizeof *draw);
    return 0;
}

static double number(const ode_noise *n, int64_t row, int64_t k, uint64_t what, uint64_t where)
{
    uint64_t draw = 0;
    if (n->set.ndraw) draw = (uint64_t)n->draw[n->set.ndraw > 1 ? row : 0];
    uint64_t key[] = { n->set.seed, draw, (uint64_t)row, (uint64_t)k, what, where }, mixed = 1;
    for (int i = 0; i < 6; i++) {
        ad_rng rng = ad_rng_seed(mixed + key[i] * 0x9E3779B97F4A7C15u);
        mixed = ad_rng_next(&rng);
    }
    ad_rng rng = ad_rng_seed(mixed);
    return ad_rng_normal(&rng);
}

/* W at t, from the beginning of its cell. */
static double inside(const ode_noise *n, int64_t row, int64_t k, int64_t cell, double t)
{
    double a = n->grid[cell], b = n->grid[cell + 1], wa = 0;
    double wb = sqrt(fabs(b - a)) * number(n, row, k, 0, (uint64_t)cell);
    uint64_t node = (uint64_t)cell;
    for (int depth = 1; depth < 30; depth++) {
        if (t == a) return wa;
        if (t == b) return wb;
        double middle = a + (b - a) / 2;
        double w = (wa + wb) / 2 + sqrt(fabs(b - a)) / 2 * number(n, row, k, (uint64_t)depth, node);
        bool right = (b > a) == (t > middle) && t != middle;
        node = 2 * node + right;
        if (t == middle) return w;
        if (right) a = middle;
        else b = middle;
        if (right) wa = w;
        else wb = w;
    }
    return wa + (wb - wa) * (t - a) / (b - a);
}

static int64_t cell_of(const ode_noise *n, double t)
{
    double direction = n->grid[n->set.cells] > n->grid[0] ? 1 : -1;
    int64_t low = 0, high = n->set.cells - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (direction * (n->grid[middle] - t) <= 0) low = middle;
        else high = middle - 1;
    }
    return low;
}

int ode_noise_step(ode_noise *n, double a, double b, void *const *out, char *error,
                   size_t error_size)
{
    const ode_noise_settings *set = &n->set;
    double lo = fmin(n->grid[0], n->grid[set->cells]), hi = fmax(n->grid[0], n->grid[set->cells]);
    if (!(fmin(a, b) >= lo && fmax(a, b) <= hi)) {
        snprintf(error, error_size,
                 "the step from t = %.15g to %.15g is outside the interval of the path, %.15g to "
                 "%.15g: give options.path.t0 and t1",
                 a, b, lo, hi);
        return -1;
    }
    bool forward = (b > a) == (n->grid[set->cells] > n->grid[0]);
    double from = forward ? a : b, to = forward ? b : a;
    int64_t ca = cell_of(n, from), cb = cell_of(n, to);
    uint64_t bits[2];
    memcpy(bits, (double[]){ from, to }, sizeof bits);
    for (int64_t r = 0; r < set->rows; r++)
        for (int64_t k = 0; k < set->m; k++) {
            int64_t row = set->common ? 0 : set->antithetic ? r / 2 * 2 : r;
            double w = inside(n, row, k, cb, to) - inside(n, row, k, ca, from);
            for (int64_t c = ca; c < cb; c++) w += inside(n, row, k, c, n->grid[c + 1]);
            double sign = (forward ? 1 : -1) * (set->antithetic && r % 2 ? -1 : 1);
            double value[3] = { sign * w / sqrt(fabs(b - a)), 0, 0 };
            for (int g = 1; g < set->groups; g++)
                value[g] = sign * number(n, row, k, bits[0] + (uint64_t)g, bits[1]);
            for (int g = 0; g < set->groups; g++) {
                if (set->dtype == AD_F32) ((float *)out[g])[r * set->m + k] = (float)value[g];
                else ((double *)out[g])[r * set->m + k] = value[g];
            }
        }
    return 0;
}

void ode_noise_close(ode_noise *n)
{
    if (!n) return;
    free(n->grid);
    free(n->draw);
    free(n);
}
