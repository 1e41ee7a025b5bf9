/* Brownian paths for who wants to look at them. */
#include "ode/noise/noise.h"
#include "ode/sde.h"
#include <math.h>

static void scale(ad_dtype dtype, int64_t n, double factor, void *x)
{
    float *f32 = x;
    double *f64 = x;
    for (int64_t i = 0; i < n; i++)
        if (dtype == AD_F32) f32[i] = (float)(factor * (double)f32[i]);
        else f64[i] *= factor;
}

/* 0, or -1 with a message. draw: room for one number or one a row. */
static int read_draws(const sde_path *path, int64_t rows, double *draw, int64_t *ndraw, char *error,
                      size_t error_size)
{
    *ndraw = path->draw.tape ? ad_size(path->draw) : 0;
    if (*ndraw == 0) return 0;
    if ((*ndraw == 1 || *ndraw == rows) && ad_get(path->draw, draw) == 0) {
        for (int64_t i = 0; i < *ndraw; i++) {
            if (draw[i] >= 0) continue;
            snprintf(error, error_size,
                     "sde_path_increments: path.draw is %.15g in element %lld; it must be a whole "
                     "number from 0 on",
                     draw[i], (long long)i);
            return -1;
        }
        return 0;
    }
    snprintf(error, error_size,
             "sde_path_increments: path.draw must have a value, one number or one for each of the "
             "%lld rows",
             (long long)rows);
    return -1;
}

int sde_path_increments(const sde_path *path, ad_dtype dtype, int64_t rows, int64_t m, double s,
                        double t, void *w, void *h, void *k, char *error, size_t error_size)
{
    if (!path || !w || (k && !h) || rows < 0 || (path->t0 == path->t1 && !path->grid)) {
        snprintf(error, error_size,
                 "sde_path_increments needs a path with its interval (t0 and t1, or a grid), rows, "
                 "and memory for W, for H too where K is asked for");
        return -1;
    }
    if (path->cells < 0 || (path->grid && path->cells == 0)) {
        snprintf(error, error_size, "sde_path_increments: path.cells is %lld%s",
                 (long long)path->cells,
                 path->grid ? " with a grid, which has one boundary more than cells"
                            : "; it must be positive (0: one cell)");
        return -1;
    }
    ode_noise *noise = NULL;
    int64_t ndraw;
    double *draw = malloc((size_t)(rows > 0 ? rows : 1) * sizeof *draw);
    if (!draw) snprintf(error, error_size, "out of memory");
    int failed = !draw || read_draws(path, rows, draw, &ndraw, error, error_size) != 0;
    if (!failed) {
        const ode_noise_settings settings = { .seed = path->seed,
                                              .antithetic = path->antithetic,
                                              .common = path->common,
                                              .dtype = dtype,
                                              .rows = rows,
                                              .m = m,
                                              .groups = k   ? 3
                                                        : h ? 2
                                                            : 1,
                                              .t0 = path->t0,
                                              .t1 = path->t1,
                                              .cells = path->cells > 0 ? path->cells : 1,
                                              .grid = path->grid,
                                              .draw = draw,
                                              .ndraw = ndraw };
        void *const out[] = { w, h, k };
        failed = ode_noise_open(&noise, &settings, error, error_size) != 0 ||
                 ode_noise_step(noise, s, t, out, error, error_size) != 0;
        const double root = sqrt(fabs(t - s)), variance[] = { 1, 12, 720 };
        for (int g = 0; g < settings.groups && !failed; g++)
            scale(dtype, rows * m, root / sqrt(variance[g]), out[g]);
    }
    ode_noise_close(noise);
    free(draw);
    return failed ? -1 : 0;
}
