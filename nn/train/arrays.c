/* Arrays of a training: what they must be, and how their examples are divided into parts. */
#include "nn/train/train.h"
#include "autodiff/extension.h"
#include <stdlib.h>

nn_array nn_array_data(ad_shape shape, ad_dtype dtype, const void *data)
{
    return (nn_array){ .shape = shape, .dtype = dtype, .data = data };
}

nn_array nn_array_fetched(ad_shape shape, ad_dtype dtype, nn_fetch fetch, void *source)
{
    return (nn_array){ .shape = shape, .dtype = dtype, .fetch = fetch, .source = source };
}

nn_array nn_array_mapped(nn_mapped *mapped)
{
    return nn_array_fetched(nn_mapped_shape(mapped), nn_mapped_dtype(mapped),
                            mapped ? nn_mapped_fetch : NULL, mapped);
}

nn_array nn_array_drawn(ad_shape shape) { return (nn_array){ .shape = shape, .dtype = AD_F64 }; }

bool nn_array_is_drawn(const nn_array *array) { return !array->data && !array->fetch; }

int64_t nn_row_size(ad_shape shape)
{
    int64_t n = 1;
    if (shape.rank < 0 || shape.rank > AD_MAX_RANK) return -1;
    for (int i = ad_has_rows(shape); i < shape.rank; i++) {
        if (shape.dim[i] < 1 || n > (INT64_MAX >> 8) / shape.dim[i]) return -1;
        n *= shape.dim[i];
    }
    return n;
}

int64_t nn_batch_rows(int64_t asked, int64_t examples)
{
    if (examples == 0) return asked > 0 ? asked : 1;
    return asked > 0 && asked < examples ? asked : examples;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static int check_shape(nn_trainer *t, const nn_stage *stage, int i)
{
    const nn_array *a = &stage->arrays[i];
    int64_t n = nn_row_size(a->shape);
    if (n < 0) {
        char text[128];
        ad_format_shape(a->shape, text, sizeof text);
        return FAIL(
            t, "array %d: the shape must be [AD_ROWS, ...] or [...] with sizes >= 1, but is %s", i,
            text);
    }
    if (!nn_array_is_drawn(a) && !nn_is_dtype(a->dtype))
        return FAIL(t, "array %d: dtype is neither AD_F32 nor AD_F64", i);
    if (a->data && a->fetch)
        return FAIL(t, "array %d has data, and is fetched; only one can be", i);
    if (a->fetch && !ad_has_rows(a->shape))
        return FAIL(t, "array %d is fetched, but has no rows of examples", i);
    if (nn_array_is_drawn(a) && !t->options.draw)
        return FAIL(t, "array %d has no data, and there is no options.draw to fill it", i);
    int64_t rows = stage->batch > t->examples ? stage->batch : t->examples;
    if (ad_has_rows(a->shape) && n > (INT64_MAX >> 8) / (rows > 0 ? rows : 1))
        return FAIL(t, "array %d does not fit into memory", i);
    return 0;
}

/* Every number must be finite in theta's dtype. */
static int check_data(nn_trainer *t, const nn_array *a, int i)
{
    if (!a->data) return 0;
    bool rows = ad_has_rows(a->shape);
    int64_t n = nn_row_size(a->shape);
    int64_t bad = nn_find_unfit(a->dtype, a->data, rows ? n * t->examples : n, t->theta->dtype);
    if (bad < 0) return 0;
    double value = nn_shown(nn_element(a->dtype, a->data, bad));
    const char *advice = isfinite(value) ? ", too large for f32" : "";
    if (!rows) return FAIL(t, "array %d: element %lld is %g%s", i, (long long)bad, value, advice);
    return FAIL(t, "array %d: element %lld of example %lld (from 0) is %g%s", i,
                (long long)(bad % n), (long long)(bad / n), value, advice);
}

int nn_arrays_check(nn_trainer *t, const nn_stage *stage)
{
    const nn_train_options *o = &t->options;
    bool data = false, drawn = false, rows_drawn = false;
    if (stage->narray < 0 || (stage->narray > 0 && !stage->arrays))
        return FAIL(t, "options.arrays is NULL, options.narray is %d", stage->narray);
    for (int i = 0; i < stage->narray; i++) {
        const nn_array *a = &stage->arrays[i];
        bool rows = ad_has_rows(a->shape);
        data = data || (rows && !nn_array_is_drawn(a));
        drawn = drawn || nn_array_is_drawn(a);
        rows_drawn = rows_drawn || (rows && nn_array_is_drawn(a));
    }
    if (data && o->examples < 1)
        return FAIL(t, "there are no examples (options.examples is %lld)", (long long)o->examples);
    if (!data && rows_drawn && stage->batch < 1)
        return FAIL(t, "rows are drawn, so options.batch must say how many");
    if (o->draw && !drawn)
        return FAIL(t, "options.draw is given, but every array has data: leave the data of what it "
                       "draws NULL");
    int64_t examples = data ? o->examples : 0;
    if (stage == t->stages) t->examples = examples;
    if (examples != t->examples)
        return FAIL(t,
                    "stage %d: arrays with rows of data are in this stage, or in the first, but "
                    "not in both",
                    (int)(stage - t->stages));
    for (int i = 0; i < stage->narray; i++)
        if (check_shape(t, stage, i) || check_data(t, &stage->arrays[i], i)) return -1;
    return 0;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static int check_split(nn_trainer *t)
{
    const nn_split *s = &t->options.split;
    bool shares = s->validation != 0 || s->test != 0;
    if (!shares && !s->part) return 0;
    if (t->examples == 0)
        return FAIL(t, "options.split divides examples, but no array has rows of data");
    if (shares && s->part) return FAIL(t, "options.split has shares and parts; only one can be");
    if (!(s->validation >= 0 && s->test >= 0 && s->validation + s->test < 1))
        return FAIL(t,
                    "options.split: the shares must be in 0 .. 1 and leave some for training, but "
                    "are %g and %g",
                    nn_shown(s->validation), nn_shown(s->test));
    for (int64_t i = 0; s->part && i < t->examples; i++)
        if (s->part[i] > NN_TEST)
            return FAIL(t, "options.split.part[%lld] is %d, which is no part", (long long)i,
                        s->part[i]);
    return 0;
}

/* Which part each example belongs to, by shares: every example gets a number, those of the smallest
 * ones are for validation, the next for testing. */
typedef struct {
    uint64_t number;
    int64_t example;
} lot;

static int by_number(const void *a, const void *b)
{
    const lot *x = a, *y = b;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    return (x->example > y->example) - (x->example < y->example);
}

static int draw_parts(nn_trainer *t, unsigned char *part)
{
    const nn_split *s = &t->options.split;
    int64_t n = t->examples;
    lot *lots = malloc((size_t)n * sizeof *lots);
    if (!lots) return -1;
    ad_rng apart = { t->options.seed, UINT64_MAX - 2 }, rng = ad_rng_split(&apart);
    for (int64_t i = 0; i < n; i++) lots[i] = (lot){ ad_rng_next(&rng), i };
    qsort(lots, (size_t)n, sizeof *lots, by_number);
    /* A part that is asked for has one example at least, where there are enough. */
    int64_t validation = llround(s->validation * (double)n), test = llround(s->test * (double)n);
    if (s->validation > 0 && validation == 0) validation = 1;
    if (s->test > 0 && test == 0) test = 1;
    for (int64_t i = 0; i < n; i++) {
        nn_part which = i < validation          ? NN_VALIDATION
                        : i < validation + test ? NN_TEST
                                                : NN_TRAINING;
        part[lots[i].example] = (unsigned char)which;
    }
    free(lots);
    return 0;
}

int nn_parts_new(nn_trainer *t)
{
    const nn_split *s = &t->options.split;
    t->count[NN_TRAINING] = t->examples;
    if (check_split(t)) return -1;
    if (!s->part && s->validation == 0 && s->test == 0) return 0;
    unsigned char *drawn = s->part ? NULL : malloc((size_t)t->examples);
    t->parts = malloc((size_t)t->examples * sizeof *t->parts);
    if (!t->parts || (!s->part && (!drawn || draw_parts(t, drawn)))) {
        free(drawn);
        return FAIL(t, "out of memory");
    }
    const unsigned char *part = s->part ? s->part : drawn;
    int64_t place = 0;
    for (int which = NN_TRAINING; which <= NN_TEST; which++) {
        int64_t start = place;
        for (int64_t i = 0; i < t->examples; i++)
            if (part[i] == which) t->parts[place++] = i;
        t->count[which] = place - start;
    }
    free(drawn);
    if (t->count[NN_TRAINING] > 0) return 0;
    return FAIL(t, "options.split leaves none of the %lld examples for training",
                (long long)t->examples);
}

const int64_t *nn_part_examples(const nn_trainer *t, nn_part part)
{
    if (!t->parts) return NULL;
    int64_t before = 0;
    for (int which = NN_TRAINING; which < (int)part; which++) before += t->count[which];
    return t->parts + before;
}
