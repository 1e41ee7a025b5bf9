/* Tables of numbers from text files. */
#define _GNU_SOURCE /* newlocale, strtod_l */
#include "internal.h"
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

/* Where reading stands, and what it has found. Fields are ended by NULs in the text itself. */
typedef struct {
    const char *path;
    char *error;
    size_t error_size;
    char *at, *end; /* the rest of the text */
    int64_t line;
    char separator; /* ' ' stands for blanks */
    locale_t c_locale;
    char **field;
    bool *quoted;
    int64_t nfield, field_room, first_line, value_room;
    nn_table *table;
} reader;

typedef enum { LINE, END, FAILED } outcome;

static bool blank(char c) { return c == ' ' || c == '\t'; }

#define FAIL(r, format, ...) nn_error((r)->error, (r)->error_size, "%s:%lld: " format, (r)->path, (long long)(r)->line, __VA_ARGS__)
#define FAIL_MEMORY(r) FAIL(r, "%s", "out of memory")

/* ---- lines and fields --------------------------------------------------------------------------------------------------------------- */

/* Cuts off the next line that is neither empty nor a comment; *start is its first character that is not blank. */
static outcome next_line(reader *r, char **start)
{
    while (r->at < r->end) {
        char *line = r->at, *stop = memchr(line, '\n', (size_t)(r->end - line));
        r->line++;
        r->at = stop ? stop + 1 : r->end;
        if (!stop) stop = r->end;
        if (memchr(line, 0, (size_t)(stop - line))) {
            FAIL(r, "%s", "there is a zero byte; this is no text file, or one in UTF-16");
            return FAILED;
        }
        while (stop > line && (stop[-1] == '\r' || stop[-1] == ' ')) stop--;
        *stop = 0;
        char *visible = line;
        while (blank(*visible)) visible++;
        if (*visible == 0 || *visible == '#') continue;
        *start = line;
        return LINE;
    }
    return END;
}

/* The first of ; tab , that stands outside quotes; else blanks. */
static char find_separator(const char *line)
{
    bool semicolon = false, tab = false, comma = false, inside = false;
    for (const char *c = line; *c; c++) {
        if (*c == '"') inside = !inside;
        if (inside) continue;
        semicolon = semicolon || *c == ';';
        tab = tab || *c == '\t';
        comma = comma || *c == ',';
    }
    return semicolon ? ';' : tab ? '\t' : comma ? ',' : ' ';
}

static int add_field(reader *r, char *text, bool quoted)
{
    if (r->nfield == r->field_room) {
        int64_t room = r->field_room ? 2 * r->field_room : 16;
        char **field = realloc(r->field, (size_t)room * sizeof *field);
        if (field) r->field = field;
        bool *flags = realloc(r->quoted, (size_t)room * sizeof *flags);
        if (flags) r->quoted = flags;
        if (!field || !flags) return FAIL_MEMORY(r);
        r->field_room = room;
    }
    r->field[r->nfield] = text;
    r->quoted[r->nfield++] = quoted;
    return 0;
}

static bool separates(const reader *r, char c) { return r->separator == ' ' ? blank(c) : c == r->separator; }

/* Takes the quotes off a field that starts with one ("" inside is one quote). Returns what follows it, or NULL on failure. */
static char *unquote(reader *r, char *field)
{
    char *to = field, *from = field + 1;
    while (*from && (*from != '"' || from[1] == '"')) {
        if (*from == '"') from++;
        *to++ = *from++;
    }
    if (*from != '"') {
        FAIL(r, "a quote in column %lld is not closed on the line", (long long)r->nfield + 1);
        return NULL;
    }
    *to = 0;
    for (from++; blank(*from) && !separates(r, *from); from++) {}
    if (*from == 0 || separates(r, *from)) return from;
    FAIL(r, "column %lld goes on after its closing quote", (long long)r->nfield + 1);
    return NULL;
}

/* The field at *at, without the blanks around it; *at moves to the next one, or becomes NULL after the last. */
static int split_field(reader *r, char **at)
{
    char *field = *at, *stop;
    while (blank(*field) && !separates(r, *field)) field++;
    if (*field == '"') {
        stop = unquote(r, field);
        if (!stop) return -1;
        *at = *stop ? stop + 1 : NULL;
        return add_field(r, field, true);
    }
    for (stop = field; *stop && !separates(r, *stop); stop++) {}
    *at = *stop ? stop + 1 : NULL;
    while (stop > field && blank(stop[-1])) stop--;
    *stop = 0;
    return add_field(r, field, false);
}

static int split_line(reader *r, char *line)
{
    r->nfield = 0;
    char *at = line;
    while (at) {
        if (r->separator == ' ') {
            while (blank(*at)) at++;
            if (!*at) break;
        }
        if (split_field(r, &at)) return -1;
    }
    return 0;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------------------------ */

/* Whether the field is a number that strtod knows (NaN and infinities too), and which. Hexadecimal ones are left to programmers. */
static bool parse(const reader *r, const char *field, double *value)
{
    char *stop;
    if (strchr(field, 'x') || strchr(field, 'X')) return false;
    *value = strtod_l(field, &stop, r->c_locale);
    return stop > field && *stop == 0;
}

/* A header has a field that is no number, and no bare number. */
static bool is_header(const reader *r)
{
    bool words = false;
    double value;
    for (int64_t i = 0; i < r->nfield; i++) {
        bool number = parse(r, r->field[i], &value);
        if (number && !r->quoted[i]) return false;
        words = words || !number;
    }
    return words;
}

/* Why field j is not taken. Long ones are cut. */
static int bad_field(reader *r, int64_t j, double value, bool number)
{
    const char *text = r->field[j];
    long long column = (long long)j + 1, columns = (long long)r->nfield;
    if (!*text) return FAIL(r, "column %lld of %lld is empty", column, columns);
    if (number && isnan(value))
        return FAIL(r, "column %lld of %lld is not a number: '%.40s' (leave out rows with missing values)", column, columns, text);
    if (number) return FAIL(r, "column %lld of %lld is infinite or too large: '%.40s'", column, columns, text);
    const char *hint = strchr(text, ',') ? " (a decimal comma? write a point)" : "";
    return FAIL(r, "column %lld of %lld is not a number: '%.40s'%s", column, columns, text, hint);
}

static int add_row(reader *r)
{
    nn_table *t = r->table;
    if (r->nfield != t->columns) {
        return FAIL(r, "%lld columns, but line %lld has %lld", (long long)r->nfield, (long long)r->first_line, (long long)t->columns);
    }
    int64_t needed = (t->rows + 1) * t->columns;
    if (needed > r->value_room) {
        int64_t room = needed > 512 ? 2 * needed : 1024;
        double *grown = realloc(t->data, (size_t)room * sizeof *grown);
        if (!grown) return FAIL_MEMORY(r);
        t->data = grown;
        r->value_room = room;
    }
    for (int64_t j = 0; j < r->nfield; j++) {
        double value = 0;
        bool number = parse(r, r->field[j], &value);
        if (!number || !isfinite(value)) return bad_field(r, j, value, number);
        t->data[t->rows * t->columns + j] = value;
    }
    t->rows++;
    return 0;
}

/* ---- the table ---------------------------------------------------------------------------------------------------------------------- */

static int set_names(reader *r, bool header)
{
    nn_table *t = r->table;
    t->names = calloc((size_t)r->nfield, sizeof *t->names);
    if (!t->names) return FAIL_MEMORY(r);
    t->columns = r->nfield;
    for (int64_t j = 0; j < r->nfield; j++) {
        t->names[j] = strdup(header ? r->field[j] : "");
        if (!t->names[j]) return FAIL_MEMORY(r);
    }
    return 0;
}

static int read_table(reader *r)
{
    char *line;
    outcome got = next_line(r, &line);
    if (got == FAILED) return -1;
    if (got == END) return nn_error(r->error, r->error_size, "%s: the file is empty, or has only comments", r->path);
    r->separator = find_separator(line);
    r->first_line = r->line;
    if (split_line(r, line)) return -1;
    bool header = is_header(r);
    if (set_names(r, header) || (!header && add_row(r))) return -1;
    while ((got = next_line(r, &line)) == LINE)
        if (split_line(r, line) || add_row(r)) return -1;
    if (got == FAILED) return -1;
    if (r->table->rows == 0) return nn_error(r->error, r->error_size, "%s: there is a header, but no data", r->path);
    return 0;
}

int nn_read_csv(const char *path, nn_table *table, char *error, size_t error_size)
{
    if (!path || !table) return nn_error(error, error_size, "nn_read_csv: %s is NULL", path ? "table" : "path");
    *table = (nn_table){ 0, 0, NULL, NULL };
    size_t size;
    char *text = nn_read_file(path, &size, error, error_size);
    if (!text) return -1;
    reader r = { .path = path, .error = error, .error_size = error_size, .at = text, .end = text + size, .table = table };
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) r.at += 3;
    r.c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    int result = r.c_locale ? read_table(&r) : FAIL_MEMORY(&r);
    if (r.c_locale) freelocale(r.c_locale);
    free(r.field);
    free(r.quoted);
    free(text);
    if (result) nn_table_clear(table);
    return result;
}
