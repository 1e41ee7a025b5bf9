#include "digits.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static bool make(digit_set *set, int64_t n, int side, int levels)
{
    *set = (digit_set){ .n = n, .pixels = (int64_t)side * side, .side = side, .levels = levels };
    set->grey = calloc((size_t)(n * set->pixels), sizeof *set->grey);
    set->digit = calloc((size_t)n, sizeof *set->digit);
    if (set->grey && set->digit) return true;
    digits_clear(set);
    return false;
}

void digits_clear(digit_set *set)
{
    free(set->grey);
    free(set->digit);
    *set = (digit_set){ 0 };
}

/* ---- drawn digits ---------------------------------------------------------------------------- */

/* A stroke goes through its points (x to the right, y down, in the unit square), along straight
 * lines or a smooth curve. Some digits have it, a share `chance` of them. */
enum { MOST_POINTS = 13, FIELD = 32 };
typedef struct {
    int digit;
    double chance;
    bool smooth;
    int n;
    double point[MOST_POINTS][2];
} stroke;

static const stroke strokes[] = {
    { 0,
      1,
      true,
      9,
      { { .5, .05 },
        { .78, .2 },
        { .85, .5 },
        { .78, .8 },
        { .5, .95 },
        { .22, .8 },
        { .15, .5 },
        { .22, .2 },
        { .5, .05 } } },
    { 1, 1, false, 2, { { .5, .05 }, { .5, .95 } } },
    { 1, .5, false, 2, { { .3, .27 }, { .5, .05 } } },
    { 1, .3, false, 2, { { .3, .95 }, { .7, .95 } } },
    { 2,
      1,
      true,
      7,
      { { .2, .28 },
        { .3, .1 },
        { .52, .05 },
        { .75, .16 },
        { .76, .36 },
        { .5, .68 },
        { .2, .93 } } },
    { 2, 1, false, 2, { { .2, .93 }, { .85, .93 } } },
    { 3, 1, true, 5, { { .2, .14 }, { .45, .05 }, { .74, .15 }, { .72, .37 }, { .42, .48 } } },
    { 3, 1, true, 5, { { .42, .48 }, { .76, .58 }, { .8, .8 }, { .5, .95 }, { .18, .85 } } },
    { 4, 1, false, 3, { { .6, .05 }, { .15, .62 }, { .9, .62 } } },
    { 4, 1, false, 2, { { .66, .35 }, { .62, .95 } } },
    { 5, 1, false, 3, { { .8, .07 }, { .3, .07 }, { .25, .45 } } },
    { 5,
      1,
      true,
      6,
      { { .25, .45 }, { .55, .38 }, { .82, .6 }, { .7, .87 }, { .42, .95 }, { .18, .85 } } },
    { 6,
      1,
      true,
      9,
      { { .68, .06 },
        { .4, .25 },
        { .2, .6 },
        { .3, .88 },
        { .55, .95 },
        { .78, .77 },
        { .65, .56 },
        { .4, .57 },
        { .22, .72 } } },
    { 7, 1, false, 3, { { .15, .08 }, { .85, .08 }, { .4, .95 } } },
    { 7, .3, false, 2, { { .35, .5 }, { .8, .5 } } },
    { 8,
      1,
      true,
      13,
      { { .5, .48 },
        { .25, .3 },
        { .3, .1 },
        { .5, .05 },
        { .7, .1 },
        { .75, .28 },
        { .5, .48 },
        { .22, .7 },
        { .27, .88 },
        { .5, .95 },
        { .73, .88 },
        { .78, .7 },
        { .5, .48 } } },
    { 9,
      1,
      true,
      8,
      { { .78, .3 },
        { .62, .08 },
        { .36, .08 },
        { .22, .28 },
        { .38, .5 },
        { .62, .47 },
        { .78, .3 },
        { .7, .65 } } },
    { 9, 1, true, 3, { { .78, .3 }, { .74, .62 }, { .58, .95 } } },
};

/* A bend of the plane that is the same for all strokes of a digit, then an affine map. */
typedef struct {
    double wave[2]
               [3]; /* amplitude, frequency and phase of the shift of x along y and of y along x */
    double map[2][2];
} hand;

static double between(ad_rng *rng, double low, double high)
{
    return low + (high - low) * ad_rng_uniform(rng);
}

static hand draw_hand(ad_rng *rng)
{
    hand h;
    for (int k = 0; k < 2; k++) {
        h.wave[k][0] = 0.05 * ad_rng_normal(rng);
        h.wave[k][1] = between(rng, 2, 6);
        h.wave[k][2] = between(rng, 0, 6.3);
    }
    double turn = 0.12 * ad_rng_normal(rng), shear = 0.2 * ad_rng_normal(rng),
           width = between(rng, 0.6, 1.05);
    h.map[0][0] = width * cos(turn);
    h.map[0][1] = shear - sin(turn);
    h.map[1][0] = width * sin(turn);
    h.map[1][1] = cos(turn);
    return h;
}

static void apply_hand(const hand *h, const double *point, double *out)
{
    double u[2];
    for (int k = 0; k < 2; k++)
        u[k] = point[k] - 0.5 + h->wave[k][0] * sin(h->wave[k][1] * point[1 - k] + h->wave[k][2]);
    for (int k = 0; k < 2; k++) out[k] = h->map[k][0] * u[0] + h->map[k][1] * u[1];
}

/* The point at `along` in 0 .. 1 between points i and i + 1: on a line, or on the curve of Catmull
 * and Rom (1974), whose slopes are half the differences of the neighbours. */
static void point_of(const stroke *s, int i, double along, double *out)
{
    const int before = i > 0 ? i - 1 : i, after = i + 2 < s->n ? i + 2 : i + 1;
    const double u = along, v = 1 - along;
    for (int k = 0; k < 2; k++) {
        const double a = s->point[i][k], b = s->point[i + 1][k];
        out[k] = v * a + u * b;
        if (!s->smooth) continue;
        const double from = (b - s->point[before][k]) / 2, to = (s->point[after][k] - a) / 2;
        out[k] += u * v * (v * (from - (b - a)) - u * (to - (b - a)));
    }
}

/* The points of the curve of all strokes that this digit has, [n,2]; their number. */
enum { PARTS = 24, CURVE = 16 * MOST_POINTS * PARTS };
static int curve_of(int digit, const hand *h, ad_rng *rng, double curve[CURVE][2])
{
    int n = 0;
    for (size_t k = 0; k < sizeof strokes / sizeof *strokes; k++) {
        const stroke *s = &strokes[k];
        if (s->digit != digit || ad_rng_uniform(rng) > s->chance) continue;
        for (int i = 0; i + 1 < s->n; i++)
            for (int part = 0; part <= PARTS; part++) {
                double point[2];
                point_of(s, i, (double)part / PARTS, point);
                apply_hand(h, point, curve[n++]);
            }
    }
    return n;
}

/* Moves the curve into the field, as large as it goes with a pen of this radius. */
static void fit(int n, double curve[CURVE][2], double radius)
{
    double low[2] = { INFINITY, INFINITY }, high[2] = { -INFINITY, -INFINITY };
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 2; k++) {
            low[k] = fmin(low[k], curve[i][k]);
            high[k] = fmax(high[k], curve[i][k]);
        }
    const double room = FIELD - 2 * radius,
                 scale = fmin(room / (high[0] - low[0]), room / (high[1] - low[1]));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 2; k++)
            curve[i][k] = FIELD / 2.0 + scale * (curve[i][k] - (low[k] + high[k]) / 2);
}

static void draw_digit(ad_rng *rng, int digit, int block, double *grey)
{
    const int side = FIELD / block;
    double curve[CURVE][2];
    bool ink[FIELD][FIELD] = { { 0 } };
    const hand h = draw_hand(rng);
    const double radius = between(rng, 1.5, 3);
    const int n = curve_of(digit, &h, rng, curve);
    fit(n, curve, radius);
    for (int i = 0; i < n; i++)
        for (int y = 0; y < FIELD; y++) {
            if (fabs(y + 0.5 - curve[i][1]) > radius) continue;
            for (int x = 0; x < FIELD; x++)
                if (hypot(x + 0.5 - curve[i][0], y + 0.5 - curve[i][1]) <= radius) ink[y][x] = true;
        }
    for (int y = 0; y < FIELD; y++)
        for (int x = 0; x < FIELD; x++) grey[y / block * side + x / block] += ink[y][x];
}

bool digits_draw(ad_rng *rng, int64_t n, int block, digit_set *set)
{
    if (!make(set, n, FIELD / block, block * block + 1)) return false;
    for (int64_t i = 0; i < n; i++) {
        set->digit[i] = (double)(i % DIGITS);
        draw_digit(rng, (int)(i % DIGITS), block, set->grey + i * set->pixels);
    }
    return true;
}

/* ---- bent digits ----------------------------------------------------------------------------- */

static double grey_at(const digit_set *set, const double *grey, int x, int y)
{
    const bool inside = x >= 0 && y >= 0 && x < set->side && y < set->side;
    return inside ? grey[y * set->side + x] : 0;
}

void digits_bend(const digit_set *set, ad_rng *rng, double much, const double *grey, double *out)
{
    const double centre = (set->side - 1) / 2.0, shift = 0.05 * set->side * much;
    const double turn = 0.15 * much * ad_rng_normal(rng), slant = 0.12 * much * ad_rng_normal(rng);
    const double wide = 1 + 0.08 * much * ad_rng_normal(rng),
                 high = 1 + 0.08 * much * ad_rng_normal(rng);
    const double right = shift * ad_rng_normal(rng), down = shift * ad_rng_normal(rng);
    const double cosine = cos(turn), sine = sin(turn);
    for (int i = 0; i < set->pixels; i++) {
        const int64_t column = i % set->side, row = i / set->side;
        const double u = (double)column - centre, v = (double)row - centre;
        const double x = centre + right + wide * (cosine * u + (slant - sine) * v),
                     y = centre + down + high * (sine * u + cosine * v);
        const int x0 = (int)floor(x), y0 = (int)floor(y);
        const double a = x - x0, b = y - y0;
        out[i] =
            (1 - b) * ((1 - a) * grey_at(set, grey, x0, y0) + a * grey_at(set, grey, x0 + 1, y0)) +
            b * ((1 - a) * grey_at(set, grey, x0, y0 + 1) + a * grey_at(set, grey, x0 + 1, y0 + 1));
    }
}

/* ---- optdigits ------------------------------------------------------------------------------- */

/* A line a digit: 64 greys and the digit. */
static bool read_optdigits(const char *path, digit_set *set)
{
    enum { SIDE = 8, LEVELS = 17 };
    char error[512];
    nn_table table = { 0 };
    if (nn_read_csv(path, &(nn_csv_options){ .no_header = true }, &table, error, sizeof error)) {
        example_failed("data", error);
        return false;
    }
    bool fine = table.columns == SIDE * SIDE + 1 && make(set, table.rows, SIDE, LEVELS);
    for (int64_t i = 0; fine && i < table.rows; i++) {
        const double *row = table.data + i * table.columns;
        set->digit[i] = row[set->pixels];
        fine = set->digit[i] >= 0 && set->digit[i] < DIGITS;
        for (int64_t k = 0; k < set->pixels; k++) {
            set->grey[i * set->pixels + k] = row[k];
            fine = fine && row[k] >= 0 && row[k] < LEVELS;
        }
    }
    if (!fine) example_failed(path, "lines of 64 greys 0 .. 16 and a digit are expected");
    nn_table_clear(&table);
    return fine;
}

/* ---- MNIST ----------------------------------------------------------------------------------- */

/* The IDX file of that name, plain or packed; false after explaining. */
static bool read_bytes(const char *directory, const char *name, int axes, nn_tensor *bytes)
{
    char path[4096], error[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (access(path, F_OK) != 0) snprintf(path, sizeof path, "%s/%s.gz", directory, name);
    if (access(path, F_OK) != 0) {
        snprintf(path, sizeof path, "%s/%s", directory, name);
        example_failed(path, "is not there, nor is optdigits.tra");
        return false;
    }
    if (nn_read_idx(path, bytes, error, sizeof error)) {
        example_failed("data", error);
        return false;
    }
    if (bytes->type == NN_U8 && bytes->shape.rank == axes) return true;
    example_failed(path, "this is no file of bytes with as many axes as expected");
    nn_tensor_clear(bytes);
    return false;
}

static bool read_mnist(const char *directory, const char *images, const char *labels,
                       digit_set *set)
{
    nn_tensor grey, digit = { 0 };
    if (!read_bytes(directory, images, 3, &grey)) return false;
    if (!read_bytes(directory, labels, 1, &digit)) {
        nn_tensor_clear(&grey);
        return false;
    }
    const int64_t *size = grey.shape.dim;
    bool fine = digit.shape.dim[0] == size[0] && size[0] > 0 && size[1] == size[2] && size[1] > 0 &&
                size[1] < 1000;
    if (!fine) example_failed(images, "pictures and labels do not fit each other");
    if (fine && !make(set, size[0], (int)size[1], 256)) {
        example_failed(images, NULL);
        fine = false;
    }
    if (fine) {
        nn_tensor_numbers(&grey, AD_F64, set->grey, NULL, 0);
        nn_tensor_numbers(&digit, AD_F64, set->digit, NULL, 0);
    }
    for (int64_t i = 0; fine && i < set->n; i++) {
        if (set->digit[i] < DIGITS) continue;
        example_failed(labels, "a label is not one of 0 .. 9");
        fine = false;
    }
    nn_tensor_clear(&grey);
    nn_tensor_clear(&digit);
    return fine;
}

bool digits_read(const char *directory, digit_set *train, digit_set *test)
{
    char tra[4096], tes[4096];
    snprintf(tra, sizeof tra, "%s/optdigits.tra", directory);
    snprintf(tes, sizeof tes, "%s/optdigits.tes", directory);
    FILE *f = fopen(tra, "r");
    if (f) {
        fclose(f);
        printf("data: optdigits (UCI)\n");
        return read_optdigits(tra, train) && read_optdigits(tes, test);
    }
    const bool fine =
        read_mnist(directory, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", train) &&
        read_mnist(directory, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", test);
    if (fine) printf("data: MNIST\n");
    return fine;
}
