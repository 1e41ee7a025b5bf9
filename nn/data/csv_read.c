/* Tables of numbers from text files: lines, fields, columns, rows.
 *
 * The whole file is in memory, and fields are ended by NULs in the text itself, so nothing is
 * copied but numbers. A line is cut at the separator that its first line shows; a field in quotes
 * may hold separators, and a line that ends within quotes is an error. The first line is a header
 * when one of its fields is no number. Which columns are wanted, and what a field of each may be,
 * is decided before the first row is read (plan_columns); what one field means is
 * csv_column.c's. Errors name the file, the line and the column, and the option that reads what the
 * strict reader refuses. */
#include "nn/base/file.h"
#include "nn/data/csv.h"
#include <stdlib.h>
#include <string.h>

/* Where reading stands, and what it has found. Fields are ended by NULs in the text itself. */
typedef struct {
    const char *path;
    const nn_csv_options *options;
    char *error;
    size_t error_size;
    char *at, *end; /* the rest of the text */
    int64_t line;
    char separator; /* ' ' stands for blanks */
    locale_t c_locale;
    char **field;
    bool *quoted;
    int64_t nfield, field_room, first_line, value_room;
    csv_column *column; /* [columns] of the file */
    int64_t columns;
    nn_table *table;
} reader;

typedef enum { LINE, END, FAILED } outcome;

static bool blank(char c) { return c == ' ' || c == '\t'; }

#define FAIL(r, format, ...)                                                                       \
    nn_error((r)->error, (r)->error_size, "%s:%lld: " format, (r)->path, (long long)(r)->line,     \
             __VA_ARGS__)
#define FAIL_MEMORY(r) FAIL(r, "%s", "out of memory")

/* ---- lines and fields ------------------------------------------------------------------------ */

/* Cuts off the next line that is neither empty nor a comment; *start is its first character that is
 * not blank. */
static outcome next_line(reader *r, char **start)
{
    while (r->at < r->end) {
        char *line = r->at, *stop = line;
        while (stop < r->end && *stop != '\n' && *stop != '\r') stop++;
        r->line++;
        r->at = stop;
        if (r->at < r->end && *r->at == '\r') r->at++;
        if (r->at < r->end && *r->at == '\n') r->at++;
        if (memchr(line, 0, (size_t)(stop - line))) {
            FAIL(r, "%s", "there is a zero byte; this is no text file, or one in UTF-16");
            return FAILED;
        }
        while (stop > line && stop[-1] == ' ') stop--;
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

static bool separates(const reader *r, char c)
{
    return r->separator == ' ' ? blank(c) : c == r->separator;
}

/* Takes the quotes off a field that starts with one ("" inside is one quote). Returns what follows
 * it, or NULL on failure. */
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
    for (from++; blank(*from) && !separates(r, *from); from++) {
    }
    if (*from == 0 || separates(r, *from)) return from;
    FAIL(r, "column %lld goes on after its closing quote", (long long)r->nfield + 1);
    return NULL;
}

/* The field at *at, without the blanks around it; *at moves to the next one, or becomes NULL after
 * the last. */
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
    for (stop = field; *stop && !separates(r, *stop); stop++) {
    }
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

/* ---- columns --------------------------------------------------------------------------------- */

/* A header has a field that is neither number nor time, and no number or time that is not in
 * quotes. */
static bool is_header(const reader *r)
{
    bool words = false;
    for (int64_t i = 0; i < r->nfield; i++) {
        double value;
        bool number =
            nn_csv_number(r->c_locale, r->field[i], &value) || nn_csv_time(r->field[i], &value);
        if (number && !r->quoted[i]) return false;
        words = words || !number;
    }
    return words;
}

/* With the columns that there are, as many as fit. */
static int no_such_column(reader *r, const char *name)
{
    char list[240] = "", one[80];
    for (int64_t j = 0; j < r->columns; j++) {
        snprintf(one, sizeof one, "%s'%.60s'", j ? ", " : "", r->field[j]);
        bool fits = strlen(list) + strlen(one) + sizeof ", ..." <= sizeof list;
        strcat(list, fits ? one : ", ...");
        if (!fits) break;
    }
    return FAIL(r, "the header has no column '%.60s'; it has %s", name, list);
}

/* The file's column that the options mean, from 0; -1 with the error. */
static int64_t find_column(reader *r, const nn_csv_column *wanted, bool header)
{
    if (!wanted->name) {
        if (wanted->number >= 1 && wanted->number <= r->columns) return wanted->number - 1;
        return FAIL(r, "there is no column %lld, there are %lld", (long long)wanted->number,
                    (long long)r->columns);
    }
    if (!header)
        return FAIL(r, "there is no header with a column '%.60s'; give the column's number",
                    wanted->name);
    int64_t found = -1;
    for (int64_t j = 0; j < r->columns; j++) {
        if (strcmp(r->field[j], wanted->name) != 0) continue;
        if (found >= 0)
            return FAIL(r, "two columns are called '%.60s'; give the column's number",
                        wanted->name);
        found = j;
    }
    return found >= 0 ? found : no_such_column(r, wanted->name);
}

static int list_classes(reader *r, csv_column *column, const nn_csv_column *wanted)
{
    if (wanted->nclass < 0 || (wanted->nclass > 0 && !wanted->classes)) {
        return FAIL(r, "%s", "options.columns: the list of classes is missing");
    }
    column->listed = wanted->nclass > 0;
    for (int k = 0; k < wanted->nclass; k++) {
        const char *name = wanted->classes[k];
        if (!name) return FAIL(r, "options.columns: class %d is NULL", k);
        int64_t number = nn_names_add(&column->classes, name);
        if (number < 0) return FAIL_MEMORY(r);
        if (number != k) return FAIL(r, "options.columns: class '%.60s' is listed twice", name);
    }
    return 0;
}

/* How each column of the file is read, and where it goes. */
static int plan_columns(reader *r, bool header)
{
    const nn_csv_options *o = r->options;
    enum { UNSEEN = -2, LEFT_OUT = -1 };
    r->column = calloc((size_t)r->nfield, sizeof *r->column);
    if (!r->column) return FAIL_MEMORY(r);
    r->columns = r->nfield;
    for (int64_t j = 0; j < r->columns; j++) r->column[j].target = UNSEEN;
    if (o->nmark < 0 || (o->nmark > 0 && !o->marks)) return FAIL(r, "%s", "options.marks is NULL");
    if (o->nmark > 0 && !o->missing)
        return FAIL(r, "%s", "options.marks are given, but options.missing is not set");
    for (int i = 0; i < o->nmark; i++)
        if (!o->marks[i]) return FAIL(r, "options.marks[%d] is NULL", i);
    if (o->ncolumn < 0 || (o->ncolumn > 0 && !o->columns))
        return FAIL(r, "%s", "options.columns is NULL");
    int64_t next = 0;
    for (int i = 0; i < o->ncolumn; i++) {
        const nn_csv_column *wanted = &o->columns[i];
        int64_t j = find_column(r, wanted, header);
        if (j < 0) return -1;
        csv_column *column = &r->column[j];
        if (column->target != UNSEEN)
            return FAIL(r, "options.columns: column %lld is listed twice", (long long)j + 1);
        if ((unsigned)wanted->kind > NN_SKIP)
            return FAIL(r, "options.columns: column %lld is of no kind", (long long)j + 1);
        column->kind = wanted->kind;
        column->chosen = true;
        column->target = wanted->kind == NN_SKIP ? LEFT_OUT : next++;
        if (wanted->kind == NN_CLASS && list_classes(r, column, wanted)) return -1;
    }
    if (!o->only) next = 0; /* then the file's order counts */
    for (int64_t j = 0; j < r->columns; j++) {
        csv_column *column = &r->column[j];
        if (o->only && column->target == UNSEEN) column->target = LEFT_OUT;
        if (!o->only && column->target != LEFT_OUT) column->target = next++;
    }
    if (next == 0) return FAIL(r, "%s", "no column is to be read");
    r->table->columns = next;
    return 0;
}

static int set_names(reader *r, bool header)
{
    nn_table *t = r->table;
    bool classes = false;
    t->names = calloc((size_t)t->columns, sizeof *t->names);
    if (!t->names) return FAIL_MEMORY(r);
    for (int64_t j = 0; j < r->columns; j++) {
        int64_t to = r->column[j].target;
        if (to < 0) continue;
        t->names[to] = strdup(header ? r->field[j] : "");
        if (!t->names[to]) return FAIL_MEMORY(r);
        classes = classes || r->column[j].kind == NN_CLASS;
    }
    if (!classes) return 0;
    t->classes = calloc((size_t)t->columns, sizeof *t->classes);
    return t->classes ? 0 : FAIL_MEMORY(r);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Why field j is not taken. Long texts are cut. */
static int bad_field(reader *r, int64_t j, csv_verdict verdict)
{
    const char *text = r->field[j];
    const csv_column *c = &r->column[j];
    char what[160];
    const char *name = c->target >= 0 && r->table->names ? r->table->names[c->target] : "";
    snprintf(what, sizeof what, "column %lld of %lld%s%.60s%s", (long long)j + 1,
             (long long)r->columns, *name ? " ('" : "", name, *name ? "')" : "");
    switch (verdict) {
    case CSV_EMPTY: return FAIL(r, "%s is empty (options.missing reads it as NaN)", what);
    case CSV_MISSING:
        return FAIL(r, "%s is a missing value: '%.40s' (options.missing reads it as NaN)", what,
                    text);
    case CSV_TIME:
        return FAIL(r, "%s is a date or a time: '%.40s' (the kinds NN_DAYS and NN_SECONDS read it)",
                    what, text);
    case CSV_COMMA:
        return FAIL(r, "%s is not a number: '%.40s' (a decimal comma? write a point)", what, text);
    case CSV_INFINITE: return FAIL(r, "%s is infinite or too large: '%.40s'", what, text);
    case CSV_NO_TIME:
        return FAIL(r, "%s is no date or time: '%.40s' (2024-01-31, 2024-01-31T06:30, 06:30)", what,
                    text);
    case CSV_NO_CLASS:
        return FAIL(r, "%s is none of the %lld classes listed: '%.40s'", what,
                    (long long)c->classes.count, text);
    case CSV_NO_MEMORY: return FAIL_MEMORY(r);
    default:
        return FAIL(r,
                    "%s is not a number: '%.40s' (the kind NN_CLASS numbers texts, NN_SKIP leaves "
                    "the column out)",
                    what, text);
    }
}

static int check_count(reader *r)
{
    bool ended = r->nfield == r->columns + 1 && !*r->field[r->columns] && !r->quoted[r->columns];
    if (r->nfield == r->columns || (ended && r->options->missing)) return 0;
    const char *advice =
        ended ? " (the last one is empty: with options.missing a separator may end the line)" : "";
    return FAIL(r, "%lld columns, but line %lld has %lld%s", (long long)r->nfield,
                (long long)r->first_line, (long long)r->columns, advice);
}

static int add_row(reader *r)
{
    nn_table *t = r->table;
    if (check_count(r)) return -1;
    int64_t needed = (t->rows + 1) * t->columns;
    if (needed > r->value_room) {
        int64_t room = needed > 512 ? 2 * needed : 1024;
        double *grown = realloc(t->data, (size_t)room * sizeof *grown);
        if (!grown) return FAIL_MEMORY(r);
        t->data = grown;
        r->value_room = room;
    }
    for (int64_t j = 0; j < r->columns; j++) {
        csv_column *c = &r->column[j];
        if (c->target < 0) continue;
        double *cell = &t->data[t->rows * t->columns + c->target];
        csv_verdict verdict =
            nn_csv_field(c, r->c_locale, r->field[j], r->quoted[j], r->options, cell);
        if (verdict != CSV_FINE) return bad_field(r, j, verdict);
    }
    t->rows++;
    return 0;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* A separator at the end of every line makes a last column without a name and without a value. */
static void drop_empty_column(reader *r)
{
    nn_table *t = r->table;
    int64_t last = t->columns - 1;
    const csv_column *c = &r->column[r->columns - 1];
    bool empty =
        r->options->missing && last > 0 && c->target == last && !c->chosen && !*t->names[last];
    for (int64_t i = 0; empty && i < t->rows; i++) empty = isnan(t->data[i * t->columns + last]);
    if (!empty) return;
    for (int64_t i = 0; i < t->rows; i++)
        memmove(t->data + i * last, t->data + i * t->columns, (size_t)last * sizeof *t->data);
    free(t->names[last]);
    t->columns = last;
}

static int read_rows(reader *r, bool header)
{
    char *line;
    outcome got;
    if (plan_columns(r, header) || set_names(r, header) || (!header && add_row(r))) return -1;
    while ((got = next_line(r, &line)) == LINE)
        if (split_line(r, line) || add_row(r)) return -1;
    if (got == FAILED) return -1;
    if (r->table->rows == 0)
        return nn_error(r->error, r->error_size, "%s: there is a header, but no data", r->path);
    for (int64_t j = 0; j < r->columns; j++) {
        csv_column *c = &r->column[j];
        if (c->kind == NN_CLASS && c->target >= 0 && nn_csv_order(c, r->c_locale, r->table))
            return FAIL_MEMORY(r);
    }
    drop_empty_column(r);
    return 0;
}

static int read_table(reader *r)
{
    char *line;
    outcome got = next_line(r, &line);
    if (got == FAILED) return -1;
    if (got == END)
        return nn_error(r->error, r->error_size, "%s: the file is empty, or has only comments",
                        r->path);
    r->separator = find_separator(line);
    r->first_line = r->line;
    if (split_line(r, line)) return -1;
    return read_rows(r, !r->options->no_header && is_header(r));
}

static void clear(reader *r)
{
    for (int64_t j = 0; r->column && j < r->columns; j++) nn_names_clear(&r->column[j].classes);
    free(r->column);
    free(r->field);
    free(r->quoted);
    if (r->c_locale) freelocale(r->c_locale);
}

int nn_read_csv(const char *path, const nn_csv_options *options, nn_table *table, char *error,
                size_t error_size)
{
    static const nn_csv_options strict = { 0 };
    if (!path || !table)
        return nn_error(error, error_size, "nn_read_csv: %s is NULL", path ? "table" : "path");
    *table = (nn_table){ 0 };
    size_t size;
    char *text = nn_read_file(path, &size, error, error_size);
    if (!text) return -1;
    reader r = { .path = path,
                 .error = error,
                 .error_size = error_size,
                 .at = text,
                 .end = text + size,
                 .table = table };
    r.options = options ? options : &strict;
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) r.at += 3;
    r.c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    int result = r.c_locale ? read_table(&r) : FAIL_MEMORY(&r);
    clear(&r);
    free(text);
    if (result) nn_table_clear(table);
    return result;
}
