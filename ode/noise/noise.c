/* Brownian paths for all rows. Rows that have a path of their own (all, or fewer where pairs or all
 * share one) are its sources. Sources go by blocks of as many as one counter gives numbers for;
 * counter (point, block, component and group) has number l for source l of the block. So arrays
 * have, for each piece of PIECE counters (block, component), numbers [lanes, counters]; only
 * results are row-major. The tree is walked once for all rows; threads then do its operations piece
 * by piece, in the level 1 and 2 caches: either when a step is asked for, or for some rows each,
 * when they are about to read them. */
#include "ode/noise/noise.h"
#include "autodiff/extension.h"
#include "ode/noise/loops.h"
#include "ode/noise/tree.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { PIECE = 256, MAX_LANES = 4, SIDES = 2 };

enum { GRID, KEY, BLOCK, COMPONENT, JOINED, ARRAYS };

/* The last operations of a walk, and where its result goes from. */
typedef struct {
    bool one;        /* the result is a node */
    int level, side; /* that node */
    bool backwards;
    void *out[ODE_NOISE_GROUPS];
} delivery;

struct ode_noise {
    ode_noise_tree tree; /* first: its functions find the rest */
    ode_noise_settings settings;
    double *grid;  /* increasing */
    uint64_t *key; /* one, or one a source */
    bool key_a_source;
    int lanes;
    size_t size;                        /* of a number */
    int64_t sources, counters, numbers; /* numbers: of an array, lanes * counters */
    int64_t stretch;                    /* counters that make whole pieces */
    uint32_t *block, *component;        /* of each counter */
    /* arrays [ODE_NOISE_GROUPS, SIDES] of a level: of W alone, or of all */
    void *level[ODE_NOISE_LEVELS];
    int64_t level_bytes[ODE_NOISE_LEVELS];
    void *joined;        /* arrays [groups]: the result of several nodes */
    size_t held[ARRAYS]; /* bytes of the arrays that are not levels */
    const ode_noise_loops *loops;
    delivery step; /* that was found last */
};

/* ---- arrays ---- */

static char *array(const ode_noise *noise, void *base, int index, int64_t first)
{
    return (char *)base + ((int64_t)index * noise->numbers + first) * (int64_t)noise->size;
}

/* Of a node, from a piece on; group by group, so that W comes first. */
static void *numbers_of(const ode_noise *noise, int level, int side, int group, int64_t first)
{
    return array(noise, noise->level[level], group * SIDES + side, first);
}

static bool reserve(ode_noise_tree *tree, int level, bool areas)
{
    ode_noise *noise = (ode_noise *)tree;
    const int arrays = (areas ? ODE_NOISE_GROUPS : 1) * SIDES;
    const int64_t bytes = arrays * noise->numbers * (int64_t)noise->size;
    if (bytes <= noise->level_bytes[level]) return true;
    void *grown = realloc(noise->level[level], (size_t)bytes);
    if (!grown) return false;
    noise->level[level] = grown;
    noise->level_bytes[level] = bytes;
    return true;
}

/* ---- operations ---- */

typedef struct {
    const ode_noise *noise;
    int64_t begin, first; /* counter, number */
    int count;            /* counters */
    int64_t n;            /* numbers */
} piece;

static int64_t pieces_of(int64_t counters) { return (counters + PIECE - 1) / PIECE; }

static int64_t pieces(const ode_noise *noise)
{
    return noise->counters / noise->stretch * pieces_of(noise->stretch) +
           pieces_of(noise->counters % noise->stretch);
}

static piece piece_at(const ode_noise *noise, int64_t k)
{
    const int64_t each = pieces_of(noise->stretch), start = k / each * noise->stretch,
                  within = k % each * PIECE, begin = start + within, rest = noise->counters - begin,
                  left = noise->stretch - within;
    piece p = { .noise = noise, .begin = begin, .first = begin * noise->lanes };
    p.count = (int)(left < PIECE ? left : PIECE);
    if (rest < p.count) p.count = (int)rest;
    p.n = (int64_t)p.count * noise->lanes;
    return p;
}

typedef union {
    float f32[PIECE * MAX_LANES];
    double f64[PIECE * 2];
} numbers;

/* With a key a source, every source of a block draws for all of it and takes its own. */
static void draw_by_source(const piece *p, ode_noise_point point, const uint32_t *word, void *out)
{
    const ode_noise *noise = p->noise;
    const size_t size = noise->size;
    const uint32_t *block = noise->block + p->begin;
    numbers drawn;
    for (int from = 0, to; from < p->count; from = to) {
        for (to = from; to < p->count && block[to] == block[from];) to++;
        const size_t count = (size_t)(to - from);
        for (int l = 0; l < noise->lanes; l++) {
            const int64_t last = noise->sources - 1;
            const int64_t source = (int64_t)block[from] * noise->lanes + l;
            ad_normals(noise->settings.dtype, noise->key[source < last ? source : last], point,
                       to - from, block + from, word + from, &drawn);
            memcpy((char *)out + ((size_t)l * (size_t)p->count + (size_t)from) * size,
                   (char *)&drawn + (size_t)l * count * size, count * size);
        }
    }
}

static void draw(const piece *p, ode_noise_point point, int group, void *out)
{
    const ode_noise *noise = p->noise;
    uint32_t word[PIECE];
    for (int i = 0; i < p->count; i++)
        word[i] = noise->component[p->begin + i] * 4 + (uint32_t)group;
    if (noise->key_a_source) draw_by_source(p, point, word, out);
    else
        ad_normals(noise->settings.dtype, noise->key[0], point, p->count, noise->block + p->begin,
                   word, out);
}

static void halve(const piece *p, const ode_noise_operation *o)
{
    numbers drawn[ODE_NOISE_GROUPS];
    const void *x[ODE_NOISE_GROUPS], *z[ODE_NOISE_GROUPS];
    void *a[ODE_NOISE_GROUPS], *b[ODE_NOISE_GROUPS];
    for (int g = 0; g < ODE_NOISE_GROUPS; g++) {
        draw(p, o->point, g, &drawn[g]);
        x[g] = numbers_of(p->noise, o->level, o->side, g, p->first);
        z[g] = &drawn[g];
        a[g] = numbers_of(p->noise, o->level + 1, 0, g, p->first);
        b[g] = numbers_of(p->noise, o->level + 1, 1, g, p->first);
    }
    p->noise->loops->halve(p->n, x, z, a, b);
}

static void join(const piece *p, const ode_noise_operation *o)
{
    void *x[ODE_NOISE_GROUPS];
    const void *y[ODE_NOISE_GROUPS];
    const int groups = p->noise->settings.groups;
    for (int g = 0; g < groups; g++) {
        x[g] = array(p->noise, p->noise->joined, g, p->first);
        y[g] = numbers_of(p->noise, o->level, o->side, g, p->first);
        if (o->kind == ODE_NOISE_FIRST) p->noise->loops->copy(p->n, y[g], x[g]);
    }
    if (o->kind == ODE_NOISE_JOIN) p->noise->loops->join(p->n, groups, o->left, o->right, x, y);
}

static void operate(const piece *p, const ode_noise_operation *o)
{
    const ode_noise *noise = p->noise;
    numbers drawn;
    switch (o->kind) {
    case ODE_NOISE_ROOT: draw(p, o->point, 0, numbers_of(noise, 0, 0, 0, p->first)); break;
    case ODE_NOISE_AREA:
        draw(p, o->point, o->group, numbers_of(noise, o->level, o->side, o->group, p->first));
        break;
    case ODE_NOISE_SPLIT:
        draw(p, o->point, 0, &drawn);
        noise->loops->split(p->n, o->left, o->right,
                            numbers_of(noise, o->level, o->side, 0, p->first), &drawn,
                            numbers_of(noise, o->level + 1, 0, 0, p->first),
                            numbers_of(noise, o->level + 1, 1, 0, p->first));
        break;
    case ODE_NOISE_HALVE: halve(p, o); break;
    case ODE_NOISE_FIRST:
    case ODE_NOISE_JOIN: join(p, o); break;
    }
}

static void operate_on_piece(void *data, int thread, int64_t k)
{
    (void)thread;
    const ode_noise *noise = data;
    const piece p = piece_at(noise, k);
    for (int i = 0; i < noise->tree.noperation; i++) operate(&p, &noise->tree.operation[i]);
}

/* A number takes about as long as writing so many bytes. */
static double work(const ode_noise *noise, int operations)
{
    const double bytes = 32;
    return bytes * (double)noise->numbers * operations;
}

static void flush(ode_noise_tree *tree)
{
    ode_noise *noise = (ode_noise *)tree;
    ad_share(noise->settings.threads, work(noise, tree->noperation), pieces(noise),
             operate_on_piece, noise);
}

/* ---- steps ---- */

/* Rows have paths, or minus the paths, of sources. */
static void deliver(const piece *p, int group, const void *from)
{
    const ode_noise *noise = p->noise;
    const delivery *d = &noise->step;
    const ode_noise_settings *s = &noise->settings;
    /* Reversed, an interval has -W, H and -K. */
    const double sign = d->backwards && group != 1 ? -1 : 1;
    const int64_t repeats = s->common ? s->rows : s->antithetic ? 2 : 1;
    for (int64_t k = 0; k < repeats; k++) {
        const int64_t sources = s->common ? 1 : (s->rows - k + repeats - 1) / repeats;
        char *to = (char *)d->out[group] + k * s->m * (int64_t)noise->size;
        noise->loops->spread(p->count, noise->block + p->begin, noise->component + p->begin,
                             sources, repeats * s->m, s->antithetic && k % 2 ? -sign : sign, from,
                             to);
    }
}

static void finish_piece(void *data, int thread, int64_t k)
{
    const ode_noise *noise = data;
    const delivery *d = &noise->step;
    operate_on_piece(data, thread, k);
    const piece p = piece_at(noise, k);
    for (int g = 0; g < noise->settings.groups; g++)
        deliver(&p, g,
                d->one ? numbers_of(noise, d->level, d->side, g, p.first)
                       : (void *)array(noise, noise->joined, g, p.first));
}

static int out_of_memory(char *error, size_t error_size)
{
    snprintf(error, error_size, "out of memory for a Brownian path");
    return -1;
}

int ode_noise_find_step(ode_noise *noise, double a, double b, void *const *out, char *error,
                        size_t error_size)
{
    const ode_noise_settings *s = &noise->settings;
    ode_noise_tree *tree = &noise->tree;
    ode_noise_point p, q;
    if (ode_noise_find(tree, a, &p, error, error_size) != 0 ||
        ode_noise_find(tree, b, &q, error, error_size) != 0)
        return -1;
    if (p == q) {
        snprintf(error, error_size,
                 "the step from t = %.17g to %.17g is shorter than the Brownian path can be told "
                 "there, %.3g: give the path more cells, or take longer steps",
                 a, b, ode_noise_resolution(tree, p));
        return -1;
    }
    delivery d = { .backwards = q < p };
    for (int g = 0; g < s->groups; g++) d.out[g] = out[g];
    if (!ode_noise_walk(tree, p < q ? p : q, p < q ? q : p)) {
        ode_noise_forget(tree);
        return out_of_memory(error, error_size);
    }
    const ode_noise_operation *last = &tree->operation[tree->noperation - 1];
    if (last->kind == ODE_NOISE_FIRST) {
        d.one = true;
        d.level = last->level;
        d.side = last->side;
        tree->noperation--;
    }
    noise->step = d;
    return 0;
}

/* Of the step that was found. */
static double step_work(const ode_noise *noise)
{
    return work(noise, noise->tree.noperation + noise->settings.groups);
}

int ode_noise_step(ode_noise *noise, double a, double b, void *const *out, char *error,
                   size_t error_size)
{
    const ode_noise_settings *s = &noise->settings;
    if (a == b) {
        ode_noise_point p;
        if (ode_noise_find(&noise->tree, a, &p, error, error_size) != 0) return -1;
        const size_t bytes = (size_t)(s->rows * s->m) * noise->size;
        for (int g = 0; g < s->groups && bytes > 0; g++) memset(out[g], 0, bytes);
        return 0;
    }
    if (ode_noise_find_step(noise, a, b, out, error, error_size) != 0) return -1;
    ad_share(s->threads, step_work(noise), pieces(noise), finish_piece, noise);
    return 0;
}

double ode_noise_row_work(const ode_noise *noise)
{
    const int64_t rows = noise->settings.rows;
    return rows > 0 ? step_work(noise) / (double)rows : 0;
}

void ode_noise_fill(void *context, int64_t first, int64_t rows)
{
    ode_noise *noise = context;
    const int64_t stretch = noise->settings.stretch, each = pieces_of(noise->stretch);
    AD_ASSERT(stretch > 0 && first % stretch == 0);
    const int64_t end = (first + rows + stretch - 1) / stretch * each, all = pieces(noise);
    for (int64_t k = first / stretch * each; k < end && k < all; k++) finish_piece(noise, 0, k);
}

double ode_noise_shortest(const ode_noise *noise, double t)
{
    const ode_noise_tree *tree = &noise->tree;
    ode_noise_point p;
    if (ode_noise_find(tree, t, &p, NULL, 0) != 0) return 0;
    return 2 * fmax(ode_noise_resolution(tree, p), ode_noise_resolution(tree, p > 0 ? p - 1 : p));
}

/* ---- opening ---- */

static int refuse(const ode_noise_settings *s, char *error, size_t error_size)
{
    const double *ends = s->grid;
    const double t0 = ends && s->cells > 0 ? ends[0] : s->t0;
    const double t1 = ends && s->cells > 0 ? ends[s->cells] : s->t1;
    const int64_t limit = INT64_C(1) << 30;
    if (s->rows < 0 || s->rows > limit || s->m < 1 || s->m >= limit)
        snprintf(error, error_size,
                 "a Brownian path for %" PRId64 " rows of %" PRId64
                 " components: there must be 0 to 2^30 rows and 1 to 2^30 - 1 components",
                 s->rows, s->m);
    else if (s->cells < 1 || s->cells >= INT64_C(1) << 31)
        snprintf(error, error_size,
                 "a Brownian path of %" PRId64 " cells: there must be 1 to 2^31 - 1", s->cells);
    else if (!isfinite(t1 - t0) || t0 == t1)
        snprintf(error, error_size,
                 "a Brownian path from t = %.17g to %.17g: its interval must be finite and not "
                 "empty",
                 t0, t1);
    else if (s->ndraw != 0 && s->ndraw != 1 && s->ndraw != s->rows)
        snprintf(error, error_size,
                 "%" PRId64 " draw numbers for a Brownian path of %" PRId64
                 " rows: give none, one, or one a row",
                 s->ndraw, s->rows);
    else return 0;
    return -1;
}

/* At least n elements of an array; memory that is there already is used again. */
static bool resize(ode_noise *noise, int array, void *pointer, int64_t n, size_t size)
{
    void **memory = pointer;
    size_t bytes = (size_t)(n > 0 ? n : 1) * size;
    if (bytes <= noise->held[array]) return true;
    void *grown = realloc(*memory, bytes);
    if (!grown) return false;
    *memory = grown;
    noise->held[array] = bytes;
    return true;
}

static int make_keys(ode_noise *noise, const double *draw, char *error, size_t error_size)
{
    const ode_noise_settings *s = &noise->settings;
    noise->key_a_source = s->ndraw > 1 && !s->common;
    const int64_t keys = noise->key_a_source ? noise->sources : 1;
    if (!resize(noise, KEY, &noise->key, keys, sizeof *noise->key))
        return out_of_memory(error, error_size);
    for (int64_t k = 0; k < s->ndraw; k++)
        if (!(fabs(draw[k]) <= 0x1p53 && draw[k] == floor(draw[k]))) {
            snprintf(error, error_size,
                     "draw number %.17g of row %" PRId64
                     " of a Brownian path: they must be whole numbers of at most 2^53",
                     draw[k], k);
            return -1;
        }
    for (int64_t k = 0; k < keys; k++) {
        const double number = s->ndraw > 0 ? draw[s->antithetic ? 2 * k : k] : 0;
        ad_rng generator = ad_rng_seed(s->seed);
        generator.counter = (uint64_t)(int64_t)number;
        noise->key[k] = ad_rng_split(&generator).key;
    }
    return 0;
}

static bool make_memory(ode_noise *noise)
{
    const ode_noise_settings *s = &noise->settings;
    const int64_t blocks = (noise->sources + noise->lanes - 1) / noise->lanes;
    noise->counters = blocks * s->m;
    noise->stretch = PIECE;
    if (s->stretch) noise->stretch = s->stretch / (s->antithetic ? 2 : 1) / noise->lanes * s->m;
    noise->numbers = noise->counters * noise->lanes;
    if (!resize(noise, BLOCK, &noise->block, noise->counters, sizeof *noise->block) ||
        !resize(noise, COMPONENT, &noise->component, noise->counters, sizeof *noise->component) ||
        !resize(noise, JOINED, &noise->joined, s->groups * noise->numbers, noise->size))
        return false;
    for (int64_t i = 0, b = 0; b < blocks; b++)
        for (int64_t j = 0; j < s->m; j++, i++) {
            noise->block[i] = (uint32_t)b;
            noise->component[i] = (uint32_t)j;
        }
    if (!s->grid) return true;
    if (!resize(noise, GRID, &noise->grid, s->cells + 1, sizeof *noise->grid)) return false;
    const bool decreasing = s->grid[0] > s->grid[s->cells];
    for (int64_t k = 0; k <= s->cells; k++) noise->grid[k] = s->grid[decreasing ? s->cells - k : k];
    return true;
}

int ode_noise_open(ode_noise **out, const ode_noise_settings *settings, char *error,
                   size_t error_size)
{
    if (refuse(settings, error, error_size) != 0) return -1;
    if (!*out) *out = calloc(1, sizeof **out);
    ode_noise *noise = *out;
    if (!noise) return out_of_memory(error, error_size);
    ode_noise_settings *s = &noise->settings;
    *s = *settings;
    noise->lanes = ad_normal_lanes(s->dtype);
    noise->size = s->dtype == AD_F32 ? sizeof(float) : sizeof(double);
    noise->loops = ode_noise_loops_of(s->dtype);
    noise->sources = s->antithetic ? (s->rows + 1) / 2 : s->rows;
    if (s->common && s->rows > 0) noise->sources = 1;
    ode_noise_tree *tree = &noise->tree;
    ode_noise_forget(tree);
    if (!make_memory(noise)) return out_of_memory(error, error_size);
    if (make_keys(noise, s->draw, error, error_size) != 0) return -1;
    /* They were the caller's. */
    s->draw = NULL;
    s->grid = settings->grid ? noise->grid : NULL;
    const double from = s->grid ? s->grid[0] : s->t0, to = s->grid ? s->grid[s->cells] : s->t1;
    tree->t0 = fmin(from, to);
    tree->t1 = fmax(from, to);
    /* times of single precision are rounded past ends given in double */
    tree->past = s->dtype == AD_F32 ? FLT_EPSILON * fmax(fabs(from), fabs(to)) : 0;
    tree->cells = s->cells;
    tree->grid = s->grid;
    tree->groups = s->groups;
    tree->flush = flush;
    tree->reserve = reserve;
    return ode_noise_tree_open(tree, error, error_size);
}

void ode_noise_close(ode_noise *noise)
{
    if (!noise) return;
    for (int k = 0; k < ODE_NOISE_LEVELS; k++) free(noise->level[k]);
    free(noise->grid);
    free(noise->key);
    free(noise->block);
    free(noise->component);
    free(noise->joined);
    free(noise);
}
