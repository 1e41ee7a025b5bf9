/* Convolutions: the three faces of the form of tape/ops.h by one walk. A tap of the kernel joins
 * elements of x and y by a matrix of w, so that along the last spatial axis every face is a matrix
 * product, with rows a stride apart:
 *
 *   y[o,:] += x[o stride + shift,:] w[tap]      o: where the tap is within x
 *   x[o stride + shift,:] += y[o,:] w[tap]^T
 *   w[tap] += sum over o of x[o stride + shift,:]^T y[o,:]
 *
 * Zeros around x are never stored: such products are shorter. Where channels are too few for a
 * product by taps, the elements that an output line reads are packed into a matrix of a few lines
 * [positions, taps * Cin], and all taps are one product. With as many groups as channels, products
 * are of elements, channel by channel. Kernels 3x3 that move by one take fewer multiplications by
 * tiles (winograd.c). */
#include "autodiff/kernels/winograd.h"
#include <stdlib.h>
#include <string.h>

enum { TILE_PLACES = 4 }; /* of a result, that a tile has */
enum {
    FEW = 12,      /* channels of a group: with fewer, taps are packed */
    POSITIONS = 64 /* at least so many are packed at a time, if an image has them */
};

/* A spatial axis. */
typedef struct {
    int64_t nx, ny, taps, stride, before, dilation;
} axis;

/* Outputs o in first <= o < end for which tap k is within x. */
typedef struct {
    int64_t first, end;
} range;

typedef enum { BY_TAP, BY_CHANNEL, PACKED, BY_TILE } form;

typedef struct {
    ad_prepared head;
    ad_face face;
    form form;
    axis line, column; /* the last but one and the last; one tap and element: there is none */
    int64_t images;    /* leading axes, for each row where there are rows */
    bool rows;
    int64_t groups, cin, cout; /* channels of a group */
    int64_t lines;             /* packed: lines of y at a time */
    bool padded;               /* packed: some taps are outside of x */
    ad_gemm packed;
    int ngemm;
    ad_gemm *gemm; /* by tap: of different lengths */
    int *of_tap;   /* by tap of a line: its product; -1: never within x */
    ad_winograd tiles;
} conv_prepared;

static range within(const axis *a, int64_t k)
{
    int64_t shift = k * a->dilation - a->before, last = a->nx - 1 - shift;
    range r = { shift < 0 ? (-shift + a->stride - 1) / a->stride : 0, 0 };
    if (last >= 0) r.end = last / a->stride + 1;
    if (r.end > a->ny) r.end = a->ny;
    if (r.first > r.end) r.first = r.end;
    return r;
}

/* The element of x that tap k of output o reads. */
static int64_t place(const axis *a, int64_t o, int64_t k)
{
    return o * a->stride - a->before + k * a->dilation;
}

/* ---- one image ------------------------------------------------------------------------------- */

/* What one image is computed from and to; one of the three is written. */
typedef struct {
    char *x, *w, *y;
    char *pack, *gemm; /* scratch */
} image;

static char *at(char *array, int64_t element, size_t size)
{
    return array + element * (int64_t)size;
}

static void run_gemm(const conv_prepared *p, const ad_gemm *g, int64_t count, char *x, char *w,
                     char *y, char *scratch)
{
    switch (p->face) {
    case AD_FACE_Y: ad_gemm_run(g, count, x, w, y, scratch); break;
    case AD_FACE_X: ad_gemm_run(g, count, y, w, x, scratch); break;
    case AD_FACE_W: ad_gemm_run(g, count, x, y, w, scratch); break;
    }
}

/* Of a line, tap by tap: w is at the tap. */
static void tap_line(const conv_prepared *p, int64_t count, const ad_gemm *g, char *x, char *w,
                     char *y, char *scratch)
{
    size_t size = p->head.size;
    const ad_loops *loops = p->head.loops;
    int64_t in = p->groups * p->cin, out = p->groups * p->cout;
    /* x needs w as [Cout,Cin], and gets a transposed copy. */
    int64_t part = p->face == AD_FACE_X ? p->cin * p->cout : p->cout;
    if (p->form == BY_TAP) {
        for (int64_t i = 0; i < p->groups; i++)
            run_gemm(p, g, count, at(x, i * p->cin, size), at(w, i * part, size),
                     at(y, i * p->cout, size), scratch);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        char *xi = at(x, i * p->column.stride * in, size), *yi = at(y, i * out, size);
        const void *a = p->face == AD_FACE_X ? yi : xi, *b = p->face == AD_FACE_W ? yi : w;
        void *to = p->face == AD_FACE_X ? xi : p->face == AD_FACE_W ? w : yi;
        loops->product(true, p->groups, a, 1, b, 1, to, 1);
    }
}

static void run_by_tap(const conv_prepared *p, const image *m)
{
    size_t size = p->head.size;
    int64_t in = p->groups * p->cin, out = p->groups * p->cout;
    for (int64_t i = 0; i < p->line.taps; i++) {
        range lines = within(&p->line, i);
        for (int64_t k = 0; k < p->column.taps; k++) {
            range columns = within(&p->column, k);
            int64_t count = columns.end - columns.first;
            if (count == 0) continue;
            const ad_gemm *g = p->form == BY_TAP ? &p->gemm[p->of_tap[k]] : NULL;
            char *w = at(m->w, (i * p->column.taps + k) * p->cin * out, size);
            for (int64_t o = lines.first; o < lines.end; o++) {
                int64_t x =
                    place(&p->line, o, i) * p->column.nx + place(&p->column, columns.first, k);
                int64_t y = o * p->column.ny + columns.first;
                tap_line(p, count, g, at(m->x, x * in, size), w, at(m->y, y * out, size), m->gemm);
            }
        }
    }
}

/* Moves between x and the packed matrix of output lines first .. first + n - 1, of one group. */
static void move_packed(const conv_prepared *p, int64_t first, int64_t n, char *x, char *pack)
{
    size_t size = p->head.size;
    int64_t in = p->groups * p->cin, wide = p->line.taps * p->column.taps * p->cin;
    bool unpack = p->face == AD_FACE_X;
    if (p->padded && !unpack) memset(pack, 0, (size_t)(n * p->column.ny * wide) * size);
    for (int64_t i = 0; i < p->line.taps; i++) {
        range lines = within(&p->line, i);
        for (int64_t o = first > lines.first ? first : lines.first; o < first + n && o < lines.end;
             o++)
            for (int64_t k = 0; k < p->column.taps; k++) {
                range columns = within(&p->column, k);
                char *packed = at(pack,
                                  ((o - first) * p->column.ny + columns.first) * wide +
                                      (i * p->column.taps + k) * p->cin,
                                  size);
                char *from = at(
                    x,
                    (place(&p->line, o, i) * p->column.nx + place(&p->column, columns.first, k)) *
                        in,
                    size);
                int64_t count = columns.end - columns.first, step = p->column.stride * in;
                if (count == 0) continue;
                if (unpack)
                    p->head.loops->move(true, count, p->cin, packed, wide, 1, from, step, 1);
                else p->head.loops->move(false, count, p->cin, from, step, 1, packed, wide, 1);
            }
    }
}

static void run_packed(const conv_prepared *p, const image *m)
{
    size_t size = p->head.size;
    int64_t out = p->groups * p->cout, wide = p->line.taps * p->column.taps * p->cin;
    int64_t part = p->face == AD_FACE_X ? wide * p->cout : p->cout;
    for (int64_t o = 0; o < p->line.ny; o += p->lines) {
        int64_t n = p->line.ny - o < p->lines ? p->line.ny - o : p->lines;
        for (int64_t i = 0; i < p->groups; i++) {
            char *x = at(m->x, i * p->cin, size), *w = at(m->w, i * part, size),
                 *y = at(m->y, o * p->column.ny * out + i * p->cout, size);
            if (p->face != AD_FACE_X) move_packed(p, o, n, x, m->pack);
            run_gemm(p, &p->packed, n * p->column.ny, m->pack, w, y, m->gemm);
            if (p->face == AD_FACE_X) move_packed(p, o, n, x, m->pack);
        }
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

static size_t pack_bytes(const conv_prepared *p)
{
    if (p->form != PACKED) return 0;
    int64_t wide = p->line.taps * p->column.taps * p->cin;
    return ad_round_up((size_t)(p->lines * p->column.ny * wide) * p->head.size);
}

static bool turns_weights(const conv_prepared *p)
{
    return p->face == AD_FACE_X && (p->form == BY_TAP || p->form == PACKED);
}

static int64_t weights(const conv_prepared *p)
{
    return p->line.taps * p->column.taps * p->cin * p->cout * p->groups;
}

static size_t conv_scratch(const ad_kernel *k, int64_t rows)
{
    (void)rows;
    const conv_prepared *p = k->prepared;
    if (p->form == BY_TILE) return ad_winograd_scratch(&p->tiles);
    size_t gemm = p->form == PACKED ? ad_gemm_scratch(&p->packed) : 0;
    for (int i = 0; i < p->ngemm; i++) {
        size_t need = ad_gemm_scratch(&p->gemm[i]);
        gemm = need > gemm ? need : gemm;
    }
    size_t turned = turns_weights(p) ? ad_round_up((size_t)weights(p) * p->head.size) : 0;
    return turned + pack_bytes(p) + gemm;
}

/* w by groups as [taps, Cout, Cin], or packed as [Cout, taps, Cin]. */
static void turn_weights(const conv_prepared *p, const void *w, char *to)
{
    size_t size = p->head.size;
    int64_t taps = p->line.taps * p->column.taps, out = p->groups * p->cout,
            part = p->cin * p->cout;
    for (int64_t k = 0; k < taps; k++)
        for (int64_t i = 0; i < p->groups; i++) {
            const void *from = ad_at(w, k * p->cin * out + i * p->cout, size);
            int64_t place_of =
                p->form == PACKED ? i * taps * part + k * p->cin : (k * p->groups + i) * part;
            int64_t step = p->form == PACKED ? taps * p->cin : p->cin;
            p->head.loops->move(false, p->cout, p->cin, from, 1, out, at(to, place_of, size), step,
                                1);
        }
}

static void conv_run(const ad_kernel *k, int64_t rows, const void *const *in, void *out,
                     void *scratch)
{
    const conv_prepared *p = k->prepared;
    size_t size = p->head.size;
    char *array[3];
    array[ad_face_operand(k->op, 0)] = (char *)(uintptr_t)in[0];
    array[ad_face_operand(k->op, 1)] = (char *)(uintptr_t)in[1];
    array[p->face] = out;
    int64_t images = p->rows ? p->images * rows : p->head.part_rows ? rows : p->images;
    if (p->form == BY_TILE) {
        ad_winograd_run(&p->tiles, images, k->reduces_rows, array[AD_FACE_X], array[AD_FACE_W],
                        array[AD_FACE_Y], scratch);
        return;
    }
    int64_t nx = p->line.nx * p->column.nx * p->groups * p->cin;
    int64_t ny = p->line.ny * p->column.ny * p->groups * p->cout;
    image m = { array[AD_FACE_X], array[AD_FACE_W], array[AD_FACE_Y], scratch, NULL };
    if (turns_weights(p)) {
        turn_weights(p, m.w, scratch);
        m.w = scratch;
        m.pack += ad_round_up((size_t)weights(p) * size);
    }
    m.gemm = m.pack + pack_bytes(p);
    if (p->face == AD_FACE_W && !k->reduces_rows) memset(out, 0, (size_t)weights(p) * size);
    for (int64_t i = 0; i < images; i++) {
        if (p->face == AD_FACE_X) memset(m.x, 0, (size_t)nx * size);
        if (p->face == AD_FACE_Y && p->form != PACKED) memset(m.y, 0, (size_t)ny * size);
        if (p->form == PACKED) run_packed(p, &m);
        else run_by_tap(p, &m);
        m.x += nx * (int64_t)size;
        m.y += ny * (int64_t)size;
    }
}

static void conv_clear(void *prepared)
{
    conv_prepared *p = prepared;
    free(p->gemm);
    free(p->of_tap);
}

/* ---- preparing ------------------------------------------------------------------------------- */

/* The product for so many positions of a line. */
static ad_gemm tap_gemm(const conv_prepared *p, ad_dtype dtype, int64_t count)
{
    int64_t in = p->column.stride * p->groups * p->cin, out = p->groups * p->cout;
    ad_gemm g = { .dtype = dtype, .accumulate = true, .vary = AD_GEMM_FIXED };
    switch (p->face) {
    case AD_FACE_Y:
        g.m = count;
        g.n = p->cout;
        g.k = p->cin;
        g.lda = in;
        g.ldb = out;
        g.ldc = out;
        break;
    case AD_FACE_X:
        g.m = count;
        g.n = p->cin;
        g.k = p->cout;
        g.lda = out;
        g.ldb = p->cin;
        g.ldc = in;
        break;
    case AD_FACE_W:
        g.m = p->cin;
        g.n = p->cout;
        g.k = count;
        g.lda = in;
        g.ldb = out;
        g.ldc = out;
        g.a_transposed = true;
        break;
    }
    return g;
}

static bool prepare_taps(conv_prepared *p, ad_dtype dtype)
{
    size_t taps = (size_t)p->column.taps;
    p->gemm = calloc(taps, sizeof *p->gemm);
    p->of_tap = calloc(taps, sizeof *p->of_tap);
    if (!p->gemm || !p->of_tap) return false;
    for (int64_t k = 0; k < p->column.taps; k++) {
        range r = within(&p->column, k);
        if (r.end == r.first) continue;
        ad_gemm g = tap_gemm(p, dtype, r.end - r.first);
        int i = 0;
        while (i < p->ngemm && (p->gemm[i].m != g.m || p->gemm[i].k != g.k)) i++;
        p->of_tap[k] = i;
        if (i < p->ngemm) continue;
        p->gemm[p->ngemm++] = g;
        ad_gemm_prepare(&p->gemm[i]);
    }
    return true;
}

static void prepare_packed(conv_prepared *p, ad_dtype dtype)
{
    int64_t wide = p->line.taps * p->column.taps * p->cin, out = p->groups * p->cout;
    p->lines = (POSITIONS + p->column.ny - 1) / p->column.ny;
    if (p->lines > p->line.ny) p->lines = p->line.ny;
    for (int64_t k = 0; k < p->line.taps; k++) {
        range r = within(&p->line, k);
        p->padded = p->padded || r.first > 0 || r.end < p->line.ny;
    }
    for (int64_t k = 0; k < p->column.taps; k++) {
        range r = within(&p->column, k);
        p->padded = p->padded || r.first > 0 || r.end < p->column.ny;
    }
    int64_t count = p->lines * p->column.ny;
    ad_gemm g = { .dtype = dtype, .vary = AD_GEMM_VARY_M };
    switch (p->face) {
    case AD_FACE_Y:
        g.m = count;
        g.n = p->cout;
        g.k = wide;
        g.lda = wide;
        g.ldb = out;
        g.ldc = out;
        break;
    case AD_FACE_X:
        g.m = count;
        g.n = wide;
        g.k = p->cout;
        g.lda = out;
        g.ldb = wide;
        g.ldc = wide;
        break;
    case AD_FACE_W:
        g.m = wide;
        g.n = p->cout;
        g.k = count;
        g.lda = wide;
        g.ldb = out;
        g.ldc = out;
        g.a_transposed = g.accumulate = true;
        g.vary = AD_GEMM_VARY_K;
        break;
    }
    p->packed = g;
    ad_gemm_prepare(&p->packed);
}

static axis axis_of(const ad_sweep *s, int a, ad_shape x, ad_shape w, ad_shape y)
{
    if (a < 0) return (axis){ .nx = 1, .ny = 1, .taps = 1, .stride = 1, .dilation = 1 };
    return (axis){ .nx = x.dim[x.rank - 1 - s->axes + a],
                   .ny = y.dim[y.rank - 1 - s->axes + a],
                   .taps = w.dim[a],
                   .stride = s->stride[a],
                   .before = s->before[a],
                   .dilation = s->dilation[a] };
}

static bool is_pointwise(const axis *a)
{
    return a->taps == 1 && a->stride == 1 && a->before == 0 && a->nx == a->ny;
}

/* An image that is seen element by element is one long line. */
static void merge_axes(conv_prepared *p)
{
    if (!is_pointwise(&p->line) || !is_pointwise(&p->column)) return;
    p->column.nx = p->column.ny = p->line.nx * p->column.nx;
    p->line.nx = p->line.ny = 1;
}

/* Multiplications of an image, tap by tap. */
static double direct_work(const conv_prepared *p)
{
    double taps[2] = { 0, 0 };
    const axis *axes[2] = { &p->line, &p->column };
    for (int a = 0; a < 2; a++)
        for (int64_t k = 0; k < axes[a]->taps; k++) {
            range r = within(axes[a], k);
            taps[a] += (double)(r.end - r.first);
        }
    return taps[0] * taps[1] * (double)(p->groups * p->cin * p->cout);
}

/* Whether tiles can be used, and pay. */
static bool prepare_tiles(conv_prepared *p, ad_dtype dtype)
{
    const axis *axes[2] = { &p->line, &p->column };
    for (int a = 0; a < 2; a++)
        if (axes[a]->taps != 3 || axes[a]->stride != 1 || axes[a]->dilation != 1) return false;
    if (p->groups != 1) return false;
    p->tiles = (ad_winograd){ .face = p->face,
                              .dtype = dtype,
                              .x = { { p->line.nx, p->column.nx }, p->cin },
                              .y = { { p->line.ny, p->column.ny }, p->cout },
                              .before = { p->line.before, p->column.before } };
    if (!ad_winograd_pays(&p->tiles, direct_work(p))) return false;
    ad_winograd_prepare(&p->tiles);
    return true;
}

static bool prepare(ad_kernel *k)
{
    conv_prepared *p = ad_prepared_new(k, sizeof *p);
    if (!p) return false;
    p->head.scratch = conv_scratch;
    p->head.clear = conv_clear;
    k->run = conv_run;
    p->face = ad_face_of(k->op);
    ad_shape shape[3];
    shape[p->face] = k->out;
    for (int i = 0; i < 2; i++) shape[ad_face_operand(k->op, i)] = k->in_shapes[i];
    const ad_sweep s = ad_sweep_of(k->attr, k->nattr);
    ad_shape x = shape[AD_FACE_X], w = shape[AD_FACE_W], y = shape[AD_FACE_Y];
    p->groups = s.groups;
    p->cin = w.dim[s.axes];
    p->cout = w.dim[s.axes + 1] / s.groups;
    p->line = axis_of(&s, s.axes - 2, x, w, y);
    p->column = axis_of(&s, s.axes - 1, x, w, y);
    merge_axes(p);
    p->rows = ad_has_rows(x);
    p->images = 1;
    for (int i = p->rows; i < x.rank - 1 - s.axes; i++) p->images *= x.dim[i];
    if (p->cin == 1 && p->cout == 1 && p->groups > 1) p->form = BY_CHANNEL;
    else p->form = p->cin < FEW || p->cout < FEW ? PACKED : BY_TAP;
    if (p->form == BY_TAP && prepare_tiles(p, k->dtype)) p->form = BY_TILE;
    if (p->form == PACKED) prepare_packed(p, k->dtype);
    /* Of a tile's positions, sums are made of one number; each part of such a sum is transformed
     * back, so that parts are longer. */
    if (p->face == AD_FACE_W && !p->rows) p->head.units = p->images;
    const int64_t longer = 8, images = p->head.units ? 1 : p->images,
                  terms = images * p->line.ny * p->column.ny;
    p->head.terms = p->form == BY_TILE ? terms / (longer * TILE_PLACES) + 1 : terms;
    return p->form != BY_TAP || prepare_taps(p, k->dtype);
}

bool ad_prepare_conv(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare(k);
}

bool ad_prepare_conv_transpose(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare(k);
}

bool ad_prepare_conv_weight(ad_kernel *k, int64_t max_rows)
{
    (void)max_rows;
    return prepare(k);
}
