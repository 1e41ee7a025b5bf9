/* The Brownian path of a solve: opened once a run, and asked by every step, on the way forward, by
 * attempts that repeat a step, and by adjoints on the way back. */
#include "ode/march/path.h"
#include <math.h>
#include <string.h>

/* ---- opening ---- */

/* Draws from the argument that holds them: whole numbers, in double. */
static int read_draws(ode_path *path, const ode_settings *set, const ode_system *s, int64_t rows,
                      const void *const *args, char *error, size_t error_size)
{
    ode_noise_settings *to = &path->settings;
    if (set->draw < 0) return 0;
    int64_t n = ad_count(s->arg[set->draw], rows);
    double *draw = ode_buffer_need(&path->draw, (size_t)n * sizeof *draw);
    if (!draw) {
        snprintf(error, error_size, "out of memory");
        return -1;
    }
    /* from where on rounding gives several whole numbers one path */
    int bits = s->dtype == AD_F32 ? 24 : 53;
    for (int64_t i = 0; i < n; i++) {
        draw[i] = ode_load(s->dtype, args[set->draw], i);
        if (draw[i] >= 0 && draw[i] < ldexp(1, bits) && draw[i] == floor(draw[i])) continue;
        snprintf(error, error_size,
                 "options.path.draw is %.15g in element %lld; it must be a whole number from 0 on, "
                 "below 2^%d in %s",
                 ode_shown(draw[i]), (long long)i, bits, s->dtype == AD_F32 ? "f32" : "f64");
        return -1;
    }
    to->draw = draw;
    to->ndraw = n;
    return 0;
}

static bool asks_pairs(const ode_settings *set)
{
    return ode_method_has(set->method, ODE_METHOD_LEVY_AREA);
}

static int64_t count_pairs(int64_t m) { return m * (m - 1) / 2; }

size_t ode_path_bytes(const ode_settings *set, const ode_system *s, int64_t rows)
{
    int64_t m = s->noise.m, pairs = asks_pairs(set) ? count_pairs(m) : 0;
    size_t bytes = ode_array_bytes(s->dtype, AD_SHAPE(AD_ROWS, set->method->noise * m), rows);
    return bytes + ode_array_bytes(s->dtype, AD_SHAPE(AD_ROWS, pairs), rows);
}

/* The pairs have a path of their own, with as many components, in the same cells. */
static int open_pairs(ode_path *path, int64_t pairs, char *error, size_t error_size)
{
    ode_noise_settings of = path->settings;
    ad_rng rng = ad_rng_seed(of.seed);
    of.seed = ad_rng_split(&rng).key;
    of.m = pairs;
    of.groups = 1;
    of.stretch = 0;
    return ode_noise_open(&path->pair_noise, &of, error, error_size);
}

int ode_path_open(ode_path *path, const ode_settings *set, const ode_system *s, int64_t rows,
                  int threads, const void *const *args, double t0, double t1, int64_t count,
                  const double *boundaries, int64_t stretch, char *error, size_t error_size)
{
    const sde_path *of = &set->path;
    bool own = of->t0 == 0 && of->t1 == 0;
    path->settings = (ode_noise_settings){ .seed = of->seed,
                                           .antithetic = of->antithetic,
                                           .common = of->common,
                                           .dtype = s->dtype,
                                           .rows = rows,
                                           .m = s->noise.m,
                                           .groups = set->method->noise,
                                           .t0 = own ? t0 : of->t0,
                                           .t1 = own ? t1 : of->t1,
                                           .cells = 1,
                                           .threads = threads,
                                           .stretch = of->common ? 0 : stretch };
    ode_noise_settings *to = &path->settings;
    path->pairs = ode_array_bytes(s->dtype, AD_SHAPE(AD_ROWS, to->groups * to->m), rows);
    if (!ode_buffer_need(&path->numbers, ode_path_bytes(set, s, rows))) {
        snprintf(error, error_size, "out of memory");
        return -1;
    }
    if (read_draws(path, set, s, rows, args, error, error_size)) return -1;
    if (t0 == t1 && own) return 0; /* a solve over no time asks nothing */
    if (set->grid) {
        to->cells = of->cells;
        to->grid = set->grid;
    } else if (of->cells > 0) {
        to->cells = of->cells;
    } else if (boundaries && fmin(t0, t1) == fmin(to->t0, to->t1) &&
               fmax(t0, t1) == fmax(to->t0, to->t1)) {
        /* either direction has the same path */
        to->cells = count;
        to->grid = boundaries;
    }
    int64_t pairs = asks_pairs(set) ? count_pairs(to->m) : 0;
    if (pairs && open_pairs(path, pairs, error, error_size)) return -1;
    return ode_noise_open(&path->noise, to, error, error_size);
}

void ode_path_close(ode_path *path)
{
    ode_noise_close(path->noise);
    ode_noise_close(path->pair_noise);
    ode_buffer *all[] = { &path->numbers, &path->draw, &path->grid };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ode_buffer_free(all[i]);
}

/* ---- steps ---- */

/* Numbers of the pairs of components: the increments of a path of their own, as it were. Minus a
 * path has the Levy area of the path. */
static int draw_pairs(const ode_path *path, double a, double b, void *numbers, char *error,
                      size_t error_size)
{
    const ode_noise_settings *set = &path->settings;
    int64_t n = count_pairs(set->m);
    if (ode_noise_step(path->pair_noise, a, b, &numbers, error, error_size)) return -1;
    for (int64_t r = 1; set->antithetic && r < set->rows; r += 2)
        for (int64_t i = r * n; i < (r + 1) * n; i++)
            ode_store(set->dtype, numbers, i, -ode_load(set->dtype, numbers, i));
    return 0;
}

double ode_path_shortest(const ode_path *path, double t)
{
    return path->noise ? ode_noise_shortest(path->noise, t) : 0;
}

void ode_path_point(const ode_path *path, ode_runner *runner, const void *numbers)
{
    int64_t rows = path->settings.rows;
    ode_runner_read(runner, ODE_VALUE, ODE_PORT_NOISE, rows, numbers);
    ode_runner_read(runner, ODE_VALUE, ODE_PORT_PAIRS, rows, (const char *)numbers + path->pairs);
}

int ode_path_step(ode_path *path, ode_runner *runner, double a, double b, void *numbers,
                  char *error, size_t error_size)
{
    const ode_noise_settings *set = &path->settings;
    size_t group = (size_t)(set->rows * set->m) * ode_bytes(set->dtype);
    char *at = numbers ? numbers : path->numbers.data;
    void *out[3];
    for (int i = 0; i < set->groups; i++) out[i] = at + (size_t)i * group;
    ode_path_point(path, runner, at);
    runner->fill = NULL;
    bool pairs = ode_unit_place(runner->unit, ODE_VALUE, ODE_PORT_PAIRS).count > 0;
    if (a == b) {
        memset(at, 0, (size_t)set->groups * group);
        if (pairs)
            memset(at + path->pairs, 0,
                   (size_t)(count_pairs(set->m) * set->rows) * ode_bytes(set->dtype));
        return 0;
    }
    if (pairs && draw_pairs(path, a, b, at + path->pairs, error, error_size)) return -1;
    int64_t block = ad_program_fill_rows(runner->program);
    if (!block || !set->stretch || block % set->stretch)
        return ode_noise_step(path->noise, a, b, out, error, error_size);
    if (ode_noise_find_step(path->noise, a, b, out, error, error_size)) return -1;
    runner->fill = ode_noise_fill;
    runner->fill_context = path->noise;
    runner->fill_work = ode_noise_row_work(path->noise);
    return 0;
}
