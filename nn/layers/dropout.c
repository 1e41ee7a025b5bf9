/* Masks of dropout. A mask is an operation without a derivative, which sees all its rows. */
#include "nn/layers/layer.h"
#include "autodiff/extension.h"
#include <stdatomic.h>
#include <stdlib.h>

/* ---- the operation --------------------------------------------------------------------------- */

typedef struct {
    atomic_int references;
    uint64_t seed, dropped; /* dropped: of 2^32 words those below it */
    double kept;            /* the value of the others */
    bool rows, draws;       /* the mask has rows; each of them a draw of its own */
} mask;

static void retain(void *data) { atomic_fetch_add(&((mask *)data)->references, 1); }

static void release(void *data)
{
    mask *m = data;
    if (atomic_fetch_sub(&m->references, 1) == 1) free(m);
}

enum { TILE = 64, PART = 32 }; /* counters at a time; rows of a part of the work */

typedef struct {
    const mask *mask;
    const ad_opaque_call *call;
    int64_t rows, size; /* elements of a row */
} work;

/* A draw has a key of its own, and a row with such a draw is row 0 of it. Element e of the row is
 * word e % 4 of counter e / 4. */
static void fill_row(const work *w, int64_t row)
{
    const mask *m = w->mask;
    const double draw = nn_element(w->call->dtype, w->call->in[0], m->draws ? row : 0);
    ad_rng numbered = { m->seed, (uint64_t)draw };
    const uint64_t key = ad_rng_split(&numbered).key, counter = m->draws ? 0 : (uint64_t)row;
    uint32_t low[TILE], high[TILE], words[4 * TILE];
    for (int64_t first = 0; 4 * first < w->size; first += TILE) {
        const int64_t left = (w->size + 3) / 4 - first, n = left < TILE ? left : TILE;
        for (int64_t i = 0; i < n; i++) {
            low[i] = (uint32_t)(first + i);
            high[i] = (uint32_t)((uint64_t)(first + i) >> 32);
        }
        ad_random_words(key, counter, n, low, high, words);
        const int64_t end = w->size - 4 * first < 4 * n ? w->size - 4 * first : 4 * n;
        for (int64_t e = 0; e < end; e++) {
            const bool dropped = words[e % 4 * n + e / 4] < m->dropped;
            nn_put(w->call->dtype, w->call->out[0], row * w->size + 4 * first + e,
                   dropped ? 0 : m->kept);
        }
    }
}

static void fill_part(void *data, int thread, int64_t k)
{
    const work *w = data;
    (void)thread;
    for (int64_t row = k * PART; row < (k + 1) * PART && row < w->rows; row++) fill_row(w, row);
}

static int check_draws(const ad_opaque_call *call)
{
    const double highest = call->dtype == AD_F32 ? 0x1p24 : 0x1p53;
    const int64_t n = ad_count(call->in_shape[0], 1);
    for (int64_t i = 0; i < n; i++) {
        const double draw = nn_element(call->dtype, call->in[0], i);
        if (draw >= 0 && draw < highest && draw == floor(draw)) continue;
        char place[64] = "";
        if (n > 1) snprintf(place, sizeof place, " of row %lld (from 0)", (long long)i);
        return nn_error(call->error, call->error_size,
                        "the draw%s is %g, but must be a whole number from 0 to %.0f", place,
                        nn_shown(draw), highest - 1);
    }
    return 0;
}

static int forward(void *data, void *state, const ad_opaque_call *call)
{
    const mask *m = data;
    (void)state;
    if (!call->out[0]) return 0;
    if (check_draws(call)) return -1;
    const ad_shape shape = call->out_shape[0];
    const int64_t rows = m->rows ? shape.dim[0] : 1, all = ad_count(shape, 1);
    if (all == 0) return 0;
    work w = { m, call, rows, all / rows };
    ad_share(call->threads, (double)all * 8, (rows + PART - 1) / PART, fill_part, &w);
    return 0;
}

static const ad_opaque_class masks = { .name = "nn_dropout_mask",
                                       .forward = forward,
                                       .retain = retain,
                                       .release = release,
                                       .flat = true };

/* ---- recording ------------------------------------------------------------------------------- */

static bool check_shapes(ad_tape *tape, ad_shape shape, ad_var draw)
{
    ad_shape d = ad_shape_of(draw);
    const bool rows = ad_has_rows(d);
    if (shape.rank >= 0 && ad_row_size(d) == 1 && d.rank <= 2 && (!rows || ad_has_rows(shape)))
        return true;
    char text[128], draws[128];
    ad_format_shape(shape, text, sizeof text);
    ad_format_shape(d, draws, sizeof draws);
    ad_fail(
        tape,
        "nn_dropout_mask: the mask is %s, the draw %s; the draw must be [1], or, of a mask with "
        "rows, [rows,1]",
        text, draws);
    return false;
}

ad_var nn_dropout_mask(ad_tape *tape, ad_shape shape, double p, uint64_t seed, ad_var draw)
{
    static const char what[] = "nn_dropout_mask";
    if (!tape) return (ad_var){ 0 };
    if (!(p >= 0 && p < 1)) {
        ad_fail(tape, "%s: p must be in [0,1), but is %g", what, nn_shown(p));
        return ad_none(tape);
    }
    if (!draw.tape) return ad_fill(tape, shape, 1);
    if (!nn_layer_valid(what, "draw", draw, tape) || !check_shapes(tape, shape, draw))
        return ad_none(tape);
    const double dropped = fmin(floor(p * 0x1p32 + 0.5), 0x1p32 - 1);
    mask *m = malloc(sizeof *m);
    if (!m) {
        ad_fail(tape, "%s: out of memory", what);
        return ad_none(tape);
    }
    atomic_init(&m->references, 1);
    m->seed = seed;
    m->dropped = (uint64_t)dropped;
    m->kept = 1 / (1 - dropped * 0x1p-32);
    m->rows = ad_has_rows(shape);
    m->draws = ad_has_rows(ad_shape_of(draw));
    ad_var out;
    ad_opaque(tape, &masks, m, 1, &draw, 1, &shape, &out);
    return out;
}

ad_var nn_dropout(ad_var x, double p, uint64_t seed, ad_var draw)
{
    if (!nn_layer_valid("nn_dropout", "x", x, x.tape)) return nn_layer_none(x);
    return ad_mul(x, nn_dropout_mask(x.tape, ad_shape_of(x), p, seed, draw));
}
