/* Convolutions 3x3 with a stride of 1 by the minimal algorithm F(2x2,3x3) (Winograd 1980,
 * Arithmetic Complexity of Computations; Lavin & Gray 2016, arXiv:1509.09308). Four results, a tile
 * of 2x2, come from a tile of 4x4 elements of x by 16 products instead of 36. The trilinear form of
 * tape/ops.h is a sum over tiles and over the 16 places s of
 *
 *   image(x)[s,:] weights(w)[s] result(y)[s,:]
 *
 * with a linear transform of each array, so every face is 16 matrix products between transforms:
 *
 *   y = sums(image(x)[s] weights(w)[s])         sums: the transpose of result
 *   w = products(image(x)[s]^T result(y)[s])    products: the transpose of weights
 *
 * and x is what y is, of y and the taps in the opposite order. The transforms add and halve; the
 * error is about twice that of plain sums. Tiles reach over the image's edge, where x is zero and
 * results are dropped. An infinite element makes all results of its tiles NaN or infinite. */
#include "autodiff/kernels/winograd.h"
#include "autodiff/base/caches.h"
#include <string.h>

enum {
    SIDE = 4,
    PLACES = SIDE * SIDE,
    TAPS = 3,
    RESULTS = 2,
    SUMMED = 288 << 10, /* bytes of transformed tiles that are summed at a time */
    LEAST = 16          /* tiles at a time, at least */
};

typedef struct {
    const ad_winograd *p;
    char *outside;   /* zeros, a line of channels */
    char *dropped;   /* another one */
    char *weights;   /* [PLACES,from,to] */
    char *turned;    /* [TAPS,TAPS,Cout,Cin] */
    char *from, *to; /* tiles [PLACES,batch,channels] */
    char *gemm;
} scratch_places;

/* What tiles are made from, and what from them. */
static const ad_image *source(const ad_winograd *p) { return p->face == AD_FACE_X ? &p->y : &p->x; }
static const ad_image *target(const ad_winograd *p) { return p->face == AD_FACE_X ? &p->x : &p->y; }

static int64_t elements(const ad_image *i) { return i->size[0] * i->size[1] * i->channels; }

bool ad_winograd_pays(const ad_winograd *p, double direct)
{
    const ad_image *to = target(p);
    const double in = (double)p->x.channels, out = (double)p->y.channels;
    const int64_t along[] = { (to->size[0] + 1) / RESULTS, (to->size[1] + 1) / RESULTS };
    const double tiles = (double)(along[0] * along[1]);
    /* A transform takes as long as so many multiplications of a channel. */
    enum { TRANSFORM = 96 };
    return tiles * (PLACES * in * out + TRANSFORM * (in + out)) < direct;
}

/* Bytes of transformed tiles at a time: they and w's stay in a level 2 cache. Where they are added
 * up, the sum's order may not depend on the cache. */
static int64_t tile_bytes(const ad_winograd *p)
{
    return p->face == AD_FACE_W ? SUMMED : ad_cache_bytes() / 32 * 9;
}

void ad_winograd_prepare(ad_winograd *p)
{
    const ad_image *from = source(p), *to = target(p);
    p->loops = ad_loops_of(p->dtype);
    p->size = p->dtype == AD_F32 ? sizeof(float) : sizeof(double);
    for (int a = 0; a < 2; a++) p->tiles[a] = (to->size[a] + 1) / RESULTS;
    int64_t bytes = PLACES * (from->channels + to->channels) * (int64_t)p->size;
    p->batch = tile_bytes(p) / bytes > LEAST ? tile_bytes(p) / bytes : LEAST;
    const bool sums = p->face == AD_FACE_W;
    p->product = (ad_gemm){ .dtype = p->dtype,
                            .m = sums ? from->channels : p->batch,
                            .n = to->channels,
                            .k = sums ? p->batch : from->channels,
                            .lda = from->channels,
                            .ldb = to->channels,
                            .ldc = to->channels,
                            .a_transposed = sums,
                            .accumulate = sums,
                            .vary = sums ? AD_GEMM_VARY_K : AD_GEMM_VARY_M };
    ad_gemm_prepare(&p->product);
}

/* Where the arrays are in scratch, in the order of scratch_places; how large it is. */
enum { ARRAYS = 7 };
static size_t lay_out(const ad_winograd *p, size_t *place)
{
    const int64_t in = p->x.channels, out = p->y.channels, most = in > out ? in : out;
    const int64_t count[ARRAYS] = { most,
                                    most,
                                    PLACES * in * out,
                                    p->face == AD_FACE_X ? TAPS * TAPS * in * out : 0,
                                    PLACES * p->batch * source(p)->channels,
                                    PLACES * p->batch * target(p)->channels,
                                    0 };
    size_t end = 0;
    for (int i = 0; i < ARRAYS; i++) {
        place[i] = end;
        end += ad_round_up((size_t)count[i] * p->size);
    }
    return end + ad_gemm_scratch(&p->product);
}

static scratch_places places_in(const ad_winograd *p, char *scratch)
{
    size_t at[ARRAYS];
    lay_out(p, at);
    return (scratch_places){ .p = p,
                             .outside = scratch + at[0],
                             .dropped = scratch + at[1],
                             .weights = scratch + at[2],
                             .turned = scratch + at[3],
                             .from = scratch + at[4],
                             .to = scratch + at[5],
                             .gemm = scratch + at[6] };
}

size_t ad_winograd_scratch(const ad_winograd *p)
{
    size_t at[ARRAYS];
    return lay_out(p, at);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* The lines of a tile side x side whose first element is at (line, column) of an image; `outside`
 * for those beyond its edge. */
static void find_lines(const ad_image *i, size_t size, char *array, int side, int64_t line,
                       int64_t column, char *outside, char **to)
{
    for (int a = 0; a < side; a++)
        for (int b = 0; b < side; b++) {
            int64_t l = line + a, c = column + b;
            bool inside = l >= 0 && l < i->size[0] && c >= 0 && c < i->size[1];
            int64_t at = (l * i->size[1] + c) * i->channels;
            *to++ = inside ? array + at * (int64_t)size : outside;
        }
}

/* Between images and transformed tiles: n tiles from number `first` on. */
typedef struct {
    ad_tile transform;
    const ad_image *image;
    int64_t before[2];
    int side; /* of a tile of the image */
    bool out; /* into the image */
} passage;

static void pass(const scratch_places *s, const passage *w, int64_t first, int64_t n, char *images,
                 char *tiles)
{
    const ad_winograd *p = s->p;
    const int64_t line = w->image->channels * (int64_t)p->size, each = p->tiles[0] * p->tiles[1];
    for (int64_t k = 0; k < n; k++) {
        const int64_t number = (first + k) / each, rest = (first + k) % each;
        char *image[PLACES], *place[PLACES];
        find_lines(w->image, p->size, images + number * elements(w->image) * (int64_t)p->size,
                   w->side, rest / p->tiles[1] * RESULTS - w->before[0],
                   rest % p->tiles[1] * RESULTS - w->before[1], w->out ? s->dropped : s->outside,
                   image);
        for (int i = 0; i < PLACES; i++) place[i] = tiles + (i * p->batch + k) * line;
        char **in = w->out ? place : image, **out = w->out ? image : place;
        p->loops->tile(w->transform, false, w->image->channels, (const void *const *)in,
                       (void *const *)out);
    }
}

/* ---- weights --------------------------------------------------------------------------------- */

/* Lines of all elements of a matrix of w. */
static void find_taps(char *w, int64_t count, int64_t bytes, bool backwards, char **to)
{
    for (int64_t i = 0; i < count; i++) to[i] = w + (backwards ? count - 1 - i : i) * bytes;
}

static void transform_weights(const scratch_places *s, char *w)
{
    const ad_winograd *p = s->p;
    const int64_t in = p->x.channels, out = p->y.channels, bytes = in * out * (int64_t)p->size;
    const bool turn = p->face == AD_FACE_X;
    char *tap[TAPS * TAPS], *place[PLACES];
    if (turn)
        for (int64_t k = 0; k < TAPS * TAPS; k++)
            p->loops->move(false, out, in, w + k * bytes, 1, out, s->turned + k * bytes, in, 1);
    find_taps(turn ? s->turned : w, TAPS * TAPS, bytes, turn, tap);
    find_taps(s->weights, PLACES, bytes, false, place);
    p->loops->tile(AD_TILE_WEIGHTS, false, in * out, (const void *const *)tap,
                   (void *const *)place);
}

static void sum_weights(const scratch_places *s, bool add, char *w)
{
    const ad_winograd *p = s->p;
    const int64_t count = p->x.channels * p->y.channels, bytes = count * (int64_t)p->size;
    char *tap[TAPS * TAPS], *place[PLACES];
    find_taps(w, TAPS * TAPS, bytes, false, tap);
    find_taps(s->weights, PLACES, bytes, false, place);
    p->loops->tile(AD_TILE_PRODUCTS, add, count, (const void *const *)place, (void *const *)tap);
}

/* ---- running --------------------------------------------------------------------------------- */

void ad_winograd_run(const ad_winograd *p, int64_t images, bool add, char *x, char *w, char *y,
                     char *scratch)
{
    const ad_image *from = source(p), *to = target(p);
    const bool sums = p->face == AD_FACE_W;
    const int64_t size = (int64_t)p->size, tiles = images * p->tiles[0] * p->tiles[1],
                  part = p->x.channels * p->y.channels * size;
    const scratch_places s = places_in(p, scratch);
    memset(s.outside, 0, (size_t)(s.dropped - s.outside));
    if (sums) memset(s.weights, 0, (size_t)(PLACES * part));
    else transform_weights(&s, w);
    passage in = { AD_TILE_IMAGE, from, { p->before[0], p->before[1] }, SIDE, false };
    if (p->face == AD_FACE_X)
        for (int a = 0; a < 2; a++) in.before[a] = TAPS - 1 - p->before[a];
    const passage out = { sums ? AD_TILE_RESULT : AD_TILE_SUMS, to, { 0, 0 }, RESULTS, !sums };
    for (int64_t first = 0; first < tiles; first += p->batch) {
        const int64_t n = tiles - first < p->batch ? tiles - first : p->batch;
        pass(&s, &in, first, n, p->face == AD_FACE_X ? y : x, s.from);
        if (sums) pass(&s, &out, first, n, y, s.to);
        for (int64_t i = 0; i < PLACES; i++) {
            char *a = s.from + i * p->batch * from->channels * size, *b = s.weights + i * part,
                 *c = s.to + i * p->batch * to->channels * size;
            if (sums) ad_gemm_run(&p->product, n, a, c, b, s.gemm);
            else ad_gemm_run(&p->product, n, a, b, c, s.gemm);
        }
        if (!sums) pass(&s, &out, first, n, p->face == AD_FACE_X ? x : y, s.to);
    }
    if (sums) sum_weights(&s, add, w);
}
