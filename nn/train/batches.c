/* Feeds: from arrays, examples and draws to the inputs of a run. */
#include "nn/train/train.h"
#include "autodiff/extension.h"
#include <stdlib.h>
#include <string.h>

/* ---- numbers --------------------------------------------------------------------------------- */

/* n numbers from one array to another, converted where the types differ. */
static void copy_numbers(ad_dtype to_type, void *to, int64_t at, ad_dtype from_type,
                         const void *from, int64_t start, int64_t n)
{
    size_t bytes = nn_bytes(to_type);
    if (to_type == from_type) {
        memcpy((char *)to + (size_t)at * bytes, (const char *)from + (size_t)start * bytes,
               (size_t)n * bytes);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        nn_put(to_type, to, at + i, nn_element(from_type, from, start + i));
}

/* Asks for a row that will be copied: processors foresee no random places. */
static void fetch_row(const char *row, size_t bytes)
{
#ifdef __GNUC__
    enum { LINE = 64, MOST = 1024 };
    for (size_t i = 0; i < bytes && i < MOST; i += LINE) __builtin_prefetch(row + i);
#else
    (void)row, (void)bytes;
#endif
}

/* Rows of so many bytes, side by side. Small ones are copied as numbers are, not by a call each. */
static void copy_rows(int64_t n, const int64_t *examples, size_t bytes, const char *from, char *to)
{
#define COPY_ROWS(size)                                                                            \
    _Pragma("GCC unroll 8") for (int64_t r = 0; r < n; r++)                                        \
        memcpy(to + (size_t)r * (size), from + (size_t)examples[r] * (size), size)
    switch (bytes) {
    case 4: COPY_ROWS(4); break;
    case 8: COPY_ROWS(8); break;
    case 16: COPY_ROWS(16); break;
    default:
        for (int64_t r = 0; r < n; r++) {
            enum { AHEAD = 8 };
            if (r + AHEAD < n) fetch_row(from + (size_t)examples[r + AHEAD] * bytes, bytes);
            memcpy(to + (size_t)r * bytes, from + (size_t)examples[r] * bytes, bytes);
        }
    }
#undef COPY_ROWS
}

/* The rows of examples of an array with data to `out`, of this dtype. */
static void gather_data(const nn_array *a, ad_dtype dtype, int64_t n, const int64_t *examples,
                        void *out)
{
    int64_t size = nn_row_size(a->shape);
    if (a->dtype == dtype) {
        copy_rows(n, examples, (size_t)size * nn_bytes(dtype), a->data, out);
        return;
    }
    for (int64_t r = 0; r < n; r++)
        copy_numbers(dtype, out, r * size, a->dtype, a->data, examples[r] * size, size);
}

/* The rows of examples of array i to `out`, of theta's dtype; fetched: room for them in the array's
 * own. */
static int gather(const nn_feed *feed, int i, int64_t n, const int64_t *examples, void *fetched,
                  void *out, char *error, size_t error_size)
{
    const nn_array *a = &feed->arrays[i];
    int64_t size = nn_row_size(a->shape);
    if (!a->fetch) {
        gather_data(a, feed->dtype, n, examples, out);
        return 0;
    }
    char text[400] = "an error without a text";
    void *to = a->dtype == feed->dtype ? out : fetched;
    if (a->fetch(a->source, n, examples, to, text, sizeof text))
        return nn_error(error, error_size, "array %d: fetching its rows: %s", i, text);
    int64_t bad = nn_find_unfit(a->dtype, to, n * size, feed->dtype);
    if (bad >= 0)
        return nn_error(error, error_size,
                        "array %d: element %lld of example %lld (from 0) is %g, as it was fetched",
                        i, (long long)(bad % size), (long long)examples[bad / size],
                        nn_shown(nn_element(a->dtype, to, bad)));
    if (to != out) copy_numbers(feed->dtype, out, 0, a->dtype, to, 0, n * size);
    return 0;
}

/* ---- feeds ----------------------------------------------------------------------------------- */

/* What all batches share: constants, and the rows of an only batch. Data of theta's dtype are used
 * where they are. */
static int make_same(nn_trainer *t, nn_feed *feed, int i)
{
    const nn_array *a = &feed->arrays[i];
    bool rows = ad_has_rows(a->shape);
    if (nn_array_is_drawn(a) || (rows && feed->batch < feed->count)) return 0;
    if (a->fetch && feed->plain) return 0;
    int64_t n = nn_row_size(a->shape), all = rows ? n * feed->count : n;
    bool as_is = a->data && a->dtype == feed->dtype && (!rows || !feed->examples);
    if (as_is) {
        feed->same[i] = a->data;
        return 0;
    }
    feed->owned[i] = malloc((size_t)all * nn_bytes(feed->dtype));
    if (!feed->owned[i])
        return FAIL(t, "out of memory for a batch of %lld rows", (long long)feed->batch);
    feed->same[i] = feed->owned[i];
    if (!rows) {
        copy_numbers(feed->dtype, feed->owned[i], 0, a->dtype, a->data, 0, n);
        return 0;
    }
    void *fetched =
        a->fetch && a->dtype != feed->dtype ? malloc((size_t)all * nn_bytes(a->dtype)) : NULL;
    char text[500];
    int result =
        a->fetch && a->dtype != feed->dtype && !fetched
            ? nn_error(text, sizeof text, "out of memory")
            : gather(feed, i, feed->count, feed->order, fetched, feed->owned[i], text, sizeof text);
    free(fetched);
    return result ? FAIL(t, "%s", text) : 0;
}

static void begin_order(nn_feed *feed)
{
    int64_t *order = feed->order, n = feed->count;
    if (feed->examples) memcpy(order, feed->examples, (size_t)n * sizeof *order);
    else
        for (int64_t i = 0; i < n; i++) order[i] = i;
}

int nn_feed_open(nn_trainer *t, nn_feed *feed, const nn_stage *stage, nn_part part, int64_t batch,
                 bool plain)
{
    *feed = (nn_feed){ .options = &t->options,
                       .dtype = t->theta->dtype,
                       .part = part,
                       .stage = (int)(stage - t->stages),
                       .first = t->first,
                       .planned = t->steps,
                       .narray = stage->narray,
                       .arrays = stage->arrays,
                       .count = plain ? t->examples : t->count[part],
                       .examples = plain ? NULL : nn_part_examples(t, part),
                       .plain = plain,
                       .epoch = -1 };
    feed->batch = nn_batch_rows(batch, feed->count);
    feed->rows = feed->count;
    if (part != NN_TRAINING) {
        if (feed->count == 0) feed->rows = t->options.validation.rows;
        feed->planned = nn_feed_batches(feed);
    }
    size_t narray = (size_t)feed->narray;
    feed->same = calloc(narray + 1, sizeof *feed->same);
    feed->owned = calloc(narray + 1, sizeof *feed->owned);
    feed->order = malloc((size_t)(feed->count + 1) * sizeof *feed->order);
    if (!feed->same || !feed->owned || !feed->order) return FAIL(t, "out of memory");
    begin_order(feed);
    for (int i = 0; i < feed->narray; i++)
        if (make_same(t, feed, i)) return -1;
    return 0;
}

void nn_feed_close(nn_feed *feed)
{
    for (int i = 0; feed->owned && i < feed->narray; i++) free(feed->owned[i]);
    free(feed->same);
    free(feed->owned);
    free(feed->order);
    *feed = (nn_feed){ 0 };
}

int64_t nn_feed_batches(const nn_feed *feed)
{
    return feed->rows > 0 ? (feed->rows - 1) / feed->batch + 1 : 1;
}

static inline void exchange(int64_t *order, int64_t i, int64_t k)
{
    int64_t kept = order[i];
    order[i] = order[k];
    order[k] = kept;
}

/* Exchanges element i by a random word with one that is not behind it; the next i. Mostly without a
 * division (Lemire 2019, doi:10.1145/3230636). */
static inline int64_t place(int64_t *order, int64_t i, uint32_t word)
{
    const uint32_t n = (uint32_t)i + 1;
    const uint64_t product = (uint64_t)word * n;
    const uint32_t rest = (uint32_t)product;
    if (i == 0) return 0;
    if (rest < n && rest < -n % n) return i; /* the next word is for this element too */
    exchange(order, i, (int64_t)(product >> 32));
    return i - 1;
}

/* Fisher and Yates, as Durstenfeld 1964 (doi:10.1145/364520.364540) wrote it, by words of 32 bits,
 * two of each draw. */
static void permute(ad_rng *rng, int64_t count, int64_t *order)
{
    enum { DRAWS = 512 };
    uint64_t bits[DRAWS];
    int64_t i = count - 1;
    for (; i >= UINT32_MAX; i--) exchange(order, i, (int64_t)ad_rng_below(rng, (uint64_t)i + 1));
    while (i > 0) {
        int draws = i < 2 * DRAWS ? (int)(i + 1) / 2 : DRAWS;
        ad_rng_fill(rng, draws, bits);
        for (int j = 0; j < draws; j++) {
            i = place(order, i, (uint32_t)bits[j]);
            i = place(order, i, (uint32_t)(bits[j] >> 32));
        }
    }
}

/* The order of an epoch is a function of seed, stage and epoch. */
static void shuffle(nn_feed *feed, int64_t epoch)
{
    if (feed->epoch == epoch) return;
    feed->epoch = epoch;
    ad_rng apart = { feed->options->seed, (uint64_t)feed->stage }, stage = ad_rng_split(&apart),
           of_epoch = { stage.key, (uint64_t)epoch }, rng = ad_rng_split(&of_epoch);
    begin_order(feed);
    permute(&rng, feed->count, feed->order);
}

/* ---- batches --------------------------------------------------------------------------------- */

static int make_buffers(nn_batch *batch, const nn_feed *feed, int i)
{
    const nn_array *a = &feed->arrays[i];
    size_t n = (size_t)(nn_row_size(a->shape) * (ad_has_rows(a->shape) ? feed->batch : 1));
    batch->inputs[1 + i] = feed->same[i];
    if (feed->same[i]) return 0;
    batch->buffer[i] = nn_zeros(feed->dtype, (int64_t)n);
    bool drawn = nn_array_is_drawn(a), other = a->fetch && a->dtype != feed->dtype;
    if (drawn) batch->drawn[i] = calloc(n, sizeof *batch->drawn[i]);
    if (other) batch->fetched[i] = malloc(n * nn_bytes(a->dtype));
    batch->inputs[1 + i] = batch->buffer[i];
    return !batch->buffer[i] || (drawn && !batch->drawn[i]) || (other && !batch->fetched[i]) ? -1
                                                                                             : 0;
}

int nn_batch_open(nn_trainer *t, nn_batch *batch, const nn_feed *feed, const nn_theta *theta)
{
    size_t narray = (size_t)feed->narray;
    *batch = (nn_batch){ .inputs = calloc(narray + 1, sizeof *batch->inputs),
                         .buffer = calloc(narray + 1, sizeof *batch->buffer),
                         .fetched = calloc(narray + 1, sizeof *batch->fetched),
                         .drawn = calloc(narray + 1, sizeof *batch->drawn) };
    int result = batch->inputs && batch->buffer && batch->fetched && batch->drawn ? 0 : -1;
    if (t->options.worker && feed->count > 0) {
        batch->kept = calloc((size_t)feed->batch, sizeof *batch->kept);
        if (!batch->kept) result = -1;
    }
    for (int i = 0; result == 0 && i < feed->narray; i++) result = make_buffers(batch, feed, i);
    if (result) return FAIL(t, "out of memory for a batch of %lld rows", (long long)feed->batch);
    batch->inputs[0] = theta->data;
    return 0;
}

void nn_batch_close(nn_batch *batch, int narray)
{
    for (int i = 0; i < narray; i++) {
        if (batch->buffer) free(batch->buffer[i]);
        if (batch->fetched) free(batch->fetched[i]);
        if (batch->drawn) free(batch->drawn[i]);
    }
    free(batch->inputs);
    free(batch->buffer);
    free(batch->fetched);
    free(batch->drawn);
    free(batch->kept);
    *batch = (nn_batch){ 0 };
}

#define BATCH_FAIL(b, ...) nn_error((b)->error, sizeof(b)->error, __VA_ARGS__)

/* Lets the caller fill the arrays without data, and takes over what it wrote. */
static int draw(const nn_feed *feed, nn_batch *batch, int64_t step)
{
    const nn_train_options *o = feed->options;
    bool training = feed->part == NN_TRAINING;
    int64_t whole = training ? feed->first + step : step;
    ad_rng apart = { o->seed, training ? UINT64_MAX : UINT64_MAX - 1 - (uint64_t)feed->part },
           own = ad_rng_split(&apart), of_step = { own.key, (uint64_t)whole },
           rng = ad_rng_split(&of_step);
    nn_step what = { .part = feed->part,
                     .stage = feed->stage,
                     .step = whole,
                     .steps = feed->planned,
                     .rows = batch->rows,
                     .examples = feed->count > 0 ? batch->examples : NULL,
                     .rng = &rng };
    if (o->draw(&what, batch->drawn, o->user))
        return BATCH_FAIL(batch, "options.draw returned an error");
    for (int i = 0; i < feed->narray; i++) {
        const nn_array *a = &feed->arrays[i];
        if (!nn_array_is_drawn(a)) continue;
        int64_t n = nn_row_size(a->shape) * (ad_has_rows(a->shape) ? batch->rows : 1);
        int64_t bad = nn_find_unfit(AD_F64, batch->drawn[i], n, feed->dtype);
        if (bad >= 0)
            return BATCH_FAIL(batch, "options.draw wrote %g as element %lld of array %d",
                              nn_shown(batch->drawn[i][bad]), (long long)bad, i);
        copy_numbers(feed->dtype, batch->buffer[i], 0, AD_F64, batch->drawn[i], 0, n);
    }
    return 0;
}

/* Whether the batches of array i are copied from its data. */
static bool is_copied(const nn_feed *feed, int i)
{
    const nn_array *a = &feed->arrays[i];
    return !feed->same[i] && !nn_array_is_drawn(a) && !a->fetch;
}

typedef struct {
    const nn_feed *feed;
    const nn_batch *batch;
    int64_t each; /* rows of a part */
} copying;

static void copy_part(void *data, int thread, int64_t k)
{
    const copying *c = data;
    const nn_feed *feed = c->feed;
    const int64_t first = k * c->each, left = c->batch->rows - first,
                  n = left < c->each ? left : c->each;
    (void)thread;
    for (int i = 0; i < feed->narray; i++) {
        const nn_array *a = &feed->arrays[i];
        if (!is_copied(feed, i)) continue;
        const size_t bytes = (size_t)nn_row_size(a->shape) * nn_bytes(feed->dtype);
        gather_data(a, feed->dtype, n, c->batch->examples + first,
                    (char *)c->batch->buffer[i] + (size_t)first * bytes);
    }
}

/* All arrays together, by the threads of the step, each of which will mostly read what it has
 * copied. A worker is alone: the pool's threads are with the step that it works beside. */
static void copy_data(const nn_feed *feed, const nn_batch *batch)
{
    enum { PART_BYTES = 16384 };
    const nn_train_options *o = feed->options;
    double bytes = 0;
    for (int i = 0; i < feed->narray; i++)
        if (is_copied(feed, i))
            bytes += (double)nn_row_size(feed->arrays[i].shape) * (double)nn_bytes(feed->dtype);
    if (bytes == 0) return;
    copying c = { feed, batch, bytes < PART_BYTES ? (int64_t)(PART_BYTES / bytes) : 1 };
    /* reading takes as long as writing */
    ad_share(o->worker ? 1 : o->threads, 2 * bytes * (double)batch->rows,
             (batch->rows + c.each - 1) / c.each, copy_part, &c);
}

int nn_batch_fill(nn_feed *feed, nn_batch *batch, int64_t step)
{
    bool filled = batch->step > 0;
    batch->step = step;
    batch->rows = feed->batch;
    int64_t batches = nn_feed_batches(feed), place = (step - 1) % batches * feed->batch;
    bool shuffled = feed->part == NN_TRAINING && !feed->plain && feed->count > 0 && batches > 1;
    if (shuffled) shuffle(feed, (step - 1) / batches);
    if (feed->rows > 0 && feed->rows - place < feed->batch) batch->rows = feed->rows - place;
    /* A batch that is all of the part stays as it is. */
    if (feed->count > 0 && (batches > 1 || !filled)) {
        batch->examples = feed->order + place;
        if (batch->kept)
            batch->examples =
                memcpy(batch->kept, batch->examples, (size_t)batch->rows * sizeof *batch->kept);
    }
    copy_data(feed, batch);
    for (int i = 0; i < feed->narray; i++) {
        const nn_array *a = &feed->arrays[i];
        if (feed->same[i] || !a->fetch || feed->plain) continue;
        if (gather(feed, i, batch->rows, batch->examples, batch->fetched[i], batch->buffer[i],
                   batch->error, sizeof batch->error))
            return -1;
    }
    return feed->options->draw && !feed->plain ? draw(feed, batch, step) : 0;
}

const void *const *nn_batch_from(const nn_feed *feed, const nn_batch *batch, int64_t row,
                                 const void **out)
{
    out[0] = batch->inputs[0];
    for (int i = 0; i < feed->narray; i++) {
        const nn_array *a = &feed->arrays[i];
        size_t bytes = ad_has_rows(a->shape)
                           ? (size_t)(row * nn_row_size(a->shape)) * nn_bytes(feed->dtype)
                           : 0;
        out[1 + i] = (const char *)batch->inputs[1 + i] + bytes;
    }
    return out;
}
