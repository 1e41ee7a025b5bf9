#include "tables.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STAND_IN_ROWS = 2000, STAND_IN_COLUMNS = 6 };

bool table_make(ad_rng *rng, table *t)
{
    const double noise = 0.5;
    *t = (table){ .n = STAND_IN_ROWS, .d = STAND_IN_COLUMNS };
    t->rows = malloc((size_t)(t->n * t->d) * sizeof *t->rows);
    for (int64_t i = 0; t->rows && i < t->n * t->d; i++) {
        const double z = ad_rng_normal(rng);
        const bool first = i % t->d == 0;
        t->rows[i] = first ? z : sin(1.5 * t->rows[i - 1]) + noise * z;
        t->truth -=
            (0.5 * z * z + 0.91893853320467274178 + (first ? 0 : log(noise))) / (double)t->n;
    }
    return t->rows;
}

bool table_read(const char *folder, const char *name, table *t)
{
    const bool wine = !strcmp(name, "wine");
    const nn_csv_column classes = { .number = 11, .kind = NN_SKIP };
    const nn_csv_options options = { .ncolumn = 1, .columns = &classes, .no_header = true };
    char path[4096], error[512];
    nn_table file;
    snprintf(path, sizeof path, "%s/%s", folder, wine ? "winequality-red.csv" : "magic04.data");
    if (nn_read_csv(path, wine ? NULL : &options, &file, error, sizeof error)) {
        example_failed("data", error);
        return false;
    }
    /* The last column of the wines is what people think of them. */
    *t = (table){ .n = file.rows, .d = wine ? file.columns - 1 : file.columns, .truth = NAN };
    t->rows = malloc((size_t)(t->n * t->d) * sizeof *t->rows);
    for (int64_t i = 0; t->rows && i < t->n; i++)
        memcpy(t->rows + i * t->d, file.data + i * file.columns, (size_t)t->d * sizeof *t->rows);
    nn_table_clear(&file);
    return t->rows;
}

void table_shuffle(ad_rng *rng, table *t)
{
    for (int64_t i = t->n - 1; i > 0; i--) {
        const int64_t j = (int64_t)ad_rng_below(rng, (uint64_t)i + 1);
        for (int64_t k = 0; k < t->d; k++) {
            const double kept = t->rows[i * t->d + k];
            t->rows[i * t->d + k] = t->rows[j * t->d + k];
            t->rows[j * t->d + k] = kept;
        }
    }
}

bool table_split(const table *t, int64_t fold, split *s)
{
    *s = (split){ .d = t->d };
    double *all = malloc((size_t)(t->n * t->d) * sizeof *all);
    double mean, scale;
    if (!all) return false;
    s->rows[TEST] = all;
    for (int which = TEST; which < PARTS; which++) {
        if (which > TEST) s->rows[which] = s->rows[which - 1] + s->n[which - 1] * t->d;
        for (int64_t i = 0; i < t->n; i++) {
            const int64_t after = (i - fold + FOLDS) % FOLDS;
            if (which == (after == 0 ? TEST : after == 1 ? CHOICE : TRAIN))
                memcpy(s->rows[which] + s->n[which]++ * t->d, t->rows + i * t->d,
                       (size_t)t->d * sizeof *all);
        }
    }
    for (int64_t k = 0; k < t->d; k++) {
        double sum = 0, squares = 0;
        const double n = (double)(s->n[CHOICE] + s->n[TRAIN]);
        const double *column = s->rows[CHOICE] + k;
        for (int64_t i = 0; i < (int64_t)n; i++) sum += column[i * t->d];
        mean = sum / n;
        for (int64_t i = 0; i < (int64_t)n; i++) squares += pow(column[i * t->d] - mean, 2);
        scale = sqrt(squares / n);
        for (int64_t i = 0; i < t->n; i++) all[i * t->d + k] = (all[i * t->d + k] - mean) / scale;
        s->log_scale += log(scale);
    }
    return true;
}
