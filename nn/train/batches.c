/* Arrays of a training: their data and draws become the inputs of a run. */
#include "nn/train/train.h"
#include "autodiff/extension.h"
#include <stdlib.h>
#include <string.h>

nn_array nn_array_data(ad_shape shape, ad_dtype dtype, const void *data)
{
    return (nn_array){ shape, dtype, data };
}
nn_array nn_array_drawn(ad_shape shape) { return (nn_array){ shape, AD_F64, NULL }; }

static bool has_rows(const nn_array *a) { return a->shape.rank > 0 && a->shape.dim[0] == AD_ROWS; }

/* ---- what arrays must be --------------------------------------------------------------------- */

/* Elements of one row, or of all of an array without rows; -1 for a shape that is none. */
static int64_t row_size(ad_shape shape)
{
    int64_t n = 1;
    if (shape.rank < 0 || shape.rank > AD_MAX_RANK) return -1;
    for (int i = shape.rank > 0 && shape.dim[0] == AD_ROWS; i < shape.rank; i++) {
        if (shape.dim[i] < 1 || n > (INT64_MAX >> 8) / shape.dim[i]) return -1;
        n *= shape.dim[i];
    }
    return n;
}

static int check_shape(trainer *t, int i)
{
    const nn_array *a = &t->options->arrays[i];
    int64_t n = row_size(a->shape);
    if (n < 0) {
        char text[128];
        ad_format_shape(a->shape, text, sizeof text);
        return FAIL(
            t, "array %d: the shape must be [AD_ROWS, ...] or [...] with sizes >= 1, but is %s", i,
            text);
    }
    if (a->data && !nn_is_dtype(a->dtype))
        return FAIL(t, "array %d: dtype is neither AD_F32 nor AD_F64", i);
    if (!a->data && !t->options->draw)
        return FAIL(t, "array %d has no data, and there is no options.draw to fill it", i);
    int64_t rows = t->batch > t->examples ? t->batch : t->examples;
    if (has_rows(a) && n > (INT64_MAX >> 8) / rows)
        return FAIL(t, "array %d does not fit into memory", i);
    return 0;
}

/* Every number must be finite in theta's dtype. */
static int check_data(trainer *t, int i)
{
    const nn_array *a = &t->options->arrays[i];
    if (!a->data) return 0;
    int64_t n = row_size(a->shape);
    int64_t bad =
        nn_find_unfit(a->dtype, a->data, has_rows(a) ? n * t->examples : n, t->theta->dtype);
    if (bad < 0) return 0;
    double value = nn_shown(nn_element(a->dtype, a->data, bad));
    const char *advice = isfinite(value) ? ", too large for f32" : "";
    if (!has_rows(a))
        return FAIL(t, "array %d: element %lld is %g%s", i, (long long)bad, value, advice);
    return FAIL(t, "array %d: element %lld of example %lld (from 0) is %g%s", i,
                (long long)(bad % n), (long long)(bad / n), value, advice);
}

int nn_arrays_check(trainer *t)
{
    const nn_train_options *o = t->options;
    bool data = false, drawn = false, rows_drawn = false;
    if (o->narray < 0 || (o->narray > 0 && !o->arrays))
        return FAIL(t, "options.arrays is NULL, options.narray is %d", o->narray);
    for (int i = 0; i < o->narray; i++) {
        bool rows = has_rows(&o->arrays[i]);
        data = data || (rows && o->arrays[i].data);
        drawn = drawn || !o->arrays[i].data;
        rows_drawn = rows_drawn || (rows && !o->arrays[i].data);
    }
    if (data && o->examples < 1)
        return FAIL(t, "there are no examples (options.examples is %lld)", (long long)o->examples);
    if (!data && rows_drawn && o->batch < 1)
        return FAIL(t, "rows are drawn, so options.batch must say how many");
    if (o->draw && !drawn)
        return FAIL(t, "options.draw is given, but every array has data: leave the data of what it "
                       "draws NULL");
    t->examples = data ? o->examples : 0;
    if (!data) t->batch = o->batch > 0 ? o->batch : 1;
    else t->batch = o->batch > 0 && o->batch < t->examples ? o->batch : t->examples;
    for (int i = 0; i < o->narray; i++)
        if (check_shape(t, i) || check_data(t, i)) return -1;
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The buffers of one array; data of theta's dtype that every batch takes whole need none. */
static int make_buffers(trainer *t, int i)
{
    const nn_array *a = &t->options->arrays[i];
    int64_t n = row_size(a->shape) * (has_rows(a) ? t->batch : 1);
    bool whole = !has_rows(a) || t->batch >= t->examples;
    t->inputs[1 + i] = a->data;
    if (a->data && whole && a->dtype == t->theta->dtype) return 0;
    t->buffer[i] = calloc((size_t)n, nn_bytes(t->theta->dtype));
    if (!a->data) t->drawn[i] = calloc((size_t)n, sizeof *t->drawn[i]);
    if (!t->buffer[i] || (!a->data && !t->drawn[i]))
        return FAIL(t, "out of memory for a batch of %lld rows", (long long)t->batch);
    t->inputs[1 + i] = t->buffer[i];
    return 0;
}

/* ---- order ----------------------------------------------------------------------------------- */

/* Fisher and Yates, as Durstenfeld 1964 (doi:10.1145/364520.364540) wrote it. */
static void shuffle(trainer *t)
{
    for (int64_t i = t->examples - 1; i > 0; i--) {
        int64_t k = (int64_t)ad_rng_below(&t->rng, (uint64_t)i + 1), kept = t->order[i];
        t->order[i] = t->order[k];
        t->order[k] = kept;
    }
    t->next = 0;
}

/* The order after so many updates, as this training would make them: every epoch that has begun is
 * shuffled, and the next batch follows theirs. */
static void skip_updates(trainer *t, int64_t updates)
{
    if (t->batch >= t->examples) return;
    int64_t epoch = (t->examples - 1) / t->batch + 1;
    int64_t made = updates % epoch;
    for (int64_t begun = 0; begun < updates / epoch + (made > 0); begun++) shuffle(t);
    t->next =
        made > 0 ? made * t->batch : t->examples; /* at the end: the next batch starts an epoch */
}

int nn_batches_new(trainer *t)
{
    size_t narray = (size_t)t->options->narray;
    t->inputs = calloc(narray + 1, sizeof *t->inputs);
    t->single = calloc(narray + 1, sizeof *t->single);
    t->buffer = calloc(narray + 1, sizeof *t->buffer);
    t->drawn = calloc(narray + 1, sizeof *t->drawn);
    t->order = calloc((size_t)t->examples + 1, sizeof *t->order);
    if (!t->inputs || !t->single || !t->buffer || !t->drawn || !t->order)
        return FAIL(t, "out of memory");
    t->inputs[0] = t->theta->data;
    for (int i = 0; i < t->options->narray; i++)
        if (make_buffers(t, i)) return -1;
    for (int64_t i = 0; i < t->examples; i++) t->order[i] = i;
    t->rng = ad_rng_seed(t->options->seed);
    skip_updates(t, t->updates);
    ad_rng apart = { t->options->seed, UINT64_MAX };
    t->draw_rng = ad_rng_split(&apart);
    return 0;
}

void nn_batches_free(trainer *t)
{
    for (int i = 0; t->options && i < t->options->narray; i++) {
        if (t->buffer) free(t->buffer[i]);
        if (t->drawn) free(t->drawn[i]);
    }
    free(t->inputs);
    free(t->single);
    free(t->buffer);
    free(t->drawn);
    free(t->order);
}

/* ---- batches --------------------------------------------------------------------------------- */

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

void nn_batch_load(trainer *t, int64_t place, int64_t rows)
{
    ad_dtype dtype = t->theta->dtype;
    for (int i = 0; i < t->options->narray; i++) {
        const nn_array *a = &t->options->arrays[i];
        int64_t n = row_size(a->shape);
        if (!a->data || !t->buffer[i]) continue;
        if (!has_rows(a)) copy_numbers(dtype, t->buffer[i], 0, a->dtype, a->data, 0, n);
        for (int64_t r = 0; has_rows(a) && r < rows; r++) {
            copy_numbers(dtype, t->buffer[i], r * n, a->dtype, a->data, t->order[place + r] * n, n);
        }
    }
    t->rows = rows;
}

/* Lets the caller fill the arrays without data, and takes over what it wrote. */
static int draw(trainer *t, int64_t step, const int64_t *examples)
{
    int64_t update = t->updates + step;
    ad_rng rng = { t->draw_rng.key, (uint64_t)update };
    rng = ad_rng_split(&rng);
    nn_step what = { update, t->planned, t->rows, examples, &rng };
    if (t->options->draw(&what, t->drawn, t->options->user)) {
        return FAIL(
            t, "options.draw returned an error at step %lld of %lld; theta is as after step %lld",
            (long long)step, (long long)t->options->steps, (long long)step - 1);
    }
    ad_dtype dtype = t->theta->dtype;
    for (int i = 0; i < t->options->narray; i++) {
        const nn_array *a = &t->options->arrays[i];
        int64_t n = row_size(a->shape) * (has_rows(a) ? t->rows : 1);
        if (a->data) continue;
        int64_t bad = nn_find_unfit(AD_F64, t->drawn[i], n, dtype);
        if (bad >= 0) {
            return FAIL(t,
                        "options.draw wrote %g as element %lld of array %d at step %lld of %lld; "
                        "theta is as after step %lld",
                        nn_shown(t->drawn[i][bad]), (long long)bad, i, (long long)step,
                        (long long)t->options->steps, (long long)step - 1);
        }
        copy_numbers(dtype, t->buffer[i], 0, AD_F64, t->drawn[i], 0, n);
    }
    return 0;
}

int nn_batch_next(trainer *t, int64_t step)
{
    int64_t place = 0, rows = t->batch;
    if (t->batch < t->examples) {
        if (t->next >= t->examples) shuffle(t);
        place = t->next;
        rows = t->examples - place < t->batch ? t->examples - place : t->batch;
        t->next += rows;
    }
    /* Of a batch that is all of the data, nothing changes after the first step. */
    if (step == 1 || t->batch < t->examples) nn_batch_load(t, place, rows);
    return t->options->draw ? draw(t, step, t->examples ? t->order + place : NULL) : 0;
}

int64_t nn_batch_example(const trainer *t, int64_t row)
{
    if (t->examples == 0) return -1;
    return t->batch < t->examples ? t->order[t->next - t->rows + row] : row;
}

const void *const *nn_batch_row(trainer *t, int64_t row)
{
    t->single[0] = t->inputs[0];
    for (int i = 0; i < t->options->narray; i++) {
        const nn_array *a = &t->options->arrays[i];
        size_t bytes =
            has_rows(a) ? (size_t)(row * row_size(a->shape)) * nn_bytes(t->theta->dtype) : 0;
        t->single[1 + i] = (const char *)t->inputs[1 + i] + bytes;
    }
    return t->single;
}
