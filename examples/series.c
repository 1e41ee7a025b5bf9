#include "series.h"
#include "costate.h"
#include "example.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CLASSES = 16, MAX_CHANNELS = 64 };

void series_free(series *s)
{
    free(s->x);
    free(s->class_);
    *s = (series){ 0 };
}

static int make_room(series *s)
{
    s->x = calloc((size_t)(s->count * s->length * s->channels), sizeof *s->x);
    s->class_ = calloc((size_t)s->count, sizeof *s->class_);
    if (s->x && s->class_) return 0;
    series_free(s);
    return -example_failed("series", "out of memory");
}

/* ---- files ---- */

/* The whole file as a text; NULL after explaining. */
static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size = -1;
    if (file && !fseek(file, 0, SEEK_END)) size = ftell(file);
    if (size >= 0) text = malloc((size_t)size + 1);
    if (text) {
        rewind(file);
        text[fread(text, 1, (size_t)size, file)] = 0;
    }
    if (file) fclose(file);
    if (!text) example_failed(path, "cannot be read");
    return text;
}

/* The number of a class in the list of the header. */
static int64_t class_of(const series *s, const char *name)
{
    for (int64_t k = 0; k < s->classes; k++)
        if (!strcmp(s->name[k], name)) return k;
    return -1;
}

/* "@classLabel true 1 2 3" */
static void read_classes(series *s, char *line)
{
    char *rest = NULL;
    strtok_r(line, " ", &rest);
    strtok_r(NULL, " ", &rest);
    for (char *word; (word = strtok_r(NULL, " \r", &rest));) {
        if (s->classes == MAX_CLASSES) return;
        snprintf(s->name[s->classes++], sizeof s->name[0], "%s", word);
    }
}

/* Observations of the first channel of a line, up to its colon. */
static int64_t observations(const char *line)
{
    int64_t n = 1;
    for (; *line && *line != ':'; line++) n += *line == ',';
    return n;
}

static int64_t channels(const char *line)
{
    int64_t n = 0;
    for (; *line && *line != '\n'; line++) n += *line == ':';
    return n;
}

/* One series: channels that colons separate, then the class. false: it is not that. */
static bool read_series(series *s, int64_t i, char *line)
{
    double *x = s->x + i * s->length * s->channels;
    for (int64_t c = 0; c < s->channels; c++) {
        int64_t t = 0;
        for (bool more = true; more; t++) {
            char *end = line;
            double value = strtod(line, &end);
            if (end == line || t >= s->length || (*end != ',' && *end != ':')) return false;
            x[t * s->channels + c] = value;
            more = *end == ',';
            line = end + 1;
        }
        for (; t < s->length; t++) x[t * s->channels + c] = x[(t - 1) * s->channels + c];
    }
    line[strcspn(line, "\r\n ")] = 0;
    int64_t k = class_of(s, line);
    s->class_[i] = (double)k;
    return k >= 0;
}

/* The first line of data; the header is read on the way. */
static char *read_header(series *s, char *text)
{
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        if (!strncmp(line, "@classLabel", 11)) read_classes(s, line);
        if (!strncmp(line, "@data", 5)) return next;
    }
    return NULL;
}

static int measure(series *s, const char *data)
{
    for (const char *line = data; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!*line) break;
        int64_t n = observations(line), c = channels(line);
        if (n > s->length) s->length = n;
        if (s->count++ == 0) s->channels = c;
        else if (c != s->channels) return -1;
    }
    return s->count > 0 && s->channels > 0 && s->channels <= MAX_CHANNELS && s->classes > 1 ? 0
                                                                                            : -1;
}

int series_read(const char *path, int64_t length, series *s)
{
    *s = (series){ .length = length };
    char *text = read_text(path);
    if (!text) return -1;
    char *line = read_header(s, text);
    bool fine = line && !measure(s, line);
    if (fine && make_room(s)) {
        free(text);
        return -1;
    }
    for (int64_t i = 0; fine && i < s->count; i++) {
        char *next = strchr(line, '\n');
        if (next) *next++ = 0;
        fine = read_series(s, i, line);
        line = next;
    }
    free(text);
    if (fine) return 0;
    series_free(s);
    return -example_failed(path, "is no labelled series of the UEA archive (.ts)");
}

/* ---- a stand-in ---- */

int series_make(uint64_t seed, int64_t count, int64_t length, series *s)
{
    static const char *const name[] = { "walk", "run", "jump" };
    *s = (series){ .count = count, .length = length, .channels = 3, .classes = 3 };
    for (int k = 0; k < 3; k++) snprintf(s->name[k], sizeof s->name[0], "%s", name[k]);
    if (make_room(s)) return -1;
    ad_rng rng = ad_rng_seed(seed);
    for (int64_t i = 0; i < count; i++) {
        int64_t k = i % 3;
        double phase = 6.2831853 * ad_rng_uniform(&rng), pace = 1 + 0.25 * ad_rng_normal(&rng),
               size = exp(0.3 * ad_rng_normal(&rng));
        s->class_[i] = (double)k;
        for (int64_t t = 0; t < length; t++) {
            double at = phase + pace * (k == 1 ? 14 : 9) * (double)t / (double)(length - 1);
            double *x = s->x + (i * length + t) * 3, wave = sin(at);
            x[0] = size * wave;
            x[1] = size * (k == 2 ? fabs(cos(at)) : cos(at));
            x[2] = size * 0.5 * sin(2 * at);
            for (int c = 0; c < 3; c++) x[c] += 0.3 * ad_rng_normal(&rng);
        }
    }
    return 0;
}
