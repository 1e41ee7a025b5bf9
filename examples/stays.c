#include "stays.h"
#include "costate.h"
#include "example.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 10 * STAY_HOURS + 1, LONGEST = 256 }; /* times of a stay; visits that are possible */

const char *const stay_quantity[STAY_QUANTITIES] = {
    "Age",      "Gender", "Height",    "ICUType",   "Weight",      "Albumin",    "ALP",
    "ALT",      "AST",    "Bilirubin", "BUN",       "Cholesterol", "Creatinine", "DiasABP",
    "FiO2",     "GCS",    "Glucose",   "HCO3",      "HCT",         "HR",         "K",
    "Lactate",  "Mg",     "MAP",       "MechVent",  "Na",          "NIDiasABP",  "NIMAP",
    "NISysABP", "PaCO2",  "PaO2",      "pH",        "Platelets",   "RespRate",   "SaO2",
    "SysABP",   "Temp",   "TroponinI", "TroponinT", "Urine",       "WBC"
};

/* ---- memory ---- */

static bool make_room(int64_t count, int64_t visits, stays *s)
{
    const size_t n = (size_t)count, cells = n * (size_t)visits;
    *s = (stays){ .count = count,
                  .visits = visits,
                  .x = calloc(cells * STAY_QUANTITIES, sizeof(float)),
                  .mask = calloc(cells * STAY_QUANTITIES, sizeof(float)),
                  .gap = calloc(cells, sizeof(float)),
                  .length = calloc(n, sizeof(float)),
                  .died = calloc(n, sizeof(float)) };
    if (s->x && s->mask && s->gap && s->length && s->died) return true;
    stays_free(s);
    return !example_failed("stays", NULL);
}

void stays_free(stays *s)
{
    free(s->x);
    free(s->mask);
    free(s->gap);
    free(s->length);
    free(s->died);
    *s = (stays){ 0 };
}

/* The same stays with fewer places. */
static bool shorten(stays *s, int64_t visits)
{
    stays t;
    if (!make_room(s->count, visits, &t)) return false;
    for (int64_t i = 0; i < s->count; i++) {
        const int64_t from = i * s->visits, to = i * visits, q = STAY_QUANTITIES;
        const size_t n = (size_t)visits * sizeof(float);
        memcpy(t.x + to * q, s->x + from * q, n * STAY_QUANTITIES);
        memcpy(t.mask + to * q, s->mask + from * q, n * STAY_QUANTITIES);
        memcpy(t.gap + to, s->gap + from, n);
        t.length[i] = s->length[i];
        t.died[i] = s->died[i];
    }
    stays_free(s);
    *s = t;
    return true;
}

stays stays_part(const stays *s, int64_t from, int64_t to)
{
    const int64_t cell = from * s->visits;
    stays t = *s;
    t.count = to - from;
    t.x += cell * STAY_QUANTITIES;
    t.mask += cell * STAY_QUANTITIES;
    t.gap += cell;
    t.length += from;
    t.died += from;
    return t;
}

/* ---- files ---- */

/* Sums and numbers of the measurements of one stay, by time and quantity. */
typedef struct {
    double sum[STEPS][STAY_QUANTITIES];
    int measured[STEPS][STAY_QUANTITIES];
} chart;

/* Lines "07:30,HR,88". */
static bool read_chart(const char *path, chart *c)
{
    const char *names[STAY_QUANTITIES + 1];
    memcpy(names, stay_quantity, sizeof stay_quantity);
    names[STAY_QUANTITIES] = "RecordID";
    const nn_csv_column columns[] = {
        { .name = "Time", .kind = NN_SECONDS },
        { .name = "Parameter", .kind = NN_CLASS, .nclass = STAY_QUANTITIES + 1, .classes = names },
        { .name = "Value" },
    };
    const nn_csv_options options = { .ncolumn = 3, .columns = columns, .only = true };
    nn_table table;
    char error[512];
    if (nn_read_csv(path, &options, &table, error, sizeof error))
        return !example_failed("data", error);
    memset(c, 0, sizeof *c);
    bool fine = true;
    for (int64_t i = 0; i < table.rows; i++) {
        const double *line = table.data + 3 * i;
        const long k = lround(line[0] / 360);
        const int q = (int)line[1];
        if (q == STAY_QUANTITIES) continue;
        fine = fine && k >= 0 && k < STEPS;
        if (!fine) break;
        c->sum[k][q] += line[2];
        c->measured[k][q]++;
    }
    nn_table_clear(&table);
    return fine || !example_failed(path, "a time is not within the 48 hours");
}

/* The chart as the visits of stay i. */
static bool add_visits(const chart *c, int64_t i, stays *s)
{
    int64_t n = 0;
    int before = 0;
    for (int k = 0; k < STEPS; k++) {
        const int64_t cell = i * s->visits + n;
        bool visit = false;
        for (int q = 0; q < STAY_QUANTITIES; q++) {
            if (!c->measured[k][q]) continue;
            if (n == s->visits) return !example_failed("data", "a stay has too many visits");
            s->x[cell * STAY_QUANTITIES + q] = (float)(c->sum[k][q] / c->measured[k][q]);
            s->mask[cell * STAY_QUANTITIES + q] = 1;
            visit = true;
        }
        if (!visit) continue;
        s->gap[cell] = (float)(k - before) / (STEPS - 1);
        before = k;
        n++;
    }
    s->length[i] = (float)n;
    return true;
}

/* Each quantity from its least to its largest value. */
static void normalise(stays *s)
{
    const int64_t cells = s->count * s->visits;
    for (int q = 0; q < STAY_QUANTITIES; q++) {
        float least = INFINITY, largest = -INFINITY;
        for (int64_t k = q; k < cells * STAY_QUANTITIES; k += STAY_QUANTITIES) {
            if (s->mask[k] == 0) continue;
            least = fminf(least, s->x[k]);
            largest = fmaxf(largest, s->x[k]);
        }
        const float range = largest > least ? largest - least : 1;
        for (int64_t k = q; k < cells * STAY_QUANTITIES; k += STAY_QUANTITIES)
            if (s->mask[k] > 0) s->x[k] = (s->x[k] - least) / range;
    }
}

static bool read_outcomes(const char *folder, nn_table *table)
{
    const nn_csv_column columns[] = { { .name = "RecordID" }, { .name = "In-hospital_death" } };
    const nn_csv_options options = { .ncolumn = 2, .columns = columns, .only = true };
    char path[1024], error[512];
    snprintf(path, sizeof path, "%s/Outcomes-a.txt", folder);
    if (!nn_read_csv(path, &options, table, error, sizeof error)) return true;
    return !example_failed("data", error);
}

/* Rows of two numbers in an order that the seed chooses. */
static void shuffle(nn_table *table, uint64_t seed)
{
    ad_rng rng = ad_rng_seed(seed);
    for (int64_t i = table->rows - 1; i > 0; i--) {
        double *a = table->data + 2 * i, *b = table->data + 2 * ad_rng_below(&rng, (uint64_t)i + 1);
        const double number = a[0], died = a[1];
        a[0] = b[0];
        a[1] = b[1];
        b[0] = number;
        b[1] = died;
    }
}

bool stays_read(const char *folder, uint64_t seed, stays *s)
{
    static chart c;
    nn_table table;
    char path[1024];
    int64_t longest = 1;
    if (!read_outcomes(folder, &table)) return false;
    shuffle(&table, seed);
    snprintf(path, sizeof path, "%s/set-a/%.0f.txt", folder, table.data[0]);
    FILE *first = fopen(path, "r");
    bool fine = first && make_room(table.rows, LONGEST, s);
    if (!first)
        example_failed(path, "cannot be read; unpack set-a.tar.gz in this folder: tar xzf "
                             "set-a.tar.gz");
    else fclose(first);
    for (int64_t i = 0; fine && i < table.rows; i++) {
        snprintf(path, sizeof path, "%s/set-a/%.0f.txt", folder, table.data[2 * i]);
        fine = read_chart(path, &c) && add_visits(&c, i, s);
        if (!fine) stays_free(s);
        if (!fine) break;
        s->died[i] = (float)table.data[2 * i + 1];
        longest = (int64_t)fmax((double)longest, s->length[i]);
    }
    nn_table_clear(&table);
    if (!fine || !shorten(s, longest)) return false;
    normalise(s);
    return true;
}

/* ---- a stand-in ---- */

bool stays_make(uint64_t seed, int64_t count, stays *s)
{
    static chart c;
    ad_rng rng = ad_rng_seed(seed);
    double level[STAY_QUANTITIES], effect[STAY_QUANTITIES];
    for (int q = 0; q < STAY_QUANTITIES; q++) {
        level[q] = ad_rng_normal(&rng);
        effect[q] = 0.5 * ad_rng_normal(&rng);
    }
    if (!make_room(count, 48, s)) return false;
    for (int64_t i = 0; i < count; i++) {
        double state = ad_rng_normal(&rng), trend = 0.005 * ad_rng_normal(&rng);
        memset(&c, 0, sizeof c);
        for (int k = 0, visits = 0; k < STEPS && visits < 48; k++) {
            state += trend + 0.05 * ad_rng_normal(&rng);
            if (k && ad_rng_uniform(&rng) > 0.08) continue;
            visits++;
            for (int q = 0; q < STAY_QUANTITIES; q++) {
                if (ad_rng_uniform(&rng) > 0.2) continue;
                c.sum[k][q] = level[q] + effect[q] * state + ad_rng_normal(&rng);
                c.measured[k][q] = 1;
            }
        }
        if (!add_visits(&c, i, s)) return false;
        s->died[i] = state > 3;
    }
    normalise(s);
    return true;
}
